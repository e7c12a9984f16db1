#include "textflag.h"

// func cloneShared(flags uintptr, img *image) (pid, errno uintptr)
//
// See clone_amd64.s.
TEXT ·cloneShared(SB), NOSPLIT, $0-32
	MOVD	flags+0(FP), R0
	MOVD	img+8(FP), R11
	MOVD	ZR, R1
	MOVD	ZR, R2
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$220, R8 // SYS_clone
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCS	failed
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET

failed:
	NEG	R0, R0
	MOVD	ZR, pid+16(FP)
	MOVD	R0, errno+24(FP)
	RET

child:
	SUB	$64, RSP
	MOVD	R11, 8(RSP)
	BL	·childFirst(SB)
	BRK

// func cloneShared3(args *cloneArgs, size uintptr, img *image) (pid, errno uintptr)
TEXT ·cloneShared3(SB), NOSPLIT, $0-40
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	img+16(FP), R11
	MOVD	$435, R8 // SYS_clone3
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCS	failed
	MOVD	R0, pid+24(FP)
	MOVD	ZR, errno+32(FP)
	RET

failed:
	NEG	R0, R0
	MOVD	ZR, pid+24(FP)
	MOVD	R0, errno+32(FP)
	RET

child:
	SUB	$64, RSP
	MOVD	R11, 8(RSP)
	BL	·childFirst(SB)
	BRK

// func cloneCommand(flags, stack, entry uintptr, img *image) (pid, errno uintptr)
TEXT ·cloneCommand(SB), NOSPLIT, $0-48
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1
	MOVD	entry+16(FP), R10
	MOVD	img+24(FP), R11
	MOVD	ZR, R2
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$220, R8 // SYS_clone
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCS	failed
	MOVD	R0, pid+32(FP)
	MOVD	ZR, errno+40(FP)
	RET

failed:
	NEG	R0, R0
	MOVD	ZR, pid+32(FP)
	MOVD	R0, errno+40(FP)
	RET

child:
	SUB	$64, RSP
	MOVD	R11, 8(RSP)
	BL	(R10)
	BRK

// func secondAddress() uintptr
TEXT ·secondAddress(SB), NOSPLIT, $0-8
	MOVD	$·childSecond(SB), R0
	MOVD	R0, ret+0(FP)
	RET
