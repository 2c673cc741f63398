/* The core: what a guest's system call means on the host.
 *
 * Guest paths are resolved as a chroot would resolve them, over a table of mounts and a path-level union of a
 * read-only lower tree with a writable upper directory; identities are answered from records. The core issues
 * host system calls itself and keeps no lock: it is re-entrant, so that it can run inside a signal handler of the
 * guest (trap), in a tracer (ptrace) or behind symbols (preload).
 *
 * Vocabulary: a *guest path* is what the program says; a *canonical* path is absolute, has no links, dots or
 * trailing slash, and the container's root is the empty string; a *place* is where the last name of a path lives.
 */
#ifndef UDK_CORE_H
#define UDK_CORE_H

#include "core/plan.h"

#ifdef UDK_HOSTED
#include <sys/mman.h>
#else
#include <linux/mman.h>
#endif

#define MAP_FIXED_NOREPLACE_ 0x100000 /* Linux 4.17 */

#define GUEST_MAX 4096           /* the kernel's PATH_MAX, with the NUL */
#define HOST_MAX (2 * GUEST_MAX) /* a guest path behind the longest root */
#define LONGEST_HOST 1024        /* of a mount's tree */
#define MAX_LINKS 40 /* as the kernel has it */

/* ---- one process and one call ------------------------------------------------------------------------- */

struct ids {
	uint32_t ruid, euid, suid, fsuid, rgid, egid, sgid, fsgid;
	uint32_t n_groups, groups[MAX_GROUPS];
};

#define NOTES 256
struct note {
	uint64_t dev, ino;   /* ino 0: not asked, for it is `quiet` */
	uint32_t generation, state;
	uint32_t dir; /* its number in the index, where it is of the lower alone */
	uint8_t quiet, mount, kind; /* quiet: of one layer and one mount down to its leaves */
};
struct notes {
	bool (*allowed)(void); /* may this thread of control write here? A vfork child has other descriptors */
	volatile uint32_t epoch, drops; /* epoch: 2 and more */
	volatile uint64_t written[NOTES / 64]; /* bits: notes that ever were. Most programs have none, and don't touch their memory */
	struct note *of; /* NOTES: of the working directory, then of descriptors */
};

struct core {
	struct plan *plan;
	struct notes *notes; /* NULL: the front end does not see what they need */
	bool roots;          /* ROOT_FD is there, and for a union the next; see roots.c. Only used with notes */
	struct changes *changes; /* mapped at first need; see changes_of */
	struct ids ids;
	uint32_t anchor;         /* the identity layer's: the process through which it reaches what is its own; see plan_path */
	uint16_t root_len;       /* of the emulated chroot, canonical */
	char exe[GUEST_MAX];     /* canonical path of the running program */
	char root[GUEST_MAX];    /* written only where there is one */
};

/* Kinds of directory: where its names are looked up. */
enum kind { IN_PLAIN, IN_UPPER, IN_LOWER, IN_MERGED };
enum layer { LAYER_PLAIN, LAYER_UPPER, LAYER_LOWER };
enum dead { LIVES, DEAD /* deleted, or hidden by the upper: guest is where it was */, FOREIGN /* not of this container */ };
#define IN_DEEP 4 /* only in the cache: deeper than a path can tell */

struct place {
	int dfd;         /* host is relative to it; AT_FDCWD for an absolute host */
	uint8_t kind;    /* of the directory that holds the name (for `self`: of the thing itself) */
	uint8_t layer;   /* which one `host` names */
	uint8_t mount;
	bool self;       /* the path ended in `.`, `..` or was a root: there is no name to create or remove */
	bool dot, dotdot; /* how it ended */
	bool mounted;    /* it is a mount point */
	bool slash;      /* a trailing slash was given */
	bool raw;        /* the directory has no path: host is relative to a descriptor, or a name of it */
	bool locked;     /* raw, and not to be changed */
	uint8_t dead;    /* raw, and without names: enum dead */
	bool found;      /* st is the thing's lstat */
	bool direct;     /* host is the path as given, relative to the guest's own descriptor */
	bool magic;      /* a link of /proc that only the kernel can follow */
	uint16_t len;    /* of guest */
	struct stat st;
	char guest[GUEST_MAX];
	char host[HOST_MAX];
};

