package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

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
func Exec(ctx context.Context, name string, command []string, c Caller) (int, error) {
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
		return 0, &session.ControlError{ID: info.ID, Text: fmt.Sprintf("it is not running (%s)", info.Status)}
	}
	p, err := store.Entry(info)
	if err != nil {
		return 0, err
	}
	stand, err := placeholders(store, info, p)
	if err != nil {
		return 0, err
	}
	p.Environment = filledIn(p.Environment, stand)
	p.Command = command
	if p.Program, err = programInside(p, command[0], c); err != nil {
		return 0, err
	}
	files, err := store.Enter(info, command)
	if err != nil {
		return 0, err
	}
	streams := streamsOf(c, Options{})
	signals, stop := supervise.Subscribe(streams.Terminal)
	defer stop()
	running, err := native.Boundary{}.Enter(ctx, p, files, streams, func(listener *os.File) error {
		return store.Adopt(info, listener)
	})
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return 0, err
	}
	// What the kernel does not hold of the limits, the session's supervisor does.
	p.Limits = nil
	result, err := supervise.Run(ctx, running, p, streams, supervise.Options{Signals: signals})
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

// Plan makes the plan of a run and starts nothing.
func Plan(ctx context.Context, o Options, c Caller) (*plan.Plan, error) {
	p, err := prepare(ctx, o, c)
	if err != nil {
		return nil, err
	}
	return p.plan, nil
}

// Policy is the effective policy of a run with these options.
func Policy(_ context.Context, o Options, c Caller) (*policy.Effective, error) {
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
func Check(_ context.Context, file string, c Caller) error {
	if !filepath.IsAbs(file) {
		file = filepath.Join(c.Dir, file)
	}
	return unreadable(file, policyError(policy.CheckFile(file)))
}

// unreadable makes a problem of a file that is named on the command line and
// can't be read: that is no mistake of ours.
func unreadable(file string, err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err
	}
	return &PolicyError{Problems: []Problem{{File: file, Text: no.Error()}}}
}

// Schema is the JSON Schema of policy files.
func Schema() ([]byte, error) { return schema.Policy, nil }

// TrustFile accepts a project's policy as it is now, or with revoke forgets it.
func TrustFile(_ context.Context, file string, revoke bool, c Caller) (*Trusted, error) {
	ws := c.Dir
	if file != "" {
		if !filepath.IsAbs(file) {
			file = filepath.Join(c.Dir, file)
		}
		rest, ok := strings.CutSuffix(file, "/"+policy.ProjectFile)
		if !ok {
			return nil, &UsageError{Text: file + " is not a project's policy", Hint: "trust is for " + policy.ProjectFile + " in a workspace; your own files need none"}
		}
		ws = rest
	}
	ws, err := filepath.EvalSymlinks(ws)
	if err != nil {
		return nil, &UsageError{Text: err.Error(), Hint: "go to the workspace"}
	}
	state, err := stateDir(c.Environ)
	if err != nil {
		return nil, err
	}
	t := policy.TrustIn(state)
	out := &Trusted{Trusted: !revoke}
	if revoke {
		out.File, out.Changed, err = t.Remove(ws)
	} else {
		out.File, out.SHA256, out.Changed, err = t.Add(ws)
	}
	switch {
	case err == nil:
		return out, nil
	case !revoke && out.SHA256 == "": // the project's file was not read
		return nil, unreadable(out.File, policyError(err))
	}
	return nil, &session.Error{Op: "keep trust in", Path: state, Err: err}
}

// Import turns the settings of another tool into a policy of ours. format may be
// empty: the shape of the file tells.
func Import(_ context.Context, format, file string, c Caller) (*Imported, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(c.Dir, file)
	}
	doc, kind, findings, err := policy.ImportFile(file)
	if err != nil {
		return nil, unreadable(file, policyError(err))
	}
	if format != "" && format != kind {
		return nil, &UsageError{Text: fmt.Sprintf("%s has the shape of %s settings, not %s", file, kind, format)}
	}
	out := &Imported{Format: kind, Policy: doc}
	for _, f := range findings {
		if f.Effect == policy.Carried {
			continue // the document shows it
		}
		out.Warnings = append(out.Warnings, policy.Warning{
			Text:   string(f.Effect) + ": " + f.Key + ": " + f.Text,
			Origin: plan.Origin{Layer: "import:" + kind, File: file, Line: f.Line, Key: f.Key},
		})
	}
	return out, nil
}

// Doctor tries everything that a boundary needs on this machine, and says what a
// run with the default policy would miss.
func Doctor(ctx context.Context, c Caller) (*Diagnosis, error) {
	f := probe.Full(ctx, variable(c.Environ, "HOME"))
	if state, err := stateDir(c.Environ); err == nil && f.Mechanism(host.Overlay).Answer == host.Yes {
		// The layers of a copy lie there. (Without a directory there is nothing to try.)
		tryOverlay(ctx, state, &f, "/usr")
	}
	return &Diagnosis{Facts: &f, Gaps: compile.Gaps(&f)}, ctx.Err()
}

// Explain says which rule decides about a path, a variable or a host.
func Explain(ctx context.Context, o Options, c Caller, access, subject string) (*Explanation, error) {
	at, err := locate(o, c)
	if err != nil {
		return nil, err
	}
	eff, err := Policy(ctx, o, c)
	if err != nil {
		return nil, err
	}
	facts, err := gather(at, eff, c)
	if err != nil {
		return nil, err
	}
	if access == "connect" || access == "request" {
		state, err := stateDir(c.Environ)
		if err != nil {
			return nil, err
		}
		state = realDir(state)
		if askTools(ctx, eff, &facts, at.workspace, state, c.Environ); needsGateway(eff, &facts) {
			tryGateway(ctx, state, &facts)
		}
	}
	if access == "read" || access == "write" {
		if rest, ok := strings.CutPrefix(subject, "~/"); ok {
			subject = filepath.Join(facts.Home, rest)
		}
		if !filepath.IsAbs(subject) {
			subject = filepath.Join(at.dir, subject)
		}
		for name, fact := range probe.Paths([]string{subject}) {
			facts.Paths[name] = fact
		}
	}
	x, err := compile.Explain(eff, &facts, at.workspace, access, subject, c.Environ...)
	if err != nil {
		return nil, &UsageError{Text: err.Error()}
	}
	return &Explanation{Access: access, Subject: subject, Allowed: x.Allowed, Ask: x.Ask, Rule: x.Rule, Origin: x.Origin, Because: x.Text, Change: x.Change, Lost: x.Lost, Budgets: x.Budgets}, nil
}
