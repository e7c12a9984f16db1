// Package supervise owns one live boundary until it is over: it relays the
// terminal, passes signals on, holds the ceilings that the kernel does not
// hold (time, and memory and processes where the plan says "watch"), and
// reports how the command ended and why.
//
// It never decides what a ceiling is (the plan does), never prints, and never
// hands the person's terminal to the inside: the command has a pty of its
// own, and only bytes cross.
//
//	person's tty (raw) <--> relay <--> pty master | pty of the sandbox <--> command
//	signals to us      ---> Run   ---> Running.Signal, then Running.Kill
//	time, memory, ...  ---> Run   ---> LimitHit, Running.Signal, Running.Kill
//
// The relay filters nothing: escape sequences of the command reach the
// person's terminal as they are (title, clipboard by OSC 52 and so on), as
// they would without a sandbox.
package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/plan"
)

// Reason is why a run is over.
type Reason string

const (
	// Exited: the command ended by itself, or by a signal from elsewhere.
	Exited Reason = "exited"
	// TimeLimit, MemoryLimit, ProcessLimit: a ceiling held here ended it.
	TimeLimit    Reason = "time-limit"
	MemoryLimit  Reason = "memory-limit"
	ProcessLimit Reason = "process-limit"
	// Terminated, Interrupted, HungUp: SIGTERM, SIGINT (two in a row, or one
	// that ended the command), SIGHUP to us.
	Terminated  Reason = "terminated"
	Interrupted Reason = "interrupted"
	HungUp      Reason = "hung-up"
	// TerminalLost: the person's terminal went away without a SIGHUP to us.
	TerminalLost Reason = "terminal-lost"
	// Canceled: the context was cancelled by the caller.
	Canceled Reason = "canceled"
)

// Result is how a run ended.
type Result struct {
	// Exit is how the command itself ended, whoever caused it.
	Exit   boundary.Exit
	Reason Reason
	// Hit is the ceiling that ended it; zero for the other reasons.
	Hit Hit
}

// Status is the exit status of the run in the shell's convention. A signal
// to us decides it, whatever the command made of that signal: SIGTERM to us
// ends the tree and gives 143, SIGHUP 129, SIGINT 130. ok is false when a
// ceiling ended the run: the caller has its own code for that.
func (r Result) Status() (status int, ok bool) {
	switch r.Reason {
	case Terminated, Canceled:
		return 128 + int(syscall.SIGTERM), true
	case Interrupted:
		return 128 + int(syscall.SIGINT), true
	case HungUp, TerminalLost:
		return 128 + int(syscall.SIGHUP), true
	case TimeLimit, MemoryLimit, ProcessLimit:
		return 0, false
	}
	return r.Exit.Status(), true
}

// Hit is a ceiling that was reached.
type Hit struct {
	Limit plan.Limit
	// Seen is what was measured, in the limit's unit.
	Seen int64
}

// Options are what a caller may change; the zero value is good.
type Options struct {
	// Grace is how long the command may take to end after a TERM, HUP or the
	// time limit before everything inside is killed; 0 is DefaultGrace.
	Grace time.Duration
	// LimitHit is told of a ceiling before anything is done about it. It is
	// called from Run's goroutine, at most once per run, and must not block.
	LimitHit func(Hit)
	// Entered lists the processes outside that have put commands into the
	// boundary by exec; these count for the watched ceilings too.
	Entered func() []int
	// Bell rings the person's terminal for each value, if the command has one of its
	// own: a byte that shows nothing, between what the command shows.
	Bell <-chan struct{}
	// Signals are those to pass on: from Subscribe, or a test's own. nil
	// means that Run subscribes itself until it returns.
	Signals <-chan os.Signal
}

// DefaultGrace is the time between SIGTERM and SIGKILL.
const DefaultGrace = 5 * time.Second

// InterruptWindow: two SIGINT within it end the run. A program that takes
// SIGINT as "stop what you do and ask me" gets each single one.
const InterruptWindow = 2 * time.Second

// forwarded are the signals that are passed on to the command. Only those of
// them that were not ignored when we started: nohup and the background jobs
// of a plain shell stay what they are.
var forwarded = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2,
}

// Subscribe takes the signals that Run passes on, so that they are not lost, and
// do not end us, between the start of a command and Run. stop gives them back.
func Subscribe(terminal bool) (signals <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 64)
	for _, sig := range forwarded {
		if !signal.Ignored(sig) {
			signal.Notify(ch, sig)
		}
	}
	if terminal {
		signal.Notify(ch, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT)
	}
	return ch, func() { signal.Stop(ch) }
}

