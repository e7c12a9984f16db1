package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
	"cofferdam/test/e2e/modelapi"
)

// Site is one throwaway host: a home with secrets in it, a project below it,
// and a witness process that nobody inside may reach.
//
//	Home/                 .ssh .aws .netrc ... with canaries, .gitconfig
//	Home/.local/bin       Tools: the agent, the driver, the script
//	Home/src/project      Workspace, a git repository
//	Home/src/other        somebody else's project
type Site struct {
	Home, Tools, Workspace string
	// TmpFile is a file with a canary in the host's /tmp.
	TmpFile string
	// Environ is what the person who starts the box has in the environment,
	// tokens included.
	Environ []string
	// Witness are the addresses of the witness by kind (tcp, abstract,
	// socket), and its process ID.
	Witness    map[string]string
	WitnessPID int

	cred     *syscall.Credential
	canaries map[string]string

	stopWitness func()
	mu          sync.Mutex
	seen        map[string]int // what the witness told
}

// Canary returns the secret of that name; it is made up at the first call.
func (s *Site) Canary(name string) string {
	if s.canaries[name] == "" {
		s.canaries[name] = "e2e-canary-" + rand.Text()
	}
	return s.canaries[name]
}

// Seen ends the witness and tells how often it met an event: tcp, abstract,
// socket, signal.
func (s *Site) Seen(event string) int {
	s.stopWitness()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[event]
}

// Programs are what a site needs to be equipped with.
type Programs struct {
	Driver string
	Agents map[string]string
	// Modules is where node finds npm's packages.
	Modules string
}

// NewSite builds a site and starts its witness; the test's end removes both.
// It lies in /var/tmp: a home below /tmp would be hidden for the wrong reason.
func NewSite(t testing.TB, p Programs) *Site {
	t.Helper()
	cred, err := credential()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("/var/tmp", "cofferdam-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	home := filepath.Join(root, "home")
	s := &Site{
		Home: home, Tools: filepath.Join(home, ".local/bin"), Workspace: home,
		cred: cred, canaries: map[string]string{}, seen: map[string]int{},
	}
	s.Environ = []string{
		"HOME=" + home, "PATH=" + s.Tools + ":/usr/bin:/bin", "USER=" + testenv.User, "LOGNAME=" + testenv.User,
		"SHELL=/bin/bash", "TERM=xterm-256color", "LANG=C.UTF-8",
		"GITHUB_TOKEN=" + s.Canary("env GITHUB_TOKEN"), "CANARY_TOKEN=" + s.Canary("env CANARY_TOKEN"),
	}
	for name, content := range map[string]string{
		".gitconfig":               "[user]\n\tname = Site Owner\n\temail = owner@site.test\n",
		".bashrc":                  "# owner's\n",
		".ssh/id_ed25519":          "-----BEGIN OPENSSH PRIVATE KEY-----\n" + s.Canary("ssh key") + "\n-----END OPENSSH PRIVATE KEY-----\n",
		".aws/credentials":         "[default]\naws_secret_access_key = " + s.Canary("aws credentials") + "\n",
		".netrc":                   "machine git.test login owner password " + s.Canary("netrc") + "\n",
		".bash_history":            "export TOKEN=" + s.Canary("shell history") + "\n",
		"src/other/notes.txt":      s.Canary("other project") + "\n",
		".local/share/owner/empty": "",
	} {
		s.write(t, filepath.Join(home, name), content, 0o600)
	}
	tmp, err := os.CreateTemp("/tmp", "cofferdam-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	s.TmpFile = tmp.Name()
	t.Cleanup(func() {
		os.Remove(s.TmpFile)
		os.Remove(s.TmpFile + ".new") // made by a bare attack
	})
	fmt.Fprintln(tmp, s.Canary("tmp file"))
	if err := tmp.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.Tools, 0o755); err != nil {
		t.Fatal(err)
	}
	s.own(t, root, s.TmpFile)
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	place(t, p.Driver, filepath.Join(s.Tools, "driver"))
	for name, file := range p.Agents {
		if filepath.Ext(file) == ".js" {
			s.placePackage(t, name, file)
			continue
		}
		place(t, file, filepath.Join(s.Tools, name))
	}
	s.startWitness(t)
	s.SetWorkspace(t, "src/project")
	return s
}

// SetWorkspace makes the directory below the home a git repository, and the
// workspace of what follows.
func (s *Site) SetWorkspace(t testing.TB, name string) {
	t.Helper()
	s.Workspace = filepath.Join(s.Home, name)
	s.write(t, filepath.Join(s.Workspace, "README.md"), "# project\n", 0o644)
	s.own(t, s.Workspace)
	s.Git(t, "init", "--quiet", "--initial-branch=main")
}

// own gives everything below the roots to the test user.
func (s *Site) own(t testing.TB, roots ...string) {
	t.Helper()
	if s.cred == nil {
		return
	}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(s.cred.Uid), int(s.cred.Gid))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *Site) write(t testing.TB, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// AddFiles writes files into the workspace and commits those that git does
// not ignore.
func (s *Site) AddFiles(t testing.TB, files map[string]string) {
	t.Helper()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		s.write(t, filepath.Join(s.Workspace, name), content, mode)
	}
	s.own(t, s.Workspace)
	s.Git(t, "add", "--all")
	s.Git(t, "commit", "--quiet", "--message", "start")
}

