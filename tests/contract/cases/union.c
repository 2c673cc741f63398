/* The private layer: the image shows through, is never changed, and what is made on top behaves like any file.
 * The image has /lower: dir/{one,two,sub/deep}, gone/deep/f, file, link and kept-link -> file, empty/, hard (two names: hard2), ro (0444). */
#include "case.h"

#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#define L "/lower"

static int names(const char *path, char *out, size_t size)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int n = 0;
	out[0] = 0;
	CHECK(d);
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		n++;
		if (strlen(out) + strlen(e->d_name) + 2 < size)
			strcat(strcat(out, e->d_name), " ");
	}
	closedir(d);
	return n;
}

static int listed(const char *dir, const char *name)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int found = 0;
	CHECK(d);
	while ((e = readdir(d)))
		found += !strcmp(e->d_name, name);
	closedir(d);
	return found;
}

CASE(union_write_and_append)
{
	struct stat a, b;
	int old = open(L "/file", O_RDONLY), fd;
	char buf[64];
	CHECK(stat(L "/file", &a) == 0 && same(L "/file", "lower"));
	fd = open(L "/file", O_WRONLY | O_APPEND);
	CHECK(fd >= 0 && write(fd, "+", 1) == 1 && same(L "/file", "lower+"));
	CHECK(stat(L "/file", &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev && b.st_size == 6);
	CHECK(fstat(fd, &b) == 0 && a.st_ino == b.st_ino);
	CHECK(read(old, buf, sizeof buf) >= 5);
	CHECK(listed(L, "file") == 1 && same(L "/kept-link", "lower+"));
}

CASE(directories_by_links_of_proc)
{
	const char *dirs[] = { "/", L, L "/empty", "/tmp", "/proc" };
	put(L "/new-beside", "");
	for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
		char link[64];
		struct stat a, b;
		struct statx x;
		int fd = open(dirs[i], O_RDONLY | O_DIRECTORY);
		int counts = strcmp(dirs[i], "/proc") != 0; /* its links are the processes of just now */
		CHECK(fd >= 0 && stat(dirs[i], &a) == 0);
		for (int other = 0; other < 2; other++) {
			snprintf(link, sizeof link, other ? "/proc/self/fd/%d" : "/dev/fd/%d", fd);
			CHECK(stat(link, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev && (!counts || a.st_nlink == b.st_nlink));
			if (syscall(SYS_statx, AT_FDCWD, link, 0, STATX_BASIC_STATS, &x) == 0)
				CHECK(x.stx_ino == a.st_ino && (!counts || x.stx_nlink == a.st_nlink));
			else
				CHECK(errno == ENOSYS);
			CHECK(lstat(link, &b) == 0 && S_ISLNK(b.st_mode));
		}
		close(fd);
	}
	CHECK(unlink(L "/new-beside") == 0);
}

CASE(union_truncate_and_times)
{
	struct timespec t[2] = { { 1000, 0 }, { 2000, 5 } };
	struct stat s;
	CHECK(truncate(L "/ro", 1) == 0 || errno == EACCES);
	CHECK(utimensat(AT_FDCWD, L "/dir/two", t, 0) == 0 && stat(L "/dir/two", &s) == 0 && s.st_mtim.tv_sec == 2000);
	CHECK(same(L "/dir/two", "2") && listed(L "/dir", "two") == 1);
	CHECK(chmod(L "/dir/two", 0600) == 0 && stat(L "/dir/two", &s) == 0 && (s.st_mode & 0777) == 0600 && s.st_mtim.tv_sec == 2000);
}

CASE(union_remove_and_make_again)
{
	char b[512];
	CHECK(names(L "/dir", b, sizeof b) == 3);
	CHECK(unlink(L "/dir/one") == 0 && !there(L "/dir/one") && listed(L "/dir", "one") == 0);
	FAILS(open(L "/dir/one", O_RDONLY), ENOENT);
	FAILS(open(L "/dir/one", O_PATH), ENOENT);
	FAILS(unlink(L "/dir/one"), ENOENT);
	FAILS(rmdir(L "/dir"), ENOTEMPTY);
	put(L "/dir/one", "again");
	CHECK(same(L "/dir/one", "again") && listed(L "/dir", "one") == 1 && names(L "/dir", b, sizeof b) == 3);
	CHECK(unlink(L "/dir/one") == 0 && mkdir(L "/dir/one", 0755) == 0 && names(L "/dir/one", b, sizeof b) == 0);
	CHECK(rmdir(L "/dir/one") == 0 && !there(L "/dir/one"));
}

CASE(union_remove_directory)
{
	char b[512];
	FAILS(rmdir(L "/tree"), ENOTEMPTY);
	CHECK(unlink(L "/tree/x") == 0 && unlink(L "/tree/sub/y") == 0 && rmdir(L "/tree/sub") == 0 && rmdir(L "/tree") == 0);
	CHECK(!there(L "/tree") && !there(L "/tree/x") && listed(L, "tree") == 0);
	CHECK(mkdir(L "/tree", 0755) == 0 && names(L "/tree", b, sizeof b) == 0 && !there(L "/tree/x") && !there(L "/tree/sub"));
	put(L "/tree/sub", "a file now");
	CHECK(same(L "/tree/sub", "a file now") && names(L "/tree", b, sizeof b) == 1);
}

/* What is done to a directory that is held open, after it and what it was in were removed: whether it is refused or is of no
 * consequence, the image's own stays as it is. */
CASE(union_directory_removed_with_what_it_was_in)
{
	struct timespec t[2] = { { 1000, 0 }, { 2000, 5 } };
	int fd = open(L "/gone/deep", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0 && chdir(L "/gone/deep") == 0);
	CHECK(unlink("f") == 0 && rmdir(L "/gone/deep") == 0 && rmdir(L "/gone") == 0);
	fchmodat(fd, ".", 0711, 0);
	fchmod(fd, 0711);
	chmod(".", 0711);
	utimensat(fd, ".", t, 0);
	utimensat(AT_FDCWD, ".", t, 0);
	futimens(fd, t);
	if (fchownat(fd, ".", 0, 0, 0) || chown(".", 0, 0) || fchown(fd, 0, 0))
		errno = 0;
	setxattr(".", "user.a", "x", 1, 0);
	fsetxattr(fd, "user.b", "x", 1, 0);
	FAILS(mkdirat(fd, "new", 0755), ENOENT);
	FAILS(mkdir("new", 0755), ENOENT);
	FAILS(open("new", O_WRONLY | O_CREAT, 0644), ENOENT);
	CHECK(!there(L "/gone") && listed(L, "gone") == 0);
}

CASE(union_rename)
{
	struct stat s;
	put("new", "new");
	CHECK(rename(L "/ren/a", L "/ren/b2") == 0 && !there(L "/ren/a") && same(L "/ren/b2", "a"));
	CHECK(rename("new", L "/ren/c") == 0 && same(L "/ren/c", "new") && listed(L "/ren", "c") == 1);
	CHECK(rename(L "/ren/c", L "/ren/d") == 0 && same(L "/ren/d", "new") && !there(L "/ren/c") && listed(L "/ren", "c") == 0);
	FAILS(rename(L "/ren/d", L "/ren/sub"), EISDIR);
	FAILS(rename(L "/ren/sub", L "/ren/d"), ENOTDIR);
	if (rename(L "/ren/sub", L "/ren/moved") == 0)
		CHECK(stat(L "/ren/moved/z", &s) == 0 && !there(L "/ren/sub"));
	else
		CHECK(errno == EXDEV && there(L "/ren/sub/z"));
	CHECK(mkdir(L "/ren/mine", 0755) == 0);
	put(L "/ren/mine/f", "f");
	CHECK(rename(L "/ren/mine", L "/ren/mine2") == 0 && same(L "/ren/mine2/f", "f"));
	FAILS(syscall(SYS_renameat2, AT_FDCWD, L "/ren/d", AT_FDCWD, L "/ren/e", 1), EEXIST);
}

CASE(union_links)
{
	struct stat s;
	CHECK(link(L "/hard", L "/hard3") == 0 && stat(L "/hard3", &s) == 0 && s.st_nlink >= 2 && same(L "/hard3", "hard"));
	put(L "/hard3", "changed");
	CHECK(same(L "/hard", "changed"));
	CHECK(unlink(L "/link") == 0 && symlink("dir", L "/link") == 0 && there(L "/link/two"));
}

CASE(union_descriptors_across_the_first_write)
{
	struct stat a, b;
	char p[64], buf[16];
	int d = open(L "/fds", O_RDONLY | O_DIRECTORY), fd = open(L "/fds/f", O_RDONLY), path = open(L "/fds/g", O_PATH), e;
	CHECK(d >= 0 && fd >= 0 && path >= 0);
	e = openat(d, "new", O_WRONLY | O_CREAT, 0644);
	CHECK(e >= 0 && fstatat(d, "new", &a, 0) == 0 && there(L "/fds/new") && listed(L "/fds", "new") == 1);
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	e = open(p, O_RDWR);
	CHECK(e >= 0 && write(e, "W", 1) == 1 && same(L "/fds/f", "Wf"));
	snprintf(p, sizeof p, "/proc/self/fd/%d", path);
	e = open(p, O_WRONLY | O_TRUNC);
	CHECK(e >= 0 && write(e, "new", 3) == 3 && same(L "/fds/g", "new"));
	CHECK(fchmod(fd, 0600) == 0 && stat(L "/fds/f", &b) == 0 && (b.st_mode & 0777) == 0600);
	CHECK(unlinkat(d, "g", 0) == 0 && !there(L "/fds/g"));
	FAILS(openat(d, "g", O_RDONLY), ENOENT);
	CHECK(read(fd, buf, sizeof buf) >= 0);
	e = open(L "/fds/h", O_RDONLY);
	CHECK(e >= 0 && fchmod(e, 0640) == 0 && futimens(e, NULL) == 0 && fstat(e, &a) == 0);
	CHECK(stat(L "/fds/h", &b) == 0 && (b.st_mode & 0777) == 0640);
}

CASE(union_mapped_writes)
{
	int fd = open(L "/map", O_RDWR);
	char *m = mmap(NULL, 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(fd >= 0 && m != MAP_FAILED);
	memcpy(m, "MAP!", 4);
	CHECK(msync(m, 4, MS_SYNC) == 0 && same(L "/map", "MAP!"));
}

CASE(union_cwd_below)
{
	char b[256];
	CHECK(chdir(L "/cwd") == 0 && same("f", "f"));
	put("n", "n");
	CHECK(same("n", "n") && same(L "/cwd/n", "n") && listed(".", "n") == 1 && listed(".", "f") == 1);
	CHECK(mkdir("s", 0755) == 0 && chdir("s") == 0 && same("../f", "f") && same("../n", "n"));
	CHECK(getcwd(b, sizeof b) && !strcmp(b, L "/cwd/s"));
	CHECK(chdir("..") == 0 && unlink("f") == 0 && !there("f") && listed(".", "f") == 0);
}

CASE(union_listing_is_stable)
{
	DIR *d;
	struct dirent *e;
	char name[32];
	long half = 0;
	int n = 0, again = 0;
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, L "/many/upper%d", i);
		put(name, "");
	}
	d = opendir(L "/many");
	CHECK(d);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (++n == 100)
			half = telldir(d);
		CHECK(e->d_type == DT_REG || e->d_type == DT_UNKNOWN);
	}
	CHECK(n == 500);
	rewinddir(d);
	while (readdir(d))
		again++;
	CHECK(again == 502);
	seekdir(d, half);
	for (n = 100; readdir(d);)
		n++;
	CHECK(n >= 500 && n <= 502);
	rewinddir(d);
	n = 0;
	while ((e = readdir(d))) /* removed while it is read */
		if (e->d_name[0] != '.' && ++n)
			CHECK(unlinkat(dirfd(d), e->d_name, 0) == 0);
	CHECK(n == 500);
	CHECK(rmdir(L "/many") == 0);
}

