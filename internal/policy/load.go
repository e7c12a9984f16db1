package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cofferdam/internal/plan"
)

// managedLayer is the layer of an organisation: its denials are absolute and its
// choices are the last word.
const managedLayer = "managed"

// ManagedFile is where an organisation puts its policy.
const ManagedFile = "/etc/cofferdam/managed.jsonc"

// ProjectFile is where a project keeps its own, relative to the workspace.
const ProjectFile = ".cofferdam/policy.jsonc"

// maxExtends bounds how deep files may build on files.
const maxExtends = 8

// maxFiles bounds how many are read in all: forty files that each name forty would
// else take longer than anybody waits, and a project's are a stranger's.
const maxFiles = 100

// Source says where the layers come from. All paths are absolute; that there may be
// no home is a thing of the machine, and refused.
type Source struct {
	Place
	// File is --policy: it takes the place of the user's and the project's
	// file. Empty for the usual layers.
	File string
	// UserFile and Managed need not exist.
	UserFile, Managed string
	// Trusted tells whether this content of a project's file is trusted.
	Trusted func(path string, content []byte) bool

	// Unattended: nobody looks on, so a copy of the workspace is the default.
	Unattended bool

	// Command chooses the agent's profile, Tools those of the toolchains
	// that are on PATH; Profiles are asked for by name.
	Command  string
	Tools    []string
	Profiles []string

	// Flags is a document made of the command line, the strongest layer but
	// for the managed file.
	Flags *Document
}

// Load reads the layers and puts them together, weakest first: built in,
// profiles, user file, project file, flags, managed file. All problems of all
// files are reported at once, as Problems.
func Load(s Source) (*Effective, error) {
	if !filepath.IsAbs(s.Home) {
		// "~/" would be "/".
		return nil, Problems{{File: "policy", Text: "no home directory is known, so nothing that rules say of \"~\" has a meaning",
			Hint: "set HOME to a directory of your own"}}
	}
	l := &loader{source: s, e: &Effective{}}
	l.e.builtin(s.Place)
	if s.Unattended {
		l.e.WorkspaceMode.Value = "copy"
	}
	for _, p := range chooseProfiles(s) {
		l.profile(p)
	}
	if s.File != "" {
		l.named(s.File)
	} else {
		l.optional("user", s.UserFile)
		l.project()
	}
	for _, name := range s.Profiles {
		if _, ok := profiles[name]; !ok {
			l.problems = append(l.problems, Problem{File: "--profile", Text: quote(name) + " is not a profile", Hint: "known are " + strings.Join(ProfileNames(), ", ")})
		}
	}
	if s.Flags != nil {
		l.e.add(layer{name: "flag", doc: s.Flags}, s.Place)
	}
	l.optional(managedLayer, s.Managed)
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	l.finish()
	return l.e, nil
}

type loader struct {
	source   Source
	e        *Effective
	problems Problems
	files    []string // read so far
}

func (l *loader) fail(file string, err error) {
	var ps Problems
	if errors.As(err, &ps) {
		l.problems = append(l.problems, ps...)
		return
	}
	var fe fileError
	if errors.As(err, &fe) {
		err = fe.err
	}
	l.problems = append(l.problems, Problem{File: file, Text: err.Error()})
}

// named reads a file that must be there. It may be another tool's settings.
func (l *loader) named(file string) {
	data, err := readFile(file)
	if err != nil {
		l.fail(file, err)
		return
	}
	if kind := Foreign(data); kind != "" {
		l.files = append(l.files, file)
		doc, _, findings, err := importAt(l.source.Place, file, data)
		if err != nil {
			l.fail(file, err)
			return
		}
		for _, f := range findings {
			if f.Effect == Carried {
				continue
			}
			l.e.Warnings = append(l.e.Warnings, Warning{Text: f.Key + ": " + f.Text, Origin: plan.Origin{Layer: "import:" + kind, File: file, Line: f.Line, Key: f.Key}})
		}
		l.e.add(layer{name: "import:" + kind, file: file, doc: doc}, l.source.Place)
		return
	}
	l.document(layer{name: "user", file: file}, data, nil)
}

// optional reads a file that need not be there.
func (l *loader) optional(name, file string) {
	if file == "" {
		return
	}
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) && nowhere(file) {
		return
	}
	if err != nil {
		l.fail(file, err)
		return
	}
	l.document(layer{name: name, file: file}, data, nil)
}

// nowhere says of a file that is not found whether it was meant not to be there. A
// symlink to nothing, its own or one of a directory above it (of dotfiles, or of a
// share that is not mounted), is a policy that somebody meant to be here.
func nowhere(file string) bool {
	for p := file; ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			return true // a directory without it
		}
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if p == filepath.Dir(p) {
			return false
		}
	}
}

