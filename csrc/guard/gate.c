/* The gate: how a guard reaches its own init in a container that another runtime makes.
 *
 *   guard - keeper - runtime - ... - init (the guard again) - keeper - payload
 *
 * The runtime gets neither the caller's streams nor signals: the guard listens on a socket that is bound into the
 * container, the init connects when it is there, and from then on they talk to each other. So the payload has the caller's
 * own descriptors whatever the runtime does with its own, no signal is lost while the runtime is at work or delivered twice,
 * and a runtime that fails before the init was there is known to have failed.
 */
#include "guard/guard.h"

enum { AF_UNIX_ = 1, SEQPACKET_ = 5 | 02000000, SOL_SOCKET_ = 1, SCM_RIGHTS_ = 1, MSG_NOSIGNAL_ = 0x4000,
       MSG_CMSG_CLOEXEC_ = 0x40000000, F_DUPFD_CLOEXEC_ = 1030, MAX_STREAMS = 64, LOG_TAIL = 4096, PATH_SIZE = 4096 };

struct address {
	uint16_t family;
	char path[108];
};

/* The first message: numbers that the descriptors which come along have at the caller's, the signals that the caller
 * ignores, its umask, its limit of descriptors (which Go raises for itself). */
struct hello {
	uint64_t ignored;
	struct rlimit64 files;
	uint32_t umask;
	int32_t n, numbers[MAX_STREAMS];
};

struct rights {
	size_t length;
	int level, type;
	int fds[MAX_STREAMS];
};

