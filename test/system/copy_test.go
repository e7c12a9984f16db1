package system

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

// hostile does to a project what can be done to one. Each line may fail.
const hostile = `
ln src/main.c hard; echo x >>hard; chmod 777 src/main.c; touch -d @0 README.md
mv src moved; mkdir src; echo new >src/main.c
mkfifo pipe; mknod device c 0 0; mknod null c 1 3; ln -s /etc/passwd link; ln -sf ../../../etc/passwd README.md
chmod 0 moved; chmod 4755 hard
python3 -c 'import os
for name in ("user.overlay.opaque", "user.overlay.redirect", "user.x"):
  for path in (".", "src", "hard"):
    try: os.setxattr(path, name, b"y")
    except OSError: pass
'
echo '[core] fsmonitor = touch /tmp/pwned' >>.git/config; echo touch >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
rm -rf .git/objects .vscode; mkdir .vscode; echo '{}' >.vscode/tasks.json
truncate -s 1T huge; i=0; while [ $i -lt 30 ]; do mkdir d && cd d || break; i=$((i+1)); done
`

// copies are the sessions that still have a copy.
func (s *site) copies(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(s.state + "/sessions/*/copy")
	must(t, err)
	return dirs
}

// Nothing of what the inside does reaches the project: not a byte, not a time.
func TestCopyKeepsTheProject(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, ".vscode/settings.json", "{}")
	before, status := hash(t, s.workspace), s.git(t, "status", "--porcelain", "--ignored")
	r := s.sh(t, hostile+"cd; cd project; ls -a; rm -rf ./* .git .vscode; ls -a | wc -l", "--mode", "copy")
	r.wants(t, 0)
	if !strings.Contains(r.out, "hard\n") || !strings.HasSuffix(r.out, "\n3\n") {
		t.Errorf("the deeds were not done: %q, %q", r.out, r.err)
	}
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
	if got := s.git(t, "status", "--porcelain", "--ignored"); got != status {
		t.Errorf("git status: %q", got)
	}
	if !strings.Contains(r.err, "changed in a copy; nothing of it has reached the project") || !strings.Contains(r.err, "cofferdam discard ") {
		t.Errorf("told: %q", r.err)
	}
	if n := len(s.copies(t)); n != 1 {
		t.Fatalf("%d copies", n)
	}
	s.run(t, "discard").wants(t, 0)
	if n := len(s.copies(t)); n != 0 {
		t.Errorf("%d copies after discard", n)
	}
	s.run(t, "discard").wants(t, 66)

	control := exec.Command("sh", "-c", hostile)
	control.Dir = s.workspace
	_ = control.Run()
	_ = os.Chmod(s.workspace+"/moved", 0o700)
	_ = os.Remove(s.workspace + "/huge")
	if hash(t, s.workspace) == before {
		t.Error("control: the deeds change nothing outside either")
	}
}

// The copy of a run that has been hostile at its end can be thrown away.
func TestDiscardOfAHostileCopy(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.sh(t, hostile, "--mode", "copy", "--name", "evil").wants(t, 0)
	r := s.run(t, "discard", "evil", "--json")
	r.wants(t, 0)
	var d struct {
		ID    string
		Bytes int64
	}
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || d.ID == "" || d.Bytes == 0 {
		t.Errorf("%v: %q", err, r.out)
	}
	if n := len(s.copies(t)); n != 0 {
		t.Errorf("%d copies", n)
	}
	s.run(t, "discard", "evil").complains(t, 66, "no copy any more")
}

