/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table of sessions by index ---- */

static struct wg_index *_Atomic *bucket(const struct wg_core *c, uint32_t value)
{
	return (struct wg_index * _Atomic *)&c->index[value % WG_INDEX_BUCKETS];
}

struct wg_session *wg_index_find(const struct wg_core *c, uint32_t value)
{
	struct wg_index *i = atomic_load_explicit(bucket(c, value), memory_order_acquire);

	while (i != NULL && i->value != value)
		i = atomic_load_explicit(&i->next, memory_order_acquire);
	return i ? i->session : NULL;
}

static void index_add(struct wg_core *c, struct wg_index *i)
{
	struct wg_index *_Atomic *at = bucket(c, i->value);

	atomic_init(&i->next, atomic_load(at));
	atomic_store_explicit(at, i, memory_order_release);
}

static void index_remove(struct wg_core *c, struct wg_index *i)
{
	struct wg_index *_Atomic *at = bucket(c, i->value);

	while (atomic_load(at) != i)
		at = &atomic_load(at)->next;
	atomic_store_explicit(at, atomic_load(&i->next), memory_order_release);
}

uint32_t wg_index_new(const struct wg_core *c)
{
	struct wg_peer *p;
	uint32_t value;

	do {
		value = randombytes_random();
		HASH_FIND(hh_index, c->by_index, &value, sizeof(value), p);
	} while (p != NULL || wg_index_find(c, value) != NULL);
	return value;
}

/* ---- sessions ---- */

static void session_free(struct wg_session *s)
{
	km_wipe(s->send_key, sizeof(s->send_key));
	km_wipe(s->recv_key, sizeof(s->recv_key));
	free(s);
}

static void session_retire(struct wg_session *s)
{
	struct wg_core *c;

	if (s == NULL)
		return;
	c = s->peer->core;
	index_remove(c, &s->index);
	s->retired = c->retired_sessions;
	c->retired_sessions = s;
}

static void set_current(struct wg_peer *p, struct wg_session *s)
{
	atomic_store_explicit(&p->current, s, memory_order_release);
}

/* Draws when the next persistent keepalive comes: in the last part of the interval, 1: in all. */
static void draw_keepalive(struct wg_peer *p, unsigned part)
{
	uint32_t whole = p->keepalive_s * 1000U;

	p->keepalive_ms = whole - randombytes_uniform(whole / part + 1);
}

void wg_peer_next_keepalive(struct wg_peer *p)
{
	draw_keepalive(p, WG_KEEPALIVE_EARLIER);
}

struct wg_session *wg_session_begin(struct wg_peer *p, const struct wg_keys *k, bool initiator,
				    const struct wg_clock *now)
{
	struct wg_session *s = calloc(1, sizeof(*s)), *old = atomic_load(&p->current);

	if (s == NULL)
		return NULL;
	memcpy(s->send_key, k->send, WG_KEY);
	memcpy(s->recv_key, k->recv, WG_KEY);
	s->peer = p;
	s->index.value = k->local_index;
	s->index.session = s;
	s->remote_index = k->remote_index;
	s->initiator = initiator;
	s->made_ms = now->ms;
	s->rekey_ms = now->ms + WG_REKEY_AFTER_MS - randombytes_uniform(WG_REKEY_EARLIER_MS + 1);
	index_add(p->core, &s->index);
	draw_keepalive(p, 1); /* handshakes come in crowds: keepalives and rekeys then do not */
	if (!initiator) {
		session_retire(p->next);
		session_retire(p->previous);
		p->next = s;
		p->previous = NULL;
		return s;
	}
	/* One that was offered meanwhile may be in the peer's use already. */
	session_retire(p->previous);
	if (p->next != NULL) {
		session_retire(old);
		old = p->next;
		p->next = NULL;
	}
	p->previous = old;
	set_current(p, s);
	return s;
}

void wg_session_confirmed(struct wg_peer *p, const struct wg_clock *now)
{
	if (p->next == NULL || !atomic_load(&p->next->used))
		return;
	session_retire(p->previous);
	p->previous = atomic_load(&p->current);
	set_current(p, p->next);
	p->next = NULL;
	wg_peer_handshake_done(p, now);
	p->core->io.flush(p->core->io.arg, p, WG_FLUSH_STAGED);
}

