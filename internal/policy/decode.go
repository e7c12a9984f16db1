package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

const (
	// maxFile bounds a policy file; a real one has a few kilobytes.
	maxFile = 1 << 20
	// maxNesting bounds objects in objects, before a recursive parser sees
	// them. The format itself has four.
	maxNesting = 64
	// maxProblems ends the list for a file that isn't a policy at all.
	maxProblems = 50
)

// retired has keys that the format once had, and what to write instead.
var retired = map[string]string{}

// foreign has keys of other tools that people will try here.
var foreign = map[string]string{
	"sandbox":                  "this is the shape of a Claude Code settings file; put the content of \"sandbox\" at the top, or name the file with --policy",
	"permissions":              "permission rules are not read here; a Claude Code settings file can be named with --policy",
	"enabled":                  "the boundary is always on",
	"allowUnsandboxedCommands": "nothing ever runs outside the boundary",
	"excludedCommands":         "nothing ever runs outside the boundary",
}

// Parse reads one policy file in our format. The file name is for messages.
// All that is wrong is reported at once, as Problems.
func Parse(file string, data []byte) (*Document, error) {
	t, err := parseTree(file, data)
	if err != nil {
		return nil, err
	}
	d := &decoder{tree: t}
	var doc Document
	d.value(reflect.ValueOf(&doc).Elem(), &t.root, "", "")
	d.requestRules(doc.Network.Rules)
	d.masks(doc.Credentials)
	if err := d.problems.err(); err != nil {
		return nil, err
	}
	return &doc, nil
}

// tree is a file that is JSON with comments, and its lines.
type tree struct {
	file string
	data []byte
	root hujson.Value
}

var hujsonPlace = lazily(`^hujson: line (\d+), column (\d+): `)

func parseTree(file string, data []byte) (*tree, error) {
	whole := func(text, hint string) error { return Problems{{File: file, Text: text, Hint: hint}} }
	t := &tree{file: file, data: data}
	if len(data) > maxFile {
		return nil, whole("more than 1 MiB: not a policy file", "")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	t.data = data
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, Problems{t.problem(i, "", "a NUL character: not a text file", "")}
	}
	if !utf8.Valid(data) {
		i := 0
		for i < len(data) {
			r, size := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			i += size
		}
		return nil, Problems{t.problem(i, "", "not UTF-8", "")}
	}
	if i := tooDeep(data); i >= 0 {
		return nil, Problems{t.problem(i, "", fmt.Sprintf("more than %d brackets deep", maxNesting), "")}
	}
	// hujson.Parse takes slices of its input apart; it doesn't change them.
	root, err := hujson.Parse(data)
	if err != nil {
		return nil, Problems{t.syntax(err)}
	}
	t.root = root
	return t, nil
}

// syntax makes a problem of a parser's error, which names its place in words.
func (t *tree) syntax(err error) Problem {
	p := Problem{File: t.file, Text: err.Error()}
	if m := hujsonPlace.get().FindStringSubmatch(p.Text); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Col, _ = strconv.Atoi(m[2])
		p.Text = strings.TrimPrefix(p.Text, m[0])
	}
	switch {
	case len(bytes.TrimSpace(t.data)) == 0:
		return Problem{File: t.file, Text: "an empty file", Hint: "an empty policy is {}"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		p.Text = "the file ends in the middle"
		p.Hint = `a "}", "]" or quote is missing`
	}
	return p
}

// tooDeep returns where the nesting passes the bound, or -1. It knows strings
// and comments, nothing else; the parser finds what is wrong with the rest.
func tooDeep(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; i < len(data) && data[i] != '"' && data[i] != '\n'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '/':
			end := ""
			switch {
			case bytes.HasPrefix(data[i:], []byte("//")):
				end = "\n"
			case bytes.HasPrefix(data[i:], []byte("/*")):
				end = "*/"
			default:
				continue
			}
			n := bytes.Index(data[i+2:], []byte(end))
			if n < 0 {
				return -1
			}
			i += 2 + n + len(end) - 1
		case '{', '[':
			if depth++; depth > maxNesting {
				return i
			}
		case '}', ']':
			depth--
		}
	}
	return -1
}

