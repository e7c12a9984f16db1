package policy

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
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
	Key    string `json:"key"`
	Line   int    `json:"line"`
	Col    int    `json:"col"`
	Effect Effect `json:"effect"`
	Text   string `json:"text,omitempty"`
}

// Foreign reports by its shape whether data is another tool's settings: "claude"
// (Claude Code) or "srt" (sandbox-runtime); "" for neither, or for what is no
// JSON, which Parse then says better.
func Foreign(data []byte) string {
	t, err := parseTree("", data)
	if err != nil {
		return ""
	}
	return kindOf(&t.root)
}

func kindOf(root *hujson.Value) string {
	top := membersOf(root)
	if top["sandbox"] != nil || top["permissions"] != nil {
		return "claude"
	}
	if top["network"] == nil || top["filesystem"] == nil {
		return ""
	}
	// srt's file has sections that ours has too. It is srt's if any key in it
	// is srt's alone.
	srt, ours := tables().srt, keysOf(reflect.TypeFor[Document]())
	for name, v := range top {
		if srt[name].read == nil {
			continue
		}
		mine, shared := ours[name]
		if !shared {
			return "srt"
		}
		for key := range membersOf(v) {
			if srt[name].inside[key].read != nil && !slices.Contains(mine, key) {
				return "srt"
			}
		}
	}
	return ""
}

func membersOf(v *hujson.Value) map[string]*hujson.Value {
	members := map[string]*hujson.Value{}
	if obj, ok := v.Value.(*hujson.Object); ok {
		for i := range obj.Members {
			members[obj.Members[i].Name.Value.(hujson.Literal).String()] = &obj.Members[i].Value
		}
	}
	return members
}

// keysOf are the keys of our own format, with the keys inside each.
func keysOf(t reflect.Type) map[string][]string {
	keys := map[string][]string{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		keys[name] = nil
		if t.Field(i).Type.Kind() == reflect.Struct {
			keys[name] = slices.Collect(maps.Keys(keysOf(t.Field(i).Type)))
		}
	}
	return keys
}

// Import turns the settings of another tool into a policy. Each value keeps its
// place in the imported file. Unknown keys in what speaks of the sandbox are
// errors, all reported at once, as Problems; so is a rule that can't be read.
// What would weaken the boundary is reported and not applied.
func Import(file string, data []byte) (doc *Document, kind string, findings []Finding, err error) {
	return importAt(Place{}, file, data)
}

