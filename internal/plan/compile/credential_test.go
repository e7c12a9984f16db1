package compile

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// masking is a run with a gateway in which SECRET is set outside.
func masking(t testing.TB, managed, user, flags string) Input {
	t.Helper()
	in := loaded(t, managed, user, flags, map[string]host.Path{"~/.npmrc": {Kind: host.KindFile, Real: annHome + "/.npmrc", RealKind: host.KindFile, UID: 1000, Mode: 0o600}})
	in.Facts.Mechanisms = append(in.Facts.Mechanisms, host.Mechanism{Name: host.Nftables, Answer: host.Yes})
	in.Environ = []string{"SECRET=the-real-value", "PATH=/usr/bin"}
	return in
}

const maskSecret = `{"credentials": {"envVars": [{"name": "SECRET", "mode": "mask", "hosts": ["api.test"]}]}, "network": {"allowedDomains": ["api.test:443"]}}`

func variableOf(p *plan.Plan, name string) (plan.EnvVar, bool) {
	for _, v := range p.Environment {
		if v.Name == name {
			return v, true
		}
	}
	return plan.EnvVar{}, false
}

// The plan says which variable is a placeholder, for whom the value is, and has neither.
func TestMaskedVariable(t *testing.T) {
	p := mustPlan(t, masking(t, "", maskSecret, ""))
	want := plan.Credential{ID: 1, Name: "SECRET", Kind: "env", Variable: "SECRET", Hosts: []string{"api.test:443"}, Rule: ruleOf(t, p, "mask environment SECRET").ID}
	if len(p.Credentials) != 1 || fmt.Sprint(p.Credentials[0]) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", p.Credentials, want)
	}
	if v, ok := variableOf(p, "SECRET"); !ok || v.Credential != 1 || v.Value != "" {
		t.Errorf("%+v", v)
	}
	if !p.Network.Inspect {
		t.Error("nobody looks into connections")
	}
	if r := ruleOf(t, p, "mask environment SECRET"); r.Status != plan.Enforced || r.Note != "a placeholder inside; the real value for api.test:443" {
		t.Errorf("%+v", r)
	}
	text, err := json.Marshal(p)
	if err != nil || strings.Contains(string(text), "the-real-value") {
		t.Errorf("the value is in the plan (%v)", err)
	}
}

// deny beats mask, mask beats allow and set, whichever layer says it; among masks the
// stronger layer counts.
func TestMaskAmongOthers(t *testing.T) {
	for name, c := range map[string]struct {
		managed, user, flags string
		masked               bool
		hosts                string
	}{
		"deny":              {"", `{"credentials": {"envVars": [{"name": "SECRET"}]}}`, maskSecret, false, ""},
		"deny by pattern":   {`{"environment": {"deny": ["SEC*"]}}`, maskSecret, "", false, ""},
		"allow":             {"", maskSecret, `{"environment": {"allow": ["SECRET"]}}`, true, "[api.test:443]"},
		"set":               {"", maskSecret, `{"environment": {"set": {"SECRET": "the-real-value"}}}`, true, "[api.test:443]"},
		"a stronger mask":   {"", maskSecret, `{"credentials": {"envVars": [{"name": "SECRET", "mode": "mask", "hosts": ["b.test:8443"]}]}}`, true, "[b.test:8443]"},
		"the managed one's": {maskSecret, `{"credentials": {"envVars": [{"name": "SECRET", "mode": "mask", "hosts": ["b.test"]}]}}`, "", true, "[api.test:443]"},
	} {
		p := mustPlan(t, masking(t, c.managed, c.user, c.flags))
		v, in := variableOf(p, "SECRET")
		if in != c.masked || in && v.Credential != 1 || v.Value != "" || (len(p.Credentials) == 1) != c.masked || in && fmt.Sprint(p.Credentials[0].Hosts) != c.hosts {
			t.Errorf("%s: %+v %v %+v", name, v, in, p.Credentials)
		}
	}
}

func TestMaskOfNothing(t *testing.T) {
	in := masking(t, "", maskSecret, `{"environment": {"allow": ["SECRET"]}}`)
	in.Environ = []string{"SECRET="}
	p := mustPlan(t, in)
	if _, there := variableOf(p, "SECRET"); there || len(p.Credentials) > 0 || !strings.Contains(ruleOf(t, p, "mask environment SECRET").Note, "not set") {
		t.Errorf("%+v %+v", p.Credentials, ruleOf(t, p, "mask environment SECRET"))
	}
}

