/* getdents64 of a directory that is in both layers.
 *
 * The position must survive dup, fork, lseek and telldir, so it lives where the kernel keeps it: in the offset of the
 * guest's own descriptor, which is never read from for such a directory. Entries are ordered by a hash of their
 * names and the offset is the hash of the last entry given, as file systems with hashed directories do it: names
 * that come and go between two calls do not disturb the rest. Both layers are read afresh for each call.
 */
#include "core/core.h"
#include "core/index.h"

#define FIRST 16 /* positions below are for . and .. */
#define LAST (0x40000000 + FIRST)
#define MERGED (1L << 41) /* where they begin: no file system's own, which small ones are; not for 32-bit programs */

struct name {
	uint32_t hash, at; /* at: offset of the dirent in the arena */
};

struct listing {
	char *arena;
	size_t size, used, lower_at; /* where those of the lower begin */
	struct name *names;
	uint32_t count;
};

static long grow(struct listing *l, size_t need)
{
	size_t size = l->size ? l->size : 1 << 17;
	void *at;

	while (size - l->used < need)
		size *= 2;
	if (size == l->size)
		return 0;
	at = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)at))
		return (long)at;
	if (l->arena) {
		memcpy(at, l->arena, l->used);
		sys_munmap(l->arena, l->size);
	}
	l->arena = at;
	l->size = size;
	return 0;
}

static uint32_t name_hash(const char *s)
{
	return (uint32_t)(text_hash(s, strlen(s)) % 0x3fffffff) + FIRST;
}

static struct linux_dirent64 *dirent_at(const struct listing *l, uint32_t i)
{
	return (void *)(l->arena + l->names[i].at);
}

static long read_layer(struct listing *l, const char *path)
{
	long fd = sys_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0), n, r = 0;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	for (;;) {
		r = grow(l, 32768);
		if (r)
			break;
		n = sys_getdents64((int)fd, l->arena + l->used, 32768);
		if (n <= 0) {
			r = n;
			break;
		}
		l->used += (size_t)n;
	}
	sys_close((int)fd);
	return r;
}

/* Heap order by (hash, layer): the upper's entries are first in the arena. */
static bool before(const struct name *a, const struct name *b)
{
	return a->hash != b->hash ? a->hash < b->hash : a->at < b->at;
}

static void sort(struct name *v, uint32_t n)
{
	for (uint32_t gap = n / 2; gap; gap = gap == 2 ? 1 : gap * 5 / 11)
		for (uint32_t i = gap; i < n; i++) {
			struct name x = v[i];
			uint32_t j = i;
			for (; j >= gap && before(&x, &v[j - gap]); j -= gap)
				v[j] = v[j - gap];
			v[j] = x;
		}
}

/* What both layers have, as directories that belong together, has the lower's inode; see merged_ino. */
static void as_before(struct call *c, const struct place *dir, struct linux_dirent64 *upper, const struct linux_dirent64 *lower)
{
	struct place *t = &c->w->c;
	size_t n = strlen(upper->d_name);

	if (upper->d_type != DT_DIR || lower->d_type != DT_DIR || dir->len + n + 1 >= GUEST_MAX)
		return;
	memcpy(t->guest, dir->guest, dir->len);
	t->guest[dir->len] = '/';
	memcpy(t->guest + dir->len + 1, upper->d_name, n + 1);
	if (upper_kind(c, t->guest, dir->len + 1 + n, dir->mount) == IN_MERGED)
		upper->d_ino = merged_ino(c, t->guest, dir->len + 1 + n);
}

static size_t parent_len(const char *path, size_t n)
{
	while (n && path[n - 1] != '/')
		n--;
	return n ? n - 1 : 0;
}

