/* The guest's own seccomp filters.
 *
 * A filter is installed in the kernel, behind a few instructions that allow this program's text: so it holds for
 * every call that is not translated. For a translated one the engine's TRAP outranks the guest's ERRNO and the call
 * that is issued comes from the exempt text; so the program is kept in the plan's shared memory too and run here
 * first. A call is thus judged by what the guest asked for, once. KILL and TRAP outrank or equal our TRAP: the
 * kernel has acted on them before we are called.
 */
#include "trap/trap.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define PROLOGUE 6

struct program_kept { /* in plan->filters; 8-aligned */
	uint32_t previous;  /* 1 + offset of the older one, or 0 */
	uint32_t len;
	struct sock_filter code[];
};

static uint32_t field(const struct seccomp_data *d, uint32_t at)
{
	uint32_t v = 0;

	if (at <= sizeof *d - 4 && !(at & 3))
		memcpy(&v, (const char *)d + at, 4);
	return v;
}

static uint32_t alu(uint32_t op, uint32_t a, uint32_t b)
{
	switch (op) {
	case BPF_ADD: return a + b;
	case BPF_SUB: return a - b;
	case BPF_MUL: return a * b;
	case BPF_DIV: return b ? a / b : 0;
	case BPF_MOD: return b ? a % b : 0;
	case BPF_OR: return a | b;
	case BPF_AND: return a & b;
	case BPF_XOR: return a ^ b;
	case BPF_LSH: return a << (b & 31); /* as the machine and the kernel have it */
	case BPF_RSH: return a >> (b & 31);
	default: return -a;
	}
}

