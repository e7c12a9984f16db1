package compile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// budgets gives the gateway the budgets of the policy; rules are those that it is to
// carry out. What could not be counted stops the run: a budget that does not hold is worse
// than none.
func (c *compiler) budgets(rules []plan.NetRule) (out []plan.Budget) {
	for _, b := range c.in.Policy.Budgets {
		id := c.rule(b.Text(), b.Origin, plan.Enforced, "gateway", "")
		n, err := planBudget(b, id)
		var closed *plan.NetRule
		if err == nil {
			if i := slices.IndexFunc(rules, func(r plan.NetRule) bool { return decide.Closed(r, n) }); i >= 0 {
				closed = &rules[i]
			}
		}
		st := &c.p.Rules[id-1]
		switch {
		case err != nil:
			st.Status, st.Note = plan.Impossible, err.Error()
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the " + st.Text, Because: st.Note, Remedy: "write it otherwise, or take it out", Rule: id})
		case closed != nil && b.Value == "":
			st.Status, st.Note = plan.Coarse, "where TLS is not opened a connection counts as one request: "+tunnels(rules)
		case closed != nil:
			tunnel, _ := c.p.Rule(closed.Rule)
			st.Status, st.Note = plan.Impossible, "nobody can count requests in a tunnel"
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Rule: id, Missing: "a way to count for the " + st.Text,
				Because: fmt.Sprintf("%s (%s) keeps TLS closed there, so nobody sees requests", tunnel.Text, place(tunnel.Origin)),
				Remedy:  "take one of the two out, or let the budget be of connections or bytes"})
		}
		if err == nil {
			out = append(out, n)
		}
	}
	return out
}

// tunnels are the hosts whose TLS is not opened, some of them by name.
func tunnels(rules []plan.NetRule) string {
	var names []string
	for _, r := range rules {
		if r.Tunnel && !slices.Contains(names, r.Name+r.Prefix) {
			names = append(names, r.Name+r.Prefix)
		}
	}
	if n := len(names); n > 3 {
		names = append(names[:3], fmt.Sprintf("%d more", n-3))
	}
	return strings.Join(names, ", ")
}

// planBudget reads a budget as written.
func planBudget(b policy.BudgetRule, id int) (plan.Budget, error) {
	n := plan.Budget{Name: "*", Only: b.Only, Of: b.Of, Amount: b.Amount, Per: b.Per, Rule: id}
	if b.Value != "" {
		r, err := netRule(policy.NetRule{Key: "rules", Value: b.Value, Effect: policy.Allow}, id)
		if err != nil {
			return n, err
		}
		n.Name, n.Prefix, n.Port = r.Name, r.Prefix, r.Port
		if n.Name == "*" {
			return n, errors.New("a budget for every host is network.budget")
		}
	}
	_, err := decide.CompileBudgets([]plan.Budget{n})
	return n, err
}

// countedBy tells of an answer that allows which budgets count it.
func (c *compiler) countedBy(e *Explanation, rules *decide.Rules, q decide.Request, opaque bool) {
	by, err := decide.CompileBudgets(c.meant)
	if err != nil || !e.Allowed && !e.Ask {
		return
	}
	which := by.Host(q.Name, q.Addr, q.Port)
	switch {
	case e.Kind == "request" && opaque:
		which = by.Narrow(which, rules, nil)
	case e.Kind == "request":
		which = by.Narrow(which, rules, &q)
	}
	for _, i := range which {
		if st, ok := c.p.Rule(c.meant[i].Rule); ok {
			e.Budgets = append(e.Budgets, Budget{Text: st.Text, Origin: st.Origin})
		}
	}
}
