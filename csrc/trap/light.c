/* Calls that come from a rewritten site by the thousand and whose answer needs no memory of ours: what an open file
 * is, the names in a directory of one layer, what is no business of the core's at all. The kernel writes straight into
 * the guest's memory. What turns out to be more than that is left to the long way, which asks the kernel again.
 */
#include "trap/trap.h"

#if defined(__x86_64__)
#define STAT_WORDS 5  /* of struct stat: device, inode, links, mode and owner, group */
#define OWNER_WORD 3

/* Shows the file that the kernel just described as one without an entry in any record. */
static bool shown(unsigned long at, bool in_quiet, int fd)
{
	union { struct stat st; uint64_t words[STAT_WORDS]; } u;
	uint8_t mount, kind;

	if (guest_read(u.words, (void *)at, sizeof u.words) || !owner_show_plain(&self.core, &u.st))
		return false;
	if (!in_quiet && (u.st.st_mode & S_IFMT) == S_IFDIR && !note_quiet(&self.core, fd, &mount, &kind))
		return false; /* is it in both layers? */
	return !guest_write((uint64_t *)at + OWNER_WORD, u.words + OWNER_WORD, sizeof u.words - OWNER_WORD * sizeof u.words[0]);
}

static bool is_link(unsigned long at)
{
	uint64_t word;

	return guest_read(&word, (uint64_t *)at + OWNER_WORD, sizeof word) || (word & S_IFMT) == S_IFLNK;
}

static bool light_stat(int fd, unsigned long path, unsigned long to, unsigned flags, long *r)
{
	struct core *k = &self.core;
	uint8_t mount, kind;
	char name[128];
	long n;

	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH))
		return false;
	n = guest_str(name, (void *)path, sizeof name);
	if (n == 0 && flags & AT_EMPTY_PATH && fd >= 0) {
		*r = sys_fstat(fd, (struct stat *)to);
		return *r || shown(to, false, fd);
	}
	if (n <= 0 || flags & AT_EMPTY_PATH || judged(k) || !note_quiet(k, fd, &mount, &kind) || mount)
		return false;
	if (str_chr(name, '/') || (name[0] == '.' && (n == 1 || (n == 2 && name[1] == '.'))))
		return false;
	*r = sys_fstatat(fd, name, (struct stat *)to, (int)flags | AT_SYMLINK_NOFOLLOW);
	return *r || ((flags & AT_SYMLINK_NOFOLLOW || !is_link(to)) && shown(to, true, fd));
}

bool light(long nr, const unsigned long a[6], long *r)
{
	int fd = (int)a[0];
	uint8_t mount, kind;

	if (is_root_fd(&self.core, fd))
		return false;
	switch (nr) {
	case __NR_fcntl: /* comes this way with the others because all are made at one place */
		if (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC)
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		return true;
	case __NR_getdents64:
		if (!note_quiet(&self.core, fd, &mount, &kind))
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		return true;
	case __NR_fstat:
		if (fd < 0)
			return false;
		*r = sys_fstat(fd, (struct stat *)a[1]);
		return *r || shown(a[1], false, fd);
	case __NR_newfstatat:
		return light_stat(fd, a[1], a[2], (unsigned)a[3], r);
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
