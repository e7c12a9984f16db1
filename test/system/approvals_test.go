package system

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/approval"
	"cofferdam/internal/approval/api"
)

// asking is a shell script around a run in the background that asks: what is done
// outside meanwhile, by the same user. It is all in one place where the names of the
// outside are known. $N is the session, $RUN the process of the run; functions:
//
//	open: waits until there is an open question
//	ended: waits for the run, and prints its status, output and errors
func (o *outside) asking(t *testing.T, s *site, inside, meanwhile string, flags ...string) result {
	t.Helper()
	script := `N=asks
cd "$WORKSPACE"
"$COFFERDAM" run --name $N --ask ` + strings.Join(flags, " ") + ` -- sh -c "$INSIDE" >"$TMPDIR/out" 2>"$TMPDIR/err" & RUN=$!
open() { for i in $(seq 200); do "$COFFERDAM" approvals --json $N 2>/dev/null | grep -q '"id"' && return; sleep 0.05; done; echo "no question"; cat "$TMPDIR/err"; return 1; }
ended() { wait $RUN; echo "status $?"; cat "$TMPDIR/out"; echo ---; cat "$TMPDIR/err"; rm -f "$TMPDIR/out" "$TMPDIR/err"; }
` + meanwhile
	s.env = append(s.env, "COFFERDAM="+binary, "INSIDE="+inside, "WORKSPACE="+s.workspace, "SSL_CERT_FILE="+o.ca)
	defer func(n int) { s.env = s.env[:n] }(len(s.env) - 4)
	hosts := fmt.Sprintf("127.0.0.1 localhost\n127.0.0.1 %s\n127.0.0.1 %s\n", goodName, evilName)
	return s.rigged(t, rigging{Hosts: hosts}, "bash", "-c", script)
}

