/* SPDX-License-Identifier: MIT */
/* The hosts' CA in a real database: made once, believed only with its mac, its bundle and renewals.
 */
#include "controld/pki/authority.h"
#include "libkm/base/metrics.h"
#include "libkm/cert/bundle.h"
#include "libkm/cert/sign.h"
#include "tests/unit/controld/fixture.h"
#include <pthread.h>
#include <time.h>

#define DAY 86400
#define HOST "11111111-1111-4111-8111-111111111111"
#define OTHER "22222222-2222-4222-8222-222222222222"

static struct fix fix;
static PGconn *db;
static const struct vault vault = {.master = {.key = {1, 2, 3}}};
static const struct vault other_vault = {.master = {.key = {3, 2, 1}}};
static const uint8_t key[KM_WG_KEY_LEN] = {9, 1}, key2[KM_WG_KEY_LEN] = {9, 2};

static int group_setup(void **state)
{
	(void)state;
	return fix_group_begin(&fix, &db);
}

static int group_teardown(void **state)
{
	(void)state;
	return fix_group_end(&fix, db);
}

static int setup(void **state)
{
	(void)state;
	fix_value(db, "TRUNCATE authorities, host_certificates, enrolments, trust_steps, agents, "
		      "gateways CASCADE; UPDATE trust SET number = 0, bundle = '', signed = false, "
		      "wanted = 1, built = 0");
	return 0;
}

static int try_open(struct authority **a, PGconn *conn, const struct vault *v, int64_t lifetime_s,
		    const char *ca_file, struct km_errtext *err)
{
	const struct authority_opts o = {.vault = v,
					 .network = "10.0.0.0/8",
					 .lifetime_s = lifetime_s,
					 .offline = ca_file != NULL,
					 .ca_certificate = ca_file && *ca_file ? ca_file : NULL};

	err->text[0] = 0;
	return authority_open(a, conn, &o, err);
}

static struct authority *opened(int64_t lifetime_s)
{
	struct km_errtext err;
	struct authority *a;

	if (try_open(&a, db, &vault, lifetime_s, NULL, &err))
		fail_msg("%s", err.text);
	return a;
}

static const char *text(const char *fmt, ...)
{
	static char out[16384];
	va_list ap;

	va_start(ap, fmt);
	assert_true(vsnprintf(out, sizeof(out), fmt, ap) < (int)sizeof(out));
	va_end(ap);
	return out;
}

static struct km_cert *parsed(const char *pem)
{
	size_t n = strlen(pem);
	struct km_errtext err = {""};
	struct km_cert *c;

	if (km_cert_from_pem(&c, &pem, &n, &err))
		fail_msg("%s", err.text);
	return c;
}

static struct issued issue(const struct authority *a, bool gateway, int64_t number,
			   const uint8_t *public_key)
{
	const struct authority_host h = {gateway, HOST, "home", number, public_key};
	struct km_errtext err = {""};
	struct issued i;

	if (authority_issue(a, &i, &h, &err))
		fail_msg("%s", err.text);
	return i;
}

/* ---- the first CA ---- */

struct opener {
	PGconn *conn;
	pthread_barrier_t *go;
	struct authority *a;
	struct km_errtext err;
	int rc;
};

static void *open_one(void *arg)
{
	struct opener *o = arg;

	pthread_barrier_wait(o->go);
	o->rc = try_open(&o->a, o->conn, &vault, 90 * DAY, NULL, &o->err);
	return NULL;
}

