package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/tls"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// spends gives a gateway budgets; before it is used.
func (w *world) spends(list ...plan.Budget) {
	w.t.Helper()
	s, err := newSpending(list)
	if err != nil {
		w.t.Fatal(err)
	}
	w.spending = s
}

// sink counts what comes, on each port.
func (w *world) sink(port string) *atomic.Int64 {
	var got atomic.Int64
	w.serve(port, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	return &got
}

func (w *world) proxied(t *testing.T, c *tls.Config) *http.Client {
	proxy, _ := url.Parse("http://" + w.addrs.http)
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// What is known to be too much is refused before any of it is asked for; what is not is
// ended when it has become too much, and the server never gets more than the budget.
func TestUploadOfRequests(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		w, inside := inspecting(t, looked("example.org", 0, nil))
		w.spends(plan.Budget{Name: "example.org", Of: plan.BudgetUpload, Amount: 100_000, Rule: 7})
		var got atomic.Int64
		read := func(_ http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			got.Add(n)
		}
		var seen func() []string
		if scheme == "http" {
			seen = w.site("80", read)
		} else {
			seen = w.serveTLS("443", &tls.Config{}, read)
		}
		client := w.proxied(t, &tls.Config{RootCAs: inside})
		post := func(body io.Reader) (int, string) {
			r, err := client.Post(scheme+"://example.org/x", "text/plain", body)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			return r.StatusCode, string(b)
		}
		status, text := post(strings.NewReader(strings.Repeat("x", 100_001)))
		if status != 429 || !strings.Contains(text, "upload 97.7 KiB, for example.org") || len(seen()) != 0 {
			t.Errorf("%s: too much: %d %q, %q", scheme, status, text, seen())
		}
		if _, dialled := w.outside(); len(dialled) != 0 {
			t.Errorf("%s: dialled for it: %q", scheme, dialled)
		}
		f := w.denied(Spent, "example.org")
		if f.Verdict.Rule != 7 || f.Method != "POST" || f.Path != "/x" {
			t.Errorf("%+v", f)
		}
		if status, text := post(strings.NewReader(strings.Repeat("x", 50_000))); status != 200 {
			t.Errorf("%s: what fits: %d %q", scheme, status, text)
		}
		if status, _ := post(strings.NewReader(strings.Repeat("x", 50_000))); status != 429 {
			t.Errorf("%s: the heads do not count: %d", scheme, status)
		}
		// In chunks, so that nobody knows how much there will be.
		if status, text := post(struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 300_000))}); status != 429 || !strings.Contains(text, "cross a budget") {
			t.Errorf("%s: in chunks: %d %q", scheme, status, text)
		}
		// What is left of it is still there.
		if status, text := post(strings.NewReader("x")); status != 200 && status != 429 {
			t.Errorf("%s: %d %q", scheme, status, text)
		}
		if n := got.Load(); n > 100_000 {
			t.Errorf("%s: the server has got %d bytes of 100000", scheme, n)
		}
	}
}

// A stretch of time has its own number, and the client hears when to come again.
func TestRequestsInATime(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil), looked("other.example", 0, nil))
	w.spends(plan.Budget{Name: "example.org", Of: plan.BudgetRequests, Amount: 2, Per: 3600_000, Rule: 3},
		plan.Budget{Name: "*", Of: plan.BudgetRequests, Amount: 4, Rule: 4},
		plan.Budget{Name: "example.org", Of: plan.BudgetRequests, Only: &plan.Requests{Methods: []string{"DELETE"}}, Amount: 1, Rule: 5})
	seen := w.serveTLS("443", &tls.Config{}, echo)
	client := w.proxied(t, &tls.Config{RootCAs: inside})
	do := func(method, host string, want int, retry bool) {
		t.Helper()
		r, _ := http.NewRequest(method, "https://"+host+"/", nil)
		got, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got.Body.Close()
		if got.StatusCode != want || (got.Header.Get("Retry-After") != "") != retry {
			t.Errorf("%s %s: %d %q", method, host, got.StatusCode, got.Header.Get("Retry-After"))
		}
	}
	do("DELETE", "example.org", 200, false)
	do("DELETE", "example.org", 429, false)
	if f := w.denied(Spent, "example.org"); f.Verdict.Rule != 5 {
		t.Errorf("%+v", f)
	}
	do("GET", "example.org", 200, false) // what was refused counts nowhere
	do("GET", "example.org", 429, true)
	do("GET", "other.example", 200, false)
	do("GET", "other.example", 200, false)
	do("GET", "other.example", 429, false) // of all hosts together
	if n := len(seen()); n != 4 {
		t.Errorf("%d requests arrived: %q", n, seen())
	}
}

