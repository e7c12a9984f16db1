// Package decide says which connections of the inside may leave, and what may be
// asked for in them, by the rules of a plan. It is pure: it resolves nothing, dials nothing, and the same question
// gets the same answer. Whoever asks must ask again with the address that is
// really dialled (Dial); an answer for a name is none for an address.
//
// A denial beats every allow, wherever either was written; an allow beats a rule that
// asks a person; what no rule speaks of is not allowed, so no rules at all deny
// everything. What publishes (Acts) is allowed only by a rule that names it. A *Rules is never changed, so any
// number of goroutines may ask.
package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/plan"
)

// Codes of verdicts: short words that stay the same.
const (
	Allowed        = "allowed"
	NotAllowed     = "not-allowed"     // no rule allows it
	Denied         = "denied"          // a rule denies it
	Asked          = "ask"             // a person has to allow it
	BadRequest     = "bad-request"     // a request that servers may read in different ways
	SpecialAddress = "special-address" // not a public address, and no rule names it
	BadName        = "bad-name"        // no host name, or an address written as one
	Mismatch       = "mismatch"        // two sayings of where it goes differ
)

// Verdict is the answer to one question.
type Verdict struct {
	Allow bool
	// Ask: it is not allowed, but a person may allow it now (With).
	Ask bool
	// Look: each request within has to be asked about (Request), so TLS has to be
	// opened for it. With Ask: if the answer is yes.
	Look bool
	// Raw, with Look: what is neither TLS nor HTTP may be carried unread. Without it
	// what can't be understood is not carried.
	Raw bool
	// Refs: it is not allowed yet, and not denied: the answer depends on what a git
	// push changes. Ask again with Request.Refs.
	Refs bool
	// Act is what a request does (Acts), the gravest of it; "" if nothing that rules
	// have a word for.
	Act string
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
	list             []plan.NetRule
	allow, ask, deny set
}

// set is all rules with one effect.
type set struct {
	at, below map[string][]rule // by canonical name, without "*."
	all       []rule            // of "*"
	prefix    []rule
}

type rule struct {
	prefix netip.Prefix // of a rule for addresses
	port   uint16       // 0: every port, but see unseen
	loose  bool         // of a denial: port 0 is each, and what is like it is denied too
	asks   bool
	tunnel bool
	only   *only
	id     int
	text   string // as a person would write it
	reason string // with a separator before it, or nothing
}

func (r rule) covers(port uint16) bool {
	return r.port == port || r.port == 0 && (r.loose || unseen(port) == "")
}

// unseen says what is spoken at a port where git may push and nobody can see it: to
// allow that port it has to be written. "" for every other port.
func unseen(port uint16) string {
	switch port {
	case 22:
		return "ssh"
	case 9418:
		return "git's own protocol"
	}
	return ""
}

// Conflict is the error of Compile for two rules of which one says that TLS is not
// opened, and the other needs it opened.
type Conflict struct{ Tunnel, Only plan.NetRule }

func (e *Conflict) Error() string {
	return fmt.Sprintf("%s is a tunnel, so nobody can see whether a request is one of %s", written(e.Tunnel), written(e.Only))
}

// Compile makes the rules of a plan ready. The error names the first rule that
// could not be carried out as written, or it is a *Conflict; there are no rules then.
func Compile(list []plan.NetRule) (*Rules, error) {
	r := &Rules{list: slices.Clone(list)}
	for _, s := range []*set{&r.allow, &r.ask, &r.deny} {
		s.at, s.below = map[string][]rule{}, map[string][]rule{}
	}
	for _, n := range list {
		if err := r.add(n); err != nil {
			return nil, fmt.Errorf("network rule %s: %w", quote(n.Name+n.Prefix), err)
		}
	}
	for _, t := range list {
		for _, o := range list {
			if t.Tunnel && o.Only != nil && meet(t, o) {
				return nil, &Conflict{t, o}
			}
		}
	}
	return r, nil
}

// With returns rules that have more of them, such as what a person answered; r stays
// as it is. For an answer that is good once, ask the new rules about that one
// connection or request only.
func (r *Rules) With(more ...plan.NetRule) (*Rules, error) {
	if r == nil {
		return Compile(more)
	}
	return Compile(append(slices.Clip(r.list), more...))
}

