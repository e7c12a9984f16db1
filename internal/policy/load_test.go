package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/plan"
)

// site is a directory with a workspace and the files of all layers.
type site struct {
	t   testing.TB
	dir string
	Source
}

func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, Source: Source{
		Place:    Place{Home: dir + "/home", Workspace: dir + "/home/project"},
		UserFile: dir + "/home/policy.jsonc", Managed: dir + "/managed.jsonc",
	}}
	if err := os.MkdirAll(filepath.Join(s.Workspace, filepath.Dir(ProjectFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) project() string { return filepath.Join(s.Workspace, ProjectFile) }

func (s *site) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) load() *Effective {
	s.t.Helper()
	e, err := Load(s.Source)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// said lists the rules of a path as "layer access", weakest first.
func said(e *Effective, pattern string) []string {
	var out []string
	for _, r := range e.Paths {
		if r.Pattern == pattern {
			out = append(out, r.Origin.Layer+" "+string(r.Access))
		}
	}
	return out
}

func limitOf(e *Effective, name string) (int64, string) {
	for _, l := range e.Limits {
		if l.Name == name {
			return l.Value, l.Origin.Layer
		}
	}
	return 0, ""
}

func TestLayersWeakestFirst(t *testing.T) {
	s := newSite(t)
	const text = "{\n\"filesystem\": {\"denyRead\": [\"/x\"]}}"
	for _, f := range []string{s.UserFile, s.project(), s.Managed} {
		s.write(f, text)
	}
	s.Flags, _ = Parse("flags", []byte(text))
	e := s.load()
	if got, want := said(e, "/x"), []string{"user denyRead", "project denyRead", "flag denyRead", "managed denyRead"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	last := -1
	for _, r := range e.Paths {
		if r.Strength < last {
			t.Errorf("%s %s is weaker than what comes before it", r.Access, r.Text)
		}
		last = r.Strength
		if r.Pattern == "/x" && r.Origin.Layer != "flag" && (r.Origin.Line != 2 || r.Origin.File == "") {
			t.Errorf("no place: %+v", r.Origin)
		}
	}
}

// --policy takes the place of the user's and the project's file, not of the
// organisation's.
func TestNamedFileReplacesOthersButTheManaged(t *testing.T) {
	s := newSite(t)
	for _, f := range []string{s.UserFile, s.project(), s.Managed} {
		s.write(f, `{"filesystem": {"denyRead": ["/x"]}}`)
	}
	s.File = s.dir + "/named.jsonc"
	s.write(s.File, `{"filesystem": {"allowRead": ["/x"]}}`)
	if got, want := said(s.load(), "/x"), []string{"user allowRead", "managed denyRead"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	os.Remove(s.File)
	if _, err := Load(s.Source); err == nil {
		t.Error("a named file that is not there is no error")
	}
}

func TestLimits(t *testing.T) {
	s := newSite(t)
	memory := func(n int) string { return fmt.Sprintf(`{"resources": {"memory": "%dMiB"}}`, n) }
	for _, c := range []struct {
		user, project, flag, managed int
		trusted                      bool
		want                         int64
		from                         string
	}{
		{user: 100, want: 100, from: "user"},
		{project: 100, want: 100, from: "project"},
		{user: 100, project: 50, want: 50, from: "project"},
		{user: 100, project: 200, want: 100, from: "user"},
		{user: 100, project: 200, trusted: true, want: 200, from: "project"},
		{user: 100, flag: 200, want: 200, from: "flag"},
		{user: 100, flag: 200, managed: 150, want: 150, from: "managed"},
		{user: 100, managed: 150, want: 100, from: "user"},
		{managed: 150, want: 150, from: "managed"},
	} {
		s.Flags = nil
		s.Trusted = func(string, []byte) bool { return c.trusted }
		for file, n := range map[string]int{s.UserFile: c.user, s.project(): c.project, s.Managed: c.managed} {
			os.Remove(file)
			if n > 0 {
				s.write(file, memory(n))
			}
		}
		if c.flag > 0 {
			s.Flags, _ = Parse("flags", []byte(memory(c.flag)))
		}
		if got, from := limitOf(s.load(), "memory"); got != c.want<<20 || from != c.from {
			t.Errorf("%+v: %d of %s", c, got>>20, from)
		}
	}
}

func TestCPUsAreNotRoundedDown(t *testing.T) {
	s := newSite(t)
	s.write(s.UserFile, `{"resources": {"cpus": 2.3}}`)
	if got, _ := limitOf(s.load(), "cpus"); got != 2300 {
		t.Errorf("%d", got)
	}
}

// What the directories above are called is no pattern, whatever is in the name.
func TestPlaceIsNoPattern(t *testing.T) {
	for _, c := range []struct {
		text, want string
		glob       bool
	}{
		{".", `/h*/[p]\`, false},
		{"secret", `/h*/[p]\/secret`, false},
		{"~/.ssh", `/h*/.ssh`, false},
		{`\[id]/x`, `/h*/[p]\/[id]/x`, false},
		{"~/*.key", `/h\*/*.key`, true},
		{"**/.env", `/h\*/\[p]\\/**/.env`, true},
	} {
		r := Place{Home: "/h*", Workspace: `/h*/[p]\`}.resolve(DenyRead, c.text, builtinOrigin(""))
		if r.Pattern != c.want || r.Glob != c.glob {
			t.Errorf("%s: %s %v, want %s %v", c.text, r.Pattern, r.Glob, c.want, c.glob)
		}
	}
}

// Nothing that a file can say is read and then dropped.
func TestEveryKeyArrives(t *testing.T) {
	s := newSite(t)
	s.write(s.UserFile, `{
 "extends": ["ruby"], "boundary": "native",
 "filesystem": {"allowRead": ["/ar"], "denyRead": ["/dr"], "allowWrite": ["/aw"], "denyWrite": ["/dw"], "allowGitConfig": true},
 "credentials": {"files": [{"path": "/cf"}, {"path": "/mf", "mode": "mask", "hosts": ["a.test"], "extract": "(x)", "bodies": true}],
  "envVars": [{"name": "CV"}, {"name": "MV", "mode": "mask", "hosts": ["*.a.test:8443"], "command": ["c", "d"], "ttl": "1m", "bodies": true}]},
 "network": {"allowedDomains": ["a.example"], "deniedDomains": ["d.example"], "allowedCIDRs": ["10.0.0.0/8"], "tunnelDomains": ["t.example"], "unlisted": "ask",
  "rules": [{"host": "r.example", "methods": ["GET"], "paths": ["/p"], "git": ["fetch", "push"], "refs": ["refs/heads/r"], "packages": ["install", "publish"],
   "uploads": ["gist", "release", "file"], "reason": "why"}, {"host": "r.example", "effect": "ask", "tls": "inspect"}, {"host": "*", "effect": "deny"}]},
 "environment": {"allow": ["A"], "deny": ["D"], "set": {"S": "1"}},
 "workspace": {"mode": "live", "home": "ephemeral", "protect": ["p"], "unprotect": ["**/.vscode/"]},
 "resources": {"timeout": "1m", "memory": "1MiB", "cpus": 2, "processes": 3, "openFiles": 4, "tempSize": "5MiB"},
 "identity": {"allowRoot": true}
}`)
	e := s.load()
	var got []string
	add := func(o plan.Origin, text string, more ...any) {
		if o.Layer == "user" {
			got = append(got, o.Key+" "+text+fmt.Sprint(more...))
		}
	}
	for _, r := range e.Paths {
		add(r.Origin, string(r.Access)+" "+r.Pattern)
	}
	for _, r := range e.Env {
		add(r.Origin, string(r.Action)+" "+r.Name+" "+r.Value)
	}
	for _, r := range e.Net {
		add(r.Origin, strings.TrimSpace(r.Text()+" "+r.Reason))
	}
	for _, g := range e.Guards {
		add(g.Origin, g.Pattern)
	}
	for _, m := range e.Masks {
		add(m.Origin, fmt.Sprintf("mask %s%s %q %q %d %v %s", m.Name, m.Path, m.Hosts, m.Command, m.TTL, m.Bodies, m.Extract))
	}
	for _, l := range e.Limits {
		add(l.Origin, l.Name+" "+l.Unit+" ", l.Value)
	}
	add(e.Boundary.Origin, e.Boundary.Value)
	add(e.WorkspaceMode.Origin, e.WorkspaceMode.Value)
	add(e.Home.Origin, e.Home.Value)
	add(e.Unlisted.Origin, e.Unlisted.Value)
	add(e.AllowRoot.Origin, "", e.AllowRoot.Value)
	add(e.AllowGitConfig.Origin, "", e.AllowGitConfig.Value)
	want := []string{
		"boundary native", "credentials.envVars deny CV ", "credentials.envVars mask MV ",
		`credentials.envVars mask MV ["*.a.test:8443"] ["c" "d"] 60000 true `, "credentials.files denyRead /cf", "credentials.files mask /mf",
		`credentials.files mask /mf ["a.test:443"] [] 0 true (x)`, "environment.allow allow A ", "environment.deny deny D ",
		"environment.set set S 1", "filesystem.allowGitConfig true", "filesystem.allowRead allowRead /ar", "filesystem.allowWrite allowWrite /aw",
		"filesystem.denyRead denyRead /dr", "filesystem.denyWrite denyWrite /dw", "identity.allowRoot true", "network.allowedCIDRs allowedCIDRs 10.0.0.0/8",
		"network.allowedDomains allowedDomains a.example", "network.deniedDomains deniedDomains d.example",
		"network.rules rules * deny",
		"network.rules rules r.example allow, methods GET, paths /p, git fetch push, packages install publish, uploads gist release file, refs refs/heads/r why",
		"network.rules rules r.example ask, tls inspect", "network.tunnelDomains tunnelDomains t.example", "network.unlisted ask", "resources.cpus cpus millicpu 2000",
		"resources.memory memory bytes 1048576", "resources.openFiles open-files count 4", "resources.processes processes count 3",
		"resources.tempSize temp-size bytes 5242880", "resources.timeout time ms 60000", "workspace.home ephemeral", "workspace.mode live", "workspace.protect p",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if slices.ContainsFunc(e.Guards, func(g GuardRule) bool { return g.Pattern == "**/.vscode/" || g.Pattern == "**/.git/config" }) || !slices.Equal(e.Profiles, []string{"ruby"}) {
		t.Errorf("unprotect, allowGitConfig or extends: %+v", e.Profiles)
	}
}

// Without a home "~/" is "/": an allowance would open the whole machine, and a denial
// be one of something else.
func TestNoHomeIsAnError(t *testing.T) {
	for _, home := range []string{"", "."} {
		s := newSite(t)
		s.Home = home
		s.write(s.UserFile, `{"filesystem": {"allowRead": ["~/"]}}`)
		if e, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), "HOME") {
			t.Errorf("%q: %v %v", home, err, said(e, "/"))
		}
	}
}

// In the tools whose settings these are, a denial like these wins over every
// allowance, in whatever way the two paths are written.
func TestImportedDenialsHoldHoweverWritten(t *testing.T) {
	s := newSite(t)
	s.File = s.dir + "/settings.json"
	for _, c := range []struct{ deny, allow string }{
		{s.Home + "/.aws", "~/.aws/config"},
		{"~/.aws", s.Home + "/.aws/config"},
		{"./keys", "~/project/keys/x"},
		{"~/project/keys", "./keys/x"},
		{s.Workspace + "/k*", "keys/x"},
	} {
		s.write(s.File, fmt.Sprintf(`{"sandbox": {"credentials": {"files": [{"path": %q, "mode": "deny"}]}, "filesystem": {"allowRead": [%q, "./other"]}}}`, c.deny, c.allow))
		e := s.load()
		var open []string
		for _, r := range e.Paths {
			if r.Access == AllowRead && r.Origin.Layer == "import:claude" {
				open = append(open, r.Text)
			}
		}
		told := slices.ContainsFunc(e.Warnings, func(w Warning) bool { return strings.Contains(w.Text, "is left out") })
		if !slices.Equal(open, []string{"./other"}) || !told {
			t.Errorf("%+v: open are %v, %+v", c, open, e.Warnings)
		}
	}
}

// A project's file that is not trusted says nothing that opens something, and each
// thing that is left out is told with its place.
func TestUntrustedProject(t *testing.T) {
	s := newSite(t)
	s.write(s.UserFile, `{"resources": {"memory": "1GiB"}, "workspace": {"home": "ephemeral"}}`)
	s.write(s.project(), `{
 "extends": ["node"],
 "filesystem": {"allowRead": ["/r"], "allowWrite": ["/w"], "denyRead": ["/dr"], "denyWrite": ["/dw"], "allowGitConfig": true},
 "environment": {"allow": ["A"], "set": {"S": "1"}, "deny": ["D"]},
 "network": {"allowedDomains": ["example.org"], "allowedCIDRs": ["10.0.0.0/8"], "deniedDomains": ["example.com"], "tunnelDomains": ["example.org"], "unlisted": "ask",
  "rules": [{"host": "example.org"}, {"host": "example.org", "effect": "ask"}, {"host": "example.org", "effect": "deny", "methods": ["PUT"]}]},
 "workspace": {"home": "private", "protect": ["p"], "unprotect": ["**/.vscode/"]},
 "resources": {"memory": "2GiB", "processes": 7},
 "identity": {"allowRoot": true}
}`)
	e := s.load()
	for pattern, want := range map[string][]string{"/r": nil, "/w": nil, "/dr": {"project denyRead"}, "/dw": {"project denyWrite"}} {
		if got := said(e, pattern); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", pattern, got, want)
		}
	}
	for _, r := range e.Env {
		if r.Origin.Layer == "project" && r.Action != EnvDeny {
			t.Errorf("%+v", r)
		}
	}
	for _, r := range e.Net {
		if r.Origin.Layer == "project" && r.Key != "deniedDomains" && r.Effect != Deny {
			t.Errorf("%+v", r)
		}
	}
	if !slices.ContainsFunc(e.Net, func(r NetRule) bool { return r.Text() == "rules example.org deny, methods PUT" }) {
		t.Error("a denial is left out")
	}
	if e.AllowGitConfig.Value || e.AllowRoot.Value || e.Home.Value != "ephemeral" || e.Unlisted.Value != Deny || len(e.Profiles) > 0 {
		t.Errorf("%+v %+v %+v %v", e.AllowGitConfig, e.AllowRoot, e.Home, e.Profiles)
	}
	if m, _ := limitOf(e, "memory"); m != 1<<30 {
		t.Errorf("memory %d", m)
	}
	if n, _ := limitOf(e, "processes"); n != 7 {
		t.Errorf("processes %d", n)
	}
	guard := func(p string) bool {
		return slices.ContainsFunc(e.Guards, func(g GuardRule) bool { return g.Pattern == p })
	}
	if !guard("p") || !guard("**/.vscode/") {
		t.Error("guards")
	}
	var keys []string
	for _, w := range e.Warnings {
		if w.Origin.Layer != "project" || w.Origin.Line == 0 || !strings.HasSuffix(w.Hint, "cofferdam policy trust") {
			t.Errorf("%+v", w)
		}
		keys = append(keys, w.Origin.Key)
	}
	slices.Sort(keys)
	want := []string{"environment.allow", "environment.set", "extends", "filesystem.allowGitConfig", "filesystem.allowRead", "filesystem.allowWrite", "identity.allowRoot",
		"network.allowedCIDRs", "network.allowedDomains", "network.rules", "network.rules", "network.tunnelDomains", "network.unlisted", "resources.memory", "workspace.home", "workspace.unprotect"}
	if !slices.Equal(keys, want) {
		t.Errorf("told %v, want %v", keys, want)
	}

	s.Trusted = func(path string, _ []byte) bool { return path == s.project() }
	if e = s.load(); len(said(e, "/w")) == 0 || !e.AllowGitConfig.Value || len(e.Warnings) > 0 {
		t.Errorf("trusted: %+v", e.Warnings)
	}
}

func TestManagedChoicesAreLast(t *testing.T) {
	s := newSite(t)
	s.write(s.Managed, `{"network": {"unlisted": "deny"}, "filesystem": {"allowGitConfig": false}, "identity": {"allowRoot": false}, "workspace": {"home": "ephemeral", "protect": ["x", "**/.git/config"]}}`)
	s.Flags, _ = Parse("flags", []byte(`{"network": {"unlisted": "ask"}, "filesystem": {"allowGitConfig": true}, "identity": {"allowRoot": true}, "workspace": {"home": "private", "unprotect": ["x"]}}`))
	e := s.load()
	if e.AllowGitConfig.Value || e.AllowRoot.Value || e.Home.Value != "ephemeral" || e.Unlisted.Value != Deny || e.Unlisted.Origin.Layer != managedLayer {
		t.Errorf("%+v %+v %+v", e.AllowGitConfig, e.AllowRoot, e.Home)
	}
	s.write(s.Managed, `{"filesystem": {"allowGitConfig": false}}`)
	s.Flags, _ = Parse("flags", []byte(`{"workspace": {"unprotect": ["**/.git/config"]}}`))
	e = s.load()
	if !slices.ContainsFunc(e.Guards, func(g GuardRule) bool { return g.Pattern == "**/.git/config" && g.Origin.Layer == "managed" }) {
		t.Error("unprotect does what the organisation does not let allowGitConfig do")
	}
	s.Flags, _ = Parse("flags", []byte(`{"filesystem": {"allowGitConfig": true}, "workspace": {"unprotect": ["x"]}}`))
	s.write(s.Managed, `{"workspace": {"protect": ["x", "**/.git/config"]}}`)
	e = s.load()
	for _, p := range []string{"x", "**/.git/config"} {
		if !slices.ContainsFunc(e.Guards, func(g GuardRule) bool { return g.Pattern == p && g.Origin.Layer == "managed" }) {
			t.Errorf("the organisation's guard %s is gone", p)
		}
	}
	if slices.ContainsFunc(e.Guards, func(g GuardRule) bool { return g.Pattern == "**/.git/config" && g.Origin.Layer != "managed" }) {
		t.Error("allowGitConfig lifts nothing")
	}
}

// No layer's file can make the loader wait, fill the memory or be passed over.
func TestNoLayerFileIsPassedOver(t *testing.T) {
	damage := map[string]struct {
		make func(t *testing.T, file string)
		want string
	}{
		"FIFO":      {func(t *testing.T, f string) { makeFifo(t, f) }, "a FIFO"},
		"directory": {func(t *testing.T, f string) { must(t, os.Mkdir(f, 0o700)) }, "a directory"},
		"100 MB": {func(t *testing.T, f string) {
			must(t, os.WriteFile(f, nil, 0o600))
			must(t, os.Truncate(f, 100<<20))
		}, "more than 1 MiB"},
		"invalid":  {func(t *testing.T, f string) { must(t, os.WriteFile(f, []byte(`{"filesystem": 1}`), 0o600)) }, ":1:16: filesystem"},
		"empty":    {func(t *testing.T, f string) { must(t, os.WriteFile(f, nil, 0o600)) }, "an empty file"},
		"loop":     {func(t *testing.T, f string) { must(t, os.Symlink(filepath.Base(f), f)) }, "symbolic links"},
		"dangling": {func(t *testing.T, f string) { must(t, os.Symlink("nowhere", f)) }, "no such file"},
	}
	for layer, file := range map[string]func(*site) string{
		"user": func(s *site) string { return s.UserFile }, "project": func(s *site) string { return s.project() },
		"managed": func(s *site) string { return s.Managed },
		"named":   func(s *site) string { s.File = s.dir + "/named"; return s.File },
	} {
		for name, d := range damage {
			t.Run(layer+"/"+name, func(t *testing.T) {
				s := newSite(t)
				f := file(s)
				d.make(t, f)
				_, err := Load(s.Source)
				var ps Problems
				if !errors.As(err, &ps) || !strings.Contains(err.Error(), d.want) || !strings.Contains(err.Error(), f) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, want one line about %s with %q", err, f, d.want)
				}
			})
		}
	}
	t.Run("project/link out", func(t *testing.T) {
		s := newSite(t)
		s.write(s.dir+"/outside", `{}`)
		must(t, os.Symlink(s.dir+"/outside", s.project()))
		if _, err := Load(s.Source); err == nil {
			t.Error("a project's file outside the project is read")
		}
	})
	for layer, file := range map[string]func(*site) string{
		"user":    func(s *site) string { s.UserFile = s.dir + "/config/cofferdam/policy.jsonc"; return s.dir + "/config" },
		"project": func(s *site) string { return filepath.Dir(s.project()) },
		"managed": func(s *site) string { s.Managed = s.dir + "/etc/managed.jsonc"; return s.dir + "/etc" },
	} {
		t.Run(layer+"/dangling directory", func(t *testing.T) {
			s := newSite(t)
			dir := file(s)
			os.Remove(dir)
			s.load() // no directory is no policy
			must(t, os.Symlink(s.dir+"/unmounted", dir))
			if _, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("a policy behind %s is passed over: %v", dir, err)
			}
			must(t, os.Mkdir(s.dir+"/unmounted", 0o700))
			if layer != "project" { // whose link leads out
				s.load()
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		s := newSite(t)
		for _, f := range []string{s.UserFile, s.project(), s.Managed} {
			s.write(f, `{"x": 1}`)
		}
		s.Profiles = []string{"cluade"}
		_, err := Load(s.Source)
		if n := strings.Count(fmt.Sprint(err), "\n"); n != 3 {
			t.Errorf("%d problems: %v", n+1, err)
		}
	})
}

// Whoever could write a policy inside would have all that it likes in the next run.
func TestPolicyFilesCantBeWritten(t *testing.T) {
	s := newSite(t)
	mine := s.Workspace + "/mine.jsonc"
	s.write(s.Workspace+"/base.jsonc", `{}`)
	s.write(s.UserFile, fmt.Sprintf(`{"extends": [%q], "filesystem": {"allowWrite": ["~", %[1]q]}}`, mine))
	s.write(mine, `{"filesystem": {"allowWrite": ["./mine.jsonc"]}}`)
	s.write(s.project(), `{"extends": ["../base.jsonc"]}`)
	s.write(s.Managed, `{}`)
	held := func(files ...string) {
		t.Helper()
		e := s.load()
		for _, f := range files {
			i := slices.IndexFunc(e.Paths, func(r PathRule) bool { return r.Pattern == f && r.Access == DenyWrite && !r.Glob })
			if i < 0 {
				t.Errorf("%s can be written", f)
				continue
			}
			for _, r := range e.Paths {
				if r.Pattern == f && r.Strength >= e.Paths[i].Strength && r.Access == AllowWrite {
					t.Errorf("%s is opened by %+v", f, r)
				}
			}
		}
	}
	held(s.UserFile, mine, s.project(), s.Workspace+"/base.jsonc", s.Managed)
	s.File = s.Workspace + "/x/../settings.json"
	must(t, os.Mkdir(s.Workspace+"/x", 0o700))
	for _, text := range []string{`{}`, `{"sandbox": {}}`} {
		s.write(s.File, text)
		held(s.Workspace+"/settings.json", s.Managed)
	}
}

func makeFifo(t *testing.T, path string) {
	t.Helper()
	must(t, syscall.Mkfifo(path, 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestExtends(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string // below the workspace's .cofferdam
		user  bool              // policy.jsonc is the user's, not the project's
		want  string            // of the error
	}{
		{name: "itself", files: map[string]string{"policy.jsonc": `{"extends": ["./policy.jsonc"]}`}, want: "leads back to this file"},
		{name: "in a circle", files: map[string]string{"policy.jsonc": `{"extends": ["./a.jsonc"]}`, "a.jsonc": `{"extends": ["../.cofferdam/policy.jsonc"]}`}, want: "leads back to this file"},
		{name: "not there", files: map[string]string{"policy.jsonc": `{"extends": ["./a.jsonc"]}`}, want: "no such file"},
		{name: "no profile", files: map[string]string{"policy.jsonc": `{"extends": ["cluade"]}`}, want: `did you mean "claude"?`},
		{name: "out of the project", files: map[string]string{"policy.jsonc": `{"extends": ["../../secret.jsonc"]}`}, want: "outside the project"},
		{name: "out of the project, absolute", files: map[string]string{"policy.jsonc": `{"extends": ["/etc/passwd.jsonc"]}`}, want: "outside the project"},
		{name: "out of the project, home", files: map[string]string{"policy.jsonc": `{"extends": ["~/secret.jsonc"]}`}, want: "outside the project"},
		{name: "invalid", files: map[string]string{"policy.jsonc": `{"extends": ["./a.jsonc"]}`, "a.jsonc": `{"x": 1}`}, want: "a.jsonc:1:2: x: unknown key"},
		{name: "of the user, out of its directory", user: true, files: map[string]string{"policy.jsonc": `{"extends": ["../../secret.jsonc"]}`}},
		{name: "twice, but in no circle", files: map[string]string{"policy.jsonc": `{"extends": ["./a.jsonc", "./b.jsonc"]}`, "a.jsonc": `{"extends": ["./b.jsonc"]}`, "b.jsonc": `{}`}},
		{name: "wide", files: map[string]string{"policy.jsonc": `{"extends": ["./a.jsonc", "./a.jsonc"]}`, "a.jsonc": `{"extends": ["./b.jsonc", "./b.jsonc"]}`, "b.jsonc": `{}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.write(s.Home+"/secret.jsonc", "{}")
			for name, text := range c.files {
				s.write(filepath.Join(s.Workspace, ".cofferdam", name), text)
			}
			if c.user {
				s.UserFile = s.project()
				s.Workspace = t.TempDir()
			}
			_, err := Load(s.Source)
			if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
				t.Errorf("%s, want %q", got, c.want)
			}
		})
	}
	t.Run("out of the project, by a link", func(t *testing.T) {
		s := newSite(t)
		s.write(s.Home+"/secret.jsonc", "{}")
		s.write(s.project(), `{"extends": ["./link.jsonc"]}`)
		link := filepath.Join(s.Workspace, ".cofferdam", "link.jsonc")
		if err := os.Symlink(s.Home+"/secret.jsonc", link); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), "escapes") {
			t.Errorf("%v", err)
		}
	})
	t.Run("deep", func(t *testing.T) {
		s := newSite(t)
		for i := range 12 {
			s.write(fmt.Sprintf("%s/%d.jsonc", s.Home, i), fmt.Sprintf(`{"extends": ["./%d.jsonc"]}`, i+1))
		}
		s.write(s.Home+"/12.jsonc", "{}")
		s.UserFile = s.Home + "/0.jsonc"
		if _, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), "more than eight files deep") {
			t.Errorf("%v", err)
		}
		s.UserFile = s.Home + "/5.jsonc"
		if _, err := Load(s.Source); err != nil {
			t.Errorf("eight files: %v", err)
		}
	})
	t.Run("a bomb", func(t *testing.T) {
		s := newSite(t)
		twice := func(n int) string {
			return strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`"./%d.jsonc",`, n), 40), ",")
		}
		for i := range 7 {
			s.write(fmt.Sprintf("%s/.cofferdam/%d.jsonc", s.Workspace, i), fmt.Sprintf(`{"extends": [%s], "filesystem": {"denyRead": ["/x"]}}`, twice(i+1)))
		}
		s.write(s.Workspace+"/.cofferdam/7.jsonc", "{}")
		s.write(s.project(), `{"extends": ["./0.jsonc"]}`)
		if _, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), "more than 100 files") {
			t.Errorf("%.200v", err)
		}
	})
	t.Run("a link out of the project", func(t *testing.T) {
		s := newSite(t)
		s.write(s.dir+"/outside.jsonc", `{}`)
		must(t, os.Symlink(s.dir+"/outside.jsonc", s.Workspace+"/.cofferdam/a.jsonc"))
		s.write(s.project(), `{"extends": ["./a.jsonc"]}`)
		if _, err := Load(s.Source); err == nil || !strings.Contains(err.Error(), "extends") {
			t.Errorf("%v", err)
		}
	})
	t.Run("trust in one file is no trust in another", func(t *testing.T) {
		s := newSite(t)
		s.write(s.project(), `{"extends": ["./a.jsonc"], "filesystem": {"allowRead": ["/p"]}}`)
		s.write(s.Workspace+"/.cofferdam/a.jsonc", `{"filesystem": {"allowRead": ["/a"]}}`)
		s.Trusted = func(path string, _ []byte) bool { return path == s.project() }
		e := s.load()
		if len(said(e, "/p")) != 1 || len(said(e, "/a")) != 0 || len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0].Hint, "only .cofferdam/policy.jsonc can be trusted") {
			t.Errorf("%v %v %+v", said(e, "/p"), said(e, "/a"), e.Warnings)
		}
	})
}

