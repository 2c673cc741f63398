/* ldconfig for guests of the preload engine, whose own is a static program: what makes ld.so find libraries in the
 * directories of /etc/ld.so.conf. Links by DT_SONAME, and /etc/ld.so.cache in the format that glibc reads since 2.2. */
#ifndef UDK_LDCONFIG_H
#define UDK_LDCONFIG_H

#include "sys/sys.h"

enum { MAX_LIBS = 32768, MAX_DIRS = 1024, NAME = 256 };

struct settings {
	bool only_arguments, no_cache, no_links, print;
	const char *conf, *cache;
};

NORETURN void fatal(const char *what, const char *name, long error);
void warn(const char *what, const char *name, long error);

/* elf.c: is this a shared library of a machine that ld.so.cache can tell? Its flags there, or 0; soname: its own name for
 * itself, or "". */
int elf_read(int fd, char soname[NAME]);

/* cache.c: all libraries, and the file. */
int name_order(const char *a, const char *b); /* as ld.so's search has it: numbers by their value */
void cache_add(const char *directory, const char *name, int flags);
void cache_write(const char *path);
void cache_print(const char *path);

#endif
