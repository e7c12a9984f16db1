package flow

import (
	"os"
	"testing"

	"cofferdam/internal/host/probe"
)

// The trial of a mechanism starts the program again, as cmd/cofferdam expects; without
// this, that would be all tests once more.
func TestMain(m *testing.M) {
	if handled, code := probe.Child(os.Args[1:]); handled {
		os.Exit(code)
	}
	os.Exit(m.Run())
}
