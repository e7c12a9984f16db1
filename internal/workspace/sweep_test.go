package workspace

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

var guards = []plan.Guard{
	{Pattern: "**/.git/hooks/", Reason: "git runs it", Rule: 3},
	{Pattern: "**/.git/config", Reason: "git obeys it", Rule: 5},
	{Pattern: "**/.claude/", Reason: "the agent obeys it", Rule: 4},
	{Pattern: "**/.vscode/", Reason: "the editor obeys it"},
	{Pattern: "**/.mcp.json", Reason: "agents start servers from it"},
	{Pattern: "**/.envrc", Reason: "direnv runs it"},
}

type bench struct {
	t             testing.TB
	root, session string
	base          *Baseline
}

func setUp(t testing.TB, files ...string) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir(), session: t.TempDir()}
	put(t, b.root, files...)
	return b
}

func (b *bench) take(held func(string) bool) *bench {
	b.t.Helper()
	base, err := TakeBaseline(b.root, guards, held)
	must(b.t, err)
	// Every test sweeps from the stored form.
	text, err := json.Marshal(base)
	must(b.t, err)
	b.base = new(Baseline)
	must(b.t, json.Unmarshal(text, b.base))
	return b
}

func (b *bench) sweep() Report {
	b.t.Helper()
	r, err := Sweep(b.base, b.session)
	must(b.t, err)
	return r
}

func asides(r Report) []string {
	var out []string
	for _, a := range r.SetAside {
		out = append(out, string(a.Path))
	}
	slices.Sort(out)
	return out
}

func (b *bench) read(p string) string {
	data, err := os.ReadFile(filepath.Join(b.root, p))
	if err != nil {
		return "<" + err.(*os.PathError).Err.Error() + ">"
	}
	return string(data)
}

func TestSweepNewNames(t *testing.T) {
	b := setUp(t, "a/.claude/settings.json=old", "src/main.go=").take(nil)
	put(t, b.root, ".mcp.json=x", "a/.claude/hooks/h.sh=x", "b/.claude/settings.json=x", "deep/1/2/3/.envrc=x", "link/.claude=->/etc",
		"empty/.vscode/", "src/other.go=", "n\nl/.envrc=x", "\x1b[2J/.envrc=x", "\xff/.envrc=x", strings.Repeat("d", 255)+"/.envrc=x", "it's/.envrc=x")
	must(t, syscall.Mkfifo(filepath.Join(b.root, "src/.envrc"), 0o600))
	r := b.sweep()
	want := []string{".mcp.json", "a/.claude/hooks", "b/.claude", "deep/1/2/3/.envrc", "link/.claude", "src/.envrc", "n\nl/.envrc", "\x1b[2J/.envrc", "\xff/.envrc", strings.Repeat("d", 255) + "/.envrc", "it's/.envrc"}
	// A directory in a known one is moved by its entries.
	want[1] = "a/.claude/hooks/h.sh"
	slices.Sort(want)
	if got := asides(r); !slices.Equal(got, want) {
		t.Fatalf("set aside\n%q\nwant\n%q", got, want)
	}
	if !r.Clean() || b.read("a/.claude/settings.json") != "old" {
		t.Errorf("report %+v", r)
	}
	for _, a := range r.SetAside {
		if string(a.To) != filepath.Join(b.session, "set-aside", string(a.Path)) {
			t.Errorf("to %q", a.To)
		}
		if out, err := exec.Command("bash", "-c", a.Undo).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", a.Undo, err, out)
		}
		if _, err := os.Lstat(filepath.Join(b.root, string(a.Path))); err != nil {
			t.Errorf("not restored: %v", err)
		}
	}
	if r = b.sweep(); len(r.SetAside) != len(want) || !r.Clean() {
		t.Errorf("second sweep: %+v", r)
	}
}

func TestSweepTakenName(t *testing.T) {
	b := setUp(t).take(nil)
	for i := range 3 {
		put(t, b.root, fmt.Sprintf(".envrc=%d", i))
		b.sweep()
	}
	put(t, b.root, ".claude=file") // matches no directory pattern
	for i, f := range []string{"set-aside", "set-aside.2", "set-aside.3"} {
		got, _ := os.ReadFile(filepath.Join(b.session, f, ".envrc"))
		if string(got) != fmt.Sprint(i) {
			t.Errorf("%s: %q", f, got)
		}
	}
}

