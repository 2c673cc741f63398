/* libFuzzer: a guest's seccomp program and a call. What the interpreter says is what the kernel says: the program is
 * installed in a child that then makes the call.
 *
 *   byte 0      selects the call's number; 1 to 6 its arguments; 7: raw instructions follow
 *   4 bytes     an instruction: which of those that seccomp takes, jt, jf, a constant by number
 *
 * An interpreted program is one that the kernel took; the arguments are those of the call. */
#undef UDK_CHECKED
#include "hosted.h"

#include "trap/seccomp.c"

#include <linux/wait.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int vfork(void) __attribute__((returns_twice));

struct process self;
static struct plan plan;
static unsigned runs;

bool own_memory(void)
{
	return true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	self.core.plan = &plan;
	sys_prctl(38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0);
	return 0;
}

static const uint16_t codes[] = {
	BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_IMM, BPF_LD | BPF_MEM, BPF_LD | BPF_W | BPF_LEN, BPF_LDX | BPF_IMM, BPF_LDX | BPF_MEM,
	BPF_LDX | BPF_W | BPF_LEN, BPF_ST, BPF_STX, BPF_ALU | BPF_ADD | BPF_K, BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_SUB | BPF_K,
	BPF_ALU | BPF_SUB | BPF_X, BPF_ALU | BPF_MUL | BPF_K, BPF_ALU | BPF_MUL | BPF_X, BPF_ALU | BPF_DIV | BPF_K, BPF_ALU | BPF_DIV | BPF_X,
	BPF_ALU | BPF_AND | BPF_K, BPF_ALU | BPF_AND | BPF_X, BPF_ALU | BPF_OR | BPF_K, BPF_ALU | BPF_OR | BPF_X, BPF_ALU | BPF_XOR | BPF_K,
	BPF_ALU | BPF_XOR | BPF_X, BPF_ALU | BPF_LSH | BPF_K, BPF_ALU | BPF_LSH | BPF_X, BPF_ALU | BPF_RSH | BPF_K, BPF_ALU | BPF_RSH | BPF_X,
	BPF_ALU | BPF_NEG, BPF_MISC | BPF_TAX, BPF_MISC | BPF_TXA, BPF_JMP | BPF_JA, BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JEQ | BPF_X,
	BPF_JMP | BPF_JGT | BPF_K, BPF_JMP | BPF_JGT | BPF_X, BPF_JMP | BPF_JGE | BPF_K, BPF_JMP | BPF_JGE | BPF_X, BPF_JMP | BPF_JSET | BPF_K,
	BPF_JMP | BPF_JSET | BPF_X, BPF_RET | BPF_K, BPF_RET | BPF_A, BPF_ALU | BPF_MOD | BPF_K,
};

static NORETURN void differ(const struct program_kept *p, uint32_t action, const char *what, long real)
{
	for (uint32_t i = 0; i < p->len; i++)
		say(2, "%3u: %04x %u %u %08x\n", i, p->code[i].code, p->code[i].jt, p->code[i].jf, p->code[i].k);
	say(2, "%08x: %s, but the kernel said %ld\n", action, what, real);
	abort();
}

static uint32_t constant(unsigned n)
{
	static const uint32_t values[] = { 0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 20, 24, 28, 31, 32, 33, 56, 60, 64, 0x7fff0000, 0x00050000, 0x00050001,
					   0x0005000d, 0x00050fff, 0x00051000, 0x7ffc0000, 0x00030000, 0x80000000, 0xffffffff, 0x7fffffff, ARCH, __NR_getppid,
					   __NR_getuid, 0x00060000, 0x12345678, 100, 255, 256, 65535, 65536, 0x00040000, 0xdeadbeef };

	return n < ARRAY_LEN(values) ? values[n] : n * 0x01000193U;
}

/* What a child is told by the kernel: the call's result, or -4096 when it did not live. A program that the kernel
 * does not take: 1. The child has our memory and writes the answer there; it may not be able to make any call. */