func (r *Rules) add(n plan.NetRule) error {
	switch {
	case n.Port < 0 || n.Port > 65535:
		return fmt.Errorf("%d is not a port", n.Port)
	case n.Allow && n.Ask:
		return fmt.Errorf("it both allows and asks")
	case n.Tunnel && (!n.Allow || n.Only != nil):
		return fmt.Errorf("a tunnel allows all requests: nobody can see them")
	}
	one := rule{port: uint16(n.Port), loose: !n.Allow && !n.Ask, asks: n.Ask, tunnel: n.Tunnel, id: n.Rule, text: written(n)}
	if n.Reason != "" {
		one.reason = " (" + printable(n.Reason) + ")"
	}
	if n.Only != nil {
		var err error
		if one.only, err = compileOnly(*n.Only, one.loose); err != nil {
			return err
		}
	}
	to := &r.deny
	switch {
	case n.Allow:
		to = &r.allow
	case n.Ask:
		to = &r.ask
	}
	switch {
	case (n.Name == "") == (n.Prefix == ""):
		return fmt.Errorf("it needs either a name or a range of addresses")
	case n.Prefix != "":
		return to.addPrefix(n, one)
	case n.Name == "*" && n.Allow:
		return fmt.Errorf("every name can be denied or asked about, not allowed")
	case n.Name == "*":
		to.all = append(to.all, one)
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
	if below {
		to.below[name] = append(to.below[name], one)
	} else {
		to.at[name] = append(to.at[name], one)
	}
	return nil
}

func (s *set) addPrefix(n plan.NetRule, one rule) error {
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
	if b, ok := blockOf(p.Addr()); ok && !one.loose && b.never && p.Bits() >= b.Bits() {
		return fmt.Errorf("no rule opens %s, %s", b.Prefix, b.what)
	}
	s.prefix = append(s.prefix, one)
	return nil
}

// written is a rule as a person would write it, without its effect.
func written(n plan.NetRule) string {
	text := n.Name + n.Prefix
	if n.Port != 0 {
		if strings.Contains(n.Prefix, ":") {
			text = "[" + text + "]"
		}
		text += ":" + strconv.Itoa(n.Port)
	}
	if n.Only != nil {
		for _, list := range [][]string{n.Only.Methods, n.Only.Paths, n.Only.Acts, n.Only.Refs} {
			if len(list) > 0 {
				text += " " + strings.Join(list, ",")
			}
		}
	}
	return printable(text)
}

// meet says whether some host and port is spoken of by both: t allows.
func meet(t, o plan.NetRule) bool {
	deny := !o.Allow && !o.Ask
	if t.Port != o.Port && t.Port != 0 && o.Port != 0 ||
		t.Port == 0 && o.Port != 0 && unseen(uint16(o.Port)) != "" || t.Port != 0 && o.Port == 0 && !deny && unseen(uint16(t.Port)) != "" {
		return false
	}
	if o.Name == "*" {
		return true
	}
	if t.Prefix != "" || o.Prefix != "" {
		a, errA := netip.ParsePrefix(t.Prefix)
		b, errB := netip.ParsePrefix(o.Prefix)
		return errA == nil && errB == nil && a.Overlaps(b)
	}
	tn, tBelow := strings.CutPrefix(t.Name, "*.")
	on, oBelow := strings.CutPrefix(o.Name, "*.")
	switch {
	case tn == on:
		return tBelow == oBelow || deny && !oBelow
	case strings.HasSuffix(tn, "."+on): // t lies below o
		return oBelow || deny
	case strings.HasSuffix(on, "."+tn):
		return tBelow
	}
	return false
}

// forName returns the rules that speak of a canonical name, whatever their port.
func (s *set) forName(name string) []rule {
	out := slices.Concat(s.all, s.at[name])
	for above := range parents(name) {
		for _, d := range s.at[above] {
			if d.loose {
				out = append(out, d)
			}
		}
		out = append(out, s.below[above]...)
	}
	return out
}

// at returns those that speak of a port.
func at(port uint16, list []rule) []rule {
	var out []rule
	for _, r := range list {
		if r.covers(port) {
			out = append(out, r)
		}
	}
	return out
}

// Name says whether a question for the name may be answered: whether some port of it
// may be connected to, or a person may be asked about one (Ask). Either way the name
// may get an address, since nothing leaves the machine by that: what waits for the
// person is the connection.
func (r *Rules) Name(name string) Verdict {
	s, err := Canonical(name)
	if err != nil {
		return badName(err)
	}
	if r == nil {
		r = &Rules{}
	}
	denies := r.deny.forName(s)
	// deniedAt: all requests are; port 0 is every port, which only a denial of every
	// port denies.
	deniedAt := func(port uint16) (rule, bool) {
		for _, d := range denies {
			if d.only == nil && (d.port == 0 || d.port == port) {
				return d, true
			}
		}
		return rule{}, false
	}
	denied, found := deniedAt(0)
	var ask *rule
	asks := r.ask.forName(s)
	for i, a := range slices.Concat(r.allow.forName(s), asks) {
		d, no := deniedAt(a.port)
		switch {
		case no:
			denied, found = d, true
		case i < len(r.allow.forName(s)) || a.only != nil:
			return allowed(s, a)
		case ask == nil:
			ask = &a
		}
	}
	switch {
	case ask != nil:
		return asked(s, *ask)
	case found:
		return denial(s, denied)
	}
	return r.notAllowed(s, 0)
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
	if r == nil {
		r = &Rules{}
	}
	v := connection(what, at(port, r.deny.forName(s)), at(port, r.allow.forName(s)), at(port, r.ask.forName(s)))
	if v.Code == NotAllowed {
		return r.notAllowed(s, port)
	}
	return v
}

// connection judges a connection as such, by those rules that speak of where it goes.
func connection(what string, deny, allow, ask []rule) Verdict {
	narrowed := false
	for _, d := range deny {
		if d.only == nil {
			return denial(what, d)
		}
		narrowed = true
	}
	whole := func(list []rule) int { return slices.IndexFunc(list, func(r rule) bool { return r.only == nil }) }
	if len(allow) > 0 {
		i := whole(allow)
		v := allowed(what, allow[max(i, 0)])
		v.Look = !slices.ContainsFunc(allow, func(r rule) bool { return r.tunnel })
		v.Raw = v.Look && i >= 0 && !narrowed
		return v
	}
	if i := whole(ask); i >= 0 {
		v := asked(what, ask[i])
		v.Look, v.Raw = true, !narrowed
		return v
	}
	if len(ask) > 0 {
		v := allowed(what, ask[0])
		v.Look = true
		return v
	}
	return Verdict{Code: NotAllowed, Reason: what + " is not allowed by any rule"}
}

// ConnectAddr says whether the inside may connect to an address that came without
// a name: only a rule for a range allows that, and one that holds more than a
// special-use block does not open the block. Addresses of this host itself are
// known to Dial alone: ask it too, with an empty name.
func (r *Rules) ConnectAddr(a netip.AddrPort) Verdict {
	return r.address(a, func(netip.Addr) bool { return false }, true, connection)
}

// Dial says whether actual, which is about to be dialled, may be: for the name at
// that port, or if name is empty, for itself. own says which addresses are of this
// host; nil means that nobody knows, so each may be. A public address is as the
// name is; any other, and one of this host, needs a rule for a range besides, for all
// requests. For addresses of this host and of clouds' services it has to be a rule for
// that one address. Requests to a range that a rule denies deny the range to names:
// what they ask for is not known here.
func (r *Rules) Dial(name string, port uint16, actual netip.AddrPort, own func(netip.Addr) bool) Verdict {
	if actual.Port() != port {
		return Verdict{Code: Mismatch, Reason: fmt.Sprintf("port %d was asked for, %d would be dialled", port, actual.Port())}
	}
	if own == nil {
		own = func(netip.Addr) bool { return true }
	}
	if name == "" {
		return r.address(actual, own, true, connection)
	}
	v := r.Connect(name, port)
	if !v.Allow {
		return v
	}
	if at := r.address(actual, own, false, connection); !at.Allow {
		s, _ := Canonical(name)
		at.Reason = s + " leads to " + at.Reason
		return at
	}
	return v
}

// judge is connection, or the judgement of one request.
type judge func(what string, deny, allow, ask []rule) Verdict

// address judges an address in all its forms. Bare: it needs a rule even if it is
// public, and how that rule is read is for by to say.
func (r *Rules) address(to netip.AddrPort, own func(netip.Addr) bool, bare bool, by judge) Verdict {
	a, port := to.Addr(), to.Port()
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
	var denies []rule
	for _, f := range fs {
		denies = append(denies, at(port, r.deny.holding(f, netip.Prefix{}))...)
	}
	if bare {
		denies = append(denies, at(port, r.deny.all)...)
	}
	for _, d := range denies {
		if d.only == nil || !bare {
			return denial(what, d)
		}
	}
	out, first := Verdict{Allow: true, Code: Allowed, Reason: what + " is allowed"}, true
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
		allows, asks := at(port, r.allow.holding(f, need)), at(port, r.ask.holding(f, need))
		if why == "" {
			asks = append(asks, at(port, r.ask.all)...)
		}
		if !bare {
			allows, asks = slices.DeleteFunc(allows, func(r rule) bool { return r.only != nil }), nil
		}
		v := by(what, denies, allows, asks)
		switch {
		case v.Code == NotAllowed && len(allows)+len(asks) > 0: // it says which requests are
		case v.Code == NotAllowed && why != "":
			v = Verdict{Code: SpecialAddress, Reason: fmt.Sprintf("%s: %s, which needs a rule of its own; to allow it: --allow-cidr %s", what, why, suggest(f, port))}
		case v.Code == NotAllowed:
			v.Reason = fmt.Sprintf("%s: no rule allows this address; connect by name; to allow it: --allow-cidr %s", what, suggest(f, port))
		}
		if !v.Allow && !v.Ask && !v.Refs {
			return v
		}
		// All forms have to be allowed; what has to wait for one of them waits.
		look, raw := out.Look || v.Look, v.Raw && (first || out.Raw)
		if out.Allow {
			out = v
		}
		out.Look, out.Raw, first = look, raw, false
	}
	return out
}

