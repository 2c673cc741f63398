/* Confinement of the payload, by means that need no privilege and cannot be undone: Landlock and a system-call filter.
 *
 * Where there are namespaces, the mount tree already closes what lies outside, and only the rest is done here. Without
 * them Landlock is what stands between the payload and its caller's files, whatever it executes: so there a kernel that
 * has no Landlock is a failure. docs/security.md says exactly what is stopped and what is not.
 */
#include "guard/guard.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#else
#define NATIVE AUDIT_ARCH_AARCH64
#endif
#define X32_BIT 0x40000000U

enum { AF_UNIX_ = 1, SOCK_STREAM_ = 1, SOCK_SEQPACKET_ = 5, SOCK_TYPES = 15 };

/* ---- Landlock (the header of the building machine may be older than the kernel of the running one) -------------- */

enum {
	FS_EXECUTE = 1 << 0, FS_WRITE_FILE = 1 << 1, FS_READ_FILE = 1 << 2, FS_READ_DIR = 1 << 3,
	FS_CREATE = 0x1ff << 4, /* remove and make, of all kinds */
	FS_REFER = 1 << 13,     /* from ABI 2: links and renames between directories */
	FS_TRUNCATE = 1 << 14,  /* 3 */
	FS_IOCTL_DEV = 1 << 15, /* 5 */
	FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
	NET_TCP = 3,            /* 4: bind and connect */
	SCOPE_ABSTRACT = 1, SCOPE_SIGNAL = 2, /* 6 */
	RULE_PATH_BENEATH = 1, RULESET_VERSION = 1,
};

struct ruleset {
	uint64_t fs, net, scoped;
};

struct path_beneath {
	uint64_t allowed;
	int32_t parent;
} __attribute__((packed));

unsigned landlock_abi(void)
{
	long r = SC3(__NR_landlock_create_ruleset, NULL, 0, RULESET_VERSION);

	return r < 0 ? 0 : (unsigned)r;
}

static uint64_t rights(const char *letters)
{
	uint64_t r = 0;

	for (; *letters; letters++)
		r |= *letters == 'r' ? FS_READ_FILE | FS_READ_DIR
		     : *letters == 'l' ? FS_READ_DIR
		     : *letters == 'x' ? FS_EXECUTE
		     : *letters == 'w' ? FS_WRITE_FILE | FS_CREATE | FS_REFER | FS_TRUNCATE
		     : *letters == 'i' ? FS_IOCTL_DEV : 0;
	return r;
}

static long allow_descriptor(int ruleset, int fd, uint64_t allowed)
{
	struct path_beneath rule = { .allowed = allowed, .parent = fd };
	struct stat st;
	long r = sys_fstat(fd, &st);

	if (r >= 0 && (st.st_mode & S_IFMT) != S_IFDIR)
		rule.allowed &= FS_OF_FILES;
	return r < 0 || !rule.allowed ? r : SC4(__NR_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0);
}

static bool allow(int ruleset, uint64_t handled, const struct reach *reach, struct failure *f)
{
	long r = sys_open(reach->path, O_PATH | O_CLOEXEC, 0);

	if (r < 0 && str_chr(reach->rights, 'o'))
		return true;
	if (r < 0)
		return fail(f, FAIL_UDK, "%s: %s", reach->path, errno_text(r));
	int fd = (int)r;
	r = allow_descriptor(ruleset, fd, rights(reach->rights) & handled);
	sys_close(fd);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s cannot be kept reachable under Landlock: %s", reach->path, errno_text(r)) : true;
}

