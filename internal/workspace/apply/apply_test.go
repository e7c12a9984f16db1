package apply

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/testenv"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/change/changetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("APPLY_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	if os.Getenv("APPLY_FULL") != "" { // in a namespace of its own
		os.Exit(m.Run())
	}
	os.Exit(testenv.Main(m))
}

// box is a project with an old and a new tree, and a place for journals.
type box struct {
	t                 testing.TB
	old, new, project string
	state             string
	oldTree, newTree  map[string]*change.State
	steps             []Step
	journals          int
	went              Way // what the attempt before was to be
}

func newBox(t testing.TB, old, new string) *box {
	t.Helper()
	b := &box{t: t, old: old, new: new, state: filepath.Join(temp(t), "state")}
	must(t, os.Mkdir(b.state, 0o700))
	t.Cleanup(func() { open(b.project) })
	b.reset()
	set, err := changetest.Between(changetest.Tree(old), changetest.Tree(new))
	must(t, err)
	b.steps = Steps(set.Entries, changetest.Tree(new))
	b.oldTree, err = changetest.Tree(old).States()
	must(t, err)
	b.newTree, err = changetest.Tree(new).States()
	must(t, err)
	return b
}

// temp is a directory in memory if there is one: thousands of syncs take their time.
func temp(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "cofferdam-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { open(dir); os.RemoveAll(dir) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes directories removable.
func open(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
}

// reset makes a fresh project with the old tree.
func (b *box) reset() {
	b.t.Helper()
	if b.project != "" {
		open(b.project)
		must(b.t, os.RemoveAll(b.project))
	}
	dir, err := os.MkdirTemp(filepath.Dir(b.state), "project-")
	must(b.t, err)
	must(b.t, os.Remove(dir))
	copyTree(b.t, b.old, dir)
	b.project = dir
}

// copyTree copies files, directories and symlinks with their modes.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	type dir struct {
		path string
		mode os.FileMode
	}
	var dirs []dir
	must(t, filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := to + p[len(from):]
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch d.Type() {
		case os.ModeDir:
			dirs = append(dirs, dir{at, info.Mode()})
			return os.Mkdir(at, 0o700)
		case os.ModeSymlink:
			text, err := os.Readlink(p)
			return errors.Join(err, os.Symlink(text, at))
		}
		text, err := os.ReadFile(p)
		return errors.Join(err, os.WriteFile(at, text, 0o600), os.Chmod(at, info.Mode()))
	}))
	for _, d := range slices.Backward(dirs) {
		must(t, os.Chmod(d.path, d.mode))
	}
}

func (b *box) journal() string {
	b.journals++
	return filepath.Join(b.state, fmt.Sprint("run-", b.journals))
}

// is fails unless the project has this tree.
func (b *box) is(want map[string]*change.State, when string) {
	b.t.Helper()
	got, err := changetest.Tree(b.project).States()
	must(b.t, err)
	for _, line := range differences(got, want) {
		b.t.Errorf("%s: %s", when, line)
	}
}

func differences(got, want map[string]*change.State) []string {
	var out []string
	for p, s := range want {
		if !change.Same(s, got[p]) {
			out = append(out, fmt.Sprintf("%q is %s, want %s", p, words(got[p]), words(s)))
		}
	}
	for p, s := range got {
		if want[p] == nil {
			out = append(out, fmt.Sprintf("%q is there: %s", p, words(s)))
		}
	}
	slices.Sort(out)
	return out
}

func words(s *change.State) string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %04o %d %.8s %q", s.Type, s.Mode, s.Size, s.Sum, s.Link)
}

// all has every deed: edits, type changes in both directions, directories that
// come, go and can't be written, modes, symlinks, names that are hard to write.
func all(t testing.TB) (old, new string) {
	dir := temp(t)
	old, new = filepath.Join(dir, "old"), filepath.Join(dir, "new")
	build(t, old, `
f same          0644 same
f edited        0644 before
f mode          0644 script
f gone          0600 gone
d keep          0755
f keep/a        0644 a
d olddir        0755
d olddir/sub    0555
f olddir/sub/f  0644 deep
l link          0777 same
l oldlink       0777 /etc/passwd
f tolink        0644 becomes a link
l tofile        0777 same
f todir         0644 becomes a directory
d dirtofile     0755
f dirtofile/x   0644 x
d moded         0755
d locked        0555
f locked/in     0644 1
`)
	build(t, new, `
f same          0644 same
f edited        0644 after
f mode          0755 script
d keep          0755
f keep/a        0644 a
f keep/new      0640 new
l link          0777 elsewhere
l newlink       0777 ../../../outside
l tolink        0777 same
f tofile        0644 was a link
d todir         0755
f todir/below   0644 below
f dirtofile     0644 was a directory
d moded         0700
d locked        0500
f locked/in     0644 2
f locked/more   0600 3
d newdir        0755
d newdir/ro     0555
f newdir/ro/f   0444 read only
f `+"\xff\x01odd"+`  0644 odd name
`)
	return old, new
}