// project reads the workspace's own file. It comes from whoever wrote the
// repository, so it may only narrow until the person has trusted this very
// content.
func (l *loader) project() {
	file := filepath.Join(l.source.Workspace, ProjectFile)
	data, err := readBelow(l.source.Workspace, ProjectFile)
	if errors.Is(err, fs.ErrNotExist) && nowhere(file) {
		return
	}
	if err != nil {
		l.fail(file, err)
		return
	}
	trusted := l.source.Trusted != nil && l.source.Trusted(file, data)
	l.document(layer{name: "project", file: file, narrow: !trusted}, data, nil)
}

// document parses a file and adds what it extends, then the file itself.
func (l *loader) document(at layer, data []byte, above []string) {
	if l.files = append(l.files, at.file); len(l.files) > maxFiles {
		if len(l.files) == maxFiles+1 {
			l.problems = append(l.problems, Problem{File: at.file, Text: fmt.Sprintf("more than %d files that extend one another", maxFiles)})
		}
		return
	}
	doc, err := Parse(at.file, data)
	if err != nil {
		l.fail(at.file, err)
		return
	}
	above = append(above, at.file)
	for _, v := range doc.Extends {
		if len(l.files) > maxFiles {
			return
		}
		problem := func(text, hint string) {
			l.problems = append(l.problems, Problem{File: at.file, Line: v.Pos.Line, Col: v.Pos.Col, Key: "extends", Text: text, Hint: hint})
		}
		if _, ok := profiles[v.V]; ok {
			if at.narrow {
				l.e.Warnings = append(l.e.Warnings, Warning{
					Text: "extends " + v.V + " is left out: the project's policy is not trusted", Hint: at.trustHint(l.source.Place),
					Origin: at.origin("extends", v.Pos),
				})
				continue
			}
			l.profile(v.V)
			continue
		}
		if !strings.ContainsAny(v.V, "./") {
			hint := "known profiles are " + strings.Join(ProfileNames(), ", ")
			if n := nearest(v.V, ProfileNames()); n != "" {
				hint = "did you mean " + quote(n) + "?"
			}
			problem(quote(v.V)+" is not a profile", hint)
			continue
		}
		file := v.V
		switch {
		case strings.HasPrefix(file, "~/"):
			file = filepath.Join(l.source.Home, file[2:])
		case !filepath.IsAbs(file):
			file = filepath.Join(filepath.Dir(at.file), file)
		}
		if slices.Contains(above, file) {
			problem(quote(v.V)+" leads back to this file", "")
			continue
		}
		if len(above) >= maxExtends {
			problem("more than eight files deep", "")
			continue
		}
		read := func() ([]byte, error) { return readFile(file) }
		if at.name == "project" {
			// A project's policy builds on files of the project only, and
			// trust in one file is no trust in another.
			rel, err := filepath.Rel(l.source.Workspace, file)
			if err != nil || !filepath.IsLocal(rel) {
				problem(quote(v.V)+" is outside the project", "put it in the user's policy")
				continue
			}
			read = func() ([]byte, error) { return readBelow(l.source.Workspace, rel) }
		}
		more, err := read()
		if err != nil {
			problem(err.Error(), "")
			continue
		}
		next := layer{name: at.name, file: file, narrow: at.narrow}
		if at.name == "project" {
			next.narrow = l.source.Trusted == nil || !l.source.Trusted(file, more)
		}
		l.document(next, more, above)
	}
	at.doc = doc
	l.e.add(at, l.source.Place)
}

// finish does what needs all layers.
func (l *loader) finish() {
	e := l.e
	if !e.Registries.Value {
		e.Asked = nil
	}
	switch {
	case e.AllowGitConfig.Value:
		for _, p := range gitConfigGuards {
			e.unprotect(p)
		}
	case e.AllowGitConfig.Origin.Layer == managedLayer:
		// An organisation's no is one to workspace.unprotect, too.
		for _, p := range gitConfigGuards {
			e.Guards = append(e.Guards, GuardRule{p, "git runs programs that it names", e.AllowGitConfig.Origin, e.sources})
		}
	}
	// A policy can lie in the workspace, or in what a rule lets be written. The
	// strongest source: whatever opens the file itself does not open it.
	e.sources++
	slices.Sort(l.files)
	for _, file := range slices.Compact(l.files) {
		file = filepath.Clean(file)
		e.path(PathRule{Access: DenyWrite, Pattern: file, Text: file, Reason: "who writes a policy decides what the next run may do", Optional: true, Origin: builtinOrigin("policy files")})
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
