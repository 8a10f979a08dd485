/* SPDX-License-Identifier: MIT */
/* One REST request from its arrival to its answer: what the handlers work with. */
#ifndef CONTROLD_API_REQUEST_H
#define CONTROLD_API_REQUEST_H

#include "controld/api/input.h"
#include "controld/pki/vault.h"
#include "controld/store/store.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <jansson.h>

struct api;
struct req;

#define SECRET_PREFIX_LEN 8
#define SECRET_STRLEN 48 /* "kmt_", 43 characters and NUL */

/* Ends a request's statements: res[0..n), one per statement. Must answer or run more. */
typedef void req_done(struct req *rq, PGresult *const *res, size_t n);

struct req {
	struct api *api;
	struct evhttp_request *ev;
	const struct route *route;
	struct store_req *db; /* under way, or NULL */
	req_done *done;
	char id[KM_UUID_STRLEN];    /* from the path, or of what is being made */
	char child[KM_UUID_STRLEN]; /* likewise of what belongs to it */
	char secret[SECRET_STRLEN]; /* to be answered once */
	char *join_token; /* likewise */
	char peer[KM_ADDR_STRLEN];
	char actor[32]; /* "token kmt_abcd" */
	char *clash;      /* what a 409 for a tunnel's place says is taken: its domain, and path */
	void (*again)(struct req *rq); /* goes on when others were in the way (SQLSTATE 40001), or NULL */
	unsigned tries;
	char token_id[KM_UUID_STRLEN], role[16];
	char token[SECRET_STRLEN]; /* what was brought; wiped once it is known */
	struct evkeyvalq query;
	struct page_input page;
	json_t *body; /* an object; NULL for routes without one */
	struct req *prev, *next;
};

/* ---- statements: gathered, then run as one transaction ---- */
#define TX_MAX 12
struct tx {
	struct store_stmt s[TX_MAX];
	size_t n;
};
/* Appends a statement; parameters are texts or NULL and must live until req_run. */
#define tx_add(tx, sql, ...)                                                                       \
	tx_add_((tx), (sql), (const char *const[]){__VA_ARGS__},                                   \
		(int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))
void tx_add_(struct tx *tx, const char *sql, const char *const *params, int n);
/* Appends the audit row of action ("tunnel.create") on rq->id, which may be "". details: a JSON object as text
 * without secrets, or NULL. */
void tx_audit(struct tx *tx, const struct req *rq, const char *action, const char *details);

/* Runs them in one transaction (req_read: reading, one state). done is called on success; any
 * failure is answered: 404, 409 and 400 by constraint, 503 when the database is away or cannot do it
 * now (store_error_passes), 500. */
void req_run(struct req *rq, const struct tx *tx, req_done *done);
void req_read(struct req *rq, const struct tx *tx, req_done *done);

/* ---- answers; each ends rq ---- */
/* JSON text of n bytes, copied. */
void req_reply(struct req *rq, int status, const char *json, size_t n);
/* The value of a result's first row and column. */
void req_reply_row(struct req *rq, int status, const PGresult *res);
/* The same with one more field, whose value is rq->secret, and joinToken where there is one. */
void req_reply_secret(struct req *rq, int status, const PGresult *res, const char *field);
void req_reply_empty(struct req *rq, int status);
/* Other text than JSON; out's content is moved. */
void req_reply_text(struct req *rq, int status, const char *type, const char *text, size_t n);
/* details may be NULL; its list is taken. */
void req_error(struct req *rq, int status, const char *code, struct details *details,
	       const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* 400 VALIDATION_ERROR with d's list, which is taken. */
void req_invalid(struct req *rq, struct details *d);
/* A header of the answer to come. */
void req_header(struct req *rq, const char *name, const char *value);

/* Answers with the one value that sql selects for $1 = id, or 404. */
void req_get(struct req *rq, const char *sql, const char *id);

/* A list's page. rows_sql selects JSON text and cursor text; its parameters are $1 the number of
 * rows wanted, $2 and $3 the two halves of the cursor (KEY_UUID; NULL on the first page).
 * count_sql selects the total. With ROUTE_FILTER the filters domain, gateway and status (NULL: any) follow:
 * $4 to $6 of rows_sql, $1 to $3 of count_sql; with ROUTE_DOMAIN domain alone. */
void req_list(struct req *rq, const char *rows_sql, const char *count_sql);

/* A new secret in out: prefix ("agt_") and 256 random bits; shown gets its first 8 characters. */
void req_new_secret(char out[static SECRET_STRLEN], const char *prefix,
		    char shown[static SECRET_PREFIX_LEN + 1]);

#endif
