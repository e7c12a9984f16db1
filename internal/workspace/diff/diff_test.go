package diff

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/testenv"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/change/changetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is a directory's files: path to "MODE content", "-> text" for a symlink.
type tree map[string]string

func (tr tree) make(t testing.TB, dir string) {
	t.Helper()
	for p, s := range tr {
		at := filepath.Join(dir, p)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if link, ok := strings.CutPrefix(s, "-> "); ok {
			must(t, os.Symlink(link, at))
			continue
		}
		mode, text, _ := strings.Cut(s, " ")
		var m os.FileMode = 0o644
		if mode == "x" {
			m = 0o755
		}
		must(t, os.WriteFile(at, []byte(text), m))
		must(t, os.Chmod(at, m))
	}
}

// git runs git in dir, without anybody's settings.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needGit(t testing.TB) {
	if _, err := exec.LookPath("git"); err != nil {
		testenv.Skip(t, testenv.Git, err.Error())
	}
}

// ours is the text of what differs between two directories.
func ours(t testing.TB, old, new string) string {
	t.Helper()
	a, b := changetest.Tree(old), changetest.Tree(new)
	set, err := changetest.Between(a, b)
	must(t, err)
	var out bytes.Buffer
	for _, f := range Files(set, a, b) {
		must(t, Text(&out, f, Load(f, a, b), Style{}))
	}
	return out.String()
}

func lines(n int, change ...int) string {
	var b strings.Builder
	for i := range n {
		text := fmt.Sprintf("line %d", i)
		for _, c := range change {
			if c == i {
				text = "changed"
			}
		}
		b.WriteString(text + "\n")
	}
	return b.String()
}

// The same text as git's, letter by letter.
func TestAsGit(t *testing.T) {
	needGit(t)
	code := "package x\n\nfunc a() {\n\treturn\n}\n\nfunc b() {\n" + strings.Repeat("\tb()\n", 10) + "}\n"
	for name, c := range map[string]struct{ old, new tree }{
		"edit":            {tree{"f": "- a\nb\nc\n"}, tree{"f": "- a\nB\nc\n"}},
		"two hunks":       {tree{"f": "- " + lines(40)}, tree{"f": "- " + lines(40, 3, 30)}},
		"joined hunks":    {tree{"f": "- " + lines(40)}, tree{"f": "- " + lines(40, 10, 17)}},
		"no newline":      {tree{"f": "- a\nb"}, tree{"f": "- a\nb\n"}},
		"never a newline": {tree{"f": "- a\nb"}, tree{"f": "- a\nc"}},
		"new":             {tree{"k": "- k"}, tree{"k": "- k", "f": "- a\nb\n"}},
		"new and empty":   {tree{"k": "- k"}, tree{"k": "- k", "f": "- "}},
		"deleted":         {tree{"f": "- a\nb\n", "k": "- k"}, tree{"k": "- k"}},
		"emptied":         {tree{"f": "- a\nb\n"}, tree{"f": "- "}},
		"filled":          {tree{"f": "- "}, tree{"f": "- a\n"}},
		"mode":            {tree{"f": "- a\n"}, tree{"f": "x a\n"}},
		"mode and edit":   {tree{"f": "x a\n"}, tree{"f": "- b\n"}},
		"executable":      {tree{"k": "- k"}, tree{"k": "- k", "f": "x #!/bin/sh\n"}},
		"rename":          {tree{"a": "- " + lines(9)}, tree{"d/b": "- " + lines(9)}},
		"rename and edit": {tree{"a": "- " + lines(20)}, tree{"b": "- " + lines(20, 4)}},
		"rename and mode": {tree{"a": "- " + lines(20)}, tree{"b": "x " + lines(20)}},
		"no rename":       {tree{"a": "- a\nb\nc\n"}, tree{"b": "- d\ne\nf\n"}},
		"binary":          {tree{"f": "- a\x00b"}, tree{"f": "- a\x00c"}},
		"new binary":      {tree{"k": "- k"}, tree{"k": "- k", "f": "- a\x00c"}},
		"symlink":         {tree{"l": "-> a"}, tree{"l": "-> b"}},
		"new symlink":     {tree{"k": "- k"}, tree{"k": "- k", "l": "-> ../../x"}},
		"file to symlink": {tree{"l": "- a\n"}, tree{"l": "-> a"}},
		"odd names":       {tree{"a b": "- 1\n", "t\tn\n\"\\": "- 1\n", "\xff\x01": "- 1\n", "ä": "- 1\n"}, tree{"a b": "- 2\n", "t\tn\n\"\\": "- 2\n", "\xff\x01": "- 2\n", "ä": "- 2\n"}},
		"section":         {tree{"f": "- " + code}, tree{"f": "- " + strings.Replace(code, "\tb()\n}\n", "\tc()\n}\n", 1)}},
		"slide":           {tree{"f": "- a {\n}\n\nb {\n}\n"}, tree{"f": "- a {\n}\n\nc {\n}\n\nb {\n}\n"}},
		"carriage return": {tree{"f": "- a\r\nb\r\n"}, tree{"f": "- a\r\nc\r\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			old, new, repo := dir+"/old", dir+"/new", dir+"/repo"
			c.old.make(t, old)
			c.new.make(t, new)
			must(t, os.Mkdir(repo, 0o755))
			c.old.make(t, repo)
			git(t, repo, "init", "-q")
			git(t, repo, "add", "-A")
			git(t, repo, "commit", "-qm", "old")
			for p := range c.old {
				must(t, os.Remove(filepath.Join(repo, p)))
			}
			c.new.make(t, repo)
			git(t, repo, "add", "-A")
			want := git(t, repo, "diff", "--cached", "-M", "--no-indent-heuristic", "--abbrev=7")
			got := ours(t, old, new)
			// What git has no words for.
			var kept []string
			for l := range strings.SplitAfterSeq(got, "\n") {
				if !strings.HasPrefix(l, "# ") {
					kept = append(kept, l)
				}
			}
			if got = strings.Join(kept, ""); got != want {
				t.Errorf("ours:\n%s\ngit's:\n%s", got, want)
			}
		})
	}
}

