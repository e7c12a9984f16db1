package cli

import (
	"context"
	"encoding/json"
	"errors"
	goflag "flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cofferdam/internal/approval"
	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
)

var update = goflag.Bool("update", false, "rewrite golden files and docs")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cofferdam": func() {
			os.Exit(Main(context.Background(), fakeApp(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
		},
		"fakesession": fakeSession,
	})
}

// fakeApp does nothing and fails on demand: the command `fail KIND` fails in
// the way KIND.
func fakeApp() *App {
	answer := func(o flow.Options, c flow.Caller) (int, error) {
		if len(o.Command) == 2 && o.Command[0] == "fail" {
			return 0, fakeError(o.Command[1])
		}
		if len(o.Command) == 2 && o.Command[0] == "status" {
			n := 0
			fmt.Sscan(o.Command[1], &n)
			return n, nil
		}
		data, _ := json.Marshal(o)
		fmt.Fprintf(c.Out, "%s\n", data)
		return 0, nil
	}
	thePlan := func(o flow.Options) *plan.Plan {
		p := &plan.Plan{Version: 1, Boundary: "native", Command: o.Command, Program: "/usr/bin/x", Workspace: "/p",
			Identity:    plan.Identity{UID: 1000, GID: 1000, User: "ann", Home: "/home/ann"},
			Mounts:      []plan.Mount{{Kind: plan.Bind, Source: "/p", Target: "/p", Write: true}, {Kind: plan.Mask, Target: "/p/.env"}},
			Environment: []plan.EnvVar{{Name: "TOKEN", Value: "not-to-be-shown"}},
			Network:     plan.Network{Mode: "loopback"},
			Limits:      []plan.Limit{{Name: "processes", Value: 512, Unit: "count", Status: plan.Coarse, Mechanism: "rlimit", Note: "per user"}},
			Rules:       []plan.RuleStatus{{ID: 1, Text: "denyRead ~/.ssh", Origin: plan.Origin{Layer: "user", File: "/home/ann/policy.jsonc", Line: 12}, Status: plan.Enforced, Mechanism: "mount"}}}
		if slices.Contains(o.Profiles, "gap") {
			p.Gaps = []plan.Gap{{Required: true, Missing: "user namespaces", Because: "clone: operation not permitted", Remedy: "sysctl -w x=1", Rule: 1}}
		}
		return p
	}
	return &App{
		Version: "1.2.3",
		Run:     func(_ context.Context, o flow.Options, c flow.Caller) (int, error) { return answer(o, c) },
		Plan:    func(_ context.Context, o flow.Options, c flow.Caller) (*plan.Plan, error) { return thePlan(o), nil },
		Policy: func(_ context.Context, o flow.Options, c flow.Caller) (*policy.Effective, error) {
			return &policy.Effective{
				Boundary: policy.Setting[string]{Value: "native", Origin: plan.Origin{Layer: "built-in", Key: "boundary"}},
				Paths:    []policy.PathRule{{Access: policy.DenyRead, Text: "~/.ssh", Origin: plan.Origin{Layer: "built-in"}, Reason: "keys"}},
				Env:      []policy.EnvRule{{Action: policy.EnvSet, Name: "TOKEN", Value: "not-to-be-shown", Origin: plan.Origin{Layer: "user", File: "p.jsonc", Line: 3}}},
				Warnings: []policy.Warning{{Text: "project rule left out: allowRead ~/x", Hint: "cofferdam policy trust", Origin: plan.Origin{Layer: "project", File: ".cofferdam.jsonc", Line: 4}}},
			}, nil
		},
		Changes: func(_ context.Context, key string, paths []string, c flow.Caller) (*flow.Changes, error) {
			if key != "" {
				return nil, &flow.NoChangesError{Session: key, Text: "session " + key + " has none"}
			}
			ch := theChanges()
			return ch, ch.Only(paths, c)
		},
		Apply: func(_ context.Context, o flow.ApplyOptions, c flow.Caller) (*flow.Applied, error) {
			return fakeApply(o)
		},
		Questions: func(_ context.Context, key string, _ flow.Caller) ([]flow.Waiting, error) {
			if key == "nope" {
				return nil, &session.NotFoundError{Key: key}
			}
			return []flow.Waiting{{Session: "20260301-120000-k3f9", Name: "fix", Questions: []flow.Question{
				{ID: 1, Subject: approval.Subject{Host: "a.test", Port: 443}, Process: "cu\x1b[2Jrl", PID: 7, Waiting: 2, Reason: "by a rule", Since: time.Now()},
				{ID: 2, Subject: approval.Subject{Host: "git.test", Port: 443, Method: "POST", Path: "/x\u202e.git", Act: "git-push", Refs: "refs/heads/main"}, Since: time.Now()},
			}}}, nil
		},
		Answer: func(_ context.Context, key string, id int, answer string, _ flow.Caller) (*flow.Answered, error) {
			switch {
			case id == 9:
				return nil, &flow.NoQuestionError{Text: "no such question is open", Hint: "cofferdam approvals lists them"}
			case answer == "yes":
				return nil, &flow.UsageError{Text: `"yes" is no answer`, Hint: "one of: once, session, always, no"}
			}
			return &flow.Answered{Session: key, ID: id, Subject: "a\x1b.test:443", Answer: answer, Note: map[string]string{"always": "it holds for this session only: read-only"}[answer]}, nil
		},
		Check: func(_ context.Context, file string, _ flow.Caller) error {
			if file == "bad.jsonc" {
				return fakeError("policy")
			}
			return nil
		},
		Explain: func(_ context.Context, o flow.Options, _ flow.Caller, access, subject string) (*flow.Explanation, error) {
			return &flow.Explanation{Access: access, Subject: subject, Rule: "denyRead ~/.ssh", Origin: plan.Origin{Layer: "built-in"},
				Because: "the most specific of 2", Change: "--allow-read " + subject}, nil
		},
		Doctor: func(context.Context, flow.Caller) (*flow.Diagnosis, error) {
			return &flow.Diagnosis{Facts: &host.Facts{OS: "linux", Arch: "amd64", Kernel: "6.8", UID: 1000, Mechanisms: []host.Mechanism{
				{Name: host.Landlock, Answer: host.Yes, Level: 6},
				{Name: host.UserNamespaces, Answer: host.No, Detail: "clone: operation not permitted", Remedy: "sysctl -w x=1"},
			}}, Gaps: []plan.Gap{{Required: true, Missing: "user namespaces", Because: "clone: operation not permitted", Remedy: "sysctl -w x=1"}}}, nil
		},
		Import: func(_ context.Context, format, file string, _ flow.Caller) (*flow.Imported, error) {
			return &flow.Imported{Policy: []byte("{}\n"), Warnings: []policy.Warning{{Text: "no meaning here: hooks", Origin: plan.Origin{File: file, Line: 7}}}}, nil
		},
		Trust: func(_ context.Context, file string, revoke bool, _ flow.Caller) (*flow.Trusted, error) {
			return &flow.Trusted{File: or(file, "/p/.cofferdam.jsonc"), SHA256: "abc", Trusted: !revoke, Changed: true}, nil
		},
		Exec: func(_ context.Context, name string, command []string, c flow.Caller) (int, error) {
			store, err := session.Open(c.Environ)
			if err != nil {
				return 0, err
			}
			defer store.Close()
			i, err := store.Find(name)
			if err != nil {
				return 0, err
			}
			if i.Status != session.Live {
				return 0, &session.ControlError{ID: i.ID, Text: fmt.Sprintf("it is not running (%s)", i.Status)}
			}
			files, err := store.Enter(i, command)
			if err != nil {
				return 0, err
			}
			fmt.Fprintf(c.Out, "%d files, %q\n", len(files), command)
			return 7, nil
		},
	}
}

