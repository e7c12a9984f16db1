package commits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Want is one commit that is to become a branch of the person's repository.
type Want struct {
	Commit string `json:"commit"`
	Branch string `json:"branch"` // without refs/heads/
}

// Importer has what it takes to bring commits in.
type Importer struct {
	// Git is the path of the program, on the host, out of reach of every run.
	Git string
	// Path is the PATH that git gets, for what it starts.
	Path string
	// Repository is the project: its .git is a directory or file.
	Repository string
	// Scratch is an empty directory of the caller's, for the repository in between. It
	// is the caller's to remove.
	Scratch string
}

// Import brings the commits in, each as a branch. A branch that is there is moved only
// forward (fast-forward); one that is checked out is not moved at all. Of several, all
// are brought in or none.
func (im Importer) Import(ctx context.Context, src Source, wants []Want) error {
	for _, w := range wants {
		if !objectName.MatchString(w.Commit) {
			return fmt.Errorf("%q is no commit's name", w.Commit)
		}
		if _, err := im.run(ctx, im.Repository, nil, "check-ref-format", "refs/heads/"+w.Branch); err != nil || strings.HasPrefix(w.Branch, "-") {
			return fmt.Errorf("%q can't be the name of a branch", w.Branch)
		}
	}
	format, err := im.run(ctx, im.Repository, nil, "rev-parse", "--show-object-format")
	if err != nil {
		return err
	}
	objects, err := im.run(ctx, im.Repository, nil, "rev-parse", "--path-format=absolute", "--git-path", "objects")
	if err != nil {
		return err
	}
	between := filepath.Join(im.Scratch, "between.git")
	if _, err := im.run(ctx, im.Scratch, nil, "init", "--quiet", "--bare", "--template=", "--object-format="+format, between); err != nil {
		return err
	}
	if strings.ContainsAny(objects, "\n\"") {
		// The file of alternates has lines, and quotes in a way of its own.
		return fmt.Errorf("the repository's path %q can't be written down", objects)
	}
	if err := os.WriteFile(filepath.Join(between, "objects/info/alternates"), []byte(objects+"\n"), 0o600); err != nil {
		return err
	}
	if err := im.fill(ctx, src, between, format == "sha256"); err != nil {
		return err
	}
	fetch := []string{"fetch", "--atomic", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--no-write-commit-graph", "--", between}
	for i, w := range wants {
		ref := fmt.Sprintf("refs/heads/want-%d", i)
		if kind, err := im.run(ctx, between, nil, "cat-file", "-t", w.Commit); err != nil || kind != "commit" {
			return fmt.Errorf("commit %s is not among what the run has left", w.Commit)
		}
		if _, err := im.run(ctx, between, nil, "update-ref", ref, w.Commit); err != nil {
			return err
		}
		if err := im.whole(ctx, between, w.Commit); err != nil {
			return err
		}
		fetch = append(fetch, ref+":refs/heads/"+w.Branch)
	}
	_, err = im.run(ctx, im.Repository, nil, fetch...)
	return err
}

// whole says whether all that a commit needs is there, beyond what the person's own
// branches have. The fetch would find out too, and say it in no words for a person.
func (im Importer) whole(ctx context.Context, between, commit string) error {
	known, err := im.run(ctx, im.Repository, nil, "for-each-ref", "--format=^%(objectname)")
	if err != nil {
		return err
	}
	if len(known) >= maxSaid {
		return nil // too many to list: left to the fetch
	}
	_, err = im.run(ctx, between, strings.NewReader(commit+"\n"+known+"\n"), "rev-list", "--objects", "--quiet", "--stdin")
	var failed *GitError
	if errors.As(err, &failed) {
		return fmt.Errorf("commit %s needs an object that is missing or broken: %w", commit, err)
	}
	return err
}

// fill puts the objects of src into the repository in between. What is hostile about
// them shows at the fetch, which checks each again, and whether one is missing.
func (im Importer) fill(ctx context.Context, src Source, between string, sum256 bool) error {
	loose, packs, err := src.objects()
	if err != nil {
		return err
	}
	index := func(feed func(io.Writer) error) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		fed := make(chan error, 1)
		go func() {
			err := feed(w)
			w.Close()
			fed <- err
		}()
		_, err = im.run(ctx, between, r, "index-pack", "--stdin", "--fix-thin", fmt.Sprintf("--max-input-size=%d", int64(maxBytes)))
		r.Close()
		// Ours comes first, as the cause of git's; but that git has ended is no cause.
		if own := <-fed; own != nil && !errors.Is(own, syscall.EPIPE) {
			return own
		}
		return err
	}
	if len(loose) > 0 {
		if err := index(func(w io.Writer) error { return writePack(w, src.New, loose, sum256) }); err != nil {
			return err
		}
	}
	for _, p := range packs {
		err := index(func(w io.Writer) error {
			f, err := src.New.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		if err != nil {
			return fmt.Errorf("pack %q: %w", p, err)
		}
	}
	return nil
}

// settings are what no configuration can say otherwise: nothing is started by git but
// git, nothing is read from another machine, and what comes in is checked.
var settings = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null", "-c", "core.alternateRefsCommand=true",
	"-c", "core.bigFileThreshold=16m", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "fetch.fsckObjects=true", "-c", "transfer.fsckObjects=true",
	"-c", "fetch.unpackLimit=1", "-c", "fetch.recurseSubmodules=false", "-c", "fetch.prune=false", "-c", "fetch.writeCommitGraph=false", "-c", "submodule.recurse=false",
	"-c", "protocol.allow=never", "-c", "protocol.file.allow=always", "-c", "uploadpack.packObjectsHook=", "-c", "core.pager=cat", "-c", "credential.helper=", "-c", "log.showSignature=false",
}

// run is one git, in dir. Its error has what it said.
func (im Importer) run(ctx context.Context, dir string, in io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, im.Git, append(append([]string{}, settings...), args...)...)
	var out, errOut bounded
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, in, &out, &errOut
	cmd.Env = []string{"PATH=" + im.Path, "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_CEILING_DIRECTORIES=" + filepath.Dir(dir)}
	// A group of its own, so that what it has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		said := strings.TrimSpace(errOut.String())
		if said == "" {
			return "", fmt.Errorf("git %s: %w", args[0], err)
		}
		return "", &GitError{Command: args[0], Said: said, Err: err}
	}
	return strings.TrimSpace(out.String()), nil
}

// GitError is a git that has failed. Said is what it printed, which may hold names from
// inside: escape it.
type GitError struct {
	Command string
	Said    string
	Err     error
}

func (e *GitError) Error() string { return "git " + e.Command + ": " + e.Said }
func (e *GitError) Unwrap() error { return e.Err }

// bounded keeps the beginning of what is written.
type bounded struct{ bytes.Buffer }

const maxSaid = 64 << 10

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxSaid - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
