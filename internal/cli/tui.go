package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// Rules of what we say: answers go to standard output, everything else to
// standard error with the prefix "cofferdam: ", in lower case, without a final
// dot. A refusal has three parts: what, by which rule and where it stands, and
// what to do. No text from elsewhere is printed raw.

// message is a failure in words.
type message struct {
	Code  int      `json:"code"`
	Name  string   `json:"name"`
	Text  string   `json:"text"`
	Rule  string   `json:"rule,omitempty"`
	Hints []string `json:"hints,omitempty"`
	// The facts behind it, for programs.
	Problems []flow.Problem `json:"problems,omitempty"`
	Gaps     []plan.Gap     `json:"gaps,omitempty"`
	// more are further lines with the prefix, each with its hint.
	more []message
}

// origin is a rule and where it stands.
func origin(rule string, o plan.Origin) string {
	place := o.Layer
	switch {
	case o.File != "" && o.Line > 0:
		place = fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.File != "":
		place = o.File
	}
	switch {
	case rule == "":
		rule = o.Key
	case place == "":
		return report.Plain(rule)
	}
	if rule == "" {
		return report.Plain(place)
	}
	return report.Plain(rule + " (" + place + ")")
}

// maxProblems is how many mistakes a person is told at once; JSON has all.
const maxProblems = 10

// describe turns an error into words.
func describe(err error) message {
	code := exitOf(err)
	m := message{Code: code, Name: exitNamed(code).name, Text: report.Plain(oneLine(err))}
	hint := func(s string) {
		if s != "" {
			m.Hints = append(m.Hints, report.Plain(s))
		}
	}
	var (
		usage     *flow.UsageError
		pol       *flow.PolicyError
		refused   *flow.RefusedError
		forbidden *flow.ForbiddenError
		timeout   *flow.TimeoutError
		limit     *flow.LimitError
		setup     *boundary.SetupError
		exec      *boundary.ExecError
		state     *session.Error
		missing   *session.NotFoundError
		ambiguous *session.AmbiguousError
		control   *session.ControlError
		name      *session.NameError
		question  *flow.NoQuestionError
		noCopy    *flow.NoCopyError
		unchanged *flow.NoChangesError
	)
	switch {
	case errors.As(err, &usage):
		hint(usage.Hint)
	case errors.As(err, &pol) && len(pol.Problems) > 0:
		m.Problems = pol.Problems
		for i, p := range pol.Problems {
			text := p.Place() + ": "
			if p.Key != "" {
				text += p.Key + ": "
			}
			one := message{Text: report.Plain(text + p.Text)}
			if p.Hint != "" {
				one.Hints = []string{report.Plain(p.Hint)}
			} else if i == 0 && p.Line > 0 {
				one.Hints = []string{"cofferdam policy schema describes every key"}
			} else if i == 0 {
				one.Hints = []string{"name a file that is there and that you may read"}
			}
			if i == 0 {
				m.Text, m.Hints = one.Text, one.Hints
			} else {
				m.more = append(m.more, one)
			}
			if left := len(pol.Problems) - maxProblems; i+1 == maxProblems && left > 0 {
				m.more = append(m.more, message{Text: fmt.Sprintf("and %d more", left)})
				break
			}
		}
	case errors.As(err, &refused):
		m.Gaps = refused.Gaps
		for _, g := range refused.Gaps {
			one := message{Text: report.Plain("missing " + g.Missing + ": " + g.Because)}
			for _, r := range refused.Rules {
				if r.ID == g.Rule && g.Rule != 0 {
					one.Rule = origin(r.Text, r.Origin)
				}
			}
			if g.Remedy != "" {
				one.Hints = []string{report.Plain(g.Remedy)}
			}
			m.more = append(m.more, one)
		}
	case errors.As(err, &forbidden):
		m.Rule = origin(forbidden.Rule, forbidden.Origin)
		hint(forbidden.Hint)
	case errors.As(err, &timeout):
		m.Rule = origin("", timeout.Origin)
		hint("--timeout sets another limit for one run")
	case errors.As(err, &limit):
		m.Rule = origin("", limit.Origin)
		hint("resources." + limit.Limit.Name + " in a policy sets another limit")
	case errors.As(err, &setup):
		m.Text = "the boundary can't be put up: " + m.Text
		hint(setup.Remedy)
		hint("cofferdam doctor shows what this machine can do")
	case errors.As(err, &exec):
		m.Text = "can't execute " + report.Quote(exec.Program) + " inside: " + report.Plain(exec.Errno.Error())
		switch {
		case exec.Errno == syscall.ENOENT && !strings.Contains(exec.Program, "/"):
			m.Text = "command not found: " + report.Quote(exec.Program)
			hint("it is in no directory of PATH: is it installed?")
		case exec.Errno == syscall.ENOENT:
			m.Text = "command not found: " + report.Quote(exec.Program)
			hint("if the file is there, what its #! line or its loader names is not: cofferdam policy explain read FILE")
		case exec.Errno == syscall.ENOEXEC:
			hint("it is no program of this machine; a script needs a #! line")
		case exec.Errno == syscall.EACCES:
			hint("chmod +x makes a file executable; a file system that is mounted noexec, or a rule, can refuse it too")
		}
	case errors.As(err, &state):
		if state.Hint == "" {
			state.Hint = "is there space, and may you write there? XDG_STATE_HOME names another directory"
		}
		hint(state.Hint)
	case errors.As(err, &name):
		hint("choose another --name; cofferdam ps lists what is running")
	case errors.As(err, &control):
		hint("cofferdam ps lists what is running")
	case errors.As(err, &unchanged):
		hint("cofferdam ps --all lists the sessions")
	case errors.As(err, &question):
		hint(question.Hint)
	case errors.As(err, &noCopy):
		hint("cofferdam ps --all lists all sessions; a run with --mode copy has one")
	case errors.As(err, &missing):
		for _, i := range missing.Live {
			hint("running: " + sessionLine(i))
		}
		if len(missing.Live) == 0 {
			hint("cofferdam ps --all lists all sessions")
		}
	case errors.As(err, &ambiguous):
		for n, i := range ambiguous.Matches {
			if n == 5 {
				hint(fmt.Sprintf("and %d more", len(ambiguous.Matches)-n))
				break
			}
			hint(sessionLine(i))
		}
	case code == exitInternal:
		m.Text = "internal error: " + m.Text
		hint("this should not happen; please report it with the command line and `cofferdam version`")
	}
	return m
}

func sessionLine(i session.Info) string {
	line := i.ID
	if i.State.Name != "" {
		line += " " + i.State.Name
	}
	return line + " (" + string(i.Status) + "): " + strings.Join(i.State.Command, " ")
}

func oneLine(err error) string { return strings.TrimRight(err.Error(), "\n") }

// write prints a message for a person.
func (m message) write(w io.Writer, s report.Style) {
	for _, x := range append([]message{m}, m.more...) {
		report.Told{Text: x.Text, Rule: x.Rule, Hints: x.Hints}.Write(w, s)
	}
}

// writeJSON prints a message as one line for a program.
func (m message) writeJSON(w io.Writer) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]message{"error": m})
	_, _ = w.Write(event.VisibleJSON(b.Bytes()))
}

// warn prints what the person should know and what stops nothing.
func warn(w io.Writer, s report.Style, list []policy.Warning) {
	for _, x := range list {
		m := message{Text: "warning: " + report.Plain(x.Text), Rule: origin("", x.Origin)}
		if x.Hint != "" {
			m.Hints = []string{report.Plain(x.Hint)}
		}
		m.write(w, s)
	}
}

// outputError: our own answer could not be written.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write the answer: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }
