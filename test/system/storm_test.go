package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cofferdam/internal/linux/netns"
	"cofferdam/internal/plan"
)

// storm is the first argument of this test binary as a hostile program inside. It
// reads the name of one storm after the other from its input, raises it, and prints
// what came of it. All along a well-behaved client beside it wants to be served.
const storm = "storm"

// place is where a storm is raised, as the outside has it.
type place struct {
	Name      string // allowed
	HTTP, Raw int
	AtOnce    int  // connections that a storm may have open
	Straight  bool // there is no gateway: the control
}

// report is what came of one storm.
type report struct {
	Storm string
	// Done is how much of what was tried was served as it should be, of Tried.
	Done, Tried int
	Slowest     time.Duration
	// Beside is how often the well-behaved client was served meanwhile, and how long it
	// had to wait at worst.
	Beside      int
	BesideWaits time.Duration
	Errors      []string // some of them
	Dropped     int      // SYNs that came too early for a port that was in use before
}

var (
	proxyAddr = "127.0.0.1:" + strconv.Itoa(plan.ProxyHTTPPort)
	socksAddr = "127.0.0.1:" + strconv.Itoa(plan.ProxySOCKSPort)
	tcpAddr   = "127.0.0.1:" + strconv.Itoa(netns.TCPPort)
)

const dnsAddr = "192.0.2.53:53" // whoever is asked

// storms are raised one after the other.
var storms = []struct {
	name  string
	raise func(*weather)
}{
	{"short", (*weather).short},
	{"short again", (*weather).short},
	{"at once", (*weather).atOnce},
	{"slow", (*weather).slow},
	{"headers", (*weather).headers},
	{"half-closed", (*weather).halfClosed},
	{"resets", (*weather).resets},
	{"garbage", (*weather).garbage},
}

// weather is one storm, going on.
type weather struct {
	place
	addr string // that stands for the name
	mu   sync.Mutex
	report
}

func (w *weather) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.Errors) < 5 {
		w.Errors = append(w.Errors, err.Error())
	}
}

// did counts one trial.
func (w *weather) did(took time.Duration, err error) {
	w.mu.Lock()
	w.Tried++
	if err == nil {
		w.Done++
	}
	w.Slowest = max(w.Slowest, took)
	w.mu.Unlock()
	if err != nil {
		w.failed(err)
	}
}

func raiseStorms(text string) int {
	var p place
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	addr := p.lookup(p.Name)
	fmt.Println("ready", addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		i := slices.IndexFunc(storms, func(s struct {
			name  string
			raise func(*weather)
		}) bool {
			return s.name == in.Text()
		})
		if i < 0 {
			return 2
		}
		w := &weather{place: p, addr: addr, report: report{Storm: in.Text()}}
		over := w.beside()
		storms[i].raise(w)
		over()
		w.Dropped = counted("PAWSTimewait")
		line, _ := json.Marshal(w.report)
		fmt.Println(string(line))
	}
	return 0
}

// counted reads one of the kernel's counters of this network.
func counted(name string) int {
	data, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		return -1
	}
	lines := strings.Split(string(data), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if k := slices.Index(names, name); k >= 0 && k < len(values) {
			n, _ := strconv.Atoi(values[k])
			return n
		}
	}
	return 0 // older than the counter
}

func (p place) lookup(name string) string {
	addrs, err := net.LookupHost(name)
	if err != nil || len(addrs) == 0 {
		fmt.Fprintln(os.Stderr, err)
		return "127.0.0.1"
	}
	return addrs[0]
}

// beside is the well-behaved client: a request, a short while, another. The function
// that it returns ends it.
func (w *weather) beside() (over func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			start := time.Now()
			err := w.byProxy(5 * time.Second)
			w.mu.Lock()
			w.BesideWaits = max(w.BesideWaits, time.Since(start))
			if w.Beside++; err != nil {
				w.Beside = -1 << 30
			}
			w.mu.Unlock()
			if err != nil {
				w.failed(fmt.Errorf("the client beside: %w", err))
			}
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (w *weather) httpAt() string { return net.JoinHostPort(w.addr, strconv.Itoa(w.HTTP)) }
func (w *weather) rawAt() string  { return net.JoinHostPort(w.addr, strconv.Itoa(w.Raw)) }

// open connects, and bounds all that follows.
func (w *weather) open(address string, limit time.Duration) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(limit))
}

// want says what is said, and reads all of the answer, which has to hold text.
func want(c net.Conn, said, text string) error {
	defer c.Close()
	if _, err := io.WriteString(c, said); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Contains(got, []byte(text)) {
		err = fmt.Errorf("got %q", got[:min(len(got), 200)])
	}
	return err
}

