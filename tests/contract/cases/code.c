/* System calls by other instructions than a C library's: an engine that changes code, or watches it, sees them all. */
#include "case.h"

#include <ucontext.h>

#if defined(__x86_64__)

#define ASM(name, body) __asm__(".pushsection .text\n.globl " #name "\n" #name ":\n" body "\n.popsection\n")

/* Each takes (number, a, b, c) or has its number inside, and makes the call in a way of its own. */
long by_register(long nr, const void *a, long b, long c), jumped_to(long nr, const void *a, long b, long c);
long near_both(long nr, const void *a, long b, long c), behind_a_loop(long nr, const void *a, long b, long c);
long number_far(const void *a, long b, long c), number_pushed(const void *a, long b, long c);
long two_ways(long which, const void *a, long b), alone(long nr, const void *a, long b, long c);
long red_zone(const void *a, long b, long c), number_behind_address(const void *a, long b, long c);

ASM(by_register, "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n syscall\n ret");
ASM(jumped_to, "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n jmp 1f\n .skip 9, 0x90\n1: syscall\n ret");
ASM(near_both, "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n jmp 1f\n nop\n1: syscall\n"
	       " cmp $-4095, %rax\n jae 2f\n ret\n2: ret");
ASM(behind_a_loop, "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n mov $3, %r8d\n"
		   "1: dec %r8d\n jnz 1b\n syscall\n nop\n ret");
ASM(number_far, "mov $257, %eax\n mov %rdx, %r10\n mov %rsi, %rdx\n mov %rdi, %rsi\n mov $-100, %edi\n syscall\n ret");
ASM(number_pushed, "mov %rdx, %r10\n mov %rsi, %rdx\n mov %rdi, %rsi\n mov $-100, %rdi\n push $65\n pop %rax\n add $192, %eax\n"
		   " syscall\n ret");
/* The straight way sets a number that needs no translation; another comes from elsewhere. */
ASM(two_ways, "test %rdi, %rdi\n mov %rsi, %rdi\n mov %rdx, %rsi\n jnz 2f\n mov $39, %eax\n1: syscall\n ret\n"
	      "2: mov $21, %eax\n jmp 1b");
ASM(alone, "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n jmp 1f\n ret\n1: syscall\n ret");
ASM(number_behind_address, "mov $257, %eax\n mov %rdx, %r10\n mov %rsi, %rdx\n mov %rdi, %rsi\n mov $-100, %edi\n lea 1f(%rip), %r8\n"
			   " syscall\n1: ret");
/* A leaf keeps things below the stack pointer. */
ASM(red_zone, "movq $0x1234567, -8(%rsp)\n movq $0x7654321, -128(%rsp)\n mov %rdx, %r10\n mov %rsi, %rdx\n mov %rdi, %rsi\n"
	      " mov $-100, %edi\n mov $257, %eax\n syscall\n cmpq $0x1234567, -8(%rsp)\n jne 1f\n cmpq $0x7654321, -128(%rsp)\n jne 1f\n"
	      " ret\n1: mov $-1000, %rax\n ret");

static const char passwd[] = "/etc/passwd", none[] = "/etc/there-is-no-such-file";

/* /opt/contract is in the container only. */
static void check(long (*call)(long, const void *, long, long))
{
	CHECK(call(SYS_access, "/opt/contract", F_OK, 0) == 0);
	CHECK(call(SYS_access, none, F_OK, 0) == -ENOENT);
	CHECK(call(SYS_getpid, NULL, 0, 0) == getpid());
	long child = call(SYS_clone, (void *)SIGCHLD, 0, 0);
	CHECK(child >= 0);
	CHECK(call(SYS_access, "/opt/contract", F_OK, 0) == 0);
	if (!child)
		_exit(7);
	CHECK(WEXITSTATUS(wait_status((pid_t)child)) == 7);
}

