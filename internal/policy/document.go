package policy

import "encoding/json"

// Pos is a place in a policy file; both count from 1, Col in characters.
type Pos struct {
	Line, Col int
}

// Val is one value of a policy file and where it was written. It prints as
// the bare value.
type Val[T string | bool | float64] struct {
	V   T
	Pos Pos
}

// MarshalJSON prints the value without its place.
func (v Val[T]) MarshalJSON() ([]byte, error) { return json.Marshal(v.V) }

// Document is one policy file. It is the only description of the format: the
// decoder walks these types, and the published schema is made of the types,
// the tags and the comments.
//
// To add a key: add a field with its comment (it is shown by editors), a json
// tag, and an `is` tag that names its leaf in leaf.go; give it a meaning in
// rules.go, and say there with widening whether an untrusted project may use it;
// add lines to testdata/parse.txtar; run `go test ./internal/policy -run
// TestSchema -update`. To retire a key: move it to retired in decode.go with
// the text that says what to write instead.
type Document struct {
	// Where the JSON Schema of this file is, for editors. Has no effect.
	Schema *Val[string] `json:"$schema,omitempty" is:"text"`
	// Policies that this one builds on: names of built-in profiles ("claude",
	// "go") or files, relative to this file. What this file says is stronger
	// than what it extends.
	Extends []Val[string] `json:"extends,omitempty" is:"extends"`
	// How the command is isolated. Only "native" (Linux namespaces) so far.
	Boundary *Val[string] `json:"boundary,omitempty" is:"boundary"`
	// Always true: a command never runs without its boundary. Accepted because
	// Claude Code's settings have it.
	FailIfUnavailable *Val[bool] `json:"failIfUnavailable,omitempty" is:"true"`
	// Which files the command can read and write.
	Filesystem Filesystem `json:"filesystem,omitzero"`
	// Files and variables that hold secrets.
	Credentials Credentials `json:"credentials,omitzero"`
	// Where the command can connect to: nowhere, but for what is allowed here.
	// A denial beats every allow.
	Network Network `json:"network,omitzero"`
	// Which environment variables the command gets. The default is a short
	// list of harmless ones.
	Environment Environment `json:"environment,omitzero"`
	// How the project is presented to the command.
	Workspace Workspace `json:"workspace,omitzero"`
	// Ceilings for the whole run.
	Resources Resources `json:"resources,omitzero"`
	// Who the command runs as.
	Identity Identity `json:"identity,omitzero"`
}

// Filesystem has the path rules. The most specific rule wins: the one with
// the most path components; then a path before a pattern; then the stronger
// layer; then deny.
type Filesystem struct {
	// Paths that may be read, with all below them. "~" is the home directory,
	// "." and relative paths start at the workspace. "*", "?", "[a-z]" and
	// "**" are patterns; one that allows is looked for in the workspace only. In
	// what denyRead closes they may be read and not written: allowWrite opens them
	// for both.
	AllowRead []Val[string] `json:"allowRead,omitempty" is:"path"`
	// Paths that may be neither read nor written.
	DenyRead []Val[string] `json:"denyRead,omitempty" is:"path"`
	// Paths that may be read and written. The workspace is one already.
	AllowWrite []Val[string] `json:"allowWrite,omitempty" is:"path"`
	// Paths that may not be written.
	DenyWrite []Val[string] `json:"denyWrite,omitempty" is:"path"`
	// Lets the command write .git/config in the workspace. Git on your side
	// runs programs that this file names, so this gives up a guarantee.
	AllowGitConfig *Val[bool] `json:"allowGitConfig,omitempty" is:"bool"`
}

// Credentials lists secrets, by the names that Claude Code's settings use. Denied,
// they are denyRead and environment.deny; masked, the command has a placeholder.
type Credentials struct {
	// Files and directories that hold secrets.
	Files []CredentialFile `json:"files,omitempty"`
	// Environment variables that hold secrets.
	EnvVars []CredentialVar `json:"envVars,omitempty"`
}

// CredentialFile is one file or directory with secrets.
type CredentialFile struct {
	// The file or directory.
	Path Val[string] `json:"path" is:"path" need:"yes"`
	// "deny": the command can't read it. This is the default. "mask": it reads a
	// placeholder where the secret is, and the gateway puts the secret into
	// requests to the hosts.
	Mode *Val[string] `json:"mode,omitempty" is:"mode"`
	// Hosts that get the secret, over TLS only: "api.example.org", "*.example.org"
	// (subdomains only), each with an optional ":PORT"; without one, 443. A rule
	// of the network has to allow them besides.
	Hosts []Val[string] `json:"hosts,omitempty" is:"maskHost"`
	// What of the file is the secret: the one group of this regular expression.
	// Without it, the whole content but for white space around.
	Extract *Val[string] `json:"extract,omitempty" is:"extract"`
	// Whether the secret is put into bodies of requests, too.
	Bodies *Val[bool] `json:"bodies,omitempty" is:"bool"`
}

