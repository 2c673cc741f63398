/* What the quick ways to a place and the walk do to it alike. */
#ifndef UDK_CORE_PLACE_H
#define UDK_CORE_PLACE_H

#include "core/core.h"

static inline void fresh(struct place *p)
{
	p->dfd = AT_FDCWD;
	p->raw = p->self = p->slash = p->dot = p->dotdot = p->mounted = p->found = p->direct = p->magic = p->locked = false;
	p->dead = LIVES;
}

/* Appends the last name; whether it fits. */
static inline bool append(struct place *p, const char *name, size_t n)
{
	if (p->len + n + 1 >= GUEST_MAX)
		return false;
	p->guest[p->len] = '/';
	memcpy(p->guest + p->len + 1, name, n);
	p->len += (uint16_t)(n + 1);
	p->guest[p->len] = 0;
	return true;
}

static inline void at_mount(struct call *c, struct place *p)
{
	int m = mount_at(c->core, p->guest, p->len);

	if (m < 0)
		return;
	p->mount = (uint8_t)m;
	p->mounted = true;
	p->direct = false;
	p->kind = IN_PLAIN;
}

/* walk.c: name by name. */
long walk(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p);
/* The same after EACCES: a directory above may have been closed to whoever stands below it. */
long walk_from_below(struct call *c, int dfd, const char *path, size_t n, unsigned flags, struct place *p);

#endif
