/* Code that makes system calls, changed so that they come to the engine: without seccomp, without ptrace.
 *
 * elf.c says where a file's code and functions are, sites.c finds the instructions and decides how each can be
 * changed, rewrite.c changes a copy of the code and makes what it jumps to, map.c does it to what is mapped with
 * PROT_EXEC and keeps the result in files, for the next program that maps the same.
 */
#ifndef UDK_PRELOAD_CODE_H
#define UDK_PRELOAD_CODE_H

#include "preload/insn.h"

#define MAX_RANGES 24
#define CODE_VERSION 12 /* of all that decides how code is changed, and of how it is kept */

struct range {
	size_t from, to;  /* offsets */
	uint64_t address; /* of offset `from`, as the file says */
};

/* A file, or a piece of memory, with code in it. */
struct text {
	const uint8_t *bytes;
	size_t n;
	struct range ranges[MAX_RANGES];
	int n_ranges;
	uint64_t begin;   /* the address of the file's first byte, by its first segment */
	bool bent;        /* some code is not as far from that as in the file */
	const uint8_t *functions; /* .eh_frame_hdr with a sorted table, or NULL */
	uint64_t functions_at;    /* its address */
	size_t n_functions;
	bool all_functions;       /* nearly all code is in functions that the table has */
	bool small_stacks;        /* Go: calls are made on stacks that hold nothing else */
};

/* The code of an ELF file by its section headers, else by its program headers; of anything else all of it. */
void text_of_file(struct text *t, const void *bytes, size_t n);
void text_of_memory(struct text *t, const void *bytes, size_t n);
/* The function that offset `at` is in. */
bool function_of(const struct text *t, const struct range *r, size_t at, size_t *from, size_t *to);

enum method {
	LEFT,    /* a call that needs no answer from us: its number is in the instruction before it */
	BEFORE,  /* a jump in place of instructions before it; where the number is not known it stays and may be returned to */
	AROUND,  /* a jump in place of it and its neighbours */
	TRAPPED, /* an undefined instruction in its place */
};

struct site {
	uint32_t at;       /* offset of the instruction */
	uint32_t from, to; /* the window that is replaced */
	int16_t nr;        /* -1: not known before it runs */
	uint8_t method;
	bool foreign;      /* int 0x80, sysenter: refused */
};

/* What a call's number says of it; from JUDGE_CLONE on its arguments decide, and then it is judged where it runs. */
enum verdict { PASS, ANSWER, JUDGE_CLONE, JUDGE_FCNTL, JUDGE_EXEC, JUDGE_ARG };
#define VERDICTS 512

struct sites {
	struct site *list; /* ascending */
	size_t n;
	size_t undecided;  /* bytes that look like a call, among what is not known to be code */
	void *memory;      /* to be unmapped */
	size_t memory_size;
};

/* 0 or -ENOMEM. `verdicts`: by number, what need not be changed. */
long find_sites(const struct text *t, const uint8_t verdicts[VERDICTS], struct sites *s);
void free_sites(struct sites *s);

/* ---- rewrite.c */

/* At the start of what changed code jumps to. */
struct arena {
	uint64_t magic;
	uint32_t size, n_traps, traps, stubs; /* traps: offset of the table; stubs: of the two ways out */
};
struct trap {
	uint32_t at;   /* offset of the instruction, ascending */
	uint32_t call; /* offset in the arena of a real call that goes on behind it; 0: refused */
};
#define ARENA_MAGIC 0x414e455241414b55ULL

size_t arena_size(const struct sites *s);
/* Changes `code` (all of the text's bytes, writable) and fills `arena`; `distance` is from the address of code[0] to
 * that of the arena, `known` and `unknown` are the engine's entries for calls whose number is known or not. Unless `all`,
 * what cannot be changed into a jump stays, for a filter. */
void rewrite(const struct text *t, const struct sites *s, uint8_t *code, uint8_t *arena, int64_t distance, uint64_t known,
	     uint64_t unknown, bool all);

#endif
