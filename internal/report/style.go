package report

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// Style is what the other end of a stream can show.
type Style struct {
	// Width is where lines are folded; 0 means never, as when a program reads.
	Width  int
	Colour bool
}

// StyleOf looks at a stream and the environment: no colour and no folding but
// on a terminal, no colour with NO_COLOR (no-color.org) or a dumb terminal.
func StyleOf(f *os.File, env []string) Style {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return Style{}
	}
	s := Style{Width: 80, Colour: true}
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		s.Width = w
	}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if name == "NO_COLOR" && value != "" || name == "TERM" && value == "dumb" {
			s.Colour = false
		}
	}
	return s
}

type colour string

const (
	red    colour = "31"
	yellow colour = "33"
	green  colour = "32"
	dim    colour = "2"
	bold   colour = "1"
)

func (s Style) paint(c colour, text string) string {
	if !s.Colour || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Fold breaks text at spaces so that no line is longer than Width if that can
// be had, each further line indented. A long word stays whole: it is a path
// that someone will copy. The text holds no escape sequences.
func (s Style) Fold(text string, indent int) string {
	if s.Width <= 0 || utf8.RuneCountInString(text) <= s.Width {
		return text
	}
	var b strings.Builder
	col := 0
	// The spaces at the start are the caller's own indentation.
	rest := strings.TrimLeft(text, " ")
	lead := len(text) - len(rest)
	b.WriteString(text[:lead])
	col = lead
	first := true
	for word := range strings.SplitSeq(rest, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case first:
		case col+1+n > s.Width && col > indent:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			col = indent
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
		first = false
	}
	return b.String()
}
