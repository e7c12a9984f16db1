package lookup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes a directory that the inside can write, "open", and others beside it.
func tree(t *testing.T) (root string, writable Writable) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(root, "open")
	for _, dir := range []string{"open/bin", "bin", "other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root, func(p string) bool { return p == open || strings.HasPrefix(p, open+"/") }
}

func link(t *testing.T, text, name string) {
	t.Helper()
	if err := os.Symlink(text, name); err != nil {
		t.Fatal(err)
	}
}

func TestPath(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, root string)
		kept bool
	}{
		{"nothing in it", func(*testing.T, string) {}, true},
		{"a link elsewhere", func(t *testing.T, root string) { link(t, "../other/x", root+"/bin/x") }, true},
		{"a link into it", func(t *testing.T, root string) {
			os.WriteFile(root+"/open/x", nil, 0o755)
			link(t, root+"/open/x", root+"/bin/x")
		}, false},
		{"a link to what is not there yet", func(t *testing.T, root string) { link(t, "../open/later", root+"/bin/x") }, false},
		{"a link by way of another", func(t *testing.T, root string) {
			link(t, root+"/open", root+"/other/by")
			link(t, "../other/by/later", root+"/bin/x")
		}, false},
		{"a link that passes through and comes back", func(t *testing.T, root string) {
			os.WriteFile(root+"/other/end", nil, 0o755)
			link(t, root+"/other/end", root+"/open/middle")
			link(t, root+"/open/middle", root+"/bin/x")
		}, false},
		{"a circle", func(t *testing.T, root string) { link(t, "x", root+"/bin/x") }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, writable := tree(t)
			test.make(t, root)
			got := Path(root+"/bin:relative:"+root+"/open/bin::"+root+"/none:"+root+"/bin", writable)
			if want := []string{root + "/bin"}; test.kept && !slices.Equal(got, want) || !test.kept && len(got) > 0 {
				t.Errorf("%q, kept should be %v", got, test.kept)
			}
		})
	}
}

func TestPathByLink(t *testing.T) {
	root, writable := tree(t)
	link(t, root+"/open/bin", root+"/by")
	if got := Path(root+"/by", writable); len(got) > 0 {
		t.Errorf("a directory that is a link into the open one: %q", got)
	}
}

func TestInterpreters(t *testing.T) {
	for _, test := range []struct {
		name, text string
		refused    bool
	}{
		{"no script", "\x7fELF", false},
		{"outside", "#!/bin/sh\n", false},
		{"found by env, which Path is for", "#! /usr/bin/env python3\n", false},
		{"inside", "#!ROOT/open/python -E\n", true},
		{"a link to inside", "#!ROOT/other/python\n", true},
		{"a script whose interpreter is inside", "#!ROOT/other/script\n", true},
		{"relative", "#!python\n", true},
		{"none there", "#!ROOT/other/none\n", true},
		{"itself", "#!ROOT/other/tool\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, writable := tree(t)
			write := func(name, text string) {
				if err := os.WriteFile(filepath.Join(root, name), []byte(strings.ReplaceAll(text, "ROOT", root)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write("open/python", "")
			write("other/script", "#!ROOT/open/python\n")
			link(t, "../open/python", root+"/other/python")
			write("other/tool", test.text)
			if err := Interpreters(root+"/other/tool", writable); (err != nil) != test.refused {
				t.Errorf("%v, refused should be %v", err, test.refused)
			}
		})
	}
}
