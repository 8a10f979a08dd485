/* SPDX-License-Identifier: MIT */
/* Certificate authorities, the trust bundle, and certificates that wait for a CA that is offline.
 */
#include "controld/api/hosts.h"
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "controld/api/sql.h"
#include "controld/pki/authority.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The only field of a body, a PEM text; NULL: it has been answered. */
static const char *pem_of(struct req *rq, const char *field)
{
	struct details d = {NULL};
	const char *key, *text = NULL;
	json_t *value;
	json_object_foreach(rq->body, key, value)
	{
		if (strcmp(key, field) != 0)
			details_add(&d, key, "is not known");
		else if (!(text = json_string_value(value)) || !*text)
			details_add(&d, key, "must be a text in PEM");
	}
	if (!json_object_get(rq->body, field))
		details_add(&d, field, "is missing");
	if (d.list) {
		req_invalid(rq, &d);
		return NULL;
	}
	return text;
}

static void refuse_pem(struct req *rq, const char *field, const struct km_errtext *why)
{
	struct details d = {NULL};
	details_add(&d, field, "%s", why->text);
	req_invalid(rq, &d);
}

/* ---- authorities ---- */

#define AUTHORITY_VIEW                                                                             \
	"json_build_object('id', a.id, 'fingerprint', a.fingerprint, 'state', a.state, "           \
	"'keyHere', a.sealed_key IS NOT NULL, 'certificate', a.certificate, "                      \
	"'notAfter', km_time(a.not_after), 'createdAt', km_time(a.created_at), "                   \
	"'retiredAt', km_time(a.retired_at))"

void authorities_list(struct req *rq)
{
	req_list(rq, SQL_LIST(AUTHORITY_VIEW, "authorities", "a", ""),
		 "SELECT count(*) FROM authorities");
}

static void authority_added(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 201, res[n - 1]);
}

/* The one that is active steps back: it is trusted until no certificate needs it. */
#define STEP_BACK                                                                                  \
	"UPDATE authorities SET state = 'trusted', mac = $2::bytea WHERE fingerprint = $1 "        \
	"AND state = 'active'"
#define INSERT_ACTIVE                                                                              \
	"INSERT INTO authorities (id, fingerprint, certificate, sealed_key, state, mac, "          \
	"not_after) VALUES ($1::uuid, $2, $3, $4, 'active', $5::bytea, $6::timestamptz)"

static void put_authority(struct req *rq, const struct new_authority *ca, const char *action)
{
	const struct authority *a = rq->api->authority;
	struct km_strlist fps = {NULL, 0};
	char mac[VAULT_TEXT_LEN], back[VAULT_TEXT_LEN];
	struct tx tx = {.n = 0};
	authority_fingerprints(a, &fps); /* the active one first */
	authority_mac(a, ca->fingerprint, "active", mac);
	if (fps.n) {
		authority_mac(a, fps.items[0], "trusted", back);
		tx_add(&tx, STEP_BACK, fps.items[0], back);
	}
	km_uuid_new(rq->id);
	tx_add(&tx, INSERT_ACTIVE, rq->id, ca->fingerprint, ca->pem, ca->sealed, mac,
	       ca->not_after);
	tx_audit(&tx, rq, action, NULL);
	tx_add(&tx, "SELECT km_trust_wanted()");
	tx_add(&tx, "SELECT " AUTHORITY_VIEW " FROM authorities a WHERE id = $1::uuid", rq->id);
	req_run(rq, &tx, authority_added);
	km_strlist_free(&fps);
}

void authorities_create(struct req *rq)
{
	const char *pem = pem_of(rq, "certificate");
	struct new_authority ca;
	struct km_errtext err = {""};
	if (!pem)
		return;
	if (authority_adopt(rq->api->authority, &ca, pem, &err))
		refuse_pem(rq, "certificate", &err);
	else
		put_authority(rq, &ca, "authority.create");
	new_authority_free(&ca);
}

void authorities_rotate(struct req *rq)
{
	struct new_authority ca;
	struct km_errtext err = {""};
	if (!authority_signs(rq->api->authority)) {
		req_error(rq, 409, "CONFLICT", NULL,
			  "the CA's key is offline: make a new CA with kmctl cert ca and POST its "
			  "certificate to /api/authorities");
		return;
	}
	if (authority_make(rq->api->authority, &ca, &err)) {
		req_error(rq, 500, "INTERNAL_ERROR", NULL, "%s", err.text);
		return;
	}
	put_authority(rq, &ca, "authority.rotate");
	new_authority_free(&ca);
}

static void authority_retired(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[0]) == 0)
		req_error(rq, 409, "CONFLICT", NULL,
			  "this CA is the active one, or has been retired already");
	else
		req_reply_empty(rq, 204);
}

