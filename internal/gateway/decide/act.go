package decide

import (
	"slices"
	"strings"
	"sync"

	"cofferdam/internal/glob"
)

// The acts that rules have words for (plan.Requests.Acts). What publishes gives
// something away that can't be taken back, and is never allowed in passing.
const (
	GitFetch       = "git-fetch"
	GitPush        = "git-push"        // publishes
	PackageInstall = "package-install" // whatever reads a package registry
	PackagePublish = "package-publish" // publishes
	GistUpload     = "gist-upload"     // publishes
	ReleaseUpload  = "release-upload"  // publishes
	FileUpload     = "file-upload"     // publishes
)

// acts are all of them, the gravest first.
var acts = [...]string{GitPush, PackagePublish, ReleaseUpload, GistUpload, FileUpload, GitFetch, PackageInstall}

func publishes(act string) bool {
	return act != "" && act != GitFetch && act != PackageInstall
}

// known is the way in which a row knows which refs a push changes.
type known uint8

const (
	noRefs     known = iota // it changes none
	refsInBody              // git's own list of commands
	hiddenRefs              // it changes some, and how is not looked into
)

// row is one thing that requests do, told by method, path and query alone.
type row struct {
	act     string
	methods string // of those that it is done by; "write" is each that is no reading, "" each
	paths   []string
	except  string // but not there
	query   string // is in it, decoded and in lower case; "!x": is not
	last    bool   // only if no row above fits
	refs    known
	why     string // "git pushes"

	in       []string // methods, taken apart
	patterns []glob.Pattern
	excepted glob.Pattern
}

// table has no names of hosts: a mirror, a forge of one's own and the large ones
// differ in nothing else. Paths are in lower case and begin anywhere ("**") where
// servers are known to live below a prefix. A row that says too much costs a rule in
// somebody's policy; a row that is missing lets something out.
var table = sync.OnceValue(func() []row {
	rows := []row{
		// gitprotocol-http(5). Which service is asked for is in the query alone.
		{act: GitPush, paths: []string{"**/info/refs"}, query: "receive-pack", why: "asks git what it may push"},
		{act: GitFetch, methods: "GET HEAD", paths: []string{"**/info/refs"}, query: "upload-pack", why: "asks git what it may fetch"},
		{act: GitFetch, methods: "GET HEAD", paths: []string{"**/info/refs"}, query: "!receive-pack", why: "asks git what it may fetch, the old way"},
		{act: GitFetch, methods: "POST", paths: []string{"**/git-upload-pack"}, why: "fetches with git"},
		{act: GitPush, methods: "POST", paths: []string{"**/git-receive-pack"}, refs: refsInBody, why: "pushes with git"},
		// http-backend writes by WebDAV too, if the web server does (git-http-push(1)).
		{act: GitPush, methods: "PUT MKCOL MOVE COPY DELETE LOCK PROPPATCH", paths: []string{"**/*.git/*/**"}, except: "**/info/lfs/**", refs: hiddenRefs, why: "pushes with git by WebDAV"},
		// Git LFS. The batch request asks where objects are or may be put, as its body
		// says; it stores nothing, and a download needs it.
		{act: GitFetch, methods: "POST", paths: []string{"**/info/lfs/objects/batch", "**/info/lfs/locks/verify"}, why: "asks git LFS where objects are"},
		{act: GitFetch, methods: "GET HEAD", paths: []string{"**/info/lfs/**", "**/gitlab-lfs/objects/**"}, why: "fetches with git LFS"},
		{act: GitPush, methods: "POST", paths: []string{"**/info/lfs/verify", "**/info/lfs/objects/verify", "**/info/lfs/locks", "**/info/lfs/locks/*/unlock"}, why: "uploads with git LFS"},
		{act: GitPush, methods: "PUT PATCH DELETE", paths: []string{"**/info/lfs/**", "**/gitlab-lfs/objects/**"}, why: "uploads with git LFS"},
		// Commits and branches by the API of a code host.
		{act: GitPush, methods: "write", refs: hiddenRefs, why: "changes a repository by an API", paths: []string{
			"**/repos/*/*/contents/**", "**/repos/*/*/git/**", "**/repos/*/*/branches/**", "**/repos/*/*/merges", "**/repos/*/*/merge-upstream",
			"**/repos/*/*/pulls/*/merge", "**/projects/**/repository/**", "**/projects/**/merge_requests/*/merge"}},

		// npm: audits only read. Scopes come as "@scope%2fname" and "@scope/name".
		{act: PackageInstall, methods: "POST", paths: []string{"**/-/npm/v1/security/**"}, why: "asks npm's audit"},
		{act: PackagePublish, methods: "PUT", paths: []string{"@*/*", "**/@*"}, why: "publishes a package of npm"},
		{act: PackagePublish, methods: "write", paths: []string{"-/**", "**/-/package/**", "**/-rev/*", "**/api/npm/**"}, except: "**/-/npm/v1/security/**", why: "changes a package of npm"},
		// Python: a form with an action (the API is called legacy, and is the one).
		{act: PackagePublish, methods: "POST PUT", paths: []string{"**/legacy", "**/pypi/**"}, why: "uploads a package of Python"},
		{act: PackagePublish, methods: "POST PUT", paths: []string{"**"}, query: ":action=", why: "uploads a package of Python"},
		{act: PackagePublish, methods: "write", paths: []string{"**/api/v1/crates/**"}, why: "publishes, yanks or gives away a crate"},
		{act: PackagePublish, methods: "write", paths: []string{"**/api/v1/gems/**"}, why: "publishes or yanks a gem"},
		{act: PackagePublish, methods: "write", paths: []string{"**/api/v2/package/**"}, why: "publishes a package of NuGet"},
		// Maven and Gradle put files at their coordinates, with sums and signatures.
		{act: PackagePublish, methods: "PUT", why: "uploads a package of Maven", paths: []string{
			"**/*.pom*", "**/*.jar*", "**/*.war*", "**/*.aar*", "**/*.ear*", "**/*.klib*", "**/*.module*", "**/maven-metadata*.xml*"}},
		// The OCI distribution specification, "end-4" to "end-10".
		{act: PackagePublish, methods: "write", paths: []string{"**/v2/**/blobs/**", "**/v2/**/manifests/**", "**/v2/**/tags/**"}, why: "pushes or deletes an image"},
		{act: PackagePublish, methods: "write", paths: []string{"**/api/packages/**", "**/projects/**/packages/**"}, why: "publishes a package"},

		{act: GistUpload, methods: "write", paths: []string{"**/gists/**", "**/snippets/**"}, why: "publishes a gist or snippet"},
		{act: ReleaseUpload, methods: "write", paths: []string{"**/repos/*/*/releases/**", "**/projects/**/releases/**"}, why: "publishes a release or a file of one"},
		{act: FileUpload, methods: "write", paths: []string{"upload/**", "uploads/**", "**/upload", "**/projects/**/uploads"}, why: "uploads a file"},

		// npm without a scope, if nothing else it could be.
		{act: PackagePublish, methods: "PUT", paths: []string{"*"}, last: true, why: "publishes a package, as npm does"},
	}
	for i := range rows {
		r := &rows[i]
		r.in = strings.Fields(r.methods)
		for _, p := range r.paths {
			r.patterns = append(r.patterns, pattern(p))
		}
		r.excepted = pattern(r.except)
	}
	return rows
})

