/* Directories: of which kind one is, which one a descriptor is, and what may be remembered about it. */
#include "core/core.h"
#include "core/index.h"

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
	const int held = c->w->n_fds;
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
	t->raw = t->direct = t->self = t->mounted = t->magic = false;
	for (n = m->guest_len; n < p->len && t->kind == IN_MERGED;) {
		for (from = n++; n < p->len && p->guest[n] != '/';)
			n++;
		if (!k->root_len && cache_text(k, p->guest, n, t) >= 0 && t->mount == p->mount)
			continue;
		memcpy(t->guest, p->guest, n);
		t->guest[n] = 0;
		t->len = (uint16_t)n;
		t->mount = p->mount;
		bloom_add(k, p->guest + from + 1, n - from - 1);
		if (lookup(c, t) || (t->st.st_mode & S_IFMT) != S_IFDIR) {
			close_since(c, held);
			return -ENOENT;
		}
		t->kind = (uint8_t)kind_below(c, t);
		close_since(c, held);
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

/* Where the directory behind dfd is, as the host names it; w->text. */
static long path_of(struct call *c, int dfd)
{
	char link[40] = "/proc/self/cwd";

	if (dfd != AT_FDCWD) {
		memcpy(link, "/proc/self/fd/", 14);
		decimal(link + 14, (unsigned)dfd);
	}
	return sys_readlinkat(AT_FDCWD, link, c->w->text, HOST_MAX);
}

/* Deeper than a path can tell: the first directory above that has one tells what it belongs to. Eight names are less
 * than what is too much, so that the way up does not lead out of the container. */
static enum dead deep(struct call *c, int dfd, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	enum layer layer;
	long r, up, at = dfd;
	int mount;

	__atomic_store_n(&k->plan->deep, 1, __ATOMIC_SEQ_CST);
	do {
		up = sys_openat((int)at, "../../../../../../../..", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		if (at != dfd)
			sys_close((int)at);
		if (up < 0)
			return FOREIGN;
		at = up;
		r = path_of(c, (int)at);
	} while (r == -ENAMETOOLONG);
	sys_close((int)at);
	if (r <= 0 || c->w->text[0] != '/' || guest_path(k, c->w->text, (size_t)r, p->guest, &mount, &layer) < 0)
		return FOREIGN;
	p->locked = k->plan->mounts[mount].flags & MOUNT_RO || layer == LAYER_LOWER;
	p->len = 0;
	p->mount = (uint8_t)mount;
	p->kind = IN_DEEP;
	cache_keep_inode(k, generation, p->st.st_dev, p->st.st_ino, p, p->locked);
	return LIVES;
}

/* A directory of which there is no path (r says why): its kind of being without. */
static long pathless(struct call *c, int dfd, struct place *p, long r)
{
	enum layer layer;
	int mount;

	p->raw = p->direct = true;
	p->locked = false;
	if (r == -ENAMETOOLONG || r == -ERANGE) {
		p->dead = deep(c, dfd, p);
	} else {
		if (r == -ENOENT)
			r = path_of(c, dfd);
		p->locked = r <= 0; /* the kernel cannot tell: it may be the image's */
		if (r > 10 && p->st.st_nlink == 0 && !memcmp(c->w->text + r - 10, " (deleted)", 10))
			r -= 10;
		r = r > 0 && c->w->text[0] == '/' ? guest_path(c->core, c->w->text, (size_t)r, p->guest, &mount, &layer) : -1;
		p->dead = r < 0 ? FOREIGN : DEAD;
		p->locked = p->locked || (r >= 0 && layer == LAYER_LOWER); /* it lives: the first answer was wrong */
		p->len = (uint16_t)MAX(r, 0);
	}
	p->kind = IN_PLAIN;
	return 0;
}

long base_dir(struct call *c, int dfd, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation;
	enum layer layer;
	int mount, inside;
	long r;

	if (is_root_fd(k, dfd))
		return -EBADF;
	p->dfd = dfd;
	p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->magic = false;
	p->dead = LIVES;
	p->direct = true;
	r = sys_fstatat(dfd, "", &p->st, AT_EMPTY_PATH);
	if (r == -ENOENT || r == -EINVAL) /* AT_EMPTY_PATH is younger than AT_FDCWD */
		r = dfd == AT_FDCWD ? sys_fstatat(dfd, ".", &p->st, 0) : sys_fstat(dfd, &p->st);
	if (r)
		return r;
	if ((p->st.st_mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	inside = cache_inode(k, p->st.st_dev, p->st.st_ino, p);
	if (inside >= 0 && p->kind == IN_DEEP) {
		p->raw = true;
		p->locked = inside;
		p->kind = IN_PLAIN;
		return 0;
	}
	if (inside >= 0 && remembers(k, p->mount))
		return inside;
	r = dfd == AT_FDCWD ? sys_getcwd(c->w->text, HOST_MAX) : path_of(c, dfd);
	if (r > 0 && dfd == AT_FDCWD)
		r--;
	if (r <= 0 || c->w->text[0] != '/' || p->st.st_nlink == 0)
		return pathless(c, dfd, p, r);
	r = guest_path(k, c->w->text, (size_t)r, p->guest, &mount, &layer);
	if (r >= GUEST_MAX - 260) /* no room for a name */
		return pathless(c, dfd, p, -ENAMETOOLONG);
	p->kind = IN_PLAIN;
	p->len = (uint16_t)MAX(r, 0);
	if (r < 0 || enter(c, p)) {
		bool hidden = r >= 0 && layer == LAYER_LOWER && k->plan->mounts[mount].flags & MOUNT_UNION;

		p->raw = p->direct = true;
		p->locked = hidden;
		p->dead = hidden ? DEAD : FOREIGN;
		return 0;
	}
	/* A lower directory that was deleted or replaced in the upper: only its own names are reachable. */
	p->raw = k->plan->mounts[mount].flags & MOUNT_UNION && layer == LAYER_LOWER && p->kind == IN_UPPER;
	p->direct = true;
	p->locked = p->raw;
	p->dead = p->raw ? DEAD : LIVES;
	if (p->raw)
		return 0;
	inside = mounts_inside(k, p->guest, p->len);
	add_names(k, p->guest, p->len);
	p->layer = (uint8_t)layer;
	cache_keep_inode(k, generation, p->st.st_dev, p->st.st_ino, p, inside);
	return inside;
}

long base_quick(struct call *c, int dfd, struct place *p)
{
	struct core *k = c->core;
	uint32_t generation = k->plan->generation, begun;
	long r;

	if (note_get(k, dfd, &p->st.st_dev, &p->st.st_ino)) {
		r = cache_inode(k, p->st.st_dev, p->st.st_ino, p);
		if (r >= 0 && p->kind != IN_DEEP && remembers(k, p->mount) &&
		    (dfd == AT_FDCWD || (!r && p->kind != IN_MERGED))) {
			p->dfd = dfd;
			p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->magic = p->locked = false;
			p->dead = LIVES;
			p->direct = true;
			return r;
		}
	}
	begun = note_begin(k);
	r = base_dir(c, dfd, p);
	if (r >= 0 && !p->raw) {
		const struct mount *m = &k->plan->mounts[p->mount];
		struct note now = { .dev = p->st.st_dev, .ino = p->st.st_ino, .generation = generation, .mount = p->mount, .kind = p->kind };

		now.quiet = !r && p->kind != IN_MERGED && remembers(k, p->mount) && !(m->flags & MOUNT_PROC) && !mounts_below(k, p->guest, p->len);
		now.dir = now.quiet && p->kind == IN_LOWER && !p->mount ? index_dir(k, p->guest, p->len) : INDEX_NONE;
		note_set(k, dfd, &now, begun);
	}
	return r;
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

bool remember_begin(struct call *c, const struct place *p, struct note *now, uint32_t *begun)
{
	struct core *k = c->core;
	const struct mount *m;

	if (!k->notes || p->raw || p->self || p->mounted || p->slash || p->magic || p->len > CACHE_TEXT)
		return false;
	m = &k->plan->mounts[p->mount];
	if (!(m->flags & MOUNT_CACHE) && !(nameless(p) && remembers(k, p->mount)))
		return false;
	*now = (struct note){ .generation = k->plan->generation, .mount = p->mount, .kind = p->kind };
	if (nameless(p)) { /* below what is quiet */
		struct note above;

		bloom_add(k, p->host, strlen(p->host));
		now->quiet = true;
		if (p->kind == IN_LOWER && !p->mount && note_quiet_dir(k, p->dfd, &above))
			now->dir = index_below(k, above.dir, p->host, strlen(p->host));
	} else {
		/* The names above were added when what it is relative to was remembered. */
		const char *name = p->direct ? str_rchr(p->guest, '/') + 1 : NULL;

		if (name)
			bloom_add(k, name, strlen(name));
		else
			add_names(k, p->guest, p->len);
		now->quiet = p->kind != IN_MERGED && !(m->flags & MOUNT_PROC) && !mounts_below(k, p->guest, p->len);
	}
	*begun = note_begin(k) + 1; /* the opening itself drops a note */
	return true;
}

void remember_dir(struct call *c, const struct place *p, int fd, struct note *now, uint32_t begun)
{
	struct core *k = c->core;
	struct place *t = &c->w->c;
	struct stat *st = &t->st;

	if (!now->quiet) {
		if (sys_fstat(fd, st) || (st->st_mode & S_IFMT) != S_IFDIR)
			return;
		memcpy(t->guest, p->guest, p->len + 1U);
		t->len = p->len;
		t->mount = p->mount;
		t->kind = p->kind;
		t->layer = p->layer;
		t->kind = (uint8_t)kind_below(c, t);
		now->dev = st->st_dev;
		now->ino = st->st_ino;
		now->kind = t->kind;
		now->quiet = t->kind != IN_MERGED && !mounts_below(k, t->guest, t->len);
		if (k->plan->generation != now->generation)
			return;
		now->dir = now->quiet && t->kind == IN_LOWER && !t->mount ? index_dir(k, t->guest, t->len) : INDEX_NONE;
		cache_keep_inode(k, now->generation, st->st_dev, st->st_ino, t, mounts_inside(k, t->guest, t->len));
	}
	note_set(k, fd, now, begun);
}
