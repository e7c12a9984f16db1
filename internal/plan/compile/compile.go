// Package compile makes the Plan out of Policy and Facts. It is pure: the same
// policy and the same facts give the same plan, byte for byte, and nothing is
// looked up on the machine.
//
// The file tree is an allow-list in an empty root. Each path that a rule names is
// a subject; the subjects, sorted, are walked from the root down, and wherever the
// access of a subject differs from that of the mount it lies on, a mount says so:
//
//	              on nothing      on read-only     on read-write
//	no access     -  (or mask)    mask             mask
//	read          bind ro         -                protect (and pin its parents)
//	read, write   bind rw         bind rw          -
package compile

import (
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// Input is what one run asks for.
type Input struct {
	Policy *policy.Effective
	Facts  *host.Facts

	Command   []string
	Program   string // absolute path of the executable, found by the caller
	Dir       string // working directory, real
	Workspace string // real
	Environ   []string
	// PrivateHome is the host directory that shall be the home inside; ""
	// with an ephemeral one.
	PrivateHome string
	Unattended  bool
}

// Error is a run that makes no sense under this policy: the command can't be
// read, the workspace is no place to work in. Text, the rule, and what to do.
type Error struct {
	Text   string
	Rule   string // text of the rule that is in the way, "" for a fixed one
	Origin plan.Origin
	Hint   string
}

func (e *Error) Error() string { return e.Text }

// Plan compiles. An *Error says what the person has to change; a plan with
// required gaps must not be started.
func Plan(in Input) (*plan.Plan, error) {
	c := &compiler{in: in, p: &plan.Plan{
		Version:     1,
		Boundary:    in.Policy.Boundary.Value,
		Command:     in.Command,
		Program:     in.Program,
		Dir:         in.Dir,
		Workspace:   in.Workspace,
		PrivateHome: in.PrivateHome,
		Profiles:    in.Policy.Profiles,
		Unattended:  in.Unattended,
		Network:     plan.Network{Mode: "loopback"},
		Identity: plan.Identity{
			UID: in.Facts.UID, GID: in.Facts.GID, User: in.Facts.User,
			Home: in.Facts.Home, Hostname: "cofferdam",
		},
	}}
	if err := c.workspace(); err != nil {
		return nil, err
	}
	c.mechanisms()
	c.known()
	c.rules()
	c.credentials() // first: a file with a secret is mounted otherwise
	c.tree()
	c.guards()
	c.copying()
	c.network() // first: the environment says where its proxies are
	c.extraRoots()
	c.resolver()
	c.environment()
	c.trust() // after it: it knows what programs were told to trust
	c.limits()
	if err := c.program(); err != nil {
		return nil, err
	}
	return c.p, nil
}

type compiler struct {
	in Input
	p  *plan.Plan

	paths   []pathRule
	index   map[string][]int // by pattern, into paths
	watched []watched
	pins    []pin
	roots   []string          // what a rule for "/" opens: subjects, not rules
	found   map[string]string // what the patterns matched, and of which kind
	// examples are named like secrets and are none: policy.ExamplesLayer.
	examples map[string]bool
	mounted  map[string]int // target -> index in p.Mounts
	patterns []patternRule  // nil until match wants them
	// meant are the budgets as they are meant, whatever the machine can do.
	meant []plan.Budget
}

// pathRule is a policy.PathRule whose pattern is a real path: a symlink is
// resolved, a glob is replaced by each thing it matches.
type pathRule struct {
	policy.PathRule
	id int
}

// watched is a rule against writing for names that need not be there yet.
type watched struct {
	rule    pathRule // Pattern is absolute
	pattern string   // for plan.Guard
}

// pin is a directory, or a symlink on the way of a rule, whose name must stay.
type pin struct {
	path string
	rule int
}

// workspace refuses what is no place to work in.
func (c *compiler) workspace() error {
	ws, home := c.in.Workspace, c.in.Facts.Home
	bad := func(why string) error {
		return &Error{
			Text: fmt.Sprintf("%s can't be the workspace: %s", ws, why),
			Hint: "go to the project's directory, or name it with --workspace DIR",
		}
	}
	switch {
	case ws == "/":
		return bad("it is the whole machine")
	case ws == home:
		return bad("it is your home directory, with all your keys and settings in it")
	case strings.HasPrefix(home, ws+"/"):
		return bad("your home directory lies in it")
	}
	for _, sys := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var", "/tmp", "/home", "/root", "/opt", "/var/tmp", "/dev/shm"} {
		if ws == sys || (strings.HasPrefix(ws, sys+"/") && (sys == "/proc" || sys == "/sys" || sys == "/dev" && !strings.HasPrefix(ws, "/dev/shm/"))) {
			return bad("it is a directory of the system")
		}
	}
	if ws != c.in.Dir && !strings.HasPrefix(c.in.Dir, ws+"/") {
		return bad(c.in.Dir + ", where the command shall start, is not in it")
	}
	return nil
}

// Gaps is what a run with the built-in policy would miss on this machine.
func Gaps(f *host.Facts) []plan.Gap {
	c := &compiler{in: Input{Facts: f, Policy: &policy.Effective{}}, p: &plan.Plan{Boundary: "native"}}
	c.mechanisms()
	return c.p.Gaps
}

