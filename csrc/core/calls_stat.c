/* Looking at files. */
#include "core/calls.h"
#include "core/index.h"

#ifndef STATX_BTIME
#define STATX_BTIME 0x800U
#endif
#define MNT_ID_AT 0x90
#define ATTR_MOUNT_ROOT 0x2000

/* What a link of /proc leads to is the kernel's to say; where that is a directory with a name, it is shown by its name. */
static void by_name(struct call *c, struct place *p)
{
	struct place *q = &c->w->b;
	char *text = c->w->onward;
	long n;

	if (!p->magic || (p->st.st_mode & S_IFMT) != S_IFDIR || !(c->core->plan->mounts[0].flags & MOUNT_UNION))
		return;
	n = proc_readlink(c, p, text);
	if (n <= 0 || n >= GUEST_MAX)
		return;
	text[n] = 0;
	if (!find_text(c, AT_FDCWD, text, FOLLOW, q) && q->st.st_ino == p->st.st_ino && q->st.st_dev == p->st.st_dev)
		memcpy(p, q, sizeof *p);
}

/* The lstat or stat of a guest path, in p->st as the host has it. */
static long stat_path(struct call *c, int dfd, const void *path, bool nofollow, struct place *p)
{
	long r = resolve(c, dfd, path, NAMELESS, p);

	if (r)
		return r;
	if (!p->found || p->magic)
		r = p->magic ? sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW) : lookup(c, p);
	if (!r && p->slash && (p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	if (!r && !nofollow && (p->st.st_mode & S_IFMT) == S_IFLNK) {
		r = find(c, dfd, path, FOLLOW, p);
		if (!r)
			by_name(c, p);
	}
	return r;
}

/* The kind of a directory in both layers, if it is remembered; else -1. */
static int remembered(struct call *c, const struct stat *st)
{
	struct place *t = &c->w->c;

	if (cache_inode(c->core, st->st_dev, st->st_ino, t) < 0 || t->kind == IN_DEEP ||
	    !(c->core->plan->mounts[t->mount].flags & MOUNT_CACHE))
		return -1;
	return t->kind;
}

/* Directories in both layers are shown as overlayfs does it: with one link, on which nobody may count, and their inode of
 * before. */
static void show_merged(struct call *c, const struct place *dir, struct stat *st)
{
	uint64_t ino = merged_ino(c, dir->guest, dir->len);

	st->st_nlink = 1;
	if (ino)
		st->st_ino = ino;
}

static void show(struct call *c, struct place *p)
{
	int kind = -1;

	if (!p->raw && p->kind == IN_MERGED && p->layer != LAYER_LOWER && (p->st.st_mode & S_IFMT) == S_IFDIR) {
		kind = p->self ? IN_MERGED : remembered(c, &p->st);
		if (kind < 0)
			kind = (int)upper_kind(c, p->guest, p->len, p->mount);
	}
	owner_show(c, &p->st, p, NO_FD);
	if (kind == IN_MERGED)
		show_merged(c, p, &p->st);
}

static void show_fd(struct call *c, struct stat *st, int fd)
{
	struct place *p = &c->w->b;
	const struct place *dir = NULL;

	if ((st->st_mode & S_IFMT) == S_IFDIR && st->st_nlink && c->core->plan->mounts[0].flags & MOUNT_UNION &&
	    !note_quiet(c->core, fd, &p->mount, &p->kind)) {
		int kind = remembered(c, st);

		dir = kind < 0 ? p : &c->w->c;
		if (kind < 0 && base_dir(c, fd, p) >= 0 && !p->raw)
			kind = p->kind;
		if (kind != IN_MERGED)
			dir = NULL;
	}
	owner_show(c, st, NULL, fd);
	if (dir)
		show_merged(c, dir, st);
}

static long put_stat(struct call *c, struct place *p, unsigned long to)
{
	show(c, p);
	return guest_write((void *)to, &p->st, sizeof p->st);
}

long call_stat(struct call *c)
{
	struct place *p = &c->w->a;
	long r = stat_path(c, AT_FDCWD, (void *)c->a[0], false, p);

	return r ? r : put_stat(c, p, c->a[1]);
}

long call_lstat(struct call *c)
{
	struct place *p = &c->w->a;
	long r = stat_path(c, AT_FDCWD, (void *)c->a[0], true, p);

	return r ? r : put_stat(c, p, c->a[1]);
}

static long stat_fd(struct call *c, int fd, unsigned long to)
{
	struct stat *st = &c->w->a.st;
	long r = is_root_fd(c->core, fd) ? -EBADF : fd == AT_FDCWD ? sys_fstatat(fd, "", st, AT_EMPTY_PATH) : sys_fstat(fd, st);

	if (r)
		return r;
	show_fd(c, st, fd);
	return guest_write((void *)to, st, sizeof *st);
}

long call_fstat(struct call *c)
{
	return (int)c->a[0] < 0 ? -EBADF : stat_fd(c, (int)c->a[0], c->a[1]);
}

/* Is the path empty (or missing, which newer kernels take for empty)? Negative: unreadable. */
static long empty_path(const void *path)
{
	char first;
	long r;

	if (!path)
		return 1;
	r = guest_read(&first, path, 1);
	return r ? r : !first;
}

long call_newfstatat(struct call *c)
{
	struct place *p = &c->w->a;
	long flags = (int)c->a[3], r;

	if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH))
		return -EINVAL;
	if (flags & AT_EMPTY_PATH) {
		r = empty_path((void *)c->a[1]);
		if (r < 0)
			return r;
		if (r)
			return stat_fd(c, (int)c->a[0], c->a[2]);
	}
	r = stat_path(c, (int)c->a[0], (void *)c->a[1], flags & AT_SYMLINK_NOFOLLOW, p);
	return r ? r : put_stat(c, p, c->a[2]);
}

