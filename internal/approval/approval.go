// Package approval keeps the questions that one session asks a person: what waits for
// which answer, and for whom it holds. It decides nothing by itself: without an answer
// in time nothing is allowed. It dials nothing, stores nothing and prints nothing;
// whoever makes a Board says how an answer is recorded and carried out.
//
//	many connections --Ask--> one Question --Answer--> the same outcome for each
//	                              |
//	                     a while without any: forgotten
package approval

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cofferdam/internal/plan"
)

// Answer is what a person says.
type Answer string

const (
	Once    Answer = "once"    // what waits now; if nothing does any more, the next that comes
	Session Answer = "session" // and all of it until the session ends
	Always  Answer = "always"  // and in sessions to come: a rule in the person's policy
	No      Answer = "no"      // not in this session, and nobody asks again
)

// Answers are all of them, in the order of a list for a person.
func Answers() []Answer { return []Answer{Once, Session, Always, No} }

// ParseAnswer reads one of Answers.
func ParseAnswer(s string) (Answer, bool) {
	return Answer(s), slices.Contains(Answers(), Answer(s))
}

// Question is one that is open. All its text comes from inside and is hostile.
type Question struct {
	// ID is not used again in the session.
	ID int `json:"id"`
	Subject
	// Reason is why it is asked: the rule, and what its author said.
	Reason string `json:"reason,omitempty"`
	// Process was the first that wanted it, and PID its number on the host; empty
	// if that could not be found out.
	Process string    `json:"process,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since"`
	// Waiting is how many connections do. With none, an answer is for those to come.
	Waiting int `json:"waiting"`
}

// Wish is what somebody inside wants to do.
type Wish struct {
	Subject
	Reason string
	// Rules are what allows the subject and nothing else.
	Rules []plan.NetRule
	// Client is the end of the connection that is inside.
	Client netip.AddrPort
}

// Peer is the process that answers.
type Peer struct {
	UID int `json:"uid"`
	PID int `json:"pid"`
}

// Outcome is what an Ask has come to.
type Outcome string

const (
	Granted    Outcome = "granted"      // by what Config.Answered carried out
	ForNow     Outcome = "granted-once" // for this one alone
	Declined   Outcome = "declined"     // a person said no, now or before
	Unanswered Outcome = "unanswered"   // nobody said anything in time
	TooMany    Outcome = "limit"        // there are too many questions, or too many wait for this one
	Gone       Outcome = "gone"         // who asked has gone, or the session ends
	Failed     Outcome = "failed"       // could not be recorded
)

// Bounds of a Board, unless its Config has others. They hold for what comes from inside.
const (
	DefaultTime = 2 * time.Minute
	maxOpen     = 64
	maxWaiting  = 256
	maxDeclined = 4096
)

// Config is what a Board works with. Asked and Answered are called one at a time for
// one question, for several questions at once, and may take long.
type Config struct {
	// Time is how long each connection waits, and how long a question is kept after
	// the last of them has gone; 0 is DefaultTime.
	Time time.Duration
	// MaxOpen questions at once, MaxWaiting connections for each; 0 are the defaults.
	MaxOpen, MaxWaiting int
	// Asked records a question that is about to be opened. It may find out who asks
	// (Process, PID) and return that with the question. An error: nobody is asked.
	Asked func(Question, Wish) (Question, error)
	// Answered records an answer and carries it out, before anybody goes on. The note
	// tells the person what came of it. An error: nothing is allowed.
	Answered func(q Question, w Wish, a Answer, by Peer) (note string, err error)
}

// Board is the open questions of one session.
type Board struct {
	cfg Config

	mu       sync.Mutex
	seq      int
	changed  chan struct{} // closed at the next change of the list
	lastID   int
	open     map[Subject]*question
	declined map[Subject]bool
	order    []Subject // of declined, the oldest first
	credit   map[Subject]time.Time
	closed   bool
}

// question is an open one. It stays in Board.open until it has an outcome, or nobody
// has waited for it for a while.
type question struct {
	Question
	wish     Wish          // the first
	shown    bool          // Asked has returned without an error
	done     chan struct{} // closed with outcome
	outcome  Outcome
	settling bool // has an answer, which is being carried out
	idle     *time.Timer
}

// New makes a Board without questions.
func New(cfg Config) *Board {
	if cfg.Time == 0 {
		cfg.Time = DefaultTime
	}
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = maxOpen
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = maxWaiting
	}
	return &Board{cfg: cfg, changed: make(chan struct{}), open: map[Subject]*question{}, declined: map[Subject]bool{}, credit: map[Subject]time.Time{}}
}

// Ask waits for a person's answer, as long as ctx lives and the Board's time lasts.
func (b *Board) Ask(ctx context.Context, w Wish) Outcome {
	q, opened, outcome := b.join(w)
	if q == nil {
		return outcome
	}
	if opened {
		b.ask(q)
	}
	timer := time.NewTimer(b.cfg.Time)
	defer timer.Stop()
	late := Unanswered
	select {
	case <-q.done:
	case <-ctx.Done():
		late = Gone
	case <-timer.C:
	}
	return b.leave(q, late)
}

