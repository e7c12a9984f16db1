package workspace

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"cofferdam/internal/glob"
)

func put(t testing.TB, root string, files ...string) {
	t.Helper()
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		full := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(full, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if to, ok := strings.CutPrefix(content, "->"); ok {
			must(t, os.Symlink(to, full))
			continue
		}
		must(t, os.WriteFile(full, []byte(content), 0o644))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pats(text ...string) []Pattern {
	var out []Pattern
	for _, s := range text {
		out = append(out, Pattern{Text: s})
	}
	return out
}

func TestScanMatches(t *testing.T) {
	root := t.TempDir()
	put(t, root, ".env=", "a/b/c/d/e/.env.local=", ".envrc=", "a/.claude/settings.json={}", "b/.claude=->../a/.claude",
		"c/.claude=file", ".git=->elsewhere", "x/.git/hooks/pre-commit=", "x/.git/hooks.d/y=", "keys/id.pem=", "keys/id.pemx=", "app/[id]/page=", "app/d/page=",
		"sub/new\nline/.env=", "sub/\x1b[31m/.env=", "sub/\xff\xfe/.env=", "sub/"+strings.Repeat("n", 255)+"/.env=")
	for _, c := range []struct {
		pattern string
		want    []string
	}{
		{".env", []string{".env file"}},
		{"**/.env.*", []string{"a/b/c/d/e/.env.local file"}},
		{"**/.claude/", []string{"a/.claude dir", "b/.claude symlink"}},
		{"**/.git/hooks/", []string{".git symlink link", "x/.git/hooks dir"}},
		{"**/*.pem", []string{"keys/id.pem file"}},
		{"*/.claude/*.json", []string{"a/.claude/settings.json file", "b/.claude symlink link"}},
		{root + "/keys/*", []string{"keys/id.pem file", "keys/id.pemx file"}},
		{"/**/id.pem", []string{"keys/id.pem file"}},
		{"/elsewhere/*", nil},
		{filepath.Dir(root) + "/*/.env", []string{".env file"}},
		{"a/**/settings.json", []string{"a/.claude/settings.json file"}},
		{"a/**", []string{"a dir"}}, // which stands for all of it
		{"**/.claude/**", []string{"a/.claude dir", "b/.claude symlink", "c/.claude file"}},
		{root + "/**", []string{". dir"}},
		{filepath.Dir(root) + "/**", []string{". dir"}},
		{"/**", []string{". dir"}},
		{"app/[id]/page", []string{"app/[id]/page file", "app/d/page file"}}, // a class matches its own text too
		{"app/[!i]/page", []string{"app/d/page file"}},
		{`app/\[id]/page`, []string{"app/[id]/page file"}},
		{"keys/i**m", []string{"keys/id.pem file"}},
		{"**/.en[v]", []string{".env file", "sub/\x1b[31m/.env file", "sub/new\nline/.env file", "sub/" + strings.Repeat("n", 255) + "/.env file", "sub/\xff\xfe/.env file"}},
		{"sub/?\xfe/.env", []string{"sub/\xff\xfe/.env file"}},
	} {
		res, err := Scan(root, pats(c.pattern), Limits{})
		must(t, err)
		var got []string
		for _, m := range res.Matches {
			s := string(m.Path) + " " + m.Kind
			if m.Link {
				s += " link"
			}
			got = append(got, s)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.pattern, got, c.want)
		}
		if len(res.Blind) != 0 {
			t.Errorf("%s: blind %v", c.pattern, res.Blind)
		}
	}
}

// The automaton must say what a plain walk says.
func TestScanAgreesWithNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", ".git", "hooks", ".env", "ab", "x.pem"}
	comps := append(slices.Clone(names), "*", "**", "a*", "*.pem", "?", "**")
	root := t.TempDir()
	for range 300 {
		p := root
		for range rng.IntN(5) + 1 {
			p = filepath.Join(p, names[rng.IntN(len(names))])
		}
		os.MkdirAll(p, 0o755)
	}
	for range 400 {
		var ps []Pattern
		for range rng.IntN(4) + 1 {
			var c []string
			for range rng.IntN(4) + 1 {
				c = append(c, comps[rng.IntN(len(comps))])
			}
			ps = append(ps, Pattern{Text: strings.Join(c, "/")})
		}
		res, err := Scan(root, ps, Limits{Matches: 1 << 30})
		must(t, err)
		var got, want []string
		for _, m := range res.Matches {
			got = append(got, fmt.Sprint(m.Path, m.Pattern))
		}
		filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if rel, _ := filepath.Rel(root, p); rel != "." {
				for i, pat := range ps {
					comps := strings.Split(pat.Text, "/")
					for len(comps) > 1 && comps[len(comps)-1] == "**" {
						comps = comps[:len(comps)-1]
					}
					if naive(comps, strings.Split(rel, "/")) {
						want = append(want, fmt.Sprint(rel, i))
					}
				}
			}
			return nil
		})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%v:\n got %q\nwant %q", ps, got, want)
		}
	}
}

