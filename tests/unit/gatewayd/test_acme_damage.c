/* SPDX-License-Identifier: MIT */
/* Every answer of an order cut at every byte or with a bit turned over, and memory that ends at
 * each allocation: the job comes to an end, nothing is kept (LeakSanitizer), and a chain that is
 * not ours is never taken. What allocates is included here with an allocator that fails at a chosen
 * call; OpenSSL keeps its own. */
#include "tests/unit/failing.h"
#include <jansson.h>
#include <openssl/x509v3.h>
#define malloc test_malloc
#define calloc test_calloc
#define strdup test_strdup
#define strndup test_strndup
#define asprintf test_asprintf
#include "gatewayd/acme/ari.c"
#include "gatewayd/acme/authz.c"
#include "gatewayd/acme/chain.c"
#include "gatewayd/acme/client.c"
#include "gatewayd/acme/csr.c"
#include "gatewayd/acme/job.c"
#include "gatewayd/acme/jose.c"
#include "gatewayd/acme/order.c"
#include "gatewayd/acme/order_issue.c"
#include "gatewayd/acme/order_prove.c"
#include "gatewayd/acme/problem.c"
#include "gatewayd/acme/revoke.c"
#undef malloc
#undef calloc
#undef strdup
#undef strndup
#undef asprintf
#undef CA
#undef URN
#include "tests/unit/gatewayd/acme_ca.h"

static const char *const types[] = {"http-01", "dns-01", NULL};
static const char *const app[] = {"app.test"};

static const struct acme_order_opts opts = {.names = app,
					    .n_names = 1,
					    .challenges = types,
					    .chain = "root two",
					    .replaces = "a.b",
					    .profile = "short"};

/* Drives an order; what is done to the answer of request `no` is `damage`'s affair. */
static enum acme_cause drive(struct bench *b, struct acme_job *j, int no,
			     void (*damage)(struct acme_answer *a, char *copy, size_t at,
					    unsigned bit),
			     size_t at, unsigned bit, size_t *length)
{
	struct acme_next n;
	int request = 0;

	for (int i = 0; i < 500; i++) {
		acme_job_next(j, b->now, WALL + b->now, &n);
		if (n.want == ACME_REQUEST) {
			struct acme_answer a = *ca_ask(&b->ca, &n.request);
			char *copy = NULL;

			if (request++ == no) {
				*length = a.n;
				copy = calloc(1, a.n + 1); /* ends where the answer ends */
				memcpy(copy, a.body ? a.body : "", a.n);
				a.body = copy;
				damage(&a, copy, at, bit);
			}
			acme_request_clear(&n.request);
			acme_job_answer(j, &a, b->now, WALL + b->now);
			free(copy);
		} else if (n.want == ACME_PRESENT) {
			acme_job_presented(j, true, NULL);
		} else if (n.want == ACME_WAIT) {
			assert_true(n.until_ms > b->now && n.until_ms != INT64_MAX);
			b->now = n.until_ms;
		} else {
			return acme_job_problem(j)->cause;
		}
	}
	fail_msg("the job does not end");
	return ACME_LOCAL;
}

static void cut(struct acme_answer *a, char *copy, size_t at, unsigned bit)
{
	(void)copy, (void)bit;
	a->n = at < a->n ? at : a->n;
}

static void turn(struct acme_answer *a, char *copy, size_t at, unsigned bit)
{
	if (at < a->n)
		copy[at] = (char)(copy[at] ^ 1 << bit);
}

static void one(int no, void (*damage)(struct acme_answer *a, char *copy, size_t at, unsigned bit),
		size_t at, unsigned bit, EVP_PKEY *key, EVP_PKEY *account_key, size_t *length)
{
	struct acme_client_opts co = {.directory = CA "/dir", .key = account_key};
	struct acme_order_opts o = opts;
	struct bench b = {.now = 1000};
	struct acme_job *j;

	ca_init(&b.ca);
	b.ca.meta = ",\"profiles\":{\"short\":\"\"}";
	o.key = key;
	assert_int_equal(acme_client_new(&b.client, &co, NULL), 0);
	assert_int_equal(acme_order_new(&j, b.client, &o, NULL), 0);
	if (drive(&b, j, no, damage, at, bit, length) == ACME_OK) {
		X509 *leaf = chain_leaf(acme_job_chain(j));

		assert_int_equal(X509_check_private_key(leaf, key), 1);
		assert_int_equal(X509_check_host(leaf, "app.test", 0, 0, NULL), 1);
		X509_free(leaf);
	}
	acme_job_free(j);
	acme_client_free(b.client);
	b.ca.n_bad = 0; /* a URL may have become another */
	ca_free(&b.ca);
}

