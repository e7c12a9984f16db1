package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

func (c *compiler) explainConnect(e *Explanation) error {
	h, err := policy.ParseHost(e.Subject)
	if err != nil {
		return err
	}
	if h.All || h.Wild {
		return fmt.Errorf("%q is a pattern: one host can be asked about", e.Subject)
	}
	if h.Addr.IsValid() && h.Port == 0 {
		return fmt.Errorf("rules for addresses have ports: ask about ADDRESS:PORT")
	}
	rules, err := decide.Compile(c.network())
	if err != nil {
		return err
	}
	if own(h.Name, h.Addr) {
		e.Allowed, e.Text = true, e.Subject+" is the inside's own: a server inside can be reached, this machine's can't"
		e.Change = "nothing: no rule is asked about it"
		return nil
	}
	var v decide.Verdict
	switch {
	case h.Addr.IsValid():
		v = rules.ConnectAddr(netip.AddrPortFrom(h.Addr, uint16(h.Port)))
	case h.Port == 0:
		v = rules.Name(h.Name)
	default:
		v = rules.Connect(h.Name, uint16(h.Port))
	}
	by, ok := c.verdict(e, v)
	c.countedBy(e, rules, decide.Request{Name: h.Name, Addr: h.Addr, Port: uint16(h.Port)}, false)
	key, flag, value := "allowedDomains", "--allow-domain ", e.Subject
	if h.Addr.IsValid() {
		key, flag = "allowedCIDRs", "--allow-cidr "
		value = netip.PrefixFrom(h.Addr, h.Addr.BitLen()).String()
		if h.Addr.Is6() {
			value = "[" + value + "]"
		}
		value += ":" + strconv.Itoa(h.Port)
	}
	switch {
	case v.Allow && !e.Allowed: // verdict has said why
	case v.Allow:
		e.Text += c.judgedLater(h.Name, h.Addr, uint16(h.Port))
		if h.Addr.IsValid() {
			e.Text = v.Reason
		}
		e.Change = fmt.Sprintf(`"network": {"deniedDomains": [%q]} in a policy`, e.Subject)
	case ok && by.Origin.Layer == "managed":
		e.Change = "nothing here: your organisation's policy decides"
	case v.Code == decide.Denied:
		e.Change = "take that line out"
	case v.Code == decide.BadName:
		e.Change = "nothing: it is no name"
	default:
		e.Change = fmt.Sprintf(`"network": {%q: [%q]} in a policy, or %s%s`, key, value, flag, value)
	}
	return nil
}

// verdict tells an answer of the gateway's, and whether this machine and this version
// would give it. It returns the rule that decided.
func (c *compiler) verdict(e *Explanation, v decide.Verdict) (by plan.RuleStatus, ok bool) {
	e.Allowed, e.Ask, e.Text = v.Allow, v.Ask, v.Reason
	if by, ok = c.p.Rule(v.Rule); ok {
		e.by(by.Text, c.reason(by), by.Origin)
	}
	switch {
	case v.Ask && by.Status == plan.Impossible:
		e.Ask, e.Text = false, v.Reason+"; "+by.Note
	case v.Allow && by.Status == plan.Impossible && needsGap(c.p.Gaps, by.ID):
		e.Allowed, e.Text = false, e.Subject+" would be allowed, but no run starts with this rule: "+by.Note
		e.Change = "take that line out"
	case v.Allow && by.Status == plan.Impossible:
		e.Allowed, e.Text = false, e.Subject+" can't be reached, although a rule allows it: "+by.Note
		e.Change = "cofferdam doctor says what this machine lacks"
	}
	return by, ok
}

func needsGap(gaps []plan.Gap, rule int) bool {
	return slices.ContainsFunc(gaps, func(g plan.Gap) bool { return g.Required && g.Rule == rule })
}

// reason is what the author of a rule says.
func (c *compiler) reason(by plan.RuleStatus) string {
	for _, r := range c.in.Policy.Net {
		if r.Text() == by.Text && r.Origin == by.Origin {
			return r.Reason
		}
	}
	return ""
}

