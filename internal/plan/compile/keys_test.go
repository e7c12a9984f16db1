package compile

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/schema"
)

// carriedOut has, for each key of the policy, a policy with it and the rule that the
// plan must have because of it; no rule where the key is a setting, which has to make
// another plan. With is the policy to compare with, if not an empty one.
var carriedOut = map[string]struct{ policy, rule, with string }{
	"extends":                            {policy: `{"extends": ["go"]}`},
	"filesystem.allowRead":               {`{"filesystem": {"allowRead": ["~/docs"]}}`, "allowRead ~/docs", ""},
	"filesystem.denyRead":                {`{"filesystem": {"denyRead": ["./a"]}}`, "denyRead ./a", ""},
	"filesystem.allowWrite":              {`{"filesystem": {"allowWrite": ["~/docs"]}}`, "allowWrite ~/docs", ""},
	"filesystem.denyWrite":               {`{"filesystem": {"denyWrite": ["./a"]}}`, "denyWrite ./a", ""},
	"filesystem.allowGitConfig":          {policy: `{"filesystem": {"allowGitConfig": true}}`},
	"credentials.files[].path":           {`{"credentials": {"files": [{"path": "./a"}]}}`, "denyRead ./a", ""},
	"credentials.envVars[].name":         {`{"credentials": {"envVars": [{"name": "TERM"}]}}`, "deny environment TERM", ""},
	"network.allowedDomains":             {`{"network": {"allowedDomains": ["example.org"]}}`, "allowedDomains example.org", ""},
	"network.deniedDomains":              {`{"network": {"deniedDomains": ["example.org"]}}`, "deniedDomains example.org", ""},
	"network.allowedCIDRs":               {`{"network": {"allowedCIDRs": ["10.0.0.0/8"]}}`, "allowedCIDRs 10.0.0.0/8", ""},
	"network.tunnelDomains":              {`{"network": {"tunnelDomains": ["example.org"]}}`, "tunnelDomains example.org", ""},
	"network.unlisted":                   {`{"network": {"unlisted": "ask"}}`, "unlisted ask", ""},
	"network.rules[].host":               {`{"network": {"rules": [{"host": "example.org"}]}}`, "rules example.org allow", ""},
	"network.rules[].effect":             {`{"network": {"rules": [{"host": "example.org", "effect": "deny"}]}}`, "rules example.org deny", ""},
	"network.rules[].methods":            {`{"network": {"rules": [{"host": "example.org", "methods": ["GET"]}]}}`, "rules example.org allow, methods GET", ""},
	"network.rules[].paths":              {`{"network": {"rules": [{"host": "example.org", "paths": ["/a"]}]}}`, "rules example.org allow, paths /a", ""},
	"network.rules[].git":                {`{"network": {"rules": [{"host": "example.org", "git": ["fetch", "push"]}]}}`, "rules example.org allow, git fetch push", ""},
	"network.rules[].refs":               {`{"network": {"rules": [{"host": "example.org", "git": ["push"], "refs": ["refs/heads/*"]}]}}`, "rules example.org allow, git push, refs refs/heads/*", ""},
	"network.rules[].packages":           {`{"network": {"rules": [{"host": "example.org", "packages": ["install"]}]}}`, "rules example.org allow, packages install", ""},
	"network.rules[].uploads":            {`{"network": {"rules": [{"host": "example.org", "uploads": ["gist"]}]}}`, "rules example.org allow, uploads gist", ""},
	"network.rules[].tls":                {`{"network": {"rules": [{"host": "example.org", "tls": "tunnel"}]}}`, "rules example.org allow, tls tunnel", ""},
	"network.rules[].reason":             {`{"network": {"rules": [{"host": "example.org", "effect": "deny", "reason": "x"}]}}`, "rules example.org deny", ""},
	"network.budget.upload":              {`{"network": {"budget": {"upload": "10MiB"}}}`, "budget: upload 10 MiB", ""},
	"network.budget.requests":            {`{"network": {"budget": {"requests": "100/m"}}}`, "budget: requests 100 in 1m", ""},
	"network.budget.connections":         {`{"network": {"budget": {"connections": "5/1s"}}}`, "budget: connections 5 in 1s", ""},
	"network.rules[].budget.upload":      {`{"network": {"rules": [{"host": "example.org", "methods": ["POST"], "budget": {"upload": "10MiB"}}]}}`, "budget example.org: upload 10 MiB, methods POST", `{"network": {"rules": [{"host": "example.org", "methods": ["POST"]}]}}`},
	"network.rules[].budget.requests":    {`{"network": {"rules": [{"host": "example.org", "budget": {"requests": "3"}}]}}`, "budget example.org: requests 3", `{"network": {"rules": [{"host": "example.org"}]}}`},
	"network.rules[].budget.connections": {`{"network": {"rules": [{"host": "example.org", "budget": {"connections": "3/1.5h"}}]}}`, "budget example.org: connections 3 in 1h30m", `{"network": {"rules": [{"host": "example.org"}]}}`},
	"network.upstreamProxy":              {`{"network": {"upstreamProxy": "http://proxy.test:3128"}}`, "upstreamProxy http://proxy.test:3128", ""},
	"network.noProxy":                    {`{"network": {"upstreamProxy": "http://proxy.test:3128", "noProxy": ["a.test"]}}`, "noProxy a.test", `{"network": {"upstreamProxy": "http://proxy.test:3128"}}`},
	"network.extraRoots":                 {`{"network": {"extraRoots": ["/etc/corp.pem"]}}`, "extraRoots /etc/corp.pem", ""},
	"network.registries":                 {policy: `{"extends": ["node"], "network": {"registries": false}}`, with: `{"extends": ["node"]}`},
	"environment.allow":                  {`{"environment": {"allow": ["A"]}}`, "allow environment A", ""},
	"environment.deny":                   {`{"environment": {"deny": ["TERM"]}}`, "deny environment TERM", ""},
	"environment.set":                    {`{"environment": {"set": {"A": "x"}}}`, "set environment A", ""},
	"workspace.mode":                     {`{"workspace": {"mode": "copy"}}`, "workspace.mode copy", ""},
	"workspace.home":                     {policy: `{"workspace": {"home": "ephemeral"}}`},
	"workspace.protect":                  {`{"workspace": {"protect": ["**/gen"]}}`, "protect **/gen", ""},
	"workspace.unprotect":                {policy: `{"workspace": {"unprotect": ["**/.vscode/"]}}`},
	"resources.timeout":                  {`{"resources": {"timeout": "3s"}}`, "limit time 3s", ""},
	"resources.memory":                   {`{"resources": {"memory": "1GiB"}}`, "limit memory 1 GiB", ""},
	"resources.cpus":                     {`{"resources": {"cpus": 2}}`, "limit cpus 2 CPUs", ""},
	"resources.processes":                {`{"resources": {"processes": 70}}`, "limit processes 70", ""},
	"resources.openFiles":                {`{"resources": {"openFiles": 70}}`, "limit open-files 70", ""},
	"resources.tempSize":                 {`{"resources": {"tempSize": "1MiB"}}`, "limit temp-size 1 MiB", ""},
	"identity.allowRoot":                 {policy: `{"identity": {"allowRoot": true}}`},
	"credentials.files[].mode":           {`{"credentials": {"files": [{"path": "./.env", "mode": "mask", "hosts": ["a.test"]}]}}`, "mask ./.env", ""},
	"credentials.files[].hosts":          {`{"credentials": {"files": [{"path": "./.env", "mode": "mask", "hosts": ["b.test"]}]}}`, "mask ./.env", ""},
	"credentials.files[].extract":        {`{"credentials": {"files": [{"path": "./.env", "mode": "mask", "hosts": ["a.test"], "extract": "=(.*)"}]}}`, "mask ./.env", ""},
	"credentials.files[].bodies":         {`{"credentials": {"files": [{"path": "./.env", "mode": "mask", "hosts": ["a.test"], "bodies": true}]}}`, "mask ./.env", ""},
	"credentials.envVars[].mode":         {`{"credentials": {"envVars": [{"name": "A", "mode": "mask", "hosts": ["a.test"]}]}}`, "mask environment A", ""},
	"credentials.envVars[].hosts":        {`{"credentials": {"envVars": [{"name": "A", "mode": "mask", "hosts": ["b.test"]}]}}`, "mask environment A", ""},
	"credentials.envVars[].command":      {`{"credentials": {"envVars": [{"name": "NEW", "mode": "mask", "hosts": ["a.test"], "command": ["gh"]}]}}`, "mask environment NEW", ""},
	"credentials.envVars[].ttl":          {`{"credentials": {"envVars": [{"name": "NEW", "mode": "mask", "hosts": ["a.test"], "command": ["gh"], "ttl": "1h"}]}}`, "mask environment NEW", ""},
	"credentials.envVars[].bodies":       {`{"credentials": {"envVars": [{"name": "A", "mode": "mask", "hosts": ["a.test"], "bodies": true}]}}`, "mask environment A", ""},
}

