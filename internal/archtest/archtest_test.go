// Package archtest holds the rules of who may import and do what, each with
// its reason, as a test. ARCHITECTURE.md tells the same in prose.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "cofferdam"

// rule: the packages in who must not import what is in never, but for except.
// A name is a package of ours below internal/, or any import path; "/..." at
// its end means also everything below.
type rule struct {
	who    []string
	never  []string
	except []string
	// deep: not through other packages of ours either.
	deep   bool
	reason string
}

// ours means every package of this module.
const ours = module + "/..."

func rules() []rule {
	return []rule{
		{who: []string{"plan", "event", "host", "workspace/change"}, never: []string{ours}, deep: true,
			reason: "leaves: everybody may use these values, so they can't know anybody"},
		{who: []string{"policy/..."}, never: []string{ours, "os/exec", "net/http"}, except: []string{"plan", "policy/...", "glob", "profile/...", "gateway/decide"}, deep: true,
			reason: "what is permitted must not depend on the machine, and must be fuzzable; a host's name is read by whoever will decide about it"},
		{who: []string{"plan/compile"}, never: []string{"os", "os/exec", "syscall", "net", "linux/...", "boundary/...", "host/probe", "host/registry", "golang.org/x/sys/unix"},
			reason: "the same policy and facts give the same plan, byte for byte"},
		{who: []string{"gateway/decide"}, never: []string{ours, "os", "net", "syscall", "net/http"}, except: []string{"plan", "glob"}, deep: true,
			reason: "who may connect where, and ask for what, is a function of rules and question: nothing is resolved, dialled or remembered to answer it"},
		{who: []string{"host/probe", "host/registry"}, never: []string{"policy/...", "plan/..."}, deep: true,
			reason: "facts don't depend on wishes"},
		{who: []string{"boundary/...", "stage/...", "supervise", "workspace/..."}, never: []string{"policy/...", "plan/compile", "flow", "cli"}, deep: true,
			reason: "a backend carries out the plan and never decides again"},
		{who: []string{"boundary/native"}, never: []string{"boundary/container/...", "boundary/vm/..."}, reason: "backends don't know each other"},
		{who: []string{"boundary/container/..."}, never: []string{"boundary/native/...", "boundary/vm/..."}, reason: "backends don't know each other"},
		{who: []string{"boundary/vm/..."}, never: []string{"boundary/native/...", "boundary/container/..."}, reason: "backends don't know each other"},
		{who: []string{"linux/..."}, never: []string{ours}, except: []string{"linux/...", "plan", "host"}, deep: true,
			reason: "mechanism without policy: it may use values that others decided on, and is tested alone"},
		{who: []string{"stage/..."}, never: []string{"net/http", "text/template", "html/template", "regexp", "crypto/tls", "encoding/json", "session", "event"}, deep: true,
			reason: "it runs in every child: costly initialisation and large code have no place there"},
		{who: []string{"verify/..."}, never: []string{"boundary/...", "linux/...", "stage/..."}, except: []string{"boundary"},
			reason: "a witness that shares code with the guard shares its mistakes"},
		{who: []string{"session", "report"}, never: []string{ours}, except: []string{"event", "plan", "linux/unixsock"},
			reason: "they store and tell; they act on nothing"},
		{who: []string{"gateway"}, never: []string{ours, "net/http"}, except: []string{"gateway/decide", "gateway/budget", "gateway/credential", "boundary", "plan"},
			reason: "it asks decide and knows no policy and no mechanism; and each start pays for a linked package's initialisation, which is worth it for crypto/tls alone (1 ms)"},
		{who: []string{"gateway/budget"}, never: []string{ours, "os", "net", "syscall"}, deep: true,
			reason: "what is too much is a function of what was counted and the time that it is told"},
		{who: []string{"gateway/credential"}, never: []string{ours, "net/http"}, deep: true,
			reason: "it has the secrets: it knows no rule, decides about no host but whose they are, and writes nothing"},
		{who: []string{"gateway/authority"}, never: []string{ours, "net/http", "os/exec"},
			reason: "it holds the session's keys: nothing of ours is near them, and it has nobody to give them to"},
		{who: []string{"approval/..."}, never: []string{ours, "os/exec", "net/http"}, except: []string{"approval/...", "plan", "event"}, deep: true,
			reason: "who asks and who answers meet here, and what an answer does is for others to say"},
		{who: []string{"cli"}, never: []string{"boundary/...", "linux/...", "stage/...", "supervise", "plan/compile", "host/probe", "host/registry", "gateway/..."}, except: []string{"boundary"},
			reason: "words and flags only: what acts comes in as cli.App"},
		{who: []string{"cli", "flow", "session", "event", "report", "boundary/native", "supervise"},
			never:  []string{"net/http", "text/template", "html/template", "github.com/spf13/cobra"},
			reason: "each start pays for a linked package's initialisation"},
		{who: []string{"..."}, never: []string{"golang.org/x/sys/unix"}, except: []string{"linux/...", "stage/...", "verify/...", "host/probe"},
			reason: "the doors to the kernel are few, so that they can be reviewed"},
		{who: []string{"..."}, never: []string{"cli"}, except: []string{module + "/cmd/cofferdam"}, reason: "the command line uses the rest, nothing uses it"},
		{who: []string{module + "/cmd/...", module + "/internal/..."}, never: []string{"testenv"}, reason: "it is for tests"},
		{who: []string{"..."}, never: []string{"C"}, reason: "one static binary, no cgo"},
		{who: []string{"..."}, never: []string{"log", "github.com/pkg/errors"}, reason: "facts are events, thoughts are slog; errors are the standard library's"},
	}
}

