package workspace

import (
	"path"
	"strings"
)

// VetPointer judges a .git file ("gitdir: PATH") of a worktree or submodule:
// it must lead into worktrees/ or modules/ of a .git directory in the
// workspace. target is that path, for the caller to see that no symlink is in it.
func VetPointer(p Place, content []byte) (target, reason string) {
	line := strings.TrimSuffix(string(content), "\n")
	to, ok := strings.CutPrefix(line, "gitdir: ")
	if !ok || hasControl(line) || strings.TrimSpace(to) != to {
		return "", "it is not a plain gitdir line"
	}
	clean, in := p.inside(to)
	if !in {
		return "", "it leads git out of the workspace"
	}
	for _, kind := range []string{"/.git/worktrees/", "/.git/modules/"} {
		if i := strings.Index(clean, kind); i >= 0 && len(clean) > i+len(kind) && i >= len(strings.TrimSuffix(p.Root, "/")) {
			return clean, ""
		}
	}
	return "", "it leads git to a directory that is no worktree or submodule of this project"
}

// VetCommonDir judges the file commondir of a git directory.
func VetCommonDir(gitDir string, content []byte) (reason string) {
	if path.Base(path.Dir(gitDir)) != "worktrees" {
		return "it makes git take configuration and hooks from another directory"
	}
	if s := strings.TrimSuffix(string(content), "\n"); s != "../.." {
		return "it makes git take configuration and hooks from another directory"
	}
	return ""
}

// VetGitDirFile judges the file gitdir of a worktree: the way back to it.
func VetGitDirFile(p Place, content []byte) (reason string) {
	s := strings.TrimSuffix(string(content), "\n")
	if clean, in := p.inside(s); !in || hasControl(s) || path.Base(clean) != ".git" {
		return "it leads git out of the workspace"
	}
	return ""
}

// VetHead judges a HEAD file: a ref or an object name.
func VetHead(content []byte) (reason string) {
	s := strings.TrimSuffix(string(content), "\n")
	if ref, ok := strings.CutPrefix(s, "ref: "); ok {
		if strings.HasPrefix(ref, "refs/") && !strings.Contains(ref, "..") && !hasControl(ref) {
			return ""
		}
	} else if (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == "" {
		return ""
	}
	return "it is neither a branch nor a commit"
}

// VetAlternates judges objects/info/alternates. p.Dir is the objects directory.
func VetAlternates(p Place, content []byte) (targets []string, reason string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(string(content), "\n"), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		clean, in := p.inside(line)
		if !in || line[0] == '"' || hasControl(line) {
			return nil, "it makes git read objects from outside the workspace"
		}
		targets = append(targets, clean)
	}
	return targets, ""
}

// VetTodo judges the list of a rebase in progress: git rebase --continue runs
// its exec lines.
func VetTodo(content []byte) (reason string) {
	for line := range strings.SplitSeq(string(content), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		switch f[0] {
		case "pick", "p", "reword", "r", "edit", "e", "squash", "s", "fixup", "f", "drop", "d", "label", "l", "reset", "t",
			"merge", "m", "update-ref", "u", "break", "b", "noop":
		default:
			return "git rebase --continue runs the commands in it"
		}
	}
	return ""
}