// importAt is Import for a run, where it is known where home and workspace are.
func importAt(place Place, file string, data []byte) (doc *Document, kind string, findings []Finding, err error) {
	t, err := parseTree(file, data)
	if err != nil {
		return nil, "", nil, err
	}
	kind = kindOf(&t.root)
	im := &importer{decoder: decoder{tree: t}, place: place, doc: &Document{}, written: map[Pos]string{}}
	switch kind {
	case "claude":
		im.claude()
	case "srt":
		im.srt()
	default:
		return nil, "", nil, Problems{{File: file, Text: "neither Claude Code's nor srt's settings",
			Hint: `Claude Code's have "sandbox" or "permissions" at the top, srt's "network" and "filesystem"`}}
	}
	im.settle()
	if err := im.problems.err(); err != nil {
		return nil, kind, nil, err
	}
	slices.SortStableFunc(im.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return im.doc, kind, im.findings, nil
}

// importer reads a foreign file along tables of rules.
type importer struct {
	decoder
	place    Place // zero if it is not known
	doc      *Document
	findings []Finding
	wrong    int            // problems of values, beyond those that are listed too
	written  map[Pos]string // the key of each path
	// absolute are denials that no allowance takes anything out of, however
	// specific it is. We have no such rule, see settle.
	absolute []absolute
}

// rule says what to do with one key. A rule reports a problem or a finding,
// always.
type rule struct {
	read func(im *importer, v *hujson.Value, key string)
	// inside are the rules of an object's own keys.
	inside rules
}

type rules map[string]rule

// importTables are what is known of other tools' settings.
type importTables struct {
	srt, claude rules
}

// tables are built when a file is imported; every start pays for what a package
// builds before.
var tables = sync.OnceValue(func() importTables { return importTables{srt: srtRules(), claude: claudeRules()} })

func (im *importer) find(v *hujson.Value, key string, e Effect, text string) {
	im.findAt(im.pos(v.StartOffset), key, e, text)
}

func (im *importer) findAt(p Pos, key string, e Effect, text string) {
	im.findings = append(im.findings, Finding{Key: key, Line: p.Line, Col: p.Col, Effect: e, Text: text})
}

// keys reads an object by its rules. Who knows better what to do with a key that
// has none passes others.
func (im *importer) keys(v *hujson.Value, key string, known rules, others func(name string, nameAt, value *hujson.Value)) {
	empty := true
	ok := im.members(v, key, func(name string, nameAt, value *hujson.Value) {
		empty = false
		switch r := known[name]; {
		case r.read != nil:
			r.read(im, value, join(key, name))
		case others != nil:
			others(name, nameAt, value)
		default:
			im.unknown(nameAt, key, name, slices.Sorted(maps.Keys(known)))
		}
	})
	if ok && empty && key != "" {
		im.find(v, key, Carried, "empty")
	}
}

func (im *importer) unknown(nameAt *hujson.Value, key, name string, known []string) {
	hint := "known are " + strings.Join(known, ", ")
	if n := nearest(name, known); n != "" {
		hint = fmt.Sprintf("did you mean %q?", n)
	}
	im.report(nameAt, join(key, name), "unknown key", hint)
}

// section is an object whose keys are all known.
func section(inside rules) rule {
	return rule{inside: inside, read: func(im *importer, v *hujson.Value, key string) { im.keys(v, key, inside, nil) }}
}

// shape is what a value that changes nothing here has to look like all the same:
// a string where a list belongs is a mistake, whoever reads it.
type shape string

const (
	aBool    shape = "true or false"
	aString  shape = "a string"
	aNumber  shape = "a number"
	aPort    shape = "a port" // 1 to 65535
	aTable   shape = "an object"
	strs     shape = "a list of strings"
	aList    shape = "a list"
	anything shape = ""
)

// is reports what doesn't look like the shape.
func (im *importer) is(s shape, v *hujson.Value, key string) bool {
	before := im.wrong
	wanted := func(want shape) {
		if string(want) != kindName(v) {
			im.report(v, key, string(want)+" is wanted here, not "+kindName(v), "")
		}
	}
	switch s {
	case anything:
		if kindName(v) == "null" {
			im.report(v, key, "a value is wanted here, not null", "leave the key out")
		}
	case aPort:
		wanted(aNumber)
		if lit, ok := v.Value.(hujson.Literal); ok && lit.Kind() == '0' {
			if n, err := strconv.ParseUint(string(lit), 10, 16); err != nil || n == 0 {
				im.report(v, key, quote(string(lit))+" is not a port", "1 to 65535")
			}
		}
	case strs:
		for i, e := range im.elements(v, key) {
			im.is(aString, e, fmt.Sprintf("%s[%d]", key, i))
		}
	default:
		wanted(s)
	}
	return im.wrong == before
}

// report counts, for the list of problems has an end.
func (im *importer) report(v *hujson.Value, key, text, hint string) {
	im.wrong++
	im.decoder.report(v, key, text, hint)
}

// elements are those of a list; what is none is reported.
func (im *importer) elements(v *hujson.Value, key string) []*hujson.Value {
	arr, ok := v.Value.(*hujson.Array)
	if !ok {
		im.report(v, key, "a list is wanted here, not "+kindName(v), "")
		return nil
	}
	out := make([]*hujson.Value, len(arr.Elements))
	for i := range arr.Elements {
		out[i] = &arr.Elements[i]
	}
	return out
}

// told is a key that changes nothing here, with the reason.
func told(s shape, e Effect, text string) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		if im.is(s, v, key) {
			im.find(v, key, e, text)
		}
	}}
}

