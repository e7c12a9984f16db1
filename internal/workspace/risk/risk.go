// Package risk says which changes run on the person's machine later, or lead out
// of the project, and why. It is a table and a few questions about contents; it
// decides about nothing: what is not carried over unless it is named, is for
// whoever asks.
//
// The protected names are the guards of the plan: there is no second list.
package risk

import (
	"path"
	"strings"
	"unicode"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
	"cofferdam/internal/workspace/change"
)

// Class is how much a change is worth a look, the heaviest last.
type Class int

const (
	Plain Class = iota
	// Flagged is pointed out first: it runs later, in the course of daily work.
	Flagged
	// Protected is carried over only if it is named: the host runs it unasked, or it
	// reaches out of the project.
	Protected
	// Never is what is not carried over at all: git's own memory (objects, references,
	// the index: commits come by fetching them), devices, FIFOs and sockets.
	Never
)

// String is the class's name, as in JSON.
func (c Class) String() string {
	return [...]string{"plain", "flagged", "protected", "never"}[c]
}

// MarshalText is String.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Risk is what there is to say about one change.
type Risk struct {
	Class   Class    `json:"class"`
	Reasons []string `json:"reasons,omitempty"`
	// Rule is the guard's, if it is one (plan.RuleStatus.ID).
	Rule int `json:"rule,omitempty"`
	// SetID: it is a program that would run as its owner or group.
	SetID bool `json:"setID,omitempty"`
}

func (r *Risk) add(c Class, reason string) {
	r.Class = max(r.Class, c)
	for _, has := range r.Reasons {
		if has == reason {
			return
		}
	}
	r.Reasons = append(r.Reasons, reason)
}

// Judge knows the guards of a plan.
type Judge struct {
	guards []guard
	table  []row
}

type guard struct {
	match  glob.Pattern
	folded glob.Pattern
	plan.Guard
	git bool // it means git's own directory as a whole
}

type row struct {
	match  glob.Pattern
	reason string
}

// New takes the guards of the plan whose workspace is root.
func New(guards []plan.Guard, root string) (*Judge, error) {
	j := &Judge{}
	for _, g := range guards {
		text := strings.TrimSuffix(strings.TrimSuffix(g.Pattern, "/**"), "/")
		if rest, ok := strings.CutPrefix(text, strings.TrimSuffix(root, "/")+"/"); ok {
			text = rest
		}
		match, err := glob.Compile(text)
		if err != nil {
			return nil, err
		}
		folded, err := glob.Compile(strings.ToLower(text))
		if err != nil {
			folded = match
		}
		j.guards = append(j.guards, guard{match: match, folded: folded, Guard: g, git: path.Base(text) == ".git"})
	}
	for _, f := range flagged {
		match, err := glob.Compile(f.pattern)
		if err != nil {
			return nil, err
		}
		j.table = append(j.table, row{match, f.reason})
	}
	return j, nil
}

// Of says for each entry of the set what there is to say.
func (j *Judge) Of(set *change.Set, old, new change.Side) []Risk {
	changed := make(map[string]bool, len(set.Entries))
	for _, e := range set.Entries {
		changed[strings.ToLower(e.Path)] = true
	}
	out := make([]Risk, len(set.Entries))
	for i, e := range set.Entries {
		r := &out[i]
		j.name(r, e)
		if r.Class == Never {
			continue
		}
		entry(r, e)
		if e.New != nil && e.New.Type == change.File {
			contents(r, e, old, new, changed)
		}
	}
	return out
}

// Guarded says whether a path, or a directory that it is in, is a guarded name.
func (j *Judge) Guarded(path string) bool {
	var r Risk
	j.name(&r, change.Entry{Path: path, Old: &change.State{Type: change.Directory}})
	return r.Class == Protected
}

