/* The ways in and out of C, and the reading of guest memory that may fault. */
#include "trap/trap.h"

#define STRING(x) #x
#define TEXT(x) STRING(x)

#if defined(__x86_64__)
/* trap_entry: SIGSYS. on_trap returns 1 when the registers can be restored here, without rt_sigreturn: legal because
 * a system call clobbers rcx and r11, which leaves rcx for the jump back. The vector registers come from the frame;
 * the mask of what to restore is the frame's own (472 is sw_reserved.xfeatures).
 *
 * fast_common: from a patched site, with rax = number, rcx = where to return, r11 free; all else is preserved.
 *
 * On aarch64 a system call leaves every register but x0 as it is: there is none to jump back by, so rt_sigreturn is the
 * only way, and sites are not rewritten. */
__asm__(".text\n"
	".globl trap_restorer\ntrap_restorer: mov $15, %eax\n syscall\n hlt\n"
	".globl trap_entry\ntrap_entry:\n"
	"	sub $8, %rsp\n	mov %rdx, %rbx\n	call on_trap\n	test %eax, %eax\n	jz 2f\n"
	"	mov 224(%rbx), %rdi\n	test %rdi, %rdi\n	jz 1f\n"
	"	mov 472(%rdi), %eax\n	mov 476(%rdi), %edx\n	xrstor64 (%rdi)\n"
	"1:	mov 40(%rbx), %r8\n	mov 48(%rbx), %r9\n	mov 56(%rbx), %r10\n"
	"	mov 72(%rbx), %r12\n	mov 80(%rbx), %r13\n	mov 88(%rbx), %r14\n	mov 96(%rbx), %r15\n"
	"	mov 104(%rbx), %rdi\n	mov 112(%rbx), %rsi\n	mov 120(%rbx), %rbp\n	mov 136(%rbx), %rdx\n"
	"	mov 144(%rbx), %rax\n	mov 168(%rbx), %rcx\n	mov 160(%rbx), %rsp\n	mov 128(%rbx), %rbx\n	jmp *%rcx\n"
	"2:	add $8, %rsp\n	ret\n"
	".globl fault_entry\nfault_entry:\n"
	"	push %rdi\n	push %rsi\n	push %rdx\n	call on_fault\n	pop %rdx\n	pop %rsi\n	pop %rdi\n"
	"	test %rax, %rax\n	jz 1f\n	jmp *%rax\n1:	ret\n"
	".globl fast_common\nfast_common:\n"
	"	lea -128(%rsp), %rsp\n	push %rbp\n	mov %rsp, %rbp\n"
	"	push %rcx\n	push %rdi\n	push %rsi\n	push %rdx\n	push %r8\n	push %r9\n	push %r10\n"
	"	and $-16, %rsp\n	cld\n	push %rcx\n	push %r9\n	mov %r8, %r9\n	mov %r10, %r8\n	mov %rdx, %rcx\n"
	"	mov %rsi, %rdx\n	mov %rdi, %rsi\n	mov %rax, %rdi\n	call on_patched\n"
	"	mov -8(%rbp), %rcx\n	mov -16(%rbp), %rdi\n	mov -24(%rbp), %rsi\n	mov -32(%rbp), %rdx\n"
	"	mov -40(%rbp), %r8\n	mov -48(%rbp), %r9\n	mov -56(%rbp), %r10\n"
	"	mov %rbp, %rsp\n	pop %rbp\n	lea 128(%rsp), %rsp\n	jmp *%rcx\n"
	".balign 8\n.globl lenders\nlenders:\n	.set at, 0\n	.rept " TEXT(LENDERS) "\n	syscall\n	jmp *lender_of+at(%rip)\n	.set at, at+8\n	.endr\n");
unsigned long lender_of[LENDERS];
#else
__asm__(".text\n"
	".globl trap_restorer\ntrap_restorer: mov x8, #139\n svc #0\n brk #1\n"
	".globl trap_entry\ntrap_entry:\n	stp x29, x30, [sp, #-16]!\n	mov x29, sp\n	bl on_trap\n"
	"	ldp x29, x30, [sp], #16\n	ret\n"
	".globl fault_entry\nfault_entry:\n	stp x29, x30, [sp, #-48]!\n	stp x0, x1, [sp, #16]\n	str x2, [sp, #32]\n"
	"	bl on_fault\n	mov x16, x0\n	ldp x0, x1, [sp, #16]\n	ldr x2, [sp, #32]\n	ldp x29, x30, [sp], #48\n"
	"	cbz x16, 1f\n	br x16\n1:	ret\n"
	".globl fast_common\nfast_common: brk #1\n");
