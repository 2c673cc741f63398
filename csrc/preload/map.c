/* Code that becomes executable is changed before it can run.
 *
 * What was found out about a file is kept: the arena and, behind it, the file with its changed pages (of a large one
 * those alone), in a file of a private directory, under a name that stands for the original's inode, times and size,
 * and for this build of the engine. Whoever maps an original from its start on gets that in its place, by one mapping
 * for headers, code and arena; whoever maps code only gets the changed pages over it. Where that cannot be (no
 * directory, an original that has just been written, no place before it, memory without a file), the pages are changed
 * in this process.
 *
 * The trap engine takes what is kept of the C library and of its loader, where nearly all calls are made, to save the
 * traps: nothing depends on it there.
 */
#include "preload/keep.h"

#ifdef UDK_HOSTED
#include <elf.h>
#else
#include <linux/elf.h>
#endif

#define NOREPLACE 0x100000
#define REGIONS 256
#define NEAR 16 /* as many as most programs have, where what every program writes to is */
#define LOWEST 65536UL
#define GIB 0x40000000L
#define SETTLED 2 /* seconds after which a change of a file cannot have the same time as the one before */

static struct region {
	volatile unsigned long from, to;
	unsigned long base;
	struct arena *arena;
	unsigned long mark_at; /* changed bytes: gone when something else is mapped there now */
	uint32_t mark;
} near_regions[NEAR], regions[REGIONS - NEAR];
static volatile int n_regions;

static struct region *region_at(int i)
{
	return i < NEAR ? &near_regions[i] : &regions[i - NEAR];
}

static void remember(unsigned long from, unsigned long to, unsigned long base, const void *arena, uint64_t mark_at, uint32_t mark)
{
	int n = MIN(n_regions, REGIONS), i;
	struct region *r;

	if (!self.eager)
		return;
	for (i = 0; i < n; i++)
		if (region_at(i)->from < to && from < region_at(i)->to)
			break;
	if (i == n) {
		i = __atomic_fetch_add(&n_regions, 1, __ATOMIC_RELAXED);
		if (i >= REGIONS)
			return;
	}
	r = region_at(i);
	r->from = r->to = 0;
	r->base = base;
	r->arena = (struct arena *)(uintptr_t)arena;
	r->mark_at = base + mark_at;
	r->mark = mark;
	r->to = to;
	r->from = from;
}

static struct region *region_of(unsigned long pc)
{
	for (int i = 0; i < MIN(n_regions, REGIONS); i++) {
		struct region *r = region_at(i);

		if (pc >= r->from && pc < r->to && r->from)
			return r;
	}
	return NULL;
}

long trapped_at(unsigned long pc)
{
	const struct region *r = region_of(pc);
	const struct trap *traps;
	uint32_t low = 0, high;

	if (!r || r->arena->magic != ARENA_MAGIC)
		return -1;
	traps = (const void *)((const char *)r->arena + r->arena->traps);
	for (high = r->arena->n_traps; low < high;) {
		uint32_t mid = (low + high) / 2;

		if (traps[mid].at == pc - r->base)
			return traps[mid].call ? (long)((unsigned long)r->arena + traps[mid].call) : 0;
		if (traps[mid].at < pc - r->base)
			low = mid + 1;
		else
			high = mid;
	}
	return -1;
}

/* ---- in this process only ----------------------------------------------------------------------------- */

static void *arena_near(unsigned long base, size_t size)
{
	static const long distances[] = { -GIB, -GIB / 2, GIB, -GIB / 512, GIB / 2, -GIB / 4 * 5, -GIB / 4 * 6, -GIB / 4 * 3, -GIB / 4 };

	for (size_t i = 0; i < ARRAY_LEN(distances); i++) {
		unsigned long hint = base + (unsigned long)distances[i];
		void *r;

		if (hint < LOWEST || hint > 0x7fffffff0000UL)
			continue;
		/* Just there: where the kernel would choose may be the place of a segment to come. */
		r = sys_mmap((void *)hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | NOREPLACE, -1, 0);
		if (r == (void *)hint)
			return r;
		if (!is_error((long)r))
			sys_munmap(r, size);
	}
	return NULL;
}

