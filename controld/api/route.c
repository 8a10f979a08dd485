/* SPDX-License-Identifier: MIT */
#include "controld/api/route.h"
#include "controld/api/hosts.h"
#include <stdio.h>
#include <string.h>

const struct route routes[] = {
    {EVHTTP_REQ_GET, "/api/agents", hosts_list, 0, &host_agent},
    {EVHTTP_REQ_POST, "/api/agents", hosts_create, ROUTE_BODY, &host_agent},
    {EVHTTP_REQ_GET, "/api/agents/:id", hosts_get, 0, &host_agent},
    {EVHTTP_REQ_PATCH, "/api/agents/:id", hosts_update, ROUTE_BODY, &host_agent},
    {EVHTTP_REQ_DELETE, "/api/agents/:id", hosts_delete, 0, &host_agent},
    {EVHTTP_REQ_POST, "/api/agents/:id/approve-key", hosts_approve_key, 0, &host_agent},
    {EVHTTP_REQ_POST, "/api/agents/:id/revoke", hosts_revoke, 0, &host_agent},
    {EVHTTP_REQ_POST, "/api/agents/:id/join-token", hosts_join_token, 0, &host_agent},
    {EVHTTP_REQ_GET, "/api/gateways", hosts_list, 0, &host_gateway},
    {EVHTTP_REQ_POST, "/api/gateways", hosts_create, ROUTE_BODY, &host_gateway},
    {EVHTTP_REQ_GET, "/api/gateways/:id", hosts_get, 0, &host_gateway},
    {EVHTTP_REQ_PATCH, "/api/gateways/:id", hosts_update, ROUTE_BODY, &host_gateway},
    {EVHTTP_REQ_DELETE, "/api/gateways/:id", hosts_delete, 0, &host_gateway},
    {EVHTTP_REQ_POST, "/api/gateways/:id/approve-key", hosts_approve_key, 0, &host_gateway},
    {EVHTTP_REQ_POST, "/api/gateways/:id/revoke", hosts_revoke, 0, &host_gateway},
    {EVHTTP_REQ_POST, "/api/gateways/:id/join-token", hosts_join_token, 0, &host_gateway},
    {EVHTTP_REQ_GET, "/api/tunnels", tunnels_list, ROUTE_DOMAIN, NULL},
    {EVHTTP_REQ_POST, "/api/tunnels", tunnels_create, ROUTE_BODY, NULL},
    {EVHTTP_REQ_GET, "/api/tunnels/:id", tunnels_get, 0, NULL},
    {EVHTTP_REQ_PATCH, "/api/tunnels/:id", tunnels_update, ROUTE_BODY, NULL},
    {EVHTTP_REQ_DELETE, "/api/tunnels/:id", tunnels_delete, 0, NULL},
    {EVHTTP_REQ_GET, "/api/tokens", tokens_list, 0, NULL},
    {EVHTTP_REQ_POST, "/api/tokens", tokens_create, ROUTE_BODY, NULL},
    {EVHTTP_REQ_DELETE, "/api/tokens/:id", tokens_delete, 0, NULL},
    {EVHTTP_REQ_GET, "/api/auth/me", auth_me, 0, NULL},
    {EVHTTP_REQ_GET, "/api/certificates", certificates_list, ROUTE_FILTER, NULL},
    {EVHTTP_REQ_GET, "/api/authorities", authorities_list, 0, NULL},
    {EVHTTP_REQ_POST, "/api/authorities", authorities_create, ROUTE_BODY, NULL},
    {EVHTTP_REQ_POST, "/api/authorities/rotate", authorities_rotate, 0, NULL},
    {EVHTTP_REQ_DELETE, "/api/authorities/:id", authorities_delete, 0, NULL},
    {EVHTTP_REQ_GET, "/api/trust", trust_get, 0, NULL},
    {EVHTTP_REQ_PUT, "/api/trust", trust_put, ROUTE_BODY, NULL},
    {EVHTTP_REQ_GET, "/api/enrolments", enrolments_list, 0, NULL},
    {EVHTTP_REQ_PUT, "/api/enrolments/:id", enrolments_put, ROUTE_BODY, NULL},
    {EVHTTP_REQ_DELETE, "/api/enrolments/:id", enrolments_delete, 0, NULL},
    {EVHTTP_REQ_GET, "/api/audit", audit_list, 0, NULL},
    {EVHTTP_REQ_GET, "/api/openapi.json", openapi_get, ROUTE_OPEN, NULL},
    {EVHTTP_REQ_GET, "/healthz", health_live, ROUTE_OPEN, NULL},
    {EVHTTP_REQ_GET, "/readyz", health_ready, ROUTE_OPEN, NULL},
    {EVHTTP_REQ_GET, "/metrics", metrics_get, 0, NULL},
};
const size_t n_routes = KM_ARRAY_LEN(routes);

const char *route_method(enum evhttp_cmd_type method)
{
	switch (method) {
	case EVHTTP_REQ_GET:
		return "GET";
	case EVHTTP_REQ_HEAD:
		return "HEAD";
	case EVHTTP_REQ_POST:
		return "POST";
	case EVHTTP_REQ_PATCH:
		return "PATCH";
	case EVHTTP_REQ_PUT:
		return "PUT";
	case EVHTTP_REQ_DELETE:
		return "DELETE";
	case EVHTTP_REQ_OPTIONS:
		return "OPTIONS";
	default:
		return "?";
	}
}

static bool path_matches(const char *pattern, const char *path, char id[static KM_UUID_STRLEN])
{
	id[0] = '\0';
	for (;;) {
		size_t np = strcspn(pattern, "/"), n = strcspn(path, "/");
		if (np == 3 && memcmp(pattern, ":id", 3) == 0) {
			if (n != KM_UUID_STRLEN - 1)
				return false;
			memcpy(id, path, n);
			id[n] = '\0';
			if (!km_uuid_ok(id))
				return false;
		} else if (n != np || memcmp(pattern, path, n) != 0) {
			return false;
		}
		pattern += np;
		path += n;
		if (!*pattern || !*path)
			return *pattern == *path;
		pattern++;
		path++;
	}
}

const struct route *route_find(enum evhttp_cmd_type method, const char *path,
			       char id[static KM_UUID_STRLEN], char allow[static ROUTE_ALLOW_LEN])
{
	size_t used = 0;
	allow[0] = '\0';
	if (method == EVHTTP_REQ_HEAD)
		method = EVHTTP_REQ_GET;
	for (size_t i = 0; i < n_routes; i++) {
		const struct route *r = &routes[i];
		if (!path_matches(r->path, path, id))
			continue;
		if (r->method == method)
			return r;
		used += (size_t)snprintf(allow + used, ROUTE_ALLOW_LEN - used, "%s%s%s",
					 used ? ", " : "", route_method(r->method),
					 r->method == EVHTTP_REQ_GET ? ", HEAD" : "");
	}
	return NULL;
}
