package system

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cofferdam/internal/testenv"
)

// removeTried has the next start try again what an earlier one could do.
func removeTried(s *site) error {
	for _, name := range []string{"nftables", "any-ip"} {
		if err := os.Remove(s.state + "/tried-" + name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// Without nftables programs reach what is allowed all the same, by the ports of the rules or
// at least by the proxy, and nothing else; and the person is told what is not captured.
func TestWithoutNftables(t *testing.T) {
	const straight = `unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; `
	noNft := refusal{Call: unix.SYS_SOCKET, Errno: syscall.EPROTONOSUPPORT, Third: unix.NETLINK_NETFILTER}
	noNetlink := refusal{Call: unix.SYS_SOCKET, Errno: syscall.EPERM, Flag: unix.AF_NETLINK}
	s := newSite(t)
	o := newOutside(t, s)
	for _, c := range []struct {
		mechanism string
		refuse    []refusal
		straight  bool
	}{{"nft-redirect", nil, true}, {"any-ip", []refusal{noNft}, true}, {"proxy", []refusal{noNetlink}, false}} {
		hosts := "127.0.0.1 localhost " + goodName + " " + evilName + "\n"
		try := func(line string, flags ...string) result {
			command := append(append([]string{binary, "run"}, flags...), "--", "sh", "-c", line)
			must(t, removeTried(s))
			return s.rigged(t, rigging{Hosts: hosts, Refuse: c.refuse}, command...)
		}
		programs := []string{"curl", "python", "node"}
		if c.mechanism == "nft-redirect" {
			programs = programs[:1] // the control: TestClients has them all
		}
		for _, name := range programs {
			if _, err := exec.LookPath(clients[name].program); err != nil {
				testenv.Skip(t, testenv.Toolchains, err.Error())
			}
			var script, want strings.Builder
			o.took()
			ask := func() {
				r := try(script.String(), o.allow()...)
				seen := strings.Join(o.took(), " ")
				if r.out != want.String() || strings.Contains(seen, evilName) || strings.Contains(seen, goodName) != strings.Contains(want.String(), "yes") {
					t.Errorf("%s: %s: %q, want %q; seen %q; %s", c.mechanism, name, r.out, want.String(), seen, r.err)
				}
				script.Reset()
				want.Reset()
			}
			for _, q := range []struct {
				host, scheme, before string
				works                bool
			}{
				{goodName, "http", straight, c.straight}, {goodName, "https", straight, c.straight}, {goodName, "https", "", true},
				{evilName, "http", straight, false}, {evilName, "https", straight, false}, {evilName, "https", "", false},
			} {
				if name != "curl" && q.scheme == "http" || name == "node" && q.before == "" {
					continue // slow to start; and node takes no proxy from the environment
				}
				port := map[string]int{"http": o.http, "https": o.tls}[q.scheme]
				fmt.Fprintf(&script, "(%s export URL=%s://%s:%d; %s) > /tmp/out 2>&1; grep -q served /tmp/out && echo yes || echo no\n", q.before, q.scheme, q.host, port, clients[name].line)
				want.WriteString(map[bool]string{true: "yes\n", false: "no\n"}[q.works])
				if name != "curl" {
					ask()
				}
			}
			if name == "curl" {
				ask()
			}
		}
		plan := try("true", append([]string{"--dry-run", "--allow-domain", "every.port.test"}, o.allow()...)...)
		told := try("true", o.allow()...)
		if coarse := strings.Contains(plan.out, "coarse     allowedDomains every.port.test"); coarse != (c.mechanism != "nft-redirect") ||
			!strings.Contains(plan.out, "gateway by "+c.mechanism) || strings.Contains(told.err, "no way to bring every connection") != coarse {
			t.Errorf("%s: the plan says %s\n%s", c.mechanism, plan.out, told.err)
		}
		d := s.rigged(t, rigging{Hosts: hosts, Refuse: c.refuse}, binary, "doctor")
		if nft, any := strings.Contains(d.out, "nftables         yes"), strings.Contains(d.out, "any-ip           yes"); nft != (c.mechanism == "nft-redirect") || any != (c.mechanism != "proxy") {
			t.Errorf("%s: doctor: %s", c.mechanism, d.out)
		}
		if c.mechanism != "any-ip" {
			continue
		}
		// What it does not capture is refused by the kernel, at once.
		r := try(fmt.Sprintf("for a in 8.8.8.8/53 1.2.3.4/22 1.2.3.4/%d; do timeout 5 bash -c \"exec 3<>/dev/tcp/$a\" 2>/dev/null; echo $?; done", o.raw+1), o.allow()...)
		if r.out != "1\n1\n1\n" {
			t.Errorf("not captured: %q %q", r.out, r.err)
		}
	}
}