/* What exec of a path comes to. */
#define MAX_SCRIPTS 5
struct program {
	char header[2048] __attribute__((aligned(8))); /* the file's first bytes */
	char *head[2 * MAX_SCRIPTS + 6]; /* of a script: interpreter, its argument, the script's name, ... NULL: argv[0] */
	int n_head;                      /* they stand for argv[0] */
	int fd;                          /* the file itself, where it has no path; else -1 */
	bool engine;                     /* it is at our own address: another of us */
	bool everybodys;                 /* who may execute it, and as themselves */
	bool remembered;                 /* it was looked up so */
	uint32_t set_uid, set_gid;       /* of set-id bits; -1: none */
	char ids[1024], flags[80];       /* what the next incarnation is told: beside the name, in the same piece of memory */
	char script[GUEST_MAX];
	char names[MAX_SCRIPTS][260];
	char foreign[GUEST_MAX]; /* for another machine: what the emulator is given */
	char state[96];          /* where the anchor has the container's */
};

struct work { /* one call's memory: too large for a guest's signal stack */
	volatile int busy; /* the front end's, as the next */
	int holder, holders_thread;
	int n_fds, fds[64]; /* to be closed when the call ends */
	struct ids ids;    /* of the program to come */
	char key[CACHE_TEXT];
	char path[GUEST_MAX];
	struct place a, b;
	struct program program; /* up to here are the pages that an exec touches */
	char rest[2 * GUEST_MAX];
	char link[GUEST_MAX];
	char text[HOST_MAX];
	char other[HOST_MAX];
	char onward[GUEST_MAX]; /* the path that a link stands for */
	struct place c;
};

struct call {
	struct core *core;
	struct work *w;
	long nr;
	long nr32; /* of a 32-bit program: what the call's number is there; else 0 */
	unsigned long a[6];
	int hops;    /* links followed outside of a walk */
	unsigned birth; /* 1 + its place among the births, and whose it is there; 0: nothing is being made */
	uint32_t birth_turn;
	unsigned how;          /* openat2's RESOLVE_* */
	uint16_t scope_len;    /* RESOLVE_BENEATH, IN_ROOT: the directory that is not left */
	const char *scope;
	void *frame; /* the front end's */
};

/* ---- plan.c ------------------------------------------------------------------------------------------- */

/* NULL, or what is wrong. `partial`: only ids and working directory are needed, for a command that joins. */
const char *plan_parse(struct plan *plan, const char *text, size_t n, bool partial);
uint32_t plan_string(struct plan *plan, const char *s, size_t n); /* its offset; 0: there is no room */
long plan_inspect(struct plan *plan, const char **what);
/* The path of our own that the plan tells: where it is for this process. Returns its length; 0: there is none. */
size_t plan_path(const struct core *k, const char *text, char *to, size_t size);
/* Maps the state file (made and sized when `make`), the record of changes. */
long plan_map(struct core *k, const char *state, bool make);
/* The same for a state file that is not known to be whole: by whom it is found, not by whom it is handed on. */
long plan_join(struct core *k, const char *state);
long plan_map_changes(struct core *k, bool make);
/* Puts the mounts where the guest's links lead, one after the other, and makes the targets that are not there. */
long plan_place_mounts(struct call *c, const char **what);

/* ---- guest memory: provided by the front end ---------------------------------------------------------- */

/* The string at `from` with its NUL; its length, -EFAULT or -ENAMETOOLONG. */
long guest_str(char *to, const void *from, size_t size);
/* 0 or -EFAULT. */
long guest_read(void *to, const void *from, size_t n);
long guest_write(void *to, const void *from, size_t n);

/* Time, some thousand a second, from an unknown start; 0: there is no cheap clock. */
uint32_t ticks(void);

/* ---- cache.c ------------------------------------------------------------------------------------------ */

