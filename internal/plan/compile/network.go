package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// network makes the gateway's rules of those of the policy, and returns them. They
// become the plan's if there is something to allow and connections can be brought
// to the gateway; else nothing outside can be reached at all.
func (c *compiler) network() []plan.NetRule {
	out, ids := []plan.NetRule{}, []int{}
	allows := false
	for _, r := range slices.Concat(c.in.Policy.Net, c.registries()) {
		id := c.rule(r.Key+" "+r.Value, r.Origin, plan.Enforced, "gateway", "")
		n, err := netRule(r, id)
		if err == nil {
			_, err = decide.Compile([]plan.NetRule{n})
		}
		if err != nil {
			// The reader of policies refuses these. A denial that can't be
			// carried out stops the run; what it denies could be reached.
			st := &c.p.Rules[id-1]
			st.Status, st.Note = plan.Impossible, err.Error()
			if !n.Allow {
				c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the rule " + st.Text, Because: st.Note, Remedy: "write it otherwise, or take it out", Rule: id})
			}
			continue
		}
		out, ids = append(out, n), append(ids, id)
		allows = allows || n.Allow
	}
	why := c.noGateway()
	switch {
	case allows && why == "":
		c.p.Network = plan.Network{Mode: "gateway", Mechanism: "nft-redirect", Rules: out}
	case allows:
		why = "connections can't be brought to the gateway here: " + why
	}
	for i, n := range out {
		st, gateway := &c.p.Rules[ids[i]-1], c.p.Network.Mode == "gateway"
		if !gateway {
			st.Mechanism, st.Note = "net-namespace", "nothing outside can be reached"
		}
		if n.Allow && !gateway {
			st.Status, st.Note = plan.Impossible, why
		} else if note := partly(n); note != "" {
			st.Status, st.Note = plan.Coarse, note
		}
	}
	return out
}

// registries makes rules of what the person's tools say of where they get packages. An
// address is allowed as one: the person's own configuration names it.
func (c *compiler) registries() []policy.NetRule {
	var out []policy.NetRule
	for _, a := range c.in.Policy.Asked {
		i := slices.IndexFunc(c.in.Facts.Asked, func(f host.Asked) bool { return f.Tool == a.Tool })
		if i < 0 {
			continue // it is not there
		}
		asked := c.in.Facts.Asked[i]
		from := a.Origin
		from.Key = asked.Command
		if asked.Problem != "" {
			c.rule("registries of "+a.Tool, from, plan.Impossible, "asked", asked.Problem)
		}
		for _, r := range asked.Registries {
			out = append(out, policy.NetRule{Key: "registry", Value: authority(r), Origin: from})
		}
	}
	return out
}

func authority(r host.Registry) string {
	if strings.Contains(r.Host, ":") {
		return "[" + r.Host + "]:" + r.Port
	}
	return r.Host + ":" + r.Port
}

// noGateway says why there can't be one on this machine; "" if there can.
func (c *compiler) noGateway() string {
	m := c.in.Facts.Mechanism(host.Nftables)
	if m.Answer == host.Yes {
		return ""
	}
	why := "nftables: " + m.Detail
	if m.Answer == host.Unknown {
		why = "could not tell about " + why
	}
	if m.Remedy != "" {
		why += "; " + m.Remedy
	}
	return why
}

// netRule reads a rule as written. Allow is right in any case.
func netRule(r policy.NetRule, id int) (plan.NetRule, error) {
	n := plan.NetRule{Allow: r.Key != "deniedDomains", Rule: id}
	if r.Key == "allowedCIDRs" {
		p, port, err := policy.ParseCIDR(r.Value)
		n.Prefix, n.Port = p.String(), port
		return n, err
	}
	h, err := policy.ParseHost(r.Value)
	if err != nil {
		return n, err
	}
	n.Port = h.Port
	switch {
	case h.All:
		n.Name = "*"
	case h.Addr.IsValid():
		n.Prefix = netip.PrefixFrom(h.Addr, h.Addr.BitLen()).String()
	case h.Wild:
		n.Name = "*." + h.Name
	default:
		n.Name = h.Name
	}
	return n, nil
}

// partly says what a rule does not do, "" if it does all that it says.
func partly(n plan.NetRule) string {
	p, _ := netip.ParsePrefix(n.Prefix)
	switch {
	case !own(strings.TrimPrefix(n.Name, "*."), p.Addr()):
	case n.Allow:
		return "inside, localhost and loopback addresses are the inside's own: this machine's are reached through the proxy, or by another name, and then need a range"
	default:
		return "inside, localhost and loopback addresses are the inside's own, and stay open to it; this machine's are closed"
	}
	if !n.Allow || !p.IsValid() {
		return ""
	}
	inside := decide.Within(p)
	if len(inside) == 0 {
		return ""
	}
	more := ""
	if len(inside) > 3 {
		inside, more = inside[:3], fmt.Sprintf(" and %d more", len(inside)-3)
	}
	return "special addresses in it need rules of their own: " + strings.Join(inside, ", ") + more
}

// own says whether a name or an address stands for the inside itself: what goes
// there never comes to the gateway.
func own(name string, a netip.Addr) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || a.IsLoopback()
}

// proxyVariables tell programs of the gateway's proxies. All connections come to
// the gateway without them too; a program that reads them gets its refusals as
// sentences. ALL_PROXY names the HTTP proxy as well: of a socks5h address some HTTP
// libraries make an error at their start.
func proxyVariables() map[string]string {
	proxy := "http://127.0.0.1:" + strconv.Itoa(plan.ProxyHTTPPort)
	return map[string]string{"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy, "NO_PROXY": "localhost,127.0.0.1,::1"}
}

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
	e.Allowed, e.Text = v.Allow, v.Reason
	by, ok := c.p.Rule(v.Rule)
	if ok {
		e.by(by.Text, "", by.Origin)
	}
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
	case v.Allow && c.p.Network.Mode != "gateway":
		e.Allowed = false
		e.Text = e.Subject + " can't be reached, although a rule allows it: " + by.Note
		e.Change = "cofferdam doctor says what this machine lacks"
	case v.Allow:
		e.Text += "; the address that it leads to is judged when it is dialled"
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

// ResolverFiles say how programs find the address of a name; Facts have to know them.
var ResolverFiles = []string{"/etc/hosts", "/etc/resolv.conf"}

// resolver lets every name be asked of the gateway. The host's own list would give
// addresses of the host's network to programs, past the names that rules speak of, and
// its servers may be behind an interface that is not here.
func (c *compiler) resolver() {
	if c.p.Network.Mode != "gateway" {
		return
	}
	content := map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.0.1 " + c.p.Identity.Hostname + "\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\n",
	}
	for _, name := range ResolverFiles {
		fact := c.in.Facts.Paths[name]
		if fact.Real == "" || fact.RealKind != host.KindFile {
			continue // there is nothing to cover, and without it the gateway is asked too
		}
		c.match(fact.Real)
		if c.decide(fact.Real).read {
			c.p.Mounts = append(c.p.Mounts, plan.Mount{Kind: plan.File, Target: fact.Real, Content: content[name]})
		}
	}
}
