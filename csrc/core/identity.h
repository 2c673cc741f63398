/* What the handlers of the identity layer share: entries of files that overlayfs shows (identity.c). */
#ifndef UDK_CORE_IDENTITY_H
#define UDK_CORE_IDENTITY_H

#include "core/calls.h"

#define DEV_UPPER 0
#define DEV_LOWER 1

struct entries {
	struct owner *own, *shown; /* shown: NULL where overlayfs shows the upper's own inode */
};

/* Is this file of the container's root, which the records are about? */
bool in_root(const struct core *k, const struct stat *st);
/* Is what is behind fd in the upper? Its stat there. */
bool in_upper(struct call *c, int fd, struct stat *st);
/* What the guest changed, or NULL. */
struct owner *changed_entry(struct core *k, const struct stat *st);
/* What holds for a file: a copy; without flags where there is no entry. */
struct owner known(struct core *k, const struct stat *st);
/* The entries to be changed of what is behind fd, which is in the upper; `before` is what held so far. */
bool entries_of(struct call *c, int fd, const struct owner *before, struct entries *e);
void put_owner(struct entries *e, uint32_t uid, uint32_t gid);
void put_mode(struct entries *e, uint32_t mode, uint32_t rdev);
/* A file that the guest just made is its own. */
void new_file(struct call *c, int dfd, const void *path, int fd);

#endif
