/* Each host call of the core comes through here. It ends the fuzzer, as a finding, when it
 *
 *   - names anything but a tree of the container (or /proc),
 *   - leaves it to the kernel to follow a link or to step up: the core's answer must not depend on what a guest made,
 *   - changes a read-only tree, the union's lower one or a bind, by path or by descriptor.
 *
 * It can also make calls fail, as a full disk or an old kernel would.
 */
#undef UDK_CHECKED
#include "fuzz/checked.h"

struct checked checked;
void (*before_end)(void);

void finding(void)
{
	if (before_end)
		before_end();
	abort();
}

static NORETURN void violation(const char *why, long nr, const char *path)
{
	say(2, "the core made call %ld with \"%s\": %s\n", nr, path, why);
	finding();
}

static bool below(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	return str_starts(path, dir) && (path[n] == '/' || !path[n] || path[n] == ' '); /* " (deleted)" */
}

/* The tree that a host path is in, or -1. */
static int tree_of(const char *path)
{
	int best = -1;

	for (int i = 0; i < checked.n_trees; i++)
		if (below(checked.trees[i].path, path) &&
		    (best < 0 || strlen(checked.trees[i].path) >= strlen(checked.trees[best].path)))
			best = i;
	return best;
}

static long judge_text(long nr, const char *path, const char *text, bool change)
{
	int tree;

	if (text[0] != '/' || below("/proc", text) || str_starts(text, "/memfd:")) /* a pipe, a socket, ... */
		return 0;
	tree = tree_of(text);
	if (tree < 0) {
		say(2, "it is %s\n", text);
		violation("outside of the container", nr, path);
	}
	if (change && checked.proc && str_eq(checked.trees[tree].path, checked.proc))
		return -EACCES; /* as of the real one */
	if (change && checked.trees[tree].fixed) {
		say(2, "it is %s\n", text);
		violation("a change of a read-only tree", nr, path);
	}
	checked.changes += change;
	return 0;
}

/* Too deep for a name: steps up until a tree's root is met. */
static long judge_deep(long nr, const char *path, int fd, bool change)
{
	struct stat st, root, up;
	int at = (int)sys_openat(fd, ".", O_PATH | O_CLOEXEC, 0);

	while (at >= 0 && !sys_fstat(at, &st)) {
		for (int i = 0; i < checked.n_trees; i++)
			if (!sys_fstatat(AT_FDCWD, checked.trees[i].path, &root, 0) && root.st_ino == st.st_ino && root.st_dev == st.st_dev) {
				sys_close(at);
				return judge_text(nr, path, checked.trees[i].path, change);
			}
		int next = (int)sys_openat(at, "..", O_PATH | O_CLOEXEC, 0);
		sys_close(at);
		at = next;
		if (at >= 0 && !sys_fstat(at, &up) && up.st_ino == st.st_ino && up.st_dev == st.st_dev)
			violation("outside of the container, deep down", nr, path);
	}
	return 0;
}

static long judge_fd(long nr, const char *path, int fd, bool change)
{
	char text[HOST_MAX], link[40];
	long n;

	if (fd >= 0 && fd <= 2)
		return 0; /* left by the container's starter, for the guest to do with as it likes */
	if (fd == AT_FDCWD) {
		n = sys_readlinkat(AT_FDCWD, "/proc/self/cwd", text, sizeof text - 1);
	} else {
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		n = sys_readlinkat(AT_FDCWD, link, text, sizeof text - 1);
	}
	if (n == -ENAMETOOLONG)
		return judge_deep(nr, path, fd, change);
	if (n <= 0)
		return 0;
	text[n] = 0;
	return judge_text(nr, path, text, change);
}

