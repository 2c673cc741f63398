#include "guard/guard.h"
#include "namespace/namespace.h"
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/signalfd.h>

/* How long (us) a signal sent to the whole process group may take to arrive at all of its members. */
enum { GROUP_WINDOW = 50000 };

/* How often (ms) it is looked whether those who joined have gone. */
enum { FINISH_LOOK = 20 };

struct keeper {
	struct plan *plan;
	int socket, signals, proc; /* proc: the host's /proc, to find processes by, or -1 in a pid namespace */
	int anchor, status; /* status: of the payload that has ended */
	bool ended;
	int payload, watcher; /* watcher: the parent, without a pid namespace */
	bool pid_namespace;
	/* When a signal reached the keeper itself, and when one was passed on for the guard: a signal to the process group
	 * reaches guard, keeper and payload, and must not be delivered to the payload once more. 0: none. */
	uint64_t seen[65], passed[65];
};

NORETURN static void give_up(struct keeper *k, const struct failure *f)
{
	message_send(k->socket, MSG_FAILED, (int)f->class, f->text, strlen(f->text) + 1, -1);
	sys_exit(125);
}

/* Everything else of the container ends; then the guard need not wait for this process, whose own end takes as long as
 * the kernel takes to dismantle its mounts. */
static void end_all(const struct keeper *k)
{
	int status;
	long r;

	if (!k->pid_namespace) { /* as long as it lives, all orphans are its children: descent finds them all */
		kill_container(k->proc, NULL, true);
		return;
	}
	do {
		sys_kill(-1, SIGKILL); /* all but pid 1 itself */
		r = sys_wait4(-1, &status, 0, NULL);
	} while (r > 0 || r == -EINTR);
}

static bool same_group(const struct keeper *k)
{
	return !k->plan->tty && sys_getpgid(k->payload) == sys_getpgid(0);
}

static void finish(struct keeper *k, bool now);

static void pass_on(struct keeper *k, int sig)
{
	if (k->ended)
		finish(k, sig == SIGTERM || sig == SIGINT || sig == SIGHUP || sig == SIGQUIT);
	if (k->ended)
		return;
	k->passed[sig] = now_us();
	sys_kill(k->payload, sig);
}

static void signal_for_payload(struct keeper *k, int sig)
{
	if (sig < 1 || sig > 64)
		return;
	if (k->seen[sig] && now_us() - k->seen[sig] < GROUP_WINDOW && same_group(k)) {
		k->seen[sig] = 0;
		return;
	}
	k->seen[sig] = 0;
	pass_on(k, sig);
}

/* A signal sent to the keeper itself: by the kernel (a terminal's, which the payload gets too), from inside ("kill 1"
 * means the payload), or from outside, to it alone or to the group. */
static void signal_for_keeper(struct keeper *k, const struct signalfd_siginfo *s)
{
	int sig = (int)s->ssi_signo;

	if (s->ssi_code > 0 || sig == SIGCHLD || k->plan->gate || (k->watcher && (int)s->ssi_pid == k->watcher))
		return; /* the watcher's: the parent-death signal; what is for another runtime's container goes by the guard */
	if (k->pid_namespace && s->ssi_pid > 0)
		pass_on(k, sig);
	else if (!k->passed[sig] || now_us() - k->passed[sig] > GROUP_WINDOW || !same_group(k))
		k->seen[sig] = now_us();
}

/* Signals that reached the keeper but not the guard were meant for the container. Returns ms until the next look. */
static int overdue(struct keeper *k)
{
	int wait = -1;
	uint64_t now = now_us();

	for (int sig = 1; sig <= 64; sig++) {
		if (!k->seen[sig])
			continue;
		if (now - k->seen[sig] >= GROUP_WINDOW) {
			k->seen[sig] = 0;
			pass_on(k, sig);
		} else {
			wait = GROUP_WINDOW / 1000;
		}
	}
	return wait;
}

