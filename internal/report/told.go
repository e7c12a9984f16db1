package report

import (
	"io"
	"strings"
)

// Told is something that a person is told outside of a run's events: what, the
// rule and where it stands, what to do.
type Told struct {
	Text, Rule string
	Hints      []string
}

// Write writes it with the prefix that is ours alone; text from elsewhere is made
// harmless here.
func (t Told) Write(w io.Writer, s Style) {
	var b strings.Builder
	b.WriteString(s.Fold("cofferdam: "+Plain(t.Text), 2) + "\n")
	if t.Rule != "" {
		b.WriteString(s.Fold("  rule: "+Plain(t.Rule), 4) + "\n")
	}
	for _, h := range t.Hints {
		if h != "" {
			b.WriteString(s.Fold("  hint: "+Plain(h), 4) + "\n")
		}
	}
	_, _ = io.WriteString(w, b.String()) // there is no place left to complain
}
