/* What execve of a path comes to: scripts, set-id bits, and the errors that the kernel gives. */
#include "core/calls.h"
#include "core/elf.h"

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#else
#define MACHINE EM_AARCH64
#endif
#define HEADER 256 /* what the kernel reads to find out what a file is */

/* The same few interpreters are asked for all the time, behind links: where one leads is remembered. */
static long find_interpreter(struct call *c, const char *name, size_t n, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	char key[128];
	long r;

	if (n + 1 > sizeof key || k->root_len)
		return find_text(c, AT_FDCWD, name, FOLLOW | REMEMBERED, p);
	key[0] = 1; /* no path begins with it */
	memcpy(key + 1, name, n);
	if (cache_text(k, key, n + 1, p) >= 0) {
		p->raw = p->self = p->slash = p->mounted = p->direct = p->magic = false;
		return lookup(c, p);
	}
	r = find_text(c, AT_FDCWD, name, FOLLOW | REMEMBERED, p);
	if (!r && !p->raw && !p->mounted && k->plan->mounts[p->mount].flags & MOUNT_CACHE)
		cache_keep_text(k, generation, key, n + 1, p, 0);
	return r;
}

static bool is_i386(const char *head, long n)
{
	const Elf32_Ehdr *e = (const void *)head;

	return n >= (long)sizeof *e && !memcmp(head, "\177ELF\1\1", 6) && e->e_machine == EM_386;
}

bool elf_widen(Elf64_Ehdr *to, const char *head, long n)
{
	Elf32_Ehdr e;

	if (!is_i386(head, n))
		return false;
	memcpy(&e, head, sizeof e);
	memcpy(to->e_ident, e.e_ident, sizeof to->e_ident);
	to->e_type = e.e_type, to->e_machine = e.e_machine, to->e_version = e.e_version, to->e_entry = e.e_entry;
	to->e_phoff = e.e_phoff, to->e_shoff = e.e_shoff, to->e_flags = e.e_flags, to->e_ehsize = e.e_ehsize;
	to->e_phentsize = e.e_phentsize, to->e_phnum = e.e_phnum;
	to->e_shentsize = e.e_shentsize, to->e_shnum = e.e_shnum, to->e_shstrndx = e.e_shstrndx;
	return true;
}

long elf_program_headers(int fd, const Elf64_Ehdr *e, Elf64_Phdr *to, unsigned most)
{
	bool wide = e->e_ident[EI_CLASS] == ELFCLASS64;
	size_t size = wide ? sizeof *to : sizeof(Elf32_Phdr), n = e->e_phnum * size;
	const Elf32_Phdr *narrow = (const void *)((const char *)(to + e->e_phnum) - n);
	long r;

	if (e->e_phentsize != size || !e->e_phnum || e->e_phnum > most)
		return -ENOEXEC;
	r = sys_pread(fd, wide ? (void *)to : (void *)(uintptr_t)narrow, n, (int64_t)e->e_phoff);
	if (r != (long)n)
		return r < 0 ? r : -EIO;
	for (unsigned i = 0; !wide && i < e->e_phnum; i++) { /* from the end of the same memory: never ahead of what is read */
		Elf32_Phdr p = narrow[i];

		to[i] = (Elf64_Phdr){ .p_type = p.p_type, .p_flags = p.p_flags, .p_offset = p.p_offset, .p_vaddr = p.p_vaddr,
				      .p_paddr = p.p_paddr, .p_filesz = p.p_filesz, .p_memsz = p.p_memsz, .p_align = p.p_align };
	}
	return 0;
}