static void made_once_by_two_at_once(void **state)
{
	struct km_strlist fps[2] = {{NULL, 0}, {NULL, 0}};
	pthread_barrier_t go;
	struct opener o[2];
	pthread_t t[2];

	(void)state;
	pthread_barrier_init(&go, NULL, 2);
	for (int i = 0; i < 2; i++) {
		o[i] = (struct opener){.conn = fix_connect(&fix), .go = &go};
		assert_int_equal(pthread_create(&t[i], NULL, open_one, &o[i]), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 2; i++) {
		if (o[i].rc)
			fail_msg("%s", o[i].err.text);
		authority_fingerprints(o[i].a, &fps[i]);
		assert_int_equal(fps[i].n, 1);
		assert_true(authority_signs(o[i].a));
	}
	assert_string_equal(fps[0].items[0], fps[1].items[0]);
	assert_string_equal(fix_value(db, "SELECT count(*) FROM authorities"), "1");
	assert_string_equal(fix_value(db, "SELECT left(sealed_key, 3) FROM authorities"), "v1:");
	for (int i = 0; i < 2; i++) {
		authority_free(o[i].a);
		PQfinish(o[i].conn);
		free(fps[i].items[0]);
		free(fps[i].items);
	}
	pthread_barrier_destroy(&go);
}

/* Whoever can write to the database, but has not the master key. */
static void a_changed_row_is_refused(void **state)
{
	static const char *const changes[] = {
	    "state = 'trusted'",
	    "mac = sha256('x')",
	    "mac = decode(repeat('00', 32), 'hex')",
	    "fingerprint = repeat('0', 64)",
	    "certificate = replace(certificate, 'M', 'N')",
	    "certificate = ''",
	    "sealed_key = overlay(sealed_key placing 'ff' from 40)",
	    "sealed_key = overlay(sealed_key placing '00' from 41)",
	    "sealed_key = ''",
	};
	struct km_errtext err;
	struct authority *a = opened(90 * DAY), *b;

	(void)state;
	authority_free(a);
	fix_value(db, "CREATE TABLE kept AS SELECT * FROM authorities");
	for (size_t i = 0; i < KM_ARRAY_LEN(changes); i++) {
		fix_value(db, text("UPDATE authorities SET %s", changes[i]));
		if (try_open(&b, db, &vault, 90 * DAY, NULL, &err) == 0)
			fail_msg("%s: accepted", changes[i]);
		assert_null(b);
		assert_true(err.text[0]);
		fix_value(db,
			  "DELETE FROM authorities; INSERT INTO authorities SELECT * FROM kept");
	}
	/* One of its own beside it. */
	fix_value(db, "INSERT INTO authorities (fingerprint, certificate, state, mac, not_after) "
		      "SELECT reverse(fingerprint), certificate, 'trusted', mac, not_after "
		      "FROM kept");
	assert_int_equal(try_open(&b, db, &vault, 90 * DAY, NULL, &err), KM_EAUTH);
	assert_non_null(strstr(err.text, "was not put there by control"));
	fix_value(db, "DELETE FROM authorities WHERE state = 'trusted'");

	assert_int_equal(try_open(&b, db, &other_vault, 90 * DAY, NULL, &err), KM_EAUTH);
	a = opened(90 * DAY);
	authority_free(a);
	fix_value(db, "DROP TABLE kept");
}

static void an_offline_ca(void **state)
{
	const struct km_cert_spec spec = {.version = KM_CERT_V2,
					  .name = "mine",
					  .not_before = time(NULL) - DAY,
					  .not_after = time(NULL) + 1000 * DAY};
	struct km_errtext err = {""};
	struct authority *a;
	struct km_cert_key ca_key;
	struct km_cert *ca;
	struct km_buf pem;
	char path[96];
	const struct authority_host h = {false, HOST, "home", 256, key};
	struct issued i;

	(void)state;
	assert_int_equal(try_open(&a, db, &vault, 90 * DAY, "", &err), 0); /* none yet */
	assert_false(authority_signs(a));
	authority_free(a);

	snprintf(path, sizeof(path), "%s/ca.crt", fix.dir);
	assert_int_equal(km_file_write(path, "nonsense", 8, 0600), 0);
	assert_int_equal(try_open(&a, db, &vault, 90 * DAY, path, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, path));

	assert_int_equal(km_cert_key_new(&ca_key, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_self_sign(&ca, &spec, &ca_key, &err), 0);
	km_buf_init(&pem, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&pem, ca), 0);
	assert_int_equal(km_file_write(path, km_buf_head(&pem), pem.len, 0600), 0);
	assert_int_equal(try_open(&a, db, &vault, 90 * DAY, path, &err), 0);
	assert_false(authority_signs(a));
	assert_int_equal(authority_issue(a, &i, &h, &err), KM_EUNSUPPORTED);
	assert_string_equal(fix_value(db, "SELECT sealed_key IS NULL FROM authorities"), "t");
	authority_free(a);
	km_buf_free(&pem);
	km_cert_free(ca);
}

/* ---- certificates ---- */

static void what_a_number_gives(void **state)
{
	struct authority *a = opened(90 * DAY);
	struct authority_place p;
	char s[KM_PREFIX_STRLEN];

	(void)state;
	assert_int_equal(authority_place(a, false, 256, &p), 0);
	assert_string_equal(km_prefix_str(&p.network, s), "10.1.0.100/8");
	assert_string_equal(km_prefix_str(&p.subnet, s), "10.1.0.0/24");
	assert_int_equal(authority_place(a, false, 65535, &p), 0);
	assert_string_equal(km_prefix_str(&p.subnet, s), "10.255.255.0/24");
	assert_int_equal(authority_place(a, true, 254, &p), 0);
	assert_string_equal(km_prefix_str(&p.network, s), "10.0.0.254/8");
	assert_false(p.has_subnet);
	assert_int_equal(authority_place(a, false, 255, &p), KM_EINVAL);
	assert_int_equal(authority_place(a, false, 65536, &p), KM_EINVAL);
	assert_int_equal(authority_place(a, false, -1, &p), KM_EINVAL);
	assert_int_equal(authority_place(a, true, 0, &p), KM_EINVAL);
	assert_int_equal(authority_place(a, true, 255, &p), KM_EINVAL);
	authority_free(a);
}

static void what_is_issued(void **state)
{
	struct authority *a = opened(90 * DAY);
	struct issued i = issue(a, false, 256, key), again, taken;
	struct authority_host h = {false, HOST, "home", 256, key};
	struct km_cert *c = parsed(i.pem), *n;
	struct km_errtext err = {""};
	char s[KM_PREFIX_STRLEN];

	(void)state;
	assert_string_equal(c->name, "home");
	assert_string_equal(km_prefix_str(&c->networks[0], s), "10.1.0.100/8");
	assert_string_equal(km_prefix_str(&c->unsafe_networks[0], s), "10.1.0.0/24");
	assert_true(c->n_groups == 1 && km_cert_has_group(c, "agent"));
	assert_memory_equal(c->public_key, key, sizeof(key));
	assert_in_range(c->not_after - time(NULL), 90 * DAY - 60, 90 * DAY);
	assert_in_range(time(NULL) - c->not_before, 0, 3660);

	/* At once again it is another one: the first may be revoked. */
	again = issue(a, false, 256, key);
	assert_string_not_equal(again.fingerprint, i.fingerprint);
	issued_free(&again);

	/* Another like it, under another name; nothing else may differ. */
	assert_int_equal(authority_reissue(a, &again, i.pem, false, "new", key, &err), 0);
	n = parsed(again.pem);
	assert_string_equal(n->name, "new");
	assert_true(n->n_networks == 1 && km_prefix_eq(&n->networks[0], &c->networks[0]));
	assert_true(n->n_unsafe_networks == 1 &&
		    km_prefix_eq(&n->unsafe_networks[0], &c->unsafe_networks[0]));
	issued_free(&again);
	assert_int_equal(authority_reissue(a, &again, i.pem, false, "x", key2, &err), KM_EAUTH);
	assert_int_equal(authority_reissue(a, &again, i.pem, true, "x", key, &err), KM_EAUTH);
	assert_int_equal(authority_reissue(a, &again, "", false, "x", key, &err), KM_EINVAL);

	/* As if it had been signed elsewhere. */
	assert_int_equal(authority_take(a, &taken, i.pem, &h, &err), 0);
	assert_string_equal(taken.fingerprint, i.fingerprint);
	issued_free(&taken);
	h.number = 257;
	assert_int_equal(authority_take(a, &taken, i.pem, &h, &err), KM_EAUTH);
	h.number = 256;
	h.key = key2;
	assert_int_equal(authority_take(a, &taken, i.pem, &h, &err), KM_EAUTH);
	h.key = key;
	h.gateway = true;
	assert_int_equal(authority_take(a, &taken, i.pem, &h, &err), KM_EAUTH);
	km_cert_free(n);
	km_cert_free(c);
	issued_free(&i);
	authority_free(a);

	/* By another CA: of no use here. */
	fix_value(db, "DELETE FROM authorities");
	i = issue(a = opened(90 * DAY), false, 256, key);
	authority_free(a);
	fix_value(db, "DELETE FROM authorities");
	a = opened(90 * DAY);
	assert_int_equal(authority_reissue(a, &again, i.pem, false, "x", key, &err), KM_EAUTH);
	h.gateway = false;
	assert_int_equal(authority_take(a, &taken, i.pem, &h, &err), KM_EAUTH);
	issued_free(&i);
	authority_free(a);
}

/* ---- while it runs ---- */

struct running {
	struct authority *a;
	struct store *store;
};

static struct running running(int64_t lifetime_s)
{
	const struct store_opts o = {.conninfo = embedded_conninfo(fix.db)};
	struct running r = {.a = opened(lifetime_s)};
	struct km_errtext err;

	if (store_open(&r.store, fix.base, &o, &err))
		fail_msg("%s", err.text);
	fix_until(fix.base, store_ready(r.store));
	assert_int_equal(authority_start(r.a, fix.base, r.store), 0);
	fix_until(fix.base, authority_number(r.a) > 0);
	return r;
}

static void ended(struct running *r)
{
	authority_free(r->a);
	store_free(r->store);
}

/* Waits for the next bundle; parsed. */
static struct km_bundle *bundle_after(const struct running *r, int64_t number)
{
	struct km_errtext err = {""};
	struct km_bundle *b;

	fix_until(fix.base, authority_number(r->a) > number);
	if (km_bundle_parse(&b, authority_bundle(r->a), strlen(authority_bundle(r->a)), &err))
		fail_msg("%s", err.text);
	assert_true(b->is_signed);
	assert_int_equal(b->number, authority_number(r->a));
	return b;
}

static void keep(const struct issued *i, bool blocked)
{
	struct store_stmt s = issued_insert(i, false, HOST);
	PGresult *r = PQexecParams(db, s.sql, s.n, NULL, s.params, NULL, NULL, 0);

	assert_int_equal(PQresultStatus(r), PGRES_COMMAND_OK);
	PQclear(r);
	if (blocked)
		fix_value(db, text("UPDATE host_certificates SET blocked_at = now() WHERE "
				   "fingerprint = '%s'; SELECT km_trust_wanted()",
				   i->fingerprint));
}

/* One that ended so many days ago. */
static struct issued ancient(int64_t days)
{
	const char *group = "agent";
	const struct km_cert_spec ca_spec = {.version = KM_CERT_V2,
					     .name = "old",
					     .not_before = time(NULL) - 3000 * DAY,
					     .not_after = time(NULL) + DAY};
	struct km_cert_spec spec = {.version = KM_CERT_V2,
				    .name = "old",
				    .groups = &group,
				    .n_groups = 1,
				    .not_before = time(NULL) - (days + 90) * DAY,
				    .not_after = time(NULL) - days * DAY,
				    .public_key = key2,
				    .public_key_len = sizeof(key2)};
	struct issued i = {.pem = NULL};
	struct km_prefix network;
	struct km_cert_key ca_key;
	struct km_cert *ca, *c;
	struct km_buf pem;

	assert_int_equal(km_prefix_parse(&network, "10.1.0.100/8"), 0);
	spec.networks = &network;
	spec.n_networks = 1;
	assert_int_equal(km_cert_key_new(&ca_key, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_self_sign(&ca, &ca_spec, &ca_key, NULL), 0);
	assert_int_equal(km_cert_sign(&c, &spec, ca, &ca_key, NULL), 0);
	km_buf_init(&pem, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&pem, c), 0);
	i.pem = strndup((char *)km_buf_head(&pem), pem.len);
	km_cert_fp_str(c, i.fingerprint);
	km_cert_fp_str(ca, i.authority);
	km_wg_key_str(key2, i.key);
	km_iso8601(spec.not_before * 1000, i.not_before);
	km_iso8601(spec.not_after * 1000, i.not_after);
	km_buf_free(&pem);
	km_cert_free(c);
	km_cert_free(ca);
	return i;
}

static bool blocked(const struct km_bundle *b, const struct issued *i)
{
	uint8_t fp[KM_CERT_FP_LEN];

	assert_int_equal(km_cert_fp_parse(fp, i->fingerprint), 0);
	return km_bundle_blocks(b, fp);
}

static void what_was_blocked_stays_so(void **state)
{
	struct running r = running(90 * DAY);
	struct issued i = issue(r.a, false, 256, key), again, old = ancient(300);
	int64_t n = authority_number(r.a);
	struct km_errtext err = {""};
	struct km_bundle *b;

	(void)state;
	assert_true(n >= time(NULL) - 60); /* numbers follow the clock */
	keep(&i, true);
	b = bundle_after(&r, n);
	assert_true(blocked(b, &i));
	km_bundle_free(b);
	assert_int_equal(authority_reissue(r.a, &again, i.pem, false, "x", key, &err), KM_EAUTH);
	assert_non_null(strstr(err.text, "revoked"));

	keep(&old, true);
	b = bundle_after(&r, authority_number(r.a));
	assert_true(blocked(b, &i) && blocked(b, &old));
	km_bundle_free(b);
	/* What the rows say of an end is of no weight. */
	fix_value(db, "UPDATE host_certificates SET not_after = now() - interval '9 years'; "
		      "SELECT km_trust_wanted()");
	b = bundle_after(&r, authority_number(r.a));
	assert_true(blocked(b, &i) && blocked(b, &old));
	km_bundle_free(b);
	fix_value(db, "TRUNCATE host_certificates; SELECT km_trust_wanted()");
	b = bundle_after(&r, authority_number(r.a));
	assert_true(blocked(b, &i) && blocked(b, &old));
	km_bundle_free(b);
	ended(&r);
	issued_free(&i);
	issued_free(&old);
}

static void what_ended_long_ago_leaves_the_blocklist(void **state)
{
	struct running r = running(90 * DAY);
	struct issued old = ancient(401);
	struct km_bundle *b;

	(void)state;
	keep(&old, false);
	fix_value(db, "UPDATE host_certificates SET blocked_at = now(), not_after = now(); "
		      "SELECT km_trust_wanted()");
	b = bundle_after(&r, authority_number(r.a));
	assert_true(blocked(b, &old));
	km_bundle_free(b);
	fix_value(db, "UPDATE host_certificates SET not_after = now() - interval '401 days'; "
		      "SELECT km_trust_wanted()");
	b = bundle_after(&r, authority_number(r.a));
	assert_false(blocked(b, &old));
	km_bundle_free(b);
	ended(&r);
	issued_free(&old);
}

/* A row that neither control nor the operator has made is not handed out. */
static void a_foreign_bundle_is_made_anew(void **state)
{
	static const char *const changes[] = {
	    "bundle = 'nonsense', number = number + 1",
	    "number = number + 5", /* the bundle is not of that number */
	    "number = number - 1",
	    "bundle = replace(bundle, 'A', 'B'), number = number + 1",
	};
	struct running r = running(90 * DAY);
	struct km_bundle *b;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(changes); i++) {
		int64_t n = authority_number(r.a);

		fix_value(db, text("UPDATE trust SET %s; SELECT pg_notify('km_changes', '')",
				   changes[i]));
		b = bundle_after(&r, n);
		km_bundle_free(b);
		assert_string_equal(fix_value(db, "SELECT bundle FROM trust"),
				    authority_bundle(r.a));
	}
	ended(&r);
}

