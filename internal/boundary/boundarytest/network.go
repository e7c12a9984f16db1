package boundarytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/plan"
)

// variableAsk makes the test binary ask around inside: it holds questions as JSON.
const variableAsk = "BOUNDARYTEST_ASK"

// Gateway serves the sockets of a boundary until stop is called. It lets nothing out:
// it answers on each with a word for the socket and where the kernel says that the
// connection was meant to go.
func Gateway(mechanism string) (serve func(boundary.Sockets) error, stop func()) {
	where := netns.Destination
	if mechanism != "nft-redirect" {
		where = netns.Local
	}
	var mu sync.Mutex
	var open []io.Closer
	var served sync.WaitGroup
	stop = func() {
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		served.Wait()
	}
	hold := func(c io.Closer) { mu.Lock(); open = append(open, c); mu.Unlock() }
	accept := func(word string, files []*os.File, destination bool) error {
		for _, f := range files {
			l, err := net.FileListener(f)
			f.Close()
			if err != nil {
				return err
			}
			hold(l)
			served.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					answer := word
					if destination {
						raw, err := c.(*net.TCPConn).SyscallConn()
						if err != nil {
							return
						}
						to, err := where(raw)
						switch {
						case errors.Is(err, netns.ErrNotRedirected):
							answer += " itself"
						case err != nil:
							answer += " " + err.Error()
						default:
							answer += " " + to.String()
						}
					}
					_, _ = c.Write([]byte(answer))
					c.Close()
				}
			})
		}
		return nil
	}
	serve = func(s boundary.Sockets) error {
		for _, f := range s.DNS {
			c, err := net.FilePacketConn(f)
			f.Close()
			if err != nil {
				return err
			}
			hold(c)
			served.Go(func() {
				buf := make([]byte, 512)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(append([]byte("dns "), buf[:n]...), from)
				}
			})
		}
		return errors.Join(accept("tcp", s.TCP, true), accept("dns-tcp", s.DNSTCP, false), accept("http", s.HTTP, false), accept("socks", s.SOCKS, false))
	}
	return serve, stop
}

// WithGateway is b with plans whose network has a gateway, which Gateway serves.
func WithGateway(b boundary.Boundary) boundary.Boundary {
	return WithNetwork(b, plan.Network{Mode: "gateway", Mechanism: "nft-redirect"})
}

// WithNetwork is b with plans of such a network.
func WithNetwork(b boundary.Boundary, n plan.Network) boundary.Boundary { return gatewayed{b, n} }

type gatewayed struct {
	boundary.Boundary
	network plan.Network
}

type served struct {
	boundary.Running
	stop func()
}

func (g gatewayed) Start(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	q := *p
	q.Network = g.network
	serve, stop := Gateway(g.network.Mechanism)
	s.Gateway = serve
	r, err := g.Boundary.Start(ctx, &q, s, denied)
	if err != nil {
		stop()
		return nil, err
	}
	return served{r, stop}, nil
}

func (s served) Wait() (boundary.Exit, error) {
	defer s.stop()
	return s.Running.Wait()
}

// question is one thing tried inside; the answer is what comes back, or an error.
type question struct {
	// Do: "dial" Network Address; "listen" there; "serve": dial To while a server
	// listens at Address; "pair": dial Address and To from one local port; "read" a
	// file; "route" asks the kernel for the route of the boundary once more.
	Do, Network, Address, To string
	Want                     string `json:",omitempty"`
	Six                      bool   // only where there is IPv6
}

func dial(network, address string) question {
	return question{Do: "dial", Network: network, Address: address}
}

func (q question) want(answer string) question { q.Want = answer; return q }
func (q question) six() question               { q.Six = true; return q }

var (
	httpPort, socksPort = fmt.Sprint(plan.ProxyHTTPPort), fmt.Sprint(plan.ProxySOCKSPort)
	tcpPort             = fmt.Sprint(netns.TCPPort)
)

const refused = "connection refused"

