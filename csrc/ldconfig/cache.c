/* The file: a header of 48 bytes, an entry of 24 for each library in falling order of names, and their strings. */
#include "ldconfig/ldconfig.h"

static struct lib {
	uint32_t path, name; /* in the strings; the name is the path's last part */
	int32_t flags;
	uint32_t number;
} libs[MAX_LIBS];
static uint32_t n_libs, used;
static char strings[4 << 20];

struct header {
	char magic[20];
	uint32_t n, size;
	uint8_t little_endian, pad[3];
	uint32_t extensions, unused[3];
};
struct entry {
	int32_t flags;
	uint32_t name, path, version;
	uint64_t capabilities;
};
_Static_assert(sizeof(struct header) == 48 && sizeof(struct entry) == 24, "as ld.so maps it");
static const char MAGIC[20] = "glibc-ld.so.cache1.1";

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

int name_order(const char *a, const char *b)
{
	for (;;) {
		if (digit(*a) && digit(*b)) {
			unsigned x = 0, y = 0;
			while (digit(*a))
				x = x * 10 + (unsigned)(*a++ - '0');
			while (digit(*b))
				y = y * 10 + (unsigned)(*b++ - '0');
			if (x != y)
				return x < y ? -1 : 1;
		} else if (digit(*a) != digit(*b) && *a && *b) {
			return digit(*a) ? 1 : -1; /* a number is more than any letter */
		} else if (*a != *b || !*a) {
			return *a - *b;
		} else {
			a++;
			b++;
		}
	}
}

void cache_add(const char *directory, const char *name, int flags)
{
	size_t n = strlen(directory) + strlen(name) + 2;

	if (n_libs == MAX_LIBS || used + n > sizeof strings)
		fatal("too many libraries, at", name, 0);
	fmt(strings + used, n, "%s/%s", directory, name);
	libs[n_libs] = (struct lib){ used, used + (uint32_t)strlen(directory) + 1, flags, n_libs };
	n_libs++;
	used += (uint32_t)n;
}

/* Must the first come after the second? Among those of one name: other machines' last, then the directories' order. */
static bool after(const struct lib *a, const struct lib *b)
{
	int r = name_order(strings + a->name, strings + b->name);

	return r ? r < 0 : a->flags != b->flags ? a->flags < b->flags : a->number > b->number;
}

static void sort(void)
{
	for (uint32_t gap = n_libs / 2; gap; gap /= 2)
		for (uint32_t i = gap; i < n_libs; i++) {
			struct lib one = libs[i];
			uint32_t at = i;
			for (; at >= gap && after(&libs[at - gap], &one); at -= gap)
				libs[at] = libs[at - gap];
			libs[at] = one;
		}
}

void cache_write(const char *path)
{
	struct header h = { .n = n_libs, .size = used, .little_endian = 2 };
	const uint32_t base = (uint32_t)(sizeof h + n_libs * sizeof(struct entry));
	static struct entry entries[MAX_LIBS];
	char part[4096];
	long fd, r;

	memcpy(h.magic, MAGIC, sizeof h.magic);
	sort();
	for (uint32_t i = 0; i < n_libs; i++)
		entries[i] = (struct entry){ .flags = libs[i].flags, .name = base + libs[i].name, .path = base + libs[i].path };
	if (fmt(part, sizeof part, "%s~", path) >= sizeof part)
		fatal("too long:", path, 0);
	fd = sys_open(part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		fatal("cannot create", part, fd);
	r = write_all((int)fd, &h, sizeof h);
	if (r >= 0)
		r = write_all((int)fd, entries, n_libs * sizeof *entries);
	if (r >= 0)
		r = write_all((int)fd, strings, used);
	if (r >= 0)
		r = sys_renameat2(AT_FDCWD, part, AT_FDCWD, path, 0);
	if (r < 0) {
		sys_unlinkat(AT_FDCWD, part, 0);
		fatal("cannot write", path, r);
	}
	sys_close((int)fd);
}

void cache_print(const char *path)
{
	static char file[sizeof(struct header) + MAX_LIBS * sizeof(struct entry) + sizeof strings + 1];
	const struct header *h = (const void *)file;
	long n = read_file(AT_FDCWD, path, file, sizeof file);

	if (n < 0)
		fatal("cannot open", path, n);
	if (n < (long)sizeof *h || memcmp(h->magic, MAGIC, sizeof h->magic) || h->n > ((uint64_t)n - sizeof *h) / sizeof(struct entry))
		fatal("not a cache:", path, 0);
	say(1, "%u libs found in cache `%s'\n", h->n, path);
	for (uint32_t i = 0; i < h->n; i++) {
		const struct entry *e = (const struct entry *)(file + sizeof *h) + i;
		if (e->name >= (uint64_t)n || e->path >= (uint64_t)n)
			fatal("not a cache:", path, 0);
		say(1, "\t%s (libc6%s) => %s\n", file + e->name, e->flags == 0x303 ? ",x86-64" : e->flags == 0x803 ? ",x32" : "",
		    file + e->path);
	}
}
