/* SPDX-License-Identifier: MIT */
/* What control says of a lease, and that nobody waits for a control that is away. */
#include "gatewayd/lease.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

#define HOLDER "3f8d2c1e-5b6a-4c7d-8e9f-0a1b2c3d4e5f"

static struct event_base *base;
static struct leases *leases;
static json_t *sent; /* all messages */
static int send_rc;

struct told {
	int done;
	bool granted, named;
	uint8_t holder[16];
};

static int on_send(void *arg, json_t *data)
{
	(void)arg;
	json_array_append_new(sent, data);
	return send_rc;
}

static void on_done(void *arg, bool granted, const uint8_t *holder)
{
	struct told *t = arg;

	t->done++;
	t->granted = granted;
	t->named = holder != NULL;
	if (holder)
		memcpy(t->holder, holder, 16);
}

static int set_up(void **state)
{
	(void)state;
	base = event_base_new();
	leases = leases_new(base);
	leases_sender(leases, on_send, NULL);
	sent = json_array();
	send_rc = 0;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	leases_free(leases);
	event_base_free(base);
	json_decref(sent);
	return 0;
}

static void take(const char *domain, struct told *t)
{
	struct acme_lease ops = leases_ops(leases);

	memset(t, 0, sizeof(*t));
	ops.take(ops.arg, domain, on_done, t);
	assert_int_equal(t->done, 0); /* never from within */
}

static void result(const char *domain, bool granted, const char *holder)
{
	json_t *data =
	    json_pack("{s:s, s:b, s:s*}", "domain", domain, "granted", granted, "holder", holder);

	leases_result(leases, data);
	json_decref(data);
}

static void control_decides(void **state)
{
	struct told a, b, again;
	uint8_t holder[16];

	(void)state;
	take("a.test", &a);
	take("b.test", &b);
	take("a.test", &again);
	assert_int_equal(json_array_size(sent), 3);
	assert_string_equal(json_string_value(json_object_get(json_array_get(sent, 1), "domain")),
			    "b.test");
	assert_null(json_object_get(json_array_get(sent, 1), "release"));
	result("b.test", false, HOLDER);
	assert_int_equal(b.done, 1);
	assert_false(b.granted);
	assert_true(b.named);
	assert_int_equal(km_uuid_parse(holder, HOLDER), 0);
	assert_memory_equal(b.holder, holder, 16);
	assert_int_equal(a.done, 0);
	result("a.test", true, NULL);
	assert_true(a.done == 1 && a.granted && !a.named);
	assert_true(again.done == 1 && again.granted);
	result("a.test", false, HOLDER); /* nobody asks any more */
	assert_int_equal(a.done, 1);
}

static void away(void **state)
{
	struct told t;

	(void)state;
	send_rc = KM_ECLOSED;
	take("a.test", &t);
	event_base_loop(base, EVLOOP_ONCE);
	assert_true(t.done == 1 && t.granted && !t.named);
	leases_sender(leases, NULL, NULL);
	take("a.test", &t);
	event_base_loop(base, EVLOOP_ONCE);
	assert_true(t.done == 1 && t.granted);
}

static void silent(void **state)
{
	struct told t;
	int64_t began = km_now_ms();

	(void)state;
	take("a.test", &t);
	leases_result(leases, NULL);
	result("not a message", false, "nor an id");
	while (!t.done)
		event_base_loop(base, EVLOOP_ONCE);
	assert_true(t.granted && !t.named);
	assert_true(km_now_ms() - began >= LEASE_WAIT_MS - 1);
}

static void released(void **state)
{
	struct acme_lease ops = leases_ops(leases);

	(void)state;
	ops.release(ops.arg, "a.test");
	assert_true(json_is_true(json_object_get(json_array_get(sent, 0), "release")));
}

static void not_without_bound(void **state)
{
	struct told t;
	static struct told many[LEASES_MAX];

	(void)state;
	for (int i = 0; i < LEASES_MAX; i++)
		take("a.test", &many[i]);
	take("b.test", &t);
	assert_int_equal(json_array_size(sent), LEASES_MAX);
	event_base_loop(base, EVLOOP_ONCE);
	assert_true(t.done == 1 && t.granted);
	assert_int_equal(many[0].done, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(control_decides), T(away), T(silent), T(released), T(not_without_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
