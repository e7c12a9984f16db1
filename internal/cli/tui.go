package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// What we say: answers go to standard output, everything else to standard
// error after "cofferdam: ". A refusal has three parts: what, by which rule and
// where that stands, what to do. No text from elsewhere is printed raw.

// message is a failure in words.
type message struct {
	Code  int      `json:"code"`
	Name  string   `json:"name"`
	Text  string   `json:"text"`
	Rule  string   `json:"rule,omitempty"`
	Hints []string `json:"hints,omitempty"`
	// The facts behind it, for programs.
	Problems []policy.Problem `json:"problems,omitempty"`
	Gaps     []plan.Gap       `json:"gaps,omitempty"`
	Limit    *plan.Limit      `json:"limit,omitempty"`

	// more are further lines, each with its rule and hints.
	more []message
}

func (m *message) hint(s string) {
	if s != "" {
		m.Hints = append(m.Hints, s)
	}
}

// maxLines is how many problems a person is shown at once; JSON has all.
const maxLines = 10

// describe turns an error into words.
func describe(err error) message {
	code := exitOf(err)
	m := message{Code: code, Name: exitName(code), Text: err.Error()}
	var (
		usage     *flow.UsageError
		name      *session.NameError
		pol       *flow.PolicyError
		refused   *flow.RefusedError
		limit     *flow.LimitError
		setup     *boundary.SetupError
		exec      *boundary.ExecError
		state     *session.Error
		missing   *session.NotFoundError
		ambiguous *session.AmbiguousError
	)
	if !errors.As(err, &pol) && (is[policy.Problems](err) || is[policy.Problem](err) || is[*compile.Error](err)) {
		err = &flow.PolicyError{Err: err}
	}
	switch {
	case code == exitInternal:
		m.Text = "internal error: " + m.Text
		m.hint("this should not happen; please report it with the command line and what `cofferdam version` prints")
	case errors.As(err, &usage):
		m.hint(usage.Hint)
	case errors.As(err, &name):
		m.hint("write another --name")
	case errors.As(err, &limit):
		m.Limit = &limit.Limit
		if limit.Limit.Name == "time" {
			m.hint("--timeout sets another limit for one run")
		} else {
			m.hint("`cofferdam policy show` tells where the limit is set")
		}
	case errors.As(err, &exec):
		m.Text = "can't execute " + report.Quote(exec.Program) + " inside: " + exec.Errno.Error()
		if exec.Errno == syscall.ENOENT {
			m.hint("can the inside see it? cofferdam policy explain read " + report.Shell(exec.Program))
		} else {
			m.hint("is it an executable file for this machine, and may the inside read it?")
		}
	case errors.As(err, &refused):
		m.Gaps = refused.Gaps
		for _, g := range refused.Gaps {
			one := message{Text: join(": ", "missing "+g.Missing, g.Because)}
			one.hint(g.Remedy)
			m.more = append(m.more, one)
		}
		if n := len(m.more); n > 0 { // after the remedies
			m.more[n-1].hint("`cofferdam doctor` shows what this machine can do")
		}
	case errors.As(err, &setup):
		m.hint(setup.Remedy)
		m.hint("`cofferdam doctor` shows what this machine can do")
	case errors.Is(err, boundary.ErrNotHere):
		m.hint("this version needs Linux")
	case errors.As(err, &pol):
		m.Problems = pol.Problems()
		for i, p := range m.Problems {
			one := message{Text: problemText(p)}
			one.hint(p.Hint)
			switch {
			case i == 0:
				m.Text, m.Hints = one.Text, one.Hints
			case i == maxLines:
				m.more = append(m.more, message{Text: fmt.Sprintf("and %d more", len(m.Problems)-i)})
			case i < maxLines:
				m.more = append(m.more, one)
			}
		}
	case errors.As(err, &state):
		m.hint(state.Hint)
	case errors.As(err, &missing):
		for _, i := range missing.Live {
			m.hint("running: " + sessionLine(i))
		}
		if len(missing.Live) == 0 {
			m.hint("`cofferdam ps --all` lists what there is")
		}
	case errors.As(err, &ambiguous):
		for _, i := range ambiguous.Matches {
			m.hint("one is " + sessionLine(i))
		}
	case errors.Is(err, context.Canceled):
		m.Text = "interrupted"
	case errors.Is(err, syscall.ENOSPC):
		m.hint("the disk is full")
	}
	if n := len(m.Hints); n > maxLines {
		m.Hints = append(m.Hints[:maxLines:maxLines], fmt.Sprintf("and %d more", n-maxLines))
	}
	return m
}

func problemText(p policy.Problem) string {
	place := p.File
	if p.Line > 0 {
		place += fmt.Sprintf(":%d", p.Line)
		if p.Col > 0 {
			place += fmt.Sprintf(":%d", p.Col)
		}
	}
	return join(": ", place, p.Key, p.Text)
}

func sessionLine(i session.Info) string {
	return join(" ", i.ID, i.State.Name, "("+string(i.Status)+")")
}

// place is where a rule stands.
func place(o plan.Origin) string {
	switch {
	case o.File != "" && o.Line > 0:
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.File != "":
		return o.File
	}
	return o.Layer
}

func join(sep string, parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, sep)
}

// write prints a message for a person.
func (m message) write(w io.Writer, s report.Style) {
	var b strings.Builder
	line := func(indent int, text string) { b.WriteString(s.Fold(report.Plain(text), indent) + "\n") }
	for i, x := range append([]message{m}, m.more...) {
		if i == 0 || m.Problems != nil {
			line(2, "cofferdam: "+x.Text)
		} else {
			line(4, "  "+x.Text)
		}
		if x.Rule != "" {
			line(4, "  rule: "+x.Rule)
		}
		for _, h := range x.Hints {
			line(4, "  hint: "+h)
		}
	}
	_, _ = io.WriteString(w, b.String()) // where else could we complain?
}

// writeJSON prints a message as one line for a program.
func (m message) writeJSON(w io.Writer) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct {
		Error message `json:"error"`
	}{m})
}
