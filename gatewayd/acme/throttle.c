/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/throttle.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <jansson.h>
#include <libpsl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define HOUR_MS 3600000LL
#define FILE_MAX (16 << 20)

/* A bucket that is full is not in the table. The key's first letter says what it counts. */
struct bucket {
	double used; /* tokens */
	int64_t at_ms;
	UT_hash_handle hh;
	char key[];
};

enum limit { LIMIT_ORDERS, LIMIT_DOMAIN, LIMIT_SET, LIMIT_FAILURES, LIMITS };
static const char limit_key[] = {'o', 'd', 's', 'f'};

struct throttle {
	struct throttle_rate rates[LIMITS];
	struct bucket *all;
	char *path;
	bool dirty;
};

/* ---- buckets ---- */

static enum limit limit_of(const char *key)
{
	size_t i = 0;
	while (i < LIMITS - 1 && limit_key[i] != key[0])
		i++;
	return (enum limit)i;
}

static double used_now(const struct throttle *t, const struct bucket *b, int64_t mono_ms)
{
	const struct throttle_rate *r = &t->rates[limit_of(b->key)];
	int64_t passed = mono_ms > b->at_ms ? mono_ms - b->at_ms : 0;
	double used = b->used - (double)passed * (double)r->n / (double)r->ms;
	return used > 0 ? used : 0;
}

static void bucket_drop(struct throttle *t, struct bucket *b)
{
	HASH_DEL(t->all, b);
	free(b);
}

/* Forgets buckets that are full again, and where that is not enough all that are nearly so. */
static void tidy(struct throttle *t, int64_t mono_ms)
{
	struct bucket *b, *tmp;
	for (int halves = 0; HASH_COUNT(t->all) >= THROTTLE_BUCKETS_MAX; halves++)
		HASH_ITER (hh, t->all, b, tmp)
			if (2 * used_now(t, b, mono_ms) <= halves && b->key[0] != 'o')
				bucket_drop(t, b);
}

static struct bucket *bucket_find(const struct throttle *t, const char *key)
{
	struct bucket *b;
	HASH_FIND_STR(t->all, key, b);
	return b;
}

static struct bucket *bucket_get(struct throttle *t, const char *key, int64_t mono_ms)
{
	struct bucket *b = bucket_find(t, key);
	size_t n = strlen(key) + 1;
	if (b)
		return b;
	if (HASH_COUNT(t->all) >= THROTTLE_BUCKETS_MAX)
		tidy(t, mono_ms);
	if (!(b = calloc(1, sizeof(*b) + n)))
		return NULL;
	memcpy(b->key, key, n);
	b->at_ms = mono_ms;
	HASH_ADD_STR(t->all, key, b);
	return b;
}

#define KEY_MAX 320
/* The key of what limit counts for this name. */
static void key_make(char key[static KEY_MAX], enum limit limit, const char *name)
{
	const char *bare = strncmp(name, "*.", 2) ? name : name + 2;
	switch (limit) {
	case LIMIT_ORDERS:
		strcpy(key, "o");
		break;
	case LIMIT_DOMAIN:
		snprintf(key, KEY_MAX, "d%s", throttle_registered(bare));
		break;
	case LIMIT_SET:
		snprintf(key, KEY_MAX, "s%s", name);
		break;
	default:
		snprintf(key, KEY_MAX, "f%s", bare);
	}
}

static void use(struct throttle *t, enum limit limit, const char *name, double tokens,
		int64_t mono_ms)
{
	char key[KEY_MAX];
	key_make(key, limit, name);
	struct bucket *b = bucket_get(t, key, mono_ms);
	if (!b)
		return; /* no memory: counted too little, and then the CA counts */
	b->used = used_now(t, b, mono_ms) + tokens;
	b->at_ms = mono_ms;
	t->dirty = true;
	if (b->used <= 0)
		bucket_drop(t, b);
}

/* ---- what is asked ---- */

const char *throttle_registered(const char *name)
{
	const psl_ctx_t *psl = psl_builtin();
	struct km_addr a;
	const char *r = psl && km_addr_parse(&a, name) ? psl_registrable_domain(psl, name) : NULL;
	return r ? r : name;
}

static void duration_text(char *out, size_t size, int64_t ms)
{
	static const struct {
		int64_t ms;
		const char *unit;
	} units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
	size_t i = 0;
	while (ms % units[i].ms)
		i++;
	snprintf(out, size, "%lld%s", (long long)(ms / units[i].ms), units[i].unit);
}

