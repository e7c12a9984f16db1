package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"cofferdam/internal/glob"
)

// claudeRules are the keys of Claude Code's settings (2.1.330) that speak of the
// sandbox. To add one: say here what becomes of it and put it into
// testdata/import/claude-all.json.
func claudeRules() rules {
	const prompts = "a question of the agent's own; the boundary holds whatever it answers"
	managed := wants(false, Lossy, "an organisation's policy goes to "+ManagedFile)
	sandbox := with(commonRules(), rules{
		"enabled":                  wants(true, Weakening, "the boundary can't be switched off"),
		"failIfUnavailable":        wants(true, Weakening, "nothing starts without its boundary, whatever this says"),
		"allowUnsandboxedCommands": wants(false, Weakening, "nothing ever runs outside the boundary"),
		"autoAllowBashIfSandboxed": told(aBool, Ignored, prompts),
		"excludedCommands":         grants(strs, Weakening, "nothing ever runs outside the boundary"),
		"enabledPlatforms":         told(strs, Ignored, "the boundary is on wherever cofferdam runs"),
		"filesystem":               section(with(filesystemRules(), rules{"allowManagedReadPathsOnly": managed})),
		"network":                  section(with(networkRules(), rules{"allowManagedDomainsOnly": managed})),
		"credentials":              section(credentialRules),
	})
	permissions := rules{
		"deny": permissionList((*importer).denied), "ask": permissionList((*importer).asked), "allow": permissionList((*importer).allowed),
		"defaultMode":                  told(aString, Ignored, prompts),
		"disableBypassPermissionsMode": told(aString, Ignored, prompts), "disableAutoMode": told(aString, Ignored, prompts),
		"denyInsteadOfPrompting":               told(aBool, Ignored, prompts),
		"additionalDirectories":                {read: additionalDirectories},
		"blockReadsOutsideWorkingDirectories":  wants(true, Tightened, "what nobody allowed can't be read here"),
		"blockWritesOutsideWorkingDirectories": wants(true, Tightened, "only the workspace and what is allowed can be written here"),
	}
	for _, host := range []string{"blockReadsExemptPaths", "workingDirectoriesAsGiven", "workingDirectoriesExclude"} {
		permissions[host] = told(anything, Tightened, "for programs that embed the agent; an exception is written to filesystem.allowRead or allowWrite")
	}
	return rules{"sandbox": section(sandbox), "permissions": section(permissions)}
}

// besides are texts for top-level keys that people may think of as rules of a
// sandbox. None of their values is ever printed: they hold secrets.
var besides = map[string]string{
	"env":                             "the agent sets these itself; what a command gets of your environment is said in environment.allow and environment.set",
	"hooks":                           "hooks run inside the boundary, like all that the agent starts",
	"mcpServers":                      "these servers run inside the boundary, like all that the agent starts",
	"apiKeyHelper":                    "it runs inside the boundary, like all that the agent starts",
	"statusLine":                      "it runs inside the boundary, like all that the agent starts",
	"allowManagedPermissionRulesOnly": "an organisation's policy goes to " + ManagedFile,
	"allowManagedHooksOnly":           "about the agent's hooks; they run inside the boundary",
	"allowManagedMcpServersOnly":      "about the agent's servers; they run inside the boundary",
}

// claude reads Claude Code's settings. The file has many keys that are not about
// the sandbox, and new ones with each version: they are reported, one by one. A
// misspelt or misplaced section is not one of them.
func (im *importer) claude() {
	known := tables().claude
	im.keys(&im.root, "", known, func(name string, nameAt, _ *hujson.Value) {
		if n := nearest(name, slices.Sorted(maps.Keys(known))); n != "" {
			im.report(nameAt, name, "unknown key", fmt.Sprintf("did you mean %q?", n))
			return
		}
		// The permissions' other keys are the agent's own, wherever they are.
		lists := []string{"allow", "ask", "deny", "additionalDirectories"}
		for _, section := range slices.Sorted(maps.Keys(known)) {
			if known[section].inside[name].read != nil && (section == "sandbox" || slices.Contains(lists, name)) {
				im.report(nameAt, name, "has no effect at the top", fmt.Sprintf("%q belongs in %q", name, section))
				return
			}
		}
		text, ok := besides[name]
		if !ok {
			text = "not about the sandbox"
		}
		im.find(nameAt, name, Ignored, text)
	})
	top := membersOf(&im.root)
	if sandbox := top["sandbox"]; sandbox != nil && !slices.ContainsFunc(im.doc.Filesystem.DenyRead, hidesHome) {
		im.find(sandbox, "sandbox", Tightened, readsAll)
	}
}

