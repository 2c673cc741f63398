/* What i386 says of files and file systems in structures of its own. The handlers fill ours. */
#include "ptrace/i386.h"

#if defined(__x86_64__)
#define PACKED __attribute__((packed))

struct stat_i386 {
	uint32_t dev, ino;
	uint16_t mode, nlink, uid, gid;
	uint32_t rdev, size, blksize, blocks, atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns, unused[2];
};
_Static_assert(sizeof(struct stat_i386) == 64, "as in the kernel");

struct stat64_i386 {
	uint64_t dev;
	uint32_t pad, low_ino, mode, nlink, uid, gid;
	uint64_t rdev;
	uint32_t pad2;
	int64_t size;
	uint32_t blksize;
	int64_t blocks;
	uint32_t atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns;
	uint64_t ino;
} PACKED;
_Static_assert(sizeof(struct stat64_i386) == 96, "as in the kernel");

/* Calls the native handler with memory of ours in the place of the guest's; where that is. */
static long ask(struct call *c, struct stat *st, unsigned long *to)
{
	int at = c->nr == __NR_newfstatat ? 2 : 1;

	*to = c->a[at];
	c->a[at] = (unsigned long)st;
	return trap_call(c);
}

static uint16_t id16(uint32_t id)
{
	return id > 0xffff ? 65534 : (uint16_t)id;
}

long compat_stat(struct call *c)
{
	struct stat st;
	unsigned long to;
	long r = ask(c, &st, &to);
	struct stat_i386 out = { 0 };

	if (r)
		return r;
	if (st.st_ino >> 32 || st.st_nlink >> 16 || st.st_size > 0x7fffffff || st.st_dev >> 32)
		return -EOVERFLOW;
	out.dev = (uint32_t)st.st_dev, out.ino = (uint32_t)st.st_ino, out.mode = (uint16_t)st.st_mode;
	out.nlink = (uint16_t)st.st_nlink, out.uid = id16(st.st_uid), out.gid = id16(st.st_gid), out.rdev = (uint32_t)st.st_rdev;
	out.size = (uint32_t)st.st_size, out.blksize = (uint32_t)st.st_blksize, out.blocks = (uint32_t)st.st_blocks;
	out.atime = (uint32_t)st.st_atime, out.atime_ns = (uint32_t)st.st_atime_nsec;
	out.mtime = (uint32_t)st.st_mtime, out.mtime_ns = (uint32_t)st.st_mtime_nsec;
	out.ctime = (uint32_t)st.st_ctime, out.ctime_ns = (uint32_t)st.st_ctime_nsec;
	return guest_write((void *)to, &out, sizeof out);
}

long compat_stat64(struct call *c)
{
	struct stat st;
	unsigned long to;
	long r = ask(c, &st, &to);
	struct stat64_i386 out = { 0 };

	if (r)
		return r;
	out.dev = st.st_dev, out.low_ino = (uint32_t)st.st_ino, out.ino = st.st_ino, out.mode = st.st_mode;
	out.nlink = (uint32_t)st.st_nlink, out.uid = st.st_uid, out.gid = st.st_gid, out.rdev = st.st_rdev;
	out.size = st.st_size, out.blksize = (uint32_t)st.st_blksize, out.blocks = st.st_blocks;
	out.atime = (uint32_t)st.st_atime, out.atime_ns = (uint32_t)st.st_atime_nsec;
	out.mtime = (uint32_t)st.st_mtime, out.mtime_ns = (uint32_t)st.st_mtime_nsec;
	out.ctime = (uint32_t)st.st_ctime, out.ctime_ns = (uint32_t)st.st_ctime_nsec;
	return guest_write((void *)to, &out, sizeof out);
}

struct statfs_i386 {
	uint32_t type, bsize, blocks, bfree, bavail, files, ffree, fsid[2], namelen, frsize, flags, spare[4];
};
_Static_assert(sizeof(struct statfs_i386) == 64, "as in the kernel");

struct statfs64_i386 {
	uint32_t type, bsize;
	uint64_t blocks, bfree, bavail, files, ffree;
	uint32_t fsid[2], namelen, frsize, flags, spare[4];
} PACKED;
_Static_assert(sizeof(struct statfs64_i386) == 84, "as in the kernel");

