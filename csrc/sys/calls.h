/* Typed wrappers of the system calls that the programs use. Result or -errno, nothing else. */
#ifndef UDK_SYS_CALLS_H
#define UDK_SYS_CALLS_H

#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/mman.h>
#include <asm/poll.h>
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/termbits.h>
#include <asm/termios.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <linux/wait.h>
#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#else /* headers before 5.6 */
struct open_how {
	uint64_t flags, mode, resolve;
};
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10
#endif

typedef struct {
	int64_t tv_sec, tv_nsec;
} ktimespec;

/* What the kernel's headers leave to libc's. */
struct kiovec {
	void *base;
	size_t length;
};

struct kmsghdr {
	void *name;
	int name_length;
	struct kiovec *iov;
	size_t iov_length;
	void *control;
	size_t control_length;
	unsigned flags;
};

struct kcmsghdr {
	size_t length;
	int level, type;
	int fds[4];
};

/* The kernel's own sigaction, the same on both architectures. */
struct ksigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	sigmask mask;
};

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

#define SIGBIT(n) ((sigmask)1 << ((n) - 1))
#define ALL_SIGNALS (~(sigmask)0)
#ifndef W_OK
#define F_OK 0
#define X_OK 1
#define W_OK 2
#define R_OK 4
#endif
#ifndef SEEK_SET
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
#endif
#ifndef DT_DIR
#define DT_UNKNOWN 0
#define DT_FIFO 1
#define DT_CHR 2
#define DT_DIR 4
#define DT_BLK 6
#define DT_REG 8
#define DT_LNK 10
#define DT_SOCK 12
#endif
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1U
#endif
#ifndef WIFEXITED
#define WIFEXITED(s) (((s) & 0x7f) == 0)
#define WEXITSTATUS(s) (((s) >> 8) & 0xff)
#define WIFSIGNALED(s) (((s) & 0x7f) != 0 && ((s) & 0x7f) != 0x7f)
#define WTERMSIG(s) ((s) & 0x7f)
#define WIFSTOPPED(s) (((s) & 0xff) == 0x7f)
#define WSTOPSIG(s) WEXITSTATUS(s)
#define WCOREDUMP(s) ((s) & 0x80)
#endif
#ifndef RUSAGE_CHILDREN
#define RUSAGE_SELF 0
#define RUSAGE_CHILDREN (-1)
#endif

/* files */
static inline long sys_openat(int d, const char *p, int flags, unsigned mode) { return SC4(__NR_openat, d, p, flags, mode); }
static inline long sys_open(const char *p, int flags, unsigned mode) { return sys_openat(AT_FDCWD, p, flags, mode); }
static inline long sys_close(int fd) { return SC1(__NR_close, fd); }
static inline long sys_close_range(unsigned a, unsigned b, unsigned flags) { return SC3(__NR_close_range, a, b, flags); }
static inline long sys_read(int fd, void *p, size_t n) { return SC3(__NR_read, fd, p, n); }
static inline long sys_write(int fd, const void *p, size_t n) { return SC3(__NR_write, fd, p, n); }
static inline long sys_pread(int fd, void *p, size_t n, int64_t at) { return SC4(__NR_pread64, fd, p, n, at); }
static inline long sys_pwrite(int fd, const void *p, size_t n, int64_t at) { return SC4(__NR_pwrite64, fd, p, n, at); }
static inline long sys_lseek(int fd, int64_t at, int whence) { return SC3(__NR_lseek, fd, at, whence); }
static inline long sys_dup(int fd) { return SC1(__NR_dup, fd); }
static inline long sys_dup3(int a, int b, int flags) { return SC3(__NR_dup3, a, b, flags); }
static inline long sys_fcntl(int fd, int cmd, unsigned long arg) { return SC3(__NR_fcntl, fd, cmd, arg); }
static inline long sys_ioctl(int fd, unsigned long cmd, void *arg) { return SC3(__NR_ioctl, fd, cmd, arg); }
static inline long sys_pipe2(int fds[2], int flags) { return SC2(__NR_pipe2, fds, flags); }
static inline long sys_ftruncate(int fd, int64_t n) { return SC2(__NR_ftruncate, fd, n); }
static inline long sys_fsync(int fd) { return SC1(__NR_fsync, fd); }
static inline long sys_readlinkat(int d, const char *p, char *to, size_t n) { return SC4(__NR_readlinkat, d, p, to, n); }
static inline long sys_mkdirat(int d, const char *p, unsigned mode) { return SC3(__NR_mkdirat, d, p, mode); }
static inline long sys_mknodat(int d, const char *p, unsigned mode, unsigned dev) { return SC4(__NR_mknodat, d, p, mode, dev); }
static inline long sys_symlinkat(const char *to, int d, const char *p) { return SC3(__NR_symlinkat, to, d, p); }
static inline long sys_linkat(int d, const char *p, int e, const char *q, int flags) { return SC5(__NR_linkat, d, p, e, q, flags); }
static inline long sys_unlinkat(int d, const char *p, int flags) { return SC3(__NR_unlinkat, d, p, flags); }
static inline long sys_renameat2(int d, const char *p, int e, const char *q, unsigned f) { return SC5(__NR_renameat2, d, p, e, q, f); }
static inline long sys_fchmodat(int d, const char *p, unsigned mode) { return SC3(__NR_fchmodat, d, p, mode); }
static inline long sys_fchmod(int fd, unsigned mode) { return SC2(__NR_fchmod, fd, mode); }
static inline long sys_fchownat(int d, const char *p, unsigned u, unsigned g, int f) { return SC5(__NR_fchownat, d, p, u, g, f); }
static inline long sys_faccessat(int d, const char *p, int mode) { return SC3(__NR_faccessat, d, p, mode); }
static inline long sys_fstatat(int d, const char *p, struct stat *st, int flags) { return SC4(__NR_newfstatat, d, p, st, flags); }
static inline long sys_fstat(int fd, struct stat *st) { return SC2(__NR_fstat, fd, st); }
static inline long sys_statx(int d, const char *p, int flags, unsigned mask, struct statx *st) { return SC5(__NR_statx, d, p, flags, mask, st); }
static inline long sys_statfs(const char *p, struct statfs *st) { return SC2(__NR_statfs, p, st); }
static inline long sys_fstatfs(int fd, struct statfs *st) { return SC2(__NR_fstatfs, fd, st); }
static inline long sys_openat2(int d, const char *p, struct open_how *how) { return SC4(__NR_openat2, d, p, how, sizeof *how); }
static inline long sys_getdents64(int fd, void *to, size_t n) { return SC3(__NR_getdents64, fd, to, n); }
static inline long sys_getcwd(char *to, size_t n) { return SC2(__NR_getcwd, to, n); }
static inline long sys_chdir(const char *p) { return SC1(__NR_chdir, p); }
static inline long sys_fchdir(int fd) { return SC1(__NR_fchdir, fd); }
static inline long sys_chroot(const char *p) { return SC1(__NR_chroot, p); }
static inline long sys_umask(unsigned mode) { return SC1(__NR_umask, mode); }
static inline long sys_getxattr(const char *p, const char *name, void *v, size_t n) { return SC4(__NR_getxattr, p, name, v, n); }
static inline long sys_setxattr(const char *p, const char *name, const void *v, size_t n, int f) { return SC5(__NR_setxattr, p, name, v, n, f); }
static inline long sys_memfd_create(const char *name, unsigned flags) { return SC2(__NR_memfd_create, name, flags); }
static inline long sys_splice(int a, int b, size_t n, unsigned flags) { return SC6(__NR_splice, a, 0, b, 0, n, flags); }

