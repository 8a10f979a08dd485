/* SPDX-License-Identifier: MIT */
/* Both bodies stream at once; a full buffer on one side is not read into on the other. */
#include "gatewayd/edge/exchange.h"
#include "gatewayd/edge/account.h"
#include "gatewayd/edge/apply.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/exchange_up.h"
#include "gatewayd/edge/gather.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/edge/patience.h"
#include "gatewayd/upstream/back.h"
#include "libkm/base/util.h"
#include <stddef.h>
#include <string.h>
#include <utlist.h>

void exchange_quiet(struct km_buf *b)
{
	if (!b->len)
		km_buf_free(b);
}

void exchange_limit(struct exchange *x, enum timer_kind kind)
{
	timer_set(&x->c->w->timers, x->timer, kind, x->c->w->now);
}

static void on_total_late(struct timer *t);

/* ---- life ---- */

void exchange_init(struct exchange *x, struct conn *c, const struct front *front, struct km_buf *in,
		   struct km_buf *out, struct timer *timer)
{
	x->c = c;
	x->front = front;
	x->in = in;
	x->out = out;
	x->timer = timer;
	x->high = CONN_HIGH;
	x->total.fired = on_total_late;
	km_buf_init(&x->again, c->w->sh->buf_max);
}

void exchange_hold(struct exchange *x)
{
	x->active = x->listed = true;
	DL_APPEND(x->c->w->running, x);
	counts_bump(&x->route.state->active, 1);
}

const struct km_addr *exchange_client(const struct exchange *x)
{
	return x->client.family ? &x->client : &x->c->addr;
}

static void settle(struct exchange *x)
{
	struct edge_shared *sh = x->c->w->sh;
	struct route_state *s = x->route.state;
	account_end(x);
	if (x->active) {
		counts_bump(&s->active, (uint64_t)-1);
		atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->bytes_in, x->bytes_in, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->bytes_out, x->bytes_out, memory_order_relaxed);
		route_drop(&x->route);
	}
	if (x->bytes_in)
		km_metric_add(sh->m_bytes_in, (int64_t)x->bytes_in);
	if (x->bytes_out)
		km_metric_add(sh->m_bytes_out, (int64_t)x->bytes_out);
}

void exchange_drop(struct exchange *x, bool politely)
{
	struct worker *w = x->c->w;
	size_t max = x->again.max;
	pool_drop(w->pool, x->up, politely);
	timer_stop(&w->timers, &x->total);
	pool_leave(w->pool, &x->wait, w->now);
	gather_end(x);
	if (x->listed)
		DL_DELETE(w->running, x);
	settle(x);
	km_buf_free(&x->again);
	body_end(&x->req);
	body_end(&x->resp);
	memset(&x->state, 0, sizeof(*x) - offsetof(struct exchange, state));
	km_buf_init(&x->again, max);
}

/* Of this second, made once in it. */
static struct http_str date_now(struct worker *w)
{
	int64_t second = (w->now + w->wall_ahead) / 1000;
	if (second != w->date_s) {
		heads_date(w->date, second);
		w->date_s = second;
	}
	return (struct http_str){w->date, HEADS_DATE};
}

void exchange_answer_as(struct exchange *x, struct heads_answer *a)
{
	const struct route_rules *rules = x->active ? x->route.rules : NULL;
	a->html = x->html;
	a->head = x->head;
	a->date = date_now(x->c->w);
	if (rules && x->secure)
		a->hsts = rules->hsts;
	x->status = a->status;
	x->whole = true;
	if (!x->error)
		x->error = account_reason(a->status);
	x->front->answer(x, a);
	exchange_drop(x, false);
}

void exchange_answer(struct exchange *x, int status, const char *what, bool close)
{
	struct heads_answer a = {.status = status, .what = what, .close = close};
	exchange_answer_as(x, &a);
}

/* ---- failures ---- */

static enum up_failure failure_of(const struct exchange *x, int status)
{
	if (x->lost_it)
		return UP_LOST;
	if (x->answer_begun)
		return UP_BROKEN;
	if (status == 503 || x->status == 503)
		return UP_QUEUE;
	if (status == 504)
		return UP_TIMEOUT;
	if (!x->up || !x->up->connected)
		return UP_CONNECT;
	return x->answer_any ? UP_PROTOCOL : UP_SILENT;
}

void exchange_failed(struct exchange *x, int status, const char *why)
{
	struct edge_shared *sh = x->c->w->sh;
	char id[KM_UUID_STRLEN];
	uint32_t held;
	km_metric_add(sh->m_upstream_errors[failure_of(x, status)], 1);
	atomic_fetch_add_explicit(&x->route.state->errors, 1, memory_order_relaxed);
	if (km_log_allow(&sh->upstream_log, x->c->w->now, 10, 10000, &held))
		km_warn(status ? "no answer from the target" : "no connection to the agent",
			km_ks("tunnel", km_uuid_str(x->route.tunnel, id)), km_ki("status", status),
			km_ks("why", why), km_ki("held", held));
}

