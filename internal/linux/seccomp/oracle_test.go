//go:build linux

package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// This file is what the filter is judged by. It shares nothing with it: the
// oracle is the list written a second time, as plain conditions over names,
// and the machine is a small interpreter for classic BPF.

var deniedAlways = map[string]bool{
	"mount": true, "umount2": true, "pivot_root": true, "chroot": true, "open_tree": true, "open_tree_attr": true,
	"move_mount": true, "fsopen": true, "fsconfig": true, "fsmount": true, "fspick": true, "mount_setattr": true,
	"name_to_handle_at": true, "open_by_handle_at": true, "fanotify_init": true, "quotactl": true, "quotactl_fd": true,
	"setns": true, "listns": true,
	"init_module": true, "finit_module": true, "delete_module": true, "kexec_load": true, "kexec_file_load": true,
	"bpf": true, "reboot": true, "swapon": true, "swapoff": true, "acct": true, "syslog": true, "iopl": true,
	"ioperm": true, "lsm_set_self_attr": true,
	"add_key": true, "request_key": true, "keyctl": true, "perf_event_open": true, "process_vm_writev": true,
	"move_pages": true, "migrate_pages": true,
	"io_uring_setup": true, "io_uring_enter": true, "io_uring_register": true, "userfaultfd": true, "mbind": true,
	"set_mempolicy_home_node": true, "modify_ldt": true, "vhangup": true,
	"settimeofday": true, "clock_settime": true, "adjtimex": true, "clock_adjtime": true,
	"lookup_dcookie": true, "nfsservctl": true, "sysfs": true, "ustat": true, "uselib": true,
}

// conditional judges calls by their arguments, cut to what the kernel takes.
var conditional = map[string]func(a [6]uint32) bool{
	"unshare": func(a [6]uint32) bool { return a[0]&^0x40600 != 0 },
	"clone":   func(a [6]uint32) bool { return a[0]&0x7e020000 != 0 },
	"personality": func(a [6]uint32) bool {
		return a[0] != 0xffffffff && a[0]&^(0x8|0x20000|0x40000) != 0
	},
	"socket": func(a [6]uint32) bool {
		raw := a[1]&0xf == 3 || a[1]&0xf == 10
		switch a[0] {
		case 1:
			return raw
		case 2, 10:
			known := a[2] == 0 || a[2] == 1 || a[2] == 6 || a[2] == 17 || a[2] == 58 || a[2] == 262
			return raw || !known || a[1]&0xf != 1 && a[1]&0xf != 2
		case 16:
			return a[2] != 0
		}
		return true
	},
	"socketpair": func(a [6]uint32) bool { return a[0] != 1 },
	"ioctl":      func(a [6]uint32) bool { return a[1] == 0x5412 || a[1] == 0x541c || a[1] == 0x5423 },
	"seccomp":    func(a [6]uint32) bool { return a[0] == 1 && a[1]&8 != 0 },
}

// call is one struct seccomp_data without the instruction pointer.
type call struct {
	arch uint32
	nr   uint32
	args [6]uint64
}

func (c call) String() string { return fmt.Sprintf("arch %#x nr %#x args %#x", c.arch, c.nr, c.args) }

// verdict is what the filter has to return. Names maps numbers to calls.
func verdict(arch Arch, names map[uint32]string, c call, refuse uint32) uint32 {
	native := map[Arch]uint32{AMD64: 0xc000003e, ARM64: 0xc00000b7}[arch]
	const kill, enosys, allow = 0x80000000, 0x50000 | 38, 0x7fff0000
	switch {
	case c.arch != native:
		return kill
	case c.nr == 0xffffffff:
		return allow
	case arch == AMD64 && c.nr&0x40000000 != 0:
		return kill
	case c.nr > 471:
		return enosys
	}
	name := names[c.nr]
	if deniedAlways[name] {
		return refuse
	}
	if judge := conditional[name]; judge != nil {
		var a [6]uint32
		for i, v := range c.args {
			a[i] = uint32(v)
		}
		if judge(a) {
			return refuse
		}
	}
	return allow
}

// run interprets a program as the kernel does, and refuses what the kernel's
// checker for seccomp refuses. It also says whether an argument was read,
// which is what keeps a number out of the kernel's cache.
func run(p Program, c call) (result uint32, readArgs bool, err error) {
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], c.nr)
	binary.LittleEndian.PutUint32(data[4:], c.arch)
	for i, v := range c.args {
		binary.LittleEndian.PutUint64(data[16+8*i:], v)
	}
	var a uint32
	for pc := 0; pc < len(p); pc++ {
		in := p[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K > 60 {
				return 0, false, fmt.Errorf("instruction %d loads from %d", pc, in.K)
			}
			readArgs = readArgs || in.K >= 16
			a = binary.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, readArgs, nil
		default:
			return 0, false, fmt.Errorf("instruction %d has code %#x", pc, in.Code)
		}
	}
	return 0, false, fmt.Errorf("ran past the end")
}
