/* Processes: fork, vfork, clone, exec in all their forms; threads on small stacks; what /proc says. */
#include "case.h"

#include <limits.h>

extern char **environ;
static char self_path[256];

static const char *me(void)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof self_path - 1);
	CHECK(n > 0);
	self_path[n] = 0;
	return self_path;
}

static int run_me(const char *how)
{
	char *argv[] = { (char *)me(), "--none", NULL };
	pid_t p = -1;
	if (!strcmp(how, "vfork")) {
		p = vfork();
		if (!p) {
			execv(argv[0], argv);
			_exit(9);
		}
	} else if (!strcmp(how, "spawn")) {
		CHECK(posix_spawn(&p, argv[0], NULL, NULL, argv, environ) == 0);
	} else {
		p = fork();
		if (!p) {
			execv(argv[0], argv);
			_exit(9);
		}
	}
	return wait_status(p);
}

CASE(fork_exec) { CHECK(run_me("fork") == 0); }
CASE(vfork_exec)
{
	for (int i = 0; i < 100; i++)
		CHECK(run_me("vfork") == 0);
	CHECK(there("/etc/passwd"));
}
/* A vfork child goes on in its parent's frame, wherever that lies and however large it is. */
static __attribute__((noinline)) int run_in_frame(int depth)
{
	volatile char room[4000];
	char *argv[] = { (char *)self_path, "--none", NULL };
	pid_t p;

	for (size_t i = 0; i < sizeof room; i++)
		room[i] = (char)depth;
	if (depth)
		return run_in_frame(depth - 1) | (room[sizeof room - 1] != (char)depth);
	p = vfork();
	if (!p) {
		room[0] = room[sizeof room - 1] + 1;
		execv(argv[0], argv);
		_exit(9);
	}
	return wait_status(p) || room[0] != 1 || room[sizeof room - 1];
}

CASE(vfork_in_a_large_frame)
{
	CHECK(me());
	for (int i = 0; i < 45; i++) {
		char *move = __builtin_alloca(96); /* another place in its page each time */

		move[0] = (char)i;
		CHECK(run_in_frame(i % 3) == 0 && move[0] == (char)i);
	}
}

CASE(posix_spawn_exec) { CHECK(run_me("spawn") == 0); }

static int clone_child(void *arg)
{
	struct stat st;
	(void)arg;
	if (stat("/etc/passwd", &st))
		_exit(7);
	execl(self_path, self_path, "--none", NULL);
	_exit(8);
}

CASE(clone_vm_on_a_small_stack)
{
	char *stack = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	me();
	CHECK(wait_status(clone(clone_child, stack + 16384, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL)) == 0);
}

static void *hammer(void *arg)
{
	struct stat st;
	(void)arg;
	for (int i = 0; i < 1500; i++) {
		int fd;
		if (stat("/etc/passwd", &st) || access("/etc/passwd", R_OK))
			return (void *)1;
		fd = open("/etc/passwd", O_RDONLY);
		if (fd < 0)
			return (void *)2;
		close(fd);
	}
	return NULL;
}

static void threads(int n, size_t stack)
{
	pthread_t t[16];
	pthread_attr_t a;
	pthread_attr_init(&a);
	CHECK(!stack || pthread_attr_setstacksize(&a, stack) == 0);
	for (int i = 0; i < n; i++)
		CHECK(pthread_create(&t[i], &a, hammer, NULL) == 0);
	for (int i = 0; i < n; i++) {
		void *r;
		CHECK(pthread_join(t[i], &r) == 0 && r == NULL);
	}
}

CASE(eight_threads) { threads(8, 0); }
CASE(small_thread_stack) { threads(2, PTHREAD_STACK_MIN < 16384 ? 16384 : PTHREAD_STACK_MIN); }

