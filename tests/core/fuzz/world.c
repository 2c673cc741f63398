#undef UDK_CHECKED
#include "fuzz/world.h"

int atexit(void (*f)(void));

struct core world;
char *guest;
unsigned char world_litter = 0xbe;
static struct plan plans[2]; /* a union, a plain root */
static char base[600], sockets[300]; /* the latter must be short */
static unsigned variant_now;
static int lowest; /* free descriptor */
static int above;  /* descriptors beyond it */
static struct note note_memory[NOTES];
static struct notes notes;
static uint64_t setgid_of_image[SETGID_WORDS], owned_by_image[OWNED_WORDS];

static bool always(void)
{
	return true;
}

const char *world_path(const char *name)
{
	static char path[4][1024];
	static unsigned turn;
	char *to = path[turn = (turn + 1) % 4];

	snprintf(to, sizeof path[0], "%s%s%s", base, *name ? "/" : "", name);
	return to;
}

void world_file(const char *name, const void *data, size_t n, unsigned mode)
{
	const char *path = world_path(name);
	long gone = sys_unlinkat(AT_FDCWD, path, 0); /* left by an earlier process, perhaps read-only */
	long fd = gone && gone != -ENOENT ? gone : sys_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write_all((int)fd, data, n)) {
		say(2, "%s: %s\n", path, errno_text(fd));
		finding();
	}
	sys_fchmod((int)fd, mode);
	sys_close((int)fd);
}

static void make_plan(struct plan *plan, bool both)
{
	static char text[16384];
	size_t n = 0;
	const char *error, *what;

#define WORD(...) n += (size_t)snprintf(text + n, sizeof text - n, __VA_ARGS__) + 1
#define MOUNT(flags, at, host, lower) WORD("mount"), WORD("%d", flags), WORD("%s", at), WORD("%s", host), WORD("%s", lower)
	if (both)
		MOUNT(MOUNT_UNION | MOUNT_CACHE, "", world_path("upper"), world_path("lower"));
	else
		MOUNT(MOUNT_CACHE, "", world_path("plain"), "");
	MOUNT(0, "/mnt", world_path("bind"), "");
	MOUNT(MOUNT_RO, "/mnt/sub", world_path("bind/sub"), "");
	MOUNT(MOUNT_FILE, "/file", world_path("bound"), "");
	MOUNT(MOUNT_PROC, "/proc", "/proc", "");
	MOUNT(MOUNT_PROC, "/fproc", world_path("proc"), "");
	MOUNT(MOUNT_RO | MOUNT_CACHE, "/link/ro", world_path("fixed"), "");
	MOUNT(MOUNT_CACHE | MOUNT_RO, "/dev", world_path("fixed2"), "");
	MOUNT(MOUNT_RO, "/with space", world_path("fixed3"), "");
	WORD("loader"), WORD("/no/loader"), WORD("state"), WORD("%s", world_path("state/plan")), WORD("work"), WORD("%s", world_path("work"));
	WORD("changes"), WORD("%s", world_path("changes")), WORD("record"), WORD("%s", world_path("record")), WORD("hostname"), WORD("box");
	WORD("code"), WORD("%s", world_path("code")), WORD("emulator"), WORD("%s", world_path("fixed/x"));
	WORD("sockets"), WORD("%s", sockets), WORD("uid"), WORD("0"), WORD("gid"), WORD("0"), WORD("group"), WORD("5");
	error = plan_parse(plan, text, n, false);
	if (!error && plan_inspect(plan, &what))
		error = what;
	if (error) {
		say(2, "plan: %s\n", error);
		finding();
	}
}

