package session

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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/plan"
)

// The test program is also the supervisor that gets killed.
func TestMain(m *testing.M) {
	if env := os.Getenv("SESSION_TEST_SUPERVISOR"); env != "" {
		s, err := Open([]string{env})
		if err == nil {
			_, err = s.Create(context.Background(), testPlan(), "victim")
		}
		fmt.Println("ready", err)
		io.Copy(io.Discard, os.Stdin) // until killed
		return
	}
	os.Exit(m.Run())
}

func testPlan() *plan.Plan {
	return &plan.Plan{Version: 1, Boundary: "native", Command: []string{"sh", "-c", "a <b>"}, Workspace: "/home/u/p"}
}

func testStore(t *testing.T) (*Store, []string) {
	t.Helper()
	env := []string{"HOME=/nowhere", "XDG_STATE_HOME=" + t.TempDir()}
	s, err := Open(env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, env
}

func mustCreate(t *testing.T, s *Store, name string) *Session {
	t.Helper()
	x, err := s.Create(t.Context(), testPlan(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func one(t *testing.T, s *Store, key string) Info {
	t.Helper()
	i, err := s.Find(key)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestLifeOfASession(t *testing.T) {
	s, env := testStore(t)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
	x := mustCreate(t, s, "fix-1")
	if err := x.Started(4711); err != nil {
		t.Fatal(err)
	}
	other, err := Open(env) // another process would see this
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	i := one(t, other, "fix-1")
	if i.Status != Live || i.State.Inside != 4711 || i.State.Command[2] != "a <b>" || i.State.Supervisor.PID != os.Getpid() ||
		i.State.Supervisor.Start == 0 || i.State.BootID == "" || i.Dir != x.Dir {
		t.Errorf("%+v", i)
	}
	if p, err := other.Plan(i); err != nil || p.Workspace != "/home/u/p" {
		t.Errorf("plan %+v, %v", p, err)
	}
	filepath.WalkDir(x.Dir, func(path string, d os.DirEntry, err error) error {
		info, _ := d.Info()
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		return nil
	})

	w := event.NewWriter(x.Events)
	w.Append(event.Event{Kind: event.Start})
	w.Append(event.Event{Kind: event.End})
	n, head := w.Head()
	if err := x.End(Exit{Status: 3, Events: n, Head: head}); err != nil {
		t.Fatal(err)
	}
	if i := one(t, other, "fix-1"); i.Status != Live {
		t.Errorf("the lock is held, yet %s", i.Status)
	}
	x.Close()
	i = one(t, other, x.ID)
	if i.Status != Ended || i.State.Exit.Status != 3 || i.State.Ended == nil || other.Alive(i) {
		t.Errorf("%+v", i)
	}
	f, err := other.Events(i)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, _ := io.ReadAll(f)
	_, v, _ := event.ReadAll(bytes.NewReader(data))
	if why := i.Judge(v); why != "" {
		t.Error(why)
	}
	// A cut at the end of a line breaks no chain.
	cut := data[:bytes.IndexByte(data, '\n')+1]
	_, v, _ = event.ReadAll(bytes.NewReader(cut))
	if v.State != event.Whole || !strings.Contains(i.Judge(v), "1 events") {
		t.Errorf("a shortened log passes: %+v, %q", v, i.Judge(v))
	}
}

func TestKilledSupervisorIsInterrupted(t *testing.T) {
	s, env := testStore(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SESSION_TEST_SUPERVISOR=" + env[1]}
	in, _ := cmd.StdinPipe()
	defer in.Close()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	if string(line[:n]) != "ready <nil>\n" {
		t.Fatalf("supervisor: %q", line[:n])
	}
	s.Close()
	s, err := Open(env)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if i := one(t, s, "victim"); i.Status != Live {
		t.Errorf("%s while running", i.Status)
	}
	cmd.Process.Kill()
	cmd.Wait()
	i := one(t, s, "victim")
	if i.Status != Interrupted || !strings.Contains(i.Judge(event.Verdict{State: event.Whole}), "killed") {
		t.Errorf("%s after SIGKILL", i.Status)
	}
	if _, err := s.Enter(i, nil); err == nil {
		t.Error("entered a dead session")
	}
	mustCreate(t, s, "victim") // the name is free again
}

func TestNames(t *testing.T) {
	s, _ := testStore(t)
	for _, bad := range []string{"-x", ".x", "a/b", "..", "a b", "ä", "a\n", "1a", strings.Repeat("a", 65)} {
		var e *NameError
		if _, err := s.Create(t.Context(), testPlan(), bad); !errors.As(err, &e) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	// Of many at once, exactly one gets the name.
	if err := s.make(); err != nil { // a Store's first Create is not for many at once
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got, taken := 0, 0
	for range 8 {
		wg.Go(func() {
			x, err := s.Create(t.Context(), testPlan(), "same")
			mu.Lock()
			defer mu.Unlock()
			var e *NameError
			switch {
			case err == nil:
				got++
				t.Cleanup(func() { x.Close() })
			case errors.As(err, &e):
				taken++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got != 1 || taken != 7 {
		t.Errorf("%d got the name, %d were refused", got, taken)
	}
}

func TestFind(t *testing.T) {
	info := func(id, name string, st Status) Info { return Info{ID: id, Status: st, State: State{Name: name}} }
	list := []Info{ // the newest first
		info("20260103-000000-cccc", "web", Ended),
		info("20260102-000000-bbbb", "web", Live),
		info("20260101-000000-aaaa", "api", Ended),
		info("20251231-000000-zzzz", "api-2", Ended),
		info("20251230-000000-yyyy", "api-3", Ended),
		info("20251229-000000-xxxx", "xylophone", Live),
		info("20251228-000000-wwww", "xyl", Ended),
	}
	for key, want := range map[string]string{
		"":                     "20260103-000000-cccc",
		"20260101-000000-aaaa": "20260101-000000-aaaa",
		"web":                  "20260102-000000-bbbb", // live before newest
		"api":                  "20260101-000000-aaaa", // exact before prefix
		"api-":                 "2 sessions",
		"20260102":             "20260102-000000-bbbb",
		"2026":                 "20260102-000000-bbbb", // the only live one
		"xy":                   "20251229-000000-xxxx",
		"nope":                 `no session "nope"`,
	} {
		i, err := find(list, key)
		got := i.ID
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("find %q: %s, want %s", key, got, want)
		}
	}
}

// What is live is found without opening any session that has ended: exec and a start
// with a name must not get slower with each run there was.
func TestFindLive(t *testing.T) {
	s, _ := testStore(t)
	old := mustCreate(t, s, "web")
	if err := errors.Join(old.End(Exit{}), old.Close()); err != nil {
		t.Fatal(err)
	}
	x := mustCreate(t, s, "web")
	watch, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(watch)
	if _, err := syscall.InotifyAddWatch(watch, old.Dir, syscall.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	opened := func() bool {
		var buf [4096]byte
		n, err := syscall.Read(watch, buf[:])
		if err != nil && err != syscall.EAGAIN {
			t.Fatal(err)
		}
		return n > 0
	}
	for _, key := range []string{"web", x.ID} {
		if i := one(t, s, key); i.ID != x.ID || i.Status != Live {
			t.Errorf("%s: %+v", key, i)
		}
	}
	var taken *NameError
	if _, err := s.Create(t.Context(), testPlan(), "web"); !errors.As(err, &taken) {
		t.Errorf("a second session of this name: %v", err)
	}
	mustCreate(t, s, "api")
	if opened() {
		t.Error("a session that has ended was opened")
	}
	// The same look at all of them is seen.
	if i := one(t, s, "we"); i.ID != x.ID {
		t.Errorf("by prefix: %+v", i)
	}
	if !opened() {
		t.Error("the watch sees nothing")
	}
}

// What lies in the directory may be anything after a crash or a bad restore;
// it must neither hang, nor be followed out of the folder, nor hide the rest.
func TestDamagedFolders(t *testing.T) {
	s, _ := testStore(t)
	good := mustCreate(t, s, "good")
	outside := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(outside, []byte("{}"), 0o600)
	n := 0
	folder := func(state func(path string)) {
		n++
		d := filepath.Join(s.dir, fmt.Sprintf("20260101-00000%d-aaaa", n))
		os.Mkdir(d, 0o700)
		os.WriteFile(filepath.Join(d, "lock"), nil, 0o600)
		state(filepath.Join(d, "state.json"))
	}
	write := func(text string) func(string) {
		return func(p string) { os.WriteFile(p, []byte(text), 0o600) }
	}
	folder(func(string) {})
	folder(write(""))
	folder(write(`{"version":2}`))
	folder(write(`{"version":1,"id":"20260101-000004-aaaa","extra":1}`))
	folder(write(`{"version":1,"id":"20260101-000005-aaaa"} {}`))
	folder(write(`{"version":1,"id":"another"}`))
	folder(func(p string) { os.Symlink(outside, p) })
	folder(func(p string) { syscall.Mkfifo(p, 0o600) })
	folder(func(p string) { f, _ := os.Create(p); f.Truncate(maxFile + 1); f.Close() })
	os.WriteFile(filepath.Join(s.dir, "20260101-000000-file"), nil, 0o600)
	os.Symlink("/etc", filepath.Join(s.dir, "20260101-000000-link"))

	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, i := range list {
		switch {
		case i.ID == good.ID:
			if i.Status != Live {
				t.Errorf("%+v", i)
			}
		case i.Status == Damaged && i.Problem != "":
			damaged++
		default:
			t.Errorf("%s passes as %s", i.ID, i.Status)
		}
	}
	if damaged != n+2 {
		t.Errorf("%d of %d damaged folders were listed", damaged, n+2)
	}
}

func TestUnsafeStateDirectoryIsRefused(t *testing.T) {
	home := t.TempDir()
	env := []string{"XDG_STATE_HOME=" + home}
	mine := filepath.Join(home, "cofferdam")
	sessions := filepath.Join(mine, "sessions")
	os.MkdirAll(sessions, 0o700)
	for _, c := range []struct {
		name     string
		do, undo func()
		want     string
	}{
		{"group may write", func() { os.Chmod(sessions, 0o770) }, func() { os.Chmod(sessions, 0o700) }, "others may write"},
		{"world may write above", func() { os.Chmod(mine, 0o707) }, func() { os.Chmod(mine, 0o700) }, "others may write"},
		{"world may write the state home", func() { os.Chmod(home, 0o777) }, func() { os.Chmod(home, 0o700) }, "others may write"},
		{"symlink", func() { os.Remove(sessions); os.Symlink(t.TempDir(), sessions) }, func() { os.Remove(sessions); os.Mkdir(sessions, 0o700) }, "not a directory"},
		{"file", func() { os.Remove(sessions); os.WriteFile(sessions, nil, 0o600) }, func() { os.Remove(sessions); os.Mkdir(sessions, 0o700) }, "not a directory"},
	} {
		c.do()
		_, err := Open(env)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		c.undo()
	}
	os.Chmod(home, 0o777|os.ModeSticky)
	if _, err := Open(env); err != nil {
		t.Errorf("a sticky parent: %v", err)
	}
	if os.Getuid() == 0 {
		os.Chown(sessions, 12345, -1)
		if _, err := Open(env); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("another's directory: %v", err)
		}
	}
	for _, env := range [][]string{nil, {"HOME=relative", "XDG_STATE_HOME=relative"}} {
		if _, err := Open(env); err == nil {
			t.Errorf("%q: no error", env)
		}
	}
}

func TestControl(t *testing.T) {
	s, _ := testStore(t)
	x := mustCreate(t, s, "")
	i := one(t, s, "")
	if err := s.Ping(i); err == nil {
		t.Error("answered before anyone serves")
	}
	var asked atomic.Value // []string
	var adopted atomic.Value
	srv, err := x.Serve(func(p Peer, command []string) ([]*os.File, error) {
		if p.PID != os.Getpid() {
			t.Errorf("peer %+v", p)
		}
		if len(command) == 0 {
			return nil, errors.New("no command")
		}
		asked.Store(command)
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		w.WriteString("inside")
		w.Close()
		return []*os.File{r}, nil
	}, func(listener *os.File) error {
		data, _ := io.ReadAll(listener)
		if adopted.Store(string(data)); len(data) == 0 {
			return errors.New("no listener")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(i); err != nil {
		t.Error(err)
	}
	files, err := s.Enter(i, []string{"ls", strings.Repeat("\x01", 9999)})
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	defer files[0].Close()
	words, _ := asked.Load().([]string)
	if data, _ := io.ReadAll(files[0]); string(data) != "inside" || len(words) != 2 || words[0] != "ls" || len(words[1]) != 256 {
		t.Errorf("%q, %q", data, words)
	}
	if _, err := s.Enter(i, nil); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("refusal: %v", err)
	}
	if _, err := s.ask(i, request{Op: "format-disk"}, nil); err == nil || !strings.Contains(err.Error(), "unknown request") {
		t.Errorf("unknown request: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.WriteString("listener")
	w.Close()
	if err := s.Adopt(i, r); err != nil || adopted.Load() != "listener" {
		t.Errorf("%v, %q", err, adopted.Load())
	}
	if err := s.Adopt(i, r); err == nil || !strings.Contains(err.Error(), "no listener") {
		t.Errorf("refusal: %v", err)
	}
	r.Close()
	if _, err := s.ask(i, request{Op: opAdopt}, nil); err == nil || !strings.Contains(err.Error(), "0 files") {
		t.Errorf("nothing to adopt: %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Ping(i); err == nil {
		t.Error("answers after Close")
	}
}

func TestPrune(t *testing.T) {
	s, _ := testStore(t)
	live := mustCreate(t, s, "")
	for range 3 {
		x := mustCreate(t, s, "")
		x.Close()
	}
	os.Mkdir(filepath.Join(s.dir, ".new-x"), 0o700)
	now := time.Now()
	if gone, err := s.Prune(0, time.Hour, now); err != nil || len(gone) != 0 {
		t.Errorf("young ones are gone: %v, %v", gone, err)
	}
	old := now.Add(-2 * time.Hour)
	os.Chtimes(filepath.Join(s.dir, ".new-x"), old, old)
	gone, err := s.Prune(1, time.Hour, now.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := s.List()
	if len(list) < 2 || len(list)+len(gone) != 5 || !strings.Contains(fmt.Sprint(gone), ".new-x") {
		t.Errorf("gone %v, left %v", gone, list)
	}
	if i := one(t, s, live.ID); i.Status != Live {
		t.Error("a live session was pruned")
	}
}

func TestParseStart(t *testing.T) {
	fields := strings.Repeat("0 ", 18) + "98765 1 2"
	for in, want := range map[string]uint64{
		"12 (sh) S " + fields:            98765,
		"12 (a) R 1 (b ) c) S " + fields: 98765,
		"12 (sh) S 1 2":                  0,
		"":                               0,
		")":                              0,
	} {
		if got := parseStart([]byte(in)); got != want {
			t.Errorf("parseStart(%q) = %d, want %d", in, got, want)
		}
	}
	if startTime(os.Getpid()) == 0 {
		t.Error("own start time is not known")
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"20260101-000000-aaaa","supervisor":{"pid":1,"start":2}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		os.WriteFile(filepath.Join(dir, "state.json"), data, 0o600)
		os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)
		var st State
		status(root, &st)
	})
}

func BenchmarkSession(b *testing.B) {
	s, err := Open([]string{"XDG_STATE_HOME=" + b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	var create, serve, started, end time.Duration
	for b.Loop() {
		t0 := time.Now()
		x, err := s.Create(b.Context(), testPlan(), "")
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		srv, err := x.Serve(nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		x.Started(1)
		t3 := time.Now()
		srv.Close()
		x.End(Exit{})
		x.Close()
		create, serve, started, end = create+t1.Sub(t0), serve+t2.Sub(t1), started+t3.Sub(t2), end+time.Since(t3)
	}
	for name, d := range map[string]time.Duration{"create": create, "serve": serve, "started": started, "end": end} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N), name+"-us/op")
	}
}
