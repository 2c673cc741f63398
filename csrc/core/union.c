/* The path-level union: a read-only lower tree, a writable upper directory, in overlayfs's own format.
 *
 * A directory is served by lower alone, by upper alone, or by both. In the upper a whiteout hides a lower name (a 0:0
 * character device, or a file .wh.NAME where the file system refuses those), and user.overlay.opaque hides all of a
 * lower directory. Because the format is overlayfs's (with userxattr), the namespace engine can mount what was
 * written here, and the other way round; docs/adr/union-layer.md has the reasons.
 *
 * The lower tree is never opened for writing. What must change is copied up first: into the work directory,
 * completed there, and moved into place without replacing anything, so that of two processes that copy the same
 * file one wins and the other takes the winner's. Nothing here takes a lock.
 */
#include "core/core.h"

#include <linux/fs.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif
#define OPAQUE_XATTR "user.overlay.opaque"

bool is_whiteout(const struct stat *st)
{
	return (st->st_mode & S_IFMT) == S_IFCHR && st->st_rdev == 0;
}

static bool whiteout_files(const struct call *c)
{
	return c->core->plan->options & OPT_WHITEOUT_FILE;
}

/* The host path of the .wh. file for p, in w->other. False when the name is too long to have one. */
static bool whiteout_file(struct call *c, const struct place *p)
{
	char *to = c->w->other;
	size_t n = host_path(c->core, p->mount, LAYER_UPPER, p->guest, p->len, to);
	size_t name = n;

	while (name && to[name - 1] != '/')
		name--;
	if (n - name > 251 || n + 5 > HOST_MAX)
		return false;
	memmove(to + name + 4, to + name, n - name + 1);
	memcpy(to + name, ".wh.", 4);
	return true;
}

bool lower_has(struct call *c, const struct place *p, struct stat *st)
{
	struct core *k = c->core;
	const char *name = c->w->other;
	int dfd = AT_FDCWD;
	long r;

	host_path(k, p->mount, LAYER_LOWER, p->guest, p->len, c->w->other);
	if (k->roots && k->notes && !p->mount)
		dfd = near_text(k, LAYER_LOWER, c->w->other, &name);
	r = sys_fstatat(dfd, name, st, AT_SYMLINK_NOFOLLOW);
	if (NEAR_LOST(k, r))
		r = sys_fstatat(AT_FDCWD, c->w->other, st, AT_SYMLINK_NOFOLLOW);
	if (r)
		return false;
	if (whiteout_files(c) && whiteout_file(c, p)) {
		struct stat wh;
		if (!sys_fstatat(AT_FDCWD, c->w->other, &wh, AT_SYMLINK_NOFOLLOW))
			return false;
	}
	return true;
}

enum kind upper_kind(struct call *c, const char *guest, size_t n, int mount)
{
	struct stat st;
	char value;

	host_path(c->core, mount, LAYER_LOWER, guest, n, c->w->other);
	if (sys_fstatat(AT_FDCWD, c->w->other, &st, AT_SYMLINK_NOFOLLOW) || (st.st_mode & S_IFMT) != S_IFDIR)
		return IN_UPPER;
	host_path(c->core, mount, LAYER_UPPER, guest, n, c->w->other);
	if (sys_getxattr(c->w->other, OPAQUE_XATTR, &value, 1) == 1 && value == 'y')
		return IN_UPPER;
	return IN_MERGED;
}

/* Marks the upper's new directory p. Where the file system has no such attributes, each lower name is hidden. */
void make_opaque(struct call *c, const struct place *p)
{
	char *buf = c->w->rest;
	struct place *t = &c->w->c;
	long fd, n;

	host_path(c->core, p->mount, LAYER_UPPER, p->guest, p->len, c->w->text);
	if (!sys_setxattr(c->w->text, OPAQUE_XATTR, "y", 1, 0))
		return;
	host_path(c->core, p->mount, LAYER_LOWER, p->guest, p->len, c->w->text);
	fd = sys_open(c->w->text, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	if (fd < 0)
		return;
	memcpy(t, p, offsetof(struct place, host));
	while ((n = sys_getdents64((int)fd, buf, sizeof c->w->rest)) > 0)
		for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
			const char *name = ((struct linux_dirent64 *)s)->d_name;
			size_t len = strlen(name);

			if (str_eq(name, ".") || str_eq(name, "..") || p->len + len + 2 > GUEST_MAX)
				continue;
			t->guest[p->len] = '/';
			memcpy(t->guest + p->len + 1, name, len + 1);
			t->len = (uint16_t)(p->len + 1 + len);
			t->kind = IN_MERGED;
			t->direct = false;
			hide_lower(c, t);
		}
	sys_close((int)fd);
}

