package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/term"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/native"
	"cofferdam/internal/event"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
	"cofferdam/internal/supervise"
	"cofferdam/internal/workspace"
)

// boundaries is the list of all of them.
func boundaryFor(p *prepared) (boundary.Boundary, error) {
	switch p.plan.Boundary {
	case "native":
		return native.Boundary{Remedy: func(stage, _ string, errno syscall.Errno) string {
			return probe.RemedyFor(stage, errno, p.facts)
		}}, nil
	}
	return nil, &UsageError{Text: "there is no boundary " + p.plan.Boundary, Hint: "use --boundary native"}
}

// Run is one run from beginning to end. The status is the command's own, unless
// the error is not nil.
func Run(ctx context.Context, o Options, c Caller) (int, error) {
	p, err := prepare(o, c)
	if err != nil {
		return 0, err
	}
	if gaps := p.plan.RequiredGaps(); len(gaps) > 0 {
		return 0, &RefusedError{Boundary: p.plan.Boundary, Gaps: gaps, Rules: p.plan.Rules}
	}
	tell(c, o, p.policy.Warnings)
	b, err := boundaryFor(p)
	if err != nil {
		return 0, err
	}

	// From here on something has to be put in order before we may end: a
	// signal waits until somebody can see to that.
	streams := streamsOf(c, o)
	signals, stop := supervise.Subscribe(streams.Terminal)
	defer stop()
	r, err := open(ctx, p, o, c)
	if err != nil {
		return 0, err
	}
	defer r.close()
	if err := r.begin(); err != nil {
		return 0, err
	}
	if sig := pending(signals); sig != 0 {
		_ = r.failed(fmt.Errorf("ended by signal %d before the command ran", sig))
		return 128 + int(sig), nil
	}
	running, err := b.Start(ctx, p.plan, streams, r.denied)
	if err != nil {
		return 0, r.failed(err)
	}
	if err := r.attend(running); err != nil {
		_ = running.Kill()
		_, _ = running.Wait()
		return 0, r.failed(err)
	}
	result, err := supervise.Run(ctx, running, p.plan, streams, supervise.Options{LimitHit: r.limitHit, Signals: signals})
	if err != nil {
		return 0, r.failed(err)
	}
	return r.finish(result)
}

// pending is a signal that has come and asks us to end; 0 for none.
func pending(signals <-chan os.Signal) syscall.Signal {
	for {
		select {
		case sig := <-signals:
			switch sig {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
				return sig.(syscall.Signal)
			}
		default:
			return 0
		}
	}
}

// run is what a live run has open.
type run struct {
	*prepared
	options Options
	caller  Caller

	store    *session.Store
	session  *session.Session
	recorder *recorder
	baseline workspace.Baseline
	watcher  *workspace.Watcher
	server   *session.Server
	guarded  bool
}

// open makes the session's folder, the private home, and the record of what is
// guarded.
func open(ctx context.Context, p *prepared, o Options, c Caller) (*run, error) {
	r := &run{prepared: p, options: o, caller: c}
	var err error
	if r.store, err = session.Open(c.Environ); err != nil {
		return nil, err
	}
	r.recoverInterrupted()
	if err := makeHome(p); err != nil {
		return nil, err
	}
	if r.session, err = r.store.Create(ctx, p.plan, o.Name); err != nil {
		return nil, err
	}
	r.recorder = newRecorder(r.session.Events, p.plan)
	return r, nil
}

// begin writes down what is about to start, and what of the workspace has to be
// as it was afterwards.
func (r *run) begin() error {
	var err error
	if r.baseline, err = workspace.Take(r.plan.Workspace, r.plan.Guards); err != nil {
		return r.failed(err)
	}
	if err := r.session.Write(session.BaselineFile, r.baseline); err != nil {
		return r.failed(err)
	}
	for _, w := range r.policy.Warnings {
		if err := r.recorder.write(event.Event{Kind: event.Notice, Detail: w.Text, Origin: Place(w.Origin)}); err != nil {
			return r.failed(err)
		}
	}
	if err := r.recorder.write(event.Event{Kind: event.Start, Subject: r.plan.Workspace, Detail: r.plan.Program}); err != nil {
		return r.failed(err)
	}
	return nil
}

