package policy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// leaf is what a value of a document may be. The schema is made of the same
// table: check is what no schema can say, and the words for a person.
type leaf struct {
	enum  []string
	match *lazy // must match; written so that JSON Schema reads it alike
	not   *lazy // must not match
	// min and max bound a number; whole wants an integer.
	min, max float64
	whole    bool
	// must is the only value a boolean may have.
	must *bool
	// check returns what is wrong and what to do, or "".
	check func(s string) (text, hint string)
	// refusal is the text when match or not refuse what check let pass.
	refusal string
}

var yes = true

const (
	portPattern  = `([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])`
	labelPattern = `[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?`
	namePattern  = labelPattern + `(\.` + labelPattern + `)*\.?`
	v4Pattern    = `[0-9]{1,3}(\.[0-9]{1,3}){3}`
	v6Pattern    = `[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*`
	unitPattern  = `([bB]|[kKmMgGtT]([iI]?[bB])?)`
	perPattern   = `(s|m|h|d|([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h|d))+)`
	// "." and ".." with a "\": no name in any directory, and not cleaned away.
	dotsPattern = `(^|/)(\\\.|\\?\.\\\.|\\\.\.)(/|$)`
)

// sharedSuffixes are names below which strangers have their hosts: a wildcard
// there would be a wildcard over the internet. publicSuffix knows them all; these,
// which a person would write, are those of which the schema warns in an editor.
var sharedSuffixes = []string{
	"co.uk", "org.uk", "ac.uk", "gov.uk", "com.au", "net.au", "org.au", "co.jp", "co.nz", "com.br", "co.in", "co.za", "co.kr",
	"com.cn", "com.tr", "com.mx", "github.io", "gitlab.io", "pages.dev", "workers.dev", "vercel.app", "netlify.app",
	"herokuapp.com", "web.app", "firebaseapp.com", "appspot.com", "run.app", "fly.dev", "onrender.com", "azurewebsites.net",
	"cloudfront.net", "amazonaws.com", "blogspot.com", "ngrok.io", "ngrok-free.app", "trycloudflare.com",
}

func wildSuffixes() *lazy { return &lazy{source: wildSuffixText} }

func wildSuffixText() string {
	var alts []string
	for _, s := range sharedSuffixes {
		var b strings.Builder
		for _, c := range s {
			switch {
			case unicode.IsLetter(c):
				fmt.Fprintf(&b, "[%c%c]", c, unicode.ToUpper(c))
			case c == '.':
				b.WriteString(`\.`)
			default:
				b.WriteRune(c)
			}
		}
		alts = append(alts, b.String())
	}
	return `^\*\.(` + labelPattern + `|` + strings.Join(alts, "|") + `)\.?(:` + portPattern + `)?$`
}

// lazy is a regular expression that is compiled when it is first used: this
// package is in every start, and most starts read no policy file.
type lazy struct {
	source func() string
	once   sync.Once
	re     *regexp.Regexp
}

func lazily(text string) *lazy { return &lazy{source: func() string { return text }} }

func (l *lazy) get() *regexp.Regexp {
	l.once.Do(func() { l.re = regexp.MustCompile(l.source()) })
	return l.re
}

func (l *lazy) MatchString(s string) bool { return l.get().MatchString(s) }

func (l *lazy) String() string { return l.source() }

// Patterns that the checks below use too; the checks can't name the table they
// are in.
var (
	pathNot       = lazily(`^!|^~[^/]|^\$[A-Za-z_{]|` + dotsPattern + `|(^|[^\\])\{[^}]*,[^}]*\}`)
	dotsNot       = lazily(dotsPattern)
	guardNot      = lazily(`(^|/)\\?\.(\\?\.)?(/|$)|^(\*\*/*)+$|(^|[^\\])\{[^}]*,[^}]*\}`)
	envMatch      = lazily(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)
	envDenyMatch  = lazily(`^([A-Za-z_][A-Za-z0-9_]*\*?|\*)$`)
	envNameMatch  = lazily(`^[A-Za-z_][A-Za-z0-9_]*$`)
	domainMatch   = lazily(`^((\*\.)?` + namePattern + `|\*|` + v4Pattern + `|\[` + v6Pattern + `\])(:` + portPattern + `)?$`)
	cidrMatch     = lazily(`^(` + v4Pattern + `/[0-9]{1,2}|` + v6Pattern + `/[0-9]{1,3}|\[` + v6Pattern + `/[0-9]{1,3}\])(:` + portPattern + `)?$`)
	proxyMatch    = lazily(`^(none|environment|https?://(` + namePattern + `|` + v4Pattern + `|\[` + v6Pattern + `\]):` + portPattern + `/?)$`)
	durationMatch = lazily(`^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h|d))+$`)
	sizeMatch     = lazily(`^[0-9]{1,12}(\.[0-9]{1,3})? ?` + unitPattern + `$`)
)

