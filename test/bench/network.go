package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/plan"
)

// asks is the first argument of this program as a client inside.
const asks = "asks"

// requests are those of one measurement, on one connection.
const requests = 3000

// ask makes requests on one connection and prints how long one takes, in ns. It trusts
// what SSL_CERT_FILE names, and goes by the proxy if it is told to.
func ask(address, proxy string) error {
	tr := &http.Transport{MaxConnsPerHost: 1}
	if proxy != "" {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	c := &http.Client{Transport: tr}
	var t time.Time
	for i := range requests + 100 {
		if i == 100 { // connected, and warm
			t = time.Now()
		}
		resp, err := c.Get(address)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		resp.Body.Close()
	}
	fmt.Println(time.Since(t).Nanoseconds() / requests)
	return nil
}

// network is one request after the other over TLS, straight and through the gateway,
// which carries it unopened or looks into it.
func (w *world) network() {
	if err := w.askAll(); err != nil {
		fmt.Println("  network:", err)
	}
}

func (w *world) askAll() error {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, strings.Repeat("x", 1000)) }))
	s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.StartTLS()
	defer s.Close()
	roots := filepath.Join(w.base, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644); err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	client := filepath.Join(w.ws, "client")
	if err := os.WriteFile(client, self, 0o755); err != nil {
		return err
	}
	host := strings.TrimPrefix(s.URL, "https://")
	proxy := "127.0.0.1:" + strconv.Itoa(plan.ProxyHTTPPort)
	inside := func(how string) []string {
		file := filepath.Join(w.base, how+".jsonc")
		text := fmt.Sprintf(`{"network": {"rules": [{"host": %q, "tls": %q}]}, "environment": {"set": {%q: "1"}}}`, host, how, prepared)
		if werr := os.WriteFile(file, []byte(text), 0o644); werr != nil {
			err = werr
		}
		return []string{w.cofferdam, "run", "--policy", file, "--", client, asks, s.URL, proxy}
	}
	list := []variant{{"straight", []string{client, asks, s.URL, ""}}, {"tunnel", inside("tunnel")}, {"looked into", inside("inspect")}}
	if err != nil {
		return err
	}
	took, used := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range 5 {
		for _, v := range list {
			cmd := w.bare(v.argv[0], v.argv[1:]...)
			cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+roots)
			if v.name == "tunnel" {
				// Nothing is opened, so inside it is for the program to trust the server.
				cmd.Args = slices.Concat(cmd.Args[:2], []string{"--env", "SSL_CERT_FILE", "--allow-read", roots}, cmd.Args[2:])
			}
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w: %s", v.name, err, errOut.Bytes())
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			took[v.name] = append(took[v.name], time.Duration(ns))
			// Of the supervisor, and of the client, which it has waited for.
			used[v.name] = append(used[v.name], (cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())/requests)
		}
	}
	fmt.Printf("\none request after the other over TLS, 1000 bytes   (bar: looked into <= straight + 120 us CPU)\n")
	for _, v := range list {
		for _, ds := range [][]time.Duration{took[v.name], used[v.name]} {
			slices.Sort(ds)
		}
		fmt.Printf("  %-22s %9.1f us   CPU of client and gateway %7.1f us\n", v.name, us(took[v.name][2]), us(used[v.name][2]))
	}
	return nil
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
