package commits

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/testenv"
	"cofferdam/internal/workspace/change"
)

// pair is a project and the copy of it that a run has worked in.
type pair struct {
	project, copied string
	importer        Importer
}

func newPair(t *testing.T, format string) *pair {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		testenv.Skip(t, testenv.Git, err.Error())
	}
	dir := t.TempDir()
	p := &pair{project: dir + "/project", copied: dir + "/copied"}
	p.importer = Importer{Git: git, Path: os.Getenv("PATH"), Repository: p.project, Scratch: t.TempDir()}
	p.git(t, dir, "init", "-q", "-b", "main", "--object-format="+format, "project")
	write(t, p.project+"/a.txt", "one\n")
	p.git(t, p.project, "add", ".")
	p.git(t, p.project, "commit", "-qm", "first")
	if out, err := exec.Command("cp", "-a", p.project, p.copied).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return p
}

func (p *pair) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x.test")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(name)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) commit(t *testing.T, name, text string) string {
	t.Helper()
	write(t, p.copied+"/"+name, text)
	p.git(t, p.copied, "add", "-A")
	p.git(t, p.copied, "commit", "-qm", "change "+name)
	return p.git(t, p.copied, "rev-parse", "HEAD")
}

// side is a directory as it stands.
type side string

func (s side) Open(name string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(string(s))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if st, err := root.Lstat(name); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file: %v", name, err)
	}
	return root.Open(name)
}

// source compares the two trees.
func (p *pair) source(t *testing.T) Source {
	t.Helper()
	set := &change.Set{}
	states := func(dir string) map[string]*change.State {
		out := map[string]*change.State{}
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == dir {
				return err
			}
			rel, _ := filepath.Rel(dir, name)
			st := &change.State{Type: change.Other}
			switch {
			case d.IsDir():
				st.Type = change.Directory
			case d.Type().IsRegular():
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				st.Type, st.Size, st.Sum = change.File, int64(len(b)), fmt.Sprintf("%x", b)
			case d.Type()&fs.ModeSymlink != 0:
				st.Type = change.Symlink
				st.Link, _ = os.Readlink(name)
			}
			out[rel] = st
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before, after := states(p.project), states(p.copied)
	for name, s := range after {
		if !change.Same(before[name], s) {
			set.Entries = append(set.Entries, change.Entry{Path: name, Old: before[name], New: s})
		}
	}
	for name, s := range before {
		if after[name] == nil {
			set.Entries = append(set.Entries, change.Entry{Path: name, Old: s})
		}
	}
	set.Sort()
	return Source{Set: set, Old: side(p.project), New: side(p.copied), Dir: ".git"}
}

func (p *pair) bring(t *testing.T, wants ...Want) error {
	t.Helper()
	p.importer.Scratch = t.TempDir()
	return p.importer.Import(t.Context(), p.source(t), wants)
}

// Whatever way git keeps refs and objects, the commits of the copy come in whole.
func TestImport(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		for _, way := range []string{"loose", "packed", "packed refs", "both", "detached"} {
			t.Run(format+" "+way, func(t *testing.T) {
				p := newPair(t, format)
				before := p.git(t, p.project, "status", "--porcelain")
				p.commit(t, "a.txt", "two\n")
				switch way {
				case "packed":
					p.git(t, p.copied, "gc", "-q")
				case "packed refs":
					p.git(t, p.copied, "pack-refs", "--all")
				case "both":
					p.git(t, p.copied, "repack", "-qad")
				case "detached":
					p.git(t, p.copied, "checkout", "-q", "--detach")
					p.git(t, p.copied, "branch", "-q", "-f", "main", "HEAD~1")
				}
				tip := p.commit(t, "new/b.txt", strings.Repeat("text\n", 1000))
				f, err := Find(p.source(t))
				if err != nil {
					t.Fatal(err)
				}
				if way == "detached" {
					if f.Head != "" || f.Commit != tip || len(f.Branches) != 0 {
						t.Errorf("found %+v", f)
					}
				} else if f.Head != "main" || len(f.Branches) != 1 || f.Branches[0] != (Branch{"main", tip}) {
					t.Errorf("found %+v, want main at %s", f, tip)
				}
				if err := p.bring(t, Want{tip, "agent/work"}); err != nil {
					t.Fatal(err)
				}
				if got := p.git(t, p.project, "rev-parse", "agent/work"); got != tip {
					t.Errorf("agent/work is %s, want %s", got, tip)
				}
				if got := p.git(t, p.project, "show", "agent/work:new/b.txt"); len(got) != 4999 {
					t.Errorf("the file has %d bytes", len(got))
				}
				p.git(t, p.project, "fsck", "--strict")
				if after := p.git(t, p.project, "status", "--porcelain"); after != before {
					t.Errorf("status %q, before %q", after, before)
				}
			})
		}
	}
}

