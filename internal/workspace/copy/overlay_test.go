package copy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
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
)

// insideVariable makes this binary mount an overlay in namespaces of its own and do
// there what a test wants: it names one of deeds, which gets the argument.
const insideVariable = "COPY_TEST_INSIDE"

// churnVariable makes it do random things in the working directory.
const churnVariable = "COPY_TEST_CHURN"

// noOverlay is its status where it can't mount one.
const noOverlay = 42

type orders struct{ Deed, Argument, Project, Upper, Work, Target string }

func TestMain(m *testing.M) {
	if seed := os.Getenv(churnVariable); seed != "" {
		if err := deeds["random"](seed); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	if text := os.Getenv(insideVariable); text != "" {
		os.Exit(actInside(text))
	}
	os.Exit(testenv.Main(m))
}

func actInside(text string) int {
	var o orders
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	if err == nil {
		err = syscall.Mount("overlay", o.Target, "overlay", syscall.MS_NOSUID|syscall.MS_NODEV,
			"lowerdir="+o.Project+",upperdir="+o.Upper+",workdir="+o.Work+",userxattr")
	}
	if err == nil {
		err = os.Chdir(o.Target)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return noOverlay
	}
	if err := deeds[o.Deed](o.Argument); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(snap(".")); err != nil {
		return 1
	}
	return 0
}

// deeds are what is done inside, in the working directory.
var deeds = map[string]func(argument string) error{
	"sh": func(script string) error {
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	},
	"random": func(seed string) error {
		var n uint64
		if _, err := fmt.Sscan(seed, &n); err != nil {
			return err
		}
		churn(rand.New(rand.NewPCG(n, 7)))
		return nil
	},
	"deep": func(string) error {
		if err := os.WriteFile("big", make([]byte, 1<<16), 0o600); err != nil {
			return err
		}
		for range 20_000 {
			if err := syscall.Mkdir("d", 0o700); err != nil {
				return err
			}
			if err := syscall.Chdir("d"); err != nil {
				return err
			}
		}
		return nil
	},
	"attributes": func(string) error {
		if err := os.Mkdir("hidden", 0o755); err != nil {
			return err
		}
		for _, name := range []string{"user.overlay.opaque", "user.overlay.redirect", "user.overlay.whiteout", "user.overlay.overlay.opaque"} {
			for _, dir := range []string{"dir", "hidden", "."} {
				_ = syscall.Setxattr(dir, name, []byte("y"), 0)
			}
		}
		for _, name := range []string{"dir/whiteout", "dir/inner"} {
			if err := syscall.Mknod(name, syscall.S_IFCHR|0o600, 0); err == nil {
				return fmt.Errorf("the inside made a device 0/0 called %s", name)
			}
		}
		return nil
	},
}

// churn does random things in the working directory; what can't be done is not.
func churn(r *rand.Rand) {
	pick := func() string {
		var all []string
		_ = filepath.WalkDir(".", func(p string, _ fs.DirEntry, _ error) error { all = append(all, p); return nil })
		return all[r.IntN(len(all))]
	}
	fresh := func() string {
		at := pick()
		if st, err := os.Lstat(at); err != nil || !st.IsDir() {
			at = filepath.Dir(at)
		}
		return filepath.Join(at, []string{"a", "b", "c", "new", "x\xff", "sp ace", "li\nne", ".git"}[r.IntN(8)])
	}
	for range 120 {
		switch r.IntN(13) {
		case 0, 1:
			if p := fresh(); plain(p) {
				_ = os.WriteFile(p, fmt.Appendf(nil, "%d", r.IntN(5)), 0o644)
			}
		case 2:
			_ = os.Mkdir(fresh(), 0o755)
		case 3:
			_ = os.Remove(pick())
		case 4:
			if p := pick(); p != "." && r.IntN(3) == 0 {
				_ = os.RemoveAll(p)
			}
		case 5:
			_ = os.Rename(pick(), fresh())
		case 6:
			_ = exec.Command("mv", "-f", "--", pick(), fresh()).Run()
		case 7:
			_ = os.Chmod(pick(), fs.FileMode(0o700|r.IntN(0o77)))
		case 8:
			_ = os.Symlink([]string{"/etc/passwd", "..", "a"}[r.IntN(3)], fresh())
		case 9:
			_ = os.Link(pick(), fresh())
		case 10: // touched, but the same
			p := pick()
			if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() {
				if b, err := os.ReadFile(p); err == nil {
					_ = os.WriteFile(p, b, 0o644)
				}
			}
		case 11: // replaced by an empty directory: opaque
			if p := pick(); p != "." {
				_ = os.RemoveAll(p)
				_ = os.MkdirAll(filepath.Join(p, "a"), 0o755)
			}
		case 12:
			_ = syscall.Mkfifo(fresh(), 0o600)
		}
	}
}

// plain: opening it does not wait for anybody, and does not lead out of the tree.
func plain(path string) bool {
	st, err := os.Lstat(path)
	return err != nil || st.Mode().IsRegular()
}

// seen is one entry of a tree as a test saw it.
type seen struct {
	Path  []byte
	State change.State
	Text  []byte
}

// snap lists a tree with the content of its files.
func snap(root string) []seen {
	var out []seen
	_ = filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		st, serr := os.Lstat(p)
		if err != nil || serr != nil || rel == "." {
			return nil
		}
		sys := st.Sys().(*syscall.Stat_t)
		s := seen{Path: []byte(rel), State: change.State{Mode: sys.Mode & 0o7777}}
		switch sys.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			var b []byte
			if st.Size() < 1<<20 {
				b, _ = os.ReadFile(p)
			}
			s.State.Type, s.State.Size, s.Text = change.File, st.Size(), b
		case syscall.S_IFDIR:
			s.State.Type = change.Directory
		case syscall.S_IFLNK:
			s.State.Type, s.State.Mode = change.Symlink, 0o777
			s.State.Link, _ = os.Readlink(p)
		default:
			s.State.Type = change.Other
		}
		out = append(out, s)
		return nil
	})
	return out
}

