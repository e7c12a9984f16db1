package flow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"cofferdam/internal/approval"
	"cofferdam/internal/approval/api"
	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/native"
	"cofferdam/internal/event"
	"cofferdam/internal/gateway"
	"cofferdam/internal/gateway/credential"
	"cofferdam/internal/gateway/decide"
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
	if err := nested(c); err != nil {
		return 0, err
	}
	store, err := session.Open(c.Environ)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	// What a killed run has left in its workspace goes first: it must not be
	// taken for the person's own.
	if err := recoverInterrupted(ctx, store, c); err != nil {
		return 0, err
	}
	p, err := prepare(ctx, o, c)
	if err != nil {
		return 0, err
	}
	if gaps := p.plan.RequiredGaps(); len(gaps) > 0 {
		return 0, &RefusedError{Boundary: p.plan.Boundary, Gaps: gaps, Rules: p.plan.Rules}
	}
	tell(c, p.policy.Warnings, p.plan)
	tellUnused(c, p.plan, p.policy)
	if asks(p.plan) {
		c.tell("what no rule allows or denies may be asked about while it waits", "", "answer in another terminal: "+strings.TrimSpace("cofferdam approvals "+o.Name))
	}
	b, err := boundaryFor(p)
	if err != nil {
		return 0, err
	}

	inspect, started, err := inspection(p.plan, c.Environ, time.Now())
	if err != nil {
		return 0, err
	}
	secrets, started, err := credentials(ctx, p, c, started)
	if err != nil {
		return 0, err
	}
	if err := makeHome(p); err != nil {
		return 0, err
	}

	// The session's folder and the record of what is guarded are made while
	// the boundary goes up; the command waits for them.
	r := &run{prepared: p, inspection: inspect, credentials: secrets, options: o, caller: c, store: store, recorder: &recorder{}, bell: make(chan struct{}, 1), attended: make(chan struct{})}
	defer r.close()
	// From here on something has to be put in order before we may end: a
	// signal waits until somebody can see to that.
	streams := streamsOf(c, o)
	r.ownTerminal = streams.Terminal
	signals, stop := supervise.Subscribe(streams.Terminal)
	defer stop()
	copying, stopCopying := supervise.Interruptible(ctx)
	started, err = r.makeCopy(copying, started)
	stopCopying()
	if err != nil {
		if interrupted := pending(signals); interrupted != 0 {
			_ = r.failed(err)
			return 128 + int(interrupted), nil
		}
		return 0, r.failed(err)
	}
	var openErr error
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		openErr = r.open(ctx)
	}()
	interrupted := syscall.Signal(0)
	streams.Ready = func() error {
		if <-opened; openErr != nil {
			return openErr
		}
		if interrupted = pending(signals); interrupted != 0 {
			return fmt.Errorf("ended by signal %d before the command ran", interrupted)
		}
		return nil
	}
	streams.Gateway = r.serveNetwork
	starting, stopWaiting := supervise.Interruptible(ctx)
	running, err := b.Start(starting, started, streams, r.denied)
	stopWaiting()
	if err != nil {
		<-opened
		if interrupted == 0 {
			interrupted = pending(signals)
		}
		if err = r.failed(err); interrupted != 0 {
			return 128 + int(interrupted), nil
		}
		return 0, err
	}
	if err := r.attend(running); err != nil {
		_ = running.Kill()
		_, _ = running.Wait()
		return 0, r.failed(err)
	}
	result, err := supervise.Run(ctx, running, p.plan, streams, supervise.Options{LimitHit: r.limitHit, Entered: r.entered, Bell: r.bell, Signals: signals})
	if err != nil {
		return 0, r.failed(err)
	}
	return r.finish(result)
}

// nested refuses to start inside of a boundary, in words for just that: what fails
// otherwise is the state directory, which is masked, and says something else. Both
// marks are ours: the variable alone could be left over from anywhere, and with the
// switch in the kernel off, nothing could start anyhow.
func nested(c Caller) error {
	if variable(c.Environ, "COFFERDAM") == "" {
		return nil
	}
	b, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil || strings.TrimSpace(string(b)) != "0" {
		return nil // not ours, or can't tell: the start itself will
	}
	return &RefusedError{Boundary: "native", Gaps: []plan.Gap{{Required: true, Missing: "user namespaces",
		Because: "this is already inside a boundary of cofferdam, and there is none inside of another",
		Remedy:  "run the command without cofferdam: what it starts is kept in already"}}}
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
	baseline *workspace.Baseline
	watcher  *workspace.Watcher
	server   *session.Server
	gateway  *gateway.Gateway
	board    *approval.Board // nil if nothing is asked
	answers  *api.Server
	bell     chan struct{} // a value for each new question
	attended chan struct{} // closed when what accompanies the command is up
	inside   int           // pid of the boundary's first process; after attended
	alerted  atomic.Int64  // when the person was last told of a question
	// ownTerminal: the command has one, so ours is not for us to write on.
	ownTerminal bool
	rules       *decide.Rules // of the gateway
	// inspection is nil if no rule needs TLS opened.
	inspection *gateway.Inspection
	// credentials is nil if nothing is masked.
	credentials *credential.Set
	// unswept: something may be left in the workspace. The session stays open then,
	// so that the next start sweeps again, and does not take it for the person's own.
	unswept bool
	// copied is what is told of the changes in the copy, with what can be done.
	copied    string
	copyHints []string
	guests    struct {
		sync.Mutex
		pids []int
	}
}

