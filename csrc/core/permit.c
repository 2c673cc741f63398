/* Permissions among the guest's own users.
 *
 * On disk everything belongs to the caller, and the kernel denies the caller nothing. A container that starts as guest
 * root and then becomes somebody else (su, a daemon, apt's sandbox) must find closed what the records say is closed:
 * its paths are walked name by name, with the checks that the kernel makes. One that starts as an ordinary guest user
 * is the caller under another name, and is not judged, as where one id is mapped.
 */
#include "core/core.h"

bool judged(const struct core *k)
{
	return k->ids.fsuid && (k->plan->options & (OPT_FAKE_ROOT | OPT_OWNERS)) == (OPT_FAKE_ROOT | OPT_OWNERS) && !k->plan->uid;
}

bool keeps_bits(const struct core *k)
{
	return privileged(k) || judged(k);
}

/* May the directory p, found, be searched? */
long may_search(struct call *c, const struct place *p)
{
	return p->raw || p->mount || p->mounted ? 0 : owner_access(c, p, X_OK, true);
}

/* The same for the one behind a descriptor, with p->st its stat. */
long may_search_fd(struct call *c, const struct place *p, int fd)
{
	struct stat st = p->st;

	if (p->raw || p->mount)
		return 0;
	owner_show(c, &st, NULL, fd);
	return mode_allows(c->core, &st, X_OK, true) ? 0 : -EACCES;
}

/* The directory that holds p's name, in w->c. */
static struct place *above(struct call *c, const struct place *p)
{
	struct place *t = &c->w->c;
	size_t n = p->len;

	while (n && p->guest[n - 1] != '/')
		n--;
	n -= n > 0;
	memset(t, 0, offsetof(struct place, guest));
	memcpy(t->guest, p->guest, n);
	t->guest[n] = 0;
	t->len = (uint16_t)n;
	t->mount = p->mount;
	t->layer = (uint8_t)first_layer(p);
	host_path(c->core, t->mount, t->layer, t->guest, n, c->w->other);
	return sys_fstatat(AT_FDCWD, c->w->other, &t->st, 0) ? NULL : t;
}

long may_make(struct call *c, const struct place *p)
{
	const struct place *dir;

	if (!judged(c->core) || p->raw || p->mount)
		return 0;
	dir = above(c, p);
	return dir ? owner_access(c, dir, W_OK | X_OK, true) : 0;
}

long may_remove(struct call *c, const struct place *p)
{
	struct place *dir;
	struct stat st = p->st;
	long r;

	if (!judged(c->core) || p->raw || p->mount)
		return 0;
	dir = above(c, p);
	r = dir ? owner_access(c, dir, W_OK | X_OK, true) : 0;
	if (r || !dir)
		return r;
	owner_show(c, &dir->st, dir, NO_FD);
	if (!(dir->st.st_mode & S_ISVTX) || dir->st.st_uid == c->core->ids.fsuid)
		return 0;
	owner_show(c, &st, p, NO_FD);
	return st.st_uid == c->core->ids.fsuid ? 0 : -EPERM;
}

/* An existing thing is to be opened with these flags. */
long may_open(struct call *c, const struct place *p, long flags)
{
	int mode = (flags & O_ACCMODE) == O_RDONLY ? R_OK : (flags & O_ACCMODE) == O_WRONLY ? W_OK : R_OK | W_OK;

	if (!judged(c->core) || p->raw || p->mount || p->magic || flags & O_PATH)
		return 0;
	if (flags & O_NOATIME) {
		struct stat st = p->st;
		owner_show(c, &st, p, NO_FD);
		if (st.st_uid != c->core->ids.fsuid)
			return -EPERM;
	}
	return owner_access(c, p, mode | (flags & O_TRUNC ? W_OK : 0), true);
}

/* The group that a directory with the set-group-id bit gives to what is made in it; -1: none. */
uint32_t group_of_new(struct call *c, const struct place *p)
{
	struct place *dir;

	if (p->raw || p->mount || !(c->core->plan->options & OPT_OWNERS) || !maybe_setgid(c->core, p))
		return (uint32_t)-1;
	dir = above(c, p);
	if (!dir)
		return (uint32_t)-1;
	owner_show(c, &dir->st, dir, NO_FD);
	return dir->st.st_mode & S_ISGID ? dir->st.st_gid : (uint32_t)-1;
}

/* Directories with that bit are few, and rarely renamed: their paths are kept as hashes. */
static uint64_t path_hash(const char *s, size_t n)
{
	return text_hash(s, n) % (SETGID_WORDS * 64);
}

bool noted_setgid(const struct core *k, const char *guest, size_t n)
{
	uint64_t h = path_hash(guest, n);

	return k->plan->setgid[h / 64] >> h % 64 & 1;
}

bool maybe_setgid(const struct core *k, const struct place *p)
{
	size_t n = p->len;

	while (n && p->guest[n - 1] != '/')
		n--;
	return noted_setgid(k, p->guest, n - (n > 0));
}

void note_setgid(struct core *k, const char *guest, size_t n)
{
	uint64_t h = path_hash(guest, n);

	__atomic_fetch_or(&k->plan->setgid[h / 64], (uint64_t)1 << h % 64, __ATOMIC_RELAXED);
}

/* After a directory moved, or where its path is not known: it may be anywhere. */
void forget_setgid(struct core *k)
{
	for (int i = 0; i < SETGID_WORDS; i++)
		k->plan->setgid[i] = ~(uint64_t)0;
}
