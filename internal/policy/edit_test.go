package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

func TestRemember(t *testing.T) {
	host := plan.NetRule{Allow: true, Name: "new.test", Port: 443}
	for name, c := range map[string]struct{ before, after string }{
		"no file":       {"", "{\n  \"network\": {\"allowedDomains\": [\"new.test:443\"]}\n}\n"},
		"nothing":       {"{}", "{\n  \"network\": {\"allowedDomains\": [\"new.test:443\"]}\n}"},
		"a comment":     {"// mine\n{\n  // nothing yet\n}\n", "// mine\n{\n  // nothing yet\n  \"network\": {\"allowedDomains\": [\"new.test:443\"]}\n}\n"},
		"other keys":    {"{\n  \"boundary\": \"native\" // as ever\n}\n", "{\n  \"boundary\": \"native\", // as ever\n  \"network\": {\"allowedDomains\": [\"new.test:443\"]}\n}\n"},
		"on one line":   {`{"network": {"allowedDomains": ["a.test"]}}`, `{"network": {"allowedDomains": ["a.test", "new.test:443"]}}`},
		"an empty list": {"{\"network\": {\"allowedDomains\": [ ]}}", "{\"network\": {\"allowedDomains\": [new]}}"},
		"another list":  {"{\n\t\"network\": {\n\t\t\"deniedDomains\": [\"b.test\"]\n\t},\n}", "{\n\t\"network\": {\n\t\t\"deniedDomains\": [\"b.test\"],\n\t\t\"allowedDomains\": [new]\n\t},\n}"},
		"lines": {"{\n  \"network\": {\n    \"allowedDomains\": [\n      // for work\n      \"a.test\" /* the API */, // never remove\n      \"b.test\" // last\n      // end\n    ]\n  }\n}\n",
			"{\n  \"network\": {\n    \"allowedDomains\": [\n      // for work\n      \"a.test\" /* the API */, // never remove\n      \"b.test\", // last\n      // end\n      new\n    ]\n  }\n}\n"},
		"a comma at the end": {"{\n  \"network\": {\n    \"allowedDomains\": [\n      \"a.test\", // A\n    ],\n  },\n}\n",
			"{\n  \"network\": {\n    \"allowedDomains\": [\n      \"a.test\", // A\n      new,\n    ],\n  },\n}\n"},
		"CR LF and a mark": {"\xef\xbb\xbf{\r\n  \"network\": {\r\n    \"allowedDomains\": [\r\n      \"a.test\"\r\n    ]\r\n  }\r\n}\r\n",
			"\xef\xbb\xbf{\r\n  \"network\": {\r\n    \"allowedDomains\": [\r\n      \"a.test\",\n      new\n    ]\r\n  }\r\n}\r\n"},
	} {
		got, err := Remember("policy.jsonc", []byte(c.before), host)
		if want := strings.ReplaceAll(c.after, "[new", `["new.test:443"`); err != nil || string(got) != strings.ReplaceAll(want, "      new", `      "new.test:443"`) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
		// And once more: a file that this has written is one.
		if _, err := Remember("policy.jsonc", got, plan.NetRule{Allow: true, Prefix: "2001:4860::1/128", Port: 443}); err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
	}
}

// The last look at what was written: one entry more, and nothing else.
func TestOneMore(t *testing.T) {
	parse := func(text string) *Document {
		d, err := Parse("p", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		before, after string
		want          bool
	}{
		{`{}`, `{"network": {"allowedDomains": ["a.test"]}}`, true},
		{`{"network": {}}`, `{"network": {"allowedDomains": ["a.test"]}}`, true},
		{`{"network": {"allowedDomains": ["a.test"]}}`, `{"network": {"allowedDomains": ["a.test", "b.test"]}}`, true},
		{`{"network": {"allowedDomains": ["a.test"]}}`, `{"network": {"allowedDomains": ["b.test", "c.test"]}}`, false},
		{`{}`, `{"network": {"allowedDomains": ["a.test", "b.test"]}}`, false},
		{`{}`, `{"network": {"allowedCIDRs": ["1.1.1.1/32"]}}`, false},
		{`{"network": {"deniedDomains": ["c.test"]}}`, `{"network": {"allowedDomains": ["a.test"]}}`, false},
		{`{"boundary": "native"}`, `{"network": {"allowedDomains": ["a.test"]}}`, false},
		{`{}`, `{}`, false},
	} {
		if got := oneMore(parse(c.before), parse(c.after), "allowedDomains"); got != c.want {
			t.Errorf("%s, %s: %v", c.before, c.after, got)
		}
	}
}

// What is said already is not said twice.
func TestRememberTwice(t *testing.T) {
	host := plan.NetRule{Allow: true, Name: "new.test", Port: 443}
	once, err := Remember("p", nil, host)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := Remember("p", once, host); err != nil || string(twice) != string(once) {
		t.Errorf("%v: %s", err, twice)
	}
}

// What a file can't say, and a file that is wrong, stays as it is.
func TestRememberRefuses(t *testing.T) {
	host := plan.NetRule{Allow: true, Name: "new.test", Port: 443}
	for name, c := range map[string]struct {
		before string
		rule   plan.NetRule
	}{
		"no policy":          {"{", host},
		"an unknown key":     {`{"netwrok": {}}`, host},
		"twice":              {`{"network": {}, "network": {}}`, host},
		"a list of too much": {`{"network": {"allowedDomains": "a.test"}}`, host},
		"other settings":     {`{"sandbox": {}}`, host},
		"no name":            {"{}", plan.NetRule{Allow: true, Name: "a\", \"*", Port: 443}},
		"a denial":           {"{}", plan.NetRule{Name: "new.test", Port: 443}},
		"every port":         {"{}", plan.NetRule{Allow: true, Name: "new.test"}},
		"too long":           {`{"boundary": "native"` + strings.Repeat(" ", maxFile-25) + "}", host},
	} {
		if got, err := Remember("policy.jsonc", []byte(c.before), c.rule); err == nil {
			t.Errorf("%s: %.200s", name, got)
		}
	}
}

// Whatever is a policy is one afterwards, with one entry more.
func FuzzRemember(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(b), "-- ") {
			if i := strings.Index(part, "{"); i >= 0 {
				f.Add(part[i:], "new.test", uint16(443))
			}
		}
	}
	f.Add("// c\n{ /* a */ \"network\" : { \"allowedDomains\" : [ \"a.test\" /* b */ , // c\n ] , } , }", "x\"y.test", uint16(1))
	f.Fuzz(func(t *testing.T, text, name string, port uint16) {
		before, err := Parse("f", []byte(text))
		if err != nil && strings.TrimSpace(text) != "" {
			return
		}
		got, err := Remember("f", []byte(text), plan.NetRule{Allow: true, Name: name, Port: int(port)})
		if err != nil {
			return
		}
		after, err := Parse("f", got)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		n := 0
		if before != nil {
			n = len(before.Network.AllowedDomains)
		}
		if len(after.Network.AllowedDomains) != n+1 && string(got) != text {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
