/* Headers of ELF files, of programs of 64 and of 32 bits alike. */
#ifndef UDK_CORE_ELF_H
#define UDK_CORE_ELF_H

#include "sys/sys.h"

#ifdef UDK_HOSTED
#include <elf.h>
#else
#include <linux/elf-em.h>
#include <linux/elf.h>
#endif

/* The header of an i386 program, as it would be of 64 bits; false: it is none. */
bool elf_widen(Elf64_Ehdr *to, const char *head, long n);
/* The program headers of either kind; 0, -ENOEXEC for a wrong size or number, or what the reading gave. */
long elf_program_headers(int fd, const Elf64_Ehdr *e, Elf64_Phdr *to, unsigned most);

#endif
