//go:build linux

package probe

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cofferdam/internal/host"
)

// What is absent lies where following the way step by step ends, whatever was
// remembered of its directories.
func TestAbsentPaths(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(root+"/a/b", 0o755), os.WriteFile(root+"/f", nil, 0o644), os.Symlink("a", root+"/l"), os.Symlink("nothing/here", root+"/dangling"),
		os.Symlink("../l", root+"/a/up"), os.Symlink("loop", root+"/loop"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var list []string
	for _, dir := range []string{"", "/a", "/a/b", "/l", "/l/b", "/f", "/dangling", "/none", "/a/up", "/a/up/b", "/loop", "/none/../l"} {
		for _, name := range []string{"/x", "/x/y", "/x/y/z", "/../x"} {
			list = append(list, root+dir+name)
		}
	}
	absent := 0
	got := Paths(list)
	for _, p := range list {
		links, end := newWays().way(p)
		g := got[p]
		if g.Kind != host.KindAbsent {
			continue
		}
		absent++
		if g.At != end || !slices.Equal(g.Links, links) {
			t.Errorf("%s: at %s by %q, want %s by %q", p, g.At, g.Links, end, links)
		}
	}
	if absent < 30 {
		t.Errorf("only %d are absent", absent)
	}
}
