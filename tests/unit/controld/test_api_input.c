/* SPDX-License-Identifier: MIT */
/* Bodies of requests: each row is a body and the fields that must be named as wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "controld/api/input_tunnel.h"
#include <string.h>

#define AGENT "\"agentId\":\"6f1c1f60-3b4e-4a55-9d4e-0b6a5a3f7c11\""
#define NOW 1700000000000

enum kind {
	AGENT_POST,
	AGENT_PATCH,
	GATEWAY_POST,
	GATEWAY_PATCH,
	TOKEN_POST,
	TUNNEL_POST,
	TUNNEL_PATCH
};
struct row {
	enum kind kind;
	const char *body;
	const char *fields; /* in the order of the details; "" when the body is right */
};

static const struct row rows[] = {
    {AGENT_POST, "{\"name\":\"a\"}", ""},
    {AGENT_POST, "{}", "name"},
    {AGENT_POST, "{\"name\":\"\"}", "name"},
    {AGENT_POST, "{\"name\":\"a b\"}", "name"},
    {AGENT_POST, "{\"name\":5}", "name"},
    {AGENT_POST, "{\"name\":null}", "name"},
    {AGENT_POST, "{\"name\":\"a\",\"id\":1,\"x\":2}", "id x"},
    {AGENT_PATCH, "{}", ""},
    {AGENT_PATCH, "{\"name\":\"a.b\"}", "name"},
    {GATEWAY_POST, "{\"name\":\"g\"}", ""},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":\"192.0.2.1\",\"region\":\"eu\"}", ""},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":[\"192.0.2.1\",\"::1\",\"a.example\"]}", ""},
    {GATEWAY_POST, "{\"publicIp\":[\"x y\",1],\"region\":\"\"}",
     "name publicIp[0] publicIp[1] region"},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":[1,2,3,4,5,6,7,8,9]}", "publicIp"},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":{}}", "publicIp"},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":\"*.a.example\"}", "publicIp"},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":\"A.example\"}", "publicIp"},
    {GATEWAY_POST, "{\"name\":\"g\",\"publicIp\":[\"a.example\",\"0.0.0.0\",\"fe80::1\"]}",
     "publicIp[1] publicIp[2]"},
    {GATEWAY_PATCH, "{\"publicIp\":null,\"region\":null}", ""},
    {TOKEN_POST, "{\"name\":\"t\"}", ""},
    {TOKEN_POST, "{\"name\":\"t\",\"expiresAt\":null}", ""},
    {TOKEN_POST, "{\"name\":\"t\",\"expiresAt\":\"2099-01-01T00:00:00Z\"}", ""},
    {TOKEN_POST, "{\"name\":\"t\",\"expiresAt\":\"2001-01-01T00:00:00Z\"}", "expiresAt"},
    {TOKEN_POST, "{\"name\":\"t\",\"expiresAt\":\"tomorrow\"}", "expiresAt"},
    {TOKEN_POST, "{\"name\":\"t\",\"role\":\"admin\"}", "role"},
    {TUNNEL_POST, "{\"domain\":\"a.b\"," AGENT ",\"target\":\"x:1\"}", ""},
    {TUNNEL_POST,
     "{\"domain\":\"a.b\"," AGENT ",\"target\":\"unix:/run/x\",\"enabled\":false,"
     "\"description\":\"d\",\"protocol\":\"http\",\"path\":null}",
     ""},
    {TUNNEL_POST, "{}", "domain agentId target"},
    {TUNNEL_POST, "{\"domain\":\"a\",\"agentId\":\"x\",\"target\":\"y\",\"enabled\":\"yes\"}",
     "domain agentId target enabled"},
    {TUNNEL_POST, "{\"domain\":\"a.b\"," AGENT ",\"target\":\":80\"}", "target"},
    {TUNNEL_POST,
     "{\"domain\":\"a.b\"," AGENT ",\"target\":\"x:1\",\"protocol\":\"tcp\",\"path\":\"/\","
     "\"port\":1}",
     "protocol port"},
    {TUNNEL_POST,
     "{\"match\":{\"domain\":\"a.b\",\"protocol\":\"http\"},\"targets\":[{" AGENT
     ",\"target\":\"x:1\",\"weight\":1,\"priority\":0,\"enabled\":true,\"draining\":false}]}",
     ""},
    {TUNNEL_POST,
     "{\"match\":{\"domain\":\"a\",\"path\":\"/\",\"port\":1,\"protocol\":\"udp\",\"x\":1},"
     "\"targets\":[{" AGENT ",\"target\":\"x\",\"weight\":2,\"protocol\":\"h2c\",\"y\":1}]}",
     "match.x match.port match.protocol targets[0].y targets[0].weight "
     "match.domain targets[0].target"},
    {TUNNEL_POST, "{\"domain\":\"a.b\",\"targets\":[{},{}]}", "targets agentId target"},
    {TUNNEL_POST,
     "{\"domain\":\"a.b\"," AGENT ",\"target\":\"x:1\",\"match\":{\"domain\":\"a.b\"}}", "match"},
    {TUNNEL_PATCH, "{}", ""},
    {TUNNEL_PATCH, "{\"enabled\":true,\"description\":null}", ""},
    {TUNNEL_PATCH, "{\"tls\":\"passthrough\"}", ""},
    {TUNNEL_PATCH, "{\"tls\":\"Own\"}", "tls"},
    {TUNNEL_PATCH, "{\"tls\":null}", "tls"},
    {TUNNEL_POST, "{\"domain\":\"*.a.b\"," AGENT ",\"target\":\"x:1\",\"tls\":\"off\"}", ""},
    {TUNNEL_PATCH, "{\"domain\":null}", "domain"},
    {TUNNEL_PATCH, "{\"target\":\"127.0.0.1\"}", "target"},
};

