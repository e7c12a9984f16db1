package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a Board whose owner only remembers.
type rig struct {
	*Board
	mu       sync.Mutex
	asked    []Question
	answered []string
	fail     error
	slow     chan struct{} // Answered waits for it
}

func newRig(c Config) *rig {
	r := &rig{}
	c.Asked = func(q Question, _ Wish) (Question, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, q)
		q.Process, q.PID = "curl", 7
		return q, r.fail
	}
	c.Answered = func(q Question, w Wish, a Answer, by Peer) (string, error) {
		if r.slow != nil {
			<-r.slow
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.answered = append(r.answered, fmt.Sprintf("%d %s %s by %d", q.ID, q.Host, a, by.UID))
		return "noted", r.fail
	}
	r.Board = New(c)
	return r
}

func wish(host string) Wish {
	return Wish{Subject: Subject{Host: host, Port: 443}, Reason: "by a rule"}
}

// ask asks in the background.
func (r *rig) ask(ctx context.Context, w Wish) chan Outcome {
	c := make(chan Outcome, 1)
	go func() { c <- r.Ask(ctx, w) }()
	return c
}

func TestManyAreOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{})
		var all []chan Outcome
		for range 10 {
			all = append(all, r.ask(t.Context(), wish("a.test")))
		}
		other := r.ask(t.Context(), wish("b.test"))
		synctest.Wait()
		list, _ := r.List()
		if len(list) != 2 || len(r.asked) != 2 {
			t.Fatalf("%+v; recorded %+v", list, r.asked)
		}
		i := slices.IndexFunc(list, func(q Question) bool { return q.Host == "a.test" })
		if q := list[i]; q.Waiting != 10 || q.Reason != "by a rule" || q.Process != "curl" || q.PID != 7 {
			t.Errorf("%+v", q)
		}
		note, err := r.Answer(list[i].ID, Once, Peer{UID: 5})
		if note != "noted" || err != nil {
			t.Errorf("%q, %v", note, err)
		}
		for _, c := range all {
			if o := <-c; o != ForNow {
				t.Errorf("%s", o)
			}
		}
		if want := fmt.Sprintf("%d a.test once by 5", list[i].ID); !slices.Equal(r.answered, []string{want}) {
			t.Errorf("%v", r.answered)
		}
		synctest.Wait()
		if list, _ := r.List(); len(list) != 1 || list[0].Host != "b.test" {
			t.Errorf("%+v", list)
		}
		r.Close()
		if o := <-other; o != Gone {
			t.Errorf("%s", o)
		}
	})
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		a           Answer
		first, then Outcome
	}{{Once, ForNow, ""}, {Session, Granted, ""}, {Always, Granted, ""}, {No, Declined, Declined}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(Config{})
			defer r.Close()
			first := r.ask(t.Context(), wish("a.test"))
			synctest.Wait()
			if _, err := r.Answer(1, c.a, Peer{}); err != nil {
				t.Fatal(err)
			}
			if o := <-first; o != c.first {
				t.Errorf("%s: %s", c.a, o)
			}
			// What was granted is not asked again by the gateway. If it is, it
			// is a new question; a no is remembered.
			second := r.ask(t.Context(), wish("a.test"))
			synctest.Wait()
			select {
			case o := <-second:
				if o != c.then {
					t.Errorf("%s, then %s", c.a, o)
				}
			default:
				if c.then != "" {
					t.Errorf("%s: asked again", c.a)
				}
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{Time: time.Minute})
		start := time.Now()
		c := r.ask(t.Context(), wish("a.test"))
		time.Sleep(40 * time.Second)
		late := r.ask(t.Context(), wish("a.test"))
		if o := <-c; o != Unanswered || time.Since(start) != time.Minute {
			t.Errorf("%s after %v", o, time.Since(start))
		}
		if o := <-late; o != Unanswered || time.Since(start) != 100*time.Second {
			t.Errorf("%s after %v", o, time.Since(start))
		}
		// It can be answered yet: for who comes again.
		if list, _ := r.List(); len(list) != 1 || list[0].Waiting != 0 {
			t.Errorf("%+v", list)
		}
		time.Sleep(61 * time.Second)
		if list, _ := r.List(); len(list) != 0 {
			t.Errorf("kept: %+v", list)
		}
		if _, err := r.Answer(1, Session, Peer{}); !errors.Is(err, ErrNoQuestion) {
			t.Errorf("%v", err)
		}
	})
}

