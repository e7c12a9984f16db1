// Package gateway answers for the network of the inside: it accepts on the sockets
// that a boundary opened there, asks package decide about each name and each
// connection, and carries what is allowed to the outside.
//
//	inside                                      here
//	------                                      ----
//	asks for a name -------------> DNS          an address that stands for that name, or NXDOMAIN
//	connects to any address -----> TCP          which name is it for? judge, dial, compare SNI or Host
//	uses a proxy ----------------> HTTP, SOCKS  the same with the name that it says
//
// The name that was asked for is the one authority: it decides, it is what is
// resolved and dialled, and what a program says later (SNI, Host) has to be equal to
// it. No name that is not allowed is ever asked for outside. Each address is judged at
// the moment it is dialled. Nothing is carried before the fact of it is recorded; a
// record that fails ends the connection.
//
// Where a verdict wants it (Look), each HTTP request is judged too, and TLS is ended
// here for that, with a certificate of the session's authority; inspect.go has the
// picture. Anything else within a tunnel, and a protocol that is not known, is carried
// as it is: what is asked of an allowed host there can't be told.
package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/gateway/credential"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

const (
	// maxConns are served at once, over all listeners; more are reset. There are fewer
	// if the limit of open files is low: a connection takes up to six (itself, the one
	// to the outside, two pipes of splice(2)), and the rest of the program needs some.
	maxConns   = 4096
	fdsPerConn = 8
	// maxHead bounds a ClientHello and the head of an HTTP request or response.
	maxHead = 64 << 10
	// smallHead is what each connection may send of these without more ado; of larger
	// ones there are no more than largeHeads in memory at once.
	smallHead  = 8 << 10
	largeHeads = 64
	// largeLists of pushes, of which each can have maxPush, or bodies that have to be
	// held (maxHeld) are in memory at once.
	largeLists = 16
	// maxEnded clients whose TLS is ended here are served at once: each takes about
	// 100 KiB, for two connections with a record of 16 KiB each way.
	maxEnded = 1024
	// maxUnread of what a client goes on to send is thrown away when it has been answered.
	maxUnread = 8 << 20
	// headTime is how long a client may take for what the decision needs.
	headTime = 10 * time.Second
	// idleTime is how long an HTTP connection may wait for its next request.
	idleTime = 2 * time.Minute
	// dialTime bounds resolving and connecting together.
	dialTime = 30 * time.Second
)

// Config is what a gateway works with. Rules, Destination and Record are needed.
type Config struct {
	Rules *decide.Rules
	// Sockets are owned by the gateway from New on, also if New fails.
	Sockets boundary.Sockets
	// Destination says what an accepted, redirected connection was for.
	Destination func(syscall.RawConn) (netip.AddrPort, error)
	// Resolve returns the addresses of an allowed name. Nil asks net.DefaultResolver,
	// without the host's search domains.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Dial connects to an address, "192.0.2.1:443", with d, whose ControlContext is
	// the judgement and has to be called. Nil is d.DialContext for TCP.
	Dial func(ctx context.Context, d *net.Dialer, address string) (net.Conn, error)
	// Own says whether an address is one of this machine. Nil asks the kernel each
	// time; when that fails, every address is taken for one.
	Own func(netip.Addr) bool
	// Ask has a person answer, and returns when that is done or ctx is; it is called
	// from many goroutines. Nil: nobody is there, and what would be asked is refused.
	Ask func(ctx context.Context, w Wanted) Reply
	// Inspect opens TLS where a verdict says so (Look). Nil: such TLS is refused.
	Inspect *Inspection
	// Credentials are put into the requests that are judged. Nil: there are none.
	Credentials *credential.Set
	// Upstream are proxies through which the outside is reached. Nil: there are none.
	Upstream *Upstream
	// Budgets bound what the rules allow.
	Budgets []plan.Budget
	// Record stores a fact. It is called from many goroutines, before the bytes
	// that the fact is about flow; an error means that they never do.
	Record func(Fact) error
}

// Kind is what a fact tells.
type Kind string

const (
	// Decided: a name was asked for, or a connection or request wanted. It comes
	// before anything about it leaves the machine. A connection that was allowed has
	// a second, negative one if what it said later did not fit (Verdict.Code).
	Decided Kind = "decided"
	// Opened: an allowed connection has been made to Actual. No payload has flowed.
	Opened Kind = "opened"
	// Ended: an allowed connection is over, or could not be made (Err).
	Ended Kind = "ended"
	// Put: into a request that may be made, Credentials are put before it leaves.
	Put Kind = "put"
)

