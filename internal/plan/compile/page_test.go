package compile

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// The examples of docs/network.md are policies, and mean what the page says, by the
// rules as they are meant (what this version carries out is another question).
func TestNetworkPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/network.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(jsonc|text)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	var rules *decide.Rules
	examples, lines := 0, 0
	for _, b := range blocks {
		if b[1] == "jsonc" {
			examples++
			c := &compiler{in: networked(t, b[2], host.Yes), p: &plan.Plan{}}
			meant := c.netRules()
			if rules, err = decide.Compile(meant); err != nil || len(c.p.Gaps) > 0 {
				t.Fatalf("%s: %v, %+v", b[2], err, c.p.Gaps)
			}
			continue
		}
		for line := range strings.Lines(b[2]) {
			lines++
			words := strings.Fields(line)
			var v decide.Verdict
			if words[1] == "connect" {
				name, port, _ := strings.Cut(words[2], ":")
				v = rules.Connect(name, map[string]uint16{"22": 22, "443": 443}[port])
			} else {
				q, _, err := request(words[1] + " " + words[2])
				if err != nil {
					t.Fatal(err)
				}
				for _, ref := range words[3:] {
					q.Refs = append(q.Refs, decide.Ref{Name: ref})
				}
				v = rules.Request(q)
			}
			got := "denied"
			switch {
			case v.Allow && !v.Look && words[0] == "tunnel":
				got = "tunnel"
			case v.Allow:
				got = "allowed"
			case v.Ask:
				got = "asked"
			case v.Refs:
				got = "refs"
			}
			if got != words[0] {
				t.Errorf("%s: %s: %+v", strings.TrimSpace(line), got, v)
			}
		}
	}
	if examples < 6 || lines < 40 {
		t.Errorf("%d examples with %d lines", examples, lines)
	}
}

// The examples of the page about credentials are policies, and all that they mask is put
// into requests that the rules beside them allow.
func TestCredentialsPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/credentials.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```jsonc\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	for _, b := range blocks {
		in := masking(t, "", b[1], "")
		in.Environ = append(in.Environ, "CLIENT_SECRET=x")
		p := mustPlan(t, in)
		if len(p.Credentials) != strings.Count(b[1], `"mask"`) || len(p.Gaps) > 0 {
			t.Errorf("%s\n%+v, %+v", b[1], p.Credentials, p.Gaps)
		}
	}
	if len(blocks) == 0 {
		t.Error("no example")
	}
	// The table of keys is what the policy knows.
	rows := regexp.MustCompile("(?m)^\\| (`[A-Z_`, ]+`) \\| `([^`]+)` \\|$").FindAllStringSubmatch(string(page), -1)
	for _, r := range rows {
		for _, name := range regexp.MustCompile("[A-Z_]+").FindAllString(r[1], -1) {
			in := masking(t, "", `{"credentials": {"envVars": [{"name": "`+name+`", "mode": "mask"}]}}`, "")
			if len(in.Policy.Masks) != 1 || in.Policy.Masks[0].Hosts[0] != r[2] {
				t.Errorf("%s: %+v", name, in.Policy.Masks)
			}
		}
	}
	if len(rows) != 4 {
		t.Errorf("%d rows", len(rows))
	}
}
