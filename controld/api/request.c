/* SPDX-License-Identifier: MIT */
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <event2/buffer.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <utlist.h>

#define MAX_TRIES 20 /* of a request that others were in the way of */

static void req_free(struct req *rq)
{
	DL_DELETE(rq->api->reqs, rq);
	store_cancel(rq->db);
	evhttp_clear_headers(&rq->query);
	json_decref(rq->body);
	km_wipe(rq->secret, sizeof(rq->secret));
	km_wipe(rq->token, sizeof(rq->token));
	if (rq->join_token)
		km_wipe(rq->join_token, strlen(rq->join_token));
	free(rq->join_token);
	free(rq->clash);
	free(rq);
}

void req_forget_all(struct api *api)
{
	struct req *rq, *next;
	DL_FOREACH_SAFE (api->reqs, rq, next) {
		/* A client that has gone away left its request to us; the others' go with evhttp.
		 */
		if (!evhttp_request_get_connection(rq->ev))
			evhttp_request_free(rq->ev);
		req_free(rq);
	}
}

/* ---- arrival ---- */

/* The query's parameters; only lists have any. */
static bool read_query(struct req *rq)
{
	const char *text = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(rq->ev));
	struct details d = {NULL};
	struct evkeyval *kv;
	if (text && evhttp_parse_query_str(text, &rq->query) < 0)
		details_add(&d, "query", "is malformed");
	if (rq->route->flags & ROUTE_FILTER)
		rq->page.filters = PAGE_DOMAIN | PAGE_GATEWAY | PAGE_STATUS;
	else if (rq->route->flags & ROUTE_DOMAIN)
		rq->page.filters = PAGE_DOMAIN;
	TAILQ_FOREACH(kv, &rq->query, next) input_page_param(&rq->page, kv->key, kv->value, &d);
	if (!d.list)
		return true;
	req_invalid(rq, &d);
	return false;
}

static bool read_body(struct req *rq)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(rq->ev);
	size_t n = evbuffer_get_length(in);
	struct km_errtext err;
	if (n > API_MAX_BODY) {
		req_error(rq, 413, "TOO_LARGE", NULL, "the body is larger than 1 MiB");
		return false;
	}
	if (!(rq->route->flags & ROUTE_BODY))
		return true;
	const char *type =
	    evhttp_find_header(evhttp_request_get_input_headers(rq->ev), "Content-Type");
	if (!input_is_json(type)) {
		req_error(rq, 400, "VALIDATION_ERROR", NULL,
			  "Content-Type must be application/json");
		return false;
	}
	rq->body = input_parse(n ? (char *)evbuffer_pullup(in, -1) : "", n, &err);
	if (rq->body)
		return true;
	req_error(rq, 400, "VALIDATION_ERROR", NULL, "%s", err.text);
	return false;
}

static void read_peer(struct req *rq)
{
	struct evhttp_connection *evcon = evhttp_request_get_connection(rq->ev);
	const struct sockaddr *sa = evcon ? evhttp_connection_get_addr(evcon) : NULL;
	struct km_addr a;
	if (sa && km_addr_from_sa(&a, NULL, sa) == 0)
		km_addr_str(&a, rq->peer);
	else
		strcpy(rq->peer, "::");
}

void req_arrived(struct evhttp_request *ev, void *arg)
{
	struct api *api = arg;
	struct req *rq = km_xcalloc(1, sizeof(*rq));
	char allow[ROUTE_ALLOW_LEN];
	conn_request_read(ev);
	rq->api = api;
	rq->ev = ev;
	rq->page.n = PAGE_DEFAULT;
	TAILQ_INIT(&rq->query);
	DL_APPEND(api->reqs, rq);
	read_peer(rq);
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(ev);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
	rq->route = route_find(evhttp_request_get_command(ev), path ? path : "", rq->id, allow);
	if (!rq->route && !allow[0]) {
		req_error(rq, 404, "NOT_FOUND", NULL, "there is nothing at this path");
	} else if (!rq->route) {
		req_header(rq, "Allow", allow);
		req_error(rq, 405, "METHOD_NOT_ALLOWED", NULL, "this path allows %s", allow);
	} else if (rq->route->flags & ROUTE_OPEN) {
		rq->route->handle(rq);
	} else {
		auth_check(rq);
	}
}

void req_authenticated(struct req *rq)
{
	if (rq->route->method != EVHTTP_REQ_GET && strcmp(rq->role, "viewer") == 0) {
		req_error(rq, 403, "FORBIDDEN", NULL, "this token may only read");
		return;
	}
	if (read_query(rq) && read_body(rq))
		rq->route->handle(rq);
}

/* ---- statements ---- */