/* The kernel has checked the program: jumps are forward and inside, it ends with a return. */
uint32_t bpf_run(const struct sock_filter *code, uint32_t len, const struct seccomp_data *d)
{
	uint32_t a = 0, x = 0, mem[BPF_MEMWORDS] = { 0 };

	for (uint32_t pc = 0; pc < len; pc++) {
		const struct sock_filter *f = &code[pc];
		uint32_t k = f->k, b = BPF_SRC(f->code) == BPF_X ? x : k;

		switch (BPF_CLASS(f->code)) {
		case BPF_LD:
			a = BPF_MODE(f->code) == BPF_ABS ? field(d, k) : BPF_MODE(f->code) == BPF_IMM ? k
			    : BPF_MODE(f->code) == BPF_MEM ? mem[k % BPF_MEMWORDS] : (uint32_t)sizeof *d;
			break;
		case BPF_LDX:
			x = BPF_MODE(f->code) == BPF_IMM ? k : BPF_MODE(f->code) == BPF_MEM ? mem[k % BPF_MEMWORDS] : (uint32_t)sizeof *d;
			break;
		case BPF_ST: mem[k % BPF_MEMWORDS] = a; break;
		case BPF_STX: mem[k % BPF_MEMWORDS] = x; break;
		case BPF_ALU:
			if ((BPF_OP(f->code) == BPF_DIV || BPF_OP(f->code) == BPF_MOD) && !b)
				return 0;
			a = alu(BPF_OP(f->code), a, b);
			break;
		case BPF_JMP: {
			bool yes;
			if (BPF_OP(f->code) == BPF_JA) {
				pc += k;
				break;
			}
			yes = BPF_OP(f->code) == BPF_JEQ ? a == b : BPF_OP(f->code) == BPF_JGT ? a > b
			      : BPF_OP(f->code) == BPF_JGE ? a >= b : (a & b) != 0;
			pc += yes ? f->jt : f->jf;
			break;
		}
		case BPF_RET: return BPF_RVAL(f->code) == BPF_A ? a : k;
		default:
			if (BPF_MISCOP(f->code) == BPF_TAX)
				x = a;
			else
				a = x;
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}

uint32_t filter_run(long nr, const unsigned long a[6], unsigned long pc)
{
	return filter_run_as(ARCH, nr, a, pc);
}

uint32_t filter_run_as(uint32_t arch, long nr, const unsigned long a[6], unsigned long pc)
{
	struct seccomp_data d = { .nr = (int)nr, .arch = arch, .instruction_pointer = pc };
	uint32_t best = SECCOMP_RET_ALLOW;

	if (!self.filter)
		return best;
	for (int i = 0; i < 6; i++)
		d.args[i] = a[i];
	for (uint32_t at = self.filter; at;) {
		const struct program_kept *p = (const void *)(self.core.plan->filters + at - 1);
		uint32_t r = bpf_run(p->code, p->len, &d);

		if ((int32_t)(r & SECCOMP_RET_ACTION_FULL) < (int32_t)(best & SECCOMP_RET_ACTION_FULL))
			best = r;
		at = p->previous;
	}
	return best;
}

/* A page outside of the exempt text with one system call in it: outside(nr, args), and at OUTSIDE_I386 one of i386. */
static void map_outside(void)
{
#if defined(__x86_64__)
	static const uint8_t code[] = {
		0x48, 0x89, 0xf8, 0x49, 0x89, 0xf3,             /* mov %rdi,%rax; mov %rsi,%r11 */
		0x49, 0x8b, 0x3b, 0x49, 0x8b, 0x73, 0x08,       /* mov (%r11),%rdi; mov 8(%r11),%rsi */
		0x49, 0x8b, 0x53, 0x10, 0x4d, 0x8b, 0x53, 0x18, /* mov 16(%r11),%rdx; mov 24(%r11),%r10 */
		0x4d, 0x8b, 0x43, 0x20, 0x4d, 0x8b, 0x4b, 0x28, /* mov 32(%r11),%r8; mov 40(%r11),%r9 */
		0x0f, 0x05, 0xc3,                               /* syscall; ret */
	};
	static const uint8_t code32[] = {
		0x53, 0x55, 0x89, 0xf8, 0x49, 0x89, 0xf3,       /* push %rbx; push %rbp; mov %edi,%eax; mov %rsi,%r11 */
		0x49, 0x8b, 0x1b, 0x49, 0x8b, 0x4b, 0x08,       /* mov (%r11),%rbx; mov 8(%r11),%rcx */
		0x49, 0x8b, 0x53, 0x10, 0x49, 0x8b, 0x73, 0x18, /* mov 16(%r11),%rdx; mov 24(%r11),%rsi */
		0x49, 0x8b, 0x7b, 0x20, 0x49, 0x8b, 0x6b, 0x28, /* mov 32(%r11),%rdi; mov 40(%r11),%rbp */
		0xcd, 0x80, 0x5d, 0x5b, 0xc3,                   /* int $0x80; pop %rbp; pop %rbx; ret */
	};
#else
	static const uint32_t code[] = {
		0xaa0003e8, 0xaa0103e9,             /* mov x8, x0; mov x9, x1 */
		0xa9400520, 0xa9410d22, 0xa9421524, /* ldp x0, x1, [x9]; ldp x2, x3, [x9, #16]; ldp x4, x5, [x9, #32] */
		0xd4000001, 0xd65f03c0,             /* svc #0; ret */
	};
#endif
	char *at = sys_mmap((void *)OUTSIDE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (is_error((long)at))
		return;
	memcpy(at, code, sizeof code);
#if defined(__x86_64__)
	memcpy(at + (OUTSIDE_I386 - OUTSIDE), code32, sizeof code32);
#endif
	__builtin___clear_cache(at, at + sizeof code);
	sys_mprotect(at, PAGE, PROT_READ | PROT_EXEC);
}

void filter_start(void)
{
	if (self.filter)
		map_outside();
}

static long put(const struct sock_fprog *prog, unsigned long flags, bool by_prctl)
{
	return by_prctl ? SC5(__NR_prctl, 22 /* PR_SET_SECCOMP */, SECCOMP_MODE_FILTER, prog, 0, 0)
			: SC3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, prog);
}

long filter_add(struct call *c, const void *prog, unsigned long flags, bool by_prctl)
{
	static const struct sock_filter exempt[PROLOGUE] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ENGINE_BASE >> 32, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, TEXT_SIZE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW), BPF_STMT(BPF_LD | BPF_W | BPF_IMM, 0),
	};
	struct plan *plan = c->core->plan;
	struct sock_fprog in, with;
	struct program_kept *keep;
	size_t size;
	uint32_t at;
	void *memory;
	long r;

	if (c->nr32) {
		struct { uint16_t len; uint32_t filter; } narrow;

		r = guest_read(&narrow, prog, sizeof narrow);
		in = (struct sock_fprog){ narrow.len, (void *)(uintptr_t)narrow.filter };
	} else {
		r = guest_read(&in, prog, sizeof in);
	}
	if (r)
		return -EFAULT;
	if (!in.len || in.len > BPF_MAXINSNS - PROLOGUE)
		return -EINVAL;
	size = (sizeof *keep + in.len * sizeof in.filter[0] + 7) & ~(size_t)7;
	at = __atomic_fetch_add(&plan->filters_used, (uint32_t)size, __ATOMIC_RELAXED);
	if (at + size > FILTER_ARENA)
		return -ENOMEM;
	keep = (void *)(plan->filters + at);
	keep->previous = self.filter;
	keep->len = in.len;
	if (guest_read(keep->code, in.filter, in.len * sizeof in.filter[0]))
		return -EFAULT;
	memory = sys_mmap(NULL, (in.len + PROLOGUE) * sizeof in.filter[0], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)memory))
		return -ENOMEM;
	with.len = (unsigned short)(in.len + PROLOGUE);
	with.filter = memory;
	memcpy(with.filter, exempt, sizeof exempt);
	memcpy(with.filter + PROLOGUE, keep->code, in.len * sizeof in.filter[0]);
	if ((self.patch || self.every || self.eager) && own_memory())
		map_outside();
	r = put(&with, flags, by_prctl);
	sys_munmap(memory, (in.len + PROLOGUE) * sizeof in.filter[0]);
	if (r >= 0 && own_memory())
		self.filter = at + 1;
	return r;
}

long call_seccomp(struct call *c)
{
	if (c->a[0] == SECCOMP_SET_MODE_STRICT)
		return -EINVAL;
	if (c->a[0] == SECCOMP_SET_MODE_FILTER)
		return filter_add(c, (void *)c->a[2], c->a[1], false);
	return call_raw(c);
}
