package diff

import "bytes"

// split cuts a text into lines, each with its newline; the last may have none.
func split(text []byte) [][]byte {
	if len(text) == 0 {
		return nil
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// changed says which lines of two texts are not in a longest common subsequence:
// Myers, "An O(ND) Difference Algorithm and Its Variations" (1986), in linear
// space. Where two stretches differ too much it settles for what it has, so that
// hostile texts cost n*maxCost and not n*n.
func changed(a, b [][]byte) (gone, come []bool) {
	gone, come = make([]bool, len(a)), make([]bool, len(b))
	// What is the same at both ends, mostly nearly all, costs nothing but a look.
	start, end := 0, 0
	for start < len(a) && start < len(b) && bytes.Equal(a[start], b[start]) {
		start++
	}
	for end < len(a)-start && end < len(b)-start && bytes.Equal(a[len(a)-1-end], b[len(b)-1-end]) {
		end++
	}
	a, b = a[start:len(a)-end], b[start:len(b)-end]
	numbers := make(map[string]int, len(a))
	number := func(lines [][]byte) []int {
		out := make([]int, len(lines))
		for i, l := range lines {
			n, ok := numbers[string(l)]
			if !ok {
				n = len(numbers)
				numbers[string(l)] = n
			}
			out[i] = n
		}
		return out
	}
	m := myers{a: number(a), b: number(b), gone: gone[start:], come: come[start:], budget: budget}
	m.size = len(a) + len(b) + 1
	m.fwd, m.bwd = make([]int, 2*m.size+2), make([]int, 2*m.size+2)
	m.compare(0, len(a), 0, len(b))
	return gone, come
}

// budget bounds the search in one pair of texts, in points looked at: a second or
// so. What is not searched by then differs.
const budget = 50_000_000

// maxCost is how many edits are looked for between two points.
const maxCost = 1024

type myers struct {
	a, b       []int
	gone, come []bool
	// fwd[size+k] is how far in a the best path on diagonal k has come from the
	// start, bwd the same from the end.
	size     int
	fwd, bwd []int
	budget   int
}

// compare marks a[a0:a1] and b[b0:b1]. The recursion is as deep as the halves are
// many: its depth is the logarithm of the edits, or bounded by maxCost steps each.
func (m *myers) compare(a0, a1, b0, b1 int) {
	for {
		for a0 < a1 && b0 < b1 && m.a[a0] == m.b[b0] {
			a0, b0 = a0+1, b0+1
		}
		for a0 < a1 && b0 < b1 && m.a[a1-1] == m.b[b1-1] {
			a1, b1 = a1-1, b1-1
		}
		if a0 == a1 || b0 == b1 || m.budget <= 0 {
			break
		}
		x, y := m.middle(a0, a1, b0, b1)
		if x == a0 && y == b0 || x == a1 && y == b1 {
			break // nothing in common that is worth the search
		}
		// The smaller half by recursion, so that the stack stays small.
		if x-a0+y-b0 < a1-x+b1-y {
			m.compare(a0, x, b0, y)
			a0, b0 = x, y
		} else {
			m.compare(x, a1, y, b1)
			a1, b1 = x, y
		}
	}
	for i := a0; i < a1; i++ {
		m.gone[i] = true
	}
	for i := b0; i < b1; i++ {
		m.come[i] = true
	}
}

// middle returns a point on a shortest path, from both ends at once. If the paths
// have not met after maxCost edits it is the farthest that was reached.
func (m *myers) middle(a0, a1, b0, b1 int) (int, int) {
	n, k := a1-a0, b1-b0
	delta := n - k
	odd := delta%2 != 0
	z := m.size
	most := min((n+k+1)/2, maxCost)
	bestX, bestY := 0, 0
	for d := 0; d <= most; d++ {
		m.budget -= 4*d + 2
		for i := -d; i <= d; i += 2 {
			x := step(m.fwd, z, i, d, n, k)
			m.fwd[z+i] = x
			if x < 0 {
				continue
			}
			y := x - i
			for x < n && y < k && m.a[a0+x] == m.b[b0+y] {
				x, y = x+1, y+1
			}
			m.fwd[z+i] = x
			if x+y > bestX+bestY {
				bestX, bestY = x, y
			}
			if j := delta - i; odd && j >= -(d-1) && j <= d-1 && m.bwd[z+j] >= 0 && x+m.bwd[z+j] >= n {
				return a0 + x, b0 + y
			}
		}
		for i := -d; i <= d; i += 2 {
			x := step(m.bwd, z, i, d, n, k)
			m.bwd[z+i] = x
			if x < 0 {
				continue
			}
			y := x - i
			for x < n && y < k && m.a[a1-1-x] == m.b[b1-1-y] {
				x, y = x+1, y+1
			}
			m.bwd[z+i] = x
			if j := delta - i; !odd && j >= -d && j <= d && m.fwd[z+j] >= 0 && x+m.fwd[z+j] >= n {
				return a1 - x, b1 - y
			}
		}
	}
	return a0 + bestX, b0 + bestY
}

// nowhere: no path is on that diagonal.
const nowhere = -1

// step goes one edit on to diagonal i from the better of its neighbours, and stays
// within n lines of a and k of b.
func step(v []int, z, i, d, n, k int) int {
	if d == 0 {
		return 0
	}
	best := nowhere
	if i > -d { // one more line of a
		if x := v[z+i-1]; x >= 0 && x < n {
			best = x + 1
		}
	}
	if i < d { // one more line of b
		if x := v[z+i+1]; x > best && x-i <= k {
			best = x
		}
	}
	return best
}

// Hunk is a stretch of lines that differ, with context. Lines are those of both
// sides in order.
type Hunk struct {
	OldAt, OldLines int // where it begins, from 1; how many lines
	NewAt, NewLines int
	// Section is a line above it that tells where it is, as git finds one.
	Section string
	Lines   []Line
}

// Line is one line of a hunk.
type Line struct {
	Kind byte   // ' ', '-', '+'
	Text []byte // with its newline, if it has one
}

const context = 3

// block is a stretch that differs: a[i:iEnd] becomes b[j:jEnd].
type block struct{ i, iEnd, j, jEnd int }

func blocks(gone, come []bool) []block {
	var out []block
	for i, j := 0, 0; i < len(gone) || j < len(come); {
		k := block{i: i, j: j}
		for i < len(gone) && gone[i] {
			i++
		}
		for j < len(come) && come[j] {
			j++
		}
		if k.iEnd, k.jEnd = i, j; i > k.i || j > k.j {
			out = append(out, k)
			continue
		}
		i, j = i+1, j+1
	}
	return out
}

// hunksOf groups what differs, with three lines of context.
func hunksOf(a, b [][]byte) []Hunk {
	gone, come := changed(a, b)
	slide(a, gone)
	slide(b, come)
	list := blocks(gone, come)
	var out []Hunk
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].i-list[n-1].iEnd <= 2*context {
			n++
		}
		out = append(out, hunkOf(a, b, list[:n]))
		list = list[n:]
	}
	return out
}

