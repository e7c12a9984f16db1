package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// message is netlink messages one after another (netlink(7)): each a header and a
// body, in which attributes may be nested.
type message struct {
	b     []byte
	start int // of the last message
	seq   uint32
	acks  []string // what was asked for, by sequence number, which counts from 1
}

// begin starts a message. The kernel answers one with an ack; what says what it is
// about.
func (m *message) begin(kind, flags uint16, what string) {
	m.start = len(m.b)
	m.seq++
	m.acks = append(m.acks, what)
	if what != "" {
		flags |= unix.NLM_F_ACK
	}
	m.b = binary.NativeEndian.AppendUint32(m.b, 0) // the length, see end
	m.b = binary.NativeEndian.AppendUint16(m.b, kind)
	m.b = binary.NativeEndian.AppendUint16(m.b, unix.NLM_F_REQUEST|flags)
	m.b = binary.NativeEndian.AppendUint32(m.b, m.seq)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0) // port: the kernel's own
}

func (m *message) end() {
	binary.NativeEndian.PutUint32(m.b[m.start:], uint32(len(m.b)-m.start))
}

// attribute appends one whose value is the bytes.
func (m *message) attribute(kind int, value ...byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(value)))
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(kind))
	m.b = append(m.b, value...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *message) text(kind int, s string) { m.attribute(kind, append([]byte(s), 0)...) }

// number appends one in network order, as nftables has them.
func (m *message) number(kind int, v uint32) {
	m.attribute(kind, binary.BigEndian.AppendUint32(nil, v)...)
}

// nested appends one whose value is what fill appends.
func (m *message) nested(kind int, fill func()) {
	at := len(m.b)
	m.attribute(kind | unix.NLA_F_NESTED)
	fill()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}

// Request is netlink messages that were sent, and which of them the kernel has to
// acknowledge.
type Request struct {
	// Stage and Op name it in an error: "nftables", "redirect IPv4".
	Stage, Op string
	Bytes     []byte
	// Check, if not nil, is to be sent after Bytes, on the same socket: it asks for
	// what Bytes has made.
	Check []byte
	acks  []string
}

// Refused is the answer to a request that was not carried out in full.
type Refused struct {
	Stage, Op string
	// Errno is the kernel's; ENOMSG where it did not answer.
	Errno syscall.Errno
}

func (e *Refused) Error() string { return e.Stage + ": " + e.Op + ": " + e.Errno.Error() }

// Confirm reads the answers from the netlink socket that the request was sent with.
// It returns nil only if the kernel has acknowledged each message, and *Refused
// otherwise. It does not wait: the kernel carries a request out, and queues the
// answer, before the call that sends it returns.
func (r Request) Confirm(fd int) error {
	answers := newAnswers(r)
	buf := make([]byte, 8<<10) // an answer repeats the message at most
	for {
		n, _, flags, from, err := unix.Recvmsg(fd, buf, nil, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return answers.verdict()
		case err != nil: // ENOBUFS: an answer was lost
			return &Refused{r.Stage, r.Op + ": read the answer", errno(err)}
		case n == 0, flags&unix.MSG_TRUNC != 0:
			return &Refused{r.Stage, r.Op + ": read the answer", unix.EBADMSG}
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			return &Refused{r.Stage, r.Op + ": an answer that is not the kernel's", unix.EBADMSG}
		}
		if err := answers.read(buf[:n]); err != nil {
			return &Refused{r.Stage, r.Op + ": " + err.Error(), unix.EBADMSG}
		}
	}
}

func errno(err error) syscall.Errno {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return unix.EIO
}

// answers is what has come back for one request.
type answers struct {
	request Request
	seen    []bool
	refused *Refused // the first
}

func newAnswers(r Request) *answers {
	return &answers{request: r, seen: make([]bool, len(r.acks))}
}

// read takes the messages of one datagram. An error means that it was not
// understood, which is no yes.
func (a *answers) read(b []byte) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errors.New("an answer that is too short")
		}
		size := binary.NativeEndian.Uint32(b)
		kind := binary.NativeEndian.Uint16(b[4:])
		seq := binary.NativeEndian.Uint32(b[8:])
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return fmt.Errorf("an answer of %d bytes in %d", size, len(b))
		}
		body := b[unix.SizeofNlMsghdr:size]
		if kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN && a.request.Check != nil && seq == uint32(len(a.seen)) {
			b = b[min(len(b), int(size+3)&^3):] // what Check asked for; the ack follows
			continue
		}
		if kind != unix.NLMSG_ERROR || len(body) < 4 {
			return fmt.Errorf("an answer of kind %d", kind)
		}
		if seq == 0 || uint64(seq) > uint64(len(a.seen)) {
			return fmt.Errorf("an answer to message %d of %d", seq, len(a.seen))
		}
		what := a.request.acks[seq-1]
		switch code := int32(binary.NativeEndian.Uint32(body)); {
		case code == 0:
			a.seen[seq-1] = true
		case a.refused == nil:
			op := a.request.Op
			if what != "" {
				op += ": " + what
			}
			a.refused = &Refused{a.request.Stage, op, syscall.Errno(-code)}
		}
		b = b[min(len(b), int(size+3)&^3):]
	}
	return nil
}

// verdict is nil if every message that had to be is acknowledged, and none refused.
func (a *answers) verdict() error {
	if a.refused != nil {
		return a.refused
	}
	for i, what := range a.request.acks {
		if what != "" && !a.seen[i] {
			return &Refused{a.request.Stage, a.request.Op + ": " + what + ": no answer of the kernel", unix.ENOMSG}
		}
	}
	return nil
}