// questions: all that is asked inside, and what must come back.
var questions = []question{
	// Every address and port, with where it was meant to go.
	dial("tcp", "1.2.3.4:443").want("tcp 1.2.3.4:443"),
	dial("tcp", "1.2.3.4:22").want("tcp 1.2.3.4:22"),
	dial("tcp", "1.2.3.4:"+tcpPort).want("tcp 1.2.3.4:" + tcpPort),
	dial("tcp", "1.2.3.4:"+httpPort).want("tcp 1.2.3.4:" + httpPort),
	dial("tcp", "169.254.169.254:80").want("tcp 169.254.169.254:80"),
	dial("tcp", "10.0.0.1:65535").want("tcp 10.0.0.1:65535"),
	dial("tcp", "198.18.0.1:1").want("tcp 198.18.0.1:1"),
	dial("tcp", "[2001:db8::1]:443").want("tcp [2001:db8::1]:443").six(),
	dial("tcp", "[fd00:ec2::254]:80").want("tcp [fd00:ec2::254]:80").six(),
	dial("tcp", "[64:ff9b::a9fe:a9fe]:80").want("tcp [64:ff9b::a9fe:a9fe]:80").six(),

	// DNS, whoever is asked.
	dial("udp", "8.8.8.8:53").want("dns q"),
	dial("udp", "127.0.0.53:53").want("dns q"),
	dial("udp", "127.0.0.1:53").want("dns q"),
	dial("udp", "[2001:db8::53]:53").want("dns q").six(),
	dial("udp", "[::1]:53").want("dns q").six(),
	dial("tcp", "8.8.8.8:53").want("dns-tcp"),
	dial("tcp", "127.0.0.53:53").want("dns-tcp"),
	dial("tcp", "[2001:db8::53]:53").want("dns-tcp").six(),

	// The proxies, and the listener by its own name, which is no destination.
	dial("tcp", "127.0.0.1:"+httpPort).want("http"),
	dial("tcp", "127.0.0.1:"+socksPort).want("socks"),
	dial("tcp", "[::1]:"+httpPort).want("http").six(),
	dial("tcp", "[::1]:"+socksPort).want("socks").six(),
	dial("tcp", "127.0.0.1:"+tcpPort).want("tcp itself"),
	dial("tcp", "[::1]:"+tcpPort).want("tcp itself").six(),

	// Nothing else is carried.
	dial("udp", "1.2.3.4:443").want(refused),
	dial("udp", "[2001:db8::1]:443").want(refused).six(),
	dial("udp", "169.254.169.254:123").want(refused),
	dial("udp", "127.0.0.1:5353").want(refused),
	dial("tcp", "127.0.0.1:9").want(refused),
	dial("tcp", "127.1.2.3:443").want(refused),
	{Do: "read", Address: "/proc/sys/net/ipv4/icmp_echo_ignore_all", Want: "1"},
	{Do: "read", Address: "/proc/sys/net/ipv4/tcp_timestamps", Want: "2"}, // see netns.Knobs
	{Do: "read", Address: "/proc/sys/net/ipv6/icmp/echo_ignore_all", Want: "1", Six: true},
	{Do: "interfaces", Want: "lo"},

	// The inside's own servers: by loopback they are reached, and they get nothing
	// that was for others.
	{Do: "serve", Network: "tcp", Address: "127.0.0.1:3000", To: "127.0.0.1:3000", Want: "own"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:8080", To: "127.0.0.1:8080", Want: "own"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:8080", To: "127.9.9.9:8080", Want: "own"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:8080", To: "1.2.3.4:8080", Want: "tcp 1.2.3.4:8080"},
	{Do: "serve", Network: "tcp", Address: "1.2.3.4:8080", To: "1.2.3.4:8080", Want: "tcp 1.2.3.4:8080"},
	{Do: "serve", Network: "tcp", Address: "[::1]:3000", To: "[::1]:3000", Want: "own", Six: true},
	{Do: "serve", Network: "tcp", Address: "[::]:8080", To: "[2001:db8::1]:8080", Want: "tcp [2001:db8::1]:8080", Six: true},
	{Do: "serve", Network: "tcp", Address: "127.0.0.1:1024", To: "127.0.0.1:1024", Want: "own"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:65535", To: "127.0.0.1:65535", Want: "own"},

	// Two connections from one local port are two connections.
	{Do: "pair", Address: "1.2.3.4:443", To: "5.6.7.8:443", Want: "tcp 1.2.3.4:443 tcp 5.6.7.8:443"},
	{Do: "pair", Address: "[2001:db8::1]:443", To: "[2001:db8::2]:443", Want: "tcp [2001:db8::1]:443 tcp [2001:db8::2]:443", Six: true},

	{Do: "many", Address: "3000", Want: "all"},

	// Nobody takes the gateway's place, or changes what leads to it.
	{Do: "listen", Network: "tcp", Address: "127.0.0.1:" + tcpPort, Want: "permission denied"},
	{Do: "listen", Network: "tcp", Address: "0.0.0.0:" + tcpPort, Want: "permission denied"},
	{Do: "listen", Network: "tcp", Address: "[::]:" + httpPort, Want: "permission denied", Six: true},
	{Do: "listen", Network: "tcp", Address: "127.0.0.2:" + socksPort, Want: "permission denied"},
	{Do: "listen", Network: "udp", Address: "127.0.0.1:53", Want: "permission denied"},
	{Do: "listen", Network: "udp", Address: "0.0.0.0:53", Want: "permission denied"},
	{Do: "route", Want: "operation not permitted"},
	{Do: "rules", Want: "operation not permitted"},
	// And after all that it is as it was.
	dial("tcp", "1.2.3.4:443").want("tcp 1.2.3.4:443"),
	dial("udp", "8.8.8.8:53").want("dns q"),
}

// AnyIPPorts are those of questionsAnyIP.
var AnyIPPorts = []int{80, 443, 5432}

// questionsAnyIP are for a network in which connections to these ports come to the
// gateway, and nothing else.
var questionsAnyIP = []question{
	dial("tcp", "1.2.3.4:443").want("tcp 1.2.3.4:443"),
	dial("tcp", "198.18.0.1:5432").want("tcp 198.18.0.1:5432"),
	dial("tcp", "169.254.169.254:80").want("tcp 169.254.169.254:80"),
	dial("tcp", "1.2.3.4:22").want(refused),
	dial("tcp", "1.2.3.4:"+httpPort).want(refused),
	dial("tcp", "[2001:db8::1]:443").want("network is unreachable").six(),
	{Do: "pair", Address: "1.2.3.4:443", To: "5.6.7.8:443", Want: "tcp 1.2.3.4:443 tcp 5.6.7.8:443"},
	{Do: "many", Address: "3000", Want: "all"},
	// What is for the inside itself is for nobody outside.
	dial("tcp", "127.0.0.1:443").want("tcp itself"),
	dial("tcp", "127.1.2.3:80").want("tcp itself"),
	dial("tcp", "0.0.0.0:443").want("tcp itself"),
	{Do: "read", Address: "/proc/sys/net/ipv4/icmp_echo_ignore_all", Want: "1"},
	// A port that is listened on is taken, and the inside's own servers get nothing from
	// outside by what others are sent to.
	{Do: "listen", Network: "tcp", Address: "0.0.0.0:5432", Want: "address already in use"},
	{Do: "listen", Network: "tcp", Address: "1.2.3.4:5432", Want: "address already in use"},
	{Do: "listen", Network: "tcp", Address: "127.0.0.1:5432", Want: "address already in use"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:8080", To: "127.0.0.1:8080", Want: "own"},
	{Do: "serve", Network: "tcp", Address: "0.0.0.0:8080", To: "1.2.3.4:8080", Want: "own"}, // and stays here
}

// questionsLoopback are for a network in which only what is sent to loopback comes to the
// gateway; and for that of questionsAnyIP.
var questionsLoopback = []question{
	dial("udp", "127.0.0.1:53").want("dns q"),
	dial("tcp", "127.0.0.1:53").want("dns-tcp"),
	dial("udp", "127.0.0.1:443").want(refused),
	dial("tcp", "127.0.0.1:"+httpPort).want("http"),
	dial("tcp", "127.0.0.1:"+socksPort).want("socks"),
	{Do: "interfaces", Want: "lo"},
	{Do: "serve", Network: "tcp", Address: "127.0.0.1:3000", To: "127.0.0.1:3000", Want: "own"},
	{Do: "listen", Network: "tcp", Address: "0.0.0.0:443", Want: "permission denied"},
	{Do: "listen", Network: "tcp", Address: "0.0.0.0:" + httpPort, Want: "permission denied"},
	{Do: "listen", Network: "udp", Address: "0.0.0.0:53", Want: "permission denied"},
	{Do: "route", Want: "operation not permitted"},
}

// RunFallbacks is the suite of boundaries that can have a gateway without redirection.
func RunFallbacks(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	six := hasIPv6(t, b, adapt)
	for mechanism, list := range map[string][]question{
		"any-ip": slices.Concat(questionsAnyIP, questionsLoopback, []question{dial("udp", "8.8.8.8:53").want(refused), dial("tcp", "8.8.8.8:53").want(refused)}),
		"proxy": slices.Concat(questionsLoopback, []question{dial("udp", "8.8.8.8:53").want("network is unreachable"), dial("tcp", "8.8.8.8:53").want("network is unreachable"),
			dial("tcp", "1.2.3.4:443").want("network is unreachable"), dial("tcp", "127.0.0.1:443").want(refused)}),
	} {
		t.Run(mechanism, func(t *testing.T) {
			n := plan.Network{Mode: "gateway", Mechanism: mechanism}
			if mechanism == "any-ip" {
				n.Ports = AnyIPPorts
			}
			compare(t, WithNetwork(b, n), adapt, list, six)
		})
	}
}

// reuse asks for an address that others may have.
func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	const reusePort = 15 // SO_REUSEPORT, which package syscall does not have everywhere
	cerr := c.Control(func(fd uintptr) {
		err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1))
	})
	return errors.Join(err, cerr)
}

