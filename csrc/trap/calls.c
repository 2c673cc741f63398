/* One call: from the signal handler or from a patched site to its answer. */
#include "trap/trap.h"

#include "preload/eager.h"

#include <linux/seccomp.h>

#ifndef PR_SET_SECCOMP
#define PR_GET_SECCOMP 21
#define PR_SET_SECCOMP 22
#endif
#define PR_CAPBSET_DROP 24
#define PR_SET_SECUREBITS 28
#define PR_SET_MM 35
#define PR_CAP_AMBIENT 47
#define PR_SET_SYSCALL_USER_DISPATCH 59

static long call_prctl(struct call *c)
{
	long r;

	switch (c->a[0]) {
	case PR_SET_SECCOMP:
		if (c->a[1] == SECCOMP_MODE_FILTER)
			return filter_add(c, (void *)c->a[2], 0, true);
		return -EINVAL; /* strict mode would kill the engine's own calls */
	case PR_GET_SECCOMP:
		return self.filter ? SECCOMP_MODE_FILTER : 0;
	case PR_SET_SYSCALL_USER_DISPATCH:
		return -EINVAL;
	case PR_SET_MM:
		return -EPERM;
	}
	if (c->core->plan->options & OPT_IDENTITY && (c->a[0] == PR_CAPBSET_DROP || c->a[0] == PR_SET_SECUREBITS || c->a[0] == PR_CAP_AMBIENT))
		return 0; /* what is really given up would be missed: see id_capset */
	r = call_raw(c);
	if (r == -EPERM && privileged(c->core) && (c->a[0] == PR_CAPBSET_DROP || c->a[0] == PR_SET_SECUREBITS || c->a[0] == PR_CAP_AMBIENT))
		return 0;
	return r;
}

/* ---- what descriptors are: every way in which one becomes a directory drops what was noted of it ------- */

static long call_dup(struct call *c)
{
	long r = is_root_fd(c->core, (int)c->a[0]) ? -EBADF : call_raw(c);

	if (r == -EMFILE && c->core->roots && c->core->notes->allowed()) { /* the guest has two more numbers: ours */
		roots_close(c->core);
		r = call_raw(c);
	}
	if (r >= 0)
		note_dup(c->core, (int)c->a[0], (int)r);
	return r;
}

static long call_pidfd_getfd(struct call *c)
{
	long r = is_root_fd(c->core, (int)c->a[0]) ? -EBADF : call_raw(c);

	if (r >= 0)
		note_drop(c->core, (int)r);
	return r;
}

/* No core files: see no_core_files. Who asks for them all the same (`ulimit -c unlimited`) goes on without, and is told that
 * limit until the next program begins. */
static long call_rlimit(struct call *c)
{
	static struct { bool set; struct rlimit64 limit; } wished;
	const bool whose = c->nr == __NR_prlimit64;
	const unsigned long from = c->a[1 + whose], to = whose ? c->a[3] : 0;
	struct rlimit64 shown = { 0, 0 }, new, real;
	long r = call_raw(c);

	if (c->a[whose] != RLIMIT_CORE_ || (whose && c->a[0] && (long)c->a[0] != sys_getpid()) || c->core->plan->options & OPT_IDENTITY)
		return r;
	if (wished.set)
		shown = wished.limit;
	if (!r && to && wished.set && guest_write((void *)to, &shown, sizeof shown))
		return -EFAULT;
	if (from && r == -EPERM && !guest_read(&new, (void *)from, sizeof new) && !sys_prlimit(0, RLIMIT_CORE_, NULL, &real) && !real.rlim_max)
		r = to && guest_write((void *)to, &shown, sizeof shown) ? -EFAULT : 1;
	if (from && r >= 0 && own_memory()) {
		wished.set = r;
		if (r)
			wished.limit = new;
	}
	return MIN(r, 0);
}

static long call_dup2(struct call *c)
{
	long r;

	if (is_root_fd(c->core, (int)c->a[0]))
		return -EBADF;
	note_hold(c->core, (int)c->a[1]);
	r = call_raw(c);
	note_drop(c->core, (int)c->a[1]);
	return r;
}

