/* Keeping changed code: written under a private name and renamed, so that whoever finds it finds all of it. */
#include "preload/keep.h"

#define CLOSE (256UL << 10) /* pieces nearer than that are one: a mapping more costs every process, a page more nobody */

void kept_name(const struct kept_id *id, char *to, size_t size)
{
	uint64_t twice[2 * sizeof *id / 8];

	memcpy(twice, id, sizeof *id);
	for (size_t i = 0; i < sizeof *id / 8; i++)
		twice[sizeof *id / 8 + i] = twice[i] * 0x9e3779b97f4a7c15ULL + i;
	fmt(to, size, "%s/%016lx%016lx", plan_text(&self.core, self.core.plan->code), text_hash((char *)twice, sizeof *id),
	    text_hash((char *)twice, sizeof twice));
}

/* The pages that were changed, as at most KEPT_SPANS pieces; of files that are not large all pages. */
void make_spans(struct kept *h, const struct sites *s)
{
	if (h->id.size <= WHOLE && h->distance == -(int64_t)h->arena_size && h->arena_size) {
		h->n_spans = 1;
		h->spans[0] = (struct kept_span){ 0, UP(h->id.size), 0 };
		return;
	}
	for (size_t gap = CLOSE;; gap *= 2) {
		h->n_spans = 0;
		for (size_t i = 0; i < s->n; i++) {
			const struct site *p = &s->list[i];
			struct kept_span *last = h->n_spans ? &h->spans[h->n_spans - 1] : NULL;

			if (p->method == LEFT)
				continue;
			if (last && DOWN(p->from) <= last->off + last->n + gap) {
				last->n = MAX(last->off + last->n, UP(p->to)) - last->off;
			} else {
				if (h->n_spans == KEPT_SPANS)
					goto next;
				h->spans[h->n_spans++] = (struct kept_span){ DOWN(p->from), UP(p->to) - DOWN(p->from), 0 };
			}
		}
		return;
next:;
	}
}

static long write_original(int fd, int of)
{
	char link[40], path[NAME_MAX];
	long n;

	fmt(link, sizeof link, "/proc/self/fd/%d", of);
	n = sys_readlinkat(AT_FDCWD, link, path, sizeof path);
	return n > 0 && n < (long)sizeof path && sys_pwrite(fd, path, (size_t)n, KEPT_ORIGINAL) != n ? -EIO : 0;
}

long write_kept(const char *name, struct kept *h, int of, const uint8_t *code, size_t code_size, const uint8_t *arena)
{
	char part[NAME_MAX + 40];
	uint64_t at = KEPT_ARENA + h->arena_size;
	long fd, r;

	fmt(part, sizeof part, "%s.%lx.%x", name, sys_getpid(), __atomic_add_fetch(&self.core.plan->counter, 1, __ATOMIC_RELAXED));
	fd = sys_open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return fd;
	r = 0;
	for (uint32_t i = 0; i < h->n_spans && !r; i++) {
		size_t n = MIN(h->spans[i].n, code_size - h->spans[i].off);

		h->spans[i].at = at;
		if (sys_pwrite((int)fd, code + h->spans[i].off, n, (int64_t)at) != (long)n)
			r = -EIO;
		at += h->spans[i].n;
	}
	if (!r)
		r = sys_ftruncate((int)fd, (int64_t)at);
	if (!r && h->arena_size && sys_pwrite((int)fd, arena, h->arena_size, KEPT_ARENA) != (long)h->arena_size)
		r = -EIO;
	if (!r)
		r = write_original((int)fd, of);
	if (!r && sys_pwrite((int)fd, h, sizeof *h, 0) != (long)sizeof *h)
		r = -EIO;
	if (!r)
		r = sys_renameat2(AT_FDCWD, part, AT_FDCWD, name, 0);
	if (r) {
		sys_unlinkat(AT_FDCWD, part, 0);
		sys_close((int)fd);
		return r;
	}
	return fd;
}

long read_kept(const char *name, const struct kept_id *id, struct kept *h)
{
	long fd = sys_open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0), r;
	struct kept found;

	if (fd < 0)
		return fd;
	r = sys_pread((int)fd, &found, sizeof found, 0);
	if (r == sizeof found && found.magic == KEPT_MAGIC && !memcmp(&found.id, id, sizeof *id) && found.n_spans <= KEPT_SPANS) {
		*h = found;
		return fd;
	}
	sys_close((int)fd);
	return -ENOENT;
}