static void *grow(void *arg)
{
	for (int i = 0; i < 50; i++) {
		int fd = open(L "/race", O_WRONLY | O_APPEND);
		if (fd < 0 || write(fd, (char *)arg, 1) != 1)
			return (void *)1;
		close(fd);
	}
	return NULL;
}

CASE(union_two_writers_race)
{
	pthread_t a, b;
	void *r, *s;
	struct stat st;
	pthread_create(&a, NULL, grow, "a");
	pthread_create(&b, NULL, grow, "b");
	pthread_join(a, &r);
	pthread_join(b, &s);
	CHECK(!r && !s && stat(L "/race", &st) == 0 && st.st_size == 104);
}

CASE(union_attributes)
{
	char v[16];
	if (setxattr(L "/xattr", "user.mine", "v", 1, 0) < 0) {
		CHECK(errno == EOPNOTSUPP || errno == ENOTSUP);
		return;
	}
	CHECK(getxattr(L "/xattr", "user.mine", v, sizeof v) == 1 && v[0] == 'v' && same(L "/xattr", "x"));
	CHECK(removexattr(L "/xattr", "user.mine") == 0);
}

CASE(union_special_files)
{
	struct sockaddr_un u = { AF_UNIX, L "/special/sock" };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stat st;
	CHECK(mkfifo(L "/special/fifo", 0600) == 0 && stat(L "/special/fifo", &st) == 0 && S_ISFIFO(st.st_mode));
	CHECK(bind(s, (void *)&u, sizeof u) == 0 && stat(u.sun_path, &st) == 0 && S_ISSOCK(st.st_mode));
	CHECK(listed(L "/special", "sock") == 1 && listed(L "/special", "lowerfile") == 1);
}