static void remove_below(int dirfd, const char *name)
{
	int fd = (int)sys_openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	char buf[8192];
	long n;

	if (fd == -EACCES && !sys_fchmodat(dirfd, name, 0700))
		fd = (int)sys_openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	if (fd < 0) {
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			return;
		say(2, "%s cannot be emptied: %s\n", name, errno_text(fd));
		finding();
	}
	sys_fchmod(fd, 0700);
	for (bool again = true; again;) {
		again = false;
		sys_lseek(fd, 0, SEEK_SET);
		while ((n = sys_getdents64(fd, buf, sizeof buf)) > 0)
			for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
				struct linux_dirent64 *d = (void *)s;

				if (str_eq(d->d_name, ".") || str_eq(d->d_name, ".."))
					continue;
				if (sys_unlinkat(fd, d->d_name, 0)) {
					remove_below(fd, d->d_name);
					if (sys_unlinkat(fd, d->d_name, AT_REMOVEDIR)) {
						say(2, "%s stays\n", d->d_name);
						finding();
					}
				}
				again = true;
			}
	}
	sys_close(fd);
}

void world_remove(const char *name)
{
	remove_below(AT_FDCWD, world_path(name));
	sys_unlinkat(AT_FDCWD, world_path(name), AT_REMOVEDIR);
}

void world_changes(void)
{
	if (world.changes && (world.changes->used || world.changes->seen_by_overlay)) {
		SC2(__NR_truncate, world_path("changes"), 0);
		SC2(__NR_truncate, world_path("changes"), sizeof *world.changes);
		memcpy(world.changes->magic, "UDKCHG\0\1", 8);
		world.changes->slots = CHANGE_OWNERS;
	}
	world.plan->any_changes = 0;
}

/* A tree's own directory. */
static void put_back_root(const char *name)
{
	const char *path = world_path(name);
	char list[8192];
	long n;

	SC2(__NR_chmod, path, 0755); /* attributes are not removed without it */
	n = SC3(__NR_llistxattr, path, list, sizeof list);
	for (const char *s = list; n > 0 && s < list + n; s += strlen(s) + 1)
		SC2(__NR_lremovexattr, path, s);
	SC2(__NR_chmod, path, 0755);
}

static void put_back(void)
{
	static const char *const all[] = { "upper", "work" };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		remove_below(AT_FDCWD, world_path(all[i]));
		put_back_root(all[i]);
	}
	remove_below(AT_FDCWD, sockets);
	sys_unlinkat(AT_FDCWD, sockets, AT_REMOVEDIR); /* it is made when it is needed */
	if (variant_now & PLAIN_ROOT) {
		remove_below(AT_FDCWD, world_path("plain"));
		put_back_root("plain");
		populate("plain");
	}
	put_back_root("bind");
	sys_unlinkat(AT_FDCWD, world_path("bind/file"), 0);
	int fd = (int)sys_open(world_path("bind"), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	char buf[8192];
	for (long n; (n = sys_getdents64(fd, buf, sizeof buf)) > 0;)
		for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
			const char *name = ((struct linux_dirent64 *)s)->d_name;
			if (str_eq(name, ".") || str_eq(name, "..") || str_eq(name, "sub"))
				continue;
			remove_below(fd, name);
			if (sys_unlinkat(fd, name, 0))
				sys_unlinkat(fd, name, AT_REMOVEDIR);
		}
	sys_close(fd);
	text_file("bind", "file", "bind", 0644);
	sys_unlinkat(AT_FDCWD, world_path("bound"), 0);
	text_file("", "bound", "bound", 0644);
	world_changes();
}

/* Every input starts from the same: what it finds does not depend on those before it, and is there again. */
static void all_as_it_was(void)
{
	static uint64_t was[MAX_TREES];
	static unsigned turn;

	for (int i = 0; i < checked.n_trees; i++) {
		const char *path = checked.trees[i].path;

		/* The last three are written by the fuzzers themselves, or mapped. */
		if ((checked.trees[i].fixed && was[i] && turn % 64) || str_eq(path, checked.proc) || str_eq(path, world_path("state")) ||
		    str_eq(path, world_path("changes")))
			continue;
		uint64_t is = tree_digest(path, false);
		if (was[i] && was[i] != is) {
			say(2, "%s is not what it was before the first input:\n", path);
			tree_digest(path, true);
			finding();
		}
		was[i] = is;
	}
	turn++;
	for (int fd = 0; fd < 3; fd++)
		if (sys_fcntl(fd, F_GETFD, 0) < 0) {
			say(2, "descriptor %d is not open any more\n", fd);
			finding();
		}
}

