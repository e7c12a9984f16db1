package authority

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
)

// javaPassword is the one that every Java's own list has. It keeps nobody out: it is in
// each program that reads the list.
const javaPassword = "changeit"

// JavaStore makes a Java key store (JKS) of the certificates in a PEM text. Java reads
// this old form by itself where it expects its list of roots, and it needs no cipher;
// the format is in the sources of sun.security.provider.JavaKeyStore.
func JavaStore(roots []byte, made time.Time) []byte {
	b := make([]byte, 0, len(roots)) // base64 is longer
	number := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	text := func(s string) { // ASCII, so what Java calls modified UTF-8
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	number(0xfeedfeed)
	number(2)
	count := 0
	number(count) // stands for itself
	for block := range blocks(roots) {
		before := len(b)
		number(2)                 // a certificate that is trusted
		text(strconv.Itoa(count)) // its name
		b = binary.BigEndian.AppendUint64(b, uint64(made.UnixMilli()))
		text("X.509")
		at := len(b)
		number(0) // stands for its length
		der := block[len(begin) : len(block)-len(end)]
		b = slices.Grow(b, base64.StdEncoding.DecodedLen(len(der)))
		n, err := base64.StdEncoding.Decode(b[len(b):cap(b)], der) // passes over ends of lines
		if err != nil {
			b = b[:before]
			continue
		}
		binary.BigEndian.PutUint32(b[at:], uint32(n))
		b = b[:len(b)+n]
		count++
	}
	binary.BigEndian.PutUint32(b[8:], uint32(count))
	// Not against anybody: it finds out whether the file is whole.
	h := sha1.New()
	for _, c := range utf16.Encode([]rune(javaPassword)) {
		h.Write([]byte{byte(c >> 8), byte(c)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(b)
	return h.Sum(b)
}
