package policy

import (
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// Effects of NetRule.
const (
	Allow = "allow"
	Deny  = "deny"
	Ask   = "ask"
)

// effect is what the rule says, or its default.
func (r RequestRule) effect() string {
	if r.Effect == nil {
		return Allow
	}
	return r.Effect.V
}

// only is what the lists narrow the rule to; nil without any.
func (r RequestRule) only() *plan.Requests {
	o := plan.Requests{Methods: bare(r.Methods), Paths: bare(r.Paths), Refs: bare(r.Refs)}
	for _, list := range []struct {
		key    string
		values []Val[string]
	}{{"git", r.Git}, {"packages", r.Packages}, {"uploads", r.Uploads}} {
		for _, v := range list.values {
			o.Acts = append(o.Acts, decide.Act(list.key, v.V))
		}
	}
	if len(o.Methods)+len(o.Paths)+len(o.Acts)+len(o.Refs) == 0 {
		return nil
	}
	return &o
}

func bare(list []Val[string]) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.V)
	}
	return out
}

func (r RequestRule) net(o plan.Origin) NetRule {
	n := NetRule{Key: "rules", Value: r.Host.V, Effect: r.effect(), Only: r.only(), Origin: o}
	if r.TLS != nil {
		n.TLS = r.TLS.V
	}
	if r.Reason != nil {
		n.Reason = r.Reason.V
	}
	return n
}

// Text is the rule in one line, without its reason.
func (r NetRule) Text() string {
	text := r.Key + " " + r.Value
	if r.Key != "rules" {
		return text
	}
	text += " " + r.Effect
	if r.TLS != "" {
		text += ", tls " + r.TLS
	}
	if r.Only == nil {
		return text
	}
	list := func(key string, values []string) {
		if len(values) > 0 {
			text += ", " + key + " " + strings.Join(values, " ")
		}
	}
	list("methods", r.Only.Methods)
	list("paths", r.Only.Paths)
	for _, key := range []string{"git", "packages", "uploads"} {
		var values []string
		for _, a := range r.Only.Acts {
			if k, v := decide.Words(a); k == key {
				values = append(values, v)
			}
		}
		list(key, values)
	}
	list("refs", r.Only.Refs)
	return text
}

// requestRules reports what is wrong with rules whose single values are right.
func (d *decoder) requestRules(rules []RequestRule) {
	for i, r := range rules {
		bad := func(v Val[string], key, text, hint string) {
			if len(d.problems) < maxProblems {
				d.problems = append(d.problems, Problem{File: d.file, Line: v.Pos.Line, Col: v.Pos.Col, Key: fmt.Sprintf("network.rules[%d].%s", i, key), Text: text, Hint: hint})
			}
		}
		if r.Host.V == "" {
			continue // reported already
		}
		h := splitHost(r.Host.V)
		switch r.effect() {
		case Allow:
			if text, hint := leaves["domain"].checkString(r.Host.V); text != "" {
				bad(r.Host, "host", text, hint)
			}
		case Ask:
			if h.All {
				bad(r.Host, "host", "every host is no host to ask about", `write "unlisted": "ask"`)
			} else if text, hint := leaves["domain"].checkString(r.Host.V); text != "" && h.Addr.IsValid() {
				bad(r.Host, "host", text, hint)
			}
		}
		only := r.only()
		if r.TLS != nil && r.TLS.V == "tunnel" && only != nil {
			bad(*r.TLS, "tls", "in a tunnel nobody sees requests, so there is nothing to choose by", "take the lists out, or the tunnel")
		}
		if r.TLS != nil && r.TLS.V == "tunnel" && r.effect() != Allow {
			bad(*r.TLS, "tls", "only what is allowed can be a tunnel", "")
		}
		r.badBudget(bad)
		if len(r.Refs) > 0 && !slices.Contains(bare(r.Git), "push") {
			bad(r.Refs[0], "refs[0]", "refs are what a push changes, and the rule speaks of no push", `write "git": ["push"] beside it`)
		}
	}
}
