package flow

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/plan"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/apply"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/change/changetest"
)

// changedSession is a session that has ended, a project, and what it made of it.
type changedSession struct {
	t       *testing.T
	project string
	inside  string
	store   *session.Store
	info    session.Info
	caller  Caller
}

func (s *changedSession) source(*session.Store, session.Info) (change.Set, change.Side, change.Side, error) {
	set, err := changetest.Between(changetest.Tree(s.project), changetest.Tree(s.inside))
	if err != nil {
		return change.Set{}, nil, nil, err
	}
	return *set, changetest.Tree(s.project), changetest.Tree(s.inside), nil
}

func newChanged(t *testing.T, old, new map[string]string) *changedSession {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &changedSession{t: t, project: dir + "/project", inside: dir + "/inside"}
	for root, files := range map[string]map[string]string{s.project: old, s.inside: new} {
		for name, text := range files {
			s.write(root+"/"+name, text)
		}
	}
	s.caller = Caller{Environ: []string{"HOME=" + dir, "XDG_STATE_HOME=" + dir + "/state", "PATH=" + os.Getenv("PATH")}, Dir: s.project}
	if s.store, err = session.Open(s.caller.Environ); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.store.Close() })
	guards := []plan.Guard{{Pattern: "**/.vscode/", Reason: "the editor runs tasks in it"}, {Pattern: "**/.envrc", Reason: "direnv runs it"}}
	x, err := s.store.Create(t.Context(), &plan.Plan{Version: 1, Workspace: s.project, Command: []string{"agent"}, Guards: guards}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.End(session.Exit{}), x.Close()); err != nil {
		t.Fatal(err)
	}
	if s.info, err = s.store.Find(x.ID); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *changedSession) write(path, text string) {
	s.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

// edit edits a file of the project, so that the file system's clock is past the
// beginning of the session.
func (s *changedSession) edit(name, text string) {
	s.t.Helper()
	for {
		s.write(s.project+"/"+name, text)
		info, err := os.Stat(s.project + "/" + name)
		if err != nil {
			s.t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); time.Unix(st.Ctim.Unix()).After(s.info.State.Created) {
			return
		}
	}
}

func (s *changedSession) apply(o ApplyOptions) *Applied {
	s.t.Helper()
	a, err := applyFrom(s.t.Context(), s.store, s.source, o, s.caller)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *changedSession) has(name, want string) {
	s.t.Helper()
	text, err := os.ReadFile(s.project + "/" + name)
	if want == "" {
		if !errors.Is(err, os.ErrNotExist) {
			s.t.Errorf("%s is there: %q", name, text)
		}
		return
	}
	if string(text) != want {
		s.t.Errorf("%s is %q (%v), want %q", name, text, err, want)
	}
}

func paths(list []Unapplied) []string {
	var out []string
	for _, u := range list {
		out = append(out, u.Path+" "+u.Kind)
	}
	return out
}

func ours() (old, new map[string]string) {
	return map[string]string{"a.go": "old\n", "gone.go": "gone\n", "Makefile": "old\n", "both.go": "1\n2\n3\n4\n5\n"},
		map[string]string{"a.go": "new\n", "Makefile": "new\n", "both.go": "1\n2\n3\n4\nfive\n", "d/e/new.go": "new\n", ".vscode/tasks.json": "{}", ".envrc": "x", ".git/hooks/x": "x"}
}

func TestApplyLeavesWhatIsFlagged(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	a := s.apply(ApplyOptions{})
	if want := []string{".envrc protected", ".vscode protected", ".vscode/tasks.json protected", "Makefile flagged"}; !slices.Equal(paths(a.Left), want) {
		t.Errorf("left %q, want %q", paths(a.Left), want)
	}
	if len(a.Failed) > 0 {
		t.Errorf("failed: %+v", a.Failed)
	}
	s.has("a.go", "new\n")
	s.has("gone.go", "")
	s.has("d/e/new.go", "new\n")
	s.has("Makefile", "old\n")
	s.has(".vscode/tasks.json", "")
	s.has(".git/hooks/x", "")

	// The name of a directory is no word for what is protected in it, --yes is none.
	s.apply(ApplyOptions{Yes: true, Paths: []string{"."}})
	s.has("Makefile", "new\n")
	s.has(".envrc", "")
	s.apply(ApplyOptions{Paths: []string{".envrc"}})
	s.has(".envrc", "x")
	s.apply(ApplyOptions{Paths: []string{".vscode"}})
	s.has(".vscode/tasks.json", "{}")
	// What is git's own does not come, whatever is said.
	if _, err := applyFrom(t.Context(), s.store, s.source, ApplyOptions{Session: s.info.ID, Paths: []string{".git/hooks/x"}}, s.caller); err == nil {
		t.Error("a hook came")
	}
	s.has(".git/hooks/x", "")

	// Each is taken back, the last first.
	for _, want := range []struct{ gone, still string }{{".vscode/tasks.json", ".envrc"}, {".envrc", "Makefile"}} {
		a = s.apply(ApplyOptions{Undo: true})
		if len(a.Failed) > 0 {
			t.Errorf("undo: %+v", a.Failed)
		}
		s.has(want.gone, "")
	}
	s.apply(ApplyOptions{Undo: true})
	s.has("Makefile", "old\n")
	s.apply(ApplyOptions{Undo: true})
	s.has("a.go", "old\n")
	s.has("gone.go", "gone\n")
	s.has("d", "")
	var none *NoChangesError
	if _, err := applyFrom(t.Context(), s.store, s.source, ApplyOptions{Undo: true}, s.caller); !errors.As(err, &none) {
		t.Errorf("one more undo: %v", err)
	}
	// What was taken back is no edit: it can be applied again.
	a = s.apply(ApplyOptions{})
	if len(a.Failed) > 0 {
		t.Errorf("again: %+v", a.Failed)
	}
	s.has("a.go", "new\n")
}

func first(a, _ map[string]string) map[string]string  { return a }
func second(_, b map[string]string) map[string]string { return b }

func TestApplyNeverOverwritesAnEdit(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	s.edit("a.go", "mine\n")
	s.edit("d/e/new.go", "mine, too\n")
	a := s.apply(ApplyOptions{Yes: true})
	if want := []string{"a.go conflict", "d/e/new.go conflict"}; !slices.Equal(paths(a.Failed), want) {
		t.Errorf("failed %q, want %q", paths(a.Failed), want)
	}
	s.has("a.go", "mine\n")
	s.has("d/e/new.go", "mine, too\n")
	s.has("Makefile", "new\n")
	// By name neither; only who knows of the edit may.
	s.apply(ApplyOptions{Paths: []string{"a.go"}})
	s.has("a.go", "mine\n")
	s.apply(ApplyOptions{Pick: func(ch *Changes) ([]Choice, error) {
		if !ch.Edited["a.go"] || ch.Edited["gone.go"] {
			t.Errorf("edited: %v", ch.Edited)
		}
		return []Choice{{Path: "a.go", Edited: true}}, nil
	}})
	s.has("a.go", "new\n")
	if _, err := applyFrom(t.Context(), s.store, s.source, ApplyOptions{Pick: func(*Changes) ([]Choice, error) {
		return []Choice{{Path: ".envrc"}}, nil
	}}, s.caller); err == nil {
		t.Error("what is protected was chosen without a word")
	}
}

func TestApplyAContent(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	s.apply(ApplyOptions{Pick: func(*Changes) ([]Choice, error) {
		return []Choice{{Path: "a.go", Content: []byte("a part\n")}, {Path: "d/e/new.go"}}, nil
	}})
	s.has("a.go", "a part\n")
	s.has("d/e/new.go", "new\n")
	s.has("Makefile", "old\n")
	// The rest of it is still to come, and what we left is no edit.
	s.apply(ApplyOptions{})
	s.has("a.go", "new\n")
}

func TestApplyIsInterrupted(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	s.apply(ApplyOptions{})
	// As if killed before the last line was written.
	journal := filepath.Join(appliedDir(s.info.Dir), "1", "journal")
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.Index(string(text), `{"is":`)
	if err := os.WriteFile(journal, text[:cut], 0o600); err != nil {
		t.Fatal(err)
	}
	if state, err := apply.Look(filepath.Dir(journal)); state != apply.Interrupted || err != nil {
		t.Fatal(state, err)
	}
	a := s.apply(ApplyOptions{Paths: []string{"a.go"}})
	if len(a.Recovered) != 1 {
		t.Errorf("recovered %q", a.Recovered)
	}
	s.has("a.go", "new\n")
	s.has("gone.go", "gone\n")
}

func TestApplyBesideARun(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	x, err := s.store.Create(t.Context(), &plan.Plan{Version: 1, Workspace: filepath.Dir(s.project), Command: []string{"agent"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var busy *session.ControlError
	if _, err := applyFrom(t.Context(), s.store, s.source, ApplyOptions{}, s.caller); !errors.As(err, &busy) {
		t.Errorf("beside a run that writes there: %v", err)
	}
	s.has("a.go", "old\n")
}

// git merges both edits from what its index has, and none of the repository's
// programs runs.
func TestMerge(t *testing.T) {
	s := newChanged(t, first(ours()), second(ours()))
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		cmd.Dir, cmd.Env = s.project, s.caller.Environ
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	git("init", "-q")
	git("add", "both.go")
	git("commit", "-qm", "x")
	ran := s.project + "/../ran"
	s.write(s.project+"/../trap", "#!/bin/sh\ntouch "+ran+"\n")
	if err := os.Chmod(s.project+"/../trap", 0o755); err != nil {
		t.Fatal(err)
	}
	git("config", "core.fsmonitor", s.project+"/../trap")
	s.write(s.project+"/.git/info/attributes", "* merge=trap filter=trap\n")
	git("config", "merge.trap.driver", s.project+"/../trap")
	git("config", "filter.trap.smudge", s.project+"/../trap")
	_ = os.Remove(ran)
	s.edit("both.go", "one\n2\n3\n4\n5\n")
	ch, err := readChanges(s.store, s.source, s.info)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ch.Merge(t.Context(), "both.go", s.caller)
	if err != nil || m.Conflicts != 0 || string(m.Content) != "one\n2\n3\n4\nfive\n" {
		t.Errorf("%+v, %v", m, err)
	}
	s.edit("both.go", "1\n2\n3\n4\nFIVE\n")
	if m, err = ch.Merge(t.Context(), "both.go", s.caller); err != nil || m.Conflicts != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	s.has("both.go", "1\n2\n3\n4\nFIVE\n")
	if _, err := ch.Merge(t.Context(), "a.go", s.caller); err == nil {
		t.Error("merged without an ancestor")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program of the repository ran")
	}
	// A git that the run could have made is not started.
	s.write(s.project+"/bin/git", "#!/bin/sh\ntouch "+ran+"\n")
	if err := os.Chmod(s.project+"/bin/git", 0o755); err != nil {
		t.Fatal(err)
	}
	c := s.caller
	c.Environ = append(slices.Clone(c.Environ), "PATH="+s.project+"/bin:"+os.Getenv("PATH"))
	if _, err := ch.Merge(t.Context(), "both.go", c); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the project's git ran")
	}
}
