package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	for to, want := range map[string]string{"../main": base + "/main", "own": "", "../secrets": "", "nowhere": ""} {
		if err := os.Remove(ws + "/.git"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, ws+"/.git"); err != nil {
			t.Fatal(err)
		}
		if got := outsideGitDir(ws); got != want {
			t.Errorf("link to %q: %q, want %q", to, got, want)
		}
	}
}

func FuzzMountsBelow(f *testing.F) {
	f.Add("40 21 0:40 / /w/a\\040b rw - tmpfs tmpfs rw\n", "/w")
	f.Add("1 2 3 4 \\", "")
	f.Add("1 2 3 4 /w/\\777\\8\\12", "/w")
	f.Fuzz(func(t *testing.T, text, dir string) {
		for _, at := range mountsBelow(text, dir) {
			if !strings.HasPrefix(at, dir+"/") {
				t.Errorf("%q is not below %q", at, dir)
			}
		}
	})
}