/* The roots' descriptors stay. */
static long call_close_range(struct call *c)
{
	unsigned first = (unsigned)c->a[0], last = (unsigned)c->a[1];
	long r = 0;

	if (c->a[2] & 2 /* CLOSE_RANGE_UNSHARE */)
		c->core->notes = NULL;
	if (!c->core->roots || c->a[2] & 2 || first > last || last < ROOT_FD || first > ROOT_FD + 1)
		return call_raw(c);
	if (first < ROOT_FD)
		r = SC3(c->nr, first, ROOT_FD - 1, c->a[2]);
	if (!r && last > ROOT_FD + 1)
		r = SC3(c->nr, ROOT_FD + 2, last, c->a[2]);
	return r;
}

#define SHARED (CLONE_VM_ | CLONE_FS_ | CLONE_FILES_)

#if LENDS
/* The instruction that makes the guest's call at `pc`. */
static char *lender(unsigned long pc)
{
	for (int i = 0; i < LENDERS; i++) {
		unsigned long free = 0;

		if (lender_of[i] == pc || __atomic_compare_exchange_n(&lender_of[i], &free, pc, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) || free == pc)
			return lenders[i];
	}
	return NULL;
}

static long call_elsewhere(struct call *c, struct frame *f)
{
	char *at = lender(FRAME_PC(f));

	if (!at)
		return -EAGAIN;
	FRAME_PC(f) = (unsigned long)at;
	return c->nr;
}
#else
/* At the same place, with a bit that the kernel does not look at and that our filter lets pass. */
static long call_elsewhere(struct call *c, struct frame *f)
{
	(void)c;
	FRAME_ARG(f, 0) |= 1UL << 63;
	FRAME_PC(f) -= CALL_SIZE;
	return (long)FRAME_ARG(f, 0); /* the register of the result is the first argument's */
}
#endif

/* A clone that is neither a fork nor a new thread. Where it shares memory without descriptors, or these without memory,
 * and is no vfork, notes cannot be kept. */
static long call_clone(struct call *c)
{
	struct frame *f = c->frame;
	unsigned long flags = c->a[0];
	bool vfork = (flags & (CLONE_VM_ | CLONE_VFORK_)) == (CLONE_VM_ | CLONE_VFORK_);

	if (!f)
		return -EAGAIN; /* not rewritten: does not happen */
	if (!vfork && (flags & SHARED) != SHARED)
		c->core->notes = NULL;
	if (flags & CLONE_VM_)
		lend(vfork);
#if !LENDS
	if (vfork && c->a[1] && c->a[1] != FRAME_SP(f)) /* vfork(3) may say where it is: on the parent's stack, in its frame */
		FRAME_ARG(f, 1) = lend_stack(c->a[1]);
#endif
	return call_elsewhere(c, f);
}

#ifdef __NR_vfork
static long call_vfork(struct call *c)
{
	if (!c->frame)
		return -EAGAIN;
	lend(true);
	return call_elsewhere(c, c->frame);
}
#endif

static long call_fcntl(struct call *c)
{
	if (c->a[1] == F_DUPFD || c->a[1] == F_DUPFD_CLOEXEC)
		return call_dup(c);
	return is_root_fd(c->core, (int)c->a[0]) ? -EBADF : call_raw(c);
}

/* Whether a refused mapping is to be answered by a copy: of code, from a noexec mount. What cannot be mapped as data
 * either (a directory, a file that is not open for reading) is refused for that, as r tells then. */
bool code_to_copy(const struct call *c, size_t n, uint64_t from, long *r)
{
	void *data;

	if (*r != -EPERM || !(c->a[2] & PROT_EXEC) || c->a[3] & MAP_ANONYMOUS || !(c->a[3] & MAP_PRIVATE))
		return false;
	data = sys_mmap(NULL, n, PROT_READ, MAP_PRIVATE, (int)c->a[4], (int64_t)from);
	if (is_error((long)data)) {
		*r = (long)data;
		return false;
	}
	sys_munmap(data, n);
	return true;
}

/* Code from a file system mounted noexec: a private copy of it. Only trapped where a tree is on one. */
static long call_mmap_code(struct call *c)
{
	size_t n = UP(c->a[1]);
	long r = call_raw(c);
	char *at;

	if (!code_to_copy(c, n, c->a[5], &r))
		return r;
	at = sys_mmap((void *)c->a[0], n, PROT_READ | PROT_WRITE, (int)c->a[3] | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)at))
		return (long)at;
	r = copy_code(at, n, (int)c->a[2], (int)c->a[4], c->a[5]);
	if (r)
		sys_munmap(at, n);
	return r ? r : (long)at;
}