uint64_t text_hash(const char *s, size_t n);
/* The entry's canonical path goes to p->guest, its kind and mount to p; `mounts_inside` is returned. -1: not there. */
int cache_text(struct core *k, const char *key, size_t n, struct place *p);
int cache_inode(struct core *k, uint64_t dev, uint64_t ino, struct place *p);
void cache_keep_text(struct core *k, uint32_t generation, const char *key, size_t n, const struct place *p, int inside);
void cache_keep_inode(struct core *k, uint32_t generation, uint64_t dev, uint64_t ino, const struct place *p, int inside);
/* A directory that its own text names without a link, of one layer: what its names are looked up in. False: not sure. */
bool cache_straight(struct core *k, const char *text, size_t n, struct note *what);
enum known { NOT_KNOWN, SEEN_ONCE, KNOWN_WELL };
/* What exec of an absolute path comes to: the canonical paths of a program of the image and of its interpreter (or none), each
 * with a NUL, go to `to`, of CACHE_TEXT bytes. Only such as everybody may execute, and that nobody changed. KNOWN_WELL: it
 * was REMEMBERED when it was looked up. */
enum known cache_program(struct core *k, const char *path, size_t n, char *to);
void cache_keep_program(struct core *k, uint32_t generation, const char *path, enum known is, const struct place *file,
			const struct place *interpreter);
/* The same where there may be links on the way: the length of the canonical path, put to `to` without a NUL. -1: not sure. */
long cache_leads(struct core *k, const char *text, size_t n, struct note *what, char *to, size_t size);
/* Is what the path names a directory, and no link? False: not sure. */
bool known_directory(struct core *k, const char *text, size_t n);
/* The same for a path relative to a directory: the kernel may walk it from there. `what` is what is to be noted of it.
 * SEEN_ONCE: others make changes there, and may have put a link on the way meanwhile. Who finds, at `now` or later, that each
 * name on the way is still a directory's says that it was seen. */
enum known cache_below(struct core *k, uint64_t dev, uint64_t ino, const char *text, size_t n, struct note *what);
void cache_seen_below(struct core *k, uint64_t dev, uint64_t ino, const char *text, size_t n, uint32_t now);
void cache_keep_below(struct core *k, uint32_t generation, uint64_t dev, uint64_t ino, const char *text, size_t n, const struct place *p);
void bloom_add(struct core *k, const char *name, size_t n);
/* A directory or link of this name was removed, replaced or shadowed. */
void changed_name(struct core *k, const char *name, size_t n);
void changed(struct core *k);
/* A directory was moved, removed or closed to its owner: what is far below it may be another thing now. */
void changed_above(struct core *k);

/* ---- notes.c ------------------------------------------------------------------------------------------ */

bool note_get(struct core *k, int fd, uint64_t *dev, uint64_t *ino);
uint32_t note_begin(const struct core *k); /* before the descriptor is looked at */
void note_set(struct core *k, int fd, const struct note *now, uint32_t begun);
/* Is it a directory in which names are the kernel's business alone? Its mount and kind, then. */
bool note_quiet(struct core *k, int fd, uint8_t *mount, uint8_t *kind);
bool note_quiet_dir(struct core *k, int fd, struct note *what);
void note_identify(struct core *k, int fd, uint64_t dev, uint64_t ino, uint32_t begun); /* what an fstat told */
void note_dup(struct core *k, int from, int to); /* `to` was made a copy of `from` */
void note_hold(struct core *k, int fd); /* no note until it is dropped: a handler of the guest may come before that */
void note_drop(struct core *k, int fd); /* it is, or may be, another one now */
void notes_drop(struct core *k);

/* ---- roots.c ------------------------------------------------------------------------------------------ */

#define ROOT_FD 62 /* and the next: below 64, up to where a table of descriptors need not grow */

void roots_open(struct core *k);
void roots_close(struct core *k);
void roots_taken(struct core *k, int fd); /* by the guest, for a file of its own */
/* A call relative to one failed with EBADF or ENOTDIR: is that because it is not there any more? Then by p->host. */
bool roots_lost(struct core *k);
bool is_root_fd(const struct core *k, int fd); /* the guest has no such descriptor */
long roots_hide(struct call *c, char *list, long n);

