/* Mutations that keep records whole. */
#undef UDK_CHECKED
#include "fuzz/play.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t an, const uint8_t *b, size_t bn, uint8_t *out, size_t max, unsigned seed);

static unsigned rnd(unsigned *state, unsigned n)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % n;
}

/* Bytes change inside of records; records come, go, and change places. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t n = size < HEADER ? 0 : (size - 8) / RECORD;
	uint8_t spare[RECORD], *records = data + 8, *at, *other;

	if (max < 8 + RECORD)
		return LLVMFuzzerMutate(data, size, max);
	if (size < HEADER)
		memset(data + size, 0, 8 - size);
	size = 8 + n * RECORD;
	at = records + (n ? rnd(&seed, (unsigned)n) : 0) * RECORD;
	other = records + (n ? rnd(&seed, (unsigned)n) : 0) * RECORD;
	switch (rnd(&seed, n ? 14 : 3)) {
	case 2: { /* a scene */
		struct record some[MAX_SCENE];
		size_t many = scene(rnd(&seed, n_scenes), some) * RECORD;

		if (size + many > max || n + many / RECORD > MAX_RECORDS)
			break;
		memmove(at + many, at, (size_t)(data + size - at));
		memcpy(at, some, many);
		return size + many;
	}
	case 10: case 11: case 12: /* known words */
		encode(known_paths[rnd(&seed, n_known_paths)], ((struct record *)at)->p);
		if (rnd(&seed, 3) == 0)
			encode(known_paths[rnd(&seed, n_known_paths)], ((struct record *)at)->q);
		return size;
	case 0: case 1: /* a new one */
		if (size + RECORD > max || n >= MAX_RECORDS)
			break;
		memmove(at + RECORD, at, (size_t)(data + size - at));
		for (int i = 0; i < RECORD; i++)
			at[i] = (uint8_t)rnd(&seed, 256);
		for (int i = 6; i < RECORD; i++) /* mostly short paths of the first names */
			if (rnd(&seed, 3) || i % 5 == 3)
				at[i] = (uint8_t)(i == 6 || i == 11 ? 0x80 | (1 + rnd(&seed, 20)) : i == 7 || i == 12 ? rnd(&seed, 20) : 0);
		at[0] = (uint8_t)rnd(&seed, N_OPS);
		if (rnd(&seed, 2))
			encode(known_paths[rnd(&seed, n_known_paths)], at + 6);
		return size + RECORD;
	case 13: /* one less */
		memmove(at, at + RECORD, (size_t)(data + size - at) - RECORD);
		return size - RECORD;
	case 3: /* the same once more */
		if (size + RECORD > max || n >= MAX_RECORDS)
			break;
		memmove(at + RECORD, at, (size_t)(data + size - at));
		return size + RECORD;
	case 4:
		memcpy(spare, at, RECORD);
		memcpy(at, other, RECORD);
		memcpy(other, spare, RECORD);
		return size;
	case 5: /* another call with the same words, or the same call with other words */
		if (rnd(&seed, 2))
			at[0] = (uint8_t)rnd(&seed, N_OPS);
		else
			memcpy(at + 6, other + 6 + (rnd(&seed, 2) ? 5 : 0), 5);
		return size;
	case 6:
		LLVMFuzzerMutate(data, 8, 8);
		return size;
	default:
		LLVMFuzzerMutate(at, RECORD, RECORD);
		return size;
	}
	LLVMFuzzerMutate(data, size, size);
	return size;
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t an, const uint8_t *b, size_t bn, uint8_t *out, size_t max, unsigned seed)
{
	size_t n = 0, take;

	if (an < 8 || bn < 8 || max < 8)
		return 0;
	memcpy(out, rnd(&seed, 2) ? a : b, 8);
	n = 8;
	take = rnd(&seed, (unsigned)((an - 8) / RECORD) + 1) * RECORD;
	take = MIN(take, (max - n) / RECORD * RECORD);
	memcpy(out + n, a + 8, take);
	n += take;
	size_t from = rnd(&seed, (unsigned)((bn - 8) / RECORD) + 1) * RECORD;
	take = MIN((bn - 8) / RECORD * RECORD - from, (max - n) / RECORD * RECORD);
	memcpy(out + n, b + 8 + from, take);
	return n + take;
}
