/* Root that is not: privileged calls of guest root succeed and are consistent. */
#include "case.h"

#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include <grp.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/xattr.h>

static void need_root(void)
{
	if (getuid() || !getenv("CONTRACT_FAKE_ROOT"))
		_exit(0);
}

CASE(root_by_default)
{
	struct stat s;
	uid_t r, e, v;
	need_root();
	CHECK(getuid() == 0 && geteuid() == 0 && getgid() == 0 && getegid() == 0);
	CHECK(getresuid(&r, &e, &v) == 0 && !r && !e && !v);
	CHECK(stat("/etc/passwd", &s) == 0 && s.st_uid == 0 && s.st_gid == 0);
	put("f", "x");
	CHECK(stat("f", &s) == 0 && s.st_uid == 0);
}

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

CASE(dropping_privileges)
{
	gid_t groups[4] = { 7, 8, 9, 10 }, back[8];
	struct stat s;
	need_root();
	CHECK(!chmod(".", 01777));
	CHECK(setgroups(4, groups) == 0 && getgroups(8, back) == 4 && back[2] == 9);
	CHECK(setegid(33) == 0 && seteuid(33) == 0 && geteuid() == 33 && getuid() == 0);
	put("theirs", "x");
	CHECK(stat("theirs", &s) == 0 && s.st_uid == 33 && s.st_gid == 33);
	FAILS(chown("theirs", 1, 1), EPERM);
	CHECK(seteuid(0) == 0 && setegid(0) == 0);
	CHECK(setresgid(44, 44, 44) == 0 && setresuid(44, 44, 44) == 0 && getuid() == 44);
	FAILS(setuid(0), EPERM);
	FAILS(setgroups(0, NULL), EPERM);
	pid_t p = fork();
	if (!p)
		_exit(!(getuid() == 44 && getegid() == 44));
	CHECK(wait_status(p) == 0);
}

CASE(set_id_programs)
{
	char self[256], *argv[] = { "x", "--ids", NULL };
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	char buf[65536];
	int in, out, st;
	pid_t p;
	need_root();
	self[n] = 0;
	in = open(self, O_RDONLY);
	out = open("suid", O_WRONLY | O_CREAT, 0755);
	while ((n = read(in, buf, sizeof buf)) > 0)
		CHECK(write(out, buf, (size_t)n) == n);
	close(out);
	CHECK(chown("suid", 21, 22) == 0 && chmod("suid", 06755) == 0);
	p = fork();
	if (!p) {
		CHECK(setgid(50) == 0 && setuid(50) == 0);
		execv("./suid", argv);
		_exit(9);
	}
	st = wait_status(p);
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 42);
}

CASE(vfork_child_changes_ids_for_itself)
{
	need_root();
	pid_t p = vfork();
	if (!p) {
		if (syscall(SYS_setuid, 77))
			_exit(1);
		_exit(0);
	}
	CHECK(wait_status(p) == 0 && getuid() == 0);
}

CASE(emulated_chroot)
{
	char b[256];
	struct stat a, s;
	need_root();
	CHECK(mkdir("root", 0755) == 0 && mkdir("root/etc", 0755) == 0 && stat("root", &a) == 0);
	put("root/etc/here", "inside");
	CHECK(symlink("/etc/here", "root/link") == 0);
	CHECK(chroot("root") == 0 && chdir("/") == 0 && getcwd(b, sizeof b) && !strcmp(b, "/"));
	CHECK(same("/etc/here", "inside") && same("/link", "inside") && !there("/etc/passwd"));
	CHECK(stat("/..", &s) == 0 && s.st_ino == a.st_ino);
}

CASE(host_name)
{
	struct utsname u;

	need_root();
	CHECK(!sethostname("elsewhere", 9) && !uname(&u) && !strcmp(u.nodename, "elsewhere"));
	FAILS(sethostname("x", 65), EINVAL);
}

