/* Identity alone: for a guest in namespaces of its own, whose paths are the kernel's business.
 *
 * One id of the host is mapped there, so every file is the caller's, and set*id and chown fail. Calls that concern ids,
 * owners and devices are answered from the records, as without namespaces; all others, and the paths of these, go to the
 * kernel as they are.
 *
 * Which entry a file has. overlayfs shows the inode of the upper's file; of a file (not hard-linked) that was copied up
 * while it was known, and of a directory that is in both layers, the inode of the lower one. Layers on two devices are
 * told apart by the highest bit (xino=on). The record of changes is keyed by the upper's inode; a second entry, of
 * `device` 1, tells what holds for the lower's where that one is shown. The inode in the upper is found through the
 * anchor, a process whose working directory is a private mount of the layer: /proc/ANCHOR/cwd.
 */
#include "core/identity.h"

bool in_root(const struct core *k, const struct stat *st)
{
	return st->st_dev == k->plan->upper_dev && has_changes(k);
}

bool shows_lower(const struct core *k, const struct stat *st)
{
	return k->plan->options & OPT_IDENTITY && (!(k->plan->options & OPT_XINO) || st->st_ino & LOWER_BIT);
}

/* Surely. */
static bool marked_lower(const struct core *k, const struct stat *st)
{
	return k->plan->options & OPT_XINO && st->st_ino & LOWER_BIT;
}

/* What the guest changed, or NULL. */
struct owner *changed_entry(struct core *k, const struct stat *st)
{
	struct owner *o = NULL;

	if (!any_changes(k) || !in_root(k, st))
		return NULL;
	if (!marked_lower(k, st))
		o = owner_change(k, DEV_UPPER, st->st_ino, st->st_nlink, false);
	return o || !shows_lower(k, st) ? o : owner_change(k, DEV_LOWER, st->st_ino & ~LOWER_BIT, st->st_nlink, false);
}

static struct owner *entry_of(struct core *k, const struct stat *st)
{
	struct owner *o = in_root(k, st) ? owner_settled(k, st, changed_entry) : NULL;

	if (o || !in_root(k, st) || !shows_lower(k, st))
		return o;
	return owner_of_image(k, st->st_ino & ~LOWER_BIT);
}

void identity_show(struct core *k, struct stat *st)
{
	const struct plan *plan = k->plan;
	const struct owner *o;

	if (!(plan->options & OPT_OWNERS))
		return;
	if (!in_root(k, st)) {
		st->st_uid = st->st_uid == plan->host_uid ? plan->uid : st->st_uid;
		st->st_gid = st->st_gid == plan->host_gid ? plan->gid : st->st_gid;
		return;
	}
	o = entry_of(k, st);
	st->st_uid = o && o->flags & OWNER_SET ? o->uid : 0;
	st->st_gid = o && o->flags & OWNER_SET ? o->gid : 0;
	if (o && o->flags & OWNER_MODE) {
		st->st_mode = o->mode & S_IFMT ? o->mode : (st->st_mode & S_IFMT) | (o->mode & 07777);
		if (o->rdev)
			st->st_rdev = o->rdev;
	}
}

/* ---- changing entries --------------------------------------------------------------------------------- */

/* The upper's own file of what is behind fd. */
bool in_upper(struct call *c, int fd, struct stat *st)
{
	char link[40] = "/proc/self/fd/";
	size_t n = plan_path(c->core, plan_text(c->core, c->core->plan->work), c->w->text, GUEST_MAX);
	long r;

	decimal(link + 14, (unsigned)fd);
	if (!n)
		return false;
	r = sys_readlinkat(AT_FDCWD, link, c->w->text + n, HOST_MAX - n - 1);
	if (r <= 0 || c->w->text[n] != '/')
		return false;
	c->w->text[n + (size_t)r] = 0;
	return !sys_fstatat(AT_FDCWD, c->w->text, st, AT_SYMLINK_NOFOLLOW);
}

static void inherit(struct owner *to, const struct owner *from)
{
	if (!to || to->flags & (OWNER_SET | OWNER_MODE) || !from->flags)
		return;
	to->uid = from->uid;
	to->gid = from->gid;
	to->mode = from->mode;
	to->rdev = from->rdev;
	to->flags |= from->flags & (OWNER_SET | OWNER_MODE);
}

/* The entries to be changed of what is behind fd, which is in the upper; `before` is what held so far. */
bool entries_of(struct call *c, int fd, const struct owner *before, struct entries *e)
{
	struct core *k = c->core;
	struct stat st, upper;
	uint64_t ino;

	if (sys_fstatat(fd, "", &st, AT_EMPTY_PATH) || !in_root(k, &st))
		return false;
	ino = st.st_ino & ~LOWER_BIT;
	e->shown = NULL;
	if (!in_upper(c, fd, &upper)) {
		e->own = owner_change(k, marked_lower(k, &st) ? DEV_LOWER : DEV_UPPER, ino, true, true);
	} else {
		e->own = owner_change(k, DEV_UPPER, upper.st_ino, true, true);
		if (upper.st_ino != ino || marked_lower(k, &st)) {
			e->shown = owner_change(k, DEV_LOWER, ino, true, true);
			if (e->own && (st.st_mode & S_IFMT) != S_IFDIR)
				e->own->origin = ino;
		} else if (e->own && e->own->origin && (st.st_mode & S_IFMT) != S_IFDIR) { /* by the name it was linked from */
			e->shown = owner_change(k, DEV_LOWER, e->own->origin, true, true);
		}
	}
	if (!e->own)
		return false;
	inherit(e->own, before);
	inherit(e->shown, before);
	return true;
}

void put_owner(struct entries *e, uint32_t uid, uint32_t gid)
{
	for (int i = 0; i < 2; i++) {
		struct owner *o = i ? e->shown : e->own;
		if (!o)
			continue;
		o->uid = uid;
		o->gid = gid;
		o->flags |= OWNER_SET;
		if (o->flags & OWNER_MODE && (o->mode & S_IFMT) != S_IFDIR)
			o->mode &= o->mode & 010 ? ~06000U : ~04000U;
	}
}

void put_mode(struct entries *e, uint32_t mode, uint32_t rdev)
{
	for (int i = 0; i < 2; i++) {
		struct owner *o = i ? e->shown : e->own;
		if (!o)
			continue;
		o->mode = mode;
		o->rdev = rdev;
		o->flags |= OWNER_MODE;
	}
}

struct owner known(struct core *k, const struct stat *st)
{
	const struct owner *o = entry_of(k, st);
	struct owner copy = { 0 };

	if (o)
		copy = *o;
	copy.flags &= OWNER_SET | OWNER_MODE;
	return copy;
}

/* A file that the guest just made is its own. */
void new_file(struct call *c, int dfd, const void *path, int fd)
{
	struct core *k = c->core;
	struct stat st;
	struct owner *o;

	bool wanted = k->ids.fsuid || k->ids.fsgid;

	if (!wanted && !any_changes(k))
		return;
	if (fd >= 0 ? sys_fstat(fd, &st) : SC4(__NR_newfstatat, dfd, path, &st, AT_SYMLINK_NOFOLLOW))
		return;
	if (!in_root(k, &st) || !(o = owner_born(k, &st, wanted)))
		return;
	o->uid = k->ids.fsuid;
	o->gid = k->ids.fsgid;
	o->flags |= OWNER_SET;
}
