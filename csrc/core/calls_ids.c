/* The guest's ids: what set*id did, without any privilege. */
#include "core/calls.h"

#define KEEP ((uint32_t)-1)

static bool root(const struct call *c)
{
	return c->core->plan->options & OPT_FAKE_ROOT && c->core->ids.euid == 0;
}

long call_getuid(struct call *c) { return c->core->ids.ruid; }
long call_geteuid(struct call *c) { return c->core->ids.euid; }
long call_getgid(struct call *c) { return c->core->ids.rgid; }
long call_getegid(struct call *c) { return c->core->ids.egid; }

static long put3(struct call *c, uint32_t a, uint32_t b, uint32_t d)
{
	return guest_write((void *)c->a[0], &a, 4) || guest_write((void *)c->a[1], &b, 4) || guest_write((void *)c->a[2], &d, 4)
		       ? -EFAULT : 0;
}

long call_getresuid(struct call *c) { return put3(c, c->core->ids.ruid, c->core->ids.euid, c->core->ids.suid); }
long call_getresgid(struct call *c) { return put3(c, c->core->ids.rgid, c->core->ids.egid, c->core->ids.sgid); }

long call_getgroups(struct call *c)
{
	const struct ids *ids = &c->core->ids;
	int size = (int)c->a[0];

	if (size < 0 || (size && (uint32_t)size < ids->n_groups))
		return -EINVAL;
	if (size && guest_write((void *)c->a[1], ids->groups, ids->n_groups * sizeof ids->groups[0]))
		return -EFAULT;
	return ids->n_groups;
}

long call_setgroups(struct call *c)
{
	struct ids *ids = &c->core->ids;
	uint32_t n = (uint32_t)c->a[0], groups[MAX_GROUPS];

	if (!root(c))
		return -EPERM;
	if (n > 65536)
		return -EINVAL;
	if (n > MAX_GROUPS)
		n = MAX_GROUPS;
	if (guest_read(groups, (void *)c->a[1], n * sizeof groups[0]))
		return -EFAULT;
	memcpy(ids->groups, groups, n * sizeof groups[0]);
	ids->n_groups = n;
	return 0;
}

static bool one_of(uint32_t id, uint32_t a, uint32_t b, uint32_t d)
{
	return id == a || id == b || id == d;
}

long call_setuid(struct call *c)
{
	struct ids *i = &c->core->ids;
	uint32_t id = (uint32_t)c->a[0];

	if (id == KEEP)
		return -EINVAL;
	if (root(c))
		i->ruid = i->suid = id;
	else if (id != i->ruid && id != i->suid)
		return -EPERM;
	i->euid = i->fsuid = id;
	return 0;
}

long call_setgid(struct call *c)
{
	struct ids *i = &c->core->ids;
	uint32_t id = (uint32_t)c->a[0];

	if (id == KEEP)
		return -EINVAL;
	if (root(c))
		i->rgid = i->sgid = id;
	else if (id != i->rgid && id != i->sgid)
		return -EPERM;
	i->egid = i->fsgid = id;
	return 0;
}

/* setreuid and setregid, on three ids. */
static long set_re(bool power, uint32_t r, uint32_t e, uint32_t *real, uint32_t *eff, uint32_t *saved)
{
	uint32_t old = *real;

	if (!power && ((r != KEEP && r != *real && r != *eff) || (e != KEEP && !one_of(e, *real, *eff, *saved))))
		return -EPERM;
	if (r != KEEP)
		*real = r;
	if (e != KEEP)
		*eff = e;
	if (r != KEEP || (e != KEEP && e != old))
		*saved = *eff;
	return 0;
}

static long set_res(bool power, const unsigned long *a, uint32_t *real, uint32_t *eff, uint32_t *saved)
{
	uint32_t *to[3] = { real, eff, saved };

	for (int i = 0; i < 3; i++)
		if ((uint32_t)a[i] != KEEP && !power && !one_of((uint32_t)a[i], *real, *eff, *saved))
			return -EPERM;
	for (int i = 0; i < 3; i++)
		if ((uint32_t)a[i] != KEEP)
			*to[i] = (uint32_t)a[i];
	return 0;
}

