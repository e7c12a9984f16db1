package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestParse runs testdata/parse.txtar: for each NAME.jsonc either NAME.err has
// the exact problems, or the file is taken. A case whose err file starts with
// "#beyond-schema" is refused by the decoder for what no schema can say; for
// all others the published schema must give the same answer.
func TestParse(t *testing.T) {
	const file = "testdata/parse.txtar"
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range ar.Files {
		files[f.Name] = string(f.Data)
	}
	schema := compileSchema(t)
	var out []txtar.File
	for _, f := range ar.Files {
		name, ok := strings.CutSuffix(f.Name, ".jsonc")
		if !ok {
			continue
		}
		out = append(out, f)
		want := files[name+".err"]
		marker, beyond := strings.CutPrefix(want, "#beyond-schema\n")
		if beyond {
			want = marker
		}
		doc, err := Parse(f.Name, f.Data)
		got := ""
		if err != nil {
			got = err.Error() + "\n"
		}
		if *update {
			if got != "" {
				data := got
				if beyond {
					data = "#beyond-schema\n" + got
				}
				out = append(out, txtar.File{Name: name + ".err", Data: []byte(data)})
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			if got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			if err == nil {
				checkStable(t, doc)
			}
			tr, perr := parseTree(f.Name, f.Data)
			if perr != nil {
				return // not JSON: nothing to ask the schema
			}
			if accepts := schemaAccepts(t, schema, tr); accepts != (err == nil) && !beyond {
				t.Errorf("the schema says %v, the decoder %v", accepts, err)
			} else if beyond && !accepts {
				t.Error("marked #beyond-schema, but the schema refuses it too")
			}
		})
	}
	if *update {
		ar.Files = out
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// checkStable: print -> parse -> print gives the same bytes.
func checkStable(t testing.TB, doc *Document) {
	t.Helper()
	first := doc.Print()
	again, err := Parse("printed", first)
	if err != nil {
		t.Fatalf("what was printed can't be read: %v\n%s", err, first)
	}
	if second := again.Print(); string(second) != string(first) {
		t.Errorf("printed again it differs:\n%s\n%s", first, second)
	}
}

func TestParseBytes(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"nul", "{\n \x00}", `f:2:2: a NUL character: not a text file`},
		{"latin1", "{ // caf\xe9\n}", `f:1:9: not UTF-8`},
		{"deep", strings.Repeat("[", 100000), `f:1:65: more than 64 brackets deep`},
		{"big", strings.Repeat(" ", maxFile) + "{}", `f: more than 1 MiB: not a policy file`},
		{"empty", " \n", `f: an empty file (an empty policy is {})`},
		{"bom", "\xef\xbb\xbf{}", ""},
		{"column in characters", `{"é": 1}`, `f:1:2: é: unknown key`},
	} {
		_, err := Parse("f", []byte(tt.data))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	makeFifo(t, fifo)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 100<<20); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:                         "not a regular file but a FIFO",
		dir:                          "not a regular file but a directory",
		"/dev/zero":                  "not a regular file but a device",
		big:                          "more than 1 MiB",
		filepath.Join(dir, "absent"): "no such file or directory",
	} {
		done := make(chan error, 1)
		go func() {
			_, err := readFile(path)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: reading it hangs", path)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"allowRead", "denyRead", "allowWrite"}
	for word, want := range map[string]string{"denyReads": "denyRead", "alowRead": "allowRead", "DENYREAD": "denyRead", "zebra": "", "": ""} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"filesystem": {"denyRead": ["~/", "**/[a-z]*"]}, "resources": {"memory": "8GiB", "cpus": 2.5}}`))
	f.Add([]byte(`{"environment": {"set": {"A": "b"}}, "extends": ["go"], /* x */ }`))
	f.Add([]byte(`{"a": 1, "a": 2}`))
	f.Add([]byte(`{"sandbox": {"enabled": true, "filesystem": {"denyRead": [{"path": "x", "literal": true}]}}}`))
	schema := compileSchema(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Parse("f", data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		checkStable(t, doc)
		tr, err := parseTree("f", data)
		if err != nil {
			t.Fatal(err)
		}
		if !schemaAccepts(t, schema, tr) {
			t.Errorf("the decoder takes what the schema refuses: %s", data)
		}
	})
}
