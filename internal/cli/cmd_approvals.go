package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// askInterval is how often sessions are asked for what is new.
const askInterval = 250 * time.Millisecond

func cmdApprovals() *command {
	var follow, asJSON bool
	return &command{
		args: "[SESSION]",
		long: `What waits for a person's answer, in SESSION or in all that run. On a terminal it is a
list that stays up to date: choose with the arrow keys and answer with
  o once      what waits now; if it has given up, the next that comes
  s session   and whatever is the same until the session ends
  a always    and from now on: a rule is added to your own policy file
  n no        not in this session
and q quits. Otherwise it prints a line for each. A denial in a policy beats every
answer. Other programs may ask and answer too: docs/approvals.md.`,
		examples: [][2]string{
			{"cofferdam approvals", "answer what all sessions ask, in a terminal of its own"},
			{"cofferdam approvals --json fix-tests", "what one session asks right now, for a program"},
			{"cofferdam approve fix-tests/3 once", "answer without the list"},
		},
		exits: []int{exitNoInput, exitState},
		max:   1,
		flags: func(f *flags) {
			f.flag(&follow, "follow", 'f', "print new questions until nothing runs any more")
			f.flag(&asJSON, "json", 0, "as JSON, once")
		},
		complete: func(c *call, words []string) []string { return c.sessionNames(words, session.Live) },
		run: func(c *call, words []string) (int, error) {
			if c.app.Questions == nil {
				return 0, notYet("approvals")
			}
			key := ""
			if len(words) > 0 {
				key = words[0]
			}
			list, err := c.app.Questions(c.ctx, key, c.caller())
			switch {
			case err != nil:
				return 0, err
			case asJSON:
				return 0, c.printJSON(list)
			case isTerminal(c.in) && isTerminal(c.out) && !follow:
				return 0, c.watchQuestions(key, list)
			}
			return 0, c.printQuestions(key, list, follow)
		},
	}
}

// printQuestions prints a line for each, and with follow for each new one.
func (c *call) printQuestions(key string, list []flow.Waiting, follow bool) error {
	seen := map[string]bool{}
	for {
		for _, o := range openOf(list) {
			if name := o.name(); !seen[name] {
				seen[name] = true
				if err := c.print(name + "  " + o.text(time.Now()) + "\n"); err != nil {
					return err
				}
			}
		}
		if !follow || len(list) == 0 {
			return nil
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(askInterval):
		}
		next, err := c.app.Questions(c.ctx, key, c.caller())
		if err != nil {
			return nil // it has ended, and was there
		}
		list = next
	}
}

// open is one question with the session that asks it.
type open struct {
	session flow.Waiting
	flow.Question
}

func openOf(list []flow.Waiting) []open {
	var out []open
	for _, w := range list {
		for _, q := range w.Questions {
			out = append(out, open{w, q})
		}
	}
	return out
}

// name is how approve calls it.
func (o open) name() string {
	return or(o.session.Name, o.session.Session) + "/" + strconv.Itoa(o.ID)
}

// text is a question on one line: all of it comes from inside.
func (o open) text(now time.Time) string {
	what := "connect"
	if o.Method != "" {
		what = report.Plain(o.Method)
	}
	if o.Act != "" {
		what = report.Plain(o.Act) + " " + what
	}
	parts := []string{what + " " + report.Quote(o.Address()+o.Path)}
	if o.Refs != "" {
		parts[0] += " (" + report.Plain(o.Refs) + ")"
	}
	if o.Process != "" {
		parts[0] += fmt.Sprintf(" by %s (%d)", report.Quote(o.Process), o.PID)
	}
	if o.Waiting == 0 {
		parts = append(parts, "has given up, and may come again")
	} else if o.Waiting > 1 {
		parts = append(parts, fmt.Sprintf("%d wait", o.Waiting))
	}
	return strings.Join(append(parts, age(now, o.Since)), ", ")
}

func answers() []string { return []string{"once", "session", "always", "no"} }

func cmdApprove() *command {
	var asJSON bool
	return &command{
		args: "[SESSION/]ID|SESSION once|session|always|no",
		long: `Answers one question that cofferdam approvals lists. ID alone is enough if no other
session has an open question with that number, SESSION alone if one is open there.
"always" adds a rule to your own policy file; if that can't be, it says why, and the
answer holds for the session.`,
		examples: [][2]string{
			{"cofferdam approve 3 once", "let what waits go on"},
			{"cofferdam approve fix-tests/3 always", "and ask no more about it, in later sessions too"},
			{"cofferdam approve fix-tests no", "refuse the one that is open there"},
		},
		exits: []int{exitNoInput, exitState},
		min:   2, max: 2,
		flags: func(f *flags) { f.flag(&asJSON, "json", 0, "as JSON") },
		complete: func(c *call, words []string) []string {
			switch len(words) {
			case 0:
				return c.openNames()
			case 1:
				return answers()
			}
			return nil
		},
		run: func(c *call, words []string) (int, error) {
			key, id, err := whichQuestion(words[0])
			if err != nil {
				return 0, err
			}
			if c.app.Answer == nil {
				return 0, notYet("approve")
			}
			a, err := c.app.Answer(c.ctx, key, id, words[1], c.caller())
			switch {
			case err != nil:
				return 0, err
			case asJSON:
				return 0, c.printJSON(a)
			}
			return 0, c.print(answeredText(a) + "\n")
		},
	}
}

func answeredText(a *flow.Answered) string {
	text := report.Plain(a.Answer) + ": " + report.Plain(a.Subject)
	if a.Note != "" {
		text += "; " + report.Plain(a.Note)
	}
	return text
}

// whichQuestion reads SESSION/ID, ID or SESSION.
func whichQuestion(word string) (key string, id int, err error) {
	key, number, both := strings.Cut(word, "/")
	if !both {
		if strings.Trim(word, "0123456789") != "" {
			return word, 0, nil
		}
		key, number = "", word
	}
	n, err := strconv.Atoi(number)
	if err != nil || n <= 0 || both && key == "" {
		return "", 0, &flow.UsageError{Text: report.Quote(cut(word)) + " is no question", Hint: "write for example 3 or fix-tests/3; cofferdam approvals lists them"}
	}
	return key, n, nil
}

// openNames are the names of open questions, for completion.
func (c *call) openNames() []string {
	if c.app.Questions == nil {
		return nil
	}
	list, err := c.app.Questions(c.ctx, "", c.caller())
	if err != nil {
		return nil
	}
	var out []string
	for _, o := range openOf(list) {
		out = append(out, o.name())
	}
	return out
}
