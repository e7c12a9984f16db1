package native

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

var gateway = plan.Network{Mode: "gateway", Mechanism: "nft-redirect"}

// drop is a gateway that serves nothing.
func drop(s boundary.Sockets) error {
	for _, list := range [][]*os.File{s.TCP, s.DNS, s.DNSTCP, s.HTTP, s.SOCKS} {
		for _, f := range list {
			f.Close()
		}
	}
	return nil
}

// nftables skips the test where the kernel has none, and only then.
func nftables(t *testing.T) {
	t.Helper()
	p := boundarytest.New(t).Plan("/bin/true")
	p.Network = gateway
	r, err := Boundary{}.Start(t.Context(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Gateway: drop}, nil)
	if err == nil {
		_, err = r.Wait()
	}
	if e, ok := errors.AsType[*boundary.SetupError](err); ok && e.Stage == "nftables" && slices.Contains([]syscall.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT}, e.Errno) {
		testenv.Skip(t, testenv.Nftables, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestGateway(t *testing.T) {
	nftables(t)
	boundarytest.RunGateway(t, Boundary{}, func(*plan.Plan) {})
}

// Without nftables: none of this asks for it.
func TestGatewayFallbacks(t *testing.T) {
	boundarytest.RunFallbacks(t, Boundary{}, func(*plan.Plan) {})
}

// Unless all of it is there, nothing runs.
func TestFallbackOrNothing(t *testing.T) {
	anyIP := plan.Network{Mode: "gateway", Mechanism: "any-ip", Ports: []int{80, 443}}
	for name, c := range map[string]struct {
		network plan.Network
		change  func([]call.Call, *network) []call.Call
		says    string
	}{
		"no route": {anyIP, func(list []call.Call, n *network) []call.Call {
			return slices.DeleteFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_SENDTO })
		}, "no answer of the kernel"},
		"a port of ours":    {plan.Network{Mode: "gateway", Mechanism: "any-ip", Ports: []int{plan.ProxyHTTPPort}}, nil, "address already in use"},
		"one listener less": {anyIP, func(list []call.Call, n *network) []call.Call { n.ports++; return list }, "did not send all"},
	} {
		t.Run(name, func(t *testing.T) {
			p := boundarytest.New(t).Plan("/bin/true")
			p.Network = c.network
			if c.change == nil {
				c.change = func(list []call.Call, _ *network) []call.Call { return list }
			}
			given := false
			_, err := spoiled{change: c.change}.Start(t.Context(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Gateway: func(s boundary.Sockets) error {
				given = true
				return drop(s)
			}}, nil)
			if err == nil || !strings.Contains(err.Error(), c.says) || given {
				t.Errorf("%v, given %v", err, given)
			}
		})
	}
	for _, n := range []plan.Network{{Mode: "gateway", Mechanism: "any-ip"}, {Mode: "gateway", Mechanism: "any-ip", Ports: []int{0}}, {Mode: "gateway", Mechanism: "any-ip", Ports: []int{70000}}, {Mode: "gateway", Mechanism: "x"}} {
		if _, _, err := networkOf(&plan.Plan{Network: n}); err == nil {
			t.Errorf("%+v is taken", n)
		}
	}
}

// spoiled is the native boundary with other calls and requests for its network.
type spoiled struct {
	Boundary
	change func([]call.Call, *network) []call.Call
}

func (b spoiled) Start(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	calls, net, err := networkOf(p)
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, p, s, denied, b.change(calls, net), net)
}

// ipv6Socket is the call that opens the first socket for IPv6.
func ipv6Socket(list []call.Call) *call.Call {
	return &list[slices.IndexFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_SOCKET && c.Args[0] == unix.AF_INET6 })]
}

