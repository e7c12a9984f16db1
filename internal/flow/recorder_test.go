package flow

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"cofferdam/internal/event"
	"cofferdam/internal/report"
)

// The inside decides how much is refused. It can't push what has to be looked at out
// of the summary with that, and the counts stay true.
func TestFloodHidesNothing(t *testing.T) {
	f, err := os.OpenFile(t.TempDir()+"/events", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newRecorder()
	r.open(f)
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