// A project that is not trusted can take a secret away, and gives none to anybody.
func TestProjectCantMask(t *testing.T) {
	const text = `{"credentials": {"files": [{"path": "~/.npmrc", "mode": "mask", "hosts": ["evil.test"]}, {"path": "~/.denied"}],
		"envVars": [{"name": "TOKEN", "mode": "mask", "hosts": ["evil.test"]}, {"name": "DENIED"}]}}`
	for _, trusted := range []bool{false, true} {
		s := newSite(t)
		s.write(s.project(), text)
		s.Trusted = func(string, []byte) bool { return trusted }
		e := s.load()
		var got []string
		for _, r := range e.Paths {
			if r.Origin.Layer == "project" {
				got = append(got, string(r.Access)+" "+r.Text)
			}
		}
		for _, r := range e.Env {
			if r.Origin.Layer == "project" {
				got = append(got, string(r.Action)+" "+r.Name)
			}
		}
		want, masks := []string{"denyRead ~/.denied", "deny DENIED"}, 0
		if trusted {
			want, masks = []string{"mask ~/.npmrc", "denyRead ~/.denied", "mask TOKEN", "deny DENIED"}, 2
		}
		if !slices.Equal(got, want) || len(e.Masks) != masks || len(e.Warnings) != 2-masks {
			t.Errorf("trusted %v: %q, %+v, %+v", trusted, got, e.Masks, e.Warnings)
		}
	}
}