// additionalDirectories may be read and written by the agent's tools.
func additionalDirectories(im *importer, v *hujson.Value, key string) {
	for i, e := range im.elements(v, key) {
		at := fmt.Sprintf("%s[%d]", key, i)
		if !im.is(aString, e, at) {
			continue
		}
		p := literally(e.Value.(hujson.Literal).String())
		if text, hint := leaves["path"].checkString(p); text != "" {
			im.report(e, at, text, hint)
			continue
		}
		pos := im.pos(e.StartOffset)
		im.written[pos] = at
		im.doc.Filesystem.AllowWrite = append(im.doc.Filesystem.AllowWrite, Val[string]{V: p, Pos: pos})
		im.find(e, at, Carried, quote(p)+" can be read and written, by every program inside")
	}
	im.find(v, key, Carried, "as filesystem.allowWrite")
}

// permission is a rule of the agent's: "Read(~/.ssh/**)".
type permission struct {
	tool, spec string
	whole      bool // no spec: the tool as such
}

// permissionList reads the rules of one list. What becomes of each is to's.
func permissionList(to func(im *importer, e *hujson.Value, at string, p permission)) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		all := im.elements(v, key)
		for i, e := range all {
			at := fmt.Sprintf("%s[%d]", key, i)
			if im.is(aString, e, at) {
				to(im, e, at, parsePermission(e.Value.(hujson.Literal).String()))
			}
		}
		if len(all) == 0 {
			im.find(v, key, Carried, "empty")
		}
	}}
}

func parsePermission(s string) permission {
	s = strings.TrimSpace(s)
	tool, rest, ok := strings.Cut(s, "(")
	if !ok {
		return permission{tool: s, whole: true}
	}
	spec, closed := strings.CutSuffix(rest, ")")
	if !closed {
		// Known tools only have a spec in brackets: denied refuses this one.
		return permission{tool: s}
	}
	return permission{tool: tool, spec: spec, whole: spec == ""}
}

// name is the rule for messages. A command line may hold a secret and is not
// repeated.
func (p permission) name() string {
	_, file := fileTools[p.tool]
	switch {
	case p.whole:
		return quote(p.tool)
	case file || p.tool == "WebFetch":
		return quote(p.tool + "(" + p.spec + ")")
	}
	tool, _, _ := strings.Cut(p.tool, "(")
	return quote(tool + "(...)")
}

// fileTools are the agent's tools with rules for paths.
var fileTools = map[string]Access{
	"Read": DenyRead, "Glob": DenyRead, "Grep": DenyRead, "LS": DenyRead, "NotebookRead": DenyRead,
	"Edit": DenyWrite, "Write": DenyWrite, "MultiEdit": DenyWrite, "NotebookEdit": DenyWrite,
}

// denied makes a rule of ours of a denial, if it is one of a path or a host.
func (im *importer) denied(e *hujson.Value, at string, p permission) {
	pos := im.pos(e.StartOffset)
	access, file := fileTools[p.tool]
	tool, _, open := strings.Cut(p.tool, "(")
	host, domain := strings.CutPrefix(p.spec, "domain:")
	switch {
	case open:
		im.report(e, at, quote(tool+"(...")+" has no closing bracket at its end", `write "Tool" or "Tool(...)"`)
	case file && !p.whole:
		for _, text := range claudePaths(p.spec) {
			if what := notOurs(text); what != "" {
				im.find(e, at, Lossy, p.name()+" is no path rule here ("+what+"): the agent has to hold it itself")
				return
			}
		}
		for _, text := range claudePaths(p.spec) {
			v := Val[string]{V: text, Pos: pos}
			list := im.doc.paths(access)
			*list = append(*list, v)
			im.absolute = append(im.absolute, absolute{v, access, at})
		}
		switch {
		case p.tool == "Read" || p.tool == "Edit":
			im.find(e, at, Carried, "as filesystem."+string(access)+", for every program inside")
		default:
			im.find(e, at, Tightened, "as filesystem."+string(access)+", for every program inside; the agent itself does not look at "+p.tool+" rules for paths")
		}
	case file && access == DenyWrite:
		im.find(e, at, Lossy, p.name()+` is a tool of the agent's own, which it has to hold itself; to deny writing to every program: "filesystem": {"denyWrite": ["."]}`)
	case p.tool == "WebFetch" && domain:
		if what, _ := leaves["domainDeny"].checkString(host); what != "" {
			im.find(e, at, Lossy, p.name()+" is no rule here ("+what+"): the agent has to hold it itself")
			return
		}
		im.doc.Network.DeniedDomains = append(im.doc.Network.DeniedDomains, Val[string]{V: host, Pos: pos})
		im.find(e, at, Tightened, "as network.deniedDomains, for every program inside and with subdomains")
	case p.tool == "Bash" && !p.whole:
		im.find(e, at, Lossy, p.name()+" is about the words of a command, which the agent has to judge itself; here it is bounded what a command can do")
	default:
		im.find(e, at, Lossy, p.name()+" is about a tool of the agent's own, which it has to hold itself")
	}
}

