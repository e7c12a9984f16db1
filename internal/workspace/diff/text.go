package diff

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"cofferdam/internal/workspace/change"
)

// Style is how the text is written.
type Style struct {
	Colour bool
	// Line makes a line's content harmless where it is shown; nil leaves it as it
	// is, for programs. It never sees the newline.
	Line func([]byte) string
}

// git's colours.
const (
	bold  = "1"
	red   = "31"
	green = "32"
	cyan  = "36"
)

// writer keeps the first error.
type writer struct {
	w   io.Writer
	s   Style
	err error
}

func (w *writer) line(colour, text string) {
	if w.err != nil {
		return
	}
	if w.s.Colour && colour != "" && text != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[m"
	}
	_, w.err = io.WriteString(w.w, text+"\n")
}

// Text writes one file as `git diff` does. What git has no words for (directories,
// modes beyond "executable", devices) stands in lines that begin with "# ", which
// `git apply` passes over.
func Text(w io.Writer, f File, c Content, s Style) error {
	out := &writer{w: w, s: s}
	if kind(f.From) != kind(f.To) && kind(f.From) != "" && kind(f.To) != "" {
		// git: one entry goes, another comes. What is a directory is no entry.
		out.entry(File{Old: f.Old, From: f.From}, part(c, '-'))
		out.entry(File{New: f.New, To: f.To}, part(c, '+'))
		return out.err
	}
	out.entry(f, c)
	return out.err
}

// kind is what git takes for another kind of entry.
func kind(s *change.State) string {
	if s == nil {
		return ""
	}
	return string(s.Type)
}

// part is one side of a content, whole.
func part(c Content, side byte) Content {
	if side == '-' {
		c.New = nil
	} else {
		c.Old = nil
	}
	if !c.Binary && c.Unread == "" {
		c.Hunks = hunksOf(split(c.Old), split(c.New))
	}
	return c
}

// gitMode is the mode that git would keep.
func gitMode(s *change.State) string {
	switch {
	case s.Type == change.Symlink:
		return "120000"
	case s.Mode&0o100 != 0:
		return "100755"
	}
	return "100644"
}

func (w *writer) entry(f File, c Content) {
	w.remarks(f)
	one := f.From
	if one == nil {
		one = f.To
	}
	if one.Type != change.File && one.Type != change.Symlink {
		return
	}
	a, b := f.Old, f.New
	if a == "" {
		a = b
	}
	if b == "" {
		b = a
	}
	same := bytes.Equal(c.Old, c.New) && c.Unread == ""
	if f.From != nil && f.To != nil && same && !f.Renamed() && gitMode(f.From) == gitMode(f.To) {
		return // the remarks have said it
	}
	w.line(bold, "diff --git "+Quote("a/"+a)+" "+Quote("b/"+b))
	mode := ""
	switch {
	case f.From == nil:
		w.line(bold, "new file mode "+gitMode(f.To))
	case f.To == nil:
		w.line(bold, "deleted file mode "+gitMode(f.From))
	case gitMode(f.From) != gitMode(f.To):
		w.line(bold, "old mode "+gitMode(f.From))
		w.line(bold, "new mode "+gitMode(f.To))
	default:
		mode = " " + gitMode(f.To)
	}
	if f.Renamed() {
		w.line(bold, fmt.Sprintf("similarity index %d%%", f.Similarity))
		w.line(bold, "rename from "+Quote(a))
		w.line(bold, "rename to "+Quote(b))
	}
	if same && (f.Renamed() || f.From != nil && f.To != nil) {
		return
	}
	if c.Unread != "" {
		w.line("", "# "+Quote(b)+": "+w.shown([]byte(c.Unread)))
		return
	}
	w.line(bold, "index "+blob(f.From, c.Old)+".."+blob(f.To, c.New)+mode)
	w.body(f, c, a, b)
}

func (w *writer) body(f File, c Content, a, b string) {
	from, to := "/dev/null", "/dev/null"
	if f.From != nil {
		from = Quote("a/" + a)
	}
	if f.To != nil {
		to = Quote("b/" + b)
	}
	if c.Binary {
		w.line("", "Binary files "+from+" and "+to+" differ")
		return
	}
	if len(c.Hunks) == 0 {
		return
	}
	// A name with a space ends with a tab, so that patch(1) finds its end.
	tab := func(s string) string {
		if strings.Contains(s, " ") && !strings.HasPrefix(s, `"`) {
			return s + "\t"
		}
		return s
	}
	w.line(bold, "--- "+tab(from))
	w.line(bold, "+++ "+tab(to))
	for _, h := range c.Hunks {
		w.hunk(h)
	}
}

// Write writes one hunk alone.
func (h Hunk) Write(w io.Writer, s Style) error {
	out := &writer{w: w, s: s}
	out.hunk(h)
	return out.err
}

func (w *writer) hunk(h Hunk) {
	head := "@@ -" + span(h.OldAt, h.OldLines) + " +" + span(h.NewAt, h.NewLines) + " @@"
	if w.s.Colour {
		head = "\x1b[" + cyan + "m" + head + "\x1b[m"
	}
	if h.Section != "" {
		head += " " + w.shown([]byte(h.Section))
	}
	w.line("", head)
	for _, l := range h.Lines {
		text, ended := bytes.CutSuffix(l.Text, []byte("\n"))
		colour := map[byte]string{'+': green, '-': red}[l.Kind]
		w.line(colour, string(l.Kind)+w.shown(text))
		if !ended {
			w.line("", `\ No newline at end of file`)
		}
	}
}

