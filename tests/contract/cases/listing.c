/* Listings of directories that the image has alone, and its links: an engine may know these, too. The image has for this
 * /image: as image.c says, gone/0 to 199, kinds/{file,dir/in,link -> file} (kinds/dir comes and goes), chain/{first -> second, second -> third, third,
 * out -> ../hard, none -> nothing, self -> self}. */
#include "case.h"

#define MANY 200

struct record {
	uint64_t ino;
	int64_t next;
	unsigned short size;
	unsigned char type;
	char name[];
};

/* Reads on, with a buffer of that size; counts the names below `MANY`, once each. -1: an error. */
static int reads(int fd, size_t size, unsigned char *seen, int *dots)
{
	uint64_t buf[512];
	int names = 0;
	long n;

	while ((n = syscall(SYS_getdents64, fd, buf, size)) > 0) {
		for (long at = 0; at < n;) {
			struct record *d = (void *)((char *)buf + at);
			struct stat st;

			CHECK(d->size >= 24 && d->size % 8 == 0 && at + d->size <= n && d->next != 0);
			if (!strcmp(d->name, ".") || !strcmp(d->name, "..")) {
				CHECK(fstatat(fd, d->name, &st, 0) == 0 && d->ino == st.st_ino && d->type == DT_DIR);
				++*dots;
			} else {
				CHECK(fstatat(fd, d->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && d->type == (st.st_mode & S_IFMT) >> 12);
				CHECK(d->ino == st.st_ino || !strcmp(d->name, "0")); /* which a case replaces */
				CHECK(!seen || (atoi(d->name) < MANY && !seen[atoi(d->name)]++));
				names++;
			}
			at += d->size;
		}
	}
	return n < 0 ? -1 : names;
}

static int opened(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY);

	CHECK(fd >= 0);
	return fd;
}

CASE(listings_of_the_image)
{
	static const size_t sizes[] = { 4096, 24, 32, 50, 100, 4000 };
	uint64_t buf[64];

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes * 2; i++) {
		unsigned char seen[MANY] = { 0 };
		int fd = opened("/image/many"), dots = 0;

		CHECK(reads(fd, sizes[i / 2], seen, &dots) == MANY && dots == 2);
		CHECK(reads(fd, 4096, seen, &dots) == 0);
		CHECK(lseek(fd, 0, SEEK_SET) == 0);
		FAILS(syscall(SYS_getdents64, fd, buf, 23), EINVAL);
		FAILS(syscall(SYS_getdents64, fd, (void *)1, 4096), EFAULT);
		memset(seen, 0, sizeof seen);
		CHECK(reads(fd, 4096, seen, &dots) == MANY && dots == 4);
		close(fd);
		FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), EBADF);
	}
	for (int i = 0; i < OFTEN; i++) {
		int fd = opened("/image/kinds"), dots = 0, below;

		CHECK(reads(fd, 4096, NULL, &dots) == 3 && dots % 2 == 0);
		below = openat(fd, "../tree", O_RDONLY | O_DIRECTORY);
		CHECK(reads(below, 4096, NULL, &dots) == 2 && dots == 4);
		close(below);
		close(fd);
	}
}

/* readdir's position is the descriptor's: copies and children share it, telldir names it. */
CASE(positions_in_a_listing)
{
	for (int i = 0; i < OFTEN; i++) {
		unsigned char seen[MANY] = { 0 };
		int fd = opened("/image/many"), copy = dup(fd), names, dots = 0;
		long places[MANY + 2];
		char first[MANY + 2][8];
		uint64_t buf[16];
		DIR *d;
		pid_t pid;

		CHECK(syscall(SYS_getdents64, fd, buf, 48) == 48); /* two of them */
		CHECK(syscall(SYS_getdents64, copy, buf, 96) == 96);
		pid = fork();
		if (!pid)
			_exit(syscall(SYS_getdents64, fd, buf, 96) != 96);
		CHECK(wait_status(pid) == 0);
		names = reads(copy, 200, seen, &dots);
		CHECK(names + dots == MANY + 2 - 10);
		close(fd);
		close(copy);

		CHECK((d = opendir("/image/many")));
		for (names = 0; names < MANY + 2; names++) {
			struct dirent *e;

			places[names] = telldir(d);
			CHECK((e = readdir(d)) && strlen(e->d_name) < 8);
			strcpy(first[names], e->d_name);
		}
		CHECK(!readdir(d));
		for (int at = MANY + 1; at >= 0; at -= 67) {
			seekdir(d, places[at]);
			for (int on = at; on < MANY + 2; on++)
				CHECK(!strcmp(readdir(d)->d_name, first[on]));
			CHECK(!readdir(d));
		}
		rewinddir(d);
		CHECK(!strcmp(readdir(d)->d_name, first[0]));
		closedir(d);
	}
}