static bool landlock(const struct plan *p, unsigned abi, int tty, struct failure *f)
{
	struct ruleset set = { 0, 0, 0 };
	long fd, r;

	if (!abi && p->landlock & LANDLOCK_FILES)
		return fail(f, FAIL_ENGINE, "--confine needs Landlock here, which this kernel does not have (Linux 5.13, enabled at boot "
			    "with lsm=landlock,...), or an engine with user namespaces");
	if (p->landlock & LANDLOCK_FILES)
		set.fs = (uint64_t)(FS_REFER - 1) | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL_DEV : 0);
	if (p->landlock & LANDLOCK_TCP && abi >= 4)
		set.net = NET_TCP;
	if (p->landlock & LANDLOCK_ABSTRACT && abi >= 6)
		set.scoped |= SCOPE_ABSTRACT;
	if (p->landlock & LANDLOCK_SIGNALS && abi >= 6)
		set.scoped |= SCOPE_SIGNAL;
	if (!set.fs && !set.net && !set.scoped)
		return true;
	fd = SC3(__NR_landlock_create_ruleset, &set, abi < 4 ? 8 : abi < 6 ? 16 : 24, 0);
	if (fd < 0)
		return fail(f, FAIL_ENGINE, "Landlock refuses its rules: %s", errno_text(fd));
	for (size_t i = 0; i < p->n_reach; i++)
		if (!allow((int)fd, set.fs, &p->reach[i], f))
			return false;
	/* The payload's own terminal, by whatever name it opens it; no other one of the caller's. */
	if (set.fs && tty >= 0)
		allow_descriptor((int)fd, tty, rights("rwi") & set.fs);
	r = SC2(__NR_landlock_restrict_self, fd, 0);
	sys_close((int)fd);
	return r < 0 ? fail(f, FAIL_ENGINE, "Landlock cannot be put in force: %s", errno_text(r)) : true;
}

/* ---- the filter --------------------------------------------------------------------------------------------------- */

struct program {
	struct sock_filter f[48];
	unsigned short n;
};

static void put(struct program *p, unsigned code, uint32_t k, unsigned yes, unsigned no)
{
	p->f[p->n++] = (struct sock_filter){ (uint16_t)code, (uint8_t)yes, (uint8_t)no, k };
}

#define LOAD(p, field) put(p, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field), 0, 0)
#define UNLESS(p, value, skip) put(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define RETURN(p, value) put(p, BPF_RET | BPF_K, value, 0, 0)
#define ANSWER(e) (SECCOMP_RET_ERRNO | (e))

static void deny(struct program *p, long nr, unsigned error)
{
	UNLESS(p, (uint32_t)nr, 1);
	RETURN(p, ANSWER(error));
}

/* A filter cannot read the address that connect is given, nor know a descriptor's family: so the sockets are refused by
 * which a pathname could be reached. What socketpair makes is connected already, and a stream stays so; a datagram socket
 * could be sent elsewhere. Only the low halves of arguments are looked at: the kernel takes them as int. */
static void families(struct program *p, unsigned flags)
{
	const bool no_unix = flags & CONFINE_UNIX, no_network = flags & CONFINE_NETWORK;

	if (no_unix) {
		UNLESS(p, __NR_socketpair, 7);
		LOAD(p, args[1]);
		put(p, BPF_ALU | BPF_AND | BPF_K, SOCK_TYPES, 0, 0);
		UNLESS(p, SOCK_STREAM_, 1);
		RETURN(p, SECCOMP_RET_ALLOW);
		UNLESS(p, SOCK_SEQPACKET_, 1);
		RETURN(p, SECCOMP_RET_ALLOW);
		RETURN(p, ANSWER(EACCES));
	}
	UNLESS(p, __NR_socket, 3);
	LOAD(p, args[0]);
	UNLESS(p, AF_UNIX_, 2);
	RETURN(p, no_unix ? ANSWER(EACCES) : SECCOMP_RET_ALLOW);
	RETURN(p, SECCOMP_RET_ALLOW); /* not a call about sockets */
	RETURN(p, no_network ? ANSWER(EACCES) : SECCOMP_RET_ALLOW);
}