// create makes the session's folder, once.
func (r *run) create(ctx context.Context) error {
	if r.session != nil {
		return nil
	}
	var err error
	if r.session, err = r.store.Create(ctx, r.plan, r.options.Name); err == nil {
		r.recorder.open(r.session.Events)
	}
	return err
}

// open makes the session's folder and writes down what is about to start, and
// what of the workspace has to be as it was afterwards.
func (r *run) open(ctx context.Context) error {
	if err := r.create(ctx); err != nil {
		return err
	}
	if r.credentials != nil {
		if err := r.session.Write(session.PlaceholdersFile, r.credentials.Placeholders()); err != nil {
			return err
		}
	}
	if err := r.guard(); err != nil {
		return err
	}
	for _, w := range r.policy.Warnings {
		if err := r.recorder.write(event.Event{Kind: event.Notice, Detail: w.Text, Origin: Place(w.Origin)}); err != nil {
			return err
		}
	}
	r.watch()
	return r.recorder.write(event.Event{Kind: event.Start, Subject: r.plan.Workspace, Detail: r.plan.Program})
}

// guard remembers what of the workspace has to be as it was. Of a copy nothing has to:
// nothing in the project can be written.
func (r *run) guard() error {
	if r.plan.Copy != "" {
		return nil
	}
	var err error
	if r.baseline, err = workspace.TakeBaseline(r.plan.Workspace, r.plan.Guards, held(r.plan)); err != nil {
		return r.workspaceGone(err)
	}
	return r.session.Write(session.BaselineFile, r.baseline)
}

// watch: from now on a name that appears is set aside within moments; the sweep at the
// end does not depend on it.
func (r *run) watch() {
	if r.baseline == nil {
		return
	}
	var err error
	if r.watcher, err = workspace.Watch(r.baseline, r.session.Dir, r.setAside); err != nil {
		_ = r.recorder.add(event.Event{Kind: event.Notice, Detail: "new names in the workspace were looked for at the end only: " + err.Error()})
	}
}

// attend puts up what accompanies a running command.
func (r *run) attend(running boundary.Running) error {
	if err := r.session.Started(running.PID()); err != nil {
		return err
	}
	if err := r.recorder.write(event.Event{Kind: event.Running, PID: running.PID()}); err != nil {
		return err
	}
	r.recorder.fatal(func() { _ = running.Kill() })
	r.inside = running.PID()
	err := r.serveAnswers()
	close(r.attended)
	if err != nil {
		return err
	}
	r.server, err = r.session.Serve(func(peer session.Peer, command []string) ([]*os.File, error) {
		files, err := running.Enter()
		r.entrance(peer.PID)
		if err == nil {
			err = r.recorder.write(event.Event{Kind: event.Entered, PID: peer.PID, Detail: fmt.Sprintf("%q", command)})
		}
		return files, err
	}, running.Adopt)
	return err
}

// denied records what the boundary refused; it may be called from the start on.
func (r *run) denied(d boundary.Denial) {
	if d.Limit != "" {
		_ = r.recorder.add(event.Event{Kind: event.LimitHit, Subject: d.Limit, Detail: d.Reason})
		return
	}
	e := event.Event{Kind: event.Denied, Action: d.Action, Subject: d.Subject, PID: d.PID, Process: d.Process, Reason: d.Reason, Access: "syscall"}
	if rule, ok := r.plan.Rule(d.Rule); ok {
		e.Rule, e.Origin, e.Access = rule.Text, Place(rule.Origin), "read"
	}
	_ = r.recorder.add(e)
}

// entrance remembers the process that brings a command in; entered lists them.
func (r *run) entrance(pid int) {
	r.guests.Lock()
	defer r.guests.Unlock()
	r.guests.pids = append(r.guests.pids, pid)
}

func (r *run) entered() []int {
	r.guests.Lock()
	defer r.guests.Unlock()
	return slices.Clone(r.guests.pids)
}

func (r *run) limitHit(h supervise.Hit) {
	_ = r.recorder.add(event.Event{Kind: event.LimitHit, Subject: h.Limit.Name, Detail: plan.Amount(h.Seen, h.Limit.Unit) + " of " + plan.Amount(h.Limit.Value, h.Limit.Unit)})
}

