package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/exit-codes.md")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cofferdam": func() {
			os.Exit(Main(context.Background(), fakeApp(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
	})
}

// someErrors has one error of each kind and the code it must have. The fake
// App returns them by name.
func someErrors() map[string]struct {
	err  error
	code int
} {
	origin := plan.Origin{Layer: "project", File: "/p/cofferdam.jsonc", Line: 7, Key: "filesystem.denyRead"}
	live := session.Info{ID: "20260301-120000-k3f9", Status: session.Live, State: session.State{Name: "review"}}
	type row = struct {
		err  error
		code int
	}
	return map[string]row{
		"usage": {&flow.UsageError{Text: "--timeout 5 has no unit", Hint: "write 5s"}, 64},
		"name":  {&flow.SessionError{Err: &session.NameError{Name: "a/b", Why: "has a slash"}}, 64},
		"policy": {&flow.PolicyError{Err: policy.Problems{
			{File: "/p/x.jsonc", Line: 3, Col: 5, Key: "filesystem", Text: `unknown key "denyRaed"`, Hint: `did you mean "denyRead"?`},
			{File: "/p/x.jsonc", Line: 9, Col: 1, Text: "bad\x1b[2J"},
		}}, 65},
		"bare-policy": {fmt.Errorf("load: %w", policy.Problems{{File: "f", Text: "empty"}}), 65},
		"compile":     {&flow.PolicyError{Err: &compile.Error{Text: "no such file", Origin: origin, Hint: "create it"}}, 65},
		"compile-flag": {&flow.PolicyError{Err: &compile.Error{Text: "network rules need the gateway, which is not there yet",
			Origin: plan.Origin{Layer: "flag", Key: "--allow-domain"}, Hint: "leave the flag out"}}, 65},
		"refused": {&flow.RefusedError{Gaps: []plan.Gap{
			{Required: true, Missing: "user namespaces", Because: "clone: operation not permitted", Remedy: "sysctl kernel.unprivileged_userns_clone=1"},
			{Required: true, Missing: "landlock", Because: "not in this kernel"},
		}}, 69},
		"start":   {&flow.StartError{Err: &boundary.SetupError{Stage: "mounts", Op: "mount tmpfs on /tmp", Errno: syscall.EPERM, Remedy: "ask for less"}}, 69},
		"here":    {boundary.ErrNotHere, 69},
		"bug":     {errors.New("index out of range"), 70},
		"session": {&flow.SessionError{Err: &session.Error{Op: "create session", Path: "/x", Err: syscall.ENOSPC, Hint: "make room"}}, 73},
		"nosuch":  {&session.NotFoundError{Key: "rev", Live: []session.Info{live}}, 73},
		"many":    {&session.AmbiguousError{Key: "2026", Matches: []session.Info{live, live}}, 73},
		"control": {&session.ControlError{ID: "x", Text: "it does not answer"}, 73},
		"chain":   {&event.ChainError{Line: 3, Why: "does not fit"}, 73},
		"file":    {&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, 74},
		"output":  {&outputError{syscall.ENOSPC}, 74},
		"time":    {&flow.LimitError{Reason: "the run took longer than 30m", Limit: plan.Limit{Name: "time", Value: 1800000, Unit: "ms"}}, 124},
		"memory":  {&flow.LimitError{Limit: plan.Limit{Name: "memory", Value: 8, Unit: "bytes"}, Seen: 9}, 125},
		"noexec":  {&boundary.ExecError{Program: "/bin/x y", Errno: syscall.EACCES}, 126},
		"noent":   {&boundary.ExecError{Program: "clade", Errno: syscall.ENOENT}, 127},
		"cancel":  {context.Canceled, 130},
	}
}

// fakeApp does nothing and fails on demand: of `fail KIND` in the way KIND.
func fakeApp() App {
	answer := func(c flow.Caller, command []string, v any) (int, error) {
		if len(command) == 2 {
			switch command[0] {
			case "fail":
				if command[1] == "panic" {
					panic("a\x1b[31mpanic")
				}
				return 0, someErrors()[command[1]].err
			case "status":
				return strconv.Atoi(command[1])
			}
		}
		data, err := json.Marshal(v)
		fmt.Fprintf(c.Out, "%s\n", data)
		return 0, err
	}
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	info := func() session.Info {
		i := session.Info{ID: "20260301-120000-k3f9", Status: session.Ended,
			State: session.State{Version: 1, Name: "review", Command: []string{"claude", "a b"}, Created: made}}
		if head := os.Getenv("FAKE_HEAD"); head != "" {
			i.State.Exit = &session.Exit{Events: 9, Head: head}
		}
		if os.Getenv("FAKE_LIVE") != "" {
			i.Status = session.Live
		}
		return i
	}
	return App{
		Version: "1.2.3",
		Run: func(_ context.Context, o flow.Options, c flow.Caller) (int, error) {
			return answer(c, o.Command, o)
		},
		Exec: func(_ context.Context, name string, command, env []string, c flow.Caller) (int, error) {
			return answer(c, command, []any{name, command, env})
		},
		Sessions: func(flow.Caller) ([]session.Info, error) {
			live := session.Info{ID: "20260301-130000-aaaa", Status: session.Live, State: session.State{Command: []string{"bash"}, Created: made}}
			return []session.Info{info(), live}, nil
		},
		Policy: func(flow.Options, flow.Caller) (*policy.Effective, error) {
			at := plan.Origin{Layer: "user", File: "/home/ann/policy.jsonc", Line: 12, Key: "filesystem.denyRead"}
			return &policy.Effective{
				Paths:    []policy.PathRule{{Access: policy.DenyRead, Pattern: "/home/ann/.ssh", Text: "~/.ssh", Origin: at}},
				Env:      []policy.EnvRule{{Action: policy.EnvSet, Name: "TOKEN", Value: "not-shown", Origin: at}},
				Guards:   []policy.GuardRule{{Pattern: ".git/hooks/", Reason: "git runs it", Origin: plan.Origin{Layer: "built-in"}}},
				Limits:   []policy.LimitRule{{Name: "processes", Value: 512, Unit: "count", Origin: plan.Origin{Layer: "built-in"}}},
				Boundary: policy.Setting[string]{Value: "native", Origin: plan.Origin{Layer: "built-in"}},
				Warnings: []policy.Warning{{Text: "the project's policy is not trusted", Hint: "cofferdam policy trust", Origin: plan.Origin{File: "/p/cofferdam.jsonc"}}},
			}, nil
		},
		Explain: func(_ flow.Options, _ flow.Caller, kind, subject string) (flow.Explanation, error) {
			return flow.Explanation{Allowed: kind == "env", Text: "the most specific of 2", Rule: "denyRead ~/.ssh",
				Origin: plan.Origin{File: "policy.jsonc", Line: 12}, Change: "--allow-read " + subject}, nil
		},
		Check: func(file string, _ flow.Caller) error {
			if file == "good.jsonc" {
				return nil
			}
			return someErrors()["policy"].err
		},
		Schema: func() []byte { return []byte("{}\n") },
		Trust: func(_ flow.Options, _ flow.Caller, revoke bool) (string, error) {
			return fmt.Sprintf("revoke=%v", revoke), nil
		},
		Import: func(file string, _ flow.Caller) ([]byte, []flow.Finding, error) {
			return []byte("{\"boundary\": \"native\"}\n"), []flow.Finding{
				{Key: "hooks", Origin: plan.Origin{File: file, Line: 4}, Effect: "lost", Text: "hooks run where the agent runs"}}, nil
		},
		Doctor: func(context.Context, flow.Caller) (*host.Facts, error) {
			f := &host.Facts{OS: "linux", Arch: "amd64", Kernel: "6.8.0", UID: 1000, User: "ann", CPUs: 2, MemoryBytes: 4 << 30,
				Mechanisms: []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 5},
					{Name: host.UserNamespaces, Answer: host.No, Detail: "clone: operation not permitted", Remedy: "install the AppArmor profile"}}}
			if os.Getenv("FAKE_GOOD") != "" {
				f.Mechanisms = f.Mechanisms[:1]
				return f, nil
			}
			return f, someErrors()["refused"].err
		},
		Events: func(name string, _ flow.Caller) (*os.File, session.Info, error) {
			if name == "nosuch" {
				return nil, session.Info{}, someErrors()["nosuch"].err
			}
			f, err := os.Open(os.Getenv("FAKE_EVENTS"))
			return f, info(), err
		},
	}
}