/* Somebody else than root finds closed what is closed, and cannot remove what is not his. */
CASE(several_users)
{
	struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
	struct stat st;
	pid_t p;
	int fd;

	need_root();
	CHECK(!chmod(".", 0777) && !mkdir("shut", 0700) && !mkdir("list", 0755) && !mkdir("team", 0770));
	put("shut/f", "x");
	put("secret", "x");
	put("list/f", "x");
	put("mine", "x");
	CHECK(!mkdir("drop", 0755) && !chmod("drop", 01777));
	put("drop/f", "x");
	put("setid", "x");
	CHECK(!chmod("setid", 04777) && !mkdir("theirdir", 0755) && !chown("theirdir", 79, 79));
	CHECK(!chmod("secret", 0600) && !chown("mine", 77, 77) && !chmod("mine", 0600) && !chown("team", 0, 78));
	CHECK(!chmod("team", 02770));
	p = fork();
	if (!p) {
		gid_t groups[] = { 78 };
		CHECK(!setgroups(1, groups) && !setgid(77) && !setuid(77));
		FAILS(open("secret", O_RDONLY), EACCES);
		FAILS(open("secret", O_WRONLY), EACCES);
		FAILS(open("shut/f", O_RDONLY), EACCES);
		FAILS(open("/tmp/case-several_users/shut/f", O_RDONLY), EACCES);
		FAILS(stat("shut/f", &st), EACCES);
		FAILS(access("shut/f", F_OK), EACCES);
		FAILS(open("shut", O_RDONLY | O_DIRECTORY), EACCES);
		FAILS(chdir("shut"), EACCES);
		FAILS(open("list/new", O_CREAT | O_WRONLY, 0644), EACCES);
		FAILS(mkdir("list/new", 0755), EACCES);
		FAILS(symlink("x", "list/new"), EACCES);
		FAILS(unlink("list/f"), EACCES);
		FAILS(rename("list/f", "moved"), EACCES);
		FAILS(rename("mine", "list/f"), EACCES);
		FAILS(unlink("drop/f"), EPERM);
		FAILS(truncate("secret", 0), EACCES);
		FAILS(chmod("secret", 0644), EPERM);
		FAILS(utimensat(AT_FDCWD, "secret", NULL, 0), EACCES);
		FAILS(utimensat(AT_FDCWD, "secret", times, 0), EPERM);
		CHECK(!chown("secret", -1, -1));
		FAILS(chown("mine", -1, 99), EPERM);
		CHECK(!chown("mine", -1, 78) && !chmod("mine", 0070) && chmod("mine", 0600) == 0);
		fd = open("setid", O_WRONLY);
		CHECK(fd >= 0 && !fstat(fd, &st) && !(st.st_mode & S_ISUID));
		FAILS(rename("theirdir", "team/theirdir"), EACCES); /* its ".." would change */
		FAILS(execl("secret", "secret", NULL), EACCES);
		CHECK(same("mine", "x") && same("list/f", "x"));
		put("team/f", "x");
		CHECK(!mkdir("team/d", 0755) && !chdir("team"));
		put("d/g", "x");
		put("/tmp/several-users", "x");
		CHECK(!unlink("/tmp/several-users"));
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
	CHECK(!stat("team/f", &st) && st.st_uid == 77 && st.st_gid == 78);
	CHECK(!stat("team/d", &st) && st.st_gid == 78 && (st.st_mode & 07777) == 02755);
	CHECK(!stat("team/d/g", &st) && st.st_gid == 78);
	CHECK(!rename("team", "crew"));
	put("crew/h", "x");
	CHECK(!stat("crew/h", &st) && st.st_uid == 0 && st.st_gid == 78);
	fd = open("secret", O_PATH);
	FAILS(syscall(SYS_fchmod, fd, 0644), EBADF); /* not what the C library makes of it */
	FAILS(syscall(SYS_fchown, fd, 1, 1), EBADF);
	fd = open("sticky", O_CREAT | O_RDWR, 01644);
	CHECK(!fstat(fd, &st) && (st.st_mode & 07777) == 01644);
}

/* /proc tells the ids that the calls tell. */
CASE(status_shows_the_guests_ids)
{
	char line[256], want[64];
	pid_t p = 0;
	FILE *f;
	int found = 0, to[2];

	need_root();
	CHECK(!pipe(to));
	p = fork();
	if (!p) {
		CHECK(!setgid(78) && !setuid(77) && write(to[1], "", 1) == 1);
		pause();
	}
	CHECK(read(to[0], line, 1) == 1);
	for (int other = 0; other < 2; other++) {
		snprintf(line, sizeof line, "/proc/%d/status", other ? (int)p : (int)getpid());
		f = fopen(line, "r");
		CHECK(f);
		while (fgets(line, sizeof line, f)) {
			int id = other ? 77 : 0;
			snprintf(want, sizeof want, "Uid:\t%d\t%d\t%d\t%d\n", id, id, id, id);
			found += !strcmp(line, want);
			id = other ? 78 : 0;
			snprintf(want, sizeof want, "Gid:\t%d\t%d\t%d\t%d\n", id, id, id, id);
			found += !strcmp(line, want);
		}
		fclose(f);
	}
	kill(p, SIGKILL);
	wait_status(p);
	CHECK(found == 4);
}

CASE(a_chroot_from_outside)
{
	char b[256];

	need_root();
	CHECK(mkdir("root", 0755) == 0 && chroot("root") == 0);
	CHECK(syscall(SYS_getcwd, b, sizeof b) > 0 && b[0] == '('); /* (unreachable) */
}

static int send_credentials(int fd, pid_t pid, uid_t uid, gid_t gid)
{
	char byte = 'x', space[CMSG_SPACE(sizeof(struct ucred))] = { 0 };
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct ucred who = { pid, uid, gid };
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof who), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &who, sizeof who);
	return (int)sendmsg(fd, &m, 0);
}