/* In a directory of one layer the call itself is the look at the file. */
static long statx_path(struct call *c, long flags, struct place *p, struct statx *x)
{
	bool nofollow = flags & AT_SYMLINK_NOFOLLOW;
	long r = resolve(c, (int)c->a[0], (void *)c->a[1], NAMELESS, p);

	if (r)
		return r;
	if (!p->slash && !p->magic && !p->mounted && !p->self && (p->raw || p->kind != IN_MERGED)) {
		const char *name;
		int dfd = near(c->core, p, &name);

		r = SC5(__NR_statx, dfd, name, flags | AT_SYMLINK_NOFOLLOW, c->a[3], x);
		if (NEAR_LOST(c->core, r))
			r = SC5(__NR_statx, p->dfd, p->host, flags | AT_SYMLINK_NOFOLLOW, c->a[3], x);
		if (r || nofollow || (x->stx_mode & S_IFMT) != S_IFLNK)
			return r;
	}
	r = stat_path(c, (int)c->a[0], (void *)c->a[1], nofollow, p);
	if (r)
		return r;
	return SC5(__NR_statx, p->dfd, p->host, p->magic && !nofollow ? flags : flags | AT_SYMLINK_NOFOLLOW, c->a[3], x);
}

void stat_of_statx(struct stat *st, const struct statx *x)
{
	memset(st, 0, sizeof *st);
	st->st_mode = x->stx_mode;
	st->st_uid = x->stx_uid;
	st->st_gid = x->stx_gid;
	st->st_ino = x->stx_ino;
	st->st_nlink = x->stx_nlink;
	st->st_dev = (x->stx_dev_minor & 0xff) | x->stx_dev_major << 8 | (x->stx_dev_minor & ~0xffU) << 12;
}

void stat_to_statx(struct statx *x, const struct stat *st)
{
	x->stx_mode = (uint16_t)st->st_mode;
	x->stx_uid = st->st_uid;
	x->stx_gid = st->st_gid;
	x->stx_ino = st->st_ino;
	x->stx_nlink = (uint32_t)st->st_nlink;
	x->stx_dev_major = (uint32_t)(st->st_dev >> 8 & 0xfff);
	x->stx_dev_minor = (uint32_t)((st->st_dev & 0xff) | (st->st_dev >> 12 & ~0xffU));
	if (st->st_rdev) {
		x->stx_rdev_major = (uint32_t)(st->st_rdev >> 8 & 0xfff);
		x->stx_rdev_minor = (uint32_t)((st->st_rdev & 0xff) | (st->st_rdev >> 12 & ~0xffU));
	}
}

