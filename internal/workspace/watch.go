package workspace

import (
	"path"
	"slices"
	"strings"
	"time"

	"cofferdam/internal/linux/fsat"
)

const (
	watchLimit = 1024 // directories; the sweep at the end covers the rest
	watchDepth = 3
	// While there are changes, they are read this often. A change is judged when a
	// whole interval was quiet, so that git's write-to-lock-file-and-rename is over...
	watchQuiet = 20 * time.Millisecond
	// ...but not much later than this, so that noise can't put it off.
	watchLatest = 200 * time.Millisecond
	watchMany   = 64 // more places than this at once: sweep everything
	// Sweeping everything takes at most one part in watchShare of the time.
	watchShare = 20
	// A disk that stalls once must not turn the watcher off for long.
	watchPause = 2 * time.Second
)

// Watcher sets planted names aside while the run goes on. It is quick, not
// complete: only directories near the top are watched, and a race is lost now
// and then. The promise is Sweep's.
//
//	changes --> dirty places --(quiet or latest)--> judged by the sweeper
type Watcher struct {
	s       *sweeper
	n       *fsat.Notifier
	dirs    map[int]watchedDir
	watches map[string]int
	stop    chan struct{}
	done    chan struct{}
	err     error
}

// watchedDir is a directory, as the matcher knows it.
type watchedDir struct {
	rel string
	in  *state // what names in it mean
	// plain: no name on the way to it is guarded or git's, so of what is in it only a
	// name that means something is.
	plain bool
}

// Watch starts watching: what is planted after it has returned is seen. told is called
// from the watcher's goroutine for each entry that is set aside. The caller must Stop it.
func Watch(b *Baseline, session string, told func(Aside)) (*Watcher, error) {
	s, err := newSweeper(b, session)
	if err != nil {
		return nil, err
	}
	s.notify = told
	n, err := fsat.NewNotifier()
	if err != nil {
		s.close()
		return nil, err
	}
	w := &Watcher{s: s, n: n, dirs: map[int]watchedDir{}, watches: map[string]int{}, stop: make(chan struct{}), done: make(chan struct{})}
	w.add("")
	if len(w.dirs) == 0 {
		n.Close()
		s.close()
		return nil, &NotWatchedError{b.Root}
	}
	go w.loop()
	return w, nil
}

// NotWatchedError: the kernel gave no watch (fs.inotify.max_user_watches).
type NotWatchedError struct{ Root string }

func (e *NotWatchedError) Error() string { return "watch " + e.Root + ": no inotify watch is left" }

// Stop ends the watcher and returns what it did. What changed just before may
// not have been judged: sweep after it.
func (w *Watcher) Stop() (Report, error) {
	close(w.stop)
	w.n.Close()
	<-w.done
	w.s.close()
	return w.s.report, w.err
}

// loop waits for a change, then looks at intervals until there is none and nothing is
// left to judge.
func (w *Watcher) loop() {
	defer close(w.done)
	dirty := map[string]bool{}
	var since, nextFull time.Time // since: there is something to judge
	for busy := false; ; {
		if busy && !w.sleep() || !busy && w.n.Wait() != nil {
			return
		}
		changes, err := w.n.Read(func(c fsat.Change) {
			if p, ok := w.place(c); ok {
				dirty[p] = true
			}
		})
		if err != nil {
			return
		}
		now := time.Now()
		if len(dirty) > 0 && since.IsZero() {
			since = now
		}
		if len(dirty) > 0 && (changes == 0 || now.Sub(since) >= watchLatest) {
			nextFull = w.judgeAll(dirty, nextFull)
			since = time.Time{}
		}
		busy = changes > 0 || len(dirty) > 0
	}
}

// sleep lets an interval pass; false when the watcher has to end.
func (w *Watcher) sleep() bool {
	t := time.NewTimer(watchQuiet)
	defer t.Stop()
	select {
	case <-w.stop:
		return false
	case <-t.C:
		return true
	}
}

// judgeAll judges these places and forgets them, but for the whole workspace before its
// time has come. It returns when that will be.
func (w *Watcher) judgeAll(dirty map[string]bool, nextFull time.Time) time.Time {
	if len(dirty) > watchMany {
		clear(dirty)
		dirty[""] = true
	}
	start := time.Now()
	if dirty[""] && !start.Before(nextFull) {
		w.judge("")
		clear(dirty)
		return time.Now().Add(min(time.Since(start)*watchShare, watchPause))
	}
	for p := range dirty {
		if p != "" {
			w.judge(p)
			delete(dirty, p)
		}
	}
	return nextFull
}

func (w *Watcher) judge(rel string) {
	if _, err := w.s.round(rel); err != nil && w.err == nil {
		w.err = err
	}
}

