#include "textflag.h"

// func cloneShared(nr, a0, a1, a2 uintptr, img *image) (pid, errno uintptr)
//
// clone(2) or clone3(2) with CLONE_VM and CLONE_VFORK. The child goes on below this
// frame, while the parent stands still. It calls childFirst, which does not return;
// by its name, so that the linker checks that there is room for it on this stack.
TEXT ·cloneShared(SB), NOSPLIT, $0-56
	MOVQ	nr+0(FP), AX
	MOVQ	a0+8(FP), DI
	MOVQ	a1+16(FP), SI
	MOVQ	a2+24(FP), DX
	MOVQ	img+32(FP), R13
	MOVQ	$0, R10
	MOVQ	$0, R8
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	CMPQ	AX, $0xfffffffffffff001
	JCC	failed
	MOVQ	AX, pid+40(FP)
	MOVQ	$0, errno+48(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, pid+40(FP)
	MOVQ	AX, errno+48(FP)
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
