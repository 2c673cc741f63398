/* What the fuzzers of a guest's calls share: an input is a container's options and a sequence of records. */
#ifndef PLAY_H
#define PLAY_H

#include "fuzz/world.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct record { /* flags, mode and misc: as the call has use for them, see play.c */
	uint8_t op, fds /* two nibbles */, flags[2], mode, misc, p[5], q[5] /* paths, see words.c */;
};
#define HEADER 8
#define RECORD 16
#define MAX_RECORDS 40
#define SLOTS 6
#define IN (guest + BUFFER)
#define OUT (guest + 2 * BUFFER)
#define OUT_SIZE (GUEST_SIZE - 2 * BUFFER)

struct shape {
	long nr;
	const char *args;
};
extern const struct shape shapes[96];
/* From here on an op is no single call. */
enum { WRITE_FILE = 96, PROGRAM, CLOSE, NAME_SOCKET, SEND, RECEIVE, PAIR, LEAVE_ROOT, PUT, STREAM, REMAIN, NEXT_RUN, N_OPS };

/* play.c */
extern int slot[SLOTS], turn, watcher; /* the guest's descriptors */
int descriptor(unsigned i);
void keep_fd(long fd);
extern long (*make_call)(struct call *c); /* world_call, or somebody who looks at it */
extern void (*next_run)(void);
long guest_call(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f);
void play_start(void);
void play(const struct record *r);
void play_end(void);
/* The failures to come, from an input's header. */
void play_failures(const uint8_t *header);

/* acts.c */
void fill_file(const struct record *r, bool new_name);
void name_socket(const struct record *r);
void send_receive(const struct record *r, bool out);

/* words.c: the path in guest memory, at `to` or, `bad`, where the guest's memory ends before its NUL. */
unsigned long words(char *to, const uint8_t p[5], bool bad);
void encode(const char *text, uint8_t to[5]);
extern const char *const known_paths[];
extern const unsigned n_known_paths;

/* scenes.c: the records of a scene, at most MAX_SCENE. */
#define MAX_SCENE 18
extern const unsigned n_scenes;
size_t scene(unsigned n, struct record *to);
/* Makes inputs of them all, with each first byte, in the directory that FUZZ_SCENES names. */
void write_scenes(const char *dir, const uint8_t *variants, unsigned n);

#endif
