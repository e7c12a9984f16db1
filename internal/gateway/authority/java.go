package authority

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
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
	var ders [][]byte
	for block := range blocks(roots) {
		text := bytes.ReplaceAll(block[len(begin):len(block)-len(end)], []byte("\n"), nil)
		der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		if n, err := base64.StdEncoding.Decode(der, text); err == nil {
			ders = append(ders, der[:n])
		}
	}
	b := make([]byte, 0, len(roots))
	number := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	text := func(s string) { // ASCII, so what Java calls modified UTF-8
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	number(0xfeedfeed)
	number(2)
	number(len(ders))
	for i, der := range ders {
		number(2)             // a certificate that is trusted
		text(strconv.Itoa(i)) // its name
		b = binary.BigEndian.AppendUint64(b, uint64(made.UnixMilli()))
		text("X.509")
		number(len(der))
		b = append(b, der...)
	}
	// Not against anybody: it finds out whether the file is whole.
	h := sha1.New()
	for _, c := range utf16.Encode([]rune(javaPassword)) {
		h.Write([]byte{byte(c >> 8), byte(c)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(b)
	return h.Sum(b)
}
