/* Rewriting hot call sites.
 *
 * Compilers emit `mov $number, %eax; syscall` for most calls. Only the five bytes of the mov are replaced, by a jump
 * to a trampoline within reach; the syscall instruction stays, so that threads inside it, and jumps to it, are
 * undisturbed. The five bytes must be in one aligned word: they are written by one store. A site is touched after
 * it trapped a few times, because that costs a private copy of the page.
 */
#include "trap/trap.h"

#define HOT 12
#define REACH 0x70000000L
#define ARENA 16384
#define TRAMPOLINE 32
#define SITES 512

static struct { volatile unsigned long pc; volatile unsigned n; } sites[SITES];
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
		unsigned long hint = (site & ~0xfffffUL) - k * 0x2000000UL;
		long r = (long)sys_mmap((void *)hint, ARENA, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (is_error(r))
			return NULL;
		if (reaches((char *)r, site) && reaches((char *)r + ARENA, site))
			return (char *)r;
		sys_munmap((void *)r, ARENA);
	}
	return NULL;
}

/* mov $nr, %eax; mov $pc, %rcx; mov $fast_common, %r11; jmp *%r11 */
static void write_trampoline(unsigned char *t, int nr, unsigned long pc)
{
	unsigned long target = (unsigned long)fast_common;

	t[0] = 0xb8;
	memcpy(t + 1, &nr, 4);
	t[5] = 0x48, t[6] = 0xb9;
	memcpy(t + 7, &pc, 8);
	t[15] = 0x49, t[16] = 0xbb;
	memcpy(t + 17, &target, 8);
	t[25] = 0x41, t[26] = 0xff, t[27] = 0xe3;
}

/* Whether the page is private executable memory that we may write to is the kernel's to say. */
void patch_site(unsigned long pc, long nr)
{
	unsigned char *s = (unsigned char *)pc - 7, code[8], *t;
	unsigned long word_at = (unsigned long)s & ~7UL, page = (unsigned long)s & ~4095UL;
	unsigned i = (unsigned)(pc * 0x9e3779b97f4a7c15UL >> 48) % SITES, used;
	uint64_t word;
	int offset = (int)((unsigned long)s & 7), jump, imm;

	if (sites[i].pc != pc) {
		sites[i].pc = pc;
		sites[i].n = 0;
	}
	if (++sites[i].n != HOT)
		return;
	if (offset > 3 || page != ((pc - 1) & ~4095UL) || guest_read(code, s, 7))
		return;
	memcpy(&imm, code + 1, 4);
	if (code[0] != 0xb8 || imm != nr || code[5] != 0x0f || code[6] != 0x05)
		return;
	if (!reaches(arena.at, (unsigned long)s) || arena.used + TRAMPOLINE > ARENA) {
		char *fresh = arena_near((unsigned long)s);
		if (!fresh)
			return;
		arena.at = fresh;
		arena.used = 0;
	}
	used = __atomic_fetch_add(&arena.used, TRAMPOLINE, __ATOMIC_RELAXED);
	if (used + TRAMPOLINE > ARENA)
		return;
	t = (unsigned char *)arena.at + used;
	write_trampoline(t, (int)nr, pc);
	jump = (int)((long)t - (long)(s + 5));
	if (sys_mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		self.patch = false; /* a policy against it: do not try again */
		return;
	}
	word = *(volatile uint64_t *)word_at;
	((unsigned char *)&word)[offset] = 0xe9;
	memcpy((unsigned char *)&word + offset + 1, &jump, 4);
	*(volatile uint64_t *)word_at = word;
	sys_mprotect((void *)page, 4096, PROT_READ | PROT_EXEC);
}
#else
void patch_site(unsigned long pc, long nr)
{
	(void)pc, (void)nr, (void)sites, (void)arena;
}
#endif
