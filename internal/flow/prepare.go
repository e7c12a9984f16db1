package flow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/host"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace"
)

// prepared is a run that has been thought through and not begun.
type prepared struct {
	policy *policy.Effective
	facts  host.Facts
	plan   *plan.Plan
	source policy.Source // of policy
	state  string        // the product's directory for state
}

// prepare goes from what was asked to the plan. It changes nothing on the machine,
// but that it remembers a trial (tryOnce) and what tools have said (askTools), and reads
// no file that the policy does not name.
func prepare(ctx context.Context, o Options, c Caller) (*prepared, error) {
	p := &prepared{}
	var err error
	if p.state, err = stateDir(c.Environ); err != nil {
		return nil, err
	}
	place, err := locate(o, c)
	if err != nil {
		return nil, err
	}
	p.state = realDir(p.state)
	if err := placeForbidden(place, p.state); err != nil {
		return nil, err
	}
	if p.source, err = policySource(o, c, place, p.state); err != nil {
		return nil, err
	}
	if p.policy, err = loadFrom(p.source, p.state); err != nil {
		return nil, err
	}
	if p.facts, err = gather(place, p.policy, c); err != nil {
		return nil, err
	}
	if needsGroup(p.policy, p.facts.UID) {
		probe.Try(ctx, &p.facts, host.CgroupV2, host.CgroupV1)
	}
	askTools(ctx, p.policy, &p.facts, place.workspace, p.state, c.Environ)
	if needsGateway(p.policy, &p.facts) {
		tryGateway(ctx, p.state, &p.facts)
	}
	lookForCopy(ctx, p.policy, &p.facts, place.workspace, p.state)
	program, err := findProgram(o.Command, c, place)
	if err != nil {
		return nil, err
	}
	for name, fact := range probe.Paths([]string{program}) {
		p.facts.Paths[name] = fact
	}
	home := ""
	if p.policy.Home.Value == "private" {
		home = privateHome(p.state, place.workspace)
	}
	p.plan, err = compile.Plan(compile.Input{
		Policy: p.policy, Facts: &p.facts,
		Command: o.Command, Program: program, Dir: place.dir, Workspace: place.workspace,
		Environ: c.Environ, PrivateHome: home, Unattended: o.Unattended,
	})
	var ce *compile.Error
	if errors.As(err, &ce) {
		// No rule helps to what is not there. (Only now: in the private home
		// there may be what the host does not have.)
		if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(ce.Text, program+" ") {
			return nil, &boundary.ExecError{Program: program, Errno: syscall.ENOENT}
		}
		return nil, &ForbiddenError{Text: ce.Text, Rule: ce.Rule, Origin: ce.Origin, Hint: ce.Hint}
	}
	return p, err
}

// needsGroup says whether the policy has a ceiling that only a control group holds
// exactly; what does without is spared the trial.
func needsGroup(eff *policy.Effective, uid int) bool {
	return slices.ContainsFunc(eff.Limits, func(l policy.LimitRule) bool {
		return l.Name == "memory" || l.Name == "cpus" || l.Name == "processes" && uid == 0
	})
}

// place is where a run happens.
type place struct {
	workspace string // real
	dir       string // real, in workspace
	facts     host.Facts
	login     string // home of the system's user list; facts.Home is what "~" is
}

// locate finds the workspace: the directory that was named, or the working
// directory. A name that is a symlink is refused rather than followed: the
// person should see which directory is opened to the inside.
func locate(o Options, c Caller) (place, error) {
	p := place{facts: probe.Quick(variable(c.Environ, "HOME"))}
	p.login = p.facts.Home
	p.facts.Home = realHome(p.facts, variable(c.Environ, "HOME"))
	dir, err := os.Getwd()
	if err != nil {
		return p, &UsageError{Text: "the working directory is gone: " + err.Error(), Hint: "go to a directory that exists"}
	}
	// $PWD may show the way through a symlink; the kernel's answer does not.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return p, &UsageError{Text: "the working directory: " + err.Error(), Hint: "go to a directory that exists"}
	}
	p.dir, p.workspace = dir, dir
	if o.Workspace == "" {
		return p, nil
	}
	ws := o.Workspace
	if !filepath.IsAbs(ws) {
		ws = filepath.Join(dir, ws)
	}
	ws = filepath.Clean(ws)
	st, err := os.Lstat(ws)
	if err != nil {
		return p, &UsageError{Text: fmt.Sprintf("the workspace %q: %v", o.Workspace, errors.Unwrap(err)), Hint: "name a directory that exists"}
	}
	real, err := filepath.EvalSymlinks(ws)
	if err != nil {
		return p, &UsageError{Text: fmt.Sprintf("the workspace %q: %v", o.Workspace, err)}
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return p, &UsageError{Text: fmt.Sprintf("the workspace %q is a symlink", o.Workspace), Hint: "name the directory itself: --workspace " + real}
	}
	if !st.IsDir() {
		return p, &UsageError{Text: fmt.Sprintf("the workspace %q is not a directory", o.Workspace), Hint: "name a directory that exists"}
	}
	p.workspace = real
	if dir != real && !strings.HasPrefix(dir, real+"/") {
		p.dir = real
	}
	return p, nil
}

