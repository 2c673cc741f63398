#include "guard/guard.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/prctl.h>

#ifndef TIOCLINUX
#define TIOCLINUX 0x541C
#endif

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#define COMPATIBLE AUDIT_ARCH_I386
#define X32_IOCTL (0x40000000 + 514)
#else
#define NATIVE AUDIT_ARCH_AARCH64
#define COMPATIBLE AUDIT_ARCH_ARM
#define X32_IOCTL __NR_ioctl
#endif
#define COMPATIBLE_IOCTL 54

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

/* Only the low half of args[1] is looked at: that is all the kernel's ioctl takes. Both architectures are little-endian. */
static struct sock_filter program[] = {
	LOAD(arch),
	IF(NATIVE, 0, 3),
	LOAD(nr),
	IF(__NR_ioctl, 4, 0),
	IF(X32_IOCTL, 3, 6),
	IF(COMPATIBLE, 0, 5),
	LOAD(nr),
	IF(COMPATIBLE_IOCTL, 0, 3),
	LOAD(args[1]),
	IF(TIOCSTI, 2, 0),
	IF(TIOCLINUX, 1, 0),
	RETURN(SECCOMP_RET_ALLOW),
	RETURN(SECCOMP_RET_ERRNO | EPERM),
};

bool has_terminal(void)
{
	long fd = sys_open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0);

	if (fd < 0)
		return false;
	sys_close((int)fd);
	return true;
}

long forbid_typing(void)
{
	struct sock_fprog p = { ARRAY_LEN(program), program };

	return sys_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (unsigned long)&p, 0, 0);
}