func (r *run) setAside(m workspace.Aside) {
	e := event.Event{Kind: event.SetAside, Subject: string(m.Path), To: string(m.To), Reason: m.Reason, Detail: m.Undo}
	if rule, ok := r.plan.Rule(m.Rule); ok {
		e.Rule, e.Origin = rule.Text, Place(rule.Origin)
	}
	_ = r.recorder.add(e)
}

// sweep looks for guarded names that have appeared, after everything inside is
// dead. What can't be set aside is an error: the person has to look at it before
// anything on the host obeys it.
func (r *run) sweep() error {
	if r.baseline == nil {
		return nil
	}
	if r.watcher != nil {
		// What it has set aside it has told of.
		_, _ = r.watcher.Stop()
		r.watcher = nil
	}
	rep, err := workspace.Sweep(r.baseline, r.session.Dir)
	for _, m := range rep.SetAside {
		r.setAside(m)
	}
	for _, c := range rep.Changed {
		_ = r.recorder.add(event.Event{Kind: event.Notice, Subject: string(c.Path), Detail: c.What})
	}
	for _, u := range rep.Unusual {
		_ = r.recorder.add(event.Event{Kind: event.Notice, Subject: string(u.Path), Detail: u.What})
	}
	if n := rep.UnusualMore; n > 0 {
		_ = r.recorder.add(event.Event{Kind: event.Notice, Detail: fmt.Sprintf("%d more set-user-ID files and symlinks that lead out of the workspace have appeared", n)})
	}
	var replaced *workspace.ReplacedError
	if errors.As(err, &replaced) {
		return &UnsweptError{Left: []string{err.Error()}}
	}
	if err != nil {
		return r.workspaceGone(err)
	}
	err = unsettled(rep)
	r.unswept = err != nil
	return err
}

// workspaceGone puts into words that somebody on the host has taken the workspace
// away; any other error stays as it is.
func (r *run) workspaceGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &UsageError{Text: fmt.Sprintf("the workspace %q has gone; what appeared in it could not be looked at", r.plan.Workspace), Hint: "go to a directory that exists"}
	}
	return err
}

// unsettled is the error of a sweep that could not do all that it had to.
func unsettled(rep workspace.Report) error {
	if rep.Clean() {
		return nil
	}
	e := &UnsweptError{}
	for _, f := range rep.Failed {
		e.Left = append(e.Left, fmt.Sprintf("%s (%s): %s", f.Path, f.Reason, f.Err))
	}
	for _, b := range rep.Blind {
		e.Left = append(e.Left, fmt.Sprintf("%s: could not be looked at: %s", b.Path, b.Err))
	}
	if rep.Unsettled {
		e.Left = append(e.Left, "the workspace was still changing")
	}
	return e
}

// held says which paths of the workspace the boundary keeps from being changed: the
// mount next above a path decides.
func held(p *plan.Plan) func(rel string) bool {
	write := map[string]bool{}
	for _, m := range p.Mounts {
		if rel, ok := strings.CutPrefix(m.Target, p.Workspace+"/"); ok {
			write[rel] = m.Write
		}
	}
	return func(rel string) bool {
		for ; rel != "."; rel = path.Dir(rel) {
			if w, ok := write[rel]; ok {
				return !w
			}
		}
		return false
	}
}

// finish ends a run whose command has ended.
func (r *run) finish(result supervise.Result) (int, error) {
	r.closeGateway()
	sweepErr := r.sweep()
	r.copied, r.copyHints = r.closeCopy()
	status, own := result.Status()
	e := event.Event{Kind: event.Exit, Status: status, Detail: string(result.Reason)}
	logErr := r.recorder.write(e)
	if logErr == nil {
		logErr = r.recorder.write(event.Event{Kind: event.End})
	}
	if err := r.recorder.flush(); logErr == nil {
		logErr = err
	}
	err := errors.Join(sweepErr, logErr)
	seq, head := r.recorder.head()
	if !r.unswept {
		err = errors.Join(err, r.session.End(session.Exit{Status: status, Events: seq, Head: head}))
	}
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
	if r.session == nil {
		return err
	}
	r.closeGateway()
	// What is left in the workspace is told too, whatever it was that failed.
	if unswept := r.sweep(); unswept != nil {
		err = errors.Join(err, unswept)
	}
	r.copied, r.copyHints = r.closeCopy()
	_ = r.recorder.write(event.Event{Kind: event.End, Detail: err.Error()})
	_ = r.recorder.flush()
	seq, head := r.recorder.head()
	if !r.unswept {
		_ = r.session.End(session.Exit{Status: -1, Error: err.Error(), Events: seq, Head: head})
	}
	r.summary()
	return err
}