// A day's work: what is guarded in the project itself is free in a copy.
func TestCopyDailyWork(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	for _, dir := range []string{"node_modules/a/lib", "node_modules/b"} {
		s.write(t, dir+"/index.js", "module.exports = 1\n")
	}
	s.git(t, "add", "-A")
	s.git(t, "commit", "-qm", "modules")
	before := hash(t, s.workspace)
	r := s.sh(t, `set -e
		test -z "$(git status --short)"
		printf '#!/bin/sh\necho hook ran\n' >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
		git config user.name Agent; git config core.editor true
		echo more >>README.md; git commit -qam inside; git checkout -qb topic; git log --oneline | wc -l
		mkdir -p .claude .github/workflows; echo '{}' >.claude/settings.json; echo 'on: push' >.github/workflows/ci.yml
		mv node_modules node_modules.old; cp -a node_modules.old node_modules; rm -r node_modules.old
		mv node_modules/a node_modules/.a-x && mv node_modules/.a-x node_modules/a && cat node_modules/a/lib/index.js
		git stash -qu; git stash pop -q; git worktree add -q ../project/tree; git gc -q; git fsck 2>&1
		ln README.md link && rm link
	`, "--mode", "copy")
	r.wants(t, 0)
	if !strings.Contains(r.out+r.err, "hook ran") || !strings.Contains(r.out, "3\nmodule.exports = 1\n") {
		t.Errorf("%q, %q", r.out, r.err)
	}
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
	if strings.Contains(r.err, "set aside") {
		t.Errorf("something was set aside: %q", r.err)
	}
}

// Programs are built in a copy as in the project.
func TestCopyBuild(t *testing.T) {
	s := newSite(t)
	gobin, err := exec.LookPath("go")
	if err != nil {
		gobin = "/usr/local/go/bin/go"
	}
	if _, err := os.Stat(gobin); err != nil {
		testenv.Skip(t, testenv.Toolchains, err.Error())
	}
	s.write(t, "go.mod", "module example\n")
	s.write(t, "main.go", "package main\n\nfunc main() { println(42) }\n")
	s.write(t, "prog/file", "not the program\n")
	before := hash(t, s.workspace)
	// Longer than patience: the standard library is built, too.
	out, err := s.command("run", "--mode", "copy", "--profile", "go", "--allow-read", filepath.Dir(filepath.Dir(gobin)), "--", "sh", "-c",
		gobin+" build -o program . && rm -r prog && ./program && echo built").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "42\nbuilt\n") {
		t.Errorf("%v: %s", err, out)
	}
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
}

// What may not be read or written by name stays so in a copy, whatever lies around it
// is done to.
func TestCopyKeepsDenials(t *testing.T) {
	s := newSite(t)
	s.write(t, ".env", "TOKEN=canary\n")
	s.write(t, "sub/.env", "TOKEN=canary\n")
	s.write(t, "fixed/file", "as it was\n")
	r := s.sh(t, `cat .env sub/.env; mv sub sub2; cp -a sub copy; rm -rf sub; mv .env x; rm -f .env; ln .env y
		cat x y sub/.env sub2/.env copy/.env; echo no >fixed/file; rm -f fixed/file; mv fixed elsewhere; cat fixed/file; grep -r canary . && echo leaked`,
		"--mode", "copy", "--deny-write", "fixed/file")
	if strings.Contains(r.out, "canary") || !strings.Contains(r.out, "as it was") {
		t.Errorf("%q, %q", r.out, r.err)
	}
	control := s.sh(t, "cat .env", "--mode", "copy", "--allow-read", ".env")
	if !strings.Contains(control.out, "canary") {
		t.Errorf("control: %q, %q", control.out, control.err)
	}
}

// Unattended, nobody looks on: a copy, but for a mode that is named. A project that is
// not trusted can't name it.
func TestCopyIsTheDefaultUnattended(t *testing.T) {
	const deed = "echo 1 >made"
	for name, c := range map[string]struct {
		policy string
		flags  []string
		live   bool
	}{
		"attended":              {live: true},
		"unattended":            {flags: []string{"--unattended"}},
		"unattended, live":      {flags: []string{"--unattended", "--mode", "live"}, live: true},
		"policy":                {policy: `{"workspace": {"mode": "copy"}}`},
		"policy, flag":          {policy: `{"workspace": {"mode": "copy"}}`, flags: []string{"--mode", "live"}, live: true},
		"untrusted, wants less": {policy: `{"workspace": {"mode": "live"}}`, flags: []string{"--unattended"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if c.policy != "" {
				s.write(t, ".cofferdam/policy.jsonc", c.policy)
			}
			s.sh(t, deed, c.flags...).wants(t, 0)
			if s.exists("made") != c.live {
				t.Errorf("made in the project: %v", s.exists("made"))
			}
			if copies := len(s.copies(t)); copies == 1 == c.live {
				t.Errorf("%d copies", copies)
			}
		})
	}
}

