/* The trap engine: system calls of a guest are intercepted inside its own process.
 *
 * A seccomp filter answers path and identity calls with SIGSYS unless they come from this program's own text, which
 * is linked at one fixed address. The handler translates the call through the core and issues it. Every execve is
 * turned into a real execve of this program, which then loads the guest's ELF file: so vfork, close-on-exec, signal
 * reset and memory teardown are the kernel's. Hot call sites are rewritten to jump to the handler directly.
 *
 * All of this runs on the guest's stacks, in its signal handlers and between its vfork and exec: no locks, no
 * allocation, small frames, and what a vfork child does must not change its parent's state.
 */
#ifndef UDK_TRAP_H
#define UDK_TRAP_H

#include "core/calls.h"

#define RLIMIT_CORE_ 4
#define TRAP_MAGIC 0x5a5 /* in SECCOMP_RET_DATA: this trap is ours */
#define TRAP_MAGIC_I386 (TRAP_MAGIC + 1) /* and of a 32-bit call */
#define OUTSIDE_I386 (OUTSIDE + 128)

/* What the signal handler sees: the kernel's frame. */
#if defined(__x86_64__)
enum { REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RDI, REG_RSI, REG_RBP, REG_RBX, REG_RDX,
       REG_RAX, REG_RCX, REG_RSP, REG_RIP, REG_EFL };
struct frame {
	unsigned long flags;
	void *link;
	struct { void *sp; int flags; unsigned long size; } stack;
	unsigned long regs[23];
	void *fp;
	unsigned long reserved[8];
	sigmask mask;
};
#define FRAME_RESULT(f) ((f)->regs[REG_RAX])
#define FRAME_NUMBER(f) ((int)(f)->regs[REG_RAX])
#define FRAME_PC(f) ((f)->regs[REG_RIP])
#define FRAME_SP(f) ((f)->regs[REG_RSP])
#define LENDS 1 /* such clones are seen */
#define FRAME_ARG(f, i) ((f)->regs[((const uint8_t[]){ REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9 })[i]])
#else
struct frame {
	unsigned long flags;
	void *link;
	struct { void *sp; int flags; unsigned long size; } stack;
	sigmask mask;
	char unused[120];
	unsigned long fault_address __attribute__((aligned(16))), regs[31], sp, pc, pstate;
};
#define FRAME_RESULT(f) ((f)->regs[0])
#define FRAME_NUMBER(f) ((int)(f)->regs[8])
#define FRAME_PC(f) ((f)->pc)
#define FRAME_SP(f) ((f)->sp)
#define LENDS 0
#define FRAME_ARG(f, i) ((f)->regs[i])
#endif
#if defined(__x86_64__)
#define CALL_SIZE 2               /* of the instruction that makes a system call */
#define ADDRESSES (1UL << 47)     /* a guest's, without its last page */
#define SMALLEST_SIGNAL_STACK 2048
#define PAGE 4096UL
#define LARGEST_PAGE 4096
#else
#define CALL_SIZE 4
#define ADDRESSES (1UL << 48)
#define SMALLEST_SIGNAL_STACK 5120
extern unsigned long page_size; /* 4, 16 or 64 KiB, as the kernel was built */
#define PAGE page_size
#define LARGEST_PAGE 65536
#endif
#define DOWN(a) ((a) & ~(PAGE - 1))
#define UP(a) DOWN((a) + PAGE - 1)
#define OUTSIDE ENGINE_LOW /* the page with a call of its own, see seccomp.c */

struct info { /* siginfo, as far as it is used */
	int signo, error, code, pad;
	unsigned long address;
	int nr;
	uint32_t arch;
	char rest[96];
};

#define CLONE_VM_ 0x100U
#define CLONE_FS_ 0x200U
#define CLONE_FILES_ 0x400U
#define CLONE_VFORK_ 0x4000U
#define CLONE_THREAD_ 0x10000U

#define SA_RESTORER_ 0x04000000UL
#define SA_SIGINFO_ 4UL
#define SA_ONSTACK_ 0x08000000UL
#define SA_NODEFER_ 0x40000000UL
#define SA_RESETHAND_ 0x80000000UL
#define SYS_SECCOMP_ 1

/* ---- this process ------------------------------------------------------------------------------------- */

#define SLOTS 64
#define SITES 256

struct process {
	int pid;                       /* whose memory this is, or was before a fork: a vfork child is another process in it */
	struct ksigaction sigsys;      /* the guest's action for that signal, never the kernel's */
	struct ksigaction fault[2];    /* the guest's SIGSEGV and SIGBUS actions, wrapped in ours */
	uint64_t mask_had_sigsys;      /* by signal: the guest's sa_mask holds SIGSYS, the kernel's does not */
	uint32_t filter;               /* 1 + offset of the newest guest seccomp program in the plan, or 0 */
	int ignored;                   /* bits: SIGSYS 1, SIGSEGV 2, SIGBUS 4 were ignored by whoever exec'ed us; 8: no notes, 16: roots */
	volatile int lent; /* the thread whose vfork child uses this memory; 0: nobody shares it; -1: not known */
	struct { int pid; struct ids ids; } vfork; /* ids of a child that shares our memory */
	bool fast_return, patch;
	bool eager;  /* the preload engine: no filter, changed code */
	bool kept;   /* changed code of the C library, beside the filter */
	char *refused; /* 400 bytes for why the first program is not executed; of later ones it goes to stderr */
	int signal;  /* by which calls come: SIGSYS, or SIGILL from changed code; never blocked */
	bool traced; /* the ptrace engine: calls are sent here by a tracer */
	bool every;  /* which sees every call, not only those that are for us */
	volatile int n_blockers; /* threads that block that signal, as the guest sees it */
	unsigned long stack;     /* where the first thread's begins */
	volatile long stop_before_entry; /* set by a tracer, see trace.c */
	struct notes notes;
	struct core core;
};
extern struct process self;
extern struct work slots[SLOTS];

