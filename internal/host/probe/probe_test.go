//go:build linux

package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"cofferdam/internal/host"
	"cofferdam/internal/testenv"

	"golang.org/x/sys/unix"
)

// The test binary also plays the children of Full, and "__worse", a process
// that first makes its machine worse and then prints Full.
func TestMain(m *testing.M) {
	if handled, exit := Child(os.Args[1:]); handled {
		os.Exit(exit)
	}
	if len(os.Args) == 3 && os.Args[1] == "__worse" {
		if err := worse[os.Args[2]].spoil(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		json.NewEncoder(os.Stdout).Encode(Full(context.Background(), os.Getenv("HOME")))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPasswd(t *testing.T) {
	const text = "root:x:0:0:root:/root:/bin/sh\n#x:x:7:7::/no:/x\nbroken:x:1000\nann:x:1000:1000:A,,,:/home/ann:/bin/sh\nann2:x:1000:1::/other:/bin/sh\n+::::::\nlast:x:5:5::/home/last:/bin/sh"
	for uid, want := range map[int][2]string{
		0: {"root", "/root"}, 1000: {"ann", "/home/ann"}, 7: {}, 9: {}, 5: {"last", "/home/last"},
	} {
		if name, home := passwdEntry(text, uid); name != want[0] || home != want[1] {
			t.Errorf("uid %d: %q %q", uid, name, home)
		}
	}
}

func TestHome(t *testing.T) {
	dir := t.TempDir()
	dir, _ = resolve(dir)
	real, other, link := dir+"/real", dir+"/other", dir+"/link"
	os.Mkdir(real, 0o700)
	os.Mkdir(other, 0o700)
	os.Symlink("real", link)
	os.WriteFile(dir+"/file", nil, 0o600)
	uid := os.Getuid()
	for _, tt := range []struct {
		passwd, env string
		uid         int
		want        string
	}{
		{real, other, uid, real},         // HOME does not move the rules
		{link, other, uid, real},         // resolved
		{"", link, uid, real},            // nothing in passwd
		{dir + "/no", other, uid, other}, // passwd names nothing that is there
		{"", other, uid + 1, ""},         // somebody else's
		{"", "/", uid, ""},
		{"", "real", uid, ""},
		{"", dir + "/file", uid, ""},
		{"", "", uid, ""},
	} {
		if got := homeOf(tt.passwd, tt.env, tt.uid); got != tt.want {
			t.Errorf("passwd %q HOME %q: %q, want %q", tt.passwd, tt.env, got, tt.want)
		}
	}
}

// tree makes a fake root with these files.
func tree(t *testing.T, files map[string]string) machine {
	root := t.TempDir()
	for name, text := range files {
		os.MkdirAll(filepath.Dir(root+name), 0o755)
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return machine{root}
}

// The marks of an engine on a machine that is no container are no reason to tell
// anybody of the engine's flags.
func TestMarksOfAnImage(t *testing.T) {
	first := map[string]string{"pid": "pid:[4026531836]", "ipc": "ipc:[4026531839]", "uts": "uts:[4026531838]"}
	for _, private := range []string{"", "pid", "ipc", "uts", "unknown"} {
		m := tree(t, map[string]string{"/.dockerenv": ""})
		os.MkdirAll(m.root+"/proc/self/ns", 0o755)
		for name, link := range first {
			if name == private {
				link = name + ":[4026532001]"
			}
			if private != "unknown" {
				if err := os.Symlink(link, m.root+"/proc/self/ns/"+name); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := "docker"
		if private == "" {
			want = ""
		}
		if got := m.container(); got != want {
			t.Errorf("own namespace %q: %q, want %q", private, got, want)
		}
	}
}

func TestContainer(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"docker":     {"/.dockerenv": "", "/proc/1/cgroup": "0::/\n"},
		"podman":     {"/run/.containerenv": "engine=\"podman\"\n"},
		"lxc":        {"/run/systemd/container": "lxc\n"},
		"kubernetes": {"/proc/1/cgroup": "11:memory:/kubepods/besteffort/pod1/2\n"},
		"containerd": {"/proc/1/cgroup": "0::/system.slice/containerd.service/x\n"},
		"":           {"/proc/1/cgroup": "0::/init.scope\n"},
	} {
		if got := tree(t, files).container(); got != want {
			t.Errorf("%v: %q, want %q", files, got, want)
		}
	}
}

func TestSwitches(t *testing.T) {
	ns := "/proc/self/ns/user"
	for _, tt := range []struct {
		files map[string]string
		want  host.Answer
	}{
		{map[string]string{}, host.No},
		{map[string]string{ns: ""}, host.Unknown},
		{map[string]string{ns: "", "/proc/sys/user/max_user_namespaces": "0\n"}, host.No},
		{map[string]string{ns: "", "/proc/sys/user/max_user_namespaces": "100\n"}, host.Unknown},
		{map[string]string{ns: "", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, host.Unknown},
	} {
		if r := tree(t, tt.files).quickUserns(); r.Answer != tt.want {
			t.Errorf("%v: %+v", tt.files, r)
		}
	}
}

func TestPaths(t *testing.T) {
	dir, _ := resolve(t.TempDir())
	at := func(s string) string { return dir + "/" + s }
	os.Mkdir(at("dir"), 0o750)
	os.WriteFile(at("dir/file"), nil, 0o640)
	os.WriteFile(at("gone (deleted)"), nil, 0o600)
	os.Symlink("dir/file", at("link"))
	os.Symlink("link", at("link2"))
	os.Symlink("nowhere", at("dangling"))
	os.Symlink("loop", at("loop"))
	os.Symlink("dir", at("dirlink"))
	os.Symlink(at("dir/.."), at("dir/up"))
	unix.Mkfifo(at("fifo"), 0o600)
	tests := map[string]host.Path{
		at("dir"):                    {Kind: host.KindDir, Real: at("dir"), RealKind: host.KindDir, Mode: 0o750},
		at("dir/file"):               {Kind: host.KindFile, Real: at("dir/file"), RealKind: host.KindFile, Mode: 0o640},
		at("dirlink/file"):           {Kind: host.KindFile, Real: at("dir/file"), RealKind: host.KindFile, Mode: 0o640, Links: []string{at("dirlink")}},
		at("dirlink/new/x"):          {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: at("dir/new/x"), Links: []string{at("dirlink")}},
		at("dir/up/dir/new"):         {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: at("dir/new"), Links: []string{at("dir/up")}},
		at("gone (deleted)"):         {Kind: host.KindFile, Real: at("gone (deleted)"), RealKind: host.KindFile, Mode: 0o600},
		at("link2"):                  {Kind: host.KindSymlink, Real: at("dir/file"), RealKind: host.KindFile, Mode: 0o640, Links: []string{at("link2"), at("link")}},
		at("dangling"):               {Kind: host.KindSymlink, RealKind: host.KindAbsent, Mode: 0o777, At: at("nowhere"), Links: []string{at("dangling")}},
		at("loop"):                   {Kind: host.KindSymlink, RealKind: host.KindUnknown, Mode: 0o777},
		at("fifo"):                   {Kind: host.KindFifo, Real: at("fifo"), RealKind: host.KindFifo, Mode: 0o600},
		at("none"):                   {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: at("none")},
		at("dir/file/below"):         {Kind: host.KindAbsent, RealKind: host.KindAbsent, At: at("dir/file/below")},
		"relative":                   {Kind: host.KindUnknown, RealKind: host.KindUnknown},
		at("x\x00y"):                 {Kind: host.KindUnknown, RealKind: host.KindUnknown},
		"/dev/null":                  {Kind: host.KindDevice, Real: "/dev/null", RealKind: host.KindDevice, Mode: 0o666},
		at(strings.Repeat("n", 300)): {Kind: host.KindUnknown, RealKind: host.KindUnknown},
	}
	var list []string
	for p := range tests {
		list = append(list, p)
	}
	got := Paths(list)
	for p, want := range tests {
		if want.Kind != host.KindAbsent && want.Kind != host.KindUnknown && p != "/dev/null" {
			want.UID = os.Getuid()
		}
		if !reflect.DeepEqual(got[p], want) {
			t.Errorf("%q: %+v, want %+v", p, got[p], want)
		}
	}
}

// What may not be looked at is unknown, not absent.
func TestPathsForbidden(t *testing.T) {
	var got map[string]host.Path
	dir := t.TempDir()
	os.Mkdir(dir+"/closed", 0o700)
	os.WriteFile(dir+"/closed/key", nil, 0o600)
	os.Symlink("closed/key", dir+"/link")
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	os.Chmod(dir+"/closed", 0)
	t.Cleanup(func() { os.Chmod(dir+"/closed", 0o700) })
	done := make(chan struct{})
	go func() { // a thread without rights, thrown away afterwards
		defer close(done)
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345); errno != 0 {
				t.Error(errno)
				return
			}
		}
		got = Paths([]string{dir + "/closed/key", dir + "/closed/none", dir + "/link"})
	}()
	<-done
	for p, want := range map[string][2]string{
		"/closed/key":  {host.KindUnknown, host.KindUnknown},
		"/closed/none": {host.KindUnknown, host.KindUnknown},
		"/link":        {host.KindSymlink, host.KindUnknown},
	} {
		if g := got[dir+p]; g.Kind != want[0] || g.RealKind != want[1] || g.Real != "" {
			t.Errorf("%s: %+v", p, g)
		}
	}
}

// Only what can neither be read, entered nor written is closed: what a denial names
// and is closed gets no mask.
func TestClosed(t *testing.T) {
	if os.Getuid() != 0 {
		testenv.Skip(t, testenv.Root, "files of somebody else are under test")
	}
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	tests := map[string]bool{} // "mode in octal, f or d" -> closed
	for _, kind := range []string{"f", "d"} {
		for mode, want := range map[uint32]bool{0o700: true, 0o770: true, 0o704: false, 0o701: false, 0o702: false, 0o706: false, 0: true} {
			name := fmt.Sprintf("%03o%s", mode, kind)
			tests[name] = want
			if kind == "d" {
				os.Mkdir(dir+"/"+name, 0o700)
			} else {
				os.WriteFile(dir+"/"+name, nil, 0o600)
			}
			os.Chmod(dir+"/"+name, os.FileMode(mode))
		}
	}
	got := map[string]host.Path{}
	done := make(chan struct{})
	go func() { // a thread without rights, thrown away afterwards
		defer close(done)
		runtime.LockOSThread()
		// The groups before: they are checked too.
		for _, call := range [][]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, 12345, 12345, 12345}, {unix.SYS_SETRESUID, 12345, 12345, 12345}} {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				t.Error(errno)
				return
			}
		}
		for name := range tests {
			got[name] = look(dir+"/"+name, newWays())
		}
	}()
	<-done
	for name, want := range tests {
		if got[name].Closed != want || got[name].Real == "" {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
}

func TestQuick(t *testing.T) {
	f := Quick(os.Getenv("HOME"))
	if f.Kernel == "" || f.CPUs < 1 || f.MemoryBytes < 1<<20 || f.User == "" || f.UID != os.Getuid() || f.Arch != runtime.GOARCH {
		t.Errorf("%+v", f)
	}
	if len(f.Mechanisms) != 15 {
		t.Errorf("%d mechanisms", len(f.Mechanisms))
	}
	for _, m := range f.Mechanisms {
		t.Logf("%-16s %-8s %d %s", m.Name, m.Answer, m.Level, m.Detail)
		if m.Answer == host.No && m.Remedy == "" && m.Name != host.CgroupV1 {
			t.Errorf("%s: no, and no remedy", m.Name)
		}
	}
}

// Quick never claims what Full finds missing.
func TestFull(t *testing.T) {
	quick, start := Quick(""), time.Now()
	full := Full(t.Context(), "")
	t.Log("took", time.Since(start))
	for i, m := range full.Mechanisms {
		t.Logf("%-16s %-8s %d %s", m.Name, m.Answer, m.Level, m.Detail)
		if q := quick.Mechanisms[i]; q.Answer != host.Unknown && m.Answer != q.Answer {
			t.Errorf("%s: quick says %s (%s), full %s", m.Name, q.Answer, q.Detail, m.Answer)
		}
	}
}

// worse is the machines that we don't have: what is done to a process in its
// own namespaces, and what Full must answer then.
var worse = map[string]struct {
	spoil func() error
	want  map[string]host.Answer
	say   string // part of the detail or remedy of the first mechanism that is no
}{
	"no-userns": {func() error {
		return os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	}, map[string]host.Answer{host.UserNamespaces: host.No, host.Fuse: host.No, host.ProcMount: host.No, host.Seccomp: host.Yes, host.Landlock: host.Yes},
		"user.max_user_namespaces"},
	"no-fuse": {func() error {
		null, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile("/dev/null", nil, 0o666); err != nil {
			return err
		}
		return unix.MoveMount(null, "", unix.AT_FDCWD, "/dev/null", unix.MOVE_MOUNT_F_EMPTY_PATH)
	}, map[string]host.Answer{host.Fuse: host.No, host.UserNamespaces: host.Yes}, "/dev/fuse"},
	"masked-proc": {func() error {
		return testenv.CoverProc("/proc/cpuinfo")
	}, map[string]host.Answer{host.ProcMount: host.No, host.UserNamespaces: host.Yes, host.MountAPI: host.Yes}, "/proc"},
	"no-landlock": {func() error {
		return installAll(filter(unix.SYS_LANDLOCK_CREATE_RULESET, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}, map[string]host.Answer{host.Landlock: host.No, host.UserNamespaces: host.Yes, host.Seccomp: host.Yes}, "5.13"},
	// No netlink for the packet filter, as without its modules.
	"no-nftables": {func() error {
		return installAll([]unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 3, K: unix.SYS_SOCKET},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 32}, // the third argument
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: unix.NETLINK_NETFILTER},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		})
	}, map[string]host.Answer{host.Nftables: host.No, host.AnyIP: host.Yes, host.NetNamespace: host.Yes, host.UserNamespaces: host.Yes}, "modprobe"},
	// As Docker's profile does: no new user namespace by clone, no clone3.
	"docker-seccomp": {func() error {
		return installAll([]unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: unix.SYS_CLONE3},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 3, K: unix.SYS_CLONE},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: unix.CLONE_NEWUSER},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		})
	}, map[string]host.Answer{host.UserNamespaces: host.No, host.Overlay: host.No, host.Landlock: host.Yes}, "refuses"},
}

