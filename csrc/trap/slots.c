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

/* Threads begin to look at different slots, so that they don't take the line of memory from each other; the first one,
 * which is most programs' only one, at the first. */
static unsigned home(void)
{
	unsigned long sp = (unsigned long)__builtin_frame_address(0);

	return self.stack - sp < (64UL << 20) ? 0 : 1 + (unsigned)((sp >> 16) * 0x9e3779b97f4a7c15UL >> 60);
}

static void reclaim(unsigned first)
{
	bool single = only_thread();

	for (unsigned n = 0; n < SLOTS; n++) {
		unsigned i = (first + n) % SLOTS;
		struct work *w = &slots[i];
		bool gone = w->holders_thread && sys_tgkill(w->holder, w->holders_thread, 0) == -ESRCH;

		gone = gone || (w->holders_thread && moved_on(w->holder));
		/* The only thread holds what it is in the middle of, at most a few: the later half is surely lost. */
		if (gone || (single && !w->holders_thread && n >= SLOTS / 2)) {
			w->holders_thread = 0;
			__atomic_store_n(&w->busy, 0, __ATOMIC_RELEASE);
		}
	}
}

struct work *slot_take(void)
{
	unsigned first = home();

	for (unsigned n = 0;; n++) {
		struct work *w = &slots[(first + n) % SLOTS];

		/* Not read before: a page that is not there yet would be faulted in twice. */
		if ((!n || !w->busy) && !__atomic_exchange_n(&w->busy, 1, __ATOMIC_ACQUIRE))
			return w;
		if (n % SLOTS == SLOTS - 1) {
			if (n / SLOTS % 64 == 0)
				reclaim(first);
			SC0(__NR_sched_yield);
		}
	}
}

void slot_give(struct work *w)
{
	w->holders_thread = 0;
	__atomic_store_n(&w->busy, 0, __ATOMIC_RELEASE);
}

void slot_mine(struct work *w)
{
	w->holder = (int)sys_getpid();
	w->holders_thread = (int)sys_gettid();
}
