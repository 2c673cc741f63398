/* Signals that the engine needs for itself, seen by the guest as if it did not.
 *
 * SIGSYS must never be blocked: a trap then kills. It is stripped from every mask that the guest sets, and
 * remembered per thread so that it reads back. SIGSEGV and SIGBUS have a handler of ours even where the guest has
 * none, so that a bad pointer is EFAULT and not death; the guest's own handlers are called by ours, with the frame
 * as the kernel made it.
 */
#include "trap/trap.h"

#define SIGSYS_ self.signal /* or SIGILL, see there */
#define THREADS 64
#define SIGCHLD_ 17
#define SI_USER_ 0
#define SI_TKILL_ (-6)


/* ---- threads that block SIGSYS ------------------------------------------------------------------------ */

static struct { volatile int tid; struct info pending; } blockers[THREADS];

static int blocker(int tid)
{
	for (int i = 0; self.n_blockers && i < THREADS; i++)
		if (blockers[i].tid == tid)
			return i;
	return -1;
}

static bool set_blocked(bool want)
{
	int tid = (int)sys_gettid(), i = blocker(tid), none = 0;

	if (want == (i >= 0))
		return want;
	if (!want) {
		struct info pending = blockers[i].pending;
		blockers[i].pending.signo = 0;
		__atomic_fetch_sub(&self.n_blockers, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&blockers[i].tid, 0, __ATOMIC_RELEASE);
		if (pending.signo)
			SC4(__NR_rt_tgsigqueueinfo, sys_getpid(), tid, SIGSYS_, &pending);
		return true;
	}
	for (i = 0; i < THREADS; i++, none = 0)
		if (__atomic_compare_exchange_n(&blockers[i].tid, &none, tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			__atomic_fetch_add(&self.n_blockers, 1, __ATOMIC_RELAXED);
			break;
		}
	return false;
}

static bool is_blocked(void)
{
	return self.n_blockers && blocker((int)sys_gettid()) >= 0;
}

/* ---- SIGSYS ------------------------------------------------------------------------------------------- */

/* A SIGSYS that is not ours: sent by someone, or by a filter of the guest. */
bool deliver_sigsys(int sig, struct info *info, struct frame *f)
{
	struct ksigaction act = self.sigsys;
	int i = self.n_blockers ? blocker((int)sys_gettid()) : -1;
	bool forced = info->code > 0;
	sigmask mask;

	if (i >= 0 && !forced) {
		blockers[i].pending = *info;
		return false;
	}
	if (act.handler == SIG_IGN && !forced)
		return false;
	if (act.handler == SIG_DFL || act.handler == SIG_IGN || (i >= 0 && forced)) {
		sys_signal_default(SIGSYS_, false);
		sys_tgkill((int)sys_getpid(), (int)sys_gettid(), SIGSYS_);
		return false;
	}
	if (act.flags & SA_RESETHAND_ && own_memory())
		self.sigsys.handler = SIG_DFL;
	mask = act.mask & ~SIGBIT(SIGSYS_);
	sys_sigprocmask(0 /* SIG_BLOCK */, &mask, NULL);
	((void (*)(int, struct info *, struct frame *))(uintptr_t)act.handler)(sig, info, f);
	f->mask &= ~SIGBIT(SIGSYS_);
	return true; /* rt_sigreturn restores the mask */
}

static void install(int sig, char *entry, unsigned long flags)
{
	struct ksigaction a = { .handler = (void (*)(int))entry, .flags = flags | SA_SIGINFO_ | SA_RESTORER_,
				.restorer = (void (*)(void))trap_restorer };

	sys_sigaction(sig, &a, NULL);
}

static void install_fault(int sig)
{
	install(sig, fault_entry, SA_NODEFER_ | SA_ONSTACK_);
}

void signals_start(void)
{
	sigmask mask;

	self.signal = self.eager ? SIGILL : SIGSYS;
	mask = SIGBIT(SIGSYS_);
	if (self.traced) /* no signal is ours: the tracer sees our faults first */
		return;
	if (self.ignored & 1)
		self.sigsys.handler = SIG_IGN;
	install(SIGSYS_, trap_entry, SA_NODEFER_ | SA_ONSTACK_);
	for (int i = 0; i < 2; i++) {
		if (self.ignored & (2 << i))
			self.fault[i].handler = SIG_IGN;
		install_fault(i ? SIGBUS : SIGSEGV);
	}
	sys_sigprocmask(1 /* SIG_UNBLOCK */, &mask, NULL);
}

/* ---- SIGSEGV and SIGBUS ------------------------------------------------------------------------------- */

void *on_fault(int sig, struct info *info, struct frame *f);

/* NULL: done. Else the guest's handler, to be entered with the same frame. */
void *on_fault(int sig, struct info *info, struct frame *f)
{
	struct ksigaction *act = &self.fault[sig == SIGBUS];
	unsigned long fix = info->code > 0 ? fault_fix(FRAME_PC(f)) : 0;
	void *handler = (void *)act->handler;

	if (act->flags & SA_RESETHAND_ && handler != (void *)SIG_DFL && own_memory()) {
		install_fault(sig); /* the kernel has just removed it */
		if (!fix)
			act->handler = SIG_DFL;
	}
	if (fix) {
		FRAME_PC(f) = fix;
		return NULL;
	}
	if (handler == (void *)SIG_IGN && info->code <= 0)
		return NULL;
	if (handler != (void *)SIG_DFL && handler != (void *)SIG_IGN)
		return handler;
	sys_signal_default(sig, false);
	if (info->code <= 0) /* sent: sent again. A real fault comes back by itself. */
		SC4(__NR_rt_tgsigqueueinfo, sys_getpid(), sys_gettid(), sig, info);
	return NULL;
}

/* ---- actions ------------------------------------------------------------------------------------------ */

static long put_action(const void *to, const struct ksigaction *a)
{
	return to ? guest_write((void *)(uintptr_t)to, a, sizeof *a) : 0;
}

static long fault_action(int sig, const struct ksigaction *set, struct ksigaction *old)
{
	struct ksigaction *mine = &self.fault[sig == SIGBUS], now;
	long r;

	r = sys_sigaction(sig, NULL, &now);
	if (r)
		return r;
	*old = now.handler == (void (*)(int))fault_entry ? *mine : now;
	if (!set)
		return 0;
	if (!own_memory()) /* a vfork child: what it sets must not be its parent's, and it has no time for EFAULT */
		return sys_sigaction(sig, set, NULL);
	*mine = *set;
	if (set->handler == SIG_DFL || set->handler == SIG_IGN) {
		install_fault(sig);
		return 0;
	}
	now = *set;
	now.handler = (void (*)(int))fault_entry;
	now.flags |= SA_SIGINFO_;
	now.mask &= ~SIGBIT(SIGSYS_);
	return sys_sigaction(sig, &now, NULL);
}

long call_rt_sigaction(struct call *c)
{
	int sig = (int)c->a[0];
	struct ksigaction set, old = { 0 };
	bool given = c->a[1];
	long r;

	if (c->a[3] != sizeof(sigmask) || sig < 1 || sig > 64)
		return call_raw(c);
	if (given && guest_read(&set, (void *)c->a[1], sizeof set))
		return -EFAULT;
	if (sig == SIGSYS_) {
		old = self.sigsys;
		if (given && own_memory())
			self.sigsys = set;
		return put_action((void *)c->a[2], &old);
	}
	if (sig == SIGSEGV || sig == SIGBUS) {
		r = fault_action(sig, given ? &set : NULL, &old);
	} else {
		bool had = given && set.mask & SIGBIT(SIGSYS_), had_before = self.mask_had_sigsys >> (sig - 1) & 1;

		if (given)
			set.mask &= ~SIGBIT(SIGSYS_);
		r = sys_sigaction(sig, given ? &set : NULL, c->a[2] ? &old : NULL);
		if (!r && had_before)
			old.mask |= SIGBIT(SIGSYS_);
		if (!r && given && had != had_before && own_memory())
			self.mask_had_sigsys ^= SIGBIT(sig);
	}
	return r ? r : put_action((void *)c->a[2], &old);
}

/* ---- masks -------------------------------------------------------------------------------------------- */

long call_rt_sigprocmask(struct call *c)
{
	int how = (int)c->a[0];
	sigmask set, old;
	bool blocked, named = false;
	long r;

	if (c->a[3] != sizeof(sigmask))
		return -EINVAL;
	if (c->a[1]) {
		if (guest_read(&set, (void *)c->a[1], sizeof set))
			return -EFAULT;
		named = set & SIGBIT(SIGSYS_);
		set &= ~SIGBIT(SIGSYS_);
	}
	r = sys_sigprocmask(how, c->a[1] ? &set : NULL, &old);
	if (r)
		return r;
	blocked = is_blocked();
	if (blocked)
		old |= SIGBIT(SIGSYS_);
	if (c->a[2] && guest_write((void *)c->a[2], &old, sizeof old))
		return -EFAULT;
	if (c->a[1]) {
		bool want = how == 0 ? blocked || named : how == 1 ? blocked && !named : named;
		if (want != blocked)
			set_blocked(want);
	}
	return 0;
}

long call_rt_sigpending(struct call *c)
{
	sigmask m;
	int i;
	long r;

	if (c->a[1] > sizeof m)
		return -EINVAL;
	r = SC2(__NR_rt_sigpending, &m, sizeof m);
	if (r)
		return r;
	i = self.n_blockers ? blocker((int)sys_gettid()) : -1;
	if (i >= 0 && blockers[i].pending.signo)
		m |= SIGBIT(SIGSYS_);
	return guest_write((void *)c->a[0], &m, c->a[1]);
}

/* Copies a guest's mask without SIGSYS into *to. NULL stays NULL. */
static long mask_in(unsigned long from, sigmask *to, sigmask **use)
{
	*use = NULL;
	if (!from)
		return 0;
	if (guest_read(to, (void *)from, sizeof *to))
		return -EFAULT;
	*to &= ~SIGBIT(SIGSYS_);
	*use = to;
	return 0;
}

long call_rt_sigsuspend(struct call *c)
{
	sigmask m, *use;

	if (c->a[1] != sizeof m)
		return -EINVAL;
	if (!c->a[0] || mask_in(c->a[0], &m, &use))
		return -EFAULT;
	return SC2(__NR_rt_sigsuspend, &m, sizeof m);
}

long call_ppoll(struct call *c)
{
	sigmask m, *use;

	if (c->a[3] && c->a[4] != sizeof m)
		return -EINVAL;
	if (mask_in(c->a[3], &m, &use))
		return -EFAULT;
	return SC5(__NR_ppoll, c->a[0], c->a[1], c->a[2], use, sizeof m);
}

long call_pselect6(struct call *c)
{
	struct { unsigned long mask, size; } pair;
	sigmask m, *use;

	if (!c->a[5])
		return call_raw(c);
	if (guest_read(&pair, (void *)c->a[5], sizeof pair))
		return -EFAULT;
	if (pair.mask && pair.size != sizeof m)
		return -EINVAL;
	if (mask_in(pair.mask, &m, &use))
		return -EFAULT;
	pair.mask = (unsigned long)use;
	return SC6(__NR_pselect6, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], &pair);
}

