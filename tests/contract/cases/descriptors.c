/* What a descriptor or the working directory is may change in many ways: names are looked up where it is now. */
#include "case.h"

static int has(int dir, const char *name)
{
	struct stat st;

	for (int i = 0; i < 3; i++) /* what may be remembered is */
		if (fstatat(dir, name, &st, 0))
			return errno;
	return 0;
}

static int directory(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

CASE(a_number_of_another_directory)
{
	int a = directory("/etc"), b, p[2];

	CHECK(has(a, "passwd") == 0);
	close(a);
	CHECK(has(a, "passwd") == EBADF);
	CHECK(pipe(p) == 0 && p[0] == a);
	CHECK(has(a, "passwd") == ENOTDIR);
	close(p[0]);
	close(p[1]);
	CHECK(directory("/tmp") == a && has(a, "passwd") == ENOENT);
	b = directory("/etc");
	CHECK(has(b, "passwd") == 0 && dup2(b, a) == a && has(a, "passwd") == 0);
	CHECK(dup2(directory("/tmp"), b) == b && has(b, "passwd") == ENOENT && has(a, "passwd") == 0);
	close(a);
	CHECK(fcntl(b, F_DUPFD, a) == a && has(a, "passwd") == ENOENT);
}

CASE(a_directory_from_a_socket)
{
	int s[2], etc = directory("/etc"), tmp = directory("/tmp");
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &etc, sizeof etc);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0 && sendmsg(s[0], &m, 0) == 1);
	CHECK(has(tmp, "passwd") == ENOENT);
	close(tmp);
	CHECK(recvmsg(s[1], &m, 0) == 1);
	memcpy(&tmp, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof tmp);
	CHECK(has(tmp, "passwd") == 0);
}

CASE(the_directory_is_changed_by_descriptor)
{
	CHECK(chdir("/etc") == 0 && has(AT_FDCWD, "passwd") == 0);
	CHECK(fchdir(directory("/tmp")) == 0 && has(AT_FDCWD, "passwd") == ENOENT);
	CHECK(chdir("/etc") == 0 && has(AT_FDCWD, "passwd") == 0 && has(AT_FDCWD, "../etc/passwd") == 0);
}

static int elsewhere(void *dir)
{
	int d;

	if (chdir("/tmp") || has(AT_FDCWD, "passwd") != ENOENT)
		return 1;
	close(*(int *)dir);
	d = directory("/tmp");
	return !(d == *(int *)dir && has(d, "passwd") == ENOENT);
}

CASE(memory_shared_without_descriptors)
{
	int dir = directory("/etc"), flags[] = { CLONE_VM | SIGCHLD, CLONE_VM | CLONE_VFORK | SIGCHLD };
	size_t size = 1 << 18;

	CHECK(chdir("/etc") == 0 && has(AT_FDCWD, "passwd") == 0 && has(dir, "passwd") == 0);
	for (int i = 1; i >= 0; i--) {
		char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pid_t p = clone(elsewhere, stack + size, flags[i], &dir);

		CHECK(p > 0 && wait_status(p) == 0);
		CHECK(has(AT_FDCWD, "passwd") == 0 && has(dir, "passwd") == 0);
	}
}

CASE(descriptors_shared_without_memory)
{
	int dir = directory("/etc");
	pid_t p;

	CHECK(has(dir, "passwd") == 0);
	p = (pid_t)syscall(SYS_clone, CLONE_FILES | CLONE_FS | SIGCHLD, 0, 0, 0, 0);
	if (p == 0) {
		int tmp = directory("/tmp");
		_exit(!(dup2(tmp, dir) == dir && chdir("/tmp") == 0));
	}
	CHECK(wait_status(p) == 0);
	CHECK(has(dir, "passwd") == ENOENT && has(AT_FDCWD, "passwd") == ENOENT);
}

CASE(a_directory_that_gets_a_second_layer)
{
	int dir = directory("/etc");

	CHECK(has(dir, "passwd") == 0 && has(dir, "noted") == ENOENT);
	close(open("/etc/noted", O_CREAT | O_WRONLY, 0600));
	CHECK(has(dir, "noted") == 0 && has(dir, "passwd") == 0);
	CHECK(unlink("/etc/noted") == 0 && has(dir, "noted") == ENOENT);
}

/* A descriptor that the engine has for itself is not the guest's business. */
CASE(no_descriptor_but_the_guests)
{
	DIR *d = opendir("/proc/self/fd");
	char listed[256] = { 0 };
	struct dirent *e;
	struct stat st;

	CHECK(d != NULL);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			listed[atoi(e->d_name) & 255] = 1;
	closedir(d);
	for (int fd = 3; fd < 256; fd++) {
		int there = fcntl(fd, F_GETFD) >= 0;

		CHECK(there <= listed[fd] && there == (fstat(fd, &st) == 0));
		CHECK(there || (fstatat(fd, "etc", &st, 0) == -1 && errno == EBADF));
		CHECK(there || (dup(fd) == -1 && openat(fd, ".", O_RDONLY | O_DIRECTORY) == -1));
	}
}

static void close_all(void)
{
	for (int fd = 3; fd < 256; fd++)
		close(fd);
}

CASE(every_number_is_closed)
{
	struct stat st;

	CHECK(stat("/etc/passwd", &st) == 0);
	close_all();
	CHECK(stat("/etc/passwd", &st) == 0 && directory("/etc") == 3 && has(3, "passwd") == 0);
	CHECK(access("/lower/dir", F_OK) == 0);
}

CASE(every_number_is_a_pipe)
{
	struct stat st;
	int p[2];

	CHECK(stat("/etc/passwd", &st) == 0);
	close_all();
	for (int i = 0; i < 100; i++)
		CHECK(pipe(p) == 0);
	CHECK(stat("/etc/passwd", &st) == 0 && stat("/etc/nothing", &st) == -1 && errno == ENOENT);
	FAILS(stat("/etc/passwd/x", &st), ENOTDIR);
	CHECK(open("/lower/file", O_RDONLY) >= 0);
}

CASE(every_number_is_another_directory)
{
	struct stat st;
	int tmp = directory("/tmp");

	CHECK(stat("/etc/passwd", &st) == 0);
	for (int fd = 10; fd < 256; fd++)
		CHECK(dup2(tmp, fd) == fd);
	CHECK(stat("/etc/passwd", &st) == 0);
	for (int fd = 10; fd < 256; fd++)
		CHECK(has(fd, "passwd") == ENOENT);
	close_all();
	for (int fd = 3; fd < 200; fd++)
		CHECK(directory("/tmp") == fd);
	CHECK(stat("/etc/passwd", &st) == 0 && has(62, "passwd") == ENOENT);
}

CASE(a_range_of_numbers_is_closed)
{
	struct stat st;
	int status;
	pid_t pid;

	CHECK(stat("/etc/passwd", &st) == 0);
	if (syscall(SYS_close_range, 3, ~0U, 0))
		return; /* an old kernel */
	CHECK(stat("/etc/passwd", &st) == 0 && directory("/etc") == 3);
	CHECK(syscall(SYS_close_range, 3, ~0U, 4 /* CLOEXEC */) == 0 && stat("/etc/passwd", &st) == 0);
	pid = vfork();
	if (pid == 0) {
		syscall(SYS_close_range, 3, ~0U, 0);
		close_all();
		_exit(stat("/etc/passwd", &st) != 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0 && stat("/etc/passwd", &st) == 0 && has(3, "passwd") == 0);
}
