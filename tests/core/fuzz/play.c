/* Plays a record: one system call of the guest, or an act of several. */
#undef UDK_CHECKED
#include "fuzz/play.h"

int slot[SLOTS], turn, watcher;
long (*make_call)(struct call *c) = world_call;
void (*next_run)(void);

long guest_call(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f)
{
	struct call it = { .nr = nr, .a = { a, b, c, d, e, f } };

	return make_call(&it);
}

int descriptor(unsigned i)
{
	return i < 6 ? AT_FDCWD : i < 6 + SLOTS ? slot[i - 6] : i == 12 ? -1 : i == 13 ? 0 : i == 14 ? watcher : 4000;
}

void keep_fd(long fd)
{
	if (fd < 0)
		return;
	if (fd <= 2) { /* these are open all the time */
		say(2, "the guest was given a descriptor that is not new: %ld%s\n", fd, sys_fcntl((int)fd, F_GETFL, 0) < 0 ? ", which is none" : "");
		finding();
	}
	if (slot[turn] >= 0)
		sys_close(slot[turn]);
	slot[turn] = (int)fd;
	turn = (turn + 1) % SLOTS;
}

/* ---- the calls: d e descriptors, p q paths, O A R flags, m M modes, ... -------------------------------- */

#define C(name, args) { __NR_##name, args }
const struct shape shapes[96] = {
	C(openat, "dpOm"), C(openat, "dpOm"), C(newfstatat, "dpsA"), C(statx, "dpAXs"), C(faccessat, "dpa"), C(faccessat2, "dpaA"),
	C(readlinkat, "dpsn"), C(statfs, "ps"), C(getdents64, "dsn"), C(getdents64, "dsN"), C(getcwd, "sn"), C(chdir, "p"), C(chroot, "p"),
	C(inotify_add_watch, "dpI"), C(mkdirat, "dpm"), C(mknodat, "dpMV"), C(unlinkat, "dpA"), C(symlinkat, "qdp"), C(linkat, "dpeqA"),
	C(renameat2, "dpeqR"), C(renameat, "dpeq"), C(fchmodat, "dpm"), C(fchmodat2, "dpmA"), C(fchmod, "dm"), C(fchownat, "dpijA"),
	C(fchown, "dij"), C(truncate, "pn"), C(utimensat, "dptA"), C(setxattr, "pxvnz"), C(lsetxattr, "pxvnz"), C(fsetxattr, "dxvnz"),
	C(getxattr, "pxsn"), C(lgetxattr, "pxsn"), C(listxattr, "psn"), C(llistxattr, "psn"), C(removexattr, "px"), C(lremovexattr, "px"),
	C(fremovexattr, "dx"), C(name_to_handle_at, "dps"), C(fstat, "ds"), C(openat2, "dphH"),
#ifdef __NR_open
	C(open, "pOm"), C(creat, "pm"), C(stat, "ps"), C(lstat, "ps"), C(access, "pa"), C(readlink, "psn"), C(mkdir, "pm"), C(mknod, "pMV"),
	C(rmdir, "p"), C(unlink, "p"), C(symlink, "qp"), C(link, "pq"), C(rename, "pq"), C(chmod, "pm"), C(chown, "pij"), C(lchown, "pij"),
	C(utime, "pt"), C(utimes, "pt"), C(futimesat, "dpt"),
#endif
	C(getresuid, "sss"), C(getresgid, "sss"), C(getgroups, "gs"), C(setuid, "i"), C(setgid, "i"), C(setreuid, "ij"), C(setregid, "ij"),
	C(setresuid, "ijk"), C(setresgid, "ijk"), C(setgroups, "gv"), C(setfsuid, "i"), C(setfsgid, "i"), C(capget, "cs"), C(capset, "cv"),
	C(uname, "s"), C(unshare, "U"), C(setns, "dz"), C(sethostname, "vn"), C(getuid, ""), C(geteuid, ""), C(getgid, ""), C(getegid, ""),
	C(mount, "pq"), C(clone3, "vn"), C(renameat2, "dpdqR"), C(fgetxattr, "dxsn"), C(flistxattr, "dsn"), C(name_to_handle_at, "dpswA"),
	{ 4000, "dp" }, { -3, "" }, C(capget, "c"), C(newfstatat, "dwsA"), C(uname, "b"), C(getresuid, "ssb"), C(kill, "KG"),
	C(rt_sigqueueinfo, "KGv"),
};