func TestSweepChanged(t *testing.T) {
	files := []string{".mcp.json=old", ".envrc=old", "x/.envrc=old", "y/.envrc=old", ".claude/a=old"}
	b := setUp(t, files...).take(func(p string) bool { return p == "y/.envrc" || p == ".claude" || p == "x/.envrc" })
	must(t, os.WriteFile(filepath.Join(b.root, ".mcp.json"), []byte("new"), 0o644))       // changed, not held
	must(t, os.Remove(filepath.Join(b.root, ".envrc")))                                   //
	put(t, b.root, ".envrc=old")                                                          // replaced by the same bytes
	must(t, os.WriteFile(filepath.Join(b.root, "y/.envrc"), []byte("person"), 0o644))     // held, same inode
	put(t, b.root, ".claude/b=person")                                                    // in a held directory
	put(t, b.root, "x/new=evil")                                                          //
	must(t, os.Rename(filepath.Join(b.root, "x/new"), filepath.Join(b.root, "x/.envrc"))) // held, but another inode
	r := b.sweep()
	if got := asides(r); !slices.Equal(got, []string{".mcp.json", "x/.envrc"}) {
		t.Fatalf("set aside %q", got)
	}
	if len(r.Changed) != 2 || !r.SetAside[0].Restored || b.read(".mcp.json") != "old" || b.read("x/.envrc") != "old" || b.read("y/.envrc") != "person" || b.read(".claude/b") != "person" {
		t.Errorf("%+v %q", r, b.read(".mcp.json"))
	}
	if out, err := exec.Command("bash", "-c", r.SetAside[0].Undo).CombinedOutput(); err != nil || b.read(".mcp.json") != "new" {
		t.Errorf("undo: %v %s", err, out)
	}
}

// A flood of names in a guarded directory must not stop the sweep.
func TestSweepFlood(t *testing.T) {
	b := setUp(t).take(nil)
	dir := filepath.Join(b.root, ".claude")
	must(t, os.Mkdir(dir, 0o755))
	for i := range 10_100 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
	}
	if r := b.sweep(); !r.Clean() || !slices.Equal(asides(r), []string{".claude"}) {
		t.Fatalf("%+v", r)
	}
}

func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		testenv.Skip(t, testenv.Root, "mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	return dir
}

func TestSweepOtherDisk(t *testing.T) {
	b := setUp(t, ".envrc=old").take(nil)
	b.session = tmpfs(t, "1m")
	put(t, b.root, ".claude/a=1", ".claude/d/b=2", ".claude/l=->/etc/passwd", ".mcp.json=x", "s/.envrc=->/etc/passwd")
	must(t, os.WriteFile(filepath.Join(b.root, ".envrc"), []byte("new"), 0o644))
	must(t, syscall.Mkfifo(filepath.Join(b.root, ".claude/fifo"), 0o600))
	r := b.sweep()
	if got := asides(r); !r.Clean() || !slices.Equal(got, []string{".claude", ".envrc", ".mcp.json", "s/.envrc"}) {
		t.Fatalf("%q %+v", got, r)
	}
	if left, _ := os.ReadDir(b.root); len(left) != 2 || b.read(".envrc") != "old" {
		t.Errorf("left %v", left)
	}
	got, _ := os.ReadFile(filepath.Join(b.session, "set-aside/.claude/d/b"))
	if to, _ := os.Readlink(filepath.Join(b.session, "set-aside/.claude/l")); string(got) != "2" || to != "/etc/passwd" {
		t.Errorf("copy %q %q", got, to)
	}
}

