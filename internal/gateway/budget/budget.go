// Package budget counts against ceilings: how much may go in one run, or in any stretch
// of time of a given length. It decides nothing but whether something is too much, is
// told the time, and does nothing by itself.
package budget

import (
	"sync"
	"time"
)

// Ceiling is how much there may be.
type Ceiling struct {
	Amount int64
	// Per is the length of the stretches of time that Amount is for; 0: it is for ever.
	Per time.Duration
}

// Over says which ceiling something would have crossed.
type Over struct {
	Which int // index in what New got
	Used  int64
	// Wait is how long until there is room for it, if it is not more than the whole
	// ceiling; 0 if there will be none.
	Wait time.Duration
}

// Ledger counts against many ceilings. It may be used from many goroutines.
type Ledger struct {
	mu    sync.Mutex
	start time.Time
	lines []line
}

// New begins at nothing, now.
func New(now time.Time, list []Ceiling) *Ledger {
	l := &Ledger{start: now, lines: make([]line, len(list))}
	for i, c := range list {
		l.lines[i] = line{Ceiling: c, length: max(1, (c.Per+parts-1)/parts)}
	}
	return l
}

// Spend counts n against each of the ceilings, or against none of them if one would be
// crossed.
func (l *Ledger) Spend(now time.Time, which []int, n int64) *Over {
	l.mu.Lock()
	defer l.mu.Unlock()
	if over := l.over(now, which, n); over != nil {
		return over
	}
	for _, i := range which {
		l.lines[i].add(n)
	}
	return nil
}

// Fits is the answer of Spend, and counts nothing.
func (l *Ledger) Fits(now time.Time, which []int, n int64) *Over {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over(now, which, n)
}

func (l *Ledger) over(now time.Time, which []int, n int64) *Over {
	since := max(0, now.Sub(l.start)) // by the clock that nobody sets
	for _, i := range which {
		one := &l.lines[i]
		one.advance(since)
		if n > one.Amount-one.used {
			return &Over{Which: i, Used: one.used, Wait: one.wait(since, n)}
		}
	}
	return nil
}

// parts is into how many pieces a stretch of time is divided, so that what is remembered
// has a bound. What is counted is that of the newest piece and of so many whole ones
// before it: never less than what fell into the stretch, and of more time by one piece at
// the most.
const parts = 60

// line is one ceiling, and what has been counted.
type line struct {
	Ceiling
	used   int64 // of all pieces
	length time.Duration
	newest int64 // number of the newest piece, from the start on
	pieces [parts + 1]int64
}

func (c *line) add(n int64) {
	c.used += n
	if c.Per > 0 {
		c.pieces[c.newest%int64(len(c.pieces))] += n
	}
}

// advance forgets the pieces that lie too far back. Time does not go backwards: what is
// asked about an earlier moment is counted in the newest piece.
func (c *line) advance(since time.Duration) {
	if c.Per <= 0 {
		return
	}
	now := int64(since / c.length)
	if now-c.newest >= int64(len(c.pieces)) {
		c.pieces, c.used, c.newest = [parts + 1]int64{}, 0, now
	}
	for c.newest < now {
		c.newest++
		at := c.newest % int64(len(c.pieces))
		c.used -= c.pieces[at]
		c.pieces[at] = 0
	}
}

// wait is how long until there is room for n.
func (c *line) wait(since time.Duration, n int64) time.Duration {
	if c.Per <= 0 || n > c.Amount {
		return 0
	}
	left := c.used
	for i := int64(0); i < int64(len(c.pieces)); i++ {
		// The oldest piece goes first, when the one after the newest begins.
		left -= c.pieces[(c.newest+1+i)%int64(len(c.pieces))]
		if left+n <= c.Amount {
			return max(1, time.Duration(c.newest+1+i)*c.length-since)
		}
	}
	return 0
}