/* Reads both layers, sorts, and drops what the upper hides. The names' memory is at the arena's end. */
static long build(struct call *c, struct place *dir, struct listing *l)
{
	struct core *k = c->core;
	bool files = k->plan->options & OPT_WHITEOUT_FILE;
	size_t lower_at, upper_len;
	uint32_t n = 0, out = 0;
	struct stat st;
	long r;

	host_path(k, dir->mount, LAYER_UPPER, dir->guest, dir->len, c->w->text);
	upper_len = strlen(c->w->text);
	r = read_layer(l, c->w->text);
	l->lower_at = lower_at = l->used;
	if (!r) {
		host_path(k, dir->mount, LAYER_LOWER, dir->guest, dir->len, c->w->other);
		r = read_layer(l, c->w->other);
	}
	if (r)
		return r;
	for (size_t at = 0; at < l->used; at += ((struct linux_dirent64 *)(l->arena + at))->d_reclen)
		n++;
	r = grow(l, n * sizeof(struct name) + 8);
	if (r)
		return r;
	l->names = (void *)(l->arena + ((l->used + 7) & ~(size_t)7));
	n = 0;
	for (size_t at = 0; at < l->used;) {
		struct linux_dirent64 *d = (void *)(l->arena + at);
		if (!str_eq(d->d_name, ".") && !str_eq(d->d_name, ".."))
			l->names[n++] = (struct name){ name_hash(files && at < lower_at && str_starts(d->d_name, ".wh.") ? d->d_name + 4 : d->d_name),
						       (uint32_t)at };
		at += d->d_reclen;
	}
	sort(l->names, n);
	/* A lower name that the upper has too, as an entry or as a whiteout: all of one hash are neighbours, the upper's
	 * first. */
	for (uint32_t i = 1; i < n; i++) {
		const char *name = dirent_at(l, i)->d_name;

		for (uint32_t j = i; l->names[i].at >= lower_at && j-- && l->names[j].hash == l->names[i].hash;) {
			const char *other = dirent_at(l, j)->d_name;

			if (l->names[j].at < lower_at &&
			    (str_eq(other, name) || (files && str_starts(other, ".wh.") && str_eq(other + 4, name)))) {
				if (str_eq(other, name))
					as_before(c, dir, dirent_at(l, j), dirent_at(l, i));
				dirent_at(l, i)->d_reclen = 0; /* dropped below */
				break;
			}
		}
	}
	for (uint32_t i = 0; i < n; i++) {
		struct linux_dirent64 *d = dirent_at(l, i);
		bool upper = l->names[i].at < lower_at;

		if (!d->d_reclen || (upper && files && str_starts(d->d_name, ".wh.")))
			continue;
		if (upper && d->d_type == DT_CHR && upper_len + 2 + strlen(d->d_name) < HOST_MAX) {
			c->w->text[upper_len] = '/';
			str_copy(c->w->text + upper_len + 1, d->d_name, 256);
			if (!sys_fstatat(AT_FDCWD, c->w->text, &st, AT_SYMLINK_NOFOLLOW) && is_whiteout(&st))
				continue;
		}
		l->names[out++] = l->names[i];
	}
	l->count = out;
	return 0;
}

long show_inodes(struct core *k, void *list, long n)
{
	struct linux_dirent64 d;

	if (k->plan->lower_dev == k->plan->upper_dev)
		return n;
	for (char *at = list, *end = at + n; at < end; at += d.d_reclen) {
		if (guest_read(&d, at, offsetof(struct linux_dirent64, d_name)) || d.d_reclen < sizeof d)
			return -EFAULT;
		d.d_ino |= FOREIGN_INODE;
		if (guest_write(at, &d.d_ino, sizeof d.d_ino))
			return -EFAULT;
	}
	return n;
}

bool lists_image(struct core *k, int fd)
{
	return k->plan->index && (index_ready(k, 1) || index_lists(sys_lseek(fd, 0, SEEK_CUR)));
}