long temp_name(struct call *c, char *to)
{
	struct core *k = c->core;
	const char *work = plan_text(k, k->plan->work);
	size_t n = strlen(work);

	if (!n)
		return -EROFS;
	fmt(to, HOST_MAX, "%s/udk.%lx.%x", work, sys_getpid(), __atomic_add_fetch(&k->plan->counter, 1, __ATOMIC_RELAXED));
	return 0;
}

long move_new(const char *from, const char *to, bool dir)
{
	long r = sys_renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);

	if (r != -EINVAL && r != -ENOSYS)
		return r;
	if (dir)
		return SC4(__NR_renameat, AT_FDCWD, from, AT_FDCWD, to);
	r = sys_linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
	sys_unlinkat(AT_FDCWD, from, 0);
	return r;
}

/* ---- copying up --------------------------------------------------------------------------------------- */

static long copy_bytes(int from, int to, int64_t size)
{
	char buf[1024];
	long r;

	if (sys_ioctl(to, FICLONE, (void *)(long)from) == 0)
		return 0;
	while (size > 0) {
		r = SC6(__NR_copy_file_range, from, NULL, to, NULL, size, 0);
		if (r <= 0)
			break;
		size -= r;
	}
	while (size > 0) {
		r = SC4(__NR_sendfile, to, from, NULL, MIN(size, 1 << 30));
		if (r == -EINTR)
			continue;
		if (r <= 0)
			break;
		size -= r;
	}
	for (;;) { /* what the quick ways could not do; also the growth of a file of unknown size */
		r = read_some(from, buf, sizeof buf);
		if (r <= 0)
			return r;
		r = write_all(to, buf, (size_t)r);
		if (r)
			return r;
	}
}

static void copy_xattrs(struct call *c, const char *from, const char *to)
{
	char *names = c->w->link, *value = c->w->rest;
	long n = SC3(__NR_llistxattr, from, names, GUEST_MAX - 1), len;

	for (char *s = names; n > 0 && s < names + n; s += strlen(s) + 1) {
		if (!str_starts(s, "user.") || str_starts(s, "user.overlay."))
			continue;
		len = SC4(__NR_lgetxattr, from, s, value, sizeof c->w->rest);
		if (len >= 0)
			SC5(__NR_lsetxattr, to, s, value, len, 0);
	}
}

static void copy_times(const char *to, const struct stat *st)
{
	ktimespec t[2] = { { (long)st->st_atime, (long)st->st_atime_nsec }, { (long)st->st_mtime, (long)st->st_mtime_nsec } };

	SC4(__NR_utimensat, AT_FDCWD, to, t, AT_SYMLINK_NOFOLLOW);
}

/* Makes a copy of `from` (with lstat `st`) under the temporary name `to`. */
static long make_copy(struct call *c, const char *from, const struct stat *st, const char *to, bool data)
{
	long r = 0, in, out;

	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
		in = sys_open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
		if (in < 0)
			return in;
		out = sys_open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (out >= 0 && data)
			r = copy_bytes((int)in, (int)out, st->st_size);
		if (out >= 0 && !r)
			r = sys_fchmod((int)out, (st->st_mode & 0777) | 0600);
		sys_close((int)in);
		if (out < 0)
			return out;
		sys_close((int)out);
		break;
	case S_IFDIR:
		r = sys_mkdirat(AT_FDCWD, to, 0700);
		if (!r)
			r = sys_fchmodat(AT_FDCWD, to, (st->st_mode & 01777) | 0700);
		break;
	case S_IFLNK:
		r = sys_readlinkat(AT_FDCWD, from, c->w->link, GUEST_MAX - 1);
		if (r < 0)
			return r;
		c->w->link[r] = 0;
		r = sys_symlinkat(c->w->link, AT_FDCWD, to);
		break;
	default:
		r = sys_mknodat(AT_FDCWD, to, (st->st_mode & S_IFMT) | 0600, 0);
	}
	if (!r && (st->st_mode & S_IFMT) != S_IFLNK)
		copy_xattrs(c, from, to);
	if (!r)
		copy_times(to, st);
	return r;
}

