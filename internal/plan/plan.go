// Package plan holds the Plan: what one run will be, complete, before anything
// starts. It is the deterministic result of Policy and Facts (plan/compile),
// independent of the backend, and prints as JSON (run --dry-run). A backend
// carries it out and never decides again.
package plan

// Status says how well a rule holds on the chosen boundary.
type Status string

const (
	// Enforced: the kernel refuses every act against the rule.
	Enforced Status = "enforced"
	// Coarse: the rule holds, but wider or later than written; Note says how.
	Coarse Status = "coarse"
	// Impossible: the boundary can't do it here. A deny rule that is
	// impossible is a gap; an allow rule that is impossible is only told.
	Impossible Status = "impossible"
)

// Origin is where a rule was written.
type Origin struct {
	// Layer is "built-in", "profile:NAME", "user", "project", "flag",
	// "managed" or "import:FILE".
	Layer string `json:"layer"`
	// File and Line are empty for built-in rules and flags.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Key is the policy key or the flag: "filesystem.denyRead".
	Key string `json:"key"`
}

// RuleStatus is one effective rule and what becomes of it.
type RuleStatus struct {
	ID     int    `json:"id"`
	Text   string `json:"text"` // e.g. `denyRead ~/.ssh`
	Origin Origin `json:"origin"`
	Status Status `json:"status"`
	// Mechanism is what carries it: "mount", "fuse-mask", "seccomp", ...
	Mechanism string `json:"mechanism"`
	// Note explains coarse and impossible, in words for a person.
	Note string `json:"note,omitempty"`
}

// Gap is a guarantee that is asked for and can't be given. Any required gap
// stops the run before anything starts.
type Gap struct {
	Required bool   `json:"required"`
	Missing  string `json:"missing"` // what is missing: "user namespaces"
	Because  string `json:"because"` // what was seen
	Remedy   string `json:"remedy"`  // how to get it
	Rule     int    `json:"rule"`    // RuleStatus.ID that asked for it, or 0
}

// MountKind is how something comes to be at a path inside.
type MountKind string

const (
	Bind    MountKind = "bind"    // Source from the host, recursive
	Tmpfs   MountKind = "tmpfs"   // empty, Size bytes, Inodes
	Mask    MountKind = "mask"    // nothing readable; Dir says directory or file
	Proc    MountKind = "proc"    // fresh procfs with kernel knobs read-only
	Dev     MountKind = "dev"     // minimal /dev with its own devpts
	Dir     MountKind = "dir"     // empty directory in the root skeleton
	Symlink MountKind = "symlink" // Source is the link text
	// File is a small file with Content, over the one that is at Target.
	File MountKind = "file"
	// Pin is a bind of Target onto itself: a mount point can be neither renamed
	// nor removed. Without Write what is below is read-only too.
	Pin MountKind = "pin"
	// Copy is a copy of the directory Source at Target: what is written there reaches
	// Source never. Plan.Copy says how it is made.
	Copy MountKind = "copy"
	// Home is the private home: Source is a directory of the product's own, or
	// empty for a tmpfs.
	Home MountKind = "home"
)

// How a copy of the workspace is made: Plan.Copy.
const (
	// CopyOverlay: an overlay whose layers are given by descriptor (Linux 6.13).
	CopyOverlay = "overlay"
	// CopyOverlayPaths: the same, the layers given by path.
	CopyOverlayPaths = "overlay-by-path"
	// CopyFull: each file is copied before the start.
	CopyFull = "full"
)

// Holds names the contents of files that tell programs inside whom to trust. The plan
// is made before there is a session, and so an authority.
type Holds string

const (
	HoldsAuthority Holds = "session-authority" // PEM: the session's certificate, and extra roots
	HoldsRoots     Holds = "roots"             // PEM: these, and all roots of the machine
	HoldsJavaRoots Holds = "java-roots"        // the same as a Java key store
)

