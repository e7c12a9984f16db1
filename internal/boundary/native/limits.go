package native

import (
	"math"
	"syscall"

	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/limits"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/plan"
)

// resourceLimits are the ceilings that a process carries itself. The rest is held
// by the tmpfs sizes and the kernel's pid_max (compile.go), a control group
// (group.go), or the supervisor.
//
// seed says which processors: the same ones for all commands of a boundary.
func resourceLimits(list []plan.Limit, seed int) ([]call.Call, error) {
	rlimits, err := limits.Rlimits(list, func(resource int) uint64 {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(resource, &l); err != nil {
			return math.MaxUint64 // a limit above the hard one fails the start
		}
		return l.Max
	})
	if err != nil {
		return nil, err
	}
	var calls []call.Call
	for _, l := range rlimits {
		calls = append(calls, process.Limit(l.Name, l.Resource, l.Soft, l.Hard))
	}
	for _, l := range list {
		if l.Name == "cpus" && l.Mechanism == "affinity" {
			allowed, err := process.Processors()
			if err != nil {
				return nil, err
			}
			calls = append(calls, process.Affinity(limits.Mask(limits.Affinity(allowed, l.Value, seed))))
		}
	}
	return calls, nil
}
