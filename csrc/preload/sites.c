/* Finding the instructions that make system calls, and what each can be replaced by.
 *
 * The two bytes of one may be part of another instruction, or data. Inside a known function the instructions are
 * decoded from its start. Elsewhere decoding starts at several places before, and as instructions fall into step
 * after a few, what nearly all of them meet is one.
 */
#include "preload/code.h"

#include <linux/mman.h>

#define CHAINS 16
#define REACH_BACK 96
#define LOOK_AHEAD 160
#define KNOWN_AROUND 64 /* instructions are kept that far before and after a site */

struct step {
	uint32_t at;
	struct insn i;
};

struct finder {
	const struct text *t;
	const uint8_t *verdicts;
	uint8_t *near, *targets; /* bits by offset: close to a site; jumped to */
	struct step steps[KNOWN_AROUND * 4];
	int n_steps, site; /* the index of the site among the steps */
};

static bool bit(const uint8_t *map, size_t i)
{
	return map[i / 8] >> (i % 8) & 1;
}

static void set_bit(uint8_t *map, size_t i)
{
	map[i / 8] |= (uint8_t)(1 << (i % 8));
}

static bool looks_like(const uint8_t *p)
{
	return (p[0] == 0x0f && (p[1] == 0x05 || p[1] == 0x34)) || (p[0] == 0xcd && p[1] == 0x80);
}

#define ONES 0x0101010101010101ULL
static uint64_t has_byte(uint64_t word, uint8_t byte)
{
	uint64_t x = word ^ (ONES * byte);

	return (x - ONES) & ~x & (ONES << 7);
}

/* The next offset >= at with bytes that look like a call; `to` when there is none. */
static size_t next_candidate(const uint8_t *p, size_t at, size_t to)
{
	uint64_t word;

	for (; at + 9 <= to; at += 8) {
		memcpy(&word, p + at, 8);
		if (!has_byte(word, 0x0f) && !has_byte(word, 0xcd))
			continue;
		for (int i = 0; i < 8; i++)
			if (looks_like(p + at + i))
				return at + (size_t)i;
	}
	for (; at + 2 <= to; at++)
		if (looks_like(p + at))
			return at;
	return to;
}

/* Decodes from `from` and tells whether an instruction begins at `at`. What is none is stepped over bytewise. */
static bool meets(const struct text *t, size_t from, size_t at)
{
	struct insn i;

	while (from < at)
		from += MAX(insn_decode(t->bytes + from, t->n - from, &i), 1);
	return from == at;
}

/* What a compiler or a programmer puts beside a system call. */
static bool has_company(const struct text *t, const struct range *r, size_t at)
{
	const uint8_t *p = t->bytes + at;
	size_t before = at - r->from, after = r->to - at - 2;

	if (before >= 5 && p[-5] == 0xb8 && !p[-2] && !p[-1])
		return true;
	if (before >= 2 && (p[-2] == 0x31 || p[-2] == 0x33) && p[-1] == 0xc0)
		return true;
	if (before >= 3 && p[-3] == 0x6a && p[-1] == 0x58)
		return true;
	return after >= 6 && (p[2] == 0xc3 || p[2] == 0xf4 || !memcmp(p + 2, "\x48\x3d", 2) || !memcmp(p + 2, "\x48\x85\xc0", 3));
}

/* Nothing from `from` to a few instructions behind the call is what no program contains: of tables hardly one is so. */
static bool plausible(const struct text *t, size_t from, size_t at)
{
	struct insn i;

	for (int after = 0; after < 8;) {
		if (!insn_decode(t->bytes + from, t->n - from, &i) || i.flags & I_ODD)
			return false;
		if (from > at && i.flags & I_END)
			return true;
		after += from >= at;
		from += i.len;
	}
	return true;
}

enum what { IS_DATA, IS_CALL, IS_UNDECIDED };

/* `from` is where decoding may begin to see the call and what is around it. */
static enum what judge(const struct text *t, const struct range *r, size_t at, size_t *from)
{
	static const uint8_t restorer[] = { 0x48, 0xc7, 0xc0, 15, 0, 0, 0 }; /* mov $rt_sigreturn, %rax */
	size_t to;
	int met = 0;

