package cli

import (
	"bytes"
	"fmt"
	"io"

	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/report"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/diff"
)

func cmdDiff() *command {
	var stat, asJSON bool
	return &command{
		args: "[SESSION] [-- PATH...]",
		long: `What a session has changed and what is not in the project, as git diff shows it: git
apply takes the text. What git has no words for stands in lines that begin with "# ".
SESSION is an id, a name or the beginning of one; without it, it is the latest session
of this project that has changed something. On a terminal it is shown by $PAGER, or
less; characters that a terminal obeys are written as escapes there.`,
		examples: [][2]string{
			{"cofferdam diff", "what the latest run here has changed"},
			{"cofferdam diff --stat fix-tests", "how much, in each file"},
			{"cofferdam diff -- src go.mod", "a part of it"},
			{"cofferdam diff --json | jq '.changes[].path'", "for a program"},
		},
		exits: []int{exitUsage, exitNoInput, exitState},
		max:   -1,
		flags: func(f *flags) {
			f.flag(&stat, "stat", 0, "how many lines differ in each file")
			f.flag(&asJSON, "json", 0, "as JSON: each change with its risk, without the text")
		},
		complete: func(c *call, words []string) []string { return append(c.sessionNames(words, ""), ":file") },
		run: func(c *call, words []string) (int, error) {
			ch, err := c.changes(words)
			switch {
			case err != nil:
				return 0, err
			case asJSON:
				return 0, c.printJSON(changesJSON(ch))
			case stat:
				return 0, c.paged(func(w io.Writer, s report.Style, _ bool) error { return writeStat(w, ch, s) })
			}
			return 0, c.paged(func(w io.Writer, s report.Style, terminal bool) error { return writeDiff(w, ch, s, terminal) })
		},
	}
}

// changes finds what the words mean: a session, and paths.
func (c *call) changes(words []string) (*flow.Changes, error) {
	if c.app.Changes == nil {
		return nil, notYet("this command")
	}
	key, paths, err := c.sessionAndPaths(words)
	if err != nil {
		return nil, err
	}
	ch, err := c.app.Changes(c.ctx, key, paths, c.caller())
	if err == nil && len(paths) > 0 && len(ch.Set.Entries) == 0 {
		err = &flow.UsageError{Text: "no change in " + report.Plain(cut(paths[0])), Hint: "cofferdam diff --stat lists them; is it the name of a session? cofferdam ps --all lists those"}
	}
	return ch, err
}

type changeJSON struct {
	flow.Change
	// From is where the content was before, if the file was renamed.
	From    string `json:"from,omitempty"`
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
	Binary  bool   `json:"binary,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type untoldJSON struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

func changesJSON(ch *flow.Changes) any {
	files := map[string]diff.File{}
	for _, f := range diff.Files(&ch.Set, ch.Old, ch.New) {
		files[event.Escape(f.Path())] = f
	}
	list := []changeJSON{}
	for _, x := range ch.List() {
		row := changeJSON{Change: x}
		if f, ok := files[x.Path]; ok {
			l := diff.Load(f, ch.Old, ch.New)
			row.Added, row.Removed, row.Binary, row.Problem = l.Added, l.Removed, l.Binary, report.Plain(l.Unread)
			if f.Renamed() {
				row.From = event.Escape(f.Old)
			}
		}
		list = append(list, row)
	}
	untold := []untoldJSON{}
	for _, u := range ch.Set.Untold {
		untold = append(untold, untoldJSON{event.Escape(u.Path), u.Why})
	}
	return struct {
		Session   string       `json:"session"`
		Workspace string       `json:"workspace"`
		Changes   []changeJSON `json:"changes"`
		Untold    []untoldJSON `json:"untold"`
		Hidden    int          `json:"hidden"`
	}{ch.Session.ID, ch.Workspace, list, untold, ch.Hidden}
}

func writeStat(w io.Writer, ch *flow.Changes, s report.Style) error {
	var rows []diff.Row
	for _, f := range diff.Files(&ch.Set, ch.Old, ch.New) {
		if empty(f) {
			continue
		}
		rows = append(rows, diff.RowOf(f, diff.Load(f, ch.Old, ch.New)))
	}
	if err := diff.Stat(w, rows, s.Width, diff.Style{Colour: s.Colour}); err != nil {
		return err
	}
	return writeRest(w, ch)
}

// empty: a directory that is new or gone tells nothing that its content does not.
func empty(f diff.File) bool {
	return (f.From == nil || f.From.Type == change.Directory) && (f.To == nil || f.To.Type == change.Directory) && (f.From == nil || f.To == nil)
}

func writeDiff(w io.Writer, ch *flow.Changes, s report.Style, terminal bool) error {
	style := diff.Style{Colour: s.Colour}
	if terminal {
		style.Line = harmless
	}
	for _, f := range diff.Files(&ch.Set, ch.Old, ch.New) {
		if err := diff.Text(w, f, diff.Load(f, ch.Old, ch.New), style); err != nil {
			return err
		}
	}
	return writeRest(w, ch)
}

// writeRest tells what is not shown: nobody may think that it is all.
func writeRest(w io.Writer, ch *flow.Changes) error {
	for _, u := range ch.Set.Untold {
		if _, err := fmt.Fprintf(w, "# %s could not be compared: %s\n", diff.Quote(u.Path), report.Plain(u.Why)); err != nil {
			return err
		}
	}
	if ch.Hidden > 0 {
		if _, err := fmt.Fprintf(w, "# and %d in git's own memory, or devices: they are never carried over\n", ch.Hidden); err != nil {
			return err
		}
	}
	return nil
}

// harmless is a line for a terminal: as it is, but for what a terminal obeys or hides.
func harmless(line []byte) string {
	parts := bytes.Split(line, []byte("\t"))
	var b bytes.Buffer
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(report.Plain(string(p)))
	}
	return b.String()
}
