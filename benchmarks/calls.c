/* calls: nanoseconds of one system call, by name; spawn N PROGRAM: microseconds of CPU of one program's life.
 * The smallest of many rounds counts: noise only adds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALLS 3000
#define ROUNDS 15
#define DIR "/usr/share/doc/base-files"
#define FILE_ DIR "/README"
#define CALL(name, call)                                                                                               \
	do {                                                                                                           \
		double best = 1e18;                                                                                    \
		for (int r = 0; r < ROUNDS; r++) {                                                                     \
			double began = now();                                                                          \
			for (int i = 0; i < CALLS; i++)                                                                \
				call;                                                                                  \
			double each = (now() - began) / CALLS;                                                         \
			best = each < best ? each : best;                                                              \
		}                                                                                                      \
		printf("%s %.0f\n", name, best);                                                                       \
	} while (0)

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static double cpu(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static int spawn(int times, char *program)
{
	char *argv[] = { program, NULL }, *env[] = { NULL };
	double best = 1e18;

	for (int r = 0; r < 10; r++) {
		double began = cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN), each;

		for (int i = 0; i < times; i++) {
			pid_t p;

			if (posix_spawn(&p, program, NULL, NULL, argv, env) || waitpid(p, NULL, 0) != p)
				return 1;
		}
		each = (cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN) - began) / times;
		best = each < best ? each : best;
	}
	printf("%s %.0f\n", program, best);
	return 0;
}

int main(int argc, char **argv)
{
	struct stat st;
	char buf[4096];
	int dir = open(DIR, O_RDONLY | O_DIRECTORY), file = open(FILE_, O_RDONLY);

	if (argc == 4 && !strcmp(argv[1], "spawn"))
		return spawn(atoi(argv[2]), argv[3]);
	if (dir < 0 || file < 0)
		return 1;
	CALL("getppid", syscall(SYS_getppid));
	CALL("fstat", fstat(file, &st));
	CALL("stat", stat(FILE_, &st));
	CALL("fstatat", fstatat(dir, "README", &st, AT_SYMLINK_NOFOLLOW));
	CALL("open+close", close(open(FILE_, O_RDONLY)));
	CALL("readlink", readlink("/usr/bin/awk", buf, sizeof buf));
	return 0;
}
