package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/host"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/change"
	workcopy "cofferdam/internal/workspace/copy"
)

// lookForCopy finds out how the workspace can be copied, if it is to be.
func lookForCopy(ctx context.Context, eff *policy.Effective, f *host.Facts, workspace, state string) {
	if eff.WorkspaceMode.Value != "copy" {
		return
	}
	f.Copying = &host.Copying{GitDir: outsideGitDir(workspace)}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.Copying = nil // the plan refuses what nobody has looked at
		return
	}
	f.Copying.Mounts = mountsBelow(string(mounts), workspace)
	if whose := foreign(workspace, f.UID, f.GID); whose != "" {
		f.SetMechanism(host.Mechanism{Name: host.Overlay, Answer: host.No,
			Detail: "what belongs to another user or group, such as " + whose + ", could not be changed in it"})
	} else {
		tryOverlayOnce(ctx, state, f, workspace)
	}
	if f.Mechanism(host.Overlay).Answer == host.Yes {
		return
	}
	cost, err := workcopy.Estimate(ctx, workspace)
	f.Copying.Entries, f.Copying.Bytes = cost.Entries, cost.Bytes
	if err != nil {
		f.Copying.Problem = err.Error()
	}
}

// foreign names the workspace, or an entry at the top of it, that belongs to a user or
// group who does not exist inside: an overlay can't copy it up, and who writes it is
// told EOVERFLOW. Farther down nobody looks before the start.
func foreign(workspace string, uid, gid int) string {
	other := func(name string) bool {
		st, err := os.Lstat(name)
		if err != nil {
			return false
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		return ok && (int(sys.Uid) != uid || int(sys.Gid) != gid)
	}
	if other(workspace) {
		return workspace
	}
	dir, err := os.Open(workspace)
	if err != nil {
		return ""
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxLooked)
	for _, name := range names {
		if full := filepath.Join(workspace, name); other(full) {
			return full
		}
	}
	return ""
}

// maxLooked is how many entries of the workspace are asked whose they are.
const maxLooked = 1000

// mountsBelow lists what is mounted below dir, from the text of a mountinfo.
func mountsBelow(mountinfo, dir string) []string {
	var out []string
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /root /mount/point options ...; proc_pid_mountinfo(5)
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := unescaped(fields[4]); strings.HasPrefix(at, dir+"/") && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// unescaped reads the octal escapes of mountinfo: space, tab, newline, backslash.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// outsideGitDir is where git has the objects of this workspace if its .git is a file or
// a symlink that leads outside, as for a worktree or a submodule. An earlier run may have
// written that, so what it leads to has to look like a directory of git.
func outsideGitDir(workspace string) string {
	name := filepath.Join(workspace, ".git")
	st, err := os.Lstat(name)
	dir := ""
	switch {
	case err != nil:
	case st.Mode()&os.ModeSymlink != 0:
		dir = realAt(workspace, ".git")
	case st.Mode().IsRegular() && st.Size() < 4096:
		if text, err := os.ReadFile(name); err == nil {
			if rest, ok := strings.CutPrefix(string(text), "gitdir: "); ok {
				dir = realAt(workspace, strings.TrimRight(rest, "\r\n"))
			}
		}
	}
	if dir == "" || !isFile(dir, "HEAD") {
		return ""
	}
	common := dir
	if text, err := os.ReadFile(filepath.Join(dir, "commondir")); err == nil && len(text) < 4096 {
		common = realAt(dir, strings.TrimRight(string(text), "\r\n"))
	}
	if st, err := os.Stat(filepath.Join(common, "objects")); common == "" || err != nil || !st.IsDir() || within(common, workspace) {
		return ""
	}
	return common
}

func realAt(base, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(base, path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return real
}

func isFile(dir, name string) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular()
}

// tryOverlayOnce is tryOnce for an overlay over the workspace with its layers in the
// state directory. A yes is remembered for these two file systems.
func tryOverlayOnce(ctx context.Context, state string, f *host.Facts, workspace string) {
	if os.MkdirAll(state, 0o700) != nil {
		return // nothing could be kept there; the session's folder will say so
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	now := fmt.Sprintf("%s %s %d %d ", strings.TrimSpace(string(boot)), f.Kernel, device(workspace), device(state))
	file := filepath.Join(state, "tried-"+host.Overlay)
	if before, rerr := os.ReadFile(file); err == nil && rerr == nil {
		if level, ok := strings.CutPrefix(string(before), now); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(level))
			f.SetMechanism(host.Mechanism{Name: host.Overlay, Answer: host.Yes, Level: n, Detail: "a trial succeeded since this machine was started"})
			return
		}
	}
	tryOverlay(ctx, state, f, workspace)
	if m := f.Mechanism(host.Overlay); err == nil && m.Answer == host.Yes {
		_ = os.WriteFile(file, fmt.Appendf(nil, "%s%d\n", now, m.Level), 0o600)
	}
}

// tryOverlay tries an overlay over project with its layers in a directory of state.
func tryOverlay(ctx context.Context, state string, f *host.Facts, project string) {
	// What a trial that was killed has left goes after an hour.
	old, _ := filepath.Glob(state + "/.trial-*")
	for _, name := range old {
		if st, err := os.Lstat(name); err == nil && time.Since(st.ModTime()) > time.Hour {
			_ = fsat.RemoveBelow(state, filepath.Base(name))
		}
	}
	dir, err := os.MkdirTemp(state, ".trial-")
	if err != nil {
		return
	}
	probe.TryOverlay(ctx, f, project, dir)
	_ = fsat.RemoveBelow(state, filepath.Base(dir)) // its work directory is closed to its owner
}

// device is the number of the file system that has the directory; 0 if nobody knows.
func device(dir string) uint64 {
	if st, err := os.Stat(dir); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			return uint64(sys.Dev)
		}
	}
	return 0
}