// mechanisms turns what the machine can't do into gaps. Whatever could not be
// told is tried by the boundary itself, which fails closed.
func (c *compiler) mechanisms() {
	f := c.in.Facts
	require := func(name, what string) {
		if m := f.Mechanism(name); m.Answer == host.No {
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: what, Because: m.Detail, Remedy: m.Remedy})
		}
	}
	require(host.UserNamespaces, "user namespaces")
	require(host.MountAPI, "the mount API of Linux 5.12 (open_tree, mount_setattr, openat2)")
	require(host.ProcMount, "a fresh /proc")
	require(host.NetNamespace, "network namespaces")
	require(host.Seccomp, "seccomp filters")
	require(host.Landlock, "Landlock")
	if m := f.Mechanism(host.Landlock); m.Answer == host.Yes {
		c.p.Landlock = m.Level
		if m.Level < 2 {
			c.p.Gaps = append(c.p.Gaps, plan.Gap{
				Required: true, Missing: "Landlock ABI 2 (Linux 5.19)",
				Because: fmt.Sprintf("this kernel has ABI %d", m.Level), Remedy: "use a newer kernel",
			})
		}
	} else if m.Answer == host.Unknown {
		c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "Landlock", Because: "could not tell: " + m.Detail, Remedy: m.Remedy})
	}
	c.p.FuseMasks = f.Mechanism(host.Fuse).Answer == host.Yes
	c.p.SeccompNotify = f.Mechanism(host.SeccompNotify).Answer == host.Yes
	if c.p.Boundary != "native" {
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Missing: "the boundary " + c.p.Boundary,
			Because: "this version has the native boundary only", Remedy: "use --boundary native",
		})
	}
	if f.UID == 0 && !c.in.Policy.AllowRoot.Value {
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Missing: "an unprivileged user",
			Because: "you are root: a process inside could still read what only root may read, such as keys below /etc",
			Remedy:  "run as a normal user; or accept the loss with --allow-root (identity.allowRoot in a policy)",
		})
	}
}

// known refuses what a policy may come to say and nothing here carries out.
func (c *compiler) known() {
	refuse := func(what string, in ...string) {
		if !slices.Contains(in[1:], in[0]) {
			c.p.Gaps = append(c.p.Gaps, plan.Gap{
				Required: true, Missing: fmt.Sprintf("%s %q", what, in[0]),
				Because: "this version does not know it", Remedy: "take it out of the policy",
			})
		}
	}
	e := c.in.Policy
	refuse("workspace.mode", e.WorkspaceMode.Value, "live", "copy")
	refuse("network.unlisted", e.Unlisted.Value, policy.Deny, policy.Ask)
	refuse("workspace.home", e.Home.Value, "private", "ephemeral")
	for _, r := range e.Paths {
		refuse("the path rule", string(r.Access), string(policy.AllowRead), string(policy.AllowWrite), string(policy.DenyRead), string(policy.DenyWrite), string(policy.Mask))
	}
	for _, r := range e.Env {
		refuse("the rule for a variable", string(r.Action), string(policy.EnvAllow), string(policy.EnvDeny), string(policy.EnvSet), string(policy.EnvMask))
	}
	for _, r := range e.Net {
		refuse("the network rule", r.Key, "allowedDomains", "deniedDomains", "allowedCIDRs", "tunnelDomains", "rules")
		if r.Key == "rules" {
			refuse("the effect of a network rule", r.Effect, policy.Allow, policy.Deny, policy.Ask)
			refuse("tls of a network rule", r.TLS, "", "inspect", "tunnel")
		}
	}
}

// rule records an effective rule and returns its ID.
func (c *compiler) rule(text string, o plan.Origin, s plan.Status, mechanism, note string) int {
	id := len(c.p.Rules) + 1
	c.p.Rules = append(c.p.Rules, plan.RuleStatus{ID: id, Text: text, Origin: o, Status: s, Mechanism: mechanism, Note: note})
	return id
}

