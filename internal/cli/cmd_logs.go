package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cofferdam/internal/event"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

func cmdLogs(c *call) *cobra.Command {
	var l logs
	cmd := &cobra.Command{
		Use: "logs [flags] [SESSION]",
		Long: `
Shows the events of a session: what was started, refused, set aside and cut
off. SESSION is an id, a name, or the beginning of one; without it, the newest.
The log is a chain of hashes: a line that was changed later is found out.`,
		Example: examples(
			"cofferdam logs", "the newest session",
			"cofferdam logs --denied review", "only what was refused",
			"cofferdam logs -f --json review", "follow a live one, for a program",
		),
		Args: words(0, 1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeSession(false), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key := ""
			if len(args) > 0 {
				key = args[0]
			}
			return l.show(cmd.Context(), c, key)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&l.follow, "follow", "f", false, "wait for more until the session ends")
	f.BoolVar(&l.denied, "denied", false, "only what was refused, set aside or cut off")
	f.BoolVar(&l.json, "json", false, "print the events as they are stored, one per line")
	return cmd
}

type logs struct{ follow, denied, json bool }

// pollTime is how soon a follower sees an event. The log is a file that
// another process appends to; inotify would save nothing worth its code.
const pollTime = 100 * time.Millisecond

func (l logs) show(ctx context.Context, c *call, key string) error {
	file, info, err := c.app.Events(key, c.caller())
	if err != nil {
		return err
	}
	defer file.Close()
	var h report.Handler = report.Text{W: c.out, Style: report.StyleOf(c.out, c.env), Denied: l.denied}
	if l.json {
		h = report.JSON{W: c.out, Denied: l.denied}
	}
	r := event.NewReader(file)
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
		if !l.follow || r.Verdict().Ended || info.Status != session.Live {
			break
		}
		// Ask first and read again afterwards: what was written before the end
		// is not lost.
		if info, err = l.wait(ctx, c, info.ID); err != nil {
			return err
		}
	}
	if err := h.End(); err != nil {
		return &outputError{err}
	}
	if text := info.Judge(r.Verdict()); text != "" {
		return c.doubt(text, info, r.Verdict())
	}
	return nil
}

// wait pauses and looks whether the session still lives.
func (logs) wait(ctx context.Context, c *call, id string) (session.Info, error) {
	select {
	case <-ctx.Done():
		return session.Info{}, context.Canceled
	case <-time.After(pollTime):
	}
	f, info, err := c.app.Events(id, c.caller())
	if err == nil {
		f.Close()
	}
	return info, err
}

// doubt tells what is wrong with a log: an error if it was changed, a note if
// only its end is missing.
func (c *call) doubt(text string, i session.Info, v event.Verdict) error {
	if v.State == event.Broken || i.Status == session.Ended && i.State.Exit != nil && i.State.Exit.Head != v.Head {
		return &session.Error{Op: "read events of", Path: i.ID, Err: errors.New(text), Hint: "what is shown above may not be what happened"}
	}
	message{Text: "note: " + text}.write(c.err, report.StyleOf(c.err, c.env))
	return nil
}
