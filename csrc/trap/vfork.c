/* Whose memory is this? A vfork child runs in its parent's, and must not leave its own state there.
 *
 * The state itself is here too, as the last thing of the program: the page that is treated otherwise is at its end, so
 * that the kernel has one piece of memory to split, and what every program touches first is together.
 */
#include "trap/trap.h"

struct process self;
#if defined(__aarch64__)
unsigned long page_size = LARGEST_PAGE;
#endif
extern const char _edata[]; /* the linker's: where what is in the file ends */

/* One call instead of a fault for each page that every program writes to. Linux 5.14; elsewhere they fault. */
void touch_memory(void)
{
	unsigned long text = ENGINE_BASE + PAGE, data = (unsigned long)&self;

	SC3(__NR_madvise, text, DOWN((unsigned long)_edata - text), 22 /* MADV_POPULATE_READ */);
	SC3(__NR_madvise, data, DOWN((unsigned long)(&self.slots[0].rest + 1) - data), 23 /* MADV_POPULATE_WRITE */);
}

void own_memory_init(void)
{
	self.lent = -1;
	self.whose[0] = self.pid = (int)sys_getpid();
	SC3(__NR_madvise, (long)self.whose, sizeof self.whose, 18 /* MADV_WIPEONFORK */);
}

void notes_start(void)
{
	self.notes.epoch = 2;
	self.notes.allowed = own_memory;
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

	if (!lent && self.whose[0])
		return true;
	pid = (int)sys_getpid();
	if (self.whose[0] == pid) {
		if (lent > 0 && lent == (int)sys_gettid())
			__atomic_compare_exchange_n(&self.lent, &lent, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
		return true;
	}
	if (self.whose[0])
		return false;
	/* Forked since, or the vfork child of one that was forked and did not come here before it called vfork. The
	 * former is mostly a child of the last known owner. */
	parent = (int)sys_getppid();
	if (parent != self.pid && SC5(__NR_kcmp, pid, parent, 1 /* KCMP_VM */, 0, 0) == 0) {
		self.whose[0] = self.pid = parent;
		return false;
	}
	self.whose[0] = self.pid = pid;
	if (lent && LENDS && !self.eager && self.core.notes)
		self.lent = 0;
	return true;
}