/* Only what is mapped can be changed. */
static void keep_within(struct sites *s, size_t from, size_t to)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		if (s->list[i].from >= from && s->list[i].to <= to)
			s->list[n++] = s->list[i];
	s->n = n;
}

static size_t count_changes(const struct sites *s, uint64_t *first)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		if (s->list[i].method != LEFT && !n++)
			*first = s->list[i].from;
	return n;
}

static uint32_t mark_of(const uint8_t *code, uint64_t at)
{
	uint16_t v;

	memcpy(&v, code + at, sizeof v);
	return v;
}

/* `base` is where the text's first byte is, or would be. */
static long change_here(const struct text *t, struct sites *s, unsigned long base, unsigned long at, size_t n, int prot)
{
	uint64_t mark_at = 0;
	size_t size;
	char *arena;
	long r;

	keep_within(s, at - base, at - base + n);
	if (!count_changes(s, &mark_at))
		return 0;
	size = arena_size(s);
	arena = arena_near(base, size);
	if (!arena)
		return -ENOMEM;
	r = sys_mprotect((void *)at, n, PROT_READ | PROT_WRITE);
	if (!r) {
		rewrite(t, s, (uint8_t *)base, (uint8_t *)arena, arena - (char *)base, (uint64_t)eager_known, (uint64_t)eager_unknown, true);
		r = sys_mprotect(arena, size, PROT_READ | PROT_EXEC);
	}
	if (!r)
		r = sys_mprotect((void *)at, n, prot);
	if (r) {
		sys_munmap(arena, size);
		return r;
	}
	remember(at, at + n, base, arena, mark_at, mark_of((uint8_t *)base, mark_at));
	return 0;
}

/* ---- kept --------------------------------------------------------------------------------------------- */

/* Maps what is kept over the original. 0; -EEXIST when the arena's place is taken. */
static long put_over(int fd, const struct kept *h, unsigned long at, size_t n, uint64_t off, int prot)
{
	unsigned long base = at - off, arena = base + (unsigned long)h->distance;
	long r;

	if (!h->n_spans)
		return 0;
	if ((int64_t)base + h->distance < (int64_t)LOWEST)
		return -EEXIST;
	r = (long)sys_mmap((void *)arena, h->arena_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | NOREPLACE, fd, KEPT_ARENA);
	if (is_error(r))
		return r;
	if ((unsigned long)r != arena) {
		sys_munmap((void *)r, h->arena_size);
		return -EEXIST;
	}
	for (uint32_t i = 0; i < h->n_spans; i++) {
		uint64_t from = MAX(h->spans[i].off, off), to = MIN(h->spans[i].off + h->spans[i].n, off + UP(n));

		if (from >= to)
			continue;
		r = (long)sys_mmap((void *)(base + from), to - from, prot, MAP_PRIVATE | MAP_FIXED, fd, (int64_t)(h->spans[i].at + from - h->spans[i].off));
		if (is_error(r))
			return r;
	}
	remember(at, at + n, base, (void *)arena, h->mark_at, h->mark);
	return 0;
}

/* What is known of the code in a file that is, or is to be, mapped so that its first byte is at `base`. */
struct found {
	struct kept h;
	char name[NAME_MAX]; /* empty: it is not kept */
	long fd;             /* of what is kept, or an error */
	bool nothing;        /* there is no code to change */
};

static volatile uint64_t *clean_slot(const struct kept_id *id, uint64_t *hash)
{
	*hash = text_hash((const char *)id, sizeof *id) | 1;
	return &self.core.plan->clean[*hash / 2 % ARRAY_LEN(self.core.plan->clean)];
}

static void found_clean(const struct kept_id *id)
{
	uint64_t hash;

	*clean_slot(id, &hash) = hash;
}

static bool guest_runs; /* what is mapped then is a library: a loader was mapped by ours */