long call_setreuid(struct call *c)
{
	struct ids *i = &c->core->ids;
	long r = set_re(root(c), (uint32_t)c->a[0], (uint32_t)c->a[1], &i->ruid, &i->euid, &i->suid);

	i->fsuid = i->euid;
	return r;
}

long call_setregid(struct call *c)
{
	struct ids *i = &c->core->ids;
	long r = set_re(root(c), (uint32_t)c->a[0], (uint32_t)c->a[1], &i->rgid, &i->egid, &i->sgid);

	i->fsgid = i->egid;
	return r;
}

long call_setresuid(struct call *c)
{
	struct ids *i = &c->core->ids;
	long r = set_res(root(c), c->a, &i->ruid, &i->euid, &i->suid);

	i->fsuid = i->euid;
	return r;
}

long call_setresgid(struct call *c)
{
	struct ids *i = &c->core->ids;
	long r = set_res(root(c), c->a, &i->rgid, &i->egid, &i->sgid);

	i->fsgid = i->egid;
	return r;
}

long call_setfsuid(struct call *c)
{
	struct ids *i = &c->core->ids;
	uint32_t old = i->fsuid, id = (uint32_t)c->a[0];

	if (id != KEEP && (root(c) || id == i->fsuid || one_of(id, i->ruid, i->euid, i->suid)))
		i->fsuid = id;
	return old;
}

long call_setfsgid(struct call *c)
{
	struct ids *i = &c->core->ids;
	uint32_t old = i->fsgid, id = (uint32_t)c->a[0];

	if (id != KEEP && (root(c) || id == i->fsgid || one_of(id, i->rgid, i->egid, i->sgid)))
		i->fsgid = id;
	return old;
}

/* Guest root is told that it has every capability; taking some away succeeds. */
long call_capget(struct call *c)
{
	uint32_t version, all[6] = { ~0U, ~0U, 0, 0x1ff, 0x1ff, 0 };
	long r = call_raw(c);

	if (r || !c->a[1] || !root(c) || guest_read(&version, (void *)c->a[0], 4))
		return r;
	return guest_write((void *)c->a[1], all, version == 0x19980330 ? 12 : 24);
}

long call_capset(struct call *c)
{
	long r = call_raw(c);

	return r == -EPERM && c->core->plan->options & OPT_FAKE_ROOT ? 0 : r;
}

long call_uname(struct call *c)
{
	char name[6][65];
	const char *host = plan_text(c->core, c->core->plan->hostname);
	long r = SC1(__NR_uname, name);

	if (r)
		return r;
	if (c->core->plan->nodename[0])
		host = c->core->plan->nodename;
	if (*host)
		str_copy(name[1], host, sizeof name[1]);
	return guest_write((void *)c->a[0], name, sizeof name);
}

long call_sethostname(struct call *c)
{
	char name[65] = { 0 };

	if (!privileged(c->core))
		return -EPERM;
	if (c->a[1] > 64)
		return -EINVAL;
	if (guest_read(name, (void *)c->a[0], c->a[1]))
		return -EFAULT;
	memcpy(c->core->plan->nodename, name, sizeof name);
	return 0;
}

#define NEW_ONES (0x00020000UL | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080)
#define SHARED (0x100UL /* CLONE_VM */ | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000)

/* No namespaces inside: what was translated for one set of mounts would be wrong in another. */
long call_unshare(struct call *c)
{
	if (c->a[0] & ~(NEW_ONES | SHARED))
		return -EINVAL;
	if (c->a[0] & 0x600 /* CLONE_FS, CLONE_FILES: what threads know of descriptors is not common any more */)
		c->core->notes = NULL;
	return c->a[0] & NEW_ONES ? -EPERM : call_raw(c);
}

long call_setns(struct call *c)
{
	int fd = (int)c->a[0];

	return is_root_fd(c->core, fd) || sys_fcntl(fd, F_GETFD, 0) < 0 ? -EBADF : -EPERM;
}