/* The interpreter that the program asks for exists; -ENOENT as from the kernel otherwise. */
static long check_elf(struct call *c, int fd, const char *header, long n)
{
	const Elf64_Ehdr *e = (const void *)header;
	const Elf64_Phdr *ph = (const void *)(header + sizeof *e);
	char *name = c->w->path;
	Elf64_Ehdr widened;
	bool i386 = c->core->plan->options & OPT_I386 && elf_widen(&widened, header, n);
	long r;

	if (i386) {
		e = &widened;
		if (e->e_type != ET_EXEC && e->e_type != ET_DYN)
			return -ENOEXEC;
	} else if (n < (long)sizeof *e || e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_machine != MACHINE ||
	    (e->e_type != ET_EXEC && e->e_type != ET_DYN) || e->e_phentsize != sizeof ph[0] || !e->e_phnum || e->e_phnum > 32)
		return -ENOEXEC;
	if (i386 || e->e_phoff != sizeof *e || n < (long)((e->e_phnum + 1U) * sizeof ph[0] + sizeof *e)) {
		r = elf_program_headers(fd, e, (void *)c->w->other, 32);
		if (r)
			return r;
		ph = (const void *)c->w->other;
	}
	for (int i = 0; i < e->e_phnum; i++) {
		if (ph[i].p_type != PT_INTERP)
			continue;
		if (ph[i].p_filesz < 2 || ph[i].p_filesz > GUEST_MAX)
			return -ENOEXEC;
		r = (long)ph[i].p_filesz;
		if (ph[i].p_offset < (uint64_t)n && ph[i].p_filesz <= (uint64_t)n - ph[i].p_offset)
			memcpy(name, header + ph[i].p_offset, ph[i].p_filesz);
		else
			r = sys_pread(fd, name, ph[i].p_filesz, (int64_t)ph[i].p_offset);
		if (r != (long)ph[i].p_filesz)
			return r < 0 ? r : -EIO;
		if (name[r - 1])
			return -ENOEXEC;
		return find_interpreter(c, name, strlen(name), &c->w->b);
	}
	return 0;
}

static bool is_engine(const char *header, long n)
{
	const Elf64_Ehdr *e = (const void *)header;

	return n >= (long)sizeof *e && !memcmp(header, "\177ELF", 4) && e->e_type == ET_EXEC && e->e_entry >= ENGINE_BASE &&
	       e->e_entry < ENGINE_END;
}

/* Splits the #! line in place. */
static long script_line(char *line, long n, char **interp, char **arg)
{
	char *end, *p = line + 2;

	line[n] = 0;
	end = str_chr(line, '\n');
	if (!end) { /* cut off: no harm while the name itself is whole */
		char *name = p;
		while (*name == ' ' || *name == '\t')
			name++;
		while (*name && *name != ' ' && *name != '\t')
			name++;
		if (!*name && n == HEADER)
			return -ENOEXEC;
		end = line + n;
	}
	*end = 0;
	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = 0;
	while (*p == ' ' || *p == '\t')
		p++;
	if (!*p)
		return -ENOEXEC;
	*interp = p;
	while (*p && *p != ' ' && *p != '\t')
		p++;
	*arg = NULL;
	if (*p) {
		*p++ = 0;
		while (*p == ' ' || *p == '\t')
			p++;
		if (*p)
			*arg = p;
	}
	return 0;
}

static bool can_be_written(const struct call *c, const struct place *p)
{
	return !p->raw && p->layer != LAYER_LOWER && !readonly(c, p);
}

void note_running(struct core *k, const struct place *p)
{
	uint64_t h = text_hash(p->guest, p->len);

	if (p->raw || p->layer == LAYER_LOWER)
		return;
	k->plan->running[h % RUNNING].path = h;
	k->plan->running[h % RUNNING].pid = (int32_t)sys_getpid();
}

bool is_running(struct call *c, const struct place *p)
{
	uint64_t h = text_hash(p->guest, p->len);
	const volatile int32_t *pid = &c->core->plan->running[h % RUNNING].pid;
	char *exe = c->w->other;
	struct { void *at; size_t n; } here = { exe, p->len + 1U }, there = { c->core->exe, p->len + 1U };

	if (p->raw || c->core->plan->running[h % RUNNING].path != h)
		return false;
	/* Every process of the container keeps its program's path at the same address. */
	return SC6(__NR_process_vm_readv, *pid, &here, 1, &there, 1, 0) == (long)here.n && !exe[p->len] && str_eq(exe, p->guest);
}

/* Somebody has the program open for writing: a lease is refused then. Not asked of file systems that have reasons of
 * their own to refuse. The signal of a lease that is broken meanwhile is one that does nothing. */
