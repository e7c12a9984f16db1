package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxRoots bounds what is read of one file; Debian's has 220 KB.
const maxRoots = 8 << 20

// Roots are first, and those that whoever started us trusts, as PEM, each once: of SSL_CERT_FILE
// and SSL_CERT_DIR, and, unless both are set, of the first of the machine's lists that
// is there (OpenSSL and Go read their directory beside a file that is named, and their
// file beside a directory). What is named and can't be read is an error: without it a
// corporate proxy, say, would be an unknown one. Nothing but certificates is taken of the
// files, so that a key that somebody keeps beside one does not come along.
func Roots(first []byte, environ, lists []string) ([]byte, error) {
	l := list{out: bytes.Clone(first)}
	file, dirs := variable(environ, "SSL_CERT_FILE"), variable(environ, "SSL_CERT_DIR")
	if file != "" {
		if err := l.file(file); err != nil {
			return nil, fmt.Errorf("roots of SSL_CERT_FILE: %w", err)
		}
	}
	for _, dir := range filepath.SplitList(dirs) {
		if err := l.directory(dir); err != nil {
			return nil, fmt.Errorf("roots of SSL_CERT_DIR: %w", err)
		}
	}
	for _, machine := range lists {
		if file != "" && dirs != "" || l.file(machine) == nil {
			break
		}
	}
	return l.out, nil
}

// Extra are roots beside these: of NODE_EXTRA_CA_CERTS, and of files and directories
// that programs inside were told to trust.
func Extra(environ, named []string) ([]byte, error) {
	var l list
	if file := variable(environ, "NODE_EXTRA_CA_CERTS"); file != "" {
		if err := l.file(file); err != nil {
			return nil, fmt.Errorf("roots of NODE_EXTRA_CA_CERTS: %w", err)
		}
	}
	for _, name := range named {
		err := l.file(name)
		if st, serr := os.Stat(name); serr == nil && st.IsDir() {
			err = l.directory(name)
		}
		if err != nil {
			return nil, fmt.Errorf("roots that programs inside are told to trust: %w", err)
		}
	}
	return l.out, nil
}

// Files are roots that a policy names. What is no certificate is an error there, not only a
// file without any.
func Files(named []string) ([]byte, error) {
	var l list
	for _, name := range named {
		from := len(l.out)
		if err := l.file(name); err != nil {
			return nil, err
		}
		for block := range blocks(l.out[from:]) {
			p, _ := pem.Decode(block)
			if p == nil {
				return nil, fmt.Errorf("%s: a certificate that is not written as PEM", name)
			}
			if _, err := x509.ParseCertificate(p.Bytes); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return l.out, nil
}

// list is certificates, each once: a directory for OpenSSL has each under two names,
// beside one file with all of them.
type list struct {
	out  []byte
	seed maphash.Seed
	seen map[uint64]bool
}

func (l *list) known(block []byte) bool {
	if l.seen == nil {
		l.seed, l.seen = maphash.MakeSeed(), map[uint64]bool{}
	}
	sum := maphash.Bytes(l.seed, block)
	known := l.seen[sum]
	l.seen[sum] = true
	return known
}

// directory takes what is in one: a file there that has no certificate, such as a
// README, is nobody's mistake.
func (l *list) directory(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_ = l.file(filepath.Join(dir, e.Name()))
	}
	return nil
}

func (l *list) file(file string) error {
	// Not a device or FIFO, which never ends: it is stat'ed before it is opened only to
	// say so early; the bound holds in any case.
	if st, err := os.Stat(file); err != nil {
		return err
	} else if !st.Mode().IsRegular() || st.Size() > maxRoots {
		return fmt.Errorf("%s: not a file of at most %d MiB", file, maxRoots>>20)
	}
	from := len(l.out)
	if err := l.read(file); err != nil {
		return err
	}
	// What is taken moves to the front of what was read: a machine's list is copied in
	// no start.
	found, to := false, from
	for block := range blocks(l.out[from:]) {
		if found = true; !l.known(block) {
			to += copy(l.out[to:], block)
		}
	}
	l.out = l.out[:to]
	if !found {
		return fmt.Errorf("%s: no certificate", file)
	}
	return nil
}

// read appends a file as it is; nothing, with an error.
func (l *list) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	from := len(l.out)
	b := slices.Grow(l.out, int(min(st.Size(), maxRoots))+bytes.MinRead)
	for {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if len(b)-from > maxRoots {
			err = fmt.Errorf("%s: not a file of at most %d MiB", file, maxRoots>>20)
		}
		switch {
		case err == io.EOF:
			l.out = b
			return nil
		case err != nil:
			return err
		case len(b) == cap(b):
			b = slices.Grow(b, len(b))
		}
	}
}

const (
	begin = "-----BEGIN CERTIFICATE-----\n"
	end   = "-----END CERTIFICATE-----\n"
)

// blocks yields the certificates of a PEM text, each as it stands there; what is before
// the end of the last one may be written over. encoding/pem
// takes some milliseconds of each start for a machine's list; all that is needed here is
// that nothing but certificates comes along: between the two lines is base64 and nothing
// else. OpenSSL's own form ("TRUSTED CERTIFICATE") has more in it, which others can't
// read, so it is left out.
func blocks(b []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		if bytes.IndexByte(b, '\r') >= 0 {
			b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
		}
		if !bytes.HasSuffix(b, []byte("\n")) {
			b = append(bytes.Clone(b), '\n')
		}
		for {
			i := bytes.Index(b, []byte(begin))
			if i < 0 {
				return
			}
			n := bytes.Index(b[i:], []byte(end))
			if n < 0 {
				return
			}
			block := b[i : i+n+len(end)]
			// A hyphen begins another block, a colon is of a header (RFC 1421).
			if text := block[len(begin):n]; bytes.IndexByte(text, '-') >= 0 || bytes.IndexByte(text, ':') >= 0 {
				b = b[i+len(begin):] // another begins before this one ends
				continue
			}
			if !yield(block) {
				return
			}
			b = b[i+len(block):]
		}
	}
}

// Pool is what Roots returned, to verify with.
func Pool(roots []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots) // what it can't read verifies nothing
	return pool
}

func variable(environ []string, name string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}
