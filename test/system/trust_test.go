package system

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/testenv"
)

var update = flag.Bool("update", false, "write docs/conformance.md anew")

// fetch is the first argument of this test binary as a Go program that fetches a URL.
const fetch = "fetch"

func fetchURL(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n%s", resp.Status, body)
	if resp.StatusCode != 200 {
		return 1
	}
	return 0
}

// looking is an outside over TLS that has a repository and packages, and a policy by
// which each request to it is looked at.
type looking struct {
	*outside
	policy string
	url    string
}

func newLooking(t *testing.T, s *site) *looking {
	t.Helper()
	l := &looking{}
	repo := filepath.Join(s.home, "served", "repo.git")
	s.write(t, s.home+"/first/file", "served by git\n")
	for _, args := range [][]string{{"init", "-q", "-b", "main", s.home + "/first"}, {"-C", s.home + "/first", "add", "-A"}, {"-C", s.home + "/first", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"},
		{"clone", "-q", "--bare", s.home + "/first", repo}, {"-C", repo, "config", "http.receivepack", "true"}} {
		s.git(t, args...)
	}
	backend := strings.TrimSpace(s.git(t, "--exec-path")) + "/git-http-backend"
	wheel, tarball, packed := s.wheel(t), npmTarball(), crate()
	sum := sha1.Sum(tarball)
	l.outside = newOutside(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		base := "https://" + r.Host
		path := strings.TrimPrefix(r.URL.Path, "/no")
		switch {
		case strings.HasPrefix(r.URL.Path, "/git/"):
			h := &cgi.Handler{Path: backend, Root: "/git", Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=a", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
				Logger: nil, Stderr: io.Discard}
			h.ServeHTTP(w, r)
		case path == "/crates/thing-1.0.0.crate":
			w.Write(packed)
		case path == "/npm/thing":
			fmt.Fprintf(w, `{"name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "thing", "version": "1.0.0", "dist": {"tarball": "%s/npm/thing.tgz", "shasum": "%s"}}}}`, base, hex.EncodeToString(sum[:]))
		case path == "/npm/thing.tgz":
			w.Write(tarball)
		case path == "/pip/thing/":
			fmt.Fprintf(w, `<a href="/pip/files/thing-1.0-py3-none-any.whl">thing-1.0-py3-none-any.whl</a>`)
		case path == "/pip/files/thing-1.0-py3-none-any.whl":
			w.Write(wheel)
		default:
			return false
		}
		return true
	})
	host := fmt.Sprintf("%s:%d", goodName, l.tls)
	l.url = "https://" + host
	l.index(t, s, packed)
	l.policy = filepath.Join(s.home, "policy.jsonc")
	s.write(t, l.policy, fmt.Sprintf(`{"network": {
		"rules": [
			{"host": %[1]q},
			{"host": %[1]q, "git": ["push"], "refs": ["refs/heads/agent/*"]},
			{"host": %[1]q, "effect": "deny", "paths": ["/no/**"], "reason": "because of the test"},
		],
		"allowedCIDRs": ["127.0.0.1/32:%[2]d"],
	}}`, host, l.tls))
	// Whoever starts the run trusts the server's authority; nothing inside has it.
	s.env = append(s.env, "SSL_CERT_FILE="+s.home+"/ca.crt")
	if err := os.Rename(l.ca, s.home+"/ca.crt"); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *looking) try(t *testing.T, s *site, line string) result {
	t.Helper()
	return l.outside.try(t, s, "export URL="+l.url+"; "+line, "--policy", l.policy)
}