// Once, for a question whose client has given up, is for the next that comes, and
// for no more than that, and not for long.
func TestOnceForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{Time: time.Minute})
		defer r.Close()
		for _, wait := range []time.Duration{time.Second, 2 * time.Minute} {
			ctx, cancel := context.WithCancel(t.Context())
			c := r.ask(ctx, wish("a.test"))
			synctest.Wait()
			cancel()
			if o := <-c; o != Gone {
				t.Fatal(o)
			}
			list, _ := r.List()
			if _, err := r.Answer(list[0].ID, Once, Peer{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
			next := r.ask(t.Context(), wish("a.test"))
			synctest.Wait()
			if wait < time.Minute {
				if o := <-next; o != ForNow {
					t.Error(o)
				}
				next = r.ask(t.Context(), wish("a.test"))
				synctest.Wait()
			}
			if list, _ := r.List(); len(list) != 1 {
				t.Errorf("after %v: %+v", wait, list)
			}
			if _, err := r.Answer(r.lastID, Session, Peer{}); err != nil {
				t.Fatal(err)
			}
			<-next
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{MaxOpen: 2, MaxWaiting: 2})
		ctx, cancel := context.WithCancel(t.Context())
		a := r.ask(ctx, wish("a.test"))
		synctest.Wait()
		b := r.ask(t.Context(), wish("b.test"))
		r.ask(t.Context(), wish("b.test"))
		synctest.Wait()
		if o := r.Ask(t.Context(), wish("b.test")); o != TooMany {
			t.Errorf("one more for a question: %s", o)
		}
		if o := r.Ask(t.Context(), wish("c.test")); o != TooMany {
			t.Errorf("one more question: %s", o)
		}
		if len(r.asked) != 2 {
			t.Errorf("recorded %+v", r.asked)
		}
		cancel() // a question for which nobody waits makes room
		<-a
		c := r.ask(t.Context(), wish("c.test"))
		synctest.Wait()
		if list, _ := r.List(); len(list) != 2 || list[1].Host != "c.test" {
			t.Errorf("%+v", list)
		}
		r.Close()
		<-b
		<-c
		if o := r.Ask(t.Context(), wish("d.test")); o != Gone {
			t.Errorf("after the end: %s", o)
		}
	})
}

// What can't be recorded is not allowed, and not asked.
func TestUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{})
		r.fail = errors.New("no space left")
		if o := r.Ask(t.Context(), wish("a.test")); o != Failed {
			t.Errorf("%s", o)
		}
		if list, _ := r.List(); len(list) != 0 {
			t.Errorf("%+v", list)
		}
		r.fail = nil
		c := r.ask(t.Context(), wish("a.test"))
		synctest.Wait()
		r.fail = errors.New("no space left")
		if _, err := r.Answer(2, Always, Peer{}); !errors.Is(err, r.fail) {
			t.Errorf("%v", err)
		}
		if o := <-c; o != Failed {
			t.Errorf("%s", o)
		}
	})
}

// An answer that came in time counts, however long it takes to be carried out; and
// there is one answer.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{Time: time.Minute})
		r.slow = make(chan struct{})
		c := r.ask(t.Context(), wish("a.test"))
		synctest.Wait()
		go r.Answer(1, Session, Peer{})
		synctest.Wait()
		if _, err := r.Answer(1, No, Peer{}); !errors.Is(err, ErrNoQuestion) {
			t.Errorf("a second answer: %v", err)
		}
		if list, _ := r.List(); len(list) != 0 {
			t.Errorf("%+v", list)
		}
		time.Sleep(2 * time.Minute)
		joined := r.ask(t.Context(), wish("a.test"))
		synctest.Wait()
		close(r.slow)
		if o := <-c; o != Granted {
			t.Errorf("%s", o)
		}
		if o := <-joined; o != Granted {
			t.Errorf("joined: %s", o)
		}
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{})
		got := make(chan int, 1)
		go func() { list, _ := r.Wait(t.Context(), -1); got <- len(list) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		c := r.ask(ctx, wish("a.test"))
		if n := <-got; n != 1 {
			t.Errorf("%d questions", n)
		}
		list, seq := r.List()
		go func() { list, _ := r.Wait(t.Context(), seq); got <- list[0].Waiting }()
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("returned before there was news, of %+v", list)
		}
		cancel()
		<-c
		if n := <-got; n != 0 {
			t.Errorf("%d wait", n)
		}
		timed, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, seq = r.List()
		if _, now := r.Wait(timed, seq); now != seq {
			t.Error("news")
		}
		r.Close()
		r.Close()
		r.Wait(t.Context(), -1)
	})
}

// Everything at once, for the race detector.
func TestRaces(t *testing.T) {
	r := newRig(Config{Time: time.Millisecond, MaxOpen: 5, MaxWaiting: 3})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(context.Background())
				if j%3 == 0 {
					cancel()
				}
				r.Ask(ctx, wish(fmt.Sprintf("%d.test", (i+j)%7)))
				cancel()
			}
		})
		wg.Go(func() {
			for j := range 400 {
				list, _ := r.List()
				for _, q := range list {
					_, _ = r.Answer(q.ID, Answers()[(i+j)%3], Peer{})
				}
			}
		})
	}
	wg.Wait()
	r.Close()
	if list, _ := r.List(); len(list) != 0 || len(r.open) != 0 {
		t.Errorf("left: %+v", list)
	}
}

func TestNoIsForgottenAtLast(t *testing.T) {
	r := New(Config{})
	for i := range maxDeclined + 1 {
		r.decline(Subject{Host: fmt.Sprint(i)})
	}
	if len(r.declined) != maxDeclined || len(r.order) != maxDeclined || r.declined[Subject{Host: "0"}] {
		t.Errorf("%d, %d", len(r.declined), len(r.order))
	}
}
