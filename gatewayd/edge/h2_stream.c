/* SPDX-License-Identifier: MIT */
/* One stream: what its exchange asks of the client's side. Nothing here sends: it is written when
 * the loop's turn ends (front_h2.c). */
#include "gatewayd/edge/h2_answer.h"
#include "gatewayd/edge/h2_session.h"
#include "gatewayd/edge/h2_ws.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/edge/patience.h"
#include "gatewayd/edge/request.h"
#include "libkm/base/util.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#define ROUNDS 16 /* of one stream, before others have their turn */

static struct h2_stream *stream_of(struct exchange *x)
{
	return (struct h2_stream *)((char *)x - offsetof(struct h2_stream, x));
}

static bool runs(const struct h2_stream *st)
{
	return st->x.state == EXCHANGE_RUNS || st->x.state == EXCHANGE_RAW;
}

/* ---- life ---- */

static void on_late(struct timer *t);

struct h2_stream *h2_stream_new(struct h2 *h, int32_t id)
{
	struct h2_stream *st = calloc(1, sizeof(*st));
	struct conn *c = h->c;
	if (!st)
		return NULL;
	st->h = h;
	st->id = id;
	st->timer.fired = on_late;
	km_buf_init(&st->in, h->sh->stream_window + c->w->sh->buf_max);
	km_buf_init(&st->out, c->w->sh->buf_max);
	km_buf_init(&st->trailers, SIZE_MAX);
	exchange_init(&st->x, c, &front_h2, &st->in, &st->out, &st->timer);
	DL_APPEND(h->streams, st);
	h->n_streams++;
	km_metric_add(h->sh->m_streams, 1);
	return st;
}

/* What has come and is not taken any more: the connection's window is for others too. */
static void in_drop(struct h2_stream *st)
{
	if (st->in.len)
		(void)nghttp2_session_consume_connection(st->h->s, st->in.len);
	km_buf_free(&st->in);
}

void h2_stream_free(struct h2_stream *st, bool politely)
{
	struct h2 *h = st->h;
	exchange_drop(&st->x, politely);
	timer_stop(&h->c->w->timers, &st->timer);
	in_drop(st);
	km_buf_free(&st->out);
	km_buf_free(&st->trailers);
	if (st->ready_on)
		DL_DELETE2(h->ready, st, ready_prev, ready_next);
	DL_DELETE(h->streams, st);
	h->n_streams--;
	km_metric_add(h->sh->m_streams, -1);
	free(st);
}

void h2_stream_reset(struct h2_stream *st, uint32_t error)
{
	exchange_drop(&st->x, false);
	timer_stop(&st->h->c->w->timers, &st->timer);
	in_drop(st);
	if (st->reset)
		return;
	st->reset = true;
	(void)nghttp2_submit_rst_stream(st->h->s, NGHTTP2_FLAG_NONE, st->id, error);
	km_metric_add(st->h->sh->m_resets_gateway, 1);
}

/* ---- turns ---- */

void h2_stream_ready(struct h2_stream *st)
{
	if (st->ready_on)
		return;
	st->ready_on = true;
	DL_APPEND2(st->h->ready, st, ready_prev, ready_next);
}

static void run(struct h2_stream *st)
{
	int left = ROUNDS;
	st->x.high = st->h->n_streams > H2_BUSY ? H2_STREAM_HIGH : CONN_HIGH;
	while (runs(st) && exchange_step(&st->x))
		if (!--left) {
			h2_stream_ready(st);
			break;
		}
	if (st->x.state == EXCHANGE_OVER)
		h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
}

bool h2_streams_run(struct h2 *h)
{
	struct h2_stream *st, *list = h->ready;
	bool any = list != NULL;
	h->ready = NULL;
	while ((st = list)) {
		DL_DELETE2(list, st, ready_prev, ready_next);
		st->ready_on = false;
		run(st);
	}
	return any;
}