// leaves names every kind of value; `is` tags of the Document refer to it.
var leaves = map[string]leaf{
	"text":          {match: lazily(`^[^\x00-\x1f\x7f]*$`)},
	"bool":          {},
	"true":          {must: &yes},
	"extends":       {match: lazily(`^[^\x00-\x1f\x7f]+$`)},
	"boundary":      {enum: []string{"native"}},
	"workspaceMode": {enum: []string{"live", "copy"}},
	"home":          {enum: []string{"private", "ephemeral"}},
	"mode":          {enum: []string{modeDeny, modeMask}},
	"path": {
		match: lazily(`^[^\x00-\x1f\x7f]+$`),
		not:   pathNot,
		check: checkPath,
	},
	"file": {
		match: lazily(`^[^\x00-\x1f\x7f]+$`),
		not:   lazily(pathNot.String() + `|[*?\[]`),
		check: checkFile,
	},
	"guard": {
		match: lazily(`^[^/~!\x00-\x1f\x7f][^\x00-\x1f\x7f]*$`),
		not:   guardNot,
		check: checkGuard,
	},
	"env":     {match: envMatch, check: checkEnv, refusal: "would let every secret of your environment in"},
	"envDeny": {match: envDenyMatch, check: checkEnv},
	"envName": {match: envNameMatch, not: lazily(`^HOME$`), check: checkEnvName},
	"value":   {match: lazily(`^[^\x00]*$`)},
	"domain": {
		match:   lazily(`^((\*\.)?` + namePattern + `|` + v4Pattern + `|\[` + v6Pattern + `\])(:` + portPattern + `)?$`),
		not:     wildSuffixes(),
		check:   checkAllowed,
		refusal: "would take in hosts of strangers",
	},
	"domainDeny": {
		match: domainMatch,
		check: checkDomain,
	},
	"maskHost": {
		match:   lazily(`^(\*\.)?` + namePattern + `(:` + portPattern + `)?$`),
		not:     wildSuffixes(),
		check:   checkMaskHost,
		refusal: "would take in hosts of strangers",
	},
	"extract": {match: lazily(`^[^\x00]+$`), check: checkExtract},
	"cidr": {
		match: cidrMatch,
		check: checkCIDR,
	},
	"unlisted":   {enum: []string{"deny", "ask"}},
	"effect":     {enum: []string{"allow", "deny", "ask"}},
	"tls":        {enum: []string{"inspect", "tunnel"}},
	"gitAct":     {enum: []string{"fetch", "push"}},
	"packageAct": {enum: []string{"install", "publish"}},
	"uploadAct":  {enum: []string{"gist", "release", "file"}},
	"method":     {match: lazily(`^[A-Z-]{1,32}$`), check: checkMethod},
	"urlPath":    {match: lazily(`^/[^?#%;\x00-\x1f\x7f]*$`), check: checkedBy(decide.CheckPath)},
	"ref":        {match: lazily(`^refs/.*[^/]$`), check: checkedBy(decide.CheckRef)},
	"upstreamProxy": {
		match: proxyMatch,
		check: checkUpstreamProxy,
	},
	"noProxy": {match: lazily(`^[^\x00-\x20\x7f,]+$`), check: checkNoProxy},
	"budgetSize": {
		match: lazily(`^[0-9]{1,12}(\.[0-9]{1,3})? ?` + unitPattern + `( ?/ ?` + perPattern + `)?$`),
		check: checkBudget(plan.BudgetUpload, "10MiB"),
	},
	"budgetCount": {
		match: lazily(`^[0-9]{1,10}( ?/ ?` + perPattern + `)?$`),
		check: checkBudget(plan.BudgetRequests, "100"),
	},
	"duration": {match: durationMatch, check: checkDuration},
	"size":     {match: sizeMatch, check: checkSize},
	"cpus":     {min: 0.01, max: 4096},
	"count":    {min: 1, max: 4194304, whole: true}, // the kernel's largest pid_max
}