void wg_peer_drop_old_sessions(struct wg_peer *p, int64_t now_ms)
{
	struct wg_session *s = atomic_load(&p->current);

	if (p->previous != NULL && !wg_session_usable(p->previous, now_ms)) {
		session_retire(p->previous);
		p->previous = NULL;
	}
	if (p->next != NULL && !wg_session_usable(p->next, now_ms)) {
		session_retire(p->next);
		p->next = NULL;
	}
	if (s != NULL && !wg_session_usable(s, now_ms)) {
		set_current(p, NULL);
		session_retire(s);
	}
}

void wg_peer_drop_sessions(struct wg_peer *p)
{
	session_retire(p->previous);
	session_retire(atomic_load(&p->current));
	session_retire(p->next);
	p->previous = NULL;
	p->next = NULL;
	set_current(p, NULL);
}

void wg_peer_end_handshake(struct wg_peer *p)
{
	if (!p->handshaking)
		return;
	HASH_DELETE(hh_index, p->core->by_index, p);
	p->handshaking = false;
	km_wipe(&p->handshake, sizeof(p->handshake));
}

/* ---- peers ---- */

struct wg_peer *wg_core_peer(const struct wg_core *c, const uint8_t pub[static WG_KEY])
{
	struct wg_peer *p;

	HASH_FIND(hh, c->peers, pub, WG_KEY, p);
	return p;
}

struct wg_peer *wg_core_peer_new(struct wg_core *c, const uint8_t pub[static WG_KEY])
{
	struct wg_peer *p;

	if ((c->has_key && memcmp(pub, c->self.pub, WG_KEY) == 0) ||
	    (p = calloc(1, sizeof(*p))) == NULL)
		return NULL;
	p->core = c;
	if (!wg_remote_init(c->crypto, &p->remote, &c->self, pub, NULL) && c->has_key) {
		free(p);
		return NULL;
	}
	p->jitter_ms = (uint16_t)randombytes_uniform(WG_REKEY_JITTER_MS + 1);
	HASH_ADD_KEYPTR(hh, c->peers, p->remote.pub, WG_KEY, p);
	c->n_peers++;
	return p;
}

void wg_peer_remove(struct wg_peer *p)
{
	struct wg_core *c = p->core;

	wg_peer_disallow_all(p);
	wg_peer_end_handshake(p);
	wg_peer_drop_sessions(p);
	if (c->tick_at == p)
		c->tick_at = p->hh.next;
	HASH_DEL(c->peers, p);
	c->n_peers--;
	p->dead = true;
	p->retired = c->retired_peers;
	c->retired_peers = p;
}

void wg_peer_set_psk(struct wg_peer *p, const uint8_t psk[static WG_KEY])
{
	memcpy(p->remote.psk, psk, WG_KEY);
}

void wg_peer_set_endpoint(struct wg_peer *p, const struct wg_endpoint *e)
{
	wg_endpoint_store(&p->endpoint, e);
	wg_peer_path_forget(p);
	if (atomic_load(&p->wants_handshake))
		wg_ask(p, WG_ASK_HANDSHAKE);
}

void wg_peer_set_keepalive(struct wg_peer *p, uint16_t seconds)
{
	if (p->keepalive_s == 0 && seconds != 0) {
		atomic_store(&p->traffic_ms, INT32_MIN); /* long ago, even just after boot */
		p->core->io.wake(p->core->io.arg);
	}
	p->keepalive_s = seconds;
	wg_peer_next_keepalive(p);
}

static void forget_prefix(struct wg_peer *p, const struct wg_prefix *x)
{
	for (size_t i = 0; i < p->n_allowed; i++)
		if (memcmp(&p->allowed[i], x, sizeof(*x)) == 0)
			p->allowed[i--] = p->allowed[--p->n_allowed];
}

/* With its host bits cleared, so that equal prefixes are equal bytes. */
static struct wg_prefix prefix_of(const uint8_t *addr, size_t naddr, unsigned bits)
{
	struct wg_prefix x = {.naddr = (uint8_t)naddr, .bits = (uint8_t)bits};

	memcpy(x.addr, addr, (bits + 7) / 8);
	if (bits % 8 != 0)
		x.addr[bits / 8] &= (uint8_t)(0xff << (8 - bits % 8));
	return x;
}

