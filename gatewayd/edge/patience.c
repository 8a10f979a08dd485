/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/patience.h"
#include "gatewayd/edge/conn.h"
#include <linux/tcp.h>

static bool too_slow(struct exchange *x, bool reading)
{
	struct conn *c = x->c;
	struct edge_shared *sh = c->w->sh;
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	x->error = "client too slow";
	km_metric_add(sh->m_slow[reading], 1);
	if (km_log_allow(&sh->slow_log, c->w->now, 10, 10000, &held))
		km_info("client too slow", km_ks("client", km_addr_str(exchange_client(x), ip)),
			km_ks("what", reading ? "reading the answer" : "sending the request"),
			km_ki("held", held));
	return false;
}

bool patience_in(struct exchange *x, uint64_t n, bool waits)
{
	struct worker *w = x->c->w;
	return !pace_slow(&x->pace_in, &w->sh->pace, n, waits, w->now) || too_slow(x, false);
}

bool patience_lags(const struct exchange *x)
{
	const struct worker *w = x->c->w;
	return pace_lags(&x->pace_in, &w->sh->pace, w->timers.ms[TIMER_CONNECT] / 2, w->now);
}

void patience_ended(struct exchange *x)
{
	(void)too_slow(x, false);
}

/* What the client's kernel has acknowledged since the last look (a first look lets it
 * pass). A full socket takes more only when a third of it is free, which at a modem's
 * pace is longer than body_timeout; and streams of HTTP/2 share what a slow line carries. Where the
 * connection has taken everything, a stream waits because the client does not open its window. */
static bool acknowledged(struct exchange *x)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	int64_t since = x->c->w->now - x->acked_ms;
	if (!x->c->out.len)
		return false;
	if (since < x->c->w->sh->pace.window_ms)
		return true; /* it has just been judged */
	if (getsockopt(io_fd(&x->c->io), IPPROTO_TCP, TCP_INFO, &info, &len) ||
	    len < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
		return false;
	uint64_t n = info.tcpi_bytes_acked - x->acked;
	bool first = !x->acked_ms;
	x->acked = info.tcpi_bytes_acked;
	x->acked_ms = x->c->w->now;
	return first || !pace_too_few(&x->c->w->sh->pace, n, since);
}

void patience_sent(struct exchange *x, uint64_t n)
{
	x->pace_out.bytes += n;
}

bool patience_out(struct exchange *x)
{
	struct worker *w = x->c->w;
	if (!x->out->len)
		x->acked_ms = 0; /* it has all */
	return !pace_slow(&x->pace_out, &w->sh->pace, 0, x->out->len, w->now) || acknowledged(x) ||
	       too_slow(x, true);
}

bool patience_stalled(struct exchange *x)
{
	return acknowledged(x) || too_slow(x, true);
}
