/* Making, removing and moving names. */
#include "core/calls.h"

#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4

static bool is_dir(const struct stat *st)
{
	return (st->st_mode & S_IFMT) == S_IFDIR;
}

static const char *last_name(const struct place *p, size_t *n)
{
	const char *s = p->raw ? p->host : p->guest;
	size_t len = p->raw ? strlen(s) : p->len, at = len;

	while (at && s[at - 1] != '/')
		at--;
	*n = len - at;
	return s + at;
}

/* The name of p was removed, replaced or shadowed. */
static void name_changed(struct call *c, const struct place *p)
{
	size_t n;
	const char *s = last_name(p, &n);

	changed_name(c->core, s, n);
}

/* The place of a new name, nothing touched yet. 1: it is not there; 0: so the kernel will say whether it is. */
static long new_place(struct call *c, int dfd, const void *path, bool dir, struct place *p)
{
	long r = resolve(c, dfd, path, KEEP_SLASH, p);

	if (r)
		return r;
	if (p->self || p->mounted)
		return -EEXIST;
	if (p->raw || p->kind == IN_PLAIN || p->kind == IN_UPPER) {
		if (!readonly(c, p) && !p->slash && !judged(c->core))
			return 0; /* the kernel knows all the rest */
	}
	r = lookup(c, p);
	if (!r)
		return -EEXIST;
	if (r != -ENOENT)
		return r;
	if (p->slash && !dir)
		return -ENOENT;
	if (readonly(c, p))
		return -EROFS;
	r = may_make(c, p);
	return r ? r : 1;
}

/* Its directory is in the upper, no whiteout in the way. 1: there was one. */
static long clear_place(struct call *c, struct place *p)
{
	long r = make_parent(c, p);

	return r ? r : clear_whiteout(c, p);
}

long prepare_new(struct call *c, int dfd, const void *path, bool dir, struct place *p)
{
	long r = new_place(c, dfd, path, dir, p);

	return r == 1 ? clear_place(c, p) : r;
}

/* After the call that makes the name: should it have failed, the whiteout that stood there comes back, unless somebody else
 * was faster and has the name. */
static long unmade(struct call *c, struct place *p, long had_whiteout, long r)
{
	if (r < 0 && r != -EEXIST && had_whiteout > 0)
		hide_lower(c, p);
	return r;
}

static long made(struct call *c, struct place *p, unsigned mode, unsigned kept)
{
	struct core *k = c->core;
	struct stat st;
	struct owner *o;
	unsigned special = 0, lacks = kept & ~mode;

	if (!recorded(k, p))
		return 0;
	if (kept != 0700)
		special = mode & 07000; /* never on disk */
	if (owner_new(c, p, -1) != (uint32_t)-1 && kept == 0700) { /* a directory in one with the set-group-id bit */
		special = S_ISGID;
		note_setgid(k, p->guest, p->len);
	}
	if ((lacks || special) && !sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW)) {
		if (lacks && !keeps_bits(k)) {
			sys_fchmodat(p->dfd, p->host, st.st_mode & 07777 & ~lacks);
			if (!special)
				return 0;
		}
		if ((o = owner_make(k, &st))) {
			o->mode = (st.st_mode & ~lacks) | special;
			o->flags |= OWNER_MODE;
		}
	}
	return 0;
}

static long do_mkdir(struct call *c, int dfd, const void *path, unsigned mode)
{
	struct place *p = &c->w->a;
	long wh = prepare_new(c, dfd, path, true, p), r;

	if (wh < 0)
		return wh;
	owner_making(c);
	r = sys_mkdirat(p->dfd, p->host, p->raw || p->kind == IN_PLAIN ? mode : mode | 0700);
	if (!unmade(c, p, wh, r)) {
		if (wh) {
			make_opaque(c, p);
			name_changed(c, p);
		}
		r = made(c, p, mode, 0700);
	}
	owner_made(c);
	return r;
}

long call_mkdir(struct call *c) { return do_mkdir(c, AT_FDCWD, (void *)c->a[0], (unsigned)c->a[1]); }
long call_mkdirat(struct call *c) { return do_mkdir(c, (int)c->a[0], (void *)c->a[1], (unsigned)c->a[2]); }

