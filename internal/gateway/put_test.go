package gateway

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cofferdam/internal/gateway/credential"
)

const apiToken = "ghp_Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l"

// masking is a gateway that puts apiToken into requests to example.org, and a shorter
// value into bodies too; with the placeholders.
func masking(t *testing.T) (w *world, client *http.Client, stand []string, inside *x509.CertPool) {
	t.Helper()
	w, inside = inspecting(t, looked("example.org", 0, nil), looked("other.example", 0, nil))
	set, err := credential.New(t.Context(), []credential.Spec{
		{Name: "TOKEN", Hosts: []credential.Host{{Name: "example.org", Port: 443}}, Source: credential.Fixed(apiToken)},
		{Name: "SHORT", Hosts: []credential.Host{{Name: "example.org", Port: 443}}, Bodies: true, Source: credential.Fixed("short+value")},
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Credentials = set
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: inside}, DisableCompression: true, DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		host, port, _ := net.SplitHostPort(address)
		return w.named(host, port), nil
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return w, &http.Client{Transport: tr}, set.Placeholders(), inside
}

// repeats is a server that answers with what it was sent.
func repeats(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, password, _ := r.BasicAuth()
	w.Header().Set("X-Echo", r.Header.Get("Authorization"))
	fmt.Fprintf(w, "%s auth=%s password=%s encoding=%s range=%s length=%d body=%s", r.RequestURI, r.Header.Get("Authorization"), password,
		r.Header.Get("Accept-Encoding"), r.Header.Get("Range"), r.ContentLength, body)
}

func TestPutAndScrubbed(t *testing.T) {
	w, client, stand, _ := masking(t)
	var got string
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization") + r.RequestURI + r.Header.Get("Accept-Encoding") + r.Header.Get("Range")
		repeats(rw, r)
	})
	for name, c := range map[string]struct{ path, auth, want, heard string }{
		"bearer": {"/", "Bearer " + stand[0], "Bearer " + apiToken + "/identity", "auth=Bearer " + stand[0]},
		"basic":  {"/", "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+stand[0])), "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+apiToken)) + "/identity", "password=" + stand[0]},
		"query":  {"/?a=b&key=" + stand[1], "", "/?a=b&key=short%2Bvalueidentity", "key=*************"},
		"none":   {"/", "", "/identity", "auth= "},
	} {
		req, _ := http.NewRequest("GET", "https://example.org"+c.path, nil)
		req.Header.Set("Accept-Encoding", "gzip")
		req.Header.Set("Range", "bytes=3-5")
		if c.auth != "" {
			req.Header.Set("Authorization", c.auth)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || got != c.want {
			t.Errorf("%s: the host got %q, want %q (%v)", name, got, c.want, err)
		}
		all := string(body) + resp.Header.Get("X-Echo")
		if strings.Contains(all, apiToken) || strings.Contains(all, "short%2Bvalue") || !strings.Contains(all, c.heard) {
			t.Errorf("%s: the inside got %q", name, all)
		}
	}
	var names []string
	w.mu.Lock()
	facts := slices.Clone(w.facts)
	w.mu.Unlock()
	for _, f := range facts {
		if f.Kind == Put {
			names = append(names, f.Credentials...)
		}
		if text := fmt.Sprintf("%+v", f); strings.Contains(text, apiToken) || strings.Contains(text, "short+value") {
			t.Errorf("recorded: %s", text)
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"SHORT", "TOKEN", "TOKEN"}) {
		t.Errorf("recorded as put in: %q", names)
	}
}

// A placeholder goes nowhere else, and nothing is dialled for it; nor does a value go
// where others can read it.
func TestPlaceholderGoesNowhereElse(t *testing.T) {
	w, client, stand, _ := masking(t)
	seen := w.serveTLS("443", &tls.Config{}, repeats)
	w.serveTLS("8443", &tls.Config{}, repeats)
	var plain atomic.Int32
	w.serve("80", func(c net.Conn) { plain.Add(1) })
	for _, u := range []string{"https://other.example/", "https://example.org:8443/", "http://example.org/", "https://other.example/" + stand[0], "https://other.example/?x=" + stand[0]} {
		req, _ := http.NewRequest("GET", u, nil)
		if !strings.Contains(u, stand[0]) {
			req.Header.Set("Authorization", "Bearer "+stand[0])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(u, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 403 || resp.Header.Get("X-Cofferdam-Refused") != notPut || !strings.Contains(string(body), "placeholder for TOKEN") {
			t.Errorf("%s: %d %s", u, resp.StatusCode, body)
		}
	}
	// At the port of its host, and not in TLS.
	c := w.named("example.org", "443")
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: example.org:443\r\nAuthorization: Bearer %s\r\n\r\n", stand[0])
	if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 403") || !strings.Contains(string(b), "without TLS") {
		t.Errorf("in the clear: %s", b)
	}
	if len(seen()) != 0 || plain.Load() != 0 {
		t.Errorf("seen: %q, and %d in the clear", seen(), plain.Load())
	}
}

// Bodies of every framing; a length that changes is said before.
func TestPutIntoBodies(t *testing.T) {
	w, client, stand, _ := masking(t)
	w.serveTLS("443", &tls.Config{}, repeats)
	long := strings.Repeat("x", 100<<10)
	for _, c := range []struct {
		text, kind string
		chunked    bool
		want       string
	}{
		{"a " + stand[1] + " b", "text/plain", false, "length=15 body=a *********** b"},
		{"k=" + stand[1], "application/x-www-form-urlencoded", false, "length=15 body=k=*************"},
		{"a " + stand[1] + " b", "text/plain", true, "length=-1 body=a *********** b"},
		{long + stand[1] + long, "text/plain", true, long + "***********" + long},
		{long + stand[1] + long, "text/plain", false, fmt.Sprintf("length=%d body=%s", len(long)*2+11, long)},
		{"not opted in: " + stand[0], "text/plain", false, "body=not opted in: " + stand[0]},
	} {
		var r io.Reader = strings.NewReader(c.text)
		if c.chunked {
			r = io.MultiReader(r)
		}
		resp, err := client.Post("https://example.org/", c.kind, r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), c.want) {
			t.Errorf("%.40s, chunked %v: %.100s (%v)", c.text, c.chunked, body, err)
		}
	}
	// One that waits before it sends its body, and one that is too long to be held.
	req, _ := http.NewRequest("POST", "https://example.org/", strings.NewReader(stand[1]))
	req.Header.Set("Expect", "100-continue")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "length=11 body=***********") {
		t.Errorf("100-continue: %s", body)
	}
	resp.Body.Close()
	resp, err = client.Post("https://example.org/", "text/plain", io.LimitReader(strings.NewReader(strings.Repeat("y", maxHeld+1)), maxHeld+1))
	if err == nil {
		resp.Body.Close()
	}
	req, _ = http.NewRequest("POST", "https://example.org/", strings.NewReader(strings.Repeat("y", maxHeld+1)))
	if resp, err = client.Do(req); err == nil {
		if resp.StatusCode != 403 {
			t.Errorf("a body that can't be held: %d", resp.StatusCode)
		}
		resp.Body.Close()
	}
}