long call_epoll_pwait(struct call *c)
{
	sigmask m, *use;

	if (c->a[4] && c->a[5] != sizeof m)
		return -EINVAL;
	if (mask_in(c->a[4], &m, &use))
		return -EFAULT;
	return SC6(c->nr, c->a[0], c->a[1], c->a[2], c->a[3], use, sizeof m);
}

long call_signalfd4(struct call *c)
{
	sigmask m, *use;

	if (c->a[2] != sizeof m)
		return -EINVAL;
	if (mask_in(c->a[1], &m, &use))
		return -EFAULT;
	return SC4(__NR_signalfd4, c->a[0], use, sizeof m, c->nr == __NR_signalfd4 ? c->a[3] : 0);
}

void show_sender(struct call *c, unsigned long info)
{
	struct { int signo, error, code, pad; uint32_t pid, uid; } i;
	uint32_t cred[3];

	if (!(c->core->plan->options & OPT_OWNERS) || guest_read(&i, (void *)info, sizeof i) || !i.pid)
		return;
	if (i.code != SI_USER_ && i.code != SI_TKILL_ && (i.signo != SIGCHLD_ || i.code <= 0))
		return;
	cred[0] = i.pid, cred[1] = i.uid, cred[2] = 0;
	show_ids(c, cred, false);
	guest_write((char *)info + offsetof(struct info, address) + 4, &cred[1], sizeof cred[1]);
}

