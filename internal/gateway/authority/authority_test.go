package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	now := time.Now()
	a, err := New(now, now.Add(3*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	roots := Pool(a.PEM())
	for _, name := range []string{"example.org", "192.0.2.1", "2001:db8::1", strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".example.org"} {
		c, err := a.Certificate(name)
		if err != nil {
			t.Fatal(err)
		}
		leaf := c.Leaf
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "other.example"}); err == nil {
			t.Errorf("%s is good for another name", name)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
			t.Errorf("%s is good for clients", name)
		}
		if leaf.Subject.CommonName != "" || leaf.IsCA || len(leaf.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, a.cert.SubjectKeyId) ||
			leaf.NotBefore.Before(a.cert.NotBefore) || leaf.NotAfter.After(a.cert.NotAfter) || leaf.PublicKey.(*ecdsa.PublicKey).Equal(&a.key.PublicKey) {
			t.Errorf("%s: %+v", name, leaf)
		}
		again, _ := a.Certificate(name)
		if again != c {
			t.Errorf("%s was made twice", name)
		}
	}
	if d := a.cert.NotAfter.Sub(now); d < 2*time.Hour || d > 3*time.Hour || now.Sub(a.cert.NotBefore) < 59*time.Minute || !a.cert.MaxPathLenZero {
		t.Errorf("valid for %v: %+v", d, a.cert)
	}
	b, _ := New(now, now.Add(time.Hour))
	if _, err := mustLeaf(t, b).Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("one session's certificate is trusted in another")
	}
	if a.cert.Subject.String() == b.cert.Subject.String() {
		t.Errorf("two authorities of one name, %s", a.cert.Subject)
	}
}

func mustLeaf(t *testing.T, a *Authority) *x509.Certificate {
	c, err := a.Certificate("example.org")
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

// However many names there are, the memory is bounded, and what is used stays.
func TestLeavesAreBounded(t *testing.T) {
	a, err := New(time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := a.Certificate("kept.example")
	for i := range 3 * maxLeaves {
		if _, err := a.Certificate(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
		if again, _ := a.Certificate("kept.example"); again != kept {
			t.Fatalf("what is used was forgotten after %d others", i)
		}
		if len(a.leaves) > maxLeaves {
			t.Fatalf("%d leaves", len(a.leaves))
		}
	}
	if len(a.leaves) < maxLeaves/2 {
		t.Errorf("%d leaves are left", len(a.leaves))
	}
}

func TestOneMintPerName(t *testing.T) {
	a, err := New(time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	first, _ := a.Certificate("h0.example")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if c, err := a.Certificate(fmt.Sprintf("h%d.example", i%2)); err != nil || i%2 == 0 && c != first {
				t.Error(c, err)
			}
		})
	}
	wg.Wait()
}

func TestRoots(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, blocks ...*pem.Block) string {
		var b bytes.Buffer
		b.WriteString("# comment\n")
		for _, block := range blocks {
			pem.Encode(&b, block)
		}
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := func() *pem.Block {
		a, err := New(time.Now(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}
	}
	one, two, three := cert(), cert(), cert()
	a := file("a.pem", one, &pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	file("d/b.pem", two)
	file("d/README")
	c := file("c.pem", three)
	// Windows' ends of lines, no last one, one that does not end with a key in it.
	odd := filepath.Join(dir, "odd.pem")
	text := "x\r\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----BEGIN PRIVATE KEY-----\r\nAAAA\r\n" + strings.TrimSuffix(strings.ReplaceAll(string(pem.EncodeToMemory(two)), "\n", "\r\n"), "\r\n")
	if err := os.WriteFile(odd, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Roots(nil, nil, []string{odd}); err != nil || !bytes.Equal(b, pem.EncodeToMemory(two)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b := JavaStore(append(pem.EncodeToMemory(one), pem.EncodeToMemory(two)...), time.Now()); !bytes.Contains(b, one.Bytes) || !bytes.Contains(b, two.Bytes) {
		t.Errorf("%q", b)
	}
	for _, x := range []struct {
		environ string
		want    []*pem.Block
	}{
		{"SSL_CERT_FILE=" + a, []*pem.Block{one, three}},
		{"SSL_CERT_DIR=" + dir + "/d", []*pem.Block{two, three}},
		{"SSL_CERT_FILE=" + c, []*pem.Block{three}},
		{"SSL_CERT_FILE=" + a + "|SSL_CERT_DIR=" + dir + "/d|NODE_EXTRA_CA_CERTS=" + c, []*pem.Block{one, two, three}},
	} {
		env := strings.Split(x.environ, "|")
		got, err := Roots(nil, env, []string{dir + "/none", c})
		extra, eerr := Extra(env, nil)
		if got = append(got, extra...); err == nil {
			err = eerr
		}
		if err != nil {
			t.Errorf("%s: %v", x.environ, err)
		}
		n := 0
		for rest := got; ; n++ {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			if n >= len(x.want) || !bytes.Equal(b.Bytes, x.want[n].Bytes) || b.Type != "CERTIFICATE" {
				t.Errorf("%s: block %d is %s", x.environ, n, b.Type)
			}
		}
		if n != len(x.want) {
			t.Errorf("%s: %d certificates", x.environ, n)
		}
	}
	for _, bad := range []string{"SSL_CERT_FILE=" + dir + "/none", "SSL_CERT_FILE=" + dir + "/d/README", "SSL_CERT_FILE=/dev/zero", "SSL_CERT_DIR=" + dir + "/none", "NODE_EXTRA_CA_CERTS=" + dir} {
		b, err := Roots(nil, []string{bad}, []string{a})
		if _, eerr := Extra([]string{bad}, nil); err == nil && eerr == nil {
			t.Errorf("%s: %d bytes", bad, len(b))
		}
	}
	if b, err := Roots(nil, nil, []string{dir + "/none", a, c}); err != nil || !bytes.Equal(b, pem.EncodeToMemory(one)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := Extra(nil, []string{c, dir + "/d"}); err != nil || !bytes.Equal(b, append(pem.EncodeToMemory(three), pem.EncodeToMemory(two)...)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// A policy's files have to be what they are called.
	if b, err := Files([]string{a, c, c}); err != nil || !bytes.Equal(b, append(pem.EncodeToMemory(one), pem.EncodeToMemory(three)...)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	garbage := file("garbage.pem", one, &pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")})
	for _, bad := range []string{garbage, dir + "/none", dir + "/d/README", dir, "/dev/zero"} {
		if b, err := Files([]string{a, bad}); err == nil || !strings.Contains(err.Error(), bad) || len(b) > 0 {
			t.Errorf("%s: %d bytes, %v", bad, len(b), err)
		}
	}
	if b, err := Extra(nil, []string{dir + "/none"}); err == nil {
		t.Errorf("%s", b)
	}
}
