//go:build linux && !amd64 && !arm64

package seccomp

// Native has no table here: Compile returns an error for it.
const Native = archs
