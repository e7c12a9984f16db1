package boundarytest

const nameToHandleAt = 303
