/* Directories without a path of their own, and walks that must stay inside of one. */
#include "case.h"

#include <linux/openat2.h>
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

#define LEVELS 100

static int same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static int open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

CASE(a_long_way_leaves_nothing_open)
{
	const int levels = 2024;
	char path[2 * 2024 + 40] = "";
	struct stat st;
	int before, fd;

	for (int i = 0; i < levels; i++) {
		CHECK(!mkdir("a", 0755) && !chdir("a"));
		memcpy(path + 2 * i, "a/", 2);
	}
	strcpy(path + 2 * levels, "f");
	put("f", "x");
	CHECK(!chdir("/tmp/case-a_long_way_leaves_nothing_open"));
	before = open_files();
	for (int i = 0; i < 4; i++) {
		path[0] = i % 2 ? 'a' : 'b'; /* nothing is remembered of a name that is new */
		CHECK(!rename(i % 2 ? "b" : "a", i % 2 ? "a" : "b"));
		CHECK(!stat(path, &st) && st.st_size == 1 && !access(path, R_OK) && !chmod(path, 0600 + i));
		CHECK((fd = open(path, O_RDONLY)) >= 0 && !close(fd));
	}
	CHECK(open_files() == before);
	path[2 * levels - 1] = 0;
	CHECK(!chdir(path) && !unlink("f"));
	for (int i = 0; i < levels; i++)
		CHECK(!chdir("..") && !rmdir("a"));
	CHECK(open_files() == before);
}

CASE(deeper_than_a_path_can_tell)
{
	char name[101], up[3 * LEVELS + 40] = "", c[64];

	memset(name, 'd', 100);
	name[100] = 0;
	for (int i = 0; i < LEVELS; i++) {
		CHECK(!mkdir(name, 0755) && !chdir(name));
		strcat(up, "../");
	}
	put("f", "text");
	CHECK(!symlink("f", "l") && !symlink("/etc/passwd", "absolute") && !symlink("..", "up"));
	CHECK(same("l", "text") && same_file("absolute", "/etc/passwd"));
	CHECK(!mkdir("up/other", 0700) && !rmdir("../other"));
	CHECK(same_file(up, "/tmp/case-deeper_than_a_path_can_tell"));
	strcat(up, "../../../../../../etc/passwd");
	CHECK(same_file(up, "/etc/passwd")); /* and not the host's */
	CHECK(!rename("f", "g") && !unlink("g") && !unlink("l") && !unlink("absolute") && !unlink("up"));
	for (int i = 0; i < LEVELS; i++)
		CHECK(!chdir("..") && !rmdir(name));
	CHECK(getcwd(c, sizeof c) && !strcmp(c, "/tmp/case-deeper_than_a_path_can_tell"));
}

CASE(long_names_from_a_directory)
{
	char name[256], path[4096] = "", *end;
	struct stat st;
	int levels = 16;

	memset(name, 'n', 254);
	name[254] = 0;
	for (int i = 0; i < levels; i++) {
		if (i)
			strcat(path, "/");
		strcat(path, name);
		if (i < levels - 1)
			CHECK(!mkdir(path, 0755));
	}
	CHECK(strlen(path) == 4079 && !mkdir(path, 0755) && !stat(path, &st) && S_ISDIR(st.st_mode) && !rmdir(path));
	put(path, "x");
	put("here", "y");
	CHECK(same(path, "x") && !rename("here", path) && same(path, "y") && !link(path, "also") && same("also", "y"));
	CHECK(!unlink(path));
	while ((end = strrchr(path, '/'))) {
		*end = 0;
		CHECK(!rmdir(path));
	}
}

CASE(a_deleted_directory)
{
	struct stat st;
	char c[64];

	CHECK(!mkdir("gone", 0755) && !chdir("gone") && !rmdir("../gone"));
	CHECK(!stat(".", &st) && same_file("..", "/tmp/case-a_deleted_directory"));
	FAILS(stat("x", &st), ENOENT);
	FAILS(mkdir("x", 0755), ENOENT);
	FAILS(open("x", O_CREAT | O_WRONLY, 0644), ENOENT);
	CHECK(same_file("../../../../../../../etc/passwd", "/etc/passwd"));
	CHECK(!chdir("..") && getcwd(c, sizeof c));
}

