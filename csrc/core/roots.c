/* Descriptors of the roots of the container's layers.
 *
 * A path on the host is longer than the guest's by that of the image in the store, and the kernel walks all of it at
 * each call. From a descriptor it walks the guest's part only. The descriptors have fixed numbers, go on by fork and
 * exec, and are not shown to the guest. One that closes every number closes them, too: the kernel says EBADF then,
 * and paths are absolute from there on. That another file has come to such a number is seen as for notes (notes.c)
 * where it is a directory; with anything else the kernel says ENOTDIR.
 */
#include "core/core.h"

static bool is_union(const struct core *k)
{
	return k->plan->mounts[0].flags & MOUNT_UNION;
}

static bool same_root(const struct core *k, int which, const struct stat *st)
{
	const int layer = is_union(k) ? which : 0;

	return st->st_ino == k->plan->root_ino[layer] && st->st_dev == (layer ? k->plan->lower_dev : k->plan->upper_dev);
}

static bool is_root(const struct core *k, int which)
{
	struct stat st;

	return !sys_fstat(ROOT_FD + which, &st) && same_root(k, which, &st);
}

static bool open_root(const char *path, int at)
{
	long fd = sys_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0), got;

	if (fd < 0)
		return false;
	got = sys_fcntl((int)fd, F_DUPFD, at);
	sys_close((int)fd);
	if (got >= 0 && got != at)
		sys_close((int)got); /* the guest's own file is there */
	return got == at;
}

void roots_open(struct core *k)
{
	const struct mount *m = &k->plan->mounts[0];

	k->roots = false;
	if (!k->notes || !m->host_len || !open_root(plan_text(k, m->host), ROOT_FD))
		return;
	k->roots = open_root(plan_text(k, is_union(k) ? m->lower : m->host), ROOT_FD + 1);
	if (!k->roots) /* one alone would be the guest's to see */
		sys_close(ROOT_FD);
}

void roots_close(struct core *k)
{
	if (k->roots) {
		sys_close(ROOT_FD);
		sys_close(ROOT_FD + 1);
	}
	k->roots = false;
}

/* Where the guest took one, or closed it, the other one is not left for it to see. */
static void close_one(const struct core *k, int which)
{
	if (is_root(k, which))
		sys_close(ROOT_FD + which);
}

void roots_taken(struct core *k, int fd)
{
	if (k->notes->allowed()) /* a vfork child lost its own ones only */
		close_one(k, fd == ROOT_FD);
	k->roots = false;
}

bool roots_lost(struct core *k)
{
	bool first = k->roots && is_root(k, 0);

	if (first && is_root(k, 1))
		return false;
	if (k->roots && k->notes && k->notes->allowed()) {
		close_one(k, !first);
		k->roots = false;
	}
	return true; /* also where another thread found out, meanwhile */
}

bool is_root_fd(const struct core *k, int fd)
{
	return (unsigned)fd - ROOT_FD < 2 && k->roots && k->notes;
}

/* Takes the two out of a listing of /proc/PID/fd that was just given by the descriptor a[0]: the entry before is made longer, the first one
 * overwritten. */
long roots_hide(struct call *c, char *list, long n)
{
	static const char first[] = { '0' + ROOT_FD / 10, '0' + ROOT_FD % 10, 0 }, second[] = { '0' + (ROOT_FD + 1) / 10, '0' + (ROOT_FD + 1) % 10, 0 };
	const size_t head = offsetof(struct linux_dirent64, d_reclen), name = offsetof(struct linux_dirent64, d_name);
	char *buf = c->w->rest;
	uint16_t before = 0, size;
	struct stat st;
	int which;

	for (long at = 0; at < n; at += size) {
		char text[4] = { 0 };

		if (guest_read(&size, list + at + head, sizeof size) || guest_read(text, list + at + name, 3) || !size)
			return n;
		which = str_eq(text, second);
		if ((!which && !str_eq(text, first)) || sys_fstatat((int)c->a[0], text, &st, 0) || !same_root(c->core, which, &st)) {
			before = size;
			continue;
		}
		if (before) {
			uint16_t longer = (uint16_t)(before + size);

			if (guest_write(list + at - before + head, &longer, sizeof longer))
				return n;
			before = longer;
			continue;
		}
		for (long from = at + size, part; from < n; from += part) {
			part = MIN(n - from, (long)sizeof c->w->rest);
			if (guest_read(buf, list + from, (size_t)part) || guest_write(list + from - size, buf, (size_t)part))
				return n;
		}
		n -= size;
		size = 0;
	}
	return n;
}