func TestSweepFullDisk(t *testing.T) {
	b := setUp(t, "x/.envrc=old").take(nil)
	b.session = tmpfs(t, "64k")
	big := strings.Repeat("x", 200<<10)
	put(t, b.root, ".mcp.json="+big, ".claude/a=1", ".claude/b="+big)
	must(t, os.WriteFile(filepath.Join(b.root, "x/.envrc"), []byte(big), 0o644))
	r := b.sweep()
	if r.Clean() || len(r.Failed) != 3 || len(r.SetAside) != 0 {
		t.Fatalf("%+v", r)
	}
	for _, p := range []string{".mcp.json", ".claude/b", "x/.envrc"} {
		if b.read(p) != big {
			t.Errorf("%s is not what it was", p)
		}
	}
	if b.read(".claude/a") != "1" {
		t.Error("a file of the directory is gone")
	}
	filepath.WalkDir(b.root, func(p string, _ os.DirEntry, _ error) error {
		if strings.Contains(p, ".cofferdam-") {
			t.Errorf("litter: %s", p)
		}
		return nil
	})
}

func TestSessionInsideIsRefused(t *testing.T) {
	b := setUp(t, "s/").take(nil)
	link := filepath.Join(t.TempDir(), "l")
	must(t, os.Symlink(filepath.Join(b.root, "s"), link))
	for _, s := range []string{filepath.Join(b.root, "s"), b.root, filepath.Join(link, ".")} {
		if _, err := Sweep(b.base, s); err == nil {
			t.Errorf("%s: no error", s)
		}
	}
}

// Someone swaps directories for symlinks that lead out, all the time. Nothing
// outside the workspace may change.
func TestSweepSwapper(t *testing.T) {
	const n = 300
	b := setUp(t)
	out := t.TempDir()
	put(t, out, ".envrc=canary", ".claude/settings.json=canary", "hooks/pre-commit=canary", "config=[core]\nfsmonitor=canary", ".git/hooks/pre-commit=canary", ".git/config=[core]\nfsmonitor=x")
	b.take(nil)
	before := tree(t, out)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			for _, d := range []string{"a", ".git"} {
				p := filepath.Join(b.root, d)
				os.RemoveAll(p)
				os.MkdirAll(filepath.Join(p, "hooks"), 0o755)
				os.WriteFile(filepath.Join(p, "hooks/pre-commit"), []byte("x"), 0o755)
				os.WriteFile(filepath.Join(p, ".envrc"), []byte("x"), 0o644)
				os.MkdirAll(filepath.Join(p, ".claude"), 0o755)
				os.WriteFile(filepath.Join(p, ".claude/settings.json"), []byte("x"), 0o644)
				os.Rename(p, p+".old")
				os.Symlink(out, p)
				os.Rename(p, p+".link")
				os.Rename(p+".old", p)
				os.RemoveAll(p + ".link")
			}
		}
	}()
	moved := 0
	for range n {
		s, err := newSweeper(b.base, b.session)
		must(t, err)
		if _, err := s.round(""); err != nil {
			t.Fatal(err)
		}
		moved += len(s.report.SetAside)
		s.close()
		dirs, _ := filepath.Glob(filepath.Join(b.session, "set-aside*"))
		for _, d := range dirs {
			os.RemoveAll(d)
		}
	}
	stop.Store(true)
	<-done
	if after := tree(t, out); after != before {
		t.Fatalf("outside changed:\n%s\nto\n%s", before, after)
	}
	if moved < n/10 {
		t.Errorf("only %d entries set aside: the race did not happen", moved)
	}
	b.sweep()
	if _, err := os.Stat(filepath.Join(b.root, ".git/hooks/pre-commit")); err == nil {
		t.Error("the hook is still there")
	}
}

func tree(t *testing.T, root string) string {
	var sb strings.Builder
	must(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		fmt.Fprintln(&sb, p, info.Mode(), info.ModTime())
		if d.Type().IsRegular() {
			data, _ := os.ReadFile(p)
			fmt.Fprintf(&sb, "%q\n", data)
		}
		return nil
	}))
	return sb.String()
}

