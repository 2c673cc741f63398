/* /proc as the guest should see it: its own paths in links, maps and mounts, and nothing of the engine. */
#include "core/kept.h"
#include "core/sock.h"

/* "/PID/task/TID/leaf" -> pid and leaf. */
static const char *split(const struct core *k, const struct place *p, uint64_t *pid)
{
	const char *s = p->guest + k->plan->mounts[p->mount].guest_len;
	char number[24];
	size_t n = 0;

	if (*s != '/')
		return NULL;
	for (s++; *s >= '0' && *s <= '9' && n < sizeof number - 1; s++)
		number[n++] = *s;
	number[n] = 0;
	if (*s != '/' || !parse_u64(number, 10, pid))
		return NULL;
	s++;
	if (str_starts(s, "task/")) {
		for (s += 5; *s >= '0' && *s <= '9';)
			s++;
		if (*s++ != '/')
			return NULL;
	}
	return s;
}

bool hex_at(const char *s, uint64_t *v)
{
	char number[20];
	size_t n = 0;

	while (n < 16 && ((s[n] >= '0' && s[n] <= '9') || (s[n] >= 'a' && s[n] <= 'f')))
		number[n] = s[n], n++;
	number[n] = 0;
	return n && parse_u64(number, 16, v);
}

/* Reads a file line by line; the line is NUL-terminated, without its newline. */
struct lines {
	int fd;
	size_t at, have;
	char buf[8192];
};

static char *next_line(struct lines *l)
{
	char *end;
	ssize r;

	for (;;) {
		for (end = l->buf + l->at; end < l->buf + l->have && *end != '\n';)
			end++;
		if (end < l->buf + l->have || l->have - l->at >= sizeof l->buf - 1) {
			char *line = l->buf + l->at;
			*end = 0;
			l->at = (size_t)(end - l->buf) + 1;
			return line;
		}
		memmove(l->buf, l->buf + l->at, l->have - l->at);
		l->have -= l->at;
		l->at = 0;
		r = read_some(l->fd, l->buf + l->have, sizeof l->buf - 1 - l->have);
		if (r <= 0)
			return NULL;
		l->have += (size_t)r;
	}
}

/* Too large for a guest's stack; the third place is never in use while /proc is read. */
static struct lines *line_memory(struct call *c)
{
	_Static_assert(sizeof(struct lines) + 16 <= GUEST_MAX + HOST_MAX, "fits into a place");
	return (void *)(((uintptr_t)c->w->c.guest + 15) & ~(uintptr_t)15);
}

long process_maps(struct call *c, uint64_t pid, uint64_t wanted, char *to)
{
	struct lines *l = line_memory(c);
	char path[40];
	uint64_t at, end;
	char *line;
	long r = -ENOENT;

	fmt(path, sizeof path, "/proc/%lu/maps", pid);
	l->at = l->have = 0;
	l->fd = (int)sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	if (l->fd < 0)
		return l->fd;
	while ((line = next_line(l))) {
		const char *slash = str_chr(line, '/'), *dash = str_chr(line, '-');

		if (slash && dash && hex_at(line, &at) && at <= wanted && hex_at(dash + 1, &end) && wanted < end) {
			r = (long)str_copy(to, slash, GUEST_MAX);
			break;
		}
	}
	sys_close(l->fd);
	return r;
}

#define START_DATA 45 /* which of the fields of /proc/PID/stat */

/* Where a process's data begins, as it told the kernel; 0: not known. `text`: GUEST_MAX bytes. */
static uint64_t data_of(uint64_t pid, char *text)
{
	char path[40], *s, *end;
	uint64_t at = 0;

	fmt(path, sizeof path, "/proc/%lu/stat", pid);
	if (read_file(AT_FDCWD, path, text, GUEST_MAX) < 0)
		return 0;
	s = str_rchr(text, ')'); /* the name may hold anything */
	for (int i = 2; s && i < START_DATA; i++)
		s = str_chr(s + 1, ' ');
	end = s ? str_chr(s + 1, ' ') : NULL;
	if (!end)
		return 0;
	*end = 0;
	return parse_u64(s + 1, 10, &at) ? at : 0;
}

