package testenv

import "testing"

func TestRequired(t *testing.T) {
	for _, c := range []struct {
		list string
		need Need
		want bool
		bad  bool
	}{
		{"", Fuse, false, false},
		{"fuse", Fuse, true, false},
		{"userns, fuse,", Fuse, true, false},
		{"userns", Fuse, false, false},
		{"fuze", Fuse, false, true},
		{"fuse,userms", Fuse, false, true},
		{"fuse userns", Fuse, false, true},
		{"FUSE", Fuse, false, true},
		{"fuse", "fuze", false, true},
	} {
		got, err := required(c.list, c.need)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("REQUIRE=%q, %s: %v, %v", c.list, c.need, got, err)
		}
	}
}
