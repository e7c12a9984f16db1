package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// ack is the kernel's answer to one message.
func ack(seq uint32, code int32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+4+unix.SizeofNlMsghdr)
	b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_ERROR)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(code))
	return append(b, make([]byte, unix.SizeofNlMsghdr)...)
}

// needed are the sequence numbers of a request that have to be acknowledged.
func needed(r Request) (seqs []uint32) {
	for i, what := range r.acks {
		if what != "" {
			seqs = append(seqs, uint32(i+1))
		}
	}
	return seqs
}

func TestAnswers(t *testing.T) {
	r := Redirect(unix.AF_INET, 1)
	all := needed(r)
	if len(all) != 6 || all[0] != 2 {
		t.Fatalf("to be acknowledged: %v", all)
	}
	join := func(seqs []uint32, more ...[]byte) (b []byte) {
		for _, s := range seqs {
			b = append(b, ack(s, 0)...)
		}
		return append(b, bytes.Join(more, nil)...)
	}
	reply := func(kind uint16, seq uint32) []byte {
		b := ack(seq, 0)
		binary.NativeEndian.PutUint16(b[4:], kind)
		return b
	}
	chain := uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN)
	long := ack(2, 0)
	binary.NativeEndian.PutUint32(long, 4096)
	for name, tt := range map[string]struct {
		answer []byte
		ok     bool
	}{
		"all":                      {join(all), true},
		"all, and the chain":       {join(all, reply(chain, 8)), true},
		"none":                     {nil, false},
		"one missing":              {join(all[:5]), false},
		"the first missing":        {join(all[1:]), false},
		"one twice, one missing":   {join(append(slices.Clone(all[:5]), 3)), false},
		"one refused":              {join(all, ack(4, -int32(unix.ENOENT))), false},
		"the batch refused":        {join(all, ack(1, -int32(unix.ENOMEM))), false},
		"a positive error":         {join(all, ack(4, 5)), false},
		"a number that was not":    {join(all, ack(9, 0)), false},
		"number 0":                 {join(all, ack(0, 0)), false},
		"another kind":             {join(all, reply(unix.NLMSG_DONE, 3)), false},
		"a chain nobody asked for": {join(all, reply(chain, 3)), false},
		"cut in the header":        {join(all, ack(2, 0)[:10]), false},
		"cut in the body":          {join(all, ack(2, 0)[:18]), false},
		"longer than it is":        {join(all, long), false},
		"the chain without an ack": {join(all[:5], reply(chain, 8)), false},
		"zeroes":                   {join(all, make([]byte, 16)), false},
	} {
		a := newAnswers(r)
		err := a.read(tt.answer)
		if err == nil {
			err = a.verdict()
		}
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever comes, yes means that each message was acknowledged with no error.
func FuzzAnswers(f *testing.F) {
	r := Redirect(unix.AF_INET6, 1012)
	var good []byte
	for _, s := range needed(r) {
		good = append(good, ack(s, 0)...)
	}
	f.Add(good)
	f.Add(good[:len(good)-36])
	f.Add(append(slices.Clone(good), ack(3, -2)...))
	f.Add(ack(0, 0))
	f.Add([]byte{0, 0, 0, 0, 2, 0})
	f.Add(append(slices.Clone(good), 17, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := newAnswers(r)
		if a.read(b) != nil || a.verdict() != nil {
			return
		}
		for _, s := range needed(r) {
			// The first 20 bytes say: a header, an answer to this message, no error.
			head := func(i int) []byte { return b[i : i+20] }
			found := false
			for i := 0; i+20 <= len(b) && !found; i += 4 {
				h := head(i)
				found = binary.NativeEndian.Uint16(h[4:]) == unix.NLMSG_ERROR && binary.NativeEndian.Uint32(h[8:]) == s && binary.NativeEndian.Uint32(h[16:]) == 0
			}
			if !found {
				t.Errorf("message %d counts as acknowledged by %x", s, b)
			}
		}
	})
}

// The messages and attributes of a request lie within each other without a gap: what
// the kernel would skip or refuse.
func TestRequestsAreWellFormed(t *testing.T) {
	// attributes walks over b to the depth where the nested flag ends.
	var attributes func(b []byte) int
	attributes = func(b []byte) (n int) {
		for len(b) > 0 {
			if len(b) < 4 {
				t.Fatalf("%d bytes are left over", len(b))
			}
			size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if size < 4 || size > len(b) {
				t.Fatalf("an attribute of %d bytes in %d", size, len(b))
			}
			n++
			if kind&unix.NLA_F_NESTED != 0 {
				n += attributes(b[4:size])
			}
			b = b[min(len(b), (size+3)&^3):]
		}
		return n
	}
	for _, r := range []Request{Route(unix.AF_INET), Route(unix.AF_INET6), Redirect(unix.AF_INET, 1), Redirect(unix.AF_INET6, 65535)} {
		head, messages := 4, 0
		if r.Stage == "network" {
			head = unix.SizeofRtMsg
		}
		for b := slices.Concat(r.Bytes, r.Check); len(b) > 0; messages++ {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr+head || size > len(b) || size%4 != 0 {
				t.Fatalf("%v: a message of %d bytes in %d", r, size, len(b))
			}
			if seq := binary.NativeEndian.Uint32(b[8:]); int(seq) != messages+1 {
				t.Errorf("%v: message %d has number %d", r, messages, seq)
			}
			wanted := binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_ACK != 0
			if wanted != (r.acks[messages] != "") {
				t.Errorf("%v: message %d asks for an ack: %v, and one is awaited: %v", r, messages, wanted, !wanted)
			}
			if attributes(b[unix.SizeofNlMsghdr+head:size]) == 0 && wanted {
				t.Errorf("%v: message %d is empty", r, messages)
			}
			b = b[size:]
		}
		if messages != len(r.acks) {
			t.Errorf("%v: %d messages, %d known", r, messages, len(r.acks))
		}
	}
}

// The real kernel: a request without the right to make it, no request at all, and an
// answer by somebody else.
func TestConfirm(t *testing.T) {
	open := func() int {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	r := Route(unix.AF_INET)
	expect := func(name string, err error, want syscall.Errno) {
		t.Helper()
		if refused, ok := errors.AsType[*Refused](err); !ok || refused.Errno != want || refused.Stage != "network" {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	expect("silence", r.Confirm(open()), unix.ENOMSG)
	fd := open()
	wrong := slices.Clone(r.Bytes)
	wrong[unix.SizeofNlMsghdr] = 99 // an address family that nobody has: EOPNOTSUPP, or EPERM first
	if err := unix.Sendto(fd, wrong, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if err := r.Confirm(fd); err == nil || !strings.Contains(err.Error(), "add the route: ") {
		t.Errorf("a refused request: %v", err)
	}
	// Processes may send to each other by this protocol.
	user := func() (fd int, port uint32) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_USERSOCK)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			t.Fatal(err)
		}
		at, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		return fd, at.(*unix.SockaddrNetlink).Pid
	}
	here, port := user()
	there, _ := user()
	if err := unix.Sendto(there, ack(1, 0), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
		t.Fatal(err)
	}
	expect("not the kernel", r.Confirm(here), unix.EBADMSG)
}

// A connection that no rule has turned has no other destination.
func TestDestinationOfAPlainConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, err := accepted.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if to, err := Destination(raw); err == nil || to.IsValid() {
		t.Errorf("%v, %v", to, err)
	}
	u, err := net.ListenPacket("unixgram", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if raw, err = u.(*net.UnixConn).SyscallConn(); err != nil {
		t.Fatal(err)
	}
	if to, err := Destination(raw); err == nil || to.IsValid() {
		t.Errorf("a unix socket: %v, %v", to, err)
	}
}

// What may fail without a word is IPv6 being absent, and nothing else.
func TestOnlyIPv6IsOptional(t *testing.T) {
	list := Gateway(1008, 1010).Calls
	for i, c := range list {
		if c.Flags&call.Optional == 0 {
			continue
		}
		if !strings.Contains(c.Object, "[::1]:1012") || c.NR != unix.SYS_SOCKET && c.NR != unix.SYS_BIND {
			t.Errorf("optional: %v", c)
		}
		// After it comes the route of IPv4.
		next := list[i+1+int(c.Skip)]
		if next.NR != unix.SYS_SOCKET || next.Args[0] != unix.AF_NETLINK || next.Verb != Route(unix.AF_INET).Op {
			t.Errorf("%v goes on with %v", c, next)
		}
	}
}
