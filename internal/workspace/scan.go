// Package workspace looks after a project directory that a boundary mounts
// writable: it finds the names that programs on the host obey, remembers how
// they were, and sets aside what has appeared. It judges git's own files by
// what they say, so that daily git work inside stays.
//
// Everything below the root is hostile: made by the process inside, and
// changing while we look. All access goes through linux/fsat.
package workspace

import (
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"cofferdam/internal/host"
	"cofferdam/internal/linux/fsat"
)

// Limits bound a scan. Zero values mean the defaults.
type Limits struct {
	Matches int // 10,000
	Entries int // no bound
	Workers int // GOMAXPROCS, at most 4
}

// Match is one entry that a pattern names.
type Match struct {
	Path    Name   `json:"path"` // relative to the root; "." is the root itself
	Kind    string `json:"kind"` // host.KindDir and so on
	Pattern int    `json:"pattern"`
	// Link: the entry is a symlink in place of a directory on the way; what
	// the pattern names would be behind it.
	Link bool `json:"link,omitempty"`
}

// Blind is a place that could not be looked at; it is not known to be empty.
type Blind struct {
	Path Name   `json:"path"`
	Err  string `json:"error"`
}

// Result is what a scan found.
type Result struct {
	Matches []Match `json:"matches"` // sorted by path, then pattern
	// Blind is what could not be looked at.
	Blind []Blind `json:"blind,omitempty"`
	// Vanished counts directories that were gone, or had become something
	// else, when they were to be read: the tree was changing.
	Vanished int `json:"vanished,omitempty"`
	// Entries is how many names were seen.
	Entries int `json:"entries"`
}

// TooManyError: a pattern has more matches than a boundary can carry.
type TooManyError struct {
	Pattern string
	Limit   int
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("pattern %q: more than %d matches", e.Pattern, e.Limit)
}

// TooLargeError: the tree has more entries than were to be looked at.
type TooLargeError struct{ Limit int }

func (e *TooLargeError) Error() string { return fmt.Sprintf("more than %d entries", e.Limit) }

// Scan finds every entry below root that a pattern names, at any depth. It
// goes through mount points (a bind mount in the project is part of what the
// inside sees) and through no symlink.
func Scan(root string, patterns []Pattern, limits Limits) (Result, error) {
	m, err := compile(root, patterns, false)
	if err != nil {
		return Result{}, err
	}
	fd, err := fsat.OpenRoot(root)
	if err != nil {
		return Result{}, err
	}
	defer fsat.Close(fd)
	w := walker{matcher: m, limits: limits}
	for _, p := range m.rootOf {
		w.res.Matches = append(w.res.Matches, Match{Path: ".", Kind: host.KindDir, Pattern: p})
	}
	if err := w.walk(fd, "", m.start); err != nil {
		return Result{}, err
	}
	return w.res, nil
}

// FoundIn is the result in the form of host.Facts.
func (r Result) FoundIn(root string, patterns []Pattern) []host.Found {
	out := make([]host.Found, 0, len(r.Matches))
	for _, m := range r.Matches {
		out = append(out, host.Found{Path: filepath.Join(root, string(m.Path)), Kind: m.Kind, Pattern: patterns[m.Pattern].Text})
	}
	return out
}

// anchor is an open directory from which jobs below are opened, so that no
// path that goes to the kernel is long, however deep the tree is, and no more
// than one descriptor per 3,000 bytes of path is held.
type anchor struct {
	fd   int
	up   *anchor
	rel  string // from up
	refs int
}

func (a *anchor) path(rel string) string {
	if a == nil {
		return rel
	}
	for ; a.up != nil; a = a.up {
		if rel == "" {
			rel = a.rel
		} else if a.rel != "" {
			rel = a.rel + "/" + rel
		}
	}
	if a.rel != "" && rel != "" {
		return a.rel + "/" + rel
	}
	return a.rel + rel
}

const anchorEvery = 3000 // bytes; PATH_MAX is 4096 and a name adds 255

// job is one directory to read.
type job struct {
	at  *anchor
	rel string // from the anchor
	st  *state
}

// walker reads a tree with a few goroutines that share one stack: last in,
// first out, so that what waits stays small.
type walker struct {
	matcher *matcher
	limits  Limits
	// gits gets the directories that git would take for a repository.
	gits []string
	// since is when an entry must have changed to be judged by unusual; 0: none is.
	since       int64
	unusual     []Change
	unusualMore int

	workers int // running; guarded by mu
	others  sync.WaitGroup

	mu     sync.Mutex
	wake   sync.Cond
	stack  []job
	busy   int
	failed error
	res    Result
	counts []int
}

