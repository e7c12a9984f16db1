package policy

import (
	"math"
	"path/filepath"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// Place is where paths of rules start.
type Place struct {
	Home      string // "~"
	Workspace string // "."
	// Login is the home of the system's user list where "~" is another one:
	// HOME can be set by mistake, or by a project's .envrc, and the keys lie here.
	Login string
}

// resolve makes a rule of a path as written. ~ is the home, anything relative
// starts at the workspace.
func (p Place) resolve(access Access, text string, o plan.Origin) PathRule {
	r := PathRule{Access: access, Text: text, Origin: o}
	// All of it is a pattern from here on: what home and workspace are called is
	// not meant as one.
	full := text
	switch {
	case text == "~" || strings.HasPrefix(text, "~/"):
		full = glob.Escape(p.Home) + text[1:]
	case !filepath.IsAbs(text):
		full = glob.Escape(p.Workspace) + "/" + text
	}
	full = filepath.Clean(full)
	if glob.HasMeta(full) {
		if pattern, err := glob.Compile(full); err == nil {
			if literal, ok := pattern.Literal(); ok {
				// Only escapes: one path after all.
				r.Pattern = "/" + literal
				return r
			}
		}
		r.Glob = true
	}
	r.Pattern = full
	return r
}

// pattern is the absolute pattern of a path as written.
func (p Place) pattern(text string) string {
	r := p.resolve("", text, plan.Origin{})
	if r.Glob {
		return r.Pattern
	}
	return glob.Escape(r.Pattern)
}

// layer is one source of rules: a document with its place in the order.
type layer struct {
	name string // Origin.Layer
	file string
	doc  *Document
	// narrow: only what takes rights away counts; the file is not trusted.
	narrow bool
}

func (l layer) origin(key string, pos Pos) plan.Origin {
	return plan.Origin{Layer: l.name, File: l.file, Line: pos.Line, Key: key}
}

// trustHint is what to do about a layer that is not trusted. Trust is in one file
// of a project, not in what that file extends.
func (l layer) trustHint(p Place) string {
	if l.file == filepath.Join(p.Workspace, ProjectFile) {
		return "read the file, then: cofferdam policy trust"
	}
	return "only " + ProjectFile + " can be trusted: write it there, or into your own policy"
}

// add appends the rules of one layer to the effective policy. What an untrusted
// layer may not say is left out, with a warning.
func (e *Effective) add(l layer, place Place) {
	d := l.doc
	e.sources++
	widening := func(key string, pos Pos, text string) bool {
		if l.narrow {
			e.Warnings = append(e.Warnings, Warning{
				Text:   key + " " + text + " is left out: the project's policy is not trusted, so it can only take rights away",
				Hint:   l.trustHint(place),
				Origin: l.origin(key, pos),
			})
		}
		return l.narrow
	}
	for _, list := range []struct {
		access Access
		values []Val[string]
	}{
		{AllowRead, d.Filesystem.AllowRead}, {AllowWrite, d.Filesystem.AllowWrite},
		{DenyRead, d.Filesystem.DenyRead}, {DenyWrite, d.Filesystem.DenyWrite},
	} {
		key := "filesystem." + string(list.access)
		allow := list.access == AllowRead || list.access == AllowWrite
		for _, v := range list.values {
			if allow && widening(key, v.Pos, v.V) {
				continue
			}
			e.path(place.resolve(list.access, v.V, l.origin(key, v.Pos)))
		}
	}
	for _, f := range d.Credentials.Files {
		if r := place.resolve(DenyRead, f.Path.V, l.origin("credentials.files", f.Path.Pos)); !isMask(f.Mode) {
			e.path(r)
		} else if !widening("credentials.files", f.Path.Pos, f.Path.V) {
			r.Access = Mask
			e.path(r)
			e.Masks = append(e.Masks, f.mask(r))
		}
	}
	for _, v := range d.Environment.Allow {
		if !widening("environment.allow", v.Pos, v.V) {
			e.Env = append(e.Env, EnvRule{EnvAllow, v.V, "", l.origin("environment.allow", v.Pos)})
		}
	}
	for _, name := range sortedKeys(d.Environment.Set) {
		v := d.Environment.Set[name]
		if !widening("environment.set", v.Pos, name) {
			e.Env = append(e.Env, EnvRule{EnvSet, name, v.V, l.origin("environment.set", v.Pos)})
		}
	}
	for _, v := range d.Environment.Deny {
		e.Env = append(e.Env, EnvRule{EnvDeny, v.V, "", l.origin("environment.deny", v.Pos)})
	}
	for _, v := range d.Credentials.EnvVars {
		o := l.origin("credentials.envVars", v.Name.Pos)
		if !isMask(v.Mode) {
			e.Env = append(e.Env, EnvRule{EnvDeny, v.Name.V, "", o})
		} else if !widening("credentials.envVars", v.Name.Pos, v.Name.V) {
			e.Env = append(e.Env, EnvRule{EnvMask, v.Name.V, "", o})
			e.Masks = append(e.Masks, v.mask(o))
		}
	}
	for _, n := range []struct {
		key    string
		values []Val[string]
	}{
		{"allowedDomains", d.Network.AllowedDomains}, {"deniedDomains", d.Network.DeniedDomains}, {"allowedCIDRs", d.Network.AllowedCIDRs},
		{"tunnelDomains", d.Network.TunnelDomains},
	} {
		for _, v := range n.values {
			if n.key != "deniedDomains" && widening("network."+n.key, v.Pos, v.V) {
				continue
			}
			e.Net = append(e.Net, NetRule{Key: n.key, Value: v.V, Origin: l.origin("network."+n.key, v.Pos)})
		}
	}
	for _, r := range d.Network.Rules {
		if r.effect() == Deny || !widening("network.rules", r.Host.Pos, r.Host.V) {
			e.Net = append(e.Net, r.net(l.origin("network.rules", r.Host.Pos)))
		}
	}
	for _, v := range d.Network.ExtraRoots {
		if !widening("network.extraRoots", v.Pos, v.V) {
			e.ExtraRoots = append(e.ExtraRoots, place.resolve("", v.V, l.origin("network.extraRoots", v.Pos)))
		}
	}
	e.addBudgets(l)
	for _, v := range d.Workspace.Protect {
		e.Guards = append(e.Guards, GuardRule{v.V, "the policy protects it", l.origin("workspace.protect", v.Pos), e.sources})
	}
	for _, v := range d.Workspace.Unprotect {
		if widening("workspace.unprotect", v.Pos, v.V) {
			continue
		}
		if !e.unprotect(v.V) {
			e.Warnings = append(e.Warnings, Warning{
				Text:   "workspace.unprotect " + v.V + ": no protected name is spelled like this",
				Hint:   "cofferdam policy show lists them",
				Origin: l.origin("workspace.unprotect", v.Pos),
			})
		}
	}
	e.addLimits(l, widening)
	e.addSettings(l, widening)
}

// path appends a rule of the source that is being added.
func (e *Effective) path(r PathRule) {
	r.Strength = e.sources
	e.Paths = append(e.Paths, r)
}

// unprotect removes the guards with this pattern; managed ones stay.
func (e *Effective) unprotect(pattern string) bool {
	found := false
	kept := e.Guards[:0]
	for _, g := range e.Guards {
		if g.Pattern == pattern && g.Origin.Layer != managedLayer {
			found = true
			continue
		}
		kept = append(kept, g)
	}
	e.Guards = kept
	return found
}

func (e *Effective) addLimits(l layer, widening func(string, Pos, string) bool) {
	r := l.doc.Resources
	set := func(name, unit, key string, value int64, pos Pos, text string) {
		for i := range e.Limits {
			have := &e.Limits[i]
			if have.Name != name {
				continue
			}
			// The managed layer comes last and is a ceiling over all others.
			if value > have.Value && (l.name == managedLayer || widening(key, pos, text)) {
				return
			}
			*have = LimitRule{name, value, unit, l.origin(key, pos)}
			return
		}
		e.Limits = append(e.Limits, LimitRule{name, value, unit, l.origin(key, pos)})
	}
	if v := r.Timeout; v != nil {
		d, _ := parseDuration(v.V)
		set("time", "ms", "resources.timeout", d.Milliseconds(), v.Pos, v.V)
	}
	if v := r.Memory; v != nil {
		n, _ := parseSize(v.V)
		set("memory", "bytes", "resources.memory", n, v.Pos, v.V)
	}
	if v := r.CPUs; v != nil {
		set("cpus", "millicpu", "resources.cpus", int64(math.Round(v.V*1000)), v.Pos, "")
	}
	if v := r.Processes; v != nil {
		set("processes", "count", "resources.processes", int64(v.V), v.Pos, "")
	}
	if v := r.OpenFiles; v != nil {
		set("open-files", "count", "resources.openFiles", int64(v.V), v.Pos, "")
	}
	if v := r.TempSize; v != nil {
		n, _ := parseSize(v.V)
		set("temp-size", "bytes", "resources.tempSize", n, v.Pos, v.V)
	}
}

func (e *Effective) addSettings(l layer, widening func(string, Pos, string) bool) {
	d := l.doc
	// A managed choice stays whatever a weaker layer says; layers are added
	// weakest first and the managed one last, so it simply overwrites.
	if v := d.Boundary; v != nil {
		e.Boundary = Setting[string]{v.V, l.origin("boundary", v.Pos)}
	}
	if v := d.Workspace.Mode; v != nil && (v.V != "live" || e.WorkspaceMode.Value == v.V || !widening("workspace.mode", v.Pos, v.V)) {
		e.WorkspaceMode = Setting[string]{v.V, l.origin("workspace.mode", v.Pos)}
	}
	if v := d.Network.Unlisted; v != nil && (v.V == "deny" || e.Unlisted.Value == v.V || !widening("network.unlisted", v.Pos, v.V)) {
		e.Unlisted = Setting[string]{v.V, l.origin("network.unlisted", v.Pos)}
	}
	if v := d.Network.UpstreamProxy; v != nil && !widening("network.upstreamProxy", v.Pos, v.V) {
		// Whoever says by which proxy says also what goes past it.
		e.UpstreamProxy, e.NoProxy = Setting[string]{strings.TrimSuffix(v.V, "/"), l.origin("network.upstreamProxy", v.Pos)}, nil
	}
	for _, v := range d.Network.NoProxy {
		if !widening("network.noProxy", v.Pos, v.V) {
			e.NoProxy = append(e.NoProxy, Setting[string]{v.V, l.origin("network.noProxy", v.Pos)})
		}
	}
	if v := d.Workspace.Home; v != nil {
		if v.V == "ephemeral" || e.Home.Value != "ephemeral" || !widening("workspace.home", v.Pos, v.V) {
			e.Home = Setting[string]{v.V, l.origin("workspace.home", v.Pos)}
		}
	}
	if v := d.Identity.AllowRoot; v != nil && (!v.V || !widening("identity.allowRoot", v.Pos, "true")) {
		e.AllowRoot = Setting[bool]{v.V, l.origin("identity.allowRoot", v.Pos)}
	}
	if v := d.Network.Registries; v != nil && (!v.V || !widening("network.registries", v.Pos, "true")) {
		e.Registries = Setting[bool]{v.V, l.origin("network.registries", v.Pos)}
	}
	if v := d.Filesystem.AllowGitConfig; v != nil && (!v.V || !widening("filesystem.allowGitConfig", v.Pos, "true")) {
		e.AllowGitConfig = Setting[bool]{v.V, l.origin("filesystem.allowGitConfig", v.Pos)}
	}
}
