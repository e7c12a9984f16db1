package workspace

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/linux/fsat"
)

// Aside is one entry that was moved out of the workspace.
type Aside struct {
	Path   Name   `json:"path"` // relative to the workspace
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Rule   int    `json:"rule,omitempty"` // plan.RuleStatus.ID
	To     Name   `json:"to"`             // absolute
	// Restored: what was there before the run is back in its place.
	Restored bool `json:"restored,omitempty"`
	// Undo is the shell line that puts it where it was.
	Undo string `json:"undo"`
}

// Change is an entry that is different but was left.
type Change struct {
	Path Name   `json:"path"`
	What string `json:"what"`
}

// Failure is an entry that should have been set aside and is still there.
type Failure struct {
	Path   Name   `json:"path"`
	Reason string `json:"reason"`
	Err    string `json:"error"`
}

// Report is what a sweep did. Failed or Blind not empty, or Unsettled, means
// that the workspace is not known to be clean.
type Report struct {
	SetAside []Aside `json:"setAside,omitempty"`
	// Changed are guarded entries that could only be changed from the host.
	Changed []Change  `json:"changed,omitempty"`
	Failed  []Failure `json:"failed,omitempty"`
	// Unusual is what has appeared and stays, and the person should know of:
	// set-user-ID files, symlinks that lead out. It lists at most unusualLimit;
	// UnusualMore counts the rest.
	Unusual     []Change `json:"unusual,omitempty"`
	UnusualMore int      `json:"unusualMore,omitempty"`
	// Blind is what could not be looked at, and could be before the run.
	Blind []Blind `json:"blind,omitempty"`
	// Unsettled: the tree was still changing after several rounds.
	Unsettled bool `json:"unsettled,omitempty"`
}

// Clean says that every guarded name is harmless or as it was.
func (r Report) Clean() bool { return len(r.Failed) == 0 && len(r.Blind) == 0 && !r.Unsettled }

// act is the decision about one entry: set it aside, and put old back if it
// was there before and its content is known.
type act struct {
	item
	now    Entry
	reason string
	old    *Entry
}

// Sweep compares the workspace with the baseline and sets aside, in the folder
// session outside the workspace, what is new or changed and not harmless. Call
// it when nothing runs inside any more; while the tree changes it is still safe,
// but what is planted after its last look stays. It may be called again, also
// by another process.
func Sweep(b *Baseline, session string) (Report, error) {
	s, err := newSweeper(b, session)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	s.unusual = true
	if err := s.all(); err != nil {
		return s.report, err
	}
	return s.report, nil
}

type sweeper struct {
	*looker
	dir     string // session folder
	session int
	report  Report
	number  map[string]int // last folder that was used for a path
	failed  map[string]bool
	changed map[string]bool
	notify  func(Aside)
}

func newSweeper(b *Baseline, session string) (*sweeper, error) {
	if b.Version != 1 {
		return nil, fmt.Errorf("workspace baseline: unknown version %d", b.Version)
	}
	session, err := filepath.Abs(session)
	if err != nil {
		return nil, err
	}
	for _, pair := range [][2]string{{session, b.Root}, {real(session), real(b.Root)}} {
		if within(pair[0], pair[1]) {
			return nil, fmt.Errorf("session folder %s lies in the workspace", session)
		}
	}
	l, err := newLooker(b.Root, b.Guards)
	if err != nil {
		return nil, err
	}
	if top, err := fsat.StatFd(l.fd); err != nil || !b.Dir.is(top) {
		l.close()
		if err == nil {
			err = &ReplacedError{b.Root}
		}
		return nil, err
	}
	l.base = b
	s := &sweeper{looker: l, dir: session, number: map[string]int{}, failed: map[string]bool{}, changed: map[string]bool{}}
	if s.session, err = fsat.OpenRoot(session); err != nil {
		l.close()
		return nil, err
	}
	return s, nil
}