static long do_mknod(struct call *c, int dfd, const void *path, unsigned mode, unsigned dev)
{
	struct place *p = &c->w->a;
	unsigned type = mode & S_IFMT;
	struct owner *o;
	struct stat st;
	bool device = type == S_IFCHR || type == S_IFBLK;
	long wh, r;

	if (type == S_IFDIR || (device && !privileged(c->core)))
		return -EPERM;
	wh = prepare_new(c, dfd, path, false, p);
	if (wh < 0)
		return wh;
	if (!device) {
		owner_making(c);
		r = sys_mknodat(p->dfd, p->host, p->raw || p->kind == IN_PLAIN ? mode : (mode & ~07000U) | 0600, dev);
		r = r ? unmade(c, p, wh, r) : made(c, p, mode, 0600);
		owner_made(c);
		return r;
	}
	/* A device is an empty file; the record says what it is. Outside of the union there is no record. */
	if (!p->raw && p->mount != 0)
		return -EPERM;
	r = unmade(c, p, wh, sys_mknodat(p->dfd, p->host, S_IFREG | (mode & 0777), 0)); /* the kernel applies the umask */
	if (r)
		return r;
	if (sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW) || !(o = owner_born(c->core, &st, true))) {
		sys_unlinkat(p->dfd, p->host, 0);
		return unmade(c, p, wh, -EPERM);
	}
	o->mode = (mode & ~0777U) | (st.st_mode & 0777);
	o->rdev = dev;
	o->uid = c->core->ids.fsuid;
	o->gid = c->core->ids.fsgid;
	o->flags |= OWNER_SET | OWNER_MODE;
	if ((st.st_mode & 0600) != 0600)
		sys_fchmodat(p->dfd, p->host, st.st_mode | 0600);
	return 0;
}

long call_mknod(struct call *c) { return do_mknod(c, AT_FDCWD, (void *)c->a[0], (unsigned)c->a[1], (unsigned)c->a[2]); }
long call_mknodat(struct call *c) { return do_mknod(c, (int)c->a[0], (void *)c->a[1], (unsigned)c->a[2], (unsigned)c->a[3]); }

static long do_symlink(struct call *c, const void *target, int dfd, const void *path)
{
	struct place *p = &c->w->a;
	long r = guest_str(c->w->b.guest, target, GUEST_MAX), wh;

	if (r <= 0)
		return r ? r : -ENOENT;
	wh = prepare_new(c, dfd, path, false, p);
	if (wh < 0)
		return wh;
	owner_making(c);
	r = sys_symlinkat(c->w->b.guest, p->dfd, p->host);
	if (!r && recorded(c->core, p))
		owner_new(c, p, -1);
	owner_made(c);
	return unmade(c, p, wh, r);
}

long call_symlink(struct call *c) { return do_symlink(c, (void *)c->a[0], AT_FDCWD, (void *)c->a[1]); }
long call_symlinkat(struct call *c) { return do_symlink(c, (void *)c->a[0], (int)c->a[1], (void *)c->a[2]); }

/* ---- removing ----------------------------------------------------------------------------------------- */

