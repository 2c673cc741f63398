/* The loader: what the kernel's execve would have done with the guest's ELF file.
 *
 * Runs once per program, on the stack that the kernel made for us; the guest's stack is the same with our prefix
 * dropped.
 */
#include "core/elf.h"
#include "ptrace/i386.h"
#include "ptrace/ptrace.h"

#include "preload/eager.h"

#include <linux/auxvec.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
#define MAX_PHDRS 32
#define LARGEST_ALIGN (1UL << 30)

struct image {
	int fd;
	const Elf64_Phdr *ph; /* of the head, almost always */
	char head[1024] __attribute__((aligned(8)));
	Elf64_Ehdr e;
	unsigned long bias, low, high; /* high: end of memory, before rounding */
	unsigned long text[2], data[2];
	bool change; /* its code, so that calls come to us */
};

typedef Elf64_Phdr headers[MAX_PHDRS];

NORETURN void die(const char *what, const char *name, long error)
{
	say(2, "udk: %s%s%s: %s\n", what, *name ? " " : "", name, errno_text(error));
	sys_exit(error == -ENOENT ? 127 : 126);
}

/* `more`: for program headers that are not as they are to be in the head. */
static void open_image(struct image *m, const char *path, headers more)
{
	long r = sys_open(path, O_RDONLY | O_CLOEXEC, 0);

	if (r < 0)
		die("cannot open", path, r);
	m->fd = (int)r;
	m->ph = more;
	r = sys_pread(m->fd, m->head, sizeof m->head, 0);
	memcpy(&m->e, m->head, sizeof m->e);
	if (elf_widen(&m->e, m->head, r)) {
		r = elf_program_headers(m->fd, &m->e, more, MAX_PHDRS);
		if (r)
			die("cannot load", path, r);
		return;
	}
	if (r < (long)sizeof m->e || m->e.e_phnum > MAX_PHDRS || m->e.e_phentsize != sizeof m->ph[0])
		die("cannot load", path, -ENOEXEC);
	if (!(m->e.e_phoff & 7) && m->e.e_phoff <= sizeof m->head && m->e.e_phoff + m->e.e_phnum * sizeof m->ph[0] <= (unsigned long)r) {
		m->ph = (const void *)(m->head + m->e.e_phoff);
		return;
	}
	r = sys_pread(m->fd, more, m->e.e_phnum * sizeof m->ph[0], (int64_t)m->e.e_phoff);
	if (r != (long)(m->e.e_phnum * sizeof m->ph[0]))
		die("cannot load", path, r < 0 ? r : -ENOEXEC);
}

static int protection(uint32_t flags)
{
	return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) | (flags & PF_X ? PROT_EXEC : 0);
}

/* On a noexec mount: fills anonymous memory with what a file has there, and gives it its protection. */
long copy_code(void *at, size_t n, int prot, int fd, uint64_t offset)
{
	long got = 1;

	for (size_t done = 0; done < n && got > 0; done += got > 0 ? (size_t)got : 0)
		got = sys_pread(fd, (char *)at + done, n - done, (int64_t)(offset + done));
	return got < 0 ? got : sys_mprotect(at, n, prot);
}