static int take(const struct row *r, const json_t *body, struct details *d)
{
	struct host_input h;
	struct tunnel_input t;
	int rc;
	switch (r->kind) {
	case AGENT_POST:
	case AGENT_PATCH:
		return input_agent(&h, body, r->kind == AGENT_POST, d);
	case GATEWAY_POST:
	case GATEWAY_PATCH:
		return input_gateway(&h, body, r->kind == GATEWAY_POST, d);
	case TOKEN_POST:
		return input_token(&h, body, NOW, d);
	default:
		rc = input_tunnel(&t, body, r->kind == TUNNEL_POST, d);
		input_tunnel_clear(&t);
		return rc;
	}
}

static void bodies(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct km_errtext err;
		struct details d = {NULL};
		char fields[1024] = "";
		json_t *body = input_parse(rows[i].body, strlen(rows[i].body), &err), *one;
		size_t k;
		if (!body)
			fail_msg("%s: %s", rows[i].body, err.text);
		int rc = take(&rows[i], body, &d);
		json_array_foreach(d.list, k, one)
		{
			if (k)
				strcat(fields, " ");
			strcat(fields, json_string_value(json_object_get(one, "field")));
			assert_true(json_string_length(json_object_get(one, "message")) > 0);
		}
		if (strcmp(fields, rows[i].fields) != 0)
			fail_msg("%s: wrong are \"%s\", not \"%s\"", rows[i].body, fields,
				 rows[i].fields);
		assert_int_equal(rc, fields[0] ? KM_EINVAL : 0);
		json_decref(d.list);
		json_decref(body);
	}
}