long compat_statfs(struct call *c)
{
	struct statfs st;
	unsigned long to = c->a[1];
	struct statfs_i386 out = { 0 };
	long r;

	c->a[1] = (unsigned long)&st;
	r = trap_call(c);
	if (r)
		return r;
	if (((uint64_t)st.f_blocks | (uint64_t)st.f_bfree | (uint64_t)st.f_bavail) >> 32 ||
	    ((uint64_t)st.f_files >> 32 && st.f_files != -1) || ((uint64_t)st.f_ffree >> 32 && st.f_ffree != -1))
		return -EOVERFLOW;
	out.type = (uint32_t)st.f_type, out.bsize = (uint32_t)st.f_bsize, out.blocks = (uint32_t)st.f_blocks;
	out.bfree = (uint32_t)st.f_bfree, out.bavail = (uint32_t)st.f_bavail, out.files = (uint32_t)st.f_files;
	out.ffree = (uint32_t)st.f_ffree, out.namelen = (uint32_t)st.f_namelen, out.frsize = (uint32_t)st.f_frsize;
	out.flags = (uint32_t)st.f_flags;
	memcpy(out.fsid, &st.f_fsid, sizeof out.fsid);
	return guest_write((void *)to, &out, sizeof out);
}

long compat_statfs64(struct call *c)
{
	struct statfs st;
	unsigned long to = c->a[2];
	struct statfs64_i386 out = { 0 };
	long r;

	if (c->a[1] != sizeof out && c->a[1] != sizeof out + 4) /* as x86's libraries have counted it, too */
		return -EINVAL;
	c->a[1] = (unsigned long)&st;
	r = trap_call(c);
	if (r)
		return r;
	out.type = (uint32_t)st.f_type, out.bsize = (uint32_t)st.f_bsize, out.blocks = (uint64_t)st.f_blocks;
	out.bfree = (uint64_t)st.f_bfree, out.bavail = (uint64_t)st.f_bavail, out.files = (uint64_t)st.f_files;
	out.ffree = (uint64_t)st.f_ffree, out.namelen = (uint32_t)st.f_namelen, out.frsize = (uint32_t)st.f_frsize;
	out.flags = (uint32_t)st.f_flags;
	memcpy(out.fsid, &st.f_fsid, sizeof out.fsid);
	return guest_write((void *)to, &out, sizeof out);
}

struct dirent_i386 {
	uint32_t ino, off;
	uint16_t reclen;
	char name[];
};

/* What getdents64 wrote to the guest's memory becomes shorter in its place. */
long compat_getdents(struct call *c)
{
	char *from = (void *)c->a[1], *to = from;
	char entry[32 + 256];
	struct linux_dirent64 *d = (void *)entry;
	union { struct dirent_i386 d; char bytes[16 + 256]; } out;
	long n;

	c->nr32 = 220;
	n = trap_call(c);
	if (n <= 0)
		return n;
	for (const char *end = from + n; from < end; from += d->d_reclen) {
		size_t name;

		if (guest_read(entry, from, offsetof(struct linux_dirent64, d_name)) || d->d_reclen > sizeof entry ||
		    d->d_reclen < sizeof *d || guest_read(entry, from, d->d_reclen))
			return -EFAULT;
		name = strlen(d->d_name);
		if (d->d_ino >> 32 || (uint64_t)d->d_off >> 32)
			return -EOVERFLOW;
		memset(&out, 0, sizeof out);
		out.d.ino = (uint32_t)d->d_ino;
		out.d.off = (uint32_t)d->d_off;
		out.d.reclen = (uint16_t)((offsetof(struct dirent_i386, name) + name + 2 + 3) & ~3UL);
		memcpy(out.d.name, d->d_name, name);
		out.bytes[out.d.reclen - 1] = (char)d->d_type;
		if (guest_write(to, &out, out.d.reclen))
			return -EFAULT;
		to += out.d.reclen;
	}
	return to - (char *)c->a[1];
}
#endif
