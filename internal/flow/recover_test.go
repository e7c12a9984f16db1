package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace"
)

// killed is a session in the workspace whose supervisor was killed, after before has
// been done with its folder.
func killed(t *testing.T, c Caller, workspace string, before func(x *session.Session)) (*session.Store, string) {
	t.Helper()
	store, err := session.Open(c.Environ)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	x, err := store.Create(t.Context(), &plan.Plan{Boundary: "native", Workspace: workspace}, "")
	if err != nil {
		t.Fatal(err)
	}
	if before != nil {
		before(x)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return store, x.ID
}

// recovered runs the recovery and returns what the person is told and what is left
// for the next run.
func recovered(t *testing.T, store *session.Store, c Caller) (told string, left int) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Err = out
	if err := recoverInterrupted(t.Context(), store, c); err != nil {
		t.Fatal(err)
	}
	list, done, err := store.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text), len(list)
}

// What a killed run has left is set aside or spoken of, at each start, until it is
// dealt with: that it can't be known what there is never passes for nothing.
func TestRecovery(t *testing.T) {
	baseline := func(t *testing.T, ws string) func(*session.Session) {
		return func(x *session.Session) {
			b, err := workspace.TakeBaseline(ws, []plan.Guard{{Pattern: "**/.envrc", Reason: "direnv runs it"}}, nil)
			if err == nil {
				err = x.Write(session.BaselineFile, b)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(ws+"/.envrc", []byte("planted"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		before func(*testing.T, string) func(*session.Session)
		after  func(ws, dir string) error
		told   string
		left   int
	}{
		"swept":          {before: baseline, told: "set aside .envrc"},
		"never begun":    {},
		"baseline torn":  {before: baseline, after: func(_, dir string) error { return os.Truncate(dir+"/baseline.json", 9) }, told: "baseline.json", left: 1},
		"state torn":     {before: baseline, after: func(_, dir string) error { return os.Truncate(dir+"/state.json", 9) }, told: "not known", left: 1},
		"workspace gone": {before: baseline, after: func(ws, _ string) error { return os.Rename(ws, ws+".away") }, told: "no such file", left: 1},
		"another workspace": {before: baseline, after: func(ws, _ string) error {
			if err := os.Rename(ws, ws+".away"); err != nil {
				return err
			}
			return os.Mkdir(ws, 0o755)
		}, told: "another directory", left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			c, home, ws := hostile(t)
			var before func(*session.Session)
			if test.before != nil {
				before = test.before(t, ws)
			}
			store, id := killed(t, c, ws, before)
			dir := home + "/.local/state/cofferdam/sessions/" + id
			if test.after != nil {
				if err := test.after(ws, dir); err != nil {
					t.Fatal(err)
				}
			}
			told, left := recovered(t, store, c)
			if !strings.Contains(told, test.told) || (told == "") != (test.told == "") || left != test.left {
				t.Errorf("told %q, %d left", told, left)
			}
			if left == 0 {
				return
			}
			if again, _ := recovered(t, store, c); again != told {
				t.Errorf("the next run says %q", again)
			}
			// The hint does what it says.
			if !strings.Contains(told, "rm -r -- "+dir+"\n") {
				t.Errorf("no hint: %q", told)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if again, left := recovered(t, store, c); again != "" || left != 0 {
				t.Errorf("when it is removed: %q", again)
			}
		})
	}
}

// A run that fails for whatever reason tells what it has set aside and what it could
// not look at.
func TestFailedRunTellsOfTheWorkspace(t *testing.T) {
	for name, replace := range map[string]bool{"planted": false, "replaced": true} {
		t.Run(name, func(t *testing.T) {
			c, _, ws := hostile(t)
			out, err := os.Create(filepath.Join(t.TempDir(), "err"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			c.Err = out
			store, err := session.Open(c.Environ)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			p := &plan.Plan{Boundary: "native", Workspace: ws, Guards: []plan.Guard{{Pattern: "**/.envrc", Reason: "direnv runs it"}}}
			r := &run{prepared: &prepared{plan: p, policy: &policy.Effective{}}, caller: c, store: store, recorder: &recorder{}}
			defer r.close()
			if err := r.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(ws+"/.envrc", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if replace {
				if err := os.Rename(ws, ws+".away"); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(ws, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			err = r.failed(errors.New("the machine is on fire"))
			text, _ := os.ReadFile(out.Name())
			if err == nil || !strings.Contains(err.Error(), "fire") || strings.Contains(err.Error(), "another directory") != replace {
				t.Errorf("error: %v", err)
			}
			if !replace && !strings.Contains(string(text), "set aside") {
				t.Errorf("told: %q", text)
			}
		})
	}
}

// What could not be set aside at the end is tried again by the next start.
func TestUnsweptIsTriedAgain(t *testing.T) {
	c, _, ws := hostile(t)
	store, err := session.Open(c.Environ)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Err = out
	p := &plan.Plan{Boundary: "native", Workspace: ws, Guards: []plan.Guard{{Pattern: "**/.envrc", Reason: "direnv runs it"}}}
	r := &run{prepared: &prepared{plan: p, policy: &policy.Effective{}}, caller: c, store: store, recorder: &recorder{}}
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Files are in the way of all directories for what is set aside.
	inTheWay := []string{filepath.Join(r.session.Dir, "set-aside")}
	for n := 2; n <= 1000; n++ {
		inTheWay = append(inTheWay, fmt.Sprintf("%s.%d", inTheWay[0], n))
	}
	for _, file := range append(inTheWay, ws+"/.envrc") {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var unswept *UnsweptError
	if err := r.failed(errors.New("the machine is on fire")); !errors.As(err, &unswept) {
		t.Errorf("%v", err)
	}
	r.close()
	if _, left := recovered(t, store, c); left != 1 {
		t.Errorf("%d sessions are to be tried again", left)
	}
	for _, file := range inTheWay {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	told, left := recovered(t, store, c)
	if _, err := os.Lstat(ws + "/.envrc"); left != 0 || !errors.Is(err, os.ErrNotExist) || !strings.Contains(told, "set aside") {
		t.Errorf("%d left, %v, told %q", left, err, told)
	}
}

// Only what is really mounted read-only is held: below a writable mount in it the
// inside can change what it likes.
func TestHeld(t *testing.T) {
	is := held(&plan.Plan{Workspace: "/w", Mounts: []plan.Mount{
		{Target: "/w", Write: true}, {Target: "/w/.tool"}, {Target: "/w/.tool/cache", Write: true}, {Target: "/w/a", Write: true}, {Target: "/w/a/.envrc"},
	}})
	for rel, want := range map[string]bool{
		".tool": true, ".tool/x": true, ".tool/cache": false, ".tool/cache/x/y": false, ".tool/cachex": true, "a": false, "a/.envrc": true, "a/b": false, "x": false, ".toolx": false,
	} {
		if got := is(rel); got != want {
			t.Errorf("%s: held %v", rel, got)
		}
	}
}