/* Who somebody is is what he is told to be, and he cannot say otherwise. */
CASE(credentials_of_other_users)
{
	char byte, space[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "s" };
	struct ucred who;
	socklen_t n = sizeof who;
	int sv[2], on = 1, listening = socket(AF_UNIX, SOCK_STREAM, 0), fd;
	need_root();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == 0 && setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
	CHECK(chmod(".", 0777) == 0 && bind(listening, (void *)&a, sizeof a) == 0 && chmod("s", 0777) == 0 && listen(listening, 1) == 0);
	pid_t p = fork();
	if (!p) {
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
		FAILS(send_credentials(sv[0], getpid(), 0, 0), EPERM);
		FAILS(send_credentials(sv[0], getpid(), 1000, 0), EPERM);
		CHECK(send_credentials(sv[0], getpid(), 1000, 1000) == 1);
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		CHECK(connect(fd, (void *)&a, sizeof a) == 0 && read(fd, &byte, 1) == 0);
		_exit(0);
	}
	CHECK(recvmsg(sv[1], &m, 0) == 1);
	memcpy(&who, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof who);
	CHECK(who.pid == p && who.uid == 1000 && who.gid == 1000);
	fd = accept(listening, NULL, NULL);
	CHECK(fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 && who.pid == p && who.uid == 1000 && who.gid == 1000);
	close(fd);
	CHECK(wait_status(p) == 0);
}

/* A child with other ids, once it has them; it ends when it is told to. */
static pid_t child_of(uid_t uid, int end[2])
{
	int ready[2];
	char b;
	pid_t p;
	CHECK(pipe(ready) == 0 && pipe(end) == 0);
	p = fork();
	if (!p) {
		close(end[1]);
		if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid) || write(ready[1], "x", 1) != 1)
			_exit(1);
		(void)!read(end[0], &b, 1);
		_exit(0);
	}
	CHECK(p > 0 && read(ready[0], &b, 1) == 1 && close(ready[0]) == 0 && close(ready[1]) == 0);
	return p;
}

CASE(signals_between_users)
{
	int one[2], two[2];
	pid_t a, b, me = getpid();
	need_root();
	a = child_of(1000, one);
	b = child_of(2000, two);
	CHECK(kill(a, 0) == 0 && kill(b, SIGCONT) == 0);
	pid_t p = fork();
	if (!p) {
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
		CHECK(kill(a, 0) == 0 && kill(a, SIGCONT) == 0 && kill(getpid(), 0) == 0);
		FAILS(kill(b, 0), EPERM);
		FAILS(kill(b, SIGTERM), EPERM);
		FAILS(kill(me, SIGKILL), EPERM);
		CHECK(kill(b, SIGCONT) == 0); /* within the session */
		FAILS(sigqueue(b, SIGTERM, (union sigval){ 0 }), EPERM);
		CHECK(sigqueue(a, SIGTERM, (union sigval){ 0 }) == 0);
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
	CHECK(wait_status(a) == SIGTERM);
	CHECK(kill(b, SIGTERM) == 0 && wait_status(b) == SIGTERM);
}

/* The same for threads, by descriptor, and of a group those whom the caller may signal. */
CASE(threads_and_groups_of_other_users)
{
	int one[2], two[2], fd;
	siginfo_t info = { .si_signo = SIGTERM, .si_code = SI_QUEUE };
	pid_t a, b;

	need_root();
	CHECK(setpgid(0, 0) == 0 || getpgrp() == getpid());
	a = child_of(1000, one);
	b = child_of(2000, two);
	fd = (int)syscall(SYS_pidfd_open, b, 0); /* -1: an old kernel */
	pid_t p = fork();
	if (!p) {
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
		FAILS(syscall(SYS_tkill, b, SIGTERM), EPERM);
		FAILS(syscall(SYS_tgkill, b, b, SIGTERM), EPERM);
		FAILS(syscall(SYS_tgkill, b, b, 0), EPERM);
		FAILS(syscall(SYS_rt_tgsigqueueinfo, b, b, SIGTERM, &info), EPERM);
		if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0))
			CHECK(errno == EPERM || errno == ENOSYS);
		else
			CHECK(fd < 0);
		CHECK(syscall(SYS_tgkill, b, b, SIGCONT) == 0 && syscall(SYS_tkill, a, 0) == 0 && syscall(SYS_tgkill, a, a, 0) == 0);
		FAILS(syscall(SYS_tgkill, a, b, 0), ESRCH);
		FAILS(kill(-0x3ffffff, SIGTERM), ESRCH);
		signal(SIGTERM, SIG_IGN);
		CHECK(kill(0, SIGTERM) == 0);
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
	CHECK(wait_status(a) == SIGTERM);
	CHECK(setpgid(b, b) == 0 && kill(b, 0) == 0); /* lives, as this process does */
	p = fork();
	if (!p) {
		CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
		FAILS(kill(-b, SIGTERM), EPERM);
		_exit(0);
	}
	CHECK(wait_status(p) == 0);
	CHECK(kill(-b, SIGTERM) == 0 && wait_status(b) == SIGTERM);
}

