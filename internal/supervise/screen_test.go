package supervise

import "testing"

func TestScreen(t *testing.T) {
	for _, c := range []struct {
		chunks  []string
		settled bool
	}{
		{nil, true},
		{[]string{"hello"}, true},
		{[]string{"\x1b"}, false},
		{[]string{"\x1b", "[2"}, false},
		{[]string{"\x1b", "[2", "J"}, true},
		{[]string{"\x1b[1;31mred"}, true},
		{[]string{"\x1b]0;a title"}, false},
		{[]string{"\x1b]0;a title", " that goes on"}, false},
		{[]string{"\x1b]0;a title", " that goes on\x07"}, true},
		{[]string{"\x1b]0;a title\x1b"}, false},
		{[]string{"\x1b]0;a title\x1b", "\\"}, true},
		{[]string{"\x1bPq123\x1b\\ and text"}, true},
		{[]string{"\x1b(", "B"}, true},
		{[]string{"\x1b("}, false},
		{[]string{"\x1b]0;abandoned\x18"}, true},
		{[]string{"\x1b7\x1b[r\x1b8"}, true},
		{[]string{"gr\xc3"}, false},
		{[]string{"gr\xc3", "\xbc\xc3\x9f"}, true},
		{[]string{"\xe2\x82"}, false},
		{[]string{"\xf0\x9f\x98", "\x80"}, true},
		{[]string{"\xff"}, true}, // no text at all
	} {
		var s screen
		for _, chunk := range c.chunks {
			s.show([]byte(chunk))
		}
		if s.settled() != c.settled {
			t.Errorf("%q: settled %v", c.chunks, s.settled())
		}
	}
}