// What we write, git applies, and it gives the new tree.
func TestGitApplies(t *testing.T) {
	needGit(t)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 25 {
		dir := t.TempDir()
		old, new := randomTree(rng), tree{}
		for p, s := range old {
			switch rng.IntN(6) {
			case 0: // gone
			case 1:
				new["moved/"+p] = edited(rng, s)
			case 2:
				new[p] = s
			default:
				new[p] = edited(rng, s)
			}
		}
		for p, s := range randomTree(rng) {
			new["new-"+p] = s
		}
		old.make(t, dir+"/old")
		old.make(t, dir+"/applied")
		new.make(t, dir+"/new")
		text := ours(t, dir+"/old", dir+"/new")
		if text == "" {
			continue
		}
		must(t, os.WriteFile(dir+"/patch", []byte(text), 0o644))
		git(t, dir+"/applied", "init", "-q")
		git(t, dir+"/applied", "apply", "--whitespace=nowarn", "../patch")
		must(t, os.RemoveAll(dir+"/applied/.git"))
		left, err := changetest.Between(changetest.Tree(dir+"/applied"), changetest.Tree(dir+"/new"))
		must(t, err)
		for _, e := range left.Entries {
			// git keeps no modes but one bit, and no empty directories.
			if e.Old == nil || e.New == nil || e.Old.Sum != e.New.Sum || e.Old.Link != e.New.Link || (e.Old.Mode^e.New.Mode)&0o100 != 0 {
				t.Errorf("seed %d, round %d: %q differs: %+v %+v", seed, round, e.Path, e.Old, e.New)
			}
		}
		if t.Failed() {
			t.Log(text)
			return
		}
	}
}

