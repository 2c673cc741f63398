/* Identity of files: what the records say and the disk does not show.
 *
 * Everything on disk belongs to the caller. The image's record tells owners, set-id bits and devices of the lower
 * tree; the record of changes tells those of the upper, by inode, in a file that all processes map. A file without
 * an entry is 0:0 in the image and its upper; elsewhere the caller's own id is shown as the guest's, any other as
 * nobody's. Guest root reads and writes what the mode denies: the disk keeps u+rw, the record the guest's mode.
 */
#include "core/core.h"

#define NOBODY 65534
#define BUSY (~(uint64_t)0)
#define CHAIN 256 /* no entry is further from its place: file systems that give no inode twice fill the table */
#define FOREIGN_INODE ((uint64_t)1 << 62) /* of a lower tree on another device, as overlayfs's xino does */

bool privileged(const struct core *k)
{
	return k->plan->options & OPT_FAKE_ROOT && k->ids.fsuid == 0;
}

static uint64_t slot_of(uint64_t ino, uint64_t slots)
{
	return (ino * 0x9e3779b97f4a7c15ULL >> 24) & (slots - 1);
}

/* Most files have no entry anywhere: a bit tells, without a look at a table that is many pages. */
static volatile uint64_t *owned_word(struct core *k, uint64_t ino, uint64_t *bit)
{
	uint64_t h = ino * 0x9e3779b97f4a7c15ULL;

	*bit = (uint64_t)1 << (h >> 40 & 63);
	return &k->plan->owned[h >> 46 & (OWNED_WORDS - 1)];
}

static void owned_add(struct core *k, uint64_t ino)
{
	uint64_t bit;
	volatile uint64_t *w = owned_word(k, ino, &bit);

	if (!(*w & bit))
		__atomic_fetch_or(w, bit, __ATOMIC_SEQ_CST);
}

/* Entries of earlier runs. */
void owner_index_changes(struct core *k)
{
	const struct changes *ch = k->changes;

	for (uint64_t i = 0; ch->used && i < ch->slots; i++)
		if (ch->owners[i].ino && !(ch->owners[i].flags & (OWNER_GONE | OWNER_DEAD)))
			owned_add(k, ch->owners[i].ino);
}

static struct owner *probe(struct owner *t, uint64_t slots, uint64_t dev, uint64_t ino)
{
	uint64_t i = slot_of(ino, slots);

	for (int n = 0; n < CHAIN; n++, i = (i + 1) & (slots - 1)) {
		uint64_t have = __atomic_load_n(&t[i].ino, __ATOMIC_ACQUIRE);
		if (!have)
			return NULL;
		if (have == ino && t[i].dev == dev && !(t[i].flags & OWNER_GONE))
			return &t[i];
	}
	return NULL;
}

/* The entry is for another file now. */
static void renew(struct owner *o, uint32_t flags)
{
	uint32_t was = o->flags;

	while (!__atomic_compare_exchange_n(&o->flags, &was, (was & ~(uint32_t)OWNER_BITS) + OWNER_TURN + flags, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_RELAXED))
		continue;
	o->uid = o->gid = o->mode = o->rdev = 0;
	o->origin = o->birth = 0;
}

static struct owner *claim(struct owner *t, uint64_t slots, volatile uint64_t *used, uint64_t dev, uint64_t ino)
{
	uint64_t i = slot_of(ino, slots);
	struct owner *o = probe(t, slots, dev, ino);
	uint32_t given_up = *used > slots / 4 * 3 ? OWNER_GONE | OWNER_DEAD : OWNER_GONE;

