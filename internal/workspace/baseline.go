package workspace

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/plan"
)

const (
	hashLimit    = 16 << 20  // larger files are told apart by inode, size and ctime
	contentLimit = 64 << 10  // what is kept to be put back
	contentTotal = 4 << 20   // of all files together
	configLimit  = 1 << 20   // a git file over this is not harmless
	copyLimit    = 256 << 20 // bytes set aside at once over a file system's border
	copyEntries  = 20_000
)

// Entry is one guarded entry as it was.
type Entry struct {
	Path  Name   `json:"path"`
	Kind  string `json:"kind"`
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Born  int64  `json:"born,omitempty"`
	Ctime int64  `json:"ctime"`
	Size  int64  `json:"size"`
	Mode  uint32 `json:"mode"`
	// Sum is the SHA-256 of a file up to 16 MiB, or of a symlink's text.
	Sum string `json:"sum,omitempty"`
	// Content is kept for small files, to put them back.
	Content []byte `json:"content,omitempty"`
	// Held: a read-only mount lies on it or above it while the inside runs,
	// so a change to this very inode comes from the host.
	Held bool `json:"held,omitempty"`
}

// same says that nothing has touched the entry: ctime can't be set by hand.
func (e Entry) same(o Entry) bool {
	return e.inode(o) && e.Ctime == o.Ctime && e.Size == o.Size && e.Mode == o.Mode
}

// inode says that it is the same file as then, not only the same number.
func (e Entry) inode(o Entry) bool {
	return e.Kind == o.Kind && e.Dev == o.Dev && e.Ino == o.Ino && e.Born == o.Born && e.Born != 0
}

// equal says that a program which reads or executes it sees no difference.
func (e Entry) equal(o Entry) bool {
	return e.Kind == o.Kind && e.Sum != "" && e.Sum == o.Sum && o.Mode&0o111&^e.Mode == 0
}

// Baseline is how the guarded names of a workspace were before the inside
// started. It prints as JSON, and another process can sweep from it later.
// It holds file contents: keep it private.
type Baseline struct {
	Version int    `json:"version"` // 1
	Root    string `json:"root"`    // absolute, no symlink at the end
	// Dir is the directory that was at Root: no other one is swept.
	Dir     Directory    `json:"dir"`
	Taken   int64        `json:"taken"` // nanoseconds since 1970
	Guards  []plan.Guard `json:"guards"`
	Entries []Entry      `json:"entries"` // sorted by path
	Blind   []Blind      `json:"blind,omitempty"`
}

// Directory tells a directory from another one of that name.
type Directory struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Born int64  `json:"born,omitempty"`
	here bool   // seen by this process
}

// is compares a directory with what it was. A device keeps its number until the
// next boot at most, and an inode's number is used again once nothing holds it; on
// overlayfs the time of birth changes with the first write. So within one process,
// which holds the old one mounted, the numbers tell, and later the birth.
func (d Directory) is(st fsat.Stat) bool {
	if d.here || d.Born == 0 || st.Born == 0 {
		return d.Ino == st.Ino && d.Dev == st.Dev
	}
	return d.Ino == st.Ino && d.Born == st.Born
}

// ReplacedError: the workspace is not the directory that it was before the run.
type ReplacedError struct{ Root string }

func (e *ReplacedError) Error() string {
	return "there is another directory at " + e.Root + " now; what appeared in the one before could not be looked at"
}

// TakeBaseline records the guarded names below root. held says of a relative
// path whether the boundary mounts it read-only; nil means that nothing is held.
func TakeBaseline(root string, guards []plan.Guard, held func(rel string) bool) (*Baseline, error) {
	root = filepath.Clean(root)
	taken := time.Now().UnixNano()
	l, err := newLooker(root, guards)
	if err != nil {
		return nil, err
	}
	defer l.close()
	seen, err := l.look("")
	if err != nil {
		return nil, err
	}
	top, err := fsat.StatFd(l.fd)
	if err != nil {
		return nil, err
	}
	b := &Baseline{Version: 1, Root: root, Taken: taken, Guards: guards, Blind: seen.blind, Dir: Directory{top.Dev, top.Ino, top.Born, true}}
	total := 0
	for _, it := range seen.items {
		st, err := fsat.StatAt(l.fd, it.path)
		if fsat.Gone(err) {
			continue
		}
		if err != nil {
			b.Blind = append(b.Blind, Blind{Name(it.path), err.Error()})
			continue
		}
		e := entryOf(it.path, st)
		// A file with a second name may be written by that name.
		e.Held = held != nil && held(it.path) && (st.Type == fsat.Dir || st.Links == 1)
		switch {
		case e.Held && it.class == gitHook && sample(it.path):
			// Harmless whatever it holds, and the inside can't change it: git
			// puts a dozen of them into each repository.
		case it.class == gitConfig: // what it names is guarded too, so it is always kept
			l.sum(&e, configLimit)
		case total < contentTotal:
			l.sum(&e, contentLimit)
			total += len(e.Content)
		default:
			l.sum(&e, 0)
		}
		b.Entries = append(b.Entries, e)
	}
	return b, nil
}

