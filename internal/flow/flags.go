package flow

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/policy"
)

// flagDocument makes a policy of the command line. It goes through the same
// reader as a file, so that the same things are refused in the same words.
func flagDocument(o Options, p place) (*policy.Document, error) {
	paths := func(list []string) []string {
		var out []string
		for _, s := range list {
			out = append(out, fromHere(s, p.dir))
		}
		return out
	}
	doc := map[string]any{}
	fs := map[string]any{}
	for _, f := range []struct {
		key  string
		list []string
	}{{"allowRead", o.AllowRead}, {"allowWrite", o.AllowWrite}, {"denyRead", o.DenyRead}, {"denyWrite", o.DenyWrite}} {
		if len(f.list) > 0 {
			fs[f.key] = paths(f.list)
		}
	}
	if len(fs) > 0 {
		doc["filesystem"] = fs
	}
	net := map[string]any{}
	if len(o.AllowDomains) > 0 {
		net["allowedDomains"] = o.AllowDomains
	}
	if len(o.AllowCIDRs) > 0 {
		net["allowedCIDRs"] = o.AllowCIDRs
	}
	if len(o.TunnelDomains) > 0 {
		net["tunnelDomains"] = o.TunnelDomains
	}
	if o.Ask {
		net["unlisted"] = policy.Ask
	}
	if len(net) > 0 {
		doc["network"] = net
	}
	if len(o.Env) > 0 {
		allow, set := []string{}, map[string]string{}
		for _, e := range o.Env {
			if name, value, ok := strings.Cut(e, "="); ok {
				set[name] = value
			} else {
				allow = append(allow, e)
			}
		}
		doc["environment"] = map[string]any{"allow": allow, "set": set}
	}
	if len(o.Mask) > 0 {
		var vars []map[string]any
		for _, m := range o.Mask {
			name, hosts, given := strings.Cut(m, "=")
			v := map[string]any{"name": name, "mode": "mask"}
			if given {
				v["hosts"] = strings.Split(hosts, ",")
			}
			vars = append(vars, v)
		}
		doc["credentials"] = map[string]any{"envVars": vars}
	}
	if o.Boundary != "" {
		doc["boundary"] = o.Boundary
	}
	if o.Mode != "" {
		doc["workspace"] = map[string]any{"mode": o.Mode}
	}
	if o.Timeout != "" {
		doc["resources"] = map[string]any{"timeout": o.Timeout}
	}
	if o.AllowRoot {
		doc["identity"] = map[string]any{"allowRoot": true}
	}
	if len(doc) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	parsed, err := policy.Parse("command line", text)
	var ps policy.Problems
	if errors.As(err, &ps) && len(ps) > 0 {
		return nil, &UsageError{Text: ps[0].Key + ": " + ps[0].Text, Hint: ps[0].Hint}
	}
	return parsed, err
}

// fromHere makes a pattern of the command line absolute: there, relative means from
// the working directory, as for every other program. What that is called is not
// meant as a pattern.
func fromHere(s, dir string) string {
	if s == "" || filepath.IsAbs(s) || s == "~" || strings.HasPrefix(s, "~/") {
		return s
	}
	if glob.HasMeta(s) {
		return glob.Escape(dir) + "/" + s
	}
	return glob.Escape(filepath.Join(dir, s))
}
