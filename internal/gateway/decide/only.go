package decide

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// only is plan.Requests, ready to be asked.
type only struct {
	methods, acts []string
	paths, refs   []glob.Pattern
	// fold: a denial. Letters of either case are one to it, as they are to some
	// servers; an allow takes the letters as they are written.
	fold bool
}

func compileOnly(n plan.Requests, fold bool) (*only, error) {
	if len(n.Methods)+len(n.Paths)+len(n.Acts)+len(n.Refs) == 0 {
		return nil, fmt.Errorf("it is narrowed to nothing")
	}
	o := &only{methods: n.Methods, acts: n.Acts, fold: fold}
	for _, m := range n.Methods {
		if err := CheckMethod(m); err != nil {
			return nil, err
		}
	}
	for _, a := range n.Acts {
		if !slices.Contains(acts[:], a) {
			return nil, fmt.Errorf("%s is no act", quote(a))
		}
	}
	for _, p := range n.Paths {
		if err := CheckPath(p); err != nil {
			return nil, err
		}
		o.paths = append(o.paths, o.compile(p))
	}
	if len(n.Refs) > 0 && !slices.Contains(n.Acts, GitPush) {
		return nil, fmt.Errorf("refs are what a git push changes, and it speaks of none")
	}
	for _, p := range n.Refs {
		if err := CheckRef(p); err != nil {
			return nil, err
		}
		o.refs = append(o.refs, o.compile(p))
	}
	return o, nil
}

func (o *only) compile(text string) glob.Pattern {
	if o.fold {
		text = lower(text)
	}
	return pattern(text)
}

// CheckMethod says what is wrong with a method in a rule.
func CheckMethod(s string) error {
	if s == "" || len(s) > 32 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return fmt.Errorf("%s is no method: those are words in capitals, such as GET", quote(s))
	}
	return nil
}

// CheckPath says what is wrong with a pattern of paths: it has to be as paths are when
// nothing in them is encoded any more.
func CheckPath(s string) error {
	bad := func(why string) error { return fmt.Errorf("%s is no pattern of paths: %s", quote(s), why) }
	switch {
	case !strings.HasPrefix(s, "/"):
		return bad(`it begins with "/"`)
	case strings.ContainsAny(s, "?#"):
		return bad("it ends before the query")
	case strings.ContainsAny(s, "%;"):
		return bad(`it is compared with what is decoded and has no parameters, so it has no "%" and no ";"`)
	}
	return checkSegments(strings.TrimSuffix(s[1:], "/"), bad)
}

// CheckRef says what is wrong with a pattern of refs.
func CheckRef(s string) error {
	bad := func(why string) error { return fmt.Errorf("%s is no pattern of refs: %s", quote(s), why) }
	if !strings.HasPrefix(s, "refs/") || strings.HasSuffix(s, "/") {
		return bad(`it is whole, as "refs/heads/main"`)
	}
	return checkSegments(s, bad)
}

func checkSegments(s string, bad func(string) error) error {
	if printable(s) != s {
		return bad("it has characters that can't be printed, or it is too long")
	}
	for one := range strings.SplitSeq(s, "/") {
		switch {
		case one == "." || one == "..":
			return bad("it has a dot segment, which never comes")
		case one == "" && s != "":
			return bad("it has an empty segment")
		case strings.Contains(one, "**") && one != "**":
			return bad(`"**" is a whole segment`)
		}
	}
	if _, err := glob.Compile(s); err != nil {
		return bad(err.Error())
	}
	return nil
}

// fits says whether a request is one of those, so far as method, path and act go. A
// nil o is every request, but publish says whether acts that publish are among them if
// they are not named.
func (o *only) fits(method string, segments []string, act string, publish bool) bool {
	if o == nil {
		return publish || !publishes(act)
	}
	if len(o.methods) > 0 && !slices.Contains(o.methods, method) {
		return false
	}
	if len(o.acts) > 0 && !slices.Contains(o.acts, act) || len(o.acts) == 0 && publishes(act) && !publish {
		return false
	}
	return len(o.paths) == 0 || o.at(segments)
}

// at says whether one of the paths is this one.
func (o *only) at(segments []string) bool {
	if o.fold {
		segments = lowerAll(segments)
	}
	return len(o.paths) == 0 || slices.ContainsFunc(o.paths, func(p glob.Pattern) bool { return matches(p, segments) })
}

// has says whether a change is of one of the refs. What git would not take for a ref is
// of none that is allowed, and of all that are denied.
func (o *only) has(ref string) bool {
	if !isRef(ref) {
		return o.fold
	}
	segments := strings.Split(ref, "/")
	if o.fold {
		segments = lowerAll(segments)
	}
	return slices.ContainsFunc(o.refs, func(p glob.Pattern) bool { return matches(p, segments) })
}

// isRef: a name that git takes for a ref (git-check-ref-format(1)).
func isRef(name string) bool {
	segments := strings.Split(name, "/")
	for _, s := range segments {
		if s == "" || s[0] == '.' || strings.Contains(s, "..") || strings.ContainsAny(s, `\~^:?*[ `) {
			return false
		}
	}
	return segments[0] == "refs" && len(segments) > 1 && printable(name) == name
}

// registry says whether packages are at a path, by a rule that speaks of one host.
func (o *only) registry(segments []string) bool {
	return o != nil && (slices.Contains(o.acts, PackageInstall) || slices.Contains(o.acts, PackagePublish)) && o.at(segments)
}

// literal is the pattern of one path; a segment that no pattern can say is "*".
func literal(segments []string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		if s != "" && !strings.ContainsAny(s, "/?#%;") && printable(s) == s {
			b.WriteString(glob.Escape(s))
		} else {
			b.WriteByte('*')
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// printable keeps what prints, and bounds it.
func printable(s string) string {
	const most = 300
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return quote(s)
	}
	return s
}