static void on_late(struct timer *t)
{
	struct h2_stream *st =
	    (struct h2_stream *)((char *)t - offsetof(struct h2_stream, timer));
	struct conn *c = st->h->c;
	if (runs(st))
		exchange_late(&st->x);
	else /* the answer is whole, and the client does not take it */
		h2_stream_reset(st, NGHTTP2_CANCEL);
	if (st->x.state == EXCHANGE_OVER)
		h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
	conn_later(c);
}

/* ---- the request ---- */

static void ws_key_make(struct h2_stream *st)
{
	uint8_t random[16];
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		memset(random, 0, sizeof(random)); /* it protects nobody: RFC 6455 section 10.3 */
	h2_ws_key(random, st->ws_key);
}

void h2_stream_request(struct h2_stream *st, bool ended)
{
	struct h2 *h = st->h;
	struct worker *w = h->c->w;
	static const char no_key[H2_WS_KEY];
	const char *why;
	st->ended = ended;
	if (h->head.pseudo[H2_PROTOCOL].given)
		ws_key_make(st);
	int status = h2_head_end(&h->head, !ended, *st->ws_key ? st->ws_key : no_key, &w->req, &why);
	km_metric_add(w->sh->m_requests, 1);
	st->x.head = w->req.head;
	if (status) {
		request_refuse(&st->x, status, why);
		return;
	}
	request_serve(&st->x, &w->req);
	h2_stream_ready(st);
}

static bool on_read(struct exchange *x, size_t most)
{
	(void)most;
	struct h2_stream *st = stream_of(x);
	bool news = st->ended && !x->in_ended;
	x->in_ended = st->ended;
	return news;
}

static void on_taken(struct exchange *x, size_t n)
{
	struct h2_stream *st = stream_of(x);
	(void)nghttp2_session_consume(st->h->s, st->id, n);
}

/* ---- the answer ---- */

static int submitted(int rc)
{
	return rc == NGHTTP2_ERR_NOMEM ? KM_ENOMEM : 0;
}

static int submit(struct h2_stream *st, const struct http_response *r, bool body)
{
	struct h2_answer a;
	nghttp2_data_provider from = {.source.ptr = st, .read_callback = h2_stream_source};
	h2_answer_head(&a, r, *st->ws_key && r->status == 101);
	if (r->status < 200 && r->status != 101)
		return submitted(nghttp2_submit_headers(st->h->s, NGHTTP2_FLAG_NONE, st->id, NULL,
							a.nv, a.n, NULL));
	st->answered = true;
	st->body = body;
	return submitted(
	    nghttp2_submit_response(st->h->s, st->id, a.nv, a.n, body ? &from : NULL));
}

static int on_interim(struct exchange *x, const struct http_response *r)
{
	struct h2_stream *st = stream_of(x);
	if (r->status == 101 && !h2_ws_accepted(r, st->ws_key))
		return KM_EPROTO;
	return submit(st, r, r->status == 101);
}

static int on_head(struct exchange *x, const struct http_response *r, bool *encode)
{
	bool empty = r->body == HTTP_BODY_NONE || (r->body == HTTP_BODY_LENGTH && !r->length);
	*encode = false;
	return submit(stream_of(x), r, !empty);
}

/* nghttp2 asks for the body again, when there is reason to. */
static void resume(struct h2_stream *st)
{
	if (!st->deferred || (!st->out.len && !st->done))
		return;
	st->deferred = false;
	(void)nghttp2_session_resume_data(st->h->s, st->id);
}

static bool on_flush(struct exchange *x)
{
	struct h2_stream *st = stream_of(x);
	bool sent = st->sent;
	st->sent = false;
	resume(st);
	return sent;
}

static void on_done(struct exchange *x)
{
	struct h2_stream *st = stream_of(x);
	struct km_buf none = {.max = SIZE_MAX};
	struct worker *w = x->c->w;
	st->trailers = x->resp.trailers;
	x->resp.trailers = none;
	st->done = true;
	resume(st);
	timer_set(&w->timers, &st->timer, TIMER_BODY, w->now);
}

