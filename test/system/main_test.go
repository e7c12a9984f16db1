package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cofferdam/internal/testenv"
)

// binaryVariable names the program under test: set by us for the run of the
// tests as another user, or by who wants to test a program that is there.
const binaryVariable = "COFFERDAM"

var binary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == rigged {
		os.Exit(rig(os.Args[2:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	// Built before the change of the user: that one has no build cache.
	binary = os.Getenv(binaryVariable)
	if binary == "" {
		dir, err := os.MkdirTemp("", "cofferdam-system-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = os.Chmod(dir, 0o755)
		}
		binary = filepath.Join(dir, "cofferdam")
		if err == nil {
			err = build(binary)
		}
		if err == nil {
			err = os.Setenv(binaryVariable, binary)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// What outlives its parent becomes ours, so that it can be found.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		return 1
	}
	return testenv.Main(m)
}

// remembered is what the program has learnt of this machine's tools in a home with
// nothing in it: it takes a second, and each test has a new home.
var remembered = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil
	}
	cmd := exec.Command(binary, "run", "--dry-run", "--", "true")
	cmd.Env = append(siteEnv(dir), "TMPDIR="+dir)
	cmd.Dir = filepath.Join(dir, "project")
	state := filepath.Join(dir, stateDir)
	if os.Mkdir(cmd.Dir, 0o700) != nil || os.MkdirAll(state, 0o700) != nil || cmd.Run() != nil {
		return nil
	}
	data, _ := os.ReadFile(filepath.Join(state, "registries.json"))
	return data
})

func build(file string) error {
	cmd := exec.Command("go", "build", "-o", file, "cofferdam/cmd/cofferdam")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program under test: %v\n%s", err, out)
	}
	return nil
}