// byProxy, bySOCKS, byItself and refused are one short connection each.
func (w *weather) byProxy(limit time.Duration) error {
	at, line := proxyAddr, fmt.Sprintf("http://%s:%d/short", w.Name, w.HTTP)
	if w.Straight {
		at, line = w.httpAt(), "/short"
	}
	c, err := w.open(at, limit)
	if err != nil {
		return err
	}
	return want(c, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n\r\n", line, w.Name, w.HTTP), "served")
}

// socks is a greeting, and the wish for the server that is no HTTP.
func (w *weather) socks() string {
	return "\x05\x01\x00\x05\x01\x00\x03" + string(rune(len(w.Name))) + w.Name + string([]byte{byte(w.Raw >> 8), byte(w.Raw)})
}

func (w *weather) bySOCKS(limit time.Duration) error {
	if w.Straight {
		return w.byItself(limit)
	}
	c, err := w.open(socksAddr, limit)
	if err != nil {
		return err
	}
	return want(c, w.socks()+"here\n", "hello")
}

func (w *weather) byItself(limit time.Duration) error {
	c, err := w.open(w.rawAt(), limit)
	if err != nil {
		return err
	}
	return want(c, "here\n", "hello")
}

func (w *weather) refused(limit time.Duration) error {
	if w.Straight {
		return w.byItself(limit)
	}
	c, err := w.open("192.0.2.1:81", limit)
	if err == nil {
		err = want(c, "", "")
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("not refused: %w", err)
	}
	return nil
}

// many does n things in turn, at most at once at a time.
func (w *weather) many(n, atOnce int, do ...func(time.Duration) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				start := time.Now()
				err := do[int(i)%len(do)](10 * time.Second)
				w.did(time.Since(start), err)
			}
		})
	}
	all.Wait()
}

// manyShort is half of 100,000, to compare the one half with the other.
const manyShort = 50_000

// short: many connections, of which each is over in a moment.
func (w *weather) short() {
	n := manyShort
	if w.Straight {
		n = 1000
	}
	w.many(n, 16, w.byItself, w.byProxy, w.bySOCKS, w.byItself, w.refused)
}

// atOnce: as many connections as a program may want, all open, each then served.
func (w *weather) atOnce() {
	var all []*net.TCPConn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range w.AtOnce {
		c, err := w.open(w.httpAt(), 10*time.Second)
		if err != nil {
			w.did(0, err)
			continue
		}
		all = append(all, c)
	}
	for _, c := range all {
		start := time.Now()
		_, err := io.WriteString(c, "GET /short HTTP/1.1\r\nHost: "+net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP))+"\r\n\r\n")
		if err == nil {
			var b [512]byte
			var k int
			if k, err = c.Read(b[:]); err == nil && !bytes.Contains(b[:k], []byte("200 OK")) {
				err = fmt.Errorf("got %q", b[:k])
			}
		}
		w.did(time.Since(start), err)
	}
}

// each opens n connections to every way in (fewer where few may be open), and has do do
// something to each.
func (w *weather) each(n int, do func(c *net.TCPConn, i int)) {
	ways := []string{proxyAddr, socksAddr, tcpAddr, dnsAddr, w.rawAt(), w.httpAt(), net.JoinHostPort(w.addr, "80"), net.JoinHostPort(w.addr, "443"), "192.0.2.1:443", "192.0.2.1:80"}
	if w.Straight {
		ways = []string{w.rawAt(), w.httpAt()}
	}
	var all sync.WaitGroup
	for _, at := range ways {
		for i := range max(1, n*w.AtOnce/1000) {
			all.Go(func() {
				c, err := w.open(at, 10*time.Second)
				if err != nil {
					return
				}
				defer c.Close()
				w.did(0, nil)
				do(c, i)
			})
		}
	}
	all.Wait()
}

// slow: heads and greetings that come byte after byte, and never end.
func (w *weather) slow() {
	const text = "GET http://stand-in.test/ HTTP/1.1\r\nX: "
	w.each(100, func(c *net.TCPConn, i int) {
		said := text
		if i%2 == 1 {
			said = "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + text // a ClientHello
		}
		for k := range 30 {
			if _, err := c.Write([]byte{said[k%len(said)]}); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond) // slowness is the attack
		}
	})
}

