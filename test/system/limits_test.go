package system

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// A storm of forks meets its ceiling, the host does not notice, and all is gone
// afterwards. (The storm is bounded for the case that the ceiling is not there.)
func TestForkStorm(t *testing.T) {
	s := newSite(t)
	s.write(t, s.home+"/policy.jsonc", `{"resources": {"processes": 40}}`)
	storm := "i=0; while [ $i -lt 100 ]; do (setsid sleep 1000 &); i=$((i+1)); done; echo all; wait"
	r := s.sh(t, storm, "--policy", s.home+"/policy.jsonc", "--timeout", "9s")
	switch {
	case r.status == 125:
		r.complains(t, 125, "processes")
		if log := s.run(t, "logs", "--json"); !strings.Contains(log.out, `"kind":"limit"`) {
			t.Errorf("no event: %s", log.out)
		}
	case strings.Contains(r.err, "Cannot fork"): // EAGAIN inside only
	default:
		t.Errorf("the storm met no ceiling: status %d, %q, %q", r.status, r.out, r.err)
	}
	s.sh(t, "true").wants(t, 0)
	// The control: without the ceiling the same storm goes through.
	if r := s.sh(t, strings.Replace(storm, "wait", "", 1)); r.status != 0 || r.out != "all\n" {
		t.Errorf("without a ceiling: status %d, %q, %q", r.status, r.out, r.err)
	}
}

// What takes more memory than it may is ended, and the person is told.
func TestMemoryHog(t *testing.T) {
	s := newSite(t)
	s.write(t, s.home+"/policy.jsonc", `{"resources": {"memory": "64MiB"}}`)
	// 160 MiB: dd has a buffer of one block, and touches it all.
	hog := "dd if=/dev/zero of=/dev/null bs=160M count=2000 2>/dev/null; echo done"
	begin := time.Now()
	r := s.sh(t, hog, "--policy", s.home+"/policy.jsonc", "--timeout", "9s")
	r.complains(t, 125, "memory")
	t.Logf("ended after %v", time.Since(begin))
	if log := s.run(t, "logs", "--json"); !strings.Contains(log.out, `"kind":"limit"`) {
		t.Errorf("no event: %s", log.out)
	}
	// The control: as much work with a buffer that fits.
	small := strings.NewReplacer("160M", "1M", "2000", "200").Replace(hog)
	if r := s.sh(t, small, "--policy", s.home+"/policy.jsonc"); r.status != 0 || r.out != "done\n" {
		t.Errorf("what fits: status %d, %q, %q", r.status, r.out, r.err)
	}
}

func TestTimeoutOfThePolicy(t *testing.T) {
	s := newSite(t)
	s.write(t, s.home+"/policy.jsonc", "{\n  \"resources\": {\"timeout\": \"300ms\"}\n}\n")
	r := s.sh(t, "sleep 1000", "--policy", s.home+"/policy.jsonc")
	r.complains(t, 124, "300ms", "policy.jsonc:2")
}

