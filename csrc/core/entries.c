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

#define YIELDS 10
#define NAPS 110 /* of up to a millisecond */

void owner_making(struct call *c)
{
	struct plan *plan = c->core->plan;
	uint64_t busy, bit;

	if (!c->core->ids.fsuid && !c->core->ids.fsgid)
		return;
	while (~(busy = plan->births)) { /* of more than 64 at once some are not waited for */
		c->birth = 1 + (unsigned)__builtin_ctzll(~busy);
		bit = (uint64_t)1 << (c->birth - 1);
		if (__atomic_fetch_or(&plan->births, bit, __ATOMIC_SEQ_CST) & bit)
			continue;
		c->birth_turn = __atomic_add_fetch(&plan->birth_turns[c->birth - 1], 1, __ATOMIC_SEQ_CST);
		return;
	}
	c->birth = 0;
}

/* By its maker, or by who has waited long enough: the maker was stopped, or killed. */
static void end_birth(struct plan *plan, unsigned n, uint32_t turn)
{
	if (__atomic_compare_exchange_n(&plan->birth_turns[n], &turn, turn + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		__atomic_fetch_and(&plan->births, ~((uint64_t)1 << n), __ATOMIC_SEQ_CST);
}

void owner_made(struct call *c)
{
	if (c->birth)
		end_birth(c->core->plan, c->birth - 1, c->birth_turn);
	c->birth = 0;
}

struct owner *owner_settled(struct core *k, const struct stat *st, struct owner *(*look)(struct core *, const struct stat *))
{
	struct plan *plan = k->plan;
	uint64_t births = being_born(k) ? plan->births : 0;
	struct owner *o = look(k, st);
	ktimespec now = { 0, 0 };
	uint32_t turns[64];

	if (!births || (o && o->flags & OWNER_SET) || st->st_dev != plan->upper_dev)
		return o;
	sys_clock_gettime(0, &now);
	if (now.tv_sec > (int64_t)st->st_ctime + 1)
		return o;
	for (unsigned n = 0; n < 64; n++)
		turns[n] = plan->birth_turns[n];
	for (int i = 0; i < NAPS && births && !(o && o->flags & OWNER_SET); i++) {
		ktimespec nap = { 0, MIN(i - YIELDS + 1, 10) * 100000 };

		if (i < YIELDS)
			sys_sched_yield();
		else
			sys_nanosleep(&nap);
		for (unsigned n = 0; n < 64; n++)
			if (plan->birth_turns[n] != turns[n])
				births &= ~((uint64_t)1 << n);
		births &= plan->births;
		o = look(k, st);
	}
	for (unsigned n = 0; n < 64 && !(o && o->flags & OWNER_SET); n++)
		if (births >> n & 1)
			end_birth(plan, n, turns[n]);
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