// toldAll is an object of which no key changes anything here.
func toldAll(e Effect, text string, keys map[string]shape) rule {
	inside := rules{}
	for name, s := range keys {
		inside[name] = told(s, e, text)
	}
	return section(inside)
}

// toldEach is a table with names of the writer's choice.
func toldEach(s shape, e Effect, text string) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		im.keys(v, key, nil, func(name string, _, value *hujson.Value) {
			if im.is(s, value, join(key, name)) {
				im.find(value, join(key, name), e, text)
			}
		})
	}}
}

// wants is a switch: one value is how it always is here, the other one has the
// effect and is not applied.
func wants(good bool, e Effect, text string) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		switch {
		case !im.is(aBool, v, key):
		case v.Value.(hujson.Literal).Bool() == good:
			im.find(v, key, Carried, "so it is here")
		default:
			im.find(v, key, e, text)
		}
	}}
}

// grants is a list of rights that we don't give.
func grants(s shape, e Effect, text string) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		switch {
		case !im.is(s, v, key):
		case len(v.Value.(*hujson.Array).Elements) == 0:
			im.find(v, key, Carried, "empty")
		default:
			im.find(v, key, e, text)
		}
	}}
}

// domains reads a list of hosts. One that we refuse to allow because it would
// take in strangers is left out; one that is none is a mistake.
func domains(is, text string, to func(*Document) *[]Val[string]) rule {
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		for i, e := range im.elements(v, key) {
			at := fmt.Sprintf("%s[%d]", key, i)
			if lit, ok := e.Value.(hujson.Literal); ok && lit.Kind() == '"' {
				s := lit.String()
				if wide, _ := leaves["domain"].checkString(s); is == "domain" && wide != "" && domainMatch.MatchString(s) && strings.HasPrefix(s, "*") {
					im.find(e, at, Weakening, wide+"; name the hosts that are needed")
					continue
				}
			}
			var host Val[string]
			im.text(&host, e, at, is)
			field := to(im.doc)
			*field = append(*field, host)
		}
		im.find(v, key, Carried, text)
	}}
}

var (
	allowedDomains = domains("domain", "", func(d *Document) *[]Val[string] { return &d.Network.AllowedDomains })
	deniedDomains  = domains("domainDeny", "subdomains are denied too", func(d *Document) *[]Val[string] { return &d.Network.DeniedDomains })
)

// paths reads one of the four lists of paths, which have the same names in all
// three formats. An entry is a string or {path, literal}.
func paths(access Access) rule {
	text := map[Access]string{DenyRead: "can't be written either", AllowWrite: "can be read too"}[access]
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		field := im.doc.paths(access)
		for i, e := range im.elements(v, key) {
			at := fmt.Sprintf("%s[%d]", key, i)
			p, ok := im.path(e, at)
			if !ok {
				continue
			}
			if pattern, err := glob.Compile(p.V); err == nil {
				if _, plain := pattern.Literal(); !plain && access == AllowWrite {
					// Both tools pass over it on Linux, so it gives nothing there.
					im.find(e, at, Lossy, quote(p.V)+" is a pattern, which gives nothing there on Linux either: left out; name the directories, or write the pattern in a policy of ours")
					continue
				} else if !plain && access == DenyWrite {
					im.find(e, at, Tightened, quote(p.V)+" holds here; it is a pattern, which does nothing there on Linux")
				}
			}
			*field = append(*field, p)
			if access == DenyWrite {
				// There it wins over every allowance.
				im.absolute = append(im.absolute, absolute{p, DenyWrite, at})
			}
		}
		im.find(v, key, Carried, text)
	}}
}

func (d *Document) paths(access Access) *[]Val[string] {
	switch access {
	case AllowRead:
		return &d.Filesystem.AllowRead
	case DenyRead:
		return &d.Filesystem.DenyRead
	case AllowWrite:
		return &d.Filesystem.AllowWrite
	}
	return &d.Filesystem.DenyWrite
}

