/* libFuzzer: what the core reads that others wrote. The first byte tells what the rest is:
 *
 *   0  a plan's description      1  an image's record     2  a state file that a command joins, from its start
 *   3  a record of changes       4  /proc/PID/maps        5  bytes 1 and 2 are an offset; a patch of a good state file
 * 255  an image's index, for whatever tree
 *
 * The core must take it or refuse it; where it takes it, calls go through as in calls.c. */
#undef UDK_CHECKED
#include "fuzz/world.h"
#include "core/index.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plan good;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	world_start();
	world_enter(ROOT_ID | OWNERS);
	memcpy(&good, world.plan, sizeof good);
	world_leave();
	return 0;
}

static long call(long nr, const char *path, unsigned long b, unsigned long c, unsigned long d)
{
	struct call it = { .nr = nr, .a = { (unsigned long)AT_FDCWD, (unsigned long)guest, b, c, d } };

	str_copy(guest, path, BUFFER);
	return world_call(&it);
}

static void use(void)
{
	static const char *const names[] = { "/a/f", "/etc/passwd", "/link/ro/x", "/mnt/file", "/a/up/../a/b", "/two/x" };
	long fd;

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		call(__NR_newfstatat, names[i], (unsigned long)(guest + BUFFER), 0, 0);
		fd = call(__NR_openat, names[i], O_RDONLY, 0, 0);
		if (fd >= 0) {
			struct call it = { .nr = __NR_fstat, .a = { (unsigned long)fd, (unsigned long)(guest + BUFFER) } };
			world_call(&it);
			sys_close((int)fd);
		}
	}
	call(__NR_fchownat, "/a/f", 7, 8, 0);
	call(__NR_mkdirat, "/tmp/new", 0755, 0, 0);
	call(__NR_unlinkat, "/etc/passwd", 0, 0, 0);
}

static void description(const char *text, size_t n)
{
	static struct plan plan;

	memset(&plan, 0, offsetof(struct plan, generation));
	if (plan_parse(&plan, text, n, n & 1) || plan.n_mounts == 0)
		return;
	for (uint32_t i = 0; i < plan.n_mounts; i++) { /* every string ends, within the plan */
		const struct mount *m = &plan.mounts[i];

		if (m->guest + m->guest_len >= PLAN_STRINGS || plan.strings[m->guest + m->guest_len] ||
		    m->host + m->host_len >= PLAN_STRINGS || plan.strings[m->host + m->host_len] || m->lower + m->lower_len >= PLAN_STRINGS)
			abort();
	}
	if (n & 1)
		return;
	/* The mounts find their places; host paths are those of the world, for nothing else may be looked at. */
	world_enter(ROOT_ID | OWNERS);
	struct mount *m = world.plan->mounts;
	uint32_t first = world.plan->n_mounts, host = m[1].host;
	uint16_t host_len = m[1].host_len;
	for (uint32_t i = 1; i < plan.n_mounts && first + i < MAX_MOUNTS && i < 20; i++) {
		uint32_t len = plan.mounts[i].guest_len, at = len ? plan_string(world.plan, plan.strings + plan.mounts[i].guest, len) : 0;

		if (!at)
			continue;
		m[world.plan->n_mounts++] = (struct mount){ at, host, 0, (uint16_t)len, host_len, 0, plan.mounts[i].flags & (MOUNT_RO | MOUNT_CACHE) };
	}
	struct work *w = malloc(sizeof *w);
	struct call c = { .core = &world, .w = w };
	const char *what;
	guest_low = 4096, guest_high = ~(uintptr_t)0; /* the words are the core's own here */
	long r = plan_place_mounts(&c, &what);
	free(w);
	guest_low = (uintptr_t)guest, guest_high = guest_low + GUEST_SIZE;
	if (!r)
		use();
	world_leave();
}

static void record(const uint8_t *data, size_t size)
{
	for (unsigned by_path = 0; by_path < 2; by_path++) {
		long r;

		world_file("record", data, size, 0644);
		world_enter(ROOT_ID | OWNERS);
		memset(world.plan->lower_owners, 0, sizeof world.plan->lower_owners);
		world.plan->lower_owners_used = 0;
		owner_forget_record();
		checked.on = false; /* its own names are the image's business: whatever is there is looked at */
		r = owner_load_record(&world);
		checked.on = true;
		if (by_path)
			world.plan->options |= OPT_RECORD_BY_PATH;
		if (!r)
			use();
		owner_forget_record();
		world_leave();
	}
	memset(world.plan->lower_owners, 0, sizeof world.plan->lower_owners);
	world.plan->lower_owners_used = 0;
}