// Git runs git on the host, in the workspace, as the site's owner.
func (s *Site) Git(t testing.TB, args ...string) string {
	t.Helper()
	// After an attack the repository is hostile: nothing in it may run here.
	cmd := s.command(append([]string{"git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Content returns a file's content, "" if there is none. Relative names are
// the workspace's.
func (s *Site) Content(t testing.TB, name string) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(s.Workspace, name)
	}
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		t.Fatal(err)
	}
	return string(data)
}

// command is a command of the site's owner, in the workspace.
func (s *Site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = s.Workspace, s.Environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	return cmd
}

// Run plays steps with a real agent in a box and returns what the driver saw.
// args are the agent's own arguments; see AgentArgs.
func (s *Site) Run(t testing.TB, box Box, agent string, args []string, steps []modelapi.Step) modelapi.Transcript {
	t.Helper()
	script := filepath.Join(s.Tools, "script.json")
	data, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, script, string(data), 0o644)
	inner := []string{filepath.Join(s.Tools, "driver"), "run", agent, script, "--", filepath.Join(s.Tools, agent)}
	cmd := s.command(box.Wrap(s, agent, append(inner, args...))...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(90*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	limit.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a bare agent left behind
	var got modelapi.Transcript
	if jsonErr := json.Unmarshal(stdout.Bytes(), &got); err != nil || jsonErr != nil {
		t.Fatalf("%s in %s: %v\nstdout: %s\nstderr: %s", agent, box.Name, errors.Join(err, jsonErr), &stdout, &stderr)
	}
	if dir := os.Getenv("COFFERDAM_E2E_KEEP"); dir != "" {
		name := strings.ReplaceAll(t.Name(), "/", "_") + "." + box.Name + ".json"
		s.write(t, filepath.Join(dir, name), stdout.String(), 0o600)
	}
	if got.Exit != 0 {
		t.Errorf("%s in %s: exit %d\nstdout: %s\nstderr: %s\nnot understood: %s", agent, box.Name, got.Exit, got.Stdout, got.Stderr, got.Odd)
	}
	if stderr.Len() > 0 {
		t.Logf("%s says: %s", box.Name, &stderr)
	}
	return got
}

// AgentArgs are the arguments for one unattended session without the agent's
// own sandbox and questions: the boundary is ours to test.
func AgentArgs(agent string) []string {
	switch agent {
	case "claude":
		return []string{"--print", "--dangerously-skip-permissions", "Do the work."}
	case "codex":
		return []string{"exec", "--dangerously-bypass-approvals-and-sandbox", "Do the work."}
	case "gemini":
		return []string{"--yolo", "--skip-trust", "--model", "gemini-2.5-pro", "--prompt", "Do the work."}
	case "opencode":
		return []string{"run", "--model", "standin/m", "Do the work."}
	}
	panic("no agent " + agent)
}

func (s *Site) startWitness(t testing.TB) {
	t.Helper()
	cmd := s.command(filepath.Join(s.Tools, "driver"), "witness", filepath.Join(s.Home, ".ssh", "agent.sock"))
	cmd.Env = append(slices.Clone(cmd.Env), "CANARY_PROC="+s.Canary("witness environ"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.WitnessPID = cmd.Process.Pid
	fmt.Fprintln(in, s.Canary("witness"))
	lines := bufio.NewScanner(out)
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &s.Witness) != nil {
		t.Fatalf("the witness says %q", lines.Text())
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			s.mu.Lock()
			s.seen[lines.Text()]++
			s.mu.Unlock()
		}
	}()
	s.stopWitness = sync.OnceFunc(func() {
		in.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("witness: %v", err)
		}
	})
	t.Cleanup(s.stopWitness)
}

// placePackage puts the npm package that holds a script where npm would install it for
// one person, and its name on PATH.
func (s *Site) placePackage(t testing.TB, name, script string) {
	t.Helper()
	from := filepath.Dir(filepath.Dir(script))
	to := filepath.Join(s.Home, ".npm-global/lib/node_modules", name)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		place(t, path, at)
		return nil
	})
	if err == nil {
		err = os.Symlink(filepath.Join(to, strings.TrimPrefix(script, from)), filepath.Join(s.Tools, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// place puts a program at a path of the site: as a second name if it can, for
// the agents are large.
func place(t testing.TB, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// Skip ends a test that can't run here: skipped if err is a *Missing (but
// failed if REQUIRE names it), failed for any other reason.
func Skip(t testing.TB, err error) {
	t.Helper()
	var missing *Missing
	if !errors.As(err, &missing) {
		t.Fatal(err)
	}
	testenv.Skip(t, missing.Need, missing.Err.Error())
}
