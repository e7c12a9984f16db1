// Package change holds what a run did to a project, as values: which entries
// were added, changed and deleted, and where the content of both sides is read.
// Whoever finds changes (workspace/copy from an upper layer, workspace/snapshot
// from a tree) makes a Set; diff, review, apply, rollback and the summary read
// it. It decides nothing, and writes nothing.
package change

import (
	"io"
	"slices"
	"strings"
)

// Type is what an entry is.
type Type string

const (
	File      Type = "file"
	Symlink   Type = "symlink"
	Directory Type = "directory"
	// Other is a device, FIFO or socket: told, never carried over.
	Other Type = "other"
)

// State is one entry at one moment.
type State struct {
	Type Type `json:"type"`
	// Mode has the permission bits, and 04000, 02000, 01000 for set-user-ID,
	// set-group-ID and sticky.
	Mode uint32 `json:"mode"`
	Size int64  `json:"size,omitempty"` // bytes, of a file
	Link string `json:"link,omitempty"` // text of a symlink, as it stands
	// Sum is the SHA-256 of a file's content in hex; empty if nobody has read it.
	Sum string `json:"sum,omitempty"`
}

// Entry is one path that differs. Old or New is nil where it is not there; they
// are never both nil, nor equal.
type Entry struct {
	// Path is relative to the project, "/"-separated, in the kernel's bytes: any
	// but NUL. It is hostile: escape it before it is printed.
	Path string `json:"path"`
	Old  *State `json:"old,omitempty"`
	New  *State `json:"new,omitempty"`
}

// Set is all that differs.
type Set struct {
	// Entries are sorted with Compare: a directory before what is in it. A new or
	// deleted directory has an entry, and so has all that is in it.
	Entries []Entry `json:"entries"`
	// Untold are places that could not be compared, with the reason. A set with
	// some is not complete, and nobody may say that nothing else changed.
	Untold []Untold `json:"untold,omitempty"`
}

// Untold is one place that could not be compared.
type Untold struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Side is one side of a set: where its contents are.
type Side interface {
	// Open opens the content of a regular file. It follows no symlink in any
	// component and never leaves the tree. An entry that is no regular file, or
	// is not there, is an error.
	Open(path string) (io.ReadCloser, error)
}

// Compare orders paths by their components, so that a directory stands right
// before what is in it.
func Compare(a, b string) int {
	// NUL is in no path, and less than every other byte.
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// Sort puts the entries in order.
func (s *Set) Sort() {
	slices.SortFunc(s.Entries, func(a, b Entry) int { return Compare(a.Path, b.Path) })
}

// Same says whether two states are the same as far as they tell. Files whose
// content nobody has read are not the same.
func Same(a, b *State) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Type != b.Type || a.Mode != b.Mode {
		return a.Type == Symlink && b.Type == Symlink && a.Link == b.Link
	}
	switch a.Type {
	case File:
		return a.Size == b.Size && a.Sum == b.Sum && a.Sum != ""
	case Symlink:
		return a.Link == b.Link
	}
	return true
}
