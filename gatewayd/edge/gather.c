/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/gather.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/exchange_up.h"
#include "gatewayd/edge/patience.h"

bool gather_wanted(const struct exchange *x, const struct http_request *r)
{
	return x->c->w->sh->settings->request_buffer && r->body == HTTP_BODY_LENGTH && r->length &&
	       !r->expect_continue;
}

void gather_begin(struct exchange *x)
{
	struct worker *w = x->c->w;
	if (km_buf_add(&x->again, km_buf_head(&w->head), w->head.len)) {
		exchange_fail(x, 502, "no memory");
		return;
	}
	x->again_head = w->head.len;
	x->gathers = true;
	km_metric_add(w->sh->m_gathering, 1);
	exchange_limit(x, TIMER_BODY);
}

void gather_end(struct exchange *x)
{
	if (!x->gathers)
		return;
	x->gathers = false;
	km_metric_add(x->c->w->sh->m_gathering, -1);
}

static bool whole_enough(const struct exchange *x)
{
	size_t most = (size_t)x->c->w->sh->settings->request_buffer;
	if (most > x->high)
		most = x->high;
	return x->req.done || x->again.len - x->again_head >= most;
}

/* What has come goes behind the head; *n: so much. False: answered. */
static bool take(struct exchange *x, size_t *n)
{
	size_t before = x->in->len;
	if (body_move(&x->req, x->in, &x->again, x->again_head + x->high, &x->bytes_in) ||
	    (x->in_ended && !x->in->len && body_source_ended(&x->req, &x->again))) {
		km_metric_add(x->c->w->sh->m_bad, 1);
		exchange_answer(x, 400, NULL, true);
		return false;
	}
	*n = before - x->in->len;
	if (*n && x->front->taken)
		x->front->taken(x, *n);
	return true;
}

bool gather_step(struct exchange *x)
{
	size_t n;
	bool news = !x->in->len && x->front->read(x, x->high);
	if (x->state != EXCHANGE_RUNS || !take(x, &n))
		return true;
	if (whole_enough(x)) {
		gather_end(x);
		exchange_up_gathered(x);
		return true;
	}
	if (!patience_in(x, n, !x->in->len)) {
		exchange_answer(x, 408, NULL, true);
		return true;
	}
	if (n)
		exchange_limit(x, TIMER_BODY);
	else
		exchange_quiet(x->in);
	return news || n;
}
