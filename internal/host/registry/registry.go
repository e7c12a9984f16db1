// Package registry finds out from where the person's tools get packages: it asks the
// tools. Nothing that a project says counts: they are asked in a directory of their own,
// none is run that lies where a command inside could have put it, and none believed
// whose configuration lies there.
//
// A tool takes a tenth of a second or more, so what it said is remembered until
// something has changed that its answer depends on, or a day.
package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cofferdam/internal/host"
	"cofferdam/internal/host/lookup"
)

const (
	// DefaultTime is how long a tool may take: npm on a busy machine takes seconds.
	DefaultTime = 10 * time.Second
	// maxAnswer bounds what it may print, in bytes.
	maxAnswer = 256 << 10
	// maxRegistries a tool may name.
	maxRegistries = 32
	// An answer is used again for fresh, none for stale.
	fresh = 24 * time.Hour
	stale = time.Hour
)

// Asker asks.
type Asker struct {
	Environ []string // the caller's
	Home    string
	// Open are the directories that commands inside can write in, with symlinks
	// resolved.
	Open []string
	// File remembers the answers. It has to lie where nothing inside can write.
	File string
	Now  func() time.Time
	Time time.Duration // that a tool may take; 0 is DefaultTime
}

// person is whose tools they are.
type person struct {
	home    string
	environ map[string]string
}

// Ask returns the answer of each tool of the list that is there, in the order of the
// list. It fails for none: an answer can be that there is none (host.Asked.Problem).
func (a *Asker) Ask(ctx context.Context, names []string) []host.Asked {
	kept := a.load()
	p := a.person()
	out := make([]host.Asked, len(names))
	var wg sync.WaitGroup
	var mu sync.Mutex
	changed := false
	for i, name := range names {
		at := slices.IndexFunc(tools, func(t tool) bool { return t.name == name })
		if at < 0 {
			continue
		}
		t := tools[at]
		program, real, why := a.find(t.name)
		switch {
		case why != "":
			out[i] = host.Asked{Tool: t.name, Command: t.command(), Problem: why}
			continue
		case program == "":
			continue
		}
		k := kept[t.name] // the zero answer fits nothing
		if bad := a.misplaced(t, p, k.Files); bad != "" {
			out[i] = host.Asked{Tool: t.name, Command: t.command(), Problem: bad}
			continue
		}
		if now := a.Now(); k.Key == a.key(t, p, program, k.Files) && now.Before(k.Until) && now.After(k.Until.Add(-fresh-time.Minute)) {
			out[i] = host.Asked{Tool: t.name, Command: t.command(), Registries: k.Registries, Settings: k.Settings, Problem: k.Problem}
			continue
		}
		wg.Go(func() {
			said := a.ask(ctx, t, p, program, real)
			out[i] = said.Asked
			mu.Lock()
			defer mu.Unlock()
			kept[t.name] = said.answer
			changed = true
		})
	}
	wg.Wait()
	if changed {
		a.save(kept)
	}
	return slices.DeleteFunc(out, func(x host.Asked) bool { return x.Tool == "" })
}

// answer is what is remembered of one tool.
type answer struct {
	Key        string          `json:"key"`
	Until      time.Time       `json:"until"`
	Files      []string        `json:"files,omitempty"`
	Registries []host.Registry `json:"registries,omitempty"`
	Settings   []host.Setting  `json:"settings,omitempty"`
	Problem    string          `json:"problem,omitempty"`
}

type said struct {
	host.Asked
	answer answer
}

func (t tool) command() string {
	if t.name == "python3" {
		return "python3 -m pip config list"
	}
	return t.name + " " + strings.Join(t.args, " ")
}

// always are variables of the person's that each tool gets: the last two lines are for
// those that are started by a program that chooses a version of them.
var always = []string{"USER", "LOGNAME", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS",
	"NVM_DIR", "VOLTA_HOME", "FNM_DIR", "PYENV_ROOT", "PYENV_VERSION", "RBENV_ROOT", "RBENV_VERSION",
	"ASDF_DIR", "ASDF_DATA_DIR", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"}

// person keeps of the environment what counts for some tool.
func (a *Asker) person() person {
	p := person{home: a.Home, environ: map[string]string{}}
	all := map[string]string{}
	for _, kv := range a.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			all[name] = value
		}
	}
	// A script of npm's gets as variables what npm has read in the project.
	_, script := all["npm_execpath"]
	take := func(names ...string) {
		for _, name := range names {
			value, ok := all[name]
			lower := strings.ToLower(name)
			if !ok || script && strings.HasPrefix(lower, "npm_config_") || a.mentions(value) {
				continue
			}
			p.environ[name] = value
		}
	}
	for _, t := range tools {
		take(t.environ...)
	}
	take(always...)
	p.environ["HOME"] = a.Home
	p.environ["PATH"] = strings.Join(a.path(all["PATH"]), string(filepath.ListSeparator))
	return p
}

