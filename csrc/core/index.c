/* The index of the image's tree (udk/layers/index.py): what the kernel would say of its files.
 *
 * The tree is never changed, so that what the store wrote down when it made it holds: what a name in a directory of the
 * lower alone is, or that there is none, where a link leads and what a directory lists is known without a call. Directories
 * have numbers there, which are kept with what is remembered of a directory; 0 is none that is known.
 */
#include "core/index.h"

#define PATIENCE 16 /* questions of a process before the file is mapped: most programs have few */

struct index_head {
	char magic[8];
	uint64_t ino; /* of the tree's root, and its time of change */
	int64_t ctime;
	uint32_t ctime_ns, uid, blksize, n_dirs, n_names;
	uint32_t no_user, no_acl, spare; /* what is said where there is no such attribute */
	uint64_t dirs, hashes, files, lists, lists_size, targets, targets_size;
};

struct index_dir {
	uint64_t ino;
	uint32_t first, count;
	uint32_t list, list_size; /* what getdents64 gives, "." and ".." first */
};

struct index_file {
	uint64_t ino;
	int64_t size, atime, mtime, ctime;
	uint32_t atime_ns, mtime_ns, ctime_ns, blocks, mode, nlink, uid, gid, rdev, dir, name; /* name: in a list */
	uint16_t name_len, flags; /* rdev: of a link where its target is */
};

#define START (1L << 40) /* positions of a listing: this and how many names were given */
#define DOT_SIZE 24      /* bytes of the shortest record */
#define NAME_AT offsetof(struct linux_dirent64, d_name)
#define FILE_PLAIN 1 /* without extended attributes of user.* and system.* */

static const char *map; /* of this process, at INDEX_AT; a forked child inherits it */
static volatile uint32_t asked;

static const struct index_head *head(void)
{
	return (const void *)map;
}

/* Is a part of the file where the header says? */
static bool fits(uint64_t size, uint64_t at, uint64_t n, uint64_t each, uint64_t align)
{
	return !(at % align) && at <= size && n <= (size - at) / each;
}

/* Is it whole, and of this very tree? Copies of a tree have other inodes, and its root another time of change. */
static bool sound(const struct core *k, const struct index_head *h, uint64_t size)
{
	return !memcmp(h->magic, "UDKIDX\0\2", 8) && fits(size, h->dirs, h->n_dirs, sizeof(struct index_dir), 8) &&
	       fits(size, h->hashes, h->n_names, 4, 4) && fits(size, h->files, h->n_names, sizeof(struct index_file), 8) &&
	       fits(size, h->lists, h->lists_size, 1, 8) && fits(size, h->targets, h->targets_size, 1, 1) &&
	       h->ino == k->plan->root_ino[1] && h->uid == k->plan->lower_uid && h->ctime == k->plan->lower_ctime[0] && h->ctime_ns == k->plan->lower_ctime[1];
}

static bool map_index(struct core *k)
{
	long fd = sys_open(plan_text(k, k->plan->index), O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0), at = -ENODATA;
	struct stat st;

	if (fd < 0)
		return false;
	if (!sys_fstat((int)fd, &st) && st.st_size >= (long)sizeof(struct index_head) && (uint64_t)st.st_size <= INDEX_ROOM)
		at = (long)sys_mmap((void *)INDEX_AT, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE_, (int)fd, 0);
	sys_close((int)fd);
	if (is_error(at)) /* EEXIST: another thread was faster, or something of the guest's is there */
		return __atomic_load_n(&map, __ATOMIC_ACQUIRE);
	if (at != (long)INDEX_AT || !sound(k, (const void *)at, (uint64_t)st.st_size)) { /* before Linux 4.17 it is elsewhere then */
		sys_munmap((void *)at, (size_t)st.st_size);
		k->plan->index = at == (long)INDEX_AT ? 0 : k->plan->index;
		return false;
	}
	__atomic_store_n(&map, (const char *)at, __ATOMIC_RELEASE);
	return true;
}

bool index_ready(struct core *k, unsigned patience)
{
	if (__atomic_load_n(&map, __ATOMIC_ACQUIRE))
		return true;
	if (!k->plan->index || (!k->notes && patience < INDEX_AT_ONCE) || asked > PATIENCE || (asked += patience) <= PATIENCE)
		return false;
	asked = PATIENCE + 1;
	return map_index(k);
}

void index_forget(void)
{
	if (map)
		sys_munmap((void *)INDEX_AT, INDEX_ROOM);
	map = NULL;
	asked = 0;
}

static const struct index_file *look(uint32_t dir, const char *name, size_t n, bool *there)
{
	const struct index_head *h = head();
	const struct index_dir *d = (const void *)(map + h->dirs);
	const uint32_t *hashes = (const void *)(map + h->hashes), want = (uint32_t)(text_hash(name, n) >> 32);
	const struct index_file *files = (const void *)(map + h->files), *f;
	uint32_t i, first, count;

	*there = false;
	if (dir >= h->n_dirs)
		return NULL;
	first = d[dir].first;
	count = d[dir].count;
	if (first > h->n_names || count > h->n_names - first)
		return NULL;
	*there = true;
	if (!count)
		return NULL;
	hashes += first;
	i = (uint32_t)((uint64_t)want * count >> 32); /* hashes are even: it is about here */
	while (i && hashes[i - 1] >= want)
		i--;
	while (i < count && hashes[i] < want)
		i++;
	for (; i < count && hashes[i] == want; i++) {
		f = &files[first + i];
		if (f->name_len == n && f->name <= h->lists_size && n <= h->lists_size - f->name &&
		    !memcmp(map + h->lists + f->name, name, n))
			return f;
	}
	return NULL;
}

