package flow

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/report"
)

// recorder is the one writer of a session's events. Denials come in floods; the
// coalescer bounds them, so a clock has to ask it for what it holds back. A stream
// that can't be written ends the run: nothing happens unrecorded.
type recorder struct {
	mu      sync.Mutex
	writer  *event.Writer
	folded  *event.Coalescer
	sum     report.Summary // bounds itself, each kind on its own
	asides  int
	stop    chan struct{} // ends the clock; nil while there is none
	onError func()
}

// asidesInFull is how many names that were set aside have a line of their own,
// however much else there is: the line is what brings them back.
const asidesInFull = 1000

// open gives the recorder its file. Before, nothing runs that there could be
// events of.
func (r *recorder) open(f *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writer = event.NewWriter(f)
	r.folded = event.NewCoalescer(r.writer)
}

// fatal says what to do, from now on, when an event of the inside can't be stored.
// It is done at once if that has happened already.
func (r *recorder) fatal(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onError = do
	if r.writer.Err() != nil {
		do()
	}
}

// write stores an event of the run itself.
func (r *recorder) write(e event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return nil // nothing has begun
	}
	if e.Kind == event.Exit || e.Kind == event.End {
		if err := r.folded.Flush(); err != nil {
			return &LogError{err}
		}
	}
	if _, err := r.writer.Append(e); err != nil {
		return &LogError{err}
	}
	return nil
}

// errNoRecord: there is no record yet, or no more.
var errNoRecord = errors.New("there is no record to write to")

// add stores an event that comes from inside. An error has been seen to (fatal).
func (r *recorder) add(e event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return errNoRecord
	}
	var out event.Event
	var err error
	if e.Kind == event.SetAside && r.asides < asidesInFull {
		r.asides++
		out, err = r.writer.Append(e)
	} else {
		out, _, err = r.folded.Add(e)
	}
	out.Detail = e.Detail // whole: of a name that was set aside it is the line to copy
	_ = r.sum.Event(out)
	if err != nil && r.onError != nil {
		r.onError()
	}
	if r.stop == nil {
		r.stop = make(chan struct{})
		go r.tick(r.stop)
	}
	return err
}

// tick asks the coalescer once a second for what it holds back, from the first
// event that came from inside on.
func (r *recorder) tick(stop <-chan struct{}) {
	t := time.NewTicker(event.Interval)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			r.mu.Lock()
			if err := r.folded.Tick(now); err != nil && r.onError != nil {
				r.onError()
			}
			r.mu.Unlock()
		}
	}
}

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return nil
	}
	if r.stop != nil {
		close(r.stop)
		r.stop = nil
	}
	if err := r.folded.Flush(); err != nil {
		return &LogError{err}
	}
	return nil
}

func (r *recorder) head() (int64, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return 0, ""
	}
	return r.writer.Head()
}

// tell writes what a person should hear of at the end.
func (r *recorder) tell(w io.Writer, style report.Style, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.sum.WriteText(w, style, id) // there is no place left to complain
}
