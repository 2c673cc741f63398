/* Remembered resolutions, shared by all processes of the container.
 *
 * An entry says "this text names that plain directory" or "this inode is that directory" and holds for one value of
 * the generation counter. Whoever removes, replaces or shadows a directory or link whose name some entry went
 * through (the bloom filter knows the names) raises the counter. The order makes it sound: a walker adds the name
 * to the filter before it looks at the disk, a changer looks into the filter after it changed the disk.
 *
 * Entries are written under a sequence number, without a lock: a writer that finds one being written gives up, a
 * reader that sees it change takes it for absent. A process killed while writing costs one entry.
 */
#include "core/core.h"
#include "core/index.h"

/* Fewer than eight bytes as a word, without a loop that ends where the processor did not expect it. */
static inline uint64_t few_bytes(const char *s, size_t n)
{
	uint32_t low, high;

	if (n < 4)
		return n ? (unsigned char)s[0] | (uint64_t)(unsigned char)s[n / 2] << (8 * (n / 2)) |
				    (uint64_t)(unsigned char)s[n - 1] << (8 * (n - 1))
			 : 0;
	memcpy(&low, s, 4);
	memcpy(&high, s + n - 4, 4);
	return low | (uint64_t)high << (8 * (n - 4));
}

uint64_t text_hash(const char *s, size_t n)
{
	uint64_t h = 0x9e3779b97f4a7c15ULL ^ n, w;

	for (; n >= 8; n -= 8, s += 8) {
		memcpy(&w, s, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	h = (h ^ few_bytes(s, n)) * 0xff51afd7ed558ccdULL;
	return h ^ h >> 29;
}

static uint64_t inode_hash(uint64_t dev, uint64_t ino)
{
	uint64_t h = (ino ^ dev << 40) * 0xff51afd7ed558ccdULL;

	return h ^ h >> 31;
}

static inline bool same_text(const char *a, const char *b, size_t n)
{
	uint64_t x, y;

	for (; n >= 8; n -= 8, a += 8, b += 8) {
		memcpy(&x, a, 8);
		memcpy(&y, b, 8);
		if (x != y)
			return false;
	}
	return few_bytes(a, n) == few_bytes(b, n);
}

/* What lies in a mount that others change, too, is known for some milliseconds: a client of a network file system knows it
 * for longer. */
#define BRIEF 32

static bool lasts(const struct cached *e)
{
	uint32_t made = __atomic_load_n(&e->made, __ATOMIC_RELAXED), now;

	if (!made)
		return true;
	now = ticks();
	return now && now - made < BRIEF;
}

/* The entry for a place in one of the tables, or NULL. */
static struct cached *entry_at(const struct core *k, volatile uint16_t *place, bool make)
{
	uint16_t i = __atomic_load_n(place, __ATOMIC_ACQUIRE), none = 0;
	uint32_t n;

	if (!i && make && k->plan->cached_used < CACHED) {
		n = __atomic_fetch_add(&k->plan->cached_used, 1, __ATOMIC_RELAXED);
		if (n < CACHED) {
			i = (uint16_t)(n + 1);
			if (!__atomic_compare_exchange_n(place, &none, i, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
				i = none; /* another was faster */
		}
	}
	return i && i <= CACHED ? &k->plan->cached[i - 1] : NULL;
}

static struct cached *by_text(const struct core *k, uint64_t hash, bool make)
{
	return entry_at(k, &k->plan->dirs[hash % DIR_CACHE], make);
}

static struct cached *by_inode(const struct core *k, uint64_t dev, uint64_t ino, bool make)
{
	return entry_at(k, &k->plan->fds[inode_hash(dev, ino) % FD_CACHE], make);
}

/* Is it what is remembered of the key? What is read of it then counts if it is `unchanged` afterwards, and if it `lasts`. */
static bool matches(const struct core *k, const struct cached *e, uint64_t key1, uint64_t key2, const char *key, size_t n,
		    uint32_t *seq, uint16_t *len)
{
	if (!e)
		return false;
	*seq = __atomic_load_n(&e->seq, __ATOMIC_ACQUIRE);
	*len = e->len;
	return !(*seq & 1) && e->key1 == key1 && e->key2 == key2 && e->key_len == n && n + *len <= CACHE_TEXT &&
	       e->generation == k->plan->generation && same_text(e->text, key, n);
}

static bool unchanged(const struct cached *e, uint32_t seq)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&e->seq, __ATOMIC_RELAXED) == seq;
}

/* Copies the path out of a matching entry. -1 when it does not match, is stale or is being written. */
static int take(struct core *k, const struct cached *e, uint64_t key1, uint64_t key2, const char *key, size_t n,
		struct place *p)
{
	uint32_t seq;
	uint16_t len;
	int inside;

	if (!matches(k, e, key1, key2, key, n, &seq, &len) || !lasts(e))
		return -1;
	inside = e->mounts_inside;
	memcpy(p->guest, e->text + n, len);
	p->guest[len] = 0;
	p->len = len;
	p->mount = e->mount;
	p->kind = e->kind;
	if (!n)
		p->layer = e->layer;
	return unchanged(e, seq) ? inside : -1;
}

/* For now it may be none; who looks again and could use one finds it by the path, or asks for it to be remembered anew. */
static uint32_t dir_of(struct core *k, const struct place *p)
{
	return p->kind == IN_LOWER && !p->mount ? index_dir(k, p->guest, p->len) : INDEX_NONE;
}

static void keep(const struct core *k, struct cached *e, uint32_t generation, uint64_t key1, uint64_t key2, const char *key, size_t n,
		 const char *path, size_t len, const struct place *p, int inside, uint32_t dir)
{
	uint32_t seq;

	if (!e)
		return;
	seq = __atomic_load_n(&e->seq, __ATOMIC_RELAXED);
	if (n + len > CACHE_TEXT || seq & 1 ||
	    !__atomic_compare_exchange_n(&e->seq, &seq, seq + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	e->key1 = key1;
	e->key2 = key2;
	e->key_len = (uint16_t)n;
	memcpy(e->text, key, n);
	memcpy(e->text + n, path, len);
	e->len = (uint16_t)len;
	e->mount = p->mount;
	e->kind = p->kind;
	e->layer = p->layer;
	e->mounts_inside = (uint8_t)inside;
	e->dir = dir;
	e->made = k->plan->mounts[p->mount].flags & MOUNT_CACHE ? 0 : MAX(ticks(), 1U);
	e->generation = generation;
	__atomic_store_n(&e->seq, seq + 2, __ATOMIC_RELEASE);
}

int cache_text(struct core *k, const char *key, size_t n, struct place *p)
{
	uint64_t h = text_hash(key, n);

	return take(k, by_text(k, h, false), h, n, key, n, p);
}

void cache_keep_text(struct core *k, uint32_t generation, const char *key, size_t n, const struct place *p, int inside)
{
	uint64_t h = text_hash(key, n);

	keep(k, by_text(k, h, true), generation, h, n, key, n, p->guest, p->len, p, inside, dir_of(k, p));
}

long cache_leads(struct core *k, const char *text, size_t n, struct note *what, char *to, size_t size)
{
	uint64_t h = text_hash(text, n);
	const struct cached *e = by_text(k, h, false);
	uint32_t seq;
	uint16_t len;

	if (!matches(k, e, h, n, text, n, &seq, &len) || !lasts(e) || e->mounts_inside || e->kind == IN_MERGED || len >= size)
		return -1;
	what->mount = e->mount;
	what->kind = e->kind;
	what->dir = e->dir;
	memcpy(to, e->text + n, len);
	return unchanged(e, seq) ? len : -1;
}

/* Kept with the texts; in the place of the length is what no length is, nor an inode's number. */
#define PROGRAM (1UL << 32)

static uint64_t program_hash(const char *path, size_t n)
{
	return text_hash(path, n) ^ PROGRAM;
}

enum known cache_program(struct core *k, const char *path, size_t n, char *to)
{
	uint64_t h = program_hash(path, n);
	const struct cached *e = by_text(k, h, false);
	enum known is;
	uint32_t seq;
	uint16_t len;

	if (!matches(k, e, h, PROGRAM, path, n, &seq, &len) || !lasts(e))
		return NOT_KNOWN;
	is = e->mounts_inside ? KNOWN_WELL : SEEN_ONCE; /* nothing is mounted in a file: the place is free */
	memcpy(to, e->text + n, len);
	return unchanged(e, seq) && len && !to[len - 1] && strlen(to) + 1U < len ? is : NOT_KNOWN;
}

void cache_keep_program(struct core *k, uint32_t generation, const char *path, enum known is, const struct place *file,
			const struct place *interpreter)
{
	size_t n = strlen(path), most = interpreter ? interpreter->len : 0U;
	uint64_t h = program_hash(path, n);
	char both[CACHE_TEXT];

	if (n + file->len + most + 2 > CACHE_TEXT)
		return;
	memcpy(both, file->guest, file->len + 1U);
	memcpy(both + file->len + 1, interpreter ? interpreter->guest : "", most + 1);
	keep(k, by_text(k, h, true), generation, h, PROGRAM, path, n, both, file->len + most + 2, file, is == KNOWN_WELL, 0);
}

bool cache_straight(struct core *k, const char *text, size_t n, struct note *what)
{
	char to[CACHE_TEXT];

	return cache_leads(k, text, n, what, to, sizeof to) == (long)n && same_text(to, text, n);
}

bool known_directory(struct core *k, const char *text, size_t n)
{
	struct note what;

	return text[0] == '/' && cache_straight(k, text, n, &what);
}

/* These are kept with the texts, told from them by the inode's number in the place of the length. */
static uint64_t below_hash(uint64_t dev, uint64_t ino, const char *text, size_t n)
{
	return text_hash(text, n) ^ inode_hash(dev, ino);
}

static struct cached *below(const struct core *k, uint64_t dev, uint64_t ino, const char *text, size_t n, uint32_t *seq)
{
	uint64_t h = below_hash(dev, ino, text, n);
	struct cached *e = by_text(k, h, false);
	uint64_t found;
	uint16_t len;

	if (!matches(k, e, h, ~ino, text, n, seq, &len) || len != sizeof dev)
		return NULL;
	memcpy(&found, e->text + n, sizeof found);
	return found == dev ? e : NULL;
}

enum known cache_below(struct core *k, uint64_t dev, uint64_t ino, const char *text, size_t n, struct note *what)
{
	uint32_t seq;
	const struct cached *e = below(k, dev, ino, text, n, &seq);
	enum known is;

	if (!e)
		return NOT_KNOWN;
	what->mount = e->mount;
	what->kind = e->kind;
	what->quiet = !e->mounts_inside;
	what->dir = e->dir;
	is = lasts(e) ? KNOWN_WELL : SEEN_ONCE;
	return unchanged(e, seq) && (what->dir || !index_ready(k, 0)) ? is : NOT_KNOWN;
}

void cache_seen_below(struct core *k, uint64_t dev, uint64_t ino, const char *text, size_t n, uint32_t now)
{
	uint32_t seq;
	struct cached *e = below(k, dev, ino, text, n, &seq);

	if (e) /* or what was just put in its place, which was seen as late */
		__atomic_store_n(&e->made, MAX(now, 1U), __ATOMIC_RELAXED);
}

void cache_keep_below(struct core *k, uint32_t generation, uint64_t dev, uint64_t ino, const char *text, size_t n, const struct place *p)
{
	uint64_t h = below_hash(dev, ino, text, n);

	keep(k, by_text(k, h, true), generation, h, ~ino, text, n, (const char *)&dev, sizeof dev, p, mounts_below(k, p->guest, p->len), dir_of(k, p));
}

int cache_inode(struct core *k, uint64_t dev, uint64_t ino, struct place *p)
{
	return take(k, by_inode(k, dev, ino, false), dev, ino, NULL, 0, p);
}

void cache_keep_inode(struct core *k, uint32_t generation, uint64_t dev, uint64_t ino, const struct place *p, int inside)
{
	keep(k, by_inode(k, dev, ino, true), generation, dev, ino, "", 0, p->guest, p->len, p, inside, 0);
}

void bloom_add(struct core *k, const char *name, size_t n)
{
	uint64_t h = text_hash(name, n);
	volatile uint64_t *w = &k->plan->bloom[h / 64 % BLOOM_WORDS];
	uint64_t bit = (uint64_t)1 << h % 64;

	if (!(*w & bit))
		__atomic_fetch_or(w, bit, __ATOMIC_SEQ_CST);
}

void changed_name(struct core *k, const char *name, size_t n)
{
	uint64_t h = text_hash(name, n);

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (k->plan->bloom[h / 64 % BLOOM_WORDS] >> h % 64 & 1)
		changed(k);
}

/* The names above what is deep are not known to the filter. The same order: the flag is set before the disk is looked
 * at, and for the generation of before. */
void changed_above(struct core *k)
{
	if (!k->plan->deep)
		return;
	k->plan->deep = 0;
	changed(k);
}

void changed(struct core *k)
{
	__atomic_fetch_add(&k->plan->generation, 1, __ATOMIC_SEQ_CST);
}
