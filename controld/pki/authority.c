/* SPDX-License-Identifier: MIT */
#include "controld/pki/authority.h"
#include "controld/pki/authority_priv.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define LOCK_KEY "4710103" /* while the first CA is looked for and made */
#define SWEEP_S 3600       /* how often what is due is looked for, at least */
#define SWEEPS 24          /* in the life of a certificate, at least */
#define BLOCK_DAYS 400     /* after its end a certificate is refused for that alone, grace or not */
#define STRING_(x) #x
#define STRING(x) STRING_(x)

/* ---- the CAs ---- */

void cas_free(struct cas *c)
{
	for (size_t i = 0; i < c->n; i++) {
		km_cert_free(c->items[i].cert);
		km_wipe(&c->items[i].key, sizeof(c->items[i].key));
	}
	free(c->items);
	km_cert_pool_free(c->pool);
	memset(c, 0, sizeof(*c));
}

const struct ca *authority_active(const struct authority *a)
{
	for (size_t i = 0; i < a->cas.n; i++)
		if (a->cas.items[i].active)
			return &a->cas.items[i];
	return NULL;
}

static int open_key(struct ca *ca, const struct vault *v, const char *fp, const char *sealed,
		    struct km_errtext *err)
{
	char what[16 + KM_CERT_FP_STRLEN];
	uint8_t *priv = NULL;
	size_t n = 0;
	int rc;

	snprintf(what, sizeof(what), "ca_key %s", fp);
	rc = master_open(&v->master, what, sealed, &priv, &n);
	if (!rc && (n != KM_CERT_KEY_MAX || ca->cert->public_key_len != 32))
		rc = KM_EINVAL;
	if (!rc) {
		ca->key = (struct km_cert_key){
		    .curve = KM_CERT_25519, .is_ca = true, .priv_len = n, .pub_len = 32};
		memcpy(ca->key.priv, priv, n);
		memcpy(ca->key.pub, ca->cert->public_key, 32);
		rc = km_cert_key_fits(&ca->key, ca->cert, NULL) ? KM_EINVAL : 0;
		ca->has_key = rc == 0;
	}
	if (priv)
		km_wipe(priv, n);
	free(priv);
	return rc ? km_errtext_set(err, KM_EAUTH,
				   "the key of the CA %.16s… does not open with this master key",
				   fp)
		  : 0;
}

static int read_ca(struct cas *out, const struct vault *v, const PGresult *res, int row,
		   struct km_errtext *err)
{
	const char *fp = PQgetvalue(res, row, 0), *pem = PQgetvalue(res, row, 1);
	const char *sealed = PQgetisnull(res, row, 2) ? NULL : PQgetvalue(res, row, 2);
	const char *state = PQgetvalue(res, row, 3);
	struct ca *ca = &out->items[out->n];
	char real[KM_CERT_FP_STRLEN];
	size_t left = strlen(pem);
	int rc;

	if (!vault_digest_is(v, PQgetvalue(res, row, 4), VAULT_AUTHORITY(fp, state)))
		return km_errtext_set(err, KM_EAUTH,
				      "the CA %.16s… in the database was not put there by control",
				      fp);
	rc = km_cert_from_pem(&ca->cert, &pem, &left, err);
	if (rc)
		return rc;
	out->n++;
	if (strcmp(km_cert_fp_str(ca->cert, real), fp) != 0)
		return km_errtext_set(err, KM_EAUTH, "the CA %.16s… in the database is another one",
				      fp);
	ca->active = strcmp(state, "active") == 0;
	rc = km_cert_pool_add(out->pool, ca->cert, err);
	return !rc && sealed ? open_key(ca, v, fp, sealed, err) : rc;
}

int cas_read(struct cas *out, const struct vault *v, const PGresult *res, struct km_errtext *err)
{
	int rows = PQntuples(res), rc = 0;

	memset(out, 0, sizeof(*out));
	out->items = km_xcalloc((size_t)rows + 1, sizeof(*out->items));
	out->pool = km_cert_pool_new();
	if (!out->pool)
		rc = KM_ENOMEM;
	for (int i = 0; i < rows && !rc; i++)
		rc = read_ca(out, v, res, i, err);
	if (rc)
		cas_free(out);
	return rc;
}

