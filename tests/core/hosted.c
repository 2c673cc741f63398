#include "hosted.h"

uintptr_t guest_low = 4096, guest_high = ~(uintptr_t)0;

static bool readable(uintptr_t at, size_t n)
{
	return at >= guest_low && at <= guest_high && n <= guest_high - at;
}

long guest_str(char *to, const void *from, size_t size)
{
	for (size_t n = 0; n < size; n++) {
		if (!readable((uintptr_t)from + n, 1))
			return -EFAULT;
		if (!(to[n] = ((const char *)from)[n]))
			return (long)n;
	}
	return -ENAMETOOLONG;
}

/* It stands still: what is remembered briefly is remembered for good here. */
uint32_t ticks(void)
{
	return 1;
}

long guest_read(void *to, const void *from, size_t n)
{
	if (n && !readable((uintptr_t)from, n))
		return -EFAULT;
	memcpy(to, from, n);
	return 0;
}

long guest_write(void *to, const void *from, size_t n)
{
	if (n && !readable((uintptr_t)to, n))
		return -EFAULT;
	memcpy(to, from, n);
	return 0;
}

static void directory(const char *home, const char *name)
{
	char path[512];

	snprintf(path, sizeof path, "%s/%s", home, name);
	sys_mkdirat(AT_FDCWD, path, 0755);
}

static void file(const char *home, const char *name, const char *text)
{
	char path[512];
	long fd;

	snprintf(path, sizeof path, "%s/%s", home, name);
	fd = sys_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd >= 0) {
		write_all((int)fd, text, strlen(text));
		sys_close((int)fd);
	}
}

void hosted_start(struct core *k, const char *home, unsigned options)
{
	static const char *const dirs[] = { "upper", "work", "lower", "lower/etc", "lower/a", "lower/a/b", "lower/tmp", "bind", "bind/sub", "bind/deep", "bind/deep/ro" };
	static struct plan plan;
	char text[4096], link[512];
	size_t n = 0;
	const char *error, *what;

	for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
		directory(home, dirs[i]);
	file(home, "lower/etc/passwd", "root");
	file(home, "lower/a/f", "f");
	file(home, "lower/x", "x");
	file(home, "lower/y", "y");
	file(home, "bind/sub/z", "z");
	file(home, "bind/file", "bind");
	snprintf(link, sizeof link, "%s/lower/link", home);
	sys_symlinkat("/a/b", AT_FDCWD, link);
	snprintf(link, sizeof link, "%s/lower/a/up", home);
	sys_symlinkat("../../../etc", AT_FDCWD, link);
#define WORD(...) n += (size_t)snprintf(text + n, sizeof text - n, __VA_ARGS__) + 1
	WORD("mount"), WORD("%d", MOUNT_UNION | MOUNT_CACHE), WORD("%s", ""), WORD("%s/upper", home), WORD("%s/lower", home);
	WORD("mount"), WORD("0"), WORD("/mnt"), WORD("%s/bind", home), WORD("%s", "");
	WORD("mount"), WORD("%d", MOUNT_RO), WORD("/mnt/sub"), WORD("%s/bind/sub", home), WORD("%s", "");
	WORD("mount"), WORD("%d", MOUNT_RO), WORD("/mnt/deep/ro"), WORD("%s/bind/sub", home), WORD("%s", "");
	WORD("mount"), WORD("%d", MOUNT_PROC), WORD("/proc"), WORD("/proc"), WORD("%s", "");
	WORD("loader"), WORD("/nonexistent"), WORD("state"), WORD("%s/state", home), WORD("work"), WORD("%s/work", home);
	WORD("changes"), WORD("%s/changes", home), WORD("options"), WORD("%u", options);
	memset(&plan, 0, sizeof plan);
	error = plan_parse(&plan, text, n, false);
	if (error) {
		say(2, "plan: %s\n", error);
		abort();
	}
	if (plan_inspect(&plan, &what) || plan_map(k, plan.strings + plan.state, true))
		abort();
	memcpy(k->plan, &plan, offsetof(struct plan, generation));
	k->plan->generation = 1;
	if (plan_map_changes(k, true))
		abort();
	struct work *w = malloc(sizeof *w);
	struct call c = { .core = k, .w = w };
	if (plan_place_mounts(&c, &what))
		abort();
	free(w);
	/* A directory of the container: from one outside, names would be the host's. */
	snprintf(link, sizeof link, "%s/upper", home);
	if (sys_chdir(link))
		abort();
}

long hosted_call(struct core *k, long nr, ...)
{
	struct work *w = malloc(sizeof *w); /* on the heap and never cleared: sanitizers see what is read too early */
	struct call c = { .core = k, .w = w, .nr = nr };
	va_list args;
	long r;

	va_start(args, nr);
	for (int i = 0; i < 6; i++)
		c.a[i] = va_arg(args, unsigned long);
	va_end(args);
	r = core_call(&c);
	free(w);
	return r;
}
