//go:build linux

// Package seccomp decides, one system call at a time, which doors of the
// kernel stay shut inside a sandbox. It holds the table of refused calls with
// a reason for each (rules.go), turns it into a classic BPF program that the
// kernel runs before every call (compile.go), and answers the kernel when it
// asks about a refused one (notify.go).
//
// It is a deny list. An allow list breaks a program each time a C library or
// a language runtime starts to use a new call, and a coding agent runs every
// program there is. What makes the list tenable: the namespaces, mounts and
// Landlock hold the boundary; this filter takes away the kernel code that no
// build, test or agent needs and that most ways out of a sandbox went
// through. Calls newer than the list do not exist inside (ENOSYS).
//
// A filter sees registers, never memory: it judges numbers and flags, and
// nothing behind a pointer. The package knows no policy: the caller chooses
// the rules and what a refusal looks like.
package seccomp

import "golang.org/x/sys/unix"

// Arch is a system call convention with its own numbers. Both are known
// everywhere, so that the tables of one machine can be tested on the other.
type Arch uint8

const (
	AMD64 Arch = iota
	ARM64
	archs // how many
)

func (a Arch) String() string {
	switch a {
	case AMD64:
		return "amd64"
	case ARM64:
		return "arm64"
	}
	return "unknown"
}

// audit is what the kernel calls the convention in seccomp_data.arch.
func (a Arch) audit() uint32 {
	if a == ARM64 {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}
