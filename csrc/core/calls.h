/* The handlers of the table, by topic. */
#ifndef UDK_CORE_CALLS_H
#define UDK_CORE_CALLS_H

#include "core/core.h"

#define CALLS(X)                                                                                                       \
	X(open) X(creat) X(openat) X(openat2)                                                                           \
	X(stat) X(lstat) X(fstat) X(newfstatat) X(statx) X(access) X(faccessat) X(faccessat2) X(readlink) X(readlinkat)   \
	X(statfs) X(fstatfs) X(getdents64) X(getcwd) X(chdir) X(fchdir) X(chroot) X(inotify_add_watch)                   \
	X(mkdir) X(mkdirat) X(mknod) X(mknodat) X(rmdir) X(unlink) X(unlinkat) X(symlink) X(symlinkat) X(link) X(linkat)  \
	X(rename) X(renameat) X(renameat2)                                                                               \
	X(chmod) X(fchmod) X(fchmodat) X(fchmodat2) X(chown) X(lchown) X(fchown) X(fchownat) X(truncate)                  \
	X(utime) X(utimes) X(futimesat) X(utimensat)                                                                     \
	X(setxattr) X(lsetxattr) X(fsetxattr) X(getxattr) X(lgetxattr) X(fgetxattr) X(listxattr) X(llistxattr) X(flistxattr)            \
	X(removexattr) X(lremovexattr) X(fremovexattr)                                                                    \
	X(bind) X(connect) X(sendto) X(sendmsg) X(sendmmsg) X(getsockname) X(getpeername) X(accept) X(accept4)            \
	X(recvfrom) X(recvmsg) X(recvmmsg) X(getsockopt)                                                                 \
	X(getuid) X(geteuid) X(getgid) X(getegid) X(getresuid) X(getresgid) X(getgroups) X(setuid) X(setgid) X(setreuid)  \
	X(setregid) X(setresuid) X(setresgid) X(setgroups) X(setfsuid) X(setfsgid) X(capget) X(capset)                    \
	X(uname) X(sethostname) X(unshare) X(setns) X(name_to_handle_at) X(kill) X(rt_sigqueueinfo) X(tkill) \
	X(tgkill) X(rt_tgsigqueueinfo) X(pidfd_send_signal) X(ok) X(shmctl) X(semctl) X(msgctl)

#define X(name) long call_##name(struct call *c);
CALLS(X)
#undef X

#define KEPT "user.udk." /* calls_xattr.c: before the names of attributes that only guest root may give */

#endif