static volatile int raised;
static void on_raised(int sig) { raised = sig; }

CASE(raised_signals_come_at_once)
{
	int all[] = { SIGUSR1, SIGSEGV, SIGBUS, SIGTRAP, SIGSYS, SIGRTMIN + 1 };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		for (int n = 0; n < 20; n++) { /* as often as sites are looked at before they are changed */
			signal(all[i], on_raised);
			raised = 0;
			CHECK(raise(all[i]) == 0 && raised == all[i]);
		}
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		pid_t p = fork();
		if (!p) {
			signal(all[i], SIG_DFL);
			raise(all[i]);
			_exit(0);
		}
		int st;
		CHECK(waitpid(p, &st, 0) == p && WIFSIGNALED(st) && WTERMSIG(st) == all[i]);
	}
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

static volatile int urgent;
static void on_urgent(int sig) { urgent++; }

CASE(a_signal_to_everybody)
{
	int ready[2], end[2];
	char b;
	pid_t p;
	CHECK(pipe(ready) == 0 && pipe(end) == 0);
	p = fork();
	if (!p) {
		signal(SIGURG, on_urgent);
		CHECK(write(ready[1], "x", 1) == 1);
		for (int i = 0; i < 500 && !urgent; i++)
			usleep(10000);
		_exit(!urgent);
	}
	signal(SIGURG, on_urgent);
	CHECK(read(ready[0], &b, 1) == 1 && kill(-1, SIGURG) == 0);
	CHECK(wait_status(p) == 0 && !urgent);
	FAILS(kill(-1, 65), EINVAL);
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

CASE(shared_memory_belongs_to_whoever_made_it)
{
	int shm = shmget(IPC_PRIVATE, 4096, 0600), sem = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);
	struct shmid_ds m;
	struct semid_ds s;
	struct msqid_ds q;
	union { int value; struct semid_ds *at; } arg = { .at = &s };

	CHECK(shm >= 0 && sem >= 0 && queue >= 0);
	CHECK(shmctl(shm, IPC_STAT, &m) == 0 && m.shm_perm.uid == getuid() && m.shm_perm.cgid == getgid() && m.shm_segsz == 4096);
	m.shm_perm.mode = 0640;
	CHECK(shmctl(shm, IPC_SET, &m) == 0 && shmctl(shm, IPC_STAT, &m) == 0 && (m.shm_perm.mode & 0777) == 0640);
	CHECK(m.shm_perm.uid == getuid() && m.shm_perm.cuid == getuid());
	CHECK(semctl(sem, 0, IPC_STAT, arg) == 0 && s.sem_perm.uid == getuid() && s.sem_nsems == 1);
	arg.value = 3;
	CHECK(semctl(sem, 0, SETVAL, arg) == 0 && semctl(sem, 0, GETVAL) == 3);
	CHECK(msgctl(queue, IPC_STAT, &q) == 0 && q.msg_perm.gid == getgid() && q.msg_perm.cuid == getuid());
	CHECK(shmctl(shm, IPC_RMID, NULL) == 0 && semctl(sem, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
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