// path reads an entry of a list of paths.
func (im *importer) path(v *hujson.Value, key string) (Val[string], bool) {
	raw := v
	literal := false
	if _, ok := v.Value.(*hujson.Object); ok {
		raw = nil
		im.members(v, key, func(name string, nameAt, value *hujson.Value) {
			switch name {
			case "path":
				raw = value
			case "literal":
				if im.is(aBool, value, join(key, name)) {
					literal = value.Value.(hujson.Literal).Bool()
				}
			default:
				im.unknown(nameAt, key, name, []string{"literal", "path"})
			}
		})
		if raw == nil {
			im.report(v, key, `"path" is missing`, "")
			return Val[string]{}, false
		}
	}
	if !im.is(aString, raw, key) {
		return Val[string]{}, false
	}
	s := raw.Value.(hujson.Literal).String()
	if literal {
		s = literally(s)
	} else {
		s = wholeTree(s)
	}
	if text, hint := leaves["path"].checkString(s); text != "" {
		im.report(raw, key, text, hint)
		return Val[string]{}, false
	}
	at := im.pos(raw.StartOffset)
	im.written[at] = key
	return Val[string]{V: s, Pos: at}, true
}

// literally writes a path so that no character in it means anything but itself.
func literally(s string) string {
	s = strings.ReplaceAll(glob.Escape(s), "{", `\{`)
	if s != "" && (s[0] == '!' || s[0] == '$' || s[0] == '~' && len(s) > 1 && s[1] != '/') {
		s = "./" + s
	}
	return s
}

// wholeTree drops "/**" from the end: a path speaks for all below it anyway, and
// a path is cheaper to enforce than a pattern.
func wholeTree(s string) string {
	switch t := strings.TrimSuffix(s, "/**"); {
	case s == "**":
		return "."
	case t == s:
		return s
	case t == "":
		return "/"
	default:
		return wholeTree(t)
	}
}

// masked is an entry of credentials in both tools, as far as masking goes.
type masked struct {
	name, mode Val[string]
	hosts      []Val[string]
	extract    *Val[string]
	// not is why it can't be masked here, "" if it can.
	not string
}

