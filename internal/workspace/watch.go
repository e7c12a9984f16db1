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
	// A change is judged when its neighbourhood has been quiet for this
	// long, so that git's write-to-lock-file-and-rename is over...
	watchQuiet = 20 * time.Millisecond
	// ...but not later than this, so that noise can't put it off.
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
	dirs    map[int]string // watch -> directory
	watches map[string]int
	done    chan struct{}
	err     error
}

// Watch starts watching. told is called from the watcher's goroutine for each
// entry that is set aside. The caller must Stop it.
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
	w := &Watcher{s: s, n: n, dirs: map[int]string{}, watches: map[string]int{}, done: make(chan struct{})}
	w.add("")
	if len(w.dirs) == 0 {
		n.Close()
		s.close()
		return nil, &NotWatchedError{b.Root}
	}
	changes := make(chan []fsat.Change)
	go func() { // ends when Stop closes the notifier
		defer close(changes)
		for {
			c, err := n.Read()
			if err != nil {
				return
			}
			changes <- c
		}
	}()
	go w.loop(changes)
	return w, nil
}

// NotWatchedError: the kernel gave no watch (fs.inotify.max_user_watches).
type NotWatchedError struct{ Root string }

func (e *NotWatchedError) Error() string { return "watch " + e.Root + ": no inotify watch is left" }

// Stop ends the watcher and returns what it did. What changed just before may
// not have been judged: sweep after it.
func (w *Watcher) Stop() (Report, error) {
	w.n.Close()
	<-w.done
	w.s.close()
	return w.s.report, w.err
}

func (w *Watcher) loop(changes <-chan []fsat.Change) {
	defer close(w.done)
	dirty := map[string]bool{"": true} // what was planted before the watches stood
	var first, nextFull time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case list, ok := <-changes:
			if !ok {
				return
			}
			for _, c := range list {
				if p, ok := w.place(c); ok {
					dirty[p] = true
				}
			}
			if len(dirty) == 0 {
				continue
			}
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			timer.Reset(min(watchQuiet, first.Add(watchLatest).Sub(now)))
		case <-timer.C:
			first = time.Time{}
			if len(dirty) > watchMany {
				dirty = map[string]bool{"": true}
			}
			if dirty[""] {
				if wait := time.Until(nextFull); wait > 0 {
					timer.Reset(wait)
					if len(dirty) == 1 {
						continue
					}
				} else {
					start := time.Now()
					w.judge("")
					nextFull = time.Now().Add(min(time.Since(start)*watchShare, watchPause))
					clear(dirty)
				}
			}
			for p := range dirty {
				if p != "" {
					w.judge(p)
					delete(dirty, p)
				}
			}
		}
	}
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
	dir, known := w.dirs[c.Watch]
	if !known {
		return "", false
	}
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
	rel := c.Name
	if dir != "" {
		rel = dir + "/" + c.Name
	}
	if c.Dir && c.New {
		w.add(rel)
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
		id, err := w.n.Add(w.s.fd, dir)
		if err != nil {
			continue
		}
		w.dirs[id] = dir
		w.watches[dir] = id
		fd, err := fsat.OpenDir(w.s.fd, dir)
		if err != nil {
			continue
		}
		fsat.Entries(fd, buf, func(name []byte, t fsat.Type) {
			sub := path.Join(dir, string(name))
			if t == fsat.Dir && len(queue) < watchLimit && watched(sub) {
				queue = append(queue, sub)
			}
		})
		fsat.Close(fd)
	}
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
