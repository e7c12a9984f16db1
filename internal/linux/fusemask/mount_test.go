//go:build linux

package fusemask

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/testenv"
)

// The test binary plays three parts: the test, which is the supervisor; "box",
// an unprivileged process that makes namespaces; "inner", which mounts in
// them and then does what it is told, one act per line; and "serve", a
// supervisor that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "__box":
			os.Exit(boxMain())
		case "__inner":
			os.Exit(innerMain())
		case "__serve":
			New(testMasksOf(os.Args[2])).Serve(os.NewFile(3, "fuse"), nil)
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// outsider is a user without any right, for when the tests run as root.
const outsider = 12345

func testMasksOf(dir string) []Mask {
	return []Mask{{dir + "/secrets", true, 1}, {dir + "/token", false, 2}}
}

// boxMain clones inner into new namespaces as whoever we are.
func boxMain() int {
	cmd := exec.Command("/proc/self/exe", append([]string{"__inner"}, os.Args[2:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "socket")}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		// Own uid inside, as the real boundary has; exec would drop the
		// capabilities otherwise.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		return 1
	}
	return 0
}

func innerMain() int {
	if err := inner(os.Args[2], os.Args[3] == "mask"); err != nil {
		fmt.Println("error", err)
		return 1
	}
	return 0
}

// inner carries out the recipe of Options with plain system calls.
func inner(dir string, mask bool) error {
	pidns, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	if mask {
		start := time.Now()
		fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/fuse: %w", err)
		}
		fs, err := fsopen(Filesystem)
		if err != nil {
			return fmt.Errorf("fsopen: %w", err)
		}
		for _, o := range Options(fuse, os.Getuid(), os.Getgid()) {
			if err := unix.FsconfigSetString(fs, o.Key, o.Value); err != nil {
				return fmt.Errorf("fsconfig %s: %w", o.Key, err)
			}
		}
		if err := unix.FsconfigCreate(fs); err != nil {
			return fmt.Errorf("fsconfig create: %w", err)
		}
		if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(fuse, int(pidns.Fd())), nil, 0); err != nil {
			return err
		}
		unix.Close(fuse)
		m, _, errno := unix.Syscall(unix.SYS_FSMOUNT, uintptr(fs), unix.FSMOUNT_CLOEXEC, MountAttributes)
		if errno != 0 {
			return fmt.Errorf("fsmount: %w", errno)
		}
		if _, err := unix.Openat(int(m), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != unix.EACCES {
			return fmt.Errorf("listing the root: %v", err)
		}
		for i, k := range testMasksOf(dir) {
			t, err := unix.OpenTree(int(m), fmt.Sprint(i), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
			if err != nil {
				return fmt.Errorf("open_tree %d: %w", i, err)
			}
			if err := unix.MoveMount(t, "", unix.AT_FDCWD, k.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return fmt.Errorf("move_mount %s: %w", k.Path, err)
			}
			unix.Close(t)
		}
		unix.Close(int(m))
		unix.Close(fs)
		fmt.Println("ready", time.Since(start))
	} else {
		fmt.Println("ready")
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var act []string
		if err := json.Unmarshal(in.Bytes(), &act); err != nil {
			return err
		}
		fmt.Println(perform(act))
	}
	return in.Err()
}

func fsopen(name string) (int, error) {
	b, err := unix.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(b)), unix.FSOPEN_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// perform does one act and returns "ok ..." or the error's name.
