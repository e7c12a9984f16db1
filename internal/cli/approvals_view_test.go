package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/approval"
	"cofferdam/internal/flow"
)

func waiting(ids ...int) []flow.Waiting {
	w := flow.Waiting{Session: "20260301-120000-k3f9", Name: "fix"}
	for _, id := range ids {
		w.Questions = append(w.Questions, flow.Question{ID: id, Subject: approval.Subject{Host: fmt.Sprintf("h%d.test", id), Port: 443}, Reason: "why \x1b[2J", Waiting: 1})
	}
	return []flow.Waiting{w}
}

// A key answers the question that the person has seen, never the one that took its
// place a moment ago.
func TestViewAnswersWhatIsSeen(t *testing.T) {
	now := time.Now()
	v := &view{}
	press := func(key, want, chosen string) {
		t.Helper()
		if got, quit := v.press(key, now); got != want || quit || v.chosen != chosen {
			t.Errorf("%q: %q, %v; chosen %q, want %q", key, got, quit, v.chosen, chosen)
		}
	}
	v.update(nil, now)
	press("o", "", "")
	v.update(waiting(1), now)
	press("o", "", "fix/1") // it has come just now
	now = now.Add(calm)
	press("o", "once", "fix/1")
	press("s", "session", "fix/1")
	press("a", "always", "fix/1")
	press("n", "no", "fix/1")
	press("x", "", "fix/1")
	v.update(waiting(1, 2, 3), now)
	press("a", "always", "fix/1")
	press("\x1b[B", "", "fix/2")
	press("j", "", "fix/3")
	press("j", "", "fix/3")
	press("a", "always", "fix/3") // chosen by hand
	press("\x1b[A", "", "fix/2")
	v.update(waiting(1, 3), now)
	press("o", "", "fix/1") // 2 has gone under the finger
	now = now.Add(calm)
	press("o", "once", "fix/1")
	v.update(waiting(0, 1), now) // another before it
	press("o", "once", "fix/1")
	v.update(nil, now)
	press("o", "", "")
	for _, key := range []string{"q", "\x03", "\x04"} {
		if _, quit := v.press(key, now); !quit {
			t.Errorf("%q does not quit", key)
		}
	}
}

func TestViewDraws(t *testing.T) {
	v := &view{}
	now := time.Now()
	v.update(waiting(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), now)
	for range 10 {
		v.press("j", now)
	}
	screen := v.draw(10, now)
	for _, want := range []string{"10 open.", "> fix/10  connect h10.test:443", `why \x1b[2J`} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q in %q", want, screen)
		}
	}
	if n := strings.Count(screen, "\n"); n >= 10 {
		t.Errorf("%d lines on 10", n)
	}
	// No sequences but ours.
	if rest := strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(screen); strings.Contains(rest, "\x1b") {
		t.Errorf("%q", rest)
	}
	for height := range 12 {
		v.draw(height, now)
	}
}

func TestKeys(t *testing.T) {
	if got := fmt.Sprintf("%q", keys([]byte("a\x1b[B\x1bOAq\x1b"))); got != `["a" "\x1b[B" "\x1bOA" "q" "\x1b"]` {
		t.Error(got)
	}
}