// An unchanged copy is not kept.
func TestCopyUnchanged(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	r := s.sh(t, "git status; touch README.md; cat README.md >x; rm x; exit 7", "--mode", "copy")
	r.wants(t, 7)
	if len(s.copies(t)) > 0 && !strings.Contains(r.err, "0 files changed") {
		t.Errorf("a copy is kept: %q", r.err)
	}
	s.sh(t, "cat README.md; ls", "--mode", "copy").wants(t, 0)
	if r := s.run(t, "run", "--mode", "copy", "--", "no-such-program"); r.status != 127 {
		t.Errorf("status %d", r.status)
	}
	if n := len(s.copies(t)); n > 1 {
		t.Errorf("%d copies", n)
	}
}

// A command that enters is in the same copy.
func TestExecIntoACopy(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	before := hash(t, s.workspace)
	b := s.start(t, "ready\n", "run", "--mode", "copy", "--name", "work", "--", "sh", "-c", "echo inside >made; echo ready; cat; cat more")
	r := s.run(t, "exec", "work", "--", "sh", "-c", "cat made; echo entered >more; echo x >.git/hooks/pre-commit")
	r.wants(t, 0)
	if r.out != "inside\n" {
		t.Errorf("%q", r.out)
	}
	s.run(t, "discard", "work").complains(t, 73, "running")
	b.in.Close()
	b.await(t, "entered\n")
	b.end(t)
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
}

// Killed, the copy is whole and the project untouched; the next run says so.
func TestCopyOfAKilledRun(t *testing.T) {
	s := newSite(t)
	s.killed = true
	s.repository(t)
	before := hash(t, s.workspace)
	b := s.start(t, "ready\n", "run", "--mode", "copy", "--name", "victim", "--", "sh", "-c", "echo work >made; echo x >.git/hooks/post-checkout; echo ready; exec sleep 1000")
	b.Process.Kill()
	if status := b.end(t); status != 137 {
		t.Errorf("status %d", status)
	}
	s.afterKill(t, 0, before)
	if text, err := os.ReadFile(s.copies(t)[0] + "/upper/made"); err != nil || string(text) != "work\n" {
		t.Errorf("the copy has %q, %v", text, err)
	}
	r := s.sh(t, "echo next")
	r.wants(t, 0)
	if !strings.Contains(r.err, "was interrupted; what it did is in its copy") || strings.Contains(r.err, "set aside") {
		t.Errorf("told: %q", r.err)
	}
	if open := s.unsettled(t); len(open) > 0 {
		t.Errorf("%d sessions are still open", len(open))
	}
	if !s.exists(".git/hooks") || s.exists("made") || s.exists(".git/hooks/post-checkout") {
		t.Error("the project has changed")
	}
	if r := s.run(t, "discard", "victim"); r.status != 0 {
		t.Errorf("discard: %q", r.err)
	}
}

// Where the state directory can't hold the layers of an overlay, each file is copied,
// and that is told before the start.
func TestCopyWithoutOverlay(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, ".env", "TOKEN=canary\n")
	before := hash(t, s.workspace)
	script := `cd "$1"; "$0" run --mode copy -- sh -c 'cat .env; cat README.md; rm -rf src; echo made >made; echo hook >.git/hooks/pre-commit; git status --short'; "$0" discard; "$0" run --dry-run --json --mode copy -- true`
	r := s.rigged(t, rigging{Plain: []string{s.state}}, "sh", "-c", script, binary, s.workspace)
	r.wants(t, 0)
	for _, want := range []string{"overlay for the copy of the workspace", "each file is copied before the start", "2 files changed in a copy"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("not told: %q in %q", want, r.err)
		}
	}
	if !strings.Contains(r.out, "readme\n") || !strings.Contains(r.out, " D src/main.c\n?? .env\n?? made\n") || strings.Contains(r.out, "canary") || !strings.Contains(r.out, "discarded the copy") {
		t.Errorf("%q, %q", r.out, r.err)
	}
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.out[max(0, strings.Index(r.out, "\n{")):]), &p); err != nil || p.Copy != plan.CopyFull {
		t.Errorf("%v: copy %q", err, p.Copy)
	}
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
}

