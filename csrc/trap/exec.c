/* execve: find out what the guest means, then exec ourselves with it.
 *
 * A prefix before the guest's argv tells the next incarnation all it must know; the environment is the guest's own.
 */
#include "trap/trap.h"

#include "preload/eager.h"

/* "ruid euid ... n groups" in hexadecimal, for the next program. */
static void ids_text(const struct ids *i, char *to, size_t size)
{
	const uint32_t v[8] = { i->ruid, i->euid, i->suid, i->fsuid, i->rgid, i->egid, i->sgid, i->fsgid };
	size_t n = 0;

	for (int k = 0; k < 8; k++)
		n += fmt(to + n, size - n, "%x ", v[k]);
	for (uint32_t k = 0; k < i->n_groups; k++)
		n += fmt(to + n, size - n, "%x ", i->groups[k]);
}

static int ignored_signals(void)
{
	int r = (self.sigsys.handler == SIG_IGN) | (self.core.notes ? 0 : 8) | (self.core.roots ? 16 : 0);

	for (int i = 0; i < 2; i++)
		if (self.fault[i].handler == SIG_IGN)
			r |= 2 << i;
	return r;
}

static void flags_text(char *to, size_t size, unsigned fd, bool engine, const char *path)
{
	const char *name = str_rchr(path, '/');

	fmt(to, size, "%x %x %x %x %.15s", ignored_signals(), self.filter, fd, engine, name ? name + 1 : path);
}

/* The host path of a place in one piece, or NULL. */
static const char *whole(const struct place *p)
{
	return p->dfd == AT_FDCWD && p->host[0] == '/' && !p->raw ? p->host : NULL;
}

/* The guest's pointers have 4 bytes in a 32-bit program. */
static long word(const struct call *c, const void *v, long i, const char **to)
{
	uint32_t narrow;
	long r;

	if (!c->nr32)
		return guest_read(to, (const char *const *)v + i, sizeof *to);
	r = guest_read(&narrow, (const uint32_t *)v + i, sizeof narrow);
	*to = (const char *)(uintptr_t)narrow;
	return r;
}

static long count(const struct call *c, const void *v, long *n)
{
	const char *s;

	for (*n = 0; v; ++*n) {
		if (word(c, v, *n, &s))
			return -EFAULT;
		if (!s)
			break;
		if (*n > 1 << 22)
			return -E2BIG;
	}
	return 0;
}

/* One that this machine's kernel may run, natively. */
static bool is_32_bit(const char *head)
{
#if defined(__x86_64__)
	const char machine = 3; /* EM_386 */
#else
	const char machine = 40; /* EM_ARM */
#endif
	return !memcmp(head, "\177ELF\1", 5) && head[18] == machine;
}

/* What a distribution's package manager cannot do without, and is static: our own, which is its own interpreter. */
static bool instead_of_ldconfig(struct call *c)
{
	static const char *const theirs[] = { "/sbin/ldconfig", "/usr/sbin/ldconfig", "/usr/bin/ldconfig", "/sbin/ldconfig.real", "/usr/sbin/ldconfig.real" };
	const char *ours = plan_text(c->core, c->core->plan->ldconfig);
	struct place *p = &c->w->a, *interpreter = &c->w->b;
	bool it_is = false;

	for (size_t i = 0; i < ARRAY_LEN(theirs); i++)
		it_is |= str_eq(p->guest, theirs[i]);
	if (!*ours || !it_is || c->w->program.fd >= 0 || sys_fstatat(AT_FDCWD, ours, &p->st, 0) < 0)
		return false;
	memset(interpreter, 0, offsetof(struct place, guest));
	p->dfd = interpreter->dfd = AT_FDCWD;
	p->direct = p->raw = p->magic = false;
	p->found = interpreter->found = true;
	str_copy(p->host, ours, HOST_MAX);
	str_copy(interpreter->host, ours, HOST_MAX);
	interpreter->len = (uint16_t)str_copy(interpreter->guest, p->guest, GUEST_MAX);
	return true;
}

static void refuse(const char *guest, const char *why)
{
	if (self.refused)
		fmt(self.refused, 400, "%.150s is %s", guest, why);
	else
		say(2, "udk: error: %s is %s\n", guest, why);
}

/* Is the place one whose host path the canonical path tells, until the generation counter tells otherwise? */
static bool in_image(const struct place *p)
{
	return !p->raw && !p->magic && !p->mounted && !p->mount && p->layer == LAYER_LOWER;
}

