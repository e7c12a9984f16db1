package compile

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// networked is a run with these rules on a machine that answers so about nftables.
func networked(t *testing.T, user string, answer host.Answer, environ ...string) Input {
	t.Helper()
	in := loaded(t, "", user, "", nil)
	in.Environ = environ
	m := host.Mechanism{Name: host.Nftables, Answer: answer, Detail: "tried", Remedy: "modprobe nf_tables"}
	if answer == host.Yes {
		m.Detail, m.Remedy = "", ""
	}
	in.Facts.Mechanisms = append(slices.Clone(in.Facts.Mechanisms), m)
	return in
}

func TestNetwork(t *testing.T) {
	const both = `{"network": {"allowedDomains": ["Example.org.", "*.example.net:443", "10.1.2.3:80", "[fd00::1]"],
		"deniedDomains": ["bad.example.net", "*:25", "9.9.9.9"], "allowedCIDRs": ["10.0.0.0/8:5432", "[fd00:1::/32]:443"]}}`
	in := networked(t, both, host.Yes)
	p := mustPlan(t, in)
	accounted(t, in, p)
	want := []plan.NetRule{
		{Allow: true, Name: "example.org"}, {Allow: true, Name: "*.example.net", Port: 443}, {Allow: true, Prefix: "10.1.2.3/32", Port: 80}, {Allow: true, Prefix: "fd00::1/128"},
		{Name: "bad.example.net"}, {Name: "*", Port: 25}, {Prefix: "9.9.9.9/32"},
		{Allow: true, Prefix: "10.0.0.0/8", Port: 5432}, {Allow: true, Prefix: "fd00:1::/32", Port: 443},
	}
	if p.Network.Mode != "gateway" || p.Network.Mechanism != "nft-redirect" || len(p.Network.Rules) != len(want) {
		t.Fatalf("%+v", p.Network)
	}
	for i, n := range p.Network.Rules {
		st, ok := p.Rule(n.Rule)
		if !ok || st.Status != plan.Enforced || st.Mechanism != "gateway" || st.Origin.Layer != "user" {
			t.Errorf("%+v is %+v", n, st)
		}
		if n.Rule = 0; n != want[i] {
			t.Errorf("%+v, want %+v", n, want[i])
		}
	}
	if _, err := decide.Compile(p.Network.Rules); err != nil {
		t.Error(err)
	}

	// With less than that less comes there, which is told; what is denied is denied.
	for mechanism, answer := range map[string]host.Answer{"any-ip": host.Yes, "proxy": host.No} {
		in := networked(t, both, host.No)
		in.Facts.Mechanisms = append(in.Facts.Mechanisms, host.Mechanism{Name: host.AnyIP, Answer: answer, Detail: "add the route: no"})
		p := mustPlan(t, in)
		accounted(t, in, p)
		var ports []int
		if mechanism == "any-ip" {
			ports = []int{80, 443, 5432}
		}
		if p.Network.Mode != "gateway" || p.Network.Mechanism != mechanism || !slices.Equal(p.Network.Ports, ports) || len(p.Network.Rules) != len(want) {
			t.Fatalf("%s: %+v", mechanism, p.Network)
		}
		if len(p.Gaps) != 1 || p.Gaps[0].Required || !strings.Contains(p.Gaps[0].Because, "modprobe nf_tables") || strings.Contains(p.Gaps[0].Because, "can't listen on 5432") != (ports != nil) {
			t.Errorf("%s: %+v", mechanism, p.Gaps)
		}
		whole := map[string]bool{"allowedDomains *.example.net:443": true, "allowedDomains 10.1.2.3:80": true, "allowedCIDRs 10.0.0.0/8:5432": true}
		for _, st := range p.Rules {
			switch {
			case strings.HasPrefix(st.Text, "deniedDomains") && st.Status != plan.Enforced,
				whole[st.Text] && (st.Status == plan.Enforced) != (ports != nil),
				strings.HasPrefix(st.Text, "allowed") && !whole[st.Text] && (st.Status != plan.Coarse || !strings.Contains(st.Note, "without nftables")):
				t.Errorf("%s: %+v", mechanism, st)
			}
		}
	}

	// Without the mechanism, or without knowing, nothing is reached, and told.
	for _, answer := range []host.Answer{host.No, host.Unknown} {
		in := networked(t, both, answer)
		p := mustPlan(t, in)
		accounted(t, in, p)
		if p.Network.Mode != "loopback" || p.Network.Rules != nil || p.Network.Mechanism != "" {
			t.Errorf("%s: %+v", answer, p.Network)
		}
		for _, st := range p.Rules {
			switch {
			case strings.HasPrefix(st.Text, "allowed") && (st.Status != plan.Impossible || st.Mechanism != "net-namespace" || !strings.Contains(st.Note, "modprobe nf_tables")),
				strings.HasPrefix(st.Text, "deniedDomains") && st.Status != plan.Enforced,
				answer == host.Unknown && strings.HasPrefix(st.Text, "allowed") && !strings.Contains(st.Note, "could not tell"):
				t.Errorf("%s: %+v", answer, st)
			}
		}
	}
	in = loaded(t, "", both, "", nil) // nobody looked
	if p := mustPlan(t, in); p.Network.Mode != "loopback" {
		t.Errorf("not tried: %+v", p.Network)
	}
	// With nothing to allow there is nothing to open.
	for _, user := range []string{"", `{"network": {"deniedDomains": ["example.org"]}}`} {
		p := mustPlan(t, networked(t, user, host.Yes))
		if p.Network.Mode != "loopback" || slices.ContainsFunc(p.Environment, func(v plan.EnvVar) bool { return strings.HasSuffix(v.Name, "PROXY") }) {
			t.Errorf("%q: %+v", user, p.Network)
		}
	}
}

