package compile

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

var update = flag.Bool("update", false, "write the golden plans anew")

// A plan for each kind of machine, complete: what changes in one is to be looked at.
func TestGoldenPlans(t *testing.T) {
	all := []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 7}, {Name: host.Fuse, Answer: host.Yes}, {Name: host.SeccompNotify, Answer: host.Yes}, {Name: host.CgroupV2, Answer: host.Yes}}
	none := []host.Mechanism{
		{Name: host.UserNamespaces, Answer: host.No, Detail: "clone: operation not permitted", Remedy: "sysctl"},
		{Name: host.Landlock, Answer: host.Unknown, Detail: "seccomp"}, {Name: host.Fuse, Answer: host.Unknown},
	}
	const own = `{
  "filesystem": {"allowRead": ["~/docs", "./a/b/.env"], "denyRead": ["./a", "~/docs/private", "**/*.pem"], "allowWrite": ["./a/gen", "./.vscode"], "denyWrite": ["./new", "./.env.example"]},
  "environment": {"allow": ["A*"], "deny": ["AB"], "set": {"X": "~/x"}},
  "network": {"allowedDomains": ["example.org"], "deniedDomains": ["*"]},
  "workspace": {"protect": ["**/gen"], "home": "ephemeral"},
  "resources": {"timeout": "1m", "memory": "1GiB", "cpus": 2, "processes": 50}
}`
	for _, c := range []struct {
		name, user string
		uid        int
		mechanisms []host.Mechanism
	}{
		{"default", "", 1000, all},
		{"own-rules", own, 1000, all},
		{"root-without-groups", own, 0, all[:1]},
		{"container-without-namespaces", "", 1000, none},
	} {
		in := loaded(t, "", c.user, "", nil)
		in.Environ, in.Facts.UID, in.Facts.Mechanisms = outside, c.uid, c.mechanisms
		if in.Policy.Home.Value != "private" {
			in.PrivateHome = ""
		}
		got := lines(t, mustPlan(t, in))
		file := filepath.Join("testdata", "plans", c.name+".json")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			a, b := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
			for i := range min(len(a), len(b)) {
				if !bytes.Equal(a[i], b[i]) {
					t.Errorf("%s, line %d:\n%s\nis\n%s", file, i+1, a[i], b[i])
					break
				}
			}
			t.Errorf("%s has %d lines, the plan %d; go test ./internal/plan/compile -run TestGoldenPlans -update, and look at the difference", file, len(a), len(b))
		}
	}
}

// lines prints a plan with one line for each entry of its lists.
func lines(t *testing.T, p *plan.Plan) []byte {
	t.Helper()
	for i := range p.Rules {
		// The file of a test's policy has another name each time.
		if p.Rules[i].Origin.File != "" {
			p.Rules[i].Origin.File = "policy.jsonc"
		}
		if p.Rules[i].Origin.Key == "policy files" {
			p.Rules[i].Text = "denyWrite policy.jsonc"
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	for k, v := range keys {
		var list []json.RawMessage
		if json.Unmarshal(v, &list) != nil || len(list) == 0 || list[0][0] != '{' {
			continue
		}
		keys[k] = nil
		var out bytes.Buffer
		for i, one := range list {
			out.WriteString(map[bool]string{true: "[\n", false: ",\n"}[i == 0])
			out.Write(one)
		}
		out.WriteString("]")
		keys[k] = out.Bytes()
	}
	var out bytes.Buffer
	sep := "{\n"
	for _, k := range []string{"version", "boundary", "command", "program", "dir", "workspace", "privateHome", "profiles", "identity", "mounts", "guards", "environment", "network", "limits", "landlock", "fuseMasks", "seccompNotify", "unattended", "copy", "rules", "gaps"} {
		if v, ok := keys[k]; ok {
			out.WriteString(sep + `"` + k + `": `)
			out.Write(v)
			sep = ",\n"
			delete(keys, k)
		}
	}
	if len(keys) > 0 {
		t.Fatalf("the plan has more: %v", keys)
	}
	out.WriteString("}\n")
	if !json.Valid(out.Bytes()) {
		t.Fatal("no JSON")
	}
	return out.Bytes()
}
