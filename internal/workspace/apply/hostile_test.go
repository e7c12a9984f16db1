package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/testenv"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/change/changetest"
)

// small is a project in which one file is edited, one created and one deleted.
func small(t testing.TB) *box {
	dir := temp(t)
	build(t, dir+"/old", "f edit 0644 old\nf delete 0644 old\nd d 0755\nf d/in 0644 old")
	build(t, dir+"/new", "f edit 0644 new\nf create 0644 new\nd d 0755\nf d/in 0644 new")
	return newBox(t, dir+"/old", dir+"/new")
}

// edits are what a person, or the inside, may do to a path at any moment.
var edits = map[string]func(path string) error{
	"write in place": func(p string) error { return os.WriteFile(p, []byte("host"), 0o644) },
	"write and rename": func(p string) error {
		return errors.Join(os.WriteFile(p+"~", []byte("host"), 0o644), os.Rename(p+"~", p))
	},
	"chmod":  func(p string) error { return os.Chmod(p, 0o600) },
	"delete": os.Remove,
	"symlink": func(p string) error {
		return errors.Join(os.Symlink("/etc/passwd", p+"~"), os.Rename(p+"~", p))
	},
	"directory": func(p string) error {
		_ = os.Remove(p)
		return errors.Join(os.Mkdir(p, 0o755), os.WriteFile(p+"/file", []byte("host"), 0o644))
	},
	"fifo": func(p string) error {
		_ = os.Remove(p)
		return syscall.Mkfifo(p, 0o644)
	},
}

// An edit right before the rename, after every look: it is never lost, and told.
func TestEditBeforeTheDeed(t *testing.T) {
	for name, edit := range edits {
		for _, c := range []struct{ point, path string }{{"before swap edit", "edit"}, {"before take delete", "delete"}, {"before put create", "create"}} {
			if c.path == "create" && (name == "chmod" || name == "delete") {
				continue
			}
			t.Run(name+" "+c.path, func(t *testing.T) {
				b := small(t)
				h := noHooks()
				h.at = func(at string) {
					if at == c.point {
						must(t, edit(filepath.Join(b.project, c.path)))
					}
				}
				dir := b.journal()
				r, err := run(context.Background(), b.project, dir, b.steps, h)
				must(t, err)
				b.one(r, c.path, Conflict)
				b.hosts(c.path, name)
				// What is undone leaves it alone, too.
				back, err := Undo(dir)
				must(t, err)
				_, err = Run(context.Background(), b.project, b.journal(), back)
				must(t, err)
				b.hosts(c.path, name)
			})
		}
	}
}

// one fails unless this path alone is not done.
func (b *box) one(r *Report, path string, want Verdict) {
	b.t.Helper()
	for _, o := range r.Outcomes {
		switch {
		case o.Path == path && o.Verdict != want:
			b.t.Errorf("%s: %s (%s), want %s", o.Path, o.Verdict, o.Why, want)
		case o.Path == path && o.Why == "":
			b.t.Errorf("%s: no reason", o.Path)
		case o.Path != path && o.Verdict != Done:
			b.t.Errorf("%s: %s: %s", o.Path, o.Verdict, o.Why)
		}
	}
}

// hosts fails unless the path has what the edit made.
func (b *box) hosts(path, edit string) {
	b.t.Helper()
	dir, err := fsat.OpenRoot(b.project)
	must(b.t, err)
	defer fsat.Close(dir)
	got, _, err := stateOf(dir, path, -1)
	must(b.t, err)
	is := words(got)
	var text []byte
	if isFile(got) { // a FIFO would wait
		text, _ = os.ReadFile(filepath.Join(b.project, path))
	}
	in, _ := os.ReadFile(filepath.Join(b.project, path, "file"))
	fine := map[string]bool{
		"write in place": string(text) == "host", "write and rename": string(text) == "host",
		"chmod": string(text) == "old" && got != nil && got.Mode == 0o600, "delete": got == nil,
		"symlink": got != nil && got.Link == "/etc/passwd", "directory": string(in) == "host", "fifo": got != nil && got.Type == change.Other,
	}[edit]
	if !fine {
		b.t.Errorf("after %q the project has %s: %q", edit, is, text)
	}
}

