package native

import (
	"os"
	"testing"

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
