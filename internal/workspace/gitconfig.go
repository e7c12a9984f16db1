package workspace

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Setting is one entry of a git configuration. Section and key are in lower
// case, the subsection is as written. Bare entries ("[core] bare") have no
// value and mean true.
type Setting struct {
	Section, Sub, Key string
	Value             string
	Bare              bool
}

// Name is the setting's name as git prints it.
func (s Setting) Name() string {
	if s.Sub == "" {
		return s.Section + "." + s.Key
	}
	return s.Section + "." + s.Sub + "." + s.Key
}

var errConfig = errors.New("not plain git configuration")

// ParseGitConfig reads a git configuration as git does (config.c,
// git_parse_source), but only the plain part of the language: what git reads
// in ways that are easy to get wrong (CR, NUL and other control bytes, a byte
// order mark, the old [section.sub] form) is an error, and an error is never
// harmless.
func ParseGitConfig(text []byte) ([]Setting, error) {
	for _, c := range text {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return nil, fmt.Errorf("%w: control character", errConfig)
		}
	}
	p := configParser{in: string(text)}
	for !p.end() {
		switch c := p.in[0]; {
		case c == '\n' || c == ' ' || c == '\t':
			p.in = p.in[1:]
		case c == '#' || c == ';':
			p.line()
		case c == '[':
			if err := p.header(); err != nil {
				return nil, err
			}
		default:
			if err := p.setting(); err != nil {
				return nil, err
			}
		}
	}
	return p.out, nil
}

type configParser struct {
	in           string
	section, sub string
	out          []Setting
}

func (p *configParser) end() bool { return p.in == "" }

// line drops the rest of the line, its newline excluded.
func (p *configParser) line() {
	if i := strings.IndexByte(p.in, '\n'); i >= 0 {
		p.in = p.in[i:]
	} else {
		p.in = ""
	}
}

func keyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

func (p *configParser) word() string {
	i := 0
	for i < len(p.in) && keyByte(p.in[i]) {
		i++
	}
	w := strings.ToLower(p.in[:i])
	p.in = p.in[i:]
	return w
}

func (p *configParser) header() error {
	p.in = p.in[1:]
	p.section, p.sub = p.word(), ""
	if p.section == "" {
		return fmt.Errorf("%w: section header", errConfig)
	}
	if after := strings.TrimLeft(p.in, " \t"); after != p.in {
		p.in = after
		if !strings.HasPrefix(p.in, `"`) {
			return fmt.Errorf("%w: section header", errConfig)
		}
		var b strings.Builder
		i := 1
		for ; i < len(p.in) && p.in[i] != '"' && p.in[i] != '\n'; i++ {
			if p.in[i] == '\\' { // any byte but a newline may be escaped
				if i++; i >= len(p.in) || p.in[i] == '\n' {
					return fmt.Errorf("%w: section header", errConfig)
				}
			}
			b.WriteByte(p.in[i])
		}
		if i >= len(p.in) || p.in[i] != '"' || b.Len() == 0 {
			return fmt.Errorf("%w: section header", errConfig)
		}
		p.sub, p.in = b.String(), p.in[i+1:]
	}
	if !strings.HasPrefix(p.in, "]") {
		return fmt.Errorf("%w: section header", errConfig)
	}
	p.in = p.in[1:]
	return nil
}

func (p *configParser) setting() error {
	s := Setting{Section: p.section, Sub: p.sub}
	if c := p.in[0]; p.section == "" || !keyByte(c) || c == '-' || c >= '0' && c <= '9' {
		return fmt.Errorf("%w: line without a key", errConfig)
	}
	s.Key = p.word()
	p.in = strings.TrimLeft(p.in, " \t")
	switch {
	case p.in == "" || p.in[0] == '\n':
		s.Bare = true
	case p.in[0] == '=':
		p.in = p.in[1:]
		v, err := p.value()
		if err != nil {
			return err
		}
		s.Value = v
	default:
		return fmt.Errorf("%w: key without =", errConfig)
	}
	p.out = append(p.out, s)
	return nil
}

func (p *configParser) value() (string, error) {
	p.in = strings.TrimLeft(p.in, " \t")
	var b strings.Builder
	keep := 0 // length up to which trailing white space is part of the value
	quoted, tab := false, false
	for i := 0; ; i++ {
		if tab && b.Len() == keep {
			// A tab between two words is a space for git before 2.45 and a tab
			// since: the same text names two paths.
			return "", fmt.Errorf("%w: tab in a value", errConfig)
		}
		if i == len(p.in) || p.in[i] == '\n' {
			if quoted {
				return "", fmt.Errorf("%w: open quote", errConfig)
			}
			p.in = p.in[i:]
			return b.String()[:keep], nil
		}
		switch c := p.in[i]; {
		case c == '"':
			quoted = !quoted
			keep = b.Len()
		case c == '\\':
			if i++; i == len(p.in) {
				return "", fmt.Errorf("%w: backslash at the end", errConfig)
			}
			switch p.in[i] {
			case '\n':
				// The blanks before it are no longer at the end.
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'b':
				b.WriteByte('\b')
			case '"', '\\':
				b.WriteByte(p.in[i])
			default:
				return "", fmt.Errorf("%w: unknown escape", errConfig)
			}
			keep = b.Len()
		case !quoted && (c == '#' || c == ';'):
			p.in = p.in[i:]
			p.line()
			return b.String()[:keep], nil
		case !quoted && b.Len() == 0 && (c == ' ' || c == '\t'):
			// Blanks before the first byte are dropped, wherever they stand.
		default:
			b.WriteByte(c)
			tab = tab || !quoted && c == '\t'
			if quoted || c != ' ' && c != '\t' {
				keep = b.Len()
			}
		}
	}
}

