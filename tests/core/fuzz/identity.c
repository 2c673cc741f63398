/* libFuzzer: the identity layer (core/identity.c), whose guest is in namespaces of its own: inputs are as in calls.c,
 * the calls go to a real overlay. What is shown must hold:
 *
 *   - what was just asked for: an owner, a mode, a device, a new file as the guest's own;
 *   - names that move or are added show what they showed before, and so does all else, in the next run as well;
 *   - stat, statx and a descriptor say the same.
 *
 * Nothing of that is looked at where calls are made to fail. Header: 0: bits below; 1 to 5 as in calls.c. */
#undef UDK_CHECKED
#include "fuzz/inside.h"

enum { TWO_DEVICES = 1, NOT_ROOT = 2, NO_OWNERS = 4, NO_FAKE_ROOT = 8 };

struct seen {
	bool there;
	struct stat st;
};

static bool looking, tracing;

static const char *const watched[] = {
	"/a", "/a/f", "/a/b", "/a/b/ld.so", "/elf", "/etc/passwd", "/two", "/two/x", "/script", "/tmp", "/link", "/tmp/x", "/two/sub", "/a/b/x",
};
#define N_WATCHED ARRAY_LEN(watched)
static struct seen before_all[N_WATCHED];

static NORETURN void wrong(const char *what, const struct stat *was, const struct stat *is)
{
	inside_out();
	say(2, "identity: %s: %u:%u %o %lx, inode %lx; but now %u:%u %o %lx, inode %lx\n", what, was->st_uid, was->st_gid, was->st_mode,
	    (unsigned long)was->st_rdev, (unsigned long)was->st_ino, is->st_uid, is->st_gid, is->st_mode, (unsigned long)is->st_rdev, (unsigned long)is->st_ino);
	abort();
}

static bool in_records(const struct stat *st)
{
	return st->st_dev == world.plan->upper_dev && st->st_nlink;
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_mode == b->st_mode && a->st_rdev == b->st_rdev;
}

/* What the guest is shown. */
static struct seen look(long dfd, const void *path, long flags)
{
	struct stat *to = (void *)(OUT + OUT_SIZE - 2048);
	struct call c = { .nr = __NR_newfstatat, .a = { (unsigned long)dfd, (unsigned long)path, (unsigned long)to, (unsigned long)flags } };
	struct seen s = { .there = !world_call(&c) };

	if (s.there)
		s.st = *to;
	return s;
}

static struct seen look_at(const char *path)
{
	char *to = OUT + OUT_SIZE - 1024;

	str_copy(to, path, 1000);
	return look(AT_FDCWD, to, AT_SYMLINK_NOFOLLOW);
}

