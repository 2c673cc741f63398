/* The system calls of i386: what each is here, and what differs in its arguments.
 *
 * Handlers are those of the native table. Numbers that are not listed concern neither paths nor identities and go to
 * the kernel as they are, up to the last one known; a test compares the two tables by name.
 */
#include "ptrace/i386.h"
#include "ptrace/ptrace.h"


#if defined(__x86_64__)

static uint64_t wide(unsigned long low, unsigned long high)
{
	return (uint32_t)low | (uint64_t)high << 32;
}

/* ---- sizes and times ------------------------------------------------------------------------------------- */

static long truncate32(struct call *c)
{
	c->a[1] = (unsigned long)(int32_t)c->a[1];
	return trap_call(c);
}

static long truncate64(struct call *c)
{
	c->a[1] = wide(c->a[1], c->a[2]);
	return trap_call(c);
}

struct time32 {
	int32_t s, fraction;
};

/* Two times of the guest's at a[at], as the native call wants them. */
static long times(struct call *c, int at, int64_t to[4])
{
	struct time32 t[2];

	if (!c->a[at])
		return 0;
	if (guest_read(t, (void *)c->a[at], sizeof t))
		return -EFAULT;
	to[0] = t[0].s, to[1] = t[0].fraction, to[2] = t[1].s, to[3] = t[1].fraction;
	c->a[at] = (unsigned long)to;
	return 0;
}

static long utime32(struct call *c)
{
	int64_t to[2];
	int32_t t[2];

	if (c->a[1]) {
		if (guest_read(t, (void *)c->a[1], sizeof t))
			return -EFAULT;
		to[0] = t[0], to[1] = t[1];
		c->a[1] = (unsigned long)to;
	}
	return trap_call(c);
}

static long utimes32(struct call *c)
{
	int64_t to[4];
	long r = times(c, 1, to);

	return r ? r : trap_call(c);
}

static long times_at(struct call *c) /* futimesat, utimensat */
{
	int64_t to[4];
	long r = times(c, 2, to);

	return r ? r : trap_call(c);
}

/* The kernel does not look at the upper half of nanoseconds of a 32-bit program. */
static long utimensat64(struct call *c)
{
	int64_t to[4];

	if (c->a[2]) {
		if (guest_read(to, (void *)c->a[2], sizeof to))
			return -EFAULT;
		to[1] = (uint32_t)to[1], to[3] = (uint32_t)to[3];
		c->a[2] = (unsigned long)to;
	}
	return trap_call(c);
}

/* ---- ids of 16 bits -------------------------------------------------------------------------------------- */

static unsigned long widened(unsigned long id)
{
	return (uint16_t)id == 0xffff ? 0xffffffff : (uint16_t)id;
}

static uint16_t narrowed(uint32_t id)
{
	return id > 0xffff ? 65534 : (uint16_t)id;
}

static long get16(struct call *c)
{
	return narrowed((uint32_t)trap_call(c));
}

static long set16(struct call *c)
{
	long r;

	for (int i = 0; i < 3; i++)
		c->a[i] = widened(c->a[i]);
	r = trap_call(c);
	return c->nr == __NR_setfsuid || c->nr == __NR_setfsgid ? narrowed((uint32_t)r) : r;
}

static long get3_16(struct call *c) /* getresuid, getresgid */
{
	unsigned long to[3] = { c->a[0], c->a[1], c->a[2] };
	uint32_t ids[3];
	uint16_t id;
	long r;

	for (int i = 0; i < 3; i++)
		c->a[i] = (unsigned long)&ids[i];
	r = trap_call(c);
	for (int i = 0; !r && i < 3; i++) {
		id = narrowed(ids[i]);
		r = guest_write((void *)to[i], &id, sizeof id);
	}
	return r;
}