func fakeError(kind string) error {
	switch kind {
	case "usage":
		return &flow.UsageError{Text: "the workspace \x1b[2J is a file", Hint: "name a directory"}
	case "policy":
		return &flow.PolicyError{Problems: []flow.Problem{
			{File: "p.jsonc", Line: 3, Col: 5, Key: "filesystem.denyReed", Text: "unknown key", Hint: "did you mean denyRead?"},
			{File: "p.jsonc", Line: 9, Text: "want a list"},
		}}
	case "nofile":
		return &flow.PolicyError{Problems: []flow.Problem{{File: "p.jsonc", Text: "no such file or directory"}}}
	case "manyproblems":
		return &flow.PolicyError{Problems: make([]flow.Problem, 40)}
	case "limit":
		return &flow.LimitError{Limit: plan.Limit{Name: "memory", Value: 1 << 30, Unit: "bytes"}, Seen: 1 << 30}
	case "refused":
		return &flow.RefusedError{Boundary: "native", Gaps: []plan.Gap{
			{Required: true, Missing: "user namespaces", Because: "clone: operation not permitted", Remedy: "sysctl -w x=1", Rule: 1},
			{Required: true, Missing: "landlock", Because: "kernel 5.10", Remedy: "kernel 5.13"},
		}, Rules: []plan.RuleStatus{{ID: 1, Text: "denyRead ~/.ssh", Origin: plan.Origin{Layer: "user", File: "p.jsonc", Line: 12}}}}
	case "forbidden":
		return &flow.ForbiddenError{Text: "the workspace is your home directory", Rule: "workspace", Origin: plan.Origin{Layer: "built-in"}, Hint: "cd into a project, or --workspace DIR"}
	case "log":
		return &flow.LogError{Err: &os.PathError{Op: "write", Path: "events.jsonl", Err: syscall.ENOSPC}}
	case "timeout":
		return &flow.TimeoutError{Limit: time.Minute, Origin: plan.Origin{Layer: "flag", Key: "--timeout"}}
	case "setup":
		return fmt.Errorf("start: %w", &boundary.SetupError{Stage: "mounts", Op: "mount tmpfs on /tmp", Errno: syscall.EPERM, Remedy: "allow it"})
	case "noexec":
		return &boundary.ExecError{Program: "/bin/x", Errno: syscall.EACCES}
	case "notfound":
		return &boundary.ExecError{Program: "nope", Errno: syscall.ENOENT}
	case "state":
		return &session.Error{Op: "use", Path: "/s", Err: errors.New("others may write it"), Hint: "chmod go-w /s"}
	case "interrupt":
		return context.Canceled
	case "panic":
		panic("a bug")
	}
	return errors.New("something odd")
}

