package copy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
)

// A full copy is the project, and its changes are what was done in it.
func TestFull(t *testing.T) {
	for seed := range 8 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			w := &world{project: base + "/project", session: base + "/session"}
			for _, d := range []string{w.project, w.session} {
				check(t, os.Mkdir(d, 0o755))
			}
			sample(w.project)
			check(t, os.Chmod(w.project+"/a/b", 0o555))
			check(t, syscall.Mkfifo(w.project+"/left-out", 0o600))
			t.Cleanup(func() { check(t, os.Chmod(w.project+"/a/b", 0o755)) })
			var err error
			w.copy, err = MakeFull(t.Context(), w.session, w.project)
			check(t, err)
			before := slices.DeleteFunc(snap(w.project), func(s seen) bool { return string(s.Path) == "left-out" })
			if different := oracle(before, snap(Tree(w.session))); len(different) > 0 {
				t.Fatalf("the copy differs: %v", different)
			}
			if set := w.changes(t); len(set.Entries) > 0 || len(set.Untold) > 0 {
				t.Fatalf("nothing was done: %+v", set)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Dir = Tree(w.session)
			cmd.Env = append(os.Environ(), churnVariable+"="+fmt.Sprint(seed))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			set := w.changes(t)
			want, got := oracle(before, snap(Tree(w.session))), lines(set)
			if !slices.Equal(got, want) || len(set.Untold) > 0 {
				t.Errorf("%suntold %v", apart(got, want), set.Untold)
			}
			check(t, Remove(w.session))
		})
	}
}

// What somebody outside does meanwhile is no change of the run.
func TestFullWhileTheHostEdits(t *testing.T) {
	base := t.TempDir()
	project, session := base+"/project", base+"/session"
	check(t, errors.Join(os.Mkdir(project, 0o755), os.Mkdir(session, 0o755)))
	sample(project)
	c, err := MakeFull(t.Context(), session, project)
	check(t, err)
	check(t, os.WriteFile(project+"/plain", []byte("by the host"), 0o644))
	check(t, os.WriteFile(project+"/dir/new", []byte("by the host"), 0o644))
	check(t, os.RemoveAll(project+"/a"))
	check(t, os.WriteFile(Tree(session)+"/dir/one", []byte("by the run"), 0o644))
	check(t, os.Remove(Tree(session)+"/dir/two"))
	set, _, _, err := c.Changes(session, project)
	check(t, err)
	want := []string{`"dir/one": file 644 14 "" -> file 644 10 ""`, `"dir/two": file 644 14 "" -> -`}
	if got := lines(set); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
