package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/testenv"
)

// outside is the rest of the world: servers on the host's loopback, and names for
// them that only the host's resolver knows.
type outside struct {
	http, tls, raw int    // ports
	ca             string // file of the certificate that signed the server's
	mu             sync.Mutex
	seen           []string // "METHOD HOST PATH", or "raw TEXT"
}

const (
	goodName = "api.stand-in.test"
	evilName = "evil.stand-in.test" // the same servers: nothing but the gateway is in the way
)

func (o *outside) note(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, s)
}

// took returns what the servers have seen since the last call.
func (o *outside) took() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.seen
	o.seen = nil
	return s
}

// newOutside starts the servers; more are handlers that are asked first whether they
// answer a request.
func newOutside(t *testing.T, s *site, more ...func(http.ResponseWriter, *http.Request) bool) *outside {
	t.Helper()
	o := &outside{ca: filepath.Join(s.workspace, "ca.crt")}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		o.note(r.Method + " " + host + " " + r.URL.Path)
		for _, answers := range more {
			if answers(w, r) {
				return
			}
		}
		if dir := filepath.Join(s.home, "served"); strings.HasPrefix(r.URL.Path, "/repo.git/") {
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "served %s %d\n", r.URL.Path, len(body))
	})
	port := func(a net.Addr) int { return a.(*net.TCPAddr).Port }
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	o.http = port(plain.Listener.Addr())

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
	s.write(t, o.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	secure := httptest.NewUnstartedServer(handler)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that are cut off
	secure.StartTLS()
	t.Cleanup(secure.Close)
	o.tls = port(secure.Listener.Addr())

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	o.raw = port(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "hello first") // as ssh and smtp do
				b := make([]byte, 100)
				n, _ := c.Read(b)
				o.note("raw " + strings.TrimSpace(string(b[:n])))
				fmt.Fprintf(c, "got %s", b[:n])
			}()
		}
	}()
	return o
}

// try runs a shell line inside, with names for the servers outside.
func (o *outside) try(t *testing.T, s *site, line string, flags ...string) result {
	t.Helper()
	hosts := "127.0.0.1 localhost " + goodName + " " + evilName + " other." + goodName + "\n"
	command := slices.Concat([]string{binary, "run"}, flags, []string{"--", "sh", "-c", line})
	return s.rigged(t, rigging{Hosts: hosts}, command...)
}

