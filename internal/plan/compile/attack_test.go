package compile

import (
	"slices"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

const (
	testHome      = "/home/u"
	testWorkspace = "/home/u/p"
)

// attacked compiles a policy of paths and guards against a workspace.
func attacked(t *testing.T, paths []policy.PathRule, guards []policy.GuardRule, facts map[string]host.Path, found []host.Found) *plan.Plan {
	t.Helper()
	dir := func(p string) host.Path {
		return host.Path{Kind: host.KindDir, Real: p, RealKind: host.KindDir, UID: 1}
	}
	f := &host.Facts{UID: 1, GID: 1, Home: testHome, Found: found, Paths: map[string]host.Path{
		testHome: dir(testHome), testWorkspace: dir(testWorkspace), "/usr": dir("/usr"), "/usr/bin/true": {Kind: host.KindFile, Real: "/usr/bin/true", RealKind: host.KindFile},
	}}
	for name, fact := range facts {
		f.Paths[name] = fact
	}
	rules := []policy.PathRule{
		{Access: policy.AllowRead, Pattern: "/usr"}, {Access: policy.DenyRead, Pattern: testHome}, {Access: policy.AllowWrite, Pattern: testWorkspace},
	}
	p, err := Plan(Input{
		Policy:  &policy.Effective{Paths: append(rules, paths...), Guards: guards},
		Facts:   f,
		Command: []string{"true"}, Program: "/usr/bin/true", Dir: testWorkspace, Workspace: testWorkspace, PrivateHome: "/home/u/s",
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mountAt(p *plan.Plan, target string) *plan.Mount {
	if i := slices.IndexFunc(p.Mounts, func(m plan.Mount) bool { return m.Target == target }); i >= 0 {
		return &p.Mounts[i]
	}
	return nil
}

// Every directory above a nested repository keeps its name: with one of them moved
// away, a repository of the inside's own would stand where the host looks for the old.
func TestDirectoriesAboveANestedRepositoryArePinned(t *testing.T) {
	const git = testWorkspace + "/a/b/.git"
	p := attacked(t, nil, []policy.GuardRule{{Pattern: "**/.git"}, {Pattern: "**/.git/hooks/"}}, nil, []host.Found{
		{Path: git, Kind: host.KindDir, Pattern: "**/.git"},
		{Path: git + "/hooks", Kind: host.KindDir, Pattern: "**/.git/hooks/"},
	})
	for _, target := range []string{testWorkspace + "/a", testWorkspace + "/a/b", git} {
		if m := mountAt(p, target); m == nil || m.Kind != plan.Pin || !m.Write {
			t.Errorf("%s: %+v", target, m)
		}
	}
	if m := mountAt(p, git+"/hooks"); m == nil || m.Kind != plan.Pin || m.Write {
		t.Errorf("hooks: %+v", m)
	}
}

// A rule for a path in the workspace opens what lies there, and not what an earlier
// run has made it lead to.
func TestAllowDoesNotFollowAPlantedSymlink(t *testing.T) {
	const link, key = testWorkspace + "/.env", testHome + "/.ssh/id"
	facts := func(real string) map[string]host.Path {
		file := host.Path{Kind: host.KindFile, Real: real, RealKind: host.KindFile, UID: 1}
		return map[string]host.Path{link: {Kind: host.KindSymlink, Real: real, RealKind: host.KindFile, UID: 1}, real: file}
	}
	for _, access := range []policy.Access{policy.AllowRead, policy.AllowWrite} {
		rule := policy.PathRule{Access: access, Pattern: link, Text: "./.env"}
		p := attacked(t, []policy.PathRule{rule}, nil, facts(key), nil)
		if m := mountAt(p, key); m != nil {
			t.Errorf("%s: %+v", access, m)
		}
		if r := p.Rules[3]; r.Status != plan.Impossible || r.Note == "" {
			t.Errorf("%s: %+v", access, r)
		}
	}
	// A link of the person's own, where the inside can't write, is followed.
	rule := policy.PathRule{Access: policy.AllowRead, Pattern: testHome + "/link", Text: "~/link"}
	f := facts(key)
	f[testHome+"/link"] = f[link]
	if m := mountAt(attacked(t, []policy.PathRule{rule}, nil, f, nil), key); m == nil || m.Kind != plan.Bind {
		t.Errorf("the person's own link: %+v", m)
	}
}
