// Package native is the boundary made of the running kernel's own parts:
// namespaces, a new root, Landlock, seccomp, limits. It needs no privilege, no
// daemon and no other program. It carries out a plan.Plan: compile.go writes it down
// as system calls (a value, pure), start.go lets stage run them.
package native

import (
	"fmt"
	"hash/fnv"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/fusemask"
	"cofferdam/internal/linux/identity"
	"cofferdam/internal/linux/landlock"
	"cofferdam/internal/linux/mount"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/linux/seccomp"
	"cofferdam/internal/plan"
	"cofferdam/internal/stage"
)

// Tags of what the child sends through the channel.
const (
	tagNamespaces = 'n'
	tagFuse       = 'f'
	tagTerminal   = 't'
	tagListener   = 'l'
)

// descriptors are the launcher's, by what they are for; -1 is none.
type descriptors struct {
	errors, status, lifeline, gate, channel int
	in, out, err                            int
}

// program writes the plan down, with net the calls that make its network. It is a
// pure function of its arguments.
func program(p *plan.Plan, s boundary.Streams, fd descriptors, net []call.Call) (*stage.Program, error) {
	prog := &stage.Program{Init: true, First: make([]call.Call, 0, 512)}
	add := func(list ...call.Call) { prog.First = append(prog.First, list...) }

	// The command first: it looks at the strings of the plan.
	var err error
	if prog.Second, err = command(p, s); err != nil {
		return nil, err
	}
	passed, err := pass(fd, nil)
	if err != nil {
		return nil, err
	}
	add(passed...)
	add(process.DieWithLauncher()...)
	add(process.BlockSignals(), process.Session())
	add(identity.Map(p.Identity.UID, p.Identity.GID)...)
	add(process.Namespaces()...)
	add(process.Send(tagNamespaces, process.NamespaceSlots()...))
	add(identity.Hostname(p.Identity.Hostname))
	add(net...)

	tree, err := fileTree(p)
	if err != nil {
		return nil, err
	}
	add(tree...)
	add(kernelKnobs(p)...)
	add(mount.Pivot(call.Root)...)

	add(leave(s)...)
	return prog, nil
}

// leave ends the first list, where all stands: the terminal, the loss of every
// privilege, the fork of the command, and what the first child keeps as the init.
func leave(s boundary.Streams) []call.Call {
	var list []call.Call
	add := func(c ...call.Call) { list = append(list, c...) }
	if s.Terminal {
		add(process.Terminal(s.Rows, s.Cols)...)
		add(process.Send(tagTerminal, call.Ptmx))
	}
	add(identity.DropBounding()...)
	add(identity.DropAll(), identity.NoNewPrivileges())
	add(process.Fork())
	// Only the first child comes here.
	add(process.Null()...)
	add(process.CloseForInit()...)
	return list
}

// pass moves the launcher's descriptors to their slots, and closes all others.
func pass(fd descriptors, namespaces []int) ([]call.Call, error) {
	var list []call.Call
	type move struct{ fd, slot int }
	moves := []move{
		{fd.errors, call.Errors}, {fd.status, call.Status}, {fd.lifeline, call.Lifeline},
		{fd.gate, call.Gate}, {fd.channel, call.Channel},
		{fd.in, call.In}, {fd.out, call.Out}, {fd.err, call.Err},
	}
	for i, slot := range process.NamespaceSlots()[:len(namespaces)] {
		moves = append(moves, move{namespaces[i], slot})
	}
	for _, d := range moves {
		if d.fd < 0 {
			continue
		}
		if d.fd >= call.First {
			return nil, fmt.Errorf("too many open descriptors: number %d is to be passed, the limit is %d", d.fd, call.First-1)
		}
		list = append(list, process.Pass(d.fd, d.slot))
	}
	return append(list, process.CloseAllButSlots()...), nil
}