/* Paths of sockets are short; through a descriptor of its directory any is. */
static long address(const char *path, struct address *a, int *dir)
{
	char above[PATH_SIZE];

	*a = (struct address){ .family = AF_UNIX_ };
	*dir = -1;
	if (str_copy(above, path, sizeof above) >= sizeof above)
		return -ENAMETOOLONG;
	char *slash = str_rchr(above, '/');
	*slash = 0;
	long r = sys_open(*above ? above : "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (r < 0)
		return r;
	*dir = (int)r;
	return fmt(a->path, sizeof a->path, "/proc/self/fd/%d/%s", *dir, slash + 1) >= sizeof a->path ? -ENAMETOOLONG : 0;
}

static long open_socket(const char *path, bool listens)
{
	struct address a;
	int dir;
	long r = address(path, &a, &dir), fd = -1;

	if (r >= 0)
		r = fd = sys_socket(AF_UNIX_, SEQPACKET_ | (listens ? 04000 /* not blocking */ : 0), 0);
	if (r >= 0 && listens) {
		sys_unlinkat(AT_FDCWD, path, 0);
		r = SC3(__NR_bind, fd, &a, sizeof a);
		if (r >= 0)
			r = SC2(__NR_listen, fd, 1);
	} else if (r >= 0) {
		r = SC3(__NR_connect, fd, &a, sizeof a);
	}
	if (dir >= 0)
		sys_close(dir);
	if (r < 0 && fd >= 0)
		sys_close((int)fd);
	return r < 0 ? r : fd;
}

/* What the caller's descriptors are: those that are not closed on exec; of a confined run, the standard ones and ours. */
static void list_streams(struct hello *h, int *fds, const struct plan *p)
{
	static char entries[8192];
	const bool few = p->confine & CONFINE_FDS;
	long got, dir = few ? -1 : sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	for (int fd = 0; fd < 3; fd++)
		if (sys_fcntl(fd, F_GETFD, 0) == 0)
			h->numbers[h->n++] = fd;
	for (size_t i = 0; few && i < p->n_kept; i++)
		h->numbers[h->n++] = p->kept[i];
	while (dir >= 0 && (got = sys_getdents64((int)dir, entries, sizeof entries)) > 0)
		for (long at = 0; at < got;) {
			struct linux_dirent64 *d = (void *)(entries + at);
			uint64_t fd;
			at += d->d_reclen;
			if (parse_u64(d->d_name, 10, &fd) && fd > 2 && h->n < MAX_STREAMS && sys_fcntl((int)fd, F_GETFD, 0) == 0)
				h->numbers[h->n++] = (int)fd;
		}
	if (dir >= 0)
		sys_close((int)dir);
	for (int i = 0; i < h->n; i++)
		fds[i] = h->numbers[i];
}

long gate_listen(struct gate *g, const char *path)
{
	long r = open_socket(path, true);

	g->listening = (int)r;
	return r;
}

/* Somebody has connected: gives it what the caller gave. */
long gate_accept(struct gate *g, const struct plan *p)
{
	struct hello h = { .ignored = p->ignored_signals, .umask = (uint32_t)sys_umask(0) };
	struct rights rights = { .level = SOL_SOCKET_, .type = SCM_RIGHTS_ };
	struct message m = { .kind = MSG_STREAMS };
	struct kiovec iov = { &m, offsetof(struct message, text) + sizeof h };
	struct kmsghdr header = { .iov = &iov, .iov_length = 1, .control = &rights };
	struct ksigaction old;
	long r = SC4(__NR_accept4, g->listening, NULL, NULL, 02000000);

	sys_umask(h.umask);
	sys_prlimit(0, RLIMIT_NOFILE, NULL, &h.files);
	if (r < 0)
		return r;
	g->fd = (int)r;
	sys_close(g->listening);
	g->listening = -1;
	for (int sig = 1; sig <= 64; sig++)
		if (sys_sigaction(sig, NULL, &old) >= 0 && old.handler == SIG_IGN)
			h.ignored |= SIGBIT(sig);
	list_streams(&h, rights.fds, p);
	rights.length = offsetof(struct rights, fds) + (size_t)h.n * sizeof(int);
	header.control_length = h.n ? (rights.length + 7) & ~7UL : 0;
	memcpy(m.text, &h, sizeof h);
	do
		r = sys_sendmsg(g->fd, &header, MSG_NOSIGNAL_);
	while (r == -EINTR);
	for (int i = 0; r >= 0 && i < g->n_pending; i++)
		r = message_send(g->fd, MSG_SIGNAL, g->pending[i], NULL, 0, -1);
	g->passed = r >= 0;
	return r;
}

/* The init's side: connects, and puts the caller's descriptors where the caller had them. Nothing that the runtime left
 * open stays so. Returns the connection, or an error. */
long gate_enter(const char *path)
{
	struct hello h;
	struct rights rights = { .length = 0 };
	struct message m;
	struct kiovec iov = { &m, sizeof m };
	struct kmsghdr header = { .iov = &iov, .iov_length = 1, .control = &rights, .control_length = sizeof rights };
	int keep[MAX_STREAMS + 1], above = 3, n = 0;
	long fd = open_socket(path, false), r;

	if (fd < 0)
		return fd;
	do
		r = sys_recvmsg((int)fd, &header, MSG_CMSG_CLOEXEC_);
	while (r == -EINTR);
	if (r < 0)
		return r;
	if (r < (long)(offsetof(struct message, text) + sizeof h) || m.kind != MSG_STREAMS)
		return -EPROTO;
	memcpy(&h, m.text, sizeof h);
	if (header.control_length >= offsetof(struct rights, fds) && rights.type == SCM_RIGHTS_)
		n = (int)((rights.length - offsetof(struct rights, fds)) / sizeof(int));
	if (n != h.n)
		return -EMFILE;
	for (int i = 0; i < n; i++) {
		above = h.numbers[i] >= above ? h.numbers[i] + 1 : above;
		keep[i] = rights.fds[i];
	}
	keep[n] = (int)fd;
	close_all_but(keep, (size_t)n + 1);
	/* Out of the way of the numbers they are to get. */
	for (int i = 0; i <= n; i++) {
		r = sys_fcntl(keep[i], F_DUPFD_CLOEXEC_, (unsigned long)above);
		if (r < 0)
			return r;
		sys_close(keep[i]);
		keep[i] = (int)r;
	}
	for (int i = 0; i < n; i++) {
		r = sys_dup3(keep[i], h.numbers[i], 0);
		if (r < 0)
			return r;
		sys_close(keep[i]);
	}
	for (int sig = 1; sig <= 64; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			sys_signal_default(sig, h.ignored & SIGBIT(sig));
	sys_umask(h.umask);
	sys_prlimit(0, RLIMIT_NOFILE, &h.files, NULL);
	return keep[n];
}

/* The runtime's own output: it goes to a file, of which the last line tells why it failed. */
long gate_silence(const char *log)
{
	long null = sys_open("/dev/null", O_RDONLY | O_CLOEXEC, 0);
	long fd = sys_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	long r = null < 0 ? null : fd < 0 ? fd : sys_setsid(); /* the terminal's signals are not for it */

	if (r >= 0)
		r = sys_dup3((int)null, 0, 0);
	for (int i = 1; i < 3 && r >= 0; i++)
		r = sys_dup3((int)fd, i, 0);
	return r;
}

/* Colours are taken out of a text, in place; its new length. */
static ssize plain(char *text, ssize n)
{
	ssize to = 0;

	for (ssize i = 0; i < n; i++) {
		if (text[i] == 033 && i + 1 < n && text[i + 1] == '[') {
			for (i += 2; i < n && !(text[i] >= '@' && text[i] <= '~'); i++)
				;
			continue;
		}
		text[to++] = text[i];
	}
	return to;
}

void gate_failure(const char *program, const char *log, int status, struct failure *f)
{
	static char text[LOG_TAIL];
	struct stat st;
	long fd = sys_open(log, O_RDONLY | O_CLOEXEC, 0);
	ssize n = -1;

	if (fd >= 0 && sys_fstat((int)fd, &st) >= 0) {
		sys_lseek((int)fd, st.st_size > LOG_TAIL - 1 ? st.st_size - (LOG_TAIL - 1) : 0, SEEK_SET);
		n = read_full((int)fd, text, sizeof text - 1);
	}
	if (fd >= 0)
		sys_close((int)fd);
	const char *slash = str_rchr(program, '/');
	program = slash ? slash + 1 : program;
	if (n > 0)
		n = plain(text, n);
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ' || text[n - 1] == '\r'))
		n--;
	text[n > 0 ? n : 0] = 0;
	char *line = str_rchr(text, '\n');
	line = line ? line + 1 : text;
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	if (*line)
		fail(f, FAIL_ENGINE, "%s cannot set up the container: %.700s", program, line);
	else
		fail(f, FAIL_ENGINE, "%s cannot set up the container: it ended with status %d and said nothing", program, status);
}
