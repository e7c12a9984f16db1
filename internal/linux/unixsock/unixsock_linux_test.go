package unixsock

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func openDir(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Longer than sun_path on purpose.
func TestFilesTravel(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	l, err := Listen(d, "s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(filepath.Join(dir, "s")); err != nil || info.Mode().Perm()&0o077 != 0 || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(d, "s"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v", err)
	}

	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		r, w, err := os.Pipe()
		if err != nil {
			done <- err
			return
		}
		defer r.Close()
		w.WriteString("through")
		w.Close()
		done <- c.Send([]byte("hello"), []*os.File{r})
	}()

	c, err := Dial(d, "s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p, err := c.Peer(); err != nil || p.UID != os.Getuid() || p.PID != os.Getpid() {
		t.Errorf("peer %+v, %v", p, err)
	}
	buf := make([]byte, 64)
	n, files, err := c.Receive(buf)
	if err != nil || string(buf[:n]) != "hello" || len(files) != 1 {
		t.Fatalf("%q, %d files, %v", buf[:n], len(files), err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	if data, err := io.ReadAll(files[0]); string(data) != "through" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, files[0].Fd(), syscall.F_GETFD, 0)
	if errno != 0 || flags&syscall.FD_CLOEXEC == 0 {
		t.Error("a received file would be inherited by the next exec")
	}
	if _, _, err := c.Receive(buf); err != io.EOF {
		t.Errorf("after close: %v, want EOF", err)
	}
}

func TestMessageTooLongClosesFiles(t *testing.T) {
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send([]byte("0123456789"), []*os.File{w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, _, err := b.Receive(make([]byte, 4)); err == nil {
		t.Fatal("a cut message was taken")
	}
	// EOF only if the received copy of the write end is closed too.
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("files of a cut message stay open: %v", err)
	}
	if err := a.Send(nil, make([]*os.File, MaxFiles+1)); err == nil {
		t.Error("too many files were taken")
	}
}

func TestReceiveDeadline(t *testing.T) {
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	a.SetDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := a.Receive(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCloseWakesAccept(t *testing.T) {
	l, err := Listen(openDir(t, t.TempDir()), "s")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := l.Accept(); done <- err }()
	l.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(), open()
	defer b.Close()
	if err := TryLock(a, false); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(b, true); err != ErrLocked {
		t.Errorf("second lock: %v", err)
	}
	a.Close()
	if err := Lock(t.Context(), b); err != nil {
		t.Errorf("after close: %v", err)
	}
}
