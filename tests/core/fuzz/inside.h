/* A container of the identity layer for a fuzzer: namespaces of its own, with an overlay as the root. */
#ifndef INSIDE_H
#define INSIDE_H

#include "fuzz/play.h"

/* Needs user namespaces: NULL, or what is missing. */
const char *inside_start(void);
/* Before an input: a fresh upper layer, on a device of its own or not; the process is inside. */
void inside_enter(bool two_devices, unsigned options, uint32_t id);
/* The next run of the same container. */
void inside_again(void);
void inside_leave(void);
/* Out of the container's root, for what is to be written outside of it; it may be called twice. */
void inside_out(void);

#endif
