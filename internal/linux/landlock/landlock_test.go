package landlock

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestRuleset(t *testing.T) {
	for abi, want := range map[int]struct {
		size   uintptr
		scoped uint64
	}{
		MinABI: {8, 0}, 5: {8, 0},
		6: {24, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL}, 7: {24, 3},
	} {
		attr, size := ruleset(abi)
		if size != want.size || attr.scoped != want.scoped {
			t.Errorf("ABI %d: size %d, scoped %#x, want %d, %#x", abi, size, attr.scoped, want.size, want.scoped)
		}
		// All that changes files, device nodes included, which no rule gives back.
		for bit := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE); bit <= unix.LANDLOCK_ACCESS_FS_REFER; bit <<= 1 {
			reads := bit == unix.LANDLOCK_ACCESS_FS_READ_FILE || bit == unix.LANDLOCK_ACCESS_FS_READ_DIR
			if handles := attr.accessFS&bit != 0; handles == reads {
				t.Errorf("ABI %d: access %#x is handled: %v", abi, bit, handles)
			}
		}
	}
	if Change&(unix.LANDLOCK_ACCESS_FS_MAKE_CHAR|unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK) != 0 {
		t.Error("a rule would allow device nodes")
	}
}