// mentions says whether a value names a place that the inside can write in.
func (a *Asker) mentions(value string) bool {
	return slices.ContainsFunc(a.Open, func(dir string) bool { return strings.Contains(value, dir) })
}

// open says whether a path, with its symlinks resolved, lies where the inside can write.
func (a *Asker) open(real string) bool {
	return slices.ContainsFunc(a.Open, func(dir string) bool { return real == dir || strings.HasPrefix(real, strings.TrimSuffix(dir, "/")+"/") })
}

// path leaves out of PATH what the inside can write in, and what depends on where
// one happens to be.
func (a *Asker) path(list string) []string {
	var out []string
	for _, dir := range filepath.SplitList(list) {
		if !filepath.IsAbs(dir) || a.open(filepath.Clean(dir)) {
			continue
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil && !a.open(real) {
			out = append(out, dir)
		}
	}
	return out
}

// find looks a tool up; "" and no reason if there is none. The first on the whole
// PATH counts: if that one lies in the project, the person means it, and
// another would give another answer. Real is what is to be run: no link on the way there
// can be exchanged.
func (a *Asker) find(name string) (program, real, why string) {
	list := ""
	for _, kv := range a.Environ {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	for _, dir := range filepath.SplitList(list) {
		if !filepath.IsAbs(dir) {
			continue
		}
		full := filepath.Join(dir, name)
		if syscall.Access(full, 1 /* X_OK */) != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			continue
		}
		if st, err := os.Stat(real); err != nil || !st.Mode().IsRegular() {
			continue
		}
		if a.open(real) || a.open(full) {
			return "", "", "it is not asked: " + full + " lies where commands inside can write"
		}
		if err := lookup.Interpreters(real, a.open); err != nil {
			return "", "", "it is not asked: " + err.Error()
		}
		// A link into the project by the interpreter's name would be as good.
		if by := interpreter(real); by != "" && by != name {
			if _, _, why := a.find(by); why != "" {
				return "", "", why
			}
		}
		return full, real, ""
	}
	return "", "", ""
}

// interpreter is the program that env(1) would look up on PATH for a script; "" if it
// would look up none.
func interpreter(script string) string {
	f, err := os.Open(script)
	if err != nil {
		return ""
	}
	defer f.Close()
	var head [256]byte
	n, _ := io.ReadFull(f, head[:])
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	words := strings.Fields(strings.TrimPrefix(line, "#!"))
	if !strings.HasPrefix(line, "#!") || len(words) < 2 || filepath.Base(words[0]) != "env" {
		return ""
	}
	for _, w := range words[1:] {
		if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return filepath.Base(w)
		}
	}
	return ""
}

// expand resolves the "~" and "$NAME" of the table; "" for a variable that is not set.
func (p person) expand(file string) string {
	if name, ok := strings.CutPrefix(file, "$"); ok {
		return p.environ[name]
	}
	if rest, ok := strings.CutPrefix(file, "~/.config/"); ok && filepath.IsAbs(p.environ["XDG_CONFIG_HOME"]) {
		return filepath.Join(p.environ["XDG_CONFIG_HOME"], rest)
	}
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		return filepath.Join(p.home, rest)
	}
	return file
}

func (t tool) dependsOn(p person, more []string) []string {
	var out []string
	for _, f := range append(slices.Clone(t.files), more...) {
		if f = p.expand(f); filepath.IsAbs(f) {
			out = append(out, f)
		}
	}
	return out
}

// misplaced says of a tool's configuration that commands inside can write it. A link
// from the home into a project that holds somebody's configuration is enough.
func (a *Asker) misplaced(t tool, p person, more []string) string {
	for _, f := range t.dependsOn(p, more) {
		if syscall.Access(f, 0 /* F_OK */) != nil {
			continue // nothing has been read there
		}
		if real, err := filepath.EvalSymlinks(f); err != nil || a.open(real) || a.open(filepath.Clean(f)) {
			return "it is not asked: " + f + " lies where commands inside can write"
		}
	}
	return ""
}

