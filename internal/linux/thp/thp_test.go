package thp

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// The chunk that the heap begins with is on huge pages afterwards. What the machine
// can't give is no failure; that we ask at the wrong place is.
func TestHeap(t *testing.T) {
	Heap()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, inside := uint64(uintptr(unsafe.Pointer(anchor))), false
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uint64
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
			continue
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && inside {
			if !strings.Contains(flags+" ", " hg ") {
				t.Errorf("the heap is not advised: %s", flags)
			}
			return
		}
		if size, ok := strings.CutPrefix(s.Text(), "AnonHugePages:"); ok && inside {
			kb, err := strconv.Atoi(strings.Fields(size)[0])
			t.Logf("%d KiB of huge pages, %v", kb, err)
		}
	}
	t.Error("the heap is not in /proc/self/smaps")
}
