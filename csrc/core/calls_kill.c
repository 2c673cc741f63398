/* Signals: to whom of the container's processes, and by whom.
 *
 * For the kernel all of them are the caller's, as is everything else that the caller runs on this node. So whom a guest
 * user may signal is judged by the guest's ids, and "everybody" means the container.
 */
#include "core/calls.h"

static bool in_container(struct call *c, uint64_t pid)
{
	const struct core *k = c->core;

	return process_maps(c, pid, (uintptr_t)k->plan, c->w->rest) > 0 && str_eq(c->w->rest, plan_text(k, k->plan->state));
}

/* Guest root and the container's only user may; so may whoever the kernel would let. Processes that cannot be looked into
 * are the kernel's affair. */
static bool may_signal(struct call *c, long pid, int sig)
{
	const struct core *k = c->core;
	const struct ids *me = &k->ids;
	struct ids they;

	if (!me->euid || me->euid == k->plan->uid || !(k->plan->options & OPT_FAKE_ROOT) || !ids_of(c, (uint64_t)pid, &they))
		return true;
	return me->euid == they.suid || me->euid == they.ruid || me->ruid == they.suid || me->ruid == they.ruid ||
	       (sig == SIGCONT && sys_getsid((int)pid) == sys_getsid(0));
}

/* All but the caller. A signal that nobody survives is sent until nobody new is found. */
static long everybody(struct call *c, int sig)
{
	char *buf = c->w->link;
	long dir, n, passes = sig == SIGKILL ? 16 : 1, found = 0, seen, self = sys_getpid();

	dir = sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (dir < 0)
		return -EPERM;
	do {
		seen = 0;
		sys_lseek((int)dir, 0, 0);
		while ((n = sys_getdents64((int)dir, buf, sizeof c->w->link)) > 0)
			for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
				uint64_t pid;

				if (!parse_u64(((struct linux_dirent64 *)s)->d_name, 10, &pid) || (long)pid == self || !in_container(c, pid))
					continue;
				found++;
				if (may_signal(c, (long)pid, sig) && !sys_kill((int)pid, sig))
					seen++;
			}
	} while (seen && --passes);
	sys_close((int)dir);
	return found ? 0 : -ESRCH;
}

long call_kill(struct call *c)
{
	int pid = (int)c->a[0], sig = (int)c->a[1];
	long r;

	if (pid == -1)
		return sig < 0 || sig > 64 ? -EINVAL : everybody(c, sig);
	if (pid > 0 && pid != sys_getpid()) {
		r = sys_kill(pid, 0);
		if (!r && !may_signal(c, pid, sig))
			r = -EPERM;
		if (r)
			return r;
	}
	return call_raw(c);
}

long call_rt_sigqueueinfo(struct call *c)
{
	int pid = (int)c->a[0];

	return pid > 0 && pid != sys_getpid() && !sys_kill(pid, 0) && !may_signal(c, pid, (int)c->a[1]) ? -EPERM : call_raw(c);
}
