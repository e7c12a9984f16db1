package compile

import (
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// copyPlan is the plan of a copy with a policy on a machine.
func copyPlan(t *testing.T, text string, change func(*host.Facts)) *plan.Plan {
	t.Helper()
	doc, err := policy.Parse("flags", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	eff, err := policy.Load(policy.Source{Place: policy.Place{Home: annHome, Workspace: annWork}, Command: "true", Unattended: true, Flags: doc})
	if err != nil {
		t.Fatal(err)
	}
	in := input(eff)
	in.Facts.Copying = &host.Copying{}
	in.Facts.Mechanisms = append(in.Facts.Mechanisms, host.Mechanism{Name: host.Overlay, Answer: host.Yes, Level: 2})
	if change != nil {
		change(in.Facts)
	}
	return mustPlan(t, in)
}

func overlay(f *host.Facts, answer host.Answer, level int) {
	for i := range f.Mechanisms {
		if f.Mechanisms[i].Name == host.Overlay {
			f.Mechanisms[i].Answer, f.Mechanisms[i].Level, f.Mechanisms[i].Detail = answer, level, "tried"
		}
	}
}

// In a copy nothing of the project is written: no mount is, but the copy itself; no
// guard needs a mount, what is denied by name has one.
func TestCopyMounts(t *testing.T) {
	p := copyPlan(t, `{"filesystem": {"denyWrite": ["./a/gen", "./new"]}}`, nil)
	if gaps := p.RequiredGaps(); len(gaps) > 0 || p.Copy != plan.CopyOverlay {
		t.Fatalf("%q, gaps %+v", p.Copy, gaps)
	}
	var kinds []string
	for _, m := range p.Mounts {
		if covers(annWork, m.Target) {
			kinds = append(kinds, string(m.Kind)+" "+strings.TrimPrefix(m.Target, annWork))
			if m.Write && m.Kind != plan.Copy && m.Kind != plan.Pin {
				t.Errorf("written live: %+v", m)
			}
		}
	}
	want := []string{"copy ", "mask /.env", "pin /a", "mask /a/b/.env", "pin /a/gen"}
	slices.Sort(want)
	slices.Sort(kinds)
	if !slices.Equal(kinds, want) {
		t.Errorf("%q, want %q", kinds, want)
	}
	for _, r := range p.Rules {
		if strings.HasPrefix(r.Text, "protect ") && (r.Status != plan.Enforced || r.Mechanism != "copy") || strings.HasSuffix(r.Text, "/new") && r.Status != plan.Enforced {
			t.Errorf("%+v", r)
		}
	}
	// For whoever carries changes over.
	if !slices.ContainsFunc(p.Guards, func(g plan.Guard) bool { return g.Pattern == "**/.git/hooks/" || g.Pattern == "**/.git/config" }) ||
		!slices.ContainsFunc(p.Guards, func(g plan.Guard) bool { return g.Pattern == "new" }) {
		t.Errorf("guards: %+v", p.Guards)
	}
}

// How the copy is made follows from the machine; what it can't have is refused.
func TestCopyGaps(t *testing.T) {
	for name, c := range map[string]struct {
		policy   string
		change   func(*host.Facts)
		copy     string
		required string // part of what is missing; "" if it runs
		told     string // part of what is missing and does not stop it
	}{
		"by path":           {change: func(f *host.Facts) { overlay(f, host.Yes, 1) }, copy: plan.CopyOverlayPaths},
		"none":              {change: func(f *host.Facts) { overlay(f, host.No, 0); f.Copying.Entries = 7 }, copy: plan.CopyFull, told: "overlay"},
		"could not tell":    {change: func(f *host.Facts) { overlay(f, host.Unknown, 0) }, copy: plan.CopyFull, told: "overlay"},
		"too large":         {change: func(f *host.Facts) { overlay(f, host.No, 0); f.Copying.Problem = "too large" }, required: "a copy"},
		"nobody has looked": {change: func(f *host.Facts) { f.Copying = nil }, required: "a copy"},
		"mount":             {change: func(f *host.Facts) { f.Copying.Mounts = []string{annWork + "/data"} }, copy: plan.CopyOverlay, required: "whole workspace"},
		"git outside":       {change: func(f *host.Facts) { f.Copying.GitDir = "/srv/git" }, copy: plan.CopyOverlay, told: "git inside"},
		"git readable":      {policy: `{"filesystem": {"allowRead": ["/srv"]}}`, change: func(f *host.Facts) { f.Copying.GitDir = "/srv/git" }, copy: plan.CopyOverlay},
		"git writable":      {policy: `{"filesystem": {"allowWrite": ["/srv"]}}`, change: func(f *host.Facts) { f.Copying.GitDir = "/srv/git" }, copy: plan.CopyOverlay, required: "/srv/git"},
		"open in closed":    {policy: `{"filesystem": {"denyRead": ["./a"], "allowWrite": ["./a/b"]}}`, copy: plan.CopyOverlay, required: annWork + "/a/b"},
		"open in read-only": {policy: `{"filesystem": {"denyWrite": ["."], "allowWrite": ["./a"]}}`, required: annWork + "/a"},
		"read-only":         {policy: `{"filesystem": {"denyWrite": ["."]}}`},
		"open around it":    {policy: `{"filesystem": {"allowWrite": ["~/src"]}}`, copy: plan.CopyOverlay},
	} {
		text := c.policy
		if text == "" {
			text = "{}"
		}
		p := copyPlan(t, text, c.change)
		var required, told []string
		for _, g := range p.Gaps {
			if g.Required {
				required = append(required, g.Missing)
			} else {
				told = append(told, g.Missing)
			}
		}
		got, also := strings.Join(required, "\n"), strings.Join(told, "\n")
		if p.Copy != c.copy || (c.required == "") != (got == "") || !strings.Contains(got, c.required) || c.told != "" && !strings.Contains(also, c.told) {
			t.Errorf("%s: copy %q, required %q, told %q", name, p.Copy, got, also)
		}
		for _, m := range p.Mounts {
			if m.Write && m.Kind == plan.Bind && covers(annWork, m.Target) && got == "" {
				t.Errorf("%s: written live: %+v", name, m)
			}
		}
	}
}
