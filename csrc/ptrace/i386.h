/* 32-bit programs: their system calls, by the numbers and structures of i386.
 *
 * A program of that kind runs in a process whose address space the kernel takes for a 64-bit one, because the loader
 * is; what differs is the code segment, the calls (int 0x80, sysenter) and where its memory lies. The tracer sends a
 * call that is to be translated to `compat_entry`, which is 64-bit code again: there is one core, and one translation.
 */
#ifndef UDK_I386_H
#define UDK_I386_H

#include "trap/trap.h"

/* What compat_entry leaves on the guest's stack; the last five words are what iretq takes. The tracer reads it, too. */
struct compat_frame {
	unsigned long stack, nr, rbx, rcx, rdx, rsi, rdi, rbp, rax, rip, cs, flags, rsp, ss;
};

/* Where the tracer sends a thread: r8 is the call's number, r9 where to return to, r10 the stack pointer, r11 the flags,
 * r12 and r13 the code and stack segments. From compat_exit to compat_end only r15, the frame, counts. */
extern char compat_entry[], compat_exit[], compat_end[];
extern volatile int compat_deferred; /* set by the tracer: signals wait until this process's threads are out of here */

/* ---- the table: i386.c --------------------------------------------------------------------------------- */

#define I386_CALLS 463

struct entry32 {
	long (*convert)(struct call *c); /* NULL: nothing differs */
	short native;                    /* the number of the same call here; -1: there is none, 0: it is not listed */
	uint8_t act;                     /* ALLOW: as of the native call, where there is one */
};
extern const struct entry32 table32[I386_CALLS];

long compat_answer(long nr, const unsigned long a[6]);

/* Conversions that have files of their own. */
long compat_socketcall(struct call *c);
long compat_sendmsg(struct call *c);
long compat_sendmmsg(struct call *c);
long compat_recvmsg(struct call *c);
long compat_recvmmsg(struct call *c);
long compat_stat(struct call *c);
long compat_stat64(struct call *c);
long compat_statfs(struct call *c);
long compat_statfs64(struct call *c);
long compat_getdents(struct call *c);
long compat_ipc(struct call *c);

/* ---- the machine --------------------------------------------------------------------------------------- */

/* Does the kernel run such calls, and tell them addresses below 4 GiB? (CONFIG_IA32_EMULATION; Linux 4.12.) Only under
 * a tracer: it sees the fault where it does not. */
bool compat_works(void);
/* An unused place of n bytes below 4 GiB, or -errno. */
long compat_place(size_t n);


/* ---- the loader's part: i386_load.c -------------------------------------------------------------------- */

#define I386_HINT 0x56555000UL /* where a program goes that may be anywhere */
#define I386_END 0xffffd000UL

struct arguments { /* of a program: where they are */
	unsigned long stack, args[2], env[2];
	void *auxv;
	size_t auxv_size;
};

/* Makes a stack below 4 GiB with what is on the present one, which `a` tells, and tells that one instead. `code`: it is
 * executable; `old`: so is whatever can be read. */
void compat_stack(struct arguments *a, char **argv, char **envp, const char *exe, unsigned long gap, bool code, bool old);
NORETURN void compat_jump(unsigned long stack, unsigned long entry);

#endif
