#include "namespace/namespace.h"
#include <linux/fs.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* mount_attr as of Linux 5.12; older headers lack it. */
struct attributes {
	uint64_t set, clear, propagation, userns;
};
enum { ATTRIBUTE_READONLY = 1 };

long mount_on(const char *source, int target, const char *type, unsigned long flags, const char *options)
{
	return sys_mount(source, fd_path(target).text, type, flags, options);
}

/* The mount flags that a remount must repeat: the kernel locks them in a user namespace. */
static unsigned long flags_of(const char *options)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} table[] = {
		{ "ro", MS_RDONLY }, { "nosuid", MS_NOSUID }, { "nodev", MS_NODEV }, { "noexec", MS_NOEXEC },
		{ "noatime", MS_NOATIME }, { "nodiratime", MS_NODIRATIME }, { "relatime", MS_RELATIME },
		{ "nosymfollow", 256 },
	};
	unsigned long flags = 0;

	while (*options) {
		size_t n = 0;
		while (options[n] && options[n] != ',' && options[n] != ' ')
			n++;
		for (size_t i = 0; i < ARRAY_LEN(table); i++)
			if (strlen(table[i].name) == n && !memcmp(table[i].name, options, n))
				flags |= table[i].flag;
		if (options[n] != ',')
			break;
		options += n + 1;
	}
	return flags;
}

static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++)
		if (s[0] == '\\' && s[1] && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	*to = 0;
}

/* Remounts, one by one, the mounts whose mount point is path or below it; for kernels without mount_setattr. */
static long remount_below(const char *path, bool recursive)
{
	size_t size = 1 << 20;
	char *text = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t n = strlen(path);
	long first = -EINVAL;

	if (is_error((long)text))
		return -ENOMEM;
	ssize got = read_file(AT_FDCWD, "/proc/self/mountinfo", text, size);
	if (got < 0) {
		sys_munmap(text, size);
		return got;
	}
	for (char *line = text; *line;) {
		char *next = str_chr(line, '\n');
		if (next)
			*next = 0;
		/* "id parent major:minor root MOUNTPOINT OPTIONS ..." */
		char *field = line;
		for (int i = 0; i < 4 && field; i++)
			field = (field = str_chr(field, ' ')) ? field + 1 : NULL;
		char *options = field ? str_chr(field, ' ') : NULL;
		if (options) {
			*options++ = 0;
			unescape(field);
			bool same = str_eq(field, path);
			if (same || (recursive && str_starts(field, path) && field[n] == '/')) {
				long r = sys_mount(NULL, field, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags_of(options), NULL);
				/* a mount hidden below another cannot be reached, nor can the payload reach it */
				if (same)
					first = r;
			}
		}
		if (!next)
			break;
		line = next + 1;
	}
	sys_munmap(text, size);
	return first;
}

long mount_readonly(int fd, bool recursive)
{
	struct attributes a = { .set = ATTRIBUTE_READONLY };
	char path[PATH_SIZE];
	long r = SC5(__NR_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &a, sizeof a);

	if (r != -ENOSYS)
		return r;
	r = sys_readlinkat(AT_FDCWD, fd_path(fd).text, path, sizeof path - 1);
	if (r < 0)
		return r;
	path[r] = 0;
	return remount_below(path, recursive);
}

static bool flag(const char *flags, char which)
{
	return str_chr(flags, which) != NULL;
}

/* The directory or file that is on top at the target, now that something was mounted there. */
static bool set_readonly(struct root *root, const char *target, struct failure *f)
{
	int fd;
	long r;

	if (!resolve(root->fd, target, CREATE_NOTHING, &fd, f))
		return false;
	r = mount_readonly(fd, true);
	sys_close(fd);
	return r < 0 ? fail(f, FAIL_UDK, "%s cannot be made read-only: %s", target, errno_text(r)) : true;
}

