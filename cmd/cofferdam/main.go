package main

import (
	"context"
	"fmt"
	"os"

	"cofferdam/internal/flow"
)

func main() {
	dir, _ := os.Getwd()
	args := os.Args[1:]
	dry := false
	if args[0] == "-n" {
		dry = true
		args = args[1:]
	}
	st, err := flow.Run(context.Background(), flow.Options{Command: args, DryRun: dry}, flow.Caller{Environ: os.Environ(), Dir: dir, In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	if err != nil {
		fmt.Printf("error: %T %v\n", err, err)
		os.Exit(70)
	}
	os.Exit(st)
}
