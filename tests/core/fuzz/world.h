/* One container for a fuzzer: its trees are made once and put back after each input. */
#ifndef WORLD_H
#define WORLD_H

#include "fuzz/checked.h"

extern struct core world; /* its plan is mapped */
extern char *guest;       /* GUEST_SIZE bytes of the guest's memory, nothing before and behind */
#define GUEST_SIZE 65536UL
#define BUFFER 16384UL /* from here on it is free for what is no path */

enum variant { PLAIN_ROOT = 1, ROOT_ID = 2, OWNERS = 4, WHITEOUT_FILES = 8, RECORD_BY_PATH = 16, ORDINARY_ID = 32, NOTED = 64,
	       TWICE = 128 /* calls.c: played again without what is remembered */ };
enum more { TRACED = 1, EMULATED = 2, NO_CHANGES = 4, NO_NAME = 8, NO_SOCKETS = 16 };

void world_start(void);
/* Before an input: the container of this variant, with no failures to come. */
void world_enter(unsigned variant);
void world_more(unsigned more);
/* After it: descriptors that the core forgot are found, what was written is removed. */
void world_leave(void);
/* trees.c: all that is in the trees; a part of it, to be put back. */
void make_trees(void);
void populate(const char *tree);
void directory(const char *dir, const char *name);
void text_file(const char *dir, const char *name, const char *text, unsigned mode);
/* A number of all that is in a tree, by its host path: names, kinds, modes, sizes, links, attributes. */
uint64_t tree_digest(const char *host, bool show);
/* Makes the record of changes empty. */
void world_changes(void);
/* Removes a directory of the world with what is in it. */
void world_remove(const char *name);
/* The host path of a name in the world. */
const char *world_path(const char *name);
void world_file(const char *name, const void *data, size_t n, unsigned mode);
/* core_call and find_program with memory that was never cleared: it is full of this. */
extern unsigned char world_litter;
/* How many of the lowest are open; unless it is as many as expected (-1: any number), that is told and the end. */
int world_descriptors(int expected);
long world_call(struct call *c);
long world_program(int dfd, const void *path, long flags, bool become);

#endif
