package archtest

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestRules(t *testing.T) {
	tree, err := parse(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.pkgs) < 10 {
		t.Fatalf("only %d packages found", len(tree.pkgs))
	}
	for _, p := range tree.problems() {
		t.Error(p)
	}
}

// Each rule notices when it is broken, and what is right passes.
func TestRulesNotice(t *testing.T) {
	for name, x := range map[string]struct {
		files map[string]string
		want  string // "" means no problem
	}{
		"leaf":             {map[string]string{"internal/plan/p.go": `package plan; import _ "cofferdam/internal/event"`}, "a leaf"},
		"leaf, other tags": {map[string]string{"internal/host/x.go": "//go:build darwin\n\npackage host; import _ \"cofferdam/internal/glob\""}, "a leaf"},
		"leaf's test":      {map[string]string{"internal/plan/p_test.go": `package plan; import _ "cofferdam/internal/event"`}, ""},
		"backend": {map[string]string{
			"internal/boundary/native/n.go": `package native; import _ "cofferdam/internal/x"`,
			"internal/x/x.go":               `package x; import _ "cofferdam/internal/policy"`,
		}, "boundary/native -> x -> policy"},
		"linux": {map[string]string{"internal/linux/mount/m.go": `package mount; import _ "cofferdam/internal/session"`}, "without policy"},
		"stage http": {map[string]string{
			"internal/stage/s.go":      `package stage; import _ "cofferdam/internal/linux/call"`,
			"internal/linux/call/c.go": `package call; import _ "net/http"`,
		}, "stage -> linux/call -> net/http"},
		"stage others": {map[string]string{"internal/stage/s.go": `package stage; import _ "github.com/a/b"`}, "nobody else's"},
		"cli":          {map[string]string{"internal/cli/c.go": `package cli; import _ "cofferdam/internal/boundary/native"`}, "flow's list"},
		"cli flow": {map[string]string{
			"internal/cli/c.go":  `package cli; import _ "cofferdam/internal/flow"; import _ "cofferdam/internal/boundary"`,
			"internal/flow/f.go": `package flow; import _ "cofferdam/internal/boundary/native"`,
		}, ""},
		"pure":         {map[string]string{"internal/policy/p.go": `package policy; import _ "cofferdam/internal/host/probe"`}, "pure"},
		"witness":      {map[string]string{"internal/verify/v.go": `package verify; import _ "cofferdam/internal/linux/mount"`}, "witness"},
		"report":       {map[string]string{"internal/report/r.go": `package report; import _ "cofferdam/internal/plan"`}, "events only"},
		"unix":         {map[string]string{"internal/session/s.go": `package session; import "golang.org/x/sys/unix"; var _ = unix.Getpid`}, "raw system calls"},
		"unix in test": {map[string]string{"internal/session/s_test.go": `package session; import "golang.org/x/sys/unix"; var _ = unix.Getpid`}, ""},
		"unix allowed": {map[string]string{"internal/linux/x/s.go": `package x; import "golang.org/x/sys/unix"; var _ = unix.Getpid`}, ""},
		"exit":         {map[string]string{"internal/flow/f.go": `package flow; import "os"; func f() { func() { os.Exit(1) }() }`}, "nobody exits"},
		"fatal":        {map[string]string{"internal/flow/f.go": `package flow; import "log"; func f() { log.Fatal(1) }`}, "nobody exits"},
		"exit in test": {map[string]string{"internal/flow/f_test.go": `package flow; import "os"; func TestX() { os.Exit(1) }`}, "nobody exits"},
		"exit allowed": {map[string]string{
			"cmd/cofferdam/main.go":   `package main; import "os"; func main() { os.Exit(1) }`,
			"internal/flow/f_test.go": `package flow; import "os"; func TestMain() { os.Exit(1) }`,
		}, ""},
		"init":            {map[string]string{"cmd/cofferdam/main.go": `package main; func init() {}; func main() {}`}, "func init"},
		"method init":     {map[string]string{"internal/x/x.go": `package x; type T int; func (T) init() {}`}, ""},
		"name":            {map[string]string{"internal/utils/x.go": `package utils`}, "says nothing"},
		"thread":          {map[string]string{"internal/boundary/native/x.go": `package native; import "runtime"; func f() { runtime.LockOSThread() }`}, "PR_SET_PDEATHSIG"},
		"thread, closure": {map[string]string{"internal/x/x.go": `package x; import "runtime"; func f() { defer runtime.UnlockOSThread(); go func() { runtime.LockOSThread() }() }`}, "PR_SET_PDEATHSIG"},
		"thread allowed": {map[string]string{
			"internal/x/x.go":          `package x; import "runtime"; func f() { go func() { runtime.LockOSThread(); defer runtime.UnlockOSThread() }() }`,
			"internal/host/probe/x.go": `package probe; import "runtime"; func f() { runtime.LockOSThread() }`,
		}, ""},
		"testdata": {map[string]string{"internal/x/testdata/x.go": `not Go`}, ""},
	} {
		fsys := fstest.MapFS{}
		for n, text := range x.files {
			fsys[n] = &fstest.MapFile{Data: []byte(text)}
		}
		tree, err := parse(fsys)
		if err != nil {
			t.Fatal(name, err)
		}
		got := strings.Join(tree.problems(), "\n")
		if x.want == "" && got != "" || !strings.Contains(got, x.want) {
			t.Errorf("%s: got %q, want %q", name, got, x.want)
		}
	}
}
