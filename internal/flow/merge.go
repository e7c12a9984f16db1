package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"cofferdam/internal/workspace/change"
)

// Merged is a three-way merge of one file that was edited on both sides.
type Merged struct {
	Content []byte
	// Conflicts is how many places have both versions, between marks.
	Conflicts int
}

// maxMerge bounds each of the three versions.
const maxMerge = 8 << 20

// Merge merges what a session has made of a file with what the project has of it by
// now. Their common ancestor is what git's index has. It writes nothing into the
// project: git merges private files.
func (c *Changes) Merge(ctx context.Context, path string, caller Caller) (*Merged, error) {
	i := slices.IndexFunc(c.Set.Entries, func(e change.Entry) bool { return e.Path == path })
	if i < 0 {
		return nil, errors.New("it is no change of this session")
	}
	e := c.Set.Entries[i]
	if e.Old == nil || e.New == nil || e.Old.Type != change.File || e.New.Type != change.File {
		return nil, errors.New("only two versions of a file can be merged")
	}
	ours, err := whole(c.Old, path)
	if err != nil {
		return nil, err
	}
	theirs, err := whole(c.New, path)
	if err != nil {
		return nil, err
	}
	base, err := c.indexed(ctx, path, caller)
	if err != nil {
		return nil, fmt.Errorf("git does not know what it was before: %w", err)
	}
	return c.mergeFiles(ctx, ours, base, theirs, caller)
}

func whole(side change.Side, path string) ([]byte, error) {
	f, err := side.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMerge+1))
	if err == nil && len(b) > maxMerge {
		err = errors.New("it is too large to be merged")
	}
	return b, err
}

// gitEnviron is git without anybody's configuration but the repository's: no
// programs of it are run by what we ask.
func gitEnviron(c Caller) []string {
	env := []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME"} {
		env = append(env, name+"="+variable(c.Environ, name))
	}
	return env
}

// indexed is the content of a path in git's index. Only the object is read: no
// filter, hook or file system monitor of the repository runs.
func (c *Changes) indexed(ctx context.Context, path string, caller Caller) ([]byte, error) {
	git, err := c.gitProgram(caller)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, git, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never",
		"cat-file", "blob", ":./"+path)
	cmd.Dir = c.Workspace
	cmd.Env = gitEnviron(caller)
	var out limited
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	if out.over {
		return nil, errors.New("it is too large to be merged")
	}
	return out.Bytes(), nil
}

// gitProgram finds git on the PATH, but no program that the run could have made.
func (c *Changes) gitProgram(caller Caller) (string, error) {
	inside := writable(c.plan)
	for _, dir := range filepath.SplitList(variable(caller.Environ, "PATH")) {
		name := filepath.Join(dir, "git")
		real, err := filepath.EvalSymlinks(name)
		if err != nil || !filepath.IsAbs(dir) || inside(name) || inside(real) || within(name, c.Workspace) || within(real, c.Workspace) {
			continue
		}
		if info, err := os.Stat(real); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return real, nil
		}
	}
	return "", errors.New("git is not installed")
}

// limited keeps what fits.
type limited struct {
	bytes.Buffer
	over bool
}

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxMerge {
		l.over = true
		return len(b), nil
	}
	return l.Buffer.Write(b)
}

func (c *Changes) mergeFiles(ctx context.Context, ours, base, theirs []byte, caller Caller) (*Merged, error) {
	git, err := c.gitProgram(caller)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cofferdam-merge-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string][]byte{"ours": ours, "base": base, "theirs": theirs} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, git, "merge-file", "-p", "-L", "project", "-L", "before", "-L", "session", "ours", "base", "theirs")
	cmd.Dir = dir
	cmd.Env = append(gitEnviron(caller), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	var out bytes.Buffer
	cmd.Stdout = &out
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &Merged{Content: out.Bytes()}, nil
	case errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() < 128:
		return &Merged{Content: out.Bytes(), Conflicts: exit.ExitCode()}, nil
	}
	return nil, fmt.Errorf("git merge-file: %w", err)
}
