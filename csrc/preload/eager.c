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
struct notes **eager_notes;

#if defined(__x86_64__)
_Static_assert(ROOT_FD == 62 && ANSWER == 1 && JUDGE_CLONE == 2 && JUDGE_FCNTL == 3 && JUDGE_EXEC == 4 && JUDGE_ARG == 5, "as below");

/* Conditions are tested here, with nothing but r11 and the flags, because what passes is made where the guest makes it:
 * that is what a second return of clone, a cancelled thread, a restarted call must see. */
__asm__(".text\n"
	".globl eager_known\neager_known:\n	jmp fast_common\n"
	".globl eager_unknown\neager_unknown:\n"
	"	mov %eax, %eax\n	cmp $512, %eax\n	jae 2f\n"
	"	lea call_verdicts(%rip), %r11\n	add %rax, %r11\n	movzbl (%r11), %r11d\n"
	"	test %r11d, %r11d\n	jnz 1f\n0:	jmp *%rcx\n"
	"1:	cmp $1, %r11d\n	je 2f\n	cmp $4, %r11d\n	jb 4f\n	jne 5f\n"
	"	test $4, %dl\n	jnz 2f\n" /* PROT_EXEC */
	"	test $0x800, %r10d\n	jz 0b\n" /* MAP_DENYWRITE: a loader that begins with a file; of mprotect it says nothing */
	"2:	add $2, %rcx\n	jmp fast_common\n"
	"3:	mov $-1, %rax\n	add $2, %rcx\n	jmp *%rcx\n" /* EPERM */
	"4:	cmp $2, %r11d\n	je 6f\n"
	"	test %esi, %esi\n	jz 2b\n	cmp $1030, %esi\n	je 2b\n" /* F_DUPFD, F_DUPFD_CLOEXEC */
	"	mov %edi, %r11d\n	and $-2, %r11d\n	cmp $62, %r11d\n	je 2b\n	jmp *%rcx\n"
	"5:	cmp $6, %r11d\n	jne 1f\n	test %rsi, %rsi\n	jnz 2b\n	jmp *%rcx\n"
	"1:	cmp $8, %r11d\n	jne 1f\n	test %r10, %r10\n	jnz 2b\n	jmp *%rcx\n"
	"1:	cmp $9, %r11d\n	jne 1f\n	test %r8, %r8\n	jnz 2b\n	jmp *%rcx\n"
	"1:	cmp $10, %r11d\n	jne 2b\n	test %r9, %r9\n	jnz 2b\n	jmp *%rcx\n"
	/* clone: memory, descriptors and working directory are shared together or not at all, but for vfork; else there
	 * are no notes on descriptors (core/notes.c) any more */
	"6:	test $0x7e020000, %edi\n	jnz 3b\n	mov %edi, %r11d\n	and $0x4700, %r11d\n	jz 0b\n"
	"	cmp $0x4000, %r11d\n	je 0b\n	cmp $0x700, %r11d\n	je 0b\n"
	"	and $0x4100, %r11d\n	cmp $0x4100, %r11d\n	je 0b\n"
	"	mov eager_notes(%rip), %r11\n	movq $0, (%r11)\n	jmp *%rcx\n");
#else
__asm__(".text\n.globl eager_known\neager_known: brk #1\n.globl eager_unknown\neager_unknown: brk #1\n");
#endif

static long call_clone_eager(struct call *c)
{
	return c->a[0] & NEW_NAMESPACES ? -EPERM : -ENOSYS; /* others are passed by where they come from */
}

static long call_arch_prctl_eager(struct call *c)
{
	return c->a[0] == SHADOW_STACK ? -EOPNOTSUPP : call_raw(c);
}

static long call_shmat_eager(struct call *c)
{
	return c->a[2] & 0100000 /* SHM_EXEC */ ? -EACCES : call_raw(c);
}

