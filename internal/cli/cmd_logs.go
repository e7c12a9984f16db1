package cli

import (
	"errors"
	"io"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// followInterval is how often a growing log is looked at.
const followInterval = 100 * time.Millisecond

func cmdLogs() *command {
	var follow, denied, asJSON bool
	return &command{
		args: "[SESSION]",
		long: `Without SESSION: the newest. SESSION is an id, a name or the beginning of one.
The log is a chain of hashes: if a line was changed or cut off, that is told and the
exit code says so. With --json the lines are those of the stored log.`,
		examples: [][2]string{
			{"cofferdam logs --denied", "what was refused in the newest session"},
			{"cofferdam logs -f fix-tests", "watch a session"},
			{"cofferdam logs --json 20260301 | jq .subject", "for a program"},
		},
		exits: []int{exitNoInput, exitState},
		max:   1,
		flags: func(f *flags) {
			f.flag(&follow, "follow", 'f', "go on until the session ends")
			f.flag(&denied, "denied", 0, "only what was refused, set aside or cut off")
			f.flag(&asJSON, "json", 0, "events as JSON lines")
		},
		complete: func(c *call, words []string) []string { return c.sessionNames(words, "") },
		run: func(c *call, words []string) (int, error) {
			key := ""
			if len(words) > 0 {
				key = words[0]
			}
			store, err := session.Open(c.env)
			if err != nil {
				return 0, err
			}
			defer store.Close()
			i, err := store.Find(key)
			if err != nil {
				return 0, err
			}
			var h report.Handler = report.Text{W: c.out, Style: report.StyleOf(c.out, c.env), Denied: denied}
			if asJSON {
				h = report.JSON{W: c.out, Denied: denied}
			}
			return 0, c.showLog(store, i, h, follow)
		},
	}
}

func (c *call) showLog(store *session.Store, i session.Info, h report.Handler, follow bool) error {
	f, err := store.Events(i)
	if err != nil {
		return err
	}
	defer f.Close()
	r := event.NewReader(f)
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	last := false // nothing is written any more: read to the end once more
	for {
		e, err := r.Next()
		switch {
		case err == nil:
			if err := h.Event(e); err != nil {
				return &outputError{err}
			}
			continue
		case !errors.Is(err, io.EOF):
			return err
		}
		if !follow || last || r.Verdict().Ended {
			break
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-tick.C:
			last = !store.Alive(i)
		}
	}
	if err := h.End(); err != nil {
		return &outputError{err}
	}
	// As it is now: while we followed, the session may have ended.
	if now, err := store.Find(i.ID); err == nil {
		i = now
	}
	v := r.Verdict()
	why := i.Judge(v)
	if why == "" {
		return nil
	}
	if i.Status == session.Interrupted && v.State != event.Broken {
		message{Text: "note: " + why}.write(c.err, report.StyleOf(c.err, c.env))
		return nil
	}
	return &event.ChainError{Line: max(1, v.Line), Why: why}
}
