package flow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"cofferdam/internal/approval"
	"cofferdam/internal/approval/api"
	"cofferdam/internal/event"
	"cofferdam/internal/gateway"
	"cofferdam/internal/linux/sockowner"
	"cofferdam/internal/plan"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// asks says whether a person may be asked something in a run of this plan.
func asks(p *plan.Plan) bool {
	return !p.Unattended && slices.ContainsFunc(p.Network.Rules, func(r plan.NetRule) bool { return r.Ask })
}

// openBoard makes the place for questions, if there can be any.
func (r *run) openBoard() {
	if asks(r.plan) {
		r.board = approval.New(approval.Config{Asked: r.asked, Answered: r.answered})
	}
}

// serveAnswers lets answers in.
func (r *run) serveAnswers() error {
	if r.board == nil {
		return nil
	}
	dir, err := r.session.Folder()
	if err != nil {
		return err
	}
	defer dir.Close()
	if r.answers, err = api.Serve(dir, r.session.ID, r.board); err != nil {
		return &session.Error{Op: "serve", Path: r.session.Dir, Err: err}
	}
	return nil
}

// closeBoard ends every question. No answer comes in any more when it returns.
func (r *run) closeBoard() {
	if r.board != nil {
		r.board.Close()
	}
	if r.answers != nil {
		_ = r.answers.Close()
	}
}

// ask puts what the gateway wants to know before a person.
func (r *run) ask(ctx context.Context, w gateway.Wanted) gateway.Reply {
	s := approval.Subject{Host: w.Name, Port: w.Port}
	if w.Name == "" {
		s.Host = w.Addr.Unmap().String()
	}
	if q := w.Request; q != nil {
		s.Method, s.Path, s.Act = q.Method, q.Path, w.Verdict.Act
		refs := make([]string, len(q.Refs))
		for i, ref := range q.Refs {
			refs[i] = ref.Name
		}
		s.Refs = strings.Join(refs, " ")
	}
	no := func(code, format string, a ...any) gateway.Reply {
		return gateway.Reply{Code: code, Reason: w.Verdict.Reason + ": " + fmt.Sprintf(format, a...)}
	}
	switch o := r.board.Ask(ctx, approval.Wish{Subject: s, Reason: w.Verdict.Reason, Rules: w.Allow, Client: w.Client}); o {
	case approval.Granted:
		return gateway.Reply{Yes: true}
	case approval.ForNow:
		return gateway.Reply{Yes: true, Once: true}
	case approval.Declined:
		return no(gateway.Declined, "the answer was no, for this session")
	case approval.TooMany:
		return no(gateway.Unanswered, "too much waits for an answer already; cofferdam approvals %s", r.session.ID)
	case approval.Gone:
		return no(gateway.Unanswered, "who wanted it went away before there was an answer; cofferdam approvals %s", r.session.ID)
	case approval.Failed:
		return no(gateway.Unanswered, "the question or the answer could not be recorded")
	default:
		return no(gateway.Unanswered, "nobody answered within %v; to answer, in another terminal: cofferdam approvals %s", approval.DefaultTime, r.session.ID)
	}
}

// subject is what an event is about.
func subject(q approval.Question) event.Event {
	e := event.Event{Subject: q.Address(), Action: "connect", Process: q.Process, PID: q.PID}
	if q.Method != "" {
		e.Action = q.Method
		e.Subject += q.Path
	}
	return e
}

// asked records a question, and tells the person that there is one.
func (r *run) asked(q approval.Question, w approval.Wish) (approval.Question, error) {
	select {
	case <-r.attended: // a command may be faster than we are
		if p, ok := sockowner.Find(r.inside, w.Client); ok {
			q.Process, q.PID = p.Comm, p.PID
		}
	case <-time.After(time.Second):
	}
	e := subject(q)
	e.Kind, e.Reason, e.Detail = event.Ask, q.Reason, "question "+strconv.Itoa(q.ID)
	if err := r.recorder.add(e); err != nil {
		return q, err
	}
	r.alert(q)
	return q, nil
}

// alertEvery is how often the person is told of new questions at most: the inside can
// make up as many as it likes.
const alertEvery = time.Second

// alert tells the person that there is a new question. The screen of a command that has
// a terminal of its own is not written on: it gets a bell.
func (r *run) alert(q approval.Question) {
	now, last := time.Now().UnixNano(), r.alerted.Load()
	if now-last < int64(alertEvery) || !r.alerted.CompareAndSwap(last, now) {
		return
	}
	select {
	case r.bell <- struct{}{}:
	default: // it rings already
	}
	if !r.options.Unattended && !r.options.JSON && !r.ownTerminal && term.IsTerminal(int(r.caller.Err.Fd())) {
		r.caller.tell("waiting for an answer about "+report.Quote(q.Address()), "", fmt.Sprintf("cofferdam approve %s/%d once|session|always|no", r.session.ID, q.ID))
	}
}