// Budgets add up: a layer can make no budget of another one larger, and of what a project
// that is not trusted allows, the budget alone is left.
func TestBudgetsOnlyNarrow(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		s := newSite(t)
		s.write(s.Managed, `{"network": {"budget": {"upload": "1GiB"}}}`)
		s.write(s.UserFile, `{"network": {"budget": {"upload": "10MiB"}, "rules": [{"host": "a.test", "budget": {"requests": "100"}}]}}`)
		s.write(s.project(), `{"network": {"budget": {"upload": "100GiB", "connections": "5/s"}, "rules": [{"host": "a.test", "methods": ["POST"], "budget": {"requests": "5/10m"}}]}}`)
		s.Trusted = func(string, []byte) bool { return trusted }
		e := s.load()
		var got []string
		for _, b := range e.Budgets {
			got = append(got, b.Origin.Layer+" "+b.Text())
		}
		want := []string{"user budget: upload 10 MiB", "user budget a.test: requests 100",
			"project budget: upload 100 GiB", "project budget: connections 5 in 1s", "project budget a.test: requests 5 in 10m, methods POST", "managed budget: upload 1 GiB"}
		rules := 1
		if trusted {
			rules = 2
		}
		if !slices.Equal(got, want) || len(e.Net) != rules || len(e.Warnings) != 2-rules {
			t.Errorf("trusted %v: %q, %+v, %+v", trusted, got, e.Net, e.Warnings)
		}
	}
}

