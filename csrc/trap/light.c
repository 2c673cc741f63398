/* Calls that come from a rewritten site by the thousand and whose answer needs no memory of ours: what an open file
 * is, names in directories of one layer that are remembered, what is no business of the core's at all. The kernel
 * writes straight into the guest's memory. What turns out to be more than that is left to the long way, which asks
 * the kernel again.
 */
#include "trap/trap.h"

#if defined(__x86_64__)
#define TEXT 192      /* on the guest's stack */
#define STAT_WORDS 5  /* of struct stat: device, inode, links, mode and owner, group */
#define OWNER_WORD 3

struct light {
	char text[TEXT];
	int dfd; /* what the kernel is told */
	const char *name;
};

/* Whether the kernel may look the path up, but for a link at its end. */
static bool placed(struct light *l, int fd, unsigned long path)
{
	struct core *k = &self.core;
	uint8_t mount, kind;
	uint64_t dev, ino;
	const char *slash, *last;
	long n = guest_str(l->text, (void *)path, TEXT);

	if (n <= 0 || judged(k))
		return false;
	slash = str_rchr(l->text, '/');
	last = slash ? slash + 1 : l->text;
	if (!*last || (last[0] == '.' && (!last[1] || (last[1] == '.' && !last[2]))))
		return false;
	l->name = l->text;
	l->dfd = fd;
	if (!slash)
		return note_quiet(k, fd, &mount, &kind) && !mount;
	n = slash - l->text;
	if (k->root_len || !n)
		return false;
	if (l->text[0] != '/')
		return note_get(k, fd, &dev, &ino) && cache_below(k, dev, ino, l->text, (size_t)n);
	if (!k->roots || !k->notes || !cache_straight(k, l->text, (size_t)n, &mount, &kind) || mount)
		return false;
	l->name = l->text + 1;
	l->dfd = ROOT_FD + (kind == IN_LOWER);
	return true;
}

/* Errors that may be ours. */
static bool unsure(long r)
{
	return r == -EBADF || r == -ENOTDIR || r == -ELOOP || r == -EACCES || r == -ENXIO;
}

/* Shows the file that the kernel just described as one without an entry in any record. */
static bool shown(unsigned long at, bool alone, int fd)
{
	union { struct stat st; uint64_t words[STAT_WORDS]; } u;
	uint8_t mount, kind;

	if (guest_read(u.words, (void *)at, sizeof u.words) || !owner_show_plain(&self.core, &u.st))
		return false;
	if (!alone && (u.st.st_mode & S_IFMT) == S_IFDIR && !note_quiet(&self.core, fd, &mount, &kind))
		return false; /* is it in both layers? */
	return !guest_write((uint64_t *)at + OWNER_WORD, u.words + OWNER_WORD, sizeof u.words - OWNER_WORD * sizeof u.words[0]);
}

static bool is_link(unsigned long at)
{
	uint64_t word;

	return guest_read(&word, (uint64_t *)at + OWNER_WORD, sizeof word) || (word & S_IFMT) == S_IFLNK;
}

static bool light_fstat(int fd, unsigned long to, long *r)
{
	if (fd < 0 || is_root_fd(&self.core, fd))
		return false;
	*r = sys_fstat(fd, (struct stat *)to);
	return *r || shown(to, false, fd);
}

static bool light_stat(int fd, unsigned long path, unsigned long to, unsigned flags, long *r)
{
	struct light l;
	char first;

	if (flags & AT_EMPTY_PATH)
		return path && !guest_read(&first, (void *)path, 1) && !first && light_fstat(fd, to, r);
	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) || !placed(&l, fd, path))
		return false;
	*r = sys_fstatat(l.dfd, l.name, (struct stat *)to, (int)flags | AT_SYMLINK_NOFOLLOW);
	if (*r)
		return !unsure(*r);
	return (flags & AT_SYMLINK_NOFOLLOW || !is_link(to)) && shown(to, true, fd);
}

static bool light_open(int fd, unsigned long path, unsigned flags, long *r)
{
	struct light l;

	if (flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH | O_DIRECTORY | O_TMPFILE) || !placed(&l, fd, path))
		return false;
	*r = sys_openat(l.dfd, l.name, (int)flags | O_NOFOLLOW, 0);
	if (*r >= 0)
		note_drop(&self.core, (int)*r);
	return !unsure(*r);
}

static bool light_readlink(int fd, unsigned long path, unsigned long to, unsigned long size, long *r)
{
	struct light l;

	if (!placed(&l, fd, path))
		return false;
	*r = SC4(__NR_readlinkat, l.dfd, l.name, to, size);
	return !unsure(*r);
}

bool light(long nr, const unsigned long a[6], long *r)
{
	int fd = (int)a[0];
	uint8_t mount, kind;

	switch (nr) {
	case __NR_fcntl: /* comes this way with the others because all are made at one place */
		if (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC || is_root_fd(&self.core, fd))
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		return true;
	case __NR_getdents64:
		if (!note_quiet(&self.core, fd, &mount, &kind))
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		return true;
	case __NR_fstat: return light_fstat(fd, a[1], r);
	case __NR_newfstatat: return light_stat(fd, a[1], a[2], (unsigned)a[3], r);
	case __NR_stat: return light_stat(AT_FDCWD, a[0], a[1], 0, r);
	case __NR_lstat: return light_stat(AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW, r);
	case __NR_openat: return light_open(fd, a[1], (unsigned)a[2], r);
	case __NR_open: return light_open(AT_FDCWD, a[0], (unsigned)a[1], r);
	case __NR_readlinkat: return light_readlink(fd, a[1], a[2], a[3], r);
	case __NR_readlink: return light_readlink(AT_FDCWD, a[0], a[1], a[2], r);
	}
	return false;
}
#else
bool light(long nr, const unsigned long a[6], long *r)
{
	(void)nr, (void)a, (void)r;
	return false;
}
#endif
