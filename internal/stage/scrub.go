package stage

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// The first child is a copy of the launcher: its environment, its arguments, the
// whole policy are in its memory. It keeps none of that. MADV_DONTNEED turns
// private anonymous memory into zeros; the child then lives on its image, which is
// mapped apart, and on a few pages of stack.

// span is a stretch of memory, page-aligned.
type span struct{ start, end uintptr }

// maxSpans is how many stretches an image holds; a Go program has about ten.
const maxSpans = 64

// stackKept is how much stack the child keeps on either side of its frame.
const stackKept = 16 << 10

// newImage maps an image in memory of its own.
func newImage() (*image, error) {
	size := int(unsafe.Sizeof(image{}))
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("stage: map memory: %w", err)
	}
	return (*image)(unsafe.Pointer(unsafe.SliceData(mem))), nil
}

// free unmaps an image of newImage.
func (img *image) free() {
	mem := unsafe.Slice((*byte)(unsafe.Pointer(img)), unsafe.Sizeof(image{}))
	_ = syscall.Munmap(mem)
}

// memory lists what the launcher has written to: the process stack (arguments and
// environment) apart from the rest.
func memory(keep uintptr) (stack span, rest []span, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return span{}, nil, fmt.Errorf("stage: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		// "c000000000-c004000000 rw-p 00000000 00:00 0    [anon]", proc_pid_maps(5)
		f := strings.Fields(line)
		if len(f) < 5 || f[1] != "rw-p" || f[4] != "0" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			return span{}, nil, fmt.Errorf("stage: /proc/self/maps: %q", line)
		}
		s := span{uintptr(start), uintptr(end)}
		switch {
		case len(f) > 5 && f[5] == "[stack]":
			stack = s
		case s.start <= keep && keep < s.end:
			// The image.
		default:
			rest = append(rest, s)
		}
	}
	if stack.end == 0 || len(rest) > maxSpans {
		return span{}, nil, fmt.Errorf("stage: /proc/self/maps shows %d stretches and a stack at %#x", len(rest), stack.start)
	}
	return stack, rest, nil
}
