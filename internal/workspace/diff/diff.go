// Package diff says in the language of `git diff` what a set of changes is: which
// files were renamed, which lines differ, and the text of it. It writes nothing
// into a project, and reads contents through the set's sides alone.
//
// Names and contents are hostile. Names are quoted as git quotes them; a content
// goes through Style.Line before it is written, which whoever writes to a terminal
// sets. Reading and comparing are bounded: what is too large is told as such.
package diff

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"slices"

	"cofferdam/internal/workspace/change"
)

// File is one file, symlink or directory that differs.
type File struct {
	Old, New string        // paths; "" if it is not there. They differ if it was renamed
	From, To *change.State // nil if it is not there
	// Similarity of a file that was renamed, in percent; 100 is the same content.
	Similarity int
}

// Path is where the file is, or was.
func (f File) Path() string {
	if f.New != "" {
		return f.New
	}
	return f.Old
}

// Renamed says whether the file was found under another name.
func (f File) Renamed() bool { return f.Old != "" && f.New != "" && f.Old != f.New }

const (
	// maxText is how large a file is compared line by line.
	maxText = 8 << 20
	// maxSimilar is how large a file is when it is looked for under another name,
	// and pairs how many such comparisons are made. As in git, a limit is no
	// failure: the file is deleted there and new here.
	maxSimilar = 1 << 20
	pairs      = 40000
	maxBytes   = 64 << 20 // of what was deleted
	similar    = 50       // percent
)

// Files pairs what was deleted with what is new, as renames, and leaves the rest
// as it is. The order is that of the set.
func Files(set *change.Set, old, new change.Side) []File {
	var gone, come []change.Entry
	for _, e := range set.Entries {
		switch {
		case e.New == nil && e.Old.Type == change.File && e.Old.Size > 0:
			gone = append(gone, e)
		case e.Old == nil && e.New.Type == change.File && e.New.Size > 0:
			come = append(come, e)
		}
	}
	from := renames(gone, come, old, new)
	moved := map[string]bool{}
	for _, r := range from {
		moved[r.old.Path] = true
	}
	var out []File
	for _, e := range set.Entries {
		r, renamed := from[e.Path]
		f := File{From: e.Old, To: e.New}
		switch {
		case e.New == nil && moved[e.Path]:
			continue
		case renamed && e.Old == nil:
			f.Old, f.New, f.From, f.Similarity = r.old.Path, e.Path, r.old.Old, r.score
		default:
			if e.Old != nil {
				f.Old = e.Path
			}
			if e.New != nil {
				f.New = e.Path
			}
		}
		out = append(out, f)
	}
	return out
}

type rename struct {
	old   change.Entry
	score int
}

// renames finds for new files where they come from: first those with the same
// content, the same base name before others; then those that are similar.
func renames(gone, come []change.Entry, old, new change.Side) map[string]rename {
	out := map[string]rename{}
	taken := map[string]bool{}
	// Queues, from which each is taken once: hostile sets have many files with the
	// same content.
	byName, bySum := map[string][]change.Entry{}, map[string][]change.Entry{}
	key := func(s *change.State, p string) string { return s.Sum + "/" + path.Base(p) }
	for _, e := range gone {
		if e.Old.Sum != "" {
			bySum[e.Old.Sum] = append(bySum[e.Old.Sum], e)
			byName[key(e.Old, e.Path)] = append(byName[key(e.Old, e.Path)], e)
		}
	}
	take := func(queues map[string][]change.Entry, key string, e change.Entry) {
		for len(queues[key]) > 0 {
			g := queues[key][0]
			queues[key] = queues[key][1:]
			if !taken[g.Path] {
				out[e.Path], taken[g.Path] = rename{g, 100}, true
				return
			}
		}
	}
	for _, e := range come {
		take(byName, key(e.New, e.Path), e)
	}
	for _, e := range come {
		if _, has := out[e.Path]; !has {
			take(bySum, e.New.Sum, e)
		}
	}
	gone = slices.DeleteFunc(gone, func(e change.Entry) bool { return taken[e.Path] || e.Old.Size > maxSimilar })
	come = slices.DeleteFunc(come, func(e change.Entry) bool { _, has := out[e.Path]; return has || e.New.Size > maxSimilar })
	var bytes int64
	for _, e := range gone {
		bytes += e.Old.Size
	}
	if len(gone)*len(come) > pairs || bytes > maxBytes {
		return out
	}
	inexact(out, gone, come, old, new)
	return out
}

