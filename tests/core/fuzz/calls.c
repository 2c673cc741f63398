/* libFuzzer: an input is a container's options and a sequence of its system calls, in records of 16 bytes:
 *
 *   header   variant, failures: after how many calls, which, again after; what the kernel lacks; root, ids, 0
 *   record   call, descriptors (two nibbles), flags (2), mode, misc, first path (5), second path (5)
 *
 * A path is up to five names out of a list. Whatever it does, checked.c must have no objection, no sanitizer may
 * complain and no descriptor may be left open. */
#undef UDK_CHECKED
#include "fuzz/world.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t an, const uint8_t *b, size_t bn, uint8_t *out, size_t max, unsigned seed);

#define RECORD 16
#define MAX_RECORDS 40
#define SLOTS 6
#define IN (guest + BUFFER)
#define OUT (guest + 2 * BUFFER)
#define OUT_SIZE (GUEST_SIZE - 2 * BUFFER)

struct record {
	uint8_t op, fds, flags[2], mode, misc, p[5], q[5];
};

static int slot[SLOTS], turn, watcher;

static const char *const names[64] = {
	"", "a", "b", "f", "etc", "passwd", "up", "link", "loop", "dangling", "host", "two", "x", "sub", "script", "elf", /* 0 */
	"mnt", "file", "proc", "fproc", "self", "7", "exe", "cwd", "root", "fd", "0", "1", "3", "4", "5", "maps",         /* 16 */
	"smaps", "mounts", "mountinfo", "task", "map_files", ".", "..", "tmp", "many", "ro", "n", "m", "l", "sock", "fifo", ".wh.f", /* 32 */
	".wh.", "ld.so", "with space", "new\nline", "6", "8", "9", NULL, NULL, NULL, NULL, "etc/../a", "...", "fdinfo", "self", "mnt2", /* 48 */
};

static size_t name_of(unsigned i, char *to)
{
	if (names[i])
		return str_copy(to, names[i], 300);
	switch (i) {
	case 55: memset(to, 'x', 255); return 255;
	case 56: memset(to, 'x', 256); return 256;
	case 57: memset(to, 'y', 252); return 252;
	default: /* the deep chain of the lower tree */
		for (int k = 0; k < 19; k++) {
			memset(to + k * 201, 'n', 200);
			to[k * 201 + 200] = '/';
		}
		return 19 * 201 - 1;
	}
}

/* Bits 0 to 5 are the name; bit 7 of the first makes it absolute, of others a second slash; bit 6 of the last ends
 * it with a slash. */
static unsigned long path(char *to, const uint8_t p[5], bool bad)
{
	char text[24000];
	size_t n = 0;
	unsigned long at;

	if (p[0] & 0x80)
		text[n++] = '/';
	for (int i = 0; i < 5 && p[i]; i++) {
		if (i)
			text[n++] = '/';
		if (i && p[i] & 0x80)
			text[n++] = '/';
		n += name_of(p[i] & 63, text + n);
		if ((i == 4 || !p[i + 1]) && p[i] & 0x40)
			text[n++] = '/';
	}
	text[n] = 0;
	if (bad) { /* it ends where the guest's memory does */
		at = (unsigned long)(guest + GUEST_SIZE) - n;
		memcpy((void *)at, text, n);
		return at;
	}
	memcpy(to, text, MIN(n + 1, BUFFER / 2));
	to[BUFFER / 2 - 1] = 0;
	return (unsigned long)to;
}

static int descriptor(unsigned i)
{
	return i < 6 ? AT_FDCWD : i < 6 + SLOTS ? slot[i - 6] : i == 12 ? -1 : i == 13 ? 0 : i == 14 ? watcher : 4000;
}

static void keep(long fd)
{
	if (fd < 0)
		return;
	if (slot[turn] >= 0)
		sys_close(slot[turn]);
	slot[turn] = (int)fd;
	turn = (turn + 1) % SLOTS;
}

/* ---- the calls: d e descriptors, p q paths, O A R flags, m M modes, ... -------------------------------- */

struct shape {
	long nr;
	const char *args;
};