// CredentialVar is one variable with a secret.
type CredentialVar struct {
	// The variable; a "*" at the end stands for any rest.
	Name Val[string] `json:"name" is:"envDeny" need:"yes"`
	// "deny": the command never gets it. This is the default. "mask": it gets a
	// placeholder, and the gateway puts the secret into requests to the hosts.
	Mode *Val[string] `json:"mode,omitempty" is:"mode"`
	// Hosts that get the secret, over TLS only: "api.example.org", "*.example.org"
	// (subdomains only), each with an optional ":PORT"; without one, 443. A rule
	// of the network has to allow them besides. May be left out for the keys of
	// the agents that have a profile.
	Hosts []Val[string] `json:"hosts,omitempty" is:"maskHost"`
	// A program on your side that prints the secret, with its arguments, in the
	// place of your variable: ["gh", "auth", "token"].
	Command []Val[string] `json:"command,omitempty" is:"value"`
	// How long what the command prints is good: "1h". Without it, for the
	// session. A host that does not accept it ends it, too.
	TTL *Val[string] `json:"ttl,omitempty" is:"duration"`
	// Whether the secret is put into bodies of requests, too.
	Bodies *Val[bool] `json:"bodies,omitempty" is:"bool"`
}

// Network has the rules for connections.
type Network struct {
	// Hosts that may be reached: "example.org", "*.example.org" (subdomains
	// only), an address, each with an optional ":PORT"; without one, every port.
	// A name gives its public addresses; any other also needs allowedCIDRs.
	AllowedDomains []Val[string] `json:"allowedDomains,omitempty" is:"domain"`
	// Hosts that may not be reached, with their subdomains; "*" is every host.
	DeniedDomains []Val[string] `json:"deniedDomains,omitempty" is:"domainDeny"`
	// Address ranges that may be reached: "10.1.0.0/16", "10.1.2.3/32:5432",
	// "[fd00::/8]:443". A private or otherwise special address is reached if a
	// range lies within its kind, this machine's own and a cloud's metadata
	// service if a range is that one address.
	AllowedCIDRs []Val[string] `json:"allowedCIDRs,omitempty" is:"cidr"`
	// Whether the registries may be reached from which your own package managers
	// fetch; they are asked for these (npm, go, pip and so on). The default is true.
	Registries *Val[bool] `json:"registries,omitempty" is:"bool"`
	// Hosts like those of allowedDomains, but whose TLS is carried unopened: for
	// programs that accept no other certificate. Nobody sees what is asked there.
	TunnelDomains []Val[string] `json:"tunnelDomains,omitempty" is:"domain"`
	// Rules for single requests: methods, paths, git, packages, uploads. What
	// publishes is allowed only by a rule here that names it. A denial beats every
	// allow, an allow beats a rule that asks.
	Rules []RequestRule `json:"rules,omitempty"`
	// What happens to connections and requests that no rule allows or denies:
	// "deny", the default, or "ask" a person, while they wait.
	Unlisted *Val[string] `json:"unlisted,omitempty" is:"unlisted"`
	// The proxy of your network through which the outside is reached:
	// "http://proxy.example.org:3128", "https://..."; "environment" is what HTTPS_PROXY,
	// HTTP_PROXY and NO_PROXY of yours say, with user and password; "none" is the default.
	// Such a proxy finds where names lead, so that nobody here judges it.
	UpstreamProxy *Val[string] `json:"upstreamProxy,omitempty" is:"upstreamProxy"`
	// PEM files with certificates of authorities that are trusted besides this machine's:
	// by the gateway, for servers, and by programs inside. The inside must not be able to
	// write them.
	ExtraRoots []Val[string] `json:"extraRoots,omitempty" is:"file"`
	// What is reached without that proxy: "example.org" (with what is below it),
	// ".example.org" (only that), addresses and ranges, each with an optional ":PORT".
	NoProxy []Val[string] `json:"noProxy,omitempty" is:"noProxy"`
	// How much the whole run may send to all hosts together. Every budget holds,
	// wherever it was written.
	Budget Budget `json:"budget,omitzero"`
}

// Budget is how much may go. Each is for the whole run, "10MiB", or for any stretch of
// time of a length, "10MiB/1h".
type Budget struct {
	// Bytes towards the hosts once they are connected to: heads and bodies of requests;
	// in a tunnel, the bytes of TLS itself.
	Upload *Val[string] `json:"upload,omitempty" is:"budgetSize"`
	// HTTP requests: "100/1m". A connection in which none can be seen counts as one.
	Requests *Val[string] `json:"requests,omitempty" is:"budgetCount"`
	// Connections that are tried: "20/1s".
	Connections *Val[string] `json:"connections,omitempty" is:"budgetCount"`
}

