package event

import (
	"fmt"
	"sync"
	"time"
)

// Bounds of a share of a Coalescer. The inside can be refused a million times a second;
// the log must neither hide that nor fill the disk.
const (
	firstOfKind = 3       // like events that are written as they come
	maxLike     = 1024    // different events that are remembered at once
	burstBytes  = 1 << 20 // written at once before the rate holds
	bytesPerSec = 1 << 10 // at most about 85 MiB a day
	// Interval is how often the owner should call Tick.
	Interval = time.Second
)

// Coalescer stands before a Writer and holds a flood of refusals down: the
// first few like events are written at once, the rest is counted and written
// as one line by Tick or Flush. When even different subjects flood, what goes
// over the byte rate is counted together in one line without subject. The
// Counts of all lines always add up to the number of events.
//
// Network events have a share of their own, of everything: what has left the machine
// is not hidden behind a flood of refusals, which cost the inside nothing.
//
// It has no goroutine; its owner calls Tick once per Interval.
type Coalescer struct {
	w  *Writer
	mu sync.Mutex
	// now, guarded by mu, as the bucket last saw it.
	now    time.Time
	shares [2]share
	seen   map[like]*pending
	order  []like // keys of seen, oldest first: summaries come in this order
	over   map[Kind]*overflow
	kinds  []Kind // keys of over, in order
}

// share is what is left of the bounds.
type share struct {
	budget int // bytes that may be written now
	likes  int // in seen
}

func (c *Coalescer) share(k Kind) *share {
	if k == Network {
		return &c.shares[1]
	}
	return &c.shares[0]
}

// like is what makes two events "the same again".
type like struct {
	kind                                       Kind
	subject, action, access, rule, process, to string
}

type pending struct {
	written int   // lines written in full
	waiting int   // counted and not written yet
	last    Event // with the sums of those that wait
	quiet   bool  // nothing came since the last Tick
}

type overflow struct {
	count int
	sums  Event // its amounts alone
	last  time.Time
}

// sum adds the amounts of b to those of e.
func (e *Event) sum(b Event) {
	e.BytesOut += b.BytesOut
	e.BytesIn += b.BytesIn
	e.Lasted += b.Lasted
}

// NewCoalescer returns a Coalescer that writes to w.
func NewCoalescer(w *Writer) *Coalescer {
	full := share{budget: burstBytes}
	return &Coalescer{w: w, shares: [2]share{full, full}, seen: map[like]*pending{}, over: map[Kind]*overflow{}}
}

// Add writes e, or counts it. Kinds that the inside can't repeat at will are
// always written, after everything that is waiting, so that the order of the
// file stays the order of what happened. stored is false if e was counted.
func (c *Coalescer) Add(e Event) (out Event, stored bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Count == 0 {
		e.Count = 1
	}
	switch e.Kind {
	case Denied, LimitHit, Network, Ask, Notice, SetAside:
	default:
		if err := c.flush(); err != nil {
			return e, false, err
		}
		if e.Count == 1 {
			e.Count = 0
		}
		out, err := c.w.Append(e)
		return out, err == nil, err
	}

	c.refill(e.Time)
	e = clean(e) // here, so that what is remembered has bounds
	k := like{e.Kind, e.Subject, e.Action, e.Access, e.Rule, e.Process, e.To}
	p, s := c.seen[k], c.share(e.Kind)
	if p == nil {
		if s.likes >= maxLike {
			return e, false, c.overflow(e)
		}
		p = &pending{}
		c.seen[k] = p
		s.likes++
		c.order = append(c.order, k)
	}
	p.quiet = false
	if p.written >= firstOfKind {
		if p.waiting == 0 {
			p.last = Event{}
		}
		sums := e
		sums.sum(p.last)
		p.waiting += e.Count
		p.last = sums
		return e, false, c.w.Err()
	}
	if s.budget <= 0 {
		return e, false, c.overflow(e)
	}
	p.written++
	out, err = c.write(e)
	return out, err == nil, err
}

// Tick writes what is waiting and forgets what has been quiet since the last
// Tick. Without news it writes nothing.
func (c *Coalescer) Tick(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refill(now)
	if err := c.flush(); err != nil {
		return err
	}
	kept := c.order[:0]
	for _, k := range c.order {
		if c.seen[k].quiet {
			delete(c.seen, k)
			c.share(k.kind).likes--
			continue
		}
		c.seen[k].quiet = true
		kept = append(kept, k)
	}
	c.order = kept
	return nil
}

// Flush writes everything that is waiting. The owner calls it before the
// stream ends.
func (c *Coalescer) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

func (c *Coalescer) flush() error {
	for _, k := range c.order {
		p := c.seen[k]
		if p.waiting == 0 {
			continue
		}
		e := p.last
		e.Count = p.waiting
		p.waiting = 0
		if c.share(e.Kind).budget <= 0 {
			if err := c.overflow(e); err != nil {
				return err
			}
			continue
		}
		if _, err := c.write(e); err != nil {
			return err
		}
	}
	for _, kind := range c.kinds {
		o := c.over[kind]
		if o.count == 0 {
			continue
		}
		// Written whatever the budget: short, and at most one per kind and
		// Tick. It still counts against the budget.
		e := Event{Kind: kind, Time: o.last, Count: o.count,
			Detail: fmt.Sprintf("%d events of different subjects, too many to list", o.count)}
		e.sum(o.sums)
		o.count, o.sums = 0, Event{}
		if _, err := c.write(e); err != nil {
			return err
		}
	}
	return c.w.Err()
}

func (c *Coalescer) overflow(e Event) error {
	o := c.over[e.Kind]
	if o == nil {
		o = &overflow{}
		c.over[e.Kind] = o
		c.kinds = append(c.kinds, e.Kind)
	}
	o.count += e.Count
	o.sums.sum(e)
	o.last = e.Time
	return c.w.Err()
}

func (c *Coalescer) write(e Event) (Event, error) {
	if e.Count == 1 {
		e.Count = 0
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	e, n, err := c.w.append(e)
	c.share(e.Kind).budget -= n
	return e, err
}

func (c *Coalescer) refill(now time.Time) {
	if c.now.IsZero() {
		c.now = now
	}
	// Whole milliseconds only; the rest stays for the next call.
	if d := now.Sub(c.now) / time.Millisecond; d > 0 {
		for i := range c.shares {
			s := &c.shares[i]
			s.budget = int(min(burstBytes, int64(s.budget)+int64(d)*bytesPerSec/1000))
		}
		c.now = c.now.Add(d * time.Millisecond)
	}
}
