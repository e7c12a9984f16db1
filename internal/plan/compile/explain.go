package compile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// Explanation says which rule decides a question, and what would change it.
type Explanation struct {
	Kind    string      `json:"kind"` // "read", "write", "env", "connect", "request"
	Subject string      `json:"subject"`
	Allowed bool        `json:"allowed"`
	Ask     bool        `json:"ask,omitempty"` // a person decides, when it comes
	Text    string      `json:"text"`
	Rule    string      `json:"rule,omitempty"`
	Origin  plan.Origin `json:"origin,omitzero"`
	Reason  string      `json:"reason,omitempty"`
	Change  string      `json:"change,omitempty"`
	// Lost are rules for the same path that did not decide, the nearest first.
	Lost []policy.PathRule `json:"lost,omitempty"`
	// Budgets count what is allowed.
	Budgets []Budget `json:"budgets,omitempty"`
}

// Budget is one of the policy's, as it is told.
type Budget struct {
	Text   string      `json:"text"`
	Origin plan.Origin `json:"origin,omitzero"`
}

// Explain answers one question about a policy with the code that makes plans. A
// path subject is absolute; what is said of it holds for a file that is there.
func Explain(eff *policy.Effective, f *host.Facts, workspace, kind, subject string, environ ...string) (Explanation, error) {
	e := Explanation{Kind: kind, Subject: subject}
	c := &compiler{in: Input{Policy: eff, Facts: f, Workspace: workspace, Environ: environ}, p: &plan.Plan{}}
	switch kind {
	case "read", "write":
		c.explainPath(&e)
	case "env":
		c.explainEnv(&e)
	case "connect":
		if err := c.explainConnect(&e); err != nil {
			return e, err
		}
	case "request":
		if err := c.explainRequest(&e); err != nil {
			return e, err
		}
	default:
		return e, fmt.Errorf("%q can't be explained: read, write, env, connect and request can", kind)
	}
	return e, nil
}

func (e *Explanation) by(text, reason string, o plan.Origin) {
	e.Rule, e.Reason, e.Origin = text, reason, o
}

func (c *compiler) explainPath(e *Explanation) {
	c.rules()
	p := path.Clean(e.Subject)
	if fact, ok := c.in.Facts.Paths[p]; ok && fact.Real != "" {
		p = fact.Real
	}
	c.match(p)
	read, write := c.deciding(p)
	a := c.decide(p)
	switch {
	case c.own(p) || covers("/tmp", p) || covers("/var/tmp", p) || covers("/run", p):
		if read == nil {
			e.Allowed = covers("/tmp", p) || covers("/var/tmp", p) || covers("/dev", p) || covers("/proc", p)
			e.Text = "the inside has one of its own there; the host's is not visible"
			return
		}
	}
	decider, writing := read, e.Kind == "write" && a.read
	if writing {
		decider = write
	}
	e.Allowed = a.read && (e.Kind == "read" || a.write && !c.masked(p))
	verb := map[string]string{"read": "read", "write": "written"}[e.Kind]
	switch {
	case e.Allowed && c.masked(p):
		e.Text = p + " can be read, and has a placeholder where the secret is"
		for _, m := range c.in.Policy.Masks {
			if m.Path == path.Clean(e.Subject) || m.Path == p {
				e.Text += "; the real value is put into requests to " + strings.Join(m.Hosts, ", ")
			}
		}
	case e.Allowed:
		e.Text = p + " can be " + verb
		if e.Kind == "write" && c.copies() && covers(c.in.Workspace, p) {
			e.Text += ", in the copy of the project that a run works in"
		}
	case decider == nil:
		e.Text = p + " can't be " + verb + ": no rule speaks of it, and what nobody allowed is not there inside"
	default:
		e.Text = p + " can't be " + verb
	}
	if decider != nil {
		e.by(string(decider.Access)+" "+decider.Text, decider.Reason, decider.Origin)
		e.Lost = c.lost(p, decider, writing)
	}
	name := p
	if rel, ok := strings.CutPrefix(p, c.in.Workspace+"/"); ok {
		name = "./" + rel
	} else if rel, ok := strings.CutPrefix(p, c.in.Facts.Home+"/"); ok {
		name = "~/" + rel
	}
	key := map[string]string{"read": "Read", "write": "Write"}[e.Kind]
	if e.Allowed {
		e.Change = fmt.Sprintf(`"filesystem": {"deny%s": [%q]} in a policy, or --deny-%s %s`, key, name, e.Kind, name)
		return
	}
	if decider != nil && decider.Origin.Layer == Own {
		e.Change = "nothing: these are cofferdam's own records"
		return
	}
	if decider != nil && decider.Origin.Layer == "managed" {
		e.Change = "nothing here: your organisation's policy decides"
		return
	}
	e.Change = fmt.Sprintf(`"filesystem": {"allow%s": [%q]} in a policy, or --allow-%s %s`, key, name, e.Kind, name)
}

