package flow

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cofferdam/internal/gateway"
	"cofferdam/internal/gateway/authority"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
)

// beyond is how long the session's authority is good after the session has to end;
// untimed is for a session that has no end.
const (
	beyond  = 24 * time.Hour
	untimed = 90 * 24 * time.Hour
)

// serverSessions is how many servers are remembered to shorten the next handshake.
const serverSessions = 256

// inspection makes the session's authority, if TLS is opened, and the plan as it is
// started: with certificates in the files that programs inside read. The plan itself, which
// is stored, stays without. The key is in the authority alone.
func inspection(p *plan.Plan, environ []string, now time.Time) (*gateway.Inspection, *plan.Plan, error) {
	if !p.Network.Inspect && len(p.Network.ExtraRoots) == 0 {
		return nil, p, nil
	}
	files, err := extraRoots(p)
	if err != nil {
		return nil, nil, err
	}
	extra, err := authority.Extra(environ, p.Network.Roots)
	if err != nil {
		return nil, nil, &UsageError{Text: err.Error(), Hint: "correct the variable that names it, or unset it"}
	}
	extra = append(files, extra...)
	var a *authority.Authority
	var session []byte // its certificate
	if p.Network.Inspect {
		until := now.Add(untimed)
		if l, ok := p.Limit("time"); ok {
			until = now.Add(time.Duration(l.Value)*time.Millisecond + beyond)
		}
		if a, err = authority.New(now, until); err != nil {
			return nil, nil, err
		}
		session = a.PEM()
	}
	all, err := authority.Roots(slices.Concat(session, extra), environ, compile.RootFiles)
	if err != nil {
		return nil, nil, &UsageError{Text: err.Error(), Hint: "correct the variable, or unset it"}
	}
	started, err := fill(p, all[:len(session)+len(extra)], all, now)
	if err != nil || a == nil {
		return nil, started, err
	}
	return &gateway.Inspection{
		Certificate: a.Certificate,
		// Parsing some hundred certificates takes milliseconds: not before a server is to
		// be verified, and not the session's own, which is for the inside.
		Roots:    sync.OnceValue(func() *x509.CertPool { return authority.Pool(all[len(session):]) }),
		Sessions: tls.NewLRUClientSessionCache(serverSessions),
	}, started, nil
}

// extraRoots reads the certificates that the policy names.
func extraRoots(p *plan.Plan) ([]byte, error) {
	files, err := authority.Files(p.Network.ExtraRoots)
	if err != nil {
		return nil, &UsageError{Text: "network.extraRoots: " + err.Error(), Hint: "it has to be a PEM file with certificates (-----BEGIN CERTIFICATE-----)"}
	}
	return files, nil
}

// fill is the plan with certificates in the files that it only names: added are those that
// this machine's lists don't have, all has the lists too.
func fill(p *plan.Plan, added, all []byte, now time.Time) (*plan.Plan, error) {
	content := map[plan.Holds]func() string{
		plan.HoldsAuthority: func() string { return string(added) },
		plan.HoldsRoots:     func() string { return string(all) },
		plan.HoldsJavaRoots: func() string { return string(authority.JavaStore(all, now)) },
	}
	started := *p
	started.Mounts = slices.Clone(p.Mounts)
	made := map[plan.Holds]string{}
	for i, m := range started.Mounts {
		if m.Holds == "" {
			continue
		}
		if made[m.Holds] == "" {
			fill := content[m.Holds]
			if fill == nil {
				return nil, fmt.Errorf("plan: nothing is known to hold %q", m.Holds)
			}
			made[m.Holds] = fill()
		}
		started.Mounts[i].Content = made[m.Holds]
	}
	return &started, nil
}

// javaRoots are where the Javas of this machine keep their roots: of JAVA_HOME, of the
// java that PATH finds, and of the distribution's.
func javaRoots(c Caller) []string {
	var homes []string
	if home := variable(c.Environ, "JAVA_HOME"); filepath.IsAbs(home) {
		homes = append(homes, home)
	}
	for _, dir := range filepath.SplitList(variable(c.Environ, "PATH")) {
		if java, err := filepath.EvalSymlinks(filepath.Join(dir, "java")); filepath.IsAbs(dir) && err == nil {
			homes = append(homes, filepath.Dir(filepath.Dir(java)))
		}
	}
	const jvms = "/usr/lib/jvm"
	entries, _ := os.ReadDir(jvms) // none, if there is none
	for _, e := range entries {
		homes = append(homes, filepath.Join(jvms, e.Name()))
	}
	var out []string
	for _, home := range homes {
		for _, f := range []string{filepath.Clean(home) + compile.JavaRoots, filepath.Clean(home) + "/jre" + compile.JavaRoots} {
			if !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}