func hunkOf(a, b [][]byte, list []block) Hunk {
	first, last := list[0], list[len(list)-1]
	before := min(context, first.i)
	after := min(context, len(a)-last.iEnd)
	h := Hunk{
		OldAt: first.i - before, OldLines: last.iEnd - first.i + before + after,
		NewAt: first.j - before, NewLines: last.jEnd - first.j + before + after,
	}
	h.Section = section(a, h.OldAt)
	add := func(kind byte, lines [][]byte) {
		for _, l := range lines {
			h.Lines = append(h.Lines, Line{kind, l})
		}
	}
	at := h.OldAt
	for _, k := range list {
		add(' ', a[at:k.i])
		add('-', a[k.i:k.iEnd])
		add('+', b[k.j:k.jEnd])
		at = k.iEnd
	}
	add(' ', a[at:at+after])
	// From 1; of a side without lines, the line before.
	if h.OldLines > 0 {
		h.OldAt++
	}
	if h.NewLines > 0 {
		h.NewAt++
	}
	return h
}

// slide moves each run of changed lines down as long as that changes nothing, as
// git does: a new function begins with its head and not with the brace before. It
// must not come to touch the next run, or be moved where the other side's lines
// are told in another order: so it stops at the first difference.
func slide(lines [][]byte, on []bool) {
	for end := len(lines) - 1; end >= 0; end-- {
		if !on[end] {
			continue
		}
		start := end
		for start > 0 && on[start-1] {
			start--
		}
		first, after := start, end+1
		for after < len(lines) && !on[after] && bytes.Equal(lines[first], lines[after]) {
			on[first], on[after] = false, true
			first, after = first+1, after+1
		}
		end = start
	}
}

// section finds the line that git shows behind a hunk's head: the last one above
// that begins with a letter, "_" or "$".
func section(lines [][]byte, before int) string {
	for i := before - 1; i >= 0 && i >= before-maxLookBack; i-- {
		l := bytes.TrimRight(lines[i], " \t\r\n\v\f")
		if len(l) > 0 && (l[0] >= 'a' && l[0] <= 'z' || l[0] >= 'A' && l[0] <= 'Z' || l[0] == '_' || l[0] == '$') {
			return string(l[:min(len(l), 80)])
		}
	}
	return ""
}

const maxLookBack = 5000

// Patch carries some hunks of a file over: old is the text that they were made
// from, and with all of them the result is the new one.
func Patch(old []byte, hunks []Hunk) []byte {
	lines := split(old)
	var out []byte
	at := 0
	for _, h := range hunks {
		start := h.OldAt
		if h.OldLines > 0 {
			start--
		}
		for ; at < start; at++ {
			out = append(out, lines[at]...)
		}
		for _, l := range h.Lines {
			if l.Kind != '-' {
				out = append(out, l.Text...)
			}
		}
		at = start + h.OldLines
	}
	for ; at < len(lines); at++ {
		out = append(out, lines[at]...)
	}
	return out
}
