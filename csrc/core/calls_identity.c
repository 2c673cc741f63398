/* The calls of the identity layer: what they say of ids, owners, modes and devices. */
#include "core/identity.h"
#include "core/sock.h"

#define TMPFILE_BIT 020000000

static const struct owner nothing;

/* ---- looking ------------------------------------------------------------------------------------------ */

static bool is_engine(const struct core *k, const struct stat *st)
{
	return st->st_ino == k->plan->loader_ino && st->st_dev == k->plan->loader_dev;
}

/* /proc/PID/exe, followed. */
static long stat_program(struct call *c, int dfd, const void *path, unsigned long to)
{
	struct place *p = &c->w->a;
	long r = find(c, dfd, path, FOLLOW, p);

	if (r)
		return r;
	identity_show(c->core, &p->st);
	return guest_write((void *)to, &p->st, sizeof p->st);
}

static long show_stat(struct call *c, long dfd, unsigned long path, long flags, unsigned long to)
{
	struct stat st;
	long r = SC4(__NR_newfstatat, dfd, path, &st, flags);

	if (r)
		return r;
	if (is_engine(c->core, &st) && !(flags & AT_EMPTY_PATH))
		return stat_program(c, (int)dfd, (void *)path, to);
	identity_show(c->core, &st);
	return guest_write((void *)to, &st, sizeof st);
}

#ifdef __NR_stat
static long id_stat(struct call *c) { return show_stat(c, AT_FDCWD, c->a[0], 0, c->a[1]); }
static long id_lstat(struct call *c) { return show_stat(c, AT_FDCWD, c->a[0], AT_SYMLINK_NOFOLLOW, c->a[1]); }
#endif
static long id_newfstatat(struct call *c) { return show_stat(c, (int)c->a[0], c->a[1], (int)c->a[3], c->a[2]); }

static long id_fstat(struct call *c)
{
	struct stat st;
	long r = sys_fstat((int)c->a[0], &st);

	if (r)
		return r;
	identity_show(c->core, &st);
	return guest_write((void *)c->a[1], &st, sizeof st);
}

static long id_statx(struct call *c)
{
	struct statx x;
	struct stat st;
	long r = SC5(__NR_statx, c->a[0], c->a[1], c->a[2], c->a[3], &x);

	if (r)
		return r;
	stat_of_statx(&st, &x);
	identity_show(c->core, &st);
	stat_to_statx(&x, &st);
	return guest_write((void *)c->a[4], &x, sizeof x);
}

static long do_access(struct call *c, long dfd, const void *path, int mode, int flags)
{
	const struct ids *ids = &c->core->ids;
	uint32_t uid = flags & AT_EACCESS ? ids->fsuid : ids->ruid;
	struct stat st;
	long r;

	if (!uid || mode & ~7 || !mode)
		return call_raw(c);
	r = SC4(__NR_newfstatat, dfd, path, &st, flags & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
	if (r)
		return r;
	identity_show(c->core, &st);
	if (mode & W_OK) { /* a read-only mount is the kernel's to know */
		r = SC4(__NR_faccessat, dfd, path, W_OK, 0);
		if (r == -EROFS)
			return r;
	}
	return mode_allows(c->core, &st, mode, flags & AT_EACCESS) ? 0 : -EACCES;
}

#ifdef __NR_access
static long id_access(struct call *c) { return do_access(c, AT_FDCWD, (void *)c->a[0], (int)c->a[1], 0); }
#endif
static long id_faccessat(struct call *c) { return do_access(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], 0); }
static long id_faccessat2(struct call *c) { return do_access(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (int)c->a[3]); }

/* The program that runs is, for the kernel, the engine: its name and its memory are shown as without namespaces. */
static bool names(const void *path, bool maps)
{
	char text[64], *leaf;

	if (guest_str(text, path, sizeof text) < 3 || (text[0] == '/' && !str_starts(text, "/proc/")))
		return false;
	leaf = str_rchr(text, '/');
	leaf = leaf ? leaf + 1 : text;
	return str_eq(leaf, "exe") || (maps && (str_eq(leaf, "maps") || str_eq(leaf, "smaps") || str_eq(leaf, "numa_maps")));
}