	if (o)
		return o;
	for (int n = 0; n < CHAIN; n++, i = (i + 1) & (slots - 1)) {
		uint64_t have = t[i].ino;
		if ((have && (have == BUSY || !(t[i].flags & given_up))) ||
		    !__atomic_compare_exchange_n(&t[i].ino, &have, BUSY, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		if (!have)
			__atomic_fetch_add(used, 1, __ATOMIC_RELAXED);
		t[i].dev = dev;
		renew(&t[i], 0);
		__atomic_store_n(&t[i].ino, ino, __ATOMIC_RELEASE);
		return &t[i];
	}
	return NULL;
}

/* Is the entry of a file that is no more? Its inode's number is another's, which has a name. */
static bool is_past(const struct owner *o, bool named)
{
	return o->flags & OWNER_DEAD && named;
}

static struct owner *find_change(struct core *k, uint64_t dev, uint64_t ino, bool named)
{
	struct owner *o = probe(k->changes->owners, k->changes->slots, dev, ino);

	return o && is_past(o, named) ? NULL : o;
}

static struct owner *make_change(struct core *k, uint64_t dev, uint64_t ino, bool named)
{
	struct owner *o;

	k->plan->any_changes = 1;
	owned_add(k, ino);
	o = claim(k->changes->owners, k->changes->slots, &k->changes->used, dev, ino);
	if (o && is_past(o, named))
		renew(o, 0);
	return o;
}

static struct changes *changes_of(struct core *k)
{
	if (!k->changes && has_changes(k))
		plan_map_changes(k, false);
	return k->changes;
}

struct owner *owner_change(struct core *k, uint64_t dev, uint64_t ino, bool named, bool make)
{
	return !changes_of(k) ? NULL : make ? make_change(k, dev, ino, named) : find_change(k, dev, ino, named);
}

struct owner *owner_of_image(struct core *k, uint64_t ino)
{
	return k->plan->lower_owners_used ? probe(k->plan->lower_owners, LOWER_OWNERS, 0, ino) : NULL;
}

struct owner *owner_find(struct core *k, const struct stat *st)
{
	struct owner *o = NULL;
	uint64_t bit;

	if (!(*owned_word(k, st->st_ino, &bit) & bit))
		return NULL;
	if (any_changes(k) && st->st_dev == k->plan->upper_dev && changes_of(k))
		o = find_change(k, 0, st->st_ino, st->st_nlink);
	if (!o && st->st_dev == k->plan->lower_dev && k->plan->lower_owners_used)
		o = probe(k->plan->lower_owners, LOWER_OWNERS, st->st_dev, st->st_ino);
	return o;
}

struct owner *owner_make(struct core *k, const struct stat *st)
{
	return st->st_dev == k->plan->upper_dev && changes_of(k) ? make_change(k, 0, st->st_ino, st->st_nlink) : NULL;
}

struct owner *owner_born(struct core *k, const struct stat *st, bool wanted)
{
	struct owner *o;
	uint64_t bit;

	if (!wanted && (!any_changes(k) || st->st_dev != k->plan->upper_dev || !(*owned_word(k, st->st_ino, &bit) & bit) || !changes_of(k)))
		return NULL;
	o = wanted ? owner_make(k, st) : NULL;
	if (o)
		renew(o, 0);
	while (!wanted && (o = probe(k->changes->owners, k->changes->slots, 0, st->st_ino))) /* two may have made one at once */
		renew(o, OWNER_GONE);
	return o;
}

struct leaving owner_leaving(struct core *k, const struct stat *st)
{
	struct leaving l = { 0 };

	if (!any_changes(k) || st->st_dev != k->plan->upper_dev || !changes_of(k) || (st->st_nlink > 1 && (st->st_mode & S_IFMT) != S_IFDIR))
		return l;
	l.entry[0] = probe(k->changes->owners, k->changes->slots, 0, st->st_ino);
	if (shows_lower(k, st))
		l.entry[1] = probe(k->changes->owners, k->changes->slots, 1, st->st_ino & ~LOWER_BIT);
	for (int i = 0; i < 2; i++)
		l.turn[i] = l.entry[i] ? l.entry[i]->flags & ~(uint32_t)OWNER_BITS : 0;
	return l;
}

void owner_left(const struct leaving *l)
{
	for (int i = 0; i < 2; i++) {
		struct owner *o = l->entry[i];
		uint32_t was = o ? o->flags : 0;

		while (o && !(was & OWNER_GONE) && (was & ~(uint32_t)OWNER_BITS) == l->turn[i] &&
		       !__atomic_compare_exchange_n(&o->flags, &was, was | OWNER_DEAD, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
	}
}

/* ---- the image's record ------------------------------------------------------------------------------- */

struct record_head {
	char magic[8];
	uint32_t count, reserved;
	uint64_t entries, strings;
};

struct record_entry {
	uint64_t path;
	uint32_t path_len, mode, uid, gid, major, minor;
	uint64_t xattrs;
	uint32_t xattrs_len, flags;
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

/* By canonical path (without its first slash). */
static const struct record_entry *record_find(struct core *k, const char *path, size_t n)
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

static void from_entry(struct owner *o, const struct record_entry *e)
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
	const char *upper = plan_text(k, inside ? k->plan->work : m->host);
	char path[HOST_MAX], mark[64];
	size_t at = strlen(upper);
	struct owner *o;
	struct stat st;

	if (!at || at + n + 2 > sizeof path || (e->mode & S_IFMT) == S_IFDIR)
		return;
	memcpy(path, upper, at);
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

/* ---- what is shown ------------------------------------------------------------------------------------ */

/* The canonical path behind a descriptor, when it is in the union's lower tree. */
static long lower_path(struct call *c, int fd, char *text)
{
	char link[40] = "/proc/self/fd/";
	enum layer layer;
	int mount;
	long n;

	decimal(link + 14, (unsigned)fd);
	n = fd < 0 ? sys_getcwd(text, HOST_MAX) - 1 : sys_readlinkat(AT_FDCWD, link, text, HOST_MAX);
	if (n < 0)
		return n;
	n = guest_path(c->core, text, (size_t)n, text, &mount, &layer);
	return n < 0 ? -ENOENT : layer != LAYER_LOWER && mount != 0 ? -EXDEV : n;
}

void owner_of_both(struct call *c, const struct stat *st, const struct place *p, int fd)
{
	struct core *k = c->core;
	struct owner *own, *other;
	struct stat lower;
	char *path = c->w->link;
	long n;

	if ((st->st_mode & S_IFMT) != S_IFDIR || !(k->plan->mounts[0].flags & MOUNT_UNION) || k->plan->options & OPT_IDENTITY)
		return;
	if (p && !p->raw) {
		n = p->len;
		memcpy(path, p->guest, (size_t)n + 1);
	} else {
		n = lower_path(c, fd, path = c->w->other);
	}
	own = owner_find(k, st);
	if (n < 0 || n >= GUEST_MAX || !own)
		return;
	memmove(c->w->link, path, (size_t)n);
	host_path(k, 0, LAYER_LOWER, c->w->link, (size_t)n, c->w->other);
	if (sys_fstatat(AT_FDCWD, c->w->other, &lower, AT_SYMLINK_NOFOLLOW) || (lower.st_mode & S_IFMT) != S_IFDIR)
		return;
	other = owner_change(k, 1, lower.st_ino, true, true);
	if (!other)
		return;
	other->uid = own->uid;
	other->gid = own->gid;
	other->mode = own->mode;
	other->rdev = own->rdev;
	other->flags = (other->flags & ~(uint32_t)OWNER_BITS) | (own->flags & (OWNER_SET | OWNER_MODE));
}

/* The entry that describes st; `space` receives what comes straight from the record. */
static const struct owner *describe(struct call *c, const struct stat *st, const struct place *p, int fd, bool *in_union,
				    struct owner *space)
{
	struct core *k = c->core;
	const struct plan *plan = k->plan;
	const struct record_entry *e;
	const struct owner *o;
	const char *path = c->w->link;
	long n = -1;

	*in_union = p && !p->raw ? p->mount == 0 : st->st_dev == plan->upper_dev || st->st_dev == plan->lower_dev;
	if (!*in_union)
		return NULL;
	o = owner_find(k, st);
	if (o)
		return o;
	if (p && !p->raw) {
		path = p->guest;
		n = p->len;
	} else if (plan->uid || plan->options & OPT_RECORD_BY_PATH) {
		n = lower_path(c, fd, c->w->link);
		if (n == -EXDEV || n == -ENOENT)
			*in_union = false;
	} else if (st->st_uid != plan->host_uid && st->st_uid != plan->lower_uid) {
		*in_union = false; /* of a bind from the same device */
	}
	if (!(plan->options & OPT_RECORD_BY_PATH) || n < 0 || st->st_dev != plan->lower_dev ||
	    (p && !p->raw && p->layer == LAYER_UPPER))
		return NULL;
	e = record_find(k, path + (n > 0), (size_t)(n - (n > 0)));
	if (!e)
		return NULL;
	from_entry(space, e);
	space->origin = 0;
	return space;
}

void owner_show(struct call *c, struct stat *st, const struct place *p, int fd)
{
	struct core *k = c->core;
	const struct plan *plan = k->plan;
	const struct owner *o;
	struct owner space;
	bool in_union;
	uint64_t ino = st->st_ino;

	if (plan->options & OPT_IDENTITY) {
		identity_show(k, st);
		return;
	}
	if (!(plan->options & OPT_OWNERS))
		return;
	o = describe(c, st, p, fd, &in_union, &space);
	if (o && o->flags & OWNER_SET) {
		st->st_uid = o->uid;
		st->st_gid = o->gid;
	} else if (in_union) {
		st->st_uid = st->st_gid = 0;
	} else {
		st->st_uid = st->st_uid == plan->host_uid ? plan->uid : NOBODY;
		st->st_gid = st->st_gid == plan->host_gid ? plan->gid : NOBODY;
	}
	if (o && o->flags & OWNER_MODE) {
		st->st_mode = o->mode & S_IFMT ? o->mode : (st->st_mode & S_IFMT) | (o->mode & 07777);
		if (o->rdev)
			st->st_rdev = o->rdev;
	}
	if (!in_union)
		return;
	if (o && o->origin)
		st->st_ino = o->origin;
	if (plan->lower_dev != plan->upper_dev && ((o && o->origin) || st->st_dev == plan->lower_dev))
		st->st_ino |= FOREIGN_INODE;
	st->st_dev = plan->upper_dev;
	(void)ino;
}

bool owner_show_plain(struct core *k, struct stat *st)
{
	const struct plan *plan = k->plan;
	uint64_t bit;
	volatile uint64_t *word = owned_word(k, st->st_ino, &bit);

	if ((plan->options & (OPT_IDENTITY | OPT_OWNERS | OPT_RECORD_BY_PATH)) != OPT_OWNERS || plan->uid ||
	    (st->st_dev != plan->upper_dev && st->st_dev != plan->lower_dev) ||
	    (st->st_uid != plan->host_uid && st->st_uid != plan->lower_uid) || *word & bit)
		return false;
	st->st_uid = st->st_gid = 0;
	if (st->st_dev != plan->upper_dev) {
		st->st_ino |= FOREIGN_INODE;
		st->st_dev = plan->upper_dev;
	}
	return true;
}

void owner_copy(struct call *c, const struct stat *from, const char *from_guest, const struct stat *to)
{
	struct core *k = c->core;
	struct owner *src = owner_find(k, from), *o;
	struct owner space = { 0 };

	if (!src && k->plan->options & OPT_RECORD_BY_PATH) {
		const struct record_entry *e = record_find(k, from_guest + (*from_guest == '/'), strlen(from_guest) - (*from_guest == '/'));
		if (e)
			from_entry(src = &space, e);
	}
	/* Most directories have no entry: their inode number is the upper's. */
	o = owner_born(k, to, src || (from->st_mode & S_IFMT) != S_IFDIR);
	if (!o)
		return;
	o->origin = from->st_ino;
	if (src) {
		o->uid = src->uid;
		o->gid = src->gid;
		o->mode = src->mode;
		o->rdev = src->rdev;
		o->flags |= src->flags & (OWNER_SET | OWNER_MODE);
	}
}

uint32_t owner_new(struct call *c, const struct place *p, int fd)
{
	struct core *k = c->core;
	uint32_t group = p ? group_of_new(c, p) : (uint32_t)-1;
	struct stat st;
	struct owner *o;

	bool wanted = k->ids.fsuid || k->ids.fsgid || group != (uint32_t)-1;

	if (!has_changes(k) || !(k->plan->options & OPT_OWNERS) || (!wanted && !any_changes(k)))
		return group;
	if (fd >= 0 ? sys_fstat(fd, &st) : sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW))
		return group;
	o = owner_born(k, &st, wanted);
	if (!o)
		return group;
	o->uid = k->ids.fsuid;
	o->gid = group == (uint32_t)-1 ? k->ids.fsgid : group;
	o->flags |= OWNER_SET;
	return group;
}

bool member_of(const struct core *k, uint32_t gid)
{
	bool member = k->ids.fsgid == gid;

	for (uint32_t i = 0; i < k->ids.n_groups && !member; i++)
		member = k->ids.groups[i] == gid;
	return member;
}

bool mode_allows(const struct core *k, const struct stat *shown, int mode, bool effective)
{
	uint32_t uid = effective ? k->ids.fsuid : k->ids.ruid;
	bool member = shown->st_gid == (effective ? k->ids.fsgid : k->ids.rgid);
	unsigned bits;

	if (uid == 0)
		return !(mode & X_OK) || (shown->st_mode & S_IFMT) == S_IFDIR || shown->st_mode & 0111;
	for (uint32_t i = 0; i < k->ids.n_groups && !member; i++)
		member = k->ids.groups[i] == shown->st_gid;
	bits = shown->st_uid == uid ? shown->st_mode >> 6 : member ? shown->st_mode >> 3 : shown->st_mode;
	return !((unsigned)mode & ~bits & 7);
}

long owner_access(struct call *c, const struct place *p, int mode, bool effective)
{
	struct stat st = p->st;

	owner_show(c, &st, p, NO_FD);
	if (mode & W_OK && readonly(c, p) && ((st.st_mode & S_IFMT) == S_IFREG || (st.st_mode & S_IFMT) == S_IFDIR))
		return -EROFS;
	return mode_allows(c->core, &st, mode, effective) ? 0 : -EACCES;
}
