/* The ptrace engine: a tracer sends each call that is to be translated to the handler that lies in the guest's own
 * process, by moving its instruction pointer there. What the handler does is the trap engine's; there is no second
 * translation of paths. docs/adr/ptrace-engine.md has the reasons.
 *
 * With a seccomp filter (P1) only such calls stop, once each. Without one (P2) every call stops at its entry and its
 * exit; inside of the handler none does, and the handler says when it is done.
 */
#ifndef UDK_PTRACE_H
#define UDK_PTRACE_H

#include "trap/trap.h"

/* Makes a process that traces this one and all of its descendants; 0 or -errno. Afterwards *every may be set: whether
 * a filter is refused is known only when there is a tracer. */
long tracer_start(volatile int **every);

/* From here on every call of this thread stops again (P2): the last thing that a handler or the loader does. */
void step_out(void);
struct compat_frame;
void step_out_of(const struct compat_frame *f); /* the thread goes on there, as the tracer sets it */

/* Where the tracer sends a thread. x86_64: rcx is where to return to, r11 the call's number or the error, all else is the
 * guest's. aarch64: four words were pushed, see entry.c; the error is one of them. */
extern char traced_entry[], traced_error[];

#define STEP_OUT_CODE (-0x5a5) /* si_code of the signal by which step_out tells the tracer */
struct stepping { /* that siginfo */
	int signo, error, code, pad, pid, uid;
	const volatile int *value;
	const struct compat_frame *frame;
	char rest[88]; /* the kernel knows no more of it than 48 bytes, and refuses what is behind */
};
_Static_assert(sizeof(struct stepping) == 128, "the kernel's size");

#endif