// A machine without IPv6 has a gateway for IPv4.
func TestGatewayWithoutIPv6(t *testing.T) {
	nftables(t)
	for name, change := range map[string]func([]call.Call, *network) []call.Call{
		"no module": func(list []call.Call, _ *network) []call.Call {
			ipv6Socket(list).Args[0] = 999 // EAFNOSUPPORT
			return list
		},
		"switched off": func(list []call.Call, _ *network) []call.Call {
			off := call.Write("network", unix.AT_FDCWD, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
			off[0] = off[0].OrSkip(1) // no IPv6 here anyway
			return append(off, list...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := boundarytest.WithGateway(spoiled{change: change})
			boundarytest.RunQuestions(t, b, func(*plan.Plan) {}, false)
		})
	}
}

// Unless the kernel has agreed to all of the network, nothing runs inside, and nobody
// gets the sockets.
func TestGatewayOrNothing(t *testing.T) {
	nftables(t)
	type change = func([]call.Call, *network) []call.Call
	// asked is the place of the call that sends the request with a tag.
	asked := func(list []call.Call, n *network, tag byte) int {
		r := n.requests[tag]
		return slices.IndexFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_SENDTO && c.Stage == r.Stage && c.Verb == r.Op })
	}
	instead := func(tag byte, r netns.Request) change {
		return func(list []call.Call, n *network) []call.Call {
			list[asked(list, n, tag)] = call.New(r.Stage, r.Op, unix.SYS_SENDTO, call.Socket, r.Bytes, len(r.Bytes), 0, 0, 0)
			return list
		}
	}
	without := func(tag byte) change {
		return func(list []call.Call, _ *network) []call.Call {
			return slices.DeleteFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_SENDMSG && c.Object == string(rune(tag)) })
		}
	}
	truncated := netns.Redirect(unix.AF_INET, netns.TCPPort)
	truncated.Bytes = truncated.Bytes[:len(truncated.Bytes)-20] // without the end of the transaction: acknowledged, and not done
	for name, tt := range map[string]struct {
		change change
		want   string
	}{
		"a route is refused": {func(list []call.Call, n *network) []call.Call {
			i := asked(list, n, netns.Route4)
			return slices.Insert(list, i-1, list[i-1], list[i]) // there is one already
		}, "network: make every IPv4 address local: add the route: file exists"},
		"rules are refused":     {instead(netns.Rules4, netns.Route(unix.AF_INET6)), "nftables: redirect IPv4 to the gateway: "},
		"rules are not carried": {instead(netns.Rules4, truncated), "read the chain back: no such file"},
		"nothing is asked": {func(list []call.Call, n *network) []call.Call {
			i := asked(list, n, netns.Rules4)
			return slices.Delete(list, i, i+2)
		}, "no answer"},
		"the chain is not read back": {func(list []call.Call, n *network) []call.Call {
			i := asked(list, n, netns.Rules4)
			return slices.Delete(list, i+1, i+2)
		}, "read the chain back: no answer"},
		"the last is missing":      {without(netns.Rules4), "network: the boundary did not send all of its sockets: context deadline"},
		"a route is missing":       {without(netns.Route4), "network: the boundary"},
		"a socket is missing":      {without(netns.SOCKS), "network: the boundary"},
		"the listener is missing":  {without(netns.TCP), "network: the boundary"},
		"a listener can't be made": {func(list []call.Call, _ *network) []call.Call { return append(list, list...) }, "listen on TCP 127.0.0.1:1012: address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			w := boundarytest.New(t)
			p := w.Plan("/bin/sh", "-c", "touch "+w.Workspace+"/ran")
			p.Network = gateway
			given := false
			s := boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Gateway: func(s boundary.Sockets) error { given = true; return drop(s) }}
			run, err := spoiled{Boundary{SetupLimit: 3 * time.Second}, tt.change}.Start(t.Context(), p, s, nil)
			if err == nil {
				_, _ = run.Wait()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if given {
				t.Error("the sockets were handed out")
			}
			if _, err := os.Stat(w.Workspace + "/ran"); err == nil {
				t.Error("the command ran")
			}
		})
	}
}

// An owner who does not want the sockets ends the start, and so does the lack of one.
func TestGatewayIsServed(t *testing.T) {
	nftables(t)
	w := boundarytest.New(t)
	p := w.Plan("/bin/sh", "-c", "touch "+w.Workspace+"/ran")
	p.Network = gateway
	s := boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	for name, serve := range map[string]func(boundary.Sockets) error{
		"nobody serves": nil,
		"not today":     func(s boundary.Sockets) error { return errors.Join(drop(s), errors.New("not today")) },
	} {
		s.Gateway = serve
		run, err := Boundary{}.Start(t.Context(), p, s, nil)
		if err == nil {
			_, _ = run.Wait()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []plan.Network{{}, {Mode: "host"}, {Mode: "gateway"}, {Mode: "gateway", Mechanism: "another"}, {Mode: "loopback", Mechanism: "nft-redirect"}} {
		p.Network = n
		if run, err := (Boundary{}).Start(t.Context(), p, s, nil); err == nil {
			_, _ = run.Wait()
			t.Errorf("%+v was carried out", n)
		}
	}
	if _, err := os.Stat(w.Workspace + "/ran"); err == nil {
		t.Error("the command ran")
	}
}

// inner puts each plan's command into a boundary that stands already.
type inner struct{ Boundary }

type guest struct {
	boundary.Running
	session boundary.Running
}

func (g guest) Wait() (boundary.Exit, error) {
	exit, err := g.Running.Wait()
	_ = g.session.Kill()
	_, werr := g.session.Wait()
	return exit, errors.Join(err, werr)
}

func (b inner) Start(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	sleep := *p
	sleep.Program, sleep.Command = "/bin/sleep", []string{"sleep", "600"}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	session, err := b.Boundary.Start(ctx, &sleep, boundary.Streams{In: null, Out: null, Err: null, Gateway: s.Gateway}, denied)
	if err != nil {
		return nil, err
	}
	files, err := session.Enter()
	if err != nil {
		return nil, err
	}
	run, err := b.Enter(ctx, p, files, s, nil)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	// The child has made the memory undumpable that it shared with us.
	return guest{run, session}, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
}

// What enters has the same network.
func TestEnteredHasTheGateway(t *testing.T) {
	nftables(t)
	boundarytest.RunGateway(t, inner{}, func(*plan.Plan) {})
}

// No descriptor of the launcher is left when the boundary and its gateway are over,
// nor after a start that failed.
func TestGatewayLeavesNoDescriptor(t *testing.T) {
	nftables(t)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	p := boundarytest.New(t).Plan("/bin/true")
	p.Network = gateway
	once := func() {
		for _, b := range []boundary.Boundary{Boundary{}, spoiled{change: func(list []call.Call, _ *network) []call.Call {
			return slices.DeleteFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_SENDTO })
		}}} {
			if run, err := b.Start(t.Context(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Gateway: drop}, nil); err == nil {
				_, _ = run.Wait()
			}
		}
	}
	once()
	before := open()
	for range 10 {
		once()
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