// local opens the addresses that names stand for here, and no name.
func (o *outside) local() []string {
	var flags []string
	for _, port := range []int{o.http, o.tls, o.raw} {
		flags = append(flags, "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port))
	}
	return flags
}

// Each answer, given by the commands while a real client waits, straight and by the
// proxy.
func TestApprovals(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	url := fmt.Sprintf("https://%s:%d/x", goodName, o.tls)
	for via, before := range map[string]string{"straight": `unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; `, "proxy": ""} {
		t.Run(via, func(t *testing.T) {
			get := before + `curl -fsS -m 10 ` + url + ` || echo "failed $?"; `
			o.took()
			for _, c := range []struct {
				name, inside, meanwhile string
				want                    []string
				seen                    int
			}{
				{"once", get, `open; "$COFFERDAM" approvals $N; "$COFFERDAM" approve $N/1 once; ended`,
					[]string{"asks/1  connect " + fmt.Sprintf("%s:%d", goodName, o.tls) + " by curl (", "once: " + goodName, "status 0", "served /x"}, 1},
				{"once is not twice", get + get, `open; "$COFFERDAM" approve $N once; open; "$COFFERDAM" approve 2 no; ended`,
					[]string{"served /x", "failed "}, 1},
				{"session", get + get, `open; "$COFFERDAM" approve $N/1 session; ended`,
					[]string{"served /x 0\nserved /x 0\n"}, 2},
				{"no", get + get, `open; "$COFFERDAM" approve $N/1 no; ended`,
					[]string{"failed ", "the answer was no", "--allow-domain " + goodName}, 0},
				{"a client that gives up", strings.Replace(get, "-m 10", "-m 1", 1), `open; ended`,
					[]string{"failed ", "went away before there was an answer", "--allow-domain " + goodName}, 0},
			} {
				r := o.asking(t, s, c.inside, c.meanwhile, o.local()...)
				for _, want := range c.want {
					if !strings.Contains(r.out, want) {
						t.Errorf("%s: no %q in %s%s", c.name, want, r.out, r.err)
					}
				}
				if seen := o.took(); len(seen) != c.seen {
					t.Errorf("%s: seen %q; %s%s", c.name, seen, r.out, r.err)
				}
			}
		})
	}
}

// Always is a rule in the person's own policy, with all that was in there; the next run
// does not ask, whether or not it may.
func TestApprovalsAlways(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	get := fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http)
	file := filepath.Join(s.home, ".config/cofferdam/policy.jsonc")
	s.write(t, file, "// mine\n{\n  \"network\": {\n    \"allowedDomains\": [\n      \"other.test\", // for work\n    ],\n  },\n}\n")
	r := o.asking(t, s, get, `open; "$COFFERDAM" approve $N/1 always; ended`, o.local()...)
	if !strings.Contains(r.out, "written to "+file) || !strings.Contains(r.out, "served /x") {
		t.Errorf("%s%s", r.out, r.err)
	}
	b, err := os.ReadFile(file)
	if want := fmt.Sprintf("// mine\n{\n  \"network\": {\n    \"allowedDomains\": [\n      \"other.test\", // for work\n      \"%s:%d\",\n    ],\n  },\n}\n", goodName, o.http); err != nil || string(b) != want {
		t.Errorf("%v: %s", err, b)
	}
	if left := names(t, filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
	if r := o.try(t, s, get, o.local()...); !strings.Contains(r.out, "served /x") {
		t.Errorf("the next run: %s%s", r.out, r.err)
	}
	// What can't be kept holds for the session, and says why.
	for why, meanwhile := range map[string]string{
		"is read-only":            `chmod 400 ~/.config/cofferdam/policy.jsonc`,
		"the file ends":           `echo "{" >~/.config/cofferdam/policy.jsonc`,
		"is a symlink to nothing": `ln -s nowhere ~/.config/cofferdam/policy.jsonc`,
		"the inside may write":    `mkdir -p dotfiles; echo "{}" >dotfiles/p; ln -s "$PWD/dotfiles/p" ~/.config/cofferdam/policy.jsonc`,
		"has other names":         `echo "{}" >~/p; ln ~/p ~/.config/cofferdam/policy.jsonc`,
		"is no regular file":      `mkdir ~/.config/cofferdam/policy.jsonc`,
	} {
		_ = os.RemoveAll(file)
		_ = os.Remove(filepath.Join(s.home, "p"))
		if why == "is read-only" {
			s.write(t, file, "{}")
		}
		r := o.asking(t, s, get+"; "+get, `open; `+meanwhile+`; "$COFFERDAM" approve $N/1 always; ended`, o.local()...)
		if !strings.Contains(r.out, "it holds for this session only: ") || !strings.Contains(r.out, why) || strings.Count(r.out, "served /x") != 2 {
			t.Errorf("%s: %s%s", why, r.out, r.err)
		}
	}
	_ = os.RemoveAll(file)
	o.took()
}

// The record says what was asked, what was answered, and by whom.
func TestApprovalsAreRecorded(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	get := fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http)
	r := o.asking(t, s, get, `open; "$COFFERDAM" approve $N/1 session; ended; "$COFFERDAM" logs --json $N`, o.local()...)
	found := map[string]bool{}
	for line := range strings.Lines(r.out) {
		var e struct {
			Kind, Action, Subject, Process, Detail, Reason string
			PID                                            int
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Subject != fmt.Sprintf("%s:%d", goodName, o.http) {
			continue
		}
		switch {
		case e.Kind == "ask" && e.Process == "curl" && e.PID > 0 && strings.Contains(e.Reason, "waits for a person"):
			found["ask"] = true
		case e.Kind == "answer" && found["ask"] && e.Action == "session" && e.PID > 0 && e.Detail == fmt.Sprintf("question 1, by user %d", os.Getuid()):
			found["answer"] = true
		case e.Kind == "network" && e.Action == "open" && found["answer"]:
			found["open"] = true
		}
	}
	if len(found) != 3 {
		t.Errorf("found %v in %s%s", found, r.out, r.err)
	}
}

// A front end of somebody else's, as docs/approvals.md shows it.
func TestApprovalsByCurl(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	doc, err := os.ReadFile("../../docs/approvals.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(doc), "```sh\n")
	example, _, ok := strings.Cut(example, "```")
	if !ok || strings.Count(example, "curl ") != 2 {
		t.Fatalf("the example: %q", example)
	}
	get := fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http)
	r := o.asking(t, s, get, `open; id=$("$COFFERDAM" approvals --json $N | sed -n 's/.*"session": "\(.*\)",/\1/p'); PATH=$PATH:$(dirname "$COFFERDAM")
`+strings.ReplaceAll(example, "SESSION", "$id")+`
ended`, o.local()...)
	for _, want := range []string{`"version":1,"session":"`, `"host":"` + goodName + `"`, `"answer":"once"`, "served /x"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in %s%s", want, r.out, r.err)
		}
	}
}

// What is inside can't answer itself: the socket is not there, the commands find no
// session, and where a socket can be seen, who is inside is refused.
func TestApprovalsFromInside(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	get := fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http)
	inside := get + ` & sleep 0.5
for f in ` + s.state + `/sessions/*/approvals.sock ` + s.state + `/sessions/*/control.sock; do
  curl -sS -m 2 --unix-socket "$f" -d '{"answer":"session"}' http://x/v1/questions/1 && echo THROUGH
done
"$COFFERDAM" approve 1 session && echo THROUGH
wait`
	r := o.asking(t, s, inside, `open; sleep 1.5; "$COFFERDAM" approve $N/1 no; ended`, append(o.local(), "--env", "COFFERDAM", "--allow-read", filepath.Dir(binary))...)
	if strings.Contains(r.out, "THROUGH") || !strings.Contains(r.out, "failed") || len(o.took()) > 0 {
		t.Errorf("%s%s", r.out, r.err)
	}

	// A socket that can be seen inside: the control for the check of who connects.
	board := approval.New(approval.Config{
		Asked:    func(q approval.Question, _ approval.Wish) (approval.Question, error) { return q, nil },
		Answered: func(approval.Question, approval.Wish, approval.Answer, approval.Peer) (string, error) { return "", nil },
	})
	defer board.Close()
	dir, err := os.Open(s.workspace)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	server, err := api.Serve(dir, "x", board)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(s.workspace, api.Socket))
	defer server.Close()
	const look = `curl -sS -m 5 --unix-socket ` + api.Socket + ` http://x/v1/questions`
	if r := s.sh(t, look); !strings.Contains(r.out, `"code":"forbidden"`) {
		t.Errorf("inside: %q %s", r.out, r.err)
	}
	cmd := s.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", look}
	if r := finish(t, cmd); !strings.Contains(r.out, `"questions":[]`) {
		t.Errorf("the control: %q %s", r.out, r.err)
	}
}