// TLS is opened for what a rule allows that is no tunnel, and for nothing else.
func TestInspect(t *testing.T) {
	for rules, want := range map[string]bool{
		`"allowedDomains": ["a.test"]`: true, `"tunnelDomains": ["a.test"]`: false, `"rules": [{"host": "a.test", "tls": "tunnel"}]`: false, `"rules": [{"host": "a.test", "tls": "inspect"}]`: true,
		`"rules": [{"host": "a.test", "methods": ["GET"]}]`: true, `"tunnelDomains": ["b.test"], "rules": [{"host": "a.test", "git": ["push"], "refs": ["refs/heads/agent/*"]}]`: true,
		`"deniedDomains": ["a.test"], "tunnelDomains": ["b.test"]`: false,
	} {
		in := networked(t, `{"network": {`+rules+`}}`, host.Yes)
		p := mustPlan(t, in)
		accounted(t, in, p)
		r, err := decide.Compile(p.Network.Rules)
		if err != nil || len(p.RequiredGaps()) > 0 {
			t.Fatal(err, p.Gaps)
		}
		if v := r.Connect("a.test", 443); p.Network.Inspect != want || v.Allow && v.Look != want {
			t.Errorf("%s: %v, %+v", rules, p.Network.Inspect, v)
		}
		trusts := slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.Holds != "" })
		told := slices.ContainsFunc(p.Environment, func(v plan.EnvVar) bool { return v.Name == "SSL_CERT_FILE" })
		if trusts != want || told != want {
			t.Errorf("%s: mounts %v, variables %v", rules, trusts, told)
		}
	}
	if p := mustPlan(t, networked(t, `{"network": {"allowedDomains": ["a.test"]}}`, host.No)); p.Network.Inspect {
		t.Error("TLS is opened where nothing can be reached")
	}
}