// Place is where a git file lies, for judging the paths in it.
type Place struct {
	Root string // the workspace, absolute and clean
	Dir  string // the directory that relative paths start from, absolute and clean
}

// inside says whether the path, taken as text, stays in the workspace, and
// what it is. Whether symlinks lead it out is the caller's to look at.
func (p Place) inside(text string) (string, bool) {
	if text == "" || strings.HasPrefix(text, "~") || strings.HasPrefix(text, "-") || strings.HasPrefix(text, "%(") {
		return "", false
	}
	return p.lies(text)
}

// lies is inside without what only git knows.
func (p Place) lies(text string) (string, bool) {
	if !path.IsAbs(text) {
		text = p.Dir + "/" + text
	}
	clean := path.Clean(text)
	return clean, clean == p.Root || strings.HasPrefix(clean, strings.TrimSuffix(p.Root, "/")+"/")
}

// allowed is the table of settings that can't make git run, read or write
// anything outside: everything that is not here is not harmless. The key is
// "section.key" or "section.*.key".
var allowed = map[string]func(Place, Setting) bool{
	"core.repositoryformatversion": number, "core.filemode": boolean, "core.bare": boolean, "core.logallrefupdates": word,
	"core.ignorecase": boolean, "core.precomposeunicode": boolean, "core.symlinks": boolean, "core.worktree": insidePath,
	"core.autocrlf": word, "core.eol": word, "core.safecrlf": word, "core.abbrev": word, "core.quotepath": boolean,
	"core.sparsecheckout": boolean, "core.sparsecheckoutcone": boolean, "core.untrackedcache": word, "core.commitgraph": boolean,
	"core.longpaths": boolean, "core.compression": number,
	"extensions.objectformat": word, "extensions.worktreeconfig": boolean, "extensions.partialclone": remoteName,
	"extensions.refstorage": word, "extensions.preciousobjects": boolean, "extensions.noop": text,
	"remote.*.url": harmlessURL, "remote.*.pushurl": harmlessURL, "remote.*.fetch": refspec, "remote.*.push": refspec,
	"remote.*.tagopt": oneOf("--tags", "--no-tags"), "remote.*.prune": boolean, "remote.*.prunetags": boolean, "remote.*.mirror": boolean,
	"remote.*.skipdefaultupdate": boolean, "remote.*.skipfetchall": boolean, "remote.*.promisor": boolean,
	"remote.*.partialclonefilter": word, "remote.*.gh-resolved": text, "remote.pushdefault": remoteName,
	"branch.*.remote": remoteName, "branch.*.pushremote": remoteName, "branch.*.merge": refName, "branch.*.rebase": word,
	"branch.*.description": text, "branch.*.vscode-merge-base": text, "branch.*.gh-merge-base": text,
	"branch.autosetupmerge": word, "branch.autosetuprebase": word, "branch.sort": word,
	"submodule.*.url": harmlessURL, "submodule.*.active": boolean, "submodule.active": text, "submodule.recurse": boolean,
	"submodule.*.update": oneOf("checkout", "none", "rebase", "merge"), "submodule.*.branch": text, "submodule.*.ignore": word,
	"submodule.*.shallow": boolean, "submodule.*.fetchrecursesubmodules": word,
	"submodule.alternatelocation": word, "submodule.alternateerrorstrategy": word,
	"user.name": text, "user.email": text, "user.useconfigonly": boolean, "author.name": text, "author.email": text,
	"committer.name": text, "committer.email": text,
	"init.defaultbranch": text, "pull.rebase": word, "pull.ff": word, "push.default": word, "push.autosetupremote": boolean,
	"push.followtags": boolean, "fetch.prune": boolean, "fetch.prunetags": boolean, "fetch.parallel": number,
	"merge.ff": word, "merge.conflictstyle": word, "merge.renames": word, "rebase.autostash": boolean, "rebase.autosquash": boolean,
	"rerere.enabled": boolean, "rerere.autoupdate": boolean, "diff.renames": word, "diff.algorithm": word, "status.showuntrackedfiles": word,
	"commit.verbose": word, "color.ui": word, "advice.detachedhead": boolean, "gc.auto": number, "index.version": number,
	"index.sparse": boolean, "lfs.repositoryformatversion": number,
}

