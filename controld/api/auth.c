/* SPDX-License-Identifier: MIT */
/* Who asks: bearer tokens. */
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "controld/api/sql.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <string.h>

static void refuse(struct req *rq, const char *why)
{
	req_header(rq, "WWW-Authenticate", "Bearer");
	req_error(rq, 401, "UNAUTHORIZED", NULL, "%s", why);
}

static void refuse_until(struct req *rq, int64_t wait_ms)
{
	char seconds[24];
	snprintf(seconds, sizeof(seconds), "%lld", (long long)(wait_ms + 999) / 1000);
	req_header(rq, "Retry-After", seconds);
	req_error(rq, 429, "RATE_LIMITED", NULL, "too many failed attempts from %s", rq->peer);
}

/* Only who fails has to wait: others behind the same address have a token that is right, and are
 * not shut out by it. A failure while waiting does not make the wait longer. */
static void refuse_failed(struct req *rq)
{
	static struct km_log_limit limit;
	uint32_t held;
	int64_t now = km_now_ms(), wait = limit_wait_ms(rq->api->failures, rq->peer, now);
	if (wait <= 0)
		limit_failed(rq->api->failures, rq->peer, now);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_rest_auth_failures_total", "",
				"Requests with a token that is not known"),
		      1);
	if (km_log_allow(&limit, now, 5, 10000, &held))
		km_warn("unknown token", km_ks("peer", rq->peer), km_ki("held", held));
	if (wait > 0)
		refuse_until(rq, wait);
	else
		refuse(rq, "this token is not known or has expired");
}

static void touched(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	(void)arg, (void)res, (void)n;
	if (error)
		km_debug("use of a token not noted", km_ks("what", error->message));
}

/* Notes, once a minute, that the token is used. A request does not wait for it, nor fails with it:
 * what is only read is answered also when the database's disk is full. */
static void touch(struct req *rq)
{
	struct store_stmt s = {.sql = "UPDATE tokens SET last_used_at = now() WHERE id = $1::uuid",
			       .n = 1,
			       .params = {rq->token_id}};
	int rc = store_run(rq->api->store, &s, 1, touched, NULL, NULL);
	if (rc < 0)
		km_debug("use of a token not noted", km_ke(rc));
}

static void token_read(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	for (int i = 0; i < PQntuples(res[0]); i++) {
		const char *id = PQgetvalue(res[0], i, 0), *role = PQgetvalue(res[0], i, 1);
		if (!vault_digest_is(rq->api->vault, PQgetvalue(res[0], i, 2),
				     VAULT_TOKEN(id, role, rq->token)))
			continue;
		snprintf(rq->token_id, sizeof(rq->token_id), "%s", id);
		snprintf(rq->role, sizeof(rq->role), "%s", role);
		km_wipe(rq->token, sizeof(rq->token));
		if (PQgetvalue(res[0], i, 3)[0] == 't')
			touch(rq);
		req_authenticated(rq);
		return;
	}
	refuse_failed(rq);
}

static void look_up(struct req *rq, const char *token)
{
	char prefix[SECRET_PREFIX_LEN + 1];
	struct tx tx = {.n = 0};
	snprintf(prefix, sizeof(prefix), "%s", token);
	snprintf(rq->actor, sizeof(rq->actor), "token %s", prefix);
	snprintf(rq->token, sizeof(rq->token), "%s", token);
	tx_add(&tx,
	       "SELECT id, role, encode(hash, 'hex'), "
	       "last_used_at IS NULL OR last_used_at < now() - interval '1 minute' "
	       "FROM tokens t WHERE prefix = $1 AND " SQL_TOKEN_VALID("t"),
	       prefix);
	req_run(rq, &tx, token_read);
}

void auth_check(struct req *rq)
{
	const char *h =
	    evhttp_find_header(evhttp_request_get_input_headers(rq->ev), "Authorization");
	if (!h) {
		refuse(rq, "a token is needed: Authorization: Bearer kmt_…");
		return;
	}
	if (strncasecmp(h, "Bearer ", 7) != 0 || strncmp(h + 7, "kmt_", 4) != 0 ||
	    strlen(h + 7) != SECRET_STRLEN - 1)
		refuse_failed(rq);
	else
		look_up(rq, h + 7);
}
