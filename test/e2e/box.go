package e2e

import (
	"os"
	"path/filepath"
)

// Box is one way to run a command: bare, or inside some boundary.
type Box struct {
	Name string
	// Wrap returns the command line that runs cmd, which lies below s.Tools,
	// in s.Workspace. agent is the name of the agent that cmd starts.
	Wrap func(s *Site, agent string, cmd []string) []string
}

// Bare is no boundary at all: the negative control.
var Bare = Box{"bare", func(_ *Site, _ string, cmd []string) []string { return cmd }}

// Bubblewrap is a plain box from bwrap with nothing clever in it. It tells
// what comes for free, and lets the harness be worked on without the product.
var Bubblewrap = Box{"bwrap", func(s *Site, _ string, cmd []string) []string {
	args := []string{"bwrap", "--unshare-all", "--die-with-parent", "--clearenv",
		"--setenv", "HOME", s.Home, "--setenv", "PATH", s.Tools + ":/usr/bin:/bin",
		"--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc",
		"--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", s.Home,
		"--ro-bind", filepath.Join(s.Home, ".gitconfig"), filepath.Join(s.Home, ".gitconfig"),
		"--ro-bind", s.Tools, s.Tools, "--bind", s.Workspace, s.Workspace, "--chdir", s.Workspace, "--"}
	return append(args, cmd...)
}}

// Cofferdam runs commands as a user of the product would, with its default
// policy and the agent's profile. The profile has to be named, and the tools
// to be allowed, only because the driver stands between product and agent.
func Cofferdam(binary string) Box {
	return Box{"cofferdam", func(s *Site, agent string, cmd []string) []string {
		return append([]string{binary, "run", "--profile", agent, "--allow-read", s.Tools, "--"}, cmd...)
	}}
}

// FindCofferdam returns the program to test: the one that the environment's
// COFFERDAM names, or this repository's, built into dir.
func FindCofferdam(dir string) (string, error) {
	if file := os.Getenv("COFFERDAM"); file != "" {
		return filepath.Abs(file)
	}
	file := filepath.Join(dir, "cofferdam")
	return file, build(file, "./cmd/cofferdam")
}
