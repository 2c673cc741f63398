/* Memory for the calls in progress: a guest's signal stack is too small for paths.
 *
 * A slot is lost when its holder disappears inside the call: a vfork child whose execve succeeded (it says so first,
 * slot_mine), a handler of the guest that interrupts a call and jumps out of it, a thread that is not there any more
 * in a forked child. Lost slots are looked for only when all are taken.
 */
#include "trap/trap.h"

bool only_thread(void)
{
	struct stat st;

	return !sys_fstatat(AT_FDCWD, "/proc/self/task", &st, 0) && st.st_nlink == 3;
}

/* A vfork child that called slot_mine: has its execve come through? Then another program is at our addresses. */
static bool moved_on(int pid)
{
	int there = 0;
	struct { void *at; size_t n; } here = { &there, sizeof there }, from = { &self.pid, sizeof self.pid };

	if (pid == sys_getpid())
		return false;
	return SC6(__NR_process_vm_readv, pid, &here, 1, &from, 1, 0) != sizeof there || there == pid;
}

static void reclaim(void)
{
	bool single = only_thread();

	for (int i = 0; i < SLOTS; i++) {
		bool gone = self.holders[i].tid && sys_tgkill(self.holders[i].pid, self.holders[i].tid, 0) == -ESRCH;

		gone = gone || (self.holders[i].tid && moved_on(self.holders[i].pid));
		/* The only thread holds what it is in the middle of, at most a few: the later half is surely lost. */
		if (gone || (single && !self.holders[i].tid && i >= SLOTS / 2)) {
			self.holders[i].tid = 0;
			__atomic_fetch_and(&self.taken, ~((uint64_t)1 << i), __ATOMIC_RELEASE);
		}
	}
}

struct work *slot_take(void)
{
	for (unsigned tries = 0;; tries++) {
		uint64_t have = self.taken;

		if (!~have) {
			if (tries % 64 == 0)
				reclaim();
			SC0(__NR_sched_yield);
			continue;
		}
		int i = __builtin_ctzll(~have);
		if (__atomic_compare_exchange_n(&self.taken, &have, have | (uint64_t)1 << i, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return &self.slots[i];
	}
}

void slot_give(struct work *w)
{
	int i = (int)(w - self.slots);

	if (self.holders[i].tid) /* a write would take the line from other threads */
		self.holders[i].tid = 0;
	__atomic_fetch_and(&self.taken, ~((uint64_t)1 << i), __ATOMIC_RELEASE);
}

void slot_mine(struct work *w)
{
	int i = (int)(w - self.slots);

	self.holders[i].pid = (int)sys_getpid();
	self.holders[i].tid = (int)sys_gettid();
}
