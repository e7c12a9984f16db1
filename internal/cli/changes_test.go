package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/risk"
)

type fakeSide map[string]string

func (s fakeSide) Open(path string) (io.ReadCloser, error) {
	text, ok := s[path]
	if !ok {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// theChanges are some of a run that was not nice. They are below the test's directory.
func theChanges() *flow.Changes {
	dir, _ := os.Getwd()
	old := fakeSide{"a.go": "package a\n\nvar x = 1\n" + strings.Repeat("\n", 20) + "var y = 1\n", "Makefile": "all:\n"}
	new := fakeSide{"a.go": "package a\n\nvar x = 2\n" + strings.Repeat("\n", 20) + "var y = 2\n", "Makefile": "all:\n\tcurl x\n", ".envrc": "x\n", "e\x1b[2J\u202e": "a\x1b[8m\tb\u202e\n"}
	file := func(s fakeSide, path string) *change.State {
		text, ok := s[path]
		if !ok {
			return nil
		}
		return &change.State{Type: change.File, Mode: 0o644, Size: int64(len(text)), Sum: fmt.Sprintf("%x", text)}
	}
	ch := &flow.Changes{Session: session.Info{ID: "20260301-120000-k3f9"}, Workspace: dir, Old: old, New: new, Hidden: 3, Edited: map[string]bool{"Makefile": true}}
	for _, p := range []string{".envrc", "Makefile", "a.go", "e\x1b[2J\u202e"} {
		ch.Set.Entries = append(ch.Set.Entries, change.Entry{Path: p, Old: file(old, p), New: file(new, p)})
		r := risk.Risk{}
		switch p {
		case ".envrc":
			r = risk.Risk{Class: risk.Protected, Reasons: []string{"direnv runs it"}}
		case "Makefile":
			r = risk.Risk{Class: risk.Flagged, Reasons: []string{"it runs at your next make"}}
		}
		ch.Risks = append(ch.Risks, r)
	}
	ch.Set.Untold = []change.Untold{{Path: "closed\x1b", Why: "permission denied"}}
	return ch
}

func fakeApply(o flow.ApplyOptions) (*flow.Applied, error) {
	a := &flow.Applied{Session: "20260301-120000-k3f9", Done: []string{}, Undone: o.Undo}
	if o.Pick != nil {
		list, err := o.Pick(theChanges())
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			a.Done = append(a.Done, fmt.Sprintf("%s %q %v %v", event.Escape(c.Path), c.Content, c.Protected, c.Edited))
		}
		// What was chosen is for the test to see.
		return a, fmt.Errorf("chosen: %s", strings.Join(a.Done, "; "))
	}
	a.Done = append(a.Done, "a.go")
	if !o.Yes {
		a.Left = append(a.Left, flow.Unapplied{Path: ".envrc", Kind: "protected", Why: "direnv runs it"}, flow.Unapplied{Path: "b\x1b", Kind: "flagged", Why: "make"})
	}
	if len(o.Paths) > 0 {
		a.Failed = append(a.Failed, flow.Unapplied{Path: o.Paths[0], Kind: "conflict", Why: "it was edited meanwhile", Kept: "/x/y"})
	}
	return a, nil
}

// Nothing that a terminal obeys is written where one may read.
func TestChangesAreHarmless(t *testing.T) {
	ch := theChanges()
	for name, write := range map[string]func(io.Writer) error{
		"diff":   func(w io.Writer) error { return writeDiff(w, ch, report.Style{Width: 60}, true) },
		"stat":   func(w io.Writer) error { return writeStat(w, ch, report.Style{Width: 60}) },
		"review": func(w io.Writer) error { return writeReview(w, ch, report.Style{Width: 60}, true) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\u202e") || !strings.Contains(b.String(), `\033`) {
			t.Errorf("%s: %q", name, b.String())
		}
		if !strings.Contains(b.String(), "could not be compared") || !strings.Contains(b.String(), "and 3 in git's own memory") {
			t.Errorf("%s does not say what it leaves out: %s", name, b.String())
		}
	}
	// The control: for a program it is the content as it is.
	var b bytes.Buffer
	if err := writeDiff(&b, ch, report.Style{}, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "+a\x1b[8m\tb\u202e\n") {
		t.Errorf("%q", b.String())
	}
}
