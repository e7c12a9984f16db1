package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// MaskRule keeps one secret out of the inside, which gets a placeholder; the gateway
// puts the value into requests to its hosts.
type MaskRule struct {
	// Name of the variable; empty for a file: Path, its pattern, and Text, as written.
	Name string `json:"name,omitempty"`
	Path string `json:"path,omitempty"`
	Text string `json:"text,omitempty"`
	// Hosts are names, each with a port: "api.example.org:443".
	Hosts   []string `json:"hosts"`
	Command []string `json:"command,omitempty"`
	TTL     int64    `json:"ttl,omitempty"` // milliseconds
	Bodies  bool     `json:"bodies,omitempty"`
	Extract string   `json:"extract,omitempty"`

	Origin plan.Origin `json:"origin"`
}

// What a masked entry has to say beyond the kinds of its values.
const (
	modeDeny = "deny"
	modeMask = "mask"
)

// signs are secrets that are never sent: programs sign requests with them, and what was
// signed with a placeholder is refused by whoever checks it.
var signs = []struct{ pattern, what string }{
	{"*AWS_SECRET_ACCESS_KEY", "AWS signs requests with it"}, {"AWS_SESSION_TOKEN", "AWS signs requests that have it"},
	{"*SECRET_ACCESS_KEY", "S3 signs requests with it"}, {"MINIO_ROOT_PASSWORD", "S3 signs requests with it"}, {"MINIO_SECRET_KEY", "S3 signs requests with it"},
	{"AZURE_STORAGE_KEY", "Azure Storage signs requests with it"}, {"AZURE_STORAGE_CONNECTION_STRING", "Azure Storage signs requests with it"},
	{"ALIBABA_CLOUD_ACCESS_KEY_SECRET", "the cloud signs requests with it"}, {"TENCENTCLOUD_SECRET_KEY", "the cloud signs requests with it"},
	{"*PRIVATE_KEY", "a private key signs"}, {"*.aws/credentials", "AWS signs requests with it"},
}

func signer(name string) string {
	for _, s := range signs {
		if end, ok := strings.CutPrefix(s.pattern, "*"); ok && strings.HasSuffix(name, end) || name == s.pattern {
			return s.what
		}
	}
	return ""
}

// masks reports what is wrong with credentials whose single values are right.
func (d *decoder) masks(c Credentials) {
	at := func(pos Pos, key, text, hint string) {
		if len(d.problems) < maxProblems {
			d.problems = append(d.problems, Problem{File: d.file, Line: pos.Line, Col: pos.Col, Key: "credentials." + key, Text: text, Hint: hint})
		}
	}
	for i, v := range c.EnvVars {
		key := fmt.Sprintf("envVars[%d]", i)
		if d.wrong("credentials." + key + ".") {
			continue
		}
		masked := isMask(v.Mode)
		var only []maskKey
		if len(v.Hosts) > 0 {
			only = append(only, maskKey{"hosts", v.Hosts[0].Pos})
		}
		if len(v.Command) > 0 {
			only = append(only, maskKey{"command", v.Command[0].Pos})
		}
		if v.TTL != nil {
			only = append(only, maskKey{"ttl", v.TTL.Pos})
		}
		if v.Bodies != nil {
			only = append(only, maskKey{"bodies", v.Bodies.Pos})
		}
		switch {
		case v.Name.V == "":
			continue // reported already
		case !masked:
			for _, k := range only {
				at(k.pos, key+"."+k.name, "it is denied, so nobody gets it", `write "mode": "mask" beside it`)
			}
			continue
		case strings.HasSuffix(v.Name.V, "*"):
			at(v.Name.Pos, key+".name", quote(v.Name.V)+" stands for many variables", "write one entry for each that is masked")
		case v.Name.V == "HOME":
			at(v.Name.Pos, key+".name", "HOME can't be masked: programs inside find the private home there", "")
		case signer(v.Name.V) != "":
			at(v.Name.Pos, key+".name", quote(v.Name.V)+" can't be put in: "+signer(v.Name.V), `write "mode": "deny", or let a command on your side do what needs it`)
		case len(v.Hosts) == 0 && len(keyHosts(v.Name.V)) == 0:
			at(v.Mode.Pos, key+".mode", "masked for which hosts?", `write "hosts": ["api.example.org"] beside it`)
		}
		if v.TTL != nil && len(v.Command) == 0 {
			at(v.TTL.Pos, key+".ttl", "only what a command prints is kept for a time", "take it out")
		}
		if len(v.Command) > 0 && (v.Command[0].V == "" || strings.Contains(v.Command[0].V, "/") && !strings.HasPrefix(v.Command[0].V, "/") && !strings.HasPrefix(v.Command[0].V, "~/")) {
			at(v.Command[0].Pos, key+".command[0]", quote(v.Command[0].V)+" depends on the directory one is in", "write a name that is on PATH, or the whole path")
		}
	}
	for i, f := range c.Files {
		key := fmt.Sprintf("files[%d]", i)
		switch {
		case f.Path.V == "" || d.wrong("credentials."+key+"."):
			continue
		case !isMask(f.Mode):
			if len(f.Hosts) > 0 {
				at(f.Hosts[0].Pos, key+".hosts", "it is denied, so nobody gets it", `write "mode": "mask" beside it`)
			}
			if f.Extract != nil {
				at(f.Extract.Pos, key+".extract", "it is denied as a whole", `write "mode": "mask" beside it`)
			}
			if f.Bodies != nil {
				at(f.Bodies.Pos, key+".bodies", "it is denied, so nobody gets it", `write "mode": "mask" beside it`)
			}
			continue
		case glob.HasMeta(f.Path.V):
			at(f.Path.Pos, key+".path", quote(f.Path.V)+" is a pattern", "name the one file that is masked")
		case signer(f.Path.V) != "":
			at(f.Path.Pos, key+".path", quote(f.Path.V)+" can't be put in: "+signer(f.Path.V), `write "mode": "deny"`)
		case len(f.Hosts) == 0:
			at(f.Mode.Pos, key+".mode", "masked for which hosts?", `write "hosts": ["api.example.org"] beside it`)
		}
	}
}

