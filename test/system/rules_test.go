package system

import (
	"strings"
	"testing"
)

// What a rule opens for reading in what another closes can be read there and not be
// written, although it lies in the workspace; and explain says the same.
func TestAllowReadGivesNoWriting(t *testing.T) {
	s := newSite(t)
	s.write(t, "closed/x", "hidden\n")
	s.write(t, "closed/open/x", "seen\n")
	s.write(t, ".env", "TOKEN=seen\n")
	s.write(t, ".env.example", "TOKEN=\n")
	s.write(t, s.home+"/policy.jsonc", `{"filesystem": {"denyRead": ["./closed"], "allowRead": ["./closed/open", "./.env"]}}`)
	r := s.run(t, "run", "--policy", s.home+"/policy.jsonc", "--", "sh", "-c", `
		for f in closed/x closed/open/x .env .env.example main; do
			cat $f >/dev/null 2>&1 && echo reads $f
			echo more 2>/dev/null >> $f && echo writes $f
		done; echo more 2>/dev/null > closed/open/new && echo makes; mv closed moved 2>/dev/null && echo moves; true`)
	r.wants(t, 0)
	const want = "reads closed/open/x\nreads .env\nreads .env.example\nwrites .env.example\nwrites main\n"
	if got := strings.ReplaceAll(r.out, "reads main\n", ""); got != want {
		t.Errorf("got\n%s, want\n%s%s", got, want, r.err)
	}
	for _, f := range []string{"closed/x", "closed/open/x", ".env", ".env.example"} {
		for kind, verb := range map[string]string{"read": "reads ", "write": "writes "} {
			e := s.run(t, "policy", "explain", "--policy", s.home+"/policy.jsonc", kind, f)
			if strings.HasPrefix(e.out, "allowed") != strings.Contains(want, verb+f+"\n") {
				t.Errorf("explain %s %s: %s%s", kind, f, e.out, e.err)
			}
		}
	}
}
