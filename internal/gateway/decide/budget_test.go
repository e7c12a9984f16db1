package decide

import (
	"net/netip"
	"slices"
	"testing"

	"cofferdam/internal/plan"
)

func TestBudgets(t *testing.T) {
	list := []plan.Budget{
		0: {Name: "*", Of: plan.BudgetUpload, Amount: 1},
		1: {Name: "a.test", Of: plan.BudgetUpload, Amount: 1},
		2: {Name: "*.a.test", Port: 443, Of: plan.BudgetConnections, Amount: 1},
		3: {Prefix: "10.0.0.0/8", Of: plan.BudgetRequests, Amount: 1, Per: 1000},
		4: {Name: "a.test", Only: &plan.Requests{Methods: []string{"POST"}, Paths: []string{"/v1/**"}}, Of: plan.BudgetRequests, Amount: 1},
		5: {Name: "git.test", Only: &plan.Requests{Acts: []string{GitPush}, Refs: []string{"refs/heads/x/*"}}, Of: plan.BudgetUpload, Amount: 1},
	}
	b, err := CompileBudgets(list)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, got []int, want ...int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	ten, other := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("11.1.2.3")
	same("a name", b.Host("a.test", netip.Addr{}, 443), 0, 1, 4)
	same("in other letters", b.Host("A.Test.", netip.Addr{}, 22), 0, 1, 4)
	same("below", b.Host("x.a.test", netip.Addr{}, 443), 0, 2)
	same("below, another port", b.Host("x.a.test", netip.Addr{}, 80), 0)
	same("another that ends so", b.Host("xa.test", netip.Addr{}, 443), 0)
	same("an address", b.Host("", ten, 1), 0, 3)
	same("the address in IPv6", b.Host("", netip.MustParseAddr("::ffff:10.1.2.3"), 1), 0, 3)
	same("the address behind a translator", b.Host("", netip.MustParseAddr("64:ff9b::a01:203"), 1), 0, 3)
	same("another address", b.Host("", other, 1), 0)
	same("behind a name", b.Behind(ten, 443), 3)
	same("nowhere", b.Behind(netip.Addr{}, 443))
	same("none at all", (*Budgets)(nil).Host("a.test", netip.Addr{}, 443))

	a := b.Host("a.test", netip.Addr{}, 443)
	q := func(method, path string) *Request {
		return &Request{Name: "a.test", Port: 443, Method: method, Path: path}
	}
	same("no request", b.Narrow(a, nil, nil), 0, 1)
	same("another method", b.Narrow(a, nil, q("GET", "/v1/x")), 0, 1)
	same("another path", b.Narrow(a, nil, q("POST", "/v2/x")), 0, 1)
	for _, path := range []string{"/v1/x", "/V1/x", "/v1%2fx", "//v1/x", "/%2576%31/x"} {
		same(path, b.Narrow(a, nil, q("POST", path)), 0, 1, 4)
	}
	same("another method in the query", b.Narrow(a, nil, &Request{Name: "a.test", Port: 443, Method: "GET", Path: "/v1/x", Query: "_method=post"}), 0, 1, 4)
	same("what was asked about is left alone", a, 0, 1, 4)
	g := b.Host("git.test", netip.Addr{}, 443)
	push := &Request{Name: "git.test", Port: 443, Method: "POST", Path: "/x.git/git-receive-pack", Refs: []Ref{{Name: "refs/heads/main"}}}
	same("a push elsewhere", b.Narrow(g, nil, push), 0)
	push.Refs = append(push.Refs, Ref{Name: "refs/heads/x/1"})
	same("a push", b.Narrow(g, nil, push), 0, 5)

	for _, bad := range []plan.Budget{
		{Name: "a.test", Of: "bytes", Amount: 1}, {Name: "a.test", Of: plan.BudgetUpload}, {Of: plan.BudgetUpload, Amount: 1},
		{Name: "a.test", Prefix: "10.0.0.0/8", Of: plan.BudgetUpload, Amount: 1}, {Name: "A.test", Of: plan.BudgetUpload, Amount: 1},
		{Name: "a.test", Of: plan.BudgetUpload, Amount: 1, Per: -1}, {Name: "*", Port: 1, Of: plan.BudgetUpload, Amount: 1},
		{Name: "a.test", Only: &plan.Requests{}, Of: plan.BudgetUpload, Amount: 1},
		{Name: "a.test", Only: &plan.Requests{Methods: []string{"GET"}}, Of: plan.BudgetConnections, Amount: 1},
	} {
		if _, err := CompileBudgets([]plan.Budget{bad}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// Where a tunnel is, no requests can be counted; bytes and connections can.
func TestClosed(t *testing.T) {
	tunnel := plan.NetRule{Allow: true, Tunnel: true, Name: "*.a.test", Port: 443}
	get := &plan.Requests{Methods: []string{"GET"}}
	for _, c := range []struct {
		b    plan.Budget
		want bool
	}{
		{plan.Budget{Name: "x.a.test", Of: plan.BudgetRequests}, true},
		{plan.Budget{Name: "x.a.test", Of: plan.BudgetUpload, Only: get}, true},
		{plan.Budget{Name: "x.a.test", Of: plan.BudgetUpload}, false},
		{plan.Budget{Name: "x.a.test", Of: plan.BudgetConnections}, false},
		{plan.Budget{Name: "x.a.test", Port: 8443, Of: plan.BudgetRequests}, false},
		{plan.Budget{Name: "a.test", Of: plan.BudgetRequests}, false},
	} {
		if got := Closed(tunnel, c.b); got != c.want {
			t.Errorf("%+v: %v", c.b, got)
		}
	}
	// A tunnel on a port that had to be written is one for a budget of every port.
	if !Closed(plan.NetRule{Allow: true, Tunnel: true, Name: "a.test", Port: 22}, plan.Budget{Name: "a.test", Of: plan.BudgetRequests}) {
		t.Error("port 22")
	}
}
