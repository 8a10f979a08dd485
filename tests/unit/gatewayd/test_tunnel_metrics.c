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

#define KEEP 900000
#define MINUTE 60000
static int64_t now = MINUTE;

static char *scrape(struct tunnel_metrics *m)
{
	struct km_buf b;
	km_buf_init(&b, 64 << 20);
	assert_int_equal(tunnel_metrics_write(m, now, &b), 0);
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
	struct tunnel_metrics *m = tunnel_metrics_new(t, 10, KEEP);
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
	struct tunnel_metrics *m = tunnel_metrics_new(t, 2, KEEP);
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
	/* A place becomes free, for the busiest of the others: what was counted stays in the sum.
	 */
	gone(t, 3);
	request(t, "t1.test", 200, 1);
	request(t, "t5.test", 200, 1);
	s = scrape(m);
	assert_float_equal(value(s, TOTAL("t3.test", "2xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("t5.test", "2xx")), -1, 0);
	assert_float_equal(value(s, TOTAL("t1.test", "2xx")), 1, 0);
	assert_float_equal(value(s, TOTAL("other", "2xx")), 5, 0);
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

static void requests(struct route_table *t, const char *host, unsigned n)
{
	while (n--)
		request(t, host, 200, 1);
}

/* A busier one gets the series of another, late and not for little; who comes back goes on. */
static void test_busiest(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 1, KEEP);
	tunnel(t, 1, "a.test");
	tunnel(t, 2, "b.test");
	requests(t, "a.test", 100);
	assert_float_equal(value_now(m, TOTAL("a.test", "2xx")), 100, 0);
	/* At once: no. */
	requests(t, "b.test", 1000);
	now += MINUTE;
	assert_float_equal(value_now(m, TOTAL("b.test", "2xx")), -1, 0);
	assert_float_equal(value_now(m, TOTAL("other", "2xx")), 1000, 0);
	/* About as busy: never. */
	for (int i = 0; i < 60; i++) {
		now += MINUTE;
		requests(t, "a.test", 100);
		requests(t, "b.test", 150);
		assert_float_equal(value_now(m, TOTAL("b.test", "2xx")), -1, 0);
	}
	/* Busier for long: once. Nothing goes back, nothing is counted twice. */
	double was_other = value_now(m, TOTAL("other", "2xx")),
	       was_a = value_now(m, TOTAL("a.test", "2xx"));
	assert_float_equal(was_other, 1000 + 60 * 150, 0);
	for (int i = 0; i < 30; i++) {
		now += MINUTE;
		requests(t, "a.test", 10);
		requests(t, "b.test", 300);
		char *s = scrape(m);
		double other = value(s, TOTAL("other", "2xx")),
		       b = value(s, TOTAL("b.test", "2xx")), a = value(s, TOTAL("a.test", "2xx"));
		assert_true((a < 0) != (b < 0));
		assert_true(other >= was_other);
		was_other = other;
		was_a = a < 0 ? was_a : a;
		assert_float_equal(other + (b < 0 ? 0 : b) + was_a,
				   100 + 1000 + 60 * 250 + (i + 1) * 310, 0);
		free(s);
	}
	assert_true(value_now(m, TOTAL("a.test", "2xx")) < 0);
	double was_b = value_now(m, TOTAL("b.test", "2xx"));
	assert_true(was_b >= 300 * 20);
	/* Nobody asks for b any more. */
	for (int i = 0; i < 40; i++) {
		now += MINUTE;
		requests(t, "a.test", 50);
		(void)value_now(m, "");
	}
	char *s = scrape(m);
	assert_true(value(s, TOTAL("a.test", "2xx")) >= was_a);
	assert_true(value(s, TOTAL("b.test", "2xx")) < 0);
	assert_float_equal(value(s, TOTAL("a.test", "2xx")) + value(s, TOTAL("other", "2xx")) +
			       was_b,
			   100 + 1000 + 60 * 250 + 30 * 310 + 40 * 50, 0);
	free(s);
	tunnel_metrics_free(m);
	route_table_free(t);
}

/* Connections that last make a tunnel busy, too; they are seen at any time. */
static void test_lasting(void **state)
{
	(void)state;
	struct route r;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 1, KEEP);
	tunnel(t, 1, "a.test");
	tunnel(t, 2, "b.test");
	requests(t, "a.test", 100);
	(void)value_now(m, "");
	assert_true(route_find(t, "b.test", &r));
	counts_bump(&r.state->active, 30);
	assert_float_equal(value_now(m, "kakuremichi_tunnel_active{domain=\"other\"}"), 30, 0);
	for (int i = 0; i < 20; i++) {
		now += MINUTE;
		(void)value_now(m, "");
	}
	assert_float_equal(value_now(m, "kakuremichi_tunnel_active{domain=\"b.test\"}"), 30, 0);
	assert_float_equal(value_now(m, "kakuremichi_tunnel_active{domain=\"other\"}"), 0, 0);
	route_drop(&r);
	tunnel_metrics_free(m);
	route_table_free(t);
}

/* Whatever strangers ask for: no series goes back, also one that has been away; all of them are all
 * requests; there are not too many, and who has series has them for a while. */
static void test_any_order(void **state)
{
	enum { TUNNELS = 40, LIMIT = 6, ROUNDS = 1500 };
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, LIMIT, KEEP);
	char name[32], series[128];
	double last[TUNNELS + 1] = {0}, all = 0;
	int64_t since[TUNNELS] = {0};
	unsigned weight[TUNNELS] = {0}, moves = 0;
	for (unsigned i = 0; i < TUNNELS; i++) {
		snprintf(name, sizeof(name), "t%u.test", i);
		tunnel(t, i, name);
	}
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		now += 1000 + rand() % 90000;
		if (round % 10 == 0)
			weight[rand() % TUNNELS] = (unsigned)(rand() % 60);
		for (unsigned i = 0; i < TUNNELS; i++) {
			unsigned n = weight[i] ? (unsigned)rand() % weight[i] : 0;
			snprintf(name, sizeof(name), "t%u.test", i);
			requests(t, name, n);
			all += n;
		}
		char *s = scrape(m);
		unsigned own = 0;
		for (unsigned i = 0; i <= TUNNELS; i++) {
			if (i < TUNNELS)
				snprintf(series, sizeof(series), TOTAL("t%u.test", "2xx"), i);
			double v = value(s, i < TUNNELS ? series : TOTAL("other", "2xx"));
			snprintf(series, sizeof(series),
				 "kakuremichi_tunnel_active{domain=\"t%u.test\"}", i);
			bool has = i < TUNNELS && value(s, series) >= 0;
			own += has;
			assert_true(v < 0 || v >= last[i]);
			last[i] = v < 0 ? last[i] : v;
			if (i == TUNNELS)
				continue;
			if (has && !since[i])
				since[i] = now, moves++;
			if (!has && since[i]) {
				assert_true(now - since[i] >= KEEP);
				since[i] = 0;
			}
		}
		free(s);
		double sum = 0;
		for (unsigned i = 0; i <= TUNNELS; i++)
			sum += last[i];
		assert_float_equal(sum, all, 0);
		assert_true(own <= LIMIT);
	}
	print_message("%u times series came up in %d rounds\n", moves, ROUNDS);
	assert_true(moves > 2 * LIMIT);
	tunnel_metrics_free(m);
	route_table_free(t);
}

static void test_none(void **state)
{
	(void)state;
	struct route_table *t = route_table_new();
	struct tunnel_metrics *m = tunnel_metrics_new(t, 0, KEEP);
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
	struct tunnel_metrics *m = tunnel_metrics_new(t, 2000, KEEP);
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
	    cmocka_unit_test(test_series),    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_busiest),   cmocka_unit_test(test_lasting),
	    cmocka_unit_test(test_any_order), cmocka_unit_test(test_none),
	    cmocka_unit_test(test_format),
	};
	urcu_memb_register_thread();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	urcu_memb_unregister_thread();
	return failed;
}