func (w *writer) shown(text []byte) string {
	if w.s.Line == nil {
		return string(text)
	}
	return w.s.Line(text)
}

func span(at, lines int) string {
	if lines == 1 {
		return fmt.Sprint(at)
	}
	return fmt.Sprintf("%d,%d", at, lines)
}

// remarks tells what git does not.
func (w *writer) remarks(f File) {
	name := Quote(f.Path())
	special := func(s *change.State) bool {
		return s != nil && (s.Type == change.Directory || s.Type == change.Other)
	}
	switch {
	case f.To == nil && special(f.From):
		w.line("", "# "+name+": "+string(f.From.Type)+" deleted")
	case f.From == nil && special(f.To):
		w.line("", "# "+name+": new "+string(f.To.Type)+fmt.Sprintf(", mode %04o", f.To.Mode))
	case f.From != nil && f.To != nil && f.From.Type == f.To.Type && f.From.Mode != f.To.Mode && f.To.Type != change.Symlink:
		w.line("", "# "+name+fmt.Sprintf(": mode %04o becomes %04o", f.From.Mode, f.To.Mode))
	case f.From == nil && f.To.Type == change.File && f.To.Mode&0o7000 != 0:
		w.line("", "# "+name+fmt.Sprintf(": mode %04o", f.To.Mode))
	}
}

// Quote writes a path as git does with core.quotePath: control characters, quotes,
// backslashes and all that is not ASCII as escapes in C's quotes.
func Quote(path string) string {
	plain := true
	for i := range len(path) {
		if c := path[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			plain = false
		}
	}
	if plain {
		return path
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(path) {
		c := path[i]
		switch at := strings.IndexByte("\a\b\t\n\v\f\r\"\\", c); {
		case at >= 0:
			b.WriteString(`\` + `abtnvfr"\`[at:at+1])
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + `"`
}

// Row is one file in a table of how much differs.
type Row struct {
	Name           string // as it is shown
	Added, Removed int
	// Instead of lines: "Bin 3 -> 5 bytes", "mode 0644 -> 0755".
	Text string
}

// RowOf is the row of a file; only is false for one that says nothing of itself.
func RowOf(f File, c Content) Row {
	r := Row{Name: Quote(f.Path()), Added: c.Added, Removed: c.Removed}
	if f.Renamed() {
		r.Name = Quote(f.Old) + " => " + Quote(f.New)
	}
	size := func(s *change.State) int64 {
		if s == nil {
			return 0
		}
		return s.Size
	}
	switch {
	case c.Unread != "", c.Binary:
		r.Text = fmt.Sprintf("Bin %d -> %d bytes", size(f.From), size(f.To))
	case f.From != nil && f.To != nil && f.From.Mode != f.To.Mode && c.Added+c.Removed == 0:
		r.Text = fmt.Sprintf("mode %04o -> %04o", f.From.Mode, f.To.Mode)
	case kind(f.From) == string(change.Directory) || kind(f.To) == string(change.Directory):
		r.Text = "directory"
	case kind(f.To) == string(change.Other):
		r.Text = "device, FIFO or socket"
	}
	return r
}

// Stat writes rows as `git diff --stat` does, within width columns.
func Stat(w io.Writer, rows []Row, width int, s Style) error {
	if width <= 0 {
		width = 80
	}
	name, most := 0, 0
	files, added, removed := 0, 0, 0
	for _, r := range rows {
		name = max(name, len(r.Name))
		most = max(most, r.Added+r.Removed)
		files, added, removed = files+1, added+r.Added, removed+r.Removed
	}
	digits := len(fmt.Sprint(most))
	name = min(name, max(width-digits-16, 20))
	graph := max(min(width-name-digits-5, most), 1)
	out := &writer{w: w, s: s}
	for _, r := range rows {
		text := r.Name
		if len(text) > name {
			text = "..." + text[len(text)-name+3:]
		}
		line := fmt.Sprintf(" %-*s | ", name, text)
		if r.Text != "" {
			out.line("", line+r.Text)
			continue
		}
		plus, minus := scaled(r.Added, r.Removed, most, graph)
		bar := paint(s, green, strings.Repeat("+", plus)) + paint(s, red, strings.Repeat("-", minus))
		out.line("", strings.TrimRight(line+fmt.Sprintf("%*d %s", digits, r.Added+r.Removed, bar), " "))
	}
	if files > 0 {
		out.line("", " "+total(files, added, removed))
	}
	return out.err
}

func paint(s Style, colour, text string) string {
	if !s.Colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[m"
}

// scaled fits a bar into width: what is not nothing has at least one sign.
func scaled(plus, minus, most, width int) (int, int) {
	if most <= width {
		return plus, minus
	}
	scale := func(n int) int {
		if n == 0 {
			return 0
		}
		return 1 + n*(width-2)/most
	}
	return scale(plus), scale(minus)
}

// total is git's last line.
func total(files, added, removed int) string {
	count := func(n int, one, more string) string {
		if n == 1 {
			return fmt.Sprintf("%d %s", n, one)
		}
		return fmt.Sprintf("%d %s", n, more)
	}
	text := count(files, "file changed", "files changed")
	if added > 0 || removed == 0 {
		text += ", " + count(added, "insertion(+)", "insertions(+)")
	}
	if removed > 0 || added == 0 {
		text += ", " + count(removed, "deletion(-)", "deletions(-)")
	}
	return text
}
