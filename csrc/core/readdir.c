/* getdents64 of a directory that is in both layers.
 *
 * The position must survive dup, fork, lseek and telldir, so it lives where the kernel keeps it: in the offset of the
 * guest's own descriptor, which is never read from for such a directory. Entries are ordered by a hash of their
 * names and the offset is the hash of the last entry given, as file systems with hashed directories do it: names
 * that come and go between two calls do not disturb the rest. Both layers are read afresh for each call.
 */
#include "core/core.h"

#define FIRST 16 /* positions below are for . and .. */

struct name {
	uint32_t hash, at; /* at: offset of the dirent in the arena */
};

struct listing {
	char *arena;
	size_t size, used;
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
	lower_at = l->used;
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

long read_merged(struct call *c, int fd, struct place *dir, void *to, size_t n)
{
	struct listing l = { 0 };
	struct core *k = c->core;
	long pos = sys_lseek(fd, 0, SEEK_CUR), r;
	size_t done = 0;
	uint32_t i = 0, last = 0;
	bool full = false;

	if (pos < 0)
		return pos;
	if (pos >= 0x40000000 + FIRST)
		/* Begun as a listing of one layer, before the other came to be: finished like that. */
		return sys_getdents64(fd, to, n);
	r = build(c, dir, &l);
	for (long dot = pos; !r && dot < 2; dot++) {
		struct linux_dirent64 d = { .d_ino = dir->st.st_ino, .d_off = dot + 1, .d_reclen = 24, .d_type = DT_DIR };
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
		d->d_off = last;
		o = owner_find(k, &(struct stat){ .st_dev = k->plan->upper_dev, .st_ino = d->d_ino, .st_nlink = 1 });
		if (o && o->origin)
			d->d_ino = o->origin;
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
	sys_lseek(fd, pos, SEEK_SET);
	return (long)done;
}
