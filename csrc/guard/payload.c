#include "guard/guard.h"
#include "namespace/namespace.h"
#include <linux/capability.h>
#include <linux/elf.h>
#include <linux/prctl.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NORETURN static void give_up(const struct handover *h, const struct failure *f)
{
	message_send(h->socket, MSG_FAILED, (int)f->class, f->text, strlen(f->text) + 1, -1);
	sys_exit(f->class == FAIL_NOT_FOUND ? 127 : f->class == FAIL_NOT_EXECUTABLE ? 126 : 125);
}

/* The file is there, yet the kernel says ENOENT: what its first line or its ELF header names is not. */
static bool no_interpreter(const char *path, struct failure *f)
{
	char head[256];
	ssize n = read_file(AT_FDCWD, path, head, sizeof head);

	if (n > 2 && head[0] == '#' && head[1] == '!') {
		char *p = head + 2;
		while (*p == ' ' || *p == '\t')
			p++;
		p[MIN(strlen(p), (size_t)200)] = 0;
		for (char *q = p; *q; q++)
			if (*q == '\n' || *q == ' ' || *q == '\t' || *q == '\r') {
				if (*q == '\r')
					return fail(f, FAIL_NOT_FOUND, "exec: \"%s\": its first line ends with a carriage return; "
						    "convert the script to Unix line ends", path);
				*q = 0;
				break;
			}
		return fail(f, FAIL_NOT_FOUND, "exec: \"%s\": its interpreter %s is not in the image", path, p);
	}
	return fail(f, FAIL_NOT_FOUND, "exec: \"%s\": the program loader that it names is not in the image; it may be built for "
		    "another C library or architecture", path);
}

/* What execve of a path would say, as far as it is known beforehand. */
static long would_run(const char *path)
{
	union {
		char text[4096];
		Elf64_Ehdr elf;
	} head;
	struct stat st;
	long r = sys_fstatat(AT_FDCWD, path, &st, 0);
	char *end;

	if (r >= 0 && (st.st_mode & S_IFMT) != S_IFREG)
		return -EACCES;
	if (r >= 0)
		r = sys_faccessat(AT_FDCWD, path, X_OK);
	if (r >= 0)
		r = read_file(AT_FDCWD, path, head.text, sizeof head);
	if (r < 0)
		return r;
	if (r > 3 && head.text[0] == '#' && head.text[1] == '!') {
		char *name = head.text + 2;
		while (*name == ' ' || *name == '\t')
			name++;
		for (end = name; *end && *end != ' ' && *end != '\t' && *end != '\n';)
			end++;
		*end = 0;
		return *name ? sys_fstatat(AT_FDCWD, name, &st, 0) : -ENOEXEC;
	}
	if (r < (long)sizeof head.elf || memcmp(head.text, "\177ELF", 4))
		return -ENOEXEC;
	if (head.text[EI_CLASS] != ELFCLASS64 || head.elf.e_phentsize != sizeof(Elf64_Phdr))
		return 0;
	for (size_t i = 0; i < head.elf.e_phnum; i++) {
		size_t at = head.elf.e_phoff + i * sizeof(Elf64_Phdr);
		Elf64_Phdr ph;
		if (at + sizeof ph > (size_t)r)
			break;
		memcpy(&ph, head.text + at, sizeof ph);
		if (ph.p_type == PT_INTERP && ph.p_filesz && ph.p_offset + ph.p_filesz <= (size_t)r &&
		    !head.text[ph.p_offset + ph.p_filesz - 1])
			return sys_fstatat(AT_FDCWD, head.text + ph.p_offset, &st, 0);
	}
	return 0;
}

