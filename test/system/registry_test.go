package system

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cofferdam/internal/testenv"
)

// registryName is a stand-in for a registry, known to the host's resolver alone.
const registryName = "registry.stand-in.test"

// packages serves one package each in the way of npm, of Go and of pip.
func packages(t *testing.T) (port int, seen func() string) {
	t.Helper()
	var mu sync.Mutex
	var log []string
	var tgz bytes.Buffer
	z := gzip.NewWriter(&tgz)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"package/package.json": `{"name": "small", "version": "1.0.0", "main": "index.js"}`, "package/index.js": "module.exports = 'from the registry'\n"} {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		must(t, err)
	}
	must(t, w.Close())
	must(t, z.Close())
	zipped := func(files map[string]string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name, text := range files {
			f, err := z.Create(name)
			must(t, err)
			_, err = f.Write([]byte(text))
			must(t, err)
		}
		must(t, z.Close())
		return b.Bytes()
	}
	const goMod = "module small.test/small\n"
	module := zipped(map[string]string{"small.test/small@v1.0.0/go.mod": goMod, "small.test/small@v1.0.0/small.go": "package small\n\nconst Text = \"from the registry\"\n"})
	wheel := zipped(map[string]string{
		"small.py":                       "text = 'from the registry'\n",
		"small-1.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0.0\n",
		"small-1.0.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"small-1.0.0.dist-info/RECORD":   "small.py,,\nsmall-1.0.0.dist-info/METADATA,,\nsmall-1.0.0.dist-info/WHEEL,,\nsmall-1.0.0.dist-info/RECORD,,\n",
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == "PUT" {
			log = append(log, "PUT")
		}
		log = append(log, r.Host+r.URL.Path)
		mu.Unlock()
		if r.Method == "PUT" {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"ok": true}`)
			return
		}
		switch r.URL.Path {
		case "/npm/small":
			fmt.Fprintf(w, `{"name": "small", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "small", "version": "1.0.0", "dist": {"tarball": "http://%s/npm/small/-/small-1.0.0.tgz"}}}}`, r.Host)
		case "/npm/small/-/small-1.0.0.tgz":
			w.Write(tgz.Bytes())
		case "/go/small.test/small/@v/v1.0.0.info":
			fmt.Fprint(w, `{"Version": "v1.0.0"}`)
		case "/go/small.test/small/@v/v1.0.0.mod":
			fmt.Fprint(w, goMod)
		case "/go/small.test/small/@v/v1.0.0.zip":
			w.Write(module)
		case "/pip/small/":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<a href="/pip/small-1.0.0-py3-none-any.whl">small-1.0.0-py3-none-any.whl</a>`)
		case "/pip/small-1.0.0-py3-none-any.whl":
			w.Write(wheel)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port, func() string {
		mu.Lock()
		defer mu.Unlock()
		s := strings.Join(log, "\n")
		log = nil
		return s
	}
}

// Package managers work inside without a flag: they reach the registries that the
// person's own ones are configured for. (The stand-in is on the loopback, which takes
// a range besides.)
func TestPackageManagers(t *testing.T) {
	port, seen := packages(t)
	base := fmt.Sprintf("http://%s:%d", registryName, port)
	for _, c := range []struct {
		program      string
		config, text string // of the person
		line         string
	}{
		{"npm", ".npmrc", "registry=" + base + "/npm/\n//" + registryName + "/:_authToken=s3cret\n",
			`npm init -y >/dev/null && npm install --no-audit --no-fund small >&2 && node -p 'require("small")'`},
		{"go", ".config/go/env", "GOPROXY=" + base + "/go\nGOSUMDB=off\n",
			`printf 'module a\n\nrequire small.test/small v1.0.0\n' > go.mod; export GOTOOLCHAIN=local
			go mod download small.test/small >&2 && cat $(go env GOMODCACHE)/small.test/small@v1.0.0/small.go`},
		{"pip", ".config/pip/pip.conf", "[global]\nindex-url = " + base + "/pip\ntrusted-host = " + registryName + "\n",
			`python3 -m pip install -q --disable-pip-version-check --trusted-host ` + registryName + ` --target lib small >&2 && PYTHONPATH=lib python3 -c 'import small; print(small.text)'`},
	} {
		t.Run(c.program, func(t *testing.T) {
			s := newSite(t)
			if full, err := exec.LookPath(c.program); err == nil && c.program == "go" {
				s.env = append(s.env, "PATH="+filepath.Dir(full)+":/usr/local/bin:/usr/bin:/bin")
			} else if err != nil && c.program != "pip" {
				testenv.Skip(t, testenv.Toolchains, err.Error())
			}
			if c.program == "pip" {
				if out, err := exec.Command("/usr/bin/python3", "-c", "import pip").CombinedOutput(); err != nil {
					testenv.Skip(t, testenv.Toolchains, string(out))
				}
			}
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(s.home, c.config)), 0o700))
			s.write(t, filepath.Join(s.home, c.config), c.text)
			hosts := rigging{Hosts: "127.0.0.1 localhost " + registryName + "\n"}
			run := func(flags ...string) result {
				t.Helper()
				command := append([]string{binary, "run", "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port)}, flags...)
				return s.rigged(t, hosts, append(command, "--", "sh", "-c", c.line)...)
			}
			r := run()
			r.wants(t, 0)
			if !strings.Contains(r.out, "from the registry") || !strings.Contains(seen(), registryName) {
				t.Errorf("%s%s", r.out, r.err)
			}
			// The control: with the rule switched off nothing is reached.
			for _, name := range []string{"node_modules", "lib", "go.sum", "package-lock.json"} {
				must(t, os.RemoveAll(filepath.Join(s.workspace, name)))
			}
			must(t, removeAll(s.state+"/homes")) // with the tools' caches
			s.write(t, filepath.Join(s.home, "off.jsonc"), `{"network": {"registries": false}}`)
			r = run("--policy", filepath.Join(s.home, "off.jsonc"))
			if got := seen(); r.status == 0 || got != "" {
				t.Errorf("without: status %d, seen %s\n%s%s", r.status, got, r.out, r.err)
			}
			r = s.rigged(t, hosts, binary, "policy", "explain", "connect", fmt.Sprintf("%s:%d", registryName, port))
			if !strings.HasPrefix(r.out, "allowed") || !strings.Contains(r.out, "profile:") {
				t.Errorf("explain: %s%s", r.out, r.err)
			}
			if data, err := os.ReadFile(s.state + "/registries.json"); err != nil || strings.Contains(string(data), "s3cret") {
				t.Errorf("remembered: %s %v", data, err)
			}
		})
	}
}