// What a host says comes as it says it, in pieces, without the value.
func TestScrubbedStreams(t *testing.T) {
	w, client, stand, _ := masking(t)
	next := make(chan string)
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gzip" {
			rw.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(rw)
			io.WriteString(z, "packed all the same")
			z.Close()
			return
		}
		for text := range next {
			io.WriteString(rw, text)
			rw.(http.Flusher).Flush()
		}
	})
	resp, err := client.Get("https://example.org/gzip")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != "packed all the same" {
		t.Errorf("%q %v", b, err)
	}
	resp.Body.Close()

	go func() { next <- "data: one\n\n" }()
	resp, err = client.Get("https://example.org/")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	line := func(want string) {
		t.Helper()
		if got, err := r.ReadString('\n'); got != want || err != nil {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	line("data: one\n")
	line("\n")
	next <- "data: " + apiToken[:7]
	next <- apiToken[7:] + "\n\n"
	line("data: " + stand[0] + "\n")
	line("\n")
	next <- apiToken[:10] + "\n"
	line(apiToken[:10] + "\n") // a part is none
	close(next)
	if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
	resp.Body.Close()
}

func TestScrubbedWebSocket(t *testing.T) {
	w, _, stand, inside := masking(t)
	var sent string
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization") + r.Header.Get("Sec-Websocket-Extensions")
		conn, buf, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst %s", apiToken[:9])
		buf.Flush()
		b := make([]byte, 5)
		io.ReadFull(buf, b)
		fmt.Fprintf(buf, "%s and %s", apiToken[9:], b)
		buf.Flush()
	})
	c := shake(t, w.named("example.org", "443"), inside, "example.org")
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: Bearer %s\r\n\r\n", stand[0])
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(err)
	}
	io.WriteString(c, "hello")
	if b, _ := io.ReadAll(r); string(b) != "first "+stand[0]+" and hello" || sent != "Bearer "+apiToken {
		t.Errorf("%q; the host got %q", b, sent)
	}
}

// Nothing leaves before it is recorded, and nothing without its value.
func TestPutIsRecordedFirst(t *testing.T) {
	w, client, stand, _ := masking(t)
	seen := w.serveTLS("443", &tls.Config{}, repeats)
	w.mu.Lock()
	w.fail = func(f Fact) bool { return f.Kind == Put }
	w.mu.Unlock()
	req, _ := http.NewRequest("GET", "https://example.org/", nil)
	req.Header.Set("Authorization", "Bearer "+stand[0])
	if resp, err := client.Do(req); err == nil {
		t.Errorf("%d", resp.StatusCode)
		resp.Body.Close()
	}
	if len(seen()) != 0 {
		t.Errorf("seen: %q", seen())
	}
}

type failing struct{ n int }

func (f *failing) Value(context.Context) (string, error) {
	if f.n++; f.n > 1 {
		return "", errors.New("command /usr/bin/helper: exit status 1")
	}
	return apiToken, nil
}
func (f *failing) Rejected(string) {}

func TestNoValueNoRequest(t *testing.T) {
	w, client, _, _ := masking(t)
	set, err := credential.New(t.Context(), []credential.Spec{{Name: "TOKEN", Hosts: []credential.Host{{Name: "example.org", Port: 443}}, Source: &failing{}}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Credentials = set
	seen := w.serveTLS("443", &tls.Config{}, repeats)
	req, _ := http.NewRequest("GET", "https://example.org/", nil)
	req.Header.Set("Authorization", "Bearer "+set.Placeholders()[0])
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 403 || !strings.Contains(string(body), "TOKEN") || !strings.Contains(string(body), "exit status 1") || len(seen()) != 0 {
		t.Errorf("%d %s, seen %q", resp.StatusCode, body, seen())
	}
}
