/* sites FILE: the system-call instructions that are found in FILE, one a line: address, method, number, window.
 * sites FILE lengths: for each offset on stdin (hexadecimal, a line each) the length of the instruction there. */
#include "preload/code.h"

int printf(const char *format, ...) PRINTF(1, 2);
void *calloc(size_t n, size_t size);
void *malloc(size_t n);
void free(void *p);

static int lengths(const uint8_t *p, size_t size)
{
	static char text[48 << 20];
	ssize n = read_full(0, text, sizeof text - 1);

	if (n < 0)
		return 1;
	for (char *s = text; *s;) {
		uint64_t at = 0;
		struct insn i;

		for (; *s && *s != '\n'; s++)
			at = at << 4 | (uint64_t)(*s >= 'a' ? *s - 'a' + 10 : *s - '0');
		s += *s == '\n';
		printf("%d\n", at < size ? insn_decode(p + at, size - at, &i) : -1);
	}
	return 0;
}

int main(int argc, char **argv, char **envp UNUSED)
{
	static uint8_t verdicts[VERDICTS];
	struct sites s;
	struct stat st;
	struct text t;
	uint8_t *p, *code, *arena;
	int fd;

	if (argc < 2)
		return 2;
	fd = (int)sys_open(argv[1], O_RDONLY, 0);
	if (fd < 0 || sys_fstat(fd, &st))
		return 1;
	p = sys_mmap(NULL, (size_t)st.st_size, 1, 2, fd, 0);
	if (argc > 2)
		return lengths(p, (size_t)st.st_size);
	memset(verdicts, ANSWER, sizeof verdicts);
	verdicts[0] = verdicts[1] = verdicts[202] = PASS; /* read, write, futex */
	verdicts[56] = JUDGE_CLONE;
	text_of_file(&t, p, (size_t)st.st_size);
	if (find_sites(&t, verdicts, &s))
		return 1;
	for (size_t i = 0; i < s.n; i++) {
		const struct site *site = &s.list[i];
		uint64_t address = site->at;

		for (int k = 0; k < t.n_ranges; k++)
			if (site->at >= t.ranges[k].from && site->at < t.ranges[k].to)
				address = t.ranges[k].address + site->at - t.ranges[k].from;
		printf("%lx %d %d %d %d\n", (unsigned long)address, site->method, site->nr, (int)(site->at - site->from), (int)(site->to - site->at));
	}
	arena = calloc(1, arena_size(&s)); /* all of it within bounds, the sanitizers say */
	code = malloc(t.n);
	memcpy(code, p, t.n);
	rewrite(&t, &s, code, arena, -0x40000000, 0x7e9000001000, 0x7e9000001100, true);
	for (size_t i = 0; i < t.n; i++) { /* and nothing outside of the windows is touched */
		bool inside = code[i] == p[i];

		for (size_t k = 0; k < s.n && !inside; k++)
			inside = s.list[k].method != LEFT && i >= s.list[k].from && i < s.list[k].to;
		if (!inside)
			return 3;
	}
	free(code);
	free(arena);
	free_sites(&s);
	return 0;
}
