package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Strings of an event come from inside and are hostile. Two bounds keep one
// event from filling the disk: a path may be as long as the kernel lets it be,
// the rest is shorter. The longest line is then about
// 6*(2*maxPath + 10*maxText) bytes, which MaxLine covers.
const (
	maxPath = 4096
	maxText = 1024
	// MaxLine is the longest line that a Writer writes or a Reader accepts.
	MaxLine = 128 << 10
)

// Escape makes valid UTF-8 of any bytes, so that JSON can carry them without
// loss: a byte that is not UTF-8 becomes \xNN. What already looks like that
// gets its backslash written as \x5c, so that Unescape is exact.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, s[i] == '\\' && IsEscape(s[i:]):
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[s[i]>>4])
			b.WriteByte(hexDigits[s[i]&15])
			i++
		default:
			b.WriteString(s[i : i+n])
			i += n
		}
	}
	return b.String()
}

// Unescape returns the bytes that Escape was given.
func Unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if IsEscape(s[i:]) {
			v, _ := strconv.ParseUint(s[i+2:i+4], 16, 8)
			b = append(b, byte(v))
			i += 4
			continue
		}
		b = append(b, s[i])
		i++
	}
	return string(b)
}

const hexDigits = "0123456789abcdef"

// IsEscape reports whether s starts with \xNN, in lower case only: Escape and
// Unescape must agree on what an escape is.
func IsEscape(s string) bool {
	return len(s) >= 4 && s[0] == '\\' && s[1] == 'x' &&
		strings.IndexByte(hexDigits, s[2]) >= 0 && strings.IndexByte(hexDigits, s[3]) >= 0
}

// bound cuts s to max bytes, not inside a rune, and says how much is gone.
func bound(s string, max int) string {
	if len(s) <= max {
		return s
	}
	cut := max
	for cut > max-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "...(+" + strconv.Itoa(len(s)-cut) + " bytes)"
}

// clean returns e as it may be stored: strings bounded and escaped.
func clean(e Event) Event {
	for _, f := range []struct {
		s   *string
		max int
	}{
		{&e.Subject, maxPath}, {&e.To, maxPath},
		{&e.Action, maxText}, {&e.Access, maxText}, {&e.Process, maxText},
		{&e.Rule, maxText}, {&e.Origin, maxText}, {&e.Reason, maxText},
		{&e.Detail, maxText}, {(*string)(&e.Kind), maxText},
	} {
		*f.s = Escape(bound(*f.s, f.max))
	}
	return e
}

// Marshal is the one encoding of an event: a line of JSON with its newline.
// Reading a stored line and marshalling it again gives the same bytes.
func Marshal(e Event) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // for people reading the file; it is not HTML
	e.Time = e.Time.UTC().Round(time.Microsecond)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	return VisibleJSON(b.Bytes()), nil
}

// VisibleJSON writes what can't be seen in JSON text as \uXXXX, which means the
// same: encoding/json leaves alone what terminals obey (U+0080 to U+009F are
// control sequences as well) and what turns a line round (U+202E).
func VisibleJSON(text []byte) []byte {
	visible := true
	for _, r := range string(text) {
		if r != '\n' && !strconv.IsPrint(r) {
			visible = false
			break
		}
	}
	if visible {
		return text
	}
	var b []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}