// command is what the second child does: it becomes the command.
func command(p *plan.Plan, s boundary.Streams) ([]call.Call, error) {
	var list []call.Call
	add := func(c ...call.Call) { list = append(list, c...) }
	if err := whole(p); err != nil {
		return nil, err
	}

	// Not before pid 1 has left the launcher's memory.
	add(process.WaitGate())
	add(process.Session())
	in, out, err := call.In, call.Out, call.Err
	if s.Terminal {
		in, out, err = call.Pts, call.Pts, call.Pts
		add(process.Control())
	}
	add(process.Standard(in, 0), process.Standard(out, 1), process.Standard(err, 2))

	add(process.Chdir(p.Dir))
	if p.Landlock >= landlock.MinABI {
		add(landlock.Restrict(p.Landlock, landlockRules(p))...)
	}
	filter, ferr := systemCalls(p)
	if ferr != nil {
		return nil, ferr
	}
	add(filter...)
	add(process.CloseAllBut(call.Errors)...)
	// Not before the slots are done with: their numbers may be above the ceiling
	// of open files, and then no descriptor could be moved there (EBADF).
	ceilings, lerr := resourceLimits(p.Limits, seed(p))
	if lerr != nil {
		return nil, lerr
	}
	add(ceilings...)
	add(process.UnblockSignals())
	env := make([]string, len(p.Environment))
	for i, v := range p.Environment {
		env[i] = v.Name + "=" + v.Value
	}
	add(process.Execve(p.Program, p.Command, env))
	return list, nil
}

// whole refuses a plan with a string that the kernel would cut short. package call
// panics on one, as the last resort.
func whole(p *plan.Plan) error {
	list := append([]string{p.Program, p.Dir, p.Identity.Hostname}, p.Command...)
	for _, v := range p.Environment {
		list = append(list, v.Name, v.Value)
	}
	for _, m := range p.Mounts {
		list = append(list, m.Source, m.Target, m.Upper, m.Work) // not Content, which has a length
	}
	for _, s := range list {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("plan: there is a NUL in %q", s)
		}
	}
	return nil
}

// seed is a number of the plan that is the same for a command that enters.
func seed(p *plan.Plan) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.Workspace))
	return int(h.Sum32() >> 1)
}

// systemCalls installs the filter as the last lock before execve (the ceilings come
// after it, which it lets pass). With
// SeccompNotify the kernel asks the launcher about each refused call, which always
// answers no, and so learns who tried it; without, it answers EPERM itself.
func systemCalls(p *plan.Plan) ([]call.Call, error) {
	action := seccomp.Errno
	if p.SeccompNotify {
		action = seccomp.Notify
	}
	filter, err := seccomp.Compile(seccomp.Native, seccomp.Rules(), action)
	if err != nil {
		return nil, err
	}
	install := process.Filter(filter.Fprog(), p.SeccompNotify)
	if !p.SeccompNotify {
		return []call.Call{install}, nil
	}
	return []call.Call{install.Into(call.Listener), process.Send(tagListener, call.Listener)}, nil
}

// landlockRules repeats the writable part of the mounts.
func landlockRules(p *plan.Plan) []landlock.Rule {
	rules := []landlock.Rule{
		{Path: "/dev", Access: landlock.Device},
		{Path: "/proc", Access: landlock.WriteFile},
	}
	for _, m := range p.Mounts {
		if m.Write && (m.Kind == plan.Bind || m.Kind == plan.Copy || m.Kind == plan.Tmpfs || m.Kind == plan.Home) {
			rules = append(rules, landlock.Rule{Path: m.Target, Access: landlock.Change, File: m.Kind == plan.Bind && !m.Directory})
		}
	}
	return rules
}

// tree builds the calls of the file tree and remembers what it has made.
type tree struct {
	list []call.Call
	made map[string]bool // directories of the skeleton
	// on is the kind of mount that a path lies on, by target, for mount
	// points that have to be made.
	kinds map[string]plan.Mount
	fuse  bool
	masks int
}

func (t *tree) add(list ...call.Call) { t.list = append(t.list, list...) }

// staging is where the file systems whose entries are cloned are attached while
// the tree is built (before Linux 6.15 nothing can be cloned from a mount that is
// attached nowhere). It goes away, with all on it, before the command runs.
const staging = "/.staging"