/* The same for what is mapped already. */
static long call_mprotect_code(struct call *c)
{
	size_t n = UP(c->a[1]);
	long r = call_raw(c);
	char *copy;

	if (r != -EACCES || !(c->a[2] & PROT_EXEC) || sys_mprotect((void *)c->a[0], n, PROT_READ))
		return r;
	copy = sys_mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)copy))
		return (long)copy;
	r = guest_read(copy, (void *)c->a[0], n);
	if (!r)
		r = sys_mprotect(copy, n, (int)c->a[2]);
	if (!r)
		r = SC5(__NR_mremap, copy, n, n, 3 /* MAYMOVE, FIXED */, c->a[0]);
	if (r < 0 && is_error(r)) {
		sys_munmap(copy, n);
		return r;
	}
	return 0;
}

#define T(name) [__NR_##name] = { call_##name, TRAP, 0, 0 }
/* Only where there is a signal to hide, or notes to be kept. */
#define SIG(name) [__NR_##name] = { call_##name, TRAP, 0, OPT_SIGNALS }
#define ARG(name, n) [__NR_##name] = { call_##name, TRAP_ARG, n, OPT_SIGNALS }

static const struct entry front[] = {
	T(execve), T(execveat), T(sigaltstack), T(seccomp),
	SIG(rt_sigaction), SIG(rt_sigprocmask), SIG(rt_sigsuspend), SIG(rt_sigpending), SIG(rt_sigtimedwait), SIG(signalfd4),
	ARG(ppoll, 3), ARG(pselect6, 5), ARG(epoll_pwait, 4), SIG(ptrace), SIG(wait4), SIG(waitid),
	[__NR_prctl] = { call_prctl, SPECIAL, 0, 0 }, [__NR_clone] = { call_clone, SPECIAL, 0, 0 },
#if LENDS
	[__NR_vfork] = { call_vfork, SPECIAL, 0, 0 },
#endif
	SIG(fchdir), SIG(dup), [__NR_dup3] = { call_dup2, TRAP, 0, OPT_SIGNALS },
	[__NR_fcntl] = { call_fcntl, SPECIAL, 0, OPT_SIGNALS }, [438] = { call_pidfd_getfd, TRAP, 0, OPT_SIGNALS },
	SIG(close_range),
#ifdef __NR_dup2
	SIG(dup2),
#endif
#ifdef __NR_arch_prctl
	[__NR_arch_prctl] = { NULL, SPECIAL, 0, 0 },
#endif
#ifdef __NR_signalfd
	[__NR_signalfd] = { call_signalfd4, TRAP, 0, OPT_SIGNALS },
#endif
	[441] = { call_epoll_pwait, TRAP_ARG, 4, OPT_SIGNALS }, /* epoll_pwait2 */
	[__NR_mmap] = { call_mmap_code, TRAP, 0, OPT_NOEXEC }, [__NR_mprotect] = { call_mprotect_code, TRAP, 0, OPT_NOEXEC },
	[__NR_prlimit64] = { call_rlimit, SPECIAL, 0, 0 }, [__NR_setrlimit] = { call_rlimit, SPECIAL, 0, 0 },
	[__NR_socket] = { call_socket, SPECIAL, 0, OPT_NO_NETWORK | OPT_FAKE_ROOT },
};

const struct entry *trap_entry_of(long nr)
{
	static const struct entry allow = { NULL, ALLOW, 0, 0 }, gone = { NULL, DENY_ENOSYS, 0, 0 };

	if (nr >= 0 && nr < (long)ARRAY_LEN(front) && (front[nr].handler || front[nr].act))
		return &front[nr];
	if (self.core.plan->options & OPT_IDENTITY)
		return nr >= 0 && nr < identity_table_size && (identity_table[nr].handler || identity_table[nr].act) ? &identity_table[nr] : &allow;
	if (nr >= 0 && nr < table_size)
		return table[nr].handler || table[nr].act ? &table[nr] : &allow;
	return &gone;
}