func (r *run) close() {
	r.closeGateway()
	if r.watcher != nil {
		_, _ = r.watcher.Stop()
	}
	if r.server != nil {
		_ = r.server.Close()
	}
	if r.session != nil {
		_ = r.session.Close()
	}
}

// summary tells the person what was refused or moved, if anything was.
func (r *run) summary() {
	if r.options.JSON {
		return // logs --json has them
	}
	style := report.StyleOf(r.caller.Err, r.caller.Environ)
	r.recorder.tell(r.caller.Err, style, r.session.ID)
	if r.copied != "" {
		report.Told{Text: r.copied, Hints: r.copyHints}.Write(r.caller.Err, style)
	}
}

// recoverInterrupted finishes sessions whose supervisor was killed: what was
// planted in their workspace is still there.
func recoverInterrupted(ctx context.Context, store *session.Store, c Caller) error {
	list, done, err := store.Unfinished(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, i := range list {
		if err := recoverSession(ctx, store, i, c); err != nil {
			fmt.Fprintf(c.Err, "cofferdam: session %s was interrupted: %s\n  hint: look at what is new there; to hear no more of it: rm -r -- %s\n",
				i.ID, report.Quote(err.Error()), workspace.Quote(i.Dir))
		}
	}
	return nil
}

// recoverSession sweeps the workspace of one interrupted session. With an error it
// stays interrupted, for the next run to try.
func recoverSession(ctx context.Context, store *session.Store, i session.Info, c Caller) error {
	if i.Status == session.Damaged {
		return fmt.Errorf("what it may have left in its workspace is not known: %s", i.Problem)
	}
	claim, ok, err := store.Claim(ctx, i)
	if err != nil || !ok {
		return err
	}
	var b workspace.Baseline
	if err := store.Read(i, session.BaselineFile, &b); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			// Killed before there was a baseline: nothing had run. Or it ran in a copy.
			toldOfCopy(i, c)
			return claim.Settle()
		}
		claim.Release()
		return err
	}
	rep, err := workspace.Sweep(&b, i.Dir)
	for _, m := range rep.SetAside {
		c.tell("session "+i.ID+" was interrupted; set aside "+report.Quote(string(m.Path))+": "+m.Reason, "", "")
		fmt.Fprintf(c.Err, "  to restore it: %s\n", report.Plain(m.Undo)) // not folded: it is copied
	}
	for _, u := range rep.Unusual {
		c.tell("session "+i.ID+" was interrupted; in its workspace "+report.Quote(string(u.Path))+" "+u.What, "", "")
	}
	if err == nil {
		err = unsettled(rep)
	}
	if err != nil {
		claim.Release()
		return fmt.Errorf("workspace %s: %w", b.Root, err)
	}
	return claim.Settle()
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

// tell prints, before the start, what the person should know: warnings, and what
// was allowed and can't be given.
func tell(c Caller, warnings []policy.Warning, p *plan.Plan) {
	for _, w := range warnings {
		c.tell("warning: "+w.Text, Place(w.Origin), w.Hint)
	}
	for _, g := range p.Gaps {
		if !g.Required {
			rule, _ := p.Rule(g.Rule)
			c.tell("warning: there is no "+g.Missing+": "+g.Because, Place(rule.Origin), g.Remedy)
		}
	}
	network, part := false, []string{}
	for _, r := range p.Rules {
		switch {
		case r.Status == plan.Coarse && written(r.Origin):
			part = append(part, r.Text)
		case r.Status != plan.Impossible:
		case r.Mechanism == "net-namespace":
			if !network {
				network = true
				c.tell("nothing outside can be reached, so "+r.Text+" and its like give nothing: "+r.Note, Place(r.Origin), "")
			}
		case r.Mechanism == "asked":
			// That a tool can't say it is true of this machine each time; run --dry-run tells.
		default:
			c.tell(r.Text+" can't be given: "+r.Note, Place(r.Origin), "")
		}
	}
	if n := len(part); n > 0 {
		if n > 3 {
			part = append(part[:3], fmt.Sprintf("and %d more", n-3))
		}
		c.tell("held in part only: "+strings.Join(part, ", "), "", "cofferdam run --dry-run says what is not covered")
	}
}

// written reports whether a rule was written by somebody for this machine. What is
// true of the built-in rules on each of them stands in the documentation.
func written(o plan.Origin) bool {
	switch o.Layer {
	case "user", "project", "flag", "managed":
		return true
	}
	return strings.HasPrefix(o.Layer, "import:")
}

// tell says one thing to the person at the other end.
func (c Caller) tell(text, rule, hint string) {
	report.Told{Text: text, Rule: rule, Hints: []string{hint}}.Write(c.Err, report.StyleOf(c.Err, c.Environ))
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
