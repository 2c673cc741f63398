/* Identity of files: what the records say and the disk does not show.
 *
 * Everything on disk belongs to the caller. The image's record tells owners, set-id bits and devices of the lower
 * tree; the record of changes tells those of the upper, by inode, in a file that all processes map. A file without
 * an entry is 0:0 in the image and its upper; elsewhere the caller's own id is shown as the guest's, any other as
 * nobody's. Guest root reads and writes what the mode denies: the disk keeps u+rw, the record the guest's mode.
 */
#include "core/owner.h"
#include "core/index.h"

#define NOBODY 65534

bool privileged(const struct core *k)
{
	return k->plan->options & OPT_FAKE_ROOT && k->ids.fsuid == 0;
}

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
	o = c->birth ? owner_find(k, st) : owner_settled(k, st, owner_find); /* who makes something does not wait for itself */
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
		owner_show_bound(k, st);
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

void owner_show_bound(const struct core *k, struct stat *st)
{
	const struct plan *plan = k->plan;

	if (!(plan->options & OPT_OWNERS))
		return;
	st->st_uid = st->st_uid == plan->host_uid ? plan->uid : NOBODY;
	st->st_gid = st->st_gid == plan->host_gid ? plan->gid : NOBODY;
}

uint64_t merged_ino(struct call *c, const char *guest, size_t n)
{
	struct core *k = c->core;
	struct stat st;

	if (!n)
		return k->plan->root_ino[0];
	st.st_ino = index_ready(k, 0) ? index_ino(index_dir(k, guest, n)) : 0;
	if (!st.st_ino) {
		host_path(k, 0, LAYER_LOWER, guest, n, c->w->other);
		if (sys_fstatat(AT_FDCWD, c->w->other, &st, AT_SYMLINK_NOFOLLOW))
			return 0;
	}
	return k->plan->lower_dev == k->plan->upper_dev ? st.st_ino : st.st_ino | FOREIGN_INODE;
}

bool owner_show_plain(struct core *k, struct stat *st)
{
	const struct plan *plan = k->plan;
	uint64_t bit;
	volatile uint64_t *word = owned_word(k, st->st_ino, &bit);

	if (being_born(k) || (plan->options & (OPT_IDENTITY | OPT_OWNERS | OPT_RECORD_BY_PATH)) != OPT_OWNERS || plan->uid ||
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
