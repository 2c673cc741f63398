#undef UDK_CHECKED
#include "fuzz/world.h"

#include "core/kept.h"

#include <linux/elf.h>

int atexit(void (*f)(void));

struct core world;
char *guest;
unsigned char world_litter = 0xbe;
static struct plan plans[2]; /* a union, a plain root */
static char base[600], sockets[300]; /* the latter must be short */
static unsigned variant_now;
static int lowest; /* free descriptor */
static struct notes notes;

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
		abort();
	}
	sys_fchmod((int)fd, mode);
	sys_close((int)fd);
}

static void text_file(const char *dir, const char *name, const char *text, unsigned mode)
{
	char path[300];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	world_file(path, text, strlen(text), mode);
}

static void directory(const char *dir, const char *name)
{
	char path[300];

	snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", name);
	sys_mkdirat(AT_FDCWD, world_path(path), 0755);
}

static void link_to(const char *dir, const char *name, const char *target)
{
	char path[300];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	sys_symlinkat(target, AT_FDCWD, world_path(path));
}

/* An ELF file that asks for an interpreter. */
static void elf_file(const char *dir, const char *name, const char *interpreter)
{
	struct { Elf64_Ehdr e; Elf64_Phdr p; char name[64]; } f = {
		.e = { .e_ident = "\177ELF\2\1\1", .e_type = ET_DYN, .e_machine = EM_X86_64, .e_phoff = sizeof(Elf64_Ehdr), .e_phnum = 1,
		       .e_phentsize = sizeof(Elf64_Phdr) },
		.p = { .p_type = PT_INTERP, .p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) },
	};
	char path[300];

	f.p.p_filesz = str_copy(f.name, interpreter, sizeof f.name) + 1;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	world_file(path, &f, sizeof f, 0755);
}

/* What an image has, in a tree. */
static void populate(const char *dir)
{
	static const char *const dirs[] = { "etc", "a", "a/b", "tmp", "mnt", "proc", "fproc", "two", "two/sub", "dev", "with space" };

	char file[300], hard[300];

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		directory(dir, dirs[i]);
	snprintf(file, sizeof file, "%s/etc/group", dir);
	text_file(dir, "etc/group", "root:x:0:", 0644);
	text_file(dir, "etc/passwd", "root", 0644);
	text_file(dir, "a/f", "f", 0644);
	text_file(dir, "file", "hidden by a bind", 0644);
	text_file(dir, "two/x", "x", 0400);
	text_file(dir, "script", "#!/elf one two\n", 0755);
	text_file(dir, "two/script", "#! \t../script\targument \n", 0755);
	elf_file(dir, "elf", "/a/b/ld.so");
	text_file(dir, "a/b/ld.so", "", 0755);
	link_to(dir, "link", "/a/b");
	link_to(dir, "a/up", "../../../etc");
	link_to(dir, "a/b/self", ".");
	link_to(dir, "loop", "a/../loop");
	link_to(dir, "dangling", "/a/b/nothing");
	link_to(dir, "host", base); /* leads out, if anybody but us follows it */
	link_to(dir, "a/b/host", base);
	snprintf(hard, sizeof hard, "%s/hard", dir);
	SC5(__NR_linkat, AT_FDCWD, world_path(file), AT_FDCWD, world_path(hard), 0);
	SC5(__NR_lsetxattr, world_path(str_eq(dir, "lower") ? "lower/a/f" : "plain/a/f"), "user.k", "value", 5, 0);
}

static void lower_only(void)
{
	char name[300];
	int fd, next;

	memset(name, 'v', 250);
	for (int i = 0; i < 40; i++) { /* more than a page or two of names */
		memcpy(name, "user.", 5);
		name[250] = 0;
		name[5] = (char)('a' + i % 26), name[6] = (char)('a' + i / 26);
		SC5(__NR_lsetxattr, world_path("lower/elf"), name, "", 0, 0);
	}

	directory("lower", "many");
	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof name, "many/a-name-that-is-long-enough-to-fill-buffers-%d", i);
		text_file("lower", name, "", 0644);
	}
	memset(name, 'n', 200);
	name[200] = 0;
	fd = (int)sys_open(world_path("lower"), O_PATH | O_CLOEXEC, 0);
	for (int i = 0; i < 19; i++) { /* a guest path that fits and a host path that does not */
		sys_mkdirat(fd, name, 0755);
		next = (int)sys_openat(fd, name, O_PATH | O_CLOEXEC, 0);
		sys_close(fd);
		fd = next;
	}
	sys_symlinkat("../..//link", fd, "up");
	sys_mkdirat(fd, "b", 0755);
	sys_close(fd);
}

