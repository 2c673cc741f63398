/* The container of the identity fuzzer, as the namespace engine makes it: one id is mapped, the root is an overlay, the
 * state is reached from outside. An input sees the real kernel; /proc leads nowhere that it could do harm. */
#undef UDK_CHECKED
#include "fuzz/inside.h"

int atexit(void (*f)(void));

#define UPPER_FD 200
#define OUTSIDE_FD 201
#define LOWER_FD 202
#define RECORD_FD 203

static struct plan plan;
static bool is_inside, mounted, two;

static NORETURN void broken(const char *what, long r)
{
	inside_out();
	say(2, "%s: %s\n", what, errno_text(r));
	abort();
}

static void must(const char *what, long r)
{
	if (r < 0)
		broken(what, r);
}

void inside_out(void)
{
	if (!is_inside)
		return;
	is_inside = false;
	sys_fchdir(OUTSIDE_FD);
	SC1(__NR_chroot, ".");
}

/* Reports, and what is found, are written outside. */
void __asan_on_error(void);
void __ubsan_on_report(void);
void __asan_on_error(void) { inside_out(); }
void __ubsan_on_report(void) { inside_out(); }

static bool write_text(const char *path, const char *text)
{
	long fd = sys_open(path, O_WRONLY | O_CLOEXEC, 0);
	long r = fd < 0 ? fd : write_all((int)fd, text, strlen(text));

	if (fd >= 0)
		sys_close((int)fd);
	return !r;
}

static void at(int number, const char *path)
{
	long fd = sys_open(path, O_PATH | O_CLOEXEC, 0);

	must(path, fd);
	must(path, SC3(__NR_dup3, fd, number, O_CLOEXEC));
	sys_close((int)fd);
}

const char *inside_start(void)
{
	static char text[4096], map[64];
	const char *what;
	size_t n = 0;
	long uid = sys_geteuid(), gid = sys_getegid(), r;

	if (SC1(__NR_unshare, 0x10000000 | 0x00020000 /* CLONE_NEWUSER, NEWNS */))
		return "user namespaces";
	snprintf(map, sizeof map, "0 %ld 1", uid);
	if (!write_text("/proc/self/uid_map", map))
		return "a user namespace with an id";
	write_text("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "0 %ld 1", gid);
	if (!write_text("/proc/self/gid_map", map) || SC5(__NR_mount, "none", "/", 0, 0x4000 | 0x40000 /* REC, PRIVATE */, 0))
		return "a mount namespace";
	world_start();
	sys_mkdirat(AT_FDCWD, world_path("inside"), 0755);
	sys_mkdirat(AT_FDCWD, world_path("layer"), 0755); /* on the device of the lower tree */
	sys_mkdirat(AT_FDCWD, world_path("other"), 0755);
	if (SC5(__NR_mount, "none", world_path("other"), "tmpfs", 0, 0))
		return "a tmpfs";
	r = SC3(__NR_dup3, sys_open("/", O_PATH | O_DIRECTORY, 0), OUTSIDE_FD, O_CLOEXEC);
	must("/", r);
	at(LOWER_FD, world_path("lower"));
	r = sys_open(world_path("record"), O_RDONLY | O_CLOEXEC, 0);
	must("record", SC3(__NR_dup3, r, RECORD_FD, O_CLOEXEC));
#define WORD(...) n += (size_t)snprintf(text + n, sizeof text - n, __VA_ARGS__) + 1
	WORD("mount"), WORD("0"), WORD("%s", ""), WORD("%s", ""), WORD("%s", ""), WORD("mount"), WORD("%d", MOUNT_PROC), WORD("/proc"), WORD("/proc"), WORD("%s", "");
	WORD("loader"), WORD("/proc/self/exe"), WORD("state"), WORD("%s", world_path("state/plan")), WORD("work"), WORD("/proc/self/fd/%d", UPPER_FD);
	WORD("changes"), WORD("%s", world_path("changes")), WORD("options"), WORD("%d", OPT_IDENTITY), WORD("uid"), WORD("0"), WORD("gid"), WORD("0");
	what = plan_parse(&plan, text, n, false);
	r = what ? -EINVAL : plan_inspect(&plan, &what);
	must(what, r);
	SC3(__NR_dup3, sys_open("/dev/null", O_RDONLY, 0), 0, 0); /* whose mode is nobody's to change */
	return NULL;
}

static void load_record(void)
{
	/* It closes the descriptor. */
	must("record", SC3(__NR_dup3, RECORD_FD, RECORD_FD + 1, O_CLOEXEC));
	memcpy(world.plan, &plan, offsetof(struct plan, generation));
	owner_forget_record();
	memset(world.plan->lower_owners, 0, sizeof world.plan->lower_owners);
	world.plan->lower_owners_used = 0;
	world.plan->lower_fd = LOWER_FD;
	world.plan->record_fd = RECORD_FD + 1;
	must("record", owner_load_record(&world));
}

static void mount_root(void)
{
	char options[4000];
	struct stat st;

	snprintf(options, sizeof options, "userxattr,index=off%s,upperdir=%s/upper,workdir=%s/work,lowerdir=%s", two ? ",xino=on" : "",
		 world_path(two ? "other" : "layer"), world_path(two ? "other" : "layer"), world_path("lower"));
	must("overlay", SC5(__NR_mount, "overlay", world_path("inside"), "overlay", 0, options));
	must("/proc", SC5(__NR_mount, "/proc", world_path("inside/proc"), 0, 0x1000 | 0x4000 /* BIND, REC */, 0));
	mounted = true;
	must("inside", sys_fstatat(AT_FDCWD, world_path("inside"), &st, 0));
	plan.upper_dev = plan.lower_dev = world.plan->upper_dev = world.plan->lower_dev = st.st_dev;
}

static void go_in(void)
{
	must("inside", SC1(__NR_chdir, world_path("inside")));
	must("chroot", SC1(__NR_chroot, "."));
	is_inside = true;
}

static void unmount(void)
{
	if (mounted)
		must("umount", SC2(__NR_umount2, world_path("inside"), 2 /* MNT_DETACH */));
	mounted = false;
}

void inside_enter(bool two_devices, unsigned options, uint32_t id)
{
	two = two_devices;
	plan.options = OPT_IDENTITY | options | (two ? OPT_XINO : 0);
	plan.uid = plan.gid = 0;
	for (int i = 0; i < 2; i++) {
		const char *dir = i ? "work" : "upper";
		char name[20];
		snprintf(name, sizeof name, "%s/%s", two ? "other" : "layer", dir);
		world_remove(name);
		must(name, sys_mkdirat(AT_FDCWD, world_path(name), 0755));
	}
	at(UPPER_FD, world_path(two ? "other/upper" : "layer/upper"));
	mount_root();
	world_changes();
	load_record();
	world.ids = (struct ids){ id, id, id, id, id, id, id, id, 1, { 5 } };
	world.root_len = 0;
	world.root[0] = 0;
	world.notes = NULL;
	str_copy(world.exe, "/a/f", sizeof world.exe);
	go_in();
	guest_low = (uintptr_t)guest;
	guest_high = guest_low + GUEST_SIZE;
	checked.walks = true;
	checked.on = true;
}

void inside_again(void)
{
	checked.on = false;
	inside_out();
	unmount();
	mount_root();
	world.changes->seen_by_overlay = 1;
	load_record();
	world.plan->any_changes = world.changes->used != 0;
	go_in();
	checked.on = true;
}

void inside_leave(void)
{
	checked.on = false;
	guest_low = 4096, guest_high = ~(uintptr_t)0;
	inside_out();
	SC1(__NR_umask, 022);
	unmount();
}
