/* Making the plan from the driver's description, and mapping it into a process.
 *
 * The description is a sequence of NUL-terminated words: a key, then its values.
 *
 *   mount FLAGS GUEST HOST LOWER     (FLAGS decimal; the first is the root; none ends with a slash)
 *   loader|state|work|changes|record|hostname|sockets|cwd|code|emulator|ldconfig|index TEXT
 *   options N  uid N  gid N  machine N  report N  group N (repeated)
 */
#include "core/calls.h"


struct reader {
	const char *at, *end;
	struct plan *plan;
	const char *error;
};

static const char *word(struct reader *r)
{
	const char *s = r->at;
	size_t n = 0;

	while (r->at + n < r->end && s[n])
		n++;
	if (r->at + n >= r->end) {
		r->error = "it ends in the middle";
		return "";
	}
	r->at += n + 1;
	return s;
}

static uint32_t number(struct reader *r)
{
	uint64_t v = 0;

	if (!parse_u64(word(r), 10, &v) || v > 0xffffffff)
		r->error = "a number is wrong";
	return (uint32_t)v;
}

uint32_t plan_string(struct plan *plan, const char *s, size_t n)
{
	uint32_t at = PLAN_STRINGS - plan->strings_used - (uint32_t)n - 1;

	if (n >= GUEST_MAX || plan->strings_used + n + 1 >= PLAN_STRINGS)
		return 0;
	memcpy(plan->strings + at, s, n);
	plan->strings[at + n] = 0;
	plan->strings_used += (uint32_t)n + 1;
	return at;
}

static uint32_t string(struct reader *r, uint16_t *len, bool is_path)
{
	const char *s = word(r);
	size_t n = strlen(s);
	uint32_t at = plan_string(r->plan, s, n);

	if (is_path && n && (s[0] != '/' || s[n - 1] == '/' || n > LONGEST_HOST))
		r->error = "a path is not absolute, ends with a slash, or is too long";
	if (!at)
		r->error = "it is too long";
	else if (len)
		*len = (uint16_t)n;
	return at;
}

static void add_mount(struct reader *r)
{
	struct plan *p = r->plan;
	struct mount *m = &p->mounts[p->n_mounts];

	if (p->n_mounts == MAX_MOUNTS) {
		r->error = "too many mounts";
		return;
	}
	m->flags = (uint16_t)number(r);
	m->guest = string(r, &m->guest_len, true);
	m->host = string(r, &m->host_len, true);
	m->lower = string(r, &m->lower_len, true);
	p->n_mounts++;
}

const char *plan_parse(struct plan *plan, const char *text, size_t n, bool partial)
{
	struct { const char *key; uint32_t *to; bool path; } texts[] = {
		{ "loader", &plan->loader, true }, { "state", &plan->state, true }, { "work", &plan->work, true },
		{ "changes", &plan->changes, true }, { "record", &plan->record, true }, { "hostname", &plan->hostname, false },
		{ "sockets", &plan->sockets, true }, { "cwd", &plan->cwd, false }, { "code", &plan->code, true },
		{ "emulator", &plan->emulator, true }, { "ldconfig", &plan->ldconfig, true }, { "index", &plan->index, true },
	};
	struct { const char *key; uint32_t *to; } numbers[] = {
		{ "options", &plan->options }, { "uid", &plan->uid }, { "gid", &plan->gid }, { "machine", &plan->machine },
		{ "report", &plan->report },
		{ "lower-fd", &plan->lower_fd }, { "record-fd", &plan->record_fd },
	};
	struct reader r = { .at = text, .end = text + n, .plan = plan };

	plan->strings_used = 0;
	while (r.at < r.end && !r.error) {
		const char *key = word(&r);
		bool known = false;

		for (size_t i = 0; i < ARRAY_LEN(texts); i++)
			if (str_eq(key, texts[i].key))
				known = true, *texts[i].to = string(&r, NULL, texts[i].path);
		for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
			if (str_eq(key, numbers[i].key))
				known = true, *numbers[i].to = number(&r);
		if (str_eq(key, "mount"))
			known = true, add_mount(&r);
		if (str_eq(key, "group")) {
			known = true;
			if (plan->n_groups < MAX_GROUPS)
				plan->groups[plan->n_groups++] = number(&r);
			else
				word(&r);
		}
		if (!known && !r.error)
			r.error = "a key is not known";
	}
	if (!r.error && !partial && (!plan->n_mounts || plan->mounts[0].guest_len || !plan->loader || !plan->state))
		r.error = "root, loader or state is missing";
	if (r.error)
		return r.error;
	plan->magic = PLAN_MAGIC;
	plan->size = sizeof *plan;
	plan->generation = 1;
	plan->host_uid = (uint32_t)sys_geteuid();
	plan->host_gid = (uint32_t)sys_getegid();
	return NULL;
}