/* Copies one thing whose parent is in the upper already. t: its place, with st of the lower's. */
static long copy_one(struct call *c, struct place *t, const struct stat *st, bool data)
{
	char *temp = c->w->text, *to = t->host;
	bool dir = (st->st_mode & S_IFMT) == S_IFDIR;
	struct stat made;
	long r;

	r = temp_name(c, temp);
	if (r)
		return r;
	host_path(c->core, t->mount, LAYER_LOWER, t->guest, t->len, c->w->other);
	r = make_copy(c, c->w->other, st, temp, data);
	if (!r && !sys_fstatat(AT_FDCWD, temp, &made, AT_SYMLINK_NOFOLLOW))
		owner_copy(c, st, t->guest, &made);
	t->direct = false;
	place_host(c, t, LAYER_UPPER);
	if (!r)
		r = sys_renameat2(AT_FDCWD, temp, t->dfd, to, RENAME_NOREPLACE);
	if (r == -EINVAL || r == -ENOSYS)
		r = move_new(temp, to, dir);
	if (r) {
		sys_unlinkat(AT_FDCWD, temp, dir ? AT_REMOVEDIR : 0);
		if (r == -EEXIST || r == -ENOTEMPTY)
			r = 0; /* another process was faster */
	}
	return r;
}

/* The times of the directory above, which a copy-up must not change. */
static bool parent_times(struct call *c, const struct place *p, struct stat *st)
{
	size_t n = p->len;

	while (n && p->guest[n - 1] != '/')
		n--;
	host_path(c->core, p->mount, LAYER_UPPER, p->guest, n ? n - 1 : 0, c->w->other);
	return !sys_fstatat(AT_FDCWD, c->w->other, st, 0);
}

/* Makes the first n bytes of p->guest, a directory of the union, exist in the upper. */
static long up_dirs(struct call *c, const struct place *p, size_t n)
{
	struct place *t = &c->w->c;
	struct stat st, above;
	bool any = false;
	long r;

	t->mount = p->mount;
	t->raw = t->direct = false;
	for (size_t i = c->core->plan->mounts[p->mount].guest_len; i < n;) {
		for (i++; i < n && p->guest[i] != '/';)
			i++;
		memcpy(t->guest, p->guest, i);
		t->guest[i] = 0;
		t->len = (uint16_t)i;
		t->direct = false;
		place_host(c, t, LAYER_UPPER);
		r = sys_fstatat(t->dfd, t->host, &st, AT_SYMLINK_NOFOLLOW);
		if (!r)
			continue;
		if (r != -ENOENT)
			return r;
		host_path(c->core, t->mount, LAYER_LOWER, t->guest, i, c->w->other);
		r = sys_fstatat(AT_FDCWD, c->w->other, &st, AT_SYMLINK_NOFOLLOW);
		if (r)
			return r;
		bool times = parent_times(c, t, &above);
		r = copy_one(c, t, &st, true);
		if (r)
			return r;
		if (times) {
			parent_times(c, t, &st); /* w->other is the parent again */
			copy_times(c->w->other, &above);
		}
		any = true;
	}
	if (any)
		changed(c->core);
	return 0;
}

long make_parent(struct call *c, struct place *p)
{
	size_t n = p->len;
	long r;

	if (p->raw || p->kind == IN_PLAIN || p->kind == IN_UPPER)
		return 0;
	if (p->kind == IN_LOWER) {
		while (n && p->guest[n - 1] != '/')
			n--;
		r = up_dirs(c, p, n ? n - 1 : 0);
		if (r)
			return r;
		p->kind = IN_MERGED;
	}
	p->direct = false;
	place_host(c, p, LAYER_UPPER);
	return 0;
}

