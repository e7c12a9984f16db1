package flow

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMountsBelow(t *testing.T) {
	const text = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 21 0:40 / /home/ann/project rw - tmpfs tmpfs rw
41 40 0:41 / /home/ann/project/a\040b\134c rw - tmpfs tmpfs rw
42 40 0:42 / /home/ann/project/data rw - tmpfs tmpfs rw
43 40 0:42 / /home/ann/project/data rw - tmpfs tmpfs rw
44 21 0:43 / /home/ann/project2/x rw - tmpfs tmpfs rw
short
`
	want := []string{`/home/ann/project/a b\c`, "/home/ann/project/data"}
	if got := mountsBelow(text, "/home/ann/project"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A .git that leads to what is no directory of git names nothing that a person could be
// told to open.
func TestOutsideGitDir(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ws := base + "/ws"
	for _, dir := range []string{ws + "/own/objects", base + "/main/objects", base + "/main/worktrees/ws", base + "/secrets"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		base + "/main/HEAD": "x", base + "/main/worktrees/ws/HEAD": "x", base + "/main/worktrees/ws/commondir": "../..\n", ws + "/own/HEAD": "x",
		base + "/secrets/key": "x",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"gitdir: " + base + "/main/worktrees/ws\n": base + "/main", "gitdir: ../main\n": base + "/main",
		"gitdir: own\n": "", "gitdir: " + base + "/secrets\n": "", "gitdir: /nowhere\n": "", "nonsense": "", "": "",
	} {
		if err := os.WriteFile(ws+"/.git", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := outsideGitDir(ws); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