// installAll filters every thread.
func installAll(prog []unix.SockFilter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return errno
	}
	return nil
}

func TestWorseMachines(t *testing.T) {
	base := Full(t.Context(), "")
	if m := base.Mechanism(host.UserNamespaces); m.Answer != host.Yes {
		testenv.Skip(t, testenv.UserNamespaces, m.Detail)
	}
	for name, w := range worse {
		t.Run(name, func(t *testing.T) {
			uid, gid := os.Getuid(), os.Getgid()
			cmd := exec.Command("/proc/self/exe", "__worse", name)
			cmd.Dir = "/"
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  newUser,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
				AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_CHOWN, unix.CAP_SYS_RESOURCE},
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var f host.Facts
			if err := json.Unmarshal(out, &f); err != nil {
				t.Fatal(err)
			}
			said := false
			for _, m := range f.Mechanisms {
				want, ok := w.want[m.Name]
				if !ok {
					continue
				}
				// What this machine lacks anyway is not under test.
				if b := base.Mechanism(m.Name); want == host.Yes && b.Answer != host.Yes {
					continue
				}
				if m.Answer != want {
					t.Errorf("%s: %s (%s), want %s", m.Name, m.Answer, m.Detail, want)
				}
				if m.Answer == host.No {
					t.Logf("%s: %s -> %s", m.Name, m.Detail, m.Remedy)
					if m.Remedy == "" {
						t.Errorf("%s: no remedy", m.Name)
					}
					said = said || strings.Contains(m.Detail+m.Remedy, w.say)
				}
			}
			if !said {
				t.Errorf("nothing says %q", w.say)
			}
		})
	}
}

