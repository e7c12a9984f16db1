package report

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/event"
)

// Bounds of a Summary: what is beyond is counted.
const maxEntries = 10

// Refusal is one thing that was refused, however often.
type Refusal struct {
	Access  string `json:"access,omitempty"`
	Action  string `json:"action,omitempty"`
	Subject string `json:"subject,omitempty"`
	Process string `json:"process,omitempty"` // who tried it first
	Rule    string `json:"rule,omitempty"`
	Origin  string `json:"origin,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Count   int    `json:"count"`
	// Allow is the argument of run that would allow it; empty if none would.
	Allow string `json:"allow,omitempty"`
}

// Moved is a name that was set aside; Restore the command that brings it back.
type Moved struct {
	Subject string `json:"subject"`
	To      string `json:"to"`
	Reason  string `json:"reason,omitempty"`
	Restore string `json:"restore"`
}

// Limit is a ceiling that was reached.
type Limit struct {
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty"`
	Count  int    `json:"count"`
}

// Summary is a session as a value. It is a Handler, and prints itself with
// WriteText or as JSON.
type Summary struct {
	Refused []Refusal `json:"refused"`
	SetAway []Moved   `json:"setAside"`
	Limits  []Limit   `json:"limits"`
	Notices []string  `json:"notices"`
	// More counts events that are not in the lists, by kind.
	More map[event.Kind]int `json:"more,omitempty"`
	// Exited says whether the command came to an end, Status how.
	Exited   bool          `json:"exited"`
	Status   int           `json:"status"`
	Ended    bool          `json:"ended"`
	Duration time.Duration `json:"durationNanoseconds"`

	start time.Time
}

// Event adds one event.
func (s *Summary) Event(e event.Event) error {
	if s.start.IsZero() {
		s.start = e.Time
	}
	s.Duration = e.Time.Sub(s.start)
	n := max(1, e.Count)
	switch e.Kind {
	case event.Denied:
		s.refused(e, n)
	case event.SetAside:
		if len(s.SetAway) >= maxEntries || e.To == "" {
			s.more(e.Kind, n)
			return nil
		}
		undo := e.Detail // the line of who moved it, who knows what is there now
		if undo == "" {
			undo = "mv -n -- " + Shell(e.To) + " " + Shell(e.Subject)
		}
		s.SetAway = append(s.SetAway, Moved{e.Subject, e.To, e.Reason, undo})
	case event.LimitHit:
		for i := range s.Limits {
			if s.Limits[i].Name == e.Subject {
				s.Limits[i].Count += n
				return nil
			}
		}
		if len(s.Limits) >= maxEntries {
			s.more(e.Kind, n)
			return nil
		}
		s.Limits = append(s.Limits, Limit{e.Subject, e.Detail, n})
	case event.Notice:
		if len(s.Notices) >= maxEntries {
			s.more(e.Kind, n)
			return nil
		}
		s.Notices = append(s.Notices, join(": ", Plain(e.Subject), join("; ", Plain(e.Reason), Plain(e.Detail))))
	case event.Exit:
		s.Exited, s.Status = true, e.Status
	case event.End:
		s.Ended = true
	}
	return nil
}

// End does nothing: a Summary is printed when its owner likes.
func (s *Summary) End() error { return nil }

func (s *Summary) refused(e event.Event, n int) {
	for i := range s.Refused {
		r := &s.Refused[i]
		if r.Subject == e.Subject && r.Access == e.Access && r.Rule == e.Rule && (e.Access != "" || r.Action == e.Action) {
			r.Count += n
			return
		}
	}
	if len(s.Refused) >= maxEntries || e.Subject == "" {
		s.more(e.Kind, n)
		return
	}
	reason, flag := advice(e.Reason)
	s.Refused = append(s.Refused, Refusal{
		Access: e.Access, Action: e.Action, Subject: e.Subject, Process: e.Process,
		Rule: e.Rule, Origin: e.Origin, Reason: reason, Count: n, Allow: or(allow(e), flag),
	})
}

// advice takes a reason of the gateway's apart, which names the flag itself, for those
// who read it inside. Nothing but a host or a range is taken for one: a reason can also
// be somebody's words in a policy. One that names a rule to write stays whole.
func advice(reason string) (why, flag string) {
	why, said, ok := strings.Cut(reason, "; to allow it: ")
	name, value, _ := strings.Cut(said, " ")
	if !ok || name != "--allow-cidr" && name != "--allow-domain" || value == "" || strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789.:/[]_-") != "" {
		return reason, ""
	}
	return why, said
}

