package workspace

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func (b *bench) watch() (<-chan Aside, func() Report) {
	b.t.Helper()
	told := make(chan Aside, 1000)
	w, err := Watch(b.base, b.session, func(a Aside) { told <- a })
	must(b.t, err)
	return told, func() Report {
		r, err := w.Stop()
		must(b.t, err)
		return r
	}
}

func await(t *testing.T, told <-chan Aside, path string) time.Duration {
	t.Helper()
	start := time.Now()
	select {
	case a := <-told:
		if string(a.Path) != path {
			t.Fatalf("set aside %q, want %q", a.Path, path)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s was not set aside", path)
	}
	return time.Since(start)
}

func TestWatch(t *testing.T) {
	g := newGitBox(t).takeAll()
	told, stop := g.watch()
	for _, c := range [][2]string{
		{".envrc", "echo x > .envrc"},
		{".vscode", "mkdir .vscode; echo {} > .vscode/settings.json"},
		{"other/.mcp.json", "echo x > other/.mcp.json"},
		{"fresh/deep/.envrc", "mkdir -p fresh/deep; echo x > fresh/deep/.envrc"},
		{".git/hooks/pre-commit", "cp $P .git/hooks/pre-commit"},
		{".git/config", "git config core.fsmonitor $P"},
		{".git/commondir", "echo ../x > .git/commondir"},
		{"n/.git/hooks/post-checkout", "git init -q n; cp $P n/.git/hooks/post-checkout"},
		{"l/.claude", "mkdir l; ln -s /etc l/.claude"},
	} {
		g.must("", c[1])
		t.Log(c[0], await(t, told, c[0]))
	}
	// Daily work goes on meanwhile and loses nothing.
	g.must("", `for i in 1 2 3; do git config user.name n$i; git remote add r$i https://x.test/y; git worktree add -q w$i; git commit -q --allow-empty -m $i; git stash list; done; git clone -q . c; git worktree remove --force w1`)
	g.must("", `git -C c log -1 >/dev/null; git -C w2 status >/dev/null`)
	if r := stop(); len(r.SetAside) != 9 || len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
	if r := g.sweep(); len(r.SetAside) != 0 || !r.Clean() {
		t.Errorf("the sweep found more: %+v", r)
	}
}

// More changes than the kernel's queue holds, while nobody reads it: what was
// planted in the part that got lost is found.
func TestWatchOverflow(t *testing.T) {
	b := setUp(t, "d/", "e/").take(nil)
	told, free := make(chan Aside, 10), make(chan struct{})
	w, err := Watch(b.base, b.session, func(a Aside) { told <- a; <-free })
	must(t, err)
	put(t, b.root, "d/.envrc=x")
	await(t, told, "d/.envrc")
	for i := range 40_000 { // fs.inotify.max_queued_events is 16,384
		must(t, os.WriteFile(filepath.Join(b.root, "d", fmt.Sprint(i%7)), nil, 0o600))
	}
	put(t, b.root, "e/.envrc=x")
	close(free)
	await(t, told, "e/.envrc")
	_, err = w.Stop()
	must(t, err)
}

func TestWatchStops(t *testing.T) {
	b := setUp(t).take(nil)
	before := fds(t)
	for range 20 {
		_, stop := b.watch()
		stop()
	}
	if after := fds(t); after > before {
		t.Errorf("%d descriptors became %d", before, after)
	}
}

func fds(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func TestGitMatters(t *testing.T) {
	for _, p := range [][]string{{"index"}, {"index.lock"}, {"config.lock"}, {"HEAD"}, {"objects"}} {
		if gitMatters(p) {
			t.Errorf("%v", p)
		}
	}
	for _, p := range [][]string{{"config"}, {"hooks", "x"}, {"modules", "a", "config"}, {"worktrees", "a", "HEAD"}} {
		if !gitMatters(p) {
			t.Errorf("%v", p)
		}
	}
}

// A directory that gets another name is watched under it.
func TestWatchRenamed(t *testing.T) {
	b := setUp(t, "a/sub/").take(nil)
	told, stop := b.watch()
	defer stop()
	must(t, os.Rename(filepath.Join(b.root, "a"), filepath.Join(b.root, "b")))
	put(t, b.root, "mark/.envrc=x") // when this is dealt with, so is the rename
	await(t, told, "mark/.envrc")
	for _, p := range []string{"b/.envrc", "b/sub/.envrc"} {
		put(t, b.root, p+"=x")
		await(t, told, p)
	}
}

// A .git file may be harmless at first: what it says later is judged too, in a directory
// of which only new names are told otherwise.
func TestWatchGitFileRewritten(t *testing.T) {
	g := newGitBox(t)
	g.must("", "git init -q --bare .git/modules/m; mkdir early late; echo gitdir: ../.git/modules/m > early/.git")
	g.takeAll()
	told, stop := g.watch()
	defer stop()
	for _, dir := range []string{"early", "late"} {
		g.must("", "echo gitdir: ../.git/modules/m > "+dir+"/.git; echo x > "+dir+"/.envrc")
		await(t, told, dir+"/.envrc") // when this is dealt with, the other has been judged
		g.must("", "echo gitdir: /etc > "+dir+"/.git")
		await(t, told, dir+"/.git")
	}
}