func randomTree(rng *rand.Rand) tree {
	out := tree{}
	for i := range 2 + rng.IntN(8) {
		name := []string{"f", "with space", "quote\"", "\xfe\x02", "ümlaut", "d/sub/f"}[rng.IntN(6)] + fmt.Sprint(i)
		switch rng.IntN(8) {
		case 0:
			out[name] = "-> target" + fmt.Sprint(rng.IntN(5))
		case 1:
			out[name] = "- "
		default:
			out[name] = []string{"- ", "x "}[rng.IntN(2)] + randomText(rng)
		}
	}
	return out
}

func randomText(rng *rand.Rand) string {
	var b strings.Builder
	words := 1 + rng.IntN(12)
	for range rng.IntN(60) {
		fmt.Fprintf(&b, "%s\n", []string{"}", "", "\tx", "a\r", "-- a", "+++ b", "@@ -1 +1 @@", "# remark", "\\ No", "func", "\xff", "end"}[rng.IntN(words)])
	}
	if rng.IntN(3) == 0 {
		b.WriteString("no newline")
	}
	return b.String()
}

func edited(rng *rand.Rand, s string) string {
	if strings.HasPrefix(s, "-> ") {
		return s + "x"
	}
	lines := strings.SplitAfter(s[2:], "\n")
	for range 1 + rng.IntN(4) {
		at := rng.IntN(len(lines))
		switch rng.IntN(3) {
		case 0:
			lines[at] = "edited\n"
		case 1:
			lines = append(lines[:at], lines[at+1:]...)
		case 2:
			lines = append(lines[:at], append([]string{"inserted\n"}, lines[at:]...)...)
		}
		if len(lines) == 0 {
			lines = []string{""}
		}
	}
	return []string{"- ", "x "}[rng.IntN(2)] + strings.Join(lines, "")
}

// All hunks make the new text of the old one, and each alone makes something that
// differs from the old where it is and nowhere else.
func FuzzPatch(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nc\n")
	f.Add("", "x")
	f.Add(lines(50), lines(50, 3, 30))
	rng := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		s := "- " + randomText(rng)
		f.Add(s[2:], edited(rng, s)[2:])
	}
	f.Fuzz(func(t *testing.T, old, new string) {
		a, b := []byte(old), []byte(new)
		hunks := hunksOf(split(a), split(b))
		if got := Patch(a, hunks); !bytes.Equal(got, b) {
			t.Fatalf("%q to %q gave %q", old, new, got)
		}
		if !bytes.Equal(Patch(a, nil), a) {
			t.Fatal("no hunk is not the old text")
		}
		var done []byte
		for i := range hunks { // one after the other, the last first: each still fits
			done = Patch(a, hunks[len(hunks)-1-i:])
		}
		if len(hunks) > 0 && !bytes.Equal(done, b) {
			t.Fatal("one hunk after the other is not the new text")
		}
	})
}

// As few lines as can be, told by the textbook's table.
func TestShortest(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		a, b := split([]byte(randomText(rng))), split([]byte(randomText(rng)))
		gone, come := changed(a, b)
		n := 0
		for _, x := range append(gone, come...) {
			if x {
				n++
			}
		}
		if want := len(a) + len(b) - 2*common(a, b); n != want {
			t.Fatalf("%d lines differ, %d have to: %q %q", n, want, a, b)
		}
	}
}

// common is the length of the longest common subsequence.
func common(a, b [][]byte) int {
	row := make([]int, len(b)+1)
	for i := range a {
		diagonal := 0
		for j := range b {
			up := row[j+1]
			if bytes.Equal(a[i], b[j]) {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(row[j+1], row[j])
			}
			diagonal = up
		}
	}
	return row[len(b)]
}

// Texts that have nothing in common, and as many lines as fit: it ends in time, and
// what it says is true.
func TestHostileText(t *testing.T) {
	var a, b strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&a, "a%d\n", i)
		fmt.Fprintf(&b, "b%d\n", i)
		if i%7 == 0 { // now and then a line that is everywhere
			a.WriteString("}\n")
			b.WriteString("\n}\n")
		}
	}
	start := time.Now()
	old, new := []byte(a.String()), []byte(b.String())
	hunks := hunksOf(split(old), split(new))
	if !bytes.Equal(Patch(old, hunks), new) {
		t.Error("the patch is wrong")
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v", d)
	} else {
		t.Log(d)
	}
}