#endif

/* ---- guest memory ------------------------------------------------------------------------------------- */

/* Pairs of an instruction that may fault and where to go on then; on_fault looks here. */
struct fix {
	unsigned long at, to;
};
extern const struct fix __start_udk_fix[], __stop_udk_fix[];

unsigned long fault_fix(unsigned long pc)
{
	for (const struct fix *f = __start_udk_fix; f < __stop_udk_fix; f++)
		if (f->at == pc)
			return f->to;
	return 0;
}

#define FIX(at, to) " .pushsection udk_fix, \"a\"\n .balign 8\n .quad " at ", " to "\n .popsection\n"

/* Addresses that cannot be memory are refused without a fault: it would kill where the guest blocks SIGSEGV. */
static bool no_memory(const void *p)
{
	unsigned long at = (unsigned long)p;

#if defined(__aarch64__)
	at &= ~0UL >> 8; /* the highest byte may be a tag */
#endif
	return at < 4096 || at >= ADDRESSES;
}

static inline int load_word(const void *p, uint64_t *v)
{
	int bad = 0;
#if defined(__x86_64__)
	__asm__ volatile("1: mov (%2), %1\n2:\n .pushsection .text.fix, \"ax\"\n3: mov $1, %0\n jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad), "=&r"(*v) : "r"(p) : "memory");
#else
	__asm__ volatile("1: ldr %1, [%2]\n2:\n .pushsection .text.fix, \"ax\"\n3: mov %w0, #1\n b 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad), "=&r"(*v) : "r"(p) : "memory");
#endif
	return bad;
}

static inline int load_byte(const void *p, char *v)
{
	unsigned long x;
	int bad = 0;
#if defined(__x86_64__)
	__asm__ volatile("1: movzbl (%2), %k1\n2:\n .pushsection .text.fix, \"ax\"\n3: mov $1, %0\n jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad), "=&r"(x) : "r"(p) : "memory");
#else
	__asm__ volatile("1: ldrb %w1, [%2]\n2:\n .pushsection .text.fix, \"ax\"\n3: mov %w0, #1\n b 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad), "=&r"(x) : "r"(p) : "memory");
#endif
	*v = (char)x;
	return bad;
}

static inline int store_word(void *p, uint64_t v)
{
	int bad = 0;

#if defined(__x86_64__)
	__asm__ volatile("1: mov %1, (%2)\n2:\n .pushsection .text.fix, \"ax\"\n3: mov $1, %0\n jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad) : "r"(v), "r"(p) : "memory");
#else
	__asm__ volatile("1: str %1, [%2]\n2:\n .pushsection .text.fix, \"ax\"\n3: mov %w0, #1\n b 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad) : "r"(v), "r"(p) : "memory");
#endif
	return bad;
}

#if defined(__x86_64__)
/* Four of them, from and to memory that is our own. */
static inline int load_words(const void *p, void *to)
{
	uint64_t *v = to;
	int bad = 0;

	__asm__ volatile("1: mov (%5), %1\n2: mov 8(%5), %2\n3: mov 16(%5), %3\n4: mov 24(%5), %4\n5:\n"
			 " .pushsection .text.fix, \"ax\"\n6: mov $1, %0\n jmp 5b\n .popsection\n" FIX("1b", "6b") FIX("2b", "6b")
			 FIX("3b", "6b") FIX("4b", "6b")
			 : "+r"(bad), "=&r"(v[0]), "=&r"(v[1]), "=&r"(v[2]), "=&r"(v[3]) : "r"(p) : "memory");
	return bad;
}

static inline int store_words(void *p, const void *from)
{
	const uint64_t *v = from;
	int bad = 0;

	__asm__ volatile("1: mov %1, (%5)\n2: mov %2, 8(%5)\n3: mov %3, 16(%5)\n4: mov %4, 24(%5)\n5:\n"
			 " .pushsection .text.fix, \"ax\"\n6: mov $1, %0\n jmp 5b\n .popsection\n" FIX("1b", "6b") FIX("2b", "6b")
			 FIX("3b", "6b") FIX("4b", "6b")
			 : "+r"(bad) : "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]), "r"(p) : "memory");
	return bad;
}
#endif

static inline int store_byte(void *p, char v)
{
	int bad = 0;
#if defined(__x86_64__)
	__asm__ volatile("1: movb %b1, (%2)\n2:\n .pushsection .text.fix, \"ax\"\n3: mov $1, %0\n jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad) : "q"(v), "r"(p) : "memory");
#else
	__asm__ volatile("1: strb %w1, [%2]\n2:\n .pushsection .text.fix, \"ax\"\n3: mov %w0, #1\n b 2b\n .popsection\n" FIX("1b", "3b")
			 : "+r"(bad) : "r"(v), "r"(p) : "memory");
#endif
	return bad;
}

/* Where the guest forbade itself to read the clock (PR_SET_TSC) there is none. */
uint32_t ticks(void)
{
#if defined(__x86_64__)
	uint32_t low, high;

	__asm__ volatile("1: rdtsc\n2:\n .pushsection .text.fix, \"ax\"\n3: xor %%eax, %%eax\n xor %%edx, %%edx\n jmp 2b\n .popsection\n"
			 FIX("1b", "3b") : "=a"(low), "=d"(high));
	return high << 12 | low >> 20;
#else
	uint64_t now, each;

	__asm__ volatile("mrs %0, cntvct_el0\n mrs %1, cntfrq_el0" : "=r"(now), "=r"(each));
	return (uint32_t)(now / MAX(each / 1024, 1));
#endif
}

long guest_str(char *to, const void *from, size_t size)
{
	const char *s = from;
	size_t n = 0;
	uint64_t w, zero;

	if (no_memory(from))
		return -EFAULT;
	while (n < size) {
		/* No word reaches into a page that the string does not touch. */
		if (n + 8 > size || ((uintptr_t)(s + n) & 4095) > 4096 - 8) {
			if (load_byte(s + n, to + n))
				return -EFAULT;
			if (!to[n])
				return (long)n;
			n++;
			continue;
		}
		if (load_word(s + n, &w))
			return -EFAULT;
		memcpy(to + n, &w, 8);
		zero = (w - 0x0101010101010101ULL) & ~w & 0x8080808080808080ULL;
		if (zero)
			return (long)n + __builtin_ctzll(zero) / 8;
		n += 8;
	}
	return -ENAMETOOLONG;
}

long guest_read(void *to, const void *from, size_t n)
{
	if (!n)
		return 0;
	if (no_memory(from))
		return -EFAULT;
#if defined(__x86_64__)
	for (; n >= 32; n -= 32, to = (char *)to + 32, from = (const char *)from + 32)
		if (load_words(from, to))
			return -EFAULT;
#endif
	for (; n >= 8; n -= 8, to = (char *)to + 8, from = (const char *)from + 8) {
		uint64_t w;
		if (load_word(from, &w))
			return -EFAULT;
		memcpy(to, &w, 8);
	}
	if (!n)
		return 0;
#if defined(__x86_64__)
	__asm__ volatile("1: rep movsb\n2:\n .pushsection .text.fix, \"ax\"\n3: jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return n ? -EFAULT : 0;
#else
	for (size_t i = 0; i < n; i++)
		if (load_byte((const char *)from + i, (char *)to + i))
			return -EFAULT;
	return 0;
#endif
}

long guest_write(void *to, const void *from, size_t n)
{
	if (!n)
		return 0;
	if (no_memory(to))
		return -EFAULT;
#if defined(__x86_64__)
	(void)store_byte;
	for (; n >= 32; n -= 32, to = (char *)to + 32, from = (const char *)from + 32)
		if (store_words(to, from))
			return -EFAULT;
#endif
	for (; n >= 8; n -= 8, to = (char *)to + 8, from = (const char *)from + 8) {
		uint64_t w;
		memcpy(&w, from, 8);
		if (store_word(to, w))
			return -EFAULT;
	}
	if (!n)
		return 0;
#if defined(__x86_64__)
	__asm__ volatile("1: rep movsb\n2:\n .pushsection .text.fix, \"ax\"\n3: jmp 2b\n .popsection\n" FIX("1b", "3b")
			 : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return n ? -EFAULT : 0;
#else
	for (size_t i = 0; i < n; i++)
		if (store_byte((char *)to + i, ((const char *)from)[i]))
			return -EFAULT;
	return 0;
#endif
}
