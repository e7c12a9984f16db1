package compile

import (
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

func TestBudgets(t *testing.T) {
	in := networked(t, `{"network": {"allowedDomains": ["a.test"], "tunnelDomains": ["t.test:443"], "budget": {"upload": "1GiB", "requests": "1000"},
		"rules": [{"host": "*.b.test:8443", "methods": ["POST"], "budget": {"upload": "1MiB/1h"}}, {"host": "10.1.2.3", "budget": {"connections": "3"}}]}}`, host.Yes)
	p := mustPlan(t, in)
	accounted(t, in, p)
	want := []plan.Budget{
		{Name: "*", Of: "upload", Amount: 1 << 30}, {Name: "*", Of: "requests", Amount: 1000},
		{Name: "*.b.test", Port: 8443, Only: &plan.Requests{Methods: []string{"POST"}}, Of: "upload", Amount: 1 << 20, Per: 3600_000},
		{Prefix: "10.1.2.3/32", Of: "connections", Amount: 3},
	}
	if len(p.Network.Budgets) != len(want) || len(p.Gaps) > 0 {
		t.Fatalf("%+v, %+v", p.Network.Budgets, p.Gaps)
	}
	for i, b := range p.Network.Budgets {
		st, _ := p.Rule(b.Rule)
		if b.Rule = 0; b.Text() != want[i].Text() || b.Name != want[i].Name || b.Prefix != want[i].Prefix || b.Port != want[i].Port || (b.Only == nil) != (want[i].Only == nil) {
			t.Errorf("%+v, want %+v", b, want[i])
		}
		// Requests within the tunnel are not seen, and that is told.
		if coarse := b.Of == "requests"; (st.Status == plan.Coarse) != coarse || coarse && !strings.Contains(st.Note, "t.test") || st.Mechanism != "gateway" {
			t.Errorf("%+v", st)
		}
	}
	// Without a gateway nothing goes out.
	p = mustPlan(t, networked(t, `{"network": {"allowedDomains": ["a.test"], "budget": {"upload": "1MiB"}}}`, host.No))
	i := slices.IndexFunc(p.Rules, func(r plan.RuleStatus) bool { return strings.HasPrefix(r.Text, "budget") })
	if p.Network.Budgets != nil || p.Rules[i].Status != plan.Enforced || p.Rules[i].Mechanism != "net-namespace" {
		t.Errorf("%+v, %+v", p.Network, p.Rules[i])
	}
}

// What can't be counted does not start.
func TestBudgetInATunnel(t *testing.T) {
	for rules, stops := range map[string]bool{
		`"tunnelDomains": ["*.a.test"], "rules": [{"host": "x.a.test", "budget": {"requests": "5"}}]`:         true,
		`"tunnelDomains": ["x.a.test:22"], "rules": [{"host": "x.a.test", "budget": {"requests": "5"}}]`:      true,
		`"tunnelDomains": ["*.a.test:80"], "rules": [{"host": "x.a.test:443", "budget": {"requests": "5"}}]`:  false,
		`"tunnelDomains": ["*.a.test"], "rules": [{"host": "x.a.test", "budget": {"upload": "5B"}}]`:          false,
		`"rules": [{"host": "x.a.test", "tls": "tunnel", "budget": {"upload": "5B", "connections": "1/1s"}}]`: false,
	} {
		p := mustPlan(t, networked(t, `{"network": {`+rules+`}}`, host.Yes))
		if got := len(p.RequiredGaps()) > 0; got != stops {
			t.Errorf("%s: %+v", rules, p.Gaps)
		} else if stops && !strings.Contains(p.Gaps[0].Because, "keeps TLS closed") {
			t.Errorf("%+v", p.Gaps)
		}
	}
}

func TestExplainBudgets(t *testing.T) {
	in := networked(t, `{"network": {"allowedDomains": ["a.test"], "tunnelDomains": ["t.test"], "budget": {"upload": "1GiB"},
		"rules": [{"host": "a.test", "methods": ["POST"], "budget": {"requests": "5"}}]}}`, host.Yes)
	for subject, want := range map[string][]string{
		"POST https://a.test/x": {"budget: upload 1 GiB", "budget a.test: requests 5, methods POST"},
		"GET https://a.test/x":  {"budget: upload 1 GiB"},
		"GET https://t.test/x":  {"budget: upload 1 GiB"},
		"GET https://b.test/x":  nil,
	} {
		e, err := Explain(in.Policy, in.Facts, in.Workspace, "request", subject)
		var got []string
		for _, b := range e.Budgets {
			got = append(got, b.Text)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", subject, got, err)
		}
	}
}
