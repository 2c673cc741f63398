/* Signals: an engine that needs one for itself must not be noticed. */
#include "case.h"

#include <setjmp.h>
#include <ucontext.h>

static volatile sig_atomic_t got;

static void on_signal(int sig)
{
	(void)sig;
	got += there("/etc/passwd") ? 1 : 1000;
}

static void handle(int sig, int flags)
{
	struct sigaction a = { .sa_handler = on_signal, .sa_flags = flags };
	CHECK(sigaction(sig, &a, NULL) == 0);
}

static void alarm_in(int ms)
{
	struct itimerval t = { { 0, 0 }, { 0, ms * 1000 } };
	setitimer(ITIMER_REAL, &t, NULL);
}

/* On a busy machine the first may come before what it is to interrupt. */
static void alarm_every(int ms)
{
	struct itimerval t = { { 0, ms * 1000 }, { 0, ms * 1000 } };
	setitimer(ITIMER_REAL, &t, NULL);
}

CASE(all_signals_blocked)
{
	sigset_t all, back;
	sigfillset(&all);
	CHECK(sigprocmask(SIG_SETMASK, &all, NULL) == 0);
	CHECK(there("/etc/passwd"));
	CHECK(sigprocmask(SIG_SETMASK, NULL, &back) == 0);
	for (int s = 1; s < 32; s++)
		CHECK(sigismember(&back, s) == (s != SIGKILL && s != SIGSTOP));
	put("f", "x");
	CHECK(same("f", "x"));
}

CASE(handler_with_full_mask)
{
	struct sigaction a = { .sa_handler = on_signal }, back;
	sigfillset(&a.sa_mask);
	CHECK(sigaction(SIGUSR1, &a, NULL) == 0 && raise(SIGUSR1) == 0 && got == 1);
	CHECK(sigaction(SIGUSR1, NULL, &back) == 0 && sigismember(&back.sa_mask, SIGSYS));
}

static sigset_t but(int sig)
{
	sigset_t s;
	sigfillset(&s);
	sigdelset(&s, sig);
	return s;
}

CASE(ppoll_full_mask)
{
	sigset_t m = but(SIGALRM);
	struct timespec t = { 5, 0 };
	handle(SIGALRM, 0);
	alarm_every(30);
	FAILS(ppoll(NULL, 0, &t, &m), EINTR);
	CHECK(got >= 1);
}

CASE(pselect_full_mask)
{
	sigset_t m = but(SIGALRM);
	struct timespec t = { 5, 0 };
	handle(SIGALRM, 0);
	alarm_every(30);
	FAILS(pselect(0, NULL, NULL, NULL, &t, &m), EINTR);
	CHECK(got >= 1);
}

CASE(sigsuspend_full_mask)
{
	sigset_t m = but(SIGALRM);
	handle(SIGALRM, 0);
	alarm_every(30);
	FAILS(sigsuspend(&m), EINTR);
	CHECK(got >= 1);
}

CASE(epoll_pwait_full_mask)
{
	sigset_t m = but(SIGALRM);
	struct epoll_event e;
	int fd = epoll_create1(0);
	handle(SIGALRM, 0);
	alarm_every(30);
	FAILS(epoll_pwait(fd, &e, 1, 5000, &m), EINTR);
	CHECK(got >= 1);
}

CASE(fifo_open_interrupted)
{
	CHECK(mkfifo("p", 0600) == 0);
	handle(SIGALRM, 0);
	alarm_every(50);
	FAILS(open("p", O_RDONLY), EINTR);
	CHECK(got >= 1);
}

CASE(fifo_open_restarted)
{
	pid_t child;
	CHECK(mkfifo("p", 0600) == 0);
	handle(SIGALRM, SA_RESTART);
	child = fork();
	if (!child) {
		usleep(150000);
		_exit(open("p", O_WRONLY) < 0);
	}
	alarm_every(50);
	CHECK(open("p", O_RDONLY) >= 0 && got >= 1);
	CHECK(wait_status(child) == 0);
}

CASE(alternate_stack)
{
	static char memory[12288];
	stack_t s = { .ss_sp = memory, .ss_size = sizeof memory }, back;
	CHECK(sigaltstack(&s, NULL) == 0 && sigaltstack(NULL, &back) == 0);
	CHECK(back.ss_sp == memory && back.ss_size == sizeof memory && back.ss_flags == 0);
	handle(SIGUSR1, SA_ONSTACK);
	for (int i = 0; i < 200; i++)
		raise(SIGUSR1);
	CHECK(got == 200);
	s.ss_flags = SS_DISABLE;
	CHECK(sigaltstack(&s, &back) == 0 && back.ss_sp == memory);
	CHECK(sigaltstack(NULL, &back) == 0 && back.ss_flags == SS_DISABLE);
}