void statx_basic(struct statx *x, const struct stat *st)
{
	memset(x, 0, sizeof *x);
	x->stx_mask = STATX_BASIC_STATS;
	x->stx_attributes_mask = ATTR_MOUNT_ROOT;
	x->stx_blksize = (uint32_t)st->st_blksize;
	x->stx_size = (uint64_t)st->st_size;
	x->stx_blocks = (uint64_t)st->st_blocks;
	x->stx_atime.tv_sec = (int64_t)st->st_atime;
	x->stx_atime.tv_nsec = (uint32_t)st->st_atime_nsec;
	x->stx_mtime.tv_sec = (int64_t)st->st_mtime;
	x->stx_mtime.tv_nsec = (uint32_t)st->st_mtime_nsec;
	x->stx_ctime.tv_sec = (int64_t)st->st_ctime;
	x->stx_ctime.tv_nsec = (uint32_t)st->st_ctime_nsec;
	stat_to_statx(x, st);
}

void statx_mount(struct statx *x, uint32_t mask, int mount, bool top)
{
	uint64_t id = 20 + (uint64_t)mount;

	x->stx_mask &= ~MNT_IDS;
	x->stx_attributes &= ~(uint64_t)ATTR_MOUNT_ROOT;
	if (mount < 0) {
		x->stx_attributes_mask &= ~(uint64_t)ATTR_MOUNT_ROOT;
		return;
	}
	memcpy((char *)x + MNT_ID_AT, &id, sizeof id);
	x->stx_mask |= mask & MNT_ID;
	if (top)
		x->stx_attributes |= ATTR_MOUNT_ROOT;
}

long call_statx(struct call *c)
{
	struct place *p = &c->w->a;
	struct statx x;
	struct stat st;
	long flags = (int)c->a[2], r;
	bool on_fd = false;

	if (flags & AT_EMPTY_PATH) {
		r = empty_path((void *)c->a[1]);
		if (r < 0)
			return r;
		on_fd = r;
	}
	if (on_fd && is_root_fd(c->core, (int)c->a[0])) {
		r = -EBADF;
	} else if (on_fd) {
		r = SC5(__NR_statx, c->a[0], "", flags, c->a[3], &x);
	} else {
		r = statx_path(c, flags, p, &x);
	}
	if (r)
		return r;
	stat_of_statx(&st, &x);
	if (on_fd) {
		show_fd(c, &st, (int)c->a[0]);
	} else {
		p->st = st;
		if (!p->raw && !p->self && p->kind != IN_MERGED)
			p->layer = (uint8_t)(p->kind == IN_LOWER ? LAYER_LOWER : p->kind == IN_UPPER ? LAYER_UPPER : p->layer);
		show(c, p);
		st = p->st;
	}
	stat_to_statx(&x, &st);
	bool top = !on_fd && p->mounted;
	int mount = on_fd ? c->a[3] & MNT_ID ? fd_mount(c, (int)c->a[0], &top) : -1 : p->raw || p->magic ? -1 : p->mount;
	statx_mount(&x, (uint32_t)c->a[3], mount, top);
	return guest_write((void *)c->a[4], &x, sizeof x);
}

