#include "namespace/namespace.h"
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/sockios.h>

#ifndef AF_INET
#define AF_INET 2
#endif
#ifndef SOCK_DGRAM
#define SOCK_DGRAM 2
#define SOCK_CLOEXEC 02000000
#endif

static bool write_map(const char *path, const struct id_map *m, struct failure *f)
{
	char line[64];

	fmt(line, sizeof line, "%u %u %u\n", m->inside, m->outside, m->count);
	ssize r = write_file(AT_FDCWD, path, line);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s cannot be written: %s", path, errno_text(r)) : true;
}

bool ns_map_self(const struct plan *plan, struct failure *f)
{
	ssize r = write_file(AT_FDCWD, "/proc/self/setgroups", "deny");

	if (r < 0 && r != -ENOENT) /* absent before Linux 3.19 */
		return fail(f, FAIL_ENGINE, "/proc/self/setgroups cannot be written: %s", errno_text(r));
	return write_map("/proc/self/uid_map", &plan->uids[0], f) && write_map("/proc/self/gid_map", &plan->gids[0], f);
}

static bool open_dir(const char *path, int *fd, struct failure *f)
{
	long r = sys_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);

	*fd = (int)r;
	return r < 0 ? fail(f, FAIL_UDK, "%s: %s", path, errno_text(r)) : true;
}

/* A directory is opened for reading first: that, unlike O_PATH, makes autofs mount it (/cvmfs, /net, home). */
static bool open_source(const struct op *op, int *fd, struct failure *f)
{
	long r = -ENOTDIR;

	if (str_chr(op->arg[2], 'd'))
		r = sys_open(op->arg[0], O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC, 0);
	if (r < 0)
		r = sys_open(op->arg[0], O_PATH | O_CLOEXEC, 0);
	*fd = (int)r;
	if (r >= 0 || (str_chr(op->arg[2], 'o') && (r == -ENOENT || r == -EACCES)))
		return true;
	return fail(f, FAIL_UDK, "%s: %s", op->arg[0], errno_text(r));
}

/* What the kernel says about a refused overlay goes to the kernel's log only, so the likely causes are named. */
static bool overlay_failure(const struct plan *plan, long r, struct failure *f)
{
	const char *where = plan->upper ? plan->upper : "memory";

	if (r == -ENODEV)
		return fail(f, FAIL_ENGINE, "the kernel has no overlay file system");
	if (r == -EPERM || r == -EACCES)
		return fail(f, FAIL_ENGINE, "overlay cannot be mounted in a user namespace: %s; Linux 5.11 or newer is needed, and "
			    "a security module may forbid it", errno_text(r));
	if (r == -ENOSPC || r == -EDQUOT || r == -EROFS)
		return fail(f, FAIL_UDK, "%s: %s", where, errno_text(r));
	return fail(f, FAIL_ENGINE, "overlay cannot be mounted with its upper layer in %s: %s; NFS, Lustre, FUSE and other overlays "
		    "are refused by the kernel: choose a directory on a local disk (--scratch)", where, errno_text(r));
}

/* Every directory is named through /proc/self/fd: no ':' or ',' of a path is read as syntax, and no path is too long
 * for the one page that mount options may take. */
static long mount_overlay(const int *lower, size_t n, int upper, int work, int target, bool no_flush, bool xino)
{
	char options[4096];
	size_t at = fmt(options, sizeof options, "userxattr,index=off%s%s,upperdir=%s,workdir=%s,lowerdir=", no_flush ? ",volatile" : "",
			xino ? ",xino=on" : "",			fd_path(upper).text, fd_path(work).text);

	for (size_t i = 0; i < n && at < sizeof options; i++)
		at += fmt(options + at, sizeof options - at, "%s%s", i ? ":" : "", fd_path(lower[i]).text);
	return at >= sizeof options ? -ENAMETOOLONG : mount_on("overlay", target, "overlay", MS_NODEV, options);
}

static bool make_dir(int at, const char *name, unsigned mode, int *fd, struct failure *f)
{
	long r = sys_mkdirat(at, name, mode);

	if (r >= 0)
		r = sys_openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	*fd = (int)r;
	return r < 0 ? fail(f, FAIL_UDK, "%s: %s", name, errno_text(r)) : true;
}