// key stands for all that an answer depends on and that is known beforehand. What the
// home is called is no part of it, only what is in it.
func (a *Asker) key(t tool, p person, program string, more []string) string {
	h := sha256.New()
	add := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	add(t.name)
	add(strings.Join(t.args, "\x00"))
	stat := func(name string) {
		var st syscall.Stat_t
		if err := syscall.Stat(name, &st); err != nil {
			add(err.Error())
			return
		}
		add(fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec))
	}
	stat(program)
	for _, f := range t.dependsOn(p, more) {
		stat(f)
	}
	for _, name := range slices.Concat([]string{"PATH"}, always, t.environ) {
		add(name + "=" + p.environ[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ask runs the tool.
func (a *Asker) ask(ctx context.Context, t tool, p person, program, real string) said {
	s := said{Asked: host.Asked{Tool: t.name, Command: t.command()}}
	out, err := a.run(ctx, t, p, program, real)
	var r reply
	if err == nil || t.fails {
		r = t.read(out, p)
		for _, u := range r.urls {
			if one, ok := parse(u); ok && !slices.Contains(s.Registries, one) && len(s.Registries) < maxRegistries {
				s.Registries = append(s.Registries, one)
			}
		}
		slices.SortFunc(s.Registries, func(a, b host.Registry) int { return strings.Compare(a.Host+":"+a.Port, b.Host+":"+b.Port) })
	}
	keep := fresh
	switch {
	case len(s.Registries) > 0:
		if bad := a.misplaced(t, p, r.files); bad != "" {
			s.Registries, s.Problem = nil, bad
		} else {
			s.Settings = r.settings
		}
	case err != nil:
		s.Problem, keep = "it could not be asked: "+err.Error(), stale
	default:
		s.Problem, keep = "it named no registry", stale
	}
	s.answer = answer{Key: a.key(t, p, program, r.files), Until: a.Now().Add(keep), Files: r.files, Registries: s.Registries, Settings: s.Settings, Problem: s.Problem}
	return s
}

// run returns what the tool prints. It works in a directory of its own, in which and
// above which nobody but the person can put a file: a tool may look for its
// configuration in all of them. No process is left when it returns, or is killed.
func (a *Asker) run(ctx context.Context, t tool, p person, program, real string) (string, error) {
	dir := filepath.Join(filepath.Dir(a.File), "asked", t.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, l := range t.links {
		l = p.expand(l)
		if err := os.Symlink(l, filepath.Join(dir, filepath.Base(l))); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	limit := cmp.Or(a.Time, DefaultTime)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, real, t.args...)
	cmd.Args[0] = program // rustup and its like go by it
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "PWD="+dir, "TERM=dumb")
	for _, name := range slices.Concat([]string{"HOME", "PATH"}, always, t.environ) {
		if v, ok := p.environ[name]; ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	for _, kv := range t.set {
		if name, ok := strings.CutSuffix(kv, "=."); ok {
			kv = name + "=" + dir
		}
		cmd.Env = append(cmd.Env, kv)
	}
	// The signal comes when the thread ends that has started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	group := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = group
	cmd.WaitDelay = time.Second
	out := &bounded{}
	cmd.Stdout = out
	if t.fails {
		cmd.Stderr = out
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err := cmd.Wait()
	_ = group()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("it took more than %v", limit)
	case out.over:
		err = errors.New("it said too much")
	}
	return out.kept.String(), err
}

// bounded keeps the beginning of what is written.
type bounded struct {
	kept bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxAnswer - b.kept.Len(); len(p) > room {
		b.over = true
		b.kept.Write(p[:room])
	} else {
		b.kept.Write(p)
	}
	return len(p), nil
}

// memory is the file of answers.
type memory struct {
	Version int               `json:"version"`
	Answers map[string]answer `json:"answers"`
}

// load reads the answers; a file that is damaged has none.
func (a *Asker) load() map[string]answer {
	var m memory
	data, err := readSmall(a.File)
	if err != nil || json.Unmarshal(data, &m) != nil || m.Version != 1 || m.Answers == nil {
		return map[string]answer{}
	}
	return m.Answers
}

// save writes them. If it can't, the tools are asked again next time.
func (a *Asker) save(answers map[string]answer) {
	data, err := json.Marshal(memory{1, answers})
	if err != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(a.File), ".registries-")
	if err != nil {
		return
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		_ = os.Rename(f.Name(), a.File)
	}
}
