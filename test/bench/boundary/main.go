// Command boundary starts a command in the native boundary alone: a fixed list of
// mounts, no policy, no masks, no events, no session. It is what `make bench`
// compares with bubblewrap and the same mounts.
package main

import (
	"context"
	"fmt"
	"os"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/native"
	"cofferdam/internal/plan"
)

// Usage: boundary HOME WORKSPACE COMMAND [ARG...]
func main() {
	home, ws, command := os.Args[1], os.Args[2], os.Args[3:]
	bind := func(dir string, write bool) plan.Mount {
		return plan.Mount{Kind: plan.Bind, Source: dir, Target: dir, Directory: true, Create: true, Write: write}
	}
	const temp = 1 << 30
	p := &plan.Plan{
		Program: command[0], Command: command, Dir: ws,
		Identity: plan.Identity{UID: os.Getuid(), GID: os.Getgid(), Home: home, Hostname: "cofferdam"},
		Landlock: 6, Network: plan.Network{Mode: "loopback"},
		Mounts: []plan.Mount{
			bind("/usr", false), bind("/etc", false),
			{Kind: plan.Symlink, Source: "usr/bin", Target: "/bin"}, {Kind: plan.Symlink, Source: "usr/lib", Target: "/lib"},
			{Kind: plan.Symlink, Source: "usr/lib64", Target: "/lib64"}, {Kind: plan.Symlink, Source: "usr/sbin", Target: "/sbin"},
			{Kind: plan.Proc, Target: "/proc", Create: true, Directory: true},
			{Kind: plan.Dev, Target: "/dev", Create: true, Directory: true},
			{Kind: plan.Tmpfs, Target: "/dev/shm", Write: true, Size: temp},
			{Kind: plan.Tmpfs, Target: "/tmp", Write: true, Size: temp, Create: true, Directory: true},
			{Kind: plan.Tmpfs, Target: home, Write: true, Size: temp, Mode: 0o700, Create: true, Directory: true},
			bind(ws, true),
			{Kind: plan.Pin, Target: ws + "/.git", Directory: true, Write: true},
			{Kind: plan.Pin, Target: ws + "/.git/config"},
			{Kind: plan.Pin, Target: ws + "/.git/hooks", Directory: true},
			{Kind: plan.Mask, Target: ws + "/.env"},
		},
		Environment: []plan.EnvVar{{Name: "PATH", Value: "/usr/bin:/bin"}},
	}
	r, err := native.Boundary{}.Start(context.Background(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "boundary:", err)
		os.Exit(70)
	}
	e, err := r.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "boundary:", err)
		os.Exit(70)
	}
	os.Exit(e.Status())
}