static bool is_written(int fd)
{
	uint64_t fs[16];
	long r;

	sys_fcntl(fd, 10 /* F_SETSIG */, 28 /* SIGWINCH */);
	r = sys_fcntl(fd, 1024 /* F_SETLEASE */, F_RDLCK);
	if (!r)
		sys_fcntl(fd, 1024, F_UNLCK);
	return r == -EAGAIN && !SC2(__NR_fstatfs, fd, fs) &&
	       (fs[0] == 0xef53 /* ext4 */ || fs[0] == 0x58465342 /* xfs */ || fs[0] == 0x9123683e /* btrfs */ ||
		fs[0] == 0x01021994 /* tmpfs */);
}

/* The file at w->a may be executed by the guest; set-id bits are noted. */
static long may_execute(struct call *c, struct program *out)
{
	struct place *p = &c->w->a;
	struct stat st = p->st;
	long r;

	if ((st.st_mode & S_IFMT) != S_IFREG)
		return -EACCES;
	if (!p->raw && p->mount == 0 && c->core->plan->options & OPT_OWNERS && !p->magic) {
		r = owner_access(c, p, X_OK, true);
	} else {
		r = sys_faccessat(p->dfd, p->host, X_OK);
		if (r == -EACCES && st.st_mode & 0111 && !readonly(c, p))
			r = 0; /* a noexec mount: the loader copies what it cannot map */
	}
	if (r)
		return r;
	owner_show(c, &st, p, NO_FD);
	out->set_uid = st.st_mode & S_ISUID ? st.st_uid : (uint32_t)-1;
	out->set_gid = (st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) ? st.st_gid : (uint32_t)-1;
	out->everybodys = (st.st_mode & (S_ISUID | S_ISGID | 0111)) == 0111;
	return 0;
}

/* A descriptor as the program: by its path where it has one, so that /proc/self/exe is right. */
static long by_descriptor(struct call *c, int fd, struct program *out)
{
	struct place *p = &c->w->a;
	char link[40] = "/proc/self/fd/";
	enum layer layer;
	struct stat st;
	int mount;
	long n, r = sys_fstat(fd, &st);

	if (r)
		return r;
	decimal(link + 14, (unsigned)fd);
	n = sys_readlinkat(AT_FDCWD, link, c->w->text, HOST_MAX);
	if (n > 0 && st.st_nlink && guest_path(c->core, c->w->text, (size_t)n, c->w->text, &mount, &layer) > 0) {
		r = place_at(c, c->w->text, strlen(c->w->text), p);
		if (!r && p->st.st_ino == st.st_ino && p->st.st_dev == st.st_dev)
			return 0;
	}
	memset(p, 0, offsetof(struct place, guest));
	p->dfd = AT_FDCWD;
	p->raw = p->magic = p->found = true;
	p->st = st;
	str_copy(p->guest, link, GUEST_MAX);
	p->len = (uint16_t)strlen(link);
	str_copy(p->host, link, HOST_MAX);
	out->fd = fd;
	return 0;
}

/* An ELF file for the machine that the plan has an emulator for, and needs. */
static bool is_foreign(const struct plan *plan, const char *header, long n)
{
	const uint8_t *h = (const uint8_t *)header;
	unsigned machine;

	if (plan->options & OPT_I386 && is_i386(header, n))
		return false;
	if (!plan->machine || n < 20 || memcmp(header, "\177ELF", 4))
		return false;
	machine = h[EI_DATA] == ELFDATA2MSB ? h[18] << 8 | h[19] : h[19] << 8 | h[18];
	return machine == plan->machine;
}

/* The emulator, a program of the host's, instead of the program at w->a, which it is told. */
static long emulated(struct call *c, struct program *out)
{
	const char *emulator = plan_text(c->core, c->core->plan->emulator);
	struct place *p = &c->w->a;
	long r;

	if (out->fd >= 0 || p->raw || p->magic)
		return -ENOEXEC; /* no path that it could be told */
	str_copy(out->foreign, p->len ? p->guest : "/", GUEST_MAX);
	if (out->n_head)
		memmove(out->head + 4, out->head + 1, (size_t)(out->n_head - 1) * sizeof out->head[0]);
	out->head[2] = out->n_head ? out->head[0] : NULL;
	out->n_head = out->n_head ? out->n_head + 3 : 4;
	out->head[0] = (char *)(uintptr_t)emulator;
	out->head[1] = (char *)(uintptr_t)"-0";
	out->head[3] = out->foreign;
	memset(p, 0, offsetof(struct place, guest));
	p->dfd = AT_FDCWD;
	p->found = true;
	p->len = (uint16_t)str_copy(p->guest, emulator, GUEST_MAX);
	str_copy(p->host, emulator, HOST_MAX);
	r = sys_fstatat(AT_FDCWD, emulator, &p->st, 0);
	c->w->b.found = false;
	return r;
}

