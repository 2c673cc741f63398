/* The plan: what one container is, in a file that every process of it maps, and what its processes remember together. */
#ifndef UDK_CORE_PLAN_H
#define UDK_CORE_PLAN_H

#include "sys/sys.h"

/* Where a front end that lives in the guest's address space is. Code, plan and the beginning of the data lie in one piece
 * of 2 MiB, for which the kernel needs one page table, and makes another with each fork. */
#define ENGINE_BASE 0x7e9000000000UL
#define TEXT_SIZE 0x00040000U                     /* code and constants: see trap/layout.ld */
#define PLAN_AT (ENGINE_BASE + TEXT_SIZE + 0x3000U) /* in the middle of a window, see struct plan */
#define DATA_AT (ENGINE_BASE + 0x001e0000UL)      /* the guest's brk may follow it */
#define ENGINE_END (ENGINE_BASE + 0x00a00000UL)
#define ENGINE_LOW (ENGINE_BASE - 0x08000000UL)   /* what few programs need: below, out of brk's way */
#define CHANGES_AT (ENGINE_LOW + 0x02000000UL)
#define INDEX_ROOM 0x40000000UL
#define INDEX_AT (ENGINE_LOW - INDEX_ROOM)
/* Where the kernel refuses to be told what the running program is: its first page, whose name /proc/PID/maps tells others. */
#define EXE_MARK (ENGINE_LOW + 0x07000000UL)

#define MAX_MOUNTS 128
#define MAX_GROUPS 64

enum mount_flags {
	MOUNT_RO = 1,
	MOUNT_FILE = 2,   /* the target is not a directory */
	MOUNT_UNION = 4,  /* the root, when it has an upper and a lower */
	MOUNT_PROC = 8,   /* /proc of the host, shown as the guest should see it */
	MOUNT_CACHE = 16, /* changed by this container only: resolutions may be kept; else briefly, but for /proc */
};

struct mount {
	uint32_t guest, host, lower;             /* offsets of strings in the plan; host is the upper of a union */
	uint16_t guest_len, host_len, lower_len; /* none ends with a slash */
	uint16_t flags;
};

enum plan_options {
	OPT_PATCH = 1,       /* rewrite hot system-call sites */
	OPT_FAST_RETURN = 2, /* leave the SIGSYS handler without rt_sigreturn */
	OPT_FAKE_ROOT = 4,   /* privileged calls of guest root succeed */
	OPT_OWNERS = 8,      /* stat shows the record's owners and modes */
	OPT_WHITEOUT_FILE = 16, /* whiteouts are .wh.NAME files: the upper's file system refuses 0:0 devices */
	OPT_RECORD_BY_PATH = 32, /* too many record entries for an index by inode */
	OPT_NO_NETWORK = 64,
	OPT_EAGER = 256, /* preload: calls are redirected by changed code, there is no filter */
	OPT_PTRACE = 512,      /* calls come by a tracer */
	OPT_EVERY_CALL = 1024, /* which stops at every one: there is no filter */
	OPT_ONLY_FILTER = 4096, /* never so: without a filter it is an error */
	OPT_SIGNALS = 2048,    /* calls come by a signal, which the guest must not see */
	OPT_I386 = 8192,    /* 32-bit programs run here, in this engine */
	OPT_LINUX32 = 16384, /* and the image is of such: uname says so */
	OPT_NOEXEC = 128, /* some tree is on a noexec mount: map code by copying it */
	OPT_IDENTITY = 1 << 16, /* identity.c: paths are the kernel's, in namespaces of the guest's own */
	OPT_XINO = 1 << 17, /* with it: inodes of the lower have their highest bit set */
	OPT_KEPT = 1 << 18, /* trap: the C library and its loader come changed, as preload has them */
};

#define LOWER_BIT ((uint64_t)1 << 63) /* of inodes: OPT_XINO */

#define PLAN_MAGIC 0x364e414c504b4455ULL /* "UDKPLAN6" */
#define PLAN_STRINGS (60 * 1024)
#define CACHE_TEXT 208
#define DIR_CACHE 2048
#define FD_CACHE 1024
#define CACHED (DIR_CACHE + FD_CACHE)
#define BLOOM_WORDS 1024
#define OWNED_WORDS 2048
#define LOWER_OWNERS 8192   /* slots; at most half of them used */
#define CHANGE_OWNERS 262144
#define FILTER_ARENA (256 * 1024)
#define SETGID_WORDS 64
#define RUNNING 256

/* One remembered directory. Written under an odd `seq`, so that a reader of any process sees a torn entry. */
struct cached {
	uint32_t seq, generation;
	uint64_t key1, key2; /* hash of the text and its length, or device and inode */
	uint16_t key_len, len;
	uint8_t mount, kind, mounts_inside, layer; /* the last: of the directory itself, by device and inode */
	uint32_t dir;  /* its number in the index */
	uint32_t made; /* in ticks: where others make changes, too, it holds for BRIEF; 0: no limit */
	char text[CACHE_TEXT]; /* key (for the cache by text), then the canonical path */
};