const struct entry *eager_entry_of(long nr)
{
	static const struct entry code = { NULL, TRAP, 0, 0 }; /* each program's start asks for it: see light.c */
	static const struct entry clone = { call_clone_eager, SPECIAL, 0, 0 }, arch = { call_arch_prctl_eager, TRAP, 0, 0 };
	static const struct entry net = { call_socket, TRAP, 0, OPT_NO_NETWORK | OPT_FAKE_ROOT }, shm = { call_shmat_eager, TRAP, 0, 0 };

	switch (nr) {
	case __NR_mmap: case __NR_mprotect: case PKEY_MPROTECT: return &code;
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

static enum verdict verdict_of(long nr)
{
	const struct entry *e = self.eager ? eager_entry_of(nr) : NULL;

	if (!self.eager) {
		switch (nr) { /* what the filter judges, what returns twice */
		case __NR_mmap: return JUDGE_EXEC; /* a library begins */
		case __NR_mprotect: case PKEY_MPROTECT: case __NR_clone: return PASS;
#ifdef __NR_arch_prctl
		case __NR_arch_prctl: return PASS;
#endif
		}
	}
	if (!e)
		e = trap_entry_of(nr);
	if (e->act == ALLOW || (e->need && !(self.core.plan->options & e->need)))
		return PASS;
	switch (nr) {
#ifdef __NR_vfork
	case __NR_vfork: return PASS;
#endif
	case __NR_clone: return JUDGE_CLONE;
	case __NR_fcntl: return JUDGE_FCNTL;
	case __NR_mmap: case __NR_mprotect: case PKEY_MPROTECT: return JUDGE_EXEC;
	}
	/* Those of which the assembler above knows the register. */
	return e->act == TRAP_ARG && (e->arg == 1 || (e->arg >= 3 && e->arg <= 5)) ? JUDGE_ARG + e->arg : ANSWER;
}

uint64_t build_of_code(void)
{
	const uint64_t parts[4] = { CODE_VERSION << 1 | self.eager, (uint64_t)eager_known, (uint64_t)eager_unknown, self.core.plan->build };

	return text_hash((const char *)parts, sizeof parts);
}

void eager_start(void)
{
	struct plan *plan = self.core.plan;

	_Static_assert(sizeof plan->verdicts == VERDICTS, "one for each number");
	eager_notes = &self.core.notes;
	if (!plan->build) { /* the container's first program, or several at once: they come to the same */
		for (long nr = 0; nr < VERDICTS; nr++)
			plan->verdicts[nr] = (uint8_t)verdict_of(nr);
		__atomic_store_n(&plan->build, text_hash((const char *)plan->verdicts, sizeof plan->verdicts) | 1, __ATOMIC_RELEASE);
	}
	memcpy(call_verdicts, plan->verdicts, sizeof call_verdicts);
	if (plan->starts < KEEP_AFTER)
		__atomic_add_fetch(&plan->starts, 1, __ATOMIC_RELAXED);
}

long network_filter(bool i386)
{
	const struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, i386 ? AUDIT_ARCH_I386 : 0, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS), /* int 0x80 has socketcall */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 102 /* socketcall */, 8, 0), /* seen here it is none of the tracer's */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 359 /* socket */, 5, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 7, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 5, 0), /* everywhere the same */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_enter, 4, 3),
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
/* The same judgement as eager_unknown's, in its words. */
static bool passes(struct frame *f)
{
	unsigned nr = (unsigned)f->regs[REG_RAX], flags = (unsigned)f->regs[REG_RDI] & 0x4700, verdict = nr < VERDICTS ? call_verdicts[nr] : ANSWER;

	switch (verdict) {
	case PASS: return true;
	case ANSWER: return false;
	case JUDGE_FCNTL: return (int)f->regs[REG_RSI] != 0 && (int)f->regs[REG_RSI] != 1030 && ((int)f->regs[REG_RDI] & ~1) != ROOT_FD;
	case JUDGE_EXEC: return !(f->regs[REG_RDX] & PROT_EXEC) && !(f->regs[REG_R10] & MAP_DENYWRITE_);
	case JUDGE_CLONE:
		if (f->regs[REG_RDI] & NEW_NAMESPACES)
			return false;
		if (flags && flags != 0x4000 && flags != 0x700 && (flags & 0x4100) != 0x4100)
			self.core.notes = NULL;
		return true;
	default: return !FRAME_ARG(f, verdict - JUDGE_ARG);
	}
}

int on_undefined(struct frame *f)
{
	long call = trapped_at(FRAME_PC(f));

	if (call == -1)
		return 0;
	if (call && passes(f)) {
		FRAME_PC(f) = (unsigned long)call;
		return 2;
	}
	FRAME_PC(f) += 2;
	if (call)
		return 1;
	FRAME_RESULT(f) = (unsigned long)-(long)ENOSYS;
	return 2;
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

	fd = c->w->program.fd >= 0 ? sys_fcntl(c->w->program.fd, F_DUPFD_CLOEXEC, 0) : sys_openat(p->dfd, p->host, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return true;
	if (sys_pread((int)fd, &e, sizeof e, 0) == sizeof e && e.e_type == ET_DYN)
		library = has_soname((int)fd, &e);
	sys_close((int)fd);
	return !library;
}
