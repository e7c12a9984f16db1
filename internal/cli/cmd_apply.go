package cli

import (
	"fmt"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

func cmdApply() *command {
	var yes, interactive, undo, asJSON bool
	return &command{
		args: "[SESSION] [PATH...]",
		long: `Carries what a session has changed over into the project. Each file is at every moment
the old or the new one; what was edited in the project meanwhile is left alone and told.
Without PATH it is all but what is worth a look first: what is flagged has to be named,
or --yes be given; what is protected has to be named. With --interactive each change is
shown and asked about, by its hunks if you like, and what was edited on both sides can
be merged. An apply that was interrupted is taken back by the next one: what it was to
carry over is still with its session. It ends with 75 if something was left that was
asked for.`,
		examples: [][2]string{
			{"cofferdam apply", "what the latest run here has changed and is not flagged"},
			{"cofferdam apply --yes fix-tests", "with what is flagged; cofferdam review shows it first"},
			{"cofferdam apply fix-tests Makefile src", "a part of it"},
			{"cofferdam apply --interactive", "ask about each change"},
			{"cofferdam apply --undo", "take the last apply here back"},
		},
		exits: []int{exitUsage, exitNoInput, exitState, exitLeft},
		max:   -1,
		flags: func(f *flags) {
			f.flag(&yes, "yes", 'y', "what is flagged, too")
			f.flag(&interactive, "interactive", 'i', "ask about each change")
			f.flag(&undo, "undo", 0, "take the last apply of the session back")
			f.flag(&asJSON, "json", 0, "what became of it as JSON")
		},
		complete: func(c *call, words []string) []string { return append(c.sessionNames(words, ""), ":file") },
		run: func(c *call, words []string) (int, error) {
			c.json = asJSON
			if c.app.Apply == nil {
				return 0, notYet("apply")
			}
			key, paths, err := c.sessionAndPaths(words)
			if err != nil {
				return 0, err
			}
			o := flow.ApplyOptions{Session: key, Paths: paths, Yes: yes, Undo: undo}
			switch {
			case interactive && undo, interactive && yes, interactive && asJSON, undo && yes:
				return 0, &flow.UsageError{Text: "--interactive, --undo, --yes and --json do not go together like this", Hint: "--json goes with --yes or --undo"}
			case undo && len(paths) > 0:
				return 0, &flow.UsageError{Text: "--undo takes a whole apply back", Hint: "name no path; " + report.Plain(cut(paths[0])) + " is no session"}
			case interactive:
				o.Pick = (&picker{call: c, paths: paths}).pick
			}
			a, err := c.app.Apply(c.ctx, o, c.caller())
			if a != nil {
				if perr := c.tellApplied(a, asJSON); perr != nil {
					return 0, perr
				}
			}
			if err != nil {
				return 0, err
			}
			if len(a.Failed) > 0 {
				return exitLeft, nil
			}
			return 0, nil
		},
	}
}

func (c *call) tellApplied(a *flow.Applied, asJSON bool) error {
	if asJSON {
		return c.printJSON(a)
	}
	s := report.StyleOf(c.err, c.env)
	for _, r := range a.Recovered {
		message{Text: "an apply of session " + r + " had been interrupted: it was taken back"}.write(c.err, s)
	}
	verb := "applied"
	if a.Undone {
		verb = "taken back"
	}
	if err := c.print(fmt.Sprintf("%s: %s of session %s\n", verb, changesCount(len(a.Done)), a.Session)); err != nil {
		return err
	}
	told := func(list []flow.Unapplied, head string, hints ...string) {
		if len(list) == 0 {
			return
		}
		m := message{Text: changesCount(len(list)) + " " + head, Hints: hints}
		for i, u := range list {
			if i == maxTold {
				m.more = append(m.more, message{Text: fmt.Sprintf("and %d more; --json lists all", len(list)-i)})
				break
			}
			line := message{Text: "  " + report.Quote(u.Path) + ": " + u.Kind + ": " + u.Why}
			if u.Kept != "" {
				line.Hints = []string{"another version of it is kept: " + report.Quote(u.Kept)}
			}
			m.more = append(m.more, line)
		}
		m.write(c.err, s)
	}
	hint := "cofferdam apply " + a.Session + " PATH carries what is named over"
	for _, u := range a.Left {
		if u.Kind == "flagged" {
			hint += "; --yes all that is flagged"
			break
		}
	}
	told(a.Left, "left for you to look at", "cofferdam review "+a.Session+" shows why", hint)
	var hints []string
	for _, u := range a.Failed {
		if strings.HasPrefix(u.Kind, "conflict") && !a.Undone {
			hints = []string{"cofferdam apply --interactive " + a.Session + " offers to merge"}
			break
		}
	}
	told(a.Failed, "left as it is in the project", hints...)
	return nil
}

const maxTold = 20

func changesCount(n int) string {
	if n == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", n)
}