/* The payload has ended: so does the container, unless somebody has joined it to stay. */
static void finish(struct keeper *k, bool now)
{
	struct rusage usage;

	if (!now && k->plan->last_out >= 0 && SC2(__NR_flock, k->plan->last_out, 2 | 4 /* LOCK_EX, LOCK_NB */) == -EAGAIN) {
		sys_prctl(PR_SET_NAME, (unsigned long)"udk-last", 0, 0, 0); /* who joins need not wait for a payload */
		return;
	}
	end_all(k);
	sys_getrusage(RUSAGE_CHILDREN, &usage);
	message_send(k->socket, MSG_ENDED, k->status, &usage, sizeof usage, -1);
	sys_exit(0);
}

static void reap(struct keeper *k)
{
	for (;;) {
		int status;
		long pid = sys_wait4(-1, &status, WNOHANG | WUNTRACED, NULL);
		if (pid <= 0)
			return;
		if (pid != k->payload)
			continue;
		if (WIFSTOPPED(status)) {
			message_send(k->socket, MSG_STOPPED, WSTOPSIG(status), NULL, 0, -1);
			continue;
		}
		k->status = status;
		k->ended = true;
		finish(k, false);
	}
}

NORETURN static void watch(struct keeper *k)
{
	struct pollfd p[2] = { { .fd = k->signals, .events = POLLIN }, { .fd = k->socket, .events = POLLIN } };

	for (;;) {
		struct signalfd_siginfo s;
		struct message m;
		int fd, wait = k->ended ? FINISH_LOOK : overdue(k);
		ktimespec t = { wait / 1000, wait % 1000 * 1000000 };
		sys_ppoll(p, 2, wait < 0 ? NULL : &t, NULL);
		if (k->ended)
			finish(k, false);
		bool child = false;
		while (sys_read(k->signals, &s, sizeof s) == sizeof s) {
			child |= s.ssi_signo == SIGCHLD;
			signal_for_keeper(k, &s);
		}
		for (;;) {
			long r = message_receive(k->socket, &m, &fd, false);
			if (r == -EAGAIN)
				break;
			if (r <= 0) { /* the guard is gone: so is its container */
				end_all(k);
				sys_exit(0);
			}
			if (m.kind == MSG_SIGNAL)
				signal_for_payload(k, m.value);
		}
		if (child)
			reap(k);
		if (k->watcher && sys_getppid() != k->watcher) {
			end_all(k);
			sys_exit(0);
		}
	}
}

static bool guard_is_gone(const struct keeper *k)
{
	struct pollfd p = { .fd = k->socket, .events = 0 };
	ktimespec none = { 0, 0 };

	return sys_ppoll(&p, 1, &none, NULL) > 0 && p.revents & (POLLHUP | POLLERR);
}

/* The parent-death signal, and the case that the parent died before it was asked for. */
static void follow_guard(struct keeper *k)
{
	sys_prctl(PR_SET_PDEATHSIG, k->pid_namespace ? SIGKILL : SIGTERM, 0, 0, 0);
	if (!k->pid_namespace)
		sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (guard_is_gone(k))
		sys_exit(125);
}

/* Waits until the keeper or the guard is no more; then nothing else of the container may be. */
NORETURN static void stand_watch(struct keeper *k, int keeper)
{
	struct pollfd p[2] = { { .fd = k->signals, .events = POLLIN }, { .fd = k->socket, .events = 0 } };
	uint64_t deadline = 0;
	int status = 0;

	sys_prctl(PR_SET_NAME, (unsigned long)"udk-watcher", 0, 0, 0);
	sys_setsid();
	close_all_but((const int[]){ k->signals, k->socket, k->proc }, 3);
	for (;;) {
		struct signalfd_siginfo s[16];
		int dead, wait_status;
		ktimespec t = { 0, GRACE * 1000 };
		sys_ppoll(p, deadline ? 1 : 2, deadline ? &t : NULL, NULL);
		while (sys_read(k->signals, s, sizeof s) > 0)
			;
		while ((dead = (int)sys_wait4(-1, &wait_status, WNOHANG, NULL)) > 0)
			if (dead == keeper) {
				status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 125;
				keeper = 0;
			}
		/* The keeper notices, too, that the guard is gone: only what it does not do is done here. */
		if (keeper && !deadline && guard_is_gone(k))
			deadline = now_us() + GRACE;
		if (!keeper || (deadline && now_us() >= deadline)) {
			kill_container(k->proc, NULL, true);
			sys_exit(status);
		}
	}
}

