/* Opening files. */
#include "core/calls.h"

#include <linux/openat2.h>

#ifndef O_TMPFILE
#define O_TMPFILE (020000000 | O_DIRECTORY)
#endif
#define TMPFILE_BIT 020000000

static bool writes(long flags)
{
	return !(flags & O_PATH) && ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC);
}

/* Guest root is denied nothing: gives the owner's bits to the directory and the file. Where the record keeps what the
 * guest's mode was that is done once; elsewhere old[] (0: nothing) is what the disk has to have again. */
static bool grant(struct call *c, struct place *p, unsigned old[2])
{
	struct core *k = c->core;
	struct owner *o;
	struct stat st;
	bool done = false, root = !p->raw && p->len <= k->plan->mounts[p->mount].guest_len;

	if (!privileged(k) || p->raw || nameless(p) || p->layer == LAYER_LOWER || readonly(c, p))
		return false;
	if (p->direct) {
		p->direct = false;
		place_host(c, p, (enum layer)p->layer);
	}
	for (int up = root ? 0 : 1; up >= 0; up--) { /* what is above a mount's root is not the container's */
		char *slash = up ? str_rchr(p->host, '/') : NULL;
		unsigned need;

		if (slash)
			*slash = 0;
		if (!sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW) && st.st_uid == k->plan->host_uid &&
		    (st.st_mode & S_IFMT) != S_IFLNK && !is_whiteout(&st)) {
			need = (st.st_mode & S_IFMT) == S_IFDIR ? 0700 : 0600;
			if ((st.st_mode & need) != need) {
				o = p->mount == 0 ? owner_find(k, &st) : NULL;
				if (p->mount == 0 && (!o || !(o->flags & OWNER_MODE))) {
					o = owner_make(k, &st);
					if (o)
						o->mode = st.st_mode, o->flags |= OWNER_MODE;
				}
				if (!sys_fchmodat(p->dfd, p->host, (st.st_mode & 07777) | need)) {
					done = true;
					old[up] = o ? 0 : st.st_mode;
				}
			}
		}
		if (slash)
			*slash = '/';
	}
	return done;
}

static void take_back(struct place *p, const unsigned old[2])
{
	for (int up = 0; up < 2; up++) {
		char *slash = up ? str_rchr(p->host, '/') : NULL;

		if (slash)
			*slash = 0;
		if (old[up])
			sys_fchmodat(p->dfd, p->host, old[up] & 07777);
		if (slash)
			*slash = '/';
	}
}

static long host_open(struct call *c, struct place *p, long flags, unsigned mode)
{
	unsigned old[2] = { 0, 0 };
	const char *name;
	int dfd = near(c->core, p, &name);
	long r;

	if (p->magic)
		flags &= ~(long)O_NOFOLLOW;
	r = sys_openat(dfd, name, (int)flags, mode);
	if (NEAR_LOST(c->core, r))
		r = sys_openat(p->dfd, p->host, (int)flags, mode);
	if (r == -EACCES && grant(c, p, old)) {
		r = sys_openat(p->dfd, p->host, (int)flags, mode);
		take_back(p, old);
	}
	if (r >= 0)
		note_drop(c->core, (int)r);
	return r;
}

static bool is_link(struct call *c, const struct place *p)
{
	struct stat st;

	(void)c;
	return !sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW) && (st.st_mode & S_IFMT) == S_IFLNK;
}

/* A descriptor's link in /proc names a lower file that is now to be written: by its path, then. */
static long reopen_lower(struct call *c, struct place *p, long flags, unsigned mode);

