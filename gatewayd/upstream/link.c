/* SPDX-License-Identifier: MIT */
/* Targets that speak HTTP/2: connections (links) that requests share, and what an exchange has of
 * them. */
#include "gatewayd/edge/exchange.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/upstream/back.h"
#include "gatewayd/upstream/internal.h"
#include "libkm/base/util.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ 65536
#define READS 4 /* in one turn: a target that sends on and on must not keep others from theirs */
#define OUT_HIGH 65536

/* ---- the link ---- */

static void stir(struct up *link)
{
	struct pool *p = link->pool;
	if (link->stirred)
		return;
	link->stirred = true;
	LL_APPEND2(p->stirred, link, next_stirred);
	pool_ring(p);
}

/* Something has happened on a stream; its exchange hears of it when the link has been read. */
static void on_changed(void *owner)
{
	struct up *u = owner;
	u->news = u->untold = true;
}

static void link_free(struct pool *p, struct up *link)
{
	struct pool_set *s = link->set;
	if (s)
		DL_DELETE(s->links, link);
	link->set = NULL;
	if (link->stirred)
		LL_DELETE2(p->stirred, link, next_stirred);
	up_h2_free(link->h2);
	pool_up_free(p, link, !link->io.broken);
	if (s)
		pool_set_rest(p, s);
}

/* Nobody uses it: it goes if it is of no more use, and after a while anyway. */
static bool link_rest(struct pool *p, struct up *link, int64_t now)
{
	if (up_h2_streams(link->h2) || link->busy)
		return false;
	if (up_h2_over(link->h2) || !link->connected || link->io.eof || pool_refuses(p, link, now)) {
		link_free(p, link);
		return true;
	}
	timer_set(p->o.timers, &link->timer, TIMER_POOL, now);
	return false;
}

/* Its streams end; they are told by link_run. */
static void link_fail(struct up *link, const char *why)
{
	if (why && !link->text[0])
		snprintf(link->text, sizeof(link->text), "%s", why);
	up_h2_lost(link->h2, link->connected);
	link->io.broken = true;
	stir(link);
}

static bool link_flush(struct up *link)
{
	size_t n;
	bool moved = false;
	if (!link->connected || link->io.broken)
		return false;
	do {
		if (up_h2_send(link->h2, &link->out, OUT_HIGH)) {
			link_fail(link, "no memory");
			return true;
		}
		if (io_write(&link->io, &link->out, &n) == IO_BROKEN) {
			link->no_write = link->io.can_read = link->unread = true; /* GOAWAY? */
			km_buf_clear(&link->out);
			stir(link);
			return true;
		}
		moved |= n > 0;
	} while (n && !link->out.len);
	if (!link->out.len)
		km_buf_free(&link->out);
	return moved;
}

static void link_read(struct up *link, int64_t now)
{
	struct km_buf *b = &link->in;
	int left = READS;
	link->unread = false;
	if (link->io.broken) /* TLS cannot be read any more where it could not be written */
		link_fail(link, NULL);
	while (!link->io.broken) {
		if (!left--) {
			link->unread = true;
			stir(link);
			break;
		}
		enum io_got got = io_read(&link->io, b, READ);
		if (got == IO_WAIT)
			break;
		if (got != IO_BYTES) {
			link_fail(link, NULL);
			break;
		}
		int rc = up_h2_receive(link->h2, km_buf_head(b), b->len);
		km_buf_clear(b);
		timer_set(link->pool->o.timers, &link->timer, TIMER_PING, now);
		if (rc) {
			link_flush(link); /* what was wrong with it */
			link_fail(link, up_h2_why(link->h2));
		}
	}
	km_buf_free(b);
}

/* Tells the exchanges. Each may end, and take others along. */
static void link_tell(struct up *link)
{
	struct up_h2_stream *s = up_h2_first(link->h2);
	while (s) {
		struct up *u = s->owner;
		if (!u->untold || !u->owner) {
			s = s->next;
			continue;
		}
		u->untold = false;
		link->pool->o.woken(u);
		s = up_h2_first(link->h2);
	}
}

