package gateway

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cofferdam/internal/gateway/budget"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// What budgets count, and where:
//
//	connections   before one is dialled (open)
//	requests      when a request is allowed, before it is dialled for (exchange.afford); of a
//	              connection in which none can be seen, one (connect)
//	upload        each piece of what goes out, before it goes (metered)
//
// A budget for an address that a name turns out to lead to is asked when the connection is
// there, and before anything is sent on it.

// Spent is the code of verdicts about what would cross a budget.
const Spent = "budget"

// spending is the budgets of a session and what has been counted.
type spending struct {
	by     *decide.Budgets
	list   []plan.Budget
	ledger *budget.Ledger
}

func newSpending(list []plan.Budget) (*spending, error) {
	by, err := decide.CompileBudgets(list)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	var ceilings []budget.Ceiling
	for _, b := range list {
		ceilings = append(ceilings, budget.Ceiling{Amount: b.Amount, Per: time.Duration(b.Per) * time.Millisecond})
	}
	return &spending{by: by, list: list, ledger: budget.New(time.Now(), ceilings)}, nil
}

// of leaves those that count one kind of thing.
func (s *spending) of(what string, which []int) []int {
	return slices.DeleteFunc(slices.Clone(which), func(i int) bool { return s.list[i].Of != what })
}

// spend counts n of what, against all of which that count it. The error is a *refusal or
// errRecord, and recorded.
func (g *Gateway) spend(c *client, t target, q *decide.Request, what string, which []int, n int64) error {
	if which = g.spending.of(what, which); len(which) == 0 {
		return nil
	}
	return g.over(c, t, q, n, g.spending.ledger.Spend(time.Now(), which, n))
}

// room says whether n more may be sent now. Nothing is counted.
func (g *Gateway) room(c *client, t target, q *decide.Request, which []int, n int64) error {
	if which = g.spending.of(plan.BudgetUpload, which); len(which) == 0 {
		return nil
	}
	return g.over(c, t, q, n, g.spending.ledger.Fits(time.Now(), which, n))
}

// over makes a refusal of what would cross a budget, and records it.
func (g *Gateway) over(c *client, t target, q *decide.Request, n int64, o *budget.Over) error {
	if o == nil {
		return nil
	}
	b := g.spending.list[o.Which]
	unit := "count"
	if b.Of == plan.BudgetUpload {
		unit = "bytes"
	}
	reason := fmt.Sprintf("%s: %s more would cross a budget: %s, for %s; %s used", t, plan.Amount(n, unit), b.Text(), decide.Spoken(b), plan.Amount(o.Used, unit))
	if o.Wait > 0 {
		reason += ", and room for it in " + seconds(o.Wait).String()
	}
	f := Fact{Kind: Decided, Via: c.via, Conn: c.id, Name: t.name, Dest: t.addr, Port: t.port, Verdict: decide.Verdict{Code: Spent, Rule: b.Rule, Reason: reason}}
	if q != nil {
		f.Method, f.Path = strings.Clone(q.Method), strings.Clone(q.Path[:min(len(q.Path), maxPath)])
	}
	if err := g.record(f); err != nil {
		return err
	}
	return &refusal{Verdict: f.Verdict, wait: o.Wait}
}

// seconds is a time in whole ones, and not shorter.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// afford asks for a request, and counts it; what it may be counted against further, when
// it is known where it leads, is for affordThere.
func (x *exchange) afford(t target, q *decide.Request, req *head) error {
	g := x.g
	x.counts = g.spending.by.Narrow(g.spending.by.Host(t.name, t.addr, t.port), g.rulesOf(x.c), q)
	return x.count(t, q, req, x.counts)
}

func (x *exchange) affordThere(t target, q *decide.Request, req *head) error {
	behind := x.g.spending.by.Narrow(x.up.behind, x.g.rulesOf(x.c), q)
	x.counts = append(x.counts, behind...)
	x.up.uploads = x.g.spending.of(plan.BudgetUpload, x.counts)
	return x.count(t, q, req, behind)
}

// count refuses a body that is known to be too large before any of it is asked for.
func (x *exchange) count(t target, q *decide.Request, req *head, which []int) error {
	if err := x.g.room(x.c, t, q, which, max(1, req.length)); err != nil {
		return err
	}
	return x.g.spend(x.c, t, q, plan.BudgetRequests, which, 1)
}

// leadsTo sets what counts for a connection because of the address that it has. Opaque:
// no requests are seen in it.
func (u *upstream) leadsTo(actual netip.Addr, opaque bool) error {
	g, by := u.g, u.g.spending.by
	which := by.Host(u.to.name, u.to.addr, u.to.port)
	if u.to.name != "" {
		u.behind = by.Behind(actual, u.to.port)
	}
	u.counted = len(which)+len(u.behind) > 0
	if opaque {
		u.uploads = g.spending.of(plan.BudgetUpload, by.Narrow(slices.Concat(which, u.behind), nil, nil))
		u.counted = len(u.uploads) > 0 // or the kernel can carry it
	}
	if err := g.spend(u.c, u.to, nil, plan.BudgetConnections, u.behind, 1); err != nil || !opaque {
		return err
	}
	if err := g.room(u.c, u.to, nil, by.Narrow(u.behind, nil, nil), 1); err != nil {
		return err
	}
	return g.spend(u.c, u.to, nil, plan.BudgetRequests, by.Narrow(u.behind, nil, nil), 1)
}

// metered is a connection to the outside on which what goes out is counted before it
// goes. One goroutine writes at a time.
type metered struct {
	net.Conn
	u *upstream
}

// metered is conn, or conn with a meter if there is something to count.
func (u *upstream) metered(conn net.Conn) net.Conn {
	if !u.counted {
		return conn
	}
	return &metered{conn, u}
}

func (m *metered) Write(p []byte) (int, error) {
	if u := m.u; len(p) > 0 {
		if err := u.g.spend(u.c, u.to, nil, plan.BudgetUpload, u.uploads, int64(len(p))); err != nil {
			return 0, err
		}
	}
	return m.Conn.Write(p)
}

// WriteTo leaves what comes in to the kernel where it can carry it.
func (m *metered) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, m.Conn) }

// NetConn is what lies below, for abort.
func (m *metered) NetConn() net.Conn { return m.u.tcp }

func (m *metered) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return m.Close()
}
