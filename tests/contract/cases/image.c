/* Files of the image that nobody changed: an engine may know them without asking. What it says is what is so, of the
 * directory that is meant, and at once after a change. The image has for this
 * /image: tree/{x,sub/y}, dir/{two,sub/deep}, link -> tree, hard (two names: hard2), ro (0444), many/0 to 199. */
#include "case.h"

#include <sys/wait.h>
#include <sys/xattr.h>

static int same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_nlink == b->st_nlink &&
	       a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_rdev == b->st_rdev && a->st_size == b->st_size &&
	       a->st_blksize == b->st_blksize && a->st_blocks == b->st_blocks && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* By path, by descriptor, relative to its directory's descriptor and to the working directory. */
static void looked_at(const char *dir, const char *name)
{
	struct stat by_fd, st;
	char path[256];
	int d = open(dir, O_RDONLY | O_DIRECTORY), fd;

	CHECK(snprintf(path, sizeof path, "%s/%s", dir, name) > 0 && d >= 0);
	fd = open(path, O_PATH | O_NOFOLLOW);
	CHECK(fd >= 0 && fstat(fd, &by_fd) == 0 && chdir(dir) == 0);
	for (int i = 0; i < OFTEN; i++) {
		CHECK(lstat(path, &st) == 0 && same_file(&st, &by_fd));
		CHECK(lstat(name, &st) == 0 && same_file(&st, &by_fd));
		CHECK(fstatat(d, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && same_file(&st, &by_fd));
#ifdef __GLIBC__
		struct statx x;

		CHECK(statx(d, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x) == 0 && (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
		CHECK(x.stx_ino == by_fd.st_ino && x.stx_mode == by_fd.st_mode && x.stx_size == (uint64_t)by_fd.st_size && x.stx_nlink == by_fd.st_nlink);
		CHECK(makedev(x.stx_dev_major, x.stx_dev_minor) == by_fd.st_dev && x.stx_mtime.tv_nsec == by_fd.st_mtim.tv_nsec);
		CHECK(x.stx_ctime.tv_sec == by_fd.st_ctim.tv_sec && x.stx_blocks == (uint64_t)by_fd.st_blocks && x.stx_blksize == (uint32_t)by_fd.st_blksize);
#endif
	}
	close(fd);
	close(d);
}

CASE(files_of_the_image)
{
	looked_at("/image/tree", "x");
	looked_at("/image/tree", "sub");
	looked_at("/image/tree/sub", "y");
	looked_at("/image", "link");
	looked_at("/image", "hard2");
	looked_at("/image", "ro");
	looked_at("/image/many", "17");
	looked_at("/etc", "passwd");
}

CASE(names_that_the_image_has_not)
{
	struct stat st;
	char buf[10];
	int d = open("/image/tree", O_RDONLY | O_DIRECTORY);

	CHECK(chdir("/image/tree/sub") == 0);
	for (int i = 0; i < OFTEN; i++) {
		FAILS(stat("/image/tree/none", &st), ENOENT);
		FAILS(fstatat(d, "a rather long name that is not there", &st, 0), ENOENT);
		FAILS(stat("none", &st), ENOENT);
		FAILS(stat("y/", &st), ENOTDIR);
		FAILS(stat("y/z", &st), ENOTDIR);
		FAILS(stat("/image/tree/none/z", &st), ENOENT);
		FAILS(open("/image/tree/none", O_RDONLY), ENOENT);
		FAILS(open("none", O_RDONLY | O_NOFOLLOW), ENOENT);
		FAILS(access("/image/tree/none", F_OK), ENOENT);
		FAILS(readlink("/image/tree/none", buf, sizeof buf), ENOENT);
		FAILS(readlink("/image/tree/x", buf, sizeof buf), EINVAL);
		FAILS(readlink("/image/tree/x", buf, 0), EINVAL);
		FAILS(lgetxattr("/image/tree/none", "user.x", buf, sizeof buf), ENOENT);
#if defined(__GLIBC__) && !defined(__i386__) /* others read the kernel's answer in memory of their own */
		FAILS(stat("/image/tree/x", (void *)1), EFAULT);
#endif
		CHECK(access("/image/tree/x", F_OK) == 0 && access("/image/tree/x", R_OK) == 0 && access("/image/tree", R_OK | X_OK) == 0);
		FAILS(access("/image/tree/x", X_OK), EACCES);
	}
}

CASE(attributes_of_the_image)
{
	char buf[100];

	for (int i = 0; i < OFTEN; i++) {
		FAILS(getxattr("/image/tree/x", "user.none", buf, sizeof buf), ENODATA);
		FAILS(lgetxattr("/image/tree/x", "security.none", buf, sizeof buf), ENODATA);
		CHECK(getxattr("/image/tree/x", "system.posix_acl_access", buf, sizeof buf) < 0 && (errno == ENODATA || errno == EOPNOTSUPP));
		FAILS(lgetxattr("/image/tree/x", "", buf, sizeof buf), ERANGE);
		FAILS(lgetxattr("/image/tree/x", (void *)1, buf, sizeof buf), EFAULT);
	}
	CHECK(setxattr("/image/tree/x", "user.mine", "1", 1, 0) == 0 || errno == EOPNOTSUPP);
	if (getxattr("/image/tree/x", "user.mine", buf, sizeof buf) < 0)
		return;
	for (int i = 0; i < OFTEN; i++)
		CHECK(getxattr("/image/tree/x", "user.mine", buf, sizeof buf) == 1 && llistxattr("/image/tree/x", buf, sizeof buf) >= 10);
}

static int seen(const char *path)
{
	struct stat st;
	int error = 0;

	for (int i = 0; i < OFTEN; i++)
		error = lstat(path, &st) ? errno : 0;
	return error;
}

/* Another process looks all the time; this one changes. */
CASE(changes_of_the_image_are_seen_at_once)
{
	struct stat st;
	int ask[2], say[2];
	char c;
	pid_t pid;

	CHECK(pipe(ask) == 0 && pipe(say) == 0);
	pid = fork();
	if (!pid) {
		CHECK(chdir("/image/dir/sub") == 0 && seen("deep") == 0 && seen("new") == ENOENT && seen("../two") == 0);
		CHECK(write(say[1], "1", 1) == 1 && read(ask[0], &c, 1) == 1);
		CHECK(seen("deep") == ENOENT && seen("new") == 0 && seen("../two") == 0 && seen("/image/dir/sub/deep") == ENOENT);
		CHECK(write(say[1], "2", 1) == 1 && read(ask[0], &c, 1) == 1);
		CHECK(stat("/image/dir/two", &st) == 0 && (st.st_mode & 0777) == 0640 && st.st_uid == 5);
		CHECK(stat("../two", &st) == 0 && (st.st_mode & 0777) == 0640 && st.st_size == 4);
		_exit(0);
	}
	CHECK(seen("/image/dir/sub/deep") == 0 && seen("/image/dir/sub/new") == ENOENT);
	CHECK(read(say[0], &c, 1) == 1);
	CHECK(unlink("/image/dir/sub/deep") == 0 && close(creat("/image/dir/sub/new", 0600)) == 0);
	CHECK(seen("/image/dir/sub/deep") == ENOENT && seen("/image/dir/sub/new") == 0);
	CHECK(write(ask[1], "1", 1) == 1 && read(say[0], &c, 1) == 1);
	CHECK(chmod("/image/dir/two", 0640) == 0 && truncate("/image/dir/two", 4) == 0 && (chown("/image/dir/two", 5, 5) == 0 || getuid()));
	CHECK(stat("/image/dir/two", &st) == 0 && (st.st_mode & 0777) == 0640 && st.st_size == 4);
	CHECK(write(ask[1], "2", 1) == 1 && wait_status(pid) == 0);
}

/* A descriptor that is closed, or has become something else, is no directory of the image. */
CASE(a_descriptor_is_not_believed)
{
	int d = open("/image/tree", O_RDONLY | O_DIRECTORY), p[2];
	struct stat st;

	for (int i = 0; i < OFTEN; i++)
		CHECK(fstat(d, &st) == 0 && fstatat(d, "x", &st, 0) == 0 && fstatat(d, "sub/y", &st, 0) == 0);
	close(d);
	FAILS(fstatat(d, "x", &st, 0), EBADF);
	FAILS(fstatat(d, "none", &st, 0), EBADF);
	FAILS(fstatat(d, "sub/y", &st, 0), EBADF);
	CHECK(pipe(p) == 0 && p[0] == d);
	FAILS(fstatat(d, "x", &st, 0), ENOTDIR);
	FAILS(fstatat(d, "sub/y", &st, 0), ENOTDIR);
	FAILS(faccessat(d, "none", F_OK, 0), ENOTDIR);
	FAILS(openat(d, "none", O_RDONLY), ENOTDIR);
}

/* Its working directory is its own, though its memory is not. */
CASE(a_vfork_child_stands_elsewhere)
{
	struct stat st;

	CHECK(chdir("/image/tree") == 0 && seen("x") == 0 && seen("sub/y") == 0);
	for (int i = 0; i < 50; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			int wrong = chdir("/image/tree/sub") || !stat("x", &st) || stat("y", &st) || !stat("sub/y", &st);

			_exit(wrong);
		}
		CHECK(wait_status(pid) == 0 && stat("x", &st) == 0 && stat("y", &st) < 0 && stat("sub/y", &st) == 0);
	}
}

/* Whatever was mapped for that is no part of the program. */
CASE(nothing_is_mapped_for_looking)
{
	FILE *maps;
	char line[512];

	CHECK(seen("/image/tree/x") == 0 && seen("/image/tree/sub/y") == 0 && (maps = fopen("/proc/self/maps", "r")));
	while (fgets(line, sizeof line, maps))
		CHECK(!strstr(line, "index") && !strstr(line, "record"));
	fclose(maps);
}