// Two edits, before the exchange and before it is undone: the newest stays in the
// project, the other is kept and told.
func TestEditOfWhatCameIn(t *testing.T) {
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			b := small(t)
			h := noHooks()
			h.at = func(at string) {
				switch at {
				case "before swap edit":
					must(t, os.WriteFile(filepath.Join(b.project, "edit"), []byte("first"), 0o644))
				case "before back edit":
					must(t, edit(filepath.Join(b.project, "edit")))
				}
			}
			r, err := run(context.Background(), b.project, b.journal(), b.steps, h)
			must(t, err)
			b.one(r, "edit", Conflict)
			if name == "delete" { // the first is back: it is the newest that there is
				text, _ := os.ReadFile(filepath.Join(b.project, "edit"))
				if string(text) != "first" {
					t.Errorf("%q", text)
				}
				return
			}
			if name == "chmod" { // of what was put in
				text, _ := os.ReadFile(filepath.Join(b.project, "edit"))
				if string(text) != "new" {
					t.Errorf("%q", text)
				}
			} else {
				b.hosts("edit", name)
			}
			for _, o := range r.Outcomes {
				if o.Path == "edit" {
					text, err := os.ReadFile(o.Kept)
					if err != nil || string(text) != "first" {
						t.Errorf("kept in %q: %q, %v", o.Kept, text, err)
					}
				}
			}
		})
	}
}

// A writer that still has the old file open writes into what is kept.
func TestOpenWriter(t *testing.T) {
	b := small(t)
	f, err := os.OpenFile(filepath.Join(b.project, "edit"), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	dir := b.journal()
	r, err := Run(context.Background(), b.project, dir, b.steps)
	ok(t, r, err, "run")
	_, err = f.WriteString("late")
	must(t, err)
	back, err := Undo(dir)
	must(t, err)
	r, err = Run(context.Background(), b.project, b.journal(), back)
	must(t, err)
	b.one(r, "edit", Failed) // it is not what it was: nothing is put over the new one
	text, _ := os.ReadFile(filepath.Join(b.project, "edit"))
	if string(text) != "new" {
		t.Errorf("%q", text)
	}
}

// A name on the way is exchanged with a symlink that leads out, all the time:
// nothing outside is read, written, made or removed.
func TestSymlinkSwapper(t *testing.T) {
	b := small(t)
	outside := t.TempDir()
	build(t, outside, "f in 0644 old\nf canary 0644 canary")
	want, err := changetest.Tree(outside).States()
	must(t, err)
	must(t, os.Symlink(outside, filepath.Join(b.project, "swap")))
	stop, stopped := make(chan bool), make(chan int)
	root, err := fsat.OpenRoot(b.project)
	must(t, err)
	defer fsat.Close(root)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				stopped <- n
				return
			default:
				if fsat.Exchange(root, "swap", root, "d") == nil {
					n++
				}
				runtime.Gosched()
			}
		}
	}()
	done, other := 0, 0
	real, err := os.OpenRoot(filepath.Join(b.project, "d"))
	must(t, err)
	defer real.Close()
	for range 300 {
		must(t, real.WriteFile("in", []byte("old"), 0o644))
		dir := b.journal()
		r, err := Run(context.Background(), b.project, dir, b.steps)
		must(t, err)
		for _, o := range r.Outcomes {
			if o.Path == "d/in" && o.Verdict == Done {
				done++
			} else if o.Path == "d/in" {
				other++
			}
		}
	}
	stop <- true
	if n := <-stopped; n < 100 || done == 0 || other == 0 {
		t.Errorf("%d swaps, %d times done, %d times not: nothing was tried", n, done, other)
	}
	got, err := changetest.Tree(outside).States()
	must(t, err)
	for _, d := range differences(got, want) {
		t.Error("outside: " + d)
	}
	t.Logf("done %d times, refused %d times", done, other)
}

