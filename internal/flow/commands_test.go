package flow

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