static long getgroups16(struct call *c)
{
	uint32_t all[MAX_GROUPS];
	uint16_t some[MAX_GROUPS];
	unsigned long to = c->a[1];
	int room = (int)c->a[0];
	long r;

	if (room < 0)
		return -EINVAL;
	c->a[0] = (unsigned long)MIN(room, MAX_GROUPS);
	c->a[1] = (unsigned long)all;
	r = trap_call(c);
	if (r <= 0 || !room)
		return r;
	for (long i = 0; i < r; i++)
		some[i] = narrowed(all[i]);
	return guest_write((void *)to, some, (size_t)r * sizeof some[0]) ? -EFAULT : r;
}

static long setgroups16(struct call *c)
{
	uint32_t all[MAX_GROUPS];
	uint16_t some[MAX_GROUPS];
	size_t n = MIN(c->a[0], MAX_GROUPS);

	if (c->a[0] > 65536)
		return -EINVAL;
	if (guest_read(some, (void *)c->a[1], n * sizeof some[0]))
		return -EFAULT;
	for (size_t i = 0; i < n; i++)
		all[i] = (uint32_t)widened(some[i]);
	c->a[0] = n;
	c->a[1] = (unsigned long)all;
	return trap_call(c);
}

static long chown16(struct call *c)
{
	c->a[1] = widened(c->a[1]);
	c->a[2] = widened(c->a[2]);
	return trap_call(c);
}

/* ---- memory on a noexec file system ---------------------------------------------------------------------- */

/* The kernel's own call first; then a private copy of the code. */
static long mmap2(struct call *c)
{
	size_t n = (c->a[1] + 4095) & ~4095UL;
	uint64_t from = (uint64_t)c->a[5] << 12;
	long r = call_raw(c), failed;

	if ((uint32_t)r > -4096U)
		r = (int)r;
	if (!code_to_copy(c, n, from, &r))
		return r;
	r = syscall_i386(c->nr32, c->a[0], n, PROT_READ | PROT_WRITE, c->a[3] | MAP_ANONYMOUS, -1UL, 0);
	if ((uint32_t)r > -4096U)
		return r;
	r = (uint32_t)r;
	failed = copy_code((void *)r, n, (int)c->a[2], (int)c->a[4], from);
	if (failed)
		sys_munmap((void *)r, n);
	return failed ? failed : r;
}

/* ---- the table ------------------------------------------------------------------------------------------- */

#define S(nr, name) [nr] = { NULL, __NR_##name, ALLOW }
#define C(nr, name, convert) [nr] = { convert, __NR_##name, ALLOW }
#define GONE(nr) [nr] = { NULL, -1, DENY_ENOSYS }

