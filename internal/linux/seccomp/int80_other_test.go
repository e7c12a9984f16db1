//go:build linux && !amd64

package seccomp

func int80() (uintptr, bool) { panic("only on amd64") }