CASE(read_only_bind)
{
	struct stat s;
	CHECK(stat("/ro/file", &s) == 0 && same("/ro/file", "ro"));
	FAILS(open("/ro/file", O_WRONLY), EROFS);
	FAILS(open("/ro/new", O_WRONLY | O_CREAT, 0644), EROFS);
	FAILS(mkdir("/ro/d", 0755), EROFS);
	FAILS(unlink("/ro/file"), EROFS);
	FAILS(rename("/ro/file", "/ro/g"), EROFS);
	FAILS(chmod("/ro/file", 0600), EROFS);
	FAILS(utimensat(AT_FDCWD, "/ro/file", NULL, 0), EROFS);
	FAILS(truncate("/ro/file", 0), EROFS);
	FAILS(access("/ro/file", W_OK), EROFS);
	CHECK(access("/ro/file", R_OK) == 0);
	int fd = open("/ro/file", O_RDONLY);
	FAILS(fchmod(fd, 0600), EROFS);
}

CASE(binds)
{
	struct stat s;
	CHECK(same("/rw/file", "bind") && same("/rw/nested/file", "nested"));
	put("/rw/made", "made");
	CHECK(same("/rw/made", "made") && unlink("/rw/made") == 0);
	CHECK(same("/lower/bound", "bind"));
	FAILS(rename("/rw/file", "/tmp/x"), EXDEV);
	FAILS(link("/rw/file", "/tmp/x"), EXDEV);
	FAILS(rename("/rw/nested", "/rw/other"), EBUSY);
	FAILS(rmdir("/rw/nested"), EBUSY);
	FAILS(unlink("/lower/bound"), EBUSY);
	CHECK(listed("/", "rw") == 1 && stat("/rw/..", &s) == 0);
	CHECK(chdir("/rw/nested") == 0 && same("file", "nested") && same("../file", "bind"));
	CHECK(symlink("/etc/passwd", "/rw/abs") == 0 && stat("/rw/abs", &s) == 0 && unlink("/rw/abs") == 0);
}