/* sockets */
static inline long sys_socket(int domain, int type, int protocol) { return SC3(__NR_socket, domain, type, protocol); }
static inline long sys_socketpair(int domain, int type, int protocol, int fds[2]) { return SC4(__NR_socketpair, domain, type, protocol, fds); }
static inline long sys_sendmsg(int fd, const struct kmsghdr *m, int flags) { return SC3(__NR_sendmsg, fd, m, flags); }
static inline long sys_recvmsg(int fd, struct kmsghdr *m, int flags) { return SC3(__NR_recvmsg, fd, m, flags); }

/* mounts */
static inline long sys_mount(const char *s, const char *t, const char *type, unsigned long f, const void *data) { return SC5(__NR_mount, s, t, type, f, data); }
static inline long sys_umount2(const char *t, int flags) { return SC2(__NR_umount2, t, flags); }
static inline long sys_pivot_root(const char *new_root, const char *put_old) { return SC2(__NR_pivot_root, new_root, put_old); }
static inline long sys_fsopen(const char *type, unsigned flags) { return SC2(__NR_fsopen, type, flags); }
static inline long sys_fsconfig(int fd, unsigned cmd, const char *key, const void *value, int aux) { return SC5(__NR_fsconfig, fd, cmd, key, value, aux); }
static inline long sys_fsmount(int fd, unsigned flags, unsigned attr) { return SC3(__NR_fsmount, fd, flags, attr); }
static inline long sys_open_tree(int d, const char *p, unsigned flags) { return SC3(__NR_open_tree, d, p, flags); }
static inline long sys_move_mount(int d, const char *p, int e, const char *q, unsigned f) { return SC5(__NR_move_mount, d, p, e, q, f); }

/* memory */
static inline void *sys_mmap(void *at, size_t n, int prot, int flags, int fd, int64_t off) { return (void *)SC6(__NR_mmap, at, n, prot, flags, fd, off); }
static inline long sys_munmap(void *at, size_t n) { return SC2(__NR_munmap, at, n); }
static inline long sys_mprotect(void *at, size_t n, int prot) { return SC3(__NR_mprotect, at, n, prot); }

