// Package archtest holds the rules of the layout as a test, each with its
// reason. It reads the source text of all systems and build tags; it never
// builds anything.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "cofferdam"

// file is one Go file.
type file struct {
	name    string // from the root of the module
	test    bool
	imports []string
	ast     *ast.File
}

// tree is the whole module: the files of each package by import path.
type tree struct {
	fset *token.FileSet
	pkgs map[string][]file
}

// parse reads all Go files of a module but those of testdata.
func parse(root fs.FS) (*tree, error) {
	t := &tree{token.NewFileSet(), map[string][]file{}}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			base := path.Base(name)
			if name != "." && (base == "testdata" || base[0] == '.' || base[0] == '_' || base == "node_modules") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(t.fset, name, data, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		x := file{name: name, test: strings.HasSuffix(name, "_test.go"), ast: f}
		for _, s := range f.Imports {
			p, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return err
			}
			x.imports = append(x.imports, p)
		}
		pkg := path.Join(module, path.Dir(name))
		t.pkgs[pkg] = append(t.pkgs[pkg], x)
		return nil
	})
	return t, err
}

// imports is what a package imports itself, tests aside, with the file that
// does.
func (t *tree) imports(pkg string) map[string]string {
	out := map[string]string{}
	for _, f := range t.pkgs[pkg] {
		if !f.test {
			for _, p := range f.imports {
				out[p] = f.name
			}
		}
	}
	return out
}

// reaches is what a package imports, directly or through ours, with the chain.
func (t *tree) reaches(pkg string) map[string]string {
	out := map[string]string{}
	var walk func(p, chain string)
	walk = func(p, chain string) {
		for dep := range t.imports(p) {
			if _, ok := out[dep]; !ok {
				out[dep] = chain + " -> " + short(dep)
				walk(dep, out[dep])
			}
		}
	}
	walk(pkg, short(pkg))
	return out
}

func short(pkg string) string { return strings.TrimPrefix(pkg, module+"/internal/") }

// in says whether pkg is one of the places: "linux/..." is everything below.
func in(pkg string, places ...string) bool {
	for _, p := range places {
		if below, ok := strings.CutSuffix(p, "/..."); ok {
			if strings.HasPrefix(pkg, module+"/internal/"+below+"/") {
				return true
			}
		} else if pkg == module+"/internal/"+p {
			return true
		}
	}
	return false
}

func ours(pkg string) bool { return strings.HasPrefix(pkg, module+"/") }

// std: the standard library has no dot in the first element.
func std(pkg string) bool {
	first, _, _ := strings.Cut(pkg, "/")
	return !ours(pkg) && !strings.Contains(first, ".")
}

// importRule forbids packages to packages.
type importRule struct {
	of     []string // places
	direct bool     // what they reach through others is their own affair
	bad    func(dep string) bool
	reason string
}

func to(places ...string) func(string) bool {
	return func(dep string) bool { return in(dep, places...) }
}

var importRules = []importRule{
	{
		of: []string{"plan", "event", "host"}, bad: ours,
		reason: "they are the values that everything shares; a leaf can't make a cycle or drag in an action",
	},
	{
		of: []string{"boundary", "boundary/..."}, bad: to("policy", "plan/compile", "flow", "cli", "session", "report"),
		reason: "a backend carries out a plan and never decides again; with the policy at hand it would",
	},
	{
		of: []string{"linux/..."}, bad: to("policy", "plan/compile", "flow", "cli", "session", "report", "supervise", "boundary", "boundary/..."),
		reason: "linux is mechanism without policy, to be read and tested one kernel feature at a time",
	},
	{
		of: []string{"stage"}, bad: func(dep string) bool {
			return dep == "net/http" || strings.HasPrefix(dep, "net/http/") || dep == "net/rpc" || dep == "expvar"
		},
		reason: "it runs in every child, where package initialisation is start-up time and open doors",
	},
	{
		of: []string{"stage"}, bad: func(dep string) bool { return !ours(dep) && !std(dep) && !strings.HasPrefix(dep, "golang.org/x/sys/") },
		reason: "the child side is the last to run before untrusted code; nobody else's code belongs there",
	},
	{
		of: []string{"cli"}, direct: true, bad: to("boundary/...", "linux/...", "stage", "supervise"),
		reason: "the command line gives words to what flow does; which boundary does it is flow's list",
	},
	{
		of: []string{"policy", "plan/compile", "glob"}, bad: to("linux/...", "boundary", "boundary/...", "stage", "supervise", "session", "host/probe", "flow", "cli"),
		reason: "deciding is pure: same policy and same facts, same plan, on any machine",
	},
	{
		of: []string{"verify", "verify/..."}, bad: to("linux/...", "boundary", "boundary/...", "stage", "supervise"),
		reason: "a witness that shares code with the guards repeats their mistakes",
	},
	{
		of: []string{"report"}, bad: func(dep string) bool { return ours(dep) && !in(dep, "event") },
		reason: "reports read events only, so that a stored session can be told again",
	},
}

