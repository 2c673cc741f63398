/* What the guard does while the container runs: it hands on signals, hears what the keeper says, ends what lasts too
 * long.
 */
#include "guard/running.h"
#include <linux/signalfd.h>

static void to_payload(struct guard *g, int sig)
{
	if (!g->plan.gate)
		message_send(g->socket, MSG_SIGNAL, sig, NULL, 0, -1);
	else if (g->gate.fd >= 0)
		message_send(g->gate.fd, MSG_SIGNAL, sig, NULL, 0, -1);
	else if (!g->gate.passed && g->gate.n_pending < MAX_PENDING)
		g->gate.pending[g->gate.n_pending++] = sig;
}

/* Ends everything: pid 1's death is the whole namespace's; without one the keeper's orphans become ours. */
void guard_kill_all(struct guard *g)
{
	sys_kill(g->keeper, SIGKILL);
}

/* As the terminal's driver would have stopped us, so that the shell that started udk gets its prompt back. */
static void stop_ourselves(int sig)
{
	sigmask bit = SIGBIT(sig), old;

	sys_signal_default(sig, false);
	sys_kill((int)sys_getpid(), sig);
	sys_sigprocmask(SIG_UNBLOCK, &bit, &old);
	sys_sigprocmask(SIG_SETMASK, &old, NULL);
}

static void on_signal(struct guard *g, int sig, int code)
{
	bool ends = sig > 0 && sig <= 64 && g->ending & SIGBIT(sig);

	if (sig == SIGCHLD)
		return;
	if (g->plan.tty && (sig == SIGWINCH || sig == SIGCONT)) {
		if (sig == SIGCONT && g->tty.master >= 0)
			tty_raw(&g->tty); /* a shell may have changed it meanwhile, or we were in the background */
		tty_resize(&g->tty);
		if (sig == SIGWINCH)
			return; /* the container's terminal tells the payload itself */
	}
	if (ends && (g->plan.gate ? !g->gate.passed : !g->started)) {
		g->aborted = sig;
		if (!g->starting || g->plan.gate) {
			guard_kill_all(g);
			return;
		}
		/* The payload's exec may hang (a dead file server): then there is nobody to wait for. */
		g->kill_at = now_us() + PATIENCE;
	}
	/* The kernel sends a terminal's signals to the whole process group: the payload has them already. With a terminal
	 * of its own it is in another session, and what reaches us is for it. */
	if (code > 0 && !g->plan.tty && !g->plan.gate)
		return;
	to_payload(g, sig);
}

/* Whoever waits for the end of the payload's streams is not to wait for us. */
static void close_streams(struct guard *g)
{
	int streams = g->plan.tty ? 0 : -1, output = g->plan.tty ? 1 : -1;

	close_all_but((const int[]){ streams, output, 2, g->socket, g->signals, g->tty.master, g->upward, g->plan.last_out, g->plan.share,
				    g->plan.hold[0], g->plan.hold[1] }, 11);
}

/* The end of it: the payload has been executed. */
void guard_read_report(struct guard *g)
{
	struct outcome *o = &g->outcome;
	char text[sizeof o->failure.text];
	long n = g->report < 0 ? -EBADF : sys_read(g->report, text, sizeof text - 1);

	if (n == -EAGAIN || n == -EINTR || n == -EBADF)
		return;
	sys_close(g->report);
	g->report = -1;
	if (n > 0) {
		text[n] = 0;
		fail(&o->failure, FAIL_ENGINE, "%s", text);
		o->ran = false;
	} else if (o->ran) {
		close_streams(g);
	}
}

static void on_message(struct guard *g, const struct message *m, int fd)
{
	switch (m->kind) {
	case MSG_FAILED:
		g->outcome.failure.class = (enum failure_class)m->value;
		g->outcome.ran = false; /* also where vfork is but a fork, and STARTED came first */
		str_copy(g->outcome.failure.text, m->text, sizeof g->outcome.failure.text);
		break;
	case MSG_TTY:
		tty_attach(&g->tty, fd);
		break;
	case MSG_STARTING:
		g->starting = true;
		if (!(g->plan.clone_flags & CLONE_NEWPID))
			g->second = m->value;
		break;
	case MSG_STARTED:
		g->started = true;
		if (g->aborted && g->kill_at && !g->plan.gate) { /* else the keeper is killed, and was only too quick */
			g->aborted = 0;
			g->kill_at = 0;
		}
		g->outcome.ran = !g->outcome.failure.class && !g->plan.gate;
		if (g->outcome.ran && g->report < 0)
			close_streams(g);
		else if (g->outcome.ran)
			close_all_but((const int[]){ 0, 1, 2, g->socket, g->signals, g->tty.master, g->plan.last_out, g->plan.share, g->report,
					    g->plan.hold[0], g->plan.hold[1] }, 11);
		break;
	case MSG_STOPPED:
		if (g->upward >= 0)
			message_send(g->upward, MSG_STOPPED, m->value, NULL, 0, -1);
		else if (!g->plan.gate && !g->plan.tty && (m->value == SIGTSTP || m->value == SIGTTIN || m->value == SIGTTOU))
			stop_ourselves(m->value);
		break;
	case MSG_ENDED:
		g->ended = true;
		g->status = m->value;
		g->outcome.usage = m->usage;
		break;
	}
}