// rules resolves the path rules against the facts.
func (c *compiler) rules() {
	f := c.in.Facts
	matches := map[string][]string{}
	c.found = make(map[string]string, len(f.Found))
	// Most rules are one path, and one line of the report.
	n := len(c.in.Policy.Paths) + len(c.in.Policy.Guards)
	c.paths, c.index = slices.Grow(c.paths, n+n/4), make(map[string][]int, n)
	c.p.Rules = slices.Grow(c.p.Rules, n+n/2)
	for _, m := range f.Found {
		c.found[m.Path] = m.Kind
		matches[m.Pattern] = append(matches[m.Pattern], m.Path)
	}
	add := func(r policy.PathRule, id int, glob bool, at ...string) {
		for _, p := range at {
			rr := r
			rr.Pattern, rr.Glob = p, glob
			c.add(pathRule{rr, id})
		}
	}
	for _, r := range c.in.Policy.Paths {
		id := c.rule(string(r.Access)+" "+r.Text, r.Origin, plan.Enforced, "mount", "")
		st := &c.p.Rules[id-1]
		deny := r.Access == policy.DenyRead || r.Access == policy.DenyWrite
		switch {
		case r.Glob:
			add(r, id, true, matches[r.Pattern]...)
			st.Note = fmt.Sprintf("%d found at the start", len(matches[r.Pattern]))
		case r.Pattern == "/":
			add(r, id, false, "/")
			for _, name := range f.RootEntries {
				if !deny && !slices.Contains(ownRoots, name) {
					c.roots = append(c.roots, "/"+name)
				}
			}
		default:
			fact, known := f.Paths[r.Pattern]
			if !known {
				fact.Kind = host.KindUnknown
			}
			add(r, id, false, r.Pattern)
			led := fact.Real != "" && fact.Real != r.Pattern
			planted := led && !deny && c.plantable(r.Pattern, fact.Real)
			if led && !planted {
				add(r, id, false, fact.Real)
			}
			if deny && fact.At != "" && fact.At != r.Pattern {
				add(r, id, false, fact.At)
			}
			if r.Access == policy.DenyWrite {
				// With a link on the way replaced the name would stand for
				// something else, which nobody protects.
				for _, link := range fact.Links {
					c.pins = append(c.pins, pin{link, id})
				}
			}
			switch {
			case planted:
				st.Note = "it is a symlink that the inside may have made, and leads to " + fact.Real + "; name that, if it is what you want"
				st.Status = plan.Impossible
			case fact.Kind == host.KindAbsent && !deny:
				st.Note = "nothing is there"
			case fact.Kind == host.KindUnknown && !deny:
				st.Note, st.Status = "could not be looked at, so it is not there inside", plan.Impossible
			}
		}
	}
	// A guard is a rule against writing, for each thing it has found.
	for _, g := range c.in.Policy.Guards {
		if c.copies() {
			c.rule("protect "+g.Pattern, g.Origin, plan.Enforced, "copy", inCopyOnly)
			continue
		}
		id := c.rule("protect "+g.Pattern, g.Origin, plan.Coarse, "mount",
			"what exists is read-only; what appears is noticed, and set aside before the run ends")
		r := policy.PathRule{Access: policy.DenyWrite, Text: g.Pattern, Reason: g.Reason, Origin: g.Origin, Strength: g.Strength}
		for _, m := range matches[g.Pattern] {
			if path.Base(m) == ".git" && c.found[m] == host.KindDir {
				// Git must write in its own directory; what in it others
				// obey has rules of its own. The name must stay, though.
				c.pins = append(c.pins, pin{m, id})
				continue
			}
			add(r, id, true, m)
		}
	}
	for i, r := range c.in.Policy.Paths {
		c.settle(pathRule{r, i + 1})
	}
}

// settle says of a rule what the mounts alone don't do: all rules are known now.
func (c *compiler) settle(r pathRule) {
	switch {
	case r.Glob:
		c.settlePattern(r)
	case r.Pattern == "/":
	case c.own(r.Pattern):
		c.settleOwn(r)
	case denies(&r) && c.in.Facts.Paths[r.Pattern].RealKind == host.KindAbsent:
		c.settleAbsent(r)
	}
}

const setAside = "what appears is noticed, and set aside before the run ends"

// settleAbsent: a denial of what is not there.
func (c *compiler) settleAbsent(r pathRule) {
	st := &c.p.Rules[r.id-1]
	if at := c.in.Facts.Paths[r.Pattern].At; at != "" {
		r.Pattern = at
	}
	around := c.decide(path.Dir(r.Pattern))
	rel, inside := strings.CutPrefix(r.Pattern, c.in.Workspace+"/")
	switch {
	case r.Access == policy.DenyWrite && !around.write, !around.read:
		st.Note = "nothing is there, and nothing can be made there"
	case r.Access == policy.DenyRead:
		st.Status, st.Note = plan.Coarse, "nothing is there now; what appears later is not hidden, whoever makes it"
	case inside && c.copies():
		c.watch(r, glob.Escape(rel), true)
		st.Mechanism, st.Note = "copy", "nothing is there now; what appears is "+inCopyOnly
	case inside:
		c.watch(r, glob.Escape(rel), true)
		st.Status, st.Mechanism, st.Note = plan.Coarse, "watch", "nothing is there now; "+setAside
	default:
		st.Status, st.Note = plan.Coarse, "nothing is there now, and outside the workspace nobody watches for what appears"
	}
}

// watch makes guards of a rule against writing. A guard with a slash at the end is
// for a directory with all below it and comes first: the first that matches counts.
func (c *compiler) watch(r pathRule, pattern string, directory bool) {
	if directory {
		c.watched = append(c.watched, watched{r, pattern + "/"})
	}
	c.watched = append(c.watched, watched{r, pattern})
}

// settlePattern: a pattern is looked for in the workspace only, and before the start.
func (c *compiler) settlePattern(r pathRule) {
	st := &c.p.Rules[r.id-1]
	ws := glob.Escape(c.in.Workspace)
	rel, inside := strings.CutPrefix(r.Pattern, ws+"/")
	switch {
	case !denies(&r) && !inside:
		st.Status, st.Note = plan.Impossible, "a pattern is looked for in the workspace only"
	case !denies(&r):
	case r.Access == policy.DenyRead:
		st.Status = plan.Coarse
		st.Note += "; a name that appears later is not covered, whoever makes it"
	default:
		if !inside {
			rel = r.Pattern
		}
		if c.copies() && inside {
			st.Note += "; what appears is " + inCopyOnly
		} else {
			st.Status = plan.Coarse
			st.Note += "; " + setAside
		}
		// A guard for a directory remembers all that is in it, which is too much
		// for one like node_modules; what is there is read-only anyway.
		there := slices.ContainsFunc(c.in.Facts.Found, func(m host.Found) bool { return m.Pattern == r.Pattern && m.Kind == host.KindDir })
		if c.watch(r, rel, !there); there {
			st.Note += ", but for a directory"
		}
	}
	if denies(&r) && !inside {
		c.beyond(r)
	}
}

