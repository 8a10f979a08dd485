/* SPDX-License-Identifier: MIT */
/* What readers do with the table, without locks and without allocating. */
#include "gatewayd/route/table.h"
#include <string.h>

static const struct entry *slot_entry(const struct slot *s, size_t i)
{
	return s->n == 1 ? s->one : s->many[i];
}

static const struct slot *view_find(const struct view *v, const char *prefix, const char *name)
{
	uint32_t h = table_hash(prefix, name);
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