// credentials of both tools. "mask" is carried if all that it says means the same here;
// else it becomes "deny", since half a mask is none.
func credentials(nameKey, is string, add func(*importer, masked, string)) rule {
	known := []string{"decode", "extract", "injectHosts", "maskClaims", "maskDuplicates", "mode", nameKey, "onExtractNoMatch"}
	slices.Sort(known)
	return rule{read: func(im *importer, v *hujson.Value, key string) {
		for i, e := range im.elements(v, key) {
			at := fmt.Sprintf("%s[%d]", key, i)
			m := masked{mode: Val[string]{V: modeDeny, Pos: im.pos(e.StartOffset)}}
			named := false
			var mode *hujson.Value
			other := func(because string) {
				if m.not == "" {
					m.not = because
				}
			}
			ok := im.members(e, at, func(n string, nameAt, value *hujson.Value) {
				text := func() (string, bool) {
					if !im.is(aString, value, join(at, n)) {
						return "", false
					}
					return value.Value.(hujson.Literal).String(), true
				}
				switch n {
				case nameKey:
					named = true
					im.text(&m.name, value, join(at, n), is)
				case "mode":
					s, ok := text()
					switch {
					case !ok:
					case s == modeMask:
						mode = value
						m.mode = Val[string]{V: s, Pos: im.pos(value.StartOffset)}
					case s == modeDeny:
						m.mode.Pos = im.pos(value.StartOffset)
					default:
						im.report(value, join(at, n), quote(s)+" is not a known value", `write "deny" or "mask"`)
					}
				case "injectHosts":
					for j, h := range im.elements(value, join(at, n)) {
						if !im.is(aString, h, fmt.Sprintf("%s[%d]", join(at, n), j)) {
							continue
						}
						host := Val[string]{V: h.Value.(hujson.Literal).String(), Pos: im.pos(h.StartOffset)}
						if text, _ := leaves["maskHost"].checkString(host.V); text != "" {
							other(text)
							continue
						}
						m.hosts = append(m.hosts, host)
					}
				case "extract":
					if s, ok := text(); ok {
						m.extract = &Val[string]{V: s, Pos: im.pos(value.StartOffset)}
						if what, _ := checkExtract(s); what != "" {
							other(what)
						} else if nameKey == "name" {
							other("only a whole variable can be masked here")
						}
					}
				case "onExtractNoMatch":
					if s, ok := text(); ok && s != "error" {
						im.find(value, join(at, n), Tightened, "a secret that is not found where it should be stops the start here")
					}
				case "decode":
					if _, ok := text(); ok {
						other("a placeholder is no token that can be decoded here")
					}
				case "maskClaims":
					if im.is(strs, value, join(at, n)) {
						other("a placeholder is no token that can be decoded here")
					}
				case "maskDuplicates":
					im.find(value, join(at, n), Carried, "every copy of the secret in its file is masked, and in no other file")
				default:
					im.unknown(nameAt, at, n, known)
				}
			})
			switch {
			case !ok:
				continue
			case !named:
				im.report(e, at, fmt.Sprintf("%q is missing", nameKey), "")
				continue
			case mode == nil:
			case m.not == "" && len(m.hosts) == 0 && (nameKey == "path" || len(keyHosts(m.name.V)) == 0):
				other("it does not say for which hosts (injectHosts)")
			case m.not == "" && signer(m.name.V) != "":
				other(signer(m.name.V) + ", which is not done here")
			case m.not == "" && (glob.HasMeta(m.name.V) || nameKey == "name" && strings.HasSuffix(m.name.V, "*")):
				other("it stands for more than one")
			}
			if mode != nil && m.not != "" {
				m.mode.V = modeDeny
				im.find(mode, join(at, "mode"), Tightened, "it is denied as a whole: "+m.not)
			}
			if m.mode.V == modeDeny {
				m.hosts, m.extract = nil, nil
			}
			add(im, m, join(at, nameKey))
		}
		im.find(v, key, Carried, "")
	}}
}

var credentialRules = rules{
	"files": credentials("path", "path", func(im *importer, m masked, key string) {
		m.name.V = wholeTree(m.name.V)
		im.doc.Credentials.Files = append(im.doc.Credentials.Files, CredentialFile{Path: m.name, Mode: &m.mode, Hosts: m.hosts, Extract: m.extract})
		if m.mode.V == modeDeny {
			im.absolute = append(im.absolute, absolute{m.name, DenyRead, key})
		}
	}),
	"envVars": credentials("name", "envDeny", func(im *importer, m masked, _ string) {
		im.doc.Credentials.EnvVars = append(im.doc.Credentials.EnvVars, CredentialVar{Name: m.name, Mode: &m.mode, Hosts: m.hosts})
	}),
	"awsPairs":             grants(aList, Tightened, "requests are not signed anew here: the credentials are not there inside"),
	"sigv4":                toldAll(Tightened, "requests are not signed anew here", map[string]shape{"streaming": anything, "presigned": anything, "sigv4a": anything}),
	"allowPlaintextInject": wants(false, Weakening, "a secret never goes over a connection that others can read"),
}

const (
	needsGateway = "needs the gateway, which is not there yet: no connection leaves"
	ownAuthority = "TLS is opened here where a rule needs it, by an authority of the session's own; of the hosts in excludeDomains, those that are allowed can be named in network.tunnelDomains"
	noProxy      = "there is no way to a proxy outside: with it, others decide where a command connects to"
	noHelper     = "no helper program is used"
	macOnly      = "macOS only"
	noSockets    = "unix sockets of the host are out of reach here"
)

