/* SPDX-License-Identifier: MIT */
#include "gatewayd/mesh/mesh.h"
#include "gatewayd/mesh/internal.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEAD_AFTER_MS 5000
#define BACKLOG 64
#define REDIAL_MS 100
#define REDIAL_MAX_MS 3000
#define LOOK_MAX_MS 250
#define LISTEN_AGAIN_MS 5000

static const struct mesh_hooks no_hooks;

/* ---- peers ---- */

struct peer *mesh_peer_by_id(const struct mesh *m, const uint8_t id[static 16])
{
	for (size_t i = 0; i < m->n_peers; i++)
		if (!memcmp(m->peers[i]->id, id, 16))
			return m->peers[i];
	return NULL;
}

static struct peer *peer_by_addr(const struct mesh *m, const struct km_addr *a)
{
	for (size_t i = 0; i < m->n_peers; i++)
		if (km_addr_eq(&m->peers[i]->addr, a))
			return m->peers[i];
	return NULL;
}

static bool ours_to_dial(const struct peer *p)
{
	return memcmp(p->m->id, p->id, sizeof(p->id)) < 0;
}

static void changed(struct mesh *m)
{
	km_metric_set(m->alive, (int64_t)mesh_alive(m));
	if (m->o.hooks->changed)
		m->o.hooks->changed(m->o.arg);
}

void mesh_peer_up(struct peer *p)
{
	static struct km_log_limit limit;
	struct mesh *m = p->m;
	uint32_t held;
	p->failures = 0;
	p->met = true;
	if (mesh_log_allow(&limit, &held))
		km_info("gateway joined the mesh", km_ks("gateway", p->name),
			km_ki("held_back", held));
	changed(m);
	if (m->o.hooks->joined)
		m->o.hooks->joined(m->o.arg, p->id);
}

void mesh_peer_down(struct peer *p)
{
	struct mesh *m = p->m;
	bool was = p->alive;
	int64_t wait = REDIAL_MS << (p->failures < 5 ? p->failures : 5);
	if (wait > REDIAL_MAX_MS)
		wait = REDIAL_MAX_MS;
	p->alive = false;
	p->failures++;
	p->dial_ms = km_now_ms() + wait / 2 + km_random_below((uint32_t)wait);
	mesh_asks_unwait(p);
	if (was)
		changed(m);
}

static void peer_free(struct peer *p, const char *why)
{
	conn_drop(p, why);
	free(p);
}

int mesh_peer(struct mesh *m, const uint8_t id[static 16], const struct km_addr *virtual_ip,
	      struct km_errtext *err)
{
	struct peer *p = mesh_peer_by_id(m, id), *same = peer_by_addr(m, virtual_ip);
	char text[KM_ADDR_STRLEN];
	if (m->has_self && (!memcmp(id, m->id, 16) || km_addr_eq(virtual_ip, &m->self)))
		return km_errtext_set(err, KM_EINVAL, "a gateway has our id or address");
	if (same && same != p)
		return km_errtext_set(err, KM_EINVAL, "two gateways have the address %s",
				      km_addr_str(virtual_ip, text));
	if (p && same == p)
		return 0;
	if (!p) {
		if (m->n_peers == MESH_PEERS_MAX)
			return km_errtext_set(err, KM_EFULL, "more than %d gateways",
					      MESH_PEERS_MAX);
		p = km_xcalloc(1, sizeof(*p));
		p->m = m;
		memcpy(p->id, id, sizeof(p->id));
		km_uuid_str(id, p->name);
		p->named_ms = km_now_ms();
		m->peers[m->n_peers++] = p;
	}
	conn_drop(p, "it has another address");
	p->addr = *virtual_ip;
	p->dial_ms = 0;
	return 0;
}

void mesh_peer_gone(struct mesh *m, const uint8_t id[static 16])
{
	struct peer *p = mesh_peer_by_id(m, id);
	size_t i = 0;
	if (!p)
		return;
	while (m->peers[i] != p)
		i++;
	m->peers[i] = m->peers[--m->n_peers];
	peer_free(p, "no gateway of ours any more");
}

bool mesh_is_alive(const struct mesh *m, const uint8_t id[static 16])
{
	const struct peer *p = mesh_peer_by_id(m, id);
	return p && p->alive;
}

size_t mesh_alive(const struct mesh *m)
{
	size_t n = 0;
	for (size_t i = 0; i < m->n_peers; i++)
		n += m->peers[i]->alive;
	return n;
}

bool mesh_mine(const struct mesh *m, const char *domain)
{
	uint8_t ids[MESH_PEERS_MAX + 1][16];
	size_t n = 1;
	memcpy(ids[0], m->id, 16);
	for (size_t i = 0; i < m->n_peers; i++)
		if (m->peers[i]->alive)
			memcpy(ids[n++], m->peers[i]->id, 16);
	return mesh_winner((const uint8_t(*)[16])ids, n, domain) == 0;
}

static int begin_to_listen(struct mesh *m, struct km_errtext *err);

int64_t mesh_awaits(const struct mesh *m)
{
	int64_t now = km_now_ms(), left = 0;
	for (size_t i = 0; m->listening && i < m->n_peers; i++) {
		const struct peer *p = m->peers[i];
		if (!p->met && p->named_ms + m->o.dead_after_ms - now > left)
			left = p->named_ms + m->o.dead_after_ms - now;
	}
	return left;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct mesh *m = arg;
	int64_t now = km_now_ms();
	(void)fd, (void)what;
	if (!m->listening && m->net && m->has_self && now >= m->listen_ms)
		(void)begin_to_listen(m, NULL); /* it has been said why it failed */
	for (size_t i = 0; i < m->n_peers; i++) {
		struct peer *p = m->peers[i];
		conn_look(p, now);
		if (!p->conn && m->listening && ours_to_dial(p) && now >= p->dial_ms)
			conn_dial(p, now);
	}
}

