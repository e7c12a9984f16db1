//go:build linux

package seccomp

// Native is the convention of this binary.
const Native = ARM64