// exemptions are single imports ("supervise imports X") that break a rule, each
// with the reason why they may. A stale one fails the test.
func exemptions() map[string]string {
	return map[string]string{
		"supervise imports golang.org/x/sys/unix": "the terminal relay is one poll(2) loop over descriptors that package os would make blocking",
	}
}

type pkg struct {
	dir     string // "internal/event"
	name    string
	imports map[string]string // import path -> a file that imports it
}

// load parses every non-test file of the module.
func load(t *testing.T) (map[string]*pkg, map[string]*ast.File, *token.FileSet) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, files, fset := map[string]*pkg{}, map[string]*ast.File{}, token.NewFileSet()
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			// A module of its own, as for tools, has rules of its own.
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && rel != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files[rel] = f
		dir := path.Join(module, filepath.ToSlash(filepath.Dir(rel)))
		x := pkgs[dir]
		if x == nil {
			x = &pkg{dir: dir, name: f.Name.Name, imports: map[string]string{}}
			pkgs[dir] = x
		}
		for _, i := range f.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			x.imports[name] = rel
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 5 {
		t.Fatalf("only %d packages found below %s", len(pkgs), root)
	}
	return pkgs, files, fset
}

// matches says whether an import path fits a name of a rule.
func matches(name, path string) bool {
	if name == "..." {
		return path == module || strings.HasPrefix(path, module+"/")
	}
	base, below := strings.CutSuffix(name, "/...")
	full := base
	// Without a dot or a known first element, it is ours.
	if base != module && !strings.HasPrefix(base, module+"/") && isOurs(base) {
		full = module + "/internal/" + base
	}
	return path == full || below && strings.HasPrefix(path, full+"/")
}

// isOurs tells our short names from the standard library's and others'.
func isOurs(base string) bool {
	first, _, _ := strings.Cut(base, "/")
	return slices.Contains([]string{"plan", "event", "host", "policy", "glob", "profile", "linux", "boundary", "stage", "verify", "session",
		"approval", "report", "cli", "flow", "supervise", "workspace", "gateway", "hook", "web", "testenv"}, first)
}

func fits(names []string, path string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return matches(n, path) })
}

func TestImports(t *testing.T) {
	pkgs, _, _ := load(t)
	stale := exemptions()
	for _, bad := range violations(pkgs, rules()) {
		line := strings.TrimPrefix(bad.who, module+"/internal/") + " imports " + strings.TrimPrefix(bad.what, module+"/internal/")
		if exemptions()[line] != "" {
			delete(stale, line)
			continue
		}
		t.Errorf("%s imports %s (%s): %s", bad.who, bad.what, bad.file, bad.reason)
	}
	for line := range stale {
		t.Errorf("the exemption %q is not needed any more", line)
	}
}

type violation struct{ who, what, file, reason string }

func violations(pkgs map[string]*pkg, rules []rule) []violation {
	var out []violation
	for _, r := range rules {
		for _, p := range pkgs {
			if !fits(r.who, p.dir) || strings.HasPrefix(p.dir, module+"/internal/archtest") {
				continue
			}
			// A package may be named as the exception of a rule for all.
			if fits(r.except, p.dir) && slices.Contains(r.who, "...") {
				continue
			}
			seen := map[string]bool{}
			var look func(q *pkg, via string)
			look = func(q *pkg, via string) {
				for name, file := range q.imports {
					if seen[name] {
						continue
					}
					seen[name] = true
					if name != p.dir && fits(r.never, name) && !fits(r.except, name) {
						out = append(out, violation{p.dir, name, via + file, r.reason})
					}
					if next := pkgs[name]; next != nil && r.deep {
						look(next, via+file+" -> ")
					}
				}
			}
			look(p, "")
		}
	}
	slices.SortFunc(out, func(a, b violation) int { return strings.Compare(a.who+a.what, b.who+b.what) })
	return out
}

