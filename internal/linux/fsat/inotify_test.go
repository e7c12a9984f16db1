//go:build linux

package fsat

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func event(wd int32, mask uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	padded := name + strings.Repeat("\x00", 16-len(name)%16)
	return append(binary.NativeEndian.AppendUint32(b, uint32(len(padded))), padded...)
}

// FuzzChanges: whatever is read, no more comes of it than is there, and no name with a
// NUL in it.
func FuzzChanges(f *testing.F) {
	f.Add(append(event(1, unix.IN_CREATE|unix.IN_ISDIR, "dir"), event(2, unix.IN_Q_OVERFLOW, "")...))
	f.Add(event(1, unix.IN_MOVED_TO, "a name")[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		told := 0
		count, err := parseChanges(b, func(c Change) {
			told++
			if strings.Contains(c.Name, "\x00") || len(c.Name) > len(b) {
				t.Errorf("%q", c.Name)
			}
		})
		if told > count || count > len(b)/16 || err == nil && len(b) >= 16 && count == 0 {
			t.Errorf("%d told, %d read of %d bytes, %v", told, count, len(b), err)
		}
	})
}

func TestChanges(t *testing.T) {
	var got []Change
	text := append(event(1, unix.IN_CREATE|unix.IN_ISDIR, "dir"), event(2, unix.IN_CLOSE_WRITE, "file")...)
	text = append(append(text, event(3, unix.IN_MOVE_SELF, "")...), event(-1, unix.IN_Q_OVERFLOW, "")...)
	n, err := parseChanges(text, func(c Change) { got = append(got, c) })
	want := []Change{{Watch: 1, Name: "dir", Dir: true, New: true}, {Watch: 2, Name: "file"}, {Watch: 3, Moved: true}, {Lost: true}}
	if err != nil || n != 4 || len(got) != 4 {
		t.Fatalf("%d, %+v, %v", n, got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}
