/* What a hostile payload can do outside of its container, tried with hand-made system calls.
 *
 *   escape try KEY=VALUE...   prints the key of each attempt that succeeded, one a line
 *   escape target             a process outside, to be found and touched: prints its facts, then waits for the end of stdin
 *   escape proof              exits with 77: "a program outside was executed"
 *
 * Every attempt is made in a child and in three ways: by the C library's syscall(), by an instruction in a page that was
 * made executable and writable and filled at run time, and by the `syscall; ret` of an engine that lives in this address
 * space at the address that csrc/core/core.h documents, whose calls its own filter lets pass.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>

#define ENGINE_BASE 0x7e9000000000UL

static char **words;
static unsigned char *instruction; /* of the way in use; NULL: the C library's */

static const char *value(const char *key)
{
	size_t n = strlen(key);

	for (char **w = words; *w; w++)
		if (!strncmp(*w, key, n) && (*w)[n] == '=')
			return *w + n + 1;
	return NULL;
}

static long number(const char *key)
{
	const char *v = value(key);

	return v ? strtol(v, NULL, 10) : -1;
}

/* The path of a name outside; several at a time. */
static const char *out(const char *name)
{
	static char text[8][4096];
	static int at;
	char *p = text[at++ & 7];

	snprintf(p, sizeof text[0], "%s/%s", value("outside"), name);
	return p;
}

/* ---- the three ways ----------------------------------------------------------------------------------------------- */

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	long r;

	if (!instruction) {
		r = syscall(nr, a, b, c, d, e, f);
		return r < 0 ? -errno : r;
	}
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("call *%[at]" : "=a"(r), "+r"(r10), "+r"(r8), "+r"(r9)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), [at] "b"(instruction) : "rcx", "r11", "memory");
#else
	r = -ENOSYS;
#endif
	return r;
}

#define L(x) ((long)(x))
#define C6(nr, a, b, c, d, e, f) call(nr, L(a), L(b), L(c), L(d), L(e), L(f))
#define C5(nr, a, b, c, d, e) C6(nr, a, b, c, d, e, 0)
#define C4(nr, a, b, c, d) C6(nr, a, b, c, d, 0, 0)
#define C3(nr, a, b, c) C6(nr, a, b, c, 0, 0, 0)
#define C2(nr, a, b) C6(nr, a, b, 0, 0, 0, 0)

static unsigned char *made_at_run_time(void)
{
#if defined(__x86_64__)
	static const unsigned char code[] = { 0x0f, 0x05, 0xc3 };
	unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	memcpy(p, code, sizeof code);
	return p;
#else
	return NULL;
#endif
}

