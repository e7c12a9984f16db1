package policy

import (
	"strings"
	"testing"
)

// Below /run the servers of the host have their sockets, and a directory that can be
// read is one whose sockets can be connected to: only files are opened there.
func TestBuiltinOpensNoDirectoryOfSockets(t *testing.T) {
	e := &Effective{}
	e.builtin(Place{Home: "/home/u", Workspace: "/home/u/p"})
	n := 0
	for _, r := range e.Paths {
		if !strings.HasPrefix(r.Pattern, "/run") && !strings.HasPrefix(r.Pattern, "/var/run") {
			continue
		}
		if n++; !strings.HasSuffix(r.Pattern, "resolv.conf") {
			t.Errorf("%s %s", r.Access, r.Pattern)
		}
	}
	if n == 0 {
		t.Error("no rule for what /etc/resolv.conf leads to")
	}
}
