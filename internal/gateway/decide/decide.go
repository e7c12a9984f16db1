// Package decide says which connections of the inside may leave, by the rules of
// a plan. It is pure: it resolves nothing, dials nothing, and the same question
// gets the same answer. Whoever asks must ask again with the address that is
// really dialled (Dial); an answer for a name is none for an address.
//
// What no rule allows is not allowed; a denial beats every allow, wherever either
// was written; no rules at all deny everything. A *Rules is never changed, so any
// number of goroutines may ask.
package decide

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cofferdam/internal/plan"
)

// Codes of verdicts: short words that stay the same.
const (
	Allowed        = "allowed"
	NotAllowed     = "not-allowed"     // no rule allows it
	Denied         = "denied"          // a rule denies it
	SpecialAddress = "special-address" // not a public address, and no rule names it
	BadName        = "bad-name"        // no host name, or an address written as one
	Mismatch       = "mismatch"        // two sayings of where it goes differ
)

// Verdict is the answer to one question.
type Verdict struct {
	Allow bool
	// Ask: it is not allowed, but a person may allow it now.
	Ask bool
	// Look: allowed so far, and each request within has to be asked about (Request).
	// TLS has to be opened for it, and what can't be understood is not carried.
	Look bool
	// Refs: the answer depends on what a git push changes; ask again with those.
	Refs bool
	// Rule is the plan's ID (plan.NetRule.Rule) of the rule that decided, 0 if
	// none did.
	Rule int
	Code string // one of the constants above
	// Reason is one line for a person: what, which rule, what to do. It has no
	// control characters, whatever was asked.
	Reason string
}

// Rules are the rules of a plan, ready to be asked. The zero value and nil allow
// nothing.
type Rules struct {
	// By canonical name, without "*.".
	allow, allowBelow, deny, denyBelow map[string][]rule
	denyAll                            []rule
	allowPrefix, denyPrefix            []rule
}

type rule struct {
	prefix netip.Prefix // of a rule for addresses
	port   uint16       // 0: every port
	id     int
	text   string // as a person would write it
}

func (r rule) covers(port uint16) bool { return r.port == 0 || r.port == port }

// Compile makes the rules of a plan ready. The error names the first rule that
// could not be carried out as written; there are no rules then.
func Compile(list []plan.NetRule) (*Rules, error) {
	r := &Rules{
		allow: map[string][]rule{}, allowBelow: map[string][]rule{},
		deny: map[string][]rule{}, denyBelow: map[string][]rule{},
	}
	for _, n := range list {
		if err := r.add(n); err != nil {
			return nil, fmt.Errorf("network rule %s: %w", quote(n.Name+n.Prefix), err)
		}
	}
	return r, nil
}

func (r *Rules) add(n plan.NetRule) error {
	if n.Port < 0 || n.Port > 65535 {
		return fmt.Errorf("%d is not a port", n.Port)
	}
	one := rule{port: uint16(n.Port), id: n.Rule, text: n.Name + n.Prefix}
	if n.Port != 0 {
		if strings.Contains(n.Prefix, ":") {
			one.text = "[" + n.Prefix + "]"
		}
		one.text += ":" + strconv.Itoa(n.Port)
	}
	switch {
	case (n.Name == "") == (n.Prefix == ""):
		return fmt.Errorf("it needs either a name or a range of addresses")
	case n.Prefix != "":
		return r.addPrefix(n, one)
	case n.Name == "*" && n.Allow:
		return fmt.Errorf("every name can be denied, not allowed")
	case n.Name == "*":
		r.denyAll = append(r.denyAll, one)
		return nil
	}
	name, below := strings.CutPrefix(n.Name, "*.")
	canonical, err := Canonical(name)
	if err != nil {
		return err
	}
	if canonical != name {
		return fmt.Errorf("it has to be written %s", quote(canonical))
	}
	to := map[[2]bool]map[string][]rule{
		{true, false}: r.allow, {true, true}: r.allowBelow, {false, false}: r.deny, {false, true}: r.denyBelow,
	}[[2]bool{n.Allow, below}]
	to[name] = append(to[name], one)
	return nil
}