// fileTree is the whole of the file system inside, in a new root.
func fileTree(p *plan.Plan) ([]call.Call, error) {
	t := &tree{made: map[string]bool{"/": true}, kinds: map[string]plan.Mount{}}
	t.add(mount.Private())
	t.add(mount.Tmpfs("new root", 4<<20, 16384, 0o755, mount.NoSUID|mount.NoDev, call.Root)...)
	t.add(mount.Over(call.Root))

	t.stage(p)

	var seal []string
	for _, m := range p.Mounts {
		if path.Clean(m.Target) != m.Target || !path.IsAbs(m.Target) {
			return nil, fmt.Errorf("plan: mount target %q is not clean and absolute", m.Target)
		}
		start := len(t.list)
		if m.Create {
			t.mountPoint(p, m)
		}
		switch m.Kind {
		case plan.Dir:
			t.dir(m.Target)
		case plan.Symlink:
			if base, ok := t.nearest(m.Target); ok && base.Kind == plan.Home {
				break // made by prepareHome
			}
			t.dir(path.Dir(m.Target))
			t.add(mount.Symlink(call.Root, m.Source, m.Target))
		case plan.Bind, plan.Home:
			t.add(mount.Bind(call.Root, m.Source, m.Target, bindAttr(m), m.Optional)...)
		case plan.Copy:
			if m.Upper == "" || m.Work == "" {
				return nil, fmt.Errorf("plan: the copy at %s has no layers", m.Target)
			}
			t.add(mount.Overlay(mount.Layers{Lower: m.Source, Upper: m.Upper, Work: m.Work}, p.Copy == plan.CopyOverlayPaths, mount.NoSUID|mount.NoDev, call.Tree)...)
			t.add(mount.Attach("attach", call.Root, call.Tree, m.Target)...)
		case plan.Pin:
			t.add(mount.Rebind(call.Root, m.Target, bindAttr(m), m.Optional)...)
		case plan.Tmpfs:
			if m.Write {
				t.add(mount.From("mount tmpfs on", call.Scratch, scratchName(m.Target), call.Root, m.Target, mount.NoSUID|mount.NoDev)...)
				break
			}
			t.add(mount.Tmpfs(m.Target, 1<<20, 4096, 0o755, mount.NoSUID|mount.NoDev|mount.NoExec, call.Tree)...)
			t.add(mount.Attach("attach", call.Root, call.Tree, m.Target)...)
			seal = append(seal, m.Target)
		case plan.File:
			t.add(mount.From("mount a file on", call.Masks, fileName(m), call.Root, m.Target, mount.ReadOnly|mount.NoSUID|mount.NoDev|mount.NoExec)...)
		case plan.Mask:
			t.mask(m)
		case plan.Proc:
			t.proc(m.Target)
		case plan.Dev:
			t.dev(m.Target)
		default:
			return nil, fmt.Errorf("plan: the native boundary has no mount of kind %q", m.Kind)
		}
		t.kinds[m.Target] = m
		for i := start; i < len(t.list); i++ {
			t.list[i].Rule = m.Rule
		}
	}
	t.add(mount.Detach(call.Root, staging)...)
	// The empty directories and the skeleton are complete: seal them.
	for _, target := range append(seal, "/dev", "/") {
		t.add(mount.Seal(call.Root, target)...)
	}
	return t.list, nil
}

func bindAttr(m plan.Mount) mount.Attr {
	a := mount.NoSUID | mount.NoDev
	if !m.Write {
		a |= mount.ReadOnly
	}
	return a
}

// dir makes a directory of the skeleton, with its parents. Where something is
// mounted there is one.
func (t *tree) dir(dir string) {
	if _, mounted := t.kinds[dir]; mounted || t.made[dir] {
		return
	}
	t.dir(path.Dir(dir))
	t.add(mount.Dir(call.Root, dir, 0o755))
	t.made[dir] = true
}

// mountPoint makes the place for m where the tree is ours: in the skeleton or
// on one of our own file systems. In the private home the launcher has made it
// (home.go); anywhere else it must exist, since nothing is made on the host.
func (t *tree) mountPoint(p *plan.Plan, m plan.Mount) {
	base, ok := t.nearest(m.Target)
	if ok && (base.Kind == plan.Bind || base.Kind == plan.Copy || base.Kind == plan.Home) {
		return
	}
	t.dir(path.Dir(m.Target))
	if t.made[m.Target] {
		return
	}
	if m.Kind == plan.Symlink {
		return
	}
	if (m.Kind == plan.Bind || m.Kind == plan.Mask || m.Kind == plan.File) && !m.Directory {
		t.add(mount.File(call.Root, m.Target, 0o444))
	} else {
		t.add(mount.Dir(call.Root, m.Target, 0o755))
	}
	t.made[m.Target] = true
}

