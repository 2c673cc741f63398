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
#define AT_STATX_SYNC_TYPE_ 0x6000

struct light {
	char text[TEXT];
	int dfd; /* what the kernel is told */
	const char *name;
};

static bool is_name(const char *s)
{
	return *s && (s[0] != '.' || (s[1] && (s[1] != '.' || s[2])));
}

/* Does the path, relative to the descriptor, name a directory that the kernel finds from there? */
static bool known(int fd, const char *text, size_t n, struct note *what)
{
	uint64_t dev, ino;

	return !self.core.root_len && note_get(&self.core, fd, &dev, &ino) && cache_below(&self.core, dev, ino, text, n, what);
}

/* Whether the kernel may look the path up, but for a link at its end. */
static bool placed(struct light *l, int fd, unsigned long path)
{
	struct core *k = &self.core;
	struct note what;
	const char *slash;
	long n = guest_str(l->text, (void *)path, TEXT);

	if (n <= 0 || judged(k))
		return false;
	slash = str_rchr(l->text, '/');
	if (!is_name(slash ? slash + 1 : l->text))
		return false;
	l->name = l->text;
	l->dfd = fd;
	if (!slash)
		return note_quiet(k, fd, &what.mount, &what.kind) ? !what.mount : known(fd, l->text, (size_t)n, &what);
	n = slash - l->text;
	if (!n)
		return false;
	if (l->text[0] != '/')
		return known(fd, l->text, (size_t)n, &what);
	if (k->root_len || !k->roots || !k->notes || !cache_straight(k, l->text, (size_t)n, &what.mount, &what.kind) || what.mount)
		return false;
	l->name = l->text + 1;
	l->dfd = ROOT_FD + (what.kind == IN_LOWER);
	return true;
}

/* Errors that may be ours. */
static bool unsure(long r)
{
	return r == -EBADF || r == -ENOTDIR || r == -ELOOP || r == -EACCES || r == -ENXIO;
}

/* Shows the file that the kernel just described as one without an entry in any record. */
static bool shown(unsigned long at, bool alone, int fd, uint32_t begun)
{
	union { struct stat st; uint64_t words[STAT_WORDS]; } u;
	uint8_t mount, kind;
	uint64_t dev;

	if (guest_read(u.words, (void *)at, sizeof u.words))
		return false;
	if (!alone && (u.st.st_mode & S_IFMT) == S_IFDIR) {
		if (!note_quiet(&self.core, fd, &mount, &kind))
			return false; /* is it in both layers? */
		note_identify(&self.core, fd, u.st.st_dev, u.st.st_ino, begun);
	}
	dev = u.st.st_dev;
	if (!owner_show_plain(&self.core, &u.st))
		return false;
	if (dev == u.st.st_dev)
		return !guest_write((uint64_t *)at + OWNER_WORD, u.words + OWNER_WORD, sizeof u.words - OWNER_WORD * sizeof u.words[0]);
	return !guest_write((void *)at, u.words, sizeof u.words);
}

static bool is_link(unsigned long at)
{
	uint64_t word;

	return guest_read(&word, (uint64_t *)at + OWNER_WORD, sizeof word) || (word & S_IFMT) == S_IFLNK;
}

static bool light_fstat(int fd, unsigned long to, long *r)
{
	uint32_t begun = note_begin(&self.core);

	if (fd < 0 || is_root_fd(&self.core, fd))
		return false;
	*r = sys_fstat(fd, (struct stat *)to);
	return *r || shown(to, false, fd, begun);
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
	return (flags & AT_SYMLINK_NOFOLLOW || !is_link(to)) && shown(to, true, fd, 0);
}

static bool light_statx(int fd, unsigned long path, unsigned flags, uint32_t mask, unsigned long to, long *r)
{
	struct light l;
	struct statx x;
	struct stat st;

	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE_) || !placed(&l, fd, path))
		return false;
	*r = SC5(__NR_statx, l.dfd, l.name, flags | AT_SYMLINK_NOFOLLOW, mask, &x);
	if (*r)
		return !unsure(*r);
	if (!(flags & AT_SYMLINK_NOFOLLOW) && (x.stx_mode & S_IFMT) == S_IFLNK)
		return false;
	stat_of_statx(&st, &x);
	if (!owner_show_plain(&self.core, &st))
		return false;
	stat_to_statx(&x, &st);
	statx_mount(&x, mask, 0, false);
	return !guest_write((void *)to, &x, sizeof x);
}

/* A directory in a quiet one is quiet, too. Of a slash behind its name nothing depends, unless it is a link. */
static bool light_opendir(int fd, unsigned long path, unsigned flags, long *r)
{
	struct core *k = &self.core;
	struct note now = { .generation = k->plan->generation, .quiet = true };
	uint32_t begun;
	const char *slash;
	char name[TEXT];
	long n = guest_str(name, (void *)path, TEXT);

	if (n <= 0 || judged(k))
		return false;
	while (n > 1 && name[n - 1] == '/')
		name[--n] = 0;
	slash = str_rchr(name, '/');
	if (!is_name(slash ? slash + 1 : name))
		return false;
	if (!slash && note_quiet(k, fd, &now.mount, &now.kind))
		bloom_add(k, name, (size_t)n);
	else if (!known(fd, name, (size_t)n, &now) || !now.quiet)
		return false;
	if (now.mount)
		return false;
	begun = note_begin(k) + 1; /* the opening itself drops a note */
	*r = sys_openat(fd, name, (int)flags | O_NOFOLLOW, 0);
	if (*r < 0)
		return !unsure(*r);
	note_drop(k, (int)*r);
	note_set(k, (int)*r, &now, begun);
	return true;
}

static bool light_open(int fd, unsigned long path, unsigned flags, long *r)
{
	struct light l;

	if (flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH | (O_TMPFILE & ~O_DIRECTORY)))
		return false;
	if (flags & O_DIRECTORY)
		return light_opendir(fd, path, flags, r);
	if (!placed(&l, fd, path))
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
	*r = known_directory(&self.core, l.text, strlen(l.text)) ? -EINVAL : SC4(__NR_readlinkat, l.dfd, l.name, to, size);
	return !unsure(*r);
}

bool light(long nr, const unsigned long a[6], long *r)
{
	int fd = (int)a[0];
	uint8_t mount, kind;

	switch (nr) {
	case __NR_fcntl: /* all of them, because all are made at one place */
		if (is_root_fd(&self.core, fd))
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		if (*r >= 0 && (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC))
			note_dup(&self.core, fd, (int)*r);
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
	case __NR_statx: return light_statx(fd, a[1], (unsigned)a[2], (uint32_t)a[3], a[4], r);
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
