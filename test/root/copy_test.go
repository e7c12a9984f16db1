package root

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// In a project of which something at the top is another group's, an overlay could not
// change that: each file is copied, and it is told. Only root can make one.
func TestCopyOfAnotherGroupsProject(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "cofferdam")
	build := exec.Command("go", "build", "-o", binary, "cofferdam/cmd/cofferdam")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	shared := filepath.Join(dir, "project", "shared")
	for _, d := range []string{"home", "project"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(shared, []byte("shared\n"), 0o664); err != nil {
		t.Fatal(err)
	}
	run := func() (string, string) {
		cmd := exec.Command(binary, "run", "--allow-root", "--mode", "copy", "--", "sh", "-c", "echo more >>shared; cat shared")
		cmd.Dir = filepath.Join(dir, "project")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home")}
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Errorf("%v: %s", err, errs.String())
		}
		return out.String(), errs.String()
	}
	const told = "belongs to another user or group"
	if out, errs := run(); out != "shared\nmore\n" || strings.Contains(errs, told) {
		t.Errorf("control: %q, %q", out, errs)
	}
	if err := os.Chown(shared, -1, 1); err != nil {
		t.Fatal(err)
	}
	out, errs := run()
	if out != "shared\nmore\n" || !strings.Contains(errs, told) || !strings.Contains(errs, "1 file changed in a copy") {
		t.Errorf("%q, %q", out, errs)
	}
	if text, err := os.ReadFile(shared); err != nil || string(text) != "shared\n" {
		t.Errorf("the project has %q, %v", text, err)
	}
}
