/* What the kernel's execve does for a 32-bit program besides mapping it: its stack, its vdso, its first registers. */
#include "core/elf.h"
#include "ptrace/i386.h"

#include <linux/auxvec.h>

#if defined(__x86_64__)
#define ARCH_MAP_VDSO_32 0x2002
#define READ_IMPLIES_EXEC_ 0x0400000
#define MOST_AUXV 40

/* The next line of /proc/self/maps that names a part of the vdso: its extent. */
static bool vdso_line(const char **text, unsigned long at[2], bool *code)
{
	const char *line = *text, *end;

	for (; *line; line = *end ? end + 1 : end) {
		const char *name;

		end = str_chr(line, '\n');
		if (!end)
			return false; /* cut off */
		name = mem_find(line, (size_t)(end - line), "[v", 2);
		if (!name || (!str_starts(name, "[vdso]") && !str_starts(name, "[vvar")))
			continue;
		*code = name[2] == 'd';
		at[0] = at[1] = 0;
		for (int i = 0; i < 2; i++, line++)
			for (; *line != '-' && *line != ' '; line++)
				at[i] = at[i] << 4 | (unsigned long)(*line > '9' ? *line - 'a' + 10 : *line - '0');
		*text = end + 1;
		return true;
	}
	return false;
}

/* Replaces the vdso by the one for 32-bit code, which also has what signal handlers return to. Its place, or 0: programs
 * do without. */
static unsigned long map_vdso(void)
{
	static char maps[16384];
	const size_t room = sizeof maps;
	unsigned long at[2];
	const char *text = maps;
	bool code;
	long r;

	if (read_file(AT_FDCWD, "/proc/self/maps", maps, room) < 0)
		return 0;
	while (vdso_line(&text, at, &code))
		sys_munmap((void *)at[0], at[1] - at[0]);
	r = compat_place(16 * PAGE);
	if (r < 0 || SC2(__NR_arch_prctl, ARCH_MAP_VDSO_32, r) < 0 || read_file(AT_FDCWD, "/proc/self/maps", maps, room) < 0)
		return 0;
	text = maps;
	while (vdso_line(&text, at, &code))
		if (code)
			return at[0];
	return 0;
}

struct pile { /* what is written to the new stack, from above */
	char *at;
};

static uint32_t put(struct pile *p, const void *what, size_t n)
{
	p->at -= n;
	memcpy(p->at, what, n);
	return (uint32_t)(uintptr_t)p->at;
}

/* Copies a list's strings, which then lie as they did: the first is the lowest. Returns how many. */
static size_t put_strings(struct pile *p, char **list, unsigned long extent[2])
{
	size_t n = 0;

	while (list[n])
		n++;
	extent[1] = (unsigned long)p->at;
	for (size_t i = n; i--;)
		put(p, list[i], strlen(list[i]) + 1);
	extent[0] = (unsigned long)p->at;
	return n;
}

static uint32_t *list_strings(uint32_t *to, const char *first, size_t n)
{
	for (size_t i = 0; i < n; i++, first += strlen(first) + 1)
		*to++ = (uint32_t)(uintptr_t)first;
	*to++ = 0;
	return to;
}

void compat_stack(struct arguments *a, char **argv, char **envp, const char *exe, unsigned long gap, bool code, bool old)
{
	size_t size = a->args[1] - a->args[0] + (a->env[1] - a->env[0]) + strlen(exe) + 256 * 1024, argc, envc;
	unsigned long top = I386_END - gap, vdso = map_vdso();
	uint32_t aux[MOST_AUXV][2], n_aux = 0, name, platform, *word;
	struct pile p;
	long r;

	for (char **s = argv; *s; s++)
		size += 4 + strlen(*s);
	for (char **s = envp; *s; s++)
		size += 4 + strlen(*s);
	size = (size + PAGE - 1) & ~(PAGE - 1);
	r = (long)sys_mmap((void *)(top - size), size, PROT_READ | PROT_WRITE | (code ? PROT_EXEC : 0),
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | MAP_FIXED_NOREPLACE_, -1, 0);
	if (r != (long)(top - size))
		die("no memory below 4 GiB", "", is_error(r) ? r : -ENOMEM);
	if (old)
		SC1(__NR_personality, SC1(__NR_personality, 0xffffffff) | READ_IMPLIES_EXEC_);
	p.at = (char *)top - 4;
	name = put(&p, exe, strlen(exe) + 1);
	envc = put_strings(&p, envp, a->env);
	argc = put_strings(&p, argv, a->args);
	platform = put(&p, "i686", 5);
	for (const unsigned long *v = a->auxv; v[0] != AT_NULL && n_aux < MOST_AUXV - 3; v += 2) {
		uint32_t value = (uint32_t)v[1];

		switch (v[0]) {
		case AT_RANDOM: value = put(&p, (void *)v[1], 16); break;
		case AT_EXECFN: value = name; break;
		case AT_PLATFORM: value = platform; break;
		case AT_PHENT: value = sizeof(Elf32_Phdr); break;
		case AT_SYSINFO_EHDR: continue;
		}
		aux[n_aux][0] = (uint32_t)v[0];
		aux[n_aux++][1] = value;
	}
	if (vdso) {
		aux[n_aux][0] = 32 /* AT_SYSINFO */;
		aux[n_aux++][1] = (uint32_t)vdso + ((const Elf32_Ehdr *)vdso)->e_entry;
		aux[n_aux][0] = AT_SYSINFO_EHDR;
		aux[n_aux++][1] = (uint32_t)vdso;
	}
	aux[n_aux][0] = AT_NULL;
	aux[n_aux++][1] = 0;
	word = (uint32_t *)(((uintptr_t)p.at - (1 + argc + 1 + envc + 1 + 2UL * n_aux) * 4) & ~15UL);
	a->stack = (unsigned long)word;
	*word++ = (uint32_t)argc;
	word = list_strings(word, (char *)a->args[0], argc);
	word = list_strings(word, (char *)a->env[0], envc);
	memcpy(word, aux, n_aux * sizeof aux[0]);
	a->auxv = word;
	a->auxv_size = n_aux * sizeof aux[0];
}

/* By way of the stack that this is on: as long as we are here the stack pointer is above 4 GiB. */
void compat_jump(unsigned long stack, unsigned long entry)
{
	__asm__ volatile("mov $0x2b, %%ecx\n mov %%ecx, %%ds\n mov %%ecx, %%es\n"
			 " push $0x2b\n push %0\n push $0x202\n push $0x23\n push %1\n"
			 " xor %%eax, %%eax\n xor %%ebx, %%ebx\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n xor %%esi, %%esi\n xor %%edi, %%edi\n"
			 " xor %%ebp, %%ebp\n iretq\n" : : "r"(stack), "r"(entry) : "memory", "rcx");
	__builtin_unreachable();
}
#else
void compat_stack(struct arguments *a, char **argv, char **envp, const char *exe, unsigned long gap, bool code, bool old)
{
	(void)a, (void)argv, (void)envp, (void)exe, (void)gap, (void)code, (void)old;
}
NORETURN void compat_jump(unsigned long stack, unsigned long entry)
{
	(void)stack, (void)entry;
	sys_exit(126);
}
#endif