// The lists of roots that programs inside read are covered, each once, and nothing else;
// what programs were told to trust stays trusted.
func TestTrust(t *testing.T) {
	in := networked(t, `{"network": {"allowedDomains": ["a.test"]}, "environment": {"allow": ["REQUESTS_CA_BUNDLE"], "set": {"PIP_CERT": "/corp.pem", "GIT_SSL_CAINFO": ""}, "deny": ["AWS_CA_BUNDLE"]}}`, host.Yes, "REQUESTS_CA_BUNDLE=/mine.pem")
	const debian, java = "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/java/cacerts"
	file := func(real string) host.Path {
		return host.Path{Kind: host.KindFile, Real: real, RealKind: host.KindFile}
	}
	link := func(real string) host.Path {
		return host.Path{Kind: host.KindSymlink, Real: real, RealKind: host.KindFile}
	}
	in.Facts.Paths[debian], in.Facts.Paths["/etc/ssl/cert.pem"] = file(debian), link(debian)
	in.Facts.Paths[java], in.Facts.Paths["/usr/lib/jvm/a/lib/security/cacerts"], in.Facts.Paths["/usr/lib/jvm/b/lib/security/cacerts"] = file(java), link(java), file("/usr/lib/jvm/b/lib/security/cacerts")
	in.Facts.Paths["/root/lib/security/cacerts"] = file("/root/lib/security/cacerts") // can't be read inside
	p := mustPlan(t, in)
	got := map[string]plan.Holds{}
	for _, m := range p.Mounts {
		if m.Holds != "" {
			if got[m.Target] != "" || m.Kind != plan.File || m.Content != "" || m.Write || m.Create != strings.HasPrefix(m.Target, "/.cofferdam/") {
				t.Errorf("%+v", m)
			}
			got[m.Target] = m.Holds
		}
	}
	want := map[string]plan.Holds{debian: plan.HoldsRoots, java: plan.HoldsJavaRoots, "/usr/lib/jvm/b/lib/security/cacerts": plan.HoldsJavaRoots, "/.cofferdam/roots.pem": plan.HoldsRoots, "/.cofferdam/session.pem": plan.HoldsAuthority}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	vars := map[string]string{}
	for _, v := range p.Environment {
		vars[v.Name] = v.Value
	}
	for name, file := range trustVariables() {
		if name == "AWS_CA_BUNDLE" {
			file = ""
		}
		if vars[name] != file {
			t.Errorf("%s is %q, want %q", name, vars[name], file)
		}
	}
	if !slices.Equal(p.Network.Roots, []string{"/corp.pem", "/mine.pem"}) {
		t.Errorf("roots %v", p.Network.Roots)
	}
	accounted(t, in, p)
}

// Unattended, what would be asked is denied, and told.
func TestAsking(t *testing.T) {
	in := networked(t, `{"network": {"allowedDomains": ["example.org"], "unlisted": "ask", "rules": [{"host": "a.test", "effect": "ask"}]}}`, host.Yes)
	for _, unattended := range []bool{false, true} {
		in.Unattended = unattended
		p := mustPlan(t, in)
		accounted(t, in, p)
		told := 0
		for _, st := range p.Rules {
			if strings.Contains(st.Text, "ask") && st.Status == plan.Impossible && strings.Contains(st.Note, "denied") {
				told++
			}
		}
		r, err := decide.Compile(p.Network.Rules)
		if err != nil {
			t.Fatal(err)
		}
		denied := unattended
		if (told == 2) != denied || r.Connect("a.test", 443).Ask == denied || r.Connect("b.test", 443).Ask == denied || len(p.RequiredGaps()) > 0 {
			t.Errorf("unattended %v: told of %d, %+v", unattended, told, r.Connect("a.test", 443))
		}
	}
	in = networked(t, `{"network": {"unlisted": "ask"}}`, host.Yes)
	if in.Unattended = true; mustPlan(t, in).Network.Mode != "loopback" {
		t.Error("a gateway for nothing")
	}
}

// Two rules of which one opens what the other keeps closed stop the run, by name.
func TestContradiction(t *testing.T) {
	in := networked(t, `{"network": {"tunnelDomains": ["a.test"],
		"rules": [{"host": "*.test", "effect": "deny", "methods": ["PUT"]}]}}`, host.Yes)
	c := &compiler{in: in, p: &plan.Plan{}}
	meant := c.netRules()
	c.contradiction(meant)
	if len(c.p.Gaps) != 1 || !c.p.Gaps[0].Required {
		t.Fatalf("%+v", c.p.Gaps)
	}
	for _, want := range []string{"tunnelDomains a.test (", "/user:1)", "rules *.test deny, methods PUT (", "/user:2)"} {
		if !strings.Contains(c.p.Gaps[0].Because, want) {
			t.Errorf("%s: no %q", c.p.Gaps[0].Because, want)
		}
	}
}

