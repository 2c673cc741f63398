/* The core in an ordinary program: guest memory is this program's own. */
#ifndef HOSTED_H
#define HOSTED_H

#include "core/calls.h"

/* The kernel's headers and libc's do not go together: what is used of libc is declared here. */
int printf(const char *format, ...) PRINTF(1, 2);
int snprintf(char *to, size_t size, const char *format, ...) PRINTF(3, 4);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void free(void *p);
NORETURN void abort(void);
char *getenv(const char *name);
void *popen(const char *command, const char *mode);
size_t fread(void *to, size_t size, size_t n, void *stream);
int pclose(void *stream);
char *strstr(const char *text, const char *part);

/* A container in `home`: upper/, work/, lower/, a file and a directory bound; everything made if it is not there. */
void hosted_start(struct core *k, const char *home, unsigned options);
/* Guest memory, for the core to read and write; all but the first page at the start. */
extern uintptr_t guest_low, guest_high;
long hosted_call(struct core *k, long nr, ...);

#endif