static long do_access(struct call *c, int dfd, const void *path, int mode, long flags)
{
	struct place *p = &c->w->a;
	bool nofollow = flags & AT_SYMLINK_NOFOLLOW;
	long r;

	if (mode & ~7 || flags & ~(long)(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	if (flags & AT_EMPTY_PATH) {
		r = empty_path(path);
		if (r < 0)
			return r;
		if (r)
			return SC4(__NR_faccessat2, dfd, "", mode, flags);
	}
	r = stat_path(c, dfd, path, nofollow, p);
	if (r || mode == F_OK)
		return r;
	if (!p->raw && p->mount == 0 && c->core->plan->options & OPT_OWNERS && !p->magic)
		return owner_access(c, p, mode, flags & AT_EACCESS);
	if (mode & W_OK && readonly(c, p) && (p->st.st_mode & S_IFMT) != S_IFIFO && (p->st.st_mode & S_IFMT) != S_IFSOCK &&
	    (p->st.st_mode & S_IFMT) != S_IFCHR)
		return -EROFS;
	if (flags)
		return SC4(__NR_faccessat2, p->dfd, p->host, mode, flags);
	return sys_faccessat(p->dfd, p->host, mode);
}

long call_access(struct call *c)
{
	return do_access(c, AT_FDCWD, (void *)c->a[0], (int)c->a[1], 0);
}

long call_faccessat(struct call *c)
{
	return do_access(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], 0);
}

long call_faccessat2(struct call *c)
{
	return do_access(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (int)c->a[3]);
}

static long do_readlink(struct call *c, int dfd, const void *path, void *to, long size)
{
	struct place *p = &c->w->a;
	char *text = c->w->link;
	long r;

	if (size <= 0)
		return -EINVAL;
	r = empty_path(path);
	if (r < 0)
		return r;
	if (r) { /* of the descriptor itself, an O_PATH one of a link */
		r = sys_readlinkat(dfd, "", text, GUEST_MAX);
	} else {
		r = resolve(c, dfd, path, NAMELESS, p);
		if (r)
			return r;
		if (p->slash || p->self) {
			r = p->found ? 0 : lookup(c, p);
			return r ? r : (p->st.st_mode & S_IFMT) == S_IFDIR ? -EINVAL : -ENOTDIR;
		}
		if (!p->raw && c->core->plan->mounts[p->mount].flags & MOUNT_PROC) {
			r = proc_readlink(c, p, text);
		} else if (!p->raw && !nameless(p) && known_directory(c->core, p->guest, p->len)) {
			return -EINVAL;
		} else {
			r = near_readlink(c->core, p, text);
			if (p->kind == IN_MERGED && !p->raw && r == -ENOENT && !(c->core->plan->options & OPT_WHITEOUT_FILE)) {
				place_host(c, p, LAYER_LOWER); /* nothing hides it */
				r = near_readlink(c->core, p, text);
			} else if (p->kind == IN_MERGED && !p->raw && (r == -ENOENT || r == -EINVAL)) {
				r = lookup(c, p);
				if (!r)
					r = near_readlink(c->core, p, text);
			}
		}
	}
	if (r < 0)
		return r;
	r = MIN(r, size);
	return guest_write(to, text, (size_t)r) ? -EFAULT : r;
}

long call_readlink(struct call *c)
{
	return do_readlink(c, AT_FDCWD, (void *)c->a[0], (void *)c->a[1], (int)c->a[2]);
}

long call_readlinkat(struct call *c)
{
	return do_readlink(c, (int)c->a[0], (void *)c->a[1], (void *)c->a[2], (int)c->a[3]);
}

long call_statfs(struct call *c)
{
	struct place *p = &c->w->a;
	long r = find(c, AT_FDCWD, (void *)c->a[0], FOLLOW, p);

	if (r)
		return r;
	one_piece(p);
	return SC2(__NR_statfs, p->host, c->a[1]);
}

long call_fstatfs(struct call *c)
{
	return call_raw(c);
}

long call_getcwd(struct call *c)
{
	struct core *k = c->core;
	struct place *p = &c->w->a;
	char *text = c->w->text;
	uint64_t dev, ino;
	long r;

	if (!k->root_len && note_get(k, AT_FDCWD, &dev, &ino) && cache_inode(k, dev, ino, p) >= 0 && p->kind != IN_DEEP &&
	    k->plan->mounts[p->mount].flags & MOUNT_CACHE) {
		size_t n = str_copy(text, p->len ? p->guest : "/", HOST_MAX);

		return n + 1 > c->a[1] ? -ERANGE : guest_write((void *)c->a[0], text, n + 1) ? -EFAULT : (long)n + 1;
	}
	r = sys_getcwd(text, HOST_MAX);
	if (r < 0)
		return r;
	r = show_path(k, text, (size_t)r - 1);
	if (r < 0) { /* outside of the chroot or of the container: as the kernel says it */
		r = (long)str_copy(text, "(unreachable)/", HOST_MAX);
	} else {
		/* Deleted or replaced in the upper, while the lower's directory stays. */
		long seen = base_quick(c, AT_FDCWD, p);
		if (seen >= 0 && p->raw)
			return -ENOENT;
		r = sys_getcwd(text, HOST_MAX); /* once more: the memory was used */
		if (r < 0)
			return r;
		r = show_path(k, text, (size_t)r - 1);
		if (r < 0)
			return -ENOENT;
	}
	if ((unsigned long)r + 1 > c->a[1])
		return -ERANGE;
	return guest_write((void *)c->a[0], text, (size_t)r + 1) ? -EFAULT : r + 1;
}

static long do_chdir(struct call *c, struct place *p)
{
	long r;

	if (p->magic) {
		one_piece(p);
		return sys_chdir(p->host);
	}
	if ((p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	/* Of a directory in both layers the lower's is the better place to be: names that are only there are the kernel's
	 * business alone. */
	if (!p->raw && (!p->mounted || !p->len) && p->kind == IN_MERGED && p->layer == LAYER_UPPER && (p->self || kind_below(c, p) == IN_MERGED)) {
		host_path(c->core, p->mount, LAYER_LOWER, p->guest, p->len, c->w->text);
		if (strlen(c->w->text) < GUEST_MAX && !sys_chdir(c->w->text))
			return 0;
	}
	if (p->dfd == AT_FDCWD)
		return sys_chdir(p->host);
	r = sys_openat(p->dfd, p->host, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (r < 0)
		return r;
	close_later(c, r);
	return sys_fchdir((int)r);
}

long call_chdir(struct call *c)
{
	struct place *p = &c->w->a;
	long r = find(c, AT_FDCWD, (void *)c->a[0], FOLLOW, p);

	if (!r && judged(c->core) && !p->magic)
		r = may_search(c, p);
	if (r)
		return r;
	note_hold(c->core, AT_FDCWD);
	r = do_chdir(c, p);
	note_drop(c->core, AT_FDCWD);
	return r;
}

long call_fchdir(struct call *c)
{
	struct place *p = &c->w->a;
	long r;

	if (judged(c->core) && base_dir(c, (int)c->a[0], p) >= 0 && may_search_fd(c, p, (int)c->a[0]))
		return -EACCES;
	note_hold(c->core, AT_FDCWD);
	r = call_raw(c);
	note_drop(c->core, AT_FDCWD);
	return r;
}

/* Emulated: the process's own paths start elsewhere from now on. */
long call_chroot(struct call *c)
{
	struct place *p = &c->w->a;
	struct core *k = c->core;
	long r = find(c, AT_FDCWD, (void *)c->a[0], FOLLOW, p);

	if (r)
		return r;
	if ((p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	if (judged(k) && may_search(c, p))
		return -EACCES;
	if (!privileged(k) || p->raw || p->magic)
		return !keeps_bits(k) && sys_faccessat(p->dfd, p->host, X_OK) == -EACCES ? -EACCES : -EPERM;
	memcpy(k->root, p->guest, p->len);
	k->root[p->len] = 0;
	k->root_len = p->len;
	return 0;
}

long call_inotify_add_watch(struct call *c)
{
	struct place *p = &c->w->a;
	bool nofollow = c->a[2] & 0x02000000; /* IN_DONT_FOLLOW */
	long r = find(c, AT_FDCWD, (void *)c->a[1], nofollow ? 0 : FOLLOW, p);

	if (r)
		return r;
	one_piece(p);
	return SC3(__NR_inotify_add_watch, c->a[0], p->host, c->a[2]);
}

long call_getdents64(struct call *c)
{
	struct place *p = &c->w->a;
	struct core *k = c->core;
	struct note now;
	long r, got;

	if (note_quiet_dir(k, (int)c->a[0], &now) && (now.kind != IN_LOWER || !lists_image(k, (int)c->a[0]))) {
		r = call_raw(c);
		return r > 0 && now.kind == IN_LOWER && !c->nr32 ? show_inodes(k, (void *)c->a[1], r) : r;
	}
	r = base_quick(c, (int)c->a[0], p);
	if (r >= 0 && (p->raw ? p->dead == DEAD : p->kind == IN_LOWER && !p->mount)) {
		got = read_image(k, (int)c->a[0], p, (void *)c->a[1], (unsigned)c->a[2]);
		if (got != INDEX_ASK)
			return got;
	}
	if (r < 0 || p->raw || p->kind != IN_MERGED) {
		bool open_files = r >= 0 && !p->raw && k->plan->mounts[p->mount].flags & MOUNT_PROC && p->len > 3 &&
				  str_eq(p->guest + p->len - 3, "/fd");

		r = call_raw(c);
		if (r > 0 && !p->raw && p->kind == IN_LOWER && !p->mount && !c->nr32) /* whose older call has no room for more */
			return show_inodes(k, (void *)c->a[1], r);
		return r > 0 && open_files ? roots_hide(c, (char *)c->a[1], r) : r;
	}
	return read_merged(c, (int)c->a[0], p, (void *)c->a[1], (unsigned)c->a[2]);
}
