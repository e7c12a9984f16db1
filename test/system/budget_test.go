package system

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"cofferdam/internal/testenv"
)

// An upload that is too much ends: told by its length before a byte of it has gone, or
// while it flows; inspected, in a tunnel and in no protocol at all. Outside the same
// upload goes through.
func TestBudgets(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		testenv.Skip(t, testenv.Toolchains, err.Error())
	}
	s := newSite(t)
	var got atomic.Int64
	o := newOutside(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		n, _ := io.Copy(io.Discard, r.Body)
		got.Add(n)
		fmt.Fprintf(w, "took %d\n", n)
		return true
	})
	s.write(t, "big", strings.Repeat("x", 400_000))
	s.write(t, "small", strings.Repeat("x", 10_000))
	policy := func(tls string) string {
		s.write(t, s.home+"/policy.jsonc", fmt.Sprintf(`{
  "network": {
    "allowedCIDRs": ["127.0.0.1/32"],
    "rules": [
      {"host": %q, "tls": %q,
       "budget": {"upload": "100kB"}}
    ],
    "budget": {"connections": "50"}
  }
}`, goodName, tls))
		return s.home + "/policy.jsonc"
	}
	s.env = append(s.env, "SSL_CERT_FILE="+o.ca)
	upload := fmt.Sprintf("curl -sS --cacert %s -w '%%{http_code}\n' https://%s:%d/x", "/.cofferdam/roots.pem", goodName, o.tls)
	r := o.try(t, s, upload+" --data-binary @small; "+upload+" --data-binary @big; "+upload+" -H 'Transfer-Encoding: chunked' --data-binary @big; true", "--policy", policy("inspect"))
	r.wants(t, 0)
	if !strings.HasPrefix(r.out, "took 10000\n200\n") || strings.Count(r.out, "429\n") != 2 || strings.Count(r.out, "would cross a budget: upload 97.7 KiB, for "+goodName) != 2 {
		t.Errorf("printed %q, errors %q", r.out, r.err)
	}
	if !strings.Contains(r.err, "a larger budget allows it") || !strings.Contains(r.err, "policy.jsonc:6") || !strings.Contains(r.err, "budget "+goodName+": upload 97.7 KiB") {
		t.Errorf("the summary does not say which rule: %q", r.err)
	}
	if n := got.Swap(0); n > 100_000 || n < 10_000 {
		t.Errorf("the server has got %d bytes", n)
	}
	if l := s.run(t, "logs"); !strings.Contains(l.out, "would cross a budget") {
		t.Errorf("logs: %q", l.out)
	}

	// In a tunnel the bytes of TLS count.
	r = o.try(t, s, fmt.Sprintf("curl -sS --cacert %s https://%s:%d/x --data-binary @big", o.ca, goodName, o.tls), "--policy", policy("tunnel"))
	if r.status == 0 || strings.Contains(r.out, "took") || !strings.Contains(r.err, "would cross a budget") {
		t.Errorf("a tunnel: %d %q %q", r.status, r.out, r.err)
	}
	if n := got.Swap(0); n > 100_000 {
		t.Errorf("the server has got %d bytes", n)
	}
	// The control: what the budget is in the way of.
	r = o.try(t, s, upload+" --data-binary @big", "--allow-domain", goodName, "--allow-cidr", "127.0.0.1/32")
	if r.out != "took 400000\n200\n" {
		t.Errorf("control: %q %q", r.out, r.err)
	}

	plan := s.run(t, "run", "--dry-run", "--policy", policy("inspect"), "--", "true")
	e := s.run(t, "policy", "explain", "--policy", policy("inspect"), "request", "POST", "https://"+goodName+"/x")
	if !strings.Contains(plan.out, "enforced   budget "+goodName+": upload 97.7 KiB") || !strings.Contains(plan.out, "enforced   budget: connections 50") {
		t.Errorf("plan: %s", plan.out)
	}
	if !strings.Contains(e.out, "counted: budget "+goodName+": upload 97.7 KiB") {
		t.Errorf("explain: %s%s", e.out, e.err)
	}
}