static bool names_exe(const void *path)
{
	return names(path, false);
}

#ifdef __NR_readlink
static long id_readlink(struct call *c) { return names_exe((void *)c->a[0]) ? call_readlink(c) : call_raw(c); }
#endif
static long id_readlinkat(struct call *c) { return names_exe((void *)c->a[1]) ? call_readlinkat(c) : call_raw(c); }

/* ---- owners and modes --------------------------------------------------------------------------------- */

/* A descriptor of the thing itself; *mine: to be closed. */
static long descriptor(long dfd, const void *path, long flags, bool *mine)
{
	char first = 1;

	*mine = false;
	if (flags & AT_EMPTY_PATH && (!path || (!guest_read(&first, path, 1) && !first)) && dfd != AT_FDCWD)
		return dfd;
	*mine = true;
	return sys_openat((int)dfd, first ? path : ".", O_PATH | O_CLOEXEC | (flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0), 0);
}

static long do_chown(struct call *c, long dfd, const void *path, uint32_t uid, uint32_t gid, long flags)
{
	struct core *k = c->core;
	struct entries e;
	struct stat st, shown;
	struct owner before;
	bool mine;
	long fd, r;

	if (flags & ~(long)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	r = SC4(__NR_newfstatat, dfd, path ? path : "", &st, flags);
	if (r)
		return r;
	shown = st;
	identity_show(k, &shown);
	uid = uid == (uint32_t)-1 ? shown.st_uid : uid;
	gid = gid == (uint32_t)-1 ? shown.st_gid : gid;
	if (!privileged(k) && (uid != shown.st_uid || k->ids.fsuid != shown.st_uid))
		return -EPERM;
	if (!in_root(k, &st) || !st.st_nlink) {
		r = SC5(__NR_fchownat, dfd, path ? path : "", uid, gid, flags);
		return (r == -EPERM || r == -EINVAL) && privileged(k) ? 0 : r;
	}
	if (uid == shown.st_uid && gid == shown.st_gid && !(shown.st_mode & 06000)) {
		fd = descriptor(dfd, path, flags, &mine);
		if (fd >= 0 && in_upper(c, (int)fd, &st)) /* its ctime changes; the image's is not copied up for that */
			SC5(__NR_fchownat, fd, "", -1, -1, AT_EMPTY_PATH);
		if (mine && fd >= 0)
			sys_close((int)fd);
		return 0;
	}
	before = known(k, &st);
	fd = descriptor(dfd, path, flags, &mine);
	if (fd < 0)
		return fd;
	r = SC5(__NR_fchownat, fd, "", -1, -1, AT_EMPTY_PATH); /* is copied up, its ctime changes */
	if (!r || r == -EOVERFLOW || r == -EPERM)
		r = entries_of(c, (int)fd, &before, &e) ? 0 : -ENOSPC;
	if (!r)
		put_owner(&e, uid, gid);
	if (mine)
		sys_close((int)fd);
	return r;
}

#ifdef __NR_chown
static long id_chown(struct call *c) { return do_chown(c, AT_FDCWD, (void *)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2], 0); }
static long id_lchown(struct call *c)
{
	return do_chown(c, AT_FDCWD, (void *)c->a[0], (uint32_t)c->a[1], (uint32_t)c->a[2], AT_SYMLINK_NOFOLLOW);
}
#endif
static long id_fchown(struct call *c)
{
	return do_chown(c, (int)c->a[0], NULL, (uint32_t)c->a[1], (uint32_t)c->a[2], AT_EMPTY_PATH);
}
static long id_fchownat(struct call *c)
{
	return c->a[1] ? do_chown(c, (int)c->a[0], (void *)c->a[1], (uint32_t)c->a[2], (uint32_t)c->a[3], (int)c->a[4]) : -EFAULT;
}

