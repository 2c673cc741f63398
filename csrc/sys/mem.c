/* Memory and strings. The mem* symbols exist because gcc emits calls to them for structure copies; each is written
 * so that gcc cannot recognise the loop as the very function it is (an empty asm in the body). */
#include "sys/sys.h"

#undef memcpy
#undef memmove
#undef memset
#undef memcmp
#undef strlen

#define OPAQUE __asm__ volatile("" ::: "memory")

#ifndef UDK_HOSTED
typedef uint64_t __attribute__((may_alias, aligned(1))) word;
typedef uint32_t __attribute__((may_alias, aligned(1))) half;

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	return memmove(to, from, n);
}

/* The last word of a copy, or the few bytes that it is of, are read before anything is written and written at its end: the
 * two may overlap, and no loop has an end that the processor did not expect. */
static void few_bytes(unsigned char *d, const unsigned char *s, size_t n)
{
	if (n >= 4) {
		uint32_t low = *(const half *)s, high = *(const half *)(s + n - 4);

		*(half *)d = low;
		*(half *)(d + n - 4) = high;
	} else if (n) {
		unsigned char first = s[0], middle = s[n / 2], last = s[n - 1];

		d[0] = first;
		d[n / 2] = middle;
		d[n - 1] = last;
	}
}

void *memmove(void *to, const void *from, size_t n)
{
	unsigned char *d = to;
	const unsigned char *s = from;

	if (n < 8) {
		few_bytes(d, s, n);
	} else if ((uintptr_t)d - (uintptr_t)s >= n) {
		unsigned char *end = d + n - 8;
		word last = *(const word *)(s + n - 8);

		for (; d < end; d += 8, s += 8) {
			*(word *)d = *(const word *)s;
			OPAQUE;
		}
		*(word *)end = last;
	} else {
		word first = *(const word *)s;

		for (; n > 8; n -= 8) {
			word w = *(const word *)(s + n - 8);
			*(word *)(d + n - 8) = w;
			OPAQUE;
		}
		*(word *)d = first;
	}
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	unsigned char *d = to;
	word w = 0x0101010101010101ULL * (unsigned char)byte;

	for (; n >= 8; n -= 8, d += 8) {
		*(word *)d = w;
		OPAQUE;
	}
	for (; n; n--) {
		*d++ = (unsigned char)byte;
		OPAQUE;
	}
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *p = a, *q = b;

	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n]) {
		n++;
		OPAQUE;
	}
	return n;
}
#endif

int str_cmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a - (unsigned char)*b;
}

bool str_starts(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return false;
	return true;
}

char *str_chr(const char *s, int c)
{
	for (;; s++) {
		if (*s == (char)c)
			return (char *)(uintptr_t)s;
		if (!*s)
			return NULL;
	}
}

char *str_rchr(const char *s, int c)
{
	const char *found = NULL;

	for (;; s++) {
		if (*s == (char)c)
			found = s;
		if (!*s)
			return (char *)(uintptr_t)found;
	}
}

const char *mem_find(const char *hay, size_t n, const char *needle, size_t m)
{
	for (size_t i = 0; m <= n && i <= n - m; i++) {
		size_t j = 0;
		while (j < m && hay[i + j] == needle[j])
			j++;
		if (j == m)
			return hay + i;
	}
	return NULL;
}

size_t str_copy(char *to, const char *from, size_t size)
{
	size_t n = 0;

	for (; from[n]; n++)
		if (n + 1 < size)
			to[n] = from[n];
	to[n < size ? n : size - 1] = 0;
	return n;
}

bool parse_u64(const char *s, unsigned base, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		unsigned d;
		if (*s >= '0' && *s <= '9')
			d = (unsigned)(*s - '0');
		else if ((*s | 32) >= 'a' && (*s | 32) <= 'f')
			d = (unsigned)((*s | 32) - 'a') + 10;
		else
			return false;
		if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
			return false;
	}
	*out = v;
	return true;
}

bool parse_i64(const char *s, int64_t *out)
{
	bool minus = *s == '-';
	uint64_t v;

	if (!parse_u64(s + minus, 10, &v) || v > (uint64_t)INT64_MAX + minus)
		return false;
	*out = minus ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}
