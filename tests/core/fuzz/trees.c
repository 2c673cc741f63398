/* What is in the trees of the fuzzers' container. */
#undef UDK_CHECKED
#include "fuzz/world.h"

#include "core/kept.h"

#include <linux/elf.h>

static char base[600];

void text_file(const char *dir, const char *name, const char *text, unsigned mode)
{
	char path[300];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	world_file(path, text, strlen(text), mode);
}

void directory(const char *dir, const char *name)
{
	char path[300];

	snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", name);
	sys_mkdirat(AT_FDCWD, world_path(path), 0755);
}

static void link_to(const char *dir, const char *name, const char *target)
{
	char path[300];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	sys_symlinkat(target, AT_FDCWD, world_path(path));
}

/* An ELF file that asks for an interpreter. */
static void elf_file(const char *dir, const char *name, const char *interpreter)
{
	struct { Elf64_Ehdr e; Elf64_Phdr p; char name[64]; } f = {
		.e = { .e_ident = "\177ELF\2\1\1", .e_type = ET_DYN, .e_machine = EM_X86_64, .e_phoff = sizeof(Elf64_Ehdr), .e_phnum = 1,
		       .e_phentsize = sizeof(Elf64_Phdr) },
		.p = { .p_type = PT_INTERP, .p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) },
	};
	char path[300];

	f.p.p_filesz = str_copy(f.name, interpreter, sizeof f.name) + 1;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	world_file(path, &f, sizeof f, 0755);
}

/* What an image has, in a tree. */
void populate(const char *dir)
{
	static const char *const dirs[] = { "etc", "a", "a/b", "tmp", "mnt", "proc", "fproc", "two", "two/sub", "dev", "with space" };

	char file[300], hard[300];

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		directory(dir, dirs[i]);
	snprintf(file, sizeof file, "%s/etc/group", dir);
	text_file(dir, "etc/group", "root:x:0:", 0644);
	text_file(dir, "etc/passwd", "root", 0644);
	text_file(dir, "a/f", "f", 0644);
	text_file(dir, "file", "hidden by a bind", 0644);
	text_file(dir, "two/x", "x", 0400);
	text_file(dir, "script", "#!/elf one two\n", 0755);
	text_file(dir, "two/script", "#! \t../script\targument \n", 0755);
	elf_file(dir, "elf", "/a/b/ld.so");
	text_file(dir, "a/b/ld.so", "", 0755);
	link_to(dir, "link", "/a/b");
	link_to(dir, "a/up", "../../../etc");
	link_to(dir, "a/b/self", ".");
	link_to(dir, "loop", "a/../loop");
	link_to(dir, "dangling", "/a/b/nothing");
	link_to(dir, "host", base); /* leads out, if anybody but us follows it */
	link_to(dir, "a/b/host", base);
	snprintf(hard, sizeof hard, "%s/hard", dir);
	SC5(__NR_linkat, AT_FDCWD, world_path(file), AT_FDCWD, world_path(hard), 0);
	SC5(__NR_lsetxattr, world_path(str_eq(dir, "lower") ? "lower/a/f" : "plain/a/f"), "user.k", "value", 5, 0);
}

static void lower_only(void)
{
	char name[300];
	int fd, next;

	memset(name, 'v', 250);
	for (int i = 0; i < 40; i++) { /* more than a page or two of names */
		memcpy(name, "user.", 5);
		name[250] = 0;
		name[5] = (char)('a' + i % 26), name[6] = (char)('a' + i / 26);
		SC5(__NR_lsetxattr, world_path("lower/elf"), name, "", 0, 0);
	}

	directory("lower", "many");
	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof name, "many/a-name-that-is-long-enough-to-fill-buffers-%d", i);
		text_file("lower", name, "", 0644);
	}
	memset(name, 'n', 200);
	name[200] = 0;
	fd = (int)sys_open(world_path("lower"), O_PATH | O_CLOEXEC, 0);
	for (int i = 0; i < 19; i++) { /* a guest path that fits and a host path that does not */
		sys_mkdirat(fd, name, 0755);
		next = (int)sys_openat(fd, name, O_PATH | O_CLOEXEC, 0);
		sys_close(fd);
		fd = next;
	}
	sys_symlinkat("../..//link", fd, "up");
	sys_mkdirat(fd, "b", 0755);
	sys_close(fd);
}

