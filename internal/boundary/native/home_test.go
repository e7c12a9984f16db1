package native

import (
	"os"
	"testing"
)

// A mount point is made whatever an earlier run has left in its place.
func TestMakePointInAHostileHome(t *testing.T) {
	for name, plant := range map[string]func(dir, outside string) error{
		"link":   func(dir, outside string) error { return os.Symlink(outside, dir+"/a") },
		"file":   func(dir, _ string) error { return os.WriteFile(dir+"/a", nil, 0o600) },
		"closed": func(dir, _ string) error { return os.Mkdir(dir+"/a", 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			if err := plant(dir, outside); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := makePoint(root, "a/b/c", false); err != nil {
				t.Error(err)
			}
			if st, err := os.Lstat(dir + "/a/b/c"); err != nil || !st.Mode().IsRegular() {
				t.Errorf("%v %v", st, err)
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
				t.Errorf("outside: %v %v", left, err)
			}
		})
	}
}