int wg_peer_allow(struct wg_peer *p, const uint8_t *addr, size_t naddr, unsigned bits)
{
	struct wg_allowed *t = &p->core->allowed;
	struct wg_prefix x, *more;
	struct wg_peer *owner;
	int rc;

	if ((naddr != 4 && naddr != 16) || bits > naddr * 8)
		return KM_EINVAL;
	x = prefix_of(addr, naddr, bits);
	owner = wg_allowed_exact(t, addr, naddr, bits);
	if (owner == p)
		return 0;
	if (p->n_allowed == p->room_allowed) {
		more = realloc(p->allowed, (p->room_allowed * 2 + 1) * sizeof(*more));
		if (more == NULL)
			return KM_ENOMEM;
		p->allowed = more;
		p->room_allowed = p->room_allowed * 2 + 1;
	}
	rc = wg_allowed_insert(t, addr, naddr, bits, p);
	if (rc)
		return rc;
	if (owner != NULL)
		forget_prefix(owner, &x);
	p->allowed[p->n_allowed++] = x;
	return 0;
}

void wg_peer_disallow(struct wg_peer *p, const uint8_t *addr, size_t naddr, unsigned bits)
{
	struct wg_prefix x;

	if ((naddr != 4 && naddr != 16) || bits > naddr * 8)
		return;
	x = prefix_of(addr, naddr, bits);
	wg_allowed_remove(&p->core->allowed, addr, naddr, bits, p);
	forget_prefix(p, &x);
}

void wg_peer_disallow_all(struct wg_peer *p)
{
	for (size_t i = 0; i < p->n_allowed; i++)
		wg_allowed_remove(&p->core->allowed, p->allowed[i].addr, p->allowed[i].naddr,
				  p->allowed[i].bits, p);
	p->n_allowed = 0;
}

/* ---- the core ---- */

struct wg_core *wg_core_new(const struct wg_core_io *io)
{
	struct wg_core *c = calloc(1, sizeof(*c));

	if (c == NULL || (c->crypto = wg_crypto_new()) == NULL) {
		free(c);
		return NULL;
	}
	c->io = *io;
	wg_limiter_init(&c->limiter);
	return c;
}

void wg_core_set_key(struct wg_core *c, const uint8_t priv[static WG_KEY])
{
	struct wg_peer *p, *tmp;
	uint8_t psk[WG_KEY], pub[WG_KEY];

	if (c->has_key && sodium_memcmp(priv, c->self.priv, WG_KEY) == 0)
		return;
	c->has_key = !sodium_is_zero(priv, WG_KEY);
	if (c->has_key)
		wg_self_init(c->crypto, &c->self, priv);
	else
		km_wipe(&c->self, sizeof(c->self));
	HASH_ITER (hh, c->peers, p, tmp) {
		/* What was begun under the old key is begun anew. */
		if (p->retry_ms != 0)
			atomic_store(&p->wants_handshake, true);
		p->retry_ms = 0;
		wg_peer_end_handshake(p);
		wg_peer_drop_sessions(p);
		p->initiated_ms = 0; /* nobody has heard of this key: no need to wait */
		memcpy(pub, p->remote.pub, WG_KEY);
		memcpy(psk, p->remote.psk, WG_KEY);
		if ((!wg_remote_init(c->crypto, &p->remote, &c->self, pub, psk) && c->has_key) ||
		    memcmp(pub, c->self.pub, WG_KEY) == 0)
			wg_peer_remove(p);
		else if (atomic_load(&p->wants_handshake))
			wg_ask(p, WG_ASK_HANDSHAKE);
	}
	km_wipe(psk, sizeof(psk));
}

static void peer_free(struct wg_peer *p)
{
	p->core->io.forget(p->core->io.arg, p);
	free(p->allowed);
	km_wipe(p, sizeof(*p));
	free(p);
}

void wg_core_reclaim(struct wg_core *c)
{
	struct wg_session *s;
	struct wg_peer *p;

	if (c->retired_sessions == NULL && c->retired_peers == NULL && c->allowed.retired == NULL)
		return;
	c->io.quiesce(c->io.arg);
	if (c->retired_peers != NULL)
		wg_attention_bury(c);
	wg_allowed_reclaim(&c->allowed);
	while ((s = c->retired_sessions) != NULL) {
		c->retired_sessions = s->retired;
		session_free(s);
	}
	while ((p = c->retired_peers) != NULL) {
		c->retired_peers = p->retired;
		peer_free(p);
	}
}

void wg_core_free(struct wg_core *c)
{
	struct wg_peer *p, *tmp;

	if (c == NULL)
		return;
	HASH_ITER (hh, c->peers, p, tmp)
		wg_peer_remove(p);
	wg_core_reclaim(c);
	wg_allowed_free(&c->allowed);
	wg_crypto_free(c->crypto);
	km_wipe(&c->self, sizeof(c->self));
	km_wipe(&c->jar, sizeof(c->jar));
	free(c);
}
