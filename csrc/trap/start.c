/* udk-trap: where the program begins.
 *
 *   udk-trap run FD ARGV...   reads the plan's description from FD, makes the state file, installs the filter and
 *                             runs ARGV in the container
 *   udk-trap join STATE FD ARGV...   the same in the container whose state file this is; FD has ids and directory
 *   udk-trap probe            0 when the mechanism works here: a filter, a trap, and the way back
 *   udk-trap probe-ptrace-1   0 when it does with a tracer and a filter; probe-ptrace-2: with a tracer alone
 *   udk-trap probe-i386       0 when 32-bit programs run here
 *   udk-trap probe-code       0 when code can be changed here
 *
 * Started with the engine's mark in argv[0] it is the loader: one of its own execve calls got it here.
 */
#include "ptrace/i386.h"
#include "ptrace/ptrace.h"

#include "preload/eager.h"

#include <linux/auxvec.h>

#define EXIT_UDK 125

NORETURN void trap_start(long *stack);

/* Where the guard is told that another engine may do what this one cannot; 0: nobody asks. */
static int report;

/* Nothing of the payload has been executed. */
NORETURN static void unable(const char *text)
{
	if (report && sys_write(report, text, strlen(text)) > 0)
		sys_exit(EXIT_UDK);
	say(2, "udk: error: %s\n", text);
	sys_exit(EXIT_UDK);
}

NORETURN static void fail(const char *what, const char *name, long error)
{
	if (error)
		say(2, "udk: error: %s %s: %s\n", what, name, errno_text(error));
	else
		say(2, "udk: error: %s %s\n", what, name);
	sys_exit(EXIT_UDK);
}

static char description[256 * 1024];

static struct plan plan;
static bool nested;            /* inside a container of our own kind */
static uint32_t outer_options; /* that one's */

static void read_plan(int fd, bool partial)
{
	const char *error;
	ssize n;

	sys_lseek(fd, 0, SEEK_SET); /* a memfd's writer leaves it at the end; a pipe does not mind */
	n = read_full(fd, description, sizeof description);

	sys_close(fd);
	if (n < 0 || n == sizeof description)
		fail("the plan's description", "cannot be read", n < 0 ? n : 0);
	error = plan_parse(&plan, description, (size_t)n, partial);
	if (error)
		fail("the plan's description is wrong:", error, 0);
	if (plan.report && !sys_fcntl((int)plan.report, F_SETFD, FD_CLOEXEC))
		report = (int)plan.report;
}

static void make_plan(void)
{
	struct call c = { .core = &self.core };
	char state[LONGEST_HOST + 40];
	const char *what = "this engine";
	size_t at;
	long r;

	if (!(plan.options & OPT_PTRACE))
		plan.options |= OPT_SIGNALS;
	if (nested) {
		plan.options &= ~(uint32_t)OPT_KEPT; /* where that is kept is a path of the outer container's */
		r = plan.options & (OPT_PTRACE | OPT_EAGER) ? -ENOSYS : nested_plan(&self.core, &plan, &what);
		if (r)
			fail(r == -EXDEV ? "inside a container of the trap engine, this lies in both layers of it; give it a volume:"
					 : "inside a container of the trap engine:", what, r);
	}
	self.core.anchor = plan.options & OPT_IDENTITY ? (uint32_t)sys_getppid() : 0; /* of a nested one it was the outer one's */
	r = plan_inspect(&plan, &what);
	if (r)
		fail("the root directory", what, r);
	what = state;
	if (plan_path(&self.core, plan.strings + plan.state, state, sizeof state) >= sizeof state)
		fail("the state file", what, -ENAMETOOLONG);
	r = plan_map(&self.core, what, true);
	if (r)
		fail(r == -EFBIG ? "the limit of file sizes (ulimit -f) is too low for" : "the state file", what, r);
	at = PLAN_STRINGS - plan.strings_used; /* before that there is nothing */
	memcpy((char *)self.core.plan + at, (const char *)&plan + at, offsetof(struct plan, generation) - at);
	self.core.plan->generation = 1;
	r = plan_map_changes(&self.core, true);
	if (r)
		fail(r == -EFBIG ? "the limit of file sizes (ulimit -f) is too low for" : "the record of changes", plan.strings + plan.changes, r);
	r = owner_load_record(&self.core);
	if (r)
		fail("the image's record", plan.strings + plan.record, r);
	if (plan.lower_fd)
		sys_close((int)plan.lower_fd);
	if (plan.options & OPT_IDENTITY && self.core.changes)
		self.core.changes->seen_by_overlay = 1;
	self.core.plan->lower_fd = self.core.plan->record_fd = 0;
	c.w = slot_take();
	r = plan_place_mounts(&c, &what);
	if (r)
		fail("the mount at", what, r);
	slot_give(c.w);
}

