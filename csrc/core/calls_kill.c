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

/* Guest root, and whoever is the container's only user, may signal as the kernel lets them. */
static bool of_no_matter(const struct core *k)
{
	return !k->ids.euid || k->ids.euid == k->plan->uid || !(k->plan->options & OPT_FAKE_ROOT);
}

/* Processes (or threads) that cannot be looked into are the kernel's affair. */
static bool may_signal(struct call *c, long pid, int sig)
{
	const struct core *k = c->core;
	const struct ids *me = &k->ids;
	struct ids they;

	if (of_no_matter(k) || !ids_of(c, (uint64_t)pid, &they))
		return true;
	return me->euid == they.suid || me->euid == they.ruid || me->ruid == they.suid || me->ruid == they.ruid ||
	       (sig == SIGCONT && sys_getsid((int)pid) == sys_getsid(0));
}

/* All but the caller, of one process group or (0) of the container. A signal that nobody survives is sent until nobody new
 * is found. 0 when somebody was there; *sent: to how many. */
static long others(struct call *c, int sig, long group, long *sent)
{
	char *buf = c->w->link;
	long dir, n, passes = sig == SIGKILL ? 16 : 1, found = 0, seen, self = sys_getpid();

	*sent = 0;
	dir = sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (dir < 0)
		return -EPERM;
	do {
		seen = 0;
		sys_lseek((int)dir, 0, 0);
		while ((n = sys_getdents64((int)dir, buf, sizeof c->w->link)) > 0)
			for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
				uint64_t pid;

				if (!parse_u64(((struct linux_dirent64 *)s)->d_name, 10, &pid) || (long)pid == self ||
				    (group && sys_getpgid((int)pid) != group) || !in_container(c, pid))
					continue;
				found++;
				if (may_signal(c, (long)pid, sig) && !sys_kill((int)pid, sig))
					seen++;
			}
		*sent += seen;
	} while (seen && --passes);
	sys_close((int)dir);
	return found ? 0 : -ESRCH;
}

/* Whoever of the group may be signalled is; the caller, if it is one of them, at last. */
static long one_group(struct call *c, int group, int sig)
{
	long own = sys_getpgid(0), sent, r;

	if (!group)
		group = (int)own;
	r = sys_kill(-group, 0); /* is there any? */
	if (r)
		return r;
	r = others(c, sig, group, &sent);
	if (group == own)
		return sys_kill((int)sys_getpid(), sig);
	return r == -ESRCH || (!r && !sent) ? -EPERM : r;
}

long call_kill(struct call *c)
{
	int pid = (int)c->a[0], sig = (int)c->a[1];
	long r;

	if (pid == -1)
		return sig < 0 || sig > 64 ? -EINVAL : others(c, sig, 0, &r);
	if (pid > 0 && pid != sys_getpid()) {
		r = sys_kill(pid, 0);
		if (!r && !may_signal(c, pid, sig))
			r = -EPERM;
		if (r)
			return r;
	}
	if (pid <= 0 && pid != (int)0x80000000 && sig >= 0 && sig <= 64 && !of_no_matter(c->core))
		return one_group(c, -pid, sig);
	return call_raw(c);
}

long call_rt_sigqueueinfo(struct call *c)
{
	int pid = (int)c->a[0];

	return pid > 0 && pid != sys_getpid() && !sys_kill(pid, 0) && !may_signal(c, pid, (int)c->a[1]) ? -EPERM : call_raw(c);
}

/* To one thread. Most are to the caller's own. */
static long to_thread(struct call *c, int process, int thread, int sig)
{
	if (process > 0 && thread > 0 && process != sys_getpid() && !of_no_matter(c->core) && !sys_tgkill(process, thread, 0) &&
	    !may_signal(c, thread, sig))
		return -EPERM;
	return call_raw(c);
}

long call_tgkill(struct call *c) { return to_thread(c, (int)c->a[0], (int)c->a[1], (int)c->a[2]); }
long call_rt_tgsigqueueinfo(struct call *c) { return to_thread(c, (int)c->a[0], (int)c->a[1], (int)c->a[2]); }

long call_tkill(struct call *c)
{
	int thread = (int)c->a[0], sig = (int)c->a[1];

	if (thread > 0 && thread != sys_gettid() && !of_no_matter(c->core) && !SC2(__NR_tkill, thread, 0) && !may_signal(c, thread, sig))
		return -EPERM;
	return call_raw(c);
}

/* The process that a descriptor of pidfd_open is of, or that of its directory in /proc; 0: of none. */
static long process_behind(struct call *c, int fd)
{
	char name[48] = "/proc/self/fdinfo/";
	char *text = c->w->text, *line;
	uint64_t pid;
	long n;

	if (fd < 0)
		return 0;
	decimal(name + 18, (unsigned)fd);
	n = read_file(AT_FDCWD, name, text, HOST_MAX);
	if (n < 0)
		return 0;
	line = (char *)(uintptr_t)mem_find(text, (size_t)n, "\nPid:\t", 6);
	if (line) {
		line += 6;
		for (n = 0; line[n] >= '0' && line[n] <= '9';)
			n++;
		line[n] = 0;
		return parse_u64(line, 10, &pid) ? (long)pid : 0;
	}
	memcpy(name, "/proc/self/fd/", 14);
	decimal(name + 14, (unsigned)fd);
	n = sys_readlinkat(AT_FDCWD, name, text, HOST_MAX - 1);
	text[MAX(n, 0)] = 0;
	return str_starts(text, "/proc/") && parse_u64(text + 6, 10, &pid) ? (long)pid : 0;
}

long call_pidfd_send_signal(struct call *c)
{
	long pid = of_no_matter(c->core) ? 0 : process_behind(c, (int)c->a[0]);

	return pid > 0 && pid != sys_getpid() && !sys_kill((int)pid, 0) && !may_signal(c, pid, (int)c->a[1]) ? -EPERM : call_raw(c);
}