/* Where the plan's state, work, or changes are; returns the length, 0 for none. For the identity layer these lie in its
 * anchor, the working directory of a process of the container: which one, each process has from who started it. */
size_t plan_path(const struct core *k, const char *text, char *to, size_t size)
{
	size_t n = *text && k->anchor ? fmt(to, size, "/proc/%u/cwd", k->anchor) : 0;

	return n + str_copy(to + n, text, size - n);
}

/* The process whose working directory the path goes through. */
static uint32_t anchor_of(const char *path)
{
	uint64_t pid = 0;

	if (str_starts(path, "/proc/"))
		for (path += 6; *path >= '0' && *path <= '9'; path++)
			pid = pid * 10 + (unsigned)(*path - '0');
	return str_starts(path, "/cwd/") ? (uint32_t)pid : 0;
}

/* Are inodes the same at each mount? By FUSE they are what a program makes up, by CIFS and 9p a server may. */
static bool lasting_inodes(const char *path)
{
	static const long not[] = { 0x65735546 /* FUSE */, 0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */, 0x517b /* SMB */, 0x01021997 /* 9p */ };
	long fs[32];

	if (SC2(__NR_statfs, path, fs))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(not); i++)
		if (fs[0] == not[i])
			return false;
	return true;
}

/* Looks at the trees once: whose they are, on which devices. 0 or -errno; *what is the path of the trouble. */
long plan_inspect(struct plan *plan, const char **what)
{
	const struct mount *m = &plan->mounts[0];
	struct stat st;
	long r;

	if (plan->options & OPT_IDENTITY) {
		*what = "/proc/self/exe";
		r = sys_fstatat(AT_FDCWD, *what, &st, 0);
		if (r)
			return r;
		plan->loader_dev = st.st_dev;
		plan->loader_ino = st.st_ino;
	}
	*what = m->host_len ? plan->strings + m->host : "/";
	r = sys_fstatat(AT_FDCWD, *what, &st, 0);
	if (r)
		return r;
	plan->upper_dev = plan->lower_dev = st.st_dev;
	plan->root_ino[0] = st.st_ino;
	plan->lower_uid = st.st_uid;
	if (m->flags & MOUNT_UNION) {
		*what = plan->strings + m->lower;
		r = sys_fstatat(AT_FDCWD, *what, &st, 0);
		plan->lower_dev = st.st_dev;
		plan->root_ino[1] = st.st_ino;
		plan->lower_uid = st.st_uid;
		plan->lower_ctime[0] = (int64_t)st.st_ctime;
		plan->lower_ctime[1] = (int64_t)st.st_ctime_nsec;
		if (plan->index && !lasting_inodes(*what))
			plan->index = 0;
	}
	return r;
}

/* The target of mount i as a path of the root so far: made where it is missing, except below what is read-only. */
static long place_mount(struct call *c, const struct mount *m, const char *target)
{
	struct place *p = &c->w->a;
	char *text = c->w->b.guest;
	size_t n = str_copy(text, target, GUEST_MAX);
	long r;

	for (size_t i = 1; i <= n; i++) { /* the directories above */
		if (text[i] != '/')
			continue;
		text[i] = 0;
		c->nr = __NR_mkdirat;
		c->a[0] = (unsigned long)AT_FDCWD;
		c->a[1] = (unsigned long)text;
		c->a[2] = 0755;
		r = resolve_text(c, AT_FDCWD, text, i, FOLLOW, p);
		if (r || (!p->found && !p->mounted && lookup(c, p)))
			core_call(c);
		text[i] = '/';
	}
	r = resolve_text(c, AT_FDCWD, text, n, FOLLOW, p);
	if (r || p->mounted || p->found || !lookup(c, p))
		return r;
	c->a[0] = (unsigned long)AT_FDCWD;
	c->a[1] = (unsigned long)text;
	c->a[2] = m->flags & MOUNT_FILE ? S_IFREG | 0644 : 0755;
	c->a[3] = 0;
	c->nr = m->flags & MOUNT_FILE ? __NR_mknodat : __NR_mkdirat;
	core_call(c); /* where it cannot be made it is reachable all the same, only not listed */
	return resolve_text(c, AT_FDCWD, text, n, FOLLOW, p);
}