func (r *Rules) addPrefix(n plan.NetRule, one rule) error {
	p, err := netip.ParsePrefix(n.Prefix)
	if err != nil || p != p.Masked() {
		return fmt.Errorf("not a range of addresses")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return fmt.Errorf("it is wider than the IPv4 addresses in IPv6")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	one.prefix = p
	if !n.Allow {
		r.denyPrefix = append(r.denyPrefix, one)
		return nil
	}
	if b, ok := blockOf(p.Addr()); ok && b.never && p.Bits() >= b.Bits() {
		return fmt.Errorf("no rule opens %s, %s", b.Prefix, b.what)
	}
	r.allowPrefix = append(r.allowPrefix, one)
	return nil
}

// Name says whether a question for the name may be answered: whether some port of
// it may be connected to.
func (r *Rules) Name(name string) Verdict {
	s, err := Canonical(name)
	if err != nil {
		return badName(err)
	}
	first, found := rule{}, false
	var denial *Verdict
	for _, a := range r.allowing(s) {
		v, denied := r.denied(s, a.port)
		if !denied {
			first, found = a, true
			break
		}
		denial = &v
	}
	switch {
	case found:
		return allowed(s, first)
	case denial != nil:
		return *denial
	}
	if v, denied := r.denied(s, 0); denied {
		return v
	}
	return r.notAllowed(s, s)
}

// Connect says whether the inside may connect to the name at that port. Ask Dial
// before bytes flow: the name may lead anywhere.
func (r *Rules) Connect(name string, port uint16) Verdict {
	s, err := Canonical(name)
	if err != nil {
		return badName(err)
	}
	what := s + ":" + strconv.Itoa(int(port))
	if port == 0 {
		return Verdict{Code: NotAllowed, Reason: what + " is no destination: there is no port 0"}
	}
	if v, denied := r.denied(s, port); denied {
		return v
	}
	for _, a := range r.allowing(s) {
		if a.covers(port) {
			return allowed(what, a)
		}
	}
	return r.notAllowed(s, what)
}

// ConnectAddr says whether the inside may connect to an address that came without
// a name: only a rule for a range allows that, and one that holds more than a
// special-use block does not open the block. Addresses of this host itself are
// known to Dial alone: ask it too, with an empty name.
func (r *Rules) ConnectAddr(a netip.AddrPort) Verdict {
	return r.address(a, func(netip.Addr) bool { return false }, true)
}

// Dial says whether actual, which is about to be dialled, may be: for the name at
// that port, or if name is empty, for itself. own says which addresses are of this
// host; nil means that nobody knows, so each may be. A public address is as the
// name is; any other, and one of this host, needs a rule for a range besides. For
// addresses of this host and of clouds' services it has to be a rule for that one
// address.
func (r *Rules) Dial(name string, port uint16, actual netip.AddrPort, own func(netip.Addr) bool) Verdict {
	if actual.Port() != port {
		return Verdict{Code: Mismatch, Reason: fmt.Sprintf("port %d was asked for, %d would be dialled", port, actual.Port())}
	}
	if own == nil {
		own = func(netip.Addr) bool { return true }
	}
	if name == "" {
		return r.address(actual, own, true)
	}
	v := r.Connect(name, port)
	if !v.Allow {
		return v
	}
	if at := r.address(actual, own, false); !at.Allow {
		s, _ := Canonical(name)
		at.Reason = s + " leads to " + at.Reason
		return at
	}
	return v
}

// address judges an address in all its forms. Bare: it needs a rule even if it is
// public.
func (r *Rules) address(at netip.AddrPort, own func(netip.Addr) bool, bare bool) Verdict {
	a, port := at.Addr(), at.Port()
	switch {
	case !a.IsValid() || port == 0:
		return Verdict{Code: SpecialAddress, Reason: "no address"}
	case a.Zone() != "":
		return Verdict{Code: SpecialAddress, Reason: a.WithZone("").String() + " with a zone: a link-local address; no rule opens it"}
	}
	if r == nil {
		r = &Rules{}
	}
	fs := forms(a)
	what := netip.AddrPortFrom(fs[0], port).String()
	for _, f := range fs {
		for _, d := range r.denyPrefix {
			if d.covers(port) && d.prefix.Contains(f) {
				return denial(what, d)
			}
		}
	}
	for _, d := range r.denyAll {
		if bare && d.covers(port) {
			return denial(what, d)
		}
	}
	var by rule
	for i, f := range fs {
		need, why := netip.Prefix{}, ""
		if b, ok := blockOf(f); ok {
			if b.never {
				return Verdict{Code: SpecialAddress, Reason: what + ": " + b.what + "; no rule opens it"}
			}
			need, why = b.Prefix, b.what
		}
		if own(f) {
			need, why = netip.PrefixFrom(f, f.BitLen()), "an address of this machine itself"
		}
		if why == "" && (!bare || i > 0) {
			continue
		}
		a, ok := r.opening(f, port, need)
		if !ok && why != "" {
			return Verdict{Code: SpecialAddress, Reason: fmt.Sprintf("%s: %s, which needs a rule of its own; to allow it: --allow-cidr %s", what, why, suggest(f, port))}
		}
		if !ok {
			return Verdict{Code: NotAllowed, Reason: fmt.Sprintf("%s: no rule allows this address; connect by name, or to allow it: --allow-cidr %s", what, suggest(f, port))}
		}
		by = a
	}
	return allowed(what, by)
}

// opening finds a rule for the address and port that lies within need.
func (r *Rules) opening(a netip.Addr, port uint16, need netip.Prefix) (rule, bool) {
	for _, o := range r.allowPrefix {
		if o.covers(port) && o.prefix.Contains(a) && (!need.IsValid() || o.prefix.Bits() >= need.Bits()) {
			return o, true
		}
	}
	return rule{}, false
}

// allowing returns the rules that allow some port of a canonical name.
func (r *Rules) allowing(name string) []rule {
	if r == nil {
		return nil
	}
	out := append([]rule(nil), r.allow[name]...)
	for above := range parents(name) {
		out = append(out, r.allowBelow[above]...)
	}
	return out
}

// denied: a denial for the name or for what it lies below; port 0 is every port,
// which only a denial of every port denies.
func (r *Rules) denied(name string, port uint16) (Verdict, bool) {
	if r == nil {
		return Verdict{}, false
	}
	what := name
	if port != 0 {
		what += ":" + strconv.Itoa(int(port))
	}
	lists := [][]rule{r.denyAll, r.deny[name]}
	for above := range parents(name) {
		lists = append(lists, r.deny[above], r.denyBelow[above])
	}
	for _, list := range lists {
		for _, d := range list {
			if d.covers(port) {
				return denial(what, d), true
			}
		}
	}
	return Verdict{}, false
}

// parents yields what the name lies below, nearest first.
func parents(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			_, above, ok := strings.Cut(name, ".")
			if !ok || !yield(above) {
				return
			}
			name = above
		}
	}
}