// Publishing to the registry that installs come from is refused, with the reason, until a
// rule lets it. The control is npm without a boundary.
func TestNpmPublish(t *testing.T) {
	port, seen := packages(t)
	s := newSite(t)
	if _, err := exec.LookPath("npm"); err != nil {
		testenv.Skip(t, testenv.Toolchains, err.Error())
	}
	registry := fmt.Sprintf("//%s:%d/npm/", registryName, port)
	s.write(t, s.home+"/.npmrc", "registry=http:"+registry+"\n")
	s.write(t, ".npmrc", registry+":_authToken=none\nregistry=http:"+registry+"\n")
	s.write(t, "package.json", `{"name": "mine", "version": "1.0.0"}`)
	s.write(t, "index.js", "module.exports = 1\n")
	policy := s.home + "/policy.jsonc"
	s.write(t, policy, fmt.Sprintf(`{"network": {"rules": [{"host": "%s:%d", "packages": ["install", "publish"]}]}}`, registryName, port))
	const line = `npm publish --no-audit --no-fund --fetch-retries=0`
	hosts := rigging{Hosts: "127.0.0.1 localhost " + registryName + "\n"}
	inside := func(flags ...string) []string {
		return slices.Concat([]string{binary, "run", "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port)}, flags, []string{"--", "sh", "-c", line})
	}
	for _, c := range []struct {
		what      string
		command   []string
		published bool
	}{
		{"without a boundary", []string{"sh", "-c", line}, true},
		{"by the registry's own rule", inside(), false},
		{"by a rule for it", inside("--policy", policy), true},
	} {
		seen()
		r := s.rigged(t, hosts, c.command...)
		if got := seen(); strings.Contains(got, "PUT\n"+registryName) != c.published || (r.status == 0) != c.published {
			t.Errorf("%s: status %d, seen %s\n%s%s", c.what, r.status, got, r.out, r.err)
		}
		if !c.published && !strings.Contains(r.err, "writes to a package registry") {
			t.Errorf("%s: it is not told why: %s", c.what, r.err)
		}
	}
}

// A project can neither name a registry nor have its own program asked.
func TestProjectsRegistry(t *testing.T) {
	port, seen := packages(t)
	s := newSite(t)
	if _, err := exec.LookPath("npm"); err != nil {
		testenv.Skip(t, testenv.Toolchains, err.Error())
	}
	s.write(t, ".npmrc", fmt.Sprintf("registry=http://%s:%d/npm/\nfetch-retries=0\n", registryName, port))
	s.write(t, "node_modules/.bin/npm", "#!/bin/sh\ntouch "+s.home+"/canary\necho '{\"registry\": \"http://"+registryName+"/\"}'\n")
	must(t, os.Chmod(filepath.Join(s.workspace, "node_modules/.bin/npm"), 0o755))
	must(t, os.RemoveAll(s.state+"/registries.json"))
	hosts := rigging{Hosts: "127.0.0.1 localhost " + registryName + "\n"}
	for _, path := range []string{"/usr/local/bin:/usr/bin:/bin", s.workspace + "/node_modules/.bin:/usr/local/bin:/usr/bin:/bin"} {
		s.env = append(s.env, "PATH="+path)
		r := s.rigged(t, hosts, binary, "run", "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", port), "--", "sh", "-c", "/usr/bin/npm install --no-audit small")
		_, err := os.Lstat(s.home + "/canary")
		if got := seen(); r.status == 0 || got != "" || err == nil {
			t.Errorf("PATH %s: status %d, seen %s, canary %v", path, r.status, got, err == nil)
		}
		if want := fmt.Sprintf("cofferdam run --allow-domain %s", registryName); !strings.Contains(r.err, want) {
			t.Errorf("the summary does not say %s:\n%s", want, r.err)
		}
	}
}
