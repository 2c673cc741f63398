/* The guard and its keeper.
 *
 *   guard   the process that was udk: same pid, same parent, the caller's session, group and cgroup
 *    `- keeper   pid 1 of the container's pid namespace
 *        `- payload
 *
 * Without a pid namespace there is one process more, because SIGKILL may come to the whole process group (as batch systems
 * do), while a daemon of the payload's has left it: a watcher, a subreaper in a session of its own.
 *
 *   guard - watcher - keeper - payload
 *
 * They share a socket pair. Each notices the others' death by it (and by the parent-death signal), so that a SIGKILL of any
 * of them ends the container.
 */
#ifndef UDK_GUARD_H
#define UDK_GUARD_H

#include "guard/failure.h"
#include "guard/plan.h"

enum message_kind {
	/* guard -> keeper */
	MSG_GO = 1,  /* the ids are mapped */
	MSG_SIGNAL,  /* value: send this signal to the payload */
	/* keeper -> guard */
	MSG_FAILED,  /* value: failure class; text */
	MSG_TTY,     /* comes with the terminal's master descriptor */
	MSG_STARTING, /* the set-up is done, the payload may run from now on; value: the keeper's pid below a watcher */
	MSG_STARTED, /* the payload's exec has happened */
	MSG_STOPPED, /* value: signal by which the payload was stopped */
	MSG_ENDED,   /* value: wait status of the payload; usage. All other processes are dead */
	/* guard -> the init of another runtime's container, which answers with FAILED, STOPPED, ENDED; see gate.c */
	MSG_STREAMS,
};

struct message {
	int kind, value;
	union {
		char text[1000];
		struct rusage usage; /* of all processes of the container */
	};
};

/* Sockets keep message boundaries; data may be NULL, fd is passed along when >= 0. */
long message_send(int socket, int kind, int value, const void *data, size_t n, int fd);
/* > 0: a message; 0: the other side is gone; -EAGAIN: nothing now. *fd is -1 or a descriptor received. */
long message_receive(int socket, struct message *m, int *fd, bool wait);

/* keeper.c: never returns. clone() put it into the plan's namespaces. */
NORETURN void keeper_main(struct plan *plan, int socket);

/* payload.c: never returns; failures go to the guard through the socket. */
struct handover {
	int socket, tty;      /* tty: the terminal's slave, or -1 */
	unsigned umask;
	struct rlimit64 files; /* RLIMIT_NOFILE as the caller had it */
	bool pid_namespace, shares_terminal;
	struct join *join;
	int loader; /* opened, or -1 */
};
NORETURN void payload_main(struct plan *plan, const struct handover *h);

/* Closes every descriptor but those kept (-1: none), so that whoever waits for the end of a pipe that the payload had
 * from its caller sees it when the payload closes it, and nothing of the set-up stays open. */
void close_all_but(const int *keep, size_t n);

/* processes.c: kills, and waits for, every descendant of this process (a subreaper), if asked to, and every process whose
 * environment holds UDK_COOKIE=cookie, if not NULL, with its descendants. proc: a descriptor of the host's /proc. */
void kill_container(int proc, const char *cookie, bool descendants);

/* remove.c: removes a tree that nothing else uses any more, whatever its modes. 0, or the first error. */
long remove_tree(const char *path);

/* tty.c: the relay between the caller's terminal and the container's. */
struct tty {
	int master;         /* -1 when there is none (any more) */
	bool raw, eof, broken;
	size_t n_in, n_out; /* bytes waiting in the buffers */
	char in[4096], out[4096];
};
bool tty_open(int *master, int *slave, struct failure *f); /* in the container */
void tty_attach(struct tty *t, int master);                /* in the guard */
void tty_raw(struct tty *t);
void tty_resize(const struct tty *t);
size_t tty_poll(const struct tty *t, struct pollfd *p);    /* fills in up to three entries */
void tty_relay(struct tty *t);
void tty_finish(struct tty *t); /* what is left of the output, then the terminal as it was */

/* filter.c: a payload that shares its caller's terminal could type into it (TIOCSTI), and the caller's shell would
 * execute that when udk is gone. The filter refuses just this; it is installed only where there is a terminal. */
bool has_terminal(void); /* on the host, before any namespace is entered */
long forbid_typing(void);

/* gate.c: for a payload that another runtime starts. */
enum { MAX_PENDING = 32 };
struct gate {
	int listening, fd; /* -1: not */
	bool passed;       /* the init is there and has the caller's streams */
	bool ended;        /* it has said how the payload ended: status, usage */
	int status;
	struct rusage usage;
	int pending[MAX_PENDING], n_pending; /* signals that came before */
};
long gate_listen(struct gate *g, const char *path);
long gate_accept(struct gate *g, const struct plan *p);
long gate_enter(const char *path);
long gate_silence(const char *log);
void gate_failure(const char *program, const char *log, int status, struct failure *f);

/* confine.c: what a confined payload can reach from now on, and what its kernel can do about it (docs/security.md). Needs
 * no_new_privs, or to be root of the user namespace. tty: the payload's own terminal, or -1. */
bool confine(const struct plan *plan, int tty, struct failure *f);
/* Just before exec: nothing that was inherited stays open but 0, 1, 2 and what the program needs. */
bool confine_descriptors(const struct plan *plan, struct failure *f);
/* The version of the kernel's Landlock; 0 when there is none. */
unsigned landlock_abi(void);

/* report.c */
struct outcome {
	int status; /* exit status of udk */
	int signal; /* that ended the payload, or 0 */
	bool timed_out, core, ran;
	uint64_t wall_us;
	struct rusage usage;
	struct failure failure;
};
long report_outcome(const char *path, const struct outcome *o);

uint64_t now_us(void);

/* How long (us) those who survive leave the end of the container to the keeper, when another of them was killed: it is at
 * it, too, and at every moment one of them shall be, whoever else is killed. */
enum { GRACE = 300000 };

#endif
