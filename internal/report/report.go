package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cofferdam/internal/event"
)

// Handler takes the events of one session in order. It keeps its first error
// and returns it from then on.
type Handler interface {
	Event(event.Event) error
	// End is called once, after the last event.
	End() error
}

// JSON passes events through, byte for byte as they are stored.
type JSON struct {
	W io.Writer
	// Denied: only what was refused, set aside or cut off.
	Denied bool
}

func (j JSON) Event(e event.Event) error {
	if j.Denied && !isRefusal(e.Kind) {
		return nil
	}
	line, err := event.Marshal(e)
	if err == nil {
		_, err = j.W.Write(line)
	}
	return err
}

func (JSON) End() error { return nil }

// Text writes one line per event.
type Text struct {
	W     io.Writer
	Style Style
	// Denied: only what was refused, set aside or cut off.
	Denied bool
}

func (t Text) Event(e event.Event) error {
	if t.Denied && !isRefusal(e.Kind) {
		return nil
	}
	_, err := io.WriteString(t.W, Line(e, t.Style)+"\n")
	return err
}

func (Text) End() error { return nil }

func isRefusal(k event.Kind) bool {
	return k == event.Denied || k == event.SetAside || k == event.LimitHit
}

// Line is an event in words, folded, without the last newline.
func Line(e event.Event, s Style) string {
	const indent = 20
	head := e.Time.UTC().Format("15:04:05") + "  " + fmt.Sprintf("%-9s", Plain(string(e.Kind))) + " "
	body := s.Fold(strings.Repeat(" ", indent)+sentence(e), indent)[indent:]
	return s.paint(dim, head[:10]) + s.paint(kindColour(e), head[10:]) + body
}

func kindColour(e event.Event) colour {
	switch e.Kind {
	case event.Denied:
		return red
	case event.SetAside, event.LimitHit, event.Ask:
		return yellow
	}
	return bold
}

func sentence(e event.Event) string {
	var w []string
	add := func(format string, a ...any) { w = append(w, fmt.Sprintf(format, a...)) }
	switch e.Kind {
	case event.Start:
		add("%s", optional("in ", e.Subject))
	case event.Running:
		add("the command runs")
	case event.Denied:
		if e.Action != "" {
			add("%s", Plain(e.Action))
		}
		if e.Subject != "" {
			add("%s", Quote(e.Subject))
		}
	case event.SetAside:
		add("%s", Quote(e.Subject))
		if e.To != "" {
			add("-> %s", Quote(e.To))
		}
	case event.Ask, event.Answer:
		if e.Action != "" {
			add("%s", Plain(e.Action))
		}
		add("%s", Quote(e.Subject))
	case event.Entered:
		add("%s", optional("command ", e.Subject))
	case event.Exit:
		add("status %d", e.Status)
	case event.End:
		add("nothing is left inside")
	case event.Network:
		// Of a request, what it asks for; of a connection, that it was opened, ended, ...
		if e.Action == "request" {
			method, path, _ := strings.Cut(e.To, " ")
			add("%s %s at", Quote(method), Quote(path))
		} else if e.Action != "" {
			add("%s", Plain(e.Action))
		}
		add("%s", Quote(e.Subject))
	default:
		if e.Subject != "" {
			add("%s", Quote(e.Subject))
		}
	}
	if e.Process != "" || e.PID != 0 {
		add("by %s", who(e))
	}
	if e.Count > 1 {
		add("(%d times)", e.Count)
	}
	if r := rule(e); r != "" {
		add("[%s]", r)
	}
	carried := ""
	if e.BytesOut+e.BytesIn+e.Lasted > 0 {
		carried = fmt.Sprintf("%d bytes out, %d in, %v", e.BytesOut, e.BytesIn, time.Duration(e.Lasted).Round(time.Millisecond))
	}
	if t := join("; ", Plain(e.Reason), Plain(e.Detail), carried); t != "" {
		add("- %s", t)
	}
	return strings.Join(nonEmpty(w), " ")
}

func who(e event.Event) string {
	switch {
	case e.Process == "":
		return fmt.Sprintf("process %d", e.PID)
	case e.PID == 0:
		return Quote(e.Process)
	}
	return fmt.Sprintf("%s (%d)", Quote(e.Process), e.PID)
}

// rule is the deciding rule and where it stands.
func rule(e event.Event) string { return join(", ", Plain(e.Rule), Plain(e.Origin)) }

func optional(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + Quote(s)
}

func join(sep string, parts ...string) string { return strings.Join(nonEmpty(parts), sep) }

func nonEmpty(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