func TestMaskedFile(t *testing.T) {
	npmrc := `{"credentials": {"files": [{"path": "~/.npmrc", "mode": "mask", "hosts": ["registry.test"], "extract": "_authToken=(.+)"}]}}`
	env := `{"credentials": {"files": [{"path": ".env", "mode": "mask", "hosts": ["registry.test"]}]}}`
	for name, c := range map[string]struct {
		managed, user, flags, at string
		kind                     plan.MountKind
		ids                      int
	}{
		"home":               {"", npmrc, "", annHome + "/.npmrc", plan.File, 1},
		"with allowRead":     {"", npmrc, `{"filesystem": {"allowRead": ["~/.npmrc"]}}`, annHome + "/.npmrc", plan.File, 1},
		"with allowWrite":    {"", npmrc, `{"filesystem": {"allowWrite": ["~/.npmrc"]}}`, annHome + "/.npmrc", plan.File, 1},
		"with home open":     {"", npmrc, `{"filesystem": {"allowRead": ["~"]}}`, annHome + "/.npmrc", plan.File, 1},
		"denied":             {"", npmrc, `{"credentials": {"files": [{"path": "~/.npmrc"}]}}`, annHome + "/.npmrc", plan.Mask, 0},
		"denied for good":    {`{"filesystem": {"denyRead": ["~/.npmrc"]}}`, npmrc, "", annHome + "/.npmrc", plan.Mask, 0},
		"in the workspace":   {"", env, "", annWork + "/.env", plan.File, 1},
		"and may be written": {"", env, `{"filesystem": {"allowWrite": [".env"]}}`, annWork + "/.env", plan.File, 1},
		"a directory":        {"", `{"credentials": {"files": [{"path": "a", "mode": "mask", "hosts": ["registry.test"]}]}}`, "", annWork + "/a", plan.Mask, 0},
	} {
		p := mustPlan(t, masking(t, c.managed, c.user, c.flags))
		m := mountAt(p, c.at)
		if m == nil {
			t.Errorf("%s: nothing is there", name)
			continue
		}
		if m.Kind != c.kind || m.Write || len(p.Credentials) != c.ids || m.Masked != (c.ids > 0) || m.Content != "" {
			t.Errorf("%s: %+v %+v", name, m, p.Credentials)
		}
		if c.ids > 0 && (p.Credentials[0].File != c.at || p.Credentials[0].Kind != "file") {
			t.Errorf("%s: %+v", name, p.Credentials)
		}
	}
	deep := mustPlan(t, masking(t, "", `{"credentials": {"files": [{"path": "a/b/.env", "mode": "mask", "hosts": ["registry.test"]}]}}`, ""))
	for _, dir := range []string{"/a", "/a/b"} {
		if m := mountAt(deep, annWork+dir); m == nil || m.Kind != plan.Pin {
			t.Errorf("%s can be moved away: %+v", dir, m)
		}
	}
	gone := mustPlan(t, masking(t, "", `{"credentials": {"files": [{"path": "~/.gone", "mode": "mask", "hosts": ["registry.test"]}]}}`, ""))
	if len(gone.Credentials) > 0 || !strings.Contains(ruleOf(t, gone, "mask ~/.gone").Note, "nothing is there") {
		t.Errorf("%+v", gone.Credentials)
	}
}

// A link that an earlier run may have made leads to what another rule opens.
func TestMaskedLinkOfTheInside(t *testing.T) {
	in := masking(t, "", `{"credentials": {"files": [{"path": "link", "mode": "mask", "hosts": ["registry.test"]}]}}`, "")
	in.Facts.Paths[annWork+"/link"] = host.Path{Kind: host.KindSymlink, Real: annHome + "/.npmrc", RealKind: host.KindFile}
	if p := mustPlan(t, in); len(p.Credentials) > 0 || len(p.RequiredGaps()) == 0 {
		t.Errorf("%+v", p.Credentials)
	}
}

