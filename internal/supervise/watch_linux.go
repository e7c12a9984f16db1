package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"cofferdam/internal/plan"
)

// watch measures what is inside against the limits whose mechanism is
// "watch": ceilings that no kernel mechanism holds here. It is late by up to
// one interval and sees only what /proc shows, and says so:
//
// Memory is what unique anonymous and shared pages the processes have mapped,
// plus swap. Two steps keep that cheap. The sum of resident sizes
// (/proc/PID/statm, 14 µs a process) counts shared pages many times, so it is
// never too low, apart from the kernel's batching of up to 256 KiB a process
// and more on large machines, and pages swapped out. Only while it is above
// the limit, the proportional sizes (/proc/PID/smaps_rollup: Pss_Anon +
// Pss_Shmem + SwapPss; it walks the page tables)
// decide. Pages of files don't count, the kernel can drop them. Not seen: a
// tmpfs or memfd that nobody has mapped (tmpfs has a limit of its own), kernel
// memory, and bytes taken and given back between two samples.
//
// Processes are tasks (threads), as pid_max, cgroups and RLIMIT_NPROC count.
// A storm that forks between the reads of one walk is counted too low until a
// sample sees enough of it.
//
// The set of processes is walked only if a process or thread was created on
// the machine since (last field of /proc/loadavg), or every fullEvery
// samples. Intervals: fastest while within half of a ceiling or while the set
// changes, and never shorter than costShare times the sample's own cost.
// Measured (BenchmarkSample, 12 idle processes, busy 2-core VM): 0.17 ms
// without a walk, 0.45 ms with one. So an idle agent costs under 0.1 % of one
// CPU, which costShare keeps true for larger trees until slowest is reached.
type watch struct {
	root   int
	memory plan.Limit // zero: not watched
	tasks  plan.Limit

	// inode of the pid namespace of root if it is not ours, else 0.
	namespace uint64
	// children says that the kernel has /proc/PID/task/TID/children.
	children bool
	page     int64

	set       []int // processes inside, as of the last walk
	taskCount int64
	last      string // loadavg's last pid at the last walk
	sinceWalk int

	// proportional is the last exact sum and residentThen the sum of resident
	// sizes at that time; see exact.
	entered func() []int // see Options.Entered

	proportional, residentThen int64
	exactAt                    time.Time

	cost time.Duration // smoothed
	buf  []byte
}

const (
	fastest   = 100 * time.Millisecond
	normal    = 250 * time.Millisecond
	slowest   = 2 * time.Second
	costShare = 1000 // at most 1/1000 of a CPU when idle
	nearShare = 100  // and 1/100 when near a ceiling
	fullEvery = 8
	exactFor  = time.Second
)

// newWatch returns nil when the plan has nothing to watch. It fails when it
// could not see the processes: a ceiling that nobody holds is worse than none.
func newWatch(root int, p *plan.Plan) (*watch, error) {
	w := &watch{root: root, page: int64(os.Getpagesize()), buf: make([]byte, 16<<10)}
	if l, ok := p.Limit("memory"); ok && l.Mechanism == "watch" {
		w.memory = l
	}
	if l, ok := p.Limit("processes"); ok && l.Mechanism == "watch" {
		w.tasks = l
	}
	if w.memory.Value == 0 && w.tasks.Value == 0 {
		return nil, nil
	}
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d/children", os.Getpid(), os.Getpid()))
	w.children = err == nil
	own, err := namespaceOf("self")
	if err != nil {
		return nil, fmt.Errorf("watch the limits: %w", err)
	}
	// A root that has ended already is no error: Wait will tell.
	if theirs, err := namespaceOf(strconv.Itoa(root)); err == nil && theirs != own {
		w.namespace = theirs
	}
	if !w.children && w.namespace == 0 {
		return nil, errors.New("watch the limits: the kernel lists no children (CONFIG_PROC_CHILDREN) " +
			"and the boundary has no pid namespace of its own")
	}
	return w, nil
}

func (w *watch) Close() {}

// Sample measures once. reason is "" while all is well; next is when to
// measure again.
func (w *watch) Sample() (reason Reason, hit Hit, next time.Duration) {
	begin := time.Now()
	changed := w.find()
	var resident int64
	near := false
	if w.tasks.Value > 0 {
		if w.taskCount > w.tasks.Value {
			return ProcessLimit, Hit{w.tasks, w.taskCount}, 0
		}
		near = near || w.taskCount > w.tasks.Value/2
	}
	if w.memory.Value > 0 {
		for _, pid := range w.set {
			resident += w.resident(pid)
		}
		if resident > w.memory.Value {
			if sum := w.exact(resident, changed, begin); sum > w.memory.Value {
				return MemoryLimit, Hit{w.memory, sum}, 0
			}
		}
		near = near || resident > w.memory.Value/2
	}
	w.smooth(time.Since(begin))
	return "", Hit{}, w.interval(near, changed)
}

func (w *watch) smooth(d time.Duration) {
	if w.cost == 0 {
		w.cost = d
	}
	w.cost = (3*w.cost + d) / 4
}

