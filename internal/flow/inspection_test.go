package flow

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/gateway/authority"
	"cofferdam/internal/plan"
)

// The files that a plan names get the session's certificate; the plan that is stored
// stays as it is, and no key is in either.
func TestInspection(t *testing.T) {
	now := time.Now()
	other, err := authority.New(now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, other.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &plan.Plan{Network: plan.Network{Inspect: true}, Limits: []plan.Limit{{Name: "time", Value: time.Hour.Milliseconds(), Unit: "ms"}}, Mounts: []plan.Mount{
		{Kind: plan.File, Target: "/a", Holds: plan.HoldsRoots}, {Kind: plan.File, Target: "/b", Holds: plan.HoldsAuthority}, {Kind: plan.File, Target: "/c", Holds: plan.HoldsJavaRoots}, {Kind: plan.File, Target: "/d", Content: "x"},
	}}
	before, _ := json.Marshal(p)
	i, started, err := inspection(p, []string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + t.TempDir()}, now)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(p); string(after) != string(before) {
		t.Errorf("the plan was changed: %s", after)
	}
	if all, _ := json.Marshal(started); strings.Contains(string(all), "PRIVATE") || started.Mounts[3].Content != "x" {
		t.Errorf("%s", all)
	}
	block, rest := pem.Decode([]byte(started.Mounts[0].Content))
	session, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if string(rest) != string(other.PEM()) || started.Mounts[1].Content != string(pem.EncodeToMemory(block)) {
		t.Errorf("%d and %d bytes", len(rest), len(started.Mounts[1].Content))
	}
	for _, der := range [][]byte{block.Bytes, other.PEM()} {
		if b, _ := pem.Decode(der); b != nil {
			der = b.Bytes
		}
		if !strings.Contains(started.Mounts[2].Content, string(der)) {
			t.Error("a certificate is not in the Java store")
		}
	}
	if until := now.Add(25 * time.Hour); session.NotAfter.After(until) || session.NotAfter.Before(until.Add(-time.Minute)) {
		t.Errorf("valid until %v", session.NotAfter)
	}
	leaf, err := i.Certificate("example.org")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: authority.Pool([]byte(started.Mounts[1].Content)), DNSName: "example.org"}); err != nil {
		t.Error(err)
	}
	// Servers are not verified with what only the inside trusts.
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: i.Roots(), DNSName: "example.org"}); err == nil {
		t.Error("a server with a certificate of the session would be believed")
	}

	if i, same, err := inspection(&plan.Plan{}, []string{"SSL_CERT_FILE=/none"}, now); i != nil || err != nil || same == nil {
		t.Errorf("without a rule that needs it: %v %v", i, err)
	}
	var usage *UsageError
	if _, _, err := inspection(p, []string{"SSL_CERT_FILE=/none"}, now); !errors.As(err, &usage) || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Error(err)
	}
	p.Network.Roots = []string{"/none"}
	if _, _, err := inspection(p, nil, now); !errors.As(err, &usage) {
		t.Error(err)
	}
	p.Network.Roots, p.Mounts = nil, []plan.Mount{{Kind: plan.File, Holds: "something else"}}
	if _, _, err := inspection(p, nil, now); err == nil {
		t.Error("a plan that nobody understands is started")
	}
}

// What a start with inspection pays, beside the mounts.
func BenchmarkInspection(b *testing.B) {
	p := &plan.Plan{Network: plan.Network{Inspect: true}, Mounts: []plan.Mount{{Kind: plan.File, Holds: plan.HoldsRoots}, {Kind: plan.File, Holds: plan.HoldsAuthority}, {Kind: plan.File, Holds: plan.HoldsJavaRoots}}}
	for b.Loop() {
		if _, _, err := inspection(p, nil, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
