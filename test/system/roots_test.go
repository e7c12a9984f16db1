package system

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cofferdam/internal/testenv"
)

// An authority of one's own is trusted by the gateway and by programs inside, opened or in
// a tunnel, when a policy names it; else by nobody.
func TestExtraRoots(t *testing.T) {
	for _, program := range []string{"curl", "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			testenv.Skip(t, testenv.Toolchains, err.Error())
		}
	}
	s := newSite(t)
	o := newOutside(t, s)
	ca, err := os.ReadFile(o.ca)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, s.home+"/corp.pem", string(ca))
	s.write(t, s.home+"/bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	url := fmt.Sprintf("https://%s:%d/x", goodName, o.tls)
	line := "curl -sS " + url + `; /usr/bin/python3 -c 'import sys, urllib.request as u
print(u.urlopen(sys.argv[1], timeout=10).read().decode().strip())' ` + url + " 2>&1 | tail -n 1"
	for _, key := range []string{"allowedDomains", "tunnelDomains"} {
		policy := func(roots string) []string {
			s.write(t, s.home+"/policy.jsonc", fmt.Sprintf(`{"network": {%q: [%q], "allowedCIDRs": ["127.0.0.1/32"]%s}}`, key, goodName, roots))
			return []string{"--policy", s.home + "/policy.jsonc"}
		}
		if r := o.try(t, s, line, policy(`, "extraRoots": ["~/corp.pem"]`)...); strings.Count(r.out, "served /x 0") != 2 {
			t.Errorf("%s: %q %q", key, r.out, r.err)
		}
		if r := o.try(t, s, line, policy("")...); strings.Contains(r.out, "served") {
			t.Errorf("%s: without: %q", key, r.out)
		}
		o.try(t, s, "true", policy(`, "extraRoots": ["~/bad.pem"]`)...).complains(t, 64, s.home+"/bad.pem")
		o.try(t, s, "true", policy(`, "extraRoots": ["ca.crt"]`)...).complains(t, 69, "the inside may write")
	}
}
