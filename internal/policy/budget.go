package policy

import (
	"fmt"
	"strconv"
	"strings"

	"cofferdam/internal/plan"
)

// addBudgets appends those of a layer. A budget only takes away, so that anybody may say
// one: of a project that is not trusted, a rule that allows is left out, and its budget
// is not.
func (e *Effective) addBudgets(l layer) {
	add := func(b Budget, key func(of string) string, host string, only *plan.Requests) {
		for _, one := range b.all() {
			if one.value == nil {
				continue
			}
			amount, per, _ := parseBudget(one.value.V, one.of)
			e.Budgets = append(e.Budgets, BudgetRule{Value: host, Only: only, Of: one.of, Amount: amount, Per: per, Origin: l.origin(key(one.of), one.value.Pos)})
		}
	}
	add(l.doc.Network.Budget, func(of string) string { return "network.budget." + of }, "", nil)
	for _, r := range l.doc.Network.Rules {
		add(r.Budget, func(string) string { return "network.rules" }, r.Host.V, r.only())
	}
}

// kindOfBudget is one key of a budget.
type kindOfBudget struct {
	of    string
	value *Val[string]
}

func (b Budget) all() []kindOfBudget {
	return []kindOfBudget{{plan.BudgetUpload, b.Upload}, {plan.BudgetRequests, b.Requests}, {plan.BudgetConnections, b.Connections}}
}

// badBudget says of a rule whose values are right what is wrong with its budget, and at
// which of its keys.
func (r RequestRule) badBudget(bad func(v Val[string], key, text, hint string)) {
	for _, one := range r.Budget.all() {
		switch key := "budget." + one.of; {
		case one.value == nil:
		case r.effect() == Deny:
			bad(*one.value, key, "what is denied needs no budget", "take the budget out")
		case one.of == plan.BudgetConnections && r.only() != nil:
			bad(*one.value, key, "connections are those of a host, and the rule speaks of some requests", `write "requests", or a rule without lists`)
		case one.of == plan.BudgetRequests && r.TLS != nil && r.TLS.V == "tunnel":
			bad(*one.value, key, "in a tunnel nobody sees requests, so they can't be counted", `write "connections" or "upload"`)
		}
	}
}

// Text is the budget in one line.
func (b BudgetRule) Text() string {
	text := "budget"
	if b.Value != "" {
		text += " " + b.Value
	}
	text += ": " + plan.Budget{Of: b.Of, Amount: b.Amount, Per: b.Per}.Text()
	if b.Only != nil {
		text += strings.TrimPrefix(NetRule{Key: "rules", Only: b.Only}.Text(), "rules  ")
	}
	return text
}

// parseBudget reads "10MiB", "10MiB/1h", "100/m"; per is in milliseconds.
func parseBudget(s, of string) (amount, per int64, ok bool) {
	what, time, timed := strings.Cut(s, "/")
	if timed {
		if time = strings.TrimSpace(time); time != "" && strings.Trim(time, "smhd") == "" {
			time = "1" + time
		}
		d, ok := parseDuration(time)
		if per = d.Milliseconds(); !ok || per < 1 {
			return 0, 0, false
		}
	}
	what = strings.TrimSpace(what)
	if of == plan.BudgetUpload {
		amount, ok = parseSize(what)
		return amount, per, ok && amount > 0
	}
	amount, err := strconv.ParseInt(what, 10, 64)
	return amount, per, err == nil && amount > 0 && amount <= 1e9
}

// checkBudget makes the check of a value of what is counted.
func checkBudget(of, example string) func(string) (text, hint string) {
	return func(s string) (string, string) {
		if _, _, ok := parseBudget(s, of); ok {
			return "", ""
		}
		return fmt.Sprintf("%s is no budget", quote(s)), fmt.Sprintf(`write %q for the whole run, or "%s/1h" for any hour of it`, example, example)
	}
}
