/* Whose files are, and their modes, as guest root and others gave them. */
#include "case.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

CASE(chown_holds)
{
	struct stat s;
	int fd;
	need_root();
	put("f", "x");
	CHECK(symlink("f", "l") == 0 && mkdir("d", 0755) == 0);
	CHECK(chown("f", 12, 34) == 0 && stat("f", &s) == 0 && s.st_uid == 12 && s.st_gid == 34);
	CHECK(lchown("l", 56, 78) == 0 && lstat("l", &s) == 0 && s.st_uid == 56 && s.st_gid == 78);
	CHECK(stat("l", &s) == 0 && s.st_uid == 12);
	CHECK(chown("d", 9, -1) == 0 && stat("d", &s) == 0 && s.st_uid == 9 && s.st_gid == 0);
	fd = open("f", O_RDONLY);
	CHECK(fstat(fd, &s) == 0 && s.st_uid == 12 && fchown(fd, -1, 99) == 0 && stat("f", &s) == 0 && s.st_gid == 99 && s.st_uid == 12);
	CHECK(rename("f", "g") == 0 && stat("g", &s) == 0 && s.st_uid == 12);
	CHECK(link("g", "h") == 0 && stat("h", &s) == 0 && s.st_uid == 12);
	CHECK(unlink("g") == 0 && unlink("h") == 0);
	for (int i = 0; i < 50; i++) { /* an inode number that comes back must not bring the owner with it */
		put("new", "x");
		CHECK(stat("new", &s) == 0 && s.st_uid == 0 && unlink("new") == 0);
	}
	CHECK(chown("/lower/owned", 5, 6) == 0 && stat("/lower/owned", &s) == 0 && s.st_uid == 5 && same("/lower/owned", "o"));
}

CASE(modes_hold)
{
	struct stat s;
	need_root();
	put("f", "x");
	CHECK(chmod("f", 04751) == 0 && stat("f", &s) == 0 && (s.st_mode & 07777) == 04751);
	CHECK(chmod("f", 0) == 0 && stat("f", &s) == 0 && (s.st_mode & 07777) == 0 && same("f", "x"));
	CHECK(mkdir("d", 0) == 0 && stat("d", &s) == 0 && (s.st_mode & 0777) == 0);
	put("d/in", "x");
	CHECK(same("d/in", "x") && chmod("d", 01777) == 0 && stat("d", &s) == 0 && (s.st_mode & 07777) == 01777);
	int fd = open("m", O_WRONLY | O_CREAT, 0);
	CHECK(fd >= 0 && fstat(fd, &s) == 0 && (s.st_mode & 0777) == 0 && close(fd) == 0);
	fd = open("m", O_RDWR);
	CHECK(fd >= 0 && chmod("m", 0644) == 0 && stat("m", &s) == 0 && (s.st_mode & 07777) == 0644);
	CHECK(chmod("f", 0600) == 0);
	FAILS(access("f", X_OK), EACCES);
	CHECK(access("d", X_OK) == 0);
}

CASE(set_ids_of_what_is_made)
{
	struct stat s;
	need_root();
	umask(022);
	CHECK(mkfifo("p", 02775) == 0 && lstat("p", &s) == 0 && s.st_mode == (S_IFIFO | 02755));
	CHECK(mknod("s", S_IFSOCK | 04777, 0) == 0 && lstat("s", &s) == 0 && s.st_mode == (S_IFSOCK | 04755));
	CHECK(mknod("f", S_IFREG | 06710, 0) == 0 && lstat("f", &s) == 0 && s.st_mode == (S_IFREG | 06710));
	CHECK(mknod("t", S_IFREG | 01600, 0) == 0 && lstat("t", &s) == 0 && s.st_mode == (S_IFREG | 01600));
}

