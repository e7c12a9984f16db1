package policy

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"cofferdam/schema"
)

var update = flag.Bool("update", false, "write golden files and the schema anew")

const schemaFile = "../../schema/policy.schema.json"

// TestSchema makes the schema from the types, their tags and their comments,
// and compares it with the published file.
func TestSchema(t *testing.T) {
	docs := fieldComments(t)
	root := schemaOf(t, reflect.TypeFor[Document](), docs)
	root = append(object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", "cofferdam policy"},
		{"description", "What a coding agent is permitted. The file may have comments and trailing commas."},
	}, root...)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(out.Bytes(), schema.Policy) {
		t.Error("schema/policy.schema.json is not current: run go test ./internal/policy -run TestSchema -update")
	}
}

// object is a JSON object that keeps its order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(m.name)
		b.Write(name)
		b.WriteByte(':')
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(m.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// fieldComments reads document.go and returns "Type.Field" -> its comment.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "document.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		ts, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := ts.Type.(*ast.StructType); ok {
			for _, field := range st.Fields.List {
				for _, name := range field.Names {
					docs[ts.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return true
	})
	return docs
}

func schemaOf(t *testing.T, typ reflect.Type, docs map[string]string) object {
	var props object
	var required []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		doc := docs[typ.Name()+"."+f.Name]
		if doc == "" {
			t.Errorf("%s.%s has no comment", typ.Name(), f.Name)
		}
		if f.Tag.Get("need") != "" {
			required = append(required, name)
		}
		props = append(props, member{name, append(object{{"description", doc}}, fieldSchema(t, f, docs)...)})
	}
	o := object{{"type", "object"}, {"additionalProperties", false}}
	if required != nil {
		o = append(o, member{"required", required})
	}
	return append(o, member{"properties", props})
}

func fieldSchema(t *testing.T, f reflect.StructField, docs map[string]string) object {
	typ := f.Type
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	is := f.Tag.Get("is")
	switch typ.Kind() {
	case reflect.Map:
		return object{{"type", "object"},
			{"propertyNames", leafSchema(t, f.Tag.Get("key"), "string")},
			{"additionalProperties", leafSchema(t, is, "string")}}
	case reflect.Slice:
		elem := typ.Elem()
		items := object(nil)
		if _, leaf := reflect.Zero(elem).Interface().(Val[string]); leaf {
			items = leafSchema(t, is, "string")
		} else {
			items = schemaOf(t, elem, docs)
		}
		if f.Tag.Get("some") != "" {
			return object{{"type", "array"}, {"minItems", 1}, {"items", items}}
		}
		return object{{"type", "array"}, {"items", items}}
	}
	switch reflect.Zero(typ).Interface().(type) {
	case Val[string]:
		return leafSchema(t, is, "string")
	case Val[bool]:
		return leafSchema(t, is, "boolean")
	case Val[float64]:
		return leafSchema(t, is, "number")
	}
	return schemaOf(t, typ, docs)
}

func leafSchema(t *testing.T, is, kind string) object {
	l, ok := leaves[is]
	if !ok {
		t.Errorf("no leaf %q", is)
	}
	if l.whole {
		kind = "integer"
	}
	o := object{{"type", kind}}
	if l.enum != nil {
		o = append(o, member{"enum", l.enum})
	}
	if l.must != nil {
		o = append(o, member{"const", *l.must})
	}
	if l.match != nil {
		o = append(o, member{"pattern", l.match.String()})
	}
	if l.not != nil {
		o = append(o, member{"not", object{{"pattern", l.not.String()}}})
	}
	if l.max != 0 {
		o = append(o, member{"minimum", l.min}, member{"maximum", l.max})
	}
	return o
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.Policy))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// schemaAccepts is the answer of the published schema for a parsed file.
func schemaAccepts(t testing.TB, s *jsonschema.Schema, tr *tree) bool {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(tr.standard()))
	if err != nil {
		return false
	}
	return s.Validate(v) == nil
}