void exchange_fail(struct exchange *x, int status, const char *why)
{
	exchange_failed(x, status, why);
	x->error = why;
	if (x->answer_begun)
		x->front->cut(x);
	else
		exchange_answer(x, status, NULL, !x->req.done);
}

/* ---- the request ---- */

/* How long its body may be: as its tunnel has it, else as the settings do. */
static int64_t body_max(const struct exchange *x)
{
	const struct route_rules *rules = x->route.rules;
	int64_t own = x->c->w->sh->settings->max_body_size;
	if (rules && rules->max_body >= 0)
		return rules->max_body;
	return own ? own : -1;
}

static bool too_long(const struct exchange *x, uint64_t n)
{
	return x->body_max >= 0 && n > (uint64_t)x->body_max;
}

void exchange_begin(struct exchange *x, const struct http_request *r)
{
	const struct route_rules *rules = x->route.rules;
	struct conn *c = x->c;
	struct worker *w = c->w;

	x->state = EXCHANGE_RUNS;
	x->upgrade = r->upgrade;
	x->asks = r->expect_continue;
	x->body_max = body_max(x);
	if (r->body == HTTP_BODY_LENGTH && too_long(x, r->length)) {
		exchange_answer(x, 413, NULL, true);
		return;
	}
	if (w->timers.ms[TIMER_REQUEST])
		timer_set(&w->timers, &x->total, TIMER_REQUEST, w->now);
	x->bit_by_bit = r->te_trailers && r->body != HTTP_BODY_LENGTH;
	x->idempotent = r->idempotent;
	x->up_once = r->safe && r->body != HTTP_BODY_NONE;
	x->trailers = r->te_trailers || r->major == 2;
	body_begin(&x->req, r->body, r->length, false);
	if (r->trailers_ok)
		body_keep_trailers(&x->req, rules ? rules->request : NULL, rules ? rules->n_request : 0);
	km_buf_clear(&w->head);
	if (heads_request(&w->head, r, &w->client)) {
		exchange_fail(x, 502, "no memory");
		return;
	}
	if (gather_wanted(x, r))
		gather_begin(x);
	else
		exchange_up_begin(x);
}

/* ---- the rounds ---- */

static bool client_read(struct exchange *x)
{
	size_t most = x->req.done ? CONN_READ : x->high;
	if (x->in->len >= most || (!x->req.done && x->up->out.len >= x->high))
		return false;
	return x->front->read(x, most);
}

/* Of what the client sends no more is wanted. */
static void request_end(struct exchange *x, int status)
{
	if (!x->answer_begun) {
		exchange_answer(x, status, NULL, true);
		return;
	}
	if (!x->error)
		x->error = account_reason(status);
	x->front->cut(x);
}

static void request_bad(struct exchange *x)
{
	km_metric_add(x->c->w->sh->m_bad, 1);
	request_end(x, 400);
}

/* Whether the client holds everything up. What sends bit by bit on purpose (streams of gRPC: TE:
 * trailers, no length, and a target of HTTP/2, of which it has no connection to itself), or has its
 * answer already, is not judged by its pace. */
static bool sender_waited_for(const struct exchange *x)
{
	bool streams = x->bit_by_bit && x->up->link, asks = x->asks && !x->interims && !x->bytes_in;
	return x->state == EXCHANGE_RUNS && !x->req.done && !x->in->len && !x->answer_begun &&
	       !streams && !asks && x->up->connected && x->up->out.len < CONN_HIGH;
}

bool exchange_lags(const struct exchange *x)
{
	const struct up *u = x->up;
	return u && u->slots && slots_wanted(u->slots) && sender_waited_for(x) && patience_lags(x);
}

static bool request_move(struct exchange *x)
{
	size_t before = x->in->len, out = x->up->out.len;
	bool was = x->req.done;
	if (x->req.done)
		return false;
	if (x->up->no_write) {
		km_buf_clear(x->in); /* the target takes no more of it */
	} else if (body_move(&x->req, x->in, &x->up->out, x->high, &x->bytes_in) ||
		   (x->in_ended && !x->in->len && body_source_ended(&x->req, &x->up->out))) {
		request_bad(x);
		return true;
	}
	exchange_up_keep(x, x->up->out.len - out);
	size_t n = before - x->in->len;
	if (too_long(x, x->bytes_in)) {
		request_end(x, 413);
		return true;
	}
	if (n && x->front->taken)
		x->front->taken(x, n);
	if (!patience_in(x, n, sender_waited_for(x))) {
		request_end(x, 408);
		return true;
	}
	return (n && !x->up->no_write) || x->req.done != was;
}