long call_rt_sigtimedwait(struct call *c)
{
	sigmask m;
	bool wanted;
	int i;
	long r;

	if (c->a[3] != sizeof m)
		return -EINVAL;
	if (guest_read(&m, (void *)c->a[0], sizeof m))
		return -EFAULT;
	wanted = m & SIGBIT(SIGSYS_);
	m &= ~SIGBIT(SIGSYS_);
	for (r = -EAGAIN;; r = 0) {
		i = wanted && self.n_blockers ? blocker((int)sys_gettid()) : -1;
		if (i >= 0 && blockers[i].pending.signo) {
			struct info got = blockers[i].pending;
			blockers[i].pending.signo = 0;
			return c->a[1] && guest_write((void *)c->a[1], &got, sizeof got) ? -EFAULT : SIGSYS_;
		}
		if (r == 0)
			return -EINTR;
		r = SC4(__NR_rt_sigtimedwait, &m, c->a[1], c->a[2], sizeof m);
		if (r > 0 && c->a[1])
			show_sender(c, c->a[1]);
		if (r != -EINTR || !wanted)
			return r;
	}
}

/* ---- alternate stacks --------------------------------------------------------------------------------- */

/* A guest's small signal stack does not hold two frames and our handler: a larger one takes its place. What the
 * guest gave is kept at its lower end, to be told when asked. */