/* The program that another process of the container runs, by what its loader mapped. */
static long other_exe(struct call *c, uint64_t pid, char *to)
{
	uint64_t data = data_of(pid, to);
	long r = data ? process_maps(c, pid, data, to) : -ENOENT;

	if (r < 0)
		r = process_maps(c, pid, EXE_MARK, to);
	return r < 0 ? r : show_path(c->core, to, (size_t)r);
}

static long exe_path(struct call *c, struct place *p, uint64_t pid, char *to)
{
	struct core *k = c->core;
	long r, n;

	if ((long)pid == sys_getpid()) {
		bool inside = !memcmp(k->exe, k->root, k->root_len);
		return (long)str_copy(to, k->exe + (inside ? k->root_len : 0), GUEST_MAX);
	}
	r = sys_readlinkat(p->dfd, p->host, to, GUEST_MAX - 1);
	if (r < 0)
		return r;
	to[r] = 0;
	if (k->plan->options & OPT_IDENTITY) {
		n = sys_readlinkat(AT_FDCWD, "/proc/self/exe", c->w->other, GUEST_MAX - 1);
		c->w->other[MAX(n, 0)] = 0;
		return str_eq(to, c->w->other) ? other_exe(c, pid, to) : r;
	}
	if (str_eq(to, plan_text(k, k->plan->loader)))
		return other_exe(c, pid, to);
	r = show_path(k, to, (size_t)r);
	return r < 0 ? -EACCES : r;
}

/* How a link is to be followed: by its text, by the kernel (though the text is a path of the guest's), by the kernel
 * only. */
enum how { BY_TEXT, BY_KERNEL, KERNEL_ONLY };

/* The text of a link in /proc, as the guest should read it. */
static long link_text(struct call *c, struct place *p, char *to, enum how *how)
{
	uint64_t pid;
	const char *leaf = split(c->core, p, &pid);
	long r, n;

	*how = BY_TEXT;
	place_host(c, p, LAYER_PLAIN);
	if (leaf && str_eq(leaf, "exe"))
		return exe_path(c, p, pid, to);
	r = sys_readlinkat(p->dfd, p->host, to, GUEST_MAX - 1);
	if (r < 0 || !leaf)
		return r;
	to[r] = 0;
	if (str_eq(leaf, "root")) {
		to[0] = '/';
		to[1] = 0;
		return 1;
	}
	if (str_eq(leaf, "cwd") || str_starts(leaf, "fd/") || str_starts(leaf, "map_files/")) {
		*how = leaf[0] == 'c' ? BY_TEXT : BY_KERNEL;
		if (to[0] != '/') {
			*how = KERNEL_ONLY;
			return r;
		}
		memcpy(c->w->other, to, (size_t)r + 1);
		n = show_path(c->core, c->w->other, (size_t)r);
		if (n < 0 || n >= GUEST_MAX) {
			*how = KERNEL_ONLY;
			return r;
		}
		memcpy(to, c->w->other, (size_t)n + 1);
		return n;
	}
	if (to[0] != '/' && str_chr(leaf, '/'))
		*how = KERNEL_ONLY;
	return r;
}

bool proc_is_magic(struct call *c, struct place *p)
{
	uint64_t pid;
	const char *leaf = split(c->core, p, &pid);

	return leaf && (str_eq(leaf, "exe") || str_eq(leaf, "cwd") || str_eq(leaf, "root") || str_chr(leaf, '/'));
}

long proc_readlink(struct call *c, struct place *p, char *to)
{
	enum how how;

	return link_text(c, p, to, &how);
}

/* The link that a walk meets: its text in w->link, or 0 where only the kernel can follow. */
long proc_magic(struct call *c, struct place *p, bool last)
{
	enum how how;
	long r = link_text(c, p, c->w->link, &how);

	/* On the way to something a directory's path does; the thing itself may be deleted, or without one. */
	return r < 0 || how == BY_TEXT || (how == BY_KERNEL && !last) ? r : 0;
}

/* ---- files made up ------------------------------------------------------------------------------------ */