static bool bare; /* identity, where filters are refused: the program runs as the kernel has it */

static long execute(struct call *c, const char *path, char **argv, char **envp)
{
	return bare ? sys_execve(path, argv, envp) : do_exec(c, AT_FDCWD, path, argv, envp, 0);
}

/* The command as the guest's PATH finds it. */
static long exec_command(char **argv, char **envp)
{
	const char *path = env_get(envp, "PATH");
	struct call c = { .core = &self.core, .w = slot_take() };
	long r = -ENOENT, seen = 0;
	static char full[GUEST_MAX];

	if (str_chr(argv[0], '/'))
		return execute(&c, argv[0], argv, envp);
	if (!path)
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	while (*path) {
		size_t n = 0;

		while (path[n] && path[n] != ':')
			n++;
		if (fmt(full, sizeof full, "%s", path) && n + strlen(argv[0]) + 2 < sizeof full) {
			str_copy(full + n, n ? "/" : "", 2);
			str_copy(full + strlen(full), argv[0], sizeof full - n - 1);
			r = execute(&c, full, argv, envp);
			if (r != -ENOENT && r != -ENOTDIR)
				seen = r;
		}
		path += n + (path[n] == ':');
	}
	return seen ? seen : r;
}

static void make_directories(struct call *c, const char *path)
{
	static char text[GUEST_MAX];
	size_t n = str_copy(text, path, sizeof text);

	for (size_t i = 1; i <= n && i < sizeof text; i++) {
		char end = text[i];

		if (end && end != '/')
			continue;
		text[i] = 0;
		c->nr = __NR_mkdirat;
		c->a[0] = (unsigned long)AT_FDCWD;
		c->a[1] = (unsigned long)text;
		c->a[2] = 0755;
		core_call(c);
		text[i] = end;
	}
}

/* From here on the calls of this process's programs come to us. */
static long intercept(struct plan *p, bool joins, const char **what)
{
	volatile int *every;
	long r;

	if (nested && !(p->options & ~outer_options & (OPT_FAKE_ROOT | OPT_OWNERS | OPT_NO_NETWORK)))
		return 0; /* the outer one's filter will do */
	filter_build(p);
	*what = "the system-call filter";
	if (!(p->options & OPT_PTRACE)) {
		if (!(self.core.plan->options & OPT_IDENTITY))
			notes_start();
		return filter_install();
	}
	*what = "ptrace";
	r = tracer_start(&every);
	if (r)
		return r;
	r = p->options & OPT_EVERY_CALL ? sys_prctl(38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0) : filter_install();
	if (r && !joins && !(p->options & OPT_ONLY_FILTER)) {
		p->options |= OPT_EVERY_CALL;
		r = 0;
	}
	if (!r && p->options & OPT_EVERY_CALL && p->options & OPT_NO_NETWORK)
		r = network_filter(p->options & OPT_I386); /* what the tracer would say is not a boundary */
	*what = "the system-call filter";
	*every = (p->options & OPT_EVERY_CALL) != 0;
	return r;
}

/* The kernel writes a core file to the working directory, without asking us: that may be the image's. */
static void no_core_files(void)
{
	const struct rlimit64 none = { 0, 0 };
	char pattern = 0;
	long fd = sys_open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC, 0);

	if (fd >= 0) {
		sys_read((int)fd, &pattern, 1);
		sys_close((int)fd);
	}
	if (pattern != '|' && pattern != '/')
		sys_prlimit(0, RLIMIT_CORE_, &none, NULL);
}

