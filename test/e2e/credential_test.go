package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
	"cofferdam/test/e2e/modelapi"
)

// keyed is how an agent is led to the model at address, with a key that is masked.
type keyed struct {
	variable, key string
	start         string                        // of the placeholder
	env           func(address string) []string // of the person
	// file is one of the person's home, with text.
	file string
	text func(address string) string
}

var keyedAgents = map[string]keyed{
	"claude": {
		variable: "ANTHROPIC_API_KEY", start: "sk-ant-api03-", key: "sk-ant-api03-Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l-AA",
		env: func(address string) []string {
			return []string{"ANTHROPIC_BASE_URL=" + address, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}
		},
	},
	"codex": {
		variable: "OPENAI_API_KEY", start: "sk-proj-", key: "sk-proj-Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l",
		file: ".codex/config.toml",
		text: func(address string) string {
			return fmt.Sprintf("model = \"gpt-5.5\"\nmodel_provider = \"standin\"\ncheck_for_update_on_startup = false\n[analytics]\nenabled = false\n"+
				"[model_providers.standin]\nname = \"stand-in\"\nbase_url = %q\nwire_api = \"responses\"\nenv_key = \"OPENAI_API_KEY\"\n", address+"/v1")
		},
	},
	"gemini": {
		variable: "GEMINI_API_KEY", start: "AIzaSy", key: "AIzaSyRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lR",
		env:  func(address string) []string { return []string{"GOOGLE_GEMINI_BASE_URL=" + address} },
		file: ".gemini/settings.json",
		text: func(string) string {
			return `{"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"enableAutoUpdate": false}, "privacy": {"usageStatisticsEnabled": false}}`
		},
	},
	"opencode": {
		variable: "STANDIN_KEY", start: "sk-", key: "sk-Re4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4lRe4l",
		file: ".config/opencode/opencode.json",
		text: func(address string) string {
			return fmt.Sprintf(`{"autoupdate": false, "permission": {"bash": "allow", "external_directory": "allow"}, "provider": {"standin": {"npm": "@ai-sdk/openai-compatible", "name": "stand-in",
				"options": {"baseURL": %q, "apiKey": "{env:STANDIN_KEY}"}, "models": {"m": {"name": "m", "tool_call": true}}}}}`, address+"/v1")
		},
	},
}

// Each agent works with a placeholder for the key of its model. The model gets the key;
// the agent, what it runs and its files never have it.
func TestModelKeyIsMasked(t *testing.T) {
	for _, agent := range slices.Sorted(maps.Keys(keyedAgents)) {
		t.Run(agent, func(t *testing.T) { modelKeyIsMasked(t, agent, keyedAgents[agent]) })
	}
}

func modelKeyIsMasked(t *testing.T, agent string, k keyed) {
	const host = "model.stand-in.test"
	s := siteOf(t, agent)
	file, err := cofferdam()
	if err != nil {
		Skip(t, err)
	}
	steps := []modelapi.Step{
		{ID: "look", Tool: modelapi.Shell, Command: `echo "key $` + k.variable + `"; cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep -a ` + k.variable + `= | sort -u; grep -rls 'Re4lRe4l[R]' "$HOME" . /tmp`},
		{ID: "work", Tool: modelapi.Shell, Command: "echo done with a placeholder > made.txt"},
	}
	api := modelapi.New(steps)
	var right, wrong atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains([]string{r.Header.Get("X-Api-Key"), r.Header.Get("X-Goog-Api-Key"), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}, k.key) {
			wrong.Add(1)
			http.Error(w, `{"type": "error", "error": {"type": "authentication_error", "message": "invalid key"}}`, http.StatusUnauthorized)
			return
		}
		right.Add(1)
		api.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	hosts, roots, port := s.serveAs(t, server, host)
	address := "https://" + host + ":" + port
	if k.file != "" {
		s.write(t, filepath.Join(s.Home, k.file), k.text(address), 0o600)
		s.own(t, filepath.Join(s.Home, strings.Split(k.file, "/")[0]))
	}
	cmd := s.command(filepath.Join(s.Tools, "driver"), "hosts", hosts, "--", file, "run",
		"--allow-domain", host+":"+port, "--allow-cidr", "127.0.0.1/32:"+port, "--mask", k.variable+"="+host+":"+port,
		"--allow-read", s.Tools, "--", filepath.Join(s.Tools, agent))
	cmd.Args = append(cmd.Args, AgentArgs(agent)...)
	cmd.Env = append(cmd.Env, k.variable+"="+k.key, "SSL_CERT_FILE="+roots)
	if k.env != nil {
		cmd.Env = append(cmd.Env, k.env(address)...)
	}
	s.ownHosts(cmd)
	limit := time.AfterFunc(90*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	out, err := cmd.CombinedOutput()
	limit.Stop()
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
	if saw == "" || strings.Contains(saw, "Re4l") || !strings.Contains(saw, k.start) {
		t.Errorf("inside there is %q", saw)
	}
}

// serveAs starts a server that is host, and returns the file of names that says so, the
// file of roots to trust for it, and its port.
func (s *Site) serveAs(t *testing.T, server *httptest.Server, host string) (hosts, roots, port string) {
	t.Helper()
	ca, cert := standIn(t, host)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	hosts, roots = filepath.Join(s.Tools, "hosts"), filepath.Join(s.Tools, "roots.pem")
	s.write(t, hosts, "127.0.0.1 localhost "+host+"\n", 0o644)
	s.write(t, roots, ca, 0o644)
	return hosts, roots, port
}

// ownHosts gives a command the namespaces in which "driver hosts" can work.
func (s *Site) ownHosts(cmd *exec.Cmd) {
	uid, gid := os.Getuid(), os.Getgid()
	if s.cred != nil {
		uid, gid = int(s.cred.Uid), int(s.cred.Gid)
	}
	const capSysAdmin = 21
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	cmd.SysProcAttr.AmbientCaps = []uintptr{capSysAdmin}
}

// Deno has roots of its own; it takes those of the session from DENO_CERT.
func TestDenoTrusts(t *testing.T) {
	const host = "site.stand-in.test"
	s := site(t)
	file, err := cofferdam()
	if err != nil {
		Skip(t, err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "served "+r.URL.Path)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	hosts, roots, port := s.serveAs(t, server, host)
	s.write(t, filepath.Join(s.Workspace, "fetch.ts"), fmt.Sprintf(`const r = await fetch("https://%s:%s/hello"); console.log(await r.text());`, host, port), 0o644)
	for how, want := range map[string]string{"--allow-domain": "served /hello", "--tunnel-domain": "invalid peer certificate"} {
		cmd := s.command(filepath.Join(s.Tools, "driver"), "hosts", hosts, "--", file, "run", how, host+":"+port, "--allow-cidr", "127.0.0.1/32:"+port,
			"--allow-read", s.Tools, "--", filepath.Join(s.Tools, "deno"), "run", "--allow-net", "--no-lock", "fetch.ts")
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+roots, "DENO_NO_UPDATE_CHECK=1")
		s.ownHosts(cmd)
		// The control: unopened, what Deno sees is the server's own certificate.
		if out, err := cmd.CombinedOutput(); !strings.Contains(string(out), want) || (err == nil) != (how == "--allow-domain") {
			t.Errorf("%s: %v, %s", how, err, out)
		}
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