/* Maps file pages; on a noexec mount code is copied instead. */
static long map_file(const struct image *m, unsigned long at, size_t n, int prot, uint64_t offset)
{
	long r = (long)sys_mmap((void *)at, n, prot, MAP_PRIVATE | MAP_FIXED, m->fd, (int64_t)offset);

	if (r != -EPERM || !(prot & PROT_EXEC))
		return r;
	r = (long)sys_mmap((void *)at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
	return is_error(r) ? r : copy_code((void *)at, n, prot, m->fd, offset);
}

static long map_segment(const struct image *m, const Elf64_Phdr *p, bool mapped)
{
	unsigned long start = m->bias + p->p_vaddr, from = DOWN(start), file_end = start + p->p_filesz, end = start + p->p_memsz;
	int prot = protection(p->p_flags);
	long r;

	if (p->p_filesz && !mapped) {
		r = map_file(m, from, UP(file_end) - from, prot, p->p_offset - (start - from));
		if (is_error(r))
			return r;
	}
	if (p->p_memsz <= p->p_filesz)
		return 0;
	if (p->p_filesz && file_end & (PAGE - 1)) { /* the rest of the last page is not the file's */
		char c; /* (of a file that ends earlier there is no such page to write to) */
		if (sys_pread(m->fd, &c, 1, (int64_t)(p->p_offset + p->p_filesz - (file_end & (PAGE - 1)))) != 1)
			return -ENOEXEC;
		if (!(prot & PROT_WRITE))
			sys_mprotect((void *)DOWN(file_end), PAGE, prot | PROT_WRITE);
		memset((void *)file_end, 0, UP(file_end) - file_end);
		if (!(prot & PROT_WRITE))
			sys_mprotect((void *)DOWN(file_end), PAGE, prot);
	}
	from = p->p_filesz ? UP(file_end) : from;
	if (UP(end) > from) {
		r = (long)sys_mmap((void *)from, UP(end) - from, prot, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
		if (is_error(r))
			return r;
	}
	return 0;
}

/* May the first segment's mapping, as long as all of them, find and keep their place? Not where that would show between
 * two, or the file cannot be mapped like that. */
static bool without_gaps(const struct image *m, const Elf64_Phdr **first)
{
	const Elf64_Phdr *last = NULL;

	*first = NULL;
	for (int i = 0; i < m->e.e_phnum; i++) {
		const Elf64_Phdr *p = &m->ph[i];

		if (p->p_type != PT_LOAD)
			continue;
		if (!last && (p->p_flags & PF_X || !p->p_filesz || DOWN(p->p_vaddr) != m->low))
			return false;
		if (last && DOWN(p->p_vaddr) != UP(last->p_vaddr + last->p_memsz))
			return false;
		if (!last)
			*first = p;
		last = p;
	}
	return last;
}

/* A segment of code for the preload engine: changed, or what is kept of it in its place. */
static long map_code(const struct image *m, const Elf64_Phdr *p, unsigned long a, bool mapped)
{
	unsigned long from = DOWN(a);
	uint64_t off = p->p_offset - (a - from);
	size_t n = UP(a + p->p_filesz) - from;
	int prot = protection(p->p_flags);
	long r = -EPERM;

	if (!mapped && p->p_memsz == p->p_filesz)
		r = code_map(from, n, m->fd, off, prot, MAP_PRIVATE | MAP_FIXED);
	if (r != -EPERM)
		return is_error(r) ? r : 0;
	r = map_segment(m, p, mapped);
	return r ? r : code_mapped(from, n, m->fd, off, prot);
}

/* Reserves the whole extent at `hint` (0: anywhere), then maps the segments into it. */
static long map_image(struct image *m, unsigned long hint)
{
	unsigned long align = PAGE, span;
	int prot = PROT_NONE, how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd = -1;
	const Elf64_Phdr *first;
	bool changed = false; /* the first mapping has the code, too, as the preload engine changed it */
	uint64_t offset = 0;
	long r;

	m->low = ~0UL;
	m->high = 0;
	for (int i = 0; i < m->e.e_phnum; i++) {
		const Elf64_Phdr *p = &m->ph[i];
		if (p->p_type != PT_LOAD)
			continue;
		if (p->p_filesz > p->p_memsz || p->p_vaddr > ADDRESSES || p->p_memsz > ADDRESSES - p->p_vaddr)
			return -EINVAL; /* it would be mapped over what is not its own */
		m->low = MIN(m->low, DOWN(p->p_vaddr));
		m->high = MAX(m->high, p->p_vaddr + p->p_memsz);
		if (p->p_align > align && p->p_align <= LARGEST_ALIGN && !(p->p_align & (p->p_align - 1)))
			align = p->p_align;
	}
	if (m->low >= m->high)
		return -ENOEXEC;
	span = UP(m->high) - m->low;
	if (m->e.e_machine == EM_386 && m->e.e_type == ET_DYN && !hint) {
		r = compat_place(span + align - PAGE);
		if (r < 0)
			return r;
		hint = (unsigned long)r;
	}
	if (align == PAGE && without_gaps(m, &first)) {
		prot = protection(first->p_flags);
		how = MAP_PRIVATE;
		fd = m->fd;
		offset = first->p_offset - (first->p_vaddr - m->low);
	} else {
		first = NULL;
	}
	if (m->e.e_type == ET_EXEC) {
		r = (long)sys_mmap((void *)m->low, span, prot, how | MAP_FIXED_NOREPLACE_, fd, (int64_t)offset);
		if (is_error(r))
			return r == -EEXIST ? -ENOMEM : r;
		if ((unsigned long)r != m->low) { /* a kernel that does not know the flag, and the place is taken */
			sys_munmap((void *)r, span);
			return -ENOMEM;
		}
		m->bias = 0;
	} else {
		unsigned long at;

		if (first && !offset && m->change)
			r = code_place(hint, span, fd, prot, how, &changed);
		else
			r = (long)sys_mmap((void *)(hint & ~(align - 1)), span + align - PAGE, prot, how, fd, (int64_t)offset);
		if (is_error(r))
			return r;
		at = ((unsigned long)r + align - 1) & ~(align - 1);
		if (at > (unsigned long)r)
			sys_munmap((void *)r, at - (unsigned long)r);
		if (at + span < (unsigned long)r + span + align - PAGE)
			sys_munmap((void *)(at + span), (unsigned long)r + align - PAGE - at);
		m->bias = at - m->low;
	}
	if (first) { /* cut off at once: a mapping over another costs twice as much as one where nothing is */
		unsigned long from = UP(m->bias + first->p_vaddr + first->p_filesz), end = m->bias + m->low + span;

		for (int i = 0; changed && i < m->e.e_phnum; i++)
			if (m->ph[i].p_type == PT_LOAD && m->ph[i].p_flags & PF_X)
				from = MAX(from, UP(m->bias + m->ph[i].p_vaddr + m->ph[i].p_filesz));
		if (end > from)
			sys_munmap((void *)from, end - from);
	}
	if (m->e.e_machine == EM_386 && m->bias + m->high > I386_END)
		return -ENOMEM;
	for (int i = 0; i < m->e.e_phnum; i++) {
		const Elf64_Phdr *p = &m->ph[i];
		unsigned long a = m->bias + p->p_vaddr;

		if (p->p_type != PT_LOAD || !p->p_memsz)
			continue;
		if (p->p_flags & PF_X && m->change)
			r = map_code(m, p, a, p == first);
		else
			r = map_segment(m, p, p == first);
		if (r)
			return r;
		if (p->p_flags & PF_X) {
			m->text[0] = a;
			m->text[1] = a + p->p_filesz;
		} else if (p->p_flags & PF_W) {
			m->data[0] = a;
			m->data[1] = a + p->p_filesz;
		}
	}
	return 0;
}

static unsigned long program_headers(const struct image *m)
{
	for (int i = 0; i < m->e.e_phnum; i++)
		if (m->ph[i].p_type == PT_PHDR)
			return m->bias + m->ph[i].p_vaddr;
	for (int i = 0; i < m->e.e_phnum; i++)
		if (m->ph[i].p_type == PT_LOAD && m->e.e_phoff >= m->ph[i].p_offset &&
		    m->e.e_phoff < m->ph[i].p_offset + m->ph[i].p_filesz)
			return m->bias + m->ph[i].p_vaddr + m->e.e_phoff - m->ph[i].p_offset;
	return 0;
}

static void parse_ids(const char *s, struct ids *i)
{
	uint32_t *v[8] = { &i->ruid, &i->euid, &i->suid, &i->fsuid, &i->rgid, &i->egid, &i->sgid, &i->fsgid };

	i->n_groups = 0;
	for (int k = 0; *s; k++) {
		uint32_t x = 0;
		for (; *s && *s != ' '; s++)
			x = x << 4 | (uint32_t)(*s >= 'a' ? *s - 'a' + 10 : *s - '0');
		while (*s == ' ')
			s++;
		if (k < 8)
			*v[k] = x;
		else if (i->n_groups < MAX_GROUPS)
			i->groups[i->n_groups++] = x;
	}
}

static uint32_t hex_word(const char **s)
{
	uint32_t x = 0;

	for (; **s && **s != ' '; ++*s)
		x = x << 4 | (uint32_t)(**s >= 'a' ? **s - 'a' + 10 : **s - '0');
	while (**s == ' ')
		++*s;
	return x;
}

/* What /proc shows of this process: the guest's argv, environment and auxiliary vector, and where its heap begins.
 * A kernel without checkpoint support refuses, and shows ours. */
static long tell_kernel(const struct image *m, const struct arguments *given, unsigned long gap)
{
	struct {
		uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end;
		void *auxv;
		uint32_t auxv_size, exe_fd;
	} mm = { 0 };
	unsigned long heap = UP(m->bias + m->high);

	heap += gap;
	mm.start_code = m->text[0];
	mm.end_code = m->text[1];
	mm.start_data = m->data[0] ? m->data[0] : m->text[0];
	mm.end_data = m->data[0] ? m->data[1] : m->text[1];
	mm.start_brk = mm.brk = heap;
	mm.start_stack = (uint64_t)given->stack;
	mm.arg_start = given->args[0], mm.arg_end = given->args[1];
	mm.env_start = given->env[0], mm.env_end = given->env[1];
	mm.auxv = given->auxv;
	mm.auxv_size = (uint32_t)given->auxv_size;
	mm.exe_fd = (uint32_t)-1;
	return sys_prctl(35 /* PR_SET_MM */, 14 /* PR_SET_MM_MAP */, (unsigned long)&mm, sizeof mm, 0);
}

/* For other processes of the container, see EXE_MARK. */
static void mark_program(const char *path)
{
	long fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);

	sys_mmap((void *)EXE_MARK, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, (int)fd, 0);
	sys_close((int)fd);
}

/* Where the strings of a NULL-terminated list lie, or an empty place behind `after`. */
static void extent(char **list, unsigned long after, unsigned long to[2])
{
	to[0] = *list ? (unsigned long)*list : after;
	to[1] = to[0];
	for (; *list; list++)
		to[1] = (unsigned long)(*list + strlen(*list) + 1);
}

static NORETURN void jump_to(unsigned long *stack, unsigned long at)
{
#if defined(__x86_64__)
	__asm__ volatile("mov %0, %%rsp\n xor %%edx, %%edx\n xor %%ebp, %%ebp\n jmp *%1" : : "r"(stack), "r"(at) : "memory");
#else
	register unsigned long to __asm__("x16") = at;

	__asm__ volatile("mov sp, %0\n mov x0, #0\n mov x29, #0\n mov x30, #0\n br %1" : : "r"(stack), "r"(to) : "memory");
#endif
	__builtin_unreachable();
}

/* Identity, in namespaces that the guest made inside its own: the state cannot be reached from there, and the ids that
 * the kernel tells are the ones that count. */
static void go_without(struct core *k)
{
	long r = (long)sys_mmap((void *)PLAN_AT, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (is_error(r))
		die("no memory", "", r);
	k->plan = (struct plan *)PLAN_AT;
	k->plan->options = OPT_IDENTITY | OPT_PATCH | OPT_FAST_RETURN | OPT_SIGNALS;
	k->plan->n_mounts = 1;
	k->plan->generation = 1;
	k->plan->loader = 1;
	str_copy(k->plan->strings + 1, "/proc/self/exe", 16);
}

NORETURN void load(unsigned long *stack)
{
	char **prefix = (char **)(stack + 1), **argv = prefix + PREFIX, **envp;
	unsigned long argc = stack[0] - PREFIX, *auxv, *pair, *random = NULL, entry, hint = 0x555555554000UL;
	const char *flags = prefix[7], *exe = prefix[2];
	static headers more[2];
	struct image program, interpreter;
	struct core *k = &self.core;
	int fd_to_close;
	bool fixed, nested, i386;
	struct arguments given;
	long r;

	for (envp = argv + argc + 1; *envp;)
		envp++;
	auxv = (unsigned long *)(envp + 1);
	envp = argv + argc + 1;
	self.stack = (unsigned long)stack;
	r = plan_map(k, prefix[1], false);
	if (r && *prefix[1] && !str_starts(prefix[1], "/proc/"))
		die("cannot map the container's state", prefix[1], r);
	if (r)
		go_without(k);
	str_copy(k->exe, exe, sizeof k->exe);
	parse_ids(prefix[5], &k->ids);
	if (*prefix[6])
		k->root_len = (uint16_t)str_copy(k->root, prefix[6], sizeof k->root);
	self.ignored = (int)hex_word(&flags);
	self.filter = hex_word(&flags);
	fd_to_close = (int)hex_word(&flags);
	nested = hex_word(&flags);
	self.patch = k->plan->options & OPT_PATCH;
	self.fast_return = k->plan->options & OPT_FAST_RETURN;
	self.eager = k->plan->options & OPT_EAGER;
	self.kept = (k->plan->options & (OPT_KEPT | OPT_NOEXEC | OPT_EVERY_CALL)) == OPT_KEPT;
	if (self.eager)
		self.patch = false; /* all of it is */
	if (self.eager || self.kept)
		eager_start();
	self.traced = k->plan->options & OPT_PTRACE;
	self.every = k->plan->options & OPT_EVERY_CALL;
	if (self.every)
		self.patch = false; /* our own calls would stop there */
	own_memory_init();
	if (!self.traced && !(self.ignored & 8) && !(k->plan->options & OPT_IDENTITY)) { /* a tracer is not asked for each dup */
		notes_start();
		k->roots = self.ignored & 16;
		if (!k->roots)
			roots_open(k);
	}
	signals_start();
	filter_start();
	if (nested)
		nested_main((int)argc, argv, envp);

	for (pair = auxv; pair[0] != AT_NULL; pair += 2)
		if (pair[0] == AT_RANDOM)
			random = (unsigned long *)pair[1];
	fixed = SC1(__NR_personality, 0xffffffff) & 0x0040000 /* ADDR_NO_RANDOMIZE */;
	if (!fixed && random)
		hint += (random[1] & 0xfffffff) * PAGE;
	open_image(&program, prefix[3], more[0]);
	program.change = self.eager;
	i386 = program.e.e_machine == EM_386;
	if (i386)
		hint = I386_HINT + (fixed || !random ? 0 : (random[1] & 0xfff) * PAGE);
	r = map_image(&program, hint);
	if (r)
		die("cannot map", exe, r);
	sys_close(program.fd);
	entry = program.bias + program.e.e_entry;
	if (prefix[4][0]) {
		open_image(&interpreter, prefix[4], more[1]);
		interpreter.change = self.eager || (self.kept && !i386);
		r = map_image(&interpreter, 0);
		if (r)
			die("cannot map", prefix[4], r);
		sys_close(interpreter.fd);
		entry = interpreter.bias + interpreter.e.e_entry;
	}

	for (pair = auxv; pair[0] != AT_NULL; pair += 2) {
		switch (pair[0]) {
		case AT_PHDR: pair[1] = program_headers(&program); break;
		case AT_PHNUM: pair[1] = program.e.e_phnum; break;
		case AT_BASE: pair[1] = prefix[4][0] ? interpreter.bias : 0; break;
		case AT_ENTRY: pair[1] = program.bias + program.e.e_entry; break;
		case AT_EXECFN: pair[1] = (unsigned long)exe; break;
		case AT_MINSIGSTKSZ: pair[1] += 8192; break; /* our handler runs on it too */
		case AT_UID: pair[1] = k->ids.ruid; break;
		case AT_EUID: pair[1] = k->ids.euid; break;
		case AT_GID: pair[1] = k->ids.rgid; break;
		case AT_EGID: pair[1] = k->ids.egid; break;
		case AT_SECURE: pair[1] = k->ids.ruid != k->ids.euid || k->ids.rgid != k->ids.egid; break;
		}
	}
	stack += PREFIX;
	stack[0] = argc;
	given = (struct arguments){ .stack = (unsigned long)stack, .auxv = auxv, .auxv_size = (size_t)((char *)(pair + 2) - (char *)auxv) };
	extent(argv, 0, given.args);
	extent(envp, given.args[1], given.env);
	if (i386) {
		bool code = true, told = false; /* is the stack code? As it was before there was a word for it */

		for (int i = 0; i < program.e.e_phnum; i++)
			if (program.ph[i].p_type == PT_GNU_STACK) {
				told = true;
				code = program.ph[i].p_flags & PF_X;
			}
		compat_stack(&given, argv, envp, exe, !fixed && random ? (random[1] >> 24 & 0x7ff) * PAGE : 0, code, !told);
	}
	if (tell_kernel(&program, &given, !fixed && random ? (random[0] >> 9 & 0x1fff) * PAGE : 0))
		mark_program(prefix[3]);
	if (fd_to_close)
		sys_close(fd_to_close);
	sys_prctl(15 /* PR_SET_NAME */, (unsigned long)flags, 0, 0, 0); /* the name that was executed, not where it led */
#if defined(__x86_64__)
	if (self.stop_before_entry)
		__asm__ volatile("int3");
#else
	if (self.stop_before_entry)
		sys_tgkill((int)sys_getpid(), (int)sys_gettid(), SIGTRAP); /* a tracer does not step over brk by itself */
#endif
	if (self.every)
		step_out();
	if (i386)
		compat_jump(given.stack, entry);
	jump_to(stack, entry);
}