/* ---- renewal ---- */

static void add_agent(const char *id, const char *name, int number, const struct issued *i)
{
	fix_value(db,
		  text("INSERT INTO agents (id, name, number, api_key_hash, api_key_prefix, "
		       "wireguard_public_key, certificate, certificate_fingerprint, "
		       "certificate_not_after) VALUES ('%s', '%s', %d, sha256('%s'), 'x', '%s', "
		       "'%s', '%s', '%s')",
		       id, name, number, id, i->key, i->pem, i->fingerprint, i->not_after));
}

static const char *fingerprint(const char *id)
{
	return fix_value(db,
			 text("SELECT certificate_fingerprint FROM agents WHERE id = '%s'", id));
}

/* In the order of ids: HOST is looked at before OTHER. */
static void what_is_due_is_renewed(void **state)
{
	struct running r = running(30 * DAY);
	struct issued i = issue(r.a, false, 256, key), j = issue(r.a, false, 257, key2);
	struct km_cert *c;

	(void)state;
	keep(&i, false);
	keep(&j, false);
	add_agent(HOST, "home", 256, &i);
	add_agent(OTHER, "other", 257, &j);
	authority_sweep(r.a); /* nothing is */
	fix_value(db,
		  "UPDATE agents SET name = 'renamed', certificate_due = true WHERE id = '" OTHER
		  "'");
	authority_sweep(r.a);
	fix_until(fix.base, strcmp(fingerprint(OTHER), j.fingerprint) != 0);
	assert_string_equal(fingerprint(HOST), i.fingerprint);
	c = parsed(fix_value(db, "SELECT certificate FROM agents WHERE id = '" OTHER "'"));
	assert_string_equal(c->name, "renamed");
	assert_memory_equal(c->public_key, key2, sizeof(key2));
	km_cert_free(c);
	assert_string_equal(fix_value(db, "SELECT count(*) FROM agents WHERE certificate_due"),
			    "0");
	ended(&r);

	/* With another lifetime 30 days are less than a third. A row that names another's
	 * certificate gets none, and is in nobody's way. */
	fix_value(db, text("UPDATE agents SET certificate = '%s' WHERE id = '" HOST "'", j.pem));
	r = running(100 * DAY);
	authority_sweep(r.a);
	fix_until(fix.base, strcmp(fix_value(db, "SELECT certificate_not_after > now() + interval "
						 "'99 days' FROM agents WHERE id = '" OTHER "'"),
				   "t") == 0);
	assert_string_equal(fingerprint(HOST), i.fingerprint);
	ended(&r);
	issued_free(&i);
	issued_free(&j);
}

