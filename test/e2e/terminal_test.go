package e2e

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
)

// drawing matches the escape sequences of a terminal: what is left is text.
var drawing = regexp.MustCompile(`\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>78DEHMNOZc])`)

// Issue 2, "Supervise": an interactive agent starts in the terminal, shows its
// prompt, answers what is typed, and leaves on request, and its end is ours.
func TestInteractiveStart(t *testing.T) {
	inEachBox(t, []string{"claude"}, func(t *testing.T, agent string, box Box) {
		if _, err := exec.LookPath("script"); err != nil {
			Skip(t, &Missing{testenv.Agents, err})
		}
		s := site(t)
		s.write(t, filepath.Join(s.Tools, "script.json"), "[]", 0o644)
		inner := []string{filepath.Join(s.Tools, "driver"), "model", agent, filepath.Join(s.Tools, "script.json"), "--", filepath.Join(s.Tools, agent)}
		// script(1) makes the terminal, because we have none.
		line := "stty rows 40 cols 120; exec '" + strings.Join(box.Wrap(s, agent, inner), "' '") + "'"
		cmd := s.command("script", "--quiet", "--return", "--command", line, "/dev/null")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer stop()
		screen := ""
		// await reads until all of texts have been on the screen since the last call.
		await := func(texts ...string) error {
			buf := make([]byte, 4096)
			for raw := ""; ; {
				n, err := out.Read(buf)
				raw += string(buf[:n])
				screen = strings.ReplaceAll(drawing.ReplaceAllString(raw, ""), "\u00a0", " ")
				missing := false
				for _, text := range texts {
					missing = missing || !strings.Contains(strings.ReplaceAll(screen, " ", ""), text)
				}
				if !missing {
					return nil
				}
				if err != nil {
					return errors.Join(err, ctx.Err())
				}
			}
		}
		type step struct {
			typed string
			texts []string
		}
		for _, st := range []step{
			{"", []string{"ClaudeCode", "❯"}},
			{"hello", []string{"hello"}},
			{"\r", []string{"Allstepsaredone."}},
			{"/exit", []string{"/exit"}},
		} {
			if _, err := in.Write([]byte(st.typed)); err != nil {
				t.Fatal(err)
			}
			if err := await(st.texts...); err != nil {
				t.Fatalf("typed %q, waiting for %q: %v; on the screen: %s", st.typed, st.texts, err, screen)
			}
		}
		if _, err := in.Write([]byte("\r")); err != nil {
			t.Fatal(err)
		}
		for err = error(nil); err == nil; { // drain, or it blocks
			_, err = out.Read(make([]byte, 4096))
		}
		if err := cmd.Wait(); err != nil || ctx.Err() != nil {
			t.Errorf("after /exit: %v, %v", err, ctx.Err())
		}
	})
}
