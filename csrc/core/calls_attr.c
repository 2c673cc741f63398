/* Changing modes, owners, times, sizes and extended attributes. */
#include "core/calls.h"

/* A descriptor without a path, too deep for one. Directories can be asked what they are in; what was opened for
 * writing is no image's; of the rest it cannot be told. */
static long unnamed(struct call *c, int fd, struct place *p)
{
	long flags = fd == AT_FDCWD ? 0 : sys_fcntl(fd, F_GETFL, 0);

	if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY)
		return 0;
	return (p->st.st_mode & S_IFMT) == S_IFDIR && base_dir(c, fd, p) >= 0 && p->raw && p->dead == LIVES && !p->locked
		       ? 0 : -EROFS;
}

/* The thing behind a descriptor, when the descriptor cannot be used for the change because it is of the lower tree:
 * 1 with p found, 0 when the descriptor itself will do. */
long fd_place(struct call *c, int fd, struct place *p)
{
	struct core *k = c->core;
	char link[40] = "/proc/self/fd/";
	enum layer layer;
	int mount;
	long n, r = fd == AT_FDCWD ? sys_fstatat(fd, "", &p->st, AT_EMPTY_PATH) : sys_fstat(fd, &p->st);

	if (r)
		return r;
	decimal(link + 14, (unsigned)fd);
	n = fd == AT_FDCWD ? sys_getcwd(c->w->text, HOST_MAX) - 1 : sys_readlinkat(AT_FDCWD, link, c->w->text, HOST_MAX);
	if (n < 0)
		return unnamed(c, fd, p);
	if (c->w->text[0] != '/')
		return 0;
	n = guest_path(k, c->w->text, (size_t)n, c->w->text, &mount, &layer);
	if (n < 0)
		return 0;
	if (k->plan->mounts[mount].flags & MOUNT_RO)
		return -EROFS;
	if (layer != LAYER_LOWER)
		return 0;
	r = place_at(c, c->w->text, (size_t)n, p);
	return r ? r : 1;
}

/* The mount that a descriptor's file is on, -1 where it is none of the container's; *top: it is what is mounted. */
int fd_mount(struct call *c, int fd, bool *top)
{
	struct core *k = c->core;
	char link[40] = "/proc/self/fd/";
	enum layer layer;
	int mount;
	long n;

	decimal(link + 14, (unsigned)fd);
	n = fd == AT_FDCWD ? sys_getcwd(c->w->text, HOST_MAX) - 1 : sys_readlinkat(AT_FDCWD, link, c->w->text, HOST_MAX);
	if (n <= 0 || c->w->text[0] != '/' || (n = guest_path(k, c->w->text, (size_t)n, c->w->text, &mount, &layer)) < 0)
		return -1;
	*top = n <= 1 ? !k->plan->mounts[mount].guest_len : (size_t)n == k->plan->mounts[mount].guest_len;
	return mount;
}

/* A descriptor's link in /proc that was found leads to the image's tree: p is then the place itself. */
long behind(struct call *c, struct place *p)
{
	enum layer layer;
	int mount;
	long n;

	if (!p->magic)
		return 0;
	n = sys_readlinkat(p->dfd, p->host, c->w->text, HOST_MAX);
	if (n < 0)
		return n == -ENAMETOOLONG ? -EROFS : n; /* it could be the image's */
	if (c->w->text[0] != '/' || guest_path(c->core, c->w->text, (size_t)n, c->w->text, &mount, &layer) < 0)
		return 0;
	if (c->core->plan->mounts[mount].flags & MOUNT_RO)
		return -EROFS;
	return layer == LAYER_LOWER ? place_at(c, c->w->text, strlen(c->w->text), p) : 0;
}

/* What was found is not the image's own any more. */
static long changeable(struct call *c, struct place *p)
{
	long r = behind(c, p);

	return r || p->magic ? r : for_change(c, p);
}

