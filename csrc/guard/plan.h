/* The plan: everything the guard and the namespace launcher are told, as typed operations.
 *
 * On the wire it is a sequence of NUL-terminated strings in a file the guard inherits: "udk-plan", "1", then
 * operations, each a name followed by as many arguments as its kind has. Python compiles it (udk/engines/plan.py),
 * the guard checks all of it before it touches anything, and whoever executes an operation never sees its text again.
 * docs/adr/guard-protocol.md describes every operation.
 */
#ifndef UDK_PLAN_H
#define UDK_PLAN_H

#include "sys/sys.h"

/* An operation that the launcher executes, in order. */
enum op_kind {
	OP_BIND,     /* source target flags(r read-only, o optional, d source is a directory) */
	OP_FILE,     /* content target flags(r) */
	OP_TMPFS,    /* target options flags(r, n noexec) */
	OP_DEV,      /* target */
	OP_SHM,      /* target options */
	OP_DEVPTS,   /* target */
	OP_PROC,     /* target */
	OP_SYS,      /* target */
	OP_BINFMT,   /* target rule: binfmt_misc there, and one rule in it */
	OP_DIR,      /* target: is made where missing */
	OP_TOUCH,    /* target: an empty file is made where there is nothing */
	OP_OWNER,    /* path uid gid mode(octal) */
	OP_READONLY, /* the root becomes read-only */
};

struct op {
	enum op_kind kind;
	const char *arg[4];
};

/* A file or directory that stays reachable under Landlock. */
struct reach {
	const char *path, *rights; /* letters: r read, l list only, x execute, w write and create, i ioctl of devices, o may be missing */
};

/* What `confine` asks for; confine.c does it. */
enum confine_flags {
	CONFINE_CALLS = 1,   /* a: no foreign system-call architectures, no io_uring */
	CONFINE_UNIX = 2,    /* u: no AF_UNIX socket that could be connected to a pathname */
	CONFINE_NETWORK = 4, /* n: no socket of another family */
	CONFINE_FDS = 8,     /* d: no inherited descriptors but 0, 1, 2, and no directory among those */
	CONFINE_CLOSE = 16,  /* c: no inherited descriptors but 0, 1, 2 */
};
enum landlock_flags {
	LANDLOCK_FILES = 1,    /* f: files, by the paths of landlock-path; without Landlock the run is refused */
	LANDLOCK_TCP = 2,      /* n: no TCP, where the kernel can */
	LANDLOCK_ABSTRACT = 4, /* a: no abstract sockets of processes outside, where the kernel can */
	LANDLOCK_SIGNALS = 8,  /* s: no signals to processes outside, where the kernel can */
};

struct id_map {
	uint32_t inside, outside, count;
};

enum { MAX_LOWER = 256, MAX_MAPS = 32, MAX_LIMITS = 32, MAX_GROUPS = 256, MAX_KEPT = 16, MAX_HOLD = 2 };

struct plan {
	/* the payload */
	char **argv, **env;
	const char *program; /* host path to execute instead of looking argv[0] up in the guest's PATH, or NULL */
	const char *cwd;
	const char *loader;    /* host path of the program that starts the payload, whose argv begins after loader_words */
	size_t loader_words;
	int anchor_of;         /* of who joins: the keeper (the host's number) whose directory it takes along; 0: none */
	const char *anchor_state; /* where the state is in it */
	const char *anchor;    /* directory that is the keeper's, and so reachable by processes of the container, or NULL */
	bool null_stdin, tty;
	struct {
		int what;
		uint64_t soft, hard;
	} limits[MAX_LIMITS];
	size_t n_limits;
	sigmask signals;       /* the caller's signal mask */
	sigmask default_signals; /* signals whose disposition goes back to the default */
	sigmask ignored_signals; /* that the caller ignored, and the guard could not (not from the plan) */
	bool new_privileges;   /* the payload may gain privileges by exec (subordinate ids only) */
	bool set_ids;          /* uid, gid and groups are to be set (else the mapping already shows them) */
	uint32_t uid, gid, groups[MAX_GROUPS];
	size_t n_groups;
	unsigned confine, landlock; /* enum confine_flags, landlock_flags */
	unsigned landlock_abi; /* the newest to be used */
	struct reach *reach;
	size_t n_reach;
	int kept[MAX_KEPT]; /* descriptors that CONFINE_FDS spares: the program's own */
	size_t n_kept;
	uint64_t keep_caps; /* what stays in the bounding set of a payload in a user namespace of its own */

	/* the guard */
	const char *cookie; /* value of UDK_COOKIE in the payload's environment, or NULL */
	uint64_t timeout_ms, kill_after_ms;
	int stop_signal;
	const char *stats; /* path of a JSON file, or NULL */
	char **remove, **unlink, **fallback;
	size_t n_remove, n_unlink, n_fallback, n_argv, n_env;

	/* the namespaces */
	unsigned long clone_flags; /* CLONE_NEW*; 0: no namespaces of our own */
	struct id_map uids[MAX_MAPS], gids[MAX_MAPS];
	size_t n_uids, n_gids;
	const char *map_tool_uid, *map_tool_gid; /* newuidmap and newgidmap, or NULL: the map is self-written */
	const char *lower[MAX_LOWER];
	size_t n_lower;
	const char *upper, *work; /* NULL: memory */
	bool volatile_upper, plain_root; /* plain: upper is the whole root */
	const char *hostname;
	bool loopback, dry, xino; /* xino: inodes of the lower layer are marked, see core/identity.c */
	/* A file that everybody holds a shared lock on who joins the container (`share`, or -1): the end of the payload is the
	 * container's when there is none (`last_out`, or -1). */
	int last_out, share;
	int hold[MAX_HOLD]; /* locks of the state's directories: kept until this process ends, or -1 */
	/* The number at which `program` has a pipe, closed on exec, to say why it does not come to the payload; or -1. */
	int report;
	int report_pipe; /* its end for writing, made by the guard (not from the plan) */
	int join; /* pid whose namespaces are entered, or 0 */
	/* For another runtime that is to run on a root made here: the root is put at stage, a directory of the host, and the
	 * host's root is kept; over_source is bound to over_target there, when both exist. NULL: none. */
	/* Where the init in its container finds us, and where its own output goes; the init's end of the same. */
	const char *gate, *gate_log, *through;
	const char *stage, *over_source, *over_target;
	struct op *ops;
	size_t n_ops;
};

/* Reads the plan from fd (a regular file or memfd) and closes it. Returns NULL, or what is wrong with it. */
const char *plan_read(int fd, struct plan *plan);

#endif
