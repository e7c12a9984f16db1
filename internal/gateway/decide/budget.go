package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cofferdam/internal/plan"
)

// Budgets are those of a plan, ready to be asked which of them count something. How much
// has been counted is for others to know. They are never changed.
type Budgets struct{ list []budget }

type budget struct {
	name   string       // canonical, without "*."; "*" for all; "" of a prefix
	below  bool         // the name's subdomains, not the name
	prefix netip.Prefix // for addresses
	port   uint16       // 0: every port
	only   *only
}

// CompileBudgets makes the budgets of a plan ready. The error names the first that could
// not be carried out as written.
func CompileBudgets(list []plan.Budget) (*Budgets, error) {
	b := &Budgets{}
	for _, n := range list {
		one, err := compileBudget(n)
		if err != nil {
			return nil, fmt.Errorf("budget %s: %w", quote(n.Name+n.Prefix), err)
		}
		b.list = append(b.list, one)
	}
	return b, nil
}

func compileBudget(n plan.Budget) (budget, error) {
	var b budget
	switch {
	case n.Of != plan.BudgetUpload && n.Of != plan.BudgetRequests && n.Of != plan.BudgetConnections:
		return b, fmt.Errorf("%s can't be counted", quote(n.Of))
	case n.Amount <= 0 || n.Per < 0 || n.Per > 1<<40:
		return b, fmt.Errorf("it needs an amount above nothing, and a time not below")
	case n.Of == plan.BudgetConnections && n.Only != nil:
		return b, fmt.Errorf("connections are those of a host, and of no request")
	}
	if n.Name == "*" {
		if n.Prefix != "" || n.Only != nil || n.Port != 0 {
			return b, fmt.Errorf("for every name there is one budget, of everything")
		}
		return budget{name: "*"}, nil
	}
	// A host is read as a rule's that denies.
	var s set
	s.at, s.below = map[string][]rule{}, map[string][]rule{}
	r := &Rules{deny: s}
	if err := r.add(plan.NetRule{Name: n.Name, Prefix: n.Prefix, Port: n.Port, Only: n.Only}); err != nil {
		return b, err
	}
	b.port = uint16(n.Port)
	b.name, b.below = strings.CutPrefix(n.Name, "*.")
	for _, one := range r.deny.prefix {
		b.prefix = one.prefix
	}
	if n.Only != nil {
		var err error
		if b.only, err = compileOnly(*n.Only, true); err != nil {
			return b, err
		}
	}
	return b, nil
}

// Host returns those that speak of a name, or if that is empty, an address, at a port; of
// some of its requests, too.
func (b *Budgets) Host(name string, a netip.Addr, port uint16) []int {
	if name == "" {
		return b.those(func(one budget) bool { return one.name == "*" || one.holds(a, port) })
	}
	s, err := Canonical(name)
	return b.those(func(one budget) bool {
		return one.name == "*" || err == nil && one.at(port) && one.name != "" && (one.name == s && !one.below || one.below && strings.HasSuffix(s, "."+one.name))
	})
}

// Behind returns those that speak of an address to which a name has led; those that Host
// returned for the name are not among them.
func (b *Budgets) Behind(a netip.Addr, port uint16) []int {
	return b.those(func(one budget) bool { return one.holds(a, port) })
}

func (b *Budgets) those(fits func(budget) bool) []int {
	var out []int
	if b == nil {
		return nil
	}
	for i, one := range b.list {
		if fits(one) {
			out = append(out, i)
		}
	}
	return out
}

func (b budget) at(port uint16) bool { return b.port == 0 || b.port == port }

func (b budget) holds(a netip.Addr, port uint16) bool {
	return b.prefix.IsValid() && a.IsValid() && b.at(port) && slices.ContainsFunc(forms(a.WithZone("")), b.prefix.Contains)
}

// Narrow leaves those of which a request is one, or, without any, which are of no special
// requests. As for a denial, it counts if some server may take it for one that does.
func (b *Budgets) Narrow(which []int, r *Rules, q *Request) []int {
	var a asking
	understood := false
	return slices.DeleteFunc(slices.Clone(which), func(i int) bool {
		o := b.list[i].only
		if o == nil || q == nil {
			return o != nil
		}
		if !understood {
			understood = true
			a = r.asking(*q)
		}
		return !slices.ContainsFunc(a.pieces, func(p piece) bool {
			return o.fits(p.method, p.segments, p.act, true) && (len(o.refs) == 0 || p.refs != refsInBody || q.Refs == nil ||
				slices.ContainsFunc(q.Refs, func(ref Ref) bool { return o.has(ref.Name) }))
		})
	})
}

// asking is a request with all that it may be taken for; what can't be read has nothing.
func (r *Rules) asking(q Request) asking {
	a := asking{q: q}
	ways, err := readings(q.Path)
	if err != nil {
		return a // and is refused
	}
	if r == nil {
		r = &Rules{}
	}
	name, err := Canonical(q.Name)
	if err != nil {
		name = ""
	}
	r.understand(&a, ways, name)
	return a
}

// Closed says whether a rule keeps TLS closed somewhere that a budget for requests speaks
// of, so that they could not be counted there.
func Closed(t plan.NetRule, b plan.Budget) bool {
	if !t.Tunnel || b.Of != plan.BudgetRequests && b.Only == nil || t.Port != 0 && b.Port != 0 && t.Port != b.Port {
		return false
	}
	t.Port = 0 // they have one in common
	return meet(t, plan.NetRule{Allow: true, Name: b.Name, Prefix: b.Prefix})
}

// Spoken is what a budget is of, as a person would write it: "api.test:443 POST".
func Spoken(b plan.Budget) string {
	if b.Name == "*" {
		return "everything"
	}
	return written(plan.NetRule{Name: b.Name, Prefix: b.Prefix, Port: b.Port, Only: b.Only})
}
