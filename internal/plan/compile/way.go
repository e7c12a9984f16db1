package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// way is how connections come to the gateway.
type way struct {
	Mechanism string // of plan.Network; "": there is none
	Ports     []int
}

// maxPorts are listened on at most, where connections can't be turned.
const maxPorts = 64

// way chooses the best that this machine can do; why says what it lacks for the best of
// all.
func (c *compiler) way(rules []plan.NetRule) (w way, why string) {
	m := c.in.Facts.Mechanism(host.Nftables)
	if m.Answer == host.Yes {
		return way{Mechanism: "nft-redirect"}, ""
	}
	why = "nftables: " + m.Detail
	if m.Answer == host.Unknown {
		why = "could not tell about " + why
	}
	if m.Remedy != "" {
		why += "; " + m.Remedy
	}
	switch c.in.Facts.Mechanism(host.AnyIP).Answer {
	case host.Yes:
		return way{"any-ip", portsOf(rules)}, why
	case host.No:
		return way{Mechanism: "proxy"}, why
	}
	return way{}, why
}

// portsOf are those that rules name, and those of the web for rules that name none.
func portsOf(rules []plan.NetRule) []int {
	ports := []int{80, 443}
	for _, n := range rules {
		if (n.Allow || n.Ask) && n.Port != 0 && !slices.Contains(ports, n.Port) && !ownPort(n.Port) {
			ports = append(ports, n.Port)
		}
	}
	ports = ports[:min(len(ports), maxPorts)]
	slices.Sort(ports)
	return ports
}

// ownPort: something else of the gateway's listens there inside.
func ownPort(port int) bool {
	return port == 53 || port == plan.ProxyHTTPPort || port == plan.ProxySOCKSPort
}

// misses says what of an allowing rule does not come to the gateway by itself; "" if all
// of it does. By the proxies inside everything comes.
func (w way) misses(n plan.NetRule) string {
	const rest = "without nftables the gateway gets the rest only from programs that use the proxy inside (HTTPS_PROXY is set)"
	switch {
	case !n.Allow && !n.Ask:
	case w.Mechanism == "proxy":
		return "without nftables, and without a route for every address, it is for programs that use the proxy inside (HTTPS_PROXY is set)"
	case w.Mechanism != "any-ip":
	case strings.Contains(n.Prefix, ":"):
		return "IPv6: " + rest
	case n.Port == 0:
		return "ports " + ports(w.Ports) + ": " + rest
	case !slices.Contains(w.Ports, n.Port):
		return "port " + strconv.Itoa(n.Port) + ": " + rest
	}
	return ""
}

func ports(list []int) string {
	var out []string
	for _, p := range list {
		out = append(out, strconv.Itoa(p))
	}
	return strings.Join(out, ", ")
}

// fallback tells what the way that is taken is worse in than the best: less comes to the
// gateway, and what does not is refused by the kernel.
func (c *compiler) fallback(why string) {
	gap := plan.Gap{Because: why, Missing: "way to bring every connection to the gateway"}
	switch c.p.Network.Mechanism {
	case "any-ip":
		gap.Because += "; in its place, connections to IPv4 addresses at ports " + ports(c.p.Network.Ports) + " are, and questions for names to 127.0.0.1; others, and name servers that a program names itself, are refused"
		if busy := slices.DeleteFunc(slices.Clone(c.p.Network.Ports), func(p int) bool { return p < 1024 }); len(busy) > 0 {
			gap.Because += fmt.Sprintf("; a server inside can't listen on %s", ports(busy))
		}
	case "proxy":
		gap.Because += "; and " + c.in.Facts.Mechanism(host.AnyIP).Detail + ", so the gateway gets only what programs send to the proxy inside (HTTPS_PROXY is set)"
	default:
		return
	}
	gap.Remedy = "cofferdam doctor says what this machine lacks"
	c.p.Gaps = append(c.p.Gaps, gap)
}

func join(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}
