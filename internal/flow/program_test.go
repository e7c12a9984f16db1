package flow

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"cofferdam/internal/boundary"
)

// As shells have it: what is not on PATH is not found; what is there without the
// right to execute it can't be executed, unless a later directory has a better one.
func TestFindProgram(t *testing.T) {
	plain, good := t.TempDir(), t.TempDir()
	for _, f := range []struct {
		name string
		mode os.FileMode
	}{{plain + "/a", 0o644}, {plain + "/b", 0o644}, {good + "/b", 0o755}} {
		if err := os.WriteFile(f.name, nil, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(plain+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	c := Caller{Environ: []string{"PATH=.:" + plain + ":" + good}}
	for name, want := range map[string]*boundary.ExecError{
		"a": {Program: plain + "/a", Errno: syscall.EACCES},
		"d": {Program: "d", Errno: syscall.ENOENT},
		"x": {Program: "x", Errno: syscall.ENOENT},
	} {
		got, err := findProgram([]string{name}, c, place{})
		var ee *boundary.ExecError
		if got != "" || !errors.As(err, &ee) || *ee != *want {
			t.Errorf("%s: %q, %v, want %v", name, got, err, want)
		}
	}
	if got, err := findProgram([]string{"b"}, c, place{}); err != nil || got != good+"/b" {
		t.Errorf("b: %q, %v", got, err)
	}
}
