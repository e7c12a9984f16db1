package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// asks is a rule by which a person is asked about every name and address.
func asks() plan.NetRule { return plan.NetRule{Ask: true, Name: "*", Rule: 9} }

// person answers questions: each comes out of asked and waits for one of replies.
type person struct {
	asked   chan Wanted
	replies chan Reply
	gone    chan Wanted // whose client went away
}

func (w *world) person() *person {
	p := &person{make(chan Wanted, 100), make(chan Reply), make(chan Wanted, 100)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = func(ctx context.Context, q Wanted) Reply {
		p.asked <- q
		select {
		case r := <-p.replies:
			return r
		case <-ctx.Done():
			p.gone <- q
			return Reply{Code: Unanswered, Reason: "the client has gone"}
		}
	}
	return p
}

func wait[T any](t *testing.T, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

func parrot(c net.Conn) { _, _ = io.Copy(c, c) }

func says(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%q, %v", got, err)
	}
}

// cutOff waits for the end of a connection that must bring nothing.
func cutOff(t *testing.T, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); len(b) > 0 {
		t.Errorf("%q came, %v", b, err)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Errorf("it was left open: %v", err)
	}
}

// The connection waits before anything is resolved or dialled, and what it has sent
// meanwhile is carried when the answer is yes. Once is for this one alone.
func TestAskOnce(t *testing.T) {
	w := start(t, asks())
	w.serve("9000", parrot)
	p := w.person()
	c := w.named("example.org", "9000")
	io.WriteString(c, "sent before")
	q := wait(t, p.asked)
	if q.Name != "example.org" || q.Port != 9000 || !q.Verdict.Ask || !q.Client.IsValid() || q.Client.String() != c.LocalAddr().String() {
		t.Errorf("asked about %+v", q)
	}
	if asked, dialled := w.outside(); len(asked)+len(dialled) > 0 {
		t.Errorf("before the answer: resolved %v, dialled %v", asked, dialled)
	}
	p.replies <- Reply{Yes: true, Once: true}
	got := make([]byte, len("sent before"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "sent before" {
		t.Fatalf("%q, %v", got, err)
	}
	says(t, c, "and after")
	w.told("allowed", func(f Fact) bool {
		return f.Kind == Decided && f.Verdict.Allow && f.Name == "example.org" && f.Port == 9000
	})

	w.named("example.org", "9000")
	wait(t, p.asked) // again
	p.replies <- Reply{Code: Declined, Reason: "no"}
	w.denied(Declined, "example.org")
}

// A session's answer is a rule: what comes later is not asked about, and other ports are.
func TestAskSession(t *testing.T) {
	w := start(t, asks())
	w.serve("9000", parrot)
	p := w.person()
	c := w.named("example.org", "9000")
	q := wait(t, p.asked)
	if err := w.Allow(q.Allow...); err != nil {
		t.Fatal(err)
	}
	p.replies <- Reply{Yes: true}
	says(t, c, "hello there")
	says(t, w.named("example.org", "9000"), "hello there")
	if len(p.asked) > 0 {
		t.Error("asked again")
	}
	for _, open := range []func() *net.TCPConn{
		func() *net.TCPConn { return w.named("example.org", "9001") },
		func() *net.TCPConn { return w.named("www.example.org", "9000") },
		func() *net.TCPConn { return w.redirected("93.184.216.34:9000") },
	} {
		other := open()
		q = wait(t, p.asked)
		p.replies <- Reply{}
		cutOff(t, other)
	}
	if q.Addr != public || q.Name != "" {
		t.Errorf("asked about %+v", q)
	}
}

// A yes opens nothing that a denial closes, nor a special address.
func TestAskDenied(t *testing.T) {
	w := start(t, asks(), plan.NetRule{Name: "bad.test", Rule: 3}, plan.NetRule{Prefix: "93.184.0.0/16", Port: 9001, Rule: 4})
	w.serve("9000", parrot)
	w.serve("9001", parrot)
	p := w.person()
	if code, _ := w.ask("bad.test", dnsmessage.TypeA); code != dnsmessage.RCodeNameError {
		t.Errorf("a denied name: %v", code)
	}
	w.mu.Lock()
	w.resolve["inner.test"] = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	w.resolve["self.test"] = []netip.Addr{netip.MustParseAddr("203.0.113.9")}
	w.mu.Unlock()
	for _, c := range [][3]string{{"inner.test", "9000", "special-address"}, {"self.test", "9000", "special-address"}, {"example.org", "9001", "denied"}} {
		conn := w.named(c[0], c[1])
		q := wait(t, p.asked)
		if err := w.Allow(q.Allow...); err != nil {
			t.Fatal(err)
		}
		p.replies <- Reply{Yes: true}
		cutOff(t, conn)
		w.denied(c[2], c[0])
	}
	for _, dest := range []string{"10.0.0.1:9000", "127.0.0.2:9000", "169.254.169.254:9000", "203.0.113.9:9000", "93.184.216.34:9001"} {
		cutOff(t, w.redirected(dest))
	}
	if len(p.asked) > 0 {
		t.Errorf("asked about %+v", <-p.asked)
	}
	if _, dialled := w.outside(); len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
}

// A denial that came while the person was thinking beats the answer.
func TestAskDeniedMeanwhile(t *testing.T) {
	w := start(t, asks())
	w.serve("9000", parrot)
	p := w.person()
	c := w.named("example.org", "9000")
	wait(t, p.asked)
	if err := w.Allow(plan.NetRule{Name: "example.org", Rule: 5}); err != nil {
		t.Fatal(err)
	}
	p.replies <- Reply{Yes: true, Once: true}
	cutOff(t, c)
	w.denied("denied", "example.org")
}

// A client that goes away ends its wait, whatever it has sent before.
func TestAskGone(t *testing.T) {
	w := start(t, asks())
	p := w.person()
	c := w.named("example.org", "9000")
	io.WriteString(c, "bytes that nobody reads")
	wait(t, p.asked)
	c.Close()
	if q := wait(t, p.gone); q.Name != "example.org" {
		t.Errorf("%+v", q)
	}
	w.denied(Unanswered, "example.org")

	c = w.named("example.org", "9001")
	wait(t, p.asked)
	c.SetLinger(0) // a reset
	c.Close()
	wait(t, p.gone)
}

// Close ends what waits.
func TestAskClose(t *testing.T) {
	w := start(t, asks())
	p := w.person()
	c := w.named("example.org", "9000")
	wait(t, p.asked)
	w.Close()
	cutOff(t, c)
}

// Proxies wait too, and each HTTP request by itself.
func TestAskProxies(t *testing.T) {
	w := start(t, asks())
	requests := w.site("80", func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "served") })
	w.serve("9000", parrot)
	p := w.person()
	c := dialTo(t, w.addrs.http)
	get := func(code int, text string) {
		t.Helper()
		io.WriteString(c, "GET http://example.org/x HTTP/1.1\r\nHost: example.org\r\n\r\n")
	}
	read := func(n int) string {
		buf := make([]byte, n)
		m, _ := c.Read(buf)
		return string(buf[:m])
	}
	get(200, "served")
	wait(t, p.asked)
	p.replies <- Reply{Yes: true, Once: true}
	if got := read(4096); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Fatalf("%q", got)
	}
	get(403, "not this time") // the same connection, and the one to the outside is there
	wait(t, p.asked)
	p.replies <- Reply{Code: Declined, Reason: "not this time"}
	b, _ := io.ReadAll(c)
	if !strings.Contains(string(b), "403") || !strings.Contains(string(b), "not this time") || len(requests()) != 1 {
		t.Errorf("%q, served %v", b, requests())
	}

	answer := func(r Reply) {
		go func() { <-p.asked; p.replies <- r }()
	}
	answer(Reply{Yes: true, Once: true})
	says(t, w.connect(t, "example.org:9000", 200), "hello there")
	answer(Reply{Code: Declined, Reason: "no"})
	w.connect(t, "example.org:9000", 403)
	answer(Reply{Yes: true, Once: true})
	says(t, w.socksTo(t, "example.org", "9000", socksOK), "hello there")
	answer(Reply{Code: Declined, Reason: "no"})
	w.socksTo(t, "example.org", "9000", socksNotAllowed)
	answer(Reply{Yes: true, Once: true})
	in80 := w.connect(t, "example.org:80", 200)
	io.WriteString(in80, "GET /y HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
	if b, _ := io.ReadAll(in80); !strings.Contains(string(b), "served") {
		t.Errorf("within CONNECT to port 80: %q", b)
	}
}

