package compile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// full spells a path of a test: ~ is the home, ./ the workspace.
func full(p string) string {
	return strings.Replace(strings.Replace(p, "~", annHome, 1), "./", annWork+"/", 1)
}

func wantShown(t *testing.T, p *plan.Plan, want map[string]string) {
	t.Helper()
	for path, access := range want {
		if got := shows(p.Mounts, full(path)); got != access {
			t.Errorf("%s: %s, want %s", path, got, access)
		}
	}
}

// writeFiles makes policy files in a directory and returns it.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A file is stronger than what it extends, although both are one layer.
func TestAFileIsStrongerThanWhatItExtends(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"policy.jsonc": `{"extends": ["./base.jsonc"], "filesystem": {"allowRead": ["~/docs"], "denyRead": ["/opt"]}}`,
		"base.jsonc":   `{"filesystem": {"denyRead": ["~/docs"], "allowRead": ["/opt"]}}`,
	})
	p, err := compileSource(t, policy.Source{Place: policy.Place{Home: annHome, Workspace: annWork}, UserFile: dir + "/policy.jsonc"})
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"~/docs/x": "read", "/opt/x": "none"})
}

// An organisation may open a part of what it denies; nobody else may, and others
// may still close what it opens.
func TestManagedExceptionsToManagedDenials(t *testing.T) {
	const managed = `{"filesystem": {"denyRead": ["~/docs"], "allowRead": ["~/docs/private/open"]}}`
	p, err := compiled(t, managed, "", `{"filesystem": {"allowWrite": ["~/docs/private"], "allowRead": ["~/docs/private/x"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"~/docs/x": "none", "~/docs/private/x": "none"})
	if got := shows(p.Mounts, full("~/docs/private/open/x")); got == "none" {
		t.Error("what the organisation opens is closed")
	}
	p, err = compiled(t, `{"filesystem": {"denyRead": ["~/docs"], "allowRead": ["~/docs/private"]}}`, "", `{"filesystem": {"denyRead": ["~/docs/private/open"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"~/docs/private/open/x": "none"})
}

// "/" is the least specific of all paths, though what it opens is mounted piece
// by piece.
func TestRootIsTheLeastSpecific(t *testing.T) {
	p, err := compiled(t, "", `{"filesystem": {"denyRead": ["/srv"]}}`, `{"filesystem": {"allowRead": ["/"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"/srv/data": "none", "/var/x": "read", "/etc/shadow": "none", "~/x": "none", "/home/bob/x": "read", "./main.go": "write", "/tmp/x": "none", "/proc/x": "none"})
	p, err = compiled(t, "", `{"filesystem": {"denyRead": ["/"]}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"/usr/x": "read", "/var/x": "none", "./main.go": "write"})
	if _, err = compiled(t, `{"filesystem": {"denyRead": ["/"]}}`, "", `{"filesystem": {"allowRead": ["/usr"]}}`); err == nil {
		t.Error("a managed denial of everything leaves something to run")
	}
	p, err = compiled(t, "", "", `{"filesystem": {"allowWrite": ["/"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"/srv/data": "write", "/etc/shadow": "none", "./.git/hooks/x": "read"})
}

// A guard of a weaker layer gives way at a tie, also where the layer has guards only.
func TestGuardsHaveTheStrengthOfTheirLayer(t *testing.T) {
	const guard, open = `{"workspace": {"protect": ["**/gen"]}}`, `{"filesystem": {"allowWrite": ["**/gen"]}}`
	p, err := compiled(t, "", guard, open)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"./a/gen/x": "write"})
	if p, err = compiled(t, guard, "", open); err != nil {
		t.Fatal(err)
	}
	wantShown(t, p, map[string]string{"./a/gen/x": "read"})
}

// The order of rules in one layer means nothing, and the same input gives the same
// bytes.
func TestOrderMeansNothing(t *testing.T) {
	list := []string{`"~/docs"`, `"./a/gen"`, `"~"`, `"./a"`, `"**/.env"`}
	text := func(read, write []string) string {
		return `{"filesystem": {"denyRead": [` + strings.Join(read, ",") + `], "allowWrite": [` + strings.Join(write, ",") + `]}}`
	}
	back := slices.Clone(list)
	slices.Reverse(back)
	one, err := compiled(t, "", text(list, list[:4]), "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := compiled(t, "", text(back, back[1:]), "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(one.Mounts, two.Mounts, func(a, b plan.Mount) bool { a.Rule, b.Rule = 0, 0; return a == b }) {
		t.Errorf("the mounts differ:\n%+v\n%+v", one.Mounts, two.Mounts)
	}
}

// Nobody opens cofferdam's own records, nor a part of them: an organisation neither.
func TestOwnRecordsStayClosed(t *testing.T) {
	const open = `{"filesystem": {"allowWrite": ["~/docs/private", "~/docs/private/open"]}}`
	dir := writeFiles(t, map[string]string{"managed": open})
	src := policy.Source{Place: policy.Place{Home: annHome, Workspace: annWork}, Managed: dir + "/managed"}
	for _, closed := range []bool{false, true} {
		eff, err := policy.Load(src)
		if err != nil {
			t.Fatal(err)
		}
		want := "write"
		if closed {
			want = "none"
			eff.Paths = append(eff.Paths, policy.PathRule{
				Access: policy.DenyRead, Pattern: full("~/docs/private"), Text: full("~/docs/private"), Origin: plan.Origin{Layer: Own},
			})
		}
		p, err := Plan(input(eff))
		if err != nil {
			t.Fatal(err)
		}
		wantShown(t, p, map[string]string{"~/docs/private/x": want, "~/docs/private/open/x": want})
	}
}

// Permissions keep no root out, and what nobody has looked at is not mounted.
func TestFactsAreNotTakenForMore(t *testing.T) {
	in := loaded(t, "", `{"filesystem": {"allowRead": ["~/unseen"]}, "identity": {"allowRoot": true}}`, "", map[string]host.Path{
		"/etc/shadow": {Kind: host.KindFile, Real: "/etc/shadow", RealKind: host.KindFile, Closed: true},
	})
	in.Facts.UID = 0
	delete(in.Facts.Paths, full("~/unseen"))
	p := mustPlan(t, in)
	if m := mountAt(p, "/etc/shadow"); m == nil || m.Kind != plan.Mask {
		t.Errorf("as root: %+v", m)
	}
	if m := mountAt(p, full("~/unseen")); m != nil {
		t.Errorf("not looked at: %+v", m)
	}
}