static int64_t gauge(const char *name, const char *labels)
{
	return atomic_load(&km_metric(KM_METRIC_GAUGE, name, labels, "")->value);
}

/* As of the last look; looks again. */
static int64_t first_end(struct authority *a)
{
	authority_sweep(a);
	return gauge("kakuremichi_host_certificate_not_after_seconds", "");
}

/* The earliest end of the hosts' certificates, and each CA's, as metrics. */
static void ends_are_told(void **state)
{
	struct running r = running(90 * DAY);
	struct issued i = issue(r.a, false, 256, key);
	struct km_strlist fps = {NULL, 0};
	struct km_cert *c = parsed(i.pem), *ca;
	char label[96];

	(void)state;
	authority_fingerprints(r.a, &fps);
	snprintf(label, sizeof(label), "fingerprint=\"%s\"", fps.items[0]);
	ca = parsed(fix_value(db, "SELECT certificate FROM authorities"));
	assert_int_equal(gauge("kakuremichi_authority_not_after_seconds", label), ca->not_after);
	keep(&i, false);
	add_agent(HOST, "home", 256, &i);
	fix_until(fix.base, first_end(r.a) == c->not_after);
	fix_value(db, "UPDATE agents SET revoked_at = now()");
	fix_until(fix.base, first_end(r.a) == 0);
	ended(&r);
	km_cert_free(ca);
	km_cert_free(c);
	issued_free(&i);
	free(fps.items[0]);
	free(fps.items);
}

