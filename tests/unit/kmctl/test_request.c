/* SPDX-License-Identifier: MIT */
#include "kmctl/cert/request.h"
#include "libkm/cert/key.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOOD                                                                                       \
	"{\"id\": \"0f8fad5b-d9cb-469f-a165-70867728950e\", \"kind\": \"agent\", "                 \
	"\"hostId\": \"0f8fad5b-d9cb-469f-a165-70867728950f\", \"name\": \"home\", "               \
	"\"wireguardPublicKey\": \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\", "               \
	"\"networks\": [\"10.1.0.100/8\"], \"unsafeNetworks\": [\"10.1.0.0/24\"], "                \
	"\"groups\": [\"agent\"], \"reason\": \"join\", "                                          \
	"\"requestedAt\": \"2026-11-21T10:00:00Z\"}"

static json_t *good(void)
{
	json_t *j = json_loads(GOOD, 0, NULL);

	assert_non_null(j);
	return j;
}

static void a_request_is_read(void **state)
{
	struct km_errtext err = {""};
	struct cert_request r;
	char text[KM_PREFIX_STRLEN];
	json_t *j = good();

	(void)state;
	assert_int_equal(cert_request_read(&r, j, &err), 0);
	assert_string_equal(r.name, "home");
	assert_string_equal(r.group, "agent");
	assert_false(r.gateway);
	assert_string_equal(km_prefix_str(&r.network, text), "10.1.0.100/8");
	assert_string_equal(km_prefix_str(&r.subnet, text), "10.1.0.0/24");
	assert_int_equal(strlen(r.code), 14);
	json_decref(j);
}

/* A gateway has no subnet; else it is the same. */
static void a_gateways_request_is_read(void **state)
{
	struct km_errtext err = {""};
	struct cert_request r;
	json_t *j = good();

	(void)state;
	json_object_set_new(j, "kind", json_string("gateway"));
	json_object_set_new(j, "groups", json_pack("[s]", "gateway"));
	assert_int_equal(cert_request_read(&r, j, &err), KM_EINVAL);
	json_object_set_new(j, "unsafeNetworks", json_array());
	assert_int_equal(cert_request_read(&r, j, &err), 0);
	assert_true(r.gateway);
	json_decref(j);
}

static void what_control_must_not_slip_in_is_refused(void **state)
{
	static const struct {
		const char *field, *value; /* JSON; NULL: it is missing */
	} cases[] = {
	    {"id", "\"../agents\""},
	    {"kind", "\"ca\""},
	    {"name", "\"home\\u001b[2J\""},
	    {"name", "\"\""},
	    {"name", "\"\\u00e9\""},
	    {"name", NULL},
	    {"groups", "[\"agent\", \"gateway\"]"},
	    {"groups", "[\"gateway\"]"},
	    {"groups", "[]"},
	    {"groups", "\"agent\""},
	    {"networks", "[]"},
	    {"networks", "[\"10.1.0.100/8\", \"10.2.0.100/8\"]"},
	    {"networks", "[\"10.1.0.100\"]"},
	    {"networks", "[\"nowhere/8\"]"},
	    {"networks", "[7]"},
	    {"unsafeNetworks", "[]"},
	    {"unsafeNetworks", "[\"10.2.0.0/24\"]"},
	    {"unsafeNetworks", "[\"0.0.0.0/0\"]"},
	    {"unsafeNetworks", "[\"10.1.0.0/24\", \"10.2.0.0/24\"]"},
	    {"wireguardPublicKey", "\"AQID\""},
	    {"wireguardPublicKey", NULL},
	    {"reason", "\"\\r\\nSign?\""},
	    {"requestedAt", "\"yesterday\""},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct km_errtext err = {""};
		struct cert_request r;
		json_t *j = good();

		if (cases[i].value)
			json_object_set_new(j, cases[i].field,
					    json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
		else
			json_object_del(j, cases[i].field);
		if (cert_request_read(&r, j, &err) != KM_EINVAL)
			fail_msg("%s = %s was taken", cases[i].field, cases[i].value);
		assert_true(err.text[0]);
		assert_null(strchr(err.text, '\x1b'));
		json_decref(j);
	}
}

static void validity_stays_within_the_cas(void **state)
{
	struct km_cert ca = {.version = KM_CERT_V2, .not_before = 1000, .not_after = 100000};
	struct km_errtext err = {""};
	struct cert_request r;
	struct km_cert_spec spec;
	json_t *j = good();

	(void)state;
	assert_int_equal(cert_request_read(&r, j, &err), 0);
	cert_request_spec(&spec, &r, &ca, 10000, 500);
	assert_int_equal(spec.not_before, 10000 - 3600);
	assert_int_equal(spec.not_after, 10500);
	cert_request_spec(&spec, &r, &ca, 2000, 98001);
	assert_int_equal(spec.not_before, 1000);
	assert_int_equal(spec.not_after, 100000);
	cert_request_spec(&spec, &r, &ca, 2000, INT64_MAX);
	assert_int_equal(spec.not_after, 100000);
	json_decref(j);
}

static char *pem_of(const struct km_cert *c)
{
	struct km_buf b;
	char *text;

	km_buf_init(&b, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&b, c), 0);
	text = strndup((char *)km_buf_head(&b), b.len);
	km_buf_free(&b);
	return text;
}