// RequestRule is one rule for requests. It speaks of those that fit every list it
// has; without any list, of all, but allowing it then allows nothing that publishes.
type RequestRule struct {
	// The host, as in allowedDomains; for a denial also "*". Without a port it is
	// every port; to allow or ask, every port but 22 and 9418, where git pushes
	// unseen.
	Host Val[string] `json:"host" is:"domainDeny" need:"yes"`
	// "allow" (the default), "deny", or "ask" a person.
	Effect *Val[string] `json:"effect,omitempty" is:"effect"`
	// HTTP methods: "GET".
	Methods []Val[string] `json:"methods,omitempty" is:"method" some:"yes"`
	// Patterns of paths, compared when nothing in a path is encoded any more: "*"
	// is within one segment, "**" is any number of them. Without the query.
	Paths []Val[string] `json:"paths,omitempty" is:"urlPath" some:"yes"`
	// What git may do over HTTP: "fetch", "push" (publishes).
	Git []Val[string] `json:"git,omitempty" is:"gitAct" some:"yes"`
	// Patterns of what a push changes, creates or deletes: "refs/heads/agent/*".
	// Only with "git": ["push"]; each ref of a push has to be allowed.
	Refs []Val[string] `json:"refs,omitempty" is:"ref" some:"yes"`
	// The host is a package registry, at paths or everywhere: "install" reads from
	// it, "publish" is whatever writes to it.
	Packages []Val[string] `json:"packages,omitempty" is:"packageAct" some:"yes"`
	// What the API of a code host takes: "gist", "release", "file" (they publish).
	Uploads []Val[string] `json:"uploads,omitempty" is:"uploadAct" some:"yes"`
	// "inspect" opens TLS, which each list needs; "tunnel" carries it unopened, for
	// a rule without lists.
	TLS *Val[string] `json:"tls,omitempty" is:"tls"`
	// How much may go to the host, or of the requests that the rule speaks of,
	// whatever rule allows them. In a project that is not trusted, all that counts of a
	// rule that allows.
	Budget Budget `json:"budget,omitzero"`
	// Why, for whoever is refused or asked.
	Reason *Val[string] `json:"reason,omitempty" is:"text"`
}

// Environment has the rules for variables.
type Environment struct {
	// Variables of yours that the command gets; a "*" at the end stands for
	// any rest.
	Allow []Val[string] `json:"allow,omitempty" is:"env"`
	// Variables that the command never gets, whatever allows them.
	Deny []Val[string] `json:"deny,omitempty" is:"envDeny"`
	// Variables that are set to a value. A "~" at the start of the value is
	// the home directory.
	Set map[string]Val[string] `json:"set,omitempty" is:"value" key:"envName"`
}

// Workspace says how the project is presented.
type Workspace struct {
	// "live": the command works in the project itself. "copy": it works in a copy, of
	// which nothing reaches the project by itself. The default is "live", and "copy"
	// with --unattended.
	Mode *Val[string] `json:"mode,omitempty" is:"workspaceMode"`
	// The home directory inside: "private" is kept, one per project;
	// "ephemeral" is gone after the run.
	Home *Val[string] `json:"home,omitempty" is:"home"`
	// Further names in the workspace that the command can't change, because
	// programs on your side obey them. "**/" at the start is any depth, "/" at
	// the end a directory and all below it.
	Protect []Val[string] `json:"protect,omitempty" is:"guard"`
	// Guarded names that the command may change after all, spelled as
	// `policy show` prints them.
	Unprotect []Val[string] `json:"unprotect,omitempty" is:"guard"`
}

// Resources has the ceilings.
type Resources struct {
	// How long the run may take: "30m", "1h30m", "90s".
	Timeout *Val[string] `json:"timeout,omitempty" is:"duration"`
	// Memory of all processes together: "8GiB", "512MiB".
	Memory *Val[string] `json:"memory,omitempty" is:"size"`
	// Processors: 2, 2.5.
	CPUs *Val[float64] `json:"cpus,omitempty" is:"cpus"`
	// Processes and threads at one time.
	Processes *Val[float64] `json:"processes,omitempty" is:"count"`
	// Open files of each process.
	OpenFiles *Val[float64] `json:"openFiles,omitempty" is:"count"`
	// Size of the private /tmp.
	TempSize *Val[string] `json:"tempSize,omitempty" is:"size"`
}

// Identity says who the command runs as.
type Identity struct {
	// Lets cofferdam be started as root, with fewer guarantees.
	AllowRoot *Val[bool] `json:"allowRoot,omitempty" is:"bool"`
}

// Print returns the document as JSON, keys in the order of the types.
func (d *Document) Print() []byte {
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		panic(err) // strings, numbers and booleans only
	}
	return append(out, '\n')
}