/* ---- listening ---- */

/* Neither a gateway that we know, nor one that has to come: the connection is reset. */
static void refuse(struct mesh *m, int fd, const struct km_addr *from)
{
	static struct km_log_limit limit;
	const struct linger reset = {1, 0};
	char text[KM_ADDR_STRLEN];
	uint32_t held;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
	km_metric_add(m->refused, 1);
	if (km_log_allow(&limit, km_now_ms(), 5, 60000, &held))
		km_warn("connection to the mesh refused", km_ks("from", km_addr_str(from, text)),
			km_ki("held_back", held));
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct mesh *m = arg;
	(void)fd, (void)what;
	if (m->listener)
		(void)event_add(m->listener, NULL);
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	struct mesh *m = arg;
	(void)what;
	for (int i = 0; i < BACKLOG; i++) {
		struct sockaddr_storage ss;
		struct km_addr from = {0};
		socklen_t len = sizeof(ss);
		int s = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (s < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			event_del(m->listener);
			(void)event_add(m->resume, &(struct timeval){1, 0});
		}
		if (s < 0)
			return;
		struct peer *p = km_addr_from_sa(&from, NULL, (struct sockaddr *)&ss)
				     ? NULL
				     : peer_by_addr(m, &from);
		if (p && !ours_to_dial(p))
			conn_accept(p, s, km_now_ms());
		else
			refuse(m, s, &from);
	}
}

static void unlisten(struct mesh *m)
{
	for (size_t i = 0; i < m->n_peers; i++)
		conn_drop(m->peers[i], "the private network is made anew");
	if (m->listener) {
		int fd = event_get_fd(m->listener);
		event_free(m->listener);
		close(fd);
	}
	m->listener = NULL;
	m->listening = false;
}

static int begin_to_listen(struct mesh *m, struct km_errtext *err)
{
	int fd;
	unlisten(m);
	m->listen_ms = km_now_ms() + LISTEN_AGAIN_MS;
	if (!m->net || !m->has_self)
		return 0;
	int rc = km_privnet_listen(m->net, &m->self, MESH_PORT, BACKLOG, &fd, err);
	if (rc)
		return rc;
	m->listener = event_new(m->o.base, fd, EV_READ | EV_PERSIST, on_accept, m);
	if (!m->listener) {
		close(fd);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	m->listening = true;
	for (size_t i = 0; i < m->n_peers; i++) {
		m->peers[i]->met = false;
		m->peers[i]->named_ms = km_now_ms();
	}
	return event_add(m->listener, NULL) ? km_errtext_set(err, KM_ENOMEM, "no memory") : 0;
}

int mesh_net(struct mesh *m, struct km_privnet *net, struct km_errtext *err)
{
	m->net = net;
	return begin_to_listen(m, err);
}

int mesh_self(struct mesh *m, const uint8_t id[static 16], const struct km_addr *virtual_ip,
	      struct km_errtext *err)
{
	if (m->has_self && m->listening && !memcmp(m->id, id, 16) &&
	    km_addr_eq(&m->self, virtual_ip))
		return 0;
	memcpy(m->id, id, sizeof(m->id));
	m->self = *virtual_ip;
	m->has_self = true;
	return begin_to_listen(m, err);
}

/* ---- life ---- */

static void make_metrics(struct mesh *m)
{
	m->alive = km_metric(KM_METRIC_GAUGE, "kakuremichi_mesh_peers", "",
			     "Other gateways that are connected and heard.");
	m->sent = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_messages_total",
			    "direction=\"sent\"", "Messages between gateways.");
	m->received = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_messages_total",
				"direction=\"received\"", "Messages between gateways.");
	m->refused = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_refused_total", "",
			       "Connections from who is no gateway of ours.");
	m->dropped = km_metric(
	    KM_METRIC_COUNTER, "kakuremichi_mesh_dropped_total", "",
	    "Messages that another gateway was not told, because too much waited for it.");
	m->given = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_given_total", "",
			     "Certificates with keys that another gateway has got from this one.");
	m->fetched = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_fetches_total",
			       "result=\"got\"", "Certificates asked of other gateways.");
	m->missed = km_metric(KM_METRIC_COUNTER, "kakuremichi_mesh_fetches_total",
			      "result=\"none\"", "Certificates asked of other gateways.");
}

struct mesh *mesh_new(const struct mesh_opts *o)
{
	struct mesh *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->o = *o;
	if (!m->o.hooks)
		m->o.hooks = &no_hooks;
	if (!m->o.dead_after_ms)
		m->o.dead_after_ms = DEAD_AFTER_MS;
	make_metrics(m);
	int64_t look =
	    m->o.dead_after_ms / 20 + 1 < LOOK_MAX_MS ? m->o.dead_after_ms / 20 + 1 : LOOK_MAX_MS;
	m->tick = event_new(o->base, -1, EV_PERSIST, on_tick, m);
	m->resume = evtimer_new(o->base, on_resume, m);
	if (!m->tick || !m->resume ||
	    event_add(m->tick, &(struct timeval){look / 1000, look % 1000 * 1000})) {
		mesh_free(m);
		return NULL;
	}
	return m;
}

void mesh_free(struct mesh *m)
{
	if (!m)
		return;
	m->o.hooks = &no_hooks;
	mesh_asks_free(m);
	while (m->n_peers) {
		struct peer *p = m->peers[--m->n_peers];
		p->alive = false; /* nothing worth a warning */
		peer_free(p, "the end");
	}
	unlisten(m);
	if (m->tick)
		event_free(m->tick);
	if (m->resume)
		event_free(m->resume);
	free(m);
}
