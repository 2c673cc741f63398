#include "guard/guard.h"

enum { END_OF_FILE = 4 /* ^D */ };

/* The container's own devpts when it has one, so that the terminal has a name inside; else the host's. */
bool tty_open(int *master, int *slave, struct failure *f)
{
	char name[32];
	int number, unlock = 0;
	struct winsize size;
	long r = sys_open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0);

	if (r < 0)
		r = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0);
	*master = (int)r;
	if (r >= 0)
		r = sys_ioctl(*master, TIOCSPTLCK, &unlock);
	if (r >= 0)
		r = sys_ioctl(*master, TIOCGPTN, &number);
	if (r >= 0) {
		fmt(name, sizeof name, "/dev/pts/%d", number);
		r = sys_open(name, O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
		*slave = (int)r;
	}
	if (r < 0)
		return fail(f, FAIL_UDK, "no terminal for -t: %s", errno_text(r));
	for (int fd = 0; fd < 3; fd++)
		if (sys_ioctl(fd, TIOCGWINSZ, &size) >= 0) {
			sys_ioctl(*master, TIOCSWINSZ, &size);
			break;
		}
	return true;
}

/* What the caller's terminal was before; in static memory because every exit path needs it. */
static struct termios before;

/* A background job may neither read the terminal nor change it: it is another's. */
static bool in_background(void)
{
	int owner;

	return sys_ioctl(0, TIOCGPGRP, &owner) >= 0 && owner != sys_getpgid(0);
}

void tty_raw(struct tty *t)
{
	struct termios mode;

	if (in_background())
		return;
	if (!t->raw) {
		if (sys_ioctl(0, TCGETS, &before) < 0)
			return; /* standard input is not a terminal */
		t->raw = true;
	}
	mode = before;
	mode.c_iflag &= (tcflag_t)~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	mode.c_oflag &= (tcflag_t)~OPOST;
	mode.c_lflag &= (tcflag_t)~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	mode.c_cflag = (mode.c_cflag & (tcflag_t)~(CSIZE | PARENB)) | CS8;
	mode.c_cc[VMIN] = 1;
	mode.c_cc[VTIME] = 0;
	sys_ioctl(0, TCSETSW, &mode);
}

void tty_attach(struct tty *t, int master)
{
	t->master = master;
	tty_raw(t);
}

void tty_resize(const struct tty *t)
{
	struct winsize size;

	for (int fd = 0; t->master >= 0 && fd < 3; fd++)
		if (sys_ioctl(fd, TIOCGWINSZ, &size) >= 0) {
			sys_ioctl(t->master, TIOCSWINSZ, &size);
			return;
		}
}

size_t tty_poll(const struct tty *t, struct pollfd *p)
{
	size_t n = 0;

	if (t->master < 0)
		return 0;
	p[n++] = (struct pollfd){ .fd = t->master, .events = (t->n_out ? 0 : POLLIN) | (t->n_in ? POLLOUT : 0) };
	if (!t->eof && !t->n_in && !in_background())
		p[n++] = (struct pollfd){ .fd = 0, .events = POLLIN };
	if (t->n_out)
		p[n++] = (struct pollfd){ .fd = 1, .events = POLLOUT };
	return n;
}

static bool ready(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	ktimespec none = { 0, 0 };

	return sys_ppoll(&p, 1, &none, NULL) > 0 && p.revents & (events | POLLHUP | POLLERR);
}

static void take(char *buffer, size_t *n, ssize used)
{
	*n -= (size_t)used;
	memmove(buffer, buffer + used, *n);
}

/* The caller's end is gone: as if a terminal was hung up, which sends the payload SIGHUP. */
static void hang_up(struct tty *t)
{
	sys_close(t->master);
	t->master = -1;
	t->broken = true;
}

void tty_relay(struct tty *t)
{
	ssize r;

	if (t->master < 0)
		return;
	if (!t->eof && !t->n_in && !in_background() && ready(0, POLLIN)) {
		r = sys_read(0, t->in, sizeof t->in);
		if (r > 0) {
			t->n_in = (size_t)r;
		} else if (r != -EINTR && r != -EAGAIN) {
			t->eof = true;
			if (!t->raw) { /* a file or a pipe ended; a terminal that ends was hung up */
				t->in[0] = END_OF_FILE;
				t->n_in = 1;
			}
		}
	}
	if (t->n_in && (r = sys_write(t->master, t->in, t->n_in)) > 0)
		take(t->in, &t->n_in, r);
	if (!t->n_out && (r = sys_read(t->master, t->out, sizeof t->out)) > 0)
		t->n_out = (size_t)r;
	if (t->n_out && ready(1, POLLOUT)) {
		r = sys_write(1, t->out, t->n_out);
		if (r > 0)
			take(t->out, &t->n_out, r);
		else if (r != -EINTR && r != -EAGAIN)
			hang_up(t);
	}
}

void tty_finish(struct tty *t)
{
	while (t->master >= 0) {
		ssize r = 0;
		if (!t->n_out) {
			r = sys_read(t->master, t->out, sizeof t->out);
			if (r == -EINTR)
				continue;
			if (r <= 0)
				break;
			t->n_out = (size_t)r;
		}
		r = write_all(1, t->out, t->n_out);
		t->n_out = 0;
		if (r < 0)
			break;
	}
	if (t->raw) {
		t->raw = false;
		sys_ioctl(0, TCSETSW, &before);
	}
}
