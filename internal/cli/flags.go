package cli

import (
	"slices"
	"strings"

	"cofferdam/internal/flow"
)

// flags is what one command understands. Long names only, but for a few
// letters; values as --name VALUE or --name=VALUE.
type flags struct {
	list []*flag
	help bool
	// dashes is how many words stood before "--"; -1 if there was none.
	dashes int
}

type flag struct {
	name   string // without dashes
	letter byte   // 0 is none
	value  string // "FILE"; empty for a switch
	usage  string
	// complete is what the value is, for completion: "file", "dir", or words.
	complete []string
	set      func(string) // not used for a switch
	on       *bool
	repeat   bool
	seen     bool
}

func (f *flags) text(p *string, name, value, usage string, complete ...string) {
	f.list = append(f.list, &flag{name: name, value: value, usage: usage, complete: complete, set: func(s string) { *p = s }})
}

func (f *flags) each(p *[]string, name, value, usage string, complete ...string) {
	f.list = append(f.list, &flag{name: name, value: value, usage: usage + " (repeatable)", complete: complete,
		repeat: true, set: func(s string) { *p = append(*p, s) }})
}

func (f *flags) flag(p *bool, name string, letter byte, usage string) {
	f.list = append(f.list, &flag{name: name, letter: letter, usage: usage, on: p})
}

func (f *flags) find(name string) *flag {
	for _, x := range f.list {
		if x.name == name || len(name) == 1 && x.letter == name[0] {
			return x
		}
	}
	return nil
}

// parse takes the flags out of args and returns the other words. With
// stopAtWord, the first word that is no flag ends the flags: it and what
// follows are a command line of somebody else's. "--" always ends them.
func (f *flags) parse(args []string, stopAtWord bool) ([]string, error) {
	var words []string
	f.dashes = -1
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			f.dashes = len(words)
			return append(words, args[i+1:]...), nil
		case len(a) < 2 || a[0] != '-':
			if stopAtWord {
				return append(words, args[i:]...), nil
			}
			words = append(words, a)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
		if name == "help" || a == "-h" {
			f.help = true
			continue
		}
		x := f.find(name)
		long := strings.HasPrefix(a, "--")
		if x == nil || long && len(name) == 1 || !long && len(name) > 1 {
			return nil, f.unknown(a, name, long)
		}
		if x.seen && !x.repeat && x.on == nil {
			return nil, &flow.UsageError{Text: "--" + x.name + " is given twice", Hint: "keep one of them"}
		}
		x.seen = true
		if x.on != nil {
			if hasValue {
				return nil, &flow.UsageError{Text: "--" + x.name + " takes no value", Hint: "write --" + x.name + " alone, or leave it out"}
			}
			*x.on = true
			continue
		}
		if !hasValue {
			i++
			// A flag as the value of a flag is a forgotten value, not a file
			// called --json. Who means it writes --name=--json.
			if i >= len(args) || len(args[i]) > 1 && args[i][0] == '-' {
				return nil, &flow.UsageError{Text: "--" + x.name + " needs a value", Hint: "write --" + x.name + " " + x.value}
			}
			value = args[i]
		}
		if value == "" {
			return nil, &flow.UsageError{Text: "--" + x.name + " has an empty value", Hint: "write --" + x.name + " " + x.value + "; is a shell variable unset?"}
		}
		x.set(value)
	}
	return words, nil
}

// commandAfter is the command line that follows words of ours. A flag there is
// one of ours in the wrong place: it would be taken for the command, and the
// answer would be that of another question. Who means it writes "--" first.
func commandAfter(words []string) ([]string, error) {
	switch {
	case len(words) == 0:
		return nil, nil
	case words[0] == "--":
		return words[1:], nil
	case strings.HasPrefix(words[0], "-"):
		return nil, &flow.UsageError{Text: "the flag " + cut(words[0]) + " comes too late", Hint: "write flags before the first word"}
	}
	return words, nil
}

func (f *flags) unknown(arg, name string, long bool) error {
	e := &flow.UsageError{Text: "unknown flag " + cut(arg)}
	if !long && len(name) > 1 && f.find(name) != nil {
		e.Hint = "did you mean --" + name + "?"
		return e
	}
	names := []string{"help"}
	for _, x := range f.list {
		names = append(names, x.name)
	}
	if near := nearest(name, names); near != "" {
		e.Hint = "did you mean --" + near + "?"
	}
	return e
}

// cut keeps a message to one line.
func cut(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}

// nearest is the candidate that a typing error may have turned into word, or
// "". Only the unambiguous nearest counts.
func nearest(word string, candidates []string) string {
	best, found, twice := 3, "", false // three errors are another word
	if len(word) < 4 {
		best = 2
	}
	for _, c := range candidates {
		d := distance(word, c)
		if len(word) >= 3 && strings.HasPrefix(c, word) {
			d = 1
		}
		switch {
		case d < best:
			best, found, twice = d, c, false
		case d == best && found != "":
			twice = true
		}
	}
	if twice {
		return ""
	}
	return found
}

// distance counts insertions, deletions, replacements and swaps of neighbours.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 99
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, slices.Clone(prev2)
	}
	return prev[len(b)]
}