/* Others give 0 or an error. */
static bool gives_a_number(long nr)
{
	static const long all[] = {
		__NR_openat, __NR_openat2, __NR_readlinkat, __NR_getdents64, __NR_getcwd, __NR_inotify_add_watch, __NR_getxattr, __NR_lgetxattr,
		__NR_fgetxattr, __NR_listxattr, __NR_llistxattr, __NR_flistxattr, __NR_getgroups, __NR_setfsuid, __NR_setfsgid,
		__NR_getuid, __NR_geteuid, __NR_getgid, __NR_getegid,
#ifdef __NR_open
		__NR_open, __NR_creat, __NR_readlink,
#endif
	};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (nr == all[i])
			return true;
	return false;
}

static unsigned long ids(unsigned n)
{
	return ((const unsigned long[]){ 0, 0, 1000, 1000, 5, 7, 0xffffffff, 65534 })[n & 7];
}

static long one_call(const struct record *r, const struct shape *s)
{
	static const unsigned sizes[16] = { 0, 1, 4, 12, 16, 24, 32, 64, 144, 256, 300, 1024, 4096, 5000, 12000, 0x7fffffff };
	unsigned f = r->flags[0] | r->flags[1] << 8;
	struct call c = { .nr = s->nr };
	bool opens = false;
	long result;

	for (size_t i = 0; i < 64; i++)
		IN[i] = (char)(r->flags[i & 1] ^ r->q[i % 5] * i);
	for (int i = 0; s->args[i]; i++) {
		unsigned long v = 0;

		switch (s->args[i]) {
		case 'd': v = (unsigned long)(long)descriptor(r->fds & 15); break;
		case 'e': v = (unsigned long)(long)descriptor(r->fds >> 4); break;
		case 'p': v = r->misc & 0x80 ? 0 : words(guest, r->p, r->misc & 0x40); break;
		case 'q': v = words(guest + BUFFER / 2, r->q, false); break;
		case 'O': /* never wait for the other end of a pipe */
			opens = true;
			v = (f & 3) | (f & 4 ? O_CREAT : 0) | (f & 8 ? O_EXCL : 0) | (f & 16 ? O_TRUNC : 0) | (f & 32 ? O_APPEND : 0) |
			    (f & 64 ? O_NOFOLLOW : 0) | (f & 128 ? O_DIRECTORY : 0) | (f & 256 ? O_PATH : 0) |
			    ((f & 0xe00) == 0xe00 ? 020000000 | O_DIRECTORY : 0) | (f & 0x1000 ? O_CLOEXEC : 0) | O_NONBLOCK | O_NOCTTY;
			break;
		case 'A':
			v = (f & 1 ? 0x100 : 0) | (f & 2 ? 0x200 : 0) | (f & 4 ? 0x400 : 0) | (f & 8 ? 0x1000 : 0) | (f & 16 ? 0x800 : 0) |
			    ((f & 0xe0) == 0xe0 ? 0x8000 : 0);
			break;
		case 'R': v = (f & 7) | (f & 0xf0 ? 0 : f & 8); break;
		case 'I': v = 0x2 | (f & 1 ? 0x02000000 : 0); break;
		case 'X': v = 0x7ff | (f & 1 ? 0x800 : 0); break;
		case 'm': v = ((unsigned)r->mode << 3 | r->mode >> 5) & 07777; break;
		case 'a': v = r->mode & (r->mode & 0x80 ? 15 : 7); break;
		case 'M':
			v = (((unsigned)r->mode << 3) & 07770) |
			    ((const unsigned[]){ S_IFREG, S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK, S_IFDIR, 0, S_IFLNK })[f & 7];
			break;
		case 'V': v = f & 8 ? 0x103 : f; break;
		case 's': v = f & 0x8000 ? 8 : (unsigned long)(r->misc & 0x20 ? guest + GUEST_SIZE - 20 : OUT); break;
		case 'n': v = MIN(sizes[r->misc & 15], OUT_SIZE - 64); break;
		case 'N': v = OUT_SIZE - 64; break;
		case 'g': v = (unsigned long)((const int[]){ 0, 1, 2, 64, 65, 70000, -1, 3 })[r->mode & 7]; break;
		case 'i': v = ids(r->mode); break;
		case 'j': v = ids(r->mode >> 3); break;
		case 'k': v = ids(f); break;
		case 'x':
			v = (unsigned long)(OUT + OUT_SIZE - 60 - (r->misc & 0x10 ? 0 : 3));
			str_copy((char *)v, ((const char *const[]){ "user.x", "user.k", "security.capability", "user.overlay.opaque", "trusted.x",
								   "system.posix_acl_access", "", "user.", "user.udk.security.x", "security.x",
								   "security.selinux", "user.overlay.", "user.k", "u", "user.k", "user.k" })[f & 15], 60);
			break;
		case 'v': v = (unsigned long)IN; break;
		case 't':
			if (!(f & 0x100))
				break;
			memset(IN, 0, 64);
			IN[8] = IN[24] = (char)r->mode;
			IN[27] = (char)(f & 0x200 ? 0x3f : 0);
			IN[28] = (char)(f & 0x400 ? 0xff : 0);
			v = f & 0x800 ? 16 : (unsigned long)IN;
			break;
		case 'z': v = f & 0x40 ? f & 3 : 0; break;
		case 'c':
			*(uint32_t *)(void *)IN = ((const uint32_t[]){ 0x20080522, 0x19980330, 0x20071026, 1 })[r->mode & 3];
			((uint32_t *)(void *)IN)[1] = 0;
			v = (unsigned long)IN;
			break;
		case 'h': {
			struct open_how *how = (void *)IN;
			memset(how, 0, 64);
			how->flags = (f & 3) | (f & 4 ? O_CREAT : 0) | (f & 8 ? 1UL << 40 : 0) | O_NONBLOCK | O_NOCTTY;
			how->mode = f & 16 ? 0644 : f & 32 ? 0100644 : 0;
			how->flags |= (r->q[1] & 1 ? O_DIRECTORY : 0) | (r->q[1] & 2 ? O_PATH : 0) | (r->q[1] & 4 ? O_NOFOLLOW : 0) |
				      (r->q[1] & 8 ? O_EXCL : 0) | (r->q[1] & 16 ? O_TRUNC : 0);
			how->resolve = (f & 64 ? RESOLVE_BENEATH : 0) | (r->q[0] & 0x3f) | (r->q[0] & 0x40 ? 1 << 20 : 0);
			IN[sizeof *how] = (char)(f & 128);
			opens = true;
			v = f & 0x100 ? 8 : (unsigned long)how;
			break;
		}
		case 'H': v = ((const unsigned[]){ sizeof(struct open_how), 8, 32, 5000 })[f >> 9 & 3]; break;
		case 'w': /* a few bytes, which may be an empty path */
			v = (unsigned long)(IN + 100);
			IN[100] = 0;
			break;
		case 'K': v = (unsigned long)((const long[]){ -1, sys_getpid(), 1, 4000000, SC0(__NR_getppid), 0, -4000000, 7 })[r->mode & 7]; break;
		case 'G': v = (unsigned long)((const int[]){ 0, 18, 28, 9, 65, -1, 15, 0 })[f & 7]; break;
		case 'b': v = 8; break; /* nobody's memory */
		case 'U': v = f & 1 ? 0x10000000 : f & 2 ? 0x00020000 : f & 4 ? 0 : 0x200; break; /* CLONE_NEWUSER, NEWNS, FS */
		}
		c.a[i] = v;
	}
	result = make_call(&c);
	if (result > 0 && !gives_a_number(s->nr)) {
		say(2, "call %ld gives %ld\n", s->nr, result);
		finding();
	}
#ifdef __NR_creat
	opens |= s->nr == __NR_creat;
#endif
	if (opens)
		keep_fd(result);
	return result;
}