// oracle is what differs between two trees that were looked at whole.
func oracle(old, new []seen) []string {
	index := map[string][2]*seen{}
	for i := range old {
		index[string(old[i].Path)] = [2]*seen{&old[i], nil}
	}
	for i := range new {
		p := index[string(new[i].Path)]
		p[1] = &new[i]
		index[string(new[i].Path)] = p
	}
	var out []string
	for path, p := range index {
		switch a, b := p[0], p[1]; {
		case a == nil:
			out = append(out, line(path, nil, &b.State))
		case b == nil:
			out = append(out, line(path, &a.State, nil))
		case a.State != b.State || !bytes.Equal(a.Text, b.Text):
			out = append(out, line(path, &a.State, &b.State))
		}
	}
	slices.Sort(out)
	return out
}

func line(path string, a, b *change.State) string {
	text := func(s *change.State) string {
		if s == nil {
			return "-"
		}
		return fmt.Sprintf("%s %o %d %q", s.Type, s.Mode, s.Size, s.Link)
	}
	return fmt.Sprintf("%q: %s -> %s", path, text(a), text(b))
}

func lines(s change.Set) []string {
	var out []string
	for _, e := range s.Entries {
		out = append(out, line(e.Path, e.Old, e.New))
	}
	slices.Sort(out)
	return out
}

// apart are the lines that one list has and the other has not.
func apart(got, want []string) string {
	var b strings.Builder
	for _, l := range got {
		if !slices.Contains(want, l) {
			b.WriteString("not wanted: " + l + "\n")
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			b.WriteString("missing: " + l + "\n")
		}
	}
	return b.String()
}

// world is a project with a session's folder.
type world struct {
	project, session string
	copy             Copy
}

func newWorld(t testing.TB, fill func(project string)) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir(), fill)
}

func newWorldIn(t testing.TB, base string, fill func(project string)) *world {
	t.Helper()
	w := &world{project: base + "/project", session: base + "/session"}
	for _, d := range []string{w.project, w.session, base + "/target"} {
		check(t, os.Mkdir(d, 0o755))
	}
	fill(w.project)
	var err error
	w.copy, err = Make(w.session, w.project)
	check(t, err)
	t.Cleanup(func() {
		check(t, Remove(w.session))
		if Exists(w.session) {
			t.Error("the copy is still there")
		}
	})
	return w
}

// act does a deed in the copy and returns what the inside saw afterwards.
func (w *world) act(t testing.TB, deed, argument string) []seen {
	t.Helper()
	up, below := Layers(w.session)
	text, err := json.Marshal(orders{deed, argument, w.project, up, below, filepath.Dir(w.project) + "/target"})
	check(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), insideVariable+"="+string(text))
	own := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: own(os.Getuid()), GidMappings: own(os.Getgid()),
		AmbientCaps: []uintptr{1 /* DAC_OVERRIDE */, 3 /* FOWNER */, 21 /* SYS_ADMIN */},
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if code := cmd.ProcessState.ExitCode(); code == noOverlay || code == -1 {
			testenv.Skip(t, testenv.UserNamespaces, fmt.Sprint(err, ": ", errs.String()))
		}
		t.Fatalf("%v: %s", err, errs.String())
	}
	var after []seen
	check(t, json.Unmarshal(out.Bytes(), &after))
	return after
}