// What a rule does not give is said of it.
func TestAllowsInPart(t *testing.T) {
	for value, want := range map[string]string{
		"allowedCIDRs 10.0.0.0/8": "", "allowedCIDRs 1.1.1.0/24:443": "", "allowedCIDRs 169.254.169.254/32:80": "",
		"allowedCIDRs 0.0.0.0/0": "10.0.0.0/8 (a private address)", "allowedCIDRs 169.254.0.0/16": "metadata", "allowedCIDRs ::/0": "a reserved address", "allowedCIDRs fd00::/8": "metadata",
		"allowedCIDRs 127.0.0.0/8:80": "the inside's own", "allowedDomains [::1]:80": "the inside's own", "allowedDomains localhost:80": "the inside's own",
		"allowedDomains a.localhost": "the inside's own", "deniedDomains localhost": "stay open", "deniedDomains 127.0.0.1:80": "stay open", "deniedDomains *.localhost": "stay open",
		"deniedDomains *": "", "allowedDomains example.org": "", "allowedDomains *.example.org": "",
	} {
		key, v, _ := strings.Cut(value, " ")
		also := map[bool]string{true: `, "allowedCIDRs": ["1.1.1.1/32"]`}[key == "deniedDomains"]
		p := mustPlan(t, networked(t, `{"network": {"`+key+`": ["`+v+`"]`+also+`}}`, host.Yes))
		for _, st := range p.Rules {
			if st.Text != value {
				continue
			}
			if (st.Status == plan.Coarse) != (want != "") || !strings.Contains(st.Note, want) {
				t.Errorf("%+v, want %q", st, want)
			}
		}
	}
}

// What only a broken reader lets through: an allow gives nothing, a denial stops the run.
func TestRulesThatCantBeCompiled(t *testing.T) {
	for _, key := range []string{"allowedDomains", "deniedDomains", "allowedCIDRs"} {
		in := networked(t, `{"network": {"allowedDomains": ["example.org"]}}`, host.Yes)
		in.Policy.Net = append(in.Policy.Net, policy.NetRule{Key: key, Value: "224.0.0.0/40"})
		p := mustPlan(t, in)
		last := p.Network.Rules[len(p.Network.Rules)-1]
		if len(p.Network.Rules) != 1 || last.Name != "example.org" || (len(p.RequiredGaps()) == 1) != (key == "deniedDomains") {
			t.Errorf("%s: %+v, gaps %+v", key, p.Network, p.Gaps)
		}
		accounted(t, in, p)
	}
}

func TestProxyVariables(t *testing.T) {
	proxy := "http://127.0.0.1:" + strconv.Itoa(plan.ProxyHTTPPort)
	for _, c := range []struct {
		rules string
		want  map[string]string
	}{
		{``, map[string]string{"HTTP_PROXY": proxy, "https_proxy": proxy, "ALL_PROXY": proxy, "no_proxy": "localhost,127.0.0.1,::1"}},
		{`"set": {"no_proxy": "x"}`, map[string]string{"NO_PROXY": "-", "no_proxy": "x", "http_proxy": proxy}},
		{`"set": {"HTTP_PROXY": ""}`, map[string]string{"HTTP_PROXY": "", "http_proxy": "-", "HTTPS_PROXY": proxy}},
		{`"allow": ["https_proxy"]`, map[string]string{"HTTPS_PROXY": "-", "https_proxy": "http://outside:1", "HTTP_PROXY": proxy}},
		{`"deny": ["*"]`, map[string]string{"HTTP_PROXY": "-", "http_proxy": "-", "NO_PROXY": "-"}},
		{`"deny": ["ALL_PROXY"]`, map[string]string{"ALL_PROXY": "-", "HTTP_PROXY": proxy}},
	} {
		in := networked(t, `{"network": {"allowedDomains": ["example.org"]}, "environment": {`+c.rules+`}}`, host.Yes, "https_proxy=http://outside:1")
		got := map[string]string{}
		for _, v := range mustPlan(t, in).Environment {
			got[v.Name] = v.Value
		}
		for name, want := range c.want {
			if value, ok := got[name]; value != want && (want != "-" || ok) {
				t.Errorf("%s: %s is %q, want %q", c.rules, name, value, want)
			}
		}
	}
}

