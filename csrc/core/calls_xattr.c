/* Extended attributes.
 *
 * security.* needs privileges that guest root only seems to have: it is kept as user.udk.security.*, on files and
 * directories. trusted.* is refused, as in a user namespace. What the union notes in user.overlay.* is not the
 * guest's to see.
 */
#include "core/calls.h"

#define NAME_ROOM 300
#define LIST_ROOM 65536

/* The name that the disk has for the guest's, in `to`. 1: of those kept aside; 0: the same; or an error. */
static long host_name(struct call *c, const void *name, char *to)
{
	long n = guest_str(to + sizeof KEPT - 1, name, 257);
	char *s = to + sizeof KEPT - 1;

	if (n < 0)
		return n == -ENAMETOOLONG ? -ERANGE : n;
	if (!n)
		return -ERANGE;
	if (str_starts(s, "user.overlay.") || str_starts(s, KEPT))
		return -EPERM;
	if (!(c->core->plan->options & OPT_FAKE_ROOT) || !(str_starts(s, "security.") || str_starts(s, "trusted."))) {
		memmove(to, s, (size_t)n + 1);
		return 0;
	}
	if (n > 255)
		return -ERANGE;
	if (str_starts(s, "trusted."))
		return -EPERM;
	memcpy(to, KEPT, sizeof KEPT - 1);
	return 1;
}

static long change(struct call *c, bool set, long nr, unsigned long file)
{
	char name[NAME_ROOM];
	long kept = host_name(c, (void *)c->a[1], name), r;

	if (kept < 0)
		return kept;
	if (kept && !privileged(c->core))
		return -EPERM;
	r = set ? SC5(nr, file, name, c->a[2], c->a[3], c->a[4]) : SC2(nr, file, name);
	/* A file system without such attributes: what only privilege could use is not missed. */
	return kept && set && r == -EOPNOTSUPP ? 0 : r;
}

static long by_path(struct call *c, bool set, long nr, bool follow)
{
	struct place *p = &c->w->a;
	long r = target(c, AT_FDCWD, (void *)c->a[0], follow ? 0 : AT_SYMLINK_NOFOLLOW, p);

	if (r < 0)
		return r;
	one_piece(p);
	return change(c, set, p->magic ? nr - 1 : nr, (unsigned long)p->host);
}

long call_setxattr(struct call *c) { return by_path(c, true, __NR_lsetxattr, true); }
long call_lsetxattr(struct call *c) { return by_path(c, true, __NR_lsetxattr, false); }
long call_removexattr(struct call *c) { return by_path(c, false, __NR_lremovexattr, true); }
long call_lremovexattr(struct call *c) { return by_path(c, false, __NR_lremovexattr, false); }

static long by_fd(struct call *c, bool set, long path_nr)
{
	struct place *p = &c->w->a;
	long r = (int)c->a[0] < 0 ? -EBADF : fd_place(c, (int)c->a[0], p);

	if (r < 0)
		return r;
	if (!r)
		return change(c, set, c->nr, c->a[0]);
	r = for_change(c, p);
	if (r)
		return r;
	one_piece(p);
	return change(c, set, path_nr, (unsigned long)p->host);
}

long call_fsetxattr(struct call *c) { return by_fd(c, true, __NR_lsetxattr); }
long call_fremovexattr(struct call *c) { return by_fd(c, false, __NR_lremovexattr); }

/* ---- reading ------------------------------------------------------------------------------------------ */

static long find_read(struct call *c, bool follow)
{
	struct place *p = &c->w->a;
	long r = resolve(c, AT_FDCWD, (void *)c->a[0], 0, p);

	if (!r && (follow || p->slash || p->self || p->magic || (p->kind == IN_MERGED && !p->raw)))
		r = find(c, AT_FDCWD, (void *)c->a[0], follow ? FOLLOW : 0, p);
	if (!r)
		one_piece(p);
	return r;
}

static long get(struct call *c, long nr, unsigned long file)
{
	char name[NAME_ROOM];
	long kept = host_name(c, (void *)c->a[1], name);

	if (kept < 0)
		return kept == -EPERM ? -ENODATA : kept;
	return SC4(nr, file, name, c->a[2], c->a[3]);
}

/* The names of a list as the guest should see them, in place; their size. */
static size_t show_names(const struct core *k, char *list, size_t n)
{
	size_t out = 0, len;

	for (size_t at = 0; at < n; at += len) {
		const char *s = list + at;

		len = strlen(s) + 1;
		if (str_starts(s, "user.overlay."))
			continue;
		if (str_starts(s, KEPT)) {
			size_t skip = sizeof KEPT - 1;

			memmove(list + out, s + skip, len - skip);
			out += len - skip;
			continue;
		}
		if (k->plan->options & OPT_FAKE_ROOT && (str_starts(s, "security.") || str_starts(s, "trusted.")))
			continue; /* the host's, which get would not find */
		memmove(list + out, s, len);
		out += len;
	}
	return out;
}

static long list(struct call *c, long nr, unsigned long file)
{
	char *buf = c->w->rest, *more = NULL;
	size_t size = sizeof c->w->rest;
	long r = SC3(nr, file, buf, size);

	if (r == -ERANGE) {
		more = sys_mmap(NULL, LIST_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (is_error((long)more))
			return -ENOMEM;
		buf = more;
		r = SC3(nr, file, buf, LIST_ROOM);
	}
	if (r > 0)
		r = (long)show_names(c->core, buf, (size_t)r);
	if (r > 0 && c->a[2])
		r = (unsigned long)r > c->a[2] ? -ERANGE : guest_write((void *)c->a[1], buf, (size_t)r) ? -EFAULT : r;
	if (more)
		sys_munmap(more, LIST_ROOM);
	return r;
}

static long read_path(struct call *c, long (*how)(struct call *, long, unsigned long), long nr, bool follow)
{
	struct place *p = &c->w->a;
	long r = find_read(c, follow);

	return r ? r : how(c, p->magic ? nr - 1 : nr, (unsigned long)p->host);
}

long call_getxattr(struct call *c) { return read_path(c, get, __NR_lgetxattr, true); }
long call_lgetxattr(struct call *c) { return read_path(c, get, __NR_lgetxattr, false); }
long call_listxattr(struct call *c) { return read_path(c, list, __NR_llistxattr, true); }
long call_llistxattr(struct call *c) { return read_path(c, list, __NR_llistxattr, false); }
long call_fgetxattr(struct call *c) { return get(c, c->nr, c->a[0]); }
long call_flistxattr(struct call *c) { return list(c, c->nr, c->a[0]); }