static void remember_program(struct call *c, uint32_t generation, const char *path, const struct place *p, const struct program *g)
{
	const struct place *interpreter = c->w->b.found ? &c->w->b : NULL;

	if (path[0] == '/' && g->everybodys && !g->n_head && g->fd < 0 && !g->engine && in_image(p) &&
	    (interpreter ? in_image(interpreter) : !self.eager) && !c->core->root_len && !judged(c->core))
		cache_keep_program(c->core, generation, path, g->remembered ? KNOWN_WELL : SEEN_ONCE, p, interpreter);
}

/* What tells the next incarnation what it must know, before the guest's argv: PREFIX words. */
static void prefix(const struct core *k, const char **v, const char *state, const char *guest, const char *host, const char *interpreter,
		   const char *ids, const char *flags)
{
	v[0] = PREFIX_MARK;
	v[1] = state;
	v[2] = guest;
	v[3] = host;
	v[4] = interpreter;
	v[5] = ids;
	v[6] = k->root_len ? k->root : "";
	v[7] = flags;
}

long do_exec(struct call *c, int dfd, const void *path, const void *argv, const void *envp, long flags)
{
	struct core *k = c->core;
	struct program *g = &c->w->program;
	struct place *p = &c->w->a;
	struct ids *ids = &c->w->ids;
	const char *state = plan_text(k, k->plan->state);
	const char **v;
	size_t size = 0;
	long n, n_env = 0, at = PREFIX, r;
	uint32_t generation = k->plan->generation;
	bool ours = own_memory();

	if (!ours && self.vfork.pid == (int)sys_getpid())
		*ids = self.vfork.ids;
	else
		*ids = k->ids;
	c->w->b.found = false;
	c->w->b.host[0] = 0;
	r = find_program(c, dfd, path, flags, g);
	if (r == -ENOEXEC && k->plan->options & OPT_IDENTITY && is_32_bit(g->header))
		return SC5(__NR_execveat, dfd, path, argv, envp, flags); /* it makes no calls that trap */
	if (r == -ENOEXEC && is_32_bit(g->header)) {
		refuse(p->guest, self.eager ? "a 32-bit program, which the preload engine cannot run; the engines namespace and ptrace can, and trap "
					      "where the host has qemu-user-static"
		       : "a 32-bit program; unconfined, this engine runs it where the host has qemu-user-static, and the engines "
			 "namespace and ptrace without");
		return r;
	}
	if (!r)
		remember_program(c, generation, g->script, p, g);
	if (!r)
		r = count(c, argv, &n);
	if (!r && c->nr32)
		r = count(c, envp, &n_env);
	if (r)
		return r;
	if (self.eager && !c->w->b.found && is_static(c) && !instead_of_ldconfig(c)) {
		refuse(p->guest, "a static program, which the preload engine cannot run; the engines namespace, trap and ptrace can");
		return -EACCES;
	}
	if (g->set_uid != (uint32_t)-1)
		ids->euid = ids->suid = ids->fsuid = g->set_uid;
	if (g->set_gid != (uint32_t)-1)
		ids->egid = ids->sgid = ids->fsgid = g->set_gid;
	if (p->direct && !p->raw) { /* relative to a descriptor: by its path */
		enum layer layer = p->layer;
		p->direct = false;
		place_host(c, p, layer);
	}
	ids_text(ids, g->ids, sizeof g->ids);
	if (g->fd >= 0) {
		/* No path leads to it: a copy of the descriptor does, that the loader closes. */
		long copy = sys_fcntl(g->fd, F_DUPFD, 100);
		if (copy < 0)
			return copy;
		fmt(p->host, 64, "/proc/self/fd/%ld", copy);
		g->fd = (int)copy;
	} else if (!whole(p)) {
		return -ENAMETOOLONG;
	}
	flags_text(g->flags, sizeof g->flags, g->fd >= 0 ? (unsigned)g->fd : 0, g->engine, g->script);
	size = (size_t)(n + n_env + PREFIX + (long)ARRAY_LEN(g->head) + 3) * sizeof *v;
	if (size <= sizeof g->header) { /* which has been looked at */
		v = (const char **)(void *)g->header;
	} else if (size <= sizeof c->w->c.host) {
		v = (const char **)(void *)(((uintptr_t)c->w->c.host + 7) & ~(uintptr_t)7);
		if (size + 8 > sizeof c->w->c.host)
			return -E2BIG;
	} else {
		v = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (is_error((long)v))
			return -ENOMEM;
	}
	if (k->anchor) {
		if (plan_path(k, state, g->state, sizeof g->state) >= sizeof g->state)
			return -ENAMETOOLONG;
		state = g->state;
	}
	prefix(k, v, state, p->guest, p->host, c->w->b.found && whole(&c->w->b) ? c->w->b.host : "", g->ids, g->flags);
	for (int i = 0; i < g->n_head; i++, at++) {
		v[at] = g->head[i] ? g->head[i] : "";
		if (!g->head[i] && n && word(c, argv, 0, &v[at]))
			return -EFAULT;
	}
	if (!g->n_head && !n)
		v[at++] = ""; /* as the kernel does for an empty argv */
	for (long i = g->n_head ? 1 : 0; i < n; i++)
		if (word(c, argv, i, &v[at++]))
			return -EFAULT;
	v[at++] = NULL;
	if (c->nr32) {
		for (long i = 0; i < n_env; i++)
			if (word(c, envp, i, &v[at + i]))
				return -EFAULT;
		v[at + n_env] = NULL;
		envp = &v[at];
	}
	note_running(k, p);
	slot_mine(c->w);
	trace_before_exec();
	r = sys_execve(plan_text(k, k->plan->loader), (char *const *)(uintptr_t)v, (char *const *)(uintptr_t)envp);
	if (g->fd >= 0)
		sys_close(g->fd);
	if (size > sizeof c->w->c.host)
		sys_munmap(v, size);
	return r;
}

