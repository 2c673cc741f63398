#include "guard/guard.h"

enum { MAX_PROCESSES = 1 << 17, ENVIRON_SIZE = 1 << 20, ROUNDS = 2000 };

struct process {
	int pid, parent;
	bool ours, dead; /* the dead are listed too: their children may not have been handed on yet */
};

static struct process *table;
static char *environ_text;

static void *allocate(size_t n)
{
	void *p = sys_mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return is_error((long)p) ? NULL : p;
}

/* Reads who pid's parent is, and whether it is dead; false when it is gone. Field 2 of stat may hold anything, ')' and
 * spaces included. */
static bool look_at(int proc, int pid, struct process *p)
{
	char path[32], text[512];

	fmt(path, sizeof path, "%d/stat", pid);
	if (read_file(proc, path, text, sizeof text) <= 0)
		return false;
	const char *s = str_rchr(text, ')');
	if (!s || s[1] != ' ' || !s[2] || s[3] != ' ')
		return false;
	*p = (struct process){ .pid = pid, .dead = s[2] == 'Z' || s[2] == 'X' };
	for (s += 4; *s >= '0' && *s <= '9'; s++)
		p->parent = p->parent * 10 + (*s - '0');
	return true;
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
			if (n < MAX_PROCESSES && parse_u64(d->d_name, 10, &pid) && look_at(proc, (int)pid, &table[n]))
				n++;
		}
	return n;
}

/* /proc lists processes by rising pid. */
static bool is_ours(size_t n, int pid)
{
	size_t low = 0;

	while (low < n) {
		size_t middle = low + (n - low) / 2;
		if (table[middle].pid == pid)
			return table[middle].ours;
		if (table[middle].pid < pid)
			low = middle + 1;
		else
			n = middle;
	}
	return false;
}

/* One sweep: sends SIGKILL to all that is ours; how many of them were alive. */
static size_t sweep(int proc, const char *cookie, bool descendants)
{
	size_t n = list(proc), victims = 0;
	int self = (int)sys_getpid();
	bool more = true;

	for (size_t i = 0; i < n && cookie; i++)
		table[i].ours = table[i].pid != self && has_cookie(proc, table[i].pid, cookie);
	while (more) {
		more = false;
		for (size_t i = 0; i < n; i++)
			if (!table[i].ours && table[i].pid != self &&
			    ((descendants && table[i].parent == self) || is_ours(n, table[i].parent)))
				table[i].ours = more = true;
	}
	for (size_t i = 0; i < n; i++)
		if (table[i].ours && !table[i].dead && sys_kill(table[i].pid, SIGKILL) >= 0)
			victims++;
	return victims;
}

void kill_container(int proc, const char *cookie, bool descendants)
{
	const ktimespec pause = { 0, 2000000 };
	int empty = 0;

	if (!table && !(table = allocate(MAX_PROCESSES * sizeof *table)))
		return;
	for (int round = 0; round < ROUNDS; round++) {
		long r;
		while ((r = sys_wait4(-1, NULL, WNOHANG, NULL)) > 0)
			;
		/* A subreaper without children has no descendants: certain, whatever a listing may have missed. */
		bool none = !descendants || r == -ECHILD;
		if (none && !cookie)
			return;
		/* Of others, a listing may miss one that was being forked; not twice in a row. */
		empty = sweep(proc, cookie, descendants) ? 0 : empty + 1;
		if (none && empty >= 2)
			return;
		sys_nanosleep(&pause);
	}
}