void play(const struct record *r)
{
	unsigned op = r->op & 127;
	int pair[2];

	if (op < ARRAY_LEN(shapes)) {
		if (shapes[op].args)
			one_call(r, &shapes[op]);
		return;
	}
	switch (op) {
	case WRITE_FILE: fill_file(r, true); break;
	case PUT: fill_file(r, false); break;
	case PROGRAM:
		world_program(descriptor(r->fds & 15), (void *)(r->misc & 0x80 ? 0 : words(guest, r->p, r->misc & 0x40)),
			      (r->flags[0] & 1 ? AT_EMPTY_PATH : 0) | (r->flags[0] & 2 ? AT_SYMLINK_NOFOLLOW : 0) | ((r->flags[0] & 0xfc) == 0xfc ? 1 : 0),
			      r->flags[1] & 1);
		break;
	case CLOSE: {
		int *s = &slot[r->misc % SLOTS];
		if (r->mode & 1) { /* whose it is not: core/roots.c; another of the guest's may come there */
			sys_close(ROOT_FD + (r->mode >> 1 & 1));
			long fd = r->mode & 4 && *s > 2 ? sys_fcntl(*s, F_DUPFD, ROOT_FD + (r->mode >> 1 & 1)) : -1;
			if (fd >= 0)
				note_drop(&world, (int)fd);
			keep_fd(fd);
			break;
		}
		if (*s >= 0)
			sys_close(*s);
		*s = -1;
		break;
	}
	case NAME_SOCKET: name_socket(r); break;
	case SEND: send_receive(r, true); break;
	case RECEIVE: send_receive(r, false); break;
	case PAIR:
		if (!SC4(__NR_socketpair, 1, (r->mode & 1 ? 1 : 2) | 04000, 0, pair)) {
			int on = 1;
			if (r->mode & 2)
				SC5(__NR_setsockopt, pair[1], 1, 16 /* SO_PASSCRED */, &on, sizeof on);
			keep_fd(pair[0]);
			keep_fd(pair[1]);
		}
		break;
	case LEAVE_ROOT:
		world.root_len = 0;
		world.root[0] = 0;
		break;
	case STREAM: { /* what the guest does with descriptors directly */
		int fd = descriptor(r->fds & 15);
		if (fd > 2) {
			sys_lseek(fd, r->flags[0] | (int64_t)r->flags[1] << 24, SEEK_SET);
			if (r->mode & 1) {
				note_hold(&world, AT_FDCWD);
				sys_fchdir(fd);
				note_drop(&world, AT_FDCWD);
			}
		}
		break;
	}
	case REMAIN: { /* another of the guest's descriptors for the same */
		int of = descriptor(r->fds & 15);
		long fd = of > 2 ? sys_fcntl(of, F_DUPFD, 3) : -1;
		if (fd >= 0)
			note_dup(&world, of, (int)fd);
		keep_fd(fd);
		break;
	}
	case NEXT_RUN:
		if (next_run)
			next_run();
		break;
	}
}

void play_failures(const uint8_t *h)
{
	static const long errors[16] = { -ENOSPC, -EIO, -EACCES, -EPERM, -EINVAL, -ENOSYS, -EINTR, -ENOMEM, -EROFS, -EXDEV, -ENOENT, -EEXIST,
					 -ELOOP, -EMFILE, -ESTALE, -EOPNOTSUPP };

	checked.fail_at = h[1];
	checked.fail_with = errors[h[2] & 15];
	checked.fail_every = h[2] & 0x80 ? 2 + h[3] : 0;
	checked.lacks = h[4] & h[5];
}

void play_start(void)
{
	for (int i = 0; i < SLOTS; i++)
		slot[i] = -1;
	turn = 0;
}

void play_end(void)
{
	for (int i = 0; i < SLOTS; i++)
		if (slot[i] >= 0)
			sys_close(slot[i]);
	play_start();
}
