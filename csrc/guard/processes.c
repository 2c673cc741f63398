#include "guard/guard.h"

enum { MAX_PROCESSES = 1 << 17, ENVIRON_SIZE = 1 << 20, ROUNDS = 2000 };

struct process {
	int pid, parent;
	bool ours;
};

static struct process *table;
static char *environ_text;

static void *allocate(size_t n)
{
	void *p = sys_mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return is_error((long)p) ? NULL : p;
}

/* The parent of pid, 0 when pid is gone or dead already. Field 2 of stat may hold anything, ')' included. */
static int parent_of(int proc, int pid)
{
	char path[32], text[512];
	int parent = 0;

	fmt(path, sizeof path, "%d/stat", pid);
	if (read_file(proc, path, text, sizeof text) <= 0)
		return 0;
	const char *p = str_rchr(text, ')');
	if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
		return 0;
	for (p += 4; *p >= '0' && *p <= '9'; p++)
		parent = parent * 10 + (*p - '0');
	return parent;
}

static bool has_cookie(int proc, int pid, const char *cookie)
{
	char path[32], entry[256];

	if (!environ_text && !(environ_text = allocate(ENVIRON_SIZE)))
		return false;
	fmt(path, sizeof path, "%d/environ", pid);
	ssize n = read_file(proc, path, environ_text, ENVIRON_SIZE);
	size_t m = fmt(entry, sizeof entry, "UDK_COOKIE=%s", cookie) + 1; /* with its NUL */
	if (n <= 0 || m > sizeof entry)
		return false;
	for (const char *p = environ_text, *end = p + n; p && p < end; p++) {
		p = mem_find(p, (size_t)(end - p) + 1, entry, m); /* read_file ends it with a NUL of its own */
		if (!p)
			return false;
		if (p == environ_text || !p[-1])
			return true;
	}
	return false;
}

static size_t list(int proc)
{
	static char entries[32768];
	size_t n = 0;
	long got;

	sys_lseek(proc, 0, SEEK_SET);
	while ((got = sys_getdents64(proc, entries, sizeof entries)) > 0)
		for (long at = 0; at < got;) {
			struct linux_dirent64 *d = (void *)(entries + at);
			uint64_t pid;
			at += d->d_reclen;
			if (n == MAX_PROCESSES || !parse_u64(d->d_name, 10, &pid))
				continue;
			int parent = parent_of(proc, (int)pid);
			if (parent)
				table[n++] = (struct process){ (int)pid, parent, false };
		}
	return n;
}

static bool is_ours(size_t n, int pid)
{
	for (size_t i = 0; i < n; i++)
		if (table[i].pid == pid)
			return table[i].ours;
	return false;
}

/* One sweep: sends SIGKILL to all that is ours; how many there were. */
static size_t sweep(int proc, const char *cookie)
{
	size_t n = list(proc), victims = 0;
	int self = (int)sys_getpid();
	bool more = true;

	for (size_t i = 0; i < n && cookie; i++)
		table[i].ours = table[i].pid != self && has_cookie(proc, table[i].pid, cookie);
	while (more) {
		more = false;
		for (size_t i = 0; i < n; i++)
			if (!table[i].ours && table[i].pid != self && (table[i].parent == self || is_ours(n, table[i].parent)))
				table[i].ours = more = true;
	}
	for (size_t i = 0; i < n; i++)
		if (table[i].ours && sys_kill(table[i].pid, SIGKILL) >= 0)
			victims++;
	return victims;
}

void kill_container(int proc, const char *cookie)
{
	const ktimespec pause = { 0, 2000000 };

	if (!table && !(table = allocate(MAX_PROCESSES * sizeof *table)))
		return;
	/* Processes may fork while they are being listed: done only when a sweep finds none. */
	for (int round = 0; round < ROUNDS; round++) {
		long r;
		while ((r = sys_wait4(-1, NULL, 1 /* WNOHANG */, NULL)) > 0)
			;
		/* a subreaper without children has no descendants */
		if ((r == -ECHILD && !cookie) || !sweep(proc, cookie))
			return;
		sys_nanosleep(&pause);
	}
}
