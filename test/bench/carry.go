package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/plan"
)

// carries is the first argument of this program as a client that measures a way to a
// server.
const carries = "carries"

const (
	carryBytes = 256 << 20
	carryKept  = 2000 // requests on one connection
	carryNew   = 200  // connections
)

// carried is what a client measured.
type carried struct {
	Rate      float64 // bytes in a second
	Kept, New time.Duration
}

// carry measures the way to a server, by the proxy of the environment, by the one that is
// named, or straight ("").
func carry(address, proxy string) error {
	if proxy == "environment" {
		proxy = cmp.Or(os.Getenv("HTTP_PROXY"), os.Getenv("http_proxy"))
		if proxy == "" {
			return errors.New("no proxy in the environment")
		}
	}
	client := func() (*http.Client, error) {
		tr := &http.Transport{MaxConnsPerHost: 1}
		if proxy != "" {
			u, err := url.Parse(proxy)
			if err != nil {
				return nil, err
			}
			tr.Proxy = http.ProxyURL(u)
		}
		return &http.Client{Transport: tr}, nil
	}
	c, err := client()
	if err != nil {
		return err
	}
	get := func(path string) (int64, error) {
		resp, err := c.Get(address + path)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return n, err
	}
	many := func(n int, path string) (time.Duration, error) {
		var t time.Time
		for i := range n + n/10 {
			if i == n/10 { // warm
				t = time.Now()
			}
			if _, err := get(path); err != nil {
				return 0, err
			}
		}
		return time.Since(t) / time.Duration(n), nil
	}
	var got carried
	if got.Kept, err = many(carryKept, "/small"); err != nil {
		return err
	}
	t := time.Now()
	n, err := get("/large")
	if err == nil && n != carryBytes {
		err = fmt.Errorf("%d bytes", n)
	}
	if err != nil {
		return err
	}
	got.Rate = float64(n) / time.Since(t).Seconds()
	c.Transport.(*http.Transport).CloseIdleConnections()
	c.Transport.(*http.Transport).DisableKeepAlives = true
	if got.New, err = many(carryNew, "/small"); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// carrying is plain HTTP straight, through the gateway (as a proxy, and without being
// told: connections to an address of this machine that is not the loopback's), and
// through srt's proxy.
func (w *world) carrying() {
	if err := w.carryAll(); err != nil {
		fmt.Println("  network:", err)
	}
}

func (w *world) carryAll() error {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return err
	}
	large := make([]byte, 1<<20)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/large" {
			io.WriteString(rw, strings.Repeat("x", 1000))
			return
		}
		rw.Header().Set("Content-Length", strconv.Itoa(carryBytes))
		for range carryBytes / len(large) {
			if _, err := rw.Write(large); err != nil {
				return
			}
		}
	})}
	go server.Serve(l)
	defer server.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	client := filepath.Join(w.ws, "client")
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(client, self, 0o755)
	}
	if err != nil {
		return err
	}
	loopback, proxy := "http://127.0.0.1:"+port, "http://127.0.0.1:"+strconv.Itoa(plan.ProxyHTTPPort)
	inside := func(host string) []string {
		return []string{w.cofferdam, "run", "--allow-cidr", host + "/32:" + port, "--", client, carries}
	}
	list := []variant{{"straight", []string{client, carries, loopback, ""}}, {"cofferdam, as a proxy", append(inside("127.0.0.1"), loopback, proxy)}}
	if own := ownAddress(); own != "" {
		list = append(list, variant{"cofferdam, not told", append(inside(own), "http://"+own+":"+port, "")})
	}
	if len(w.srt) > 0 {
		settings := filepath.Join(w.base, "srt.json")
		if err := os.WriteFile(settings, []byte(`{"network": {"allowedDomains": ["127.0.0.1"], "deniedDomains": []}, "filesystem": {"denyRead": [], "allowWrite": ["."], "denyWrite": []}}`), 0o644); err != nil {
			return err
		}
		list = append(list, variant{"srt's proxy", slices.Concat(w.srt, []string{"--settings", settings, client, carries, loopback, "environment"})})
	}
	all := map[string][]carried{}
	for range 3 {
		for _, v := range list {
			cmd := w.bare(v.argv[0], v.argv[1:]...)
			var errOut bytes.Buffer
			cmd.Stderr = &errOut
			out, err := cmd.Output()
			var got carried
			if err == nil {
				err = json.Unmarshal(out, &got)
			}
			if err != nil {
				fmt.Printf("  %s failed: %v: %s\n", v.name, err, bytes.TrimSpace(errOut.Bytes()))
				continue
			}
			all[v.name] = append(all[v.name], got)
		}
	}
	fmt.Printf("\nplain HTTP, 1000 bytes and %d MiB\n  %-22s %13s %20s %16s\n", carryBytes>>20, "", "next request", "new connection", "throughput")
	for _, v := range list {
		got := all[v.name]
		if len(got) == 0 {
			continue
		}
		middle := func(value func(carried) float64) float64 {
			var vs []float64
			for _, c := range got {
				vs = append(vs, value(c))
			}
			slices.Sort(vs)
			return vs[len(vs)/2]
		}
		fmt.Printf("  %-22s %10.1f us %17.1f us %10.0f MiB/s\n", v.name, middle(func(c carried) float64 { return us(c.Kept) }),
			middle(func(c carried) float64 { return us(c.New) }), middle(func(c carried) float64 { return c.Rate / (1 << 20) }))
	}
	return nil
}

// ownAddress is one of this machine that is not the loopback's.
func ownAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return ""
}