func (s *site) wheel(t *testing.T) []byte {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-c", `
import zipfile, sys, io
b = io.BytesIO()
z = zipfile.ZipFile(b, "w")
for name, text in {"thing.py": "word = 'served'\n", "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
    "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "thing-1.0.dist-info/RECORD": ""}.items():
    z.writestr(name, text)
z.close()
sys.stdout.buffer.write(b.getvalue())`).Output()
	if err != nil {
		testenv.Skip(t, testenv.Toolchains, "python3: "+err.Error())
	}
	return out
}

func npmTarball() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"package/package.json": `{"name": "thing", "version": "1.0.0"}`, "package/index.js": "module.exports = 'served'\n"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		_, _ = w.Write([]byte(text))
	}
	_ = w.Close()
	_ = z.Close()
	return b.Bytes()
}

// conformance is a program that reads lists of roots in its own way. fetch prints
// "served"; refused asks for what a rule denies.
type conformance struct {
	name, program  string
	fetch, refused string
	// quiet: it does not show what the server says with an error.
	quiet bool
}

const pythonFetch = `/usr/bin/python3 -c '
import os, sys
%s'`

var programs = []conformance{
	{name: "curl", program: "curl", fetch: `curl -fsS "$URL/hello"`, refused: `curl -sS "$URL/no/hello"`},
	{name: "wget", program: "wget", fetch: `wget -qO- "$URL/hello"`, refused: `wget -O- "$URL/no/hello"`, quiet: true},
	{name: "openssl", program: "openssl", fetch: `printf 'GET /hello HTTP/1.0\r\nHost: %s\r\n\r\n' "${URL#https://}" | openssl s_client -quiet -verify_quiet -verify_return_error -servername "$(echo "${URL#https://}" | cut -d: -f1)" -connect "${URL#https://}"`,
		refused: `printf 'GET /no/hello HTTP/1.0\r\nHost: %s\r\n\r\n' "${URL#https://}" | openssl s_client -quiet -verify_quiet -verify_return_error -servername "$(echo "${URL#https://}" | cut -d: -f1)" -connect "${URL#https://}"`},
	{name: "git (clone, fetch)", program: "git", fetch: `git clone -q "$URL/git/repo.git" cloned && cat cloned/file; s=$?; rm -rf cloned; exit $s`, refused: `git clone -q "$URL/no/repo.git" cloned`},
	{name: "git (push)", program: "git", fetch: `git clone -q "$URL/git/repo.git" cloned && cd cloned && git push -q origin HEAD:refs/heads/agent/one && echo served; s=$?; cd ..; rm -rf cloned; exit $s`,
		refused: `git clone -q "$URL/git/repo.git" cloned && cd cloned && git push origin HEAD:refs/heads/other; s=$?; cd ..; rm -rf cloned; exit $s`},
	{name: "Node (fetch)", program: "node", fetch: `node -e 'fetch(process.env.URL + "/hello").then(r => r.text()).then(console.log, e => { console.error(e.cause || e); process.exit(1) })'`,
		refused: `node -e 'fetch(process.env.URL + "/no/hello").then(async r => { console.log(await r.text()); process.exit(r.ok ? 0 : 1) })'`},
	{name: "Node (https)", program: "node", fetch: `node -e 'require("https").get(process.env.URL + "/hello", r => r.pipe(process.stdout)).on("error", e => { console.error(e); process.exit(1) })'`,
		refused: `node -e 'require("https").get(process.env.URL + "/no/hello", r => r.pipe(process.stdout).on("error", e => 0))'`},
	{name: "npm", program: "npm", fetch: `mkdir n && cd n && npm install --registry "$URL/npm" --no-audit --no-fund thing >npm.log 2>&1 && cat node_modules/thing/index.js || cat npm.log; s=$?; cd ..; rm -rf n; exit $s`,
		refused: `mkdir n && cd n && npm install --registry "$URL/no/npm" --no-audit --no-fund thing; s=$?; cd ..; rm -rf n; exit $s`},
	{name: "Python (urllib)", program: "python3", fetch: fmt.Sprintf(pythonFetch, `import urllib.request as u; print(u.urlopen(os.environ["URL"] + "/hello").read().decode())`),
		refused: fmt.Sprintf(pythonFetch, `import urllib.request as u, urllib.error as e
try: u.urlopen(os.environ["URL"] + "/no/hello")
except e.HTTPError as x: print(x.read().decode())`)},
	{name: "Python (requests)", program: "python3", fetch: fmt.Sprintf(pythonFetch, `from pip._vendor import requests; print(requests.get(os.environ["URL"] + "/hello").text)`),
		refused: fmt.Sprintf(pythonFetch, `from pip._vendor import requests; print(requests.get(os.environ["URL"] + "/no/hello").text)`)},
	{name: "pip", program: "python3", fetch: `/usr/bin/python3 -m pip -q --disable-pip-version-check install --no-cache-dir --index-url "$URL/pip" --target p thing && cat p/thing.py; s=$?; rm -rf p; exit $s`,
		refused: `/usr/bin/python3 -m pip --disable-pip-version-check install --no-cache-dir --index-url "$URL/no/pip" --target p thing`, quiet: true},
	{name: "cargo", program: "/usr/bin/cargo", fetch: cargoFetch("$URL/git/index.git"), refused: cargoFetch("$URL/no/index.git"), quiet: true},
	{name: "Go (net/http)", program: "sh", fetch: `./go-program fetch "$URL/hello"`, refused: `./go-program fetch "$URL/no/hello"`},
	{name: "Java (HttpClient)", program: "java", fetch: `java -cp . Fetch.java "$URL/hello"`, refused: `java -cp . Fetch.java "$URL/no/hello"`},
}

// cargoFetch gets a crate: its index with git, the crate itself with curl's library.
func cargoFetch(index string) string {
	return `mkdir -p c/.cargo c/src && cd c && touch src/lib.rs && export CARGO_HOME=$PWD/home CARGO_NET_RETRY=0 &&
		printf '[package]\nname = "a"\nversion = "1.0.0"\n[dependencies]\nthing = "1.0.0"\n' >Cargo.toml &&
		printf '[source.crates-io]\nreplace-with = "own"\n[source.own]\nregistry = "%s"\n' "` + index + `" >.cargo/config.toml &&
		/usr/bin/cargo fetch -q && cat home/registry/src/*/thing-1.0.0/src/lib.rs; s=$?; cd ..; rm -rf c; exit $s`
}

// crate is a package of cargo, and index makes the repository that lists it.
func crate() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"thing-1.0.0/Cargo.toml": "[package]\nname = \"thing\"\nversion = \"1.0.0\"\n", "thing-1.0.0/src/lib.rs": "// served\n"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		_, _ = w.Write([]byte(text))
	}
	_ = w.Close()
	_ = z.Close()
	return b.Bytes()
}

