/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/byaddr.h"
#include "libkm/base/err.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static struct byaddr_key key(const char *text, const uint8_t *scope)
{
	struct km_addr a;
	assert_int_equal(km_addr_parse(&a, text), 0);
	return byaddr_key(&a, scope);
}

/* Adds arg to a counter, tells what it is then, and keeps what is not 0. */
struct add {
	int by, now;
};
static bool add(void *value, void *arg)
{
	int *n = value;
	struct add *a = arg;
	*n += a->by;
	a->now = *n;
	return *n != 0;
}

static int added(struct byaddr *t, struct byaddr_key k, int by)
{
	struct add a = {.by = by};
	assert_int_equal(byaddr_use(t, &k, add, &a), 0);
	return a.now;
}

static void who_is_one(void **state)
{
	struct byaddr *t = byaddr_new(&(struct byaddr_opts){.max = 100, .value = sizeof(int)});
	static const uint8_t scope[BYADDR_SCOPE] = "another tunnel..";
	(void)state;
	assert_non_null(t);
	assert_int_equal(added(t, key("192.0.2.1", NULL), 1), 1);
	assert_int_equal(added(t, key("192.0.2.1", NULL), 1), 2);
	assert_int_equal(added(t, key("192.0.2.2", NULL), 1), 1);
	assert_int_equal(added(t, key("192.0.2.1", scope), 1), 1);
	assert_int_equal(added(t, key("2001:db8::1", NULL), 1), 1);
	assert_int_equal(added(t, key("2001:db8::ffff:ffff:ffff:ffff", NULL), 1), 2);
	assert_int_equal(added(t, key("2001:db8:0:1::1", NULL), 1), 1);
	/* The same bytes in another family. */
	assert_int_equal(added(t, key("c000:0201::", NULL), 1), 1);
	assert_int_equal(byaddr_count(t), 6);
	byaddr_free(t);
}

static void what_is_not_kept_is_gone(void **state)
{
	struct byaddr *t = byaddr_new(&(struct byaddr_opts){.max = 100, .value = sizeof(int)});
	(void)state;
	assert_non_null(t);
	added(t, key("192.0.2.1", NULL), 2);
	assert_int_equal(byaddr_count(t), 1);
	added(t, key("192.0.2.1", NULL), -2);
	assert_int_equal(byaddr_count(t), 0);
	assert_int_equal(added(t, key("192.0.2.1", NULL), 7), 7);
	byaddr_free(t);
}

static struct byaddr_key nth(unsigned i)
{
	char text[32];
	snprintf(text, sizeof(text), "10.%u.%u.%u", i >> 16 & 255, i >> 8 & 255, i & 255);
	return key(text, NULL);
}

static void full_refuses(void **state)
{
	struct byaddr *t = byaddr_new(&(struct byaddr_opts){.max = 1000, .value = sizeof(int)});
	struct add a = {.by = 1};
	unsigned refused = 0;
	(void)state;
	assert_non_null(t);
	for (unsigned i = 0; i < 1000; i++)
		added(t, nth(i), 1);
	for (unsigned i = 1000; i < 10000; i++) {
		struct byaddr_key k = nth(i);
		int rc = byaddr_use(t, &k, add, &a);
		assert_true(rc == 0 || rc == KM_EFULL);
		refused += rc != 0;
	}
	assert_true(refused > 5000);
	assert_int_equal(byaddr_count(t), 10000 - refused);
	/* Who is in stays, and can go. */
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(added(t, nth(i), 1), 2);
	byaddr_free(t);
}

static void full_evicts_who_was_longest_unused(void **state)
{
	struct byaddr *t =
	    byaddr_new(&(struct byaddr_opts){.max = 1000, .value = sizeof(int), .evict = true});
	(void)state;
	assert_non_null(t);
	for (unsigned i = 0; i < 50000; i++) {
		added(t, nth(i), 1);
		assert_int_equal(added(t, key("192.0.2.1", NULL), 1), (int)i + 1);
	}
	assert_true(byaddr_count(t) < 3000);
	assert_int_equal(added(t, nth(0), 1), 1);     /* long gone */
	assert_int_equal(added(t, nth(49999), 1), 2); /* still there */
	byaddr_free(t);
}

static void *from_a_thread(void *arg)
{
	for (unsigned i = 0; i < 20000; i++) {
		struct byaddr_key k = nth(i % 100);
		struct add a = {.by = 1};
		if (byaddr_use(arg, &k, add, &a))
			return arg;
		a.by = -1;
		if (byaddr_use(arg, &k, add, &a))
			return arg;
	}
	return NULL;
}

static void from_threads(void **state)
{
	struct byaddr *t = byaddr_new(&(struct byaddr_opts){.max = 1000, .value = sizeof(int)});
	pthread_t threads[4];
	void *failed;
	(void)state;
	assert_non_null(t);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, from_a_thread, t), 0);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(byaddr_count(t), 0);
	byaddr_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_is_one),   cmocka_unit_test(what_is_not_kept_is_gone),
	    cmocka_unit_test(full_refuses), cmocka_unit_test(full_evicts_who_was_longest_unused),
	    cmocka_unit_test(from_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
