package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/diff"
	"cofferdam/internal/workspace/risk"
)

// picker asks about each change: what is worth a look comes first.
type picker struct {
	*call
	paths []string
	in    *bufio.Reader
	list  []flow.Choice
}

// errEnough: the person has seen enough; what was chosen so far counts.
var errEnough = errors.New("enough")

func (p *picker) pick(ch *flow.Changes) ([]flow.Choice, error) {
	if len(p.paths) > 0 {
		if err := ch.Only(p.paths, p.caller()); err != nil {
			return nil, err
		}
	}
	p.in = bufio.NewReader(p.call.in)
	s := report.StyleOf(p.err, p.env)
	for _, r := range byRisk(ch) {
		if r.From == nil && r.To.Type == change.Directory {
			continue // it comes with what is chosen in it
		}
		if err := writeOne(p.err, ch, r, s); err != nil {
			return nil, &outputError{err}
		}
		err := p.one(ch, r, s)
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return p.list, nil
}

func (p *picker) add(r reviewed, content []byte) {
	c := flow.Choice{Path: r.Path(), Content: content, Protected: r.Class == risk.Protected, Edited: r.edited}
	p.list = append(p.list, c)
	if r.Renamed() {
		c.Path, c.Content = r.Old, nil
		p.list = append(p.list, c)
	}
}

// one asks about one change.
func (p *picker) one(ch *flow.Changes, r reviewed, s report.Style) error {
	content := diff.Load(r.File, ch.Old, ch.New)
	byHunk := !r.edited && !r.Renamed() && len(content.Hunks) > 1 && isFile(r.From) && isFile(r.To)
	canMerge := r.edited && !r.Renamed() && isFile(r.From) && isFile(r.To)
	keys, help := "ynq", "y yes, n no, q leave the rest"
	if byHunk {
		keys, help = keys+"h", help+", h ask about each hunk"
	}
	if canMerge {
		keys, help = "mynq", "m merge both, y put the session's over the project's, n no, q leave the rest"
	}
	verb := "apply"
	if r.Class == risk.Protected {
		verb = "it is protected; apply"
	}
	switch answer, err := p.ask(verb+" "+r.name(), keys, help); {
	case err != nil:
		return err
	case answer == 'q':
		return errEnough
	case answer == 'y':
		p.add(r, nil)
	case answer == 'h':
		return p.hunks(r, content, s)
	case answer == 'm':
		return p.merge(ch, r, content, s)
	}
	return nil
}

func isFile(s *change.State) bool { return s != nil && s.Type == change.File }

// hunks asks about each hunk of a file.
func (p *picker) hunks(r reviewed, c diff.Content, s report.Style) error {
	var chosen []diff.Hunk
	for i, h := range c.Hunks {
		if err := h.Write(p.err, diff.Style{Colour: s.Colour, Line: harmless}); err != nil {
			return &outputError{err}
		}
		answer, err := p.ask(fmt.Sprintf("hunk %d of %d of %s", i+1, len(c.Hunks), r.name()), "ynq", "y yes, n no, q leave the rest of this file")
		if err != nil {
			return err
		}
		if answer == 'q' {
			break
		}
		if answer == 'y' {
			chosen = append(chosen, h)
		}
	}
	if len(chosen) > 0 {
		p.add(r, diff.Patch(c.Old, chosen))
	}
	return nil
}

// merge offers what git makes of both versions. What has conflicts is put nowhere.
func (p *picker) merge(ch *flow.Changes, r reviewed, c diff.Content, s report.Style) error {
	m, err := ch.Merge(p.ctx, r.Path(), p.caller())
	if err != nil {
		message{Text: report.Quote(r.Path()) + " can't be merged: " + report.Plain(err.Error())}.write(p.err, s)
		return nil
	}
	if m.Conflicts > 0 {
		message{Text: fmt.Sprintf("%s: %d places differ in both; it is left as it is", report.Quote(r.Path()), m.Conflicts),
			Hints: []string{"edit it in the project, with cofferdam diff " + ch.Session.ID + " beside it"}}.write(p.err, s)
		return nil
	}
	f := diff.File{Old: r.Path(), New: r.Path(), From: r.From, To: r.To}
	merged := diff.Compare(c.Old, m.Content)
	if err := diff.Text(p.err, f, merged, diff.Style{Colour: s.Colour, Line: harmless}); err != nil {
		return &outputError{err}
	}
	answer, err := p.ask("apply "+r.name()+", merged", "ynq", "y yes, n no, q leave the rest")
	switch {
	case err != nil:
		return err
	case answer == 'q':
		return errEnough
	case answer == 'y':
		p.add(r, m.Content)
	}
	return nil
}

// ask asks until the answer is one of keys. The end of the input is "leave the rest".
func (p *picker) ask(what, keys, help string) (byte, error) {
	for {
		if _, err := fmt.Fprintf(p.err, "cofferdam: %s? [%s] ", what, strings.Join(strings.Split(keys, ""), ",")); err != nil {
			return 0, &outputError{err}
		}
		line, err := p.in.ReadString('\n')
		line = strings.TrimSpace(line)
		if len(line) == 1 && strings.Contains(keys, line) {
			return line[0], nil
		}
		if errors.Is(err, io.EOF) {
			return 'q', nil
		}
		if err != nil {
			return 0, err
		}
		if err := p.ctx.Err(); err != nil {
			return 0, err
		}
		if _, err := fmt.Fprintln(p.err, "  "+help); err != nil {
			return 0, &outputError{err}
		}
	}
}
