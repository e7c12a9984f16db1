package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/event"
	"cofferdam/internal/report"
)

func record(t *testing.T, flags int) (*recorder, string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "events"), flags|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	r.open(f)
	t.Cleanup(func() { _ = r.flush(); f.Close() })
	return r, f.Name()
}

// Whoever makes noise first does not hide what was set aside, neither from the
// summary nor from the record, which has the line that brings it back.
func TestNoiseHidesNothingSetAside(t *testing.T) {
	r, file := record(t, os.O_WRONLY|os.O_APPEND)
	for n := range 2000 {
		r.add(event.Event{Kind: event.Denied, Access: "read", Subject: fmt.Sprintf("/%d/%s", n, strings.Repeat("x", 1000))})
	}
	for n := range 20 {
		r.add(event.Event{Kind: event.SetAside, Subject: fmt.Sprintf("%d/.envrc", n), To: "/s", Detail: fmt.Sprintf("mv %d back", n)})
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := &r.sum
	if n := len(sum.SetAway) + sum.More[event.SetAside]; n != 20 {
		t.Errorf("the summary speaks of %d", n)
	}
	if n := len(sum.Refused) + sum.More[event.Denied]; n != 2000 {
		t.Errorf("the summary speaks of %d denials", n)
	}
	for n := range 20 {
		if !strings.Contains(string(text), fmt.Sprintf("mv %d back", n)) {
			t.Errorf("the record does not bring %d back", n)
		}
	}
}

// A record that can't be written ends the run, also if the first event that could
// not be stored came before anybody could end it.
func TestRecordThatCannotBeWritten(t *testing.T) {
	r, _ := record(t, os.O_RDONLY)
	r.add(event.Event{Kind: event.Denied, Subject: "x"})
	ended := 0
	r.fatal(func() { ended++ })
	if ended != 1 {
		t.Errorf("ended %d times", ended)
	}
	r.add(event.Event{Kind: event.Notice, Detail: "x"})
	if ended != 2 {
		t.Error("the run goes on")
	}
	var log *LogError
	for name, err := range map[string]error{"event": r.write(event.Event{Kind: event.Running}), "end": r.write(event.Event{Kind: event.End}), "flush": r.flush()} {
		if !errors.As(err, &log) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The inside decides how much is refused. It can't push what has to be looked at out
// of the summary with that, and the counts stay true.
func TestFloodHidesNothing(t *testing.T) {
	r, _ := record(t, os.O_APPEND|os.O_WRONLY)
	const flood = 5000
	for i := range flood {
		r.add(event.Event{Kind: event.Denied, Access: "read", Action: "open", Subject: fmt.Sprint("/home/k", i)})
	}
	undo := "mv -n -- /state/" + strings.Repeat("x", 3000) + " /p/.vscode"
	r.add(event.Event{Kind: event.SetAside, Subject: ".vscode\xff", To: "/state/.vscode", Detail: undo})
	r.add(event.Event{Kind: event.LimitHit, Subject: "memory", Detail: "2 of 1"})
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	r.tell(&b, report.Style{}, "id")
	for _, want := range []string{
		"set aside (", `  .vscode\xff`, "to restore it: " + undo + "\n", "limits reached:", "  memory - 2 of 1",
		fmt.Sprintf("and %d more\n", flood-10),
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the summary does not say %q:\n%s", want, b.String())
		}
	}
}