NORETURN static void run(char **argv, char **envp, bool joins)
{
	struct core *k = &self.core;
	const char *cwd = plan.strings + plan.cwd, *what;
	static char text[400];
	struct call c = { .core = k };
	long r;

	k->ids = (struct ids){ plan.uid, plan.uid, plan.uid, plan.uid, plan.gid, plan.gid, plan.gid, plan.gid, plan.n_groups, { 0 } };
	memcpy(k->ids.groups, plan.groups, sizeof plan.groups);
	own_memory_init();
	self.eager = k->plan->options & OPT_EAGER;
	if (self.eager) {
		notes_start();
		sys_prctl(38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0);
		r = k->plan->options & OPT_NO_NETWORK ? network_filter(false) : 0;
		if (r)
			unable("without a network it needs a system-call filter, which this node refuses");
	} else {
		r = intercept(k->plan, joins, &what);
	}
	if (r && k->plan->options & OPT_IDENTITY)
		bare = true;
	else if (r) {
		fmt(text, sizeof text, "this node refuses %s: %s", what, errno_text(r));
		unable(text);
	}
	if (k->plan->options & OPT_I386 && (r || !compat_works()))
		k->plan->options &= ~(uint32_t)OPT_I386;
	if ((k->plan->options & (OPT_I386 | OPT_LINUX32)) == (OPT_I386 | OPT_LINUX32))
		SC1(__NR_personality, 8 /* PER_LINUX32 */);
	if (!argv[0])
		fail("no command", "", 0);
	if (!(k->plan->options & OPT_IDENTITY))
		no_core_files();
	roots_open(k);
	c.w = slot_take();
	c.a[0] = (unsigned long)(*cwd ? cwd : "/");
	c.nr = __NR_chdir;
	r = core_call(&c);
	if (r == -ENOENT && *cwd) { /* as image builders expect, a missing working directory is made */
		make_directories(&c, cwd);
		c.a[0] = (unsigned long)cwd;
		c.nr = __NR_chdir;
		r = core_call(&c);
	}
	slot_give(c.w);
	if (r)
		fail("the working directory", cwd, r);
	self.refused = text;
	text[0] = 0;
	r = exec_command(argv, envp);
	if (text[0])
		unable(text);
	say(2, "udk: error: %s: %s\n", argv[0], r == -ENOEXEC ? "not a program for this machine" : errno_text(r));
	sys_exit(r == -ENOENT || r == -ENOTDIR ? 127 : 126);
}

/* ---- probe -------------------------------------------------------------------------------------------- */

/* Tries what the engine rests on, in this very process: a trap by the filter, and its answer. The instruction is
 * executed from outside of the exempt text. */
static void probe_plan(uint32_t options)
{
	plan.options = options;
	plan.n_mounts = 1;
	plan.mounts[0].flags = MOUNT_CACHE;
	plan.strings[0] = 0;
	str_copy(plan.strings + 1, "/proc", 16);
	plan.mounts[0].host = 1;
	plan.mounts[0].host_len = 5;
	plan.generation = 1;
	self.core.plan = &plan;
	self.fast_return = true;
	self.traced = options & OPT_PTRACE;
	self.every = options & OPT_EVERY_CALL;
	own_memory_init();
}

static int probe(uint32_t options)
{
	const unsigned long args[6] = { (unsigned long)AT_FDCWD, (unsigned long)"/self/stat" /* there only after translation */, 0, 0, 0, 0 };
	long (*outside)(long, const unsigned long *);
	const char *what;
	void *page;
	long r;

	probe_plan(options);
	signals_start();
	self.filter = 1;
	filter_start();
	self.filter = 0;
	page = sys_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error((long)page))
		return 1;
	memcpy(page, (void *)OUTSIDE, 64);
	__builtin___clear_cache((char *)page, (char *)page + 64);
	sys_mprotect(page, 4096, PROT_READ | PROT_EXEC);
	outside = (long (*)(long, const unsigned long *))(uintptr_t)page;
	r = intercept(&plan, false, &what);
	if (r) {
		say(2, "%s is refused: %s\n", what, errno_text(r));
		return 1;
	}
	if (self.every)
		step_out();
	r = outside(__NR_faccessat, args);
	if (r) {
		say(2, "a call came back wrong: %s\n", errno_text(r));
		return 1;
	}
	return 0;
}

/* The same with a tracer: in a child, so that nothing is left behind. */
static int probe_ptrace(uint32_t options)
{
	int status = 1, any;
	long child, r;

	sys_prctl(36 /* PR_SET_CHILD_SUBREAPER */, 1, 0, 0, 0);
	child = sys_fork();
	if (child == 0)
		sys_exit(probe(OPT_PTRACE | options));
	do {
		r = sys_wait4(-1, &any, 0, NULL);
		if (r == child)
			status = any;
	} while (r > 0 || r == -EINTR);
	return status != 0;
}

