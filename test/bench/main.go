// Command bench measures what cofferdam costs, beside bare, bubblewrap and srt, in
// one run: the variants of a row are started in turn, in random order, so that a
// noisy machine is noisy for all of them. It prints medians and their ratios, each
// table with its bar. It is no test: nothing fails here.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/flow"
	"cofferdam/internal/testenv"
)

// world is a project to work in.
type world struct {
	base, home, ws         string
	self, cofferdam, alone string
	srt                    []string // how to start srt; empty if it is not there
	runs                   int
}

func main() {
	if len(os.Args) > 3 && os.Args[1] == asks {
		if err := ask(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == starts {
		if err := exec.Command(os.Args[2], os.Args[3:]...).Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 3 && os.Args[1] == carries {
		if err := carry(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	runs := flag.Int("runs", 40, "runs of each start-up variant")
	quick := flag.Bool("quick", false, "start-up rows only")
	networkOnly := flag.Bool("network", false, "network rows only")
	flag.Parse()
	if os.Getenv(prepared) == "" {
		os.Exit(prepare())
	}
	w, err := newWorld(*runs)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	defer os.RemoveAll(w.base)
	if *networkOnly {
		w.network()
		w.carrying()
		return
	}
	w.start()
	w.more()
	w.memory()
	w.planning()
	w.network()
	w.carrying()
	if !*quick {
		w.work()
	}
}

// starts is the first argument of this program as a Go program that starts another one
// and waits for it: a plain exec.
const starts = "starts"

// prepared is in the environment of the run that measures.
const prepared = "COFFERDAM_BENCH"

// srtPackage is what the srt column measures, pinned; npm gets it.
const srtPackage = "@anthropic-ai/sandbox-runtime@0.0.83"

// prepare builds all that is measured into a directory, and measures from there: as
// the test user if we are root.
func prepare() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	dir, err := os.MkdirTemp("/var/tmp", "cofferdam-bench-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o755)); err != nil {
		return fail(err)
	}
	for _, b := range [][2]string{{"cofferdam", "./cmd/cofferdam"}, {"boundary", "./test/bench/boundary"}, {"bench", "./test/bench"}} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, b[0]), b[1])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fail(fmt.Errorf("build: %w", err))
		}
	}
	fmt.Fprintln(os.Stderr, "bench: installing", srtPackage, "with npm into", dir)
	npm := exec.Command("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir, srtPackage)
	if out, err := npm.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: srt is not to be had: %v: %s\n", err, bytes.TrimSpace(out))
	}
	cmd := exec.Command(filepath.Join(dir, "bench"), os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Dir = dir
	path := "/usr/local/bin:/usr/bin:/bin"
	if node, err := exec.LookPath("node"); err == nil { // srt is a script for it
		path = filepath.Dir(node) + ":" + path
	}
	cmd.Env = []string{"PATH=" + path, "HOME=" + home, "USER=" + testenv.User, "LANG=C.UTF-8", prepared + "=1"}
	if os.Getuid() == 0 {
		uid, gid, err := testenv.Unprivileged()
		if err == nil {
			err = os.Chown(home, uid, gid)
		}
		if err != nil {
			return fail(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if err := cmd.Run(); err != nil {
		return fail(err)
	}
	return 0
}

func newWorld(runs int) (*world, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(self)
	w := &world{self: self, home: os.Getenv("HOME"), cofferdam: filepath.Join(dir, "cofferdam"), alone: filepath.Join(dir, "boundary"), runs: runs}
	srt := filepath.Join(dir, "node_modules", ".bin", "srt")
	if out, err := exec.Command(srt, "/bin/true").CombinedOutput(); err != nil {
		fmt.Printf("srt does not work here, its rows are left out: %v: %s\n", err, bytes.TrimSpace(out))
	} else {
		w.srt = []string{srt}
	}
	w.base = filepath.Join(w.home, "work")
	w.ws = filepath.Join(w.base, "project")
	if err := os.MkdirAll(w.ws, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"config", "user.email", "bench@example.org"}, {"config", "user.name", "bench"},
	} {
		if out, err := w.bare("git", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("git %v: %v: %s", args, err, out)
		}
	}
	for name, text := range map[string]string{".env": "SECRET=1\n", "main.go": "package main\n\nfunc main() { println(1) }\n", "go.mod": "module m\n\ngo 1.21\n", ".gitignore": ".env\n"} {
		if err := os.WriteFile(filepath.Join(w.ws, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) bare(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = w.ws
	return cmd
}

// variant is one way to run the same thing.
type variant struct {
	name string
	argv []string
}

// boxes are the ways to run a command.
func (w *world) boxes(command ...string) []variant {
	bwrap := []string{"bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc",
		"--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/sbin", "/sbin",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", w.home, "--bind", w.ws, w.ws,
		"--bind", w.ws + "/.git", w.ws + "/.git", "--ro-bind", w.ws + "/.git/config", w.ws + "/.git/config",
		"--ro-bind", w.ws + "/.git/hooks", w.ws + "/.git/hooks", "--ro-bind", "/dev/null", w.ws + "/.env", "--chdir", w.ws, "--"}
	list := []variant{
		{"bare", command},
		{"bwrap, same mounts", append(slices.Clone(bwrap), command...)},
		{"boundary alone", append([]string{w.alone, w.home, w.ws}, command...)},
		{"cofferdam run", append([]string{w.cofferdam, "run", "--"}, command...)},
		{"cofferdam run, copy", append([]string{w.cofferdam, "run", "--mode", "copy", "--"}, command...)},
	}
	if len(w.srt) > 0 {
		list = append(list, variant{"srt", append(slices.Clone(w.srt), command...)})
	}
	return list
}

// medians runs the variants in turn, in random order, and returns the median of
// each; a variant that fails has none.
func (w *world) medians(list []variant, runs int) map[string]time.Duration {
	all := map[string][]time.Duration{}
	failed := map[string]bool{}
	for round := range runs + 2 {
		for _, i := range rand.Perm(len(list)) {
			v := list[i]
			if failed[v.name] || v.name == "srt" && round > runs/4+2 {
				continue
			}
			cmd := w.bare(v.argv[0], v.argv[1:]...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			t := time.Now()
			err := cmd.Run()
			d := time.Since(t)
			if err != nil {
				failed[v.name] = true
				fmt.Printf("  %s failed: %v: %s\n", v.name, err, strings.TrimSpace(out.String()))
				continue
			}
			if round >= 2 { // the first two warm the caches
				all[v.name] = append(all[v.name], d)
			}
		}
	}
	out := map[string]time.Duration{}
	for name, ds := range all {
		slices.Sort(ds)
		if len(ds) > 0 && !failed[name] {
			out[name] = ds[len(ds)/2]
		}
	}
	return out
}

func table(title, bar string, list []variant, m map[string]time.Duration, to string) {
	fmt.Printf("\n%s   (bar: %s)\n", title, bar)
	for _, v := range list {
		d, ok := m[v.name]
		if !ok {
			continue
		}
		fmt.Printf("  %-22s %9.2f ms", v.name, float64(d.Microseconds())/1000)
		if base := m[to]; base > 0 {
			fmt.Printf("   %6.2fx %s", float64(d)/float64(base), to)
		}
		fmt.Println()
	}
}

func (w *world) start() {
	list := w.boxes("/bin/true")
	m := w.medians(list, w.runs)
	table("start: true", "boundary alone <= 1.0x, cofferdam run <= 1.6x bwrap; a copy <= 10 ms over that", list, m, "bwrap, same mounts")
}

// more is one more command in a running sandbox.
func (w *world) more() {
	cmd := w.bare(w.cofferdam, "run", "--name", "bench", "--", "/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		fmt.Println("  exec:", err)
		return
	}
	defer func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() }()
	for range 500 {
		if w.bare(w.cofferdam, "exec", "bench", "--", "/bin/true").Run() == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	list := []variant{
		{"bare", []string{"/bin/true"}},
		{"a Go program", []string{w.self, starts, "/bin/true"}},
		{"cofferdam version", []string{w.cofferdam, "version"}},
		{"cofferdam exec", []string{w.cofferdam, "exec", "bench", "--", "/bin/true"}},
	}
	table("one more command in a running sandbox: true", "<= 1 ms over a plain exec by a Go program", list, w.medians(list, w.runs), "a Go program")
}

// memory is what our own processes keep while a command runs.
func (w *world) memory() {
	cmd := w.bare(w.cofferdam, "run", "--", "/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		fmt.Println("  memory:", err)
		return
	}
	defer func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() }()
	time.Sleep(time.Second)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", cmd.Process.Pid))
	if err != nil {
		fmt.Println("  memory:", err)
		return
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, _ := strconv.Atoi(f[1])
			fmt.Printf("\nmemory of our own processes while a command runs   (bar: <= 25 MiB)\n  supervisor             %9.2f MiB (PSS); the init inside has some KiB\n", float64(kib)/1024)
		}
	}
}

// planning is the policy and the plan, without a start of the program.
func (w *world) planning() {
	if err := os.Chdir(w.ws); err != nil {
		fmt.Println("  plan:", err)
		return
	}
	c := flow.Caller{Environ: os.Environ(), Dir: w.ws, In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	debug.SetGCPercent(400) // as the program does
	var ds []time.Duration
	for range w.runs {
		t := time.Now()
		if _, err := flow.Plan(context.Background(), flow.Options{Command: []string{"/bin/true"}}, c); err != nil {
			fmt.Println("  plan:", err)
			return
		}
		ds = append(ds, time.Since(t))
	}
	slices.Sort(ds)
	fmt.Printf("\npolicy, facts and plan   (bar: <= 3 ms)\n  in a warm process      %9.2f ms\n", float64(ds[len(ds)/2].Microseconds())/1000)
}

// work is what is done inside all day, without the start.
func (w *world) work() {
	fill := `mkdir -p tree && cd tree && for d in $(seq 600); do mkdir -p d$d && cd d$d && touch $(seq -f f%g 100) && cd ..; done; cd .. && git add -A && git commit -qm tree`
	if out, err := w.bare("sh", "-c", fill).CombinedOutput(); err != nil {
		fmt.Printf("  60,000 files: %v: %s\n", err, out)
		return
	}
	for _, row := range []struct {
		name   string
		script string
		runs   int
	}{
		{"git status, 60,000 files, 5 times", "for i in 1 2 3 4 5; do git status --porcelain >/dev/null; done", 7},
		{"read 60,000 files", "tar cf - tree | cat >/dev/null", 7},
		{"write and remove 5,000 files", "mkdir -p x && cd x && touch $(seq 5000) && cd .. && rm -rf x", 7},
		{"a loop on the processor", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", 7},
		{"start 200 programs", "for i in $(seq 200); do /bin/true; done", 7},
	} {
		// The start is taken out: the script times itself.
		script := `a=$(date +%s%N); ` + row.script + `; b=$(date +%s%N); echo $((b-a))`
		list := w.boxes("/bin/sh", "-c", script)
		inner := map[string][]int64{}
		for round := range row.runs + 1 {
			for _, i := range rand.Perm(len(list)) {
				cmd := w.bare(list[i].argv[0], list[i].argv[1:]...)
				out, err := cmd.Output()
				if err != nil {
					fmt.Printf("  %s failed: %v\n", list[i].name, err)
					continue
				}
				if round == 0 {
					continue
				}
				if n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err == nil {
					inner[list[i].name] = append(inner[list[i].name], n)
				}
			}
		}
		m := map[string]time.Duration{}
		for name, ns := range inner {
			slices.Sort(ns)
			m[name] = time.Duration(ns[len(ns)/2])
		}
		table("inside: "+row.name, "<= 1.02x bare; git status in a copy <= 1.5x", list, m, "bare")
	}
}
