package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// target is where a client wants to go: a canonical name or an address.
type target struct {
	name string
	addr netip.Addr // if name is empty
	port uint16
}

func (t target) String() string {
	if t.name != "" {
		return net.JoinHostPort(t.name, strconv.Itoa(int(t.port)))
	}
	return netip.AddrPortFrom(t.addr, t.port).String()
}

// rule allows all that a person who allows the target means.
func (t target) rule() plan.NetRule {
	r := plan.NetRule{Allow: true, Name: t.name, Port: int(t.port)}
	if t.name == "" {
		r.Prefix = netip.PrefixFrom(t.addr, t.addr.BitLen()).String()
	}
	return r
}

// target makes one of what a proxy's client said; host is an address only if it is
// one in the usual notation. An address that stands for a name is that name.
func (g *Gateway) target(host string, port uint16) (target, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return g.toAddr(netip.AddrPortFrom(a, port)), nil
	}
	name, err := decide.Canonical(host)
	return target{name: strings.Clone(name), port: port}, err // host is part of a head
}

func (g *Gateway) toAddr(a netip.AddrPort) target {
	addr := a.Addr().Unmap()
	if name, ok := g.names.name(addr); ok {
		return target{name: name, port: a.Port()}
	}
	return target{addr: addr, port: a.Port()}
}

// judge decides on a target as it was asked for, and, if q is not nil, on an HTTP
// request to it.
func (g *Gateway) judge(rules *decide.Rules, t target, q *decide.Request) decide.Verdict {
	if t.name == "" {
		// Which addresses are this machine's own is known to Dial alone.
		v := rules.Dial("", t.port, netip.AddrPortFrom(t.addr, t.port), g.cfg.Own)
		if q == nil || !v.Allow {
			return v
		}
	}
	if q != nil {
		return rules.Request(*q)
	}
	return rules.Connect(t.name, t.port)
}

// mayCome says whether a target may yet turn out to be allowed.
func (g *Gateway) mayCome(t target) bool {
	v := g.judge(g.rules.Load(), t, nil)
	return v.Allow || v.Ask
}

// refusal is an error that says no, and why.
type refusal struct {
	decide.Verdict
	wait time.Duration // when it may be a yes; 0 if that is not known
}

func (r *refusal) Error() string { return r.Reason }

// errRecord: nothing may flow.
var errRecord = errors.New("could not be recorded")

// decided records a verdict.
func (g *Gateway) decided(c *client, t target, v decide.Verdict) error {
	return g.record(Fact{Kind: Decided, Via: c.via, Conn: c.id, Name: t.name, Dest: t.addr, Port: t.port, Verdict: v})
}

func (g *Gateway) record(f Fact) error {
	if g.cfg.Record(f) != nil {
		return errRecord
	}
	return nil
}

// maxPath is how much of a path is recorded.
const maxPath = 1024

// decide judges a connection, or with q a request, waits for a person's answer if it
// needs one, and records the verdict. The error is a *refusal or errRecord. A verdict that wants to know what a git push changes
// (Refs) is none yet: it is neither recorded nor an error.
func (g *Gateway) decide(c *client, t target, q *decide.Request) (decide.Verdict, error) {
	v := g.judged(c, t, q)
	if q != nil && v.Refs && q.Refs == nil {
		return v, nil
	}
	f := Fact{Kind: Decided, Via: c.via, Conn: c.id, Name: t.name, Dest: t.addr, Port: t.port, Verdict: v}
	if q != nil {
		// Taken out of the head that they are a part of: a record may be kept.
		f.Method, f.Path = strings.Clone(q.Method), strings.Clone(q.Path[:min(len(q.Path), maxPath)])
	}
	if err := g.record(f); err != nil {
		return v, err
	}
	if !v.Allow || v.Refs {
		return v, &refusal{Verdict: v}
	}
	return v, nil
}

// refuse records and returns the refusal of a connection that was allowed, until the
// client said something else.
func (g *Gateway) refuse(c *client, t target, code, reason string) error {
	if t != (target{}) {
		reason = t.String() + ": " + reason
	}
	v := decide.Verdict{Code: code, Reason: reason}
	if err := g.decided(c, t, v); err != nil {
		return err
	}
	return &refusal{Verdict: v}
}

