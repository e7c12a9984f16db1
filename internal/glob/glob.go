// Package glob is the pattern language of policies: one matcher for the rules,
// the scan of the workspace, and the watch for names that appear. It decides
// nothing and touches no file.
//
//   - any run of characters in one name
//     ?      one character
//     [a-z]  one character of a class; [!a-z] one outside it
//     **     as a whole name: any number of names, none included
//     \x     the character x itself
//
// A name with a class also matches its own text, because "src/[id]/page.tsx"
// is how some frameworks spell a directory: a deny written that way must not
// miss it. Matching takes time proportional to pattern times path.
//
// We have our own matcher because a rule needs to know at which depth of a
// path a pattern matches, in one pass and without backtracking over "**"; the
// libraries at hand answer yes or no for one whole path.
package glob

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Pattern is a compiled pattern. The zero Pattern matches the root only.
type Pattern struct {
	names []name
}

type name struct {
	kind  nameKind
	text  string // kindLiteral: the name; kindTokens: the source, for self-match
	self  bool   // the source text itself matches
	parts []token
}

type nameKind uint8

const (
	kindLiteral nameKind = iota
	kindTokens
	kindDeep // "**"
)

type token struct {
	star   bool
	any    bool
	class  bool
	negate bool
	char   rune
	ranges []rune // pairs, for a class
}

var (
	errClass  = errors.New(`"[" without "]" (write \[ for the character itself)`)
	errEmpty  = errors.New(`"[]" is empty (write \[ for the character itself)`)
	errRange  = errors.New("a range in [...] runs backwards")
	errEscape = errors.New(`a "\" at the end`)
	errNUL    = errors.New("a NUL character")
)

