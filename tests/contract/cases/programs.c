/* Programs of the image, executed again and again: an engine may know what their paths come to. What runs is what the path
 * names at that moment, with the arguments that were given. Beside this program there are, for each use,
 * run-0 to run-6: one and two, which tell their number when asked for --mark, now -> one; and again -> run-0, later -> run-4, links/now -> run-4/one. */
#include "case.h"

#include <libgen.h>

extern char **environ;

static void path_of(char *to, size_t size, const char *name)
{
	char exe[512] = { 0 };

	CHECK(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0 && snprintf(to, size, "%s/%s", dirname(exe), name) < (int)size);
}

/* What it exits with, or the negative error of the exec. */
static int mark_of(const char *name, int how)
{
	static volatile int failed; /* a vfork child tells its parent */
	char path[600];
	char *argv[] = { path, "--mark", NULL };
	int st;
	pid_t pid;

	path_of(path, sizeof path, name);
	failed = 0;
	if (how == 2) {
		int r = posix_spawn(&pid, path, NULL, NULL, argv, environ);
		if (r)
			return -r;
	} else {
		pid = how ? vfork() : fork();
		if (!pid) {
			execv(path, argv);
			failed = errno;
			_exit(100 + errno);
		}
		CHECK(pid > 0);
	}
	st = wait_status(pid);
	CHECK(WIFEXITED(st));
	return failed ? -failed : WEXITSTATUS(st) < 100 ? WEXITSTATUS(st) : 100 - WEXITSTATUS(st);
}

static void is(const char *name, int mark)
{
	for (int i = 0; i < OFTEN; i++) {
		int got = mark_of(name, i % 3);

		if (got != mark)
			fprintf(stderr, "  %s: %d, not %d, the %dth time\n", name, got, mark, i);
		CHECK(got == mark);
	}
}

static char from[600], to[600];

static void places(const char *a, const char *b)
{
	path_of(from, sizeof from, a);
	path_of(to, sizeof to, b);
}

CASE(programs_that_are_replaced)
{
	is("run-0/one", 1);
	is("run-0/now", 1);
	is("again/one", 1);
	places("run-0/two", "run-0/one");
	CHECK(rename(from, to) == 0);
	is("run-0/one", 2);
	is("run-0/now", 2);
	is("again/one", 2);
	CHECK(mark_of("run-0/two", 0) == -ENOENT && mark_of("run-0/two", 1) == -ENOENT);
}

CASE(programs_that_are_removed)
{
	is("run-1/one", 1);
	is("run-1/two", 2);
	places("run-1/two", "run-1/one");
	CHECK(unlink(to) == 0);
	is("run-1/one", -ENOENT);
	CHECK(symlink("two", to) == 0);
	is("run-1/one", 2);
}

CASE(programs_that_are_closed)
{
	is("run-2/one", 1);
	is("run-2/now", 1);
	places("run-2/one", "run-2");
	CHECK(chmod(from, 0644) == 0);
	is("run-2/one", -EACCES);
	is("run-2/now", -EACCES);
	is("run-2/two", 2);
	CHECK(chmod(from, 0755) == 0);
	is("run-2/one", 1);
	path_of(from, sizeof from, "run-2/two"); /* its directory is of both layers now */
	CHECK(chmod(from, 0600) == 0);
	is("run-2/two", -EACCES);
}

CASE(programs_of_a_directory_that_is_moved)
{
	is("run-3/one", 1);
	places("run-3", "elsewhere");
	if (rename(from, to) < 0) {
		CHECK(errno == EXDEV); /* as overlayfs has it */
		return;
	}
	is("run-3/one", -ENOENT);
	is("elsewhere/one", 1);
	CHECK(mkdir(from, 0755) == 0);
	is("run-3/one", -ENOENT);
	CHECK(rmdir(from) == 0 && symlink("run-4", from) == 0);
	is("run-3/two", 2);
}

CASE(programs_behind_a_link)
{
	is("run-5/now", 1);
	places("run-5/now", "later");
	CHECK(unlink(from) == 0 && symlink("two", from) == 0);
	is("run-5/now", 2);
	is("later/now", 1);
	CHECK(unlink(to) == 0 && symlink("run-5", to) == 0);
	is("later/now", 2);
}

/* The link's directory is of both layers. */
CASE(programs_behind_a_link_elsewhere)
{
	places("links/new", "links/now");
	put(from, "x");
	is("links/now", 1);
	CHECK(unlink(to) == 0 && symlink("../run-4/two", to) == 0);
	is("links/now", 2);
	CHECK(symlink("../run-4/one", from) < 0 && unlink(from) == 0 && symlink("../run-4/one", from) == 0 && rename(from, to) == 0);
	is("links/now", 1);
}

CASE(programs_that_are_written)
{
	char text[700];

	is("run-6/one", 1);
	is("run-6/two", 2);
	places("run-6/one", "run-6/two");
	snprintf(text, sizeof text, "#!%s --mark\n", to);
	put(from, text); /* the argument that it is given comes after */
	is("run-6/one", 2);
	CHECK(unlink(from) == 0 && mkdir(from, 0755) == 0);
	is("run-6/one", -EACCES);
}

/* Exits with the number of its arguments when they are the numbers from the one given on. */
static int counted(int first, int n)
{
	char path[600], words[300][8], *argv[304] = { path, "--count" };
	int st;
	pid_t pid;

	path_of(path, sizeof path, "run-4/one");
	for (int i = 0; i < n; i++) {
		snprintf(words[i], sizeof words[i], "%d", first + i);
		argv[2 + i] = words[i];
	}
	argv[2 + n] = NULL;
	CHECK(posix_spawn(&pid, path, NULL, NULL, argv, environ) == 0);
	st = wait_status(pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static void *spawner(void *number)
{
	int first = (int)(intptr_t)number;

	for (int i = 0; i < 25; i++)
		CHECK(counted(first, 1 + (first + i) % 9) == 1 + (first + i) % 9);
	return NULL;
}

CASE(programs_at_once_with_their_arguments)
{
	pthread_t t[4];

	for (int n = 60; n < 90; n++)
		CHECK(counted(7, n) == n);
	CHECK(counted(7, 250) == 250);
	for (intptr_t i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, spawner, (void *)(1000 * i + 1000)) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
}

/* The exec fails after all was found, or what it is given is not there. */
CASE(programs_that_are_not_executed)
{
	static char *huge[40000];
	char path[600], *argv[] = { path, "--mark", NULL };
	static char word[100000];

	is("run-4/one", 1);
	path_of(path, sizeof path, "run-4/one");
	memset(word, 'a', sizeof word - 1);
	for (int i = 0; i < 70; i++)
		huge[i] = word;
	for (int i = 0; i < 3; i++) {
		FAILS(execve(path, huge, environ), E2BIG);
		FAILS(execve(path, argv, huge), E2BIG);
#ifdef __GLIBC__
		FAILS(execve(path, (char **)8, environ), EFAULT);
		FAILS(execve(path, argv, (char **)8), EFAULT);
		FAILS(execve((char *)8, argv, environ), EFAULT);
#endif
		CHECK(mark_of("run-4/one", i) == 1);
	}
}
