package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/approval"
	"cofferdam/internal/testenv"
)

type rig struct {
	*approval.Board
	*Server
	t   *testing.T
	dir *os.File
	by  chan approval.Peer
}

func serve(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, by: make(chan approval.Peer, 10)}
	r.Board = approval.New(approval.Config{
		Asked: func(q approval.Question, _ approval.Wish) (approval.Question, error) { return q, nil },
		Answered: func(_ approval.Question, _ approval.Wish, a approval.Answer, by approval.Peer) (string, error) {
			r.by <- by
			if a == approval.Always {
				return "kept for this session only", nil
			}
			return "", nil
		},
	})
	var err error
	// Longer than an address of a local socket may be.
	long := filepath.Join(t.TempDir(), strings.Repeat("a", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if r.dir, err = os.Open(long); err != nil {
		t.Fatal(err)
	}
	if r.Server, err = Serve(r.dir, "20260301-120000-k3f9", r.Board); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Board.Close(); r.Server.Close(); r.dir.Close() })
	return r
}

func (r *rig) ask(host string) chan approval.Outcome {
	c := make(chan approval.Outcome, 1)
	go func() {
		c <- r.Board.Ask(context.Background(), approval.Wish{Subject: approval.Subject{Host: host, Port: 443}, Reason: "by a rule"})
	}()
	return c
}