static long blank(struct call *c)
{
	char *name = c->w->text;
	long fd = sys_memfd_create("proc", MFD_CLOEXEC);

	if (fd >= 0)
		return fd;
	str_copy(name, plan_text(c->core, c->core->plan->state), HOST_MAX - 40);
	fmt(name + strlen(name), 40, ".%lx.%x", sys_getpid(), __atomic_add_fetch(&c->core->plan->counter, 1, __ATOMIC_RELAXED));
	fd = sys_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		sys_unlinkat(AT_FDCWD, name, 0);
	return fd;
}

/* Spaces and the like as mount tables write them. */
static void escaped(char *to, const char *s, size_t n, size_t size)
{
	size_t at = 0;

	for (size_t i = 0; i < n && at + 5 < size; i++) {
		unsigned char ch = (unsigned char)s[i];
		if (ch == ' ' || ch == '\t' || ch == '\n' || ch == '\\')
			at += fmt(to + at, size - at, "\\%03o", ch);
		else
			to[at++] = (char)ch;
	}
	to[at] = 0;
}

static long mount_table(struct call *c, int out, bool info)
{
	const struct core *k = c->core;
	char *target = c->w->other, *line = c->w->rest;

	for (uint32_t i = 0; i < k->plan->n_mounts; i++) {
		const struct mount *m = &k->plan->mounts[i];
		const char *guest = plan_text(k, m->guest), *type = i ? "none" : "overlay";
		const char *mode = m->flags & MOUNT_RO ? "ro" : "rw";
		struct stat st = { 0 };
		size_t n;
		long r;

		if (k->root_len)
			break; /* inside a chroot nothing is mounted that it could name */
		if (m->flags & MOUNT_PROC)
			type = "proc";
		else if (str_eq(guest, "/sys"))
			type = "sysfs";
		else if (str_eq(guest, "/dev"))
			type = "devtmpfs";
		escaped(target, m->guest_len ? guest : "/", MAX(m->guest_len, 1), HOST_MAX);
		sys_fstatat(AT_FDCWD, m->host_len ? plan_text(k, m->host) : "/", &st, 0);
		if (info)
			n = fmt(line, sizeof c->w->rest, "%u %u %u:%u / %s %s,relatime - %s %s %s\n", 20 + i, i ? 20 : 1,
				(unsigned)(st.st_dev >> 8 & 0xfff), (unsigned)((st.st_dev & 0xff) | (st.st_dev >> 12 & ~0xffU)), target,
				mode, type, type, mode);
		else
			n = fmt(line, sizeof c->w->rest, "%s %s %s %s,relatime 0 0\n", type, target, type, mode);
		r = write_all(out, line, MIN(n, sizeof c->w->rest - 1));
		if (r)
			return r;
	}
	return 0;
}

/* A list of mappings on its way out. Where the engine changed single pages of a program's code the kernel has several ranges;
 * profilers and debuggers expect the one that the program's file has: in `maps` it is shown as one. */
struct ranges {
	int out;
	bool joined; /* as far as they can be */
	char *line;  /* the last one, not written yet: GUEST_MAX bytes */
	size_t n;
	uint64_t start, end, offset;
	const char *rest; /* of the line, from the permissions on */
	const char *file; /* and from the device on */
};

static bool code_range(const char *line, struct ranges *to)
{
	const char *word = str_chr(line, '-');

	if (!hex_at(line, &to->start) || !word || !hex_at(word + 1, &to->end))
		return false;
	word = str_chr(word, ' ');
	if (!word || strlen(word) < 6 || word[3] != 'x')
		return false;
	to->rest = word + 1;
	to->file = str_chr(word + 6, ' ');
	return hex_at(word + 6, &to->offset) && to->file && str_chr(to->file, '/');
}

static long ranges_end(struct ranges *l)
{
	char head[48];
	size_t n;
	long r;

	if (!l->n)
		return 0;
	n = fmt(head, sizeof head, "%08lx-%08lx ", l->start, l->end);
	r = write_all(l->out, head, n);
	n = (size_t)(l->rest - l->line);
	l->line[l->n] = '\n';
	if (!r)
		r = write_all(l->out, l->rest, l->n + 1 - n);
	l->n = 0;
	return r;
}

