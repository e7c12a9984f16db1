package policy

import (
	"fmt"
	"os"
	"slices"
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

// The rules that hold before anybody has written one, line by line: nothing of them
// goes, and nothing comes, unnoticed.
func TestBuiltinRules(t *testing.T) {
	e := &Effective{}
	e.builtin(Place{Home: "/home/u", Workspace: "/home/u/p", Login: "/home/login"})
	var got strings.Builder
	for _, r := range e.Paths {
		fmt.Fprintf(&got, "%s %s (%s)\n", r.Access, r.Pattern, r.Origin.Layer)
	}
	for _, g := range e.Guards {
		fmt.Fprintf(&got, "guard %s\n", g.Pattern)
	}
	for _, v := range e.Env {
		fmt.Fprintf(&got, "environment %s %s\n", v.Action, v.Name)
	}
	for _, l := range e.Limits {
		fmt.Fprintf(&got, "limit %s %d %s\n", l.Name, l.Value, l.Unit)
	}
	fmt.Fprintf(&got, "boundary %s, workspace %s, home %s, root %v, git configuration %v\n",
		e.Boundary.Value, e.WorkspaceMode.Value, e.Home.Value, e.AllowRoot.Value, e.AllowGitConfig.Value)
	const file = "testdata/builtin.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Split(got.String(), "\n")
	listed := strings.Split(string(want), "\n")
	for _, line := range listed {
		if !slices.Contains(have, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range have {
		if !slices.Contains(listed, line) {
			t.Errorf("new: %s (go test ./internal/policy -run TestBuiltinRules -update)", line)
		}
	}
}