long copy_up(struct call *c, struct place *p, bool data)
{
	struct stat above;
	bool times, self = p->self;
	long r;

	if (p->raw || p->layer != LAYER_LOWER)
		return 0;
	if ((p->st.st_mode & S_IFMT) == S_IFDIR) {
		r = up_dirs(c, p, p->len);
		if (!r) {
			p->kind = IN_MERGED;
			p->direct = false;
			place_host(c, p, LAYER_UPPER);
			r = sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW); /* the record is by its inode */
		}
		return r;
	}
	r = make_parent(c, p);
	if (r)
		return r;
	p->self = self;
	times = parent_times(c, p, &above);
	r = copy_one(c, p, &p->st, data);
	if (!r) { /* programs are remembered with their layer */
		const char *name = str_rchr(p->guest, '/') + 1;

		changed_name(c->core, name, strlen(name));
	}
	if (!r && times) {
		struct stat now;
		parent_times(c, p, &now);
		copy_times(c->w->other, &above);
	}
	if (!r)
		r = sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW);
	return r;
}

long for_change(struct call *c, struct place *p)
{
	if (readonly(c, p))
		return -EROFS;
	return p->raw ? 0 : copy_up(c, p, true);
}

/* ---- hiding ------------------------------------------------------------------------------------------- */

long clear_whiteout(struct call *c, struct place *p)
{
	struct stat st;

	if (p->raw || p->kind != IN_MERGED)
		return 0;
	if (whiteout_files(c))
		return whiteout_file(c, p) && !sys_unlinkat(AT_FDCWD, c->w->other, 0);
	return !sys_fstatat(p->dfd, p->host, &st, AT_SYMLINK_NOFOLLOW) && is_whiteout(&st) &&
	       !sys_unlinkat(p->dfd, p->host, 0);
}

long hide_lower(struct call *c, struct place *p)
{
	struct stat st;

	if (p->raw || p->kind != IN_MERGED || !lower_has(c, p, &st))
		return 0;
	if (whiteout_files(c)) {
		long fd;
		if (!whiteout_file(c, p))
			return -ENAMETOOLONG;
		fd = sys_open(c->w->other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0)
			sys_close((int)fd);
		return fd < 0 ? fd : 0;
	}
	place_host(c, p, LAYER_UPPER);
	return sys_mknodat(p->dfd, p->host, S_IFCHR, 0);
}

/* Is the directory p (found, in the upper) empty in the guest's eyes? Whiteouts in it do not count. */
long merged_empty(struct call *c, struct place *p, bool remove_whiteouts)
{
	char *buf = c->w->rest;
	long fd, n, r = 0;
	struct place *t = &c->w->c;
	bool upper_only = p->layer != LAYER_LOWER && (p->kind != IN_MERGED || upper_kind(c, p->guest, p->len, p->mount) == IN_UPPER);

	memcpy(t, p, offsetof(struct place, host));
	for (int l = upper_only; l < 2 && !r; l++) {
		enum layer layer = l ? LAYER_UPPER : LAYER_LOWER;
		bool file = whiteout_files(c);

		host_path(c->core, p->mount, layer, p->guest, p->len, c->w->text);
		fd = sys_open(c->w->text, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
		if (fd == -ENOENT || fd == -ENOTDIR)
			continue;
		if (fd < 0)
			return fd;
		while (!r && (n = sys_getdents64((int)fd, buf, sizeof c->w->rest)) > 0)
			for (char *s = buf; s < buf + n && !r; s += ((struct linux_dirent64 *)s)->d_reclen) {
				struct linux_dirent64 *d = (void *)s;
				struct stat st;

				if (str_eq(d->d_name, ".") || str_eq(d->d_name, ".."))
					continue;
				if (layer == LAYER_UPPER) {
					bool wh = file ? str_starts(d->d_name, ".wh.")
						       : !sys_fstatat((int)fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) && is_whiteout(&st);
					if (!wh)
						r = -ENOTEMPTY;
					else if (remove_whiteouts)
						sys_unlinkat((int)fd, d->d_name, 0);
				} else {
					t->kind = IN_MERGED;
					t->self = t->mounted = t->direct = false;
					memcpy(t->guest, p->guest, p->len);
					if (p->len + strlen(d->d_name) + 2 > GUEST_MAX)
						continue;
					t->guest[p->len] = '/';
					t->len = (uint16_t)(p->len + 1 + str_copy(t->guest + p->len + 1, d->d_name, 256));
					if (!lookup(c, t))
						r = -ENOTEMPTY;
				}
			}
		sys_close((int)fd);
	}
	return r;
}