/* Where a change by (dfd, path, flags) goes. 0: to p (in the upper); 1: to the descriptor itself. */
long target(struct call *c, int dfd, const void *path, long flags, struct place *p)
{
	char first = 1;
	long r;

	if (flags & AT_EMPTY_PATH) {
		r = path ? guest_read(&first, path, 1) : 0;
		if (r)
			return r;
		if (!path || !first) {
			r = fd_place(c, dfd, p);
			return r < 0 ? r : !r ? 1 : for_change(c, p);
		}
	}
	r = find(c, dfd, path, flags & AT_SYMLINK_NOFOLLOW ? 0 : FOLLOW, p);
	return r ? r : changeable(c, p);
}

static bool in_union(const struct call *c, const struct place *p)
{
	if (p->raw)
		return !p->magic && !p->locked && !p->dead && p->st.st_dev == c->core->plan->upper_dev && has_changes(c->core);
	return !p->magic && p->mount == 0 && has_changes(c->core);
}

/* ---- modes -------------------------------------------------------------------------------------------- */

static void note_mode(struct call *c, const struct stat *st, unsigned mode, unsigned on_disk)
{
	struct core *k = c->core;
	struct owner *o = owner_find(k, st);

	if ((mode & 07777) == on_disk && (!o || !(o->flags & OWNER_MODE) || o->rdev))
		if (!o || !o->rdev)
			return;
	o = owner_make(k, st);
	if (!o)
		return;
	if ((mode & 07777) == on_disk && !(o->mode & S_IFMT && o->rdev)) {
		o->flags &= ~(uint32_t)OWNER_MODE;
		return;
	}
	o->mode = (o->rdev ? o->mode & S_IFMT : st->st_mode & S_IFMT) | (mode & 07777);
	o->flags |= OWNER_MODE;
}

/* Guest root's files keep the owner's bits on disk; set-id bits are never there. */
static unsigned disk_mode(struct call *c, const struct stat *st, unsigned mode)
{
	bool dir = (st->st_mode & S_IFMT) == S_IFDIR;

	mode &= dir ? 01777 : 0777;
	return keeps_bits(c->core) ? mode | (dir ? 0700 : 0600) : mode;
}

/* What is mounted is the caller's, by whatever guest user it was made: the kernel judges. By descriptor it is known by
 * its device alone. */
static bool outside(const struct call *c, const struct place *p, const struct stat *host)
{
	if (p && !p->raw)
		return p->mount || p->magic;
	return host->st_dev != c->core->plan->upper_dev && host->st_dev != c->core->plan->lower_dev;
}

/* Takes the set-group-id bit from a mode that the guest has no right to give. */
static bool may_change(struct call *c, const struct stat *host, const struct place *p, int fd, unsigned *mode)
{
	struct stat st = *host;

	if (c->core->ids.fsuid == 0 || outside(c, p, host) || !(c->core->plan->options & OPT_OWNERS))
		return true;
	owner_show(c, &st, p, fd);
	if (!member_of(c->core, st.st_gid))
		*mode &= ~(unsigned)S_ISGID;
	return st.st_uid == c->core->ids.fsuid;
}

/* A directory whose owner may not go through it does not tell any more what it is in; where it is in both layers the lower's
 * lets everybody through, so what is remembered of names below must go. */
static void mode_changed(struct call *c, const struct stat *st, unsigned disk)
{
	if ((st->st_mode & S_IFMT) != S_IFDIR || disk & 0100)
		return;
	changed_above(c->core);
	changed(c->core);
}

static bool is_path_fd(int fd)
{
	return fd >= 0 && sys_fcntl(fd, F_GETFL, 0) & O_PATH;
}