// upstream is a connection to the outside. end has to be called once.
type upstream struct {
	net.Conn
	g       *Gateway
	fact    Fact
	start   time.Time
	out, in int64 // set by whoever carries the bytes
	stopped atomic.Bool
	tcp     net.Conn // as it was dialled: Conn may be TLS on it

	// What budgets count of it, for c, which wants to.
	c       *client
	to      target
	counted bool
	uploads []int // that count what goes out now
	behind  []int // that speak of the address that a name has led to
	// proxy, if not nil, is the one upstream that has to be asked in each request.
	proxy *Proxy
}

// connect opens a connection in which no request is seen.
func (g *Gateway) connect(c *client, t target) (*upstream, error) {
	which := g.spending.by.Narrow(g.spending.by.Host(t.name, t.addr, t.port), nil, nil)
	if err := g.room(c, t, nil, which, 1); err != nil {
		return nil, err
	}
	if err := g.spend(c, t, nil, plan.BudgetRequests, which, 1); err != nil {
		return nil, err
	}
	return g.open(c, t, true)
}

// open resolves and dials an allowed target. What has been opened is recorded, and
// so is why nothing could be. The error is a *refusal if the judgement of an address
// or a budget was the reason. Opaque: no request is seen in it.
func (g *Gateway) open(c *client, t target, opaque bool) (*upstream, error) {
	if err := g.spend(c, t, nil, plan.BudgetConnections, g.spending.by.Host(t.name, t.addr, t.port), 1); err != nil {
		return nil, err
	}
	u := &upstream{g: g, c: c, to: t, start: time.Now(), fact: Fact{Via: c.via, Conn: c.id, Name: t.name, Dest: t.addr, Port: t.port}}
	clear := !opaque && !c.secure
	proxy := g.cfg.Upstream.through(t, clear)
	var conn net.Conn
	var err error
	if proxy == nil {
		conn, err = g.dial(g.rulesOf(c), t)
	} else {
		u.fact.Proxy = proxy.String()
		ctx, cancel := context.WithTimeout(g.ctx, dialTime)
		conn, err = g.dialProxy(ctx, proxy, t, clear)
		cancel()
	}
	if clear {
		u.proxy = proxy
	}
	if err != nil {
		var no *refusal
		if errors.As(err, &no) {
			if err := g.decided(c, t, no.Verdict); err != nil {
				return nil, err
			}
			return nil, no
		}
		u.fact.Kind, u.fact.Err, u.fact.Duration = Ended, err.Error(), time.Since(u.start)
		if g.cfg.Record(u.fact) != nil {
			return nil, errRecord
		}
		return nil, err
	}
	u.tcp = conn
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		a := a.AddrPort()
		u.fact.Actual = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	leads := u.fact.Actual.Addr()
	if proxy != nil {
		leads = netip.Addr{} // nobody knows
	}
	if err := u.leadsTo(leads, opaque); err != nil {
		abort(conn)
		return nil, err
	}
	u.Conn = u.metered(conn)
	if !g.track(conn) {
		abort(conn)
		return nil, net.ErrClosed
	}
	u.fact.Kind = Opened
	if g.cfg.Record(u.fact) != nil {
		g.untrack(conn)
		abort(conn)
		return nil, errRecord
	}
	return u, nil
}

// end closes and records what has flowed. The bytes have gone already, so there is
// nobody to tell if it can't be recorded: the next fact will fail as well.
func (u *upstream) end() {
	u.Close()
	u.g.untrack(u.tcp)
	u.fact.Kind, u.fact.Duration, u.fact.BytesOut, u.fact.BytesIn = Ended, time.Since(u.start), u.out, u.in
	_ = u.g.cfg.Record(u.fact)
}

