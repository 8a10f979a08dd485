/* SPDX-License-Identifier: MIT */
/* Control without a CA's key: which signed bundles and certificates it takes from the operator. */
#include "controld/pki/authority_priv.h"
#include "libkm/cert/sign.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define HOST "0f8fad5b-d9cb-469f-a165-70867728950e"

struct own_ca {
	struct km_cert *cert;
	struct km_cert_key key;
};
static struct own_ca home, second, strange;
static const uint8_t host_key[KM_WG_KEY_LEN] = {1, 2, 3};

static void make_ca(struct own_ca *ca, const char *name)
{
	const struct km_cert_spec spec = {.version = KM_CERT_V2,
					  .name = name,
					  .not_before = time(NULL) - 86400,
					  .not_after = time(NULL) + 86400};

	assert_int_equal(km_cert_key_new(&ca->key, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_self_sign(&ca->cert, &spec, &ca->key, NULL), 0);
}

static int setup(void **state)
{
	(void)state;
	make_ca(&home, "home");
	make_ca(&second, "second");
	make_ca(&strange, "strange");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	km_cert_free(home.cert);
	km_cert_free(second.cert);
	km_cert_free(strange.cert);
	return 0;
}

static char *text_of(const struct km_buf *b)
{
	return strndup((const char *)km_buf_head(b), b->len);
}

/* A bundle of these CAs, by this one (NULL: unsigned). */
static char *bundle(uint64_t number, const struct own_ca *a, const struct own_ca *b,
		    const struct own_ca *signer)
{
	const struct km_cert *cas[] = {a->cert, b ? b->cert : NULL};
	struct km_bundle *made;
	struct km_buf out;
	char *text;

	assert_int_equal(km_bundle_new(&made, number, cas, b ? 2 : 1, NULL, 0, NULL), 0);
	if (signer)
		assert_int_equal(km_bundle_sign(made, signer->cert, &signer->key, NULL), 0);
	km_buf_init(&out, KM_BUNDLE_PEM_MAX);
	assert_int_equal(km_bundle_format(&out, made), 0);
	text = text_of(&out);
	km_buf_free(&out);
	km_bundle_free(made);
	return text;
}

/* Trusts home, and second when it is given; the last of them is active, no key is here. */
static void trusts(struct authority *a, struct ca items[2], bool both, char *signed_bundle)
{
	*a = (struct authority){.cas = {.items = items, .n = both ? 2 : 1}};
	assert_int_equal(km_prefix_parse(&a->network, "10.0.0.0/8"), 0);
	items[0] = (struct ca){.cert = home.cert, .active = !both};
	items[1] = (struct ca){.cert = second.cert, .active = true};
	a->cas.pool = km_cert_pool_new();
	for (size_t i = 0; i < a->cas.n; i++)
		assert_int_equal(km_cert_pool_add(a->cas.pool, items[i].cert, NULL), 0);
	a->signed_bundle = signed_bundle;
}

static void end(struct authority *a)
{
	km_cert_pool_free(a->cas.pool);
	free(a->signed_bundle);
}

static int offer(const struct authority *a, char *pem, bool *handover)
{
	struct km_errtext err = {""};
	int64_t number = 0;
	int rc = authority_check_bundle(a, pem, &number, handover, &err);

	assert_true(rc ? err.text[0] : number == 7);
	free(pem);
	return rc;
}

static void who_signs_a_bundle(void **state)
{
	struct ca items[2];
	struct authority a;
	bool handover = false;

	(void)state;
	/* The first: the active CA. */
	trusts(&a, items, false, NULL);
	assert_int_equal(offer(&a, bundle(7, &home, NULL, &home), &handover), 0);
	assert_false(handover);
	assert_int_equal(offer(&a, bundle(7, &home, NULL, NULL), &handover), KM_EAUTH);
	assert_int_equal(offer(&a, bundle(7, &home, &strange, &strange), &handover), KM_EAUTH);
	end(&a);

	/* Then one that hosts trust, active or not. */
	trusts(&a, items, true, bundle(6, &home, NULL, &home));
	assert_int_equal(offer(&a, bundle(7, &home, &second, &home), &handover), 0);
	assert_false(handover);
	assert_int_equal(offer(&a, bundle(7, &home, &second, &second), &handover), KM_EAUTH);
	end(&a);

	/* And when they trust both, either; a change of the signer is kept for who is away. */
	trusts(&a, items, true, bundle(6, &home, &second, &home));
	assert_int_equal(offer(&a, bundle(7, &second, NULL, &second), &handover), 0);
	assert_true(handover);
	end(&a);

	/* Not one that control trusts no longer. */
	trusts(&a, items, false, bundle(6, &home, &second, &home));
	assert_int_equal(offer(&a, bundle(7, &home, &second, &second), &handover), KM_EAUTH);
	end(&a);
}

static char *certificate(const struct own_ca *by)
{
	const char *group = "agent";
	struct km_prefix network, subnet;
	struct km_cert_spec spec = {.version = KM_CERT_V2,
				    .name = "home",
				    .networks = &network,
				    .n_networks = 1,
				    .unsafe_networks = &subnet,
				    .n_unsafe_networks = 1,
				    .groups = &group,
				    .n_groups = 1,
				    .not_before = time(NULL) - 60,
				    .not_after = time(NULL) + 3600,
				    .public_key = host_key,
				    .public_key_len = sizeof(host_key)};
	struct km_cert *c;
	struct km_buf out;
	char *text;

	assert_int_equal(km_prefix_parse(&network, "10.1.0.100/8"), 0);
	assert_int_equal(km_prefix_parse(&subnet, "10.1.0.0/24"), 0);
	assert_int_equal(km_cert_sign(&c, &spec, by->cert, &by->key, NULL), 0);
	km_buf_init(&out, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&out, c), 0);
	text = text_of(&out);
	km_buf_free(&out);
	km_cert_free(c);
	return text;
}

static int take(const struct authority *a, const struct own_ca *by)
{
	const struct authority_host h = {false, HOST, "home", 256, host_key};
	struct km_errtext err = {""};
	char *pem = certificate(by);
	struct issued i;
	int rc = authority_take(a, &i, pem, &h, &err);

	issued_free(&i);
	free(pem);
	return rc;
}

/* A certificate that hosts would not believe yet would cut its host off. */
static void whose_certificates_are_taken(void **state)
{
	struct ca items[2];
	struct authority a;

	(void)state;
	trusts(&a, items, true, NULL); /* nobody believes anything yet */
	assert_int_equal(take(&a, &home), 0);
	assert_int_equal(take(&a, &second), 0);
	assert_int_equal(take(&a, &strange), KM_EAUTH);
	end(&a);
	trusts(&a, items, true, bundle(6, &home, NULL, &home));
	assert_int_equal(take(&a, &home), 0);
	assert_int_equal(take(&a, &second), KM_EAUTH);
	end(&a);
	trusts(&a, items, true, bundle(6, &home, &second, &home));
	assert_int_equal(take(&a, &second), 0);
	end(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_signs_a_bundle),
	    cmocka_unit_test(whose_certificates_are_taken),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