static void link_look(struct up *link, int64_t now)
{
	struct pool *p = link->pool;
	link->busy = true;
	link_flush(link);
	link_tell(link);
	link->busy = false;
	link_rest(p, link, now);
}

void link_run(struct pool *p)
{
	struct up *link;
	size_t n;
	LL_COUNT2(p->stirred, link, n, next_stirred);
	/* What is stirred meanwhile has its turn when the bell rings again. */
	while (n-- && (link = p->stirred)) {
		int64_t now = km_now_ms();
		LL_DELETE2(p->stirred, link, next_stirred);
		link->stirred = false;
		if (link->unread)
			link_read(link, now);
		link_look(link, now);
	}
}

static void opening(struct up *link, int64_t now)
{
	struct km_errtext why;
	struct up_h2_stream *s;
	if (dial_check(link, now, &why))
		link_fail(link, why.text);
	if (!link->connected && !link->io.broken)
		return;
	for (s = up_h2_first(link->h2); s; s = s->next)
		on_changed(s->owner);
	timer_set(link->pool->o.timers, &link->timer, TIMER_PING, now);
}

static void on_woken(struct io *io)
{
	struct up *link = (struct up *)((char *)io - offsetof(struct up, io));
	int64_t now = km_now_ms();
	if (!link->connected)
		opening(link, now);
	else
		link_read(link, now);
	link_look(link, now);
}

/* Unused for long; or silent for long, while something is expected of it. */
static void on_late(struct timer *t)
{
	struct up *link = (struct up *)((char *)t - offsetof(struct up, timer));
	struct pool *p = link->pool;
	int64_t now = km_now_ms();
	if (!up_h2_streams(link->h2)) {
		link_free(p, link);
		return;
	}
	if (up_h2_pinging(link->h2)) {
		link_fail(link, "no answer to a ping");
		return;
	}
	up_h2_ping(link->h2);
	timer_set(p->o.timers, t, TIMER_CONNECT, now);
	link_flush(link);
}

void link_close(struct pool *p, struct up *link)
{
	up_h2_drain(link->h2);
	if (!up_h2_streams(link->h2) && !link->busy)
		link_free(p, link);
}

/* ---- streams ---- */

static struct up *stream_new(struct pool *p, struct up *link, struct exchange *owner)
{
	struct up *u = calloc(1, sizeof(*u));
	if (!u)
		return NULL;
	u->back = &back_h2;
	io_none(&u->io);
	u->pool = p;
	u->owner = owner;
	u->link = link;
	u->reused = link->reused;
	u->connected = link->connected;
	u->serial = link->serial;
	u->agent = link->agent;
	km_buf_init(&u->in, UP_H2_WINDOW);
	km_buf_init(&u->out, p->o.buf_max);
	if (link->connected && !up_h2_streams(link->h2))
		timer_set(p->o.timers, &link->timer, TIMER_PING, km_now_ms());
	up_h2_begin(link->h2, &u->stream, u, &u->in, &u->out);
	return u;
}

struct up *link_stream(struct pool *p, struct pool_set *s, struct exchange *owner)
{
	struct up *link;
	DL_FOREACH (s->links, link)
		if (!link->io.broken && !link->no_write && up_h2_room(link->h2))
			return stream_new(p, link, owner);
	return NULL;
}

int link_of(struct up *u, struct pool_set *s)
{
	const struct up_h2_opts o = {
	    .limits = u->pool->o.limits, .changed = on_changed, .https = u->offers_h2};
	if (!(u->h2 = up_h2_new(&o)))
		return KM_ENOMEM;
	u->timer.fired = on_late;
	u->io.woken = on_woken;
	u->set = s;
	return 0;
}

void link_opened(struct pool *p, struct up *link, int64_t now)
{
	link->unread = true; /* the target may have spoken together with its handshake */
	stir(link);
	if (slots_wanted(link->slots))
		pool_offer(p, link, now);
	link_rest(p, link, now);
}