// Those who wait leave most connections to others, and a flood of them is refused.
func TestAskFlood(t *testing.T) {
	w := start(t, asks(), allow("good.test", 9000))
	w.serve("9000", parrot)
	w.Gateway.waiting = waiting{make(chan struct{}, 3), make(chan struct{}, 1)}
	p := w.person()
	addrs := map[string]string{}
	for _, name := range []string{"example.org", "good.test"} {
		_, a := w.ask(name, dnsmessage.TypeA)
		addrs[name] = a[0].String() + ":9000"
	}
	var waits []*net.TCPConn
	for range 3 {
		waits = append(waits, w.redirected(addrs["example.org"]))
		wait(t, p.asked)
	}
	cutOff(t, w.redirected(addrs["example.org"]))
	w.denied(tooMany, "example.org")
	says(t, w.redirected(addrs["good.test"]), "still served")
	waits[0].Close()
	wait(t, p.gone)
	var again *net.TCPConn
	for end := time.Now().Add(10 * time.Second); len(p.asked) == 0 && time.Now().Before(end); {
		again = w.redirected(addrs["example.org"]) // the place is free in a moment
		time.Sleep(5 * time.Millisecond)
	}
	wait(t, p.asked)
	again.Close()
}

// A large head in memory while a person thinks: only some of them may.
func TestAskLargeHeads(t *testing.T) {
	w := start(t, asks())
	w.Gateway.waiting = waiting{make(chan struct{}, 100), make(chan struct{}, 1)}
	p := w.person()
	send := func(pad int) *net.TCPConn {
		c := dialTo(t, w.addrs.http)
		fmt.Fprintf(c, "GET http://example.org/x HTTP/1.1\r\nHost: example.org\r\nX: %s\r\n\r\n", strings.Repeat("a", pad))
		return c
	}
	send(2 * smallHead)
	wait(t, p.asked)
	if b, _ := io.ReadAll(send(2 * smallHead)); !strings.Contains(string(b), " 503 ") {
		t.Errorf("%q", b)
	}
	send(10)
	wait(t, p.asked)
}

