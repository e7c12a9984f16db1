// Package commits brings commits that were made inside into the repository of the
// project, as branches. What it reads is hostile: of the git directory that a run has
// left it takes the names of branches and the content of objects, never a
// configuration, a hook, an index or a link. Each object is hashed and checked anew
// (git's fsck rules) on its way, and comes in by a fetch from a repository that this
// package has made.
//
// It writes new objects and the refs that it is told to, and no file that is checked out.
package commits

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"cofferdam/internal/workspace/change"
)

// Source is a git directory as a run has left it.
type Source struct {
	Set *change.Set
	// Old and New read files of the project before and after.
	Old, New change.Side
	// Dir is the git directory's path in the project: ".git".
	Dir string
}

// Branch is a branch that the run has made or moved.
type Branch struct {
	Name   string `json:"name"`   // without refs/heads/; hostile until Import has taken it
	Commit string `json:"commit"` // object name in hex
}

// Found is what of a Source can be brought in.
type Found struct {
	Branches []Branch `json:"branches"` // sorted by name
	// Head is the name of the branch that is checked out; empty if there is none
	// (a detached HEAD), and then Commit is what is.
	Head   string `json:"head,omitempty"`
	Commit string `json:"commit,omitempty"`
	// Moved: HEAD itself was changed by the run.
	Moved bool `json:"moved,omitempty"`
}

// Bounds of what is read of refs.
const (
	maxRef      = 4096     // bytes, of a file with one
	maxPacked   = 64 << 20 // bytes, of packed-refs
	maxBranches = 10_000
)

var objectName = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// Find reads which branches the run has made or moved.
func Find(src Source) (Found, error) {
	f := Found{}
	loose, deleted := map[string]string{}, map[string]bool{}
	heads := src.Dir + "/refs/heads/"
	packed := false
	for _, e := range src.Set.Entries {
		name, branch := strings.CutPrefix(e.Path, heads)
		switch {
		case branch && (e.New == nil || e.New.Type == change.Directory):
			deleted[name] = true
		case branch && e.New.Type == change.File:
			text, err := src.read(e.Path, maxRef)
			if err != nil {
				return Found{}, err
			}
			// A symbolic branch is a name for another one, and says nothing new.
			if id := strings.TrimSpace(text); objectName.MatchString(id) {
				loose[name] = id
			} else if !strings.HasPrefix(id, "ref: ") {
				return Found{}, fmt.Errorf("branch %q: its file has no object's name in it", name)
			}
		case branch:
			return Found{}, fmt.Errorf("branch %q is a %s", name, e.New.Type)
		case e.Path == src.Dir+"/packed-refs" && e.New != nil:
			packed = true
		case e.Path == src.Dir+"/HEAD" && e.New != nil:
			f.Moved = true
		}
	}
	if packed {
		if err := src.packedRefs(loose, deleted); err != nil {
			return Found{}, err
		}
	}
	for name, id := range loose {
		if f.Branches = append(f.Branches, Branch{name, id}); len(f.Branches) > maxBranches {
			return Found{}, fmt.Errorf("more than %d branches", maxBranches)
		}
	}
	slices.SortFunc(f.Branches, func(a, b Branch) int { return strings.Compare(a.Name, b.Name) })
	return f, src.head(&f)
}

// head reads what is checked out.
func (src Source) head(f *Found) error {
	side := src.Old
	if f.Moved {
		side = src.New
	}
	text, err := readFile(side, src.Dir+"/HEAD", maxRef)
	if err != nil {
		return err
	}
	text = strings.TrimSpace(text)
	if name, ok := strings.CutPrefix(text, "ref: refs/heads/"); ok {
		f.Head = name
	} else if objectName.MatchString(text) {
		f.Commit = text
	} else {
		return errors.New("HEAD is neither a branch nor a commit")
	}
	return nil
}

// packedRefs adds the branches of packed-refs that no file of their own stands for.
func (src Source) packedRefs(loose map[string]string, deleted map[string]bool) error {
	before := map[string]string{}
	if err := eachPacked(src.Old, src.Dir, before); err != nil && !errors.Is(err, errAbsent) {
		return err
	}
	after := map[string]string{}
	if err := eachPacked(src.New, src.Dir, after); err != nil {
		return err
	}
	for name, id := range after {
		if _, ok := loose[name]; ok || before[name] == id && !deleted[name] {
			continue
		}
		// A file that the run has left alone counts before the packed value does.
		if text, err := readFile(src.Old, src.Dir+"/refs/heads/"+name, maxRef); err == nil && (!deleted[name] || strings.TrimSpace(text) == id) {
			continue
		}
		loose[name] = id
	}
	return nil
}

// errAbsent: the file is not there, or can't be opened.
var errAbsent = errors.New("not there")

// eachPacked reads the branches of packed-refs (gitformat: "OBJECT SP REF LF").
func eachPacked(side change.Side, dir string, into map[string]string) error {
	text, err := readFile(side, dir+"/packed-refs", maxPacked)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxRef)
	for lines.Scan() {
		id, ref, ok := strings.Cut(lines.Text(), " ")
		name, branch := strings.CutPrefix(ref, "refs/heads/")
		if ok && branch && objectName.MatchString(id) {
			if into[name] = id; len(into) > maxBranches {
				return fmt.Errorf("more than %d branches", maxBranches)
			}
		}
	}
	return lines.Err()
}

func (src Source) read(path string, limit int64) (string, error) {
	return readFile(src.New, path, limit)
}

func readFile(side change.Side, path string, limit int64) (string, error) {
	f, err := side.Open(path)
	if err != nil {
		return "", fmt.Errorf("%q: %w: %w", path, errAbsent, err)
	}
	defer f.Close()
	var b bytes.Buffer
	switch n, err := io.Copy(&b, io.LimitReader(f, limit+1)); {
	case err != nil:
		return "", fmt.Errorf("read %q: %w", path, err)
	case n > limit:
		return "", fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return b.String(), nil
}
