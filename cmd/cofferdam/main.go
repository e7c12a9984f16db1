// We wait most of the time: a change of the number of processors is no matter. The
// runtime would ask for it each second, and start a goroutine for that in each start.
//
//go:debug updatemaxprocs=0

// Command cofferdam runs AI coding agents, and any other command, inside a boundary.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"cofferdam/internal/cli"
	"cofferdam/internal/flow"
	"cofferdam/internal/host/probe"
	"cofferdam/internal/linux/thp"
)

// version is set when a release is built.
var version = "development"

func main() {
	// A child that tries one mechanism for doctor; see probe.Child.
	if handled, code := probe.Child(os.Args[1:]); handled {
		os.Exit(code)
	}
	if len(os.Args) > 1 && (os.Args[1] == "run" || os.Args[1] == "exec") {
		// A run allocates some megabytes and is over, or waits for hours: a first
		// collection at 4 MiB, with its threads, would come in the middle of most
		// starts. At 16 MiB it comes where it is worth something. The other
		// commands are over before either matters.
		debug.SetGCPercent(400)
		thp.Heap()
	}
	app := &cli.App{
		Version: version,
		Run:     flow.Run, Plan: flow.Plan, Exec: flow.Exec,
		Questions: flow.Questions, Answer: flow.Answer,
		Discard: flow.Discard,
		Changes: flow.ChangesOf, Apply: flow.Apply,
		Policy: flow.Policy, Check: flow.Check, Explain: flow.Explain, Schema: flow.Schema,
		Trust: flow.TrustFile, Import: flow.Import, Doctor: flow.Doctor,
	}
	os.Exit(cli.Main(context.Background(), app, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