// dial connects to an allowed target. Each address is judged when its socket exists
// and before it connects, so there is no time between judgement and use.
func (g *Gateway) dial(rules *decide.Rules, t target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, dialTime)
	defer cancel()
	addrs := []netip.Addr{t.addr}
	if t.name != "" {
		var err error
		if addrs, err = g.cfg.Resolve(ctx, t.name); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", t.name, err)
		}
		if len(addrs) == 0 {
			return nil, fmt.Errorf("resolve %s: no addresses", t.name)
		}
	}
	d := &net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		actual, err := netip.ParseAddrPort(address)
		if err != nil {
			return &refusal{Verdict: decide.Verdict{Code: decide.SpecialAddress, Reason: "what would be dialled is no address: " + quoted(address)}}
		}
		if v := rules.Dial(t.name, t.port, actual, g.cfg.Own); !v.Allow {
			return &refusal{Verdict: v}
		}
		return nil
	}}
	d.SetMultipathTCP(false) // could not be spliced
	return g.race(ctx, d, interleave(addrs), t.port)
}

// interleave puts IPv6 and IPv4 in turn, beginning with what the resolver put first
// (RFC 8305, 4), and bounds how many there are.
func interleave(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Unmap().Is4() != addrs[0].Unmap().Is4() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	var out []netip.Addr
	for i := 0; len(out) < len(addrs) && len(out) < 16; i++ {
		for _, f := range families {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// stagger is the time that an attempt has alone (RFC 8305, 5).
const stagger = 250 * time.Millisecond

// race dials the addresses one after the other, each as soon as the one before has
// failed or has taken too long, and returns the first connection. Nothing of the
// others is left when it returns. Of several errors it prefers the one of an address
// that was tried to the refusal of one that was not.
func (g *Gateway) race(ctx context.Context, d *net.Dialer, addrs []netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		close(results)
		for r := range results {
			if r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	var failed, refused error
	timer := time.NewTimer(0)
	defer timer.Stop()
	next, running := 0, 0
	for {
		if next < len(addrs) && running == 0 {
			timer.Reset(0)
		}
		select {
		case <-timer.C:
			if next < len(addrs) {
				at := netip.AddrPortFrom(addrs[next], port).String()
				next++
				running++
				wg.Go(func() {
					conn, err := g.cfg.Dial(ctx, d, at)
					results <- result{conn, err}
				})
				timer.Reset(stagger)
			}
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			var no *refusal
			if errors.As(r.err, &no) {
				refused = cmpOr(refused, error(no))
			} else {
				failed = cmpOr(failed, r.err)
			}
			if next == len(addrs) && running == 0 {
				return nil, cmpOr(failed, refused)
			}
			timer.Reset(0)
		}
	}
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

const (
	// answerTime is how long an answer of the resolver is used again: programs open
	// many connections to one host at once. Each address is judged anew all the same.
	answerTime = 5 * time.Second
	maxAnswers = 4096
)

// answers remembers what was resolved a moment ago, but no errors.
type answers struct {
	ask func(ctx context.Context, name string) ([]netip.Addr, error)

	mu   sync.Mutex
	last map[string]resolved
}

type resolved struct {
	addrs []netip.Addr
	until time.Time
}

func (a *answers) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	a.mu.Lock()
	r := a.last[name]
	a.mu.Unlock()
	if time.Now().Before(r.until) {
		return r.addrs, nil
	}
	addrs, err := a.ask(ctx, name)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil || len(a.last) >= maxAnswers { // rather ask again than grow
		a.last = map[string]resolved{}
	}
	a.last[name] = resolved{addrs, time.Now().Add(answerTime)}
	return addrs, nil
}

// resolve asks the resolver of this machine. The dot keeps it from trying the
// machine's search domains: they would make another name of it.
func resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
}

// own asks the kernel each time: addresses come and go while a session lasts.
func own(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, n := range list {
		if n, ok := n.(*net.IPNet); ok {
			if b, ok := netip.AddrFromSlice(n.IP); ok && b.Unmap() == a.Unmap() {
				return true
			}
		}
	}
	return false
}

// cause is an error of the outside for whoever is inside: without the addresses of
// this machine, those of its resolver among them. The record has all of it.
func cause(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var tls *tlsError
	var proxy *upstreamError
	switch {
	case errors.As(err, &proxy):
		return "upstream proxy: " + proxy.reason()
	case errors.As(err, &tls):
		return tls.Error()
	case errors.As(err, &dns):
		return "resolve: " + dns.Err
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
