/* The core as a library: what it answers, under the sanitizers. unit HOME */
#include "hosted.h"

static struct core k;
static int bad;

#define CALL(name, ...) hosted_call(&k, __NR_##name, __VA_ARGS__, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL)
#define IS(want, got)                                                                                                  \
	do {                                                                                                            \
		long w_ = (want), g_ = (got);                                                                           \
		if (w_ != g_) {                                                                                         \
			printf("%s:%d: %s is %ld, not %ld\n", __FILE__, __LINE__, #got, g_, w_);                         \
			bad++;                                                                                          \
		}                                                                                                       \
	} while (0)
#define P(s) ((unsigned long)(s))
#define CWD ((unsigned long)(long)AT_FDCWD)

static void paths(void)
{
	struct stat st;
	char buf[5000];

	IS(0, CALL(newfstatat, CWD, P("/etc/passwd"), P(&st), 0UL));
	IS(4, st.st_size);
	IS(0, CALL(newfstatat, CWD, P("/../../a/./up/passwd"), P(&st), 0UL));
	IS(-ENOENT, CALL(newfstatat, CWD, P("/nothing"), P(&st), 0UL));
	IS(-ENOTDIR, CALL(newfstatat, CWD, P("/etc/passwd/x"), P(&st), 0UL));
	IS(-EFAULT, CALL(newfstatat, CWD, 1UL, P(&st), 0UL));
	IS(-ENOENT, CALL(newfstatat, CWD, P(""), P(&st), 0UL));
	IS(4, CALL(readlinkat, CWD, P("/link"), P(buf), 100UL));
	IS(-EINVAL, CALL(readlinkat, CWD, P("/etc/passwd"), P(buf), 100UL));
	memset(buf, 'x', sizeof buf);
	buf[0] = '/';
	buf[4999] = 0;
	IS(-ENAMETOOLONG, CALL(newfstatat, CWD, P(buf), P(&st), 0UL));
	buf[300] = 0;
	IS(-ENAMETOOLONG, CALL(newfstatat, CWD, P(buf), P(&st), 0UL));
	memset(buf, '/', 4095);
	buf[4095] = 0;
	IS(0, CALL(newfstatat, CWD, P(buf), P(&st), 0UL));
	IS(0, CALL(newfstatat, CWD, P("/mnt/file"), P(&st), 0UL));
	IS(-EBUSY, CALL(unlinkat, CWD, P("/mnt"), (unsigned long)AT_REMOVEDIR));
	IS(-EROFS, CALL(mkdirat, CWD, P("/mnt/sub/x"), 0755UL));
	IS(-EXDEV, CALL(renameat2, CWD, P("/mnt/file"), CWD, P("/x"), 0UL));
}

static void layers(void)
{
	struct stat st, again;
	long fd = CALL(openat, CWD, P("/a/f"), (unsigned long)(O_WRONLY | O_APPEND), 0UL);

	IS(1, fd >= 0);
	IS(1, sys_write((int)fd, "+", 1));
	IS(0, CALL(fstat, (unsigned long)fd, P(&st)));
	IS(2, st.st_size);
	IS(0, CALL(newfstatat, CWD, P("/a/f"), P(&again), 0UL));
	IS((long)st.st_ino, (long)again.st_ino);
	sys_close((int)fd);
	IS(0, CALL(unlinkat, CWD, P("/a/f"), 0UL));
	IS(-ENOENT, CALL(newfstatat, CWD, P("/a/f"), P(&st), 0UL));
	IS(0, CALL(mkdirat, CWD, P("/a/f"), 0755UL));
	IS(0, CALL(unlinkat, CWD, P("/a/f"), (unsigned long)AT_REMOVEDIR));
	IS(-ENOTEMPTY, CALL(unlinkat, CWD, P("/a"), (unsigned long)AT_REMOVEDIR));
	IS(0, CALL(symlinkat, P("/etc"), CWD, P("/a/b/new")));
	IS(0, CALL(newfstatat, CWD, P("/a/b/new/passwd"), P(&st), 0UL));
}

static void owners(void)
{
	struct stat st;

	IS(0, CALL(fchownat, CWD, P("/etc/passwd"), 12UL, 34UL, 0UL));
	IS(0, CALL(newfstatat, CWD, P("/etc/passwd"), P(&st), 0UL));
	IS(12, st.st_uid);
	IS(34, st.st_gid);
	IS(0, CALL(fchmodat, CWD, P("/etc/passwd"), 04750UL));
	IS(0, CALL(newfstatat, CWD, P("/etc/passwd"), P(&st), 0UL));
	IS(04750, st.st_mode & 07777);
	for (unsigned long i = 0; i < 2000; i++) { /* as many entries as names; freed slots are used again */
		char name[32];
		snprintf(name, sizeof name, "/tmp/%lu", i % 50);
		IS(0, CALL(mknodat, CWD, P(name), (unsigned long)(S_IFCHR | 0600), 0x103UL));
		IS(0, CALL(newfstatat, CWD, P(name), P(&st), 0UL));
		IS(S_IFCHR | 0600, st.st_mode);
		IS(0, CALL(unlinkat, CWD, P(name), 0UL));
	}
	IS(1, k.changes->used < 500);
	IS(0, CALL(setuid, 1000UL));
	IS(-EPERM, CALL(setuid, 0UL));
	IS(-EPERM, CALL(fchownat, CWD, P("/etc/passwd"), 1UL, 1UL, 0UL));
	k.ids = (struct ids){ 0 };
}

static bool noted(uint64_t dev, uint64_t ino)
{
	return owner_change(&k, dev, ino, true, false) != NULL;
}

/* With the layers on two devices two inodes have one number. What goes is one of them. */
static void inodes_of_two_devices(void)
{
	enum { UPPER, LOWER, INO = 1000000007 };
	struct stat st = { .st_dev = k.plan->upper_dev, .st_ino = INO, .st_nlink = 1, .st_mode = S_IFREG };
	const unsigned options = k.plan->options;
	struct leaving leaving;

	for (int i = 0; i < 4; i++) { /* the path-level union; overlayfs: one device, two and of the upper, of the lower */
		k.plan->options = options | (i ? OPT_IDENTITY : 0) | (i > 1 ? OPT_XINO : 0);
		st.st_ino = i == 3 ? INO | LOWER_BIT : INO;
		owner_change(&k, UPPER, INO, true, true)->flags |= OWNER_SET;
		owner_change(&k, LOWER, INO, true, true)->flags |= OWNER_SET;
		leaving = owner_leaving(&k, &st);
		IS(1, noted(UPPER, INO) && noted(LOWER, INO));
		owner_left(&leaving);
		IS(i == 3, noted(UPPER, INO));
		IS(i == 0 || i == 2, noted(LOWER, INO));
		/* The next file with that inode has it before the last one's owner is marked. */
		leaving = owner_leaving(&k, &st);
		owner_born(&k, &st, true)->flags |= OWNER_SET;
		owner_left(&leaving);
		IS(1, noted(UPPER, st.st_ino));
		st.st_ino = INO;
		IS(1, owner_born(&k, &st, false) == NULL);
		IS(0, noted(UPPER, INO));
	}
	k.plan->options = options;
}

static void refused(void)
{
	IS(-ENOSYS, CALL(clone3, 0UL));
	IS(-ENOSYS, hosted_call(&k, 500, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL));
	IS(-ENOSYS, hosted_call(&k, -1, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL));
	IS(-EPERM, CALL(mount, 0UL));
}

static const char *home;

static void host_stat(const char *name, struct stat *st)
{
	char path[600];

	snprintf(path, sizeof path, "%s/%s", home, name);
	IS(0, sys_fstatat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW));
}

