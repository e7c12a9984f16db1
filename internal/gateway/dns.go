package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cofferdam/internal/gateway/decide"
)

const (
	// dnsTTL in seconds: the answer holds for the session, but no longer.
	dnsTTL = 5
	// maxQuestion is more than any question of one name with its options.
	maxQuestion = 4096
)

// Types that dnsmessage has no name for.
const (
	typeIXFR dnsmessage.Type = 251
	typeANY  dnsmessage.Type = 255
)

// packets answers the questions that come to a UDP socket, until it is closed.
func (g *Gateway) packets(p net.PacketConn) {
	buf := make([]byte, maxQuestion+1)
	for {
		n, from, err := p.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // as of a peer that is gone (ICMP)
			select {
			case <-g.ctx.Done():
				return
			case <-time.After(time.Millisecond):
			}
			continue
		case n > maxQuestion:
			continue
		}
		if answer := g.answer(buf[:n]); answer != nil {
			_, _ = p.WriteTo(answer, from)
		}
	}
}

// serveDNS answers the questions of one TCP connection: each has its length before
// it (RFC 1035, 4.2.2).
func (g *Gateway) serveDNS(c *client) {
	buf := make([]byte, maxQuestion)
	for range 1000 {
		_ = c.tcp.SetDeadline(time.Now().Add(headTime))
		var size [2]byte
		if _, err := io.ReadFull(c.r, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > len(buf) {
			return
		}
		if _, err := io.ReadFull(c.r, buf[:n]); err != nil {
			return
		}
		answer := g.answer(buf[:n])
		if answer == nil {
			return
		}
		binary.BigEndian.PutUint16(size[:], uint16(len(answer)))
		if _, err := c.tcp.Write(append(size[:], answer...)); err != nil {
			return
		}
	}
}

// answer makes the response to a message. It is nil for what is not a question at
// all. It never asks anybody else.
func (g *Gateway) answer(msg []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	if h.OpCode != 0 {
		return response(reply, dnsmessage.RCodeNotImplemented, nil, false, netip.Addr{})
	}
	q, err := p.Question()
	if err != nil {
		return response(reply, dnsmessage.RCodeFormatError, nil, false, netip.Addr{})
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return response(reply, dnsmessage.RCodeFormatError, nil, false, netip.Addr{})
	}
	code, a := g.lookup(q)
	return response(reply, code, &q, edns(&p), a)
}

// edns says whether the question has an OPT record (RFC 6891), so that the answer
// needs one. What can't be parsed has none.
func edns(p *dnsmessage.Parser) bool {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return false
	}
	for range 16 {
		h, err := p.AdditionalHeader()
		if err != nil {
			return false
		}
		if h.Type == dnsmessage.TypeOPT {
			return true
		}
		if p.SkipAdditional() != nil {
			return false
		}
	}
	return false
}

// lookup decides on a question. The address is valid if there is one to tell.
func (g *Gateway) lookup(q dnsmessage.Question) (dnsmessage.RCode, netip.Addr) {
	none := netip.Addr{}
	if q.Class != dnsmessage.ClassINET || q.Type >= typeIXFR && q.Type <= typeANY {
		return dnsmessage.RCodeRefused, none // other classes; transfers and ANY
	}
	record := func(name string, v decide.Verdict) bool {
		return g.cfg.Record(Fact{Kind: Decided, Via: viaDNS, Name: name, Verdict: v}) == nil
	}
	name, err := decide.Canonical(q.Name.String())
	if err != nil {
		v := decide.Verdict{Code: decide.BadName, Reason: err.Error()}
		if !record(quoted(q.Name.String()), v) {
			return dnsmessage.RCodeServerFailure, none
		}
		return dnsmessage.RCodeNameError, none
	}
	// The inside's own loopback, whatever the rules say (RFC 6761, 6.3).
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		switch q.Type {
		case dnsmessage.TypeA:
			return dnsmessage.RCodeSuccess, netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case dnsmessage.TypeAAAA:
			return dnsmessage.RCodeSuccess, netip.IPv6Loopback()
		}
		return dnsmessage.RCodeSuccess, none
	}
	v := g.rules.Load().Name(name)
	if !v.Allow && !v.Ask { // what a person is asked about is the connection
		if !record(name, v) {
			return dnsmessage.RCodeServerFailure, none
		}
		return dnsmessage.RCodeNameError, none
	}
	if q.Type != dnsmessage.TypeA {
		// The name exists and has no such record: no IPv6 address, which would need a
		// second pool, and no HTTPS record, whose keys would hide the SNI.
		return dnsmessage.RCodeSuccess, none
	}
	a, ok := g.names.address(name)
	if !ok {
		v = decide.Verdict{Code: tooMany, Reason: fmt.Sprintf("more than %d names in one session", maxNames)}
	}
	if !record(name, v) || !ok {
		return dnsmessage.RCodeServerFailure, none
	}
	return dnsmessage.RCodeSuccess, a
}

// response writes a message down; nil if q can't be written.
func response(h dnsmessage.Header, code dnsmessage.RCode, q *dnsmessage.Question, opt bool, a netip.Addr) []byte {
	h.RCode = code
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), h)
	b.EnableCompression()
	var errs []error
	if q != nil {
		errs = append(errs, b.StartQuestions(), b.Question(*q))
	}
	errs = append(errs, b.StartAnswers())
	if a.IsValid() {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: dnsTTL}
		if a.Is4() {
			errs = append(errs, b.AResource(rh, dnsmessage.AResource{A: a.As4()}))
		} else {
			errs = append(errs, b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	if opt {
		var rh dnsmessage.ResourceHeader
		errs = append(errs, rh.SetEDNS0(maxQuestion, code, false), b.StartAdditionals(), b.OPTResource(rh, dnsmessage.OPTResource{}))
	}
	msg, err := b.Finish()
	if errors.Join(append(errs, err)...) != nil {
		return nil
	}
	return msg
}

// quoted makes what is no name fit to be shown and stored.
func quoted(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strconv.QuoteToASCII(s)
}
