/* A case is a function that runs in a child of its own, in an empty directory, and returns when all is well. */
#ifndef CASE_H
#define CASE_H

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_newfstatat
#define SYS_newfstatat SYS_fstatat64
#endif

struct case_ {
	const char *name;
	void (*run)(void);
	struct case_ *next;
};
extern struct case_ *cases;

#define CASE(id)                                                                                                       \
	static void case_##id(void);                                                                                    \
	static struct case_ entry_##id = { #id, case_##id, NULL };                                                      \
	__attribute__((constructor)) static void add_##id(void) { entry_##id.next = cases; cases = &entry_##id; }        \
	static void case_##id(void)

#define CHECK(cond)                                                                                                    \
	do {                                                                                                            \
		if (!(cond)) {                                                                                          \
			int e_ = errno;                                                                                 \
			fprintf(stderr, "  %s:%d: %s (errno %d %s)\n", __FILE__, __LINE__, #cond, e_, strerror(e_));     \
			_exit(1);                                                                                       \
		}                                                                                                       \
	} while (0)
#define FAILS(call, error) CHECK((call) == -1 && errno == (error))
#define OFTEN 12 /* what is done at a place that is rewritten after a while is done in both ways */

static inline void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static inline int same(const char *path, const char *text)
{
	char b[256] = { 0 };
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b - 1);
	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) && !memcmp(b, text, (size_t)n);
}

static inline int there(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static inline int wait_status(pid_t pid)
{
	int st = -1;
	while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
		;
	return st;
}

/* Guest root's owners hold. */
static inline void need_root(void)
{
	if (getuid() || !getenv("CONTRACT_FAKE_ROOT"))
		_exit(0);
}

/* And what only the host's root may do is emulated, too: owners are not just shown. */
static inline int emulated(void)
{
	const char *is = getenv("CONTRACT_FAKE_ROOT");

	return is && !strcmp(is, "1");
}

#endif