// Mount is one entry of the file tree inside. Entries are in order: a parent
// comes before what lies in it.
type Mount struct {
	Kind    MountKind `json:"kind"`
	Target  string    `json:"target"` // absolute and clean, as seen inside
	Source  string    `json:"source,omitempty"`
	Content string    `json:"content,omitempty"` // of a File
	// Holds names what a File has in it that exists only when the run begins.
	Holds Holds `json:"holds,omitempty"`
	// Upper and Work are the directories of a Copy's layers, which exist only when the
	// run begins.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
	// Write is whether the inside may write through this mount.
	Write bool `json:"write,omitempty"`
	// Directory says whether a bind or mask is a directory.
	Directory bool `json:"directory,omitempty"`
	// Create says that the mount point is made inside the root skeleton or
	// a mask; without it the mount point must exist (never made on the host).
	Create bool   `json:"create,omitempty"`
	Size   int64  `json:"size,omitempty"`   // bytes, tmpfs
	Inodes int64  `json:"inodes,omitempty"` // tmpfs
	Mode   uint32 `json:"mode,omitempty"`
	// Masked: this File has the placeholders of credentials where the host's file of
	// that name has the secrets. Its Content is empty here.
	Masked bool `json:"masked,omitempty"`
	// Optional: the source or target may have gone since Facts were taken.
	// Only for allows: losing an allow is safe.
	Optional bool `json:"optional,omitempty"`
	Rule     int  `json:"rule,omitempty"`
}

// EnvVar is one variable of the environment inside. Secret values never
// appear in a Plan: only variables that the policy lets in are here.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Credential is the ID of the one whose placeholder is the value, which is
	// empty here; 0 for none.
	Credential int `json:"credential,omitempty"`
	Rule       int `json:"rule,omitempty"`
}

// Guard is a name pattern in the workspace that programs on the host obey
// (git hooks, agent and editor settings). What exists is mounted read-only;
// what appears during the run is noticed and set aside.
type Guard struct {
	// Pattern is relative to the workspace, or absolute; "/"-separated; "**/"
	// at the start means any depth, a trailing "/" a directory and all below it.
	Pattern string `json:"pattern"`
	Reason  string `json:"reason"` // "git runs it at the next commit"
	// Except are paths, relative to the workspace, that the policy lets the
	// inside write although the pattern matches them.
	Except []string `json:"except,omitempty"`
	Rule   int      `json:"rule,omitempty"`
}

// Limit is one resource ceiling and how it is held.
type Limit struct {
	Name      string `json:"name"` // "memory", "processes", "time", "cpus", "open-files", "temp-size"
	Value     int64  `json:"value"`
	Unit      string `json:"unit"` // "bytes", "count", "ms", "millicpu"
	Status    Status `json:"status"`
	Mechanism string `json:"mechanism"` // "cgroup-v2", "cgroup-v1", "rlimit", "pid_max", "tmpfs", "watch", "affinity"
	Note      string `json:"note,omitempty"`
	Rule      int    `json:"rule,omitempty"`
}

// Identity is who the processes inside are.
type Identity struct {
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	User     string `json:"user"`
	Home     string `json:"home"`
	Hostname string `json:"hostname"`
}

// Network is what the inside can reach.
type Network struct {
	// Mode is "loopback" (a network namespace with lo only) or "gateway": each
	// connection and each question for a name comes to the supervisor, which
	// decides by Rules; nothing else gets out.
	Mode string `json:"mode"`
	// Mechanism is how they come there: "nft-redirect": every one; "any-ip": those to
	// Ports; "proxy": those alone that programs make by the proxies inside.
	Mechanism string    `json:"mechanism,omitempty"`
	Ports     []int     `json:"ports,omitempty"`
	Rules     []NetRule `json:"rules,omitempty"`
	// Budgets bound what Rules allow. Each of them holds.
	Budgets []Budget `json:"budgets,omitempty"`
	// Upstream says through which proxies the outside is reached. Nil: directly.
	Upstream *Upstream `json:"upstream,omitempty"`
	// Inspect: TLS is opened for some rule, so programs inside have to trust the
	// session's authority.
	Inspect bool `json:"inspect,omitempty"`
	// Roots are files or directories of certificates that programs inside were told to
	// trust; they go on to trust these.
	Roots []string `json:"roots,omitempty"`
	// ExtraRoots are files of certificates that the gateway and programs inside trust
	// besides those of the machine.
	ExtraRoots []string `json:"extraRoots,omitempty"`
}