/* A command that joins may be quicker than the container's first, which makes the state. */
static long map_when_ready(const char *path)
{
	const ktimespec pause = { 0, 10000000 };
	struct stat st;
	long r = 0;

	for (int i = 0; i < 1000; i++) {
		r = sys_fstatat(AT_FDCWD, path, &st, 0);
		if (!r && (size_t)st.st_size >= sizeof(struct plan)) {
			r = plan_join(&self.core, path);
			if (!r && self.core.plan->ready)
				return 0;
		}
		if (r && r != -ENOENT && r != -EINVAL)
			return r;
		sys_nanosleep(&pause);
	}
	return r ? r : -ETIMEDOUT;
}

int main(int argc, char **argv, char **envp)
{
	uint64_t fd;

	if (argc == 2 && str_eq(argv[1], "probe"))
		return probe(OPT_FAST_RETURN | OPT_SIGNALS);
	if (argc == 2 && str_eq(argv[1], "probe-ptrace-1"))
		return probe_ptrace(OPT_ONLY_FILTER);
	if (argc == 2 && str_eq(argv[1], "probe-ptrace-2"))
		return probe_ptrace(OPT_EVERY_CALL);
	if (argc == 2 && str_eq(argv[1], "probe-i386"))
		return !compat_works(); /* or a fault */
	if (argc == 2 && str_eq(argv[1], "probe-code")) {
		probe_plan(OPT_FAST_RETURN | OPT_SIGNALS);
		return eager_probe();
	}
	if (argc >= 4 && str_eq(argv[1], "run") && parse_u64(argv[2], 10, &fd)) {
		read_plan((int)fd, false);
		make_plan();
		self.core.plan->ready = 1;
		run(argv + 3, envp, false);
	}
	if (argc >= 5 && str_eq(argv[1], "join") && parse_u64(argv[3], 10, &fd)) {
		long r;

		read_plan((int)fd, true);
		if (nested) {
			static char state[GUEST_MAX];
			str_copy(state, argv[2], sizeof state);
			r = nested_state(&self.core, state);
			if (r)
				fail("the container's state", state, r);
			nested_leave(&self.core);
			argv[2] = state;
		}
		r = map_when_ready(argv[2]);
		if (r)
			fail("the container's state", argv[2], r);
		run(argv + 4, envp, true);
	}
	say(2, "usage: udk-trap run FD COMMAND... | join STATE FD COMMAND... | probe...\n");
	return EXIT_UDK;
}

NORETURN void nested_main(int argc, char **argv, char **envp)
{
	nested = true;
	outer_options = self.core.plan->options;
	if (argc == 2 && str_starts(argv[1], "probe")) /* a trap brought us here */
		sys_exit(!str_eq(argv[1], "probe") || self.eager || self.traced);
	if (self.filter)
		fail("inside a container of the trap engine:", "a payload with a filter of its own cannot start another", -EPERM);
	sys_exit(main(argc, argv, envp));
}

NORETURN void trap_start(long *stack)
{
	char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1, **end = envp;

	while (*end)
		end++;
#if defined(__aarch64__)
	page_size = LARGEST_PAGE;
	for (unsigned long *pair = (unsigned long *)(end + 1); pair[0] != AT_NULL; pair += 2)
		if (pair[0] == AT_PAGESZ)
			page_size = pair[1];
#endif
	touch_memory(); /* before anything is written there */
	sys_auxv = (unsigned long *)(end + 1);
	if (stack[0] >= PREFIX && str_eq(argv[0], PREFIX_MARK))
		load((unsigned long *)stack);
	sys_exit(main((int)stack[0], argv, envp));
}

#if defined(__x86_64__)
__asm__(".text\n.globl _start\n_start:\n	xor %ebp, %ebp\n	mov %rsp, %rdi\n	and $-16, %rsp\n	call trap_start\n	hlt\n");
#else
__asm__(".text\n.globl _start\n_start:\n	mov x29, #0\n	mov x30, #0\n	mov x0, sp\n	bl trap_start\n	brk #1\n");
#endif
