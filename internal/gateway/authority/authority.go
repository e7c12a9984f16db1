// Package authority is the certificate authority of one session: it makes, for a name
// that a connection was decided on, the certificate with which TLS from the inside is
// ended. Programs inside trust it because its certificate is in their list of roots
// ; nobody else ever does.
//
// The keys exist in the memory of this process and nowhere else: they have no method
// that writes them, and end with it.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

const (
	// before is how long certificates have been valid when they are made: clocks inside
	// may be set by faketime and the like, and a second may be lost to rounding.
	before = time.Hour
	// maxLeaves are kept; of more, the one that was not used for longest is made again.
	maxLeaves = 1024
)

// Authority makes certificates. Any number of goroutines may ask it.
type Authority struct {
	cert *x509.Certificate
	pem  []byte
	// One key for all leaves: each lives as long as the others, in the same memory.
	key, leafKey *ecdsa.PrivateKey
	leafID       []byte

	mu     sync.Mutex
	leaves map[string]*leaf
	clock  uint64 // of uses
}

// leaf is made once, by whoever asks for it first; the others wait.
type leaf struct {
	once sync.Once
	cert *tls.Certificate
	err  error
	used uint64
}

// New makes an authority that is valid until then.
func New(now, until time.Time) (*Authority, error) {
	a := &Authority{leaves: map[string]*leaf{}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("key of the session's certificate authority: %w", err)
	}
	if a.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("key of the session's certificates: %w", err)
	}
	if a.leafID, err = keyID(&a.leafKey.PublicKey); err != nil {
		return nil, err
	}
	id, err := keyID(&a.key.PublicKey)
	if err != nil {
		return nil, err
	}
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Two sessions at once have two authorities: a name that both had would make
		// OpenSSL try the wrong one first.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("cofferdam session %x", id[:4])},
		NotBefore:             now.Add(-before),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
		SubjectKeyId:          id,
		AuthorityKeyId:        id,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the session's authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certificate of the session's authority: %w", err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, nil
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return append([]byte(nil), a.pem...) }

// Certificate is for a canonical name, or an address in its usual notation.
func (a *Authority) Certificate(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	l := a.leaves[name]
	if l == nil {
		if len(a.leaves) >= maxLeaves {
			a.forget()
		}
		l = &leaf{}
		a.leaves[name] = l
	}
	a.clock++
	l.used = a.clock
	a.mu.Unlock()
	l.once.Do(func() { l.cert, l.err = a.mint(name) })
	return l.cert, l.err
}

// forget makes room: an eighth at once, so that a flood of names does not look for the
// oldest each time.
func (a *Authority) forget() {
	oldest := a.clock
	for _, l := range a.leaves {
		oldest = min(oldest, l.used)
	}
	for limit := oldest; len(a.leaves) > maxLeaves-maxLeaves/8; {
		limit += max((a.clock-limit)/8, 1)
		for name, l := range a.leaves {
			if l.used <= limit && len(a.leaves) > maxLeaves-maxLeaves/8 {
				delete(a.leaves, name)
			}
		}
	}
}

func (a *Authority) mint(name string) (*tls.Certificate, error) {
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             a.cert.NotBefore,
		NotAfter:              a.cert.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          a.leafID,
		AuthorityKeyId:        a.cert.SubjectKeyId,
	}
	// The name is in the SAN alone: what it is there decides (RFC 9525, 2). With an
	// empty subject the library marks the SAN as critical, as RFC 5280 wants it.
	if addr, err := netip.ParseAddr(name); err == nil {
		template.IPAddresses = append(template.IPAddresses, addr.Unmap().AsSlice())
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leafKey.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", name, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey, Leaf: parsed}, nil
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number of a certificate: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// keyID is by RFC 7093, 2: a hash of the key, cut to 160 bits.
func keyID(k *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}
