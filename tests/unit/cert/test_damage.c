/* SPDX-License-Identifier: MIT */
/* Twenty valid certificates, cut at every byte and with every single bit turned over: none is
 * taken. */
#include "libkm/cert/pem.h"
#include "tests/unit/cert/fixture.h"

static const struct sample {
	int version, curve;
	bool is_ca;
	struct says says;
} samples[] = {
    {1, KM_CERT_25519, true, {.name = "ca"}},
    {1, KM_CERT_25519, true, {.name = "", .networks = "10.0.0.0/8 172.16.0.0/12"}},
    {1,
     KM_CERT_25519,
     true,
     {.name = "all", .networks = "10.0.0.0/8", .unsafe = "0.0.0.0/0", .groups = "a b c"}},
    {1, KM_CERT_25519, true, {.name = "past", .from = -5, .to = 0}},
    {1, KM_CERT_P256, true, {.name = "p256"}},
    {1, KM_CERT_P256, true, {.name = "p256", .networks = "10.0.0.0/8", .groups = "a"}},
    {1, KM_CERT_25519, false, {.networks = "10.77.1.5/16"}},
    {1, KM_CERT_25519, false, {.networks = "10.77.1.5/32", .unsafe = "192.168.7.0/24 8.8.8.8/32"}},
    {1, KM_CERT_25519, false, {.name = "", .networks = "255.255.255.255/0", .groups = "a b c d"}},
    {1,
     KM_CERT_25519,
     false,
     {.name = "\xe9\x9a\xa0\xe3\x82\x8c\xe9\x81\x93", .networks = "10.77.1.5/16"}},
    {1, KM_CERT_P256, false, {.networks = "10.77.1.5/16"}},
    {1, KM_CERT_P256, false, {.networks = "10.77.1.5/16", .unsafe = "0.0.0.0/0", .groups = "g"}},
    {2, KM_CERT_25519, true, {.name = "ca"}},
    {2,
     KM_CERT_25519,
     true,
     {.name = "all", .networks = "10.0.0.0/8 fd00::/8", .unsafe = "::/0", .groups = "a b c"}},
    {2, KM_CERT_P256, true, {.name = "p256", .networks = "fd00::/8"}},
    {2, KM_CERT_25519, false, {.networks = "10.77.1.5/16"}},
    {2, KM_CERT_25519, false, {.networks = "fd00::5/64 10.77.1.5/16", .groups = "a b"}},
    {2, KM_CERT_25519, false, {.networks = "fd00::5/128", .unsafe = "2001:db8::/32 ::/0"}},
    {2, KM_CERT_P256, false, {.networks = "10.77.1.5/16"}},
    {2,
     KM_CERT_P256,
     false,
     {.networks = "fd00::5/64 10.77.1.5/16", .unsafe = "1.0.0.0/8", .groups = "a b"}},
};

struct desk {
	struct authority a;
	struct km_cert *host, *cert; /* cert: the one under test */
	struct km_cert_pool *pool;   /* has the host's CA */
};

static void desk_open(struct desk *d, const struct sample *s)
{
	static const struct says open = {.name = "unlimited"};

	*d = (struct desk){.host = NULL};
	d->a = authority_new(s->version, s->curve, s->is_ca ? s->says : open);
	d->pool = pool_of(&d->a);
	if (!s->is_ca)
		d->host = host_new(&d->a, s->version, s->says);
	d->cert = s->is_ca ? d->a.cert : d->host;
}

static void desk_close(struct desk *d)
{
	km_cert_free(d->host);
	authority_free(&d->a);
	km_cert_pool_free(d->pool);
}

/* Whether these bytes are taken: as a CA by an empty pool, as a host by the pool with its CA. */
static bool taken(const struct desk *d, const struct sample *s, const uint8_t *p, size_t n)
{
	struct km_cert_pool *pool;
	struct km_cert *c;
	bool yes = false;

	if (km_cert_parse(&c, s->version, p, n, NULL))
		return false;
	if (s->is_ca) {
		pool = km_cert_pool_new();
		yes = !km_cert_pool_add(pool, c, NULL);
		km_cert_pool_free(pool);
	}
	yes = yes || !km_cert_verify(d->pool, c, KM_CERT_ANY_TIME, NULL);
	km_cert_free(c);
	return yes;
}

