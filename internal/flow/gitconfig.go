package flow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	unknown := func(path, why string) {
		eff.Warnings = append(eff.Warnings, policy.Warning{
			Text:   fmt.Sprintf("%s: %s: hooks and configuration that it names in the workspace are not guarded", path, why),
			Origin: plan.Origin{Layer: "built-in", Key: "guards"},
		})
	}
	for i := 0; i < len(todo); i++ {
		c := todo[i]
		if i == gitConfigs {
			unknown(c.path, fmt.Sprintf("neither this nor any more was read after %d git configurations", gitConfigs))
			break
		}
		settings, err := readGitConfig(root, strings.TrimPrefix(c.path, ws+"/"))
		if err != nil {
			unknown(c.path, err.Error())
		}
		for _, s := range settings {
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

// readGitConfig reads one file of the workspace. One that is not there says nothing.
func readGitConfig(root *os.Root, rel string) ([]workspace.Setting, error) {
	file, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, bare(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, gitConfigSize+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(text) > gitConfigSize {
		return nil, fmt.Errorf("more than %d MiB", gitConfigSize>>20)
	}
	return workspace.ParseGitConfig(text)
}
