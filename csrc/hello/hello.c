/* The probe program of the image udk/hello: says what a container looks like from inside; its words are also what the
 * engines' tests are made of. Static, so that it needs nothing of the image that it is in; in udk/hello its own interpreter. */
#include "sys/sys.h"

static char **environment;

static int failed(const char *what, long error)
{
	say(2, "hello: %s: %s\n", what, errno_text(error));
	return 1;
}

/* One line of a /proc file: what follows "name". */
static const char *field(const char *path, const char *name, char *to, size_t size)
{
	static char text[65536];

	to[0] = 0;
	if (read_file(AT_FDCWD, path, text, sizeof text) < 0)
		return to;
	for (char *line = text; line && *line;) {
		char *end = str_chr(line, '\n');
		if (end)
			*end = 0;
		if (str_starts(line, name)) {
			line += strlen(name);
			while (*line == ' ' || *line == '\t' || *line == ':')
				line++;
			str_copy(to, line, size);
			for (size_t n = strlen(to); n && to[n - 1] == ' '; n--)
				to[n - 1] = 0;
			break;
		}
		line = end ? end + 1 : NULL;
	}
	return to;
}

/* ---- the report ---------------------------------------------------------------------------------------- */

static void report_identity(void)
{
	char groups[512], map[128];
	uint64_t count = 0;

	field("/proc/self/status", "Groups", groups, sizeof groups);
	say(1, "user:      uid %ld, gid %ld%s%s\n", sys_getuid(), sys_getgid(), *groups ? ", groups " : "", groups);
	if (read_file(AT_FDCWD, "/proc/self/uid_map", map, sizeof map) > 0) {
		char *p = map, *word = map;
		for (int i = 0; i < 3; i++) {
			while (*p == ' ')
				p++;
			for (word = p; *p && *p != ' ' && *p != '\n'; p++)
				;
			if (*p)
				*p++ = 0;
		}
		bool more = *p;
		if (parse_u64(word, 10, &count) && count != UINT32_MAX)
			say(1, "ids:       %s%lu mapped\n", more ? "more than " : "", (unsigned long)count);
		else
			say(1, "ids:       the host's\n");
	}
}

static void report_root(void)
{
	static char text[1 << 20];
	char type[64] = "unknown";
	unsigned mounts = 0;

	if (read_file(AT_FDCWD, "/proc/self/mounts", text, sizeof text) > 0)
		for (char *line = text; *line; mounts++) {
			char *end = str_chr(line, '\n');
			char *path = str_chr(line, ' ');
			if (end)
				*end = 0;
			if (path && str_starts(path, " / ")) {
				char *p = path + 3, *q = str_chr(p, ' ');
				if (q)
					*q = 0;
				str_copy(type, p, sizeof type);
			}
			if (!end)
				break;
			line = end + 1;
		}
	long fd = sys_open("/.hello", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0) {
		sys_close((int)fd);
		sys_unlinkat(AT_FDCWD, "/.hello", 0);
	}
	say(1, "root:      %s, %s, %u mounts\n", type, fd >= 0 ? "writable" : "read-only", mounts);
}

/* By what the engine leaves to be seen, which is little; UDK_ENGINE, where somebody sets it, is believed first. */
static const char *engine(void)
{
	char map[64];

	if (env_get(environment, "UDK_ENGINE"))
		return env_get(environment, "UDK_ENGINE");
	if (read_file(AT_FDCWD, "/proc/self/uid_map", map, sizeof map) > 0) {
		size_t end = strlen(map);
		while (end && (map[end - 1] == '\n' || map[end - 1] == ' '))
			map[--end] = 0;
		const char *last = str_rchr(map, ' ');
		if (!last || !str_eq(last + 1, "4294967295"))
			return "one with namespaces: namespace, runc or singularity";
	}
	return "one without namespaces: trap, ptrace or preload";
}

static void report_network(void)
{
	static char text[65536];
	bool any = false;

	if (read_file(AT_FDCWD, "/proc/self/net/dev", text, sizeof text) <= 0) {
		say(1, "network:   unknown\n");
		return;
	}
	say(1, "network:  ");
	int line = 0;
	for (char *p = text; *p; line++) {
		char *end = str_chr(p, '\n');
		char *colon = str_chr(p, ':');
		if (line >= 2 && colon && (!end || colon < end)) {
			while (*p == ' ')
				p++;
			*colon = 0;
			say(1, " %s", p);
			any = true;
		}
		if (!end)
			break;
		p = end + 1;
	}
	say(1, any ? "\n" : " none\n");
}

