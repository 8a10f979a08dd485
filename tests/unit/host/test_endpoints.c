/* SPDX-License-Identifier: MIT */
/* Which address of a peer is used: order, failures, names that change, what is kept on disk. */
#include "libkm/base/util.h"
#include "libkm/host/endpoints.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

static struct km_addr addr(const char *s)
{
	struct km_addr a;

	assert_int_equal(km_addr_parse(&a, s), 0);
	return a;
}

static struct km_endpoints *of(const char *first, const char *second)
{
	struct km_endpoints *e = km_endpoints_new();
	const char *const entries[] = {first, second};

	km_endpoints_set(e, entries, second ? 2 : 1);
	return e;
}

/* addresses: separated by spaces */
static bool resolved(struct km_endpoints *e, size_t i, const char *addresses)
{
	struct km_addr list[2 * KM_ENDPOINTS_ADDRS];
	char copy[512], *rest = copy, *word;
	size_t n = 0;

	snprintf(copy, sizeof(copy), "%s", addresses);
	while ((word = strsep(&rest, " ")) && *word)
		list[n++] = addr(word);
	return km_endpoints_resolved(e, i, list, n);
}

static bool any(void *arg, const struct km_addr *a)
{
	(void)arg;
	(void)a;
	return true;
}

static bool only_v4(void *arg, const struct km_addr *a)
{
	(void)arg;
	return a->family == AF_INET;
}

static bool none(void *arg, const struct km_addr *a)
{
	(void)arg;
	(void)a;
	return false;
}

static void assert_used(struct km_endpoints *e, const char *want)
{
	char text[KM_ADDR_STRLEN];

	km_endpoints_choose(e, any, NULL);
	assert_non_null(km_endpoints_used(e));
	assert_string_equal(km_addr_str(km_endpoints_used(e), text), want);
}

static void lose(struct km_endpoints *e, unsigned times)
{
	while (times--)
		km_endpoints_failed(e);
}

static void the_next_after_two_failures(void **state)
{
	struct km_endpoints *e = of("192.0.2.1", "gw.example");

	(void)state;
	assert_false(km_endpoints_choose(e, none, NULL));
	assert_null(km_endpoints_used(e));
	assert_null(km_endpoints_host(e, 0));
	assert_string_equal(km_endpoints_host(e, 1), "gw.example");
	assert_null(km_endpoints_host(e, 2));
	assert_used(e, "192.0.2.1");
	lose(e, 5); /* the only one so far: it is tried on */
	assert_used(e, "192.0.2.1");
	assert_true(resolved(e, 1, "198.51.100.1 198.51.100.2"));
	assert_int_equal(km_endpoints_candidates(e), 3);
	assert_used(e, "198.51.100.1");
	lose(e, 1);
	assert_used(e, "198.51.100.1");
	lose(e, 1);
	assert_used(e, "198.51.100.2");
	lose(e, 2);
	assert_used(e, "192.0.2.1"); /* round again, in the order in which they failed */
	lose(e, 2);
	assert_used(e, "198.51.100.1");
	/* one that works has no failures behind it: two more before it is left */
	lose(e, 1);
	assert_true(km_endpoints_works(e));
	assert_false(km_endpoints_works(e));
	lose(e, 1);
	assert_used(e, "198.51.100.1");
	lose(e, 1);
	assert_used(e, "198.51.100.2");
	km_endpoints_free(e);
}

static void the_working_one_stays(void **state)
{
	struct km_endpoints *e = of("gw.example", NULL);

	(void)state;
	resolved(e, 0, "192.0.2.1 192.0.2.2");
	assert_used(e, "192.0.2.1");
	km_endpoints_works(e);
	/* another order is no news; a name that moves does not move what works */
	assert_false(resolved(e, 0, "192.0.2.2 192.0.2.1"));
	assert_used(e, "192.0.2.1");
	assert_true(resolved(e, 0, "192.0.2.2 192.0.2.3"));
	assert_used(e, "192.0.2.1");
	/* but it takes one failure only then */
	lose(e, 1);
	assert_used(e, "192.0.2.2");
	/* no answer: the last one stays */
	assert_false(resolved(e, 0, ""));
	assert_int_equal(km_endpoints_candidates(e), 2);
	/* a new one comes before those that have failed */
	lose(e, 2);
	assert_used(e, "192.0.2.3");
	resolved(e, 0, "192.0.2.2 192.0.2.3 192.0.2.4");
	lose(e, 2);
	assert_used(e, "192.0.2.4");
	lose(e, 2);
	assert_used(e, "192.0.2.2");
	km_endpoints_free(e);
}

