/* The guard while its container runs. */
#ifndef UDK_GUARD_RUNNING_H
#define UDK_GUARD_RUNNING_H

#include "guard/guard.h"

struct guard {
	struct plan plan;
	char **envp;
	int socket, signals;
	int keeper; /* our child: the keeper or, without a pid namespace, the watcher */
	int second; /* the keeper below a watcher, 0 while unknown */
	bool starting, started, ended, reaped;
	int status;      /* the payload's wait status; the keeper's own where it ended before it could tell */
	bool has_others; /* children that this process had before it became the guard: the caller's affair */
	sigmask ending;  /* signals that end us while there is no payload: those of TERM, INT, HUP, QUIT not ignored */
	int aborted;     /* signal that came before the payload was there */
	uint64_t start, deadline, kill_at; /* us; 0: none */
	struct tty tty;
	struct gate gate;
	int report; /* on which the program that starts the payload says why it does not; -1: it did, or there is none */
	int upward; /* to the guard outside, whose container's init we are, or -1 */
	struct outcome outcome;
};

enum { PATIENCE = 999999 /* us, for what was asked to end */ };

/* loop.c: signals, messages, terminal and timers, until the payload has ended or the keeper is gone. */
void guard_loop(struct guard *g);
/* Why the engine's program does not start the payload, when that program has said it. */
void guard_read_report(struct guard *g);
void guard_kill_all(struct guard *g);
void guard_gate_messages(struct guard *g); /* of the init in another runtime's container */
void guard_reap(struct guard *g);          /* notes whether the keeper, or watcher, has ended */

#endif
