package native

import (
	"os"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/identity"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/plan"
	"cofferdam/internal/stage"
)

// entry writes down how one more command comes into a boundary: join the
// namespaces, then fork, since a pid namespace holds for children only. The first
// child stays outside of the pid namespace, waits, and passes signals on.
func entry(p *plan.Plan, s boundary.Streams, fd descriptors, namespaces []*os.File) (*stage.Program, error) {
	prog := &stage.Program{}
	add := func(list ...call.Call) { prog.First = append(prog.First, list...) }

	var numbers []int
	for _, f := range namespaces {
		numbers = append(numbers, int(f.Fd()))
	}
	passed, err := pass(fd, numbers)
	if err != nil {
		return nil, err
	}
	add(passed...)
	add(process.BlockSignals(), process.Session())
	add(process.Join()...)
	// Joining a user namespace gives capabilities, and that takes the wish
	// to die with the launcher away (prctl(2), PR_SET_PDEATHSIG).
	add(process.DieWithLauncher()...)
	// The command is seen inside before it has left our memory: nobody may look
	// into that. After the join, since new capabilities set this anew, to
	// fs.suid_dumpable. (A start has nobody inside who could look.)
	add(identity.NotDumpable())
	add(leave(s)...)

	second, err := command(p, s)
	prog.Second = append([]call.Call{process.DieWithParent()}, second...)
	return prog, err
}