func TestExplainConnect(t *testing.T) {
	const user = `{"network": {"allowedDomains": ["example.org", "*.example.net:443"], "deniedDomains": ["bad.example.org"], "allowedCIDRs": ["10.0.0.0/8:5432"]}}`
	for _, c := range []struct {
		answer  host.Answer
		subject string
		allowed bool
		says    []string // rule, text, change
	}{
		{host.Yes, "example.org", true, []string{"allowedDomains example.org", "judged when it is dialled", `"deniedDomains": ["example.org"]`}},
		{host.Yes, "EXAMPLE.org:80", true, []string{"allowedDomains example.org", "", ""}},
		{host.Yes, "a.example.net:443", true, []string{"allowedDomains *.example.net:443", "", ""}},
		{host.Yes, "example.net:443", false, []string{"", "subdomains only", `--allow-domain example.net:443`}},
		{host.Yes, "a.example.net:80", false, []string{"", "another port", `"allowedDomains": ["a.example.net:80"]`}},
		{host.Yes, "x.bad.example.org", false, []string{"deniedDomains bad.example.org", "denied", "take that line out"}},
		{host.Yes, "10.1.2.3:5432", true, []string{"allowedCIDRs 10.0.0.0/8:5432", "", ""}},
		{host.Yes, "192.168.1.1:80", false, []string{"", "private", `--allow-cidr 192.168.1.1/32:80`}},
		{host.Yes, "[2606:4700::1]:80", false, []string{"", "connect by name", `--allow-cidr [2606:4700::1/128]:80`}},
		{host.Yes, "localhost:3000", true, []string{"", "inside's own", ""}},
		{host.Yes, "127.0.0.1:3000", true, []string{"", "inside's own", ""}},
		{host.No, "example.org", false, []string{"allowedDomains example.org", "modprobe nf_tables", "doctor"}},
		{host.Unknown, "example.org", false, []string{"allowedDomains example.org", "could not tell", "doctor"}},
		{host.No, "other.test", false, []string{"", "not allowed", "--allow-domain other.test"}},
	} {
		in := networked(t, user, c.answer)
		e, err := Explain(in.Policy, in.Facts, in.Workspace, "connect", c.subject)
		if err != nil {
			t.Errorf("%s: %v", c.subject, err)
			continue
		}
		if e.Allowed != c.allowed || e.Rule != c.says[0] || !strings.Contains(e.Text, c.says[1]) || !strings.Contains(e.Change, c.says[2]) {
			t.Errorf("%s: %+v", c.subject, e)
		}
	}
	in := networked(t, user, host.Yes)
	for _, bad := range []string{"", "*", "*.example.org", "0x7f.1", "a b", "10.1.2.3", "example.org:0", "http://example.org", "b\x00"} {
		if e, err := Explain(in.Policy, in.Facts, in.Workspace, "connect", bad); err == nil {
			t.Errorf("%q: %+v", bad, e)
		}
	}
	in.Policy.Net = append(in.Policy.Net, policy.NetRule{Key: "deniedDomains", Value: "example.org", Origin: plan.Origin{Layer: "managed"}})
	if e, _ := Explain(in.Policy, in.Facts, in.Workspace, "connect", "example.org"); e.Allowed || !strings.Contains(e.Change, "organisation") {
		t.Errorf("%+v", e)
	}
}

