package system

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hashable is the content of all files below a directory.
func hashable(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			b.Write(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A day's work with git, inside; the host sees nothing that is not the work.
func TestDailyGit(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, ".gitignore", ".env\n")
	s.write(t, ".env", "TOKEN=secret\n")
	s.git(t, "add", "-A")
	s.git(t, "commit", "-qm", "ignore")
	b := s.start(t, "ready\n", "run", "--name", "work", "--", "sh", "-c", "echo ready; cat > /dev/null")
	for _, c := range []struct{ line, host string }{
		{"echo more >> README.md", " M README.md\n"},
		{"git status --short", " M README.md\n"},
		{"git diff --stat", " M README.md\n"},
		{"git add -A", "M  README.md\n"},
		{"git -c user.name=T -c user.email=t@example.org commit -qm second", ""},
		{"git log --oneline", ""},
		{"git branch topic", ""},
		{"git checkout -q topic", ""},
		{"echo topic > topic.txt", "?? topic.txt\n"},
		{"git add topic.txt && git commit -qm topic", ""},
		{"git checkout -q main", ""},
		{"git checkout -q -b other && git checkout -q main", ""},
		{"echo main > main.txt && git add . && git commit -qm main", ""},
		{"git merge -q -m merge topic", ""},
		{"echo stashed >> README.md", " M README.md\n"},
		{"git stash -q", ""},
		{"git stash pop -q", " M README.md\n"},
		{"git checkout -q -- README.md", ""},
		{"git tag v1 && git reset -q --hard HEAD~1 && git reset -q --hard v1", ""},
		{"git worktree add -q -b wt tree", "?? tree/\n"},
		{"cd tree && echo tree > tree.txt && git add -A && git commit -qm tree", "?? tree/\n"},
		{"git worktree list", "?? tree/\n"},
		{"git worktree remove tree", ""},
		{"git branch -q -D wt", ""},
		{"git rebase -q topic", ""},
		{"git gc -q", ""},
		{"git fsck", ""},
	} {
		r := s.run(t, "exec", "work", "--", "sh", "-e", "-c", c.line)
		if r.status != 0 {
			t.Errorf("%s: status %d, %q", c.line, r.status, r.out+r.err)
		}
		if got := s.git(t, "status", "--porcelain"); got != c.host {
			t.Errorf("after %s: git status on the host: %q, want %q", c.line, got, c.host)
		}
	}
	t.Run("init", func(t *testing.T) {
		r := s.run(t, "exec", "work", "--", "sh", "-e", "-c", "mkdir fresh; cd fresh; git init -q; git add -A; git -c user.name=T -c user.email=t@example.org commit -q --allow-empty -m x; cd ..; rm -rf fresh")
		r.wants(t, 0)
	})
	if status := b.end(t); status != 0 {
		t.Errorf("status %d, %q", status, b.errOut.String())
	}
	if got := s.git(t, "status", "--porcelain", "--ignored"); got != "!! .env\n" {
		t.Errorf("afterwards: %q", got)
	}
	if got := s.git(t, "fsck"); strings.Contains(got, "error") {
		t.Errorf("fsck: %q", got)
	}
}

// Where the kernel gives no more watches the sweep at the end does the work, and the
// person is told so; and of what else has appeared that is no guarded name.
func TestWithoutWatches(t *testing.T) {
	s := newSite(t)
	r := s.rigged(t, rigging{Limits: []string{"max_inotify_instances"}}, binary, "run", "--", "sh", "-c",
		"echo x > .envrc; ln -s /etc/passwd out; cp /bin/true tool; chmod u+s tool")
	r.wants(t, 0)
	if s.exists(".envrc") || !s.exists("out") {
		t.Error("the workspace was not swept")
	}
	for _, want := range []string{"looked for at the end only", ".envrc", "out: is a symlink that leads out of the workspace, to /etc/passwd", "tool: is a set-user-ID file"} {
		if !strings.Contains(strings.Join(strings.Fields(r.err), " "), want) {
			t.Errorf("not told: %q in\n%s", want, r.err)
		}
	}
	moved, err := filepath.Glob(s.state + "/sessions/*/set-aside")
	if err != nil || len(moved) != 1 {
		t.Fatal(moved, err)
	}
	if err := os.RemoveAll(moved[0]); err != nil {
		t.Error(err)
	}
}