#define C(name, args) { __NR_##name, args }
static const struct shape shapes[96] = {
	C(openat, "dpOm"), C(openat, "dpOm"), C(newfstatat, "dpsA"), C(statx, "dpAXs"), C(faccessat, "dpm"), C(faccessat2, "dpmA"),
	C(readlinkat, "dpsn"), C(statfs, "ps"), C(getdents64, "dsn"), C(getdents64, "dsN"), C(getcwd, "sn"), C(chdir, "p"), C(chroot, "p"),
	C(inotify_add_watch, "dpI"), C(mkdirat, "dpm"), C(mknodat, "dpMV"), C(unlinkat, "dpA"), C(symlinkat, "qdp"), C(linkat, "dpeqA"),
	C(renameat2, "dpeqR"), C(renameat, "dpeq"), C(fchmodat, "dpm"), C(fchmodat2, "dpmA"), C(fchmod, "dm"), C(fchownat, "dpijA"),
	C(fchown, "dij"), C(truncate, "pn"), C(utimensat, "dptA"), C(setxattr, "pxvnz"), C(lsetxattr, "pxvnz"), C(fsetxattr, "dxvnz"),
	C(getxattr, "pxsn"), C(lgetxattr, "pxsn"), C(listxattr, "psn"), C(llistxattr, "psn"), C(removexattr, "px"), C(lremovexattr, "px"),
	C(fremovexattr, "dx"), C(name_to_handle_at, "dps"), C(fstat, "ds"), C(openat2, "dphH"),
#ifdef __NR_open
	C(open, "pOm"), C(creat, "pm"), C(stat, "ps"), C(lstat, "ps"), C(access, "pm"), C(readlink, "psn"), C(mkdir, "pm"), C(mknod, "pMV"),
	C(rmdir, "p"), C(unlink, "p"), C(symlink, "qp"), C(link, "pq"), C(rename, "pq"), C(chmod, "pm"), C(chown, "pij"), C(lchown, "pij"),
	C(utime, "pt"), C(utimes, "pt"), C(futimesat, "dpt"),
#endif
	C(getresuid, "sss"), C(getresgid, "sss"), C(getgroups, "gs"), C(setuid, "i"), C(setgid, "i"), C(setreuid, "ij"), C(setregid, "ij"),
	C(setresuid, "ijk"), C(setresgid, "ijk"), C(setgroups, "gv"), C(setfsuid, "i"), C(setfsgid, "i"), C(capget, "cs"), C(capset, "cv"),
	C(uname, "s"), C(unshare, "U"), C(setns, "dz"), C(sethostname, "vn"), C(getuid, ""), C(geteuid, ""), C(getgid, ""), C(getegid, ""),
	C(mount, "pq"), C(clone3, "vn"), C(renameat2, "dpdqR"),
};

/* From here on an op is no single call. */
enum { WRITE_FILE = 96, PROGRAM, CLOSE, NAME_SOCKET, SEND, RECEIVE, PAIR, LEAVE_ROOT, PUT, STREAM };

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
		case 'p': v = r->misc & 0x80 ? 0 : path(guest, r->p, r->misc & 0x40); break;
		case 'q': v = path(guest + BUFFER / 2, r->q, false); break;
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
								   "system.posix_acl_access", "", "user." })[f & 7], 60);
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
			how->resolve = f & 64 ? RESOLVE_BENEATH : 0;
			IN[sizeof *how] = (char)(f & 128);
			opens = true;
			v = f & 0x100 ? 8 : (unsigned long)how;
			break;
		}
		case 'H': v = ((const unsigned[]){ sizeof(struct open_how), 8, 32, 5000 })[f >> 9 & 3]; break;
		case 'U': v = f & 1 ? 0x10000000 : f & 2 ? 0x00020000 : 0x200; break; /* CLONE_NEWUSER, NEWNS, FS */
		}
		c.a[i] = v;
	}
	if (s->nr == __NR_unshare && c.a[0] == 0x200)
		return 0;
	result = world_call(&c);
#ifdef __NR_creat
	opens |= s->nr == __NR_creat;
#endif
	if (opens)
		keep(result);
	return result;
}

static long call(long nr, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f)
{
	struct call it = { .nr = nr, .a = { a, b, c, d, e, f } };

	return world_call(&it);
}

