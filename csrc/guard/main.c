/* udk-guard: the process that stays while a container runs. docs/adr/guard-protocol.md tells the whole story.
 *
 *   udk-guard run FD [words for ps]   execute the plan in descriptor FD
 *   udk-guard remove FD               remove the plan's paths, with its id maps
 *   udk-guard landlock                exits with the version of the kernel's Landlock, 0 without one
 *   udk-guard kill COOKIE             kill every process whose environment has UDK_COOKIE=COOKIE
 */
#include "guard/running.h"
#include "guard/userns.h"
#include <linux/prctl.h>
#include <linux/signalfd.h>

enum { EXIT_UDK = 125, SOCK_SEQPACKET_CLOEXEC = 5 | 02000000 };

NORETURN static void refuse(const char *text)
{
	say(2, "udk: error: %s\n", text);
	sys_exit(EXIT_UDK);
}

/* What a caller may have left behind that would confuse us, and that the payload shall find as it was. */
static void normalise(struct guard *g)
{
	static const int ending[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
	struct ksigaction old;

	for (size_t i = 0; i < ARRAY_LEN(ending); i++)
		if (sys_sigaction(ending[i], NULL, &old) < 0 || old.handler != SIG_IGN)
			g->ending |= SIGBIT(ending[i]);
	/* where SIGCHLD is ignored, the kernel reaps children itself and their status is lost */
	if (sys_sigaction(SIGCHLD, NULL, &old) >= 0 && old.handler == SIG_IGN) {
		sys_signal_default(SIGCHLD, false);
		g->plan.ignored_signals |= SIGBIT(SIGCHLD);
	}
	siginfo_t info;
	g->has_others = sys_waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT, NULL) != -ECHILD;
	/* a closed stream's number must not be given to a descriptor of ours; the payload finds it closed again */
	for (int fd = 0; fd < 3; fd++)
		if (sys_fcntl(fd, F_GETFD, 0) == -EBADF)
			sys_open("/dev/null", O_RDWR | O_CLOEXEC, 0);
}

static void start(struct guard *g)
{
	struct plan *p = &g->plan;
	int pair[2], ends[2] = { -1, -1 };
	long r = sys_socketpair(1 /* AF_UNIX */, SOCK_SEQPACKET_CLOEXEC, 0, pair);

	if (p->gate && gate_listen(&g->gate, p->gate) < 0)
		refuse("no socket can be made beside the container's layer");
	if (r < 0 || (p->report >= 0 && (r = sys_pipe2(ends, O_CLOEXEC | O_NONBLOCK)) < 0))
		refuse("no socket pair: the system is out of file descriptors or memory");
	g->socket = pair[0];
	g->report = ends[0];
	p->report_pipe = ends[1];
	g->keeper = (int)sys_clone_flags(p->clone_flags | SIGCHLD);
	if (g->keeper == 0) {
		sys_close(pair[0]);
		sys_close(g->signals);
		if (g->gate.listening >= 0)
			sys_close(g->gate.listening);
		keeper_main(p, pair[1]);
	}
	sys_close(pair[1]);
	if (p->report_pipe >= 0)
		sys_close(p->report_pipe);
	if (g->keeper < 0) {
		userns_refused(g->keeper, &g->outcome.failure);
		g->reaped = true;
		return;
	}
	if (p->map_tool_uid) {
		if (userns_map(p, g->keeper, g->envp, &g->outcome.failure))
			message_send(g->socket, MSG_GO, 0, NULL, 0, -1);
		else
			guard_kill_all(g);
	}
}

/* The runtime has ended. What its container's init said counts, if it ever was there. */
static void conclude_gate(struct guard *g)
{
	struct outcome *o = &g->outcome;

	guard_gate_messages(g);
	if (!g->gate.passed && !o->failure.class && !g->aborted && !o->timed_out && g->ended)
		gate_failure(g->plan.program, g->plan.gate_log, WIFEXITED(g->status) ? WEXITSTATUS(g->status) : 128 + WTERMSIG(g->status),
			     &o->failure);
	if (g->gate.ended) {
		g->ended = true;
		g->status = g->gate.status;
		o->usage = g->gate.usage;
	}
}