/* One more line, NUL-terminated, with room for one character more. */
static long ranges_add(struct ranges *l, char *line)
{
	struct ranges now = { 0 };
	size_t n = strlen(line);
	bool code = l->joined && n + 1 < GUEST_MAX && code_range(line, &now);
	long r;

	if (code && l->n && now.start == l->end && now.offset == l->offset + l->end - l->start && str_eq(now.file, l->file) &&
	    !memcmp(now.rest, l->rest, 4)) {
		l->end = now.end;
		return 0;
	}
	r = ranges_end(l);
	if (!code) {
		line[n] = '\n';
		r = r ? r : write_all(l->out, line, n + 1);
		line[n] = 0;
		return r;
	}
	memcpy(l->line, line, n + 1);
	code_range(l->line, l);
	l->n = n;
	return r;
}

/* maps, smaps, numa_maps: host paths become the guest's, the engine's own ranges are left out. */
static long memory_table(struct call *c, int in, int out, bool joined)
{
	struct lines *l = line_memory(c);
	struct ranges ranges = { .out = out, .joined = joined, .line = c->w->onward };
	const char *code = plan_text(c->core, c->core->plan->code);
	bool skip = false;
	char *line;
	long r = 0;

	l->fd = in;
	l->at = l->have = 0;
	while (!r && (line = next_line(l))) {
		char *slash, *text = c->w->other, *whole = c->w->rest, *gone;
		uint64_t at;
		long n;

		if (hex_at(line, &at)) /* a range begins; what follows until the next one describes it */
			skip = at >= INDEX_AT && at < ENGINE_END;
		if (skip)
			continue;
		slash = str_chr(line, '/');
		if (slash && *code && str_starts(slash, code) && hex_at(line, &at)) {
			skip = kept_line(c->core, line, slash, text, HOST_MAX, whole) < 0;
			if (!skip)
				r = ranges_add(&ranges, text);
			continue;
		}
		if (slash && hex_at(line, &at) && slash - line < 128) {
			str_copy(text, slash, GUEST_MAX);
			gone = (char *)(uintptr_t)mem_find(text, strlen(text), " (deleted)", 10);
			if (gone)
				*gone = 0;
			n = show_path(c->core, text, strlen(text));
			if (n >= 0) {
				text[n] = 0;
				memcpy(whole, line, (size_t)(slash - line));
				fmt(whole + (slash - line), sizeof c->w->rest - 128, "%s%s", text, gone ? " (deleted)" : "");
				line = whole;
			}
		}
		r = ranges_add(&ranges, line); /* behind a line read its newline was: there is room */
	}
	return r ? r : ranges_end(&ranges);
}

/* net/unix: sockets by the names that the guest gave them. */
static long socket_table(struct call *c, int in, int out)
{
	struct lines *l = line_memory(c);
	char *line, *to = c->w->rest;
	long r = 0;

	l->fd = in;
	l->at = l->have = 0;
	while (!r && (line = next_line(l))) {
		char *name = str_chr(line, '/');
		size_t n, before = name ? (size_t)(name - line) : 0;

		if (before && before < 128 && name[-1] == ' ' && str_copy(c->w->text, name, GUEST_MAX) < GUEST_MAX && socket_name(c) >= 0) {
			memcpy(to, line, before);
			n = fmt(to + before, GUEST_MAX, "%s\n", c->w->text);
			n = before + MIN(n, (size_t)GUEST_MAX - 1);
		} else {
			n = str_copy(to, line, sizeof c->w->rest - 1);
			to[n++] = '\n';
		}
		r = write_all(out, to, n);
	}
	return r;
}

bool ids_of(struct call *c, uint64_t pid, struct ids *ids)
{
	const struct plan *plan = c->core->plan;
	struct { void *at; size_t n; } here = { ids, sizeof *ids }, there = { &c->core->ids, sizeof *ids };

	*ids = c->core->ids;
	if ((long)pid == sys_getpid())
		return true;
	if (SC6(__NR_process_vm_readv, pid, &here, 1, &there, 1, 0) == sizeof *ids && ids->n_groups <= MAX_GROUPS)
		return true;
	*ids = (struct ids){ plan->uid, plan->uid, plan->uid, plan->uid, plan->gid, plan->gid, plan->gid, plan->gid, 0, { 0 } };
	return false;
}

