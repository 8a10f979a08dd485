/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/request.h"
#include "gatewayd/edge/account.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/heads.h"
#include <string.h>

void request_refuse(struct exchange *x, int status, const char *why)
{
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	struct conn *c = x->c;
	struct edge_shared *sh = c->w->sh;
	km_metric_add(sh->m_bad, 1);
	if (km_log_allow(&sh->bad_log, c->w->now, 10, 10000, &held))
		km_info("bad request", km_ks("client", km_addr_str(&c->addr, ip)),
			km_ki("status", status), km_ks("why", why), km_ki("held", held));
	account_begin(x, NULL);
	x->error = why;
	exchange_answer(x, status, NULL, true);
}

static void redirect_to_https(struct exchange *x, const struct http_request *r)
{
	struct heads_answer a = {.status = 301, .html = x->html, .head = x->head};
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

/* A request for the tunnel of x->route. */
static void tunnel_request(struct exchange *x, const struct http_request *r)
{
	if (x->route.enabled) {
		exchange_begin(x, r);
		return;
	}
	x->error = "tunnel disabled";
	exchange_answer(x, 503, "Tunnel disabled", r->body != HTTP_BODY_NONE);
}

static void plain_request(struct exchange *x, const struct http_request *r)
{
	bool close = r->body != HTTP_BODY_NONE;
	if (challenge_path(r) && challenge_answered(x, r))
		return;
	bool known = route_find(x->c->w->sh->routes, r->host, &x->route);
	if (known && x->route.tls == ROUTE_TLS_OFF) {
		exchange_hold(x);
		tunnel_request(x, r);
		return;
	}
	if (known)
		route_state_put(x->route.state);
	if (challenge_path(r))
		exchange_answer(x, 404, NULL, close);
	else if (r->target.n == 1 && r->target.p[0] == '*')
		exchange_answer(x, 400, NULL, close);
	else if (!known)
		exchange_answer(x, 404, "Tunnel not found", close);
	else
		redirect_to_https(x, r);
}

static void secure_request(struct exchange *x, const struct http_request *r)
{
	bool close = r->body != HTTP_BODY_NONE;
	const struct tls_peer *peer = &x->c->peer;
	if (!route_find(x->c->w->sh->routes, r->host, &x->route)) {
		exchange_answer(x, 404, "Tunnel not found", close);
		return;
	}
	exchange_hold(x);
	/* Neither is served behind TLS of ours, though a certificate here may name it. */
	bool elsewhere = x->route.tls == ROUTE_TLS_PASSTHROUGH || x->route.tls == ROUTE_TLS_OFF;
	if (!elsewhere && (!strcmp(r->host, peer->sni) || cert_covers(peer->cert, r->host)))
		tunnel_request(x, r);
	else
		exchange_answer(x, 421, NULL, close);
}

void request_serve(struct exchange *x, const struct http_request *r)
{
	account_begin(x, r);
	x->head = r->head;
	x->html = http_prefers_html(r->accept);
	if (x->c->secure)
		secure_request(x, r);
	else
		plain_request(x, r);
}