func (w *world) changes(t testing.TB) change.Set {
	t.Helper()
	set, _, _, err := w.copy.Changes(w.session, w.project)
	check(t, err)
	return set
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sample(project string) {
	for _, d := range []string{"dir/sub/deep", "other", "a/b/c", ".git/objects/aa"} {
		_ = os.MkdirAll(filepath.Join(project, d), 0o755)
	}
	for _, f := range []string{"plain", "dir/one", "dir/two", "dir/sub/three", "dir/sub/deep/four", "a/b/c/x", "other/same", ".git/config", "x\xfe\nname"} {
		_ = os.WriteFile(filepath.Join(project, f), []byte("content of "+filepath.Base(f)), 0o644)
	}
	_ = os.Symlink("../plain", filepath.Join(project, "dir/link"))
}

// What is found is what the inside saw, whatever it did; and the project is untouched.
func TestChangesAreWhatWasSeen(t *testing.T) {
	for seed := range 12 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sample)
			before := snap(w.project)
			after := w.act(t, "random", fmt.Sprint(seed))
			set := w.changes(t)
			if len(set.Untold) > 0 {
				t.Errorf("untold: %+v", set.Untold)
			}
			want, got := oracle(before, after), lines(set)
			if !slices.Equal(got, want) {
				t.Error(apart(got, want))
			}
			if now := snap(w.project); len(oracle(before, now)) > 0 {
				t.Errorf("the project has changed: %v", oracle(before, now))
			}
		})
	}
}