static void on_cut(struct exchange *x)
{
	x->state = EXCHANGE_OVER;
}

/* The text that HTTP/1 clients get, taken apart again. */
static int answer_submit(struct h2_stream *st, const struct heads_answer *a)
{
	struct worker *w = st->h->c->w;
	struct http_response *r = &w->resp;
	struct km_buf text;
	size_t at = 0;
	const char *why;
	km_buf_init(&text, w->sh->buf_max);
	int rc = heads_answer(&text, a);
	const char *p = (const char *)km_buf_head(&text);
	int n = rc ? 0 : h1_scan(p, text.len, &at, text.len + 1);
	if (n <= 0 || h1_response_parse(r, p, (size_t)n, a->head, &w->sh->limits, &why))
		rc = rc ? rc : KM_EPROTO;
	else if (!(rc = submit(st, r, text.len > (size_t)n)))
		rc = km_buf_add(&st->out, p + n, text.len - (size_t)n);
	km_buf_free(&text);
	return rc;
}

static void on_answer(struct exchange *x, struct heads_answer *a)
{
	struct h2_stream *st = stream_of(x);
	struct worker *w = x->c->w;
	km_buf_clear(&st->out);
	if (answer_submit(st, a)) {
		h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
		return;
	}
	st->done = true;
	resume(st);
	timer_set(&w->timers, &st->timer, TIMER_BODY, w->now);
}

/* ---- what nghttp2 asks for ---- */

static int trailers_submit(struct h2_stream *st)
{
	struct h2_answer a;
	h2_answer_trailers(&a, (struct http_str){(const char *)km_buf_head(&st->trailers),
						 st->trailers.len});
	return nghttp2_submit_trailer(st->h->s, st->id, a.nv, a.n);
}

ssize_t h2_stream_source(nghttp2_session *s, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
			 nghttp2_data_source *source, void *arg)
{
	struct h2_stream *st = source->ptr;
	(void)s, (void)id, (void)buf, (void)arg;
	if (!st->out.len && !st->done) {
		st->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (st->out.len > n)
		return (ssize_t)n;
	if (!st->done)
		return (ssize_t)st->out.len;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (st->trailers.len) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		if (trailers_submit(st))
			return NGHTTP2_ERR_CALLBACK_FAILURE;
	}
	return (ssize_t)st->out.len;
}

int h2_stream_send(nghttp2_session *s, nghttp2_frame *frame, const uint8_t *head, size_t n,
		   nghttp2_data_source *source, void *arg)
{
	struct h2_stream *st = source->ptr;
	struct h2 *h = arg;
	struct km_buf *out = &h->c->out;
	struct worker *w = h->c->w;
	(void)s, (void)frame; /* never padded */
	if (out->len >= CONN_HIGH)
		return NGHTTP2_ERR_WOULDBLOCK;
	if (km_buf_add(out, head, 9) || km_buf_add(out, km_buf_head(&st->out), n))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	km_buf_consume(&st->out, n);
	h2_limits_sent(&h->limits, &h->sh->rates, n);
	st->sent = true;
	patience_sent(&st->x, n);
	if (runs(st))
		h2_stream_ready(st);
	else if (patience_out(&st->x)) /* else its time runs out */
		timer_set(&w->timers, &st->timer, TIMER_BODY, w->now);
	if (!st->out.len)
		km_buf_free(&st->out);
	return 0;
}

/* ---- being woken ---- */

static void on_drive(struct exchange *x)
{
	struct conn *c = x->c;
	c->w->now = km_now_ms();
	run(stream_of(x));
	conn_later(c);
}

static void on_wake(struct exchange *x)
{
	h2_stream_ready(stream_of(x));
	conn_later(x->c);
}

const struct front front_h2 = {
    .read = on_read,
    .taken = on_taken,
    .interim = on_interim,
    .head = on_head,
    .flush = on_flush,
    .answer = on_answer,
    .cut = on_cut,
    .done = on_done,
    .drive = on_drive,
    .wake = on_wake,
};
