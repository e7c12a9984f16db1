// Package changetest makes sets of changes from two plain directories, for tests
// of those who read sets, and as a second opinion on those who make them.
package changetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cofferdam/internal/workspace/change"
)

// Tree is one side: a directory.
type Tree string

// Open opens a regular file, through no symlink.
func (t Tree) Open(path string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(string(t))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: no regular file", path)
	}
	return root.Open(path)
}

// States has every entry of the tree but the tree itself.
func (t Tree) States() (map[string]*change.State, error) {
	out := map[string]*change.State{}
	err := filepath.WalkDir(string(t), func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == string(t) {
			return err
		}
		rel, err := filepath.Rel(string(t), p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[rel], err = state(p, info)
		return err
	})
	return out, err
}

func state(path string, info fs.FileInfo) (*change.State, error) {
	s := &change.State{Type: change.Other, Mode: uint32(info.Mode().Perm())}
	for bit, m := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode()&bit != 0 {
			s.Mode |= m
		}
	}
	var err error
	switch info.Mode().Type() {
	case 0:
		var text []byte
		text, err = os.ReadFile(path)
		h := sha256.Sum256(text)
		s.Type, s.Size, s.Sum = change.File, int64(len(text)), hex.EncodeToString(h[:])
	case fs.ModeDir:
		s.Type = change.Directory
	case fs.ModeSymlink:
		s.Type = change.Symlink
		s.Link, err = os.Readlink(path)
	}
	return s, err
}

// Between is what differs.
func Between(old, new Tree) (*change.Set, error) {
	a, err := old.States()
	if err != nil {
		return nil, err
	}
	b, err := new.States()
	if err != nil {
		return nil, err
	}
	set := &change.Set{}
	for p, s := range a {
		if !change.Same(s, b[p]) {
			set.Entries = append(set.Entries, change.Entry{Path: p, Old: s, New: b[p]})
		}
	}
	for p, s := range b {
		if a[p] == nil {
			set.Entries = append(set.Entries, change.Entry{Path: p, New: s})
		}
	}
	set.Sort()
	return set, nil
}