// beyond deals with a denial by a pattern that reaches out of the workspace. It holds
// for what rules open by name. In a directory that is open it holds for what was found
// there; where nobody could look there may be more of it, and that is a gap.
func (c *compiler) beyond(r pathRule) {
	pattern, err := glob.Compile(r.Pattern)
	if err != nil {
		return
	}
	for _, open := range slices.Clone(c.paths) {
		p := open.Pattern
		if denies(&open) || p == "/" || covers(c.in.Workspace, p) {
			continue
		}
		if _, deepest, ok := pattern.Depths(p); ok {
			at := r
			at.Pattern = "/" + strings.Join(glob.Split(p)[:deepest], "/")
			c.add(at)
			continue
		}
		a := c.decide(p)
		if !a.read || r.Access == policy.DenyWrite && !a.write || !mayHold(r.Pattern, p, c.in.Facts.Paths[p]) || c.searched(p) {
			continue
		}
		st := &c.p.Rules[r.id-1]
		st.Status, st.Note = plan.Impossible, "nobody has looked for it everywhere"
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Rule: r.id, Missing: string(r.Access) + " " + r.Text,
			Because: "what matches could not be looked for in " + p + ", which " + string(open.Access) + " " + open.Text + " opens: it is a symlink, too large, or can't be read in part",
			Remedy:  "name the paths themselves instead of a pattern, or begin the pattern with ./",
		})
		return
	}
}

func (c *compiler) searched(dir string) bool {
	return slices.ContainsFunc(c.in.Facts.Searched, func(root string) bool { return covers(root, dir) })
}

// ToSearch lists the directories outside of the workspace that a rule opens, and in
// which a denial by a pattern may have something to deny. Facts have to say what is
// there (Found, Searched), or that denial is a gap. A directory that lies in another of
// the list is left out, and so is one that a symlink leads to: by its own name
// nothing in it matches.
func ToSearch(rules []policy.PathRule, workspace string, paths map[string]host.Path) []string {
	var out []string
	inside := glob.Escape(workspace) + "/"
	for _, r := range rules {
		if !r.Glob || r.Access != policy.DenyRead && r.Access != policy.DenyWrite || strings.HasPrefix(r.Pattern, inside) {
			continue
		}
		for _, open := range rules {
			p := open.Pattern
			if open.Glob || open.Access != policy.AllowRead && open.Access != policy.AllowWrite || p == "/" || covers(workspace, p) {
				continue
			}
			if fact := paths[p]; fact.Kind == host.KindDir && fact.Real == p && mayHold(r.Pattern, p, fact) {
				out = append(out, p)
			}
		}
	}
	slices.Sort(out)
	last := ""
	return slices.DeleteFunc(slices.Compact(out), func(p string) bool {
		if last != "" && covers(last, p) {
			return true
		}
		last = p
		return false
	})
}

// mayHold reports whether there can be anything below a path that the pattern matches.
func mayHold(pattern, p string, fact host.Path) bool {
	return fact.RealKind != host.KindFile && fact.Kind != host.KindAbsent && reaches(pattern, p)
}

// reaches reports whether a pattern can match something below dir.
func reaches(pattern, dir string) bool {
	names := glob.Split(pattern)
	for i, name := range glob.Split(dir) {
		if i >= len(names) || names[i] == "**" {
			return true
		}
		if one, err := glob.Compile(names[i]); err != nil || !one.Match(name) {
			return err != nil
		}
	}
	return true
}

// ownDevices are what the inside has in its /dev.
var ownDevices = []string{"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "fd", "stdin", "stdout", "stderr", "shm"}

// settleOwn: a rule for a place of which the inside has one of its own.
func (c *compiler) settleOwn(r pathRule) {
	const own = "the inside has one of its own; the host's is not visible"
	st := &c.p.Rules[r.id-1]
	name, device := strings.CutPrefix(r.Pattern, "/dev/")
	name, _, _ = strings.Cut(name, "/")
	switch {
	case r.Access == policy.DenyRead && covers("/proc", r.Pattern):
		st.Status, st.Note = plan.Impossible, "the inside has a /proc of its own, all of which it can see"
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Rule: r.id, Missing: "denyRead " + r.Text,
			Because: "no rule reaches into /proc: the inside has one of its own, with its own processes only",
			Remedy:  "take the rule out",
		})
	case denies(&r):
		st.Note = own
	case r.Pattern == "/run" || device && !slices.Contains(ownDevices, name):
		st.Status, st.Note = plan.Impossible, own
	default:
		st.Status, st.Note = plan.Coarse, own
	}
}