// build makes a tree from lines "TYPE PATH MODE TEXT".
func build(t testing.TB, root, lines string) {
	t.Helper()
	must(t, os.MkdirAll(root, 0o755))
	type dir struct {
		path string
		mode os.FileMode
	}
	var dirs []dir
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		parts := strings.Fields(line)
		text := strings.Join(parts[min(3, len(parts)):], " ")
		path := filepath.Join(root, parts[1])
		var perm uint32
		_, err := fmt.Sscanf(parts[2], "%o", &perm)
		must(t, err)
		switch parts[0] {
		case "f":
			must(t, os.WriteFile(path, []byte(text), 0o600))
			must(t, syscall.Chmod(path, perm))
		case "d":
			must(t, os.Mkdir(path, 0o700))
			dirs = append(dirs, dir{path, os.FileMode(perm)})
		case "l":
			must(t, os.Symlink(text, path))
		}
	}
	for _, d := range slices.Backward(dirs) {
		must(t, os.Chmod(d.path, d.mode))
	}
}

func ok(t testing.TB, r *Report, err error, when string) {
	t.Helper()
	must(t, err)
	for _, o := range r.Outcomes {
		if o.Verdict != Done && o.Verdict != Back {
			t.Errorf("%s: %q: %s: %s", when, o.Path, o.Verdict, o.Why)
		}
	}
}

func TestThereAndBack(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprint("inside=", inside), func(t *testing.T) {
			old, new := all(t)
			b := newBox(t, old, new)
			h := noHooks()
			h.inside = inside
			there := b.journal()
			r, err := run(context.Background(), b.project, there, b.steps, h)
			ok(t, r, err, "run")
			b.is(b.newTree, "after run")
			if s, err := Look(there); s != Ended || err != nil {
				t.Errorf("the journal says %q, %v", s, err)
			}
			back, err := Undo(there)
			must(t, err)
			r, err = run(context.Background(), b.project, b.journal(), back, h)
			ok(t, r, err, "undo")
			b.is(b.oldTree, "after undo")
			again, err := Check(b.project, b.steps)
			must(t, err)
			ok(t, &Report{again}, nil, "check")
		})
	}
}

// What is so already is told as such, and is not undone.
func TestAlready(t *testing.T) {
	old, new := all(t)
	b := newBox(t, old, new)
	must(t, os.WriteFile(b.project+"/edited", []byte("after"), 0o644))
	must(t, os.Remove(b.project+"/gone"))
	dir := b.journal()
	r, err := Run(context.Background(), b.project, dir, b.steps)
	must(t, err)
	if !r.All() {
		t.Error("not all is as wanted")
	}
	for _, o := range r.Outcomes {
		if want := o.Path == "edited" || o.Path == "gone"; (o.Verdict == Already) != want {
			t.Errorf("%q: %s", o.Path, o.Verdict)
		}
	}
	b.is(b.newTree, "after run")
	back, err := Undo(dir)
	must(t, err)
	for _, s := range back {
		if s.Path == "edited" || s.Path == "gone" {
			t.Errorf("%q would be undone", s.Path)
		}
	}
}

// errKilled stands for SIGKILL: it leaves everything as it is. What deferred calls
// do on the way is what the kernel does: close files.
var errKilled = errors.New("killed")

// killedAt calls f and ends it at its nth hook; it says whether it came that far.
func killedAt(n int, f func(hooks)) (killed bool) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case any(errKilled):
			killed = true
		default:
			panic(r)
		}
	}()
	h := noHooks()
	h.at = func(string) {
		if n--; n < 0 {
			panic(errKilled)
		}
	}
	f(h)
	return false
}

// between fails unless each entry is as it was or as it will be; directories may
// be open for their owner.
func (b *box) between(when string) {
	b.t.Helper()
	got, err := changetest.Tree(b.project).States()
	must(b.t, err)
	fits := func(s, want *change.State) bool {
		if isDir(s) && isDir(want) {
			return s.Mode&^ownerAll == want.Mode&^ownerAll
		}
		return change.Same(s, want)
	}
	for p, s := range got {
		if strings.HasPrefix(p, stagePrefix) {
			continue
		}
		if !fits(s, b.oldTree[p]) && !fits(s, b.newTree[p]) {
			b.t.Errorf("%s: %q is neither old nor new: %s", when, p, words(s))
		}
	}
	for p, s := range b.oldTree {
		// What is deleted and what is a directory may be gone, files that stay may not.
		if isFile(s) && isFile(b.newTree[p]) && got[p] == nil {
			b.t.Errorf("%s: %q is gone", when, p)
		}
	}
}