// A tunnel can't have anything put into it: an agent's own is opened, a person's is a
// contradiction.
func TestMaskOpensTLS(t *testing.T) {
	rules := []plan.NetRule{
		{Allow: true, Name: "api.test", Port: 443, Tunnel: true, Rule: 1},
		{Allow: true, Name: "*.test", Tunnel: true, Rule: 2},
		{Allow: true, Name: "other.test", Port: 443, Tunnel: true, Rule: 1},
		{Allow: true, Name: "api.test", Port: 8443, Tunnel: true, Rule: 1},
	}
	c := &compiler{p: &plan.Plan{
		Rules: []plan.RuleStatus{{ID: 1, Text: "tunnelDomains api.test", Origin: plan.Origin{Layer: "profile:claude"}},
			{ID: 2, Text: "tunnelDomains *.test", Origin: plan.Origin{Layer: "user", File: "p.jsonc", Line: 3}}, {ID: 3, Text: "mask environment SECRET", Origin: plan.Origin{Layer: "flag"}}},
		Credentials: []plan.Credential{{ID: 1, Name: "SECRET", Hosts: []string{"api.test:443"}, Rule: 3}},
	}}
	out := c.openFor(rules)
	for i, tunnel := range []bool{false, true, true, true} {
		if out[i].Tunnel != tunnel || !rules[i].Tunnel {
			t.Errorf("%+v", out[i])
		}
	}
	gaps := c.p.RequiredGaps()
	if len(gaps) != 1 || !strings.Contains(gaps[0].Because, "tunnelDomains *.test (p.jsonc:3)") || !strings.Contains(gaps[0].Because, "mask environment SECRET (flag)") {
		t.Errorf("%+v", gaps)
	}
}

func TestMaskAllowsNoHost(t *testing.T) {
	for text, want := range map[string]string{
		`["api.example.test:443"]`: "", `["*.example.test"]`: "", `["api.example.test"]`: "",
		`["other.test"]`: "no rule allows api.example.test:443", `["api.example.test:8443"]`: "no rule allows api.example.test:443", `[]`: "no rule allows api.example.test:443",
	} {
		p := mustPlan(t, masking(t, "", `{"credentials": {"envVars": [{"name": "SECRET", "mode": "mask", "hosts": ["api.example.test"]}]}}`, `{"network": {"allowedDomains": `+text+`}}`))
		r := ruleOf(t, p, "mask environment SECRET")
		if (r.Status == plan.Coarse) != (want != "") || !strings.Contains(r.Note, want) {
			t.Errorf("%s: %+v", text, r)
		}
		if slices.ContainsFunc(p.Network.Rules, func(n plan.NetRule) bool { return n.Rule == r.ID }) {
			t.Errorf("%s: a rule of the network came of it", text)
		}
	}
	p := mustPlan(t, masking(t, "", `{"credentials": {"envVars": [{"name": "SECRET", "mode": "mask", "hosts": ["*.api.example.test"]}]}}`, `{"network": {"allowedDomains": ["one.api.example.test"]}}`))
	if r := ruleOf(t, p, "mask environment SECRET"); r.Status != plan.Enforced {
		t.Errorf("one of many: %+v", r)
	}
}

func TestExplainMask(t *testing.T) {
	in := masking(t, "", maskSecret, `{"credentials": {"files": [{"path": ".env", "mode": "mask", "hosts": ["b.test"]}]}}`)
	for _, c := range []struct{ kind, subject, text string }{
		{"env", "SECRET", "a placeholder inside; the real value is put into requests to api.test:443"},
		{"read", annWork + "/.env", "has a placeholder where the secret is; the real value is put into requests to b.test:443"},
	} {
		e, err := Explain(in.Policy, in.Facts, annWork, c.kind, c.subject)
		if err != nil || !e.Allowed || !strings.Contains(e.Text, c.text) || e.Rule == "" {
			t.Errorf("%s: %+v %v", c.subject, e, err)
		}
	}
	if e, err := Explain(in.Policy, in.Facts, annWork, "write", annWork+"/.env"); err != nil || e.Allowed {
		t.Errorf("%+v %v", e, err)
	}
	denied := masking(t, `{"environment": {"deny": ["SECRET"]}}`, maskSecret, "")
	if e, err := Explain(denied.Policy, denied.Facts, annWork, "env", "SECRET"); err != nil || e.Allowed {
		t.Errorf("%+v %v", e, err)
	}
}