func real(p string) string {
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	return p
}

func within(p, root string) bool {
	return p == root || strings.HasPrefix(p, strings.TrimSuffix(root, "/")+"/")
}

func (s *sweeper) close() {
	s.looker.close()
	fsat.Close(s.session)
}

const (
	rounds       = 5
	unusualLimit = 20
)

// all sweeps the whole workspace until a round finds nothing to do.
func (s *sweeper) all() error {
	for range rounds {
		quiet, err := s.round("")
		if err != nil || quiet {
			s.report.Unsettled = false
			return err
		}
		s.report.Unsettled = true
	}
	return nil
}

// round looks at the directory rel and below once, and acts.
func (s *sweeper) round(rel string) (quiet bool, err error) {
	seen, err := s.look(rel)
	if err != nil {
		return false, err
	}
	if rel == "" {
		slices.SortFunc(seen.unusual, func(a, b Change) int { return strings.Compare(string(a.Path), string(b.Path)) })
		n := min(len(seen.unusual), unusualLimit)
		s.report.Unusual, s.report.UnusualMore = seen.unusual[:n], len(seen.unusual)-n+seen.unusualMore
		s.report.Blind = slices.DeleteFunc(seen.blind, func(b Blind) bool { return slices.Contains(s.base.Blind, b) })
	}
	acts := s.decide(seen.items)
	for _, a := range acts {
		s.carryOut(a)
	}
	left := slices.DeleteFunc(acts, func(a act) bool { return s.failed[a.path] })
	return len(left) == 0 && seen.vanished == 0, nil
}

// decide judges what is there. It changes nothing in the workspace.
func (s *sweeper) decide(items []item) []act {
	var acts []act
	whole := "" // the directory that is set aside as a whole
	for _, it := range items {
		if s.failed[it.path] || whole != "" && within(it.path, whole) {
			continue
		}
		if it.class != guarded && it.dir && it.top == it.path {
			continue // hooks/ itself: its entries count
		}
		now, err := s.identify(it.path)
		if err != nil {
			if !fsat.Gone(err) {
				s.report.Failed = append(s.report.Failed, Failure{Name(it.path), "it can't be looked at", err.Error()})
				s.failed[it.path] = true
			}
			continue
		}
		old, known := s.base.entry(it.path)
		if known && old.same(now) {
			continue
		}
		if s.byHost(it, now, old, known) {
			continue
		}
		if it.class == guarded && now.Kind == host.KindDir {
			// An old directory is judged by its entries. A new one is moved
			// as a whole, so that one line puts it back; empty it does nothing.
			if known && old.Kind == host.KindDir || !it.full || it.split {
				continue
			}
		}
		s.sum(&now, 0)
		if known && old.equal(now) {
			continue
		}
		reason := s.vet(it, now, old)
		if reason == "" {
			continue
		}
		a := act{item: it, now: now, reason: reason}
		if known && old.Kind == host.KindFile && old.Content != nil {
			a.old = &old
		}
		if now.Kind == host.KindDir {
			whole = it.path
		}
		acts = append(acts, a)
	}
	return acts
}

// byHost says that only the host can have made this change: a read-only mount
// lies on the very inode, or on the directory above it. It is told, not undone.
func (s *sweeper) byHost(it item, now, old Entry, known bool) bool {
	what := "changed on the host during the run"
	ok := known && old.Held && old.inode(now)
	if !ok && !known {
		what = "created on the host during the run"
		for up := path.Dir(it.path); up != "." && !ok; up = path.Dir(up) {
			if dir, has := s.base.entry(up); has && dir.Held && dir.Kind == host.KindDir {
				is, err := s.identify(up)
				ok = err == nil && dir.inode(is)
			}
		}
	}
	if ok && !s.changed[it.path] && now.Kind != host.KindDir {
		s.changed[it.path] = true
		s.report.Changed = append(s.report.Changed, Change{Name(it.path), what})
	}
	return ok
}

