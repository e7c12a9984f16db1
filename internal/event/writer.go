package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"time"
)

// Writer appends events to a file, one write(2) each, so that a line is whole
// in the kernel before the thing it describes is let through: it outlives a
// SIGKILL of the writer (not a power cut; nothing is fsynced).
//
// The first error stays: after it nothing more is written and every Append
// returns it. The caller stops the run then. An event is never dropped to
// carry on.
//
// Each line holds the hash of the line before. The chain shows accidents and
// careless edits; whoever can write the file can also write a new chain. What
// keeps the file honest is that nothing inside the boundary can reach it.
type Writer struct {
	mu   sync.Mutex
	f    *os.File // opened for append, by the caller, who closes it
	seq  int64
	head string
	err  error
}

// NewWriter starts a stream in f, which must be empty.
func NewWriter(f *os.File) *Writer { return &Writer{f: f} }

// Append writes e and returns it as stored: Version, Seq, Prev and, if zero,
// Time are filled in, strings are bounded and escaped. Safe for use from
// several goroutines.
func (w *Writer) Append(e Event) (Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, _, err := w.append(clean(e))
	return e, err
}

// append writes an event that is clean already, with mu held, and returns how
// many bytes it took.
func (w *Writer) append(e Event) (Event, int, error) {
	if w.err != nil {
		return e, 0, w.err
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Version, e.Seq, e.Prev = Version, w.seq+1, w.head
	line, err := Marshal(e)
	if err == nil && len(line) > MaxLine {
		err = fmt.Errorf("a line of %d bytes", len(line))
	}
	if err == nil {
		_, err = w.f.Write(line)
	}
	if err != nil {
		w.err = fmt.Errorf("event log: %w", err)
		return e, 0, w.err
	}
	w.seq, w.head = e.Seq, chain(line)
	return e, len(line), nil
}

// Head returns how many events are written and the hash of the last line:
// stored elsewhere, it shows later that the end of the file was cut off.
func (w *Writer) Head() (int64, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seq, w.head
}

// Err is the error that stopped the Writer, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// chain is the hash of a line, its newline included.
func chain(line []byte) string {
	h := sha256.Sum256(line)
	return hex.EncodeToString(h[:])
}
