/* Names of AF_UNIX sockets, in and out, and the credentials that travel with messages.
 *
 * A host path is longer than the guest's: where it exceeds sun_path, the socket is named through a short link to its
 * directory, kept in one private directory of the container; the link is read to turn the name back. A last name that does
 * not fit beside that is reached by a link to the socket itself; it is bound by a name that fits, which is then changed.
 */
#include "core/sock.h"

#ifdef UDK_HOSTED
#include <sys/un.h>
#else
#include <linux/un.h>
#endif

#define AF_NETLINK_ 16
#define NETLINK_AUDIT_ 9
#define SO_PEERCRED_ 17

#define BRIEF "/.udk-" /* how a name begins that a socket is bound by when its own is too long; six digits follow */
#define DIGITS 6

struct message { /* the kernel's msghdr */
	uint64_t name;
	uint32_t name_len, pad;
	uint64_t iov, iov_len, control, control_len;
	uint32_t flags, pad2;
};

struct control { /* cmsghdr */
	uint64_t len;
	uint32_t level, type;
	uint32_t data[];
};

/* Who as root may not write to the system's audit log gives up (sshd), so there is none for guest root. */
long call_socket(struct call *c)
{
	const uint32_t options = c->core->plan->options;

	if (options & OPT_FAKE_ROOT && (int)c->a[0] == AF_NETLINK_ && (int)c->a[2] == NETLINK_AUDIT_)
		return -EPROTONOSUPPORT;
	return options & OPT_NO_NETWORK && (int)c->a[0] != AF_UNIX_ ? -EACCES : call_raw(c);
}

/* Names `host` (its first n bytes) by a link. Writes the link's path; its length. */
static long alias(struct call *c, const char *host, size_t n, char *to)
{
	const char *dir = plan_text(c->core, c->core->plan->sockets);
	long r;

	if (!*dir)
		return -ENAMETOOLONG;
	memcpy(c->w->text, host, n);
	c->w->text[n] = 0;
	r = (long)fmt(to, UN_MAX, "%s/%06x", dir, (unsigned)(text_hash(host, n) & 0xffffff));
	if (r >= UN_MAX)
		return -ENAMETOOLONG;
	for (int again = 0;; again++) {
		long e = sys_symlinkat(c->w->text, AT_FDCWD, to);
		if (e == -ENOENT && !again && !sys_mkdirat(AT_FDCWD, dir, 0700)) {
			sys_fchmodat(AT_FDCWD, dir, 0700); /* whatever the guest's umask */
			continue;
		}
		return !e || e == -EEXIST ? r : e;
	}
}

/* From the host's root on, so that a part of it can be named by a link. */
static bool whole(struct call *c, struct place *p)
{
	char link[40] = "/proc/self/cwd";
	size_t n = strlen(p->host);
	long r;

	if (p->dfd != AT_FDCWD)
		fmt(link, sizeof link, "/proc/self/fd/%d", p->dfd);
	else if (p->host[0] == '/')
		return true;
	r = sys_readlinkat(AT_FDCWD, link, c->w->text, GUEST_MAX);
	if (r <= 0 || c->w->text[0] != '/' || (size_t)r + 1 + n >= GUEST_MAX)
		return false;
	memmove(p->host + r + 1, p->host, n + 1);
	memcpy(p->host, c->w->text, (size_t)r);
	p->host[r] = '/';
	p->dfd = AT_FDCWD;
	return true;
}

/* Where a path's last name begins. */
static size_t last_name(const char *path)
{
	const char *slash = str_rchr(path, '/');

	return slash ? (size_t)(slash + 1 - path) : 0;
}

static bool stat_parent(int dfd, char *path, size_t name, struct stat *st)
{
	const char first = path[name];
	long r;

	path[name] = 0;
	r = sys_fstatat(dfd, name ? path : ".", st, 0);
	path[name] = first;
	return !r;
}

