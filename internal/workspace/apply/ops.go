package apply

import (
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/workspace/change"
)

// deed is what is done to a name: one system call, from one state to another.
type deed string

const (
	mode deed = "mode" // chmod of a directory
	take deed = "take" // rename out of the project
	drop deed = "drop" // rmdir
	put  deed = "put"  // rename into the project, where nothing is
	swap deed = "swap" // exchange
)

// op is one deed. A step is one of them, or up to three: to change what is in a
// directory that its owner may not write, its mode is changed before and after.
type op struct {
	n      int // its place in the order, and the name of its slot
	step   int
	path   string
	do     deed
	from   *change.State
	to     *change.State
	staged id // of what was staged; zero if nothing was
}

// id is one inode, as far as the file system lets it be told from a later one.
type id struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Born int64  `json:"born,omitempty"`
}

// ownerAll is what the owner of a directory needs to change what is in it.
const ownerAll = 0o700

func withMode(s *change.State, mode uint32) *change.State {
	t := *s
	t.Mode = mode
	return &t
}

// opsOf puts steps into deeds, in an order in which each finds what it needs:
// directories are opened up; what goes, goes, the deepest first; what comes,
// comes, a directory before what is in it; modes of directories come last.
func opsOf(steps []Step, which []int) []op {
	order := slices.Clone(which)
	slices.SortFunc(order, func(a, b int) int { return change.Compare(steps[a].Path, steps[b].Path) })
	var early, gone, come, late []op
	for _, i := range order {
		s := steps[i]
		from, to := s.Expect, s.Want
		add := func(list *[]op, do deed, from, to *change.State) {
			*list = append(*list, op{step: i, path: s.Path, do: do, from: from, to: to})
		}
		if isDir(from) && isDir(to) {
			// The mode that is needed meanwhile.
			open := withMode(to, to.Mode|ownerAll)
			if from.Mode != open.Mode {
				add(&early, mode, from, open)
			}
			if open.Mode != to.Mode {
				add(&late, mode, open, to)
			}
			continue
		}
		if isDir(from) && from.Mode&ownerAll != ownerAll {
			open := withMode(from, from.Mode|ownerAll)
			add(&early, mode, from, open)
			from = open
		}
		final := to
		if isDir(to) && to.Mode&ownerAll != ownerAll {
			to = withMode(to, to.Mode|ownerAll)
		}
		switch {
		case to == nil && isDir(from):
			add(&gone, drop, from, nil)
		case to == nil:
			add(&gone, take, from, nil)
		case from == nil:
			add(&come, put, nil, to)
		default:
			add(&come, swap, from, to)
		}
		if to != final {
			add(&late, mode, to, final)
		}
	}
	slices.Reverse(gone)
	slices.Reverse(late)
	ops := slices.Concat(early, gone, come, late)
	for n := range ops {
		ops[n].n = n
	}
	return ops
}

func isDir(s *change.State) bool  { return s != nil && s.Type == change.Directory }
func isFile(s *change.State) bool { return s != nil && s.Type == change.File }

// stages says whether the deed brings something in.
func (o op) stages() bool { return o.do == put || o.do == swap }

// check refuses lists that nobody makes in good faith. Of a path, "." and ".."
// are no names of entries, and one path has one step.
func check(steps []Step) error {
	seen := make(map[string]bool, len(steps))
	for _, s := range steps {
		for name := range strings.SplitSeq(s.Path, "/") {
			if name == "" || name == "." || name == ".." || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
				return fmt.Errorf("step %q: no path of an entry", s.Path)
			}
		}
		if seen[s.Path] {
			return fmt.Errorf("step %q: twice", s.Path)
		}
		seen[s.Path] = true
	}
	return nil
}

// never says why a step is not done, whatever is there; "" if it may be.
func (s Step) never() string {
	for _, st := range []*change.State{s.Expect, s.Want} {
		switch {
		case st == nil:
		case st.Type != change.File && st.Type != change.Symlink && st.Type != change.Directory:
			return "it is a device, a FIFO or a socket"
		case st.Type == change.File && st.Sum == "":
			return "its content has not been read"
		case st.Type == change.Symlink && (st.Link == "" || len(st.Link) > 4095 || strings.IndexByte(st.Link, 0) >= 0):
			return "no symlink can have that text"
		}
	}
	if isFile(s.Want) && s.Want.Mode&0o6000 != 0 && !s.SetID {
		return "it would run as another user or group (set-ID)"
	}
	if isFile(s.Want) && s.Content == nil {
		return "there is no content"
	}
	return ""
}
