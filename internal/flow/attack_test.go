package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// hostile is a caller with a home and a workspace in it, both real paths.
func hostile(t *testing.T) (c Caller, home, workspace string) {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	workspace = home + "/p"
	if err := os.Mkdir(workspace, 0o755); err != nil {
		t.Fatal(err)
	}
	return Caller{Dir: workspace, Environ: []string{"HOME=" + home, "PATH=/usr/bin:/bin"}}, home, workspace
}

// Nobody works where cofferdam keeps what it trusts, nor above or below it.
func TestStateDirectoryIsNoWorkspace(t *testing.T) {
	c, home, workspace := hostile(t)
	state := home + "/.local/state/cofferdam"
	if err := os.MkdirAll(state+"/homes", 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, good := range map[string]bool{workspace: true, home + "/.local": false, state: false, state + "/homes": false} {
		t.Chdir(dir)
		c.Dir = dir
		p, err := prepare(t.Context(), Options{Command: []string{"true"}}, c)
		if (err == nil) != good {
			t.Errorf("%s: %v", dir, err)
		}
		if err == nil && !slices.ContainsFunc(p.policy.Paths, func(r policy.PathRule) bool { return r.Access == policy.DenyRead && r.Pattern == state }) {
			t.Error("no rule hides the state directory")
		}
	}
}

// A HOME of one's own choice is "~", and opens nothing of the home that the system's
// user list names: it is no workspace, and what a rule opens of it is without the keys.
func TestTwoHomes(t *testing.T) {
	c, home, workspace := hostile(t)
	login := t.TempDir()
	if err := os.MkdirAll(login+"/.ssh", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(workspace)
	pl, err := locate(Options{}, c)
	if err != nil {
		t.Fatal(err)
	}
	if pl.login == "" || pl.login == home || pl.facts.Home != home {
		t.Fatalf("the homes are %q and %q", pl.login, pl.facts.Home)
	}
	pl.login = login
	for dir, good := range map[string]bool{login: false, filepath.Dir(login): false, home: false, workspace: true, login + "/project": true} {
		pl.workspace = dir
		if err := placeForbidden(pl, "/nowhere"); (err == nil) != good {
			t.Errorf("%s: %v", dir, err)
		}
	}
	pl.workspace = workspace
	eff, err := loadPolicy(Options{Command: []string{"true"}, AllowRead: []string{login}}, c, pl, home+"/state")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(eff.Paths, func(r policy.PathRule) bool { return r.Access == policy.DenyRead && r.Pattern == login+"/.ssh" }) {
		t.Error("no rule hides the keys in the home of the user list")
	}
}

// A directory may be called like a pattern: a flag means the path in it.
func TestFlagsInOddDirectories(t *testing.T) {
	for in, want := range map[string]string{
		"secret": `/h/\[p]\*/secret`, "*.pem": `/h/\[p]\*/*.pem`, "../x": "/h/x", "/a/*": "/a/*", "~/x": "~/x", ".": `/h/\[p]\*`,
	} {
		if got := fromHere(in, "/h/[p]*"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	c, home, _ := hostile(t)
	dir := home + "/[p]"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	x, err := Explain(t.Context(), Options{DenyRead: []string{"secret"}}, c, "read", "secret")
	if err != nil || x.Allowed || !strings.Contains(x.Rule, "secret") {
		t.Errorf("%+v %v", x, err)
	}
}

// A secret that is a symlink hides what it leads to; an example that is one opens
// nothing.
func TestLinksOfSecretsAreFollowed(t *testing.T) {
	_, _, workspace := hostile(t)
	for name, text := range map[string]string{"conf/prod": "", ".env.example": "conf/prod", ".env": "conf/prod", "a.key": "/etc/hostname", "b.key": ".", "c.key": "nothing"} {
		full := filepath.Join(workspace, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if text == "" {
			err = os.WriteFile(full, []byte("secret"), 0o600)
		} else {
			err = os.Symlink(text, full)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eff := &policy.Effective{Paths: []policy.PathRule{
		{Access: policy.DenyRead, Pattern: workspace + "/**/.env", Glob: true}, {Access: policy.DenyRead, Pattern: workspace + "/**/*.key", Glob: true},
		{Access: policy.AllowRead, Pattern: workspace + "/**/.env.example", Glob: true},
	}}
	f, err := gather(place{workspace: workspace, dir: workspace}, eff, Caller{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range f.Found {
		if m.Kind != host.KindSymlink {
			got = append(got, m.Pattern+" "+m.Path)
		}
	}
	if want := []string{workspace + "/**/.env " + workspace + "/conf/prod"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What an earlier run has left in the private home does not keep the next one from
// starting, and leads nothing out of it.
func TestHostilePrivateHome(t *testing.T) {
	for name, plant := range map[string]func(dir, outside string) error{
		"link":        func(dir, outside string) error { return os.Symlink(outside, dir+"/.tool") },
		"file":        func(dir, _ string) error { return os.WriteFile(dir+"/.tool", nil, 0o600) },
		"closed":      func(dir, _ string) error { return os.Mkdir(dir+"/.tool", 0) },
		"closed home": func(dir, _ string) error { return os.Chmod(dir, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			_, home, _ := hostile(t)
			private, outside := home+"/private", t.TempDir()
			p := &prepared{policy: &policy.Effective{Seeds: []policy.Seed{{Path: ".tool/settings"}}}, facts: host.Facts{Home: home}}
			p.plan = &plan.Plan{PrivateHome: private}
			for _, dir := range []string{private, home + "/.tool"} {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(home+"/.tool/settings", []byte("seed"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := plant(private, outside); err != nil {
				t.Fatal(err)
			}
			if err := makeHome(p); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
				t.Errorf("outside: %v %v", left, err)
			}
			_ = os.Chmod(private+"/.tool", 0o700)
		})
	}
}

// What a repository has git obey elsewhere in the workspace is guarded there, be it
// there already or not.
func TestGitConfigIsFollowed(t *testing.T) {
	_, _, ws := hostile(t)
	for name, text := range map[string]string{
		".git/config": "[core]\n\thooksPath = .husky\n[include]\n\tpath = ../shared\n\tpath = ../absent\n\tpath = /etc/gitconfig\n",
		"shared":      "[includeIf \"gitdir:x/\"]\n\tpath = more\n", "more": "", ".husky/pre-commit": "",
		"a/.git/config": "[core]\n\thooksPath = .\n", "b/.git/config": "[core]\n\thooksPath = ..\n",
	} {
		if err := os.MkdirAll(filepath.Dir(ws+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ws+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	eff := &policy.Effective{Guards: []policy.GuardRule{{Pattern: "**/.git/config"}}}
	f, err := gather(place{workspace: ws, dir: ws}, eff, Caller{})
	if err != nil {
		t.Fatal(err)
	}
	var guards, found []string
	for _, g := range eff.Guards[1:] {
		guards = append(guards, g.Pattern)
	}
	for _, m := range f.Found {
		if m.Pattern != "**/.git/config" {
			found = append(found, strings.TrimPrefix(m.Path, ws+"/")+" "+m.Kind)
		}
	}
	slices.Sort(guards)
	slices.Sort(found)
	if want := []string{".husky/", "a/", "absent", "more", "shared"}; !slices.Equal(guards, want) {
		t.Errorf("guards %q, want %q", guards, want)
	}
	if want := []string{".husky dir", "a dir", "more file", "shared file"}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
}

// A configuration that is not understood may name hooks: the person is told before
// the start.
func TestGitConfigThatIsNotUnderstood(t *testing.T) {
	for name, text := range map[string]string{
		"plain": "[core]\n\tbare = false\n", "lines of another system": "[core]\r\n\thooksPath = .husky\r\n", "long": strings.Repeat("#\n", gitConfigSize),
		"closed": "[core]\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, ws := hostile(t)
			if err := os.Mkdir(ws+"/.git", 0o755); err != nil {
				t.Fatal(err)
			}
			file := ws + "/.git/config"
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			want := name != "plain"
			if name == "closed" { // to anybody but root
				if err := os.Chmod(file, 0); err != nil {
					t.Fatal(err)
				}
				want = os.Getuid() != 0
			}
			eff := &policy.Effective{Guards: []policy.GuardRule{{Pattern: "**/.git/config"}}}
			if _, err := gather(place{workspace: ws, dir: ws}, eff, Caller{}); err != nil {
				t.Fatal(err)
			}
			if told := len(eff.Warnings) == 1 && strings.HasPrefix(eff.Warnings[0].Text, file+": "); told != want {
				t.Errorf("%+v", eff.Warnings)
			}
		})
	}
}
