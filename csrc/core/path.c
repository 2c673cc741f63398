/* From a guest's words to a place on the host, with exactly a chroot's rules.
 *
 * The quick ways come first: a single name relative to a directory whose kind is remembered goes to the kernel as it
 * is, and the directory part of a longer path is looked up as one text. What is left is walked name by name. The
 * last name is not looked at unless it must be followed: callers try with O_NOFOLLOW first and come back with
 * FOLLOW when it was a link, which saves most lstats.
 */
#include "core/core.h"

#include <linux/openat2.h>

#define SCOPED (RESOLVE_BENEATH | RESOLVE_IN_ROOT)

size_t decimal(char *to, uint64_t v)
{
	char digits[24];
	size_t n = 0, i = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		to[i++] = digits[--n];
	to[i] = 0;
	return i;
}

void close_later(struct call *c, long fd)
{
	if (fd >= 0 && c->w->n_fds < (int)ARRAY_LEN(c->w->fds))
		c->w->fds[c->w->n_fds++] = (int)fd;
}

void one_piece(struct place *p)
{
	char head[40] = "/proc/self/fd/";
	size_t n, k;

	if (p->dfd == AT_FDCWD)
		return;
	n = strlen(p->host);
	k = 14 + decimal(head + 14, (unsigned)p->dfd);
	head[k++] = '/';
	if (n + k >= HOST_MAX)
		return; /* the kernel will say ENAMETOOLONG */
	memmove(p->host + k, p->host, n + 1);
	memcpy(p->host, head, k);
	p->dfd = AT_FDCWD;
}

/* A host path beyond the kernel's limit is entered in two steps. */
static void shorten(struct call *c, struct place *p, size_t n)
{
	while (n >= GUEST_MAX) {
		size_t cut = GUEST_MAX - 1;
		long fd;

		while (cut && p->host[cut] != '/')
			cut--;
		if (!cut)
			return; /* the kernel will say ENAMETOOLONG */
		p->host[cut] = 0;
		fd = sys_openat(p->dfd, p->host, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		p->host[cut] = '/';
		if (fd < 0)
			return;
		close_later(c, fd);
		p->dfd = (int)fd;
		memmove(p->host, p->host + cut + 1, n - cut);
		n -= cut + 1;
	}
}

void place_host(struct call *c, struct place *p, enum layer layer)
{
	if (p->raw || (p->direct && p->layer == layer))
		return;
	p->direct = false;
	p->layer = (uint8_t)layer;
	p->dfd = AT_FDCWD;
	shorten(c, p, host_path(c->core, p->mount, layer, p->guest, p->len, p->host));
}

long near_stat(struct core *k, struct place *p)
{
	const char *name;
	int dfd = near(k, p, &name);
	long r = sys_fstatat(dfd, name, &p->st, AT_SYMLINK_NOFOLLOW);

	return NEAR_LOST(k, r) ? sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW) : r;
}

long lookup(struct call *c, struct place *p)
{
	long r;

	p->found = false;
	place_host(c, p, p->mounted ? LAYER_PLAIN : first_layer(p));
	r = near_stat(c->core, p);
	if (p->kind == IN_MERGED && !p->raw && !p->self && !p->mounted) {
		if (!r && is_whiteout(&p->st))
			return -ENOENT;
		if (r == -ENOENT && !lower_has(c, p, &p->st))
			return r;
		if (r == -ENOENT) {
			place_host(c, p, LAYER_LOWER);
			r = 0;
		}
	}
	p->found = !r;
	return r;
}

/* ---- the quick ways ----------------------------------------------------------------------------------- */

static void fresh(struct place *p)
{
	p->dfd = AT_FDCWD;
	p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->direct = p->magic = p->locked = false;
	p->dead = LIVES;
}

/* Appends the last name; whether it fits. */
static bool append(struct place *p, const char *name, size_t n)
{
	if (p->len + n + 1 >= GUEST_MAX)
		return false;
	p->guest[p->len] = '/';
	memcpy(p->guest + p->len + 1, name, n);
	p->len += (uint16_t)(n + 1);
	p->guest[p->len] = 0;
	return true;
}

static void at_mount(struct call *c, struct place *p)
{
	int m = mount_at(c->core, p->guest, p->len);

	if (m < 0)
		return;
	p->mount = (uint8_t)m;
	p->mounted = true;
	p->direct = false;
	p->kind = IN_PLAIN;
}

