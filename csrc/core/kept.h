/* Files of changed code (csrc/preload/map.c writes them): their first page says what they stand for. */
#ifndef UDK_CORE_KEPT_H
#define UDK_CORE_KEPT_H

#include "core/core.h"

#define KEPT_MAGIC 0x3254504b4b4455ULL /* "UDKKPT2" */
#define KEPT_SPANS 8
#define KEPT_ORIGINAL 1024 /* offset of the original's host path, which ends with the page */
#define KEPT_ARENA 4096    /* offset of what changed code jumps to */

struct kept_id {
	uint64_t dev, ino, size, mtime, mtime_nsec, ctime, ctime_nsec;
	uint64_t engine; /* the build */
};

struct kept_span {
	uint64_t off, n, at; /* offset in the original, bytes, offset in the kept file */
};

struct kept {
	uint64_t magic;
	struct kept_id id;
	uint64_t arena, arena_size;
	int64_t distance; /* of the arena, from where the file's first byte is or would be */
	uint32_t n_spans, mark; /* mark: some changed bytes, to be found there */
	uint64_t mark_at;
	struct kept_span spans[KEPT_SPANS];
};
_Static_assert(sizeof(struct kept) <= KEPT_ORIGINAL, "one page holds both");

/* kept.c: a line of /proc/PID/maps that names a kept file, as it would be without one, into `to`; its length, or -1
 * when the line is the engine's and not to be shown. `memory` of GUEST_MAX bytes is used. */
long kept_line(struct core *k, const char *line, const char *path, char *to, size_t size, char *memory);

#endif
