/* Paths: resolved exactly as in a chroot. */
#include "case.h"

#include <linux/openat2.h>
#include <linux/stat.h>

CASE(dots_do_not_escape)
{
	struct stat a, b;
	CHECK(stat("/", &a) == 0 && stat("/../../../..", &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	CHECK(stat("/..", &b) == 0 && a.st_ino == b.st_ino);
	CHECK(symlink("../../../../../../../../../../etc/passwd", "up") == 0 && stat("up", &a) == 0);
	CHECK(stat("/etc/passwd", &b) == 0 && a.st_ino == b.st_ino);
}

CASE(cwd)
{
	char b[300], here[300];
	CHECK(getcwd(here, sizeof here) && !strncmp(here, "/tmp/case-", 10));
	CHECK(mkdir("a", 0755) == 0 && mkdir("a/b", 0755) == 0 && symlink("a/b", "l") == 0);
	CHECK(chdir("l") == 0 && getcwd(b, sizeof b) && !strcmp(b + strlen(here), "/a/b"));
	CHECK(chdir("..") == 0 && getcwd(b, sizeof b) && !strcmp(b + strlen(here), "/a"));
	CHECK(chdir("../../../../../..") == 0 && getcwd(b, sizeof b) && !strcmp(b, "/"));
	FAILS(syscall(SYS_getcwd, b, 1L), ERANGE);
	FAILS(chdir("/etc/passwd"), ENOTDIR);
	FAILS(chdir("/none"), ENOENT);
}

CASE(fchdir_and_dirfds)
{
	char b[300];
	struct stat s, t;
	int d = open("/etc", O_RDONLY | O_DIRECTORY), e;
	CHECK(d >= 0 && fchdir(d) == 0 && getcwd(b, sizeof b) && !strcmp(b, "/etc") && there("passwd"));
	CHECK(fstatat(d, "../etc/./passwd", &s, 0) == 0 && stat("/etc/passwd", &t) == 0 && s.st_ino == t.st_ino);
	CHECK(fstatat(d, "../../../../etc/passwd", &s, 0) == 0 && s.st_ino == t.st_ino);
	CHECK((e = openat(d, "/etc/passwd", O_RDONLY)) >= 0 && fstat(e, &s) == 0 && s.st_ino == t.st_ino);
	FAILS(openat(e, "x", O_RDONLY), ENOTDIR);
	FAILS(openat(9999, "x", O_RDONLY), EBADF);
	CHECK(openat(9999, "/etc/passwd", O_RDONLY) >= 0);
}

CASE(absolute_links)
{
	char b[300];
	struct stat s, t;
	CHECK(symlink("/etc/passwd", "l") == 0 && readlink("l", b, sizeof b) == 11 && !memcmp(b, "/etc/passwd", 11));
	CHECK(stat("l", &s) == 0 && stat("/etc/passwd", &t) == 0 && s.st_ino == t.st_ino);
	CHECK(lstat("l", &s) == 0 && S_ISLNK(s.st_mode) && s.st_size == 11);
	CHECK(open("l", O_RDONLY) >= 0);
	FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
	CHECK(readlink("l", b, 3) == 3);
	FAILS(syscall(SYS_readlinkat, AT_FDCWD, "l", b, 0), EINVAL);
	FAILS(readlink("/etc/passwd", b, 9), EINVAL);
	CHECK(symlink("/etc", "d") == 0 && stat("d/passwd", &s) == 0 && s.st_ino == t.st_ino);
	CHECK(lstat("d/", &s) == 0 && S_ISDIR(s.st_mode));
	CHECK(unlink("l") == 0 && there("/etc/passwd"));
}

CASE(link_loops)
{
	char name[16], target[16];
	struct stat s;
	CHECK(symlink("b", "a") == 0 && symlink("a", "b") == 0);
	FAILS(stat("a", &s), ELOOP);
	FAILS(open("a/x", O_RDONLY), ELOOP);
	CHECK(lstat("a", &s) == 0);
	put("end", "x");
	for (int i = 0; i < 41; i++) {
		snprintf(name, sizeof name, "n%d", i);
		if (i)
			snprintf(target, sizeof target, "n%d", i - 1);
		CHECK(symlink(i ? target : "end", name) == 0);
	}
	CHECK(stat("n39", &s) == 0);
	FAILS(stat("n40", &s), ELOOP);
}

CASE(dangling_links)
{
	struct stat s;
	CHECK(symlink("target", "l") == 0);
	FAILS(stat("l", &s), ENOENT);
	FAILS(open("l", O_WRONLY | O_CREAT | O_EXCL, 0644), EEXIST);
	FAILS(mkdir("l", 0755), EEXIST);
	int fd = open("l", O_WRONLY | O_CREAT, 0644);
	CHECK(fd >= 0 && there("target"));
	CHECK(symlink("/tmp/case-dangling_links/abs", "m") == 0);
	fd = open("m", O_WRONLY | O_CREAT, 0644);
	CHECK(fd >= 0 && there("abs"));
	CHECK(symlink("none/x", "n") == 0);
	FAILS(open("n", O_WRONLY | O_CREAT, 0644), ENOENT);
}

CASE(trailing_slashes_and_dots)
{
	struct stat s;
	put("f", "x");
	CHECK(mkdir("d", 0755) == 0 && symlink("d", "ld") == 0 && symlink("f", "lf") == 0);
	FAILS(stat("f/", &s), ENOTDIR);
	FAILS(stat("f/.", &s), ENOTDIR);
	FAILS(open("f/", O_RDONLY), ENOTDIR);
	FAILS(lstat("lf/", &s), ENOTDIR);
	FAILS(rmdir("ld/"), ENOTDIR);
	FAILS(unlink("ld/"), ENOTDIR);
	CHECK(there("d") && there("ld"));
	FAILS(unlink("d/"), EISDIR);
	FAILS(unlink("d"), EISDIR);
	FAILS(unlink("f/"), ENOTDIR);
	FAILS(rmdir("d/."), EINVAL);
	FAILS(rmdir("d/.."), ENOTEMPTY);
	FAILS(rmdir("f"), ENOTDIR);
	FAILS(open("new/", O_WRONLY | O_CREAT, 0644), EISDIR);
	FAILS(mkdir(".", 0755), EEXIST);
	FAILS(mkdir("d/..", 0755), EEXIST);
	CHECK(mkdir("e/", 0755) == 0 && there("e"));
	FAILS(symlink("x", "g/"), ENOENT);
	FAILS(rename("f", "g/"), ENOTDIR);
	FAILS(rename("d/.", "z"), EBUSY);
	FAILS(rename("d", "e/.."), EBUSY);
	FAILS(rename("d", "d/x"), EINVAL);
	CHECK(rename("d/", "dd/") == 0 && there("dd"));
	CHECK(chdir("dd") == 0);
	FAILS(rmdir("."), EINVAL);
	CHECK(there("/tmp/case-trailing_slashes_and_dots/dd"));
	FAILS(open("", O_RDONLY), ENOENT);
	FAILS(stat("", &s), ENOENT);
	CHECK(stat("//tmp///case-trailing_slashes_and_dots//./f", &s) == 0);
}

CASE(rename_kinds)
{
	struct stat a, b;
	put("f", "f");
	put("g", "g");
	CHECK(mkdir("d", 0755) == 0 && mkdir("full", 0755) == 0);
	put("full/x", "x");
	FAILS(rename("f", "d"), EISDIR);
	FAILS(rename("d", "f"), ENOTDIR);
	FAILS(rename("d", "full"), ENOTEMPTY);
	FAILS(rename("none", "x"), ENOENT);
	CHECK(stat("f", &a) == 0 && rename("f", "g") == 0 && stat("g", &b) == 0 && a.st_ino == b.st_ino && same("g", "f"));
	CHECK(rename("full", "d") == 0 && there("d/x") && !there("full"));
	CHECK(link("g", "h") == 0 && rename("g", "h") == 0 && there("g"));
	if (syscall(SYS_renameat2, AT_FDCWD, "g", AT_FDCWD, "h", 1) == 0 || (errno != EEXIST && errno != ENOSYS && errno != EINVAL))
		CHECK(0);
	put("i", "i");
	if (syscall(SYS_renameat2, AT_FDCWD, "g", AT_FDCWD, "i", 2) == 0)
		CHECK(same("g", "i") && same("i", "f"));
}

CASE(cached_directories_do_not_lie)
{
	CHECK(mkdir("a", 0755) == 0 && mkdir("b", 0755) == 0);
	put("a/f", "a");
	put("b/f", "b");
	for (int i = 0; i < 20; i++) {
		CHECK(symlink(i & 1 ? "a" : "b", "cur") == 0);
		CHECK(same("/tmp/case-cached_directories_do_not_lie/cur/f", i & 1 ? "a" : "b"));
		CHECK(unlink("cur") == 0);
		CHECK(!same("/tmp/case-cached_directories_do_not_lie/cur/f", i & 1 ? "a" : "b"));
		pid_t p = fork(); /* changed by another process */
		if (!p)
			_exit(rename("a", "t") || rename("b", "a") || rename("t", "b"));
		CHECK(wait_status(p) == 0);
		CHECK(same("/tmp/case-cached_directories_do_not_lie/a/f", "b"));
		CHECK(rename("a", "t") == 0 && rename("b", "a") == 0 && rename("t", "b") == 0);
	}
	CHECK(rename("a/f", "g") == 0 && rmdir("a") == 0 && symlink("b", "a") == 0);
	CHECK(same("/tmp/case-cached_directories_do_not_lie/a/f", "b"));
}

CASE(deleted_cwd)
{
	char b[300];
	struct stat s;
	CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0 && rmdir("../d") == 0);
	CHECK(stat(".", &s) == 0);
	FAILS(syscall(SYS_getcwd, b, sizeof b), ENOENT);
	FAILS(open("x", O_WRONLY | O_CREAT, 0644), ENOENT);
	CHECK(stat("/etc/passwd", &s) == 0 && chdir("/") == 0);
}

CASE(deep_tree)
{
	char b[8192];
	int depth = 0;
	for (; depth < 600; depth++) {
		CHECK(mkdir("a-directory-name-of-some-length", 0755) == 0);
		CHECK(chdir("a-directory-name-of-some-length") == 0);
	}
	put("bottom", "x");
	CHECK(same("bottom", "x") && there("../a-directory-name-of-some-length/bottom"));
	CHECK(syscall(SYS_getcwd, b, 4096L) < 0 && (errno == ERANGE || errno == ENAMETOOLONG));
	CHECK(unlink("bottom") == 0);
	for (; depth; depth--)
		CHECK(chdir("..") == 0 && rmdir("a-directory-name-of-some-length") == 0);
	CHECK(getcwd(b, sizeof b) && !strcmp(b, "/tmp/case-deep_tree"));
}

CASE(long_names)
{
	char name[300], path[5000] = "";
	struct stat s;
	memset(name, 'n', 256);
	name[255] = 0;
	put(name, "x");
	CHECK(same(name, "x") && unlink(name) == 0);
	name[255] = 'n';
	name[256] = 0;
	FAILS(stat(name, &s), ENAMETOOLONG);
	while (strlen(path) < 4090)
		strcat(path, "./");
	strcat(path, "f");
	put("f", "x");
	CHECK(stat(path, &s) == 0);
	memset(path, '/', 4096);
	path[4096] = 0;
	FAILS(stat(path, &s), ENAMETOOLONG);
	put("\xff\xfe-not-utf8 \n", "y");
	CHECK(same("\xff\xfe-not-utf8 \n", "y"));
}

CASE(path_of_4095_bytes)
{
	char path[5000], part[201], cwd[300];
	size_t n;
	CHECK(getcwd(cwd, sizeof cwd));
	memset(part, 'p', 200);
	part[200] = 0;
	strcpy(path, cwd);
	n = strlen(path);
	while (n + 202 < 4090) {
		CHECK(mkdir(part, 0755) == 0 && chdir(part) == 0);
		n += (size_t)sprintf(path + n, "/%s", part);
	}
	sprintf(path + n, "/%.*s", (int)(4094 - n), part);
	CHECK(strlen(path) == 4095);
	put(path, "far");
	CHECK(same(path, "far") && chdir("/") == 0 && same(path, "far") && unlink(path) == 0);
	while (n > strlen(cwd)) {
		CHECK(rmdir(path) == 0 || errno == ENOENT);
		n -= 201;
		path[n + 201] = 0;
		rmdir(path);
		path[n] = 0;
	}
}

CASE(descriptor_links)
{
	char p[64], b[300];
	struct stat s, t;
	int fd = open("/etc/passwd", O_RDONLY), e, pipes[2];
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(p, b, sizeof b);
	CHECK(n == 11 && !memcmp(b, "/etc/passwd", 11));
	CHECK((e = open(p, O_RDONLY)) >= 0 && fstat(e, &s) == 0 && fstat(fd, &t) == 0 && s.st_ino == t.st_ino);
	snprintf(p, sizeof p, "/dev/fd/%d", fd);
	CHECK(open(p, O_RDONLY) >= 0);
	CHECK(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1);
	snprintf(p, sizeof p, "/dev/fd/%d", pipes[0]);
	CHECK((e = open(p, O_RDONLY)) >= 0 && read(e, b, 1) == 1);
	put("f", "gone");
	fd = open("f", O_RDWR);
	CHECK(unlink("f") == 0);
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	CHECK((e = open(p, O_RDWR)) >= 0 && read(e, b, 4) == 4 && !memcmp(b, "gone", 4));
	CHECK(stat(p, &s) == 0 && s.st_size == 4 && lstat(p, &s) == 0 && S_ISLNK(s.st_mode));
	fd = open("/etc", O_RDONLY);
	snprintf(p, sizeof p, "/proc/self/fd/%d/passwd", fd);
	CHECK(stat(p, &s) == 0 && s.st_ino == t.st_ino);
	CHECK(stat("/proc/self/cwd/", &s) == 0 && stat("/proc/self/root/etc/passwd", &s) == 0 && s.st_ino == t.st_ino);
}

CASE(opath)
{
	char p[64];
	struct stat s;
	int fd = open("/etc/passwd", O_PATH), l;
	CHECK(fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode));
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	CHECK(open(p, O_RDONLY) >= 0);
	CHECK(symlink("/etc/passwd", "l") == 0 && (l = open("l", O_PATH | O_NOFOLLOW)) >= 0);
	CHECK(fstat(l, &s) == 0 && S_ISLNK(s.st_mode) && readlinkat(l, "", p, sizeof p) == 11);
	CHECK((l = open("l", O_PATH)) >= 0 && fstat(l, &s) == 0 && S_ISREG(s.st_mode));
}