/* Executes path; on return f says why not. ENOENT of the file itself is left to the caller: true means "go on looking". */
static bool attempt(const char *path, struct plan *p, int loader, bool *denied, struct failure *f)
{
	struct stat st;
	long r = loader < 0 ? sys_execve(path, p->argv, p->env) : would_run(path);

	if (!r) { /* the loader finds it as we did */
		r = sys_execveat(loader, "", p->argv, p->env, AT_EMPTY_PATH);
		return fail(f, FAIL_ENGINE, "%s: %s", p->loader, errno_text(r));
	}

	switch (-r) {
	case ENOENT:
		if (sys_fstatat(AT_FDCWD, path, &st, 0) >= 0)
			return no_interpreter(path, f);
		return true;
	case ENOTDIR:
	case ELOOP:
	case ENAMETOOLONG:
		return true;
	case EACCES:
	case EPERM:
		*denied = true;
		return true;
	case ENOEXEC:
		return fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": exec format error; a script needs a #! line, a program must be built "
			    "for this machine's architecture", path);
	case E2BIG:
		return fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": the arguments and the environment are too long", path);
	default:
		return fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": %s", path, errno_text(r));
	}
}

static void execute(struct plan *p, int loader, struct failure *f)
{
	const char *name = p->argv[p->loader_words];
	const char *path = env_get(p->env, "PATH");
	bool denied = false;
	char full[PATH_SIZE];

	if (p->program) {
		if (!attempt(p->program, p, -1, &denied, f))
			return;
		fail(f, FAIL_ENGINE, "%s: cannot be executed", p->program);
		return;
	}
	if (!*name) {
		fail(f, FAIL_NOT_FOUND, "exec: \"\": the command is empty");
		return;
	}
	if (str_chr(name, '/')) {
		struct stat st;
		if (!attempt(name, p, loader, &denied, f))
			return;
		if (!denied)
			fail(f, FAIL_NOT_FOUND, "exec: \"%s\": no such file or directory in the image", name);
		else if (sys_fstatat(AT_FDCWD, name, &st, 0) >= 0 && (st.st_mode & S_IFMT) == S_IFDIR)
			fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": is a directory", name);
		else
			fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": permission denied", name);
		return;
	}
	if (!path)
		path = DEFAULT_PATH;
	for (;;) {
		size_t n = 0;
		while (path[n] && path[n] != ':')
			n++;
		/* an empty entry is the working directory, as in every shell */
		if (fmt(full, sizeof full, "%.*s%s%s", (int)n, path, n ? "/" : "", name) < sizeof full &&
		    !attempt(full, p, loader, &denied, f))
			return;
		if (!path[n])
			break;
		path += n + 1;
	}
	if (denied)
		fail(f, FAIL_NOT_EXECUTABLE, "exec: \"%s\": permission denied", name);
	else
		fail(f, FAIL_NOT_FOUND, "exec: \"%s\": executable file not found in $PATH of the image", name);
}

static bool standard_streams(const struct plan *p, const struct handover *h, struct failure *f)
{
	long r = 0;

	if (p->gate) {
		r = gate_silence(p->gate_log);
	} else if (h->tty >= 0) {
		r = sys_setsid();
		if (r >= 0)
			r = sys_ioctl(h->tty, TIOCSCTTY, NULL);
		for (int fd = 0; fd < 3 && r >= 0; fd++)
			r = h->tty == fd ? sys_fcntl(fd, F_SETFD, 0) : sys_dup3(h->tty, fd, 0);
	} else if (p->null_stdin) {
		r = sys_open("/dev/null", O_RDONLY | O_CLOEXEC, 0);
		if (r > 0)
			r = sys_dup3((int)r, 0, 0);
		else if (r == 0)
			r = sys_fcntl(0, F_SETFD, 0);
		if (r == -ENOENT) { /* an image without /dev: closed is what is left */
			sys_close(0);
			r = 0;
		}
	}
	return r < 0 ? fail(f, FAIL_UDK, "the standard streams cannot be set up: %s", errno_text(r)) : true;
}