/* All ways of looking agree. */
static void agree(const char *path)
{
	struct seen s = look_at(path);
	char *name = OUT + OUT_SIZE - 1024;
	struct statx *x = (void *)(OUT + OUT_SIZE - 2048);
	struct stat *st = (void *)(OUT + OUT_SIZE - 2048);
	struct call c = { .nr = __NR_statx, .a = { (unsigned long)(long)AT_FDCWD, (unsigned long)name, AT_SYMLINK_NOFOLLOW, 0x7ff, (unsigned long)x } };
	struct stat other;
	long fd;

	if (!s.there || !s.st.st_nlink)
		return;
	if (!world_call(&c)) {
		other = s.st;
		other.st_uid = x->stx_uid, other.st_gid = x->stx_gid, other.st_mode = x->stx_mode;
		other.st_rdev = (x->stx_rdev_minor & 0xff) | (uint64_t)x->stx_rdev_major << 8 | (uint64_t)(x->stx_rdev_minor & ~0xffU) << 12;
		if (!same(&s.st, &other))
			wrong("statx says otherwise", &s.st, &other);
	}
	fd = sys_openat(AT_FDCWD, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	c = (struct call){ .nr = __NR_fstat, .a = { (unsigned long)fd, (unsigned long)st } };
	if (!world_call(&c) && st->st_ino == s.st.st_ino && !same(&s.st, st))
		wrong("fstat says otherwise", &s.st, st);
	sys_close((int)fd);
}

/* A call, as far as it matters here: what it names, how, and what it asks for. */
struct wish {
	enum { OTHER, OWNER, MODE, MOVE, LINK, NEW, GONE } kind;
	bool names; /* there is a path: nothing outside of the root may be changed by it */
	long dfd, dfd2, flags, flags2;
	const void *path, *path2;
	uint32_t uid, gid, mode, dev;
	bool exchange;
	bool writes; /* takes set-id bits away */
};

#define D(i) ((long)(int)c->a[i])
#define T(i) ((const void *)c->a[i])
#define W(i) ((uint32_t)c->a[i])
#define LINK_ITSELF AT_SYMLINK_NOFOLLOW

static struct wish act_of(const struct call *c)
{
	const long here = AT_FDCWD;
	struct wish a = { .kind = OTHER, .dfd = here, .dfd2 = here, .flags = LINK_ITSELF, .names = true, .path = T(0) };

	switch (c->nr) {
	case __NR_fchownat: a = (struct wish){ .kind = OWNER, .names = true, .dfd = D(0), .path = T(1), .uid = W(2), .gid = W(3), .flags = D(4) }; break;
	case __NR_fchown: a = (struct wish){ .kind = OWNER, .dfd = D(0), .path = NULL, .uid = W(1), .gid = W(2), .flags = AT_EMPTY_PATH }; break;
	case __NR_fchmodat: a = (struct wish){ .kind = MODE, .names = true, .dfd = D(0), .path = T(1), .mode = W(2) }; break;
	case __NR_fchmodat2: a = (struct wish){ .kind = MODE, .names = true, .dfd = D(0), .path = T(1), .mode = W(2), .flags = D(3) }; break;
	case __NR_fchmod: a = (struct wish){ .kind = MODE, .dfd = D(0), .path = NULL, .mode = W(1), .flags = AT_EMPTY_PATH }; break;
	case __NR_renameat: case __NR_renameat2:
		a.kind = MOVE, a.dfd = D(0), a.path = T(1), a.dfd2 = D(2), a.path2 = T(3);
		a.exchange = c->nr == __NR_renameat2 && c->a[4] & 2;
		break;
	case __NR_linkat:
		a.kind = LINK, a.dfd = D(0), a.path = T(1), a.dfd2 = D(2), a.path2 = T(3);
		a.flags = (c->a[4] & AT_SYMLINK_FOLLOW ? 0 : LINK_ITSELF) | (long)(c->a[4] & AT_EMPTY_PATH);
		break;
	case __NR_mkdirat: a.kind = NEW, a.dfd = D(0), a.path = T(1), a.mode = S_IFDIR; break;
	case __NR_mknodat: a.kind = NEW, a.dfd = D(0), a.path = T(1), a.mode = W(2), a.dev = W(3); break;
	case __NR_symlinkat: a.kind = NEW, a.dfd = D(1), a.path = T(2), a.mode = S_IFLNK; break;
	case __NR_openat:
		a.kind = c->a[2] & O_CREAT ? NEW : OTHER, a.dfd = D(0), a.path = T(1), a.mode = S_IFREG | (W(3) & 06000), a.flags = c->a[2] & O_NOFOLLOW ? LINK_ITSELF : 0;
		a.writes = c->a[2] & O_ACCMODE;
		break;
	case __NR_unlinkat: a.kind = GONE, a.dfd = D(0), a.path = T(1); break;
	case __NR_utimensat: a.dfd = D(0), a.path = T(1); break;
	case __NR_setxattr: case __NR_removexattr: case __NR_truncate: a.flags = 0; break;
	case __NR_lsetxattr: case __NR_lremovexattr: break;
#ifdef __NR_open
	case __NR_chown: a.kind = OWNER, a.flags = 0, a.uid = W(1), a.gid = W(2); break;
	case __NR_lchown: a.kind = OWNER, a.uid = W(1), a.gid = W(2); break;
	case __NR_chmod: a.kind = MODE, a.flags = 0, a.mode = W(1); break;
	case __NR_rename: a.kind = MOVE, a.path2 = T(1); break;
	case __NR_link: a.kind = LINK, a.path2 = T(1); break;
	case __NR_mkdir: a.kind = NEW, a.mode = S_IFDIR; break;
	case __NR_mknod: a.kind = NEW, a.mode = W(1), a.dev = W(2); break;
	case __NR_symlink: a.kind = NEW, a.path = T(1), a.mode = S_IFLNK; break;
	case __NR_open: a.kind = c->a[1] & O_CREAT ? NEW : OTHER, a.mode = S_IFREG | (W(2) & 06000), a.flags = c->a[1] & O_NOFOLLOW ? LINK_ITSELF : 0, a.writes = c->a[1] & O_ACCMODE; break;
	case __NR_creat: a.kind = NEW, a.mode = S_IFREG | (W(1) & 06000), a.flags = 0; break;
	case __NR_unlink: case __NR_rmdir: a.kind = GONE; break;
	case __NR_utime: case __NR_utimes: a.flags = 0; break;
	case __NR_futimesat: a.dfd = D(0), a.path = T(1), a.flags = 0; break;
#endif
	default: a.names = false;
	}
	return a;
}

/* A way out of the root through /proc, as to the program's own file, is not to be tried. */
static bool leads_out(long dfd, const void *path)
{
	static const char empty[] = "";
	struct stat st;
	char first;

	if (!path || guest_read(&first, path, 1))
		return false;
	for (int i = 0; i < 2; i++) {
		long r = SC4(__NR_newfstatat, dfd, first ? path : empty, &st, (i ? 0 : AT_SYMLINK_NOFOLLOW) | AT_EMPTY_PATH);
		if (!r && st.st_dev != world.plan->upper_dev && (st.st_mode & S_IFMT) != S_IFLNK)
			return true;
	}
	return false;
}

static bool is_outside_call(const struct call *c)
{
	static const long all[] = { __NR_mount, __NR_umount2, __NR_pivot_root, __NR_chroot, __NR_unshare, __NR_setns, __NR_clone3, __NR_sethostname, __NR_kill, __NR_rt_sigqueueinfo, 4000, -3 };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (c->nr == all[i])
			return true;
	return false;
}

/* Then what is changed by the descriptor cannot be told of the file's other names (docs/adr/identity-layer.md). */
static bool lost_its_name(const struct wish *a)
{
	static const char gone[] = " (deleted)";
	char link[40], to[GUEST_MAX];
	long n;

	if (!(a->flags & AT_EMPTY_PATH))
		return false;
	fmt(link, sizeof link, "/proc/self/fd/%ld", a->dfd);
	n = sys_readlinkat(AT_FDCWD, link, to, sizeof to - 1);
	if (n < (long)sizeof gone)
		return false;
	to[n] = 0;
	return str_eq(to + n - (sizeof gone - 1), gone);
}

static void check(const struct wish *a, const struct seen *was, const struct seen *was2, long result)
{
	const bool root = privileged(&world);
	struct seen is = look(a->dfd, a->path ? a->path : (const void *)(OUT + OUT_SIZE - 1025), a->flags | (a->path ? 0 : AT_EMPTY_PATH));
	struct seen is2;
	struct stat want;

	switch (a->kind) {
	case OWNER:
		if (!was->there || !is.there || !in_records(&was->st) || is.st.st_dev != was->st.st_dev)
			return;
		want = was->st;
		want.st_uid = a->uid == (uint32_t)-1 ? want.st_uid : a->uid;
		want.st_gid = a->gid == (uint32_t)-1 ? want.st_gid : a->gid;
		if ((want.st_mode & S_IFMT) != S_IFDIR)
			want.st_mode &= want.st_mode & 010 ? ~06000U : ~04000U;
		if (!same(&want, &is.st))
			wrong("chown", &want, &is.st);
		return;
	case MODE:
		if (!was->there || !is.there || !in_records(&was->st) || !root || (was->st.st_mode & S_IFMT) == S_IFLNK)
			return;
		want = was->st;
		want.st_mode = (want.st_mode & S_IFMT) | (a->mode & 07777);
		if (!same(&want, &is.st))
			wrong("chmod", &want, &is.st);
		return;
	case MOVE: case LINK:
		is2 = look(a->dfd2, a->path2, LINK_ITSELF);
		if (was->there && is2.there && in_records(&was->st) && !lost_its_name(a) && !same(&was->st, &is2.st))
			wrong(a->kind == LINK ? "link" : "rename", &was->st, &is2.st);
		if (a->kind == LINK && was->there && is.there && !same(&was->st, &is.st))
			wrong("link's own", &was->st, &is.st);
		if (a->exchange && was2->there && is.there && in_records(&was2->st) && !same(&was2->st, &is.st))
			wrong("rename's other", &was2->st, &is.st);
		return;
	case NEW:
		if (was->there || !is.there || !in_records(&is.st) || result < 0)
			return;
		want = is.st;
		want.st_uid = world.ids.fsuid, want.st_gid = world.ids.fsgid;
		want.st_mode = (a->mode & S_IFMT ? a->mode & S_IFMT : S_IFREG) | (is.st.st_mode & 01777) | (S_IFREG == (a->mode & S_IFMT) ? a->mode & 06000 : is.st.st_mode & 06000);
		want.st_rdev = (a->mode & S_IFMT) == S_IFCHR || (a->mode & S_IFMT) == S_IFBLK ? a->dev : 0;
		if (!same(&want, &is.st))
			wrong("a new file", &want, &is.st);
		if ((is.st.st_mode & S_IFMT) == S_IFREG && !SC4(__NR_newfstatat, a->dfd, a->path, &is.st, a->flags) && is.st.st_mode & 06000)
			wrong("a set-id bit is on disk", &want, &is.st);
		return;
	default: return;
	}
}

/* Everything else is as it was. */
static void check_all(const struct wish *a, const struct seen *was)
{
	for (size_t i = 0; i < N_WATCHED; i++) {
		const struct seen old = before_all[i], now = before_all[i] = look_at(watched[i]);
		struct stat less;

		if (!old.there || !now.there || !in_records(&old.st) || old.st.st_ino != now.st.st_ino)
			continue;
		/* One file may have two inode numbers here, by two names of which one is the image's. */
		if ((a->kind == OWNER || a->kind == MODE) && was->there &&
		    (was->st.st_ino == old.st.st_ino || now.st.st_nlink > 1 || lost_its_name(a)))
			continue;
		less = old.st;
		less.st_mode &= now.st.st_mode | ~06000U;
		if (a->writes && was->there && was->st.st_ino == old.st.st_ino && same(&less, &now.st))
			continue;
		if (!same(&old.st, &now.st))
			wrong(watched[i], &old.st, &now.st);
	}
}

static long observe(struct call *c)
{
	struct wish a = act_of(c);
	struct seen was = { 0 }, was2 = { 0 };
	unsigned long raw[6];
	long r, nr = c->nr;

	memcpy(raw, c->a, sizeof raw);
	if (is_outside_call(c))
		return -ENOSYS;
	if ((a.names && (leads_out(a.dfd, a.path) || (a.path2 && leads_out(a.dfd2, a.path2)))) || (!a.names && nr == __NR_openat2))
		return -EACCES;
	if (looking && a.names | (a.kind != OTHER)) {
		OUT[OUT_SIZE - 1025] = 0;
		was = look(a.dfd, a.path ? a.path : (const void *)(OUT + OUT_SIZE - 1025), a.flags | (a.path ? 0 : AT_EMPTY_PATH));
		if (a.path2)
			was2 = look(a.dfd2, a.path2, LINK_ITSELF);
	}
	r = world_call(c);
	if (tracing)
		say(2, "call %ld (%lx %lx %lx %lx %lx) \"%s\": %ld\n", nr, raw[0], raw[1], raw[2], raw[3], raw[4], guest, r);
	if (!looking)
		return r;
	if (r >= 0 && a.kind != OTHER)
		check(&a, &was, &was2, r);
	check_all(&a, &was);
	return r;
}

static void run_again(void)
{
	play_end();
	inside_again();
	if (looking)
		check_all(&(struct wish){ .kind = OTHER }, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t variants[] = { 0, TWO_DEVICES };
	const char *missing;

	(void)argc, (void)argv;
	watcher = -1;
	tracing = getenv("FUZZ_TRACE");
	if (getenv("FUZZ_SCENES"))
		write_scenes(getenv("FUZZ_SCENES"), variants, ARRAY_LEN(variants));
	missing = inside_start();
	if (missing) {
		say(2, "this fuzzer needs %s\n", missing);
		SC1(__NR_exit_group, 78);
	}
	make_call = observe;
	before_end = inside_out;
	next_run = run_again;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int open;

	if (size < HEADER)
		return 0;
	play_start();
	inside_enter(data[0] & TWO_DEVICES, (data[0] & NO_OWNERS ? 0 : OPT_OWNERS) | (data[0] & NO_FAKE_ROOT ? 0 : OPT_FAKE_ROOT), data[0] & NOT_ROOT ? 1000 : 0);
	memset(guest, 0, GUEST_SIZE);
	play_failures(data);
	open = world_descriptors(-1);
	looking = !data[1] && !(data[4] & data[5]) && !(data[0] & NO_OWNERS);
	if (looking)
		for (size_t i = 0; i < N_WATCHED; i++)
			before_all[i] = look_at(watched[i]);
	for (size_t at = HEADER, n = 0; at + RECORD <= size && n < MAX_RECORDS; at += RECORD, n++) {
		const struct record *r = (const void *)(data + at);
		unsigned op = r->op & 127;

		if (op == NAME_SOCKET || op == SEND || op == RECEIVE || op == PAIR || op == PROGRAM || op == LEAVE_ROOT)
			continue; /* nothing of this layer's */
		play(r);
	}
	for (size_t i = 0; looking && i < N_WATCHED; i++)
		agree(watched[i]);
	play_end();
	if (world_descriptors(-1) != open) {
		inside_out();
		world_descriptors(open);
	}
	inside_leave();
	return 0;
}