// checkString returns what is wrong with a string as this leaf, or "".
func (l leaf) checkString(s string) (text, hint string) {
	if strings.ContainsRune(s, utf8.RuneError) {
		// What JSON makes of half a surrogate pair, and of a name on the command
		// line that is not UTF-8: a rule would speak of another name.
		return fmt.Sprintf("%s holds U+FFFD, which stands for what is no character", quote(s)), "in a path, ? matches any one character"
	}
	if l.enum != nil {
		if slices.Contains(l.enum, s) {
			return "", ""
		}
		return l.enumText(s)
	}
	if l.check != nil {
		if text, hint = l.check(s); text != "" {
			return text, hint
		}
	}
	if (l.match != nil && !l.match.MatchString(s)) || (l.not != nil && l.not.MatchString(s)) {
		if l.refusal == "" {
			return fmt.Sprintf("%s can't be used here", quote(s)), ""
		}
		return quote(s) + " " + l.refusal, "name what is needed"
	}
	return "", ""
}

func (l leaf) enumText(s string) (text, hint string) {
	known := strings.Join(quoteAll(l.enum), " or ")
	switch {
	case s == "container" || s == "vm":
		return fmt.Sprintf("the %s boundary is not there yet", s), "write " + known
	case s == "worktree":
		return fmt.Sprintf("workspace mode %q is not there yet", s), "write " + known
	}
	if n := nearest(s, l.enum); n != "" {
		return fmt.Sprintf("%s is not a known value", quote(s)), fmt.Sprintf("did you mean %q?", n)
	}
	return fmt.Sprintf("%s is not a known value", quote(s)), "write " + known
}

func (l leaf) checkNumber(n float64) (text, hint string) {
	switch {
	case math.IsNaN(n) || n < l.min || n > l.max:
		return fmt.Sprintf("%v is out of range", n), fmt.Sprintf("%v to %.0f", l.min, l.max)
	case l.whole && n != math.Trunc(n):
		return fmt.Sprintf("%v is not a whole number", n), ""
	}
	return "", ""
}

func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return strconv.Quote(s)
}

func quoteAll(ss []string) []string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = strconv.Quote(s)
	}
	return out
}

func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

func checkPath(s string) (text, hint string) {
	switch {
	case s == "":
		return "an empty path", `the workspace is "."`
	case control(s):
		return "a control character in a path", "use ? for one odd character"
	case s[0] == '!':
		return `a path can't start with "!"`, "write the exception as its own rule, in allowRead or allowWrite"
	case s[0] == '~' && len(s) > 1 && s[1] != '/':
		return "another person's home is not looked up", "write the whole path, or ./" + s + " for a file of that name"
	case pathNot.MatchString(s) && s[0] == '$':
		return "variables are not expanded in paths", `write "~" for $HOME, or the whole path`
	case dotsNot.MatchString(s):
		return `nothing is called "." or ".."`, `without "\", they are this directory and the one above`
	case pathNot.MatchString(s):
		return "{a,b} is not expanded", `write one entry for each, or \{ for the character itself`
	}
	if _, err := glob.Compile(s); err != nil {
		return err.Error(), ""
	}
	return "", ""
}

// checkFile is for one file, whatever is called like it.
func checkFile(s string) (text, hint string) {
	if text, hint = checkPath(s); text == "" && strings.ContainsAny(s, "*?[") {
		return "a pattern", "name the file"
	}
	return text, hint
}

func checkGuard(s string) (text, hint string) {
	switch {
	case s == "":
		return "an empty name", ""
	case control(s):
		return "a control character in a name", "use ? for one odd character"
	case s[0] == '/' || s[0] == '~':
		return "names to protect are inside the workspace", "write it relative to the workspace; for other paths use filesystem.denyWrite"
	case s[0] == '!':
		return `a name can't start with "!"`, "use workspace.unprotect"
	case guardNot.MatchString(s) && strings.Contains(s, "{"):
		return "{a,b} is not expanded", `write one entry for each, or \{ for the character itself`
	case guardNot.MatchString(s):
		return `"." and ".." and a bare "**" can't be used here`, "write a name below the workspace"
	}
	if _, err := glob.Compile(s); err != nil {
		return err.Error(), ""
	}
	return "", ""
}

func checkEnv(s string) (text, hint string) {
	switch {
	case s == "*" && !envMatch.MatchString(s):
		// Taken by envDeny, whose pattern decides.
		return "", ""
	case s == "":
		return "an empty name", ""
	case strings.Contains(s, "="):
		return "a name can't hold \"=\"", "set values under environment.set"
	case s[0] == '$':
		return `a name doesn't start with "$"`, "write " + strconv.Quote(s[1:])
	case !envDenyMatch.MatchString(s):
		return fmt.Sprintf("%s is not a variable name", quote(s)), `letters, digits and "_"; a "*" only at the end`
	}
	return "", ""
}

