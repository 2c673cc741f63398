/* What the store wrote down of the image's tree; see index.c. */
#ifndef UDK_CORE_INDEX_H
#define UDK_CORE_INDEX_H

#include "core/core.h"

/* The number of a directory of the lower, by its canonical path; of one in another. 0: not known yet, INDEX_NONE:
 * it has none. */
#define INDEX_NONE 0xffffffffU
uint32_t index_dir(struct core *k, const char *path, size_t n);
uint32_t index_below(struct core *k, uint32_t dir, const char *name, size_t n);
/* lstat of a name in a directory: 1 with st as the kernel would give it, 0: there is none, -1: not known. `plain`: it has
 * no attributes that a guest sees. */
int index_stat(struct core *k, uint32_t dir, const char *name, size_t n, struct stat *st, bool *plain);
long index_no_attribute(bool acl); /* what the kernel says then; 0: not known. After index_stat */
/* Can it be asked? `patience`: how much nearer to the opening of the file this question brings the process. */
#define INDEX_AT_ONCE 1000
bool index_ready(struct core *k, unsigned patience);
/* The inode of a directory, when it is ready; 0: it is not listed. Is it that of what was looked at? */
uint64_t index_ino(uint32_t dir);
bool index_is(struct core *k, uint32_t dir, const struct stat *st);
/* What a link leads to, without a NUL; NULL: not known. After index_stat. */
const char *index_target(struct core *k, uint32_t dir, const char *name, size_t n, size_t *len);
/* getdents64 of a directory, when it is ready, or INDEX_ASK: that is the kernel's. Is a descriptor's position one of these? */
#define INDEX_ASK (-4096L)
long index_list(struct core *k, uint32_t dir, int fd, void *to, size_t n);
bool index_lists(int64_t position);
void index_forget(void);

#endif
