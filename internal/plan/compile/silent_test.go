package compile

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// loaded is a run of one user policy, with more things on the machine: kind and what
// each leads to ("" for itself).
func loaded(t testing.TB, managed, user, flags string, more map[string]host.Path) Input {
	t.Helper()
	src := policy.Source{Place: policy.Place{Home: annHome, Workspace: annWork}, Command: "true"}
	dir := writeFiles(t, map[string]string{"managed": managed, "user": user})
	if managed != "" {
		src.Managed = dir + "/managed"
	}
	if user != "" {
		src.UserFile = dir + "/user"
	}
	if flags != "" {
		doc, err := policy.Parse("flags", []byte(flags))
		if err != nil {
			t.Fatal(err)
		}
		src.Flags = doc
	}
	eff, err := policy.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	in := input(eff)
	for p, fact := range more {
		in.Facts.Paths[full(p)] = fact
	}
	return in
}

func mustPlan(t testing.TB, in Input) *plan.Plan {
	t.Helper()
	p, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ruleOf(t testing.TB, p *plan.Plan, text string) plan.RuleStatus {
	t.Helper()
	for _, r := range slices.Backward(p.Rules) {
		if r.Text == text {
			return r
		}
	}
	t.Fatalf("no rule %q", text)
	return plan.RuleStatus{}
}

func guardOf(p *plan.Plan, pattern string) *plan.Guard {
	for i := range slices.Backward(p.Guards) {
		if p.Guards[i].Pattern == pattern {
			return &p.Guards[i]
		}
	}
	return nil
}

func thing(kind string) host.Path { return host.Path{Kind: kind, RealKind: kind} }

// No rule is taken and then not carried out without a word: each of these can't be
// carried out by a mount, and says so in its status, as a gap or as a guard.
func TestNoRuleIsSilentlyVoid(t *testing.T) {
	for _, c := range []struct {
		name, user, rule string
		status           plan.Status
		gap              bool   // required
		guard            string // pattern
	}{
		{name: "a name that is not there", user: `"denyWrite": ["./gen"]`, rule: "denyWrite ./gen", status: plan.Coarse, guard: "gen"},
		{name: "a name with a bracket", user: `"denyWrite": ["./\\[gen\\]"]`, rule: `denyWrite ./\[gen\]`, status: plan.Coarse, guard: `\[gen]`},
		{name: "deep and not there", user: `"denyWrite": ["./a/new/gen"]`, rule: "denyWrite ./a/new/gen", status: plan.Coarse, guard: "a/new/gen"},
		{name: "names by a pattern", user: `"denyWrite": ["**/go.sum"]`, rule: "denyWrite **/go.sum", status: plan.Coarse, guard: "**/go.sum"},
		{name: "a pattern that takes in the workspace", user: `"denyWrite": ["~/**/go.sum"]`, rule: "denyWrite ~/**/go.sum", status: plan.Coarse, guard: annHome + "/**/go.sum"},
		{name: "not there, outside", user: `"allowWrite": ["~/docs"], "denyWrite": ["~/docs/gen"]`, rule: "denyWrite ~/docs/gen", status: plan.Coarse},
		{name: "not there, not writable", user: `"denyWrite": ["/opt/x"]`, rule: "denyWrite /opt/x", status: plan.Enforced},
		{name: "not there, not readable", user: `"denyRead": ["~/x"]`, rule: "denyRead ~/x", status: plan.Enforced},
		{name: "there, and masked", user: `"denyRead": ["./a/gen"]`, rule: "denyRead ./a/gen", status: plan.Coarse},
		{name: "there, with a part open", user: `"denyRead": ["./a"], "allowRead": ["./a/gen"]`, rule: "denyRead ./a", status: plan.Coarse},
		{name: "there, and read-only", user: `"denyWrite": ["./a/gen"]`, rule: "denyWrite ./a/gen", status: plan.Coarse},
		{name: "not there, readable", user: `"denyRead": ["./secret"]`, rule: "denyRead ./secret", status: plan.Coarse},
		{name: "a pattern outside", user: `"allowRead": ["~/docs"], "denyRead": ["~/**/*.pem"]`, rule: "denyRead ~/**/*.pem", status: plan.Impossible, gap: true},
		{name: "a pattern outside, nothing open there", user: `"denyRead": ["~/**/*.pem"]`, rule: "denyRead ~/**/*.pem", status: plan.Coarse},
		{name: "a pattern of writing outside, nothing writable there", user: `"allowRead": ["~/docs"], "denyWrite": ["~/docs/*.pem"]`, rule: "denyWrite ~/docs/*.pem", status: plan.Coarse},
		{name: "a pattern for all of the machine", user: `"denyRead": ["/**/.env"]`, rule: "denyRead /**/.env", status: plan.Impossible, gap: true},
		{name: "an allowing pattern outside", user: `"allowRead": ["~/docs/*.txt"]`, rule: "allowRead ~/docs/*.txt", status: plan.Impossible},
		{name: "a place of its own", user: `"allowWrite": ["/tmp"]`, rule: "allowWrite /tmp", status: plan.Coarse},
		{name: "a device of its own", user: `"allowWrite": ["/dev/null"]`, rule: "allowWrite /dev/null", status: plan.Coarse},
		{name: "a device of the host", user: `"allowWrite": ["/dev/kvm"]`, rule: "allowWrite /dev/kvm", status: plan.Impossible},
		{name: "sockets of the host", user: `"allowRead": ["/run"]`, rule: "allowRead /run", status: plan.Impossible},
		{name: "processes", user: `"denyRead": ["/proc/cpuinfo"]`, rule: "denyRead /proc/cpuinfo", status: plan.Impossible, gap: true},
		{name: "a socket", user: `"allowWrite": ["~/s.sock"]`, rule: "allowWrite ~/s.sock", status: plan.Impossible},
		{name: "a FIFO", user: `"allowWrite": ["~/fifo"]`, rule: "allowWrite ~/fifo", status: plan.Impossible},
		{name: "a device elsewhere", user: `"allowRead": ["~/device"]`, rule: "allowRead ~/device", status: plan.Impossible},
		{name: "what could not be looked at", user: `"allowRead": ["~/strange"]`, rule: "allowRead ~/strange", status: plan.Impossible},
		{name: "writing to a socket", user: `"denyWrite": ["./sock"]`, rule: "denyWrite ./sock", status: plan.Coarse},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustPlan(t, loaded(t, "", `{"filesystem": {`+c.user+`}}`, "", map[string]host.Path{
				"~/fifo": thing(host.KindFifo), "~/device": thing(host.KindDevice), "~/strange": thing(host.KindUnknown), "./sock": {Kind: host.KindSocket, Real: full("./sock"), RealKind: host.KindSocket},
			}))
			r := ruleOf(t, p, c.rule)
			if r.Status != c.status || r.Note == "" {
				t.Errorf("%+v, want %s and a note", r, c.status)
			}
			if gap := slices.ContainsFunc(p.RequiredGaps(), func(g plan.Gap) bool { return g.Rule == r.ID }); gap != c.gap {
				t.Errorf("gap: %v, want %v; %+v", gap, c.gap, p.Gaps)
			}
			if g := guardOf(p, c.guard); c.guard != "" && (g == nil || g.Rule != r.ID || g.Reason == "") {
				t.Errorf("no guard %s of this rule: %+v", c.guard, g)
			}
			if c.guard != "" && guardOf(p, c.guard+"/") == nil {
				t.Errorf("no guard for a directory %s", c.guard)
			}
		})
	}
}

