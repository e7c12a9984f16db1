package flow

import (
	"os/exec"
	"strings"
	"testing"

	"cofferdam/internal/event"
	"cofferdam/internal/glob"
	"cofferdam/internal/report"
)

// The name in "to allow it" was chosen inside. Whoever copies the line opens what
// was refused, and nothing beside it.
func TestAdviceOpensOneThing(t *testing.T) {
	for _, name := range []string{"/h/a", "/h/*", "/h/**", "/h/[a-z]?", `/h/\*`, "/h/a b'\"", "/h/$(id)", "/h/\x1b[2J", "/h/\n*", "/h/pages/[id].env"} {
		var s report.Summary
		e := event.Event{Kind: event.Denied, Access: "read", Action: "open", Subject: event.Escape(name)}
		if err := s.Event(e); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("bash", "-c", `printf '%s\0' `+s.Refused[0].Allow).Output()
		args := strings.Split(string(out), "\x00")
		if err != nil || len(args) != 3 || args[0] != "--allow-read" {
			t.Errorf("%q: %v, %q", name, err, args)
			continue
		}
		p, err := glob.Compile(args[1])
		if err != nil {
			t.Errorf("%q: %q: %v", name, args[1], err)
			continue
		}
		if only, ok := p.Literal(); !ok || "/"+only != name {
			t.Errorf("%q is opened by %q, which is %q, %v", name, args[1], only, ok)
		}
	}
}
