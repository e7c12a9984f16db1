// Package report turns events into what people and programs read. It reads
// events only and changes nothing. Everything in an event may come from
// inside the boundary: nothing is printed that has not been through Quote or
// JSON.
package report

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cofferdam/internal/event"
)

// Quote makes text from inside safe and unmistakable on a terminal: control
// characters, bidirectional overrides, invisible characters and bytes that are
// no text become escapes, and what has spaces or quotes in it, or is empty, is
// put in quotes, so that it can't pass for words of ours. So is what holds a
// backslash, so that it can't pass for an escape.
func Quote(s string) string {
	bare := s != "" && !strings.ContainsAny(s, " \"'`")
	for i := 0; bare && i < len(s); i++ {
		bare = s[i] != '\\' || event.IsEscape(s[i:])
	}
	if bare {
		return Plain(s)
	}
	return `"` + escape(s, true) + `"`
}

// Plain is Quote without the quotes, for text that is set apart otherwise.
func Plain(s string) string { return escape(s, false) }

// escape writes s with nothing in it that a terminal obeys or hides. In quotes
// a backslash is doubled, so that no name can end them; the \xNN by which
// events store a byte that is no text stays what it is.
func escape(s string, quoted bool) string {
	clean := true
	for i, r := range s {
		if r == utf8.RuneError || !shown(r, i == 0) || quoted && (r == '"' || r == '\\') {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + hex(rune(s[i]), 2))
		case quoted && (r == '"' || r == '\\' && !event.IsEscape(s[i:])):
			b.WriteString(`\` + string(r))
		case shown(r, i == 0):
			b.WriteString(s[i : i+n])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			b.WriteString(`\x` + hex(r, 2))
		default:
			b.WriteString(`\u{` + hex(r, 4) + `}`)
		}
		i += n
	}
	return b.String()
}

// shown says whether a terminal shows r, as something of its own: letters,
// numbers, punctuation, symbols, the space. Some that count as printable are
// blank, or only change their neighbour: fillers of Hangul, the empty pattern
// of Braille, variation selectors; and a mark that combines is no first
// character, or it would change one of ours.
func shown(r rune, first bool) bool {
	switch {
	case r < 0x7f:
		return r >= ' '
	case !strconv.IsPrint(r), r == 0x2800:
		return false
	}
	return !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) && !(first && unicode.In(r, unicode.M))
}

func hex(r rune, width int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// Shell writes a stored string as one word for a POSIX shell, to be copied
// into a command. Bytes that can't be shown go in as $'...'.
func Shell(stored string) string { return word(event.Unescape(stored)) }

// word is Shell for a string as it is.
func word(s string) string {
	safe, visible := s != "", true
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !shown(r, i == 0) {
			visible = false
		}
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@%", r)
		if !plain {
			safe = false
		}
		i += n
	}
	switch {
	case safe:
		return s
	case visible:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '\'' || c == '\\':
			b.WriteString(`\` + string(rune(c)))
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c) // three digits: the next one can't join
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