/* What the disk does not show of one inode. `ino` is set last; 0 is a free slot. */
struct owner {
	uint64_t ino, dev; /* dev 0: the upper's file system */
	uint64_t birth;    /* so that a reused inode is not mistaken; 0 unknown */
	uint64_t origin;   /* inode of the lower file that this one was copied from, or 0 */
	uint32_t flags, uid, gid, mode, rdev;
	uint32_t spare[3];
};
enum {
	OWNER_SET = 1,
	OWNER_MODE = 2,
	OWNER_GONE = 4,
	OWNER_DEAD = 8, /* the last name is gone: holds for who has the file open */
	OWNER_BITS = 0xff,
	OWNER_TURN = 0x100, /* the rest counts the files that this entry was for */
};

struct changes { /* the record of changes: a file of its own, kept with a named container's upper */
	char magic[8]; /* "UDKCHG\0\1" */
	uint64_t slots;
	volatile uint64_t used;
	uint64_t seen_by_overlay; /* overlayfs was, or is, mounted on this upper */
	uint64_t spare[4];
	struct owner owners[CHANGE_OWNERS];
};

struct plan {
	char strings[PLAN_STRINGS]; /* from its end on: what most calls look at is together, see below; 0 is none */
	uint64_t magic;
	uint32_t size, options;
	uint32_t n_mounts, n_groups;
	uint32_t uid, gid;           /* the guest's at start */
	uint32_t groups[MAX_GROUPS];
	uint32_t host_uid, host_gid; /* the caller's */
	uint32_t lower_uid;          /* owner of the lower tree */
	uint64_t loader_dev, loader_ino; /* identity: the engine's own file */
	uint32_t lower_fd, record_fd; /* identity: descriptors at the start, 0 for none */
	uint64_t upper_dev, lower_dev, root_ino[2]; /* of the root directory, and of the lower one */
	int64_t lower_ctime[2];
	uint32_t loader, state, work, changes, record, hostname, sockets, cwd, code, emulator, ldconfig, index; /* strings */
	uint32_t report;  /* descriptor on which the guard is told why nothing is executed; 0: none */
	uint32_t machine; /* e_machine of what the emulator runs; 0: there is none */
	uint32_t strings_used;
	struct mount mounts[MAX_MOUNTS];

	/* Shared state from here on. What most calls look at is together, because each process faults it in anew, and what
	 * one fault brings are 64 KiB: in most containers there are few strings, and little is remembered, so the last bytes of
	 * the strings and the first entries of the cache are there, too. */
	volatile uint32_t generation __attribute__((aligned(4096))); /* of every remembered resolution */
	volatile uint32_t counter;                                   /* for names of temporary files */
	volatile uint32_t lower_owners_used;
	volatile uint32_t any_changes; /* the record of changes has entries: without any it is not even mapped */
	volatile uint32_t filters_used;
	volatile uint32_t ready; /* all of this is filled in: commands may join */
	volatile uint32_t deep; /* directories too deep for a path may be remembered: see changed_above */
	volatile uint32_t starts; /* of programs, counted up to KEEP_AFTER (preload/map.c) */
	volatile uint64_t births __attribute__((aligned(64))); /* bits: files that are made just now, whose owner is not on record yet */
	volatile uint32_t birth_turns[64]; /* by bit: counts whose it was */
	char nodename[65];                    /* that the guest set; empty: none */
	volatile uint64_t build;              /* of changed code: the verdicts, as a hash; 0: they are not there yet */
	uint8_t verdicts[512];
	volatile uint64_t clean[512];         /* hashes of files in whose code nothing is to be changed */
	volatile uint64_t owned[OWNED_WORDS]; /* bits: inodes that may have an entry in one of the records */
	struct { volatile uint64_t path; volatile int32_t pid; } running[RUNNING]; /* programs that could be written to */
	volatile uint64_t setgid[SETGID_WORDS]; /* hashes of paths that may be directories with the set-group-id bit */
	volatile uint64_t bloom[BLOOM_WORDS]; /* names that a remembered resolution went through */
	volatile uint16_t dirs[DIR_CACHE];    /* by text: 1 + the entry's number; 0: none yet */
	volatile uint16_t fds[FD_CACHE];      /* by device and inode */
	volatile uint32_t cached_used;
	struct cached cached[CACHED];         /* given out in turn; whose place an entry is in the tables it stays */
	struct owner lower_owners[LOWER_OWNERS];
	char filters[FILTER_ARENA]; /* the guest's own seccomp programs */
};

#define FAULT_WINDOW 65536
_Static_assert((PLAN_AT + offsetof(struct plan, magic) - 4096) / FAULT_WINDOW == (PLAN_AT + offsetof(struct plan, cached) + 4096) / FAULT_WINDOW,
	       "the ends of the strings, the header, the tables and the first entries are in one window");

#endif