// attend puts up what accompanies a running command.
func (r *run) attend(running boundary.Running) error {
	if err := r.session.Started(running.PID()); err != nil {
		return err
	}
	if err := r.recorder.write(event.Event{Kind: event.Running, PID: running.PID()}); err != nil {
		return err
	}
	r.recorder.onError = func() { _ = running.Kill() }
	var err error
	r.watcher, err = workspace.Watch(r.plan.Workspace, r.plan.Guards, &r.baseline, r.asideDir(), r.setAside)
	if err != nil {
		// The sweep at the end does not need it.
		_ = r.recorder.write(event.Event{Kind: event.Notice, Detail: "new names in the workspace are looked for at the end only: " + err.Error()})
	}
	r.server, err = r.session.Serve(func(peer session.Peer, command []string) ([]*os.File, error) {
		files, err := running.Enter()
		if err == nil {
			err = r.recorder.write(event.Event{Kind: event.Entered, PID: peer.PID, Detail: fmt.Sprintf("%q", command)})
		}
		return files, err
	})
	return err
}

func (r *run) asideDir() string { return r.session.Dir + "/set-aside" }

// denied records what the boundary refused; it may be called from the start on.
func (r *run) denied(d boundary.Denial) {
	e := event.Event{Kind: event.Denied, Action: d.Action, Subject: d.Subject, PID: d.PID, Process: d.Process, Reason: d.Reason, Access: "syscall"}
	if rule, ok := r.plan.Rule(d.Rule); ok {
		e.Rule, e.Origin, e.Access = rule.Text, Place(rule.Origin), "read"
	}
	r.recorder.add(e)
}

func (r *run) limitHit(h supervise.Hit) {
	r.recorder.add(event.Event{Kind: event.LimitHit, Subject: h.Limit.Name, Detail: fmt.Sprintf("%d of %d %s", h.Seen, h.Limit.Value, h.Limit.Unit)})
}

func (r *run) setAside(m workspace.Moved) {
	e := event.Event{Kind: event.SetAside, Subject: m.Path, To: m.To, Reason: m.Reason, Detail: m.Restore}
	if rule, ok := r.plan.Rule(m.Rule); ok {
		e.Rule, e.Origin = rule.Text, Place(rule.Origin)
	}
	r.recorder.add(e)
}

// sweep looks once more for guarded names, after everything inside is dead.
func (r *run) sweep() error {
	if r.watcher != nil {
		r.watcher.Close()
		r.watcher = nil
	}
	rep, err := workspace.Sweep(r.plan.Workspace, r.plan.Guards, r.baseline, r.asideDir())
	for _, m := range rep.SetAside {
		r.setAside(m)
	}
	for _, text := range rep.Problems {
		r.recorder.add(event.Event{Kind: event.Notice, Detail: text})
	}
	return err
}

// finish ends a run whose command has ended.
func (r *run) finish(result supervise.Result) (int, error) {
	sweepErr := r.sweep()
	status, own := result.Status()
	e := event.Event{Kind: event.Exit, Status: status, Detail: string(result.Reason)}
	err := errors.Join(sweepErr, r.recorder.write(e), r.recorder.write(event.Event{Kind: event.End}), r.recorder.flush())
	seq, head := r.recorder.head()
	err = errors.Join(err, r.session.End(session.Exit{Status: status, Events: seq, Head: head}))
	r.summary()
	if err != nil {
		return 0, err
	}
	switch {
	case result.Reason == supervise.TimeLimit:
		e := &TimeoutError{Limit: time.Duration(result.Hit.Limit.Value) * time.Millisecond}
		if rule, ok := r.plan.Rule(result.Hit.Limit.Rule); ok {
			e.Origin = rule.Origin
		}
		return 0, e
	case !own:
		e := &LimitError{Limit: result.Hit.Limit, Seen: result.Hit.Seen}
		if rule, ok := r.plan.Rule(result.Hit.Limit.Rule); ok {
			e.Origin = rule.Origin
		}
		return 0, e
	}
	return status, nil
}

