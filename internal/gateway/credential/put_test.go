package credential

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	token = "ghp_realrealrealrealrealrealrealreal0001"
	other = "other/secret+value=="
)

func newSet(t testing.TB, specs ...Spec) *Set {
	t.Helper()
	if specs == nil {
		specs = []Spec{
			{Name: "TOKEN", Hosts: []Host{{"api.test", 443}, {"*.deep.test", 8443}}, Source: Fixed(token)},
			{Name: "OTHER", Hosts: []Host{{"other.test", 443}, {"api.test", 443}}, Source: Fixed(other), Bodies: true},
		}
	}
	s, err := New(t.Context(), specs, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(target string, fields ...Field) *Request {
	return &Request{Host: "api.test", Port: 443, Secure: true, Target: target, Fields: fields}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestPut(t *testing.T) {
	s := newSet(t)
	p, q := s.Placeholders()[0], s.Placeholders()[1]
	for name, c := range map[string]struct{ in, want *Request }{
		"bearer":         {request("/", Field{"Authorization", "Bearer " + p}), request("/", Field{"Authorization", "Bearer " + token})},
		"any field":      {request("/", Field{"x-api-key", p}), request("/", Field{"x-api-key", token})},
		"twice":          {request("/", Field{"X", p + "," + p}), request("/", Field{"X", token + "," + token})},
		"basic":          {request("/", Field{"authorization", "basic " + b64("x-access-token:"+p)}), request("/", Field{"authorization", "Basic " + b64("x-access-token:"+token)})},
		"basic user":     {request("/", Field{"Authorization", "Basic " + b64(p+":")}), request("/", Field{"Authorization", "Basic " + b64(token+":")})},
		"basic with two": {request("/", Field{"Authorization", "Basic " + b64(p+":"+q)}), request("/", Field{"Authorization", "Basic " + b64(token+":"+other)})},
		"no padding":     {request("/", Field{"Authorization", "Basic " + strings.TrimRight(b64("u:"+p), "=")}), request("/", Field{"Authorization", "Basic " + b64("u:"+token)})},
		"query":          {request("/a?x=1&key=" + q + "&y=%20"), request("/a?x=1&key=other%2Fsecret%2Bvalue%3D%3D&y=%20")},
		"path":           {request("/bot" + q + "/send?a"), request("/botother%2Fsecret+value==/send?a")},
		"two fields":     {request("/", Field{"A", p}, Field{"B", q}), request("/", Field{"A", token}, Field{"B", other})},
		"none":           {request("/a?b", Field{"A", "b"}, Field{"Accept-Encoding", "gzip"}, Field{"range", "bytes=0-1"}), request("/a?b", Field{"A", "b"})},
	} {
		u, err := s.Put(t.Context(), c.in)
		if err != nil || u == nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.want.Fields = append(c.want.Fields, Field{"Accept-Encoding", "identity"})
		if got, want := text(c.in), text(c.want); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if (len(u.Names) == 0) != (name == "none") {
			t.Errorf("%s: names %q", name, u.Names)
		}
	}
}

func text(r *Request) string {
	var b strings.Builder
	b.WriteString(r.Target)
	for _, f := range r.Fields {
		b.WriteString("\n" + f.Name + ": " + f.Value)
	}
	return b.String()
}

// Where a placeholder may not go, nothing does.
func TestRefused(t *testing.T) {
	s := newSet(t)
	p, q := s.Placeholders()[0], s.Placeholders()[1]
	elsewhere := func(host string, port uint16, secure bool) *Request {
		return &Request{Host: host, Port: port, Secure: secure, Target: "/", Fields: []Field{{"Authorization", "Bearer " + p}}}
	}
	spelled := strings.ReplaceAll(p, "ghp_", "%67hp_")
	for name, c := range map[string]struct {
		r   *Request
		why string
	}{
		"another host":           {elsewhere("evil.test", 443, true), "TOKEN was sent to evil.test:443"},
		"another's host":         {elsewhere("other.test", 443, true), "TOKEN was sent to other.test:443"},
		"another port":           {elsewhere("api.test", 8443, true), "TOKEN was sent to api.test:8443"},
		"an address":             {elsewhere("", 443, true), "an address"},
		"a name below":           {elsewhere("x.api.test", 443, true), "x.api.test"},
		"a name in front":        {elsewhere("api.test.evil.test", 443, true), "evil.test"},
		"the wildcard's own":     {elsewhere("deep.test", 8443, true), "deep.test"},
		"no TLS":                 {elsewhere("api.test", 443, false), "without TLS"},
		"no TLS, another":        {elsewhere("evil.test", 80, false), "none of its hosts"},
		"query":                  {&Request{Host: "evil.test", Port: 443, Secure: true, Target: "/?a=" + p}, "evil.test"},
		"query, percent":         {&Request{Host: "evil.test", Port: 443, Secure: true, Target: "/?a=" + spelled}, "evil.test"},
		"path":                   {&Request{Host: "evil.test", Port: 443, Secure: true, Target: "/" + p}, "evil.test"},
		"basic":                  {&Request{Host: "evil.test", Port: 443, Secure: true, Fields: []Field{{"Authorization", "Basic " + b64("u:"+p)}}}, "evil.test"},
		"base64 in any field":    {&Request{Host: "evil.test", Port: 443, Secure: true, Fields: []Field{{"Cookie", "a=" + b64("xx"+p+"yy")}}}, "evil.test"},
		"a field's name":         {&Request{Host: "evil.test", Port: 443, Secure: true, Fields: []Field{{p, "x"}}}, "evil.test"},
		"its host, percent":      {request("/?a=" + spelled), "TOKEN is written"},
		"its host, base64":       {request("/", Field{"Cookie", b64("a" + p)}), "TOKEN is written"},
		"its host, field's name": {request("/", Field{p, "x"}), "TOKEN is written"},
		"two in one":             {request("/", Field{"X", p + q}), "two credentials"},
		"signed":                 {request("/", Field{"Authorization", "AWS4-HMAC-SHA256 Credential=x"}, Field{"X-Amz-Security-Token", p}), "signed"},
		"signed in the query":    {request("/?X-Amz-Signature=00&X-Amz-Security-Token=" + p), "signed"},
		"two in one parameter":   {request("/?a=" + p + q), "two credentials"},
	} {
		before := text(c.r)
		u, err := s.Put(t.Context(), c.r)
		var no *Refused
		if u != nil || !errors.As(err, &no) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), p) {
			t.Errorf("%s: the error has the value or the placeholder: %v", name, err)
		}
		if !strings.Contains(name, "its host") && text(c.r) != before {
			t.Errorf("%s: changed", name)
		}
	}
	// The control: the wildcard's names, and a host that has nothing to do with it.
	if u, err := s.Put(t.Context(), &Request{Host: "a.b.deep.test", Port: 8443, Secure: true, Fields: []Field{{"A", p}}}); err != nil || len(u.Names) != 1 {
		t.Errorf("a name below the wildcard: %v", err)
	}
	r := &Request{Host: "evil.test", Port: 443, Secure: true, Target: "/x", Fields: []Field{{"Range", "bytes=1-2"}}}
	if u, err := s.Put(t.Context(), r); err != nil || u != nil || len(r.Fields) != 1 {
		t.Errorf("another host without a placeholder: %v %v", u, err)
	}
	// Its host at another port, and in the clear: nothing goes in, and nothing comes out.
	for _, r := range []*Request{{Host: "api.test", Port: 8443, Secure: true, Target: "/"}, {Host: "api.test", Port: 443, Target: "/"}} {
		u, err := s.Put(t.Context(), r)
		if err != nil || u == nil || len(u.Names) > 0 || u.Body("", nil) != nil || strings.Contains(u.Text("x "+token), token) {
			t.Errorf("%+v: %v %v", r, u, err)
		}
	}
	var none *Set
	if u, err := none.Put(t.Context(), r); err != nil || u != nil {
		t.Errorf("no credentials: %v %v", u, err)
	}
}

// broken is a source that fails after the first time.
type broken struct{ calls int }

func (b *broken) Value(context.Context) (string, error) {
	if b.calls++; b.calls > 1 {
		return "", errors.New("exit status 1")
	}
	return token, nil
}
func (b *broken) Rejected(string) {}

func TestNoValueNothingIsSent(t *testing.T) {
	s := newSet(t, Spec{Name: "TOKEN", Hosts: []Host{{"api.test", 443}}, Source: &broken{}})
	if u, err := s.Put(t.Context(), request("/", Field{"A", s.Placeholders()[0]})); u != nil || err == nil || !strings.Contains(err.Error(), "TOKEN") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("%v %v", u, err)
	}
	// What does not need it goes on.
	if u, err := s.Put(t.Context(), request("/")); u == nil || err != nil {
		t.Errorf("%v %v", u, err)
	}
}