static bool up_read(struct exchange *x)
{
	struct up *u = x->up;
	size_t head = x->c->w->sh->limits.head;
	size_t most = x->answer_begun || head < x->high ? x->high : u->in.len + x->high;
	if (!x->answer_begun && most > head)
		most = head;
	if (!u->connected || u->ended || x->out->len >= x->high || !u->back->read(u, most))
		return false;
	if (!x->answer_any && u->in.len) {
		x->answer_any = true;
		x->first_byte = x->c->w->now;
	}
	return true;
}

/* ---- the answer ---- */

/* From here on both ways are bytes until one of them ends. */
static int upgraded(struct exchange *x, const struct http_response *r)
{
	if (!x->upgrade || !r->upgrade)
		return KM_EPROTO;
	int rc = x->front->interim(x, r);
	if (rc)
		return rc;
	x->answer_begun = true;
	x->status = 101;
	x->state = EXCHANGE_RAW;
	body_end(&x->req);
	body_begin(&x->req, HTTP_BODY_CLOSE, 0, false);
	body_begin(&x->resp, HTTP_BODY_CLOSE, 0, false);
	exchange_limit(x, TIMER_UPGRADE);
	timer_stop(&x->c->w->timers, &x->total);
	return 0;
}

static int interim(struct exchange *x, const struct http_response *r)
{
	if (r->status == 101)
		return upgraded(x, r);
	if (++x->interims > CONN_INTERIM_MAX)
		return KM_EPROTO;
	return x->front->interim(x, r);
}

/* RFC 9110 section 6.6.1: who passes an answer on without a Date puts one there. */
static void date_it(struct exchange *x, struct http_response *r)
{
	static const struct http_str name = {"Date", 4};
	if (!r->dated && r->n_fields < HTTP_FIELDS_ROOM)
		r->fields[r->n_fields++] = (struct http_field){
		    .name = name, .value = date_now(x->c->w), .id = HTTP_DATE, .head_only = true};
}

static int final(struct exchange *x, struct http_response *r)
{
	const struct route_rules *rules = x->route.rules;
	bool encode = false;
	x->up_keep = r->keep_alive && !x->up_once;
	x->answer_begun = true;
	km_buf_free(&x->again);
	x->status = r->status;
	date_it(x, r);
	apply_response(r, rules, x->secure);
	int rc = x->front->head(x, r, &encode);
	body_begin(&x->resp, r->body, r->length, encode);
	if (r->trailers_ok && (x->trailers || r->trailers_told))
		body_keep_trailers(&x->resp, rules ? rules->response : NULL,
				   rules ? rules->n_response : 0);
	return rc;
}

static bool answer_head(struct exchange *x)
{
	struct up *u = x->up;
	struct worker *w = x->c->w;
	struct http_response *r = &w->resp;
	const char *why = NULL;
	if (x->answer_begun)
		return false;
	int got = u->back->head(u, r, x->head, &w->sh->limits, &why);
	if (got == 0 && !u->ended)
		return false;
	if (got == 0) {
		exchange_up_failed(x, u->why      ? u->why
				      : u->in.len ? "closed in the head of the answer"
						  : "closed without an answer");
		return true;
	}
	/* It has closed the connection before it had the request (RFC 9110 section 15.5.9). */
	if (got > 0 && r->status == 408 && !x->interims && exchange_up_unheard(x))
		return true;
	if (!x->first_byte)
		x->first_byte = x->c->w->now;
	x->answer_any = true;
	int rc = got < 0 ? KM_EPROTO : r->status < 200 ? interim(x, r) : final(x, r);
	if (rc == KM_EPROTO) {
		exchange_fail(x, 502, why ? why : "answer not understood");
		return true;
	}
	if (rc) { /* no memory, and perhaps half a head written */
		x->error = "no memory";
		x->front->cut(x);
		return true;
	}
	u->back->take(u);
	return true;
}

/* The answer is whole. */
static void finish(struct exchange *x)
{
	struct worker *w = x->c->w;
	struct up *u = x->up;
	char id[KM_UUID_STRLEN];
	if (km_log_on(KM_LOG_DEBUG))
		km_debug("request", km_ks("tunnel", km_uuid_str(x->route.tunnel, id)),
			 km_ki("status", x->status), km_ki("in", x->bytes_in),
			 km_ki("out", x->bytes_out));
	x->whole = true;
	x->front->done(x);
	if (x->req.done && x->up_keep && !u->in.len && !u->out.len) {
		pool_give(w->pool, u, w->now);
		x->up = NULL;
	}
	exchange_drop(x, true);
}

/* Nothing more comes: whether that is the answer's proper end. */
static bool source_ended(struct exchange *x)
{
	struct up *u = x->up;
	if (u->broken || (u->back->trailers && x->resp.kind == HTTP_BODY_CLOSE &&
			  u->back->trailers(u, &x->resp)))
		return false;
	return !body_source_ended(&x->resp, x->out);
}