static bool limits(const struct plan *p, const struct handover *h, struct failure *f)
{
	sys_prlimit(0, RLIMIT_NOFILE, &h->files, NULL);
	for (size_t i = 0; i < p->n_limits; i++) {
		struct rlimit64 new = { p->limits[i].soft, p->limits[i].hard };
		long r = sys_prlimit(0, p->limits[i].what, &new, NULL);
		if (r == -EPERM)
			return fail(f, FAIL_UDK, "a resource limit (--ulimit) is above the hard limit that this job has");
		if (r < 0)
			return fail(f, FAIL_UDK, "a resource limit (--ulimit) is refused: %s", errno_text(r));
	}
	return true;
}

/* Who the payload is. With one mapped id the mapping itself says so, and setgroups is denied by the kernel. */
static bool identity(const struct plan *p, struct failure *f)
{
	long r = 0;

	if (!p->set_ids)
		return true;
	r = sys_setgroups(p->n_groups, p->groups);
	if (r >= 0)
		r = sys_setresgid(p->gid, p->gid, p->gid);
	if (r >= 0)
		r = sys_setresuid(p->uid, p->uid, p->uid);
	if (r == -EINVAL)
		return fail(f, FAIL_UDK, "user %u:%u is outside of the subordinate ids; more of them are needed in /etc/subuid and "
			    "/etc/subgid", p->uid, p->gid);
	return r < 0 ? fail(f, FAIL_UDK, "user %u:%u cannot be set: %s", p->uid, p->gid, errno_text(r)) : true;
}

static void privileges(const struct plan *p)
{
	if (p->through) { /* another runtime may have left what survives the exec */
		struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
		struct __user_cap_data_struct data[2];
		sys_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
		if (sys_capget(&header, data) >= 0) {
			data[0].inheritable = data[1].inheritable = 0;
			sys_capset(&header, data);
		}
	}
	if (p->clone_flags & CLONE_NEWUSER || p->join || p->through)
		for (int cap = 0; cap < 64; cap++)
			if (!(p->keep_caps >> cap & 1) && sys_prctl(PR_CAPBSET_DROP, (unsigned long)cap, 0, 0, 0) == -EINVAL)
				break; /* past the last one this kernel has */
	if (!p->new_privileges)
		sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

void payload_main(struct plan *p, const struct handover *h)
{
	struct failure f = { .class = FAIL_UDK };
	long r = 0;

	/* Before any namespace is entered: /dev/null of the host is certain. */
	if (!standard_streams(p, h, &f) || (h->join && !ns_join_payload(h->join, &f)) || !limits(p, h, &f))
		give_up(h, &f);
	/* Directories that only the container's root may enter are entered as root. */
	if (!p->program && (r = sys_chdir(p->cwd)) < 0) {
		fail(&f, r == -ENOENT || r == -ENOTDIR ? FAIL_NOT_FOUND : FAIL_NOT_EXECUTABLE, "working directory %s: %s", p->cwd,
		     errno_text(r));
		give_up(h, &f);
	}
	/* No new privileges, or still root of the user namespace: either allows a filter. */
	if (!p->new_privileges)
		privileges(p);
	if (h->shares_terminal)
		forbid_typing();
	if (!confine(p, h->tty >= 0 ? 0 : -1, &f))
		give_up(h, &f);
	if (p->new_privileges)
		privileges(p);
	if (!identity(p, &f))
		give_up(h, &f);
	/* After the ids: a change of ids clears it. */
	if (!h->pid_namespace)
		sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	sys_umask(h->umask);
	for (int sig = 1; sig <= 64; sig++)
		if (p->default_signals & SIGBIT(sig))
			sys_signal_default(sig, false);
		else if (p->ignored_signals & SIGBIT(sig) && !p->gate) /* of another runtime the payload is no child of ours */
			sys_signal_default(sig, true);
	if (p->report_pipe >= 0)
		sys_dup3(p->report_pipe, p->report, 0);
	if (!confine_descriptors(p, &f))
		give_up(h, &f);
	sys_sigprocmask(SIG_SETMASK, &p->signals, NULL);
	execute(p, h->loader, &f);
	give_up(h, &f);
}