// The negative control: each rule catches what it is for.
func TestRulesCatch(t *testing.T) {
	for _, c := range [][2]string{
		{"internal/event", "cofferdam/internal/plan"},
		{"internal/policy", "cofferdam/internal/host"},
		{"internal/plan/compile", "os"},
		{"internal/gateway/decide", "net"},
		{"internal/gateway/decide", "cofferdam/internal/policy"},
		{"internal/boundary/native", "cofferdam/internal/policy"},
		{"internal/linux/seccomp", "cofferdam/internal/policy"},
		{"internal/stage", "net/http"},
		{"internal/verify", "cofferdam/internal/linux/landlock"},
		{"internal/cli", "cofferdam/internal/boundary/native"},
		{"internal/boundary/native", "golang.org/x/sys/unix"},
		{"internal/gateway", "net/http"},
		{"internal/gateway/authority", "cofferdam/internal/plan"},
		{"internal/gateway/credential", "cofferdam/internal/policy"},
		{"internal/gateway", "cofferdam/internal/linux/netns"},
		{"internal/approval", "cofferdam/internal/policy"},
		{"internal/approval/api", "net/http"},
		{"internal/flow", "golang.org/x/sys/unix"},
		{"internal/flow", "cofferdam/internal/cli"},
		{"internal/flow", "text/template"},
		{"internal/flow", "cofferdam/internal/testenv"},
	} {
		// Directly, and where the rule is deep, through a third package.
		p := &pkg{dir: module + "/" + c[0], imports: map[string]string{c[1]: "x.go"}}
		if len(violations(map[string]*pkg{p.dir: p}, rules())) == 0 {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	through := map[string]*pkg{
		"cofferdam/internal/stage":        {dir: "cofferdam/internal/stage", imports: map[string]string{"cofferdam/internal/linux/caps": "x.go"}},
		"cofferdam/internal/linux/caps":   {dir: "cofferdam/internal/linux/caps", imports: map[string]string{"net/http": "y.go"}},
		"cofferdam/internal/host/probe":   {dir: "cofferdam/internal/host/probe", imports: map[string]string{"golang.org/x/sys/unix": "z.go"}},
		"cofferdam/cmd/cofferdam":         {dir: "cofferdam/cmd/cofferdam", imports: map[string]string{"cofferdam/internal/cli": "m.go"}},
		"cofferdam/internal/plan/compile": {dir: "cofferdam/internal/plan/compile", imports: map[string]string{"cofferdam/internal/policy": "c.go"}},
	}
	got := violations(through, rules())
	if len(got) != 1 || got[0].who != "cofferdam/internal/stage" || got[0].file != "x.go -> y.go" {
		t.Errorf("through a third package: %v", got)
	}
}

// bannedNames say nothing about what is inside.
var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "shared", "lib"}

func TestNames(t *testing.T) {
	pkgs, _, _ := load(t)
	for _, p := range pkgs {
		for part := range strings.SplitSeq(p.dir+"/"+p.name, "/") {
			if slices.Contains(bannedNames, part) {
				t.Errorf("%s: %q says nothing about what is inside", p.dir, part)
			}
		}
	}
}

// Nobody exits but main, since deferred cleanup must run; nothing happens
// before main, since children run the same binary.
func TestNobodyExitsAndNoInit(t *testing.T) {
	_, files, fset := load(t)
	for _, f := range files {
		for _, bad := range exits(f, fset, f.Name.Name == "main") {
			t.Errorf("%s", bad)
		}
	}
	// The control.
	for src, want := range map[string]int{
		"package x\nimport \"os\"\nfunc f() { os.Exit(1) }":                        1,
		"package x\nimport o \"os\"\nfunc f() { defer o.Exit(1) }":                 1,
		"package x\nimport \"log\"\nfunc f() { log.Fatalln(1) }":                   1,
		"package x\nimport \"syscall\"\nvar f = syscall.Exit":                      1,
		"package x\nfunc init() {}":                                                1,
		"package x\ntype t struct{}\nfunc (t) init() {}\nfunc (t) Exit() {}":       0,
		"package x\nimport \"os\"\nfunc f() { os.Getenv(\"\") }\nvar os2 struct{}": 0,
	} {
		f, err := parser.ParseFile(fset, "x.go", src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := exits(f, fset, false); len(got) != want {
			t.Errorf("%q: %v", src, got)
		}
	}
}

func exits(f *ast.File, fset *token.FileSet, isMain bool) []string {
	banned := map[string][]string{"os": {"Exit"}, "syscall": {"Exit"}, "runtime": {"Goexit"},
		"log": {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"}}
	local := map[string]string{} // name in this file -> package
	for _, i := range f.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		as := path.Base(name)
		if i.Name != nil {
			as = i.Name.Name
		}
		local[as] = name
	}
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				out = append(out, fmt.Sprintf("%s: func init runs in every start and every child", fset.Position(n.Pos())))
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && !isMain && slices.Contains(banned[local[x.Name]], n.Sel.Name) {
				out = append(out, fmt.Sprintf("%s: %s.%s skips deferred cleanup; return an error", fset.Position(n.Pos()), local[x.Name], n.Sel.Name))
			}
		}
		return true
	})
	return out
}

