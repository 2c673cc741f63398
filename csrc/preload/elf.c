/* Where the code is in an ELF file, and where its functions begin and end. */
#include "preload/code.h"

#ifdef UDK_HOSTED
#include <elf.h>
#else
#include <linux/elf-em.h>
#include <linux/elf.h>
#endif

#define PT_GNU_EH_FRAME_ 0x6474e550
#define SHF_EXECINSTR_ 4
#define GO_MARK_WITHIN (4UL << 20)

static bool inside(const struct text *t, uint64_t at, uint64_t n)
{
	return at <= t->n && n <= t->n - at;
}

static void add_range(struct text *t, uint64_t from, uint64_t n, uint64_t address)
{
	if (t->n_ranges < MAX_RANGES && n && inside(t, from, n))
		t->ranges[t->n_ranges++] = (struct range){ from, from + n, address };
}

static void from_sections(struct text *t, const Elf64_Ehdr *e)
{
	Elf64_Shdr s;

	if (e->e_shentsize != sizeof s || !inside(t, e->e_shoff, (uint64_t)e->e_shnum * sizeof s))
		return;
	for (unsigned i = 0; i < e->e_shnum; i++) {
		memcpy(&s, t->bytes + e->e_shoff + i * sizeof s, sizeof s);
		if (s.sh_flags & SHF_EXECINSTR_ && s.sh_type != 8 /* SHT_NOBITS */)
			add_range(t, s.sh_offset, s.sh_size, s.sh_addr);
	}
}

static void take_functions(struct text *t, const Elf64_Phdr *p)
{
	const uint8_t *h = t->bytes + p->p_offset;
	uint32_t n;

	if (p->p_filesz < 12 || !inside(t, p->p_offset, p->p_filesz))
		return;
	if (h[0] != 1 || h[2] != 0x03 || h[3] != 0x3b) /* a count of 4 bytes, a table of 4-byte distances from here */
		return;
	memcpy(&n, h + 8, 4);
	if (n > (p->p_filesz - 12) / 8)
		return;
	t->functions = h;
	t->functions_at = p->p_vaddr;
	t->n_functions = n;
}

void text_of_memory(struct text *t, const void *bytes, size_t n)
{
	memset(t, 0, sizeof *t);
	t->bytes = bytes;
	t->n = n;
	add_range(t, 0, n, 0);
}

void text_of_file(struct text *t, const void *bytes, size_t n)
{
	size_t code = 0;
	Elf64_Ehdr e;
	Elf64_Phdr p;

	text_of_memory(t, bytes, n);
	if (n < sizeof e || memcmp(bytes, "\177ELF\2", 5))
		return;
	t->n_ranges = 0;
	memcpy(&e, bytes, sizeof e);
	from_sections(t, &e);
	if (e.e_phentsize == sizeof p && inside(t, e.e_phoff, (uint64_t)e.e_phnum * sizeof p)) {
		bool all = !t->n_ranges, first = true;

		for (unsigned i = 0; i < e.e_phnum; i++) {
			memcpy(&p, t->bytes + e.e_phoff + i * sizeof p, sizeof p);
			if (p.p_type == PT_LOAD && first) {
				t->begin = p.p_vaddr - p.p_offset;
				first = false;
			}
			if (all && p.p_type == PT_LOAD && p.p_flags & PF_X)
				add_range(t, p.p_offset, p.p_filesz, p.p_vaddr);
			if (p.p_type == PT_GNU_EH_FRAME_)
				take_functions(t, &p);
			if (p.p_type == PT_LOAD && p.p_flags & PF_W && inside(t, p.p_offset, p.p_filesz) &&
			    mem_find((const char *)t->bytes + p.p_offset, MIN(p.p_filesz, GO_MARK_WITHIN), "\xff Go buildinf:", 14))
				t->small_stacks = true;
		}
	}
	if (!t->n_ranges)
		add_range(t, 0, n, 0);
	for (int i = 0; i < t->n_ranges; i++) {
		code += t->ranges[i].to - t->ranges[i].from;
		t->bent |= t->ranges[i].address - t->ranges[i].from != t->begin;
	}
	t->all_functions = t->n_functions * 2048 > code; /* musl describes a few of its own only */
}

static int32_t distance(const uint8_t *p)
{
	int32_t v;

	memcpy(&v, p, 4);
	return v;
}

bool function_of(const struct text *t, const struct range *r, size_t at, size_t *from, size_t *to)
{
	uint64_t address = r->address + (at - r->from), begin;
	size_t low = 0, high = t->n_functions, where;
	const uint8_t *table, *fde;
	uint32_t size;

	if (!t->functions)
		return false;
	table = t->functions + 12;
	while (low < high) {
		size_t mid = (low + high) / 2;

		if (t->functions_at + (uint64_t)(int64_t)distance(table + 8 * mid) <= address)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return false;
	begin = t->functions_at + (uint64_t)(int64_t)distance(table + 8 * (low - 1));
	where = (size_t)(t->functions - t->bytes) + (size_t)(int64_t)distance(table + 8 * (low - 1) + 4);
	if (!inside(t, where, 16))
		return false;
	fde = t->bytes + where;
	/* Its own start, relative to itself, must be the table's: the usual encoding. */
	if (t->functions_at + (uint64_t)(fde + 8 - t->functions) + (uint64_t)(int64_t)distance(fde + 8) != begin)
		return false;
	memcpy(&size, fde + 12, 4);
	if (begin < r->address || address - begin >= size)
		return false;
	*from = r->from + (begin - r->address);
	*to = MIN(*from + size, r->to);
	return true;
}
