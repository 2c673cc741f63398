/* AF_UNIX names, in and out. */
#include "case.h"

static struct sockaddr_un name(const char *path)
{
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	snprintf(u.sun_path, sizeof u.sun_path, "%s", path);
	return u;
}

static void check_name(int fd, int peer, const char *want)
{
	struct sockaddr_un u;
	socklen_t n = sizeof u;
	memset(&u, 0, sizeof u);
	CHECK((peer ? getpeername : getsockname)(fd, (void *)&u, &n) == 0);
	CHECK(!strcmp(u.sun_path, want) && n == offsetof(struct sockaddr_un, sun_path) + strlen(want) + 1);
}

static int in_table(const char *path)
{
	FILE *f = fopen("/proc/net/unix", "r");
	char line[400], *at;
	int seen = 0;
	CHECK(f);
	while (f && fgets(line, sizeof line, f))
		if ((at = strchr(line, '/')))
			seen |= !strncmp(at, path, strlen(path)) && at[strlen(path)] == '\n';
	if (f)
		fclose(f);
	return seen;
}

static void stream(const char *path)
{
	struct sockaddr_un u = name(path);
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), a;
	socklen_t n = sizeof u;
	CHECK(bind(s, (void *)&u, sizeof u) == 0 && there(path) && listen(s, 1) == 0);
	check_name(s, 0, path);
	CHECK(in_table(path));
	CHECK(connect(c, (void *)&u, sizeof u) == 0);
	check_name(c, 1, path);
	a = accept(s, (void *)&u, &n);
	CHECK(a >= 0 && n == sizeof(sa_family_t));
	FAILS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&(struct sockaddr_un){ AF_UNIX, "" }, 200), EINVAL);
	u = name(path);
	FAILS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u), EADDRINUSE);
	CHECK(unlink(path) == 0 && !there(path));
	FAILS(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u), ENOENT);
}

CASE(stream_socket) { stream("/tmp/case-stream_socket/s"); }

CASE(long_socket_name)
{
	char path[108], dir[108];
	memset(path, 0, sizeof path);
	strcpy(path, "/tmp/case-long_socket_name/");
	memset(path + strlen(path), 'd', 40);
	strcpy(dir, path);
	CHECK(mkdir(dir, 0755) == 0);
	strcat(path, "/");
	while (strlen(path) < 106)
		strcat(path, "s");
	stream(path);
}

/* The last name alone is too long for what a path of the host's is shortened to. */
CASE(long_last_socket_name)
{
	char path[120] = "/tmp/case-long_last_socket_name/";
	struct sockaddr_un u = { AF_UNIX, "" };
	struct { struct sockaddr_un u; char more; } got;
	socklen_t n = sizeof got;
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), c = socket(AF_UNIX, SOCK_DGRAM, 0);
	char buf[8];

	for (size_t n = strlen(path) + 50; n < 108; n++) {
		while (strlen(path) < n)
			strcat(path, "l");
		stream(path);
	}
	strcat(path, "m"); /* without a NUL */
	memcpy(u.sun_path, path, 108);
	CHECK(bind(s, (void *)&u, sizeof u) == 0 && there(path));
	CHECK(getsockname(s, (void *)&got, &n) == 0 && n == sizeof u + 1 && !memcmp(got.u.sun_path, path, 109));
	CHECK(sendto(c, "to", 2, 0, (void *)&u, sizeof u) == 2 && recv(s, buf, sizeof buf, 0) == 2);
	FAILS(bind(c, (void *)&u, sizeof u), EADDRINUSE);
	CHECK(rename(path, "moved") == 0);
	FAILS(sendto(c, "to", 2, 0, (void *)&u, sizeof u), ENOENT);
}

CASE(relative_socket_name)
{
	struct sockaddr_un u = name("rel");
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(s, (void *)&u, sizeof u) == 0 && there("rel") && listen(s, 1) == 0);
	CHECK(connect(c, (void *)&u, sizeof u) == 0);
}

/* Up to the 108 bytes that need no NUL behind them. */
static void stream_of_length(const char *dir, size_t n)
{
	struct sockaddr_un u = { AF_UNIX, "" };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stat st;
	char path[110] = "";

	strcpy(path, dir);
	memset(path + strlen(dir), 'n', n - strlen(dir));
	memcpy(u.sun_path, path, n);
	CHECK(bind(s, (void *)&u, (socklen_t)(2 + n)) == 0 && stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && listen(s, 1) == 0);
	CHECK(connect(c, (void *)&u, (socklen_t)(2 + n)) == 0);
	CHECK(unlink(path) == 0);
	close(s);
	close(c);
}

CASE(long_relative_socket_names)
{
	CHECK(mkdir("here", 0755) == 0 && mkdir("here/below", 0755) == 0);
	for (int i = 0; i < 2; i++) {
		for (size_t n = 60; n <= 108; n++) {
			stream_of_length("", n);
			stream_of_length(i ? "below/../" : "here/below/", n);
		}
		CHECK(i || chdir("here") == 0);
	}
}