// schemaKeys lists the keys of a policy that can say something: whatever has one value
// only can't.
func schemaKeys(t *testing.T) []string {
	type node struct {
		Properties           map[string]*node
		Items                *node
		Enum                 []any
		Const                any
		AdditionalProperties any
	}
	var root node
	if err := json.Unmarshal(schema.Policy, &root); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var walk func(at string, n *node)
	walk = func(at string, n *node) {
		switch {
		case len(n.Properties) > 0:
			for name, below := range n.Properties {
				walk(strings.TrimPrefix(at+"."+name, "."), below)
			}
		case n.Items != nil && len(n.Items.Properties) > 0:
			walk(at+"[]", n.Items)
		case n.Const != nil, len(n.Enum) == 1, at == "$schema":
		default:
			keys = append(keys, at)
		}
	}
	walk("", &root)
	return keys
}

// Each key that a policy can have is carried out, refused or told: a new one fails here
// until compile does something with it.
func TestEveryKeyIsCarriedOut(t *testing.T) {
	keys := schemaKeys(t)
	if len(keys) < 20 {
		t.Fatalf("only %d keys in the schema: %q", len(keys), keys)
	}
	run := func(text string) (Input, *plan.Plan) {
		in := loaded(t, "", text, "", nil)
		in.Environ, in.Facts.UID = outside, 0
		in.Facts.Asked = []host.Asked{{Tool: "npm", Command: "npm config", Registries: []host.Registry{{Host: "registry.test", Port: "443"}}}}
		in.Facts.Mechanisms = append(in.Facts.Mechanisms, host.Mechanism{Name: host.Nftables, Answer: host.Yes})
		if in.Policy.Home.Value != "private" {
			in.PrivateHome = "" // as flow does
		}
		return in, mustPlan(t, in)
	}
	body := func(p *plan.Plan) string {
		q := *p
		q.Rules = nil // what is told of a rule is not what is done
		text, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, key := range keys {
		c, ok := carriedOut[key]
		if !ok {
			t.Errorf("nobody has said how %s is carried out", key)
			continue
		}
		_, without := run(cmp.Or(c.with, "{}"))
		in, p := run(c.policy)
		accounted(t, in, p)
		var mine []plan.RuleStatus
		for _, r := range p.Rules {
			if r.Origin.Layer == "user" && !slices.ContainsFunc(without.Rules, func(o plan.RuleStatus) bool { return o.Text == r.Text }) {
				mine = append(mine, r)
			}
		}
		switch {
		case c.rule == "" && body(p) == body(without):
			t.Errorf("%s makes no other plan", key)
		case c.rule == "":
		case len(mine) != 1 || mine[0].Text != c.rule || !strings.HasPrefix(key+"[", mine[0].Origin.Key+"["):
			t.Errorf("%s: the rules are %+v, want one: %s", key, mine, c.rule)
		case body(p) == body(without) && mine[0].Mechanism != "net-namespace" && mine[0].Status != plan.Impossible:
			t.Errorf("%s is called %s, and the plan is as without it", key, mine[0].Status)
		}
	}
	for key := range carriedOut {
		if !slices.Contains(keys, key) {
			t.Errorf("%s is no key any more", key)
		}
	}
}

// accounted checks that each rule of the policy is in the plan once, with a status; and
// that a denial that can't be carried out stops the run.
func accounted(t testing.TB, in Input, p *plan.Plan) {
	t.Helper()
	type name struct {
		text   string
		origin plan.Origin
	}
	want := map[name]int{}
	e := in.Policy
	for _, r := range e.Paths {
		want[name{string(r.Access) + " " + r.Text, r.Origin}]++
	}
	for _, r := range e.Guards {
		want[name{"protect " + r.Pattern, r.Origin}]++
	}
	for _, r := range e.Env {
		want[name{string(r.Action) + " environment " + r.Name, r.Origin}]++
	}
	for _, r := range e.Net {
		want[name{r.Text(), r.Origin}]++
	}
	for _, r := range e.Budgets {
		want[name{r.Text(), r.Origin}]++
	}
	if v := e.UpstreamProxy.Value; v != "" && v != "none" {
		want[name{"upstreamProxy " + v, e.UpstreamProxy.Origin}]++
	}
	for _, r := range e.ExtraRoots {
		want[name{"extraRoots " + r.Text, r.Origin}]++
	}
	for _, s := range e.NoProxy {
		want[name{"noProxy " + s.Value, s.Origin}]++
	}
	if e.Unlisted.Value == policy.Ask {
		want[name{"unlisted ask", e.Unlisted.Origin}]++
	}
	if e.WorkspaceMode.Value == modeCopy {
		want[name{"workspace.mode copy", e.WorkspaceMode.Origin}]++
	}
	limits := 0
	for i, r := range p.Rules {
		if r.ID != i+1 {
			t.Errorf("rule %d is number %d", r.ID, i+1)
		}
		if strings.HasPrefix(r.Text, "limit ") {
			limits++
		} else if want[name{r.Text, r.Origin}]--; want[name{r.Text, r.Origin}] < 0 {
			t.Errorf("a rule that the policy does not have, or twice: %+v", r)
		}
		switch r.Status {
		case plan.Enforced:
		case plan.Coarse, plan.Impossible:
			if r.Note == "" {
				t.Errorf("%+v: nobody says why", r)
			}
		default:
			t.Errorf("%+v: no status", r)
		}
		if r.Status == plan.Impossible && (strings.HasPrefix(r.Text, "deny") || strings.HasPrefix(r.Text, "rules ") && strings.Contains(r.Text+",", " deny,") || strings.HasPrefix(r.Text, "protect ")) &&
			!slices.ContainsFunc(p.RequiredGaps(), func(g plan.Gap) bool { return g.Rule == r.ID }) {
			t.Errorf("%+v: the run goes on", r)
		}
	}
	for n, left := range want {
		if left > 0 {
			t.Errorf("%v is not in the plan", n)
		}
	}
	names := map[string]bool{}
	for _, l := range e.Limits {
		names[l.Name] = true
	}
	if limits != len(names) || len(p.Limits) != limits {
		t.Errorf("%d rules for limits and %d limits, want %d", limits, len(p.Limits), len(names))
	}
}

// A setting that compile does not know is refused, wherever it comes from.
func TestUnknownSettingsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*policy.Effective){
		"boundary":       func(e *policy.Effective) { e.Boundary.Value = "vm" },
		"workspace mode": func(e *policy.Effective) { e.WorkspaceMode.Value = "worktree" },
		"no mode":        func(e *policy.Effective) { e.WorkspaceMode.Value = "" },
		"home":           func(e *policy.Effective) { e.Home.Value = "shared" },
		"limit":          func(e *policy.Effective) { e.Limits = append(e.Limits, policy.LimitRule{Name: "disk", Value: 1}) },
		"network rule":   func(e *policy.Effective) { e.Net = append(e.Net, policy.NetRule{Key: "deniedCIDRs", Value: "::/0"}) },
		"unlisted":       func(e *policy.Effective) { e.Unlisted.Value = "allow" },
		"effect": func(e *policy.Effective) {
			e.Net = append(e.Net, policy.NetRule{Key: "rules", Value: "a.test", Effect: "audit"})
		},
		"tls": func(e *policy.Effective) {
			e.Net = append(e.Net, policy.NetRule{Key: "rules", Value: "a.test", Effect: "allow", TLS: "peek"})
		},
		"path rule": func(e *policy.Effective) {
			e.Paths = append(e.Paths, policy.PathRule{Access: "denyExecute", Pattern: "/opt"})
		},
		"variable": func(e *policy.Effective) { e.Env = append(e.Env, policy.EnvRule{Action: "ask", Name: "TERM"}) },
	} {
		in := loaded(t, "", "", "", nil)
		if len(mustPlan(t, in).RequiredGaps()) > 0 {
			t.Fatal("refused as it is")
		}
		change(in.Policy)
		if p, err := Plan(in); err == nil && len(p.RequiredGaps()) == 0 {
			t.Errorf("%s: nobody refuses it", what)
		}
	}
}
