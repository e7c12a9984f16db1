package workspace

import (
	"io/fs"
	"path/filepath"
	"strings"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

type ScanResult struct {
	Found      []host.Found
	Unreadable []string
	Entries    int
}

func Scan(root string, patterns []string) (ScanResult, error) {
	var r ScanResult
	var ps []glob.Pattern
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") {
			p = glob.Escape(root) + "/" + strings.TrimSuffix(p, "/")
		}
		ps = append(ps, glob.MustCompile(p))
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		for i, p := range ps {
			if p.Match(path) {
				k := host.KindFile
				if d.IsDir() {
					k = host.KindDir
				} else if d.Type()&fs.ModeSymlink != 0 {
					k = host.KindSymlink
				}
				r.Found = append(r.Found, host.Found{Path: path, Kind: k, Pattern: patterns[i]})
			}
		}
		return nil
	})
	return r, err
}

type Baseline struct{}
type Report struct {
	SetAside []Moved
	Problems []string
}
type Moved struct {
	Path, To, Reason string
	Rule             int
	Restore          string
}
type Watcher struct{}

func (*Watcher) Close()                                       {}
func Take(root string, guards []plan.Guard) (Baseline, error) { return Baseline{}, nil }
func Sweep(root string, guards []plan.Guard, b Baseline, aside string) (Report, error) {
	return Report{}, nil
}
func Watch(root string, guards []plan.Guard, b *Baseline, aside string, moved func(Moved)) (*Watcher, error) {
	return &Watcher{}, nil
}
