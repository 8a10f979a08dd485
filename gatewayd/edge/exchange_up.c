/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/exchange_up.h"
#include "gatewayd/edge/access.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/upstream/back.h"
#include "libkm/base/util.h"

/* A request that cannot be sent twice is not sent on a connection that has been unused for longer,
 * or whose target is not known to keep connections: the target may be closing it. */
#define UNSAFE_IDLE_MS 1000
/* Bytes of a body that are kept because they may have to be sent once more. */
#define AGAIN_MAX 65536
#define REPEATS_MAX 3

void exchange_up_busy(struct exchange *x, const char *why)
{
	struct heads_answer a = {.status = 503, .retry_after = 1, .close = !x->req.done};
	exchange_failed(x, 503, why);
	x->error = why;
	exchange_answer_as(x, &a);
}

/* Sends what x->again or the caller has: a head of `head` bytes, and of its body what has come.
 * What may have to be sent once more is kept: all of it where nothing may be processed, else what
 * may be processed twice. */
static void request_send(struct exchange *x, const uint8_t *p, size_t head, size_t n)
{
	struct up *u = x->up;
	bool kept = p == km_buf_head(&x->again);
	bool keep = u->link || u->reused;
	bool encode = u->back->encodes &&
		      (x->req.kind == HTTP_BODY_CHUNKED || x->req.kind == HTTP_BODY_CLOSE);
	if (n > head && encode != x->req.encode) {
		exchange_fail(x, 502, "the target speaks another version of HTTP than before");
		return;
	}
	x->upstream = u->reused ? ACCESS_UP_REUSED : ACCESS_UP_NEW;
	x->req.encode = encode;
	x->again_head = head;
	u->wrote = false;
	int rc = u->back->request(u, p, head);
	if (!rc && n > head)
		rc = km_buf_add(&u->out, p + head, n - head);
	if (!rc && keep && !kept)
		rc = km_buf_add(&x->again, p, n);
	else if (!keep)
		km_buf_free(&x->again);
	if (rc)
		exchange_fail(x, 502,
			      rc == KM_ETOOBIG ? "too large head for the target" : "no memory");
	else
		exchange_limit(x, u->connected ? TIMER_UPSTREAM : TIMER_CONNECT);
}

/* After pool_take or pool_granted; p: as for request_send. */
static void taken(struct exchange *x, int rc, const uint8_t *p, size_t head, size_t n)
{
	if (!rc && x->up) {
		request_send(x, p, head, n);
		return;
	}
	x->up = NULL;
	if (rc == KM_EFULL) {
		exchange_up_busy(x, "too many wait for a connection to the target");
	} else if (rc != KM_EAGAIN) {
		exchange_fail(x, 502, rc == KM_EPROTO ? pool_why(x->c->w->pool) : km_why(rc));
	} else {
		x->again_head = head;
		if (p != km_buf_head(&x->again) && km_buf_add(&x->again, p, n))
			exchange_fail(x, 502, "no memory");
		else
			exchange_limit(x, TIMER_CONNECT);
	}
}

static int take(struct exchange *x)
{
	struct worker *w = x->c->w;
	int64_t max_idle = x->idempotent && x->req.done ? INT64_MAX : UNSAFE_IDLE_MS;
	return pool_take(w->pool, &x->route, max_idle, w->now, x, &x->wait, &x->up);
}

void exchange_up_begin(struct exchange *x)
{
	const struct km_buf *head = &x->c->w->head;
	taken(x, take(x), km_buf_head(head), head->len, head->len);
}

void exchange_up_gathered(struct exchange *x)
{
	x->pace_in = (struct pace){0}; /* what has come so far excuses nobody for holding a connection */
	taken(x, take(x), km_buf_head(&x->again), x->again_head, x->again.len);
}

void exchange_granted(struct exchange *x)
{
	struct worker *w = x->c->w;
	int64_t since = x->wait.slot.since;
	int rc = pool_granted(w->pool, &x->route, w->now, &x->wait, &x->up);
	if (rc != KM_EAGAIN)
		counts_took(&w->stats->waited, w->now - since);
	if (!rc && x->lost)
		exchange_up_lost(x); /* in this very turn */
	else
		taken(x, rc, km_buf_head(&x->again), x->again_head, x->again.len);
	x->front->drive(x);
}

/* Sends it all on another connection. */
static void send_again(struct exchange *x)
{
	struct worker *w = x->c->w;
	pool_drop(w->pool, x->up, false);
	x->up = NULL;
	x->lost_it = false;
	x->repeats++;
	km_metric_add(w->sh->m_repeated, 1);
	int rc = pool_take(w->pool, &x->route, -1, w->now, x, &x->wait, &x->up);
	taken(x, rc, km_buf_head(&x->again), x->again_head, x->again.len);
}

void exchange_up_failed(struct exchange *x, const char *why)
{
	const struct up *u = x->up;
	if (x->again.len && !x->answer_any && x->repeats < REPEATS_MAX &&
	    (u->unprocessed || (u->reused && !u->decided && (x->idempotent || !u->wrote))))
		send_again(x);
	else
		exchange_fail(x, 502, why);
}

bool exchange_up_unheard(struct exchange *x)
{
	const struct up *u = x->up;
	if (!u->reused || u->link || !x->again.len || x->repeats >= REPEATS_MAX)
		return false;
	x->answer_any = false;
	send_again(x);
	return true;
}

/* What waited for its connection goes out on another one, whatever it is: nothing was sent. */
static void up_again(struct exchange *x)
{
	struct up *u = x->up;
	if (!x->again.len && !u->link) {
		struct km_buf out = u->out;
		u->out = x->again;
		x->again = out;
		x->again_head = x->again.len;
	}
	if (x->again.len)
		send_again(x);
	else
		exchange_fail(x, 502, "the private network was lost");
}

const char *exchange_up_lost_why(const struct exchange *x)
{
	return x->lost == LOST_AGENT ? "the agent is no longer one of ours"
				     : "the private network was lost";
}

void exchange_up_lost(struct exchange *x)
{
	bool agent = x->lost == LOST_AGENT;
	const char *why = exchange_up_lost_why(x);
	x->lost = LOST_NOT;
	x->lost_it = true;
	if (!x->up && !(agent && x->wait.owner))
		return;
	if (x->state == EXCHANGE_RAW) {
		x->error = why;
		x->front->cut(x);
	} else if (agent) {
		exchange_fail(x, 502, why); /* its tunnel has no other */
	} else if (!x->up->connected) {
		up_again(x);
	} else {
		exchange_up_failed(x, why);
	}
}

bool exchange_up_connect(struct exchange *x)
{
	struct up *u = x->up;
	struct km_errtext why;
	if (u->connected)
		return false;
	if (pool_connect_check(u, x->c->w->now, &why)) {
		exchange_up_failed(x, why.text);
		return true;
	}
	return u->connected;
}

void exchange_up_keep(struct exchange *x, size_t n)
{
	const struct km_buf *out = &x->up->out;
	if (!x->again.len || !n)
		return;
	if (x->again.len - x->again_head + n > AGAIN_MAX ||
	    km_buf_add(&x->again, km_buf_head(out) + out->len - n, n))
		km_buf_free(&x->again);
}

bool exchange_up_flush(struct exchange *x)
{
	struct up *u = x->up;
	bool moved = u->connected && u->back->flush(u, x->req.done);
	if (u->wrote && !u->link && !x->idempotent && x->again.len)
		km_buf_free(&x->again); /* it may have been processed */
	return moved;
}