CASE(fork_while_threads_work)
{
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, hammer, NULL) == 0);
	for (int i = 0; i < 50; i++) {
		pid_t p = fork();
		if (!p) {
			for (int k = 0; k < 20; k++)
				if (!there("/etc/passwd"))
					_exit(1);
			_exit(0);
		}
		CHECK(wait_status(p) == 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

CASE(exe_link)
{
	char p[64], b[256];
	struct stat a, c;
	int fd;
	ssize_t n;
	me();
	CHECK(!strncmp(self_path, "/opt/contract/", 14));
	snprintf(p, sizeof p, "/proc/%d/exe", getpid());
	n = readlink(p, b, sizeof b - 1);
	CHECK(n > 0 && (b[n] = 0, !strcmp(b, self_path)));
	fd = open("/proc/self/exe", O_RDONLY);
	CHECK(fd >= 0 && fstat(fd, &a) == 0 && stat(self_path, &c) == 0 && a.st_ino == c.st_ino);
	CHECK(stat("/proc/self/exe", &a) == 0 && a.st_ino == c.st_ino && S_ISREG(a.st_mode));
}

CASE(other_process_links)
{
	char p[64], b[256];
	int pipes[2], ready[2];
	pid_t child;
	ssize_t n;
	CHECK(pipe(pipes) == 0 && pipe(ready) == 0);
	child = fork();
	if (!child) {
		close(pipes[1]);
		CHECK(chdir("/etc") == 0 && write(ready[1], "", 1) == 1);
		n = read(pipes[0], b, 1);
		_exit(0);
	}
	close(pipes[0]);
	CHECK(read(ready[0], b, 1) == 1);
	snprintf(p, sizeof p, "/proc/%d/exe", child);
	n = readlink(p, b, sizeof b - 1);
	CHECK(n > 0 && (b[n] = 0, !strcmp(b, me())));
	snprintf(p, sizeof p, "/proc/%d/cwd", child);
	n = readlink(p, b, sizeof b - 1);
	CHECK(n > 0 && (b[n] = 0, !strcmp(b, "/etc")));
	snprintf(p, sizeof p, "/proc/%d/root", child);
	n = readlink(p, b, sizeof b - 1);
	CHECK(n == 1 && b[0] == '/');
	close(pipes[1]);
	CHECK(wait_status(child) == 0);
}

CASE(maps_are_the_guests)
{
	char line[4096];
	FILE *f = fopen("/proc/self/maps", "r");
	int mine = 0;
	CHECK(f);
	me();
	while (fgets(line, sizeof line, f)) {
		char *s = strchr(line, '/');
		CHECK(!strstr(line, "udk-trap") && !strstr(line, "upper/"));
		if (s) {
			s[strcspn(s, "\n")] = 0;
			mine |= !strcmp(s, self_path);
		}
	}
	CHECK(mine);
}

CASE(cmdline_is_the_guests)
{
	char b[256] = { 0 };
	int fd = open("/proc/self/cmdline", O_RDONLY);
	ssize_t n = read(fd, b, sizeof b);
	CHECK(n > 0 && strstr(b, "cases") && !memchr(b, 1, (size_t)n));
	CHECK(prctl(PR_GET_NAME, b) == 0 && !strncmp(b, "cases", 5));
}

CASE(exec_by_descriptor)
{
	int fd;
	pid_t p;
	char *argv[] = { "x", "--none", NULL };
	fd = open(me(), O_RDONLY | O_CLOEXEC);
	p = fork();
	if (!p) {
		syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
		_exit(9);
	}
	CHECK(wait_status(p) == 0);
}

CASE(exec_of_a_memfd)
{
	char buf[65536], *argv[] = { "x", "--none", NULL };
	int in = open(me(), O_RDONLY), out = (int)syscall(SYS_memfd_create, "prog", 1);
	ssize_t n;
	pid_t p;
	CHECK(in >= 0 && out >= 0);
	while ((n = read(in, buf, sizeof buf)) > 0)
		CHECK(write(out, buf, (size_t)n) == n);
	p = fork();
	if (!p) {
		syscall(SYS_execveat, out, "", argv, environ, AT_EMPTY_PATH);
		_exit(9);
	}
	CHECK(wait_status(p) == 0);
}

static int exec_status(const char *path)
{
	pid_t p = fork();
	if (!p) {
		execl(path, path, "--none", (char *)NULL);
		_exit(errno);
	}
	return wait_status(p);
}

static int exec_error(const char *path)
{
	int st = exec_status(path);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

CASE(exec_errors)
{
	char text[512], head[400];
	CHECK(mkdir("dir", 0755) == 0);
	put("notexec", "#!/bin/sh\n");
	put("empty", "");
	put("garbage", "garbage");
	put("nointerp", "#!/nonexistent/interpreter\n");
	chmod("empty", 0755), chmod("garbage", 0755), chmod("nointerp", 0755);
	CHECK(symlink("loop", "loop") == 0);
	CHECK(exec_error("./missing") == ENOENT);
	CHECK(exec_error("./dir") == EACCES);
	CHECK(exec_error("./notexec") == EACCES);
	CHECK(exec_error("./empty") == ENOEXEC);
	CHECK(exec_error("./garbage") == ENOEXEC);
	CHECK(exec_error("./nointerp") == ENOENT);
	CHECK(exec_error("./loop") == ELOOP);
	CHECK(exec_error("./notexec/x") == ENOTDIR);
	CHECK(exec_error("") == ENOENT);
	memset(head, 'a', sizeof head);
	head[300] = 0;
	snprintf(text, sizeof text, "#!/%s\n", head);
	put("toolong", text);
	chmod("toolong", 0755);
	CHECK(exec_error("./toolong") == ENOEXEC);
}

CASE(scripts)
{
	char text[700], cwd[256], last[300];
	CHECK(getcwd(cwd, sizeof cwd));
	snprintf(text, sizeof text, "#!%s --none  with spaces \n", me());
	put("s", text);
	chmod("s", 0755);
	CHECK(exec_error("./s") == 0);
	strcpy(last, "s");
	for (int i = 1; i <= 5; i++) {
		char name[16];
		snprintf(text, sizeof text, "#!%s/%s\n", cwd, last);
		snprintf(name, sizeof name, "s%d", i);
		put(name, text);
		chmod(name, 0755);
		strcpy(last, name);
	}
	CHECK(exec_error("./s3") == 0);
	CHECK(exec_error("./s4") == 0);
	CHECK(exec_error("./s5") == ELOOP);
}

CASE(many_arguments)
{
	char **argv = calloc(20003, sizeof *argv);
	pid_t p = fork();
	if (!p) {
		argv[0] = (char *)me();
		argv[1] = "--none";
		for (int i = 2; i < 20002; i++)
			argv[i] = "xxxxxxxxxxxxxxxx";
		execv(argv[0], argv);
		_exit(9);
	}
	CHECK(wait_status(p) == 0);
}

CASE(close_on_exec_and_the_rest)
{
	char a[16], b[16], *argv[] = { (char *)me(), "--fds", a, b, NULL };
	int keep = open("/etc/passwd", O_RDONLY), gone = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	pid_t p;
	snprintf(a, sizeof a, "%d", keep);
	snprintf(b, sizeof b, "%d", gone);
	p = fork();
	if (!p) {
		execv(argv[0], argv);
		_exit(9);
	}
	CHECK(wait_status(p) == 0);
}

CASE(environment_is_untouched)
{
	pid_t p = fork();
	if (!p) {
		char *argv[] = { (char *)me(), "--none", NULL }, *env[] = { "A=1", "LD_PRELOAD=", NULL };
		execve(argv[0], argv, env);
		_exit(9);
	}
	CHECK(wait_status(p) == 0);
}

CASE(traced_child)
{
	int st;
	pid_t p = fork();
	if (!p) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(99);
		raise(SIGSTOP);
		_exit(3);
	}
	CHECK(waitpid(p, &st, 0) == p && WIFSTOPPED(st));
	CHECK(ptrace(PTRACE_CONT, p, 0, 0) == 0);
	st = wait_status(p);
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 3);
}

CASE(no_new_namespaces_that_would_lie)
{
	/* allowed and right, or refused: what was a path before must be the same one after */
	struct stat a, b;
	CHECK(stat("/etc/passwd", &a) == 0);
	if (unshare(CLONE_FS) == 0)
		CHECK(stat("/etc/passwd", &b) == 0 && a.st_ino == b.st_ino);
}

CASE(text_busy)
{
	char self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	pid_t p;
	int fd, in, out, started[2];
	char b[65536];

	CHECK(n > 0);
	self[n] = 0;
	in = open(self, O_RDONLY);
	out = open("copy", O_CREAT | O_WRONLY, 0755);
	while ((n = read(in, b, sizeof b)) > 0)
		CHECK(write(out, b, (size_t)n) == n);
	FAILS(execl("./copy", "copy", "--none", NULL), ETXTBSY);
	CHECK(!close(out));
	CHECK(!pipe2(started, O_CLOEXEC));
	p = fork();
	if (!p) {
		execl("./copy", "copy", "--wait", NULL);
		_exit(9);
	}
	CHECK(!close(started[1]) && read(started[0], b, 1) == 0); /* it is closed by the exec */
	for (int i = 0; i < 2000; i++) {
		fd = open("copy", O_WRONLY);
		if (fd < 0)
			break;
		close(fd);
		usleep(1000);
	}
	CHECK(fd < 0 && errno == ETXTBSY);
	FAILS(truncate("copy", 0), ETXTBSY);
	CHECK(symlink("copy", "link") == 0);
	FAILS(open("link", O_WRONLY | O_TRUNC), ETXTBSY);
	kill(p, SIGKILL);
	wait_status(p);
	fd = open("copy", O_WRONLY);
	CHECK(fd >= 0);
}

CASE(namespaces_asked_for_wrongly)
{
	FAILS(syscall(SYS_unshare, 1), EINVAL);
	FAILS(syscall(SYS_setns, -1, 0), EBADF);
	FAILS(syscall(SYS_setns, 1000, 0), EBADF);
}