CASE(unnamed_file)
{
	static const mode_t modes[] = { 06711, 0, 01400, 0200 };
	struct stat s;
	char p[64];
	int fd = open(".", O_TMPFILE | O_RDWR | O_PATH, 0644);
	CHECK(fd >= 0 && fstat(fd, &s) == 0 && S_ISDIR(s.st_mode)); /* of which O_PATH leaves nothing */
	fd = open(".", O_TMPFILE | O_RDWR, 0644);
	if (fd < 0 && errno == EOPNOTSUPP)
		return;
	CHECK(fd >= 0 && write(fd, "tmp", 3) == 3);
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	CHECK(linkat(AT_FDCWD, p, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0 && same("named", "tmp"));
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		fd = open(".", O_TMPFILE | O_RDWR, modes[i]);
		snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
		CHECK(fd >= 0 && write(fd, "x", 1) == 1 && fstat(fd, &s) == 0 && (s.st_mode & 07777) == modes[i]);
		CHECK(unlink("named") == 0 && linkat(AT_FDCWD, p, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
		CHECK(stat("named", &s) == 0 && (s.st_mode & 07777) == modes[i] && close(fd) == 0);
	}
}

CASE(newer_calls)
{
	struct open_how how = { .flags = O_RDONLY };
	struct stat s;
	int fd;
	put("f", "x");
	fd = (int)syscall(SYS_openat2, AT_FDCWD, "f", &how, sizeof how);
	CHECK(fd >= 0 || errno == ENOSYS);
	how.resolve = RESOLVE_BENEATH;
	fd = (int)syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", &how, sizeof how);
	CHECK(fd < 0 && (errno == ENOSYS || errno == EXDEV));
	CHECK(syscall(SYS_faccessat2, AT_FDCWD, "f", W_OK, AT_EACCESS) == 0 || errno == ENOSYS);
	CHECK(syscall(452 /* fchmodat2 */, AT_FDCWD, "f", 0600, AT_SYMLINK_NOFOLLOW) == 0 || errno == ENOSYS);
	CHECK(chmod("f", 0640) == 0 && stat("f", &s) == 0 && (s.st_mode & 07777) == 0640);
	FAILS(syscall(999), ENOSYS);
	CHECK(syscall(463 /* setxattrat */, AT_FDCWD, "/etc/passwd", 0, "user.x", NULL, 0L) < 0);
}

CASE(statx_agrees_with_stat)
{
	struct statx x;
	struct stat s;
	CHECK(stat("/etc/passwd", &s) == 0 && syscall(SYS_statx, AT_FDCWD, "/etc/passwd", 0, STATX_BASIC_STATS, &x) == 0);
	CHECK(x.stx_ino == s.st_ino && x.stx_uid == s.st_uid && x.stx_mode == s.st_mode && x.stx_size == (uint64_t)s.st_size);
	int fd = open("/etc/passwd", O_RDONLY);
	CHECK(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x) == 0 && x.stx_ino == s.st_ino && x.stx_uid == s.st_uid);
	CHECK(fstat(fd, &s) == 0 && x.stx_ino == s.st_ino && x.stx_mode == s.st_mode);
}

CASE(watches)
{
	char b[512];
	int f = inotify_init1(IN_NONBLOCK), fd;
	CHECK(inotify_add_watch(f, ".", IN_CREATE) >= 0);
	fd = open("x", O_CREAT | O_WRONLY, 0644);
	CHECK(fd >= 0 && read(f, b, sizeof b) > 0);
	FAILS(inotify_add_watch(f, "none", IN_CREATE), ENOENT);
}

CASE(kernel_link_restrictions)
{
	struct stat s;
	put("f", "x");
	FAILS(link(".", "g"), EPERM);
	CHECK(link("f", "g") == 0 && stat("g", &s) == 0 && s.st_nlink == 2);
	FAILS(link("f", "g"), EEXIST);
	CHECK(symlink("f", "l") == 0 && link("l", "k") == 0 && lstat("k", &s) == 0 && S_ISLNK(s.st_mode));
	CHECK(linkat(AT_FDCWD, "l", AT_FDCWD, "m", AT_SYMLINK_FOLLOW) == 0 && lstat("m", &s) == 0 && S_ISREG(s.st_mode));
}

CASE(mounts_are_listed)
{
	char line[4096];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	int root = 0, proc = 0;
	CHECK(f);
	while (fgets(line, sizeof line, f)) {
		char target[4096];
		CHECK(sscanf(line, "%*d %*d %*s %*s %4095s", target) == 1 && !strstr(target, "upper"));
		root |= !strcmp(target, "/");
		proc |= !strcmp(target, "/proc");
	}
	CHECK(root && proc);
}
