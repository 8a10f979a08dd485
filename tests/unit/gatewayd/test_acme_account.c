/* SPDX-License-Identifier: MIT */
/* What is not an order: accounts, bindings, key changes, revocations, renewal information, nonces,
 * and jobs that wait for one another. */
#include "tests/unit/gatewayd/acme_ca.h"

static const char *const types[] = {"http-01", NULL};
static const char *const app[] = {"app.test"};

static struct acme_job *order(struct bench *b)
{
	struct acme_order_opts o = {.names = app,
				    .n_names = 1,
				    .key = b->key,
				    .challenges = types,
				    .ordered = bench_ordered,
				    .arg = b};
	struct acme_job *j;

	assert_int_equal(acme_order_new(&j, b->client, &o, NULL), 0);
	return j;
}

static char *chain_of(struct bench *b)
{
	struct acme_job *j = order(b);
	char *chain;

	assert_int_equal(bench_run(b, j), ACME_OK);
	chain = km_xstrdup(acme_job_chain(j));
	acme_job_free(j);
	return chain;
}

/* ---- the account ---- */

static void account(void **state)
{
	const char *const *issuers, *terms;
	struct bench b;
	bool ari;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){.email = "op@app.test"});
	assert_false(acme_client_directory(b.client, NULL, NULL, NULL));
	assert_null(acme_client_account_url(b.client));
	free(chain_of(&b));
	assert_string_equal(acme_client_account_url(b.client), CA "/acct/1");
	assert_string_equal(b.account, CA "/acct/1");
	assert_string_equal(b.ca.last_account_payload,
			    "{\"termsOfServiceAgreed\":true,\"contact\":[\"mailto:op@app.test\"]}");
	assert_true(acme_client_directory(b.client, &ari, &issuers, &terms));
	assert_true(ari);
	assert_string_equal(terms, CA "/terms");
	assert_string_equal(issuers[0], "ca.test");
	assert_string_equal(issuers[1], "ca2.test");
	assert_null(issuers[2]);
	bench_end(&b);
}

/* A known account costs no request; neither does the second order. */
static void known(void **state)
{
	struct acme_client *second;
	struct acme_client_opts o;
	struct bench b;
	int before;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	free(chain_of(&b));
	before = b.ca.n_requests;
	free(chain_of(&b));
	assert_true(b.ca.n_requests - before <= 7);
	assert_int_equal(b.n_accounts, 1);
	o = (struct acme_client_opts){
	    .directory = CA "/dir", .key = b.account_key, .account_url = b.account};
	assert_int_equal(acme_client_new(&second, &o, NULL), 0);
	acme_client_free(b.client);
	b.client = second;
	free(chain_of(&b));
	assert_int_equal(b.ca.account_no, 1);
	bench_end(&b);
}

static void binding(void **state)
{
	static const uint8_t mac[32] = "thirty-two bytes of a MAC key...";
	char text[KM_B64_LEN(32)];
	static const struct {
		const char *kid, *key;
		enum acme_cause cause;
		const char *text;
	} table[] = {{"kid-1", NULL, ACME_OK, NULL},
		     {"kid-2", NULL, ACME_ACCOUNT, "bad binding"},
		     {"kid-1", "c29tZXRoaW5nIGVsc2U", ACME_ACCOUNT, "bad binding"},
		     {"kid-1", "no base64url!", ACME_ACCOUNT, "no base64url"},
		     {"kid-1", "", ACME_ACCOUNT, "no base64url"}};

	(void)state;
	km_b64url(mac, 32, text);
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		struct bench b;
		struct acme_job *j;

		bench_begin(
		    &b, (struct acme_client_opts){.eab_kid = table[i].kid,
						  .eab_key = table[i].key ? table[i].key : text});
		b.ca.eab_mac = (const char *)mac;
		b.ca.meta = ",\"externalAccountRequired\":true";
		j = order(&b);
		assert_int_equal(bench_run(&b, j), table[i].cause);
		if (table[i].text)
			assert_non_null(strstr(acme_job_problem(j)->text, table[i].text));
		acme_job_free(j);
		bench_end(&b);
	}
}

