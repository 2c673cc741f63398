/* Where the path of a light call leads, by what is remembered: a descriptor and a name that the kernel may be asked about, and
 * the directory's number in the index.
 */
#include "trap/light.h"

#if defined(__x86_64__)
/* In the memory behind the text there are whole words. */
static const char *last_slash(const char *text, size_t n)
{
	const uint64_t ones = 0x0101010101010101ULL, low = 0x7f * ones;
	const char *found = NULL;

	for (size_t i = 0; i < n; i += 8) {
		uint64_t w, here;

		memcpy(&w, text + i, 8);
		w ^= '/' * ones;
		here = ~(((w & low) + low) | w | low); /* the highest bit of each byte that is 0 */
		if (n - i < 8)
			here &= ((uint64_t)1 << (8 * (n - i))) - 1;
		if (here)
			found = text + i + 7 - __builtin_clzll(here) / 8;
	}
	return found;
}

long path_of_guest(char text[TEXT], unsigned long path)
{
	long n = guest_str(text, (void *)path, TEXT);
	size_t here;

	if (n <= 0 || text[0] != '.')
		return n;
	here = begins_here(text);
	memmove(text, text + here, (size_t)n - here + 1);
	return n - (long)here;
}

/* Do the names on the way still lead to directories, and no links? */
static bool still(int fd, char *text, size_t n)
{
	struct stat st;

	for (size_t i = 1; i <= n; i++) {
		char at = text[i];
		bool is;

		if (i < n && at != '/')
			continue;
		text[i] = 0;
		is = !sys_fstatat(fd, text, &st, AT_SYMLINK_NOFOLLOW) && (st.st_mode & S_IFMT) == S_IFDIR;
		text[i] = at;
		if (!is)
			return false;
	}
	return true;
}

bool leads_below(int fd, char *text, size_t n, struct note *what)
{
	struct core *k = &self.core;
	uint64_t dev, ino;
	uint32_t now;

	if (k->root_len || !note_get(k, fd, &dev, &ino))
		return false;
	switch (cache_below(k, dev, ino, text, n, what)) {
	case NOT_KNOWN: return false;
	case KNOWN_WELL: return true;
	case SEEN_ONCE: break;
	}
	now = ticks();
	if (!still(fd, text, n))
		return false;
	cache_seen_below(k, dev, ino, text, n, now);
	return true;
}

/* Does the descriptor still lead to the directory that was noted? The index is asked instead of the kernel, which would
 * know: closing is not seen, and a vfork child has descriptors and a working directory of its own. */
static bool holds(int fd, const struct note *what, bool itself)
{
	struct core *k = &self.core;
	uint64_t dev, ino;
	struct stat st;

	if (fd == AT_FDCWD)
		return k->notes->allowed();
	if (sys_fstat(fd, &st))
		return false;
	return itself ? index_is(k, what->dir, &st) : note_get(k, fd, &dev, &ino) && st.st_ino == ino && st.st_dev == dev;
}

static bool has_number(const struct note *what)
{
	return what->kind == IN_LOWER && what->dir != INDEX_NONE && index_ready(&self.core, 1);
}

/* An absolute path in a bind. */
static bool as_on_host(struct light *l, uint8_t mount)
{
	const struct mount *m = &self.core.plan->mounts[mount];
	size_t dir = (size_t)(l->last - l->text) - m->guest_len, rest = dir + l->last_len;

	if (m->host_len + rest >= TEXT)
		return false;
	memmove(l->text + m->host_len, l->text + m->guest_len, rest + 1);
	memcpy(l->text, plan_text(&self.core, m->host), m->host_len);
	l->last = l->text + m->host_len + dir;
	l->dfd = AT_FDCWD;
	l->mount = mount;
	return true;
}

/* The directory of an absolute path, of n bytes, without links on the way. */
static bool canonical(struct light *l, long *n, struct note *what)
{
	char dir[CACHE_TEXT];
	long led = cache_leads(&self.core, l->text, (size_t)*n, what, dir, sizeof dir);

	if (led < 0 || (size_t)led + l->last_len + 2 > TEXT)
		return false;
	if (led != *n) {
		memmove(l->text + led, l->text + *n, l->last_len + 2);
		l->last += led - *n;
		*n = led;
	}
	memcpy(l->text, dir, (size_t)led);
	return true;
}

bool placed(struct light *l, int fd, unsigned long path, bool wanted)
{
	struct core *k = &self.core;
	struct note what;
	const char *slash;
	long n = path_of_guest(l->text, path);

	if (n <= 0 || judged(k))
		return false;
	wanted = wanted || fd == AT_FDCWD;
	slash = last_slash(l->text, (size_t)n);
	l->last = slash ? slash + 1 : l->text;
	if (!is_name(l->last))
		return false;
	l->last_len = (size_t)(l->text + n - l->last);
	l->name = l->text;
	l->dfd = fd;
	l->dir = l->mount = 0;
	if (!slash) {
		if (!note_quiet_dir(k, fd, &what)) { /* it is a directory, perhaps, that paths went through */
			if (!leads_below(fd, l->text, (size_t)n, &what))
				return false;
			l->mount = what.mount;
			return true;
		}
		if (wanted && has_number(&what)) {
			if (!what.dir) { /* noted before the index was open */
				note_drop(k, fd);
				return false;
			}
			l->dir = holds(fd, &what, true) ? what.dir : 0;
		}
		l->mount = what.mount;
		return true;
	}
	n = slash - l->text;
	if (!n)
		return false;
	if (l->text[0] != '/') {
		if (!leads_below(fd, l->text, (size_t)n, &what))
			return false;
		if (wanted && has_number(&what) && what.dir && holds(fd, &what, false))
			l->dir = what.dir;
		l->mount = what.mount;
		return true;
	}
	if (k->root_len || !k->notes || !canonical(l, &n, &what))
		return false;
	if (what.mount)
		return as_on_host(l, what.mount);
	if (!k->roots)
		return false;
	if (has_number(&what))
		l->dir = what.dir ? what.dir : index_dir(k, l->text, (size_t)n);
	l->name = l->text + 1;
	l->dfd = ROOT_FD + (what.kind == IN_LOWER);
	return true;
}
#endif
