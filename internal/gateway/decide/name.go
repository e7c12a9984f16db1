package decide

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Canonical returns the one spelling of a host name by which rules, questions and
// connections are compared: lower case, without the trailing dot of the root.
// Labels have ASCII letters, digits, "-" (not at an end) and "_", at most 63 bytes
// each and 253 in all (RFC 1035, section 2.3.4); an "xn--" label has to be what
// IDNA makes of its own decoding (UTS 46). It refuses whatever a resolver might
// take for an address: inet_aton(3) reads 0x7f.1, 2130706433 and 1.2.3.0xff, so no
// name may end in a number. It never maps one name to another: what is not ASCII
// is an error.
func Canonical(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("%s is not a host name: %s", quote(name), why)
	}
	s := strings.TrimSuffix(name, ".")
	switch {
	case name == "":
		return "", errors.New("an empty host name")
	case s == "":
		return bad("it is the root")
	case len(s) > 253:
		return bad("it is longer than 253 bytes")
	}
	s = lower(s)
	last := s
	for label := range strings.SplitSeq(s, ".") {
		switch {
		case label == "":
			return bad("it has an empty label")
		case len(label) > 63:
			return bad("a label is longer than 63 bytes")
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return bad("it has letters, digits, - and _ only, in ASCII")
			}
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return bad(`a label starts or ends with "-"`)
		}
		if strings.HasPrefix(label, "xn--") && !punycode(label) {
			return bad(quote(label) + " is not what IDNA makes of any label")
		}
		last = label
	}
	if numeric(last) {
		return bad("it ends in a number, as an address does")
	}
	return s, nil
}

// lower is strings.ToLower for ASCII alone: the Kelvin sign must not become a "k".
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if 'A' <= b[j] && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// numeric: digits, or hexadecimal as inet_aton(3) reads it, where "0x" is zero.
func numeric(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// punycode says whether an "xn--" label is the encoding of what it decodes to, and
// that is a label beyond ASCII: otherwise two spellings would be one name. Of labels
// that decode at all none is known that does not come back; it is asked all the same.
func punycode(label string) bool {
	decoded, err := idna.Lookup.ToUnicode(label)
	if err != nil {
		return false
	}
	again, err := idna.Lookup.ToASCII(decoded)
	return err == nil && again == label
}

// quote makes a name of the inside printable, and short.
func quote(s string) string {
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return strconv.QuoteToASCII(s)
}
