package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// Remember returns a policy file that allows what the rule allows, besides what the
// file says already: nothing of it is changed but the list that gets longer, so that
// comments and the person's own layout stay. An empty file becomes a policy. What
// comes out has been read again by Parse, and says as much more as it should.
func Remember(file string, data []byte, r plan.NetRule) ([]byte, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}\n")
	}
	before, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	key, value, err := entry(r)
	if err != nil {
		return nil, err
	}
	if host, ok := value.(string); ok && slices.ContainsFunc(slices.Concat(before.Network.AllowedDomains, before.Network.AllowedCIDRs), func(v Val[string]) bool { return v.V == host }) {
		return data, nil // said already
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	t, err := parseTree(file, data)
	if err != nil {
		return nil, err
	}
	bom := len(data) - len(t.data)
	out, err := t.insert(key, text)
	if err != nil {
		return nil, err
	}
	out = append(data[:bom:bom], out...)
	after, err := Parse(file, out)
	if err != nil {
		return nil, err
	}
	if !oneMore(before, after, key) {
		return nil, Problems{{File: file, Text: "it can't be extended by a program as it is written; add to network." + key + ": " + string(text)}}
	}
	return out, nil
}

// entry is a rule as an element of a list of the network object.
func entry(r plan.NetRule) (key string, value any, err error) {
	if !r.Allow || r.Tunnel || r.Port == 0 {
		return "", nil, fmt.Errorf("not what a person has allowed")
	}
	host, list := r.Name, "allowedDomains"
	if r.Prefix != "" {
		host, list = r.Prefix, "allowedCIDRs"
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	}
	host += ":" + strconv.Itoa(r.Port)
	if r.Only == nil {
		return list, host, nil
	}
	if r.Prefix != "" {
		// The host of a rule is one address, without its length.
		address, _, _ := strings.Cut(r.Prefix, "/")
		if strings.Contains(address, ":") {
			address = "[" + address + "]"
		}
		host = address + ":" + strconv.Itoa(r.Port)
	}
	rule := struct {
		Host     string   `json:"host"`
		Methods  []string `json:"methods,omitempty"`
		Paths    []string `json:"paths,omitempty"`
		Git      []string `json:"git,omitempty"`
		Refs     []string `json:"refs,omitempty"`
		Packages []string `json:"packages,omitempty"`
		Uploads  []string `json:"uploads,omitempty"`
	}{Host: host, Methods: r.Only.Methods, Paths: r.Only.Paths, Refs: r.Only.Refs}
	for _, act := range r.Only.Acts {
		key, word := decide.Words(act)
		switch key {
		case "git":
			rule.Git = append(rule.Git, word)
		case "packages":
			rule.Packages = append(rule.Packages, word)
		case "uploads":
			rule.Uploads = append(rule.Uploads, word)
		default:
			return "", nil, fmt.Errorf("no policy has a word for %s", quote(act))
		}
	}
	return "rules", rule, nil
}

// oneMore compares the documents: one list of network is longer by one, and nothing
// else differs.
func oneMore(before, after *Document, key string) bool {
	b, a := plainly(before), plainly(after)
	network, _ := a["network"].(map[string]any)
	list, _ := network[key].([]any)
	if len(list) == 0 {
		return false
	}
	network[key] = list[:len(list)-1]
	for _, m := range []map[string]any{a, b} {
		if network, _ := m["network"].(map[string]any); network != nil {
			if list, _ := network[key].([]any); len(list) == 0 {
				delete(network, key)
			}
			if len(network) == 0 {
				delete(m, "network")
			}
		}
	}
	return reflect.DeepEqual(a, b)
}

// plainly is a document without the places; nil, which is no document, if it can't be had.
func plainly(d *Document) (m map[string]any) {
	text, err := json.Marshal(d)
	if err != nil || json.Unmarshal(text, &m) != nil {
		return nil
	}
	return m
}

// insert puts an element at the end of a list of the network object, which is made if
// it is not there.
func (t *tree) insert(key string, element []byte) ([]byte, error) {
	t.root.UpdateOffsets()
	root, ok := t.root.Value.(*hujson.Object)
	if !ok {
		return nil, fmt.Errorf("not an object")
	}
	list := fmt.Appendf(nil, "%s: [%s]", strconv.Quote(key), element)
	network := memberOf(root, "network")
	if network == nil {
		return t.add(&t.root, lastMember(root), root.AfterExtra, fmt.Appendf(nil, `"network": {%s}`, list)), nil
	}
	object, ok := network.Value.(*hujson.Object)
	if !ok {
		return nil, fmt.Errorf("network is not an object")
	}
	at := memberOf(object, key)
	if at == nil {
		return t.add(network, lastMember(object), object.AfterExtra, list), nil
	}
	array, ok := at.Value.(*hujson.Array)
	if !ok {
		return nil, fmt.Errorf("network.%s is not a list", key)
	}
	var last *hujson.Value
	if n := len(array.Elements); n > 0 {
		last = &array.Elements[n-1]
	}
	return t.add(at, last, array.AfterExtra, element), nil
}

func memberOf(o *hujson.Object, name string) *hujson.Value {
	for i := range o.Members {
		if l, ok := o.Members[i].Name.Value.(hujson.Literal); ok && l.String() == name {
			return &o.Members[i].Value
		}
	}
	return nil
}

func lastMember(o *hujson.Object) *hujson.Value {
	if n := len(o.Members); n > 0 {
		return &o.Members[n-1].Value
	}
	return nil
}

// add puts text at the end of an object or array, after its comments: on a line of its
// own, as deep as the one before, if the end is on one.
func (t *tree) add(v, last *hujson.Value, extra hujson.Extra, text []byte) []byte {
	end := v.EndOffset - 1 // the bracket
	var out []byte
	if last == nil {
		between := bytes.TrimRight(t.data[end-len(extra):end], " \t\r\n")
		out = append(out, t.data[:end-len(extra)]...)
		out = append(out, between...)
		if len(between) == 0 && !bytes.Contains(extra, []byte("\n")) && v != &t.root {
			return append(append(out, text...), t.data[end:]...)
		}
		outer := t.indent(end)
		return append(append(append(out, "\n"+outer+"  "...), text...), append([]byte("\n"+outer), t.data[end:]...)...)
	}
	out = append(out, t.data[:last.EndOffset]...)
	out = append(out, ',')
	// What stands between the last one and the bracket: comments, and perhaps a comma.
	between := t.data[last.EndOffset:end]
	if last.AfterExtra != nil {
		between = append(append([]byte{}, last.AfterExtra...), extra...)
	}
	if bytes.Contains(between, []byte("\n")) {
		out = append(out, bytes.TrimRight(between, " \t\r\n")...)
		out = append(out, "\n"+t.indent(last.StartOffset)...)
		out = append(out, text...)
		if last.AfterExtra != nil {
			out = append(out, ',')
		}
		out = append(out, "\n"+t.indent(end)...)
		return append(out, t.data[end:]...)
	}
	out = append(out, bytes.TrimRight(between, " \t")...)
	out = append(out, ' ')
	out = append(out, text...)
	out = append(out, t.data[end-trailing(t.data[:end]):]...)
	return out
}

// trailing counts the blanks at the end of b.
func trailing(b []byte) int { return len(b) - len(bytes.TrimRight(b, " \t")) }

// indent is the white space at the start of the line of an offset.
func (t *tree) indent(offset int) string {
	line := t.data[bytes.LastIndexByte(t.data[:offset], '\n')+1:]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}
