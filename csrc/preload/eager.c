/* Which calls are answered, and the ways in from changed code.
 *
 * rcx comes with the address of a system-call instruction that goes on well (eager_unknown), or of what is behind one
 * (eager_known); it and r11 are free, as a system call leaves them.
 */
#include "preload/eager.h"

#include <linux/audit.h>
#include <linux/elf-em.h>
#include <linux/elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define NEW_NAMESPACES 0x7e020000UL
#define DT_SONAME_ 14

uint8_t call_verdicts[VERDICTS];

#if defined(__x86_64__)
__asm__(".text\n"
	".globl eager_known\neager_known:\n	jmp fast_common\n"
	".globl eager_unknown\neager_unknown:\n"
	"	mov %eax, %eax\n	cmp $512, %eax\n	jae 2f\n"
	"	lea call_verdicts(%rip), %r11\n	add %rax, %r11\n	movzbl (%r11), %r11d\n"
	"	test %r11d, %r11d\n	jnz 1f\n	jmp *%rcx\n"
	"1:	cmp $2, %r11d\n	jne 2f\n	test $0x7e020000, %edi\n	jnz 3f\n	jmp *%rcx\n"
	"2:	add $2, %rcx\n	jmp fast_common\n"
	"3:	mov $-1, %rax\n	add $2, %rcx\n	jmp *%rcx\n");
#else
__asm__(".text\n.globl eager_known\neager_known: brk #1\n.globl eager_unknown\neager_unknown: brk #1\n");
#endif

static long call_clone_eager(struct call *c)
{
	return c->a[0] & NEW_NAMESPACES ? -EPERM : -ENOSYS; /* others are passed by where they come from */
}

static long call_arch_prctl_eager(struct call *c)
{
	return c->a[0] == 0x5001 ? -EOPNOTSUPP : call_raw(c); /* user shadow stacks, which our way back would break */
}

static long call_socket_eager(struct call *c)
{
	return self.core.plan->options & OPT_NO_NETWORK && c->a[0] != 1 /* AF_UNIX */ ? -EACCES : call_raw(c);
}

static long call_shmat_eager(struct call *c)
{
	return c->a[2] & 0100000 /* SHM_EXEC */ ? -EACCES : call_raw(c);
}

#define PKEY_MPROTECT 329

const struct entry *eager_entry_of(long nr)
{
	static const struct entry mmap = { call_mmap, TRAP, 0, 0 }, protect = { call_mprotect, TRAP, 0, 0 };
	static const struct entry clone = { call_clone_eager, SPECIAL, 0, 0 }, arch = { call_arch_prctl_eager, TRAP, 0, 0 };
	static const struct entry net = { call_socket_eager, TRAP, 0, OPT_NO_NETWORK }, shm = { call_shmat_eager, TRAP, 0, 0 };

	switch (nr) {
	case __NR_mmap: return &mmap;
	case __NR_mprotect: case PKEY_MPROTECT: return &protect;
	case __NR_clone: return &clone;
#ifdef __NR_arch_prctl
	case __NR_arch_prctl: return &arch;
#endif
	case __NR_socket: return &net;
	case __NR_shmat: return &shm;
	}
	(void)arch;
	return NULL;
}

void eager_start(void)
{
	for (long nr = 0; nr < VERDICTS; nr++) {
		const struct entry *e = eager_entry_of(nr);

		if (!e)
			e = trap_entry_of(nr);
		if (e->act == ALLOW || (e->need && !(self.core.plan->options & e->need)))
			call_verdicts[nr] = PASS;
		else
			call_verdicts[nr] = nr == __NR_clone ? PASS_WITHOUT_NAMESPACES : ANSWER;
	}
}

long network_filter(void)
{
	static const struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS), /* int 0x80 has socketcall */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 8, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_enter, 5, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1 /* AF_UNIX */, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	};
	struct sock_fprog prog = { ARRAY_LEN(f), (struct sock_filter *)(uintptr_t)f };

	return sys_prctl(22 /* PR_SET_SECCOMP */, SECCOMP_MODE_FILTER, (unsigned long)&prog, 0, 0);
}

#if defined(__x86_64__)
int on_undefined(struct frame *f)
{
	long call = trapped_at(FRAME_PC(f));
	unsigned nr = (unsigned)f->regs[REG_RAX];

	if (call == -1)
		return 0;
	if (!call) {
		FRAME_RESULT(f) = (unsigned long)-(long)ENOSYS;
		FRAME_PC(f) += 2;
		return 2;
	}
	if (nr < VERDICTS && (call_verdicts[nr] == PASS || (call_verdicts[nr] == PASS_WITHOUT_NAMESPACES && !(f->regs[REG_RDI] & NEW_NAMESPACES)))) {
		FRAME_PC(f) = (unsigned long)call;
		return 2;
	}
	FRAME_PC(f) += 2;
	return 1;
}
#else
int on_undefined(struct frame *f)
{
	(void)f;
	return 0;
}
#endif

/* ld.so run as a program has no interpreter either, but is a library with a name. */
static bool has_soname(int fd, const Elf64_Ehdr *e)
{
	Elf64_Phdr p;
	Elf64_Dyn d;

	for (unsigned i = 0; i < e->e_phnum; i++) {
		if (sys_pread(fd, &p, sizeof p, (int64_t)(e->e_phoff + i * sizeof p)) != sizeof p)
			return false;
		if (p.p_type != PT_DYNAMIC)
			continue;
		for (uint64_t at = 0; at + sizeof d <= p.p_filesz; at += sizeof d) {
			if (sys_pread(fd, &d, sizeof d, (int64_t)(p.p_offset + at)) != sizeof d || !d.d_tag)
				return false;
			if (d.d_tag == DT_SONAME_)
				return true;
		}
	}
	return false;
}

bool is_static(struct call *c)
{
	const struct place *p = &c->w->a;
	Elf64_Ehdr e;
	bool library = false;
	long fd;

	if (c->w->b.found)
		return false;
	fd = c->w->program.fd >= 0 ? sys_fcntl(c->w->program.fd, F_DUPFD_CLOEXEC, 0) : sys_openat(p->dfd, p->host, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return true;
	if (sys_pread((int)fd, &e, sizeof e, 0) == sizeof e && e.e_type == ET_DYN)
		library = has_soname((int)fd, &e);
	sys_close((int)fd);
	return !library;
}