func TestExitOf(t *testing.T) {
	seen := map[int]bool{0: true, 128: true}
	for name, x := range someErrors() {
		if got := exitOf(x.err); got != x.code {
			t.Errorf("%s: code %d, want %d", name, got, x.code)
		}
		if got := exitOf(fmt.Errorf("wrapped: %w", x.err)); got != x.code {
			t.Errorf("%s, wrapped: code %d, want %d", name, got, x.code)
		}
		seen[x.code] = true
		if m := describe(x.err); m.Text == "" || m.Name == "" {
			t.Errorf("%s: %+v", name, m)
		}
	}
	for _, e := range exitCodes {
		if !seen[e.code] {
			t.Errorf("no error of the test has code %d", e.code)
		}
	}
}

func TestExitCodesDocument(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Exit codes\n\n`cofferdam run` and `cofferdam exec` end with the status of the command. These\nare cofferdam's own; with `--json` such an error is one JSON object on standard\nerror, which tells it from a command that ended with the same number.\n\n| code | name | meaning |\n|-----:|------|---------|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", e.number(), e.name, e.meaning)
	}
	b.WriteString("\n<!-- made by go test ./internal/cli -run TestExitCodesDocument -update -->\n")
	const file = "../../docs/exit-codes.md"
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not current (%v); go test ./internal/cli -update", file, err)
	}
}