/* A program that has looked at nothing yet goes on where another was. */
CASE(a_listing_is_handed_on)
{
	char self[256] = { 0 }, number[12];
	int fd = opened("/image/many"), status;
	uint64_t buf[16];
	pid_t pid;

	CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
	for (int i = 0; i < OFTEN; i++) {
		CHECK(lseek(fd, 0, SEEK_SET) == 0 && syscall(SYS_getdents64, fd, buf, 48) == 48);
		CHECK(syscall(SYS_getdents64, fd, buf, 72) == 72);
	}
	snprintf(number, sizeof number, "%d", fd);
	pid = fork();
	if (!pid) {
		execl(self, self, "--list", number, NULL);
		_exit(1);
	}
	status = wait_status(pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == MANY + 2 - 5);
	CHECK(syscall(SYS_getdents64, fd, buf, sizeof buf) == 0);
}

/* What is removed and made meanwhile: what was there all the time is listed once. */
CASE(a_listing_of_what_changes)
{
	unsigned char seen[MANY] = { 0 };
	int fd, dots = 0, names = 0;
	uint64_t buf[16];
	long n;
	struct dirent *e;
	DIR *d;

	fd = opened("/image/gone");
	n = syscall(SYS_getdents64, fd, buf, 96);
	for (long at = 0; at < n; at += ((struct record *)((char *)buf + at))->size) {
		const char *name = ((struct record *)((char *)buf + at))->name;

		if (name[0] != '.')
			seen[atoi(name)]++, names++;
	}
	CHECK(n == 96 && unlink("/image/gone/0") == 0 && close(creat("/image/gone/0", 0600)) == 0 && chmod("/image/gone/1", 0600) == 0);
	n = reads(fd, 500, seen, &dots);
	CHECK(n + names == MANY || n + names == MANY - 1); /* 0 is another file now, and may have been passed */
	for (int i = 2; i < MANY; i++)
		CHECK(seen[i] == 1);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	close(fd);

	/* As rm does it. */
	CHECK((d = opendir("/image/gone")));
	for (names = 0; (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		CHECK(unlinkat(dirfd(d), e->d_name, 0) == 0);
		names++;
	}
	CHECK(names == MANY && rmdir("/image/gone") == 0);
	closedir(d);
	CHECK(!there("/image/gone"));
}

/* Another directory, or none, is behind the number by now. */
CASE(a_listing_of_another_descriptor)
{
	int fd = opened("/image/many"), other = opened("/image/tree"), dots = 0;
	uint64_t buf[64];

	for (int i = 0; i < OFTEN; i++)
		CHECK(lseek(fd, 0, SEEK_SET) == 0 && reads(fd, 4096, NULL, &dots) == MANY);
	close(fd);
	if (syscall(SYS_memfd_create, "x", 0) == fd) { /* which no engine needs to look at */
		FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOTDIR);
		close(fd);
	}
	fd = opened("/image/many");
	CHECK(reads(fd, 4096, NULL, &dots) == MANY);
	CHECK(dup2(other, fd) == fd && reads(fd, 4096, NULL, &dots) == 2);
	close(fd);
	CHECK(open("/dev/null", O_RDONLY) == fd);
	FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOTDIR);
}

