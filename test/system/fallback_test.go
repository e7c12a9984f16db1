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
	noNetlink := refusal{Call: unix.SYS_SENDTO, Errno: syscall.EPERM}
	s := newSite(t)
	o := newOutside(t, s)
	for _, c := range []struct {
		mechanism string
		refuse    []refusal
		straight  bool
	}{{"nft-redirect", nil, true}, {"any-ip", []refusal{noNft}, true}, {"proxy", []refusal{noNft, noNetlink}, false}} {
		hosts := "127.0.0.1 localhost " + goodName + " " + evilName + "\n"
		try := func(line string, flags ...string) result {
			command := append(append([]string{binary, "run"}, flags...), "--", "sh", "-c", line)
			must(t, removeTried(s))
			return s.rigged(t, rigging{Hosts: hosts, Refuse: c.refuse}, command...)
		}
		for _, name := range []string{"curl", "python", "node"} {
			if _, err := exec.LookPath(clients[name].program); err != nil {
				testenv.Skip(t, testenv.Toolchains, err.Error())
			}
			for scheme, port := range map[string]int{"http": o.http, "https": o.tls} {
				for via, before := range map[string]string{"straight": straight, "proxy": ""} {
					if c.mechanism == "proxy" && name == "node" {
						continue // it takes no proxy from the environment
					}
					o.took()
					line := func(host string) string {
						return before + fmt.Sprintf("export URL=%s://%s:%d; ", scheme, host, port) + clients[name].line
					}
					works := via == "proxy" || c.straight
					if r := try(line(goodName), o.allow()...); (r.status == 0 && strings.Contains(r.out, "served")) != works || len(o.took()) > 0 != works {
						t.Errorf("%s: %s %s %s: status %d, %q, %s", c.mechanism, name, scheme, via, r.status, r.out, r.err)
					}
					if r := try(line(evilName), o.allow()...); r.status == 0 || strings.Contains(r.out, "served") || len(o.took()) != 0 {
						t.Errorf("%s: %s %s %s: denied, and status %d, %q", c.mechanism, name, scheme, via, r.status, r.out)
					}
				}
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