/* What files may hold that the core reads. */
static void fill_file(const struct record *r, bool new_name)
{
	static const char *const texts[] = { "#!/elf", "#! /a/b/ld.so  -x y \n", "#!script\n", "#!\n", "#!  \n", "\177ELF", "", "#!/n\n" };
	unsigned long p = path(guest, r->p, false);
	long fd = call(__NR_openat, (unsigned long)(long)descriptor(r->fds & 15), p, O_WRONLY | O_TRUNC | O_NONBLOCK | (new_name ? O_CREAT : 0), 0755, 0, 0);
	unsigned what = r->mode & 15;
	char text[700];

	if (fd < 0)
		return;
	if (what < ARRAY_LEN(texts)) {
		str_copy(text, texts[what], sizeof text);
		if (what == 7) { /* a name longer than the kernel looks */
			memset(text + 3, 'i', 400);
			text[r->misc + 100] = r->flags[0] & 1 ? ' ' : '\n';
			text[403] = 0;
		}
		sys_write((int)fd, text, strlen(text));
	} else {
		struct { uint8_t ident[16]; uint16_t type, machine; uint32_t version; uint64_t entry, phoff, shoff; uint32_t flags;
			 uint16_t ehsize, phentsize, phnum, a, b, c; uint32_t ptype, pflags; uint64_t offset, vaddr, paddr, filesz, memsz, align;
			 char name[16]; } e = { .ident = "\177ELF\2\1\1", .type = 3, .machine = 62, .phoff = 64, .phentsize = 56, .phnum = 1, .ptype = 3,
						.offset = 120, .filesz = 11, .name = "/a/b/ld.so" };
		if (what & 1)
			e.phoff = r->misc, e.filesz = r->flags[0];
		if (what & 2)
			e.phnum = r->flags[1], e.offset = r->q[0] * 256UL;
		if (what & 4)
			e.ident[4] = r->q[1] & 3, e.type = r->q[2] & 3;
		sys_write((int)fd, &e, what == 8 ? 40 : sizeof e);
	}
	sys_close((int)fd);
}

struct name {
	uint16_t family;
	char path[128];
};

static uint32_t make_name(const struct record *r, struct name *to)
{
	unsigned long p = path(guest, r->p, false);
	size_t n = strlen((char *)p);

	memset(to, 0, sizeof *to);
	to->family = r->misc & 8 ? 2 : 1;
	memcpy(to->path, (char *)p, MIN(n, 108));
	if (r->misc & 16)
		to->path[0] = 0;
	return (uint32_t)(r->misc & 32 ? 110 : 2 + MIN(n + !(r->misc & 4), 108));
}

static void name_socket(const struct record *r)
{
	struct name *u = (void *)IN;
	uint32_t len = make_name(r, u), *room = (void *)(IN + 200);
	long s = SC3(__NR_socket, 1, (r->mode & 1 ? 1 : 2) | 04000, 0), other = descriptor(r->fds & 15);
	static const long getters[] = { __NR_getsockname, __NR_getpeername, __NR_accept, __NR_accept4 };

	*room = r->flags[0];
	if (r->mode & 2)
		call(__NR_connect, (unsigned long)s, (unsigned long)u, len, 0, 0, 0);
	else if (!call(__NR_bind, (unsigned long)s, (unsigned long)u, len, 0, 0, 0) && r->mode & 1)
		SC2(__NR_listen, s, 3);
	for (int i = 0; i < 4; i++) {
		long got = call(getters[i], (unsigned long)(i < 2 ? s : other), r->mode & 4 ? 0 : (unsigned long)u, r->mode & 8 ? 1 : (unsigned long)room, 0, 0, 0);
		if (i >= 2)
			keep(got);
		*room = r->mode & 16 ? 0xffffffff : r->flags[1];
	}
	keep(s);
}

/* A message with a name and control data, as the guest lays it out. */
static struct kmsghdr *message(const struct record *r, bool out)
{
	struct kmsghdr *m = (void *)(IN + 1024);
	struct kiovec *v = (void *)(IN + 2048);
	struct { size_t length; int level, type; uint32_t data[3], pad; } *control = (void *)(IN + 4096);

