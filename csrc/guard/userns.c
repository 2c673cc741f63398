#include "guard/userns.h"
#include "guard/guard.h"

bool userns_refused(long error, struct failure *f)
{
	switch (-error) {
	case ENOSPC:
	case EUSERS:
		return fail(f, FAIL_ENGINE, "no user namespace: the limit is reached; /proc/sys/user/max_user_namespaces may be 0");
	case EPERM:
	case EACCES:
		return fail(f, FAIL_ENGINE, "no user namespace: not permitted; kernel.unprivileged_userns_clone, a security module or an "
			    "outer container's seccomp profile may forbid it");
	case EINVAL:
	case ENOSYS:
		return fail(f, FAIL_ENGINE, "no user namespace: this kernel has none");
	case EAGAIN:
	case ENOMEM:
		return fail(f, FAIL_UDK, "the container's processes cannot be started: %s; the limit of processes (ulimit -u) or of memory "
			    "is reached", errno_text(error));
	default:
		return fail(f, FAIL_ENGINE, "no user namespace: %s", errno_text(error));
	}
}

/* Runs one of the tools and waits for it; what it says goes into the message. */
static bool run_tool(const char *tool, int pid, const struct id_map *maps, size_t n, char *const *envp, struct failure *f)
{
	static char words[3 * MAX_MAPS + 2][12];
	char *argv[3 * MAX_MAPS + 3], said[300];
	size_t argc = 0;
	int out[2], status = 0;
	long r = sys_pipe2(out, O_CLOEXEC), child;

	argv[argc++] = (char *)(uintptr_t)tool;
	fmt(words[0], sizeof words[0], "%d", pid);
	argv[argc++] = words[0];
	for (size_t i = 0; i < n; i++) {
		const uint32_t values[3] = { maps[i].inside, maps[i].outside, maps[i].count };
		for (int j = 0; j < 3; j++) {
			fmt(words[argc], sizeof words[0], "%u", values[j]);
			argv[argc] = words[argc];
			argc++;
		}
	}
	argv[argc] = NULL;
	child = r < 0 ? r : sys_fork();
	if (child == 0) {
		sigmask none = 0;
		sys_sigprocmask(SIG_SETMASK, &none, NULL);
		sys_dup3(out[1], 1, 0);
		sys_dup3(out[1], 2, 0);
		r = sys_execve(tool, argv, envp);
		say(1, "%s", errno_text(r));
		sys_exit(127);
	}
	if (child < 0)
		return fail(f, FAIL_UDK, "%s cannot be started: %s", tool, errno_text(child));
	sys_close(out[1]);
	ssize got = read_full(out[0], said, sizeof said - 1);
	said[MAX(got, 0)] = 0;
	for (char *p = said; *p; p++)
		if (*p == '\n')
			*p = p[1] ? ' ' : 0;
	sys_close(out[0]);
	do
		r = sys_wait4((int)child, &status, 0, NULL);
	while (r == -EINTR);
	if (status)
		return fail(f, FAIL_UDK, "subordinate ids cannot be mapped: %s%s%s; check /etc/subuid, /etc/subgid and that %s is set-uid or has "
			    "its capability", tool, *said ? ": " : "", said, tool);
	return true;
}

bool userns_map(const struct plan *p, int pid, char *const *envp, struct failure *f)
{
	return run_tool(p->map_tool_uid, pid, p->uids, p->n_uids, envp, f) &&
	       run_tool(p->map_tool_gid, pid, p->gids, p->n_gids, envp, f);
}

static bool remove_all(const struct plan *p, struct failure *f)
{
	bool ok = true;

	for (size_t i = 0; i < p->n_remove; i++) {
		long r = remove_tree(p->remove[i]);
		if (r < 0)
			ok = fail(f, FAIL_UDK, "%s cannot be removed: %s", p->remove[i], errno_text(r));
	}
	return ok;
}

bool userns_remove(const struct plan *p, char *const *envp, struct failure *f)
{
	int pair[2], status = 0;
	char go;

	if (!p->map_tool_uid || !p->n_remove)
		return remove_all(p, f);
	long r = sys_socketpair(1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, pair);
	long child = r < 0 ? r : sys_clone_flags(CLONE_NEWUSER | SIGCHLD);
	if (child == 0) {
		struct failure ours = { .text = "" };
		sys_close(pair[0]);
		if (read_some(pair[1], &go, 1) != 1 || sys_setresgid(0, 0, 0) < 0 || sys_setresuid(0, 0, 0) < 0)
			sys_exit(1);
		sys_exit(remove_all(p, &ours) ? 0 : 2);
	}
	if (child < 0)
		return userns_refused(child, f);
	sys_close(pair[1]);
	bool ok = userns_map(p, (int)child, envp, f);
	if (ok)
		write_all(pair[0], "g", 1);
	sys_close(pair[0]);
	do
		r = sys_wait4((int)child, &status, 0, NULL);
	while (r == -EINTR);
	return ok && (status ? fail(f, FAIL_UDK, "%s cannot be removed wholly", p->remove[0]) : true);
}