// fakeSession makes sessions: an ended one, and a live one that stays until
// its standard input closes.
func fakeSession() {
	s, err := session.Open(os.Environ())
	if err != nil {
		panic(err)
	}
	x, err := s.Create(context.Background(), &plan.Plan{Version: 1, Boundary: "native", Command: []string{"sleep", "1\n2"}, Workspace: "/p"}, os.Args[1])
	if err != nil {
		panic(err)
	}
	w := event.NewWriter(x.Events)
	for _, e := range []event.Event{{Kind: event.Start, Subject: "/p"}, {Kind: event.Denied, Action: "open", Access: "read", Subject: "/home/ann/.ssh", Rule: "denyRead ~/.ssh", Origin: "built-in"}} {
		w.Append(e)
	}
	if len(os.Args) > 2 { // live: carry out the command line meanwhile
		srv, err := x.Serve(func(_ session.Peer, command []string) ([]*os.File, error) {
			return []*os.File{os.Stdin}, nil
		}, nil)
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(os.Args[2], os.Args[3:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		_ = cmd.Run()
		srv.Close()
		fmt.Println("status", cmd.ProcessState.ExitCode())
	}
	w.Append(event.Event{Kind: event.End})
	n, head := w.Head()
	x.End(session.Exit{Status: 0, Events: n, Head: head})
	x.Close()
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			return os.Mkdir(e.WorkDir+"/home", 0o700)
		},
		Condition: func(cond string) (bool, error) { return false, fmt.Errorf("unknown condition %q", cond) },
	})
}