CASE(what_is_mounted_belongs_to_whoever_made_it)
{
	struct timespec t[2] = { { 1, 0 }, { 2, 0 } };
	char shm[64];
	int fd;
	need_root();
	clock_gettime(CLOCK_REALTIME, t); /* it may be the host's, with what other runs left */
	sprintf(shm, "/dev/shm/udk-case-%d-%lx", getpid(), t->tv_nsec);
	t[0] = (struct timespec){ 1, 0 };
	pid_t p = fork();
	if (!p) {
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
		for (const char *path = shm; path; path = path == shm ? "/rw/made" : NULL) {
			CHECK((fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644)) >= 0);
			if (path == shm) /* by descriptor what is bound from the image's own device cannot be told */
				CHECK(fchmod(fd, 0600) == 0 && futimens(fd, t) == 0);
			CHECK(chmod(path, 0640) == 0 && utimensat(AT_FDCWD, path, t, 0) == 0 && unlink(path) == 0);
		}
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
}

CASE(devices)
{
	struct stat s;
	DIR *d;
	struct dirent *e;
	need_root();
	CHECK(mknod("null", S_IFCHR | 0666, makedev(1, 3)) == 0 && stat("null", &s) == 0);
	CHECK(S_ISCHR(s.st_mode) && s.st_rdev == makedev(1, 3));
	CHECK(mknod("sda", S_IFBLK | 0600, makedev(8, 0)) == 0 && stat("sda", &s) == 0 && S_ISBLK(s.st_mode));
	d = opendir(".");
	while ((e = readdir(d)))
		if (!strcmp(e->d_name, "null"))
			CHECK(e->d_type == DT_CHR || e->d_type == DT_UNKNOWN || e->d_type == DT_REG);
}

/* The time of the last change is that of the last chown, even of one to the same owner; others' times are theirs. */
CASE(owners_and_times)
{
	struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
	struct stat a, b;

	put("f", "x");
	CHECK(symlink("f", "l") == 0);
	for (int n = 0; n < 3; n++) {
		const char *name = n == 1 ? "l" : "f";
		CHECK(lstat(name, &a) == 0);
		usleep(20000);
		CHECK((n == 2 ? lchown(name, -1, a.st_gid) : lchown(name, a.st_uid, a.st_gid)) == 0 && lstat(name, &b) == 0);
		CHECK(b.st_ctim.tv_sec > a.st_ctim.tv_sec || b.st_ctim.tv_nsec > a.st_ctim.tv_nsec);
	}
	CHECK(stat("/", &a) == 0);
	if (a.st_uid != geteuid() && geteuid() && access("/", W_OK)) {
		FAILS(utimensat(AT_FDCWD, "/", NULL, 0), EACCES);
		FAILS(utimensat(AT_FDCWD, "/", times, 0), EPERM);
	}
	CHECK(utimensat(AT_FDCWD, "f", times, 0) == 0 && stat("f", &a) == 0 && a.st_mtime == 1);
}

/* While others make and remove files: the next file with an inode is not what the last one was. */
CASE(inodes_given_again)
{
	enum { WORKERS = 3, FILES = 1500 };
	pid_t workers[WORKERS];

	need_root();
	CHECK(!mkdir("mine", 0755) && !chown("mine", 77, 78));
	for (int w = 0; w < WORKERS; w++) {
		workers[w] = fork();
		if (workers[w])
			continue;
		const int root = w == WORKERS - 1; /* one has nothing of its own to note, but for set-id bits */
		struct stat s;

		CHECK(root || (!setgid(78) && !setuid(77)));
		CHECK(!chdir("mine"));
		for (int i = 0; i < FILES; i++) {
			char file[32], dir[32], moved[32];
			int fd;

			sprintf(file, "f%d.%d", w, i), sprintf(moved, "m%d.%d", w, i % 4), sprintf(dir, "d%d.%d", w, i);
			CHECK((fd = open(file, O_WRONLY | O_CREAT, 0644)) >= 0 && !mkdir(dir, 0755));
			CHECK(!fstat(fd, &s) && s.st_uid == (root ? 0 : 77) && (s.st_mode & 07777) == 0644);
			CHECK(!stat(dir, &s) && s.st_uid == (root ? 0 : 77) && (s.st_mode & 07777) == 0755);
			CHECK(!fchmod(fd, 04711) && !futimens(fd, NULL) && !close(fd) && !rename(file, moved));
			CHECK(!stat(moved, &s) && s.st_uid == (root ? 0 : 77) && (s.st_mode & 07777) == 04711);
			CHECK(!rmdir(dir) && (i % 3 || !unlink(moved)));
		}
		_exit(0);
	}
	for (int w = 0; w < WORKERS; w++)
		CHECK(wait_status(workers[w]) == 0);
}