/* As only the C library among libraries does, it names a loader; or in old ones those that belong to it. */
static bool c_library(int fd)
{
	union { Elf64_Ehdr e; char bytes[1024]; } head;
	Elf64_Phdr p;

	if (sys_pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(head.bytes, "\177ELF\2", 5) || head.e.e_phentsize != sizeof p)
		return false;
	for (uint64_t i = 0, at = head.e.e_phoff; i < head.e.e_phnum && at <= sizeof head - sizeof p; i++, at += sizeof p) {
		memcpy(&p, head.bytes + at, sizeof p);
		if (p.p_type == PT_INTERP)
			return true;
	}
	return false;
}

static long look_up(int fd, struct found *f)
{
	struct stat st;
	uint64_t hash;
	long r = sys_fstat(fd, &st);

	f->name[0] = 0;
	f->fd = -ENOENT;
	f->nothing = r || (st.st_mode & S_IFMT) != S_IFREG || !st.st_size;
	if (f->nothing)
		return r;
	memset(&f->h, 0, sizeof f->h);
	f->h.magic = KEPT_MAGIC;
	f->h.id = (struct kept_id){ st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtime, st.st_mtime_nsec,
				    (uint64_t)st.st_ctime, st.st_ctime_nsec, build_of_code() };
	f->nothing = *clean_slot(&f->h.id, &hash) == hash;
	if (f->nothing || !*plan_text(&self.core, self.core.plan->code))
		return 0;
	kept_name(&f->h.id, f->name, sizeof f->name);
	f->fd = read_kept(f->name, &f->h.id, &f->h);
	if (f->fd < 0 && !self.eager) {
		f->nothing = st.st_size > (int64_t)WHOLE || (guest_runs && !c_library(fd));
		if (f->nothing)
			found_clean(&f->h.id);
		else
			f->nothing = self.core.plan->starts < KEEP_AFTER;
	}
	if (f->fd >= 0 && !f->h.n_spans) {
		f->nothing = true;
		found_clean(&f->h.id);
		sys_close((int)f->fd);
	}
	return 0;
}

/* Looks at the whole file. It is kept: the new file's descriptor is in f->fd, or not, and then what is mapped of it is
 * changed here. */