	/* Its entry among the functions begins a byte early, so that a return address less one is found in it. */
	if (at - r->from >= sizeof restorer && !memcmp(t->bytes + at - sizeof restorer, restorer, sizeof restorer)) {
		*from = at - sizeof restorer;
		return IS_CALL;
	}
	if (function_of(t, r, at, from, &to))
		return meets(t, *from, at) ? IS_CALL : IS_DATA;
	for (int i = 0; i < CHAINS; i++) {
		size_t back = (size_t)REACH_BACK - 3 * (size_t)i, start = at - r->from > back ? at - back : r->from;

		if (meets(t, start, at)) {
			if (!met)
				*from = start;
			met++;
		}
	}
	if (!met)
		return IS_DATA;
	if (has_company(t, r, at) || (met == CHAINS && plausible(t, *from, at)))
		return IS_CALL;
	if (t->all_functions) /* all of the compiler's code is in functions; tables between them are not code */
		return met > CHAINS / 2 ? IS_UNDECIDED : IS_DATA;
	return met >= CHAINS * 3 / 4 ? IS_CALL : IS_DATA;
}

/* Jumps over any distance to what is close to a site: found bytewise, because where code begins is not known
 * everywhere. A wrong one costs little. */
static void far_jumps(struct finder *f)
{
	const struct text *t = f->t;

	for (int k = 0; k < t->n_ranges; k++) {
		const uint8_t *p = t->bytes;

		for (size_t i = t->ranges[k].from; i + 6 <= t->ranges[k].to; i++) {
			int32_t d;
			size_t to;

			if ((p[i] & 0xfe) == 0xe8)
				to = i + 5;
			else if (p[i] == 0x0f && (p[i + 1] & 0xf0) == 0x80)
				to = i + 6;
			else
				continue;
			memcpy(&d, p + to - 4, 4);
			to += (size_t)(int64_t)d;
			if (to < t->n && bit(f->near, to))
				set_bit(f->targets, to);
		}
	}
}

/* Decodes what is around a site. */
static void see(struct finder *f, const struct range *r, size_t at, size_t from)
{
	const struct text *t = f->t;
	size_t end = MIN(at + LOOK_AHEAD, r->to);

	f->n_steps = 0;
	f->site = -1;
	while (from < end) {
		struct step s = { (uint32_t)from, { 0 } };
		int n = insn_decode(t->bytes + from, t->n - from, &s.i);

		if (!n) {
			s.i.len = 1;
			s.i.flags = I_FIXED | I_END;
		}
		if (s.i.flags & I_BRANCH && from + (size_t)s.i.target < t->n)
			set_bit(f->targets, from + (size_t)s.i.target);
		if (from == at)
			f->site = f->n_steps;
		if (from + KNOWN_AROUND >= at && from <= at + KNOWN_AROUND && f->n_steps < (int)ARRAY_LEN(f->steps))
			f->steps[f->n_steps++] = s;
		from += s.i.len;
	}
}

/* The call's number, when it is set on the straight way here. */
static int number_of(const struct finder *f)
{
	if (bit(f->targets, f->steps[f->site].at))
		return -1;
	for (int k = f->site - 1; k >= 0; k--) {
		const struct step *s = &f->steps[k];

		if (s->i.flags & I_SETS_EAX)
			return s->i.value >= 0 && s->i.value < VERDICTS ? s->i.value : -1;
		if (!(s->i.flags & I_KEEPS_RAX) || bit(f->targets, s->at))
			return -1;
	}
	return -1;
}

/* Makes the window that ends before step `end` five bytes long at least, by instructions that can be moved and are
 * not jumped to. Returns the first step, or -1. */
static int extend_back(const struct finder *f, int end, size_t have, size_t limit)
{
	int k = end;

	while (have < 5) {
		if (k == 0 || (k < end && bit(f->targets, f->steps[k].at)))
			return -1;
		k--;
		if (f->steps[k].i.flags & (I_FIXED | I_END) || f->steps[k].at < limit)
			return -1;
		have += f->steps[k].i.len;
	}
	return k;
}