func TestHarmless(t *testing.T) {
	side := sides{"f": "a\x1b[2J\u202eb\n"}
	f := File{New: "f", To: &change.State{Type: change.File, Mode: 0o644, Size: 9}}
	var out bytes.Buffer
	must(t, Text(&out, f, Load(f, side, side), Style{Line: func(b []byte) string { return fmt.Sprintf("%q", b) }}))
	if strings.ContainsAny(out.String(), "\x1b\u202e") {
		t.Errorf("%q", out.String())
	}
	for _, bad := range []string{"a\x1b[2J", "\u202e", "\u0085", "\x7f", "\n"} {
		if q := Quote(bad); strings.ContainsFunc(q, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("%q is written %q", bad, q)
		}
	}
}

// Many files with the same content, deleted here and new there: each has one partner,
// and it does not take the square of them.
func TestManyRenames(t *testing.T) {
	var set change.Set
	state := &change.State{Type: change.File, Mode: 0o644, Size: 3, Sum: "same"}
	for i := range 50000 {
		set.Entries = append(set.Entries, change.Entry{Path: fmt.Sprintf("a/%d", i), Old: state}, change.Entry{Path: fmt.Sprintf("b/%d", i), New: state})
	}
	set.Sort()
	start := time.Now()
	files := Files(&set, sides{}, sides{})
	if len(files) != 50000 || !files[0].Renamed() || filepath.Base(files[0].Old) != filepath.Base(files[0].New) {
		t.Errorf("%d files, the first %+v", len(files), files[0])
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestTooLarge(t *testing.T) {
	side := sides{"f": strings.Repeat("x\n", maxText)}
	f := File{Old: "f", New: "f", From: &change.State{Type: change.File, Mode: 0o644, Size: 3}, To: &change.State{Type: change.File, Mode: 0o644, Size: 4}}
	if c := Load(f, side, side); c.Unread == "" || c.Old != nil {
		t.Errorf("a size that lies: %q, %d bytes", c.Unread, len(c.Old))
	}
	f.To.Size = maxText + 1
	if c := Load(f, sides{"f": ""}, side); c.Unread == "" {
		t.Error("no word about it")
	}
}

type sides map[string]string

func (s sides) Open(path string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s[path])), nil
}

func TestStat(t *testing.T) {
	var out bytes.Buffer
	must(t, Stat(&out, []Row{{Name: "a.go", Added: 3, Removed: 1}, {Name: "old => new/name", Added: 200, Removed: 100}, {Name: "pic", Text: "Bin 3 -> 5 bytes"}}, 60, Style{}))
	want := ` a.go            |   4 +-
 old => new/name | 300 ++++++++++++++++++++++++------------
 pic             | Bin 3 -> 5 bytes
 3 files changed, 203 insertions(+), 101 deletions(-)
`
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}

// BenchmarkDiff100 is 100 files of 8 KiB with a few lines edited; the bar is 50 ms.
func BenchmarkDiff100(b *testing.B) {
	dir := b.TempDir()
	old, new := tree{}, tree{}
	for i := range 100 {
		old[fmt.Sprintf("d%d/f%d", i/10, i)] = "- " + lines(700)
		new[fmt.Sprintf("d%d/f%d", i/10, i)] = "- " + lines(700, i, 300, 600)
	}
	old.make(b, dir+"/old")
	new.make(b, dir+"/new")
	a, z := changetest.Tree(dir+"/old"), changetest.Tree(dir+"/new")
	set, err := changetest.Between(a, z)
	must(b, err)
	for b.Loop() {
		for _, f := range Files(set, a, z) {
			must(b, Text(io.Discard, f, Load(f, a, z), Style{}))
		}
	}
}
