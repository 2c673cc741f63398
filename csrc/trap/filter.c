/* The engine's seccomp filter: installed once, inherited by everything that follows.
 *
 * Numbers are sorted into runs of equal action and looked up by a balanced binary search, because kernels before
 * 5.11 run the program for every call. On newer ones a call whose number alone decides "allow" costs nothing.
 */
#include "ptrace/i386.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define X32_BIT 0x40000000U
#define NEW_NAMESPACES 0x7e020000U /* clone flags CLONE_NEW*, without CLONE_NEWTIME */
#define CLONE_SHARED (CLONE_VM_ | CLONE_FS_ | CLONE_FILES_)
#define ARG_LOW(i) (16 + 8 * (i))
#define ERRNO(e) (SECCOMP_RET_ERRNO | (e))

enum what { W_ALLOW, W_TRAP, W_ENOSYS, W_EPERM, W_ARG, W_SPECIAL, W_ALWAYS };

struct run {
	int from; /* first number */
	short native; /* W_SPECIAL: the call's number here */
	uint8_t what, arg;
};

struct program_made {
	struct sock_filter f[BPF_MAXINSNS];
	int n;
	struct run runs[600];
	int n_runs;
	uint32_t answer; /* for a call that is for us */
	bool i386; /* these are the runs of its table; a call from 64-bit code is refused there, not translated */
	uint32_t options;
	bool notes; /* of descriptors are kept: core/notes.c */
};

static struct program_made made; /* used once, before the guest is there */

static int emit(uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
	made.f[made.n] = (struct sock_filter){ code, jt, jf, k };
	return made.n++;
}

static void stmt(uint16_t code, uint32_t k)
{
	emit(code, k, 0, 0);
}

#define LOAD(at) stmt(BPF_LD | BPF_W | BPF_ABS, at)
#define RET(v) stmt(BPF_RET | BPF_K, v)
#define JEQ(k, t, f) emit(BPF_JMP | BPF_JEQ | BPF_K, k, t, f)

/* int 0x80 in 64-bit code is refused; where that lies below 4 GiB, the tracer knows it. */
static void from_guest(void)
{
	if (!made.i386)
		return;
	LOAD(12);
	JEQ(0, 1, 0);
	RET(ERRNO(ENOSYS));
}

/* Allowed from our own text, else a trap. */
static void trap_or_allow(void)
{
	LOAD(12); /* instruction pointer, high half */
	JEQ((uint32_t)(ENGINE_BASE >> 32), 0, 3);
	LOAD(8);
	emit(BPF_JMP | BPF_JGE | BPF_K, TEXT_SIZE, 1, 0);
	RET(SECCOMP_RET_ALLOW);
	from_guest();
	RET(made.answer);
}

static void trap_when(int arg)
{
	LOAD(ARG_LOW(arg));
	JEQ(0, 0, 3);
	LOAD(ARG_LOW(arg) + 4);
	JEQ(0, 0, 1);
	RET(SECCOMP_RET_ALLOW);
	trap_or_allow();
}