/* The directory `path` below dfd, from the cache. Where all of it is one layer of one mount, or dfd itself is the lower's
 * directory and what is looked for is there alone, and no link is crossed, the kernel may walk from dfd (p->direct). -1: must be walked. */
static int below(struct call *c, int dfd, const char *path, size_t n, struct place *p)
{
	struct core *k = c->core;
	char *text = c->w->text;
	struct place *base = &c->w->c;
	uint32_t generation = k->plan->generation;
	uint64_t dev, ino;
	size_t len;
	int inside;

	if (base_quick(c, dfd, p) < 0 || p->raw || !(k->plan->mounts[p->mount].flags & MOUNT_CACHE))
		return -1;
	len = p->len;
	memcpy(text, p->guest, len);
	text[len++] = '/';
	memcpy(text + len, path, n);
	len += n;
	base->kind = p->kind == IN_MERGED && p->layer == LAYER_LOWER ? IN_LOWER : p->kind;
	base->mount = p->mount;
	inside = cache_text(k, text, len, p);
	fresh(p);
	if (inside >= 0 && base->kind == p->kind && base->mount == p->mount && p->kind != IN_MERGED && p->len == len &&
	    !memcmp(p->guest, text, len)) {
		p->direct = true;
		p->dfd = dfd;
		if (!inside && !p->mount && note_get(k, dfd, &dev, &ino) && !cache_below(k, dev, ino, path, n))
			cache_keep_below(k, generation, dev, ino, path, n);
	} else if (dfd != AT_FDCWD && inside >= 0) { /* the path is used without the descriptor: is it what was noted? */
		struct stat *st = &base->st;

		if (note_get(k, dfd, &dev, &ino) && (sys_fstatat(dfd, "", st, AT_EMPTY_PATH) || st->st_dev != dev || st->st_ino != ino))
			return -1;
	}
	return inside;
}

