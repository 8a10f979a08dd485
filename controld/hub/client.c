/* SPDX-License-Identifier: MIT */
/* One link: sending, closing, and the machinery of its steps. */
#include "controld/hub/client.h"
#include "libkm/base/log.h"
#include <stdlib.h>

struct client *client_find(struct hub *hub, uint64_t link)
{
	struct client *c;
	HASH_FIND(hh, hub->by_link, &link, sizeof(link), c);
	return c;
}

struct client *client_by_id(struct hub *hub, const char *id)
{
	struct client *c;
	HASH_FIND(hh_id, hub->by_id, id, strlen(id), c);
	return c;
}

void client_send(struct client *c, const char *type, json_t *data)
{
	/* A link that is gone, or too slow and therefore closed, is told by `closed`. */
	int rc = km_link_server_send(c->hub->links, c->link, type, data);
	if (rc < 0 && rc != KM_ECLOSED)
		km_warn("message not sent", km_ks("to", c->name), km_ks("type", type), km_ke(rc));
}

void client_send_error(struct client *c, const char *code, const char *message)
{
	client_send(c, "error", json_pack("{s:s, s:s}", "code", code, "message", message));
}

void client_drop(struct client *c)
{
	HASH_DELETE(hh, c->hub->by_link, c);
	if (c->named) {
		HASH_DELETE(hh_id, c->hub->by_id, c);
		report_gone(c);
	}
	store_cancel(c->db);
	store_cancel(c->db_key);
	store_cancel(c->db_lease);
	km_msg_clear(&km_msg_desc_auth, &c->auth);
	km_msg_clear(&km_msg_desc_join, &c->join);
	km_wipe(c->new_key, sizeof(c->new_key));
	json_decref(c->report);
	json_decref(c->leases);
	free(c->ack_error);
	free(c);
}

void client_close(struct client *c, const char *why)
{
	km_link_server_close(c->hub->links, c->link, why, 1);
	client_drop(c);
}

void client_replaced(struct client *c)
{
	client_send_error(c, "CONFLICT", "a newer connection with this key has taken over");
	HASH_DELETE(hh_id, c->hub->by_id, c);
	c->named = false; /* it is not offline */
	client_close(c, "replaced by a newer connection");
}

void client_refuse(struct client *c, const char *message)
{
	client_send(c, "auth_error", json_pack("{s:s}", "message", message));
	client_close(c, message);
}

void client_go(struct client *c, enum step step)
{
	c->step = step;
	c->waiting = false;
	if (!c->hub->epoch[0]) { /* the database has not been seen yet */
		c->waiting = true;
		return;
	}
	switch (step) {
	case STEP_FIND:
		auth_find(c);
		break;
	case STEP_BIND:
		auth_bind(c);
		break;
	case STEP_SYNC:
		feed_sync(c);
		break;
	case STEP_JOIN_FIND:
		join_find(c);
		break;
	case STEP_JOIN_BIND:
		join_bind(c);
		break;
	case STEP_OPEN:
	case STEP_LIVE:
		break;
	}
}

void client_failed(struct client *c, const struct store_error *error)
{
	static struct km_log_limit limit;
	uint32_t held;
	if (store_error_passes(error)) {
		if (error->err != KM_ECLOSED && km_log_allow(&limit, km_now_ms(), 5, 10000, &held))
			km_warn("database cannot serve a link now, tried again", km_ks("id", c->id),
				km_ks("name", c->name), km_ks("sqlstate", error->sqlstate),
				km_ks("what", error->message), km_ki("held_back", held));
		c->waiting = true;
	} else if (error->err == KM_ENOTFOUND) {
		client_refuse(c, "this key has been revoked");
	} else if (error->err == KM_EEXIST) {
		km_warn("key of another host", km_ks("id", c->id), km_ks("name", c->name));
		client_refuse(c, "wireguardPublicKey belongs to another host");
	} else {
		km_error("link failed", km_ks("id", c->id), km_ks("sqlstate", error->sqlstate),
			 km_ks("what", error->message));
		client_send_error(c, "INTERNAL_ERROR", "control cannot serve this link now");
		client_close(c, "internal error");
	}
}

static void started(struct client *c, int rc)
{
	if (rc < 0) {
		c->db = NULL;
		c->waiting = true;
	}
}

void client_run(struct client *c, const struct store_stmt *s, size_t n, store_cb *cb)
{
	started(c, store_run(c->hub->store, s, n, cb, c, &c->db));
}

void client_read(struct client *c, const struct store_stmt *s, size_t n, store_cb *cb)
{
	started(c, store_read(c->hub->store, s, n, cb, c, &c->db));
}
