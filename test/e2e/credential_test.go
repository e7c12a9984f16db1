package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
	"cofferdam/test/e2e/modelapi"
)

// The agent works with a placeholder for the key of its model. The model gets the key;
// the agent, what it runs and its files never have it.
func TestModelKeyIsMasked(t *testing.T) {
	const host, key = "model.stand-in.test", "sk-ant-api03-Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l-AA"
	s := site(t)
	file, err := cofferdam()
	if err != nil {
		Skip(t, err)
	}
	steps := []modelapi.Step{
		{ID: "look", Tool: modelapi.Shell, Command: `echo "key $ANTHROPIC_API_KEY"; cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep -a ANTHROPIC_API_KEY= | sort -u; grep -rls 'Re4lRe4l[R]' "$HOME" . /tmp`},
		{ID: "work", Tool: modelapi.Shell, Command: "echo done with a placeholder > made.txt"},
	}
	api := modelapi.New(steps)
	var right, wrong atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != key && r.Header.Get("Authorization") != "Bearer "+key {
			wrong.Add(1)
			http.Error(w, `{"type": "error", "error": {"type": "authentication_error", "message": "invalid key"}}`, http.StatusUnauthorized)
			return
		}
		right.Add(1)
		api.ServeHTTP(w, r)
	}))
	ca, cert := standIn(t, host)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())

	hosts, roots := filepath.Join(s.Tools, "hosts"), filepath.Join(s.Tools, "roots.pem")
	s.write(t, hosts, "127.0.0.1 localhost "+host+"\n", 0o644)
	s.write(t, roots, ca, 0o644)
	cmd := s.command(filepath.Join(s.Tools, "driver"), "hosts", hosts, "--", file, "run",
		"--allow-domain", host+":"+port, "--allow-cidr", "127.0.0.1/32:"+port, "--mask", "ANTHROPIC_API_KEY="+host+":"+port, "--env", "ANTHROPIC_BASE_URL",
		"--allow-read", s.Tools, "--", filepath.Join(s.Tools, "claude"))
	cmd.Args = append(cmd.Args, AgentArgs("claude")...)
	cmd.Env = append(cmd.Env, "ANTHROPIC_API_KEY="+key, "ANTHROPIC_BASE_URL=https://"+host+":"+port, "SSL_CERT_FILE="+roots,
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1")
	uid, gid := os.Getuid(), os.Getgid()
	if s.cred != nil {
		uid, gid = int(s.cred.Uid), int(s.cred.Gid)
	}
	const capSysAdmin = 21
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	cmd.SysProcAttr.AmbientCaps = []uintptr{capSysAdmin}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "driver: ") {
		testenv.Skip(t, testenv.UserNamespaces, string(out))
	}
	if err != nil || right.Load() == 0 || wrong.Load() != 0 || s.Content(t, "made.txt") != "done with a placeholder\n" {
		t.Errorf("%v: %d requests with the key and %d without: %s", err, right.Load(), wrong.Load(), out)
	}
	saw := ""
	for _, c := range api.Calls() {
		if c.ID == "look" {
			saw = c.Result
		}
	}
	// (The agent may keep its key from what it runs.)
	if saw == "" || strings.Contains(saw, "Re4l") || !strings.Contains(saw, "sk-ant-api03-") {
		t.Errorf("inside there is %q", saw)
	}
}

// standIn makes a certificate for a host, and what is to be trusted for it.
func standIn(t *testing.T, host string) (roots string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, own, own, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