/* Of process 7: what /proc may show of processes of this container and of others. */
static void make_proc(void)
{
	static char maps[4096];

	for (int i = 0; i < 4; i++)
		directory("proc", ((const char *const[]){ "7", "7/fd", "7/map_files", "7/task" })[i]);
	directory("proc", "7/task/7");
	link_to("proc", "self", "7");
	link_to("proc", "7/exe", "/no/loader");
	link_to("proc", "7/cwd", world_path("lower/a"));
	link_to("proc", "7/root", world_path("upper"));
	link_to("proc", "7/task/7/exe", world_path("lower/elf"));
	link_to("proc", "7/task/7/cwd", "/usr");
	link_to("proc", "7/fd/0", world_path("lower/a/f"));
	link_to("proc", "7/fd/1", "socket:[1]");
	link_to("proc", "7/fd/3", "/etc/passwd");
	link_to("proc", "7/fd/4", world_path("upper/a"));
	link_to("proc", "7/fd/5", world_path("bind"));
	link_to("proc", "7/map_files/1", world_path("bind/file"));
	snprintf(maps, sizeof maps,
		 "00400000-00401000 r-xp 00000000 fe:00 1  %s/lower/elf\n"
		 "00400000-00401000 r-xp 00000000 fe:00 1  %s/lower/a/f (deleted)\n"
		 "%lx-%lx r--p 00000000 fe:00 1  %s/lower/elf\n"
		 "%lx-%lx r-xp 00000000 fe:00 1  /no/loader\nSize: 4 kB\n"
		 "7f0000000000-7f0000001000 r-xp 00000000 fe:00 1  /etc/hosts\nVmFlags: rd ex\n"
		 "7f0000001000-7f0000002000 r-xp 00001000 fe:00 1                        %s/code/1\nSize: 8 kB\n"
		 "7f0000002000-7f0000003000 r-xp 0000a000 fe:00 1                        %s/code/1\nSize: 4 kB\n"
		 "7f0000003000-7f0000004000 r-xp 00000000 fe:00 1                        %s/code/2\n"
		 "7f0000004000-7f0000005000 r-xp 00000000 fe:00 1 %s/code/none\n7f no end",
		 base, base, EXE_MARK, EXE_MARK + 4096, base, PLAN_AT, PLAN_AT + 4096, base, base, base, base);
	text_file("proc", "7/maps", maps, 0644);
	text_file("proc", "7/smaps", maps, 0644);
	text_file("proc", "7/mounts", "", 0644);
	text_file("proc", "7/mountinfo", "", 0644);
	text_file("proc", "7/numa_maps", "00400000 default file=/etc/hosts\n7f0000000000 default heap\n", 0644);
	snprintf(maps, sizeof maps, "Name:\tx\nUid:\t%ld\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t4 24\nTracerPid:\t1\nCapPrm:\t0000000000000000\n"
		 "CapEff:\t0000000000000000\nCapBnd:\t0\n", sys_geteuid());
	text_file("proc", "7/status", maps, 0644);
	text_file("proc", "7/task/7/status", "Uid:\t4000000\t0\nGid:\t0\nGroups:\t\nCapEff:\t0\n", 0644);
	text_file("proc", "7/task/7/maps", "00400000-00401000 r-xp 00000000 fe:00 1  /a\n", 0644);
}

/* Files of changed code, as the preload engine keeps them (core/kept.h). */
static void make_kept(void)
{
	static struct { struct kept head; char pad[KEPT_ORIGINAL - sizeof(struct kept)]; char original[300]; } f = {
		.head = { .magic = KEPT_MAGIC, .id = { .dev = 0xfe00, .ino = 77 }, .n_spans = 2,
			  .spans = { { .off = 0x3000, .n = 0x2000, .at = 0x1000 }, { .off = 0x9000, .n = 0x1000, .at = 0x4000 } } },
	};

	snprintf(f.original, sizeof f.original, "%s/lower/elf", base);
	world_file("code/1", &f, sizeof f, 0644);
	f.head.n_spans = KEPT_SPANS + 1;
	world_file("code/2", &f, sizeof f, 0644);
}