// Interruptible is a context that ends with a signal to end: a start may take long,
// where a file system does not answer. The signal stays in what Subscribe returned.
func Interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	var list []os.Signal
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			list = append(list, sig)
		}
	}
	if len(list) == 0 { // no list would be all signals
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, list...)
}

// Run supervises running until nothing inside is alive, its last output has
// been relayed and the person's terminal is as it was. It calls Wait. Between
// call and return it is the only user of running.Terminal(), which becomes
// non-blocking; running keeps ownership of it.
//
// An error means that the boundary could not be waited for or the relay could
// not be set up; everything inside has been killed then. A panic in a
// callback, in Wait or in the relay is raised again from Run after the
// terminal has been restored and the inside killed. A panic in an unrelated
// goroutine of the process can't be seen from here.
func Run(ctx context.Context, running boundary.Running, p *plan.Plan, s boundary.Streams, o Options) (Result, error) {
	r := &run{running: running, options: o, panics: make(chan caught, 4)}
	if r.options.Grace <= 0 {
		r.options.Grace = DefaultGrace
	}
	waited := r.wait()
	over := false
	// Whatever happens below, nothing inside survives us and nobody is left
	// behind who still waits.
	defer func() {
		if !over {
			_ = running.Kill()
			<-waited
		}
	}()

	signals := o.Signals
	master := running.Terminal()
	terminal := s.Terminal && master != nil
	if signals == nil {
		var stop func()
		signals, stop = Subscribe(terminal)
		defer stop()
	}
	if err := known(p.Limits); err != nil {
		return Result{}, err
	}
	var lost, drained <-chan struct{}
	if terminal {
		relay, err := newRelay(s.In, s.Out, master)
		if err != nil {
			return Result{}, fmt.Errorf("relay the terminal: %w", err)
		}
		defer relay.Close()
		r.relay = relay
		relay.Resize()
		relay.Start(r.catch)
		lost, drained = relay.Lost(), relay.Done()
	}
	watch, err := newWatch(running.PID(), p)
	if err != nil {
		return Result{}, err
	}
	if watch != nil {
		watch.entered = o.Entered
		defer watch.Close()
	}

	res, err := r.loop(ctx, p, watch, signals, waited, lost, drained, &over)
	return res, err
}

// known says whether every ceiling that nobody but us holds is one that we hold:
// a unit or a name that we would pass over is a rule that does not hold.
func known(limits []plan.Limit) error {
	units := map[string]string{"time": "ms", "memory": "bytes", "processes": "count"}
	for _, l := range limits {
		if l.Mechanism != "watch" && l.Mechanism != "supervisor" && l.Name != "time" {
			continue
		}
		if unit, ok := units[l.Name]; !ok || l.Unit != unit || l.Value <= 0 || l.Mechanism == "supervisor" && l.Name != "time" {
			return fmt.Errorf("the limit %s %d %s by %s: nobody here can hold it", l.Name, l.Value, l.Unit, l.Mechanism)
		}
	}
	return nil
}

// run is the state of one Run; only Run's goroutine touches it, except for
// panics.
type run struct {
	running boundary.Running
	options Options
	relay   *relay

	reason Reason // "" while nothing but the command itself may end the run
	hit    Hit
	kill   <-chan time.Time // fires when the grace is over
	// lastInterrupt is when a SIGINT last came.
	lastInterrupt time.Time
	interrupted   bool
	panics        chan caught
}

type caught struct {
	value any
	stack []byte
}

// raise panics; the deferred calls of Run put everything back first.
func (c caught) raise() { panic(fmt.Sprintf("%v\n\n%s", c.value, c.stack)) }

type ended struct {
	exit boundary.Exit
	err  error
}

// catch, deferred in a goroutine of Run, has its panic raised again by Run.
func (r *run) catch() {
	if v := recover(); v != nil {
		r.panics <- caught{v, debug.Stack()}
	}
}

// wait calls Wait in a goroutine; the channel is closed when it is back.
func (r *run) wait() <-chan ended {
	ch := make(chan ended, 1)
	go func() {
		defer close(ch)
		defer r.catch()
		exit, err := r.running.Wait()
		ch <- ended{exit, err}
	}()
	return ch
}

