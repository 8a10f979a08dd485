/* SPDX-License-Identifier: MIT */
/* Readers see an open-addressed array of domains with pointers to their entries. The writer keeps
 * the same entries by tunnel, and lists of them by domain, and publishes by filling a new array, so
 * that publishing is one pass over pointers and readers never meet a half-made change. */
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu/urcu-memb.h>

#include "gatewayd/route/route.h"
#include "libkm/base/log.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct entry {
	struct route_entry e; /* first: readers see only this, and */
	uint16_t path_len;    /* close to it */
	bool leaving;         /* in nobody's way */
	struct domain *domain;
	struct entry *sibling; /* of the same domain, with a path that is not longer */
	struct entry *next_dead;
	UT_hash_handle by_tunnel;
	char path[];
};

/* The writer's: the tunnels of one domain, those with longer paths first. */
struct domain {
	struct entry *entries;
	size_t n;
	uint32_t hash;
	UT_hash_handle by_name;
	char name[];
};

/* A domain as readers see it. */
struct slot {
	uint32_t hash, n; /* n 0: nothing here */
	union {
		const struct entry *one;         /* n == 1 */
		const struct entry *const *many; /* as in struct domain */
	};
};

struct view {
	size_t mask;
	bool passthrough;   /* some entry has it */
	struct slot slot[]; /* mask + 1, and behind them the lists that they point to */
};

struct route_table {
	_Atomic(struct view *) view; /* RCU: readers use it inside a read-side section */
	struct domain *domains;
	struct entry *tunnels;
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

static struct route_state *state_new(void)
{
	struct route_state *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	atomic_store(&s->refs, 1);
	if ((s->slots = slots_new()))
		return s;
	free(s);
	return NULL;
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

static struct domain *domain_get(struct route_table *t, const char *name)
{
	struct domain *d;
	size_t n = strlen(name);
	HASH_FIND(by_name, t->domains, name, n, d);
	if (d || !(d = calloc(1, sizeof(*d) + n + 1)))
		return d;
	memcpy(d->name, name, n);
	d->hash = hash_of("", name);
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
	e->e.state = was ? route_state_ref(was->e.state) : state_new();
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

/* ---- readers ---- */

static const struct entry *slot_entry(const struct slot *s, size_t i)
{
	return s->n == 1 ? s->one : s->many[i];
}

static const struct slot *view_find(const struct view *v, const char *prefix, const char *name)
{
	uint32_t h = hash_of(prefix, name);
	size_t skip = strlen(prefix);
	for (size_t i = h & v->mask; v->slot[i].n; i = (i + 1) & v->mask) {
		const struct slot *s = &v->slot[i];
		if (s->hash != h)
			continue;
		const char *domain = slot_entry(s, 0)->e.domain;
		if (!strncmp(domain, prefix, skip) && !strcmp(domain + skip, name))
			return s;
	}
	return NULL;
}

static const struct slot *host_find(const struct view *v, const char *host, bool *wildcard)
{
	const struct slot *s = host[0] != '*' ? view_find(v, "", host) : NULL;
	const char *parent = strchr(host, '.');
	*wildcard = false;
	if (!s && parent && parent != host && parent[1]) {
		s = view_find(v, "*", parent);
		*wildcard = s != NULL;
	}
	return s;
}

static void copy_out(struct route *out, const struct entry *e, bool wildcard)
{
	memcpy(out->tunnel, e->e.tunnel, sizeof(out->tunnel));
	memcpy(out->target, e->e.target, sizeof(out->target));
	out->agent = e->e.agent;
	out->enabled = e->e.enabled;
	out->tls = e->e.tls;
	out->wildcard = wildcard;
	out->path_len = e->path_len;
	out->serial = e->e.serial;
	out->state = route_state_ref(e->e.state);
	out->rules = e->e.rules ? route_rules_ref(e->e.rules) : NULL;
}

bool route_find(const struct route_table *t, const char *host, struct route *out)
{
	bool wildcard = false;
	urcu_memb_read_lock();
	const struct view *v = atomic_load_explicit(&t->view, memory_order_acquire);
	const struct slot *s = v ? host_find(v, host, &wildcard) : NULL;
	if (s && out)
		copy_out(out, slot_entry(s, s->n - 1), wildcard);
	READER_DONE(&t->view);
	urcu_memb_read_unlock();
	return s != NULL;
}

/* The longest path that fits; NULL: none. */
static const struct entry *path_find(const struct slot *s, const char *p, size_t n)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct entry *e = slot_entry(s, i);
		if (route_path_under(p, n, e->path, e->path_len))
			return e;
	}
	return NULL;
}

/* Whether every reading of the path leads to e. */
static bool all_lead_to(const struct slot *s, const struct entry *e, const char *p, size_t n)
{
	char text[ROUTE_PATH_VIEW];
	unsigned views = route_path_views(p, n), may = views & ~(unsigned)ROUTE_VIEW_PLAIN;
	if (!views)
		return true;
	/* All subsets of `may`, the empty one last. */
	for (unsigned view = may;; view = (view - 1) & may) {
		size_t len = route_path_view(text, p, n, view);
		if (path_find(s, text, len) != e)
			return false;
		if (!view)
			return true;
	}
}

static enum route_found slot_match(const struct slot *s, const char *target, size_t n,
				   const struct entry **out)
{
	*out = slot_entry(s, 0);
	if (s->n == 1 && !(*out)->path_len)
		return ROUTE_FOUND;
	size_t len = route_path_len(target, n);
	if (!len || target[0] != '/') {
		target = "/";
		len = 1;
	}
	*out = path_find(s, target, len);
	if (!all_lead_to(s, *out, target, len))
		return ROUTE_UNCLEAR;
	return *out ? ROUTE_FOUND : ROUTE_NO_PATH;
}

enum route_found route_match(const struct route_table *t, const char *host, const char *target,
			     size_t n, struct route *out)
{
	bool wildcard = false;
	const struct entry *e;
	enum route_found found = ROUTE_NO_HOST;
	urcu_memb_read_lock();
	const struct view *v = atomic_load_explicit(&t->view, memory_order_acquire);
	const struct slot *s = v ? host_find(v, host, &wildcard) : NULL;
	if (s && (found = slot_match(s, target, n, &e)) == ROUTE_FOUND)
		copy_out(out, e, wildcard);
	else if (s)
		*out = (struct route){.tls = slot_entry(s, 0)->e.tls};
	READER_DONE(&t->view);
	urcu_memb_read_unlock();
	return found;
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
