package system

import (
	"bytes"
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
	if len(os.Args) > 2 && os.Args[1] == fetch {
		os.Exit(fetchURL(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == storm {
		os.Exit(raiseStorms(os.Args[2]))
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
		if err == nil {
			var back func()
			back, err = lendPage(dir)
			defer back()
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

// lendPage copies docs/conformance.md to where the user of the tests can write it, and
// returns what brings it back if it was changed.
func lendPage(dir string) (back func(), err error) {
	const page = "../../docs/conformance.md"
	before, err := os.ReadFile(page)
	if err != nil && !os.IsNotExist(err) {
		return func() {}, err
	}
	lent := filepath.Join(dir, "conformance.md")
	if err := os.WriteFile(lent, before, 0o666); err != nil {
		return func() {}, err
	}
	if err := os.Chmod(lent, 0o666); err != nil {
		return func() {}, err
	}
	return func() {
		if after, err := os.ReadFile(lent); err == nil && !bytes.Equal(after, before) {
			if err := os.WriteFile(page, after, 0o644); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}, os.Setenv(conformanceVariable, lent)
}
