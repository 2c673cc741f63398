/* Directories: of which kind one is, which one a descriptor is, and what may be remembered about it. */
#include "core/core.h"

/* Which kind the directory is that was just found below one of kind `above`. */
enum kind kind_below(struct call *c, const struct place *p)
{
	if (p->kind != IN_MERGED)
		return p->kind;
	return p->layer == LAYER_LOWER ? IN_LOWER : upper_kind(c, p->guest, p->len, p->mount);
}

/* The kind of a directory known to exist, by its canonical path. */
long enter(struct call *c, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	const struct mount *m;
	struct place *t = &c->w->c;
	size_t n, from;

	p->mount = (uint8_t)mount_of(k, p->guest, p->len);
	m = &k->plan->mounts[p->mount];
	p->direct = p->raw = false;
	if (!(m->flags & MOUNT_UNION)) {
		p->kind = IN_PLAIN;
		return 0;
	}
	t->kind = IN_MERGED;
	t->mount = p->mount;
	t->raw = t->direct = t->self = t->mounted = false;
	for (n = 0; n < p->len && t->kind == IN_MERGED;) {
		for (from = n++; n < p->len && p->guest[n] != '/';)
			n++;
		if (!k->root_len && cache_text(k, p->guest, n, t) >= 0 && t->mount == p->mount)
			continue;
		memcpy(t->guest, p->guest, n);
		t->guest[n] = 0;
		t->len = (uint16_t)n;
		t->mount = p->mount;
		bloom_add(k, p->guest + from + 1, n - from - 1);
		if (lookup(c, t) || (t->st.st_mode & S_IFMT) != S_IFDIR)
			return -ENOENT;
		t->kind = (uint8_t)kind_below(c, t);
		if (!k->root_len)
			cache_keep_text(k, generation, t->guest, n, t, mounts_inside(k, t->guest, n));
	}
	p->kind = t->kind;
	return 0;
}

/* Whoever renames or removes one of these must know that something is remembered. */
static void add_names(struct core *k, const char *path, size_t n)
{
	for (size_t at = 1, end; at < n; at = end + 1) {
		for (end = at; end < n && path[end] != '/';)
			end++;
		bloom_add(k, path + at, end - at);
	}
}

long base_dir(struct call *c, int dfd, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	char *text = c->w->text;
	char link[40];
	enum layer layer;
	int mount, inside;
	long r;

	p->dfd = dfd;
	p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->magic = p->dead = false;
	p->direct = true;
	r = sys_fstatat(dfd, "", &p->st, AT_EMPTY_PATH);
	if (r == -ENOENT || r == -EINVAL) /* AT_EMPTY_PATH is younger than AT_FDCWD */
		r = dfd == AT_FDCWD ? sys_fstatat(dfd, ".", &p->st, 0) : sys_fstat(dfd, &p->st);
	if (r)
		return r;
	if ((p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	inside = cache_inode(k, p->st.st_dev, p->st.st_ino, p);
	if (inside >= 0 && k->plan->mounts[p->mount].flags & MOUNT_CACHE)
		return inside;
	if (dfd == AT_FDCWD) {
		r = sys_getcwd(text, HOST_MAX) - 1;
	} else {
		memcpy(link, "/proc/self/fd/", 14);
		decimal(link + 14, (unsigned)dfd);
		r = sys_readlinkat(AT_FDCWD, link, text, HOST_MAX);
	}
	p->raw = true;
	p->kind = IN_PLAIN;
	if (r < 0 || text[0] != '/' || p->st.st_nlink == 0)
		return 0;
	r = guest_path(k, text, (size_t)r, p->guest, &mount, &layer);
	if (r < 0)
		return 0;
	p->len = (uint16_t)r;
	if (enter(c, p)) {
		p->raw = p->direct = true;
		p->dead = layer == LAYER_LOWER && k->plan->mounts[mount].flags & MOUNT_UNION;
		return 0;
	}
	/* A lower directory that was deleted or replaced in the upper: only its own names are reachable. */
	p->raw = k->plan->mounts[mount].flags & MOUNT_UNION && layer == LAYER_LOWER && p->kind == IN_UPPER;
	p->direct = true;
	p->dead = p->raw;
	if (p->raw)
		return 0;
	inside = mounts_inside(k, p->guest, p->len);
	add_names(k, p->guest, p->len);
	cache_keep_inode(k, generation, p->st.st_dev, p->st.st_ino, p, inside);
	return inside;
}

long place_at(struct call *c, const char *text, size_t n, struct place *p)
{
	size_t dir = n;
	long r;

	while (dir && text[dir - 1] != '/')
		dir--;
	dir -= dir > 0;
	memmove(p->guest, text, n);
	p->guest[n] = 0;
	p->len = (uint16_t)dir;
	p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->direct = p->magic = false;
	r = enter(c, p);
	if (r)
		return r;
	p->len = (uint16_t)n;
	if (n == dir)
		p->self = true;
	else if (mount_at(c->core, p->guest, n) >= 0) {
		p->mount = (uint8_t)mount_at(c->core, p->guest, n);
		p->mounted = true;
		p->kind = IN_PLAIN;
	}
	return lookup(c, p);
}

void remember_dir(struct call *c, const struct place *p, int fd)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	struct place *t = &c->w->c;
	struct stat st;

	if (p->raw || p->self || p->mounted || p->slash || p->magic || !(k->plan->mounts[p->mount].flags & MOUNT_CACHE) ||
	    p->len > CACHE_TEXT || sys_fstat(fd, &st) || (st.st_mode & S_IFMT) != S_IFDIR)
		return;
	memcpy(t->guest, p->guest, p->len + 1U);
	t->len = p->len;
	t->mount = p->mount;
	t->kind = p->kind;
	t->layer = p->layer;
	t->kind = (uint8_t)kind_below(c, t);
	add_names(k, p->guest, p->len);
	if (k->plan->generation == generation)
		cache_keep_inode(k, generation, st.st_dev, st.st_ino, t, mounts_inside(k, t->guest, t->len));
}
