package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// Wanted is what a person is asked about: a connection, or one request in one.
type Wanted struct {
	Name string     // canonical; empty if an address is wanted: Addr
	Addr netip.Addr // if Name is empty
	Port uint16
	// Request is what is asked for within an allowed connection; nil for the connection.
	Request *decide.Request
	// Verdict is why it is asked.
	Verdict decide.Verdict
	// Allow are the rules that allow this and nothing else.
	Allow []plan.NetRule
	// Client is the end of the connection that is inside.
	Client netip.AddrPort
}

// Reply is what came of asking. The zero value is a no.
type Reply struct {
	// Yes: what was allowed for longer than this one, Gateway.Allow has got by now.
	Yes bool
	// Once: it is for this one only.
	Once bool
	// Code and Reason are those of the verdict if it is not Yes.
	Code, Reason string
}

// Codes of verdicts about what a person was asked.
const (
	Unanswered = "unanswered" // nobody answered in time, or nobody is there
	Declined   = "declined"   // the answer was no
)

// waiting bounds what waits for a person: connections, of which those with a large
// head in memory can't be many.
type waiting struct{ all, large chan struct{} }

// newWaiting leaves most of what the gateway has to those that need no answer.
func newWaiting(clients int) waiting {
	return waiting{make(chan struct{}, max(1, clients/4)), make(chan struct{}, largeHeads/4)}
}

func (w waiting) enter(c *client) (leave func(), ok bool) {
	select {
	case w.all <- struct{}{}:
	default:
		return nil, false
	}
	if !c.room.held {
		return func() { <-w.all }, true
	}
	select {
	case w.large <- struct{}{}:
		return func() { <-w.large; <-w.all }, true
	default:
		<-w.all
		return nil, false
	}
}

// judged is judge, with a person's answer where one is needed. A request to a host that
// is itself asked about is two questions: that one comes first, and says all that most
// requests need.
func (g *Gateway) judged(c *client, t target, q *decide.Request) decide.Verdict {
	if q == nil {
		c.once = nil // was for the connection before
	}
	if q == nil || q.Refs == nil {
		c.onceNow = nil // was for the request before
	}
	if v := g.judge(g.rulesOf(c), t, q); !v.Ask {
		return v
	}
	v, once := g.settle(c, Wanted{Name: t.name, Addr: t.addr, Port: t.port, Allow: []plan.NetRule{t.rule()}}, func(r *decide.Rules) decide.Verdict { return g.judge(r, t, nil) })
	if q == nil || !v.Allow {
		c.once = once
		return v
	}
	c.onceNow = append(c.onceNow, once...)
	allow, err := g.rulesOf(c).Allowing(*q)
	if err != nil {
		return decide.Verdict{Code: Unanswered, Reason: "nobody can be asked about it: " + err.Error()}
	}
	v, once = g.settle(c, Wanted{Name: t.name, Addr: t.addr, Port: t.port, Request: q, Allow: allow}, func(r *decide.Rules) decide.Verdict { return g.judge(r, t, q) })
	c.onceNow = append(c.onceNow, once...)
	return v
}

// settle has a verdict that waits for a person become an answer: judge is asked again
// by the rules as they are then, so that a yes opens nothing that a denial closes. Every
// other verdict stays as it is. What was allowed for this one only comes back as rules
// besides.
func (g *Gateway) settle(c *client, w Wanted, judge func(*decide.Rules) decide.Verdict) (v decide.Verdict, once []plan.NetRule) {
	if w.Verdict = judge(g.rulesOf(c)); !w.Verdict.Ask {
		return w.Verdict, nil
	}
	no := func(code, reason string) (decide.Verdict, []plan.NetRule) {
		return decide.Verdict{Rule: w.Verdict.Rule, Act: w.Verdict.Act, Code: code, Reason: reason}, nil
	}
	if g.cfg.Ask == nil {
		return no(Unanswered, w.Verdict.Reason+"; nobody is there to be asked")
	}
	leave, ok := g.waiting.enter(c)
	if !ok {
		return no(tooMany, w.Verdict.Reason+"; too many connections wait for an answer already")
	}
	defer leave()
	if a, ok := c.tcp.RemoteAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		w.Client = a.AddrPort()
	}
	ctx, stop := g.present(c)
	r := g.cfg.Ask(ctx, w)
	stop()
	if !r.Yes {
		if r.Code == "" {
			r.Code = Unanswered
		}
		return no(r.Code, r.Reason)
	}
	rules := g.rulesOf(c)
	if r.Once {
		var err error
		if rules, err = rules.With(w.Allow...); err != nil {
			return no(Unanswered, "the answer can't be carried out: "+err.Error())
		}
		once = w.Allow
	}
	if v = judge(rules); v.Ask {
		return no(Unanswered, w.Verdict.Reason+"; the answer does not cover it")
	}
	return v, once
}

// Allow adds rules for what is decided from now on; an answer of a person gives them.
func (g *Gateway) Allow(more ...plan.NetRule) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	rules, err := g.rules.Load().With(more...)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.rules.Store(rules)
	return nil
}

// rulesOf are the rules for what a connection does now.
func (g *Gateway) rulesOf(c *client) *decide.Rules {
	rules := g.rules.Load()
	for _, once := range [][]plan.NetRule{c.once, c.onceNow} {
		if len(once) == 0 {
			continue
		}
		if more, err := rules.With(once...); err == nil {
			rules = more
		}
	}
	return rules
}

// present is a context that ends when the client closes its side, in part or whole, or
// the gateway does. It takes away nothing that the client has sent. stop has to be
// called before anything is read from the client again.
func (g *Gateway) present(c *client) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(g.ctx)
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		cancel()
		return ctx, cancel
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := raw.Read(gone); !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	return ctx, func() {
		_ = c.tcp.SetReadDeadline(time.Unix(1, 0))
		<-done
		_ = c.tcp.SetReadDeadline(time.Time{})
		cancel()
	}
}

// gone says whether the other side of a connection has ended it: the state, which is
// the first byte of struct tcp_info (tcp(7)), is not TCP_ESTABLISHED any more. Looking
// for the end of the stream would not do: what was sent before it comes first.
func gone(fd uintptr) bool {
	const established = 1
	info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	return err != nil || info&0xff != established
}