const patience = 2 * time.Second

func (q question) ask() (string, error) {
	switch q.Do {
	case "dial":
		return talk(net.Dialer{}, q.Network, q.Address)
	case "read":
		b, err := os.ReadFile(q.Address)
		return strings.TrimSpace(string(b)), err
	case "interfaces":
		list, err := net.Interfaces()
		var names []string
		for _, i := range list {
			names = append(names, i.Name)
		}
		return strings.Join(names, " "), err
	case "listen":
		lc := net.ListenConfig{Control: reuse}
		if q.Network == "udp" {
			c, err := lc.ListenPacket(context.Background(), q.Network, q.Address)
			if err == nil {
				c.Close()
			}
			return "listens", err
		}
		l, err := lc.Listen(context.Background(), q.Network, q.Address)
		if err == nil {
			l.Close()
		}
		return "listens", err
	case "serve":
		l, err := net.Listen(q.Network, q.Address)
		if err != nil {
			return "", err
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("own"))
				c.Close()
			}
		}()
		return talk(net.Dialer{}, q.Network, q.To)
	case "pair":
		first, err := (&net.Dialer{Control: reuse, Timeout: patience}).Dial("tcp", q.Address)
		if err != nil {
			return "", err
		}
		defer first.Close()
		local := &net.TCPAddr{Port: first.LocalAddr().(*net.TCPAddr).Port}
		b, err := talk(net.Dialer{Control: reuse, LocalAddr: local}, "tcp", q.To)
		if err != nil {
			return "", fmt.Errorf("the second: %w", err)
		}
		a, err := io.ReadAll(first)
		return string(a) + " " + b, err
	case "many":
		return many(q.Address)
	case "route":
		return sendNetlink(syscall.NETLINK_ROUTE, netns.Route(syscall.AF_INET))
	case "rules":
		return sendNetlink(syscall.NETLINK_NETFILTER, netns.Redirect(syscall.AF_INET, 4321))
	}
	return "", errors.New("no such question")
}