static void a_new_ca_takes_over(void **state)
{
	struct running r = running(90 * DAY);
	struct issued i = issue(r.a, false, 256, key);
	struct km_strlist fps = {NULL, 0};
	char mac[VAULT_TEXT_LEN], back[VAULT_TEXT_LEN];
	struct km_errtext err = {""};
	struct new_authority n;
	struct km_bundle *b;

	(void)state;
	keep(&i, false);
	add_agent(HOST, "home", 256, &i);
	authority_fingerprints(r.a, &fps);
	assert_int_equal(authority_make(r.a, &n, &err), 0);
	authority_mac(r.a, n.fingerprint, "active", mac);
	authority_mac(r.a, fps.items[0], "trusted", back);
	fix_value(db, text("BEGIN; UPDATE authorities SET state = 'trusted', mac = '%s'; "
			   "INSERT INTO authorities (fingerprint, certificate, sealed_key, state, "
			   "mac, not_after) VALUES ('%s', '%s', '%s', 'active', '%s', '%s'); "
			   "SELECT km_trust_wanted(); COMMIT",
			   back, n.fingerprint, n.pem, n.sealed, mac, n.not_after));
	fix_until(
	    fix.base,
	    strcmp(fix_value(db, "SELECT count(*) FROM host_certificates c JOIN agents a ON "
				 "a.certificate_fingerprint = c.fingerprint JOIN authorities t "
				 "ON t.fingerprint = c.authority WHERE t.state = 'active'"),
		   "1") == 0);
	fix_until(fix.base, strcmp(fix_value(db, "SELECT count(*) FROM authorities WHERE state = "
						 "'retired' AND sealed_key IS NULL"),
				   "1") == 0);
	b = bundle_after(&r, 0);
	while (b->n_cas != 1) {
		int64_t number = authority_number(r.a);

		km_bundle_free(b);
		b = bundle_after(&r, number);
	}
	assert_string_equal(fix_value(db, "SELECT count(*) FROM trust_steps"), "1");
	km_bundle_free(b);
	ended(&r);
	new_authority_free(&n);
	issued_free(&i);
	free(fps.items[0]);
	free(fps.items);
}

#define T(f) cmocka_unit_test_setup(f, setup)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(made_once_by_two_at_once),
	    T(a_changed_row_is_refused),
	    T(an_offline_ca),
	    T(what_a_number_gives),
	    T(what_is_issued),
	    T(what_was_blocked_stays_so),
	    T(what_ended_long_ago_leaves_the_blocklist),
	    T(a_foreign_bundle_is_made_anew),
	    T(what_is_due_is_renewed),
	    T(ends_are_told),
	    T(a_new_ca_takes_over),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
