package system

// rigged is the first argument of this test binary as a helper that breaks
// something for itself and then executes the program.
const rigged = "rigged"

func rig([]string) int { return 1 }
