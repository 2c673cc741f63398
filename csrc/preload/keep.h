/* What was found out about a file's code, in a file of its own. */
#ifndef UDK_PRELOAD_KEEP_H
#define UDK_PRELOAD_KEEP_H

#include "core/kept.h"
#include "preload/eager.h"

#define NAME_MAX 512
#define WHOLE (4UL << 20) /* files up to that size are kept whole */

/* Its path. */
void kept_name(const struct kept_id *id, char *to, size_t size);
/* Of what was changed. */
void make_spans(struct kept *h, const struct sites *s);
/* The new file's descriptor, or -errno and nothing is left; `of` is the original. */
long write_kept(const char *name, struct kept *h, int of, const uint8_t *code, size_t code_size, const uint8_t *arena);
/* A descriptor and *h, or -errno with *h as it was. */
long read_kept(const char *name, const struct kept_id *id, struct kept *h);

#endif
