/* The paths of an input: up to five names, each one byte. */
#undef UDK_CHECKED
#include "fuzz/play.h"

static const char *const names[64] = {
	"", "a", "b", "f", "etc", "passwd", "up", "link", "loop", "dangling", "host", "two", "x", "sub", "script", "elf", /* 0 */
	"mnt", "file", "proc", "fproc", "self", "7", "exe", "cwd", "root", "fd", "0", "1", "3", "4", "5", "maps",         /* 16 */
	"smaps", "mounts", "mountinfo", "task", "map_files", ".", "..", "tmp", "many", "ro", "n", "numa_maps", "dev", "sock", "fifo", ".wh.f", /* 32 */
	".wh.", "ld.so", "with space", "new\nline", "6", "8", "9", NULL, NULL, NULL, NULL, "etc/../a", "...", "fdinfo", "status", "hard", /* 48 */
};

static size_t name_of(unsigned i, char *to)
{
	if (names[i])
		return str_copy(to, names[i], 300);
	switch (i) {
	case 55: memset(to, 'x', 255); return 255;
	case 56: memset(to, 'x', 256); return 256;
	case 57: memset(to, 'y', 252); return 252;
	default: /* the deep chain of the lower tree */
		for (int k = 0; k < 19; k++) {
			memset(to + k * 201, 'n', 200);
			to[k * 201 + 200] = '/';
		}
		return 19 * 201 - 1;
	}
}

/* Bits 0 to 5 are the name; bit 7 of the first makes it absolute, of others a second slash; bit 6 of the last ends
 * it with a slash. */
unsigned long words(char *to, const uint8_t p[5], bool bad)
{
	char text[24000];
	size_t n = 0;
	unsigned long at;

	if (p[0] & 0x80)
		text[n++] = '/';
	for (int i = 0; i < 5 && p[i]; i++) {
		if (i)
			text[n++] = '/';
		if (i && p[i] & 0x80)
			text[n++] = '/';
		n += name_of(p[i] & 63, text + n);
		if ((i == 4 || !p[i + 1]) && p[i] & 0x40)
			text[n++] = '/';
	}
	text[n] = 0;
	if (bad) { /* it ends where the guest's memory does */
		at = (unsigned long)(guest + GUEST_SIZE) - n;
		memcpy((void *)at, text, n);
		return at;
	}
	memcpy(to, text, MIN(n + 1, BUFFER / 2));
	to[BUFFER / 2 - 1] = 0;
	return (unsigned long)to;
}

const char *const known_paths[] = {
	"/proc/self/maps", "/proc/self/smaps", "/proc/self/mounts", "/proc/self/mountinfo", "/proc/self/exe", "/proc/self/cwd",
	"/proc/self/cwd/x", "/proc/self/root/etc/passwd", "/proc/self/fd/4", "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/5/x",
	"/proc/self/fd", "/proc/self", "/proc/1/exe", "/fproc/7/exe", "/fproc/7/cwd", "/fproc/7/root", "/fproc/7/fd/0", "/fproc/7/fd/1",
	"/fproc/7/fd/3", "/fproc/7/fd/4/b", "/fproc/7/map_files/1", "/fproc/7/task/7/exe", "/fproc/7/task/7/cwd", "/fproc/7/maps",
	"/fproc/7/smaps", "/fproc/7/mounts", "/fproc/7/mountinfo", "/fproc/self/exe", "/script", "/elf", "/two/script", "/a/b/ld.so", "/many",
	"/many/x", "/n", "/n/up", "/n/up/..", "/n/b", "/n/b/x", "/a/b", "/a/b/self/self", "/a/up/passwd", "/link/ro/x", "/mnt/sub/x", "/mnt/x", "/mnt/file",
	"/two", "/two/x", "/two/sub", "/tmp/x", "/tmp/sock", "/", "..", "../..", ".", "a/..", "x", "b", "self/x", "/host/x", "/dangling", "/loop/x",
	"/two/..", "/..", "/a/f", "/etc/passwd", "/file", "/link", "/tmp", "/a", "/proc/self/fd/4/..", "/a/b/x", "/tmp/x/../..", "/hard", "/dev", "/dev/x", "/with space/x", "/proc/self/status",
	"/fproc/7/status", "/fproc/7/numa_maps", "/proc/self/root", "/etc", "/tmp/b", "/proc/self/task/7/exe", "",
};

const unsigned n_known_paths = ARRAY_LEN(known_paths);

void encode(const char *text, uint8_t to[5])
{
	bool absolute = text[0] == '/';

	memset(to, 0, 5);
	if (str_eq(text, "/"))
		to[0] = 0x80 | 37;
	for (int i = 0; i < 5 && *text; i++) {
		size_t n = 0;
		text += *text == '/';
		while (text[n] && text[n] != '/')
			n++;
		if (*text == '@') /* so many bytes */
			to[i] = text[3] == '6' ? 56 : text[3] == '2' ? 57 : 55;
		for (unsigned k = 1; k < ARRAY_LEN(names); k++)
			if (n && (names[k] ? strlen(names[k]) == n && !memcmp(names[k], text, n) : k == 58 && n == 1 && *text == 'n'))
				to[i] = (uint8_t)k;
		text += n;
	}
	if (absolute)
		to[0] |= 0x80;
}