void tx_add_(struct tx *tx, const char *sql, const char *const *params, int n)
{
	struct store_stmt *s = &tx->s[tx->n++];
	s->sql = sql;
	s->n = n;
	for (int i = 0; i < n; i++)
		s->params[i] = params[i];
}

void tx_audit(struct tx *tx, const struct req *rq, const char *action, const char *details)
{
	tx_add(tx,
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) "
	       "VALUES ($1, $2::inet, $3, nullif($4, '')::uuid, $5::jsonb)",
	       rq->actor, rq->peer, action, rq->id, details ? details : "{}");
}

struct constraint {
	const char *name, *field, *message;
};
static const struct constraint conflicts[] = {
    {"agents_name_key", "name", "another agent has this name"},
    {"gateways_name_key", "name", "another gateway has this name"},
    {"agents_wireguard_public_key_key", "wireguardPublicKey", "another agent has this key"},
    {"gateways_wireguard_public_key_key", "wireguardPublicKey", "another gateway has this key"},
    {"wireguard_keys_pkey", "wireguardPublicKey", "another host has this key"},
};

static void fail_conflict(struct req *rq, const struct store_error *e)
{
	struct details d = {NULL};
	if (rq->clash && strcmp(e->constraint, "tunnels_domain_path_key") == 0) {
		details_add(&d, "domain", "another tunnel has %s", rq->clash);
		if (strchr(rq->clash, '/'))
			details_add(&d, "path", "another tunnel has %s", rq->clash);
		req_error(rq, 409, "CONFLICT", &d, "another tunnel has %s", rq->clash);
		return;
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(conflicts); i++)
		if (strcmp(conflicts[i].name, e->constraint) == 0) {
			details_add(&d, conflicts[i].field, "%s", conflicts[i].message);
			req_error(rq, 409, "CONFLICT", &d, "%s", conflicts[i].message);
			return;
		}
	req_error(rq, 409, "CONFLICT", NULL, "it is there already");
}

static void fail_missing(struct req *rq, const struct store_error *e)
{
	struct details d = {NULL};
	if (strcmp(e->constraint, "targets_agent_id_fkey") != 0) {
		req_error(rq, 404, "NOT_FOUND", NULL, "%s",
			  e->constraint[0] ? "something that it refers to does not exist"
					   : e->message);
	} else if (rq->route->method == EVHTTP_REQ_DELETE) {
		req_error(rq, 409, "CONFLICT", NULL,
			  "tunnels lead to this agent: delete them or lead them elsewhere first");
	} else {
		details_add(&d, "agentId", "there is no such agent");
		req_invalid(rq, &d);
	}
}

