/* launcher MODE PROGRAM ARGS...: runs a program on a worse node than this one.
 *
 *   denied   no user namespaces, no ptrace: EPERM, as in many containers and on many nodes
 *   noseccomp    no user namespaces, no filters
 *   oldptrace    the same, and no PTRACE_GET_SYSCALL_INFO
 *   nothing      none of the three
 *   onlyseccomp  user namespaces and ptrace, but no filters
 *   old      ENOSYS for every system call newer than Linux 3.10
 *   nolandlock   a kernel without Landlock, and no user namespaces
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define IF(nr, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, skip)
#define FIRST_NEWER 314 /* sched_setattr, Linux 3.14 */

int main(int argc, char **argv)
{
	struct sock_filter denied[] = {
		LOAD(0), IF(SYS_unshare, 1), RET(SECCOMP_RET_ERRNO | EPERM), IF(SYS_ptrace, 1), RET(SECCOMP_RET_ERRNO | EPERM),
		IF(435 /* clone3 */, 1), RET(SECCOMP_RET_ERRNO | ENOSYS), IF(SYS_clone, 3), LOAD(16),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1), RET(SECCOMP_RET_ERRNO | EPERM), RET(SECCOMP_RET_ALLOW),
	};
	struct sock_filter oldptrace[] = {
		LOAD(0), IF(SYS_ptrace, 3), LOAD(16), IF(0x420e, 1), RET(SECCOMP_RET_ERRNO | EIO), RET(SECCOMP_RET_ALLOW),
	};
	struct sock_filter noseccomp[] = {
		LOAD(0), IF(SYS_seccomp, 1), RET(SECCOMP_RET_ERRNO | ENOSYS),
		IF(SYS_prctl, 4), LOAD(16), IF(PR_SET_SECCOMP, 1), RET(SECCOMP_RET_ERRNO | EINVAL), RET(SECCOMP_RET_ALLOW),
		IF(SYS_unshare, 1), RET(SECCOMP_RET_ERRNO | EPERM),
		IF(435 /* clone3 */, 1), RET(SECCOMP_RET_ERRNO | ENOSYS), IF(SYS_clone, 3), LOAD(16),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1), RET(SECCOMP_RET_ERRNO | EPERM), RET(SECCOMP_RET_ALLOW),
	};
	struct sock_filter onlyseccomp[] = {
		LOAD(0), IF(SYS_seccomp, 1), RET(SECCOMP_RET_ERRNO | ENOSYS),
		IF(SYS_prctl, 3), LOAD(16), IF(PR_SET_SECCOMP, 1), RET(SECCOMP_RET_ERRNO | EINVAL), RET(SECCOMP_RET_ALLOW),
	};
	struct sock_filter nolandlock[] = {
		LOAD(0), IF(444 /* landlock_create_ruleset */, 1), RET(SECCOMP_RET_ERRNO | EOPNOTSUPP),
		IF(435 /* clone3 */, 1), RET(SECCOMP_RET_ERRNO | ENOSYS), IF(SYS_clone, 3), LOAD(16),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1), RET(SECCOMP_RET_ERRNO | EPERM), RET(SECCOMP_RET_ALLOW),
	};
	struct sock_filter old[] = {
		LOAD(0), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FIRST_NEWER, 0, 1), RET(SECCOMP_RET_ERRNO | ENOSYS),
		RET(SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p, first = { sizeof denied / sizeof *denied, denied };
	int nothing = argc > 1 && !strcmp(argv[1], "nothing"), aged = argc > 1 && !strcmp(argv[1], "oldptrace");

	if (argc < 3)
		return 2;
	if (aged)
		first = (struct sock_fprog){ sizeof oldptrace / sizeof *oldptrace, oldptrace };
	p = !strcmp(argv[1], "old") ? (struct sock_fprog){ sizeof old / sizeof *old, old }
	    : nothing || aged || !strcmp(argv[1], "noseccomp") ? (struct sock_fprog){ sizeof noseccomp / sizeof *noseccomp, noseccomp }
	    : !strcmp(argv[1], "onlyseccomp") ? (struct sock_fprog){ sizeof onlyseccomp / sizeof *onlyseccomp, onlyseccomp }
	    : !strcmp(argv[1], "nolandlock") ? (struct sock_fprog){ sizeof nolandlock / sizeof *nolandlock, nolandlock }
				    : (struct sock_fprog){ sizeof denied / sizeof *denied, denied };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || ((nothing || aged) && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &first)) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p)) {
		perror("launcher");
		return 2;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 2;
}