/* The exit status, from the strongest reason to the weakest. */
static void conclude(struct guard *g)
{
	struct outcome *o = &g->outcome;

	o->wall_us = now_us() - g->start;
	if (g->ended && !(o->failure.class && !o->ran)) {
		o->signal = WIFSIGNALED(g->status) ? WTERMSIG(g->status) : 0;
		o->core = o->signal && WCOREDUMP(g->status);
		o->status = o->signal ? 128 + o->signal : WEXITSTATUS(g->status);
	} else if (o->failure.class) {
		o->status = o->failure.class == FAIL_NOT_FOUND ? 127 : o->failure.class == FAIL_NOT_EXECUTABLE ? 126 : EXIT_UDK;
	} else if (g->aborted) {
		o->status = 128 + g->aborted;
		o->signal = g->aborted;
	} else if (g->plan.dry && !g->status) {
		o->status = 0;
	} else {
		o->status = 128 + SIGKILL;
		o->signal = SIGKILL;
	}
}

/* Another engine may do what this one could not: the plan's command takes over this process, everything of this attempt
 * being removed, and is told what failed. Returns when it cannot be executed. */
static void fall_back(struct guard *g)
{
	static char entry[2048];
	struct plan *p = &g->plan;
	const char *before = env_get(g->envp, "UDK_ENGINE_FAILED");
	size_t n = 0;

	fmt(entry, sizeof entry, "UDK_ENGINE_FAILED=%s%s%s: %s", before ? before : "", before ? "\n" : "", p->fallback[0],
	    g->outcome.failure.text);
	while (g->envp[n])
		n++;
	char **env = sys_mmap(NULL, (n + 2) * sizeof *env, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)env))
		return;
	size_t m = 0;
	for (size_t i = 0; i < n; i++)
		if (!str_starts(g->envp[i], "UDK_ENGINE_FAILED="))
			env[m++] = g->envp[i];
	env[m++] = entry;
	env[m] = NULL;
	sys_prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
	sys_sigprocmask(SIG_SETMASK, &p->signals, NULL);
	sys_execve(p->fallback[1], p->fallback + 1, env);
}

static void clean_up(struct guard *g, bool again)
{
	struct plan *p = &g->plan;
	struct failure f;

	/* The container is still needed by the command that is done again. What cannot be removed now is left to the
	 * sweeper: the payload's status is what the caller waits for. */
	if (!again)
		userns_remove(p, g->envp, &f);
	for (size_t i = 0; i < p->n_unlink; i++)
		sys_unlinkat(AT_FDCWD, p->unlink[i], 0);
}

static void leave_it_to_the_keeper(const struct guard *g)
{
	const ktimespec pause = { 0, 2000000 };
	const uint64_t until = now_us() + GRACE;
	int status;

	while (g->second && now_us() < until) {
		long pid;
		while ((pid = sys_wait4(-1, &status, WNOHANG, NULL)) > 0)
			if (pid == g->second)
				return;
		if (pid == -ECHILD || sys_kill(g->second, 0) < 0)
			return;
		sys_nanosleep(&pause);
	}
}

/* The keeper's last act takes the kernel as long as its mounts take to dismantle. The layer's removal goes on beside it;
 * then it is waited for, so that no zombie is left to a pid 1 that may not care (in an outer container), but not for
 * ever: a file server that is gone must not hold the payload's status back. */
static void wait_for_keeper(struct guard *g)
{
	struct pollfd p = { .fd = g->signals, .events = POLLIN };
	struct signalfd_siginfo s[16];
	const uint64_t until = now_us() + PATIENCE;

	for (guard_reap(g); !g->reaped; guard_reap(g)) {
		uint64_t now = now_us();
		if (now >= until)
			return;
		ktimespec t = { 0, (int64_t)(until - now) * 1000 };
		sys_ppoll(&p, 1, &t, NULL);
		sys_read(g->signals, s, sizeof s);
	}
}

