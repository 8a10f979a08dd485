/* SPDX-License-Identifier: MIT */
/* Tokens of the REST interface, and who the caller is. */
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "controld/api/sql.h"
#include <stdlib.h>

#define VIEW                                                                                       \
	"json_build_object('id', t.id, 'name', t.name, 'prefix', t.prefix, 'role', t.role, "       \
	"'expiresAt', km_time(t.expires_at), 'lastUsedAt', km_time(t.last_used_at), "              \
	"'createdAt', km_time(t.created_at))"

void tokens_list(struct req *rq)
{
	req_list(rq, SQL_LIST(VIEW, "tokens", "t", ""), "SELECT count(*) FROM tokens");
}

static void token_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_secret(rq, 201, res[1], "token");
}

void tokens_create(struct req *rq)
{
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char hash[VAULT_TEXT_LEN], prefix[SECRET_PREFIX_LEN + 1];
	if (input_token(&in, rq->body, km_wall_ms(), &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	req_new_secret(rq->secret, "kmt_", prefix);
	vault_digest_text(rq->api->vault, hash, VAULT_TOKEN(rq->id, "admin", rq->secret));
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx,
	       "INSERT INTO tokens (id, name, hash, prefix, expires_at) "
	       "VALUES ($1::uuid, $2, $3::bytea, $4, $5::timestamptz)",
	       rq->id, in.name, hash, prefix, in.expires_at);
	tx_add(&tx, "SELECT " VIEW " FROM tokens t WHERE id = $1::uuid", rq->id);
	tx_audit(&tx, rq, "token.create", details);
	req_run(rq, &tx, token_created);
	free(details);
}

#define IS_ADMIN(t) "(" t ".role = 'admin' AND " SQL_TOKEN_VALID(t) ")"

static void token_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[1]))
		req_reply_empty(rq, 204);
	else if (PQntuples(res[2]))
		req_error(rq, 409, "CONFLICT", NULL,
			  "this is the last administrator's token that is valid: make another one "
			  "before you delete it");
	else
		req_error(rq, 404, "NOT_FOUND", NULL, "no such token");
}

void tokens_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	/* One deletion at a time: of two, each would see the other's token still there. They are locked
	 * in the same order by all: the order of the table changes with every use of a token. */
	tx_add(&tx, "SELECT FROM tokens WHERE role = 'admin' ORDER BY id FOR UPDATE", NULL);
	tx.s[0].n = 0;
	tx_add(
	    &tx,
	    "WITH gone AS (DELETE FROM tokens t WHERE id = $3::uuid AND "
	    "(NOT " IS_ADMIN(
		"t") " OR EXISTS "
		     "(SELECT FROM tokens o WHERE o.id <> t.id AND " IS_ADMIN(
			 "o") ")) "
			      "RETURNING id, name, prefix) "
			      "INSERT INTO audit_log (actor, address, action, entity_id, details) "
			      "SELECT $1, $2::inet, 'token.delete', id, "
			      "jsonb_build_object('name', name, 'prefix', prefix) FROM gone "
			      "RETURNING id",
	    rq->actor, rq->peer, rq->id);
	tx_add(&tx, "SELECT FROM tokens WHERE id = $1::uuid", rq->id);
	req_run(rq, &tx, token_deleted);
}

void auth_me(struct req *rq)
{
	req_get(rq,
		"SELECT json_build_object('token', " VIEW ", 'role', t.role) FROM tokens t "
		"WHERE id = $1::uuid",
		rq->token_id);
}
