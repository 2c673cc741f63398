/* model SEED STEPS: a reproducible random walk over file-system calls in /m, every result printed, then the whole
 * tree. Two engines that agree on the contract print the same. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static uint64_t state;

static unsigned rnd(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)((state >> 11) % n);
}

static const char *names[] = { "a", "b", "c", "d", "f", "g", "l", "deep" };

/* A path of one to four names, sometimes absolute, with dots, doubled and trailing slashes. */
static void path(char *to)
{
	unsigned n = 1 + rnd(3);

	to[0] = 0;
	if (rnd(3) == 0)
		strcpy(to, rnd(8) ? "/m/" : "//m/./");
	while (n--) {
		unsigned k = rnd(16);
		strcat(to, k == 0 ? ".." : k == 1 ? "." : names[rnd(8)]);
		if (n)
			strcat(to, rnd(10) ? "/" : "//");
	}
	if (rnd(12) == 0)
		strcat(to, "/");
	if (rnd(24) == 0)
		strcat(to, "/.");
}

static void result(const char *what, const char *p, const char *q, long r)
{
	printf("%s %s %s = %s\n", what, p, q, r < 0 ? strerror(errno) : "ok");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *p)
{
	DIR *d = opendir(p);
	struct dirent *e;
	char *found[256];
	int n = 0;

	if (!d) {
		result("list", p, "", -1);
		return;
	}
	printf("list %s =", p);
	while ((e = readdir(d)) && n < 256)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			found[n] = malloc(300);
			sprintf(found[n++], "%s:%d", e->d_name, e->d_type);
		}
	closedir(d);
	qsort(found, (size_t)n, sizeof *found, by_name);
	for (int i = 0; i < n; i++)
		printf(" %s", found[i]);
	printf("\n");
}

static void show(const char *what, const char *p, int r, const struct stat *s)
{
	if (r)
		result(what, p, "", r);
	else if (S_ISDIR(s->st_mode))
		printf("%s %s = dir %o, %d links\n", what, p, s->st_mode & 07777, (int)s->st_nlink);
	else
		printf("%s %s = %o %ld\n", what, p, s->st_mode, (long)s->st_size);
}

/* By descriptor, by statx, from inside: the same count of links. */
static void links(const char *p, int fd)
{
	struct stat by_fd, inside;
	struct statx x, y;

	if (fstat(fd, &by_fd) || fstatat(fd, ".", &inside, 0) || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x) ||
	    statx(fd, ".", 0, STATX_BASIC_STATS, &y))
		result("links", p, "", -1);
	else
		printf("  links %d %d %d %d\n", (int)by_fd.st_nlink, (int)inside.st_nlink, (int)x.stx_nlink, (int)y.stx_nlink);
}

static void step(int dirfd)
{
	char p[256], q[256], buf[64];
	struct stat s;
	int fd;
	ssize_t n;

	path(p);
	path(q);
	switch (rnd(20)) {
	case 0: result("mkdir", p, "", mkdirat(dirfd, p, 0755)); break;
	case 1: result("rmdir", p, "", unlinkat(dirfd, p, AT_REMOVEDIR)); break;
	case 2: case 3: result("unlink", p, "", unlinkat(dirfd, p, 0)); break;
	case 4: case 5: result("rename", p, q, renameat(dirfd, p, dirfd, q)); break;
	case 6: result("link", p, q, linkat(dirfd, p, dirfd, q, rnd(2) ? AT_SYMLINK_FOLLOW : 0)); break;
	case 7: result("symlink", q, p, symlinkat(q, dirfd, p)); break;
	case 8: case 9:
		fd = openat(dirfd, p, O_WRONLY | O_CREAT | (rnd(2) ? O_TRUNC : O_APPEND) | (rnd(6) ? 0 : O_EXCL) | (rnd(6) ? 0 : O_NOFOLLOW), 0644);
		result("create", p, "", fd);
		if (fd >= 0) {
			n = write(fd, "xyz", 1 + rnd(3));
			(void)!n;
			close(fd);
		}
		break;
	case 10: case 11:
		fd = openat(dirfd, p, O_RDONLY | (rnd(4) ? 0 : O_NOFOLLOW) | (rnd(5) ? 0 : O_DIRECTORY));
		result("open", p, "", fd);
		if (fd >= 0) {
			n = read(fd, buf, sizeof buf - 1);
			if (n < 0 && errno == EISDIR)
				links(p, fd);
			if (n >= 0)
				buf[n] = 0, printf("  read %s\n", buf);
			else
				printf("  read: %s\n", strerror(errno));
			close(fd);
		}
		break;
	case 12: show("stat", p, fstatat(dirfd, p, &s, 0), &s); break;
	case 13: show("lstat", p, fstatat(dirfd, p, &s, AT_SYMLINK_NOFOLLOW), &s); break;
	case 14:
		n = readlinkat(dirfd, p, buf, sizeof buf - 1);
		if (n >= 0)
			buf[n] = 0, printf("readlink %s = %s\n", p, buf);
		else
			result("readlink", p, "", -1);
		break;
	case 15: result("chmod", p, "", fchmodat(dirfd, p, 0700 | rnd(64), 0)); break;
	case 16: result("truncate", p, "", truncate(p, rnd(6))); break;
	case 17: list(p); break;
	case 18:
		result("chdir", p, "", chdir(p));
		if (!getcwd(q, sizeof q))
			strcpy(q, strerror(errno));
		printf("  cwd %s\n", q);
		if (strncmp(q, "/m", 2))
			(void)!chdir("/m");
		break;
	case 19: result("exchange", p, q, syscall(SYS_renameat2, dirfd, p, dirfd, q, 1 + rnd(2))); break;
	}
}

static void dump(const char *p, int depth)
{
	DIR *d = opendir(p);
	struct dirent *e;
	char *found[512], sub[4096];
	int n = 0;

	if (!d || depth > 12)
		return;
	while ((e = readdir(d)) && n < 512)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			found[n++] = strdup(e->d_name);
	closedir(d);
	qsort(found, (size_t)n, sizeof *found, by_name);
	for (int i = 0; i < n; i++) {
		struct stat s;
		snprintf(sub, sizeof sub, "%s/%s", p, found[i]);
		if (lstat(sub, &s)) {
			printf("%s: %s\n", sub, strerror(errno));
			continue;
		}
		printf("%s %o %ld\n", sub, s.st_mode, S_ISDIR(s.st_mode) ? (long)s.st_nlink : (long)s.st_size);
		if (S_ISDIR(s.st_mode))
			dump(sub, depth + 1);
	}
}

int main(int argc, char **argv)
{
	int steps = argc > 2 ? atoi(argv[2]) : 200;

	state = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1) * 0x9e3779b97f4a7c15ULL + 1;
	if (chdir("/m"))
		return 2;
	for (int i = 0; i < steps; i++) {
		int fd = rnd(4) ? AT_FDCWD : open(rnd(2) ? "/m" : "/m/d", O_RDONLY | O_DIRECTORY);
		printf("%d ", i);
		step(fd);
		if (fd >= 0)
			close(fd);
	}
	dump("/m", 0);
	return 0;
}
