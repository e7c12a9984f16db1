package system

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"cofferdam/internal/linux/netns"
	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

// bypass is one way past a gateway, as a shell line. Where nothing is in the way it
// prints "served"; docs/bypasses.md has the numbers.
type bypass struct {
	id, what string
	line     string
	flags    []string // instead of those that open the good name
	six      bool     // only where there is IPv6
}

// The line has, as variables: the ports HTTP, TLS, RAW, UDP, SIX (of ::1) and OWNPORT, the
// address OWN, and P, S and C, which lead a curl through the proxy (by its own words, by
// CONNECT), through SOCKS; without a gateway these lead straight on. ASK is a program of
// Python that says something to the proxy, and VIA its port; without a gateway it is a
// plain proxy that judges nothing.
var bypasses = []bypass{
	{id: "NET-01", what: "the host's loopback", line: `curl $Q http://127.0.0.1:$HTTP/`},
	{id: "NET-01", what: "the host's loopback, mapped", line: `curl $Q "http://[::ffff:127.0.0.1]:$HTTP/"`},
	{id: "NET-01", what: "the wildcard address", line: `curl $Q http://0.0.0.0:$HTTP/`},
	{id: "NET-02", what: "the host's loopback, IPv6", six: true, line: `curl $Q "http://[::1]:$SIX/"`},
	{id: "NET-02", what: "the host's loopback, IPv6, by the proxy", six: true, line: `curl $Q $C "http://[::1]:$SIX/"`},
	{id: "NET-04", what: "the host's own address", line: `curl $Q http://$OWN:$OWNPORT/`},
	{id: "NET-04", what: "the host's own address, by the proxy", line: `curl $Q $C http://$OWN:$OWNPORT/`},
	{id: "NET-05", what: "a datagram to the host", line: udpLine("127.0.0.1")},
	{id: "NET-05", what: "a datagram to the host's own address", line: udpLine(`'"$OWN"'`)},
	{id: "NET-06", what: "another resolver at a port of its own", line: udpLine("localhost")},
	{id: "NET-08", what: "another port of the allowed name", line: `curl $Q -k https://api.stand-in.test:$TLS/`, flags: []string{"--allow-domain", "api.stand-in.test:HTTP", "--allow-cidr", "127.0.0.1/32"}},
	{id: "NET-09", what: "DNS over HTTPS at an address", line: `curl $Q -k -H 'Accept: application/dns-message' "https://127.0.0.1:$TLS/dns-query?dns=AAAA"`},
	{id: "NET-12", what: "a group of the loopback", line: `python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
s.sendto(b"q", ("239.255.77.77", '$GROUP')); print(s.recv(100).decode())'`},
	{id: "NET-16", what: "the proxy, another name", line: `curl $Q $P http://evil.stand-in.test:$HTTP/`},
	{id: "NET-17", what: "CONNECT to an address", line: `curl $Q $C http://127.0.0.1:$HTTP/`, flags: []string{"--allow-domain", "api.stand-in.test:HTTP"}},
	{id: "NET-17", what: "CONNECT to an address, TLS", line: `curl $Q -k $C https://127.0.0.1:$TLS/`},
	{id: "NET-18", what: "the proxy, a number", line: ask(`GET http://2130706433:%(HTTP)s/ HTTP/1.1\r\nHost: 2130706433:%(HTTP)s\r\n\r\n`)},
	{id: "NET-18", what: "the proxy, hexadecimal", line: ask(`GET http://0x7f000001:%(HTTP)s/ HTTP/1.1\r\nHost: 0x7f000001:%(HTTP)s\r\n\r\n`)},
	{id: "NET-18", what: "the proxy, octal", line: ask(`CONNECT 0177.0.0.1:%(HTTP)s HTTP/1.1\r\n\r\n`, `GET / HTTP/1.0\r\n\r\n`)},
	{id: "NET-18", what: "the proxy, short", line: ask(`CONNECT 127.1:%(HTTP)s HTTP/1.1\r\n\r\n`, `GET / HTTP/1.0\r\n\r\n`)},
	{id: "NET-20", what: "another name, with its dot", line: ask(`GET http://evil.stand-in.test.:%(HTTP)s/ HTTP/1.1\r\nHost: evil.stand-in.test.:%(HTTP)s\r\n\r\n`)},
	{id: "NET-20", what: "another name, in capitals", line: `curl $Q http://EVIL.Stand-In.TEST:$HTTP/`},
	{id: "NET-21", what: "a name that ends where C ends it", line: ask(`CONNECT evil.stand-in.test\0.api.stand-in.test:%(HTTP)s HTTP/1.1\r\n\r\n`, `GET / HTTP/1.0\r\n\r\n`)},
	{id: "NET-22", what: "a name with a line end", line: ask(`CONNECT evil.stand-in.test:%(HTTP)s\n.api.stand-in.test:%(HTTP)s HTTP/1.1\r\n\r\n`, `GET / HTTP/1.0\r\n\r\n`)},
	{id: "NET-24", what: "a name in percents", line: ask(`GET http://%%65vil.stand-in.test:%(HTTP)s/ HTTP/1.1\r\nHost: %%65vil.stand-in.test:%(HTTP)s\r\n\r\n`)},
	{id: "NET-24", what: "a user name that looks like the host", line: ask(`GET http://api.stand-in.test:%(HTTP)s@evil.stand-in.test:%(HTTP)s/ HTTP/1.1\r\nHost: evil.stand-in.test:%(HTTP)s\r\n\r\n`)},
	{id: "NET-26", what: "a name below the allowed one", line: `curl $Q http://other.api.stand-in.test:$HTTP/`},
	{id: "NET-26", what: "the allowed name with more behind", line: `curl $Q http://api.stand-in.test.evil.stand-in.test:$HTTP/`},
	{id: "NET-26", what: "the allowed name with more in front", line: `curl $Q http://evil-api.stand-in.test:$HTTP/`},
	{id: "NET-28", what: "a denied name within what is allowed", line: `curl $Q http://evil.stand-in.test:$HTTP/`, flags: []string{"--policy", "POLICY"}},
	{id: "NET-29", what: "a Host of another name", line: `curl $Q -H 'Host: evil.stand-in.test' http://api.stand-in.test:$HTTP/`},
	{id: "NET-29", what: "the proxy, a Host of another name", line: `curl $Q $P -H 'Host: evil.stand-in.test' http://api.stand-in.test:$HTTP/`},
	{id: "NET-30", what: "another SNI over an allowed address", line: `curl $Q -k --connect-to evil.stand-in.test:$TLS:api.stand-in.test:$TLS https://evil.stand-in.test:$TLS/`},
	{id: "NET-30", what: "CONNECT, another SNI", line: `curl $Q -k $C --connect-to evil.stand-in.test:$TLS:api.stand-in.test:$TLS https://evil.stand-in.test:$TLS/`},
	{id: "NET-32", what: "TLS without a name", line: `printf 'GET / HTTP/1.0\r\n\r\n' | timeout 5 openssl s_client -quiet -noservername -connect api.stand-in.test:$TLS`, flags: []string{"--allow-domain", "api.stand-in.test:TLS", "--allow-cidr", "127.0.0.1/32"}},
	{id: "NET-33", what: "a second request on the proxy's connection", line: `curl $Q $P http://api.stand-in.test:$HTTP/first -o /dev/null http://evil.stand-in.test:$HTTP/second`},
	{id: "NET-34", what: "a request within the body of another", line: ask(`POST http://api.stand-in.test:%(HTTP)s/first HTTP/1.1\r\nHost: api.stand-in.test:%(HTTP)s\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://evil.stand-in.test:%(HTTP)s/second HTTP/1.1\r\nHost: evil.stand-in.test\r\n\r\n`)},
	{id: "NET-37", what: "a redirect by an allowed host", line: `curl $Q -L "http://api.stand-in.test:$HTTP/to?http://evil.stand-in.test:$HTTP/landed"`},
	{id: "NET-37", what: "a redirect to an address", line: `curl $Q -L "http://api.stand-in.test:$HTTP/to?http://127.0.0.1:$HTTP/landed"`},
	{id: "NET-38", what: "an allowed name that means the loopback", line: `curl $Q http://api.stand-in.test:$HTTP/`, flags: []string{"--allow-domain", "api.stand-in.test:HTTP"}},
	{id: "NET-42", what: "SOCKS, another name", line: `curl $Q $S http://evil.stand-in.test:$HTTP/`},
	{id: "NET-42", what: "SOCKS, an address", line: `curl $Q $S http://127.0.0.1:$HTTP/`, flags: []string{"--allow-domain", "api.stand-in.test:HTTP"}},
	{id: "NET-42", what: "SOCKS, an address of IPv6", six: true, line: `curl $Q $S "http://[::1]:$SIX/"`},
	{id: "NET-42", what: "SOCKS, a mapped address", line: `curl $Q $S "http://[::ffff:127.0.0.1]:$HTTP/"`, flags: []string{"--allow-domain", "api.stand-in.test:HTTP"}},
	{id: "NET-60", what: "no variables of a proxy", line: `env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY curl -sS -m 5 http://evil.stand-in.test:$HTTP/`},
}

