package supervise

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/plan"
)

// fakeRunning is a boundary.Running without processes: a script of how the
// command takes signals. For synctest.
type fakeRunning struct {
	end     chan boundary.Exit
	signals []syscall.Signal
	killed  int
	// on is called for each signal; true ends the command by it.
	on      func(syscall.Signal) *boundary.Exit
	waitErr error
	panics  bool
}

func newFake(on func(syscall.Signal) *boundary.Exit) *fakeRunning {
	return &fakeRunning{end: make(chan boundary.Exit, 8), on: on}
}

func (f *fakeRunning) PID() int                   { return os.Getpid() }
func (f *fakeRunning) Terminal() *os.File         { return nil }
func (f *fakeRunning) Enter() ([]*os.File, error) { return nil, nil }
func (f *fakeRunning) Adopt(*os.File) error       { return nil }
func (f *fakeRunning) Kill() error {
	f.killed++
	f.end <- boundary.Exit{Signal: syscall.SIGKILL}
	return nil
}

func (f *fakeRunning) Signal(s syscall.Signal) error {
	f.signals = append(f.signals, s)
	if f.on != nil {
		if e := f.on(s); e != nil {
			f.end <- *e
		}
	}
	return nil
}

func (f *fakeRunning) Wait() (boundary.Exit, error) {
	e := <-f.end
	if f.panics {
		panic("wait is broken")
	}
	return e, f.waitErr
}

func deaf(syscall.Signal) *boundary.Exit { return nil }
func obedient(s syscall.Signal) *boundary.Exit {
	return &boundary.Exit{Signal: s}
}
func polite(syscall.Signal) *boundary.Exit { return &boundary.Exit{Code: 0} }

func withLimit(name, unit, mechanism string, value int64) *plan.Plan {
	return &plan.Plan{Limits: []plan.Limit{{Name: name, Value: value, Unit: unit, Mechanism: mechanism}}}
}

// sent is a signal and how long after the one before it comes.
type sent struct {
	after time.Duration
	sig   syscall.Signal
}

func TestEnds(t *testing.T) {
	const none = -1
	for _, c := range []struct {
		name    string
		on      func(syscall.Signal) *boundary.Exit
		exit    *boundary.Exit // after 100 ms by itself
		plan    *plan.Plan
		signals []sent
		reason  Reason
		status  int
		killed  int
		took    time.Duration
	}{
		{name: "exit 0", exit: &boundary.Exit{}, reason: Exited, status: 0, took: 100 * time.Millisecond},
		{name: "exit 42", exit: &boundary.Exit{Code: 42}, reason: Exited, status: 42, took: 100 * time.Millisecond},
		{name: "by SEGV", exit: &boundary.Exit{Signal: syscall.SIGSEGV}, reason: Exited, status: 139, took: 100 * time.Millisecond},
		{name: "TERM obeyed", on: obedient, signals: []sent{{0, syscall.SIGTERM}}, reason: Terminated, status: 143},
		{name: "TERM answered with exit 0", on: polite, signals: []sent{{0, syscall.SIGTERM}}, reason: Terminated, status: 143},
		{name: "TERM not heard", on: deaf, signals: []sent{{0, syscall.SIGTERM}}, reason: Terminated, status: 143, killed: 1, took: DefaultGrace},
		{name: "TERM twice", on: deaf, signals: []sent{{0, syscall.SIGTERM}, {time.Second, syscall.SIGTERM}}, reason: Terminated, status: 143, killed: 1, took: time.Second},
		{name: "HUP not heard", on: deaf, signals: []sent{{0, syscall.SIGHUP}}, reason: HungUp, status: 129, killed: 1, took: DefaultGrace},
		{name: "INT obeyed", on: obedient, signals: []sent{{0, syscall.SIGINT}}, reason: Interrupted, status: 130},
		{name: "INT handled, exit 3", on: func(syscall.Signal) *boundary.Exit { return &boundary.Exit{Code: 3} }, signals: []sent{{0, syscall.SIGINT}}, reason: Exited, status: 3},
		{name: "INT twice", on: deaf, signals: []sent{{0, syscall.SIGINT}, {time.Second, syscall.SIGINT}}, reason: Interrupted, status: 130, killed: 1, took: time.Second},
		{name: "INT twice, slowly, then exit", on: deaf, exit: nil, signals: []sent{{0, syscall.SIGINT}, {3 * time.Second, syscall.SIGINT}, {time.Minute, syscall.SIGTERM}}, reason: Terminated, status: 143, killed: 1, took: 63*time.Second + DefaultGrace},
		{name: "time limit, obeyed", on: obedient, plan: withLimit("time", "ms", "watch", 1500), reason: TimeLimit, status: none, took: 1500 * time.Millisecond},
		{name: "time limit, not heard", on: deaf, plan: withLimit("time", "ms", "watch", 1500), reason: TimeLimit, status: none, killed: 1, took: 1500*time.Millisecond + DefaultGrace},
		{name: "time limit not reached", exit: &boundary.Exit{Code: 7}, plan: withLimit("time", "ms", "watch", 1500), reason: Exited, status: 7, took: 100 * time.Millisecond},
		{name: "TERM in the grace of the time limit", on: deaf, plan: withLimit("time", "ms", "watch", 1000), signals: []sent{{2 * time.Second, syscall.SIGTERM}}, reason: TimeLimit, status: none, killed: 1, took: time.Second + DefaultGrace},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(c.on)
				ch := make(chan os.Signal)
				go func() {
					for _, s := range c.signals {
						time.Sleep(s.after)
						ch <- s.sig
					}
				}()
				if c.exit != nil {
					time.AfterFunc(100*time.Millisecond, func() { f.end <- *c.exit })
				}
				p := c.plan
				if p == nil {
					p = &plan.Plan{}
				}
				hits := 0
				begin := time.Now()
				res, err := Run(context.Background(), f, p, boundary.Streams{}, Options{
					Signals:  ch,
					LimitHit: func(Hit) { hits++ },
				})
				if err != nil {
					t.Fatal(err)
				}
				status, ok := res.Status()
				if !ok {
					status = none
				}
				if res.Reason != c.reason || status != c.status || f.killed != c.killed || time.Since(begin) != c.took {
					t.Errorf("%s, status %d, %d kills, after %v; want %s, %d, %d, %v",
						res.Reason, status, f.killed, time.Since(begin), c.reason, c.status, c.killed, c.took)
				}
				if want := map[bool]int{true: 1}[c.reason == TimeLimit]; hits != want {
					t.Errorf("%d limit hits, want %d", hits, want)
				}
			})
		})
	}
}

func TestForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(deaf)
		ch := make(chan os.Signal)
		want := []syscall.Signal{syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT}
		go func() {
			for _, s := range want {
				ch <- s
			}
			f.end <- boundary.Exit{Code: 1}
		}()
		res, err := Run(context.Background(), f, &plan.Plan{}, boundary.Streams{}, Options{Signals: ch})
		if err != nil || res.Reason != Exited || res.Exit.Code != 1 {
			t.Errorf("%+v, %v", res, err)
		}
		if len(f.signals) != len(want) {
			t.Fatalf("%v", f.signals)
		}
		for i := range want {
			if f.signals[i] != want[i] {
				t.Errorf("signal %d is %v, want %v", i, f.signals[i], want[i])
			}
		}
	})
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(deaf)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		res, err := Run(ctx, f, &plan.Plan{}, boundary.Streams{}, Options{Signals: make(chan os.Signal), Grace: time.Second})
		if err != nil || res.Reason != Canceled || f.killed != 1 {
			t.Errorf("%+v, %v, %d kills", res, err, f.killed)
		}
	})
}

func TestWaitError(t *testing.T) {
	f := newFake(nil)
	f.waitErr = errors.New("lost it")
	f.end <- boundary.Exit{}
	_, err := Run(context.Background(), f, &plan.Plan{}, boundary.Streams{}, Options{})
	if !errors.Is(err, f.waitErr) {
		t.Errorf("%v", err)
	}
}

// A ceiling that we don't understand is not passed over: nothing runs under it.
func TestUnknownCeilings(t *testing.T) {
	for _, p := range []*plan.Plan{
		withLimit("time", "s", "supervisor", 5), withLimit("time", "ms", "supervisor", 0), withLimit("time", "ms", "rlimit", -1),
		withLimit("memory", "MiB", "watch", 5), withLimit("memory", "bytes", "watch", 0), withLimit("memory", "bytes", "supervisor", 5),
		withLimit("processes", "", "watch", 5), withLimit("disk", "bytes", "watch", 5),
	} {
		f := newFake(obedient)
		if _, err := Run(context.Background(), f, p, boundary.Streams{}, Options{Signals: make(chan os.Signal)}); err == nil || f.killed == 0 {
			t.Errorf("%+v: %v, %d kills", p.Limits, err, f.killed)
		}
	}
}

// A panic anywhere in the run comes out of Run, and nothing inside is left.
func TestPanics(t *testing.T) {
	for name, c := range map[string]struct {
		f *fakeRunning
		o Options
	}{
		"in the callback": {newFake(deaf), Options{LimitHit: func(Hit) { panic("callback is broken") }}},
		"in wait":         {&fakeRunning{end: make(chan boundary.Exit, 8), on: polite, panics: true}, Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
				if c.f.killed == 0 {
					t.Error("not killed")
				}
			}()
			_, err := Run(context.Background(), c.f, withLimit("time", "ms", "watch", 1), boundary.Streams{}, c.o)
			t.Errorf("returned %v", err)
		})
	}
}
