/* SPDX-License-Identifier: MIT */
/* Agents and gateways, which are made, changed, approved and deleted alike: what parts them is a
 * table of statements per kind. */
#ifndef CONTROLD_API_HOSTS_H
#define CONTROLD_API_HOSTS_H

struct req;
struct host_kind;

extern const struct host_kind host_agent, host_gateway;

/* Handlers; the route names the kind. */
void hosts_list(struct req *rq);
void hosts_create(struct req *rq);
void hosts_get(struct req *rq);
void hosts_update(struct req *rq);
void hosts_delete(struct req *rq);
void hosts_approve_key(struct req *rq);
void hosts_revoke(struct req *rq);
void hosts_join_token(struct req *rq);

#endif
