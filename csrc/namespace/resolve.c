#include "namespace/namespace.h"

enum { MAX_LINKS = 40 };

struct walk {
	int root, at;                /* at: O_PATH descriptor of what canon names */
	char canon[PATH_SIZE];       /* what was resolved so far, without leading slash; "" is the root */
	char rest[2 * PATH_SIZE];    /* what is still to be resolved */
	const char *path;            /* as asked for, for messages */
	int links;
};

struct fd_path fd_path(int fd)
{
	struct fd_path p;

	fmt(p.text, sizeof p.text, "/proc/self/fd/%d", fd);
	return p;
}

static bool move_to(struct walk *w, int fd)
{
	sys_close(w->at);
	w->at = fd;
	return true;
}

/* canon holds no symbolic links, so that opening it by name cannot leave the root. */
static bool reopen(struct walk *w, struct failure *f)
{
	long fd = sys_openat(w->root, w->canon[0] ? w->canon : ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);

	if (fd < 0)
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(fd));
	return move_to(w, (int)fd);
}

static bool up(struct walk *w, struct failure *f)
{
	char *slash = str_rchr(w->canon, '/');

	if (!w->canon[0])
		return true;
	*(slash ? slash : w->canon) = 0;
	return reopen(w, f);
}

static bool follow(struct walk *w, int link, bool more, struct failure *f)
{
	char target[PATH_SIZE];
	char joined[2 * PATH_SIZE];
	ssize n = sys_readlinkat(link, "", target, sizeof target - 1);

	if (n <= 0)
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(n ? n : -ENOENT));
	if (++w->links > MAX_LINKS)
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(ELOOP));
	target[n] = 0;
	if (fmt(joined, sizeof joined, "%s%s%s", target, more ? "/" : "", w->rest) >= sizeof joined)
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(ENAMETOOLONG));
	str_copy(w->rest, joined, sizeof w->rest);
	if (target[0] == '/') {
		w->canon[0] = 0;
		return reopen(w, f);
	}
	return true;
}

static long make(int dir, const char *name, bool as_file)
{
	long fd;

	if (!as_file)
		return sys_mkdirat(dir, name, 0755);
	fd = sys_openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd >= 0)
		sys_close((int)fd);
	return fd < 0 ? fd : 0;
}

/* One component below w->at; more: others follow. */
static bool step(struct walk *w, const char *name, bool more, enum create create, struct failure *f)
{
	struct stat st;
	long fd = sys_openat(w->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);

	if (fd == -ENOENT && create != CREATE_NOTHING) {
		long r = make(w->at, name, !more && create == CREATE_FILE);
		if (r < 0 && r != -EEXIST)
			return fail(f, FAIL_UDK, "%s: cannot be created in the container: %s", w->path, errno_text(r));
		fd = sys_openat(w->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	}
	if (fd < 0) {
		f->error = fd;
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(fd));
	}
	sys_fstat((int)fd, &st);
	if ((st.st_mode & S_IFMT) == S_IFLNK) {
		bool ok = follow(w, (int)fd, more, f);
		sys_close((int)fd);
		return ok;
	}
	if (more && (st.st_mode & S_IFMT) != S_IFDIR) {
		sys_close((int)fd);
		f->error = -ENOTDIR;
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(ENOTDIR));
	}
	size_t n = strlen(w->canon);
	if (n + strlen(name) + 2 > sizeof w->canon) {
		sys_close((int)fd);
		return fail(f, FAIL_UDK, "%s: %s", w->path, errno_text(ENAMETOOLONG));
	}
	fmt(w->canon + n, sizeof w->canon - n, "%s%s", n ? "/" : "", name);
	return move_to(w, (int)fd);
}

bool resolve(int root, const char *path, enum create create, int *fd, struct failure *f)
{
	struct walk w = { .root = root, .path = path };
	bool ok = true;

	if (str_copy(w.rest, path, sizeof w.rest) >= sizeof w.rest)
		return fail(f, FAIL_UDK, "%.200s...: %s", path, errno_text(ENAMETOOLONG));
	w.at = (int)sys_openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (w.at < 0)
		return fail(f, FAIL_UDK, "%s: %s", path, errno_text(w.at));
	while (ok) {
		char name[256];
		char *p = w.rest;
		while (*p == '/')
			p++;
		char *end = p;
		while (*end && *end != '/')
			end++;
		size_t n = (size_t)(end - p);
		if (!n)
			break;
		if (n >= sizeof name) {
			ok = fail(f, FAIL_UDK, "%s: %s", path, errno_text(ENAMETOOLONG));
			break;
		}
		memcpy(name, p, n);
		name[n] = 0;
		while (*end == '/')
			end++;
		bool more = *end;
		memmove(w.rest, end, strlen(end) + 1);
		if (str_eq(name, "."))
			continue;
		ok = str_eq(name, "..") ? up(&w, f) : step(&w, name, more, create, f);
	}
	if (!ok)
		sys_close(w.at);
	*fd = w.at;
	return ok;
}
