package flow

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/gateway/credential"
	"cofferdam/internal/host/lookup"
	"cofferdam/internal/plan"
	"cofferdam/internal/session"
)

// credentials gets the values of what is masked, once, before anything starts, and puts
// the placeholders into the plan that is started. The plan that is stored has neither.
func credentials(ctx context.Context, p *prepared, c Caller, started *plan.Plan) (*credential.Set, *plan.Plan, error) {
	if len(p.plan.Credentials) == 0 {
		return nil, started, nil
	}
	var specs []credential.Spec
	for _, m := range p.plan.Credentials {
		s := credential.Spec{Name: m.Name, Bodies: m.Bodies}
		for _, h := range m.Hosts {
			name, text, _ := strings.Cut(h, ":")
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return nil, nil, fmt.Errorf("plan: %q is not a host and port", h)
			}
			s.Hosts = append(s.Hosts, credential.Host{Name: name, Port: uint16(port)})
		}
		var err error
		if s.Source, err = sourceOf(p.plan, m, c); err != nil {
			return nil, nil, notHad(p, m.Rule, &credential.Unavailable{Name: m.Name, Err: err})
		}
		specs = append(specs, s)
	}
	set, err := credential.New(ctx, specs, rand.Reader)
	var no *credential.Unavailable
	if errors.As(err, &no) {
		rule := 0
		for _, m := range p.plan.Credentials {
			if m.Name == no.Name {
				rule = m.Rule
			}
		}
		return nil, nil, notHad(p, rule, no)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, v := range started.Environment {
		if v.Credential == 0 && set.Hide(v.Value) != v.Value {
			return nil, nil, &RefusedError{Boundary: p.plan.Boundary, Rules: p.plan.Rules, Gaps: []plan.Gap{{Required: true, Rule: v.Rule,
				Missing: "a " + v.Name + " without a secret", Because: "the value of a masked credential is in it, and a rule lets it in", Remedy: "mask or deny " + v.Name + ", too"}}}
		}
	}
	filled := *started
	filled.Environment = filledIn(started.Environment, set.Placeholders())
	filled.Mounts = slices.Clone(started.Mounts)
	for i, m := range filled.Mounts {
		if !m.Masked {
			continue
		}
		// Read once more, and searched again: it may have changed since.
		if filled.Mounts[i].Content, err = set.File(m.Target); err != nil {
			return nil, nil, notHad(p, m.Rule, &credential.Unavailable{Name: m.Target, Err: err})
		}
	}
	return set, &filled, nil
}

// filledIn are the variables with the placeholders of credentials 1, 2 ...
func filledIn(vars []plan.EnvVar, placeholders []string) []plan.EnvVar {
	out := slices.Clone(vars)
	for i, v := range out {
		if v.Credential > 0 && v.Credential <= len(placeholders) {
			out[i].Value = placeholders[v.Credential-1]
		}
	}
	return out
}

// placeholders of a live session, for a command that enters it.
func placeholders(store *session.Store, i session.Info, p *plan.Plan) ([]string, error) {
	if len(p.Credentials) == 0 {
		return nil, nil
	}
	var out []string
	err := store.Read(i, session.PlaceholdersFile, &out)
	return out, err
}

// notHad is the refusal of a run that would begin without a value.
func notHad(p *prepared, rule int, err *credential.Unavailable) error {
	return &RefusedError{Boundary: p.plan.Boundary, Rules: p.plan.Rules, Gaps: []plan.Gap{{Required: true, Rule: rule,
		Missing: "the value of " + err.Name, Because: err.Err.Error(), Remedy: "correct where it comes from, or take the rule out"}}}
}

// sourceOf makes the source of a credential of the plan.
func sourceOf(p *plan.Plan, m plan.Credential, c Caller) (credential.Source, error) {
	switch {
	case m.Variable != "":
		return credential.Fixed(variable(c.Environ, m.Variable)), nil
	case m.File != "":
		f := &credential.File{Path: m.File}
		if m.Extract != "" {
			var err error
			if f.Extract, err = regexp.Compile(m.Extract); err != nil {
				return nil, err
			}
		}
		return f, nil
	}
	write := writable(p)
	var lacks []string
	env := credential.Environment(c.Environ, write, func(list string) []string {
		kept := lookup.Path(list, write)
		for _, dir := range filepath.SplitList(list) {
			if filepath.IsAbs(dir) && !slices.Contains(kept, dir) && !slices.Contains(lacks, dir) {
				lacks = append(lacks, dir)
			}
		}
		return kept
	})
	program, err := findProgram(m.Command, Caller{Environ: env}, place{dir: "/"})
	var gone *boundary.ExecError
	switch {
	case errors.As(err, &gone):
		return nil, fmt.Errorf("command %s: not found in any directory on PATH of which no name leads to what the inside can write", gone.Program)
	case err != nil:
		return nil, err
	}
	// Whoever can write it, or what leads to it, would be given the value, and run on
	// the host besides.
	real, err := filepath.EvalSymlinks(program)
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		return nil, fmt.Errorf("command %s: %w", program, pe.Err)
	case err != nil:
		return nil, err
	case write(program) || write(real):
		return nil, fmt.Errorf("command %s: the inside can write there, so it is not run on your side", program)
	}
	if err := lookup.Interpreters(real, write); err != nil {
		return nil, fmt.Errorf("command %w, so it is not run on your side", err)
	}
	return &credential.Command{Argv: append([]string{real}, m.Command[1:]...), Env: env, TTL: time.Duration(m.TTL) * time.Millisecond, Lacks: lacks}, nil
}

// writable says of paths on the host whether the inside of a plan can write there, or
// to a directory above. What is read-only within something writable counts too.
func writable(p *plan.Plan) func(string) bool {
	var dirs []string
	for _, m := range p.Mounts {
		if !m.Write {
			continue
		}
		switch m.Kind {
		case plan.Bind:
			dirs = append(dirs, m.Source)
		case plan.Home:
			if m.Source != "" {
				dirs = append(dirs, m.Source)
			}
		}
	}
	dirs = append(dirs, p.Workspace)
	lies := func(path string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return within(path, d) })
	}
	return func(path string) bool {
		// A name elsewhere can be a symlink into it.
		return lies(filepath.Clean(path)) || lies(realDir(filepath.Clean(path)))
	}
}