static void special(long nr)
{
	if (nr == __NR_prctl) {
		LOAD(ARG_LOW(0));
		JEQ(22, 7, 0); /* PR_SET_SECCOMP */
		JEQ(21, 6, 0);
		JEQ(59, 5, 0); /* system-call user dispatch would take our signal */
		JEQ(35, 4, 0); /* PR_SET_MM */
		JEQ(24, 3, 0); /* capabilities of guest root */
		JEQ(28, 2, 0);
		JEQ(47, 1, 0);
		RET(SECCOMP_RET_ALLOW);
		trap_or_allow();
	} else if (nr == __NR_clone) {
		LOAD(ARG_LOW(0));
		emit(BPF_JMP | BPF_JSET | BPF_K, NEW_NAMESPACES, 0, 1);
		RET(ERRNO(EPERM));
		if (!made.notes) {
			RET(SECCOMP_RET_ALLOW);
			return;
		}
		/* Memory, descriptors and working directory are shared together, by threads, or not at all; see call_clone. */
#if LENDS
		emit(BPF_ALU | BPF_AND | BPF_K, CLONE_SHARED | CLONE_THREAD_, 0, 0);
		JEQ(0, 1, 0);
		JEQ(CLONE_SHARED | CLONE_THREAD_, 0, 1);
		RET(SECCOMP_RET_ALLOW);
#else
		emit(BPF_ALU | BPF_AND | BPF_K, CLONE_SHARED | CLONE_VFORK_, 0, 0);
		JEQ(0, 8, 0);
		JEQ(CLONE_VFORK_, 7, 0);
		JEQ(CLONE_SHARED, 6, 0);
		emit(BPF_ALU | BPF_AND | BPF_K, CLONE_VM_ | CLONE_VFORK_, 0, 0);
		JEQ(CLONE_VM_ | CLONE_VFORK_, 0, 5);
		LOAD(ARG_LOW(1)); /* a stack for the child: see lend_stack */
		JEQ(0, 0, 3);
		LOAD(ARG_LOW(1) + 4);
		JEQ(0, 0, 1);
		RET(SECCOMP_RET_ALLOW);
		LOAD(ARG_LOW(0) + 4); /* the bit that call_clone sets */
		JEQ(0, 1, 0);
		RET(SECCOMP_RET_ALLOW);
#endif
		trap_or_allow();
	} else if (nr == __NR_fcntl) {
		LOAD(ARG_LOW(1));
		JEQ(0, 5, 0);    /* F_DUPFD */
		JEQ(1030, 4, 0); /* F_DUPFD_CLOEXEC */
		LOAD(ARG_LOW(0));
		JEQ(ROOT_FD, 2, 0);
		JEQ(ROOT_FD + 1, 1, 0);
		RET(SECCOMP_RET_ALLOW);
		trap_or_allow();
	} else if (nr == __NR_prlimit64 || nr == __NR_setrlimit) {
		LOAD(ARG_LOW(nr == __NR_prlimit64));
		JEQ(RLIMIT_CORE_, 1, 0);
		RET(SECCOMP_RET_ALLOW);
		trap_or_allow();
	} else if (nr == __NR_socket) { /* see call_socket */
		if (made.options & OPT_FAKE_ROOT) {
			LOAD(ARG_LOW(2));
			JEQ(9 /* NETLINK_AUDIT */, 0, 3);
			LOAD(ARG_LOW(0));
			JEQ(16 /* AF_NETLINK */, 0, 1);
			RET(ERRNO(EPROTONOSUPPORT));
		}
		if (!(made.options & OPT_NO_NETWORK)) {
			RET(SECCOMP_RET_ALLOW);
			return;
		}
		LOAD(ARG_LOW(0));
		JEQ(1, 0, 1); /* AF_UNIX */
		RET(SECCOMP_RET_ALLOW);
		RET(ERRNO(EACCES));
#if LENDS
	} else if (nr == __NR_vfork) {
		if (made.notes)
			trap_or_allow();
		else
			RET(SECCOMP_RET_ALLOW);
#endif
	} else { /* arch_prctl: user shadow stacks, which our return would break */
		LOAD(ARG_LOW(0));
		JEQ(0x5001, 0, 1);
		RET(ERRNO(EOPNOTSUPP));
		RET(SECCOMP_RET_ALLOW);
	}
}

/* Calls that concern nothing but what is noted of descriptors, which only a translation of paths does. */
static bool keeps_notes(long nr)
{
	static const long all[] = { __NR_clone, __NR_fchdir, __NR_dup, __NR_dup3, __NR_fcntl, 436 /* close_range */, 438,
#ifdef __NR_dup2
				    __NR_dup2,
#endif
#if LENDS
				    __NR_vfork,
#endif
	};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i] == nr)
			return true;
	return false;
}

static struct run classify(const struct plan *plan, long nr)
{
	const struct entry *e = trap_entry_of(nr);
	struct run r = { (int)nr, (short)nr, W_ALLOW, 0 };

	if ((e->need && !(plan->options & e->need)) || (plan->options & OPT_IDENTITY && keeps_notes(nr)))
		return r;
	switch (e->act) {
	case TRAP: r.what = W_TRAP; break;
	case TRAP_ARG: r.what = W_ARG; r.arg = e->arg; break;
	case DENY_ENOSYS: r.what = W_ENOSYS; break;
	case DENY_EPERM: r.what = W_EPERM; break;
	case SPECIAL: r.what = W_SPECIAL; r.arg = (uint8_t)nr; break;
	}
	return r;
}

/* Jumps to the shared block, below. */
static void to_trap(void)
{
	emit(BPF_JMP | BPF_JA, (uint32_t)-1, 0, 0);
}

/* The calls that programs make by the thousand, before all others: our own of them come through here. */
static void often(const struct plan *plan)
{
	static const long all[] = { __NR_newfstatat, __NR_statx, __NR_openat, __NR_getdents64 };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (classify(plan, all[i]).what == W_TRAP) {
			JEQ((uint32_t)all[i], 0, 1);
			to_trap();
		}
}

#if defined(__x86_64__)
/* The same for a number of i386. */
static struct run classify32(const struct plan *plan, long nr)
{
	struct run r = { (int)nr, 0, W_ALLOW, 0 };
	const struct entry32 *e = nr < I386_CALLS ? &table32[nr] : NULL;

