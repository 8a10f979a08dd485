/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/request.h"
#include "gatewayd/edge/account.h"
#include "gatewayd/edge/apply.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/edge/loops.h"
#include "libkm/base/util.h"
#include <string.h>

void request_refuse(struct exchange *x, int status, const char *why)
{
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	struct conn *c = x->c;
	struct edge_shared *sh = c->w->sh;
	km_metric_add(sh->m_bad, 1);
	if (km_log_allow(&sh->bad_log, c->w->now, 10, 10000, &held))
		km_info("bad request", km_ks("client", km_addr_str(exchange_client(x), ip)),
			km_ki("status", status), km_ks("why", why), km_ki("held", held));
	account_begin(x, NULL);
	x->error = why;
	exchange_answer(x, status, NULL, true);
}

static void redirect_to_https(struct exchange *x, const struct http_request *r)
{
	struct heads_answer a = {.status = 301};
	char port[16] = "";
	struct edge_shared *sh = x->c->w->sh;
	struct km_buf *location = &x->c->w->head;
	if (sh->https_port != 443)
		snprintf(port, sizeof(port), ":%d", sh->https_port);
	a.close = r->body != HTTP_BODY_NONE;
	km_buf_clear(location);
	if (km_buf_addf(location, "https://%s%s%s", r->host, port,
			r->target_query || !r->target.n ? "/" : "") ||
	    km_buf_add(location, r->target.p, r->target.n) || km_buf_add(location, "", 1)) {
		x->front->cut(x);
		return;
	}
	a.location = (const char *)km_buf_head(location);
	exchange_answer_as(x, &a);
}

static const char acme_path[] = "/.well-known/acme-challenge/";

static bool challenge_path(const struct http_request *r)
{
	return r->target.n >= sizeof(acme_path) - 1 &&
	       !memcmp(r->target.p, acme_path, sizeof(acme_path) - 1);
}

/* RFC 8555 section 8.3: the CA asks for the proof that we hold this name, whoever's tunnel it is.
 */
static bool challenge_answered(struct exchange *x, const struct http_request *r)
{
	char text[CHALLENGE_KEY_AUTH_MAX + 1];
	const char *token = r->target.p + sizeof(acme_path) - 1;
	size_t n = r->target.n - (sizeof(acme_path) - 1);
	struct edge_shared *sh = x->c->w->sh;
	if (!sh->challenges || !(http_str_is(r->method, "GET") || r->head) ||
	    !challenges_http(sh->challenges, r->host, token, n, text))
		return false;
	km_metric_add(sh->m_challenged, 1);
	x->html = false;
	exchange_answer(x, 200, text, true);
	return true;
}

/* ---- what the tunnel's rules decide ---- */

static void maintain(struct exchange *x, const struct http_request *r)
{
	const struct route_rules *rules = x->route.rules;
	struct heads_answer a = {.status = 503,
				 .page = x->html ? rules->page_html : rules->page_text,
				 .retry_after = rules->retry_after,
				 .close = r->body != HTTP_BODY_NONE};
	x->error = "maintenance";
	exchange_answer_as(x, &a);
}

static bool redirected(struct exchange *x, const struct http_request *r)
{
	struct km_buf *to = &x->c->w->head;
	struct heads_answer a = {.close = r->body != HTTP_BODY_NONE};
	a.status = x->route.rules->n_redirects ? apply_redirect(to, x->route.rules, r) : 0;
	if (!a.status)
		return false;
	if (a.status < 0) {
		x->front->cut(x);
		return true;
	}
	a.location = (const char *)km_buf_head(to);
	exchange_answer_as(x, &a);
	return true;
}

static bool limited(struct exchange *x, const struct http_request *r)
{
	struct worker *w = x->c->w;
	struct edge_shared *sh = w->sh;
	char ip[KM_ADDR_STRLEN], id[KM_UUID_STRLEN];
	uint32_t held;
	struct heads_answer a = {.status = 429, .close = r->body != HTTP_BODY_NONE};
	a.retry_after = limits_wait(&sh->rates, &x->route, &x->client, w->now);
	if (!a.retry_after)
		return false;
	km_metric_add(sh->m_limited, 1);
	if (km_log_allow(&sh->limit_log, w->now, 10, 10000, &held))
		km_info("too many requests",
			km_ks("tunnel", km_uuid_str(x->route.tunnel, id)),
			km_ks("client", km_addr_str(exchange_client(x), ip)),
			km_ki("retry_after_s", a.retry_after), km_ki("held", held));
	exchange_answer_as(x, &a);
	return true;
}

