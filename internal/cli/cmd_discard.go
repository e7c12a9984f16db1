package cli

import (
	"fmt"

	"cofferdam/internal/plan"
	"cofferdam/internal/report"
)

func cmdDiscard() *command {
	var asJSON bool
	return &command{
		args: "[SESSION]",
		long: `A run with --mode copy works in a copy of the project, which is kept with the session
when something was changed in it. discard removes it; the session's log stays.
SESSION is an id, a name or the beginning of one. Without it, it is the latest session
of this project that has a copy.`,
		examples: [][2]string{
			{"cofferdam discard", "the copy of the latest run here"},
			{"cofferdam discard fix-tests --json", "that of a session, and say what it took as JSON"},
		},
		exits: []int{exitNoInput, exitState},
		max:   1,
		flags: func(f *flags) { f.flag(&asJSON, "json", 0, "as JSON") },
		complete: func(c *call, words []string) []string {
			return c.sessionNames(words, "")
		},
		run: func(c *call, words []string) (int, error) {
			c.json = asJSON
			if c.app.Discard == nil {
				return 0, notYet("discard")
			}
			session := ""
			if len(words) > 0 {
				session = words[0]
			}
			d, err := c.app.Discard(c.ctx, session, c.caller())
			if err != nil {
				return 0, err
			}
			if asJSON {
				return 0, c.printJSON(d)
			}
			return 0, c.print(fmt.Sprintf("discarded the copy of session %s (%s) of %s\n", d.ID, plan.Amount(d.Bytes, "bytes"), report.Quote(d.Workspace)))
		},
	}
}