// A run that is killed leaves no socket that is served, and the name goes with the next.
func TestApprovalsKilled(t *testing.T) {
	s := newSite(t)
	s.killed = true
	b := s.start(t, "up", "run", "--name", "asks", "--ask", "--", "sh", "-c", "echo up; sleep 60")
	pattern := filepath.Join(s.state, "sessions/*/"+api.Socket)
	var sockets []string
	for range 500 {
		if r := s.run(t, "approvals", "--json", "asks"); r.status == 0 {
			break
		}
	}
	if sockets, _ = filepath.Glob(pattern); len(sockets) != 1 {
		t.Fatalf("%q; %s", sockets, b.errOut.String())
	}
	if info, err := os.Stat(sockets[0]); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	b.Process.Kill()
	b.end(t)
	if c, err := net.Dial("unix", sockets[0]); err == nil {
		c.Close()
		t.Error("it is served yet")
	}
	s.run(t, "approvals", "asks").complains(t, 73, "not running")
	s.sh(t, "true").wants(t, 0)
	if left, _ := filepath.Glob(pattern); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Two sessions ask at once, and an answer is for the one that is named.
func TestApprovalsOfTwo(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	get := fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http)
	local := strings.Join(o.local(), " ")
	r := o.asking(t, s, get, `open
"$COFFERDAM" run --name other --ask `+local+` -- sh -c "$INSIDE" >"$TMPDIR/other" 2>&1 & OTHER=$!
for i in $(seq 200); do "$COFFERDAM" approvals other 2>/dev/null | grep -q other/1 && break; sleep 0.05; done
"$COFFERDAM" approvals
"$COFFERDAM" approve 1 once || echo "ambiguous $?"
"$COFFERDAM" approve other/1 no
wait $OTHER; echo "other: $(cat "$TMPDIR/other")"; rm "$TMPDIR/other"
"$COFFERDAM" approve 1 once
ended`, o.local()...)
	for _, want := range []string{"asks/1  ", "other/1  ", "ambiguous 66", "other: cofferdam: ", "failed", "status 0\nserved /x"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in %s%s", want, r.out, r.err)
		}
	}
	if seen := o.took(); len(seen) != 1 {
		t.Errorf("seen %q", seen)
	}
}

// Unattended, nobody is asked: it is refused at once.
func TestApprovalsUnattended(t *testing.T) {
	s := newSite(t)
	o := newOutside(t, s)
	r := o.try(t, s, fmt.Sprintf(`curl -fsS -m 10 http://%s:%d/x || echo failed`, goodName, o.http), append(o.local(), "--ask", "--unattended")...)
	if !strings.Contains(r.out, "failed") || !strings.Contains(r.err, "--allow-domain "+goodName) || len(o.took()) > 0 {
		t.Errorf("%q %s", r.out, r.err)
	}
}

// On a terminal of its own the list is answered by keys; the screen of the command has
// a bell on it and nothing else of ours.
func TestApprovalsOnATerminal(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, `"$COFFERDAM" run --name asks --ask -- bash -c 'echo up; exec 3<>/dev/tcp/one.test/9000; cat <&3 2>/dev/null; echo "over $?"'`)
	x.await("cofferdam approvals asks\r\n")
	view := s.terminal(t, `"$COFFERDAM" approvals; echo "view ended"; stty -a | grep -o "[-]*icanon"`)
	view.await("asks/1  connect one.test:9000 by bash (")
	view.typed("x")
	view.typed("\x1b[B") // chosen by hand, so the answer counts at once
	view.typed("n")
	view.await("no: one.test:9000")
	shown := x.await("over 1")
	if strings.Count(shown, "\a") != 1 || strings.Replace(shown, "\a", "", 1) != "up\r\nover 1" {
		t.Errorf("on the command's screen: %q", shown)
	}
	x.end()
	view.typed("q")
	view.await("view ended\r\nicanon")
	view.end()
}