static void bad_clients(void **state)
{
	EVP_PKEY *ec = EVP_EC_gen("P-256"), *p384 = EVP_EC_gen("P-384"), *rsa = EVP_RSA_gen(2048);
	struct acme_client *c;
	struct km_errtext err;
	const struct acme_client_opts bad[] = {{.directory = "http://ca.test/dir", .key = ec},
					       {.directory = "https://", .key = ec},
					       {.directory = "https://ca test/", .key = ec},
					       {.directory = CA "/dir", .key = p384},
					       {.directory = CA "/dir", .key = rsa},
					       {.directory = CA "/dir", .key = ec, .eab_kid = "x"}};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		assert_int_equal(acme_client_new(&c, &bad[i], &err), KM_EINVAL);
		assert_null(c);
	}
	EVP_PKEY_free(ec);
	EVP_PKEY_free(p384);
	EVP_PKEY_free(rsa);
}

/* ---- another key ---- */

static void rollover(void **state)
{
	static const struct {
		const char *name;
		struct fault faults[3];
		bool refuse;
		enum acme_cause cause;
		const char *text;
	} table[] = {
	    {"plain", {{NULL}}, false, ACME_OK, NULL},
	    {"the answer is lost",
	     {{"/change", .no_answer = true, .done_all_the_same = true}},
	     false,
	     ACME_OK,
	     NULL},
	    {"done before: 409 names our account",
	     {{"/change", .status = 409, .type = "malformed", .location = CA "/acct/1",
	       .done_all_the_same = true}},
	     false,
	     ACME_OK,
	     NULL},
	    {"409: another account has it",
	     {{"/change", .status = 409, .type = "malformed", .location = CA "/acct/9"}},
	     false,
	     ACME_ACCOUNT,
	     "by the test"},
	    {"refused",
	     {{"/change", .status = 403, .type = "unauthorized", .detail = "no change"}},
	     false,
	     ACME_ACCOUNT,
	     "no change"},
	    {"refused, and the new key is another account's",
	     {{"/change", .status = 400, .type = "malformed"},
	      {"/account", .status = 200, .body = "{}", .location = CA "/acct/7"}},
	     false,
	     ACME_PROTOCOL,
	     "changing the account's key: by the test"},
	    {"not offered", {{NULL}}, true, ACME_UNSUPPORTED, "no change of the account's key"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		EVP_PKEY *key = EVP_EC_gen("P-256");
		struct acme_job *j;
		struct bench b;
		enum acme_cause cause;

		bench_begin(&b, (struct acme_client_opts){0});
		b.ca.no_key_change = table[i].refuse;
		print_message("           %s\n", table[i].name);
		free(chain_of(&b));
		b.ca.faults = table[i].faults;
		assert_int_equal(acme_rollover_new(&j, b.client, key, NULL), 0);
		cause = bench_run(&b, j);
		assert_int_equal(cause, table[i].cause);
		if (table[i].text)
			assert_non_null(strstr(acme_job_problem(j)->text, table[i].text));
		acme_job_free(j);
		/* The CA checks by the account's key that is right now. */
		assert_int_equal(EVP_PKEY_eq(b.ca.account, cause ? b.account_key : key), 1);
		b.ca.faults = NULL;
		free(chain_of(&b));
		assert_int_equal(b.ca.account_no, 1);
		EVP_PKEY_free(key);
		bench_end(&b);
	}
}

static void rollover_first(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *rsa = EVP_RSA_gen(2048);
	struct acme_job *j;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	assert_int_equal(acme_rollover_new(&j, b.client, rsa, NULL), KM_EINVAL);
	assert_int_equal(acme_rollover_new(&j, b.client, b.account_key, NULL), KM_EINVAL);
	assert_int_equal(acme_rollover_new(&j, b.client, key, NULL),
			 0); /* before there is an account */
	assert_int_equal(bench_run(&b, j), ACME_OK);
	assert_int_equal(EVP_PKEY_eq(b.ca.account, key), 1);
	acme_job_free(j);
	EVP_PKEY_free(key);
	EVP_PKEY_free(rsa);
	bench_end(&b);
}

/* ---- revocation ---- */

static void revocation(void **state)
{
	EVP_PKEY *rsa = EVP_RSA_gen(2048);
	struct acme_job *j;
	struct bench b;
	char *chain, *by_rsa, *reason;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	chain = chain_of(&b);
	for (int again = 0; again <= 1; again++) { /* what is revoked already is well */
		assert_int_equal(acme_revoke_new(&j, b.client, chain, 4, NULL, NULL), 0);
		assert_int_equal(bench_run(&b, j), ACME_OK);
		assert_int_equal(json_integer_value(json_object_get(b.ca.last_payload, "reason")),
				 4);
		acme_job_free(j);
	}
	assert_int_equal(acme_revoke_new(&j, b.client, chain, 1, b.key, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_OK);
	acme_job_free(j);
	EVP_PKEY_free(b.key);
	EVP_PKEY_up_ref(b.key = rsa);
	by_rsa = chain_of(&b);
	assert_int_equal(acme_revoke_new(&j, b.client, by_rsa, 1, rsa, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_OK);
	acme_job_free(j);
	b.ca.faults =
	    (const struct fault[]){{"/revoke", .status = 403, .type = "unauthorized"}, {0}};
	assert_int_equal(acme_revoke_new(&j, b.client, chain, 1, NULL, NULL), 0);
	assert_true(bench_run(&b, j) != ACME_OK);
	reason = strstr(acme_job_problem(j)->text, "revoking");
	assert_non_null(reason);
	acme_job_free(j);
	assert_int_equal(acme_revoke_new(&j, b.client, "none", 1, NULL, NULL), KM_EINVAL);
	free(by_rsa);
	free(chain);
	EVP_PKEY_free(rsa);
	bench_end(&b);
}

static void revocation_not_offered(void **state)
{
	struct acme_job *j;
	struct bench b;
	char *chain;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	b.ca.no_revoke = true;
	chain = chain_of(&b);
	assert_int_equal(acme_revoke_new(&j, b.client, chain, 1, NULL, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_UNSUPPORTED);
	acme_job_free(j);
	free(chain);
	bench_end(&b);
}

/* ---- renewal information ---- */

#define HOUR 3600000LL
#define WINDOW(a, b) "{\"suggestedWindow\":{\"start\":\"" a "\",\"end\":\"" b "\"}}"
#define FINE WINDOW("2027-01-15T08:00:00Z", "2027-01-16T08:00:00.5+02:00")

static void renewal_info(void **state)
{
	static const struct {
		const char *name;
		struct fault f;
		enum acme_cause cause;
		int64_t again; /* clamped; or how long until the next try after a failure, 0: not
				  said */
	} table[] = {
	    {"an hour",
	     {"/ari/", .status = 200, .body = FINE, .retry_after = "3600"},
	     ACME_OK,
	     HOUR},
	    {"too soon",
	     {"/ari/", .status = 200, .body = FINE, .retry_after = "1"},
	     ACME_OK,
	     60000},
	    {"too late",
	     {"/ari/", .status = 200, .body = FINE, .retry_after = "864000"},
	     ACME_OK,
	     24 * HOUR},
	    {"none said", {"/ari/", .status = 200, .body = FINE}, ACME_OK, 6 * HOUR},
	    {"nonsense said",
	     {"/ari/", .status = 200, .body = FINE, .retry_after = "soon"},
	     ACME_OK,
	     6 * HOUR},
	    {"a window that ends before",
	     {"/ari/", .status = 200,
	      .body = WINDOW("2027-01-15T08:00:00Z", "2027-01-15T07:00:00Z")},
	     ACME_PROTOCOL,
	     6 * HOUR},
	    {"an empty window",
	     {"/ari/", .status = 200,
	      .body = WINDOW("2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z")},
	     ACME_PROTOCOL,
	     6 * HOUR},
	    {"no times",
	     {"/ari/", .status = 200, .body = WINDOW("soon", "later")},
	     ACME_PROTOCOL,
	     6 * HOUR},
	    {"no window",
	     {"/ari/", .status = 200, .body = "{\"suggestedWindow\":[1]}"},
	     ACME_PROTOCOL,
	     6 * HOUR},
	    {"no JSON", {"/ari/", .status = 200, .body = "hello"}, ACME_NETWORK, 6 * HOUR},
	    {"unknown", {"/ari/", .status = 404, .type = "malformed"}, ACME_PROTOCOL, 6 * HOUR},
	    {"500", {"/ari/", .times = 99, .status = 500, .body = "x"}, ACME_NETWORK, 0},
	    {"503 with a time",
	     {"/ari/", .status = 503, .body = "x", .retry_after = "7200"},
	     ACME_RATE_LIMITED,
	     2 * HOUR},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		struct fault faults[2] = {table[i].f, {0}};
		const struct acme_problem *p;
		const struct acme_ari *ari;
		struct acme_job *j;
		struct bench b;

		bench_begin(&b, (struct acme_client_opts){0});
		b.ca.faults = faults;
		print_message("           %s\n", table[i].name);
		assert_int_equal(
		    acme_ari_new(&j, b.client, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", NULL), 0);
		assert_int_equal(bench_run(&b, j), table[i].cause);
		assert_int_equal(b.n_accounts, 0); /* anybody may ask */
		ari = acme_job_ari(j);
		p = acme_job_problem(j);
		assert_true(!ari == !!table[i].cause);
		if (ari) {
			assert_int_equal(ari->start_ms, 1800000000000);
			assert_int_equal(ari->end_ms, 1800079200500);
			assert_int_equal(ari->again_ms, table[i].again);
		} else if (table[i].again) {
			assert_in_range(p->retry_at_ms - WALL, table[i].again,
					table[i].again + 10000);
		} else {
			assert_int_equal(p->retry_at_ms, 0);
		}
		acme_job_free(j);
		bench_end(&b);
	}
}

static void renewal_info_asked(void **state)
{
	static const char *const bad[] = {"", ".", "a.", ".b", "nodot", "a.b/../c", "a.b c"};
	const struct acme_ari *ari;
	struct acme_job *j;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_int_equal(acme_ari_new(&j, b.client, bad[i], NULL), KM_EINVAL);
	b.ca.ari_start = WALL;
	b.ca.ari_end = WALL + HOUR;
	assert_int_equal(acme_ari_new(&j, b.client, "aYhb.AIdlQyE", NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_OK);
	ari = acme_job_ari(j);
	assert_int_equal(ari->end_ms - ari->start_ms, HOUR);
	assert_string_equal(ari->explanation, CA "/why");
	acme_job_free(j);
	bench_end(&b);
	bench_begin(&b, (struct acme_client_opts){0});
	b.ca.no_ari = true;
	assert_int_equal(acme_ari_new(&j, b.client, "aYhb.AIdlQyE", NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_UNSUPPORTED);
	acme_job_free(j);
	bench_end(&b);
}

/* ---- jobs that wait for one another ---- */

static enum acme_want step(struct bench *b, struct acme_job *j, struct acme_next *n)
{
	acme_job_next(j, b->now, WALL + b->now, n);
	return n->want;
}

static void answer(struct bench *b, struct acme_job *j, struct acme_next *n, bool at_all)
{
	const struct acme_answer none = {.failed = "connection refused"}, *a = &none;

	if (at_all)
		a = ca_ask(&b->ca, &n->request);
	acme_request_clear(&n->request);
	acme_job_answer(j, a, b->now, WALL + b->now);
}

static void waiters(void **state)
{
	struct acme_job *one, *two;
	struct acme_next n, m;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	one = order(&b);
	two = order(&b);
	/* The directory is read once. */
	assert_int_equal(step(&b, one, &n), ACME_REQUEST);
	assert_string_equal(n.request.url, CA "/dir");
	assert_int_equal(step(&b, two, &m), ACME_WAIT);
	assert_true(m.until_ms == INT64_MAX);
	answer(&b, one, &n, true);
	assert_int_equal(b.n_changed, 1);
	/* The second comes first to the account now; it goes away in the middle, and the first
	 * makes it. */
	assert_int_equal(step(&b, two, &n), ACME_REQUEST);
	assert_int_equal(n.request.method, ACME_POST);
	assert_string_equal(n.request.url, CA "/account");
	acme_request_clear(&n.request);
	assert_int_equal(step(&b, one, &m), ACME_WAIT);
	acme_job_free(two);
	assert_int_equal(b.n_changed, 2);
	assert_int_equal(bench_run(&b, one), ACME_OK);
	assert_int_equal(b.n_accounts, 1);
	acme_job_free(one);
	bench_end(&b);
}

static void waiters_fail_together(void **state)
{
	struct acme_job *one, *two, *three;
	struct acme_next n;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	one = order(&b);
	two = order(&b);
	for (int i = 0;; i++) {
		assert_true(i < 10);
		if (step(&b, one, &n) == ACME_REQUEST)
			answer(&b, one, &n, false);
		else if (n.want == ACME_WAIT)
			b.now = n.until_ms;
		else
			break;
		if (i < 3)
			assert_int_equal(step(&b, two, &n), ACME_WAIT);
	}
	assert_int_equal(n.want, ACME_FAILED);
	assert_int_equal(b.n_changed, 1);
	assert_int_equal(step(&b, two, &n), ACME_FAILED);
	assert_string_equal(acme_job_problem(two)->text, acme_job_problem(one)->text);
	assert_int_equal(acme_job_problem(two)->cause, ACME_NETWORK);
	assert_false(acme_job_problem(two)->reached);
	/* Who comes later tries for itself. */
	three = order(&b);
	assert_int_equal(bench_run(&b, three), ACME_OK);
	acme_job_free(one);
	acme_job_free(two);
	acme_job_free(three);
	bench_end(&b);
}

/* The directory is read again after a day. */
static void stale_directory(void **state)
{
	struct acme_job *j;
	struct acme_next n;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	free(chain_of(&b));
	j = order(&b);
	assert_int_equal(step(&b, j, &n), ACME_REQUEST);
	assert_string_equal(n.request.url, CA "/order");
	acme_request_clear(&n.request);
	acme_job_free(j);
	b.now += 25 * HOUR;
	j = order(&b);
	assert_int_equal(step(&b, j, &n), ACME_REQUEST);
	assert_string_equal(n.request.url, CA "/dir");
	acme_request_clear(&n.request);
	acme_job_free(j);
	bench_end(&b);
}

/* An account that another job has found gone, and made anew, is not made twice. */
static void gone_for_two(void **state)
{
	struct acme_job *one, *two;
	struct acme_next n, m;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	free(chain_of(&b));
	EVP_PKEY_free(b.ca.account);
	b.ca.account = NULL;
	one = order(&b);
	two = order(&b);
	assert_int_equal(step(&b, one, &n), ACME_REQUEST);
	assert_int_equal(step(&b, two, &m), ACME_REQUEST);
	answer(&b, one, &n, true);
	assert_int_equal(bench_run(&b, one), ACME_OK);
	answer(&b, two, &m, true);
	assert_int_equal(bench_run(&b, two), ACME_OK);
	assert_int_equal(b.ca.account_no, 2);
	assert_int_equal(b.n_lost, 1);
	acme_job_free(one);
	acme_job_free(two);
	bench_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(account),         cmocka_unit_test(known),
	    cmocka_unit_test(binding),         cmocka_unit_test(bad_clients),
	    cmocka_unit_test(rollover),        cmocka_unit_test(rollover_first),
	    cmocka_unit_test(revocation),      cmocka_unit_test(revocation_not_offered),
	    cmocka_unit_test(renewal_info),    cmocka_unit_test(renewal_info_asked),
	    cmocka_unit_test(waiters),         cmocka_unit_test(waiters_fail_together),
	    cmocka_unit_test(stale_directory), cmocka_unit_test(gone_for_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
