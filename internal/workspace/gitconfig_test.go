package workspace

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var ws = Place{Root: "/ws", Dir: "/ws/.git"}

func TestVetConfig(t *testing.T) {
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n", true},
		{"[remote \"origin\"]\n\turl = https://x.test/a.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n[branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n", true},
		{"[remote \"o\"]\nurl = git@x.test:a/b.git\n", true},
		{"[remote \"o\"]\nurl = ssh://git@x.test/a\n", true},
		{"[remote \"o\"]\nurl = ../sub\n", true},
		{"[remote \"o\"]\nurl = /ws/other\n", true},
		{"[remote \"o\"]\nurl = /etc\n", false},
		{"[remote \"o\"]\nurl = ../../out\n", false},
		{"[remote \"o\"]\nurl = ext::sh -c x\n", false},
		{"[remote \"o\"]\nurl = EXT::sh\n", false},
		{"[remote \"o\"]\nurl = fd::3\n", false},
		{"[remote \"o\"]\nurl = --upload-pack=x\n", false},
		{"[remote \"o\"]\nurl = ssh://-oProxyCommand=x/y\n", false},
		{"[remote \"o\"]\nurl = ssh://u@-oProxyCommand=x/y\n", false},
		{"[remote \"o\"]\nurl = https://x%0ahost=y/\n", false},
		{"[remote \"o\"]\nurl = foo://x/y\n", false},
		{"[remote \"o\"]\nuploadpack = x\n", false},
		{"[remote \"o\"]\nvcs = x\n", false},
		{"[remote \"o\"]\nproxy = x\n", false},
		{"[branch \"m\"]\nremote = ext::sh -c x\n", false},
		{"[branch \"m\"]\nremote = .\n", true},
		{"[core]\nworktree = ../../../sub\n", false},
		{"[core]\nworktree = ../sub\n", true},
		{"[core]\nworktree = ../a\tb\n", false},
		{"[core]\nworktree = ../a b\t# c\n", true},
		{"[core]\nfsmonitor = x\n", false},
		{"[CORE] FSMonitor=x\n", false},
		{"[core]\\\nfsmonitor=x\n", false},
		{"[core]\nbare = false ; c\nhooksPath = x\n", false},
		{"[core]\nbare = \\\nfalse\nfsmonitor = x", false},
		{"[user]\nname = \"a\\\"\n[core]\nfsmonitor=x #\"\n", false},
		{"[user]\nname = a # \\\n[core]\nfsmonitor = x\n", false},
		{"[core] sshcommand", false},
		{"[include]\npath = x\n", false},
		{"[includeIf \"gitdir:/\"]\npath = x\n", false},
		{"[alias]\nst = !x\n", false},
		{"[filter \"x\"]\nclean = x\n", false},
		{"[diff \"x\"]\ntextconv = x\n", false},
		{"[merge \"x\"]\ndriver = x\n", false},
		{"[credential]\nhelper = x\n", false},
		{"[credential \"https://x\"]\nhelper = x\n", false},
		{"[url \"ext::x\"]\ninsteadOf = https://\n", false},
		{"[gpg]\nprogram = x\n", false},
		{"[gpg \"ssh\"]\nprogram = x\n", false},
		{"[pager]\nlog = x\n", false},
		{"[protocol \"ext\"]\nallow = always\n", false},
		{"[http]\nproxy = x\n", false},
		{"[core]\nattributesFile = x\n", false},
		{"[core]\ngitProxy = x\n", false},
		{"[submodule \"s\"]\nurl = https://x/y\nactive = true\nupdate = checkout\n", true},
		{"[submodule \"s\"]\nupdate = !x\n", false},
		{"[sequence]\neditor = x\n", false},
		{"[core.x]\nbare = true\n", false},
		{"\xef\xbb\xbf[core]\nbare = true\n", false},
		{"[core]\r\nbare = true\r\n", false},
		{"", true},
	} {
		if reason := VetConfig(ws, nil, []byte(c.text)); (reason == "") != c.ok {
			t.Errorf("%q: %q", c.text, reason)
		}
	}
	before := []byte("[core]\nfsmonitor = true\n[alias]\na = b\n")
	for text, ok := range map[string]bool{
		"[core]\nfsmonitor = true\n[alias]\na = b\n[user]\nname = x\n": true,
		"[core]\nfsmonitor = x\n[alias]\na = b\n":                      false,
		"[core]\nfsmonitor = true\n":                                   false,
		"[alias]\na = b\n[core]\nfsmonitor = true\n":                   false,
	} {
		if reason := VetConfig(ws, before, []byte(text)); (reason == "") != ok {
			t.Errorf("%q after %q: %q", text, before, reason)
		}
	}
}

