/* From a guest's words to a place on the host, name by name: what the quick ways of path.c leave.
 *
 * The directories on the way are remembered as they are found, and the directory part as it was given. Below a directory
 * that has no path the names are taken by descriptors.
 */
#include "core/place.h"

#include <linux/openat2.h>

#define SCOPED (RESOLVE_BENEATH | RESOLVE_IN_ROOT)

struct walk {
	char *rest;     /* what is left, in w->rest */
	int links;
	uint32_t generation;
	bool keep;      /* the directory part as given may be remembered */
	bool all;       /* where the last name leads, too */
};

static void to_root(const struct call *c, struct place *p)
{
	bool scoped = c->how & RESOLVE_IN_ROOT;

	p->len = scoped ? c->scope_len : c->core->root_len;
	memcpy(p->guest, scoped ? c->scope : c->core->root, p->len);
	p->guest[p->len] = 0;
}

/* Puts the target of a link in front of what is left. */
static long splice(struct call *c, struct walk *w, struct place *p, const char *target, size_t n)
{
	char *buf = c->w->rest;
	size_t left = strlen(w->rest);

	if (++w->links > MAX_LINKS)
		return -ELOOP;
	if (!n)
		return -ENOENT;
	if (n + left + 2 > sizeof c->w->rest)
		return -ENAMETOOLONG;
	memmove(buf + n + (left ? 1 : 0), w->rest, left + 1);
	memcpy(buf, target, n);
	if (left)
		buf[n] = '/';
	w->rest = buf;
	if (target[0] == '/') {
		if (c->how & RESOLVE_BENEATH || (c->how & RESOLVE_NO_XDEV && p->mount))
			return -EXDEV;
		to_root(c, p);
	} else {
		while (p->len && p->guest[p->len - 1] != '/')
			p->len--;
		if (p->len)
			p->len--;
	}
	p->guest[p->len] = 0;
	return enter(c, p);
}

/* Reads the link at p (found) and splices it. 1: only the kernel can follow it. */
static long follow(struct call *c, struct walk *w, struct place *p, bool last)
{
	char *link = c->w->link;
	long r;

	if (c->how & RESOLVE_NO_SYMLINKS)
		return -ELOOP;
	if (c->core->plan->mounts[p->mount].flags & MOUNT_PROC) {
		w->keep = false;
		if (c->how && proc_is_magic(c, p))
			return c->how & RESOLVE_NO_MAGICLINKS ? -ELOOP : -EXDEV;
		r = proc_magic(c, p, last);
		if (r <= 0)
			return r ? r : 1;
		return splice(c, w, p, link, (size_t)r);
	}
	r = near_readlink(c->core, p, link);
	if (r < 0)
		return r;
	return splice(c, w, p, link, (size_t)r);
}

static long up(struct call *c, struct place *p)
{
	if (c->how & SCOPED && p->len == c->scope_len)
		return c->how & RESOLVE_IN_ROOT ? 0 : -EXDEV;
	if (p->len <= c->core->root_len)
		return 0;
	if (c->how & RESOLVE_NO_XDEV && mount_at(c->core, p->guest, p->len) >= 0)
		return -EXDEV;
	while (p->guest[p->len - 1] != '/')
		p->len--;
	p->guest[--p->len] = 0;
	return 0;
}

/* What is looked up in a directory without asking the kernel, ".." and mount points: -EACCES where the directory lets nobody
 * through. Where several users are emulated, and for guest root, that is judged elsewhere. */
static long closed(struct call *c, struct place *p)
{
	struct stat st;

	if (keeps_bits(c->core) || p->raw)
		return 0;
	place_host(c, p, first_layer(p));
	if (sys_faccessat(p->dfd, p->host, X_OK) != -EACCES)
		return 0;
	return sys_fstatat(p->dfd, p->host, &st, 0) ? 0 : -EACCES; /* the former: one above is closed, to which we came from below */
}

/* The same of the directory with the mount point that p is. */
static long closed_above(struct call *c, struct place *p, size_t len, uint8_t mount, uint8_t kind)
{
	const uint16_t whole = p->len;
	const uint8_t own_mount = p->mount, own_kind = p->kind;
	const char next = p->guest[len];
	long r;

	p->len = (uint16_t)len, p->mount = mount, p->kind = kind, p->mounted = false, p->guest[len] = 0;
	r = closed(c, p);
	p->len = whole, p->mount = own_mount, p->kind = own_kind, p->mounted = true, p->guest[len] = next;
	return r;
}

