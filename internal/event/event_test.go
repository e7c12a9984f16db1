package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func tempWriter(t testing.TB) (*Writer, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "events.jsonl")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return NewWriter(f), name
}

func readFile(t testing.TB, name string) ([]byte, []Event, Verdict) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	events, v, err := ReadAll(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return data, events, v
}

// sample is a stream with everything in it, hostile strings included.
func sample(t testing.TB) []byte {
	w, name := tempWriter(t)
	for i, e := range []Event{
		{Kind: Start, Subject: "/home/u/p", Detail: "native"},
		{Kind: Running, PID: 12},
		{Kind: Denied, Subject: "/home/u/.ssh/id_\xff\x00\n\u202e", Action: "open", Access: "read", Process: "x\x1b[2J", Rule: "denyRead ~/.ssh", Origin: "built-in"},
		{Kind: SetAside, Subject: `/p/\xff literal`, To: "/state/x"},
		{Kind: Exit, Status: 3},
		{Kind: End},
	} {
		e.Time = t0.Add(time.Duration(i) * time.Second)
		if _, err := w.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	data, _, _ := readFile(t, name)
	return data
}

func TestWriterAndReaderAgree(t *testing.T) {
	data := sample(t)
	events, v, err := ReadAll(bytes.NewReader(data))
	if err != nil || v.State != Whole || v.Events != 6 || !v.Ended || v.Line != 0 {
		t.Fatalf("verdict %+v, %v", v, err)
	}
	var again []byte
	for i, e := range events {
		if e.Seq != int64(i+1) || e.Version != Version {
			t.Errorf("event %d: %+v", i, e)
		}
		line, err := Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, line...)
	}
	if !bytes.Equal(again, data) {
		t.Error("Marshal of what was read gives other bytes than were read")
	}
	if got, want := Unescape(events[2].Subject), "/home/u/.ssh/id_\xff\x00\n\u202e"; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
	if got, want := Unescape(events[3].Subject), `/p/\xff literal`; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
}

func TestEveryCutIsTornNotBroken(t *testing.T) {
	data := sample(t)
	for i := range data {
		events, v, err := ReadAll(bytes.NewReader(data[:i]))
		if err != nil {
			t.Fatal(err)
		}
		whole := bytes.Count(data[:i], []byte("\n"))
		want := Torn
		if i == 0 || data[i-1] == '\n' {
			want = Whole
		}
		if v.State != want || len(events) != whole || v.Ended {
			t.Fatalf("cut at %d: %d events, %+v; want %s with %d", i, len(events), v, want, whole)
		}
	}
}

func TestEveryChangeIsFound(t *testing.T) {
	data := sample(t)
	_, good, _ := ReadAll(bytes.NewReader(data))
	lines := bytes.SplitAfter(data, []byte("\n"))
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, changed := range map[string][]byte{
		"line removed": join(lines[0], lines[2], lines[3], lines[4], lines[5]),
		"first gone":   join(lines[1:]...),
		"swapped":      join(lines[0], lines[2], lines[1], lines[3]),
		"doubled":      join(lines[0], lines[0], lines[1]),
		"text":         bytes.Replace(data, []byte("native"), []byte("natife"), 1),
		"white space":  bytes.Replace(data, []byte(`"v":1,`), []byte(`"v":1, `), 1),
		"version":      bytes.Replace(data, []byte(`"v":1`), []byte(`"v":2`), 1),
		"extra key":    bytes.Replace(data, []byte(`"v":1,`), []byte(`"v":1,"x":1,`), 1),
		"garbage":      join(lines[0], []byte("\x00\x01\n"), lines[1]),
		"long line":    join(lines[0], bytes.Repeat([]byte("x"), 2*MaxLine)),
	} {
		_, v, err := ReadAll(bytes.NewReader(changed))
		if err != nil || v.State != Broken || v.Line == 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	// The last line has no successor to give it away: the stored head does.
	last := bytes.Replace(data, []byte(`"kind":"end"`), []byte(`"kind":"exit"`), 1)
	if _, v, _ := ReadAll(bytes.NewReader(last)); v.State != Whole || v.Head == good.Head {
		t.Errorf("changed last line: %+v has the head of the good one", v)
	}
}

func TestReaderStopsAtBreak(t *testing.T) {
	data := sample(t)
	r := NewReader(bytes.NewReader(bytes.Replace(data, []byte(`"pid":12`), []byte(`"pid":13`), 1)))
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var broken *ChainError
		if _, err := r.Next(); !errors.As(err, &broken) || broken.Line != 3 {
			t.Fatalf("got %v, want a break at line 3", err)
		}
	}
}

