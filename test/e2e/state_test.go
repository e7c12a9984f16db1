package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/test/e2e/modelapi"
)

// Issue 2, "Agents for real": an agent's state lives in a private home of the
// project. What a login leaves there is there the next time; it is neither in
// the person's own home nor in reach of another project. Bare, the same state
// is in the person's home and every project sees it.
func TestStateBelongsToTheProject(t *testing.T) {
	const name = "login-of-the-test"
	inEachBox(t, []string{"claude", "codex"}, func(t *testing.T, agent string, box Box) {
		if box.Name == "bwrap" {
			return // its home is a tmpfs: it keeps nothing
		}
		s := site(t)
		shell := func(command string) string {
			steps := []modelapi.Step{{ID: "shell", Tool: modelapi.Shell, Command: `cd "${CLAUDE_CONFIG_DIR:-${CODEX_HOME:-$HOME/.claude}}"; ` + command}}
			return answered(t, s.Run(t, box, agent, AgentArgs(agent), steps), steps)["shell"].Result
		}
		canary := s.Canary("login")
		shell("pwd; echo " + canary + " > " + name)
		if got := shell("cat " + name); !strings.Contains(got, canary) {
			t.Errorf("the second session in the project finds %q", got)
		}
		outside := s.Content(t, filepath.Join(s.Home, "."+agent, name)) != ""
		s.SetWorkspace(t, "src/second")
		other := strings.Contains(shell("cat "+name), canary)
		if bare := box.Name == "bare"; outside != bare || other != bare {
			t.Errorf("state in the person's home: %v, seen by another project: %v, want both %v", outside, other, bare)
		}
	})
}