static long do_chmod(struct call *c, int dfd, const void *path, unsigned mode, long flags)
{
	struct place *p = &c->w->a;
	long r = target(c, dfd, path, flags, p);
	unsigned disk;

	if (r < 0)
		return r;
	if (r == 1) {
		bool ours = p->st.st_dev == c->core->plan->upper_dev && has_changes(c->core) && c->core->plan->options & OPT_OWNERS;
		struct stat st = p->st;
		if (c->nr == __NR_fchmod && is_path_fd(dfd))
			return -EBADF;
		if (!may_change(c, &st, NULL, dfd, &mode))
			return -EPERM;
		disk = mode & 07777;
		if (ours)
			disk = disk_mode(c, &st, mode);
		r = sys_fchmod(dfd, disk);
		if (r == -EBADF) /* O_PATH */
			r = SC4(__NR_fchmodat2, dfd, "", disk, AT_EMPTY_PATH);
		if (!r)
			mode_changed(c, &st, disk);
		if (!r && ours) {
			note_mode(c, &st, mode, disk);
			owner_of_both(c, &st, NULL, dfd);
			if (mode & S_ISGID && (st.st_mode & S_IFMT) == S_IFDIR)
				forget_setgid(c->core);
		}
		return r;
	}
	if ((p->st.st_mode & S_IFMT) == S_IFLNK && !p->magic)
		return -EOPNOTSUPP;
	if (!may_change(c, &p->st, p, NO_FD, &mode))
		return -EPERM;
	disk = mode & 07777;
	if (in_union(c, p) && c->core->plan->options & OPT_OWNERS)
		disk = disk_mode(c, &p->st, mode);
	r = sys_fchmodat(p->dfd, p->host, disk);
	if (!r)
		mode_changed(c, &p->st, disk);
	if (!r && in_union(c, p)) {
		note_mode(c, &p->st, mode, disk);
		owner_of_both(c, &p->st, p, NO_FD);
		if (mode & S_ISGID && (p->st.st_mode & S_IFMT) == S_IFDIR) {
			if (p->raw)
				forget_setgid(c->core);
			else
				note_setgid(c->core, p->guest, p->len);
		}
	}
	return r;
}

long call_chmod(struct call *c) { return do_chmod(c, AT_FDCWD, (void *)c->a[0], (unsigned)c->a[1], 0); }
long call_fchmod(struct call *c) { return (int)c->a[0] < 0 ? -EBADF : do_chmod(c, (int)c->a[0], NULL, (unsigned)c->a[1], AT_EMPTY_PATH); }
long call_fchmodat(struct call *c) { return do_chmod(c, (int)c->a[0], (void *)c->a[1], (unsigned)c->a[2], 0); }