long plan_place_mounts(struct call *c, const char **what)
{
	struct plan *plan = c->core->plan;
	uint32_t n = plan->n_mounts;

	for (uint32_t i = 1; i < n; i++) {
		struct mount *m = &plan->mounts[i];
		const char *target = plan->strings + m->guest;
		struct place *p = &c->w->a;
		long r;

		*what = target;
		plan->n_mounts = i;
		changed(c->core);
		r = place_mount(c, m, target);
		if (r)
			return r;
		if (p->len != m->guest_len || memcmp(p->guest, target, p->len)) {
			uint32_t at = plan_string(plan, p->guest, p->len);

			if (!at)
				return -ENOSPC;
			m->guest = at;
			m->guest_len = p->len;
		}
	}
	plan->n_mounts = n;
	changed(c->core);
	return 0;
}

/* Opens, or makes, a file that is mapped whole at a fixed address. */
/* Beyond its limit the kernel does not only refuse, it sends a signal that ends us without a word. */
static long make_size(int fd, size_t size)
{
	struct rlimit64 most;

	if (!sys_prlimit(0, 1 /* RLIMIT_FSIZE */, NULL, &most) && most.rlim_cur < size)
		return -EFBIG;
	return sys_ftruncate(fd, (int64_t)size);
}

static long map_at(const char *path, size_t size, unsigned long at, bool make, bool *fresh)
{
	struct stat st;
	long fd, r;

	fd = sys_open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (make ? O_CREAT : 0), 0600);
	if (fd < 0)
		return fd;
	*fresh = false;
	if (make) {
		r = sys_fstat((int)fd, &st);
		*fresh = !r && st.st_size == 0;
		if (!r && (size_t)st.st_size < size)
			r = make_size((int)fd, size);
		if (r) {
			sys_close((int)fd);
			return r;
		}
	}
	r = (long)sys_mmap((void *)at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd, 0);
	sys_close((int)fd);
	return is_error(r) ? r : 0;
}

long plan_map(struct core *k, const char *state, bool make)
{
	bool fresh;
	long r = map_at(state, sizeof(struct plan), PLAN_AT, make, &fresh);

	if (r)
		return r;
	k->plan = (struct plan *)PLAN_AT;
	if (!make)
		k->anchor = k->plan->options & OPT_IDENTITY ? anchor_of(state) : 0;
	return make || k->plan->magic == PLAN_MAGIC ? 0 : -EINVAL;
}

/* Nothing in it leads out of it: a file that was cut or written over is refused. */
static bool sound(const struct plan *p)
{
	const uint32_t texts[] = { p->loader, p->state, p->work, p->changes, p->record, p->hostname, p->sockets, p->cwd, p->index };

	if (p->magic != PLAN_MAGIC || p->size != sizeof *p || !p->n_mounts || p->n_mounts > MAX_MOUNTS || p->n_groups > MAX_GROUPS ||
	    p->strings[PLAN_STRINGS - 1] || p->mounts[0].guest_len)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i] >= PLAN_STRINGS)
			return false;
	for (uint32_t i = 0; i < p->n_mounts; i++) {
		const struct mount *m = &p->mounts[i];
		const struct { uint32_t at, n, most; } paths[] = {
			{ m->guest, m->guest_len, GUEST_MAX - 1 }, { m->host, m->host_len, LONGEST_HOST }, { m->lower, m->lower_len, LONGEST_HOST },
		};

		for (size_t k = 0; k < ARRAY_LEN(paths); k++)
			if (paths[k].n > paths[k].most || paths[k].at >= PLAN_STRINGS - paths[k].n || p->strings[paths[k].at + paths[k].n])
				return false;
	}
	return true;
}

long plan_join(struct core *k, const char *state)
{
	struct stat st;
	long r = sys_fstatat(AT_FDCWD, state, &st, AT_SYMLINK_NOFOLLOW);

	if (!r && ((st.st_mode & S_IFMT) != S_IFREG || st.st_size < (long)sizeof(struct plan)))
		r = -EINVAL;
	if (!r)
		r = plan_map(k, state, false);
	return r || sound(k->plan) ? r : -EINVAL;
}

long plan_map_changes(struct core *k, bool make)
{
	char path[LONGEST_HOST + 40];
	struct changes *ch = (struct changes *)CHANGES_AT;
	size_t n = plan_path(k, plan_text(k, k->plan->changes), path, sizeof path);
	bool fresh;
	long r;

	if (!n)
		return 0;
	if (n >= sizeof path)
		return -ENAMETOOLONG;
	r = map_at(path, sizeof *ch, CHANGES_AT, make, &fresh);
	if (r)
		return r;
	if (fresh) {
		memcpy(ch->magic, "UDKCHG\0\1", 8);
		ch->slots = CHANGE_OWNERS;
	}
	if (memcmp(ch->magic, "UDKCHG\0\1", 8) || ch->slots != CHANGE_OWNERS)
		return -EINVAL;
	k->changes = ch;
	if (make) {
		k->plan->any_changes = ch->used != 0;
		owner_index_changes(k);
		if (ch->used)
			forget_setgid(k);
	}
	return 0;
}