static void host_chmod(const char *name, unsigned mode)
{
	char path[600];

	snprintf(path, sizeof path, "%s/%s", home, name);
	IS(0, sys_fchmodat(AT_FDCWD, path, mode));
}

/* What the fuzzers found. */
static void image_untouched(void)
{
	unsigned options = k.plan->options;
	struct stat before, after;
	unsigned long uid = (unsigned long)sys_geteuid(), gid = (unsigned long)sys_getegid();
	ktimespec tick = { 0, 20000000 };
	long fd;
	char link[40];

	sys_nanosleep(&tick); /* times are as coarse as that */
	/* Without a record of owners the disk is asked, but never the image's file. */
	k.plan->options = 0;
	host_stat("lower/tmp", &before);
	IS(0, CALL(fchownat, CWD, P("/tmp"), uid, gid, 0UL));
	host_stat("lower/tmp", &after);
	IS((long)before.st_ctime_nsec, (long)after.st_ctime_nsec);
	host_stat("lower/x", &before);
	fd = CALL(openat, CWD, P("/x"), (unsigned long)O_RDONLY, 0UL);
	IS(1, fd >= 0);
	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	IS(0, CALL(fchownat, CWD, P(link), uid, gid, 0UL));
	host_stat("lower/x", &after);
	IS((long)before.st_ctime_nsec, (long)after.st_ctime_nsec);
	sys_close((int)fd);
	k.plan->options = options;
}

static void the_directory_is_no_descriptor(void)
{
	struct stat st;

	IS(-EBADF, CALL(fchmod, CWD, 0700UL));
	IS(-EBADF, CALL(fchown, CWD, 1UL, 1UL));
	IS(-EBADF, CALL(fstat, CWD, P(&st)));
	IS(-EBADF, CALL(fremovexattr, CWD, P("user.x")));
}

