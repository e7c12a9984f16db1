package risk

import (
	"io"
	"strings"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/workspace/change"
)

type side map[string]string

func (s side) Open(path string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s[path])), nil
}

var guards = []plan.Guard{
	{Pattern: "**/.git/hooks/", Reason: "git runs them", Rule: 7},
	{Pattern: "**/.git/config", Reason: "git runs programs that it names", Rule: 8},
	{Pattern: "**/.git", Reason: "a repository"},
	{Pattern: "**/.vscode/", Reason: "the editor runs tasks in it", Except: []string{"docs/.vscode"}},
	{Pattern: ".bashrc", Reason: "a shell runs it"},
	{Pattern: "/work/project/own/**", Reason: "mine"},
}

func TestTable(t *testing.T) {
	j, err := New(guards, "/work/project")
	if err != nil {
		t.Fatal(err)
	}
	file := func(mode uint32) *change.State { return &change.State{Type: change.File, Mode: mode, Sum: "x"} }
	link := func(text string) *change.State { return &change.State{Type: change.Symlink, Link: text} }
	for _, c := range []struct {
		path     string
		old, new *change.State
		before   string
		after    string
		want     Class
		reason   string // a part of one
	}{
		{path: "main.go", new: file(0o644), want: Plain},
		{path: "main.go", old: file(0o755), new: file(0o755), want: Plain},
		{path: "run", old: file(0o644), new: file(0o755), want: Flagged, reason: "executed"},
		{path: "run", new: file(0o755), want: Flagged, reason: "executed"},
		{path: "su", new: file(0o4755), want: Protected, reason: "set-ID"},
		{path: "sg", new: file(0o2644), want: Protected, reason: "set-ID"},
		{path: "fifo", new: &change.State{Type: change.Other}, want: Never},

		{path: ".git/hooks/pre-commit", new: file(0o755), want: Protected, reason: "git runs them"},
		{path: ".git/hooks/pre-commit", old: file(0o755), want: Protected, reason: "git runs them"},
		{path: "sub/.git/hooks/post-merge", new: file(0o755), want: Protected, reason: "git runs them"},
		{path: ".git/hooks/pre-commit.sample", new: file(0o755), want: Never},
		{path: ".git/objects/ab/cd", new: file(0o444), want: Never},
		{path: ".git", new: file(0o644), want: Never},
		{path: "x/.git/config", new: file(0o644), want: Protected, reason: "names"},
		{path: ".GIT/hooks/pre-commit", new: file(0o755), want: Protected, reason: "take its name"},
		{path: ".g\u200cit/config", new: file(0o644), want: Protected, reason: "take its name"},
		{path: "git~1/config", new: file(0o644), want: Protected, reason: "take its name"},
		{path: ".git /config", new: file(0o644), want: Protected, reason: "take its name"},
		{path: ".v\u017fcode/tasks.json", new: file(0o644), want: Protected, reason: "take its name"},
		{path: ".git/con\ufb01g", new: file(0o644), want: Protected, reason: "take its name"},
		{path: "open", new: file(0o666), want: Flagged, reason: "every user"},
		{path: "open", old: file(0o666), new: file(0o666), want: Plain},
		{path: "dir", new: &change.State{Type: change.Directory, Mode: 0o777}, want: Flagged, reason: "every user"},
		{path: ".git./x", new: file(0o644), want: Never},
		{path: ".vscode", new: &change.State{Type: change.Directory}, want: Protected},
		{path: "a/.vscode/tasks.json", new: file(0o644), want: Protected, reason: "editor"},
		{path: "a/.VSCode/tasks.json", new: file(0o644), want: Protected, reason: "editor"},
		{path: "docs/.vscode/tasks.json", new: file(0o644), want: Plain},
		{path: ".bashrc", new: file(0o644), want: Protected},
		{path: "home/.bashrc", new: file(0o644), want: Plain},
		{path: "own/x", new: file(0o644), want: Protected, reason: "mine"},

		{path: "in", new: link("a/b"), want: Plain},
		{path: "d/in", new: link("../a"), want: Plain},
		{path: "d/out", new: link("../../a"), want: Protected, reason: "leaves"},
		{path: "out", new: link("/etc/passwd"), want: Protected, reason: "leaves"},
		{path: "out", new: link("a/../b"), want: Protected, reason: "leaves"},
		{path: "out", old: link("/etc/passwd"), want: Plain},

		{path: ".github/workflows/ci.yml", new: file(0o644), want: Flagged, reason: "CI"},
		{path: ".github/workflows/ci.yml", old: file(0o644), want: Plain},
		{path: "a/Makefile", new: file(0o644), want: Flagged, reason: "make"},
		{path: "build.rs", new: file(0o644), want: Flagged, reason: "cargo"},
		{path: "t/conftest.py", new: file(0o644), want: Flagged, reason: "pytest"},
		{path: "web/node_modules/.bin/tsc", new: file(0o644), want: Flagged, reason: "in place of"},
		{path: ".venv/lib/x.py", new: file(0o644), want: Flagged, reason: "python"},
		{path: "CLAUDE.md", new: file(0o644), want: Flagged, reason: "agents"},
		{path: "go.sum", new: file(0o644), want: Flagged, reason: "lock file"},

		{path: "package.json", new: file(0o644), after: `{"version":"2","scripts":{"test":"x"}}`, old: file(0o644), before: `{"version":"1","scripts":{"test":"x"}}`, want: Flagged, reason: "read"},
		{path: "a\x1b[2J", new: file(0o644), want: Flagged, reason: "control"},
		{path: "a\u202eb", new: file(0o644), want: Flagged, reason: "direction"},
		{path: "a\xff", new: file(0o644), want: Flagged, reason: "no text"},
		{path: "a\u200bb", new: file(0o644), want: Flagged, reason: "seen"},
	} {
		set := &change.Set{Entries: []change.Entry{{Path: c.path, Old: c.old, New: c.new}}}
		if c.path == "package.json" { // contents have their own test
			continue
		}
		got := j.Of(set, side{}, side{})[0]
		if got.Class != c.want || c.reason != "" && !strings.Contains(strings.Join(got.Reasons, "; "), c.reason) {
			t.Errorf("%q: %s %q, want %s %q", c.path, got.Class, got.Reasons, c.want, c.reason)
		}
	}
}

