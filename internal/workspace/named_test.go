package workspace

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

// A project that keeps its hooks, or a part of its configuration, in the work
// tree: the configuration is not touched, what it names is.
func TestSweepNamedByConfig(t *testing.T) {
	for _, c := range []struct{ name, before, plant, aside string }{
		{"hook changed", `mkdir hk; echo true > hk/pre-commit; chmod +x hk/pre-commit; git config core.hooksPath hk`, `cp $P hk/pre-commit`, "hk/pre-commit"},
		{"hook new", `mkdir hk; git config core.hooksPath hk`, `cp $P hk/pre-commit`, "hk/pre-commit"},
		{"hooks directory new", `git config core.hooksPath ./hk/git`, `mkdir -p hk/git; cp $P hk/git/pre-commit`, "hk/git/pre-commit"},
		{"hooks absolute", `git config core.hooksPath $ROOT/hk`, `mkdir hk; cp $P hk/pre-commit`, "hk/pre-commit"},
		{"hooks directory a symlink", `mkdir hk; git config core.hooksPath hk`, `rmdir hk; mkdir x; cp $P x/pre-commit; ln -s x hk`, "hk"},
		{"a symlink above", `mkdir -p k/hk; git config core.hooksPath k/hk`, `mv k x; cp $P x/hk/pre-commit; ln -s x k`, "k"},
		{"include", `echo '[user]' > inc; git config include.path ../inc`, `printf '[core]\nfsmonitor = %s\n' $P > inc`, "inc"},
		{"includeIf new", `git config includeIf.gitdir:$ROOT/.path ../inc`, `printf '[core]\nfsmonitor = %s\n' $P > inc`, "inc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, sweep := range []bool{false, true} {
				g := newGitBox(t)
				g.must("", c.before)
				g.take(func(rel string) bool { return within(rel, ".git/config") })
				g.must("", c.plant)
				var r Report
				if sweep {
					r = g.sweep()
					if got := asides(r); !slices.Equal(got, []string{c.aside}) || !r.Clean() {
						t.Errorf("%+v", r)
					}
				}
				if fired := g.fired("", hostActs); fired == sweep {
					t.Errorf("sweep %v, fired %v", sweep, fired)
				}
			}
		})
	}
}

// A held file that has a second name can be written by that name.
func TestSweepSecondName(t *testing.T) {
	b := setUp(t, ".envrc=old", ".mcp.json=old")
	must(t, os.Link(filepath.Join(b.root, ".envrc"), filepath.Join(b.root, "alias")))
	b.take(func(string) bool { return true })
	put(t, b.root, "alias=planted", ".mcp.json=by the host")
	r := b.sweep()
	if got := asides(r); !slices.Equal(got, []string{".envrc"}) || b.read(".envrc") != "old" || b.read("alias") != "planted" {
		t.Errorf("%+v, %q", r, b.read(".envrc"))
	}
	if len(r.Changed) != 1 || r.Changed[0].Path != ".mcp.json" {
		t.Errorf("changed %+v", r.Changed)
	}
}

func TestSweepExcept(t *testing.T) {
	b := setUp(t, "src/x=")
	list := []plan.Guard{{Pattern: "**/.vscode/", Reason: "r", Except: []string{".vscode/ok", "a/.vscode"}}, {Pattern: "**/ops", Reason: "r"},
		{Pattern: "**/.envrc", Reason: "r"}, {Pattern: "**/.git/hooks/", Reason: "r"}}
	var err error
	b.base, err = TakeBaseline(b.root, list, nil)
	must(t, err)
	put(t, b.root, ".vscode/ok/x=1", ".vscode/tasks.json=1", ".vscode/d/y=1", "a/.vscode/tasks.json=1", "b/.vscode/ok/x=1", "c/ops/run=1", "d/ops/",
		".vscode/ok/.envrc=1", "a/.vscode/.git/hooks/pre-commit=1")
	// What one guard excepts others still guard.
	if got := asides(b.sweep()); !slices.Equal(got, []string{".vscode/d/y", ".vscode/ok/.envrc", ".vscode/tasks.json", "a/.vscode/.git/hooks/pre-commit", "b/.vscode", "c/ops"}) {
		t.Errorf("%q", got)
	}
	if b.read(".vscode/ok/x") != "1" || b.read("a/.vscode/tasks.json") != "1" {
		t.Error("what the policy lets change has gone")
	}
}

// However much else is guarded, and however long the configuration is: the hooks that
// it names are looked for.
func TestNamedByAnyConfig(t *testing.T) {
	long := "[core]\n\thooksPath = .h\n" + strings.Repeat("[branch \"x\"]\n\tremote = origin\n", 3000)
	files := []string{".git/HEAD=ref: refs/heads/main", ".git/objects/", ".git/refs/", ".git/config=" + long, ".h/"}
	for i := range 90 {
		files = append(files, fmt.Sprintf(".claude/%d=%s", i, strings.Repeat("x", 60<<10)))
	}
	b := setUp(t, files...).take(nil)
	put(t, b.root, ".h/pre-commit=evil")
	if got := asides(b.sweep()); !slices.Equal(got, []string{".h/pre-commit"}) {
		t.Errorf("set aside %q", got)
	}
}
