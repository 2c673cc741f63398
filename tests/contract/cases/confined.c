/* The guest's own seccomp filters, and doors that an engine must not leave open. */
#include "case.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define IF(nr, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, skip)

static void install(struct sock_filter *f, size_t n)
{
	struct sock_fprog p = { (unsigned short)n, f };
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0);
}

CASE(filter_errno)
{
	struct sock_filter f[] = { LOAD(0), IF(SYS_getppid, 1), RET(SECCOMP_RET_ERRNO | EXDEV), RET(SECCOMP_RET_ALLOW) };
	install(f, 4);
	FAILS(syscall(SYS_getppid), EXDEV);
	CHECK(there("/etc/passwd"));
}

CASE(filter_errno_on_a_path_call)
{
	struct sock_filter f[] = { LOAD(0), IF(SYS_mkdirat, 1), RET(SECCOMP_RET_ERRNO | EXDEV), RET(SECCOMP_RET_ALLOW) };
	install(f, 4);
	for (int i = 0; i < 40; i++) /* often enough for any fast path */
		FAILS(syscall(SYS_mkdirat, AT_FDCWD, "d", 0755), EXDEV);
	CHECK(there("/etc/passwd") && !there("d"));
	pid_t p = fork(); /* inherited over fork and exec */
	if (!p)
		_exit(!(syscall(SYS_mkdirat, AT_FDCWD, "d", 0755) < 0 && errno == EXDEV));
	CHECK(wait_status(p) == 0);
}

CASE(filter_sees_arguments)
{
	struct sock_filter f[] = { LOAD(0), IF(SYS_openat, 4), LOAD(32), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 0, 1),
				   RET(SECCOMP_RET_ERRNO | EACCES), RET(SECCOMP_RET_ALLOW), RET(SECCOMP_RET_ALLOW) };
	install(f, 7);
	FAILS(syscall(SYS_openat, AT_FDCWD, "x", O_WRONLY | O_CREAT, 0644), EACCES);
	CHECK(syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY) >= 0);
}

CASE(filter_kills)
{
	struct sock_filter f[] = { LOAD(0), IF(SYS_mkdirat, 1), RET(SECCOMP_RET_KILL_PROCESS), RET(SECCOMP_RET_ALLOW) };
	int st;
	pid_t p = fork();
	if (!p) {
		for (int i = 0; i < 30; i++)
			syscall(SYS_mkdirat, AT_FDCWD, "d", 0755);
		install(f, 4);
		syscall(SYS_mkdirat, AT_FDCWD, "d", 0755);
		_exit(0);
	}
	st = wait_status(p);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}

CASE(filter_allow_list)
{
	int ok[] = { SYS_newfstatat, SYS_openat, SYS_close, SYS_exit_group, SYS_write, SYS_rt_sigreturn, SYS_read, SYS_brk, SYS_mmap,
		     SYS_fstat };
	struct sock_filter f[32];
	size_t n = 0;
	f[n++] = (struct sock_filter)LOAD(0);
	for (size_t i = 0; i < sizeof ok / sizeof *ok; i++) {
		f[n++] = (struct sock_filter)IF((unsigned)ok[i], 1);
		f[n++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	}
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_KILL);
	install(f, n);
	CHECK(syscall(SYS_openat, AT_FDCWD, "/tmp/../etc/passwd", O_RDONLY) >= 0);
}

static volatile int trapped, data;

static void on_sys(int sig, siginfo_t *i, void *u)
{
	(void)sig, (void)u;
	trapped = i->si_syscall;
	data = i->si_errno;
}

CASE(filter_traps)
{
	struct sock_filter f[] = { LOAD(0), IF(SYS_mkdirat, 1), RET(SECCOMP_RET_TRAP | 77), RET(SECCOMP_RET_ALLOW) };
	struct sigaction a = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO };
	CHECK(sigaction(SIGSYS, &a, NULL) == 0);
	install(f, 4);
	syscall(SYS_mkdirat, AT_FDCWD, "d", 0755);
	CHECK(trapped == SYS_mkdirat && data == 77 && !there("d"));
}

CASE(other_architectures_do_not_pass)
{
#ifdef __x86_64__
	long r;
	int st;
	FAILS(syscall(0x40000000 | SYS_getpid), ENOSYS);
	pid_t p = fork();
	if (!p) { /* i386 open("/", O_RDONLY) by int 0x80: an error, or a kernel without it faults */
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
		_exit(r > 0 ? 0 : 1);
	}
	st = wait_status(p);
	(void)st;
#endif
}

CASE(handles_do_not_pass)
{
	char space[256] = { 0 };
	int mount;
	*(unsigned *)space = 128;
	CHECK(syscall(SYS_name_to_handle_at, AT_FDCWD, "/etc/passwd", space, &mount, 0) < 0 ||
	      syscall(SYS_open_by_handle_at, AT_FDCWD, space, O_RDONLY) < 0);
}

CASE(io_uring_does_not_pass)
{
	char params[256] = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, params);
	CHECK(fd < 0 || !getenv("CONTRACT_NO_URING"));
}