func checkEnvName(s string) (text, hint string) {
	if s == "HOME" {
		return "HOME can't be set: programs inside find the private home there", ""
	}
	if !envNameMatch.MatchString(s) {
		return fmt.Sprintf("%s is not a variable name", quote(s)), `letters, digits and "_"`
	}
	return "", ""
}

// Host is a domain rule taken apart. Exactly one of All, Name and Addr is set.
type Host struct {
	All  bool
	Wild bool // Name's subdomains, not Name
	Name string
	Addr netip.Addr
	Port int // 0: every port
}

// ParseHost reads an entry of allowedDomains or deniedDomains, or the HOST:PORT
// of a question.
func ParseHost(s string) (Host, error) {
	if text, hint := leaves["domainDeny"].checkString(s); text != "" {
		return Host{}, Problem{File: "host", Text: text, Hint: hint}
	}
	return splitHost(s), nil
}

func splitHost(s string) Host {
	var h Host
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && i > strings.LastIndexByte(s, ']') {
		h.Port, _ = strconv.Atoi(s[i+1:])
		host = s[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		h.Addr = a.Unmap()
		return h
	}
	if host == "*" {
		h.All = true
		return h
	}
	h.Name, h.Wild = strings.CutPrefix(host, "*.")
	return h
}

func checkDomain(s string) (text, hint string) {
	switch {
	case s == "":
		return "an empty host", ""
	case strings.Contains(s, "://"):
		return "a rule names a host, not an address with a scheme", "leave out everything up to \"//\" and the path"
	case strings.Contains(s, "/"):
		return "a rule names a host, without a path", "address ranges go to allowedCIDRs"
	case s == "*" || strings.HasPrefix(s, "*:"):
		return "", "" // the pattern decides: deny only
	case strings.IndexFunc(s, func(r rune) bool { return r > 0x7f }) >= 0:
		return "a host has ASCII letters only", "write the xn-- form"
	case strings.Count(s, ":") > 1 && !strings.HasPrefix(s, "["):
		return "an IPv6 address needs brackets", "write [" + s + "]"
	}
	if strings.Contains(strings.TrimPrefix(s, "*."), "*") {
		return `a "*" stands for whole names at the start only`, `write "*.example.org"`
	}
	if !domainMatch.MatchString(s) {
		return fmt.Sprintf("%s is not a host", quote(s)), `write "example.org", "*.example.org" or an address, and ":PORT" if you like`
	}
	h := splitHost(s)
	numeric := lazily(`^[0-9.]+$|^0[xX]`)
	if h.Name != "" && (numeric.MatchString(h.Name) || strings.HasPrefix(s, "[")) {
		return fmt.Sprintf("%s is not an address", quote(s)), "write IPv4 as four numbers, IPv6 in brackets"
	}
	if h.Addr.IsValid() && strings.HasPrefix(s, "*.") {
		return "a wildcard over an address", "address ranges go to allowedCIDRs"
	}
	if h.Name != "" {
		if _, err := decide.Canonical(h.Name); err != nil {
			return err.Error(), "write it as it stands in the DNS"
		}
	}
	return "", ""
}

// checkAllowed is for hosts that a rule allows: no wildcard over strangers' hosts,
// no address that can't be opened.
func checkAllowed(s string) (text, hint string) {
	if text, hint = checkDomain(s); text != "" {
		return text, hint
	}
	h := splitHost(s)
	switch {
	case h.Wild && publicSuffix(h.Name):
		return quote(s) + " would take in hosts of strangers", "name what is needed"
	case h.Addr.IsValid():
		return checkOpens(s, netip.PrefixFrom(h.Addr, h.Addr.BitLen()))
	}
	return "", ""
}

// checkOpens refuses a range that no rule can open.
func checkOpens(s string, p netip.Prefix) (text, hint string) {
	if _, err := decide.Compile([]plan.NetRule{{Allow: true, Prefix: p.String()}}); err != nil {
		return quote(s) + " can't be allowed: " + errors.Unwrap(err).Error(), "name the addresses of the host itself"
	}
	return "", ""
}

// checkedBy makes a check of a function that says what is wrong in an error.
func checkedBy(check func(string) error) func(string) (text, hint string) {
	return func(s string) (string, string) {
		if err := check(s); err != nil {
			return err.Error(), ""
		}
		return "", ""
	}
}

// checkUpstreamProxy never repeats what may have a password in it.
func checkUpstreamProxy(s string) (text, hint string) {
	const example = `write "http://proxy.example.org:3128"`
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case s == "none" || s == "environment":
	case strings.Contains(s, "@"):
		return "a user name and a password have no place in a policy", `set HTTPS_PROXY where you start cofferdam, and write "environment"`
	case ok && strings.HasPrefix(strings.ToLower(scheme), "socks"):
		return "a SOCKS proxy can't be used", "an HTTP proxy that takes CONNECT can"
	case !ok || scheme != "http" && scheme != "https":
		return "no address of a proxy", example + `, "environment" or "none"`
	case !proxyMatch.MatchString(s):
		return "no address of a proxy", example + ", with its port"
	default:
		h := splitHost(strings.TrimSuffix(rest, "/"))
		if h.Name != "" {
			if _, err := decide.Canonical(h.Name); err != nil {
				return err.Error(), "write it as it stands in the DNS"
			}
		}
	}
	return "", ""
}

