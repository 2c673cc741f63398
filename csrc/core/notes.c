/* What a descriptor was last found to be, so that a directory is not asked for its identity at each call.
 *
 * Notes are for a front end that sees every call by which a descriptor, or the working directory, comes to be a
 * directory (open, dup, recvmsg, chdir ...) and drops the note then. Closing is not seen: a note may be of a descriptor
 * that is closed or no directory any more, and is used only where the kernel is given that very descriptor, so that it
 * says EBADF or ENOTDIR. Threads share the notes without a lock: whoever sets one looks again whether something was
 * dropped meanwhile.
 */
#include "core/core.h"

#define BUSY 1U           /* states of their own: being written */
#define HINT 0x80000000U  /* with the epoch: to be confirmed */

static struct note *note_at(const struct core *k, int fd)
{
	if (!k->notes || (fd != AT_FDCWD && (unsigned)fd >= NOTES - 1))
		return NULL;
	return &k->notes->of[fd == AT_FDCWD ? 0 : fd + 1];
}

static volatile uint64_t *written(const struct core *k, const struct note *n, uint64_t *bit)
{
	size_t i = (size_t)(n - k->notes->of);

	*bit = (uint64_t)1 << i % 64;
	return &k->notes->written[i / 64];
}

static bool was_written(const struct core *k, const struct note *n)
{
	uint64_t bit;

	return __atomic_load_n(written(k, n, &bit), __ATOMIC_SEQ_CST) & bit;
}

/* Before its state is: whoever drops it looks here after the drop was counted. */
static void will_be_written(const struct core *k, const struct note *n)
{
	uint64_t bit;
	volatile uint64_t *w = written(k, n, &bit);

	if (!(*w & bit))
		__atomic_fetch_or(w, bit, __ATOMIC_SEQ_CST);
}

/* Reads a note that is being changed by others, perhaps; `hint`: also one that is to be confirmed. */
static bool note_read(struct core *k, int fd, struct note *to, bool hint)
{
	struct note *n = note_at(k, fd);
	uint32_t state;

	if (!n || !was_written(k, n))
		return false;
	state = __atomic_load_n(&n->state, __ATOMIC_ACQUIRE);
	*to = *n;
	to->state = state;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return state > BUSY && (state == k->notes->epoch || (hint && state == (k->notes->epoch | HINT))) &&
	       to->generation == k->plan->generation && __atomic_load_n(&n->state, __ATOMIC_RELAXED) == state;
}

static bool note_write(const struct core *k, struct note *n, const struct note *now, uint32_t state)
{
	will_be_written(k, n);
	if (__atomic_exchange_n(&n->state, BUSY, __ATOMIC_SEQ_CST) == BUSY)
		return false;
	n->dev = now->dev;
	n->ino = now->ino;
	n->generation = now->generation;
	n->quiet = now->quiet;
	n->mount = now->mount;
	n->kind = now->kind;
	n->dir = now->dir;
	__atomic_store_n(&n->state, state, __ATOMIC_SEQ_CST);
	return true;
}

/* Is the descriptor what it was made a copy of? Another thread may have made that another one just then. */
static bool confirm(struct core *k, int fd, const struct note *n)
{
	uint32_t begun = note_begin(k);
	struct stat st;

	if (sys_fstat(fd, &st) || st.st_dev != n->dev || st.st_ino != n->ino)
		return false;
	note_set(k, fd, n, begun);
	return true;
}

bool note_get(struct core *k, int fd, uint64_t *dev, uint64_t *ino)
{
	struct note n;

	if (!note_read(k, fd, &n, false))
		return false;
	*dev = n.dev;
	*ino = n.ino;
	return n.ino != 0;
}

bool note_quiet_dir(struct core *k, int fd, struct note *n)
{
	return note_read(k, fd, n, true) && n->quiet && (!(n->state & HINT) || confirm(k, fd, n));
}

bool note_quiet(struct core *k, int fd, uint8_t *mount, uint8_t *kind)
{
	struct note n;
	bool quiet = note_quiet_dir(k, fd, &n);

	if (quiet) {
		*mount = n.mount;
		*kind = n.kind;
	}
	return quiet;
}

uint32_t note_begin(const struct core *k)
{
	return k->notes ? __atomic_load_n(&k->notes->drops, __ATOMIC_SEQ_CST) : 0;
}

void note_set(struct core *k, int fd, const struct note *now, uint32_t begun)
{
	struct note *n = note_at(k, fd);

	if (n && k->notes->allowed() && note_write(k, n, now, k->notes->epoch) &&
	    __atomic_load_n(&k->notes->drops, __ATOMIC_SEQ_CST) != begun)
		__atomic_store_n(&n->state, 0, __ATOMIC_SEQ_CST);
}

void note_identify(struct core *k, int fd, uint64_t dev, uint64_t ino, uint32_t begun)
{
	struct note n;

	if (!note_read(k, fd, &n, false) || n.ino)
		return;
	n.dev = dev;
	n.ino = ino;
	note_set(k, fd, &n, begun);
}

void note_dup(struct core *k, int from, int to)
{
	struct note n, *copy = note_at(k, to);
	bool noted = from != to && copy && note_read(k, from, &n, true) && n.ino;

	note_drop(k, to);
	if (noted)
		note_write(k, copy, &n, k->notes->epoch | HINT);
}

void note_hold(struct core *k, int fd)
{
	struct note *n = note_at(k, fd);

	if (!n)
		return;
	will_be_written(k, n);
	__atomic_store_n(&n->state, BUSY, __ATOMIC_SEQ_CST);
}

void note_drop(struct core *k, int fd)
{
	struct note *n = note_at(k, fd);

	if (!n)
		return;
	if (is_root_fd(k, fd)) /* it is another file now */
		roots_taken(k, fd);
	__atomic_fetch_add(&k->notes->drops, 1, __ATOMIC_SEQ_CST);
	if (was_written(k, n))
		__atomic_store_n(&n->state, 0, __ATOMIC_RELEASE);
}

void notes_drop(struct core *k)
{
	if (!k->notes)
		return;
	roots_lost(k);
	__atomic_fetch_add(&k->notes->epoch, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&k->notes->drops, 1, __ATOMIC_SEQ_CST);
}