/* The same request may succeed later. That the database is away, the store says itself. */
static void fail_passing(struct req *rq, const struct store_error *e)
{
	static struct km_log_limit limit;
	uint32_t held;
	if (e->err != KM_ECLOSED && km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_error("database cannot serve a request now", km_ks("path", rq->route->path),
			 km_ks("sqlstate", e->sqlstate), km_ks("what", e->message),
			 km_ki("held_back", held));
	req_header(rq, "Retry-After", e->err == KM_EAGAIN ? "10" : "1");
	req_error(rq, 503, "UNAVAILABLE", NULL,
		  e->err == KM_EAGAIN ? "the database cannot do this now; control's log says why"
				      : "the database does not answer");
}

static void fail(struct req *rq, const struct store_error *e)
{
	switch (e->err) {
	case KM_EEXIST:
		fail_conflict(rq, e);
		return;
	case KM_ENOTFOUND:
		fail_missing(rq, e);
		return;
	case KM_EINVAL:
		req_error(rq, 400, "VALIDATION_ERROR", NULL, "the database refuses a value: %s",
			  e->message);
		return;
	case KM_EFULL:
		req_error(rq, 409, "CONFLICT", NULL, "%s", e->message);
		return;
	case KM_ECLOSED:
	case KM_ETIMEOUT:
	case KM_EAGAIN:
		fail_passing(rq, e);
		return;
	default:
		km_error("request failed", km_ks("path", rq->route->path),
			 km_ks("sqlstate", e->sqlstate), km_ks("what", e->message));
		req_error(rq, 500, "INTERNAL_ERROR", NULL,
			  "something went wrong; the log says what");
	}
}

static void on_db(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct req *rq = arg;
	rq->db = NULL;
	if (error && rq->again && strcmp(error->sqlstate, "40001") == 0 && rq->tries++ < MAX_TRIES)
		rq->again(rq);
	else if (error)
		fail(rq, error);
	else
		rq->done(rq, res, n);
}

typedef int run_fn(struct store *s, const struct store_stmt *stmts, size_t n, store_cb *cb,
		   void *arg, struct store_req **req);

static void run_with(run_fn *run, struct req *rq, const struct tx *tx, req_done *done)
{
	rq->done = done;
	int rc = run(rq->api->store, tx->s, tx->n, on_db, rq, &rq->db);
	if (rc == 0)
		return;
	rq->db = NULL;
	if (rc == KM_ECLOSED || rc == KM_EFULL) {
		req_header(rq, "Retry-After", rc == KM_EFULL ? "1" : "3");
		req_error(rq, 503, "UNAVAILABLE", NULL,
			  rc == KM_EFULL ? "too many requests wait for the database"
					 : "the database is away");
		return;
	}
	km_error("request failed", km_ks("path", rq->route->path), km_ke(rc));
	req_error(rq, 500, "INTERNAL_ERROR", NULL, "%s", km_strerror(rc));
}

void req_run(struct req *rq, const struct tx *tx, req_done *done)
{
	run_with(store_run, rq, tx, done);
}

void req_read(struct req *rq, const struct tx *tx, req_done *done)
{
	run_with(store_read, rq, tx, done);
}

/* ---- answers ---- */

void req_header(struct req *rq, const char *name, const char *value)
{
	evhttp_add_header(evhttp_request_get_output_headers(rq->ev), name, value);
}

const char *req_reason(int status)
{
	static const struct {
		int status;
		const char *text;
	} reasons[] = {{200, "OK"},
		       {201, "Created"},
		       {204, "No Content"},
		       {400, "Bad Request"},
		       {401, "Unauthorized"},
		       {403, "Forbidden"},
		       {404, "Not Found"},
		       {405, "Method Not Allowed"},
		       {409, "Conflict"},
		       {413, "Payload Too Large"},
		       {417, "Expectation Failed"},
		       {429, "Too Many Requests"},
		       {500, "Internal Server Error"},
		       {501, "Not Implemented"},
		       {503, "Service Unavailable"}};
	for (size_t i = 0; i < KM_ARRAY_LEN(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].text;
	return "Unknown";
}

void req_counted(int status)
{
	char labels[24];
	snprintf(labels, sizeof(labels), "status=\"%d\"", status);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_rest_requests_total", labels,
				"REST requests answered"),
		      1);
}

static void send_out(struct req *rq, int status, struct evbuffer *body)
{
	char n[24];
	req_counted(status);
	km_debug("request answered",
		 km_ks("method", route_method(evhttp_request_get_command(rq->ev))),
		 km_ks("path", rq->route ? rq->route->path : NULL), km_ki("status", status),
		 km_ks("peer", rq->peer));
	req_header(rq, "Cache-Control", "no-store");
	req_header(rq, "X-Content-Type-Options", "nosniff");
	if (evhttp_request_get_command(rq->ev) == EVHTTP_REQ_HEAD && body) {
		snprintf(n, sizeof(n), "%zu", evbuffer_get_length(body));
		req_header(rq, "Content-Length", n);
		evbuffer_drain(body, evbuffer_get_length(body));
	}
	conn_answer(rq->ev, status, body, rq->token_id[0] != '\0');
	req_free(rq);
}

void req_reply_text(struct req *rq, int status, const char *type, const char *text, size_t n)
{
	struct evbuffer *body = evbuffer_new();
	req_header(rq, "Content-Type", type);
	if (body)
		evbuffer_add(body, text, n);
	send_out(rq, status, body);
	if (body)
		evbuffer_free(body);
}

void req_reply(struct req *rq, int status, const char *json, size_t n)
{
	req_reply_text(rq, status, "application/json", json, n);
}

void req_reply_row(struct req *rq, int status, const PGresult *res)
{
	if (PQntuples(res) == 0)
		req_error(rq, 404, "NOT_FOUND", NULL, "there is no such thing");
	else
		req_reply(rq, status, PQgetvalue(res, 0, 0), (size_t)PQgetlength(res, 0, 0));
}

void req_reply_secret(struct req *rq, int status, const PGresult *res, const char *field)
{
	char *text = PQntuples(res) ? PQgetvalue(res, 0, 0) : NULL,
	     *end = text ? strrchr(text, '}') : NULL;
	if (!end) {
		req_error(rq, 500, "INTERNAL_ERROR", NULL, "the database gave no answer");
		return;
	}
	struct evbuffer *body = evbuffer_new();
	req_header(rq, "Content-Type", "application/json");
	if (body && rq->join_token)
		evbuffer_add_printf(body, "%.*s, \"%s\" : \"%s\", \"joinToken\" : \"%s\"}",
				    (int)(end - text), text, field, rq->secret, rq->join_token);
	else if (body)
		evbuffer_add_printf(body, "%.*s, \"%s\" : \"%s\"}", (int)(end - text), text, field,
				    rq->secret);
	send_out(rq, status, body);
	if (body)
		evbuffer_free(body);
}

