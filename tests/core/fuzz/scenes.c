/* What chance alone would take long to write: sequences of calls that lead somewhere. */
#undef UDK_CHECKED
#include "fuzz/play.h"

struct line { /* a record in words */
	long nr; /* or an op */
	const char *p, *q;
	uint16_t flags;
	uint8_t fds, mode, misc, how[2]; /* how: openat2's, instead of the second path */
};
#define END { -1, "", "", 0, 0, 0, 0, { 0, 0 } }
#define S(name, ...) { __NR_##name, __VA_ARGS__, { 0, 0 } }
#define ACT(op, ...) { -(op), __VA_ARGS__, { 0, 0 } }
#define HOW(p, flags, fd, resolve, more) { __NR_openat2, p, "", flags, fd, 0, 0, { resolve, more } }
/* Shorter: a path, or two, and the flags. */
#define P(name, p, flags) S(name, p, "", flags, 0, 0x3f, 11)
#define Q(name, p, q, flags) S(name, p, q, flags, 0, 0x3f, 11)
#define MAKE_DIR(p) S(mkdirat, p, "", 0, 0, 0x3f, 0)
#define LOOK(p) S(newfstatat, p, "", 0, 0, 0, 0)
#define BECOME(gid, uid) S(setresgid, "", "", 2, 0, (gid) | (gid) << 3, 0), S(setresuid, "", "", 2, 0, (uid) | (uid) << 3, 0)
/* A directory whose path is longer than paths may be; it is the working directory afterwards. */
#define DEEP P(chdir, "/n", 0), MAKE_DIR("@255"), P(chdir, "@255", 0), MAKE_DIR("@255"), P(chdir, "@255", 0)
#define FD(n) (6 + (n))