// VetSetting says whether a setting is harmless for git on the host.
func VetSetting(p Place, s Setting) bool {
	name := s.Section + "." + s.Key
	if s.Sub != "" {
		name = s.Section + ".*." + s.Key
		if strings.HasPrefix(s.Sub, "-") || hasControl(s.Sub) {
			return false
		}
	}
	ok := allowed[name]
	return ok != nil && ok(p, s)
}

// VetConfig judges a configuration against the one that was there before (nil
// when there was none): what is not harmless must be the same entries in the
// same order as before. reason names the first that is not.
func VetConfig(p Place, before, now []byte) (reason string) {
	settings, err := ParseGitConfig(now)
	if err != nil {
		return err.Error()
	}
	var old []Setting
	if before != nil {
		if old, err = ParseGitConfig(before); err != nil {
			old = nil
		}
	}
	harmless := func(s Setting) bool { return VetSetting(p, s) }
	kept := slices.DeleteFunc(slices.Clone(old), harmless)
	risky := slices.DeleteFunc(slices.Clone(settings), harmless)
	for i, s := range risky {
		if i >= len(kept) || kept[i] != s {
			return fmt.Sprintf("git obeys %s", printable(s.Name()))
		}
	}
	if len(kept) > len(risky) {
		return fmt.Sprintf("%s was removed", printable(kept[len(risky)].Name()))
	}
	return ""
}

func printable(s string) string {
	if hasControl(s) || len(s) > 200 {
		return fmt.Sprintf("%.200q", s)
	}
	return s
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

func text(_ Place, s Setting) bool { return !s.Bare && !hasControl(s.Value) }

// word is a value of plain letters, digits, "-", "=", ":" and the like:
// booleans, numbers, modes.
func word(_ Place, s Setting) bool {
	for i := range len(s.Value) {
		if c := s.Value[i]; !keyByte(c) && c != '_' && c != '=' && c != ':' && c != ',' && c != '.' {
			return false
		}
	}
	return !strings.HasPrefix(s.Value, "-") || len(s.Value) < 2 || s.Value[1] >= '0' && s.Value[1] <= '9'
}

func boolean(p Place, s Setting) bool {
	switch strings.ToLower(s.Value) {
	case "true", "false", "yes", "no", "on", "off", "0", "1":
		return true
	}
	return s.Bare
}

func number(_ Place, s Setting) bool {
	digits := strings.TrimPrefix(s.Value, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func oneOf(values ...string) func(Place, Setting) bool {
	return func(_ Place, s Setting) bool { return slices.Contains(values, s.Value) }
}

func insidePath(p Place, s Setting) bool {
	_, ok := p.inside(s.Value)
	return ok && text(p, s)
}

// remoteName is the name of a remote. Git takes anything else as a URL, so it
// is judged as one.
func remoteName(p Place, s Setting) bool {
	return s.Value == "." || harmlessURL(p, s)
}

func refName(p Place, s Setting) bool {
	return text(p, s) && strings.HasPrefix(s.Value, "refs/") && !strings.Contains(s.Value, "..")
}

func refspec(p Place, s Setting) bool {
	if !text(p, s) || strings.Contains(s.Value, "..") {
		return false
	}
	v := strings.TrimLeft(s.Value, "+^")
	from, to, both := strings.Cut(v, ":")
	ref := func(r string) bool { return strings.HasPrefix(r, "refs/") || r == "HEAD" }
	return ref(from) && (!both || strings.HasPrefix(to, "refs/"))
}

// harmlessURL: https, http, ssh, git and scp-like addresses, and paths in the
// workspace. Never a transport helper (ext::, fd::, any name::), never what
// ssh or a helper would take for an option.
func harmlessURL(p Place, s Setting) bool {
	v := s.Value
	if v == "" || hasControl(v) || strings.HasPrefix(v, "-") || strings.Contains(v, "::") {
		return false
	}
	lower := strings.ToLower(v)
	for _, bad := range []string{"%00", "%0a", "%0d"} { // CVE-2020-5260: a newline for the credential helper
		if strings.Contains(lower, bad) {
			return false
		}
	}
	if scheme, rest, ok := strings.Cut(v, "://"); ok {
		switch scheme {
		case "https", "http", "ssh", "git":
			host, _, _ := strings.Cut(rest, "/")
			if i := strings.LastIndexByte(host, '@'); i >= 0 {
				if strings.HasPrefix(host, "-") {
					return false
				}
				host = host[i+1:]
			}
			return host != "" && !strings.HasPrefix(host, "-")
		case "file":
			_, in := p.inside(rest)
			return in && strings.HasPrefix(rest, "/")
		}
		return false
	}
	// host:path, unless a slash comes before the colon (connect.c, url_is_local_not_ssh).
	if colon := strings.IndexByte(v, ':'); colon >= 0 && !strings.Contains(v[:colon], "/") {
		host := v[:colon]
		return host != "" && !strings.Contains(host, "@-") && strings.Trim(host, "[]") != "" && !strings.HasPrefix(v[colon+1:], "-")
	}
	_, in := p.inside(v)
	return in
}
