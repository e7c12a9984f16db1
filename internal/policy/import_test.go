package policy

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

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
	doc, kind, findings, err := Import("settings.json", readTest(t, "example.json"))
	if err != nil || kind != "claude" {
		t.Fatal(kind, err)
	}
	for _, f := range findings {
		if f.Effect != Carried {
			t.Errorf("%+v", f)
		}
	}
	want := `{
  "filesystem": {
    "allowRead": [
      "."
    ],
    "denyRead": [
      "~/"
    ]
  },
  "credentials": {
    "files": [
      {
        "path": "~/.ssh"
      },
      {
        "path": "~/.aws"
      }
    ],
    "envVars": [
      {
        "name": "GITHUB_TOKEN"
      },
      {
        "name": "NPM_TOKEN"
      }
    ]
  },
  "network": {
    "allowedDomains": [
      "registry.example.org"
    ]
  }
}
`
	if got := string(doc.Print()); got != want {
		t.Errorf("got %s", got)
	}
	if again, err := Parse("printed", doc.Print()); err != nil || !bytes.Equal(again.Print(), doc.Print()) {
		t.Errorf("what is printed does not parse to the same: %v", err)
	}
	if doc.Credentials.Files[0].Path.Pos.Line != 11 {
		t.Errorf("position %+v", doc.Credentials.Files[0].Path.Pos)
	}
}

// Every key of a big file has a finding: none is dropped silently.
func TestImportDropsNothing(t *testing.T) {
	for _, name := range []string{"claude-all.json", "srt-all.json"} {
		data := readTest(t, name)
		_, _, findings, err := Import(name, data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var keys []string
		for _, f := range findings {
			keys = append(keys, f.Key)
		}
		root, err := hujson.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var walk func(v hujson.Value, key string)
		walk = func(v hujson.Value, key string) {
			if obj, ok := v.Value.(*hujson.Object); ok && !slices.Contains(keys, key) {
				for _, m := range obj.Members {
					walk(m.Value, join(key, m.Name.Value.(hujson.Literal).String()))
				}
				return
			}
			if !slices.ContainsFunc(keys, func(k string) bool { return k == key || strings.HasPrefix(k, key+"[") }) {
				t.Errorf("%s: %s has no finding", name, key)
			}
		}
		walk(root, "")
	}
}

func TestImportNeverWeakens(t *testing.T) {
	doc, _, findings, err := Import("s", []byte(`{"sandbox": {"enabled": false, "failIfUnavailable": false, "allowUnsandboxedCommands": true,
		"excludedCommands": ["docker"], "filesystem": {"disabled": true}, "network": {"allowAllUnixSockets": true},
		"credentials": {"files": [{"path": "~/.x", "mode": "mask", "injectHosts": ["a.example.org"]}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Effect{}
	for _, f := range findings {
		got[f.Key] = f.Effect
	}
	for _, key := range []string{"sandbox.enabled", "sandbox.failIfUnavailable", "sandbox.allowUnsandboxedCommands", "sandbox.excludedCommands", "sandbox.filesystem.disabled", "sandbox.network.allowAllUnixSockets"} {
		if got[key] != Weakening {
			t.Errorf("%s: %q", key, got[key])
		}
	}
	if got["sandbox.credentials.files[0]"] != Tightened || len(doc.Credentials.Files) != 1 {
		t.Errorf("a masked file: %v %+v", got, doc.Credentials)
	}
}

func TestImportRefusesUnknownKeys(t *testing.T) {
	_, _, _, err := Import("s.json", []byte("{\n\"sandbox\": {\"filesystem\": {\"denyReads\": []}, \"enabeld\": true}\n}"))
	for _, want := range []string{
		`s.json:2:28: sandbox.filesystem.denyReads: unknown key (did you mean "denyRead"?)`,
		`s.json:2:46: sandbox.enabeld: unknown key (did you mean "enabled"?)`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestImportPermissions(t *testing.T) {
	doc, _, findings, err := Import("s", []byte(`{"permissions": {"deny": ["Read(~/.ssh/**)", "Read(//etc/x)", "Edit(/src/gen)", "Read(.env)", "Bash(git push *)", "WebFetch(domain:x.example.org)"], "allow": ["Bash(ls)"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	texts := func(list []Val[string]) (out []string) {
		for _, v := range list {
			out = append(out, v.V)
		}
		return out
	}
	if got := texts(doc.Filesystem.DenyRead); !slices.Equal(got, []string{"~/.ssh", "/etc/x", "**/.env"}) {
		t.Errorf("denyRead %q", got)
	}
	if got := texts(doc.Filesystem.DenyWrite); !slices.Equal(got, []string{"./src/gen"}) {
		t.Errorf("denyWrite %q", got)
	}
	if got := texts(doc.Network.DeniedDomains); !slices.Equal(got, []string{"x.example.org"}) {
		t.Errorf("deniedDomains %q", got)
	}
	if len(findings) != 7 {
		t.Errorf("%d findings: %+v", len(findings), findings)
	}
}

func TestForeign(t *testing.T) {
	for text, want := range map[string]string{
		`{"sandbox": {}}`:     "claude",
		`{"permissions": {}}`: "claude",
		`{"network": {"allowedDomains": []}, "filesystem": {}}`:                          "",
		`{"network": {"allowedDomains": [], "strictAllowlist": true}, "filesystem": {}}`: "srt",
		`{"network": {"allowedDomains": []}, "filesystem": {}, "ignoreViolations": {}}`:  "srt",
		`{"filesystem": {"denyRead": []}}`:                                               "",
		`[]`:                                                                             "",
		`{`:                                                                              "",
	} {
		if got := Foreign([]byte(text)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(readTest(f, "example.json"))
	f.Add(readTest(f, "claude-all.json"))
	f.Add(readTest(f, "srt-all.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, _, _, err := Import("f", data)
		if err != nil {
			return
		}
		again, err := Parse("printed", doc.Print())
		if err != nil {
			t.Fatalf("imported, printed, and not a policy: %v\n%s", err, doc.Print())
		}
		if !bytes.Equal(again.Print(), doc.Print()) {
			t.Fatal("printed twice, not the same")
		}
	})
}
