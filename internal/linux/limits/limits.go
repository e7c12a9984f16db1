// Package limits turns a plan's limits into what one process can be given:
// rlimits and a CPU mask. It only computes; the boundary sets them in the
// child.
package limits

import (
	"fmt"

	"cofferdam/internal/plan"
)

// Rlimit is one setrlimit(2).
type Rlimit struct {
	Resource   int    // RLIMIT_*, as Linux numbers them on amd64 and arm64
	Name       string // "RLIMIT_NOFILE"
	Soft, Hard uint64
	Rule       int // plan rule ID, 0 for our own
}

// Numbers from asm-generic/resource.h, which amd64 and arm64 use.
const (
	FSize  = 1
	Core   = 4
	NProc  = 6
	NoFile = 7
)

var resources = []struct {
	limit, unit string
	resource    int
	name        string
}{
	{"processes", "count", NProc, "RLIMIT_NPROC"},
	{"open-files", "count", NoFile, "RLIMIT_NOFILE"},
	{"file-size", "bytes", FSize, "RLIMIT_FSIZE"},
}

// Rlimits returns what the plan holds by "rlimit", and always RLIMIT_CORE=1: a
// core file would carry the memory of a process to disk, or to a handler outside.
// One byte is too little for a file, and the one value that also keeps the kernel
// from starting the handler of core_pattern (core(5), do_coredump): with 0 that
// runs, as root and outside, on what the inside chose to crash. Soft equals hard, so that nothing inside can raise it. hard is our
// own hard limit of a resource: without CAP_SYS_RESOURCE it can only be
// lowered, and a lower one is stricter than asked.
//
// RLIMIT_NPROC counts the tasks of the user in the user namespace and is not
// looked at for root; the plan says which mechanism holds.
func Rlimits(p []plan.Limit, hard func(resource int) uint64) ([]Rlimit, error) {
	one := min(1, hard(Core))
	out := []Rlimit{{Resource: Core, Name: "RLIMIT_CORE", Soft: one, Hard: one}}
	for _, l := range p {
		if l.Mechanism != "rlimit" {
			continue
		}
		found := false
		for _, r := range resources {
			if r.limit != l.Name {
				continue
			}
			if l.Unit != r.unit || l.Value <= 0 {
				return nil, fmt.Errorf("limit %s: %d %s can't be an rlimit", l.Name, l.Value, l.Unit)
			}
			v := min(uint64(l.Value), hard(r.resource))
			out = append(out, Rlimit{r.resource, r.name, v, v, l.Rule})
			found = true
		}
		if !found {
			return nil, fmt.Errorf("limit %s: no rlimit holds it", l.Name)
		}
	}
	return out, nil
}

// Affinity chooses the CPUs for a limit held by "affinity": as many whole
// CPUs of allowed as milli is, rounded up, at least one. It is coarse: 1500
// gives two whole CPUs. The last ones are taken, the first are where a
// machine does its own work; seed (a session's number) spreads sessions.
func Affinity(allowed []int, milli int64, seed int) []int {
	n := int((milli + 999) / 1000)
	if n < 1 {
		n = 1
	}
	if n >= len(allowed) {
		return allowed
	}
	if seed = seed % len(allowed); seed < 0 {
		seed = -seed
	}
	out := make([]int, 0, n)
	for i := range n {
		k := (seed*n + i) % len(allowed)
		out = append(out, allowed[len(allowed)-1-k])
	}
	return out
}

// Mask is the bit set that sched_setaffinity(2) takes, in
// 64-bit words.
func Mask(cpus []int) []uint64 {
	var out []uint64
	for _, c := range cpus {
		for c/64 >= len(out) {
			out = append(out, 0)
		}
		out[c/64] |= 1 << (c % 64)
	}
	return out
}
