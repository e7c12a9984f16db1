package limits

import (
	"math"
	"slices"
	"testing"

	"cofferdam/internal/plan"
)

func TestRlimits(t *testing.T) {
	hard := func(resource int) uint64 {
		if resource == NoFile {
			return 4096
		}
		return math.MaxUint64
	}
	got, err := Rlimits([]plan.Limit{
		{Name: "memory", Value: 1, Unit: "bytes", Mechanism: "cgroup-v2"},
		{Name: "processes", Value: 300, Unit: "count", Mechanism: "rlimit", Rule: 4},
		{Name: "open-files", Value: 10000, Unit: "count", Mechanism: "rlimit", Rule: 5},
	}, hard)
	want := []Rlimit{
		{Core, "RLIMIT_CORE", 1, 1, 0},
		{NProc, "RLIMIT_NPROC", 300, 300, 4},
		{NoFile, "RLIMIT_NOFILE", 4096, 4096, 5},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, l := range []plan.Limit{
		{Name: "time", Value: 1, Unit: "ms", Mechanism: "rlimit"},
		{Name: "open-files", Value: 1, Unit: "bytes", Mechanism: "rlimit"},
		{Name: "open-files", Value: -1, Unit: "count", Mechanism: "rlimit"},
	} {
		if got, err := Rlimits([]plan.Limit{l}, hard); err == nil {
			t.Errorf("%v: %v", l, got)
		}
	}
}

func TestAffinity(t *testing.T) {
	for _, c := range []struct {
		allowed []int
		milli   int64
		seed    int
		want    []int
	}{
		{[]int{0, 1, 2, 3}, 1000, 0, []int{3}},
		{[]int{0, 1, 2, 3}, 1500, 0, []int{3, 2}},
		{[]int{0, 1, 2, 3}, 1500, 1, []int{1, 0}},
		{[]int{0, 1, 2, 3}, 1, -7, []int{0}},
		{[]int{2, 5}, 8000, 0, []int{2, 5}},
		{[]int{2}, 0, 0, []int{2}},
	} {
		if got := Affinity(c.allowed, c.milli, c.seed); !slices.Equal(got, c.want) {
			t.Errorf("%v %d %d: %v, want %v", c.allowed, c.milli, c.seed, got, c.want)
		}
	}
	if got := Mask([]int{0, 3, 65}); !slices.Equal(got, []uint64{9, 2}) {
		t.Errorf("%v", got)
	}
}
