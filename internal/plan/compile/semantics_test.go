package compile

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

const (
	annHome = "/home/ann"
	annWork = "/home/ann/src/project"
)

// files is the machine of these tests: what is there, and of which kind.
var files = map[string]string{
	"/home": host.KindDir, "/srv": host.KindDir, "/srv/data": host.KindDir, "/sys": host.KindDir, "/var": host.KindDir,
	"/usr": host.KindDir, "/etc": host.KindDir, "/etc/shadow": host.KindFile, "/opt": host.KindDir,
	annHome: host.KindDir, annHome + "/.ssh": host.KindDir, annHome + "/.ssh/config": host.KindFile, annHome + "/.gitconfig": host.KindFile,
	annHome + "/docs": host.KindDir, annHome + "/docs/private": host.KindDir, annHome + "/docs/private/open": host.KindDir,
	annHome + "/s.sock": host.KindSocket,
	annWork:             host.KindDir, annWork + "/.env": host.KindFile, annWork + "/.env.example": host.KindFile,
	annWork + "/.git": host.KindDir, annWork + "/.git/config": host.KindFile, annWork + "/.git/hooks": host.KindDir,
	annWork + "/a": host.KindDir, annWork + "/a/b": host.KindDir, annWork + "/a/b/.env": host.KindFile, annWork + "/a/b/.env.example": host.KindFile, annWork + "/a/gen": host.KindDir,
	annWork + "/.vscode": host.KindDir,
}

// compiled makes the plan of the layers on that machine.
func compiled(t testing.TB, managed, user, flags string) (*plan.Plan, error) {
	t.Helper()
	dir := t.TempDir()
	place := policy.Place{Home: annHome, Workspace: annWork}
	src := policy.Source{Place: place, Command: "true"}
	write := func(name, text string) string {
		if text == "" {
			return ""
		}
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	src.Managed, src.UserFile = write("managed", managed), write("user", user)
	if flags != "" {
		doc, err := policy.Parse("flags", []byte(flags))
		if err != nil {
			t.Fatal(err)
		}
		src.Flags = doc
	}
	return compileSource(t, src)
}

// compileSource makes the plan of a source on that machine.
func compileSource(t testing.TB, src policy.Source) (*plan.Plan, error) {
	t.Helper()
	eff, err := policy.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return Plan(input(eff))
}

// input is a run of a policy on that machine.
func input(eff *policy.Effective) Input { return inputAt(eff, annHome) }

// inputAt is input with the home somewhere else.
func inputAt(eff *policy.Effective, home string) Input {
	work := home + strings.TrimPrefix(annWork, annHome)
	f := &host.Facts{UID: 1000, GID: 1000, User: "ann", Home: home, Paths: map[string]host.Path{},
		RootEntries: []string{"dev", "etc", "home", "opt", "proc", "run", "srv", "sys", "tmp", "usr", "var"},
		Mechanisms:  []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 7}}}
	there := map[string]string{"/usr/bin": host.KindDir, "/usr/bin/true": host.KindFile}
	for p, kind := range files {
		if rest, ok := strings.CutPrefix(p, annHome); ok {
			p = home + rest
		}
		there[p] = kind
	}
	for p, kind := range there {
		f.Paths[p] = host.Path{Kind: kind, Real: p, RealKind: kind, UID: 1000, Mode: 0o755}
	}
	patterns := []string{}
	for _, r := range eff.Paths {
		if _, ok := f.Paths[r.Pattern]; !r.Glob && !ok {
			f.Paths[r.Pattern] = host.Path{Kind: host.KindAbsent, RealKind: host.KindAbsent}
		}
		if r.Glob {
			patterns = append(patterns, r.Pattern)
		}
	}
	for _, g := range eff.Guards {
		patterns = append(patterns, g.Pattern)
	}
	for _, text := range patterns {
		full := text
		if !strings.HasPrefix(full, "/") {
			full = work + "/" + strings.TrimSuffix(full, "/")
		}
		g := glob.MustCompile(full)
		for p, kind := range there {
			if strings.HasPrefix(p, work+"/") && g.Match(p) {
				f.Found = append(f.Found, host.Found{Path: p, Kind: kind, Pattern: text})
			}
		}
	}
	slices.SortFunc(f.Found, func(a, b host.Found) int { return strings.Compare(a.Path+a.Pattern, b.Path+b.Pattern) })
	return Input{Policy: eff, Facts: f, Command: []string{"true"}, Program: "/usr/bin/true", Dir: work, Workspace: work, PrivateHome: "/state/home"}
}

