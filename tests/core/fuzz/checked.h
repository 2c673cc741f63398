/* Between the core and the kernel, in the fuzzers: no call may touch what is not the container's. */
#ifndef CHECKED_H
#define CHECKED_H

#include "hosted.h"

#define MAX_TREES 16

struct checked {
	bool on;             /* off: calls pass */
	bool walks;          /* the kernel finds the paths: nothing is judged */
	const char *secrets; /* a directory around the trees, of which nothing else may be seen; without a last slash */
	struct {
		const char *path; /* its host path */
		bool fixed;       /* may not be changed */
		bool links;       /* its links are ours, and followed on purpose */
	} trees[MAX_TREES];
	int n_trees;
	long kills;               /* whom the guest itself sends a signal to, if to one */
	int old_proc;             /* a process number whose /proc is a tree of ours, `proc` */
	const char *proc;
	/* Failures to come: the call that is `fail_at` calls away gets `fail_with`, then every `fail_every`th. */
	unsigned fail_at, fail_every;
	long fail_with;
	unsigned lacks;           /* what this kernel or file system does not have; see checked.c */
	/* Makes a call itself: true. */
	bool (*instead)(long nr, const long *a, long *result);
	unsigned long calls, changes; /* made since they were set to 0 */
};
extern struct checked checked;
extern void (*before_end)(void); /* a finding is to be written where the fuzzer was started */
NORETURN void finding(void);
long checked_raw(long nr, const long *a); /* a call that nobody looks at */

enum lacks { NO_RENAMEAT2 = 1, NO_COPY_RANGE = 2, NO_MEMFD = 4, NO_XATTR = 8, NO_WHITEOUT = 16, NO_EMPTY_PATH = 32, NO_SENDFILE = 64,
	     NO_STATX = 128 };

#endif