func udpLine(host string) string {
	return `python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.connect(("` + host + `", '$UDP')); s.send(b"q"); print(s.recv(100).decode())'`
}

// ask is a line that says things to the proxy one after the other, each as soon as the
// one before has been answered.
func ask(said ...string) string {
	for i, s := range said {
		said[i] = `b"` + s + `"`
	}
	return `python3 -c '
import os, socket
c = socket.create_connection(("127.0.0.1", int(os.environ["VIA"])), 5)
for said in [` + strings.Join(said, ", ") + `]:
    c.sendall(said % {b"HTTP": os.environ["HTTP"].encode()}); got = c.recv(4096)
    print(got.decode(), end="")
c.settimeout(0.5)
while got:
    try: got = c.recv(4096)
    except OSError: break
    print(got.decode(), end="")'`
}

// What is tried to get past the gateway gets nowhere, and does where there is none.
func TestBypasses(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/to" {
			http.Redirect(w, r, r.URL.RawQuery, http.StatusFound)
		}
		return r.URL.Path == "/to"
	})
	env := o.elsewhere(t)
	env["HTTP"], env["TLS"], env["RAW"], env["PLAIN"] = o.http, o.tls, o.raw, s.plainProxy(t)
	policy := s.home + "/policy.jsonc"
	s.write(t, policy, `{"network": {"allowedDomains": ["*.stand-in.test"], "deniedDomains": ["evil.stand-in.test"], "allowedCIDRs": ["127.0.0.1/32"]}}`)
	for _, b := range bypasses {
		t.Run(b.id+" "+b.what, func(t *testing.T) {
			if b.six && env["SIX"] == 0 {
				return // no IPv6, so nothing to reach by it
			}
			flags := o.allow()
			if b.flags != nil {
				flags = slices.Clone(b.flags)
				for i := range flags {
					flags[i] = strings.NewReplacer("HTTP", strconv.Itoa(o.http), "TLS", strconv.Itoa(o.tls), "POLICY", policy).Replace(flags[i])
				}
			}
			reached := func(r result) bool {
				seen := slices.DeleteFunc(o.took(), func(s string) bool { // what is allowed
					return strings.HasSuffix(s, goodName+" /to") || strings.HasSuffix(s, goodName+" /first")
				})
				return strings.Contains(r.out, "served") || len(seen) > 0
			}
			o.took()
			straight := s.rigged(t, rigging{Hosts: bypassHosts}, "sh", "-c", o.words(env, false)+b.line)
			if !reached(straight) {
				t.Errorf("the control: status %d, %q, %s", straight.status, straight.out, straight.err)
			}
			command := slices.Concat([]string{binary, "run"}, flags, []string{"--", "sh", "-c", o.words(env, true) + b.line})
			if r := s.rigged(t, rigging{Hosts: bypassHosts}, command...); reached(r) {
				t.Errorf("status %d, %q; %s", r.status, r.out, r.err)
			}
		})
	}
}

