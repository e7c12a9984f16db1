package thp

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// objects are too large for what a processor of the runtime keeps of the chunk before
// (512 KiB of free pages), which it uses up first.
var objects [6][]byte

// What is allocated afterwards lies where huge pages were asked for. What the machine
// can't give is no failure; that we ask at the wrong place is.
func TestHeap(t *testing.T) {
	if begun != nil {
		return // -count: seen already, and a program calls Heap once
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would free what is skipped
	Heap()
	for i := range objects {
		objects[i] = make([]byte, 256<<10)
		objects[i][0] = 1
	}
	advised, kb := huge(t)
	t.Logf("%d KiB of huge pages", kb)
	for i, o := range objects {
		at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(o))))
		if !slices.ContainsFunc(advised, func(a [2]uint64) bool { return a[0] <= at && at < a[1] }) {
			t.Errorf("object %d lies where no huge pages were asked for", i)
		}
	}
}

// huge lists the memory for which huge pages were asked, and how much of it has some.
func huge(t *testing.T) (advised [][2]uint64, kb int) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var area [2]uint64
	size := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uint64
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			area = [2]uint64{from, to}
			continue
		}
		if text, ok := strings.CutPrefix(s.Text(), "AnonHugePages:"); ok {
			size, _ = strconv.Atoi(strings.Fields(text)[0])
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && strings.Contains(flags+" ", " hg ") {
			advised, kb = append(advised, area), kb+size
		}
	}
	return advised, kb
}
