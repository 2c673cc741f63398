/* Calls that come by the thousand and whose answer needs no memory of ours, which a program's first ones would have to
 * touch: what an open file is, names in directories of one layer that are remembered, what is no business of the core's
 * at all. The kernel writes straight into the guest's memory. What turns out to be more than that is left to the long
 * way, which asks the kernel again.
 */
#include "trap/light.h"
#include "preload/eager.h"

#if defined(__x86_64__)
#define STAT_WORDS 5 /* of struct stat: device, inode, links, mode and owner, group */
#define OWNER_WORD 3
#define LINKS 8 /* one behind the other */
#define AT_STATX_SYNC_TYPE_ 0x6000

/* Errors that may be ours. */
static bool unsure(long r)
{
	return r == -EBADF || r == -ENOTDIR || r == -ELOOP || r == -EACCES || r == -ENXIO;
}

static bool show_owner(struct stat *st, uint8_t mount)
{
	if (!mount)
		return owner_show_plain(&self.core, st);
	owner_show_bound(&self.core, st);
	return !(self.core.plan->options & OPT_IDENTITY);
}

/* Shows the file that the kernel just described as one without an entry in any record. */
static bool shown(unsigned long at, const struct light *by_name, int fd, uint32_t begun)
{
	union { struct stat st; uint64_t words[STAT_WORDS]; } u;
	uint64_t *const owner = (uint64_t *)at + OWNER_WORD;
	uint8_t mount, kind;
	uint64_t dev;

	if (by_name && by_name->mount) {
		if (guest_read(u.words + OWNER_WORD, owner, sizeof u.words - OWNER_WORD * sizeof u.words[0]) || !show_owner(&u.st, by_name->mount))
			return false;
		return !guest_write(owner, u.words + OWNER_WORD, sizeof u.words - OWNER_WORD * sizeof u.words[0]);
	}
	if (guest_read(u.words, (void *)at, sizeof u.words))
		return false;
	if (!by_name && (u.st.st_mode & S_IFMT) == S_IFDIR) {
		if (!note_quiet(&self.core, fd, &mount, &kind))
			return false; /* is it in both layers? */
		note_identify(&self.core, fd, u.st.st_dev, u.st.st_ino, begun);
	}
	dev = u.st.st_dev;
	if (!show_owner(&u.st, 0))
		return false;
	if (dev == u.st.st_dev)
		return !guest_write(owner, u.words + OWNER_WORD, sizeof u.words - OWNER_WORD * sizeof u.words[0]);
	return !guest_write((void *)at, u.words, sizeof u.words);
}

static bool is_link(unsigned long at)
{
	uint64_t word;

	return guest_read(&word, (uint64_t *)at + OWNER_WORD, sizeof word) || (word & S_IFMT) == S_IFLNK;
}

/* What the index says of the file, as the guest is to see it: KNOWN, NONE, or that the kernel is to be asked, or OTHER: that
 * one of the records tells of it. */
enum { ASK = -1, NONE, KNOWN, OTHER };

static int listed(const struct light *l, struct stat *st)
{
	bool plain;
	int is = index_stat(&self.core, l->dir, l->last, l->last_len, st, &plain);

	return is > 0 && !owner_show_plain(&self.core, st) ? OTHER : is;
}

static bool light_fstat(int fd, unsigned long to, long *r)
{
	uint32_t begun = note_begin(&self.core);

	if (fd < 0 || is_root_fd(&self.core, fd))
		return false;
	*r = sys_fstat(fd, (struct stat *)to);
	return *r || shown(to, NULL, fd, begun);
}

/* Goes on to what the link names, where that is beside it. */
static bool through(struct light *l)
{
	size_t n, before = (size_t)(l->last - l->text);
	const char *target = index_target(&self.core, l->dir, l->last, l->last_len, &n);

	if (!target || before + n >= TEXT)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!target[i] || target[i] == '/')
			return false;
	memcpy(l->text + before, target, n);
	l->text[before + n] = 0;
	l->last_len = n;
	return is_name(l->last);
}

