package policy

import (
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/tailscale/hujson"

	"cofferdam/internal/glob"
)

// Effect is what became of one key of an imported file.
type Effect string

const (
	Carried   Effect = "carried"   // means the same here
	Tightened Effect = "tightened" // holds here, and more than it says
	Lossy     Effect = "lossy"     // holds in part, or is judged by others
	Weakening Effect = "weakening" // would give up a guarantee; not applied
	Ignored   Effect = "ignored"   // has nothing to do with the boundary
)

// Finding is one key of an imported file and what became of it. No key is left
// out without one.
type Finding struct {
	Key       string `json:"key"`
	Line, Col int
	Effect    Effect `json:"effect"`
	Text      string `json:"text"`
}

// Foreign reports by its shape whether data is another tool's settings: "claude"
// (Claude Code) or "srt" (sandbox-runtime); "" for neither, or for what is no
// JSON, which Parse then says better.
func Foreign(data []byte) string {
	t, err := parseTree("", data)
	if err != nil {
		return ""
	}
	obj, ok := t.root.Value.(*hujson.Object)
	if !ok {
		return ""
	}
	ours := map[string]bool{}
	d := reflect.TypeFor[Document]()
	for i := range d.NumField() {
		name, _, _ := strings.Cut(d.Field(i).Tag.Get("json"), ",")
		ours[name] = true
	}
	top := map[string]*hujson.Value{}
	for i := range obj.Members {
		top[obj.Members[i].Name.Value.(hujson.Literal).String()] = &obj.Members[i].Value
	}
	if top["sandbox"] != nil || top["permissions"] != nil {
		return "claude"
	}
	if top["network"] == nil || top["filesystem"] == nil {
		return ""
	}
	// srt's file has two sections that ours has too. It is srt's if any key in
	// it is srt's alone.
	for name := range top {
		if !ours[name] && tables().srtTop[name] != nil {
			return "srt"
		}
	}
	for section, known := range map[string]map[string]importRule{"network": tables().srtNetwork, "filesystem": tables().srtFilesystem, "credentials": tables().srtCredentials} {
		obj, ok := valueOf(top[section]).(*hujson.Object)
		if !ok {
			continue
		}
		mine := sectionKeys(section)
		for i := range obj.Members {
			name := obj.Members[i].Name.Value.(hujson.Literal).String()
			if !mine[name] && known[name].do != nil {
				return "srt"
			}
		}
	}
	return ""
}

func valueOf(v *hujson.Value) any {
	if v == nil {
		return nil
	}
	return v.Value
}

// sectionKeys are the keys of one of our own sections.
func sectionKeys(section string) map[string]bool {
	keys := map[string]bool{}
	d := reflect.TypeFor[Document]()
	for i := range d.NumField() {
		if name, _, _ := strings.Cut(d.Field(i).Tag.Get("json"), ","); name == section {
			for j := range d.Field(i).Type.NumField() {
				key, _, _ := strings.Cut(d.Field(i).Type.Field(j).Tag.Get("json"), ",")
				keys[key] = true
			}
		}
	}
	return keys
}

// Import turns the settings of another tool into a policy. Unknown keys in what
// speaks of the sandbox are errors, all reported at once.
func Import(file string, data []byte) (doc *Document, kind string, findings []Finding, err error) {
	kind = Foreign(data)
	t, err := parseTree(file, data)
	if err != nil {
		return nil, kind, nil, err
	}
	im := &importer{decoder: decoder{tree: t}, doc: &Document{}}
	switch kind {
	case "claude":
		im.top(&t.root, tables().claudeTop, "not about the sandbox")
	case "srt":
		im.top(&t.root, tables().srtTop, "")
	default:
		return nil, "", nil, Problems{{File: file, Text: "neither Claude Code's nor srt's settings"}}
	}
	if err := im.problems.err(); err != nil {
		return nil, kind, nil, err
	}
	return im.doc, kind, im.findings, nil
}

type importer struct {
	decoder
	doc      *Document
	findings []Finding
}

// importRule says what to do with one key.
type importRule struct {
	do func(im *importer, v *hujson.Value, key string)
}

func (im *importer) find(v *hujson.Value, key string, e Effect, text string) {
	p := im.pos(v.StartOffset)
	im.findings = append(im.findings, Finding{Key: key, Line: p.Line, Col: p.Col, Effect: e, Text: text})
}