// pos turns an offset into a line and a column in characters.
func (t *tree) pos(offset int) Pos {
	offset = min(max(offset, 0), len(t.data))
	before := t.data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return Pos{Line: bytes.Count(before, []byte("\n")) + 1, Col: utf8.RuneCount(before[start:]) + 1}
}

func (t *tree) problem(offset int, key, text, hint string) Problem {
	p := t.pos(offset)
	return Problem{File: t.file, Line: p.Line, Col: p.Col, Key: key, Text: text, Hint: hint}
}

// decoder walks a tree along the types of a Document.
type decoder struct {
	*tree
	problems Problems
}

func (d *decoder) report(v *hujson.Value, key, text, hint string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, d.problem(v.StartOffset, key, text, hint))
	}
}

// value decodes v into target. is names the leaf; key is for messages.
func (d *decoder) value(target reflect.Value, v *hujson.Value, key, is string) {
	switch target.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(target.Type().Elem())
		d.value(fresh.Elem(), v, key, is)
		target.Set(fresh)
		return
	case reflect.Slice:
		d.list(target, v, key, is)
		return
	}
	switch to := target.Addr().Interface().(type) {
	case *Val[string]:
		d.text(to, v, key, is)
	case *Val[bool]:
		d.flag(to, v, key, is)
	case *Val[float64]:
		d.number(to, v, key, is)
	default:
		d.object(target, v, key)
	}
}

// kindName is what a person calls the value.
func kindName(v *hujson.Value) string {
	switch v.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 't', 'f':
		return "true or false"
	}
	return "null"
}

func (d *decoder) text(to *Val[string], v *hujson.Value, key, is string) {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		hint := ""
		switch {
		case is == "size" && kindName(v) == "a number":
			hint = `write the unit: "8GiB"`
		case is == "duration" && kindName(v) == "a number":
			hint = `write the unit: "30m"`
		case is == "budgetSize" && kindName(v) == "a number":
			hint = `write the unit: "10MiB", or "10MiB/1h"`
		case is == "budgetCount" && kindName(v) == "a number":
			hint = `in quotes: "100", or "100/1m"`
		}
		d.report(v, key, "a string is wanted here, not "+kindName(v), hint)
		return
	}
	s := lit.String()
	if text, hint := leaves[is].checkString(s); text != "" {
		d.report(v, key, text, hint)
		return
	}
	*to = Val[string]{V: s, Pos: d.pos(v.StartOffset)}
}

func (d *decoder) flag(to *Val[bool], v *hujson.Value, key, is string) {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || (lit.Kind() != 't' && lit.Kind() != 'f') {
		hint := ""
		if ok && lit.Kind() == '"' && (lit.String() == "true" || lit.String() == "false") {
			hint = "without quotes"
		}
		d.report(v, key, "true or false is wanted here, not "+kindName(v), hint)
		return
	}
	if must := leaves[is].must; must != nil && lit.Bool() != *must {
		d.report(v, key, fmt.Sprintf("can't be %v: a command never runs without its boundary; if something is missing, nothing starts", lit.Bool()),
			"leave the key out")
		return
	}
	*to = Val[bool]{V: lit.Bool(), Pos: d.pos(v.StartOffset)}
}

func (d *decoder) number(to *Val[float64], v *hujson.Value, key, is string) {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit.Kind() != '0' {
		d.report(v, key, "a number is wanted here, not "+kindName(v), "")
		return
	}
	n, err := strconv.ParseFloat(string(lit), 64)
	if err != nil {
		d.report(v, key, fmt.Sprintf("%s is out of range", quote(string(lit))), "")
		return
	}
	if text, hint := leaves[is].checkNumber(n); text != "" {
		d.report(v, key, text, hint)
		return
	}
	*to = Val[float64]{V: n, Pos: d.pos(v.StartOffset)}
}

func (d *decoder) list(target reflect.Value, v *hujson.Value, key, is string) {
	arr, ok := v.Value.(*hujson.Array)
	if !ok {
		hint := ""
		if kindName(v) == "a string" {
			hint = "put it in brackets: [" + string(v.Value.(hujson.Literal)) + "]"
		}
		d.report(v, key, "a list is wanted here, not "+kindName(v), hint)
		return
	}
	for i := range arr.Elements {
		e := &arr.Elements[i]
		item := reflect.New(target.Type().Elem()).Elem()
		d.value(item, e, fmt.Sprintf("%s[%d]", key, i), is)
		target.Set(reflect.Append(target, item))
	}
}