func TestRefused(t *testing.T) {
	b := small(t)
	sum := b.newTree["edit"].Sum
	file := func(mode uint32) *change.State {
		return &change.State{Type: change.File, Mode: mode, Size: 3, Sum: sum}
	}
	side := text("new")
	other := &change.State{Type: change.Other, Mode: 0o644}
	for name, s := range map[string]Step{
		"setuid":        {Path: "x", Want: file(0o4755), Content: side},
		"setgid":        {Path: "x", Want: file(0o2755), Content: side},
		"device":        {Path: "x", Want: other},
		"device before": {Path: "x", Expect: other},
		"nobody read":   {Path: "x", Want: &change.State{Type: change.File, Mode: 0o644, Size: 3}, Content: side},
		"no content":    {Path: "x", Want: file(0o644)},
		"empty link":    {Path: "x", Want: &change.State{Type: change.Symlink}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Run(context.Background(), b.project, b.journal(), []Step{s})
			must(t, err)
			if o := r.Outcomes[0]; o.Verdict != Refused || o.Why == "" {
				t.Errorf("%+v", o)
			}
			b.is(b.oldTree, "after")
		})
	}
	for _, path := range []string{"", ".", "..", "../x", "d/../../x", "/x", "d//x", "d/", "./x", "a\x00b", strings.Repeat("n", 256)} {
		if _, err := Run(context.Background(), b.project, b.journal(), []Step{{Path: path, Want: file(0o644), Content: side}}); err == nil {
			t.Errorf("the path %q is a path", path)
		}
	}
	twice := []Step{{Path: "x", Want: file(0o644), Content: side}, {Path: "x", Want: file(0o600), Content: side}}
	if _, err := Run(context.Background(), b.project, b.journal(), twice); err == nil {
		t.Error("two steps for one path")
	}
	if _, err := Run(context.Background(), b.project, filepath.Join(b.project, "d", "journal"), b.steps); err == nil {
		t.Error("a journal in the project")
	}
	// The control: with the choice made, the bits are there.
	r, err := Run(context.Background(), b.project, b.journal(), []Step{{Path: "x", Want: file(0o4755), Content: side, SetID: true}})
	ok(t, r, err, "set-ID")
	if info, err := os.Stat(b.project + "/x"); err != nil || info.Mode()&os.ModeSetuid == 0 {
		t.Error("no set-user-ID bit", info, err)
	}
}

// text is a side that has the same content everywhere.
type text string

func (s text) Open(string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(s))), nil
}

// What comes is what was shown: a content that is another one by now does not.
func TestContentThatChanged(t *testing.T) {
	for _, now := range []string{"", "ne", "NEW", "newer", strings.Repeat("x", 1<<20)} {
		b := small(t)
		for i := range b.steps {
			if b.steps[i].Path == "edit" {
				b.steps[i].Content = text(now)
			}
		}
		r, err := Run(context.Background(), b.project, b.journal(), b.steps)
		must(t, err)
		b.one(r, "edit", Failed)
		if text, _ := os.ReadFile(b.project + "/edit"); string(text) != "old" {
			t.Errorf("%q", text)
		}
	}
}

// New things in a directory that was deleted or replaced inside.
func TestNewInGoneDirectory(t *testing.T) {
	for _, new := range []string{"f keep 0644 x", "f keep 0644 x\nf d 0644 file"} {
		dir := temp(t)
		build(t, dir+"/old", "f keep 0644 x\nd d 0755\nf d/a 0644 a")
		build(t, dir+"/new", new)
		for _, late := range []bool{false, true} {
			b := newBox(t, dir+"/old", dir+"/new")
			h := noHooks()
			h.at = func(at string) {
				if !late && at == "begin" || late && (at == "before drop d" || at == "before swap d") {
					must(t, os.WriteFile(b.project+"/d/mine", []byte("mine"), 0o644))
				}
			}
			r, err := run(context.Background(), b.project, b.journal(), b.steps, h)
			must(t, err)
			b.one(r, "d", Conflict)
			if text, _ := os.ReadFile(b.project + "/d/mine"); string(text) != "mine" {
				t.Errorf("late=%v: %q", late, text)
			}
		}
	}
}

