package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// State is what reading a stream found.
type State string

const (
	// Whole: every line is there and the chain holds.
	Whole State = "ok"
	// Torn: the last line has no end, as after a crash or a full disk.
	// Everything before it holds.
	Torn State = "torn"
	// Broken: a line is not what the line after it, or the format, says.
	Broken State = "broken"
)

// Verdict is the state of what was read so far.
type Verdict struct {
	State State `json:"state"`
	// Line is where it is torn or broken, from 1; 0 if Whole.
	Line int `json:"line,omitempty"`
	// Events is the number of good events, Head the hash of the last one.
	Events int64  `json:"events"`
	Head   string `json:"head,omitempty"`
	// Ended says whether the last event is End: without it the session still
	// runs, or its supervisor was killed.
	Ended bool `json:"ended"`
}

// ChainError is the place where a stream is broken.
type ChainError struct {
	Line int
	Why  string
}

func (e *ChainError) Error() string { return fmt.Sprintf("event log: line %d: %s", e.Line, e.Why) }

// Reader reads a stream and checks it. It can follow a file that grows: after
// io.EOF, Next may be called again.
type Reader struct {
	r      io.Reader
	buf    []byte // read and not used yet; buf[:scan] holds no newline
	scan   int
	events int64
	head   string
	ended  bool
	broken *ChainError
}

// NewReader returns a Reader at the start of a stream.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next event; io.EOF at the end (or at a torn last line, see
// Verdict); *ChainError, from then on always, where the stream is broken: what
// follows proves nothing.
func (r *Reader) Next() (Event, error) {
	if r.broken != nil {
		return Event{}, r.broken
	}
	line, err := r.line()
	if err != nil {
		return Event{}, err
	}
	e, why := r.check(line)
	if why != "" {
		return Event{}, r.fail(why)
	}
	r.events, r.head, r.ended = e.Seq, chain(line), e.Kind == End
	return e, nil
}

// Verdict says what was found up to now. A torn line is reported only once
// Next has returned io.EOF.
func (r *Reader) Verdict() Verdict {
	v := Verdict{State: Whole, Events: r.events, Head: r.head, Ended: r.ended}
	switch {
	case r.broken != nil:
		v.State, v.Line = Broken, r.broken.Line
	case len(r.buf) > 0:
		v.State, v.Line = Torn, int(r.events)+1
	}
	return v
}

func (r *Reader) fail(why string) error {
	r.broken = &ChainError{Line: int(r.events) + 1, Why: why}
	return r.broken
}

// line returns the next line with its newline. The bytes are valid until the
// next call.
func (r *Reader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.scan:], '\n'); i >= 0 {
			line := r.buf[:r.scan+i+1]
			r.buf, r.scan = r.buf[r.scan+i+1:], 0
			if len(line) > MaxLine {
				return nil, r.fail("longer than any event")
			}
			return line, nil
		}
		r.scan = len(r.buf)
		if len(r.buf) > MaxLine {
			return nil, r.fail("longer than any event")
		}
		chunk := make([]byte, 16<<10)
		n, err := r.r.Read(chunk)
		r.buf = append(r.buf[:len(r.buf):len(r.buf)], chunk[:n]...)
		if n > 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
	}
}

// check decodes a line and says why it is not the next event.
func (r *Reader) check(line []byte) (Event, string) {
	var e Event
	var v struct {
		Version int `json:"v"`
	}
	// The version first: a later one may have fields that we don't know.
	if err := json.Unmarshal(line, &v); err != nil {
		return e, "not JSON: " + err.Error()
	}
	if v.Version != Version {
		return e, fmt.Sprintf("written in version %d of the format, this program knows %d", v.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, err.Error()
	}
	if e.Seq != r.events+1 {
		return e, fmt.Sprintf("event %d where %d should be", e.Seq, r.events+1)
	}
	if e.Prev != r.head {
		return e, "does not follow from the line before: one of the two was changed"
	}
	return e, ""
}

// ReadAll reads a stream to its end. A broken stream is no error here: the
// events before the break are returned, and the Verdict tells.
func ReadAll(r io.Reader) ([]Event, Verdict, error) {
	rd := NewReader(r)
	var out []Event
	for {
		e, err := rd.Next()
		var broken *ChainError
		switch {
		case err == nil:
			out = append(out, e)
		case errors.Is(err, io.EOF), errors.As(err, &broken):
			return out, rd.Verdict(), nil
		default:
			return out, rd.Verdict(), err
		}
	}
}