func perform(act []string) string {
	errno := func(err error) string {
		if err == nil {
			return "ok"
		}
		var e syscall.Errno
		if errors.As(err, &e) {
			return unix.ErrnoName(e)
		}
		return err.Error()
	}
	path := act[1]
	switch act[0] {
	case "read":
		b, err := os.ReadFile(path)
		if err != nil {
			return errno(err)
		}
		return "ok " + string(b)
	case "list":
		_, err := os.ReadDir(path)
		return errno(err)
	case "stat":
		fi, err := os.Lstat(path)
		if err != nil {
			return errno(err)
		}
		return "ok " + fi.Mode().String()
	case "statx":
		var st unix.Statx_t
		return errno(unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	case "write":
		return errno(os.WriteFile(path, []byte("x"), 0o600))
	case "append":
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return errno(err)
	case "mkdir":
		return errno(os.Mkdir(path, 0o700))
	case "remove":
		return errno(syscall.Unlink(path))
	case "rmdir":
		return errno(syscall.Rmdir(path))
	case "rename":
		return errno(os.Rename(path, act[2]))
	case "link":
		return errno(os.Link(path, act[2]))
	case "chmod":
		return errno(os.Chmod(path, 0o777))
	case "truncate":
		return errno(os.Truncate(path, 0))
	case "chdir":
		return errno(os.Chdir(path))
	case "access":
		return errno(unix.Access(path, unix.R_OK))
	case "exists":
		return errno(unix.Access(path, unix.F_OK))
	case "xattr":
		_, err := unix.Getxattr(path, "user.x", nil)
		return errno(err)
	case "ls":
		out, err := exec.Command("/bin/ls", "-l", path).CombinedOutput()
		if err != nil {
			return string(out)
		}
		return "ok"
	case "bigxattr":
		return errno(unix.Setxattr(path, "user.x", make([]byte, 65536), 0))
	case "exec":
		return errno(exec.Command(path).Start())
	case "reopen": // an O_PATH descriptor must not be a way in
		fd, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			return "path " + errno(err)
		}
		defer unix.Close(fd)
		_, err = os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd))
		return errno(err)
	case "umount":
		return errno(unix.Unmount(path, unix.MNT_DETACH))
	case "cat":
		out, _ := exec.Command("/bin/cat", path).CombinedOutput()
		return strings.TrimSpace(string(out))
	case "flood": // from several threads; answers how many attempts
		const threads, each = 8, 2500
		var wg sync.WaitGroup
		var wrong atomic.Int64
		start := time.Now()
		for range threads {
			wg.Go(func() {
				for i := range each {
					if _, err := unix.Open(path+"/"+fmt.Sprint(i), unix.O_RDONLY, 0); err != unix.EACCES {
						wrong.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return fmt.Sprintf("ok %d wrong=%d each=%v", threads*each, wrong.Load(), time.Since(start)/(threads*each))
	case "serial":
		times := make([]time.Duration, 2000)
		for i := range times {
			start := time.Now()
			unix.Open(path, unix.O_RDONLY, 0)
			times[i] = time.Since(start)
		}
		slices.Sort(times)
		return fmt.Sprintf("ok min=%v median=%v", times[0], times[len(times)/2])
	}
	return "what is " + act[0]
}

// need skips if there is an error.
func need(t testing.TB, what testenv.Need, err error) {
	t.Helper()
	if err != nil {
		testenv.Skip(t, what, err.Error())
	}
}

type box struct {
	t     testing.TB
	dir   string
	fuse  *os.File
	pidns *os.File
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	ready chan string
}

// newBox starts an inner process over a directory with canaries. With mask,
// its fuse descriptor is in b.fuse and somebody must serve it.
func newBox(t testing.TB, mask bool) *box {
	t.Helper()
	uid := os.Getuid()
	if uid == 0 {
		uid = outsider
		// What udev does everywhere else (50-udev-default.rules).
		os.Chmod("/dev/fuse", 0o666)
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	need(t, testenv.Fuse, err)
	f.Close()

	dir, err := os.MkdirTemp("/tmp", "fusemask")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	os.Mkdir(dir+"/secrets", 0o755)
	os.WriteFile(dir+"/secrets/key", []byte("canary-dir"), 0o644)
	os.WriteFile(dir+"/token", []byte("canary-file"), 0o644)
	os.WriteFile(dir+"/plain", []byte("plain"), 0o644)
	for _, p := range []string{"", "/secrets", "/secrets/key", "/token", "/plain"} {
		os.Chown(dir+p, uid, uid)
	}

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()

	word := "bare"
	if mask {
		word = "mask"
	}
	b := &box{t: t, dir: dir, ready: make(chan string, 1)}
	b.cmd = exec.Command("/proc/self/exe", "__box", dir, word)
	b.cmd.Dir = "/"
	b.cmd.ExtraFiles = []*os.File{theirs}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		b.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: outsider, Gid: outsider}
	}
	b.cmd.Stderr = os.Stderr
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.out = bufio.NewScanner(out)
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() {
		b.in.Close()
		b.cmd.Wait()
	})
	if mask {
		b.receive(ours)
	}
	return b
}

func (b *box) receive(socket *os.File) {
	oob := make([]byte, unix.CmsgSpace(8))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		b.out.Scan()
		need(b.t, testenv.UserNamespaces, fmt.Errorf("no descriptor: %v; %s", err, b.out.Text()))
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		b.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		b.t.Fatal(err)
	}
	b.fuse, b.pidns = os.NewFile(uintptr(fds[0]), "fuse"), os.NewFile(uintptr(fds[1]), "pidns")
}

func (b *box) line() string {
	b.t.Helper()
	if !b.out.Scan() {
		b.t.Fatalf("the box ended: %v", b.out.Err())
	}
	return b.out.Text()
}

func (b *box) do(act ...string) string {
	b.t.Helper()
	line, _ := json.Marshal(act)
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		b.t.Fatal(err)
	}
	return b.line()
}