// asked: the boundary asks nobody.
func (im *importer) asked(e *hujson.Value, at string, p permission) {
	text := p.name() + " is a question of the agent's own; the boundary asks nobody"
	if line := p.ours(false); line != "" {
		text += "; to deny it here: " + line
	}
	im.find(e, at, Lossy, text)
}

// allowed: a prompt that is saved is no right.
func (im *importer) allowed(e *hujson.Value, at string, p permission) {
	text := p.name() + " saves a question of the agent's own; it gives nothing here"
	if line := p.ours(true); line != "" {
		text += "; what would: " + line
	}
	im.find(e, at, Ignored, text)
}

// ours is the line of a policy that would allow or deny what the permission is
// about, or "".
func (p permission) ours(allow bool) string {
	section, key, is, values := "network", "deniedDomains", "domainDeny", []string(nil)
	if access, file := fileTools[p.tool]; file && !p.whole {
		section, key, is, values = "filesystem", string(access), "path", claudePaths(p.spec)
	} else if host, ok := strings.CutPrefix(p.spec, "domain:"); ok && p.tool == "WebFetch" {
		values = []string{host}
	}
	if allow {
		key = map[string]string{"denyRead": "allowRead", "denyWrite": "allowWrite", "deniedDomains": "allowedDomains"}[key]
		is = strings.TrimSuffix(is, "Deny")
	}
	for _, v := range values {
		if text, _ := leaves[is].checkString(v); text != "" || is == "path" && notOurs(v) != "" {
			return ""
		}
	}
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%q: {%q: [%s]}", section, key, strings.Join(quoteAll(values), ", "))
}

// claudePaths turns the path of a permission into rules of ours. It starts like
// "//etc" at the root, "~/x" at the home, "/x", "./x" and "x" at the project, and
// is a pattern as in a gitignore file: a name without a slash is meant at any
// depth. There "{a,b}" is not a choice, but it is what the writer of a denial
// meant: each is denied.
func claudePaths(spec string) []string {
	start, rest := "./", spec
	deep := false
	switch {
	case strings.HasPrefix(spec, "//"):
		start, rest = "/", strings.TrimLeft(spec, "/")
	case spec == "~":
		return []string{"~"}
	case strings.HasPrefix(spec, "~/"):
		start, rest = "~/", spec[2:]
	case strings.HasPrefix(spec, "/"):
		rest = spec[1:]
	case strings.HasPrefix(spec, "./"):
		rest = spec[2:]
	case strings.HasPrefix(spec, "~") || strings.HasPrefix(spec, "!") || strings.HasPrefix(spec, "$"):
		// What this means is not clear; the check of paths says so.
		return []string{spec}
	default:
		deep = !strings.Contains(strings.TrimSuffix(spec, "/"), "/")
	}
	rest = strings.TrimSuffix(wholeTree(strings.TrimSuffix(rest, "/")), "/")
	if rest == "" || rest == "." || rest == "**" {
		if start == "/" {
			return []string{"/"}
		}
		return []string{strings.TrimSuffix(start, "/")}
	}
	if deep && rest != ".." {
		start = "**/"
	}
	var out []string
	for _, r := range choices(rest, 0) {
		if r != "" { // "{a,}"
			out = append(out, start+r)
		}
	}
	if len(out) == 0 {
		return []string{start + rest}
	}
	return out
}

// notOurs is why a pattern of a permission is no path rule of ours, or "".
func notOurs(text string) string {
	if what, _ := leaves["path"].checkString(text); what != "" {
		return what
	}
	if strings.Contains(text, "[:") {
		return "classes like [:alpha:] are not known"
	}
	if i := strings.LastIndex(text+"/", "/../"); i > 0 && glob.HasMeta(text[:i]) {
		return `".." behind a pattern`
	}
	return ""
}

// choices writes out "{a,b}". What is too much, or not closed, stays as it is.
func choices(s string, depth int) []string {
	i := strings.IndexByte(s, '{')
	if i < 0 || depth > 3 || i > 0 && s[i-1] == '\\' {
		return []string{s}
	}
	n := strings.IndexByte(s[i:], '}')
	if n < 0 || !strings.Contains(s[i:i+n], ",") || strings.Contains(s[i+1:i+n], "{") {
		return []string{s}
	}
	var out []string
	for _, alt := range strings.Split(s[i+1:i+n], ",") {
		for _, tail := range choices(s[i+n+1:], depth+1) {
			out = append(out, s[:i]+alt+tail)
		}
	}
	if len(out) > 256 {
		return []string{s}
	}
	return out
}