func naive(pat, name []string) bool {
	if len(pat) == 0 {
		return len(name) == 0
	}
	if pat[0] == "**" {
		if len(pat) == 1 {
			return len(name) > 0
		}
		return naive(pat[1:], name) || len(name) > 0 && naive(pat, name[1:])
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := filepath.Match(pat[0], name[0])
	return ok && naive(pat[1:], name[1:])
}

func TestScanDepth(t *testing.T) {
	root := t.TempDir()
	dir, err := os.OpenRoot(root) // deeper than PATH_MAX: one step at a time
	must(t, err)
	for range 1000 {
		must(t, dir.Mkdir("deep-directory", 0o755))
		next, err := dir.OpenRoot("deep-directory")
		must(t, err)
		must(t, dir.Close())
		dir = next
	}
	must(t, dir.WriteFile(".env", nil, 0o644))
	must(t, dir.Close())
	res, err := Scan(root, pats("**/.env"), Limits{})
	must(t, err)
	if len(res.Matches) != 1 || len(res.Matches[0].Path) != 1000*15+4 || len(res.Blind) != 0 {
		t.Fatalf("matches %d, blind %v", len(res.Matches), res.Blind)
	}
}

func TestScanTooMany(t *testing.T) {
	root := t.TempDir()
	for i := range 50 {
		put(t, root, fmt.Sprintf("%d/.env=", i))
	}
	_, err := Scan(root, pats("**/none", "**/.env"), Limits{Matches: 20})
	var many *TooManyError
	if !errors.As(err, &many) || many.Pattern != "**/.env" {
		t.Fatalf("got %v", err)
	}
	_, err = Scan(root, pats("**/.env"), Limits{Entries: 99})
	var large *TooLargeError
	if !errors.As(err, &large) {
		t.Fatalf("got %v for 100 entries", err)
	}
	if _, err = Scan(root, pats("**/.env"), Limits{Entries: 100}); err != nil {
		t.Fatal(err)
	}
}

// An unreadable directory is reported, as an ordinary user.
func TestScanUnreadable(t *testing.T) {
	if dir := os.Getenv("SCAN_AS_USER"); dir != "" {
		res, err := Scan(dir, pats("**/.env"), Limits{})
		must(t, err)
		if len(res.Blind) != 1 || res.Blind[0].Path != "closed" {
			t.Fatalf("blind %v", res.Blind)
		}
		return
	}
	root := t.TempDir()
	put(t, root, "closed/.env=", "open/.env=")
	must(t, os.Chmod(filepath.Join(root, "closed"), 0))
	defer os.Chmod(filepath.Join(root, "closed"), 0o700) // who is not root could not remove it
	cmd := exec.Command(copyTest(t), "-test.run=^TestScanUnreadable$")
	cmd.Env = append(os.Environ(), "SCAN_AS_USER="+root)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		for p := root; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
			must(t, os.Chmod(p, 0o755))
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// copyTest puts the test binary where any user can execute it.
func copyTest(t *testing.T) string {
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	dir, err := os.MkdirTemp("", "workspace-test")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "test"), data, 0o755))
	return filepath.Join(dir, "test")
}

