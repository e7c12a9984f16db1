package registry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/host"
	"cofferdam/internal/testenv"
)

// patience is how long anything may take that takes milliseconds on an idle machine.
const patience = 10 * time.Second

// machine is a home, a project and a directory of programs.
type machine struct {
	home, project, bin string
	asker              Asker
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{home: dir + "/home", project: dir + "/project", bin: dir + "/bin"}
	for _, d := range []string{m.home, m.project + "/bin", m.bin, dir + "/state"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.asker = Asker{Environ: []string{"PATH=" + m.bin + ":/usr/bin:/bin", "HOME=" + m.home}, Home: m.home, Open: []string{m.project}, File: dir + "/state/registries.json", Now: time.Now, Time: time.Minute}
	return m
}

// program is a stand-in for a tool. It counts its runs.
func (m *machine) program(t *testing.T, dir, name, script string) {
	t.Helper()
	write(t, filepath.Join(dir, name), "#!/bin/sh\necho run >> "+m.home+"/runs\n"+script+"\n")
	if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) runs() int {
	data, _ := os.ReadFile(m.home + "/runs")
	return strings.Count(string(data), "run")
}

func (m *machine) ask(t *testing.T, names ...string) string {
	t.Helper()
	var out []string
	for _, a := range m.asker.Ask(t.Context(), names) {
		text := a.Tool
		for _, r := range a.Registries {
			text += " " + r.Host + ":" + r.Port
		}
		if a.Problem != "" {
			text += " (" + a.Problem + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A tool is asked again when something has changed that its answer depends on, and
// not otherwise.
func TestRemembered(t *testing.T) {
	m := newMachine(t)
	m.program(t, m.bin, "gem", `cat ~/.gemrc; echo "https://gems.test/"`)
	write(t, m.home+"/.gemrc", "http://other.test:81/\n")
	const want = "gem gems.test:443 other.test:81"
	for i := range 3 {
		if got := m.ask(t, "gem"); got != want || m.runs() != 1 {
			t.Fatalf("time %d: %q after %d runs", i, got, m.runs())
		}
	}
	changes := []struct {
		name string
		do   func()
		want string
	}{
		{"the configuration", func() { write(t, m.home+"/.gemrc", "http://third.test/\n") }, "gem gems.test:443 third.test:80"},
		{"another configuration", func() { write(t, m.home+"/.config-gem", "") }, ""},
		{"the program", func() { m.program(t, m.bin, "gem", `echo "https://new.test/"`) }, "gem new.test:443"},
		{"PATH", func() { m.asker.Environ = []string{"PATH=" + m.bin + ":/bin:/usr/bin"} }, "gem new.test:443"},
		{"a day", func() { m.asker.Now = func() time.Time { return time.Now().Add(fresh + time.Second) } }, "gem new.test:443"},
		{"a clock set back", func() { m.asker.Now = func() time.Time { return time.Now().Add(-time.Hour) } }, "gem new.test:443"},
		{"a damaged memory", func() { write(t, m.asker.File, "{}x") }, "gem new.test:443"},
	}
	for _, c := range changes {
		before := m.runs()
		c.do()
		if got := m.ask(t, "gem"); c.want == "" {
			if m.runs() != before {
				t.Errorf("%s: asked again", c.name)
			}
		} else if got != c.want || m.runs() != before+1 {
			t.Errorf("%s: %q after %d runs", c.name, got, m.runs()-before)
		}
	}
	if st, err := os.Stat(m.asker.File); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the memory: %v %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Dir(m.asker.File) + "/.reg*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// What a command inside could have written is neither run nor believed.
func TestNothingOfTheProject(t *testing.T) {
	m := newMachine(t)
	m.program(t, m.bin, "gem", `echo "https://gems.test/"`)
	refused := func(what string) {
		t.Helper()
		before := m.runs()
		if got := m.ask(t, "gem"); !strings.Contains(got, "lies where commands inside can write") || strings.Contains(got, ".test") || m.runs() != before {
			t.Errorf("%s: %q after %d runs", what, got, m.runs()-before)
		}
	}
	path := m.asker.Environ
	m.program(t, m.project+"/bin", "gem", `echo "https://evil.test/"`)
	m.asker.Environ = []string{"PATH=" + m.project + "/bin:" + m.bin}
	refused("a program of the project")
	link := filepath.Dir(m.bin) + "/link"
	if err := os.Symlink(m.project+"/bin", link); err != nil {
		t.Fatal(err)
	}
	m.asker.Environ = []string{"PATH=" + link + ":" + m.bin}
	refused("a program of the project by a symlink")
	m.asker.Environ = path
	m.program(t, m.project+"/bin", "interp", `touch ~/canary`)
	write(t, m.bin+"/gem", "#!/usr/bin/env interp\n")
	if err := os.Symlink(m.project+"/bin/interp", m.bin+"/interp"); err != nil {
		t.Fatal(err)
	}
	refused("an interpreter that is a link into the project")
	write(t, m.bin+"/gem", "#!"+m.project+"/bin/interp\n")
	refused("an interpreter of the project")
	m.program(t, m.bin, "gem", `echo "https://gems.test/"`)
	m.asker.Environ = []string{"PATH=project/bin::.:" + m.bin}
	t.Chdir(filepath.Dir(m.project))
	if got := m.ask(t, "gem"); got != "gem gems.test:443" {
		t.Errorf("relative entries of PATH: %q", got)
	}
	m.asker.Environ = path
	write(t, m.project+"/gemrc", "x")
	if err := os.Symlink(m.project+"/gemrc", m.home+"/.gemrc"); err != nil {
		t.Fatal(err)
	}
	refused("a configuration that is a link into the project")
}

// Programs that the tool starts are not the project's either, and no variable leads
// there.
func TestEnvironmentOfTools(t *testing.T) {
	m := newMachine(t)
	m.program(t, m.bin, "gem", `env > ~/env; pwd >> ~/env; helper; echo https://gems.test`)
	m.program(t, m.project+"/bin", "helper", `touch ~/canary`)
	m.asker.Environ = []string{"PATH=" + m.bin + ":" + m.project + "/bin:/usr/bin:/bin", "HOME=/elsewhere", "RUBYOPT=-r" + m.project + "/x", "PYENV_VERSION=" + m.project, "SECRET=s3cret", "NVM_DIR=/nvm"}
	if got := m.ask(t, "gem"); got != "gem gems.test:443" {
		t.Fatal(got)
	}
	if _, err := os.Stat(m.home + "/canary"); err == nil {
		t.Error("a program of the project has run")
	}
	env, err := os.ReadFile(m.home + "/env")
	if err != nil || !strings.Contains(string(env), "NVM_DIR=/nvm\n") || !strings.Contains(string(env), "HOME="+m.home+"\n") {
		t.Fatalf("%s %v", env, err)
	}
	if strings.Contains(string(env), m.project) || strings.Contains(string(env), "s3cret") {
		t.Errorf("it got\n%s", env)
	}

	// A script of npm's has the project's registry in its environment.
	m.program(t, m.bin, "npm", `echo "{\"registry\": \"${npm_config_registry-https://mine.test}\"}"`)
	m.asker.Environ = []string{"PATH=" + m.bin + ":/usr/bin:/bin", "npm_config_registry=https://theirs.test", "npm_execpath=/usr/bin/npm"}
	if got := m.ask(t, "npm"); got != "npm mine.test:443" {
		t.Errorf("in a script of npm's: %q", got)
	}
	m.asker.Environ = m.asker.Environ[:2]
	if got := m.ask(t, "npm"); got != "npm theirs.test:443" {
		t.Errorf("the person's own variable: %q", got)
	}
}

// A tool that fails, hangs or floods is no registry, and nothing of it stays.
func TestBadTools(t *testing.T) {
	m := newMachine(t)
	m.asker.Time = 2 * time.Second
	for script, want := range map[string]string{
		`echo https://a.test; exit 3`:            "exit status 3",
		`echo nothing`:                           "it named no registry",
		`yes https://a.test/ | head -c 10000000`: "it said too much",
		`sleep 61234 & echo https://a.test`:      "WaitDelay",
		`sleep 61234`:                            "it took more than",
	} {
		m.program(t, m.bin, "gem", script)
		begun := time.Now()
		if got := m.ask(t, "gem"); !strings.Contains(got, want) {
			t.Errorf("%s: %q", script, got)
		}
		if d := time.Since(begun); d > m.asker.Time+patience {
			t.Errorf("%s: %v", script, d)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		if data, _ := os.ReadFile(name); string(data) == "sleep\x0061234\x00" {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"https://registry.test":               "registry.test:443 https://registry.test",
		"http://Registry.Test.:81/a?q#f":      "registry.test:81 http://Registry.Test.:81/a",
		"https://u:p@w@registry.test/a/@b":    "registry.test:443 https://registry.test/a/@b",
		"sparse+https://index.test/":          "index.test:443 sparse+https://index.test/",
		"http://10.1.2.3/":                    "10.1.2.3:80 http://10.1.2.3/",
		"http://[fd00::1]:4873/":              "fd00::1:4873 http://[fd00::1]:4873/",
		`https://good.test\@evil.test/`:       `good.test:443 https://good.test\@evil.test/`,
		"https://a.test?@evil.test":           "a.test:443 https://a.test",
		"file:///srv/packages":                "",
		"git+ssh://git.test/x":                "",
		"direct":                              "",
		"https://":                            "",
		"https://na me.test":                  "",
		"https://*.test":                      "",
		"https://" + strings.Repeat("a", 300): "",
		"https://registry.test:port/":         "",
		"https://[fe80::1%25eth0]/":           "",
		"ftp://files.test/":                   "",
	} {
		got := ""
		if r, ok := parse(url); ok {
			got = r.Host + ":" + r.Port + " " + bare(url)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}

// The real ones, with a configuration of the person's.
func TestRealTools(t *testing.T) {
	m := newMachine(t)
	path := "/usr/bin:/bin"
	if full, err := exec.LookPath("go"); err == nil {
		path += ":" + filepath.Dir(full)
	}
	m.asker.Environ = append(os.Environ(), "HOME="+m.home, "PATH="+path, "PIP_INDEX_URL=")
	for _, d := range []string{"/.config/pip", "/.config/go"} {
		if err := os.MkdirAll(m.home+d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, m.home+"/.npmrc", "registry=https://npm.test/a/\n@corp:registry=http://corp.test:4873\n//corp.test:4873/:_authToken=s3cret\n")
	write(t, m.home+"/.config/pip/pip.conf", "[global]\nindex-url = https://u:s3cret@pip.test/simple\nextra-index-url =\n  https://a.test/x\n  https://b.test/x\n")
	write(t, m.home+"/.config/go/env", "GOPROXY=https://u:s3cret@go.test|https://go2.test/x,direct\nGOSUMDB=sum.test\n")
	want := map[string]string{
		"npm":     "[{corp.test 4873} {npm.test 443}] [{NPM_CONFIG_GLOBALCONFIG @corp:registry=http://corp.test:4873\nregistry=https://npm.test/a/\n true}]",
		"python3": "[{a.test 443} {b.test 443} {pip.test 443}] [{PIP_EXTRA_INDEX_URL https://a.test/x https://b.test/x false} {PIP_INDEX_URL https://pip.test/simple false}]",
		"go":      "[{go.test 443} {go2.test 443} {sum.test 443}] [{GOPROXY https://go.test|https://go2.test/x,direct false} {GOSUMDB sum.test false}]",
	}
	for _, a := range m.asker.Ask(t.Context(), []string{"npm", "python3", "go"}) {
		if a.Tool == "python3" && strings.Contains(a.Problem, "exit status 1") {
			testenv.Skip(t, testenv.Toolchains, "python3 has no pip: "+a.Problem)
		}
		if got := fmt.Sprint(a.Registries, " ", a.Settings); got != want[a.Tool] {
			t.Errorf("%s: %s (%s)\nwant %s", a.Tool, got, a.Problem, want[a.Tool])
		}
		delete(want, a.Tool)
	}
	if len(want) > 0 {
		testenv.Skip(t, testenv.Toolchains, fmt.Sprint(want))
	}
	m.asker.Environ = append(m.asker.Environ, "PIP_INDEX_URL=https://mine.test/simple")
	got := fmt.Sprint(m.asker.Ask(t.Context(), []string{"python3"}))
	if strings.Contains(got, "pip.test") || !strings.Contains(got, "{PIP_INDEX_URL https://mine.test/simple false}") {
		t.Errorf("with a variable: %s", got)
	}
	if data, _ := os.ReadFile(m.asker.File); strings.Contains(string(data), "s3cret") {
		t.Errorf("remembered: %s", data)
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("https://u:p@registry.test:443/x?y#z")
	f.Fuzz(func(t *testing.T, url string) {
		r, ok := parse(url)
		if !ok {
			return
		}
		if strings.ContainsAny(r.Host, "@/ \n%*") || r.Host == "" {
			t.Errorf("%q: host %q", url, r.Host)
		}
		if b := bare(url); b != "" {
			if again, ok := parse(b); !ok || again != r {
				t.Errorf("%q: %v and %v", url, r, again)
			}
		}
	})
}

func BenchmarkRemembered(b *testing.B) {
	dir := b.TempDir()
	a := Asker{Environ: os.Environ(), Home: dir, Open: []string{"/nowhere"}, File: dir + "/registries.json", Now: time.Now}
	names := []string{"npm", "pnpm", "yarn", "go", "python3", "gem", "cargo"}
	a.Ask(b.Context(), names)
	var got []host.Asked
	for b.Loop() {
		got = a.Ask(b.Context(), names)
	}
	if !slices.ContainsFunc(got, func(x host.Asked) bool { return len(x.Registries) > 0 }) {
		b.Fatalf("nothing is there: %+v", got)
	}
}
