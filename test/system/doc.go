// Package system tries the real program, as a person or a script uses it: how
// it ends, what it leaves behind, what it refuses, and what a command inside
// can see and do. Its tests know nothing of the packages that they run
// through; they see a command line, exit codes, text and the machine.
//
// The tests run one after the other, because most of them count what is left
// on the machine: processes, mounts and files.
//
// SYSTEM_STARTS and SYSTEM_MATCHES in the environment ask for more than fits
// into a run of every day.
package system