// bareThreads are packages that may lock a thread and leave it locked.
var bareThreads = map[string]string{
	"internal/host/probe": "its children change what a thread can't get back (namespaces, seccomp), so the thread has to end with them",
}

// A goroutine that ends with its thread locked ends the thread, and that kills
// each child that was started from it with PR_SET_PDEATHSIG: a boundary would
// die at a time that nobody chose.
func TestLockedThreadsAreUnlocked(t *testing.T) {
	_, files, fset := load(t)
	for name, f := range files {
		if bareThreads[filepath.ToSlash(filepath.Dir(name))] == "" {
			for _, bad := range bareLocks(f, fset) {
				t.Errorf("%s: LockOSThread without defer UnlockOSThread in the same function", bad)
			}
		}
	}
	// The control.
	for body, want := range map[string]int{
		"runtime.LockOSThread()":                                                             1,
		"runtime.LockOSThread(); runtime.UnlockOSThread()":                                   1, // not on each way out
		"runtime.LockOSThread(); defer runtime.UnlockOSThread()":                             0,
		"defer runtime.UnlockOSThread(); go func() { runtime.LockOSThread() }()":             1,
		"go func() { runtime.LockOSThread(); defer runtime.UnlockOSThread() }()":             0,
		"runtime.LockOSThread(); defer func() { runtime.UnlockOSThread() }()":                0,
		"go func() { defer runtime.UnlockOSThread() }(); runtime.LockOSThread()":             1,
		"if true { runtime.LockOSThread(); defer runtime.UnlockOSThread(); println(\"x\") }": 0,
	} {
		f, err := parser.ParseFile(fset, "x.go", "package x\nimport \"runtime\"\nfunc f() { "+body+" }", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := bareLocks(f, fset); len(got) != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// bareLocks looks at each function by itself, closures too; only a deferred
// closure counts as the function around it.
func bareLocks(f *ast.File, fset *token.FileSet) []string {
	calls := func(n ast.Node, name string) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return false
		}
		s, ok := c.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && x.Name == "runtime" && s.Sel.Name == name
	}
	var out []string
	var function func(body ast.Node)
	function = func(body ast.Node) {
		var locks []string
		unlocked := false
		ast.Inspect(body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				if n.Body != body {
					function(n.Body)
					return false
				}
			case *ast.DeferStmt:
				ast.Inspect(n, func(m ast.Node) bool {
					unlocked = unlocked || calls(m, "UnlockOSThread")
					return true
				})
			}
			if calls(n, "LockOSThread") {
				locks = append(locks, fset.Position(n.Pos()).String())
			}
			return true
		})
		if !unlocked {
			out = append(out, locks...)
		}
	}
	for _, d := range f.Decls {
		function(d)
	}
	return out
}

// docs/bypasses.md names tests that exist, and what test/system tries by number is in it.
func TestBypassPage(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/bypasses.md"))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{} // of each folder that is named
	source := func(dir string) string {
		if _, ok := sources[dir]; !ok {
			files, _ := filepath.Glob(filepath.Join(root, dir, "*.go"))
			for _, file := range files {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				sources[dir] += string(b)
			}
		}
		return sources[dir]
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(line, "| NET-") {
			continue
		}
		id := strings.TrimSpace(cells[1])
		found[id] = true
		for _, test := range strings.Split(cells[3], ",") {
			words := strings.Split(test, "`")
			if len(words) != 5 {
				t.Errorf("%s: no folder and test: %q", id, test)
				continue
			}
			switch text := source(words[1]); {
			case !strings.Contains(text, "\nfunc "+words[3]+"("):
				t.Errorf("%s: there is no %s in %s", id, words[3], words[1])
			case words[3] == "TestBypasses" && !strings.Contains(text, "{id: \""+id+"\""):
				t.Errorf("%s: TestBypasses does not try it", id)
			}
		}
	}
	for _, word := range strings.Split(source("test/system"), "NET-")[1:] {
		if id := "NET-" + word[:2]; !found[id] {
			t.Errorf("test/system tries %s, which the page does not list", id)
		}
	}
	if len(found) < 40 {
		t.Errorf("the page has %d lines", len(found))
	}
}
