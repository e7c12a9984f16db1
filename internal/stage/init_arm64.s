#include "textflag.h"

// The init; see init_amd64.s.
//
//	(RSP)    the set of all signals      8(RSP)  wait status
//	16(RSP)  siginfo_t: si_code at 24(RSP), si_pid at 32(RSP)
//	R19 argc   R20 pid of the command
TEXT ·initCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	0(RSP), R19
	MOVD	16(RSP), R1
	SUB	$256, RSP
	MOVD	$-1, R0
	MOVD	R0, 0(RSP)
	MOVD	ZR, R20
	MOVD	$10, R3

digit:
	MOVBU	(R1), R0
	SUB	$48, R0
	CMP	$9, R0
	BHI	wait
	MUL	R3, R20
	ADD	R0, R20
	ADD	$1, R1
	JMP	digit

wait:
	MOVD	RSP, R0
	ADD	$16, RSP, R1
	MOVD	ZR, R2
	MOVD	$8, R3
	MOVD	$137, R8 // rt_sigtimedwait
	SVC
	CMP	$17, R0 // SIGCHLD
	BEQ	reap
	CMP	$0, R0
	BLE	wait
	MOVW	24(RSP), R4
	CBNZ	R4, wait
	CMP	$3, R19
	BEQ	pass
	MOVW	32(RSP), R4
	CBNZ	R4, wait

pass:
	MOVD	R0, R1
	MOVD	R20, R0
	MOVD	$129, R8 // kill
	SVC
	JMP	wait

reap:
	MOVD	$-1, R0
	ADD	$8, RSP, R1
	MOVD	$0x40000001, R2
	MOVD	ZR, R3
	MOVD	$260, R8 // wait4
	SVC
	CMP	R20, R0
	BEQ	over
	CMN	$4, R0 // EINTR
	BEQ	reap
	CMP	$0, R0
	BLE	wait
	JMP	reap

over:
	CMP	$3, R19
	BEQ	tell
	MOVD	$-1, R0
	MOVD	$9, R1
	MOVD	$129, R8
	SVC

rest:
	MOVD	$-1, R0
	MOVD	ZR, R1
	MOVD	$0x40000000, R2
	MOVD	ZR, R3
	MOVD	$260, R8
	SVC
	CMN	$10, R0 // ECHILD
	BNE	rest

tell:
	MOVD	$201, R0
	ADD	$8, RSP, R1
	MOVD	$4, R2
	MOVD	$64, R8 // write
	SVC
	MOVD	ZR, R0
	MOVD	$94, R8 // exit_group
	SVC
	BRK
	// Marks the end for a test.
	WORD	$0x66666663
	WORD	$0x6d726564

// func initAddress() unsafe.Pointer
TEXT ·initAddress(SB), NOSPLIT, $0-8
	MOVD	$·initCode(SB), R0
	MOVD	R0, ret+0(FP)
	RET
