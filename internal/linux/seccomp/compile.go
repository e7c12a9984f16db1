//go:build linux

package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Action is what a refused call gets.
type Action uint8

const (
	// Errno: the call fails with EPERM, without anyone being told.
	Errno Action = iota
	// Notify: the call waits until a Notifier has answered it, with EPERM too.
	// With no listener left it fails with ENOSYS: never does it go through.
	Notify
)

// Newest is the highest number that Rules was reviewed against (Linux 7.0).
// Numbers have been given out in step for all architectures since 5.1.
const Newest = 471

const (
	retAllow   = unix.SECCOMP_RET_ALLOW
	retEPERM   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	retENOSYS  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	retNotify  = unix.SECCOMP_RET_USER_NOTIF
	retKill    = unix.SECCOMP_RET_KILL_PROCESS
	skipped    = 0xffffffff // what a tracer writes as the number of a call that shall not happen
	x32Bit     = 0x40000000 // __X32_SYSCALL_BIT
	offsetNr   = 0          // struct seccomp_data
	offsetArch = 4
	offsetArgs = 16
)

// Program is a filter as the kernel takes it.
type Program []unix.SockFilter

// Fprog is the argument of seccomp(SECCOMP_SET_MODE_FILTER). It points into
// the program, which lives as long as the result does.
func (p Program) Fprog() *unix.SockFprog {
	return &unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
}

// Compile turns rules into a program:
//
//	another architecture?       kill    a 32-bit call has other numbers, and other holes
//	number is -1?               allow   a tracer has cancelled the call; it does nothing
//	x32 bit set (amd64)?        kill    the same kernel functions under other numbers
//	number above Newest?        ENOSYS  nobody has judged it; programs fall back as on an older kernel
//	binary search by number:
//	   a rule without condition refuse
//	   rules with conditions    refuse if one applies, else allow
//	   anything else            allow
//
// The x32 numbers from 512 on were once accepted without their bit (before
// 5.4); the line for Newest covers these.
//
// Since 5.11 the kernel runs the program once for each number when it is
// installed and remembers those that are allowed whatever the arguments.
// Hence the search tree, for a quick installation, and no look at an argument
// before the number is known.
func Compile(arch Arch, rules []Rule, action Action) (Program, error) {
	if arch >= archs {
		return nil, fmt.Errorf("seccomp: no system call table for this architecture")
	}
	b := builder{rev: make([]unix.SockFilter, 0, 256)}
	allow := b.ret(retAllow)
	deny := b.ret(retEPERM)
	if action == Notify {
		deny = b.ret(retNotify)
	}

	// The numbers are cut into spans with the same fate: from this number up
	// to the next span.
	type span struct {
		from uint32
		to   node
	}
	spans := []span{{0, allow}}
	add := func(from uint32, to node) {
		if spans[len(spans)-1].from == from {
			spans = spans[:len(spans)-1]
		}
		if len(spans) == 0 || spans[len(spans)-1].to != to {
			spans = append(spans, span{from, to})
		}
	}
	for _, same := range byNumber(arch, rules) {
		to := allow
		for _, r := range slices.Backward(same) {
			to = b.rule(r, deny, to)
		}
		nr := uint32(same[0].Number[arch])
		if nr > Newest {
			return nil, fmt.Errorf("seccomp: rule for %s: number %d is above the newest reviewed, %d", same[0].Call, nr, Newest)
		}
		add(nr, to)
		add(nr+1, allow)
	}
	var search func(s []span) node
	search = func(s []span) node {
		if len(s) == 1 {
			return s[0].to
		}
		mid := len(s) / 2
		low, high := search(s[:mid]), search(s[mid:])
		return b.jump(unix.BPF_JGE, s[mid].from, high, low)
	}

	start := search(spans)
	start = b.jump(unix.BPF_JGT, Newest, b.ret(retENOSYS), start)
	if arch == AMD64 {
		start = b.jump(unix.BPF_JSET, x32Bit, b.ret(retKill), start)
	}
	start = b.jump(unix.BPF_JEQ, skipped, b.ret(retAllow), start)
	start = b.load(offsetNr, start)
	start = b.jump(unix.BPF_JEQ, arch.audit(), start, b.ret(retKill))
	b.load(offsetArch, start)

	if len(b.rev) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("seccomp: program of %d instructions, the kernel takes %d", len(b.rev), unix.BPF_MAXINSNS)
	}
	slices.Reverse(b.rev)
	return b.rev, nil
}

// byNumber groups the rules of an architecture by call, in the order of the
// numbers and, within a call, in the order given.
func byNumber(arch Arch, rules []Rule) [][]Rule {
	sorted := make([]Rule, 0, len(rules))
	for _, r := range rules {
		if r.Number[arch] != none {
			sorted = append(sorted, r)
		}
	}
	slices.SortStableFunc(sorted, func(a, b Rule) int { return cmp.Compare(a.Number[arch], b.Number[arch]) })
	groups := make([][]Rule, 0, len(sorted))
	for i, r := range sorted {
		if i == 0 || r.Number[arch] != sorted[i-1].Number[arch] {
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, r)
	}
	return groups
}

// builder writes a program from its end to its start: BPF only jumps forward,
// so this way each target exists, and its distance is known, when the jump to
// it is written.
type builder struct {
	rev []unix.SockFilter
}

// node is an instruction, counted from the end of the program.
type node int

func (b *builder) emit(code uint16, k uint32, jt, jf uint8) node {
	b.rev = append(b.rev, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return node(len(b.rev) - 1)
}

// distance is how far n is from the instruction that will be written next.
func (b *builder) distance(n node) int { return len(b.rev) - int(n) - 1 }

func (b *builder) ret(value uint32) node {
	return b.emit(unix.BPF_RET|unix.BPF_K, value, 0, 0)
}

// within returns n, or a stand-in for it no further than reach.
func (b *builder) within(n node, reach int) node {
	if b.distance(n) <= reach {
		return n
	}
	if in := b.rev[n]; in.Code == unix.BPF_RET|unix.BPF_K {
		return b.ret(in.K)
	}
	return b.emit(unix.BPF_JMP|unix.BPF_JA, uint32(b.distance(n)), 0, 0)
}

// jump goes to yes or no after comparing the loaded value with k. The
// distances are single bytes.
func (b *builder) jump(test uint16, k uint32, yes, no node) node {
	yes = b.within(yes, 254) // one is left for a stand-in of no
	no = b.within(no, 255)
	return b.emit(unix.BPF_JMP|test|unix.BPF_K, k, uint8(b.distance(yes)), uint8(b.distance(no)))
}

// load reads the 32-bit word at offset of struct seccomp_data, then goes on
// with next.
func (b *builder) load(offset uint32, next node) node {
	b.within(next, 0)
	return b.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0)
}

func (b *builder) and(mask uint32, next node) node {
	b.within(next, 0)
	return b.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0)
}

// rule goes to deny if r applies, and else to next.
func (b *builder) rule(r Rule, deny, next node) node {
	to := deny
	for _, c := range slices.Backward(r.When) {
		to = b.condition(c, to, next)
	}
	return to
}

// condition goes to yes if c holds, and else to no. Both supported
// architectures are little-endian: the low half of an argument comes first.
func (b *builder) condition(c Condition, yes, no node) node {
	if c.Not {
		yes, no = no, yes
	}
	to := no
	for _, v := range slices.Backward(c.Values) {
		to = b.jump(unix.BPF_JEQ, v, yes, to)
	}
	if c.Mask != all {
		to = b.and(c.Mask, to)
	}
	return b.load(offsetArgs+8*uint32(c.Arg), to)
}
