/* libFuzzer: a byte string is a little program of calls with paths in it. Whatever it does, nothing but the upper
 * layer and the writable bind may be touched, and no sanitizer may complain.
 *
 * FUZZ_HOME names an empty directory. */
#include "hosted.h"

static struct core k;
static char lower_before[4096], lower_now[4096];
static const char *home;

/* Names, modes and sizes below lower/, in the order of the directory. */
static void survey(char *to, size_t size)
{
	char command[600];
	void *f;
	size_t n;

	snprintf(command, sizeof command, "cd %s/lower && find . -printf '%%p %%m %%s %%n %%T@\\n'", home);
	f = popen(command, "r");
	n = fread(to, 1, size - 1, f);
	to[n] = 0;
	pclose(f);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	home = getenv("FUZZ_HOME");
	if (!home)
		abort();
	hosted_start(&k, home, OPT_FAKE_ROOT | OPT_OWNERS);
	survey(lower_before, sizeof lower_before);
	return 0;
}

static char *text(const uint8_t **at, const uint8_t *end)
{
	static char buf[2][600];
	static int turn;
	char *to = buf[turn ^= 1];
	size_t n = 0;

	while (*at < end && **at && n < sizeof buf[0] - 1)
		to[n++] = (char)*(*at)++;
	to[n] = 0;
	*at += *at < end;
	return to;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned runs;
	const uint8_t *at = data, *end = data + size;
	static struct plan plan;
	struct stat st;
	char buf[256], space[512] = { 0 };
	long fd = -1;

	if (size && data[0] == 0xff) { /* a description, perhaps hostile */
		memset(&plan, 0, offsetof(struct plan, generation));
		plan_parse(&plan, (const char *)data + 1, size - 1, false);
		return 0;
	}
	for (int steps = 0; at < end && steps < 40; steps++) {
		unsigned what = *at++;
		unsigned long dfd = what & 0x80 && fd >= 0 ? (unsigned long)fd : (unsigned long)(long)AT_FDCWD;
		char *p = text(&at, end), *q = what % 16 > 10 ? text(&at, end) : p;
		struct work *w = malloc(sizeof *w);
		struct call c = { .core = &k, .w = w, .a = { dfd, (unsigned long)p } };
		long r;

		switch (what & 0x20 ? 16 + what % 16 : what % 16) {
		case 16: c.nr = __NR_statx, c.a[2] = what & 0x40 ? AT_SYMLINK_NOFOLLOW : 0, c.a[3] = 0x7ff, c.a[4] = (unsigned long)&space; break;
		case 17: c.nr = __NR_chdir, c.a[0] = (unsigned long)p; break;
		case 18: c.nr = __NR_getcwd, c.a[0] = (unsigned long)buf, c.a[1] = sizeof buf; break;
		case 19: c.nr = __NR_setresuid, c.a[0] = c.a[1] = c.a[2] = p[0] & 1; break;
		case 20: c.nr = __NR_setgroups, c.a[0] = 2, c.a[1] = (unsigned long)"abcdefgh"; break;
		case 21: c.nr = __NR_lsetxattr, c.a[0] = (unsigned long)p, c.a[1] = (unsigned long)"user.x", c.a[2] = c.a[0], c.a[3] = 1; break;
		case 22: c.nr = __NR_lgetxattr, c.a[0] = (unsigned long)p, c.a[1] = (unsigned long)"user.x", c.a[2] = (unsigned long)buf, c.a[3] = 16; break;
		case 23: c.nr = __NR_truncate, c.a[0] = (unsigned long)p, c.a[1] = 3; break;
		case 24: c.nr = __NR_fchmod, c.a[0] = (unsigned long)fd, c.a[1] = 0640; break;
		case 25: c.nr = __NR_fchown, c.a[0] = (unsigned long)fd, c.a[1] = c.a[2] = 7; break;
		case 26: case 27: { /* a socket by this name, and back */
			int s = (int)SC3(__NR_socket, 1, 2, 0);
			struct { uint16_t family; char name[108]; } u = { 1, { 0 } };
			uint32_t len = sizeof u;
			str_copy(u.name, p, sizeof u.name);
			hosted_call(&k, what & 1 ? __NR_connect : __NR_bind, (unsigned long)s, (unsigned long)&u, sizeof u, 0UL, 0UL, 0UL);
			hosted_call(&k, __NR_getsockname, (unsigned long)s, (unsigned long)&u, (unsigned long)&len, 0UL, 0UL, 0UL);
			sys_close(s);
			free(w);
			continue;
		}
		case 28: c.nr = __NR_uname, c.a[0] = (unsigned long)&space; break;
		case 29: case 30: c.w->n_fds = 0, find_program(&c, AT_FDCWD, p, 0, &w->program), free(w); continue;
		case 31: c.nr = __NR_capget, c.a[0] = (unsigned long)&space, c.a[1] = 0; break;
		case 0: c.nr = __NR_newfstatat, c.a[2] = (unsigned long)&st, c.a[3] = what & 0x40 ? AT_SYMLINK_NOFOLLOW : 0; break;
		case 1: c.nr = __NR_openat, c.a[2] = O_RDONLY | (what & 0x40 ? O_DIRECTORY : O_NONBLOCK); break;
		case 2: c.nr = __NR_openat, c.a[2] = O_WRONLY | O_CREAT | O_NONBLOCK | (what & 0x40 ? O_TRUNC : 0), c.a[3] = 0600; break;
		case 3: c.nr = __NR_mkdirat, c.a[2] = 0755; break;
		case 4: c.nr = __NR_unlinkat, c.a[2] = what & 0x40 ? AT_REMOVEDIR : 0; break;
		case 5: c.nr = __NR_readlinkat, c.a[2] = (unsigned long)buf, c.a[3] = sizeof buf; break;
		case 6: c.nr = __NR_fchmodat, c.a[2] = 04711; break;
		case 7: c.nr = __NR_fchownat, c.a[2] = 3, c.a[3] = 4, c.a[4] = AT_SYMLINK_NOFOLLOW; break;
		case 8: c.nr = __NR_getdents64, c.a[1] = (unsigned long)buf, c.a[2] = sizeof buf; break;
		case 9: c.nr = __NR_utimensat; break;
		case 10: c.nr = __NR_statfs, c.a[0] = (unsigned long)p, c.a[1] = (unsigned long)buf; break;
		case 11: c.nr = __NR_renameat2, c.a[2] = dfd, c.a[3] = (unsigned long)q, c.a[4] = what & 0x40 ? 1 : 0; break;
		case 12: c.nr = __NR_linkat, c.a[2] = dfd, c.a[3] = (unsigned long)q; break;
		case 13: c.nr = __NR_symlinkat, c.a[0] = (unsigned long)q, c.a[1] = dfd, c.a[2] = (unsigned long)p; break;
		case 14: c.nr = __NR_mknodat, c.a[2] = S_IFREG | 0600; break;
		default: c.nr = __NR_faccessat, c.a[2] = 6; break;
		}
		if ((strstr(p, "proc") || strstr(q, "proc")) && what % 32 != 0 && what % 32 != 1 && what % 32 != 5) { /* our own process is no guest's to change */
			free(w);
			continue;
		}
		r = core_call(&c);
		free(w);
		if (c.nr == __NR_openat && r >= 0) {
			if (fd >= 0)
				sys_close((int)fd);
			fd = r;
		}
	}
	if (fd >= 0)
		sys_close((int)fd);
	k.ids = (struct ids){ 0 };
	hosted_call(&k, __NR_chdir, (unsigned long)"/", 0UL, 0UL, 0UL, 0UL, 0UL);
	if (++runs % 2000 == 0) {
		survey(lower_now, sizeof lower_now);
		if (str_cmp(lower_before, lower_now))
			abort();
	}
	return 0;
}