/* Set-id bits are never on disk, where the file is the caller's: the record has them. `which` is the mode's place. */
static long do_chmod(struct call *c, long dfd, const void *path, int which, long flags)
{
	struct core *k = c->core;
	uint32_t mode = (uint32_t)c->a[which] & 07777;
	struct entries e;
	struct owner before;
	struct stat st, shown;
	bool mine;
	long fd, r;

	if (!k->ids.fsuid && !(mode & 06000) && !any_changes(k) && !k->plan->lower_owners_used)
		return call_raw(c);
	r = SC4(__NR_newfstatat, dfd, path ? path : "", &st, flags);
	if (r)
		return call_raw(c);
	shown = st;
	identity_show(k, &shown);
	if (k->ids.fsuid && shown.st_uid != k->ids.fsuid)
		return -EPERM;
	before = known(k, &st);
	if (!in_root(k, &st) || !st.st_nlink || (!(before.flags & OWNER_MODE) && !((st.st_mode & S_IFMT) == S_IFREG && mode & 06000)))
		return call_raw(c);
	if ((st.st_mode & S_IFMT) == S_IFREG)
		c->a[which] = mode & 01777;
	r = call_raw(c);
	if (r)
		return r;
	fd = descriptor(dfd, path, flags, &mine);
	if (fd < 0)
		return 0;
	if (entries_of(c, (int)fd, &before, &e))
		put_mode(&e, (before.rdev ? before.mode & S_IFMT : st.st_mode & S_IFMT) | mode, before.rdev);
	if (mine)
		sys_close((int)fd);
	return 0;
}

#ifdef __NR_chmod
static long id_chmod(struct call *c) { return do_chmod(c, AT_FDCWD, (void *)c->a[0], 1, 0); }
#endif
static long id_fchmod(struct call *c) { return do_chmod(c, (int)c->a[0], NULL, 1, AT_EMPTY_PATH); }
static long id_fchmodat(struct call *c) { return do_chmod(c, (int)c->a[0], (void *)c->a[1], 2, 0); }
static long id_fchmodat2(struct call *c) { return do_chmod(c, (int)c->a[0], (void *)c->a[1], 2, (int)c->a[3]); }

/* ---- new names ---------------------------------------------------------------------------------------- */

static long do_mknod(struct call *c, long dfd, const void *path, int which, unsigned dev)
{
	unsigned mode = (unsigned)c->a[which], type = mode & S_IFMT;
	bool set_id = mode & 06000 && (type == S_IFREG || !type);
	struct entries e;
	struct owner *o;
	struct stat st;
	long r, fd;

	if (set_id)
		c->a[which] &= ~06000UL;
	owner_making(c);
	r = call_raw(c);
	if (!r)
		new_file(c, (int)dfd, path, -1);
	owner_made(c);
	if (!r) {
		fd = set_id ? SC4(__NR_openat, dfd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0) : -1;
		if (fd >= 0 && !sys_fstatat((int)fd, "", &st, AT_EMPTY_PATH) && entries_of(c, (int)fd, &nothing, &e))
			put_mode(&e, st.st_mode | (mode & 06000), 0);
		if (fd >= 0)
			sys_close((int)fd);
		return 0;
	}
	if (r != -EPERM || !privileged(c->core) || (type != S_IFCHR && type != S_IFBLK))
		return r;
	r = SC4(__NR_mknodat, dfd, path, S_IFREG | (mode & 0777), 0);
	if (r)
		return r;
	if (SC4(__NR_newfstatat, dfd, path, &st, AT_SYMLINK_NOFOLLOW) || !in_root(c->core, &st) ||
	    !(o = owner_born(c->core, &st, true))) {
		SC3(__NR_unlinkat, dfd, path, 0);
		return -EPERM;
	}
	o->mode = (mode & ~0777U) | (st.st_mode & 0777);
	o->rdev = dev;
	o->uid = c->core->ids.fsuid;
	o->gid = c->core->ids.fsgid;
	o->flags |= OWNER_SET | OWNER_MODE;
	return 0;
}

