/* SPDX-License-Identifier: MIT */
/* Certificates that are due: a third of their life is left, their CA is no longer the active one,
 * the host has another name, or they begin in the future (control's clock was ahead). Each is
 * issued anew, some in a transaction; where the CA is offline, it is asked for. */
#include "controld/pki/authority_priv.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 8
#define STMTS_EACH 4

/* clang-format off */

/* $1: the active CA. Times are control's, in seconds, as certificates are issued by them: $2 now, $3
 * a third of a life later, $4 the CA's end, behind which no new one reaches. */
#define DUE(kind, table)                                                                           \
	"SELECT '" kind "' AS kind, h.id, h.name, h.wireguard_public_key, h.certificate "          \
	"FROM " table " h "                                                                        \
	"LEFT JOIN host_certificates c ON c.fingerprint = h.certificate_fingerprint "              \
	"WHERE h.certificate IS NOT NULL AND h.wireguard_public_key IS NOT NULL "                  \
	"AND h.revoked_at IS NULL AND (h.certificate_due OR c.authority IS DISTINCT FROM $1 "      \
	"OR (c.not_after < to_timestamp($3::bigint) AND c.not_after < to_timestamp($4::bigint)) "  \
	"OR c.not_before > to_timestamp($2::bigint) + interval '1 hour')"
/* Those who wait for a CA that has come meanwhile, or that is offline, are asked for at once. */
#define ASK(kind, table)                                                                           \
	"INSERT INTO enrolments (kind, host_id, public_key, reason) "                              \
	"SELECT d.kind, d.id, d.wireguard_public_key, 'renewal' FROM (" DUE(kind, table) ") "      \
	"AS d "                                                                                    \
	"ON CONFLICT (public_key) DO NOTHING"

/* $1 id, $2 to $4 the certificate, $5 its key. */
#define REPLACE(table)                                                                             \
	"UPDATE " table " SET certificate = $2, certificate_fingerprint = $3, "                    \
	"certificate_not_after = $4::timestamptz, certificate_due = false "                        \
	"WHERE id = $1::uuid AND wireguard_public_key = $5 AND revoked_at IS NULL"

/* clang-format on */

struct batch {
	struct issued issued[BATCH];
	size_t n;
	struct store_stmt s[BATCH * STMTS_EACH];
	size_t n_s;
};

static void renew(struct batch *b, const struct authority *a, const PGresult *res, int row)
{
	const char *kind = PQgetvalue(res, row, 0), *id = PQgetvalue(res, row, 1);
	const char *name = PQgetvalue(res, row, 2);
	bool gateway = strcmp(kind, "gateway") == 0;
	struct issued *i = &b->issued[b->n];
	uint8_t key[KM_WG_KEY_LEN];
	struct km_errtext err = {""};

	if (km_wg_key_parse(key, PQgetvalue(res, row, 3)) ||
	    authority_reissue(a, i, PQgetvalue(res, row, 4), gateway, name, key, &err)) {
		km_error("certificate not renewed", km_ks("type", kind), km_ks("id", id),
			 km_ks("name", name), km_ks("why", err.text));
		issued_free(i);
		return;
	}
	b->n++;
	b->s[b->n_s++] = issued_insert(i, gateway, id);
	b->s[b->n_s++] = (struct store_stmt){
	    .sql = "SELECT km_before($1, $2::uuid)", .n = 2, .params = {kind, id}};
	b->s[b->n_s++] =
	    (struct store_stmt){.sql = gateway ? REPLACE("gateways") : REPLACE("agents"),
				.n = 5,
				.params = {id, i->pem, i->fingerprint, i->not_after, i->key}};
	b->s[b->n_s++] = (struct store_stmt){
	    .sql = "SELECT km_change($1, 'update', $2::uuid)", .n = 2, .params = {kind, id}};
}

static void next(struct authority *a);

static void on_renewed(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;

	(void)res;
	a->sweep = NULL;
	if (error) {
		km_warn("certificates not renewed", km_ks("why", error->message));
		return;
	}
	a->renewed += (int64_t)(n / STMTS_EACH);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_certificates_renewed_total", "",
				"Hosts' certificates that were issued anew"),
		      (int64_t)(n / STMTS_EACH));
	next(a);
}

static void on_retired(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	(void)arg, (void)n;
	if (!error && PQntuples(res[0]))
		km_info("certificate authority retired: nobody's certificate is by it any more");
}

/* After a rotation nothing is due any more: CAs of ours that no host's certificate is by are done.
 */
#define RETIRE                                                                                     \
	"WITH gone AS (UPDATE authorities SET state = 'retired', sealed_key = NULL, "              \
	"retired_at = now(), mac = $2::bytea WHERE fingerprint = $1 AND state = 'trusted' "        \
	"AND NOT EXISTS (SELECT FROM host_certificates c JOIN agents h "                           \
	"ON h.certificate_fingerprint = c.fingerprint WHERE c.authority = $1) "                    \
	"AND NOT EXISTS (SELECT FROM host_certificates c JOIN gateways h "                         \
	"ON h.certificate_fingerprint = c.fingerprint WHERE c.authority = $1) "                    \
	"AND NOT EXISTS (SELECT FROM host_certificates c JOIN agents h "                           \
	"ON h.next_certificate = c.certificate WHERE c.authority = $1) "                           \
	"AND NOT EXISTS (SELECT FROM host_certificates c JOIN gateways h "                         \
	"ON h.next_certificate = c.certificate WHERE c.authority = $1) RETURNING 1) "              \
	"SELECT km_trust_wanted() FROM gone"