// makeCopy makes the copy that the plan wants in the session's folder, which has to be
// there before the boundary goes up, and fills its place into the plan that is started.
func (r *run) makeCopy(ctx context.Context, started *plan.Plan) (*plan.Plan, error) {
	if r.plan.Copy == "" {
		return started, nil
	}
	if err := r.create(ctx); err != nil {
		return nil, err
	}
	var c workcopy.Copy
	var err error
	if r.plan.Copy == plan.CopyFull {
		c, err = workcopy.MakeFull(ctx, r.session.Dir, r.plan.Workspace)
	} else {
		c, err = workcopy.Make(r.session.Dir, r.plan.Workspace)
	}
	if err == nil {
		err = r.session.Write(session.CopyFile, c)
	}
	if err != nil {
		_ = workcopy.Remove(r.session.Dir) // nothing was done in it
		return nil, &session.Error{Op: "copy the workspace into", Path: r.session.Dir, Err: err}
	}
	filled := *started
	filled.Mounts = slices.Clone(started.Mounts)
	m, ok := filled.Copied()
	if !ok {
		return nil, errors.New("the plan has a copy and no place for it")
	}
	// The boundary follows no symlink.
	folder := realDir(r.session.Dir)
	if c.Kind == workcopy.Full {
		m.Kind, m.Source = plan.Bind, workcopy.Tree(folder)
	} else {
		m.Upper, m.Work = workcopy.Layers(folder)
	}
	return &filled, nil
}