// failed ends a run that did not come to its end, and passes the error on.
func (r *run) failed(err error) error {
	_ = r.sweep()
	_ = r.recorder.write(event.Event{Kind: event.End, Detail: err.Error()})
	_ = r.recorder.flush()
	seq, head := r.recorder.head()
	_ = r.session.End(session.Exit{Status: -1, Error: err.Error(), Events: seq, Head: head})
	return err
}

func (r *run) close() {
	if r.watcher != nil {
		r.watcher.Close()
	}
	if r.server != nil {
		_ = r.server.Close()
	}
	_ = r.session.Close()
	_ = r.store.Close()
}

// summary tells the person what was refused or moved, if anything was.
func (r *run) summary() {
	events := r.recorder.notable()
	if len(events) == 0 {
		return
	}
	if r.options.JSON {
		return // logs --json has them
	}
	var sum report.Summary
	for _, e := range events {
		_ = sum.Event(e)
	}
	_ = sum.WriteText(r.caller.Err, report.StyleOf(r.caller.Err, r.caller.Environ), r.session.ID)
}

// recoverInterrupted finishes sessions whose supervisor was killed: what they
// planted in their workspace is still there.
func (r *run) recoverInterrupted() {
	list, err := r.store.Interrupted()
	if err != nil {
		return
	}
	for _, i := range list {
		recoverSession(r.store, i, r.caller)
	}
}

// recoverSession sweeps the workspace of one interrupted session.
func recoverSession(store *session.Store, i session.Info, c Caller) {
	claim, ok, err := store.Claim(i)
	if err != nil || !ok {
		return
	}
	p, err := store.Plan(i)
	if err != nil {
		claim.Release()
		return
	}
	var b workspace.Baseline
	if err := store.Read(i, session.BaselineFile, &b); err != nil {
		// Killed before there was a baseline: nothing had run.
		_ = claim.Settle()
		return
	}
	rep, err := workspace.Sweep(p.Workspace, p.Guards, b, i.Dir+"/set-aside")
	for _, m := range rep.SetAside {
		fmt.Fprintf(c.Err, "cofferdam: session %s was interrupted; set aside %s: %s\n  to put it back: %s\n", i.ID, report.Quote(m.Path), m.Reason, m.Restore)
	}
	if err != nil {
		claim.Release()
		return
	}
	_ = claim.Settle()
}

// streamsOf decides between a terminal of the inside and the caller's own
// streams: a terminal when both ends of the conversation are one.
func streamsOf(c Caller, o Options) boundary.Streams {
	s := boundary.Streams{In: c.In, Out: c.Out, Err: c.Err}
	if o.Unattended || !term.IsTerminal(int(c.In.Fd())) || !term.IsTerminal(int(c.Out.Fd())) {
		return s
	}
	s.Terminal, s.Rows, s.Cols = true, 24, 80
	if cols, rows, err := term.GetSize(int(c.Out.Fd())); err == nil {
		s.Rows, s.Cols = uint16(rows), uint16(cols)
	}
	return s
}

// tell prints the warnings before the start.
func tell(c Caller, o Options, warnings []policy.Warning) {
	for _, w := range warnings {
		fmt.Fprintf(c.Err, "cofferdam: %s\n", report.Quote(w.Text))
		if at := Place(w.Origin); at != "" {
			fmt.Fprintf(c.Err, "  at: %s\n", report.Quote(at))
		}
		if w.Hint != "" {
			fmt.Fprintf(c.Err, "  hint: %s\n", report.Quote(w.Hint))
		}
	}
}

// Place is where a rule stands, for a person: "policy.jsonc:12", "built-in".
func Place(o plan.Origin) string {
	switch {
	case o.File != "" && o.Line > 0:
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.File != "":
		return o.File
	}
	return o.Layer
}