func (w *watch) interval(near, changed bool) time.Duration {
	if near {
		return min(max(fastest, nearShare*w.cost), slowest)
	}
	base := normal
	if changed {
		base = fastest
	}
	return min(max(base, costShare*w.cost), slowest)
}

// exact returns the proportional sum. The last one still serves while the
// resident sum has not grown by what was left, the set is the same and it is
// not old: new pages show in the resident sum.
func (w *watch) exact(resident int64, changed bool, now time.Time) int64 {
	if !changed && now.Sub(w.exactAt) < exactFor && w.proportional+max(0, resident-w.residentThen) <= w.memory.Value {
		return w.proportional
	}
	var sum int64
	for _, pid := range w.set {
		sum += w.proportionalOf(pid)
	}
	w.proportional, w.residentThen, w.exactAt = sum, resident, now
	return sum
}

// find brings set and taskCount up to date; changed says that it had to look.
func (w *watch) find() (changed bool) {
	last := ""
	if b := w.read("/proc/loadavg"); b != nil {
		if f := bytes.Fields(b); len(f) > 0 {
			last = string(f[len(f)-1])
		}
	}
	w.sinceWalk++
	if last != "" && last == w.last && w.sinceWalk < fullEvery {
		return false
	}
	changed = last != w.last
	w.last, w.sinceWalk = last, 0
	w.set, w.taskCount = w.set[:0], 0
	if w.children {
		w.descend(w.root)
		if w.entered != nil && w.namespace != 0 {
			for _, client := range w.entered() {
				w.below(client)
			}
		}
	} else {
		w.scan()
	}
	return changed
}

// descend walks the children of every thread, breadth first. A process whose
// parent ends during the walk moves to the namespace's first process, which
// has been read: it is seen by the next walk.
func (w *watch) descend(root int) {
	w.set = append(w.set, root)
	for i := 0; i < len(w.set); i++ {
		dir := "/proc/" + strconv.Itoa(w.set[i]) + "/task"
		for _, tid := range names(dir) {
			w.taskCount++
			for _, f := range bytes.Fields(w.read(dir + "/" + tid + "/children")) {
				if pid, err := strconv.Atoi(string(f)); err == nil {
					w.set = append(w.set, pid)
				}
			}
		}
	}
}

// below adds what a process outside has put into the namespace: the commands of
// an exec client, which are no children of the first process.
func (w *watch) below(client int) {
	queue := []int{client}
	for len(queue) > 0 {
		dir := "/proc/" + strconv.Itoa(queue[0]) + "/task"
		queue = queue[1:]
		for _, tid := range names(dir) {
			for _, f := range bytes.Fields(w.read(dir + "/" + tid + "/children")) {
				pid, err := strconv.Atoi(string(f))
				if err != nil {
					continue
				}
				queue = append(queue, pid)
				if ns, err := namespaceOf(string(f)); err == nil && ns == w.namespace {
					w.set = append(w.set, pid)
					w.taskCount += int64(len(names("/proc/" + string(f) + "/task")))
				}
			}
		}
	}
}

// scan looks at every process for those in the namespace. Nested namespaces
// are not there: the inside can't make any.
func (w *watch) scan() {
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ns, err := namespaceOf(name); err == nil && ns == w.namespace {
			w.set = append(w.set, pid)
			w.taskCount += int64(len(names("/proc/" + name + "/task")))
		}
	}
}

func (w *watch) resident(pid int) int64 {
	f := bytes.Fields(w.read("/proc/" + strconv.Itoa(pid) + "/statm"))
	if len(f) < 2 {
		return 0 // ended
	}
	pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * w.page
}

// proportionalOf reads smaps_rollup. A process that we may not look into
// counts with its whole resident size: to be undumpable must not help.
func (w *watch) proportionalOf(pid int) int64 {
	b := w.read("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if sum, ok := rollup(b); ok {
		return sum
	}
	return w.resident(pid)
}

// rollup adds Pss_Anon, Pss_Shmem and SwapPss. Kernels before 5.4 have only
// Pss, which counts pages of files too.
func rollup(b []byte) (sum int64, ok bool) {
	var pss, parts int64
	split := false
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[2]) != "kB" {
			continue
		}
		kb, err := strconv.ParseInt(string(f[1]), 10, 64)
		if err != nil {
			continue
		}
		switch string(f[0]) {
		case "Pss:":
			pss, ok = kb, true
		case "Pss_Anon:", "Pss_Shmem:":
			parts += kb
			split = true
		case "SwapPss:":
			sum += kb
		}
	}
	if split {
		return (sum + parts) << 10, ok
	}
	return (sum + pss) << 10, ok
}

// read returns a small file of /proc, valid until the next read; nil if it
// can't be read.
func (w *watch) read(path string) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(w.buf) {
			w.buf = append(w.buf, make([]byte, len(w.buf))...)
		}
		m, err := unix.Read(fd, w.buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil
		}
		if m <= 0 {
			return w.buf[:n]
		}
		n += m
	}
}

func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	n, _ := f.Readdirnames(-1)
	return n
}

func namespaceOf(pid string) (uint64, error) {
	var st unix.Stat_t
	path := "/proc/" + pid + "/ns/pid"
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}
