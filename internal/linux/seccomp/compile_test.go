//go:build linux

package seccomp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func compiled(t testing.TB, arch Arch, action Action) Program {
	t.Helper()
	p, err := Compile(arch, Rules(), action)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var refusal = map[Action]uint32{Errno: 0x50001, Notify: 0x7fc00000}

// interesting values sit on and beside every edge of the rules.
var interesting = []uint64{
	0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 15, 16, 17, 18, 38, 40, 58, 132, 262, 0x80, 0x200, 0x400, 0x800, 0x80801, 0x80802,
	0x80803, 0x8080a, 0x5411, 0x5412, 0x5413, 0x541c, 0x5423, 0x5424, 0x20000, 0x20008, 0x40000, 0x40008, 0x40600, 0x400000,
	0x100000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80000000, 0x3d0f00, 0x1200011,
	0xffffffff, 0xfffffffe, 0xffffffffffffffff,
}

func randomCall(r *rand.Rand, arch Arch) call {
	c := call{arch: arch.audit(), nr: r.Uint32N(480)}
	if r.IntN(2) == 0 { // half of the time a call that has rules
		if n := rules[r.IntN(len(rules))].Number[arch]; n != none {
			c.nr = uint32(n)
		}
	}
	switch r.IntN(40) {
	case 0:
		c.nr = r.Uint32()
	case 1:
		c.nr |= 0x40000000
	case 2:
		c.nr = 0xffffffff
	case 3:
		c.arch = []uint32{0x40000003, 0xc000003e, 0xc00000b7, 0x40000028, 0}[r.IntN(5)]
	}
	for i := range c.args {
		c.args[i] = interesting[r.IntN(len(interesting))]
		switch r.IntN(8) {
		case 0:
			c.args[i] = r.Uint64()
		case 1:
			c.args[i] |= r.Uint64() << 32
		case 2:
			c.args[i] ^= 1 << r.IntN(64)
		}
	}
	return c
}

func check(t *testing.T, arch Arch, action Action, p Program, names map[uint32]string, c call) {
	t.Helper()
	got, _, err := run(p, c)
	if err != nil {
		t.Fatalf("%v %v: %v", arch, c, err)
	}
	want := verdict(arch, names, c, refusal[action])
	if got != want {
		t.Fatalf("%v: %s: %v: filter says %#x, must be %#x", arch, names[c.nr], c, got, want)
	}
	// A report finds the rule exactly when the filter refuses.
	if _, ok := Lookup(arch, int(c.nr), c.args); c.arch == arch.audit() && ok != (got == refusal[action]) {
		t.Fatalf("%v: %s: %v: filter says %#x, Lookup %v", arch, names[c.nr], c, got, ok)
	}
}

func TestFilterAgainstOracle(t *testing.T) {
	for arch := range archs {
		for _, action := range []Action{Errno, Notify} {
			p, names := compiled(t, arch, action), sysnames(t, arch)
			for nr := range uint32(1200) {
				check(t, arch, action, p, names, call{arch: arch.audit(), nr: nr})
			}
			// Each argument alone at each edge, for each call with rules.
			for _, r := range rules {
				if r.Number[arch] == none {
					continue
				}
				for i := range 6 {
					for _, v := range interesting {
						c := call{arch: arch.audit(), nr: uint32(r.Number[arch])}
						c.args[i] = v
						check(t, arch, action, p, names, c)
					}
				}
			}
			random := rand.New(rand.NewPCG(1, uint64(arch)))
			for range 200_000 {
				check(t, arch, action, p, names, randomCall(random, arch))
			}
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(false, uint32(0xc000003e), uint32(16), uint64(0), uint64(0x100005412), uint64(0))
	f.Add(true, uint32(0xc00000b7), uint32(198), uint64(16), uint64(3), uint64(15))
	f.Add(false, uint32(0xc000003e), uint32(0x40000000|41), uint64(1), uint64(1), uint64(0))
	programs := [archs]Program{compiled(f, AMD64, Errno), compiled(f, ARM64, Errno)}
	names := [archs]map[uint32]string{sysnames(f, AMD64), sysnames(f, ARM64)}
	f.Fuzz(func(t *testing.T, arm bool, audit, nr uint32, a0, a1, a2 uint64) {
		arch := AMD64
		if arm {
			arch = ARM64
		}
		c := call{arch: audit, nr: nr, args: [6]uint64{a0, a1, a2}}
		check(t, arch, Errno, programs[arch], names[arch], c)
		c.arch = arch.audit()
		check(t, arch, Errno, programs[arch], names[arch], c)
	})
}

// The kernel caches only calls that are allowed without a look at arguments.
func TestOnlyJudgedCallsReadArguments(t *testing.T) {
	for arch := range archs {
		p, names := compiled(t, arch, Errno), sysnames(t, arch)
		for nr := range uint32(Newest + 1) {
			_, read, err := run(p, call{arch: arch.audit(), nr: nr})
			if err != nil {
				t.Fatal(err)
			}
			if _, judged := conditional[names[nr]]; read != judged {
				t.Errorf("%v: %s: arguments read: %v", arch, names[nr], read)
			}
		}
	}
}

// Jump distances are bytes: programs far longer than ours must be right too.
func TestLongJumps(t *testing.T) {
	for _, step := range []int32{1, 2, 3} {
		var many []Rule
		for nr := int32(0); nr <= Newest; nr += step {
			r := Rule{Call: fmt.Sprint(nr), Number: [archs]int32{nr, nr}}
			if nr%2 == 0 {
				r.When = []Condition{
					{Arg: int(nr % 6), Mask: all, Values: []uint32{uint32(nr), 7}},
					{Arg: int(nr+1) % 6, Mask: 0xff, Not: true, Values: []uint32{1, 2}},
				}
			}
			many = append(many, r)
		}
		p, err := Compile(AMD64, many, Errno)
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(2, 2))
		for range 100_000 {
			nr := random.Uint32N(Newest + 1)
			c := call{arch: AMD64.audit(), nr: nr}
			for i := range c.args {
				c.args[i] = uint64([]uint32{nr, 7, 1, 2, 0x101, 0}[random.IntN(6)])
			}
			want := uint32(retAllow)
			if nr%uint32(step) == 0 {
				low := uint32(c.args[(nr+1)%6]) & 0xff
				v := uint32(c.args[nr%6])
				if nr%2 != 0 || (v == nr || v == 7) && low != 1 && low != 2 {
					want = retEPERM
				}
			}
			if got, _, err := run(p, c); err != nil || got != want {
				t.Fatalf("step %d, %d instructions: %v: %#x (%v), must be %#x", step, len(p), c, got, err, want)
			}
		}
	}
}

// At the very edge of the reach, a stand-in for one target pushes the other
// away by one.
func TestJumpReach(t *testing.T) {
	for gap := 240; gap < 270; gap++ {
		for _, yesFirst := range []bool{false, true} {
			b := builder{}
			first, second := b.ret(1), b.ret(2)
			yes, no, wantYes := first, second, uint32(1)
			if !yesFirst {
				yes, no, wantYes = second, first, 2
			}
			for range gap {
				b.ret(3)
			}
			start := b.jump(unix.BPF_JEQ, 7, yes, no)
			b.load(offsetNr, start)
			slices.Reverse(b.rev)
			for nr, want := range map[uint32]uint32{7: wantYes, 8: 3 - wantYes} {
				if got, _, err := run(b.rev, call{nr: nr}); err != nil || got != want {
					t.Errorf("gap %d, nr %d: returns %d (%v), must be %d", gap, nr, got, err, want)
				}
			}
		}
	}
}

func TestWideConditions(t *testing.T) {
	values := make([]uint32, 700) // one jump from end to end of it is too long
	for i := range values {
		values[i] = uint32(i)
	}
	p, err := Compile(AMD64, []Rule{{Call: "a", Number: [archs]int32{5, 5}, When: []Condition{{Mask: all, Values: values}}}}, Errno)
	if err != nil {
		t.Fatal(err)
	}
	for v := range uint64(800) {
		want := uint32(retAllow)
		if v < 700 {
			want = retEPERM
		}
		if got, _, err := run(p, call{arch: AMD64.audit(), nr: 5, args: [6]uint64{v}}); err != nil || got != want {
			t.Fatalf("%d: %#x %v", v, got, err)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	if _, err := Compile(archs, Rules(), Errno); err == nil {
		t.Error("unknown architecture accepted")
	}
	if _, err := Compile(AMD64, []Rule{{Call: "new", Number: [archs]int32{Newest + 1, none}}}, Errno); err == nil {
		t.Error("rule above Newest accepted, where it would have no effect")
	}
	long := Rule{Call: "a", Number: [archs]int32{1, 1}, When: []Condition{{Mask: all, Values: make([]uint32, unix.BPF_MAXINSNS)}}}
	if _, err := Compile(AMD64, []Rule{long}, Errno); err == nil {
		t.Error("program longer than the kernel takes")
	}
	if p, err := Compile(AMD64, nil, Errno); err != nil || len(p) == 0 {
		t.Errorf("no rules: %v %v", p, err)
	}
}

func TestProgramSize(t *testing.T) {
	for arch := range archs {
		t.Logf("%v: %d instructions", arch, len(compiled(t, arch, Notify)))
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(Native, Rules(), Notify); err != nil {
			b.Fatal(err)
		}
	}
}