static bool bind(struct root *root, int source, const char *name, const char *target, const char *flags, struct failure *f)
{
	struct stat st;
	int fd;
	long r = sys_fstat(source, &st);
	bool dir = r >= 0 && (st.st_mode & S_IFMT) == S_IFDIR;

	if (!resolve(root->fd, target, dir ? CREATE_DIR : CREATE_FILE, &fd, f))
		return false;
	r = mount_on(fd_path(source).text, fd, NULL, MS_BIND | MS_REC, NULL);
	sys_close(fd);
	if (r == -ENOTDIR)
		return fail(f, FAIL_UDK, "%s cannot be bound to %s: one is a directory, the other is not", name, target);
	if (r < 0)
		return fail(f, r == -EPERM || r == -EACCES ? FAIL_ENGINE : FAIL_UDK, "%s cannot be bound to %s: %s", name,
			    target, errno_text(r));
	return flag(flags, 'r') ? set_readonly(root, target, f) : true;
}

static bool file(struct root *root, const struct op *op, struct failure *f)
{
	char name[16];
	long r;

	fmt(name, sizeof name, "file%u", root->files++);
	r = sys_openat(root->staging, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (r < 0)
		return fail(f, FAIL_UDK, "%s: %s", op->arg[1], errno_text(r));
	int fd = (int)r;
	r = write_all(fd, op->arg[0], strlen(op->arg[0]));
	if (r >= 0) /* this one file is to be bound from there */
		r = mount_on(NULL, root->staging, NULL, MS_PRIVATE, NULL);
	bool ok = r < 0 ? fail(f, FAIL_UDK, "%s: %s", op->arg[1], errno_text(r))
			: bind(root, fd, "a generated file", op->arg[1], op->arg[2], f);
	mount_on(NULL, root->staging, NULL, MS_UNBINDABLE, NULL);
	sys_close(fd);
	return ok;
}

static bool fresh(struct root *root, const char *type, const char *target, unsigned long flags, const char *options,
		  struct failure *f)
{
	int fd;
	long r;

	if (!resolve(root->fd, target, CREATE_DIR, &fd, f))
		return false;
	r = mount_on(type, fd, type, flags, options);
	sys_close(fd);
	if (r == -EINVAL)
		return fail(f, FAIL_UDK, "%s: the kernel refuses the %s options \"%s\"", target, type, options);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s: %s cannot be mounted: %s", target, type, errno_text(r)) : true;
}

/* proc and sys: a new instance where the kernel allows it, else the host's (a masked /proc, a network namespace that is
 * not ours); the host's is bound with all that is mounted below, as the kernel demands. */
static bool kernel_fs(struct root *root, const char *type, const char *host, const char *target, struct failure *f)
{
	int fd;
	long r, source;

	if (!resolve(root->fd, target, CREATE_DIR, &fd, f))
		return false;
	r = mount_on(type, fd, type, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (r < 0) {
		source = sys_open(host, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		if (source >= 0) {
			r = mount_on(fd_path((int)source).text, fd, NULL, MS_BIND | MS_REC, NULL);
			sys_close((int)source);
		}
	}
	sys_close(fd);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s cannot be mounted: %s", target, errno_text(r)) : true;
}

/* An emulator for another machine's programs, for this user namespace alone: Linux 6.7. The kernel opens it here, on the
 * host's side. */
static bool binfmt(struct root *root, const char *target, const char *rule, struct failure *f)
{
	int fd;
	long r;

	if (!resolve(root->fd, target, CREATE_DIR, &fd, f))
		return false;
	r = mount_on("binfmt_misc", fd, "binfmt_misc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	sys_close(fd);
	if (!r) {
		if (!resolve(root->fd, target, CREATE_DIR, &fd, f))
			return false;
		r = write_file(fd, "register", rule);
		sys_close(fd);
	}
	return r < 0 ? fail(f, FAIL_ENGINE, "this kernel cannot run programs for other machines here: binfmt_misc: %s", errno_text(r)) : true;
}

static bool owner(struct root *root, const struct op *op, struct failure *f)
{
	uint64_t uid, gid, mode;
	int fd;
	long r;

	if (!parse_u64(op->arg[1], 10, &uid) || !parse_u64(op->arg[2], 10, &gid) || !parse_u64(op->arg[3], 8, &mode))
		return fail(f, FAIL_UDK, "%s: bad owner in the plan", op->arg[0]);
	/* the last component may be a symbolic link and is then changed itself: only its directory is resolved */
	char path[PATH_SIZE];
	if (str_copy(path, op->arg[0], sizeof path) >= sizeof path)
		return fail(f, FAIL_UDK, "%.200s...: %s", op->arg[0], errno_text(ENAMETOOLONG));
	char *slash = str_rchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	if (slash)
		*slash = 0;
	/* What a layer above has removed or replaced is not there to be owned. */
	f->error = 0;
	if (!resolve(root->fd, slash ? path : "", CREATE_NOTHING, &fd, f))
		return f->error == -ENOENT || f->error == -ENOTDIR;
	struct stat st;
	const int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
	r = sys_fstatat(fd, name, &st, flags);
	if (r >= 0)
		r = sys_fchownat(fd, name, (unsigned)uid, (unsigned)gid, flags);
	/* chown clears the set-id bits, so the mode comes after it; a link has none, and must not be followed */
	if (r >= 0 && mode && (st.st_mode & S_IFMT) != S_IFLNK)
		r = *name ? sys_fchmodat(fd, name, (unsigned)mode) : sys_fchmodat(AT_FDCWD, fd_path(fd).text, (unsigned)mode);
	sys_close(fd);
	if (r == -ENOENT || r == -ENOTDIR)
		return true;
	if (r == -EINVAL)
		return fail(f, FAIL_UDK, "%s: owner %s:%s is outside of the subordinate ids; more of them are needed in /etc/subuid "
			    "and /etc/subgid", op->arg[0], op->arg[1], op->arg[2]);
	return r < 0 ? fail(f, FAIL_UDK, "%s: owner cannot be set: %s", op->arg[0], errno_text(r)) : true;
}

static bool made(struct root *root, const char *target, enum create what, struct failure *f)
{
	int fd;

	if (!resolve(root->fd, target, what, &fd, f))
		return false;
	sys_close(fd);
	return true;
}

static bool tmpfs(struct root *root, const struct op *op, struct failure *f)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | (flag(op->arg[2], 'n') ? MS_NOEXEC : 0);

	return fresh(root, "tmpfs", op->arg[0], flags, op->arg[1], f) &&
	       (!flag(op->arg[2], 'r') || set_readonly(root, op->arg[0], f));
}

bool op_execute(struct root *root, const struct op *op, int source, struct failure *f)
{
	switch (op->kind) {
	case OP_BIND:
		return source < 0 || bind(root, source, op->arg[0], op->arg[1], op->arg[2], f);
	case OP_FILE:
		return file(root, op, f);
	case OP_TMPFS:
		return tmpfs(root, op, f);
	case OP_DEV:
		return op_dev(root, op, f);
	case OP_SHM:
		return fresh(root, "tmpfs", op->arg[0], MS_NOSUID | MS_NODEV, op->arg[1], f);
	case OP_DEVPTS:
		return op_devpts(root, op, f);
	case OP_PROC:
		return kernel_fs(root, "proc", "/proc", op->arg[0], f);
	case OP_SYS:
		return kernel_fs(root, "sysfs", "/sys", op->arg[0], f);
	case OP_BINFMT:
		return binfmt(root, op->arg[0], op->arg[1], f);
	case OP_DIR:
		return made(root, op->arg[0], CREATE_DIR, f);
	case OP_TOUCH:
		return made(root, op->arg[0], CREATE_FILE, f);
	case OP_OWNER:
		return owner(root, op, f);
	case OP_READONLY: {
		long r = mount_readonly(root->fd, false);
		return r < 0 ? fail(f, FAIL_ENGINE, "the root cannot be made read-only: %s", errno_text(r)) : true;
	}
	}
	return fail(f, FAIL_UDK, "unknown operation %d", (int)op->kind);
}