static bool leads_no_further(unsigned flags, const struct stat *st)
{
	return flags & AT_SYMLINK_NOFOLLOW || (st->st_mode & S_IFMT) != S_IFLNK;
}

/* The same of what is at the end of links. */
static int listed_at_end(struct light *l, unsigned flags, struct stat *st)
{
	int is = listed(l, st);

	for (int i = 0; is == KNOWN && !leads_no_further(flags, st); i++)
		is = i < LINKS && through(l) ? listed(l, st) : OTHER;
	return is;
}

static bool light_stat(int fd, unsigned long path, unsigned long to, unsigned flags, long *r)
{
	struct light l;
	struct stat st;
	char first;
	int is;

	if (flags & AT_EMPTY_PATH)
		return path && !guest_read(&first, (void *)path, 1) && !first && light_fstat(fd, to, r);
	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) || !placed(&l, fd, path, true))
		return false;
	is = listed_at_end(&l, flags, &st);
	*r = is == NONE ? -ENOENT : 0;
	if (is != ASK)
		return is == NONE || (is == KNOWN && !guest_write((void *)to, &st, sizeof st));
	*r = sys_fstatat(l.dfd, l.name, (struct stat *)to, (int)flags | AT_SYMLINK_NOFOLLOW);
	if (*r)
		return !unsure(*r);
	return (flags & AT_SYMLINK_NOFOLLOW || !is_link(to)) && shown(to, &l, fd, 0);
}

static bool light_statx(int fd, unsigned long path, unsigned flags, uint32_t mask, unsigned long to, long *r)
{
	struct light l;
	struct statx x;
	struct stat st;
	int is;

	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE_) || !placed(&l, fd, path, true))
		return false;
	is = mask & ~(uint32_t)(STATX_BASIC_STATS | MNT_IDS) ? ASK : listed_at_end(&l, flags, &st);
	*r = is == NONE ? -ENOENT : 0;
	if (is == KNOWN) {
		statx_basic(&x, &st);
		statx_mount(&x, mask, 0, false);
	}
	if (is != ASK)
		return is == NONE || (is == KNOWN && !guest_write((void *)to, &x, sizeof x));
	*r = SC5(__NR_statx, l.dfd, l.name, flags | AT_SYMLINK_NOFOLLOW, mask, &x);
	if (*r)
		return !unsure(*r);
	if (!(flags & AT_SYMLINK_NOFOLLOW) && (x.stx_mode & S_IFMT) == S_IFLNK)
		return false;
	stat_of_statx(&st, &x);
	if (!show_owner(&st, l.mount))
		return false;
	stat_to_statx(&x, &st);
	statx_mount(&x, mask, l.mount, false);
	return !guest_write((void *)to, &x, sizeof x);
}

/* A directory in a quiet one is quiet, too. Of a slash behind its name nothing depends, unless it is a link. */
static bool light_opendir(int fd, unsigned long path, unsigned flags, long *r)
{
	struct core *k = &self.core;
	struct note now = { .generation = k->plan->generation, .quiet = true };
	struct note above;
	uint32_t begun;
	const char *slash;
	char name[TEXT];
	long n = path_of_guest(name, path);

	if (n <= 0 || judged(k))
		return false;
	while (n > 1 && name[n - 1] == '/')
		name[--n] = 0;
	slash = str_rchr(name, '/');
	if (!is_name(slash ? slash + 1 : name))
		return false;
	if (!slash && note_quiet_dir(k, fd, &above)) {
		bloom_add(k, name, (size_t)n);
		now.mount = above.mount;
		now.kind = above.kind;
		now.dir = index_below(k, above.dir, name, (size_t)n);
	} else if (!leads_below(fd, name, (size_t)n, &now) || !now.quiet) {
		return false;
	}
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
	const unsigned nofollow = flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0;
	struct light l;
	struct stat st;
	int is, links = 0;
	bool plain;

	if (flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH | (O_TMPFILE & ~O_DIRECTORY)))
		return false;
	if (flags & O_DIRECTORY)
		return light_opendir(fd, path, flags, r);
	if (!placed(&l, fd, path, false))
		return false;
	do
		is = index_stat(&self.core, l.dir, l.last, l.last_len, &st, &plain);
	while (is > 0 && !leads_no_further(nofollow, &st) && links++ < LINKS && through(&l));
	if (!is) {
		*r = -ENOENT;
		return true;
	}
	*r = sys_openat(l.dfd, l.name, (int)flags | O_NOFOLLOW, 0);
	if (*r >= 0)
		note_drop(&self.core, (int)*r);
	return !unsure(*r);
}