/* Descriptors may come from outside: names relative to them must not reach what the container does not have. */
CASE(a_directory_from_outside_has_no_names)
{
	struct stat st;
	const char *number = getenv("CONTRACT_OUTSIDE");
	int fd;

	if (!number)
		return;
	fd = atoi(number);
	CHECK(!fstat(fd, &st) && S_ISDIR(st.st_mode));
	CHECK(openat(fd, "secret", O_RDONLY) < 0 && errno == ENOENT);
	CHECK(openat(fd, "sub/secret", O_RDONLY) < 0 && errno == ENOENT);
	CHECK(openat(fd, "..", O_RDONLY) < 0 && openat(fd, "../outside/secret", O_RDONLY) < 0);
	CHECK(!fchdir(fd) && openat(AT_FDCWD, "./secret", O_RDONLY) < 0 && open("../outside/secret", O_RDONLY) < 0);
	CHECK(open("new", O_CREAT | O_WRONLY, 0644) < 0 && !chdir("/") && there("etc"));
}

static int opened(int dir, const char *path, uint64_t resolve)
{
	struct open_how how = { .flags = O_RDONLY, .resolve = resolve };
	int fd;

	do /* whatever is renamed or mounted anywhere meanwhile makes ".." EAGAIN */
		fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
	while (fd < 0 && errno == EAGAIN);
	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

CASE(restricted_opening)
{
	int d;

	CHECK(!mkdir("d", 0755) && !mkdir("d/e", 0755));
	put("f", "outer");
	put("d/f", "inner");
	CHECK(!symlink("f", "d/l") && !symlink("/f", "d/abs") && !symlink("../f", "d/out") && !symlink("e", "d/el"));
	d = open("d", O_RDONLY);
	if (opened(d, "f", 0) == ENOSYS)
		return;
	CHECK(opened(d, "l", RESOLVE_BENEATH) == 0 && opened(d, "el/../f", RESOLVE_BENEATH) == 0);
	CHECK(opened(d, "abs", RESOLVE_BENEATH) == EXDEV && opened(d, "out", RESOLVE_BENEATH) == EXDEV);
	CHECK(opened(d, "..", RESOLVE_BENEATH) == EXDEV && opened(d, "/f", RESOLVE_BENEATH) == EXDEV);
	CHECK(opened(d, "e/../..", RESOLVE_BENEATH) == EXDEV && opened(d, "nope", RESOLVE_BENEATH) == ENOENT);
	CHECK(opened(d, "abs", RESOLVE_IN_ROOT) == 0 && opened(d, "../../../f", RESOLVE_IN_ROOT) == 0);
	CHECK(opened(d, "/etc/passwd", RESOLVE_IN_ROOT) == ENOENT);
	CHECK(opened(d, "l", RESOLVE_NO_SYMLINKS) == ELOOP && opened(d, "el/../f", RESOLVE_NO_SYMLINKS) == ELOOP);
	CHECK(opened(d, "f", RESOLVE_NO_SYMLINKS) == 0);
	CHECK(opened(d, "/proc/self/fd/0", RESOLVE_NO_MAGICLINKS) == ELOOP);
	CHECK(opened(d, "/proc/version", RESOLVE_NO_XDEV) == EXDEV && opened(d, "f", RESOLVE_NO_XDEV) == 0);
	CHECK(opened(d, "f", 64) == EINVAL && opened(d, "f", RESOLVE_BENEATH | RESOLVE_IN_ROOT) == EINVAL);
}

/* By offset: the C library may be older than the fields. */
#define ATTRIBUTES(x) ((x)[1])
#define MOUNT_ROOT 0x2000
#define MOUNT_ID(x) ((x)[0x90 / 8])

static int mount_of(int fd, const char *path, int flags, uint64_t *to)
{
	return syscall(SYS_statx, fd, path, flags, 0x17ff, to) || !(to[0] & 0x1000);
}

/* systemd's programs look at each component of a path in this way. */
CASE(mounts_of_descriptors)
{
	static const char *const places[] = { "/", "/etc/passwd", "/proc", "/rw", "/rw/nested", "/ro", "/ro/file", "/lower/bound", "." };
	uint64_t by_path[32], by_fd[32], ids[9];

	if (mount_of(AT_FDCWD, "/", 0, by_path)) /* Linux 5.8 */
		return;
	for (int i = 0; i < 9; i++) {
		int fd = open(places[i], O_PATH | O_CLOEXEC);

		CHECK(fd >= 0 && !mount_of(AT_FDCWD, places[i], 0, by_path) && !mount_of(fd, "", AT_EMPTY_PATH, by_fd));
		CHECK(MOUNT_ID(by_path) == MOUNT_ID(by_fd) && !((ATTRIBUTES(by_path) ^ ATTRIBUTES(by_fd)) & MOUNT_ROOT));
		CHECK(!(ATTRIBUTES(by_path) & MOUNT_ROOT) == (i == 1 || i == 6 || i == 8));
		ids[i] = MOUNT_ID(by_fd);
		close(fd);
	}
	CHECK(ids[0] == ids[1] && ids[0] == ids[8] && ids[5] == ids[6]);
	for (int i = 2; i < 8; i++)
		for (int j = 0; j < i; j++)
			CHECK(ids[i] != ids[j] || (i == 6 && j == 5));
}

/* Who stands below a directory that is then closed goes on there, but does not come back that way. */
CASE(below_a_closed_directory)
{
	struct stat s;
	char here[4096];
	int fd, user = getuid() != 0;
	CHECK(mkdir("shut", 0755) == 0 && mkdir("shut/d", 0755) == 0 && mkdir("shut/d/old", 0755) == 0);
	put("shut/d/old/f", "old");
	CHECK(chdir("shut/d") == 0 && getcwd(here, sizeof here) && chmod("..", 0) == 0);
	CHECK(mkdir("a", 0755) == 0 && mkdir("a/b", 0755) == 0 && mkdir("./a//b/c/", 0755) == 0);
	put("a/b/f", "x");
	CHECK(symlink("b", "a/l") == 0);
	CHECK(same("a/l/f", "x"));
	CHECK(same("a/b/../b/f", "x"));
	CHECK(same("old/f", "old"));
	CHECK(stat("a/b/c", &s) == 0 && S_ISDIR(s.st_mode) && s.st_uid == geteuid() && stat("a/none/x", &s) == -1 && errno == ENOENT);
	CHECK(rename("a/b/f", "a/g") == 0 && link("a/g", "old/g") == 0 && same("old/g", "x") && chmod("old/g", 0600) == 0);
	CHECK(lstat("old/g", &s) == 0 && (s.st_mode & 07777) == 0600 && s.st_nlink == 2 && unlink("a/g") == 0 && rmdir("a/b/c") == 0);
	fd = open("a/b", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0 && mkdirat(fd, "x", 0755) == 0 && mkdirat(fd, "x/y", 0755) == 0 && fstatat(AT_FDCWD, "a/b/x/y", &s, 0) == 0);
	CHECK(chdir("a/b") == 0 && there("x/y"));
	CHECK(there("../b/x/y"));
	CHECK(chdir("../..") == 0 && there("a/b/x"));
	if (user) {
		FAILS(stat("../d", &s), EACCES);
		FAILS(stat("../d/a", &s), EACCES);
		FAILS(stat(here, &s), EACCES);
		FAILS(mkdir("../e", 0755), EACCES);
	}
	CHECK(chmod("..", 0755) == 0 && there("../d/a/b/x/y"));
}

/* Where the caller is an ordinary user (test_cases.py), what is made without bits is closed to him at once. */
CASE(made_without_bits)
{
	struct stat s;
	int fd;
	if (!getuid())
		return;
	umask(0);
	CHECK(mkdir("d", 0111) == 0 && stat("d", &s) == 0 && (s.st_mode & 07777) == 0111);
	CHECK(!opendir("d") && errno == EACCES);
	FAILS(mkdir("d/e", 0777), EACCES);
	FAILS(access("d", W_OK), EACCES);
	CHECK(mkdir("none", 0) == 0 && lstat("none", &s) == 0 && !(s.st_mode & 07777));
	FAILS(stat("none/x", &s), EACCES);
	fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1 && fstat(fd, &s) == 0 && !(s.st_mode & 07777));
	FAILS(open("f", O_RDONLY), EACCES);
	CHECK(mkfifo("p", 0) == 0 && lstat("p", &s) == 0 && !(s.st_mode & 07777));
	FAILS(open("p", O_RDONLY | O_NONBLOCK), EACCES);
	/* the same where a name of the image was */
	CHECK(rmdir("/lower/empty") == 0 && mkdir("/lower/empty", 0111) == 0 && !opendir("/lower/empty") && errno == EACCES);
	CHECK(unlink("/lower/special/lowerfile") == 0 && (fd = open("/lower/special/lowerfile", O_WRONLY | O_CREAT, 0200)) >= 0);
	FAILS(open("/lower/special/lowerfile", O_RDONLY), EACCES);
	CHECK(chmod("d", 0700) == 0 && mkdir("d/e", 0) == 0 && rmdir("d/e") == 0 && chmod("f", 0400) == 0 && same("f", "x"));
}