static long do_unlink(struct call *c, int dfd, const void *path, bool dir)
{
	struct core *k = c->core;
	struct place *p = &c->w->a;
	long r = resolve(c, dfd, path, KEEP_SLASH, p);
	struct leaving leaving;

	if (r)
		return r;
	if (p->self)
		return !dir ? -EISDIR : p->dotdot ? -ENOTEMPTY : p->dot ? -EINVAL : p->mounted ? -EBUSY : -EINVAL;
	if (p->mounted)
		return dir || k->plan->mounts[p->mount].flags & MOUNT_FILE ? -EBUSY : -EISDIR;
	if (judged(k) && !p->raw) {
		r = lookup(c, p);
		if (!r)
			r = may_remove(c, p);
		if (r)
			return r;
	}
	if (p->raw || p->kind == IN_PLAIN || (p->kind == IN_UPPER && !any_changes(k))) {
		if (readonly(c, p)) {
			r = lookup(c, p);
			return r ? r : -EROFS;
		}
		if (p->slash && !dir) {
			r = lookup(c, p);
			return r ? r : is_dir(&p->st) ? -EISDIR : -ENOTDIR;
		}
		if (dir && p->slash && !lookup(c, p) && !is_dir(&p->st))
			return -ENOTDIR;
		r = sys_unlinkat(p->dfd, p->host, dir ? AT_REMOVEDIR : 0);
		if (!r)
			name_changed(c, p);
		if (!r && dir)
			changed_above(k);
		return r;
	}
	r = p->found ? 0 : lookup(c, p);
	if (r)
		return r;
	if (readonly(c, p))
		return -EROFS;
	if (dir && !is_dir(&p->st))
		return -ENOTDIR;
	if (!dir && is_dir(&p->st))
		return -EISDIR;
	if (!dir && p->slash)
		return -ENOTDIR;
	leaving = owner_leaving(k, &p->st);
	if (p->kind == IN_UPPER) {
		r = sys_unlinkat(p->dfd, p->host, dir ? AT_REMOVEDIR : 0);
	} else {
		if (dir) {
			r = merged_empty(c, p, false);
			if (r)
				return r;
		}
		if (p->layer == LAYER_LOWER) {
			r = make_parent(c, p);
			if (!r)
				r = hide_lower(c, p);
		} else {
			if (dir)
				merged_empty(c, p, true);
			r = sys_unlinkat(p->dfd, p->host, dir ? AT_REMOVEDIR : 0);
			if (!r)
				r = hide_lower(c, p);
		}
	}
	if (r)
		return r;
	owner_left(&leaving);
	if (dir)
		changed(k);
	else
		name_changed(c, p);
	return 0;
}

long call_rmdir(struct call *c) { return do_unlink(c, AT_FDCWD, (void *)c->a[0], true); }
long call_unlink(struct call *c) { return do_unlink(c, AT_FDCWD, (void *)c->a[0], false); }

long call_unlinkat(struct call *c)
{
	if (c->a[2] & ~(unsigned long)AT_REMOVEDIR)
		return -EINVAL;
	return do_unlink(c, (int)c->a[0], (void *)c->a[1], c->a[2] & AT_REMOVEDIR);
}

/* ---- links -------------------------------------------------------------------------------------------- */