// entry finds a path in the baseline.
func (b *Baseline) entry(p string) (Entry, bool) {
	i := sort.Search(len(b.Entries), func(i int) bool { return string(b.Entries[i].Path) >= p })
	if i < len(b.Entries) && string(b.Entries[i].Path) == p {
		return b.Entries[i], true
	}
	return Entry{}, false
}

// class is why an entry is looked at, and so how it is judged.
type class int

const (
	guarded   class = iota // a name of the plan; only an equal one is harmless
	gitName                // something called .git that is no directory
	gitConfig              // config, config.worktree
	gitHook
	gitNever // files with no harmless content but none
	gitCommonDir
	gitGitDir
	gitHead
	gitAlternates
	gitTodo
	gitLink // a symlink in a git directory
)

var classReason = map[class]string{
	gitName:  "git would take it for its directory",
	gitHook:  "git runs it",
	gitNever: "git obeys it",
	gitLink:  "git would read or write where it leads",
}

func ofGit(g plan.Guard) bool { return slices.Contains(strings.Split(g.Pattern, "/"), ".git") }

// item is one guarded entry that is there now.
type item struct {
	path  string
	class class
	guard int    // index of the guard, -1 for git's own files
	top   string // the guarded directory it was found below; "" for none
	dir   bool
	full  bool // a new directory with something in it
	split bool // something in it may stay: never moved as a whole
}

type seen struct {
	items    []item // sorted by path, one per path
	blind    []Blind
	vanished int

	unusual     []Change
	unusualMore int
}

// looker finds guarded entries.
type looker struct {
	fd     int
	root   string
	guards []plan.Guard
	git    bool
	m      *matcher
	index  []int // pattern -> guard
	// base is nil while the baseline itself is taken.
	base *Baseline
	// unusual: look for that too.
	unusual bool
	buf     []byte // for sum; made by the first one
}

// clockTick is how far the clock of inodes may be behind: it goes by timer ticks.
const clockTick = int64(20 * time.Millisecond)

// sweepMatches is the limit of matches in a sweep. It is far over that of a
// baseline: the inside must not stop a sweep by making many names.
const sweepMatches = 1_000_000

func (l *looker) limits() Limits {
	if l.base != nil {
		return Limits{Matches: sweepMatches}
	}
	return Limits{}
}

const (
	gitNamePattern = "**/.git"
	gitLinkPattern = "**/.git/**"
)

func newLooker(root string, guards []plan.Guard) (*looker, error) {
	l := &looker{root: root, guards: guards}
	var ps []Pattern
	for i, g := range guards {
		// What guards say of .git turns on the judging of git's own files,
		// which knows more than names.
		if ofGit(g) {
			l.git = true
			continue
		}
		ps = append(ps, Pattern{Text: g.Pattern})
		l.index = append(l.index, i)
	}
	if l.git {
		ps = append(ps, Pattern{Text: gitNamePattern}, Pattern{Text: gitLinkPattern, links: true})
	}
	var err error
	if l.m, err = compile(root, ps, l.git); err != nil {
		return nil, err
	}
	if l.fd, err = fsat.OpenRoot(root); err != nil {
		return nil, err
	}
	return l, nil
}

// rule is the rule by which an entry is guarded, for reports; 0 for none. Git's own
// files have the guard that names them most closely, else the one of .git itself.
func (l *looker) rule(it item) int {
	if it.guard >= 0 {
		return l.guards[it.guard].Rule
	}
	rule, best := 0, -2
	for _, g := range l.guards {
		names := glob.Split(strings.TrimSuffix(g.Pattern, "**"))
		if !slices.Contains(names, ".git") {
			continue
		}
		text, p := strings.Join(names, "/"), it.path
		if strings.HasPrefix(g.Pattern, "/") {
			p = path.Join(l.root, p)
		}
		depth := 0 // names .git and not this
		if c, err := glob.Compile(text); err == nil {
			if _, deepest, ok := c.Depths(p); ok {
				depth = deepest
			}
		}
		if depth == 0 && names[len(names)-1] != ".git" {
			depth = -1
		}
		if depth > best {
			rule, best = g.Rule, depth
		}
	}
	return rule
}