func TestContents(t *testing.T) {
	j, err := New(nil, "/p")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, before, after, reason string }{
		{"version", "package.json", `{"version":"1","scripts":{"test":"x"}}`, `{"version":"2","scripts":{"test":"x"}}`, ""},
		{"script", "package.json", `{"scripts":{"test":"x"}}`, `{"scripts":{"test":"y"}}`, "by name: test"},
		{"hook", "a/package.json", `{}`, `{"scripts":{"postinstall":"curl"}}`, "installed: postinstall"},
		{"new", "package.json", "", `{"scripts":{"prepare":"x"}}`, "prepare"},
		{"removed", "package.json", `{"scripts":{"test":"x"}}`, `{}`, ""},
		{"no JSON", "package.json", `{}`, `{"scripts":`, "JSON"},
		{"bidi", "a.go", "", "x \u202e y", "direction"},
		{"bidi before", "a.go", "a \u202e", "b \u202e", ""},
		{"one more", "a.go", "a \u202e", "b \u202e\u2066", "direction"},
		{"escape", "a.sh", "", "echo \x1b[8m", "terminal"},
		{"C1", "a.sh", "", "echo \u009b8m", "terminal"},
		{"invisible", "a.js", "", "const a\u200b = 1", "seen"},
		{"byte order mark", "a.cs", "", "\ufeffusing", ""},
		{"emoji", "a.md", "", "👩\u200d🔬", ""},
		{"binary", "a.png", "", "\x00\x1b\u202e", ""},
		{"carriage return", "a.txt", "", "a\r\nb\r\n\tc\f", ""},
	} {
		set := &change.Set{Entries: []change.Entry{{Path: c.path, New: &change.State{Type: change.File, Mode: 0o644, Sum: "new"}}}}
		if c.before != "" {
			set.Entries[0].Old = &change.State{Type: change.File, Mode: 0o644, Sum: "old"}
		}
		got := j.Of(set, side{c.path: c.before}, side{c.path: c.after})[0]
		if c.reason == "" && got.Class != Plain || c.reason != "" && (got.Class != Flagged || !strings.Contains(strings.Join(got.Reasons, "; "), c.reason)) {
			t.Errorf("%s: %s %q, want %q", c.name, got.Class, got.Reasons, c.reason)
		}
	}
}

// A lock file is worth a word if its manifest did not change with it.
func TestLocks(t *testing.T) {
	j, _ := New(nil, "/p")
	s := &change.State{Type: change.File, Mode: 0o644, Sum: "x"}
	set := &change.Set{Entries: []change.Entry{{Path: "a/go.mod", Old: s, New: s}, {Path: "a/go.sum", Old: s, New: s}, {Path: "b/go.sum", Old: s, New: s}}}
	got := j.Of(set, side{}, side{})
	if got[1].Class != Plain || got[2].Class != Flagged {
		t.Errorf("%+v", got)
	}
}

// FuzzRisk: no name and no content makes it fail, and none hides a guarded name.
func FuzzRisk(f *testing.F) {
	j, err := New(guards, "/work/project")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a/b", "text")
	f.Add("package.json", `{"scripts":{"a":1}}`)
	f.Fuzz(func(t *testing.T, path, text string) {
		s := &change.State{Type: change.File, Mode: 0o644, Sum: "x"}
		set := &change.Set{Entries: []change.Entry{{Path: path, New: s}, {Path: path + "/.git/hooks/x", New: s}}}
		got := j.Of(set, side{}, side{path: text, path + "/.git/hooks/x": text})
		if got[1].Class < Protected {
			t.Errorf("%q: %+v", path, got[1])
		}
	})
}