// talk says q and returns the answer.
func talk(d net.Dialer, network, address string) (string, error) {
	d.Timeout = patience
	c, err := d.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("q")); err != nil {
			return "", err
		}
		b := make([]byte, 512)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// many makes short connections, one after the other and to one port of many addresses:
// each comes through, and none has to wait for the entry of an earlier one.
func many(n string) (string, error) {
	var slowest time.Duration
	count, err := strconv.Atoi(n)
	for i := range count {
		to := fmt.Sprintf("198.18.%d.%d:443", i%7, i%200)
		start := time.Now()
		answer, err := talk(net.Dialer{}, "tcp", to)
		if err != nil || answer != "tcp "+to {
			return "", fmt.Errorf("connection %d: %q, %v", i, answer, err)
		}
		slowest = max(slowest, time.Since(start))
	}
	if slowest > time.Second {
		return "", fmt.Errorf("one took %v", slowest)
	}
	return "all", err
}

// sendNetlink asks for a change of the network; the start of the boundary is the
// control, which has asked for the same with capabilities.
func sendNetlink(protocol int, r netns.Request) (string, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, protocol)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	if err := syscall.Sendto(fd, r.Bytes, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return "", err
	}
	return "changed", r.Confirm(fd)
}

// askAll is the test binary inside: a line for each question.
func askAll(text string) int {
	var list []question
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		fmt.Println(err)
		return 2
	}
	for i, q := range list {
		answer, err := q.ask()
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Printf("%d %q\n", i, answer)
	}
	return 0
}

