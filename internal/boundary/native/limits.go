package native

import (
	"syscall"

	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/plan"
)

// rlimitNPROC is RLIMIT_NPROC, which package syscall does not name. It is counted
// per user and user namespace, so here it counts the inside alone; uid 0 of the
// host is exempt (setrlimit(2)).
const rlimitNPROC = 6

// resourceLimits are the ceilings that a process carries itself. The rest is held
// by the tmpfs sizes (compile.go), the kernel's pid_max, a cgroup (start.go) or
// the supervisor.
func resourceLimits(list []plan.Limit) []call.Call {
	// No core files: they would carry the memory of what is inside to
	// wherever the host's core_pattern says (core(5)).
	calls := []call.Call{process.Limit("core files", syscall.RLIMIT_CORE, 0, 0)}
	for _, l := range list {
		switch {
		case l.Name == "open-files" && l.Mechanism == "rlimit":
			calls = append(calls, process.Limit("open files", syscall.RLIMIT_NOFILE, uint64(l.Value), uint64(l.Value)))
		case l.Name == "processes" && (l.Mechanism == "rlimit" || l.Mechanism == "pid_max"):
			calls = append(calls, process.Limit("processes", rlimitNPROC, uint64(l.Value), uint64(l.Value)))
		case l.Name == "cpus" && l.Mechanism == "affinity":
			if c, ok := process.Affinity(int((l.Value + 999) / 1000)); ok {
				calls = append(calls, c)
			}
		}
	}
	return calls
}
