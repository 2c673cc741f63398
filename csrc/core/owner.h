/* What the rooms of the owners share: entries.c (tables by inode), record.c (what the image says), owner.c (what is shown). */
#ifndef UDK_CORE_OWNER_H
#define UDK_CORE_OWNER_H

#include "core/core.h"

/* ---- entries.c ---------------------------------------------------------------------------------------- */

/* Most files have no entry anywhere: a bit tells, without a look at a table that is many pages. */
static inline volatile uint64_t *owned_word(struct core *k, uint64_t ino, uint64_t *bit)
{
	uint64_t h = ino * 0x9e3779b97f4a7c15ULL;

	*bit = (uint64_t)1 << (h >> 40 & 63);
	return &k->plan->owned[h >> 46 & (OWNED_WORDS - 1)];
}

void owned_add(struct core *k, uint64_t ino);
/* Finds or makes the entry in a table of `slots`. NULL: there is no room. */
struct owner *claim(struct owner *t, uint64_t slots, volatile uint64_t *used, uint64_t dev, uint64_t ino);

/* ---- record.c ----------------------------------------------------------------------------------------- */

struct record_entry {
	uint64_t path;
	uint32_t path_len, mode, uid, gid, major, minor;
	uint64_t xattrs;
	uint32_t xattrs_len, flags;
};

/* By canonical path (without its first slash). */
const struct record_entry *record_find(struct core *k, const char *path, size_t n);
void from_entry(struct owner *o, const struct record_entry *e);

#endif
