package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

func source(t *testing.T, content string) policy.Source {
	t.Helper()
	home := t.TempDir()
	s := policy.Source{Place: policy.Place{Home: home, Workspace: filepath.Join(home, "project"), Login: home}, UserFile: filepath.Join(home, ".config/cofferdam/policy.jsonc")}
	if content != "" {
		if err := os.MkdirAll(filepath.Dir(s.UserFile), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.UserFile, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func hostRule(name string) []plan.NetRule {
	return []plan.NetRule{{Allow: true, Name: name, Port: 443}}
}

func nowhere(string) bool { return false }

// left lists the directory of the policy.
func left(t *testing.T, s policy.Source) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(s.UserFile))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestExtend(t *testing.T) {
	for _, content := range []string{"", "// mine\n{}\n"} {
		s := source(t, content)
		if err := extend(s, hostRule("a.test"), nowhere); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(s.UserFile)
		if err != nil || !strings.Contains(string(b), `"a.test:443"`) || !strings.HasPrefix(string(b), strings.TrimSuffix(content, "{}\n")) {
			t.Errorf("%v: %s", err, b)
		}
		want := os.FileMode(0o600)
		if content != "" {
			want = 0o640
		}
		if info, err := os.Stat(s.UserFile); err != nil || info.Mode() != want {
			t.Errorf("%v %v", info.Mode(), err)
		}
		if names := left(t, s); len(names) != 1 {
			t.Errorf("left: %q", names)
		}
	}
}

// A file of dotfiles stays a link to them.
func TestExtendLink(t *testing.T) {
	s := source(t, "{}")
	real := filepath.Join(s.Home, "dotfiles")
	if err := os.Rename(s.UserFile, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, s.UserFile); err != nil {
		t.Fatal(err)
	}
	if err := extend(s, hostRule("a.test"), func(dir string) bool { return dir != s.Home }); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(real)
	if to, err := os.Readlink(s.UserFile); err != nil || to != real || !strings.Contains(string(b), "a.test") {
		t.Errorf("%q %v: %s", to, err, b)
	}
	if err := extend(s, hostRule("b.test"), func(dir string) bool { return dir == s.Home }); err == nil || !strings.Contains(err.Error(), "where the inside may write") {
		t.Errorf("%v", err)
	}
}

// Many at once: each rule is in the file, and it was a policy at each moment.
func TestExtendAtOnce(t *testing.T) {
	s := source(t, "{\n  // hosts\n}\n")
	var wg sync.WaitGroup
	done := make(chan struct{})
	reader := make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				reader <- nil
				return
			default:
				if err := policy.CheckFile(s.UserFile); err != nil {
					reader <- err
					return
				}
			}
		}
	}()
	for i := range 10 {
		wg.Go(func() {
			if err := extend(s, hostRule(fmt.Sprintf("h%d.test", i)), nowhere); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(done)
	if err := <-reader; err != nil {
		t.Errorf("half written: %v", err)
	}
	b, _ := os.ReadFile(s.UserFile)
	for i := range 10 {
		if !strings.Contains(string(b), fmt.Sprintf(`"h%d.test:443"`, i)) {
			t.Errorf("h%d is lost: %s", i, b)
		}
	}
	if names := left(t, s); len(names) != 1 {
		t.Errorf("left: %q", names)
	}
}

// What the loader would refuse never takes the place of what it takes.
func TestExtendRefuses(t *testing.T) {
	for content, why := range map[string]string{
		`{"network": {"allowedDomains": "a"}}`: "policy.jsonc:1",
		`{"extends": ["./gone.jsonc"]}`:        "gone.jsonc",
		"{":                                    "ends in the middle",
	} {
		s := source(t, content)
		err := extend(s, hostRule("a.test"), nowhere)
		if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), ".new") {
			t.Errorf("%s: %v", content, err)
		}
		if b, _ := os.ReadFile(s.UserFile); string(b) != content || len(left(t, s)) != 1 {
			t.Errorf("%s became %s; left %q", content, b, left(t, s))
		}
	}
	s := source(t, "{}")
	if err := extend(s, []plan.NetRule{{Allow: true, Name: "a\", \"*.b", Port: 443}}, nowhere); err == nil {
		t.Error("a name that is none")
	}
	// The directory can't be written.
	if err := os.Chmod(filepath.Dir(s.UserFile), 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Dir(s.UserFile), 0o700)
	if err := extend(s, hostRule("a.test"), nowhere); os.Geteuid() != 0 && !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
}

// Requests become rules; and the next loader takes them.
func TestExtendRequests(t *testing.T) {
	s := source(t, `{"network": {"unlisted": "ask"}}`)
	rules := []plan.NetRule{{Allow: true, Name: "git.test", Port: 443, Only: &plan.Requests{Methods: []string{"POST"}, Paths: []string{"/me/x.git/git-receive-pack"}, Acts: []string{"git-push"}, Refs: []string{"refs/heads/main"}}}}
	if err := extend(s, rules, nowhere); err != nil {
		t.Fatal(err)
	}
	e, err := policy.Load(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range e.Net {
		if n.Only != nil && n.Value == "git.test:443" && fmt.Sprint(*n.Only) == fmt.Sprint(*rules[0].Only) {
			return
		}
	}
	t.Errorf("%+v", e.Net)
}

func TestInsideWrites(t *testing.T) {
	p := &plan.Plan{Workspace: "/home/me/project", Mounts: []plan.Mount{
		{Kind: plan.Bind, Target: "/data", Source: "/srv/data", Write: true},
		{Kind: plan.Bind, Target: "/home/me/notes", Source: "/home/me/notes"},
		{Kind: plan.Home, Target: "/home/me", Source: "/state/homes/x", Write: true},
	}}
	for dir, want := range map[string]bool{
		"/home/me/.config/cofferdam": false, "/home/me/notes/p": false, "/home/me/project/dotfiles": true, "/home/me/project": true,
		"/srv/data/p": true, "/data": false, "/state/homes/x/.config": true, "/home/me/project2": false,
	} {
		if insideWrites(p, dir) != want {
			t.Errorf("%s: %v", dir, !want)
		}
	}
}