/* ---- mount.c ------------------------------------------------------------------------------------------ */

/* May a directory of it be remembered, be it for BRIEF? */
static inline bool remembers(const struct core *k, int mount)
{
	uint16_t flags = k->plan->mounts[mount].flags;

	/* Identity: the guest's own changes are not seen, either. */
	return flags & MOUNT_CACHE || !(flags & (MOUNT_PROC | MOUNT_FILE | MOUNT_UNION) || k->plan->options & OPT_IDENTITY);
}

static inline const char *plan_text(const struct core *k, uint32_t off) { return k->plan->strings + off; }
int mount_at(const struct core *k, const char *guest, size_t n);   /* index of the mount exactly there, or -1 */
int mount_of(const struct core *k, const char *guest, size_t n);   /* index of the mount it is in */
int mounts_inside(const struct core *k, const char *dir, size_t n); /* is some name in this directory a mount point? */
bool mounts_below(const struct core *k, const char *dir, size_t n);  /* the same for anything below it */
/* Writes the host path of a canonical path; its length. */
size_t host_path(const struct core *k, int mount, enum layer layer, const char *guest, size_t n, char *host);
/* The canonical path of a host path, and its mount and layer; -1 when it is not in the container. */
long guest_path(const struct core *k, const char *host, size_t n, char *guest, int *mount, enum layer *layer);
/* Turns a host path in `text` (of HOST_MAX bytes) into what the guest may see, in place. */
long show_path(struct core *k, char *text, size_t n);

/* ---- path.c, walk.c ----------------------------------------------------------------------------------- */

enum { FOLLOW = 1, /* the last name too */
       KEEP_SLASH = 2, /* a trailing slash does not make it followed: for names to be made or removed */
       EMPTY_OK = 4, /* AT_EMPTY_PATH: an empty path is the descriptor itself */
       NAMELESS = 8, /* the place may be without its guest path, where that takes time to know */
       DIRECTORY = 16, /* must be one, and links are followed: of trailing slashes nothing depends */
       REMEMBERED = 32 /* what the last name leads to will be remembered: who changes that must know */ };

/* How much of a path says only that it begins here: `./`, also several times. */
static inline size_t begins_here(const char *path)
{
	size_t n = 0;

	while (path[n] == '.' && path[n + 1] == '/')
		for (n += 2; path[n] == '/';)
			n++;
	return n;
}

/* Where `path` (a guest pointer) leads from dfd. Without FOLLOW the last name may be a link. Errors are those that
 * the kernel gives for the directories on the way; the last name need not exist. */
long resolve(struct call *c, int dfd, const void *path, unsigned flags, struct place *p);
long resolve_text(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p);
/* How a host path of mount 0 is told to the kernel: relative to the returned descriptor. */
static inline int near_text(const struct core *k, enum layer layer, const char *host, const char **name)
{
	const struct mount *m = &k->plan->mounts[0];
	size_t head = layer == LAYER_LOWER ? m->lower_len : m->host_len;

	if (!host[head]) { /* not ".", which a closed directory does not let be looked up */
		*name = host;
		return AT_FDCWD;
	}
	*name = host + head + 1;
	return ROOT_FD + (layer == LAYER_LOWER);
}
/* The same for a place. The caller asks roots_lost after EBADF and ENOTDIR. */
static inline int near(const struct core *k, const struct place *p, const char **name)
{
	if (k->roots && k->notes && p->dfd == AT_FDCWD && !p->mount && !p->raw && !p->magic && p->host[0] == '/')
		return near_text(k, (enum layer)p->layer, p->host, name);
	*name = p->host;
	return p->dfd;
}
#define NEAR_LOST(k, r) (((r) == -EBADF || (r) == -ENOTDIR) && roots_lost(k))
long near_stat(struct core *k, struct place *p); /* lstat of p->host, in p->st */
long near_readlink(struct core *k, const struct place *p, char *to); /* GUEST_MAX bytes, no NUL behind them */
static inline enum layer first_layer(const struct place *p)
{
	return p->kind == IN_PLAIN ? LAYER_PLAIN : p->kind == IN_LOWER ? LAYER_LOWER : LAYER_UPPER;
}
/* dir.c: the kind of the directory p that was just found; of one that is known to exist, by its canonical path. */
enum kind kind_below(struct call *c, const struct place *p);
long enter(struct call *c, struct place *p);
/* The directory behind a descriptor. p->guest is it; returns mounts_inside or an error. */
long base_dir(struct call *c, int dfd, struct place *p);
/* The same where only the kernel will use the descriptor, unless it is the working directory: the latter's place, and
 * those of directories with one layer, are remembered. */