static long first_time(struct found *f, unsigned long at, size_t n, int fd, uint64_t off, int prot)
{
	struct kept *h = &f->h;
	size_t size = h->id.size, copy_size = UP(size);
	ktimespec now = { 0, 0 };
	struct sites s = { 0 };
	struct text t;
	char *view, *copy = NULL;
	bool settled;
	long r;

	f->fd = -ENOENT;
	view = sys_mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (is_error((long)view))
		return (long)view;
	text_of_file(&t, view, size);
	r = find_sites(&t, call_verdicts, &s);
	if (r)
		goto out;
	sys_clock_gettime(0, &now);
	settled = now.tv_sec > (int64_t)h->id.ctime + SETTLED;
	if (f->name[0] && settled) {
		h->arena = KEPT_ARENA;
		h->arena_size = count_changes(&s, &h->mark_at) ? arena_size(&s) : 0;
		h->distance = t.bent ? -GIB : -(int64_t)h->arena_size; /* right before the file, or where its segments do not come */
		if (h->arena_size) {
			copy = sys_mmap(NULL, copy_size + h->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (is_error((long)copy)) {
				r = (long)copy;
				goto out;
			}
			memcpy(copy, view, size);
			rewrite(&t, &s, (uint8_t *)copy, (uint8_t *)copy + copy_size, h->distance, (uint64_t)eager_known,
				(uint64_t)eager_unknown, self.eager);
			h->mark = mark_of((uint8_t *)copy, h->mark_at);
		}
		make_spans(h, &s);
		f->fd = write_kept(f->name, h, fd, (uint8_t *)copy, copy_size, (uint8_t *)copy + copy_size);
		if (copy)
			sys_munmap(copy, copy_size + h->arena_size);
	}
	if (settled && !h->arena_size && !s.n)
		found_clean(&h->id);
	if (f->fd < 0 && self.eager)
		r = change_here(&t, &s, at - off, at, n, prot);
out:
	free_sites(&s);
	sys_munmap(view, size);
	return r;
}

/* The original is mapped: its code is changed. */
static long finish(struct found *f, unsigned long at, size_t n, int fd, uint64_t off, int prot)
{
	long r;

	if (f->nothing)
		return 0;
	if (f->fd < 0) {
		r = first_time(f, at, n, fd, off, prot);
		if (f->fd < 0)
			return self.eager ? r : 0;
	}
	r = put_over((int)f->fd, &f->h, at, n, off, prot); /* of all that first_time mapped nothing is in the way any more */
	sys_close((int)f->fd);
	if (!r || !self.eager)
		return 0;
	f->name[0] = 0;
	return first_time(f, at, n, fd, off, prot);
}

/* Maps what is kept instead of the original where it is all of that. */
static bool map_kept(struct found *f, unsigned long at, size_t n, uint64_t off, int prot)
{
	if (f->nothing || f->fd < 0 || f->h.spans[0].off > off || f->h.spans[0].off + f->h.spans[0].n < off + n ||
	    put_over((int)f->fd, &f->h, at, n, off, prot))
		return false;
	sys_close((int)f->fd);
	return true;
}

/* What was mapped last by code_place(), until its code is asked for: that is the next thing a loader does. */
static struct placed {
	volatile unsigned long base;
	size_t n;
	int fd;
	enum { UNKNOWN, CLEAN, CHANGED } what;
} last_placed;

static int placed_at(unsigned long at, size_t n, int fd, uint64_t off, int prot)
{
	struct placed p = last_placed;

	if (!p.base || p.base != at - off || p.fd != fd || off + n > p.n || prot != (PROT_READ | PROT_EXEC))
		return UNKNOWN;
	last_placed.base = 0;
	return p.what;
}

long code_place(unsigned long hint, size_t n, int fd, int prot, int flags, bool *changed)
{
	struct found f;
	long r = look_up(fd, &f), at = -ENOENT;

	last_placed.base = 0;
	last_placed.what = CLEAN;
	if (!r && !f.nothing && f.fd >= 0) {
		const struct kept *h = &f.h;

		if (!h->spans[0].off && h->spans[0].n == UP(h->id.size)) { /* it is whole */
			at = (long)sys_mmap((void *)hint, h->arena_size + n, PROT_READ | PROT_EXEC, MAP_PRIVATE, (int)f.fd, KEPT_ARENA);
			if (!is_error(at)) {
				at += (long)h->arena_size;
				last_placed.what = CHANGED;
				remember((unsigned long)at, (unsigned long)at + MIN(UP(n), h->spans[0].n), (unsigned long)at,
					 (char *)at - h->arena_size, h->mark_at, h->mark);
			}
		}
		sys_close((int)f.fd);
	}
	*changed = !is_error(at);
	if (is_error(at))
		at = (long)sys_mmap((void *)hint, n, prot, flags, fd, 0);
	if (!is_error(at) && (*changed || (!r && f.nothing))) {
		last_placed.n = UP(n);
		last_placed.fd = fd;
		last_placed.base = (unsigned long)at;
	}
	return at;
}

long code_mapped(unsigned long at, size_t n, int fd, uint64_t off, int prot)
{
	struct found f;
	long r = look_up(fd, &f);

	return r ? r : finish(&f, at, n, fd, off, prot);
}

long code_map(unsigned long at, size_t n, int fd, uint64_t off, int prot, int flags)
{
	struct found f;
	long r;

	switch (placed_at(at, n, fd, off, prot)) {
	case CHANGED: return (long)at;
	case CLEAN: return (long)sys_mmap((void *)at, n, prot, flags, fd, (int64_t)off);
	case UNKNOWN: break;
	}
	r = look_up(fd, &f);
	if (!r && map_kept(&f, at, n, off, prot))
		return (long)at;
	if (r)
		f.nothing = true;
	r = (long)sys_mmap((void *)at, n, prot, flags, fd, (int64_t)off);
	if (is_error(r)) {
		if (!f.nothing && f.fd >= 0)
			sys_close((int)f.fd);
		return r;
	}
	r = finish(&f, at, n, fd, off, prot);
	return r ? r : (long)at;
}

/* ---- the guest's calls -------------------------------------------------------------------------------- */

long memory_made_executable(unsigned long at, size_t n, int prot)
{
	struct region *known = region_of(at);
	struct sites s;
	struct text t;
	long r;

	if (known && at >= known->from && at + n <= known->to && known->mark_at >= at && known->mark_at + 2 <= at + n &&
	    mark_of((uint8_t *)known->mark_at, 0) == known->mark)
		return 0;
	text_of_memory(&t, (void *)at, n);
	r = find_sites(&t, call_verdicts, &s);
	if (!r)
		r = change_here(&t, &s, at, at, n, prot);
	free_sites(&s);
	return r;
}

static long plain_mmap(const unsigned long a[6], int flags)
{
	return SC6(__NR_mmap, a[0], a[1], a[2], flags, a[4], a[5]);
}

static bool is_elf(int fd)
{
	char head[4];

	return sys_pread(fd, head, 4, 0) == 4 && !memcmp(head, "\177ELF", 4);
}

long eager_mmap(const unsigned long a[6])
{
	int prot = (int)a[2], flags = (int)a[3], fd = (int)a[4];
	long at, r;

	guest_runs = true;
	/* (glibc maps the data of locales so, too) */
	if (!a[0] && !a[5] && (flags & ~MAP_DENYWRITE_) == MAP_PRIVATE && flags & MAP_DENYWRITE_ && !(prot & PROT_WRITE) && prot & PROT_READ &&
	    is_elf(fd)) {
		bool changed;

		at = code_place(0, a[1], fd, prot, flags, &changed);
		if (is_error(at) || changed || !(prot & PROT_EXEC))
			return at;
		r = code_mapped((unsigned long)at, UP(a[1]), fd, 0, prot);
		goto mapped;
	}
	if (!(prot & PROT_EXEC) || flags & MAP_ANONYMOUS)
		return plain_mmap(a, flags);
	if ((flags & 3) != MAP_PRIVATE && !self.eager) /* where there is a filter nothing must be changed */
		return plain_mmap(a, flags);
	if ((flags & 3) != MAP_PRIVATE && !(prot & PROT_WRITE)) {
		if (is_elf(fd))
			flags = (flags & ~3) | MAP_PRIVATE; /* its pages are to be changed, the file is not */
		else
			return plain_mmap(a, flags);
	}
	if (flags & MAP_FIXED && !((a[0] | a[5]) & (PAGE - 1)) && a[1]) {
		at = code_map(a[0], UP(a[1]), fd, a[5], prot, flags);
		if (!is_error(at) || !self.eager || at == -EBADF || at == -EACCES || at == -ENODEV || at == -EPERM)
			return at;
		r = at;
		at = (long)a[0];
	} else {
		at = plain_mmap(a, flags);
		if (is_error(at))
			return at;
		r = code_mapped((unsigned long)at, UP(a[1]), fd, a[5], prot);
	}
mapped:
	if (r) {
		sys_munmap((void *)at, a[1]);
		say(2, "udk: a file with code cannot be mapped by the preload engine: %s\n", errno_text(r));
		return -EACCES;
	}
	return at;
}

long eager_mprotect(long nr, const unsigned long a[6])
{
	long r = SC4(nr, a[0], a[1], a[2], a[3]);

	if (r || !(a[2] & PROT_EXEC) || !(a[2] & PROT_READ) || !a[1])
		return r;
	r = memory_made_executable(a[0], UP(a[1]), (int)a[2]);
	if (r)
		sys_mprotect((void *)a[0], a[1], PROT_READ);
	return r ? -EACCES : 0;
}
