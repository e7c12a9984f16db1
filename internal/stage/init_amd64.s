#include "textflag.h"

// The init: all that pid 1 of a boundary is, once it has put everything up. It is
// never called here: its bytes become an executable of their own (init.go), so it
// uses nothing but its registers, its stack and system calls, and only relative
// jumps. All signals are blocked when it starts.
//
// Arguments: a name; the pid of the command in decimal digits; and, when it is not
// pid 1 of a namespace but waits for one command only, a third one.
//
//	(SP)    the set of all signals       8(SP)  wait status
//	16(SP)  siginfo_t: si_code at 24(SP), si_pid at 32(SP)
//	R12 argc   R13 pid of the command
TEXT ·initCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	0(SP), R12
	MOVQ	16(SP), SI
	SUBQ	$256, SP
	MOVQ	$-1, 0(SP)
	MOVQ	$0, R13

digit:
	MOVBLZX	(SI), AX
	SUBQ	$48, AX
	CMPQ	AX, $9
	JHI	wait
	IMULQ	$10, R13
	ADDQ	AX, R13
	ADDQ	$1, SI
	JMP	digit

wait:
	// rt_sigtimedwait(&set, &info, NULL, 8)
	MOVQ	SP, DI
	LEAQ	16(SP), SI
	MOVQ	$0, DX
	MOVQ	$8, R10
	MOVQ	$128, AX
	SYSCALL
	CMPQ	AX, $17 // SIGCHLD
	JEQ	reap
	CMPQ	AX, $0
	JLE	wait
	// Only what kill(2) sent; as pid 1 only from outside the namespace,
	// where the sender has no pid.
	CMPL	24(SP), $0
	JNE	wait
	CMPQ	R12, $3
	JEQ	pass
	CMPL	32(SP), $0
	JNE	wait

pass:
	// kill(command, signal)
	MOVQ	AX, SI
	MOVQ	R13, DI
	MOVQ	$62, AX
	SYSCALL
	JMP	wait

reap:
	// wait4(-1, &status, WNOHANG|__WALL, NULL)
	MOVQ	$-1, DI
	LEAQ	8(SP), SI
	MOVQ	$0x40000001, DX
	MOVQ	$0, R10
	MOVQ	$61, AX
	SYSCALL
	CMPQ	AX, R13
	JEQ	over
	CMPQ	AX, $-4 // EINTR
	JEQ	reap
	CMPQ	AX, $0
	JLE	wait
	JMP	reap

over:
	CMPQ	R12, $3
	JEQ	tell
	// kill(-1, SIGKILL), and wait until nobody is left.
	MOVQ	$-1, DI
	MOVQ	$9, SI
	MOVQ	$62, AX
	SYSCALL

rest:
	MOVQ	$-1, DI
	MOVQ	$0, SI
	MOVQ	$0x40000000, DX
	MOVQ	$0, R10
	MOVQ	$61, AX
	SYSCALL
	CMPQ	AX, $-10 // ECHILD
	JNE	rest

tell:
	// write(Status, &status, 4)
	MOVQ	$201, DI
	LEAQ	8(SP), SI
	MOVQ	$4, DX
	MOVQ	$1, AX
	SYSCALL
	MOVQ	$0, DI
	MOVQ	$231, AX // exit_group
	SYSCALL
	INT	$3
	// Marks the end for a test.
	QUAD	$0x6d72656466666663

// func initAddress() unsafe.Pointer
TEXT ·initAddress(SB), NOSPLIT, $0-8
	LEAQ	·initCode(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