// follow gives the state in the directory rel, and what its own name means.
func (l *looker) follow(rel string) (*state, *hit) {
	st := l.m.start
	if rel == "" {
		return st, nil
	}
	var h *hit
	for name := range strings.SplitSeq(rel, "/") {
		var scratch hit
		h = st.look([]byte(name), &scratch)
		st = l.m.below(st, name, h)
	}
	return st, h
}

func (l *looker) close() { fsat.Close(l.fd) }

// look finds what is guarded at rel and below; "" is the whole workspace.
func (l *looker) look(rel string) (seen, error) {
	w := walker{matcher: l.m, limits: l.limits()}
	if rel == "" && l.unusual {
		w.since = max(l.base.Taken-clockTick, 1)
	}
	st, h := l.follow(rel)
	kind := fsat.Dir
	if rel != "" {
		is, err := fsat.StatAt(l.fd, rel)
		if err != nil {
			return seen{}, nil // gone, and if not, the whole sweep tells
		}
		kind = is.Type
	}
	if kind == fsat.Dir {
		if err := w.walk(l.fd, rel, st); err != nil {
			return seen{}, err
		}
	}
	if h != nil { // rel itself, which its own directory would have told of
		for _, p := range h.full {
			if c := l.m.pats[p]; (!c.links || kind == fsat.Symlink) && (!c.dir || kind == fsat.Dir || kind == fsat.Symlink) {
				w.res.Matches = append(w.res.Matches, Match{Path: Name(rel), Kind: kindOf(kind), Pattern: p})
			}
		}
		for _, p := range h.linked {
			if kind == fsat.Symlink {
				w.res.Matches = append(w.res.Matches, Match{Path: Name(rel), Kind: kindOf(kind), Pattern: p, Link: true})
			}
		}
	}
	s := &found{looker: l, at: map[string]item{}}
	s.blind, s.vanished, s.seen.unusual, s.unusualMore = w.res.Blind, w.res.Vanished, w.unusual, w.unusualMore
	gits := w.gits
	for _, m := range w.res.Matches {
		p := string(m.Path)
		switch {
		case m.Pattern < len(l.index):
			if err := s.guarded(p, m, l.index[m.Pattern]); err != nil {
				return seen{}, err
			}
		case l.m.names[m.Pattern] == gitNamePattern && m.Kind == host.KindDir:
			gits = append(gits, p)
		case l.m.names[m.Pattern] == gitNamePattern:
			s.add(item{path: p, class: gitName, guard: -1})
		default:
			s.add(item{path: p, class: gitLink, guard: -1})
		}
	}
	for _, g := range gits {
		// A worktree's commondir makes a repository of the directory two
		// levels up, whether or not it has the HEAD of one.
		if up := path.Dir(g); path.Base(up) == "worktrees" {
			gits = append(gits, path.Dir(up))
		}
	}
	slices.Sort(gits)
	for _, g := range slices.Compact(gits) {
		if g == "." { // the workspace is itself a bare repository
			g = ""
		}
		if err := s.gitDir(g); err != nil {
			return seen{}, err
		}
	}
	for _, it := range s.at {
		s.items = append(s.items, it)
	}
	slices.SortFunc(s.items, func(a, b item) int { return strings.Compare(a.path, b.path) })
	return s.seen, nil
}

type found struct {
	*looker
	seen
	at map[string]item
}

// add keeps the first class of a path, but a symlink in a git directory is
// never anything better.
func (s *found) add(it item) {
	if s.excepted(it.path, it.guard) {
		return
	}
	if _, ok := s.at[it.path]; !ok || it.class == gitLink {
		s.at[it.path] = it
	}
}

// below lists every entry below a directory.
func (s *found) below(dir string, links bool, each func(Match)) error {
	m, err := compile(s.root, []Pattern{{Text: "**", links: links}}, false)
	if err != nil {
		return err
	}
	w := walker{matcher: m, limits: s.limits()}
	if err := w.walk(s.fd, dir, m.start); err != nil {
		return err
	}
	s.blind = append(s.blind, w.res.Blind...)
	s.vanished += w.res.Vanished
	for _, m := range w.res.Matches {
		each(m)
	}
	return nil
}