static const struct line scenes[][MAX_SCENE] = {
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
	{ DEEP, MAKE_DIR("a"), MAKE_DIR("a/b"), S(openat, "a/f", "", 5, 0, 0x80, 0), LOOK("a/./f"), LOOK("a/../a/b/"), P(chdir, "a/b", 0),
	  P(getcwd, "", 0), LOOK("../f"), LOOK("../../.."), P(chdir, "../..", 0), END },
	{ DEEP, Q(symlinkat, "x", "a/b", 0), Q(symlinkat, "b", "/a/f", 0), LOOK("x/f"), P(openat, "b", 0), MAKE_DIR("a"), MAKE_DIR("a/b"), LOOK("x/"),
	  Q(renameat2, "x", "a/x", 0), Q(linkat, "b", "a/f", 0), P(fchmodat, "a", 0), P(setxattr, "a", 0), END },
	{ DEEP, P(openat, ".", 0x80), P(openat, "..", 0x80), P(chdir, "/", 0), S(mkdirat, "a", "", 0, FD(0), 0x3f, 0), S(openat, "a/x", "", 5, FD(0), 0x80, 0),
	  S(newfstatat, "a/../a/x", "", 0, FD(0), 0, 0), S(unlinkat, "a/x", "", 0, FD(0), 0, 0), S(getdents64, "", "", 0, FD(0), 0, 14),
	  S(openat, "../..", "", 0x80, FD(0), 0, 0), S(readlinkat, "/proc/self/fd/4", "", 0, 0, 0, 12), END },
	{ DEEP, Q(symlinkat, "x", "x", 0), LOOK("x/a"), P(openat, "x", 0), Q(symlinkat, "b", "..", 0), LOOK("b/@255"), LOOK("b/f"), P(chdir, "b", 0), P(getcwd, "", 0),
	  LOOK("@256"), LOOK("@256/a"), LOOK("./..///./@255/."), END },
	{ P(openat, "/a", 0x80), HOW("b/ld.so", 0, FD(0), 8, 0), HOW("b/self/../f", 0, FD(0), 8, 0), HOW("../a/f", 0, FD(0), 8, 0), HOW("/a/f", 0, FD(0), 8, 0),
	  HOW("b/host", 0, FD(0), 8, 0), HOW("up/passwd", 0, FD(0), 8, 0), HOW("up/passwd", 0, FD(0), 16, 0), HOW("/b/ld.so", 2, FD(0), 16, 0),
	  HOW("b/self", 0, FD(0), 4, 0), HOW("b/x", 6 | 16, FD(0), 8, 0), HOW("../../b", 0, FD(0), 16, 2), END },
	{ HOW("/proc/self/exe", 0, 0, 2, 0), HOW("/proc/self/root", 0, 0, 1, 2), HOW("/mnt/file", 0, 0, 1, 0), HOW("/link", 0, 0, 1, 1), HOW("/a/up", 0, 0, 1, 4),
	  HOW("mnt/x", 0, 0, 9, 0), HOW("/a", 0, 0, 32, 1), HOW("/a/x", 6 | 16, 0, 32, 0), HOW("/a", 0, 0, 64, 0), HOW("/a", 0, 0, 24, 0), HOW("/a", 0, 0, 0, 3), HOW("/a", 1, 0, 0, 2),
	  HOW("/mnt/..", 0, 0, 1, 1), HOW("/fproc/7/cwd/x", 0, 0, 1, 0), END },
	{ P(openat, "/proc/self/status", 0), P(openat, "/fproc/7/status", 0), P(openat, "/fproc/7/task/7/status", 0), P(openat, "/fproc/7/numa_maps", 0),
	  P(openat, "/proc/self/numa_maps", 0), P(openat, "/proc/1/status", 0), P(openat, "/fproc/7/maps", 0), P(openat, "/fproc/7/task/7/maps", 0), P(chroot, "/two", 0),
	  P(openat, "/proc/self/mounts", 0), ACT(LEAVE_ROOT, "", "", 0, 0, 0, 0), P(openat, "/proc/self/mounts", 0), P(openat, "/proc/self/mountinfo", 0), END },
	{ P(openat, "/a", 0x80), S(openat, "f", "", 0, FD(0), 0, 0), S(openat, "b", "", 0x80, FD(0), 0, 0), S(newfstatat, "ld.so", "", 0, FD(2), 0, 0),
	  ACT(REMAIN, "", "", 0, FD(2), 0, 0), S(newfstatat, "self/ld.so", "", 0, FD(3), 0, 0), Q(renameat2, "/a/b", "/tmp/x", 0), S(newfstatat, "ld.so", "", 0, FD(2), 0, 0),
	  ACT(STREAM, "", "", 0, FD(0), 1, 0), LOOK("f"), S(openat, "x", "", 5, 0, 0x80, 0), S(openat, "x", "", 0, FD(0), 0, 0), END },
	{ P(chdir, "/two", 0), LOOK("x"), LOOK("sub"), Q(renameat2, "/two", "/tmp/x", 0), LOOK("x"), MAKE_DIR("/two"), LOOK("x"), S(openat, "b", "", 5, 0, 0x80, 0),
	  P(getcwd, "", 0), P(chdir, "/two", 0), LOOK("x"), P(chdir, "..", 0), LOOK("two/x"), LOOK("a/b/ld.so"), END },
	{ MAKE_DIR("/tmp/x"), P(chdir, "/tmp/x", 0), MAKE_DIR("a"), MAKE_DIR("a/b"), S(openat, "a/b/f", "", 5, 0, 0x80, 0), P(openat, "a", 0x80), S(openat, "b/f", "", 0, FD(1), 0, 0),
	  Q(renameat2, "a/b", "b", 0), S(openat, "b/f", "", 0, FD(1), 0, 0), LOOK("b/f"), Q(renameat2, "b", "a/b", 0), S(newfstatat, "b/f", "", 0, FD(1), 0, 0), LOOK("a/b/f"), END },
	{ S(setgroups, "", "", 0, 0, 0, 0), BECOME(2, 2), P(openat, "/two/x", 0), S(openat, "/two/b", "", 5, 0, 0x80, 0), MAKE_DIR("/two/a"), P(unlinkat, "/two/x", 0),
	  S(openat, "/tmp/x", "", 5, 0, 0x80, 0), S(fchmodat, "/tmp/x", "", 0, 0, 0xff, 0), S(openat, "/tmp/x", "", 1, 0, 0, 0), P(fchmodat, "/a/f", 0), LOOK("/tmp/x"), P(openat, "/a/x", 5),
	  S(utimensat, "/tmp/x", "", 0, 0, 0, 0), END },
	{ S(openat, "/tmp/x", "", 5, 0, 0x80, 0), MAKE_DIR("/tmp/b"), S(setgroups, "", "", 0, 0, 0, 0), BECOME(2, 2), P(unlinkat, "/tmp/x", 0), Q(renameat2, "/tmp/x", "/tmp/f", 0),
	  S(unlinkat, "/tmp/b", "", 2, 0, 0, 0), S(faccessat, "/two/x", "", 0, 0, 4, 0), S(faccessat2, "/etc", "", 2, 0, 2, 0), S(access, "/a/f", "", 0, 0, 7, 0),
	  P(chdir, "/two", 0), P(openat, "/etc/passwd", 0), P(truncate, "/a/f", 0), S(chown, "/tmp/x", "", 0, 0, 0x12, 0), END },
	{ S(fchownat, "/a/f", "", 0, 0, 0x36, 0), S(fchownat, "/a/f", "", 0, 0, 0x2e, 0), P(openat, "/a/f", 0), S(fchown, "", "", 0, FD(0), 0x35, 0), S(fchown, "", "", 0, FD(0), 0x36, 0),
	  S(fchownat, "/two", "", 0, 0, 0x2c, 0), S(fchmodat, "/two", "", 0, 0, 0xfd, 0), MAKE_DIR("/two/a"), S(openat, "/two/b", "", 5, 0, 0x80, 0), S(mknodat, "/two/f", "", 2 | 8, 0, 0x3f, 0),
	  S(fchownat, "/link", "", 1, 0, 0x24, 0), LOOK("/two/a"), LOOK("/two/b"), END },
	{ P(setxattr, "/a/f", 0), S(setxattr, "/a/f", "", 9, 0, 0, 2), S(setxattr, "/tmp", "", 2, 0, 0, 2), P(listxattr, "/a/f", 0), S(getxattr, "/a/f", "", 9, 0, 0, 12), S(getxattr, "/a/f", "", 8, 0, 0, 12),
	  S(setxattr, "/a/f", "", 11, 0, 0, 2), P(listxattr, "/elf", 0), S(listxattr, "/elf", "", 0, 0, 0, 14), P(openat, "/elf", 0), S(flistxattr, "", "", 0, FD(0), 0, 14),
	  S(fgetxattr, "", "", 1, FD(0), 0, 14), S(removexattr, "/a/f", "", 9, 0, 0, 0), S(lgetxattr, "/link", "", 0, 0, 0, 12), END },
	{ P(openat, "/elf", 0), P(openat, "/proc/self/fd/5", 1), S(truncate, "/proc/self/fd/5", "", 0, 0, 0, 2), P(openat, "/hard", 2), LOOK("/etc/passwd"), P(openat, "/a/f", 0x100),
	  P(openat, "/proc/self/fd/7", 1), P(openat, "/two/x", 0x100), S(fchmodat, "/proc/self/fd/8", "", 0, 0, 0x3d, 0), S(openat, "/proc/self/cwd/x", "", 5, 0, 0x80, 0), END },
	{ P(openat, "/tmp", 0xe01), S(linkat, "", "/tmp/x", 8, FD(0), 0, 0), Q(linkat, "/proc/self/fd/5", "/tmp/b", 4), P(openat, "/two", 0xe02), S(fchmod, "", "", 0, FD(1), 0xff, 0), P(openat, "/mnt/sub", 0xe01), END },
	{ P(unlinkat, "/script", 0), P(openat, "/script", 0x100), LOOK("/script"), P(openat, "/", 0x80), S(getdents64, "", "", 0, FD(0), 0, 6), S(getdents64, "", "", 0, FD(0), 0, 9), S(getdents64, "", "", 0, FD(0), 0, 14),
	  S(openat, "/script", "", 5, 0, 0x80, 0), Q(linkat, "/elf", "/tmp/elf", 0), P(unlinkat, "/elf", 0), Q(renameat2, "/tmp/elf", "/elf", 0), S(readlinkat, "/elf", "", 0, 0, 0, 11), END },
	{ P(unlinkat, "/a/b/ld.so", 0), P(unlinkat, "/a/b/self", 0), P(unlinkat, "/a/b/host", 0), S(unlinkat, "/a/b", "", 2, 0, 0, 0), MAKE_DIR("/a/b"), P(openat, "/a/b", 0x80),
	  S(getdents64, "", "", 0, FD(0), 0, 14), Q(renameat2, "/a/b", "/two/a", 0), MAKE_DIR("/a/b"), LOOK("/a/b/ld.so"), Q(renameat2, "/two/a", "/a/b", 2), LOOK("/link/ld.so"), END },
	{ ACT(WRITE_FILE, "/tmp/elf", "", 0, 0, 8, 0), ACT(WRITE_FILE, "/tmp/x", "", 0, 0, 0, 0), ACT(PROGRAM, "/elf", "", 0x100, 0, 0, 0), P(openat, "/elf", 2), ACT(WRITE_FILE, "/tmp/b", "", 0, 0, 10, 0xb7),
	  ACT(PROGRAM, "/tmp/b", "", 0x100, 0, 0, 0), P(openat, "/tmp/b", 1), S(truncate, "/tmp/b", "", 0, 0, 0, 2), Q(renameat2, "/tmp/b", "/tmp/f", 0), P(openat, "/tmp/f", 1),
	  S(readlinkat, "/proc/self/exe", "", 0, 0, 0, 12), ACT(PROGRAM, "/proc/self/exe", "", 0, 0, 0, 0), END },
	{ MAKE_DIR("/tmp/x"), MAKE_DIR("/tmp/x/@252"), ACT(NAME_SOCKET, "/tmp/x/@252/sock", "", 0xffff, 0, 1, 0), P(chdir, "/tmp/x/@252", 0), ACT(NAME_SOCKET, "sock", "", 0xffff, 0, 3, 0),
	  ACT(SEND, "sock", "", 9, FD(1), 1, 1), ACT(RECEIVE, "", "", 0xffff, FD(0), 1, 1), ACT(NAME_SOCKET, "/mnt/sub/sock", "", 0xffff, 0, 1, 0), ACT(NAME_SOCKET, "b", "", 0xffff, 0, 0, 0),
	  ACT(SEND, "b", "", 9, FD(2), 1, 1), ACT(RECEIVE, "", "", 0xffff, FD(2), 1, 1), END },
	{ DEEP, ACT(NAME_SOCKET, "sock", "", 0xffff, 0, 1, 0), ACT(NAME_SOCKET, "sock", "", 0xffff, 0, 3, 0), S(setxattr, "a", "", 0, 0, 0, 2), S(openat, "x", "", 5, 0, 0x80, 0), S(setxattr, "x", "", 0, 0, 0, 2),
	  S(getxattr, "x", "", 0, 0, 0, 2), P(truncate, "x", 0), P(statfs, "x", 0), S(inotify_add_watch, "x", "", 0, 0, 0, 0), P(utimensat, "x", 0x100), ACT(PROGRAM, "x", "", 0, 0, 0, 0), END },
	{ S(name_to_handle_at, "/a/f", "", 0, 0, 0, 0), S(name_to_handle_at, "/a", "", 4, 0, 0, 0), S(name_to_handle_at, "/two/x", "", 0x4000, 0, 0, 0), S(capget, "", "", 0, 0, 0, 0), S(uname, "", "", 0, 0, 0, 0),
	  S(sethostname, "", "", 0, 0, 0, 4), S(uname, "", "", 0, 0, 0, 0), S(unshare, "", "", 0, 0, 0, 0), S(statfs, "/proc", "", 0, 0, 0, 0), LOOK("/with space/x"), LOOK("/dev/x"), END },
	{ P(openat, "/mnt/x", 5), S(fchmodat, "/mnt/x", "", 0, 0, 0x10, 0), P(openat, "/mnt/x", 2), S(openat, "/tmp/x", "", 5, 0, 4, 0), P(openat, "/tmp/x", 2), S(mkdirat, "/tmp/b", "", 0, 0, 0, 0), P(openat, "/tmp/b", 0x80),
	  S(openat, "/tmp/b/f", "", 5, 0, 0x80, 0), LOOK("/tmp/b/f"), S(fchmodat, "/a", "", 0, 0, 0, 0), LOOK("/a/f"), P(openat, "/a/f", 2), S(mknodat, "/tmp/f", "", 0, 0, 0, 0), END },
	{ MAKE_DIR("/tmp/x"), LOOK("/tmp/x/f"), S(unlinkat, "/tmp/x", "", 2, 0, 0, 0), Q(symlinkat, "/tmp/x", "/a", 0), LOOK("/tmp/x/f"), P(openat, "/tmp/x/f", 2), P(unlinkat, "/tmp/x", 0),
	  MAKE_DIR("/tmp/x"), MAKE_DIR("/tmp/x/a"), LOOK("/tmp/x/a/f"), Q(renameat2, "/tmp/x/a", "/tmp/x/b", 0), Q(symlinkat, "/tmp/x/a", "/two", 0), LOOK("/tmp/x/a/x"), LOOK("/tmp/x/b/x"), END },
	{ LOOK("/a/f"), P(openat, "/two", 0x80), LOOK("/two/x"), ACT(CLOSE, "", "", 0, 0, 7, 0), LOOK("/a/f"), P(openat, "/tmp/x", 5), ACT(CLOSE, "", "", 0, 0, 1, 0), LOOK("/a/f"), MAKE_DIR("/tmp/b"),
	  LOOK("/two/x"), P(openat, "/a", 0x80), ACT(CLOSE, "", "", 0, 0, 5, 3), LOOK("/f"), LOOK("/etc/passwd"), END },
	{ LOOK("/a/f"), P(openat, "/proc/self/fd", 0x80), S(getdents64, "", "", 0, FD(0), 0, 5), S(getdents64, "", "", 0, FD(0), 0, 14), ACT(CLOSE, "", "", 0, 0, 1, 0), LOOK("/a/f"), LOOK("/tmp"),
	  S(openat, "/tmp/x", "", 5, 0, 0x80, 0), P(openat, "/two/x", 0), END },
	{ ACT(CLOSE, "", "", 0, 0, 3, 0), P(openat, "/two/x", 0), LOOK("/a/b"), P(statx, "/a/b/ld.so", 0), MAKE_DIR("/a/b/x"), P(openat, "/proc/self/fd", 0x80),
	  S(getdents64, "", "", 0, FD(1), 0, 14), S(readlinkat, "/proc/self/fd/4", "", 0, 0, 0, 12), END },
	{ S(mknodat, "/tmp/x", "", 0, 0, 0xff, 0), S(mknodat, "/tmp/b", "", 3 | 8, 0, 0x3f, 0), P(unlinkat, "/tmp/x", 0), S(mknodat, "/two/x", "", 2, 0, 0x3f, 0), LOOK("/proc/self/exe"), P(readlinkat, "/proc/self/exe", 0),
	  Q(linkat, "/link", "/tmp/f", 4), Q(linkat, "/elf", "/tmp/elf", 0), Q(renameat2, "/tmp/elf", "/elf", 0), S(capset, "", "", 0, 0, 0, 0), S(setxattr, "/a/f", "", 4, 0, 0, 2), S(chmod, "/tmp/b", "", 0, 0, 0xff, 0),
	  ACT(NEXT_RUN, "", "", 0, 0, 0, 0), LOOK("/tmp/b"), END },
	{ BECOME(2, 2), S(openat, "/dangling", "", 5, 0, 0xff, 0), P(openat, "/tmp", 0xe01), S(openat, "/tmp/x", "", 5, 0, 0xff, 0), S(openat, "/a", "", 0x105, 0, 0xff, 0), S(chmod, "/tmp/x", "", 0, 0, 0xff, 0),
	  S(fchown, "", "", 0, FD(1), 0x12, 0), S(capget, "", "", 0, 0, 1, 0), S(access, "/mnt/sub", "", 0, 0, 2, 0), ACT(NEXT_RUN, "", "", 0, 0, 0, 0), LOOK("/tmp/x"), END },
	{ S(chmod, "/elf", "", 0, 0, 0xfd, 0), S(chown, "/elf", "", 0, 0, 0x2c, 0), P(openat, "/script", 2), S(chown, "/two", "", 0, 0, 0x24, 0), Q(renameat2, "/script", "/a/b/x", 0), Q(renameat2, "/a/f", "/two/x", 2),
	  ACT(NEXT_RUN, "", "", 0, 0, 0, 0), P(openat, "/etc/passwd", 1), S(chmod, "/two", "", 0, 0, 0xfd, 0), Q(linkat, "/elf", "/tmp/x", 0), ACT(NEXT_RUN, "", "", 0, 0, 0, 0), P(unlinkat, "/elf", 0), END },
	{ S(kill, "", "", 0, 0, 0, 0), S(kill, "", "", 1, 0, 1, 0), BECOME(2, 2), S(kill, "", "", 3, 0, 0, 0), S(kill, "", "", 1, 0, 1, 0), S(kill, "", "", 2, 0, 4, 0), S(kill, "", "", 4, 0, 0, 0),
	  S(kill, "", "", 0, 0, 2, 0), S(kill, "", "", 1, 0, 7, 0), S(kill, "", "", 0, 0, 5, 0), S(rt_sigqueueinfo, "", "", 1, 0, 4, 0), S(rt_sigqueueinfo, "", "", 1, 0, 1, 0), END },
};