/* status: who the process is, in the guest's terms. */
static long status(struct call *c, uint64_t pid, int in, int out)
{
	const struct plan *plan = c->core->plan;
	struct lines *l = line_memory(c);
	char *line, *to = c->w->rest;
	struct ids ids = { 0 };
	uint32_t mine = plan->host_uid;
	bool known = false, power = false;
	long r = 0;

	l->fd = in;
	l->at = l->have = 0;
	while (!r && (line = next_line(l))) {
		size_t n, size = sizeof c->w->rest;

		if (str_starts(line, "Uid:\t")) {
			char owner[24];
			fmt(owner, sizeof owner, "Uid:\t%u\t", mine);
			known = str_starts(line, owner);
			if (known)
				ids_of(c, pid, &ids);
			else
				ids = (struct ids){ 65534, 65534, 65534, 65534, 65534, 65534, 65534, 65534, 0, { 0 } };
			power = known && plan->options & OPT_FAKE_ROOT && ids.euid == 0;
			n = fmt(to, size, "Uid:\t%u\t%u\t%u\t%u\n", ids.ruid, ids.euid, ids.suid, ids.fsuid);
		} else if (str_starts(line, "Gid:\t")) {
			n = fmt(to, size, "Gid:\t%u\t%u\t%u\t%u\n", ids.rgid, ids.egid, ids.sgid, ids.fsgid);
		} else if (str_starts(line, "Groups:\t")) {
			n = fmt(to, size, "Groups:\t");
			for (uint32_t i = 0; i < ids.n_groups; i++)
				n += fmt(to + n, size - n, "%u ", ids.groups[i]);
			to[n++] = '\n';
		} else if (plan->options & OPT_PTRACE && str_starts(line, "TracerPid:\t")) { /* ours, and so nobody else's */
			n = fmt(to, size, "TracerPid:\t0\n");
		} else if (power && (str_starts(line, "CapPrm:\t") || str_starts(line, "CapEff:\t") || str_starts(line, "CapBnd:\t"))) {
			line[8] = 0;
			n = fmt(to, size, "%s000001ffffffffff\n", line);
		} else {
			n = str_copy(to, line, size - 1);
			to[n++] = '\n';
		}
		r = write_all(out, to, n);
	}
	return r;
}

/* Opens for reading what must be shown otherwise than the host has it. 1: *result is the answer. */
long open_shown(struct call *c, struct place *p, int flags, long *result)
{
	uint64_t pid;
	const char *leaf = split(c->core, p, &pid);
	bool info, maps, ids, sockets;
	long in, out, r;

	if (!leaf || flags & (O_PATH | O_DIRECTORY) || p->self)
		return 0;
	info = str_eq(leaf, "mountinfo");
	maps = str_eq(leaf, "maps") || str_eq(leaf, "smaps") || str_eq(leaf, "numa_maps");
	ids = str_eq(leaf, "status") && c->core->plan->options & OPT_OWNERS;
	sockets = str_eq(leaf, "net/unix");
	if (!info && !maps && !ids && !sockets && !str_eq(leaf, "mounts"))
		return 0;
	place_host(c, p, LAYER_PLAIN);
	in = sys_openat(p->dfd, p->host, O_RDONLY | O_CLOEXEC, 0);
	if (in < 0)
		return *result = in, 1;
	out = blank(c);
	r = out < 0   ? out
	    : maps    ? memory_table(c, (int)in, (int)out, str_eq(leaf, "maps"))
	    : ids     ? status(c, pid, (int)in, (int)out)
	    : sockets ? socket_table(c, (int)in, (int)out)
		      : mount_table(c, (int)out, info);
	sys_close((int)in);
	if (!r)
		r = sys_lseek((int)out, 0, SEEK_SET);
	if (!r) { /* not to be written to */
		char link[40] = "/proc/self/fd/";
		decimal(link + 14, (unsigned)out);
		in = sys_open(link, O_RDONLY | (flags & O_CLOEXEC), 0);
		sys_close((int)out);
		out = in;
	} else if (out >= 0) {
		sys_close((int)out);
	}
	*result = r ? r : out;
	return 1;
}
