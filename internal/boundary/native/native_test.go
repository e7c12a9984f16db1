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
	if what := os.Getenv(variableLook); what != "" {
		os.Exit(look(what))
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