// Killed at each point, the tree has old and new entries only, and can be brought
// to either end; also if that is killed, and if it is to be the other end then.
func TestKilledAtEachPoint(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprint("inside=", inside), func(t *testing.T) {
			old, new := all(t)
			b := newBox(t, old, new)
			points := 0
			for n := 0; ; n++ {
				killed := false
				for _, way := range []Way{Finish, TakeBack} {
					b.reset()
					dir := b.journal()
					killed = killedAt(n, func(h hooks) {
						h.inside = inside
						_, err := run(context.Background(), b.project, dir, b.steps, h)
						must(t, err)
					})
					if !killed {
						break
					}
					when := fmt.Sprintf("killed at %d", n)
					b.between(when)
					b.recovered(dir, way, when)
				}
				if !killed {
					break
				}
				points++
			}
			if points < 100 {
				t.Errorf("only %d points", points)
			}
			t.Logf("%d points", points)
		})
	}
}

// recovered brings the project to one end and checks that it is there.
func (b *box) recovered(dir string, way Way, when string) {
	b.t.Helper()
	state, err := Look(dir)
	must(b.t, err)
	if state == Ended {
		return
	}
	when += fmt.Sprintf(", %s, %s", state, way)
	r, err := Recover(dir, way)
	ok(b.t, r, err, when)
	want := b.newTree
	if state == Unbegun || way == TakeBack && state == Interrupted || state == Carried && b.went == TakeBack {
		want = b.oldTree
	}
	b.is(want, when)
	if s, err := os.Stat(dir); err == nil && s.IsDir() {
		if s, err := Look(dir); s != Ended || err != nil {
			b.t.Errorf("%s: the journal says %q, %v", when, s, err)
		}
		// Whatever was done can be undone.
		back, err := Undo(dir)
		must(b.t, err)
		r, err := Run(context.Background(), b.project, b.journal(), back)
		ok(b.t, r, err, when+", undo")
		b.is(b.oldTree, when+", undo")
	}
}

func TestKilledWhileRecovering(t *testing.T) {
	old, new := all(t)
	b := newBox(t, old, new)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 120 {
		b.reset()
		b.went = Finish
		dir := b.journal()
		when := fmt.Sprintf("seed %d", seed)
		inside := rng.IntN(2) == 0
		killedAt(20+rng.IntN(95), func(h hooks) {
			h.inside = inside
			_, _ = run(context.Background(), b.project, dir, b.steps, h)
		})
		for range 1 + rng.IntN(3) {
			if s, err := Look(dir); err != nil || s != Interrupted {
				break
			}
			n := rng.IntN(80)
			b.went = []Way{Finish, TakeBack}[rng.IntN(2)]
			killedAt(n, func(h hooks) { _, _ = recoverRun(dir, b.went, h) })
			when += fmt.Sprintf(", %s until %d", b.went, n)
			b.between(when)
		}
		b.recovered(dir, []Way{Finish, TakeBack}[rng.IntN(2)], when)
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, journalFile))
			t.Logf("%s", text)
			return
		}
	}
}

// The same with a process and a signal, at a few points.
func TestSIGKILL(t *testing.T) {
	old, new := all(t)
	b := newBox(t, old, new)
	for n := 3; n < 110; n += 15 {
		b.reset()
		dir := b.journal()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "APPLY_CHILD="+dir, "APPLY_PROJECT="+b.project, "APPLY_OLD="+old, "APPLY_NEW="+new, fmt.Sprint("APPLY_AT=", n))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("at %d: %v: %s", n, err, out)
		}
		when := fmt.Sprintf("killed at %d", n)
		b.between(when)
		b.recovered(dir, []Way{Finish, TakeBack}[n%2], when)
	}
}

func child(dir string) int {
	var n int
	_, _ = fmt.Sscan(os.Getenv("APPLY_AT"), &n)
	old, new := changetest.Tree(os.Getenv("APPLY_OLD")), changetest.Tree(os.Getenv("APPLY_NEW"))
	set, err := changetest.Between(old, new)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	h := noHooks()
	h.at = func(string) {
		if n--; n < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	r, err := run(context.Background(), os.Getenv("APPLY_PROJECT"), dir, Steps(set.Entries, new), h)
	fmt.Println(r, err)
	return 0
}
