/* SPDX-License-Identifier: MIT */
/* Memory ends at every allocation in turn: KM_ENOMEM, nothing given, nothing kept (LeakSanitizer).
 * What allocates is included here with an allocator that fails at a chosen call; OpenSSL keeps its
 * own. */
#include <openssl/evp.h>
#include "tests/unit/failing.h"

#define malloc test_malloc
#define calloc test_calloc
#define realloc test_realloc
#define reallocarray test_reallocarray
#include "libkm/base/buf.c"
#include "libkm/cert/accept.c"
#include "libkm/cert/bundle.c"
#include "libkm/cert/cert.c"
#include "libkm/cert/pem.c"
#include "libkm/cert/pool.c"
#include "libkm/cert/rules.c"
#include "libkm/cert/sign.c"
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray

#include "tests/unit/cert/fixture.h"

#define LIMIT 400

static const struct says full = {.name = "agent1",
				 .networks = "10.77.1.5/16",
				 .unsafe = "192.168.7.0/24 8.8.8.0/24",
				 .groups = "agent gateway"};

/* Runs `call` until it no longer fails; `given` must be NULL as long as it does. */
#define UNTIL_DONE(call, given)                                                                    \
	do {                                                                                       \
		int rc_ = KM_ENOMEM;                                                               \
		long n_ = 0;                                                                       \
		for (; rc_ && n_ < LIMIT; n_++) {                                                  \
			allocations_left = n_;                                                     \
			rc_ = (call);                                                              \
			allocations_left = -1;                                                     \
			assert_true(!rc_ || rc_ == KM_ENOMEM);                                     \
			assert_true(!rc_ == !!(given));                                            \
		}                                                                                  \
		assert_in_range(n_, 3, LIMIT - 1);                                                 \
	} while (0)

static void certificates(void **state)
{
	(void)state;
	for (int version = 1; version <= 2; version++)
		for (int curve = 0; curve <= 1; curve++) {
			struct authority a =
			    authority_new(version, curve, (struct says){.name = "ca"});
			struct km_cert *c = NULL, *again = NULL;
			struct km_cert_key key;
			struct km_buf pem;
			struct parsed p;
			struct km_cert_spec spec = spec_of(&p, &full, version, curve);

			assert_int_equal(km_cert_key_new(&key, curve, false), 0);
			spec.public_key = key.pub;
			spec.public_key_len = key.pub_len;
			UNTIL_DONE(km_cert_sign(&c, &spec, a.cert, &a.key, NULL), c);
			UNTIL_DONE(km_cert_parse(&again, version, c->raw, c->raw_len, NULL), again);
			km_cert_free(again);

			km_buf_init(&pem, KM_CERT_PEM_MAX);
			assert_int_equal(km_cert_to_pem(&pem, c), 0);
			for (long n = 0;; n++) {
				const char *text = (const char *)km_buf_head(&pem);
				size_t left = pem.len;
				int rc;

				assert_true(n < LIMIT);
				allocations_left = n;
				rc = km_cert_from_pem(&again, &text, &left, NULL);
				allocations_left = -1;
				if (!rc)
					break;
				assert_int_equal(rc, KM_ENOMEM);
				assert_null(again);
			}
			km_cert_free(again);
			km_buf_free(&pem);
			km_cert_free(c);
			free(p.text);
			authority_free(&a);
		}
}

static void pools(void **state)
{
	struct authority a = authority_new(1, KM_CERT_25519, (struct says){.name = "a"});
	struct authority b = authority_new(2, KM_CERT_P256, (struct says){.name = "b"});
	struct km_cert_pool *pool = NULL;
	struct km_buf pem;
	int rc = KM_ENOMEM;
	long n;

	(void)state;
	km_buf_init(&pem, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&pem, a.cert), 0);
	assert_int_equal(km_cert_to_pem(&pem, b.cert), 0);
	for (n = 0; rc; n++) {
		assert_true(n < LIMIT);
		allocations_left = n;
		pool = km_cert_pool_new();
		rc = pool ? km_cert_pool_add_pem(pool, (char *)km_buf_head(&pem), pem.len, NULL)
			  : KM_ENOMEM;
		if (!rc)
			rc = km_cert_pool_block(pool, a.cert->fingerprint);
		allocations_left = -1;
		assert_true(!rc || rc == KM_ENOMEM);
		if (rc)
			km_cert_pool_free(pool);
	}
	assert_in_range(n, 20, LIMIT);
	assert_int_equal(km_cert_pool_size(pool), 2);
	assert_true(km_cert_pool_is_blocked(pool, a.cert));
	km_cert_pool_free(pool);
	km_buf_free(&pem);
	authority_free(&a);
	authority_free(&b);
}

static void bundles(void **state)
{
	struct authority a = authority_new(1, KM_CERT_25519, (struct says){.name = "a"});
	struct authority b = authority_new(2, KM_CERT_25519, (struct says){.name = "b"});
	const struct km_cert *cas[] = {a.cert, b.cert};
	uint8_t fps[2][KM_CERT_FP_LEN] = {{1}, {2}};
	struct km_bundle *both = NULL, *one = NULL, *again = NULL, *merged = NULL;
	struct km_cert_pool *pool = NULL;
	struct km_buf text;

	(void)state;
	UNTIL_DONE(km_bundle_new(&both, 7, cas, 2, (const uint8_t(*)[KM_CERT_FP_LEN])fps, 2, NULL),
		   both);
	assert_int_equal(km_bundle_sign(both, a.cert, &a.key, NULL), 0);
	assert_int_equal(km_bundle_new(&one, 7, cas, 1, NULL, 0, NULL), 0);
	km_buf_init(&text, KM_BUNDLE_PEM_MAX);
	assert_int_equal(km_bundle_format(&text, both), 0);
	UNTIL_DONE(km_bundle_parse(&again, (char *)km_buf_head(&text), text.len, NULL), again);
	km_bundle_free(again);
	UNTIL_DONE((pool = km_bundle_pool(both)) ? 0 : KM_ENOMEM, pool);
	km_cert_pool_free(pool);

	/* Signed, and as a removal. */
	again = both;
	one->number = 6;
	UNTIL_DONE(km_bundle_accept(one, both, NOW, &merged, NULL, NULL), merged);
	km_bundle_free(merged);
	assert_int_equal(
	    km_bundle_new(&again, 8, cas, 1, (const uint8_t(*)[KM_CERT_FP_LEN])fps, 2, NULL), 0);
	UNTIL_DONE(km_bundle_accept(both, again, NOW, &merged, NULL, NULL), merged);
	assert_int_equal(merged->n_cas, 1);
	km_bundle_free(merged);
	km_bundle_free(again);
	km_bundle_free(one);
	km_bundle_free(both);
	km_buf_free(&text);
	authority_free(&a);
	authority_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(certificates),
	    cmocka_unit_test(pools),
	    cmocka_unit_test(bundles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
