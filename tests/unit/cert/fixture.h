/* SPDX-License-Identifier: MIT */
/* CAs and hosts for the tests of certificates; included behind cmocka's headers. */
#ifndef TESTS_UNIT_CERT_FIXTURE_H
#define TESTS_UNIT_CERT_FIXTURE_H

#include "libkm/base/util.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pool.h"
#include "libkm/cert/sign.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define FROM 1795239580 /* 2026-11-21 */
#define TO 1826775580   /* a year later */
#define NOW ((struct km_cert_when){.now = FROM + 1000})
#define LIST_MAX 8

/* Lists are given as text, items between blanks. */
struct says {
	const char *name, *networks, *unsafe, *groups;
	int64_t from, to; /* 0: FROM, TO (a host: a second within) */
};

struct parsed {
	char *text;
	const char *groups[LIST_MAX];
	size_t n_groups;
	struct km_prefix networks[LIST_MAX], unsafe[LIST_MAX];
	size_t n_networks, n_unsafe;
};

static inline size_t split(char *text, const char **items)
{
	size_t n = 0;

	for (char *save, *s = strtok_r(text, " ", &save); s; s = strtok_r(NULL, " ", &save)) {
		assert_true(n < LIST_MAX);
		items[n++] = s;
	}
	return n;
}

static inline size_t prefixes(const char *list, struct km_prefix *to)
{
	char *text = km_xstrdup(list ? list : "");
	const char *items[LIST_MAX];
	size_t n = split(text, items);

	for (size_t i = 0; i < n; i++)
		assert_int_equal(km_prefix_parse(&to[i], items[i]), 0);
	free(text);
	return n;
}

static inline struct km_cert_spec spec_of(struct parsed *p, const struct says *s, int version,
					  int curve)
{
	p->n_networks = prefixes(s->networks, p->networks);
	p->n_unsafe = prefixes(s->unsafe, p->unsafe);
	p->text = km_xstrdup(s->groups ? s->groups : "");
	p->n_groups = split(p->text, p->groups);
	return (struct km_cert_spec){
	    .version = version,
	    .curve = curve,
	    .name = s->name ? s->name : "host",
	    .networks = p->networks,
	    .n_networks = p->n_networks,
	    .unsafe_networks = p->unsafe,
	    .n_unsafe_networks = p->n_unsafe,
	    .groups = p->groups,
	    .n_groups = p->n_groups,
	    .not_before = s->from ? s->from : FROM,
	    .not_after = s->to ? s->to : TO,
	};
}

/* A CA and its key. */
struct authority {
	struct km_cert_key key;
	struct km_cert *cert;
};

static inline struct authority authority_new(int version, int curve, struct says s)
{
	struct authority a;
	struct parsed p;
	struct km_cert_spec spec = spec_of(&p, &s, version, curve);
	struct km_errtext err = {""};

	if (!s.name)
		spec.name = "ca";
	assert_int_equal(km_cert_key_new(&a.key, curve, true), 0);
	if (km_cert_self_sign(&a.cert, &spec, &a.key, &err))
		fail_msg("%s", err.text);
	free(p.text);
	return a;
}

static inline void authority_free(struct authority *a)
{
	km_cert_free(a->cert);
}

/* What signing for this host comes to. */
static inline int host_try(struct km_cert **out, const struct authority *a, int version,
			   struct says s, struct km_errtext *err)
{
	struct km_cert_key key;
	struct parsed p;
	struct km_cert_spec spec = spec_of(&p, &s, version, a->cert->curve);
	int rc;

	assert_int_equal(km_cert_key_new(&key, a->cert->curve, false), 0);
	spec.public_key = key.pub;
	spec.public_key_len = key.pub_len;
	rc = km_cert_sign(out, &spec, a->cert, &a->key, err);
	free(p.text);
	return rc;
}

static inline struct km_cert *host_new(const struct authority *a, int version, struct says s)
{
	struct km_errtext err = {""};
	struct km_cert *c;

	if (host_try(&c, a, version, s, &err))
		fail_msg("%s", err.text);
	return c;
}

static inline struct km_cert_pool *pool_of(const struct authority *a)
{
	struct km_cert_pool *pool = km_cert_pool_new();

	assert_non_null(pool);
	assert_int_equal(km_cert_pool_add(pool, a->cert, NULL), 0);
	return pool;
}

static inline struct km_cert *from_pem(const char *text)
{
	size_t n = strlen(text);
	struct km_errtext err = {""};
	struct km_cert *c;

	if (km_cert_from_pem(&c, &text, &n, &err))
		fail_msg("%s", err.text);
	return c;
}

/* n bytes right before memory that may not be touched; unguard gives them back. */
static inline uint8_t *guarded(const void *p, size_t n)
{
	size_t room = (n + 4095) / 4096 * 4096;
	uint8_t *m =
	    mmap(NULL, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(m != MAP_FAILED);
	assert_int_equal(mprotect(m + room, 4096, PROT_NONE), 0);
	if (n)
		memcpy(m + room - n, p, n);
	return m + room - n;
}

static inline void unguard(uint8_t *p, size_t n)
{
	size_t room = (n + 4095) / 4096 * 4096;

	munmap(p + n - room, room + 4096);
}

#endif