// join finds the question about the subject, or makes it.
func (b *Board) join(w Wish) (q *question, opened bool, o Outcome) {
	s := w.Subject
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false, Gone
	}
	if b.declined[s] {
		return nil, false, Declined
	}
	if until, ok := b.credit[s]; ok {
		delete(b.credit, s)
		if time.Now().Before(until) {
			return nil, false, ForNow
		}
	}
	if q = b.open[s]; q != nil {
		if q.Waiting >= b.cfg.MaxWaiting {
			return nil, false, TooMany
		}
		q.Waiting++
		if q.idle != nil {
			q.idle.Stop()
			q.idle = nil
		}
		b.change()
		return q, false, ""
	}
	if len(b.open) >= b.cfg.MaxOpen && !b.forgetOne() {
		return nil, false, TooMany
	}
	b.lastID++
	q = &question{Question: Question{ID: b.lastID, Subject: s, Reason: w.Reason, Since: time.Now(), Waiting: 1},
		wish: w, done: make(chan struct{})}
	b.open[s] = q
	return q, true, ""
}

// ask lets the owner of the Board record a new question; then it can be seen.
func (b *Board) ask(q *question) {
	b.mu.Lock()
	shown := q.Question
	b.mu.Unlock()
	told, err := b.cfg.Asked(shown, q.wish)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.settle(q, Failed)
		return
	}
	q.shown, q.Process, q.PID = true, told.Process, told.PID
	b.change()
}

// leave takes one that waited off a question. An answer that has come, or is being
// carried out, counts although the time is over.
func (b *Board) leave(q *question, late Outcome) Outcome {
	b.mu.Lock()
	if late == Unanswered && q.settling {
		b.mu.Unlock()
		<-q.done
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	q.Waiting--
	select {
	case <-q.done:
		return q.outcome
	default:
	}
	b.change()
	if q.Waiting == 0 && !q.settling {
		// Whoever asked may ask again in a moment: clients have times of their own.
		q.idle = time.AfterFunc(b.cfg.Time, func() { b.expire(q) })
	}
	return late
}

// expire forgets a question for which nobody waits any more.
func (b *Board) expire(q *question) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q.Waiting == 0 && !q.settling {
		b.settle(q, Unanswered)
	}
}

// forgetOne makes room: of the questions for which nobody waits, the oldest goes.
func (b *Board) forgetOne() bool {
	var oldest *question
	for _, q := range b.open {
		if q.Waiting == 0 && !q.settling && (oldest == nil || q.ID < oldest.ID) {
			oldest = q
		}
	}
	if oldest != nil {
		b.settle(oldest, Unanswered)
	}
	return oldest != nil
}

// settle ends a question. It does nothing to one that has ended.
func (b *Board) settle(q *question, o Outcome) {
	if b.open[q.Subject] != q {
		return
	}
	delete(b.open, q.Subject)
	if q.idle != nil {
		q.idle.Stop()
	}
	q.outcome = o
	close(q.done)
	b.change()
}

// change wakes those who wait for another list.
func (b *Board) change() {
	b.seq++
	close(b.changed)
	b.changed = make(chan struct{})
}

// ErrNoQuestion: no open question has this number.
var ErrNoQuestion = errors.New("no open question has this number; it may have been answered already, or nobody waits for it any more")

// Answer settles a question. The note says what came of it. When it returns, it holds
// for whoever asks from then on.
func (b *Board) Answer(id int, a Answer, by Peer) (note string, err error) {
	if _, ok := ParseAnswer(string(a)); !ok {
		return "", fmt.Errorf("unknown answer %q", a)
	}
	b.mu.Lock()
	var q *question
	for _, o := range b.open {
		if o.ID == id && o.shown && !o.settling {
			q = o
		}
	}
	if q == nil || b.closed {
		b.mu.Unlock()
		return "", ErrNoQuestion
	}
	q.settling = true
	shown := q.Question
	b.mu.Unlock()

	note, err = b.cfg.Answered(shown, q.wish, a, by)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return "", ErrNoQuestion
	}
	switch {
	case err != nil:
		b.settle(q, Failed)
		return "", err
	case a == No:
		b.decline(q.Subject)
		b.settle(q, Declined)
	case a == Once:
		if q.Waiting == 0 {
			b.credit[q.Subject] = time.Now().Add(b.cfg.Time)
		}
		b.settle(q, ForNow)
	default:
		b.settle(q, Granted)
	}
	return note, nil
}

// decline remembers a no.
func (b *Board) decline(s Subject) {
	if len(b.order) >= maxDeclined {
		delete(b.declined, b.order[0])
		b.order = b.order[1:]
	}
	b.declined[s] = true
	b.order = append(b.order, s)
}

// List returns the open questions, the oldest first, and a number that is another one
// after each change of the list.
func (b *Board) List() ([]Question, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list(), b.seq
}

func (b *Board) list() []Question {
	out := []Question{}
	for _, q := range b.open {
		if q.shown && !q.settling {
			out = append(out, q.Question)
		}
	}
	slices.SortFunc(out, func(x, y Question) int { return x.ID - y.ID })
	return out
}

// Wait is List as soon as the number is not seq any more, or, with a seq below 0, as
// soon as there is a question; or when ctx is done or the Board is closed.
func (b *Board) Wait(ctx context.Context, seq int) ([]Question, int) {
	for {
		b.mu.Lock()
		list, now, changed, closed := b.list(), b.seq, b.changed, b.closed
		b.mu.Unlock()
		if closed || seq >= 0 && now != seq || seq < 0 && len(list) > 0 {
			return list, now
		}
		select {
		case <-ctx.Done():
			return list, now
		case <-changed:
		}
	}
}

// Close ends every question without an answer. Nothing is asked from then on.
func (b *Board) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	for _, q := range b.open {
		b.settle(q, Gone)
	}
	b.change()
}