bool authority_signs(const struct authority *a)
{
	const struct ca *ca = authority_active(a);

	return ca && ca->has_key;
}

void authority_fingerprints(const struct authority *a, struct km_strlist *out)
{
	char fp[KM_CERT_FP_STRLEN];

	if (!a || a->cas.n == 0)
		return;
	out->items = km_xcalloc(a->cas.n, sizeof(char *));
	for (int active = 1; active >= 0; active--)
		for (size_t i = 0; i < a->cas.n; i++)
			if (a->cas.items[i].active == active)
				out->items[out->n++] =
				    km_xstrdup(km_cert_fp_str(a->cas.items[i].cert, fp));
}

void authority_mac(const struct authority *a, const char *fingerprint, const char *state,
		   char mac[static VAULT_TEXT_LEN])
{
	vault_digest_text(a->vault, mac, VAULT_AUTHORITY(fingerprint, state));
}

/* ---- the bundle ---- */

const char *authority_bundle(const struct authority *a)
{
	return a->bundle ? a->bundle : "";
}

int64_t authority_number(const struct authority *a)
{
	return a->number;
}

const char *authority_signed_bundle(const struct authority *a)
{
	return a->signed_bundle ? a->signed_bundle : "";
}

int authority_last_signed(struct km_bundle **out, const struct authority *a, struct km_errtext *err)
{
	const char *pem = authority_signed_bundle(a);

	*out = NULL;
	return *pem ? km_bundle_parse(out, pem, strlen(pem), err) : 0;
}

/* What hosts obey that have taken every bundle; before the first: just the active CA. */
static int obeyed(struct km_bundle **out, const struct authority *a, struct km_errtext *err)
{
	const struct ca *ca = authority_active(a);
	const struct km_cert *cert = ca ? ca->cert : NULL;
	int rc = authority_last_signed(out, a, err);

	if (rc || *out)
		return rc;
	if (!cert) {
		km_errtext_set(err, KM_EINVAL, "there is no CA that could have signed it");
		return KM_EINVAL;
	}
	return km_bundle_new(out, 0, &cert, 1, NULL, 0, err);
}

int authority_check_bundle(const struct authority *a, const char *pem, int64_t *number,
			   bool *handover, struct km_errtext *err)
{
	struct km_bundle *b = NULL, *trusted = NULL;
	int rc = km_bundle_parse(&b, pem, strlen(pem), err);

	if (!rc)
		rc = obeyed(&trusted, a, err);
	if (!rc)
		rc = km_bundle_check(b, trusted, KM_CERT_ANY_TIME, err);
	if (!rc && !km_cert_pool_find(a->cas.pool, b->signer))
		rc = km_errtext_set(err, KM_EAUTH, "the CA that has signed it is retired");
	if (!rc) {
		*number = (int64_t)b->number;
		*handover =
		    trusted->is_signed && memcmp(b->signer, trusted->signer, KM_CERT_FP_LEN) != 0;
	}
	km_bundle_free(trusted);
	km_bundle_free(b);
	return rc;
}

/* Who signs the bundle after prev, the last signed one (NULL: the first): a CA that prev's hosts
 * trust, and as long as it can the one that has signed prev. NULL: nobody can. *handover: another
 * one than prev's. */
static const struct ca *signer_of(const struct authority *a, const struct km_bundle *prev,
				  bool *handover)
{
	const struct ca *best = NULL, *active = authority_active(a);

	*handover = false;
	if (!prev)
		return active && active->has_key ? active : NULL;
	for (size_t i = 0; i < a->cas.n; i++) {
		const struct ca *ca = &a->cas.items[i];

		if (!ca->has_key || !km_bundle_find(prev, ca->cert->fingerprint))
			continue;
		if (prev->is_signed &&
		    memcmp(prev->signer, ca->cert->fingerprint, KM_CERT_FP_LEN) == 0)
			return ca;
		if (!best || ca->active)
			best = ca;
	}
	*handover = best && prev->is_signed;
	return best;
}

/* Whether this row of the certificates that ended long ago is the certificate with this
 * fingerprint: only its own text can tell that, for who can write rows could let it back in. */
