/* udk inside udk: a guest of ours executes a udk-trap of its own.
 *
 * Two engines cannot share the one address. So ours runs in the place of the guest's, reads the description that it
 * was given, and turns the paths in it, which are our guest's, into the host's. What it starts then belongs to the
 * inner container alone, and costs what it costs outside. The filter is there already.
 */
#include "trap/trap.h"
#include "core/index.h"

static struct plan *made; /* the inner plan, before it is put in the outer's place */

static long add(const char *s, uint32_t *at, uint16_t *len)
{
	size_t n = strlen(s);
	uint32_t made_at = n > 1024 ? 0 : plan_string(made, s, n);

	if (!made_at)
		return -ENAMETOOLONG;
	*at = made_at;
	if (len)
		*len = (uint16_t)n;
	return 0;
}

/* The place of a path of the outer container, its host path in one piece. */
static long locate(struct call *c, const char *path, bool make, struct place *p)
{
	long r = resolve_text(c, AT_FDCWD, path, strlen(path), make ? KEEP_SLASH : FOLLOW, p);

	if (r)
		return r;
	if (p->raw || p->magic)
		return -EXDEV;
	if (make && !p->self && !p->mounted) {
		r = readonly(c, p) ? -EROFS : make_parent(c, p);
		if (!r)
			place_host(c, p, first_layer(p));
	} else if (!p->found) {
		r = lookup(c, p);
	}
	if (r)
		return r;
	if (p->direct) {
		p->direct = false;
		place_host(c, p, (enum layer)p->layer);
	}
	return p->dfd != AT_FDCWD || p->host[0] != '/' ? -ENAMETOOLONG : 0;
}

static long text(struct call *c, uint32_t *at, bool make)
{
	struct place *p = &c->w->a;
	const char *path = made->strings + *at;
	long r = *path ? locate(c, path, make, p) : 0;

	return r || !*path ? r : add(p->host, at, NULL);
}

static enum kind kind_of(struct call *c, const struct place *p)
{
	if (p->self)
		return p->kind;
	return p->mounted || (p->st.st_mode & S_IFMT) != S_IFDIR ? (enum kind)(p->mounted ? IN_PLAIN : p->kind == IN_MERGED ?
	       (p->layer == LAYER_LOWER ? IN_LOWER : IN_UPPER) : p->kind) : kind_below(c, p);
}

/* One tree, in one layer of the outer container. */
static long one_tree(struct call *c, uint32_t *at, uint16_t *len, uint16_t *flags, bool write)
{
	struct place *p = &c->w->a;
	long r = locate(c, *len ? made->strings + *at : "/", false, p);
	enum kind kind;

	if (r)
		return r;
	kind = kind_of(c, p);
	if (kind == IN_MERGED || (kind == IN_LOWER && write))
		return -EXDEV;
	if (write && readonly(c, p))
		*flags |= MOUNT_RO;
	return add(str_eq(p->host, "/") ? "" : p->host, at, len);
}

/* What is in both layers of the outer container is a union here too. */
static long bind(struct call *c, struct mount *m)
{
	struct place *p = &c->w->a;
	long r = locate(c, m->host_len ? made->strings + m->host : "/", false, p);
	enum kind kind;

	if (r)
		return r;
	if (readonly(c, p))
		m->flags |= MOUNT_RO;
	kind = kind_of(c, p);
	if (kind == IN_LOWER && !(m->flags & MOUNT_RO)) {
		r = copy_up(c, p, true);
		if (r)
			return r;
		kind = (p->st.st_mode & S_IFMT) == S_IFDIR ? IN_MERGED : IN_UPPER;
	}
	if (kind == IN_MERGED) {
		size_t n = host_path(c->core, p->mount, LAYER_LOWER, p->guest, p->len, p->host);

		m->flags |= MOUNT_UNION;
		r = add(n > 1 ? p->host : "", &m->lower, &m->lower_len);
		host_path(c->core, p->mount, LAYER_UPPER, p->guest, p->len, p->host);
	} else {
		place_host(c, p, kind == IN_PLAIN ? LAYER_PLAIN : kind == IN_UPPER ? LAYER_UPPER : LAYER_LOWER);
	}
	return r ? r : add(str_eq(p->host, "/") ? "" : p->host, &m->host, &m->host_len);
}

long nested_state(struct core *k, char *path)
{
	struct call c = { .core = k, .w = slot_take() };
	long r = locate(&c, path, false, &c.w->a);

	if (!r)
		str_copy(path, c.w->a.host, GUEST_MAX);
	slot_give(c.w);
	return r;
}

/* Makes the description's paths the host's and forgets the outer container. 0, or -errno and what is wrong. */
long nested_plan(struct core *k, struct plan *plan, const char **what)
{
	struct call c = { .core = k, .w = slot_take() };
	long r = 0;

	made = plan;
	for (uint32_t i = 0; !r && i < plan->n_mounts; i++) {
		struct mount *m = &plan->mounts[i];

		*what = m->host_len ? plan->strings + m->host : "/";
		if (!(m->flags & MOUNT_UNION) && i) {
			r = bind(&c, m);
			continue;
		}
		r = one_tree(&c, &m->host, &m->host_len, &m->flags, true);
		if (!r && m->flags & MOUNT_UNION) {
			*what = plan->strings + m->lower;
			r = one_tree(&c, &m->lower, &m->lower_len, &m->flags, false);
		}
	}
	for (int i = 0; !r && i < 4; i++) {
		uint32_t *at = i == 0 ? &plan->state : i == 1 ? &plan->work : i == 2 ? &plan->changes : &plan->record;

		*what = plan->strings + *at;
		r = text(&c, at, i < 3);
	}
	plan->index = 0; /* made with what a guest sees of its tree */
	if (!r)
		r = add(plan_text(k, k->plan->loader), &plan->loader, NULL);
	if (!r)
		r = add(plan_text(k, k->plan->sockets), &plan->sockets, NULL);
	slot_give(c.w);
	if (!r)
		nested_leave(k);
	return r;
}

/* The outer container is no longer ours. */
void nested_leave(struct core *k)
{
	if (k->changes)
		sys_munmap(k->changes, sizeof *k->changes);
	k->changes = NULL;
	k->root_len = 0;
	k->root[0] = k->exe[0] = 0;
	roots_close(k);
	notes_drop(k);
	owner_forget_record();
	index_forget();
}
