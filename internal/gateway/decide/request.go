package decide

import "net/netip"

// Request is one HTTP request to a host that it may be made to, as the gateway has
// understood it.
type Request struct {
	Name string     // canonical; empty if an address was wanted: Addr
	Addr netip.Addr // if Name is empty
	Port uint16

	Method string
	// Path begins with "/" and is as it was sent, percent-encoding and all; Query is
	// what followed the first "?".
	Path, Query string
	// Refs are what a git push changes, once they are known.
	Refs []Ref
}

// Ref is one change that a git push asks for.
type Ref struct {
	Name   string // "refs/heads/main"
	Create bool
	Delete bool
}

// Request says whether a request may be made. It is asked for each one where the
// verdict about the connection said Look.
func (r *Rules) Request(q Request) Verdict {
	if q.Name == "" {
		return r.ConnectAddr(netip.AddrPortFrom(q.Addr, q.Port))
	}
	return r.Connect(q.Name, q.Port)
}