static bool ended_long_ago(const PGresult *ended, int row, const uint8_t *fp)
{
	const char *pem = PQgetvalue(ended, row, 1);
	size_t left = strlen(pem);
	struct km_cert *c = NULL;
	bool is;

	if (km_cert_from_pem(&c, &pem, &left, NULL))
		return false;
	is = memcmp(c->fingerprint, fp, KM_CERT_FP_LEN) == 0 &&
	     km_wall_ms() / 1000 > c->not_after + BLOCK_DAYS * 86400LL;
	km_cert_free(c);
	return is;
}

static bool may_go(const PGresult *ended, const uint8_t *fp)
{
	char hex[KM_CERT_FP_STRLEN];

	km_hex(fp, KM_CERT_FP_LEN, hex);
	for (int i = 0; i < PQntuples(ended); i++)
		if (strcmp(PQgetvalue(ended, i, 0), hex) == 0)
			return ended_long_ago(ended, i, fp);
	return false;
}

/* What is to be blocked: what the rows say, and what was blocked before. */
static int blocklist(uint8_t (**out)[KM_CERT_FP_LEN], size_t *n, const struct km_bundle *prev,
		     PGresult *const *res)
{
	size_t rows = (size_t)PQntuples(res[2]), before = prev ? prev->n_blocked : 0;
	int rc = 0;

	*n = 0;
	*out = km_xcalloc(rows + before + 1, sizeof(**out));
	for (size_t i = 0; i < rows && !rc; i++)
		rc = km_cert_fp_parse((*out)[(*n)++], PQgetvalue(res[2], (int)i, 0));
	for (size_t i = 0; i < before; i++)
		if (!may_go(res[3], prev->blocked[i]))
			memcpy((*out)[(*n)++], prev->blocked[i], KM_CERT_FP_LEN);
	return rc;
}

static int make_bundle(const struct authority *a, struct km_buf *out, uint64_t number,
		       PGresult *const *res, const struct ca *ca, struct km_errtext *err)
{
	const struct km_cert **cas = km_xcalloc(a->cas.n + 1, sizeof(struct km_cert *));
	uint8_t(*fps)[KM_CERT_FP_LEN] = NULL;
	struct km_bundle *b = NULL;
	size_t n;
	int rc = blocklist(&fps, &n, a->obeyed, res);

	for (size_t i = 0; i < a->cas.n; i++)
		cas[i] = a->cas.items[i].cert;
	if (!rc)
		rc = km_bundle_new(&b, number, cas, a->cas.n, (const uint8_t(*)[KM_CERT_FP_LEN])fps,
				   n, err);
	if (!rc && ca)
		rc = km_bundle_sign(b, ca->cert, &ca->key, err);
	if (!rc)
		rc = km_bundle_format(out, b);
	km_bundle_free(b);
	free(cas);
	free(fps);
	return rc;
}

static void tell(struct authority *a)
{
	struct authority_watch *w, *next;

	DL_FOREACH_SAFE (a->watches, w, next)
		w->changed(w->arg);
}

static void look(struct authority *a);

static void on_kept(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;

	(void)n;
	a->db = NULL;
	if (error) { /* the next wake tries again */
		km_warn("trust bundle not kept", km_ks("why", error->message));
		return;
	}
	if (PQntuples(res[0]) == 0)
		km_debug("another control has made the trust bundle");
	look(a);
}

/* Numbers are times where that makes them larger: so hosts that had newer bundles than a database
 * that was restored from a backup take the next one. */
static int64_t next_number(const struct authority *a)
{
	int64_t now = km_wall_ms() / 1000;

	return a->number < now ? now : a->number + 1;
}