static bool light_readlink(int fd, unsigned long path, unsigned long to, unsigned long size, long *r)
{
	struct light l;
	struct stat st;
	const char *target;
	size_t n;
	bool plain;
	int is;

	if (!placed(&l, fd, path, false))
		return false;
	is = index_stat(&self.core, l.dir, l.last, l.last_len, &st, &plain);
	if ((int)size > 0 && (!is || (is > 0 && (st.st_mode & S_IFMT) != S_IFLNK))) {
		*r = is ? -EINVAL : -ENOENT;
		return true;
	}
	target = is > 0 && (int)size > 0 ? index_target(&self.core, l.dir, l.last, l.last_len, &n) : NULL;
	if (target) {
		*r = (long)MIN(n, size);
		return !guest_write((void *)to, target, (size_t)*r);
	}
	*r = !l.mount && known_directory(&self.core, l.text, strlen(l.text)) ? -EINVAL : SC4(__NR_readlinkat, l.dfd, l.name, to, size);
	return !unsure(*r);
}

static bool light_access(int fd, unsigned long path, unsigned mode, unsigned flags, long *r)
{
	struct light l;
	struct stat st;
	int is;

	if (mode & ~(unsigned)(R_OK | X_OK) || flags & ~(unsigned)(AT_EACCESS | AT_SYMLINK_NOFOLLOW) || !placed(&l, fd, path, false))
		return false;
	is = listed_at_end(&l, flags, &st);
	if (is == ASK && self.core.plan->options & OPT_OWNERS) {
		*r = sys_fstatat(l.dfd, l.name, &st, AT_SYMLINK_NOFOLLOW);
		if (*r)
			return !unsure(*r);
		if (!l.mount && leads_no_further(flags, &st) && show_owner(&st, 0))
			is = KNOWN;
	}
	if (is != NONE && is != KNOWN)
		return false;
	*r = is == NONE ? -ENOENT : !mode || mode_allows(&self.core, &st, (int)mode, flags & AT_EACCESS) ? 0 : -EACCES;
	return true;
}

/* The name that the disk has for one that files of the image, or of binds, may have. False: one of the others. */
static bool attribute(char *to, size_t size, unsigned long name)
{
	const size_t kept = self.core.plan->options & OPT_FAKE_ROOT ? sizeof KEPT - 1 : 0;
	char *s = to + sizeof KEPT - 1;

	if (guest_str(s, (void *)name, size - sizeof KEPT) <= 0)
		return false;
	memcpy(to, KEPT, sizeof KEPT - 1);
	if (kept && str_starts(s, "security."))
		return true;
	memmove(to, s, strlen(s) + 1);
	return str_eq(to, "system.posix_acl_access") || str_eq(to, "system.posix_acl_default") ||
	       (str_starts(to, "user.") && to[5] && !str_starts(to, KEPT) && !str_starts(to, "user.overlay."));
}

/* Of a file that has no attributes, and in binds, where each name but the kept ones is the disk's. `name` 0: their list is
 * asked for. */