	memset(m, 0, 2048);
	v->base = OUT;
	v->length = r->flags[0];
	m->iov = v;
	m->iov_length = 1;
	if (r->misc & 1) {
		m->name = IN;
		m->name_length = out ? (int)make_name(r, (void *)IN) : (int)r->flags[1];
	}
	if (r->mode & 1) {
		m->control = control;
		m->control_length = r->mode & 2 ? sizeof *control * 2 : r->mode >> 2;
		for (int i = 0; i < 2; i++) {
			control[i].length = r->mode & 4 && i ? r->q[0] : sizeof *control - 4;
			control[i].level = 1;
			control[i].type = 2 + (r->mode >> 3 & 1 & i);
			control[i].data[0] = (uint32_t)sys_getpid();
			control[i].data[1] = control[i].data[2] = r->q[1];
		}
	}
	if (r->mode & 0x80)
		m->control = (void *)16;
	return m;
}

static void send_receive(const struct record *r, bool out)
{
	unsigned long fd = (unsigned long)(long)descriptor(r->fds & 15);
	struct kmsghdr *m = message(r, out), *at = r->misc & 0x80 ? (void *)24 : m;
	uint32_t *len = (void *)(IN + 300);

	if (out) {
		call(__NR_sendmsg, fd, (unsigned long)at, 0x4040, 0, 0, 0);
		call(__NR_sendmmsg, fd, (unsigned long)at, r->q[2] & 3, 0x4040, 0, 0);
		call(__NR_sendto, fd, (unsigned long)OUT, r->flags[0], 0x4040, (unsigned long)m->name, (unsigned long)m->name_length);
		return;
	}
	*len = r->flags[1];
	call(__NR_recvfrom, fd, (unsigned long)OUT, r->flags[0], 0x40 | (r->q[3] & 2), (unsigned long)m->name, (unsigned long)len);
	call(__NR_recvmsg, fd, (unsigned long)at, 0x40000040 | (r->q[3] & 2), 0, 0, 0);
	message(r, out);
	call(__NR_recvmmsg, fd, (unsigned long)at, 1 + (r->q[2] & 1), 0x40000040, 0, 0);
	*len = r->flags[1] & 15;
	call(__NR_getsockopt, fd, 1, r->q[2] & 4 ? 3 : 17, (unsigned long)OUT, (unsigned long)len, 0);
}

static void step(const struct record *r)
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
		world_program(descriptor(r->fds & 15), (void *)(r->misc & 0x80 ? 0 : path(guest, r->p, r->misc & 0x40)),
			      (r->flags[0] & 1 ? AT_EMPTY_PATH : 0) | (r->flags[0] & 2 ? AT_SYMLINK_NOFOLLOW : 0) | ((r->flags[0] & 0xfc) == 0xfc ? 1 : 0));
		break;
	case CLOSE: {
		int *s = &slot[r->misc % SLOTS];
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
			keep(pair[0]);
			keep(pair[1]);
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
			if (r->mode & 1)
				sys_fchdir(fd);
		}
		break;
	}
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	watcher = (int)SC1(__NR_inotify_init1, 0);
	world_start();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const long errors[16] = { -ENOSPC, -EIO, -EACCES, -EPERM, -EINVAL, -ENOSYS, -EINTR, -ENOMEM, -EROFS, -EXDEV, -ENOENT, -EEXIST,
					 -ELOOP, -EMFILE, -ESTALE, -EOPNOTSUPP };
	const struct record *r;

	if (size < 8)
		return 0;
	for (int i = 0; i < SLOTS; i++)
		slot[i] = -1;
	turn = 0;
	world_enter(data[0]);
	checked.fail_at = data[1];
	checked.fail_with = errors[data[2] & 15];
	checked.fail_every = data[2] & 0x80 ? 2 + data[3] : 0;
	checked.lacks = data[4] & data[5];
	for (size_t at = 8, n = 0; at + RECORD <= size && n < MAX_RECORDS; at += RECORD, n++) {
		r = (const void *)(data + at);
		step(r);
	}
	for (int i = 0; i < SLOTS; i++)
		if (slot[i] >= 0)
			sys_close(slot[i]);
	world_leave();
	return 0;
}

/* ---- what chance alone would take long to write -------------------------------------------------------- */