// name looks at the path: guards, git's directory, the table.
func (j *Judge) name(r *Risk, e change.Entry) {
	plain, other := e.Path, fold(e.Path)
	for _, g := range j.guards {
		same := matches(g.match, plain)
		if g.git || !same && !matches(g.folded, other) || excepted(g.Except, plain) {
			continue
		}
		reason := or(g.Reason, "programs on your machine obey it")
		if !same {
			reason += " (some file systems take its name for theirs)"
		}
		r.add(Protected, reason)
		if r.Rule == 0 {
			r.Rule = g.Rule
		}
	}
	if inGit(other) {
		switch {
		case r.Class != Protected:
			r.add(Never, "git's own memory: commits come by fetching them")
		case strings.HasSuffix(other, ".sample"):
			r.Class, r.Reasons = Never, []string{"git never runs it"}
		}
		return
	}
	if e.New == nil {
		return // what is gone does not run
	}
	for _, t := range j.table {
		if t.match.Match(other) {
			r.add(Flagged, t.reason)
		}
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// matches: the path, or a directory that it is in.
func matches(p glob.Pattern, path string) bool {
	for {
		if p.Match(path) {
			return true
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

func excepted(list []string, path string) bool {
	for _, x := range list {
		x = strings.TrimSuffix(strings.TrimPrefix(x, "./"), "/")
		if path == x || strings.HasPrefix(path, x+"/") {
			return true
		}
	}
	return false
}

// inGit: a component is git's directory, or the file that points to it.
func inGit(folded string) bool {
	for name := range strings.SplitSeq(folded, "/") {
		if name == ".git" {
			return true
		}
	}
	return false
}

// fold is the path under the name by which file systems that fold names may find
// it: without case, without characters that HFS+ ignores, without what FAT and NTFS
// cut off, and NTFS's short name of .git.
func fold(path string) string {
	names := strings.Split(path, "/")
	for i, n := range names {
		n = strings.Map(func(r rune) rune {
			switch {
			case r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r == 0xfeff:
				return -1
			}
			return r
		}, n)
		n = letters(n)
		if cut := strings.TrimRight(n, " ."); cut != "" {
			n = cut
		}
		if n == "git~1" {
			n = ".git"
		}
		names[i] = n
	}
	return strings.Join(names, "/")
}

// letters is a name without case, as file systems see it that know Unicode: U+017F is
// an s and U+212A a k, and some letters stand for two.
func letters(name string) string {
	ascii := true
	for i := range len(name) {
		ascii = ascii && name[i] < 0x80
	}
	if !ascii {
		var b strings.Builder
		for _, r := range name {
			switch r {
			case 0x00df, 0x1e9e:
				b.WriteString("ss")
			case 0xfb00:
				b.WriteString("ff")
			case 0xfb01:
				b.WriteString("fi")
			case 0xfb02:
				b.WriteString("fl")
			case 0xfb03:
				b.WriteString("ffi")
			case 0xfb04:
				b.WriteString("ffl")
			case 0xfb05, 0xfb06:
				b.WriteString("st")
			default:
				b.WriteRune(least(r))
			}
		}
		name = b.String()
	}
	return strings.ToLower(name)
}

// least is the first of the characters that differ in case alone.
func least(r rune) rune {
	first := r
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		first = min(first, o)
	}
	return first
}

// entry looks at what kind of thing it is.
func entry(r *Risk, e change.Entry) {
	if bad := oddName(e.Path); bad != "" {
		r.add(Flagged, bad)
	}
	if e.New == nil {
		return
	}
	switch e.New.Type {
	case change.Other:
		r.add(Never, "a device, a FIFO or a socket is never carried over")
	case change.Symlink:
		if leaves(e.Path, e.New.Link) {
			r.add(Protected, "a symlink that leaves the project: who writes to it, writes elsewhere")
		}
	case change.Directory:
		open(r, e)
	case change.File:
		open(r, e)
		if e.New.Mode&0o6000 != 0 {
			r.SetID = true
			r.add(Protected, "it runs as its owner or group, whoever starts it (set-ID)")
		}
		if e.New.Mode&0o111 != 0 && (e.Old == nil || e.Old.Type != change.File || e.Old.Mode&0o111 == 0) {
			r.add(Flagged, "it can be executed, and could not before")
		}
	}
}

// open looks at who may write.
func open(r *Risk, e change.Entry) {
	if e.New.Mode&0o002 != 0 && (e.Old == nil || e.Old.Mode&0o002 == 0) {
		r.add(Flagged, "every user of this machine could write to it")
	}
}

// leaves says whether a symlink can lead out of the project, as far as its text
// tells. A ".." behind a name may go anywhere: the name may be a symlink.
func leaves(at, link string) bool {
	if strings.HasPrefix(link, "/") {
		return true
	}
	depth := strings.Count(at, "/")
	down := false
	for name := range strings.SplitSeq(link, "/") {
		switch name {
		case "", ".":
		case "..":
			if depth--; depth < 0 || down {
				return true
			}
		default:
			down = true
		}
	}
	return false
}
