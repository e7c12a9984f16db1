package compile

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// Proxies are the variables that name a proxy, the strongest first: what libcurl and Go
// read. The last one is for what the others don't name.
var (
	httpProxies  = []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
	httpsProxies = []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
	noProxies    = []string{"no_proxy", "NO_PROXY"}
)

// upstream says by which proxies the gateway reaches the outside.
func (c *compiler) upstream() {
	set := c.in.Policy.UpstreamProxy
	if set.Value == "" || set.Value == "none" {
		for _, s := range c.in.Policy.NoProxy {
			c.rule("noProxy "+s.Value, s.Origin, plan.Enforced, "gateway", "there is no proxy upstream")
		}
		return
	}
	id := c.rule("upstreamProxy "+set.Value, set.Origin, plan.Enforced, "gateway", "")
	st := &c.p.Rules[id-1]
	u := &plan.Upstream{HTTP: set.Value, HTTPS: set.Value, Rule: id}
	if set.Value == "environment" {
		u.HTTP, u.HTTPS, u.Environment = "", "", true
		for _, v := range []struct {
			to    *string
			names []string
		}{{&u.HTTP, httpProxies}, {&u.HTTPS, httpsProxies}} {
			p, name, err := ProxyOf(c.in.Environ, v.names)
			if err != nil {
				st.Status, st.Note = plan.Impossible, name+": "+err.Error()
				c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the proxy that " + name + " names", Because: err.Error(),
					Remedy: "correct the variable, or write the proxy into network.upstreamProxy", Rule: id})
				return
			}
			*v.to = p.Address()
		}
		_, list := first(c.in.Environ, noProxies)
		for s := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
			// What nobody understands goes by the proxy, as with other programs.
			if _, err := decide.CompileDirect([]string{s}); err == nil {
				u.Direct = append(u.Direct, s)
			}
		}
	}
	closed := c.p.Network.Mode != "gateway"
	for _, s := range c.in.Policy.NoProxy {
		id := c.rule("noProxy "+s.Value, s.Origin, plan.Enforced, "gateway", "")
		if closed {
			c.p.Rules[id-1].Mechanism, c.p.Rules[id-1].Note = "net-namespace", "nothing outside can be reached"
		}
		u.Direct = append(u.Direct, s.Value)
	}
	st = &c.p.Rules[id-1]
	if closed {
		st.Mechanism, st.Note = "net-namespace", "nothing outside can be reached"
		return
	}
	switch {
	case u.HTTP == "" && u.HTTPS == "":
		st.Note = "no variable names one, so the gateway connects by itself"
		return
	case u.HTTP == u.HTTPS:
		st.Note = "by " + u.HTTP
	default:
		st.Note = "requests in the clear " + by(u.HTTP) + ", all else " + by(u.HTTPS)
	}
	st.Note += "; it finds where names lead, so that a name that leads to a private address or to a cloud's metadata is not refused here"
	c.p.Network.Upstream = u
	for _, b := range c.p.Network.Budgets {
		if st := &c.p.Rules[b.Rule-1]; b.Prefix != "" && st.Status == plan.Enforced {
			st.Status, st.Note = plan.Coarse, "what names lead there is not counted: the proxy upstream finds where they lead"
		}
	}
	// A denial of addresses is for those that are asked for as such.
	for _, n := range c.p.Network.Rules {
		if st := &c.p.Rules[n.Rule-1]; !n.Allow && !n.Ask && n.Prefix != "" && st.Status == plan.Enforced {
			st.Status, st.Note = plan.Coarse, "names that lead there are not denied: the proxy upstream finds where they lead"
		}
	}
}

func by(proxy string) string {
	if proxy == "" {
		return "directly"
	}
	return "by " + proxy
}

// Proxy is what a variable says.
type Proxy struct {
	Secure         bool
	Host           string
	Port           uint16
	User, Password string
}

// Address is the proxy without what is secret; "" of none.
func (p Proxy) Address() string {
	if p.Host == "" {
		return ""
	}
	scheme, host := "http", p.Host
	if p.Secure {
		scheme = "https"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + ":" + strconv.Itoa(int(p.Port))
}

// HTTPProxy and HTTPSProxy are what the variables of an environment say; no Host: nothing.
func HTTPProxy(environ []string) (Proxy, error)  { return proxyOnly(environ, httpProxies) }
func HTTPSProxy(environ []string) (Proxy, error) { return proxyOnly(environ, httpsProxies) }

func proxyOnly(environ, names []string) (Proxy, error) {
	p, _, err := ProxyOf(environ, names)
	return p, err
}

// ProxyOf reads the first variable that is set. No error has anything of its value, which
// may have a password in it.
func ProxyOf(environ, names []string) (p Proxy, name string, err error) {
	name, value := first(environ, names)
	if value == "" {
		return p, "", nil
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil {
		return p, name, fmt.Errorf("it is no address")
	}
	port := map[string]uint16{"http": 80, "https": 443}[u.Scheme]
	if port == 0 {
		return p, name, fmt.Errorf("its scheme is neither http nor https; no other proxy can be used")
	}
	if s := u.Port(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return p, name, fmt.Errorf("its port is none")
		}
		port = uint16(n)
	}
	authority := u.Hostname() + ":" + strconv.Itoa(int(port))
	if strings.Contains(u.Hostname(), ":") {
		authority = "[" + u.Hostname() + "]:" + strconv.Itoa(int(port))
	}
	h, err := policy.ParseHost(authority)
	if err != nil || h.All || h.Wild {
		return p, name, fmt.Errorf("it names no host")
	}
	p = Proxy{Secure: u.Scheme == "https", Host: u.Hostname(), Port: port}
	if u.User != nil {
		p.User = u.User.Username()
		p.Password, _ = u.User.Password()
	}
	if strings.Contains(p.User, ":") {
		return Proxy{}, name, fmt.Errorf("its user name has a colon in it")
	}
	return p, name, nil
}

// judgedLater says what becomes of the address that a name leads to.
func (c *compiler) judgedLater(name string, a netip.Addr, port uint16) string {
	if u := c.p.Network.Upstream; u != nil {
		if d, _ := decide.CompileDirect(u.Direct); !d.Has(name, a, port) {
			return "; the proxy upstream finds the address that it leads to, and nobody judges it"
		}
	}
	return "; the address that it leads to is judged when it is dialled"
}

// first is the first of the variables that is set, and its value.
func first(environ, names []string) (name, value string) {
	for _, n := range names {
		for _, e := range slices.Backward(environ) {
			if v, ok := strings.CutPrefix(e, n+"="); ok {
				if v != "" {
					return n, v
				}
				break
			}
		}
	}
	return "", ""
}

// UnusedProxy says which variable of the environment names a proxy that the gateway does not
// use although nobody has said so; "" if there is none.
func UnusedProxy(p *plan.Plan, eff *policy.Effective, environ []string) (name, address string) {
	if p.Network.Mode != "gateway" || eff.UpstreamProxy.Value != "" {
		return "", ""
	}
	for _, names := range [][]string{httpsProxies, httpProxies} {
		proxy, name, err := ProxyOf(environ, names)
		if name != "" && err == nil {
			return name, proxy.Address()
		}
		if name != "" {
			return name, ""
		}
	}
	return "", ""
}