void req_reply_empty(struct req *rq, int status)
{
	send_out(rq, status, NULL);
}

void req_error(struct req *rq, int status, const char *code, struct details *details,
	       const char *fmt, ...)
{
	char message[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	json_t *list = details && details->list ? details->list : json_array();
	if (details)
		details->list = NULL;
	json_t *o = json_pack("{s:s, s:s, s:O}", "error", message, "code", code, "details", list);
	if (!o) { /* cut within a character */
		for (char *p = message; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
		o = json_pack("{s:s, s:s, s:O}", "error", message, "code", code, "details", list);
	}
	json_decref(list);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	const char *out =
	    text ? text : "{\"error\":\"no memory\",\"code\":\"INTERNAL_ERROR\",\"details\":[]}";
	req_reply(rq, status, out, strlen(out));
	free(text);
}

void req_invalid(struct req *rq, struct details *d)
{
	req_error(rq, 400, "VALIDATION_ERROR", d, "%zu field%s of the request cannot be taken",
		  json_array_size(d->list), json_array_size(d->list) == 1 ? "" : "s");
}

/* ---- what is only read ---- */

static void row_read(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[0]);
}

void req_get(struct req *rq, const char *sql, const char *id)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, sql, id);
	req_read(rq, &tx, row_read);
}

static void list_read(struct req *rq, PGresult *const *res, size_t n)
{
	struct evbuffer *out = evbuffer_new();
	long rows = PQntuples(res[1]), shown = rows > rq->page.n ? rq->page.n : rows;
	(void)n;
	if (!out) {
		req_error(rq, 500, "INTERNAL_ERROR", NULL, "no memory");
		return;
	}
	evbuffer_add_printf(out, "{\"items\":[");
	for (long i = 0; i < shown; i++) {
		evbuffer_add(out, ",", i ? 1 : 0);
		evbuffer_add(out, PQgetvalue(res[1], (int)i, 0),
			     (size_t)PQgetlength(res[1], (int)i, 0));
	}
	evbuffer_add_printf(out, "],\"total\":%s,\"next\":", PQgetvalue(res[0], 0, 0));
	if (rows > shown) /* a cursor is made of digits, letters, '-', '_', '.' and '*' */
		evbuffer_add_printf(out, "\"%s\"}", PQgetvalue(res[1], (int)shown - 1, 1));
	else
		evbuffer_add_printf(out, "null}");
	req_header(rq, "Content-Type", "application/json");
	send_out(rq, 200, out);
	evbuffer_free(out);
}

void req_list(struct req *rq, const char *rows_sql, const char *count_sql)
{
	struct tx tx = {.n = 0};
	char limit[24], key[300];
	const char *k = NULL, *id = NULL;
	struct details d = {NULL};
	snprintf(limit, sizeof(limit), "%ld", rq->page.n + 1);
	if (rq->page.cursor) {
		const char *cut = strrchr(rq->page.cursor, '_');
		size_t n = cut ? (size_t)(cut - rq->page.cursor) : 0;
		if (!cut || !n || n >= sizeof(key) || !km_uuid_ok(cut + 1)) {
			details_add(&d, "cursor", "is not one that this list gave");
			req_invalid(rq, &d);
			return;
		}
		snprintf(key, sizeof(key), "%.*s", (int)n, rq->page.cursor);
		k = key;
		id = cut + 1;
	}
	const struct page_input *p = &rq->page;
	const char *domain = p->domain[0] ? p->domain : NULL;
	if (p->filters & PAGE_STATUS) {
		tx_add(&tx, count_sql, domain, p->gateway, p->status);
		tx_add(&tx, rows_sql, limit, k, id, domain, p->gateway, p->status);
	} else if (p->filters) {
		tx_add(&tx, count_sql, domain);
		tx_add(&tx, rows_sql, limit, k, id, domain);
	} else {
		tx_add(&tx, count_sql, NULL);
		tx.s[0].n = 0;
		tx_add(&tx, rows_sql, limit, k, id);
	}
	req_read(rq, &tx, list_read);
}

void req_new_secret(char out[static SECRET_STRLEN], const char *prefix,
		    char shown[static SECRET_PREFIX_LEN + 1])
{
	uint8_t random[32];
	km_random(random, sizeof(random));
	memcpy(out, prefix, 4);
	km_b64url(random, sizeof(random), out + 4);
	km_wipe(random, sizeof(random));
	memcpy(shown, out, SECRET_PREFIX_LEN);
	shown[SECRET_PREFIX_LEN] = '\0';
}
