/* SPDX-License-Identifier: MIT */
/* Metrics of tunnels: whose have labels of their own, what is summed, and that sums only grow. */
#include <urcu/urcu-memb.h>

#include "gatewayd/tunnel_metrics.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void tunnel_path(struct route_table *t, unsigned id, const char *domain, const char *path)
{
	struct route_entry e = {.enabled = true, .path = path};
	snprintf(e.domain, sizeof(e.domain), "%s", domain);
	memcpy(e.tunnel, &id, sizeof(id));
	assert_int_equal(km_addr_parse(&e.agent, "10.1.0.100"), 0);
	assert_int_equal(route_set(t, &e, NULL), 0);
	assert_int_equal(route_publish(t), 0);
}

static void tunnel(struct route_table *t, unsigned id, const char *domain)
{
	tunnel_path(t, id, domain, NULL);
}

static void gone(struct route_table *t, unsigned id)
{
	uint8_t tunnel_id[16] = {0};
	memcpy(tunnel_id, &id, sizeof(id));
	route_remove(t, tunnel_id);
	assert_int_equal(route_publish(t), 0);
}

/* As a worker counts it. */
static void request(struct route_table *t, const char *host, int status, int64_t ms)
{
	struct route r;
	assert_true(route_find(t, host, &r));
	counts_bump(&r.state->requests, 1);
	counts_bump(&r.state->bytes_out, 1000);
	counts_status(&r.state->counts, status);
	counts_took(&r.state->counts, ms);
	route_drop(&r);
}

static char *scrape(struct tunnel_metrics *m)
{
	struct km_buf b;
	km_buf_init(&b, 64 << 20);
	assert_int_equal(tunnel_metrics_print(m, &b), 0);
	assert_int_equal(km_buf_add(&b, "", 1), 0);
	char *s = strdup((char *)km_buf_head(&b));
	assert_non_null(s);
	km_buf_free(&b);
	return s;
}

/* The value of a series, -1: there is none. */
static double value(const char *s, const char *series)
{
	char line[512];
	snprintf(line, sizeof(line), "\n%s ", series);
	const char *at = strstr(s, line);
	return at ? atof(at + strlen(line)) : -1;
}

static double value_now(struct tunnel_metrics *m, const char *series)
{
	char *s = scrape(m);
	double v = value(s, series);
	free(s);
	return v;
}
#define TOTAL(domain, class)                                                                       \
	"kakuremichi_tunnel_requests_total{domain=\"" domain "\",class=\"" class "\"}"
#define BYTES(domain) "kakuremichi_tunnel_response_bytes_total{domain=\"" domain "\"}"
#define TOOK(domain, le)                                                                           \
	"kakuremichi_tunnel_request_duration_seconds_bucket{domain=\"" domain "\",le=\"" le "\"}"

