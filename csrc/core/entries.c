/* The tables of owners: the record of changes and the index of the image's record, by inode, in memory that all processes of
 * the container share.
 *
 * Nothing here takes a lock. A slot is claimed by its inode, which is set last; an entry is handed on, to the next file with
 * that inode, and given up by its flags, which also count the files that it was for (docs/adr/union-layer.md).
 */
#include "core/owner.h"

#define BUSY (~(uint64_t)0)
#define CHAIN 256 /* no entry is further from its place: file systems that give no inode twice fill the table */

static uint64_t slot_of(uint64_t ino, uint64_t slots)
{
	return (ino * 0x9e3779b97f4a7c15ULL >> 24) & (slots - 1);
}

void owned_add(struct core *k, uint64_t ino)
{
	uint64_t bit;
	volatile uint64_t *w = owned_word(k, ino, &bit);

	if (!(*w & bit))
		__atomic_fetch_or(w, bit, __ATOMIC_SEQ_CST);
}

/* Entries of earlier runs. */
void owner_index_changes(struct core *k)
{
	const struct changes *ch = k->changes;

	for (uint64_t i = 0; ch->used && i < ch->slots; i++)
		if (ch->owners[i].ino && !(ch->owners[i].flags & (OWNER_GONE | OWNER_DEAD)))
			owned_add(k, ch->owners[i].ino);
}

static struct owner *probe(struct owner *t, uint64_t slots, uint64_t dev, uint64_t ino)
{
	uint64_t i = slot_of(ino, slots);

	for (int n = 0; n < CHAIN; n++, i = (i + 1) & (slots - 1)) {
		uint64_t have = __atomic_load_n(&t[i].ino, __ATOMIC_ACQUIRE);
		if (!have)
			return NULL;
		if (have == ino && t[i].dev == dev && !(t[i].flags & OWNER_GONE))
			return &t[i];
	}
	return NULL;
}

/* The entry is for another file now. */
static void renew(struct owner *o, uint32_t flags)
{
	uint32_t was = o->flags;

	while (!__atomic_compare_exchange_n(&o->flags, &was, (was & ~(uint32_t)OWNER_BITS) + OWNER_TURN + flags, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_RELAXED))
		continue;
	o->uid = o->gid = o->mode = o->rdev = 0;
	o->origin = o->birth = 0;
}

struct owner *claim(struct owner *t, uint64_t slots, volatile uint64_t *used, uint64_t dev, uint64_t ino)
{
	uint64_t i = slot_of(ino, slots);
	struct owner *o = probe(t, slots, dev, ino);
	uint32_t given_up = *used > slots / 4 * 3 ? OWNER_GONE | OWNER_DEAD : OWNER_GONE;