CASE(links_of_the_image)
{
	char buf[64];
	struct stat st, end;
	int fd;

	CHECK(stat("/image/chain/third", &end) == 0 && chdir("/image/chain") == 0);
	for (int i = 0; i < OFTEN; i++) {
		CHECK(readlink("/image/chain/first", buf, sizeof buf) == 6 && !memcmp(buf, "second", 6));
		CHECK(readlink("first", buf, 3) == 3 && !memcmp(buf, "sec", 3));
		CHECK(readlink("/image/chain/out", buf, sizeof buf) == 7 && !memcmp(buf, "../hard", 7));
		FAILS(readlink("/image/chain/first", (void *)1, 6), EFAULT);
		CHECK(lstat("first", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 6 && st.st_rdev == 0);
		CHECK(stat("/image/chain/first", &st) == 0 && st.st_ino == end.st_ino && S_ISREG(st.st_mode));
		CHECK(stat("second", &st) == 0 && st.st_ino == end.st_ino);
		CHECK(stat("out", &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 2);
		FAILS(stat("none", &st), ENOENT);
		FAILS(stat("/image/chain/self", &st), ELOOP);
		FAILS(stat("first/", &st), ENOTDIR);
		CHECK(access("first", R_OK) == 0);
		FAILS(access("first", X_OK), EACCES);
		FAILS(access("none", F_OK), ENOENT);
		fd = open("/image/chain/first", O_RDONLY);
		CHECK(fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == end.st_ino && read(fd, buf, 5) == 5 && !memcmp(buf, "chain", 5));
		close(fd);
		FAILS(open("first", O_RDONLY | O_NOFOLLOW), ELOOP);
		FAILS(open("none", O_RDONLY), ENOENT);
		FAILS(open("self", O_RDONLY), ELOOP);
		fd = open("out", O_RDONLY);
		CHECK(fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 2);
		close(fd);
	}
	CHECK(symlink("second", "new") == 0 && unlink("third") == 0 && symlink("second", "third") == 0);
	for (int i = 0; i < OFTEN; i++) {
		FAILS(stat("first", &st), ELOOP);
		FAILS(open("/image/chain/first", O_RDONLY), ELOOP);
		CHECK(readlink("/image/chain/third", buf, sizeof buf) == 6);
	}
}

/* What is made in a directory of the image does not make it another one; one that replaces it is. */
CASE(a_directory_stays_the_same)
{
	struct stat before, above, st;
	struct dirent *e;
	int fd = opened("/image/kinds/dir"), found = 0;
	DIR *d;

	CHECK(fstat(fd, &before) == 0 && stat("/image/kinds", &above) == 0 && chdir("/image/kinds/dir") == 0);
	CHECK(close(creat("/image/kinds/dir/new", 0600)) == 0);
	for (int i = 0; i < OFTEN; i++) {
		int again = opened("/image/kinds/dir");

		CHECK(stat("/image/kinds/dir", &st) == 0 && st.st_ino == before.st_ino && st.st_dev == before.st_dev);
		CHECK(fstat(fd, &st) == 0 && st.st_ino == before.st_ino);
		CHECK(fstat(again, &st) == 0 && st.st_ino == before.st_ino && st.st_dev == before.st_dev);
		CHECK(stat(".", &st) == 0 && st.st_ino == before.st_ino);
		CHECK(stat("..", &st) == 0 && st.st_ino == above.st_ino && st.st_dev == above.st_dev);
		close(again);
		CHECK((d = opendir("/image/kinds/dir")));
		for (found = 0; (e = readdir(d)); found++) {
			CHECK(strcmp(e->d_name, ".") || e->d_ino == before.st_ino);
			CHECK(strcmp(e->d_name, "..") || e->d_ino == above.st_ino);
		}
		CHECK(found == 4);
		closedir(d);
		CHECK((d = opendir("/image/kinds")));
		for (found = 0; (e = readdir(d));)
			if (!strcmp(e->d_name, "dir"))
				found = e->d_ino == before.st_ino && e->d_type == DT_DIR;
		CHECK(found);
		closedir(d);
	}
	CHECK(unlink("new") == 0 && unlink("in") == 0 && rmdir("/image/kinds/dir") == 0 && mkdir("/image/kinds/dir", 0755) == 0);
	for (int i = 0; i < OFTEN; i++) {
		CHECK(stat("/image/kinds/dir", &st) == 0 && st.st_ino != before.st_ino);
		CHECK((d = opendir("/image/kinds")));
		while ((e = readdir(d)))
			CHECK(strcmp(e->d_name, "dir") || e->d_ino == st.st_ino);
		closedir(d);
	}
}