int link_open(struct pool *p, const struct route *r, struct exchange *owner, struct up **out)
{
	struct pool_set *s = pool_set_get(p, r->serial);
	struct up *link = NULL;
	int rc = KM_ENOMEM;
	if (!s)
		return rc;
	if ((rc = dial(p, r, NULL, on_woken, &link)))
		goto out;
	rc = KM_ENOMEM;
	if (link_of(link, s) || !(*out = stream_new(p, link, owner))) {
		up_h2_free(link->h2);
		pool_up_free(p, link, true);
		goto out;
	}
	DL_PREPEND(s->links, link);
	rc = 0;
out:
	pool_set_rest(p, s);
	return rc;
}

void link_stream_drop(struct pool *p, struct up *u, int64_t now)
{
	struct up *link = u->link;
	bool busy = link->busy;
	link->reused |= u->stream.head_done;
	up_h2_drop(&u->stream);
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	free(u);
	link_flush(link);
	link->busy = true; /* another worker's turn may close it */
	if (!link->io.broken && !link->no_write && up_h2_room(link->h2))
		pool_offer(p, link, now);
	link->busy = busy;
	link_rest(p, link, now);
}

int link_check(struct up *u, struct km_errtext *why)
{
	const struct up *link = u->link;
	u->connected = link->connected;
	return u->connected || !link->io.broken
		   ? 0
		   : km_errtext_set(why, KM_EIO, "%s", link->text[0] ? link->text : "closed");
}

/* ---- for the exchange ---- */

/* What heads_request wrote passes the strict parser once more. */
static int h2_head_send(struct up *u, const void *head, size_t n)
{
	const struct http_limits any = {n, HTTP_FIELDS_ROOM};
	struct http_request r;
	const char *why;
	if (h1_request_parse(&r, head, n, &any, &why))
		return KM_ETOOBIG;
	return up_h2_request(&u->stream, &r);
}

static bool h2_body_send(struct up *u, bool ended)
{
	struct up_h2_stream *s = &u->stream;
	size_t before = u->out.len;
	bool was = u->no_write;
	if (u->no_write || (s->sent && !u->out.len && (!ended || s->out_ended)))
		return false;
	up_h2_flush(s, ended, &u->owner->req.trailers);
	link_flush(u->link);
	u->no_write = s->no_write;
	if (u->no_write)
		km_buf_free(&u->out);
	return u->out.len != before || u->no_write != was;
}

static bool h2_read(struct up *u, size_t most)
{
	struct up_h2_stream *s = &u->stream;
	bool news = u->news;
	(void)most; /* the window is the bound */
	u->news = false;
	if (up_h2_taken(s))
		link_flush(u->link);
	if (s->ended) {
		u->ended = true;
		u->broken = s->broken;
		u->wrote = s->sent;
		u->unprocessed = s->refused;
		u->decided = s->reset;
		if (s->broken)
			u->why = u->link->text[0] ? u->link->text : up_h2_why(u->link->h2);
	}
	return news;
}

static int h2_head(struct up *u, struct http_response *r, bool head_request,
		    const struct http_limits *lim, const char **why)
{
	const struct up_h2_stream *s = &u->stream;
	const char *p = (const char *)km_buf_head(&s->head);
	*why = "malformed or too large head of the answer";
	int n = h1_scan(p, s->head.len, &u->scan_at, lim->head);
	if (n <= 0)
		return n ? -1 : 0;
	u->head_len = (size_t)n;
	if (h1_response_parse(r, p, (size_t)n, head_request, lim, why))
		return -1;
	if (r->body == HTTP_BODY_LENGTH && r->trailers_told)
		r->body = HTTP_BODY_CLOSE; /* they come behind the last byte */
	/* The head is all there is, as gRPC's clients want it when a call fails. */
	if (r->body == HTTP_BODY_CLOSE && s->ended && !s->broken && !u->in.len && !s->trailers.len)
		r->body = HTTP_BODY_NONE;
	return 1;
}

static void h2_take(struct up *u)
{
	km_buf_consume(&u->stream.head, u->head_len);
	u->scan_at = 0;
}

static int h2_tail(struct up *u, struct body *b)
{
	return up_h2_trailers(&u->stream, b);
}

const struct back back_h2 = {
    .request = h2_head_send,
    .flush = h2_body_send,
    .read = h2_read,
    .head = h2_head,
    .take = h2_take,
    .trailers = h2_tail,
};
