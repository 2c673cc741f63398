/* Freestanding base of every C program: system calls, types, strings, formatted output.
 *
 * No libc: gcc and the kernel's headers are all that is needed, and one binary serves glibc and musl hosts and
 * guests alike. Every sys_* function returns what the kernel returns: a result, or -errno. Nothing here
 * allocates, takes a lock, or keeps state, so all of it is usable after fork and in signal handlers.
 *
 * With UDK_HOSTED (unit tests, sanitizers) start-up and the mem* symbols come from the host's libc.
 */
#ifndef UDK_SYS_H
#define UDK_SYS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/types.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "x86_64 and aarch64 only"
#endif

typedef int64_t ssize;
typedef uint64_t sigmask; /* bit N-1 is signal N */

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define NORETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- raw system calls -------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static inline long syscall6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}
static inline long syscall3(long n, long a, long b, long c)
{
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}
/* A system call of i386, by its number there: addresses are below 4 GiB. */
static inline long syscall_i386(long n, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f)
{
	register unsigned long r13 __asm__("r13") = f;
	long r;
	__asm__ volatile("mov %%rbp, %%r12\n mov %%r13d, %%ebp\n int $0x80\n mov %%r12, %%rbp"
			 : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), "r"(r13) : "r8", "r9", "r10", "r11", "r12", "memory");
	return r;
}
#else
static inline long syscall6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
static inline long syscall3(long n, long a, long b, long c)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#endif

#ifdef UDK_CHECKED /* fuzzers: a checker sees each call before the kernel does */
long checked_call(long n, long a, long b, long c, long d, long e, long f);
#define syscall6 checked_call
#define syscall3(n, a, b, c) checked_call(n, a, b, c, 0, 0, 0)
#endif

#define SC_(a) ((long)(a))
#define SC0(n) syscall3(n, 0, 0, 0)
#define SC1(n, a) syscall3(n, SC_(a), 0, 0)
#define SC2(n, a, b) syscall3(n, SC_(a), SC_(b), 0)
#define SC3(n, a, b, c) syscall3(n, SC_(a), SC_(b), SC_(c))
#define SC4(n, a, b, c, d) syscall6(n, SC_(a), SC_(b), SC_(c), SC_(d), 0, 0)
#define SC5(n, a, b, c, d, e) syscall6(n, SC_(a), SC_(b), SC_(c), SC_(d), SC_(e), 0)
#define SC6(n, a, b, c, d, e, f) syscall6(n, SC_(a), SC_(b), SC_(c), SC_(d), SC_(e), SC_(f))

/* Numbers shared by all architectures, which older kernel headers lack. */
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef __NR_open_tree
#define __NR_open_tree 428
#define __NR_move_mount 429
#define __NR_fsopen 430
#define __NR_fsconfig 431
#define __NR_fsmount 432
#define __NR_fspick 433
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_clone3
#define __NR_clone3 435
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_faccessat2
#define __NR_faccessat2 439
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif

static inline bool is_error(long r) { return (unsigned long)r > -4096UL; }

/* ---- memory and strings (mem.c); as symbols, because gcc emits calls to the first four --------------- */

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
#define memcpy(d, s, n) __builtin_memcpy(d, s, n)
#define memmove(d, s, n) __builtin_memmove(d, s, n)
#define memset(d, c, n) __builtin_memset(d, c, n)
#define memcmp(a, b, n) __builtin_memcmp(a, b, n)
#define strlen(s) __builtin_strlen(s)

int str_cmp(const char *a, const char *b);
static inline bool str_eq(const char *a, const char *b) { return str_cmp(a, b) == 0; }
bool str_starts(const char *s, const char *prefix);
char *str_chr(const char *s, int c);  /* NULL when absent */
char *str_rchr(const char *s, int c);
const char *mem_find(const char *hay, size_t n, const char *needle, size_t m); /* NULL when absent */
/* Copies at most size-1 bytes and always ends with NUL (size > 0); returns strlen(from): >= size is truncation. */
size_t str_copy(char *to, const char *from, size_t size);
/* Decimal (base 10) or octal (8) or hexadecimal (16) digits only, whole string; false on anything else. */
bool parse_u64(const char *s, unsigned base, uint64_t *out);
bool parse_i64(const char *s, int64_t *out);

/* ---- formatted text (fmt.c): %s %d %i %u %x %o %c %p %% with l, ll, z and 0-padded or plain widths -------- */

/* Writes at most size bytes including the NUL; returns the length the whole text has (like snprintf). */
size_t fmt(char *to, size_t size, const char *format, ...) PRINTF(3, 4);
size_t vfmt(char *to, size_t size, const char *format, va_list args);
/* One write(2) of the text (longer than 4 kB is cut), all of it or until an error. */
void say(int fd, const char *format, ...) PRINTF(2, 3);
/* "No such file or directory" for ENOENT or -ENOENT, as strerror has it; "error 4711" for the unknown. */
const char *errno_text(long err);
/* "TERM" for 15; "RTMIN+3" and the like for the rest. */
const char *signal_name(int sig, char buffer[static 16]);

/* ---- whole-buffer input and output (io.c) ------------------------------------------------------------ */

ssize write_all(int fd, const void *data, size_t n); /* 0 or -errno; EINTR retried */
ssize read_some(int fd, void *data, size_t n);       /* EINTR retried */
ssize read_full(int fd, void *data, size_t n);       /* until n bytes or the end */
/* The file's text, NUL-terminated and cut at size-1; its length or -errno. */
ssize read_file(int dirfd, const char *path, char *to, size_t size);
ssize write_file(int dirfd, const char *path, const char *text); /* one write: /proc files want it so */
const char *env_get(char *const *envp, const char *name);        /* the value, or NULL */

/* ---- start-up (start.c) ------------------------------------------------------------------------------ */

/* A program defines main; argv, envp and the auxiliary vector are the kernel's own arrays. */
int main(int argc, char **argv, char **envp);
extern unsigned long *sys_auxv; /* pairs; ends with AT_NULL */
NORETURN void sys_exit(int status);

#include "sys/calls.h"

#endif
