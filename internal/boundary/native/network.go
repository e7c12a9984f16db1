package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/plan"
)

// network is the launcher's part of a network with a gateway: the sockets come from
// the child one by one, and go on together if the kernel has agreed to everything.
type network struct {
	requests  map[byte]netns.Request
	last      byte // tag of the last message
	ports     int  // listeners for connections that are not turned; -1: they are
	sockets   boundary.Sockets
	confirmed map[byte]bool
	refused   error // the first
	// whole has one value when the child has sent all, or will send no more.
	whole chan error
	given bool // the sockets have another owner
}

// networkOf returns the calls for the network of a plan, and nil for the second if it
// has no gateway.
func networkOf(p *plan.Plan) ([]call.Call, *network, error) {
	list := netns.LoopbackUp()
	switch n := p.Network; {
	case n.Mode == "loopback" && n.Mechanism == "":
		return list, nil, nil
	case n.Mode == "gateway" && n.Mechanism == "nft-redirect":
		return answered(list, netns.Gateway(plan.ProxyHTTPPort, plan.ProxySOCKSPort), -1)
	case n.Mode == "gateway" && n.Mechanism == "any-ip" && len(n.Ports) > 0:
		ports := make([]uint16, len(n.Ports))
		for i, p := range n.Ports {
			if p < 1 || p > 65535 {
				return nil, nil, fmt.Errorf("plan: %d is no port", p)
			}
			ports[i] = uint16(p)
		}
		return answered(list, netns.AnyIP(ports, plan.ProxyHTTPPort, plan.ProxySOCKSPort), len(ports))
	case n.Mode == "gateway" && n.Mechanism == "proxy":
		return answered(list, netns.Proxies(plan.ProxyHTTPPort, plan.ProxySOCKSPort), 0)
	default:
		return nil, nil, fmt.Errorf("plan: the native boundary has no network %q by %q", n.Mode, n.Mechanism)
	}
}

// answered are the calls of a setup behind others, and the launcher's part of it.
func answered(list []call.Call, s netns.Setup, ports int) ([]call.Call, *network, error) {
	return append(list, s.Calls...), &network{requests: s.Requests, last: s.Last, ports: ports, confirmed: map[byte]bool{}, whole: make(chan error, 1)}, nil
}

// take is for each message of the child; mine says that it was about the network.
// Only receive's goroutine calls it. It goes on after a refusal, so that the child
// does not fail at something else meanwhile.
func (n *network) take(tag byte, fds []int) (mine bool) {
	if n == nil {
		return false
	}
	var to *[]*os.File
	switch tag {
	case netns.TCP:
		to = &n.sockets.TCP
	case netns.DNS:
		to = &n.sockets.DNS
	case netns.DNSTCP:
		to = &n.sockets.DNSTCP
	case netns.HTTP:
		to = &n.sockets.HTTP
	case netns.SOCKS:
		to = &n.sockets.SOCKS
	default:
		r, ok := n.requests[tag]
		if !ok {
			return false
		}
		for _, fd := range fds {
			if err := r.Confirm(fd); err != nil && n.refused == nil {
				n.refused = err
			}
			syscall.Close(fd)
		}
		n.confirmed[tag] = true
	}
	for _, fd := range fds {
		if to != nil {
			*to = append(*to, os.NewFile(uintptr(fd), "gateway"))
		}
	}
	if tag == n.last {
		n.end(n.verdict())
	}
	return true
}

// verdict is nil if the network is as it was written down: for IPv4, and for IPv6
// either all of it or nothing.
func (n *network) verdict() error {
	if n.refused != nil {
		return n.refused
	}
	s := n.sockets
	if n.ports >= 0 {
		for _, list := range [][]*os.File{s.DNS, s.DNSTCP, s.HTTP, s.SOCKS} {
			if len(list) != 1 {
				return errNotAll
			}
		}
		if len(s.TCP) != n.ports || n.ports > 0 != n.confirmed[netns.Route4] {
			return errNotAll
		}
		return nil
	}
	families := len(s.TCP)
	for _, list := range [][]*os.File{s.TCP, s.DNS, s.DNSTCP, s.HTTP, s.SOCKS} {
		if len(list) != families {
			families = 0
		}
	}
	want := 2 * families // a route and rules for each
	if families < 1 || families > 2 || len(n.confirmed) != want || !n.confirmed[netns.Route4] || !n.confirmed[netns.Rules4] ||
		families == 2 && !(n.confirmed[netns.Route6] && n.confirmed[netns.Rules6]) {
		return errNotAll
	}
	return nil
}

var errNotAll = errors.New("network: the boundary did not send all of its sockets")

// end says that no more comes. Only the first word counts.
func (n *network) end(err error) {
	if n == nil {
		return
	}
	select {
	case n.whole <- err:
	default:
	}
}

// give hands the sockets over when all are there.
func (n *network) give(ctx context.Context, to func(boundary.Sockets) error) error {
	if n == nil {
		return nil
	}
	select {
	case err := <-n.whole:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("network: the boundary did not send all of its sockets: %w", ctx.Err())
	}
	n.given = true
	return to(n.sockets)
}

// close closes what nobody else owns; receive must be over.
func (n *network) close() {
	if n == nil || n.given {
		return
	}
	s := &n.sockets
	for _, list := range []*[]*os.File{&s.TCP, &s.DNS, &s.DNSTCP, &s.HTTP, &s.SOCKS} {
		for _, f := range *list {
			f.Close()
		}
		*list = nil
	}
}