/* Without a pid namespace the process that the guard made becomes the watcher, and its child the keeper. */
static void split(struct keeper *k, struct failure *f)
{
	sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	sys_prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0); /* blocked: it only wakes */
	long r = k->proc < 0 ? k->proc : k->signals < 0 ? k->signals : sys_fork();
	if (r > 0)
		stand_watch(k, (int)r);
	if (r < 0) {
		fail(f, FAIL_UDK, "the container's processes cannot be watched over: %s", errno_text(r));
		give_up(k, f);
	}
	k->watcher = (int)sys_getppid();
	/* one of its own: the two may list at the same time, and a shared one has one position */
	int shared = k->proc;
	k->proc = (int)sys_openat(shared, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	sys_close(shared);
}

static bool set_up(struct keeper *k, struct join *join, struct failure *f)
{
	struct plan *p = k->plan;

	if (p->clone_flags & CLONE_NEWUSER && !p->map_tool_uid && !ns_map_self(p, f))
		return false;
	if (p->map_tool_uid) {
		struct message m;
		int fd;
		if (message_receive(k->socket, &m, &fd, true) <= 0 || m.kind != MSG_GO)
			sys_exit(125);
		/* newuidmap may have put the caller's id elsewhere than at 0 */
		if (sys_setresgid(0, 0, 0) < 0 || sys_setresuid(0, 0, 0) < 0)
			return fail(f, FAIL_UDK, "the mapped root cannot be assumed");
	}
	if (p->anchor) {
		/* a mount of its own: no way leads up from it */
		long r = sys_open_tree(AT_FDCWD, p->anchor, OPEN_TREE_CLONE | O_CLOEXEC);
		if (r < 0)
			return fail(f, FAIL_ENGINE, "%s cannot be mounted: %s", p->anchor, errno_text(r));
		k->anchor = (int)r;
		if (!(p->clone_flags & CLONE_NEWNS))
			sys_umount2(p->anchor, MNT_DETACH);
	}
	if (p->anchor_of) {
		char path[32];
		fmt(path, sizeof path, "/proc/%d/cwd", p->anchor_of);
		long r = sys_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		if (r < 0)
			return fail(f, FAIL_UDK, "the container's process %d cannot be joined: %s", p->anchor_of, errno_text(r));
		k->anchor = (int)r;
	}
	if (p->clone_flags & CLONE_NEWNS && !ns_setup(p, f))
		return false;
	return !p->join || (ns_join_open(p, join, f) && ns_join_keeper(join, f));
}

/* /proc lets a process into another one's directory that has no capability more. */
static void keep_capabilities(uint64_t kept)
{
	uint32_t header[2] = { 0x20080522, 0 }, data[6] = { (uint32_t)kept, (uint32_t)kept, 0, (uint32_t)(kept >> 32), (uint32_t)(kept >> 32), 0 };

	sys_capset(header, data);
}

/* Who joins a container in a Landlock domain of its own sees no process of the first one's, so it brings one that has the
 * layer as its working directory. Returns its number in the container; 0: there is none. */
static int bring_anchor(struct keeper *k, const struct join *join)
{
	struct join theirs = *join;
	struct failure f;
	int ends[2], number = 0;

	if (sys_pipe2(ends, O_CLOEXEC))
		return 0;
	long r = sys_fork();
	if (r == 0) {
		if (!ns_join_payload(&theirs, &f) || sys_fchdir(k->anchor))
			sys_exit(125);
		sys_setsid();
		keep_capabilities(0);
		sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		number = (int)sys_getpid();
		close_all_but(&ends[1], 1);
		if (sys_write(ends[1], &number, sizeof number) != sizeof number) /* the keeper is gone */
			sys_exit(125);
		sys_close(ends[1]);
		for (;;)
			sys_ppoll(NULL, 0, NULL, NULL);
	}
	sys_close(ends[1]);
	if (r > 0 && read_full(ends[0], &number, sizeof number) != sizeof number)
		number = 0;
	sys_close(ends[0]);
	return number;
}