// excepted: the policy lets the inside write p although this guard speaks of it.
// Another guard that speaks of it still counts. What git obeys (-1) has no guard of
// its own: in a .git the guards of .git speak of it, elsewhere whichever does.
func (s *found) excepted(p string, guard int) bool {
	git := slices.Contains(strings.Split(p, "/"), ".git")
	for i, g := range s.guards {
		if guard >= 0 && i != guard || guard < 0 && git && !ofGit(g) {
			continue
		}
		for _, e := range g.Except {
			if within(p, e) {
				return true
			}
		}
	}
	return false
}

// exceptBelow: the policy lets the inside write something in the directory p.
func (s *found) exceptBelow(p string) bool {
	for _, g := range s.guards {
		for _, e := range g.Except {
			if e != p && within(e, p) {
				return true
			}
		}
	}
	return false
}

func (s *found) guarded(p string, m Match, guard int) error {
	it := item{path: p, guard: guard, dir: m.Kind == host.KindDir}
	if it.dir && s.exceptBelow(p) {
		it.split = true
	}
	old, known := Entry{}, s.base == nil
	if s.base != nil {
		old, known = s.base.entry(p)
		known = known && old.Kind == host.KindDir
	}
	if !it.dir || known && !strings.HasSuffix(s.guards[guard].Pattern, "/") {
		s.add(it)
		return nil
	}
	list := known || it.split // else what lies in it goes where it goes
	err := s.below(p, false, func(b Match) {
		if list {
			s.add(item{path: string(b.Path), guard: guard, top: p, dir: b.Kind == host.KindDir})
		}
		it.full = it.full || b.Kind != host.KindDir
	})
	var many *TooManyError
	if errors.As(err, &many) {
		if !list {
			it.full, err = true, nil // enough to know
		}
		many.Pattern = s.guards[guard].Pattern
	}
	s.add(it)
	return err
}

// gitFiles are the files of a git directory that make git run, read or write
// something, with how each is judged.
var gitFiles = []struct {
	name  string
	class class
}{
	{"config", gitConfig}, {"config.worktree", gitConfig}, {"commondir", gitCommonDir}, {"gitdir", gitGitDir}, {"HEAD", gitHead},
	{"info/attributes", gitNever}, {"objects/info/alternates", gitAlternates}, {"objects/info/http-alternates", gitNever},
	{"rebase-merge/git-rebase-todo", gitTodo}, {"rebase-merge/git-rebase-todo.backup", gitTodo}, {"rebase-merge/strategy", gitNever},
	{"sequencer/todo", gitTodo},
}

// gitDirs are its directories of which every entry counts.
var gitDirs = []struct {
	name  string
	class class
}{
	{"hooks", gitHook}, {"remotes", gitNever}, {"branches", gitNever},
}

func (s *found) gitDir(dir string) error {
	join := func(name string) string {
		if dir == "" {
			return name
		}
		return dir + "/" + name
	}
	worktree := path.Base(path.Dir(dir)) == "worktrees"
	fd, err := fsat.OpenDir(s.fd, dir)
	if err != nil {
		if fsat.Gone(err) {
			s.vanished++
		} else {
			s.blind = append(s.blind, Blind{Name(dot(dir)), err.Error()})
		}
		return nil
	}
	defer fsat.Close(fd)
	for _, f := range gitFiles {
		if (f.class == gitHead || f.class == gitGitDir) && !worktree {
			continue // an ordinary HEAD is data, an ordinary gitdir is not read
		}
		if st, err := fsat.StatAt(fd, f.name); err == nil {
			s.add(item{path: join(f.name), class: f.class, guard: -1, dir: st.Type == fsat.Dir})
		} else if !fsat.Gone(err) {
			s.blind = append(s.blind, Blind{Name(join(f.name)), err.Error()})
		}
	}
	buf := make([]byte, 8<<10)
	for _, d := range gitDirs {
		sub, err := fsat.OpenDir(fd, d.name)
		if err != nil {
			if st, serr := fsat.StatAt(fd, d.name); serr == nil && st.Type != fsat.Dir {
				s.add(item{path: join(d.name), class: gitNever, guard: -1})
			} else if !fsat.Gone(err) {
				s.blind = append(s.blind, Blind{Name(join(d.name)), err.Error()})
			}
			continue
		}
		s.add(item{path: join(d.name), class: d.class, guard: -1, top: join(d.name), dir: true})
		err = fsat.Entries(sub, buf, func(name []byte, t fsat.Type) {
			s.add(item{path: join(d.name + "/" + string(name)), class: d.class, guard: -1, dir: t == fsat.Dir})
		})
		fsat.Close(sub)
		if err != nil {
			s.blind = append(s.blind, Blind{Name(join(d.name)), err.Error()})
		}
	}
	s.named(dir)
	if !slices.Contains(strings.Split(dir, "/"), ".git") { // the others are found by gitLinkPattern
		return s.below(dir, true, func(m Match) { s.add(item{path: string(m.Path), class: gitLink, guard: -1}) })
	}
	return nil
}

