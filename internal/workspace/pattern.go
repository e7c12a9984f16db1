package workspace

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// Pattern names entries of the workspace in the language of package glob. It is
// relative to the workspace, or absolute. A trailing "/" means a directory and
// all below it, a trailing "/**" the entry and all below it; both find the entry
// itself and nothing in it.
//
// A symlink matches a directory pattern too, and so does a symlink in place of
// a directory on the way (Match.Link): what the host's program obeys would lie
// behind it.
type Pattern struct {
	Text   string `json:"text"`
	Reason string `json:"reason,omitempty"`
	Rule   int    `json:"rule,omitempty"`

	links bool // internal: matches symlinks only
}

// FromGuards turns the guards of a plan into patterns.
func FromGuards(guards []plan.Guard) []Pattern {
	out := make([]Pattern, len(guards))
	for i, g := range guards {
		out[i] = Pattern{Text: g.Pattern, Reason: g.Reason, Rule: g.Rule}
	}
	return out
}

// PatternError is a pattern that can't be understood.
type PatternError struct{ Pattern, Problem string }

func (e *PatternError) Error() string { return fmt.Sprintf("pattern %q: %s", e.Pattern, e.Problem) }

// step is one component of a pattern.
type step struct {
	text   string
	any    bool // "**"
	glob   bool // can match more than one name
	single bool // exactly "*"
	match  glob.Pattern
}

type compiled struct {
	steps []step
	dir   bool // only directories (and symlinks in their place)
	links bool // only symlinks
	tree  bool // it had a "**" at the end
}

// place is "pattern p, with the steps before at already matched".
type place struct{ p, at int }

// matcher is all patterns at once: an automaton over names whose states are
// made when a directory first needs them. Most names cost one table look-up.
type matcher struct {
	root  string
	pats  []compiled
	names []string
	// git adds the marks by which a git directory is known.
	git    bool
	states map[string]*state
	start  *state
	// rootOf are the patterns that the root itself matches.
	rootOf []int
}

// state is what a directory needs to know of the patterns. All of it is fixed
// after it is made but next, which the walker guards.
type state struct {
	places []place
	// first and last are the bytes a name must begin or end with to be
	// worth a closer look: literal names and globs with a literal prefix
	// count in first, the other globs in last.
	first, last [256]bool
	literal     map[string]*hit
	globs       []globHit
	plain       *state // where a directory leads that matches nothing special
	next        map[string]*state
}

// hit is what one name means in a state.
type hit struct {
	mark   mark
	places []place // where it leads, besides the places of plain
	full   []int   // patterns that end here
	linked []int   // patterns that go on below: a symlink here is a match
}

type globHit struct {
	match          glob.Pattern
	any            bool
	prefix, suffix string
	hit            hit
}

// mark is a name that, with others beside it, makes a git directory.
type mark uint8

const (
	markHead mark = 1 << iota
	markObjects
	markRefs
	markCommon
)

// gitDir says whether git would take a directory with these names for a
// repository (setup.c, is_git_directory).
func (m mark) gitDir() bool {
	return m&markHead != 0 && (m&markCommon != 0 || m&(markObjects|markRefs) == markObjects|markRefs)
}

var gitMarks = map[string]mark{"HEAD": markHead, "objects": markObjects, "refs": markRefs, "commondir": markCommon}

// compile makes the matcher. Absolute patterns are cut down to what they can
// mean below root; one that can't reach it matches nothing.
func compile(root string, patterns []Pattern, git bool) (*matcher, error) {
	m := &matcher{root: root, git: git, states: map[string]*state{}}
	begin := make([]place, 0, 2*len(patterns))
	m.pats, m.names = make([]compiled, 0, len(patterns)), make([]string, 0, len(patterns))
	for i, p := range patterns {
		c, absolute, err := parse(p.Text)
		if err != nil {
			return nil, err
		}
		c.links = p.links
		if n := len(c.steps) - 1; n >= 0 && c.steps[n].any && !c.links && (n > 0 || absolute) {
			// The entry above stands for all of this.
			c.steps, c.tree = c.steps[:n], true
		}
		m.pats = append(m.pats, c)
		m.names = append(m.names, p.Text)
		from := m.closure([]place{{i, 0}})
		if absolute {
			all := c.tree && m.ends(from)
			for name := range strings.SplitSeq(strings.Trim(root, "/"), "/") {
				if name != "" {
					from = m.advance(from, name)
					all = all || c.tree && m.ends(from)
				}
			}
			if all {
				m.rootOf = append(m.rootOf, i)
				from = nil
			}
		}
		begin = append(begin, from...)
	}
	m.start = m.state(begin)
	return m, nil
}

func parse(text string) (c compiled, absolute bool, err error) {
	bad := func(problem string) (compiled, bool, error) { return c, false, &PatternError{text, problem} }
	body := text
	if strings.HasPrefix(body, "/") {
		absolute, body = true, body[1:]
	}
	if strings.HasSuffix(body, "/") {
		c.dir, body = true, strings.TrimSuffix(body, "/")
	}
	body = strings.TrimPrefix(body, "./")
	if body == "" {
		return bad("it names the workspace itself")
	}
	c.steps = make([]step, 0, strings.Count(body, "/")+1)
	for name := range strings.SplitSeq(body, "/") {
		if name == "" || name == "." || name == ".." {
			return bad(fmt.Sprintf("component %q is not a name", name))
		}
		if name == "**" {
			if n := len(c.steps); n == 0 || !c.steps[n-1].any {
				c.steps = append(c.steps, step{any: true})
			}
			continue
		}
		if !glob.HasMeta(name) && strings.IndexByte(name, 0) < 0 { // most are such
			c.steps = append(c.steps, step{text: name})
			continue
		}
		p, err := glob.Compile(name)
		if err != nil {
			return bad(err.Error())
		}
		text, literal := p.Literal()
		if !literal {
			text = name
		}
		c.steps = append(c.steps, step{text: text, glob: !literal, single: name == "*", match: p})
	}
	return c, absolute, nil
}