/* The staging tmpfs covers the topmost lower directory in our own mount namespace only; the root is mounted in it. */
static bool make_root(const struct plan *plan, struct root *root, struct failure *f)
{
	int lower[MAX_LOWER], upper = -1, work = -1, cover, mountpoint;
	long r;

	for (size_t i = 0; i < plan->n_lower; i++)
		if (!open_dir(plan->lower[i], &lower[i], f))
			return false;
	if (plan->upper && !open_dir(plan->upper, &upper, f))
		return false;
	if (plan->work && !open_dir(plan->work, &work, f))
		return false;
	if (!plan->n_lower && !plan->plain_root)
		return fail(f, FAIL_UDK, "the plan has no root");
	cover = plan->plain_root ? upper : lower[0];
	r = mount_on("tmpfs", cover, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	if (r < 0)
		return fail(f, FAIL_ENGINE, "mounts are denied in a user namespace: %s; a security module (AppArmor's "
			    "restrict_unprivileged_userns, SELinux) or an outer container forbids it", errno_text(r));
	/* the path that the descriptor has now leads to the new mount on top */
	char path[PATH_SIZE];
	r = sys_readlinkat(AT_FDCWD, fd_path(cover).text, path, sizeof path - 1);
	if (r < 0)
		return fail(f, FAIL_UDK, "/proc/self/fd: %s", errno_text(r));
	path[r] = 0;
	if (!open_dir(path, &root->staging, f) || !make_dir(root->staging, "root", 0755, &mountpoint, f))
		return false;
	if (plan->plain_root) {
		r = mount_on(fd_path(upper).text, mountpoint, NULL, MS_BIND, NULL);
		if (r < 0)
			return fail(f, FAIL_ENGINE, "%s cannot be bound: %s", plan->upper, errno_text(r));
	} else {
		if (upper < 0 && (!make_dir(root->staging, "upper", 0755, &upper, f) || !make_dir(root->staging, "work", 0755, &work, f)))
			return false;
		r = mount_overlay(lower, plan->n_lower, upper, work, mountpoint, plan->volatile_upper, plan->xino);
		if (r == -EINVAL && plan->volatile_upper) /* volatile came with Linux 5.10 */
			r = mount_overlay(lower, plan->n_lower, upper, work, mountpoint, false, plan->xino);
		if (r < 0)
			return overlay_failure(plan, r, f);
	}
	sys_close(mountpoint);
	r = sys_openat(root->staging, "root", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	root->fd = (int)r;
	/* A bind of a directory above (the home that holds the store) must not carry all this along. */
	if (r >= 0)
		r = mount_on(NULL, root->staging, NULL, MS_UNBINDABLE, NULL);
	return r < 0 ? fail(f, FAIL_UDK, "root: %s", errno_text(r)) : true;
}

/* pivot_root with the old root put on top of the new one, from where it is unmounted: no directory of the image is
 * needed for it. Where the host's root is the initial ramfs pivot_root is refused, and the new root is moved instead. */
static bool enter_root(int root, struct failure *f)
{
	long old = sys_open("/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	long r = old < 0 ? old : sys_fchdir(root);

	if (r >= 0)
		r = sys_pivot_root(".", ".");
	if (r >= 0) {
		r = sys_fchdir((int)old);
		if (r >= 0)
			r = sys_umount2(".", MNT_DETACH);
	} else if (r == -EINVAL) {
		r = sys_mount(".", "/", NULL, MS_MOVE, NULL);
		if (r >= 0)
			r = sys_chroot(".");
	}
	if (r >= 0)
		r = sys_chdir("/");
	if (old >= 0)
		sys_close((int)old);
	return r < 0 ? fail(f, FAIL_ENGINE, "the container's root cannot be entered: %s", errno_text(r)) : true;
}

/* The root for a runtime that enters it by itself. That runtime looks at its own processes through /proc, so in a pid
 * namespace it needs the one of that namespace. */
static bool show_root(const struct plan *plan, const struct root *root, struct failure *f)
{
	long r = sys_mount(fd_path(root->fd).text, plan->stage, NULL, MS_MOVE, NULL);

	if (r < 0)
		return fail(f, FAIL_ENGINE, "the container's root cannot be put at %s: %s", plan->stage, errno_text(r));
	sys_umount2(fd_path(root->staging).text, MNT_DETACH); /* the lower tree is as it was, for who binds it */
	if (plan->clone_flags & CLONE_NEWPID) {
		r = sys_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
		if (r < 0)
			return fail(f, FAIL_ENGINE, "/proc cannot be mounted: %s; an outer container masks parts of it", errno_text(r));
	}
	if (plan->over_source) {
		r = sys_mount(plan->over_source, plan->over_target, NULL, MS_BIND, NULL);
		if (r < 0 && r != -ENOENT)
			return fail(f, FAIL_ENGINE, "%s cannot be bound to %s: %s", plan->over_source, plan->over_target, errno_text(r));
	}
	return true;
}

static bool loopback_up(struct failure *f)
{
	struct ifreq request = { .ifr_name = "lo" };
	long fd = sys_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	long r = fd;

	if (fd >= 0) {
		request.ifr_flags = IFF_UP | IFF_RUNNING;
		r = sys_ioctl((int)fd, SIOCSIFFLAGS, &request);
		sys_close((int)fd);
	}
	return r < 0 ? fail(f, FAIL_ENGINE, "the loopback interface cannot be set up: %s", errno_text(r)) : true;
}

bool ns_setup(const struct plan *plan, struct failure *f)
{
	struct root root = { .many_ids = plan->n_uids > 1 };
	int *sources = sys_mmap(NULL, (plan->n_ops + 1) * sizeof *sources, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long r;

	if (is_error((long)sources))
		return fail(f, FAIL_UDK, "%s", errno_text(ENOMEM));
	/* The host's later mounts (automounts) still reach the container, nothing of ours reaches the host. */
	r = sys_mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL);
	if (r < 0)
		return fail(f, FAIL_ENGINE, "mounts are denied in a user namespace: %s; a security module (AppArmor's "
			    "restrict_unprivileged_userns, SELinux) or an outer container forbids it", errno_text(r));
	/* All sources first: once something is covered, their paths may mean something else. */
	for (size_t i = 0; i < plan->n_ops; i++) {
		sources[i] = -1;
		if (plan->ops[i].kind == OP_BIND && !open_source(&plan->ops[i], &sources[i], f))
			return false;
	}
	if (!make_root(plan, &root, f))
		return false;
	for (size_t i = 0; i < plan->n_ops; i++) {
		if (!op_execute(&root, &plan->ops[i], sources[i], f))
			return false;
		if (sources[i] >= 0)
			sys_close(sources[i]);
	}
	if (plan->hostname && (r = sys_sethostname(plan->hostname, strlen(plan->hostname))) < 0)
		return fail(f, FAIL_ENGINE, "the host name cannot be set: %s", errno_text(r));
	if (plan->loopback && !loopback_up(f))
		return false;
	return plan->stage ? show_root(plan, &root, f) : enter_root(root.fd, f);
}

static const struct {
	const char *name;
	int type;
} joined[] = {
	{ "user", CLONE_NEWUSER }, { "pid", CLONE_NEWPID }, { "net", CLONE_NEWNET }, { "uts", CLONE_NEWUTS }, { "mnt", CLONE_NEWNS },
	{ "user", CLONE_NEWUSER },
};
enum { OWNER, MOUNTS = 4, LAST, GET_USERNS = 0xb701 /* Linux 4.9 */ };

/* A process may be in a user namespace below that which owns its others: then the others are entered from the owner, and
 * its own last. */
static void order_user_namespaces(struct join *join)
{
	struct stat own, owner;

	if (join->fds[OWNER] < 0 || join->fds[MOUNTS] < 0)
		return;
	long fd = sys_ioctl(join->fds[MOUNTS], GET_USERNS, NULL);
	if (fd < 0)
		return;
	if (sys_fstat((int)fd, &owner) < 0 || sys_fstat(join->fds[OWNER], &own) < 0 || owner.st_ino == own.st_ino) {
		sys_close((int)fd);
		return;
	}
	sys_fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	join->fds[LAST] = join->fds[OWNER];
	join->fds[OWNER] = (int)fd;
}

bool ns_join_open(const struct plan *plan, struct join *join, struct failure *f)
{
	char path[64];
	struct stat ours, theirs;

	join->fds[LAST] = -1;
	for (size_t i = 0; i < LAST; i++) {
		join->fds[i] = -1;
		fmt(path, sizeof path, "/proc/self/ns/%s", joined[i].name);
		long r = sys_fstatat(AT_FDCWD, path, &ours, 0);
		fmt(path, sizeof path, "/proc/%d/ns/%s", plan->join, joined[i].name);
		if (r >= 0)
			r = sys_fstatat(AT_FDCWD, path, &theirs, 0);
		if (r >= 0 && ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
			continue; /* shared with the host: nothing to enter */
		if (r >= 0)
			r = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
		if (r < 0)
			return fail(f, FAIL_UDK, "the container's process %d cannot be joined: %s", plan->join, errno_text(r));
		join->fds[i] = (int)r;
	}
	order_user_namespaces(join);
	return true;
}

static bool enter(struct join *join, size_t from, size_t to, struct failure *f)
{
	for (size_t i = from; i < to; i++) {
		if (join->fds[i] < 0)
			continue;
		long r = sys_setns(join->fds[i], joined[i].type);
		if (r < 0)
			return fail(f, FAIL_UDK, "the container's %s namespace cannot be entered: %s", joined[i].name, errno_text(r));
		sys_close(join->fds[i]);
		join->fds[i] = -1;
	}
	return true;
}

bool ns_join_keeper(struct join *join, struct failure *f)
{
	return enter(join, 0, 2, f);
}

bool ns_join_payload(struct join *join, struct failure *f)
{
	return enter(join, 2, ARRAY_LEN(joined), f);
}