func (l *looking) index(t *testing.T, s *site, packed []byte) {
	t.Helper()
	dir := s.home + "/index"
	s.write(t, dir+"/config.json", fmt.Sprintf(`{"dl": "%s/crates/{crate}-{version}.crate"}`, l.url))
	s.write(t, dir+"/th/in/thing", fmt.Sprintf(`{"name": "thing", "vers": "1.0.0", "deps": [], "cksum": "%x", "features": {}, "yanked": false}`+"\n", sha256.Sum256(packed)))
	for _, args := range [][]string{{"init", "-q", "-b", "master", dir}, {"-C", dir, "add", "-A"}, {"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"},
		{"clone", "-q", "--bare", dir, s.home + "/served/index.git"}} {
		s.git(t, args...)
	}
}

const javaFetch = `import java.net.URI;
import java.net.http.*;
public class Fetch {
  public static void main(String[] a) throws Exception {
    var r = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(a[0])).build(), HttpResponse.BodyHandlers.ofString());
    System.out.println(r.body());
    if (r.statusCode() != 200) System.exit(1);
  }
}
`

// Each program takes the certificate of the session without being told, and what it
// prints of a refusal is as the table says.
func TestConformance(t *testing.T) {
	s := newSite(t)
	l := newLooking(t, s)
	s.write(t, "Fetch.java", javaFetch)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.workspace, "go-program"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString(conformanceHead)
	for _, p := range programs {
		if _, err := exec.LookPath(p.program); err != nil {
			testenv.Skip(t, testenv.Toolchains, err.Error())
		}
		l.took()
		start := time.Now()
		r := l.try(t, s, p.fetch)
		trusts := r.status == 0 && strings.Contains(r.out, "served") && len(l.took()) > 0
		if !trusts {
			t.Errorf("%s does not trust: status %d, %s%s", p.name, r.status, r.out, r.err)
		}
		r = l.try(t, s, p.refused)
		// Not of our own summary at the end.
		shown, _, _ := strings.Cut(r.out+r.err, "cofferdam: ")
		shows := strings.Contains(r.out, "cofferdam refused this") || strings.Contains(beforeSummary(r.err), "refused this")
		if seen := slices.DeleteFunc(l.took(), func(s string) bool { return !strings.Contains(s, "/no/") }); len(seen) > 0 {
			t.Errorf("%s got past: %q", p.name, seen)
		}
		if shows == p.quiet {
			t.Errorf("%s: shows a refusal: %v; %s%s", p.name, shows, shown, r.err)
		}
		t.Logf("%s: %v", p.name, time.Since(start))
		fmt.Fprintf(&table, "| %s | %s | %s |\n", p.name, yes(trusts), yes(shows))
	}
	table.WriteString(conformanceTail)
	file := os.Getenv(conformanceVariable)
	if *update {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != table.String() {
		t.Errorf("docs/conformance.md is not what programs do; go test ./test/system -run TestConformance -update (%v)\n%s", err, table.String())
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// beforeSummary is what the program said itself.
func beforeSummary(s string) string {
	before, _, _ := strings.Cut(s, "\ncofferdam: ")
	return before
}

const conformanceHead = `# Which programs trust the session's certificate

Where a rule needs it, cofferdam opens TLS with a certificate of the session. These programs were run inside by
` + "`go test ./test/system -run TestConformance`" + `, which compares this page; ` + "`-update`" + ` writes it. None of them was told anything.

| program | trusts the session's authority | shows why a request was refused |
|---|---|---|
`

const conformanceTail = `
A program that says "no" in the last column says the number of the error (403) alone; ` + "`cofferdam logs`" + ` has the reason.

Deno (` + "`DENO_CERT`" + `) is tried by ` + "`TestDenoTrusts`" + ` in ` + "`test/e2e`" + `. Not tried, but told by a variable: the AWS CLI (` + "`AWS_CA_BUNDLE`" + `).
A program that brings its own roots and reads no variable, or that pins certificates, gets no connection, and the record says
` + "`tls-refused`" + `: carry its hosts unopened with ` + "`--tunnel-domain HOST`" + `.
`

// conformanceVariable names the file that TestConformance compares and writes; set by
// us, since the tests run as a user that can't read the sources.
const conformanceVariable = "COFFERDAM_CONFORMANCE"

// A program that does not trust the session's authority gets nothing, and the summary
// says what to do; a tunnel then carries it.
func TestUntrusted(t *testing.T) {
	s := newSite(t)
	l := newLooking(t, s)
	line := `env -u SSL_CERT_FILE -u CURL_CA_BUNDLE curl -sS --cacert mine.crt "$URL/hello"`
	ca, err := os.ReadFile(s.home + "/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "mine.crt", string(ca))
	l.took()
	r := l.try(t, s, line)
	if seen := l.took(); r.status == 0 || len(seen) > 0 || !strings.Contains(r.err, "--tunnel-domain "+goodName) {
		t.Errorf("status %d, seen %q, %s", r.status, seen, r.err)
	}
	r = l.outside.try(t, s, "export URL="+l.url+"; "+line, "--tunnel-domain", fmt.Sprintf("%s:%d", goodName, l.tls), "--allow-cidr", fmt.Sprintf("127.0.0.1/32:%d", l.tls))
	if r.status != 0 || !strings.Contains(r.out, "served") {
		t.Errorf("tunnel: status %d, %s%s", r.status, r.out, r.err)
	}
}

// Requests are in the record, and queries are not; the key of the authority is nowhere.
func TestInspectionIsRecorded(t *testing.T) {
	s := newSite(t)
	l := newLooking(t, s)
	r := l.try(t, s, `for i in 1 2 3 4 5 6; do curl -sS "$URL/hello?q=hidden" "$URL/more/$i"; done && curl -sS "$URL/no/x?q=hidden"; cat /.cofferdam/* >all.pem; ls -la /.cofferdam; env | grep -c '/.cofferdam/'; chmod u+w /.cofferdam/roots.pem; grep -rl PRIVATE /.cofferdam /proc/self/environ`)
	id := strings.TrimSpace(r.err[strings.LastIndex(r.err, " ")+1:])
	logs := s.run(t, "logs", "--json", id)
	for _, want := range []string{`"kind":"network"`, `"action":"request"`, `"to":"GET /hello"`, `"to":"GET /no/x"`, `"to":"GET /more/6"`, "because of the test"} {
		if !strings.Contains(logs.out, want) {
			t.Errorf("not recorded: %s\n%s%s", want, logs.out, r.err)
		}
	}
	if text := s.run(t, "logs", id).out; !strings.Contains(text, "GET /hello at "+goodName) || strings.Contains(r.err, "to allow it") {
		t.Errorf("%s%s", text, r.err)
	}
	if strings.Contains(logs.out, "hidden") {
		t.Errorf("a query is recorded: %s", logs.out)
	}
	if !strings.Contains(r.err, "Read-only file system") || strings.Contains(r.out, "PRIVATE") {
		t.Errorf("%s%s", r.out, r.err)
	}
	got, err := os.ReadFile(filepath.Join(s.workspace, "all.pem"))
	if err != nil || bytes.Contains(got, []byte("PRIVATE")) || !bytes.Contains(got, []byte("CERTIFICATE")) {
		t.Errorf("%v %s", err, got)
	}
	var found []string
	_ = filepath.WalkDir(s.state, func(path string, d os.DirEntry, err error) error {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte("PRIVATE KEY")) {
			found = append(found, path)
		}
		return nil
	})
	if len(found) > 0 {
		t.Errorf("a key on disk: %v", found)
	}
}