// Much output holds nobody up and fills nothing.
func TestMuchOutput(t *testing.T) {
	s := newSite(t)
	cmd := s.command("run", "--", "head", "-c", "67108864", "/dev/zero")
	var n counter
	cmd.Stdout = &n
	r := finish(t, cmd)
	r.wants(t, 0)
	if n != 64<<20 {
		t.Errorf("%d bytes", n)
	}
	if r.err != "" {
		t.Errorf("errors %q", r.err)
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestEnvironment(t *testing.T) {
	s := newSite(t)
	secrets := []string{"GITHUB_TOKEN=canary-1", "AWS_SECRET_ACCESS_KEY=canary-2", "ANYTHING=canary-3", "SSH_AUTH_SOCK=/canary-4", "LD_PRELOAD=/canary-5", "BASH_ENV=/canary-6", "=canary-7", "NO_EQUALS", "a b=canary-8", "X\ny=canary-9", "\xff=canary-10"}
	all := "for f in /proc/[0-9]*/environ; do echo $f >&2; cat $f; done | tr '\\0' '\\n'"
	run := func(t *testing.T, flags ...string) result {
		t.Helper()
		cmd := s.command(append(append([]string{"run"}, flags...), "--", "sh", "-c", "sleep 1000 & "+all)...)
		cmd.Env = append(cmd.Env, secrets...)
		r := finish(t, cmd)
		r.wants(t, 0)
		return r
	}
	t.Run("nothing by default", func(t *testing.T) {
		r := run(t)
		if strings.Contains(r.out, "canary") {
			t.Errorf("a secret is inside: %q", r.out)
		}
		if !strings.Contains(r.out, "HOME="+s.home) || strings.Count(r.err, "/environ") < 2 {
			t.Errorf("the control is not there: %q, %q", r.out, r.err)
		}
		allowed := map[string]bool{}
		// With registries, their proxy and where the tools find them, and whom to trust.
		for _, name := range strings.Fields("COFFERDAM HOME LANG LOGNAME PATH PWD SHELL TERM TMPDIR USER OLDPWD _ SHLVL " +
			"ALL_PROXY HTTPS_PROXY HTTP_PROXY NO_PROXY all_proxy http_proxy https_proxy no_proxy GOPROXY GOSUMDB " +
			"SSL_CERT_FILE NODE_EXTRA_CA_CERTS DENO_CERT REQUESTS_CA_BUNDLE PIP_CERT CURL_CA_BUNDLE GIT_SSL_CAINFO CARGO_HTTP_CAINFO AWS_CA_BUNDLE") {
			allowed[name] = true
		}
		for _, line := range strings.Split(strings.TrimSpace(r.out), "\n") {
			if name, _, _ := strings.Cut(line, "="); line != "" && !allowed[name] {
				t.Errorf("%q is inside", line)
			}
		}
	})
	t.Run("pid 1", func(t *testing.T) {
		cmd := s.command("run", "--", "sh", "-c", "cat /proc/1/environ /proc/1/cmdline; true")
		cmd.Env = append(cmd.Env, secrets...)
		if r := finish(t, cmd); strings.Contains(r.out, "canary") {
			t.Errorf("pid 1 holds %q", r.out)
		}
	})
	t.Run("--env NAME", func(t *testing.T) {
		r := run(t, "--env", "ANYTHING", "--env", "SET=to=this", "--env", "EMPTY=", "--env", "UNSET_ONE")
		for _, want := range []string{"ANYTHING=canary-3\n", "SET=to=this\n", "EMPTY=\n"} {
			if !strings.Contains(r.out, want) {
				t.Errorf("no %q in %q", want, r.out)
			}
		}
		if strings.Contains(r.out, "UNSET_ONE") || strings.Contains(r.out, "canary-1\n") {
			t.Errorf("%q", r.out)
		}
	})
	t.Run("exec", func(t *testing.T) {
		b := s.start(t, "ready\n", "run", "--name", "env", "--", "sh", "-c", "echo ready; cat")
		cmd := s.command("exec", "env", "--", "sh", "-c", all)
		cmd.Env = append(cmd.Env, secrets...)
		if r := finish(t, cmd); strings.Contains(r.out, "canary") || !strings.Contains(r.out, "HOME=") {
			t.Errorf("%q", r.out)
		}
		if status := b.end(t); status != 0 {
			t.Errorf("status %d", status)
		}
	})
}

// Who looks from outside sees nothing of the workspace's secrets in our files.
func TestStateHoldsNoSecrets(t *testing.T) {
	s := newSite(t)
	cmd := s.command("run", "--", "true")
	cmd.Env = append(cmd.Env, "GITHUB_TOKEN=canary-1")
	finish(t, cmd).wants(t, 0)
	if bytes.Contains([]byte(hashable(t, s.state)), []byte("canary-1")) {
		t.Error("a secret of the environment is in the state directory")
	}
}