	if (o)
		return o;
	for (int n = 0; n < CHAIN; n++, i = (i + 1) & (slots - 1)) {
		uint64_t have = t[i].ino;
		if ((have && (have == BUSY || !(t[i].flags & given_up))) ||
		    !__atomic_compare_exchange_n(&t[i].ino, &have, BUSY, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		if (!have)
			__atomic_fetch_add(used, 1, __ATOMIC_RELAXED);
		t[i].dev = dev;
		renew(&t[i], 0);
		__atomic_store_n(&t[i].ino, ino, __ATOMIC_RELEASE);
		return &t[i];
	}
	return NULL;
}

/* Is the entry of a file that is no more? Its inode's number is another's, which has a name. */
static bool is_past(const struct owner *o, bool named)
{
	return o->flags & OWNER_DEAD && named;
}

static struct owner *find_change(struct core *k, uint64_t dev, uint64_t ino, bool named)
{
	struct owner *o = probe(k->changes->owners, k->changes->slots, dev, ino);

	return o && is_past(o, named) ? NULL : o;
}

static struct owner *make_change(struct core *k, uint64_t dev, uint64_t ino, bool named)
{
	struct owner *o;

	k->plan->any_changes = 1;
	owned_add(k, ino);
	o = claim(k->changes->owners, k->changes->slots, &k->changes->used, dev, ino);
	if (o && is_past(o, named))
		renew(o, 0);
	return o;
}

static struct changes *changes_of(struct core *k)
{
	if (!k->changes && has_changes(k))
		plan_map_changes(k, false);
	return k->changes;
}

struct owner *owner_change(struct core *k, uint64_t dev, uint64_t ino, bool named, bool make)
{
	return !changes_of(k) ? NULL : make ? make_change(k, dev, ino, named) : find_change(k, dev, ino, named);
}

struct owner *owner_of_image(struct core *k, uint64_t ino)
{
	return k->plan->lower_owners_used ? probe(k->plan->lower_owners, LOWER_OWNERS, 0, ino) : NULL;
}

struct owner *owner_find(struct core *k, const struct stat *st)
{
	struct owner *o = NULL;
	uint64_t bit;

	if (!(*owned_word(k, st->st_ino, &bit) & bit))
		return NULL;
	if (any_changes(k) && st->st_dev == k->plan->upper_dev && changes_of(k))
		o = find_change(k, 0, st->st_ino, st->st_nlink);
	if (!o && st->st_dev == k->plan->lower_dev && k->plan->lower_owners_used)
		o = probe(k->plan->lower_owners, LOWER_OWNERS, st->st_dev, st->st_ino);
	return o;
}

struct owner *owner_make(struct core *k, const struct stat *st)
{
	return st->st_dev == k->plan->upper_dev && changes_of(k) ? make_change(k, 0, st->st_ino, st->st_nlink) : NULL;
}

struct owner *owner_born(struct core *k, const struct stat *st, bool wanted)
{
	struct owner *o;
	uint64_t bit;

	if (!wanted && (!any_changes(k) || st->st_dev != k->plan->upper_dev || !(*owned_word(k, st->st_ino, &bit) & bit) || !changes_of(k)))
		return NULL;
	o = wanted ? owner_make(k, st) : NULL;
	if (o)
		renew(o, 0);
	while (!wanted && (o = probe(k->changes->owners, k->changes->slots, 0, st->st_ino))) /* two may have made one at once */
		renew(o, OWNER_GONE);
	return o;
}

#define NAPS 100 /* of up to a millisecond */

static bool not_roots(const struct core *k)
{
	return k->ids.fsuid || k->ids.fsgid;
}

void owner_making(struct core *k)
{
	if (not_roots(k))
		__atomic_fetch_add(&k->plan->births, 1, __ATOMIC_SEQ_CST);
}

void owner_made(struct core *k)
{
	uint32_t left;

	if (!not_roots(k))
		return;
	left = __atomic_sub_fetch(&k->plan->births, 1, __ATOMIC_SEQ_CST);
	if (k->plan->lost_births > left) /* that one was only slow */
		k->plan->lost_births = left;
}

struct owner *owner_settled(struct core *k, const struct stat *st, struct owner *(*look)(struct core *, const struct stat *))
{
	bool waits = being_born(k);
	struct owner *o = look(k, st);
	ktimespec now = { 0, 0 };

	if (!waits || (o && o->flags & OWNER_SET) || st->st_dev != k->plan->upper_dev)
		return o;
	sys_clock_gettime(0, &now);
	if (now.tv_sec > (int64_t)st->st_ctime + 1)
		return o;
	for (int i = 0; i < NAPS && waits && !(o && o->flags & OWNER_SET); i++) {
		ktimespec nap = { 0, MIN(i, 10) * 100000 };

		sys_nanosleep(&nap);
		waits = being_born(k);
		o = look(k, st);
	}
	if (waits && !(o && o->flags & OWNER_SET))
		k->plan->lost_births = k->plan->births;
	return o;
}

struct leaving owner_leaving(struct core *k, const struct stat *st)
{
	struct leaving l = { 0 };

	if (!any_changes(k) || st->st_dev != k->plan->upper_dev || !changes_of(k) || (st->st_nlink > 1 && (st->st_mode & S_IFMT) != S_IFDIR))
		return l;
	l.entry[0] = probe(k->changes->owners, k->changes->slots, 0, st->st_ino);
	if (shows_lower(k, st))
		l.entry[1] = probe(k->changes->owners, k->changes->slots, 1, st->st_ino & ~LOWER_BIT);
	for (int i = 0; i < 2; i++)
		l.turn[i] = l.entry[i] ? l.entry[i]->flags & ~(uint32_t)OWNER_BITS : 0;
	return l;
}

void owner_left(const struct leaving *l)
{
	for (int i = 0; i < 2; i++) {
		struct owner *o = l->entry[i];
		uint32_t was = o ? o->flags : 0;

		while (o && !(was & OWNER_GONE) && (was & ~(uint32_t)OWNER_BITS) == l->turn[i] &&
		       !__atomic_compare_exchange_n(&o->flags, &was, was | OWNER_DEAD, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
	}
}
