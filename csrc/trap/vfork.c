/* Whose memory is this? A vfork child runs in its parent's, and must not leave its own state there.
 *
 * The state itself is here too. It is the first of the program's data (layout.ld), behind the page that is treated
 * otherwise, so that the kernel has one piece of memory to split, and what every program touches first is together.
 */
#include "trap/trap.h"

_Static_assert(PLAN_AT + sizeof(struct plan) <= DATA_AT, "the data is behind the plan");
union since_fork since_fork;
struct process self;
struct work slots[SLOTS] __attribute__((aligned(4096))); /* one call touches as few pages as may be */
static struct note note_memory[NOTES];
#if defined(__aarch64__)
unsigned long page_size;
#endif

/* One call instead of a fault for each page that every program writes to. Linux 5.14; elsewhere they fault. */
void touch_memory(void)
{
	unsigned long data = (unsigned long)&since_fork;

	SC3(__NR_madvise, data, UP((unsigned long)self.core.exe + 1 - data), 23 /* MADV_POPULATE_WRITE */);
}

void own_memory_init(void)
{
	self.lent = -1;
	since_fork.whose = self.pid = (int)sys_getpid();
	SC3(__NR_madvise, (long)&since_fork, sizeof since_fork, 18 /* MADV_WIPEONFORK */);
}

void notes_start(void)
{
	self.notes.epoch = 2;
	self.notes.allowed = own_memory;
	self.notes.of = note_memory;
	self.core.notes = &self.notes;
	if (LENDS && !self.eager)
		self.lent = 0;
}

/* A vfork child, and a thread that is none, is not seen from within: that memory is about to be shared is noted before.
 * The thread that lends it comes back when the child has a memory of its own. */
void lend(bool back)
{
	int tid = (int)sys_gettid(), was;

	if (self.lent < 0 || !own_memory()) /* the child itself: it is lent already */
		return;
	was = __atomic_exchange_n(&self.lent, back ? tid : -1, __ATOMIC_SEQ_CST);
	if (was && was != tid)
		self.lent = -1; /* it is asked for each time, then */
}

bool own_memory(void)
{
	int pid, parent, lent = self.lent;

	since_fork.touched = true; /* before it is read: one fault instead of two */
	if (!lent && since_fork.whose)
		return true;
	pid = (int)sys_getpid();
	if (since_fork.whose == pid) {
		if (lent > 0 && lent == (int)sys_gettid())
			__atomic_compare_exchange_n(&self.lent, &lent, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
		return true;
	}
	if (since_fork.whose)
		return false;
	/* Forked since, or the vfork child of one that was forked and did not come here before it called vfork. The
	 * former is mostly a child of the last known owner. */
	parent = (int)sys_getppid();
	if (parent != self.pid && SC5(__NR_kcmp, pid, parent, 1 /* KCMP_VM */, 0, 0) == 0) {
		since_fork.whose = self.pid = parent;
		return false;
	}
	since_fork.whose = pid;
	if (lent && LENDS && !self.eager && self.core.notes)
		self.lent = 0;
	return true;
}

#if defined(__aarch64__)
/* A signal's frame takes 4.7 kB there, and more with vectors; musl's posix_spawn gives its child 5 kB of stack for all. So
 * the child gets one of ours, with what was put on the top of its own. The thread that made it waits until it does not
 * need it any more: its next child takes the same. */
#define LENT 65536
#define TOP 512

unsigned long lend_stack(unsigned long top)
{
	static struct { volatile int tid; char *volatile at; } lent[16];
	int tid = (int)sys_gettid(), mine = -1;
	char *to;

	for (int i = 0; i < (int)ARRAY_LEN(lent) && mine < 0; i++)
		if (lent[i].tid == tid)
			mine = i;
	for (int i = 0; i < (int)ARRAY_LEN(lent) && mine < 0; i++) {
		int other = lent[i].tid;

		if ((!other || SC2(__NR_tkill, other, 0) == -ESRCH) &&
		    __atomic_compare_exchange_n(&lent[i].tid, &other, tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			mine = i;
	}
	if (mine < 0)
		return top;
	if (!lent[mine].at) {
		to = sys_mmap(NULL, LENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (is_error((long)to))
			return top;
		lent[mine].at = to;
	}
	to = lent[mine].at + LENT - TOP;
	return guest_read(to, (void *)top, MIN((unsigned long)TOP, UP(top) - top)) ? top : (unsigned long)to;
}
#endif