// RunGateway is the suite of boundaries that can have a gateway: whatever is sent
// inside comes to it or nowhere.
func RunGateway(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	t.Run("asked", func(t *testing.T) {
		RunQuestions(t, WithGateway(b), adapt, hasIPv6(t, b, adapt))
	})
	// The control: without a gateway the same binary gets none of its answers.
	t.Run("control", func(t *testing.T) {
		for i, answer := range answers(t, b, adapt, questions) {
			q := questions[i]
			if q.Do == "dial" && q.Want != refused && answer == q.Want {
				t.Errorf("%+v: %q without a gateway", q, answer)
			}
		}
	})
}

// hasIPv6 says whether the boundary has IPv6. It is the machine's to say, not the
// gateway's: this asks without one.
func hasIPv6(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) bool {
	return answers(t, b, adapt, []question{{Do: "read", Address: "/proc/sys/net/ipv6/conf/lo/disable_ipv6"}})[0] == "0"
}

// RunQuestions asks inside of b, which has a gateway that Gateway serves; six says
// whether there is IPv6.
func RunQuestions(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan), six bool) {
	compare(t, b, adapt, questions, six)
}

func compare(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan), list []question, six bool) {
	t.Helper()
	list = slices.DeleteFunc(slices.Clone(list), func(q question) bool { return q.Six && !six })
	for i, answer := range answers(t, b, adapt, list) {
		// An error names the cause at its end.
		q := list[i]
		if answer != q.Want && !(strings.HasPrefix(answer, "error: ") && strings.HasSuffix(answer, ": "+q.Want)) {
			t.Errorf("%+v: %q", q, answer)
		}
	}
}

// answers asks inside.
func answers(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan), list []question) []string {
	t.Helper()
	w := New(t)
	p := w.Plan(w.Bin + "/probe")
	text, err := json.Marshal(list)
	check(t, err)
	p.Environment = append(p.Environment, plan.EnvVar{Name: variableAsk, Value: string(text)})
	adapt(p)
	out, exit := inside(t, b, p)
	var got []string
	for line := range strings.Lines(out) {
		var n int
		var answer string
		if _, err := fmt.Sscanf(line, "%d %q\n", &n, &answer); err != nil || n != len(got) {
			t.Fatalf("printed %q: %v", out, err)
		}
		got = append(got, answer)
	}
	if len(got) != len(list) || exit.Status() != 0 {
		t.Fatalf("status %d, %d answers to %d questions: %s", exit.Status(), len(got), len(list), out)
	}
	return got
}