	if (!e || e->act == DENY_ENOSYS) {
		r.what = W_ENOSYS;
	} else if (e->native > 0) {
		r = classify(plan, e->native);
		r.from = (int)nr;
	} else if (e->convert) {
		/* What it asks for is in memory; socketcall is not asked for by ourselves. */
		r.what = e->act == SPECIAL ? W_TRAP : W_ALWAYS;
	}
	return r;
}
#endif

/* The search tree over runs [low, high). */
static void tree(int low, int high)
{
	const struct run *r = &made.runs[low];

	if (high - low > 1) {
		int mid = (low + high) / 2, skip;

		emit(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)made.runs[mid].from, 0, 1);
		skip = emit(BPF_JMP | BPF_JA, 0, 0, 0);
		tree(low, mid);
		made.f[skip].k = (uint32_t)(made.n - skip - 1);
		tree(mid, high);
		return;
	}
	switch (r->what) {
	case W_ALLOW: RET(SECCOMP_RET_ALLOW); break;
	case W_ENOSYS: RET(ERRNO(ENOSYS)); break;
	case W_EPERM: RET(ERRNO(EPERM)); break;
	case W_ARG: trap_when(r->arg); break;
	case W_SPECIAL: special(r->native); break;
	case W_ALWAYS:
		from_guest();
		RET(made.answer);
		break;
	default: to_trap();
	}
}

static void add_run(struct run now)
{
	struct run *last = &made.runs[made.n_runs - 1];

	if (!made.n_runs || now.what == W_SPECIAL || now.what != last->what || now.arg != last->arg)
		made.runs[made.n_runs++] = now;
}

/* The tree over the runs that were added, and what its leaves, and those from `start` on, have in common. */
static void part(int start)
{
	int trap;

	tree(0, made.n_runs);
	trap = made.n;
	trap_or_allow();
	for (int i = start; i < trap; i++)
		if (made.f[i].code == (BPF_JMP | BPF_JA) && made.f[i].k == (uint32_t)-1)
			made.f[i].k = (uint32_t)(trap - i - 1);
	made.n_runs = 0;
}

/* Other architectures than ours get an error, never a pass; 32-bit programs are translated where they are run. */
static void others(const struct plan *plan)
{
#if defined(__x86_64__)
	JEQ(AUDIT_ARCH_I386, 1, 0);
	RET(ERRNO(ENOSYS));
	made.i386 = true;
	made.answer++; /* TRAP_MAGIC_I386 */
	for (long nr = 0; nr <= I386_CALLS; nr++)
		add_run(classify32(plan, nr));
	LOAD(0);
	part(made.n);
	made.answer--;
	made.i386 = false;
#else
	(void)plan;
	RET(ERRNO(ENOSYS));
#endif
}

void filter_build(const struct plan *plan)
{
	int skip = 0, start;

	made.options = plan->options;
	made.notes = !(plan->options & OPT_PTRACE);
	made.answer = (plan->options & OPT_PTRACE ? SECCOMP_RET_TRACE : SECCOMP_RET_TRAP) | TRAP_MAGIC;
	LOAD(4);
	if (plan->options & OPT_I386) {
		JEQ(ARCH, 0, 1);
		skip = emit(BPF_JMP | BPF_JA, 0, 0, 0);
		others(plan);
		made.f[skip].k = (uint32_t)(made.n - skip - 1);
	} else {
		JEQ(ARCH, 1, 0);
		RET(plan->options & OPT_IDENTITY ? SECCOMP_RET_ALLOW : ERRNO(ENOSYS));
	}
	LOAD(0);
#if defined(__x86_64__)
	emit(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
	RET(plan->options & OPT_IDENTITY ? SECCOMP_RET_ALLOW : ERRNO(ENOSYS));
#endif
	start = made.n;
	often(plan);
	for (long nr = 0; nr <= table_size; nr++)
		add_run(classify(plan, nr));
	part(start);
}

uint32_t filter_judge(const struct seccomp_data *d)
{
	return bpf_run(made.f, (uint32_t)made.n, d);
}

long filter_install(void)
{
	struct sock_fprog prog = { (unsigned short)made.n, made.f };
	long r;

	r = sys_prctl(38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0);
	if (r)
		return r;
	/* Without SPEC_ALLOW kernels 4.17 to 5.15 slow the whole job down; older ones do not know the flag or the call. */
	r = SC3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog);
	if (r == -EINVAL || r == -ENOSYS)
		r = sys_prctl(22, SECCOMP_MODE_FILTER, (unsigned long)&prog, 0, 0);
	return r;
}
