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