static void authority_named(struct req *rq, PGresult *const *res, size_t n)
{
	char mac[VAULT_TEXT_LEN];
	struct tx tx = {.n = 0};
	(void)n;
	if (PQntuples(res[0]) == 0) {
		req_error(rq, 404, "NOT_FOUND", NULL, "no such authority");
		return;
	}
	authority_mac(rq->api->authority, PQgetvalue(res[0], 0, 0), "retired", mac);
	tx_add(&tx,
	       "UPDATE authorities SET state = 'retired', sealed_key = NULL, retired_at = now(), "
	       "mac = $2::bytea WHERE id = $1::uuid AND state = 'trusted' RETURNING id",
	       rq->id, mac);
	tx_audit(&tx, rq, "authority.retire", NULL);
	tx_add(&tx, "SELECT km_trust_wanted()");
	if (authority_signs(rq->api->authority)) /* an offline CA has been asked for others already */
		tx_add(&tx,
		       "SELECT km_disown(fingerprint) FROM authorities WHERE id = $1::uuid "
		       "AND state = 'retired'",
		       rq->id);
	req_run(rq, &tx, authority_retired);
}

void authorities_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT fingerprint FROM authorities WHERE id = $1::uuid", rq->id);
	req_read(rq, &tx, authority_named);
}

/* ---- the bundle ---- */

#define TRUST_VIEW                                                                                 \
	"SELECT json_build_object('number', number, 'signed', signed, 'bundle', bundle, "          \
	"'lastSigned', nullif(signed_bundle, ''), 'issuedAt', km_time(issued_at)) FROM trust"

static void trust_read(struct req *rq, PGresult *const *res, size_t n)
{
	req_reply_row(rq, 200, res[n - 1]);
}

void trust_get(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, TRUST_VIEW);
	req_read(rq, &tx, trust_read);
}

static void trust_taken(struct req *rq, PGresult *const *res, size_t n)
{
	if (PQntuples(res[0]) == 0)
		req_error(rq, 409, "CONFLICT", NULL,
			  "there is a newer bundle meanwhile: sign that one");
	else
		trust_read(rq, res, n);
}

void trust_put(struct req *rq)
{
	const char *pem = pem_of(rq, "bundle");
	struct km_errtext err = {""};
	struct tx tx = {.n = 0};
	int64_t number;
	bool handover = false;
	char text[24];
	if (!pem)
		return;
	if (authority_check_bundle(rq->api->authority, pem, &number, &handover, &err)) {
		refuse_pem(rq, "bundle", &err);
		return;
	}
	snprintf(text, sizeof(text), "%lld", (long long)number);
	tx_add(&tx,
	       "WITH step AS (INSERT INTO trust_steps (number, bundle) SELECT signed_number, "
	       "signed_bundle FROM trust WHERE $3::boolean AND number <= $1::bigint "
	       "ON CONFLICT DO NOTHING) "
	       "UPDATE trust SET number = $1::bigint, bundle = $2, signed = true, "
	       "signed_number = $1::bigint, signed_bundle = $2, "
	       "issued_at = now() WHERE number <= $1::bigint RETURNING number",
	       text, pem, handover ? "true" : "false");
	tx_audit(&tx, rq, "trust.sign", NULL);
	tx_add(&tx, "SELECT pg_notify('km_changes', '')");
	tx_add(&tx, TRUST_VIEW);
	req_run(rq, &tx, trust_taken);
}

/* ---- enrolments ---- */

#define ENROLMENT_HOSTS                                                                            \
	"(SELECT id, name, number, virtual_ip, subnet, wireguard_public_key, next_public_key, "    \
	"'agent' AS kind FROM agents WHERE revoked_at IS NULL UNION ALL "                          \
	"SELECT id, name, number, virtual_ip, NULL, wireguard_public_key, next_public_key, "       \
	"'gateway' FROM gateways WHERE revoked_at IS NULL)"

/* What a host has asked for with a key that it has given up waits for nobody. */
#define ENROLMENT_ON                                                                               \
	"h.id = e.host_id AND e.public_key IN (h.wireguard_public_key, h.next_public_key)"

/* The code, which people compare, is worked out from the key by whoever shows it: kmctl does. */
#define ENROLMENT_VIEW                                                                             \
	"json_build_object('id', e.id, 'kind', e.kind, 'hostId', e.host_id, 'name', h.name, "      \
	"'wireguardPublicKey', e.public_key, 'networks', json_build_array(host(h.virtual_ip) || "  \
	"'/' || (SELECT masklen(value::cidr) FROM settings WHERE key = 'network')), "              \
	"'unsafeNetworks', CASE WHEN h.subnet IS NULL THEN '[]' ELSE "                             \
	"json_build_array(h.subnet::text) END, 'groups', json_build_array(e.kind), "               \
	"'reason', e.reason, 'requestedAt', km_time(e.requested_at))"

