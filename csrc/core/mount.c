/* The mount table: which host tree a canonical guest path is in, and back. */
#include "core/core.h"

int mount_at(const struct core *k, const char *guest, size_t n)
{
	const struct mount *m = k->plan->mounts;

	for (int i = (int)k->plan->n_mounts - 1; i >= 0; i--)
		if (m[i].guest_len == n && !memcmp(plan_text(k, m[i].guest), guest, n))
			return i;
	return -1;
}

/* Is `dir` (of n bytes) the path itself or a directory above it? */
static bool covers(const char *dir, size_t n, const char *path, size_t len)
{
	return len >= n && !memcmp(dir, path, n) && (len == n || path[n] == '/');
}

int mount_of(const struct core *k, const char *guest, size_t n)
{
	const struct mount *m = k->plan->mounts;
	int best = 0;

	/* Later mounts hide earlier ones at the same target. */
	for (int i = 1; i < (int)k->plan->n_mounts; i++)
		if (m[i].guest_len >= m[best].guest_len && covers(plan_text(k, m[i].guest), m[i].guest_len, guest, n))
			best = i;
	return best;
}

int mounts_inside(const struct core *k, const char *dir, size_t n)
{
	const struct mount *m = k->plan->mounts;

	for (uint32_t i = 1; i < k->plan->n_mounts; i++) {
		const char *g = plan_text(k, m[i].guest);
		if (m[i].guest_len > n && covers(dir, n, g, m[i].guest_len) && !mem_find(g + n + 1, m[i].guest_len - n - 1, "/", 1))
			return 1;
	}
	return 0;
}

bool mounts_below(const struct core *k, const char *dir, size_t n)
{
	const struct mount *m = k->plan->mounts;

	for (uint32_t i = 1; i < k->plan->n_mounts; i++)
		if (m[i].guest_len > n && covers(dir, n, plan_text(k, m[i].guest), m[i].guest_len))
			return true;
	return false;
}

size_t host_path(const struct core *k, int mount, enum layer layer, const char *guest, size_t n, char *host)
{
	const struct mount *m = &k->plan->mounts[mount];
	uint32_t off = layer == LAYER_LOWER ? m->lower : m->host;
	size_t head = layer == LAYER_LOWER ? m->lower_len : m->host_len;
	size_t tail = n - m->guest_len;

	memcpy(host, plan_text(k, off), head);
	memcpy(host + head, guest + m->guest_len, tail);
	head += tail;
	if (!head)
		host[head++] = '/';
	host[head] = 0;
	return head;
}

long guest_path(const struct core *k, const char *host, size_t n, char *guest, int *mount, enum layer *layer)
{
	const struct mount *m = k->plan->mounts;
	size_t best = 0;
	bool any = false;

	if (n == 1 && host[0] == '/')
		n = 0;
	for (uint32_t i = 0; i < k->plan->n_mounts; i++) {
		bool both = m[i].flags & MOUNT_UNION;
		for (int l = 0; l <= both; l++) {
			const char *h = plan_text(k, l ? m[i].lower : m[i].host);
			size_t len = l ? m[i].lower_len : m[i].host_len;

			if ((any && len <= best) || !covers(h, len, host, n) || (m[i].flags & MOUNT_FILE && len != n))
				continue;
			any = true;
			best = len;
			*mount = (int)i;
			*layer = l ? LAYER_LOWER : both ? LAYER_UPPER : LAYER_PLAIN;
		}
	}
	if (!any)
		return -1;
	m += *mount;
	if (m->guest_len + n - best >= GUEST_MAX)
		return -1;
	memmove(guest + m->guest_len, host + best, n - best); /* guest may be the buffer that host is in */
	memcpy(guest, plan_text(k, m->guest), m->guest_len);
	n = m->guest_len + n - best;
	guest[n] = 0;
	/* A mount over this place hides it: the path would lead elsewhere. */
	return mount_of(k, guest, n) == *mount ? (long)n : -1;
}

long show_path(struct core *k, char *text, size_t n)
{
	enum layer layer;
	int mount;
	long r;

	text[n] = 0;
	r = guest_path(k, text, n, text, &mount, &layer);
	if (r < 0)
		return -1;
	if (k->root_len) {
		if (!covers(k->root, k->root_len, text, (size_t)r))
			return -1;
		r -= k->root_len;
		memmove(text, text + k->root_len, (size_t)r + 1);
	}
	if (!r)
		text[r++] = '/';
	text[r] = 0;
	return r;
}
