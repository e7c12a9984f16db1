package boundarytest

const (
	nameToHandleAt = 264
	renameat2      = 276
)