func TestChanges(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   []string
	}{
		"touched only":    {"touch plain dir dir/one; cat dir/two >x; cat x >dir/two; rm x; chmod 755 dir", nil},
		"mode of a file":  {"chmod 700 plain", []string{`"plain": file 644 16 "" -> file 700 16 ""`}},
		"setuid":          {"chmod 4755 plain", []string{`"plain": file 644 16 "" -> file 4755 16 ""`}},
		"same size":       {"printf 'CONTENT OF PLAIN' >plain; touch -d @0 plain", []string{`"plain": file 644 16 "" -> file 644 16 ""`}},
		"closed file":     {"chmod 0 plain", []string{`"plain": file 644 16 "" -> file 0 16 ""`}},
		"file for a link": {"rm dir/link; echo 1 >dir/link", []string{`"dir/link": symlink 777 0 "../plain" -> file 644 2 ""`}},
		"link for a file": {"ln -sf /etc/passwd plain", []string{`"plain": file 644 16 "" -> symlink 777 0 "/etc/passwd"`}},
		"file for a dir":  {"rm -r other; echo 1 >other", []string{`"other": directory 755 0 "" -> file 644 2 ""`, `"other/same": file 644 15 "" -> -`}},
		"replaced dir":    {"rm -r a; mkdir -p a/b/c; echo 1 >a/b/c/y", []string{`"a/b/c/x": file 644 12 "" -> -`, `"a/b/c/y": - -> file 644 2 ""`}},
		"put back":        {"cp -a dir x; rm -r dir; mv x dir", nil},
		"fifo and socket": {"mkfifo f; mkfifo dir/f", []string{`"dir/f": - -> other 644 0 ""`, `"f": - -> other 644 0 ""`}},
		"renamed":         {"mv a b", []string{`"a": directory 755 0 "" -> -`, `"a/b": directory 755 0 "" -> -`, `"a/b/c": directory 755 0 "" -> -`, `"a/b/c/x": file 644 12 "" -> -`, `"b": - -> directory 755 0 ""`, `"b/b": - -> directory 755 0 ""`, `"b/b/c": - -> directory 755 0 ""`, `"b/b/c/x": - -> file 644 12 ""`}},
		"huge and sparse": {"truncate -s 1T huge", []string{fmt.Sprintf(`"huge": - -> file 644 %d ""`, int64(1)<<40)}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sample)
			w.act(t, "sh", "umask 022; "+c.script)
			set := w.changes(t)
			if len(set.Untold) > 0 {
				t.Errorf("untold: %+v", set.Untold)
			}
			if got := lines(set); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// A closed directory hides nothing silently.
func TestClosedDirectoryIsTold(t *testing.T) {
	w := newWorld(t, sample)
	w.act(t, "sh", "mkdir secret; echo 1 >secret/hook; chmod 0 secret; chmod 0 dir")
	set := w.changes(t)
	var told []string
	for _, u := range set.Untold {
		told = append(told, u.Path)
	}
	slices.Sort(told)
	if !slices.Equal(told, []string{"dir", "secret"}) {
		t.Errorf("untold: %+v", set.Untold)
	}
}

// Directories that are nested deeper than any path are told, in no long time, and
// can be removed (the clean-up of newWorld does).
func TestDeep(t *testing.T) {
	// A file system in memory: on a disk each removal of a directory takes a while.
	base, err := os.MkdirTemp("/dev/shm", "copy-test-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(base)) })
	w := newWorldIn(t, base, sample)
	w.act(t, "deep", "")
	if set := w.changes(t); len(set.Untold) != 1 || !strings.Contains(set.Untold[0].Why, "too deep") {
		t.Errorf("untold: %+v", set.Untold)
	}
	if n, err := Size(w.session); err != nil || n < 1<<16 {
		t.Errorf("size %d, %v", n, err)
	}
}

// The attributes that overlayfs writes can't be written by the inside, nor its marks
// of deletion: what it tries hides nothing.
func TestPlantedAttributes(t *testing.T) {
	w := newWorld(t, sample)
	w.act(t, "attributes", "")
	got := lines(w.changes(t))
	if !slices.Equal(got, []string{`"hidden": - -> directory 755 0 ""`}) {
		t.Errorf("%v", got)
	}
	// Nor do those in the project that an earlier run may have set: they are not read.
	w = newWorld(t, func(project string) {
		sample(project)
		_ = syscall.Setxattr(project+"/dir", "user.overlay.opaque", []byte("y"), 0)
		_ = syscall.Setxattr(project+"/a", "user.overlay.redirect", []byte("/dir"), 0)
	})
	w.act(t, "sh", "umask 022; echo 1 >dir/new; echo 1 >a/new")
	if got := lines(w.changes(t)); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

// Should the kernel ever write an attribute that changes what is seen, it is told.
func TestUnknownAttributeIsTold(t *testing.T) {
	for _, attribute := range []string{"user.overlay.redirect=/x", "user.overlay.metacopy=y", "user.overlay.opaque=x"} {
		w := newWorld(t, sample)
		up, _ := Layers(w.session)
		check(t, os.Mkdir(up+"/dir", 0o755))
		name, value, _ := strings.Cut(attribute, "=")
		if err := syscall.Setxattr(up+"/dir", name, []byte(value), 0); err != nil {
			testenv.Skip(t, testenv.UserNamespaces, "no attributes here: "+err.Error())
		}
		if set := w.changes(t); len(set.Untold) != 1 || set.Untold[0].Path != "dir" {
			t.Errorf("%s: %+v", attribute, set)
		}
	}
}

// Another directory of the project's name is not compared, and nothing is read of it.
func TestReplacedProject(t *testing.T) {
	w := newWorld(t, sample)
	w.act(t, "sh", "echo 1 >plain")
	_, old, _, err := w.copy.Changes(w.session, w.project)
	check(t, err)
	check(t, os.Rename(w.project, w.project+"-moved"))
	check(t, os.Mkdir(w.project, 0o755))
	sample(w.project)
	if _, _, _, err := w.copy.Changes(w.session, w.project); err == nil {
		t.Error("compared with another directory")
	}
	if f, err := old.Open("plain"); err == nil {
		f.Close()
		t.Error("read from another directory")
	}
}

// The sides have the contents, and lead nowhere else.
func TestSides(t *testing.T) {
	w := newWorld(t, sample)
	w.act(t, "sh", "echo new >plain; ln -sf /etc/passwd dir/one; rm -r dir/sub; ln -s /etc dir/sub; mkfifo pipe")
	_, old, new, err := w.copy.Changes(w.session, w.project)
	check(t, err)
	read := func(s change.Side, path string) string {
		f, err := s.Open(path)
		if err != nil {
			return "error"
		}
		defer f.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(f)
		return b.String()
	}
	for _, c := range []struct {
		side       change.Side
		path, want string
	}{
		{old, "plain", "content of plain"}, {new, "plain", "new\n"}, {new, "dir/one", "error"}, {new, "dir/sub/passwd", "error"},
		{new, "../session", "error"}, {new, "pipe", "error"}, {old, "dir/sub/three", "content of three"}, {new, "/etc/passwd", "error"},
	} {
		if got := read(c.side, c.path); got != c.want {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}

// The cost follows the change, not the tree.
func BenchmarkChanges(b *testing.B) {
	w := newWorld(b, func(project string) {
		for d := range 600 {
			dir := fmt.Sprintf("%s/d%d/e%d", project, d%30, d)
			_ = os.MkdirAll(dir, 0o755)
			for f := range 100 {
				_ = os.WriteFile(fmt.Sprintf("%s/f%d", dir, f), fmt.Appendf(nil, "%d", f), 0o644)
			}
		}
	})
	w.act(b, "sh", "for i in $(seq 100); do echo changed >d$((i%30))/e$((i%30))/f$i; done; for i in 1 2 3; do rm -r d$i/e$((i+30)); done")
	for b.Loop() {
		if n := len(w.changes(b).Entries); n != 100+3*101 {
			b.Fatal(n)
		}
	}
}
