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

func TestUpstream(t *testing.T) {
	const rules = `"allowedDomains": ["a.test"], "deniedDomains": ["9.9.9.9", "b.test"]`
	for _, c := range []struct {
		policy  string
		environ []string
		want    *plan.Upstream
		note    string
	}{
		{`"upstreamProxy": "http://proxy.test:3128", "noProxy": [".corp.test"]`, []string{"HTTPS_PROXY=http://other.test:1", "NO_PROXY=x"},
			&plan.Upstream{HTTP: "http://proxy.test:3128", HTTPS: "http://proxy.test:3128", Direct: []string{".corp.test"}}, "by http://proxy.test:3128; it finds where names lead"},
		{`"upstreamProxy": "environment"`, []string{"HTTPS_PROXY=https://me:s3cret@proxy.test", "http_proxy=proxy2.test:8080", "HTTP_PROXY=http://not.test:1", "NO_PROXY=localhost, 10.0.0.0/8 .corp.test,?bad?"},
			&plan.Upstream{HTTP: "http://proxy2.test:8080", HTTPS: "https://proxy.test:443", Direct: []string{"localhost", "10.0.0.0/8", ".corp.test"}, Environment: true}, "in the clear by http://proxy2.test:8080, all else by https://proxy.test:443"},
		{`"upstreamProxy": "environment"`, []string{"ALL_PROXY=http://[fd00::1]:3128", "HTTP_PROXY="},
			&plan.Upstream{HTTP: "http://[fd00::1]:3128", HTTPS: "http://[fd00::1]:3128", Environment: true}, "by http://[fd00::1]:3128"},
		{`"upstreamProxy": "environment"`, nil, nil, "no variable names one"},
		{`"upstreamProxy": "none"`, []string{"HTTPS_PROXY=http://proxy.test:1"}, nil, ""},
		{`"unlisted": "deny"`, []string{"HTTPS_PROXY=http://proxy.test:1"}, nil, ""},
	} {
		in := networked(t, `{"network": {`+rules+`, `+c.policy+`}}`, host.Yes, c.environ...)
		p := mustPlan(t, in)
		accounted(t, in, p)
		got := p.Network.Upstream
		if got != nil {
			if st, ok := p.Rule(got.Rule); !ok || !strings.Contains(st.Note, c.note) {
				t.Errorf("%s: %+v", c.policy, st)
			}
			got.Rule = 0
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) && (got == nil || c.want == nil || fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", *c.want)) {
			t.Errorf("%s: %+v, want %+v", c.policy, got, c.want)
		}
		if text, _ := json.Marshal(p); strings.Contains(string(text), "s3cret") {
			t.Errorf("%s: the plan has the password", c.policy)
		}
		// What can't be judged any more is called so.
		i := slices.IndexFunc(p.Rules, func(r plan.RuleStatus) bool { return r.Text == "deniedDomains 9.9.9.9" })
		if coarse := p.Rules[i].Status == plan.Coarse; coarse != (c.want != nil) {
			t.Errorf("%s: %+v", c.policy, p.Rules[i])
		}
		e, err := Explain(in.Policy, in.Facts, in.Workspace, "connect", "a.test:443", c.environ...)
		if err != nil || strings.Contains(e.Text, "nobody judges it") != (c.want != nil) {
			t.Errorf("%s: %+v, %v", c.policy, e, err)
		}
	}
	p := mustPlan(t, networked(t, `{"network": {"upstreamProxy": "http://proxy.test:1", "rules": [{"host": "10.1.2.3", "budget": {"upload": "1MiB"}}, {"host": "a.test", "budget": {"upload": "1MiB"}}]}}`, host.Yes))
	for _, b := range p.Network.Budgets {
		if st, _ := p.Rule(b.Rule); (st.Status == plan.Coarse) != (b.Prefix != "") {
			t.Errorf("%+v", st)
		}
	}
	// A variable that can't be used stops the run, and nobody repeats what it says.
	for _, v := range []string{"socks5://me:s3cret@proxy.test", "http://me:s3cret@:80", "http://me:s3cret@proxy.test:0", "http://me:s3cret@proxy.test:99999", "http://me:s3cret@pro xy", "http://s3cret%zz@proxy.test", "http://s3cret%3ax:y@proxy.test"} {
		p := mustPlan(t, networked(t, `{"network": {`+rules+`, "upstreamProxy": "environment"}}`, host.Yes, "HTTPS_PROXY="+v))
		text, _ := json.Marshal(p)
		if len(p.RequiredGaps()) != 1 || strings.Contains(string(text), "s3cret@") || strings.Contains(string(text), ":s3cret") {
			t.Errorf("%q: %+v", v, p.Gaps)
		}
	}
}

func TestUnusedProxy(t *testing.T) {
	for policy, want := range map[string]string{`{"network": {"allowedDomains": ["a.test"]}}`: "HTTPS_PROXY http://proxy.test:3128", `{"network": {"allowedDomains": ["a.test"], "upstreamProxy": "none"}}`: " ", `{}`: " "} {
		in := networked(t, policy, host.Yes, "HTTPS_PROXY=http://me:s3cret@proxy.test:3128")
		name, address := UnusedProxy(mustPlan(t, in), in.Policy, in.Environ)
		if name+" "+address != want {
			t.Errorf("%s: %q %q", policy, name, address)
		}
	}
}

// FuzzProxy: whatever a variable says, what is written down of it has no user and no
// password, and is read as the same proxy again.
func FuzzProxy(f *testing.F) {
	f.Add("http://me:pass@proxy.test:3128")
	f.Add("https://[fd00::1]")
	f.Add("proxy.test")
	f.Fuzz(func(t *testing.T, value string) {
		p, err := HTTPSProxy([]string{"HTTPS_PROXY=" + value})
		if err != nil || p.Host == "" {
			return
		}
		again, err := HTTPSProxy([]string{"HTTPS_PROXY=" + p.Address()})
		q := p
		q.User, q.Password = "", ""
		if err != nil || again != q || strings.ContainsAny(p.Address(), "@ \r\n") {
			t.Errorf("%q: %q, %+v, %v", value, p.Address(), again, err)
		}
	})
}