type candidate struct{ g, c, score int }

func inexact(out map[string]rename, gone, come []change.Entry, old, new change.Side) {
	seed := maphash.MakeSeed()
	was := make([]weights, len(gone))
	for i, e := range gone {
		was[i] = weigh(seed, old, e.Path)
	}
	var found []candidate
	for c, e := range come {
		var is weights
		for g, o := range gone {
			// Sizes that are too far apart can't be similar.
			if s, l := min(o.Old.Size, e.New.Size), max(o.Old.Size, e.New.Size); s*100 < l*similar || was[g] == nil {
				continue
			}
			if is == nil {
				is = weigh(seed, new, e.Path)
			}
			if score := was[g].score(is, max(o.Old.Size, e.New.Size)); score >= similar {
				found = append(found, candidate{g, c, score})
			}
		}
	}
	same := func(x candidate) bool { return path.Base(gone[x.g].Path) == path.Base(come[x.c].Path) }
	slices.SortStableFunc(found, func(a, b candidate) int {
		if a.score != b.score {
			return b.score - a.score
		}
		switch x, y := same(a), same(b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	taken := map[int]bool{}
	for _, f := range found {
		if _, has := out[come[f.c].Path]; has || taken[f.g] {
			continue
		}
		taken[f.g] = true
		out[come[f.c].Path] = rename{gone[f.g], f.score}
	}
}

// weights says how many bytes of a content are lines of which kind.
type weights map[uint64]int64

func weigh(seed maphash.Seed, side change.Side, path string) weights {
	text, err := read(side, path, maxSimilar)
	if err != nil || binary(text) {
		return nil
	}
	out := weights{}
	for _, l := range split(text) {
		out[maphash.Bytes(seed, l)] += int64(len(l))
	}
	return out
}

func (w weights) score(other weights, size int64) int {
	var common int64
	for k, n := range w {
		common += min(n, other[k])
	}
	return int(common * 100 / max(size, 1))
}

// errLarge: a content is too large to be compared.
var errLarge = errors.New("too large to be compared line by line")

func read(side change.Side, path string, max int64) ([]byte, error) {
	f, err := side.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(text)) > max {
		err = errLarge
	}
	return text, err
}

// binary is git's rule: a NUL in the first 8000 bytes.
func binary(text []byte) bool { return bytes.IndexByte(text[:min(len(text), 8000)], 0) >= 0 }

// Content is what differs within one file.
type Content struct {
	Old, New []byte // contents; of a symlink its text
	Hunks    []Hunk
	// Binary: it is no text. Unread: why it could not be compared.
	Binary bool
	Unread string
	// Added and Removed count lines.
	Added, Removed int
}

// Load reads both sides of a file and compares them. A directory has no content.
func Load(f File, old, new change.Side) Content {
	var c Content
	var err error
	if c.Old, err = content(f.From, old, f.Old); err == nil {
		c.New, err = content(f.To, new, f.New)
	}
	if err != nil {
		return Content{Unread: err.Error()}
	}
	return Compare(c.Old, c.New)
}

// Compare compares two contents.
func Compare(old, new []byte) Content {
	c := Content{Old: old, New: new}
	switch {
	case bytes.Equal(c.Old, c.New):
		return c
	case binary(c.Old) || binary(c.New):
		c.Binary = true
		return c
	}
	c.Hunks = hunksOf(split(c.Old), split(c.New))
	for _, h := range c.Hunks {
		for _, l := range h.Lines {
			switch l.Kind {
			case '+':
				c.Added++
			case '-':
				c.Removed++
			}
		}
	}
	return c
}

func content(s *change.State, side change.Side, path string) ([]byte, error) {
	switch {
	case s == nil || s.Type == change.Directory || s.Type == change.Other:
		return nil, nil
	case s.Type == change.Symlink:
		return []byte(s.Link), nil
	case s.Size > maxText:
		return nil, errLarge
	}
	return read(side, path, maxText)
}

// blob is the name that git gives a content, shortened as it does.
func blob(s *change.State, text []byte) string {
	if s == nil || s.Type == change.Directory || s.Type == change.Other {
		return "0000000"
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(text))
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))[:7]
}