// networkRules are those that both tools have.
func networkRules() rules {
	return rules{
		"allowedDomains": allowedDomains, "deniedDomains": deniedDomains,
		"strictAllowlist":         wants(true, Tightened, "hosts that no rule names are denied here; to be asked about them: \"network\": {\"unlisted\": \"ask\"}"),
		"deniedResolvedAddresses": grants(strs, Lossy, "not carried; no connection leaves in this version"),
		"allowUnixSockets":        grants(strs, Tightened, noSockets),
		"allowAllUnixSockets":     wants(false, Weakening, noSockets),
		"allowLocalBinding":       told(aBool, Carried, "servers inside can be reached from inside; the host's loopback can't"),
		"allowMachLookup":         told(strs, Ignored, macOnly),
		"httpProxyPort":           told(aPort, Weakening, noProxy), "socksProxyPort": told(aPort, Weakening, noProxy),
		"mitmProxy":   toldAll(Weakening, noProxy, map[string]shape{"socketPath": aString, "domains": strs}),
		"parentProxy": toldAll(Lossy, needsGateway, map[string]shape{"http": aString, "https": aString, "noProxy": anything}),
		"tlsTerminate": toldAll(Tightened, ownAuthority, map[string]shape{
			"caCertPath": aString, "caKeyPath": aString, "excludeDomains": strs, "extraCaCertPaths": strs, "maxTunnels": aNumber, "handshakeTimeoutMs": aNumber,
		}),
	}
}

// filesystemRules are those that both tools have.
func filesystemRules() rules {
	return rules{
		"denyRead": paths(DenyRead), "allowRead": paths(AllowRead), "allowWrite": paths(AllowWrite), "denyWrite": paths(DenyWrite),
		"disabled":       wants(false, Weakening, "file rules can't be switched off"),
		"allowGitConfig": wants(false, Weakening, `git on your side runs programs that .git/config names; if that is what you want, say "filesystem": {"allowGitConfig": true} in a policy of ours`),
	}
}

// commonRules are what both tools have beside their sections.
func commonRules() rules {
	const weaker = "a weaker boundary is never a fallback here"
	return rules{
		"ignoreViolations":             toldEach(strs, Ignored, "changes reports only; all that is refused is reported here"),
		"enableWeakerNestedSandbox":    wants(false, Tightened, weaker),
		"allowNestedUserNamespaces":    wants(false, Tightened, "user namespaces inside would open the kernel's mount and network code to the inside"),
		"enableWeakerNetworkIsolation": wants(false, Tightened, macOnly+"; "+weaker),
		"allowAppleEvents":             told(aBool, Ignored, macOnly),
		"ripgrep":                      toldAll(Ignored, noHelper, map[string]shape{"command": aString, "args": strs, "argv0": aString}),
		"bwrapPath":                    told(aString, Ignored, noHelper), "socatPath": told(aString, Ignored, noHelper),
	}
}

// with is one table of several.
func with(tables ...rules) rules {
	out := rules{}
	for _, t := range tables {
		maps.Copy(out, t)
	}
	return out
}

// absolute is a denial that wins over the most specific allowance in the tool
// that it comes from: denyWrite of both, and a deny of Claude Code's permissions.
// For a secret that is listed as one we take no chances.
type absolute struct {
	path   Val[string]
	access Access
	key    string
}