/* Of process 7: what /proc may show of processes of this container and of others. */
static void make_proc(void)
{
	static char maps[4096];

	for (int i = 0; i < 4; i++)
		directory("proc", ((const char *const[]){ "7", "7/fd", "7/map_files", "7/task" })[i]);
	directory("proc", "7/task/7");
	link_to("proc", "self", "7");
	link_to("proc", "7/exe", "/no/loader");
	link_to("proc", "7/cwd", world_path("lower/a"));
	link_to("proc", "7/root", world_path("upper"));
	link_to("proc", "7/task/7/exe", world_path("lower/elf"));
	link_to("proc", "7/task/7/cwd", "/usr");
	link_to("proc", "7/fd/0", world_path("lower/a/f"));
	link_to("proc", "7/fd/1", "socket:[1]");
	link_to("proc", "7/fd/3", "/etc/passwd");
	link_to("proc", "7/fd/4", world_path("upper/a"));
	link_to("proc", "7/fd/5", world_path("bind"));
	link_to("proc", "7/map_files/1", world_path("bind/file"));
	snprintf(maps, sizeof maps,
		 "00400000-00401000 r-xp 00000000 fe:00 1  %s/lower/elf\n"
		 "00400000-00401000 r-xp 00000000 fe:00 1  %s/lower/a/f (deleted)\n"
		 "%lx-%lx r--p 00000000 fe:00 1  %s/lower/elf\n"
		 "%lx-%lx r-xp 00000000 fe:00 1  /no/loader\nSize: 4 kB\n"
		 "7f0000000000-7f0000001000 r-xp 00000000 fe:00 1  /etc/hosts\nVmFlags: rd ex\n"
		 "7f0000001000-7f0000002000 r-xp 00001000 fe:00 1                        %s/code/1\nSize: 8 kB\n"
		 "7f0000002000-7f0000003000 r-xp 0000a000 fe:00 1                        %s/code/1\nSize: 4 kB\n"
		 "7f0000003000-7f0000004000 r-xp 00000000 fe:00 1                        %s/code/2\n"
		 "7f0000004000-7f0000005000 r-xp 00000000 fe:00 1 %s/code/none\n7f no end",
		 base, base, EXE_MARK, EXE_MARK + 4096, base, PLAN_AT, PLAN_AT + 4096, base, base, base, base);
	text_file("proc", "7/maps", maps, 0644);
	text_file("proc", "7/smaps", maps, 0644);
	text_file("proc", "7/mounts", "", 0644);
	text_file("proc", "7/mountinfo", "", 0644);
	text_file("proc", "7/numa_maps", "00400000 default file=/etc/hosts\n7f0000000000 default heap\n", 0644);
	snprintf(maps, sizeof maps, "Name:\tx\nUid:\t%ld\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t4 24\nTracerPid:\t1\nCapPrm:\t0000000000000000\n"
		 "CapEff:\t0000000000000000\nCapBnd:\t0\n", sys_geteuid());
	text_file("proc", "7/status", maps, 0644);
	text_file("proc", "7/task/7/status", "Uid:\t4000000\t0\nGid:\t0\nGroups:\t\nCapEff:\t0\n", 0644);
	text_file("proc", "7/task/7/maps", "00400000-00401000 r-xp 00000000 fe:00 1  /a\n", 0644);
}

/* Files of changed code, as the preload engine keeps them (core/kept.h). */
static void make_kept(void)
{
	static struct { struct kept head; char pad[KEPT_ORIGINAL - sizeof(struct kept)]; char original[300]; } f = {
		.head = { .magic = KEPT_MAGIC, .id = { .dev = 0xfe00, .ino = 77 }, .n_spans = 2,
			  .spans = { { .off = 0x3000, .n = 0x2000, .at = 0x1000 }, { .off = 0x9000, .n = 0x1000, .at = 0x4000 } } },
	};

	snprintf(f.original, sizeof f.original, "%s/lower/elf", base);
	world_file("code/1", &f, sizeof f, 0644);
	f.head.n_spans = KEPT_SPANS + 1;
	world_file("code/2", &f, sizeof f, 0644);
}

static void make_record(void)
{
	static const struct { const char *path; uint32_t mode, uid, gid, major, minor; } e[] = {
		{ "a", 0, 5, 6, 0, 0 }, { "a/f", S_IFREG | 06755, 1, 2, 0, 0 }, { "elf", S_IFREG | 04755, 0, 0, 0, 0 },
		{ "etc/passwd", S_IFBLK | 0600, 0, 6, 8, 300 }, { "gone", 0, 1, 1, 0, 0 }, { "tmp", S_IFDIR | 01777, 0, 0, 0, 0 }, { "two", S_IFDIR | 02775, 1000, 5, 0, 0 },
		{ "two/x", 0, 1000, 1000, 0, 0 },
	};
	struct {
		char magic[8];
		uint32_t count, reserved;
		uint64_t entries, strings;
		struct { uint64_t path; uint32_t len, mode, uid, gid, major, minor; uint64_t xattrs; uint32_t xattrs_len, flags; } e[ARRAY_LEN(e)];
		char text[200];
	} r = { .magic = "UDKREC\0\1", .count = ARRAY_LEN(e), .entries = offsetof(__typeof__(r), e), .strings = offsetof(__typeof__(r), text) };
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_LEN(e); i++) {
		r.e[i] = (__typeof__(r.e[0])){ at, (uint32_t)strlen(e[i].path), e[i].mode, e[i].uid, e[i].gid, e[i].major, e[i].minor, 0, 0, 0 };
		at += str_copy(r.text + at, e[i].path, sizeof r.text - at);
	}
	world_file("record", &r, sizeof r, 0644);
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
		abort();
	}
}