CASE(removed_while_open)
{
	struct stat s;
	pid_t p;

	need_root();
	CHECK(!mkdir("mine", 0755) && !chown("mine", 77, 78));
	p = fork();
	if (!p) {
		int fd, dir;

		CHECK(!setgid(78) && !setuid(77) && !chdir("mine"));
		CHECK((fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0644)) >= 0 && !unlink("f"));
		CHECK(!fstat(fd, &s) && s.st_uid == 77 && s.st_gid == 78 && s.st_nlink == 0);
		CHECK(!fchmod(fd, 0600) && !futimens(fd, NULL));
		CHECK(!mkdir("d", 0750) && (dir = open("d", O_RDONLY | O_DIRECTORY)) >= 0 && !rmdir("d"));
		CHECK(!fstat(dir, &s) && s.st_uid == 77 && (s.st_mode & 07777) == 0750);
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
}

/* Of a file of the image two names have one owner, whichever it was given by. */
CASE(names_of_a_file_of_the_image)
{
	const char *first = "/lower/joined", *other = "/lower/joined-2";
	char self[40];
	struct stat s;
	int fd;

	need_root();
	CHECK(link(first, other) == 0 && chown(other, 7, 8) == 0);
	CHECK(stat(first, &s) == 0 && s.st_uid == 7 && s.st_gid == 8 && s.st_nlink == 2);
	fd = open(first, O_RDONLY);
	CHECK(fd >= 0 && fchown(fd, 9, 10) == 0 && stat(other, &s) == 0 && s.st_uid == 9 && unlink(other) == 0);
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	CHECK(linkat(AT_FDCWD, self, AT_FDCWD, other, AT_SYMLINK_FOLLOW) == 0 && stat(other, &s) == 0 && s.st_uid == 9);
	CHECK(chown(other, 11, 12) == 0 && stat(first, &s) == 0 && s.st_uid == 11 && fstat(fd, &s) == 0 && s.st_uid == 11);
	CHECK(unlink(other) == 0 && close(fd) == 0);
}

/* Sockets that a user binds are that user's. */
CASE(a_sockets_owner)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "mine/s" };
	struct stat st;
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	need_root();
	CHECK(s >= 0 && mkdir("mine", 0755) == 0 && chown("mine", 1000, 1000) == 0);
	CHECK(setegid(1001) == 0 && seteuid(1000) == 0);
	CHECK(bind(s, (void *)&a, sizeof a) == 0 && lstat("mine/s", &st) == 0);
	CHECK(st.st_uid == 1000 && st.st_gid == 1001 && S_ISSOCK(st.st_mode));
}

/* Who opens a file that somebody else makes just then finds its owner, and may write to it. */
CASE(two_make_a_file_at_once)
{
	enum { ROUNDS = 2000 };
	volatile int *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char name[20];
	int status, ok = 0;

	need_root();
	CHECK((void *)at != MAP_FAILED && mkdir("many", 0755) == 0 && chown("many", 1000, 1000) == 0);
	for (int i = 0; i < 2; i++) {
		if (fork())
			continue;
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0 && chdir("many") == 0);
		alarm(100); /* the other one may have failed */
		for (int n = 0; n < ROUNDS; n++) {
			struct stat st;
			int fd;

			snprintf(name, sizeof name, "f%d", n);
			__atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
			while (*at < 2 * (n + 1))
				sched_yield();
			fd = open(name, O_WRONLY | O_CREAT, 0644);
			CHECK(fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == 1000 && st.st_gid == 1000 && close(fd) == 0);
		}
		_exit(0);
	}
	while (wait(&status) > 0)
		ok += status == 0;
	CHECK(ok == 2);
}