// answered records an answer and carries it out.
func (r *run) answered(q approval.Question, w approval.Wish, a approval.Answer, by approval.Peer) (note string, err error) {
	who := event.Event{Kind: event.Answer, Subject: subject(q).Subject, Action: string(a), PID: by.PID,
		Detail: fmt.Sprintf("question %d, by user %d", q.ID, by.UID)}
	if err := r.recorder.write(who); err != nil {
		return "", err
	}
	if a != approval.Session && a != approval.Always {
		return "", nil
	}
	if err := r.gateway.Allow(w.Rules...); err != nil {
		return "", err
	}
	if a == approval.Session {
		return "", nil
	}
	file, err := r.remember(w.Rules)
	if err == nil {
		note = "written to " + file
	} else {
		note = "it holds for this session only: " + err.Error()
	}
	return note, r.recorder.write(event.Event{Kind: event.Notice, Subject: q.Address(), Detail: note})
}

// Question is one that is open. All its text comes from inside.
type Question = approval.Question

// Waiting is what one live session asks.
type Waiting struct {
	Session   string     `json:"session"`
	Name      string     `json:"name,omitempty"`
	Workspace string     `json:"workspace"`
	Questions []Question `json:"questions"`
}

// errAsksNothing: a session has no place to answer at.
var errAsksNothing = errors.New("it asks nothing: no rule of its policy says so (--ask, network.unlisted)")

// Questions lists what live sessions ask: the one that is named, or all that ask at all.
func Questions(ctx context.Context, key string, c Caller) ([]Waiting, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	list, err := liveSessions(store, key)
	if err != nil {
		return nil, err
	}
	out := []Waiting{}
	for _, i := range list {
		l, err := questionsOf(ctx, store, i)
		if err != nil && key == "" {
			continue // it asks nothing, or ends just now
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Waiting{Session: i.ID, Name: i.State.Name, Workspace: i.State.Workspace, Questions: l.Questions})
	}
	return out, nil
}

// Answer answers a question of a live session. With id 0 it is the only one that is
// open there; without a session, the only open one with that number.
func Answer(ctx context.Context, key string, id int, answer string, c Caller) (*Answered, error) {
	a, ok := approval.ParseAnswer(answer)
	if !ok {
		return nil, &UsageError{Text: fmt.Sprintf("%q is no answer", answer), Hint: "one of: once, session, always, no"}
	}
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	list, err := liveSessions(store, key)
	if err != nil {
		return nil, err
	}
	type open struct {
		session.Info
		q approval.Question
	}
	var found []open
	for _, i := range list {
		l, err := questionsOf(ctx, store, i)
		if err != nil && key != "" {
			return nil, err
		}
		if err != nil {
			continue
		}
		for _, q := range l.Questions {
			if id == 0 || q.ID == id {
				found = append(found, open{i, q})
			}
		}
	}
	switch {
	case len(found) == 0:
		return nil, &NoQuestionError{Text: "no such question is open", Hint: "it may have been answered, or nobody waits any more; cofferdam approvals lists them"}
	case len(found) > 1:
		e := &NoQuestionError{Text: fmt.Sprintf("%d questions fit", len(found))}
		e.Hint = fmt.Sprintf("name one of them, as in %s/%d; cofferdam approvals lists them", found[0].ID, found[0].q.ID)
		return nil, e
	}
	dir, err := store.Folder(found[0].Info)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	r, err := api.Settle(ctx, dir, found[0].q.ID, a)
	var no *api.Error
	switch {
	case errors.As(err, &no) && no.Status == 404:
		return nil, &NoQuestionError{Text: no.Text, Hint: "cofferdam approvals lists those that are open"}
	case err != nil:
		return nil, &session.ControlError{ID: found[0].ID, Text: err.Error()}
	}
	return &Answered{Session: found[0].ID, ID: r.ID, Subject: found[0].q.Subject.String(), Answer: string(a), Note: r.Note}, nil
}

func liveSessions(store *session.Store, key string) ([]session.Info, error) {
	if key != "" {
		i, err := store.Find(key)
		if err == nil && i.Status != session.Live {
			err = &session.ControlError{ID: i.ID, Text: fmt.Sprintf("it is not running (%s)", i.Status)}
		}
		return []session.Info{i}, err
	}
	list, err := store.List()
	return slices.DeleteFunc(list, func(i session.Info) bool { return i.Status != session.Live }), err
}

// answerTime bounds how long a session may take to say what it asks.
const answerTime = 5 * time.Second

func questionsOf(ctx context.Context, store *session.Store, i session.Info) (*api.List, error) {
	dir, err := store.Folder(i)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	l, err := api.Questions(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, &session.ControlError{ID: i.ID, Text: errAsksNothing.Error()}
	case err != nil:
		return nil, &session.ControlError{ID: i.ID, Text: err.Error()}
	case l.Session != i.ID:
		return nil, &session.ControlError{ID: i.ID, Text: "another session answers"}
	}
	return l, nil
}
