// Package report turns events into what people and programs read. It reads
// events only and changes nothing. Everything in an event may come from
// inside the boundary: nothing is printed that has not been through Quote or
// JSON.
package report

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"cofferdam/internal/event"
)

// Quote makes text from inside safe and unmistakable on a terminal: control
// characters, bidirectional overrides, invisible characters and bytes that are
// no text become escapes, and what has spaces or quotes in it, or is empty, is
// put in quotes, so that it can't pass for words of ours.
func Quote(s string) string {
	out := Plain(s)
	if out == "" || strings.ContainsAny(out, " \"'`") {
		return `"` + strings.ReplaceAll(out, `"`, `\"`) + `"`
	}
	return out
}

// Plain is Quote without the quotes, for text that is set apart otherwise.
func Plain(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
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
		case strconv.IsPrint(r): // letters, marks, numbers, punctuation, symbols, space
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

func hex(r rune, width int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// Shell writes a stored string as one word for a POSIX shell, to be copied
// into a command. Bytes that can't be shown go in as $'...'.
func Shell(stored string) string {
	s := event.Unescape(stored)
	safe, shown := s != "", true
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !strconv.IsPrint(r) {
			shown = false
		}
		word := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@%", r)
		if !word {
			safe = false
		}
		i += n
	}
	switch {
	case safe:
		return s
	case shown:
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
			b.WriteString(`\x` + hex(rune(c), 2))
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