/* A vfork child changes ids in memory that is its parent's: they are kept aside until it execs. */
static long call_ids_aside(struct call *c)
{
	struct ids *mine = &self.core.ids, parents = *mine;
	int pid = (int)sys_getpid();
	long r;

	if (self.vfork.pid == pid)
		*mine = self.vfork.ids;
	r = core_call(c);
	self.vfork.ids = *mine;
	self.vfork.pid = pid;
	*mine = parents;
	return r;
}

static bool changes_ids(long nr)
{
	return nr == __NR_setuid || nr == __NR_setgid || nr == __NR_setreuid || nr == __NR_setregid || nr == __NR_setresuid ||
	       nr == __NR_setresgid || nr == __NR_setgroups || nr == __NR_setfsuid || nr == __NR_setfsgid;
}

long trap_call(struct call *c)
{
	const struct entry *own = self.eager ? eager_entry_of(c->nr) : NULL, *e = own ? own : trap_entry_of(c->nr);
	long r;

	if (own || (e >= front && e < front + ARRAY_LEN(front) && e->handler)) {
		c->w->n_fds = 0;
		c->hops = 0;
		r = e->handler(c);
		close_since(c, 0);
		return r;
	}
	if (changes_ids(c->nr) && !own_memory())
		return call_ids_aside(c);
	return core_call(c);
}

long answer(long nr, const unsigned long a[6], struct frame *f)
{
	struct call c;
	long r;

	c.core = &self.core;
	c.nr = nr;
	c.nr32 = 0;
	c.frame = f;
	c.hops = 0;
	c.how = 0;
	c.birth = 0;
	c.scope_len = 0;
	for (int i = 0; i < 6; i++)
		c.a[i] = a[i];
	c.w = slot_take();
	r = trap_call(&c);
	slot_give(c.w);
	return r;
}

/* ---- the handler of SIGSYS ---------------------------------------------------------------------------- */

int on_trap(int sig, struct info *info, struct frame *f);
long on_patched(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long g,
		unsigned long pc);

static bool returns_twice(long nr)
{
#ifdef __NR_vfork
	if (nr == __NR_vfork)
		return true;
#endif
	return nr == __NR_clone;
}

int on_trap(int sig, struct info *info, struct frame *f)
{
	unsigned long a[6], pc = FRAME_PC(f);
	long nr = info->nr, r;
	uint32_t action;

	if (self.eager) {
		int what = info->code > 0 ? on_undefined(f) : 0;

		if (!what)
			deliver_sigsys(sig, info, f);
		if (what != 1)
			return 0;
		nr = FRAME_NUMBER(f);
	} else if (info->code != SYS_SECCOMP_ || (info->error & 0xffff) != TRAP_MAGIC) {
		deliver_sigsys(sig, info, f);
		return 0;
	}
	since_fork.touched = true; /* before it is read: one fault instead of two */
	for (int i = 0; i < 6; i++)
		a[i] = FRAME_ARG(f, i);
	action = filter_run(nr, a, pc);
	if (action == SECCOMP_RET_ALLOW || (action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_LOG)
		FRAME_RESULT(f) = (unsigned long)(light(nr, a, &r) ? r : answer(nr, a, f));
	else if ((action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO)
		FRAME_RESULT(f) = (unsigned long)-(long)MIN(action & SECCOMP_RET_DATA, 4095);
	else
		FRAME_RESULT(f) = (unsigned long)-(long)ENOSYS; /* TRACE without a tracer, USER_NOTIF */
	if (self.patch && !returns_twice(nr))
		patch_site(pc, nr, f);
#if defined(__x86_64__)
	if (self.fast_return && !(f->stack.flags & (1 << 31)))
		return 1;
#endif
	sys_sigprocmask(0, NULL, &f->mask); /* what the call did to the mask must survive rt_sigreturn */
	return 0;
}

long on_patched(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long g,
		unsigned long pc)
{
	unsigned long args[6] = { a, b, c, d, e, g };
	long r;

	if (self.filter) {
		uint32_t action = filter_run(nr, args, pc);

		if ((action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO)
			return -(long)MIN(action & SECCOMP_RET_DATA, 4095);
		if (action != SECCOMP_RET_ALLOW && (action & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_LOG) {
			/* Killed or trapped: from outside of the exempt text, so that the kernel does it. */
			long (*outside)(long, const unsigned long *) = (long (*)(long, const unsigned long *))OUTSIDE;
			return outside(nr, args);
		}
	}
	return light(nr, args, &r) ? r : answer(nr, args, NULL);
}