// top reads the file's object. A key that nobody knows is reported with others,
// if it is not, an error.
func (im *importer) top(v *hujson.Value, rules map[string]*importRule, others string) {
	im.members(v, "", func(name string, nameAt, value *hujson.Value) {
		if r := rules[name]; r != nil {
			r.do(im, value, name)
			return
		}
		if others != "" {
			im.find(nameAt, name, Ignored, others)
			return
		}
		im.unknown(nameAt, "", name, slices.Sorted(maps.Keys(rules)))
	})
}

func (im *importer) unknown(nameAt *hujson.Value, key, name string, known []string) {
	text, hint := "unknown key", "known are "+strings.Join(known, ", ")
	if n := nearest(name, known); n != "" {
		hint = fmt.Sprintf("did you mean %q?", n)
	}
	im.report(nameAt, join(key, name), text, hint)
}

// section reads one object whose keys are all known.
func section(rules map[string]importRule) *importRule {
	return &importRule{func(im *importer, v *hujson.Value, key string) {
		im.members(v, key, func(name string, nameAt, value *hujson.Value) {
			r, ok := rules[name]
			if !ok {
				im.unknown(nameAt, key, name, slices.Sorted(maps.Keys(rules)))
				return
			}
			r.do(im, value, join(key, name))
		})
	}}
}

func inner(rules map[string]importRule) importRule { return *section(rules) }

// strings reads a list of leaves into a field of the document.
func list(is string, to func(*Document) *[]Val[string]) importRule {
	return importRule{func(im *importer, v *hujson.Value, key string) {
		before := len(im.problems)
		var items []Val[string]
		im.value(reflect.ValueOf(&items).Elem(), v, key, is)
		if len(im.problems) == before {
			field := to(im.doc)
			*field = append(*field, items...)
			im.find(v, key, Carried, "")
		}
	}}
}

// paths reads a list of paths. An entry may be an object with a literal path.
func paths(to func(*Document) *[]Val[string]) importRule {
	return importRule{func(im *importer, v *hujson.Value, key string) {
		arr, ok := v.Value.(*hujson.Array)
		if !ok {
			im.report(v, key, "a list is wanted here, not "+kindName(v), "")
			return
		}
		field := to(im.doc)
		for i := range arr.Elements {
			e := &arr.Elements[i]
			at := fmt.Sprintf("%s[%d]", key, i)
			literal := false
			if obj, ok := e.Value.(*hujson.Object); ok {
				for j := range obj.Members {
					if obj.Members[j].Name.Value.(hujson.Literal).String() == "path" {
						e, literal = &obj.Members[j].Value, true
					}
				}
			}
			var item Val[string]
			im.value(reflect.ValueOf(&item).Elem(), e, at, "path")
			if literal {
				item.V = glob.Escape(item.V)
			}
			if item.V != "" {
				*field = append(*field, item)
			}
		}
		im.find(v, key, Carried, "")
	}}
}

// told is a key that changes nothing here, with the reason.
func told(e Effect, text string) importRule {
	return importRule{func(im *importer, v *hujson.Value, key string) { im.find(v, key, e, text) }}
}

// wants is a switch: the good value is carried, the other one would weaken.
func wants(good bool, text string) importRule {
	return importRule{func(im *importer, v *hujson.Value, key string) {
		lit, ok := v.Value.(hujson.Literal)
		switch {
		case !ok || lit.Kind() != 't' && lit.Kind() != 'f':
			im.report(v, key, "true or false is wanted here, not "+kindName(v), "")
		case lit.Bool() == good:
			im.find(v, key, Carried, "always so here")
		default:
			im.find(v, key, Weakening, text)
		}
	}}
}

