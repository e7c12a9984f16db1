package decide

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

func TestActs(t *testing.T) {
	const zero = "0000000000000000000000000000000000000000000000000000000000000000"
	for request, want := range map[string]string{
		"GET /me/x.git/info/refs?service=git-upload-pack":   GitFetch,
		"GET /me/x.git/info/refs":                           GitFetch,
		"POST /me/x.git/git-upload-pack":                    GitFetch,
		"POST /me/x/git-upload-pack":                        GitFetch,
		"GET /me/x.git/info/refs?service=git-receive-pack":  GitPush,
		"HEAD /me/x.git/info/refs?service=git-receive-pack": GitPush,
		"POST /me/x.git/git-receive-pack":                   GitPush,
		"POST /me/x/git-receive-pack":                       GitPush,
		"POST /git-receive-pack":                            GitPush,
		"GET /me/git-receive-pack":                          "",
		"MKCOL /me/x.git/objects/ab":                        GitPush,
		"PUT /dav/x.git/refs/heads/main":                    GitPush,
		"PROPFIND /dav/x.git/refs/heads/":                   "",
		"POST /me/x.git/info/lfs/objects/batch":             GitFetch,
		"GET /me/x.git/info/lfs/objects/" + zero:            GitFetch,
		"PUT /me/x.git/info/lfs/objects/" + zero:            GitPush,
		"PUT /me/x.git/gitlab-lfs/objects/" + zero + "/12":  GitPush,
		"POST /me/x.git/info/lfs/verify":                    GitPush,
		"POST /me/x.git/info/lfs/locks":                     GitPush,
		"POST /me/x.git/info/lfs/locks/verify":              GitFetch,
		"PUT /repos/me/x/contents/a/b.txt":                  GitPush,
		"GET /repos/me/x/contents/a/b.txt":                  "",
		"PATCH /api/v3/repos/me/x/git/refs/heads/main":      GitPush,
		"PUT /repos/me/x/pulls/3/merge":                     GitPush,
		"POST /repos/me/x/pulls":                            "",
		"POST /api/v4/projects/me%2fx/repository/commits":   GitPush,
		"PUT /lib":                                   PackagePublish,
		"PUT /@me%2flib":                             PackagePublish,
		"PUT /@me/lib":                               PackagePublish,
		"PUT /npm/private/@me%2Flib":                 PackagePublish,
		"PUT /-/package/lib/dist-tags/latest":        PackagePublish,
		"DELETE /-/package/@me%2flib/dist-tags/beta": PackagePublish,
		"PUT /lib/-rev/3-abc":                        PackagePublish,
		"DELETE /lib/-/lib-1.0.0.tgz/-rev/3-abc":     PackagePublish,
		"PUT /-/user/org.couchdb.user:me":            PackagePublish,
		"POST /-/npm/v1/security/advisories/bulk":    PackageInstall,
		"POST /npm/-/npm/v1/security/audits/quick":   PackageInstall,
		"GET /lib":                                        "",
		"POST /legacy/":                                   PackagePublish,
		"POST /pypi":                                      PackagePublish,
		"POST /?:action=file_upload":                      PackagePublish,
		"POST /me/dev/?%3Aaction=file_upload":             PackagePublish,
		"GET /simple/lib/":                                "",
		"PUT /api/v1/crates/new":                          PackagePublish,
		"DELETE /api/v1/crates/lib/1.0.0/yank":            PackagePublish,
		"PUT /mirror/api/v1/crates/lib/owners":            PackagePublish,
		"GET /api/v1/crates/lib/1.0.0/download":           "",
		"POST /api/v1/gems":                               PackagePublish,
		"DELETE /api/v1/gems/yank":                        PackagePublish,
		"PUT /releases/org/acme/lib/1.0/lib-1.0.pom":      PackagePublish,
		"PUT /releases/org/acme/lib/1.0/lib-1.0.jar.sha1": PackagePublish,
		"PUT /releases/org/acme/lib/maven-metadata.xml":   PackagePublish,
		"POST /v2/me/image/blobs/uploads/":                PackagePublish,
		"PATCH /v2/me/image/blobs/uploads/1":              PackagePublish,
		"PUT /v2/a/b/c/blobs/uploads/1?digest=sha256:0":   PackagePublish,
		"PUT /v2/me/image/manifests/latest":               PackagePublish,
		"DELETE /v2/me/image/manifests/latest":            PackagePublish,
		"GET /v2/me/image/manifests/latest":               "",
		"PUT /api/v2/package/":                            PackagePublish,
		"PUT /api/v4/projects/7/packages/generic/a/1/b":   PackagePublish,
		"POST /gists":                                     GistUpload,
		"PATCH /api/v3/gists/1":                           GistUpload,
		"POST /api/v4/snippets":                           GistUpload,
		"GET /gists/1":                                    "",
		"POST /repos/me/x/releases":                       ReleaseUpload,
		"POST /repos/me/x/releases/1/assets?name=a":       ReleaseUpload,
		"POST /api/v4/projects/me%2Fx/releases":           ReleaseUpload,
		"GET /repos/me/x/releases":                        "",
		"POST /upload":                                    FileUpload,
		"POST /api/v4/projects/1/uploads":                 FileUpload,
		"POST /graphql":                                   "",
		"POST /v1/messages":                               "",
		"GET /":                                           "",
		"OPTIONS *":                                       "",
		"PUT /a/b":                                        "",

		// What some server takes for the same.
		"POST //me//x.git//git-receive-pack//":                                     GitPush,
		"POST /me/x.git/git%2dreceive-pack":                                        GitPush,
		"POST /me/x.git/git%252dreceive-pack":                                      GitPush,
		"POST /me/x.git/GIT-Receive-Pack":                                          GitPush,
		"POST /me/x.git%2fgit-receive-pack":                                        GitPush,
		"POST /me/x.git%5cgit-receive-pack":                                        GitPush,
		"POST /me/x.git%252Fgit-receive-pack":                                      GitPush,
		"POST /me/x.git;v=1/git-receive-pack;a=b":                                  GitPush,
		"POST /me/x.git/git-receive-pack%3bx":                                      GitPush,
		"post /me/x.git/git-receive-pack":                                          GitPush,
		"GET /me/x.git/info/refs?a=b&service=git%2Dreceive%2Dpack":                 GitPush,
		"GET /me/x.git/info/refs?SERVICE=git-receive-pack":                         GitPush,
		"GET /me/x.git/info/refs?service=git-upload-pack&service=git-receive-pack": GitFetch + "," + GitPush,
		"GET /me/x.git/info/refs?service=git-receive-pack&service=git-upload-pack": GitFetch + "," + GitPush,
		"GET /me/x.git//info/refs/?service=git-receive-pack":                       GitPush,
		"POST /lib?_method=PUT":                                                    PackagePublish,
		"POST /lib?a=b&X-HTTP-Method-Override=put":                                 PackagePublish,
		"PUT //lib/":                         PackagePublish,
		"PUT /lib;x=/":                       PackagePublish,
		"POST /v2/me%2fimage/blobs/uploads/": PackagePublish,
	} {
		method, target, _ := strings.Cut(request, " ")
		path, query, _ := strings.Cut(target, "?")
		got, err := Acts(method, path, query)
		if err != nil || strings.Join(got, ",") != want {
			t.Errorf("%s: %v, %v; want %s", request, got, err, want)
		}
	}
	for _, path := range []string{"", "x", "/a/../b", "/a/./b", "/..", "/.", "/a/%2e%2e/b", "/a/%2E./b", "/a/%252e%252e/b", "/a%2f..%2fb", "/a/..;x/b", "/a/..%3bx/b", `/a%5c..%5cb`,
		"/a%", "/a%2", "/a%zz", "/%00", "/%0a", "/%7f", "/%2500", "/%c0%af", "/%ff", "/%e0%80%af", "/%25252f", "/" + strings.Repeat("a", maxPath)} {
		if got, err := Acts("GET", path, ""); err == nil {
			t.Errorf("%q: %v", path, got)
		}
		q := Request{Name: "git.test", Port: 443, Method: "GET", Path: path}
		if v := compiled(t, allow("git.test", 0, 1)).Request(q); v.Code != BadRequest || v.Allow || v.Reason == "" {
			t.Errorf("%q: %+v", path, v)
		}
	}
	// What is sent as it is written needs no second reading.
	for path, n := range map[string]int{"/": 1, "/a/b": 1, "/a/b/": 1, "/100%25": 1, "/a%20b": 1, "/@a%2fb": 2, "/a...b/...": 1, "/a//b": 2, "/a;b": 2, "/%C3%A4": 1} {
		if got, err := readings(path); err != nil || len(got) != n {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// Each line of the table can be compiled, and some request is only that.
func TestTable(t *testing.T) {
	for _, r := range table() {
		for i, p := range r.paths {
			if len(r.patterns) != len(r.paths) || r.patterns[i].Match("") != (p == "**" || p == "") || lower(p) != p {
				t.Errorf("%s: %s", r.why, p)
			}
		}
		if r.why == "" || r.act == "" {
			t.Errorf("%+v", r)
		}
		key, value := Words(r.act)
		if Act(key, value) != r.act {
			t.Errorf("%s is %s %s", r.act, key, value)
		}
	}
	if Act("git", "clone") != "" || Act("", "") != "" {
		t.Error("an act of no words")
	}
}

func some(methods, paths, acts, refs string) *plan.Requests {
	return &plan.Requests{Methods: strings.Fields(methods), Paths: strings.Fields(paths), Acts: strings.Fields(acts), Refs: strings.Fields(refs)}
}

// effect makes a rule from "allow", "ask", "deny" or "tunnel".
func effect(e, name string, port, id int, o *plan.Requests) plan.NetRule {
	return plan.NetRule{Allow: e == "allow" || e == "tunnel", Ask: e == "ask", Tunnel: e == "tunnel", Name: name, Port: port, Rule: id, Only: o}
}

// within makes it a rule for a range.
func within(prefix string, n plan.NetRule) plan.NetRule {
	n.Prefix = prefix
	return n
}

func TestRequest(t *testing.T) {
	r := compiled(t,
		effect("allow", "plain.test", 0, 1, nil),
		effect("allow", "api.test", 443, 2, some("GET", "/v1/** /status", "", "")),
		effect("allow", "api.test", 443, 3, some("POST", "/v1/*/run", "", "")),
		effect("deny", "api.test", 0, 4, some("", "/v1/Admin/**", "", "")),
		effect("allow", "git.test", 0, 5, some("", "", "git-fetch", "")),
		effect("allow", "git.test", 0, 6, some("", "/me/**", "git-push", "refs/heads/agent/*")),
		effect("deny", "git.test", 0, 7, some("", "", "git-push", "refs/heads/agent/keep")),
		effect("allow", "registry.test", 0, 8, some("", "", "package-install", "")),
		effect("allow", "publish.test", 0, 9, some("", "", "package-install package-publish", "")),
		effect("allow", "mixed.test", 0, 10, nil),
		effect("allow", "mixed.test", 0, 11, some("", "/npm/**", "package-install", "")),
		effect("ask", "ask.test", 0, 12, nil),
		effect("ask", "plain.test", 0, 13, some("", "", "git-push", "")),
		effect("deny", "*", 0, 14, some("DELETE", "", "", "")),
		effect("allow", "free.test", 0, 15, some("", "", "git-push", "")),
		effect("deny", "free.test", 0, 16, some("", "", "git-push", "refs/heads/main")),
		effect("ask", "refs.test", 0, 17, some("", "", "git-push", "refs/heads/main")),
		effect("allow", "refs.test", 0, 18, some("", "", "git-push git-fetch", "refs/heads/agent/**")),
		effect("allow", "dash.test", 0, 19, some("", "/public/*", "", "")),
	)
	for _, c := range []struct {
		request string // METHOD host/path?query
		refs    string // "-": known, and none
		want    string
		rule    int
		says    string
	}{
		{"POST plain.test/a/b", "", Allowed, 1, ""},
		{"DELETE plain.test/a", "", Denied, 14, "denied by the rule * DELETE"},
		{"delete plain.test/a", "", Denied, 14, ""},
		{"POST plain.test/a?_method=delete", "", Denied, 14, ""},
		{"POST plain.test/x.git/git-receive-pack", "", Asked, 13, "person"},
		{"PUT plain.test/@a%2fb", "", NotAllowed, 0, `publishes a package of npm, and only a rule that names that allows it; to allow it, in network.rules: {"host": "plain.test:443", "packages": ["publish"]}`},
		{"POST plain.test/gists", "", NotAllowed, 0, `"uploads": ["gist"]`},

		{"GET api.test/v1/x", "", Allowed, 2, ""},
		{"GET api.test/v1", "", Allowed, 2, ""},
		{"GET api.test/status/", "", Allowed, 2, ""},
		{"HEAD api.test/v1/x", "", NotAllowed, 0, "none of the requests that are allowed there, by the rule api.test:443 GET /v1/**,/status"},
		{"GET api.test/V1/x", "", NotAllowed, 0, ""},
		{"GET api.test/v2/x", "", NotAllowed, 0, ""},
		{"POST api.test/v1/a/run", "", Allowed, 3, ""},
		{"POST api.test/v1/a%2fb/run", "", NotAllowed, 0, ""},
		{"POST api.test/v1/a/b/run", "", NotAllowed, 0, ""},
		{"POST api.test/v1/a/run?_method=PUT", "", NotAllowed, 0, ""},
		{"GET api.test/v1/admin/x", "", Denied, 4, ""},
		{"GET api.test/v1/ADMIN", "", Denied, 4, ""},
		{"GET api.test/v1%2fadmin/x", "", Denied, 4, ""},
		{"GET api.test/v1/%61dmin/x", "", Denied, 4, ""},
		{"GET api.test//v1//admin", "", Denied, 4, ""},
		{"GET api.test/v1/admin;x/y", "", Denied, 4, ""},
		{"GET api.test:80/v1/x", "", NotAllowed, 0, "another port"},
		{"GET api.test:80/v1/admin", "", Denied, 4, ""},

		{"GET dash.test/public/a", "", Allowed, 19, ""},
		{"GET dash.test/public//a", "", NotAllowed, 0, ""},
		{"GET dash.test//public/a", "", NotAllowed, 0, ""},
		{"GET dash.test/public/a%2fb", "", NotAllowed, 0, ""},
		{"GET dash.test/public/a;b", "", Allowed, 19, ""},
		{"GET dash.test/public/a%252fb", "", NotAllowed, 0, ""},

		{"GET git.test/any/x.git/info/refs?service=git-upload-pack", "", Allowed, 5, ""},
		{"GET git.test/me/x.git/info/refs?service=git-receive-pack", "", Allowed, 6, ""},
		{"GET git.test/me/x.git/info/refs?service=git-upload-pack&service=git-receive-pack", "", Allowed, 6, ""},
		{"GET git.test/any/x.git/info/refs?service=git-upload-pack&service=git-receive-pack", "", NotAllowed, 0, ""},
		{"GET git.test/any/x.git/info/refs?service=git-receive-pack", "", NotAllowed, 0, `"git": ["push"]`},
		{"GET git.test/me/x", "", NotAllowed, 0, ""},
		{"POST git.test/me/x.git/git-receive-pack", "", "refs", 6, "depends"},
		{"POST git.test/any/x.git/git-receive-pack", "", NotAllowed, 0, ""},
		{"POST git.test/me/x.git/git-receive-pack", "-", Allowed, 6, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/a refs/heads/agent/b", Allowed, 6, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/a refs/heads/main", NotAllowed, 0, "to refs/heads/main pushes with git"},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/a/b", NotAllowed, 0, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/Agent/a", NotAllowed, 0, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/.", Denied, 7, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent//a", Denied, 7, ""},
		{"POST refs.test/x/git-receive-pack", "refs/heads/agent/../main", NotAllowed, 0, ""},
		{"POST refs.test/x/git-receive-pack", "refs/heads/agent//main", NotAllowed, 0, ""},
		{"POST refs.test/x/git-receive-pack", "HEAD", NotAllowed, 0, ""},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/keep", Denied, 7, "to refs/heads/agent/keep"},
		{"POST git.test/me/x.git/git-receive-pack", "refs/heads/agent/a refs/heads/agent/KEEP", Denied, 7, ""},
		{"PUT git.test/me/x.git/info/lfs/objects/0", "", Allowed, 6, ""},
		{"PUT git.test/me/x.git/refs/heads/agent/a", "", Denied, 7, ""},
		{"PUT git.test/repos/me/x/contents/a", "", Denied, 7, ""},

		{"POST free.test/x/git-receive-pack", "", "refs", 15, ""},
		{"POST free.test/x/git-receive-pack", "refs/heads/main", Denied, 16, ""},
		{"POST free.test/x/git-receive-pack", "refs/heads/x", Allowed, 15, ""},
		{"PUT free.test/repos/me/x/contents/a", "", Denied, 16, ""},

		{"POST refs.test/x/git-receive-pack", "", "refs", 18, ""},
		{"POST refs.test/x/git-receive-pack", "refs/heads/agent/a/b", Allowed, 18, ""},
		{"POST refs.test/x/git-receive-pack", "refs/heads/agent/a refs/heads/main", Asked, 17, ""},
		{"POST refs.test/x/git-receive-pack", "refs/heads/other", NotAllowed, 0, ""},
		{"GET refs.test/x/info/refs?service=git-receive-pack", "", Allowed, 18, ""},
		{"GET refs.test/x/info/refs?service=git-upload-pack", "", Allowed, 18, ""},

		{"GET registry.test/lib/-/lib-1.tgz", "", Allowed, 8, ""},
		{"HEAD registry.test/@a%2flib", "", Allowed, 8, ""},
		{"POST registry.test/-/npm/v1/security/audits/quick", "", Allowed, 8, ""},
		{"POST registry.test/anything/else", "", NotAllowed, 0, "writes to a package registry"},
		{"POST registry.test/x/info/refs?service=git-upload-pack", "", NotAllowed, 0, "writes to a package registry"},
		{"POST mixed.test/npm/info/refs", "", NotAllowed, 0, "writes to a package registry"},
		{"POST mixed.test/npm/x.git/git-upload-pack", "", Allowed, 10, ""},
		{"PUT publish.test/a/b/c", "", Allowed, 9, ""},
		{"GET publish.test/a", "", Allowed, 9, ""},
		{"GET mixed.test/web", "", Allowed, 10, ""},
		{"POST mixed.test/web/form", "", Allowed, 10, ""},
		{"POST mixed.test/npm/form", "", NotAllowed, 0, ""},
		{"POST mixed.test/%6epm/form", "", NotAllowed, 0, ""},
		{"GET mixed.test/npm/form", "", Allowed, 10, ""},

		{"GET ask.test/x", "", Asked, 12, ""},
		{"POST ask.test/x/git-receive-pack", "", Asked, 12, ""},
		{"GET ask.test:22/x", "", NotAllowed, 0, ""},
		{"GET other.test/x", "", NotAllowed, 0, "--allow-domain other.test:443"},
		{"DELETE other.test/x", "", Denied, 14, ""},
		{"GET 1.2.3.4/x", "", BadName, 0, ""},
	} {
		method, rest, _ := strings.Cut(c.request, " ")
		host, target, _ := strings.Cut(rest, "/")
		host, p, _ := strings.Cut(host, ":")
		path, query, _ := strings.Cut(target, "?")
		q := Request{Name: host, Port: map[string]uint16{"": 443, "80": 80, "22": 22}[p], Method: method, Path: "/" + path, Query: query}
		switch c.refs {
		case "":
		case "-":
			q.Refs = []Ref{}
		default:
			for _, name := range strings.Fields(c.refs) {
				q.Refs = append(q.Refs, Ref{Name: name})
			}
		}
		v := r.Request(q)
		wantRefs := c.want == "refs"
		if wantRefs {
			c.want = NotAllowed
		}
		if v.Code != c.want || v.Rule != c.rule || v.Refs != wantRefs || v.Allow != (v.Code == Allowed) || v.Ask != (v.Code == Asked) || v.Reason == "" || !strings.Contains(v.Reason, c.says) {
			t.Errorf("%s %s: %+v, want %s by %d: %s", c.request, c.refs, v, c.want, c.rule, c.says)
		}
		if strings.ContainsAny(query, "=") && query != "" && strings.Contains(v.Reason, query) {
			t.Errorf("%s: the query is told: %s", c.request, v.Reason)
		}
		if v.Code != BadName && !v.Refs {
			checkAllowing(t, r, q)
		}
	}
}

// checkAllowing: what a person allows is allowed then, unless it is denied.
func checkAllowing(t *testing.T, r *Rules, q Request) {
	t.Helper()
	before := r.Request(q)
	rules, err := r.Allowing(q)
	if err != nil {
		if q.Refs == nil && CheckMethod(strings.ToUpper(q.Method)) == nil { // else no ref, or no method, that a rule could name
			t.Fatalf("%+v: %v", q, err)
		}
		return
	}
	more, err := r.With(rules...)
	var conflict *Conflict
	if errors.As(err, &conflict) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if v := more.Request(q); !v.Refs && v.Allow != (before.Code != Denied) {
		t.Errorf("%+v: %+v with %+v", q, v, rules)
	}
	q.Path += "/more"
	if v := more.Request(q); v.Allow && !r.Request(q).Allow {
		t.Errorf("%+v is allowed by %+v", q, rules)
	}
}

func TestLook(t *testing.T) {
	r := compiled(t,
		effect("allow", "plain.test", 0, 1, nil), effect("tunnel", "pinned.test", 443, 2, nil), effect("allow", "*.pinned.test", 0, 3, nil),
		effect("tunnel", "a.pinned.test", 0, 4, nil), effect("allow", "narrow.test", 0, 5, some("GET", "", "", "")),
		effect("allow", "both.test", 0, 6, nil), effect("deny", "both.test", 0, 7, some("POST", "", "", "")),
		effect("ask", "ask.test", 0, 8, nil), effect("ask", "api.test", 0, 9, some("POST", "", "", "")),
		effect("deny", "only.test", 0, 10, some("POST", "", "", "")),
	)
	for _, c := range []struct {
		name string
		port uint16
		want string // of A(llow) a(sk) L(ook) R(aw)
		rule int
	}{
		{"plain.test", 443, "ALR", 1}, {"plain.test", 22, "", 0}, {"pinned.test", 443, "A", 2}, {"pinned.test", 80, "", 0}, {"b.pinned.test", 443, "ALR", 3},
		{"a.pinned.test", 443, "A", 4}, {"narrow.test", 443, "AL", 5}, {"both.test", 443, "AL", 6}, {"ask.test", 443, "aLR", 8}, {"api.test", 443, "AL", 9}, {"only.test", 443, "", 0},
	} {
		v := r.Connect(c.name, c.port)
		got := ""
		for i, is := range []bool{v.Allow, v.Ask, v.Look, v.Raw} {
			if is {
				got += "AaLR"[i : i+1]
			}
		}
		if got != c.want && !(c.name == "a.pinned.test" && got == "A") || v.Rule != c.rule {
			t.Errorf("%s:%d: %s by %d, want %s by %d", c.name, c.port, got, v.Rule, c.want, c.rule)
		}
		if n := r.Name(c.name); c.port == 443 && (n.Allow || n.Ask) != (c.want != "") || n.Ask != (c.name == "ask.test") {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
	// A person's word.
	more, err := r.With(effect("allow", "ask.test", 443, 0, nil))
	if err != nil || !more.Connect("ask.test", 443).Allow || more.Connect("ask.test", 80).Allow || r.Connect("ask.test", 443).Allow {
		t.Errorf("%v", err)
	}
	if more, err := (*Rules)(nil).With(effect("allow", "ask.test", 443, 0, nil)); err != nil || !more.Connect("ask.test", 443).Allow {
		t.Errorf("%v", err)
	}
	// What is asked by default: names, and addresses of the public internet.
	r = compiled(t, effect("ask", "*", 0, 1, nil), deny("bad.test", 0, 2), within("10.0.0.0/8", effect("ask", "", 0, 3, nil)))
	for name, want := range map[string]string{"any.test": Asked, "x.bad.test": Denied, "1.1.1.1": Asked, "10.0.0.1": Asked, "192.168.0.1": SpecialAddress, "fe80::1": SpecialAddress} {
		v := r.Connect(name, 443)
		if a, err := netip.ParseAddr(name); err == nil {
			v = r.ConnectAddr(netip.AddrPortFrom(a, 443))
			q := Request{Addr: a, Port: 443, Method: "GET", Path: "/"}
			if got := r.Request(q); got.Code != want {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if v.Code != want || v.Allow || v.Ask != (want == Asked) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := r.Connect("any.test", 22); v.Ask || v.Allow {
		t.Errorf("%+v", v)
	}
}

func TestConflicts(t *testing.T) {
	get := some("GET", "", "", "")
	for _, c := range []struct {
		tunnel, other plan.NetRule
		conflict      bool
	}{
		{effect("tunnel", "a.test", 443, 1, nil), effect("allow", "a.test", 443, 2, get), true},
		{effect("tunnel", "a.test", 0, 1, nil), effect("ask", "a.test", 443, 2, get), true},
		{effect("tunnel", "a.test", 443, 1, nil), effect("deny", "a.test", 0, 2, get), true},
		{effect("tunnel", "b.a.test", 443, 1, nil), effect("deny", "a.test", 0, 2, get), true},
		{effect("tunnel", "b.a.test", 443, 1, nil), effect("allow", "a.test", 0, 2, get), false},
		{effect("tunnel", "b.a.test", 443, 1, nil), effect("allow", "*.a.test", 0, 2, get), true},
		{effect("tunnel", "*.a.test", 443, 1, nil), effect("allow", "b.a.test", 0, 2, get), true},
		{effect("tunnel", "*.a.test", 443, 1, nil), effect("allow", "a.test", 0, 2, get), false},
		{effect("tunnel", "*.a.test", 443, 1, nil), effect("deny", "a.test", 0, 2, get), true},
		{effect("tunnel", "a.test", 443, 1, nil), effect("deny", "*.a.test", 0, 2, get), false},
		{effect("tunnel", "a.test", 443, 1, nil), effect("deny", "*", 0, 2, get), true},
		{effect("tunnel", "a.test", 443, 1, nil), effect("deny", "*", 80, 2, get), false},
		{effect("tunnel", "a.test", 443, 1, nil), effect("allow", "a.test", 80, 2, get), false},
		{effect("tunnel", "a.test", 443, 1, nil), effect("allow", "b.test", 443, 2, get), false},
		{effect("tunnel", "a.test", 443, 1, nil), effect("allow", "*.a.test", 443, 2, get), false},
		{effect("tunnel", "a.test", 22, 1, nil), effect("allow", "a.test", 0, 2, get), false},
		{effect("tunnel", "a.test", 22, 1, nil), effect("deny", "a.test", 0, 2, get), true},
		{effect("tunnel", "a.test", 443, 1, nil), effect("allow", "a.test", 443, 2, nil), false},
		{within("10.0.0.0/8", effect("tunnel", "", 443, 1, nil)), within("10.1.0.0/16", effect("allow", "", 0, 2, get)), true},
		{within("10.0.0.0/8", effect("tunnel", "", 443, 1, nil)), within("11.0.0.0/8", effect("allow", "", 0, 2, get)), false},
		{within("10.0.0.0/8", effect("tunnel", "", 443, 1, nil)), effect("allow", "a.test", 0, 2, get), false},
	} {
		for _, list := range [][]plan.NetRule{{c.tunnel, c.other}, {c.other, c.tunnel}} {
			r, err := Compile(list)
			var two *Conflict
			if (err != nil) != c.conflict || c.conflict && (!errors.As(err, &two) || two.Tunnel.Rule != 1 || two.Only.Rule != 2 || r != nil) {
				t.Errorf("%+v with %+v: %v", c.tunnel, c.other, err)
			}
		}
	}
}

// By address a rule is read as for a name; and a rule for some requests opens nothing to
// names, of which what they ask for is not known when they are dialled.
func TestRequestsToAddresses(t *testing.T) {
	r := compiled(t, within("10.0.0.1/32", effect("allow", "", 80, 1, some("GET", "", "", ""))), within("10.0.0.2/32", effect("allow", "", 80, 2, nil)),
		within("10.0.0.2/32", effect("deny", "", 0, 3, some("DELETE", "", "", ""))), allow("a.test", 0, 4), within("10.0.0.3/32", effect("tunnel", "", 80, 5, nil)))
	for request, want := range map[string]string{"GET 10.0.0.1": Allowed, "POST 10.0.0.1": NotAllowed, "POST 10.0.0.2": Allowed, "DELETE 10.0.0.2": Denied, "GET 10.0.0.4": SpecialAddress, "PUT 10.0.0.3": NotAllowed, "POST 10.0.0.3": Allowed, "GET 1.1.1.1": NotAllowed} {
		method, addr, _ := strings.Cut(request, " ")
		v := r.Request(Request{Addr: netip.MustParseAddr(addr), Port: 80, Method: method, Path: "/x"})
		if v.Code != want || v.Reason == "" {
			t.Errorf("%s: %+v", request, v)
		}
	}
	for addr, want := range map[string]string{"10.0.0.1": SpecialAddress, "10.0.0.2": Denied, "10.0.0.3": Allowed} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), 80)
		if v := r.Dial("a.test", 80, at, nobody); v.Code != want {
			t.Errorf("a name at %s: %+v", addr, v)
		}
		if v := r.Dial("", 80, at, nobody); !v.Allow || v.Look != (addr != "10.0.0.3") {
			t.Errorf("%s: %+v", addr, v)
		}
	}
}

func TestOnlyIsRefused(t *testing.T) {
	for _, o := range []*plan.Requests{
		{}, some("get", "", "", ""), some("G\x00T", "", "", ""), some("*", "", "", ""), some("", "v1", "", ""), some("", "//v1", "", ""), some("", "/a/../b", "", ""), some("", "/a?b", "", ""),
		some("", "/a%20b", "", ""), some("", "/a;b", "", ""), some("", "/[", "", ""), some("", "/a**", "", ""), some("", "/a//", "", ""), some("", "", "push", ""), some("", "", "", "refs/heads/x"),
		some("", "", "git-fetch", "refs/heads/x"), some("", "", "git-push", "heads/x"), some("", "", "git-push", "refs/heads//x"), some("", "", "git-push", "refs/heads/"), some("", "/a\x1b", "", ""),
		some("", "", "git-push", "refs/heads/["),
	} {
		if _, err := Compile([]plan.NetRule{effect("allow", "a.test", 0, 1, o)}); err == nil || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []*plan.Requests{some("M-SEARCH", "/ /v1/ /** /a/*/b /\u00e4", "git-push", "refs/** refs/heads/\u00e4 refs/tags/v*")} {
		if _, err := Compile([]plan.NetRule{effect("allow", "a.test", 0, 1, o)}); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestReasonOfTheAuthor(t *testing.T) {
	n := deny("a.test", 0, 1)
	n.Reason = "see\x1b[2J\nthere"
	if v := compiled(t, n).Connect("a.test", 443); !strings.Contains(v.Reason, `("see\x1b[2J\nthere")`) {
		t.Error(v.Reason)
	}
	n.Reason = "use the mirror"
	if v := compiled(t, n).Connect("a.test", 443); !strings.Contains(v.Reason, "a.test (use the mirror), and") {
		t.Error(v.Reason)
	}
}

func FuzzReadings(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/@a%2fb", "/a%252fb", "/..", "/a;b/c", "//a", "/%2e%2e%2f", "/a%5cb", "/%25252f", "*", "/a%c3%a4", "/;/;", "/%3b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		ways, err := readings(path)
		if err != nil {
			return
		}
		if len(ways) == 0 || len(ways) > 16 {
			t.Fatalf("%q: %q", path, ways)
		}
		for _, w := range ways {
			for _, s := range w {
				if s == "." || s == ".." || strings.ContainsAny(s, "\x00\r\n") {
					t.Fatalf("%q: %q", path, ways)
				}
			}
		}
		// A server that resolves nothing and decodes once is among them.
		plain := strings.TrimRight(path, "/")
		if out, _ := unescape(plain); path != "*" && strings.TrimRight("/"+strings.Join(ways[0], "/"), "/") != strings.TrimRight(out, "/") {
			t.Fatalf("%q: %q", path, ways[0])
		}
		// One that cleans what it has decoded is too.
		once, _ := unescape(path)
		clean := slices.DeleteFunc(strings.Split(once, "/"), func(s string) bool { return s == "" })
		if path != "*" && !slices.ContainsFunc(ways, func(w []string) bool {
			return slices.Equal(slices.DeleteFunc(slices.Clone(w), func(s string) bool { return s == "" }), clean)
		}) && !strings.Contains(once, `\`) {
			t.Fatalf("%q: no %q among %q", path, clean, ways)
		}
		// Encoding more of it hides no act.
		if strings.ContainsAny(path, "%;") || len(path) > 200 || path == "*" {
			return
		}
		b := strings.Builder{}
		for i := range len(path) {
			if c := path[i]; i%2 == 1 && c != '/' {
				b.WriteString("%" + string("0123456789ABCDEF"[c>>4]) + string("0123456789abcdef"[c&15]))
			} else {
				b.WriteByte(c)
			}
		}
		for _, method := range []string{"GET", "POST", "PUT"} {
			want, _ := Acts(method, path, "service=git-receive-pack")
			got, err := Acts(method, b.String(), "service=git-%72eceive-pack")
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s %q: %v, %q: %v, %v", method, path, want, b.String(), got, err)
			}
		}
	})
}

// narrow reads rules from text, "EFFECT host[:port] methods paths acts refs" a line with
// "-" for none.
func narrow(text string) []plan.NetRule {
	var list []plan.NetRule
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(line)
		if len(f) != 6 || len(list) == 8 {
			continue
		}
		for i, s := range f[2:] {
			if f[i+2] = strings.ReplaceAll(s, ",", " "); s == "-" {
				f[i+2] = ""
			}
		}
		host, port, _ := strings.Cut(f[1], ":")
		n := effect(f[0], host, 0, len(list)+1, some(f[2], f[3], f[4], f[5]))
		if port == "443" {
			n.Port = 443
		}
		if len(n.Only.Methods)+len(n.Only.Paths)+len(n.Only.Acts)+len(n.Only.Refs) == 0 {
			n.Only = nil
		}
		if _, err := Compile(append(list, n)); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// FuzzRequests: what holds of any rules and any request.
func FuzzRequests(f *testing.F) {
	f.Add("allow a.test GET /v1/** - -\ndeny a.test - /v1/x - -", "GET", "/v1/x%2fy", "", "")
	f.Add("allow a.test - - git-push refs/heads/agent/*\nask a.test - - git-push refs/heads/*", "POST", "/x/git-receive-pack", "", "refs/heads/agent/x refs/heads/y")
	f.Add("allow a.test - - - -\nallow a.test - /n/** package-install -\ndeny a.test - - package-publish -", "PUT", "/n/x", "_method=GET", "")
	f.Add("allow *.test:443 - - package-install,package-publish -\ndeny * DELETE - - -\nask * - - - -", "DELETE", "/x", "", "")
	f.Add("tunnel a.test - - - -", "GET", "/x.git/info/refs", "service=git-receive-pack&service=git-upload-pack", "")
	f.Fuzz(func(t *testing.T, text, method, path, query, refs string) {
		list := narrow(text)
		q := Request{Name: "a.test", Port: 443, Method: method, Path: path, Query: query}
		for _, s := range strings.Fields(refs) {
			q.Refs = append(q.Refs, Ref{Name: s})
		}
		r := compiled(t, list...)
		v := r.Request(q)
		if v.Allow && (v.Ask || v.Refs || v.Code != Allowed) || v.Ask && v.Refs || v.Look || v.Raw || v.Reason == "" || strings.ContainsFunc(v.Reason, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			t.Fatalf("%+v", v)
		}
		if v.Code == BadRequest {
			return
		}
		// A connection that is refused whole has no request that is allowed.
		if c := r.Connect(q.Name, q.Port); v.Allow && !c.Allow || v.Ask && !c.Allow && !c.Ask || v.Code == NotAllowed && c.Code == Denied {
			t.Fatalf("%+v in %+v", v, c)
		}
		// Nothing that publishes is allowed but by a rule that names it.
		acts, _ := Acts(method, path, query)
		for _, act := range acts {
			if v.Allow && publishes(act) && !slices.ContainsFunc(list, func(n plan.NetRule) bool { return n.Allow && n.Only != nil && slices.Contains(n.Only.Acts, act) }) {
				t.Fatalf("%s by %+v: %+v", act, list, v)
			}
		}
		// Before the refs are known nothing is allowed that is not then.
		if q.Refs != nil {
			before := q
			before.Refs = nil
			if b := r.Request(before); !b.Refs && (b.Allow != v.Allow || b.Ask != v.Ask) {
				t.Fatalf("%+v, then %+v", b, v)
			}
		}
		grants := func(v Verdict) int {
			switch {
			case v.Allow:
				return 2
			case v.Ask:
				return 1
			}
			return 0
		}
		for i, n := range list {
			others := slices.Delete(slices.Clone(list), i, i+1)
			if o := compiled(t, others...).Request(q); !n.Allow && !n.Ask && grants(o) < grants(v) {
				t.Fatalf("with the denial %+v: %+v, without %+v", n, v, o)
			}
			// The order does not matter.
			turned := compiled(t, append(others, n)...).Request(q)
			if grants(turned) != grants(v) || turned.Refs != v.Refs {
				t.Fatalf("%+v, in another order %+v", v, turned)
			}
			if n.Allow && !n.Tunnel {
				// Narrowed, it allows no more. An act that publishes has to be named, so
				// naming acts is not narrowing.
				for _, by := range []plan.Requests{{Methods: []string{"GET"}}, {Paths: []string{"/v1/**"}}} {
					m := n
					if n.Only != nil {
						if len(n.Only.Methods) > 0 && by.Methods != nil || len(n.Only.Paths) > 0 && by.Paths != nil {
							continue
						}
						by.Acts, by.Refs = n.Only.Acts, n.Only.Refs
						if by.Methods == nil {
							by.Methods = n.Only.Methods
						}
						if by.Paths == nil {
							by.Paths = n.Only.Paths
						}
					}
					m.Only = &by
					narrower, err := Compile(append(slices.Clone(others), m))
					registry := n.Only != nil && (slices.Contains(n.Only.Acts, PackageInstall) || slices.Contains(n.Only.Acts, PackagePublish))
					if err != nil || registry && by.Paths != nil {
						continue // what is no registry any more has other names
					}
					if o := narrower.Request(q); o.Allow && !v.Allow {
						t.Fatalf("%+v: %+v, as %+v: %+v", n, v, m, o)
					}
				}
			}
		}
		// A denial of all beats everything.
		if o := compiled(t, append(slices.Clone(list), deny("*", 0, 99))...).Request(q); o.Code != Denied {
			t.Fatalf("%+v", o)
		}
		if v.Code != Denied && !v.Refs {
			checkAllowing(t, r, q)
		}
	})
}