const bypassHosts = "127.0.0.1 localhost " + goodName + " " + evilName + " other." + goodName + " " + goodName + "." + evilName + " evil-" + goodName + "\n"

// words are the variables of a line.
func (o *outside) words(ports map[string]int, inside bool) string {
	via := map[string]string{"P": "", "C": "", "S": "", "VIA": strconv.Itoa(ports["PLAIN"])}
	if inside {
		at := fmt.Sprintf("127.0.0.1:%d", plan.ProxyHTTPPort)
		via = map[string]string{"P": "--proxy http://" + at, "C": "--proxy http://" + at + " -p", "S": fmt.Sprintf("--proxy socks5h://127.0.0.1:%d", plan.ProxySOCKSPort), "VIA": strconv.Itoa(plan.ProxyHTTPPort)}
	}
	line := "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY no_proxy; export Q='-sS -m 5' OWN=" + ownAddress() + "; "
	for name, value := range via {
		line += "export " + name + "='" + value + "'; "
	}
	for name, port := range ports {
		line += fmt.Sprintf("export %s=%d; ", name, port)
	}
	return line
}

// ownAddress is one that only this host answers for, and that is not loopback's; the
// loopback's if there is no other.
func ownAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// elsewhere starts what else there is on this host that nobody inside may reach.
func (o *outside) elsewhere(t *testing.T) map[string]int {
	t.Helper()
	at := map[string]int{}
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.note(r.Host); io.WriteString(w, "served\n") })
	for name, address := range map[string]string{"OWNPORT": net.JoinHostPort(ownAddress(), "0"), "SIX": "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil && name == "SIX" {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: serve}}
		server.Start()
		t.Cleanup(server.Close)
		at[name] = l.Addr().(*net.TCPAddr).Port
	}
	udp, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	group, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.IPv4(239, 255, 77, 77)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.PacketConn{"UDP": udp, "GROUP": group} {
		t.Cleanup(func() { c.Close() })
		at[name] = c.LocalAddr().(*net.UDPAddr).Port
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				o.note("datagram")
				_, _ = c.WriteTo([]byte("served"), from)
			}
		}()
	}
	return at
}