static const char *const paths[] = {
	"/proc/self/maps", "/proc/self/smaps", "/proc/self/mounts", "/proc/self/mountinfo", "/proc/self/exe", "/proc/self/cwd",
	"/proc/self/cwd/x", "/proc/self/root/etc/passwd", "/proc/self/fd/4", "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/5/x",
	"/proc/self/fd", "/proc/self", "/proc/1/exe", "/fproc/7/exe", "/fproc/7/cwd", "/fproc/7/root", "/fproc/7/fd/0", "/fproc/7/fd/1",
	"/fproc/7/fd/3", "/fproc/7/fd/4/b", "/fproc/7/map_files/1", "/fproc/7/task/7/exe", "/fproc/7/task/7/cwd", "/fproc/7/maps",
	"/fproc/7/smaps", "/fproc/7/mounts", "/fproc/7/mountinfo", "/fproc/self/exe", "/script", "/elf", "/two/script", "/a/b/ld.so", "/many",
	"/many/x", "/n", "/n/up", "/n/up/..", "/n/b", "/n/b/x", "/a/b", "/a/b/self/self", "/a/up/passwd", "/link/ro/x", "/mnt/sub/x", "/mnt/x", "/mnt/file",
	"/two", "/two/x", "/two/sub", "/tmp/x", "/tmp/sock", "/", "..", "../..", ".", "a/..", "x", "b", "self/x", "/host/x", "/dangling", "/loop/x",
	"/two/..", "/..", "/a/f", "/etc/passwd", "/file", "/link", "/tmp", "/a", "/proc/self/fd/4/..", "/a/b/x", "/tmp/x/../..", "/mnt2/x", "",
};

static void encode(const char *text, uint8_t to[5])
{
	bool absolute = text[0] == '/';

	memset(to, 0, 5);
	if (str_eq(text, "/"))
		to[0] = 0x80 | 37;
	for (int i = 0; i < 5 && *text; i++) {
		size_t n = 0;
		text += *text == '/';
		while (text[n] && text[n] != '/')
			n++;
		for (unsigned k = 1; k < ARRAY_LEN(names); k++)
			if (n && (names[k] ? strlen(names[k]) == n && !memcmp(names[k], text, n) : k == 58 && n == 1 && *text == 'n'))
				to[i] = (uint8_t)k;
		text += n;
	}
	if (absolute)
		to[0] |= 0x80;
}

struct scene { /* a record in words */
	long nr; /* or an op */
	const char *p, *q;
	uint16_t flags;
	uint8_t fds, mode, misc;
};
#define END { -1, "", "", 0, 0, 0, 0 }
#define S(name, ...) { __NR_##name, __VA_ARGS__ }
#define ACT(op, ...) { -(op), __VA_ARGS__ }
#define FD(n) (6 + (n))