// settle keeps absolute denials true. Here the more specific rule wins, so an
// allowance inside of what is denied for good would open it: it is left out. Where
// the two can't be compared, because one is a pattern, it is left out as well.
func (im *importer) settle() {
	fs := &im.doc.Filesystem
	for _, list := range []struct {
		access Access
		from   *[]Val[string]
	}{{AllowRead, &fs.AllowRead}, {AllowWrite, &fs.AllowWrite}} {
		kept := (*list.from)[:0:0]
		for _, v := range *list.from {
			i := slices.IndexFunc(im.absolute, func(a absolute) bool {
				return (list.access == AllowWrite || a.access == DenyRead) && im.overlaps(a.path.V, v.V)
			})
			if i < 0 {
				kept = append(kept, v)
				continue
			}
			a := im.absolute[i]
			im.findAt(v.Pos, im.written[v.Pos], Tightened, fmt.Sprintf("%s is left out: %s in line %d denies it for good there, and here the more specific rule would win",
				quote(v.V), a.key, a.path.Pos.Line))
		}
		*list.from = kept
	}
	for _, d := range fs.DenyRead {
		if i := slices.IndexFunc(fs.AllowRead, func(v Val[string]) bool { return samePath(v.V, d.V) }); i >= 0 {
			v := fs.AllowRead[i]
			im.findAt(v.Pos, im.written[v.Pos], Tightened, fmt.Sprintf("%s is denied in line %d, in the same words: deny wins here", quote(v.V), d.Pos.Line))
		}
		for _, v := range fs.AllowWrite {
			if im.overlaps(d.V, v.V) && !samePath(d.V, v.V) {
				im.findAt(v.Pos, im.written[v.Pos], Lossy, fmt.Sprintf("what can be written can be read here: %s can be read, though denyRead in line %d covers it", quote(v.V), d.Pos.Line))
			}
		}
	}
	for _, a := range im.absolute {
		if wide(a.path.V) {
			im.findAt(a.path.Pos, a.key, Lossy, fmt.Sprintf("%s: the workspace and what profiles open stay open if they are below it, for the more specific rule wins here; name %s to deny the workspace too",
				quote(a.path.V), `"."`))
		}
	}
}

// invented is the number of directories above home and workspace, for "..".
const invented = 32

// namesOf takes a path rule apart, so that rules from the same start can be
// compared. Home and workspace are below directories that no rule can name.
func namesOf(text string) (start byte, names []string) {
	above := strings.Repeat("/\x01", invented)
	switch {
	case strings.HasPrefix(text, "/"):
		return '/', glob.Split(path.Clean(text))
	case text == "~" || strings.HasPrefix(text, "~/"):
		return '~', glob.Split(path.Clean(above + "/" + text[1:]))
	}
	return '.', glob.Split(path.Clean(above + "/" + text))
}

// overlaps is the function of this name, for rules that begin at different places
// too if it is known where these are.
func (im *importer) overlaps(deny, allow string) bool {
	if im.place == (Place{}) {
		return overlaps(deny, allow)
	}
	return overlaps(im.place.pattern(deny), im.place.pattern(allow))
}

// overlaps says whether something that allow speaks of may be inside of deny.
func overlaps(deny, allow string) bool {
	denyAt, denyNames := namesOf(deny)
	allowAt, allowNames := namesOf(allow)
	if denyAt == '/' && len(denyNames) == 0 {
		return true
	}
	if denyAt != allowAt {
		return false // where home and workspace are is not known here
	}
	if pattern, plain := plainNames(allowNames); plain {
		d, err := glob.Compile(strings.Join(denyNames, "/"))
		if err != nil {
			return true
		}
		_, _, in := d.DepthsOf(pattern)
		return in
	}
	a, b := fixed(denyNames), fixed(allowNames)
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

// plainNames is the one path that a rule speaks of, if it is no pattern.
func plainNames(names []string) ([]string, bool) {
	p, err := glob.Compile(strings.Join(names, "/"))
	if err != nil {
		return nil, false
	}
	text, ok := p.Literal()
	return glob.Split(text), ok
}

// fixed are the names before the first that is a pattern.
func fixed(names []string) []string {
	if i := slices.IndexFunc(names, glob.HasMeta); i >= 0 {
		return names[:i]
	}
	return names
}

func samePath(a, b string) bool {
	aAt, aNames := namesOf(a)
	bAt, bNames := namesOf(b)
	return aAt == bAt && slices.Equal(aNames, bNames)
}

// wide says whether the workspace is likely to be below.
func wide(text string) bool {
	start, names := namesOf(text)
	n := len(names)
	switch {
	case start == '.':
		return n < invented
	case start == '~' && n > invented:
		return n == invented+1 && glob.HasMeta(names[invented])
	case start == '~' || n == 0:
		return true
	}
	return n < 3 && slices.Contains([]string{"home", "Users", "root"}, names[0])
}
