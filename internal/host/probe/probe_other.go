//go:build !linux

// Package probe finds out what this machine can do. Only Linux can be probed
// yet: elsewhere every answer is unknown.
package probe

import (
	"context"
	"runtime"
	"syscall"

	"cofferdam/internal/host"
)

// Quick knows nothing but the system's name.
func Quick(string) host.Facts { return host.Facts{OS: runtime.GOOS, Arch: runtime.GOARCH} }

// Full is Quick.
func Full(_ context.Context, home string) host.Facts { return Quick(home) }

// Paths answers unknown for each path.
func Paths(list []string) map[string]host.Path {
	out := make(map[string]host.Path, len(list))
	for _, p := range list {
		out[p] = host.Path{Kind: host.KindUnknown, RealKind: host.KindUnknown}
	}
	return out
}

// Child handles nothing.
func Child([]string) (handled bool, exit int) { return false, 0 }

// RemedyFor knows none.
func RemedyFor(string, syscall.Errno, host.Facts) string { return "" }