long base_quick(struct call *c, int dfd, struct place *p);
static inline bool nameless(const struct place *p) { return p->direct && !p->len && !p->self && !p->raw; }
/* Around the opening of a directory: its descriptor needs no asking then. */
bool remember_begin(struct call *c, const struct place *p, struct note *now, uint32_t *begun);
void remember_dir(struct call *c, const struct place *p, int fd, struct note *now, uint32_t begun);
/* Points p->dfd and p->host at a layer's file. */
void place_host(struct call *c, struct place *p, enum layer layer);
/* lstat of the place: 0 with p->st, p->layer, p->host; -ENOENT with the host of a new file. */
long lookup(struct call *c, struct place *p);
/* resolve and lookup: the thing must exist. */
long find(struct call *c, int dfd, const void *path, unsigned flags, struct place *p);
long find_text(struct call *c, int dfd, const char *path, unsigned flags, struct place *p);
/* The thing at a canonical path. */
long place_at(struct call *c, const char *text, size_t n, struct place *p);
static inline bool readonly(const struct call *c, const struct place *p)
{
	return p->raw ? p->locked : c->core->plan->mounts[p->mount].flags & MOUNT_RO;
}
void close_later(struct call *c, long fd);
/* Closes what was to be closed later since there were `n` of them. */
void close_since(struct call *c, int n);
/* For calls that take no dirfd: p->host becomes one that the kernel can find by itself. */
void one_piece(struct place *p);
long target(struct call *c, int dfd, const void *path, long flags, struct place *p); /* calls_attr.c */
long fd_place(struct call *c, int fd, struct place *p);
int fd_mount(struct call *c, int fd, bool *top);
long behind(struct call *c, struct place *p);
size_t decimal(char *to, uint64_t v);

/* ---- union.c ------------------------------------------------------------------------------------------ */

bool is_whiteout(const struct stat *st);
/* The kind of a directory that exists in the upper, given that its parent is merged. */
enum kind upper_kind(struct call *c, const char *guest, size_t n, int mount);
/* Makes the directory that holds p exist in the upper; p->kind is then merged or upper, and host in the upper. */
long make_parent(struct call *c, struct place *p);
/* The thing (found) is in the upper afterwards; `data` false leaves a regular file empty (O_TRUNC). */
long copy_up(struct call *c, struct place *p, bool data);
/* Removes a whiteout in the way of a new name. 1: there was one. */
long clear_whiteout(struct call *c, struct place *p);
/* Moves without replacing; file systems without RENAME_NOREPLACE get a link, directories a plain rename. */
long move_new(const char *from, const char *to, bool dir);
/* After the upper's entry is gone: hides the lower's, where there is one. */
long hide_lower(struct call *c, struct place *p);
bool lower_has(struct call *c, const struct place *p, struct stat *st);
void make_opaque(struct call *c, const struct place *p);
/* 0, -ENOTEMPTY */
long merged_empty(struct call *c, struct place *p, bool remove_whiteouts);
/* Before a change of the thing: EROFS, copy-up. `found` must hold. */
long for_change(struct call *c, struct place *p);
long temp_name(struct call *c, char *to);

static inline bool has_changes(const struct core *k) { return k->plan->changes != 0; }
/* Does the record of changes tell of what is made at p? */
static inline bool recorded(const struct core *k, const struct place *p)
{
	return p->raw ? !p->mount && k->plan->mounts[0].flags & MOUNT_UNION : p->kind != IN_PLAIN;
}
static inline bool any_changes(const struct core *k) { return k->plan->any_changes; }

