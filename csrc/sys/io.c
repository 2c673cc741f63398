#include "sys/sys.h"

ssize write_all(int fd, const void *data, size_t n)
{
	const char *p = data;

	while (n) {
		ssize r = sys_write(fd, p, n);
		if (r == -EINTR)
			continue;
		if (r < 0)
			return r;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

ssize read_some(int fd, void *data, size_t n)
{
	ssize r;

	do
		r = sys_read(fd, data, n);
	while (r == -EINTR);
	return r;
}

ssize read_full(int fd, void *data, size_t n)
{
	char *p = data;
	size_t got = 0;

	while (got < n) {
		ssize r = read_some(fd, p + got, n - got);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		got += (size_t)r;
	}
	return (ssize)got;
}

ssize read_file(int dirfd, const char *path, char *to, size_t size)
{
	long fd = sys_openat(dirfd, path, O_RDONLY | O_CLOEXEC, 0);
	ssize r;

	if (fd < 0)
		return fd;
	r = read_full((int)fd, to, size - 1);
	sys_close((int)fd);
	if (r >= 0)
		to[r] = 0;
	return r;
}

ssize write_file(int dirfd, const char *path, const char *text)
{
	long fd = sys_openat(dirfd, path, O_WRONLY | O_CLOEXEC, 0);
	size_t n = strlen(text);
	ssize r;

	if (fd < 0)
		return fd;
	do
		r = sys_write((int)fd, text, n);
	while (r == -EINTR);
	sys_close((int)fd);
	return r < 0 ? r : (size_t)r == n ? 0 : -EIO;
}

const char *env_get(char *const *envp, const char *name)
{
	size_t n = strlen(name);

	for (; *envp; envp++)
		if (str_starts(*envp, name) && (*envp)[n] == '=')
			return *envp + n + 1;
	return NULL;
}
