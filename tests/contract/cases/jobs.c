/* Stopped and continued processes; and what a call leaves as it was. */
#include "case.h"

static void stops_and_goes_on(pid_t p, int sig)
{
	int st;

	CHECK(kill(p, sig) == 0);
	CHECK(waitpid(p, &st, WUNTRACED) == p && WIFSTOPPED(st) && WSTOPSIG(st) == sig);
	CHECK(waitpid(p, &st, WNOHANG | WUNTRACED) == 0);
	CHECK(kill(p, SIGCONT) == 0);
	CHECK(waitpid(p, &st, WCONTINUED) == p && WIFCONTINUED(st));
}

CASE(stopped_child)
{
	int st;
	pid_t p = fork();

	if (!p) {
		raise(SIGSTOP);
		_exit(there("/etc/passwd") ? 3 : 4);
	}
	CHECK(waitpid(p, &st, WUNTRACED) == p && WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
	CHECK(kill(p, SIGCONT) == 0);
	st = wait_status(p);
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 3);
}

CASE(stopped_in_a_call)
{
	int st;
	pid_t p;

	CHECK(mkfifo("fifo", 0600) == 0);
	p = fork();
	if (!p) {
		int fd;

		setpgid(0, 0); /* a stop by a terminal's signal needs somebody to continue it */
		fd = open("fifo", O_RDONLY);
		_exit(fd >= 0 && there("/etc/passwd") ? 5 : 6);
	}
	setpgid(p, p);
	usleep(20000);
	for (int i = 0; i < 5; i++) {
		stops_and_goes_on(p, i & 1 ? SIGTSTP : SIGSTOP);
		usleep(1000);
	}
	st = open("fifo", O_WRONLY);
	CHECK(st >= 0);
	st = wait_status(p);
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 5);
}

static void *look(void *arg)
{
	for (;;)
		if (!there("/etc/passwd"))
			_exit(7);
	return arg;
}

CASE(stopped_threads)
{
	int st;
	pid_t p = fork();

	if (!p) {
		pthread_t t;

		for (int i = 0; i < 3; i++)
			pthread_create(&t, NULL, look, NULL);
		look(NULL);
	}
	usleep(20000);
	for (int i = 0; i < 5; i++) {
		stops_and_goes_on(p, SIGSTOP);
		usleep(2000);
	}
	CHECK(kill(p, SIGTERM) == 0);
	st = wait_status(p);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGTERM);
}

CASE(many_children_and_all_are_waited_for)
{
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 10; i++)
			if (!fork())
				_exit(there("/etc/passwd") ? i : 99);
		for (int sum = 0, i = 0; i < 10; i++) {
			int st;

			CHECK(wait(&st) > 0 && WIFEXITED(st));
			sum += WEXITSTATUS(st);
			CHECK(i < 9 || sum == 45);
		}
		CHECK(wait(NULL) == -1 && errno == ECHILD);
	}
}

CASE(nobody_traces_us)
{
	char text[4096] = { 0 };
	int fd = open("/proc/self/status", O_RDONLY);

	CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
	CHECK(strstr(text, "TracerPid:\t0\n"));
}

#ifdef __x86_64__
CASE(registers_are_kept)
{
	for (int i = 0; i < 40; i++) { /* a site that is called often may be treated in another way */
		unsigned long in[9] = { 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888, 0x9999 }, out[9];
		const char *path = i % 3 == 2 ? (char *)8 : "/etc/passwd";
		long r = 21 /* access */;
		register unsigned long *to __asm__("r15") = out;

		__asm__ volatile("push %%rbx\n push %%rbp\n"
				 "mov %[in], %%r11\n mov (%%r11), %%rbx\n mov 8(%%r11), %%rdx\n mov 16(%%r11), %%r8\n"
				 "mov 24(%%r11), %%r9\n mov 32(%%r11), %%r10\n mov 40(%%r11), %%r12\n mov 48(%%r11), %%r13\n"
				 "mov 56(%%r11), %%r14\n movq 64(%%r11), %%xmm7\n mov %[in], %%rbp\n xor %%esi, %%esi\n"
				 "syscall\n"
				 "mov %%rbx, (%[out])\n mov %%rdx, 8(%[out])\n mov %%r8, 16(%[out])\n mov %%r9, 24(%[out])\n"
				 "mov %%r10, 32(%[out])\n mov %%r12, 40(%[out])\n mov %%r13, 48(%[out])\n mov %%r14, 56(%[out])\n"
				 "movq %%xmm7, 64(%[out])\n pop %%rbp\n pop %%rbx\n"
				 : "+a"(r), "+D"(path) : [in] "c"(in), [out] "r"(to)
				 : "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "xmm7", "memory");
		CHECK(r == (i % 3 == 2 ? -EFAULT : 0));
		CHECK(!memcmp(in, out, sizeof in));
	}
}

CASE(a_fault_in_the_middle)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct stat st;

	CHECK(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
	for (int i = 0; i < 30; i++) {
		memset(page, 'a', 4096);
		FAILS(syscall(SYS_open, page + 4000, O_RDONLY), EFAULT);
		FAILS(syscall(SYS_stat, "/etc/passwd", page + 4096 - 8), EFAULT);
		FAILS(syscall(SYS_access, page + 4096, 0), EFAULT);
	}
	CHECK(stat("/etc/passwd", &st) == 0);
}
#endif