/* processes */
static inline long sys_fork(void) { return SC5(__NR_clone, SIGCHLD, 0, 0, 0, 0); }
static inline long sys_clone_flags(unsigned long flags) { return SC5(__NR_clone, flags, 0, 0, 0, 0); } /* fork with CLONE_NEW* */
static inline long sys_execve(const char *p, char *const *argv, char *const *envp) { return SC3(__NR_execve, p, argv, envp); }
static inline long sys_execveat(int d, const char *p, char *const *argv, char *const *envp, int f) { return SC5(__NR_execveat, d, p, argv, envp, f); }
static inline long sys_wait4(int pid, int *status, int options, struct rusage *ru) { return SC4(__NR_wait4, pid, status, options, ru); }
static inline long sys_waitid(int type, int id, siginfo_t *info, int options, struct rusage *ru) { return SC5(__NR_waitid, type, id, info, options, ru); }
static inline long sys_getpid(void) { return SC0(__NR_getpid); }
static inline long sys_getppid(void) { return SC0(__NR_getppid); }
static inline long sys_gettid(void) { return SC0(__NR_gettid); }
static inline long sys_getuid(void) { return SC0(__NR_getuid); }
static inline long sys_getgid(void) { return SC0(__NR_getgid); }
static inline long sys_geteuid(void) { return SC0(__NR_geteuid); }
static inline long sys_getegid(void) { return SC0(__NR_getegid); }
static inline long sys_setresuid(unsigned r, unsigned e, unsigned s) { return SC3(__NR_setresuid, r, e, s); }
static inline long sys_setresgid(unsigned r, unsigned e, unsigned s) { return SC3(__NR_setresgid, r, e, s); }
static inline long sys_setgroups(size_t n, const unsigned *g) { return SC2(__NR_setgroups, n, g); }
static inline long sys_setsid(void) { return SC0(__NR_setsid); }
static inline long sys_getsid(int pid) { return SC1(__NR_getsid, pid); }
static inline long sys_setpgid(int pid, int pgid) { return SC2(__NR_setpgid, pid, pgid); }
static inline long sys_getpgid(int pid) { return SC1(__NR_getpgid, pid); }
static inline long sys_unshare(unsigned long flags) { return SC1(__NR_unshare, flags); }
static inline long sys_setns(int fd, int type) { return SC2(__NR_setns, fd, type); }
static inline long sys_prctl(int op, unsigned long a, unsigned long b, unsigned long c, unsigned long d) { return SC5(__NR_prctl, op, a, b, c, d); }
static inline long sys_sethostname(const char *s, size_t n) { return SC2(__NR_sethostname, s, n); }
static inline long sys_prlimit(int pid, int what, const struct rlimit64 *set, struct rlimit64 *get) { return SC4(__NR_prlimit64, pid, what, set, get); }
static inline long sys_pidfd_open(int pid, unsigned flags) { return SC2(__NR_pidfd_open, pid, flags); }
static inline long sys_pidfd_send_signal(int fd, int sig) { return SC4(__NR_pidfd_send_signal, fd, sig, 0, 0); }
static inline long sys_getrusage(int who, struct rusage *ru) { return SC2(__NR_getrusage, who, ru); }
static inline long sys_capset(void *header, void *data) { return SC2(__NR_capset, header, data); }
static inline long sys_capget(void *header, void *data) { return SC2(__NR_capget, header, data); }

/* signals and time */
static inline long sys_kill(int pid, int sig) { return SC2(__NR_kill, pid, sig); }
static inline long sys_tgkill(int pid, int tid, int sig) { return SC3(__NR_tgkill, pid, tid, sig); }
static inline long sys_sigprocmask(int how, const sigmask *set, sigmask *old) { return SC4(__NR_rt_sigprocmask, how, set, old, sizeof(sigmask)); }
static inline long sys_sigaction(int sig, const struct ksigaction *set, struct ksigaction *old) { return SC4(__NR_rt_sigaction, sig, set, old, sizeof(sigmask)); }
static inline long sys_sigtimedwait(const sigmask *set, siginfo_t *info, const ktimespec *t) { return SC4(__NR_rt_sigtimedwait, set, info, t, sizeof(sigmask)); }
static inline long sys_sigqueueinfo(int pid, int sig, siginfo_t *info) { return SC3(__NR_rt_sigqueueinfo, pid, sig, info); }
static inline long sys_signalfd(int fd, const sigmask *set, int flags) { return SC4(__NR_signalfd4, fd, set, sizeof(sigmask), flags); }
static inline long sys_ppoll(struct pollfd *fds, size_t n, const ktimespec *t, const sigmask *mask) { return SC5(__NR_ppoll, fds, n, t, mask, sizeof(sigmask)); }
static inline long sys_sched_yield(void) { return SC0(__NR_sched_yield); }
static inline long sys_nanosleep(const ktimespec *t) { return SC2(__NR_nanosleep, t, 0); }
static inline long sys_clock_gettime(int clock, ktimespec *t) { return SC2(__NR_clock_gettime, clock, t); }

/* Restores SIG_DFL (or sets SIG_IGN): what a handler address would need (a restorer) is not offered here. */
static inline long sys_signal_default(int sig, bool ignore)
{
	struct ksigaction a = { .handler = ignore ? SIG_IGN : SIG_DFL };
	return sys_sigaction(sig, &a, NULL);
}

#endif