static void tunnel_values(void **state)
{
	static const char text[] = "{\"match\":{\"domain\":\"*.A.example\"},\"targets\":[{" AGENT
				   ",\"target\":\"[::1]:80\"}],\"enabled\":false}";
	struct km_errtext err;
	struct details d = {NULL};
	struct tunnel_input in;
	json_t *body = input_parse(text, sizeof(text) - 1, &err);
	(void)state;
	assert_non_null(body);
	assert_int_equal(input_tunnel(&in, body, true, &d), 0);
	assert_string_equal(in.domain, "*.a.example");
	assert_string_equal(in.target, "[::1]:80");
	assert_string_equal(in.agent_id, "6f1c1f60-3b4e-4a55-9d4e-0b6a5a3f7c11");
	assert_true(in.has_enabled && !in.enabled && !in.has_description);
	assert_null(in.tls);
	assert_null(in.protocol);
	assert_true(!in.has_path && !in.has_options);
	json_decref(body);
}

static void json(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {{"", "line 1"},
		   {"{", "line 1, column"},
		   {"[]", "object"},
		   {"{}x", "line 1"},
		   {"{\n\"a\":}", "line 2"},
		   {"{\"a\":1,\"a\":2}", "duplicate"},
		   {"{\"a\":\"\\u0000\"}", "NUL"},
		   {"{\"a\":\"\xff\"}", "line 1"},
		   {"null", "line 1"}};
	struct km_errtext err;
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.text[0] = '\0';
		assert_null(input_parse(bad[i].text, strlen(bad[i].text), &err));
		if (!strcasestr(err.text, bad[i].says))
			fail_msg("%s: %s", bad[i].text, err.text);
	}
	assert_true(input_is_json("application/json"));
	assert_true(input_is_json("Application/JSON ; charset=utf-8"));
	assert_false(input_is_json(NULL));
	assert_false(input_is_json("application/jsonp"));
	assert_false(input_is_json("text/json"));
}

static void many_mistakes_are_bounded(void **state)
{
	struct details d = {NULL};
	(void)state;
	for (int i = 0; i < 1000; i++)
		details_add(&d, i % 2 ? "field" : "\xff", "wrong %d", i);
	assert_int_equal(json_array_size(d.list), 100);
	json_decref(d.list);
}

static void pages(void **state)
{
	struct page_input p = {.n = PAGE_DEFAULT};
	struct details d = {NULL};
	(void)state;
	input_page_param(&p, "limit", "1000", &d);
	input_page_param(&p, "cursor", "x", &d);
	assert_null(d.list);
	assert_int_equal(p.n, 1000);
	assert_string_equal(p.cursor, "x");
	static const char *const bad[] = {
	    "0", "1001", "", " 5", "-1", "5x", "99999999999999999999"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		input_page_param(&p, "limit", bad[i], &d);
	input_page_param(&p, "colour", "red", &d);
	assert_int_equal(json_array_size(d.list), 8);
	assert_int_equal(p.n, 1000);
	json_decref(d.list);
}

static void filters(void **state)
{
	struct page_input p = {.n = PAGE_DEFAULT};
	struct details d = {NULL};
	static const char *const bad[][2] = {
	    {"status", "valid"}, {"status", ""},    {"gateway", "a b"},
	    {"gateway", ""},	 {"domain", "a_b"}, {"domain", ""},
	};
	(void)state;
	input_page_param(&p, "status", "ready", &d); /* not in this list */
	assert_int_equal(json_array_size(d.list), 1);
	json_decref(d.list);
	d.list = NULL;
	p.filters = PAGE_DOMAIN | PAGE_GATEWAY | PAGE_STATUS;
	input_page_param(&p, "status", "renewal_due", &d);
	input_page_param(&p, "gateway", "gateway-1", &d);
	input_page_param(&p, "domain", "*.A.example.", &d);
	assert_null(d.list);
	assert_string_equal(p.status, "renewal_due");
	assert_string_equal(p.gateway, "gateway-1");
	assert_string_equal(p.domain, "*.a.example");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		input_page_param(&p, bad[i][0], bad[i][1], &d);
		assert_int_equal(json_array_size(d.list), i + 1);
	}
	json_decref(d.list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bodies), cmocka_unit_test(tunnel_values),
	    cmocka_unit_test(json),   cmocka_unit_test(many_mistakes_are_bounded),
	    cmocka_unit_test(pages),  cmocka_unit_test(filters),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