static const struct scene scenes[][8] = {
	{ S(mkdirat, "/tmp/x", "", 0, 0, 0x3f, 0), S(chdir, "/tmp/x", "", 0, 0, 0, 0), S(unlinkat, "/tmp/x", "", 2, 0, 0, 0),
	  S(newfstatat, "../../../..", "", 0, 0, 0, 0), S(openat, "../../a/f", "", 0, 0, 0, 0), S(getcwd, "", "", 0, 0, 0, 11), END },
	{ S(chdir, "/n", "", 0, 0, 0, 0), S(newfstatat, "up", "", 0, 0, 0, 0), S(openat, "x", "", 4, 0, 0x80, 0), S(mkdirat, "b/x", "", 0, 0, 0x3f, 0),
	  S(chdir, "b", "", 0, 0, 0, 0), S(openat, "../up/ld.so", "", 0, 0, 0, 0), S(truncate, "/n/x", "", 0, 0, 0, 2), END },
	{ S(openat, "/many/x", "", 0x1006, 0, 0x80, 0), S(openat, "/many", "", 0x80, 0, 0, 0), S(getdents64, "", "", 0, FD(1), 0, 9),
	  S(getdents64, "", "", 0, FD(1), 0, 11), S(getdents64, "", "", 0, FD(1), 0, 14), S(getdents64, "", "", 0, FD(1), 0, 14), END },
	{ ACT(WRITE_FILE, "/tmp/x", "", 0, 0, 1, 0), ACT(PROGRAM, "/tmp/x", "", 0, 0, 0, 0), S(openat, "/tmp/x", "", 0, 0, 0, 0),
	  ACT(PROGRAM, "", "", 1, FD(0), 0, 0), ACT(PROGRAM, "/proc/self/fd/5", "", 0, 0, 0, 0), END },
	{ ACT(NAME_SOCKET, "/tmp/sock", "", 0xffff, 0, 1, 0), ACT(NAME_SOCKET, "/tmp/sock", "", 0xffff, 0, 3, 0), ACT(SEND, "/tmp/sock", "", 9, FD(1), 7, 1),
	  ACT(RECEIVE, "", "", 0xffff, FD(0), 7, 1), ACT(PAIR, "", "", 0, 0, 2, 0), ACT(SEND, "", "", 9, FD(2), 7, 0), ACT(RECEIVE, "", "", 0xffff, FD(3), 7, 0), END },
	{ S(chroot, "/a", "", 0, 0, 0, 0), S(newfstatat, "/../../b", "", 0, 0, 0, 0), S(chdir, "/b", "", 0, 0, 0, 0), S(getcwd, "", "", 0, 0, 0, 11),
	  S(openat, "/up/passwd", "", 0, 0, 0, 0), S(openat, "/b/ld.so", "", 2, 0, 0, 0), ACT(LEAVE_ROOT, "", "", 0, 0, 0, 0), END },
	{ S(unlinkat, "/two/x", "", 0, 0, 0, 0), S(unlinkat, "/two/sub", "", 2, 0, 0, 0), S(unlinkat, "/two/script", "", 0, 0, 0, 0),
	  S(unlinkat, "/two", "", 2, 0, 0, 0), S(mkdirat, "/two", "", 0, 0, 0x3f, 0), S(mkdirat, "/two/sub", "", 0, 0, 0x3f, 0),
	  S(renameat2, "/two", "/tmp/x", 0, 0, 0, 0), END },
	{ S(mkdirat, "/tmp/x", "", 0, 0, 0x3f, 0), S(mkdirat, "/tmp/b", "", 0, 0, 0x3f, 0), S(renameat2, "/tmp/x", "/tmp/b", 0, 0, 0, 0),
	  S(renameat2, "/tmp/b", "/a/b/x", 1, 0, 0, 0), S(renameat2, "/a/f", "/two/x", 2, 0, 0, 0), S(renameat2, "/a/b/x", "/a", 0, 0, 0, 0),
	  S(renameat2, "/script", "/elf", 0, 0, 0, 0), END },
	{ S(openat, "/a/f", "", 0, 0, 0, 0), S(fchmod, "", "", 0, FD(0), 0x3d, 0), S(fchown, "", "", 0, FD(0), 3, 0), S(fsetxattr, "", "", 0, FD(0), 0, 2),
	  S(utimensat, "", "", 0x108, FD(0), 0, 0x80), S(linkat, "", "/tmp/x", 8, FD(0), 0, 0), S(openat, "/proc/self/fd/5", "", 1, 0, 0, 0), END },
	{ S(mknodat, "/tmp/x", "", 2 | 8, 0, 0x3f, 0), S(statx, "/tmp/x", "", 0, 0, 0, 0), S(mknodat, "/a/b/x", "", 1, 0, 0x3f, 0),
	  S(linkat, "/a/b/x", "/a/b/b", 0, 0, 0, 0), S(openat, "/a/b/x", "", 0, 0, 0, 0), S(faccessat2, "/two/x", "", 2, 0, 0x80, 0), END },
	{ S(openat, "/a", "", 0x80, 0, 0, 0), S(openat, "/a/b", "", 0x80, 0, 0, 0), S(openat, "f", "", 1, FD(0), 0, 0), S(mkdirat, "b/x", "", 0, FD(0), 0x3f, 0),
	  S(unlinkat, "f", "", 0, FD(0), 0, 0), S(renameat2, "b/ld.so", "x", 0, FD(0) | FD(1) << 4, 0, 0), S(getdents64, "", "", 0, FD(0), 0, 14), END },
};

static size_t play(unsigned n, struct record *to)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(scenes[0]); i++) {
		const struct scene *s = &scenes[n][i];
		unsigned op = 0;

		if (s->nr == -1)
			break;
		if (s->nr < -1)
			op = (unsigned)-s->nr;
		for (unsigned k = 0; !op && k < ARRAY_LEN(shapes); k++)
			if (shapes[k].args && shapes[k].nr == s->nr && k)
				op = k;
		to[i] = (struct record){ .op = (uint8_t)op, .fds = s->fds, .flags = { (uint8_t)s->flags, (uint8_t)(s->flags >> 8) }, .mode = s->mode, .misc = s->misc };
		encode(s->p, to[i].p);
		encode(s->q, to[i].q);
	}
	return i;
}

