/* SPDX-License-Identifier: MIT */
/* Pins and URLs: whom the link trusts and where it goes. */
#include "libkm/link/client.h"
#include "libkm/link/url.h"
#include "tests/unit/link/pki.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int verify(const struct pki *pinned, X509 *leaf, X509 *a, X509 *b, struct km_errtext *err)
{
	uint8_t pin[KM_PIN_LEN];
	STACK_OF(X509) *chain = sk_X509_new_null();

	assert_int_equal(km_pin_parse(pin, pinned->pin), 0);
	if (a)
		sk_X509_push(chain, a);
	if (b)
		sk_X509_push(chain, b);
	err->text[0] = '\0';
	int r = km_pin_verify(pin, leaf, chain, err);
	sk_X509_free(chain);
	return r;
}

static void the_pinned_root_must_have_signed(void **state)
{
	struct pki good = pki_make((struct pki_opts){0}), other = pki_make((struct pki_opts){0});
	struct km_errtext err;

	(void)state;
	assert_int_equal(verify(&good, good.leaf, good.leaf, good.root, &err), 0);
	/* another's chain */
	assert_int_equal(verify(&good, other.leaf, other.leaf, other.root, &err), KM_EAUTH);
	assert_non_null(strstr(err.text, "wrong pin"));
	assert_non_null(strstr(err.text, good.pin));
	assert_non_null(strstr(err.text, other.pin));
	/* the root is public: to send it along proves nothing */
	assert_int_equal(verify(&good, other.leaf, other.leaf, good.root, &err), KM_EAUTH);
	/* the root was not sent */
	assert_int_equal(verify(&good, good.leaf, good.leaf, NULL, &err), KM_EAUTH);
	assert_int_equal(verify(&good, NULL, NULL, NULL, &err), KM_EAUTH);
	pki_free(&good);
	pki_free(&other);
}

static void the_chain_must_be_valid(void **state)
{
	static const struct {
		struct pki_opts opts;
		const char *says;
	} bad[] = {
	    {{.leaf_expired = true}, "expired"},
	    {{.client_only = true}, "purpose"},
	    {{.root_is_no_ca = true}, "not one of a CA"},
	};
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		struct pki p = pki_make(bad[i].opts);
		assert_int_equal(verify(&p, p.leaf, p.leaf, p.root, &err), KM_EAUTH);
		if (!strstr(err.text, bad[i].says))
			fail_msg("'%s' does not say '%s'", err.text, bad[i].says);
		pki_free(&p);
	}
}

static void pins_are_parsed_strictly(void **state)
{
	static const char *const bad[] = {"",
					  "sha256//",
					  "sha256//AAAA",
					  "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
					  "sha1//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
					  "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
					  "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= ",
					  "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="};
	uint8_t pin[KM_PIN_LEN];
	char text[KM_PIN_STRLEN];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_int_equal(km_pin_parse(pin, bad[i]), KM_EINVAL);
	assert_int_equal(km_pin_parse(pin, NULL), KM_EINVAL);
	const char *good = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
	assert_int_equal(km_pin_parse(pin, good), 0);
	assert_null(km_pin_check(good));
	assert_non_null(km_pin_check(bad[0]));
	assert_string_equal(km_pin_str(pin, text), good);
}

static void urls(void **state)
{
	static const struct {
		const char *text, *host;
		int port; /* 0: refused */
	} table[] = {
	    {"wss://control.example.org:3001", "control.example.org", 3001},
	    {"wss://control.example.org", "control.example.org", 3001},
	    {"WSS://192.0.2.1:443/ws", "192.0.2.1", 443},
	    {"wss://[2001:db8::1]:3001/", "2001:db8::1", 3001},
	    {"wss://[2001:db8::1]", "2001:db8::1", 3001},
	    {"ws://127.0.0.1:3001", "127.0.0.1", 3001},
	    {"ws://localhost:3001", "localhost", 3001},
	    {"ws://[::1]:3001", "::1", 3001},
	    {"ws://192.0.2.1:3001", NULL, 0},
	    {"ws://control:3001", NULL, 0},
	    {"https://control:3001", NULL, 0},
	    {"control:3001", NULL, 0},
	    {"wss://", NULL, 0},
	    {"wss://:3001", NULL, 0},
	    {"wss://control:0", NULL, 0},
	    {"wss://control:65536", NULL, 0},
	    {"wss://control:3001/other", NULL, 0},
	    {"wss://control:3001/ws?type=agent", NULL, 0},
	    {"wss://user@control:3001", NULL, 0},
	    {"wss://con trol:3001", NULL, 0},
	    {"", NULL, 0},
	};
	struct km_link_url u;
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		int r = km_link_url_parse(&u, table[i].text, &err);
		assert_int_equal(!km_link_url_check(table[i].text), !r);
		if (r != (table[i].port ? 0 : KM_EINVAL))
			fail_msg("'%s' gave %d", table[i].text, r);
		if (!table[i].port)
			continue;
		assert_int_equal(u.hp.port, table[i].port);
		assert_string_equal(u.hp.host, table[i].host);
	}
}

static void a_client_says_what_is_wrong_with_its_settings(void **state)
{
	static const struct {
		const char *url, *pin, *says;
	} bad[] = {
	    {"wss://control:3001", NULL, "control_pin: required"},
	    {"wss://control:3001", "sha256//x", "control_pin 'sha256//x'"},
	    {"ws://control:3001", NULL, "loopback"},
	    {"http://control:3001", NULL, "wss://"},
	};
	struct event_base *base = event_base_new();
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		struct km_link_client_opts o = {&bad[i].url, 1, "agent", bad[i].pin, 0, 0};
		struct km_link_client *c;
		assert_int_equal(
		    km_link_client_start(&c, base, &o, &(struct km_link_client_cbs){0}, NULL, &err),
		    KM_EINVAL);
		assert_null(c);
		if (!strstr(err.text, bad[i].says))
			fail_msg("'%s' does not say '%s'", err.text, bad[i].says);
	}
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_pinned_root_must_have_signed),
	    cmocka_unit_test(the_chain_must_be_valid),
	    cmocka_unit_test(pins_are_parsed_strictly),
	    cmocka_unit_test(urls),
	    cmocka_unit_test(a_client_says_what_is_wrong_with_its_settings),
	};
	return cmocka_run_group_tests_name("link/trust", tests, NULL, NULL);
}