// Two sweeps of one directory at once: each name goes to one of them.
func TestSweepTwice(t *testing.T) {
	b := setUp(t).take(nil)
	for i := range 300 {
		put(t, b.root, fmt.Sprintf("d%d/.envrc=x", i))
	}
	other := &bench{t: t, root: b.root, session: t.TempDir(), base: b.base}
	res := make(chan Report)
	for _, x := range []*bench{b, other} {
		go func() { r, _ := Sweep(x.base, x.session); res <- r }()
	}
	r1, r2 := <-res, <-res
	if !r1.Clean() || !r2.Clean() || len(r1.SetAside)+len(r2.SetAside) != 300 {
		t.Fatalf("%d + %d, %v %v", len(r1.SetAside), len(r2.SetAside), r1.Failed, r2.Failed)
	}
}

// Whoever has put another directory in the place of the workspace keeps what is in
// it: it is not the one that the baseline speaks of.
func TestReplacedWorkspace(t *testing.T) {
	b := setUp(t, "x=").take(nil)
	fresh, err := TakeBaseline(b.root, guards, nil)
	must(t, err)
	must(t, os.Rename(b.root, b.root+".old"))
	put(t, b.root, ".envrc=mine")
	for name, base := range map[string]*Baseline{"stored": b.base, "of this process": fresh} {
		_, err := Sweep(base, b.session)
		var replaced *ReplacedError
		if !errors.As(err, &replaced) || b.read(".envrc") != "mine" {
			t.Errorf("%s: %v, %q", name, err, b.read(".envrc"))
		}
	}
	// Not by its time of birth alone: overlayfs changes that.
	must(t, os.Rename(b.root, b.root+".new"))
	must(t, os.Rename(b.root+".old", b.root))
	fresh.Dir.Born++
	if r, err := Sweep(fresh, b.session); err != nil || !r.Clean() {
		t.Errorf("%+v %v", r, err)
	}
}

// What is not guarded and still worth a word: told, and left where it is.
func TestUnusual(t *testing.T) {
	b := setUp(t, "old/link=->/etc", "d/", "old/run=x", "chmod=x").take(nil)
	b.base.Taken += 2 * clockTick // of the entries above none has changed
	time.Sleep(time.Duration(4 * clockTick))
	must(t, os.Chmod(filepath.Join(b.root, "old/run"), 0o755))
	put(t, b.root, "in=->old", "d/up=->../old/run", "d/out=->../../x", "etc=->/etc/passwd", "abs=->"+b.root+"/old", "home=->~", ".claude/l=->/etc", "plain=x", "suid=x", "sgid=x", "lock=x")
	for name, mode := range map[string]uint32{"chmod": 0o4755, "suid": 0o4700, "sgid": 0o2755, "lock": 0o2644} {
		must(t, syscall.Chmod(filepath.Join(b.root, name), mode))
	}
	r := b.sweep()
	var got []string
	for _, u := range r.Unusual {
		got = append(got, string(u.Path))
	}
	if want := []string{"chmod", "d/out", "etc", "sgid", "suid"}; !slices.Equal(got, want) || r.UnusualMore != 0 || !r.Clean() {
		t.Errorf("%q, want %q; %+v", got, want, r)
	}
	for i := range 30 {
		put(t, b.root, fmt.Sprintf("many%d=->/etc", i))
	}
	if r := b.sweep(); len(r.Unusual) != unusualLimit || len(r.Unusual)+r.UnusualMore != 35 {
		t.Errorf("%d and %d more", len(r.Unusual), r.UnusualMore)
	}
}

// A report names the rule that speaks of this file, not just any of git's.
func TestRuleOfAGitFile(t *testing.T) {
	var list []plan.Guard
	for i, p := range []string{"**/.git/hooks/", "**/.git/config", "**/.git/modules/**/config", "**/.git", "/w/sub/.git/**", "**/.envrc"} {
		list = append(list, plan.Guard{Pattern: p, Rule: i + 1})
	}
	l := &looker{root: "/w", guards: list}
	for p, want := range map[string]int{
		".git/config": 2, "a/.git/config": 2, ".git/hooks/pre-commit": 1, ".git/modules/x/config": 3, ".git": 4, "w/.git": 4, ".git/worktrees/x/HEAD": 4,
		"bare.git/config": 4, ".husky/pre-commit": 4, "sub/.git/info/x": 5,
	} {
		if got := l.rule(item{path: p, guard: -1}); got != want {
			t.Errorf("%s: rule %d, want %d", p, got, want)
		}
	}
	if got := l.rule(item{path: "x/.envrc", guard: 5}); got != 6 {
		t.Errorf("rule %d", got)
	}
	l.guards = list[:2]
	if got := l.rule(item{path: ".git/commondir", guard: -1}); got != 1 {
		t.Errorf("without a guard of .git itself: rule %d", got)
	}
}