static int command_run(const char *fd_text, char **envp)
{
	static struct guard g = { .socket = -1, .report = -1, .upward = -1, .gate = { .listening = -1, .fd = -1 }, .tty = { .master = -1 } };
	sigmask all = ALL_SIGNALS;
	uint64_t fd;

	g.start = now_us();
	g.envp = envp;
	sys_sigprocmask(SIG_BLOCK, &all, NULL);
	const char *wrong = "no descriptor";
	if (parse_u64(fd_text, 10, &fd)) {
		wrong = plan_read((int)fd, &g.plan);
	} else if (fd_text[0] == '/') { /* as the init of a container that another runtime made */
		long opened = sys_open(fd_text, O_RDONLY | O_CLOEXEC, 0);
		wrong = opened < 0 ? "the plan cannot be opened" : plan_read((int)opened, &g.plan);
	}
	if (wrong)
		refuse(wrong);
	if (g.plan.through && (g.upward = (int)gate_enter(g.plan.through)) < 0)
		refuse("the guard outside cannot be reached from the container");
	if (g.plan.last_out >= 0)
		sys_fcntl(g.plan.last_out, F_SETFD, FD_CLOEXEC);
	if (g.plan.share >= 0)
		sys_fcntl(g.plan.share, F_SETFD, FD_CLOEXEC);
	for (size_t i = 0; i < MAX_HOLD; i++)
		if (g.plan.hold[i] >= 0)
			sys_fcntl(g.plan.hold[i], F_SETFD, FD_CLOEXEC);
	normalise(&g);
	sys_prctl(PR_SET_NAME, (unsigned long)"udk", 0, 0, 0);
	sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	g.signals = (int)sys_signalfd(-1, &all, O_CLOEXEC | O_NONBLOCK);
	if (g.signals < 0)
		refuse("no signal descriptor: the system is out of file descriptors or memory");
	if (g.plan.timeout_ms)
		g.deadline = g.start + g.plan.timeout_ms * 1000;
	start(&g);
	guard_loop(&g);
	/* Without a pid namespace, what a killed watcher leaves is ours now. */
	if (!g.ended && g.keeper > 0 && !(g.plan.clone_flags & CLONE_NEWPID)) {
		leave_it_to_the_keeper(&g);
		long proc = sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
		if (proc >= 0)
			kill_container((int)proc, g.plan.cookie, !g.has_others);
	}
	tty_finish(&g.tty);
	if (g.plan.gate)
		conclude_gate(&g);
	guard_read_report(&g);
	conclude(&g);
	struct outcome *o = &g.outcome;
	if (g.upward >= 0) {
		if (o->failure.class && !o->ran)
			message_send(g.upward, MSG_FAILED, (int)o->failure.class, o->failure.text, strlen(o->failure.text) + 1, -1);
		else if (g.ended)
			message_send(g.upward, MSG_ENDED, g.status, &o->usage, sizeof o->usage, -1);
	}
	const bool again = o->failure.class == FAIL_ENGINE && !o->ran && g.plan.n_fallback > 1;
	clean_up(&g, again);
	if (g.keeper > 0)
		wait_for_keeper(&g);
	if (again) {
		fall_back(&g);
		clean_up(&g, false);
	}
	if (o->failure.class && !o->ran && g.upward < 0)
		say(2, "udk: error: %s\n", o->failure.text);
	if (g.plan.stats && report_outcome(g.plan.stats, o) < 0 && o->status == 0)
		say(2, "udk: error: %s: the stats file cannot be written\n", g.plan.stats);
	return o->status;
}

static int command_remove(const char *fd_text, char **envp)
{
	static struct plan plan;
	struct failure f;
	uint64_t fd;
	const char *wrong = parse_u64(fd_text, 10, &fd) ? plan_read((int)fd, &plan) : "no descriptor";

	if (wrong)
		refuse(wrong);
	if (!userns_remove(&plan, envp, &f))
		refuse(f.text);
	return 0;
}

static int command_kill(const char *cookie)
{
	long proc = sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (proc < 0)
		refuse("/proc is not mounted");
	kill_container((int)proc, cookie, false);
	return 0;
}

int main(int argc, char **argv, char **envp)
{
	if (argc >= 3 && str_eq(argv[1], "run"))
		return command_run(argv[2], envp);
	if (argc == 2 && str_eq(argv[1], "landlock"))
		return (int)MIN(landlock_abi(), 100U);
	if (argc == 3 && str_eq(argv[1], "remove"))
		return command_remove(argv[2], envp);
	if (argc == 3 && str_eq(argv[1], "kill") && argv[2][0])
		return command_kill(argv[2]);
	refuse("udk-guard is started by udk, not by hand");
}