// What is hidden with all around it is hidden whatever the host does: no mount lies
// on it that could go.
func TestWhatNoMountCarriesIsEnforced(t *testing.T) {
	p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyRead": ["~/docs", "/etc/shadow"], "denyWrite": ["/opt"]}}`, "", map[string]host.Path{
		"/etc/shadow": {Kind: host.KindFile, Real: "/etc/shadow", RealKind: host.KindFile, Closed: true},
	}))
	for _, rule := range []string{"denyRead ~/docs", "denyRead /etc/shadow", "denyWrite /opt"} {
		if r := ruleOf(t, p, rule); r.Status != plan.Enforced {
			t.Errorf("%+v", r)
		}
	}
}

// A pattern that matches a directory now is watched for as a name only: a guard for a
// directory remembers all that is in it.
func TestWatchedDirectories(t *testing.T) {
	p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyWrite": ["**/gen"]}}`, "", nil))
	if guardOf(p, "**/gen") == nil || guardOf(p, "**/gen/") != nil || !strings.Contains(ruleOf(t, p, "denyWrite **/gen").Note, "but for a directory") {
		t.Errorf("%+v", p.Guards)
	}
	wantShown(t, p, map[string]string{"./a/gen/x": "read"})
}

// A pattern that reaches out of the workspace holds for what a rule opens by name.
func TestPatternsHoldForWhatIsOpenedByName(t *testing.T) {
	p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyRead": ["~/.git*"]}}`, "", nil))
	// A path is more specific than a pattern of the same depth.
	wantShown(t, p, map[string]string{"~/.gitconfig": "read"})
	p = mustPlan(t, loaded(t, `{"filesystem": {"denyRead": ["~/.git*"]}}`, "", "", nil))
	wantShown(t, p, map[string]string{"~/.gitconfig": "none"})
}

