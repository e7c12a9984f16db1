// Package lookup keeps what is run on the host, outside of every boundary, away from
// what commands inside can write: the directories of PATH, and the interpreters of
// scripts. It runs nothing.
//
// It answers for one moment. What it has looked at lies where the inside can't write,
// so only the person can change the answer.
package lookup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Writable says whether the inside can write at a path, or exchange something that
// leads there. The path is absolute and clean.
type Writable func(path string) bool

// Path are the directories of a PATH in which no name leads to what the inside can
// write: neither the directory, nor an entry of it that is a symlink. A program that is
// looked up there by another (env(1), a shell, a package manager) is then nobody
// else's. What can't be read is left out, and so is what depends on where one is.
func Path(list string, writable Writable) []string {
	var out []string
	for _, dir := range filepath.SplitList(list) {
		if filepath.IsAbs(dir) && !slices.Contains(out, dir) && !leads(dir, writable) {
			out = append(out, dir)
		}
	}
	return out
}

// leads says whether a program that is looked up in dir could be one of the inside's.
func leads(dir string, writable Writable) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || writable(filepath.Clean(dir)) || writable(real) {
		return true
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		if e.Type()&os.ModeSymlink == 0 {
			return false
		}
		// A link to nothing finds nothing, unless the inside can make what is not there.
		return reaches(filepath.Join(real, e.Name()), writable)
	})
}

// maxLinks is the kernel's own bound (path_resolution(7)).
const maxLinks = 40

// reaches follows a symlink step by step: each place on the way counts, also of one
// whose end is not there yet.
func reaches(path string, writable Writable) bool {
	for range maxLinks {
		if writable(path) {
			return true
		}
		text, err := os.Readlink(path)
		if err != nil {
			return false
		}
		if !filepath.IsAbs(text) {
			text = filepath.Join(filepath.Dir(path), text)
		}
		if real, err := filepath.EvalSymlinks(filepath.Dir(text)); err == nil {
			text = filepath.Join(real, filepath.Base(text))
		}
		path = filepath.Clean(text)
	}
	return true
}

// maxScripts: an interpreter can be a script itself; the kernel goes no further
// (execve(2), since Linux 2.6.28).
const maxScripts = 5

// Interpreters refuses a program that is a script whose interpreter, or that one's,
// lies where the inside can write. What env(1) looks up is not followed: that is for
// Path. The program is a path with its symlinks resolved.
func Interpreters(program string, writable Writable) error {
	script := program
	for range maxScripts {
		next := interpreter(script)
		if next == "" {
			return nil
		}
		if !filepath.IsAbs(next) {
			return fmt.Errorf("%s: its interpreter %q depends on the directory it runs in", program, next)
		}
		real, err := filepath.EvalSymlinks(next)
		if err != nil {
			return fmt.Errorf("%s: its interpreter: %w", program, err)
		}
		if writable(filepath.Clean(next)) || writable(real) || reaches(next, writable) {
			return fmt.Errorf("%s: its interpreter %s lies where commands inside can write", program, next)
		}
		script = real
	}
	return fmt.Errorf("%s: its interpreters are scripts, too", program)
}

// interpreter is what the first line of a script names; "" for another kind of program.
func interpreter(script string) string {
	f, err := os.Open(script)
	if err != nil {
		return ""
	}
	defer f.Close()
	var head [256]byte // BINPRM_BUF_SIZE: the kernel reads no more
	n, _ := io.ReadFull(f, head[:])
	line, ok := strings.CutPrefix(string(head[:n]), "#!")
	if !ok {
		return ""
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 {
		return ""
	}
	return words[0]
}