func TestReaderFollows(t *testing.T) {
	data := sample(t)
	var grown bytes.Buffer
	r := NewReader(&grown)
	var got []Event
	for _, b := range data {
		grown.WriteByte(b)
		e, err := r.Next()
		switch {
		case err == nil:
			got = append(got, e)
		case !errors.Is(err, io.EOF):
			t.Fatal(err)
		}
	}
	if v := r.Verdict(); len(got) != 6 || v.State != Whole || !v.Ended {
		t.Errorf("%d events, %+v", len(got), v)
	}
}

// JSON goes to terminals too: nothing in it is obeyed or hidden there, and it means
// what it meant.
func TestMarshalIsVisible(t *testing.T) {
	hostile := "/p/\u009b2J\x7f\u202e\u2066\u200b\u2028\U000e0041\ufeff\x1b"
	line, err := Marshal(Event{Kind: Denied, Subject: hostile})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range strings.TrimSuffix(string(line), "\n") {
		if !strconv.IsPrint(r) {
			t.Errorf("%U in %q", r, line)
		}
	}
	var e Event
	if err := json.Unmarshal(line, &e); err != nil || e.Subject != hostile {
		t.Errorf("%q came back as %q, %v", hostile, e.Subject, err)
	}
}

// An event with the longest strings still fits, whatever is in them.
func TestLongestEventFits(t *testing.T) {
	for _, s := range []string{"\x00", "\u0080", "\x7f", "\u202e", "\U000e0041", "\xff", "\u2028", `\xff`, "é", "a"} {
		long := strings.Repeat(s, 1<<20)
		w, name := tempWriter(t)
		_, err := w.Append(Event{Kind: Kind(long), Subject: long, To: long, Action: long, Access: long,
			Process: long, Rule: long, Origin: long, Reason: long, Detail: long, PID: 1 << 30, Count: 1 << 30})
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		data, _, v := readFile(t, name)
		if v.State != Whole || !utf8.Valid(data) {
			t.Errorf("%q: %+v", s, v)
		}
	}
}

// A full disk must stop the run: the error stays, and nothing is written
// after the hole.
func TestErrorStays(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err) // every Linux has it
	}
	defer f.Close()
	w := NewWriter(f)
	if _, err := w.Append(Event{Kind: Start}); err == nil {
		t.Fatal("no error from a full disk")
	}
	w.f = nil // any further write would fail differently
	c := NewCoalescer(w)
	_, err1 := w.Append(Event{Kind: Running})
	_, stored, err2 := c.Add(Event{Kind: Denied})
	for _, err := range []error{err1, err2, c.Tick(t0), c.Flush(), w.Err()} {
		if err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("error %v, want the first one", err)
		}
	}
	if n, _ := w.Head(); n != 0 || stored {
		t.Errorf("%d events, stored %v", n, stored)
	}
}