// walk reads the directory prefix below the descriptor root, and all below it.
func (w *walker) walk(root int, prefix string, st *state) error {
	if w.limits.Matches == 0 {
		w.limits.Matches = 10_000
	}
	if w.limits.Workers == 0 {
		w.limits.Workers = min(runtime.GOMAXPROCS(0), 4)
	}
	fd, err := fsat.OpenDir(root, prefix)
	if err != nil {
		if fsat.Gone(err) {
			w.res.Vanished++
		} else {
			w.res.Blind = append(w.res.Blind, Blind{Name(dot(prefix)), err.Error()})
		}
		return nil
	}
	w.wake.L = &w.mu
	w.counts = make([]int, len(w.matcher.pats))
	w.stack = append(w.stack, job{&anchor{fd: fd, rel: prefix, refs: 1}, "", st})
	// A small tree is read by the caller alone: a goroutine that has nothing to
	// do costs more than the tree.
	w.workers = 1
	w.work()
	w.others.Wait()
	if w.failed != nil {
		return w.failed
	}
	slices.SortFunc(w.res.Matches, func(a, b Match) int {
		if c := strings.Compare(string(a.Path), string(b.Path)); c != 0 {
			return c
		}
		return a.Pattern - b.Pattern
	})
	slices.SortFunc(w.res.Blind, func(a, b Blind) int { return strings.Compare(string(a.Path), string(b.Path)) })
	slices.Sort(w.gits)
	return nil
}

// manyJobs is when another worker is worth its start.
const manyJobs = 16

func (w *walker) work() {
	buf := make([]byte, 16<<10)
	var found []entry
	var scratch hit
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.stack) == 0 && w.busy > 0 {
			w.wake.Wait()
		}
		if len(w.stack) == 0 {
			w.wake.Broadcast()
			return
		}
		j := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if w.failed != nil {
			w.release(j.at)
			continue
		}
		w.busy++
		w.mu.Unlock()
		found = found[:0]
		r := w.read(j, buf, &found, &scratch)
		w.mu.Lock()
		w.busy--
		w.take(j, r, found)
		w.release(j.at)
		if len(w.stack) > manyJobs && w.workers < w.limits.Workers {
			w.workers++
			w.others.Go(w.work)
		}
	}
}

// entry is what one directory has for the rest of the walk.
type entry struct {
	name string
	kind fsat.Type
	hit  *hit // nil for a directory without meaning; a copy
}

type readResult struct {
	err  error
	seen int
	mark mark
	next *anchor // set when the children get a new anchor
	odd  []Change
}

// read lists one directory. It touches nothing shared but the fixed part of
// the states.
func (w *walker) read(j job, buf []byte, found *[]entry, scratch *hit) (r readResult) {
	fd := j.at.fd
	if j.rel != "" {
		var err error
		if fd, err = fsat.OpenDir(j.at.fd, j.rel); err != nil {
			r.err = err
			return r
		}
	}
	var oddErr, kindErr error
	r.err = fsat.Entries(fd, buf, func(name []byte, t fsat.Type) {
		r.seen++
		if w.since != 0 && t != fsat.Dir && oddErr == nil {
			what, err := w.odd(fd, j, string(name))
			if what != "" {
				r.odd = append(r.odd, Change{Name(name), what})
			}
			if oddErr = err; err != nil { // it is the directory's: no entry can be looked at
				r.odd = append(r.odd, Change{"", "what is in it could not be looked at: " + err.Error()})
			}
		}
		h := j.st.look(name, scratch)
		if h == nil && t != fsat.Dir && t != fsat.Unknown {
			return
		}
		if t == fsat.Unknown { // some file systems don't keep the kind with the name
			st, err := fsat.StatAt(fd, string(name))
			if err != nil {
				kindErr = err // it may be a directory
				return
			}
			t = st.Type
		}
		if h != nil {
			r.mark |= h.mark
			if h == scratch {
				c := *h
				c.places, c.full, c.linked = slices.Clone(h.places), slices.Clone(h.full), slices.Clone(h.linked)
				h = &c
			}
		}
		if t == fsat.Dir || h != nil {
			*found = append(*found, entry{string(name), t, h})
		}
	})
	if r.err == nil {
		r.err = kindErr
	}
	if j.rel != "" {
		if len(j.rel) > anchorEvery && r.err == nil {
			r.next = &anchor{fd: fd, up: j.at, rel: j.rel}
		} else {
			fsat.Close(fd)
		}
	}
	return r
}