/* A page that fork empties and vfork shares. What a child writes before it executes something is here, where it can be: of
 * every other page it would get a copy. */
union since_fork {
	struct {
		volatile int whose;              /* pid of the process whose memory this is; 0: not known yet */
		volatile int traced_at_exec;     /* a vfork child that asked to be traced */
		volatile bool touched;
		volatile uint64_t sites[SITES];  /* patch.c */
		uint64_t exec[250];              /* exec.c */
	};
	char page[LARGEST_PAGE];
} __attribute__((aligned(LARGEST_PAGE)));
extern union since_fork since_fork;

/* Is this memory our own, or the parent's that we, a vfork child, only borrow? */
bool own_memory(void);
void lend(bool back); /* before a clone that shares memory, for as long as a vfork lasts or for good */
void own_memory_init(void);
void touch_memory(void);
unsigned long lend_stack(unsigned long top); /* for a vfork child: its stack pointer */
void notes_start(void); /* see core/notes.c */

/* ---- entry.c: the ways in and out of C ---------------------------------------------------------------- */

extern char trap_entry[], trap_restorer[], fault_entry[], fast_common[];
/* System calls that return twice are made here, from the exempt text and with the guest's registers. */
#define LENDERS 16
extern char lenders[][8];
extern unsigned long lender_of[LENDERS]; /* where each goes on then */
unsigned long fault_fix(unsigned long pc); /* where to go on after a fault there, or 0 */

/* ---- slots.c ------------------------------------------------------------------------------------------ */

struct work *slot_take(void);
void slot_give(struct work *w);
bool only_thread(void); /* by /proc; false when that is not there */
void slot_mine(struct work *w); /* held across an execve: reclaimed when the holder is gone */

/* ---- calls.c: the handlers that only this front end has ------------------------------------------------ */

long trap_call(struct call *c);
bool code_to_copy(const struct call *c, size_t n, uint64_t from, long *r);
long answer(long nr, const unsigned long a[6], struct frame *f);
const struct entry *trap_entry_of(long nr); /* from the front end's table, else the core's */

/* ---- light.c ------------------------------------------------------------------------------------------ */

bool light(long nr, const unsigned long a[6], long *r); /* false: `answer` is to do it */

/* ---- signals.c ---------------------------------------------------------------------------------------- */

void signals_start(void);
bool deliver_sigsys(int sig, struct info *info, struct frame *f);
long call_rt_sigaction(struct call *c);
long call_rt_sigprocmask(struct call *c);
long call_rt_sigsuspend(struct call *c);
long call_rt_sigpending(struct call *c);
long call_rt_sigtimedwait(struct call *c);
/* In a siginfo that the kernel made and gave to the guest: the user who sent it, or whose child it tells of. */
void show_sender(struct call *c, unsigned long info);
long call_sigaltstack(struct call *c);
long call_signalfd4(struct call *c);
long call_ppoll(struct call *c);
long call_pselect6(struct call *c);
long call_epoll_pwait(struct call *c);

/* ---- trace.c ------------------------------------------------------------------------------------------ */

void trace_before_exec(void);
long call_ptrace(struct call *c);
long call_wait4(struct call *c);
long call_waitid(struct call *c);

/* ---- seccomp.c: the guest's own filters --------------------------------------------------------------- */

void filter_start(void); /* after exec, with filters inherited */
long call_seccomp(struct call *c);
long filter_add(struct call *c, const void *prog, unsigned long flags, bool by_prctl);
/* The action of the guest's filters for a call; SECCOMP_RET_ALLOW without any. */
uint32_t filter_run(long nr, const unsigned long a[6], unsigned long pc);
uint32_t filter_run_as(uint32_t arch, long nr, const unsigned long a[6], unsigned long pc);

/* ---- nested.c ----------------------------------------------------------------------------------------- */

NORETURN void nested_main(int argc, char **argv, char **envp); /* start.c */
long nested_plan(struct core *k, struct plan *plan, const char **what);
long nested_state(struct core *k, char *path);
void nested_leave(struct core *k);

/* ---- filter.c, patch.c, exec.c, load.c ----------------------------------------------------------------- */

struct sock_filter;
struct seccomp_data;
void filter_build(const struct plan *plan);
long filter_install(void); /* what was built */
uint32_t filter_judge(const struct seccomp_data *d); /* its action for a call */
uint32_t bpf_run(const struct sock_filter *code, uint32_t len, const struct seccomp_data *d);
void patch_site(unsigned long pc, long nr, const struct frame *f);
long call_execve(struct call *c);
long call_execveat(struct call *c);
bool exec_again(const unsigned long a[6], long *r); /* of what was executed before; false: `do_exec` is to do it */
long do_exec(struct call *c, int dfd, const void *path, const void *argv, const void *envp, long flags);
NORETURN void load(unsigned long *stack);
long copy_code(void *at, size_t n, int prot, int fd, uint64_t offset);
NORETURN void die(const char *what, const char *name, long error);

#define PREFIX 8 /* words that do_exec puts before the guest's argv; even, for the stack's alignment */
#define PREFIX_MARK "\001udk"

#endif