// credentials of both tools: "deny" is carried, "mask" becomes deny.
func credentials(nameKey, is string, add func(*Document, Val[string])) importRule {
	return importRule{func(im *importer, v *hujson.Value, key string) {
		arr, ok := v.Value.(*hujson.Array)
		if !ok {
			im.report(v, key, "a list is wanted here, not "+kindName(v), "")
			return
		}
		for i := range arr.Elements {
			at := fmt.Sprintf("%s[%d]", key, i)
			var name Val[string]
			mode := "deny"
			im.members(&arr.Elements[i], at, func(n string, nameAt, value *hujson.Value) {
				switch n {
				case nameKey:
					im.value(reflect.ValueOf(&name).Elem(), value, join(at, n), is)
				case "mode":
					if lit, ok := value.Value.(hujson.Literal); ok && lit.Kind() == '"' {
						mode = lit.String()
					}
					if mode != "deny" && mode != "mask" {
						im.report(value, join(at, n), quote(mode)+" is not a known value", `write "deny" or "mask"`)
					}
				case "extract", "onExtractNoMatch", "decode", "maskClaims", "injectHosts", "maskDuplicates":
					im.find(value, join(at, n), Tightened, "belongs to masking, which needs the gateway: the secret is denied as a whole")
				default:
					im.unknown(nameAt, at, n, []string{nameKey, "mode", "extract", "injectHosts"})
				}
			})
			if name.V == "" {
				continue
			}
			add(im.doc, name)
			if mode == "mask" {
				im.find(&arr.Elements[i], at, Tightened, "a masked secret needs the gateway, which is not there yet: it is denied")
			}
		}
		im.find(v, key, Carried, "")
	}}
}

var credentialFiles = credentials("path", "path", func(d *Document, v Val[string]) {
	d.Credentials.Files = append(d.Credentials.Files, CredentialFile{Path: v})
})

var credentialVars = credentials("name", "envDeny", func(d *Document, v Val[string]) {
	d.Credentials.EnvVars = append(d.Credentials.EnvVars, CredentialVar{Name: v})
})

// domains of both tools; a name that we refuse is an error there too.
var (
	allowedDomains = list("domain", func(d *Document) *[]Val[string] { return &d.Network.AllowedDomains })
	deniedDomains  = list("domainDeny", func(d *Document) *[]Val[string] { return &d.Network.DeniedDomains })
	allowRead      = paths(func(d *Document) *[]Val[string] { return &d.Filesystem.AllowRead })
	denyRead       = paths(func(d *Document) *[]Val[string] { return &d.Filesystem.DenyRead })
	allowWrite     = paths(func(d *Document) *[]Val[string] { return &d.Filesystem.AllowWrite })
	denyWrite      = paths(func(d *Document) *[]Val[string] { return &d.Filesystem.DenyWrite })
)

const noSockets = "unix sockets of the host are out of reach here"

// importTables are what is known of other tools' settings.
type importTables struct {
	srtNetwork, srtFilesystem, srtCredentials map[string]importRule
	srtTop, claudeTop                         map[string]*importRule
}

