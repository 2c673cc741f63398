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

/* As many as the limit says, and paths are found after that. */
CASE(every_number_is_a_copy)
{
	struct rlimit few;
	int n = 0, used = 0;
	CHECK(getrlimit(RLIMIT_NOFILE, &few) == 0);
	few.rlim_cur = 128;
	CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	for (int i = 0; i < 128; i++)
		used += fcntl(i, F_GETFD) >= 0;
	while (dup(0) >= 0)
		n++;
	CHECK(errno == EMFILE && n + used == 128);
	close(100);
	put("f", "x");
	CHECK(same("f", "x") && mkdir("d", 0755) == 0 && there("/tmp/case-every_number_is_a_copy/d"));
}

/* Nobody but the guest registers for memory barriers that it has not asked for. */
CASE(barriers_are_registered_for)
{
	char name[64];
	if (syscall(SYS_membarrier, 0, 0) < 0 || !(syscall(SYS_membarrier, 0, 0) & 1 << 5))
		return; /* an old kernel */
	for (int i = 0; i < 50; i++) { /* as often as sites are looked at before they are changed */
		snprintf(name, sizeof name, "f%d", i);
		put(name, "x");
		CHECK(same(name, "x") && there(name) && chmod(name, 0600) == 0 && unlink(name) == 0);
	}
	FAILS(syscall(SYS_membarrier, 1 << 5, 0), EPERM);
	CHECK(syscall(SYS_membarrier, 1 << 6, 0) == 0 && syscall(SYS_membarrier, 1 << 5, 0) == 0);
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


CASE(copies_of_a_directory)
{
	struct stat st;

	for (int i = 0; i < OFTEN; i++) {
		int a = directory("/etc"), b, c;

		CHECK(fstat(a, &st) == 0);
		b = fcntl(a, F_DUPFD_CLOEXEC, 3);
		c = fcntl(b, F_DUPFD, 3);
		close(a);
		close(b);
		CHECK(a >= 0 && c >= 0 && has(c, "passwd") == 0);
		CHECK(directory("/tmp") == a && fstat(a, &st) == 0 && has(a, "passwd") == ENOENT && has(c, "passwd") == 0);
		CHECK(fcntl(a, F_DUPFD_CLOEXEC, b) == b && has(b, "passwd") == ENOENT);
		CHECK(dup2(c, a) == a && has(a, "passwd") == 0 && dup2(b, c) == c && has(c, "passwd") == ENOENT);
		close(a);
		close(b);
		close(c);
	}
}

CASE(a_slash_behind_a_directory)
{
	CHECK(mkdir("dir", 0700) == 0 && symlink("dir", "link") == 0 && close(creat("file", 0600)) == 0 && close(creat("dir/in", 0600)) == 0);
	for (int i = 0; i < OFTEN; i++) {
		int a = open("dir/", O_RDONLY | O_DIRECTORY), b = open("link//", O_RDONLY | O_DIRECTORY), c = open("link/", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

		CHECK(has(a, "in") == 0 && has(b, "in") == 0 && has(c, "in") == 0 && has(a, "../file") == 0);
		FAILS(open("file/", O_RDONLY | O_DIRECTORY), ENOTDIR);
		FAILS(open("none/", O_RDONLY | O_DIRECTORY), ENOENT);
		FAILS(open("link", O_RDONLY | O_DIRECTORY | O_NOFOLLOW), ENOTDIR);
		FAILS(open("", O_RDONLY | O_DIRECTORY), ENOENT);
		close(a);
		close(b);
		close(c);
		CHECK((a = open("/", O_RDONLY | O_DIRECTORY)) >= 0 && has(a, "etc/passwd") == 0 && close(a) == 0);
	}
}

CASE(one_file_is_one_file)
{
	const char *names[] = { "/etc/passwd", "/etc", "/lower/dir", "/lower/file" };

	CHECK(symlink("/etc/passwd", "link") == 0);
	for (int n = 0; n < 4; n++) {
		struct stat first, st;

		CHECK(lstat(names[n], &first) == 0);
		for (int i = 0; i < OFTEN; i++) {
			int fd = open(names[n], O_RDONLY);

			CHECK(stat(names[n], &st) == 0 && st.st_ino == first.st_ino && st.st_dev == first.st_dev);
			CHECK(fstat(fd, &st) == 0 && st.st_ino == first.st_ino && st.st_dev == first.st_dev && st.st_uid == first.st_uid);
			close(fd);
#ifdef __GLIBC__
			struct statx x;

			CHECK(statx(AT_FDCWD, names[n], i & 1 ? AT_SYMLINK_NOFOLLOW : 0, STATX_BASIC_STATS, &x) == 0 && x.stx_ino == first.st_ino);
			CHECK(x.stx_uid == first.st_uid && x.stx_mode == first.st_mode && x.stx_nlink == first.st_nlink && x.stx_size == first.st_size);
			CHECK(makedev(x.stx_dev_major, x.stx_dev_minor) == first.st_dev);
			CHECK(statx(AT_FDCWD, "link", 0, STATX_BASIC_STATS, &x) == 0 && S_ISREG(x.stx_mode));
			CHECK(statx(AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x) == 0 && S_ISLNK(x.stx_mode));
#endif
		}
	}
}

static volatile int over;

static void *opens(void *bad)
{
	while (!over) {
		int d = directory("/etc");
		struct stat st;

		if (fstat(d, &st) || has(d, "passwd"))
			*(int *)bad = 1;
		close(d);
	}
	return NULL;
}

/* Its descriptors are its own, though its memory is not. */
CASE(a_vfork_beside_threads)
{
	int bad = 0;
	pthread_t t;

	CHECK(pthread_create(&t, NULL, opens, &bad) == 0);
	for (int i = 0; i < 300; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			struct stat st;
			int d;

			for (int fd = 3; fd < 12; fd++)
				close(fd);
			d = directory("/tmp");
			_exit(fstat(d, &st) || has(d, "passwd") != ENOENT || has(fcntl(d, F_DUPFD_CLOEXEC, 3), "passwd") != ENOENT);
		}
		CHECK(wait_status(pid) == 0);
	}
	over = 1;
	CHECK(pthread_join(t, NULL) == 0 && !bad);
}

static int is_listed(int fd)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	int found = 0;

	CHECK(d);
	while ((e = readdir(d)))
		found += atoi(e->d_name) == fd && e->d_name[0] != '.';
	closedir(d);
	return found;
}