#define HANDLE_KINDS 0x202L /* AT_HANDLE_FID, AT_HANDLE_CONNECTABLE */

/* Handles cannot be opened here (that needs a privilege outside of any namespace), but compared. */
long call_name_to_handle_at(struct call *c)
{
	struct place *p = &c->w->a;
	long flags = (int)c->a[4], r;
	int mount = 0;
	char first = 1;

	if (flags & ~(long)(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | HANDLE_KINDS))
		return -EINVAL;
	if (flags & AT_EMPTY_PATH && (r = guest_read(&first, (void *)c->a[1], 1)))
		return r;
	if (!first) {
		bool top;
		r = call_raw(c);
		mount = r && r != -EOVERFLOW ? -1 : fd_mount(c, (int)c->a[0], &top);
		if (mount < 0)
			return r;
		mount += 20;
		return guest_write((void *)c->a[3], &mount, sizeof mount) ? -EFAULT : r;
	}
	r = find(c, (int)c->a[0], (void *)c->a[1], flags & AT_SYMLINK_FOLLOW ? FOLLOW : 0, p);
	if (r)
		return r;
	r = SC5(__NR_name_to_handle_at, p->dfd, p->host, c->a[2], &mount,
		(flags & HANDLE_KINDS) | (p->magic ? AT_SYMLINK_FOLLOW : 0));
	if (r == -EFAULT || (r && r != -EOVERFLOW))
		return r;
	mount = 20 + p->mount; /* as in our mountinfo */
	return guest_write((void *)c->a[3], &mount, sizeof mount) ? -EFAULT : r;
}

long call_ok(struct call *c)
{
	return privileged(c->core) ? 0 : -EPERM;
}

/* ---- System V's things, which are the caller's as all files are --------------------------------------- */

enum { SET = 1, STAT = 2 };

struct ipc_perm { /* what shmid64_ds, semid64_ds and msqid64_ds begin with */
	int32_t key;
	uint32_t uid, gid, cuid, cgid;
};

static uint32_t shown_id(uint32_t id, uint32_t host, uint32_t own)
{
	return id == host ? own : 65534;
}

static long ipc_control(struct call *c, int command, void *guest)
{
	const struct plan *plan = c->core->plan;
	const struct ids *ids = &c->core->ids;
	struct ipc_perm asked, perm;
	long r;

	if (command == SET) { /* nobody but the caller has an id to give it to */
		if (guest_read(&asked, guest, sizeof asked))
			return -EFAULT;
		perm = asked;
		perm.uid = plan->host_uid;
		perm.gid = plan->host_gid;
		if (guest_write(guest, &perm, sizeof perm))
			return -EFAULT;
		r = call_raw(c);
		return guest_write(guest, &asked, sizeof asked) ? -EFAULT : r;
	}
	r = call_raw(c);
	if (r < 0 || guest_read(&perm, guest, sizeof perm))
		return r;
	perm.uid = shown_id(perm.uid, plan->host_uid, ids->euid);
	perm.cuid = shown_id(perm.cuid, plan->host_uid, ids->euid);
	perm.gid = shown_id(perm.gid, plan->host_gid, ids->egid);
	perm.cgid = shown_id(perm.cgid, plan->host_gid, ids->egid);
	return guest_write(guest, &perm, sizeof perm) ? -EFAULT : r;
}

long ipc_answer(struct call *c, int command, void *guest, int describe, int describe_any)
{
	command &= ~0x100; /* IPC_64 */
	if (command != SET && command != STAT && command != describe && command != describe_any)
		return call_raw(c);
	return ipc_control(c, command, guest);
}

long call_shmctl(struct call *c) { return ipc_answer(c, (int)c->a[1], (void *)c->a[2], SHM_DESCRIBED); }
long call_msgctl(struct call *c) { return ipc_answer(c, (int)c->a[1], (void *)c->a[2], MSG_DESCRIBED); }
long call_semctl(struct call *c) { return ipc_answer(c, (int)c->a[2], (void *)c->a[3], SEM_DESCRIBED); }