void world_start(void)
{
	static const char *const dirs[] = { "upper", "work", "lower", "bind", "bind/sub", "fixed", "plain", "proc", "state", "secret", "code", "fixed2", "fixed3" };
	const char *home = getenv("FUZZ_HOME"), *what;
	char filler[100] = { 0 };

	if (!home) {
		say(2, "FUZZ_HOME must name an empty directory\n");
		finding();
	}
	memset(filler, 'w', 90); /* as long as the directories of real stores */
	snprintf(sockets, sizeof sockets, "%s/s", home);
	snprintf(base, sizeof base, "%s/%s", home, filler);
	sys_mkdirat(AT_FDCWD, base, 0755);
	SC1(__NR_umask, 022);
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		directory("", dirs[i]);
	make_trees();

	checked.secrets = home;
	static char proc[1024];
	str_copy(proc, world_path("proc"), sizeof proc);
	checked.proc = proc;
	static char paths[MAX_TREES][1024];
	static const struct { const char *name; bool fixed, links; } trees[] = {
		{ "upper", 0, 0 }, { "work", 0, 0 }, { "lower", 1, 0 }, { "bind", 0, 0 }, { "bind/sub", 1, 0 }, { "fixed", 1, 0 },
		{ "plain", 0, 0 }, { "proc", 1, 0 }, { "code", 1, 0 }, { "fixed2", 1, 0 }, { "fixed3", 1, 0 }, { "sockets", 0, 1 }, { "bound", 0, 0 }, { "state", 0, 0 }, { "changes", 0, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(trees); i++) {
		str_copy(paths[i], trees[i].links ? sockets : world_path(trees[i].name), sizeof paths[i]);
		checked.trees[i].path = paths[i];
		checked.trees[i].fixed = trees[i].fixed;
		checked.trees[i].links = trees[i].links;
	}
	checked.n_trees = ARRAY_LEN(trees);
	checked.old_proc = 7;

	char *at = sys_mmap(NULL, GUEST_SIZE + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	guest = at + 4096;
	sys_mprotect(guest, GUEST_SIZE, PROT_READ | PROT_WRITE);

	make_plan(&plans[0], true);
	make_plan(&plans[1], false);
	if (plan_map(&world, world_path("state/plan"), true))
		finding();
	world.plan->generation = 1;
	for (int i = 0; i < 2; i++) {
		memcpy(world.plan, &plans[i], offsetof(struct plan, generation));
		if (!i && (plan_map_changes(&world, true) || owner_load_record(&world)))
			finding();
		struct work *w = malloc(sizeof *w);
		struct call c = { .core = &world, .w = w };
		long r = plan_place_mounts(&c, &what);
		if (r) {
			say(2, "%s: %s\n", what, errno_text(r));
			finding();
		}
		free(w);
		memcpy(&plans[i], world.plan, offsetof(struct plan, generation));
	}
	memcpy(setgid_of_image, (void *)(uintptr_t)world.plan->setgid, sizeof setgid_of_image);
	memcpy(owned_by_image, (void *)(uintptr_t)world.plan->owned, sizeof owned_by_image);
	variant_now = PLAIN_ROOT; /* all of it */
	put_back();
	all_as_it_was();
}

static NORETURN void left_open(long fd)
{
	char link[40], text[300];
	long n;

	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	n = sys_readlinkat(AT_FDCWD, link, text, sizeof text - 1);
	text[MAX(n, 0)] = 0;
	say(2, "the core left a descriptor open: %ld, %s\n", fd, text);
	finding();
}

static int open_above(int lower, long *highest)
{
	int n = 0;

	for (int fd = lower + 1; fd < 256; fd++)
		if (sys_fcntl(fd, F_GETFD, 0) >= 0)
			n++, *highest = fd;
	return n;
}

int world_descriptors(int expected)
{
	long highest = 0;
	int n = open_above(2, &highest);

	if (expected >= 0 && n != expected)
		left_open(highest);
	return n;
}

void world_enter(unsigned variant)
{
	static const uint32_t ids[2] = { 0, 1000 };
	unsigned options = (variant & ROOT_ID ? OPT_FAKE_ROOT : 0) | (variant & OWNERS ? OPT_OWNERS : 0) |
			   (variant & WHITEOUT_FILES ? OPT_WHITEOUT_FILE : 0) | (variant & RECORD_BY_PATH ? OPT_RECORD_BY_PATH : 0);
	uint32_t id = ids[!!(variant & ORDINARY_ID)];

	variant_now = variant;
	memcpy(world.plan, &plans[variant & PLAIN_ROOT], offsetof(struct plan, generation));
	world.plan->options = options;
	world.plan->uid = world.plan->gid = id;
	changed(&world);
	world.ids = (struct ids){ id, id, id, id, id, id, id, id, 1, { 5 } };
	memset((void *)(uintptr_t)world.plan->running, 0, sizeof world.plan->running);
	/* What inputs before this one left. */
	memset((void *)(uintptr_t)world.plan->bloom, 0, sizeof world.plan->bloom);
	memcpy((void *)(uintptr_t)world.plan->setgid, setgid_of_image, sizeof setgid_of_image);
	memcpy((void *)(uintptr_t)world.plan->owned, owned_by_image, sizeof owned_by_image);
	memset(world.plan->nodename, 0, sizeof world.plan->nodename);
	world.plan->deep = 0;
	memset(note_memory, 0, sizeof note_memory);
	notes = (struct notes){ .allowed = always, .epoch = 2, .of = note_memory };
	world.notes = variant & NOTED ? &notes : NULL;
	world.root_len = 0;
	world.root[0] = 0;
	str_copy(world.exe, "/a/f", sizeof world.exe);
	long r = sys_chdir(world_path(variant & PLAIN_ROOT ? "plain" : "upper")); /* from outside, names would be the host's */
	if (r) {
		say(2, "the root is not there any more: %s\n", errno_text(r));
		finding();
	}
	guest_low = (uintptr_t)guest;
	guest_high = guest_low + GUEST_SIZE;
	lowest = (int)sys_fcntl(0, F_DUPFD, 3);
	sys_close(lowest);
	above = open_above(lowest, &(long){ 0 });
	roots_open(&world);
	checked.fail_at = checked.fail_every = checked.lacks = 0;
	checked.calls = checked.changes = 0;
	checked.on = true;
}

/* After world_enter: less usual options. */
void world_more(unsigned more)
{
	struct plan *p = world.plan;

	p->options |= more & TRACED ? OPT_PTRACE : 0;
	p->machine = more & EMULATED ? 183 : 0;
	if (more & NO_CHANGES)
		p->changes = 0;
	if (more & NO_NAME)
		p->hostname = 0;
	if (more & NO_SOCKETS)
		p->sockets = 0;
}

void world_leave(void)
{
	long fd, now = lowest;

	checked.on = false;
	guest_low = 4096, guest_high = ~(uintptr_t)0;
	world.roots = true;
	roots_close(&world);
	fd = sys_fcntl(0, F_DUPFD, 3);
	if (fd != lowest)
		left_open(lowest);
	sys_close((int)fd);
	if (open_above(lowest, &now) != above)
		left_open(now);
	sys_chdir("/");
	SC1(__NR_umask, 022);
	if (checked.changes)
		put_back();
	else
		world_changes(); /* in memory alone */
	all_as_it_was();
}

long world_call(struct call *c)
{
	struct work *w = malloc(sizeof *w);
	long r;

	memset(w, world_litter, sizeof *w);
	c->core = &world;
	c->w = w;
	r = core_call(c);
	free(w);
	return r;
}

long world_program(int dfd, const void *path, long flags, bool become)
{
	struct work *w = malloc(sizeof *w);
	struct call c = { .core = &world, .w = w };
	long r;

	w->n_fds = 0;
	w->program.foreign[0] = 0;
	r = find_program(&c, dfd, path, flags, &w->program);
	if (!r && become && !w->a.raw && !w->program.foreign[0]) { /* as the front end does before it executes itself */
		str_copy(world.exe, w->a.guest, sizeof world.exe);
		note_running(&world, &w->a);
	}
	while (w->n_fds)
		sys_close(w->fds[--w->n_fds]);
	free(w);
	return r;
}
