package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

// paged writes through the person's pager if standard output is a terminal. write is
// told whether it ends on one.
func (c *call) paged(write func(w io.Writer, s report.Style, terminal bool) error) error {
	s := report.StyleOf(c.out, c.env)
	if !isTerminal(c.out) {
		return output(write(c.out, s, false))
	}
	cmd := c.pager()
	if cmd == nil {
		return output(write(c.out, s, true))
	}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil { // it is not there after all
		return output(write(c.out, s, true))
	}
	err = write(in, s, true)
	_ = in.Close()
	_ = cmd.Wait() // how a pager ends says nothing about us
	if errors.Is(err, syscall.EPIPE) {
		return nil // enough was seen
	}
	return output(err)
}

func output(err error) error {
	if err != nil {
		return &outputError{err}
	}
	return nil
}

// pager is $PAGER, or less; nil is none. As with git, $PAGER is a line for the shell:
// it is the person's own.
func (c *call) pager() *exec.Cmd {
	pager, set := "less", false
	less := false
	for _, kv := range c.env {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "PAGER":
			pager, set = value, true
		case "LESS":
			less = true
		}
	}
	if pager == "" || pager == "cat" {
		return nil
	}
	env := c.env
	if !less { // as git: leave if it fits on the screen, pass colours, keep the text
		env = append(append([]string{}, env...), "LESS=FRX")
	}
	cmd := exec.Command("/bin/sh", "-c", pager)
	if !set {
		name, err := exec.LookPath("less")
		if err != nil || !filepath.IsAbs(name) {
			return nil
		}
		cmd = exec.Command(name)
	}
	cmd.Env, cmd.Stdout, cmd.Stderr = env, c.out, c.err
	return cmd
}

// sessionAndPaths tells a session from paths. What stands behind "--" is paths. The
// first word before is a session if one is called so, or begins so and no file does.
func (c *call) sessionAndPaths(words []string) (key string, paths []string, err error) {
	before := len(words)
	if c.dashes >= 0 {
		before = c.dashes
	}
	if before == 0 {
		return "", words, nil
	}
	store, err := session.Open(c.env)
	if err != nil {
		return "", nil, err
	}
	defer store.Close()
	i, err := store.Find(words[0])
	_, noFile := os.Lstat(words[0])
	switch {
	case err == nil && (i.ID == words[0] || i.State.Name == words[0] || noFile != nil):
		return i.ID, words[1:], nil
	case c.dashes > 0: // only a session can stand there
		if err == nil {
			return i.ID, words[1:], nil
		}
		return "", nil, err
	}
	var ambiguous *session.AmbiguousError
	if errors.As(err, &ambiguous) && noFile != nil {
		return "", nil, err
	}
	return "", words, nil
}
