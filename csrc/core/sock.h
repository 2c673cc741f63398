/* What the calls that name sockets have in common, whatever the structures they are told by. */
#ifndef UDK_CORE_SOCK_H
#define UDK_CORE_SOCK_H

#include "core/calls.h"

#define SOL_SOCKET_ 1
#define SCM_CREDENTIALS_ 2
#define AF_UNIX_ 1
#define UN_MAX 108
#define UN_SIZE (2 + UN_MAX) /* of the whole address */

struct address {
	uint16_t family;
	char path[UN_MAX];
	char spare[20]; /* other families are up to 128 bytes */
	uint32_t len;
	bool brief; /* to be bound by this name, then to be given its own */
};

/* Translates a guest's address. 1: into `a`; 0: not a path, to be passed as it is. */
long address_in(struct call *c, const void *from, unsigned long len, bool make, struct address *a);
/* What the guest sees of an address that the kernel gave. */
void address_out(struct call *c, struct address *a);
/* The same of a name in the work's `text`; its length there, or -errno: the guest has no name for it. */
long socket_name(struct call *c);
/* A message's process, user and group: the guest's ids become the caller's, and back. -EPERM: they are not the sender's. */
long credentials_change(struct call *c, uint32_t ids[3], bool out);

#endif
