package flow

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
)

// A file that is named and can't be read is a problem of that file.
func TestUnreadablePolicyIsNoMistakeOfOurs(t *testing.T) {
	c := Caller{Dir: t.TempDir(), Environ: []string{"HOME=" + t.TempDir()}}
	_, imported := Import(t.Context(), "", "nope.json", c)
	_, trusted := TrustFile(t.Context(), "", false, c)
	for name, err := range map[string]error{"trust": trusted, "check": Check(t.Context(), "nope.jsonc", c), "import": imported} {
		var p *PolicyError
		if !errors.As(err, &p) || len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0].File, c.Dir) || p.Problems[0].Text == "" {
			t.Errorf("%s: %#v", name, err)
		}
	}
}

// What trust can't write is a matter of the state directory.
func TestTrustThatCannotBeKept(t *testing.T) {
	ws, home := t.TempDir(), t.TempDir()
	c := Caller{Dir: ws, Environ: []string{"HOME=" + home}}
	file := filepath.Join(ws, policy.ProjectFile)
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("{}"), 0o644)); err != nil {
		t.Fatal(err)
	}
	state, err := stateDir(c.Environ)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(state, 0o700), os.WriteFile(filepath.Join(state, "trust.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, revoke := range []bool{false, true} {
		_, err := TrustFile(t.Context(), "", revoke, c)
		var s *session.Error
		if !errors.As(err, &s) {
			t.Errorf("revoke=%v: %#v", revoke, err)
		}
	}
}

// What stands where the private home should be is neither followed nor used.
func TestPrivateHomeIsADirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	p := &prepared{policy: &policy.Effective{}, plan: &plan.Plan{PrivateHome: dir + "/homes/x"}}
	p.facts.Home = t.TempDir()
	if err := makeHome(p); err != nil {
		t.Fatal("control:", err)
	}
	if err := os.Remove(p.plan.PrivateHome); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, p.plan.PrivateHome); err != nil {
		t.Fatal(err)
	}
	if err := makeHome(p); err == nil {
		t.Error("a link is taken for the private home")
	}
}

// A seed is a small regular file: a FIFO would hold the start up, a disk image fill
// the private home.
func TestSeedsAreSmallFiles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, make := range map[string]func(file string) error{
		"file":  func(f string) error { return os.WriteFile(f, []byte("x"), 0o600) },
		"fifo":  func(f string) error { return syscall.Mkfifo(f, 0o600) },
		"large": func(f string) error { return errors.Join(os.WriteFile(f, nil, 0o600), os.Truncate(f, seedSize+1)) },
		"dir":   func(f string) error { return os.Mkdir(f, 0o700) },
		"link":  func(f string) error { return os.Symlink("/etc/passwd", f) },
	} {
		if err := make(filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
		a, err := os.OpenRoot(from)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.OpenRoot(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := copySeed(a, b, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		a.Close()
		b.Close()
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != (name == "file") {
			t.Errorf("%s: copied is %v", name, err == nil)
		}
	}
}
