package flow

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/host/probe"
)

// tryOnce puts into f what a trial of the mechanism says, and remembers a yes in the
// state directory until the machine is started again: a trial takes longer than a
// start. It remembers no refusal, so that a remedy is noticed at once. A yes that is
// no longer true opens nothing: the boundary does not start then.
func tryOnce(ctx context.Context, state string, f *host.Facts, name string) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	now := strings.TrimSpace(string(boot)) + " " + f.Kernel + "\n"
	file := filepath.Join(state, "tried-"+name)
	if before, rerr := os.ReadFile(file); err == nil && rerr == nil && string(before) == now {
		for i := range f.Mechanisms {
			if m := &f.Mechanisms[i]; m.Name == name {
				m.Answer, m.Detail, m.Remedy = host.Yes, "a trial succeeded since this machine was started", ""
			}
		}
		return
	}
	probe.Try(ctx, f, name)
	if err == nil && f.Mechanism(name).Answer == host.Yes {
		_ = os.WriteFile(file, []byte(now), 0o600) // without it there is a trial again
	}
}

// tryGateway tries how connections can be brought to the gateway; what is worse only if
// the better is not there.
func tryGateway(ctx context.Context, state string, f *host.Facts) {
	if tryOnce(ctx, state, f, host.Nftables); f.Mechanism(host.Nftables).Answer != host.Yes {
		tryOnce(ctx, state, f, host.AnyIP)
	}
}