static int report(void)
{
	struct {
		char sysname[65], nodename[65], release[65], version[65], machine[65], domain[65];
	} uts;
	char cwd[4096];

	SC1(__NR_uname, &uts);
	say(1, "Hello from a container of udk.\n\n");
	say(1, "engine:    %s\n", engine());
	report_identity();
	say(1, "hostname:  %s\n", uts.nodename);
	report_root();
	say(1, "pid:       %ld, parent %ld\n", sys_getpid(), sys_getppid());
	say(1, "directory: %s\n", sys_getcwd(cwd, sizeof cwd) > 0 ? cwd : "unknown");
	report_network();
	say(1, "kernel:    %s %s on %s\n", uts.sysname, uts.release, uts.machine);
	return 0;
}

/* ---- words for tests ----------------------------------------------------------------------------------- */

static int do_stat(const char *path, int flags)
{
	static const char types[] = "?pc?d?b?-?l?s???";
	struct stat st;
	long r = sys_fstatat(AT_FDCWD, path, &st, flags);

	if (r < 0)
		return failed(path, r);
	say(1, "%c %04o %u:%u %lu links %lu\n", types[st.st_mode >> 12 & 15], st.st_mode & 07777, st.st_uid, st.st_gid,
	    (unsigned long)st.st_size, (unsigned long)st.st_nlink);
	return 0;
}

static int do_cat(const char *path)
{
	char block[65536];
	long fd = str_eq(path, "-") ? 0 : sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	ssize n;

	if (fd < 0)
		return failed(path, fd);
	while ((n = read_some((int)fd, block, sizeof block)) > 0)
		if (write_all(1, block, (size_t)n) < 0)
			return 1;
	return n < 0 ? failed(path, n) : 0;
}

static int do_write(const char *path, const char *text)
{
	long fd = sys_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	long r = fd < 0 ? fd : write_all((int)fd, text, strlen(text));

	return r < 0 ? failed(path, r) : 0;
}

static int do_list(const char *path)
{
	char entries[32768];
	long fd = sys_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n;

	if (fd < 0)
		return failed(path, fd);
	while ((n = sys_getdents64((int)fd, entries, sizeof entries)) > 0)
		for (long at = 0; at < n;) {
			struct linux_dirent64 *d = (void *)(entries + at);
			at += d->d_reclen;
			if (!str_eq(d->d_name, ".") && !str_eq(d->d_name, ".."))
				say(1, "%s\n", d->d_name);
		}
	return n < 0 ? failed(path, n) : 0;
}