static void remove_below(int dirfd, const char *name)
{
	int fd = (int)sys_openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	char buf[8192];
	long n;

	if (fd < 0 && !sys_fchmodat(dirfd, name, 0700))
		fd = (int)sys_openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
	if (fd < 0)
		return;
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
						abort();
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

static void put_back(void)
{
	static const char *const all[] = { "upper", "work" };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		SC2(__NR_chmod, world_path(all[i]), 0755);
		remove_below(AT_FDCWD, world_path(all[i]));
	}
	remove_below(AT_FDCWD, sockets);
	SC2(__NR_lremovexattr, world_path("upper"), "user.overlay.opaque");
	SC2(__NR_lremovexattr, world_path("upper"), "user.x");
	if (variant_now & PLAIN_ROOT) {
		remove_below(AT_FDCWD, world_path("plain"));
		SC2(__NR_chmod, world_path("plain"), 0755);
		populate("plain");
	}
	SC2(__NR_chmod, world_path("bind"), 0755);
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

void world_start(void)
{
	static const char *const dirs[] = { "upper", "work", "lower", "bind", "bind/sub", "fixed", "plain", "proc", "state", "secret", "code", "fixed2", "fixed3" };
	const char *home = getenv("FUZZ_HOME"), *what;
	char filler[100] = { 0 };

	if (!home) {
		say(2, "FUZZ_HOME must name an empty directory\n");
		abort();
	}
	memset(filler, 'w', 90); /* as long as the directories of real stores */
	snprintf(sockets, sizeof sockets, "%s/s", home);
	snprintf(base, sizeof base, "%s/%s", home, filler);
	sys_mkdirat(AT_FDCWD, base, 0755);
	SC1(__NR_umask, 022);
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		directory("", dirs[i]);
	populate("lower");
	lower_only();
	populate("plain");
	make_proc();
	make_kept();
	make_record();
	text_file("bind", "sub/x", "x", 0644);
	text_file("bind", "file", "bind", 0644);
	text_file("fixed", "x", "x", 0644);
	text_file("fixed2", "x", "x", 0644);
	text_file("fixed3", "x", "x", 0644);
	text_file("", "bound", "bound", 0644);
	text_file("secret", "key", "secret", 0644);

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
		abort();
	world.plan->generation = 1;
	for (int i = 0; i < 2; i++) {
		memcpy(world.plan, &plans[i], offsetof(struct plan, generation));
		if (!i && (plan_map_changes(&world, true) || owner_load_record(&world)))
			abort();
		struct work *w = malloc(sizeof *w);
		struct call c = { .core = &world, .w = w };
		long r = plan_place_mounts(&c, &what);
		if (r) {
			say(2, "%s: %s\n", what, errno_text(r));
			abort();
		}
		free(w);
		memcpy(&plans[i], world.plan, offsetof(struct plan, generation));
	}
	put_back();
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
	memset(&notes, 0, sizeof notes);
	notes.epoch = 2;
	notes.allowed = always;
	world.notes = variant & NOTED ? &notes : NULL;
	world.root_len = 0;
	world.root[0] = 0;
	str_copy(world.exe, "/a/f", sizeof world.exe);
	long r = sys_chdir(world_path(variant & PLAIN_ROOT ? "plain" : "upper")); /* from outside, names would be the host's */
	if (r) {
		say(2, "the root is not there any more: %s\n", errno_text(r));
		abort();
	}
	guest_low = (uintptr_t)guest;
	guest_high = guest_low + GUEST_SIZE;
	lowest = (int)sys_fcntl(0, F_DUPFD, 3);
	sys_close(lowest);
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
	long fd;

	checked.on = false;
	guest_low = 4096, guest_high = ~(uintptr_t)0;
	fd = sys_fcntl(0, F_DUPFD, 3);
	if (fd != lowest) {
		char link[40], text[300];
		snprintf(link, sizeof link, "/proc/self/fd/%d", lowest);
		long n = sys_readlinkat(AT_FDCWD, link, text, sizeof text - 1);
		text[MAX(n, 0)] = 0;
		say(2, "the core left a descriptor open: %d, %s\n", lowest, text);
		abort();
	}
	sys_close((int)fd);
	sys_chdir("/");
	SC1(__NR_umask, 022);
	if (checked.changes)
		put_back();
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
