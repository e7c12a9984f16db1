package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"cofferdam/internal/event"
	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/workspace/change"
)

const (
	journalFile = "journal"
	slotsDir    = "slots"
)

// record is one line of the journal. One field beside N is set.
//
//	begin op op op go  done done back failed done  carried  end
//	^ synced        ^                ^             ^        ^
type record struct {
	Begin *begin     `json:"begin,omitempty"`
	Op    *opRecord  `json:"op,omitempty"`
	Go    bool       `json:"go,omitempty"` // from here on the project may have changed
	Is    *isRecord  `json:"is,omitempty"` // a deed's end
	Back  []backMark `json:"back,omitempty"`
	// Carried: all deeds have ended, and what was taken out may have been moved.
	Carried bool `json:"carried,omitempty"`
	End     bool `json:"end,omitempty"`
}

type begin struct {
	Version int    `json:"version"` // 1
	Root    string `json:"root"`    // the project's path, escaped
	Dir     id     `json:"dir"`
	// Stage is the private directory in the project, "" if it is dir/slots.
	Stage string `json:"stage,omitempty"`
}

type opRecord struct {
	N      int           `json:"n"`
	Path   string        `json:"path"` // escaped
	Do     deed          `json:"do"`
	From   *change.State `json:"from,omitempty"` // Link escaped
	To     *change.State `json:"to,omitempty"`
	Staged id            `json:"staged"`
}

// isRecord: Verdict is Done, or why it is not.
type isRecord struct {
	N       int     `json:"n"`
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why,omitempty"`
	// Kept: what lies in the slot is nobody's old version, and stays.
	Kept bool `json:"kept,omitempty"`
}

// backMark is written before an exchange is undone: what lies in the slot by then.
// Whoever finds something else there knows that it was done.
type backMark struct {
	N  int `json:"n"`
	Is id  `json:"is"`
}

// journal is a journal that is being written. It is locked.
type journal struct {
	f    *os.File
	size int64 // of what is written
	buf  bytes.Buffer
}

// write adds lines; they are in the file when it returns.
func (j *journal) write(list ...record) error {
	j.buf.Reset()
	enc := json.NewEncoder(&j.buf)
	enc.SetEscapeHTML(false)
	for _, r := range list {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	n, err := j.f.Write(j.buf.Bytes())
	if err != nil {
		// Half a line would spoil the next one.
		return errors.Join(err, j.f.Truncate(j.size))
	}
	j.size += int64(n)
	return nil
}

// sync adds lines; they are on the disk when it returns.
func (j *journal) sync(list ...record) error {
	if err := j.write(list...); err != nil {
		return err
	}
	return j.f.Sync()
}

func createJournal(dir *os.Root) (*journal, error) {
	f, err := dir.OpenFile(journalFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unixsock.TryLock(f, false); err != nil {
		f.Close()
		return nil, err
	}
	return &journal{f: f}, nil
}

// story is what a journal tells.
type story struct {
	begin   begin
	ops     []op
	started bool // "go" is there
	carried bool
	ended   bool
	is      map[int]isRecord
	back    map[int]id
	whole   int64 // where the last whole line ends
}

var errJournal = errors.New("the journal is damaged")

// readStory reads a journal. A last line without an end was being written by
// someone who was killed: it did not happen.
func readStory(r io.Reader) (*story, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxJournal+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxJournal {
		return nil, fmt.Errorf("%w: longer than %d bytes", errJournal, maxJournal)
	}
	s := &story{is: map[int]isRecord{}, back: map[int]id{}}
	for line := 1; ; line++ {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			break
		}
		var rec record
		d := json.NewDecoder(bytes.NewReader(text[:end]))
		d.DisallowUnknownFields()
		if err := d.Decode(&rec); err != nil {
			return nil, fmt.Errorf("%w: line %d: %v", errJournal, line, err)
		}
		if err := s.add(rec, line); err != nil {
			return nil, fmt.Errorf("%w: line %d: %v", errJournal, line, err)
		}
		s.whole += int64(end + 1)
		text = text[end+1:]
	}
	return s, nil
}

// maxJournal bounds what is read back: a million deeds.
const maxJournal = 512 << 20

func (s *story) add(r record, line int) error {
	switch {
	case (line == 1) != (r.Begin != nil):
		return errors.New("it does not begin, or begins twice")
	case r.Begin != nil:
		if r.Begin.Version != 1 {
			return fmt.Errorf("version %d", r.Begin.Version)
		}
		s.begin = *r.Begin
		s.begin.Root = event.Unescape(s.begin.Root)
	case r.Op != nil:
		if r.Op.N != len(s.ops) || s.started {
			return errors.New("a deed out of order")
		}
		s.ops = append(s.ops, r.Op.op())
		return check([]Step{{Path: s.ops[r.Op.N].path}})
	case r.Go:
		s.started = true
	case r.Is != nil:
		if r.Is.N < 0 || r.Is.N >= len(s.ops) || !s.started {
			return errors.New("the end of no deed")
		}
		s.is[r.Is.N] = *r.Is
	case r.Back != nil:
		for _, b := range r.Back {
			s.back[b.N] = b.Is
		}
	case r.Carried:
		s.carried = true
	case r.End:
		s.ended = true
	}
	return nil
}

func recordOf(o op) record {
	return record{Op: &opRecord{N: o.n, Path: event.Escape(o.path), Do: o.do, From: escaped(o.from), To: escaped(o.to), Staged: o.staged}}
}

func (r *opRecord) op() op {
	return op{n: r.N, path: event.Unescape(r.Path), do: r.Do, from: unescaped(r.From), to: unescaped(r.To), staged: r.Staged}
}

func escaped(s *change.State) *change.State   { return relink(s, event.Escape) }
func unescaped(s *change.State) *change.State { return relink(s, event.Unescape) }

func relink(s *change.State, f func(string) string) *change.State {
	if s == nil {
		return nil
	}
	t := *s
	t.Link = f(s.Link)
	return &t
}