/* What is below /proc is not to be changed, whatever it is: it is this very process. -EACCES: not to be done. */
static long judge_proc(long nr, const char *path, bool follow, bool change)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW), .resolve = RESOLVE_NO_MAGICLINKS };
	long fd = sys_openat2(AT_FDCWD, path, &how);
	char text[HOST_MAX], link[40];
	long n;

	if (fd >= 0) {
		sys_close((int)fd);
		return change ? -EACCES : 0;
	}
	if (fd != -ELOOP)
		return change ? -EACCES : 0;
	fd = sys_openat(AT_FDCWD, path, O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW), 0);
	if (fd < 0)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	n = sys_readlinkat(AT_FDCWD, link, text, sizeof text - 1);
	if (n > 0) {
		text[n] = 0;
		if (text[0] == '/' && tree_of(text) < 0 && !below(checked.secrets, text)) {
			sys_close((int)fd);
			return -EACCES; /* a descriptor that the container's starter left to it; not ours to try */
		}
	}
	n = judge_fd(nr, path, (int)fd, change);
	sys_close((int)fd);
	return n;
}

static bool steps_up(const char *path)
{
	for (const char *s = path; *s; s = *s ? s + 1 : s) {
		if (s[0] == '.' && s[1] == '.' && (s[2] == '/' || !s[2]) && (s == path || s[-1] == '/'))
			return true;
		while (*s && *s != '/')
			s++;
	}
	return false;
}

/* 0, or the error that the call is to get. */
static long judge(long nr, int dfd, const char *path, bool follow, bool change)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW), .resolve = RESOLVE_NO_SYMLINKS };
	char dir[HOST_MAX];
	size_t n;
	long fd, r;
	int tree = -1;

	if (strlen(path) >= GUEST_MAX)
		return 0; /* the kernel says ENAMETOOLONG */
	if (path[0] == '/') {
		if (str_eq(path, "/proc") || str_starts(path, "/proc/"))
			return judge_proc(nr, path, follow, change);
		tree = tree_of(path);
		if (tree < 0)
			violation("outside of the container", nr, path);
		if (checked.trees[tree].links && str_eq(checked.trees[tree].path, path))
			return checked.changes += change, 0; /* made when it is needed */
		if (checked.trees[tree].links)
			how.resolve = 0;
		else if (checked.proc && below(checked.proc, path) && (change || (follow && sys_readlinkat(dfd, path, dir, sizeof dir) > 0)))
			return -EACCES; /* as of the real one: a link of it is not followed */
	} else if (str_eq(path, "..") && nr == __NR_openat) {
		return 0; /* to see where that is, nothing else */
	} else if (str_eq(path, "../../../../../../../..") && nr == __NR_openat) { /* the same from far down: still inside */
		fd = sys_openat(dfd, path, O_PATH | O_CLOEXEC, 0);
		r = fd < 0 ? 0 : judge_fd(nr, path, (int)fd, false);
		if (fd >= 0)
			sys_close((int)fd);
		return r;
	}
	if (nr == __NR_newfstatat && (str_eq(path, "62") || str_eq(path, "63")))
		return 0; /* in /proc/PID/fd: roots_hide */
	if (steps_up(path))
		violation("it steps up", nr, path);
	fd = sys_openat2(dfd, path, &how);
	if (fd == -ENOENT) {
		n = str_copy(dir, path, sizeof dir);
		while (n && dir[n - 1] == '/')
			n--;
		while (n && dir[n - 1] != '/')
			n--;
		dir[n] = 0;
		how.flags &= ~(uint64_t)O_NOFOLLOW;
		fd = sys_openat2(dfd, n ? dir : ".", &how);
	}
	if (fd == -ELOOP)
		violation("the kernel would follow a link", nr, path);
	if (fd < 0)
		return 0;
	r = judge_fd(nr, path, (int)fd, change);
	sys_close((int)fd);
	return r;
}

static long judge_address(long nr, const struct kmsghdr *m)
{
	const char *a = m->name;

	if (!a || m->name_length < 3 || a[0] != 1 || a[1] || !a[2])
		return 0;
	if (str_starts(a + 2, "/proc/self/fd/"))
		return judge_proc(nr, a + 2, true, false);
	return judge(nr, AT_FDCWD, a + 2, nr != __NR_bind, nr == __NR_bind);
}

