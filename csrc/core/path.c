/* From a guest's words to a place on the host, with exactly a chroot's rules.
 *
 * The quick ways come first: a single name relative to a directory whose kind is remembered goes to the kernel as it
 * is, and the directory part of a longer path is looked up as one text. What is left is walked name by name
 * (walk.c). The last name is not looked at unless it must be followed: callers try with O_NOFOLLOW first and come back with
 * FOLLOW when it was a link, which saves most lstats.
 */
#include "core/place.h"

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

void close_since(struct call *c, int n)
{
	while (c->w->n_fds > n)
		sys_close(c->w->fds[--c->w->n_fds]);
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

long near_readlink(struct core *k, const struct place *p, char *to)
{
	const char *name;
	int dfd = near(k, p, &name);
	long r = sys_readlinkat(dfd, name, to, GUEST_MAX);

	return NEAR_LOST(k, r) ? sys_readlinkat(p->dfd, p->host, to, GUEST_MAX) : r;
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

/* The directory `path` below dfd, from the cache. Where all of it is one layer of one mount, or dfd itself is the lower's
 * directory and what is looked for is there alone, and no link is crossed, the kernel may walk from dfd (p->direct).
 * -1: must be walked. */
static int below(struct call *c, int dfd, const char *path, size_t n, struct place *p)
{
	struct core *k = c->core;
	char *text = c->w->text;
	struct place *base = &c->w->c;
	uint32_t generation = k->plan->generation;
	struct note known;
	uint64_t dev, ino;
	size_t len;
	int inside;

	if (base_quick(c, dfd, p) < 0 || p->raw || !remembers(k, p->mount))
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
		if (!inside && note_get(k, dfd, &dev, &ino) && cache_below(k, dev, ino, path, n, &known) != KNOWN_WELL)
			cache_keep_below(k, generation, dev, ino, path, n, p);
	}
	if (dfd != AT_FDCWD && inside >= 0) { /* the path may be used without the descriptor: is it what was noted? */
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

	dir = begins_here(path);
	path += dir;
	n -= dir;
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
	if (p->mounted && !keeps_bits(k))
		return 0; /* may the caller go through what it is in? */
	if (p->mounted) {
		place_host(c, p, LAYER_PLAIN);
	} else if (p->direct && p->kind != IN_MERGED) {
		p->layer = (uint8_t)first_layer(p);
		memcpy(p->host, name, len + 1);
	} else {
		p->direct = false;
		place_host(c, p, first_layer(p));
	}
	if (flags & REMEMBERED)
		bloom_add(k, name, len);
	return 1;
}

/* What the link at p (found) stands for, in w->onward; its length. The link's directory is known: there is no need to walk
 * there again. */
static long lead_on(struct call *c, int *dfd, const struct place *p)
{
	char *to = c->w->onward;
	size_t dir = 0;
	long n;

	if (++c->hops > MAX_LINKS)
		return -ELOOP;
	n = near_readlink(c->core, p, c->w->link);
	if (n <= 0)
		return n ? n : -ENOENT;
	if (!p->raw) {
		*dfd = AT_FDCWD;
		for (dir = c->w->link[0] == '/' ? 0 : p->len; dir && p->guest[dir - 1] != '/';)
			dir--;
	}
	if (dir + (size_t)n >= GUEST_MAX)
		return -ENAMETOOLONG;
	memcpy(to, p->guest, dir);
	memcpy(to + dir, c->w->link, (size_t)n);
	to[dir + (size_t)n] = 0;
	return (long)dir + n;
}

long resolve_text(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p)
{
	const struct core *k = c->core;
	const char *text = path;
	size_t len = n;
	int from = dfd;
	bool led = false;
	long r;

	for (;;) {
		if (!len)
			return -ENOENT;
		r = c->how ? 0 : quick(c, from, text, len, flags, p);
		if (r < 0)
			break;
		if (!r) {
			r = walk(c, from, text, len, flags, p);
			break;
		}
		if (!(flags & FOLLOW) || p->mounted)
			return 0;
		r = p->raw ? sys_fstatat(p->dfd, p->host, &p->st, AT_SYMLINK_NOFOLLOW) : lookup(c, p);
		if (r == -EACCES && !p->raw) {
			r = walk_from_below(c, from, text, len, flags, p);
			break;
		}
		if (r || (p->st.st_mode & S_IFMT) != S_IFLNK)
			return r == -ENOENT || p->raw ? 0 : r;
		if (!p->raw && (nameless(p) || k->root_len || judged(k) || k->plan->mounts[p->mount].flags & MOUNT_PROC)) {
			r = walk(c, from, text, len, flags, p);
			break;
		}
		led = true;
		r = lead_on(c, &from, p);
		if (r < 0)
			break;
		text = c->w->onward;
		len = (size_t)r;
	}
	if (!led || (r != -EACCES && r != -ENAMETOOLONG))
		return r;
	c->hops = 0; /* the path as given may lead to where that of its directory does not */
	return walk(c, dfd, path, n, flags, p);
}

long resolve(struct call *c, int dfd, const void *path, unsigned flags, struct place *p)
{
	long n = guest_str(c->w->path, path, GUEST_MAX);

	if (n < 0)
		return n;
	while (flags & DIRECTORY && n > 1 && c->w->path[n - 1] == '/')
		c->w->path[--n] = 0;
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
	if (!p->found) {
		r = lookup(c, p);
		if (!r && flags & FOLLOW && (p->st.st_mode & S_IFMT) == S_IFLNK)
			return -ENOENT; /* as it was when the walk came there: the kernel is not to follow it */
	}
	if (!r && p->slash && (p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	return r;
}

long find(struct call *c, int dfd, const void *path, unsigned flags, struct place *p)
{
	long r = resolve(c, dfd, path, flags, p);

	if (!r)
		r = must_exist(c, p, flags);
	if (r == -EACCES && !p->raw) {
		r = walk_from_below(c, dfd, c->w->path, strlen(c->w->path), flags, p);
		if (!r)
			r = must_exist(c, p, flags);
	}
	return r;
}

long find_text(struct call *c, int dfd, const char *path, unsigned flags, struct place *p)
{
	long r = resolve_text(c, dfd, path, strlen(path), flags, p);

	return r ? r : must_exist(c, p, flags);
}