func checkNoProxy(s string) (text, hint string) {
	if _, err := decide.CompileDirect([]string{s}); err != nil {
		return err.Error(), `write "example.org", ".example.org", "10.0.0.0/8", or "*" for everything`
	}
	return "", ""
}

func checkMethod(s string) (text, hint string) {
	if decide.CheckMethod(s) == nil {
		return "", ""
	}
	if up := strings.ToUpper(s); decide.CheckMethod(up) == nil {
		return fmt.Sprintf("%s is not a method", quote(s)), "write " + strconv.Quote(up)
	}
	return fmt.Sprintf("%s is not a method", quote(s)), `write for example "GET"; for every method leave the key out`
}

// ParseCIDR reads an entry of allowedCIDRs; port 0 is every port.
func ParseCIDR(s string) (netip.Prefix, int, error) {
	if text, hint := leaves["cidr"].checkString(s); text != "" {
		return netip.Prefix{}, 0, Problem{File: "range", Text: text, Hint: hint}
	}
	p, port := splitCIDR(s)
	return p, port, nil
}

func splitCIDR(s string) (netip.Prefix, int) {
	port := 0
	if slash := strings.LastIndexByte(s, '/'); slash >= 0 {
		if i := strings.LastIndexByte(s, ':'); i > slash {
			port, _ = strconv.Atoi(s[i+1:])
			s = s[:i]
		}
	}
	p, err := netip.ParsePrefix(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Prefix{}, port
	}
	return p, port
}

func checkCIDR(s string) (text, hint string) {
	p, _ := splitCIDR(s)
	if !cidrMatch.MatchString(s) || !p.IsValid() {
		return fmt.Sprintf("%s is not an address range", quote(s)), `write "10.1.0.0/16", or "10.1.2.3/32:5432" with a port`
	}
	if p != p.Masked() {
		return fmt.Sprintf("%s has bits behind the prefix", quote(s)), "write " + p.Masked().String()
	}
	return checkOpens(s, p)
}

// parseDuration reads "1h30m", "2.5h", "1d".
func parseDuration(s string) (time.Duration, bool) {
	if !durationMatch.MatchString(s) {
		return 0, false
	}
	var total float64
	for _, part := range regexp.MustCompile(`([0-9.]+)([a-z]+)`).FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, false
		}
		unit := map[string]float64{"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}[part[2]]
		total += n * unit
	}
	if total > 365*86400 {
		return 0, false
	}
	return time.Duration(math.Round(total*1e3)) * time.Millisecond, true
}

func checkDuration(s string) (text, hint string) {
	d, ok := parseDuration(s)
	if !ok {
		return fmt.Sprintf("%s is not a time", quote(s)), `write "30m", "1h30m" or "90s"; a year at most`
	}
	if d == 0 {
		return "a time of nothing", "leave the key out for no limit"
	}
	return "", ""
}

// parseSize reads "8GiB", "512m", "1.5GB". As in Docker and systemd a bare
// letter counts in 1024; "GB" counts in 1000, "GiB" in 1024.
func parseSize(s string) (int64, bool) {
	if !sizeMatch.MatchString(s) {
		return 0, false
	}
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil {
		return 0, false
	}
	unit := strings.ToLower(strings.TrimSpace(s[i:]))
	base := 1024.0
	if len(unit) == 2 {
		base = 1000
	}
	n *= math.Pow(base, float64(strings.IndexByte("bkmgt", unit[0])))
	if n > 1<<60 {
		return 0, false
	}
	return int64(n), true
}

func checkSize(s string) (text, hint string) {
	n, ok := parseSize(s)
	if !ok {
		return fmt.Sprintf("%s is not a size", quote(s)), `write "8GiB" or "512MiB"`
	}
	if n < 4096 {
		return fmt.Sprintf("%s is less than one page of memory", quote(s)), `write "8GiB" or "512MiB"`
	}
	return "", ""
}