__attribute__((no_sanitize("address", "undefined", "coverage"))) static long by_kernel(const struct sock_fprog *prog, long nr, const unsigned long *a)
{
	static volatile long answer;
	static struct ksigaction none;
	int status = 0, pid;

	answer = -4096;
	pid = vfork();
	if (!pid) {
		long r;
		for (int sig = 1; sig < 32; sig++)
			SC4(__NR_rt_sigaction, sig, &none, NULL, 8);
		r = SC3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, prog);
		if (r) {
			answer = r == -EINVAL || r == -524 /* ENOTSUPP: its compiler gives up */ ? 1 : -5000;
			SC1(__NR_exit_group, 0);
		}
		answer = SC6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		for (;;)
			__asm__ volatile("ud2");
	}
	while (SC4(__NR_wait4, pid, &status, 0, NULL) == -EINTR)
		;
	if (answer == -4096 && (status & 127) != 31 /* SIGSYS */) {
		say(2, "the child ended with %x\n", (unsigned)status);
		abort();
	}
	return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int numbers[] = { __NR_getppid, __NR_getuid, __NR_getgid, 1000, -1, 511 };
	static struct sock_filter code[4096];
	struct sock_fprog prog = { .filter = code };
	struct program_kept *kept = (void *)plan.filters;
	unsigned long args[6], before;
	long nr, real;
	uint32_t action;

	if (size < 12)
		return 0;
	nr = numbers[data[0] % ARRAY_LEN(numbers)];
	for (int i = 0; i < 6; i++)
		args[i] = data[1 + i] & 1 ? (unsigned long)constant(data[1 + i] >> 1) << 32 | data[1 + i] : constant(data[1 + i] >> 1);
	for (const uint8_t *at = data + 8; at + 4 <= data + size && prog.len < 200; at += 4) {
		struct sock_filter *f = &code[prog.len++];

		*f = (struct sock_filter){ data[7] == 0xff ? (uint16_t)(at[0] | at[1] << 8) : codes[at[0] % ARRAY_LEN(codes)], at[1], at[2], constant(at[3]) };
		if (BPF_CLASS(f->code) == BPF_JMP && data[7] != 0xff) { /* mostly inside */
			f->jt &= 7, f->jf &= 7;
			if (BPF_OP(f->code) == BPF_JA)
				f->k &= 7;
		}
		if ((BPF_CLASS(f->code) == BPF_ST || BPF_CLASS(f->code) == BPF_STX || (BPF_MODE(f->code) == BPF_MEM && BPF_CLASS(f->code) <= BPF_LDX)) && !(at[2] & 0x80))
			f->k &= 15;
	}
	if (!(data[size - 1] & 1)) /* mostly with an end */
		code[prog.len++] = (struct sock_filter){ BPF_RET | (data[size - 1] & 2 ? BPF_A : BPF_K), 0, 0, 0x00050000 | data[size - 1] };
	real = by_kernel(&prog, nr, args);
	if (real == -5000) {
		say(2, "no filter can be installed here\n");
		abort();
	}
	if (real == 1)
		return 0;
	kept->previous = 0;
	kept->len = prog.len;
	memcpy(kept->code, code, prog.len * sizeof code[0]);
	self.filter = 1;
	before = 0x400000; /* a place in the program; the kernel's filter was told of another */
	action = filter_run(nr, args, before);
	runs++;
	for (size_t i = 0; i < prog.len; i++) /* so what the filter makes of it is not to be compared */
		if (code[i].code == (BPF_LD | BPF_W | BPF_ABS) && (code[i].k == 8 || code[i].k == 12))
			return 0;
	switch (action & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW: case SECCOMP_RET_LOG: {
		long plain = SC6(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
		if (real != plain && nr != __NR_getppid) {
			differ(kept, action, "allowed", real);
		}
		break;
	}
	case SECCOMP_RET_ERRNO:
		if (real != -(long)MIN(action & SECCOMP_RET_DATA, 4095) && (action & SECCOMP_RET_DATA || nr != __NR_getppid)) {
			differ(kept, action, "an error", real);
		}
		break;
	case SECCOMP_RET_TRACE: case SECCOMP_RET_USER_NOTIF:
		if (real != -ENOSYS) {
			differ(kept, action, "nobody is asked", real);
		}
		break;
	default: /* the child is killed, or trapped without a handler */
		if (real != -4096) {
			differ(kept, action, "killed", real);
		}
	}
	return 0;
}