func TestPatternErrors(t *testing.T) {
	for _, p := range []string{"", "/", "./", "a//b", "../x", "a/../b", "[", "a\x00b"} {
		if _, err := Scan(t.TempDir(), pats(p), Limits{}); err == nil {
			t.Errorf("%q: no error", p)
		}
	}
}

func TestNameRoundTrip(t *testing.T) {
	for _, n := range []string{"a", "a\\b", "\xff", "x\ny\x1b", `\x41`, "ü\xc3", "�"} {
		b, err := json.Marshal(Name(n))
		must(t, err)
		var back Name
		must(t, json.Unmarshal(b, &back))
		if string(back) != n {
			t.Errorf("%q -> %s -> %q", n, b, back)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a b", "it's", "x\ny", "\x1b[31m", "\xff\xef", "$(x)`y`", "\u202e", "\x011"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return // no argument of a command can hold it
		}
		q := Quote(s)
		for _, r := range q {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %q", q, r)
			}
		}
		out, err := exec.Command("bash", "-c", "printf %s "+q).Output()
		if err != nil || string(out) != s {
			t.Fatalf("%q -> %s -> %q %v", s, q, out, err)
		}
	})
}

// The automaton agrees with package glob, which the rules are written for.
func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{{"**/.git/hooks", "a/.git/hooks"}, {"a/**/[!b]*.pem", "a/x/c.pem"}, {"[id]", "[id]"}, {`\*`, "*"}, {"a**b/?", "axb/\xff"}, {"**/a/**/b", "a/a/b/b"}, {"\xff", "\ufffd"}, {"**/**/x", "x"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.HasSuffix(pattern, "/") || strings.HasSuffix(pattern, "**") || strings.HasPrefix(pattern, "/") || strings.HasPrefix(pattern, "./") {
			return // these say more than a glob does
		}
		parts := strings.Split(name, "/")
		if slices.Contains(parts, "") {
			return
		}
		m, err := compile("/w", []Pattern{{Text: pattern}}, false)
		if err != nil {
			return
		}
		want := glob.MustCompile(pattern).Match(name)
		_, h := (&looker{m: m}).follow(name)
		if got := h != nil && len(h.full) > 0; got != want {
			t.Fatalf("%q on %q: %v, glob says %v", pattern, name, got, want)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	root := b.TempDir()
	for i := range 3000 { // 60,000 files in 3,000 directories
		dir := filepath.Join(root, fmt.Sprintf("pkg%02d/mod%02d/d%d", i%30, i/30%20, i))
		must(b, os.MkdirAll(dir, 0o755))
		for j := range 20 {
			must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d.go", j)), nil, 0o644))
		}
	}
	put(b, root, ".git/config=", ".git/hooks/x=", "pkg01/.env=")
	ps := pats("**/.git/hooks/", "**/.git/config", "**/.git/commondir", "**/.git/modules/**/config", "**/.claude/", "**/.cursor/", "**/.vscode/",
		"**/.idea/", "**/.mcp.json", "**/.envrc", "**/.env", "**/.env.*", "**/*.pem", "**/*.code-workspace", "**/.devcontainer/", "**/id_rsa*")
	b.ReportAllocs()
	for b.Loop() {
		res, err := Scan(root, ps, Limits{})
		if err != nil || len(res.Matches) != 3 || res.Entries < 60_000 {
			b.Fatal(err, res.Entries, res.Matches)
		}
	}
}

// What a run of a small project pays before it starts.
func BenchmarkScanSmall(b *testing.B) {
	root := b.TempDir()
	put(b, root, "go.mod=", "main.go=", "a/a.go=", ".git/config=", ".env=")
	ps := pats("**/.git/hooks/", "**/.git/config", "**/.claude/", "**/.vscode/", "**/.envrc", "**/.env", "**/.env.*", "**/*.pem", "**/id_rsa*")
	for b.Loop() {
		if res, err := Scan(root, ps, Limits{}); err != nil || len(res.Matches) != 2 {
			b.Fatal(err, res)
		}
	}
}