// members calls each for every member, names checked to be there once.
func (d *decoder) members(v *hujson.Value, key string, each func(name string, nameAt, value *hujson.Value)) bool {
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		d.report(v, key, "an object is wanted here, not "+kindName(v), "")
		return false
	}
	seen := map[string]int{}
	for i := range obj.Members {
		m := &obj.Members[i]
		name := m.Name.Value.(hujson.Literal).String()
		if line, twice := seen[name]; twice {
			d.report(&m.Name, join(key, name), "this key is here twice", fmt.Sprintf("the first is in line %d", line))
			continue
		}
		seen[name] = d.pos(m.Name.StartOffset).Line
		each(name, &m.Name, &m.Value)
	}
	return true
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func (d *decoder) object(target reflect.Value, v *hujson.Value, key string) {
	t := target.Type()
	fields := map[string]int{}
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields[name] = i
		names = append(names, name)
	}
	var got []string
	ok := d.members(v, key, func(name string, nameAt, value *hujson.Value) {
		i, known := fields[name]
		if !known {
			text, hint := unknownKey(key, name, names)
			d.report(nameAt, join(key, name), text, hint)
			return
		}
		got = append(got, name)
		f := t.Field(i)
		if a, isList := value.Value.(*hujson.Array); isList && len(a.Elements) == 0 && f.Tag.Get("some") != "" {
			d.report(value, join(key, name), "an empty list, which no request fits", "leave the key out for all of them")
			return
		}
		if f.Type.Kind() == reflect.Map {
			d.table(target.Field(i), value, join(key, name), f.Tag)
			return
		}
		d.value(target.Field(i), value, join(key, name), f.Tag.Get("is"))
	})
	for i := range t.NumField() {
		if ok && t.Field(i).Tag.Get("need") != "" && !slices.Contains(got, names[i]) {
			d.report(v, key, fmt.Sprintf("%q is missing", names[i]), "")
		}
	}
}

func (d *decoder) table(target reflect.Value, v *hujson.Value, key string, tag reflect.StructTag) {
	table := map[string]Val[string]{}
	d.members(v, key, func(name string, nameAt, value *hujson.Value) {
		if text, hint := leaves[tag.Get("key")].checkString(name); text != "" {
			d.report(nameAt, key, text, hint)
			return
		}
		var item Val[string]
		d.text(&item, value, join(key, name), tag.Get("is"))
		table[name] = item
	})
	if len(table) > 0 {
		target.Set(reflect.ValueOf(table))
	}
}

// unknownKey is the text for a key that isn't in names; key is its parent.
func unknownKey(key, name string, names []string) (text, hint string) {
	if how, ok := retired[join(key, name)]; ok {
		return "this key is no longer used", how
	}
	if n := nearest(name, names); n != "" {
		return "unknown key", fmt.Sprintf("did you mean %q?", n)
	}
	if how, ok := foreign[name]; ok && key == "" {
		return "unknown key", how
	}
	if parent := parentOf(name); parent != "" && parent != key {
		return "unknown key", fmt.Sprintf("%q belongs in %q", name, parent)
	}
	if key == "" {
		return "unknown key", "known are " + strings.Join(names, ", ")
	}
	return "unknown key", fmt.Sprintf("known in %q are %s", key, strings.Join(names, ", "))
}

// parentOf returns the section that has a key of this name, or "".
func parentOf(name string) string {
	t := reflect.TypeFor[Document]()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		for j := range f.Type.NumField() {
			if n, _, _ := strings.Cut(f.Type.Field(j).Tag.Get("json"), ","); n == name {
				section, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				return section
			}
		}
	}
	return ""
}

// standard returns the tree's bytes as plain JSON.
func (t *tree) standard() []byte {
	v := t.root.Clone()
	v.Standardize()
	return v.Pack()
}

var _ json.Marshaler = Val[string]{}
