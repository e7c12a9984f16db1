// Package e2e runs real AI coding agents, as their makers publish them, inside
// the boundary and beside it. A stand-in for the model (modelapi) makes them
// work, or attack, by a fixed script; the host decides afterwards what got
// through, by canaries that only it knows.
//
// Every attack is first run bare, as its negative control: an attack that does
// not succeed without a boundary proves nothing about one. Bare runs happen as
// a throwaway user (if we are root) with a throwaway home, never in a real one.
//
//	go test ./test/e2e                          everything (first time: npm downloads 700 MB)
//	go test -short ./test/e2e                   nothing that needs an agent
//	REQUIRE=agents go test ./test/e2e           a skip for want of agents is a failure
//	COFFERDAM=/path/to/binary                   test this binary, don't build one
//	COFFERDAM_E2E_CACHE=DIR                     where the agents are kept (default: .cache/e2e)
//	COFFERDAM_E2E_BWRAP=1                       run the scenarios in a plain bubblewrap box, too
//	COFFERDAM_E2E_KEEP=DIR                      keep the transcripts there
package e2e
