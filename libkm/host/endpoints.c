/* SPDX-License-Identifier: MIT */
#include "libkm/host/endpoints.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
	struct km_addr addr;
	uint64_t failed; /* the number of its last failure; 0: none */
};
struct entry {
	char name[254];
	bool literal;
	size_t n;
	struct candidate list[KM_ENDPOINTS_ADDRS];
};
struct km_endpoints {
	size_t n;
	struct entry entries[KM_ENDPOINTS_ENTRIES];
	bool has_used, has_good;
	struct km_addr used, good; /* good: the one that worked last */
	unsigned tries;            /* fruitless handshakes with the one in use */
	uint64_t failures;
};

struct km_endpoints *km_endpoints_new(void)
{
	return km_xcalloc(1, sizeof(struct km_endpoints));
}

void km_endpoints_free(struct km_endpoints *e)
{
	free(e);
}

static struct candidate *in_entry(struct entry *t, const struct km_addr *a)
{
	for (size_t i = 0; i < t->n; i++)
		if (km_addr_eq(&t->list[i].addr, a))
			return &t->list[i];
	return NULL;
}

static bool listed(const struct km_endpoints *e, const struct km_addr *a)
{
	for (size_t i = 0; i < e->n; i++)
		if (in_entry((struct entry *)&e->entries[i], a))
			return true;
	return false;
}

/* ---- what is known ---- */

static void entry_of(struct entry *t, const char *name, const struct km_endpoints *old)
{
	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < old->n; i++) {
		if (strcmp(old->entries[i].name, name) == 0) {
			*t = old->entries[i];
			return;
		}
	}
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->literal = km_addr_parse(&t->list[0].addr, name) == 0;
	t->n = t->literal ? 1 : 0;
}

void km_endpoints_set(struct km_endpoints *e, const char *const *entries, size_t n)
{
	const struct km_endpoints old = *e;

	e->n = n < KM_ENDPOINTS_ENTRIES ? n : KM_ENDPOINTS_ENTRIES;
	for (size_t i = 0; i < e->n; i++)
		entry_of(&e->entries[i], entries[i], &old);
	if (e->has_used && !listed(e, &e->used))
		e->tries = KM_ENDPOINTS_TRIES;
}

const char *km_endpoints_host(const struct km_endpoints *e, size_t i)
{
	return i < e->n && !e->entries[i].literal ? e->entries[i].name : NULL;
}

bool km_endpoints_resolved(struct km_endpoints *e, size_t i, const struct km_addr *addrs, size_t n)
{
	struct entry old, *t = &e->entries[i];
	bool news;

	if (!km_endpoints_host(e, i) || n == 0)
		return false;
	old = *t;
	t->n = 0;
	for (size_t k = 0; k < n && t->n < KM_ENDPOINTS_ADDRS; k++) {
		const struct candidate *known = in_entry(&old, &addrs[k]);

		if (in_entry(t, &addrs[k]))
			continue;
		t->list[t->n++] = (struct candidate){addrs[k], known ? known->failed : 0};
	}
	news = t->n != old.n;
	for (size_t k = 0; k < t->n; k++)
		news |= in_entry(&old, &t->list[k].addr) == NULL;
	return news;
}

size_t km_endpoints_candidates(const struct km_endpoints *e)
{
	size_t n = 0;

	for (size_t i = 0; i < e->n; i++)
		n += e->entries[i].n;
	return n;
}

/* ---- the one in use ---- */

void km_endpoints_failed(struct km_endpoints *e)
{
	struct candidate *c;

	if (!e->has_used || ++e->tries < KM_ENDPOINTS_TRIES)
		return;
	e->failures++;
	for (size_t i = 0; i < e->n; i++) {
		c = in_entry(&e->entries[i], &e->used);
		if (c)
			c->failed = e->failures;
	}
}

bool km_endpoints_works(struct km_endpoints *e)
{
	struct candidate *c;
	bool news = e->has_used && !(e->has_good && km_addr_eq(&e->good, &e->used));

	e->tries = 0;
	e->has_good = e->has_used;
	e->good = e->used;
	for (size_t i = 0; i < e->n; i++) {
		c = in_entry(&e->entries[i], &e->used);
		if (c)
			c->failed = 0;
	}
	return news;
}

/* The one that worked before a restart comes first; then the longest ago failed, the first of
 * these. */
static const struct candidate *best(const struct km_endpoints *e,
				    bool (*usable)(void *arg, const struct km_addr *a), void *arg)
{
	const struct candidate *found = NULL;

	for (size_t i = 0; i < e->n; i++) {
		for (size_t k = 0; k < e->entries[i].n; k++) {
			const struct candidate *c = &e->entries[i].list[k];

			if ((e->has_used && km_addr_eq(&c->addr, &e->used)) ||
			    !usable(arg, &c->addr))
				continue;
			if (!e->has_used && e->has_good && km_addr_eq(&c->addr, &e->good))
				return c;
			if (!found || c->failed < found->failed)
				found = c;
		}
	}
	return found;
}

bool km_endpoints_choose(struct km_endpoints *e, bool (*usable)(void *arg, const struct km_addr *a),
			 void *arg)
{
	const struct candidate *next;

	if (e->has_used && e->tries == 0)
		return false;
	if (e->has_used && e->tries < KM_ENDPOINTS_TRIES && listed(e, &e->used) &&
	    usable(arg, &e->used))
		return false;
	next = best(e, usable, arg);
	if (!next)
		return false; /* what there was is tried again */
	e->used = next->addr;
	e->has_used = true;
	e->tries = 0;
	return true;
}

const struct km_addr *km_endpoints_used(const struct km_endpoints *e)
{
	return e->has_used ? &e->used : NULL;
}

/* ---- on disk ---- */

static json_t *text_of(const struct km_addr *a)
{
	char text[KM_ADDR_STRLEN];

	return json_string(km_addr_str(a, text));
}

json_t *km_endpoints_save(const struct km_endpoints *e)
{
	json_t *saved = json_object(), *names = json_object();

	for (size_t i = 0; i < e->n; i++) {
		const struct entry *t = &e->entries[i];
		json_t *list;

		if (t->literal || !t->n)
			continue;
		list = json_array();
		for (size_t k = 0; k < t->n; k++)
			json_array_append_new(list, text_of(&t->list[k].addr));
		json_object_set_new(names, t->name, list);
	}
	json_object_set_new(saved, "names", names);
	if (e->has_good)
		json_object_set_new(saved, "worked", text_of(&e->good));
	return saved;
}

static bool parsed(struct km_addr *a, const json_t *v)
{
	return json_is_string(v) && km_addr_parse(a, json_string_value(v)) == 0;
}

void km_endpoints_load(struct km_endpoints *e, const json_t *saved)
{
	const json_t *names = json_object_get(saved, "names"), *v;
	size_t k;

	e->has_good = parsed(&e->good, json_object_get(saved, "worked"));
	for (size_t i = 0; i < e->n; i++) {
		struct km_addr addrs[KM_ENDPOINTS_ADDRS];
		size_t n = 0;

		json_array_foreach(json_object_get(names, e->entries[i].name), k, v)
		{
			if (n < KM_ENDPOINTS_ADDRS && parsed(&addrs[n], v))
				n++;
		}
		km_endpoints_resolved(e, i, addrs, n);
	}
}
