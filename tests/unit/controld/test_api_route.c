/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "controld/api/hosts.h"
#include "controld/api/route.h"
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define ID "6f1c1f60-3b4e-4a55-9d4e-0b6a5a3f7c11"

static void finds(void **state)
{
	char id[KM_UUID_STRLEN], allow[ROUTE_ALLOW_LEN];
	(void)state;
	const struct route *r = route_find(EVHTTP_REQ_GET, "/api/agents/" ID, id, allow);
	assert_non_null(r);
	assert_ptr_equal(r->handle, hosts_get);
	assert_ptr_equal(r->host, &host_agent);
	assert_string_equal(id, ID);
	r = route_find(EVHTTP_REQ_HEAD, "/api/agents", id, allow);
	assert_ptr_equal(r->handle, hosts_list);
	assert_string_equal(id, "");
	r = route_find(EVHTTP_REQ_POST, "/api/gateways/" ID "/approve-key", id, allow);
	assert_ptr_equal(r->handle, hosts_approve_key);
	assert_ptr_equal(r->host, &host_gateway);
	assert_string_equal(id, ID);
}

static void refuses(void **state)
{
	static const char *const nowhere[] = {"",
					      "/",
					      "api/agents",
					      "/api",
					      "/api/",
					      "/api/agents/",
					      "/api/agents//",
					      "/api/agentsx",
					      "/api/agent",
					      "/api/agents/x",
					      "/api/agents/" ID "/",
					      "/api/agents/" ID "/approve-keys",
					      "/api/agents/6F1C1F60-3B4E-4A55-9D4E-0B6A5A3F7C11",
					      "//api/agents",
					      "/api/agents/:id"};
	char id[KM_UUID_STRLEN], allow[ROUTE_ALLOW_LEN];
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(nowhere); i++) {
		assert_null(route_find(EVHTTP_REQ_GET, nowhere[i], id, allow));
		assert_string_equal(allow, "");
	}
	assert_null(route_find(EVHTTP_REQ_PUT, "/api/agents", id, allow));
	assert_string_equal(allow, "GET, HEAD, POST");
	assert_null(route_find(EVHTTP_REQ_POST, "/api/tunnels/" ID, id, allow));
	assert_string_equal(allow, "GET, HEAD, PATCH, DELETE");
}

/* proto/openapi.json names what is routed, and nothing else. */
static void document(void **state)
{
	json_t *doc = json_load_file("proto/openapi.json", 0, NULL), *item, *op;
	const char *path, *method;
	size_t named = 0;
	(void)state;
	assert_non_null(doc);
	json_object_foreach(json_object_get(doc, "paths"), path, item)
	{
		json_object_foreach(item, method, op)
		{
			char want[128], *id;
			bool found = false;
			if (strcmp(method, "parameters") == 0)
				continue;
			snprintf(want, sizeof(want), "%s", path);
			if ((id = strstr(want, "{id}")))
				memmove(id + 3, id + 4, strlen(id + 4) + 1), memcpy(id, ":id", 3);
			for (size_t i = 0; i < n_routes; i++)
				if (strcasecmp(route_method(routes[i].method), method) == 0 &&
				    strcmp(routes[i].path, want) == 0)
					found = true;
			if (!found)
				fail_msg("%s %s is not routed", method, path);
			named++;
		}
	}
	assert_int_equal(named, n_routes);
	json_decref(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finds),
	    cmocka_unit_test(refuses),
	    cmocka_unit_test(document),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
