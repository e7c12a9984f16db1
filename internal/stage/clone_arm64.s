#include "textflag.h"

// func cloneShared(nr, a0, a1, a2 uintptr, img *image) (pid, errno uintptr)
//
// See clone_amd64.s.
TEXT ·cloneShared(SB), NOSPLIT, $0-56
	MOVD	nr+0(FP), R8
	MOVD	a0+8(FP), R0
	MOVD	a1+16(FP), R1
	MOVD	a2+24(FP), R2
	MOVD	img+32(FP), R11
	MOVD	ZR, R3
	MOVD	ZR, R4
	SVC
	CBZ	R0, child
	CMN	$4095, R0
	BCS	failed
	MOVD	R0, pid+40(FP)
	MOVD	ZR, errno+48(FP)
	RET

failed:
	NEG	R0, R0
	MOVD	ZR, pid+40(FP)
	MOVD	R0, errno+48(FP)
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