/* To the target, unless it has been there too often. */
static void forward(struct exchange *x, struct http_request *r)
{
	struct worker *w = x->c->w;
	struct edge_shared *sh = w->sh;
	char ip[KM_ADDR_STRLEN], id[KM_UUID_STRLEN];
	uint32_t held;
	if (loops_pass(r, x->route.state->mark, sh->settings->via)) {
		exchange_begin(x, r);
		return;
	}
	km_metric_add(sh->m_looped, 1);
	if (km_log_allow(&sh->loop_log, w->now, 10, 10000, &held))
		km_warn("request comes round again: the tunnel's target leads back to a gateway",
			km_ks("tunnel", km_uuid_str(x->route.tunnel, id)),
			km_ks("client", km_addr_str(exchange_client(x), ip)), km_ki("held", held));
	exchange_answer(x, 508, NULL, r->body != HTTP_BODY_NONE);
}

/* A request for the tunnel of x->route. */
static void tunnel_request(struct exchange *x, struct http_request *r)
{
	const struct route_rules *rules = x->route.rules;
	if (rules && rules->maintenance) {
		maintain(x, r);
	} else if ((rules && redirected(x, r)) || limited(x, r)) {
		return;
	} else if (!x->route.enabled) {
		x->error = "tunnel disabled";
		exchange_answer(x, 503, "Tunnel disabled", r->body != HTTP_BODY_NONE);
	} else if (!apply_request(r, &x->route)) {
		request_refuse(x, 400, "two slashes behind the tunnel's path");
	} else {
		forward(x, r);
	}
}

/* ---- whose it is ---- */

static void domain_request(struct exchange *x, struct http_request *r, enum route_found found)
{
	switch (found) {
	case ROUTE_FOUND:
		exchange_hold(x);
		tunnel_request(x, r);
		break;
	case ROUTE_UNCLEAR:
		request_refuse(x, 400, "a path that can be read in several ways");
		break;
	default:
		exchange_answer(x, 404, "Tunnel not found", r->body != HTTP_BODY_NONE);
		break;
	}
}

static enum route_found match(struct exchange *x, const struct http_request *r)
{
	return route_match(x->c->w->sh->routes, r->host, r->target.p, r->target.n, &x->route);
}

static void plain_request(struct exchange *x, struct http_request *r)
{
	bool close = r->body != HTTP_BODY_NONE;
	if (challenge_path(r) && challenge_answered(x, r))
		return;
	enum route_found found = match(x, r);
	bool known = found != ROUTE_NO_HOST;
	/* A client behind a trusted proxy that ends its TLS would be redirected for ever. */
	bool here = known && (x->route.tls == ROUTE_TLS_OFF ||
			      (x->secure && x->route.tls != ROUTE_TLS_PASSTHROUGH));
	if (here) {
		domain_request(x, r, found);
		return;
	}
	if (known)
		route_drop(&x->route);
	if (challenge_path(r))
		exchange_answer(x, 404, NULL, close);
	else if (r->target.n == 1 && r->target.p[0] == '*')
		exchange_answer(x, 400, NULL, close);
	else if (!known)
		exchange_answer(x, 404, "Tunnel not found", close);
	else
		redirect_to_https(x, r);
}

static void secure_request(struct exchange *x, struct http_request *r)
{
	const struct tls_peer *peer = &x->c->peer;
	enum route_found found = match(x, r);
	if (found == ROUTE_NO_HOST) {
		exchange_answer(x, 404, "Tunnel not found", r->body != HTTP_BODY_NONE);
		return;
	}
	/* Neither is served behind TLS of ours, though a certificate here may name it. */
	bool elsewhere = x->route.tls == ROUTE_TLS_PASSTHROUGH || x->route.tls == ROUTE_TLS_OFF;
	if (!elsewhere && (!strcmp(r->host, peer->sni) || cert_covers(peer->cert, r->host))) {
		domain_request(x, r, found);
		return;
	}
	if (found == ROUTE_FOUND)
		exchange_hold(x);
	exchange_answer(x, 421, NULL, r->body != HTTP_BODY_NONE);
}

void request_serve(struct exchange *x, struct http_request *r)
{
	struct conn *c = x->c;
	struct client *client = &c->w->client;
	client_find(client, &c->w->sh->trust, &c->addr, c->secure, r);
	x->client = client->addr;
	x->secure = client->secure;
	account_begin(x, r);
	x->head = r->head;
	x->html = http_prefers_html(r->accept);
	if (c->secure)
		secure_request(x, r);
	else
		plain_request(x, r);
}