/* Reading only: the upper is tried, then the lower; a link shows in the error. */
static long open_read(struct call *c, int dfd, const void *path, long flags, struct place *p)
{
	bool again = false, dir = flags & O_DIRECTORY && !(flags & O_PATH);
	long r = resolve(c, dfd, path, dir && !(flags & O_NOFOLLOW) && !c->how ? NAMELESS | DIRECTORY : NAMELESS, p);

	if (r)
		return r;
	for (;;) {
		struct note now;
		uint32_t begun;
		bool remember;
		long shown;

		if (p->slash) {
			r = p->found ? 0 : lookup(c, p);
			if (r)
				return r;
			if ((p->st.st_mode & S_IFMT) != S_IFDIR)
				return -ENOTDIR;
		}
		if (judged(c->core) && !p->raw && !p->magic) {
			r = p->found ? 0 : lookup(c, p);
			if (!r && (p->st.st_mode & S_IFMT) != S_IFLNK)
				r = may_open(c, p, flags);
			if (r)
				return r;
		}
		if (!p->raw && c->core->plan->mounts[p->mount].flags & MOUNT_PROC && open_shown(c, p, (int)flags, &shown))
			return shown;
		remember = dir && remember_begin(c, p, &now, &begun);
		r = host_open(c, p, flags | O_NOFOLLOW, 0);
		if (r == -EACCES && nameless(p)) { /* what is done about that needs the name */
			r = resolve(c, dfd, path, 0, p);
			if (r)
				return r;
			continue;
		}
		if (p->kind == IN_MERGED && !p->raw && !p->self) {
			struct stat st;

			/* Nothing there hides the lower's, but for a file beside it. */
			if (r == -ENOENT && (!(c->core->plan->options & OPT_WHITEOUT_FILE) || lower_has(c, p, &st))) {
				place_host(c, p, LAYER_LOWER);
				r = host_open(c, p, flags | O_NOFOLLOW, 0);
			} else if (r == -ENXIO || r == -EACCES || r == -ENOTDIR) {
				if (lookup(c, p) == -ENOENT)
					return -ENOENT;
			} else if (r >= 0 && flags & O_PATH && !sys_fstat((int)r, &st) && is_whiteout(&st)) {
				sys_close((int)r);
				return -ENOENT;
			}
		}
		if (r >= 0 && remember)
			remember_dir(c, p, (int)r, &now, begun);
		if (flags & O_NOFOLLOW || again)
			return r;
		if (r >= 0) {
			struct stat st;
			if (!(flags & O_PATH) || sys_fstat((int)r, &st) || (st.st_mode & S_IFMT) != S_IFLNK)
				return r;
			sys_close((int)r);
		} else if (r != -ELOOP && !(r == -ENOTDIR && flags & O_DIRECTORY && is_link(c, p))) {
			return r;
		}
		r = resolve(c, dfd, path, FOLLOW, p);
		if (r)
			return r;
		again = true;
	}
}

/* What the guest's mode lacks for the caller is given on disk and kept in the record. */
static void keep_mode(struct call *c, int fd, unsigned mode)
{
	struct owner *o;
	struct stat st;

	if (sys_fstat(fd, &st))
		return;
	if (!keeps_bits(c->core)) {
		sys_fchmod(fd, st.st_mode & 07777 & ~(0600 & ~mode));
		if (!(mode & 07000))
			return;
	}
	o = owner_make(c->core, &st);
	if (!o)
		return;
	o->mode = (st.st_mode & ~(0600 & ~mode)) | (mode & 07000);
	o->flags |= OWNER_MODE;
}

static long open_tmpfile(struct call *c, int dfd, const void *path, long flags, unsigned mode, struct place *p)
{
	long r = find(c, dfd, path, FOLLOW, p);

	if (!r && (p->st.st_mode & S_IFMT) != S_IFDIR)
		r = -ENOTDIR;
	if (!r && judged(c->core) && !p->raw && !p->mount)
		r = owner_access(c, p, W_OK | X_OK, true);
	if (!r)
		r = for_change(c, p);
	if (!r)
		r = sys_openat(p->dfd, p->host, (int)flags, p->kind == IN_PLAIN ? mode : (mode & 0777) | 0600);
	if (r >= 0) { /* without a name: nobody else finds it yet */
		owner_new(c, NULL, (int)r);
		if (p->kind != IN_PLAIN && (mode & 07600) != 0600)
			keep_mode(c, (int)r, mode);
	}
	return r;
}

/* What another user may write to no longer runs as its owner. The kernel says so at the first write. */
static void drop_set_ids(struct call *c, int fd)
{
	struct owner *o;
	struct stat st;

	if (sys_fstat(fd, &st) || !(o = owner_find(c->core, &st)) || !(o->flags & OWNER_MODE))
		return;
	o->mode &= o->mode & 010 ? ~06000U : ~04000U;
}

/* EEXIST without O_EXCL: somebody was faster. Who is `alone` makes the file or does not, for the entry of somebody else's would
 * be renewed. */