// packed-refs keeps values that files of their own have overtaken.
func TestStalePackedRefs(t *testing.T) {
	p := newPair(t, "sha1")
	p.git(t, p.project, "pack-refs", "--all")
	write(t, p.project+"/a.txt", "two\n")
	p.git(t, p.project, "commit", "-qam", "second")
	os.RemoveAll(p.copied)
	if out, err := exec.Command("cp", "-a", p.project, p.copied).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	// Another branch gets into packed-refs; main's value there stays the old one.
	text, err := os.ReadFile(p.copied + "/.git/packed-refs")
	if err != nil {
		t.Fatal(err)
	}
	tip := p.git(t, p.project, "rev-parse", "HEAD")
	write(t, p.copied+"/.git/packed-refs", string(text)+tip+" refs/heads/zeta\n")
	f, err := Find(p.source(t))
	if err != nil || len(f.Branches) != 1 || f.Branches[0] != (Branch{"zeta", tip}) {
		t.Errorf("found %+v, %v; main has not moved", f, err)
	}
}

// What is hostile is refused, and leaves the repository as it was.
func TestHostile(t *testing.T) {
	raw := func(t *testing.T, text string) string {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		fmt.Fprint(z, text)
		z.Close()
		return b.String()
	}
	for _, test := range []struct {
		name   string
		do     func(t *testing.T, p *pair) Want
		says   string
		accept bool
	}{
		{"a control that is fine", func(t *testing.T, p *pair) Want { return Want{p.commit(t, "b", "x"), "new"} }, "", true},
		{"an object with other content than its name says", func(t *testing.T, p *pair) Want {
			tip := p.commit(t, "b", "x")
			id := p.git(t, p.copied, "rev-parse", "HEAD:b")
			write(t, p.copied+"/.git/objects/"+id[:2]+"/"+id[2:], raw(t, "blob 1\x00y"))
			return Want{tip, "new"}
		}, "missing", false},
		{"a size that lies", func(t *testing.T, p *pair) Want {
			tip := p.commit(t, "b", "x")
			id := p.git(t, p.copied, "rev-parse", "HEAD:b")
			write(t, p.copied+"/.git/objects/"+id[:2]+"/"+id[2:], raw(t, "blob 900\x00x"))
			return Want{tip, "new"}
		}, "too early", false},
		{"a tree of a gigabyte", func(t *testing.T, p *pair) Want {
			write(t, p.copied+"/.git/objects/00/"+strings.Repeat("0", 38), raw(t, "tree 1073741824\x00"))
			return Want{p.commit(t, "b", "x"), "new"}
		}, "too large", false},
		{"an object that is a link out", func(t *testing.T, p *pair) Want {
			tip := p.commit(t, "b", "x")
			id := p.git(t, p.copied, "rev-parse", "HEAD:b")
			name := p.copied + "/.git/objects/" + id[:2] + "/" + id[2:]
			os.Remove(name)
			if err := os.Symlink("/etc/hostname", name); err != nil {
				t.Fatal(err)
			}
			return Want{tip, "new"}
		}, "missing", false},
		{"a tree with a .git in it", func(t *testing.T, p *pair) Want {
			blob := p.git(t, p.copied, "hash-object", "-w", "a.txt")
			cmd := exec.Command("git", "mktree")
			cmd.Dir, cmd.Stdin = p.copied, strings.NewReader("100644 blob "+blob+"\t.git\n")
			tree, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return Want{p.git(t, p.copied, "commit-tree", "-m", "x", strings.TrimSpace(string(tree))), "new"}
		}, "hasDotgit", false},
		{"a submodule's address that is an option", func(t *testing.T, p *pair) Want {
			return Want{p.commit(t, ".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=touch canary\n"), "new"}
		}, "gitmodulesUrl", false},
		{"a commit that is a blob", func(t *testing.T, p *pair) Want {
			p.commit(t, "b", "x")
			return Want{p.git(t, p.copied, "rev-parse", "HEAD:b"), "new"}
		}, "is not among", false},
		{"a commit that is not there", func(t *testing.T, p *pair) Want { return Want{strings.Repeat("1", 40), "new"} }, "is not among", false},
		{"an option for a commit", func(t *testing.T, p *pair) Want { return Want{"--all", "new"} }, "no commit's name", false},
		{"an option for a branch", func(t *testing.T, p *pair) Want { return Want{p.commit(t, "b", "x"), "-f"} }, "can't be the name", false},
		{"a branch that climbs", func(t *testing.T, p *pair) Want { return Want{p.commit(t, "b", "x"), "../../x"} }, "can't be the name", false},
		{"a branch that would go back", func(t *testing.T, p *pair) Want {
			p.git(t, p.project, "branch", "other")
			p.git(t, p.copied, "checkout", "-q", "--orphan", "fresh")
			return Want{p.commit(t, "b", "x"), "other"}
		}, "non-fast-forward", false},
		{"the branch that is checked out", func(t *testing.T, p *pair) Want { return Want{p.commit(t, "b", "x"), "main"} }, "refusing to fetch into", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t, "sha1")
			for _, hook := range []string{"reference-transaction", "post-update", "post-checkout", "pre-auto-gc"} {
				for _, dir := range []string{p.project, p.copied} {
					write(t, dir+"/.git/hooks/"+hook, "#!/bin/sh\ntouch "+p.project+"/../canary\n")
				}
			}
			w := test.do(t, p)
			for _, dir := range []string{p.project, p.copied} { // from here on, or the commits above would run them
				for _, hook := range []string{"reference-transaction", "post-update", "post-checkout", "pre-auto-gc"} {
					if err := os.Chmod(dir+"/.git/hooks/"+hook, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				p.git(t, dir, "config", "core.fsmonitor", "touch "+p.project+"/../canary; false")
				p.git(t, dir, "config", "uploadpack.packObjectsHook", "touch "+p.project+"/../canary; false")
			}
			before := p.git(t, p.project, "for-each-ref")
			err := p.bring(t, w)
			if test.accept {
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v, want %q", err, test.says)
			} else if after := p.git(t, p.project, "for-each-ref"); after != before {
				t.Errorf("refs %q, before %q", after, before)
			}
			if _, err := os.Stat(filepath.Join(p.project, "../canary")); err == nil {
				t.Error("something that the run had planted was run")
			}
			p.git(t, p.project, "-c", "core.fsmonitor=false", "status")
		})
	}
}

func FuzzLooseHeader(f *testing.F) {
	for _, s := range []string{"blob 3\x00abc", "tree 0\x00", "commit -1\x00", "tag 99999999999999999999\x00", "blob 03\x00", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, size, err := looseHeader(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && !bytes.HasPrefix(b, fmt.Appendf(nil, "%s %d\x00", kind, size)) {
			t.Errorf("%q read as %s of %d", b, kind, size)
		}
	})
}
