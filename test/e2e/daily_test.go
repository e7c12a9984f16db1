package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/test/e2e/modelapi"
)

// dailyProject is a small program with a build and a failing test.
var dailyProject = map[string]string{
	"greet.sh":   "#!/bin/sh\necho \"hello, wrold\"\n",
	"test.sh":    "#!/bin/sh\nset -e\ntest \"$(sh out/greet)\" = \"hello, world\"\necho PASS\n",
	"build.sh":   "#!/bin/sh\nset -e\nmkdir -p out\ncp greet.sh out/greet\nchmod +x out/greet\necho BUILT\n",
	".gitignore": "out/\n",
}

// dailySteps is a bug fix as agents do it: look, edit, add a file, build,
// test, commit; and the git chores around it that other sandboxes break. Without
// $(...), which Gemini CLI lets no shell have.
func dailySteps(s *Site) []modelapi.Step {
	in := func(name string) string { return filepath.Join(s.Workspace, name) }
	return []modelapi.Step{
		{ID: "look", Tool: modelapi.Read, Path: in("greet.sh")},
		{ID: "failing test", Tool: modelapi.Shell, Command: "sh build.sh && sh test.sh"},
		{ID: "edit", Tool: modelapi.Edit, Path: in("greet.sh"), Old: `echo "hello, wrold"`, Text: `echo "hello, world"`},
		{ID: "new file", Tool: modelapi.Write, Path: in("docs/CHANGES.md"), Text: "# Changes\n\n- spelling\n"},
		{ID: "test", Tool: modelapi.Shell, Command: "sh build.sh && sh test.sh"},
		{ID: "status", Tool: modelapi.Shell, Command: "git status --porcelain"},
		{ID: "commit", Tool: modelapi.Shell, Command: "git add -A && git commit -m 'Fix the greeting'"},
		{ID: "branch", Tool: modelapi.Shell, Command: "git switch -c topic && git switch main"},
		{ID: "stash", Tool: modelapi.Shell, Command: "echo more >> README.md && git stash && git stash pop && git checkout README.md"},
		{ID: "temp", Tool: modelapi.Shell, Command: `mktemp > /tmp/name && read f < /tmp/name && echo ok > "$f" && cat "$f" && rm "$f" /tmp/name`},
		{ID: "clean", Tool: modelapi.Shell, Command: `git status --porcelain | grep . || echo CLEAN`},
	}
}

// Issue 2, "Agents for real": daily work succeeds inside (edit, build,
// git add -A, commit), and the host sees nothing else.
func TestDailyWork(t *testing.T) {
	inEachBox(t, []string{"claude", "codex", "gemini", "opencode"}, func(t *testing.T, agent string, box Box) {
		s := siteOf(t, agent)
		s.AddFiles(t, dailyProject)
		if agent == "gemini" { // which keeps the person's own git configuration from its shell
			s.Git(t, "config", "user.name", "Site Owner")
			s.Git(t, "config", "user.email", "owner@site.test")
		}
		steps := dailySteps(s)
		calls := answered(t, s.Run(t, box, agent, AgentArgs(agent), steps), steps)
		for id, want := range map[string]string{
			"look":         "hello, wrold",
			"failing test": "BUILT",
			"test":         "PASS",
			"commit":       "Fix the greeting",
			"temp":         "ok",
			"clean":        "CLEAN",
		} {
			if !strings.Contains(calls[id].Result, want) {
				t.Errorf("step %s: no %q in %q", id, want, calls[id].Result)
			}
		}
		if strings.Contains(calls["failing test"].Result, "PASS") {
			t.Error("the test passed before the fix: it tests nothing")
		}
		for _, check := range []struct{ what, got, want string }{
			{"git status on the host", s.Git(t, "status", "--porcelain"), ""},
			{"last commit", s.Git(t, "log", "-1", "--format=%s|%an|%ae"), "Fix the greeting|Site Owner|owner@site.test\n"},
			{"number of commits", s.Git(t, "rev-list", "--count", "HEAD"), "2\n"},
			{"branches", s.Git(t, "branch", "--format=%(refname:short)"), "main\ntopic\n"},
			{"committed files", s.Git(t, "show", "--format=", "--name-only", "HEAD"), "docs/CHANGES.md\ngreet.sh\n"},
			{"greet.sh", s.Content(t, "greet.sh"), "#!/bin/sh\necho \"hello, world\"\n"},
			{"docs/CHANGES.md", s.Content(t, "docs/CHANGES.md"), "# Changes\n\n- spelling\n"},
		} {
			if check.got != check.want {
				t.Errorf("%s: %q, want %q", check.what, check.got, check.want)
			}
		}
	})
}
