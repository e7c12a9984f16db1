package flow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cofferdam/internal/boundary/native"
	"cofferdam/internal/host"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
	"cofferdam/internal/supervise"
	"cofferdam/schema"
)

// Exec runs one more command in a live session: the same namespaces, the same
// locks, the session's environment and working directory.
func Exec(ctx context.Context, name string, command []string, env []string, c Caller) (int, error) {
	if len(command) == 0 {
		return 0, &UsageError{Text: "no command", Hint: "for example: cofferdam exec " + name + " -- bash"}
	}
	store, err := session.Open(c.Environ)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	info, err := store.Find(name)
	if err != nil {
		return 0, err
	}
	if info.Status != session.Live {
		return 0, &UsageError{Text: "session " + info.ID + " is not running", Hint: "cofferdam ps lists those that are"}
	}
	p, err := store.Plan(info)
	if err != nil {
		return 0, err
	}
	p.Command = command
	for _, kv := range env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			v = variable(c.Environ, k)
		}
		p.Environment = append(p.Environment, plan.EnvVar{Name: k, Value: v})
	}
	if p.Program, err = programInside(p, command[0], c); err != nil {
		return 0, err
	}
	files, err := store.Enter(info, command)
	if err != nil {
		return 0, err
	}
	streams := streamsOf(c, Options{})
	running, err := native.Boundary{}.Enter(ctx, p, files, streams, nil)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return 0, err
	}
	// Limits are the session's, held by its own supervisor.
	p.Limits = nil
	result, err := supervise.Run(ctx, running, p, streams, supervise.Options{})
	if err != nil {
		return 0, err
	}
	status, _ := result.Status()
	return status, nil
}

// programInside looks a command up on the PATH of the inside. Whether it is
// there is seen by execve; on the host the same directories have the same names.
func programInside(p *plan.Plan, name string, c Caller) (string, error) {
	if filepath.IsAbs(name) {
		return filepath.Clean(name), nil
	}
	if strings.ContainsRune(name, '/') {
		return filepath.Join(p.Dir, name), nil
	}
	var env []string
	for _, v := range p.Environment {
		env = append(env, v.Name+"="+v.Value)
	}
	return findProgram([]string{name}, Caller{Environ: env}, place{dir: p.Dir})
}

// Sessions lists all sessions, oldest first.
func Sessions(c Caller) ([]session.Info, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.List()
}

// Events opens the event stream of a session.
func Events(name string, c Caller) (*os.File, session.Info, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, session.Info{}, err
	}
	defer store.Close()
	info, err := store.Find(name)
	if err != nil {
		return nil, session.Info{}, err
	}
	f, err := store.Events(info)
	return f, info, err
}

// Policy is the effective policy of a run with these options.
func Policy(o Options, c Caller) (*policy.Effective, error) {
	at, err := locate(o, c)
	if err != nil {
		return nil, err
	}
	state, err := stateDir(c.Environ)
	if err != nil {
		return nil, err
	}
	return loadPolicy(o, c, at, state)
}

// Check reads one policy file and reports everything that is wrong with it.
func Check(file string, c Caller) error {
	if !filepath.IsAbs(file) {
		file = filepath.Join(c.Dir, file)
	}
	return policy.CheckFile(file)
}

// Schema is the JSON Schema of policy files.
func Schema() []byte { return schema.Policy }

// Trust accepts the project's policy as it is now, or forgets it.
func Trust(o Options, c Caller, revoke bool) (string, error) {
	at, err := locate(o, c)
	if err != nil {
		return "", err
	}
	state, err := stateDir(c.Environ)
	if err != nil {
		return "", err
	}
	t := policy.TrustIn(state)
	if revoke {
		path, err := t.Remove(at.workspace)
		return "not trusted any more: " + path, err
	}
	path, hash, err := t.Add(at.workspace)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("trusted as it is now: %s (sha256 %s)", path, hash), nil
}

// Import turns the settings of another tool into a policy of ours.
func Import(file string, c Caller) ([]byte, []policy.Finding, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(c.Dir, file)
	}
	return policy.ImportFile(file)
}

// Doctor tries everything that a boundary needs on this machine.
func Doctor(ctx context.Context, c Caller) (*host.Facts, error) {
	f := probe.Full(ctx, variable(c.Environ, "HOME"))
	return &f, ctx.Err()
}

// Explain says which rule decides about a path, a variable or a host.
func Explain(o Options, c Caller, kind, subject string) (compile.Explanation, error) {
	at, err := locate(o, c)
	if err != nil {
		return compile.Explanation{}, err
	}
	eff, err := Policy(o, c)
	if err != nil {
		return compile.Explanation{}, err
	}
	facts, err := gather(at, eff)
	if err != nil {
		return compile.Explanation{}, err
	}
	if kind == "read" || kind == "write" {
		if rest, ok := strings.CutPrefix(subject, "~/"); ok {
			subject = filepath.Join(facts.Home, rest)
		}
		subject = fromHere(subject, at.dir)
		for name, fact := range probe.Paths([]string{subject}) {
			facts.Paths[name] = fact
		}
	}
	return compile.Explain(eff, &facts, at.workspace, kind, subject)
}