static void decide(struct finder *f, struct site *s, size_t limit)
{
	const struct step *here = &f->steps[f->site];
	int first, last;
	size_t have = 2;

	s->nr = (int16_t)number_of(f);
	s->from = s->at;
	s->to = s->at + 2;
	s->foreign = here->i.flags & I_INT80;
	s->method = TRAPPED;
	if (s->foreign)
		return;
	if (s->nr >= 0 && f->verdicts[s->nr] == PASS) {
		s->method = LEFT;
		return;
	}
	if (s->nr >= 0 && f->verdicts[s->nr] >= JUDGE_CLONE)
		s->nr = -1;
	if (f->t->small_stacks)
		return;
	if (!bit(f->targets, s->at)) {
		first = extend_back(f, f->site, 0, limit);
		if (first >= 0) {
			s->method = BEFORE;
			s->from = f->steps[first].at;
			return;
		}
	}
	for (last = f->site + 1; have < 5; last++) {
		if (last >= f->n_steps || f->steps[last].i.flags & (I_FIXED | I_END) || bit(f->targets, f->steps[last].at))
			break;
		have += f->steps[last].i.len;
	}
	if (have >= 5) {
		s->method = AROUND;
		s->to = f->steps[last - 1].at + f->steps[last - 1].i.len;
		return;
	}
	if (bit(f->targets, s->at))
		return;
	first = extend_back(f, f->site, have, limit);
	if (first < 0)
		return;
	s->method = AROUND;
	s->from = f->steps[first].at;
	s->to = f->steps[last - 1].at + f->steps[last - 1].i.len;
}

static size_t collect(const struct text *t, struct site *list, size_t *undecided)
{
	size_t n = 0, from = 0;

	*undecided = 0;
	for (int k = 0; k < t->n_ranges; k++) {
		const struct range *r = &t->ranges[k];

		for (size_t at = next_candidate(t->bytes, r->from, r->to); at < r->to; at = next_candidate(t->bytes, at + 1, r->to)) {
			if (!list) {
				n++;
				continue;
			}
			switch (judge(t, r, at, &from)) {
			case IS_CALL:
				list[n++] = (struct site){ .at = (uint32_t)at, .from = (uint32_t)from, .nr = (int16_t)k };
				break;
			case IS_UNDECIDED: ++*undecided; break;
			case IS_DATA: break;
			}
		}
	}
	return n;
}

long find_sites(const struct text *t, const uint8_t verdicts[VERDICTS], struct sites *s)
{
	size_t candidates, maps = t->n / 8 + 64, limit = 0;
	struct finder *f;

	memset(s, 0, sizeof *s);
	candidates = collect(t, NULL, &s->undecided);
	if (!candidates)
		return 0;
	s->memory_size = sizeof *f + 2 * maps + (candidates + 1) * sizeof *s->list;
	s->memory = sys_mmap(NULL, s->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)s->memory)) {
		s->memory = NULL;
		return -ENOMEM;
	}
	f = s->memory;
	f->t = t;
	f->verdicts = verdicts;
	f->near = (uint8_t *)(f + 1);
	f->targets = f->near + maps;
	s->list = (struct site *)(void *)(((uintptr_t)(f->targets + maps) + 7) & ~(uintptr_t)7);
	s->n = collect(t, s->list, &s->undecided);
	if (!s->n)
		return 0;
	for (size_t i = 0; i < s->n; i++)
		for (size_t at = s->list[i].at > 32 ? s->list[i].at - 32 : 0; at < MIN(s->list[i].at + 32UL, t->n); at++)
			set_bit(f->near, at);
	far_jumps(f);
	for (size_t i = 0; i < s->n; i++) {
		struct site *site = &s->list[i];

		see(f, &t->ranges[site->nr], site->at, site->from);
		if (f->site < 0)
			return -EINVAL; /* cannot be: it was judged by the same steps */
		decide(f, site, limit);
		limit = site->method == LEFT ? (size_t)site->at + 2 : site->to;
	}
	return 0;
}

void free_sites(struct sites *s)
{
	if (s->memory)
		sys_munmap(s->memory, s->memory_size);
	s->memory = NULL;
}