// What was in sight before the run and no longer is, is told: nobody knows what is
// planted there. Root sees everything, so then it is another user who looks.
func TestSweepBlind(t *testing.T) {
	if os.Getuid() == 0 {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o777))
		must(t, os.Chmod(filepath.Dir(dir), 0o755))
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSweepBlind$", "-test.v")
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestSweepBlind") {
			t.Fatalf("as another user: %v\n%s", err, out)
		}
		return
	}
	b := setUp(t, "sub/file", "shut/file")
	shut := func(name string, mode os.FileMode) { must(t, os.Chmod(filepath.Join(b.root, name), mode)) }
	shut("shut", 0)
	defer shut("shut", 0o755)
	b.take(nil)
	if r := b.sweep(); !r.Clean() {
		t.Errorf("what was closed before the run: %+v", r)
	}
	shut("sub", 0)
	defer shut("sub", 0o755)
	if r := b.sweep(); r.Clean() || len(r.Blind) != 1 || r.Blind[0].Path != "sub" {
		t.Errorf("what the run has closed: %+v", r)
	}
}

// A tree that is changed as fast as it is swept is not called clean.
func TestSweepUnsettled(t *testing.T) {
	b := setUp(t, "file").take(nil)
	s, err := newSweeper(b.base, b.session)
	must(t, err)
	defer s.close()
	again := func(Aside) { put(t, b.root, ".envrc=evil") }
	again(Aside{})
	s.notify = again
	must(t, s.all())
	if !s.report.Unsettled || s.report.Clean() {
		t.Errorf("%d set aside, unsettled is %v", len(s.report.SetAside), s.report.Unsettled)
	}
	s.notify = nil
	must(t, s.all())
	if !s.report.Clean() {
		t.Errorf("settled: %+v", s.report)
	}
}

// What is set aside must leave the workspace.
func TestSweepIntoTheWorkspace(t *testing.T) {
	b := setUp(t, "folder/").take(nil)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(b.root, link))
	for _, session := range []string{b.root, b.root + "/folder", link + "/folder"} {
		if _, err := Sweep(b.base, session); err == nil || !strings.Contains(err.Error(), "lies in the workspace") {
			t.Errorf("%s: %v", session, err)
		}
	}
}

// A sample of a hook that the inside can't change is not read: nothing would be done
// with what it holds. One that it can change is put back when a link takes its place.
func TestSamples(t *testing.T) {
	files := []string{".git/HEAD", ".git/objects/x", ".git/refs/x", ".git/hooks/pre-push", ".git/hooks/pre-push.sample"}
	sample := ".git/hooks/pre-push.sample"
	for _, held := range []bool{true, false} {
		b := setUp(t, files...)
		must(t, os.WriteFile(filepath.Join(b.root, sample), []byte("#!/bin/sh\n"), 0o755))
		b.take(func(string) bool { return held })
		for _, name := range []string{sample, ".git/hooks/pre-push"} {
			e, ok := b.base.entry(name)
			if read := e.Sum != ""; !ok || read != (!held || name != sample) {
				t.Errorf("held %v: %s: known %v, read %v", held, name, ok, read)
			}
		}
		must(t, os.WriteFile(filepath.Join(b.root, sample), []byte("changed"), 0o755))
		if r := b.sweep(); !r.Clean() || len(r.SetAside) != 0 {
			t.Errorf("held %v: a changed sample: %+v", held, r)
		}
		must(t, os.Remove(filepath.Join(b.root, sample)))
		must(t, os.Symlink("/etc/passwd", filepath.Join(b.root, sample)))
		if r := b.sweep(); !r.Clean() || len(r.SetAside) != 1 || r.SetAside[0].Restored != !held {
			t.Errorf("held %v: a link in place of a sample: %+v", held, r)
		}
	}
}