// rawCalls are the places that may speak to the kernel, and why those that
// are not mechanism themselves may.
var rawCalls = map[string]string{
	"linux/...":  "",
	"stage":      "",
	"verify":     "",
	"verify/...": "",
	"host/probe": "",
	"supervise":  "terminal modes, job control and the stop of itself: no other package needs them",
}

// bareThreads are the places that lock a thread and never unlock it.
var bareThreads = []string{"host/probe"}

var vague = []string{"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "shared", "base"}

// problems is everything that breaks a rule, in order.
func (t *tree) problems() []string {
	var out []string
	add := func(where, what, reason string) { out = append(out, where+": "+what+" ("+reason+")") }

	for pkg := range t.pkgs {
		for _, r := range importRules {
			if !in(pkg, r.of...) {
				continue
			}
			if r.direct {
				for dep, name := range t.imports(pkg) {
					if r.bad(dep) {
						add(name, "imports "+short(dep), r.reason)
					}
				}
				continue
			}
			for dep, chain := range t.reaches(pkg) {
				if r.bad(dep) {
					add(short(pkg), "imports "+chain, r.reason)
				}
			}
		}
		var raw []string
		for place := range rawCalls {
			raw = append(raw, place)
		}
		for _, f := range t.pkgs[pkg] {
			where := func(n ast.Node) string { return t.fset.Position(n.Pos()).String() }
			if name := strings.TrimSuffix(f.ast.Name.Name, "_test"); slices.Contains(vague, name) {
				add(f.name, "package "+name, "the name says nothing; name the thing of the domain")
			}
			if !f.test && slices.Contains(f.imports, "golang.org/x/sys/unix") && !in(pkg, raw...) {
				add(f.name, "imports golang.org/x/sys/unix", "raw system calls stay where each is explained and probed")
			}
			for _, d := range f.ast.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				if fn.Name.Name == "init" && fn.Recv == nil {
					add(where(fn), "func init", "it runs in every child and on every start, whether or not it is needed")
				}
				for _, c := range exits(fn) {
					switch {
					case f.ast.Name.Name == "main" && !f.test:
					case f.test && (fn.Name.Name == "TestMain" || !testFunc(fn)): // what TestMain calls in a child
					default:
						add(where(c), "exits the process", "deferred cleanup must run: nobody exits but main")
					}
				}
				if !f.test && !in(pkg, bareThreads...) {
					for _, c := range bareLocks(fn.Body) {
						add(where(c), "LockOSThread without a deferred UnlockOSThread in the same function",
							"a thread that ends kills the children that were started with PR_SET_PDEATHSIG from it")
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func testFunc(fn *ast.FuncDecl) bool {
	for _, p := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if strings.HasPrefix(fn.Name.Name, p) {
			return true
		}
	}
	return false
}

// called returns the "pkg.Name" of a call of another package's function.
func called(n ast.Node) string {
	c, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s.%s", x.Name, s.Sel.Name)
}

func exits(fn *ast.FuncDecl) []ast.Node {
	var out []ast.Node
	ast.Inspect(fn, func(n ast.Node) bool {
		switch called(n) {
		case "os.Exit", "syscall.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln":
			out = append(out, n)
		}
		return true
	})
	return out
}

// bareLocks looks at each function by itself: a defer of a closure unlocks
// the closure's thread, not that of the function around it.
func bareLocks(body *ast.BlockStmt) []ast.Node {
	var locks, out []ast.Node
	unlocked := false
	ast.Inspect(body, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncLit:
			out = append(out, bareLocks(x.Body)...)
			return false
		case *ast.DeferStmt:
			if called(x.Call) == "runtime.UnlockOSThread" {
				unlocked = true
			}
		}
		if called(n) == "runtime.LockOSThread" {
			locks = append(locks, n)
		}
		return true
	})
	if !unlocked {
		out = append(out, locks...)
	}
	return out
}