static void test_series(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 10);
	tunnel(t, 1, "a.test");
	tunnel(t, 2, "*.a.test");
	request(t, "a.test", 200, 3);
	request(t, "a.test", 204, 10);
	request(t, "a.test", 499, 11);
	request(t, "x.a.test", 502, 1200);
	char *s = scrape(m);
	assert_float_equal(value(s, TOTAL("a.test", "2xx")), 2, 0);
	assert_float_equal(value(s, TOTAL("a.test", "4xx")), 1, 0);
	assert_float_equal(value(s, TOTAL("a.test", "5xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("*.a.test", "5xx")), 1, 0);
	assert_float_equal(value(s, BYTES("a.test")), 3000, 0);
	assert_float_equal(value(s, TOOK("a.test", "0.01")), 2, 0);
	assert_float_equal(value(s, TOOK("a.test", "0.05")), 3, 0);
	assert_float_equal(value(s, TOOK("a.test", "+Inf")), 3, 0);
	assert_float_equal(value(s, TOOK("*.a.test", "1")), 0, 0);
	assert_float_equal(value(s, TOOK("*.a.test", "5")), 1, 0);
	assert_float_equal(
	    value(s, "kakuremichi_tunnel_request_duration_seconds_sum{domain=\"a.test\"}"), 0.024,
	    1e-9);
	assert_float_equal(
	    value(s, "kakuremichi_tunnel_request_duration_seconds_sum{domain=\"*.a.test\"}"), 1.2,
	    1e-9);
	assert_float_equal(
	    value(s, "kakuremichi_tunnel_request_duration_seconds_count{domain=\"a.test\"}"), 3, 0);
	assert_float_equal(value(s, "kakuremichi_tunnel_active{domain=\"a.test\"}"), 0, 0);
	assert_null(strstr(s, "other"));
	free(s);
	tunnel_path(t, 3, "a.test", "/api");
	assert_float_equal(
	    value_now(m, "kakuremichi_tunnel_active{domain=\"a.test\",path=\"/api\"}"), 0, 0);
	gone(t, 3);
	/* Another name, the same counts; and gone. */
	tunnel(t, 1, "b.test");
	assert_float_equal(value_now(m, TOTAL("b.test", "2xx")), 2, 0);
	assert_float_equal(value_now(m, TOTAL("a.test", "2xx")), -1, 0);
	gone(t, 1);
	s = scrape(m);
	assert_null(strstr(s, "\"b.test\""));
	assert_null(strstr(s, "other"));
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

static void test_bound(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 2);
	char name[32];
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "t%u.test", i);
		tunnel(t, i, name);
	}
	/* More than the bound: who has had no request has no series. */
	assert_float_equal(value_now(m, BYTES("t0.test")), -1, 0);
	request(t, "t3.test", 200, 1);
	assert_float_equal(value_now(m, TOTAL("t3.test", "2xx")), 1, 0);
	request(t, "t4.test", 200, 1);
	(void)value_now(m, "");
	request(t, "t0.test", 200, 1);
	request(t, "t1.test", 200, 1);
	char *s = scrape(m);
	assert_float_equal(value(s, TOTAL("t4.test", "2xx")), 1, 0);
	assert_float_equal(value(s, TOTAL("t0.test", "2xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("other", "2xx")), 2, 0);
	assert_float_equal(value(s, TOOK("other", "0.01")), 2, 0);
	free(s);
	/* Of those that are summed one goes; the sum stays, and grows on. */
	gone(t, 0);
	assert_float_equal(value_now(m, TOTAL("other", "2xx")), 2, 0);
	request(t, "t1.test", 200, 1);
	assert_float_equal(value_now(m, TOTAL("other", "2xx")), 3, 0);
	/* It comes again, with counts of its own. */
	tunnel(t, 0, "t0.test");
	request(t, "t0.test", 200, 1);
	assert_float_equal(value_now(m, TOTAL("other", "2xx")), 4, 0);
	/* Gone and here again between two looks. */
	gone(t, 0);
	tunnel(t, 0, "t0.test");
	assert_float_equal(value_now(m, TOTAL("other", "2xx")), 4, 0);
	/* A place becomes free: for one that has not been summed. */
	gone(t, 3);
	request(t, "t1.test", 200, 1);
	request(t, "t5.test", 200, 1);
	s = scrape(m);
	assert_float_equal(value(s, TOTAL("t3.test", "2xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("t1.test", "2xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("t5.test", "2xx")), 1, 0);
	assert_float_equal(value(s, TOTAL("other", "2xx")), 5, 0);
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

static void test_none(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 0);
	tunnel(t, 1, "a.test");
	request(t, "a.test", 200, 1);
	char *s = scrape(m);
	assert_float_equal(value(s, TOTAL("other", "2xx")), 1, 0);
	assert_null(strstr(s, "a.test"));
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

/* Every line is one, HELP and TYPE come once, before their series. */
static void test_format(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 2000);
	char name[32], last[128] = "";
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "t%u.test", i);
		tunnel(t, i, name);
		request(t, name, 200, i);
	}
	int64_t began = km_now_ms();
	char *s = scrape(m), *save = NULL;
	print_message("1000 tunnels: %zu KiB in %lld ms\n", strlen(s) / 1024,
		      (long long)(km_now_ms() - began));
	size_t series = 0, heads = 0;
	for (char *line = strtok_r(s, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char family[128];
		if (sscanf(line, "# TYPE %127s", family) == 1) {
			heads++;
			snprintf(last, sizeof(last), "%s", family);
		}
		if (line[0] == '#')
			continue;
		series++;
		assert_memory_equal(line, last, strlen(last));
		assert_non_null(strstr(line, "} "));
	}
	assert_int_equal(heads, 8);
	assert_int_equal(series, 1000 * (1 + COUNTS_BUCKETS + 2 + 5));
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_series),
	    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_none),
	    cmocka_unit_test(test_format),
	};
	urcu_memb_register_thread();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	urcu_memb_unregister_thread();
	return failed;
}
