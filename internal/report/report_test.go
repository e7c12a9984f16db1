package report

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"cofferdam/internal/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func stored(t testing.TB) ([]byte, []event.Event) {
	t.Helper()
	data, err := os.ReadFile("testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	events, v, err := event.ReadAll(bytes.NewReader(data))
	if err != nil || v.State != event.Whole {
		t.Fatal(v, err)
	}
	return data, events
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; go test ./internal/report -update\n%s", name, got)
	}
}

func TestGolden(t *testing.T) {
	data, events := stored(t)
	for name, style := range map[string]Style{
		"60":     {Width: 60},
		"120":    {Width: 120},
		"colour": {Width: 120, Colour: true},
		"piped":  {},
	} {
		var lines, denied, sum bytes.Buffer
		s := new(Summary)
		for _, e := range events {
			for _, h := range []Handler{Text{W: &lines, Style: style}, Text{W: &denied, Style: style, Denied: true}, s} {
				if err := h.Event(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.WriteText(&sum, style, "20260301-120000-k3f9"); err != nil {
			t.Fatal(err)
		}
		golden(t, "text-"+name+".golden", lines.Bytes())
		golden(t, "denied-"+name+".golden", denied.Bytes())
		golden(t, "summary-"+name+".golden", sum.Bytes())
		for _, out := range []string{lines.String(), denied.String(), sum.String()} {
			if !style.Colour {
				onlyPrintable(t, out)
			}
		}
	}
	var js bytes.Buffer
	for _, e := range events {
		if err := (JSON{W: &js}).Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(js.Bytes(), data) {
		t.Error("JSON is not what is stored")
	}
}

func onlyPrintable(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("not UTF-8: %q", s)
	}
	for _, r := range s {
		if r != '\n' && !strconv.IsPrint(r) || strings.ContainsRune("\u034f\u115f\u1160\u17b4\u17b5\u180b\u2800\u3164\ufe0f\uffa0\U000e0100", r) {
			t.Errorf("%U reaches the terminal in %q", r, s)
		}
	}
}

func TestUneventfulRunSaysNothing(t *testing.T) {
	s := new(Summary)
	for _, k := range []event.Kind{event.Start, event.Running, event.Exit, event.End} {
		s.Event(event.Event{Kind: k})
	}
	var b bytes.Buffer
	if s.WriteText(&b, Style{}, "x"); b.Len() > 0 {
		t.Errorf("%q", &b)
	}
}

func TestStyleOfPipeIsPlain(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, f := range []*os.File{w, nil} {
		if s := StyleOf(f, []string{"TERM=xterm"}); s != (Style{}) {
			t.Errorf("%+v", s)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b":          "/a/b",
		"":              `""`,
		"a b":           `"a b"`,
		`a"b`:           `"a\"b"`,
		"\x1b[2J":       `\x1b[2J`,
		"a\nb\t\r":      `a\nb\t\x0d`,
		"\u202egpj.exe": `\u{202e}gpj.exe`,
		"\u2066x\u200b": `\u{2066}x\u{200b}`,
		"\xff":          `\xff`,
		"\u0085\u00a0":  `\u{0085}\u{00a0}`,
		"grüße 日本":      `"grüße 日本"`,
		"\U000e0041":    `\u{e0041}`,
		// Blank, though they count as printable: they would stand for spaces.
		"x\u2800by\u3164root": `x\u{2800}by\u{3164}root`,
		".env\ufe0f":          `.env\u{fe0f}`,
		// A mark at the start changes what we have written before it.
		"\u0338a\u0301": `\u{0338}a` + "\u0301",
		// No name ends the quotes.
		`a\" by root (1)`: `"a\\\" by root (1)"`,
		`a b\`:            `"a b\\"`,
		`a \xff \xzz`:     `"a \xff \\xzz"`,
		"a \n":            `"a \n"`,
		`a\b`:             `"a\\b"`,
		`\n`:              `"\\n"`,
		`\xff`:            `\xff`,
		"\ufffd":          "\ufffd",
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) = %s, want %s", in, got, want)
		}
	}
}

// What Shell writes, a shell reads back as the same bytes.
func TestShell(t *testing.T) {
	bash, err := exec.LookPath("bash") // not sh: some are older than $'...'
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"/a/b", "a b", "it's", "$(id)", "`id`", "-n", "a\nb", "\x1b[2J", "\xff\xfe", "ü", "\u202e", `\n`, `\xff`, "~", "a'\xff\\", "*"} {
		out, err := exec.Command(bash, "-c", "printf %s "+Shell(event.Escape(s))).Output()
		if s == "-n" { // printf %s takes it as an operand all the same
			out = []byte(strings.TrimSpace(string(out)))
		}
		if err != nil || string(out) != s {
			t.Errorf("%q became %q as %s, %v", s, out, Shell(event.Escape(s)), err)
		}
		onlyPrintable(t, Shell(event.Escape(s)))
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("\x1b]0;x\a\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		onlyPrintable(t, Quote(s))
		onlyPrintable(t, Shell(s))
		onlyPrintable(t, Line(event.Event{Kind: event.Kind(s), Subject: s, Process: s, Rule: s, Detail: s}, Style{Width: 40}))
	})
}

// The summary says how to open what was refused once, and never that nothing would
// when the reason says how.
func TestAdvice(t *testing.T) {
	for _, test := range []struct{ access, reason, why, allow string }{
		{"network", "a.test leads to 192.0.2.1:443: for documentation, which needs a rule of its own; to allow it: --allow-cidr 192.0.2.1/32:443",
			"why: a.test leads to 192.0.2.1:443: for documentation, which needs a rule of its own\n", "to allow it: cofferdam run --allow-cidr 192.0.2.1/32:443\n"},
		{"connect", "a.test:443 is not allowed by any rule; to allow it: --allow-domain a.test:443", "why: a.test:443 is not allowed by any rule\n", "to allow it: cofferdam run --allow-domain a.test:443\n"},
		{"network", `it publishes; to allow it, in network.rules: {"host": "a.test"}`, "why: it publishes; to allow it, in network.rules: {\"host\": \"a.test\"}\n", ""},
		{"network", "denied: because; to allow it: --allow-domain x; rm -rf /", "why: denied: because; to allow it: --allow-domain x; rm -rf /\n", ""},
		{"network", "denied: because; to allow it: --allow-read ~/.ssh", "why: denied: because; to allow it: --allow-read ~/.ssh\n", ""},
		{"network", "a placeholder was sent to a.test:443", "why: a placeholder was sent to a.test:443\n", "no flag of run opens it\n"},
	} {
		s := &Summary{}
		if err := s.Event(event.Event{Kind: event.Denied, Access: test.access, Action: "connect", Subject: "a.test:443", Reason: test.reason}); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := s.WriteText(&b, Style{}, "ID"); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		if !strings.Contains(got, test.why) || !strings.Contains(got, test.allow) || strings.Count(got, "allow it") > 1 || test.allow == "" && strings.Contains(got, "no flag") {
			t.Errorf("%s: %s", test.reason, got)
		}
	}
}