// closure adds what "**" may skip.
func (m *matcher) closure(in []place) []place {
	out := make([]place, 0, 2*len(in))
	for _, p := range in {
		for {
			out = append(out, p)
			s := m.pats[p.p].steps
			if p.at >= len(s) || !s[p.at].any {
				break
			}
			p.at++
		}
	}
	slices.SortFunc(out, func(a, b place) int {
		if a.p != b.p {
			return a.p - b.p
		}
		return a.at - b.at
	})
	return slices.Compact(out)
}

// ends says whether a pattern has been matched to its end.
func (m *matcher) ends(at []place) bool {
	return slices.ContainsFunc(at, func(p place) bool { return p.at == len(m.pats[p.p].steps) })
}

func (s step) is(name string) bool {
	if !s.glob {
		return s.text == name
	}
	return s.match.MatchName(name)
}

// advance follows one name.
func (m *matcher) advance(from []place, name string) []place {
	var out []place
	for _, p := range from {
		steps := m.pats[p.p].steps
		switch {
		case p.at >= len(steps):
		case steps[p.at].any:
			out = append(out, p)
		case steps[p.at].is(name):
			out = append(out, place{p.p, p.at + 1})
		}
	}
	return m.closure(out)
}

// state finds or makes the state of these places.
func (m *matcher) state(places []place) *state {
	key := make([]byte, 0, 4*len(places))
	for _, p := range places {
		key = binary.AppendUvarint(binary.AppendUvarint(key, uint64(p.p)), uint64(p.at))
	}
	if s := m.states[string(key)]; s != nil {
		return s
	}
	s := &state{places: places, literal: map[string]*hit{}, next: map[string]*state{}}
	m.states[string(key)] = s
	// What "**" carries on, whatever the name is.
	var stay []place
	lit := func(name string) *hit {
		h := s.literal[name]
		if h == nil {
			h = &hit{}
			s.literal[name] = h
			s.first[name[0]] = true
		}
		return h
	}
	for _, p := range places {
		c := m.pats[p.p]
		if p.at >= len(c.steps) {
			continue
		}
		st := c.steps[p.at]
		if st.any {
			stay = append(stay, p)
			if p.at == len(c.steps)-1 { // a final "**": every name below
				s.globs = append(s.globs, globHit{any: true, hit: hit{full: []int{p.p}}})
				for i := range s.first {
					s.last[i] = true
				}
			}
			continue
		}
		var h *hit
		if st.glob {
			g := globHit{match: st.match, any: st.single}
			g.prefix, g.suffix = literalEnds(st.text)
			s.globs = append(s.globs, g)
			h = &s.globs[len(s.globs)-1].hit
			switch {
			case g.prefix != "":
				s.first[g.prefix[0]] = true
			case g.suffix != "":
				s.last[g.suffix[len(g.suffix)-1]] = true
			default:
				for i := range s.last {
					s.last[i] = true
				}
			}
		} else {
			h = lit(st.text)
		}
		if p.at == len(c.steps)-1 {
			h.full = append(h.full, p.p)
			continue
		}
		h.places = append(h.places, place{p.p, p.at + 1})
		if !st.single {
			h.linked = append(h.linked, p.p)
		}
	}
	if m.git {
		for name, bit := range gitMarks {
			lit(name).mark |= bit
		}
	}
	s.plain = m.state(m.closure(stay))
	return s
}

// literalEnds returns what every name that matches the glob begins and ends with.
func literalEnds(glob string) (string, string) {
	if strings.ContainsRune(glob, '\\') {
		return "", "" // the text is not what is matched
	}
	first := strings.IndexAny(glob, "*?[")
	last := strings.LastIndexAny(glob, "*?]")
	return glob[:first], glob[last+1:]
}

// look finds what name means here; nil means nothing. The result holds until
// the next call with the same scratch.
func (s *state) look(name []byte, scratch *hit) *hit {
	if !s.first[name[0]] && !s.last[name[len(name)-1]] {
		return nil
	}
	h := s.literal[string(name)] // no allocation: the compiler knows m[string(b)]
	if len(s.globs) == 0 {
		return h
	}
	found := h
	for i := range s.globs {
		g := &s.globs[i]
		if len(name) < len(g.prefix)+len(g.suffix) || string(name[:len(g.prefix)]) != g.prefix ||
			string(name[len(name)-len(g.suffix):]) != g.suffix {
			continue
		}
		if !g.any && !g.match.MatchName(string(name)) {
			continue
		}
		if found != scratch {
			*scratch = hit{places: scratch.places[:0], full: scratch.full[:0], linked: scratch.linked[:0]}
			if h != nil {
				scratch.mark = h.mark
				scratch.places = append(scratch.places, h.places...)
				scratch.full = append(scratch.full, h.full...)
				scratch.linked = append(scratch.linked, h.linked...)
			}
			found = scratch
		}
		scratch.places = append(scratch.places, g.hit.places...)
		scratch.full = append(scratch.full, g.hit.full...)
		scratch.linked = append(scratch.linked, g.hit.linked...)
	}
	return found
}

// below is the state of the directory name. Not for concurrent use.
func (m *matcher) below(s *state, name string, h *hit) *state {
	if h == nil || len(h.places) == 0 {
		return s.plain
	}
	if n := s.next[name]; n != nil {
		return n
	}
	n := m.state(m.closure(append(slices.Clone(h.places), s.plain.places...)))
	if s.literal[name] != nil { // globs could make this table as large as the tree
		s.next[name] = n
	}
	return n
}