// wrong says whether something below a key has been reported.
func (d *decoder) wrong(key string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool { return strings.HasPrefix(p.Key, key) })
}

// maskKey is a key that only a masked entry has.
type maskKey struct {
	name string
	pos  Pos
}

func isMask(mode *Val[string]) bool { return mode != nil && mode.V == modeMask }

// checkMaskHost: a name that a certificate can show to be the one.
func checkMaskHost(s string) (text, hint string) {
	if text, hint = checkAllowed(s); text != "" {
		return text, hint
	}
	if h := splitHost(s); h.Addr.IsValid() || h.All {
		return quote(s) + " is no name", "a secret goes only to who can show by a certificate to be the one that is named"
	}
	return "", ""
}

// checkExtract: a regular expression with one group.
func checkExtract(s string) (text, hint string) {
	re, err := regexp.Compile(s)
	switch {
	case err != nil:
		return "not a regular expression: " + strings.TrimPrefix(err.Error(), "error parsing regexp: "), "the syntax is that of Go (RE2)"
	case re.NumSubexp() != 1:
		return fmt.Sprintf("%d groups in %s", re.NumSubexp(), quote(s)), `what the one group finds is the secret: "token=(\\S+)"`
	}
	return "", ""
}

// mask makes the rule of a masked variable.
func (v CredentialVar) mask(o plan.Origin) MaskRule {
	m := MaskRule{Name: v.Name.V, Hosts: ported(v.Hosts), Command: words(v.Command), Bodies: v.Bodies != nil && v.Bodies.V, Origin: o}
	if len(m.Hosts) == 0 {
		m.Hosts = keyHosts(m.Name)
	}
	if v.TTL != nil {
		ttl, _ := parseDuration(v.TTL.V)
		m.TTL = ttl.Milliseconds()
	}
	return m
}

func (f CredentialFile) mask(r PathRule) MaskRule {
	m := MaskRule{Path: r.Pattern, Text: r.Text, Hosts: ported(f.Hosts), Bodies: f.Bodies != nil && f.Bodies.V, Origin: r.Origin}
	if f.Extract != nil {
		m.Extract = f.Extract.V
	}
	return m
}

// ported are hosts in one spelling, each with its port. Without one it is that of
// https: a wider reading would give the value to whatever else listens there.
func ported(hosts []Val[string]) []string {
	var out []string
	for _, v := range hosts {
		h := splitHost(v.V)
		if h.Port == 0 {
			h.Port = 443
		}
		name := h.Name
		if h.Wild {
			name = "*." + name
		}
		if text := fmt.Sprintf("%s:%d", name, h.Port); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

func words(list []Val[string]) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.V)
	}
	return out
}

// keyHosts are the hosts to which an agent's key belongs, by its variable.
func keyHosts(name string) []string {
	for _, p := range profiles {
		if host, ok := p.keys[name]; ok {
			return []string{host + ":443"}
		}
	}
	return nil
}