// Nobody is there to be asked: that is a no.
func TestAskNobody(t *testing.T) {
	rules, err := decide.Compile([]plan.NetRule{asks()})
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{}
	g.rules.Store(rules)
	c := &client{}
	v := g.judged(c, target{name: "a.test", port: 443}, nil)
	if v.Allow || v.Ask || v.Code != Unanswered || c.once != nil || !strings.Contains(v.Reason, "nobody is there") {
		t.Errorf("%+v", v)
	}
}

// A request to a host that is asked about, and one that publishes: the host first, and
// then what the request does, which no answer about the host covers.
func TestAskRequest(t *testing.T) {
	w := start(t, asks())
	c := &client{tcp: dialTo(t, w.addrs.http), room: room{slots: w.large}}
	to := target{name: "git.test", port: 443}
	p := w.person()
	get := &decide.Request{Name: to.name, Port: to.port, Method: "GET", Path: "/x"}
	push := &decide.Request{Name: to.name, Port: to.port, Method: "POST", Path: "/x.git/git-receive-pack"}
	judged := make(chan decide.Verdict, 1)
	judge := func(q *decide.Request) {
		go func() { judged <- w.judged(c, to, q) }()
	}
	expect := func(request bool, r Reply) Wanted {
		t.Helper()
		q := wait(t, p.asked)
		if (q.Request != nil) != request {
			t.Errorf("asked about %+v", q)
		}
		p.replies <- r
		return q
	}
	once := Reply{Yes: true, Once: true}
	judge(get)
	expect(false, once)
	if v := <-judged; !v.Allow {
		t.Errorf("%+v", v)
	}
	if !w.rulesOf(c).Connect("git.test", 443).Allow {
		t.Error("it can't be dialled")
	}
	judge(get) // once is one request
	expect(false, Reply{Code: Declined, Reason: "no"})
	if v := <-judged; v.Allow || v.Code != Declined {
		t.Errorf("%+v", v)
	}

	judge(push)
	expect(false, once)
	q := expect(true, once)
	if v := <-judged; !v.Allow || q.Request.Path != "/x.git/git-receive-pack" || q.Verdict.Act != decide.GitPush || len(q.Allow) == 0 || q.Allow[0].Only == nil {
		t.Errorf("%+v; asked %+v", v, q)
	}
	// The connection is allowed, once: its requests are, but for what publishes.
	judge(nil)
	expect(false, once)
	<-judged
	judge(get)
	if v := <-judged; !v.Allow {
		t.Errorf("%+v", v)
	}
	judge(push)
	expect(true, Reply{Code: Declined, Reason: "no"})
	if v := <-judged; v.Allow || v.Code != Declined {
		t.Errorf("%+v", v)
	}
	judge(push)
	q = expect(true, once)
	if v := <-judged; !v.Allow {
		t.Errorf("%+v", v)
	}
	// A denial that came meanwhile beats the answer.
	judge(push)
	wait(t, p.asked)
	before := w.rules.Load()
	if err := w.Allow(plan.NetRule{Name: "git.test", Only: &plan.Requests{Acts: []string{decide.GitPush}}}); err != nil {
		t.Fatal(err)
	}
	p.replies <- once
	if v := <-judged; v.Allow || v.Code != decide.Denied {
		t.Errorf("%+v", v)
	}
	w.rules.Store(before)
	// For the session: that request and no other.
	if err := w.Allow(q.Allow...); err != nil {
		t.Fatal(err)
	}
	judge(push)
	if v := <-judged; !v.Allow {
		t.Errorf("%+v", v)
	}
	other := *push
	other.Path = "/y.git/git-receive-pack"
	judge(&other)
	expect(true, Reply{})
	if v := <-judged; v.Allow {
		t.Errorf("%+v", v)
	}
}

// Nothing flows that could not be recorded, whatever the answer.
func TestAskUnrecorded(t *testing.T) {
	w := start(t, asks())
	w.serve("9000", parrot)
	p := w.person()
	c := w.named("example.org", "9000")
	wait(t, p.asked)
	w.mu.Lock()
	w.fail = func(f Fact) bool { return f.Kind == Decided }
	w.mu.Unlock()
	p.replies <- Reply{Yes: true, Once: true}
	cutOff(t, c)
	if _, dialled := w.outside(); len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
}

// Rules are exchanged while others ask.
func TestAllowRaces(t *testing.T) {
	w := start(t, asks())
	w.serve("9000", parrot)
	_, a := w.ask("example.org", dnsmessage.TypeA)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { _ = w.Allow(allow(fmt.Sprintf("n%d.test", i), 9000)) })
		wg.Go(func() { w.redirected(a[0].String() + ":9000").Close() })
	}
	wg.Wait()
	for i := range 20 {
		if !w.rules.Load().Connect(fmt.Sprintf("n%d.test", i), 9000).Allow {
			t.Errorf("the rule %d is lost", i)
		}
	}
}