CASE(calls_of_all_shapes)
{
	int fd;

	check(by_register);
	check(jumped_to);
	check(near_both);
	check(behind_a_loop);
	check(alone);
	fd = (int)number_far(passwd, O_RDONLY, 0);
	CHECK(fd >= 0 && close(fd) == 0 && number_far(none, O_RDONLY, 0) == -ENOENT);
	fd = (int)number_pushed("/opt/contract", O_RDONLY | O_DIRECTORY, 0);
	CHECK(fd >= 0 && close(fd) == 0);
	CHECK(two_ways(0, NULL, 0) == getpid() && two_ways(1, "/opt/contract", F_OK) == 0 && two_ways(1, none, F_OK) == -ENOENT);
	fd = (int)number_behind_address("/opt/contract", O_RDONLY, 0);
	CHECK(fd >= 0 && close(fd) == 0);
	fd = (int)red_zone("/opt/contract", O_RDONLY, 0);
	CHECK(fd >= 0 && close(fd) == 0);
}

CASE(calls_with_all_signals_blocked)
{
	sigset_t all;

	sigfillset(&all);
	CHECK(sigprocmask(SIG_SETMASK, &all, NULL) == 0);
	check(by_register);
	check(jumped_to);
	check(alone);
}

/* jmp 1f; mov bytes before it; 1: syscall; ret: the number is in eax when it is called. */
static const unsigned char made[] = { 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0xeb, 0x00, 0x0f, 0x05, 0xc3 };

CASE(code_made_executable_later)
{
	for (int by_file = 0; by_file < 2; by_file++) {
		int fd = by_file ? open("code", O_RDWR | O_CREAT, 0700) : -1, flags = by_file ? MAP_PRIVATE : MAP_PRIVATE | MAP_ANONYMOUS;
		unsigned char *p;
		long (*call)(int, const void *, long);

		if (by_file)
			CHECK(write(fd, made, sizeof made) == sizeof made && ftruncate(fd, 8192) == 0);
		p = mmap(NULL, 8192, by_file ? PROT_READ : PROT_READ | PROT_WRITE, flags, fd, 0);
		CHECK(p != MAP_FAILED);
		if (!by_file)
			memcpy(p, made, sizeof made);
		CHECK(mprotect(p, 8192, PROT_READ | PROT_EXEC) == 0);
		call = (long (*)(int, const void *, long))p;
		CHECK(call(SYS_access, "/opt/contract", F_OK) == 0 && call(SYS_access, none, F_OK) == -ENOENT);
		CHECK(call(SYS_getpid, NULL, 0) == getpid());
		CHECK(munmap(p, 8192) == 0);
	}
}

CASE(code_mapped_executable)
{
	int fd = open("code", O_RDWR | O_CREAT, 0700);

	CHECK(write(fd, made, sizeof made) == sizeof made && ftruncate(fd, 8192) == 0);
	for (int i = 0; i < 2; i++) {
		unsigned char *p = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
		long (*call)(int, const void *, long) = (long (*)(int, const void *, long))p;

		CHECK(p != MAP_FAILED && call(SYS_access, "/opt/contract", F_OK) == 0 && call(SYS_access, none, F_OK) == -ENOENT);
	}
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	unsigned char back[sizeof made];
	CHECK(read(fd, back, sizeof back) == sizeof back && !memcmp(back, made, sizeof made)); /* the file is as it was */
}

static volatile int ill, ill_code;
static void *volatile ill_at;