/* number: the row's, which need not be one that is believed. */
static void build(struct authority *a, int64_t number, int64_t wanted, PGresult *const *res)
{
	char before[24], after[24], want[24], step[24];
	struct km_errtext err = {""};
	bool handover;
	const struct ca *ca;
	struct km_bundle *prev;
	int64_t next = next_number(a);
	struct km_buf text;
	int rc = authority_last_signed(&prev, a, &err);

	km_buf_init(&text, KM_BUNDLE_PEM_MAX);
	ca = signer_of(a, prev, &handover);
	snprintf(step, sizeof(step), "%lld", (long long)(prev ? prev->number : 0));
	km_bundle_free(prev);
	if (!rc)
		rc = make_bundle(a, &text, (uint64_t)next, res, ca, &err);
	if (!rc)
		rc = km_buf_add(&text, "", 1);
	if (rc) {
		km_error("trust bundle not made", km_ke(rc), km_ks("why", err.text));
		km_buf_free(&text);
		return;
	}
	snprintf(before, sizeof(before), "%lld", (long long)number);
	snprintf(after, sizeof(after), "%lld", (long long)next);
	snprintf(want, sizeof(want), "%lld", (long long)wanted);
	struct store_stmt s[] = {
	    {.sql =
		 "UPDATE trust SET number = $2::bigint, bundle = $3, signed = $4::boolean, "
		 "signed_number = CASE WHEN $4::boolean THEN $2::bigint ELSE signed_number END, "
		 "signed_bundle = CASE WHEN $4::boolean THEN $3 ELSE signed_bundle END, "
		 "built = $5::bigint, issued_at = now() WHERE number = $1::bigint RETURNING number",
	     .n = 5,
	     .params = {before, after, (const char *)km_buf_head(&text), ca ? "true" : "false",
			want}},
	    {.sql = "SELECT pg_notify('km_changes', '')"},
	    {.sql = "INSERT INTO trust_steps (number, bundle) VALUES ($1::bigint, $2) "
		    "ON CONFLICT DO NOTHING",
	     .n = 2,
	     .params = {step, authority_signed_bundle(a)}},
	};
	if (store_run(a->store, s, handover ? 3 : 2, on_kept, a, &a->db))
		a->db = NULL; /* the next wake tries again */
	km_buf_free(&text);
}

/* Whether one of the CAs has signed it, or nobody where control cannot sign. */
static int signature_ok(const struct authority *a, const struct km_bundle *b,
			struct km_errtext *err)
{
	const struct km_cert **cas = km_xcalloc(a->cas.n + 1, sizeof(struct km_cert *));
	struct km_bundle *trusted = NULL;
	int rc;

	for (size_t i = 0; i < a->cas.n; i++)
		cas[i] = a->cas.items[i].cert;
	rc = km_bundle_new(&trusted, 0, cas, a->cas.n, NULL, 0, err);
	if (!rc && (b->is_signed || authority_signs(a)))
		rc = km_bundle_check(b, trusted, KM_CERT_ANY_TIME, err);
	km_bundle_free(trusted);
	free(cas);
	return rc;
}

/* The row's bundle, if it is one that control (or the operator) has made: else whoever can write
 * the row could take certificates off the blocklist. */
static int believe(const struct authority *a, int64_t number, const char *text,
		   struct km_bundle **out, struct km_errtext *err)
{
	int rc = km_bundle_parse(out, text, strlen(text), err);

	if (!rc && (int64_t)(*out)->number != number)
		rc = km_errtext_set(err, KM_EAUTH, "the row's number is not the bundle's");
	if (!rc && number < a->number)
		rc = km_errtext_set(err, KM_EAUTH, "it is older than %lld, which was there before",
				    (long long)a->number);
	if (!rc)
		rc = signature_ok(a, *out, err);
	if (rc) {
		km_bundle_free(*out);
		*out = NULL;
	}
	return rc;
}

/* With its first bundle, or another CA, certificates may be due. */
static void take_newer(struct authority *a, struct km_bundle *b, const char *bundle,
		       const char *signed_bundle)
{
	int64_t number = (int64_t)b->number;
	bool is_signed = b->is_signed;

	a->number = number;
	km_bundle_free(a->obeyed);
	a->obeyed = b;
	free(a->bundle);
	free(a->signed_bundle);
	a->bundle = km_xstrdup(bundle);
	a->signed_bundle = km_xstrdup(signed_bundle);
	km_info("trust bundle", km_ki("number", number), km_ki("authorities", (int64_t)a->cas.n),
		km_ks("signed", is_signed ? "yes" : "no: kmctl trust sign"));
	tell(a);
	authority_sweep(a);
}

/* The last that bears a signature; "" when the row's does not even look so. It is only handed on:
 * hosts judge it themselves, and where control signs it is the newest, which is believed. */
static const char *signed_text(const PGresult *row, const struct km_bundle *newest)
{
	const char *text = PQgetvalue(row, 0, newest->is_signed ? 3 : 4);
	struct km_bundle *b = NULL;
	bool ok = *text && km_bundle_parse(&b, text, strlen(text), NULL) == 0 && b->is_signed;

	km_bundle_free(b);
	return ok ? text : "";
}

