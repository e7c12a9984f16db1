package policy

import (
	_ "embed"
	"sort"
	"strings"
)

// suffixes are hashes of the names at or above a public suffix: one below which
// strangers get names, such as com, co.uk and github.io. A wildcard there would
// take in hosts of strangers. Made of the public suffix list of golang.org/x/net by
//
//	go test ./internal/policy -run TestSuffixes -update
//
// which links a whole HTTP client where it is imported, so that each start would
// pay for it. A hash that is there by chance (one name in 10^8) refuses a wildcard
// that could have been allowed; none is allowed by chance.
//
//go:embed suffixes.bin
var suffixes string

// suffixBytes is the size of one hash in suffixes, which are in order.
const suffixBytes = 5

// suffixHash is 40 bits of FNV-1a.
func suffixHash(s string) string {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 40
	return string([]byte{byte(h >> 32), byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)})
}

func inSuffixes(s string) bool {
	want := suffixHash(s)
	at := func(i int) string { return suffixes[i*suffixBytes : (i+1)*suffixBytes] }
	n := len(suffixes) / suffixBytes
	i := sort.Search(n, func(i int) bool { return at(i) >= want })
	return i < n && at(i) == want
}

// publicSuffix says whether a canonical name is a public suffix or lies above one.
// A name of one label is, whether the list has it or not.
func publicSuffix(name string) bool {
	_, above, ok := strings.Cut(name, ".")
	return !ok || inSuffixes(name) || inSuffixes("*."+above) && !inSuffixes("!"+name)
}