static long judge_open(long nr, int dfd, const char *path, long flags)
{
	bool change = !(flags & O_PATH) && ((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC));

	if (!*path)
		return 0;
	return judge(nr, dfd, path, !(flags & O_NOFOLLOW) && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL), change);
}

/* Which arguments are paths. */
static long judge_call(long nr, const long *a)
{
	const char *p = (const char *)a[1];
	struct kmsghdr m = { 0 };
	long r;

	switch (nr) {
	case __NR_openat: return judge_open(nr, (int)a[0], p, a[2]);
	case __NR_newfstatat: return *p ? judge(nr, (int)a[0], p, !(a[3] & AT_SYMLINK_NOFOLLOW), false) : 0;
	case __NR_statx: return *p ? judge(nr, (int)a[0], p, !(a[2] & AT_SYMLINK_NOFOLLOW), false) : 0;
	case __NR_name_to_handle_at: return *p ? judge(nr, (int)a[0], p, a[4] & AT_SYMLINK_FOLLOW, false) : 0;
	case __NR_readlinkat: return *p ? judge(nr, (int)a[0], p, false, false) : 0;
	case __NR_faccessat: return judge(nr, (int)a[0], p, true, false);
	case __NR_faccessat2: return *p ? judge(nr, (int)a[0], p, !(a[3] & AT_SYMLINK_NOFOLLOW), false) : 0;
	case __NR_mkdirat: case __NR_mknodat: case __NR_unlinkat: return judge(nr, (int)a[0], p, false, true);
	case __NR_symlinkat: return judge(nr, (int)a[1], (const char *)a[2], false, true);
	case __NR_linkat:
		if (*p) {
			/* The name of a descriptor is followed; the file gets one link more. */
			r = judge(nr, (int)a[0], p, a[4] & AT_SYMLINK_FOLLOW, true);
		} else {
			r = judge_fd(nr, p, (int)a[0], true);
		}
		return r ? r : judge(nr, (int)a[2], (const char *)a[3], false, true);
	case __NR_renameat: case __NR_renameat2:
		r = judge(nr, (int)a[0], p, false, true);
		return r ? r : judge(nr, (int)a[2], (const char *)a[3], false, true);
	case __NR_fchmodat: return judge(nr, (int)a[0], p, true, true);
	case __NR_fchmodat2: case __NR_fchownat:
		r = nr == __NR_fchownat ? a[4] : a[3];
		return *p ? judge(nr, (int)a[0], p, !(r & AT_SYMLINK_NOFOLLOW), true) : (judge_fd(nr, p, (int)a[0], true));
	case __NR_utimensat:
		return p && *p ? judge(nr, (int)a[0], p, !(a[3] & AT_SYMLINK_NOFOLLOW), true) : (judge_fd(nr, "", (int)a[0], true));
	case __NR_fchmod: case __NR_fchown: case __NR_fsetxattr: case __NR_fremovexattr: case __NR_ftruncate:
		return judge_fd(nr, "", (int)a[0], true);
	case __NR_truncate: case __NR_setxattr: case __NR_removexattr: return judge(nr, AT_FDCWD, (const char *)a[0], true, true);
	case __NR_lsetxattr: case __NR_lremovexattr: return judge(nr, AT_FDCWD, (const char *)a[0], false, true);
	case __NR_statfs: case __NR_getxattr: case __NR_listxattr: case __NR_chdir: return judge(nr, AT_FDCWD, (const char *)a[0], true, false);
	case __NR_lgetxattr: case __NR_llistxattr: return judge(nr, AT_FDCWD, (const char *)a[0], false, false);
	case __NR_inotify_add_watch: return judge(nr, AT_FDCWD, p, !(a[2] & 0x02000000), false);
	case __NR_bind: case __NR_connect:
		m.name = (void *)a[1], m.name_length = (int)a[2];
		return judge_address(nr, &m);
	case __NR_sendto:
		m.name = (void *)a[4], m.name_length = (int)a[5];
		return judge_address(nr, &m);
	case __NR_sendmsg: return judge_address(nr, (const void *)a[1]);
	case __NR_kill: case __NR_rt_sigqueueinfo: /* nobody else is of the container, and nothing is really sent */
		if (a[1] && checked.kills && (int)a[0] != (int)checked.kills && !((int)checked.kills < -1 && (int)a[0] == sys_getpid()))
			violation("a signal to somebody else", nr, "");
		return a[1] ? -EAGAIN : 0;
	case __NR_getsid: case __NR_getpgid: return 0;
	case __NR_close:
		if (a[0] >= 0 && a[0] <= 2)
			violation("it closes what the container was started with", nr, "");
		return 0;
	/* Nothing is named by these. */
	case __NR_read: case __NR_write: case __NR_fstat: case __NR_lseek: case __NR_mmap: case __NR_munmap:
	case __NR_mprotect: case __NR_pread64: case __NR_getdents64: case __NR_getcwd: case __NR_fchdir: case __NR_fcntl: case __NR_ioctl:
	case __NR_sendfile: case __NR_copy_file_range: case __NR_memfd_create: case __NR_getpid: case __NR_geteuid: case __NR_getegid:
	case __NR_uname: case __NR_capget: case __NR_capset: case __NR_umask: case __NR_unshare: case __NR_getsockname:
	case __NR_getpeername: case __NR_accept: case __NR_accept4: case __NR_recvfrom: case __NR_recvmsg: case __NR_recvmmsg:
	case __NR_getsockopt: case __NR_process_vm_readv: case __NR_fgetxattr: case __NR_flistxattr: case __NR_fstatfs:
		return 0;
	default: violation("a call that the checker does not know", nr, "");
	}
}