// A read-only mount keeps nobody from talking to a socket or a FIFO.
func TestDenyWriteOfASocketClosesIt(t *testing.T) {
	for _, kind := range []string{host.KindSocket, host.KindFifo} {
		p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyWrite": ["./s"]}}`, "", map[string]host.Path{"./s": {Kind: kind, Real: full("./s"), RealKind: kind}}))
		wantShown(t, p, map[string]string{"./s": "none"})
	}
}

// What a guard excepts is what the rules open in it, and nothing else: the supervisor
// sets nothing aside that is excepted.
func TestGuardsExceptOnlyWhatBeatsThem(t *testing.T) {
	for _, c := range []struct {
		name, managed, user, flags string
		guard                      string
		want                       []string
	}{
		{name: "named itself", user: `{"filesystem": {"allowWrite": ["./.vscode"]}}`, guard: "**/.vscode/", want: []string{".vscode"}},
		{name: "named below", user: `{"filesystem": {"allowWrite": ["./.vscode/tasks.json"]}}`, guard: "**/.vscode/", want: []string{".vscode/tasks.json"}},
		{name: "another name", user: `{"filesystem": {"allowWrite": ["./.vscode"]}}`, guard: "**/.envrc"},
		{name: "a directory above", user: `{"filesystem": {"allowWrite": ["./a"]}}`, guard: "**/.envrc"},
		{name: "a directory above, by pattern", user: `{"filesystem": {"allowWrite": ["*"]}}`, guard: "**/.git/hooks/"},
		{name: "found by a pattern", user: `{"filesystem": {"allowWrite": ["**/.vscode"]}}`, guard: "**/.vscode/", want: []string{".vscode"}},
		{name: "closed by a flag", user: `{"filesystem": {"allowWrite": ["./.vscode"]}}`, flags: `{"filesystem": {"denyWrite": ["./.vscode"]}}`, guard: "**/.vscode/"},
		{name: "absent and managed", managed: `{"workspace": {"protect": ["**/deploy.sh"]}}`, user: `{"filesystem": {"allowWrite": ["./deploy.sh"]}}`, guard: "**/deploy.sh"},
		{name: "opened by two, one of them strong enough", managed: `{"workspace": {"protect": ["deploy.sh"]}, "filesystem": {"allowWrite": ["./deploy.sh"]}}`, user: `{"filesystem": {"allowWrite": ["./deploy.sh"]}}`, guard: "deploy.sh", want: []string{"deploy.sh"}},
		{name: "managed twice", managed: `{"workspace": {"protect": ["**/.vscode"]}}`, user: `{"filesystem": {"allowWrite": ["./.vscode"]}}`, guard: "**/.vscode/"},
		{name: "managed and opened by the same", managed: `{"workspace": {"protect": ["**/deploy.sh"]}, "filesystem": {"allowWrite": ["./deploy.sh"]}}`, guard: "**/deploy.sh", want: []string{"deploy.sh"}},
		{name: "absent, denied and opened deeper", user: `{"filesystem": {"denyWrite": ["./gen"], "allowWrite": ["./gen/out"]}}`, guard: "gen", want: []string{"gen/out"}},
	} {
		p := mustPlan(t, loaded(t, c.managed, c.user, c.flags, nil))
		g := guardOf(p, c.guard)
		if g == nil || !slices.Equal(g.Except, c.want) {
			t.Errorf("%s: %+v, want except %v", c.name, g, c.want)
		}
	}
	p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyWrite": ["./gen"]}}`, `{"filesystem": {"allowWrite": ["./gen"]}}`, nil))
	if g := guardOf(p, "gen"); g != nil {
		t.Errorf("what a stronger rule opens is guarded: %+v", g)
	}
}

