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
	self.whose[0] = self.pid = (int)sys_getpid();
	SC3(__NR_madvise, (long)self.whose, sizeof self.whose, 18 /* MADV_WIPEONFORK */);
}

void notes_start(void)
{
	self.notes.epoch = 2;
	self.notes.allowed = own_memory;
	self.core.notes = &self.notes;
}

bool own_memory(void)
{
	int pid = (int)sys_getpid(), parent;

	if (self.whose[0] == pid)
		return true;
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
	return true;
}
