/* SPDX-License-Identifier: MIT */
/* Connections to https targets, which say in the TLS handshake whether they speak HTTP/2 or
 * HTTP/1.1 (ALPN, RFC 7301). Until then nobody can say how many requests one serves, so those that
 * want one wait for it together; then all get a stream, or the first the connection and each other
 * one of its own. Where the target last chose HTTP/1.1 nobody waits for what another opens. */
#include "gatewayd/upstream/internal.h"
#include "gatewayd/upstream/tls.h"
#include "libkm/base/util.h"
#include <stddef.h>

static void leave_set(struct pool *p, struct up *u)
{
	struct pool_set *s = u->set;
	DL_DELETE(s->openings, u);
	u->set = NULL;
	pool_set_rest(p, s);
}

static void wait_add(struct up *u, struct pool_wait *w)
{
	w->opening = u;
	DL_APPEND(u->wanted, w);
	u->n_wanted++;
}

/* ---- what it has come to ---- */

/* All that wait for u have this outcome. */
static void call_all(struct pool *p, struct up *u, int rc)
{
	struct pool_wait *w;
	while ((w = u->wanted)) {
		DL_DELETE(u->wanted, w);
		w->opening = NULL;
		w->opened = true;
		w->rc = rc;
		DL_APPEND(p->called, w);
	}
	u->n_wanted = 0;
}

/* The next one hears of it, with what is its own (NULL: it is to ask again); it may take others
 * along. */
static void call_next(struct pool *p, struct up *u)
{
	struct pool_wait *w = p->called;
	DL_DELETE(p->called, w);
	w->up = u;
	if (u)
		u->promised = true;
	p->o.granted(w->owner);
}

static void failed(struct pool *p, struct up *u, int rc)
{
	call_all(p, u, rc);
	leave_set(p, u);
	pool_up_free(p, u, !u->io.broken);
	while (p->called)
		call_next(p, NULL);
}

static void is_h1(struct pool *p, struct up *u)
{
	call_all(p, u, 0);
	leave_set(p, u);
	u->io.woken = pool_woken;
	call_next(p, u);
	while (p->called)
		call_next(p, NULL);
}

static void is_h2(struct pool *p, struct up *u, int64_t now)
{
	struct pool_set *s = u->set;
	if (link_of(u, s)) {
		km_errtext_set(&p->why, KM_ENOMEM, "no memory");
		failed(p, u, KM_EPROTO);
		return;
	}
	call_all(p, u, 0);
	DL_DELETE(s->openings, u);
	DL_PREPEND(s->links, u);
	u->busy = true; /* whoever is called may end it */
	while (p->called)
		call_next(p, u->io.broken || !up_h2_room(u->h2) ? NULL : link_stream(p, s, NULL));
	u->busy = false;
	link_opened(p, u, now);
}

static void on_woken(struct io *io)
{
	struct up *u = (struct up *)((char *)io - offsetof(struct up, io));
	struct pool *p = u->pool;
	int64_t now = km_now_ms();
	if (dial_check(u, now, &p->why)) {
		failed(p, u, KM_EPROTO);
	} else if (u->connected) {
		bool h2 = up_tls_h2(u->io.ssl);
		slots_spoke(u->slots, u->serial, h2);
		if (h2)
			is_h2(p, u, now);
		else
			is_h1(p, u);
	}
}

/* ---- waiting for it ---- */

bool opening_join(struct pool *p, const struct route *r, struct pool_wait *w)
{
	struct pool_set *s = pool_set_find(p, r->serial);
	struct up *u;
	if (!s || slots_speaks(r->state->slots, r->serial) == SLOTS_HTTP1)
		return false;
	DL_FOREACH (s->openings, u) {
		if (u->n_wanted >= UP_H2_STREAMS_MAX)
			continue;
		wait_add(u, w);
		return true;
	}
	return false;
}

int opening_begin(struct pool *p, const struct route *r, struct pool_wait *w)
{
	struct pool_set *s = pool_set_get(p, r->serial);
	struct up *u;
	if (!s)
		return KM_ENOMEM;
	int rc = dial(p, r, NULL, on_woken, &u);
	if (rc) {
		pool_set_rest(p, s);
		return rc;
	}
	u->offers_h2 = true;
	u->set = s;
	DL_PREPEND(s->openings, u);
	wait_add(u, w);
	return 0;
}

void opening_leave(struct pool *p, struct pool_wait *w)
{
	struct up *u = w->opening;
	w->opening = NULL;
	if (!u) {
		DL_DELETE(p->called, w);
		return;
	}
	DL_DELETE(u->wanted, w);
	if (--u->n_wanted)
		return;
	leave_set(p, u);
	pool_up_free(p, u, true);
}

void openings_end(struct pool *p)
{
	struct pool_set *s, *s_tmp;
	struct up *u, *u_tmp;
	HASH_ITER (hh, p->sets, s, s_tmp) {
		struct up *all = s->openings;
		DL_FOREACH_SAFE (all, u, u_tmp) {
			call_all(p, u, 0);
			leave_set(p, u);
			pool_up_free(p, u, true);
		}
	}
	while (p->called)
		call_next(p, NULL);
}
