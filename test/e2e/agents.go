package e2e

import (
	"crypto/sha256"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cofferdam/internal/testenv"
)

// The lock file pins every package by its hash: npm verifies what it gets.
var (
	//go:embed agents/package.json
	packageJSON []byte
	//go:embed agents/package-lock.json
	packageLock []byte
)

// Missing is why a test can't run here; see Skip.
type Missing struct {
	Need testenv.Need
	Err  error
}

func (m *Missing) Error() string { return string(m.Need) + ": " + m.Err.Error() }
func (m *Missing) Unwrap() error { return m.Err }

// agentBinaries finds the programs in an installation: the native ones where npm's own
// launcher is a script for node, or needs a post-install step. Gemini CLI is a script.
var agentBinaries = map[string]string{
	"claude":   "node_modules/@anthropic-ai/claude-code-linux-*/claude",
	"codex":    "node_modules/@openai/codex-linux-*/vendor/*/bin/codex",
	"gemini":   "node_modules/@google/gemini-cli/bundle/gemini.js",
	"opencode": "node_modules/opencode-linux-*/bin/opencode", // for amd64 alone
}

// optionalAgents are not to be had for every machine.
var optionalAgents = []string{"opencode"}

// other programs come with the agents: what npm has and Debian has not.
var otherPrograms = map[string]string{"deno": "node_modules/@deno/linux-*/deno"}

// InstallAgents returns the paths of the pinned agents' programs by name, and the
// directory of npm's packages, installing them first if the cache does not hold them. It needs the network
// only then, and says on log what it does. The error is a *Missing.
func InstallAgents(log io.Writer) (found map[string]string, modules string, err error) {
	if found, modules, err = installAgents(log); err != nil {
		return nil, "", &Missing{testenv.Agents, err}
	}
	return found, modules, nil
}

func installAgents(log io.Writer) (map[string]string, string, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, "", err
	}
	// One directory for each content of the lock file: another version never
	// meets the leftovers of this one.
	dir := filepath.Join(cache, fmt.Sprintf("agents-%x", sha256.Sum256(packageLock))[:19])
	// The mark is made last, so that a broken installation is made anew.
	done := filepath.Join(dir, ".installed")
	if _, err := os.Stat(done); err != nil {
		if err := npmInstall(log, dir, done); err != nil {
			return nil, "", err
		}
	}
	found := map[string]string{}
	patterns := maps.Clone(agentBinaries)
	maps.Copy(patterns, otherPrograms)
	for name, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		paths = slices.DeleteFunc(paths, foreign)
		if err == nil && len(paths) == 0 && slices.Contains(optionalAgents, name) {
			continue
		}
		if err != nil || len(paths) == 0 {
			return nil, "", fmt.Errorf("no program for this machine matches %s", filepath.Join(dir, pattern))
		}
		found[name] = paths[0]
	}
	return found, filepath.Join(dir, "node_modules"), nil
}

// foreign says whether a program is for another C library: it asks for a dynamic
// linker that is not here. npm before 10 installs the packages of all of them.
func foreign(program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		return false // not ours to judge
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(p.Open(), syscall.PathMax))
		if err != nil {
			return false
		}
		_, err = os.Stat(strings.TrimRight(string(name), "\x00"))
		return errors.Is(err, fs.ErrNotExist)
	}
	return false
}

// npmInstall fills dir and then makes the file done.
func npmInstall(log io.Writer, dir, done string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("npm is not installed, and " + dir + " holds no agents")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(done); err == nil {
		return nil // while we waited
	}
	for name, data := range map[string][]byte{"package.json": packageJSON, "package-lock.json": packageLock} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(log, "installing the agents of test/e2e/agents/package.json with npm into %s (about 1.1 GB)\n", dir)
	cmd := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %v\n%s", dir, err, out)
	}
	return os.WriteFile(done, nil, 0o644)
}

func cacheDir() (string, error) {
	if dir := os.Getenv("COFFERDAM_E2E_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache", "e2e"), nil
}

// repository is the directory of go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: no go.mod above the working directory")
		}
		dir = parent
	}
}

func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// build compiles a program of this repository, static, into file.
func build(file, pkg string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", file, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %v\n%s", pkg, err, out)
	}
	return nil
}