// A full disk before the first step: nothing is done. A full disk while steps are
// carried out: each is done or told, and the journal ends.
func TestFullDisk(t *testing.T) {
	b := small(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFullDiskInside$", "-test.v")
	cmd.Env = append(os.Environ(), "APPLY_FULL="+filepath.Dir(b.state))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var no syscall.Errno
	if errors.As(err, &no) {
		testenv.Skip(t, testenv.UserNamespaces, err.Error())
	}
	if err != nil || !bytes.Contains(out, []byte("both were tried")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestFullDiskInside(t *testing.T) {
	dir := os.Getenv("APPLY_FULL")
	if dir == "" {
		return // TestFullDisk starts it
	}
	disk := filepath.Join(dir, "disk")
	must(t, os.Mkdir(disk, 0o755))
	must(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=512k,nr_inodes=200"))
	fill := func(path string) {
		f, err := os.Create(path)
		must(t, err)
		defer f.Close()
		for {
			if _, err := f.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}
	b := small(t)
	b.project = disk + "/project"
	copyTree(t, b.old, b.project)
	must(t, os.Mkdir(disk+"/state", 0o700))
	fill(disk + "/full")
	_, err := Run(context.Background(), b.project, disk+"/state/1", b.steps)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("with a full disk: %v", err)
	}
	b.is(b.oldTree, "full before")
	left, err := os.ReadDir(disk + "/state")
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	must(t, os.Remove(disk+"/full"))
	h := noHooks()
	h.at = func(at string) {
		if strings.HasPrefix(at, "before take") {
			fill(disk + "/full")
		}
	}
	r, err := run(context.Background(), b.project, disk+"/state/2", b.steps, h)
	if r == nil {
		t.Fatal(err)
	}
	if err != nil { // there was no room for the end of the journal
		must(t, os.Remove(disk+"/full"))
		r, err = Recover(disk+"/state/2", Finish)
	}
	ok(t, r, err, "full meanwhile")
	b.is(b.newTree, "full meanwhile")
	back, err := Undo(disk + "/state/2")
	must(t, err)
	_ = os.Remove(disk + "/full")
	r, err = Run(context.Background(), b.project, disk+"/state/3", back)
	ok(t, r, err, "undo")
	b.is(b.oldTree, "undo")
	fmt.Println("both were tried")
	otherMount(t, b)
}

// Another mount in the project is not entered: its files could not be exchanged.
func otherMount(t *testing.T, b *box) {
	must(t, syscall.Mount("tmpfs", b.project+"/d", "tmpfs", 0, "size=64k"))
	must(t, os.WriteFile(b.project+"/d/in", []byte("old"), 0o644))
	r, err := Run(context.Background(), b.project, filepath.Join(filepath.Dir(b.project), "state", "4"), b.steps)
	must(t, err)
	b.one(r, "d/in", Refused)
	if text, _ := os.ReadFile(b.project + "/d/in"); string(text) != "old" {
		t.Errorf("%q", text)
	}
}

// FuzzJournal: whatever the bytes, no panic, and no path that leads out.
func FuzzJournal(f *testing.F) {
	b := small(f)
	dir := b.journal()
	_, err := Run(context.Background(), b.project, dir, b.steps)
	must(f, err)
	text, err := os.ReadFile(filepath.Join(dir, journalFile))
	must(f, err)
	f.Add(text)
	f.Add([]byte(`{"begin":{"version":1,"root":"/","dir":{"dev":1,"ino":2}}}` + "\n" + `{"op":{"n":0,"path":"../x","do":"take","staged":{"dev":0,"ino":0}}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := readStory(bytes.NewReader(text))
		if err != nil {
			return
		}
		if s.whole > int64(len(text)) {
			t.Errorf("%d of %d bytes", s.whole, len(text))
		}
		for _, o := range s.ops {
			if check([]Step{{Path: o.path}}) != nil {
				t.Errorf("the path %q was read", o.path)
			}
		}
	})
}

// BenchmarkRun100 carries over 100 edits of files of 8 KiB; the bar is 100 ms.
func BenchmarkRun100(b *testing.B) {
	dir := b.TempDir()
	var old, new strings.Builder
	for i := range 100 {
		if i%10 == 0 {
			fmt.Fprintf(&old, "d d%d 0755\n", i/10)
			fmt.Fprintf(&new, "d d%d 0755\n", i/10)
		}
		fmt.Fprintf(&old, "f d%d/f%d 0644 %s\n", i/10, i, strings.Repeat("old ", 2048))
		fmt.Fprintf(&new, "f d%d/f%d 0644 %s\n", i/10, i, strings.Repeat("new ", 2048))
	}
	build(b, dir+"/old", old.String())
	build(b, dir+"/new", new.String())
	set, err := changetest.Between(changetest.Tree(dir+"/old"), changetest.Tree(dir+"/new"))
	must(b, err)
	steps := [][]Step{Steps(set.Entries, changetest.Tree(dir+"/new")), Steps(Reverse(set.Entries), changetest.Tree(dir+"/older"))}
	copyTree(b, dir+"/old", dir+"/older")
	n := 0
	for b.Loop() {
		r, err := Run(context.Background(), dir+"/old", fmt.Sprintf("%s/run%d", dir, n), steps[n%2])
		ok(b, r, err, "run")
		n++
	}
}
