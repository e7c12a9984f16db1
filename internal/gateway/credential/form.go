package credential

import (
	"encoding/base64"
	"slices"
	"strings"
)

// base64Forms are what is in any base64 text, with either alphabet, that encodes a text
// with v in it, whatever is before and behind: at each of three places, the characters
// that depend on v alone.
func base64Forms(v string) []string {
	var out []string
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			if f := base64At(enc, v, before); !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// base64At: a character has six bits, so the first that is v's alone is number 0, 2 or
// 3, and the last ends with or before v's last bit.
func base64At(enc *base64.Encoding, v string, before int) string {
	text := enc.EncodeToString([]byte(strings.Repeat("\x00", before) + v))
	return text[[]int{0, 2, 3}[before] : (before+len(v))*8/6]
}

// echoes are the forms in which a value may come back, with what is put in their place:
// always as long as what was found, so that no length that was said before becomes
// wrong. That is the same form of the placeholder if it is as long, else asterisks.
func echoes(value, placeholder string) []pair {
	var out []pair
	add := func(find, put string) {
		if len(put) != len(find) {
			put = strings.Repeat("*", len(find))
		}
		if find != "" && !slices.ContainsFunc(out, func(p pair) bool { return p.find == find }) {
			out = append(out, pair{find, put})
		}
	}
	if len(placeholder) != len(value) {
		placeholder = strings.Repeat("*", len(value))
	}
	add(value, placeholder)
	// Libraries differ in what they leave of the reserved characters. Most values have
	// none, and then all of these are one.
	for _, plain := range []string{"", "!$&'()*+,;=:@", "$&+=:@", "!'()*"} {
		for _, digits := range []string{upperHex, hex} {
			add(escape(value, digits, func(c byte) bool { return unreserved(c) || strings.IndexByte(plain, c) >= 0 }), placeholder)
		}
	}
	add(jsonEscape(value), placeholder)
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			add(base64At(enc, value, before), base64At(enc, placeholder, before))
		}
	}
	return out
}

const upperHex = "0123456789ABCDEF"

func escape(v, digits string, plain func(c byte) bool) string {
	var b strings.Builder
	for i := range len(v) {
		if c := v[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

// unreserved characters mean themselves in every part of a URL (RFC 3986, 2.3).
func unreserved(c byte) bool {
	return strings.IndexByte(alnum, c) >= 0 || strings.IndexByte("-._~", c) >= 0
}

// queryEscape makes a value of a query or a form.
func queryEscape(v string) string { return escape(v, upperHex, unreserved) }

// pathEscape makes a part of a segment of a path.
func pathEscape(v string) string { return escape(v, upperHex, segment) }

// segment characters are those that a segment of a path may have (RFC 3986, 3.3).
func segment(c byte) bool { return unreserved(c) || strings.IndexByte("!$&'()*+,;=:@", c) >= 0 }

// jsonEscape makes the inside of a JSON string; a value has printable ASCII only.
func jsonEscape(v string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v)
}

// unescape undoes percent-encoding; what is none stays.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	if c >= 'a' && c <= 'f' {
		c -= 'a' - 'A'
	}
	return strings.IndexByte(upperHex, c)
}