static void *small_stack_thread(void *arg)
{
	char *memory = malloc(8192);
	stack_t s = { .ss_sp = memory, .ss_size = 8192 };
	struct stat st;
	(void)arg;
	if (sigaltstack(&s, NULL))
		return (void *)1;
	for (int i = 0; i < 500; i++) {
		if (stat("/etc/passwd", &st))
			return (void *)2;
		pthread_kill(pthread_self(), SIGUSR1);
	}
	return NULL;
}

CASE(eight_kilobyte_alternate_stack)
{
	pthread_t t;
	void *r;
	handle(SIGUSR1, SA_ONSTACK);
	CHECK(pthread_create(&t, NULL, small_stack_thread, NULL) == 0);
	CHECK(pthread_join(t, &r) == 0 && r == NULL && got == 500);
}

static volatile sig_atomic_t sys_code;

static void on_sys(int sig, siginfo_t *i, void *u)
{
	(void)u;
	got += sig == SIGSYS;
	sys_code = i->si_code;
}

CASE(own_sigsys_handler)
{
	struct sigaction a = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO }, back;
	CHECK(sigaction(SIGSYS, &a, NULL) == 0 && there("/etc/passwd") && got == 0);
	CHECK(raise(SIGSYS) == 0 && got == 1 && sys_code <= 0 && there("/etc/passwd"));
	CHECK(sigaction(SIGSYS, NULL, &back) == 0 && back.sa_sigaction == on_sys);
}

CASE(sigsys_ignored)
{
	CHECK(signal(SIGSYS, SIG_IGN) == SIG_DFL && raise(SIGSYS) == 0 && there("/etc/passwd"));
	CHECK(signal(SIGSYS, SIG_DFL) == SIG_IGN);
}

CASE(sigsys_blocked_is_pending)
{
	struct sigaction a = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO };
	sigset_t s, back;
	siginfo_t info;
	sigemptyset(&s);
	sigaddset(&s, SIGSYS);
	CHECK(sigaction(SIGSYS, &a, NULL) == 0 && sigprocmask(SIG_BLOCK, &s, NULL) == 0);
	CHECK(sigprocmask(SIG_BLOCK, NULL, &back) == 0 && sigismember(&back, SIGSYS) == 1);
	CHECK(there("/etc/passwd") && raise(SIGSYS) == 0 && got == 0);
	CHECK(sigpending(&back) == 0 && sigismember(&back, SIGSYS) == 1);
	CHECK(sigprocmask(SIG_UNBLOCK, &s, NULL) == 0 && got == 1);
	CHECK(sigprocmask(SIG_BLOCK, &s, NULL) == 0 && raise(SIGSYS) == 0);
	CHECK(sigwaitinfo(&s, &info) == SIGSYS && info.si_signo == SIGSYS && got == 1);
}

CASE(sigsys_kills_by_default)
{
	pid_t p = fork();
	int st;
	if (!p) {
		raise(SIGSYS);
		_exit(0);
	}
	st = wait_status(p);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}

CASE(sent_sigsegv_and_sigbus_kill)
{
	int sigs[] = { SIGSEGV, SIGBUS };
	for (int i = 0; i < 2; i++) {
		int st;
		pid_t p = fork();
		if (!p) {
			CHECK(there("/etc/passwd"));
			kill(getpid(), sigs[i]);
			_exit(0);
		}
		st = wait_status(p);
		CHECK(WIFSIGNALED(st) && WTERMSIG(st) == sigs[i]);
		p = fork();
		if (!p) {
			signal(sigs[i], SIG_IGN);
			raise(sigs[i]);
			_exit(3);
		}
		st = wait_status(p);
		CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 3);
	}
}

CASE(real_fault_kills)
{
	int st;
	pid_t p = fork();
	if (!p) {
		*(volatile int *)8 = 1;
		_exit(0);
	}
	st = wait_status(p);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV);
}

static sigjmp_buf jump;
static void *volatile fault_address;

static void on_fault(int sig, siginfo_t *i, void *u)
{
	(void)sig, (void)u;
	fault_address = i->si_addr;
	siglongjmp(jump, 1);
}

CASE(own_fault_handler)
{
	struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, back;
	CHECK(sigaction(SIGSEGV, &a, NULL) == 0);
	for (int i = 0; i < 50; i++) {
		if (!sigsetjmp(jump, 1)) {
			*(volatile int *)(uintptr_t)(4096 * (i + 2)) = 1;
			CHECK(0);
		}
		CHECK(fault_address == (void *)(uintptr_t)(4096 * (i + 2)));
		FAILS(open((char *)(uintptr_t)(4096 * (i + 2)), O_RDONLY), EFAULT);
	}
	CHECK(sigaction(SIGSEGV, NULL, &back) == 0 && back.sa_sigaction == on_fault && back.sa_flags & SA_SIGINFO);
	CHECK(signal(SIGSEGV, SIG_DFL) != SIG_ERR && sigaction(SIGSEGV, NULL, &back) == 0 && back.sa_handler == SIG_DFL);
}

