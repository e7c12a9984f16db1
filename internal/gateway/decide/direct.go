package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Direct are the hosts that are not asked of an upstream proxy, as NO_PROXY lists them.
// Nil is none. They are never changed.
type Direct struct {
	all  bool
	list []direct
}

type direct struct {
	name   string // and what lies below it
	below  bool   // only that
	prefix netip.Prefix
	port   uint16 // 0: every port
}

// CompileDirect reads such a list: "example.org" is that name and all below it,
// ".example.org" and "*.example.org" only what is below, "10.0.0.0/8" and "10.1.2.3"
// addresses that are asked for as such, each with an optional ":PORT"; "*" is everything.
// The error names the first entry that is none of these; those that are right count.
func CompileDirect(list []string) (*Direct, error) {
	d := &Direct{}
	var first error
	for _, s := range list {
		if s == "*" {
			d.all = true
			continue
		}
		one, err := compileDirect(s)
		if err != nil {
			first = cmpError(first, fmt.Errorf("%s: %w", quote(s), err))
			continue
		}
		d.list = append(d.list, one)
	}
	return d, first
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func compileDirect(s string) (direct, error) {
	var d direct
	if p, err := netip.ParsePrefix(s); err == nil {
		d.prefix = p.Masked()
		return d, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		d.prefix = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		return d, nil
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 {
			return d, fmt.Errorf("no port")
		}
		rest, err := compileDirect(s[:i])
		rest.port = uint16(n)
		return rest, err
	}
	s, star := strings.CutPrefix(s, "*")
	s, dot := strings.CutPrefix(s, ".")
	if star && !dot {
		return d, fmt.Errorf(`a "*" stands for whole names`)
	}
	name, err := Canonical(s)
	if err != nil {
		return d, err
	}
	return direct{name: name, below: dot}, nil
}

// Has says whether a host is one of these. A name is compared as it is written: where it
// leads is not known.
func (d *Direct) Has(name string, a netip.Addr, port uint16) bool {
	if d == nil {
		return false
	}
	return d.all || slices.ContainsFunc(d.list, func(one direct) bool {
		switch {
		case one.port != 0 && one.port != port:
			return false
		case one.prefix.IsValid():
			return name == "" && a.IsValid() && one.prefix.Contains(a.Unmap())
		}
		return one.name == name && !one.below || strings.HasSuffix(name, "."+one.name)
	})
}
