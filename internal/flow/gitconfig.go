package flow

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/workspace"
)

// gitConfigSize bounds a configuration, gitConfigs how many are read.
const (
	gitConfigSize = 1 << 20
	gitConfigs    = 1000
)

// followGitConfig guards what the repositories of the workspace already have git
// obey elsewhere in it: with core.hooksPath = .husky the files there are hooks, and
// a file that is included is configuration.
func followGitConfig(f *host.Facts, ws string, eff *policy.Effective) {
	root, err := os.OpenRoot(ws)
	if err != nil {
		return // the scan has been there and told
	}
	defer root.Close()
	type config struct{ path, top string } // top: where the work tree is
	var todo []config
	for _, m := range f.Found {
		if dir := filepath.Dir(m.Path); filepath.Base(m.Path) == "config" && filepath.Base(dir) == ".git" && m.Kind == host.KindFile {
			todo = append(todo, config{m.Path, filepath.Dir(dir)})
		}
	}
	seen := map[string]bool{}
	for i := 0; i < len(todo) && i < gitConfigs; i++ {
		c := todo[i]
		for _, s := range readGitConfig(root, strings.TrimPrefix(c.path, ws+"/")) {
			base, dir, reason := "", "", ""
			switch name := s.Section + "." + s.Key; name {
			case "core.hookspath":
				base, dir, reason = c.top, "/", "git runs the hooks in it, by core.hooksPath"
			case "include.path", "includeif.path":
				base, reason = filepath.Dir(c.path), "git takes configuration from it, by "+s.Name()
			default:
				continue
			}
			to := s.Value
			if rest, ok := strings.CutPrefix(to, "~/"); ok {
				base, to = f.Home, rest
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(base, to)
			}
			to = filepath.Clean(to)
			if seen[to] || to == ws || !within(to, ws) {
				continue
			}
			seen[to] = true
			pattern := glob.Escape(strings.TrimPrefix(to, ws+"/")) + dir
			eff.Guards = append(eff.Guards, policy.GuardRule{Pattern: pattern, Reason: reason, Origin: plan.Origin{Layer: "built-in", Key: "guards"}})
			if fact := probe.Paths([]string{to})[to]; fact.Kind == host.KindFile || fact.Kind == host.KindDir {
				f.Found = append(f.Found, host.Found{Path: to, Kind: fact.Kind, Pattern: pattern})
			}
			if dir == "" {
				todo = append(todo, config{to, c.top})
			}
		}
	}
}

// readGitConfig reads one file of the workspace; nothing of one that can't be read
// or understood.
func readGitConfig(root *os.Root, rel string) []workspace.Setting {
	file, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, gitConfigSize))
	if err != nil {
		return nil
	}
	settings, _ := workspace.ParseGitConfig(text)
	return settings
}
