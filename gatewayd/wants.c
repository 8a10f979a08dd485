/* SPDX-License-Identifier: MIT */
#include "gatewayd/wants.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define ADDRS_MAX 8 /* of one gateway, as in messages.def */

struct wanted {
	uint8_t tunnel[16];
	UT_hash_handle hh;
	char domain[];
};

/* How strangers reach a gateway. named: by a host name too, so that its addresses are not all known. */
struct reach {
	uint8_t id[16];
	struct km_addr addrs[ADDRS_MAX];
	size_t n;
	bool named;
	UT_hash_handle hh;
};

struct wants {
	struct acme *acme;
	const struct gw_settings *settings;
	struct wanted *tunnels;
	struct reach self, *others;
};

struct wants *wants_new(struct acme *acme, const struct gw_settings *settings)
{
	struct wants *w = calloc(1, sizeof(*w));
	if (w) {
		w->acme = acme;
		w->settings = settings;
		w->self.named = true;
	}
	return w;
}

void wants_free(struct wants *w)
{
	struct wanted *t, *tmp;
	struct reach *r, *next;
	if (!w)
		return;
	HASH_ITER (hh, w->tunnels, t, tmp) {
		HASH_DEL(w->tunnels, t);
		free(t);
	}
	HASH_ITER (hh, w->others, r, next) {
		HASH_DEL(w->others, r);
		free(r);
	}
	free(w);
}

void wants_set(struct wants *w, const uint8_t tunnel[static 16], const char *domain)
{
	struct wanted *t;
	if (!w->acme)
		return;
	HASH_FIND(hh, w->tunnels, tunnel, 16, t);
	if (t && domain && !strcmp(t->domain, domain))
		return;
	if (t) {
		HASH_DEL(w->tunnels, t);
		acme_unwant(w->acme, t->domain);
		free(t);
	}
	if (!domain)
		return;
	t = km_xcalloc(1, sizeof(*t) + strlen(domain) + 1);
	memcpy(t->tunnel, tunnel, 16);
	strcpy(t->domain, domain);
	HASH_ADD(hh, w->tunnels, tunnel, 16, t);
	acme_want(w->acme, domain);
}

/* ---- addresses ---- */

/* Whether strangers on the internet may reach it; behind a NAT the one that is seen is another. */
static bool is_global(const struct km_addr *a)
{
	static const char *const not[] = {"10.0.0.0/8",	    "172.16.0.0/12", "192.168.0.0/16",
					  "127.0.0.0/8",    "169.254.0.0/16", "100.64.0.0/10",
					  "::1/128",	    "fc00::/7",	     "fe80::/10"};
	struct km_prefix p;
	for (size_t i = 0; i < KM_ARRAY_LEN(not); i++)
		if (!km_prefix_parse(&p, not[i]) && km_prefix_has(&p, a))
			return false;
	return true;
}

static void reach_set(struct reach *r, char *const *texts, size_t n)
{
	struct km_addr a;
	r->n = 0;
	r->named = false;
	for (size_t i = 0; i < n; i++) {
		if (km_addr_parse(&a, texts[i]))
			r->named = true;
		else if (r->n < ADDRS_MAX)
			r->addrs[r->n++] = a;
	}
}

void wants_self(struct wants *w, const struct km_msg_gateway_self *is)
{
	const struct km_strlist *own = &w->settings->public_ip;
	if (own->n) {
		reach_set(&w->self, own->items, own->n);
		return;
	}
	/* Where control sees us is where strangers reach us, unless that is within some private network. */
	reach_set(&w->self, is->public_ip, is->n_public_ip);
	for (size_t i = 0; i < w->self.n; i++)
		w->self.named = w->self.named || !is_global(&w->self.addrs[i]);
}

void wants_gateway(struct wants *w, const uint8_t id[static 16], const struct km_msg_gateway *is)
{
	struct reach *r;
	HASH_FIND(hh, w->others, id, 16, r);
	if (!is) {
		if (r)
			HASH_DEL(w->others, r);
		free(r);
		return;
	}
	if (!r) {
		r = km_xcalloc(1, sizeof(*r));
		memcpy(r->id, id, 16);
		HASH_ADD(hh, w->others, id, 16, r);
	}
	reach_set(r, is->public_ip, is->n_public_ip);
}

static int addr_cmp(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct km_addr));
}

void wants_settled(struct wants *w)
{
	struct reach *r, *tmp;
	struct reach *others = gw_settings_shares(w->settings) ? w->others : NULL;
	size_t n = w->self.n;
	bool known = w->self.n && !w->self.named;
	if (!w->acme)
		return;
	struct km_addr *all = km_xcalloc(ADDRS_MAX * (HASH_COUNT(others) + 1), sizeof(*all));
	memcpy(all, w->self.addrs, n * sizeof(*all));
	HASH_ITER (hh, others, r, tmp) {
		memcpy(all + n, r->addrs, r->n * sizeof(*all));
		n += r->n;
		known = known && !r->named;
	}
	qsort(all, n, sizeof(*all), addr_cmp);
	acme_addresses(w->acme, all, known ? n : 0);
	free(all);
	acme_settled(w->acme);
}