func TestVetGitFiles(t *testing.T) {
	top := Place{Root: "/ws", Dir: "/ws/wt"}
	for text, ok := range map[string]bool{
		"gitdir: /ws/.git/worktrees/wt\n": true, "gitdir: ../.git/modules/wt\n": true, "gitdir: ../.git/modules/../../evil\n": false,
		"gitdir: /etc/.git/worktrees/x\n": false, "gitdir: ../evil\n": false, "gitdir: ../.git/worktrees/\n": false, "gitdir:../.git/modules/x": false,
		"gitdir: ../.git/modules/x\nmore": false, "": false, "gitdir: ../../ws/.git/modules/x": true, "gitdir: ../../.git/modules/x": false,
	} {
		if _, reason := VetPointer(top, []byte(text)); (reason == "") != ok {
			t.Errorf("pointer %q: %q", text, reason)
		}
	}
	for _, c := range []struct {
		dir, text string
		ok        bool
	}{{"/ws/.git/worktrees/a", "../..\n", true}, {"/ws/.git/worktrees/a", "../../x\n", false}, {"/ws/.git", "../..\n", false}, {"/ws/.git/modules/a", ".\n", false}} {
		if reason := VetCommonDir(c.dir, []byte(c.text)); (reason == "") != c.ok {
			t.Errorf("commondir %v: %q", c, reason)
		}
	}
	for text, ok := range map[string]bool{"pick abc x\n# c\n": true, "exec rm\n": false, "x rm": false, "  exec y": false, "": true} {
		if reason := VetTodo([]byte(text)); (reason == "") != ok {
			t.Errorf("todo %q: %q", text, reason)
		}
	}
	for text, ok := range map[string]bool{"/ws/a/objects\n": true, "../../o/.git/objects\n": true, "../../../o\n": false, "/etc\n": false, "\"/ws/x\"\n": false} {
		if _, reason := VetAlternates(Place{"/ws", "/ws/.git/objects"}, []byte(text)); (reason == "") != ok {
			t.Errorf("alternates %q: %q", text, reason)
		}
	}
}

// What we parse, git must parse to the same list: the fuzz target runs the
// real git on every text that we accept.
func FuzzGitConfig(f *testing.F) {
	for _, s := range []string{
		"[a]\nb=c", "[a \"x\\\"y\"]\nb = \"c d\" e ; f\n", "[a]b\n[c]\nd=\\\n  e\\\n f\n", "[a]\nb = c\\td\\n\\b\\\\\n", "[a]\nb = \"x # y\" # z\n",
		"[A \"B\"] C = d\n", "# x\\\n[a]\nb=\n", "[a]\nb = x  \t y  \n", "[a]\nb = \"\" \n", "[a]\nb=\\\n", "[a]\n1=b", "[a\t\"b\"]c=d", "[a]\nb=\" \\\n x\"\n",
		"[a]\nb = x \\\n  \n", "[a]\nb =   \\\n  # y\n", "[a]b=c[d]e=f\n",
	} {
		f.Add([]byte(s))
	}
	dir, err := os.MkdirTemp("", "gitconfig")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParseGitConfig(text)
		if err != nil {
			return
		}
		VetConfig(ws, nil, text)
		file := filepath.Join(t.TempDir(), "config")
		must(t, os.WriteFile(file, text, 0o600))
		cmd := exec.Command("git", "config", "-f", file, "--list", "-z", "--no-includes")
		cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return // git refuses what we read: nothing is obeyed
		}
		var want strings.Builder
		for _, s := range got {
			want.WriteString(s.Name())
			if !s.Bare {
				want.WriteString("\n" + s.Value)
			}
			want.WriteByte(0)
		}
		// Git 2.45 began to keep tabs within a value; before, they were spaces.
		flat := func(s string) string { return strings.ReplaceAll(s, "\t", " ") }
		if flat(string(out)) != flat(want.String()) {
			t.Fatalf("%q:\n git %q\nours %q", text, out, want.String())
		}
	})
}
