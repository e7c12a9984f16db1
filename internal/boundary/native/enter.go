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

	passed, err := pass(fd)
	if err != nil {
		return nil, err
	}
	add(passed...)
	for i, slot := range process.NamespaceSlots() {
		add(process.Pass(int(namespaces[i].Fd()), slot))
	}
	add(process.CloseAllButSlots()...)
	add(process.BlockSignals(), process.Session())
	// The command is seen inside before it has left our memory: nobody may
	// look into that.
	add(identity.NotDumpable())
	add(process.Join()...)
	// Joining a user namespace gives capabilities, and that takes the wish
	// to die with the launcher away (prctl(2), PR_SET_PDEATHSIG).
	add(process.DieWithLauncher()...)
	if s.Terminal {
		add(process.Terminal(s.Rows, s.Cols)...)
		add(process.Send(tagTerminal, call.Ptmx))
	}
	add(identity.DropBounding()...)
	add(identity.DropAll(), identity.NoNewPrivileges())
	add(process.Fork())
	add(process.Null()...)
	add(process.CloseSlotsBut(call.Errors, call.Status)...)

	second, err := command(p, s)
	prog.Second = append([]call.Call{process.DieWithParent()}, second...)
	return prog, err
}