static long open_or_make(struct call *c, int dfd, const void *path, long flags, unsigned mode, struct place *p, bool alone)
{
	bool excl = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
	bool plain_mode = (mode & 07600) == 0600;
	unsigned host_mode;
	long whiteout, r = resolve(c, dfd, path, flags & O_CREAT ? KEEP_SLASH : 0, p);

	if (r)
		return r;
	if (p->slash && flags & O_CREAT)
		return -EISDIR;
	if (p->raw && p->locked) {
		r = lookup(c, p);
		return !r && !writes(flags) ? host_open(c, p, flags & ~(long)O_CREAT, 0) : r == -ENOENT || !r ? -EROFS : r;
	}
	if (writes(flags) && is_running(c, p))
		return -ETXTBSY;
	/* In a directory with one layer the kernel can tell new from old by itself. */
	if (p->raw || (!p->self && !p->slash && !p->magic && !readonly(c, p) && (p->kind == IN_PLAIN || p->kind == IN_UPPER) &&
		       (p->kind == IN_PLAIN || !(flags & O_CREAT) || (plain_mode && !c->core->ids.fsuid && !c->core->ids.fsgid && !maybe_setgid(c->core, p))) &&
		       !judged(c->core) &&
		       !(c->core->plan->mounts[p->mount].flags & MOUNT_PROC))) {
		if (flags & O_CREAT && (c->core->ids.fsuid || c->core->ids.fsgid || any_changes(c->core)) && recorded(c->core, p)) {
			owner_making(c);
			r = host_open(c, p, flags | O_EXCL | O_NOFOLLOW, mode & 01777); /* what is new has no former owner */
			if (r >= 0)
				owner_new(c, p, (int)r);
			owner_made(c);
			if (r != -EEXIST || excl)
				return r;
		}
		r = host_open(c, p, flags | O_NOFOLLOW, mode & 01777);
		if (r != -ELOOP || flags & O_NOFOLLOW)
			return r;
	}
	if (!(flags & O_NOFOLLOW) && !excl) {
		r = resolve(c, dfd, path, flags & O_CREAT ? FOLLOW | KEEP_SLASH : FOLLOW, p);
		if (r)
			return r;
		if (p->slash && flags & O_CREAT) /* the link's own target ends with one */
			return -EISDIR;
	}
	if (p->magic)
		return reopen_lower(c, p, flags, mode);
	r = p->found ? 0 : lookup(c, p);
	if (!r) {
		unsigned type = p->st.st_mode & S_IFMT;

		if (excl)
			return -EEXIST;
		if (type == S_IFLNK)
			return -ELOOP;
		if (type == S_IFDIR)
			return flags & O_DIRECTORY && !(flags & O_CREAT) && !writes(flags) ? host_open(c, p, flags, 0) : -EISDIR;
		if (p->slash || flags & O_DIRECTORY)
			return -ENOTDIR;
		r = may_open(c, p, flags);
		if (r)
			return r;
		if (type == S_IFREG && writes(flags)) {
			if (readonly(c, p))
				return -EROFS;
			if (is_running(c, p))
				return -ETXTBSY;
			if (p->kind != IN_PLAIN && p->layer == LAYER_LOWER) {
				r = copy_up(c, p, !(flags & O_TRUNC));
				if (r)
					return r;
			}
		}
		r = host_open(c, p, (flags | O_NOFOLLOW) & ~(long)(O_CREAT | O_EXCL), 0);
		if (r >= 0 && type == S_IFREG && writes(flags) && judged(c->core) && !p->raw && !p->mount)
			drop_set_ids(c, (int)r);
		return r;
	}
	if (r != -ENOENT || !(flags & O_CREAT))
		return r;
	if (readonly(c, p))
		return -EROFS;
	r = may_make(c, p);
	if (!r)
		r = make_parent(c, p);
	if (r)
		return r;
	whiteout = clear_whiteout(c, p);
	host_mode = p->kind == IN_PLAIN ? mode & 07777 : (mode & 0777) | 0600;
	owner_making(c);
	r = host_open(c, p, flags | O_NOFOLLOW | (alone && p->kind != IN_PLAIN ? O_EXCL : 0), host_mode);
	if (r < 0 && r != -EEXIST && whiteout > 0)
		hide_lower(c, p);
	if (r >= 0 && p->kind != IN_PLAIN) {
		owner_new(c, p, (int)r);
		if (!plain_mode)
			keep_mode(c, (int)r, mode);
	}
	owner_made(c);
	return r;
}

static long open_write(struct call *c, int dfd, const void *path, long flags, unsigned mode, struct place *p)
{
	long r;
	int races = 8;

	do
		r = open_or_make(c, dfd, path, flags, mode, p, races-- > 0);
	while (r == -EEXIST && !(flags & O_EXCL) && races >= 0);
	return r;
}