func TestBody(t *testing.T) {
	s := newSet(t)
	p, q := s.Placeholders()[0], s.Placeholders()[1]
	for kind, want := range map[string]string{
		"application/x-www-form-urlencoded; charset=utf-8": "other%2Fsecret%2Bvalue%3D%3D", "application/json": other, "application/x+json": other, "text/plain": other, "": other,
	} {
		u, err := s.Put(t.Context(), request("/"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		b := u.Body(kind, func(n string) { names = append(names, n) })
		// Only what has opted in.
		if got := string(b.All([]byte("a=" + q + "&b=" + p + "&c=" + q))); got != "a="+want+"&b="+p+"&c="+want {
			t.Errorf("%s: %s", kind, got)
		}
		if len(names) != 1 || names[0] != "OTHER" {
			t.Errorf("%s: told of %q", kind, names)
		}
	}
	quoted := newSet(t, Spec{Name: "Q", Hosts: []Host{{"api.test", 443}}, Source: Fixed(`a"quote\and`), Bodies: true})
	u, err := quoted.Put(t.Context(), request("/"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(u.Body("application/json", func(string) {}).All([]byte(`{"k":"` + quoted.Placeholders()[0] + `"}`))); got != `{"k":"a\"quote\\and"}` {
		t.Errorf("JSON: %s", got)
	}
	if u, err := s.Put(t.Context(), &Request{Host: "x.deep.test", Port: 8443, Secure: true}); err != nil || u.Body("", nil) != nil {
		t.Errorf("a body without an opt-in: %v", err)
	}
}

// What the host says of a value is not heard inside.
func TestResponse(t *testing.T) {
	s := newSet(t)
	u, err := s.Put(t.Context(), request("/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{"you sent " + token, b64("user:" + token), "x" + b64("u:"+other) + "y", "k=other%2Fsecret%2Bvalue%3D%3D", "k=other%2fsecret%2bvalue%3d%3d", `"` + token + `"`} {
		for _, got := range []string{u.Text(said), string(u.Response().All([]byte(said)))} {
			if strings.Contains(got, token) || strings.Contains(unescape(got), other) || len(got) != len(said) {
				t.Errorf("%q: %q", said, got)
			}
		}
	}
	if got := u.Text("you sent " + token); got != "you sent "+s.Placeholders()[0] {
		t.Errorf("%q", got)
	}
}

func TestHide(t *testing.T) {
	s := newSet(t)
	got := s.Hide("//reg.test/:_authToken=" + token + "\nx=" + other + " y\n")
	if got != "//reg.test/:_authToken="+s.Placeholders()[0]+"\nx="+s.Placeholders()[1]+" y\n" {
		t.Errorf("%q", got)
	}
}

func TestPlaceholder(t *testing.T) {
	for _, c := range []struct{ value, start, alphabet string }{
		{"sk-ant-api03-" + strings.Repeat("aB-_", 20), "sk-ant-api03-", alnum},
		{"sk-1234567890abcdefXYZ1234567890", "sk-", alnum},
		{"ghp_" + strings.Repeat("x1", 18), "ghp_", digits + letter},
		{strings.Repeat("0af1", 16), "", hex},
		{strings.Repeat("7", 50), "", digits},
		{"short-one", "", alnum},
		{"12345678", "", digits},
		{"npm_" + strings.Repeat("0", 36), "npm_", digits},
		{"ghp_short", "", alnum}, // hardly a token of that form
	} {
		seen := map[string]bool{}
		for range 50 {
			p, err := placeholder(c.value, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			rest, ok := strings.CutPrefix(p, c.start)
			if !ok || strings.Trim(rest, c.alphabet) != "" || seen[p] {
				t.Errorf("%s: %s", c.value, p)
			}
			seen[p] = true
			bits := map[int]float64{10: 3.32, 16: 4, 36: 5.16, 62: 5.95}[len(c.alphabet)]
			if float64(len(rest))*bits < 128 || len(p) < len(c.value) || len(p) > len(c.value) && float64(len(c.value)-len(c.start))*bits >= 128 {
				t.Errorf("%s: %d characters", c.value, len(p))
			}
		}
	}
	if _, err := placeholder(token, strings.NewReader("too few")); err == nil {
		t.Error("without random bytes")
	}
}

func TestUnusableValues(t *testing.T) {
	for _, v := range []string{"", "short", strings.Repeat("x", maxValue+1), "two\nlines of it", " spaces around", "a tab\tin it", "not ascii \u00e9", "\x7fdelete..."} {
		if _, err := New(t.Context(), []Spec{{Name: "N", Source: Fixed(v)}}, rand.Reader); err == nil || v != "" && strings.Contains(err.Error(), v) || !strings.Contains(err.Error(), "N") {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// One value by two names: each has its own placeholder and its own hosts.
func TestSameValueTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "is "+token+"\n")
	s := newSet(t, Spec{Name: "A", Hosts: []Host{{"a.test", 443}}, Source: Fixed(token)},
		Spec{Name: "B", Hosts: []Host{{"b.test", 443}}, Source: &File{Path: file, Extract: regexp.MustCompile("is (.*)")}})
	stand := s.Placeholders()
	for i, host := range []string{"a.test", "b.test"} {
		r := &Request{Host: host, Port: 443, Secure: true, Fields: []Field{{"X", stand[i]}}}
		if u, err := s.Put(t.Context(), r); err != nil || r.Fields[0].Value != token || u.Text(token) != stand[i] {
			t.Errorf("%s: %+v %v", host, r, err)
		}
		if _, err := s.Put(t.Context(), &Request{Host: host, Port: 443, Secure: true, Fields: []Field{{"X", stand[1-i]}}}); err == nil {
			t.Errorf("the other's placeholder goes to %s", host)
		}
	}
	if got, err := s.File(file); err != nil || got != "is "+stand[1]+"\n" {
		t.Errorf("%q %v", got, err)
	}
}

// FuzzPut: no value leaves for a host that is not its own, whatever is asked.
func FuzzPut(f *testing.F) {
	s := newSet(f)
	p, q := s.Placeholders()[0], s.Placeholders()[1]
	f.Add("/PH?a=PH2", "Authorization", "Bearer PH", "api.test", true)
	f.Add("/%50PH", "Authorization", "Basic dTpw", "evil.test", true)
	f.Fuzz(func(t *testing.T, target, name, value, host string, secure bool) {
		fill := strings.NewReplacer("PH2", q, "PH", p)
		r := &Request{Host: host, Port: 443, Secure: secure, Target: fill.Replace(target), Fields: []Field{{fill.Replace(name), fill.Replace(value)}, {"Authorization", "Basic " + b64(fill.Replace(value))}}}
		if strings.Contains(text(r), token) || strings.Contains(text(r), other) {
			return
		}
		_, err := s.Put(context.Background(), r)
		out := text(r)
		for v, hosts := range map[string][]string{token: {"api.test"}, other: {"api.test", "other.test"}} {
			has := strings.Contains(out, v) || strings.Contains(unescape(out), v)
			if has && err == nil && (!secure || host != hosts[0] && host != hosts[len(hosts)-1]) {
				t.Errorf("%s went to %q", v, host)
			}
		}
		if err == nil {
			for i, stand := range []string{p, q} {
				if strings.Contains(out, stand) {
					t.Errorf("placeholder %d went to %q: %s", i, host, out)
				}
			}
		}
	})
}

// BenchmarkPut is what each request to a credential's host costs, and to any other.
func BenchmarkPut(b *testing.B) {
	s := newSet(b)
	p := s.Placeholders()[0]
	for name, host := range map[string]string{"own": "api.test", "other": "elsewhere.test"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r := &Request{Host: host, Port: 443, Secure: true, Target: "/v1/messages?beta=true", Fields: []Field{{"Accept", "application/json"}, {"User-Agent", "client/1.0"}, {"Content-Type", "application/json"}}}
				if host == "api.test" {
					r.Fields = append(r.Fields, Field{"Authorization", "Bearer " + p})
				}
				if _, err := s.Put(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
