package native

import (
	"os"
	"testing"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

func TestMain(m *testing.M) {
	if done, code := boundarytest.Main(); done {
		os.Exit(code)
	}
	os.Exit(testenv.Main(m))
}

func fuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func TestSuite(t *testing.T) {
	t.Run("plain", func(t *testing.T) { boundarytest.Run(t, Boundary{}, func(*plan.Plan) {}) })
	t.Run("seen", func(t *testing.T) {
		if !fuse() {
			testenv.Skip(t, testenv.Fuse, "/dev/fuse can't be opened")
		}
		boundarytest.Run(t, Boundary{}, func(p *plan.Plan) { p.FuseMasks, p.SeccompNotify = true, true })
	})
}

// No string of a plan makes a panic, or is cut short.
func TestNULIsRefused(t *testing.T) {
	w := boundarytest.New(t)
	for name, spoil := range map[string]func(*plan.Plan){
		"program":     func(p *plan.Plan) { p.Program += "\x00" },
		"argument":    func(p *plan.Plan) { p.Command = append(p.Command, "a\x00b") },
		"directory":   func(p *plan.Plan) { p.Dir += "\x00" },
		"host name":   func(p *plan.Plan) { p.Identity.Hostname = "\x00" },
		"environment": func(p *plan.Plan) { p.Environment = append(p.Environment, plan.EnvVar{Name: "A", Value: "\x00"}) },
		"source":      func(p *plan.Plan) { p.Mounts[0].Source += "\x00" },
		"target":      func(p *plan.Plan) { p.Mounts[0].Target += "\x00" },
	} {
		p := w.Plan("/bin/true")
		spoil(p)
		if _, err := program(p, boundary.Streams{}, descriptors{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// BenchmarkStart is the whole of a boundary around /bin/true, by what it reports.
func BenchmarkStart(b *testing.B) {
	for _, kind := range []string{"plain", "notify", "fuse", "both"} {
		b.Run(kind, func(b *testing.B) {
			w := boundarytest.New(b)
			p := w.Plan("/bin/true")
			p.SeccompNotify = kind == "notify" || kind == "both"
			p.FuseMasks = kind == "fuse" || kind == "both"
			s := boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
			for b.Loop() {
				r, err := Boundary{}.Start(b.Context(), p, s, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