static bool filter(unsigned flags, bool no_truncate, struct failure *f)
{
	struct program p = { .n = 0 };
	struct sock_fprog prog = { 0, p.f };
	long r;

	LOAD(&p, arch);
	put(&p, BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 1, 0);
	RETURN(&p, flags & CONFINE_CALLS ? ANSWER(ENOSYS) : SECCOMP_RET_ALLOW);
	LOAD(&p, nr);
	if (flags & CONFINE_CALLS) {
#if defined(__x86_64__)
		put(&p, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
		RETURN(&p, ANSWER(ENOSYS));
#endif
		deny(&p, __NR_io_uring_setup, ENOSYS);
		deny(&p, __NR_io_uring_enter, ENOSYS);
		deny(&p, __NR_io_uring_register, ENOSYS);
	}
	if (no_truncate)
		deny(&p, __NR_truncate, EACCES);
	if (flags & (CONFINE_UNIX | CONFINE_NETWORK))
		families(&p, flags);
	else
		RETURN(&p, SECCOMP_RET_ALLOW);
	prog.len = p.n;
	/* Without SPEC_ALLOW kernels 4.17 to 5.15 slow the payload down; older ones do not know the flag or the call. */
	r = SC3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog);
	if (r == -EINVAL || r == -ENOSYS)
		r = sys_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (unsigned long)&prog, 0, 0);
	return r < 0 ? fail(f, FAIL_ENGINE, "the system-call filter that confinement needs is refused: %s", errno_text(r)) : true;
}

bool confine(const struct plan *p, int tty, struct failure *f)
{
	const bool files = p->landlock & LANDLOCK_FILES;
	const unsigned abi = p->landlock ? MIN(landlock_abi(), p->landlock_abi) : 0;

	if (p->landlock && !landlock(p, abi, tty, f))
		return false;
	return !(p->confine & ~(unsigned)(CONFINE_FDS | CONFINE_CLOSE)) || filter(p->confine, files && abi < 3, f);
}

/* ---- descriptors -------------------------------------------------------------------------------------------------- */

enum { CLOSE_RANGE_CLOEXEC_ = 4, PROC_FD_SIZE = 8192 };

/* Each by itself, for kernels before 5.11. */
static bool mark_each(void)
{
	static char entries[PROC_FD_SIZE];
	struct rlimit64 files = { 1024, 1024 };
	long got, dir = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (dir >= 0) {
		while ((got = sys_getdents64((int)dir, entries, sizeof entries)) > 0)
			for (long at = 0; at < got;) {
				struct linux_dirent64 *d = (void *)(entries + at);
				uint64_t fd;
				at += d->d_reclen;
				if (parse_u64(d->d_name, 10, &fd) && fd > 2)
					sys_fcntl((int)fd, F_SETFD, FD_CLOEXEC);
			}
		sys_close((int)dir);
		return got == 0;
	}
	sys_prlimit(0, RLIMIT_NOFILE, NULL, &files);
	for (uint64_t fd = 3; fd < MIN(files.rlim_max, 1U << 20); fd++)
		sys_fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	return true;
}

bool confine_descriptors(const struct plan *p, struct failure *f)
{
	if (!(p->confine & (CONFINE_FDS | CONFINE_CLOSE)))
		return true;
	for (int fd = 0; fd < 3 && p->confine & CONFINE_FDS; fd++) {
		struct stat st;
		if (sys_fstat(fd, &st) >= 0 && (st.st_mode & S_IFMT) == S_IFDIR)
			return fail(f, FAIL_UDK, "--confine: the standard stream %d is a directory, from which the payload could reach "
				    "files outside; give it a file or /dev/null", fd);
	}
	if (SC3(__NR_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC_) < 0 && !mark_each())
		return fail(f, FAIL_UDK, "--confine: the inherited descriptors cannot be listed");
	for (size_t i = 0; i < p->n_kept && !p->gate; i++) /* else they go through it */
		sys_fcntl(p->kept[i], F_SETFD, 0);
	return true;
}
