/* Kept files in a process's list of mappings. */
#include "core/kept.h"

long kept_line(struct core *k, const char *line, const char *path, char *to, size_t size, char *memory)
{
	const struct kept_span *span = NULL;
	const char *word = line;
	uint64_t offset = 0;
	struct kept h;
	size_t used, n;
	long fd, r;

	for (int i = 0; i < 2 && word; i++) { /* after the range and the permissions */
		word = str_chr(word, ' ');
		word = word ? word + 1 : NULL;
	}
	if (!word)
		return -1;
	for (used = (size_t)(word - line); *word && *word != ' '; word++)
		offset = offset << 4 | (uint64_t)(*word >= 'a' ? *word - 'a' + 10 : *word - '0');
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
	for (uint32_t i = 0; i < h.n_spans; i++)
		if (offset >= h.spans[i].at && offset < h.spans[i].at + h.spans[i].n)
			span = &h.spans[i];
	if (!span || show_path(k, memory, strlen(memory)) < 0)
		return -1;
	memcpy(to, line, MIN(used, size));
	n = used + fmt(to + used, size - used, "%08lx %02x:%02x %lu ", offset - span->at + span->off,
		       (unsigned)(h.id.dev >> 8 & 0xfff), (unsigned)((h.id.dev & 0xff) | (h.id.dev >> 12 & 0xfff00)), h.id.ino);
	while (n < 73 && n + 1 < size)
		to[n++] = ' ';
	return (long)(n + fmt(to + n, size - n, "%s", memory));
}