static unsigned rnd(unsigned *state, unsigned n)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % n;
}

/* Bytes change inside of records; records come, go, and change places. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t n = size < 8 ? 0 : (size - 8) / RECORD;
	uint8_t spare[RECORD], *records = data + 8, *at, *other;

	if (max < 8 + RECORD)
		return LLVMFuzzerMutate(data, size, max);
	if (size < 8)
		memset(data + size, 0, 8 - size);
	size = 8 + n * RECORD;
	at = records + (n ? rnd(&seed, (unsigned)n) : 0) * RECORD;
	other = records + (n ? rnd(&seed, (unsigned)n) : 0) * RECORD;
	switch (rnd(&seed, n ? 14 : 3)) {
	case 2: { /* a scene */
		struct record some[8];
		size_t many = play(rnd(&seed, ARRAY_LEN(scenes)), some) * RECORD;

		if (size + many > max || n + many / RECORD > MAX_RECORDS)
			break;
		memmove(at + many, at, (size_t)(data + size - at));
		memcpy(at, some, many);
		return size + many;
	}
	case 10: case 11: case 12: /* known words */
		encode(paths[rnd(&seed, ARRAY_LEN(paths))], ((struct record *)at)->p);
		if (rnd(&seed, 3) == 0)
			encode(paths[rnd(&seed, ARRAY_LEN(paths))], ((struct record *)at)->q);
		return size;
	case 0: case 1: /* a new one */
		if (size + RECORD > max || n >= MAX_RECORDS)
			break;
		memmove(at + RECORD, at, (size_t)(data + size - at));
		for (int i = 0; i < RECORD; i++)
			at[i] = (uint8_t)rnd(&seed, 256);
		for (int i = 6; i < RECORD; i++) /* mostly short paths of the first names */
			if (rnd(&seed, 3) || i % 5 == 3)
				at[i] = (uint8_t)(i == 6 || i == 11 ? 0x80 | (1 + rnd(&seed, 20)) : i == 7 || i == 12 ? rnd(&seed, 20) : 0);
		at[0] = (uint8_t)rnd(&seed, 110);
		if (rnd(&seed, 2))
			encode(paths[rnd(&seed, ARRAY_LEN(paths))], at + 6);
		return size + RECORD;
	case 13: /* one less */
		memmove(at, at + RECORD, (size_t)(data + size - at) - RECORD);
		return size - RECORD;
	case 3: /* the same once more */
		if (size + RECORD > max || n >= MAX_RECORDS)
			break;
		memmove(at + RECORD, at, (size_t)(data + size - at));
		return size + RECORD;
	case 4:
		memcpy(spare, at, RECORD);
		memcpy(at, other, RECORD);
		memcpy(other, spare, RECORD);
		return size;
	case 5: /* another call with the same words, or the same call with other words */
		if (rnd(&seed, 2))
			at[0] = (uint8_t)rnd(&seed, 110);
		else
			memcpy(at + 6, other + 6 + (rnd(&seed, 2) ? 5 : 0), 5);
		return size;
	case 6:
		LLVMFuzzerMutate(data, 8, 8);
		return size;
	default:
		LLVMFuzzerMutate(at, RECORD, RECORD);
		return size;
	}
	LLVMFuzzerMutate(data, size, size);
	return size;
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t an, const uint8_t *b, size_t bn, uint8_t *out, size_t max, unsigned seed)
{
	size_t n = 0, take;

	if (an < 8 || bn < 8 || max < 8)
		return 0;
	memcpy(out, rnd(&seed, 2) ? a : b, 8);
	n = 8;
	take = rnd(&seed, (unsigned)((an - 8) / RECORD) + 1) * RECORD;
	take = MIN(take, (max - n) / RECORD * RECORD);
	memcpy(out + n, a + 8, take);
	n += take;
	size_t from = rnd(&seed, (unsigned)((bn - 8) / RECORD) + 1) * RECORD;
	take = MIN((bn - 8) / RECORD * RECORD - from, (max - n) / RECORD * RECORD);
	memcpy(out + n, b + 8 + from, take);
	return n + take;
}