/* The word of the loader's that is empty becomes the state's path. */
static bool use_anchor(struct keeper *k, const struct join *join, struct failure *f)
{
	static char path[PATH_SIZE];
	struct plan *p = k->plan;
	int number = bring_anchor(k, join);

	if (!number || fmt(path, sizeof path, "/proc/%d/cwd%s", number, p->anchor_state) >= sizeof path)
		return fail(f, FAIL_UDK, "the container's layer cannot be reached");
	for (size_t i = 0; i < p->loader_words; i++)
		if (!*p->argv[i])
			p->argv[i] = path;
	return true;
}

void keeper_main(struct plan *plan, int socket)
{
	struct keeper k = { .plan = plan, .socket = socket, .proc = -1, .anchor = -1, .pid_namespace = plan->clone_flags & CLONE_NEWPID };
	struct handover h = { .socket = socket, .tty = -1, .loader = -1, .pid_namespace = k.pid_namespace,
			      .shares_terminal = !plan->tty && has_terminal() };
	struct join join;
	struct failure f = { .class = FAIL_UDK };
	sigmask all = ALL_SIGNALS;
	int master = -1;

	k.signals = (int)sys_signalfd(-1, &all, O_CLOEXEC | O_NONBLOCK);
	if (!k.pid_namespace) {
		k.proc = (int)sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
		split(&k, &f);
	}
	sys_prctl(PR_SET_NAME, (unsigned long)(k.pid_namespace ? "udk-init" : "udk-keeper"), 0, 0, 0);
	/* every bind source is held open for a moment */
	sys_prlimit(0, RLIMIT_NOFILE, NULL, &h.files);
	struct rlimit64 most = { h.files.rlim_max, h.files.rlim_max };
	sys_prlimit(0, RLIMIT_NOFILE, &most, NULL);
	h.umask = (unsigned)sys_umask(0);
	uint64_t passed;
	if (plan->loader && str_starts(plan->loader, "/proc/self/fd/") && parse_u64(plan->loader + 14, 10, &passed))
		sys_fcntl((int)passed, F_SETFD, FD_CLOEXEC);
	if (plan->loader && (h.loader = (int)sys_open(plan->loader, O_PATH | O_CLOEXEC, 0)) < 0)
		fail(&f, FAIL_ENGINE, "%s: %s", plan->loader, errno_text(h.loader));
	if ((plan->loader && h.loader < 0) || !set_up(&k, &join, &f))
		give_up(&k, &f);
	if (plan->dry)
		sys_exit(0);
	h.join = plan->join ? &join : NULL;
	follow_guard(&k);
	if (plan->tty) {
		if (!tty_open(&master, &h.tty, &f))
			give_up(&k, &f);
		message_send(socket, MSG_TTY, 0, NULL, 0, master);
		sys_close(master);
	}
	if (k.signals < 0) {
		fail(&f, FAIL_UDK, "signalfd: %s", errno_text(k.signals));
		give_up(&k, &f);
	}
	if (k.anchor >= 0) {
		/* Who is in a Landlock domain sees only who is in it, too. */
		if (plan->landlock) {
			if (!confine(plan, h.tty, &f))
				give_up(&k, &f);
			plan->landlock = 0;
			plan->confine &= CONFINE_FDS;
		}
		if (plan->join && !use_anchor(&k, &join, &f))
			give_up(&k, &f);
		if (!plan->join) {
			sys_fchdir(k.anchor);
			keep_capabilities(plan->keep_caps);
		}
	}
	message_send(socket, MSG_STARTING, (int)sys_getpid(), NULL, 0, -1);
	/* vfork semantics: when this returns here, the payload's exec has happened or has failed and said so. */
	k.payload = (int)sys_clone_flags(CLONE_VFORK | SIGCHLD);
	if (k.payload == 0)
		payload_main(plan, &h);
	if (k.payload < 0) {
		fail(&f, FAIL_UDK, "the payload cannot be started: %s", errno_text(k.payload));
		give_up(&k, &f);
	}
	if (k.anchor >= 0)
		keep_capabilities(0);
	message_send(socket, MSG_STARTED, k.payload, NULL, 0, -1);
	/* The terminal's slave stays open: a payload that closes it and lives on is not the end of the terminal. */
	close_all_but((const int[]){ k.signals, socket, k.proc, h.tty, plan->last_out }, 5);
	watch(&k);
}