/* Another process looks all the time; this one changes. */
CASE(changes_in_a_bind_are_seen_at_once)
{
	int ask[2], say[2];
	struct stat st;
	char c;
	pid_t pid;

	CHECK(mkdir("/rw/d", 0755) == 0 && mkdir("/rw/d/sub", 0755) == 0 && mkdir("/rw/d2", 0755) == 0 && mkdir("/rw/d2/sub", 0755) == 0);
	put("/rw/d/sub/f", "first");
	put("/rw/d2/sub/f", "second");
	CHECK(pipe(ask) == 0 && pipe(say) == 0);
	pid = fork();
	if (!pid) {
		int fd = open("/rw/d", O_RDONLY | O_DIRECTORY);

		CHECK(chdir("/rw") == 0 && fd >= 0);
		for (char step = '1'; step <= '3'; step++) {
			for (int i = 0; i < 3 * OFTEN; i++) {
				CHECK(stat("d/sub/f", &st) == (step == '3' ? -1 : 0) && stat("/rw/d/sub/f", &st) == (step == '3' ? -1 : 0));
				CHECK(step == '3' || (same("d/sub/f", step == '1' ? "first" : "second") && same("/rw/d/sub/f", step == '1' ? "first" : "second")));
				CHECK(fstatat(fd, "sub/f", &st, 0) == 0 && st.st_size == 5);
				CHECK(fstatat(fd, "sub", &st, 0) == 0 && S_ISDIR(st.st_mode) && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode));
			}
			CHECK(write(say[1], &step, 1) == 1 && read(ask[0], &c, 1) == 1);
		}
		_exit(0);
	}
	CHECK(read(say[0], &c, 1) == 1 && rename("/rw/d", "/rw/was") == 0 && symlink("/rw/d2", "/rw/d") == 0);
	CHECK(write(ask[1], "1", 1) == 1 && read(say[0], &c, 1) == 1 && rename("/rw/d2", "/rw/d3") == 0);
	CHECK(write(ask[1], "2", 1) == 1 && read(say[0], &c, 1) == 1 && write(ask[1], "3", 1) == 1 && wait_status(pid) == 0);
	CHECK(unlink("/rw/d") == 0 && unlink("/rw/d3/sub/f") == 0 && rmdir("/rw/d3/sub") == 0 && rmdir("/rw/d3") == 0);
	CHECK(unlink("/rw/was/sub/f") == 0 && rmdir("/rw/was/sub") == 0 && rmdir("/rw/was") == 0);
}

