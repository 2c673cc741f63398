/* libFuzzer: an input is a container's options and a sequence of its system calls, in records of 16 bytes:
 *
 *   header   variant (world.h); failures: after how many calls, which, again after; what the kernel lacks (2); more; 0
 *   record   call, descriptors (two nibbles), flags (2), mode, misc, first path (5), second path (5)
 *
 * A path is up to five names out of a list. Whatever it does, checked.c must have no objection, no sanitizer may
 * complain and no descriptor may be left open. Where nothing is made to fail the input is played twice: what is
 * remembered of earlier calls (core/cache.c, core/notes.c), or was left in memory, must not change what any call says.
 * A difference is believed when it is there again. */
#undef UDK_CHECKED
#include "fuzz/play.h"

#define MOST 4096

struct told {
	long nr, result;
	uint64_t shown; /* a hash of what the guest was told, where that is the same each time */
};

static struct told told[2][MOST];
static int n_told[2];
static bool remembering, comparing, tracing;

static uint64_t shown(const struct call *c, const unsigned long *a, long r)
{
	struct { uint64_t type, rdev, size; uint32_t uid, gid; } s;
	const struct stat *st = NULL;
	unsigned long text = 0;

	switch (c->nr) {
	case __NR_newfstatat: st = (void *)a[2]; break;
	case __NR_fstat: st = (void *)a[1]; break;
#ifdef __NR_stat
	case __NR_stat: case __NR_lstat: st = (void *)a[1]; break;
	case __NR_readlink: text = a[1]; break;
#endif
	case __NR_readlinkat: text = a[2]; break;
	case __NR_getcwd: text = a[0]; break;
	}
	if (st && !r && st->st_dev == world.plan->upper_dev) {
		memset(&s, 0, sizeof s);
		s.type = st->st_mode, s.rdev = st->st_rdev, s.uid = st->st_uid, s.gid = st->st_gid;
		s.size = (st->st_mode & S_IFMT) == S_IFREG ? (uint64_t)st->st_size : 0;
		return text_hash((const char *)&s, sizeof s);
	}
	/* Not socket:[1234] nor, of a file that never had a name, /dir/#1234, nor the copy of a text of /proc where there is no memfd. */
	return text && r > 0 && *(const char *)text == '/' && !mem_find((const char *)text, (size_t)r, "/#", 2) &&
	       !mem_find((const char *)text, (size_t)r, "/plan.", 6) ? text_hash((const char *)text, (size_t)r) : 0;
}

/* Who runs on this machine is another matter: /proc is listed differently each time. */
static bool of_proc(const struct call *c, int fd)
{
	struct stat st, proc;

	return c->nr == __NR_getdents64 && !sys_fstat(fd, &st) && !sys_fstatat(AT_FDCWD, "/proc", &proc, 0) && st.st_dev == proc.st_dev;
}

static long tell(struct call *c)
{
	int i = remembering;
	unsigned long a[6];
	long r;

	memcpy(a, c->a, sizeof a); /* the core uses them for itself */
	if (!remembering)
		changed(&world);
	checked.kills = c->nr == __NR_kill || c->nr == __NR_rt_sigqueueinfo ? (int)a[0] : 0;
	r = world_call(c);
	if (tracing) {
		checked.on = false; /* no failure is spent on it */
		say(2, "%d call %ld (%lx %lx %lx %lx %lx) \"%s\": %ld\n", n_told[i], c->nr, a[0], a[1], a[2], a[3], a[4], guest, r);
		checked.on = true;
	}
	if (n_told[i] < MOST)
		told[i][n_told[i]++] = (struct told){ c->nr, c->nr == __NR_inotify_add_watch || of_proc(c, (int)a[0]) ? MIN(r, 1) : r, shown(c, a, r) };
	return r;
}

/* The first call whose answers differ, or -1. */
static int difference(void)
{
	for (int i = 0; i < n_told[0] && i < n_told[1]; i++) {
		const struct told *x = &told[0][i], *y = &told[1][i];

		if (x->nr != y->nr || x->result != y->result || x->shown != y->shown)
			return i;
	}
	return -1;
}

static void once(const uint8_t *data, size_t size)
{
	play_start();
	if (watcher >= 0) /* what was watched by others may be gone */
		sys_close(watcher);
	watcher = (int)SC1(__NR_inotify_init1, 0);
	world_litter = remembering ? 0xbe : 1;
	world_enter(remembering ? data[0] : data[0] & ~NOTED);
	world_more(data[6]);
	play_failures(data);
	n_told[remembering] = 0;
	memset(guest, 0, GUEST_SIZE); /* some calls look at what is there */
	for (size_t at = HEADER, n = 0; at + RECORD <= size && n < MAX_RECORDS; at += RECORD, n++) {
		const struct record *r = (const void *)(data + at);

		if ((r->op & 127) == STREAM && (r->flags[0] || r->flags[1]))
			comparing = false; /* a place in a directory is another one each time */
		play(r);
	}
	play_end();
	world_leave();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t variants[] = { ROOT_ID | OWNERS | NOTED | TWICE, ROOT_ID | OWNERS | RECORD_BY_PATH | WHITEOUT_FILES | TWICE, PLAIN_ROOT | TWICE | NOTED,
					    OWNERS | ORDINARY_ID | TWICE };

	(void)argc, (void)argv;
	watcher = -1;
	if (getenv("FUZZ_SCENES"))
		write_scenes(getenv("FUZZ_SCENES"), variants, ARRAY_LEN(variants));
	world_start();
	make_call = tell;
	tracing = getenv("FUZZ_TRACE");
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < HEADER)
		return 0;
	comparing = data[0] & TWICE && !data[1];
	for (int again = 0; again < 2; again++) { /* what is to be believed is seen twice */
		int at;

		remembering = true;
		once(data, size);
		if (!comparing)
			return 0;
		remembering = false;
		once(data, size);
		at = comparing ? difference() : -1;
		if (at < 0)
			return 0;
		say(2, "call %d (%ld, %ld): %ld, but %ld where it could remember%s\n", at, told[0][at].nr, told[1][at].nr, told[0][at].result, told[1][at].result,
		    told[0][at].result == told[1][at].result ? "; what the guest is told differs" : "");
	}
	abort();
}