// plainProxy does what it is told as C libraries understand it, and judges nothing: a
// name ends at a NUL or a line end, and an address has many spellings.
func (s *site) plainProxy(t *testing.T) int {
	t.Helper()
	const program = `
import socket, threading, urllib.parse
def carry(a, b):
    try:
        while d := a.recv(65536): b.sendall(d)
    except OSError: pass
    try: b.shutdown(socket.SHUT_WR)
    except OSError: pass
def serve(c):
    head = c.recv(65536)
    method, target, rest = head.split(b" ", 2)
    connect = method == b"CONNECT"
    name = target if connect else target.split(b"//", 1)[1].split(b"/", 1)[0].rsplit(b"@", 1)[-1]
    port = name.rsplit(b":", 1)[1]
    host = urllib.parse.unquote(name.rsplit(b":", 1)[0].split(b":")[0].split(b"\0")[0].split(b"\n")[0].rstrip(b".").decode())
    try: host = socket.inet_ntoa(socket.inet_aton(host))
    except OSError: pass
    up = socket.create_connection((socket.gethostbyname(host), int(port)))
    if connect: c.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    else: up.sendall(method + b" /" + target.split(b"//", 1)[1].split(b"/", 1)[1] + b" " + rest)
    threading.Thread(target=carry, args=(up, c), daemon=True).start()
    carry(c, up)
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
`
	cmd := s.rig(t, rigging{Hosts: bypassHosts}, "/usr/bin/python3", "-c", program)
	cmd.Stderr = io.Discard // of what it can't carry
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		testenv.Skip(t, testenv.UserNamespaces, "no plain proxy: "+err.Error())
	}
	return port
}

// tried runs a line of Python inside as long as the test lasts, and waits until it has
// printed "ready".
func (s *site) tried(t *testing.T, program string, flags ...string) *background {
	t.Helper()
	return s.start(t, "ready", slices.Concat([]string{"run"}, flags, []string{"--", "/usr/bin/python3", "-c", program})...)
}