// What a copy could not have is refused in words, before anything starts.
func TestCopyRefused(t *testing.T) {
	s := newSite(t)
	s.write(t, "data/file", "x")
	s.write(t, "closed/open/file", "x")
	r := s.rigged(t, rigging{Empty: []string{s.workspace + "/data"}}, "sh", "-c", `cd "$1"; exec "$0" run --mode copy -- true`, binary, s.workspace)
	r.complains(t, 69, "mounted at "+s.workspace+"/data", "--mode live")
	s.run(t, "run", "--mode", "copy", "--deny-read", "closed", "--allow-write", "closed/open", "--", "true").complains(t, 69, "closed/open", "--mode live")
	s.run(t, "run", "--mode", "copi", "--", "true").complains(t, 64, "copy")
	if n := len(s.copies(t)); n != 0 {
		t.Errorf("%d copies", n)
	}
}

// A worktree's git lies outside. It is not in the copy, so it is never written; without
// it git does not work inside, and that is told.
func TestCopyOfAWorktree(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	tree := s.home + "/tree"
	s.git(t, "worktree", "add", "-q", "-b", "topic", tree)
	common := s.workspace + "/.git"
	before := hash(t, common)
	run := func(flags ...string) result {
		cmd := s.command(slices.Concat([]string{"run", "--mode", "copy"}, flags, []string{"--", "sh", "-c", "git log --oneline; echo more >>README.md; git status --short; git commit -qam inside && echo committed"})...)
		cmd.Dir = tree
		return finish(t, cmd)
	}
	r := run()
	if !strings.Contains(r.err, "there is no git inside") || !strings.Contains(r.err, "--allow-read "+common) {
		t.Errorf("not told: %q", r.err)
	}
	r = run("--allow-read", common)
	if !strings.Contains(r.out, "first\n M README.md\n") || strings.Contains(r.out, "committed") {
		t.Errorf("%q, %q", r.out, r.err)
	}
	if r := run("--allow-write", common); r.status != 69 || !strings.Contains(r.err, common) {
		t.Errorf("status %d, %q", r.status, r.err)
	}
	if hash(t, common) != before {
		t.Error("git of the project has changed")
	}
	if text, err := os.ReadFile(tree + "/README.md"); err != nil || string(text) != "readme\n" {
		t.Errorf("the worktree has %q, %v", text, err)
	}
}

// Links, submodules, nested repositories and odd names are in the copy as they are.
func TestCopyOfAnOddProject(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, "nested/file", "nested\n")
	for _, line := range []string{"init -q nested", "-C nested add -A", "-C nested -c user.name=T -c user.email=t@e commit -qm n"} {
		s.git(t, strings.Fields(line)...)
	}
	s.git(t, "clone", "-q", s.workspace+"/nested", s.home+"/sub.git")
	s.git(t, "-c", "protocol.file.allow=always", "submodule", "add", "-q", s.home+"/sub.git", "sub")
	must(t, os.Symlink("README.md", s.workspace+"/li:nk,1"))
	must(t, os.Symlink("nested", s.workspace+"/to nested"))
	s.write(t, "odd\nname\xff/a:b,c", "odd\n")
	before := hash(t, s.workspace)
	r := s.sh(t, `cat 'li:nk,1' 'to nested/file' sub/file odd*/a*; git -C sub status --short; git -C nested log --oneline
		echo x >>sub/file; git -C sub -c user.name=T -c user.email=t@e commit -qam in-sub && git submodule status; echo y >'to nested/new'; ls nested`, "--mode", "copy")
	r.wants(t, 0)
	if !strings.HasPrefix(r.out, "readme\nnested\nnested\nodd\n") || !strings.Contains(r.out, "+") || !strings.Contains(r.out, "new\n") {
		t.Errorf("%q, %q", r.out, r.err)
	}
	if hash(t, s.workspace) != before {
		t.Error("the project has changed")
	}
}
