/* The table of system calls: which ones name paths or identities, and who answers them.
 *
 * What is not in the table goes to the kernel untouched, up to the last number known when this was written; beyond
 * it everything is refused with ENOSYS, because a path call that is not translated would reach the host's files.
 */
#include "core/calls.h"

#define T(name) [__NR_##name] = { call_##name, TRAP, 0, 0 }
#define ARG(name, n) [__NR_##name] = { call_##name, TRAP_ARG, n, 0 }
#define IF(name, options) [__NR_##name] = { call_##name, TRAP, 0, options }
#define GONE(name) [__NR_##name] = { NULL, DENY_ENOSYS, 0, 0 }
#define NO(name) [__NR_##name] = { NULL, DENY_EPERM, 0, 0 }
#define ROOT(name) [__NR_##name] = { call_ok, TRAP, 0, OPT_FAKE_ROOT }
#define IDS (OPT_FAKE_ROOT | OPT_OWNERS)

const struct entry table[] = {
	/* paths, in the order of the manual */
	T(openat), T(openat2), T(newfstatat), T(statx), T(faccessat), T(faccessat2), T(readlinkat), T(statfs),
	T(getdents64), T(getcwd), T(chdir), T(chroot), T(inotify_add_watch), T(mkdirat), T(mknodat), T(unlinkat),
	T(symlinkat), T(linkat), T(renameat2), T(fchmodat), T(fchmodat2), T(fchmod), T(fchownat), T(fchown), T(truncate),
	T(utimensat), T(setxattr), T(lsetxattr), T(fsetxattr), T(getxattr), T(lgetxattr), T(fgetxattr), T(listxattr), T(llistxattr), T(flistxattr),
	T(removexattr), T(lremovexattr), T(fremovexattr), T(name_to_handle_at), IF(fstat, OPT_OWNERS),
#ifdef __NR_renameat
	T(renameat),
#endif
#ifdef __NR_open
	T(open), T(creat), T(stat), T(lstat), T(access), T(readlink), T(mkdir), T(mknod), T(rmdir), T(unlink), T(symlink),
	T(link), T(rename), T(chmod), T(chown), T(lchown), T(utime), T(utimes), T(futimesat),
#endif
	/* names of sockets */
	T(bind), T(connect), ARG(sendto, 4), T(sendmsg), T(sendmmsg), ARG(getsockname, 1), ARG(getpeername, 1), ARG(accept, 1),
	ARG(accept4, 1), ARG(recvfrom, 4), T(recvmsg), T(recvmmsg), IF(getsockopt, OPT_OWNERS),
	/* identity */
	IF(getuid, IDS), IF(geteuid, IDS), IF(getgid, IDS), IF(getegid, IDS), IF(getresuid, IDS), IF(getresgid, IDS),
	IF(getgroups, IDS), IF(setuid, IDS), IF(setgid, IDS), IF(setreuid, IDS), IF(setregid, IDS), IF(setresuid, IDS),
	IF(setresgid, IDS), IF(setgroups, IDS), IF(setfsuid, IDS), IF(setfsgid, IDS), IF(capget, IDS), IF(capset, IDS), T(uname),
	IF(sethostname, OPT_FAKE_ROOT), ROOT(setdomainname),
	T(kill), IF(rt_sigqueueinfo, OPT_FAKE_ROOT), IF(tkill, OPT_FAKE_ROOT), IF(tgkill, OPT_FAKE_ROOT), IF(rt_tgsigqueueinfo, OPT_FAKE_ROOT),
	IF(pidfd_send_signal, OPT_FAKE_ROOT),
	/* owners of System V's shared memory, semaphores and queues */
	[__NR_shmctl] = { call_shmctl, TRAP_ARG, 1, OPT_OWNERS }, [__NR_msgctl] = { call_msgctl, TRAP_ARG, 1, OPT_OWNERS },
	[__NR_semctl] = { call_semctl, TRAP_ARG, 2, OPT_OWNERS },
	/* what would leave the container, or what a later translation could not follow */
	T(unshare), T(setns), GONE(clone3), GONE(io_uring_setup), GONE(io_uring_enter), GONE(io_uring_register),
	NO(open_by_handle_at), NO(mount), NO(umount2), NO(pivot_root), NO(swapon), NO(swapoff), NO(acct), NO(quotactl),
	GONE(open_tree), GONE(move_mount), GONE(fsopen), GONE(fsconfig), GONE(fsmount), GONE(fspick), GONE(mount_setattr),
	GONE(fanotify_mark), GONE(landlock_create_ruleset), GONE(landlock_add_rule), GONE(landlock_restrict_self),
#ifdef __NR_uselib
	GONE(uselib),
#endif
#ifdef __NR_getdents
	GONE(getdents),
#endif
#ifdef __NR_lookup_dcookie
	GONE(lookup_dcookie),
#endif
	[443] = { NULL, DENY_ENOSYS, 0, 0 }, /* quotactl_fd */
	[457] = { NULL, DENY_ENOSYS, 0, 0 }, /* statmount */
	[458] = { NULL, DENY_ENOSYS, 0, 0 }, /* listmount */
	[462] = { NULL, ALLOW, 0, 0 },       /* mseal: the last one known */
};
const long table_size = ARRAY_LEN(table);

long call_raw(struct call *c)
{
#if defined(__x86_64__)
	if (c->nr32) /* the kernel reads and writes its structures */
		return syscall_i386(c->nr32, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], c->a[5]);
#endif
	return SC6(c->nr, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], c->a[5]);
}

/* Answers one system call. Descriptors that the answer needed are closed. */
long core_call(struct call *c)
{
	long r;

	c->hops = 0;
	c->how = 0;
	c->w->n_fds = 0;
	if (c->core->plan->options & OPT_IDENTITY) {
		r = identity_call(c);
		close_since(c, 0);
		return r;
	}
	if (c->nr < 0 || c->nr >= table_size || table[c->nr].act == DENY_ENOSYS)
		return -ENOSYS;
	if (table[c->nr].act == DENY_EPERM)
		return -EPERM;
	r = table[c->nr].handler ? table[c->nr].handler(c) : call_raw(c);
	close_since(c, 0);
	return r;
}