static void on_seen(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;
	struct km_errtext err = {""};
	struct km_bundle *b;
	struct cas cas;
	int64_t number, wanted, built;

	(void)n;
	a->db = NULL;
	if (error || PQntuples(res[0]) == 0)
		return;
	number = strtoll(PQgetvalue(res[0], 0, 0), NULL, 10);
	wanted = strtoll(PQgetvalue(res[0], 0, 1), NULL, 10);
	built = strtoll(PQgetvalue(res[0], 0, 2), NULL, 10);
	if (cas_read(&cas, a->vault, res[1], &err)) {
		km_error("authorities not believed", km_ks("why", err.text));
		return;
	}
	cas_free(&a->cas);
	a->cas = cas;
	/* One that was signed elsewhere keeps its number. */
	if (number != 0 && (number != a->number || strcmp(PQgetvalue(res[0], 0, 3), a->bundle))) {
		if (believe(a, number, PQgetvalue(res[0], 0, 3), &b, &err)) {
			km_error("trust bundle in the database not believed: it is made anew",
				 km_ki("number", number), km_ks("why", err.text));
			built = wanted - 1;
		} else {
			take_newer(a, b, PQgetvalue(res[0], 0, 3), signed_text(res[0], b));
		}
	}
	if (wanted > built && a->cas.n > 0)
		build(a, number, wanted, res);
}

/* Reads what there is, and makes a bundle when one is wanted. */
static void look(struct authority *a)
{
	static const struct store_stmt s[] = {
	    {.sql = "SELECT number, wanted, built, bundle, signed_bundle FROM trust"},
	    {.sql = "SELECT " AUTHORITY_COLUMNS " FROM authorities WHERE state <> 'retired' "
		    "ORDER BY created_at, fingerprint"},
	    {.sql = "SELECT fingerprint FROM host_certificates WHERE blocked_at IS NOT NULL "
		    "AND not_after > now() - interval '" STRING(BLOCK_DAYS) " days'"},
	    {.sql = "SELECT fingerprint, certificate FROM host_certificates "
		    "WHERE blocked_at IS NOT NULL "
		    "AND not_after <= now() - interval '" STRING(BLOCK_DAYS) " days'"},
	};

	if (!a->db && store_read(a->store, s, KM_ARRAY_LEN(s), on_seen, a, &a->db))
		a->db = NULL;
}

static void on_short(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;

	(void)n;
	a->db = NULL;
	if (error || PQntuples(res[0]) == 0)
		return;
	if (strtoll(PQgetvalue(res[0], 0, 0), NULL, 10) != a->number ||
	    strcmp(PQgetvalue(res[0], 0, 1), "t") == 0 ||
	    (strcmp(PQgetvalue(res[0], 0, 2), "t") == 0) != (a->obeyed && a->obeyed->is_signed))
		look(a);
}

/* Woken with every change of anything: a short look decides whether a long one is needed. */
static void on_wake(void *arg, const char *epoch, int64_t revision)
{
	static const struct store_stmt s = {.sql =
						"SELECT number, wanted > built, signed FROM trust"};
	struct authority *a = arg;

	(void)epoch, (void)revision;
	if (!a->db && store_read(a->store, &s, 1, on_short, a, &a->db))
		a->db = NULL;
}

/* ---- the first CA ---- */

static PGresult *query(PGconn *db, const char *sql, int n, const char *const *params, int *rc,
		       struct km_errtext *err)
{
	return store_query(db, "the authorities in the database", sql, n, params, rc, err);
}

static int insert(const struct authority *a, PGconn *db, const struct new_authority *n,
		  struct km_errtext *err)
{
	char mac[VAULT_TEXT_LEN];
	const char *params[] = {n->fingerprint, n->pem, n->sealed, mac, n->not_after};
	int rc;

	authority_mac(a, n->fingerprint, "active", mac);
	PQclear(query(db,
		      "INSERT INTO authorities (fingerprint, certificate, sealed_key, state, mac, "
		      "not_after) VALUES ($1, $2, $3, 'active', $4::bytea, $5::timestamptz)",
		      5, params, &rc, err));
	if (!rc)
		PQclear(query(db, "SELECT km_trust_wanted()", 0, NULL, &rc, err));
	return rc;
}

