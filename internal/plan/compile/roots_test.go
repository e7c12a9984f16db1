package compile

import (
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// Certificates that the inside could choose are nobody's to trust.
func TestExtraRoots(t *testing.T) {
	file := func(real string) host.Path {
		return host.Path{Kind: host.KindFile, Real: real, RealKind: host.KindFile}
	}
	for _, c := range []struct {
		path string
		fact host.Path
		why  string
	}{
		{"/etc/corp.pem", file("/etc/corp.pem"), ""},
		{"./ca.pem", file(annWork + "/ca.pem"), "the inside may write " + annWork + "/ca.pem"},
		{"~/shared/ca.pem", file("/home/ann/shared/ca.pem"), "the inside may write"},
		{"/etc/corp.pem", host.Path{Kind: host.KindSymlink, Real: annWork + "/ca.pem", RealKind: host.KindFile}, "the inside may write"},
		{"/etc/corp.pem", host.Path{Kind: host.KindSymlink, Real: "/etc/other.pem", RealKind: host.KindFile, Links: []string{annWork + "/link"}}, "the inside may write"},
		{"./link.pem", host.Path{Kind: host.KindSymlink, Real: "/etc/other.pem", RealKind: host.KindFile}, "the inside may"},
		{"/etc/corp.pem", host.Path{Kind: host.KindAbsent}, "nothing is there"},
		{"/etc/corp.pem", host.Path{Kind: host.KindDir, Real: "/etc/corp.pem", RealKind: host.KindDir}, "has to be a file"},
	} {
		for _, rule := range []string{`"allowedDomains"`, `"tunnelDomains"`} {
			in := networked(t, `{"network": {`+rule+`: ["a.test"], "extraRoots": ["`+c.path+`"]}, "filesystem": {"allowWrite": ["~/shared"]}}`, host.Yes)
			at := in.Policy.ExtraRoots[0].Pattern
			in.Facts.Paths[at] = c.fact
			p := mustPlan(t, in)
			accounted(t, in, p)
			gaps := p.RequiredGaps()
			if c.why == "" {
				trusts := slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.Holds == plan.HoldsAuthority })
				told := slices.ContainsFunc(p.Environment, func(v plan.EnvVar) bool { return v.Name == "SSL_CERT_FILE" })
				if len(gaps) > 0 || !slices.Equal(p.Network.ExtraRoots, []string{c.fact.Real}) || !trusts || !told {
					t.Errorf("%+v: %+v, %+v, trusts %v, told %v", c, p.Network.ExtraRoots, gaps, trusts, told)
				}
			} else if len(gaps) != 1 || !strings.Contains(gaps[0].Because, c.why) || p.Network.ExtraRoots != nil {
				t.Errorf("%+v: %+v, %+v", c, p.Network.ExtraRoots, gaps)
			}
		}
	}
	in := networked(t, `{"network": {"extraRoots": ["/etc/corp.pem"]}}`, host.Yes)
	if p := mustPlan(t, in); len(p.Gaps) > 0 || p.Network.ExtraRoots != nil {
		t.Errorf("where nothing can be reached: %+v", p.Gaps)
	}
}