// pattern compiles one of the table's own; TestTable compiles them all.
func pattern(text string) glob.Pattern {
	p, err := glob.Compile(text)
	if err != nil {
		return glob.Pattern{}
	}
	return p
}

// matches says whether the pattern is the whole path.
func matches(p glob.Pattern, segments []string) bool {
	_, deepest, ok := p.DepthsOf(segments)
	return ok && deepest == len(segments)
}

// reads: methods that change nothing by their definition.
func reads(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY":
		return true
	}
	return false
}

func (r *row) fits(method string, segments []string, query string) bool {
	switch r.methods {
	case "":
	case "write":
		if reads(method) {
			return false
		}
	default:
		if !slices.Contains(r.in, method) {
			return false
		}
	}
	switch not, isNot := strings.CutPrefix(r.query, "!"); {
	case isNot && strings.Contains(query, not), !isNot && !strings.Contains(query, r.query):
		return false
	}
	return slices.ContainsFunc(r.patterns, func(p glob.Pattern) bool { return matches(p, segments) }) &&
		(r.except == "" || !matches(r.excepted, segments))
}

// deed is what a request does in one way of reading it.
type deed struct {
	act  string // "": nothing that rules have a word for
	refs known
	why  string
}

// deeds says what a request does. Registry: some rule says that packages are here, and
// then reading is installing, and writing publishes unless it is git's own.
func deeds(method string, segments []string, query string, registry bool) []deed {
	var out []deed
	segments = lowerAll(segments)
	git := false
	rows := table()
	for i := range rows {
		r := &rows[i]
		if r.last && len(out) > 0 || !r.fits(method, segments, query) {
			continue
		}
		git = git || (r.act == GitFetch || r.act == GitPush) && (r.refs == refsInBody || method == "POST" && r.refs == noRefs)
		out = append(out, deed{r.act, r.refs, r.why})
	}
	has := func(act string) bool {
		return slices.ContainsFunc(out, func(d deed) bool { return d.act == act })
	}
	switch {
	case !registry || git:
	case !reads(method) && !has(PackagePublish) && !has(PackageInstall):
		out = append(out, deed{PackagePublish, noRefs, "writes to a package registry"})
	case reads(method) && len(out) == 0:
		out = append(out, deed{PackageInstall, noRefs, "reads a package registry"})
	}
	if len(out) == 0 {
		out = append(out, deed{})
	}
	return out
}

// methodsOf are those that a server may take a request for: the one sent, and what a
// query may put in the place of POST. Headers that do the same have to be dropped by
// whoever passes the request on, and a form's "_method" is in the body: a rule that
// allows POST can't tell.
func methodsOf(method, query string) []string {
	out := []string{strings.ToUpper(method)}
	if strings.IndexByte(query, '=') < 0 {
		return out
	}
	for pair := range strings.FieldsFuncSeq(decoded(query), func(c rune) bool { return c == '&' || c == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		switch strings.TrimSpace(name) {
		case "_method", "x-http-method-override", "x-http-method", "x-method-override", "$httpmethod":
			if m := strings.ToUpper(strings.TrimSpace(value)); CheckMethod(m) == nil && !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out
}

// Acts says what a request does, by the names that rules use; none for what has no
// name. It is every act that some server may take it for: a request counts for each of
// them. Host names don't enter: what only the host can tell, as that it is a package
// registry, Request knows from the rules.
func Acts(method, path, query string) ([]string, error) {
	ways, err := readings(path)
	if err != nil {
		return nil, err
	}
	var out []string
	q := decoded(query)
	for _, m := range methodsOf(method, query) {
		for _, w := range ways {
			for _, d := range deeds(m, w, q, false) {
				if d.act != "" && !slices.Contains(out, d.act) {
					out = append(out, d.act)
				}
			}
		}
	}
	slices.Sort(out)
	return out, nil
}