#ifdef __NR_mknod
static long id_mknod(struct call *c) { return do_mknod(c, AT_FDCWD, (void *)c->a[0], 1, (unsigned)c->a[2]); }
#endif
static long id_mknodat(struct call *c) { return do_mknod(c, (int)c->a[0], (void *)c->a[1], 2, (unsigned)c->a[3]); }

/* A call that makes a name: which argument it is, and which the directory (-1: none). */
static long made(struct call *c, int dir, int name)
{
	long r;

	owner_making(c);
	r = call_raw(c);
	if (!r)
		new_file(c, dir < 0 ? AT_FDCWD : (int)c->a[dir], (void *)c->a[name], -1);
	owner_made(c);
	return r;
}

#ifdef __NR_mkdir
static long id_mkdir(struct call *c) { return made(c, -1, 0); }
static long id_symlink(struct call *c) { return made(c, -1, 1); }
#endif
static long id_mkdirat(struct call *c) { return made(c, 0, 1); }
static long id_symlinkat(struct call *c) { return made(c, 1, 2); }

static long id_bind(struct call *c)
{
	struct address a = { .len = (uint32_t)c->a[2] };
	long r;

	if (c->a[2] > UN_SIZE || guest_read(&a, (void *)c->a[1], c->a[2]) || a.family != AF_UNIX_ || !a.path[0])
		return call_raw(c);
	owner_making(c);
	r = SC3(__NR_bind, c->a[0], &a, c->a[2]); /* ours: the guest may change its own meanwhile */
	if (!r)
		new_file(c, AT_FDCWD, a.path, -1);
	owner_made(c);
	return r;
}

static long id_openat(struct call *c)
{
	const long dfd = (int)c->a[0];
	const void *path = (void *)c->a[1];
	struct core *k = c->core;
	long flags = (int)c->a[2], r;
	uint32_t mode = (uint32_t)c->a[3];
	const bool set_id = mode & 06000;
	struct entries e;
	struct stat st;

	if (!(flags & (O_CREAT | TMPFILE_BIT)) || flags & O_PATH)
		return names(path, true) ? call_openat(c) : call_raw(c);
	if (!k->ids.fsuid && !k->ids.fsgid && !set_id && !any_changes(k))
		return call_raw(c);
	mode &= 01777;
	owner_making(c);
	r = SC4(__NR_openat, dfd, path, flags & O_CREAT ? flags | O_EXCL : flags, mode); /* with O_TMPFILE it means something else */
	if (r >= 0)
		new_file(c, AT_FDCWD, NULL, (int)r);
	owner_made(c);
	if (r == -EEXIST && !(flags & O_EXCL)) {
		bool dangles = SC4(__NR_newfstatat, dfd, path, &st, 0) == -ENOENT; /* the file is made where the link leads */
		if (dangles)
			owner_making(c);
		r = SC4(__NR_openat, dfd, path, flags, mode);
		if (!dangles)
			return r;
		if (r >= 0)
			new_file(c, AT_FDCWD, NULL, (int)r);
		owner_made(c);
	}
	if (r < 0)
		return r;
	if (set_id && entries_of(c, (int)r, &nothing, &e) && !sys_fstat((int)r, &st))
		put_mode(&e, st.st_mode | ((uint32_t)c->a[3] & 06000), 0);
	return r;
}

#ifdef __NR_open
static long id_open(struct call *c)
{
	c->a[3] = c->a[2];
	c->a[2] = c->a[1];
	c->a[1] = c->a[0];
	c->a[0] = (unsigned long)AT_FDCWD;
	c->nr = __NR_openat;
	return id_openat(c);
}

static long id_creat(struct call *c)
{
	c->a[2] = c->a[1];
	c->a[1] = O_CREAT | O_WRONLY | O_TRUNC;
	return id_open(c);
}
#endif

/* ---- names that go and move --------------------------------------------------------------------------- */