// named finds what the configuration of a git directory named before the run as
// hooks and as more configuration, where that lies in the workspace. Programs
// that it names there (filters, aliases) are like any script of the project: the
// person runs them knowing that.
func (s *found) named(dir string) {
	top := dir // where git runs hooks
	if path.Base(dir) == ".git" {
		top = path.Dir(dir)
	}
	for _, name := range []string{"config", "config.worktree"} {
		var content []byte
		if s.base == nil {
			content, _, _ = fsat.Read(s.fd, path.Join(dir, name), configLimit)
		} else if e, ok := s.base.entry(path.Join(dir, name)); ok {
			content = e.Content
		}
		settings, err := ParseGitConfig(content)
		if err != nil {
			continue
		}
		for _, set := range settings {
			switch {
			case set.Section == "core" && set.Sub == "" && set.Key == "hookspath":
				s.namedAt(top, set.Value, gitHook)
			case (set.Section == "include" && set.Sub == "" || set.Section == "includeif") && set.Key == "path":
				s.namedAt(dir, set.Value, gitConfig)
			}
		}
	}
}

// namedAt adds what is at the path text, seen from the directory dir.
func (s *found) namedAt(dir, text string, c class) {
	p := Place{Root: s.root, Dir: path.Join(s.root, dir)}
	full, in := p.inside(text)
	if !in || full == s.root {
		return
	}
	rel := strings.TrimPrefix(full[len(s.root):], "/")
	for i, b := range []byte(rel + "/") {
		if b != '/' {
			continue
		}
		up := rel[:i]
		st, err := fsat.StatAt(s.fd, up)
		if err != nil {
			if !fsat.Gone(err) {
				s.blind = append(s.blind, Blind{Name(up), err.Error()})
			}
			return
		}
		if st.Type == fsat.Symlink {
			s.add(item{path: up, class: gitLink, guard: -1})
			return
		}
	}
	if c != gitHook {
		s.add(item{path: rel, class: c, guard: -1})
		return
	}
	fd, err := fsat.OpenDir(s.fd, rel)
	if err != nil {
		return // no directory: git runs nothing there
	}
	defer fsat.Close(fd)
	err = fsat.Entries(fd, make([]byte, 8<<10), func(name []byte, t fsat.Type) {
		if t != fsat.Dir {
			s.add(item{path: rel + "/" + string(name), class: c, guard: -1})
		}
	})
	if err != nil {
		s.blind = append(s.blind, Blind{Name(rel), err.Error()})
	}
}

// identify takes the identity of the entry itself.
func (l *looker) identify(p string) (Entry, error) {
	st, err := fsat.StatAt(l.fd, p)
	if err != nil {
		return Entry{}, err
	}
	return entryOf(p, st), nil
}

func entryOf(p string, st fsat.Stat) Entry {
	return Entry{Path: Name(p), Kind: kindOf(st.Type), Dev: st.Dev, Ino: st.Ino, Born: st.Born, Ctime: st.Ctime, Size: st.Size, Mode: st.Mode}
}

// sum fills in Sum and, up to keep bytes, Content. What can't be read has no sum,
// and without a sum nothing is equal to it.
func (l *looker) sum(e *Entry, keep int) {
	h := sha256.New()
	switch e.Kind {
	case host.KindSymlink:
		text, err := fsat.Readlink(l.fd, string(e.Path))
		if err != nil {
			return
		}
		io.WriteString(h, text)
	case host.KindDir:
		e.Sum = "dir"
		return
	case host.KindFile:
		f, st, err := fsat.OpenFile(l.fd, string(e.Path))
		if err != nil {
			return
		}
		defer f.Close()
		if now := entryOf(string(e.Path), st); now.Ino != e.Ino || now.Dev != e.Dev {
			return
		}
		if l.buf == nil {
			l.buf = make([]byte, 32<<10)
		}
		var content bytes.Buffer
		n, err := io.CopyBuffer(io.MultiWriter(h, &head{&content, keep}), io.LimitReader(f, hashLimit+1), l.buf)
		if err != nil || n > hashLimit {
			return
		}
		if keep > 0 && n <= int64(keep) {
			e.Content = append([]byte{}, content.Bytes()...)
		}
	default:
		return
	}
	e.Sum = hex.EncodeToString(h.Sum(nil))
}

// head keeps the first bytes.
type head struct {
	*bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), h.limit-h.Len())])
	return len(p), nil
}