/* c vouches for r, and for nothing that differs. */
static void renewals(const struct cert_request *r, const struct km_cert *c,
		     const struct km_cert *ca)
{
	struct km_cert_spec spec = {.version = KM_CERT_V1, .name = "ca", .not_after = 100000};
	char *pem = pem_of(c);
	struct km_errtext err = {""};
	struct cert_request other = *r;
	struct km_cert *stranger;
	struct km_cert_key key;

	assert_true(cert_request_renews(r, pem, ca, &err));
	other.key[0] ^= 1;
	assert_false(cert_request_renews(&other, pem, ca, &err));
	assert_non_null(strstr(err.text, "another key"));
	other = *r;
	strcpy(other.name, "office");
	assert_false(cert_request_renews(&other, pem, ca, &err));
	other = *r;
	other.network.addr.ip[1] = 9;
	assert_false(cert_request_renews(&other, pem, ca, &err));
	other = *r;
	other.subnet.bits = 16;
	assert_false(cert_request_renews(&other, pem, ca, &err));
	other = *r;
	other.gateway = true;
	other.group = "gateway";
	assert_false(cert_request_renews(&other, pem, ca, &err));
	assert_false(cert_request_renews(r, NULL, ca, &err));
	assert_false(cert_request_renews(r, "nonsense", ca, &err));
	assert_int_equal(km_cert_key_new(&key, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_self_sign(&stranger, &spec, &key, &err), 0);
	assert_false(cert_request_renews(r, pem, stranger, &err));
	assert_non_null(strstr(err.text, "not by this CA"));
	km_cert_free(stranger);
	free(pem);
}

/* What was shown is what the certificate says. */
static void the_certificate_says_what_was_shown(void **state)
{
	struct km_prefix all;
	struct km_cert_key key;
	struct km_cert *ca, *c;
	struct km_errtext err = {""};
	struct cert_request r;
	struct km_cert_spec spec;
	json_t *j = good();

	(void)state;
	assert_int_equal(km_prefix_parse(&all, "10.0.0.0/8"), 0);
	assert_int_equal(km_cert_key_new(&key, KM_CERT_25519, true), 0);
	spec = (struct km_cert_spec){.version = KM_CERT_V1,
				     .name = "ca",
				     .networks = &all,
				     .n_networks = 1,
				     .unsafe_networks = &all,
				     .n_unsafe_networks = 1,
				     .not_after = 100000};
	assert_int_equal(km_cert_self_sign(&ca, &spec, &key, &err), 0);
	assert_int_equal(cert_request_read(&r, j, &err), 0);
	cert_request_spec(&spec, &r, ca, 10000, 500);
	assert_int_equal(km_cert_sign(&c, &spec, ca, &key, &err), 0);
	assert_string_equal(c->name, "home");
	assert_int_equal(c->n_networks, 1);
	assert_true(km_addr_eq(&c->networks[0].addr, &r.network.addr));
	assert_int_equal(c->n_unsafe_networks, 1);
	assert_int_equal(c->n_groups, 1);
	assert_string_equal(c->groups[0], "agent");
	assert_memory_equal(c->public_key, r.key, KM_WG_KEY_LEN);
	renewals(&r, c, ca);
	km_cert_free(c);
	km_cert_free(ca);
	json_decref(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_request_is_read),
	    cmocka_unit_test(a_gateways_request_is_read),
	    cmocka_unit_test(what_control_must_not_slip_in_is_refused),
	    cmocka_unit_test(validity_stays_within_the_cas),
	    cmocka_unit_test(the_certificate_says_what_was_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