static bool answer_move(struct exchange *x)
{
	struct up *u = x->up;
	size_t before = u->in.len;
	if (!x->answer_begun)
		return false;
	if (body_move(&x->resp, &u->in, x->out, x->high, &x->bytes_out)) {
		exchange_fail(x, 502, "malformed body of the answer");
		return true;
	}
	if (x->state == EXCHANGE_RUNS && !x->resp.done && !u->in.len && u->ended &&
	    !source_ended(x)) {
		exchange_fail(x, 502, "closed in the middle of the answer");
		return true;
	}
	if (x->resp.done) {
		finish(x);
		return true;
	}
	return u->in.len != before;
}

static bool client_flush(struct exchange *x)
{
	size_t before = x->out->len;
	bool moved = x->front->flush(x);
	if (x->state == EXCHANGE_OVER)
		return true;
	patience_sent(x, before - x->out->len);
	if (patience_out(x))
		return moved;
	x->front->cut(x);
	return true;
}

/* An upgraded one ends with either side, when what came before its end has gone on. */
static bool raw_ended(struct exchange *x)
{
	struct up *u = x->up;
	if (x->in_ended && !x->in->len && !u->out.len) {
		finish(x);
		return true;
	}
	if (!u->ended || u->in.len || x->out->len)
		return false;
	if (u->broken) {
		x->error = "target reset";
		x->front->cut(x);
	} else {
		finish(x);
	}
	return true;
}

static void rest(struct exchange *x, bool moved)
{
	struct up *u = x->up;
	if (!moved) {
		exchange_quiet(x->in);
		exchange_quiet(x->out);
		exchange_quiet(&u->in);
		exchange_quiet(&u->out);
	} else if (x->state == EXCHANGE_RAW) {
		exchange_limit(x, TIMER_UPGRADE);
	} else if (u->connected) {
		bool waits = x->req.done && !u->out.len && !x->answer_begun;
		exchange_limit(x, waits ? TIMER_UPSTREAM : TIMER_BODY);
	}
}

bool exchange_step(struct exchange *x)
{
	static bool (*const rounds[])(struct exchange *) = {
	    exchange_up_connect, client_read, request_move, exchange_up_flush, up_read,
	    answer_head,         answer_move, client_flush};
	bool moved = false;
	if (x->lost)
		exchange_up_lost(x);
	if (x->lags) {
		x->lags = false;
		if (exchange_lags(x)) {
			patience_ended(x);
			request_end(x, 408);
			return true;
		}
	}
	if (x->gathers)
		return gather_step(x);
	if (x->state == EXCHANGE_RUNS && !x->up)
		return x->front->read(x, x->in->len > CONN_READ ? x->in->len : CONN_READ);
	for (size_t i = 0; i < KM_ARRAY_LEN(rounds); i++) {
		if (x->state != EXCHANGE_RUNS && x->state != EXCHANGE_RAW)
			return true;
		moved |= rounds[i](x);
		if (!x->up)
			return true; /* it is over, or waits for another connection */
	}
	if (x->state == EXCHANGE_RAW && raw_ended(x))
		return true;
	if (x->state == EXCHANGE_RUNS || x->state == EXCHANGE_RAW)
		rest(x, moved);
	return moved;
}

void exchange_late(struct exchange *x)
{
	struct up *u = x->up;
	if (x->answer_begun) {
		bool reads = x->state == EXCHANGE_RUNS && x->out->len && patience_stalled(x);
		if (reads) {
			exchange_limit(x, TIMER_BODY);
			return;
		}
		x->error = x->error ? x->error : "no progress";
		x->front->cut(x);
	} else if (x->gathers) {
		patience_ended(x);
		exchange_answer(x, 408, NULL, true);
	} else if (!u && pool_waits_for(&x->wait)) {
		exchange_fail(x, 502, pool_waits_for(&x->wait));
	} else if (!u) {
		exchange_up_busy(x, "no connection to the target became free in time");
	} else if (!u->connected) {
		exchange_fail(x, 502,
			      u->tcp ? "the TLS handshake with the target took too long"
				     : "connection to the agent took too long");
	} else if (!x->req.done && !u->out.len) {
		patience_ended(x);
		exchange_answer(x, 408, NULL, true);
	} else {
		exchange_fail(x, 504, "answer took too long");
	}
}

static void on_total_late(struct timer *t)
{
	struct exchange *x = (struct exchange *)((char *)t - offsetof(struct exchange, total));
	x->error = "request took too long";
	if (x->answer_begun)
		x->front->cut(x);
	else if (x->gathers || (!x->req.done && x->up && !x->up->out.len))
		exchange_answer(x, 408, NULL, true);
	else
		exchange_fail(x, 504, x->error);
	x->front->drive(x);
}
