/* cases [NAME]...: runs all cases, or those named, each in a child; prints the failures and the count. */
#include "case.h"

#include <ftw.h>

struct case_ *cases;

static int drop(const char *path, const struct stat *st, int kind, struct FTW *f)
{
	(void)st, (void)kind, (void)f;
	if (kind == FTW_DNR)
		chmod(path, 0700);
	remove(path);
	return 0;
}

/* How many more the directory has. */
static int names_behind(int fd)
{
	DIR *d = fdopendir(fd);
	int n = 0;

	while (d && readdir(d))
		n++;
	return n;
}

static volatile const char mark[] = "MARK:0"; /* another digit in copies */
static pid_t running;

static void too_long(int sig)
{
	(void)sig;
	kill(running, SIGKILL); /* one that blocks its own alarm */
}

int main(int argc, char **argv)
{
	int limit = getenv("CONTRACT_SECONDS") ? atoi(getenv("CONTRACT_SECONDS")) : 30;
	int bad = 0, good = 0;
	char dir[64];

	/* What the cases execute this program for. */
	if (argc >= 2 && !strcmp(argv[1], "--none"))
		return 0;
	if (argc == 3 && !strcmp(argv[1], "--often")) { /* so many programs */
		for (int i = atoi(argv[2]); i; i--)
			CHECK(posix_spawn(&running, argv[0], NULL, NULL, (char *[]){ argv[0], "--none", NULL }, NULL) == 0 &&
			      waitpid(running, &bad, 0) == running && bad == 0);
		return 0;
	}
	if (argc >= 2 && !strcmp(argv[1], "--mark"))
		return mark[5] - '0';
	if (argc >= 2 && !strcmp(argv[1], "--count")) {
		for (int i = 3; i < argc; i++)
			if (atoi(argv[i]) != atoi(argv[i - 1]) + 1)
				return 255;
		return argc - 2;
	}
	if (argc >= 2 && !strcmp(argv[1], "--wait"))
		return pause();
	if (argc == 4 && !strcmp(argv[1], "--fds"))
		return !(fcntl(atoi(argv[2]), F_GETFD) == 0 && fcntl(atoi(argv[3]), F_GETFD) < 0);
	if (argc == 3 && !strcmp(argv[1], "--list"))
		return names_behind(atoi(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "--ids"))
		return getuid() == 50 && geteuid() == 21 && getegid() == 22 && getgid() == 50 ? 42 : 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, too_long);
	for (int i = 0; i < 3 * OFTEN; i++) { /* what an engine does only for programs that look at many files is done for the cases */
		struct stat st;

		stat("/image/tree/x", &st);
	}
	for (struct case_ *c = cases; c; c = c->next) {
		int wanted = argc < 2, st;
		pid_t pid;

		for (int i = 1; i < argc; i++)
			wanted |= !strcmp(argv[i], c->name);
		if (!wanted)
			continue;
		snprintf(dir, sizeof dir, "/tmp/case-%s", c->name);
		mkdir(dir, 0755);
		pid = fork();
		if (!pid) {
			signal(SIGALRM, SIG_DFL);
			alarm((unsigned)limit);
			if (chdir(dir))
				_exit(2);
			c->run();
			_exit(0);
		}
		running = pid;
		alarm((unsigned)limit + 5);
		st = wait_status(pid);
		alarm(0);
		if (st) {
			printf("FAIL %s: %s %d\n", c->name, WIFSIGNALED(st) ? "killed by signal" : "status",
			       WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st));
			bad++;
		} else {
			good++;
		}
		nftw(dir, drop, 16, FTW_DEPTH | FTW_PHYS);
	}
	printf("%d passed, %d failed\n", good, bad);
	return bad != 0;
}