static long failure(long nr, const long *a)
{
	unsigned l = checked.lacks;

	if ((nr == __NR_renameat2 && l & NO_RENAMEAT2) || (nr == __NR_copy_file_range && l & NO_COPY_RANGE) ||
	    (nr == __NR_memfd_create && l & NO_MEMFD) || (nr == __NR_sendfile && l & NO_SENDFILE) || (nr == __NR_statx && l & NO_STATX))
		return nr == __NR_renameat2 || nr == __NR_sendfile ? -EINVAL : -ENOSYS;
	if (l & NO_XATTR && (nr == __NR_setxattr || nr == __NR_lsetxattr || nr == __NR_getxattr || nr == __NR_lgetxattr))
		return -EOPNOTSUPP;
	if (l & NO_WHITEOUT && nr == __NR_mknodat && a[2] == S_IFCHR)
		return -EPERM;
	if (l & NO_EMPTY_PATH && nr == __NR_newfstatat && !checked.walks && !*(const char *)a[1])
		return -ENOENT;
	if (checked.fail_at && !--checked.fail_at) {
		checked.fail_at = checked.fail_every;
		if (nr != __NR_close && nr != __NR_munmap && nr != __NR_getpid && nr != __NR_geteuid && nr != __NR_getegid)
			return checked.fail_with;
	}
	return 0;
}

long checked_raw(long nr, const long *a)
{
	return syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long checked_call(long nr, long a, long b, long c, long d, long e, long f)
{
	const long args[6] = { a, b, c, d, e, f };
	char other[64];
	long r;

	if (!checked.on)
		return syscall6(nr, a, b, c, d, e, f);
	checked.calls++;
	if (checked.instead && checked.instead(nr, args, &r))
		return r;
	r = failure(nr, args);
	if (r)
		return r;
	if (checked.proc && !checked.walks && nr == __NR_openat) {
		snprintf(other, sizeof other, "/proc/%d/maps", checked.old_proc);
		if (str_eq((const char *)b, other)) {
			static char path[HOST_MAX];
			snprintf(path, sizeof path, "%s/%d/maps", checked.proc, checked.old_proc);
			return syscall6(nr, a, (long)path, c, d, e, f);
		}
	}
	r = checked.walks ? 0 : judge_call(nr, args);
	return r ? r : syscall6(nr, a, b, c, d, e, f);
}