static unsigned char *of_the_engine(void)
{
	int pair[2];
	char byte;

	if (pipe(pair))
		return NULL;
	for (unsigned char *p = (void *)ENGINE_BASE, *end = p + 0x40000; p < end; p += 4096) {
		if (write(pair[1], p, 1) != 1)
			continue;
		if (read(pair[0], &byte, 1) != 1)
			break;
		for (size_t i = 0; i < 4094; i++)
			if (p[i] == 0x0f && p[i + 1] == 0x05 && p[i + 2] == 0xc3)
				return p + i;
	}
	return NULL;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static int says_secret(long fd)
{
	char text[16] = "";

	return fd >= 0 && C3(SYS_read, fd, text, sizeof text - 1) > 0 && !strncmp(text, "secret", 6);
}

static int try_read(void)
{
	return says_secret(C4(SYS_openat, AT_FDCWD, out("file"), O_RDONLY, 0));
}

static int try_list(void)
{
	char entries[4096];
	long fd = C4(SYS_openat, AT_FDCWD, out("."), O_RDONLY | O_DIRECTORY, 0);

	return fd >= 0 && C3(SYS_getdents64, fd, entries, sizeof entries) > 0;
}

static int try_write(void)
{
	return C4(SYS_openat, AT_FDCWD, out("file"), O_WRONLY, 0) >= 0;
}

static int try_create(void)
{
	int done = C3(SYS_mkdirat, AT_FDCWD, out("new-dir"), 0755) == 0;

	done |= C4(SYS_openat, AT_FDCWD, out("new-file"), O_WRONLY | O_CREAT, 0644) >= 0;
	done |= C3(SYS_symlinkat, "x", AT_FDCWD, out("new-link")) == 0;
	return done | (C4(SYS_mknodat, AT_FDCWD, out("new-fifo"), S_IFIFO | 0644, 0) == 0);
}

static int try_remove(void)
{
	int done = C3(SYS_unlinkat, AT_FDCWD, out("victim"), 0) == 0;

	return done | (C3(SYS_unlinkat, AT_FDCWD, out("victim-dir"), AT_REMOVEDIR) == 0);
}

static int try_rename(void)
{
	char in[4096];
	int done = C5(SYS_renameat2, AT_FDCWD, out("renamed"), AT_FDCWD, out("renamed2"), 0) == 0;

	snprintf(in, sizeof in, "%s/taken", value("inside"));
	done |= C5(SYS_renameat2, AT_FDCWD, out("moved"), AT_FDCWD, in, 0) == 0;
	snprintf(in, sizeof in, "%s/linked", value("inside"));
	return done | (C5(SYS_linkat, AT_FDCWD, out("file"), AT_FDCWD, in, 0) == 0);
}

static int try_truncate(void)
{
	return C2(SYS_truncate, out("truncated"), 1) == 0;
}

static int try_exec(void)
{
	int status;
	pid_t p = fork();

	if (!p) {
		char *argv[] = { "escape", "proof", NULL }, *envp[] = { NULL };
		C3(SYS_execve, out("program"), argv, envp);
		_exit(1);
	}
	return waitpid(p, &status, 0) == p && WIFEXITED(status) && WEXITSTATUS(status) == 77;
}

static int try_stat(void)
{
	struct stat st;
	char text[64];
	struct statfs fs;
	int done = C4(SYS_newfstatat, AT_FDCWD, out("file"), &st, 0) == 0;

	done |= C3(SYS_faccessat, AT_FDCWD, out("file"), R_OK) == 0;
	done |= C4(SYS_readlinkat, AT_FDCWD, out("link"), text, sizeof text) > 0;
	return done | (C2(SYS_statfs, out("file"), &fs) == 0);
}

static int try_chmod(void)
{
	return C3(SYS_fchmodat, AT_FDCWD, out("file"), 0600) == 0;
}

static int try_utime(void)
{
	return C4(SYS_utimensat, AT_FDCWD, out("file"), NULL, 0) == 0;
}

static int try_setxattr(void)
{
	return C5(SYS_setxattr, out("file"), "user.escape", "x", 1, 0) == 0;
}

#define UP "../../../../../../../../../../../../../../../../../../../.."

/* The descriptor that udk was given, and any other that is open here: is there a way up from it? */
static int try_descriptor(void)
{
	long given = number("fd");
	char path[4200];

	if (given > 2 && says_secret(C4(SYS_openat, given, "file", O_RDONLY, 0)))
		return 1;
	snprintf(path, sizeof path, UP "%s", out("file"));
	for (long fd = 0; fd < 1024; fd++)
		if (says_secret(C4(SYS_openat, fd, path, O_RDONLY, 0)))
			return 1;
	return 0;
}

static int try_terminal(void)
{
	return C4(SYS_openat, AT_FDCWD, value("terminal"), O_RDWR | O_NOCTTY, 0) >= 0;
}

/* ---- sockets ------------------------------------------------------------------------------------------------------ */

static socklen_t unix_address(struct sockaddr_un *a, const char *name, int abstract)
{
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	strncpy(a->sun_path + abstract, name, sizeof a->sun_path - 1 - (size_t)abstract);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)abstract + strlen(name) + !abstract);
}

