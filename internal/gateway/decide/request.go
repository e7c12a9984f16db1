package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// Request is one HTTP request to a host that it may be made to, as the gateway has
// understood it. It has no header: one that puts another method in the place of the
// request's (X-HTTP-Method-Override, X-HTTP-Method, X-Method-Override) must not be
// passed on, for the rules have judged the method that is written here.
type Request struct {
	Name string     // canonical; empty if an address was wanted: Addr
	Addr netip.Addr // if Name is empty
	Port uint16

	Method string
	// Path begins with "/" and is as it was sent, percent-encoding and all; Query is
	// what followed the first "?".
	Path, Query string
	// Refs are what a git push changes, once they are known; nil before. A push that
	// changes nothing has an empty list, not nil: git sends one as a probe.
	Refs []Ref
}

// Ref is one change that a git push asks for. To delete a ref, or to move it
// backwards, which can't be seen in the request, is as to change it.
type Ref struct {
	Name   string // "refs/heads/main"
	Create bool
	Delete bool
}

// Request says whether a request may be made. It is asked for each one where the
// verdict about the connection said Look, and wherever HTTP comes in the clear.
//
// A request is all that some server may take it for (readings, Acts): it is denied if
// one of these is, and allowed only if each is. What publishes is allowed by a rule
// that names the act, and by no other; of a push each ref has to be allowed. A rule for
// refs speaks of pushes by git's own protocol: other ways to change a repository are
// denied by it, and not allowed.
func (r *Rules) Request(q Request) Verdict {
	if r == nil {
		r = &Rules{}
	}
	ask := asking{q: q}
	name := ""
	if q.Name != "" {
		var err error
		if name, err = Canonical(q.Name); err != nil {
			return badName(err)
		}
		ask.host = name + ":" + strconv.Itoa(int(q.Port))
	} else {
		ask.host = netip.AddrPortFrom(q.Addr.Unmap(), q.Port).String()
	}
	ask.what = printable(q.Method) + " " + ask.host + printable(q.Path)
	bad := func(why string) Verdict {
		return Verdict{Code: BadRequest, Reason: ask.what + ": " + why}
	}
	if q.Method == "" || len(q.Method) > 32 || strings.ContainsFunc(q.Method, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return bad("not a method")
	}
	ways, err := readings(q.Path)
	if err != nil {
		return bad(err.Error())
	}
	r.understand(&ask, ways, name)
	if name == "" {
		return r.address(netip.AddrPortFrom(q.Addr, q.Port), func(netip.Addr) bool { return false }, true,
			func(_ string, deny, allow, asks []rule) Verdict { return ask.judge(deny, allow, asks) })
	}
	if q.Port == 0 {
		return bad("there is no port 0")
	}
	v := ask.judge(at(q.Port, r.deny.forName(name)), at(q.Port, r.allow.forName(name)), at(q.Port, r.ask.forName(name)))
	if v.Code == NotAllowed && v.Reason == "" {
		v.Reason = r.notAllowed(name, q.Port).Reason
	}
	return v
}

// asking is a request with all that it may be taken for.
type asking struct {
	q          Request
	host, what string
	registry   bool // packages are at the host, whatever the rules say
	pieces     []piece
	act        string // the gravest
}

// piece is one of the things that a request may be taken for.
type piece struct {
	method   string
	segments []string
	deed
}

func (a *asking) add(p piece) {
	a.pieces = append(a.pieces, p)
	if i := slices.Index(acts[:], p.act); i >= 0 && (a.act == "" || i < slices.Index(acts[:], a.act)) {
		a.act = p.act
	}
}

// understand fills the pieces. That packages are at a host is what a rule says that
// speaks of this host, whatever its effect and port; one for every name says nothing.
func (r *Rules) understand(a *asking, ways [][]string, name string) {
	var rules []rule
	for _, s := range []*set{&r.allow, &r.ask, &r.deny} {
		if name != "" {
			rules = append(rules, s.forName(name)[len(s.all):]...)
			continue
		}
		for _, f := range forms(a.q.Addr) {
			rules = append(rules, s.holding(f, netip.Prefix{})...)
		}
	}
	registry := a.registry || slices.ContainsFunc(rules, func(r rule) bool {
		return slices.ContainsFunc(ways, r.only.registry)
	})
	query := decoded(a.q.Query)
	for _, m := range methodsOf(a.q.Method, a.q.Query) {
		for _, w := range ways {
			for _, d := range deeds(m, w, query, registry) {
				a.add(piece{m, w, d})
			}
		}
	}
}

// Three answers about what some rules cover.
const (
	no       = iota
	withRefs // it depends on them
	yes
)

// judge decides by the rules that speak of the host and port. If nothing speaks of them
// at all, the reason is empty.
func (a *asking) judge(deny, allow, ask []rule) Verdict {
	v := a.decide(deny, allow, ask)
	v.Act = a.act
	return v
}