static bool light_xattr(const unsigned long a[6], unsigned long name, bool follow, long *r)
{
	struct light l;
	struct stat st;
	char text[64] = "";
	bool plain;
	int is;

	if ((name && !attribute(text, sizeof text, name)) || !placed(&l, AT_FDCWD, a[0], false))
		return false;
	is = index_stat(&self.core, l.dir, l.last, l.last_len, &st, &plain);
	if (is >= 0) {
		*r = is ? name ? index_no_attribute(str_starts(text, "system.")) : 0 : -ENOENT;
		return !is || (plain && (st.st_mode & S_IFMT) != S_IFLNK && (!name || *r));
	}
	if (!l.mount || l.dfd != AT_FDCWD)
		return false;
	*r = follow ? sys_fstatat(l.dfd, l.name, &st, AT_SYMLINK_NOFOLLOW) : 0;
	if (!*r && follow && (st.st_mode & S_IFMT) == S_IFLNK)
		return false;
	if (!*r)
		*r = name ? SC4(__NR_lgetxattr, l.name, text, a[2], a[3]) : SC3(__NR_llistxattr, l.name, NULL, 0);
	return !unsure(*r) && (name || *r <= 0);
}

static bool light_getdents(int fd, unsigned long to, unsigned long size, long *r)
{
	struct core *k = &self.core;
	struct note what;

	if (!note_quiet_dir(k, fd, &what))
		return false;
	*r = INDEX_ASK;
	if (k->plan->index && what.kind == IN_LOWER && what.dir != INDEX_NONE) {
		if (!what.dir || !index_ready(k, 0)) /* where it is not open, another process's listing may go on here */
			return false;
		*r = index_list(k, what.dir, fd, (void *)to, (unsigned)size);
	}
	if (*r == INDEX_ASK)
		*r = SC3(__NR_getdents64, fd, to, size);
	if (*r > 0 && what.kind == IN_LOWER)
		*r = show_inodes(k, (void *)to, *r);
	return true;
}

bool light(long nr, const unsigned long a[6], long *r)
{
	int fd = (int)a[0];

	switch (nr) {
	case __NR_fcntl: /* all of them, because all are made at one place */
		if (is_root_fd(&self.core, fd))
			return false;
		*r = SC3(nr, a[0], a[1], a[2]);
		if (*r >= 0 && (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC))
			note_dup(&self.core, fd, (int)*r);
		return *r != -EMFILE; /* there may be two more */
	/* Each program makes these, and only preload cannot tell them by their arguments from those that matter. */
	case __NR_mmap:
		if (self.eager || self.kept)
			*r = eager_mmap(a);
		return self.eager || self.kept;
	case __NR_mprotect: case PKEY_MPROTECT:
		if (self.eager)
			*r = eager_mprotect(nr, a);
		return self.eager;
	case __NR_arch_prctl:
		if (!self.eager || a[0] == SHADOW_STACK)
			return false;
		*r = SC2(nr, a[0], a[1]);
		return true;
	case __NR_prlimit64:
		if (!self.eager || a[1] == RLIMIT_CORE_)
			return false;
		*r = SC4(nr, a[0], a[1], a[2], a[3]);
		return true;
	case __NR_execve: return exec_again(a, r);
	case __NR_getdents64: return light_getdents(fd, a[1], a[2], r);
	case __NR_fstat: return light_fstat(fd, a[1], r);
	case __NR_newfstatat: return light_stat(fd, a[1], a[2], (unsigned)a[3], r);
	case __NR_stat: return light_stat(AT_FDCWD, a[0], a[1], 0, r);
	case __NR_lstat: return light_stat(AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW, r);
	case __NR_statx: return light_statx(fd, a[1], (unsigned)a[2], (uint32_t)a[3], a[4], r);
	case __NR_openat: return light_open(fd, a[1], (unsigned)a[2], r);
	case __NR_open: return light_open(AT_FDCWD, a[0], (unsigned)a[1], r);
	case __NR_access: return light_access(AT_FDCWD, a[0], (unsigned)a[1], 0, r);
	case __NR_faccessat: return light_access(fd, a[1], (unsigned)a[2], 0, r);
	case __NR_faccessat2: return light_access(fd, a[1], (unsigned)a[2], (unsigned)a[3], r);
	case __NR_getxattr: return light_xattr(a, a[1], true, r);
	case __NR_lgetxattr: return light_xattr(a, a[1], false, r);
	case __NR_listxattr: return light_xattr(a, 0, true, r);
	case __NR_llistxattr: return light_xattr(a, 0, false, r);
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
