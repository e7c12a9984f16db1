package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a rule opens for reading in what another closes can be read there and not be
// written, although it lies in the workspace; and explain says the same.
func TestAllowReadGivesNoWriting(t *testing.T) {
	s := newSite(t)
	s.write(t, "closed/x", "hidden\n")
	s.write(t, "closed/open/x", "seen\n")
	s.write(t, ".env", "TOKEN=seen\n")
	s.write(t, ".env.example", "TOKEN=\n")
	s.write(t, s.home+"/policy.jsonc", `{"filesystem": {"denyRead": ["./closed"], "allowRead": ["./closed/open", "./.env"]}}`)
	r := s.run(t, "run", "--policy", s.home+"/policy.jsonc", "--", "sh", "-c", `
		for f in closed/x closed/open/x .env .env.example main; do
			cat $f >/dev/null 2>&1 && echo reads $f
			echo more 2>/dev/null >> $f && echo writes $f
		done; echo more 2>/dev/null > closed/open/new && echo makes; mv closed moved 2>/dev/null && echo moves; true`)
	r.wants(t, 0)
	const want = "reads closed/open/x\nreads .env\nreads .env.example\nwrites .env.example\nwrites main\n"
	if got := strings.ReplaceAll(r.out, "reads main\n", ""); got != want {
		t.Errorf("got\n%s, want\n%s%s", got, want, r.err)
	}
	for _, f := range []string{"closed/x", "closed/open/x", ".env", ".env.example"} {
		for kind, verb := range map[string]string{"read": "reads ", "write": "writes "} {
			e := s.run(t, "policy", "explain", "--policy", s.home+"/policy.jsonc", kind, f)
			if strings.HasPrefix(e.out, "allowed") != strings.Contains(want, verb+f+"\n") {
				t.Errorf("explain %s %s: %s%s", kind, f, e.out, e.err)
			}
		}
	}
}

// The symlinks on the way of a protected name can't be replaced, and what is not
// there yet is set aside where it is made.
func TestLinksOnTheWayStay(t *testing.T) {
	s := newSite(t)
	s.write(t, "real/conf", "mine\n")
	must(t, os.Mkdir(s.workspace+"/empty", 0o755))
	must(t, os.Symlink("hop", s.workspace+"/link"))
	must(t, os.Symlink(s.workspace+"/real", s.workspace+"/hop"))
	must(t, os.Symlink("empty", s.workspace+"/way"))
	s.write(t, s.home+"/policy.jsonc", `{"filesystem": {"denyWrite": ["./link/conf", "./way/new"]}}`)
	r := s.run(t, "run", "--policy", s.home+"/policy.jsonc", "--", "sh", "-c", `
		mkdir own; echo theirs > own/conf
		for l in link hop way; do
			mv $l moved && echo moved $l; rm $l && echo removed $l; ln -sfn own $l && echo replaced $l
			mv -T own $l && echo exchanged $l
		done 2>/dev/null
		echo theirs 2>/dev/null > link/conf && echo wrote; echo theirs > empty/new; cat link/conf`)
	r.wants(t, 0)
	if r.out != "mine\n" {
		t.Errorf("inside: %s", r.out)
	}
	if got, err := os.ReadFile(s.workspace + "/link/conf"); string(got) != "mine\n" {
		t.Errorf("the name stands for %q now: %v", got, err)
	}
	if s.exists("empty/new") {
		t.Errorf("way/new is there: %s", r.err)
	}
	s.setAside(t, "empty/new")
}

// A mask lies on a file. When an editor outside puts another in its place the mask goes
// with the old one, so no plan may say that a rule like that is enforced, and the
// person is told before the start.
func TestReplacedOutside(t *testing.T) {
	s := newSite(t)
	s.write(t, "secret", "old\n")
	s.write(t, s.home+"/policy.jsonc", `{"filesystem": {"denyRead": ["./secret"]}}`)
	policy := []string{"--policy", s.home + "/policy.jsonc", "--"}
	b := s.start(t, "ready", append(append([]string{"run"}, policy...), "sh", "-c", "cat secret && echo > leak; echo ready; until test -e go; do sleep 0.02; done; cat secret; echo done")...)
	s.write(t, "secret.new", "new\n")
	must(t, os.Rename(s.workspace+"/secret.new", s.workspace+"/secret"))
	s.write(t, "go", "")
	out := b.await(t, "done")
	b.end(t)
	if s.exists("leak") {
		t.Error("the mask did not hold")
	}
	plan := s.run(t, append(append([]string{"run", "--dry-run"}, policy...), "true")...)
	line := ""
	for l := range strings.Lines(plan.out) {
		if strings.Contains(l, "denyRead ./secret") {
			line = strings.TrimSpace(l)
		}
	}
	if strings.Contains(out, "new") && !strings.HasPrefix(line, "coarse") {
		t.Errorf("read, and the plan says %q", line)
	}
	if r := s.run(t, append(append([]string{"run"}, policy...), "true")...); !strings.Contains(r.err, "held in part only: denyRead ./secret") {
		t.Errorf("nobody is told: %q", r.err)
	}
	if r := s.run(t, "run", "--", "true"); r.err != "" {
		t.Errorf("without a rule of one's own: %q", r.err)
	}
}

// setAside checks what was set aside in the one run that did, and throws it away.
func (s *site) setAside(t testing.TB, want ...string) {
	t.Helper()
	dirs, _ := filepath.Glob(s.state + "/sessions/*/set-aside")
	if len(dirs) != 1 {
		t.Fatalf("set aside in %d runs", len(dirs))
	}
	for _, name := range want {
		if _, err := os.Lstat(filepath.Join(dirs[0], name)); err != nil {
			t.Errorf("set aside: %v", err)
		}
	}
	must(t, os.RemoveAll(dirs[0]))
}

// A pattern that reaches out of the workspace hides what it finds in directories that
// another rule opens. One that could not be searched stops the run.
func TestPatternsOutside(t *testing.T) {
	s := newSite(t)
	for _, f := range []string{"docs/key.pem", "docs/a/b/key.pem", "docs/a/plain", "key.pem"} {
		s.write(t, filepath.Join(s.home, f), "seen\n")
	}
	s.write(t, s.home+"/policy.jsonc", `{"filesystem": {"denyRead": ["~/**/*.pem"], "allowRead": ["~/docs"]}}`)
	look := []string{"run", "--policy", s.home + "/policy.jsonc", "--", "sh", "-c", `
		for f in docs/key.pem docs/a/b/key.pem docs/a/plain key.pem; do cat ~/$f >/dev/null 2>&1 && echo reads $f; done; true`}
	r := s.run(t, look...)
	r.wants(t, 0)
	if r.out != "reads docs/a/plain\n" {
		t.Errorf("inside reads\n%s%s", r.out, r.err)
	}
	e := s.run(t, "policy", "explain", "--policy", s.home+"/policy.jsonc", "read", "~/docs/a/b/key.pem")
	if strings.HasPrefix(e.out, "allowed") || !strings.Contains(e.out, "~/**/*.pem") {
		t.Errorf("explain: %s%s", e.out, e.err)
	}
	must(t, os.Rename(s.home+"/docs", s.home+"/elsewhere"))
	must(t, os.Symlink("elsewhere", s.home+"/docs"))
	r = s.run(t, look...)
	r.wants(t, 69)
	if !strings.Contains(r.err, "policy.jsonc:1") || !strings.Contains(r.err, s.home+"/docs") {
		t.Errorf("refused with\n%s", r.err)
	}
}