func TestExplainRequest(t *testing.T) {
	const user = `{"network": {
		"allowedDomains": ["plain.test"],
		"tunnelDomains": ["pinned.test:443"],
		"rules": [
			{"host": "git.test", "git": ["fetch"]},
			{"host": "git.test", "paths": ["/me/**"], "git": ["push"], "refs": ["refs/heads/agent/*"]},
			{"host": "api.test", "effect": "deny", "methods": ["DELETE"], "reason": "backups are slow"},
			{"host": "free.test", "git": ["push"]},
			{"host": "asked.test", "effect": "ask"},
		]}}`
	in := networked(t, user, host.Yes)
	for _, c := range []struct {
		subject string
		allowed bool
		says    []string // rule, text, change
	}{
		{"GET https://plain.test/x?y=z", true, []string{"allowedDomains plain.test", "is allowed", `"effect": "deny", "methods": ["GET"]`}},
		{"POST https://plain.test/me/x.git/git-receive-pack", false, []string{"", "pushes with git", `{"host": "plain.test:443", "git": ["push"]}`}},
		{"PUT http://plain.test:8080/@me%2flib", false, []string{"", "publishes a package", `{"host": "plain.test:8080", "packages": ["publish"]}`}},
		{"PUT https://pinned.test/@me%2flib", true, []string{"tunnelDomains pinned.test:443", "in a tunnel", "network.rules"}},
		{"POST https://git.test/me/x.git/git-receive-pack", false, []string{"rules git.test allow, paths /me/**, git push, refs refs/heads/agent/*", "some refs", "refs"}},
		{"POST https://git.test/other/x.git/git-receive-pack", false, []string{"", "pushes with git", `"git": ["push"]`}},
		{"DELETE https://api.test/x", false, []string{"rules api.test deny, methods DELETE", "backups are slow", "take that line out"}},
		{"GET https://api.test/x", false, []string{"", "not allowed", `"methods": ["GET"], "paths": ["/x"]`}},
		{"GET https://plain.test/../x", false, []string{"", "resolve", "no rule"}},
		{"GET http://localhost:3000/", true, []string{"", "inside's own", ""}},
		{"GET https://[fd00::1]/", false, []string{"", "private", ""}},
	} {
		e, err := Explain(in.Policy, in.Facts, in.Workspace, "request", c.subject)
		if err != nil {
			t.Errorf("%s: %v", c.subject, err)
			continue
		}
		if e.Allowed != c.allowed || e.Rule != c.says[0] || !strings.Contains(e.Text, c.says[1]) || !strings.Contains(e.Change, c.says[2]) {
			t.Errorf("%s: %+v", c.subject, e)
		}
	}
	e, err := Explain(in.Policy, in.Facts, in.Workspace, "request", "POST https://free.test/x.git/git-receive-pack")
	if err != nil || !e.Allowed || e.Rule != "rules free.test allow, git push" || e.Origin.Line != 8 {
		t.Errorf("%+v, %v", e, err)
	}
	e, err = Explain(in.Policy, in.Facts, in.Workspace, "connect", "asked.test:443")
	if err != nil || e.Allowed || !e.Ask || e.Rule != "rules asked.test ask" {
		t.Errorf("%+v, %v", e, err)
	}
	for _, bad := range []string{"", "GET", "GET plain.test/x", "get https://plain.test/", "GET ftp://plain.test/", "GET https://*.test/", "GET https://", "GET https://u@plain.test/", "GET  https://plain.test/"} {
		if e, err := Explain(in.Policy, in.Facts, in.Workspace, "request", bad); err == nil {
			t.Errorf("%q: %+v", bad, e)
		}
	}
}

