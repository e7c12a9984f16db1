package credential

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "npmrc")
	f := &File{Path: name, Extract: regexp.MustCompile(`_authToken=(\S+)`)}
	wants := func(want, problem string) {
		t.Helper()
		v, err := f.Value(t.Context())
		if v != want || (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%q %v, want %q %q", v, err, want, problem)
		}
	}
	wants("", "no such file")
	write(t, name, "a=b\n//reg.test/:_authToken=first-token\n")
	wants("first-token", "")
	// Replaced, as programs save a file; and written in place.
	write(t, name+".new", "_authToken=second-token")
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	wants("second-token", "")
	write(t, name, "_authToken=third-token_of_it")
	wants("third-token_of_it", "")
	write(t, name, "nothing of it")
	wants("", "finds nothing")
	write(t, name, "_authToken=aaaaaaaa\n_authToken=bbbbbbbb")
	wants("", "more than one")
	write(t, name, "_authToken=aaaaaaaa\n_authToken=aaaaaaaa")
	wants("aaaaaaaa", "")
	write(t, name, strings.Repeat("x", maxFile+1))
	wants("", "more than")
	f = &File{Path: name}
	write(t, name, "\n the whole of it \n")
	wants("the whole of it", "")
	if err := os.Symlink(name, name+".link"); err != nil {
		t.Fatal(err)
	}
	f = &File{Path: name + ".link"}
	wants("", "too many levels")
	f = &File{Path: t.TempDir()}
	wants("", "not a regular")
}

// command is a script that counts its calls.
func command(t *testing.T, ttl time.Duration, body string) (c *Command, calls func() int, at *time.Time) {
	dir := t.TempDir()
	script := filepath.Join(dir, "helper")
	write(t, script, "#!/bin/sh\necho x >> "+dir+"/calls\n"+body)
	now := time.Unix(1000, 0)
	c = &Command{Argv: []string{script}, Env: []string{"PATH=/usr/bin:/bin", "DIR=" + dir}, TTL: ttl, now: func() time.Time { return now }}
	return c, func() int {
		b, _ := os.ReadFile(dir + "/calls")
		return strings.Count(string(b), "x")
	}, &now
}

func TestCommandIsKeptAndRenewed(t *testing.T) {
	c, calls, now := command(t, time.Hour, "wc -l < $DIR/calls | xargs printf 'token-number-%s\\n'")
	get := func(want string, n int) {
		t.Helper()
		v, err := c.Value(t.Context())
		if err != nil || v != want || calls() != n {
			t.Errorf("%q %v after %d calls, want %q after %d", v, err, calls(), want, n)
		}
	}
	get("token-number-1", 1)
	*now = now.Add(53 * time.Minute)
	get("token-number-1", 1)
	*now = now.Add(2 * time.Minute) // before it is over
	get("token-number-2", 2)
	c.Rejected("token-number-1") // an old one: nothing new in that
	get("token-number-2", 2)
	c.Rejected("token-number-2")
	get("token-number-3", 3)
	c.Rejected("token-number-3") // the new one too: the host means it
	get("token-number-3", 3)
	*now = now.Add(time.Hour)
	get("token-number-4", 4)
	c.Rejected("token-number-4")
	get("token-number-5", 5)
	forever, n, at := command(t, 0, "echo the-same-token")
	for range 3 {
		if v, err := forever.Value(t.Context()); v != "the-same-token" || err != nil || n() != 1 {
			t.Errorf("%q %v, %d calls", v, err, n())
		}
		*at = at.Add(1000 * time.Hour)
	}
}

func TestCommandFails(t *testing.T) {
	for body, want := range map[string]string{
		"echo secret-output >&2; exit 3": "exit status 3",
		"true":                           "printed nothing",
		"echo ''":                        "printed nothing",
		"head -c 100000 /dev/zero":       "more than",
		"kill -9 $$":                     "killed",
	} {
		c, calls, now := command(t, time.Hour, body)
		for range 3 {
			v, err := c.Value(t.Context())
			if v != "" || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-output") {
				t.Errorf("%s: %q %v", body, v, err)
			}
		}
		if calls() != 1 {
			t.Errorf("%s: %d calls at once", body, calls())
		}
		*now = now.Add(time.Minute)
		_, _ = c.Value(t.Context())
		if calls() != 2 {
			t.Errorf("%s: %d calls after a minute", body, calls())
		}
	}
	missing := &Command{Argv: []string{"/no/such/helper"}}
	if _, err := missing.Value(t.Context()); err == nil {
		t.Error("a program that is not there")
	}
	// An expired value is not given; one that is good still is.
	c, _, now := command(t, time.Hour, "[ -e $DIR/broken ] && exit 1; touch $DIR/broken; echo token-one")
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "token-one"}, {55 * time.Minute, "token-one"}, {10 * time.Minute, ""}} {
		*now = now.Add(step.after)
		if v, err := c.Value(t.Context()); v != step.want || (err == nil) != (v != "") {
			t.Errorf("after %v: %q %v", step.after, v, err)
		}
	}
}

// It is not where the project is, reads nothing, and has nothing of the terminal.
func TestCommandsPlace(t *testing.T) {
	c, _, _ := command(t, 0, `echo "at $(pwd), read $(wc -c)"`)
	if v, err := c.Value(t.Context()); v != "at /, read 0" || err != nil {
		t.Errorf("%q %v", v, err)
	}
}

func TestEnvironment(t *testing.T) {
	writable := func(p string) bool { return strings.HasPrefix(p, "/ws") }
	path := func(list string) []string {
		if list != "/usr/bin:/ws/bin" {
			t.Errorf("PATH %q", list)
		}
		return []string{"/usr/bin", "/bin"}
	}
	got := Environment([]string{"HOME=/home/x", "PATH=/usr/bin:/ws/bin", "PWD=/ws", "OLDPWD=/", "PYTHONPATH=/opt:/ws/src", "GH_HOST=api.test", "BASH_ENV=/ws/x", "broken"}, writable, path)
	if want := []string{"HOME=/home/x", "PATH=/usr/bin:/bin", "GH_HOST=api.test"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
