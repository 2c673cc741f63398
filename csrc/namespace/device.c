#include "namespace/namespace.h"
#include <linux/fs.h>

static const char *const nodes[] = { "null", "zero", "full", "random", "urandom", "tty" };

static const char *const links[][2] = {
	{ "fd", "/proc/self/fd" },
	{ "stdin", "/proc/self/fd/0" },
	{ "stdout", "/proc/self/fd/1" },
	{ "stderr", "/proc/self/fd/2" },
	{ "ptmx", "pts/ptmx" },
};

/* Binds the host's node over an empty file: device nodes cannot be made in a user namespace. What the host itself
 * lacks is left out. */
static bool node(int dev, const char *name, struct failure *f)
{
	char host[32];
	long source, target, r;

	fmt(host, sizeof host, "/dev/%s", name);
	source = sys_open(host, O_PATH | O_CLOEXEC, 0);
	if (source < 0)
		return true;
	target = sys_openat(dev, name, O_RDONLY | O_CREAT | O_CLOEXEC, 0666);
	if (target < 0)
		return fail(f, FAIL_UDK, "/dev/%s: %s", name, errno_text(target));
	r = mount_on(fd_path((int)source).text, (int)target, NULL, MS_BIND, NULL);
	sys_close((int)target);
	sys_close((int)source);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s cannot be bound into the container: %s", host, errno_text(r)) : true;
}

bool op_dev(struct root *root, const struct op *op, struct failure *f)
{
	int under, dev;
	long r;

	if (!resolve(root->fd, op->arg[0], CREATE_DIR, &under, f))
		return false;
	r = mount_on("tmpfs", under, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=65536k");
	sys_close(under);
	if (r < 0)
		return fail(f, FAIL_ENGINE, "%s: tmpfs cannot be mounted: %s", op->arg[0], errno_text(r));
	if (!resolve(root->fd, op->arg[0], CREATE_NOTHING, &dev, f))
		return false;
	bool ok = true;
	for (size_t i = 0; ok && i < ARRAY_LEN(nodes); i++)
		ok = node(dev, nodes[i], f);
	for (size_t i = 0; ok && i < ARRAY_LEN(links); i++)
		if ((r = sys_symlinkat(links[i][1], dev, links[i][0])) < 0)
			ok = fail(f, FAIL_UDK, "/dev/%s: %s", links[i][0], errno_text(r));
	if (ok && ((r = sys_mkdirat(dev, "pts", 0755)) < 0 || (r = sys_mkdirat(dev, "shm", 01777)) < 0))
		ok = fail(f, FAIL_UDK, "/dev: %s", errno_text(r));
	sys_close(dev);
	return ok;
}

bool op_devpts(struct root *root, const struct op *op, struct failure *f)
{
	int fd;
	long r = -EINVAL;

	if (!resolve(root->fd, op->arg[0], CREATE_DIR, &fd, f))
		return false;
	/* group 5 is the tty group everywhere, but it has no meaning where only one id is mapped */
	if (root->many_ids)
		r = mount_on("devpts", fd, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	if (r < 0)
		r = mount_on("devpts", fd, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
	sys_close(fd);
	return r < 0 ? fail(f, FAIL_ENGINE, "%s: devpts cannot be mounted: %s", op->arg[0], errno_text(r)) : true;
}
