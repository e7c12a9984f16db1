//go:build linux

package seccomp

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata")

// sysnums reads the numbers of an architecture out of the source of x/sys,
// which generates them from the kernel's headers. Unlike its constants, the
// files can be read for an architecture that this is not.
func sysnums(t testing.TB, arch Arch) map[string]uint32 {
	t.Helper()
	pkg, err := build.Import("golang.org/x/sys/unix", ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, "zsysnum_linux_"+arch.String()+".go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	nums := map[string]uint32{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			name, ok := strings.CutPrefix(v.Names[0].Name, "SYS_")
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(v.Values[0].(*ast.BasicLit).Value, 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			nums[strings.ToLower(name)] = uint32(n)
		}
	}
	if len(nums) < 300 {
		t.Fatalf("%v: only %d numbers found", arch, len(nums))
	}
	return nums
}

func sysnames(t testing.TB, arch Arch) map[uint32]string {
	names := map[uint32]string{}
	for name, n := range sysnums(t, arch) {
		names[n] = name
	}
	return names
}

func TestNumbers(t *testing.T) {
	for arch := range archs {
		nums := sysnums(t, arch)
		for _, r := range rules {
			want, ok := nums[r.Call]
			switch {
			case !ok && r.Number[arch] != none:
				t.Errorf("%v: %s is %d here, and does not exist", arch, r.Call, r.Number[arch])
			case ok && int64(want) != int64(r.Number[arch]):
				t.Errorf("%v: %s is %d here, must be %d", arch, r.Call, r.Number[arch], want)
			}
		}
	}
}

// The C headers are a second witness, as far as they are there and go.
func TestNumbersAgainstHeaders(t *testing.T) {
	headers := [archs]string{
		AMD64: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
		ARM64: "/usr/include/asm-generic/unistd.h",
	}
	define := regexp.MustCompile(`^#define __NR_(\w+)\s+(\d+)`)
	for arch, header := range headers {
		text, err := os.ReadFile(header)
		if err != nil {
			t.Logf("%v: %v", Arch(arch), err)
			continue
		}
		nums := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if m := define.FindStringSubmatch(line); m != nil {
				nums[m[1]] = m[2]
			}
		}
		checked := 0
		for _, r := range rules {
			if want, ok := nums[r.Call]; ok {
				checked++
				if got := strconv.Itoa(int(r.Number[arch])); got != want {
					t.Errorf("%v: %s is %s here, %s in %s", Arch(arch), r.Call, got, want, header)
				}
			}
		}
		if checked < 50 {
			t.Errorf("%v: only %d calls found in %s", Arch(arch), checked, header)
		}
	}
}

// Every call that x/sys knows is listed in testdata/calls.txt with its fate. A
// new x/sys with new calls fails here until someone has decided about them and
// moved Newest.
func TestEveryCallIsDecided(t *testing.T) {
	nums := [archs]map[string]uint32{sysnums(t, AMD64), sysnums(t, ARM64)}
	var names []string
	for _, m := range nums {
		for name, n := range m {
			if n > Newest && name != "arch_specific_syscall" {
				t.Errorf("%s has number %d, and only those up to %d were reviewed", name, n, Newest)
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out bytes.Buffer
	for _, name := range slices.Compact(names) {
		fmt.Fprintf(&out, "%-24s", name)
		for arch := range archs {
			if n, ok := nums[arch][name]; ok {
				fmt.Fprintf(&out, " %5d", n)
			} else {
				fmt.Fprint(&out, "     -")
			}
		}
		fate := "  allowed"
		for _, r := range rules {
			if r.Call != name {
				continue
			}
			if fate == "  allowed" {
				fate = ""
			}
			how := "refused"
			if r.When != nil {
				how = "refused in part"
			}
			fate += fmt.Sprintf("  %s: %s", how, r.Reason)
		}
		fmt.Fprintln(&out, fate)
	}
	golden(t, "testdata/calls.txt", out.Bytes())
}

// The list as a person reads it.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	var group Group
	for _, r := range rules {
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(&out, "\n%s\n", group)
		}
		fmt.Fprintf(&out, "  %-24s %s", r.Call, r.Reason)
		for _, c := range r.When {
			not := ""
			if c.Not {
				not = "not "
			}
			fmt.Fprintf(&out, "\n    if arg%d & %#x is %sone of %#x", c.Arg, c.Mask, not, c.Values)
		}
		fmt.Fprintln(&out)
	}
	golden(t, "testdata/table.txt", out.Bytes())
}

func TestRulesAreComplete(t *testing.T) {
	for _, r := range rules {
		if r.Group == "" || r.Reason == "" || r.Call == "" {
			t.Errorf("%+v lacks a word", r)
		}
		if r.Number[AMD64] == 0 || r.Number[ARM64] == 0 {
			t.Errorf("%s: number left out", r.Call)
		}
		for _, c := range r.When {
			if c.Arg < 0 || c.Arg > 5 || len(c.Values) == 0 || c.Mask == 0 {
				t.Errorf("%s: odd condition %+v", r.Call, c)
			}
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	g, w := bufio.NewScanner(bytes.NewReader(got)), bufio.NewScanner(bytes.NewReader(want))
	for line := 1; ; line++ {
		moreG, moreW := g.Scan(), w.Scan()
		if g.Text() != w.Text() || moreG != moreW {
			t.Fatalf("%s:%d: is %q, now %q; after a review: go test -update", path, line, w.Text(), g.Text())
		}
	}
}
