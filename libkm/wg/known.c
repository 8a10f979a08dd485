/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct peer {
	struct km_wg_peer conf; /* allowed IPs as networks, each once */
	bool seen;              /* in this look at the device */
	bool has_last;
	struct sockaddr_storage last; /* its endpoint then */
	UT_hash_handle hh;
};
/* Which peer has an allowed IP: a device gives each to one peer only. */
struct owner {
	struct km_prefix net;
	struct peer *peer;
	UT_hash_handle hh;
};
struct km_wg_known {
	struct peer *peers;
	struct owner *owners;
	struct peer *next; /* of km_wg_known_missing */
};

struct km_prefix km_wg_network(const struct km_prefix *p)
{
	struct km_prefix out;
	size_t i, len = p->addr.family == AF_INET ? 4 : 16;

	memset(&out, 0, sizeof(out)); /* padding too: it is a hash key */
	out.addr.family = p->addr.family;
	out.bits = p->bits;
	for (i = 0; i < len && i * 8 < p->bits; i++) {
		size_t left = p->bits - i * 8;

		out.addr.ip[i] = p->addr.ip[i] & (left >= 8 ? 0xff : (uint8_t)(0xff << (8 - left)));
	}
	return out;
}

void km_wg_name_new(char name[static 16])
{
	uint8_t r[4];

	km_random(r, sizeof(r));
	name[0] = 'k';
	name[1] = 'm';
	km_hex(r, sizeof(r), name + 2);
}

struct km_wg_known *km_wg_known_new(void)
{
	return km_xcalloc(1, sizeof(struct km_wg_known));
}

void km_wg_known_free(struct km_wg_known *k)
{
	struct peer *p, *ptmp;
	struct owner *o, *otmp;

	if (!k)
		return;
	HASH_ITER (hh, k->peers, p, ptmp) {
		HASH_DEL(k->peers, p);
		free(p);
	}
	HASH_ITER (hh, k->owners, o, otmp) {
		HASH_DEL(k->owners, o);
		free(o);
	}
	free(k);
}

static struct peer *find(const struct km_wg_known *k, const uint8_t *key)
{
	struct peer *p = NULL;

	HASH_FIND(hh, k->peers, key, KM_WG_KEY_LEN, p);
	return p;
}

static bool same_endpoint(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct km_addr x, y;
	uint16_t px, py;

	if (km_addr_from_sa(&x, &px, (const struct sockaddr *)a) ||
	    km_addr_from_sa(&y, &py, (const struct sockaddr *)b))
		return false;
	return px == py && km_addr_eq(&x, &y);
}

static bool listed(const struct km_prefix *list, uint8_t n, const struct km_prefix *net)
{
	for (uint8_t i = 0; i < n; i++)
		if (km_prefix_eq(&list[i], net))
			return true;
	return false;
}

/* The list as networks, each once. */
static uint8_t networks(struct km_prefix *out, const struct km_wg_peer *p)
{
	uint8_t n = 0;

	for (uint8_t i = 0; i < p->n_allowed && i < KM_WG_MAX_ALLOWED; i++) {
		struct km_prefix net = km_wg_network(&p->allowed[i]);

		if (!listed(out, n, &net))
			out[n++] = net;
	}
	return n;
}

static void change_allowed(const struct km_wg_peer *old, const struct km_wg_peer *p,
			   struct km_wg_change *c)
{
	struct km_prefix nets[KM_WG_MAX_ALLOWED];
	uint8_t n = networks(nets, p), i;

	for (i = 0; i < old->n_allowed; i++)
		c->replace_allowed |= !listed(nets, n, &old->allowed[i]);
	for (i = 0; i < n; i++)
		if (c->replace_allowed || !listed(old->allowed, old->n_allowed, &nets[i]))
			c->allowed[c->n_allowed++] = nets[i];
}

bool km_wg_known_change(const struct km_wg_known *k, const struct km_wg_peer *p,
			struct km_wg_change *c)
{
	const struct peer *old = find(k, p->key);

	memset(c, 0, sizeof(*c));
	memcpy(c->key, p->key, KM_WG_KEY_LEN);
	c->endpoint = p->endpoint;
	c->keepalive_s = p->keepalive_s;
	c->mtu = p->mtu;
	if (!old) {
		c->set_endpoint = p->has_endpoint;
		c->set_mtu = p->mtu != 0;
		c->set_keepalive = p->keepalive_s != 0;
		c->replace_allowed = true;
		c->n_allowed = networks(c->allowed, p);
		return true;
	}
	c->set_endpoint = p->has_endpoint && (!old->conf.has_endpoint ||
					      !same_endpoint(&old->conf.endpoint, &p->endpoint));
	c->set_keepalive = p->keepalive_s != old->conf.keepalive_s;
	c->set_mtu = p->mtu != old->conf.mtu;
	change_allowed(&old->conf, p, c);
	return c->set_mtu || c->set_endpoint || c->set_keepalive || c->replace_allowed ||
	       c->n_allowed;
}

static void forget_allowed(struct km_wg_peer *p, const struct km_prefix *net)
{
	for (uint8_t i = 0; i < p->n_allowed; i++)
		if (km_prefix_eq(&p->allowed[i], net))
			p->allowed[i--] = p->allowed[--p->n_allowed];
}

static void disown(struct km_wg_known *k, struct peer *p)
{
	for (uint8_t i = 0; i < p->conf.n_allowed; i++) {
		struct owner *o = NULL;

		HASH_FIND(hh, k->owners, &p->conf.allowed[i], sizeof(o->net), o);
		if (!o)
			continue;
		HASH_DEL(k->owners, o);
		free(o);
	}
	p->conf.n_allowed = 0;
}

