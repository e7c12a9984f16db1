package flow

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/gateway"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/host"
	"cofferdam/internal/host/registry"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/policy"
)

// needsGateway says whether anything is let out; what is not is spared the trial of
// the mechanism.
func needsGateway(eff *policy.Effective, f *host.Facts) bool {
	return eff.Unlisted.Value == policy.Ask ||
		slices.ContainsFunc(eff.Net, func(r policy.NetRule) bool { return r.Key != "deniedDomains" && r.Effect != policy.Deny }) ||
		slices.ContainsFunc(f.Asked, func(a host.Asked) bool { return len(a.Registries) > 0 })
}

// askTools asks the person's tools for their registries, if the policy wants to know.
func askTools(ctx context.Context, eff *policy.Effective, f *host.Facts, workspace, state string, environ []string) {
	if len(eff.Asked) == 0 {
		return
	}
	var names []string
	for _, a := range eff.Asked {
		names = append(names, a.Tool)
	}
	open := []string{workspace}
	for _, r := range eff.Paths {
		if r.Access == policy.AllowWrite && !r.Glob {
			open = append(open, r.Pattern)
			if real := f.Paths[r.Pattern].Real; real != "" {
				open = append(open, real)
			}
		}
	}
	asker := registry.Asker{Environ: environ, Home: f.Home, Open: open, File: filepath.Join(state, "registries.json"), Now: time.Now}
	f.Asked = asker.Ask(ctx, names)
}

// serveNetwork answers, from now on, for the network of the inside.
func (r *run) serveNetwork(s boundary.Sockets) error {
	rules, err := decide.Compile(r.plan.Network.Rules)
	if err != nil {
		return err // compile has made them of the same
	}
	r.rules = rules
	destination := netns.Destination
	if r.plan.Network.Mechanism != "nft-redirect" {
		destination = netns.Local
	}
	config := gateway.Config{Rules: rules, Sockets: s, Destination: destination, Record: r.network, Inspect: r.inspection, Credentials: r.credentials, Budgets: r.plan.Network.Budgets}
	if config.Upstream, err = upstream(r.plan, r.caller.Environ, r.inspection); err != nil {
		return err
	}
	if r.openBoard(); r.board != nil {
		config.Ask = r.ask
	}
	r.gateway, err = gateway.New(config)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	go r.gateway.Serve()
	return nil
}

// closeGateway ends what still lives of the network; nothing inside is alive by then.
func (r *run) closeGateway() {
	r.closeBoard()
	if r.gateway != nil {
		_ = r.gateway.Close()
	}
}

// network records what the gateway has decided and carried. That a connection is allowed
// is no event: that it was opened, or could not be, is.
func (r *run) network(f gateway.Fact) error {
	e := event.Event{Subject: destination(f.Name, f.Dest, f.Port), Detail: "by " + f.Via}
	if rule, ok := r.plan.Rule(f.Verdict.Rule); ok {
		e.Rule, e.Origin = rule.Text, Place(rule.Origin)
	}
	if f.Method != "" {
		e.To = f.Method + " " + f.Path // not in Detail: requests for two paths are not the same again
		if f.Verdict.Act != "" {
			e.Detail += " (" + f.Verdict.Act + ")"
		}
	}
	if f.Proxy != "" {
		e.Detail += " through " + f.Proxy
	}
	switch {
	case f.Kind == gateway.Decided && f.Verdict.Ask:
		return nil // a question for a name: it is the connection that waits
	case f.Kind == gateway.Decided && !f.Verdict.Allow:
		e.Kind, e.Action, e.Access, e.Reason = event.Denied, "connect", "network", f.Verdict.Reason
		switch f.Verdict.Code {
		case gateway.Spent:
			e.Access = "budget"
		case decide.NotAllowed, gateway.Unanswered, gateway.Declined:
			// A rule for the host would open it, unless the host is open and the
			// request is not one of those that may be made.
			host := r.rules.Connect(f.Name, f.Port)
			if f.Name == "" {
				host = r.rules.ConnectAddr(netip.AddrPortFrom(f.Dest, f.Port))
			}
			if f.Method == "" || !host.Allow {
				e.Access = "connect"
			}
		}
		switch {
		case f.Method != "":
			e.Action = "request"
		case f.Port == 0:
			e.Action = "resolve"
		}
	case f.Kind == gateway.Decided && f.Port == 0:
		e.Kind, e.Action = event.Network, "resolve"
	case f.Kind == gateway.Decided && f.Method != "":
		e.Kind, e.Action = event.Network, "request"
	case f.Kind == gateway.Put:
		e.Kind, e.Action, e.Detail = event.Network, "put", "put in: the value of "+strings.Join(f.Credentials, ", ")
	case f.Kind == gateway.Opened:
		e.Kind, e.Action, e.To = event.Network, "open", f.Actual.String()
	case f.Kind == gateway.Ended && f.Actual.IsValid():
		e.Kind, e.Action, e.To, e.Reason = event.Network, "close", f.Actual.String(), f.Err
		e.BytesOut, e.BytesIn, e.Lasted = f.BytesOut, f.BytesIn, int64(f.Duration)
	case f.Kind == gateway.Ended:
		e.Kind, e.Action, e.Reason = event.Network, "fail", f.Err
	default:
		return nil
	}
	return r.recorder.add(e)
}

// destination is a name or an address with the port, if there is one.
func destination(name string, a netip.Addr, port uint16) string {
	if a.IsValid() {
		name = a.String()
	}
	if port == 0 {
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(int(port)))
}
