package compile

import (
	"maps"
	"slices"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// RootFiles are where distributions keep the roots that programs trust, all in one
// file: Debian, Fedora, openSUSE, Alpine, and names that programs still ask for. More
// than one may be there, and be one file. Facts have to know them.
var RootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
	"/etc/pki/tls/cacert.pem",
}

// JavaRoots is where each Java has its own, below its home; JavaRootFiles are where
// distributions keep one for all. Facts have to know them.
const JavaRoots = "/lib/security/cacerts"

var JavaRootFiles = []string{"/etc/ssl/certs/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"}

// The files of our own that variables name: programs that bring their own list of roots
// read these.
const (
	rootsFile     = ownDir + "/roots.pem"
	authorityFile = ownDir + "/session.pem"
)

// trustVariables tell programs which roots to trust: those that have a list of their
// own, or are built to look elsewhere.
func trustVariables() map[string]string {
	return map[string]string{
		"SSL_CERT_FILE":       rootsFile,     // OpenSSL, Python's ssl, Go, Ruby, rustls
		"NODE_EXTRA_CA_CERTS": authorityFile, // Node has its own list, and adds these
		"DENO_CERT":           authorityFile, // so has Deno
		"REQUESTS_CA_BUNDLE":  rootsFile,     // Python's requests, in the place of its own list
		"PIP_CERT":            rootsFile,
		"CURL_CA_BUNDLE":      rootsFile, // curl that is not the distribution's
		"GIT_SSL_CAINFO":      rootsFile,
		"CARGO_HTTP_CAINFO":   rootsFile,
		"AWS_CA_BUNDLE":       rootsFile,
	}
}

// trust puts the session's authority where programs inside look for roots: over the
// machine's own lists, and in files that variables name. What is in them is for
// whoever starts the run: the plan knows no certificate.
func (c *compiler) trust() {
	if !c.trusting() {
		return
	}
	at := map[string]plan.Holds{}
	for _, name := range RootFiles {
		at[name] = plan.HoldsRoots
	}
	for name := range c.in.Facts.Paths {
		if strings.HasSuffix(name, JavaRoots) {
			at[name] = plan.HoldsJavaRoots
		}
	}
	for _, name := range JavaRootFiles {
		at[name] = plan.HoldsJavaRoots
	}
	covered := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(at)) {
		fact := c.in.Facts.Paths[name]
		if fact.Real == "" || fact.RealKind != host.KindFile || covered[fact.Real] {
			continue // who looks there finds nothing, or the same
		}
		c.match(fact.Real)
		if c.decide(fact.Real).read {
			covered[fact.Real] = true
			c.p.Mounts = append(c.p.Mounts, plan.Mount{Kind: plan.File, Target: fact.Real, Holds: at[name]})
		}
	}
	c.p.Mounts = append(c.p.Mounts,
		plan.Mount{Kind: plan.File, Target: rootsFile, Holds: plan.HoldsRoots, Create: true},
		plan.Mount{Kind: plan.File, Target: authorityFile, Holds: plan.HoldsAuthority, Create: true})
}