// odd says what is unusual about an entry that has changed since the run began; ""
// for nothing. It stays where it is.
func (w *walker) odd(fd int, j job, name string) (what string, err error) {
	st, err := fsat.StatAt(fd, name)
	if fsat.Gone(err) {
		return "", nil
	}
	switch {
	case err != nil || st.Ctime < w.since:
		return "", err
	case st.Type == fsat.File && st.Mode&0o4000 != 0:
		return "is a set-user-ID file: whoever runs it is its owner", nil
	case st.Type == fsat.File && st.Mode&0o2010 == 0o2010: // without execution it only marks locks
		return "is a set-group-ID file: whoever runs it has its group", nil
	case st.Type == fsat.Symlink:
		text, err := fsat.Readlink(fd, name)
		if err != nil {
			return "", nil // it was one a moment ago
		}
		p := Place{Root: w.matcher.root, Dir: path.Join(w.matcher.root, j.at.path(j.rel))}
		if _, in := p.lies(text); !in {
			return "is a symlink that leads out of the workspace, to " + text, nil
		}
	}
	return "", nil
}

// unusualKept bounds what a flood takes of our memory.
const unusualKept = 10_000

// take puts what one directory had into the result and the stack; mu is held.
func (w *walker) take(j job, r readResult, found []entry) {
	w.res.Entries += r.seen
	if l := w.limits.Entries; l > 0 && w.res.Entries > l && w.failed == nil {
		w.failed = &TooLargeError{l}
	}
	if r.err != nil {
		if fsat.Gone(r.err) {
			w.res.Vanished++
		} else {
			w.res.Blind = append(w.res.Blind, Blind{Name(dot(j.at.path(j.rel))), r.err.Error()})
		}
	}
	for _, c := range r.odd {
		full := j.at.path(j.rel)
		if c.Path != "" {
			full = strings.TrimPrefix(full+"/"+string(c.Path), "/")
		}
		if len(w.unusual) < unusualKept {
			w.unusual = append(w.unusual, Change{Name(dot(full)), c.What})
		} else {
			w.unusualMore++
		}
	}
	if w.matcher.git && r.mark.gitDir() {
		w.gits = append(w.gits, dot(j.at.path(j.rel)))
	}
	at, rel := j.at, j.rel
	if r.next != nil {
		at, rel = r.next, ""
		j.at.refs++
		at.refs = 1
		defer w.release(at)
	}
	pushed := 0
	for _, e := range found {
		if e.kind == fsat.Dir {
			child := e.name
			if rel != "" {
				child = rel + "/" + e.name
			}
			at.refs++
			w.stack = append(w.stack, job{at, child, w.matcher.below(j.st, e.name, e.hit)})
			pushed++
		}
		if e.hit == nil {
			continue
		}
		for _, p := range e.hit.full {
			c := w.matcher.pats[p]
			if c.links && e.kind != fsat.Symlink || c.dir && e.kind != fsat.Dir && e.kind != fsat.Symlink {
				continue
			}
			w.match(at, rel, e, p, false)
		}
		if e.kind == fsat.Symlink {
			for _, p := range e.hit.linked {
				w.match(at, rel, e, p, true)
			}
		}
	}
	if pushed > 1 || w.failed != nil {
		w.wake.Broadcast()
	}
}

func (w *walker) match(at *anchor, rel string, e entry, p int, link bool) {
	if w.counts[p]++; w.counts[p] > w.limits.Matches {
		if w.failed == nil {
			w.failed = &TooManyError{w.matcher.names[p], w.limits.Matches}
		}
		return
	}
	full := e.name
	if up := at.path(rel); up != "" {
		full = up + "/" + e.name
	}
	w.res.Matches = append(w.res.Matches, Match{Path: Name(full), Kind: kindOf(e.kind), Pattern: p, Link: link})
}

// release gives up one reference; mu is held.
func (w *walker) release(a *anchor) {
	for a != nil {
		if a.refs--; a.refs > 0 {
			return
		}
		fsat.Close(a.fd)
		a = a.up
	}
}

func dot(rel string) string {
	if rel == "" {
		return "."
	}
	return rel
}

func kindOf(t fsat.Type) string {
	switch t {
	case fsat.Dir:
		return host.KindDir
	case fsat.File:
		return host.KindFile
	case fsat.Symlink:
		return host.KindSymlink
	case fsat.Socket:
		return host.KindSocket
	case fsat.Fifo:
		return host.KindFifo
	case fsat.Char, fsat.Block:
		return host.KindDevice
	}
	return host.KindUnknown
}
