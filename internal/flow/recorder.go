package flow

import (
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
	ticking bool
	stop    chan struct{}
	onError func()
}

func newRecorder() *recorder { return &recorder{stop: make(chan struct{})} }

// open gives the recorder its file. Before, nothing runs that there could be
// events of.
func (r *recorder) open(f *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writer = event.NewWriter(f)
	r.folded = event.NewCoalescer(r.writer)
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
			return err
		}
	}
	_, err := r.writer.Append(e)
	return err
}

// add stores an event that comes from inside.
func (r *recorder) add(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return
	}
	out, _, err := r.folded.Add(e)
	if err != nil && r.onError != nil {
		r.onError()
	}
	out.Detail = e.Detail // whole: of a name that was set aside it is the line to copy
	_ = r.sum.Event(out)
	if !r.ticking {
		r.ticking = true
		go r.tick()
	}
}

// tick asks the coalescer once a second for what it holds back, from the first
// event that came from inside on.
func (r *recorder) tick() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-r.stop:
			return
		case now := <-t.C:
			r.mu.Lock()
			err := r.folded.Tick(now)
			onError := r.onError
			r.mu.Unlock()
			if err != nil && onError != nil {
				onError()
			}
		}
	}
}

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer == nil {
		return nil
	}
	if r.ticking {
		close(r.stop)
		r.ticking = false
		r.stop = make(chan struct{})
	}
	return r.folded.Flush()
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
