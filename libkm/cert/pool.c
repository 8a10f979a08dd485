/* SPDX-License-Identifier: MIT */
#include "libkm/cert/pool.h"
#include "libkm/base/util.h"
#include "libkm/cert/key.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* uthash: no memory is an error, not the end of the process. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(e) ((e)->no_memory = true)
#include <uthash.h>

struct blocked {
	uint8_t fp[KM_CERT_FP_LEN];
	bool no_memory;
	UT_hash_handle hh;
};

struct km_cert_pool {
	struct km_cert *cas[KM_CERT_POOL_MAX];
	size_t n;
	struct blocked *blocked;
};

struct km_cert_pool *km_cert_pool_new(void)
{
	return calloc(1, sizeof(struct km_cert_pool));
}

static void drop_from(struct km_cert_pool *pool, size_t n)
{
	while (pool->n > n)
		km_cert_free(pool->cas[--pool->n]);
}

void km_cert_pool_free(struct km_cert_pool *pool)
{
	struct blocked *b, *tmp;

	if (!pool)
		return;
	drop_from(pool, 0);
	HASH_ITER (hh, pool->blocked, b, tmp) {
		HASH_DEL(pool->blocked, b);
		free(b);
	}
	free(pool);
}

int km_cert_pool_add(struct km_cert_pool *pool, const struct km_cert *ca, struct km_errtext *err)
{
	struct km_cert *copy;

	if (!ca->is_ca)
		return km_errtext_set(err, KM_CERT_ENOTCA, "%s: %s", ca->name,
				      km_cert_strerror(KM_CERT_ENOTCA));
	if (!km_cert_sig_ok(ca->curve, ca->public_key, ca->public_key_len, ca->tbs, ca->tbs_len,
			    ca->signature, ca->signature_len))
		return km_errtext_set(err, KM_CERT_ENOTSELF, "%s: %s", ca->name,
				      km_cert_strerror(KM_CERT_ENOTSELF));
	if (km_cert_pool_find(pool, ca->fingerprint))
		return 0;
	if (pool->n >= KM_CERT_POOL_MAX)
		return km_errtext_set(err, KM_EFULL, "more than %d CAs", KM_CERT_POOL_MAX);
	copy = km_cert_copy(ca);
	if (!copy)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	pool->cas[pool->n++] = copy;
	return 0;
}

int km_cert_pool_add_pem(struct km_cert_pool *pool, const char *text, size_t n,
			 struct km_errtext *err)
{
	size_t before = pool->n, seen = 0;
	struct km_cert *c;
	int rc;

	while (!(rc = km_cert_from_pem(&c, &text, &n, err))) {
		rc = km_cert_pool_add(pool, c, err);
		km_cert_free(c);
		if (rc)
			break;
		seen++;
	}
	if (rc == KM_ENOTFOUND && seen)
		return 0;
	drop_from(pool, before);
	return rc;
}

static bool has_blocked(const struct km_cert_pool *pool, const uint8_t *fp)
{
	struct blocked *b;

	HASH_FIND(hh, pool->blocked, fp, KM_CERT_FP_LEN, b);
	return b != NULL;
}

int km_cert_pool_block(struct km_cert_pool *pool, const uint8_t fp[static KM_CERT_FP_LEN])
{
	struct blocked *b;

	if (has_blocked(pool, fp))
		return 0;
	if (HASH_COUNT(pool->blocked) >= KM_CERT_BLOCKED_MAX)
		return KM_EFULL;
	b = calloc(1, sizeof(*b));
	if (!b)
		return KM_ENOMEM;
	memcpy(b->fp, fp, sizeof(b->fp));
	HASH_ADD(hh, pool->blocked, fp, sizeof(b->fp), b);
	if (b->no_memory) {
		free(b);
		return KM_ENOMEM;
	}
	return 0;
}

size_t km_cert_pool_size(const struct km_cert_pool *pool)
{
	return pool->n;
}

const struct km_cert *km_cert_pool_at(const struct km_cert_pool *pool, size_t i)
{
	return i < pool->n ? pool->cas[i] : NULL;
}

const struct km_cert *km_cert_pool_find(const struct km_cert_pool *pool,
					const uint8_t fp[static KM_CERT_FP_LEN])
{
	for (size_t i = 0; i < pool->n; i++)
		if (!memcmp(pool->cas[i]->fingerprint, fp, KM_CERT_FP_LEN))
			return pool->cas[i];
	return NULL;
}

bool km_cert_pool_is_blocked(const struct km_cert_pool *pool, const struct km_cert *c)
{
	return has_blocked(pool, c->fingerprint) || has_blocked(pool, c->fingerprint2);
}
