/* Changing code, and making what it then jumps to.
 *
 * Everything is relative, so that the result serves wherever code and arena are mapped at the same distance; only
 * the engine's own entries are absolute, in two stubs, because the engine has a fixed address.
 */
#include "preload/code.h"

#define STUB 16
#define ROOM 80 /* for one site, at most */

struct out {
	uint8_t *arena;
	size_t at;
	int64_t distance; /* arena's address minus code's */
};

size_t arena_size(const struct sites *s)
{
	return (sizeof(struct arena) + 2 * STUB + s->n * (ROOM + sizeof(struct trap)) + 4095) & ~(size_t)4095;
}

static void put(struct out *o, const void *bytes, size_t n)
{
	memcpy(o->arena + o->at, bytes, n);
	o->at += n;
}

static void put_byte(struct out *o, uint8_t b)
{
	o->arena[o->at++] = b;
}

/* The last four bytes of an instruction: the distance from its end to an offset of the arena, or of the code. */
static void put_distance(struct out *o, int64_t to)
{
	int32_t d = (int32_t)(to - (int64_t)o->at - 4);

	put(o, &d, 4);
}

static void put_distance_to_code(struct out *o, uint32_t at)
{
	put_distance(o, (int64_t)at - o->distance);
}

static void jump_to_code(struct out *o, uint32_t at)
{
	put_byte(o, 0xe9);
	put_distance_to_code(o, at);
}

/* mov $entry, %r11; jmp *%r11 */
static void stub(struct out *o, uint64_t entry)
{
	size_t end = o->at + STUB;

	put(o, "\x49\xbb", 2);
	put(o, &entry, 8);
	put(o, "\x41\xff\xe3", 3);
	o->at = end;
}

/* lea somewhere(%rip), %rcx: what is behind it is the caller's to write. */
static void lea_rcx(struct out *o)
{
	put(o, "\x48\x8d\x0d", 3);
}

/* A call that is made, and goes on behind the site. */
static uint32_t real_call(struct out *o, const struct site *s)
{
	uint32_t at = (uint32_t)o->at;

	put(o, "\x0f\x05", 2);
	jump_to_code(o, s->at + 2);
	return at;
}

/* Writes the jump from the site's window up to `to`. Last of all: code may be what is copied from. */
static void jump_there(const struct out *o, uint8_t *code, const struct site *s, size_t to, size_t there)
{
	int32_t d = (int32_t)((int64_t)there + o->distance - (int64_t)s->from - 5);

	code[s->from] = 0xe9;
	memcpy(code + s->from + 1, &d, 4);
	memset(code + s->from + 5, 0xcc, to - s->from - 5);
}

static void change(struct out *o, const struct text *t, const struct site *s, uint8_t *code, const struct arena *a, struct trap *trap)
{
	const uint8_t *was = t->bytes;
	bool known = s->nr >= 0;
	size_t there = o->at;

	if (trap)
		trap->at = trap->call = 0;
	if (trap && s->method == TRAPPED) {
		trap->at = s->at;
		memcpy(code + s->at, "\x0f\x0b", 2);
		if (!s->foreign)
			trap->call = real_call(o, s);
		return;
	}
	put(o, was + s->from, s->at - s->from);
	lea_rcx(o);
	if (s->method == BEFORE) {
		/* rcx: where to go on; or, for the entry that decides by number, the instruction to make the call with. */
		put_distance_to_code(o, known ? s->at + 2 : s->at);
		put_byte(o, 0xe9);
		put_distance(o, a->stubs + (known ? 0 : STUB));
		if (known && trap) {
			trap->at = s->at;
			trap->call = real_call(o, s);
			memcpy(code + s->at, "\x0f\x0b", 2); /* a jump that we do not know of would come here */
		}
		jump_there(o, code, s, s->at, there);
		return;
	}
	put_distance(o, (int64_t)o->at + 4 + 5 + (known ? 2 : 0));
	put_byte(o, 0xe9);
	put_distance(o, a->stubs + (known ? 0 : STUB));
	put(o, "\x0f\x05", 2);
	put(o, was + s->at + 2, s->to - s->at - 2);
	jump_to_code(o, s->to);
	jump_there(o, code, s, s->to, there);
}

void rewrite(const struct text *t, const struct sites *s, uint8_t *code, uint8_t *arena, int64_t distance, uint64_t known,
	     uint64_t unknown, bool all)
{
	struct out o = { arena, sizeof(struct arena), distance };
	struct arena a = { .magic = ARENA_MAGIC, .size = (uint32_t)arena_size(s), .stubs = sizeof a };
	struct trap *traps, one;

	stub(&o, known);
	stub(&o, unknown);
	a.traps = (uint32_t)((sizeof a + 2 * STUB + s->n * ROOM + 7) & ~(size_t)7);
	traps = (struct trap *)(void *)(arena + a.traps);
	for (size_t i = 0; i < s->n; i++) {
		if (s->list[i].method == LEFT || (s->list[i].method == TRAPPED && !all))
			continue;
		change(&o, t, &s->list[i], code, &a, all ? &one : NULL);
		if (all && one.at)
			traps[a.n_traps++] = one;
	}
	memcpy(arena, &a, sizeof a);
}
