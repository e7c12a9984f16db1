package system

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Bad input gets one clear message with a hint and the documented code, and the
// command does not run.
func TestBadCommandLines(t *testing.T) {
	s := newSite(t)
	link := filepath.Join(s.home, "link")
	if err := os.Symlink(s.workspace, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want int
		args []string
	}{
		{64, []string{"run"}},
		{64, []string{"run", "--no-such-flag", "--", "touch", "ran"}},
		{64, []string{"no-such-command"}},
		{64, []string{"run", "--allow-domain", "a.example.org", "--", "touch", "ran"}},
		{64, []string{"run", "--allow-cidr", "10.0.0.0/8:443", "--", "touch", "ran"}},
		{64, []string{"run", "--workspace", "/no/such/dir", "--", "touch", "ran"}},
		{64, []string{"run", "--workspace", link, "--", "touch", "ran"}},
		{64, []string{"run", "--allow-read", "", "--", "touch", "ran"}},
		{77, []string{"run", "--workspace", "/", "--", "touch", "ran"}},
		{77, []string{"run", "--workspace", s.home, "--", "touch", "ran"}},
		{66, []string{"exec", "nobody", "--", "true"}},
	} {
		r := s.run(t, c.args...)
		if r.status != c.want || !strings.HasPrefix(r.err, "cofferdam: ") {
			t.Errorf("%q: status %d, want %d: %s", c.args, r.status, c.want, r.err)
		}
	}
	if s.exists("ran") {
		t.Error("a command ran")
	}
}

func TestBadPolicies(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := file("big", "")
	if err := os.Truncate(big, 100<<20); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, says string }{
		"misspelt key": {file("a", `{"filesystem": {"denyReads": []}}`), `did you mean "denyRead"`},
		"wrong type":   {file("b", `{"filesystem": {"denyRead": "x"}}`), "a list is wanted"},
		"not JSON":     {file("c", `{`), "ends in the middle"},
		"binary":       {file("d", "\x00\x01"), "NUL"},
		"FIFO":         {fifo, "a FIFO"},
		"directory":    {dir, "a directory"},
		"too big":      {big, "more than 1 MiB"},
		"missing":      {filepath.Join(dir, "missing"), "no such file"},
	} {
		r := s.run(t, "run", "--policy", c.path, "--", "touch", "ran")
		if r.status != 65 || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: status %d: %s", name, r.status, r.err)
		}
	}
	if s.exists("ran") {
		t.Error("the command ran under a policy that can't be read")
	}
}
