package decide

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// Servers differ in how they read a path: an encoded slash is a slash to some, what
// follows a ";" is a parameter to some, an empty segment is dropped by some, and behind
// a proxy a path may be decoded twice. Which of these the other side is can't be known,
// so a path is all that any of them makes of it, and rules are asked about each. What
// none of them needs, and a way around rules has always been made of, is refused: dot
// segments, control characters, what is no UTF-8, and what is encoded three times.
// Clients resolve dot segments themselves (RFC 3986, 5.2.4; WHATWG URL).

// maxPath bounds what is judged; longer than any server takes by default.
const maxPath = 64 << 10

var (
	errNoPath   = errors.New(`the path does not begin with "/"`)
	errLongPath = errors.New("the path is longer than 64 KiB")
	errEncoding = errors.New(`a "%" in the path that encodes nothing`)
	errThrice   = errors.New("the path is encoded more than twice")
	errDots     = errors.New(`the path has "." or ".." for a segment, which some servers resolve and some don't`)
	errBytes    = errors.New("the path has bytes that are no text")
)

// readings returns the segments of a path as sent, in each way in which a server may
// read it, the plainest first; nil segments are the root.
func readings(path string) ([][]string, error) {
	switch {
	case path == "*": // OPTIONS, of the server itself
		return [][]string{nil}, nil
	case !strings.HasPrefix(path, "/"):
		return nil, errNoPath
	case len(path) > maxPath:
		return nil, errLongPath
	}
	raw := strings.Split(strings.TrimSuffix(path[1:], "/"), "/")
	once := make([]string, len(raw))
	twice := make([]string, len(raw))
	for i, s := range raw {
		var ok bool
		if once[i], ok = unescape(s); !ok {
			return nil, errEncoding
		}
		twice[i], _ = unescape(once[i])
		if again, _ := unescape(twice[i]); again != twice[i] {
			return nil, errThrice
		}
	}
	ways := 16
	if !strings.ContainsAny(path, `%;\`) && !strings.Contains(path, "//") {
		ways = 1 // all read it alike
	}
	var out [][]string
	for way := range ways {
		segments := once
		if way&1 != 0 {
			segments = twice
		}
		if way&2 != 0 {
			segments = strings.Split(strings.ReplaceAll(strings.Join(segments, "/"), `\`, "/"), "/")
		}
		segments = slices.Clone(segments)
		if way&4 != 0 {
			for i, s := range segments {
				segments[i], _, _ = strings.Cut(s, ";")
			}
		}
		if way&8 != 0 {
			segments = slices.DeleteFunc(segments, func(s string) bool { return s == "" })
		}
		for len(segments) > 0 && segments[len(segments)-1] == "" {
			segments = segments[:len(segments)-1]
		}
		for _, s := range segments {
			switch {
			case s == "." || s == "..":
				return nil, errDots
			case !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }):
				return nil, errBytes
			}
		}
		if !slices.ContainsFunc(out, func(o []string) bool { return slices.Equal(o, segments) }) {
			out = append(out, segments)
		}
	}
	return out, nil
}

// unescape decodes each %XX once. ok is false if a "%" encodes nothing; it is kept.
func unescape(s string) (out string, ok bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	ok = true
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+2 < len(s) && hex(s[i+1]) >= 0 && hex(s[i+2]) >= 0 {
				b = append(b, byte(hex(s[i+1])<<4|hex(s[i+2])))
				i += 2
				continue
			}
			ok = false
		}
		b = append(b, s[i])
	}
	return string(b), ok
}

func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// lowerAll is for what servers compare without regard to case, or may.
func lowerAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = lower(s)
	}
	return out
}

// decoded is a query in lower case with nothing encoded, twice decoded as a path may be.
func decoded(query string) string {
	s, _ := unescape(strings.ReplaceAll(query, "+", " "))
	s, _ = unescape(s)
	return lower(s)
}