/* ---- owner.c, entries.c, record.c ---------------------------------------------------------------------- */

struct owner *owner_find(struct core *k, const struct stat *st);
/* Finds or makes the entry of a file of the upper (or of a bind). NULL: the table is full. */
struct owner *owner_make(struct core *k, const struct stat *st);
void owner_index_changes(struct core *k);
/* Around the making of a file that will not be root's, until its owner is on record: who finds it meanwhile waits for that. */
void owner_making(struct call *c);
void owner_made(struct call *c);
/* Asked before the entry is looked for: what is born then is on record when this says no. */
static inline bool being_born(const struct core *k) { return __atomic_load_n(&k->plan->births, __ATOMIC_ACQUIRE); }
/* `look`'s entry. Where a file is so new that its entry may be still to come, that is waited for, a tenth of a second. */
struct owner *owner_settled(struct core *k, const struct stat *st, struct owner *(*look)(struct core *k, const struct stat *st));
/* A file was just made. What is remembered of its inode was of another one; its own entry, if that is wanted. */
struct owner *owner_born(struct core *k, const struct stat *st, bool wanted);
/* The last name of a file goes. Its entries are looked up before, while no other file can have its inode, and marked
 * after, unless another has it by then. */
struct leaving {
	struct owner *entry[2];
	uint32_t turn[2];
};
struct leaving owner_leaving(struct core *k, const struct stat *st);
void owner_left(const struct leaving *l);
/* Owner, mode, device and inode as the guest should see them. p may be NULL (a descriptor's stat). */
void owner_show(struct call *c, struct stat *st, const struct place *p, int fd);
/* The same for what none of the records tells of, by which nothing but the stat's first 40 bytes is read; false when
 * that is not sure. */
bool owner_show_plain(struct core *k, struct stat *st);
/* Of a file of a mount other than the root. */
void owner_show_bound(const struct core *k, struct stat *st);
/* A directory of both layers has the inode that it had in the lower alone, the root the upper's; 0: not known. */
uint64_t merged_ino(struct call *c, const char *guest, size_t n);
void owner_copy(struct call *c, const struct stat *from, const char *from_guest, const struct stat *to);
long owner_load_record(struct core *k);
void owner_forget_record(void);
/* The entry of the record of changes for (device, inode) of a file with a name, or without (`named`); of the image's
 * index. NULL: none, or the table is full. */
struct owner *owner_change(struct core *k, uint64_t dev, uint64_t ino, bool named, bool make);
struct owner *owner_of_image(struct core *k, uint64_t ino);
/* What changed of a directory in both layers is noted for the lower's inode, too: overlayfs shows that one. */
void owner_of_both(struct call *c, const struct stat *st, const struct place *p, int fd);
bool privileged(const struct core *k); /* guest euid 0 with fake root */
/* A file that the guest just made (at p, or behind fd) belongs to its fsuid and fsgid, or to its directory's group,
 * which is returned then; else -1. p may be NULL. */
uint32_t owner_new(struct call *c, const struct place *p, int fd);
bool member_of(const struct core *k, uint32_t gid);
bool mode_allows(const struct core *k, const struct stat *shown, int mode, bool effective);
long owner_access(struct call *c, const struct place *p, int mode, bool effective);

/* ---- permit.c: the guest's users among themselves ------------------------------------------------------ */

/* The owner's bits are always on disk, because guest root needs them or it is us who judge; else the kernel does. */
bool keeps_bits(const struct core *k);
bool judged(const struct core *k); /* this process is one of several users: it may be denied something */
long may_search(struct call *c, const struct place *p);
long may_search_fd(struct call *c, const struct place *p, int fd);
long may_make(struct call *c, const struct place *p);
long may_remove(struct call *c, const struct place *p); /* found */
long may_open(struct call *c, const struct place *p, long flags); /* found */
uint32_t group_of_new(struct call *c, const struct place *p);
bool maybe_setgid(const struct core *k, const struct place *p); /* the directory that holds the name */
bool noted_setgid(const struct core *k, const char *guest, size_t n);
void note_setgid(struct core *k, const char *guest, size_t n);
void forget_setgid(struct core *k);