// nearest is the mount that target lies on.
func (t *tree) nearest(target string) (plan.Mount, bool) {
	for dir := path.Dir(target); ; dir = path.Dir(dir) {
		if m, ok := t.kinds[dir]; ok {
			return m, true
		}
		if dir == "/" {
			return plan.Mount{}, false
		}
	}
}

// stage makes what the mounts of the plan are cloned from: the masks, and one
// tmpfs for all writable ones, so that one size holds for all of them.
func (t *tree) stage(p *plan.Plan) {
	t.dir(staging)
	size, inodes := int64(1<<16), int64(16)
	content, modes := map[string]string{}, map[string]uint32{} // by name in staging
	for _, m := range p.Mounts {
		if name := fileName(m); m.Kind == plan.File && content[name] == "" {
			content[name], modes[name] = m.Content, 0o444
			if m.Mode != 0 {
				modes[name] = m.Mode
			}
			size, inodes = size+int64(len(m.Content))+1<<14, inodes+1
		}
	}
	t.add(mount.Tmpfs("staging", size, inodes, 0o755, mount.NoSUID|mount.NoDev|mount.NoExec, call.Masks)...)
	t.add(mount.Attach("attach", call.Root, call.Masks, staging)...)
	t.add(mount.File(call.Masks, "file", 0), mount.Chmod(call.Masks, "file", 0))
	t.add(mount.Dir(call.Masks, "dir", 0), mount.Chmod(call.Masks, "dir", 0))

	for _, name := range slices.Sorted(maps.Keys(content)) {
		t.add(mount.File(call.Masks, name, 0o600))
		t.add(call.Write("mounts", call.Masks, name, content[name])...)
		t.add(mount.Chmod(call.Masks, name, modes[name]))
	}
	masks := slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.Kind == plan.Mask })
	if t.fuse = masks && p.FuseMasks; t.fuse {
		t.add(mount.Dir(call.Masks, "fuse", 0o755))
		t.add(mount.Fuse(call.Fuse, fuseOptions(p), call.FuseFS)...)
		t.add(process.Send(tagFuse, call.Fuse))
		t.add(mount.Attach("attach", call.Root, call.FuseFS, staging+"/fuse")...)
	}

	size, inodes = 0, 0
	for _, m := range p.Mounts {
		if m.Kind == plan.Tmpfs && m.Write {
			size, inodes = max(size, m.Size), max(inodes, m.Inodes)
		}
	}
	t.add(mount.Dir(call.Masks, "scratch", 0o755))
	t.add(mount.Tmpfs("tmpfs for temporary files", size, inodes, 0o755, mount.NoSUID|mount.NoDev, call.Scratch)...)
	t.add(mount.Attach("attach", call.Root, call.Scratch, staging+"/scratch")...)
	for _, m := range p.Mounts {
		if m.Kind == plan.Tmpfs && m.Write {
			mode := m.Mode
			if mode == 0 {
				mode = 0o1777
			}
			t.add(mount.Dir(call.Scratch, scratchName(m.Target), 0o700), mount.Chmod(call.Scratch, scratchName(m.Target), mode))
		}
	}
}

func fuseOptions(p *plan.Plan) []mount.Option {
	var out []mount.Option
	for _, o := range fusemask.Options(call.Fuse, p.Identity.UID, p.Identity.GID) {
		out = append(out, mount.Option(o))
	}
	return out
}

// fileName is where in staging a File is. What holds the same is one file.
func fileName(m plan.Mount) string {
	if m.Holds != "" {
		return string(m.Holds)
	}
	return "file" + strings.ReplaceAll(m.Target, "/", "-")
}

func scratchName(target string) string {
	return strings.ReplaceAll(strings.Trim(target, "/"), "/", "-")
}