static long do_link(struct call *c, int from_fd, const void *from, int dfd, const void *path, long flags)
{
	struct place *a = &c->w->a, *b = &c->w->b;
	bool by_fd = false;
	long r, wh;

	if (flags & ~(long)(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	if (flags & AT_EMPTY_PATH) {
		char first;
		r = guest_read(&first, from, 1);
		if (r)
			return r;
		by_fd = !first;
	}
	/* An image's file gets no name in the upper: whoever opened that for writing would write to the image. */
	if (by_fd) {
		r = fd_place(c, from_fd, a);
		by_fd = r != 1;
		r = r == 1 ? 0 : r;
	} else {
		r = find(c, from_fd, from, flags & AT_SYMLINK_FOLLOW ? FOLLOW : 0, a);
		r = r ? r : behind(c, a);
	}
	if (r)
		return r;
	r = new_place(c, dfd, path, false, b);
	if (r < 0)
		return r;
	if (!by_fd && !a->magic) { /* what cannot be linked has no directory copied up for it */
		bool other = !a->raw && !b->raw && a->mount != b->mount;

		if (is_dir(&a->st) || other)
			return !r && !lookup(c, b) ? -EEXIST : other ? -EXDEV : -EPERM;
	}
	wh = r ? clear_place(c, b) : 0;
	if (wh < 0)
		return wh;
	if (by_fd) {
		/* As root may; an unprivileged caller needs the descriptor's link in /proc. */
		char link[40] = "/proc/self/fd/";
		decimal(link + 14, (unsigned)from_fd);
		r = sys_linkat(from_fd, "", b->dfd, b->host, AT_EMPTY_PATH);
		if (r == -ENOENT || r == -EPERM)
			r = sys_linkat(AT_FDCWD, link, b->dfd, b->host, AT_SYMLINK_FOLLOW);
		return unmade(c, b, wh, r);
	}
	if (a->magic)
		return unmade(c, b, wh, sys_linkat(a->dfd, a->host, b->dfd, b->host, AT_SYMLINK_FOLLOW));
	r = for_change(c, a);
	if (r)
		return unmade(c, b, wh, r);
	if (a->layer == LAYER_UPPER && b->kind != IN_PLAIN)
		place_host(c, b, LAYER_UPPER);
	return unmade(c, b, wh, sys_linkat(a->dfd, a->host, b->dfd, b->host, 0));
}

long call_link(struct call *c) { return do_link(c, AT_FDCWD, (void *)c->a[0], AT_FDCWD, (void *)c->a[1], 0); }

long call_linkat(struct call *c)
{
	return do_link(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3], (int)c->a[4]);
}

/* ---- renaming ----------------------------------------------------------------------------------------- */

static long host_rename(struct place *a, struct place *b, unsigned flags)
{
	long r;

	if (!flags)
		return SC4(__NR_renameat, a->dfd, a->host, b->dfd, b->host);
	r = sys_renameat2(a->dfd, a->host, b->dfd, b->host, flags);
	return r;
}

/* The rules for the last names, before anything is touched. */
static long rename_names(struct call *c, struct place *a, struct place *b, unsigned flags)
{
	long r;

	if (a->self || b->self)
		return flags & RENAME_NOREPLACE && b->self && !a->self ? -EEXIST : -EBUSY;
	if (a->mounted || b->mounted)
		return -EBUSY;
	if (!a->raw && !b->raw && a->mount != b->mount) {
		r = lookup(c, a);
		return r ? r : -EXDEV;
	}
	return 0;
}

/* A directory with the set-group-id bit is found under its new name too. */
static void moved_setgid(struct core *k, const struct place *a, const struct place *b)
{
	if (noted_setgid(k, a->guest, a->len))
		note_setgid(k, b->guest, b->len);
}

/* Both in the union, at least one beside a lower directory. */
static long rename_union(struct call *c, struct place *a, struct place *b, unsigned flags)
{
	struct leaving leaving = { 0 };
	struct stat target, lower;
	bool exists, dir, lower_target;
	long r = lookup(c, a);

	if (r)
		return r;
	dir = is_dir(&a->st);
	r = lookup(c, b);
	if (r && r != -ENOENT)
		return r;
	exists = !r;
	target = b->st;
	if (exists && flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (!exists && flags & RENAME_EXCHANGE)
		return -ENOENT;
	if (flags & RENAME_EXCHANGE && b->slash && !is_dir(&target))
		return -ENOTDIR;
	if ((a->slash || (b->slash && !(flags & RENAME_EXCHANGE))) && !dir)
		return -ENOTDIR;
	if (exists && a->st.st_ino == b->st.st_ino && a->st.st_dev == b->st.st_dev)
		return 0;
	if (dir && a->len < b->len && b->guest[a->len] == '/' && !memcmp(a->guest, b->guest, a->len))
		return -EINVAL;
	if (b->len < a->len && a->guest[b->len] == '/' && !memcmp(a->guest, b->guest, b->len)) /* over its own ancestor */
		return flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	if (exists && !(flags & RENAME_EXCHANGE)) {
		if (dir && !is_dir(&target))
			return -ENOTDIR;
		if (!dir && is_dir(&target))
			return -EISDIR;
	}
	/* A directory that has a lower part cannot move, as in overlayfs: programs copy on EXDEV. */
	if (dir && (a->layer == LAYER_LOWER || (a->kind == IN_MERGED && upper_kind(c, a->guest, a->len, a->mount) == IN_MERGED)))
		return -EXDEV;
	if (flags & RENAME_EXCHANGE && is_dir(&target) &&
	    (b->layer == LAYER_LOWER || (b->kind == IN_MERGED && upper_kind(c, b->guest, b->len, b->mount) == IN_MERGED)))
		return -EXDEV;
	if (exists && dir && !(flags & RENAME_EXCHANGE)) {
		r = merged_empty(c, b, false);
		if (r)
			return r;
	}
	r = copy_up(c, a, true);
	if (!r && flags & RENAME_EXCHANGE)
		r = copy_up(c, b, true);
	if (!r)
		r = make_parent(c, b);
	if (r)
		return r;
	if (a->kind != IN_PLAIN) {
		a->direct = a->direct && a->layer == LAYER_UPPER;
		place_host(c, a, LAYER_UPPER);
		place_host(c, b, LAYER_UPPER);
	}
	lower_target = b->kind == IN_MERGED && lower_has(c, b, &lower);
	if (!(flags & RENAME_EXCHANGE)) {
		clear_whiteout(c, b);
		if (exists && dir && b->layer == LAYER_UPPER)
			merged_empty(c, b, true);
	}
	if (exists && !(flags & RENAME_EXCHANGE))
		leaving = owner_leaving(c->core, &target);
	r = host_rename(a, b, flags & ~(unsigned)RENAME_NOREPLACE);
	if (r)
		return unmade(c, b, lower_target && !exists, r);
	moved_setgid(c->core, a, b);
	if (flags & RENAME_EXCHANGE)
		return changed(c->core), 0;
	if (dir && lower_target)
		make_opaque(c, b);
	owner_left(&leaving);
	r = hide_lower(c, a);
	if (dir || (exists && is_dir(&target)))
		changed(c->core);
	else
		name_changed(c, a), name_changed(c, b);
	return r;
}

static bool same_parent(const struct place *a, const struct place *b)
{
	const char *x = str_rchr(a->guest, '/'), *y = str_rchr(b->guest, '/');

	return x && y && x - a->guest == y - b->guest && !memcmp(a->guest, b->guest, (size_t)(x - a->guest));
}

static long do_rename(struct call *c, int afd, const void *from, int bfd, const void *to, unsigned flags)
{
	struct place *a = &c->w->a, *b = &c->w->b;
	struct core *k = c->core;
	bool quick;
	long r;

	if (flags & ~7U || (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)))
		return -EINVAL;
	if (flags & RENAME_WHITEOUT)
		return -EINVAL; /* as a file system without them */
	r = resolve(c, afd, from, KEEP_SLASH, a);
	if (!r)
		r = resolve(c, bfd, to, KEEP_SLASH, b);
	if (!r)
		r = rename_names(c, a, b, flags);
	if (r)
		return r;
	if (readonly(c, a) || readonly(c, b)) {
		r = lookup(c, a);
		return r ? r : -EROFS;
	}
	if (judged(k)) {
		r = a->raw ? 0 : lookup(c, a);
		if (!r)
			r = may_remove(c, a);
		if (!r && !b->raw)
			r = lookup(c, b) ? may_make(c, b) : may_remove(c, b);
		if (!r && !a->raw && !a->mount && is_dir(&a->st) && !b->raw && !same_parent(a, b))
			r = owner_access(c, a, W_OK, true); /* its ".." changes */
		if (r)
			return r;
	}
	quick = (a->raw || a->kind == IN_PLAIN || a->kind == IN_UPPER) && (b->raw || b->kind == IN_PLAIN || b->kind == IN_UPPER);
	if (!quick || ((a->slash || b->slash) && !a->raw && !b->raw) || (any_changes(k) && !a->raw && a->kind == IN_UPPER))
		return rename_union(c, a, b, flags);
	r = host_rename(a, b, flags);
	if (r)
		return r;
	if (!a->raw && !b->raw)
		moved_setgid(k, a, b);
	name_changed(c, a);
	name_changed(c, b);
	changed_above(k);
	if (flags & RENAME_EXCHANGE)
		changed(k);
	return 0;
}

long call_rename(struct call *c) { return do_rename(c, AT_FDCWD, (void *)c->a[0], AT_FDCWD, (void *)c->a[1], 0); }

long call_renameat(struct call *c)
{
	return do_rename(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3], 0);
}

long call_renameat2(struct call *c)
{
	return do_rename(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3], (unsigned)c->a[4]);
}