/* ---- the table ---------------------------------------------------------------------------------------- */

enum act { ALLOW, TRAP, TRAP_ARG, DENY_ENOSYS, DENY_EPERM, SPECIAL };

struct entry {
	long (*handler)(struct call *c);
	uint8_t act;
	uint8_t arg;  /* TRAP_ARG: trapped only when this argument is not 0 */
	uint16_t need; /* trapped only with one of these options; 0: always */
};
extern const struct entry table[];
extern const long table_size;

long core_call(struct call *c);

/* calls_identity.c: the calls of a guest in its own namespaces, by a table of their own; identity.c: what is shown. */
extern const struct entry identity_table[];
extern const long identity_table_size;
long identity_call(struct call *c);
void identity_show(struct core *k, struct stat *st);
/* May the inode that overlayfs shows be that of a file of the lower tree? Never without the layer. */
bool shows_lower(const struct core *k, const struct stat *st);

/* Used across files. */
long prepare_new(struct call *c, int dfd, const void *path, bool dir, struct place *p); /* calls_names.c */
long call_raw(struct call *c);
/* Not in the table: who answers it is told by the front end. */
long call_socket(struct call *c);
/* Controls of System V's things that tell or set owners; the last two: the commands by which they are also described. */
long ipc_answer(struct call *c, int command, void *guest, int describe, int describe_any);
#define SHM_DESCRIBED 13, 15
#define MSG_DESCRIBED 11, 13
#define SEM_DESCRIBED 18, 20
long open_shown(struct call *c, struct place *p, int flags, long *result); /* proc.c: 1 when answered */
/* proc.c: the hexadecimal number that a line of /proc has there. */
bool hex_at(const char *s, uint64_t *v);
/* proc.c: the path that another process has mapped at an address, its length; uses w->c, and to is GUEST_MAX bytes. */
long process_maps(struct call *c, uint64_t pid, uint64_t at, char *to);
/* The ids of another process of the container, which keeps them where this one does; false: it could not be asked, and
 * what it began with is assumed. */
bool ids_of(struct call *c, uint64_t pid, struct ids *ids);
/* calls_sock.c: of a process, user and group as the kernel told them, the guest's ids of that process; whoever is gone was
 * what the container began with. */
void show_ids(struct call *c, uint32_t cred[3], bool effective);
long proc_readlink(struct call *c, struct place *p, char *to);
bool proc_is_magic(struct call *c, struct place *p);
long proc_magic(struct call *c, struct place *p, bool last);
#define FOREIGN_INODE ((uint64_t)1 << 62) /* of a lower tree on another device, as overlayfs's xino does */
/* Shows the inodes of a list, what getdents64 gave for a directory of the lower alone, as stat does; n again, or -EFAULT. */
long show_inodes(struct core *k, void *list, long n);
/* Is a directory of the image to be listed by the index, or was that begun? */
bool lists_image(struct core *k, int fd);
/* getdents64 of such a directory, or INDEX_ASK. */
long read_image(struct core *k, int fd, const struct place *dir, void *to, size_t n);
long read_merged(struct call *c, int fd, struct place *dir, void *to, size_t n);
#define NO_FD ((int)0x80000000)
void stat_of_statx(struct stat *st, const struct statx *x); /* type, owner and names of it */
void stat_to_statx(struct statx *x, const struct stat *st);
void statx_basic(struct statx *x, const struct stat *st); /* STATX_BASIC_STATS */
#define MNT_ID 0x1000U
#define MNT_IDS (MNT_ID | 0x4000U /* the unique kind */)
void statx_mount(struct statx *x, uint32_t mask, int mount, bool top); /* mounts are those of our mountinfo; -1: not known */

/* exec.c: ETXTBSY, which the kernel says only of programs that it started itself. */
void note_running(struct core *k, const struct place *p);
bool is_running(struct call *c, const struct place *p);

/* The ELF file is then w->a, found (or out->fd); its interpreter exists. */
long find_program(struct call *c, int dfd, const void *path, long flags, struct program *out);

#endif