static void make_record(void)
{
	static const struct { const char *path; uint32_t mode, uid, gid, major, minor; } e[] = {
		{ "a", 0, 5, 6, 0, 0 }, { "a/f", S_IFREG | 06755, 1, 2, 0, 0 }, { "elf", S_IFREG | 04755, 0, 0, 0, 0 },
		{ "etc/passwd", S_IFBLK | 0600, 0, 6, 8, 300 }, { "gone", 0, 1, 1, 0, 0 }, { "tmp", S_IFDIR | 01777, 0, 0, 0, 0 }, { "two", S_IFDIR | 02775, 1000, 5, 0, 0 },
		{ "two/x", 0, 1000, 1000, 0, 0 },
	};
	struct {
		char magic[8];
		uint32_t count, reserved;
		uint64_t entries, strings;
		struct { uint64_t path; uint32_t len, mode, uid, gid, major, minor; uint64_t xattrs; uint32_t xattrs_len, flags; } e[ARRAY_LEN(e)];
		char text[200];
	} r = { .magic = "UDKREC\0\1", .count = ARRAY_LEN(e), .entries = offsetof(__typeof__(r), e), .strings = offsetof(__typeof__(r), text) };
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_LEN(e); i++) {
		r.e[i] = (__typeof__(r.e[0])){ at, (uint32_t)strlen(e[i].path), e[i].mode, e[i].uid, e[i].gid, e[i].major, e[i].minor, 0, 0, 0 };
		at += str_copy(r.text + at, e[i].path, sizeof r.text - at);
	}
	world_file("record", &r, sizeof r, 0644);
}

void make_trees(void)
{
	str_copy(base, world_path(""), sizeof base);
	populate("lower");
	lower_only();
	populate("plain");
	make_proc();
	make_kept();
	make_record();
	text_file("bind", "sub/x", "x", 0644);
	text_file("bind", "file", "bind", 0644);
	text_file("fixed", "x", "x", 0644);
	text_file("fixed2", "x", "x", 0644);
	text_file("fixed3", "x", "x", 0644);
	text_file("", "bound", "bound", 0644);
	text_file("secret", "key", "secret", 0644);
}

/* ---- is it all as it was? ----------------------------------------------------------------------------- */

static uint64_t of_entry(int dirfd, const char *name, const char *path)
{
	struct { uint64_t mode, size, links, rdev, text, xattrs; } e = { 0 };
	char target[1024], link[300], list[16384];
	struct stat st;
	long n;

	if (sys_fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
		return 1;
	e.mode = st.st_mode, e.rdev = st.st_rdev;
	if ((st.st_mode & S_IFMT) != S_IFDIR)
		e.size = (uint64_t)st.st_size, e.links = st.st_nlink;
	if ((st.st_mode & S_IFMT) == S_IFLNK && (n = sys_readlinkat(dirfd, name, target, sizeof target)) > 0)
		e.text = text_hash(target, (size_t)n);
	long fd = sys_openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
	if ((st.st_mode & S_IFMT) != S_IFLNK && (n = SC3(__NR_listxattr, link, list, sizeof list)) > 0)
		e.xattrs = text_hash(list, (size_t)n);
	sys_close((int)fd);
	return text_hash((const char *)&e, sizeof e) * 3 ^ text_hash(path, strlen(path));
}

/* Of the names below `name`, in any order; `show` tells each one. */
static uint64_t of_tree(int dirfd, const char *name, const char *path, bool show)
{
	uint64_t sum = of_entry(dirfd, name, path);
	char buf[4096], below[6000];
	long fd, n;

	if (show)
		say(2, "%lx %s\n", (unsigned long)sum, path);
	fd = sys_openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	if (fd < 0)
		return sum;
	while ((n = sys_getdents64((int)fd, buf, sizeof buf)) > 0)
		for (char *s = buf; s < buf + n; s += ((struct linux_dirent64 *)s)->d_reclen) {
			const char *entry = ((struct linux_dirent64 *)s)->d_name;

			if (str_eq(entry, ".") || str_eq(entry, ".."))
				continue;
			snprintf(below, sizeof below, "%s/%s", path, entry);
			sum += of_tree((int)fd, entry, below, show);
		}
	sys_close((int)fd);
	return sum;
}

uint64_t tree_digest(const char *host, bool show)
{
	return of_tree(AT_FDCWD, host, "", show);
}