/* The kernel is not to follow a link of the guest's. */
static bool without_links(char *path, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct stat st;
		long r = 0;

		if (path[i] != '/')
			continue;
		path[i] = 0;
		r = sys_fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW);
		path[i] = '/';
		if (r || (st.st_mode & S_IFMT) != S_IFDIR)
			return false;
	}
	return true;
}

/* Whether the name as the guest gave it leads the kernel to the same place. */
static bool as_given(struct place *p, char *given)
{
	size_t a = last_name(given), b = last_name(p->host);
	struct stat there, here;

	return given[0] != '/' && str_eq(given + a, p->host + b) && without_links(given, a) && stat_parent(AT_FDCWD, given, a, &there) &&
	       stat_parent(p->dfd, p->host, b, &here) && there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

/* The last name does not fit after its directory's link, the first r bytes of `a`. */
static long long_name(struct call *c, struct place *p, bool make, size_t r, struct address *a)
{
	char name[UN_MAX];
	struct stat st;
	long n = alias(c, p->host, strlen(p->host), name);

	if (n < 0)
		return n;
	if (!make) {
		memcpy(a->path, name, (size_t)n + 1);
	} else {
		if (r + sizeof BRIEF + DIGITS > UN_MAX)
			return -ENAMETOOLONG;
		if (!sys_fstatat(AT_FDCWD, p->host, &st, AT_SYMLINK_NOFOLLOW))
			return -EADDRINUSE;
		n = (long)(r + fmt(a->path + r, UN_MAX - r, BRIEF "%s", name + n - DIGITS));
		a->brief = true;
	}
	a->len = (uint32_t)(2 + n + 1);
	return 1;
}

long address_in(struct call *c, const void *from, unsigned long len, bool make, struct address *a)
{
	struct place *p = &c->w->a;
	char *given = c->w->path;
	size_t n;
	long r;

	if (!from || len < 3 || len > sizeof(struct sockaddr_un))
		return 0;
	memset(a, 0, sizeof *a);
	r = guest_read(a, from, len);
	if (r)
		return r;
	if (a->family != AF_UNIX_ || !a->path[0])
		return 0;
	memcpy(c->w->path, a->path, len - 2);
	c->w->path[len - 2] = 0;
	n = strlen(c->w->path);
	if (make) {
		/* prepare_new reads guest memory; here the words are ours. */
		r = resolve_text(c, AT_FDCWD, c->w->path, n, KEEP_SLASH, p);
		if (!r && (p->self || p->mounted))
			r = -EADDRINUSE;
		if (!r && !p->raw && readonly(c, p))
			r = -EROFS;
		if (!r)
			r = may_make(c, p);
		if (!r && !p->raw && p->kind != IN_PLAIN && p->kind != IN_UPPER) {
			r = lookup(c, p);
			r = !r ? -EADDRINUSE : r == -ENOENT ? make_parent(c, p) : r;
			if (!r)
				clear_whiteout(c, p);
		}
	} else {
		r = find_text(c, AT_FDCWD, c->w->path, FOLLOW, p);
		if (!r)
			r = may_open(c, p, O_WRONLY);
	}
	if (r)
		return r;
	n = strlen(p->host);
	if (p->dfd != AT_FDCWD) /* shortened: by the descriptor that was opened for it */
		n = fmt(a->path, UN_MAX, "/proc/self/fd/%d/%s", p->dfd, p->host);
	else if (n < UN_MAX)
		memcpy(a->path, p->host, n + 1);
	if (mem_find(given, strlen(given), "../", 3)) /* the kernel does not step up for us: but it may be here */
		given += last_name(given);
	if (n >= UN_MAX && as_given(p, given)) {
		n = strlen(given);
		memcpy(a->path, given, n + (n < UN_MAX)); /* the longest name ends without a NUL */
		a->len = (uint32_t)(2 + n + (n < UN_MAX));
		return 1;
	}
	if (n >= UN_MAX) {
		size_t dir;

		if (!whole(c, p))
			return -ENAMETOOLONG;
		n = strlen(p->host);
		dir = last_name(p->host);
		r = alias(c, p->host, dir - 1, a->path);
		if (r < 0)
			return r;
		if ((size_t)r + n - dir + 2 > UN_MAX)
			return long_name(c, p, make, (size_t)r, a);
		a->path[r] = '/';
		memcpy(a->path + r + 1, p->host + dir, n - dir + 1);
		n = (size_t)r + 1 + n - dir;
	}
	a->len = (uint32_t)(2 + n + 1);
	return 1;
}

long socket_name(struct call *c)
{
	const char *dir = plan_text(c->core, c->core->plan->sockets);
	char *text = c->w->text, *other = c->w->other;
	const size_t d = strlen(dir), link = d + 1 + DIGITS;
	size_t n = strlen(text);
	long r;

	if (d && n > link + 1 && str_starts(text, dir) && text[d] == '/' && text[link] == '/') {
		size_t rest = link; /* what comes after the link's target */

		if (n == link + sizeof BRIEF - 1 + DIGITS && str_starts(text + link, BRIEF)) {
			memcpy(text + d + 1, text + n - DIGITS, DIGITS);
			rest = n;
		}
		text[link] = 0;
		r = sys_readlinkat(AT_FDCWD, text, other, GUEST_MAX);
		text[link] = '/';
		if (r > 0) {
			memmove(text + r, text + rest, n - rest + 1);
			memcpy(text, other, (size_t)r);
			n = (size_t)r + n - rest;
		}
	}
	return text[0] == '/' ? show_path(c->core, text, n) : -ENOENT;
}

void address_out(struct call *c, struct address *a)
{
	char *text = c->w->text;
	size_t n;
	long r;

	if (a->len <= 3 || a->len > 2 + UN_MAX + 1 || a->family != AF_UNIX_ || !a->path[0])
		return;
	n = MIN(a->len - 2, UN_MAX);
	memcpy(text, a->path, n);
	text[n] = 0;
	r = socket_name(c);
	if (r < 0 || r > UN_MAX)
		return;
	memcpy((char *)a + offsetof(struct address, path), text, (size_t)r + 1); /* the longest has its NUL behind the path */
	a->len = (uint32_t)(2 + r + 1);
}

/* What is wrong with a name (r) is told to sockets that have such names; of others the kernel has more to say. */
static long refuse(struct call *c, long r)
{
	struct address none = { .family = AF_UNIX_ };
	int domain = 0;
	unsigned n = sizeof domain;
	long asked = SC5(__NR_getsockopt, c->a[0], SOL_SOCKET_, 39 /* SO_DOMAIN */, &domain, &n);

	if (r == -EFAULT || (asked ? asked != -EBADF && asked != -ENOTSOCK : domain == AF_UNIX_))
		return r;
	asked = SC3(c->nr, c->a[0], &none, MIN(c->a[2], 2UL + UN_MAX));
	return asked < 0 ? asked : r;
}

long call_bind(struct call *c)
{
	struct address a;
	long r = address_in(c, (void *)c->a[1], c->a[2], true, &a);

	if (r < 0)
		return refuse(c, r);
	if (!r)
		return call_raw(c);
	owner_making(c);
	r = SC3(__NR_bind, c->a[0], &a, a.len);
	if (!r && a.brief) {
		r = move_new(a.path, c->w->a.host, false);
		if (r)
			sys_unlinkat(AT_FDCWD, a.path, 0);
		if (r == -EEXIST)
			r = -EADDRINUSE;
	}
	if (!r && recorded(c->core, &c->w->a))
		owner_new(c, &c->w->a, -1);
	owner_made(c);
	return r;
}

long call_connect(struct call *c)
{
	struct address a;
	long r = address_in(c, (void *)c->a[1], c->a[2], false, &a);

	return r < 0 ? refuse(c, r) : r ? SC3(__NR_connect, c->a[0], &a, a.len) : call_raw(c);
}

long call_sendto(struct call *c)
{
	struct address a;
	long r = address_in(c, (void *)c->a[4], c->a[5], false, &a);

	return r < 0 ? r : r ? SC6(__NR_sendto, c->a[0], c->a[1], c->a[2], c->a[3], &a, a.len) : call_raw(c);
}

/* Calls with (fd, ..., address, length pointer): the address through our own memory. */
static long with_address(struct call *c, long nr, int at)
{
	struct address a = { .len = 0 };
	unsigned long v[6];
	uint32_t room, len;
	long r;

	if (!c->a[at])
		return call_raw(c);
	if (guest_read(&room, (void *)c->a[at + 1], sizeof room))
		return -EFAULT;
	if ((int32_t)room < 0)
		return -EINVAL;
	memcpy(v, c->a, sizeof v);
	len = offsetof(struct address, len);
	v[at] = (unsigned long)&a;
	v[at + 1] = (unsigned long)&len;
	r = SC6(nr, v[0], v[1], v[2], v[3], v[4], v[5]);
	if (r < 0)
		return r;
	a.len = len;
	address_out(c, &a);
	if (guest_write((void *)c->a[at], &a, MIN(room, MIN(a.len, (uint32_t)offsetof(struct address, len)))) ||
	    guest_write((void *)c->a[at + 1], &a.len, sizeof a.len)) {
		if (nr == __NR_accept || nr == __NR_accept4) /* the kernel gives no descriptor then */
			sys_close((int)r);
		return -EFAULT;
	}
	return r;
}

long call_getsockname(struct call *c) { return with_address(c, __NR_getsockname, 1); }
long call_getpeername(struct call *c) { return with_address(c, __NR_getpeername, 1); }
long call_accept(struct call *c) { return with_address(c, __NR_accept, 1); }
long call_accept4(struct call *c) { return with_address(c, __NR_accept4, 1); }
long call_recvfrom(struct call *c) { return with_address(c, __NR_recvfrom, 4); }

void show_ids(struct call *c, uint32_t cred[3], bool effective)
{
	const struct plan *plan = c->core->plan;
	struct ids they;

	if (cred[1] != plan->host_uid) {
		cred[1] = 65534;
		cred[2] = cred[2] == plan->host_gid ? plan->gid : 65534;
		return;
	}
	ids_of(c, cred[0], &they);
	cred[1] = effective ? they.euid : they.ruid;
	cred[2] = effective ? they.egid : they.rgid;
}

static bool is_one(uint32_t id, uint32_t a, uint32_t b, uint32_t d)
{
	return id == a || id == b || id == d;
}

long credentials_change(struct call *c, uint32_t ids[3], bool out)
{
	const struct plan *plan = c->core->plan;
	const struct ids *me = &c->core->ids;

	if (out) {
		show_ids(c, ids, false);
		return 0;
	}
	if (!privileged(c->core) && (!is_one(ids[1], me->ruid, me->euid, me->suid) || !is_one(ids[2], me->rgid, me->egid, me->sgid)))
		return -EPERM;
	ids[1] = plan->host_uid;
	ids[2] = plan->host_gid;
	return 0;
}

/* Guest ids in a message's credentials become the caller's, and back. */
static long credentials(struct call *c, char *control, uint64_t len, bool out)
{
	for (uint64_t at = 0; at + sizeof(struct control) <= len;) {
		struct control *m = (void *)(control + at);

		if (m->len < sizeof *m || m->len > len - at)
			break;
		if (m->level == SOL_SOCKET_ && m->type == SCM_CREDENTIALS_ && m->len >= sizeof *m + 12 &&
		    credentials_change(c, m->data, out))
			return -EPERM;
		at += (m->len + 7) & ~7ULL;
	}
	return 0;
}

static long send_one(struct call *c, long fd, const void *guest, long flags)
{
	struct message m;
	struct address a;
	long r = guest_read(&m, guest, sizeof m);

	if (r)
		return r;
	r = address_in(c, (void *)m.name, m.name_len, false, &a);
	if (r < 0)
		return r;
	if (r) {
		m.name = (uint64_t)(uintptr_t)&a;
		m.name_len = a.len;
	}
	if (m.control && m.control_len && m.control_len <= sizeof c->w->other && c->core->plan->options & OPT_OWNERS) {
		if (guest_read(c->w->other, (void *)m.control, m.control_len))
			return -EFAULT;
		r = credentials(c, c->w->other, m.control_len, false);
		if (r)
			return r;
		m.control = (uint64_t)(uintptr_t)c->w->other;
	}
	return SC3(__NR_sendmsg, fd, &m, flags);
}

long call_sendmsg(struct call *c)
{
	return send_one(c, (long)c->a[0], (void *)c->a[1], (long)c->a[2]);
}

long call_sendmmsg(struct call *c)
{
	unsigned long n = MIN((uint32_t)c->a[2], 1024);
	char *at = (void *)c->a[1];
	long r = 0;

	for (unsigned long i = 0; i < n; i++, at += sizeof(struct message) + 8) {
		uint32_t sent;
		r = send_one(c, (long)c->a[0], at, (long)c->a[3]);
		if (r < 0)
			return i ? (long)i : r;
		sent = (uint32_t)r;
		if (guest_write(at + sizeof(struct message), &sent, sizeof sent))
			return -EFAULT;
	}
	return (long)n;
}

/* After the kernel filled a message of the guest. `room` is what the name's buffer held. */
static long received(struct call *c, char *guest, uint32_t room)
{
	struct message m;
	struct address a = { .len = 0 };

	if (guest_read(&m, guest, sizeof m))
		return -EFAULT;
	if (m.control_len)
		notes_drop(c->core); /* it may have brought directories */
	if (m.name && m.name_len > 2 && m.name_len <= room && m.name_len <= offsetof(struct address, len)) {
		if (guest_read(&a, (void *)m.name, m.name_len))
			return -EFAULT;
		a.len = m.name_len;
		address_out(c, &a);
		if (guest_write((void *)m.name, &a, MIN(room, a.len)) ||
		    guest_write(guest + offsetof(struct message, name_len), &a.len, sizeof a.len))
			return -EFAULT;
	}
	if (m.control && m.control_len && m.control_len <= sizeof c->w->other && c->core->plan->options & OPT_OWNERS) {
		if (guest_read(c->w->other, (void *)m.control, m.control_len))
			return -EFAULT;
		credentials(c, c->w->other, m.control_len, true);
		return guest_write((void *)m.control, c->w->other, m.control_len);
	}
	return 0;
}

long call_recvmsg(struct call *c)
{
	struct message before = { 0 };
	long r;

	guest_read(&before, (void *)c->a[1], sizeof before);
	r = call_raw(c);
	if (r < 0 || (!before.name && !before.control))
		return r;
	return received(c, (void *)c->a[1], before.name_len) ? -EFAULT : r;
}

long call_recvmmsg(struct call *c)
{
	uint32_t rooms[64] = { 0 };
	size_t step = sizeof(struct message) + 8;
	struct message m;
	long r;

	for (unsigned long i = 0; i < MIN((uint32_t)c->a[2], ARRAY_LEN(rooms)); i++)
		if (!guest_read(&m, (char *)c->a[1] + i * step, sizeof m))
			rooms[i] = m.name_len;
	r = call_raw(c);
	for (long i = 0; i < r && i < (long)ARRAY_LEN(rooms); i++)
		if (received(c, (char *)c->a[1] + (size_t)i * step, rooms[i]))
			return -EFAULT;
	return r;
}

long call_getsockopt(struct call *c)
{
	const struct plan *plan = c->core->plan;
	uint32_t cred[3], len;
	long r = call_raw(c);

	if (r || c->a[1] != SOL_SOCKET_ || c->a[2] != SO_PEERCRED_ || !(plan->options & OPT_OWNERS))
		return r;
	if (guest_read(&len, (void *)c->a[4], sizeof len) || len < sizeof cred || guest_read(cred, (void *)c->a[3], sizeof cred))
		return r;
	show_ids(c, cred, true);
	return guest_write((void *)c->a[3], cred, sizeof cred);
}
