/* SPDX-License-Identifier: MIT */
/* Orders against a CA of the test's own (acme_ca.h): a table of what it does, and what comes of it.
 */
#include "tests/unit/gatewayd/acme_ca.h"

static const char *const all_types[] = {"tls-alpn-01", "http-01", "dns-01", NULL};
static const char *const http_only[] = {"http-01", NULL};
static const char *const persist[] = {"dns-persist-01", "dns-01", NULL};

struct scenario {
	const char *name;
	const char *names[4];     /* {"app.test"} by default */
	const char *const *types; /* all by default */
	const char *profile, *chain, *replaces;
	struct fault faults[5];
	/* the CA */
	const char *meta, *fail_types, *fail_error, *offers, *wrong_name, *junk;
	bool reuse, no_ari, wrong_key, hint;
	int slow, extra_certs;
	const char *refuse_type;
	/* what comes of it */
	enum acme_cause cause;
	const char *text, *type; /* in the problem's */
	const char *presented;
	const char *payload, *no_payload; /* in the last newOrder, and not in it */
	const char *in_chain;             /* common name of the last one's issuer */
	int orders, accounts, waits;      /* 0: one, one, anything */
	int64_t retry_at;
};

static const struct scenario scenarios[] = {
    {.name = "plain",
     .presented = "tls-alpn-01 app.test; ",
     .payload = "{\"identifiers\":[{\"type\":\"dns\",\"value\":\"app.test\"}]}"},
    {.name = "hint: no wait before the verdict",
     .hint = true,
     .presented = "tls-alpn-01 app.test; ",
     .waits = -1},
    {.name = "several names",
     .names = {"app.test", "www.app.test"},
     .types = http_only,
     .presented = "http-01 app.test; http-01 www.app.test; "},
    {.name = "wildcard: dns alone",
     .names = {"app.test", "*.app.test"},
     .presented = "tls-alpn-01 app.test; dns-01 *.app.test; "},
    {.name = "an address",
     .names = {"192.0.2.7"},
     .types = http_only,
     .presented = "http-01 192.0.2.7; ",
     .payload = "\"type\":\"ip\""},
    {.name = "an IPv6 address",
     .names = {"2001:db8::7"},
     .types = http_only,
     .presented = "http-01 2001:db8::7; "},
    {.name = "authorizations of before", .reuse = true, .presented = ""},
    {.name = "authorizations of before, the order not ready at once",
     .reuse = true,
     .faults = {{"/order", .truly = true}},
     .presented = ""},
    {.name = "slow", .slow = 6, .presented = "tls-alpn-01 app.test; "},
    {.name = "too slow to decide",
     .slow = 1000,
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_NETWORK,
     .text = "not looked at the challenge"},
    {.name = "dns-persist-01",
     .types = persist,
     .offers = " dns-persist-01 dns-01 ",
     .presented = "dns-persist-01 app.test; "},

    /* validation */
    {.name = "the next type in a new order",
     .fail_types = " tls-alpn-01 ",
     .presented = "tls-alpn-01 app.test; http-01 app.test; ",
     .orders = 2},
    {.name = "every type fails",
     .fail_types = " tls-alpn-01 http-01 dns-01 ",
     .fail_error = "dns",
     .presented = "tls-alpn-01 app.test; http-01 app.test; dns-01 app.test; ",
     .orders = 3,
     .cause = ACME_VALIDATION,
     .type = "dns",
     .text = "app.test by dns-01: no luck with [token]! (dns)"},
    {.name = "CAA stands against every type",
     .fail_types = " tls-alpn-01 ",
     .fail_error = "caa",
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_VALIDATION,
     .type = "caa"},
    {.name = "rejected in the end",
     .fail_types = " tls-alpn-01 ",
     .fail_error = "rejectedIdentifier",
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_REJECTED},
    {.name = "one name fails, the other keeps its type",
     .names = {"app.test", "*.app.test"},
     .fail_types = " tls-alpn-01 ",
     .orders = 2,
     .presented = "tls-alpn-01 app.test; dns-01 *.app.test; http-01 app.test; dns-01 *.app.test; "},
    {.name = "cannot be put up: the next one in the same order",
     .refuse_type = "tls-alpn-01",
     .presented = "tls-alpn-01 app.test; http-01 app.test; "},
    {.name = "none can be put up",
     .types = http_only,
     .refuse_type = "http-01",
     .presented = "http-01 app.test; ",
     .cause = ACME_LOCAL,
     .text = "could not put it up"},
    {.name = "none offered",
     .types = http_only,
     .offers = " dns-01 x-02 ",
     .presented = "",
     .cause = ACME_UNSUPPORTED,
     .text = "dns-01, x-02 for app.test"},
    {.name = "a challenge that has been told before",
     .faults = {{"/chall/", .status = 400, .type = "malformed", .done_all_the_same = true}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "a challenge, rate limited",
     .faults = {{"/chall/", .status = 429, .type = "rateLimited", .retry_after = "7200"}},
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_RATE_LIMITED,
     .retry_at = 7200000},

    /* nonces and passing troubles */
    {.name = "bad nonces",
     .faults = {{"/order", .times = 3, .status = 400, .type = "badNonce"},
		{"/authz/", .status = 400, .type = "badNonce", .no_nonce = true}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "every nonce is bad",
     .faults = {{"/order", .times = 99, .status = 400, .type = "badNonce"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_NETWORK,
     .text = "refuses every nonce"},
    {.name = "no nonces with answers",
     .faults = {{"/", .times = 99, .truly = true, .no_nonce = true}, {"/nonce", .skip = 99}},
     .presented = "",
     .orders = -1,
     .accounts = -1,
     .cause = ACME_NETWORK,
     .text = "no nonce"},
    {.name = "no answer, then one",
     .faults = {{"/dir", .times = 2, .no_answer = true},
		{"/order", .no_answer = true, .done_all_the_same = true}},
     .presented = "tls-alpn-01 app.test; ",
     .orders = 2},
    {.name = "never an answer",
     .faults = {{"/dir", .times = 99, .no_answer = true}},
     .presented = "",
     .orders = -1,
     .accounts = -1,
     .cause = ACME_NETWORK,
     .text = "connection reset"},
    {.name = "500",
     .faults = {{"/finalize/", .times = 2, .status = 500, .type = "serverInternal"}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "502 of a proxy",
     .faults = {{"/order", .times = 99, .status = 502, .body = "<html>no</html>"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_NETWORK,
     .text = "HTTP status 502"},
    {.name = "503 with a short time",
     .faults = {{"/order", .status = 503, .body = "busy", .retry_after = "10"}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "503 with a long one",
     .faults = {{"/order", .status = 503, .body = "busy", .retry_after = "600"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_RATE_LIMITED,
     .retry_at = 600000},
    {.name = "429",
     .faults = {{"/order", .status = 429, .type = "rateLimited", .detail = "too many\\u0007 orders",
		 .retry_after = "3600"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_RATE_LIMITED,
     .type = "rateLimited",
     .text = "too many  orders",
     .retry_at = 3600000},
    {.name = "a page of something else",
     .faults = {{"/dir", .status = 200, .body = "<html>welcome</html>"}},
     .presented = "",
     .orders = -1,
     .accounts = -1,
     .cause = ACME_NETWORK,
     .text = "no ACME server"},
    {.name = "a redirect",
     .faults = {{"/dir", .status = 302, .body = ""}},
     .presented = "",
     .orders = -1,
     .accounts = -1,
     .cause = ACME_PROTOCOL,
     .text = "302"},

    /* the account */
    {.name = "forgotten before the order",
     .faults = {{"/order", .status = 400, .type = "accountDoesNotExist"}},
     .presented = "tls-alpn-01 app.test; ",
     .accounts = 2},
    {.name = "forgotten in the middle",
     .faults = {{"/finalize/", .status = 400, .type = "accountDoesNotExist"}},
     .presented = "tls-alpn-01 app.test; tls-alpn-01 app.test; ",
     .accounts = 2,
     .orders = 2},
    {.name = "forgotten for ever",
     .faults = {{"/order", .times = 99, .status = 400, .type = "accountDoesNotExist"}},
     .presented = "",
     .accounts = 2,
     .orders = -1,
     .cause = ACME_ACCOUNT},
    {.name = "terms",
     .faults = {{"/account", .status = 403, .type = "userActionRequired", .detail = "new terms"}},
     .presented = "",
     .accounts = -1,
     .orders = -1,
     .cause = ACME_ACCOUNT,
     .text = "the account: new terms"},
    {.name = "the account has no URL",
     .faults = {{"/account", .truly = true, .location = ""}},
     .presented = "",
     .accounts = -1,
     .orders = -1,
     .cause = ACME_PROTOCOL},
    {.name = "the account's URL is no https",
     .faults = {{"/account", .truly = true, .location = "http://ca.test/acct/1"}},
     .presented = "",
     .accounts = -1,
     .orders = -1,
     .cause = ACME_PROTOCOL},
    {.name = "binding wanted, none set",
     .meta = ",\"externalAccountRequired\":true",
     .presented = "",
     .accounts = -1,
     .orders = -1,
     .cause = ACME_ACCOUNT,
     .text = "acme_eab_file"},

    /* what is asked for */
    {.name = "a profile that is offered",
     .profile = "short",
     .meta = ",\"profiles\":{\"short\":\"x\"}",
     .presented = "tls-alpn-01 app.test; ",
     .payload = "\"profile\":\"short\""},
    {.name = "one that is not",
     .profile = "short",
     .meta = ",\"profiles\":{\"long\":\"x\"}",
     .presented = "tls-alpn-01 app.test; ",
     .no_payload = "profile"},
    {.name = "a profile that is refused",
     .profile = "short",
     .meta = ",\"profiles\":{\"short\":\"x\"}",
     .faults = {{"/order", .status = 400, .type = "invalidProfile"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_ACCOUNT},
    {.name = "replaces",
     .replaces = "a.b",
     .presented = "tls-alpn-01 app.test; ",
     .payload = "\"replaces\":\"a.b\""},
    {.name = "replaces without renewal information",
     .replaces = "a.b",
     .no_ari = true,
     .presented = "tls-alpn-01 app.test; ",
     .no_payload = "replaces"},
    {.name = "already replaced",
     .replaces = "a.b",
     .faults = {{"/order", .status = 409, .type = "alreadyReplaced"}},
     .presented = "tls-alpn-01 app.test; ",
     .no_payload = "replaces"},
    {.name = "a predecessor that the CA does not know",
     .replaces = "a.b",
     .faults = {{"/order", .status = 404, .type = "malformed"}},
     .presented = "tls-alpn-01 app.test; ",
     .no_payload = "replaces"},
    {.name = "a name that it does not take",
     .faults = {{"/order", .status = 400,
		 .body = "{\"type\":\"" URN
			 "malformed\",\"detail\":\"some names\",\"subproblems\":[{\"type\":\"" URN
			 "rejectedIdentifier\",\"detail\":\"forbidden\",\"identifier\":{\"type\":"
			 "\"dns\",\"value\":\"app.test\"}}]}"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_REJECTED,
     .type = "rejectedIdentifier",
     .text = "some names; app.test: forbidden"},

    /* the order's end */
    {.name = "not ready after all",
     .faults = {{"/finalize/", .status = 403, .type = "orderNotReady"}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "never ready",
     .faults = {{"/finalize/", .times = 99, .status = 403, .type = "orderNotReady"}},
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_PROTOCOL,
     .type = "orderNotReady"},
    {.name = "the answer to finalize is lost",
     .faults = {{"/finalize/", .no_answer = true, .done_all_the_same = true}},
     .presented = "tls-alpn-01 app.test; "},
    {.name = "a bad request",
     .faults = {{"/finalize/", .status = 400, .type = "badCSR"}},
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_LOCAL,
     .type = "badCSR"},
    {.name = "the order's URL is no https",
     .faults = {{"/order", .truly = true, .location = "ftp://x/"}},
     .presented = "",
     .cause = ACME_PROTOCOL},
    {.name = "another order than asked for",
     .faults = {{"/order", .status = 201, .location = CA "/order/0",
		 .body = "{\"status\":\"pending\",\"identifiers\":[{\"type\":\"dns\",\"value\":"
			 "\"evil.test\"}],\"authorizations\":[\"" CA
			 "/authz/0/0\"],\"finalize\":\"" CA "/finalize/0\"}"}},
     .presented = "",
     .orders = -1,
     .cause = ACME_PROTOCOL,
     .text = "identifiers"},
    {.name = "an authorization of another name",
     .faults = {{"/authz/", .status = 200,
		 .body = "{\"status\":\"pending\",\"identifier\":{\"type\":\"dns\",\"value\":"
			 "\"evil.test\"},\"challenges\":[]}"}},
     .presented = "",
     .cause = ACME_PROTOCOL,
     .text = "another name"},
    {.name = "a token that is none",
     .faults = {{"/authz/", .status = 200,
		 .body = "{\"status\":\"pending\",\"identifier\":{\"type\":\"dns\",\"value\":\"app."
			 "test\"},\"challenges\":[{\"type\":\"http-01\","
			 "\"url\":\"" CA "/chall/0/0/http-01\",\"token\":\"../../etc\"}]}"}},
     .presented = "",
     .cause = ACME_PROTOCOL,
     .text = "token"},
    {.name = "an order with an authorization that is dead: another order",
     .faults = {{"/authz/", .status = 200,
		 .body = "{\"status\":\"deactivated\",\"identifier\":{\"type\":\"dns\",\"value\":"
			 "\"app.test\"},\"challenges\":[]}"}},
     .presented = "tls-alpn-01 app.test; ",
     .orders = 2},
    {.name = "dead for ever",
     .faults = {{"/authz/", .times = 99, .status = 200,
		 .body = "{\"status\":\"expired\",\"identifier\":{\"type\":\"dns\",\"value\":\"app."
			 "test\"},\"challenges\":[]}"}},
     .presented = "",
     .orders = 6,
     .cause = ACME_VALIDATION,
     .text = "expired"},

    /* the chain */
    {.name = "the default chain",
     .chain = "root one",
     .presented = "tls-alpn-01 app.test; ",
     .in_chain = "root one"},
    {.name = "the other",
     .chain = "root two",
     .presented = "tls-alpn-01 app.test; ",
     .in_chain = "root two"},
    {.name = "none such: the default",
     .chain = "root three",
     .presented = "tls-alpn-01 app.test; ",
     .in_chain = "root one"},
    {.name = "the other cannot be had",
     .chain = "root two",
     .faults = {{"/cert/", .skip = 1, .status = 404, .type = "malformed"}},
     .presented = "tls-alpn-01 app.test; ",
     .in_chain = "root one"},
    {.name = "a certificate for another name",
     .wrong_name = "evil.test",
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_PROTOCOL,
     .text = "does not name app.test"},
    {.name = "for another key",
     .wrong_key = true,
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_PROTOCOL,
     .text = "another key"},
    {.name = "too long a chain",
     .extra_certs = 20,
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_PROTOCOL,
     .text = "more than 10"},
    {.name = "no chain",
     .faults = {{"/cert/", .status = 200, .body = "hello"}},
     .presented = "tls-alpn-01 app.test; ",
     .cause = ACME_PROTOCOL,
     .text = "no chain"},
    {.name = "a comment before it",
     .junk = "-----BEGIN NOTE-----\nAAAA\n-----END NOTE-----\n",
     .presented = "tls-alpn-01 app.test; "},
};

static struct acme_order_opts opts_of(const struct scenario *s, struct bench *b)
{
	static const char *const app[] = {"app.test"};
	struct acme_order_opts o = {.names = s->names[0] ? s->names : app,
				    .n_names = 1,
				    .key = b->key,
				    .challenges = s->types ? s->types : all_types,
				    .profile = s->profile,
				    .chain = s->chain,
				    .replaces = s->replaces,
				    .ordered = bench_ordered,
				    .arg = b};

	while (s->names[0] && o.n_names < 4 && s->names[o.n_names])
		o.n_names++;
	return o;
}

static void ca_as(struct ca *ca, const struct scenario *s)
{
	ca->faults = s->faults;
	ca->meta = s->meta;
	ca->fail_types = s->fail_types;
	ca->fail_error = s->fail_error;
	ca->offers = s->offers;
	ca->wrong_name = s->wrong_name;
	ca->wrong_key = s->wrong_key;
	ca->junk = s->junk;
	ca->reuse = s->reuse;
	ca->no_ari = s->no_ari;
	ca->slow = s->slow;
	ca->extra_certs = s->extra_certs;
}

static int count(int said)
{
	return said < 0 ? 0 : said ? said : 1;
}

static void check_chain(const struct scenario *s, struct bench *b, const char *pem)
{
	BIO *in = BIO_new_mem_buf(pem, -1);
	X509 *leaf = PEM_read_bio_X509(in, NULL, NULL, NULL),
	     *next = PEM_read_bio_X509(in, NULL, NULL, NULL);
	char cn[100];

	assert_memory_equal(pem, "-----BEGIN CERTIFICATE-----", 27);
	assert_int_equal(X509_check_private_key(leaf, b->key), 1);
	X509_NAME_get_text_by_NID(X509_get_issuer_name(next), NID_commonName, cn, sizeof(cn));
	assert_string_equal(cn, s->in_chain ? s->in_chain : "root one");
	X509_free(leaf);
	X509_free(next);
	BIO_free(in);
}

static void check_outcome(const struct scenario *s, struct bench *b, struct acme_job *j,
			  enum acme_cause cause)
{
	const struct acme_problem *p = acme_job_problem(j);
	int64_t at = p->retry_at_ms - WALL;

	if (cause != s->cause)
		fail_msg("%s: %s: %s", s->name, acme_cause_str(cause), p->text);
	assert_int_equal(b->ca.n_orders, count(s->orders));
	assert_int_equal(b->n_accounts, count(s->accounts));
	assert_string_equal(b->presented, s->presented);
	if (s->text)
		assert_non_null(strstr(p->text, s->text));
	if (s->type)
		assert_string_equal(p->type, s->type);
	if (s->payload)
		assert_non_null(strstr(b->ca.last_order_payload, s->payload));
	if (s->no_payload)
		assert_null(strstr(b->ca.last_order_payload, s->no_payload));
	if (s->waits)
		assert_int_equal(b->waits, count(s->waits));
	if (s->retry_at)
		assert_in_range(at, s->retry_at, s->retry_at + 20000);
	for (const char *t = p->text; *t; t++)
		assert_true((unsigned char)*t >= ' ');
	assert_true(!cause || p->reached == (b->ca.n_orders > 0) ||
		    s->faults[0].done_all_the_same || s->faults[0].status == 201);
	if (!cause)
		check_chain(s, b, acme_job_chain(j));
	else
		assert_null(acme_job_chain(j));
}

static void all_scenarios(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(scenarios); i++) {
		const struct scenario *s = &scenarios[i];
		struct km_errtext err = {""};
		struct acme_order_opts o;
		struct acme_job *j;
		struct bench b;

		bench_begin(&b, (struct acme_client_opts){.email = "op@app.test"});
		ca_as(&b.ca, s);
		b.hint = s->hint;
		b.refuse_type = s->refuse_type;
		o = opts_of(s, &b);
		print_message("           %s\n", s->name);
		assert_int_equal(acme_order_new(&j, b.client, &o, &err), 0);
		check_outcome(s, &b, j, bench_run(&b, j));
		acme_job_free(j);
		bench_end(&b);
	}
}

/* ---- after a restart ---- */

/* An order is made and goes on until `steps` answers have come; then another client, same account,
 * resumes it. */
static void resume_after(int steps, bool same_key, const char *order_url, int orders)
{
	static const struct scenario plain = {.types = http_only};
	struct acme_order_opts o;
	struct acme_next n;
	struct acme_job *j;
	struct bench b;
	struct acme_client *second;
	struct acme_client_opts co;
	EVP_PKEY *other = EVP_EC_gen("P-256");

	bench_begin(&b, (struct acme_client_opts){0});
	b.ca.slow = 1;
	o = opts_of(&plain, &b);
	assert_int_equal(acme_order_new(&j, b.client, &o, NULL), 0);
	while (steps) {
		acme_job_next(j, b.now, WALL + b.now, &n);
		if (n.want == ACME_REQUEST) {
			acme_job_answer(j, ca_ask(&b.ca, &n.request), b.now, WALL + b.now);
			acme_request_clear(&n.request);
			steps--;
		} else if (n.want == ACME_PRESENT) {
			acme_job_presented(j, true, NULL);
		} else if (n.want == ACME_WAIT) {
			b.now = n.until_ms;
		} else {
			break;
		}
	}
	acme_job_free(j);
	co = (struct acme_client_opts){
	    .directory = CA "/dir", .key = b.account_key, .account_url = b.account};
	assert_int_equal(acme_client_new(&second, &co, NULL), 0);
	o.key = same_key ? b.key : other;
	o.order_url = order_url ? order_url : *b.order ? b.order : NULL;
	assert_int_equal(acme_order_new(&j, second, &o, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_OK);
	if (orders)
		assert_int_equal(b.ca.n_orders, orders);
	assert_true(b.n_accounts <= 1);
	acme_job_free(j);
	acme_client_free(second);
	EVP_PKEY_free(other);
	bench_end(&b);
}

static void resumed(void **state)
{
	(void)state;
	/* directory, nonce, account, order, authorization, challenge, polls, finalize, polls, chain
	 */
	for (int steps = 4; steps < 14; steps++)
		resume_after(steps, true, NULL, 1);
	/* With the key gone, an order that was finalized is of no use. */
	for (int steps = 4; steps < 8; steps++)
		resume_after(steps, false, NULL, 1);
	resume_after(9, false, NULL, 2);
	resume_after(13, false, NULL, 2);
	resume_after(5, true, CA "/order/99", 2);
	resume_after(5, true, CA "/dir", 2);
	resume_after(5, true, "nonsense", 2);
}

static void resumed_invalid(void **state)
{
	static const struct scenario plain = {.types = http_only};
	struct acme_order_opts o;
	struct acme_job *j;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	o = opts_of(&plain, &b);
	b.ca.fail_types = " http-01 ";
	assert_int_equal(acme_order_new(&j, b.client, &o, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_VALIDATION);
	acme_job_free(j);
	b.ca.fail_types = NULL;
	o.order_url = CA "/order/0";
	assert_int_equal(acme_order_new(&j, b.client, &o, NULL), 0);
	assert_int_equal(bench_run(&b, j), ACME_OK);
	acme_job_free(j);
	bench_end(&b);
}

/* ---- how the CA is polled ---- */

static void polling(void **state)
{
	static const int64_t plain[] = {100, 200, 400, 800, 1600, 3000, 3000};
	static const struct fault retry[] = {
	    {"/order/", .times = 99, .truly = true, .retry_after = "7"}, {0}};
	static const struct scenario s = {.types = http_only};

	(void)state;
	for (int asked = 0; asked <= 1; asked++) {
		struct acme_order_opts o;
		struct acme_next n;
		struct acme_job *j;
		struct bench b;
		size_t waits = 0;

		bench_begin(&b, (struct acme_client_opts){0});
		b.ca.slow = 7;
		b.ca.faults = asked ? retry : NULL;
		o = opts_of(&s, &b);
		assert_int_equal(acme_order_new(&j, b.client, &o, NULL), 0);
		for (;;) {
			acme_job_next(j, b.now, WALL + b.now, &n);
			if (n.want == ACME_REQUEST) {
				acme_job_answer(j, ca_ask(&b.ca, &n.request), b.now, WALL + b.now);
				acme_request_clear(&n.request);
			} else if (n.want == ACME_PRESENT) {
				acme_job_presented(j, true, NULL);
			} else if (n.want == ACME_WAIT && waits < KM_ARRAY_LEN(plain)) {
				assert_int_equal(n.until_ms - b.now,
						 asked && waits ? 7000 : plain[waits]);
				b.now = n.until_ms;
				waits++;
			} else {
				break;
			}
		}
		assert_int_equal(waits, KM_ARRAY_LEN(plain));
		/* The CA has looked: the next poll comes at once, and then soon again; a few times
		 * only. */
		if (!asked && n.want == ACME_WAIT)
			for (int i = 0; i < 5; i++) {
				acme_job_hint(j);
				acme_job_next(j, b.now, WALL + b.now, &n);
				assert_int_equal(n.want, i < 3 ? ACME_REQUEST : ACME_WAIT);
				acme_request_clear(&n.request);
				if (i < 3) {
					struct acme_request r = {.method = ACME_HEAD,
								 .url = (char *)CA "/nonce"};
					struct acme_answer a = *ca_ask(&b.ca, &r);

					a.body =
					    "{\"status\":\"pending\",\"identifiers\":[{\"type\":"
					    "\"dns\",\"value\":"
					    "\"app.test\"}],\"authorizations\":[\"" CA
					    "/authz/0/0\"],\"finalize\":\"" CA "/finalize/0\"}";
					a.n = strlen(a.body);
					acme_job_answer(j, &a, b.now, WALL + b.now);
				}
			}
		acme_job_free(j);
		bench_end(&b);
	}
}

static void bad_orders(void **state)
{
	static const struct {
		const char *names[2];
	} bad[] = {{{""}},
		   {{"test"}},
		   {{"App.test"}},
		   {{"a..test"}},
		   {{"*.*.test"}},
		   {{"-a.test"}},
		   {{"a b.test"}},
		   {{"a.test."}},
		   {{"*.192.0.2.1x y"}},
		   {{"a.test\n.b"}},
		   {{"a.test", "a.test"}}};
	struct acme_order_opts o = {.challenges = all_types, .n_names = 1};
	struct km_errtext err;
	struct acme_job *j;
	struct bench b;

	(void)state;
	bench_begin(&b, (struct acme_client_opts){0});
	o.key = b.key;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		o.names = bad[i].names;
		o.n_names = bad[i].names[1] ? 2 : 1;
		assert_int_equal(acme_order_new(&j, b.client, &o, &err), KM_EINVAL);
		assert_null(j);
	}
	o.n_names = 0;
	assert_int_equal(acme_order_new(&j, b.client, &o, &err), KM_EINVAL);
	o.n_names = ACME_NAMES_MAX + 1;
	assert_int_equal(acme_order_new(&j, b.client, &o, &err), KM_EINVAL);
	o.names = (const char *const[]){"a.test"};
	o.n_names = 1;
	o.challenges = (const char *const[]){NULL};
	assert_int_equal(acme_order_new(&j, b.client, &o, &err), KM_EINVAL);
	bench_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_scenarios),   cmocka_unit_test(resumed),
	    cmocka_unit_test(resumed_invalid), cmocka_unit_test(polling),
	    cmocka_unit_test(bad_orders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
