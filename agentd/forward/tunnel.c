/* SPDX-License-Identifier: MIT */
#include "agentd/forward/tunnel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRIC "kakuremichi_agent_tunnel_"

static void make_metrics(struct tunnel *t)
{
	char labels[64], with[96];

	snprintf(labels, sizeof(labels), "tunnel=\"%s\"", t->id_text);
	t->connections = km_metric(KM_METRIC_COUNTER, METRIC "connections_total", labels,
				   "Connections from gateways that reached the target.");
	t->errors = km_metric(KM_METRIC_COUNTER, METRIC "errors_total", labels,
			      "Connections that could not be forwarded, or were reset.");
	snprintf(with, sizeof(with), "%s,direction=\"in\"", labels);
	t->bytes_in = km_metric(KM_METRIC_COUNTER, METRIC "bytes_total", with,
				"Bytes to (in) and from (out) the target.");
	snprintf(with, sizeof(with), "%s,direction=\"out\"", labels);
	t->bytes_out = km_metric(KM_METRIC_COUNTER, METRIC "bytes_total", with,
				 "Bytes to (in) and from (out) the target.");
}

int tunnel_new(struct tunnel **out, const struct km_msg_tunnel *m, const struct allow *allow,
	       struct km_errtext *err)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	int rc = KM_EINVAL;

	*out = NULL;
	if (!t)
		return km_errtext_set(err, KM_ENOMEM, "no memory for tunnel %s", m->domain);
	atomic_init(&t->refs, 1);
	if (km_uuid_parse(t->id, m->id) || km_uuid_parse(t->target_id, m->target_id)) {
		km_errtext_set(err, rc, "tunnel %s: malformed id", m->domain);
		goto fail;
	}
	rc = km_target_parse(&t->target, m->target, err);
	if (rc)
		goto fail;
	rc = KM_ENOMEM;
	t->domain = strdup(m->domain ? m->domain : "");
	t->target_text = strdup(m->target);
	if (!t->domain || !t->target_text)
		goto fail;
	km_uuid_str(t->id, t->id_text);
	km_uuid_str(t->target_id, t->target_id_text);
	t->enabled = m->enabled;
	t->datagram = m->protocol && strcmp(m->protocol, "udp") == 0;
	t->refused = allow_target(allow, &t->target) == ALLOW_NO;
	make_metrics(t);
	*out = t;
	return 0;
fail:
	tunnel_unref(t);
	return rc;
}

struct tunnel *tunnel_ref(struct tunnel *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void tunnel_unref(struct tunnel *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(t->domain);
	free(t->target_text);
	free(t);
}

void tunnel_table_init(struct tunnel_table *tt)
{
	pthread_rwlock_init(&tt->lock, NULL);
	tt->by_id = NULL;
}

void tunnel_table_free(struct tunnel_table *tt)
{
	struct tunnel *t, *tmp;

	HASH_ITER (hh, tt->by_id, t, tmp) {
		HASH_DEL(tt->by_id, t);
		tunnel_unref(t);
	}
	pthread_rwlock_destroy(&tt->lock);
}

void tunnel_table_set(struct tunnel_table *tt, struct tunnel *t)
{
	struct tunnel *old;

	pthread_rwlock_wrlock(&tt->lock);
	HASH_FIND(hh, tt->by_id, t->id, sizeof(t->id), old);
	if (old)
		HASH_DEL(tt->by_id, old);
	HASH_ADD(hh, tt->by_id, id, sizeof(t->id), t);
	pthread_rwlock_unlock(&tt->lock);
	tunnel_unref(old);
}

void tunnel_table_remove(struct tunnel_table *tt, const uint8_t id[static 16])
{
	struct tunnel *old;

	pthread_rwlock_wrlock(&tt->lock);
	HASH_FIND(hh, tt->by_id, id, 16, old);
	if (old)
		HASH_DEL(tt->by_id, old);
	pthread_rwlock_unlock(&tt->lock);
	tunnel_unref(old);
}

struct tunnel *tunnel_table_find(struct tunnel_table *tt, const uint8_t id[static 16],
				 const uint8_t target_id[static 16])
{
	struct tunnel *t;

	pthread_rwlock_rdlock(&tt->lock);
	HASH_FIND(hh, tt->by_id, id, 16, t);
	if (t && memcmp(t->target_id, target_id, 16) != 0)
		t = NULL;
	if (t)
		tunnel_ref(t);
	pthread_rwlock_unlock(&tt->lock);
	return t;
}

bool tunnel_table_serves(struct tunnel_table *tt, const uint8_t id[static 16])
{
	struct tunnel *t;
	bool serves;

	pthread_rwlock_rdlock(&tt->lock);
	HASH_FIND(hh, tt->by_id, id, 16, t);
	serves = t && t->enabled;
	pthread_rwlock_unlock(&tt->lock);
	return serves;
}