// NetRule is one rule of the gateway. A name denied denies its subdomains; deny
// beats allow, and allow beats ask; what no rule speaks of is denied.
type NetRule struct {
	Allow bool `json:"allow"`
	// Ask: it waits until a person allows it. Never with Allow.
	Ask bool `json:"ask,omitempty"`
	// Name is a canonical name; "*.example.org" is its strict subdomains, "*"
	// every name and address (never to allow). Empty if Prefix is set.
	Name string `json:"name,omitempty"`
	// Prefix is a range of addresses, for destinations that are addresses and
	// for what a name resolves to if that is not a public address.
	Prefix string `json:"prefix,omitempty"`
	// Port 0 is every port; of a rule that allows or asks, every one but 22 and 9418,
	// where git may push and nobody can see it.
	Port int `json:"port,omitempty"`
	// Tunnel: TLS is carried as it is. Nobody sees what is asked within, so neither
	// Only nor any gate of publishing holds there. Allowing rules alone have it.
	Tunnel bool `json:"tunnel,omitempty"`
	// Only narrows the rule to some requests. Nil is every request, but in a rule that
	// allows, nothing that publishes (decide.Act).
	Only *Requests `json:"only,omitempty"`
	// Reason is the author's, for whoever is refused or asked.
	Reason string `json:"reason,omitempty"`
	Rule   int    `json:"rule,omitempty"`
}

// Upstream are proxies of the person's network. They find where names lead, so that it is
// not judged.
type Upstream struct {
	// HTTP and HTTPS are "http://proxy.test:3128", for requests in the clear and for all
	// else; empty: directly. A password is never here.
	HTTP  string `json:"http,omitempty"`
	HTTPS string `json:"https,omitempty"`
	// Direct are reached without, as NO_PROXY lists them.
	Direct []string `json:"direct,omitempty"`
	// Environment: they are those of the caller's, where a user and a password may be.
	Environment bool `json:"environment,omitempty"`
	Rule        int  `json:"rule,omitempty"`
}

