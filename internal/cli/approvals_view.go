package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// calm is how long a question has to stand before a key answers it, if the person did
// not choose it: the key may have been meant for the one that was there before.
const calm = 500 * time.Millisecond

// view is the list of questions on a terminal, as a value: what is shown, and what
// keys mean.
type view struct {
	open   []open
	chosen string    // name of one; "" is none
	since  time.Time // when it was chosen by itself; zero: by the person
	note   string    // what came of the last answer
}

// update takes the questions as they are now. What is chosen stays chosen.
func (v *view) update(list []flow.Waiting, now time.Time) {
	v.open = openOf(list)
	if slices.ContainsFunc(v.open, func(o open) bool { return o.name() == v.chosen }) {
		return
	}
	v.chosen, v.since = "", now
	if len(v.open) > 0 {
		v.chosen = v.open[0].name()
	}
}

func (v *view) at() int {
	return slices.IndexFunc(v.open, func(o open) bool { return o.name() == v.chosen })
}

// press is one key: the answer to the chosen question, or the end. Unknown keys do
// nothing.
func (v *view) press(key string, now time.Time) (answer string, quit bool) {
	i := v.at()
	move := func(to int) {
		if to = min(max(to, 0), len(v.open)-1); to >= 0 {
			v.chosen, v.since = v.open[to].name(), time.Time{}
		}
	}
	switch key {
	case "q", "\x03", "\x04":
		return "", true
	case "\x1b[A", "\x1bOA", "k":
		move(i - 1)
	case "\x1b[B", "\x1bOB", "j":
		move(i + 1)
	case "o", "s", "a", "n":
		switch {
		case i < 0:
		case now.Sub(v.since) < calm:
			v.note = "the list has just changed: look again"
		default:
			for _, a := range answers() {
				if a[:1] == key {
					return a, false
				}
			}
		}
	}
	return "", false
}

// draw is the screen: at most height lines, of which the terminal cuts what is too long.
func (v *view) draw(height int, now time.Time) string {
	var b strings.Builder
	b.WriteString("\x1b[H")
	lines := 0
	line := func(s string) {
		if lines++; lines < height {
			b.WriteString(s + "\x1b[K\r\n")
		}
	}
	line(fmt.Sprintf("%d open. o once, s this session, a always, n no; arrows choose, q quits", len(v.open)))
	if v.note != "" {
		line(v.note)
	}
	first := 0
	if room := (height - 3) / 2; room > 0 {
		first = max(0, v.at()-room+1) // the chosen one is on the screen
	}
	for _, o := range v.open[min(first, len(v.open)):] {
		mark := "  "
		if o.name() == v.chosen {
			mark = "> "
		}
		line(mark + o.name() + "  " + o.text(now))
		line("      " + report.Plain(o.Reason))
	}
	b.WriteString("\x1b[J")
	return b.String()
}

// keys takes the bytes that came apart: arrows come as three.
func keys(b []byte) []string {
	var out []string
	for len(b) > 0 {
		n := 1
		if len(b) >= 3 && b[0] == 0x1b && (b[1] == '[' || b[1] == 'O') {
			n = 3
		}
		out = append(out, string(b[:n]))
		b = b[n:]
	}
	return out
}

// watchQuestions shows the view until the person quits. key is as for Questions.
func (c *call) watchQuestions(key string, list []flow.Waiting) (err error) {
	before, err := term.MakeRaw(int(c.in.Fd()))
	if err != nil {
		return &outputError{err}
	}
	// The other screen, no cursor, no wrapping of lines.
	_, _ = c.out.WriteString("\x1b[?1049h\x1b[?25l\x1b[?7l")
	defer func() {
		_, _ = c.out.WriteString("\x1b[?7h\x1b[?25h\x1b[?1049l")
		_ = term.Restore(int(c.in.Fd()), before)
	}()
	typed := make(chan []byte)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with the process, if no key comes
		defer close(typed)
		for {
			b := make([]byte, 64)
			n, err := c.in.Read(b)
			if err != nil {
				return
			}
			select {
			case typed <- b[:n]:
			case <-stop:
				return
			}
		}
	}()
	v := &view{}
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		now := time.Now()
		v.update(list, now)
		height := 24
		if _, h, err := term.GetSize(int(c.out.Fd())); err == nil && h > 0 {
			height = h
		}
		if _, err := c.out.WriteString(v.draw(height, now)); err != nil {
			return &outputError{err}
		}
		select {
		case <-c.ctx.Done():
			return nil
		case b, ok := <-typed:
			if !ok {
				return nil
			}
			for _, k := range keys(b) {
				answer, quit := v.press(k, time.Now())
				if quit {
					return nil
				}
				if answer == "" {
					continue
				}
				o := v.open[v.at()]
				a, err := c.app.Answer(c.ctx, o.session.Session, o.ID, answer, c.caller())
				if err != nil {
					v.note = report.Plain(oneLine(err))
				} else {
					v.note = answeredText(a)
				}
				break // further keys were typed before this was seen
			}
		case <-tick.C:
		}
		if list, err = c.app.Questions(c.ctx, key, c.caller()); err != nil {
			return err
		}
	}
}