// plantable reports whether a symlink on the way of p may be the work of the
// inside: p lies in what a rule lets it write, and real, where p leads, does not.
// To follow it would open what an earlier run has chosen.
func (c *compiler) plantable(p, real string) bool {
	for _, r := range c.in.Policy.Paths {
		if r.Access != policy.AllowWrite || r.Glob || r.Pattern == p || !covers(r.Pattern, p) || covers(r.Pattern, real) {
			continue
		}
		if f := c.in.Facts.Paths[r.Pattern]; f.Real == "" || !covers(f.Real, real) {
			return true
		}
	}
	return false
}

// ownRoots are the names in "/" that the inside has of its own, whatever the
// rules say.
var ownRoots = []string{"proc", "dev", "sys", "run", "tmp"}

// access is what a path is at last.
type access struct {
	read, write bool
	by          int  // ID of the deciding rule
	explicit    bool // a rule names this very path
}

// decide is the one place where path rules are weighed: the most specific one
// wins, then the stronger layer, then deny. What the managed rules among themselves
// deny stays denied.
func (c *compiler) decide(p string) access {
	read, write := c.deciding(p)
	a := access{}
	if read != nil {
		a.read = read.Access != policy.DenyRead
		a.by, a.explicit = read.id, read.Pattern == p
	}
	if a.read && write != nil && write.Access != policy.DenyRead {
		a.write = write.Access == policy.AllowWrite
		a.by, a.explicit = write.id, write.Pattern == p
	}
	return a
}

// deciding finds the rule for reading p and the one for writing it; nil if there
// is none, which is a no. denyRead speaks of both, as allowWrite does: what opens a
// part of it for reading opens nothing for writing.
func (c *compiler) deciding(p string) (read, write *pathRule) {
	var lastRead, lastWrite *pathRule
	for r := range c.speaking(p) {
		last := r.Origin.Layer == "managed"
		if speaksOfReading(r) {
			if stronger(r, read) {
				read = r
			}
			if last && stronger(r, lastRead) {
				lastRead = r
			}
		}
		if speaksOfWriting(r) {
			if stronger(r, write) {
				write = r
			}
			if last && stronger(r, lastWrite) {
				lastWrite = r
			}
		}
	}
	if lastRead != nil && denies(lastRead) {
		read = lastRead
	}
	if lastWrite != nil && denies(lastWrite) {
		write = lastWrite
	}
	return read, write
}

func speaksOfReading(r *pathRule) bool { return r.Access != policy.DenyWrite }
func speaksOfWriting(r *pathRule) bool {
	return r.Access != policy.AllowRead && r.Access != policy.Mask
}

// speaking are the rules for p, from those for itself to those for all around it. Only
// rules for p and for what it lies in are looked at: a few, however many things the
// patterns of the policy have matched.
func (c *compiler) speaking(p string) iter.Seq[*pathRule] {
	return func(yield func(*pathRule) bool) {
		for at := p; ; at = path.Dir(at) {
			for _, i := range c.index[at] {
				if r := &c.paths[i]; c.speaksOf(r, p) && !yield(r) {
					return
				}
			}
			if at == "/" || at == "." {
				return
			}
		}
	}
}

// add keeps a rule, by the path that it speaks of. That a name is an example takes
// the built-in secrets away from it, and opens nothing: a denial of all around it holds.
func (c *compiler) add(r pathRule) {
	if r.Origin.Layer == policy.ExamplesLayer {
		if c.examples == nil {
			c.examples = map[string]bool{}
		}
		c.examples[r.Pattern] = true
		return
	}
	if c.index == nil {
		c.index = map[string][]int{}
	}
	c.index[r.Pattern] = append(c.index[r.Pattern], len(c.paths))
	c.paths = append(c.paths, r)
}

func denies(r *pathRule) bool { return r.Access == policy.DenyRead || r.Access == policy.DenyWrite }

// speaksOf reports whether a rule covers p. A built-in secret's pattern covers no
// example. A rule that opens all of "/" opens nothing where the inside has its own.
func (c *compiler) speaksOf(r *pathRule, p string) bool {
	if r.Glob && r.Access == policy.DenyRead && r.Origin.Layer == "built-in" && c.examples[r.Pattern] {
		return false
	}
	if r.Pattern == "/" && !denies(r) && !covers(c.in.Workspace, p) &&
		slices.ContainsFunc(ownRoots, func(name string) bool { return covers("/"+name, p) }) {
		return false
	}
	return covers(r.Pattern, p)
}

func covers(pattern, p string) bool {
	return p == pattern || pattern == "/" || len(p) > len(pattern) && p[len(pattern)] == '/' && p[:len(pattern)] == pattern
}

// Own is the layer of denials that nobody can lift: of cofferdam's own records.
const Own = "cofferdam"

// stronger reports whether a wins over b.
func stronger(a, b *pathRule) bool {
	if b == nil {
		return true
	}
	// Nobody opens a part of cofferdam's own records, an organisation neither.
	if own := a.Origin.Layer == Own; own != (b.Origin.Layer == Own) {
		return own
	}
	if la, lb := len(a.Pattern), len(b.Pattern); la != lb {
		// Both cover the same path, so the longer is the deeper.
		return la > lb
	}
	if a.Glob != b.Glob {
		return b.Glob
	}
	if a.Strength != b.Strength {
		return a.Strength > b.Strength
	}
	return denies(a)
}