static uint32_t below(uint32_t dir, const char *name, size_t n)
{
	bool listed;
	const struct index_file *f = look(dir, name, n, &listed);

	return f && f->dir ? f->dir : INDEX_NONE;
}

uint32_t index_below(struct core *k, uint32_t dir, const char *name, size_t n)
{
	return !dir || dir == INDEX_NONE || !index_ready(k, 0) ? dir : below(dir, name, n);
}

uint32_t index_dir(struct core *k, const char *path, size_t n)
{
	uint32_t dir = 1;
	size_t at = 0, end;

	if (!index_ready(k, 0))
		return 0;
	while (at < n && dir != INDEX_NONE) {
		for (end = ++at; end < n && path[end] != '/';)
			end++;
		dir = below(dir, path + at, end - at);
		at = end;
	}
	return dir;
}

uint64_t index_ino(uint32_t dir)
{
	const struct index_dir *d = (const void *)(map + head()->dirs);

	return dir < head()->n_dirs ? d[dir].ino : 0;
}

bool index_is(struct core *k, uint32_t dir, const struct stat *st)
{
	return st->st_ino == index_ino(dir) && st->st_dev == k->plan->lower_dev;
}

int index_stat(struct core *k, uint32_t dir, const char *name, size_t n, struct stat *st, bool *plain)
{
	const struct index_file *f;
	bool listed;

	if (!dir || !index_ready(k, 0))
		return -1;
	f = look(dir, name, n, &listed);
	if (!f)
		return listed ? 0 : -1;
	memset(st, 0, sizeof *st);
	st->st_dev = k->plan->lower_dev;
	st->st_ino = f->ino;
	st->st_mode = f->mode;
	st->st_nlink = f->nlink;
	st->st_uid = f->uid;
	st->st_gid = f->gid;
	st->st_rdev = (f->mode & S_IFMT) == S_IFLNK ? 0 : f->rdev;
	st->st_size = f->size;
	st->st_blksize = head()->blksize;
	st->st_blocks = f->blocks;
	st->st_atime = (unsigned long)f->atime;
	st->st_atime_nsec = f->atime_ns;
	st->st_mtime = (unsigned long)f->mtime;
	st->st_mtime_nsec = f->mtime_ns;
	st->st_ctime = (unsigned long)f->ctime;
	st->st_ctime_nsec = f->ctime_ns;
	*plain = f->flags & FILE_PLAIN;
	return 1;
}

long index_no_attribute(bool acl)
{
	uint32_t error = acl ? head()->no_acl : head()->no_user;

	return error == ENODATA || error == EOPNOTSUPP ? -(long)error : 0;
}

const char *index_target(struct core *k, uint32_t dir, const char *name, size_t n, size_t *len)
{
	const struct index_head *h = head();
	const struct index_file *f;
	bool listed;

	f = dir && index_ready(k, 0) ? look(dir, name, n, &listed) : NULL;
	if (!f || (f->mode & S_IFMT) != S_IFLNK || f->rdev > h->targets_size || (uint64_t)f->size > h->targets_size - f->rdev)
		return NULL;
	*len = (size_t)f->size;
	return map + h->targets + f->rdev;
}

/* Where the record of a name is in the list, by the number of names before it. */
static size_t record_at(const struct index_dir *d, uint64_t i)
{
	const struct index_file *files = (const void *)(map + head()->files);

	if (i < 2)
		return i * DOT_SIZE;
	return i - 2 < d->count ? files[d->first + i - 2].name - NAME_AT - d->list : d->list_size;
}

bool index_lists(int64_t position)
{
	return position >= START && position <= START + UINT32_MAX;
}

long index_list(struct core *k, uint32_t dir, int fd, void *to, size_t n)
{
	const struct index_head *h = head();
	const struct index_dir *d = (const struct index_dir *)(map + h->dirs) + dir;
	const struct linux_dirent64 *e;
	size_t begin, end;
	struct stat st;
	uint64_t i;
	long at;

	if (!dir || dir >= h->n_dirs || d->first > h->n_names || d->count > h->n_names - d->first || d->list % 8 ||
	    d->list > h->lists_size || d->list_size > h->lists_size - d->list || sys_fstat(fd, &st) || !index_is(k, dir, &st))
		return INDEX_ASK;
	at = sys_lseek(fd, 0, SEEK_CUR);
	if (at && !index_lists(at))
		return INDEX_ASK;
	i = at ? (uint64_t)at - START : 0;
	begin = end = record_at(d, i);
	if (begin % 8 || begin > d->list_size)
		return INDEX_ASK;
	while (d->list_size - end >= DOT_SIZE) {
		e = (const void *)(map + h->lists + d->list + end);
		if (e->d_reclen < DOT_SIZE || e->d_reclen % 8 || e->d_reclen > d->list_size - end || e->d_reclen > n - (end - begin))
			break;
		end += e->d_reclen;
		i++;
	}
	if (begin == end)
		return begin == d->list_size ? 0 : -EINVAL;
	if (guest_write(to, map + h->lists + d->list + begin, end - begin))
		return -EFAULT;
	return sys_lseek(fd, (int64_t)(START + i), SEEK_SET) == (long)(START + i) ? (long)(end - begin) : INDEX_ASK;
}