// tables are built when a file is imported; every start pays for what a package
// builds before.
var tables = sync.OnceValue(func() importTables {
	// srt's settings file.
	srtNetwork := map[string]importRule{
		"allowedDomains": allowedDomains, "deniedDomains": deniedDomains,
		"deniedDomainReasons":     told(Lossy, "the reasons are not shown yet; the rules hold"),
		"strictAllowlist":         told(Carried, "a list is always strict here"),
		"deniedResolvedAddresses": told(Tightened, "no address outside can be reached"),
		"allowUnixSockets":        told(Weakening, noSockets), "allowAllUnixSockets": told(Weakening, noSockets),
		"allowLocalBinding": told(Carried, "servers inside can be reached from inside; the host's loopback can't"),
		"allowMachLookup":   told(Ignored, "macOS only"),
		"httpProxyPort":     told(Weakening, "there is no way to a proxy outside"), "socksProxyPort": told(Weakening, "there is no way to a proxy outside"),
		"mitmProxy": told(Tightened, "needs the gateway"), "parentProxy": told(Tightened, "needs the gateway"), "tlsTerminate": told(Tightened, "needs the gateway"),
		"allowPlaintextHeaderSet": told(Tightened, "needs the gateway"), "stripResponseHeaders": told(Tightened, "needs the gateway"),
		"refuseOpaqueTunnels": told(Tightened, "needs the gateway"), "requireHostMatch": told(Tightened, "needs the gateway"), "ambiguousRequestTarget": told(Tightened, "needs the gateway"),
	}
	srtFilesystem := map[string]importRule{
		"denyRead": denyRead, "allowRead": allowRead, "allowWrite": allowWrite, "denyWrite": denyWrite,
		"allowGitConfig": {func(im *importer, v *hujson.Value, key string) {
			im.value(reflect.ValueOf(&im.doc.Filesystem.AllowGitConfig).Elem(), v, key, "bool")
			im.find(v, key, Carried, "")
		}},
		"disabled": wants(false, "file rules can't be switched off"),
	}
	srtCredentials := map[string]importRule{
		"files": credentialFiles, "envVars": credentialVars,
		"awsPairs": told(Tightened, "needs the gateway: the credentials are not there inside"), "sigv4": told(Tightened, "needs the gateway"),
		"allowPlaintextInject": told(Tightened, "needs the gateway"),
	}
	srtTop := map[string]*importRule{
		"network": section(srtNetwork), "filesystem": section(srtFilesystem), "credentials": section(srtCredentials),
		"ignoreViolations":             ref(told(Ignored, "changes reports only")),
		"enableWeakerNestedSandbox":    ref(wants(false, "a weaker boundary is never a fallback here")),
		"allowNestedUserNamespaces":    ref(wants(false, "user namespaces inside would open the kernel's mount and network code to the inside")),
		"enableWeakerNetworkIsolation": ref(wants(false, "macOS only, and weaker")),
		"allowAppleEvents":             ref(told(Ignored, "macOS only")),
		"allowPty":                     ref(told(Ignored, "the inside has terminals of its own")),
		"mandatoryDenySearchDepth":     ref(told(Tightened, "names are protected at every depth")),
		"ripgrep":                      ref(told(Ignored, "no helper program is used")), "bwrapPath": ref(told(Ignored, "no helper program is used")),
		"socatPath": ref(told(Ignored, "no helper program is used")), "seccomp": ref(told(Ignored, "no helper program is used")),
		"javaAgentJarPath": ref(told(Ignored, "no helper program is used")), "windows": ref(told(Ignored, "Windows only")),
		"git": ref(told(Ignored, "git inside sees the user as the owner")),
	}

	// Claude Code's settings file.
	claudeSandbox := map[string]importRule{
		"enabled":                  wants(true, "the boundary can't be switched off"),
		"failIfUnavailable":        wants(true, "nothing starts without its boundary, whatever this says"),
		"allowUnsandboxedCommands": wants(false, "nothing ever runs outside the boundary"),
		"autoAllowBashIfSandboxed": told(Ignored, "a permission prompt of the agent's own"),
		"excludedCommands":         told(Weakening, "nothing ever runs outside the boundary"),
		"filesystem": inner(map[string]importRule{
			"denyRead": denyRead, "allowRead": allowRead, "allowWrite": allowWrite, "denyWrite": denyWrite,
			"disabled": wants(false, "file rules can't be switched off"), "allowManagedReadPathsOnly": told(Lossy, "an organisation's policy goes to "+ManagedFile),
			"allowGitConfig": {func(im *importer, v *hujson.Value, key string) {
				im.value(reflect.ValueOf(&im.doc.Filesystem.AllowGitConfig).Elem(), v, key, "bool")
				im.find(v, key, Carried, "")
			}},
		}),
		"network": inner(map[string]importRule{
			"allowedDomains": allowedDomains, "deniedDomains": deniedDomains,
			"strictAllowlist":         told(Carried, "a list is always strict here"),
			"allowManagedDomainsOnly": told(Lossy, "an organisation's policy goes to "+ManagedFile),
			"allowUnixSockets":        told(Weakening, noSockets), "allowAllUnixSockets": told(Weakening, noSockets),
			"allowLocalBinding": told(Carried, "servers inside can be reached from inside; the host's loopback can't"),
			"allowMachLookup":   told(Ignored, "macOS only"),
			"httpProxyPort":     told(Weakening, "there is no way to a proxy outside"), "socksProxyPort": told(Weakening, "there is no way to a proxy outside"),
			"tlsTerminate": told(Tightened, "needs the gateway"), "deniedResolvedAddresses": told(Tightened, "no address outside can be reached"),
		}),
		"credentials":                  inner(srtCredentials),
		"ignoreViolations":             told(Ignored, "changes reports only"),
		"enableWeakerNestedSandbox":    wants(false, "a weaker boundary is never a fallback here"),
		"allowNestedUserNamespaces":    wants(false, "user namespaces inside would open the kernel's mount and network code to the inside"),
		"enableWeakerNetworkIsolation": wants(false, "macOS only, and weaker"),
		"allowAppleEvents":             told(Ignored, "macOS only"),
		"ripgrep":                      told(Ignored, "no helper program is used"), "bwrapPath": told(Ignored, "no helper program is used"), "socatPath": told(Ignored, "no helper program is used"),
		"enabledPlatforms": told(Ignored, "the boundary is on wherever cofferdam runs"),
	}
	claudePermissions := map[string]importRule{
		"deny": {permissions(true)}, "ask": {permissions(false)}, "allow": {permissions(false)},
		"defaultMode":                  told(Ignored, "the agent's own prompts; the boundary holds in every mode"),
		"disableBypassPermissionsMode": told(Ignored, "the agent's own prompts"), "disableAutoMode": told(Ignored, "the agent's own prompts"),
		"additionalDirectories":                paths(func(d *Document) *[]Val[string] { return &d.Filesystem.AllowWrite }),
		"blockReadsOutsideWorkingDirectories":  told(Tightened, "what nobody allowed is not there inside"),
		"blockWritesOutsideWorkingDirectories": told(Carried, "only the workspace and what is allowed can be written"),
		"denyInsteadOfPrompting":               told(Ignored, "the agent's own prompts"),
	}
	claudeTop := map[string]*importRule{
		"sandbox": section(claudeSandbox), "permissions": section(claudePermissions),
	}
	return importTables{srtNetwork, srtFilesystem, srtCredentials, srtTop, claudeTop}
})