func TestConcurrentAppend(t *testing.T) {
	w, name := tempWriter(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := w.Append(Event{Kind: Notice}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, _, v := readFile(t, name); v.State != Whole || v.Events != 400 {
		t.Errorf("%+v", v)
	}
}

func total(events []Event, k Kind) int {
	n := 0
	for _, e := range events {
		if e.Kind == k {
			n += max(1, e.Count)
		}
	}
	return n
}

func TestCoalescerCountsLikeEvents(t *testing.T) {
	w, name := tempWriter(t)
	c := NewCoalescer(w)
	now := t0
	add := func(n int, subject string) {
		for range n {
			if _, _, err := c.Add(Event{Kind: Denied, Subject: subject, Time: now}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(10, "/a")
	add(1, "/b\xff")
	c.Tick(now.Add(time.Second)) // 7 more of /a
	add(5, "/a")
	if _, stored, err := c.Add(Event{Kind: Exit, Time: now}); err != nil || !stored {
		t.Fatal(stored, err)
	}
	c.Tick(now.Add(2 * time.Second))
	c.Tick(now.Add(3 * time.Second)) // quiet: forgotten
	add(1, "/a")

	_, events, v := readFile(t, name)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %s %d", e.Kind, Unescape(e.Subject), e.Count))
	}
	want := []string{
		"denied /a 0", "denied /a 0", "denied /a 0", "denied /b\xff 0", "denied /a 7",
		"denied /a 5", "exit  0", "denied /a 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || v.State != Whole {
		t.Errorf("got %q\nwant %q\n%+v", got, want, v)
	}
}

// What many connections have carried adds up to the same, folded or not.
func TestAmountsAddUp(t *testing.T) {
	w, name := tempWriter(t)
	c := NewCoalescer(w)
	sent := int64(0)
	add := func(n, subject int) {
		for i := range int64(n) {
			sent += i
			if _, _, err := c.Add(Event{Kind: Network, Action: "close", Subject: fmt.Sprint(subject, strings.Repeat("x", 1000)), Time: t0, BytesOut: i, BytesIn: 2 * i, Lasted: 3 * i}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(100, 0)
	c.Tick(t0.Add(time.Second))
	add(10, 0)
	for subject := range 3000 { // more than are remembered, and than may be written
		add(2, subject)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	_, events, _ := readFile(t, name)
	var sum Event
	for _, e := range events {
		sum.sum(e)
	}
	if sum.BytesOut != sent || sum.BytesIn != 2*sent || sum.Lasted != 3*sent {
		t.Errorf("%d out, %d in, %d ns; sent %d", sum.BytesOut, sum.BytesIn, sum.Lasted, sent)
	}
}

// A flood of different, long subjects must neither fill disk or memory nor
// lose a count.
// Where something was carried to stays to be read, however much was refused before.
func TestRefusalsHideNoTraffic(t *testing.T) {
	w, name := tempWriter(t)
	c := NewCoalescer(w)
	for i := range 20000 {
		if _, _, err := c.Add(Event{Kind: Denied, Subject: fmt.Sprintf("%d.%s", i, strings.Repeat("x", 100)), Time: t0}); err != nil {
			t.Fatal(err)
		}
	}
	if _, stored, err := c.Add(Event{Kind: Network, Action: "open", Subject: "api.example:443", Time: t0}); err != nil || !stored {
		t.Error(stored, err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	data, _, _ := readFile(t, name)
	if !strings.Contains(string(data), "api.example:443") {
		t.Error("not in the file")
	}
}

func TestFloodIsBounded(t *testing.T) {
	w, name := tempWriter(t)
	c := NewCoalescer(w)
	const n, seconds = 60_000, 30
	now := t0
	filler := strings.Repeat("\x01", 2000)
	for i := range n {
		if _, _, err := c.Add(Event{Kind: Denied, Subject: fmt.Sprint("/", i, filler), Time: now}); err != nil {
			t.Fatal(err)
		}
		if i%(n/seconds) == 0 {
			now = now.Add(time.Second)
			if err := c.Tick(now); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.seen) > maxLike {
			t.Fatal("remembers too much")
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	data, events, v := readFile(t, name)
	if limit := burstBytes + seconds*bytesPerSec + 2*MaxLine; len(data) > limit {
		t.Errorf("%d bytes written, limit %d", len(data), limit)
	}
	if got := total(events, Denied); got != n || v.State != Whole {
		t.Errorf("counts add up to %d of %d; %+v", got, n, v)
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "a", "\xff", `\xff`, `\x5cxff`, "\\\xff", `\x5` + "\xff", "\u202e", `\xFF`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		if !utf8.ValidString(e) {
			t.Errorf("Escape(%q) = %q is not UTF-8", s, e)
		}
		if got := Unescape(e); got != s {
			t.Errorf("Unescape(Escape(%q)) = %q", s, got)
		}
		j, err := json.Marshal(e)
		var back string
		if err != nil || json.Unmarshal(j, &back) != nil || back != e {
			t.Errorf("JSON changes %q", e)
		}
	})
}

// Replay of anything, cut anywhere, never panics, and reading in small pieces
// finds what reading at once finds.
func FuzzReader(f *testing.F) {
	data := sample(f)
	f.Add(data, 10)
	f.Add(data[:100], 1)
	f.Add([]byte("{}\n\n{\"v\":1}\nnull\n[1]\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		events, v, err := ReadAll(bytes.NewReader(data))
		if err != nil || int64(len(events)) != v.Events {
			t.Fatal(err, v)
		}
		events2, v2, err := ReadAll(&slowReader{data: data, step: step})
		if err != nil || len(events2) != len(events) || v2 != v {
			t.Fatalf("in pieces: %+v, at once: %+v, %v", v2, v, err)
		}
		for _, e := range events {
			if _, err := Marshal(e); err != nil {
				t.Fatal(err)
			}
		}
	})
}

type slowReader struct {
	data []byte
	step int
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[:min(len(r.data), 1+(r.step&63))])
	r.data = r.data[n:]
	return n, nil
}

func BenchmarkAppend(b *testing.B) {
	w, _ := tempWriter(b)
	e := Event{Kind: Denied, Subject: "/home/user/.ssh/id_ed25519", Action: "open", Process: "cat", Rule: "denyRead ~/.ssh", Origin: "built-in", Time: t0}
	for b.Loop() {
		if _, err := w.Append(e); err != nil {
			b.Fatal(err)
		}
	}
}