// placeForbidden refuses workspaces that no policy can make safe, before
// anything looks through them: a walk through "/" takes minutes.
func placeForbidden(p place, state string) error {
	switch {
	case p.workspace == "/":
		return &ForbiddenError{Text: "the workspace is the whole file system (/)", Hint: "go to a project, or name one with --workspace"}
	case within(p.facts.Home, p.workspace) || within(p.login, p.workspace):
		return &ForbiddenError{Text: fmt.Sprintf("the workspace %s is or holds your home directory", p.workspace), Hint: "go to a project, or name one with --workspace"}
	}
	// Who can write there can forge sessions, trust and other projects' homes.
	if within(p.workspace, state) || within(state, p.workspace) {
		return &ForbiddenError{Text: fmt.Sprintf("the workspace %s and the state directory %s are not apart", p.workspace, state),
			Hint: "work in another directory, or set XDG_STATE_HOME to one outside of the workspace"}
	}
	return nil
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// realHome is the home that "~" stands for: HOME, if it is a directory of the
// person's own, as for every program, else what the system's user list says. Where
// these are two, both are closed (policy.Place.Login).
func realHome(f host.Facts, env string) string {
	if filepath.IsAbs(env) {
		if real, err := filepath.EvalSymlinks(env); err == nil && real != "/" {
			if st, err := os.Stat(real); err == nil && st.IsDir() {
				if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) == f.UID {
					return real
				}
			}
		}
	}
	return f.Home
}

// loadPolicy reads all layers.
func loadPolicy(o Options, c Caller, p place, state string) (*policy.Effective, error) {
	src, err := policySource(o, c, p, state)
	if err != nil {
		return nil, err
	}
	return loadFrom(src, state)
}

// policySource says where the layers come from.
func policySource(o Options, c Caller, p place, state string) (policy.Source, error) {
	flags, err := flagDocument(o, p)
	if err != nil {
		return policy.Source{}, err
	}
	src := policy.Source{
		Place:      policy.Place{Home: p.facts.Home, Workspace: p.workspace, Login: p.login},
		Managed:    policy.ManagedFile,
		UserFile:   userPolicy(c.Environ, p.facts.Home),
		Trusted:    policy.TrustIn(state).Trusted,
		Profiles:   o.Profiles,
		Flags:      flags,
		Unattended: o.Unattended,
		Tools:      toolsOn(variable(c.Environ, "PATH")),
	}
	if len(o.Command) > 0 {
		src.Command = o.Command[0]
	}
	if o.PolicyFile != "" {
		src.File = o.PolicyFile
		if !filepath.IsAbs(src.File) {
			src.File = filepath.Join(c.Dir, src.File)
		}
	}
	return src, nil
}

func loadFrom(src policy.Source, state string) (*policy.Effective, error) {
	eff, err := policy.Load(src)
	if err != nil {
		return eff, policyError(err)
	}
	// Who can write there decides what is trusted, and who can connect to a
	// session's socket there speaks to its supervisor. No rule opens it.
	eff.Paths = append(eff.Paths, policy.PathRule{
		Access: policy.DenyRead, Pattern: realDir(state), Text: state, Reason: "cofferdam's own records", Optional: true,
		Origin: plan.Origin{Layer: compile.Own, Key: "state directory"},
	})
	return eff, nil
}

// realDir resolves the symlinks of a directory that may not be there yet.
func realDir(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	if up := filepath.Dir(dir); up != dir {
		return filepath.Join(realDir(up), filepath.Base(dir))
	}
	return dir
}