static void state(const uint8_t *data, size_t size, size_t offset, bool cut)
{
	struct core joined = { 0 };

	world_file("state/joined", &good, offsetof(struct plan, dirs), 0600);
	int fd = (int)sys_open(world_path("state/joined"), O_RDWR | O_CLOEXEC, 0);
	sys_ftruncate(fd, cut ? (int64_t)(offset + size) : (int64_t)sizeof good);
	SC4(__NR_pwrite64, fd, data, size, offset);
	sys_close(fd);
	/* Mapped over the world's own, which comes back afterwards. */
	if (!plan_join(&joined, world_path("state/joined"))) {
		struct core own = world;
		uint32_t n = joined.plan->n_mounts;

		for (uint32_t i = 0; i < n; i++)
			if (plan_text(&joined, joined.plan->mounts[i].guest)[joined.plan->mounts[i].guest_len])
				abort();
		world = joined;
		for (size_t i = 0; i < 4; i++) {
			char host[HOST_MAX], there[HOST_MAX];
			enum layer layer;
			int mount = mount_of(&world, "/a/f", 4);
			size_t len = host_path(&world, mount, LAYER_PLAIN, "/a/f", 4, host);

			mount_at(&world, "/mnt", 4);
			mounts_inside(&world, "", 0);
			guest_path(&world, host, len, there, &mount, &layer);
		}
		world = own;
	}
	if (plan_map(&world, world_path("state/plan"), false))
		abort();
}

static void changes(const uint8_t *data, size_t size)
{
	struct changes *was = world.changes;
	char magic[64];

	memcpy(magic, was, sizeof magic);
	memcpy(was, data, MIN(size, 64));
	world_enter(ROOT_ID | OWNERS);
	world.changes = NULL;
	if (!plan_map_changes(&world, false)) {
		for (size_t i = 64; i + 64 <= size && i < 6400; i += 64)
			memcpy(&was->owners[i % 17], data + i, 64);
		world.plan->any_changes = 1;
		use();
	}
	world.changes = was;
	was->used = 1; /* so that all of it is made anew */
	checked.changes++;
	world_leave();
}

static void maps(const uint8_t *data, size_t size)
{
	long fd;

	world_file("proc/7/maps", data, size, 0644);
	world_enter(0);
	fd = call(__NR_openat, "/fproc/7/maps", O_RDONLY, 0, 0);
	if (fd >= 0)
		sys_close((int)fd);
	call(__NR_readlinkat, "/fproc/7/exe", (unsigned long)(guest + BUFFER), 100, 0);
	world_leave();
}

#define DIRS_AT 56 /* in the header */

/* What it says, if it is taken at all, is of it; nothing beside it is read. */
static void index_of_image(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "a", "f", "etc", "passwd", "", "a name of more than eight bytes" };
	static uint8_t text[4096];
	const char *path = world_path("index"), *target;
	uint32_t dir;
	uint64_t dirs;
	struct stat st = { 0 };
	size_t len;
	long fd;
	bool plain;

	memcpy(text, data, size = MIN(size, sizeof text));
	world_enter(ROOT_ID | OWNERS | NOTED);
	memcpy(text + 8, &world.plan->root_ino[1], 8);
	memcpy(text + 16, &world.plan->lower_ctime[0], 8);
	memcpy(text + 24, &world.plan->lower_ctime[1], 4);
	memcpy(text + 28, &world.plan->lower_uid, 4);
	checked.on = false; /* the file is of the engine's own */
	fd = sys_open(world_path("lower"), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	sys_fstat((int)fd, &st);
	memcpy(&dirs, text + DIRS_AT, 8);
	for (int i = 0; i < 6 && size >= 24 && dirs <= size - 24; i++, dirs += 24)
		memcpy(text + dirs, &st.st_ino, 8); /* this is what is listed */
	world_file("index", text, size, 0644);
	world.plan->index = plan_string(world.plan, path, strlen(path));
	index_forget();
	index_ready(&world, 1000);
	dir = index_dir(&world, "/a/b", 4);
	for (uint32_t in = dir, n = 0; dir && n < 6; in = n++) {
		for (size_t i = 0; i < ARRAY_LEN(names); i++) {
			if (index_stat(&world, in, names[i], strlen(names[i]), &st, &plain) > 0 && st.st_dev != world.plan->lower_dev)
				abort();
			target = index_target(&world, in, names[i], strlen(names[i]), &len);
			memcpy(guest, target ? target : "", target ? MIN(len, BUFFER) : 0);
		}
		for (size_t room = 24; room <= 1600; room *= 4) {
			sys_lseek((int)fd, 0, SEEK_SET);
			for (int i = 0; i < 9 && index_list(&world, in, (int)fd, guest + GUEST_SIZE - room, room) > 0;)
				i++;
		}
		index_is(&world, in, &st);
		index_below(&world, in, "sub", 3);
		index_no_attribute(n & 1);
	}
	index_forget();
	sys_close((int)fd);
	checked.on = true;
	world.plan->index = 0;
	world_leave();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 4)
		return 0;
	if (data[0] == 255 && size > 40)
		return index_of_image(data + 1, size - 1), 0;
	switch (data[0] % 6) {
	case 0: description((const char *)data + 1, size - 1); break;
	case 1: record(data + 1, size - 1); break;
	case 2: state(data + 1, size - 1, 0, data[0] & 64); break;
	case 3: changes(data + 1, size - 1); break;
	case 4: maps(data + 1, size - 1); break;
	case 5: state(data + 3, size - 3, (data[1] | data[2] << 8) % offsetof(struct plan, dirs), data[0] & 64); break;
	}
	return 0;
}