// vet says why an entry is not harmless; "" means it is.
func (s *sweeper) vet(it item, now, old Entry) string {
	if it.class == guarded {
		if r := s.guards[it.guard].Reason; r != "" {
			return r
		}
		return "programs on the host obey it"
	}
	if now.Kind != host.KindFile {
		if r := classReason[it.class]; r != "" {
			return r
		}
		return classReason[gitLink]
	}
	if it.class == gitHook {
		if sample(it.path) {
			return ""
		}
		return classReason[gitHook]
	}
	content, _, err := fsat.Read(s.fd, it.path, configLimit)
	if err != nil {
		if fsat.Gone(err) {
			return ""
		}
		return "it can't be judged: " + err.Error()
	}
	if len(content) == 0 {
		return ""
	}
	abs := filepath.Join(s.root, it.path)
	p := Place{Root: s.root, Dir: path.Dir(abs)}
	switch it.class {
	case gitName:
		target, reason := VetPointer(p, content)
		if reason == "" {
			reason = s.straight(target)
		}
		return reason
	case gitConfig:
		if path.Base(it.path) == "config.worktree" && path.Base(path.Dir(path.Dir(it.path))) == "worktrees" {
			p.Dir = path.Dir(abs)
		}
		if reason := VetConfig(p, old.Content, content); reason != "" {
			return reason
		}
		settings, _ := ParseGitConfig(content)
		for _, set := range settings {
			if set.Section == "core" && set.Key == "worktree" {
				if target, in := p.inside(set.Value); in {
					return s.straight(target)
				}
			}
		}
		return ""
	case gitCommonDir:
		return VetCommonDir(p.Dir, content)
	case gitGitDir:
		return VetGitDirFile(p, content)
	case gitHead:
		return VetHead(content)
	case gitAlternates:
		targets, reason := VetAlternates(Place{Root: s.root, Dir: path.Dir(p.Dir)}, content)
		for _, t := range targets {
			if reason == "" {
				reason = s.straight(t)
			}
		}
		return reason
	case gitTodo:
		return VetTodo(content)
	}
	if path.Base(it.path) == "strategy" && slices.Contains([]string{"ort", "recursive", "resolve", "octopus", "ours", "subtree"}, strings.TrimSpace(string(content))) {
		return ""
	}
	return classReason[it.class]
}

// sample: git never runs a hook of that name.
func sample(p string) bool { return strings.HasSuffix(p, ".sample") }

// straight says whether a path in the workspace has a symlink in it, by which
// it could lead out.
func (s *sweeper) straight(target string) string {
	rel := strings.TrimPrefix(strings.TrimPrefix(target, s.root), "/")
	fd, err := fsat.OpenDir(s.fd, rel)
	if err == nil {
		fsat.Close(fd)
		return ""
	}
	if errors.Is(err, fsat.ENOENT) {
		return "" // leads nowhere; what comes to be there is judged itself
	}
	return "it leads git through a symlink or to no directory"
}

// carryOut does one act and reports it.
func (s *sweeper) carryOut(a act) {
	to, restored, err := s.setAside(a)
	if fsat.Gone(err) {
		return // someone was faster
	}
	if err != nil {
		s.failed[a.path] = true
		s.report.Failed = append(s.report.Failed, Failure{Name(a.path), a.reason, err.Error()})
		return
	}
	out := Aside{Path: Name(a.path), Kind: a.now.Kind, Reason: a.reason, To: Name(filepath.Join(s.dir, to)), Restored: restored}
	flags := "-nT"
	if restored {
		flags = "-fT"
	}
	out.Undo = "mv " + flags + " -- " + Quote(string(out.To)) + " " + Quote(filepath.Join(s.root, a.path))
	out.Rule = s.rule(a.item)
	s.report.SetAside = append(s.report.SetAside, out)
	if s.notify != nil {
		s.notify(out)
	}
}