static int first_ca(struct authority *a, PGconn *db, const char *file, struct km_errtext *err)
{
	struct new_authority made = {"", "", NULL, NULL};
	struct km_errtext why = {""};
	char *pem = NULL;
	size_t n;
	int rc;

	if (!a->offline) {
		rc = authority_make(a, &made, err);
	} else if (!file) {
		km_warn(
		    "no certificate authority yet: ca = offline, and ca_certificate names none");
		return 0;
	} else {
		rc = km_file_read(file, KM_CERT_PEM_MAX, &pem, &n);
		if (rc)
			km_errtext_set(&why, rc, "%s", strerror(errno));
		else
			rc = authority_adopt(a, &made, pem, &why);
		if (rc)
			km_errtext_set(err, KM_EINVAL, "ca_certificate %s: %s", file, why.text);
	}
	if (!rc)
		rc = insert(a, db, &made, err);
	if (!rc)
		km_info("certificate authority", km_ks("fingerprint", made.fingerprint),
			km_ks("key", made.sealed ? "here, sealed with the master key" : "offline"));
	free(pem);
	new_authority_free(&made);
	return rc;
}

static int load(struct authority *a, PGconn *db, const char *file, struct km_errtext *err)
{
	static const char select[] = "SELECT " AUTHORITY_COLUMNS " FROM authorities "
				     "WHERE state <> 'retired' ORDER BY created_at, fingerprint";
	PGresult *r = NULL;
	int rc;

	PQclear(query(db, "BEGIN; SELECT pg_advisory_xact_lock(" LOCK_KEY ")", 0, NULL, &rc, err));
	if (!rc)
		r = query(db, select, 0, NULL, &rc, err);
	if (r && PQntuples(r) == 0) {
		PQclear(r);
		r = NULL;
		rc = first_ca(a, db, file, err);
		if (!rc)
			r = query(db, select, 0, NULL, &rc, err);
	}
	if (r)
		rc = cas_read(&a->cas, a->vault, r, err);
	PQclear(r);
	if (!rc)
		PQclear(query(db, "COMMIT", 0, NULL, &rc, err));
	else
		PQclear(PQexec(db, "ROLLBACK"));
	return rc;
}

/* ---- life ---- */

int authority_open(struct authority **out, PGconn *db, const struct authority_opts *opts,
		   struct km_errtext *err)
{
	struct authority *a = km_xcalloc(1, sizeof(*a));
	int rc;

	a->vault = opts->vault;
	a->offline = opts->offline;
	a->lifetime_s = opts->lifetime_s;
	rc = km_prefix_parse(&a->network, opts->network);
	if (rc)
		km_errtext_set(err, rc, "network %s is no prefix", opts->network);
	else
		rc = load(a, db, opts->ca_certificate, err);
	if (rc) {
		authority_free(a);
		a = NULL;
	}
	*out = a;
	return rc;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	authority_sweep(arg);
	authority_tidy(arg);
}

int authority_start(struct authority *a, struct event_base *base, struct store *store)
{
	int64_t every = a->lifetime_s / SWEEPS;
	struct timeval tv = {every < 1 ? 1 : every > SWEEP_S ? SWEEP_S : every, 0};

	a->base = base;
	a->store = store;
	a->timer = event_new(base, -1, EV_PERSIST, on_timer, a);
	a->listen = store_listen(store, on_wake, a);
	return a->timer && a->listen && event_add(a->timer, &tv) == 0 ? 0 : KM_ENOMEM;
}

void authority_free(struct authority *a)
{
	if (!a)
		return;
	store_unlisten(a->listen);
	store_cancel(a->db);
	store_cancel(a->sweep);
	store_cancel(a->ends);
	if (a->timer)
		event_free(a->timer);
	cas_free(&a->cas);
	km_bundle_free(a->obeyed);
	free(a->bundle);
	free(a->signed_bundle);
	free(a);
}

void authority_watch(struct authority *a, struct authority_watch *w)
{
	DL_APPEND(a->watches, w);
}

void authority_unwatch(struct authority *a, struct authority_watch *w)
{
	DL_DELETE(a->watches, w);
}