static int do_fds(void)
{
	char path[32], target[256];

	for (int fd = 0; fd < 1024; fd++) {
		fmt(path, sizeof path, "/proc/self/fd/%d", fd);
		long n = sys_readlinkat(AT_FDCWD, path, target, sizeof target - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		say(1, "%d %s\n", fd, target);
	}
	return 0;
}

static int sleep_ms(uint64_t ms)
{
	ktimespec t = { (int64_t)(ms / 1000), (int64_t)(ms % 1000) * 1000000 };

	while (sys_nanosleep(&t) == -EINTR)
		;
	return 0;
}

static void ignore_signals(void)
{
	for (int sig = 1; sig <= 64; sig++)
		if (sig != SIGCHLD)
			sys_signal_default(sig, true);
}

/* A process that does all it can to be forgotten. */
static int do_daemon(uint64_t ms)
{
	if (sys_fork() == 0) {
		sys_setsid();
		if (sys_fork() == 0) {
			ignore_signals();
			for (int fd = 0; fd < 256; fd++)
				sys_close(fd);
			sys_chdir("/");
			sleep_ms(ms);
		}
		sys_exit(0);
	}
	return sys_wait4(-1, NULL, 0, NULL) < 0;
}

/* Waits for a signal, says how often it came (within 200 ms of the first) and exits. "ready" is written first. */
static int do_await(int sig, int status)
{
	const ktimespec more = { 0, 200000000 };
	sigmask set = SIGBIT(sig);
	int count = 0;

	sys_sigprocmask(SIG_BLOCK, &set, NULL);
	say(1, "ready\n");
	while (sys_sigtimedwait(&set, NULL, count ? &more : NULL) == sig)
		count++;
	say(1, "%d\n", count);
	return status;
}

static int do_signals(void)
{
	char value[64];

	say(1, "blocked %s ", field("/proc/self/status", "SigBlk", value, sizeof value));
	say(1, "ignored %s\n", field("/proc/self/status", "SigIgn", value, sizeof value));
	return 0;
}

static int do_lines(uint64_t count)
{
	char line[64];

	for (uint64_t i = 0; i < count; i++) {
		size_t n = fmt(line, sizeof line, "%lu to %s\n", (unsigned long)i, i % 2 ? "stderr" : "stdout");
		if (write_all(i % 2 ? 2 : 1, line, n) < 0)
			return 1;
	}
	return 0;
}

static int do_tty(void)
{
	struct winsize size;
	char path[256];

	if (sys_ioctl(0, TIOCGWINSZ, &size) < 0) {
		say(1, "not a tty\n");
		return 1;
	}
	long n = sys_readlinkat(AT_FDCWD, "/proc/self/fd/0", path, sizeof path - 1);
	path[MAX(n, 0)] = 0;
	say(1, "%s %dx%d session %s\n", path, size.ws_col, size.ws_row, sys_getsid(0) == sys_getpid() ? "leader" : "member");
	return 0;
}

/* Types a character into the terminal, as far as the kernel lets us. */
static int do_type(char c)
{
	long r = sys_ioctl(0, TIOCSTI, &c);

	say(1, "%s\n", r < 0 ? errno_text(r) : "typed");
	return r < 0;
}

static void usage(void)
{
	say(1, "hello                     a report of what this container looks like\n"
	       "hello uid|gid|pid|cwd|env|fds|signals|umask|tty|hostname\n"
	       "hello args WORD...        each in brackets\n"
	       "hello stat|lstat|cat|ls PATH, hello write PATH TEXT\n"
	       "hello exit STATUS, hello raise SIGNAL, hello sleep MS, hello daemon MS\n"
	       "hello outlive MS          start a daemon, then ignore all signals and sleep\n"
	       "hello await SIGNAL STATUS wait for a signal, say how often it came, exit with STATUS\n"
	       "hello type CHARACTER      into the terminal\n"
	       "hello lines COUNT         alternately to stdout and stderr\n"
	       "hello limit NUMBER        soft and hard value of a resource limit\n");
}

static int simple(const char *word)
{
	char text[4096];

	if (str_eq(word, "uid"))
		say(1, "%ld\n", sys_getuid());
	else if (str_eq(word, "gid"))
		say(1, "%ld\n", sys_getgid());
	else if (str_eq(word, "pid"))
		say(1, "%ld\n", sys_getpid());
	else if (str_eq(word, "cwd"))
		say(1, "%s\n", sys_getcwd(text, sizeof text) > 0 ? text : "unknown");
	else if (str_eq(word, "env"))
		for (char **e = environment; *e; e++)
			say(1, "%s\n", *e);
	else if (str_eq(word, "fds"))
		return do_fds();
	else if (str_eq(word, "signals"))
		return do_signals();
	else if (str_eq(word, "umask"))
		say(1, "%04o\n", (unsigned)sys_umask(0));
	else if (str_eq(word, "tty"))
		return do_tty();
	else if (str_eq(word, "hostname"))
		return do_cat("/proc/sys/kernel/hostname");
	else
		return -1;
	return 0;
}

static int with_argument(const char *word, char **args, int count)
{
	uint64_t n = 0, m = 0;
	bool number = parse_u64(args[0], 10, &n);

	if (str_eq(word, "stat"))
		return do_stat(args[0], 0);
	if (str_eq(word, "lstat"))
		return do_stat(args[0], AT_SYMLINK_NOFOLLOW);
	if (str_eq(word, "cat"))
		return do_cat(args[0]);
	if (str_eq(word, "ls"))
		return do_list(args[0]);
	if (str_eq(word, "write") && count == 2)
		return do_write(args[0], args[1]);
	if (str_eq(word, "type") && *args[0])
		return do_type(*args[0]);
	if (str_eq(word, "args")) {
		for (int i = 0; i < count; i++)
			say(1, "[%s]\n", args[i]);
		return 0;
	}
	if (!number)
		return -1;
	if (str_eq(word, "exit"))
		return (int)n;
	if (str_eq(word, "raise"))
		return (int)sys_kill((int)sys_getpid(), (int)n) < 0;
	if (str_eq(word, "sleep"))
		return sleep_ms(n);
	if (str_eq(word, "daemon"))
		return do_daemon(n);
	if (str_eq(word, "outlive")) {
		int status = do_daemon(n);
		ignore_signals();
		return status | sleep_ms(n);
	}
	if (str_eq(word, "lines"))
		return do_lines(n);
	if (str_eq(word, "await") && count == 2 && n >= 1 && n <= 64 && parse_u64(args[1], 10, &m))
		return do_await((int)n, (int)m);
	if (str_eq(word, "limit")) {
		struct rlimit64 l;
		long r = sys_prlimit(0, (int)n, NULL, &l);
		if (r < 0)
			return failed("limit", r);
		say(1, "%lu %lu\n", (unsigned long)l.rlim_cur, (unsigned long)l.rlim_max);
		return 0;
	}
	return -1;
}

int main(int argc, char **argv, char **envp)
{
	environment = envp;
	if (argc < 2)
		return report();
	int status = argc == 2 ? simple(argv[1]) : with_argument(argv[1], argv + 2, argc - 2);
	if (status >= 0)
		return status;
	usage();
	return str_eq(argv[1], "--help") || str_eq(argv[1], "help") ? 0 : 125;
}