func ref(r importRule) *importRule { return &r }

// permissions reads rules like "Read(~/.ssh/**)". A deny of a path is a rule of
// ours too; everything else is the agent's to ask about.
func permissions(deny bool) func(im *importer, v *hujson.Value, key string) {
	return func(im *importer, v *hujson.Value, key string) {
		arr, ok := v.Value.(*hujson.Array)
		if !ok {
			im.report(v, key, "a list is wanted here, not "+kindName(v), "")
			return
		}
		for i := range arr.Elements {
			e := &arr.Elements[i]
			at := fmt.Sprintf("%s[%d]", key, i)
			lit, ok := e.Value.(hujson.Literal)
			if !ok || lit.Kind() != '"' {
				im.report(e, at, "a string is wanted here, not "+kindName(e), "")
				continue
			}
			im.permission(e, at, lit.String(), deny)
		}
		if len(arr.Elements) == 0 {
			im.find(v, key, Carried, "empty")
		}
	}
}

func (im *importer) permission(e *hujson.Value, at, rule string, deny bool) {
	tool, spec, _ := strings.Cut(rule, "(")
	spec = strings.TrimSuffix(spec, ")")
	pos := im.pos(e.StartOffset)
	switch {
	case !deny:
		im.find(e, at, Ignored, quote(rule)+" is a question of the agent's own; it gives nothing here")
	case (tool == "Read" || tool == "Edit" || tool == "Write") && spec != "":
		p := claudePath(spec)
		if text, _ := leaves["path"].checkString(p); text != "" {
			im.find(e, at, Lossy, quote(rule)+" is no path rule here: "+text)
			return
		}
		if tool == "Read" {
			im.doc.Filesystem.DenyRead = append(im.doc.Filesystem.DenyRead, Val[string]{V: p, Pos: pos})
		} else {
			im.doc.Filesystem.DenyWrite = append(im.doc.Filesystem.DenyWrite, Val[string]{V: p, Pos: pos})
		}
		im.find(e, at, Carried, "")
	case tool == "WebFetch" && strings.HasPrefix(spec, "domain:"):
		host := strings.TrimPrefix(spec, "domain:")
		if text, _ := leaves["domainDeny"].checkString(host); text != "" {
			im.find(e, at, Lossy, quote(rule)+" is no rule here: "+text)
			return
		}
		im.doc.Network.DeniedDomains = append(im.doc.Network.DeniedDomains, Val[string]{V: host, Pos: pos})
		im.find(e, at, Tightened, "holds for every program, not for one tool only")
	default:
		im.find(e, at, Lossy, quote(rule)+" is about a tool of the agent's own, which it has to hold itself")
	}
}

// claudePath turns a path of a permission rule into one of ours: "//x" is
// absolute, "~/x" the home, "/x", "./x" and "x" the project; a bare name is meant
// at any depth, as in a gitignore file.
func claudePath(spec string) string {
	spec = strings.TrimSuffix(spec, "/**")
	switch {
	case strings.HasPrefix(spec, "//"):
		return path.Clean(spec[1:])
	case spec == "~" || strings.HasPrefix(spec, "~/"):
		return spec
	case strings.HasPrefix(spec, "/"):
		return "." + spec
	case strings.HasPrefix(spec, "./"):
		return spec
	case !strings.Contains(spec, "/") && spec != "":
		return "**/" + spec
	}
	return "./" + spec
}
