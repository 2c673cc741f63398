#include "guard/plan.h"

enum arity { MAX_ARITY = 4 };

/* Operations that set a field, and those of the launcher, which are kept in order. */
enum field {
	F_ARG, F_ENV, F_PROGRAM, F_CWD, F_NULL_STDIN, F_TTY, F_LIMIT, F_SIGMASK, F_DEFAULTS, F_NEW_PRIVILEGES, F_IDS,
	F_GROUP, F_KEEP_CAPS, F_COOKIE, F_TIMEOUT, F_STOP_SIGNAL, F_STATS, F_REMOVE, F_UNLINK, F_FALLBACK,
	F_CLONE, F_MAP_UID, F_MAP_GID, F_MAP_TOOLS, F_LOWER, F_UPPER, F_PLAIN, F_HOSTNAME, F_LOOPBACK, F_DRY, F_JOIN, F_STAGE,
	F_OVER, F_LOADER, F_ANCHOR, F_ANCHOR_OF, F_XINO, F_LAST_OUT, F_SHARE, F_HOLD, F_REPORT, F_CONFINE, F_KEEP_FD, F_LANDLOCK, F_LANDLOCK_PATH, F_GATE, F_THROUGH,
	F_OP,
};

static const struct {
	const char *name;
	uint8_t field, arity, op;
} words[] = {
	{ "arg", F_ARG, 1, 0 },
	{ "env", F_ENV, 1, 0 },
	{ "program", F_PROGRAM, 1, 0 },
	{ "cwd", F_CWD, 1, 0 },
	{ "null-stdin", F_NULL_STDIN, 0, 0 },
	{ "tty", F_TTY, 0, 0 },
	{ "limit", F_LIMIT, 3, 0 },
	{ "sigmask", F_SIGMASK, 1, 0 },
	{ "default-signals", F_DEFAULTS, 1, 0 },
	{ "new-privileges", F_NEW_PRIVILEGES, 0, 0 },
	{ "ids", F_IDS, 2, 0 },
	{ "group", F_GROUP, 1, 0 },
	{ "keep-caps", F_KEEP_CAPS, 1, 0 },
	{ "cookie", F_COOKIE, 1, 0 },
	{ "timeout", F_TIMEOUT, 2, 0 },
	{ "stop-signal", F_STOP_SIGNAL, 1, 0 },
	{ "stats", F_STATS, 1, 0 },
	{ "remove", F_REMOVE, 1, 0 },
	{ "unlink", F_UNLINK, 1, 0 },
	{ "fallback", F_FALLBACK, 1, 0 },
	{ "clone", F_CLONE, 1, 0 },
	{ "map-uid", F_MAP_UID, 3, 0 },
	{ "map-gid", F_MAP_GID, 3, 0 },
	{ "map-tools", F_MAP_TOOLS, 2, 0 },
	{ "lower", F_LOWER, 1, 0 },
	{ "upper", F_UPPER, 3, 0 },
	{ "plain-root", F_PLAIN, 1, 0 },
	{ "hostname", F_HOSTNAME, 1, 0 },
	{ "loopback", F_LOOPBACK, 0, 0 },
	{ "dry", F_DRY, 0, 0 },
	{ "join", F_JOIN, 1, 0 },
	{ "stage", F_STAGE, 1, 0 },
	{ "over", F_OVER, 2, 0 },
	{ "loader", F_LOADER, 2, 0 },
	{ "anchor", F_ANCHOR, 1, 0 },
	{ "anchor-of", F_ANCHOR_OF, 2, 0 },
	{ "xino", F_XINO, 0, 0 },
	{ "last-out", F_LAST_OUT, 1, 0 },
	{ "share", F_SHARE, 1, 0 },
	{ "hold", F_HOLD, 1, 0 },
	{ "report", F_REPORT, 1, 0 },
	{ "gate", F_GATE, 2, 0 },
	{ "through", F_THROUGH, 1, 0 },
	{ "confine", F_CONFINE, 1, 0 },
	{ "keep-fd", F_KEEP_FD, 1, 0 },
	{ "landlock", F_LANDLOCK, 2, 0 },
	{ "landlock-path", F_LANDLOCK_PATH, 2, 0 },
	{ "bind", F_OP, 3, OP_BIND },
	{ "file", F_OP, 3, OP_FILE },
	{ "tmpfs", F_OP, 3, OP_TMPFS },
	{ "dev", F_OP, 1, OP_DEV },
	{ "shm", F_OP, 2, OP_SHM },
	{ "devpts", F_OP, 1, OP_DEVPTS },
	{ "proc", F_OP, 1, OP_PROC },
	{ "sys", F_OP, 1, OP_SYS },
	{ "binfmt", F_OP, 2, OP_BINFMT },
	{ "dir", F_OP, 1, OP_DIR },
	{ "touch", F_OP, 1, OP_TOUCH },
	{ "owner", F_OP, 4, OP_OWNER },
	{ "readonly", F_OP, 0, OP_READONLY },
};

