package policy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"
)

// listed reads the rules of the public suffix list from the source of the module
// that go.mod names: its package answers questions and does not print its rules.
func listed(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "publicsuffix", "table_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, text2, ok := strings.Cut(string(text), "var rules = [...]string{")
	text2, _, ok2 := strings.Cut(text2, "\n}")
	if !ok || !ok2 {
		t.Fatal("the table looks otherwise now")
	}
	var out []string
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(text2, -1) {
		out = append(out, m[1])
	}
	if len(out) < 9000 {
		t.Fatalf("only %d rules", len(out))
	}
	return out
}

// The table is that of the module, and says what its package says.
func TestSuffixes(t *testing.T) {
	rules := listed(t)
	set := map[string]bool{}
	for _, r := range rules {
		set[suffixHash(r)] = true
		if strings.HasPrefix(r, "!") {
			continue
		}
		name, wild := strings.CutPrefix(r, "*.")
		if wild {
			set[suffixHash(name)] = true
		}
		for {
			_, above, ok := strings.Cut(name, ".")
			if !ok {
				break
			}
			name = above
			set[suffixHash(name)] = true
		}
	}
	want := strings.Join(slices.Sorted(func(yield func(string) bool) {
		for h := range set {
			if !yield(h) {
				return
			}
		}
	}), "")
	if *update {
		if err := os.WriteFile("suffixes.bin", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return // what is embedded is still the old one
	}
	if want != suffixes {
		t.Error("suffixes.bin is not of the list in go.mod: go test ./internal/policy -run TestSuffixes -update")
	}
	for _, r := range rules {
		name, wild := strings.CutPrefix(r, "*.")
		exception := strings.HasPrefix(name, "!")
		name = strings.TrimPrefix(name, "!")
		if got := publicSuffix(name); got == exception {
			t.Fatalf("%s: %v for the rule %s", name, got, r)
		}
		if wild && !publicSuffix("zz--x."+name) {
			t.Fatalf("something below %s is not one", r)
		}
		// Below a suffix somebody has a name, and what lies below that is theirs.
		below := "zz--x." + name
		if suffix, _ := publicsuffix.PublicSuffix(below); publicSuffix(below) != (suffix == below) {
			t.Fatalf("%s: %v, and its suffix is %s", below, publicSuffix(below), suffix)
		}
	}
	for name, want := range map[string]bool{
		"com": true, "co.uk": true, "github.io": true, "amazonaws.com": true, "s3.amazonaws.com": true, "nosuchtld": true, "internal": true, "ck": true, "zz.ck": true,
		"www.ck": false, "example.com": false, "example.co.uk": false, "me.github.io": false, "corp.internal": false, "github.com": false, "a.b.c.example.org": false,
	} {
		if publicSuffix(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	for _, name := range sharedSuffixes {
		if !publicSuffix(name) {
			t.Logf("%s is in our own list only", name)
		}
	}
}