#define FAST_HOST 320
#define FAST_ARGS 80

/* In the page that a forked child has to itself: of others it would get copies. */
struct fast_exec {
	uint64_t by; /* page of the stack and number of the thread that uses this; 0: nobody */
	char ids[160], flags[80], path[192], paths[CACHE_TEXT], host[FAST_HOST], interpreter[FAST_HOST];
	const char *v[PREFIX + FAST_ARGS];
};
_Static_assert(sizeof(struct fast_exec) <= sizeof since_fork.exec, "fits");

/* A vfork child that executes something leaves its mark here. Whoever comes on the same stack knows that it is gone. */
static bool fast_take(struct fast_exec *f)
{
	uint64_t was = f->by, tid = (uint64_t)sys_gettid(), stack = (uint64_t)(uintptr_t)__builtin_frame_address(0) >> 12;

	if (was && ((was & 0xffffffff) == tid || (was >> 32 != (stack & 0xffffffff) && SC2(__NR_tkill, (int)was, 0) != -ESRCH)))
		return false;
	return __atomic_compare_exchange_n(&f->by, &was, stack << 32 | tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static bool fast_host(const struct core *k, char *to, const char *guest)
{
	size_t n = k->plan->mounts[0].lower_len, len = strlen(guest);

	if (n + len >= FAST_HOST)
		return false;
	memcpy(to, plan_text(k, k->plan->mounts[0].lower), n);
	memcpy(to + n, guest, len + 1);
	return true;
}

static bool fast_args(struct fast_exec *f, const char *const *argv)
{
	long n = 0;

	for (;; n++)
		if (!argv || n == FAST_ARGS - 1 || guest_read(&f->v[PREFIX + n], argv + n, sizeof *argv))
			return false;
		else if (!f->v[PREFIX + n])
			return n > 0;
}

bool exec_again(const unsigned long a[6], long *r)
{
	struct fast_exec *f = (void *)since_fork.exec;
	struct core *k = &self.core;
	const struct ids *ids = &k->ids;
	long n;

	since_fork.touched = true;
	if (k->root_len || k->anchor || judged(k) || ids->n_groups > 8 || (self.vfork.pid && self.vfork.pid == (int)sys_getpid()) || !fast_take(f))
		return false;
	n = guest_str(f->path, (void *)a[0], sizeof f->path);
	if (n > 0 && f->path[0] == '/' && cache_program(k, f->path, (size_t)n, f->paths) == KNOWN_WELL && fast_args(f, (void *)a[1]) &&
	    fast_host(k, f->host, f->paths)) {
		const char *interpreter = f->paths + strlen(f->paths) + 1;

		f->interpreter[0] = 0;
		if (!*interpreter || fast_host(k, f->interpreter, interpreter)) {
			ids_text(ids, f->ids, sizeof f->ids);
			flags_text(f->flags, sizeof f->flags, 0, false, f->path);
			prefix(k, f->v, plan_text(k, k->plan->state), f->paths, f->host, f->interpreter, f->ids, f->flags);
			trace_before_exec();
			*r = sys_execve(plan_text(k, k->plan->loader), (char *const *)(uintptr_t)f->v, (char *const *)a[2]);
			f->by = 0;
			return true;
		}
	}
	f->by = 0;
	return false;
}

long call_execve(struct call *c)
{
	return do_exec(c, AT_FDCWD, (void *)c->a[0], (void *)c->a[1], (void *)c->a[2], 0);
}

long call_execveat(struct call *c)
{
	return do_exec(c, (int)c->a[0], (void *)c->a[1], (void *)c->a[2], (void *)c->a[3], (long)(int)c->a[4]);
}
