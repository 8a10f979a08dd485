/* SPDX-License-Identifier: MIT */
/* What gateways ask each other and tell each other. */
#include "gatewayd/mesh/internal.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define ASK_MS 2000
#define FETCH_MS 10000
#define MESH_ASKS_MAX 8192 /* unanswered at once */

enum ask_kind { ASK_CHALLENGE, ASK_CLAIM, ASK_FETCH };

/* Something that has been asked of other gateways. */
struct ask {
	struct mesh *m;
	uint32_t id;
	enum ask_kind kind;
	struct event *timer;
	bool granted;
	union {
		void (*told)(void *arg);
		void (*claimed)(void *arg, bool granted);
		void (*fetched)(void *arg, const char *pem);
	} done;
	void *arg;
	UT_hash_handle hh;
	size_t n;
	struct peer *waiting[]; /* n of them; room for all that there were */
};

/* ---- what has been asked ---- */

static void ask_free(struct ask *a)
{
	HASH_DEL(a->m->asks, a);
	if (a->timer)
		event_free(a->timer);
	free(a);
}

static void ask_finish(struct ask *a, const char *pem)
{
	struct ask ended = *a;
	ask_free(a);
	switch (ended.kind) {
	case ASK_CHALLENGE:
		if (ended.done.told)
			ended.done.told(ended.arg);
		break;
	case ASK_CLAIM:
		ended.done.claimed(ended.arg, ended.granted);
		break;
	case ASK_FETCH:
		km_metric_add(pem ? ended.m->fetched : ended.m->missed, 1);
		ended.done.fetched(ended.arg, pem);
		break;
	}
}

static void on_ask_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	ask_finish(arg, NULL);
}

static struct ask *ask_new(struct mesh *m, enum ask_kind kind, void *arg)
{
	struct ask *a = km_xcalloc(1, sizeof(*a) + m->n_peers * sizeof(a->waiting[0])), *other;
	a->m = m;
	a->kind = kind;
	a->arg = arg;
	a->granted = true;
	do {
		a->id = ++m->last_ask;
		HASH_FIND(hh, m->asks, &a->id, sizeof(a->id), other);
	} while (other || !a->id);
	HASH_ADD(hh, m->asks, id, sizeof(a->id), a);
	a->timer = evtimer_new(m->o.base, on_ask_due, a);
	return a;
}

static void ask_to(struct ask *a, struct peer *p, struct mesh_msg *msg)
{
	msg->id = a->id;
	if (!conn_send(p, msg))
		a->waiting[a->n++] = p;
}

/* Ends after ms, or at once (but not now) when nobody is waited for. */
static void ask_wait(struct ask *a, int64_t ms)
{
	struct timeval tv = {a->n ? ms / 1000 : 0, 0};
	if (!a->timer || event_add(a->timer, &tv)) {
		km_error("out of memory");
		abort();
	}
}

static bool ask_full(const struct mesh *m)
{
	return HASH_COUNT(m->asks) >= MESH_ASKS_MAX;
}

static bool ask_unwait(struct ask *a, const struct peer *p)
{
	for (size_t i = 0; i < a->n; i++) {
		if (a->waiting[i] != p)
			continue;
		a->waiting[i] = a->waiting[--a->n];
		return true;
	}
	return false;
}

/* The question that p answers with this; NULL: none, or not asked of it. */
static struct ask *ask_answered(struct peer *p, uint32_t id, enum ask_kind kind)
{
	struct ask *a;
	HASH_FIND(hh, p->m->asks, &id, sizeof(id), a);
	return a && a->kind == kind && ask_unwait(a, p) ? a : NULL;
}

void mesh_asks_unwait(struct peer *p)
{
	struct ask *a, *tmp;
	HASH_ITER (hh, p->m->asks, a, tmp)
		if (ask_unwait(a, p) && !a->n)
			event_active(a->timer, EV_TIMEOUT, 0);
}

void mesh_asks_free(struct mesh *m)
{
	struct ask *a, *tmp;
	HASH_ITER (hh, m->asks, a, tmp)
		ask_free(a);
}

/* ---- what others say ---- */

static void answer(struct peer *p, const struct mesh_msg *msg)
{
	if (conn_send(p, msg))
		km_metric_add(p->m->dropped, 1);
}

/* How a gateway gets a key: the only place. */
static void give(struct peer *p, const struct mesh_msg *asked)
{
	static struct km_log_limit limit;
	struct mesh *m = p->m;
	struct mesh_msg out = {.type = MESH_GIVEN, .id = asked->id};
	uint32_t held = 0;
	char *pem = m->o.hooks->give
			? m->o.hooks->give(m->o.arg, p->id, asked->fact.domain, asked->fact.rsa)
			: NULL;
	out.pem = pem;
	out.pem_len = pem ? strlen(pem) : 0;
	int rc = conn_send(p, &out);
	bool log = (pem || rc) && mesh_log_allow(&limit, &held);
	if (pem && !rc) {
		km_metric_add(m->given, 1);
		if (log)
			km_info("certificate given to another gateway",
				km_ks("domain", asked->fact.domain), km_ks("gateway", p->name),
				km_ki("held_back", held));
	} else if (rc) {
		if (log)
			km_warn("certificate not given to another gateway",
				km_ks("domain", asked->fact.domain), km_ks("gateway", p->name),
				km_ke(rc), km_ki("held_back", held));
		out.pem = NULL;
		answer(p, &out);
	}
	if (pem)
		km_wipe(pem, out.pem_len);
	free(pem);
}

static void claimed(struct peer *p, const struct mesh_msg *msg)
{
	const struct mesh_hooks *h = p->m->o.hooks;
	struct mesh_msg out = {.type = MESH_VERDICT, .id = msg->id, .granted = true};
	if (h->yields)
		out.granted = h->yields(p->m->o.arg, msg->fact.domain);
	answer(p, &out);
}

