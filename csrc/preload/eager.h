/* The preload engine's part of the trap program: calls are redirected by changed code instead of a seccomp filter. */
#ifndef UDK_PRELOAD_EAGER_H
#define UDK_PRELOAD_EAGER_H

#include "preload/code.h"
#include "trap/trap.h"

#define PKEY_MPROTECT 329
#define KEEP_AFTER 32 /* so many programs of a container: then looking through a C library pays, which costs as much as 300 starts save */
#define MAP_DENYWRITE_ 0x800 /* what the loader of glibc maps a file with, from its start on, for all of its extent */
#define SHADOW_STACK 0x5001 /* ARCH_SHSTK_ENABLE: user shadow stacks, which our way back would break */

extern uint8_t call_verdicts[VERDICTS];
extern struct notes **eager_notes; /* where the core has them, for the assembler */
extern char eager_known[], eager_unknown[];

/* Only AF_UNIX sockets, even for code that is made at run time. 0 or -errno where the node has no seccomp. */
long network_filter(bool i386);
/* After the plan is there. */
void eager_start(void);
/* What changed code is made for: this program, which may be newer than the container, and what it answers. */
uint64_t build_of_code(void);
const struct entry *eager_entry_of(long nr); /* NULL: as without a filter's absence */
/* SIGILL at one of our sites: true when it was one. */
int on_undefined(struct frame *f); /* 0: not ours; 1: a call for `answer`; 2: done, the frame goes on elsewhere */
/* Tries it in this process, on a page of its own: 0 when it works. */
int eager_probe(void);
/* Is the program, which has no interpreter, no loader either? It is refused then. */
bool is_static(struct call *c);

/* ---- map.c */

/* [at, at+n) was mapped from offset `off` of the file, or holds code otherwise (fd < 0). 0 or -errno. */
long code_mapped(unsigned long at, size_t n, int fd, uint64_t off, int prot);
/* Memory holds code and is to have this protection. */
long memory_made_executable(unsigned long at, size_t n, int prot);
/* Maps it, at a fixed address; the address or -errno. */
long code_map(unsigned long at, size_t n, int fd, uint64_t off, int prot, int flags);
/* Maps a file from its start on, where a loader begins with one; the address or -errno. *changed: its code is all there,
 * with PROT_READ and PROT_EXEC. */
long code_place(unsigned long hint, size_t n, int fd, int prot, int flags, bool *changed);
/* The guest's; nr: mprotect or pkey_mprotect. */
long eager_mmap(const unsigned long a[6]);
long eager_mprotect(long nr, const unsigned long a[6]);
/* The real call that stands for the one at pc: its address. 0: a foreign one; -1: none is known. */
long trapped_at(unsigned long pc);

#endif