void enrolments_list(struct req *rq)
{
	req_list(rq,
		 "SELECT " ENROLMENT_VIEW ", (extract(epoch FROM e.requested_at) * "
		 "1000000)::bigint || '_' || e.id FROM enrolments e JOIN " ENROLMENT_HOSTS
		 " h ON " ENROLMENT_ON " WHERE $2::bigint IS NULL OR ((extract(epoch FROM "
		 "e.requested_at) * 1000000)::bigint, e.id) > ($2::bigint, $3::uuid) "
		 "ORDER BY e.requested_at, e.id LIMIT $1::int",
		 "SELECT count(*) FROM enrolments e JOIN " ENROLMENT_HOSTS " h ON " ENROLMENT_ON);
}

static void enrolled(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[1]) == 0)
		req_error(rq, 409, "CONFLICT", NULL, "the host has another key meanwhile");
	else
		req_reply_empty(rq, 204);
}

#define TAKE(table)                                                                                \
	"UPDATE " table " SET "                                                                    \
	"certificate = CASE WHEN wireguard_public_key = $5 THEN $2 ELSE certificate END, "         \
	"certificate_fingerprint = CASE WHEN wireguard_public_key = $5 THEN $3 ELSE "              \
	"certificate_fingerprint END, certificate_not_after = CASE WHEN wireguard_public_key = "   \
	"$5 THEN $4::timestamptz ELSE certificate_not_after END, certificate_due = false, "        \
	"next_certificate = CASE WHEN next_public_key = $5 THEN $2 ELSE next_certificate END "     \
	"WHERE id = $1::uuid AND (wireguard_public_key = $5 OR next_public_key = $5) "             \
	"AND revoked_at IS NULL RETURNING id"

static void enrolment_read(struct req *rq, PGresult *const *res, size_t n)
{
	struct km_errtext err = {""};
	struct issued cert = {.pem = NULL};
	struct tx tx = {.n = 0};
	uint8_t key[KM_WG_KEY_LEN];
	char id[KM_UUID_STRLEN];
	(void)n;
	if (PQntuples(res[0]) == 0) {
		req_error(rq, 404, "NOT_FOUND", NULL, "no such enrolment");
		return;
	}
	const char *kind = PQgetvalue(res[0], 0, 0);
	bool gateway = strcmp(kind, "gateway") == 0;
	struct authority_host h = {.gateway = gateway,
				   .id = PQgetvalue(res[0], 0, 1),
				   .name = PQgetvalue(res[0], 0, 2),
				   .number = strtoll(PQgetvalue(res[0], 0, 3), NULL, 10),
				   .key = key};
	if (km_wg_key_parse(key, PQgetvalue(res[0], 0, 4)) ||
	    authority_take(rq->api->authority, &cert,
			   json_string_value(json_object_get(rq->body, "certificate")), &h, &err)) {
		refuse_pem(rq, "certificate", &err);
		issued_free(&cert);
		return;
	}
	snprintf(id, sizeof(id), "%s", h.id);
	tx_add(&tx, "SELECT km_before($1, $2::uuid)", kind, id);
	tx_add(&tx, gateway ? TAKE("gateways") : TAKE("agents"), id, cert.pem, cert.fingerprint,
	       cert.not_after, cert.key);
	tx.s[tx.n++] = issued_insert(&cert, gateway, id);
	tx_add(&tx, "DELETE FROM enrolments WHERE id = $1::uuid", rq->id);
	tx_audit(&tx, rq, "enrolment.sign", NULL);
	tx_add(&tx, "SELECT km_change($1, 'update', $2::uuid)", kind, id);
	req_run(rq, &tx, enrolled);
	issued_free(&cert);
}

void enrolments_put(struct req *rq)
{
	struct tx tx = {.n = 0};
	if (!pem_of(rq, "certificate"))
		return;
	tx_add(&tx,
	       "SELECT e.kind, e.host_id, h.name, h.number, e.public_key FROM enrolments e "
	       "JOIN " ENROLMENT_HOSTS " h ON h.id = e.host_id WHERE e.id = $1::uuid",
	       rq->id);
	req_read(rq, &tx, enrolment_read);
}

static void enrolment_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[0]) == 0)
		req_error(rq, 404, "NOT_FOUND", NULL, "no such enrolment");
	else
		req_reply_empty(rq, 204);
}

void enrolments_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx,
	       "WITH gone AS (DELETE FROM enrolments WHERE id = $3::uuid RETURNING id, public_key) "
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) "
	       "SELECT $1, $2::inet, 'enrolment.delete', id, "
	       "jsonb_build_object('wireguardPublicKey', public_key) FROM gone RETURNING id",
	       rq->actor, rq->peer, rq->id);
	req_run(rq, &tx, enrolment_deleted);
}