// every calls f for each command with its path.
func every(path string, table []entry, f func(path string, c *command)) {
	for _, e := range table {
		c := e.build()
		c.short = e.short
		f(path+" "+e.name, c)
		if c.subs != nil {
			every(path+" "+e.name, c.subs(), f)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var all strings.Builder
	every(program, commands(), func(path string, c *command) {
		text := helpText(path, c)
		all.WriteString(text + "\n" + strings.Repeat("-", 72) + "\n")
		if len(c.examples) == 0 || c.short == "" {
			t.Errorf("%s has no example or no description", path)
		}
		for _, want := range []string{"Usage:", "Examples:", "Exit codes:"} {
			if !strings.Contains(text, want) {
				t.Errorf("help of %s has no %q", path, want)
			}
		}
		if (c.run == nil) == (c.subs == nil) {
			t.Errorf("%s: exactly one of run and subs", path)
		}
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) > 110 {
				t.Errorf("help of %s: line of %d: %s", path, len(line), line)
			}
		}
		var f flags
		if c.flags != nil {
			c.flags(&f)
		}
		seen := map[string]bool{"help": true, "h": true}
		for _, x := range f.list {
			for _, n := range []string{x.name, string(x.letter)} {
				if n != "\x00" && seen[n] {
					t.Errorf("%s: flag %s twice", path, n)
				}
				seen[n] = true
			}
		}
	})
	golden(t, "testdata/help.golden", overview()+strings.Repeat("-", 72)+"\n"+all.String())
}

func TestExitCodesAreDocumented(t *testing.T) {
	golden(t, "../../docs/exit-codes.md", exitDoc())
	seen := map[int]bool{}
	for _, e := range exitCodes() {
		if seen[e.code] {
			t.Errorf("code %d twice", e.code)
		}
		seen[e.code] = true
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || string(want) != got {
		t.Errorf("%s is not current; go test ./internal/cli -update (%v)", name, err)
	}
}

func TestNearest(t *testing.T) {
	list := names(commands())
	for in, want := range map[string]string{"rnu": "run", "polcy": "policy", "dcotor": "doctor", "log": "logs", "comp": "completion", "claude": "", "x": "", "npm": ""} {
		if got := nearest(in, list); got != want {
			t.Errorf("nearest %q = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--policy x --env A=B -- run")
	f.Add("--name=--json - -x --")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		var fl flags
		cmdRun().flags(&fl)
		words, err := fl.parse(args, true)
		if err == nil && len(words) > len(args) {
			t.Errorf("%q became %q", args, words)
		}
		null, _ := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		defer null.Close()
		Main(t.Context(), &App{}, args, nil, nil, null, null)
		Main(t.Context(), &App{}, append([]string{"__complete"}, args...), nil, nil, null, null)
	})
}

// What a start pays for its command line: building and parsing `run`.
func BenchmarkRunLine(b *testing.B) {
	app := &App{Run: func(context.Context, flow.Options, flow.Caller) (int, error) { return 0, nil }}
	args := []string{"run", "--policy", "p.jsonc", "--allow-read", "/x", "--env", "A=B", "--json", "--", "true", "--flag"}
	for b.Loop() {
		if code := Main(b.Context(), app, args, nil, nil, os.Stdout, os.Stderr); code != 0 {
			b.Fatal(code)
		}
	}
}

// Numbers are a promise: scripts branch on them.
func TestExitCodeOfEachError(t *testing.T) {
	for kind, want := range map[string]int{
		"usage": 64, "policy": 65, "refused": 69, "setup": 69, "odd": 70, "state": 73, "log": 74,
		"forbidden": 77, "timeout": 124, "noexec": 126, "notfound": 127, "interrupt": 130,
	} {
		err := fakeError(kind)
		if got := exitOf(err); got != want {
			t.Errorf("%s: %d, want %d", kind, got, want)
		}
		if got := exitOf(fmt.Errorf("around: %w", err)); got != want {
			t.Errorf("%s, wrapped: %d, want %d", kind, got, want)
		}
		if m := describe(err); m.Name == "unknown" || m.Text == "" {
			t.Errorf("%s: %+v", kind, m)
		}
	}
	for err, want := range map[error]int{
		&session.NotFoundError{}: 66, &session.AmbiguousError{}: 66, &session.NameError{}: 64,
		&flow.NoCopyError{}: 66, &session.ControlError{}: 73, &event.ChainError{}: 74, boundary.ErrNotHere: 69, nil: 0,
	} {
		if got := exitOf(err); got != want {
			t.Errorf("%T: %d, want %d", err, got, want)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if got := Main(t.Context(), fakeApp(), []string{"run", "fail", "panic"}, nil, nil, null, null); got != 70 {
		t.Errorf("panic: %d", got)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if got := Main(t.Context(), fakeApp(), []string{"version"}, nil, nil, full, null); got != 74 {
		t.Errorf("full disk under standard output: %d", got)
	}
}