// NET-41, NET-53, NET-57: what listens inside, the proxies too, is for the inside alone:
// neither the host nor another session gets there.
func TestNobodyComesIn(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	program := fmt.Sprintf(`
import socket, sys
l = socket.create_server(("0.0.0.0", %d)); print("ready", flush=True)
while True: l.accept()[0].sendall(b"served")`, port)
	reached := func(port int) string {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		return string(b)
	}
	open := []string{"--allow-domain", "api.stand-in.test"}
	b := s.tried(t, program, open...)
	for _, port := range []int{port, plan.ProxyHTTPPort, plan.ProxySOCKSPort, netns.TCPPort} {
		if got := reached(port); !strings.Contains(got, "refused") {
			t.Errorf("the host reaches port %d: %q", port, got)
		}
	}
	another := s.run(t, slices.Concat([]string{"run"}, open, []string{"--", "sh", "-c", fmt.Sprintf("curl -sS -m 5 --http0.9 --noproxy '*' http://127.0.0.1:%d/ http://%s:%[1]d/", port, ownAddress())})...)
	if another.status == 0 || strings.Contains(another.out, "served") {
		t.Errorf("another session: status %d, %q, %s", another.status, another.out, another.err)
	}
	_ = b.Process.Signal(syscall.SIGTERM)
	b.end(t)

	// The control: the same without a boundary.
	cmd := s.command("-c", program)
	cmd.Path, cmd.Args[0] = "/usr/bin/python3", "python3"
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var word string
	_, _ = fmt.Fscan(out, &word)
	if got := reached(port); got != "served" {
		t.Errorf("the control: %q", got)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// NET-58: a connection ends with the session, whoever holds it there.
func TestConnectionsEndWithTheSession(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	line := fmt.Sprintf(`setsid /usr/bin/python3 -c '
import socket, os
c = socket.create_connection(("%s", %d), 5); c.sendall(b"here"); open("held", "w").close(); c.recv(1)' >/dev/null 2>&1 & while ! [ -e held ]; do sleep 0.05; done; rm held`, goodName, port)
	// after returns what the server reads when the line is over.
	after := func(r result) error {
		r.wants(t, 0)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err = io.ReadFull(c, make([]byte, 4)); err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return err
	}
	rig := rigging{Hosts: bypassHosts}
	if err := after(s.rigged(t, rig, binary, "run", "--tunnel-domain", fmt.Sprintf("%s:%d", goodName, port), "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port), "--", "sh", "-c", line)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("it is still open: %v", err)
	}
	if err := after(s.rigged(t, rig, "sh", "-c", line)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the control: %v", err)
	}
}

// NET-49: the proxies carry nobody to themselves, or to the gateway's other sockets.
func TestProxiesLeadNotToThemselves(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	for _, port := range []int{plan.ProxyHTTPPort, plan.ProxySOCKSPort, netns.TCPPort} {
		for _, by := range []string{fmt.Sprintf("--proxy http://127.0.0.1:%d", plan.ProxyHTTPPort), fmt.Sprintf("--proxy http://127.0.0.1:%d -p", plan.ProxyHTTPPort), fmt.Sprintf("--proxy socks5h://127.0.0.1:%d", plan.ProxySOCKSPort)} {
			r := o.try(t, s, fmt.Sprintf("curl -sS -m 5 --noproxy '' %s http://127.0.0.1:%d/", by, port), o.allow()...)
			// 97: SOCKS said no. 52, 56: no answer.
			if !strings.Contains(r.out, "cofferdam refused this") && !slices.Contains([]int{52, 56, 97}, r.status) {
				t.Errorf("%s to %d: status %d, %q, %s", by, port, r.status, r.out, r.err)
			}
		}
	}
}

// NET-62: names, paths and methods that the inside makes up say nothing to a terminal, and
// make no line of the record.
func TestRecordIsNotWrittenFromInside(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	const program = `
import socket
def say(port, *said):
    c = socket.create_connection(("127.0.0.1", port), 5); c.settimeout(2)
    for b in said:
        try: c.sendall(b); c.recv(4096)
        except OSError: pass
bad = b"evil\x1b[31m\r\nforged: line\x07\xff\xe2\x80\xae"
say(HTTP, b"CONNECT " + bad + b":80 HTTP/1.1\r\n\r\n")
say(HTTP, b"GET http://api.stand-in.test:80/" + bad.replace(b"\r\n", b"") + b" HTTP/1.1\r\nHost: api.stand-in.test:80\r\n\r\n")
say(HTTP, b"G\x1bT http://api.stand-in.test:80/ HTTP/1.1\r\nHost: " + bad + b"\r\n\r\n")
say(SOCKS, b"\x05\x01\x00", b"\x05\x01\x00\x03" + bytes([len(bad)]) + bad + b"\x00\x50")`
	line := "/usr/bin/python3 -c '" + strings.NewReplacer("HTTP,", fmt.Sprintf("%d,", plan.ProxyHTTPPort), "SOCKS,", fmt.Sprintf("%d,", plan.ProxySOCKSPort)).Replace(program) + "'"
	r := o.try(t, s, line, o.allow()...)
	r.wants(t, 0)
	id := strings.TrimSpace(r.err[strings.LastIndex(r.err, " ")+1:])
	text, stored := s.run(t, "logs", id), s.run(t, "logs", "--json", id)
	if !strings.Contains(text.out, "evil") || !strings.Contains(stored.out, "evil") {
		t.Errorf("not recorded: %s%s", text.out, text.err)
	}
	for _, out := range []string{r.err, text.out, stored.out} {
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "forged") || strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(c rune) bool { return c < ' ' || c == 0x7f || c == 0x202e || c == utf8.RuneError }) >= 0 {
				t.Errorf("%q", line)
			}
		}
	}
}
