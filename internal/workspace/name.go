package workspace

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Name is a path as the kernel has it: bytes, not text. In JSON, bytes that
// are not UTF-8 are written \xNN and a backslash is doubled, so that every
// name survives being stored.
type Name string

func (n Name) MarshalText() ([]byte, error) {
	var b []byte
	for i := 0; i < len(n); {
		r, size := utf8.DecodeRuneInString(string(n[i:]))
		switch {
		case r == utf8.RuneError && size == 1:
			b = fmt.Appendf(b, `\x%02x`, n[i])
		case r == '\\':
			b = append(b, `\\`...)
		default:
			b = append(b, n[i:i+size]...)
		}
		i += size
	}
	return b, nil
}

func (n *Name) UnmarshalText(text []byte) error {
	var b strings.Builder
	for s := string(text); s != ""; {
		switch {
		case strings.HasPrefix(s, `\\`):
			b.WriteByte('\\')
			s = s[2:]
		case strings.HasPrefix(s, `\x`) && len(s) >= 4:
			v, err := strconv.ParseUint(s[2:4], 16, 8)
			if err != nil {
				return fmt.Errorf("name %q: %w", text, err)
			}
			b.WriteByte(byte(v))
			s = s[4:]
		case s[0] == '\\':
			return fmt.Errorf("name %q: unknown escape", text)
		default:
			b.WriteByte(s[0])
			s = s[1:]
		}
	}
	*n = Name(b.String())
	return nil
}

// Quote makes one word of the shell. Plain quotes hold every byte, but a line
// is also shown on a terminal: what is not printable goes into $'...', which
// bash, zsh, ksh and POSIX.1-2024 understand.
func Quote(word string) string {
	plain, printable := word != "", utf8.ValidString(word)
	for _, r := range word {
		if !unicode.IsPrint(r) {
			printable = false
		}
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:@%+", r) {
			plain = false
		}
	}
	switch {
	case plain:
		return word
	case printable:
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := 0; i < len(word); {
		r, size := utf8.DecodeRuneInString(word[i:])
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == utf8.RuneError && size == 1 || !unicode.IsPrint(r):
			for _, c := range []byte(word[i : i+size]) {
				fmt.Fprintf(&b, `\%03o`, c) // three digits: the next one can't join
			}
		default:
			b.WriteString(word[i : i+size])
		}
		i += size
	}
	return b.String() + "'"
}
