package flow

import (
	"os"
	"testing"

	"cofferdam/internal/plan"
)

// A directory on PATH that leads into the workspace is as writable as the workspace.
func TestWritableBySymlink(t *testing.T) {
	dir := realDir(t.TempDir())
	if err := os.MkdirAll(dir+"/project/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("project/bin", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	write := writable(&plan.Plan{Workspace: dir + "/project"})
	for path, want := range map[string]bool{"/project": true, "/project/bin/x": true, "/link": true, "/link/none": true, "/projects": false, "": false} {
		if got := write(dir + path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}
