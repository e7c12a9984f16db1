package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cofferdam/internal/testenv"
	"cofferdam/test/e2e/modelapi"
)

// programs and its kin are found once, by the first test that needs them; dir
// is where they are built.
var (
	dir      string
	programs = sync.OnceValues(func() (Programs, error) {
		agents, modules, err := InstallAgents(os.Stderr)
		if err != nil {
			return Programs{}, err
		}
		driver := filepath.Join(dir, "driver")
		return Programs{Driver: driver, Agents: agents, Modules: modules}, build(driver, "./test/e2e/driver")
	})
	cofferdam = sync.OnceValues(func() (string, error) { return FindCofferdam(dir) })
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		// Not in a private directory: the throwaway user executes from here.
		if dir, err = os.MkdirTemp("/var/tmp", "cofferdam-e2e-bin-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// site makes a site with the real agents.
func site(t *testing.T) *Site {
	t.Helper()
	if testing.Short() {
		Skip(t, &Missing{testenv.Agents, errors.New("not with -short")})
	}
	p, err := programs()
	if err != nil {
		Skip(t, err)
	}
	return NewSite(t, p)
}

// siteOf makes one for an agent that is not to be had for every machine.
func siteOf(t *testing.T, agent string) *Site {
	t.Helper()
	s := site(t)
	if p, err := programs(); err != nil || p.Agents[agent] == "" {
		testenv.Skip(t, testenv.AMD64, "no "+agent+" for this machine")
	}
	return s
}

// boxes are the ways to run a scenario by name; bwrap only on demand, for it
// is no product of ours.
func boxes() []string {
	if os.Getenv("COFFERDAM_E2E_BWRAP") != "" {
		return []string{"bare", "bwrap", "cofferdam"}
	}
	return []string{"bare", "cofferdam"}
}

// inEachBox runs a subtest for each agent in each box.
func inEachBox(t *testing.T, agents []string, f func(t *testing.T, agent string, box Box)) {
	for _, agent := range agents {
		for _, name := range boxes() {
			t.Run(agent+"/"+name, func(t *testing.T) {
				box := map[string]Box{"bare": Bare, "bwrap": Bubblewrap}[name]
				if name == "cofferdam" {
					file, err := cofferdam()
					if err != nil {
						Skip(t, err)
					}
					box = Cofferdam(file)
				}
				f(t, agent, box)
			})
		}
	}
}

// answered fails the test if the agent left a step unanswered: no verdict can
// be taken from what was not tried.
func answered(t *testing.T, got modelapi.Transcript, steps []modelapi.Step) map[string]modelapi.Call {
	t.Helper()
	calls := map[string]modelapi.Call{}
	for _, c := range got.Calls {
		calls[c.ID] = c
	}
	for _, s := range steps {
		if !calls[s.ID].Done {
			t.Errorf("step %s was never answered; agent's output:\n%s%s", s.ID, got.Stdout, got.Stderr)
		}
	}
	return calls
}