const struct entry32 table32[I386_CALLS] = {
	/* paths */
	S(5, open), S(8, creat), S(9, link), S(10, unlink), S(12, chdir), S(14, mknod), S(15, chmod), S(33, access),
	S(38, rename), S(39, mkdir), S(40, rmdir), S(61, chroot), S(83, symlink), S(85, readlink), S(94, fchmod),
	S(295, openat), S(296, mkdirat), S(297, mknodat), S(298, fchownat), S(301, unlinkat), S(302, renameat),
	S(303, linkat), S(304, symlinkat), S(305, readlinkat), S(306, fchmodat), S(307, faccessat),
	S(353, renameat2), S(383, statx), S(439, faccessat2), S(437, openat2), S(452, fchmodat2),
	S(292, inotify_add_watch), S(226, setxattr), S(227, lsetxattr), S(228, fsetxattr), S(229, getxattr),
	S(230, lgetxattr), S(231, fgetxattr), S(232, listxattr), S(233, llistxattr), S(234, flistxattr),
	S(235, removexattr), S(236, lremovexattr), S(237, fremovexattr), S(183, getcwd), S(341, name_to_handle_at),
	S(220, getdents64), S(11, execve), S(358, execveat),
	/* identity, and what leaves the container */
	S(122, uname), S(74, sethostname), S(121, setdomainname), S(37, kill), S(178, rt_sigqueueinfo), S(238, tkill), S(270, tgkill),
	S(335, rt_tgsigqueueinfo), S(424, pidfd_send_signal),
	S(184, capget), S(185, capset), S(310, unshare), S(346, setns), S(120, clone), S(435, clone3),
	S(384, arch_prctl), S(21, mount), S(52, umount2), S(217, pivot_root), S(87, swapon), S(115, swapoff),
	S(51, acct), S(131, quotactl), S(342, open_by_handle_at), S(86, uselib), S(253, lookup_dcookie),
	S(425, io_uring_setup), S(426, io_uring_enter), S(427, io_uring_register), S(428, open_tree),
	S(429, move_mount), S(430, fsopen), S(431, fsconfig), S(432, fsmount), S(433, fspick), S(442, mount_setattr),
	S(339, fanotify_mark), S(444, landlock_create_ruleset), S(445, landlock_add_rule),
	S(446, landlock_restrict_self),
	/* sockets */
	S(359, socket), S(361, bind), S(362, connect), S(364, accept4), S(365, getsockopt), S(367, getsockname),
	S(368, getpeername), S(369, sendto), S(371, recvfrom),
	/* what is told by other structures */
	C(92, truncate, truncate32), C(193, truncate, truncate64), C(30, utime, utime32), C(271, utimes, utimes32),
	C(299, futimesat, times_at), C(320, utimensat, times_at), C(412, utimensat, utimensat64),
	C(106, stat, compat_stat), C(107, lstat, compat_stat), C(108, fstat, compat_stat), C(195, stat, compat_stat64),
	C(196, lstat, compat_stat64), C(197, fstat, compat_stat64), C(300, newfstatat, compat_stat64),
	C(99, statfs, compat_statfs), C(268, statfs, compat_statfs64),
	/* of 16 bits, then of 32 */
	C(16, lchown, chown16), C(95, fchown, chown16), C(182, chown, chown16), C(23, setuid, set16), C(24, getuid, get16),
	C(46, setgid, set16), C(47, getgid, get16), C(49, geteuid, get16), C(50, getegid, get16), C(70, setreuid, set16),
	C(71, setregid, set16), C(80, getgroups, getgroups16), C(81, setgroups, setgroups16), C(138, setfsuid, set16),
	C(139, setfsgid, set16), C(164, setresuid, set16), C(165, getresuid, get3_16), C(170, setresgid, set16),
	C(171, getresgid, get3_16), S(198, lchown), S(199, getuid), S(200, getgid), S(201, geteuid), S(202, getegid),
	S(203, setreuid), S(204, setregid), S(205, getgroups), S(206, setgroups), S(207, fchown), S(208, setresuid),
	S(209, getresuid), S(210, setresgid), S(211, getresgid), S(212, chown), S(213, setuid), S(214, setgid),
	S(215, setfsuid), S(216, setfsgid),
	C(370, sendmsg, compat_sendmsg), C(345, sendmmsg, compat_sendmmsg), C(372, recvmsg, compat_recvmsg),
	C(337, recvmmsg, compat_recvmmsg), C(417, recvmmsg, compat_recvmmsg), [102] = { compat_socketcall, -1, TRAP },
	[141] = { compat_getdents, __NR_getdents64, TRAP }, [117] = { compat_ipc, -1, SPECIAL },
	S(394, semctl), S(396, shmctl), S(402, msgctl), S(75, setrlimit), S(340, prlimit64),
	C(192, mmap, mmap2), S(125, mprotect), S(172, prctl), S(354, seccomp),
	/* what no program of this century uses: oldstat, umount, oldfstat, oldolduname, oldlstat, readdir, olduname */
	GONE(18), GONE(22), GONE(28), GONE(59), GONE(84), GONE(89), GONE(109),
	GONE(443), GONE(457), GONE(458), /* quotactl_fd, statmount, listmount */
	[462] = { NULL, -1, ALLOW }, /* mseal: the last one known */
};
#endif