func (a *asking) decide(deny, allow, ask []rule) Verdict {
	refs := func(by rule) Verdict {
		return Verdict{Refs: true, Rule: by.id, Code: NotAllowed, Reason: a.what + ": it depends on what the push changes"}
	}
	depends := false
	for _, d := range deny {
		for _, p := range a.pieces {
			if !d.only.fits(p.method, p.segments, p.act, true) {
				continue
			}
			what := a.what
			if d.narrowed(p) {
				if p.refs == noRefs {
					continue
				}
				if p.refs == refsInBody && a.q.Refs == nil {
					depends = true
					continue
				}
				if p.refs == refsInBody {
					i := slices.IndexFunc(a.q.Refs, func(r Ref) bool { return d.only.has(r.Name) })
					if i < 0 {
						continue
					}
					what += " to " + printable(a.q.Refs[i].Name)
				}
			}
			return denial(what, d)
		}
	}
	answer, by, missing := a.covered(allow)
	switch {
	case answer == withRefs, answer == yes && depends:
		return refs(by)
	case answer == yes:
		return allowed(a.what, by)
	}
	answer, by, _ = a.covered(slices.Concat(ask, allow))
	switch {
	case answer == withRefs, answer == yes && depends:
		return refs(by)
	case answer == yes:
		return asked(a.what, by)
	}
	return a.notAllowed(missing, slices.Concat(allow, ask))
}

// covered says whether each piece is covered by some of the rules, by which one first,
// and the first that is not.
func (a *asking) covered(rules []rule) (answer int, by rule, missing piece) {
	answer = yes
	found := false
	for _, p := range a.pieces {
		got, one := a.covers(rules, p)
		if got > no && (!found || one.asks && !by.asks) {
			by, found = one, true
		}
		if got < answer {
			answer, missing = got, p
		}
	}
	return answer, by, missing
}

func (a *asking) covers(rules []rule, p piece) (int, rule) {
	var narrow []rule
	for _, r := range rules {
		switch {
		case !r.only.fits(p.method, p.segments, p.act, r.asks):
		case !r.narrowed(p) || p.refs == noRefs:
			return yes, r
		case p.refs == refsInBody:
			narrow = append(narrow, r)
		}
	}
	if len(narrow) == 0 {
		return no, rule{}
	}
	if a.q.Refs == nil {
		return withRefs, narrow[0]
	}
	for _, ref := range a.q.Refs {
		if !slices.ContainsFunc(narrow, func(r rule) bool { return r.only.has(ref.Name) }) {
			return no, rule{}
		}
	}
	return yes, narrow[0]
}

// narrowed: to some refs, of what is a push.
func (r rule) narrowed(p piece) bool {
	return p.act == GitPush && r.only != nil && len(r.only.refs) > 0
}

// notAllowed says what would be needed.
func (a *asking) notAllowed(p piece, near []rule) Verdict {
	v := Verdict{Code: NotAllowed}
	switch {
	case publishes(p.act):
		what := a.what
		if i := slices.IndexFunc(a.q.Refs, func(ref Ref) bool {
			return p.refs == refsInBody && !slices.ContainsFunc(near, func(r rule) bool { return r.narrowed(p) && r.only.has(ref.Name) })
		}); i >= 0 {
			what += " to " + printable(a.q.Refs[i].Name)
		}
		key, value := Words(p.act)
		v.Reason = what + " " + p.why + ", and only a rule that names that allows it; to allow it, in network.rules: " +
			`{"host": "` + a.host + `", "` + key + `": ["` + value + `"]}`
	case len(near) > 0:
		v.Reason = a.what + " is none of the requests that are allowed there, by the rule " + near[0].text + near[0].reason
		if p.act != "" {
			key, value := Words(p.act)
			v.Reason += ": it " + p.why + `, which is "` + key + `": ["` + value + `"]`
		}
	}
	return v
}

// Words are the key and the value by which rules of policies name an act.
func Words(act string) (key, value string) {
	key, value, _ = strings.Cut(act, "-")
	switch {
	case key == "package":
		key = "packages"
	case value == "upload":
		key, value = "uploads", key
	}
	return key, value
}

// Act is what Words are of; "" if they are of none.
func Act(key, value string) string {
	for _, a := range acts {
		if k, v := Words(a); k == key && v == value {
			return a
		}
	}
	return ""
}

// Allowing returns the narrowest rules that allow one request, with its refs if they
// are known: for the answer of a person who was asked about it. Denials still beat them.
func (r *Rules) Allowing(q Request) ([]plan.NetRule, error) {
	ways, err := readings(q.Path)
	if err != nil {
		return nil, err
	}
	if r == nil {
		r = &Rules{}
	}
	a := asking{q: q}
	r.understand(&a, ways, q.Name)
	if slices.ContainsFunc(a.pieces, func(p piece) bool { return p.act == PackageInstall || p.act == PackagePublish }) {
		// The rule itself will say that packages are here.
		a = asking{q: q, registry: true}
		r.understand(&a, ways, q.Name)
	}
	// One rule for what has no name, and one for what has.
	var plain, named plan.Requests
	for _, p := range a.pieces {
		to := &plain
		if p.act != "" {
			to = &named
			to.Acts = with(to.Acts, p.act)
		}
		to.Methods, to.Paths = with(to.Methods, p.method), with(to.Paths, literal(p.segments))
		if p.refs == refsInBody {
			for _, ref := range q.Refs {
				if !isRef(ref.Name) {
					return nil, fmt.Errorf("%s is no ref", quote(ref.Name))
				}
				to.Refs = with(to.Refs, glob.Escape(ref.Name))
			}
		}
	}
	var out []plan.NetRule
	for _, only := range []plan.Requests{plain, named} {
		if len(only.Methods) == 0 {
			continue
		}
		n := plan.NetRule{Allow: true, Name: q.Name, Port: int(q.Port), Only: &only}
		if q.Name == "" {
			n.Prefix = netip.PrefixFrom(q.Addr.Unmap(), q.Addr.Unmap().BitLen()).String()
		}
		out = append(out, n)
	}
	_, err = Compile(out)
	return out, err
}

func with(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