// By which proxy the outside is reached is not for a project to say, and whoever says it
// says also what goes past it.
func TestUpstreamLayers(t *testing.T) {
	const user = `{"network": {"upstreamProxy": "http://user.test:1/", "noProxy": ["user.test"]}}`
	const project = `{"network": {"upstreamProxy": "http://project.test:1", "noProxy": ["*"], "extraRoots": ["ca.pem"]}}`
	const managed = `{"network": {"upstreamProxy": "http://managed.test:1", "noProxy": ["managed.test"]}}`
	for _, c := range []struct {
		managed, user, project string
		trusted                bool
		want                   string
		direct                 []string
	}{
		{"", user, "", false, "http://user.test:1", []string{"user.test"}},
		{"", user, project, false, "http://user.test:1", []string{"user.test"}},
		{"", user, project, true, "http://project.test:1", []string{"*"}},
		{managed, user, project, true, "http://managed.test:1", []string{"managed.test"}},
		{"", user, `{"network": {"noProxy": ["more.test"]}}`, true, "http://user.test:1", []string{"user.test", "more.test"}},
	} {
		s := newSite(t)
		for file, text := range map[string]string{s.Managed: c.managed, s.UserFile: c.user, s.project(): c.project} {
			if text != "" {
				s.write(file, text)
			}
		}
		s.Trusted = func(string, []byte) bool { return c.trusted }
		e := s.load()
		var direct []string
		for _, d := range e.NoProxy {
			direct = append(direct, d.Value)
		}
		if roots := len(e.ExtraRoots); roots > 0 != (c.trusted && c.project == project) || roots > 0 && e.ExtraRoots[0].Pattern != filepath.Join(s.Workspace, "ca.pem") {
			t.Errorf("%+v: %+v", c, e.ExtraRoots)
		}
		if e.UpstreamProxy.Value != c.want || !slices.Equal(direct, c.direct) {
			t.Errorf("%+v: %+v, %q", c, e.UpstreamProxy, direct)
		}
	}
}