// Fact is one decision, or a step in the life of an allowed connection.
type Fact struct {
	Kind Kind
	Via  string // "dns", "redirect", "http-proxy", "socks5"
	// Conn joins the facts of one accepted connection; 0 for DNS.
	Conn uint64
	// Name is the canonical name that was wanted, or, where it is none, its quoted
	// beginning. Empty if an address was wanted: Dest.
	Name string
	Dest netip.Addr
	Port uint16 // 0 for DNS
	// Method and Path are of an HTTP request that was decided on, as they were sent, the
	// path up to maxPath; never the query, which may be anything.
	Method, Path string
	// Verdict is set in Decided. Beside the codes of package decide there are
	// "bad-request" (not understood, so not carried), "limit" (too many at once),
	// "credential" (a placeholder where it may not go, or its value can't be had),
	// "tls-refused" (the program did not take the session's certificate), "budget" (it
	// would cross one), and those of what a person was asked about.
	Verdict decide.Verdict
	Actual  netip.AddrPort // Opened, and Ended if it was opened: what was dialled
	// Proxy is the one upstream that Actual is of; it has found where Name leads.
	Proxy string
	// BytesOut went to the outside, BytesIn came from there.
	BytesOut, BytesIn int64
	Duration          time.Duration // Ended: since it was wanted
	Err               string        // Ended: why it could not be made, or used
	// Credentials are the names of what was Put.
	Credentials []string
}

// Codes of verdicts that are the gateway's own.
const (
	badRequest = "bad-request"
	tooMany    = "limit"
	tlsRefused = "tls-refused"
)

const (
	viaDNS      = "dns"
	viaRedirect = "redirect"
	viaHTTP     = "http-proxy"
	viaSOCKS    = "socks5"
)

// Gateway serves the sockets of one boundary.
type Gateway struct {
	cfg     Config
	rules   atomic.Pointer[decide.Rules] // those that hold now
	names   *names
	max     int           // clients
	large   chan struct{} // a value for each large head in memory
	lists   chan struct{} // a value for each large list of a push in memory
	ended   chan struct{} // a value for each client whose TLS is ended here
	waiting waiting
	// spending is what budgets have counted.
	spending *spending

	tcp, http, socks, dnsTCP []net.Listener
	dns                      []net.PacketConn

	ctx    context.Context // ends with Close, so that dials end
	cancel context.CancelFunc
	ids    atomic.Uint64

	mu      sync.Mutex
	conns   map[net.Conn]struct{} // everything that Close has to close
	clients int
	serving bool
	closed  bool
	wg      sync.WaitGroup
}