/* Takes one name into p. `last` and `follow_it` as they stand. 1: the walk is over. */
static long step(struct call *c, struct walk *w, struct place *p, const char *name, size_t n, bool last, bool follow_it)
{
	struct core *k = c->core;
	const size_t len = p->len;
	const uint8_t mount = p->mount, kind = p->kind;
	const int held = c->w->n_fds;
	long r;

	if (n > 255)
		return -ENAMETOOLONG;
	if (!append(p, name, n))
		return -ENAMETOOLONG;
	p->direct = p->found = false;
	at_mount(c, p);
	if (p->mounted && !keeps_bits(k) && closed_above(c, p, len, mount, kind))
		return -EACCES;
	if (p->mounted && c->how & RESOLVE_NO_XDEV)
		return -EXDEV;
	if (p->mounted) {
		w->keep = w->keep && k->plan->mounts[p->mount].flags & MOUNT_CACHE;
		if (last)
			return place_host(c, p, LAYER_PLAIN), 1;
		if (k->plan->mounts[p->mount].flags & MOUNT_FILE)
			return -ENOTDIR;
		p->mounted = false;
		if (k->plan->mounts[p->mount].flags & MOUNT_UNION)
			p->kind = IN_MERGED;
		return 0;
	}
	if (!(k->plan->mounts[p->mount].flags & MOUNT_CACHE)) /* each directory for itself */
		w->keep = false;
	if (remembers(k, p->mount) && (!last || w->all)) /* else nothing is remembered that went through it: files come and go */
		bloom_add(k, name, n);
	if (last && !follow_it)
		return 1;
	if (!last && !k->root_len && !c->how && !judged(k) && remembers(k, p->mount) &&
	    cache_text(k, p->guest, p->len, p) >= 0)
		return 0;
	r = lookup(c, p);
	if (r == -ENOENT && last)
		return 1;
	if (r)
		return r;
	if ((p->st.st_mode & S_IFMT) == S_IFLNK) {
		r = follow(c, w, p, last);
		if (r <= 0)
			return r;
		if (!last)
			return -ENOENT;
		p->magic = true;
		return 1;
	}
	if (last)
		return 1;
	if ((p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	if (judged(k)) {
		r = may_search(c, p);
		if (r)
			return r;
	}
	p->kind = (uint8_t)kind_below(c, p);
	if (remembers(k, p->mount) && !k->root_len && !c->how)
		cache_keep_text(k, w->generation, p->guest, p->len, p, mounts_inside(k, p->guest, p->len));
	close_since(c, held); /* the next name's place is told anew */
	return 0;
}

static void here(struct call *c, struct place *p)
{
	p->self = true;
	p->found = false;
	p->mounted = p->len == 0 || mount_at(c->core, p->guest, p->len) >= 0;
	place_host(c, p, first_layer(p));
}

/* A directory above the one that a path is relative to may have been closed to the caller: the kernel lets whoever stands
 * below go on. So the names are taken from there, if all of them are of one layer and one mount. `self`: it is itself what is looked for. */
static bool from_below(struct call *c, int dfd, bool self, struct place *p)
{
	const struct core *k = c->core;

	if (c->how || judged(k) || base_dir(c, dfd, p) < 0 || p->raw || k->plan->mounts[p->mount].flags & MOUNT_PROC)
		return false;
	if (!self && (p->kind == IN_MERGED || mounts_below(k, p->guest, p->len)))
		return false;
	p->locked = readonly(c, p) || p->kind == IN_LOWER || (p->kind == IN_MERGED && p->layer == LAYER_LOWER);
	p->raw = true;
	p->kind = IN_PLAIN;
	return true;
}

/* Names relative to a directory that has no path (p, behind dfd): taken one by one, by descriptors. As soon as
 * one is reached that has a path the walk goes on there, unless that path is closed. */
static long walk_raw(struct call *c, int dfd, unsigned flags, struct place *p, bool closed)
{
	char *buf = c->w->rest, *s = buf;
	long at = dfd, next, r = 0;

	for (;;) {
		char *name, *end;
		bool last, slash, up;

		while (*s == '/')
			s++;
		for (name = s; *s && *s != '/';)
			s++;
		for (end = s; *s == '/';)
			s++;
		last = !*s;
		slash = last && *end;
		up = end - name == 2 && !memcmp(name, "..", 2);
		if (end - name == 1 && *name == '.') {
			p->dot = last;
			if (!last)
				continue;
			end = name;
		}
		if (last && end == name) { /* the directory itself */
			p->self = true;
			p->dfd = (int)at;
			memcpy(p->host, ".", 2);
			break;
		}
		memcpy(p->host, name, (size_t)MIN(end - name, 256));
		p->host[MIN(end - name, 256)] = 0;
		if (last && !up && !(slash ? !(flags & KEEP_SLASH) : flags & FOLLOW)) {
			p->slash = slash;
			p->dfd = (int)at;
			break;
		}
		next = sys_openat((int)at, p->host, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
		if (next == -ENOENT && last) {
			p->slash = slash;
			p->dfd = (int)at;
			break;
		}
		r = next < 0 ? next : sys_fstat((int)next, &p->st);
		if (!r && (p->st.st_mode & S_IFMT) == S_IFLNK) {
			char *link = c->w->link;
			size_t left = strlen(s);

			r = ++c->hops > MAX_LINKS ? -ELOOP : sys_readlinkat((int)next, "", link, GUEST_MAX - 1);
			sys_close((int)next);
			if (r >= 0 && (size_t)r + left + 2 > sizeof c->w->rest)
				r = -ENAMETOOLONG;
			if (r <= 0) {
				r = r ? r : -ENOENT;
				break;
			}
			memmove(buf + r + 1, s, left + 1);
			memcpy(buf, link, (size_t)r);
			buf[r] = left || slash ? '/' : 0;
			s = buf;
			if (link[0] == '/') {
				if (at != dfd)
					sys_close((int)at);
				return walk(c, AT_FDCWD, buf, strlen(buf), flags, p);
			}
			r = 0;
			continue;
		}
		if (!r && last && !up && !slash) { /* no link */
			sys_close((int)next);
			p->dfd = (int)at;
			break;
		}
		if (!r && (p->st.st_mode & S_IFMT) != S_IFDIR)
			r = -ENOTDIR;
		if (r) {
			if (next >= 0)
				sys_close((int)next);
			break;
		}
		if (at != dfd)
			sys_close((int)at);
		at = next;
		if (up) {
			r = base_dir(c, (int)at, p);
			if (r >= 0 && p->dead)
				r = -ENOENT;
			if (r < 0 || !p->raw) {
				if (closed && r >= 0 && from_below(c, (int)at, last, p)) {
					p->dotdot = last;
					r = 0;
					continue;
				}
				p->dotdot = last;
				if (r < 0)
					break;
				if (last) { /* not ".", which a closed directory does not let be looked up */
					p->direct = false;
					r = 0;
					here(c, p);
					break;
				}
				memmove(buf, s, strlen(s) + 1);
				r = walk(c, (int)at, buf, strlen(buf), flags, p);
				break;
			}
			p->dotdot = last;
			r = 0;
		}
	}
	if (at != dfd)
		close_later(c, at);
	return r;
}

/* Beyond what a path can tell: a name relative to a directory far down. p is the directory reached so far. */
static long walk_on(struct call *c, const char *left, unsigned flags, struct place *p)
{
	enum layer layer = first_layer(p);
	long fd;

	memmove(c->w->rest, left, strlen(left) + 1);
	p->direct = false;
	place_host(c, p, layer);
	fd = sys_openat(p->dfd, p->host, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	close_later(c, fd);
	p->locked = readonly(c, p) || layer == LAYER_LOWER;
	p->raw = true;
	p->found = false;
	p->kind = IN_PLAIN;
	return walk_raw(c, (int)fd, flags, p, false);
}

static long walk_names(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	struct core *k = c->core;
	struct walk w = { .rest = c->w->rest, .links = c->hops, .generation = k->plan->generation, .keep = !k->root_len && !c->how && !judged(k), .all = flags & REMEMBERED };
	bool absolute = path[0] == '/';
	char *joined = c->w->key;
	const char *key = path; /* of the directory part */
	size_t dir = n;
	long r;

	while (dir && path[dir - 1] == '/')
		dir--;
	while (dir && path[dir - 1] != '/')
		dir--;
	dir -= dir > 0;
	memmove(w.rest, path, n + 1);
	fresh(p);
	if (absolute) {
		if (c->how & RESOLVE_BENEATH)
			return -EXDEV;
		to_root(c, p);
		r = enter(c, p);
	} else {
		r = base_dir(c, dfd, p);
		if (r >= 0 && judged(k) && may_search_fd(c, p, dfd))
			return -EACCES;
		w.keep = r >= 0 && w.keep && dir && !p->raw && k->plan->mounts[p->mount].flags & MOUNT_CACHE && p->len + 1 + dir <= sizeof c->w->key;
		if (w.keep) {
			memcpy(joined, p->guest, p->len);
			joined[p->len] = '/';
			memcpy(joined + p->len + 1, path, dir);
			dir += p->len + 1U;
			key = joined;
		}
		p->direct = false;
		if (r >= 0 && p->raw && !p->dead)
			return c->how & ~(unsigned)RESOLVE_CACHED ? -ENOSYS : walk_raw(c, dfd, flags, p, false);
		if (r >= 0 && p->dead) {
			while (w.rest[0] == '/' || (w.rest[0] == '.' && (w.rest[1] == '/' || !w.rest[1])))
				w.rest++;
			if (!w.rest[0]) {
				p->self = p->dot = true;
				memcpy(p->host, ".", 2);
				return 0;
			}
			if (p->dead == FOREIGN || w.rest[0] != '.' || w.rest[1] != '.' || (w.rest[2] && w.rest[2] != '/'))
				return -ENOENT;
			if (!keeps_bits(k) && sys_faccessat(dfd, ".", X_OK) == -EACCES)
				return -EACCES;
			p->dead = LIVES; /* what was above it, as the kernel remembers it */
		}
	}
	if (r < 0)
		return r;
	for (;;) {
		char *name, *end, *next;
		bool last, follow_it;

		for (name = w.rest; *name == '/';)
			name++;
		if (!*name)
			return here(c, p), 0;
		for (end = name; *end && *end != '/';)
			end++;
		for (next = end; *next == '/';)
			next++;
		last = !*next;
		w.rest = end;
		if (name[0] == '.' && end - name == 1) {
			p->slash = false;
			p->dot = last;
			r = last ? closed(c, p) : 0; /* else the next name tells */
			if (r)
				return r;
			continue;
		}
		if (name[0] == '.' && name[1] == '.' && end - name == 2) {
			r = closed(c, p);
			if (!r)
				r = up(c, p);
			if (!r)
				r = enter(c, p);
			if (r)
				return r;
			if (last)
				p->dotdot = true;
			continue;
		}
		p->slash = last && *end == '/';
		follow_it = p->slash ? !(flags & KEEP_SLASH) : flags & FOLLOW;
		/* Before the last name: what was walked so far is the directory part, if no link moved us on. */
		if (last && w.keep) {
			cache_keep_text(k, w.generation, key, dir, p, mounts_inside(k, p->guest, p->len));
			w.keep = false;
		}
		if (p->len + (size_t)(end - name) + 1 >= GUEST_MAX && end - name < 256)
			return walk_on(c, name, flags, p);
		r = step(c, &w, p, name, (size_t)(end - name), last, follow_it);
		if (r < 0)
			return r;
		if (r)
			break;
	}
	if (!p->found && !p->mounted && !p->magic)
		place_host(c, p, first_layer(p));
	return 0;
}

long walk_from_below(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	if (path != c->w->path || path[0] == '/' || !from_below(c, dfd, false, p))
		return -EACCES;
	memmove(c->w->rest, path, n + 1);
	return walk_raw(c, dfd, flags, p, true);
}

long walk(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	long r = walk_names(c, dfd, path, n, flags, p);

	return r == -EACCES ? walk_from_below(c, dfd, path, n, flags, p) : r;
}
