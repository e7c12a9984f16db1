package cli

import (
	"cofferdam/internal/flow"
	"cofferdam/internal/session"
)

func cmdExec() *command {
	var asJSON bool
	return &command{
		args: "SESSION [--] COMMAND [ARG...]",
		long: `The command joins the running session: same files, same environment, same limits.
SESSION is an id, a name or the beginning of one.`,
		examples: [][2]string{
			{"cofferdam exec fix-tests -- bash", "look around inside the session called fix-tests"},
			{"cofferdam exec 2026 ps aux", "the beginning of an id is enough if only one session fits"},
		},
		exits:      []int{exitNoInput, exitRefused, exitState, exitNoExec, exitNotFound},
		stopAtWord: true, min: 2, max: -1,
		flags:    func(f *flags) { f.flag(&asJSON, "json", 0, "errors as JSON") },
		complete: func(c *call, words []string) []string { return c.sessionNames(words, session.Live) },
		run: func(c *call, words []string) (int, error) {
			command, err := commandAfter(words[1:])
			if err != nil {
				return 0, err
			}
			if len(command) == 0 {
				return 0, &flow.UsageError{Text: "no command to run", Hint: "for example: cofferdam exec " + cut(words[0]) + " -- bash"}
			}
			if c.app.Exec == nil {
				return 0, notYet("exec")
			}
			return c.app.Exec(c.ctx, words[0], command, c.caller())
		},
	}
}

// sessionNames are names and ids of sessions, for completion.
func (c *call) sessionNames(words []string, only session.Status) []string {
	if len(words) > 0 {
		return nil
	}
	store, err := session.Open(c.env)
	if err != nil {
		return nil
	}
	defer store.Close()
	list, _ := store.List()
	var out []string
	for _, i := range list {
		if only != "" && i.Status != only {
			continue
		}
		if i.State.Name != "" {
			out = append(out, i.State.Name)
		}
		out = append(out, i.ID)
	}
	return out
}