/* ls asks for attributes of each file. */
CASE(attributes_in_a_bind)
{
	const int root = emulated();
	char v[64];
	struct stat st;

	CHECK(mkdir("/rw/at", 0755) == 0);
	put("/rw/at/f", "x");
	put("/rw/at/plain", "x");
	CHECK(symlink("f", "/rw/at/l") == 0 && symlink("/etc/passwd", "/rw/at/out") == 0);
	if (setxattr("/rw/at/f", "user.mine", "value", 5, 0) < 0) {
		CHECK(errno == EOPNOTSUPP);
		return;
	}
	CHECK(!root || !setxattr("/rw/at/f", "security.mine", "v", 1, 0));
	CHECK(chdir("/rw") == 0);
	for (int i = 0; i < OFTEN; i++) {
		const char *at = i & 1 ? "at/f" : "/rw/at/f", *link = i & 1 ? "at/l" : "/rw/at/l", *plain = i & 1 ? "at/plain" : "/rw/at/plain";

		CHECK(stat(at, &st) == 0);
		CHECK(getxattr(at, "user.mine", v, sizeof v) == 5 && !memcmp(v, "value", 5) && lgetxattr(at, "user.mine", NULL, 0) == 5);
		CHECK(getxattr(link, "user.mine", v, sizeof v) == 5 && lgetxattr(link, "user.mine", v, sizeof v) < 0);
		FAILS(getxattr(at, "user.mine", v, 2), ERANGE);
		FAILS(getxattr(at, "user.mine", (void *)1, 64), EFAULT);
		FAILS(getxattr(at, "user.none", v, sizeof v), ENODATA);
		FAILS(getxattr(i & 1 ? "at/none" : "/rw/at/none", "user.mine", v, sizeof v), ENOENT);
		CHECK(!root || (lgetxattr(at, "security.mine", v, sizeof v) == 1 && v[0] == 'v'));
		CHECK(!root || (lgetxattr(plain, "security.mine", v, sizeof v) < 0 && errno == ENODATA));
		CHECK(listxattr(at, v, sizeof v) == (root ? 24 : 10) && listxattr(link, NULL, 0) == (root ? 24 : 10) && llistxattr(link, v, sizeof v) <= 0);
		CHECK(!root || (listxattr(plain, v, sizeof v) == 0 && llistxattr(plain, v, sizeof v) == 0));
		FAILS(getxattr(i & 1 ? "at/out" : "/rw/at/out", "user.mine", v, sizeof v), ENODATA);
	}
	CHECK(unlink("at/f") == 0 && unlink("at/plain") == 0 && unlink("at/l") == 0 && unlink("at/out") == 0 && rmdir("at") == 0);
}

