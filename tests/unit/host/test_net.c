/* SPDX-License-Identifier: MIT */
/* How a daemon's private network begins and ends, on the host's own network (no warden). That it is
 * made anew after its warden's death is tested end to end (test_outage.py, test_rootless.py). */
#include "libkm/host/net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct seen {
	unsigned opened, gone;
	int answer;
	struct km_privnet *net;
};

static int on_opened(void *arg, struct km_privnet *net, struct km_errtext *err)
{
	struct seen *s = arg;

	s->opened++;
	s->net = net;
	return s->answer ? km_errtext_set(err, s->answer, "not this one") : 0;
}

static void on_gone(void *arg)
{
	struct seen *s = arg;

	s->gone++;
	s->net = NULL;
}

static const struct km_host_net_cbs cbs = {on_opened, on_gone};

static void test_open_and_free(void **state)
{
	struct km_host_settings settings = {
	    .state_dir = "/nowhere", .runtime_dir = "/nowhere", .wireguard = KM_WG_NONE};
	struct event_base *base = event_base_new();
	struct km_host_net *n = NULL;
	struct km_errtext err = {0};
	struct seen seen = {0};

	(void)state;
	assert_int_equal(km_host_net_start(&n, base, &settings, &cbs, &seen, &err), 0);
	assert_int_equal(seen.opened, 1);
	assert_string_equal(km_privnet_backend(seen.net), "none");
	km_host_net_free(n, true);
	assert_int_equal(seen.gone, 0);
	km_host_net_free(NULL, true);
	event_base_free(base);
}

static void test_refused(void **state)
{
	struct km_host_settings settings = {
	    .state_dir = "/nowhere", .runtime_dir = "/nowhere", .wireguard = KM_WG_NONE};
	struct event_base *base = event_base_new();
	struct km_host_net *n = NULL;
	struct km_errtext err = {0};
	struct seen seen = {.answer = KM_EFULL};

	(void)state;
	assert_int_equal(km_host_net_start(&n, base, &settings, &cbs, &seen, &err), KM_EFULL);
	assert_string_equal(err.text, "not this one");
	assert_null(n);
	assert_int_equal(seen.gone, 1);
	assert_null(seen.net);

	/* a program that is not there: nothing was opened */
	seen = (struct seen){0};
	settings.wireguard = KM_WG_EMBEDDED;
	settings.warden = "/nowhere/km-warden";
	assert_int_equal(km_host_net_start(&n, base, &settings, &cbs, &seen, &err), KM_ENOTFOUND);
	assert_int_equal(seen.opened, 0);
	assert_null(n);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_open_and_free),
	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
