/* SPDX-License-Identifier: MIT */
/* Readers see an open-addressed array of pointers to entries. The writer keeps the same entries in
 * two hash tables (by tunnel and by domain) and publishes by filling a new array, so that
 * publishing is one pass over pointers and readers never meet a half-made change. */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu/urcu-memb.h>

#include "gatewayd/route/route.h"
#include "libkm/base/log.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct entry {
	struct route_entry e; /* first: readers see only this */
	uint32_t hash;
	struct entry *next_dead;
	UT_hash_handle by_domain, by_tunnel;
};

struct view {
	size_t mask;
	bool passthrough; /* some entry has it */
	struct entry *slot[];
};

struct route_table {
	_Atomic(struct view *) view; /* RCU: readers use it inside a read-side section */
	struct entry *domains, *tunnels;
	struct entry *dead; /* still seen by readers of the published view */
	uint64_t serial;
	bool changed;
};

/* ThreadSanitizer does not see liburcu's barriers: it is told that what readers did comes before
 * the end of the grace period. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define READER_DONE(p) __tsan_release((void *)(uintptr_t)(p))
#define READERS_DONE(p) __tsan_acquire((void *)(uintptr_t)(p))
#else
#define READER_DONE(p) ((void)(p))
#define READERS_DONE(p) ((void)(p))
#endif

/* ---- state ---- */

struct route_state *route_state_ref(struct route_state *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void route_state_put(struct route_state *s)
{
	if (s && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		free(s);
}

void route_drop(struct route *r)
{
	route_state_put(r->state);
	route_rules_put(r->rules);
	r->state = NULL;
	r->rules = NULL;
}

static struct route_state *state_new(void)
{
	struct route_state *s = calloc(1, sizeof(*s));
	if (s)
		atomic_store(&s->refs, 1);
	return s;
}

/* ---- domains ---- */

static bool label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool route_domain_ok(const char *s)
{
	size_t n = strlen(s), label = 0;
	if (n > ROUTE_DOMAIN_MAX)
		return false;
	if (s[0] == '*' && s[1] == '.')
		s += 2;
	for (; *s; s++) {
		if (*s == '.' ? label == 0 : !label_char(*s))
			return false;
		label = *s == '.' ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return label > 0;
}

bool route_domain_allowed(const char *domain, char *const *patterns, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *p = patterns[i];
		if (!strcasecmp(p, domain))
			return true;
		if (p[0] != '*' || p[1] != '.')
			continue;
		size_t tail = strlen(p + 1), len = strlen(domain);
		if (len > tail && !strcasecmp(domain + len - tail, p + 1))
			return true;
	}
	return false;
}

/* FNV-1a: the names are the operator's, strangers can only look them up. */
static uint32_t hash_of(const char *prefix, const char *s)
{
	uint32_t h = 2166136261u;
	for (; *prefix; prefix++)
		h = (h ^ (unsigned char)*prefix) * 16777619u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h ^ (h >> 15);
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

static void bury(struct route_table *t, struct entry *e)
{
	HASH_DELETE(by_domain, t->domains, e);
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

int route_set(struct route_table *t, const struct route_entry *in)
{
	struct entry *was, *owner;
	if (!route_domain_ok(in->domain))
		return KM_EINVAL;
	HASH_FIND(by_tunnel, t->tunnels, in->tunnel, sizeof(in->tunnel), was);
	HASH_FIND(by_domain, t->domains, in->domain, strlen(in->domain), owner);
	if (owner && owner != was)
		return KM_EEXIST;
	struct entry *e = calloc(1, sizeof(*e));
	if (!e)
		return KM_ENOMEM;
	e->e = *in;
	e->e.serial = ++t->serial;
	e->e.state = was ? route_state_ref(was->e.state) : state_new();
	e->hash = hash_of("", e->e.domain);
	if (!e->e.state) {
		free(e);
		return KM_ENOMEM;
	}
	if (e->e.rules)
		route_rules_ref(e->e.rules);
	if (was)
		bury(t, was);
	HASH_ADD_KEYPTR(by_domain, t->domains, e->e.domain, strlen(e->e.domain), e);
	HASH_ADD(by_tunnel, t->tunnels, e.tunnel, sizeof(e->e.tunnel), e);
	t->changed = true;
	return 0;
}

void route_remove(struct route_table *t, const uint8_t tunnel[static 16])
{
	struct entry *e;
	HASH_FIND(by_tunnel, t->tunnels, tunnel, 16, e);
	if (e)
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

static struct view *view_new(const struct route_table *t)
{
	size_t want = 2 * route_count(t) + 1, size = 8;
	while (size < want)
		size *= 2;
	struct view *v = calloc(1, sizeof(*v) + size * sizeof(v->slot[0]));
	if (!v)
		return NULL;
	v->mask = size - 1;
	struct entry *e, *tmp;
	HASH_ITER (by_tunnel, t->tunnels, e, tmp) {
		size_t i = e->hash & v->mask;
		while (v->slot[i])
			i = (i + 1) & v->mask;
		v->slot[i] = e;
		v->passthrough |= e->e.tls == ROUTE_TLS_PASSTHROUGH;
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

/* ---- readers ---- */

static const struct entry *view_find(const struct view *v, const char *prefix, const char *name)
{
	uint32_t h = hash_of(prefix, name);
	size_t skip = strlen(prefix);
	for (size_t i = h & v->mask; v->slot[i]; i = (i + 1) & v->mask) {
		const struct entry *e = v->slot[i];
		if (e->hash == h && !strncmp(e->e.domain, prefix, skip) &&
		    !strcmp(e->e.domain + skip, name))
			return e;
	}
	return NULL;
}

static const struct entry *host_find(const struct view *v, const char *host, bool *wildcard)
{
	const struct entry *e = host[0] != '*' ? view_find(v, "", host) : NULL;
	const char *parent = strchr(host, '.');
	*wildcard = false;
	if (!e && parent && parent != host && parent[1]) {
		e = view_find(v, "*", parent);
		*wildcard = e != NULL;
	}
	return e;
}

bool route_find(const struct route_table *t, const char *host, struct route *out)
{
	bool wildcard = false;
	urcu_memb_read_lock();
	const struct view *v = atomic_load_explicit(&t->view, memory_order_acquire);
	const struct entry *e = v ? host_find(v, host, &wildcard) : NULL;
	if (e && out) {
		memcpy(out->tunnel, e->e.tunnel, sizeof(out->tunnel));
		memcpy(out->target, e->e.target, sizeof(out->target));
		out->agent = e->e.agent;
		out->enabled = e->e.enabled;
		out->tls = e->e.tls;
		out->wildcard = wildcard;
		out->serial = e->e.serial;
		out->state = route_state_ref(e->e.state);
		out->rules = e->e.rules ? route_rules_ref(e->e.rules) : NULL;
	}
	READER_DONE(&t->view);
	urcu_memb_read_unlock();
	return e != NULL;
}

bool route_any_passthrough(const struct route_table *t)
{
	urcu_memb_read_lock();
	const struct view *v = atomic_load_explicit(&t->view, memory_order_acquire);
	bool any = v && v->passthrough;
	READER_DONE(&t->view);
	urcu_memb_read_unlock();
	return any;
}