static int try_unix_path(void)
{
	struct sockaddr_un a;
	socklen_t n = unix_address(&a, out("stream"), 0);
	int pair[2] = { -1, -1 };
	long fd = C3(SYS_socket, AF_UNIX, SOCK_STREAM, 0);

	if (fd >= 0 && C3(SYS_connect, fd, &a, n) == 0)
		return 1;
	n = unix_address(&a, out("datagram"), 0);
	if ((fd = C3(SYS_socket, AF_UNIX, SOCK_DGRAM, 0)) >= 0 && C6(SYS_sendto, fd, "x", 1, 0, &a, n) == 1)
		return 1;
	for (int type = 1; type <= 5; type++) /* what is connected already must not be sent elsewhere */
		if (C4(SYS_socketpair, AF_UNIX, type, 0, pair) == 0 &&
		    (C6(SYS_sendto, pair[0], "x", 1, 0, &a, n) == 1 || C3(SYS_connect, pair[0], &a, n) == 0) && type != SOCK_SEQPACKET)
			return 1;
	return 0;
}

static int try_unix_abstract(void)
{
	struct sockaddr_un a;
	socklen_t n = unix_address(&a, value("abstract"), 1);
	long fd = C3(SYS_socket, AF_UNIX, SOCK_STREAM, 0);

	return fd >= 0 && C3(SYS_connect, fd, &a, n) == 0;
}

static int inet(int type, long port, const char *hello)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	long fd = C3(SYS_socket, AF_INET, type, 0);
	char answer[8];
	struct pollfd p = { .fd = (int)fd, .events = POLLIN };

	if (fd < 0 || C3(SYS_connect, fd, &a, sizeof a) || C6(SYS_sendto, fd, hello, strlen(hello), 0, 0, 0) < 0)
		return 0;
	return poll(&p, 1, 8000) == 1 && read((int)fd, answer, sizeof answer) > 0; /* it was heard */
}

static int try_tcp(void)
{
	return inet(SOCK_STREAM, number("tcp"), "hello");
}

static int try_udp(void)
{
	return inet(SOCK_DGRAM, number("udp"), "hello");
}

/* ---- processes ---------------------------------------------------------------------------------------------------- */

static int open_of_target(const char *name, int flags)
{
	char path[4200];

	snprintf(path, sizeof path, "/proc/%ld/%s", number("pid"), name);
	return C4(SYS_openat, AT_FDCWD, path, flags, 0) >= 0;
}

static int try_proc_root(void)
{
	char name[4200], path[64], text[4096];
	int done = 0;

	for (int pid = 1; pid < 64; pid++) /* those inside: is there a way up from where they are? */
		for (int i = 0; i < 2; i++) {
			snprintf(name, sizeof name, "/proc/%d/%s/" UP "%s", pid, i ? "cwd" : "root", out("file"));
			done |= says_secret(C4(SYS_openat, AT_FDCWD, name, O_RDONLY, 0));
		}
	snprintf(name, sizeof name, "root%s", out("file"));
	done |= open_of_target(name, O_RDONLY);
	done |= open_of_target("cwd/.", O_RDONLY | O_DIRECTORY) | open_of_target("fd/0", O_RDONLY | O_NONBLOCK);
	snprintf(path, sizeof path, "/proc/%ld/environ", number("pid"));
	long fd = C4(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
	done |= fd >= 0 && C3(SYS_read, fd, text, sizeof text) > 0;
	snprintf(path, sizeof path, "/proc/%ld/mem", number("pid"));
	fd = C4(SYS_openat, AT_FDCWD, path, O_RDWR, 0);
	return done | (fd >= 0 && C4(SYS_pread64, fd, text, 1, strtoul(value("address"), NULL, 16)) == 1);
}

static int try_ptrace(void)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)strtoul(value("address"), NULL, 16), 1 };
	long pid = number("pid"), fd;
	int done = C6(SYS_process_vm_readv, pid, &here, 1, &there, 1, 0) == 1;

	fd = C2(434 /* pidfd_open */, pid, 0);
	done |= fd >= 0 && C3(438 /* pidfd_getfd */, fd, 0, 0) >= 0;
	if (C4(SYS_ptrace, PTRACE_SEIZE, pid, 0, 0) == 0) {
		C4(SYS_ptrace, PTRACE_INTERRUPT, pid, 0, 0);
		waitpid((pid_t)pid, NULL, __WALL);
		C4(SYS_ptrace, PTRACE_DETACH, pid, 0, 0);
		done = 1;
	}
	return done;
}