// policyError puts what is wrong with a policy into the words of this package.
func policyError(err error) error {
	var ps policy.Problems
	if !errors.As(err, &ps) {
		return err
	}
	e := &PolicyError{}
	for _, p := range ps {
		e.Problems = append(e.Problems, Problem(p))
	}
	return e
}

func userPolicy(env []string, home string) string {
	dir := variable(env, "XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "cofferdam", "policy.jsonc")
}

// toolsOn lists which of the programs with a profile are on PATH.
func toolsOn(path string) []string {
	var out []string
	dirs := filepath.SplitList(path)
	for _, tool := range policy.Tools() {
		for _, dir := range dirs {
			if filepath.IsAbs(dir) && syscall.Access(dir+"/"+tool, 1 /* X_OK */) == nil {
				out = append(out, tool)
				break
			}
		}
	}
	return out
}

// gather looks at what the policy names, and at nothing else.
func gather(p place, eff *policy.Effective, c Caller) (host.Facts, error) {
	f := p.facts
	var literal, patterns []string
	for _, r := range eff.Paths {
		if r.Glob {
			patterns = append(patterns, r.Pattern)
			continue
		}
		literal = append(literal, r.Pattern)
		if r.Pattern == "/" && len(f.RootEntries) == 0 {
			entries, err := os.ReadDir("/")
			if err != nil {
				return f, fmt.Errorf("list /: %w", err)
			}
			for _, e := range entries {
				f.RootEntries = append(f.RootEntries, e.Name())
				literal = append(literal, "/"+e.Name())
			}
		}
	}
	literal = append(literal, compile.ResolverFiles...)
	for _, r := range eff.ExtraRoots {
		literal = append(literal, r.Pattern)
	}
	if needsGateway(eff, &f) || len(eff.Asked) > 0 { // their registries are allowed later
		literal = slices.Concat(literal, compile.RootFiles, compile.JavaRootFiles, javaRoots(c))
	}
	for _, g := range eff.Guards {
		patterns = append(patterns, g.Pattern)
	}
	f.Paths = probe.Paths(literal)
	// What a symlink leads to is a subject too, whether or not it is there.
	var more []string
	for _, fact := range f.Paths {
		for _, p := range []string{fact.Real, fact.At} {
			if _, ok := f.Paths[p]; !ok && p != "" {
				more = append(more, p)
			}
		}
	}
	for name, fact := range probe.Paths(more) {
		f.Paths[name] = fact
	}
	list := make([]workspace.Pattern, len(patterns))
	for i, text := range patterns {
		list[i] = workspace.Pattern{Text: text}
	}
	scan, err := workspace.Scan(p.workspace, list, workspace.Limits{})
	if errors.Is(err, fs.ErrNotExist) {
		return f, &UsageError{Text: fmt.Sprintf("the workspace %q has gone", p.workspace), Hint: "go to a directory that exists"}
	}
	if err != nil {
		return f, tooMany(err, eff)
	}
	f.Found = scan.FoundIn(p.workspace, list)
	followLinks(&f, p.workspace, eff)
	followGitConfig(&f, p.workspace, eff)
	closeBlind(&f, p.workspace, scan.Blind, eff)
	return f, searchOutside(&f, p.workspace, eff)
}

// maxOutside bounds the search of one directory outside of the workspace, in entries:
// about a second.
const maxOutside = 1 << 20

// searchOutside looks for what denials by a pattern match in what other rules open. A
// directory that could not be searched is left to the plan, which refuses it.
func searchOutside(f *host.Facts, ws string, eff *policy.Effective) error {
	roots := compile.ToSearch(eff.Paths, ws, f.Paths)
	if len(roots) == 0 {
		return nil
	}
	var list []workspace.Pattern
	for _, r := range eff.Paths {
		if r.Glob && (r.Access == policy.DenyRead || r.Access == policy.DenyWrite) {
			list = append(list, workspace.Pattern{Text: r.Pattern})
		}
	}
	known := map[host.Found]bool{} // the workspace may lie in one of them
	for _, m := range f.Found {
		known[m] = true
	}
	for _, root := range roots {
		scan, err := workspace.Scan(root, list, workspace.Limits{Entries: maxOutside})
		var many *workspace.TooManyError
		switch {
		case errors.As(err, &many):
			return tooMany(err, eff)
		case err != nil:
			continue
		}
		for _, m := range scan.FoundIn(root, list) {
			if !known[m] {
				f.Found = append(f.Found, m)
			}
		}
		closeBlind(f, root, scan.Blind, eff)
		f.Searched = append(f.Searched, root)
	}
	return nil
}

// closeBlind denies what could not be looked at, so that nobody inside looks either:
// its owner could open it with chmod(1).
func closeBlind(f *host.Facts, root string, blind []workspace.Blind, eff *policy.Effective) {
	for _, b := range blind {
		full := filepath.Join(root, string(b.Path))
		if _, known := f.Paths[full]; known && slices.ContainsFunc(eff.Paths, func(r policy.PathRule) bool { return r.Pattern == full && r.Access == policy.DenyRead }) {
			continue
		}
		f.Paths[full] = host.Path{Kind: host.KindDir, Real: full, RealKind: host.KindDir, UID: f.UID}
		eff.Paths = append(eff.Paths, policy.PathRule{
			Access: policy.DenyRead, Pattern: full, Text: string(b.Path), Reason: "could not be searched for secrets: " + b.Err,
			Origin: plan.Origin{Layer: "built-in", Key: "directories that can't be searched"},
		})
	}
}

// tooMany puts the limit of a search into the words of the rule that reaches it.
func tooMany(err error, eff *policy.Effective) error {
	var many *workspace.TooManyError
	if !errors.As(err, &many) {
		return err
	}
	e := &ForbiddenError{Text: many.Error(), Hint: "name the directory instead of everything in it"}
	for _, r := range eff.Paths {
		if r.Pattern == many.Pattern {
			e.Rule, e.Origin = string(r.Access)+" "+r.Text, r.Origin
		}
	}
	return e
}

// followLinks adds what a found symlink leads to in the workspace: a secret under
// another name is the same secret, a hook elsewhere is the same hook. Only what lies
// below the workspace: more is not the inside's to read, and less would let a link
// that an earlier run has made take the whole workspace away. And only what makes
// stricter: an example that is a link to a secret must not open it.
func followLinks(f *host.Facts, workspace string, eff *policy.Effective) {
	opens := map[string]bool{}
	for _, r := range eff.Paths {
		if r.Access == policy.AllowRead || r.Access == policy.AllowWrite {
			opens[r.Pattern] = true
		}
	}
	for _, m := range f.Found {
		if m.Kind != host.KindSymlink || opens[m.Pattern] {
			continue
		}
		fact := probe.Paths([]string{m.Path})[m.Path]
		if within(fact.Real, workspace) && !within(m.Path, fact.Real) && (fact.RealKind == host.KindFile || fact.RealKind == host.KindDir) {
			f.Found = append(f.Found, host.Found{Path: fact.Real, Kind: fact.RealKind, Pattern: m.Pattern})
		}
	}
}

// findProgram looks the command up the way a shell does.
func findProgram(command []string, c Caller, p place) (string, error) {
	if len(command) == 0 {
		return "", &UsageError{Text: "no command", Hint: "for example: cofferdam run -- bash"}
	}
	name := command[0]
	for _, arg := range command {
		if strings.IndexByte(arg, 0) >= 0 {
			return "", &UsageError{Text: "a NUL character in the command"}
		}
	}
	if strings.ContainsRune(name, '/') {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.dir, name)
		}
		return filepath.Clean(name), nil
	}
	missing := &boundary.ExecError{Program: name, Errno: syscall.ENOENT}
	for _, dir := range filepath.SplitList(variable(c.Environ, "PATH")) {
		if !filepath.IsAbs(dir) {
			continue // never a program of the directory one happens to be in
		}
		full := filepath.Join(dir, name)
		st, err := os.Stat(full)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		if st.Mode()&0o111 != 0 {
			return full, nil
		}
		if missing.Errno == syscall.ENOENT {
			missing = &boundary.ExecError{Program: full, Errno: syscall.EACCES}
		}
	}
	return "", missing
}

// stateDir is where sessions, private homes and trust are kept.
func stateDir(env []string) (string, error) {
	dir, err := session.Dir(env)
	return filepath.Dir(dir), err
}

// privateHome is the directory that is the home inside for this workspace.
func privateHome(state, workspace string) string {
	sum := sha256.Sum256([]byte(workspace))
	return filepath.Join(state, "homes", hex.EncodeToString(sum[:8]))
}

// variable is the last value of a variable.
func variable(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}