// Every command tells what it does, how, and how it ends; help goes for the
// whole tree, one command at a time as a start does.
func TestHelpOfEveryCommand(t *testing.T) {
	c := &call{app: fakeApp()}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		text := helpText(cmd)
		for _, part := range []string{"\nUsage:\n  cofferdam ", "\nExamples:\n  # ", "\nExit codes:\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: no %q in\n%s", cmd.CommandPath(), part, text)
			}
		}
		if cmd.Short == "" || strings.Contains(text, "--debug") {
			t.Errorf("%s: %s", cmd.CommandPath(), text)
		}
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) > 130 || strings.ContainsRune(line, '\t') {
				t.Errorf("%s: %q", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	for _, name := range commandNames() {
		root := c.tree(name)
		if len(root.Commands()) != 1 {
			t.Errorf("%s: %d commands are built for one", name, len(root.Commands()))
		}
		walk(root.Commands()[0])
	}
	if all := c.tree("").Commands(); len(all) != len(commands) {
		t.Errorf("%d commands", len(all))
	}
}

func TestNearest(t *testing.T) {
	names := append(commandNames(), "allow-read", "allow-root")
	for word, want := range map[string]string{"rnu": "run", "polcy": "policy", "log": "logs", "allow-raed": "allow-read", "claude": "", "x": "", "doc": "doctor"} {
		if got := nearest(word, names); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	if !slices.Contains(names, "run") {
		t.Fatal(names)
	}
}

// BenchmarkParse is what a start pays for its command line.
func BenchmarkParse(b *testing.B) {
	app := App{Run: func(context.Context, flow.Options, flow.Caller) (int, error) { return 0, nil }}
	for b.Loop() {
		if code := Main(b.Context(), app, []string{"run", "--env", "CI=1", "--", "true"}, nil, nil, nil, nil); code != 0 {
			b.Fatal(code)
		}
	}
}

// BenchmarkParseAll is what it would pay for all commands.
func BenchmarkParseAll(b *testing.B) {
	app := App{Run: func(context.Context, flow.Options, flow.Caller) (int, error) { return 0, nil }}
	for b.Loop() {
		c := &call{app: app}
		root := c.tree("")
		root.SetArgs([]string{"run", "--env", "CI=1", "--", "true"})
		if err := root.ExecuteContext(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
