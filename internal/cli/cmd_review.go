package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
	"cofferdam/internal/workspace/diff"
	"cofferdam/internal/workspace/risk"
)

func cmdReview() *command {
	var stat, asJSON bool
	return &command{
		args: "[SESSION] [-- PATH...]",
		long: `What a session has changed, what is worth a look first: what runs on your machine later,
or leads out of the project, with the reason. Protected changes are carried over only
if they are named, flagged ones also with --yes.`,
		examples: [][2]string{
			{"cofferdam review", "the latest run here"},
			{"cofferdam review --stat fix-tests", "the list and the reasons, without the text"},
			{"cofferdam review --json | jq '.changes[] | select(.class != \"plain\")'", "for a program"},
		},
		exits: []int{exitUsage, exitNoInput, exitState},
		max:   -1,
		flags: func(f *flags) {
			f.flag(&stat, "stat", 0, "without the text of the changes")
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
			}
			return 0, c.paged(func(w io.Writer, s report.Style, _ bool) error { return writeReview(w, ch, s, !stat) })
		},
	}
}

// reviewed is one file with all that is said about it.
type reviewed struct {
	diff.File
	risk.Risk
	edited bool
}

// byRisk puts what is worth a look first; in a class the order stays.
func byRisk(ch *flow.Changes) []reviewed {
	risks := map[string]risk.Risk{}
	for i, e := range ch.Set.Entries {
		risks[e.Path] = ch.Risks[i]
	}
	var out []reviewed
	for _, f := range diff.Files(&ch.Set, ch.Old, ch.New) {
		r := reviewed{f, risks[f.Path()], ch.Edited[f.Path()]}
		if f.Renamed() { // both names are touched
			if old := risks[f.Old]; old.Class > r.Class {
				r.Class = old.Class
				r.Reasons = append(r.Reasons, old.Reasons...)
			}
			r.edited = r.edited || ch.Edited[f.Old]
		}
		if empty(f) && r.Class == risk.Plain {
			continue
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b reviewed) int { return int(b.Class) - int(a.Class) })
	return out
}

func (r reviewed) name() string {
	if r.Renamed() {
		return diff.Quote(r.Old) + " => " + diff.Quote(r.New)
	}
	return diff.Quote(r.Path())
}

// what it is, in a word.
func (r reviewed) what(c diff.Content) string {
	lines := ""
	if c.Added+c.Removed > 0 {
		lines = fmt.Sprintf(" +%d -%d", c.Added, c.Removed)
	}
	switch {
	case r.Renamed():
		return "renamed" + lines
	case r.From == nil:
		return "new " + string(r.To.Type) + lines
	case r.To == nil:
		return string(r.From.Type) + " deleted" + lines
	}
	return "changed" + lines
}

const editedWhy = "it was edited in the project, too: apply --interactive offers to merge"

var classHeads = map[risk.Class]string{
	risk.Protected: "protected: carried over only if it is named",
	risk.Flagged:   "flagged: carried over if it is named, or with --yes",
	risk.Plain:     "the rest",
}

func writeReview(w io.Writer, ch *flow.Changes, s report.Style, text bool) error {
	list := byRisk(ch)
	var b strings.Builder
	fmt.Fprintf(&b, "session %s in %s\n", ch.Session.ID, report.Quote(ch.Workspace))
	class := risk.Class(-1)
	contents := make([]diff.Content, len(list))
	for i, r := range list {
		if r.Class != class {
			class = r.Class
			b.WriteString("\n" + classHeads[class] + "\n")
		}
		c := diff.Load(r.File, ch.Old, ch.New)
		contents[i] = diff.Content{Added: c.Added, Removed: c.Removed}
		b.WriteString("  " + r.name() + "  " + r.what(c) + "\n")
		for _, why := range r.why() {
			b.WriteString(s.Fold("      "+report.Plain(why), 6) + "\n")
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	for _, r := range list {
		if !text {
			break
		}
		if err := writeOne(w, ch, r, s); err != nil {
			return err
		}
	}
	return writeRest(w, ch)
}

func (r reviewed) why() []string {
	why := slices.Clone(r.Reasons)
	if r.edited {
		why = append(why, editedWhy)
	}
	return why
}

// writeOne is the text of one change under its reasons.
func writeOne(w io.Writer, ch *flow.Changes, r reviewed, s report.Style) error {
	head := "\n"
	for _, why := range r.why() {
		head += s.Fold("# "+report.Plain(why), 2) + "\n"
	}
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	return diff.Text(w, r.File, diff.Load(r.File, ch.Old, ch.New), diff.Style{Colour: s.Colour, Line: harmless})
}
