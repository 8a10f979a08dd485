/* SPDX-License-Identifier: MIT */
/* What the fuzz targets of certificates share: what is taken must be what would be written. */
#ifndef TESTS_FUZZ_FUZZ_CERT_H
#define TESTS_FUZZ_FUZZ_CERT_H

#include "libkm/base/util.h"
#include "libkm/cert/pool.h"
#include "libkm/cert/print.h"
#include <stdlib.h>
#include <string.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* A certificate that was taken from these bytes. */
static inline void check_cert(const struct km_cert *c, const uint8_t *p, size_t n)
{
	struct km_cert_pool *pool = km_cert_pool_new();
	struct km_cert *again;
	struct km_buf b;

	must(c->raw_len == n && !memcmp(c->raw, p, n));
	must(strlen(c->name) <= KM_CERT_NAME_MAX && c->n_groups <= KM_CERT_ITEMS_MAX);
	must(c->is_ca == !c->has_issuer && (c->is_ca || c->n_networks));
	for (size_t i = 0; i < c->n_groups; i++)
		must(km_cert_has_group(c, c->groups[i]) && *c->groups[i]);
	again = km_cert_copy(c);
	must(again && !memcmp(again->fingerprint, c->fingerprint, KM_CERT_FP_LEN) &&
	     !memcmp(again->fingerprint2, c->fingerprint2, KM_CERT_FP_LEN));
	km_cert_free(again);

	/* Nobody has signed it, so nobody trusts it, but each rule is run. */
	must(pool && km_cert_verify(pool, c, KM_CERT_ANY_TIME, NULL) < 0);
	must(km_cert_constraints(c, c, NULL) <= 0);
	(void)!km_cert_pool_add(pool, c, NULL);
	km_cert_pool_free(pool);

	km_buf_init(&b, 1 << 20);
	must(!km_cert_print(&b, c) && !km_cert_print_json(&b, c) && !km_cert_to_pem(&b, c));
	km_buf_free(&b);
}

/* One encoded certificate of this version. */
static inline int fuzz_version(int version, const uint8_t *p, size_t n)
{
	struct km_errtext err = {""};
	struct km_cert *c;
	int rc = km_cert_parse(&c, version, p, n, &err);

	if (rc) {
		must(!c && *err.text);
		must(rc == KM_EINVAL || rc == KM_ETRUNC || rc == KM_ETOOBIG);
		return 0;
	}
	check_cert(c, p, n);
	km_cert_free(c);
	return 0;
}

#endif