static void own(struct km_wg_known *k, struct peer *p)
{
	for (uint8_t i = 0; i < p->conf.n_allowed; i++) {
		struct owner *o = NULL;

		HASH_FIND(hh, k->owners, &p->conf.allowed[i], sizeof(o->net), o);
		if (o) {
			forget_allowed(&o->peer->conf, &o->net);
		} else {
			o = km_xcalloc(1, sizeof(*o));
			o->net = p->conf.allowed[i];
			HASH_ADD(hh, k->owners, net, sizeof(o->net), o);
		}
		o->peer = p;
	}
}

void km_wg_known_set(struct km_wg_known *k, const struct km_wg_peer *p)
{
	struct peer *e = find(k, p->key);

	if (!e) {
		e = km_xcalloc(1, sizeof(*e));
		memcpy(e->conf.key, p->key, KM_WG_KEY_LEN);
		HASH_ADD(hh, k->peers, conf.key, KM_WG_KEY_LEN, e);
	}
	disown(k, e);
	if (p->has_endpoint) {
		e->conf.has_endpoint = true;
		e->conf.endpoint = p->endpoint;
	}
	e->conf.keepalive_s = p->keepalive_s;
	e->conf.mtu = p->mtu;
	e->conf.n_allowed = networks(e->conf.allowed, p);
	own(k, e);
}

void km_wg_known_remove(struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN])
{
	struct peer *e = find(k, key);

	if (!e)
		return;
	disown(k, e);
	HASH_DEL(k->peers, e);
	free(e);
}

uint16_t km_wg_known_mtu(const struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN])
{
	const struct peer *e = find(k, key);

	return e ? e->conf.mtu : 0;
}

int km_wg_known_paths(const struct km_wg_known *k, struct km_wg_path **out, size_t *n)
{
	struct peer *p, *tmp;
	size_t room = 0;

	*n = 0;
	HASH_ITER (hh, k->peers, p, tmp)
		room += p->conf.mtu ? p->conf.n_allowed : 0;
	*out = room ? calloc(room, sizeof(**out)) : NULL;
	if (room && !*out)
		return KM_ENOMEM;
	HASH_ITER (hh, k->peers, p, tmp)
		for (uint8_t i = 0; p->conf.mtu && i < p->conf.n_allowed; i++)
			(*out)[(*n)++] = (struct km_wg_path){p->conf.allowed[i], p->conf.mtu};
	return 0;
}

/* ---- what the device has ---- */

bool km_wg_known_has(const struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN])
{
	return find(k, key) != NULL;
}

size_t km_wg_known_keys(const struct km_wg_known *k, uint8_t (**out)[KM_WG_KEY_LEN])
{
	size_t n = 0;

	*out = km_xcalloc(HASH_COUNT(k->peers) + 1, sizeof(**out));
	for (const struct peer *p = k->peers; p; p = p->hh.next)
		memcpy((*out)[n++], p->conf.key, KM_WG_KEY_LEN);
	return n;
}

void km_wg_known_look(struct km_wg_known *k)
{
	for (struct peer *p = k->peers; p; p = p->hh.next)
		p->seen = false;
	k->next = k->peers;
}

static void all_allowed(const struct peer *p, struct km_wg_change *c)
{
	c->replace_allowed = true;
	c->n_allowed = p->conf.n_allowed;
	memcpy(c->allowed, p->conf.allowed, sizeof(c->allowed));
}

static bool same_allowed(const struct km_wg_peer *conf, const struct km_wg_peer_status *s)
{
	if (s->more_allowed || s->n_allowed != conf->n_allowed)
		return false;
	for (uint8_t i = 0; i < s->n_allowed; i++)
		if (!listed(conf->allowed, conf->n_allowed, &s->allowed[i]))
			return false;
	return true;
}

bool km_wg_known_differs(struct km_wg_known *k, const struct km_wg_peer_status *s,
			 struct km_wg_change *c)
{
	struct peer *p = find(k, s->key);

	memset(c, 0, sizeof(*c));
	if (!p)
		return false;
	p->seen = true;
	p->has_last = s->has_endpoint;
	p->last = s->endpoint;
	memcpy(c->key, s->key, KM_WG_KEY_LEN);
	c->set_keepalive = s->keepalive_s != p->conf.keepalive_s;
	c->keepalive_s = p->conf.keepalive_s;
	c->clear_psk = s->has_psk;
	if (!same_allowed(&p->conf, s))
		all_allowed(p, c);
	return c->set_keepalive || c->clear_psk || c->replace_allowed;
}

bool km_wg_known_missing(struct km_wg_known *k, struct km_wg_change *c)
{
	struct peer *p = k->next;

	while (p && p->seen)
		p = p->hh.next;
	k->next = p ? p->hh.next : NULL;
	if (!p)
		return false;
	memset(c, 0, sizeof(*c));
	memcpy(c->key, p->conf.key, KM_WG_KEY_LEN);
	c->set_endpoint = p->has_last || p->conf.has_endpoint;
	c->endpoint = p->has_last ? p->last : p->conf.endpoint;
	c->set_keepalive = p->conf.keepalive_s != 0;
	c->keepalive_s = p->conf.keepalive_s;
	c->set_mtu = p->conf.mtu != 0;
	c->mtu = p->conf.mtu;
	all_allowed(p, c);
	return true;
}