// HasMeta says whether text means anything but itself.
func HasMeta(text string) bool { return strings.ContainsAny(text, `*?[\`) }

// Escape returns a pattern that matches text and nothing else.
func Escape(text string) string {
	if !HasMeta(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if strings.IndexByte(`*?[\`, text[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// Literal returns the one path that the pattern matches; ok is false when it
// can match more than one.
func (p Pattern) Literal() (path string, ok bool) {
	if len(p.names) == 1 && p.names[0].kind == kindLiteral {
		return p.names[0].text, true
	}
	var b strings.Builder
	for i, n := range p.names {
		if n.kind != kindLiteral {
			return "", false
		}
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(n.text)
	}
	return b.String(), true
}

// Compile reads a pattern. Empty names and a slash at either end are dropped;
// "." and ".." are ordinary names here, so the caller cleans first.
func Compile(text string) (Pattern, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return Pattern{}, errNUL
	}
	parts := Split(text)
	p := Pattern{names: make([]name, 0, len(parts))}
	for _, part := range parts {
		n, err := compileName(part)
		if err != nil {
			return Pattern{}, err
		}
		if n.kind == kindDeep && len(p.names) > 0 && p.names[len(p.names)-1].kind == kindDeep {
			continue
		}
		p.names = append(p.names, n)
	}
	return p, nil
}

// MustCompile is Compile for the patterns of tests. Nothing that runs calls it: a
// pattern comes from a file or a person, and a bad one is an error to be told.
func MustCompile(text string) Pattern {
	p, err := Compile(text)
	if err != nil {
		panic("glob: " + text + ": " + err.Error())
	}
	return p
}

// Split takes a path apart at its slashes; empty names are dropped.
func Split(path string) []string {
	out := make([]string, 0, strings.Count(path, "/")+1)
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			out = append(out, name)
		}
	}
	return out
}

func compileName(text string) (name, error) {
	if text == "**" {
		return name{kind: kindDeep}, nil
	}
	if !HasMeta(text) {
		return name{kind: kindLiteral, text: text}, nil
	}
	n := name{kind: kindTokens, text: text, parts: make([]token, 0, len(text))}
	var literal strings.Builder
	plain := true
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRuneInString(text[i:])
		if c == utf8.RuneError && size == 1 {
			// Names are bytes; keep a broken one apart from U+FFFD.
			c = brokenByte(text[i])
		}
		raw := text[i : i+size]
		i += size
		switch c {
		case '*':
			plain = false
			if k := len(n.parts); k == 0 || !n.parts[k-1].star {
				n.parts = append(n.parts, token{star: true})
			}
			continue
		case '?':
			plain = false
			n.parts = append(n.parts, token{any: true})
			continue
		case '[':
			plain = false
			n.self = true
			t, used, err := compileClass(text[i:])
			if err != nil {
				return name{}, err
			}
			i += used
			n.parts = append(n.parts, t)
			continue
		case '\\':
			if i >= len(text) {
				return name{}, errEscape
			}
			c, size = decode(text[i:])
			raw = text[i : i+size]
			i += size
		}
		literal.WriteString(raw)
		n.parts = append(n.parts, token{char: c})
	}
	if plain {
		return name{kind: kindLiteral, text: literal.String()}, nil
	}
	return n, nil
}

func compileClass(rest string) (token, int, error) {
	t := token{class: true}
	i := 0
	if i < len(rest) && (rest[i] == '!' || rest[i] == '^') {
		t.negate = true
		i++
	}
	for first := true; ; first = false {
		if i >= len(rest) {
			return token{}, 0, errClass
		}
		if rest[i] == ']' {
			if first {
				return token{}, 0, errEmpty
			}
			return t, i + 1, nil
		}
		lo, used, err := classChar(rest[i:])
		if err != nil {
			return token{}, 0, err
		}
		i += used
		hi := lo
		if i+1 < len(rest) && rest[i] == '-' && rest[i+1] != ']' {
			hi, used, err = classChar(rest[i+1:])
			if err != nil {
				return token{}, 0, err
			}
			i += 1 + used
			if hi < lo {
				return token{}, 0, errRange
			}
		}
		t.ranges = append(t.ranges, lo, hi)
	}
}

func classChar(rest string) (rune, int, error) {
	if rest[0] == '\\' {
		if len(rest) == 1 {
			return 0, 0, errEscape
		}
		c, size := decode(rest[1:])
		return c, size + 1, nil
	}
	c, size := decode(rest)
	return c, size, nil
}

// brokenByte maps a byte that is not UTF-8 to a value no character has.
func brokenByte(b byte) rune { return -1 - rune(b) }

func decode(s string) (rune, int) {
	c, size := utf8.DecodeRuneInString(s)
	if c == utf8.RuneError && size == 1 {
		return brokenByte(s[0]), 1
	}
	return c, size
}

func (t token) matches(c rune) bool {
	switch {
	case t.any:
		return true
	case t.class:
		in := false
		for i := 0; i < len(t.ranges); i += 2 {
			if t.ranges[i] <= c && c <= t.ranges[i+1] {
				in = true
				break
			}
		}
		return in != t.negate
	}
	return t.char == c
}

func (n *name) match(s string) bool {
	if n.kind == kindLiteral {
		return n.text == s
	}
	if n.self && n.text == s {
		return true
	}
	// Only the last star needs to be tried again: an earlier one took the
	// shortest run that let everything up to the last one match.
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		c, size := decode(s[i:])
		if p < len(n.parts) {
			if n.parts[p].star {
				star, mark = p, i
				p++
				continue
			}
			if n.parts[p].matches(c) {
				p++
				i += size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size = decode(s[mark:])
		mark += size
		p, i = star+1, mark
	}
	for p < len(n.parts) && n.parts[p].star {
		p++
	}
	return p == len(n.parts)
}

// MatchName says whether a pattern of one name matches this name; a pattern of
// more names, or "**", matches none.
func (p Pattern) MatchName(name string) bool {
	return len(p.names) == 1 && p.names[0].kind != kindDeep && p.names[0].match(name)
}

// Match says whether the pattern matches the whole path.
func (p Pattern) Match(path string) bool {
	names := Split(path)
	_, deepest, ok := p.DepthsOf(names)
	return ok && deepest == len(names)
}

// Depths returns the shallowest and the deepest ancestor of path that the
// pattern matches, path itself included, as a number of names; ok is false
// when it matches none.
func (p Pattern) Depths(path string) (shallowest, deepest int, ok bool) {
	return p.DepthsOf(Split(path))
}

// DepthsOf is Depths for a path that Split has taken apart, for callers with
// many patterns and one path.
func (p Pattern) DepthsOf(path []string) (shallowest, deepest int, ok bool) {
	end := len(p.names)
	var space [32]bool // most patterns need no memory of their own
	now, next := space[:16], space[16:]
	if end >= 16 {
		now, next = make([]bool, end+1), make([]bool, end+1)
	}
	now[0] = true
	p.spread(now)
	shallowest = -1
	if now[end] {
		shallowest, deepest = 0, 0
	}
	for i, s := range path {
		clear(next)
		alive := false
		for j := range end {
			if !now[j] {
				continue
			}
			switch {
			case p.names[j].kind == kindDeep:
				next[j], alive = true, true
			case p.names[j].match(s):
				next[j+1], alive = true, true
			}
		}
		if !alive {
			break
		}
		p.spread(next)
		if next[end] {
			if shallowest < 0 {
				shallowest = i + 1
			}
			deepest = i + 1
		}
		now, next = next, now
	}
	return max(shallowest, 0), deepest, shallowest >= 0
}

// spread lets "**" stand for no name at all.
func (p Pattern) spread(at []bool) {
	for j := range p.names {
		if at[j] && p.names[j].kind == kindDeep {
			at[j+1] = true
		}
	}
}