// closeCopy looks at what has come to lie in the copy, and throws an unchanged one away.
// What it returns is for the person.
func (r *run) closeCopy() (text string, hints []string) {
	if r.plan.Copy == "" || r.session == nil || !workcopy.Exists(r.session.Dir) {
		return "", nil
	}
	info := session.Info{ID: r.session.ID, Dir: r.session.Dir, State: session.State{Workspace: r.plan.Workspace}}
	set, _, _, err := changesOf(r.store, info)
	switch {
	case err != nil:
		return "what was changed in the copy could not be looked at: " + err.Error(), copyHints(r.session.ID)
	case len(set.Entries) == 0 && len(set.Untold) == 0:
		if err := workcopy.Remove(r.session.Dir); err != nil {
			return "nothing was changed in the copy, and it could not be removed: " + err.Error(), copyHints(r.session.ID)
		}
		return "", nil
	}
	files, git := 0, 0
	for _, e := range set.Entries {
		switch {
		case e.Path == ".git" || strings.HasPrefix(e.Path, ".git/"):
			git++
		case e.Old == nil && e.New.Type == change.Directory, e.New == nil && e.Old.Type == change.Directory:
		default:
			files++
		}
	}
	text = count(files, "file") + " changed in a copy; nothing of it has reached the project"
	if git > 0 {
		text += " (and " + count(git, "entry") + " in .git)"
	}
	if n := len(set.Untold); n > 0 {
		text += fmt.Sprintf("; %s could not be looked at, the first %s: %s", count(n, "place"), report.Quote(set.Untold[0].Path), report.Plain(set.Untold[0].Why))
	}
	// For the log: the person is told with what can be done.
	_ = r.recorder.write(event.Event{Kind: event.Notice, Subject: r.plan.Workspace, Detail: text})
	return text, copyHints(r.session.ID)
}

// copyHints are what can be done with a session's copy.
func copyHints(id string) []string {
	return []string{"to look at it: cofferdam review " + id, "to carry it over: cofferdam apply " + id + "; to throw it away: cofferdam discard " + id}
}

func count(n int, of string) string {
	switch {
	case n == 1:
		return "1 " + of
	case strings.HasSuffix(of, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(of, "y"))
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// Discard throws the copy of a session away. Its record stays. key "" is the latest
// session of the workspace that has one.
func Discard(ctx context.Context, key string, c Caller) (*Discarded, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	info, err := withCopy(store, key, c)
	if err != nil {
		return nil, err
	}
	out := &Discarded{ID: info.ID, Workspace: info.State.Workspace}
	if info.Status == session.Live {
		return nil, &session.ControlError{ID: info.ID, Text: "it is running in its copy"}
	}
	if info.Status == session.Interrupted {
		if err := recoverSession(ctx, store, info, c); err != nil {
			return nil, err
		}
	}
	if out.Bytes, err = workcopy.Size(info.Dir); err == nil {
		err = workcopy.Remove(info.Dir)
	}
	if err != nil {
		return nil, &session.Error{Op: "discard the copy in", Path: info.Dir, Err: err}
	}
	return out, nil
}

// Discarded is a copy that is gone.
type Discarded struct {
	ID        string `json:"id"`
	Workspace string `json:"workspace"`
	Bytes     int64  `json:"bytes"` // what it took on the disk
}

// withCopy finds a session that has a copy.
func withCopy(store *session.Store, key string, c Caller) (session.Info, error) {
	if key != "" {
		info, err := store.Find(key)
		if err == nil && !workcopy.Exists(info.Dir) {
			err = &NoCopyError{ID: info.ID, Applies: info.State.Copy}
		}
		return info, err
	}
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return session.Info{}, &UsageError{Text: "the working directory: " + err.Error(), Hint: "name the session"}
	}
	list, err := store.List()
	if err != nil {
		return session.Info{}, err
	}
	for _, i := range slices.Backward(list) {
		if i.Status != session.Live && i.State.Workspace != "" && within(dir, i.State.Workspace) && workcopy.Exists(i.Dir) {
			return i, nil
		}
	}
	return session.Info{}, &NoCopyError{}
}

// NoCopyError: a session has no copy, or no session of this project has one.
type NoCopyError struct {
	ID      string
	Applies bool // it had one
}

func (e *NoCopyError) Error() string {
	switch {
	case e.ID == "":
		return "no session of this project has a copy"
	case e.Applies:
		return "session " + e.ID + " has no copy any more: nothing was changed there, or it was thrown away"
	}
	return "session " + e.ID + " worked in the project itself, not in a copy"
}

// toldOfCopy tells of what an interrupted session has left: its copy is whole.
func toldOfCopy(i session.Info, c Caller) {
	if workcopy.Exists(i.Dir) {
		c.tell("session "+i.ID+" was interrupted; what it did is in its copy, and nothing of it in the project", "", copyHints(i.ID)[0])
	}
}
