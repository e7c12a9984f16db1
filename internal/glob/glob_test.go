package glob

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a/b", "/a/b", true},
		{"/a/b", "/a/b/c", false},
		{"/a/*", "/a/b", true},
		{"/a/*", "/a/b/c", false},
		{"/a/*", "/a", false},
		{"/a/**", "/a", true},
		{"/a/**", "/a/b/c", true},
		{"/a/**/c", "/a/c", true},
		{"/a/**/c", "/a/b/b/c", true},
		{"/a/**/c", "/a/b/cc", false},
		{"/**/x/**/y", "/x/a/x/b/y", true},
		{"/a/**/**/c", "/a/c", true},
		{"*.pem", "k.pem", true},
		{"*.pem", ".pem", true},
		{"*.pem", "k.pem.txt", false},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbY", false},
		{"?", "é", true},
		{"?", "ab", false},
		{"?", "\xff", true},
		{"\xff", "\ufffd", false},
		{"[a-c]x", "bx", true},
		{"[!a-c]x", "bx", false},
		{"[^a-c]x", "dx", true},
		{"[]-]x", "-x", false}, // see TestCompileErrors: "[]" is refused
		{"src/[id]/p", "src/[id]/p", true},
		{"src/[id]/p", "src/i/p", true},
		{`src/\[id\]/p`, "src/i/p", false},
		{`src/\[id\]/p`, "src/[id]/p", true},
		{`a\*b`, "a*b", true},
		{`a\*b`, "axb", false},
		{"a**b", "axxb", true},
		{"a**b", "a/b", false},
		{"/", "/", true},
		{"/", "/a", false},
	} {
		p, err := Compile(tt.pattern)
		if err != nil {
			if tt.want {
				t.Errorf("Compile(%q): %v", tt.pattern, err)
			}
			continue
		}
		if got := p.Match(tt.path); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
	}
}

func TestDepths(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		low, high     int
		ok            bool
	}{
		{"/w/**/secrets", "/w/secrets/a/secrets/b", 2, 4, true},
		{"/w/**/.env", "/w/.env", 2, 2, true},
		{"/w/**/.env", "/w/a/b", 0, 0, false},
		{"/w/*", "/w/a/b/c", 2, 2, true},
		{"/", "/w", 0, 0, true},
	} {
		low, high, ok := MustCompile(tt.pattern).Depths(tt.path)
		if low != tt.low || high != tt.high || ok != tt.ok {
			t.Errorf("%q on %q: %d %d %v, want %d %d %v", tt.pattern, tt.path, low, high, ok, tt.low, tt.high, tt.ok)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, bad := range []string{"[a", "[]", "[]]", "[b-a]", `a\`, "a\x00", "[", `[\`} {
		if _, err := Compile(bad); err == nil {
			t.Errorf("Compile(%q) took it", bad)
		}
	}
}

// A pattern of a stranger must not be able to end the program.
func TestOnlyTestsPanic(t *testing.T) {
	n := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		n++
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "glob.MustCompile") {
			t.Errorf("%s calls glob.MustCompile", path)
		}
		return err
	})
	if err != nil || n < 100 {
		t.Errorf("%d files read: %v", n, err)
	}
}

// Patterns that make a backtracking matcher hang.
func TestNoBlowUp(t *testing.T) {
	start := time.Now()
	p := MustCompile(strings.Repeat("**/a*a*a*/", 50) + "b")
	p.Match(strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/", 60) + "c")
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

// FuzzGlob compares with a regular expression made from the same pattern.
func FuzzGlob(f *testing.F) {
	f.Add("/a/**/*.pem", "/a/b/c.pem")
	f.Add("a?[b-d]*", "axcz")
	f.Add(`\*`, "*")
	f.Add("[!a]/[id]", "b/[id]")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := Compile(pattern)
		if err != nil {
			return
		}
		got := p.Match(path)
		if !escaped(path) {
			t.Errorf("Escape(%q) doesn't match it", path)
		}
		if strings.ContainsAny(pattern, `[\`) || !isASCII(pattern+path) {
			return
		}
		var re []string
		for _, n := range Split(pattern) {
			if n == "**" {
				re = append(re, "(/[^/]+)*")
				continue
			}
			q := strings.NewReplacer(`\*`, "[^/]*", `\?`, "[^/]").Replace(regexp.QuoteMeta(n))
			re = append(re, "/"+q)
		}
		clean := ""
		for _, n := range Split(path) {
			clean += "/" + n
		}
		want := regexp.MustCompile(`(?s)^` + strings.Join(re, "") + `$`).MatchString(clean)
		if got != want {
			t.Errorf("%q matches %q: %v, by regexp %v", pattern, path, got, want)
		}
	})
}

// escaped says whether a path matches itself escaped, and is literal then.
func escaped(path string) bool {
	if strings.IndexByte(path, 0) >= 0 {
		return true
	}
	p, err := Compile(Escape(path))
	if err != nil {
		return false
	}
	if _, literal := p.Literal(); !literal && Escape(path) != path {
		return false
	}
	return p.Match(path)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == 0 {
			return false
		}
	}
	return true
}