CASE(datagram_names)
{
	struct sockaddr_un a = name("/tmp/case-datagram_names/a"), b = name("/tmp/case-datagram_names/b"), from;
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), c = socket(AF_UNIX, SOCK_DGRAM, 0);
	char buf[16];
	socklen_t n = sizeof from;
	struct iovec io = { buf, sizeof buf };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
	CHECK(bind(s, (void *)&a, sizeof a) == 0 && bind(c, (void *)&b, sizeof b) == 0);
	CHECK(sendto(c, "hi", 2, 0, (void *)&a, sizeof a) == 2);
	memset(&from, 0, sizeof from);
	CHECK(recvfrom(s, buf, sizeof buf, 0, (void *)&from, &n) == 2 && !strcmp(from.sun_path, b.sun_path));
	m.msg_name = &a;
	m.msg_namelen = sizeof a;
	io.iov_len = 3;
	CHECK(sendmsg(c, &m, 0) == 3);
	memset(&from, 0, sizeof from);
	m.msg_name = &from;
	m.msg_namelen = sizeof from;
	CHECK(recvmsg(s, &m, 0) == 3 && !strcmp(from.sun_path, b.sun_path));
	struct mmsghdr mm[2] = { { .msg_hdr = m }, { .msg_hdr = m } };
	mm[0].msg_hdr.msg_name = mm[1].msg_hdr.msg_name = &a;
	mm[0].msg_hdr.msg_namelen = mm[1].msg_hdr.msg_namelen = sizeof a;
	CHECK(sendmmsg(c, mm, 2, 0) == 2 && mm[1].msg_len == 3);
}

/* What has no such names says so, whatever is at the name. */
CASE(names_for_other_sockets)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "." }, b = { .sun_family = AF_UNIX, .sun_path = "none/s" };
	int in = socket(AF_INET, SOCK_STREAM, 0), un = socket(AF_UNIX, SOCK_STREAM, 0), file = open("f", O_CREAT | O_RDWR, 0644);
	CHECK(un >= 0 && file >= 0);
	if (in >= 0) {
		FAILS(bind(in, (void *)&a, sizeof a), EAFNOSUPPORT);
		FAILS(bind(in, (void *)&b, sizeof b), EAFNOSUPPORT);
		FAILS(connect(in, (void *)&b, sizeof b), EAFNOSUPPORT);
	}
	FAILS(bind(un, (void *)&a, sizeof a), EADDRINUSE);
	FAILS(bind(un, (void *)&b, sizeof b), ENOENT);
	FAILS(connect(un, (void *)&b, sizeof b), ENOENT);
	FAILS(bind(file, (void *)&b, sizeof b), ENOTSOCK);
	FAILS(connect(-1, (void *)&b, sizeof b), EBADF);
}

CASE(abstract_names)
{
	struct sockaddr_un u = { .sun_family = AF_UNIX }, v;
	socklen_t n = sizeof v;
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	int len = snprintf(u.sun_path + 1, 60, "udk-%d", getpid()) + 1;
	u.sun_path[len++] = 0; /* a NUL inside is part of the name */
	u.sun_path[len++] = 'x';
	CHECK(bind(s, (void *)&u, (socklen_t)(2 + len)) == 0 && listen(s, 1) == 0);
	CHECK(connect(c, (void *)&u, (socklen_t)(2 + len)) == 0);
	CHECK(getsockname(s, (void *)&v, &n) == 0 && n == (socklen_t)(2 + len) && !memcmp(v.sun_path, u.sun_path, (size_t)len));
	n = 5;
	memset(&v, 7, sizeof v);
	CHECK(getsockname(s, (void *)&v, &n) == 0 && n == (socklen_t)(2 + len) && v.sun_path[3] == 7);
}

CASE(descriptors_and_credentials)
{
	int sv[2], on = 1, fd = open("/etc/passwd", O_RDONLY);
	char byte = 'x', space[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] = { 0 };
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	struct ucred *who = NULL, me = { getpid(), getuid(), getgid() };
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == 0 && setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
	*h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(h), &fd, sizeof fd);
	h = CMSG_NXTHDR(&m, h);
	*h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof me), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS };
	memcpy(CMSG_DATA(h), &me, sizeof me);
	CHECK(sendmsg(sv[0], &m, 0) == 1);
	memset(space, 0, sizeof space);
	m.msg_controllen = sizeof space;
	CHECK(recvmsg(sv[1], &m, 0) == 1);
	for (h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_type == SCM_RIGHTS) {
			struct stat a, b;
			memcpy(&fd, CMSG_DATA(h), sizeof fd);
			CHECK(fstat(fd, &a) == 0 && stat("/etc/passwd", &b) == 0 && a.st_ino == b.st_ino);
		} else {
			who = (void *)CMSG_DATA(h);
		}
	}
	CHECK(who && who->uid == getuid() && who->gid == getgid());
	socklen_t n = sizeof me;
	CHECK(getsockopt(sv[0], SOL_SOCKET, SO_PEERCRED, &me, &n) == 0 && me.uid == getuid());
}

/* Where guest root has no power over the system's audit log there is none: sshd gives up when it may not write to it. */
CASE(no_audit_log)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, 9 /* NETLINK_AUDIT */);

	if (!getenv("CONTRACT_FAKE_ROOT"))
		return;
	CHECK(fd < 0 && errno == EPROTONOSUPPORT);
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 || errno == EACCES);
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
}