static void on_ill(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	ill++;
	ill_code = info->si_code;
	ill_at = info->si_addr;
	if (info->si_code > 0)
		((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
	if (!there("/opt/contract"))
		_exit(3);
}

CASE(own_sigill_handler)
{
	struct sigaction a = { .sa_sigaction = on_ill, .sa_flags = SA_SIGINFO }, back;
	void *at = &&here;

	CHECK(sigaction(SIGILL, &a, NULL) == 0 && sigaction(SIGILL, NULL, &back) == 0 && back.sa_sigaction == on_ill);
	for (int i = 0; i < 3; i++) {
here:
		__asm__ volatile("ud2");
		check(jumped_to);
	}
	CHECK(ill == 3 && ill_code == ILL_ILLOPN && ill_at >= at && ill_at < (void *)((char *)at + 64));
	CHECK(raise(SIGILL) == 0 && ill == 4);
}

CASE(sigill_blocked_is_pending)
{
	struct sigaction a = { .sa_sigaction = on_ill, .sa_flags = SA_SIGINFO };
	sigset_t s, back;

	CHECK(sigaction(SIGILL, &a, NULL) == 0);
	sigemptyset(&s);
	sigaddset(&s, SIGILL);
	CHECK(sigprocmask(SIG_BLOCK, &s, NULL) == 0 && raise(SIGILL) == 0 && ill == 0);
	check(jumped_to);
	CHECK(sigpending(&back) == 0 && sigismember(&back, SIGILL));
	CHECK(sigprocmask(SIG_SETMASK, NULL, &back) == 0 && sigismember(&back, SIGILL));
}

CASE(sigill_kills_by_default)
{
	int st;
	pid_t p = fork();

	if (!p) {
		check(jumped_to);
		__asm__ volatile("ud2");
		_exit(0);
	}
	st = wait_status(p);
	CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGILL);
}
#endif

#ifndef __GLIBC__ /* whose cancellation needs libgcc_s.so, which the container has not */
static void *waits(void *arg)
{
	char c;

	if (!arg)
		pause();
	else
		read(*(int *)arg, &c, 1);
	return NULL;
}

CASE(waiting_threads_are_cancelled)
{
	int fds[2];

	CHECK(pipe(fds) == 0);
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		void *result;

		CHECK(pthread_create(&t, NULL, waits, i & 1 ? fds : NULL) == 0);
		usleep(i % 5 * 1000);
		CHECK(pthread_cancel(t) == 0 && pthread_join(t, &result) == 0 && result == PTHREAD_CANCELED);
	}
}
#endif

/* Profilers find a program's functions by the one range that its code has. */
CASE(code_is_mapped_in_one_piece)
{
	char line[4400], last[4400] = "", *path;
	struct stat st;
	FILE *f;
	int seen = 0;
	for (int i = 0; i < 200; i++) {
		int fd = open("/etc/passwd", O_RDONLY);
		CHECK(fd >= 0 && fstat(fd, &st) == 0 && close(fd) == 0 && stat("/etc", &st) == 0 && access("/etc", R_OK) == 0);
	}
	f = fopen("/proc/self/maps", "r");
	CHECK(f);
	while (fgets(line, sizeof line, f)) {
		path = strchr(line, '/');
		if (!path || !strstr(line, "r-xp "))
			continue;
		seen++;
		CHECK(strcmp(path, last));
		strcpy(last, path);
	}
	fclose(f);
	CHECK(seen || getenv("CONTRACT_NOEXEC")); /* copied there, as nothing of such a mount is mapped */
}

/* What the kernel refuses is refused as it does it; a file that is shared stays so. */
CASE(code_of_files_that_cannot_be_mapped)
{
	char *room = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc/self/exe", O_RDONLY), dir = open("/", O_RDONLY | O_DIRECTORY);

	CHECK(room != MAP_FAILED && fd >= 0 && dir >= 0);
	FAILS(mmap(room, 0, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED ? -1 : 0, EINVAL);
	FAILS(mmap(room, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, dir, 0) == MAP_FAILED ? -1 : 0, ENODEV);
	FAILS(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | 0x800 /* MAP_DENYWRITE */, dir, 0) == MAP_FAILED ? -1 : 0, ENODEV);
	CHECK(room[0] == 0 && room[4096] == 0);
}

/* Checked by what is in it: the C library, of which an engine may use a changed copy. */
CASE(code_that_is_mapped_shared_is_the_file)
{
	char line[4400], path[4400] = "/proc/self/exe", seen[4096];
	struct stat st;
	char *shared;
	FILE *f = fopen("/proc/self/maps", "r");
	int fd;

	if (getenv("CONTRACT_NOEXEC"))
		return; /* the kernel refuses it, and a copy would not be the file */
	CHECK(f);
	while (fgets(line, sizeof line, f))
		if (strstr(line, "r-xp ") && (strstr(line, "/libc.so.") || strstr(line, "/ld-musl")))
			sscanf(strchr(line, '/'), "%4399[^\n]", path);
	fclose(f);
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	shared = mmap(NULL, st.st_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	CHECK(shared != MAP_FAILED);
	for (off_t at = 0; at < st.st_size; at += sizeof seen) {
		ssize_t n = pread(fd, seen, sizeof seen, at);

		CHECK(n > 0 && !memcmp(shared + at, seen, n));
	}
	CHECK(munmap(shared, st.st_size) == 0 && close(fd) == 0);
}
