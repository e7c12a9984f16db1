package risk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cofferdam/internal/workspace/change"
)

// maxRead is how much of a content is looked at.
const maxRead = 4 << 20

// contents looks into a new content, where the name alone says too little.
func contents(r *Risk, e change.Entry, old, new change.Side, changed map[string]bool) {
	base := strings.ToLower(path.Base(e.Path))
	if why := whyOf(base); why != nil {
		if !anyChanged(changed, path.Dir(e.Path), why) {
			r.add(Flagged, "a lock file whose "+why[0]+" is unchanged: other code will be installed than was asked for")
		}
	}
	if e.Old != nil && e.Old.Sum == e.New.Sum && e.New.Sum != "" {
		return
	}
	text, err := read(new, e.Path)
	if err != nil {
		r.add(Flagged, "it could not be looked into")
		return
	}
	var before []byte
	if e.Old != nil && e.Old.Type == change.File {
		before, _ = read(old, e.Path)
	}
	if base == "package.json" || base == "composer.json" {
		scripts(r, before, text)
	}
	hidden(r, before, text)
}

// anyChanged: one of these files of the directory has changed, whatever its case.
func anyChanged(changed map[string]bool, dir string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return changed[path.Join(strings.ToLower(dir), n)] })
}

func read(side change.Side, path string) ([]byte, error) {
	f, err := side.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// lifecycle are scripts that npm and its like run without being asked for them.
var lifecycle = []string{"preinstall", "install", "postinstall", "prepare", "preprepare", "postprepare", "prepublish", "prepublishOnly", "prepack", "postpack", "dependencies",
	"pre-install-cmd", "post-install-cmd", "pre-update-cmd", "post-update-cmd", "post-autoload-dump", "pre-autoload-dump"}

// scripts compares what a package.json says to run.
func scripts(r *Risk, before, after []byte) {
	old, _ := parseScripts(before)
	new, ok := parseScripts(after)
	if !ok {
		r.add(Flagged, "it can't be read as JSON, and may hold scripts")
		return
	}
	var names []string
	for name, line := range new {
		if old[name] != line {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	var unasked []string
	for _, n := range names {
		if slices.Contains(lifecycle, n) {
			unasked = append(unasked, n)
		}
	}
	if len(unasked) > 0 {
		r.add(Flagged, "scripts that run when packages are installed: "+list(unasked))
		return
	}
	r.add(Flagged, "scripts that you run by name: "+list(names))
}

func parseScripts(text []byte) (map[string]string, bool) {
	var doc struct {
		Scripts map[string]json.RawMessage `json:"scripts"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, false
	}
	out := map[string]string{}
	for name, line := range doc.Scripts {
		out[name] = string(line)
	}
	return out, true
}

// list is a few names, for a line of text. They are from the file: whoever prints
// them escapes them.
func list(names []string) string {
	const most = 5
	for i, n := range names {
		names[i] = n[:min(len(n), 40)]
	}
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// hidden looks for characters that make a text look like another one: what turns
// lines round, what can't be seen, what terminals obey.
func hidden(r *Risk, before, after []byte) {
	if bytes.IndexByte(after[:min(len(after), 8000)], 0) >= 0 {
		return // no text
	}
	was, is := count(before), count(after)
	for kind, n := range is {
		if n > was[kind] {
			r.add(Flagged, hiddenWhy[kind])
		}
	}
}

const (
	bidi = iota
	invisible
	control
)

var hiddenWhy = [...]string{
	bidi:      "it has characters that turn the direction of text: what is shown is not what runs",
	invisible: "it has characters that can't be seen",
	control:   "it has control characters that a terminal obeys",
}

func count(text []byte) (n [3]int) {
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' || c == 0x7f {
				n[control]++
			}
			i++
			continue
		}
		c, size := utf8.DecodeRune(text[i:])
		switch k := kindOf(c); {
		case k < 0, c == 0xfeff && i == 0: // a byte order mark is no trick
		default:
			n[k]++
		}
		i += size
	}
	return n
}

// kindOf is -1 for a character that shows itself.
func kindOf(c rune) int {
	switch {
	case c >= 0x202a && c <= 0x202e, c >= 0x2066 && c <= 0x2069, c == 0x200e, c == 0x200f, c == 0x061c:
		return bidi
	case c >= 0x80 && c < 0xa0:
		return control
	case c == 0x200d: // joins emoji; alone it hides nothing
		return -1
	case unicode.Is(unicode.Cf, c), c >= 0xe0000 && c <= 0xe007f, c == 0x115f, c == 0x1160, c == 0x3164, c == 0xffa0:
		return invisible
	}
	return -1
}

// oddName says what is wrong with a name that can't be shown as it is.
func oddName(path string) string {
	if !utf8.ValidString(path) {
		return "its name is no text"
	}
	for _, c := range path {
		switch k := kindOf(c); {
		case c < ' ' || c == 0x7f || k == control:
			return "its name has control characters"
		case k == bidi:
			return "its name has characters that turn the direction of text"
		case k == invisible:
			return "its name has characters that can't be seen"
		}
	}
	return ""
}