func (s *Summary) more(k event.Kind, n int) {
	if s.More == nil {
		s.More = map[event.Kind]int{}
	}
	s.More[k] += n
}

// allow is the flag that opens what was refused.
func allow(e event.Event) string {
	if e.Origin == "cofferdam" {
		return "" // its own records: nothing would
	}
	switch e.Access {
	case "read":
		return "--allow-read " + pattern(e.Subject)
	case "write":
		return "--allow-write " + pattern(e.Subject)
	case "env":
		return "--env " + Shell(e.Subject)
	case "connect":
		if a, err := netip.ParseAddrPort(e.Subject); err == nil {
			bits := strconv.Itoa(a.Addr().BitLen())
			if a.Addr().Is6() {
				return "--allow-cidr [" + a.Addr().String() + "/" + bits + "]:" + strconv.Itoa(int(a.Port()))
			}
			return "--allow-cidr " + a.Addr().String() + "/" + bits + ":" + strconv.Itoa(int(a.Port()))
		}
		return "--allow-domain " + Shell(e.Subject)
	}
	return ""
}

// pattern is a path as a word of a command line that takes patterns: the inside
// chose the name, and one with a star in it must not open its neighbours.
func pattern(stored string) string {
	return word(strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(event.Unescape(stored)))
}

// WriteText writes the summary for a person, or nothing if the run was
// uneventful. id is what `logs` takes.
func (s *Summary) WriteText(w io.Writer, style Style, id string) error {
	var b strings.Builder
	line := func(indent int, text string) {
		b.WriteString(style.Fold(strings.Repeat(" ", indent)+text, indent+2) + "\n")
	}
	head := func(c colour, text string) { b.WriteString(style.paint(c, text) + "\n") }

	if n := len(s.Refused) + s.More[event.Denied]; n > 0 {
		head(red, "blocked:")
		for _, r := range s.Refused {
			text := join(" ", Plain(or(r.Action, r.Access)), Quote(r.Subject))
			if r.Count > 1 {
				text += fmt.Sprintf(" (%d times)", r.Count)
			}
			if r.Process != "" {
				text += " by " + Quote(r.Process)
			}
			line(2, text)
			if t := join(", ", Plain(r.Rule), Plain(r.Origin)); t != "" {
				line(4, "rule: "+t)
			}
			if r.Reason != "" {
				line(4, "why: "+Plain(r.Reason))
			}
			if r.Allow != "" {
				// Not folded: it is copied.
				b.WriteString("    to allow it: cofferdam run " + r.Allow + "\n")
			} else if r.Access == "budget" {
				line(4, "a larger budget allows it")
			} else if !strings.Contains(r.Reason, "to allow it") {
				line(4, "no flag of run opens it")
			}
		}
		if n := s.More[event.Denied]; n > 0 {
			line(2, fmt.Sprintf("and %d more", n))
		}
	}
	if len(s.SetAway)+s.More[event.SetAside] > 0 {
		head(yellow, "set aside (programs on the host would have obeyed it):")
		for _, m := range s.SetAway {
			line(2, join(" - ", Quote(m.Subject), Plain(m.Reason)))
			// Not folded: it is copied.
			b.WriteString("    to restore it: " + m.Restore + "\n")
		}
		if n := s.More[event.SetAside]; n > 0 {
			line(2, fmt.Sprintf("and %d more", n))
		}
	}
	if len(s.Limits) > 0 {
		head(yellow, "limits reached:")
		for _, l := range s.Limits {
			text := join(" - ", Plain(l.Name), Plain(l.Detail))
			if l.Count > 1 {
				text += fmt.Sprintf(" (%d times)", l.Count)
			}
			line(2, text)
		}
	}
	for _, n := range s.Notices {
		line(0, "note: "+n)
	}
	if b.Len() == 0 {
		return nil
	}
	if s.Exited {
		line(0, fmt.Sprintf("exit status %d after %s", s.Status, s.Duration.Round(10*time.Millisecond)))
	}
	if id != "" {
		line(0, "everything: cofferdam logs "+id)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
