package compile

import (
	"errors"
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

// netRules makes the gateway's rules of those of the policy, as they are meant, whatever
// the machine and the gateway can do; ids are theirs in the plan.
func (c *compiler) netRules() (out []plan.NetRule) {
	add := func(n plan.NetRule, err error) {
		if err == nil {
			_, err = decide.Compile([]plan.NetRule{n})
		}
		if err == nil {
			out = append(out, n)
			return
		}
		// The reader of policies refuses these. A denial that can't be carried out
		// stops the run; what it denies could be reached.
		st := &c.p.Rules[n.Rule-1]
		st.Status, st.Note = plan.Impossible, err.Error()
		if !n.Allow && !n.Ask {
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the rule " + st.Text, Because: st.Note, Remedy: "write it otherwise, or take it out", Rule: n.Rule})
		}
	}
	for _, r := range slices.Concat(c.in.Policy.Net, c.registries()) {
		n, err := netRule(r, c.rule(r.Text(), r.Origin, plan.Enforced, "gateway", ""))
		var tunnel *decide.Conflict
		if _, cerr := decide.Compile(append(slices.Clone(out), n)); err == nil && r.Key == "registry" && errors.As(cerr, &tunnel) {
			// A person's rule that keeps its TLS closed allows all of it.
			by, _ := c.p.Rule(tunnel.Tunnel.Rule)
			c.p.Rules[n.Rule-1].Note = "it is allowed whole, by " + by.Text
			continue
		}
		add(n, err)
	}
	if u := c.in.Policy.Unlisted; u.Value == policy.Ask {
		id := c.rule("unlisted ask", u.Origin, plan.Enforced, "gateway", "")
		add(plan.NetRule{Ask: true, Name: "*", Rule: id}, nil)
	}
	return out
}

// network gives the gateway what it can carry out of the policy's rules, and returns
// them all as they are meant. There is a gateway if there is something to allow and
// connections can be brought to it; else nothing outside can be reached at all.
func (c *compiler) network() []plan.NetRule {
	meant := c.openFor(c.netRules())
	out := []plan.NetRule{}
	allows := slices.ContainsFunc(meant, func(n plan.NetRule) bool { return n.Allow || n.Ask && c.nobody() == "" })
	for _, n := range meant {
		if why := c.nobody(); n.Ask && why != "" {
			st := &c.p.Rules[n.Rule-1]
			st.Status, st.Note = plan.Impossible, why
			continue
		}
		c.p.Network.Inspect = c.p.Network.Inspect || (n.Allow || n.Ask) && !n.Tunnel
		out = append(out, n)
	}
	c.contradiction(out)
	c.meant = c.budgets(out)
	defer c.upstream()
	way, why := c.way(out)
	switch {
	case allows && way.Mechanism != "":
		c.p.Network.Mode, c.p.Network.Mechanism, c.p.Network.Ports, c.p.Network.Rules = "gateway", way.Mechanism, way.Ports, out
		c.p.Network.Budgets = c.meant
		c.fallback(why)
	case allows:
		why = "connections can't be brought to the gateway here: " + why
	}
	gateway := c.p.Network.Mode == "gateway"
	c.p.Network.Inspect = c.p.Network.Inspect && gateway
	defer c.reachable(out)
	for _, b := range c.meant {
		if st := &c.p.Rules[b.Rule-1]; !gateway && st.Status != plan.Impossible {
			st.Status, st.Mechanism, st.Note = plan.Enforced, "net-namespace", "nothing outside can be reached"
		}
	}
	for _, n := range out {
		st := &c.p.Rules[n.Rule-1]
		if !gateway {
			st.Mechanism, st.Note = "net-namespace", "nothing outside can be reached"
		}
		if (n.Allow || n.Ask) && !gateway {
			st.Status, st.Note = plan.Impossible, why
		} else if note := join(partly(n), way.misses(n)); note != "" {
			st.Status, st.Note = plan.Coarse, note
		}
	}
	return meant
}

// nobody says why nobody can be asked, "" if somebody can.
func (c *compiler) nobody() string {
	if c.in.Unattended {
		return "the run is unattended, so nobody is asked and it is denied"
	}
	return ""
}

// contradiction stops a run in which one rule needs opened what another keeps closed.
func (c *compiler) contradiction(rules []plan.NetRule) {
	_, err := decide.Compile(rules)
	if err == nil {
		return
	}
	gap := plan.Gap{Required: true, Missing: "one meaning of the network rules", Because: err.Error(), Remedy: "take one of them out"}
	var two *decide.Conflict
	if errors.As(err, &two) {
		only, _ := c.p.Rule(two.Only.Rule)
		tunnel, _ := c.p.Rule(two.Tunnel.Rule)
		gap.Rule, gap.Because = only.ID, fmt.Sprintf("%s (%s) keeps TLS closed there, so nobody sees what %s (%s) speaks of", tunnel.Text, place(tunnel.Origin), only.Text, place(only.Origin))
		gap.Remedy = "take one of the two out, or name a host or port that is not in both"
	}
	c.p.Gaps = append(c.p.Gaps, gap)
}

// place is where a rule stands.
func place(o plan.Origin) string {
	if o.File == "" {
		return o.Layer
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}

// registries makes rules of what the person's tools say of where they get packages: to
// fetch them, and not to publish. An address is allowed as one: the person's own
// configuration names it.
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
			out = append(out, policy.NetRule{Key: "registry", Value: authority(r), Origin: from, Only: &plan.Requests{Acts: []string{decide.PackageInstall}}})
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

// netRule reads a rule as written. Allow is right in any case.
func netRule(r policy.NetRule, id int) (plan.NetRule, error) {
	n := plan.NetRule{Rule: id, Tunnel: r.Key == "tunnelDomains" || r.TLS == "tunnel", Only: r.Only, Reason: r.Reason}
	n.Allow = r.Key != "deniedDomains" && (r.Key != "rules" || r.Effect == policy.Allow)
	n.Ask = r.Effect == policy.Ask
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
	case n.Allow || n.Ask:
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