static void messages(struct guard *g)
{
	struct message m;
	int fd;

	while (g->socket >= 0) {
		long r = message_receive(g->socket, &m, &fd, false);
		if (r == -EAGAIN)
			return;
		if (r <= 0) {
			sys_close(g->socket);
			g->socket = -1;
			return;
		}
		on_message(g, &m, fd);
	}
}

/* What the init of the other runtime's container says. */
void guard_gate_messages(struct guard *g)
{
	struct gate *gate = &g->gate;
	struct message m;
	int fd;

	if (gate->listening >= 0 && gate_accept(gate, &g->plan) >= 0) {
		g->outcome.ran = true;
		close_all_but((const int[]){ 2, g->socket, g->signals, gate->fd, g->plan.last_out, g->plan.share, g->plan.hold[0], g->plan.hold[1] }, 8);
	}
	while (gate->fd >= 0) {
		long r = message_receive(gate->fd, &m, &fd, false);
		if (r == -EAGAIN)
			return;
		if (r <= 0) {
			sys_close(gate->fd);
			gate->fd = -1;
			return;
		}
		if (m.kind == MSG_FAILED) {
			g->outcome.failure.class = (enum failure_class)m.value;
			g->outcome.ran = false;
			str_copy(g->outcome.failure.text, m.text, sizeof g->outcome.failure.text);
		} else if (m.kind == MSG_ENDED) {
			gate->ended = true;
			gate->status = m.value;
			gate->usage = m.usage;
		} else if (m.kind == MSG_STOPPED && (m.value == SIGTSTP || m.value == SIGTTIN || m.value == SIGTTOU)) {
			stop_ourselves(m.value);
		}
	}
}

/* What the guard outside says, whose container's init we are. */
static void upward_messages(struct guard *g)
{
	struct message m;
	int fd;

	while (g->upward >= 0) {
		long r = message_receive(g->upward, &m, &fd, false);
		if (r == -EAGAIN)
			return;
		if (r <= 0) { /* it is gone: so is its container */
			sys_close(g->upward);
			g->upward = -1;
			guard_kill_all(g);
			return;
		}
		if (m.kind == MSG_SIGNAL)
			on_signal(g, m.value, 0);
	}
}

void guard_reap(struct guard *g)
{
	struct rusage usage;
	int status;
	long pid;

	while ((pid = sys_wait4(-1, &status, WNOHANG, &usage)) > 0)
		if (pid == g->keeper) {
			g->reaped = true;
			if (!g->ended)
				g->status = status;
			if (!g->ended)
				g->outcome.usage = usage;
		}
}

static void timers(struct guard *g)
{
	uint64_t now = now_us();

	if (g->deadline && now >= g->deadline) {
		g->deadline = 0;
		g->outcome.timed_out = true;
		if (g->started && g->plan.kill_after_ms) {
			to_payload(g, g->plan.stop_signal);
			to_payload(g, SIGCONT); /* a stopped payload could not act on it */
			g->kill_at = now + g->plan.kill_after_ms * 1000;
		} else {
			guard_kill_all(g);
		}
	}
	if (g->kill_at && now >= g->kill_at) {
		g->kill_at = 0;
		guard_kill_all(g);
	}
}

static void wait_for_something(struct guard *g)
{
	struct pollfd p[7] = { { .fd = g->signals, .events = POLLIN }, { .fd = g->socket, .events = POLLIN },
			       { .fd = g->plan.gate ? MAX(g->gate.listening, g->gate.fd) : g->upward, .events = POLLIN },
			       { .fd = g->started ? g->report : -1, .events = POLLIN } };
	size_t n = 4 + tty_poll(&g->tty, p + 4);
	uint64_t next = g->deadline ? g->deadline : g->kill_at, now = next ? now_us() : 0;
	uint64_t wait = next > now ? next - now : 0;
	ktimespec t = { (int64_t)(wait / 1000000), (int64_t)(wait % 1000000) * 1000 };

	sys_ppoll(p, n, next ? &t : NULL, NULL);
}

void guard_loop(struct guard *g)
{
	struct signalfd_siginfo s[16];
	ssize n;

	while (!g->ended && !g->reaped) {
		bool child = false;
		wait_for_something(g);
		/* Signals are read before messages and acted on after them: what the keeper said before a signal was sent
		 * is then known when the signal is judged. */
		do {
			n = sys_read(g->signals, s, sizeof s);
			messages(g);
			if (g->started)
				guard_read_report(g);
			if (g->plan.gate)
				guard_gate_messages(g);
			for (ssize i = 0; i < n / (ssize)sizeof *s; i++) {
				child |= s[i].ssi_signo == SIGCHLD;
				on_signal(g, (int)s[i].ssi_signo, s[i].ssi_code);
			}
		} while (n == sizeof s);
		upward_messages(g);
		tty_relay(&g->tty);
		timers(g);
		if (child) {
			guard_reap(g);
			messages(g); /* its last words */
		}
	}
}
