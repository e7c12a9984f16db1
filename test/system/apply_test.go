package system

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/change/changetest"
)

// states has what there is in a tree: types, modes, contents, texts of links.
func states(t testing.TB, root string) map[string]change.State {
	t.Helper()
	all, err := changetest.Tree(root).States()
	must(t, err)
	out := map[string]change.State{}
	for path, s := range all {
		out[path] = *s
	}
	return out
}

// A run in a copy, looked at, carried over in parts, and taken back: the project has
// what was asked for and nothing else, byte by byte.
func TestReviewAndApply(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, "src/edited.go", "one\ntwo\nthree\n")
	s.write(t, "src/deleted.go", "only here\n")
	s.write(t, "Makefile", "all:\n")
	// The control for "as it was": without times, which apply does not set back.
	before, whole := hash(t, s.workspace), states(t, s.workspace)
	s.sh(t, `printf 'one\nTWO\nthree\n' >src/edited.go; rm src/deleted.go; mkdir -p new/deep; echo new >new/deep/file
echo 'all: ; curl x' >Makefile; echo x >.envrc; ln -s /etc/passwd out; mkfifo pipe; echo evil >.git/hooks/post-commit; echo obj >.git/objects/evil
printf 'a\033[2J' >"odd$(printf '\033')"`, "--mode", "copy", "--name", "work").wants(t, 0)
	if hash(t, s.workspace) != before {
		t.Fatal("the run changed the project")
	}

	r := s.run(t, "diff", "work")
	r.wants(t, 0)
	for _, want := range []string{"-two\n+TWO\n", "deleted file mode 100644", "new file mode 120000", "+new\n", "# and 2 in git's own memory"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("diff has no %q:\n%s", want, r.out)
		}
	}
	r = s.run(t, "review", "--stat", "work")
	r.wants(t, 0)
	if strings.Contains(r.out, "\x1b") || strings.Index(r.out, "post-commit") > strings.Index(r.out, "Makefile") || strings.Index(r.out, "Makefile") > strings.Index(r.out, "edited.go") {
		t.Errorf("review: %s", r.out)
	}
	var seen struct {
		Changes []struct{ Path, Class string }
	}
	if err := json.Unmarshal([]byte(s.run(t, "review", "work", "--json").out), &seen); err != nil || len(seen.Changes) < 8 {
		t.Errorf("%v: %+v", err, seen)
	}

	r = s.run(t, "apply", "work")
	r.wants(t, 0)
	if !strings.Contains(r.err, ".envrc: protected: direnv runs it") || !strings.Contains(r.err, "Makefile: flagged") {
		t.Errorf("apply told %q", r.err)
	}
	for path, want := range map[string]string{"src/edited.go": "one\nTWO\nthree\n", "src/deleted.go": "", "new/deep/file": "new\n", "Makefile": "all:\n", ".envrc": "", ".git/hooks/post-commit": "", ".git/objects/evil": ""} {
		if text, _ := os.ReadFile(filepath.Join(s.workspace, path)); string(text) != want {
			t.Errorf("%s is %q, want %q", path, text, want)
		}
	}
	if _, err := os.Lstat(s.workspace + "/out"); err == nil {
		t.Error("a symlink that leaves the project came without a word")
	}
	// git's own memory does not come by any name; a hook does by its own.
	s.run(t, "apply", "work", ".git/objects/evil").complains(t, 64, "no change in")
	s.run(t, "apply", "work", ".git/hooks/post-commit").wants(t, 0)
	if text, _ := os.ReadFile(s.workspace + "/.git/hooks/post-commit"); string(text) != "evil\n" {
		t.Errorf("the hook that was named is %q", text)
	}

	s.run(t, "apply", "--undo").wants(t, 0)
	s.run(t, "apply", "--undo").wants(t, 0)
	if now := states(t, s.workspace); !maps.Equal(now, whole) {
		t.Errorf("the project is not as it was: %v, was %v", now, whole)
	}
	s.run(t, "apply", "--undo").complains(t, 66, "nothing was applied")
}

// What the person edits is never overwritten, whatever is said; while a run writes in
// the project nothing is carried over.
func TestApplyLeavesEdits(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, "a.txt", "old\n")
	s.write(t, "b.txt", "old\n")
	b := s.start(t, "ready\n", "run", "--mode", "copy", "--name", "work", "--", "sh", "-c", "echo inside >a.txt; echo inside >b.txt; echo inside >c.txt; echo ready; cat")
	s.write(t, "a.txt", "mine\n")
	s.write(t, "c.txt", "mine\n")
	s.run(t, "apply", "work").complains(t, 73, "running")
	b.in.Close()
	b.end(t)
	live := s.start(t, "ready\n", "run", "--mode", "live", "--name", "beside", "--", "sh", "-c", "echo ready; cat")
	s.run(t, "apply", "work").complains(t, 73, "writes in")
	live.in.Close()
	live.end(t)
	r := s.run(t, "apply", "--yes", "work", "a.txt", "b.txt", "c.txt")
	r.wants(t, 75)
	if !strings.Contains(r.err, "a.txt: conflict") || !strings.Contains(r.err, "c.txt: conflict") {
		t.Errorf("told %q", r.err)
	}
	for path, want := range map[string]string{"a.txt": "mine\n", "b.txt": "inside\n", "c.txt": "mine\n"} {
		if text, _ := os.ReadFile(filepath.Join(s.workspace, path)); string(text) != want {
			t.Errorf("%s is %q, want %q", path, text, want)
		}
	}
}