// holding returns the rules for ranges with an address in them that lie within need.
func (s *set) holding(a netip.Addr, need netip.Prefix) []rule {
	var out []rule
	for _, o := range s.prefix {
		if o.prefix.Contains(a) && (!need.IsValid() || o.prefix.Bits() >= need.Bits()) {
			out = append(out, o)
		}
	}
	return out
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

func asked(what string, by rule) Verdict {
	why := ", by the rule " + by.text + by.reason
	if by.text == "*" {
		why = ": no rule allows or denies it"
	}
	return Verdict{Ask: true, Rule: by.id, Code: Asked, Reason: what + " waits for a person's answer" + why}
}

func denial(what string, by rule) Verdict {
	return Verdict{Rule: by.id, Code: Denied, Reason: what + " is denied by the rule " + by.text + by.reason + ", and a denial beats every allow; to reach it, that rule has to go"}
}

// notAllowed names what comes near: a wildcard does not speak of the name above,
// and a rule with a port of no other, nor one without a port of all. Port 0 is none.
func (r *Rules) notAllowed(name string, port uint16) Verdict {
	what := name
	if port != 0 {
		what += ":" + strconv.Itoa(int(port))
	}
	near := slices.Concat(r.allow.forName(name), r.ask.forName(name))
	because := ""
	if a := r.allow.below[name]; len(a) > 0 {
		because = " (" + a[0].text + " is its subdomains only)"
	} else if len(near) > 0 && near[0].port == 0 {
		because = fmt.Sprintf(" (%s has no port, and then it does not cover port %d: nobody can see what git pushes by %s; use https://%s)", near[0].text, port, unseen(port), name)
	} else if len(near) > 0 {
		because = " (" + near[0].text + " is another port)"
	}
	return Verdict{Code: NotAllowed, Reason: what + " is not allowed by any rule" + because + "; to allow it: --allow-domain " + what}
}

func badName(err error) Verdict { return Verdict{Code: BadName, Reason: err.Error()} }