// headers: heads of 1 GiB altogether, in lines, in one line, and within a body.
func (w *weather) headers() {
	starts := []string{
		"GET http://" + w.Name + "/ HTTP/1.1\r\nHost: " + w.Name + "\r\nX: ",
		"POST http://" + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;",
		"POST http://" + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
		"\x16\x03\x01\x40\x00\x01\x00\xff\xfc\x03\x03",
	}
	lines := [][]byte{bytes.Repeat([]byte("a"), 32<<10), bytes.Repeat([]byte("b: c\r\n"), 5000)}
	left := int64(1 << 30)
	ways := []string{proxyAddr, w.httpAt()}
	if w.Straight {
		left, ways = 1<<20, []string{w.httpAt()}
	}
	var sent atomic.Int64
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := i; sent.Load() < left; k++ {
				c, err := w.open(ways[k%len(ways)], 10*time.Second)
				if err != nil {
					w.failed(err)
					return
				}
				_, err = io.WriteString(c, starts[k/2%len(starts)])
				for err == nil && sent.Load() < left {
					var n int
					n, err = c.Write(lines[k/8%len(lines)])
					sent.Add(int64(n))
				}
				c.Close()
				w.did(0, nil)
			}
		})
	}
	all.Wait()
}

// halfClosed: one way ended at once, at every stage, and the other kept.
func (w *weather) halfClosed() {
	w.each(60, func(c *net.TCPConn, i int) {
		said := []string{"", "\x05\x01\x00", "\x16\x03\x01", "GET http://" + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "/short HTTP/1.1\r\n\r\n", "CONNECT " + net.JoinHostPort(w.Name, strconv.Itoa(w.Raw)) + " HTTP/1.1\r\n\r\n"}[i%5]
		_, _ = io.WriteString(c, said)
		_ = c.CloseWrite()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(io.Discard, c)
	})
}

// resets: connections that end by a reset at every stage.
func (w *weather) resets() {
	for range 20 {
		w.each(50, func(c *net.TCPConn, i int) {
			_ = c.SetLinger(0)
			said := []string{"", w.socks(),
				"GET http://" + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "/short HTTP/1.1\r\n\r\n",
				"CONNECT " + net.JoinHostPort(w.Name, strconv.Itoa(w.Raw)) + " HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00"}[i%5]
			_, _ = io.WriteString(c, said)
			if i%2 == 1 {
				var b [1]byte
				_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_, _ = c.Read(b[:])
			}
		})
	}
}

// garbage: bytes that mean nothing, and bytes that nearly mean something.
func (w *weather) garbage() {
	packet := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03api\x08stand-in\x04test\x00\x00\x01\x00\x01\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00")
	request := []byte("POST http://" + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "/short HTTP/1.1\r\nHost: " + net.JoinHostPort(w.Name, strconv.Itoa(w.HTTP)) + "\r\nContent-Length: 5\r\nX: y\r\n\r\nhello")
	socks := []byte(w.socks())
	hello := append([]byte("\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03"), make([]byte, 245)...)
	spoil := func(b []byte, r *rand.Rand) []byte {
		b = slices.Clone(b)
		for range 1 + r.IntN(4) {
			switch i := r.IntN(len(b)); r.IntN(3) {
			case 0:
				b[i] = byte(r.Uint32())
			case 1:
				b = b[:i+1]
			default:
				b = slices.Insert(b, i, byte(r.Uint32()))
			}
		}
		return b
	}
	if !w.Straight {
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, 1))
			c, err := net.Dial("udp", dnsAddr)
			if err != nil {
				w.failed(err)
				return
			}
			for range 20_000 {
				_, _ = c.Write(spoil(packet, r))
			}
			c.Close()
		}
	}
	for seed := range uint64(10) {
		w.each(50, func(c *net.TCPConn, i int) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			b := make([]byte, 1+r.IntN(20_000))
			for k := range b {
				b[k] = byte(r.Uint32())
			}
			switch i % 5 {
			case 0:
				b = spoil(request, r)
			case 1:
				b = spoil(socks, r)
			case 2:
				b = spoil(hello, r)
			case 3:
				b = append([]byte{byte(len(packet) >> 8), byte(len(packet))}, spoil(packet, r)...)
			}
			_, _ = c.Write(b)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = io.CopyN(io.Discard, c, 4096)
		})
	}
}

// kept is what a process has.
type kept struct {
	pss   int // KiB
	files int
}

func keptBy(pid int) (k kept, err error) {
	roll, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return k, err
	}
	for line := range strings.Lines(string(roll)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			k.pss, _ = strconv.Atoi(f[1])
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	k.files = len(files)
	return k, err
}
