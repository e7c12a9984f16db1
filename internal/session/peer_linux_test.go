package session

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/testenv"
)

// someoneElse runs f on a thread that is another user's. What the thread connects or
// listens on carries that user's number (unix(7), SO_PEERCRED).
func someoneElse(t *testing.T, f func()) {
	t.Helper()
	const nobody = 65534
	runtime.LockOSThread()
	set := func(real, effective, saved uintptr) {
		// Of this thread alone: syscall.Setresuid is of them all.
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, real, effective, saved); errno != 0 {
			t.Fatal("setresuid: ", errno) // the thread stays locked, and ends with the test
		}
	}
	set(nobody, nobody, 0)
	f()
	set(0, 0, 0)
	runtime.UnlockOSThread()
}

// Another user gets nothing from a session, and gives it nothing, even if somebody has
// opened its folder to everybody.
func TestPeers(t *testing.T) {
	if os.Getuid() != 0 {
		testenv.Skip(t, testenv.Root, "it takes a second user")
	}
	s, _ := testStore(t)
	x := mustCreate(t, s, "peers")
	i := one(t, s, x.ID)
	entered := false
	srv, err := x.Serve(func(Peer, []string) ([]*os.File, error) { entered = true; return nil, nil }, func(*os.File) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	for dir := i.Dir; dir != filepath.Dir(filepath.Dir(os.TempDir())) && dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&0o005 != 5 {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	socket := filepath.Join(i.Dir, socketFile)
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(i.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	ask := func() string {
		c, err := unixsock.Dial(folder, socketFile)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Send([]byte(`{"v":1,"op":"enter","command":["sh"]}`), nil); err != nil {
			return err.Error()
		}
		buf := make([]byte, 1024)
		n, _, err := c.Receive(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	if got := ask(); !entered {
		t.Fatalf("its own user is refused: %s", got)
	}
	entered = false
	someoneElse(t, func() {
		if got := ask(); !strings.Contains(got, "another user") || entered {
			t.Errorf("another user got %s, entered %v", got, entered)
		}
	})

	// The other way round: another user's server in the place of ours.
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.Chmod(i.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	someoneElse(t, func() {
		l, err := unixsock.Listen(folder, socketFile)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _, _ = c.Receive(make([]byte, 1024))
			_ = c.Send([]byte(`{"v":1,"id":"`+i.ID+`"}`), nil)
		}()
	})
	if err := os.Chmod(i.Dir, 0o700); err != nil { // or the folder itself is refused
		t.Fatal(err)
	}
	if err := s.Ping(i); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("asked another user's server: %v", err)
	}
}
