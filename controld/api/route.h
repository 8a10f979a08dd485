/* SPDX-License-Identifier: MIT */
/* Which handler serves which method and path. */
#ifndef CONTROLD_API_ROUTE_H
#define CONTROLD_API_ROUTE_H

#include "libkm/base/util.h"
#include <event2/http.h>
#include <stdbool.h>
#include <stddef.h>

struct req;
struct host_kind;

enum route_flags {
	ROUTE_OPEN = 1, /* without a token */
	ROUTE_BODY = 2, /* wants a JSON object */
	ROUTE_FILTER = 4, /* a list of certificates: takes filters in its query */
	ROUTE_DOMAIN = 8, /* a list with the filter `domain` */
};
struct route {
	enum evhttp_cmd_type method;
	const char *path; /* a segment ":id" stands for a UUID */
	void (*handle)(struct req *rq);
	unsigned flags;
	const struct host_kind *host; /* for the handlers of hosts.h; else NULL */
};
extern const struct route routes[];
extern const size_t n_routes;

/* The route of a method (HEAD is served as GET) and path; id gets the UUID or "". NULL: then allow
 * is "" (no such path) or the methods that the path has ("GET, HEAD, PATCH"). */
#define ROUTE_ALLOW_LEN 64
const struct route *route_find(enum evhttp_cmd_type method, const char *path,
			       char id[static KM_UUID_STRLEN], char allow[static ROUTE_ALLOW_LEN]);
/* "GET" …; "?" for what is not known. */
const char *route_method(enum evhttp_cmd_type method);

/* The handlers, by file (of agents and gateways: hosts.h). */
void tunnels_list(struct req *rq);
void tunnels_create(struct req *rq);
void tunnels_get(struct req *rq);
void tunnels_update(struct req *rq);
void tunnels_delete(struct req *rq);
void tokens_list(struct req *rq);
void tokens_create(struct req *rq);
void tokens_delete(struct req *rq);
void auth_me(struct req *rq);
void certificates_list(struct req *rq);
void audit_list(struct req *rq);
void authorities_list(struct req *rq);
void authorities_create(struct req *rq);
void authorities_rotate(struct req *rq);
void authorities_delete(struct req *rq);
void trust_get(struct req *rq);
void trust_put(struct req *rq);
void enrolments_list(struct req *rq);
void enrolments_put(struct req *rq);
void enrolments_delete(struct req *rq);
void openapi_get(struct req *rq);
void health_live(struct req *rq);
void health_ready(struct req *rq);
void metrics_get(struct req *rq);

#endif
