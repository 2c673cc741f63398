/* Rewriting hot call sites.
 *
 * Compilers emit `mov $number, %eax; syscall` for most calls, and some with the number a little earlier and another
 * register's `mov $constant` last. Only the five bytes of that mov are replaced, by a jump to a trampoline within
 * reach; the syscall instruction stays, so that threads inside it, and jumps to it, are undisturbed. Where the five bytes are in one aligned word they are written by one store. Elsewhere other threads
 * are first made to wait at the site, in a jump to itself; a barrier sees to it that none has fetched the rest. A site
 * is touched after it trapped a few times, because that costs a private copy of the page.
 */
#include "trap/trap.h"

#define HOT 3
#define REACH 0x70000000L
#define ARENA 16384
#define TRAMPOLINE 32

static struct { char *volatile at; volatile unsigned used; } arena;

#if defined(__x86_64__)
static bool reaches(const char *t, unsigned long site)
{
	long d = t - (const char *)site;

	return t && d < REACH && d > -REACH;
}

static char *arena_near(unsigned long site)
{
	for (unsigned long k = 1; k < 48; k++) {
		/* A program at a low address has its heap above, which must be able to grow: 1 GiB is left. */
		unsigned long below = k * 0x2000000UL, base = site & ~0xfffffUL;
		unsigned long hint = base > below + 0x100000 ? base - below : base + 0x40000000UL + below / 2;
		long r = (long)sys_mmap((void *)hint, ARENA, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (is_error(r))
			return NULL;
		if (reaches((char *)r, site) && reaches((char *)r + ARENA, site))
			return (char *)r;
		sys_munmap((void *)r, ARENA);
	}
	return NULL;
}

/* the site's own mov; mov $pc, %rcx; mov $fast_common, %r11; jmp *%r11 */
static void write_trampoline(unsigned char *t, const unsigned char *mov, unsigned long pc)
{
	unsigned long target = (unsigned long)fast_common;

	memcpy(t, mov, 5);
	t[5] = 0x48, t[6] = 0xb9;
	memcpy(t + 7, &pc, 8);
	t[15] = 0x49, t[16] = 0xbb;
	memcpy(t + 17, &target, 8);
	t[25] = 0x41, t[26] = 0xff, t[27] = 0xe3;
}

/* All threads of this memory have fetched their instructions anew when it returns 0. Linux 4.16. */
static long refetch(void)
{
	long r = SC3(__NR_membarrier, 1 << 5 /* PRIVATE_EXPEDITED_SYNC_CORE */, 0, 0);

	if (r == -EPERM && !SC3(__NR_membarrier, 1 << 6 /* the registration for it */, 0, 0))
		r = SC3(__NR_membarrier, 1 << 5, 0, 0);
	return r;
}

/* Writes the jump over five bytes that are not in one word, though the first two are. */
static void write_slowly(unsigned char *s, const unsigned char *jump)
{
	const bool alone = only_thread(); /* nobody else may be at the site, and no barrier needs to be registered for */
	uint16_t old, first;

	memcpy(&old, s, 2);
	memcpy(&first, jump, 2);
	*(volatile uint16_t *)s = 0xfeeb; /* a jump to itself */
	if (!alone && refetch()) {
		*(volatile uint16_t *)s = old;
		return;
	}
	memcpy(s + 2, jump + 2, 3);
	if (!alone)
		refetch();
	*(volatile uint16_t *)s = first;
}

static void write_jump(unsigned char *s, const char *to)
{
	unsigned char jump[5] = { 0xe9 };
	int distance = (int)((long)to - (long)(s + 5)), offset = (int)((unsigned long)s & 7);
	volatile uint64_t *at = (volatile uint64_t *)((unsigned long)s & ~7UL);
	uint64_t word = *at;

	memcpy(jump + 1, &distance, 4);
	if (offset > 3) {
		write_slowly(s, jump);
		return;
	}
	memcpy((unsigned char *)&word + offset, jump, 5);
	*at = word;
}

static unsigned long reg_of(const struct frame *f, int number)
{
	static const uint8_t at[8] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI };

	return number == 1 || number == 4 ? ~0UL : f->regs[at[number]];
}

/* Is there a mov of a constant before the system call? That it is this instruction, and not bytes that look like it,
 * is seen from what it did. */
static bool good_site(const unsigned char *s, long nr, const struct frame *f, unsigned char mov[5])
{
	unsigned char code[8];
	unsigned value;

	if (guest_read(code, s - 1, 8) || (code[1] & 0xf8) != 0xb8 || code[6] != 0x0f || code[7] != 0x05)
		return false;
	memcpy(mov, code + 1, 5);
	memcpy(&value, code + 2, 4);
	if (code[1] == 0xb8)
		return value == (unsigned long)nr;
	return (code[0] & 0xf0) != 0x40 /* the prefix of a longer one */ && value == reg_of(f, code[1] & 7);
}

/* Whether the page is private executable memory that we may write to is the kernel's to say. */
static void patch(unsigned char *s, long nr, const struct frame *f)
{
	unsigned long first = (unsigned long)s & ~4095UL, n = (((unsigned long)s + 4) & ~4095UL) + 4096 - first;
	unsigned char mov[5];
	char *t;

	if (!good_site(s, nr, f, mov))
		return;
	if (((unsigned long)s & 7) > 3 && (!own_memory() || (((unsigned long)s & 7) == 7 && !only_thread())))
		return;
	if (!reaches(arena.at, (unsigned long)s) || arena.used + TRAMPOLINE > ARENA) {
		char *fresh = arena_near((unsigned long)s);
		if (!fresh)
			return;
		arena.at = fresh;
		arena.used = 0;
	}
	t = arena.at + arena.used;
	arena.used += TRAMPOLINE;
	write_trampoline((unsigned char *)t, mov, (unsigned long)s + 7);
	if (sys_mprotect((void *)first, n, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		self.patch = false; /* a policy against it: do not try again */
		return;
	}
	write_jump(s, t);
	sys_mprotect((void *)first, n, PROT_READ | PROT_EXEC);
}

/* An entry is the address and, in the lowest byte, how often it trapped. */
static bool hot(unsigned long pc)
{
	unsigned i = (unsigned)(pc * 0x9e3779b97f4a7c15UL >> 48) % SITES;

	if (since_fork.sites[i] >> 8 != pc && (since_fork.sites[i ^ 1] >> 8 == pc || (since_fork.sites[i ^ 1] & 255) < (since_fork.sites[i] & 255)))
		i ^= 1;
	if (since_fork.sites[i] >> 8 != pc)
		since_fork.sites[i] = pc << 8;
	if ((since_fork.sites[i] & 255) > HOT)
		return false;
	return (++since_fork.sites[i] & 255) == HOT;
}

/* One at a time; and no handler of the guest may take us away in the middle. */
void patch_site(unsigned long pc, long nr, const struct frame *f)
{
	static volatile int busy;
	sigmask all = ~(sigmask)0, before;

	if (!hot(pc))
		return;
	sys_sigprocmask(0 /* SIG_BLOCK */, &all, &before);
	if (!__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE)) {
		patch((unsigned char *)pc - 7, nr, f);
		__atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
	}
	sys_sigprocmask(2 /* SIG_SETMASK */, &before, NULL);
}
#else
void patch_site(unsigned long pc, long nr, const struct frame *f)
{
	(void)pc, (void)nr, (void)f, (void)arena;
}
#endif