static void without_a_route_it_is_skipped(void **state)
{
	struct km_endpoints *e = of("gw.example", NULL);
	char text[KM_ADDR_STRLEN];

	(void)state;
	resolved(e, 0, "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2");
	assert_true(km_endpoints_choose(e, only_v4, NULL));
	assert_string_equal(km_addr_str(km_endpoints_used(e), text), "192.0.2.1");
	lose(e, 2);
	assert_true(km_endpoints_choose(e, only_v4, NULL));
	assert_string_equal(km_addr_str(km_endpoints_used(e), text), "192.0.2.2");
	lose(e, 2);
	assert_false(km_endpoints_choose(e, none, NULL));
	assert_string_equal(km_addr_str(km_endpoints_used(e), text), "192.0.2.2");
	assert_used(e, "2001:db8::1");
	/* a route that goes: one failure is enough */
	km_endpoints_works(e);
	assert_false(km_endpoints_choose(e, only_v4, NULL));
	lose(e, 1);
	assert_true(km_endpoints_choose(e, only_v4, NULL));
	km_endpoints_free(e);
}

static void entries_change(void **state)
{
	const char *const now[] = {"198.51.100.9", "gw.example"}, *const later[] = {"198.51.100.7"};
	struct km_endpoints *e = of("gw.example", "192.0.2.9");

	(void)state;
	resolved(e, 0, "192.0.2.1");
	assert_used(e, "192.0.2.1");
	km_endpoints_works(e);
	km_endpoints_set(e, now, 2); /* still named, and still known */
	assert_used(e, "192.0.2.1");
	assert_int_equal(km_endpoints_candidates(e), 2);
	km_endpoints_set(e, later, 1); /* no longer: left at once, though it works */
	assert_used(e, "198.51.100.7");
	km_endpoints_set(e, later, 0);
	assert_used(e, "198.51.100.7"); /* nothing else is known */
	km_endpoints_free(e);
}

static void kept_over_a_restart(void **state)
{
	struct km_endpoints *e = of("gw.example", NULL), *f;
	json_t *saved;

	(void)state;
	resolved(e, 0, "192.0.2.1 192.0.2.2");
	assert_used(e, "192.0.2.1");
	lose(e, 2);
	assert_used(e, "192.0.2.2");
	km_endpoints_works(e);
	saved = km_endpoints_save(e);
	f = of("gw.example", NULL);
	km_endpoints_load(f, saved);
	assert_int_equal(km_endpoints_candidates(f), 2);
	assert_used(f, "192.0.2.2"); /* it worked last */
	km_endpoints_free(f);
	f = of("other.example", "192.0.2.7");
	km_endpoints_load(f, saved); /* of another configuration */
	assert_used(f, "192.0.2.7");
	km_endpoints_free(f);
	km_endpoints_free(e);
	json_decref(saved);
}

static void malformed_on_disk(void **state)
{
	static const char *const texts[] = {
	    "[]",
	    "{\"names\": 7, \"worked\": []}",
	    "{\"names\": {\"gw.example\": \"192.0.2.1\"}, \"worked\": \"nowhere\"}",
	    "{\"names\": {\"gw.example\": [7, null, \"x\", \"192.0.2.300\"]}}",
	    "{\"names\": {\"192.0.2.5\": [\"192.0.2.6\"]}}",
	};
	char many[KM_ENDPOINTS_ADDRS * 40] = "";

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(texts); i++) {
		struct km_endpoints *e = of("gw.example", "192.0.2.5");
		json_t *v = json_loads(texts[i], 0, NULL);

		assert_non_null(v);
		km_endpoints_load(e, v);
		assert_int_equal(km_endpoints_candidates(e), 1);
		assert_used(e, "192.0.2.5");
		json_decref(v);
		km_endpoints_free(e);
	}
	for (int i = 0; i < KM_ENDPOINTS_ADDRS + 3; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "%s192.0.2.%d",
			 i ? " " : "", i);
	struct km_endpoints *e = of("gw.example", NULL);

	resolved(e, 0, many);
	assert_int_equal(km_endpoints_candidates(e), KM_ENDPOINTS_ADDRS);
	resolved(e, 0, "192.0.2.1 192.0.2.1 192.0.2.1");
	assert_int_equal(km_endpoints_candidates(e), 1);
	km_endpoints_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_after_two_failures),
	    cmocka_unit_test(the_working_one_stays),
	    cmocka_unit_test(without_a_route_it_is_skipped),
	    cmocka_unit_test(entries_change),
	    cmocka_unit_test(kept_over_a_restart),
	    cmocka_unit_test(malformed_on_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
