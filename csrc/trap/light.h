/* Where the path of a light call leads: see light.c. */
#ifndef UDK_TRAP_LIGHT_H
#define UDK_TRAP_LIGHT_H

#include "trap/trap.h"
#include "core/index.h"

#define TEXT 192 /* on the guest's stack */

struct light {
	char text[TEXT];
	int dfd; /* what the kernel is told */
	const char *name;
	const char *last; /* the name alone */
	size_t last_len;
	uint32_t dir; /* that it is in, by its number in the index; 0: the kernel must be asked */
	uint8_t mount;
};

static inline bool is_name(const char *s)
{
	return *s && (s[0] != '.' || (s[1] && (s[1] != '.' || s[2])));
}

/* The guest's path without what only says that it begins here; its length, or less than 1. */
long path_of_guest(char text[TEXT], unsigned long path);
/* Does the path, relative to the descriptor, name a directory that the kernel finds from there? */
bool leads_below(int fd, char *text, size_t n, struct note *what);
/* Whether the kernel may look the path up, but for a link at its end. `wanted`: the index is worth a look at the descriptor. */
bool placed(struct light *l, int fd, unsigned long path, bool wanted);

#endif
