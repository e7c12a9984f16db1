package system

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cofferdam/internal/testenv"
)

// standInProxy is a proxy of an organisation, in its place: it wants a password, takes
// CONNECT and requests in the clear, and alone knows where names lead.
type standInProxy struct {
	port  int
	mu    sync.Mutex
	asked []string
}

func newStandInProxy(t *testing.T) *standInProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &standInProxy{port: l.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *standInProxy) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req.Method+" "+req.RequestURI)
	p.mu.Unlock()
	if req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:s3cret")) {
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	host := req.Host
	if req.Method != "CONNECT" {
		host = req.URL.Host
	}
	_, port, _ := net.SplitHostPort(host)
	up, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer up.Close()
	if req.Method == "CONNECT" {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		req.Header.Del("Proxy-Authorization")
		req.Close = true
		if err := req.Write(up); err != nil {
			return
		}
	}
	go func() { io.Copy(up, r); up.(*net.TCPConn).CloseWrite() }()
	io.Copy(c, up)
}

func (p *standInProxy) took() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.Join(p.asked, "; ")
	p.asked = nil
	return s
}

// Programs inside reach what is allowed by the proxy of the person's network, who has its
// password in the environment; nobody else sees that.
func TestUpstreamProxy(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		testenv.Skip(t, testenv.Toolchains, err.Error())
	}
	s := newSite(t)
	o := newOutside(t, s)
	p := newStandInProxy(t)
	const far = "far.stand-in.test" // no resolver here knows it
	s.env = append(s.env, "SSL_CERT_FILE="+o.ca, "HTTPS_PROXY=http://me:s3cret@127.0.0.1:"+strconv.Itoa(p.port), "HTTP_PROXY=http://me:s3cret@127.0.0.1:"+strconv.Itoa(p.port))
	policy := func(more string) string {
		s.write(t, s.home+"/policy.jsonc", fmt.Sprintf(`{"network": {"allowedDomains": [%q, %q], "tunnelDomains": ["%s:%d"]%s}}`, goodName+":"+strconv.Itoa(o.tls), far, goodName, o.raw, more))
		return s.home + "/policy.jsonc"
	}
	use := `, "upstreamProxy": "environment"`
	https := fmt.Sprintf("curl -sS https://%s:%d/a", goodName, o.tls)
	http := fmt.Sprintf("curl -sS http://%s:%d/b", far, o.http)
	raw := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d; read -r l <&3; echo $l", far, o.raw)
	r := o.try(t, s, https+"; "+http+"; bash -c '"+raw+"'; env; cat /proc/*/environ", "--policy", policy(use))
	if r.out[:min(len(r.out), 40)] != "served /a 0\nserved /b 0\nhello first\nHOSTN"[:40] && !strings.HasPrefix(r.out, "served /a 0\nserved /b 0\nhello first\n") {
		t.Errorf("printed %q, errors %q", clip(r.out), r.err)
	}
	want := fmt.Sprintf("CONNECT %s:%d; GET http://%s:%d/b; CONNECT %s:%d", goodName, o.tls, far, o.http, far, o.raw)
	if got := p.took(); got != want {
		t.Errorf("asked of the proxy: %s, want %s", got, want)
	}
	logs, dry := s.run(t, "logs", "--json"), s.run(t, "run", "--dry-run", "--policy", policy(use), "--", "true")
	plan := s.run(t, "run", "--dry-run", "--json", "--policy", policy(use), "--", "true")
	for what, text := range map[string]string{"inside": r.out, "errors": r.err, "logs": logs.out, "plan": dry.out, "JSON": plan.out} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s has the password: %q", what, clip(text))
		}
	}
	if !strings.Contains(logs.out, "through http://127.0.0.1:") || !strings.Contains(dry.out, "upstream     http://127.0.0.1:"+strconv.Itoa(p.port)+", which finds where names lead") {
		t.Errorf("nobody says so: %s\n%s", clip(logs.out), dry.out)
	}
	// Not allowed is not asked of it; an address of the private network neither.
	r = o.try(t, s, fmt.Sprintf("curl -sS http://%s/; curl -sS -m 5 http://10.1.2.3/; curl -sS -m 5 http://169.254.169.254/", evilName), "--policy", policy(use))
	if got := p.took(); got != "" || strings.Contains(r.out, "served") || !strings.Contains(r.out, "10.1.2.3") {
		t.Errorf("asked of the proxy: %q; %q %q", got, r.out, r.err)
	}
	// It refuses: that it was the proxy is told, inside and in the record.
	wrong := *s
	wrong.env = append(append([]string(nil), s.env...), "HTTPS_PROXY=http://me:wr0ng@127.0.0.1:"+strconv.Itoa(p.port))
	r = o.try(t, &wrong, https, "--policy", policy(use))
	logs = s.run(t, "logs")
	if !strings.Contains(r.out, "upstream proxy: it wants another user name and password (407)") || !strings.Contains(logs.out, "upstream proxy http://127.0.0.1:") || strings.Contains(r.out+r.err+logs.out, "wr0ng") {
		t.Errorf("%q %q; %q", r.out, r.err, clip(logs.out))
	}
	p.took()
	// What is excepted goes directly, and is judged where it leads.
	r = o.try(t, s, https, "--policy", policy(use+`, "noProxy": ["`+goodName+`"]`))
	if got := p.took(); got != "" || !strings.Contains(r.out, "an address of this machine itself") {
		t.Errorf("past the proxy: %q; %q %q", got, r.out, r.err)
	}
	// Without the key the person hears that it is not used, but not twice.
	r = o.try(t, s, https, "--policy", policy(""))
	if got := p.took(); got != "" || !strings.Contains(r.err, "your HTTPS_PROXY (http://127.0.0.1:"+strconv.Itoa(p.port)+") is not used") || strings.Contains(r.err, "s3cret") {
		t.Errorf("not used: %q; %q", got, r.err)
	}
	if r = o.try(t, s, "true", "--policy", policy(`, "upstreamProxy": "none"`)); strings.Contains(r.err, "is not used") {
		t.Errorf("told all the same: %q", r.err)
	}
}