long read_image(struct core *k, int fd, const struct place *dir, void *to, size_t n)
{
	const long at = k->plan->index ? sys_lseek(fd, 0, SEEK_CUR) : -1;
	long r;

	if (at < 0 || (at && !index_lists(at)))
		return INDEX_ASK;
	/* Another process may have begun: what the kernel would make of that position is not known. */
	if (!index_ready(k, at ? INDEX_AT_ONCE : 0))
		return at ? -ENOMEM : INDEX_ASK;
	r = index_list(k, index_dir(k, dir->guest, dir->len), fd, to, n);
	return r > 0 ? show_inodes(k, to, r) : r;
}

/* Is that position one of a listing of one layer, begun before the other came to be? */
static bool of_one_layer(int fd, long pos, long base)
{
	if (!base || !pos || pos >= base)
		return pos - base >= LAST;
	if (sys_lseek(fd, base, SEEK_SET) != base) /* the file system takes none like that: it is not known */
		return pos >= LAST;
	sys_lseek(fd, pos, SEEK_SET);
	return true;
}

long read_merged(struct call *c, int fd, struct place *dir, void *to, size_t n)
{
	const long base = c->nr32 ? 0 : MERGED;
	struct listing l = { 0 };
	struct core *k = c->core;
	long pos = sys_lseek(fd, 0, SEEK_CUR), r;
	size_t done = 0;
	uint32_t i = 0, last = 0;
	bool full = false;

	if (pos < 0)
		return pos;
	if (of_one_layer(fd, pos, base)) { /* finished like that */
		r = read_image(k, fd, dir, to, n);
		if (r != INDEX_ASK)
			return r;
		r = sys_getdents64(fd, to, n);
		return r > 0 && !c->nr32 ? show_inodes(k, to, r) : r;
	}
	pos -= pos >= base ? base : 0;
	r = build(c, dir, &l);
	for (long dot = pos; !r && dot < 2; dot++) {
		const size_t at = dot ? parent_len(dir->guest, dir->len) : dir->len;
		struct linux_dirent64 d = { .d_ino = merged_ino(c, dir->guest, at), .d_off = base + dot + 1, .d_reclen = 24, .d_type = DT_DIR };
		if (done + 24 > n) {
			full = true;
			break;
		}
		if (guest_write((char *)to + done, &d, sizeof d) ||
		    guest_write((char *)to + done + offsetof(struct linux_dirent64, d_name), dot ? ".." : ".\0", 3))
			r = -EFAULT;
		done += 24;
		pos = dot + 1;
	}
	while (!r && !full && i < l.count && l.names[i].hash <= (uint32_t)pos)
		i++;
	for (; !r && !full && i < l.count; i++) {
		struct linux_dirent64 *d = dirent_at(&l, i);
		struct owner *o;

		/* Two names of one hash must not be torn apart: the second's position is one more. */
		last = MAX(l.names[i].hash, last + 1);
		if (done + d->d_reclen > n)
			break;
		d->d_off = base + last;
		o = owner_find(k, &(struct stat){ .st_dev = k->plan->upper_dev, .st_ino = d->d_ino, .st_nlink = 1 });
		if (o && o->origin)
			d->d_ino = o->origin;
		if (((o && o->origin) || l.names[i].at >= l.lower_at) && k->plan->lower_dev != k->plan->upper_dev && !c->nr32)
			d->d_ino |= FOREIGN_INODE;
		if (o && o->flags & OWNER_MODE && o->mode & S_IFMT)
			d->d_type = (uint8_t)((o->mode & S_IFMT) >> 12);
		if (guest_write((char *)to + done, d, d->d_reclen))
			r = -EFAULT;
		done += d->d_reclen;
		pos = last;
	}
	if (l.arena)
		sys_munmap(l.arena, l.size);
	if (r)
		return r;
	if (!done)
		return i < l.count || full ? -EINVAL : 0;
	if (sys_lseek(fd, base + pos, SEEK_SET) < 0)
		sys_lseek(fd, pos, SEEK_SET);
	return (long)done;
}
