package change

import (
	"slices"
	"testing"
)

func TestOrder(t *testing.T) {
	s := Set{Entries: []Entry{{Path: "a-b"}, {Path: "a/b"}, {Path: "b"}, {Path: "a"}, {Path: "a/b/c"}, {Path: "a/b.c"}}}
	s.Sort()
	var got []string
	for _, e := range s.Entries {
		got = append(got, e.Path)
	}
	if want := []string{"a", "a/b", "a/b/c", "a/b.c", "a-b", "b"}; !slices.Equal(got, want) {
		t.Fatalf("sorted %q, want %q", got, want)
	}
}

func TestSame(t *testing.T) {
	file := func(mode uint32, size int64, sum string) *State {
		return &State{Type: File, Mode: mode, Size: size, Sum: sum}
	}
	for _, test := range []struct {
		name string
		a, b *State
		want bool
	}{
		{"neither is there", nil, nil, true},
		{"one is there", nil, file(0o644, 0, "x"), false},
		{"same file", file(0o644, 3, "x"), file(0o644, 3, "x"), true},
		{"other content", file(0o644, 3, "x"), file(0o644, 3, "y"), false},
		{"other mode", file(0o644, 3, "x"), file(0o755, 3, "x"), false},
		{"content that nobody read", file(0o644, 3, ""), file(0o644, 3, ""), false},
		{"file and directory", file(0o755, 0, "x"), &State{Type: Directory, Mode: 0o755}, false},
		{"same link, whatever its mode", &State{Type: Symlink, Mode: 0o777, Link: "a"}, &State{Type: Symlink, Mode: 0o755, Link: "a"}, true},
		{"other link", &State{Type: Symlink, Link: "a"}, &State{Type: Symlink, Link: "b"}, false},
		{"directory with other mode", &State{Type: Directory, Mode: 0o755}, &State{Type: Directory, Mode: 0o700}, false},
	} {
		if got := Same(test.a, test.b); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