// Whatever is carried unseen is counted as it goes: tunnels, other protocols, by each way
// in. The other way has no budget, and costs nothing.
func TestUploadUnseen(t *testing.T) {
	const budget = 200_000
	for _, way := range []string{"straight", "connect", "socks", "tunnel", "upgrade"} {
		rules := []plan.NetRule{looked("example.org", 0, nil)}
		if way == "tunnel" {
			rules[0].Tunnel = true
		}
		w, _ := inspecting(t, rules...)
		w.spends(plan.Budget{Name: "example.org", Of: plan.BudgetUpload, Amount: budget, Rule: 7}, plan.Budget{Name: "elsewhere.test", Of: plan.BudgetUpload, Amount: 1})
		got := w.sink("5432")
		var c net.Conn
		switch way {
		case "straight":
			c = w.named("example.org", "5432")
		case "connect", "tunnel":
			c = w.connect(t, "example.org:5432", 200)
		case "socks":
			c = w.socksTo(t, "example.org", "5432", 0)
		case "upgrade":
			w.serve("80", func(c net.Conn) {
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				if !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
					t.Errorf("%q", buf[:n])
				}
				got.Add(int64(n))
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
				for {
					n, err := c.Read(buf)
					if got.Add(int64(n)); err != nil {
						return
					}
				}
			})
			c = w.named("example.org", "80")
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			head := make([]byte, 12)
			if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 101" {
				t.Fatalf("%q %v", head, err)
			}
		}
		piece := append([]byte{0}, bytes.Repeat([]byte("x"), 999)...) // no HTTP
		var err error
		for range 10_000 { // until the other end is gone
			if _, err = c.Write(piece); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: ten times the budget, and more, was taken", way)
		}
		w.denied(Spent, "example.org")
		end := w.told("end", func(f Fact) bool { return f.Kind == Ended })
		if n := got.Load(); n > budget || end.BytesOut < budget/4 || end.BytesOut > budget {
			t.Errorf("%s: the server got %d bytes of %d; recorded %d", way, n, budget, end.BytesOut)
		}
		c.Close()
		// When it is used up the next one is not even dialled.
		if way == "tunnel" {
			for n := int64(budget); n > 0; n /= 2 {
				for w.spending.ledger.Spend(time.Now(), []int{0}, n) == nil {
				}
			}
			_, before := w.outside()
			w.connect(t, "example.org:5432", 429)
			if _, after := w.outside(); len(after) != len(before) {
				t.Errorf("dialled: %q", after)
			}
		}
	}
}

// Many connections at once have one budget together, for two hosts of one rule.
func TestUploadTogether(t *testing.T) {
	const budget = 200_000
	w := start(t, allow("*.example.org", 0))
	w.spends(plan.Budget{Name: "*.example.org", Of: plan.BudgetUpload, Amount: budget})
	got := w.sink("5432")
	var wg sync.WaitGroup
	for i := range 20 {
		c := w.connect(t, fmt.Sprintf("h%d.example.org:5432", i%2), 200)
		wg.Go(func() {
			for range 10_000 {
				if _, err := c.Write(append([]byte{0}, make([]byte, 700)...)); err != nil {
					return
				}
			}
			t.Error("no end")
		})
	}
	wg.Wait()
	if n := got.Load(); n > budget || n < budget/2 {
		t.Errorf("%d of %d", n, budget)
	}
}

func TestConnections(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil), looked("one.example", 0, nil), looked("two.example", 0, nil))
	w.spends(plan.Budget{Name: "example.org", Of: plan.BudgetConnections, Amount: 1},
		plan.Budget{Prefix: "127.0.0.0/8", Port: 5432, Of: plan.BudgetConnections, Amount: 2, Rule: 8}) // where servers of this test are
	w.serveTLS("443", &tls.Config{}, echo)
	w.sink("5432")
	client := w.proxied(t, &tls.Config{RootCAs: inside})
	for i, want := range []int{200, 200, 429} {
		if i == 2 {
			client.CloseIdleConnections()
		}
		r, err := client.Get("https://example.org/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		if r.Body.Close(); r.StatusCode != want { // the second is in the first one's connection
			t.Errorf("%d: %d", i, r.StatusCode)
		}
	}
	// An address has its budget by whatever name one comes to it.
	talk := func(to string) bool {
		c := w.connect(t, to, 200)
		c.Write([]byte{0})
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		ne, ok := err.(net.Error)
		return ok && ne.Timeout() // it lives
	}
	if !talk("one.example:5432") || !talk("two.example:5432") || talk("one.example:5432") {
		t.Error("an address under a name is another")
	}
	if f := w.denied(Spent, "one.example"); f.Verdict.Rule != 8 {
		t.Errorf("%+v", f)
	}
}

// A verdict that can't be recorded is an end, too.
func TestBudgetUnrecorded(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.spends(plan.Budget{Name: "*", Of: plan.BudgetUpload, Amount: 10})
	w.mu.Lock()
	w.fail = func(f Fact) bool { return f.Verdict.Code == Spent }
	w.mu.Unlock()
	got := w.sink("5432")
	c := w.connect(t, "example.org:5432", 200)
	c.Write(append([]byte{0}, make([]byte, 100)...))
	if _, err := c.Read(make([]byte, 1)); err == nil || got.Load() > 0 {
		t.Error(err, got.Load())
	}
}

func TestNoSuchBudget(t *testing.T) {
	if _, err := New(Config{Rules: &decide.Rules{}, Budgets: []plan.Budget{{Name: "*", Of: "x", Amount: 1}}}); err == nil || !strings.Contains(err.Error(), "can't be counted") {
		t.Error(err)
	}
}
