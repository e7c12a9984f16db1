package flow

import (
	"crypto/x509"
	"fmt"
	"slices"
	"sync"

	"cofferdam/internal/gateway"
	"cofferdam/internal/gateway/authority"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
)

// upstream is what the plan says of proxies, with the user and the password that the
// environment has for them and the plan has not.
func upstream(of *plan.Plan, environ []string, inspect *gateway.Inspection) (*gateway.Upstream, error) {
	p := of.Network.Upstream
	if p == nil {
		return nil, nil
	}
	direct, _ := decide.CompileDirect(p.Direct) // compile has left out what is wrong
	u := &gateway.Upstream{Direct: direct}
	if inspect != nil {
		u.Roots = inspect.Roots
	} else {
		roots, err := authority.Roots(nil, environ, compile.RootFiles)
		if err != nil {
			return nil, &UsageError{Text: err.Error(), Hint: "correct the variable, or unset it"}
		}
		extra, err := extraRoots(of)
		if err != nil {
			return nil, err
		}
		u.Roots = sync.OnceValue(func() *x509.CertPool { return authority.Pool(slices.Concat(extra, roots)) })
	}
	for _, one := range []struct {
		address string
		to      **gateway.Proxy
		read    func([]string) (compile.Proxy, error)
	}{{p.HTTP, &u.HTTP, compile.HTTPProxy}, {p.HTTPS, &u.HTTPS, compile.HTTPSProxy}} {
		if one.address == "" {
			continue
		}
		from, read := environ, one.read
		if !p.Environment {
			from, read = []string{"HTTPS_PROXY=" + one.address}, compile.HTTPSProxy
		}
		x, err := read(from)
		if err != nil || x.Address() != one.address {
			return nil, fmt.Errorf("network: the plan's proxy upstream %s is not that of the environment", one.address)
		}
		*one.to = &gateway.Proxy{Secure: x.Secure, Host: x.Host, Port: x.Port, User: x.User, Password: x.Password}
	}
	return u, nil
}

// tellUnused says that the person's environment names a proxy, which is not used.
func tellUnused(c Caller, p *plan.Plan, eff *policy.Effective) {
	name, address := compile.UnusedProxy(p, eff, c.Environ)
	if name == "" {
		return
	}
	if address != "" {
		address = " (" + address + ")"
	}
	c.tell("your "+name+address+" is not used: the gateway connects by itself", "", `"network": {"upstreamProxy": "environment"} in your policy uses it, "none" keeps this quiet`)
}