static int try_signal(void)
{
	return C2(SYS_kill, number("pid"), SIGWINCH) == 0;
}

static int try_processes(void)
{
	char path[64], text[256] = "";
	long fd;

	snprintf(path, sizeof path, "/proc/%ld/cmdline", number("pid"));
	fd = C4(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
	return fd >= 0 && C3(SYS_read, fd, text, sizeof text - 1) > 0 && strstr(text, "program");
}

static int try_sysv_ipc(void)
{
	long id = C3(SYS_shmget, number("shm"), 0, 0);
	char *at = id < 0 ? NULL : (char *)C3(SYS_shmat, id, 0, SHM_RDONLY);

	return at && (unsigned long)at < -4096UL && !strcmp(at, "secret");
}

/* ---- doors -------------------------------------------------------------------------------------------------------- */

static int try_io_uring(void)
{
	char params[256] = { 0 };

	return C2(425 /* io_uring_setup */, 4, params) >= 0;
}

static int try_int80(void)
{
#if defined(__x86_64__)
	long r = 20; /* i386 getpid */

	__asm__ volatile("int $0x80" : "+a"(r) : : "memory", "r8", "r9", "r10", "r11");
	return r > 0;
#else
	return 0;
#endif
}

static int try_x32(void)
{
#if defined(__x86_64__)
	return C2(0x40000000 | SYS_getpid, 0, 0) > 0;
#else
	return 0;
#endif
}

static const struct {
	const char *key;
	int (*attempt)(void);
} attempts[] = {
	{ "read", try_read }, { "list", try_list }, { "write", try_write }, { "create", try_create }, { "remove", try_remove },
	{ "rename", try_rename }, { "truncate", try_truncate }, { "exec", try_exec }, { "stat", try_stat }, { "chmod", try_chmod },
	{ "utime", try_utime }, { "setxattr", try_setxattr }, { "unix-path", try_unix_path }, { "unix-abstract", try_unix_abstract },
	{ "proc-root", try_proc_root }, { "ptrace", try_ptrace }, { "signal", try_signal }, { "processes", try_processes },
	{ "sysv-ipc", try_sysv_ipc }, { "terminal", try_terminal }, { "io-uring", try_io_uring }, { "int80", try_int80 },
	{ "x32", try_x32 }, { "descriptor", try_descriptor }, { "tcp", try_tcp }, { "udp", try_udp },
};

static int succeeds(int (*attempt)(void))
{
	int status;
	pid_t p = fork();

	if (!p) {
		alarm(10);
		_exit(attempt() ? 42 : 0);
	}
	return waitpid(p, &status, 0) == p && WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

static void target(void)
{
	static char here = 's';
	char end;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	printf("%p\n", (void *)&here);
	fflush(stdout);
	read(0, &end, 1);
}

int main(int argc, char **argv)
{
	unsigned char *ways[3] = { NULL };
	int n = 1;

	words = argv + 2;
	if (argc > 1 && !strcmp(argv[1], "proof"))
		return 77;
	if (argc > 1 && !strcmp(argv[1], "target"))
		return target(), 0;
	if ((ways[n] = made_at_run_time()))
		n++;
	if ((ways[n] = of_the_engine()))
		n++;
	printf("ways %d\n", n);
	for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++)
		for (int way = 0; way < n; way++) {
			instruction = ways[way];
			fflush(stdout);
			if (succeeds(attempts[i].attempt)) {
				printf("could %s\n", attempts[i].key);
				break;
			}
		}
	return 0;
}