/* 1 directory, 2 account, 3 order, 4 authorization, 5 challenge, 6 order, 7 finalize, 8 and 9
 * chains. */
#define REQUESTS 9

static void each(void (*damage)(struct acme_answer *a, char *copy, size_t at, unsigned bit),
		 unsigned bits)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *account_key = EVP_EC_gen("P-256");

	for (int no = 0; no < REQUESTS; no++) {
		size_t length = 1, step = no < REQUESTS - 2 ? 3 : 17;

		for (size_t at = 0; at < length; at += step)
			one(no, damage, at, (unsigned)(at / step) % bits, key, account_key,
			    &length);
		assert_true(length > 10);
	}
	EVP_PKEY_free(key);
	EVP_PKEY_free(account_key);
}

static void cut_answers(void **state)
{
	(void)state;
	each(cut, 1);
}

static void turned_bits(void **state)
{
	(void)state;
	each(turn, 8);
}

/* ---- no memory ---- */

/* Each kind of job with memory that ends at the n-th allocation; true: that was enough for all. */
static bool job_in(int kind, long n, EVP_PKEY *key, EVP_PKEY *account_key, const char *chain)
{
	struct acme_client_opts co = {.directory = CA "/dir",
				      .key = account_key,
				      .email = "op@app.test",
				      .eab_kid = "kid-1",
				      .eab_key = "c29tZXRoaW5nIGVsc2U"};
	struct acme_order_opts o = opts;
	struct bench b = {.now = 1000};
	struct acme_job *j = NULL;
	struct acme_next next = {.want = ACME_WAIT};
	EVP_PKEY *other = kind == 2 ? EVP_EC_gen("P-256") : NULL;
	int rc;

	ca_init(&b.ca);
	b.ca.meta = ",\"profiles\":{\"short\":\"\"},\"externalAccountRequired\":false";
	b.ca.ari_end = 1000;
	o.key = key;
	allocations_left = n;
	rc = acme_client_new(&b.client, &co, NULL);
	if (!rc && kind == 0)
		rc = acme_order_new(&j, b.client, &o, NULL);
	else if (!rc && kind == 1)
		rc = acme_revoke_new(&j, b.client, chain, 1, NULL, NULL);
	else if (!rc && kind == 2)
		rc = acme_rollover_new(&j, b.client, other, NULL);
	else if (!rc)
		rc = acme_ari_new(&j, b.client, "aYhb.AIdl", NULL);
	assert_true(rc == 0 || rc == KM_ENOMEM);
	assert_true(!rc == !!j);
	for (int i = 0; j && next.want != ACME_DONE && next.want != ACME_FAILED; i++) {
		long left;

		assert_true(i < 200);
		acme_job_next(j, b.now, WALL + b.now, &next);
		if (next.want == ACME_PRESENT)
			acme_job_presented(j, true, NULL);
		if (next.want == ACME_WAIT)
			b.now = next.until_ms;
		if (next.want != ACME_REQUEST)
			continue;
		left = allocations_left;
		allocations_left = -1; /* the CA has memory */
		ca_ask(&b.ca, &next.request);
		allocations_left = left;
		acme_request_clear(&next.request);
		acme_job_answer(j, &b.ca.a, b.now, WALL + b.now);
	}
	rc = allocations_left != 0;
	allocations_left = -1;
	if (rc && j)
		assert_int_equal(next.want, ACME_DONE);
	acme_job_free(j);
	acme_client_free(b.client);
	EVP_PKEY_free(other);
	ca_free(&b.ca);
	return rc;
}

static void no_memory(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *account_key = EVP_EC_gen("P-256");
	char *chain = NULL;
	struct ca ca;

	(void)state;
	ca_init(&ca);
	ca_append(&chain, ca_issue(&ca, key, NULL, "ca", "DNS:app.test"));
	json_set_alloc_funcs(test_malloc, free);
	for (int kind = 0; kind < 4; kind++) {
		long n = 0;

		while (!job_in(kind, n, key, account_key, chain))
			n++;
		print_message("           job %d: %ld allocations\n", kind, n);
		assert_in_range(n, 50, 5000);
	}
	json_set_alloc_funcs(malloc, free);
	free(chain);
	ca_free(&ca);
	EVP_PKEY_free(key);
	EVP_PKEY_free(account_key);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(cut_answers),
					   cmocka_unit_test(turned_bits),
					   cmocka_unit_test(no_memory)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