/* 1: p is the place. 0: must be walked. */
static long quick(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	struct core *k = c->core;
	const char *name = path + n;
	size_t dir, len;
	int inside;

	while (name > path && name[-1] != '/')
		name--;
	len = (size_t)(path + n - name);
	if (!len || len > 255 || (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'))))
		return 0;
	if (name == path) {
		if (flags & NAMELESS && !judged(k) && !(k->plan->options & OPT_RECORD_BY_PATH) && note_quiet(k, dfd, &p->mount, &p->kind)) {
			fresh(p);
			p->dfd = dfd;
			p->direct = true;
			p->len = 0;
			p->layer = (uint8_t)first_layer(p);
			memcpy(p->host, path, n + 1);
			return 1;
		}
		inside = (int)(judged(k) ? base_dir(c, dfd, p) : base_quick(c, dfd, p));
		if (inside < 0)
			return inside;
		if (judged(k)) {
			long r = may_search_fd(c, p, dfd);
			if (r)
				return r;
		}
		if (p->dead)
			return -ENOENT;
		if (p->raw) {
			memcpy(p->host, path, n + 1);
			return 1;
		}
		if (k->plan->mounts[p->mount].flags & MOUNT_PROC)
			return 0;
	} else {
		if (k->root_len || judged(k))
			return 0;
		fresh(p);
		dir = (size_t)(name - path - 1);
		if (path[0] == '/') {
			inside = cache_text(k, path, dir, p);
		} else {
			inside = below(c, dfd, path, dir, p);
		}
		if (inside < 0)
			return 0;
		if (p->direct && !inside) {
			if (!append(p, name, len))
				return 0;
			p->layer = (uint8_t)first_layer(p);
			memcpy(p->host, path, n + 1);
			return 1;
		}
		p->direct = false; /* the descriptor is not of the directory that holds the name */
	}
	if (!append(p, name, len))
		return 0;
	if (inside)
		at_mount(c, p);
	if (p->mounted) {
		place_host(c, p, LAYER_PLAIN);
	} else if (p->direct && p->kind != IN_MERGED) {
		p->layer = (uint8_t)first_layer(p);
		memcpy(p->host, name, len + 1);
	} else {
		p->direct = false;
		place_host(c, p, first_layer(p));
	}
	return 1;
}

/* ---- the walk ----------------------------------------------------------------------------------------- */

struct walk {
	char *rest;     /* what is left, in w->rest */
	int links;
	uint32_t generation;
	bool keep;      /* the directory part as given may be remembered */
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
	const char *name;
	int from;
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
	from = near(c->core, p, &name);
	r = sys_readlinkat(from, name, link, GUEST_MAX - 1);
	if (NEAR_LOST(c->core, r))
		r = sys_readlinkat(p->dfd, p->host, link, GUEST_MAX - 1);
	if (r < 0)
		return r;
	link[r] = 0;
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

/* Takes one name into p. `last` and `follow_it` as they stand. 1: the walk is over. */
static long step(struct call *c, struct walk *w, struct place *p, const char *name, size_t n, bool last, bool follow_it)
{
	struct core *k = c->core;
	long r;

	if (n > 255)
		return -ENAMETOOLONG;
	if (!append(p, name, n))
		return -ENAMETOOLONG;
	p->direct = p->found = false;
	at_mount(c, p);
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
	if (k->plan->mounts[p->mount].flags & MOUNT_CACHE)
		bloom_add(k, name, n);
	else
		w->keep = false;
	if (last && !follow_it)
		return 1;
	if (!last && !k->root_len && !c->how && !judged(k) && k->plan->mounts[p->mount].flags & MOUNT_CACHE &&
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
	if (k->plan->mounts[p->mount].flags & MOUNT_CACHE && !k->root_len && !c->how)
		cache_keep_text(k, w->generation, p->guest, p->len, p, mounts_inside(k, p->guest, p->len));
	return 0;
}

static void here(struct call *c, struct place *p)
{
	p->self = true;
	p->found = false;
	p->mounted = p->len == 0 || mount_at(c->core, p->guest, p->len) >= 0;
	place_host(c, p, first_layer(p));
}

static long walk(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p);

/* Names relative to a directory that has no path (p, behind dfd): taken one by one, by descriptors. As soon as
 * one is reached that has a path the walk goes on there. */
static long walk_raw(struct call *c, int dfd, unsigned flags, struct place *p)
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
				memmove(buf, s, strlen(s) + 1);
				r = r < 0 ? r : walk(c, (int)at, *buf ? buf : ".", *buf ? strlen(buf) : 1, flags, p);
				p->dotdot |= last;
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
	return walk_raw(c, (int)fd, flags, p);
}

static long walk(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	struct core *k = c->core;
	struct walk w = { .rest = c->w->rest, .generation = k->plan->generation, .keep = !k->root_len && !c->how && !judged(k) };
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
			return c->how & ~(unsigned)RESOLVE_CACHED ? -ENOSYS : walk_raw(c, dfd, flags, p);
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
			continue;
		}
		if (name[0] == '.' && name[1] == '.' && end - name == 2) {
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

long resolve_text(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	long r;

	if (n == 0)
		return -ENOENT;
	r = c->how ? 0 : quick(c, dfd, path, n, flags, p);
	if (r < 0)
		return r;
	if (r && (!(flags & FOLLOW) || p->mounted))
		return 0;
	if (r && !p->raw) {
		r = lookup(c, p);
		if (r || (p->st.st_mode & S_IFMT) != S_IFLNK)
			return r == -ENOENT ? 0 : r;
	}
	if (r) { /* raw: a link is followed by its text */
		r = sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW);
		if (r || (p->st.st_mode & S_IFMT) != S_IFLNK)
			return 0;
		if (++c->hops > MAX_LINKS)
			return -ELOOP;
		r = sys_readlinkat(p->dfd, p->host, c->w->link, GUEST_MAX - 1);
		if (r < 0)
			return r;
		c->w->link[r] = 0;
		return resolve_text(c, dfd, c->w->link, (size_t)r, flags, p);
	}
	return walk(c, dfd, path, n, flags, p);
}

long resolve(struct call *c, int dfd, const void *path, unsigned flags, struct place *p)
{
	long n = guest_str(c->w->path, path, GUEST_MAX);

	if (n < 0)
		return n;
	return resolve_text(c, dfd, c->w->path, (size_t)n, flags, p);
}

static long must_exist(struct call *c, struct place *p, unsigned flags)
{
	long r = 0;

	if (p->magic) {
		r = sys_fstatat(p->dfd, p->host, &p->st, flags & FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW);
		p->found = !r;
		return r;
	}
	if (!p->found)
		r = lookup(c, p);
	if (!r && p->slash && (p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	return r;
}

long find(struct call *c, int dfd, const void *path, unsigned flags, struct place *p)
{
	long r = resolve(c, dfd, path, flags, p);

	return r ? r : must_exist(c, p, flags);
}

long find_text(struct call *c, int dfd, const char *path, unsigned flags, struct place *p)
{
	long r = resolve_text(c, dfd, path, strlen(path), flags, p);

	return r ? r : must_exist(c, p, flags);
}