#define SMALL_STACK (32 * 1024 - 1)
#define OUR_STACK (64 * 1024)
#define STACK_MAGIC 0x6b61747374646b75UL

struct stack {
	void *sp;
	int flags;
	unsigned long size;
};
struct our_stack {
	unsigned long magic;
	struct stack guests;
};

static struct our_stack *ours(const struct stack *s)
{
	struct our_stack *o = s->sp;

	return s->size == OUR_STACK - 64 && !((uintptr_t)s->sp & 63) && o ? (struct our_stack *)((char *)o - 64) : NULL;
}

/* With the stack pointer of somebody else: a system call does not touch the stack. */
static long sigaltstack_from(unsigned long sp, const struct stack *set, struct stack *old)
{
#if defined(__x86_64__)
	long r = __NR_sigaltstack;

	__asm__ volatile("xchg %%rsp, %%rbx\n	syscall\n	xchg %%rsp, %%rbx"
			 : "+a"(r), "+b"(sp) : "D"(set), "S"(old) : "rcx", "r11", "memory");
	return r;
#else
	register long x8 __asm__("x8") = __NR_sigaltstack;
	register long x0 __asm__("x0") = (long)set;
	register long x1 __asm__("x1") = (long)old;

	__asm__ volatile("mov x9, sp\n	mov sp, %1\n	svc #0\n	mov sp, x9" : "+r"(x0) : "r"(sp), "r"(x8), "r"(x1) : "x9", "memory");
	return x0;
#endif
}

/* The kernel refuses to change the stack that it sees us on, and our handler runs on it; the guest, whose call this
 * is, may not be. Where both are on one the kernel says the same of us, and a signal would come over our frames. */
static long as_guest(const struct frame *f, const struct stack *set, struct stack *old)
{
	struct stack now;

	if (!f || SC2(__NR_sigaltstack, NULL, &now) || !(now.flags & 1 /* SS_ONSTACK */) ||
	    FRAME_SP(f) - (unsigned long)now.sp - 1 < now.size)
		return SC2(__NR_sigaltstack, set, old);
	return sigaltstack_from((FRAME_SP(f) - 256) & ~15UL, set, old);
}

long call_sigaltstack(struct call *c)
{
	static struct our_stack *volatile unused; /* one that a handler was still running on when it was replaced */
	struct frame *f = c->frame;
	struct stack set = { 0 }, old, put;
	struct our_stack *have, *made = NULL;
	long r;

	if (c->a[0] && guest_read(&set, (void *)c->a[0], sizeof set))
		return -EFAULT;
	r = as_guest(f, NULL, &old);
	if (r)
		return r;
	have = ours(&old);
	if (have && have->magic != STACK_MAGIC)
		have = NULL;
	put = set;
	if (c->a[0]) {
		if (!(set.flags & 2 /* SS_DISABLE */) && set.size <= SMALL_STACK) {
			/* The kernel judges the guest's own, but for its size on machines with large registers. */
			if (set.size < SMALLEST_SIGNAL_STACK)
				return -ENOMEM;
			if (old.flags & 1)
				return -EPERM;
			made = sys_mmap(NULL, OUR_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (is_error((long)made))
				return -ENOMEM;
			made->magic = STACK_MAGIC;
			made->guests = set;
			put.sp = (char *)made + 64;
			put.size = OUR_STACK - 64;
		}
		r = as_guest(f, &put, NULL);
		if (r) {
			if (made)
				sys_munmap(made, OUR_STACK);
			return r;
		}
		if (f) { /* or rt_sigreturn would put the old one back */
			f->stack.sp = put.sp;
			f->stack.flags = put.flags;
			f->stack.size = put.size;
		}
	}
	if (have) {
		int flags = old.flags;
		old = have->guests;
		old.flags = (old.flags & (int)(1U << 31)) | flags;
		if (c->a[0]) {
			struct our_stack *before = __atomic_exchange_n(&unused, have, __ATOMIC_ACQ_REL);
			if (before)
				sys_munmap(before, OUR_STACK);
		}
	}
	return c->a[1] ? guest_write((void *)c->a[1], &old, sizeof old) : 0;
}