// tree writes the mounts.
func (c *compiler) tree() {
	c.mounted = map[string]int{}
	tempSize, inodes := int64(1<<30), int64(1<<18)
	for _, l := range c.in.Policy.Limits {
		if l.Name == "temp-size" {
			tempSize = l.Value
		}
	}
	type subject struct {
		path string
		own  *plan.Mount
		pin  int
	}
	var list []subject
	for _, m := range []plan.Mount{
		{Kind: plan.Proc, Target: "/proc", Create: true, Directory: true},
		{Kind: plan.Dev, Target: "/dev", Create: true, Directory: true},
		{Kind: plan.Tmpfs, Target: "/dev/shm", Write: true, Size: tempSize, Inodes: inodes, Directory: true},
		{Kind: plan.Tmpfs, Target: "/tmp", Write: true, Size: tempSize, Inodes: inodes, Create: true, Directory: true},
		{Kind: plan.Tmpfs, Target: "/var/tmp", Write: true, Size: tempSize, Inodes: inodes, Create: true, Directory: true},
		{Kind: plan.Dir, Target: "/run"},
	} {
		list = append(list, subject{path: m.Target, own: &m})
	}
	seen := map[string]bool{"/": true}
	for _, name := range c.roots {
		if !seen[name] {
			seen[name] = true
			list = append(list, subject{path: name})
		}
	}
	for _, r := range c.paths {
		if !seen[r.Pattern] {
			seen[r.Pattern] = true
			list = append(list, subject{path: r.Pattern})
		}
	}
	for _, p := range c.pins {
		list = append(list, subject{path: p.path, pin: p.rule})
	}
	if !seen[c.in.Facts.Home] {
		list = append(list, subject{path: c.in.Facts.Home})
	}
	slices.SortStableFunc(list, func(a, b subject) int { return order(a.path, b.path) })

	for _, s := range list {
		switch {
		case s.pin != 0:
			if base := c.on(s.path); base != nil && base.Write && !ours(base) {
				c.pinAbove(s.path, s.pin)
				c.mount(plan.Mount{Kind: plan.Pin, Target: s.path, Write: true, Directory: c.found[s.path] == host.KindDir, Rule: s.pin})
			}
		case s.own != nil:
			// What the inside has of its own covers what rules say there.
			c.mount(*s.own)
		case s.path == c.in.Facts.Home:
			c.home()
		default:
			c.subject(s.path)
		}
	}
}