// allow are the flags that open the good name, and the addresses that it stands for
// here, which are of the loopback and need a rule of their own. TLS is carried as it is.
func (o *outside) allow() []string {
	var flags []string
	for _, port := range []int{o.http, o.tls, o.raw} {
		open := "--allow-domain"
		if port == o.tls {
			open = "--tunnel-domain"
		}
		flags = append(flags, open, fmt.Sprintf("%s:%d", goodName, port), "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port))
	}
	return flags
}

// clients are real programs that fetch a URL, without the proxy (the variables are
// not set for them) or with it. Each prints what it got and fails if it gets nothing.
var clients = map[string]struct{ program, line string }{
	"curl": {"curl", `curl -fsS -m 10 --cacert ca.crt "$URL"`},
	"python": {"python3", `/usr/bin/python3 -c 'import os, ssl, urllib.request as u
print(u.urlopen(os.environ["URL"], timeout=10, context=ssl.create_default_context(cafile="ca.crt")).read().decode())'`},
	"node": {"node", `NODE_EXTRA_CA_CERTS=$PWD/ca.crt node -e 'fetch(process.env.URL).then(r => r.text()).then(t => console.log(t), e => { console.error(e.cause || e); process.exit(1) })'`},
	"bash": {"bash", `bash -c 'u=${URL#*://}; exec 3<>/dev/tcp/${u%%:*}/${u##*:}; printf "GET / HTTP/1.1\r\nHost: $u\r\nConnection: close\r\n\r\n" >&3; cat <&3' | grep -a served`},
	"git":  {"git", `GIT_SSL_CAINFO=$PWD/ca.crt git clone -q "$URL/repo.git" cloned && cat cloned/file; s=$?; rm -rf cloned; exit $s`},
}

// Programs reach the names that are allowed, and no other, whether they know a proxy
// or not.
func TestClients(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	repo := filepath.Join(s.home, "served", "repo")
	s.write(t, repo+"/file", "served by git\n")
	for _, args := range [][]string{{"init", "-q", repo}, {"-C", repo, "add", "-A"}, {"-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"},
		{"clone", "-q", "--bare", repo, repo + ".git"}, {"-C", repo + ".git", "update-server-info"}} {
		s.git(t, args...)
	}
	const straight = `unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; `
	for name, c := range clients {
		if _, err := exec.LookPath(c.program); err != nil {
			testenv.Skip(t, testenv.Toolchains, err.Error())
		}
		for scheme, port := range map[string]int{"http": o.http, "https": o.tls} {
			for via, before := range map[string]string{"straight": straight, "proxy": ""} {
				if name == "bash" && (scheme == "https" || via == "proxy") {
					continue
				}
				t.Run(name+"/"+scheme+"/"+via, func(t *testing.T) {
					line := func(host string) string {
						return before + fmt.Sprintf("export URL=%s://%s:%d; ", scheme, host, port) + c.line
					}
					o.took()
					r := o.try(t, s, line(goodName), o.allow()...)
					if r.status != 0 || !strings.Contains(r.out, "served") || len(o.took()) == 0 {
						t.Errorf("allowed: status %d, %q, %s", r.status, r.out, r.err)
					}
					r = o.try(t, s, line(evilName), o.allow()...)
					if seen := o.took(); r.status == 0 || strings.Contains(r.out, "served") || len(seen) != 0 {
						t.Errorf("denied: status %d, %q, seen %q", r.status, r.out, seen)
					}
					if !strings.Contains(r.err, evilName) || !strings.Contains(r.err, "--allow-domain "+evilName) {
						t.Errorf("denied: the summary does not name it: %s", r.err)
					}
				})
			}
		}
	}
}

// A protocol in which the other side speaks first, and one that is nobody's.
func TestOtherProtocols(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	line := fmt.Sprintf(`/usr/bin/python3 -c 'import socket
c = socket.create_connection(("%s", %d), 10)
print(c.recv(100).decode(), end="")
c.sendall(b"and this"); print(c.recv(100).decode())'`, goodName, o.raw)
	r := o.try(t, s, line, o.allow()...)
	if r.status != 0 || r.out != "hello first\ngot and this\n" {
		t.Errorf("status %d, %q, %s", r.status, r.out, r.err)
	}
}

// A large answer comes whole, and so does a large question.
func TestLargeTransfers(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	r := o.try(t, s, fmt.Sprintf(`head -c 50000000 /dev/zero | curl -sS -m 60 --cacert ca.crt --noproxy '*' -T - https://%s:%d/up`, goodName, o.tls), o.allow()...)
	if r.out != "served /up 50000000\n" {
		t.Errorf("status %d, %q, %s", r.status, r.out, r.err)
	}
}

// What was carried and what was refused is in the record, with the rule.
func TestNetworkIsRecorded(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	line := fmt.Sprintf(`curl -sS -m 5 --noproxy '*' http://%s:%d/x; curl -sS -m 5 http://%s:%[2]d/y`, goodName, o.http, evilName)
	r := o.try(t, s, line, o.allow()...)
	id := r.err[strings.LastIndex(r.err, " ")+1:]
	logs := s.run(t, "logs", "--json", strings.TrimSpace(id))
	var answered, opened, closed, denied bool
	for text := range strings.Lines(logs.out) {
		var e event.Event
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		answered = answered || e.Kind == "network" && e.Action == "resolve" && e.Subject == goodName && e.Rule != ""
		subject := fmt.Sprintf("%s:%d", goodName, o.http)
		opened = opened || e.Kind == "network" && e.Action == "open" && e.Subject == subject && e.To == fmt.Sprintf("127.0.0.1:%d", o.http)
		closed = closed || e.Kind == "network" && e.Action == "close" && e.Subject == subject && e.BytesOut > 0 && e.BytesIn > 0 && e.Lasted > 0
		denied = denied || e.Kind == "denied" && strings.HasPrefix(e.Subject, evilName)
	}
	if !answered || !opened || !closed || !denied {
		t.Errorf("answered %v, opened %v, closed %v, denied %v in %s%s%s", answered, opened, closed, denied, logs.out, logs.err, r.err)
	}
}

// Servers inside work as before, and a command that enters has the same network.
func TestNetworkInside(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	r := o.try(t, s, `/usr/bin/python3 -m http.server 8080 >/dev/null 2>&1 & sleep 0.1
for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -m 5 http://localhost:8080/ >out 2>/dev/null && break; sleep 0.2; done; grep -c ca.crt out`, o.allow()...)
	if strings.TrimSpace(r.out) == "0" || r.status != 0 {
		t.Errorf("status %d, %q, %s", r.status, r.out, r.err)
	}
	_ = os.Remove(filepath.Join(s.workspace, "out"))
}
