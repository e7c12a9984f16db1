package supervise

import (
	"bytes"
	"unicode/utf8"
)

// screen knows whether what has been shown so far ends between two things, or in the
// middle of one: a byte of ours there would end a title too early (the bell is what
// ends it), or tear a character in two. It looks at no more than what follows the last
// escape.
type screen struct {
	state screenState
	cut   []byte // the beginning of a character that is not whole
}

type screenState byte

const (
	inText   screenState = iota
	inEscape             // ESC, and what it may have before its last byte
	inCSI                // ESC [ ...
	inString             // ESC ] ... up to BEL or ESC \
)

const (
	bel = 0x07
	esc = 0x1b
)

func (s *screen) show(chunk []byte) {
	if i := bytes.LastIndexByte(chunk, esc); i >= 0 {
		s.state = inText
		s.follow(chunk[i:])
	} else {
		s.follow(chunk)
	}
	if len(chunk) < utf8.UTFMax {
		chunk = append(s.cut, chunk...)
	}
	s.cut = nil
	for k := 1; k <= min(utf8.UTFMax-1, len(chunk)); k++ {
		if last := chunk[len(chunk)-k:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				s.cut = append([]byte(nil), last...)
			}
			break
		}
	}
}

// follow goes on until there is text again (ECMA-48, 5.4 and 5.6).
func (s *screen) follow(b []byte) {
	for _, c := range b {
		switch {
		case c == esc:
			s.state = inEscape
		case s.state == inText:
			return
		case c == 0x18, c == 0x1a: // CAN, SUB
			s.state = inText
		case s.state == inEscape:
			switch {
			case c == '[':
				s.state = inCSI
			case c == ']', c == 'P', c == '_', c == '^', c == 'X':
				s.state = inString
			case c >= 0x30:
				s.state = inText
			}
		case s.state == inCSI && c >= 0x40, s.state == inString && c == bel:
			s.state = inText
		}
	}
}

// settled: a bell may come now.
func (s *screen) settled() bool { return s.state == inText && s.cut == nil }