static void explain(const struct throttle *t, enum limit limit, const char *key, char *why, size_t size)
{
	static const char *const of[] = {"orders", "certificates below", "certificates for",
					 "failed validations of"};
	char time[32];
	duration_text(time, sizeof(time), t->rates[limit].ms);
	snprintf(why, size, "%lld %s%s%s in %s", (long long)t->rates[limit].n, of[limit],
		 key[1] ? " " : "", key + 1, time);
}

int64_t throttle_wait(const struct throttle *t, const char *name, int64_t mono_ms, char *why,
		      size_t size)
{
	char key[KEY_MAX];
	int64_t longest = 0;
	for (size_t i = 0; i < LIMITS; i++) {
		const struct throttle_rate *r = &t->rates[i];
		key_make(key, (enum limit)i, name);
		const struct bucket *b = bucket_find(t, key);
		double over = b ? used_now(t, b, mono_ms) + 1 - (double)r->n : 0;
		int64_t ms = over > 0 ? (int64_t)(over * (double)r->ms / (double)r->n) + 1 : 0;
		if (ms <= longest)
			continue;
		longest = ms;
		explain(t, (enum limit)i, key, why, size);
	}
	return longest;
}

void throttle_order(struct throttle *t, const char *name, int64_t mono_ms)
{
	use(t, LIMIT_ORDERS, name, 1, mono_ms);
	use(t, LIMIT_DOMAIN, name, 1, mono_ms);
	use(t, LIMIT_SET, name, 1, mono_ms);
}

void throttle_undo(struct throttle *t, const char *name, bool made, int64_t mono_ms)
{
	if (!made)
		use(t, LIMIT_ORDERS, name, -1, mono_ms);
	use(t, LIMIT_DOMAIN, name, -1, mono_ms);
	use(t, LIMIT_SET, name, -1, mono_ms);
}

void throttle_failed(struct throttle *t, const char *name, int64_t mono_ms)
{
	use(t, LIMIT_FAILURES, name, 1, mono_ms);
}

/* ---- on disk: {"at": wall clock, "used": {KEY: tokens}} ---- */

static void load(struct throttle *t, int64_t mono_ms, int64_t wall_ms)
{
	const char *key;
	char *text = NULL;
	json_t *v;
	size_t n;
	if (!t->path || km_file_read(t->path, FILE_MAX, &text, &n))
		return;
	json_t *o = json_loadb(text, n, 0, NULL);
	int64_t at = json_integer_value(json_object_get(o, "at"));
	int64_t passed = at && at < wall_ms ? wall_ms - at : 0;
	json_object_foreach(json_object_get(o, "used"), key, v) {
		struct bucket *b = key[0] && strlen(key) < KEY_MAX && json_is_number(v)
				       ? bucket_get(t, key, mono_ms)
				       : NULL;
		double most = b ? (double)t->rates[limit_of(key)].n : 0;
		if (!b)
			continue;
		b->used = json_number_value(v) < most ? json_number_value(v) : most;
		b->at_ms = mono_ms - passed;
	}
	json_decref(o);
	free(text);
}

int throttle_save(struct throttle *t, int64_t mono_ms, int64_t wall_ms)
{
	struct bucket *b, *tmp;
	if (!t->path || !t->dirty)
		return 0;
	json_t *used = json_object();
	HASH_ITER (hh, t->all, b, tmp) {
		double now = used_now(t, b, mono_ms);
		if (now > 0)
			json_object_set_new(used, b->key, json_real(now));
		else
			bucket_drop(t, b);
	}
	json_t *o = json_pack("{sI so}", "at", (json_int_t)wall_ms, "used", used);
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8)) : NULL;
	int rc = text ? km_file_write(t->path, text, strlen(text), 0600) : KM_ENOMEM;
	json_decref(o);
	free(text);
	t->dirty = rc != 0;
	return rc;
}

struct throttle *throttle_new(struct throttle_rate orders, struct throttle_rate domain,
			      struct throttle_rate name, const char *path, int64_t mono_ms, int64_t wall_ms)
{
	struct throttle *t = calloc(1, sizeof(*t));
	if (!t || (path && !(t->path = strdup(path)))) {
		free(t);
		return NULL;
	}
	t->rates[LIMIT_ORDERS] = orders;
	t->rates[LIMIT_DOMAIN] = domain;
	t->rates[LIMIT_SET] = name;
	t->rates[LIMIT_FAILURES] = (struct throttle_rate){THROTTLE_FAILURES_MAX, HOUR_MS};
	load(t, mono_ms, wall_ms);
	return t;
}

void throttle_free(struct throttle *t)
{
	struct bucket *b, *tmp;
	if (!t)
		return;
	HASH_ITER (hh, t->all, b, tmp)
		bucket_drop(t, b);
	free(t->path);
	free(t);
}