// Budget is how much may go to some hosts, over all connections of the run together.
// What goes beyond is refused, whatever rule allows it.
type Budget struct {
	// Name and Prefix are as in NetRule; "*" is every name and address. Port 0 is every
	// port.
	Name   string `json:"name,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Port   int    `json:"port,omitempty"`
	// Only: the requests that count. Nil: all, and whatever is no request.
	Only *Requests `json:"only,omitempty"`
	// Of is what is counted, one of BudgetUpload, BudgetRequests, BudgetConnections.
	Of     string `json:"of"`
	Amount int64  `json:"amount"`
	// Per is the length of any stretch of time that Amount is for, in milliseconds; 0 is
	// the whole run.
	Per  int64 `json:"perMs,omitempty"`
	Rule int   `json:"rule,omitempty"`
}

// What a Budget counts.
const (
	// BudgetUpload: bytes towards the outside, once a connection has been made: heads and
	// bodies of requests as they are sent on; in a tunnel the bytes of TLS itself.
	BudgetUpload = "upload"
	// BudgetRequests: HTTP requests; a connection in which none can be seen is one.
	BudgetRequests    = "requests"
	BudgetConnections = "connections" // attempts to connect to the outside
)

// Text is what may go, as a person would say it: "upload 10 MiB in 1h".
func (b Budget) Text() string {
	unit := "count"
	if b.Of == BudgetUpload {
		unit = "bytes"
	}
	text := b.Of + " " + Amount(b.Amount, unit)
	if b.Per != 0 {
		text += " in " + Amount(b.Per, "ms")
	}
	return text
}

// Requests are some of those that HTTP can make. Each list that is not empty has to
// have the request in it.
type Requests struct {
	Methods []string `json:"methods,omitempty"` // "GET"
	Paths   []string `json:"paths,omitempty"`   // patterns of paths: "/v1/**"
	// Acts are what requests do, by the names of decide.Act: "git-push".
	Acts []string `json:"acts,omitempty"`
	Refs []string `json:"refs,omitempty"` // of a git push: "refs/heads/agent/*"
}

// Credential is a secret for which the inside has a placeholder. Neither of the two is
// ever in a plan.
type Credential struct {
	ID   int    `json:"id"`   // 1, 2, 3 ...
	Name string `json:"name"` // of the variable, or the file as written
	Kind string `json:"kind"` // "env", "file": where the placeholder is
	// Of these one is set: where the value comes from, on the host.
	Variable string   `json:"variable,omitempty"`
	File     string   `json:"file,omitempty"`
	Command  []string `json:"command,omitempty"`
	// Extract is what of the file is the value; "": all but white space around.
	Extract string `json:"extract,omitempty"`
	TTL     int64  `json:"ttl,omitempty"` // of a command, milliseconds; 0: the session
	// Hosts get the value: a name or "*.example.org", and the port.
	Hosts  []string `json:"hosts"`
	Bodies bool     `json:"bodies,omitempty"` // put into bodies, too
	Rule   int      `json:"rule,omitempty"`
}

// Plan is one run.
type Plan struct {
	Version   int      `json:"version"` // 1
	Boundary  string   `json:"boundary"`
	Command   []string `json:"command"`   // argv as asked
	Program   string   `json:"program"`   // path of the executable, inside
	Dir       string   `json:"dir"`       // working directory inside
	Workspace string   `json:"workspace"` // real path on the host, same inside
	// PrivateHome is the host directory that is $HOME inside; "" = tmpfs.
	PrivateHome string   `json:"privateHome,omitempty"`
	Profiles    []string `json:"profiles,omitempty"`
	Identity    Identity `json:"identity"`
	Mounts      []Mount  `json:"mounts"`
	Guards      []Guard  `json:"guards,omitempty"`
	Environment []EnvVar `json:"environment"`
	Network     Network  `json:"network"`
	// Credentials the inside has placeholders for.
	Credentials []Credential `json:"credentials,omitempty"`
	Limits      []Limit      `json:"limits"`
	// Landlock is the ABI the plan was made for; 0 means no second lock.
	Landlock int `json:"landlock"`
	// FuseMasks: masks answer through the supervisor, which sees who asked.
	FuseMasks bool `json:"fuseMasks"`
	// SeccompNotify: refused system calls are reported by the kernel.
	SeccompNotify bool `json:"seccompNotify"`
	Unattended    bool `json:"unattended,omitempty"`
	// Copy says how the copy is made that stands for the workspace; "" is none: what is
	// written there is written into the project.
	Copy  string       `json:"copy,omitempty"`
	Rules []RuleStatus `json:"rules"`
	Gaps  []Gap        `json:"gaps,omitempty"`
}

// Entry is what of the plan a boundary needs for one more command: the rules, and what
// only a start makes, are left out. They are nine tenths of a plan, and who enters has
// to read all of it first.
func (p *Plan) Entry() *Plan {
	e := *p
	e.Rules, e.Gaps, e.Guards, e.Profiles = nil, nil, nil, nil
	e.Network.Rules, e.Network.Roots = nil, nil
	e.Mounts = nil
	for _, m := range p.Mounts {
		if m.Write { // what Landlock grants
			m.Content = ""
			e.Mounts = append(e.Mounts, m)
		}
	}
	return &e
}

// RequiredGaps returns the gaps that stop the run.
func (p *Plan) RequiredGaps() []Gap {
	var out []Gap
	for _, g := range p.Gaps {
		if g.Required {
			out = append(out, g)
		}
	}
	return out
}

// Copied is the mount that shows a copy of the workspace; ok is false if none does.
func (p *Plan) Copied() (m *Mount, ok bool) {
	for i := range p.Mounts {
		if p.Mounts[i].Kind == Copy {
			return &p.Mounts[i], true
		}
	}
	return nil, false
}

// Rule returns the rule with this ID; ok is false for 0 or unknown IDs.
func (p *Plan) Rule(id int) (RuleStatus, bool) {
	if id < 1 || id > len(p.Rules) {
		return RuleStatus{}, false
	}
	return p.Rules[id-1], true
}

// Limit returns the named limit; ok is false when the plan has none.
func (p *Plan) Limit(name string) (Limit, bool) {
	for _, l := range p.Limits {
		if l.Name == name {
			return l, true
		}
	}
	return Limit{}, false
}