static void challenged(struct peer *p, const struct mesh_msg *msg)
{
	const struct mesh_hooks *h = p->m->o.hooks;
	if (h->challenge)
		h->challenge(p->m->o.arg, &msg->ch, msg->open);
	answer(p, &(struct mesh_msg){.type = MESH_ACK, .id = msg->id});
}

static void said_verdict(struct peer *p, const struct mesh_msg *msg)
{
	struct ask *a = ask_answered(p, msg->id, ASK_CLAIM);
	if (!a)
		return;
	a->granted = msg->granted;
	if (!msg->granted || !a->n)
		ask_finish(a, NULL);
}

void mesh_said(struct peer *p, const struct mesh_msg *msg)
{
	const struct mesh_hooks *h = p->m->o.hooks;
	struct ask *a;
	switch (msg->type) {
	case MESH_HELLO:
	case MESH_PING:
		break;
	case MESH_CHALLENGE:
		challenged(p, msg);
		break;
	case MESH_ACK:
		if ((a = ask_answered(p, msg->id, ASK_CHALLENGE)) && !a->n)
			ask_finish(a, NULL);
		break;
	case MESH_CLAIM:
		claimed(p, msg);
		break;
	case MESH_VERDICT:
		said_verdict(p, msg);
		break;
	case MESH_ANNOUNCE:
		if (h->announced)
			h->announced(p->m->o.arg, p->id, &msg->fact);
		break;
	case MESH_FAILED:
		if (h->failed)
			h->failed(p->m->o.arg, msg->fact.domain, msg->why, msg->next_try_ms);
		break;
	case MESH_FETCH:
		give(p, msg);
		break;
	case MESH_GIVEN:
		if ((a = ask_answered(p, msg->id, ASK_FETCH)))
			ask_finish(a, msg->pem);
		break;
	}
}

/* ---- what we say ---- */

/* To all that live, or to the one with this id. */
static void tell(struct mesh *m, const uint8_t *gateway, const struct mesh_msg *msg)
{
	for (size_t i = 0; i < m->n_peers; i++) {
		struct peer *p = m->peers[i];
		if (p->alive && (!gateway || !memcmp(p->id, gateway, 16)))
			answer(p, msg);
	}
}

static void ask_all(struct ask *a, struct mesh_msg *msg, int64_t ms)
{
	for (size_t i = 0; i < a->m->n_peers; i++)
		ask_to(a, a->m->peers[i], msg);
	ask_wait(a, ms);
}

static struct mesh_msg challenge_msg(const struct challenge *ch, bool open)
{
	struct mesh_msg msg = {.type = MESH_CHALLENGE, .open = open, .ch = *ch};
	return msg;
}

void mesh_challenge(struct mesh *m, const struct challenge *ch, bool open, void (*done)(void *arg),
		    void *arg)
{
	struct mesh_msg msg = challenge_msg(ch, open);
	struct ask *a = ask_new(m, ASK_CHALLENGE, arg);
	a->done.told = done;
	ask_all(a, &msg, ASK_MS);
}

void mesh_challenge_to(struct mesh *m, const uint8_t gateway[static 16], const struct challenge *ch)
{
	struct mesh_msg msg = challenge_msg(ch, true);
	tell(m, gateway, &msg);
}

static struct mesh_msg about(enum mesh_type type, const char *domain)
{
	struct mesh_msg msg = {.type = type};
	snprintf(msg.fact.domain, sizeof(msg.fact.domain), "%s", domain);
	return msg;
}

void mesh_claim(struct mesh *m, const char *domain, void (*done)(void *arg, bool granted),
		void *arg)
{
	struct mesh_msg msg = about(MESH_CLAIM, domain);
	bool full = ask_full(m);
	struct ask *a = ask_new(m, ASK_CLAIM, arg);
	a->done.claimed = done;
	a->granted = !full;
	if (full)
		ask_wait(a, 0);
	else
		ask_all(a, &msg, ASK_MS);
}

void mesh_announce(struct mesh *m, const struct mesh_fact *f)
{
	tell(m, NULL, &(struct mesh_msg){.type = MESH_ANNOUNCE, .fact = *f});
}

void mesh_announce_to(struct mesh *m, const uint8_t gateway[static 16], const struct mesh_fact *f)
{
	tell(m, gateway, &(struct mesh_msg){.type = MESH_ANNOUNCE, .fact = *f});
}

void mesh_failed(struct mesh *m, const char *domain, const char *why, int64_t next_try_ms)
{
	struct mesh_msg msg = about(MESH_FAILED, domain);
	size_t n = 0;
	msg.next_try_ms = next_try_ms;
	/* A CA's words: what is no text is left out. */
	while (*why && n + 4 < sizeof(msg.why)) {
		size_t len = km_utf8_len(why);
		if (len && (uint8_t)*why >= ' ' && *why != 0x7f) {
			memcpy(msg.why + n, why, len);
			n += len;
		}
		why += len ? len : 1;
	}
	tell(m, NULL, &msg);
}

void mesh_fetch(struct mesh *m, const uint8_t gateway[static 16], const char *domain, bool rsa,
		void (*done)(void *arg, const char *pem), void *arg)
{
	struct mesh_msg msg = about(MESH_FETCH, domain);
	struct peer *p = mesh_peer_by_id(m, gateway);
	bool full = ask_full(m);
	struct ask *a = ask_new(m, ASK_FETCH, arg);
	a->done.fetched = done;
	msg.fact.rsa = rsa;
	if (p && !full)
		ask_to(a, p, &msg);
	ask_wait(a, FETCH_MS);
}
