#include "textflag.h"

// func cloneShared(flags uintptr, img *image) (pid, errno uintptr)
//
// clone(2) with CLONE_VM and CLONE_VFORK. The child goes on below this frame, while
// the parent stands still. It calls childFirst, which does not return.
TEXT ·cloneShared(SB), NOSPLIT, $0-32
	MOVQ	flags+0(FP), DI
	MOVQ	img+8(FP), R13
	MOVQ	$0, SI
	MOVQ	$0, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$56, AX // SYS_clone
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JCC	failed
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, pid+16(FP)
	MOVQ	AX, errno+24(FP)
	RET

child:
	SUBQ	$64, SP
	MOVQ	R13, 0(SP)
	CALL	·childFirst(SB)
	INT	$3

// func cloneShared3(args *cloneArgs, size uintptr, img *image) (pid, errno uintptr)
//
// The same by clone3(2), for what clone can't be asked.
TEXT ·cloneShared3(SB), NOSPLIT, $0-40
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	img+16(FP), R13
	MOVQ	$435, AX // SYS_clone3
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JCC	failed
	MOVQ	AX, pid+24(FP)
	MOVQ	$0, errno+32(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, pid+24(FP)
	MOVQ	AX, errno+32(FP)
	RET

child:
	SUBQ	$64, SP
	MOVQ	R13, 0(SP)
	CALL	·childFirst(SB)
	INT	$3

// func cloneCommand(flags, stack, entry uintptr, img *image) (pid, errno uintptr)
//
// clone(2) with CLONE_VM. The child starts on a stack of its own and calls entry,
// which is childSecond and does not return; by its address, since the linker
// would take the two lives for one that is nested in itself.
TEXT ·cloneCommand(SB), NOSPLIT, $0-48
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	MOVQ	entry+16(FP), R12
	MOVQ	img+24(FP), R13
	MOVQ	$0, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$56, AX // SYS_clone
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JCC	failed
	MOVQ	AX, pid+32(FP)
	MOVQ	$0, errno+40(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, pid+32(FP)
	MOVQ	AX, errno+40(FP)
	RET

child:
	SUBQ	$64, SP
	MOVQ	R13, 0(SP)
	CALL	R12
	INT	$3

// func secondAddress() uintptr
TEXT ·secondAddress(SB), NOSPLIT, $0-8
	LEAQ	·childSecond(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