// say sends text as it is and returns what comes.
func (r *rig) say(text string) string {
	r.t.Helper()
	c, err := net.Dial("unix", address(r.dir))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	_ = c.(*net.UnixConn).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestSeeAndAnswer(t *testing.T) {
	r := serve(t)
	info, err := os.Stat(filepath.Join(r.dir.Name(), Socket))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	list, err := Questions(t.Context(), r.dir)
	if err != nil || len(list.Questions) != 0 || list.Session != "20260301-120000-k3f9" {
		t.Fatalf("%+v, %v", list, err)
	}
	outcome := r.ask("a\x1b[2J\u202e.test") // no host is called so; a path may be
	got := r.say("GET /v1/questions?wait=10s HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, want := range []string{"HTTP/1.1 200 OK\r\n", `"version":1,`, `"host":"a\u001b[2J\u202e.test"`, `"port":443`, `"waiting":1`, `"reason":"by a rule"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	if list, err = Questions(t.Context(), r.dir); err != nil || len(list.Questions) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	a, err := Settle(t.Context(), r.dir, list.Questions[0].ID, approval.Always)
	if err != nil || a.Answer != approval.Always || a.Note != "kept for this session only" {
		t.Errorf("%+v, %v", a, err)
	}
	if by := <-r.by; by.PID != os.Getpid() || by.UID != os.Geteuid() {
		t.Errorf("answered by %+v", by)
	}
	if o := <-outcome; o != approval.Granted {
		t.Errorf("%s", o)
	}
	var e *Error
	if _, err := Settle(t.Context(), r.dir, 1, approval.No); !errors.As(err, &e) || e.Status != 404 || e.Code != "no-question" {
		t.Errorf("%v", err)
	}
	if len(r.by) > 0 {
		t.Error("answered twice")
	}
}

// A long poll comes back with news, or at the end of the session.
func TestLongPoll(t *testing.T) {
	r := serve(t)
	polled := make(chan string, 1)
	go func() { polled <- r.say("GET /v1/questions?wait=1m&seq=0 HTTP/1.1\r\n\r\n") }()
	r.ask("a.test")
	if got := <-polled; !strings.Contains(got, " 200 ") {
		t.Errorf("%q", got)
	}
	go func() { polled <- r.say("GET /v1/questions?wait=1m&seq=1000 HTTP/1.1\r\n\r\n") }()
	<-polled // is not that
	_, seq := r.List()
	go func() { polled <- r.say(fmt.Sprintf("GET /v1/questions?wait=1m&seq=%d HTTP/1.1\r\n\r\n", seq)) }()
	r.Board.Close()
	if got := <-polled; !strings.Contains(got, " 200 ") {
		t.Errorf("%q", got)
	}
}

func TestHostile(t *testing.T) {
	r := serve(t)
	r.ask("a.test")
	if got := r.say("GET /v1/questions?wait=10s HTTP/1.1\r\n\r\n"); !strings.Contains(got, `"id":1`) {
		t.Fatal(got)
	}
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	const yes = `{"answer":"session"}`
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                {"", " 400 "},
		"no HTTP":                {"\x16\x03\x01 hello\r\n\r\n", " 400 "},
		"HTTP/2":                 {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", " 400 "},
		"bare LF":                {"GET /v1/questions HTTP/1.1\n\n", " 400 "},
		"no end":                 {"GET /v1/questions HTTP/1.1\r\n", " 400 "},
		"a NUL":                  {"GET /v1/questions HTTP/1.1\r\nA: \x00\r\n\r\n", " 400 "},
		"a long line":            {"GET /" + strings.Repeat("a", 2*maxHead) + " HTTP/1.1\r\n\r\n", " 400 "},
		"many lines":             {"GET /v1/questions HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", maxHead) + "\r\n", " 400 "},
		"another path":           {"GET /v2/questions HTTP/1.1\r\n\r\n", " 404 "},
		"another method":         {"DELETE /v1/questions/1 HTTP/1.1\r\n\r\n", " 405 "},
		"GET to answer":          {"GET /v1/questions/1?answer=session HTTP/1.1\r\n\r\n", " 405 "},
		"an unknown query":       {"GET /v1/questions?weit=1s HTTP/1.1\r\n\r\n", " 400 "},
		"a wait of less than 0":  {"GET /v1/questions?wait=-1s HTTP/1.1\r\n\r\n", " 400 "},
		"a query with an answer": {post("/v1/questions/1?x", yes), " 400 "},
		"chunks":                 {"POST /v1/questions/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + yes + "\r\n0\r\n\r\n", " 400 "},
		"two lengths":            {"POST /v1/questions/1 HTTP/1.1\r\nContent-Length: 20\r\nContent-Length: 20\r\n\r\n" + yes, " 400 "},
		"a huge length":          {"POST /v1/questions/1 HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + yes, " 400 "},
		"a signed length":        {"POST /v1/questions/1 HTTP/1.1\r\nContent-Length: +20\r\n\r\n" + yes, " 400 "},
		"a short body":           {"POST /v1/questions/1 HTTP/1.1\r\nContent-Length: 30\r\n\r\n" + yes, " 400 "},
		"two requests":           {post("/v1/questions/1", yes) + "GET / HTTP/1.1\r\n\r\n", " 400 "},
		"no answer":              {post("/v1/questions/1", `{}`), " 400 "},
		"no JSON":                {post("/v1/questions/1", `answer=session`), " 400 "},
		"two values":             {post("/v1/questions/1", yes+yes), " 400 "},
		"an unknown key":         {post("/v1/questions/1", `{"answer":"session","for":"ever"}`), " 400 "},
		"an unknown answer":      {post("/v1/questions/1", `{"answer":"yes"}`), " 400 "},
		"another number":         {post("/v1/questions/2", yes), " 404 "},
		"a number with a zero":   {post("/v1/questions/01", yes), " 404 "},
		"no number":              {post("/v1/questions/", yes), " 404 "},
		"a path below":           {post("/v1/questions/1/x", yes), " 404 "},
	} {
		got := r.say(c.text)
		if !strings.HasPrefix(got, "HTTP/1.1"+c.want) || !strings.Contains(got, `"version":1,"error":{"code":"`) {
			t.Errorf("%s: %q, want%s", name, got, c.want)
		}
	}
	if len(r.by) > 0 {
		t.Error("one of them has answered")
	}
	if got := r.say(post("/v1/questions/1", yes)); !strings.Contains(got, " 200 ") || len(r.by) != 1 {
		t.Errorf("the control: %q", got)
	}
}

// Who may not ask gets no word of what is asked, and answers nothing.
func TestPeers(t *testing.T) {
	r := serve(t)
	r.ask("a.test")
	if got := r.say("GET /v1/questions?wait=10s HTTP/1.1\r\n\r\n"); !strings.Contains(got, "a.test") {
		t.Fatal(got)
	}
	// A process of the same user in other namespaces, as whatever is inside.
	for name, flags := range map[string]uintptr{"none": 0, "user": syscall.CLONE_NEWUSER, "pid": syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID} {
		cmd := exec.Command("/proc/self/exe", "peer", r.dir.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		if flags != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil && flags != 0 && errors.Is(err, syscall.EPERM) {
			testenv.Skip(t, testenv.UserNamespaces, err.Error())
		}
		if flags == 0 {
			if err != nil || !strings.Contains(string(out), "404") { // the control: asked for a question that is not there
				t.Errorf("%s: %v, %s", name, err, out)
			}
			continue
		}
		if err != nil || !strings.Contains(string(out), "403 forbidden") || !strings.Contains(string(out), "namespace") || strings.Contains(string(out), "a.test") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	if len(r.by) > 0 {
		t.Error("one of them has answered")
	}
}

// peer is this program as somebody who answers.
func peer(dir string) int {
	f, err := os.Open(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = Settle(context.Background(), f, 77, approval.Session)
	var e *Error
	if !errors.As(err, &e) {
		fmt.Println(err)
		return 1
	}
	fmt.Println(e.Status, e.Code, e.Text)
	return 0
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "peer" {
		os.Exit(peer(os.Args[2]))
	}
	os.Exit(m.Run())
}

// A flood of those who wait for news shuts nobody out for ever, nor the memory.
func TestManyPeers(t *testing.T) {
	r := serve(t)
	var conns []net.Conn
	for range 2 * maxPeers {
		c, err := net.Dial("unix", address(r.dir))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := Questions(t.Context(), r.dir); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// FuzzRequest: what is understood is understood so by net/http too.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"GET /v1/questions?wait=1s HTTP/1.1\r\nHost: x\r\n\r\n", "POST /v1/questions/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"answer\":\"session\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(got.body) > maxBody || len(got.path)+len(got.query) > maxHead {
			t.Fatalf("%+v", got)
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return // stricter in what does not matter here
		}
		body, err := io.ReadAll(want.Body)
		if err != nil || want.Method != got.method || want.RequestURI != got.path && want.RequestURI != got.path+"?"+got.query || !bytes.Equal(body, got.body) {
			t.Fatalf("%q: %+v, and net/http %s %s %q %v", b, got, want.Method, want.RequestURI, body, err)
		}
	})
}

// What a server of somebody else says is not believed blindly.
func TestClient(t *testing.T) {
	for name, says := range map[string]string{
		"nothing": "", "garbage": "hello\r\n\r\n{}", "no JSON": "HTTP/1.1 200 OK\r\n\r\nhello", "an error without a text": "HTTP/1.1 500 No\r\n\r\n{}",
		"an error that is none": "HTTP/1.1 500 No\r\n\r\n{\"error\":null}",
	} {
		dir, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		l, err := net.Listen("unix", address(dir))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = readRequest(c)
				io.WriteString(c, says)
				c.Close()
			}
		}()
		if list, err := Questions(t.Context(), dir); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
		l.Close()
	}
	var e failure
	if err := json.Unmarshal([]byte(`{"version":1,"error":{"code":"a","text":"b"}}`), &e); err != nil || e.Error.Text != "b" {
		t.Error(e, err)
	}
}
