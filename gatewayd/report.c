/* SPDX-License-Identifier: MIT */
#include "gatewayd/report.h"
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"
#include <stdlib.h>
#include <string.h>

#define ITEMS_PER_MESSAGE 64 /* far below 64 KiB, also with long errors */
#define CERTS_PER_REPORT 64  /* domains looked at in one round; the next round goes on */

struct report {
	const struct route_table *routes;
	const struct peers *peers;
	struct certs *certs;
	const struct acme *acme;
	uint64_t acme_since;
	json_t *sent_tunnels, *sent_peers, *sent_certs; /* id or domain -> object */
	size_t cert_from, cert_at;
	/* of the round at hand */
	int64_t now_ms, wall_ms;
	int (*send)(void *arg, json_t *data);
	void *arg;
	const char *list;
	json_t *sent, *items;
	bool failed;
};

struct report *report_new(const struct route_table *routes, const struct peers *peers,
			  struct certs *certs, const struct acme *acme)
{
	struct report *r = km_xcalloc(1, sizeof(*r));
	r->routes = routes;
	r->peers = peers;
	r->certs = certs;
	r->acme = acme;
	report_reset(r);
	return r;
}

static void forget(struct report *r)
{
	json_decref(r->sent_tunnels);
	json_decref(r->sent_peers);
	json_decref(r->sent_certs);
}

void report_free(struct report *r)
{
	if (!r)
		return;
	forget(r);
	free(r);
}

void report_reset(struct report *r)
{
	forget(r);
	r->acme_since = 0;
	r->sent_tunnels = json_object();
	r->sent_peers = json_object();
	r->sent_certs = json_object();
}

void report_forget(struct report *r, const char *id, const char *domain)
{
	json_object_del(r->sent_tunnels, id);
	json_object_del(r->sent_certs, domain);
}

/* ---- lists ---- */

static void flush(struct report *r, const char *key)
{
	size_t i;
	json_t *item;
	json_t *items = r->items;
	r->items = NULL;
	if (!items)
		return;
	if (r->failed || r->send(r->arg, json_pack("{sO}", r->list, items)))
		r->failed = true;
	else
		json_array_foreach(items, i, item)
		    json_object_set(r->sent, json_string_value(json_object_get(item, key)), item);
	json_decref(items);
}

/* Takes item's reference; it goes out when it differs from what was sent under its key. */
static void add(struct report *r, const char *key, json_t *item)
{
	const char *name = json_string_value(json_object_get(item, key));
	if (r->failed || !name || json_equal(json_object_get(r->sent, name), item)) {
		json_decref(item);
		return;
	}
	if (!r->items)
		r->items = json_array();
	json_array_append_new(r->items, item);
	if (json_array_size(r->items) == ITEMS_PER_MESSAGE)
		flush(r, key);
}

static void begin(struct report *r, const char *list, json_t *sent)
{
	r->list = list;
	r->sent = sent;
}

/* ---- tunnels, peers, certificates ---- */

static int64_t count(const _Atomic uint64_t *v)
{
	return (int64_t)atomic_load_explicit(v, memory_order_relaxed);
}

static void add_tunnel(void *arg, const struct route_entry *e)
{
	char id[KM_UUID_STRLEN];
	struct km_msg_tunnel_status t = {
	    .id = km_uuid_str(e->tunnel, id),
	    .requests = count(&e->state->requests),
	    .has_requests = true,
	    .bytes_in = count(&e->state->bytes_in),
	    .has_bytes_in = true,
	    .bytes_out = count(&e->state->bytes_out),
	    .has_bytes_out = true,
	    .errors = count(&e->state->errors),
	    .has_errors = true,
	};
	add(arg, "id", km_msg_format(&km_msg_desc_tunnel_status, &t));
}

static void add_peer(void *arg, const char *agent_id, const struct km_wg_peer_status *s)
{
	char endpoint[KM_ENDPOINT_STRLEN], at[KM_ISO8601_LEN];
	struct km_addr a;
	uint16_t port;
	struct km_msg_peer_status p = {
	    .agent_id = (char *)agent_id,
	    .rx_bytes = (int64_t)s->rx_bytes,
	    .has_rx_bytes = true,
	    .tx_bytes = (int64_t)s->tx_bytes,
	    .has_tx_bytes = true,
	};
	if (s->has_endpoint && !km_addr_from_sa(&a, &port, (const struct sockaddr *)&s->endpoint))
		p.endpoint = km_endpoint_str(&a, port, endpoint);
	if (s->last_handshake_ms)
		p.last_handshake_at = km_iso8601(s->last_handshake_ms, at);
	add(arg, "agentId", km_msg_format(&km_msg_desc_peer_status, &p));
}

static void add_certificate(void *arg, const struct route_entry *e)
{
	struct report *r = arg;
	struct cert *cert = NULL;
	struct km_errtext err = {0};
	char at[KM_ISO8601_LEN];
	struct km_msg_certificate_status s = {.domain = (char *)e->domain, .status = "ready"};
	size_t i = r->cert_at++;
	if (i < r->cert_from || i >= r->cert_from + CERTS_PER_REPORT ||
	    acme_manages(r->acme, e->domain))
		return;
	if (e->tls == ROUTE_TLS_PASSTHROUGH || e->tls == ROUTE_TLS_OFF)
		return;
	struct certs_ask ask = {.host = e->domain,
				.mode = e->tls,
				.ecdsa = true,
				.peek = true,
				.now_ms = r->now_ms,
				.wall_ms = r->wall_ms};
	int rc = certs_for_host(r->certs, &ask, &cert, &err);
	if (rc) {
		s.status = "error";
		s.error = err.text;
	} else {
		s.not_after = km_iso8601(cert->not_after_ms, at);
		if (cert->not_after_ms < r->wall_ms) {
			s.status = "error";
			s.error = "the certificate has expired";
		}
	}
	add(r, "domain", km_msg_format(&km_msg_desc_certificate_status, &s));
	cert_put(cert);
}

/* What the gateway obtains by itself. */
static void add_obtained(void *arg, const struct acme_status *a)
{
	static const char *const states[] = {"pending", "issuing", "ready", "renewal_due", "error"};
	char after[KM_ISO8601_LEN], next[KM_ISO8601_LEN];
	struct km_msg_certificate_status s = {.domain = (char *)a->domain,
					      .status = (char *)states[a->state],
					      .error = (char *)a->error};
	if (a->not_after_ms)
		s.not_after = km_iso8601(a->not_after_ms, after);
	if (a->next_try_ms)
		s.next_try_at = km_iso8601(a->next_try_ms, next);
	add(arg, "domain", km_msg_format(&km_msg_desc_certificate_status, &s));
}

void report_send(struct report *r, int64_t now_ms, int64_t wall_ms,
		 int (*send)(void *arg, json_t *data), void *arg)
{
	r->now_ms = now_ms;
	r->wall_ms = wall_ms;
	r->send = send;
	r->arg = arg;
	r->failed = false;
	begin(r, "tunnels", r->sent_tunnels);
	route_each(r->routes, add_tunnel, r);
	flush(r, "id");
	begin(r, "peers", r->sent_peers);
	peers_each(r->peers, add_peer, r);
	flush(r, "agentId");
	begin(r, "certificates", r->sent_certs);
	r->cert_at = 0;
	route_each_domain(r->routes, add_certificate, r);
	uint64_t since = acme_each(r->acme, r->acme_since, add_obtained, r);
	flush(r, "domain");
	if (!r->failed)
		r->acme_since = since;
	r->cert_from += CERTS_PER_REPORT;
	if (r->cert_from >= r->cert_at)
		r->cert_from = 0;
}