/* What guest root gives to files is there when it looks, and tools that copy it find no error. */
CASE(security_attributes)
{
	static const char cap[20] = { 0, 0, 0, 2, 1 };
	char v[64];
	int fd;

	if (!emulated())
		return;
	put("f", "x");
	CHECK(!setxattr("f", "security.mine", "value", 5, 0));
	CHECK(getxattr("f", "security.mine", v, sizeof v) == 5 && !memcmp(v, "value", 5));
	CHECK(listxattr("f", v, sizeof v) == 14 && !strcmp(v, "security.mine"));
	FAILS(setxattr("f", "security.mine", "v", 1, XATTR_CREATE), EEXIST);
	fd = open("f", O_RDONLY);
	CHECK(!fsetxattr(fd, "security.capability", cap, sizeof cap, 0) && flistxattr(fd, NULL, 0) == 34);
	CHECK(fgetxattr(fd, "security.capability", v, sizeof v) == sizeof cap && !memcmp(v, cap, sizeof cap));
	CHECK(!fremovexattr(fd, "security.mine") && !lremovexattr("f", "security.capability"));
	FAILS(getxattr("f", "security.mine", v, sizeof v), ENODATA);
	CHECK(listxattr("f", v, sizeof v) == 0);
	FAILS(setxattr("f", "trusted.mine", "v", 1, 0), EPERM);
	CHECK(!setxattr(L "/tree", "security.mine", "v", 1, 0) && listxattr(L "/tree", v, sizeof v) == 14);
}

/* The kernel itself writes core files, to the working directory: not to the image's (its tree is compared at the end). */
CASE(a_core_file)
{
	struct rlimit most, all = { RLIM_INFINITY, RLIM_INFINITY };
	int status;
	pid_t pid;

	CHECK(getrlimit(RLIMIT_CORE, &most) == 0);
	most.rlim_cur = most.rlim_max;
	pid = fork();
	if (pid == 0) {
		CHECK(setrlimit(RLIMIT_CORE, &most) == 0 && chdir(L "/dir/sub") == 0);
		CHECK(setrlimit(RLIMIT_CORE, &all) == 0 || !emulated());
		most = (struct rlimit){ 4711, 4711 };
		CHECK(syscall(SYS_prlimit64, 0, RLIMIT_CORE, &all, &most) < 0 || most.rlim_cur != 4711);
		if (emulated()) { /* what was asked for is told, whether there will be a core file or not */
			most = (struct rlimit){ 8192, 16384 };
			CHECK(setrlimit(RLIMIT_CORE, &most) == 0 && getrlimit(RLIMIT_CORE, &most) == 0 && most.rlim_cur == 8192);
			most = (struct rlimit){ 4711, 4711 };
			CHECK(syscall(SYS_prlimit64, 0, RLIMIT_CORE, &(struct rlimit){ 0, 0 }, &most) == 0 && most.rlim_max == 16384);
			CHECK(getrlimit(RLIMIT_CORE, &most) == 0 && most.rlim_max == 0);
			CHECK(setrlimit(RLIMIT_CORE, &all) == 0);
		}
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