long call_fchmodat2(struct call *c)
{
	if (c->a[3] & ~(unsigned long)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	return do_chmod(c, (int)c->a[0], (void *)c->a[1], (unsigned)c->a[2], (int)c->a[3]);
}

/* ---- owners ------------------------------------------------------------------------------------------- */

#define KEEP_ID ((uint32_t)-1)

static long set_owner(struct call *c, const struct stat *host, const struct place *p, int fd, uint32_t uid, uint32_t gid)
{
	struct core *k = c->core;
	struct stat st = *host;
	struct owner *o;

	owner_show(c, &st, p, fd);
	if (!privileged(k) && ((uid != KEEP_ID && (uid != st.st_uid || k->ids.fsuid != st.st_uid)) ||
			       (gid != KEEP_ID && (k->ids.fsuid != st.st_uid || (gid != st.st_gid && !member_of(k, gid))))))
		return -EPERM;
	if (uid == KEEP_ID)
		uid = st.st_uid;
	if (gid == KEEP_ID)
		gid = st.st_gid;
	if (uid != st.st_uid || gid != st.st_gid || st.st_mode & 06000) {
		o = owner_make(k, host);
		if (!o)
			return -ENOSPC;
		o->uid = uid;
		o->gid = gid;
		o->flags |= OWNER_SET;
		if (o->flags & OWNER_MODE && (host->st_mode & S_IFMT) != S_IFDIR)
			o->mode &= o->mode & 010 ? ~06000U : ~04000U;
		owner_of_both(c, host, p, fd);
	}
	/* A change that changes nothing on disk but the time of the last change: so does one to the same owner. */
	if (p)
		sys_fchownat(p->dfd, p->host, host->st_uid, KEEP_ID, AT_SYMLINK_NOFOLLOW);
	else
		SC5(__NR_fchownat, fd, "", host->st_uid, KEEP_ID, AT_EMPTY_PATH);
	return 0;
}

/* To the record, or to the disk where there is none. */
static long give_owner(struct call *c, struct place *p, uint32_t uid, uint32_t gid)
{
	long r;

	if (in_union(c, p) && c->core->plan->options & OPT_OWNERS)
		return set_owner(c, &p->st, p, NO_FD, uid, gid);
	r = sys_fchownat(p->dfd, p->host, uid, gid, p->magic ? 0 : AT_SYMLINK_NOFOLLOW);
	return (r == -EPERM || r == -EINVAL) && privileged(c->core) ? 0 : r;
}

static long do_chown(struct call *c, int dfd, const void *path, uint32_t uid, uint32_t gid, long flags)
{
	struct core *k = c->core;
	struct place *p = &c->w->a;
	char first = 1;
	long r;

	if (flags & ~(long)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	/* What has the owner already is not copied up for it. */
	if (path && !(flags & AT_EMPTY_PATH && !guest_read(&first, path, 1) && !first)) {
		struct stat st;
		r = find(c, dfd, path, flags & AT_SYMLINK_NOFOLLOW ? 0 : FOLLOW, p);
		if (r)
			return r;
		if (in_union(c, p) && p->layer == LAYER_LOWER && k->plan->options & OPT_OWNERS) {
			st = p->st;
			owner_show(c, &st, p, NO_FD);
			if (privileged(k) && (uid == (uint32_t)-1 || uid == st.st_uid) && (gid == (uint32_t)-1 || gid == st.st_gid) &&
			    !(st.st_mode & 06000))
				return readonly(c, p) ? -EROFS : 0;
		}
		r = changeable(c, p);
		return r ? r : give_owner(c, p, uid, gid);
	}
	if (c->nr == __NR_fchown && is_path_fd(dfd))
		return -EBADF;
	r = fd_place(c, dfd, p);
	if (r < 0)
		return r;
	if (r == 1) {
		r = for_change(c, p);
		return r ? r : give_owner(c, p, uid, gid);
	}
	if (p->st.st_dev == k->plan->upper_dev && has_changes(k) && k->plan->options & OPT_OWNERS)
		return set_owner(c, &p->st, NULL, dfd, uid, gid);
	r = SC5(__NR_fchownat, dfd, "", uid, gid, AT_EMPTY_PATH);
	return (r == -EPERM || r == -EINVAL) && privileged(k) ? 0 : r;
}

static long by_name(struct call *c, long flags)
{
	return c->a[0] ? do_chown(c, AT_FDCWD, (void *)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2], flags) : -EFAULT;
}

long call_chown(struct call *c) { return by_name(c, 0); }
long call_lchown(struct call *c) { return by_name(c, AT_SYMLINK_NOFOLLOW); }
long call_fchown(struct call *c) { return (int)c->a[0] < 0 ? -EBADF : do_chown(c, (int)c->a[0], NULL, (uint32_t)c->a[1], (uint32_t)c->a[2], AT_EMPTY_PATH); }

long call_fchownat(struct call *c)
{
	if (!c->a[1])
		return -EFAULT;
	return do_chown(c, (int)c->a[0], (void *)c->a[1], (uint32_t)c->a[2], (uint32_t)c->a[3], (int)c->a[4]);
}

/* ---- sizes and times ---------------------------------------------------------------------------------- */

long call_truncate(struct call *c)
{
	struct place *p = &c->w->a;
	long r = find(c, AT_FDCWD, (void *)c->a[0], FOLLOW, p);

	if (!r && !p->magic && (p->st.st_mode & S_IFMT) != S_IFREG) /* nothing is copied up for it */
		r = (p->st.st_mode & S_IFMT) == S_IFDIR ? -EISDIR : -EINVAL;
	if (!r)
		r = changeable(c, p);
	if (!r && (p->st.st_mode & S_IFMT) == S_IFREG)
		r = is_running(c, p) ? -ETXTBSY : may_open(c, p, O_WRONLY);
	if (r)
		return r;
	one_piece(p);
	return SC2(__NR_truncate, p->host, c->a[1]);
}

#define NOW ((1L << 30) - 1)
#define OMIT ((1L << 30) - 2)

static long may_set_times(struct call *c, const struct place *p, const struct stat *host, int fd, const ktimespec *times)
{
	struct stat st = *host;
	bool now = !times || (times[0].tv_nsec == NOW && times[1].tv_nsec == NOW);

	if ((times && times[0].tv_nsec == OMIT && times[1].tv_nsec == OMIT) || (p && p->raw) || outside(c, p, host))
		return 0;
	owner_show(c, &st, p, fd);
	if (st.st_uid == c->core->ids.fsuid)
		return 0;
	return !now ? -EPERM : mode_allows(c->core, &st, W_OK, true) ? 0 : -EACCES;
}

static long set_times(struct call *c, int dfd, const void *path, const ktimespec *times, long flags)
{
	struct place *p = &c->w->a;
	long r = target(c, dfd, path, flags, p);

	if (r >= 0 && c->core->ids.fsuid && c->core->plan->options & OPT_OWNERS) {
		long refused = may_set_times(c, r == 1 ? NULL : p, &p->st, dfd, times);
		if (refused)
			return refused;
	}
	if (r < 0)
		return r;
	if (r == 1)
		return SC4(__NR_utimensat, dfd, NULL, times, 0);
	return SC4(__NR_utimensat, p->dfd, p->host, times, p->magic ? 0 : AT_SYMLINK_NOFOLLOW);
}

long call_utimensat(struct call *c)
{
	ktimespec t[2];

	if (c->a[2] && guest_read(t, (void *)c->a[2], sizeof t))
		return -EFAULT;
	if (c->a[3] & ~(unsigned long)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	return set_times(c, (int)c->a[0], (void *)c->a[1], c->a[2] ? t : NULL, (int)c->a[3] | (c->a[1] ? 0 : AT_EMPTY_PATH));
}

long call_utime(struct call *c)
{
	ktimespec t[2] = { { 0, 0 }, { 0, 0 } };
	long in[2];

	if (c->a[1]) {
		if (guest_read(in, (void *)c->a[1], sizeof in))
			return -EFAULT;
		t[0].tv_sec = in[0];
		t[1].tv_sec = in[1];
	}
	return set_times(c, AT_FDCWD, (void *)c->a[0], c->a[1] ? t : NULL, 0);
}

static long micro(struct call *c, int dfd, const void *path, const void *from)
{
	ktimespec t[2];
	long in[4];

	if (from) {
		if (guest_read(in, from, sizeof in))
			return -EFAULT;
		for (int i = 0; i < 2; i++) {
			if (in[2 * i + 1] < 0 || in[2 * i + 1] > 999999)
				return -EINVAL;
			t[i].tv_sec = in[2 * i];
			t[i].tv_nsec = in[2 * i + 1] * 1000;
		}
	}
	return set_times(c, dfd, path, from ? t : NULL, path ? 0 : AT_EMPTY_PATH);
}

long call_utimes(struct call *c) { return micro(c, AT_FDCWD, (void *)c->a[0], (void *)c->a[1]); }
long call_futimesat(struct call *c) { return micro(c, (int)c->a[0], (void *)c->a[1], (void *)c->a[2]); }