long find_program(struct call *c, int dfd, const void *path, long flags, struct program *out)
{
	struct place *p = &c->w->a;
	char *header = out->header, *interp, *arg, first = 1;
	long r, n, fd;

	out->n_head = 0;
	out->fd = -1;
	out->remembered = false;
	if (flags & ~(long)(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return -EINVAL;
	if (flags & AT_EMPTY_PATH) {
		r = guest_read(&first, path, 1);
		if (r)
			return r;
	}
	if (!first) {
		r = by_descriptor(c, dfd, out);
		fmt(out->script, sizeof out->script, "/dev/fd/%d", dfd);
	} else {
		r = guest_str(out->script, path, sizeof out->script);
		if (r < 0)
			return r;
		if (dfd != AT_FDCWD && out->script[0] != '/') {
			char head[32];
			size_t k = fmt(head, sizeof head, "/dev/fd/%d/", dfd);
			if ((size_t)r + k >= sizeof out->script)
				return -ENAMETOOLONG;
			memmove(out->script + k, out->script, (size_t)r + 1);
			memcpy(out->script, head, k);
		}
		/* Names of what a container makes, and removes, would drop what is remembered, if they were to be told of. */
		out->remembered = out->script[0] == '/' && cache_program(c->core, out->script, strlen(out->script), c->w->key) != NOT_KNOWN;
		r = find(c, dfd, path, (flags & AT_SYMLINK_NOFOLLOW ? 0 : FOLLOW) | (out->remembered ? REMEMBERED : 0), p);
		if (!r && (p->st.st_mode & S_IFMT) == S_IFLNK && !p->magic)
			r = -ELOOP;
		if (!r && p->magic) { /* /proc/self/fd/N, /dev/fd/N */
			uint64_t number;
			const char *last = str_rchr(p->host, '/');
			if (last && parse_u64(last + 1, 10, &number))
				r = by_descriptor(c, (int)number, out);
		}
	}
	for (int depth = 0; !r; depth++) {
		r = may_execute(c, out);
		if (r)
			return r;
		fd = sys_openat(p->dfd, p->host, O_RDONLY | O_CLOEXEC, 0);
		if (fd < 0)
			return fd;
		if (can_be_written(c, p) && is_written((int)fd)) {
			sys_close((int)fd);
			return -ETXTBSY;
		}
		n = sys_pread((int)fd, header, sizeof out->header, 0);
		out->engine = is_engine(header, n);
		if (is_foreign(c->core->plan, header, n)) {
			sys_close((int)fd);
			return emulated(c, out);
		}
		if (n >= 4 && !memcmp(header, "\177ELF", 4))
			r = check_elf(c, (int)fd, header, n);
		else if (n < 2 || header[0] != '#' || header[1] != '!')
			r = n < 0 ? n : -ENOEXEC;
		else
			r = 1;
		sys_close((int)fd);
		if (r <= 0)
			return r;
		if (depth == MAX_SCRIPTS)
			return -ELOOP;
		r = script_line(header, MIN(n, HEADER), &interp, &arg);
		if (r)
			return r;
		/* argv[0] gives way to: interpreter, argument, the name of this file. */
		if (!out->n_head)
			out->head[out->n_head++] = out->script;
		memmove(out->head + (arg ? 2 : 1), out->head, (size_t)out->n_head * sizeof out->head[0]);
		out->n_head += arg ? 2 : 1;
		str_copy(out->names[depth], interp, 260);
		out->head[0] = out->names[depth];
		if (arg) {
			size_t used = strlen(interp) + 1;
			str_copy(out->names[depth] + used, arg, 260 - used);
			out->head[1] = out->names[depth] + used;
		}
		out->fd = -1;
		r = find_text(c, AT_FDCWD, out->names[depth], FOLLOW, p);
	}
	return r;
}