/* bash takes the highest number below 64 that is free, then the next one. */
CASE(high_numbers_are_free)
{
	for (int first = 61; first < 64; first++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			struct stat a, b;

			CHECK(fcntl(first, F_GETFD) < 0 && errno == EBADF && !is_listed(first));
			CHECK(dup2(0, first) == first && is_listed(first) && fcntl(first, F_GETFD) == 0);
			for (int other = 61; other < 64; other++)
				CHECK(other == first || (fcntl(other, F_GETFD) < 0 && errno == EBADF && !is_listed(other)));
			CHECK(stat("/etc", &a) == 0 && fstat(first, &b) == 0 && open("/etc/passwd", O_RDONLY) >= 0);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
}

/* In a directory that is too deep for a path, by names that the engine has something to say of. */
CASE(nothing_is_left_open)
{
	char name[256];
	int lowest, fd;

	memset(name, 'd', 255);
	name[255] = 0;
	for (int i = 0; i < 20; i++)
		CHECK(mkdir(name, 0755) == 0 && chdir(name) == 0);
	lowest = dup(0);
	CHECK(lowest > 0 && close(lowest) == 0);
	for (int i = 0; i < 20; i++) {
		fd = open(i % 2 ? "../maps" : "../exe", O_RDWR | O_CREAT, 0600);
		CHECK(fd > 0 && close(fd) == 0);
		fd = open(i % 2 ? "../maps" : "../exe", O_RDONLY);
		CHECK(fd > 0 && close(fd) == 0);
	}
	CHECK(dup(0) == lowest);
}
