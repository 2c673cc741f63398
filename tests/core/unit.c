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

static void refused(void)
{
	IS(-ENOSYS, CALL(clone3, 0UL));
	IS(-ENOSYS, hosted_call(&k, 500, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL));
	IS(-ENOSYS, hosted_call(&k, -1, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL));
	IS(-EPERM, CALL(mount, 0UL));
}

int main(int argc, char **argv, char **envp)
{
	(void)envp;
	if (argc != 2)
		return 2;
	hosted_start(&k, argv[1], OPT_FAKE_ROOT | OPT_OWNERS);
	paths();
	layers();
	owners();
	refused();
	printf("%d wrong\n", bad);
	return bad != 0;
}
