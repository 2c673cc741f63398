/* libFuzzer: a file that the guest executes. The first byte is the file's mode and more, the rest its bytes: a script, an
 * ELF file, anything. The core says what it is; the loader then maps it as a program and as an interpreter, and may
 * map, protect and unmap only what it has reserved. */
#include "fuzz/world.h"

#include "trap/load.c"

/* Where a 32-bit program goes: a wish, as ever. */
long compat_place(size_t n)
{
	(void)n;
	return 0x50000000;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
int _setjmp(void *at) __attribute__((returns_twice));
NORETURN void longjmp(void *at, int value);

#define FILE_SIZE (1L << 20)

struct process self; /* the rest of what load() calls is not linked: it is never called itself */

static unsigned long out_of_here[64];
static struct { unsigned long at, end; } reserved[16];
static int n_reserved;
static long file_size;

NORETURN void sys_exit(int status)
{

	longjmp(out_of_here, status ? status : 1);
}

static bool mine(unsigned long at, unsigned long n)
{
	for (int i = 0; i < n_reserved; i++)
		if (at >= reserved[i].at && at <= reserved[i].end && n <= reserved[i].end - at)
			return true;
	return false;
}

static NORETURN void not_mine(const char *what, const long *a)
{
	say(2, "the loader %s %lx, %lx bytes, which it has not reserved\n", what, (unsigned long)a[0], (unsigned long)a[1]);
	abort();
}

/* Memory calls, made here. */
static bool memory(long nr, const long *a, long *r)
{
	long b[6] = { a[0], a[1], a[2], a[3], a[4], a[5] };

	switch (nr) {
	case __NR_mmap:
		if (a[3] & MAP_FIXED) {
			if (!mine((unsigned long)a[0], UP((unsigned long)a[1])))
				not_mine("maps", a);
			/* Behind the file's end it would be SIGBUS, as from the kernel. */
			if (!(a[3] & MAP_ANONYMOUS) && !(a[5] & 4095) && (unsigned long)a[5] + UP((unsigned long)a[1]) > UP((unsigned long)file_size))
				b[3] |= MAP_ANONYMOUS, b[4] = -1, b[5] = 0;
		}
		*r = (long)checked_raw(nr, b);
		if (!is_error(*r) && !(a[3] & MAP_FIXED)) {
			if (n_reserved == (int)ARRAY_LEN(reserved))
				abort();
			reserved[n_reserved].at = (unsigned long)*r;
			reserved[n_reserved++].end = (unsigned long)*r + UP((unsigned long)a[1]);
		}
		return true;
	case __NR_munmap: case __NR_mprotect:
		if (a[1] && !mine((unsigned long)a[0], (unsigned long)a[1]))
			not_mine(nr == __NR_munmap ? "unmaps" : "protects", a);
		*r = checked_raw(nr, b);
		return true;
	}
	return false;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	world_start();
	return 0;
}

static void map_it(const char *path, unsigned long hint)
{
	static struct image m;
	static headers more;
	long r;

	memset(&m, 0, sizeof m);
	m.fd = -1;
	n_reserved = 0;
	if (!_setjmp(out_of_here)) {
		open_image(&m, path, more);
		r = map_image(&m, hint);
		if (!r)
			program_headers(&m);
	}
	for (int i = 0; i < n_reserved; i++) {
		const long a[6] = { (long)reserved[i].at, (long)(reserved[i].end - reserved[i].at), 0, 0, 0, 0 };
		checked_raw(__NR_munmap, a);
	}
	if (m.fd >= 0)
		sys_close(m.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned modes[] = { 0755, 04755, 02755, 0644, 0711, 06711, 0111, 0700 };
	char host[1024];
	int fd;

	if (size < 2)
		return 0;
	world_file("upper/x", data + 1, size - 1, modes[data[0] & 7] | 0400);
	str_copy(host, world_path("upper/x"), sizeof host);
	world_enter(ROOT_ID | OWNERS | (data[0] & 8 ? ORDINARY_ID : 0));
	str_copy(guest, data[0] & 16 ? "/tmp/../x" : "/x", 100);
	if (data[0] & 32)
		checked.lacks = NO_EMPTY_PATH;
	world_program(AT_FDCWD, guest, 0, false);
	checked.changes++;
	world_leave();

	world_file("upper/x", data + 1, size - 1, 0644); /* leaving has removed it */
	fd = (int)sys_open(host, O_WRONLY | O_CLOEXEC, 0);
	file_size = data[0] & 64 ? FILE_SIZE : (long)size - 1;
	sys_ftruncate(fd, file_size);
	sys_close(fd);
	checked.on = true;
	checked.instead = memory;
	map_it(host, 0x555555554000UL);
	map_it(host, 0);
	checked.instead = NULL;
	checked.on = false;
	return 0;
}

static unsigned rnd(unsigned *state, unsigned n)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % n;
}

/* Fields of ELF's headers get values that matter. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	const uint64_t values[] = { 0, 1, 2, 3, 4, 5, 6, 7, 56, 64, 0xfff, 0x1000, 0x1001, 0x2000, 0x10000, 0x200000, 0x400000, 0x7fffffffffff, 1UL << 47,
				    1UL << 63, ~0UL, ~0xfffUL, ~0UL - 0x1000, ENGINE_BASE, ENGINE_LOW, PLAN_AT, size, size - 1, FILE_SIZE, 0x123456 };
	size_t at;

	if (size < 1 + sizeof(Elf64_Ehdr) || rnd(&seed, 3) == 0)
		return LLVMFuzzerMutate(data, size, max);
	if (rnd(&seed, 4) == 0) { /* in the first header */
		static const uint8_t wide[] = { 24, 32, 40 }, narrow[] = { 16, 18, 54, 56 };
		uint64_t v = values[rnd(&seed, ARRAY_LEN(values))];
		if (rnd(&seed, 2))
			memcpy(data + 1 + wide[rnd(&seed, 3)], &v, 8);
		else
			memcpy(data + 1 + narrow[rnd(&seed, 4)], &v, 2);
		return size;
	}
	at = 1 + sizeof(Elf64_Ehdr) + rnd(&seed, 6) * sizeof(Elf64_Phdr);
	if (at + sizeof(Elf64_Phdr) > size) {
		if (at + sizeof(Elf64_Phdr) > max)
			return LLVMFuzzerMutate(data, size, max);
		memset(data + size, 0, at + sizeof(Elf64_Phdr) - size);
		size = at + sizeof(Elf64_Phdr);
	}
	unsigned field = rnd(&seed, 8);
	uint64_t v = values[rnd(&seed, ARRAY_LEN(values))];
	if (field < 2) {
		uint32_t w = field ? rnd(&seed, 8) : (const uint32_t[]){ PT_LOAD, PT_LOAD, PT_INTERP, PT_PHDR, PT_NULL }[rnd(&seed, 5)];
		memcpy(data + at + 4 * field, &w, 4);
	} else {
		uint64_t old;
		memcpy(&old, data + at + 8 * (field - 1), 8);
		v = rnd(&seed, 4) ? v : old + v;
		memcpy(data + at + 8 * (field - 1), &v, 8);
	}
	return size;
}