// order sorts a path before what lies below it, and siblings by name: a slash
// counts as the lowest character.
func order(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		default:
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

func (c *compiler) mount(m plan.Mount) {
	if _, ok := c.mounted[m.Target]; ok {
		return
	}
	c.mounted[m.Target] = len(c.p.Mounts)
	c.p.Mounts = append(c.p.Mounts, m)
}

// on is the mount that target lies on; nil for the empty root.
func (c *compiler) on(target string) *plan.Mount {
	for dir := path.Dir(target); ; dir = path.Dir(dir) {
		if i, ok := c.mounted[dir]; ok {
			return &c.p.Mounts[i]
		}
		if dir == "/" {
			return nil
		}
	}
}

// ours: nothing of the host is there, so a mount point is made.
func ours(m *plan.Mount) bool {
	return m == nil || m.Kind == plan.Tmpfs || m.Kind == plan.Home || m.Kind == plan.Dir || m.Kind == plan.Dev
}

// home puts the private home where the host's is hidden.
func (c *compiler) home() {
	home := c.in.Facts.Home
	a := c.decide(home)
	if a.read {
		// The person lets the inside read the real home; then that is what
		// it is, and the policy says what may be written in it.
		c.p.PrivateHome = ""
		c.subject(home)
		return
	}
	m := plan.Mount{Kind: plan.Home, Target: home, Source: c.p.PrivateHome, Write: true, Directory: true, Mode: 0o700, Create: ours(c.on(home)), Rule: a.by}
	if m.Source == "" {
		m.Kind = plan.Tmpfs
		m.Size, m.Inodes = c.scratchSize()
	}
	c.mount(m)
}

func (c *compiler) scratchSize() (int64, int64) {
	for _, m := range c.p.Mounts {
		if m.Kind == plan.Tmpfs && m.Write {
			return m.Size, m.Inodes
		}
	}
	return 1 << 30, 1 << 18
}

// subject mounts one path that a rule names, if its access differs from what it
// lies on.
func (c *compiler) subject(p string) {
	if c.own(p) {
		return
	}
	fact, ok := c.in.Facts.Paths[p]
	if !ok {
		if kind, found := c.found[p]; found {
			fact, ok = host.Path{Kind: kind, Real: p, RealKind: kind}, true
		}
	}
	if !ok {
		fact.Kind = host.KindUnknown
	}
	a, base := c.decide(p), c.on(p)
	has := access{}
	if base != nil && !ours(base) && base.Kind != plan.Mask {
		has = access{read: true, write: base.Write}
	}
	dir := fact.RealKind == host.KindDir && fact.Kind != host.KindSymlink
	if fact.Kind != host.KindSymlink && fact.Real != "" && fact.Real != p {
		// The way to it leads through a symlink. What it leads to is a
		// subject of its own, and no mount is put on a way like that.
		if a.read && ours(base) && c.decide(fact.Real).read {
			c.mount(plan.Mount{Kind: plan.Symlink, Source: fact.Real, Target: p, Create: true, Rule: a.by})
		}
		return
	}
	switch {
	case fact.Kind == host.KindAbsent || (fact.Kind == host.KindUnknown && !has.read):
		// Nothing to mount, and nothing to hide.
		return
	case a.read && c.masked(p) && fact.Kind != host.KindSymlink:
		c.maskFile(p, dir, base, has, a.by)
		return
	case fact.Kind == host.KindSymlink && (a.read || !has.read):
		// The target is a subject of its own; the link is made where
		// nothing of the host is.
		if ours(base) && fact.Real != "" && c.decide(fact.Real).read {
			c.mount(plan.Mount{Kind: plan.Symlink, Source: fact.Real, Target: p, Create: true, Rule: a.by})
		} else if has.write && !a.write {
			c.protect(p, false, a.by)
		}
		return
	case !a.read && has.read:
		if fact.Closed && c.in.Facts.UID != 0 {
			// Its own permissions keep this user out, with no capability to
			// get round them.
			c.p.Rules[a.by-1].Mechanism = "permissions"
			return
		}
		c.replaceable(p, a.by)
		if rule := c.keepsName(p); has.write && rule != 0 {
			c.pinAbove(p, rule)
		}
		if dir && c.allowedBelow(p) {
			c.mount(plan.Mount{Kind: plan.Tmpfs, Target: p, Directory: true, Rule: a.by})
			return
		}
		c.mount(plan.Mount{Kind: plan.Mask, Target: p, Directory: dir, Rule: a.by})
	case !a.read:
		// Hidden with all around it. What a rule names is masked all the
		// same, so that an attempt is refused and seen, not just in vain.
		if a.explicit && base != nil && base.Kind == plan.Home && !c.allowedBelow(p) {
			c.mount(plan.Mount{Kind: plan.Mask, Target: p, Directory: dir, Create: true, Rule: a.by})
		}
	case has.read && (fact.RealKind == host.KindSocket || fact.RealKind == host.KindFifo) && c.closes(p):
		// A read-only mount keeps nobody from using it.
		c.p.Rules[a.by-1].Status = plan.Coarse
		c.p.Rules[a.by-1].Note = "it is a " + fact.RealKind + ", so it can't be opened at all"
		c.mount(plan.Mount{Kind: plan.Mask, Target: p, Rule: a.by})
	case a.write && p == c.in.Workspace && c.copies():
		c.mount(plan.Mount{Kind: plan.Copy, Source: p, Target: p, Write: true, Directory: true, Create: ours(base), Rule: a.by})
	case a.write && has.write, !a.write && has.read && !has.write:
		return
	case !a.write && has.write:
		c.protect(p, dir, a.by)
	default:
		if k := fact.RealKind; k == host.KindSocket || k == host.KindFifo || k == host.KindDevice {
			// Opening one would be a way out of the boundary; no path rule
			// gives that.
			c.p.Rules[a.by-1].Status = plan.Impossible
			c.p.Rules[a.by-1].Note = "it is a " + k + ", which a path rule does not open"
			return
		}
		c.mount(plan.Mount{Kind: plan.Bind, Source: p, Target: p, Write: a.write, Directory: dir,
			Create: ours(base), Optional: p != c.in.Workspace, Rule: a.by})
	}
}

// keepsName is a rule by which p or a name below it must stay what it is, or 0. A
// mask alone moves along when a directory above it is renamed.
func (c *compiler) keepsName(p string) int {
	for _, r := range c.paths {
		if r.Access == policy.DenyWrite && covers(p, r.Pattern) {
			if _, write := c.deciding(r.Pattern); denies(write) {
				return r.id
			}
		}
	}
	for _, pin := range c.pins {
		if covers(p, pin.path) {
			return pin.rule
		}
	}
	return 0
}

// closes reports whether a rule against writing names p and decides.
func (c *compiler) closes(p string) bool {
	_, write := c.deciding(p)
	return write != nil && denies(write) && write.Pattern == p
}

// own reports whether p lies in a part of the tree that the host has no say in.
func (c *compiler) own(p string) bool {
	if covers(c.in.Workspace, p) {
		return false
	}
	return covers("/proc", p) || covers("/dev", p) || covers("/tmp", p) && p == "/tmp" || p == "/var/tmp" || p == "/run"
}

// allowedBelow reports whether a rule lets something below p be read.
func (c *compiler) allowedBelow(p string) bool {
	for _, r := range c.paths {
		if len(r.Pattern) > len(p) && covers(p, r.Pattern) && c.decide(r.Pattern).read {
			if f, ok := c.in.Facts.Paths[r.Pattern]; !ok || f.Kind != host.KindAbsent {
				return true
			}
		}
	}
	return false
}

// protect makes p, which lies on a writable mount, read-only, and pins each
// directory between the two: renaming a parent would carry the protection away
// and leave the name free.
func (c *compiler) protect(p string, dir bool, rule int) {
	base := c.on(p)
	if base.Kind == plan.Pin && !base.Write {
		return
	}
	c.replaceable(p, rule)
	c.pinAbove(p, rule)
	c.mount(plan.Mount{Kind: plan.Pin, Target: p, Directory: dir, Rule: rule})
}

// replaceable: a mount lies on a file of the host, not on a name. When somebody
// outside renames another over it, as editors save, the kernel takes the mount away
// (d_invalidate, Linux 3.18 and later). In a copy it lies on a file of the copy.
func (c *compiler) replaceable(p string, rule int) {
	if c.copies() && covers(c.in.Workspace, p) {
		return
	}
	if st := &c.p.Rules[rule-1]; st.Status == plan.Enforced {
		if st.Status = plan.Coarse; st.Note != "" {
			st.Note += "; "
		}
		st.Note += "what the host puts in its place during the run is not covered"
	}
}

// pinAbove pins each directory between p and the mount that p lies on.
func (c *compiler) pinAbove(p string, rule int) {
	root := c.on(p).Target
	var pins []string
	for d := path.Dir(p); d != root && len(d) > len(root); d = path.Dir(d) {
		pins = append(pins, d)
	}
	slices.Reverse(pins)
	for _, d := range pins {
		c.mount(plan.Mount{Kind: plan.Pin, Target: d, Write: true, Directory: true, Rule: rule})
	}
}

// guards lists what the supervisor has to watch for.
func (c *compiler) guards() {
	n := len(c.in.Policy.Paths)
	all := make([]watched, 0, len(c.in.Policy.Guards)+len(c.watched))
	for i, g := range c.in.Policy.Guards {
		rule := policy.PathRule{
			Access: policy.DenyWrite, Pattern: glob.Escape(c.in.Workspace) + "/" + strings.TrimSuffix(g.Pattern, "/"),
			Glob: true, Reason: g.Reason, Origin: g.Origin, Strength: g.Strength,
		}
		all = append(all, watched{pathRule{rule, n + i + 1}, g.Pattern})
	}
	for _, w := range c.watched {
		if !w.rule.Glob {
			if c.decide(w.rule.Pattern).write {
				continue // a rule that is as specific and stronger opens it
			}
			w.rule.Pattern = glob.Escape(w.rule.Pattern)
		}
		if w.rule.Reason == "" {
			w.rule.Reason = "the policy protects it"
		}
		all = append(all, w)
	}
	opened := c.opened()
	for _, w := range all {
		guard := plan.Guard{Pattern: w.pattern, Reason: w.rule.Reason, Rule: w.rule.id}
		for _, o := range opened {
			except := strings.TrimPrefix(o.Pattern, c.in.Workspace+"/")
			if o.beats(&w.rule) && !slices.Contains(guard.Except, except) {
				guard.Except = append(guard.Except, except)
			}
		}
		c.p.Guards = append(c.p.Guards, guard)
	}
}

// opened are the rules for paths in the workspace that the inside may write, whatever
// guards there are for them.
func (c *compiler) opened() []pathRule {
	var out []pathRule
	for _, r := range c.paths {
		if r.Access != policy.AllowWrite || r.Pattern == c.in.Workspace || !covers(c.in.Workspace, r.Pattern) {
			continue
		}
		if slices.ContainsFunc(out, func(o pathRule) bool { return o.Pattern == r.Pattern }) {
			out = append(out, r) // the stronger of the two may beat more
			continue
		}
		if c.patterns == nil {
			c.patterns = c.compilePatterns()
		}
		with := &compiler{in: c.in, p: c.p, patterns: c.patterns}
		for _, have := range c.paths {
			with.add(have)
		}
		with.match(r.Pattern)
		if with.decide(r.Pattern).write {
			out = append(out, r)
		}
	}
	return out
}

// beats reports whether an allowed path is stronger than a pattern that would
// guard it.
func (r *pathRule) beats(guard *pathRule) bool {
	pattern, err := glob.Compile(guard.Pattern)
	if err != nil {
		return false
	}
	names := glob.Split(r.Pattern)
	_, deepest, ok := pattern.DepthsOf(names)
	if !ok || guard.Origin.Layer == "managed" && r.Origin.Layer != "managed" {
		return false
	}
	at := *guard
	at.Pattern = "/" + strings.Join(names[:deepest], "/")
	return stronger(r, &at)
}

// program checks that the command can be read inside.
func (c *compiler) program() error {
	if len(c.in.Command) == 0 {
		return errors.New("compile: no command")
	}
	refused := func(p, text, hint string) error {
		a := c.decide(p)
		if a.read {
			return nil
		}
		e := &Error{Text: text, Hint: hint}
		if r, ok := c.p.Rule(a.by); ok {
			e.Rule, e.Origin = r.Text, r.Origin
		}
		return e
	}
	if err := refused(c.in.Dir, c.in.Dir+", where the command shall start, can't be read inside", "take the rule out, or start somewhere else"); err != nil {
		return err
	}
	real := c.in.Program
	if f, ok := c.in.Facts.Paths[real]; ok && f.Real != "" {
		real = f.Real
	}
	text := c.in.Program + " can't be executed: it can't be read inside"
	if err := refused(real, text, "allow it with --allow-read "+path.Dir(real)); err != nil {
		return err
	}
	// What it leads to can be read; the name has to be there, too.
	return refused(c.in.Program, text, "call it "+real)
}