func TestRemedy(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    situation
		want string
	}{
		{"Debian 10", situation{stage: StageNamespaces, errno: unix.EPERM, unprivilegedClone: "0"}, "kernel.unprivileged_userns_clone=1"},
		{"limit 0", situation{stage: host.UserNamespaces, errno: unix.ENOSPC, maxUserns: "0"}, "sysctl -w user.max_user_namespaces="},
		{"Ubuntu 24.04, mount", situation{stage: StageMounts, errno: unix.EACCES, appArmorUserns: "1", exe: "/opt/cofferdam"}, "profile cofferdam /opt/cofferdam flags=(unconfined)"},
		{"Ubuntu 24.04, in docker", situation{stage: StageNamespaces, errno: unix.EPERM, appArmorUserns: "1", container: "docker"}, "seccomp=unconfined"},
		{"docker /proc", situation{stage: host.ProcMount, errno: unix.EPERM, container: "docker"}, "systempaths=unconfined"},
		{"podman /proc", situation{stage: host.ProcMount, errno: unix.EPERM, container: "podman"}, "unmask=ALL"},
		{"docker fuse", situation{stage: host.Fuse, errno: unix.ENOENT, container: "docker"}, "--device /dev/fuse"},
		{"fuse module", situation{stage: host.Fuse, errno: unix.ENOENT}, "modprobe fuse"},
		{"fuse mode", situation{stage: host.Fuse, errno: unix.EACCES, fuseDevice: true}, "chmod 0666 /dev/fuse"},
		{"Landlock off, Debian", situation{stage: host.Landlock, errno: unix.EOPNOTSUPP, lsm: "capability,yama", distro: " ubuntu debian "}, "lsm=landlock,capability,yama (GRUB_CMDLINE_LINUX in /etc/default/grub, then sudo update-grub)"},
		{"Landlock off, Fedora", situation{stage: host.Landlock, errno: unix.EOPNOTSUPP, distro: " fedora "}, "grub2-mkconfig"},
		{"Landlock absent", situation{stage: host.Landlock, errno: unix.ENOSYS}, "5.13"},
		{"Landlock in old docker", situation{stage: host.Landlock, errno: unix.EPERM, container: "docker"}, "seccomp profile"},
		{"SELinux", situation{stage: StageMounts, errno: unix.EACCES, selinux: true}, "ausearch"},
		{"old kernel", situation{stage: host.MountAPI, errno: unix.ENOSYS}, "5.12"},
		{"cgroup", situation{stage: host.CgroupV2, errno: unix.EACCES, exe: "/x/cofferdam"}, "Delegate=yes /x/cofferdam"},
		{"nested sandbox", situation{stage: StageNamespaces, errno: unix.EPERM}, "around this one"},
		{"nothing known", situation{stage: "exec", errno: unix.EPERM}, ""},
	} {
		got := remedy(tt.s)
		if !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q in it", tt.name, got, tt.want)
		}
	}
	if got := distro("NAME=X\nID=ubuntu\nID_LIKE=\"debian\"\n"); got != " ubuntu debian " {
		t.Errorf("distro %q", got)
	}
}

func TestChildIgnoresOthers(t *testing.T) {
	for _, args := range [][]string{nil, {"run"}, {"run", "__probe"}, {"__probe"}, {"__probe", "a", "b"}} {
		if handled, _ := Child(args); handled {
			t.Errorf("%q was taken for a trial", args)
		}
	}
	if handled, exit := Child([]string{"__probe", "what"}); !handled || exit == 0 {
		t.Error("an unknown trial succeeded")
	}
}

func BenchmarkQuick(b *testing.B) {
	home := os.Getenv("HOME")
	for b.Loop() {
		Quick(home)
	}
}

func BenchmarkPaths(b *testing.B) {
	list := []string{"/etc/passwd", "/proc/self/exe", "/usr/bin", "/nonexistent", "/var/run"}
	for b.Loop() {
		Paths(list)
	}
}