// maxLost bounds what an explanation lists.
const maxLost = 8

// lost are the rules for p beside the one that decides.
func (c *compiler) lost(p string, decider *pathRule, writing bool) []policy.PathRule {
	var out []policy.PathRule
	for r := range c.speaking(p) {
		said := func(o policy.PathRule) bool { return o.Access == r.Access && o.Text == r.Text && o.Origin == r.Origin }
		counts := speaksOfReading(r)
		if writing {
			counts = speaksOfWriting(r)
		}
		// A pattern stands here once for each of its depths.
		if counts && len(out) < maxLost && !said(decider.PathRule) && !slices.ContainsFunc(out, said) {
			out = append(out, r.PathRule)
		}
	}
	return out
}

// match adds the patterns that speak of p, which need not exist.
func (c *compiler) match(p string) {
	if c.patterns == nil {
		c.patterns = c.compilePatterns()
	}
	names := glob.Split(p)
	for i := range c.patterns {
		if _, deepest, ok := c.patterns[i].pattern.DepthsOf(names); ok {
			r := c.patterns[i].rule
			r.Pattern, r.Glob = "/"+strings.Join(names[:deepest], "/"), true
			c.add(pathRule{r, 0})
		}
	}
}

// patternRule is a rule or a guard with its pattern, to be asked about many paths.
type patternRule struct {
	rule    policy.PathRule
	pattern glob.Pattern
}

func (c *compiler) compilePatterns() []patternRule {
	out := make([]patternRule, 0, len(c.in.Policy.Paths)+len(c.in.Policy.Guards))
	add := func(r policy.PathRule, pattern string) {
		if p, err := glob.Compile(pattern); err == nil {
			out = append(out, patternRule{r, p})
		}
	}
	for _, r := range c.in.Policy.Paths {
		if r.Glob {
			add(r, r.Pattern)
		}
	}
	for _, g := range c.in.Policy.Guards {
		if path.Base(g.Pattern) == ".git" || c.copies() {
			continue // the directory itself stays writable
		}
		add(policy.PathRule{Access: policy.DenyWrite, Text: g.Pattern, Reason: g.Reason, Origin: g.Origin, Strength: g.Strength},
			glob.Escape(c.in.Workspace)+"/"+strings.TrimSuffix(g.Pattern, "/"))
	}
	return out
}

func (c *compiler) explainEnv(e *Explanation) {
	for _, r := range c.in.Policy.Env {
		if !matchName(r.Name, e.Subject) {
			continue
		}
		if r.Action == policy.EnvMask {
			continue
		}
		if r.Action == policy.EnvDeny {
			e.Allowed = false
			e.by("deny "+r.Name, "", r.Origin)
			e.Text = e.Subject + " never comes in"
			e.Change = "take that line out"
			return
		}
		e.Allowed = true
		e.by(string(r.Action)+" "+r.Name, "", r.Origin)
		e.Text = e.Subject + " comes in as it is outside"
		if r.Action == policy.EnvSet {
			e.Text = e.Subject + " is set by the policy"
		}
		e.Change = fmt.Sprintf(`"environment": {"deny": [%q]} in a policy`, e.Subject)
	}
	if c.explainMask(e) {
		return
	}
	if !e.Allowed {
		e.Text = e.Subject + " does not come in: no rule allows it"
		e.Change = fmt.Sprintf(`"environment": {"allow": [%q]} in a policy, or --env %s`, e.Subject, e.Subject)
	}
}
