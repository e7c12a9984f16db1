package boundarytest

const nameToHandleAt = 264
