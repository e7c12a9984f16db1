package policy

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tailscale/hujson"
)

func readTest(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/import/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A restrictive example of Claude Code's settings, as people publish them, is a
// policy as it stands.
func TestImportExample(t *testing.T) {
	data := readTest(t, "example.json")
	doc, kind, findings, err := Import("settings.json", data)
	if err != nil || kind != "claude" {
		t.Fatal(kind, err)
	}
	for _, f := range findings {
		if f.Effect != Carried {
			t.Errorf("%+v", f)
		}
	}
	want, err := Parse("want", []byte(`{
		"filesystem": {"denyRead": ["~/"], "allowRead": ["."]},
		"credentials": {
			"files": [{"path": "~/.ssh", "mode": "deny"}, {"path": "~/.aws", "mode": "deny"}],
			"envVars": [{"name": "GITHUB_TOKEN", "mode": "deny"}, {"name": "NPM_TOKEN", "mode": "deny"}]},
		"network": {"allowedDomains": ["registry.example.org"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := doc.Print(); !bytes.Equal(got, want.Print()) {
		t.Errorf("got %s", got)
	}
	checkStable(t, doc)
	checkPlaces(t, doc, data)
	if at := doc.Credentials.Files[0].Path.Pos; at != (Pos{11, 27}) {
		t.Errorf("position %+v", at)
	}
}

// checkPlaces: each value has the place of a string in the file.
func checkPlaces(t testing.TB, doc *Document, data []byte) {
	t.Helper()
	lines := strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n")
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		if val, ok := v.Interface().(Val[string]); ok {
			at := val.Pos
			if at.Line < 1 || at.Line > len(lines) || at.Col < 1 || at.Col > len([]rune(lines[at.Line-1])) {
				t.Errorf("%q is at no place: %+v", val.V, at)
			} else if c := []rune(lines[at.Line-1])[at.Col-1]; c != '"' && c != '{' {
				t.Errorf("%q is at %+v, where %q is", val.V, at, c)
			}
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem())
			}
		}
	}
	walk(reflect.ValueOf(doc).Elem())
}

// Every key of a big file has a finding: none is dropped silently. And the file
// has every key that is known.
func TestImportDropsNothing(t *testing.T) {
	for name, known := range map[string]rules{"claude-all.json": tables().claude, "srt-all.json": tables().srt} {
		data := readTest(t, name)
		doc, _, findings, err := Import(name, data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkPlaces(t, doc, data)
		keys := map[string]bool{}
		for _, f := range findings {
			keys[f.Key] = true
			if f.Line < 1 || f.Col < 1 {
				t.Errorf("%+v has no place", f)
			}
			if strings.Contains(f.Text, "never-printed") {
				t.Errorf("%+v tells a secret", f)
			}
		}
		root, err := hujson.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var walk func(v *hujson.Value, key string)
		walk = func(v *hujson.Value, key string) {
			if members := membersOf(v); len(members) > 0 && !keys[key] || key == "sandbox" {
				for name, m := range members {
					walk(m, join(key, name))
				}
				return
			}
			if arr, ok := v.Value.(*hujson.Array); ok && strings.HasPrefix(key, "permissions.") && !keys[key] {
				for i := range arr.Elements {
					walk(&arr.Elements[i], fmt.Sprintf("%s[%d]", key, i))
				}
				return
			}
			if !keys[key] {
				t.Errorf("%s: %s has no finding", name, key)
			}
		}
		walk(&root, "")
		eachRule(known, "", func(key string) {
			if at(&root, key) == nil {
				t.Errorf("%s lacks %s", name, key)
			}
		})
	}
}

func eachRule(rs rules, key string, do func(key string)) {
	for _, name := range slices.Sorted(maps.Keys(rs)) {
		do(join(key, name))
		eachRule(rs[name].inside, join(key, name), do)
	}
}

// at returns the value of a key, or nil.
func at(v *hujson.Value, key string) *hujson.Value {
	for _, name := range strings.Split(key, ".") {
		if v = membersOf(v)[name]; v == nil {
			return nil
		}
	}
	return v
}

// No key takes null, or a list and an object in turns.
func TestImportTypes(t *testing.T) {
	for name, known := range map[string]rules{"claude-all.json": tables().claude, "srt-all.json": tables().srt} {
		root, err := hujson.Parse(readTest(t, name))
		if err != nil {
			t.Fatal(err)
		}
		eachRule(known, "", func(key string) {
			if key == "network" || key == "filesystem" {
				return // what makes it srt's
			}
			changed := root.Clone()
			at(&changed, key).Value = hujson.Literal("null")
			if _, _, _, err := Import(name, changed.Pack()); err == nil || !strings.Contains(err.Error(), ": "+key+": ") {
				t.Errorf("%s: null is taken: %v", key, err)
			}
		})
	}
}

func TestImportCases(t *testing.T) {
	const file = "testdata/import/cases.txtar"
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, f := range ar.Files {
		want[f.Name] = string(f.Data)
	}
	var out []txtar.File
	for _, f := range ar.Files {
		name, ok := strings.CutSuffix(f.Name, ".json")
		if !ok {
			continue
		}
		got := imported(t, f.Name, f.Data)
		out = append(out, f, txtar.File{Name: name + ".want", Data: []byte(got)})
		if got != want[name+".want"] && !*update {
			t.Errorf("%s: got\n%swant\n%s", name, got, want[name+".want"])
		}
	}
	if *update {
		ar.Files = out
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func imported(t *testing.T, file string, data []byte) string {
	doc, kind, findings, err := Import(file, data)
	if err != nil {
		return err.Error() + "\n"
	}
	checkStable(t, doc)
	checkPlaces(t, doc, data)
	v, err := hujson.Parse(doc.Print())
	if err != nil {
		t.Fatal(err)
	}
	v.Minimize()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", kind, v.Pack())
	for _, f := range findings {
		if f.Effect != Carried || f.Text != "" {
			fmt.Fprintf(&b, "%d:%d: %s: %s: %s\n", f.Line, f.Col, f.Effect, f.Key, f.Text)
		}
	}
	return b.String()
}

func TestForeign(t *testing.T) {
	for text, want := range map[string]string{
		`{"sandbox": {}}`:     "claude",
		`{"permissions": {}}`: "claude",
		`{"network": {"allowedDomains": []}, "filesystem": {}}`:                          "",
		`{"network": {"allowedDomains": [], "strictAllowlist": true}, "filesystem": {}}`: "srt",
		`{"network": {"allowedDomains": []}, "filesystem": {}, "ignoreViolations": {}}`:  "srt",
		`{"network": {}, "filesystem": {"disabled": true}}`:                              "srt",
		`{"network": {}, "filesystem": {}, "resources": {}}`:                             "",
		`{"network": [], "filesystem": 1}`:                                               "",
		`{"filesystem": {"denyRead": []}}`:                                               "",
		`[]`:                                                                             "",
		`{`:                                                                              "",
	} {
		if got := Foreign([]byte(text)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// Names of Claude Code's own keys are not taken for misspelt sections.
func TestImportTopLevel(t *testing.T) {
	for _, name := range []string{
		"env", "model", "hooks", "mcpServers", "agent", "statusLine", "outputStyle", "apiKeyHelper", "cleanupPeriodDays", "companyAnnouncements",
		"includeCoAuthoredBy", "attribution", "enableAllProjectMcpServers", "enabledMcpjsonServers", "enabledPlugins", "forceLoginMethod",
		"disableAllHooks", "allowManagedHooksOnly", "awsAuthRefresh", "alwaysThinkingEnabled", "language", "plansDirectory", "spinnerTipsEnabled",
	} {
		_, _, findings, err := Import("s", []byte(`{"sandbox": {}, "`+name+`": "never-printed"}`))
		if err != nil || len(findings) != 3 || findings[2].Key != name || findings[2].Effect != Ignored {
			t.Errorf("%s: %+v, %v", name, findings, err)
		}
	}
}

func TestImportManyProblems(t *testing.T) {
	data := `{"sandbox": {"excludedCommands": [` + strings.TrimSuffix(strings.Repeat("1,", 60), ",") + `], "network": {"allowUnixSockets": "x"}}}`
	_, _, _, err := Import("s", []byte(data))
	if ps, ok := err.(Problems); !ok || len(ps) != maxProblems {
		t.Errorf("%T %v", err, err)
	}
}

func FuzzImport(f *testing.F) {
	for _, name := range []string{"example.json", "claude-all.json", "srt-all.json"} {
		f.Add(readTest(f, name))
	}
	ar, err := txtar.ParseFile("testdata/import/cases.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range ar.Files {
		if strings.HasSuffix(file.Name, ".json") {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind := Foreign(data)
		doc, got, _, err := Import("f", data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		if got != kind || kind == "" {
			t.Errorf("Foreign says %q, Import %q", kind, got)
		}
		checkStable(t, doc)
		checkPlaces(t, doc, data)
	})
}