// place says what to look at after a change; ok is false when nothing guarded
// can be concerned.
func (w *Watcher) place(c fsat.Change) (p string, ok bool) {
	if c.Lost {
		return "", true
	}
	at, known := w.dirs[c.Watch]
	if !known {
		return "", false
	}
	dir := at.rel
	if c.Moved {
		delete(w.dirs, c.Watch)
		if w.watches[dir] == c.Watch {
			delete(w.watches, dir)
		}
		// Renamed in the workspace it has told of its new name before, and is
		// watched there still; and there may be a new directory at the old one.
		w.add(dir)
		_, again := w.watches[dir]
		return dir, again
	}
	if at.plain && !(c.Dir && c.New) && c.Name != ".git" && at.in.look([]byte(c.Name), &hit{}) == nil {
		return "", false // most changes are such
	}
	rel := c.Name
	if dir != "" {
		rel = dir + "/" + c.Name
	}
	if c.Dir && c.New {
		w.add(rel)
	}
	if at.plain && c.Name == ".git" && !c.Dir {
		w.written(at) // before it is judged: what is written to it later is seen
	}
	parts := strings.Split(rel, "/")
	if i := slices.Index(parts, ".git"); i >= 0 && w.s.git {
		if i == len(parts)-1 || gitMatters(parts[i+1:]) {
			return strings.Join(parts[:i+1], "/"), true
		}
		return "", false
	}
	// The outermost guarded name on the way.
	for i := range parts {
		up := strings.Join(parts[:i+1], "/")
		if _, h := w.s.follow(up); h != nil && (len(h.full) > 0 || len(h.linked) > 0) {
			return up, true
		}
	}
	return rel, c.Dir && c.New // a new directory may have come with all that is in it
}

// gitMatters says whether a change in a git directory is worth a look now.
// What a commit writes all the time is not; the sweep looks at it all.
func gitMatters(parts []string) bool {
	last := parts[len(parts)-1]
	if strings.HasSuffix(last, ".lock") {
		return false
	}
	if len(parts) > 1 {
		switch parts[len(parts)-2] {
		case "hooks", "remotes", "branches", "worktrees", "modules":
			return true
		}
	}
	switch last {
	case "config", "config.worktree", "commondir", "gitdir", "attributes", "hooks", "remotes", "branches", "info", "worktrees", "modules":
		return true
	case "HEAD":
		return len(parts) > 2 && parts[len(parts)-3] == "worktrees"
	}
	return false
}

// add watches a directory and those below it that are near, breadth first, so
// that the limit cuts off the deepest.
func (w *Watcher) add(rel string) {
	buf := make([]byte, 16<<10)
	for queue := []string{rel}; len(queue) > 0 && len(w.dirs) < watchLimit; queue = queue[1:] {
		dir := queue[0]
		at := w.known(dir)
		id, err := w.n.Add(w.s.fd, dir, !at.plain)
		if err != nil {
			continue
		}
		w.dirs[id] = at
		w.watches[dir] = id
		fd, err := fsat.OpenDir(w.s.fd, dir)
		if err != nil {
			continue
		}
		fsat.Entries(fd, buf, func(name []byte, t fsat.Type) {
			sub := path.Join(dir, string(name))
			if at.plain && t != fsat.Dir && string(name) == ".git" {
				w.written(at)
			}
			if t == fsat.Dir && len(queue) < watchLimit && watched(sub) {
				queue = append(queue, sub)
			}
		})
		fsat.Close(fd)
	}
}

// written has the watch of a directory tell of what is written to its files too: one of
// them is a .git file, which is judged by what it says. In the rest of the workspace it
// is enough that a name appears, and that leaves out two changes of three.
func (w *Watcher) written(at watchedDir) {
	at.plain = false
	if id, err := w.n.Add(w.s.fd, at.rel, true); err == nil {
		w.dirs[id], w.watches[at.rel] = at, id
	}
}

// known is what the matcher knows of a directory.
func (w *Watcher) known(rel string) watchedDir {
	at := watchedDir{rel: rel, in: w.s.m.start, plain: true}
	if rel == "" {
		return at
	}
	for name := range strings.SplitSeq(rel, "/") {
		var scratch hit
		h := at.in.look([]byte(name), &scratch)
		at.plain = at.plain && name != ".git" && (h == nil || len(h.full) == 0 && len(h.linked) == 0)
		at.in = w.s.m.below(at.in, name, h)
	}
	return at
}

func watched(rel string) bool {
	parts := strings.Split(rel, "/")
	i := slices.Index(parts, ".git")
	if i < 0 {
		return len(parts) <= watchDepth && parts[len(parts)-1] != "node_modules"
	}
	if i == len(parts)-1 {
		return true
	}
	in := parts[i+1:]
	switch in[len(in)-1] {
	case "hooks", "info", "remotes", "branches", "worktrees", "modules":
		return true
	}
	if len(in) > 1 {
		switch in[len(in)-2] {
		case "worktrees", "modules":
			return true
		}
	}
	return false
}
