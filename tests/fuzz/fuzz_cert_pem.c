/* SPDX-License-Identifier: MIT */
/* A PEM text: as blocks, certificates, CAs, keys and a trust bundle. What a block held is found
 * again where it is written anew. */
#include "libkm/cert/bundle.h"
#include "libkm/cert/pem.h"
#include "tests/fuzz/fuzz_cert.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void round_trip(const struct km_pem *pem)
{
	struct km_pem again;
	struct km_buf b;
	const char *at;
	size_t left;

	km_buf_init(&b, 1 << 20);
	must(!km_pem_write(&b, pem->banner, pem->body, pem->len));
	at = (const char *)km_buf_head(&b);
	left = b.len;
	must(!km_pem_next(&again, &at, &left, pem->len, NULL) && !left);
	must(!strcmp(again.banner, pem->banner) && again.len == pem->len &&
	     !memcmp(again.body, pem->body, pem->len));
	km_pem_free(&again);
	km_buf_free(&b);
}

static void as_blocks(const char *text, size_t n)
{
	struct km_pem pem;

	while (!km_pem_next(&pem, &text, &n, KM_CERT_MAX, NULL)) {
		round_trip(&pem);
		km_pem_free(&pem);
	}
}

static void as_certs(const char *text, size_t n)
{
	struct km_cert *c;

	while (!km_cert_from_pem(&c, &text, &n, NULL)) {
		check_cert(c, c->raw, c->raw_len);
		km_cert_free(c);
	}
}

static void as_bundle(const char *text, size_t n)
{
	struct km_bundle *b, *merged = NULL;
	struct km_buf out;

	if (km_bundle_parse(&b, text, n, NULL))
		return;
	km_buf_init(&out, KM_BUNDLE_PEM_MAX);
	must(!km_bundle_format(&out, b) && b->n_cas);
	must(!km_bundle_accept(b, b, KM_CERT_ANY_TIME, &merged, NULL, NULL) && !merged);
	km_buf_free(&out);
	km_bundle_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const char *text = (const char *)p;
	struct km_cert_pool *pool = km_cert_pool_new();
	struct km_cert_key k;

	must(pool);
	as_blocks(text, n);
	as_certs(text, n);
	as_bundle(text, n);
	(void)!km_cert_pool_add_pem(pool, text, n, NULL);
	km_cert_pool_free(pool);
	(void)!km_cert_key_from_pem(&k, text, n, NULL);
	(void)!km_cert_pub_from_pem(&k, text, n, NULL);
	return 0;
}