// explainRequest answers for "METHOD URL".
func (c *compiler) explainRequest(e *Explanation) error {
	q, tls, err := request(e.Subject)
	if err != nil {
		return err
	}
	rules, err := decide.Compile(c.network())
	if err != nil {
		return err
	}
	if own(q.Name, q.Addr) {
		e.Allowed, e.Text = true, e.Subject+" is the inside's own: a server inside can be reached, this machine's can't"
		e.Change = "nothing: no rule is asked about it"
		return nil
	}
	at := rules.ConnectAddr(netip.AddrPortFrom(q.Addr, q.Port))
	if q.Name != "" {
		at = rules.Connect(q.Name, q.Port)
	}
	v := rules.Request(q)
	by, ok := c.verdict(e, v)
	opaque := at.Allow && !at.Look && tls
	defer c.countedBy(e, rules, q, opaque)
	if tunnel, ok := c.p.Rule(at.Rule); opaque && ok {
		c.verdict(e, at)
		e.Text = e.Subject + " is in a tunnel, where nobody sees requests: all are allowed, whatever they do"
		if !e.Allowed {
			e.Text = e.Subject + " can't be reached, although a rule allows it: " + tunnel.Note
		}
		e.Change = "take that line out, and allow the host by network.rules"
		return nil
	}
	key, value := decide.Words(v.Act)
	switch {
	case v.Allow && !e.Allowed:
	case v.Allow && v.Act != "":
		e.Change = fmt.Sprintf(`"network": {"rules": [{"host": %q, "effect": "deny", %q: [%q]}]} in a policy`, written(q), key, value)
	case v.Allow:
		e.Change = fmt.Sprintf(`"network": {"rules": [{"host": %q, "effect": "deny", "methods": [%q]}]} in a policy`, written(q), q.Method)
	case ok && by.Origin.Layer == "managed":
		e.Change = "nothing here: your organisation's policy decides"
	case v.Code == decide.Denied:
		e.Change = "take that line out"
	case v.Code == decide.BadRequest:
		e.Change = "nothing: no rule allows a request that is read in two ways"
	case v.Refs:
		e.Text = e.Subject + " is allowed for some refs and not for others, as the rules for pushes to it say"
		e.Change = `"refs" of these rules; cofferdam policy show lists them`
	case v.Act != "":
		e.Change = fmt.Sprintf(`"network": {"rules": [{"host": %q, %q: [%q]}]} in a policy`, written(q), key, value)
	default:
		e.Change = fmt.Sprintf(`"network": {"rules": [{"host": %q, "methods": [%q], "paths": [%q]}]} in a policy`, written(q), q.Method, q.Path)
	}
	return nil
}

// request reads "METHOD URL".
func request(subject string) (q decide.Request, tls bool, err error) {
	method, target, _ := strings.Cut(subject, " ")
	if err := decide.CheckMethod(method); err != nil {
		return q, false, err
	}
	scheme, rest, ok := strings.Cut(target, "://")
	port := map[string]uint16{"https": 443, "http": 80}[strings.ToLower(scheme)]
	if !ok || port == 0 {
		return q, false, fmt.Errorf("%q is no address of the web: write https://HOST/PATH", target)
	}
	rest, _, _ = strings.Cut(rest, "#")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	h, err := policy.ParseHost(rest[:end])
	if err != nil {
		return q, false, err
	}
	if h.All || h.Wild {
		return q, false, fmt.Errorf("%q is a pattern: one host can be asked about", rest[:end])
	}
	path, query, _ := strings.Cut(rest[end:], "?")
	if path == "" {
		path = "/"
	}
	if h.Port != 0 {
		port = uint16(h.Port)
	}
	return decide.Request{Name: h.Name, Addr: h.Addr, Port: port, Method: method, Path: path, Query: query}, strings.EqualFold(scheme, "https"), nil
}

// written is a request's host as a rule names it.
func written(q decide.Request) string {
	name := q.Name
	if name == "" {
		if name = q.Addr.String(); q.Addr.Is6() {
			name = "[" + name + "]"
		}
	}
	return name + ":" + strconv.Itoa(int(q.Port))
}
