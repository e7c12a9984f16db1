package flow

import (
	"errors"
	"strings"
	"testing"
)

// A file that is named and can't be read is a problem of that file.
func TestUnreadablePolicyIsNoMistakeOfOurs(t *testing.T) {
	c := Caller{Dir: t.TempDir()}
	_, imported := Import(t.Context(), "", "nope.json", c)
	for name, err := range map[string]error{"check": Check(t.Context(), "nope.jsonc", c), "import": imported} {
		var p *PolicyError
		if !errors.As(err, &p) || len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0].File, c.Dir) || p.Problems[0].Text == "" {
			t.Errorf("%s: %#v", name, err)
		}
	}
}