// New takes the sockets over. Nothing is answered before Serve.
func New(cfg Config) (*Gateway, error) {
	g := &Gateway{cfg: cfg, names: newNames(maxNames), max: maxConns, large: make(chan struct{}, largeHeads), lists: make(chan struct{}, largeLists), ended: make(chan struct{}, maxEnded), conns: map[net.Conn]struct{}{}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		g.max = int(min(files.Cur/fdsPerConn, maxConns))
	}
	g.rules.Store(cfg.Rules)
	g.waiting = newWaiting(g.max)
	err := g.adopt()
	if err == nil {
		g.spending, err = newSpending(cfg.Budgets)
	}
	switch {
	case err != nil:
	case cfg.Rules == nil || cfg.Destination == nil || cfg.Record == nil:
		err = errors.New("gateway: no rules, no way to know destinations or no record")
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if cfg.Resolve == nil {
		g.cfg.Resolve = (&answers{ask: resolve}).resolve
	}
	if cfg.Dial == nil {
		g.cfg.Dial = func(ctx context.Context, d *net.Dialer, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if cfg.Own == nil {
		g.cfg.Own = own
	}
	return g, nil
}

// adopt makes listeners of the files, and closes the files in any case.
func (g *Gateway) adopt() error {
	var errs []error
	listeners := func(files []*os.File) []net.Listener {
		var out []net.Listener
		for _, f := range files {
			l, err := net.FileListener(f)
			errs = append(errs, err, f.Close())
			if err == nil {
				out = append(out, l)
			}
		}
		return out
	}
	s := g.cfg.Sockets
	g.tcp, g.http, g.socks, g.dnsTCP = listeners(s.TCP), listeners(s.HTTP), listeners(s.SOCKS), listeners(s.DNSTCP)
	for _, f := range s.DNS {
		p, err := net.FilePacketConn(f)
		errs = append(errs, err, f.Close())
		if err == nil {
			g.dns = append(g.dns, p)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("gateway: take over a socket of the boundary: %w", err)
	}
	return nil
}

// Serve starts to answer and returns at once. It does nothing after Close.
func (g *Gateway) Serve() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.serving {
		return
	}
	g.serving = true
	for _, p := range g.dns {
		g.wg.Go(func() { g.packets(p) })
	}
	for _, way := range []struct {
		via       string
		listeners []net.Listener
		handle    func(*client)
	}{
		{viaDNS, g.dnsTCP, g.serveDNS},
		{viaRedirect, g.tcp, g.serveRedirect},
		{viaHTTP, g.http, func(c *client) { g.serveHTTP(c, nil) }},
		{viaSOCKS, g.socks, g.serveSOCKS},
	} {
		for _, l := range way.listeners {
			g.wg.Go(func() { g.accept(l, way.via, way.handle) })
		}
	}
}

// Close ends every connection and returns when nothing of the gateway runs any
// more. It may be called again.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	for c := range g.conns {
		abort(c)
	}
	g.mu.Unlock()
	g.cancel()
	for _, list := range [][]net.Listener{g.tcp, g.http, g.socks, g.dnsTCP} {
		for _, l := range list {
			l.Close()
		}
	}
	for _, p := range g.dns {
		p.Close()
	}
	g.wg.Wait()
	return nil
}

// client is one accepted connection.
type client struct {
	tcp   *net.TCPConn
	conn  stream        // what is spoken over: tcp, or TLS on it that is ended here
	r     *bufio.Reader // of conn
	via   string
	id    uint64
	start time.Time
	room  room // of what it sends
	// secure: conn is TLS, so what is carried out goes in TLS too.
	secure bool
	// What a person has allowed for once: this connection, and the request that it
	// makes now.
	once, onceNow []plan.NetRule
}

// stream is a connection of which one way can end first.
type stream interface {
	net.Conn
	CloseWrite() error
}

// room is the leave to hold a large head.
type room struct {
	slots chan struct{}
	held  bool
}

var errNoRoom = fmt.Errorf("more than %d bytes before the decision, while %d others do the same; try again", smallHead, largeHeads)

// take says whether there is room, and holds it until free.
func (r *room) take() bool {
	if !r.held {
		select {
		case r.slots <- struct{}{}:
			r.held = true
		default:
		}
	}
	return r.held
}

func (r *room) free() {
	if r.held {
		<-r.slots
		r.held = false
	}
}

func (g *Gateway) accept(l net.Listener, via string, handle func(*client)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			// Out of descriptors, or closed.
			select {
			case <-g.ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			conn.Close()
			continue
		}
		c := &client{tcp: tcp, conn: tcp, r: bufio.NewReader(tcp), via: via, id: g.ids.Add(1), start: time.Now(), room: room{slots: g.large}}
		if !g.admit(tcp) {
			_ = g.cfg.Record(Fact{Kind: Decided, Via: via, Conn: c.id, Verdict: decide.Verdict{Code: tooMany,
				Reason: fmt.Sprintf("more than %d connections at once; close some", g.max)}})
			abort(tcp)
			continue
		}
		g.wg.Go(func() {
			handle(c)
			c.room.free()
			g.mu.Lock()
			g.clients--
			delete(g.conns, tcp)
			g.mu.Unlock()
			tcp.Close()
		})
	}
}

// admit counts a client, unless there are too many.
func (g *Gateway) admit(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.clients >= g.max {
		return false
	}
	g.clients++
	g.conns[c] = struct{}{}
	return true
}

// track has Close close a connection to the outside. It is false after Close.
func (g *Gateway) track(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.conns[c] = struct{}{}
	}
	return !g.closed
}

func (g *Gateway) untrack(c net.Conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
}

// abort closes so that the other side sees a reset: the answer of a network that
// does not want it, where there is no protocol to say more in. Within TLS, too, it is
// an end that can't be taken for the end of what was said.
func abort(c net.Conn) {
	if within, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = within.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// part closes after an answer that the client shall read: with bytes of it unread,
// a plain close would be a reset that may overtake the answer.
func part(c *client) {
	_ = c.tcp.SetReadDeadline(time.Now().Add(2 * time.Second))
	if c.secure {
		_ = c.conn.CloseWrite() // TLS has its own sign of the end
	}
	if c.tcp.CloseWrite() == nil {
		buf := make([]byte, 4096)
		for total := 0; total < maxUnread; {
			n, err := c.tcp.Read(buf)
			if err != nil {
				break
			}
			total += n
		}
	}
	c.tcp.Close()
}
