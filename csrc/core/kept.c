/* Kept files in a process's list of mappings. */
#include "core/kept.h"

long kept_line(struct core *k, const char *line, const char *path, char *to, size_t size, char *memory)
{
	const char *dash = str_chr(line, '-'), *mode = dash ? str_chr(dash, ' ') : NULL; /* START-END MODE OFFSET ... */
	const struct kept_span *span = NULL;
	uint64_t from, end, offset;
	struct kept h;
	size_t n;
	long fd, r;

	if (!mode || mode > path || strlen(mode) < 6 || !hex_at(line, &from) || !hex_at(dash + 1, &end) || !hex_at(mode + 6, &offset))
		return -1;
	fd = sys_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
	if (fd < 0)
		return -1;
	r = sys_pread((int)fd, &h, sizeof h, 0);
	if (r == sizeof h)
		r = sys_pread((int)fd, memory, GUEST_MAX - KEPT_ORIGINAL, KEPT_ORIGINAL);
	sys_close((int)fd);
	if (r <= 0 || h.magic != KEPT_MAGIC || h.n_spans > KEPT_SPANS)
		return -1;
	memory[MIN(r, GUEST_MAX - KEPT_ORIGINAL - 1)] = 0;
	if (offset == KEPT_ARENA && end - from > h.arena_size) { /* with what is behind the arena */
		from += h.arena_size;
		offset += h.arena_size;
	}
	for (uint32_t i = 0; i < h.n_spans; i++)
		if (offset >= h.spans[i].at && offset < h.spans[i].at + h.spans[i].n)
			span = &h.spans[i];
	if (!span || show_path(k, memory, strlen(memory)) < 0)
		return -1;
	n = fmt(to, size, "%08lx-%08lx %.5s%08lx %02x:%02x %lu ", from, end, mode + 1, offset - span->at + span->off,
		(unsigned)(h.id.dev >> 8 & 0xfff), (unsigned)((h.id.dev & 0xff) | (h.id.dev >> 12 & 0xfff00)), h.id.ino);
	while (n < 73 && n + 1 < size)
		to[n++] = ' ';
	return (long)(n + fmt(to + n, size - n, "%s", memory));
}
