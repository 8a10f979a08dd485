/* SPDX-License-Identifier: MIT */
#include "controld/store/first.h"
#include "controld/store/store.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static PGresult *query(PGconn *db, const char *sql, int n, const char *const *params, int *rc,
		       struct km_errtext *err)
{
	return store_query(db, "database", sql, n, params, rc, err);
}

int first_network(PGconn *db, const char *network, struct km_errtext *err)
{
	/* One statement: a row comes back when the network stands as asked. */
	static const char put[] =
	    "UPDATE settings SET value = $1::cidr::text, updated_at = now() WHERE key = 'network'"
	    " AND (value::cidr = $1::cidr OR NOT EXISTS (SELECT FROM agents)"
	    " AND NOT EXISTS (SELECT FROM gateways)) RETURNING value";
	const char *params[] = {network};
	PGresult *r, *have = NULL;
	int rc;

	r = query(db, put, 1, params, &rc, err);
	if (!r || PQntuples(r) == 1)
		goto out;
	have = query(db, "SELECT value FROM settings WHERE key = 'network'", 0, NULL, &rc, err);
	if (have)
		rc = km_errtext_set(
		    err, KM_EUNSUPPORTED,
		    "network = %s: agents or gateways have addresses in %s already; set that, "
		    "or delete them first",
		    network, PQntuples(have) ? PQgetvalue(have, 0, 0) : "another network");
out:
	PQclear(r);
	PQclear(have);
	return rc;
}

static int write_token(const char *path, const char *token, struct km_errtext *err)
{
	char line[64];
	int rc;

	snprintf(line, sizeof(line), "%s\n", token);
	rc = km_file_write(path, line, strlen(line), 0600);
	km_wipe(line, sizeof(line));
	return rc ? km_errtext_set(err, rc, "%s: %s", path, strerror(errno)) : 0;
}

/* The file first: a token in the database that nobody knows would be of no use. */
static int make_token(PGconn *db, const struct vault *vault, const char *path,
		      struct km_errtext *err)
{
	char token[4 + KM_B64_LEN(32)] = "kmt_", prefix[9], hash[VAULT_TEXT_LEN];
	char id[KM_UUID_STRLEN];
	const char *params[] = {hash, prefix, km_uuid_new(id)};
	uint8_t secret[32];
	int rc;

	km_random(secret, sizeof(secret));
	km_b64url(secret, sizeof(secret), token + 4);
	vault_digest_text(vault, hash, VAULT_TOKEN(id, "admin", token));
	snprintf(prefix, sizeof(prefix), "%.8s", token);
	rc = write_token(path, token, err);
	if (!rc)
		PQclear(query(db,
			      "INSERT INTO tokens (id, name, hash, prefix, role)"
			      " VALUES ($3::uuid, 'first administrator', $1, $2, 'admin')",
			      3, params, &rc, err));
	km_wipe(secret, sizeof(secret));
	km_wipe(token, sizeof(token));
	return rc;
}

int first_token(PGconn *db, const struct vault *vault, const char *state_dir,
		struct km_errtext *err)
{
	char *path = km_xasprintf("%s/admin.token", state_dir);
	PGresult *r = NULL;
	bool made = false;
	int rc;

	PQclear(query(db, "BEGIN; LOCK TABLE tokens IN EXCLUSIVE MODE", 0, NULL, &rc, err));
	if (!rc)
		r = query(db,
			  "SELECT FROM tokens WHERE role = 'admin' AND "
			  "(expires_at IS NULL OR expires_at > now()) LIMIT 1",
			  0, NULL, &rc, err);
	if (r && PQntuples(r) == 0) {
		rc = make_token(db, vault, path, err);
		made = !rc;
	}
	if (!rc)
		PQclear(query(db, "COMMIT", 0, NULL, &rc, err));
	else
		PQclear(PQexec(db, "ROLLBACK"));
	if (!rc && made)
		km_info("the first administrator's token is in a file", km_ks("file", path));
	PQclear(r);
	free(path);
	return rc;
}
