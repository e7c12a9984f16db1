package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/testenv"
)

// sshServer serves the repositories below a directory to anybody, at a free port that it
// prints, and tells of each command. Debian's sshd would be started as a service of this
// machine by its installation.
const sshServer = `
const { Server, utils } = require('ssh2'), { spawn } = require('child_process'), root = process.argv[1];
new Server({ hostKeys: [utils.generateKeyPairSync('ed25519').private] }, client => {
  client.on('authentication', c => c.accept()).on('error', () => {});
  client.on('session', accept => accept().on('exec', (accept, reject, info) => {
    console.log(info.command);
    const [, service, name] = info.command.match(/^(git-(?:upload|receive)-pack) '\/?([a-z.]+)'$/) || [];
    if (!service) return reject();
    const stream = accept(), git = spawn(service, [root + '/' + name]);
    stream.pipe(git.stdin); git.stdout.pipe(stream, { end: false }); git.stderr.pipe(stream.stderr, { end: false });
    git.on('close', code => { stream.exit(code); stream.end(); });
  }));
}).listen(0, '127.0.0.1', function () { console.log(this.address().port); });`

// git works over ssh through the gateway, by the name of its host, where the port is
// allowed, and not to another name.
func TestGitOverSSH(t *testing.T) {
	const host, other = "code.stand-in.test", "evil.stand-in.test"
	s := site(t)
	file, err := cofferdam()
	if err != nil {
		Skip(t, err)
	}
	for _, program := range []string{"ssh", "node"} {
		if _, err := exec.LookPath(program); err != nil {
			testenv.Skip(t, testenv.Toolchains, err.Error())
		}
	}
	p, err := programs()
	if err != nil {
		Skip(t, err)
	}
	s.AddFiles(t, map[string]string{"file": "served by git\n"})
	served := filepath.Join(s.Home, "served")
	s.Git(t, "clone", "--quiet", "--bare", ".", served+"/repo.git")

	server := s.command("/usr/bin/node", "-e", sshServer, served)
	server.Env = append(server.Env, "NODE_PATH="+p.Modules)
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the server says nothing")
	}
	port := lines.Text()
	commands := make(chan string, 10)
	go func() {
		defer close(commands)
		for lines.Scan() {
			commands <- lines.Text()
		}
	}()

	hosts := filepath.Join(s.Tools, "hosts")
	s.write(t, hosts, "127.0.0.1 localhost "+host+" "+other+"\n", 0o644)
	run := func(name string, boundary ...string) string {
		line := fmt.Sprintf(`export GIT_SSH_COMMAND="ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes -o ConnectTimeout=10"
			git clone -q ssh://git@%s:%s/repo.git cloned && cat cloned/file && cd cloned && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m over-ssh && git push -q origin HEAD:refs/heads/by-%s && echo pushed`, name, port, name)
		cmd := s.command(append(append([]string{filepath.Join(s.Tools, "driver"), "hosts", hosts, "--"}, boundary...), "sh", "-c", line)...)
		s.ownHosts(cmd)
		out, err := cmd.CombinedOutput()
		if err != nil && strings.Contains(string(out), "driver: ") {
			testenv.Skip(t, testenv.UserNamespaces, string(out))
		}
		if err := os.RemoveAll(filepath.Join(s.Workspace, "cloned")); err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	inside := []string{file, "run", "--tunnel-domain", host + ":" + port, "--allow-cidr", "127.0.0.1/32:" + port, "--"}
	for _, c := range []struct {
		name     string
		boundary []string
		works    bool
	}{{other, nil, true}, {host, inside, true}, {other, inside, false}} {
		got := run(c.name, c.boundary...)
		if works := strings.Contains(got, "served by git\n") && strings.Contains(got, "pushed\n"); works != c.works {
			t.Errorf("%s, %v: %s", c.name, c.boundary, got)
		}
		if c.works {
			for _, want := range []string{"git-upload-pack '/repo.git'", "git-receive-pack '/repo.git'"} {
				if got := <-commands; got != want {
					t.Errorf("the server was asked for %q, want %q", got, want)
				}
			}
		} else if !strings.Contains(got, "--allow-domain "+other) {
			t.Errorf("the summary does not name it: %s", got)
		}
	}
	if branches := s.Git(t, "--git-dir", served+"/repo.git", "branch", "--format=%(refname:short) %(subject)"); !strings.Contains(branches, "by-"+host+" over-ssh") {
		t.Errorf("branches: %s", branches)
	}
}
