/* The image's record: owners, modes and devices of the lower tree, as the store keeps them, sorted by path. One of moderate
 * size is indexed by inode at the start; a larger one is asked by path.
 */
#include "core/owner.h"

struct record_head {
	char magic[8];
	uint32_t count, reserved;
	uint64_t entries, strings;
};

static const char *record_map; /* of this process; a forked child inherits it */
static size_t record_size;

static const struct record_head *record(struct core *k)
{
	const char *path = plan_text(k, k->plan->record);
	const struct record_head *h;
	struct stat st;
	void *at;
	long fd;

	if (record_map)
		return (const void *)record_map;
	if (!*path && !k->plan->record_fd)
		return NULL;
	fd = k->plan->record_fd ? (long)k->plan->record_fd : sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	if (sys_fstat((int)fd, &st) || st.st_size < (long)sizeof *h)
		return sys_close((int)fd), NULL;
	at = sys_mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, (int)fd, 0);
	sys_close((int)fd);
	if (is_error((long)at))
		return NULL;
	h = at;
	if (memcmp(h->magic, "UDKREC\0\1", 8) || h->entries & 7 || h->entries > (uint64_t)st.st_size ||
	    h->count > ((uint64_t)st.st_size - h->entries) / sizeof(struct record_entry) || h->strings > (uint64_t)st.st_size) {
		sys_munmap(at, (size_t)st.st_size);
		return NULL;
	}
	record_size = (size_t)st.st_size;
	record_map = at;
	return h;
}

void owner_forget_record(void)
{
	if (record_map)
		sys_munmap((void *)(uintptr_t)record_map, record_size);
	record_map = NULL;
}

static const struct record_entry *entry_at(const struct record_head *h, uint32_t i)
{
	return (const struct record_entry *)(record_map + h->entries) + i;
}

static const char *entry_path(const struct record_head *h, const struct record_entry *e)
{
	uint64_t at = h->strings + e->path;

	return at > record_size || e->path_len > record_size - at ? NULL : record_map + at;
}

const struct record_entry *record_find(struct core *k, const char *path, size_t n)
{
	const struct record_head *h = record(k);
	uint32_t low = 0, high = h ? h->count : 0;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct record_entry *e = entry_at(h, mid);
		const char *s = entry_path(h, e);
		int d;

		if (!s)
			return NULL;
		d = memcmp(path, s, MIN(n, e->path_len));
		if (!d && n == e->path_len)
			return e;
		if (d < 0 || (!d && n < e->path_len))
			high = mid;
		else
			low = mid + 1;
	}
	return NULL;
}

void from_entry(struct owner *o, const struct record_entry *e)
{
	o->uid = e->uid;
	o->gid = e->gid;
	o->mode = e->mode;
	o->rdev = (e->minor & 0xff) | (e->major & 0xfff) << 8 | (e->minor & ~0xffU) << 12;
	o->flags = OWNER_SET | (e->mode ? OWNER_MODE : 0);
}

static void note_directories(struct core *k, const struct record_head *h)
{
	char path[GUEST_MAX];

	for (uint32_t i = 0; i < h->count; i++) {
		const struct record_entry *e = entry_at(h, i);
		const char *s = e->mode & S_ISGID ? entry_path(h, e) : NULL;

		if (!s || e->path_len + 2U > sizeof path)
			continue;
		path[0] = '/';
		memcpy(path + 1, s, e->path_len);
		note_setgid(k, path, e->path_len + 1U);
	}
}

/* A file of the image that overlayfs copied up in an earlier run, whoever wrote to it, is still the image's owner's. Such
 * a copy is marked; what was made anew in its place is not. */
static void copied_up(struct core *k, const char *name, size_t n, const struct record_entry *e, uint64_t lower)
{
	const struct mount *m = &k->plan->mounts[0];
	const bool inside = k->plan->options & OPT_IDENTITY;
	char path[HOST_MAX], mark[64];
	size_t at = plan_path(k, plan_text(k, inside ? k->plan->work : m->host), path, sizeof path);
	struct owner *o;
	struct stat st;

	if (!at || at + n + 2 > sizeof path || (e->mode & S_IFMT) == S_IFDIR)
		return;
	path[at] = '/';
	memcpy(path + at + 1, name, n);
	path[at + 1 + n] = 0;
	if (sys_fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) || (st.st_mode & S_IFMT) != S_IFREG ||
	    SC4(__NR_lgetxattr, path, "user.overlay.origin", mark, sizeof mark) < 0 || owner_change(k, 0, st.st_ino, true, false))
		return;
	o = owner_change(k, 0, st.st_ino, true, true);
	if (!o)
		return;
	from_entry(o, e);
	o->origin = lower;
}

/* Indexes a record of moderate size by inode, so that a descriptor's stat needs no path. */
long owner_load_record(struct core *k)
{
	const struct record_head *h = record(k);
	const struct mount *m = &k->plan->mounts[0];
	char path[HOST_MAX];
	volatile uint64_t used = 0;

	if (!h)
		return *plan_text(k, k->plan->record) || k->plan->record_fd ? -EINVAL : 0;
	if (h->count > LOWER_OWNERS / 2 && k->plan->options & OPT_IDENTITY)
		return 0;
	note_directories(k, h);
	if (h->count > LOWER_OWNERS / 2) {
		k->plan->options |= OPT_RECORD_BY_PATH;
		return 0;
	}
	for (uint32_t i = 0; i < h->count; i++) {
		const struct record_entry *e = entry_at(h, i);
		const char *s = entry_path(h, e);
		uint32_t off = m->flags & MOUNT_UNION ? m->lower : m->host;
		size_t n = m->flags & MOUNT_UNION ? m->lower_len : m->host_len;
		struct stat st;
		struct owner *o;

		if (!s || n + e->path_len + 2 > sizeof path)
			return -EINVAL;
		memcpy(path, plan_text(k, off), n);
		path[n++] = '/';
		memcpy(path + n, s, e->path_len);
		path[n + e->path_len] = 0;
		if (k->plan->lower_fd ? sys_fstatat((int)k->plan->lower_fd, path + n, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
				      : sys_fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW))
			continue; /* a layer may name what a later one removed */
		if (k->changes && k->changes->seen_by_overlay)
			copied_up(k, path + n, e->path_len, e, st.st_ino);
		owned_add(k, st.st_ino);
		o = claim(k->plan->lower_owners, LOWER_OWNERS, &used, k->plan->lower_fd ? 0 : st.st_dev, st.st_ino);
		if (o)
			from_entry(o, e);
	}
	k->plan->lower_owners_used = (uint32_t)used;
	return 0;
}
