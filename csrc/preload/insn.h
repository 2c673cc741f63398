/* x86-64 instructions: how long they are, and the little more that moving them elsewhere needs. */
#ifndef UDK_PRELOAD_INSN_H
#define UDK_PRELOAD_INSN_H

#include "sys/sys.h"

enum insn_flags {
	I_FIXED = 1,   /* means something else at another address: branches, calls, operands relative to rip, traps */
	I_BRANCH = 2,  /* to `target` */
	I_END = 4,     /* what follows is reached by jumps only: ret, jmp, hlt, ud2 */
	I_SYSCALL = 8, /* 0f 05 */
	I_INT80 = 16,  /* cd 80, 0f 34 */
	I_KEEPS_RAX = 32, /* surely does not write rax, and goes on with the next instruction */
	I_ODD = 128,   /* not found in programs: privileged, or what zeros are */
	I_SETS_EAX = 64,  /* eax becomes `value` */
};

struct insn {
	uint8_t len;
	uint8_t flags;
	int32_t value;
	int64_t target; /* of a branch, relative to the instruction's first byte */
};

#define INSN_MAX 15

/* The length of the instruction at p, of which n bytes can be read; 0 when it is none. */
int insn_decode(const uint8_t *p, size_t n, struct insn *i);

#endif
