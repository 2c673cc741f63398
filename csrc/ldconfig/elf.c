#include "ldconfig/ldconfig.h"

enum { DYN = 3, I386 = 3, X86_64 = 62, MAX_HEADERS = 64, LOAD = 1, DYNAMIC = 2, STRTAB = 5, SONAME = 14 };

static uint64_t get(const uint8_t *at, int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | at[bytes];
	return v;
}

struct file {
	int fd;
	bool wide; /* 64 bits */
	unsigned n;
	uint8_t headers[MAX_HEADERS * 56];
};

struct segment {
	uint64_t type, offset, address, size;
};

static struct segment segment(const struct file *f, unsigned i)
{
	const uint8_t *p = f->headers + i * (f->wide ? 56U : 32U);

	return f->wide ? (struct segment){ get(p, 4), get(p + 8, 8), get(p + 16, 8), get(p + 32, 8) }
		       : (struct segment){ get(p, 4), get(p + 4, 4), get(p + 8, 4), get(p + 16, 4) };
}

/* Where an address of the loaded library is in the file; 0: nowhere. */
static uint64_t offset_of(const struct file *f, uint64_t address)
{
	for (unsigned i = 0; i < f->n; i++) {
		struct segment s = segment(f, i);
		if (s.type == LOAD && address >= s.address && address - s.address < s.size)
			return s.offset + (address - s.address);
	}
	return 0;
}

static void read_soname(const struct file *f, const struct segment *dynamic, char soname[NAME])
{
	static uint8_t table[16384];
	const int word = f->wide ? 8 : 4;
	uint64_t strings = 0, name = 0;
	long n = sys_pread(f->fd, table, MIN(dynamic->size, sizeof table), (int64_t)dynamic->offset);

	for (long at = 0; at + 2 * word <= n; at += 2 * word) {
		uint64_t tag = get(table + at, word), value = get(table + at + word, word);
		if (tag == STRTAB)
			strings = offset_of(f, value);
		else if (tag == SONAME)
			name = value;
		else if (!tag)
			break;
	}
	if (!strings || !name)
		return;
	n = sys_pread(f->fd, soname, NAME - 1, (int64_t)(strings + name));
	soname[MAX(n, 0)] = 0;
	/* A link of that name is going to be made beside the library: nowhere else. */
	if (strlen(soname) == NAME - 1 || str_chr(soname, '/') || soname[0] == '.')
		soname[0] = 0;
}

int elf_read(int fd, char soname[NAME])
{
	static struct file f;
	uint8_t h[64];
	uint64_t machine;
	unsigned size;

	soname[0] = 0;
	if (sys_pread(fd, h, sizeof h, 0) != sizeof h || memcmp(h, "\177ELF", 4) || h[4] < 1 || h[4] > 2 || h[5] != 1 || get(h + 16, 2) != DYN)
		return 0;
	machine = get(h + 18, 2);
	f.fd = fd;
	f.wide = h[4] == 2;
	if (machine != X86_64 && (machine != I386 || f.wide))
		return 0;
	size = f.wide ? 56 : 32;
	f.n = (unsigned)get(h + (f.wide ? 56 : 44), 2);
	if (get(h + (f.wide ? 54 : 42), 2) != size || f.n > MAX_HEADERS)
		return 0;
	if (sys_pread(fd, f.headers, f.n * size, (int64_t)get(h + (f.wide ? 32 : 28), f.wide ? 8 : 4)) != (long)(f.n * size))
		return 0;
	for (unsigned i = 0; i < f.n; i++) {
		struct segment s = segment(&f, i);
		if (s.type == DYNAMIC) {
			read_soname(&f, &s, soname);
			return machine == I386 ? 0x003 : f.wide ? 0x303 : 0x803; /* for libc6; 64 bits; x32 */
		}
	}
	return 0;
}