/* To an ordinary user a directory without x is closed for all that is looked up in it, whatever was known before. */
CASE(nothing_leads_through_a_closed_directory)
{
	struct stat s;
	int here = open(".", O_RDONLY | O_DIRECTORY), fd;
	if (!getuid())
		return;
	CHECK(here >= 0 && mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0);
	put("d/e/f", "x");
	CHECK(there("d/.") && there("d/..") && there("d/e/f") && there("d/e/../e/f") && there("d/e/../.."));
	CHECK(chmod("d", 0644) == 0 && stat("d", &s) == 0);
	FAILS(stat("d/.", &s), EACCES);
	FAILS(stat("d/..", &s), EACCES);
	FAILS(stat("d/../d", &s), EACCES);
	FAILS(stat("d/e/f", &s), EACCES);
	FAILS(open("d/e/f", O_RDONLY), EACCES);
	CHECK(chmod("d", 0755) == 0 && same("d/e/f", "x"));
	CHECK(chdir("d") == 0 && chmod(".", 0) == 0);
	FAILS(stat(".", &s), EACCES);
	FAILS(stat("..", &s), EACCES);
	FAILS(stat("e/f", &s), EACCES);
	FAILS(chmod("./.", 0755), EACCES);
	CHECK(fchdir(here) == 0 && chmod("d", 0755) == 0 && same("d/e/f", "x"));
	/* with a mount point in it */
	CHECK(stat("/rw", &s) == 0 && there("/rw/nested") && chmod("/rw", 0600) == 0);
	FAILS(stat("/rw/nested", &s), EACCES);
	FAILS(open("/rw/nested", O_RDONLY), EACCES);
	CHECK(chmod("/rw", 0755) == 0 && there("/rw/nested") && mkdir("/rw/below", 0755) == 0 && mkdir("/rw/below/a", 0755) == 0);
	CHECK(chdir("/rw/below") == 0 && chmod("..", 0) == 0);
	fd = open("a/../..", O_PATH | O_DIRECTORY);
	CHECK(fd == -1 ? errno == EACCES : fd > here && fstat(fd, &s) == 0 && S_ISDIR(s.st_mode) && close(fd) == 0); /* never another number */
	FAILS(stat("../nested", &s), EACCES);
	FAILS(open("..", O_RDONLY), EACCES);
	CHECK(chmod("..", 0755) == 0 && fchdir(here) == 0 && rmdir("/rw/below/a") == 0 && rmdir("/rw/below") == 0);
	/* in both layers, where the image's directories are his */
	put("/lower/special/new", "new");
	CHECK(there("/lower/special/lowerfile"));
	if (chmod("/lower/special", 0600) == 0) {
		FAILS(stat("/lower/special/lowerfile", &s), EACCES);
		FAILS(stat("/lower/special/new", &s), EACCES);
		CHECK(chmod("/lower/special", 0755) == 0);
	}
	CHECK(same("/lower/special/new", "new") && unlink("/lower/special/new") == 0);
}