static long gone(struct call *c, long dfd, const void *path)
{
	struct core *k = c->core;
	struct leaving leaving;
	struct stat st;
	long r;

	if (!any_changes(k) || SC4(__NR_newfstatat, dfd, path, &st, AT_SYMLINK_NOFOLLOW))
		return call_raw(c);
	leaving = owner_leaving(k, &st);
	r = call_raw(c);
	if (!r)
		owner_left(&leaving);
	return r;
}

#ifdef __NR_unlink
static long id_unlink(struct call *c) { return gone(c, AT_FDCWD, (void *)c->a[0]); }
static long id_rmdir(struct call *c) { return gone(c, AT_FDCWD, (void *)c->a[0]); }
#endif
static long id_unlinkat(struct call *c) { return gone(c, (int)c->a[0], (void *)c->a[1]); }

/* What held of a file goes along to its other name. Nothing is an entry, too, where the file is a copy of the image's: by its
 * mark the next run would take it for a copy of what the image has of that name, and the two names' inode numbers, which
 * differ, belong together. */
static bool goes_along(struct call *c, long dfd, const void *path, long flags, const struct owner *before, bool only_in_upper)
{
	static const struct owner plain = { .flags = OWNER_SET };
	struct stat upper;
	struct entries e;
	bool mine, found, marked = before->flags;
	long fd = descriptor(dfd, path, flags, &mine);

	if (fd < 0)
		return false;
	found = (only_in_upper || !marked) && in_upper(c, (int)fd, &upper);
	if (found && !marked && (only_in_upper || c->core->plan->lower_owners_used))
		marked = SC4(__NR_lgetxattr, c->w->text, "user.overlay.origin", NULL, 0) >= 0;
	if (marked && (found || !only_in_upper))
		entries_of(c, (int)fd, before->flags ? before : &plain, &e);
	if (mine)
		sys_close((int)fd);
	return found;
}

static bool noted_in_upper(struct core *k, const struct stat *st)
{
	const struct owner *o = changed_entry(k, st);

	return o && o->dev == DEV_UPPER;
}

enum how { ADDS, REPLACES, EXCHANGES };

/* A file of the image is copied up when it is moved or linked. */
static long moved(struct call *c, long afd, const void *from, long bfd, const void *to, long follow, enum how how)
{
	struct core *k = c->core;
	struct stat st, target, is;
	struct owner before, other;
	struct leaving leaving = { 0 };
	bool known_from, known_to, one;
	long r;

	if (!any_changes(k) && !k->plan->lower_owners_used && how != ADDS)
		return call_raw(c);
	known_from = !SC4(__NR_newfstatat, afd, from, &st, follow);
	known_to = !SC4(__NR_newfstatat, bfd, to, &target, AT_SYMLINK_NOFOLLOW);
	one = known_from && known_to && target.st_ino == st.st_ino && target.st_dev == st.st_dev;
	known_from = known_from && in_root(k, &st) && (st.st_mode & S_IFMT) != S_IFDIR;
	known_to = known_to && in_root(k, &target);
	before = known_from ? known(k, &st) : nothing;
	other = known_to ? known(k, &target) : nothing;
	if (how == REPLACES && known_to && !one)
		leaving = owner_leaving(k, &target);
	r = call_raw(c);
	if (r)
		return r;
	/* Onto itself nothing happens, not even a copy to the upper. Two names of one file of the image are two files. */
	if (one && !SC4(__NR_newfstatat, afd, from, &is, follow) && is.st_ino == st.st_ino)
		return 0;
	owner_left(&leaving);
	/* A link's new name shows the upper's inode, the old one, if there is one, the image's. */
	if (known_from && !noted_in_upper(k, &st) && (how != ADDS || !goes_along(c, afd, from, follow, &before, true)))
		goes_along(c, bfd, to, AT_SYMLINK_NOFOLLOW, &before, false);
	if (how == EXCHANGES && known_to && (target.st_mode & S_IFMT) != S_IFDIR && !noted_in_upper(k, &target))
		goes_along(c, afd, from, AT_SYMLINK_NOFOLLOW, &other, false);
	return 0;
}

