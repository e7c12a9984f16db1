package boundarytest

const (
	nameToHandleAt = 303
	renameat2      = 316
)