// shows is an evaluator of its own: what a list of mounts lets the inside do with
// the host's path p. It knows mounts, and nothing of rules.
func shows(mounts []plan.Mount, p string) string {
	access := "none"
	for _, m := range mounts {
		if m.Target != p && !strings.HasPrefix(p, m.Target+"/") {
			continue
		}
		switch m.Kind {
		case plan.Bind:
			access = "read"
			if m.Write {
				access = "write"
			}
		case plan.Pin:
			if !m.Write && access == "write" {
				access = "read"
			}
		case plan.File:
			access = "read" // of what is no longer the host's
		case plan.Mask, plan.Tmpfs, plan.Home, plan.Dir, plan.Proc, plan.Dev:
			access = "none"
		}
	}
	return access
}

func TestMostSpecificWins(t *testing.T) {
	for _, c := range []struct {
		name, managed, user, flags string
		want                       map[string]string
	}{
		{name: "built-in", want: map[string]string{
			"/usr/bin/x": "read", "/etc/passwd": "read", "/etc/shadow": "none", "/srv/data": "none",
			"~/notes": "none", "~/.ssh/config": "none", "~/.gitconfig": "read",
			"./main.go": "write", "./.env": "none", "./a/b/.env": "none", "./.env.example": "write",
			"./.git/config": "read", "./.git/hooks/pre-commit": "read", "./.git/index": "write", "./.vscode/tasks.json": "read",
		}},
		{name: "home hidden, project readable", user: `{"filesystem": {"denyRead": ["~/"], "allowRead": ["."]}}`, want: map[string]string{
			"./main.go": "write", "~/notes": "none", "./.env": "none",
		}},
		{name: "home readable, keys not", user: `{"filesystem": {"allowRead": ["~"], "denyRead": ["~/.ssh"]}}`, want: map[string]string{
			"~/docs/x": "read", "~/.ssh/config": "none", "./main.go": "write",
		}},
		{name: "one secret opened", flags: `{"filesystem": {"allowRead": ["./.env"]}}`, want: map[string]string{"./.env": "read", "./a/b/.env": "none"}},
		{name: "one secret opened for writing", flags: `{"filesystem": {"allowWrite": ["./.env"]}}`, want: map[string]string{"./.env": "write", "./a/b/.env": "none"}},
		{name: "a part of what is closed opened for reading", user: `{"filesystem": {"denyRead": ["./a"], "allowRead": ["./a/gen"]}}`, want: map[string]string{"./a/x": "none", "./a/gen/x": "read", "./x": "write"}},
		{name: "a part of what is closed opened for writing", user: `{"filesystem": {"denyRead": ["./a"], "allowWrite": ["./a/gen"]}}`, want: map[string]string{"./a/x": "none", "./a/gen/x": "write"}},
		{name: "all writable, the home closed, a part readable", flags: `{"filesystem": {"allowWrite": ["/"]}}`, want: map[string]string{"~/.gitconfig": "read", "/srv/data": "write"}},
		{name: "an example in what is closed", user: `{"filesystem": {"denyRead": ["./a/b"]}}`, want: map[string]string{"./a/b/.env.example": "none", "./.env.example": "write"}},
		{name: "examples closed by name", user: `{"filesystem": {"denyRead": ["**/.env.*"]}}`, want: map[string]string{"./.env.example": "none"}},
		{name: "all secrets of a name opened", user: `{"filesystem": {"allowRead": ["**/.env"]}}`, want: map[string]string{"./.env": "read", "./a/b/.env": "read"}},
		{name: "workspace read-only", user: `{"filesystem": {"denyWrite": ["."]}}`, want: map[string]string{"./main.go": "read", "./.env.example": "read", "./a/x": "read"}},
		{name: "deny in allow in deny", user: `{"filesystem": {"allowRead": ["~/docs", "~/docs/private/open"], "denyRead": ["~/docs/private"]}}`, want: map[string]string{
			"~/docs/x": "read", "~/docs/private/x": "none", "~/docs/private/open/x": "read", "~/x": "none",
		}},
		{name: "a tie within a layer is a no", user: `{"filesystem": {"allowRead": ["~/docs"], "denyRead": ["~/docs"]}}`, want: map[string]string{"~/docs/x": "none"}},
		{name: "a stronger layer wins a tie", user: `{"filesystem": {"denyRead": ["~/docs"]}}`, flags: `{"filesystem": {"allowRead": ["~/docs"]}}`, want: map[string]string{"~/docs/x": "read"}},
		{name: "managed denials are absolute", managed: `{"filesystem": {"denyRead": ["~/docs"]}}`, flags: `{"filesystem": {"allowRead": ["~/docs/private/open"], "allowWrite": ["~/docs"]}}`, want: map[string]string{
			"~/docs/x": "none", "~/docs/private/open/x": "none",
		}},
		{name: "part of the workspace read-only", user: `{"filesystem": {"denyWrite": ["./a/gen"]}}`, want: map[string]string{"./a/gen/x": "read", "./a/x": "write"}},
		{name: "git configuration opened", user: `{"filesystem": {"allowGitConfig": true}}`, want: map[string]string{"./.git/config": "write", "./.git/hooks/x": "read"}},
		{name: "a guard lifted", user: `{"workspace": {"unprotect": ["**/.vscode/"]}}`, want: map[string]string{"./.vscode/tasks.json": "write"}},
		{name: "writable outside", user: `{"filesystem": {"allowWrite": ["~/docs"]}}`, want: map[string]string{"~/docs/x": "write", "~/x": "none"}},
	} {
		in := loaded(t, c.managed, c.user, c.flags, nil)
		p, err := Plan(in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for path, want := range c.want {
			if got := shows(p.Mounts, full(path)); got != want {
				t.Errorf("%s: %s: %s, want %s", c.name, path, got, want)
			}
			for kind, least := range map[string]int{"read": 1, "write": 2} {
				e, err := Explain(in.Policy, in.Facts, in.Workspace, kind, full(path))
				if err != nil || e.Allowed != (rank[want] >= least) {
					t.Errorf("%s: explain says of %s %s: %+v %v, want %s", c.name, kind, path, e, err, want)
				}
			}
		}
	}
}

// Every directory between a protected name and the writable mount it lies on is
// pinned, so that it can't be carried away.
func TestParentsArePinned(t *testing.T) {
	p, err := compiled(t, "", `{"filesystem": {"denyWrite": ["./a/gen"]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{annWork + "/a", annWork + "/.git"} {
		if !slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.Kind == plan.Pin && m.Target == want && m.Write }) {
			t.Errorf("%s is not pinned", want)
		}
	}
}

// A rule that names a socket opens nothing, and says so.
func TestSocketsAreNotOpened(t *testing.T) {
	p, err := compiled(t, "", `{"filesystem": {"allowRead": ["~/s.sock"]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.Target == annHome+"/s.sock" }) {
		t.Error("the socket is mounted")
	}
	if !slices.ContainsFunc(p.Rules, func(r plan.RuleStatus) bool {
		return r.Text == "allowRead ~/s.sock" && r.Status == plan.Impossible
	}) {
		t.Error("nobody says that it is not")
	}
}

// A name that must not be written and is not there can't be held by a mount; it is
// guarded: what appears is set aside.
func TestAbsentDeniedNamesAreGuarded(t *testing.T) {
	p, err := compiled(t, "", `{"filesystem": {"denyWrite": ["./later", "**/go.sum"]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"later", "**/go.sum"} {
		if !slices.ContainsFunc(p.Guards, func(g plan.Guard) bool { return g.Pattern == want }) {
			t.Errorf("%s is not guarded", want)
		}
	}
}

// A pattern holds outside of the workspace where somebody has looked for what it
// matches. Where nobody has, the run is refused; nothing is accepted and then not
// enforced.
func TestPatternsOutside(t *testing.T) {
	const docs = annHome + "/docs"
	for _, c := range []struct {
		user   string
		search []string
	}{
		{`{"filesystem": {"allowRead": ["~/docs"], "denyRead": ["~/docs/*.pem"]}}`, []string{docs}},
		{`{"filesystem": {"allowRead": ["~/docs", "~/docs/private"], "denyRead": ["~/**/*.pem"]}}`, []string{docs}},
		{`{"filesystem": {"allowWrite": ["~/docs"], "denyWrite": ["~/*/*.pem"]}}`, []string{docs}},
		{`{"filesystem": {"denyRead": ["/usr/**/*.pem"]}}`, []string{"/usr"}},
		{`{"filesystem": {"denyRead": ["~/**/*.pem"]}}`, nil}, // nothing there can be read
		{`{"filesystem": {"allowRead": ["~/docs"], "denyRead": ["**/*.pem", "~/other/*.pem"]}}`, nil},
		{`{"filesystem": {"allowRead": ["~/.gitconfig"], "denyRead": ["~/**/*.pem"]}}`, nil},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/user", []byte(c.user), 0o600); err != nil {
			t.Fatal(err)
		}
		eff, err := policy.Load(policy.Source{Place: policy.Place{Home: annHome, Workspace: annWork}, Command: "true", UserFile: dir + "/user"})
		if err != nil {
			t.Fatal(err)
		}
		in := input(eff)
		got := ToSearch(eff.Paths, annWork, in.Facts.Paths)
		if !slices.Equal(got, c.search) {
			t.Errorf("%s: to be searched %q, want %q", c.user, got, c.search)
		}
		for _, searched := range [][]string{nil, c.search} {
			in.Facts.Searched = searched
			p, err := Plan(in)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := len(p.RequiredGaps()) > 0, len(c.search) > len(searched); got != want {
				t.Errorf("%s, searched %q: refused %v, want %v: %+v", c.user, searched, got, want, p.Gaps)
			}
		}
	}
}

func TestWorkspacesThatAreNone(t *testing.T) {
	eff, err := policy.Load(policy.Source{Place: policy.Place{Home: annHome, Workspace: "/"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, ws := range []string{"/", annHome, "/home", "/etc", "/usr", "/tmp", "/proc/1"} {
		_, err := Plan(Input{Policy: eff, Facts: &host.Facts{Home: annHome, UID: 1000}, Command: []string{"true"}, Program: "/usr/bin/true", Dir: ws, Workspace: ws})
		if err == nil {
			t.Errorf("%s is taken for a workspace", ws)
		}
	}
}

// Facts that are missing or not known are never read as yes.
func TestMissingMechanismsAreGaps(t *testing.T) {
	all := []string{host.UserNamespaces, host.MountAPI, host.ProcMount, host.NetNamespace, host.Seccomp, host.Landlock}
	for _, name := range all {
		f := &host.Facts{UID: 1000, Mechanisms: []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 7}}}
		if name == host.Landlock {
			f.Mechanisms = nil
		}
		f.Mechanisms = append(f.Mechanisms, host.Mechanism{Name: name, Answer: host.No, Detail: "tried", Remedy: "do"})
		gaps := Gaps(f)
		if !slices.ContainsFunc(gaps, func(g plan.Gap) bool { return g.Required && g.Remedy == "do" }) {
			t.Errorf("%s missing: %+v", name, gaps)
		}
	}
	if gaps := Gaps(&host.Facts{UID: 1000}); len(gaps) == 0 {
		t.Error("Landlock that nobody has looked for is no gap")
	}
	old := &host.Facts{UID: 1000, Mechanisms: []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 1}}}
	if gaps := Gaps(old); len(gaps) == 0 {
		t.Error("an old Landlock is no gap")
	}
	root := &host.Facts{UID: 0, Mechanisms: []host.Mechanism{{Name: host.Landlock, Answer: host.Yes, Level: 7}}}
	if gaps := Gaps(root); len(gaps) == 0 {
		t.Error("root is no gap")
	}
}

// One more denial never lets the inside do more, whatever the other rules are;
// and the same input gives the same plan.
func TestDenialsNeverWiden(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	paths := []string{"~", "~/docs", "~/docs/private", "~/docs/private/open", ".", "./a", "./a/b", "./a/gen", "./.git", "**/.env", "./.env", "./.vscode", "/opt", "/etc"}
	keys := []string{"allowRead", "allowWrite", "denyRead", "denyWrite"}
	rank := map[string]int{"none": 0, "read": 1, "write": 2}
	for range 300 {
		rules := map[string][]string{}
		for range random.IntN(6) {
			k := keys[random.IntN(4)]
			rules[k] = append(rules[k], paths[random.IntN(len(paths))])
		}
		text := func(extraKey, extra string) string {
			var parts []string
			for _, k := range keys {
				list := slices.Clone(rules[k])
				if k == extraKey {
					list = append(list, extra)
				}
				for i := range list {
					list[i] = fmt.Sprintf("%q", list[i])
				}
				parts = append(parts, fmt.Sprintf("%q: [%s]", k, strings.Join(list, ",")))
			}
			return `{"filesystem": {` + strings.Join(parts, ", ") + `}}`
		}
		deny, at := keys[2+random.IntN(2)], paths[random.IntN(len(paths))]
		before, err1 := compiled(t, "", text("", ""), "")
		after, err2 := compiled(t, "", text(deny, at), "")
		if err1 != nil || err2 != nil {
			continue // a run that is refused does nothing
		}
		for p := range files {
			if b, a := shows(before.Mounts, p), shows(after.Mounts, p); rank[a] > rank[b] {
				t.Fatalf("%s and %s %s: %s was %s, is %s", text("", ""), deny, at, p, b, a)
			}
		}
	}
}

// An explanation names the rules that fit and did not decide, and no others.
func TestExplainNamesLosers(t *testing.T) {
	in := masking(t, "", `{"filesystem": {"allowRead": ["."], "allowWrite": ["a"], "denyWrite": ["a/b"], "denyRead": ["elsewhere"]}}`, "")
	for _, c := range []struct {
		kind, subject, rule string
		lost                []string
	}{
		{"write", "a/b", "denyWrite a/b", []string{"allowWrite a", "allowWrite .", "denyRead ~"}},
		{"write", "a/c", "allowWrite a", []string{"allowWrite .", "denyRead ~"}},
		{"read", "a/c", "allowWrite a", []string{"allowWrite .", "allowRead .", "denyRead ~"}},
	} {
		e, err := Explain(in.Policy, in.Facts, annWork, c.kind, annWork+"/"+c.subject)
		if err != nil {
			t.Fatal(err)
		}
		var lost []string
		for _, r := range e.Lost {
			lost = append(lost, string(r.Access)+" "+r.Text)
		}
		if e.Rule != c.rule || !slices.Equal(lost, c.lost) {
			t.Errorf("%s %s: %s, before %q; want %s, before %q", c.kind, c.subject, e.Rule, lost, c.rule, c.lost)
		}
	}
}