func suggest(a netip.Addr, port uint16) string {
	p := netip.PrefixFrom(a, a.BitLen()).String()
	if a.Is6() {
		p = "[" + p + "]"
	}
	return p + ":" + strconv.Itoa(int(port))
}

func allowed(what string, by rule) Verdict {
	reason := what + " is allowed"
	if by.text != "" {
		reason += " by the rule " + by.text
	}
	return Verdict{Allow: true, Rule: by.id, Code: Allowed, Reason: reason}
}

func denial(what string, by rule) Verdict {
	return Verdict{Rule: by.id, Code: Denied, Reason: what + " is denied by the rule " + by.text + ", and a denial beats every allow; to reach it, that rule has to go"}
}

// notAllowed names what comes near: a wildcard does not speak of the name above,
// and a rule with a port of no other.
func (r *Rules) notAllowed(name, what string) Verdict {
	near := ""
	if r != nil && len(r.allowBelow[name]) > 0 {
		near = " (" + r.allowBelow[name][0].text + " is its subdomains only)"
	} else if a := r.allowing(name); len(a) > 0 {
		near = " (" + a[0].text + " is another port)"
	}
	return Verdict{Code: NotAllowed, Reason: what + " is not allowed by any rule" + near + "; to allow it: --allow-domain " + what}
}

func badName(err error) Verdict { return Verdict{Code: BadName, Reason: err.Error()} }