static void retire(struct authority *a)
{
	char fp[KM_CERT_FP_STRLEN], mac[VAULT_TEXT_LEN];

	for (size_t i = 0; i < a->cas.n; i++) {
		if (a->cas.items[i].active || !a->cas.items[i].has_key)
			continue;
		km_cert_fp_str(a->cas.items[i].cert, fp);
		authority_mac(a, fp, "retired", mac);
		struct store_stmt s = {.sql = RETIRE, .n = 2, .params = {fp, mac}};
		if (store_run(a->store, &s, 1, on_retired, a, NULL))
			return; /* the next sweep tries again */
	}
}

/* Called again while it went on: what it has passed by may be due now. */
static bool again(struct authority *a)
{
	if (!a->sweep_again)
		return false;
	a->sweep_again = false;
	authority_sweep(a);
	return true;
}

static void ended(struct authority *a)
{
	if (a->renewed)
		km_info("certificates renewed", km_ki("hosts", a->renewed),
			km_ki("failed", a->skipped));
	if (!again(a) && a->skipped == 0)
		retire(a);
}

static void on_due(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;
	struct batch b = {.n = 0};
	int rows = error ? 0 : PQntuples(res[0]);

	(void)n;
	a->sweep = NULL;
	if (rows) {
		snprintf(a->last_kind, sizeof(a->last_kind), "%s", PQgetvalue(res[0], rows - 1, 0));
		snprintf(a->last_id, sizeof(a->last_id), "%s", PQgetvalue(res[0], rows - 1, 1));
	}
	for (int i = 0; i < rows; i++)
		renew(&b, a, res[0], i);
	a->skipped += rows - (int64_t)b.n;
	if (b.n && store_run(a->store, b.s, b.n_s, on_renewed, a, &a->sweep))
		a->sweep = NULL;
	else if (!b.n && rows)
		next(a);
	else if (!error && !b.n)
		ended(a);
	for (size_t i = 0; i < b.n; i++)
		issued_free(&b.issued[i]);
}

static void on_asked(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;
	long long rows = 0;

	a->sweep = NULL;
	for (size_t i = 0; i < n && !error; i++)
		rows += atoll(PQcmdTuples(res[i]));
	if (rows)
		km_warn("certificates wait to be signed", km_ki("hosts", rows),
			km_ks("with", "kmctl cert sign"));
	again(a);
}

/* Each host once in a sweep, whatever comes of it. */
static void next(struct authority *a)
{
	const struct ca *ca = authority_active(a);
	char fp[KM_CERT_FP_STRLEN], now[24], third[24], end[24], batch[8];
	int64_t wall = km_wall_ms() / 1000, later;

	if (!ca)
		return;
	if (wall < ca->cert->not_before)
		wall = ca->cert->not_before; /* as certificates are issued then */
	later = wall + a->lifetime_s / 3;
	km_cert_fp_str(ca->cert, fp);
	snprintf(now, sizeof(now), "%lld", (long long)wall);
	snprintf(third, sizeof(third), "%lld", (long long)later);
	snprintf(end, sizeof(end), "%lld", (long long)ca->cert->not_after);
	snprintf(batch, sizeof(batch), "%d", BATCH);
	struct store_stmt due = {
	    .sql = "SELECT * FROM (" DUE("agent", "agents") " UNION ALL " DUE(
		"gateway", "gateways") ") AS d WHERE (kind, id) > ($5::text, $6::uuid) "
				       "ORDER BY kind, id LIMIT $7::int",
	    .n = 7,
	    .params = {fp, now, third, end, a->last_kind, a->last_id, batch}};
	struct store_stmt ask[] = {
	    {.sql = ASK("agent", "agents"), .n = 4, .params = {fp, now, third, end}},
	    {.sql = ASK("gateway", "gateways"), .n = 4, .params = {fp, now, third, end}},
	};
	if (ca->has_key ? store_read(a->store, &due, 1, on_due, a, &a->sweep)
			: store_run(a->store, ask, 2, on_asked, a, &a->sweep))
		a->sweep = NULL;
}

static void on_tidied(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	(void)arg, (void)res, (void)n;
	if (error)
		km_debug("old certificates not removed", km_ks("why", error->message));
}

/* Who is blocked stays so for longer, until the blocklist has been made without it. */
#define OLD(age) "not_after < now() - interval '" age "'"
#define UNUSED(table)                                                                              \
	"AND NOT EXISTS (SELECT FROM " table " h WHERE h.certificate_fingerprint = c.fingerprint) "

void authority_tidy(struct authority *a)
{
	static const struct store_stmt s[] = {
	    {.sql = "DELETE FROM host_certificates c WHERE " OLD("400 days") " AND (blocked_at IS "
		    "NULL OR " OLD("800 days") ") " UNUSED("agents") UNUSED("gateways")},
	    {.sql = "DELETE FROM retired_numbers WHERE until < now()"},
	};

	if (store_run(a->store, s, KM_ARRAY_LEN(s), on_tidied, a, NULL))
		return; /* the next time does it */
}

void authority_sweep(struct authority *a)
{
	authority_ends(a);
	if (a->sweep) {
		a->sweep_again = true;
		return;
	}
	a->skipped = a->renewed = 0;
	a->last_kind[0] = 0;
	memset(a->last_id, '0', 32); /* a UUID without its dashes */
	a->last_id[32] = 0;
	next(a);
}