func (r *run) loop(ctx context.Context, p *plan.Plan, watch *watch, signals <-chan os.Signal,
	waited <-chan ended, lost, drained <-chan struct{}, over *bool,
) (Result, error) {
	var deadline <-chan time.Time
	limit, timed := p.Limit("time")
	if timed {
		// Monotonic time: hours asleep with the lid closed don't count.
		t := time.NewTimer(time.Duration(limit.Value) * time.Millisecond)
		defer t.Stop()
		deadline = t.C
	}
	var sample <-chan time.Time
	var sampler *time.Timer
	if watch != nil {
		sampler = time.NewTimer(0)
		defer sampler.Stop()
		sample = sampler.C
	}
	cancelled := ctx.Done()
	var end *ended // set when nothing inside is alive; only draining is left
	for {
		select {
		case c := <-r.panics:
			c.raise()

		case e, ok := <-waited:
			if !ok {
				(<-r.panics).raise()
			}
			*over = true
			end = &e
			waited, deadline, sample, r.kill = nil, nil, nil, nil
			if r.relay == nil {
				return r.result(e)
			}
			r.relay.Drain()

		case <-drained:
			drained = nil
			select {
			case c := <-r.panics:
				c.raise()
			default:
			}
			if end != nil {
				return r.result(*end)
			}

		case <-r.options.Bell:
			if r.relay != nil && end == nil {
				r.relay.Ring()
			}

		case <-r.kill:
			r.kill = nil
			_ = r.running.Kill()

		case sig := <-signals:
			if end != nil && ends(sig) {
				// The command is gone, the person's terminal does not take
				// its last output: don't wait for that any more.
				r.relay.Abandon()
				continue
			}
			if end == nil || sig == syscall.SIGWINCH || sig == syscall.SIGTSTP || sig == syscall.SIGCONT {
				r.signal(sig)
			}

		case <-lost:
			lost = nil
			if end == nil {
				r.finish(TerminalLost, syscall.SIGHUP)
			}

		case <-cancelled:
			cancelled = nil
			if end != nil {
				r.relay.Abandon()
				continue
			}
			r.finish(Canceled, syscall.SIGTERM)

		case <-deadline:
			deadline = nil
			r.reached(TimeLimit, Hit{Limit: limit, Seen: limit.Value})
			r.finish(TimeLimit, syscall.SIGTERM)

		case <-sample:
			reason, hit, next := watch.Sample()
			if reason == "" {
				sampler.Reset(next)
				continue
			}
			// No grace: what is over its memory or forks without end would
			// use the time to take more.
			sample = nil
			r.reached(reason, hit)
			_ = r.running.Kill()
		}
	}
}

// ends says whether a person who sends this wants us to be gone.
func ends(sig os.Signal) bool {
	return sig == syscall.SIGTERM || sig == syscall.SIGINT || sig == syscall.SIGHUP || sig == syscall.SIGQUIT
}

// reached records and reports a ceiling, if nothing else ended the run before.
func (r *run) reached(reason Reason, hit Hit) {
	if r.reason != "" {
		return
	}
	r.reason, r.hit = reason, hit
	if r.options.LimitHit != nil {
		r.options.LimitHit(hit)
	}
}

// finish asks the command to end and starts the grace. Asked a second time
// for the same reason, it is not patient any more.
func (r *run) finish(reason Reason, sig syscall.Signal) {
	if r.kill != nil && r.reason == reason {
		r.kill = nil
		_ = r.running.Kill()
		return
	}
	if r.reason == "" {
		r.reason = reason
	}
	// An error here is a command that has ended: Wait will tell.
	_ = r.running.Signal(sig)
	if r.kill == nil {
		r.kill = time.After(r.options.Grace)
	}
}

func (r *run) signal(sig os.Signal) {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	switch s {
	case syscall.SIGTERM:
		r.finish(Terminated, s)
	case syscall.SIGHUP:
		r.finish(HungUp, s)
	case syscall.SIGINT:
		now := time.Now()
		if r.interrupted && now.Sub(r.lastInterrupt) <= InterruptWindow {
			if r.reason == "" {
				r.reason = Interrupted
			}
			_ = r.running.Kill()
			return
		}
		r.interrupted, r.lastInterrupt = true, now
		_ = r.running.Signal(s)
	case syscall.SIGWINCH:
		if r.relay != nil {
			r.relay.Resize()
		}
	case syscall.SIGTSTP:
		// From outside: Ctrl-Z of a raw terminal is a byte for the inside.
		// Only we stop. The inside goes on until its output is full; watched
		// ceilings and the time limit are looked at again after SIGCONT.
		if r.relay != nil {
			r.relay.Suspend()
			stopSelf()
			r.relay.Resume()
		}
	case syscall.SIGCONT:
		if r.relay != nil {
			r.relay.Resume()
			r.relay.Resize()
		}
	default:
		_ = r.running.Signal(s)
	}
}

func (r *run) result(e ended) (Result, error) {
	res := Result{Exit: e.exit, Reason: r.reason, Hit: r.hit}
	if res.Reason == "" {
		res.Reason = Exited
		if r.interrupted && e.exit.Signal == syscall.SIGINT {
			res.Reason = Interrupted
		}
	}
	if e.err != nil {
		return res, fmt.Errorf("wait for the boundary: %w", e.err)
	}
	return res, nil
}