static void image_gets_no_names(void)
{
	long fd = CALL(openat, CWD, P("/y"), (unsigned long)O_RDONLY, 0UL), w;
	struct stat st;
	char link[40];

	IS(1, fd >= 0);
	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	IS(0, CALL(linkat, CWD, P(link), CWD, P("/tmp/by-link"), (unsigned long)AT_SYMLINK_FOLLOW));
	IS(0, CALL(linkat, (unsigned long)fd, P(""), CWD, P("/tmp/by-fd"), (unsigned long)AT_EMPTY_PATH));
	w = CALL(openat, CWD, P("/tmp/by-link"), (unsigned long)(O_WRONLY | O_TRUNC), 0UL);
	IS(1, w >= 0);
	sys_close((int)w);
	host_stat("lower/y", &st);
	IS(1, (long)st.st_nlink);
	IS(1, st.st_size);
	IS(0, CALL(newfstatat, CWD, P("/tmp/by-fd"), P(&st), 0UL));
	IS(0, st.st_size); /* they are one file, though */
	sys_close((int)fd);
	/* A read-only mount stays so through a descriptor's link. */
	fd = CALL(openat, CWD, P("/mnt/sub/z"), (unsigned long)O_RDONLY, 0UL);
	IS(1, fd >= 0);
	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	IS(-EROFS, CALL(openat, CWD, P(link), (unsigned long)O_WRONLY, 0UL));
	IS(-EROFS, CALL(fchmodat, CWD, P(link), 0600UL));
	sys_close((int)fd);
}

static void nothing_above_a_mount(void)
{
	struct stat st;

	if (!sys_geteuid()) /* to whom nothing is denied */
		return;
	/* Guest root opens what its mode denies; a bind's own modes stay, and those above it are not looked at. */
	host_chmod("bind/file", 0);
	host_chmod("bind", 0);
	host_chmod("", 0500);
	IS(1, CALL(openat, CWD, P("/mnt"), (unsigned long)O_RDONLY, 0UL) >= 0);
	host_stat("bind", &st);
	IS(0, st.st_mode & 0777);
	host_stat("", &st);
	IS(0500, st.st_mode & 0777);
	IS(1, CALL(openat, CWD, P("/mnt/file"), (unsigned long)O_RDWR, 0UL) >= 0);
	host_chmod("", 0700);
	host_chmod("bind", 0755);
	host_stat("bind/file", &st);
	IS(0, st.st_mode & 0777);
	host_chmod("bind/file", 0644);
}

static void long_socket_names(void)
{
	struct { uint16_t family; char name[108]; } u = { 1, { 0 } };
	unsigned long s = (unsigned long)SC3(__NR_socket, 1, 2, 0);
	char dir[200];

	/* A directory for short names that is itself too long: nothing is made at the part of its name that fits. */
	snprintf(dir, sizeof dir, "%s/%0120d", home, 0);
	k.plan->sockets = plan_string(k.plan, dir, strlen(dir));
	memset(u.name, 's', 100);
	u.name[0] = '/';
	IS(-ENAMETOOLONG, CALL(bind, s, P(&u), sizeof u));
	k.plan->sockets = 0;
	sys_close((int)s);
}

static void names_beside_a_mount(void)
{
	long dir, fd;
	struct stat st;

	/* Of a directory that is remembered and holds a mount, by a descriptor of the one above. */
	k.plan->mounts[1].flags |= MOUNT_CACHE;
	dir = CALL(openat, CWD, P("/mnt"), (unsigned long)(O_RDONLY | O_DIRECTORY), 0UL);
	IS(1, dir >= 0);
	for (int i = 0; i < 2; i++) {
		fd = CALL(openat, (unsigned long)dir, P("deep/new"), (unsigned long)(O_WRONLY | O_CREAT), 0644UL);
		IS(1, fd >= 0);
		sys_close((int)fd);
		host_stat("bind/deep/new", &st);
		IS(0, CALL(unlinkat, (unsigned long)dir, P("deep/new"), 0UL));
	}
	sys_close((int)dir);
	k.plan->mounts[1].flags &= (uint16_t)~MOUNT_CACHE;
	changed(&k);
}

int main(int argc, char **argv, char **envp)
{
	(void)envp;
	if (argc != 2)
		return 2;
	home = argv[1];
	hosted_start(&k, home, OPT_FAKE_ROOT | OPT_OWNERS);
	paths();
	layers();
	owners();
	inodes_of_two_devices();
	refused();
	image_untouched();
	image_gets_no_names();
	the_directory_is_no_descriptor();
	nothing_above_a_mount();
	long_socket_names();
	names_beside_a_mount();
	printf("%d wrong\n", bad);
	return bad != 0;
}