// FuzzLoad: random documents in all layers never make the loader panic, and what an
// untrusted one says never opens anything.
func FuzzLoad(f *testing.F) {
	f.Add(`{}`, `{"extends": ["go"]}`, `{"filesystem": {"denyRead": ["~"]}}`)
	f.Add(`{"workspace": {"protect": ["**/x", "[a-b]/"]}}`, `{"filesystem": {"allowRead": ["**/[!x]", "\\[x"]}}`, `{"extends": ["./policy.jsonc"]}`)
	f.Add(`{"resources": {"timeout": "1h", "memory": "8GiB", "cpus": 1e3}}`, "// \xff", `{"environment": {"set": {"A": "~/x"}, "allow": ["B*"]}}`)
	f.Fuzz(func(t *testing.T, managed, user, project string) {
		s := newSite(t)
		s.write(s.Managed, managed)
		s.write(s.UserFile, user)
		s.write(s.project(), project)
		e, err := Load(s.Source)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("an error that is no list of problems: %v", err)
			}
			return
		}
		for _, r := range e.Paths {
			if !filepath.IsAbs(r.Pattern) || filepath.Clean(r.Pattern) != r.Pattern {
				t.Errorf("%+v", r)
			}
			if r.Origin.Layer == "project" && (r.Access == AllowRead || r.Access == AllowWrite || r.Access == Mask) {
				t.Errorf("the project opens %+v", r)
			}
		}
	})
}