static void *allocate(size_t n)
{
	void *p = sys_mmap(NULL, n + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return is_error((long)p) ? NULL : p;
}

static bool number(const char *text, unsigned base, uint64_t max, uint64_t *out)
{
	return parse_u64(text, base, out) && *out <= max;
}

static bool add_map(struct id_map *maps, size_t *n, char **a)
{
	uint64_t inside, outside, count;

	if (*n == MAX_MAPS || !number(a[0], 10, UINT32_MAX, &inside) || !number(a[1], 10, UINT32_MAX, &outside) ||
	    !number(a[2], 10, UINT32_MAX, &count))
		return false;
	maps[(*n)++] = (struct id_map){ (uint32_t)inside, (uint32_t)outside, (uint32_t)count };
	return true;
}

/* The letters of a word as bits, by their place in `known`; false where one is not there. */
static bool letters(const char *text, const char *known, unsigned *out)
{
	for (; *text; text++) {
		const char *at = str_chr(known, *text);
		if (!at)
			return false;
		*out |= 1U << (at - known);
	}
	return true;
}

/* Takes one operation; false where an argument is not what the operation wants. */
static bool take(struct plan *p, enum field field, char **a)
{
	uint64_t v, w, x;

	switch (field) {
	case F_ARG: p->argv[p->n_argv++] = a[0]; return true;
	case F_ENV: p->env[p->n_env++] = a[0]; return true;
	case F_PROGRAM: p->program = a[0]; return a[0][0] == '/';
	case F_CWD: p->cwd = a[0]; return a[0][0] == '/';
	case F_NULL_STDIN: p->null_stdin = true; return true;
	case F_TTY: p->tty = true; return true;
	case F_LIMIT:
		if (p->n_limits == MAX_LIMITS || !number(a[0], 10, 63, &v) || !number(a[1], 10, UINT64_MAX, &w) ||
		    !number(a[2], 10, UINT64_MAX, &x))
			return false;
		p->limits[p->n_limits].what = (int)v;
		p->limits[p->n_limits].soft = w;
		p->limits[p->n_limits++].hard = x;
		return true;
	case F_SIGMASK: return parse_u64(a[0], 16, &p->signals);
	case F_DEFAULTS: return parse_u64(a[0], 16, &p->default_signals);
	case F_NEW_PRIVILEGES: p->new_privileges = true; return true;
	case F_IDS:
		if (!number(a[0], 10, UINT32_MAX, &v) || !number(a[1], 10, UINT32_MAX, &w))
			return false;
		p->set_ids = true;
		p->uid = (uint32_t)v;
		p->gid = (uint32_t)w;
		return true;
	case F_GROUP:
		if (p->n_groups == MAX_GROUPS || !number(a[0], 10, UINT32_MAX, &v))
			return false;
		p->groups[p->n_groups++] = (uint32_t)v;
		return true;
	case F_KEEP_CAPS: return parse_u64(a[0], 16, &p->keep_caps);
	case F_COOKIE: p->cookie = a[0]; return a[0][0];
	case F_TIMEOUT: return parse_u64(a[0], 10, &p->timeout_ms) && parse_u64(a[1], 10, &p->kill_after_ms);
	case F_STOP_SIGNAL:
		p->stop_signal = number(a[0], 10, 64, &v) ? (int)v : 0;
		return p->stop_signal > 0;
	case F_STATS: p->stats = a[0]; return a[0][0] == '/';
	case F_REMOVE: p->remove[p->n_remove++] = a[0]; return a[0][0] == '/' && a[0][1];
	case F_UNLINK: p->unlink[p->n_unlink++] = a[0]; return a[0][0] == '/';
	case F_FALLBACK: p->fallback[p->n_fallback++] = a[0]; return true;
	case F_CLONE: p->clone_flags = number(a[0], 16, UINT32_MAX, &v) ? v : 0; return p->clone_flags;
	case F_MAP_UID: return add_map(p->uids, &p->n_uids, a);
	case F_MAP_GID: return add_map(p->gids, &p->n_gids, a);
	case F_MAP_TOOLS:
		p->map_tool_uid = a[0];
		p->map_tool_gid = a[1];
		return a[0][0] == '/' && a[1][0] == '/';
	case F_LOWER:
		if (p->n_lower == MAX_LOWER)
			return false;
		p->lower[p->n_lower++] = a[0];
		return a[0][0] == '/';
	case F_UPPER:
		p->upper = a[0];
		p->work = a[1];
		p->volatile_upper = str_eq(a[2], "volatile");
		return a[0][0] == '/' && a[1][0] == '/';
	case F_PLAIN:
		p->upper = a[0];
		p->plain_root = true;
		return a[0][0] == '/';
	case F_HOSTNAME: p->hostname = a[0]; return a[0][0] && strlen(a[0]) <= 64;
	case F_LOOPBACK: p->loopback = true; return true;
	case F_DRY: p->dry = true; return true;
	case F_JOIN: p->join = number(a[0], 10, INT32_MAX, &v) ? (int)v : 0; return p->join > 0;
	case F_STAGE: p->stage = a[0]; return a[0][0] == '/';
	case F_OVER:
		p->over_source = a[0];
		p->over_target = a[1];
		return a[0][0] == '/' && a[1][0] == '/';
	case F_LOADER:
		p->loader = a[0];
		p->loader_words = number(a[1], 10, 8, &v) ? v : 0;
		return a[0][0] == '/' && p->loader_words;
	case F_ANCHOR: p->anchor = a[0]; return a[0][0] == '/';
	case F_ANCHOR_OF:
		p->anchor_of = number(a[0], 10, INT32_MAX, &v) ? (int)v : 0;
		p->anchor_state = a[1];
		return p->anchor_of > 0 && a[1][0] == '/';
	case F_XINO: p->xino = true; return true;
	case F_LAST_OUT: p->last_out = number(a[0], 10, INT32_MAX, &v) ? (int)v : -1; return p->last_out > 2;
	case F_SHARE: p->share = number(a[0], 10, INT32_MAX, &v) ? (int)v : -1; return p->share > 2;
	case F_HOLD:
		for (size_t i = 0; i < MAX_HOLD; i++)
			if (p->hold[i] < 0)
				return number(a[0], 10, INT32_MAX, &v) && (p->hold[i] = (int)v) > 2;
		return false;
	case F_REPORT: p->report = number(a[0], 10, INT32_MAX, &v) ? (int)v : -1; return p->report > 2;
	case F_GATE:
		p->gate = a[0];
		p->gate_log = a[1];
		return a[0][0] == '/' && a[1][0] == '/';
	case F_THROUGH: p->through = a[0]; return a[0][0] == '/';
	case F_CONFINE: return letters(a[0], "aundc", &p->confine);
	case F_KEEP_FD:
		if (p->n_kept == MAX_KEPT || !number(a[0], 10, INT32_MAX, &v))
			return false;
		p->kept[p->n_kept++] = (int)v;
		return true;
	case F_LANDLOCK:
		if (!number(a[0], 10, 999, &v))
			return false;
		p->landlock_abi = (unsigned)v;
		return letters(a[1], "fnas", &p->landlock);
	case F_LANDLOCK_PATH: {
		unsigned ignored = 0;
		p->reach[p->n_reach++] = (struct reach){ a[0], a[1] };
		return a[0][0] == '/' && letters(a[1], "rlxwio", &ignored);
	}
	case F_OP: return true;
	}
	return false;
}

const char *plan_read(int fd, struct plan *p)
{
	static char wrong[160];
	struct stat st;
	long r = sys_fstat(fd, &st);
	size_t strings = 0, n, at = 0;

	*p = (struct plan){ .stop_signal = SIGTERM, .kill_after_ms = 10000, .cwd = "/", .keep_caps = ~0ULL, .last_out = -1, .share = -1, .hold = { -1, -1 },
			    .report = -1, .report_pipe = -1 };
	if (r < 0 || st.st_size <= 0)
		return "the plan cannot be read";
	n = (size_t)st.st_size;
	char *text = sys_mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (is_error((long)text) || text[n - 1])
		return "the plan cannot be read";
	sys_close(fd);
	for (size_t i = 0; i < n; i++)
		strings += !text[i];
	/* no list is longer than the number of strings; pages not touched cost nothing */
	char **lists = allocate(6 * (strings + 1) * sizeof *lists);
	p->ops = allocate((strings + 1) * sizeof *p->ops);
	p->reach = allocate((strings + 1) * sizeof *p->reach);
	if (!lists || !p->ops || !p->reach)
		return "no memory for the plan";
	p->argv = lists;
	p->env = lists + strings + 1;
	p->remove = lists + 2 * (strings + 1);
	p->unlink = lists + 3 * (strings + 1);
	p->fallback = lists + 4 * (strings + 1);
	char **word = lists + 5 * (strings + 1);
	for (size_t i = 0; i < n; i += strlen(text + i) + 1)
		word[at++] = text + i;
	if (strings < 2 || !str_eq(word[0], "udk-plan") || !str_eq(word[1], "1"))
		return "the plan is of another version";
	for (size_t i = 2; i < strings;) {
		size_t k = 0;
		while (k < ARRAY_LEN(words) && !str_eq(words[k].name, word[i]))
			k++;
		if (k == ARRAY_LEN(words) || i + 1 + words[k].arity > strings || !take(p, words[k].field, word + i + 1)) {
			fmt(wrong, sizeof wrong, "the plan has a bad operation: %.100s", word[i]);
			return wrong;
		}
		if (words[k].field == F_OP) {
			struct op *op = &p->ops[p->n_ops++];
			op->kind = words[k].op;
			for (int j = 0; j < words[k].arity; j++)
				op->arg[j] = word[i + 1 + (size_t)j];
		}
		i += 1U + words[k].arity;
	}
	if (p->n_argv <= p->loader_words && !p->dry)
		return "the plan has no command";
	return NULL;
}