// record keeps attempts as "mask action name [w]" with the pid checked apart.
type record struct {
	mu   sync.Mutex
	list []string
	pids map[int]string
}

func (r *record) denied(a Attempt) {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", a.PID))
	r.mu.Lock()
	defer r.mu.Unlock()
	s := filepath.Base(a.Mask) + " " + a.Action + " " + string(a.Name)
	if a.Write {
		s += " w"
	}
	r.list = append(r.list, s)
	r.pids[a.PID] = strings.TrimSpace(string(comm))
}

func (r *record) take() ([]string, map[int]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, p := r.list, r.pids
	r.list, r.pids = nil, map[int]string{}
	return l, p
}

func (b *box) serve(s *Server, r *record) (stopped <-chan error) {
	b.t.Helper()
	r.pids = map[int]string{}
	s.PIDNamespace = b.pidns
	done := make(chan error, 1)
	go func() { done <- s.Serve(b.fuse, r.denied) }()
	if got := b.line(); !strings.HasPrefix(got, "ready") {
		b.t.Fatal(got)
	} else {
		b.t.Log("set-up of 2 masks in the box:", strings.TrimPrefix(got, "ready "))
	}
	return done
}

// The negative control: what the masks hide is readable without them.
func TestWithoutMask(t *testing.T) {
	b := newBox(t, false)
	if got := b.line(); got != "ready" {
		need(t, testenv.UserNamespaces, errors.New(got))
	}
	for _, tt := range [][3]string{
		{"read", "/secrets/key", "ok canary-dir"},
		{"read", "/token", "ok canary-file"},
		{"list", "/secrets", "ok"},
		{"reopen", "/token", "ok"},
		{"remove", "/token", "ok"},
	} {
		if got := b.do(tt[0], b.dir+tt[1]); got != tt[2] {
			t.Errorf("%s %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

func TestMasked(t *testing.T) {
	b := newBox(t, true)
	var r record
	s := New(testMasksOf(b.dir))
	done := b.serve(s, &r)
	d := b.dir
	tests := []struct {
		act  []string
		want string
		told string // expected attempts, joined by "; "
	}{
		{[]string{"read", d + "/plain"}, "ok plain", ""},
		{[]string{"stat", d + "/secrets"}, "ok dr-xr-xr-x", ""},
		{[]string{"stat", d + "/token"}, "ok -r--r--r--", ""},
		{[]string{"statx", d + "/token"}, "ok", ""},
		{[]string{"exists", d + "/token"}, "ok", ""},
		{[]string{"read", d + "/secrets/key"}, "EACCES", "secrets lookup key"},
		{[]string{"stat", d + "/secrets/key"}, "EACCES", "secrets lookup key"},
		{[]string{"stat", d + "/secrets/none"}, "EACCES", "secrets lookup none"},
		{[]string{"stat", d + "/secrets/none"}, "EACCES", "secrets lookup none"},
		{[]string{"stat", d + "/secrets/a\x1b[2Jb\n"}, "EACCES", "secrets lookup a\x1b[2Jb\n"},
		{[]string{"list", d + "/secrets"}, "EACCES", "secrets readdir "},
		{[]string{"read", d + "/token"}, "EACCES", "token open "},
		{[]string{"reopen", d + "/token"}, "EACCES", "token open "},
		{[]string{"append", d + "/token"}, "EACCES", "token open  w"},
		{[]string{"truncate", d + "/token"}, "EACCES", "token setattr  w"},
		{[]string{"chmod", d + "/token"}, "EACCES", "token setattr  w"},
		{[]string{"access", d + "/token"}, "EACCES", "token access "},
		{[]string{"chdir", d + "/secrets"}, "EACCES", "secrets access "},
		{[]string{"xattr", d + "/token"}, "EACCES", "token getxattr "},
		{[]string{"ls", d + "/token"}, "ok", ""},
		{[]string{"bigxattr", d + "/token"}, "EACCES", "token setxattr  w"},
		{[]string{"write", d + "/secrets/new"}, "EACCES", "secrets lookup new"},
		{[]string{"mkdir", d + "/secrets/new"}, "EACCES", "secrets lookup new"},
		{[]string{"remove", d + "/secrets/key"}, "EACCES", "secrets lookup key"},
		{[]string{"rename", d + "/secrets/key", d + "/secrets/other"}, "EACCES", "secrets lookup other; secrets lookup key"}, // Go looks at the target first
		{[]string{"exec", d + "/secrets/tool"}, "EACCES", "secrets lookup tool; secrets lookup tool"},                        // Go looks first
		// The kernel's own refusals.
		{[]string{"exec", d + "/token"}, "EACCES", ""},
		{[]string{"remove", d + "/token"}, "EBUSY", ""},
		{[]string{"rmdir", d + "/secrets"}, "EBUSY", ""},
		{[]string{"rename", d + "/plain", d + "/token"}, "EBUSY", ""},
		{[]string{"rename", d + "/token", d + "/moved"}, "EBUSY", ""},
		{[]string{"link", d + "/token", d + "/linked"}, "EXDEV", ""},
	}
	for _, tt := range tests {
		name := tt.act[0] + " " + filepath.Base(tt.act[1])
		if got := b.do(tt.act...); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		got, pids := r.take()
		if tt.act[0] == "exec" {
			got, tt.told = slices.Compact(got), strings.Split(tt.told, ";")[0]
		}
		if s := strings.Join(got, "; "); s != tt.told {
			t.Errorf("%s: told %q, want %q", name, s, tt.told)
		}
		if _, unknown := pids[0]; unknown {
			t.Errorf("%s: pid unknown: %v", name, pids)
		}
	}

	if got := b.do("cat", d+"/secrets/key"); !strings.HasSuffix(got, "Permission denied") {
		t.Errorf("cat: %s", got)
	}
	if _, pids := r.take(); len(pids) != 1 {
		t.Errorf("cat: pids %v", pids)
	} else {
		for pid, comm := range pids {
			if comm != "cat" || pid == 0 {
				t.Errorf("cat was seen as %d %q", pid, comm)
			}
		}
	}

	// Unmasked by the box's own privileged process: the last mount going
	// ends the server. (A real box has no such privilege.)
	for _, m := range testMasksOf(d) {
		if got := b.do("umount", m.Path); got != "ok" {
			t.Errorf("umount %s: %s", m.Path, got)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Serve did not return after the unmount")
		s.Close()
	}
}

func TestFlood(t *testing.T) {
	b := newBox(t, true)
	s := New(testMasksOf(b.dir))
	s.PIDNamespace = b.pidns
	var seen, unknown atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- s.Serve(b.fuse, func(a Attempt) {
			seen.Add(1)
			if a.PID == 0 {
				unknown.Add(1)
			}
		})
	}()
	b.line()
	got := b.do("flood", b.dir+"/secrets")
	t.Log("flood:", got)
	if !strings.HasPrefix(got, "ok 20000 wrong=0 ") || seen.Load() != 20000 || unknown.Load() != 0 {
		t.Errorf("%s; %d seen, %d without pid", got, seen.Load(), unknown.Load())
	}
	t.Log("one after the other:", b.do("serial", b.dir+"/secrets/x"))
	s.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// closed checks that a box without a server gets nothing.
func (b *box) closed() {
	b.t.Helper()
	for _, act := range [][]string{
		{"read", b.dir + "/token"},
		{"append", b.dir + "/token"},
		{"list", b.dir + "/secrets"},
		{"read", b.dir + "/secrets/key"},
		{"read", b.dir + "/secrets/other"},
		{"access", b.dir + "/secrets"},
	} {
		if got := b.do(act...); got != "ENOTCONN" {
			b.t.Errorf("%s %s: %s, want ENOTCONN", act[0], filepath.Base(act[1]), got)
		}
	}
	if got := b.do("read", b.dir+"/plain"); got != "ok plain" {
		b.t.Errorf("a file without mask: %s", got)
	}
}

func TestCloseFailsClosed(t *testing.T) {
	b := newBox(t, true)
	var r record
	s := New(testMasksOf(b.dir))
	done := b.serve(s, &r)
	s.Close()
	s.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	b.closed()
	if err := s.Serve(b.fuse, nil); err != nil {
		t.Errorf("Serve after Close: %v", err)
	}
}

func TestKilledServerFailsClosed(t *testing.T) {
	b := newBox(t, true)
	server := exec.Command("/proc/self/exe", "__serve", b.dir)
	server.ExtraFiles = []*os.File{b.fuse}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	b.fuse.Close()
	b.line()
	if got := b.do("read", b.dir+"/token"); got != "EACCES" {
		t.Errorf("while served: %s", got)
	}
	server.Process.Kill()
	server.Wait()
	b.closed()
}

// A descriptor that can't be served is an error, and Serve gives it back.
func TestServeNotMounted(t *testing.T) {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	need(t, testenv.Fuse, err)
	if err := New(nil).Serve(f, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("Serve: %v, want EPERM", err)
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the descriptor is open still: %v", err)
	}
}

func BenchmarkDenied(b *testing.B) {
	s := New(testMasks)
	req := message(opLookup, 2, "id_rsa\x00")
	var out [maxReplySize]byte
	var at Attempt
	for b.Loop() {
		s.answer(req, &out, &at)
	}
}
