#include "guard/guard.h"

/* The directories on the way down, to be certain that ".." leads back to where we came from. */
struct level {
	uint64_t dev, ino;
};

enum { MAX_DEPTH = 1 << 16 };

/* Opens a directory to be emptied; its owner may have taken his own rights away (overlay's work directory is mode 0). */
static long open_to_empty(int at, const char *name)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	struct stat st;
	long fd = sys_openat(at, name, flags, 0);

	if (fd == -EACCES && sys_fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) >= 0 && (st.st_mode & S_IFMT) == S_IFDIR &&
	    sys_fchmodat(at, name, 0700) >= 0)
		fd = sys_openat(at, name, flags, 0);
	if (fd >= 0 && sys_fstat((int)fd, &st) >= 0 && (st.st_mode & 0700) != 0700)
		sys_fchmod((int)fd, 0700);
	return fd;
}

/* Removes what can be removed from the directory; the name of a directory that is not empty goes to sub. */
static long empty(int dir, char sub[256])
{
	static char entries[32768];
	long got;

	sub[0] = 0;
	sys_lseek(dir, 0, SEEK_SET);
	while ((got = sys_getdents64(dir, entries, sizeof entries)) > 0)
		for (long at = 0; at < got;) {
			struct linux_dirent64 *d = (void *)(entries + at);
			at += d->d_reclen;
			if (str_eq(d->d_name, ".") || str_eq(d->d_name, ".."))
				continue;
			long r = -EISDIR;
			if (d->d_type != DT_DIR)
				r = sys_unlinkat(dir, d->d_name, 0);
			if (r == -EISDIR || r == -EPERM)
				r = sys_unlinkat(dir, d->d_name, AT_REMOVEDIR);
			if (r >= 0 || r == -ENOENT)
				continue;
			if (r != -ENOTEMPTY && r != -EEXIST)
				return r;
			if (!sub[0])
				str_copy(sub, d->d_name, 256);
		}
	return got;
}

/* Depth first with one open directory at a time: the depth of a tree is bounded by nothing that we have. */
long remove_tree(const char *path)
{
	struct level *way;
	struct stat st;
	size_t depth = 0;
	int tries = 0;
	char sub[256];
	long r = sys_unlinkat(AT_FDCWD, path, 0);

	if (r >= 0 || r == -ENOENT)
		return 0;
	r = sys_unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
	if (r >= 0 || (r != -ENOTEMPTY && r != -EEXIST))
		return r >= 0 ? 0 : r;
	long dir = open_to_empty(AT_FDCWD, path);
	if (dir < 0)
		return dir;
	way = sys_mmap(NULL, MAX_DEPTH * sizeof *way, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)way)) {
		sys_close((int)dir);
		return -ENOMEM;
	}
	for (;;) {
		long next;
		r = empty((int)dir, sub);
		if (r < 0)
			break;
		if (sub[0]) {
			if (depth == MAX_DEPTH || (r = sys_fstat((int)dir, &st)) < 0) {
				r = r < 0 ? r : -ENAMETOOLONG;
				break;
			}
			way[depth++] = (struct level){ st.st_dev, st.st_ino };
			next = open_to_empty((int)dir, sub);
		} else if (depth) {
			next = sys_openat((int)dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
			depth--;
			if (next >= 0 && (sys_fstat((int)next, &st) < 0 || st.st_dev != way[depth].dev || st.st_ino != way[depth].ino)) {
				sys_close((int)next); /* somebody moved it: what is above now is not ours to empty */
				next = -ESTALE;
			}
		} else {
			r = sys_unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
			if (r == -ENOTEMPTY && tries++ < 3)
				continue; /* a listing of a directory that is being emptied may have left something out */
			break;
		}
		if (next < 0) {
			r = next;
			break;
		}
		sys_close((int)dir);
		dir = next;
	}
	sys_close((int)dir);
	sys_munmap(way, MAX_DEPTH * sizeof *way);
	return r;
}
