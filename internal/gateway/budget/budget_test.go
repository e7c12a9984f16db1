package budget

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhole(t *testing.T) {
	now := time.Now()
	l := New(now, []Ceiling{{Amount: 10}, {Amount: 100}})
	both := []int{0, 1}
	if o := l.Spend(now, both, 10); o != nil {
		t.Fatal("exactly what is allowed:", *o)
	}
	o := l.Spend(now.Add(1000*time.Hour), both, 1)
	if o == nil || *o != (Over{Which: 0, Used: 10}) {
		t.Fatalf("one more, much later: %+v", o)
	}
	// What was refused counts nowhere, and the other ceiling is its own.
	if o := l.Fits(now, []int{1}, 90); o != nil {
		t.Errorf("refused, and counted: %+v", *o)
	}
	if o := l.Fits(now, []int{1}, 91); o == nil {
		t.Error("not counted")
	}
	if o := l.Spend(now, nil, 1<<62); o != nil {
		t.Errorf("no ceiling: %+v", *o)
	}
	// Nothing is so large that it fits.
	if o := l.Spend(now, []int{1}, 1<<63-1); o == nil {
		t.Error("an overflow")
	}
}

// The clock is the test's: what was used comes back after the stretch, and the wait that
// is told is one that helps.
func TestStretch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Now(), []Ceiling{{Amount: 3, Per: time.Minute}})
		one := func() *Over { return l.Spend(time.Now(), []int{0}, 1) }
		for range 3 {
			if o := one(); o != nil {
				t.Fatal(*o)
			}
			time.Sleep(10 * time.Second)
		}
		o := one() // 30 s after the first
		if o == nil || o.Used != 3 || o.Wait < 30*time.Second || o.Wait > 32*time.Second {
			t.Fatalf("%+v", o)
		}
		time.Sleep(o.Wait - time.Millisecond)
		if one() == nil {
			t.Error("there was room before the time that was told")
		}
		time.Sleep(time.Millisecond)
		if o := one(); o != nil {
			t.Errorf("no room after the time that was told: %+v", *o)
		}
		if one() == nil {
			t.Error("two came back at once")
		}
		if o := l.Fits(time.Now(), []int{0}, 4); o == nil || o.Wait != 0 {
			t.Errorf("more than ever fits: %+v", o)
		}
		time.Sleep(24 * time.Hour)
		for range 3 {
			if o := one(); o != nil {
				t.Error("a day later:", *o)
			}
		}
	})
}

// Whatever comes when: in no stretch of time there is more than the ceiling, and what
// keeps well below it is never refused.
func TestNeverMore(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := Ceiling{Amount: 1 + r.Int64N(1000), Per: time.Duration(1 + r.Int64N(int64(time.Hour)))}
		start := time.Now()
		l := New(start, []Ceiling{c})
		type spent struct {
			at time.Duration
			n  int64
		}
		var all []spent
		at := time.Duration(0)
		for range 400 {
			at += time.Duration(r.Int64N(int64(c.Per)/20 + 2))
			n := r.Int64N(c.Amount + 2)
			sum := n
			wider := n
			for _, s := range all {
				if s.at > at-c.Per {
					sum += s.n
				}
				if s.at > at-c.Per-2*(c.Per/parts+1) {
					wider += s.n
				}
			}
			over := l.Spend(start.Add(at), []int{0}, n)
			switch {
			case over == nil && sum > c.Amount:
				t.Fatalf("seed %d: %d of %d within %v", seed, sum, c.Amount, c.Per)
			case over != nil && wider <= c.Amount:
				t.Fatalf("seed %d: refused %d of %d within %v: %+v", seed, wider, c.Amount, c.Per, *over)
			case over == nil:
				all = append(all, spent{at, n})
			case n <= c.Amount:
				later := &Ledger{start: l.start, lines: slices.Clone(l.lines)}
				if o := later.Fits(start.Add(at+over.Wait), []int{0}, n); o != nil {
					t.Fatalf("seed %d: no room after %v", seed, over.Wait)
				}
			}
		}
	}
}

// Many at once share one ceiling, to the last of it and no further.
func TestShared(t *testing.T) {
	now := time.Now()
	l := New(now, []Ceiling{{Amount: 1000}, {Amount: 1 << 40, Per: time.Hour}})
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				if l.Spend(now, []int{0, 1}, 1) == nil {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 1000 {
		t.Errorf("%d of 1000", got.Load())
	}
}