// mask puts something unreadable over the target.
func (t *tree) mask(m plan.Mount) {
	const verb = "mask"
	attr := mount.NoSUID | mount.NoDev | mount.NoExec
	switch {
	case t.fuse:
		// Not read-only: the kernel would refuse writers without asking the
		// launcher, and nothing can be written there anyway.
		t.add(mount.From(verb, call.FuseFS, strconv.Itoa(t.masks), call.Root, m.Target, attr)...)
		t.masks++
	case m.Directory:
		t.add(mount.From(verb, call.Masks, "dir", call.Root, m.Target, attr|mount.ReadOnly)...)
	default:
		t.add(mount.From(verb, call.Masks, "file", call.Root, m.Target, attr|mount.ReadOnly)...)
	}
}

// fuseMaskList names the masks in the order in which mask numbers them.
func fuseMaskList(p *plan.Plan) []fusemask.Mask {
	var out []fusemask.Mask
	for _, m := range p.Mounts {
		if m.Kind == plan.Mask {
			out = append(out, fusemask.Mask{Path: m.Target, Directory: m.Directory, Rule: m.Rule})
		}
	}
	return out
}

// proc mounts a procfs of the new pid namespace. What in it speaks to the kernel
// and not of processes is read-only or masked, as in the OCI runtime
// specification's default lists; most of it is refused by uid anyway.
func (t *tree) proc(target string) {
	t.add(mount.New(target, "proc", nil, mount.NoSUID|mount.NoDev|mount.NoExec, call.Tree)...)
	t.add(mount.Attach("attach", call.Root, call.Tree, target)...)
}

// kernelKnobs come after the new /proc is there and before it is closed.
func kernelKnobs(p *plan.Plan) []call.Call {
	var list []call.Call
	// No user namespace inside the inside: with it would come capabilities
	// over new mount and network namespaces, the larger half of the kernel's
	// attack surface (user_namespaces(7), /proc/sys/user).
	list = append(list, call.Write("kernel", call.Root, "proc/sys/user/max_user_namespaces", "0")...)
	if p.Network.Mode == "gateway" {
		list = append(list, netns.Knobs(call.Root)...)
	}
	if l, ok := p.Limit("processes"); ok && l.Mechanism == "pid_max" {
		list = append(list, call.Write("limits", call.Root, "proc/sys/kernel/pid_max", fmt.Sprint(l.Value))...)
	}
	for _, name := range []string{"sys", "bus", "fs", "irq", "sysrq-trigger", "acpi"} {
		list = append(list, skipMissing(mount.Rebind(call.Root, "/proc/"+name, mount.ReadOnly|mount.NoSUID|mount.NoDev|mount.NoExec, false))...)
	}
	for _, name := range []string{"kcore", "keys", "timer_list", "sched_debug", "latency_stats", "kpagecount", "kpageflags", "kpagecgroup", "key-users"} {
		list = append(list, skipMissing(mount.Cover(call.Root, "/dev/null", "/proc/"+name))...)
	}
	return list
}

// skipMissing lets a list that begins with an open be left out as a whole when
// there is nothing to open. An open that fails for another reason has failed: what
// is there would stay as it is.
func skipMissing(list []call.Call) []call.Call {
	list[0] = list[0].OrSkipIf(syscall.ENOENT, len(list)-1)
	return list
}

// dev is the smallest /dev that programs expect: no disk, no kernel memory, no
// terminal but those of its own devpts.
func (t *tree) dev(target string) {
	t.add(mount.Tmpfs(target, 1<<16, 64, 0o755, mount.NoSUID|mount.NoExec, call.Tree)...)
	t.add(mount.Attach("attach", call.Root, call.Tree, target)...)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		node := path.Join(target, name)
		t.add(mount.File(call.Root, node, 0o666))
		t.add(mount.Bind(call.Root, "/dev/"+name, node, mount.NoSUID|mount.NoExec, false)...)
	}
	pts := path.Join(target, "pts")
	t.add(mount.Dir(call.Root, pts, 0o755))
	t.add(mount.New(pts, "devpts", []mount.Option{{Key: "mode", Value: "0620"}, {Key: "ptmxmode", Value: "0666"}},
		mount.NoSUID|mount.NoExec, call.Tree)...)
	t.add(mount.Attach("attach", call.Root, call.Tree, pts)...)
	for _, l := range [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	} {
		t.add(mount.Symlink(call.Root, l[0], path.Join(target, l[1])))
	}
	shm := path.Join(target, "shm")
	t.add(mount.Dir(call.Root, shm, 0o755))
	t.made[shm] = true
}
