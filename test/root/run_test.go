package root

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

// A run takes control groups for its ceilings where it can have them, and tells of
// those that were reached.
func TestRunTakesTheGroup(t *testing.T) {
	needGroups(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "cofferdam")
	build := exec.Command("go", "build", "-o", binary, "cofferdam/cmd/cofferdam")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, d := range []string{"home", "project"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	policy := filepath.Join(dir, "policy.jsonc")
	text := `{"identity": {"allowRoot": true}, "resources": {"memory": "64MiB", "processes": 40, "cpus": 1}}`
	if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, string) {
		cmd := exec.Command(binary, append([]string{"run", "--policy", policy}, args...)...)
		cmd.Dir = filepath.Join(dir, "project")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home")}
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		return out.String(), errs.String()
	}
	out, errs := run("--dry-run", "--json", "--", "true")
	var p plan.Plan
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	for _, name := range []string{"memory", "processes", "cpus"} {
		if l, _ := p.Limit(name); l.Mechanism != "cgroup-v1" || l.Status != plan.Enforced {
			t.Errorf("%s: %+v", name, l)
		}
	}
	out, errs = run("--", "/usr/bin/python3", "-c", "x = bytearray(300 << 20); print('got it')")
	if out != "" || !strings.Contains(errs, "memory - 64 MiB: processes ended by the kernel: 1") {
		t.Errorf("memory: %q, %q", out, errs)
	}
	_, errs = run("--", "sh", "-c", "for i in $(seq 60); do sleep 1 & done; wait")
	if !strings.Contains(errs, "processes - 40: new processes refused: ") {
		t.Errorf("processes: %q", errs)
	}
}