static void every_bit_counts(void **state)
{
	(void)state;
	assert_int_equal(KM_ARRAY_LEN(samples), 20);
	for (size_t i = 0; i < KM_ARRAY_LEN(samples); i++) {
		struct desk d;
		uint8_t *p;
		size_t n;

		desk_open(&d, &samples[i]);
		n = d.cert->raw_len;
		p = guarded(d.cert->raw, n);
		assert_true(taken(&d, &samples[i], p, n));
		for (size_t bit = 0; bit < n * 8; bit++) {
			p[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (taken(&d, &samples[i], p, n))
				fail_msg("sample %zu, bit %zu", i, bit);
			p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		unguard(p, n);
		desk_close(&d);
	}
}

static void every_byte_counts(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(samples); i++) {
		struct desk d;
		uint8_t *p;

		desk_open(&d, &samples[i]);
		for (size_t n = 0; n < d.cert->raw_len; n++) {
			p = guarded(d.cert->raw, n);
			assert_false(taken(&d, &samples[i], p, n));
			unguard(p, n);
		}
		/* One more is one too many. */
		p = malloc(d.cert->raw_len + 1);
		assert_non_null(p);
		memcpy(p, d.cert->raw, d.cert->raw_len);
		p[d.cert->raw_len] = 0;
		assert_false(taken(&d, &samples[i], p, d.cert->raw_len + 1));
		free(p);
		desk_close(&d);
	}
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(samples); i++) {
		struct km_cert *again, *copy;
		struct desk d;
		struct km_buf b;
		const char *text;
		size_t left;

		desk_open(&d, &samples[i]);
		km_buf_init(&b, KM_CERT_PEM_MAX);
		assert_int_equal(km_cert_to_pem(&b, d.cert), 0);
		text = (const char *)km_buf_head(&b);
		left = b.len;
		assert_int_equal(km_cert_from_pem(&again, &text, &left, NULL), 0);
		assert_int_equal(left, 0);
		copy = km_cert_copy(again);
		assert_non_null(copy);
		assert_int_equal(copy->raw_len, d.cert->raw_len);
		assert_memory_equal(copy->raw, d.cert->raw, copy->raw_len);
		assert_memory_equal(copy->fingerprint, d.cert->fingerprint, KM_CERT_FP_LEN);
		assert_string_equal(copy->name,
				    samples[i].says.name ? samples[i].says.name : "host");
		assert_int_equal(copy->not_before,
				 samples[i].says.from ? samples[i].says.from : FROM);
		assert_int_equal(copy->n_networks, d.cert->n_networks);
		for (size_t k = 0; k < copy->n_networks; k++)
			assert_true(km_prefix_eq(&copy->networks[k], &d.cert->networks[k]));
		km_cert_free(copy);
		km_cert_free(again);
		km_buf_free(&b);
		desk_close(&d);
	}
}

/* The PEM text cut anywhere is no certificate, and nothing is read behind its end. */
static void every_character_of_pem_counts(void **state)
{
	struct authority a = authority_new(1, KM_CERT_25519, (struct says){.name = "ca"});
	struct km_buf b;

	(void)state;
	km_buf_init(&b, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&b, a.cert), 0);
	for (size_t n = 0; n < b.len - 1; n++) { /* the last newline may be missing */
		uint8_t *p = guarded(km_buf_head(&b), n);
		const char *text = (const char *)p;
		size_t left = n;
		struct km_cert *c;

		assert_true(km_cert_from_pem(&c, &text, &left, NULL) < 0);
		unguard(p, n);
	}
	km_buf_free(&b);
	authority_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_bit_counts),
	    cmocka_unit_test(every_byte_counts),
	    cmocka_unit_test(what_is_written_is_read),
	    cmocka_unit_test(every_character_of_pem_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