// Nothing is mounted at a path that leads through a symlink, and a mask for a link is
// no directory: the boundary follows no link, so such a plan could not be carried out.
func TestSymlinkedRulePaths(t *testing.T) {
	dir := func(p string) host.Path {
		return host.Path{Kind: host.KindDir, Real: full(p), RealKind: host.KindDir}
	}
	more := map[string]host.Path{
		"./link":     {Kind: host.KindSymlink, Real: full("./a"), RealKind: host.KindDir},
		"./link/gen": {Kind: host.KindDir, Real: full("./a/gen"), RealKind: host.KindDir},
		"./dangling": {Kind: host.KindSymlink, RealKind: host.KindAbsent},
		"~/way":      {Kind: host.KindSymlink, Real: "/srv/data", RealKind: host.KindDir},
		"~/way/deep": {Kind: host.KindDir, Real: "/srv/data/deep", RealKind: host.KindDir},
		"/srv/data":  dir("/srv/data"), "/srv/data/deep": dir("/srv/data/deep"),
	}
	at := func(p *plan.Plan, target string) plan.Mount {
		if m := mountAt(p, full(target)); m != nil {
			return *m
		}
		return plan.Mount{}
	}
	p := mustPlan(t, loaded(t, "", `{"filesystem": {"denyRead": ["./link/gen"]}}`, "", more))
	wantShown(t, p, map[string]string{"./a/gen/x": "none"})
	if m := at(p, "./link/gen"); m.Kind != "" {
		t.Errorf("mounted through a link: %+v", m)
	}
	p = mustPlan(t, loaded(t, "", `{"filesystem": {"denyWrite": ["./link/gen"]}}`, "", more))
	wantShown(t, p, map[string]string{"./a/gen/x": "read"})
	if m := at(p, "./link/gen"); m.Kind != "" {
		t.Errorf("mounted through a link: %+v", m)
	}
	p = mustPlan(t, loaded(t, "", `{"filesystem": {"denyRead": ["./link", "./dangling"]}}`, "", more))
	wantShown(t, p, map[string]string{"./a/x": "none"})
	for _, link := range []string{"./link", "./dangling"} {
		if m := at(p, link); m.Kind != plan.Mask || m.Directory {
			t.Errorf("%s: %+v", link, m)
		}
	}
	p = mustPlan(t, loaded(t, "", `{"filesystem": {"allowRead": ["~/way/deep"]}}`, "", more))
	if m := at(p, "~/way/deep"); m.Kind != plan.Symlink || m.Source != "/srv/data/deep" {
		t.Errorf("the person's own way: %+v", m)
	}
	wantShown(t, p, map[string]string{"/srv/data/deep/x": "read", "/srv/data/x": "none"})
}

// A symlink on the way of a name that must not be written keeps its own name: with
// another in its place the protected name would stand for something else. What is not
// there is guarded where it would be made.
func TestLinksOnTheWayArePinned(t *testing.T) {
	more := map[string]host.Path{
		"./a/b/link": {Kind: host.KindSymlink, Real: full("./a/gen"), RealKind: host.KindDir, Links: []string{full("./a/b/link")}},
		"./way":      {Kind: host.KindSymlink, Real: full("./a"), RealKind: host.KindDir, Links: []string{full("./way")}},
		"./way/b/link/x": {Kind: host.KindFile, Real: full("./a/gen/x"), RealKind: host.KindFile,
			Links: []string{full("./way"), full("./a/b/link")}},
		"./a/gen/x":     thing(host.KindFile),
		"./way/new":     {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: full("./a/new"), Links: []string{full("./way")}},
		"./a/new":       {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: full("./a/new")},
		"./dangling":    {Kind: host.KindSymlink, RealKind: host.KindAbsent, At: full("./a/new"), Links: []string{full("./dangling")}},
		"~/home-link":   {Kind: host.KindSymlink, Real: annWork, RealKind: host.KindDir, Links: []string{full("~/home-link")}},
		"~/home-link/a": {Kind: host.KindDir, Real: full("./a"), RealKind: host.KindDir, Links: []string{full("~/home-link")}},
	}
	for user, pinned := range map[string][]string{
		`"denyWrite": ["./way/b/link/x"]`:                          {"./way", "./a", "./a/b", "./a/b/link", "./a/gen", "./a/gen/x"},
		`"allowWrite": ["./way"], "denyWrite": ["./way/b/link/x"]`: {"./way", "./a/b/link"},
		`"denyWrite": ["./way/new"]`:                               {"./way"},
		`"denyWrite": ["./dangling"]`:                              {"./dangling"},
		`"denyWrite": ["~/home-link/a"]`:                           {"./a"},
	} {
		p := mustPlan(t, loaded(t, "", `{"filesystem": {`+user+`}}`, "", more))
		for _, target := range pinned {
			if m := mountAt(p, full(target)); m == nil || m.Kind != plan.Pin {
				t.Errorf("%s: %s: %+v", user, target, m)
			}
		}
		if m := mountAt(p, full("~/home-link")); m != nil {
			t.Errorf("%s: %+v", user, m)
		}
		if strings.HasSuffix(user, `new"]`) || strings.Contains(user, "dangling") {
			if guardOf(p, "a/new") == nil || guardOf(p, "a/new/") == nil {
				t.Errorf("%s: what would be made is not guarded: %+v", user, p.Guards)
			}
		}
	}
}

