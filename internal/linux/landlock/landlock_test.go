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
		MinABI: {8, 0}, 3: {8, 0}, 4: {8, 0}, 5: {8, 0},
		6: {24, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL}, 7: {24, 3},
	} {
		attr, size := ruleset(abi)
		if size != want.size || attr.scoped != want.scoped {
			t.Errorf("ABI %d: size %d, scoped %#x, want %d, %#x", abi, size, attr.scoped, want.size, want.scoped)
		}
		// All that changes files, device nodes included, which no rule gives back.
		for bit := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE); bit <= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV; bit <<= 1 {
			left := bit == unix.LANDLOCK_ACCESS_FS_READ_FILE || bit == unix.LANDLOCK_ACCESS_FS_READ_DIR ||
				bit == unix.LANDLOCK_ACCESS_FS_TRUNCATE && abi < 3 || bit == unix.LANDLOCK_ACCESS_FS_IOCTL_DEV && abi < 5
			if handles := attr.accessFS&bit != 0; handles == left {
				t.Errorf("ABI %d: access %#x is handled: %v", abi, bit, handles)
			}
		}
	}
	if Change&(unix.LANDLOCK_ACCESS_FS_MAKE_CHAR|unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK) != 0 {
		t.Error("a rule would allow device nodes")
	}
}

// The kernel refuses a rule with a right that it does not handle.
func TestRulesAskForWhatIsHandled(t *testing.T) {
	for abi := MinABI; abi < 8; abi++ {
		attr, _ := ruleset(abi)
		for _, r := range []Rule{{Access: Device}, {Access: Change}, {Access: Device, File: true}, {Access: Change, File: true}} {
			if got := uint64(r.rights(abi)); got == 0 || got&^attr.accessFS != 0 || r.File && got&^uint64(Device) != 0 {
				t.Errorf("ABI %d, %+v: %#x of %#x", abi, r, got, attr.accessFS)
			}
		}
	}
}