CASE(fault_handler_survives_spawn)
{
	struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	char *argv[] = { "/opt/contract/cases", "--none", NULL }, *env[] = { NULL };
	pid_t p;
	CHECK(sigaction(SIGSEGV, &a, NULL) == 0);
	CHECK(posix_spawn(&p, "/proc/self/exe", NULL, NULL, argv, env) == 0);
	CHECK(wait_status(p) == 0);
	if (!sigsetjmp(jump, 1)) {
		*(volatile int *)64 = 1;
		CHECK(0);
	}
	CHECK(fault_address == (void *)64);
}

CASE(reset_hand)
{
	struct sigaction back;
	handle(SIGUSR1, SA_RESETHAND);
	raise(SIGUSR1);
	CHECK(got == 1 && sigaction(SIGUSR1, NULL, &back) == 0 && back.sa_handler == SIG_DFL);
}

CASE(jump_out_of_an_interrupted_call)
{
	CHECK(mkfifo("p", 0600) == 0);
	for (volatile int i = 0; i < 100; i++) {
		struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
		CHECK(sigaction(SIGALRM, &a, NULL) == 0);
		if (!sigsetjmp(jump, 1)) {
			alarm_in(1);
			open("p", O_RDONLY);
			CHECK(0);
		}
	}
	CHECK(there("/etc/passwd"));
}

CASE(bad_addresses)
{
	struct stat st;
	long page = sysconf(_SC_PAGESIZE);
	char *two = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *edge;
	CHECK(two != MAP_FAILED && munmap(two + page, (size_t)page) == 0);
	FAILS(syscall(SYS_openat, AT_FDCWD, 8L, 0), EFAULT);
#if __SIZEOF_LONG__ == 8
	FAILS(syscall(SYS_newfstatat, AT_FDCWD, 0x1234567000L, &st, 0), EFAULT);
#endif
	FAILS(syscall(SYS_newfstatat, AT_FDCWD, "/etc/passwd", 16L, 0), EFAULT);
	FAILS(syscall(SYS_openat, AT_FDCWD, -4096L, 0), EFAULT);
	FAILS(syscall(SYS_getcwd, 16L, 4096L), EFAULT);
	FAILS(syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", 16L, 100L), EFAULT);
	edge = two + page - 11;
	memcpy(edge, "/etc/passwd", 11); /* without its NUL: the next page is not there */
	FAILS(syscall(SYS_openat, AT_FDCWD, edge, 0), EFAULT);
	edge--;
	memcpy(edge, "/etc/passwd", 12);
	CHECK(syscall(SYS_openat, AT_FDCWD, edge, 0) >= 0);
}

CASE(registers_and_vectors_survive)
{
#ifdef __x86_64__
	static const char path[] = "/etc/passwd";
	struct stat st;
	for (int i = 0; i < 64; i++) {
		register long d __asm__("rdi") = AT_FDCWD;
		register const char *s __asm__("rsi") = path;
		register void *b __asm__("rdx") = &st;
		register long f __asm__("r10") = 0;
		register long r8 __asm__("r8") = 88, r9 __asm__("r9") = 99;
		double x = 1.5 + i, y = 0;
		long r;
		__asm__ volatile("movsd %[x], %%xmm9\n syscall\n movsd %%xmm9, %[y]"
				 : "=a"(r), "+r"(d), "+r"(s), "+r"(b), "+r"(f), "+r"(r8), "+r"(r9), [y] "=m"(y)
				 : "a"(SYS_newfstatat), [x] "m"(x) : "rcx", "r11", "memory", "xmm9");
		CHECK(r == 0 && d == AT_FDCWD && s == path && b == &st && f == 0 && r8 == 88 && r9 == 99 && y == x);
	}
#endif
}

/* As kill(2) has it, the sender's real user; of a child its own. */
CASE(who_sent_a_signal)
{
	siginfo_t info;
	sigset_t set;
	pid_t pid;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && kill(getpid(), SIGUSR1) == 0);
	memset(&info, 0xff, sizeof info);
	CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_pid == getpid() && info.si_uid == getuid());
	CHECK(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 7 }) == 0);
	CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_uid == getuid() && info.si_value.sival_int == 7);
	pid = fork();
	if (pid == 0)
		_exit(7);
	memset(&info, 0xff, sizeof info);
	CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED) == 0 && info.si_pid == pid && info.si_status == 7 && info.si_uid == getuid());
}