const unsigned n_scenes = ARRAY_LEN(scenes);

size_t scene(unsigned n, struct record *to)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(scenes[0]); i++) {
		const struct line *s = &scenes[n][i];
		unsigned op = 0;

		if (s->nr == -1)
			break;
		if (s->nr < -1)
			op = (unsigned)-s->nr;
		for (unsigned k = 0; !op && k < 96; k++)
			if (shapes[k].args && shapes[k].nr == s->nr && k)
				op = k;
		to[i] = (struct record){ .op = (uint8_t)op, .fds = s->fds, .flags = { (uint8_t)s->flags, (uint8_t)(s->flags >> 8) }, .mode = s->mode, .misc = s->misc };
		encode(s->p, to[i].p);
		encode(s->q, to[i].q);
		if (s->nr == __NR_openat2)
			memcpy(to[i].q, s->how, 2);
	}
	return i;
}


void write_scenes(const char *dir, const uint8_t *variants, unsigned n_variants)
{
	uint8_t data[HEADER + MAX_SCENE * RECORD];
	char path[300];

	for (unsigned i = 0; i < n_scenes; i++)
		for (unsigned v = 0; v < n_variants; v++) {
			size_t n = HEADER + scene(i, (void *)(data + HEADER)) * RECORD;
			memset(data, 0, HEADER);
			data[0] = variants[v];
			data[6] = v ? 0 : TRACED | EMULATED;
			snprintf(path, sizeof path, "%s/scene-%u-%u", dir, i, v);
			long fd = sys_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
			if (fd < 0 || write_all((int)fd, data, n))
				abort();
			sys_close((int)fd);
		}
}
