package credential

import (
	"bytes"
	"slices"
	"strings"
)

// pair is a text and what comes in its place.
type pair struct{ find, put string }

// stream replaces texts in what comes piece by piece: the leftmost first, at one place
// the longest, and nothing in what was put in. The result does not depend on where the
// pieces end. It holds back only what may be the beginning of a text to be found, which
// is less than the longest of them.
type stream struct {
	pairs []pair
	max   int // length of the longest text
	held  []byte
	// found, if not nil, is told of each replacement.
	found func(pair)
}

func newStream(pairs []pair) *stream {
	s := &stream{}
	for _, p := range pairs {
		if p.find == "" || slices.ContainsFunc(s.pairs, func(q pair) bool { return q.find == p.find }) {
			continue
		}
		s.pairs = append(s.pairs, p)
		s.max = max(s.max, len(p.find))
	}
	// The longest first, so that it wins where it begins like others.
	slices.SortStableFunc(s.pairs, func(a, b pair) int { return len(b.find) - len(a.find) })
	return s
}

// next takes a piece and appends to out what can be passed on. With last, that is all.
func (s *stream) next(out, in []byte, last bool) []byte {
	if len(s.held) > 0 {
		s.held = append(s.held, in...)
		in = s.held
	}
	at, open := 0, -1 // open: where a text may have begun that goes on in the next piece
	ahead := make([]int, len(s.pairs))
	for i := range ahead {
		ahead[i] = -1
	}
	for {
		// Where does each text come next? Asked again only when that is behind us.
		first, which := len(in), -1
		for i, p := range s.pairs {
			if ahead[i] < at {
				if n := index(in[at:], p.find); n < 0 {
					ahead[i] = len(in)
				} else {
					ahead[i] = at + n
				}
			}
			if ahead[i] < first {
				first, which = ahead[i], i
			}
		}
		if last {
			open = len(in)
		} else if open < at {
			open = s.begun(in, at)
		}
		if open <= first {
			out = append(out, in[at:open]...)
			s.held = append(s.held[:0], in[open:]...)
			return out
		}
		p := s.pairs[which]
		if s.found != nil {
			s.found(p)
		}
		out = append(append(out, in[at:first]...), p.put...)
		at = first + len(p.find)
	}
}

// begun is the first place from at on where what is left may be the beginning of a
// longer text; len(in) if there is none.
func (s *stream) begun(in []byte, at int) int {
	for i := max(at, len(in)-s.max+1); i < len(in); i++ {
		for _, p := range s.pairs {
			if rest := in[i:]; p.find[0] == rest[0] && len(rest) < len(p.find) && p.find[:len(rest)] == string(rest) {
				return i
			}
		}
	}
	return len(in)
}

// index is bytes.Index by the first bytes of a long text: up to 32 the search is done
// with vector instructions, beyond 63 it is not.
func index(in []byte, text string) int {
	head := text[:min(len(text), 32)]
	for at := 0; ; {
		n := bytes.Index(in[at:], []byte(head))
		if n < 0 || at+n+len(text) > len(in) {
			return -1
		}
		if at += n; string(in[at:at+len(text)]) == text {
			return at
		}
		at++
	}
}

// replaceAll is what a stream makes of the whole text.
func replaceAll(text string, pairs []pair) string {
	if !slices.ContainsFunc(pairs, func(p pair) bool { return p.find != "" && strings.Contains(text, p.find) }) {
		return text
	}
	return string(newStream(pairs).next(nil, []byte(text), true))
}
