package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Source is where the value of a credential comes from. Its methods are called from
// many goroutines. No error has any of the value in it.
type Source interface {
	// Value returns the value as it is now.
	Value(ctx context.Context) (string, error)
	// Rejected is told that a host did not accept a value.
	Rejected(value string)
}

// Fixed is a value that does not change: of a variable of the caller.
type Fixed string

func (f Fixed) Value(context.Context) (string, error) { return string(f), nil }
func (f Fixed) Rejected(string)                       {}

// maxFile bounds a file with a credential in it.
const maxFile = 1 << 20

// File is a file (and no link to one) with the value in it: what the one group of Extract finds, or without
// it, the whole content but for white space around. It is read again when it has
// changed.
type File struct {
	Path    string
	Extract *regexp.Regexp

	mu    sync.Mutex
	stamp stamp
	value string
	err   error
}

// stamp tells one state of a file from another.
type stamp struct {
	dev, ino   uint64
	size       int64
	mtim, ctim syscall.Timespec
}

func (f *File) Value(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := stampOf(f.Path)
	if err != nil {
		return "", err
	}
	if now != f.stamp {
		content, read, err := readFile(f.Path)
		if err != nil {
			return "", err
		}
		f.stamp = read
		f.value, f.err = extract(content, f.Extract)
	}
	return f.value, f.err
}

func (f *File) Rejected(string) {}

func stampOf(path string) (stamp, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return stamp{}, fmt.Errorf("look at its file: %w", err)
	}
	return stampFrom(&st), nil
}

func stampFrom(st *syscall.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// readFile reads a regular file, bounded.
func readFile(path string) (string, stamp, error) {
	bare := func(err error) error {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fmt.Errorf("read its file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", stamp{}, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", stamp{}, bare(err)
	case !info.Mode().IsRegular():
		return "", stamp{}, errors.New("its file is not a regular one")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", stamp{}, bare(err)
	case len(content) > maxFile:
		return "", stamp{}, fmt.Errorf("its file has more than %d bytes", maxFile)
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	return string(content), stampFrom(st), nil
}

// extract finds the value in a file's content.
func extract(content string, group *regexp.Regexp) (string, error) {
	if group == nil {
		return strings.TrimSpace(content), nil
	}
	value := ""
	for _, m := range group.FindAllStringSubmatch(content, -1) {
		switch {
		case m[1] == "":
		case value == "":
			value = m[1]
		case value != m[1]:
			return "", errors.New("extract finds more than one value in its file; write one entry for each")
		}
	}
	if value == "" {
		return "", errors.New("extract finds nothing in its file")
	}
	return value, nil
}

// Bounds of a command.
const (
	commandTime   = 30 * time.Second
	commandOutput = 64 << 10
	// afterFailure it is not tried again at once, however often the inside asks.
	afterFailure = 5 * time.Second
)

// Command is a program on the host that prints the value, such as a credential helper.
// It runs in "/", as the caller, with nothing to read. What it prints is kept for TTL
// (0: for the session), and got anew shortly before that is over, and once after a host
// has not accepted it.
type Command struct {
	Argv []string // the first is an absolute path
	Env  []string
	TTL  time.Duration
	// Lacks are the directories that its PATH lacks because the inside could put
	// programs there: a failure tells of them.
	Lacks []string

	once sync.Once
	turn chan struct{} // holds one: who has it may use what is below

	now     func() time.Time // of tests
	value   string
	since   time.Time
	failed  time.Time
	err     error
	stale   bool
	renewed bool // the value was got because another was not accepted
}

func (c *Command) lock(ctx context.Context) error {
	c.once.Do(func() {
		c.turn = make(chan struct{}, 1)
		if c.now == nil {
			c.now = time.Now
		}
	})
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Command) Value(ctx context.Context) (string, error) {
	if err := c.lock(ctx); err != nil {
		return "", err
	}
	defer func() { <-c.turn }()
	now := c.now()
	good := c.value != "" && (c.TTL == 0 || now.Sub(c.since) < c.TTL)
	fresh := good && !c.stale && (c.TTL == 0 || now.Sub(c.since) < c.TTL-c.TTL/10)
	if fresh {
		return c.value, nil
	}
	if !c.failed.IsZero() && now.Sub(c.failed) < afterFailure {
		if good {
			return c.value, nil
		}
		return "", c.err
	}
	value, err := c.run(ctx)
	if err != nil {
		c.failed, c.err = c.now(), err
		if good {
			// It may do still; the host will say.
			return c.value, nil
		}
		return "", err
	}
	c.renewed = c.stale
	c.value, c.since, c.stale, c.failed = value, c.now(), false, time.Time{}
	return value, nil
}

func (c *Command) Rejected(value string) {
	if c.lock(context.Background()) == nil {
		c.stale = c.stale || value == c.value && !c.renewed
		<-c.turn
	}
}

// run executes it. What it says on its error output is nobody's to read: some helpers
// print there what they know.
func (c *Command) run(ctx context.Context) (string, error) {
	// Not the client's context alone: who asks and goes away must not make it fail
	// for the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	out := &bounded{}
	cmd.Env, cmd.Dir, cmd.Stdout = c.Env, "/", out
	// A group of its own, so that all it has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer within %v", commandTime)
	case out.over:
		err = fmt.Errorf("it printed more than %d bytes", commandOutput)
	case errors.As(err, &exit):
		err = errors.New(exit.String())
	case errors.Is(err, exec.ErrWaitDelay):
		err = errors.New("what it started goes on and holds its output")
	case err == nil && strings.TrimSpace(string(out.b)) == "":
		err = errors.New("it printed nothing")
	}
	switch {
	case err != nil && len(c.Lacks) > 0:
		return "", fmt.Errorf("command %s: %w (on its PATH are missing, as names there lead to what the inside can write: %s)", c.Argv[0], err, strings.Join(c.Lacks, ", "))
	case err != nil:
		return "", fmt.Errorf("command %s: %w", c.Argv[0], err)
	}
	return strings.TrimSpace(string(out.b)), nil
}

// bounded keeps the beginning of what is written, and ends the writer.
type bounded struct {
	b    []byte
	over bool
}

func (w *bounded) Write(p []byte) (int, error) {
	if w.over = w.over || len(w.b)+len(p) > commandOutput; w.over {
		return 0, errors.New("too much")
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

// Environment is what a command gets of the caller's variables: without the directories
// that the inside can write, where it could have put a program or a library, and without
// those that say where the caller is. PATH becomes what path leaves of it: programs are
// then found in directories of which the inside has no part.
func Environment(env []string, writable func(path string) bool, path func(list string) []string) []string {
	var out []string
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "PWD" || name == "OLDPWD" {
			continue
		}
		parts := strings.Split(value, ":")
		if name == "PATH" {
			out = append(out, "PATH="+strings.Join(path(value), ":"))
			continue
		}
		if !slices.ContainsFunc(parts, func(p string) bool { return strings.HasPrefix(p, "/") && writable(p) }) {
			out = append(out, kv)
		}
	}
	return out
}
