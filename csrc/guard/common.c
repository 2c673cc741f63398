#include "guard/guard.h"

enum { SOL_SOCKET_ = 1, SCM_RIGHTS_ = 1, MSG_DONTWAIT_ = 0x40, MSG_NOSIGNAL_ = 0x4000, MSG_CMSG_CLOEXEC_ = 0x40000000 };

long message_send(int socket, int kind, int value, const void *data, size_t n, int fd)
{
	struct message m = { .kind = kind, .value = value };
	struct kiovec iov = { &m, offsetof(struct message, text) + MIN(n, sizeof m.text) };
	struct kcmsghdr control = { .length = 20, .level = SOL_SOCKET_, .type = SCM_RIGHTS_, .fds = { fd } };
	struct kmsghdr header = { .iov = &iov, .iov_length = 1 };
	long r;

	if (n)
		memcpy(m.text, data, MIN(n, sizeof m.text));
	if (fd >= 0) {
		header.control = &control;
		header.control_length = 24;
	}
	do
		r = sys_sendmsg(socket, &header, MSG_NOSIGNAL_);
	while (r == -EINTR);
	return r;
}

long message_receive(int socket, struct message *m, int *fd, bool wait)
{
	struct kiovec iov = { m, sizeof *m };
	struct kcmsghdr control = { .length = 0 };
	struct kmsghdr header = { .iov = &iov, .iov_length = 1, .control = &control, .control_length = sizeof control };
	long r;

	do
		r = sys_recvmsg(socket, &header, (wait ? 0 : MSG_DONTWAIT_) | MSG_CMSG_CLOEXEC_);
	while (r == -EINTR);
	if (r < (long)offsetof(struct message, text))
		return r == -ECONNRESET || r >= 0 ? 0 : r;
	if ((size_t)r < sizeof *m)
		memset((char *)m + r, 0, sizeof *m - (size_t)r);
	*fd = header.control_length >= 20 && control.type == SCM_RIGHTS_ ? control.fds[0] : -1;
	return r;
}

static void close_between(unsigned from, unsigned to)
{
	struct rlimit64 files = { 65536, 65536 };

	if (sys_close_range(from, to, 0) != -ENOSYS)
		return;
	sys_prlimit(0, RLIMIT_NOFILE, NULL, &files);
	for (uint64_t fd = from; fd <= MIN(to, MIN(files.rlim_max, 1U << 20)); fd++)
		sys_close((int)fd);
}

void close_all_but(const int *keep, size_t n)
{
	int from = 0;

	for (;;) {
		int next = -1;
		for (size_t i = 0; i < n; i++)
			if (keep[i] >= from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next != from)
			close_between((unsigned)from, next < 0 ? ~0U : (unsigned)next - 1);
		if (next < 0)
			return;
		from = next + 1;
	}
}

uint64_t now_us(void)
{
	ktimespec t = { 0, 0 };

	sys_clock_gettime(1 /* CLOCK_MONOTONIC */, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}