// A run that could not begin is refused before it begins.
func TestNoPlaceToStart(t *testing.T) {
	for user, hint := range map[string]string{
		`{"filesystem": {"denyRead": ["."]}}`:        "take the rule out",
		`{"filesystem": {"denyRead": ["/usr"]}}`:     "--allow-read /usr/bin",
		`{"filesystem": {"denyRead": ["/usr/bin"]}}`: "--allow-read /usr/bin",
	} {
		_, err := Plan(loaded(t, "", user, "", nil))
		e, ok := err.(*Error)
		if !ok || !strings.Contains(e.Hint, hint) || e.Rule == "" || e.Origin.Line != 1 {
			t.Errorf("%s: %+v", user, err)
		}
	}
	in := loaded(t, "", "", "", map[string]host.Path{"~/bin/true": {Kind: host.KindSymlink, Real: "/usr/bin/true", RealKind: host.KindFile}})
	in.Program = full("~/bin/true")
	if _, err := Plan(in); err == nil || err.(*Error).Hint != "call it /usr/bin/true" {
		t.Errorf("a name that is not there inside: %v", err)
	}
}

// A denial of a variable holds whether or not the variable is there outside.
func TestEnvironment(t *testing.T) {
	in := loaded(t, "", `{"environment": {"allow": ["A*", "B", "PWD"], "deny": ["AB", "S", "HO*"], "set": {"S": "1", "T": "~/t", "USER": "root"}}}`, "", nil)
	for _, outside := range [][]string{{"AA=1", "AB=2", "B=3", "C=4", "S=9", "broken", "=x"}, {"AA=1", "B=3"}} {
		in.Environ = outside
		p := mustPlan(t, in)
		got := map[string]string{}
		for _, v := range p.Environment {
			got[v.Name] = v.Value
		}
		want := map[string]string{"AA": "1", "B": "3", "T": annHome + "/t", "HOME": annHome, "USER": "ann", "LOGNAME": "ann", "PWD": annWork, "TMPDIR": "/tmp", "COFFERDAM": "1"}
		if !maps.Equal(got, want) {
			t.Errorf("%v: %v, want %v", outside, got, want)
		}
		for rule, status := range map[string]plan.Status{"set environment USER": plan.Impossible, "deny environment HO*": plan.Coarse, "allow environment PWD": plan.Coarse, "deny environment AB": plan.Enforced} {
			if r := ruleOf(t, p, rule); r.Status != status || (r.Note == "") != (status == plan.Enforced) {
				t.Errorf("%+v, want %s", r, status)
			}
		}
	}
}

// A mask does not take away what keeps a name in its place: with a directory above it
// renamed, the mask goes along, and another would stand where the host looks.
func TestAMaskedNameStaysInItsPlace(t *testing.T) {
	for _, user := range []string{
		`{"filesystem": {"denyRead": ["./a/gen"], "denyWrite": ["./a/gen"]}}`,
		`{"filesystem": {"denyRead": ["./a/gen"]}, "workspace": {"protect": ["a/gen/x"]}}`,
	} {
		in := loaded(t, "", user, "", nil)
		in.Facts.Found = append(in.Facts.Found, host.Found{Path: full("./a/gen/x"), Kind: host.KindFile, Pattern: "a/gen/x"})
		p := mustPlan(t, in)
		if m := mountAt(p, full("./a")); m == nil || m.Kind != plan.Pin || !m.Write {
			t.Errorf("%s: %+v", user, m)
		}
		if m := mountAt(p, full("./a/gen")); m == nil || m.Kind != plan.Mask {
			t.Errorf("%s: %+v", user, m)
		}
	}
}
