package workspace

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"cofferdam/internal/testenv"
)

// gitBox is a project with a real repository, and a marker that any planted
// payload makes.
type gitBox struct {
	*bench
	home, marker, payload string
}

func newGitBox(t *testing.T) *gitBox {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		testenv.Skip(t, testenv.Git, err.Error())
	}
	g := &gitBox{bench: setUp(t), home: t.TempDir()}
	g.marker = filepath.Join(g.home, "marker")
	g.payload = filepath.Join(g.home, "payload")
	must(t, os.WriteFile(g.payload, []byte("#!/bin/sh\n: > "+g.marker+"\ntimeout 1 cat 2>/dev/null\nexit 0\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(g.home, ".gitconfig"), []byte("[user]\nname = a\nemail = a@x.test\n[init]\ndefaultBranch = main\n"), 0o644))
	template.Do(func() {
		g.must("", `echo one > file.txt; mkdir other; : > other/x; git init -q; git add file.txt; git commit -qm one`)
		g.must("", `git init -q sub; cd sub; git commit -q --allow-empty -m s; cp ../file.txt .; git add file.txt; git commit -qm s`)
		must(t, fs.WalkDir(os.DirFS(g.root), ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			must(t, err)
			f := &fstest.MapFile{Mode: info.Mode()}
			if !d.IsDir() {
				f.Data, err = os.ReadFile(filepath.Join(g.root, p))
			}
			repository[p] = f
			return err
		}))
		must(t, os.RemoveAll(g.root))
	})
	must(t, os.CopyFS(g.root, repository))
	return g
}

// repository is a project with a repository, and another one, sub, below it. It
// is made once: git is slow to start.
var (
	repository = fstest.MapFS{}
	template   sync.Once
)

// sh runs a shell line in a directory of the workspace as the person or the
// inside would; it may fail.
func (g *gitBox) sh(dir, line string) (string, error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Dir = filepath.Join(g.root, dir)
	cmd.Env = []string{"HOME=" + g.home, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "P=" + g.payload, "ROOT=" + g.root, "GIT_PAGER=cat"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (g *gitBox) must(dir, line string) {
	g.t.Helper()
	if out, err := g.sh(dir, "set -e; "+line); err != nil {
		g.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// fired says whether what the person does next makes the marker.
func (g *gitBox) fired(dir, act string) bool {
	os.Remove(g.marker)
	g.sh(dir, act)
	_, err := os.Stat(g.marker)
	return err == nil
}

// hostActs is daily work of the person on the host.
const hostActs = `git status; git diff HEAD --stat; echo x >> file.txt; git add file.txt; git commit -qm more; git log -1 -p; git checkout -qb b$RANDOM; git fetch; git stash; true`

var attacks = []struct{ name, plant, dir, act string }{
	{"FS-32 hook", `cp $P .git/hooks/pre-commit`, "", hostActs},
	{"FS-32 hook by symlink", `ln -s $P .git/hooks/pre-commit`, "", hostActs},
	{"FS-32 hooks directory replaced", `rm -rf .git/hooks; mkdir h; cp $P h/pre-commit; ln -s ../h .git/hooks`, "", hostActs},
	{"FS-32 hook in a new repository", `git init -q n; cp $P n/.git/hooks/pre-commit; cp file.txt n`, "n", hostActs},
	{"FS-33 fsmonitor appended", `printf '[core]\n\tfsmonitor = %s\n' $P >> .git/config`, "", hostActs},
	{"FS-33 fsmonitor by rename", `cp .git/config c; printf '[core]\n\tfsmonitor = %s\n' $P >> c; mv c .git/config`, "", hostActs},
	{"FS-33 hooksPath", `mkdir h; cp $P h/pre-commit; git config core.hooksPath $ROOT/h`, "", hostActs},
	{"FS-33 filter", `git config filter.x.clean $P; echo '*.txt filter=x' > .gitattributes`, "", hostActs},
	{"FS-33 textconv", `git config diff.x.textconv $P; echo '*.txt diff=x' > .gitattributes`, "", hostActs},
	{"FS-33 external diff", `git config diff.external $P`, "", `echo y >> file.txt; git diff`},
	{"FS-33 alias", `git config alias.lg "!$P"`, "", `git lg`},
	{"FS-33 pager", `git config core.pager $P`, "", `unset GIT_PAGER; script -qec 'git log' /dev/null`},
	{"FS-33 editor", `git config core.editor $P`, "", `echo y >> file.txt; git commit -a`},
	{"FS-33 credential helper", `git config credential.helper "!$P"`, "", `echo url=https://x.test | git credential fill`},
	{"FS-33 include", `printf '[core]\nfsmonitor = %s\n' $P > inc; git config include.path ../inc`, "", hostActs},
	{"FS-33 includeIf", `printf '[core]\nfsmonitor = %s\n' $P > inc; git config includeIf.gitdir:$ROOT/.path ../inc`, "", hostActs},
	{"FS-33 insteadOf", `git config url."ext::$P ".insteadOf https://; git config protocol.ext.allow always`, "", `git ls-remote https://x.test/y`},
	{"FS-33 sshCommand", `git config core.sshCommand $P`, "", `git ls-remote ssh://x.test/y`},
	{"FS-33 ext url", `git config remote.origin.url "ext::$P"; git config protocol.ext.allow always`, "", `git fetch`},
	{"FS-33 upload-pack", `git config remote.origin.url $ROOT; git config remote.origin.uploadpack $P`, "", `git fetch`},
	{"FS-33 signing", `git config gpg.program $P; git config commit.gpgsign true`, "", hostActs},
	{"FS-33 config.worktree", `git config extensions.worktreeConfig true; printf '[core]\nfsmonitor = %s\n' $P > .git/config.worktree`, "", hostActs},
	{"commondir", `cp -r .git evil; printf '[core]\nfsmonitor = %s\n' $P >> evil/config; echo ../evil > .git/commondir`, "", hostActs},
	{"FS-34 pointer file", `mv .git evil; printf '[core]\nfsmonitor = %s\n' $P >> evil/config; echo "gitdir: evil" > .git`, "", hostActs},
	{".git symlink", `mv .git evil; printf '[core]\nfsmonitor = %s\n' $P >> evil/config; ln -s evil .git`, "", hostActs},
	{"bare repository", `git init -q --bare b; printf '[core]\nbare = false\nworktree = ..\nfsmonitor = %s\n' $P >> b/config`, "b", hostActs},
	{"FS-36 submodule config", `git -c protocol.file.allow=always submodule add -q ./sub s 2>/dev/null; printf '[core]\nfsmonitor = %s\n' $P >> .git/modules/s/config`, "s", hostActs},
	{"FS-36 submodule hook", `git -c protocol.file.allow=always submodule add -q ./sub s 2>/dev/null; cp $P .git/modules/s/hooks/pre-commit`, "s", hostActs},
	{"FS-37 worktree pointer", `git worktree add -q w; cp -r .git evil; printf '[core]\nfsmonitor = %s\n' $P >> evil/config; echo "gitdir: $ROOT/evil" > w/.git`, "w", hostActs},
	{"FS-37 worktree commondir", `git worktree add -q w; cp -r .git evil; printf '[core]\nfsmonitor = %s\n' $P >> evil/config; echo ../../../evil > .git/worktrees/w/commondir`, "w", hostActs},
	{"FS-37 worktree config", `git worktree add -q w; git config extensions.worktreeConfig true; printf '[core]\nfsmonitor = %s\n' $P > .git/worktrees/w/config.worktree`, "w", hostActs},
	{"FS-37 worktree of a directory without HEAD", `d=.git/modules; mkdir -p $d/objects $d/refs $d/worktrees/x w; git rev-parse HEAD > $d/worktrees/x/HEAD; echo ../.. > $d/worktrees/x/commondir; printf '[core]\nrepositoryformatversion = 0\nfsmonitor = %s\n' $P > $d/config; echo "gitdir: $ROOT/$d/worktrees/x" > w/.git`, "w", hostActs},
	{"FS-38 attributes", `git config filter.x.clean $P; echo '*.txt filter=x' > .git/info/attributes`, "", hostActs},
	{"rebase todo", `echo 2 > 2; git add 2; git commit -qm 2; GIT_SEQUENCE_EDITOR="sed -i s/^pick/edit/" git rebase -i HEAD~1 >/dev/null 2>&1; echo "exec $P" >> .git/rebase-merge/git-rebase-todo`, "", `git rebase --continue`},
}

func TestAttacksOnGit(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			run := func(sweep bool) (bool, Report) {
				g := newGitBox(t)
				g.take(nil)
				g.must("", a.plant)
				var r Report
				if sweep {
					r = g.sweep()
				}
				return g.fired(a.dir, a.act), r
			}
			if fired, _ := run(false); !fired {
				t.Fatal("negative control: the payload does not run even without the sweep")
			}
			if fired, r := run(true); fired || len(r.SetAside) == 0 || !r.Clean() {
				t.Fatalf("fired %v, %+v", fired, r)
			}
		})
	}
}

// git of the host writes through symlinks in its directory.
func TestGitSymlinks(t *testing.T) {
	for _, link := range []string{"logs/refs/heads/main", "COMMIT_EDITMSG", "logs/HEAD"} {
		for _, sweep := range []bool{false, true} {
			g := newGitBox(t).takeAll()
			victim := filepath.Join(g.home, ".profile")
			must(t, os.WriteFile(victim, nil, 0o644))
			g.must("", "ln -sf "+victim+" .git/"+link)
			if sweep {
				g.sweep()
			}
			g.sh("", hostActs)
			data, _ := os.ReadFile(victim)
			if written := len(data) > 0; written == sweep {
				t.Errorf("%s: sweep %v, written %v", link, sweep, written)
			}
		}
	}
}

func (g *gitBox) takeAll() *gitBox { g.take(nil); return g }

// FS-38: objects from outside the workspace.
func TestGitAlternates(t *testing.T) {
	g := newGitBox(t).takeAll()
	g.must("", "echo "+g.home+"/objects > .git/objects/info/alternates; git clone -q --shared . inner")
	if got := asides(g.sweep()); len(got) != 1 || got[0] != ".git/objects/info/alternates" {
		t.Errorf("set aside %q", got)
	}
	g.must("", "ln -s "+g.home+" out; echo $ROOT/out/objects > .git/objects/info/alternates; mkdir $HOME/objects")
	if got := asides(g.sweep()); len(got) != 1 || got[0] != ".git/objects/info/alternates" {
		t.Errorf("through a symlink: set aside %q", got)
	}
}

// With a writable .git/config, a dangerous line costs only itself.
func TestGitConfigRestored(t *testing.T) {
	g := newGitBox(t).takeAll()
	before := g.bench.read(".git/config")
	g.must("", "git remote add origin https://x.test/y.git; git config core.fsmonitor $P")
	r := g.sweep()
	if got := asides(r); len(got) != 1 || !r.SetAside[0].Restored || g.bench.read(".git/config") != before {
		t.Fatalf("%+v\n%s", r, g.bench.read(".git/config"))
	}
	if !strings.Contains(r.SetAside[0].Reason, "core.fsmonitor") || r.SetAside[0].Rule != 5 {
		t.Errorf("%+v", r.SetAside[0])
	}
	g.must("", "git remote add origin https://x.test/y.git")
	if r := g.sweep(); len(r.SetAside) != 0 {
		t.Errorf("%+v", r)
	}
}

// Daily work inside: nothing of it may be set aside.
func TestDailyGitWork(t *testing.T) {
	g := newGitBox(t)
	g.take(nil)
	for _, line := range []string{
		`git init -q new; cd new; echo a > a; git add -A; git commit -qm a`,
		`git clone -q sub cloned`,
		`git clone -q --bare sub bare.git`,
		`git clone -q --shared sub shared`,
		`git clone -q --mirror sub mirror.git`,
		`echo 2 >> file.txt; git add -A . ':!new' ':!cloned' ':!shared' ':!sub' 2>/dev/null; git commit -qam two`,
		`git checkout -qb topic; git config branch.topic.description text; git checkout -q main; git branch -u topic`,
		`git worktree add -q wt topic; cd wt; echo w > w; git add w; git commit -qm w`,
		`git worktree add -q gone -b gone; git worktree remove gone`,
		`echo 3 >> file.txt; git stash -q; git stash pop -q; git stash -q`,
		`git remote add up https://x.test/a/b.git; git remote add ssh git@x.test:a/b.git; git remote add loc ./sub; git fetch -q loc`,
		`git -c protocol.file.allow=always submodule add -q ./sub s; git commit -qm s`,
		`cd wt; git -c protocol.file.allow=always submodule update --init -q`,
		`git config user.name me; git config pull.rebase true; git tag v1; git branch config; git branch hooks/x; git branch HEAD2`,
		`git checkout -qb t2 HEAD~1; echo z > z; git add z; git commit -qm z; git rebase -q main; git checkout -q main; git merge -q --no-ff t2 -m m; git cherry-pick -m1 HEAD || git cherry-pick --abort`,
		`git gc -q; git maintenance run --task=commit-graph; git sparse-checkout set --cone other; git sparse-checkout disable`,
		`echo a > c1; git add c1; git commit -qm c1; GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -q -i HEAD~1; true`,
	} {
		if out, err := g.sh("", "set -e; "+line); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		r := g.sweep()
		if len(r.SetAside) != 0 || !r.Clean() {
			t.Errorf("after %s:\n%+v", line, r)
		}
	}
	g.must("", `git fsck --no-dangling 2>&1; git status --short >/dev/null; git -C cloned status >/dev/null`)
}