static long reopen_lower(struct call *c, struct place *p, long flags, unsigned mode)
{
	struct stat st;
	long r = sys_fstatat(p->dfd, p->host, &st, 0);

	if (r)
		return r;
	flags &= ~(long)O_CREAT; /* it is there */
	if ((st.st_mode & S_IFMT) == S_IFDIR)
		return -EISDIR;
	if ((st.st_mode & S_IFMT) == S_IFREG && writes(flags)) {
		r = behind(c, p);
		if (!r && !p->magic)
			r = copy_up(c, p, !(flags & O_TRUNC));
		if (r)
			return r;
		flags |= p->magic ? 0 : O_NOFOLLOW;
	}
	return host_open(c, p, flags, mode);
}

static long do_open(struct call *c, int dfd, const void *path, long flags, unsigned mode)
{
	struct place *p = &c->w->a;

	if (flags & O_PATH) /* the kernel looks at nothing else, O_TMPFILE included */
		flags &= O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC;
	if ((flags & O_TMPFILE) == O_TMPFILE && flags & TMPFILE_BIT)
		return open_tmpfile(c, dfd, path, flags, mode, p);
	if (writes(flags) || flags & O_CREAT)
		return open_write(c, dfd, path, flags, mode, p);
	return open_read(c, dfd, path, flags, p);
}

long call_open(struct call *c)
{
	return do_open(c, AT_FDCWD, (void *)c->a[0], (int)c->a[1], (unsigned)c->a[2]);
}

long call_creat(struct call *c)
{
	return do_open(c, AT_FDCWD, (void *)c->a[0], O_CREAT | O_WRONLY | O_TRUNC, (unsigned)c->a[1]);
}

long call_openat(struct call *c)
{
	return do_open(c, (int)c->a[0], (void *)c->a[1], (int)c->a[2], (unsigned)c->a[3]);
}

#define KNOWN_FLAGS (O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | 020000 /* O_ASYNC */ | \
		     O_DIRECT | 0100000 /* O_LARGEFILE */ | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | TMPFILE_BIT)

/* RESOLVE_*: restrictions on the walk, see walk.c. */
static long restrict_to(struct call *c, int dfd, unsigned how)
{
	struct place *p = &c->w->a;
	long r;

	c->how = how;
	if (!(how & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)))
		return 0;
	r = base_dir(c, dfd, p);
	if (r < 0)
		return r;
	if (p->raw) /* programs fall back */
		return -ENOSYS;
	/* Kept where a path being opened does not use it. */
	memcpy(c->w->b.guest, p->guest, p->len + 1U);
	c->scope = c->w->b.guest;
	c->scope_len = p->len;
	return 0;
}

long call_openat2(struct call *c)
{
	struct open_how how = { 0 };
	size_t n = c->a[3];
	unsigned long extra = 0;
	long r;

	if (n < sizeof how)
		return -EINVAL;
	if (n > 4096)
		return -E2BIG;
	r = guest_read(&how, (void *)c->a[2], sizeof how);
	for (size_t i = sizeof how; !r && i < n; i++) {
		char byte;
		r = guest_read(&byte, (char *)c->a[2] + i, 1);
		extra |= (unsigned char)byte;
	}
	if (r)
		return r;
	if (extra)
		return -E2BIG;
	if (how.resolve & ~(uint64_t)(RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH |
				      RESOLVE_IN_ROOT | RESOLVE_CACHED))
		return -EINVAL;
	if ((how.resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) == (RESOLVE_BENEATH | RESOLVE_IN_ROOT))
		return -EINVAL;
	if (how.flags & ~(uint64_t)KNOWN_FLAGS || how.mode & ~07777ULL)
		return -EINVAL;
	if (how.mode && !(how.flags & (O_CREAT | TMPFILE_BIT)))
		return -EINVAL;
	if (how.flags & O_PATH && how.flags & ~(uint64_t)(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
		return -EINVAL;
	if (how.resolve & RESOLVE_CACHED) /* always allowed to say so */
		return how.flags & (O_TRUNC | O_CREAT | TMPFILE_BIT) ? -EINVAL : -EAGAIN;
	r = restrict_to(c, (int)c->a[0], (unsigned)how.resolve);
	if (r)
		return r;
	return do_open(c, (int)c->a[0], (void *)c->a[1], (long)how.flags, (unsigned)how.mode);
}