// Each agent's profile can be compiled, and its API be reached.
func TestProfilesReachTheirAPIs(t *testing.T) {
	for agent, api := range map[string]string{
		"claude": "api.anthropic.com", "codex": "api.openai.com", "gemini": "generativelanguage.googleapis.com", "opencode": "models.opencode.ai",
	} {
		in := networked(t, `{"extends": ["`+agent+`"]}`, host.Yes)
		p := mustPlan(t, in)
		rules, err := decide.Compile(p.Network.Rules)
		if err != nil {
			t.Fatal(err)
		}
		if v := rules.Connect(api, 443); !v.Allow || v.Look {
			t.Errorf("%s: %+v", agent, v)
		}
		if v := rules.Connect(api, 80); v.Allow {
			t.Errorf("%s in the clear: %+v", agent, v)
		}
		if len(p.RequiredGaps()) > 0 {
			text, _ := json.Marshal(p.Gaps)
			t.Errorf("%s: %s", agent, text)
		}
	}
}

// The registries of tools may be reached if a profile asks for them, under the name of
// the tool; a denial beats that, as it does every other rule.
func TestRegistries(t *testing.T) {
	asked := []host.Asked{
		{Tool: "npm", Command: "npm config", Registries: []host.Registry{{Host: "registry.test", Port: "443"}, {Host: "10.1.2.3", Port: "4873"}, {Host: "fd00::1", Port: "80"}}},
		{Tool: "go", Command: "go env", Registries: []host.Registry{{Host: "go.test", Port: "443"}}},
		{Tool: "yarn", Command: "yarn config", Problem: "it lies in the project"},
	}
	may := func(user, name string, port uint16) bool {
		t.Helper()
		in := loaded(t, "", user, "", nil)
		in.Facts.Asked = asked
		in.Facts.Mechanisms = append(in.Facts.Mechanisms, host.Mechanism{Name: host.Nftables, Answer: host.Yes})
		p := mustPlan(t, in)
		rules, err := decide.Compile(p.Network.Rules)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.RequiredGaps()) > 0 {
			t.Errorf("%s: %+v", user, p.Gaps)
		}
		q := decide.Request{Name: name, Port: port, Method: "PUT", Path: "/name"}
		v := rules.Connect(name, port)
		if a, err := netip.ParseAddr(name); err == nil {
			v = rules.ConnectAddr(netip.AddrPortFrom(a, port))
			q.Name, q.Addr = "", a
		}
		if v.Allow && v.Look {
			if put := rules.Request(q); put.Allow {
				t.Errorf("%s: publishing to %s is allowed", user, name)
			}
			q.Method = "GET"
			v = rules.Request(q)
		} else if v.Allow && !strings.Contains(user, "tunnelDomains") {
			t.Errorf("%s: nobody looks at what is sent to %s", user, name)
		}
		if rule, ok := p.Rule(v.Rule); v.Allow && (!ok || rule.Origin.Layer != "profile:node" || rule.Origin.Key != "npm config") && !strings.Contains(user, "tunnelDomains") {
			t.Errorf("%s is allowed by %+v", name, rule)
		}
		if !slices.ContainsFunc(p.Rules, func(r plan.RuleStatus) bool {
			return r.Text == "registries of yarn" && r.Status == plan.Impossible && r.Note == "it lies in the project"
		}) && !strings.Contains(user, "false") && user != "{}" {
			t.Errorf("%s: yarn is not told of", user)
		}
		return v.Allow
	}
	const node = `{"extends": ["node"]}`
	for _, c := range []struct {
		user, name string
		port       uint16
		want       bool
	}{
		{node, "registry.test", 443, true},
		{node, "registry.test", 80, false},
		{node, "sub.registry.test", 443, false},
		{node, "10.1.2.3", 4873, true},
		{node, "10.1.2.4", 4873, false},
		{node, "fd00::1", 80, true},
		{node, "go.test", 443, false}, // no profile of Go's
		{"{}", "registry.test", 443, false},
		{`{"extends": ["node"], "network": {"tunnelDomains": ["registry.test"]}}`, "registry.test", 443, true},
		{`{"extends": ["node"], "network": {"registries": false}}`, "registry.test", 443, false},
		{`{"extends": ["node"], "network": {"deniedDomains": ["registry.test"]}}`, "registry.test", 443, false},
	} {
		if got := may(c.user, c.name, c.port); got != c.want {
			t.Errorf("%s: %s:%d allowed %v, want %v", c.user, c.name, c.port, got, c.want)
		}
	}
}
