#include "guard/guard.h"

/* A JSON string of s: the file must be valid whatever bytes a path holds, so non-ASCII is written as Latin-1. */
static void quote(char *to, size_t size, const char *s)
{
	size_t n = 0;

	for (; *s && n + 8 < size; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			n += fmt(to + n, size - n, "\\%c", c);
		else if (c < ' ' || c >= 127)
			n += fmt(to + n, size - n, "\\u%04x", c);
		else
			to[n++] = (char)c;
	}
	to[n] = 0;
}

/* Readers see the old file or the whole new one. */
static long publish(const char *path, const char *text)
{
	char part[4096];
	long fd, r;

	if (fmt(part, sizeof part, "%s.part", path) >= sizeof part)
		return -ENAMETOOLONG;
	fd = sys_open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return fd;
	r = write_all((int)fd, text, strlen(text));
	sys_close((int)fd);
	if (r >= 0)
		r = SC4(__NR_renameat, AT_FDCWD, part, AT_FDCWD, path);
	if (r < 0)
		sys_unlinkat(AT_FDCWD, part, 0);
	return r;
}

#define US(t) ((uint64_t)(t).tv_sec * 1000000 + (uint64_t)(t).tv_usec)

static const char *seconds(char *to, size_t size, uint64_t t)
{
	fmt(to, size, "%lu.%06lu", (unsigned long)(t / 1000000), (unsigned long)(t % 1000000));
	return to;
}

long report_outcome(const char *path, const struct outcome *o)
{
	char text[4096], error[3072], wall[32], user[32], system[32];
	const struct rusage *u = &o->usage;

	quote(error, sizeof error, o->failure.text);
	fmt(text, sizeof text,
	    "{\"version\": 1, \"exit\": %d, \"signal\": %d, \"core\": %s, \"timed_out\": %s, "
	    "\"ran\": %s, \"wall\": %s, \"user\": %s, \"system\": %s, \"maxrss\": %ld, \"minflt\": %ld, \"majflt\": %ld, "
	    "\"inblock\": %ld, \"oublock\": %ld, \"nvcsw\": %ld, \"nivcsw\": %ld, \"error\": \"%s\"}\n",
	    o->status, o->signal, o->core ? "true" : "false", o->timed_out ? "true" : "false", o->ran ? "true" : "false",
	    seconds(wall, sizeof wall, o->wall_us), seconds(user, sizeof user, US(u->ru_utime)),
	    seconds(system, sizeof system, US(u->ru_stime)), u->ru_maxrss * 1024, u->ru_minflt, u->ru_majflt, u->ru_inblock,
	    u->ru_oublock, u->ru_nvcsw, u->ru_nivcsw, error);
	return publish(path, text);
}
