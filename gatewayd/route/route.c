/* SPDX-License-Identifier: MIT */
/* Readers see an open-addressed array of domains with pointers to their entries. The writer keeps
 * the same entries by tunnel, and lists of them by domain, and publishes by filling a new array, so
 * that publishing is one pass over pointers and readers never meet a half-made change. */
#include "gatewayd/route/table.h"
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* ---- state ---- */

struct route_state *route_state_ref(struct route_state *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void route_state_put(struct route_state *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	slots_put(s->slots);
	free(s);
}

void route_drop(struct route *r)
{
	route_state_put(r->state);
	route_rules_put(r->rules);
	r->state = NULL;
	r->rules = NULL;
}

static struct route_state *state_new(const uint8_t tunnel[static 16])
{
	struct route_state *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	atomic_store(&s->refs, 1);
	loops_mark(s->mark, tunnel);
	if ((s->slots = slots_new()))
		return s;
	free(s);
	return NULL;
}

/* ---- writer ---- */

struct route_table *route_table_new(void)
{
	return calloc(1, sizeof(struct route_table));
}

static void entry_free(struct entry *e)
{
	if (!e)
		return;
	route_state_put(e->e.state);
	route_rules_put(e->e.rules);
	free(e);
}

static struct domain *domain_get(struct route_table *t, const char *name)
{
	struct domain *d;
	size_t n = strlen(name);
	HASH_FIND(by_name, t->domains, name, n, d);
	if (d || !(d = calloc(1, sizeof(*d) + n + 1)))
		return d;
	memcpy(d->name, name, n);
	d->hash = table_hash("", name);
	HASH_ADD_KEYPTR(by_name, t->domains, d->name, n, d);
	return d;
}

/* Frees it when no tunnel has it (any more). Accepts NULL. */
static void domain_done(struct route_table *t, struct domain *d)
{
	if (!d || d->n)
		return;
	HASH_DELETE(by_name, t->domains, d);
	free(d);
}

static void enlist(struct route_table *t, struct domain *d, struct entry *e)
{
	struct entry **at = &d->entries;
	while (*at && (*at)->path_len > e->path_len)
		at = &(*at)->sibling;
	e->sibling = *at;
	*at = e;
	e->domain = d;
	d->n++;
	HASH_ADD(by_tunnel, t->tunnels, e.tunnel, sizeof(e->e.tunnel), e);
	t->changed = true;
}

static void bury(struct route_table *t, struct entry *e)
{
	struct entry **at = &e->domain->entries;
	while (*at != e)
		at = &(*at)->sibling;
	*at = e->sibling;
	e->domain->n--;
	domain_done(t, e->domain);
	e->domain = NULL;
	HASH_DELETE(by_tunnel, t->tunnels, e);
	LL_PREPEND2(t->dead, e, next_dead);
	t->changed = true;
}

static void dead_free(struct route_table *t)
{
	struct entry *e, *tmp;
	LL_FOREACH_SAFE2(t->dead, e, tmp, next_dead)
	entry_free(e);
	t->dead = NULL;
}

void route_table_free(struct route_table *t)
{
	if (!t)
		return;
	struct entry *e, *tmp;
	HASH_ITER (by_tunnel, t->tunnels, e, tmp)
		bury(t, e);
	dead_free(t);
	free(t->view);
	free(t);
}

/* Whether a tunnel can be beside the others of its domain; `was`, its own older version, does not
 * count. */
static int fits(const struct domain *d, const struct entry *e, const struct entry *was,
		struct km_errtext *err)
{
	static const char *const tls[] = {"auto", "own", "passthrough", "off"};
	for (const struct entry *o = d->entries; o; o = o->sibling) {
		if (o == was || o->leaving)
			continue;
		if (o->path_len == e->path_len && !memcmp(o->path, e->path, e->path_len))
			return km_errtext_set(err, KM_EEXIST, "%s%s: another tunnel has this %s",
					      d->name, e->path, e->path_len ? "path" : "domain");
		if (o->e.tls != e->e.tls)
			return km_errtext_set(
			    err, KM_EEXIST,
			    "%s%s: tls is %s here, but %s in another tunnel of this domain",
			    d->name, e->path, tls[e->e.tls], tls[o->e.tls]);
		if (e->e.tls == ROUTE_TLS_PASSTHROUGH)
			return km_errtext_set(err, KM_EEXIST,
					      "%s%s: another tunnel has this domain, which tls = "
					      "passthrough needs whole",
					      d->name, e->path);
	}
	return 0;
}

static struct entry *entry_new(struct route_table *t, const struct route_entry *in,
			       const struct entry *was)
{
	size_t n = in->path && strcmp(in->path, "/") != 0 ? strlen(in->path) : 0;
	struct entry *e = calloc(1, sizeof(*e) + n + 1);
	if (!e)
		return NULL;
	e->e = *in;
	e->e.rules = in->rules ? route_rules_ref(in->rules) : NULL;
	e->e.serial = ++t->serial;
	e->e.state = was ? route_state_ref(was->e.state) : state_new(in->tunnel);
	if (n)
		memcpy(e->path, in->path, n);
	e->e.path = e->path;
	e->path_len = (uint16_t)n;
	if (e->e.state)
		return e;
	entry_free(e);
	return NULL;
}

static int entry_check(const struct route_entry *e, struct km_errtext *err)
{
	bool whole = !e->path || !e->path[0] || !strcmp(e->path, "/");
	if (!route_domain_ok(e->domain))
		return km_errtext_set(err, KM_EINVAL, "%s: not a domain", e->domain);
	if (!whole && !route_path_ok(e->path))
		return km_errtext_set(err, KM_EINVAL, "%s: \"%.128s\" is not a path", e->domain,
				      e->path);
	if (!whole && e->tls == ROUTE_TLS_PASSTHROUGH)
		return km_errtext_set(err, KM_EINVAL,
				      "%s%.128s: a tunnel with tls = passthrough has no path",
				      e->domain, e->path);
	return 0;
}

int route_set(struct route_table *t, const struct route_entry *in, struct km_errtext *err)
{
	struct entry *was;
	int rc = entry_check(in, err);
	if (rc)
		return rc;
	HASH_FIND(by_tunnel, t->tunnels, in->tunnel, sizeof(in->tunnel), was);
	struct domain *d = domain_get(t, in->domain);
	struct entry *e = d ? entry_new(t, in, was) : NULL;
	if (!e) {
		domain_done(t, d);
		return km_errtext_set(err, KM_ENOMEM, "%s: no memory", in->domain);
	}
	if ((rc = fits(d, e, was, err))) {
		entry_free(e);
		domain_done(t, d);
		return rc;
	}
	d->n++; /* keeps it while its only tunnel is replaced */
	if (was)
		bury(t, was);
	d->n--;
	enlist(t, d, e);
	return 0;
}

void route_remove(struct route_table *t, const uint8_t tunnel[static 16])
{
	struct entry *e;
	HASH_FIND(by_tunnel, t->tunnels, tunnel, 16, e);
	if (e)
		bury(t, e);
}

void route_leave(struct route_table *t, const uint8_t tunnel[static 16])
{
	struct entry *e;
	HASH_FIND(by_tunnel, t->tunnels, tunnel, 16, e);
	if (e)
		e->leaving = true;
}

void route_stay(struct route_table *t, const uint8_t tunnel[static 16])
{
	struct entry *e;
	HASH_FIND(by_tunnel, t->tunnels, tunnel, 16, e);
	if (e && fits(e->domain, e, e, NULL))
		bury(t, e);
}

size_t route_count(const struct route_table *t)
{
	return HASH_CNT(by_tunnel, t->tunnels);
}

void route_each(const struct route_table *t, void (*each)(void *arg, const struct route_entry *e),
		void *arg)
{
	struct entry *e, *tmp;
	HASH_ITER (by_tunnel, t->tunnels, e, tmp)
		each(arg, &e->e);
}

void route_each_domain(const struct route_table *t,
		       void (*each)(void *arg, const struct route_entry *e), void *arg)
{
	struct domain *d, *tmp;
	HASH_ITER (by_name, t->domains, d, tmp) {
		const struct entry *last = d->entries;
		while (last->sibling)
			last = last->sibling;
		each(arg, &last->e);
	}
}

static void slot_fill(struct slot *s, const struct domain *d, const struct entry ***list)
{
	const struct entry **at = *list;
	s->hash = d->hash;
	s->n = (uint32_t)d->n;
	if (d->n == 1) {
		s->one = d->entries;
		return;
	}
	s->many = at;
	for (const struct entry *e = d->entries; e; e = e->sibling)
		*at++ = e;
	*list = at;
}

static struct view *view_new(const struct route_table *t)
{
	size_t want = 2 * HASH_CNT(by_name, t->domains) + 1, size = 8;
	while (size < want)
		size *= 2;
	struct view *v = calloc(1, sizeof(*v) + size * sizeof(v->slot[0]) +
				       route_count(t) * sizeof(struct entry *));
	if (!v)
		return NULL;
	v->mask = size - 1;
	const struct entry **list = (const struct entry **)(void *)(v->slot + size);
	struct domain *d, *tmp;
	HASH_ITER (by_name, t->domains, d, tmp) {
		size_t i = d->hash & v->mask;
		while (v->slot[i].n)
			i = (i + 1) & v->mask;
		slot_fill(&v->slot[i], d, &list);
		v->passthrough |= d->entries->e.tls == ROUTE_TLS_PASSTHROUGH;
	}
	return v;
}

int route_publish(struct route_table *t)
{
	if (!t->changed)
		return 0;
	struct view *fresh = view_new(t), *old = atomic_load(&t->view);
	if (!fresh)
		return KM_ENOMEM;
	atomic_store_explicit(&t->view, fresh, memory_order_release);
	urcu_memb_synchronize_rcu();
	READERS_DONE(&t->view);
	free(old);
	dead_free(t);
	t->changed = false;
	return 0;
}