#ifdef __NR_rename
static long id_rename(struct call *c)
{
	return moved(c, AT_FDCWD, (void *)c->a[0], AT_FDCWD, (void *)c->a[1], AT_SYMLINK_NOFOLLOW, REPLACES);
}
static long id_link(struct call *c)
{
	return moved(c, AT_FDCWD, (void *)c->a[0], AT_FDCWD, (void *)c->a[1], AT_SYMLINK_NOFOLLOW, ADDS);
}
#endif
#ifdef __NR_renameat
static long id_renameat(struct call *c)
{
	return moved(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3], AT_SYMLINK_NOFOLLOW, REPLACES);
}
#endif
static long id_renameat2(struct call *c)
{
	return moved(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3], AT_SYMLINK_NOFOLLOW, c->a[4] & 2 ? EXCHANGES : REPLACES);
}
static long id_linkat(struct call *c)
{
	return moved(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (void *)c->a[3],
		     (c->a[4] & AT_SYMLINK_FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW) | (long)(c->a[4] & AT_EMPTY_PATH), ADDS);
}

/* ---- privileges --------------------------------------------------------------------------------------- */

/* The capabilities that guest root has in its namespace are real; a guest user has none. They are not really given up:
 * the record is reached by what they allow. */
static long id_capget(struct call *c)
{
	uint32_t version, none[6] = { 0 };
	long r = call_raw(c);

	if (r || !c->a[1] || privileged(c->core) || guest_read(&version, (void *)c->a[0], 4))
		return r;
	return guest_write((void *)c->a[1], none, version == 0x19980330 ? 12 : 24);
}

static long id_capset(struct call *c)
{
	(void)c;
	return 0;
}

/* security.* and trusted.* as far as the kernel takes them. */
static long id_xattr(struct call *c)
{
	char name[16] = "";
	long r = call_raw(c);

	if (r != -EPERM || !privileged(c->core))
		return r;
	guest_str(name, (void *)c->a[1], sizeof name);
	return str_starts(name, "security.") || str_starts(name, "trusted.") ? 0 : r;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

#define T(name) [__NR_##name] = { id_##name, TRAP, 0, 0 }
#define CORE(name) [__NR_##name] = { call_##name, TRAP, 0, 0 }
#define XATTR(name) [__NR_##name] = { id_xattr, TRAP, 0, 0 }

const struct entry identity_table[] = {
	T(newfstatat), T(fstat), T(statx), T(faccessat), T(faccessat2), T(readlinkat), T(fchown), T(fchownat), T(fchmod),
	T(fchmodat), T(fchmodat2), T(mknodat), T(mkdirat), T(symlinkat), T(unlinkat), T(linkat), T(renameat2), T(capget),
	T(capset), T(bind),
#ifdef __NR_renameat
	T(renameat),
#endif
#ifdef __NR_open
	T(stat), T(lstat), T(access), T(readlink), T(chown), T(lchown), T(chmod), T(mknod), T(mkdir), T(symlink), T(unlink),
	T(rmdir), T(link), T(rename), T(creat),
	T(open),
#endif
	T(openat),
	XATTR(setxattr), XATTR(lsetxattr), XATTR(fsetxattr), XATTR(removexattr), XATTR(lremovexattr), XATTR(fremovexattr),
	CORE(getuid), CORE(geteuid), CORE(getgid), CORE(getegid), CORE(getresuid), CORE(getresgid), CORE(getgroups), CORE(setuid),
	CORE(setgid), CORE(setreuid), CORE(setregid), CORE(setresuid), CORE(setresgid), CORE(setgroups), CORE(setfsuid),
	CORE(setfsgid),
	[435] = { NULL, DENY_ENOSYS, 0, 0 }, /* clone3 can reset our handler */
};
const long identity_table_size = ARRAY_LEN(identity_table);

long identity_call(struct call *c)
{
	const struct entry *e = &identity_table[c->nr < identity_table_size ? c->nr : 0];

	if (c->nr < 0 || c->nr >= identity_table_size || !e->handler || !(c->core->plan->options & OPT_OWNERS))
		return call_raw(c);
	return e->handler(c);
}
