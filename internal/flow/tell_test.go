package flow

import (
	"os"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// What is said before the start are words, and not strings of Go; a name in them is
// harmless all the same.
func TestTellInWords(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tell(Caller{Err: f}, []policy.Warning{{Text: "\"a b\" is left out\x1b[2J", Hint: "say so: x y", Origin: plan.Origin{File: "/p q", Line: 3}}},
		&plan.Plan{Rules: []plan.RuleStatus{{Text: "allowRead ~/x", Status: plan.Impossible, Note: "it is a socket", Origin: plan.Origin{Layer: "flag"}}}})
	got, err := os.ReadFile(f.Name())
	const want = `cofferdam: warning: "a b" is left out\x1b[2J
  rule: /p q:3
  hint: say so: x y
cofferdam: allowRead ~/x can't be given: it is a socket
  rule: flag
`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}
