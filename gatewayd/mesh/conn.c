/* SPDX-License-Identifier: MIT */
#include "gatewayd/mesh/internal.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FRAMES_AT_ONCE 64 /* of one peer, before others have their turn */
#define PINGS 5           /* in the time after which a silent peer is dead */

struct frame {
	struct frame *next;
	size_t n, done;
	uint8_t *bytes;
};

struct conn {
	struct peer *peer;
	int fd;
	struct event *read, *write;
	bool open; /* connected: hello has been sent */
	int64_t heard_ms, sent_ms;
	/* the frame that is being read: its head, then its body (malloc'd, one byte more) */
	uint8_t head[MESH_HEAD], *body;
	size_t have, want;
	struct frame *queue, *last;
	size_t queued; /* bytes */
};

/* ---- the end ---- */

static void frame_free(struct frame *f)
{
	if (f->bytes)
		km_wipe(f->bytes, f->n);
	free(f->bytes);
	free(f);
}

static void body_free(struct conn *c)
{
	if (c->body)
		km_wipe(c->body, c->want + 1);
	free(c->body);
	c->body = NULL;
	c->have = 0;
}

static void conn_free(struct conn *c)
{
	struct frame *f;
	while ((f = c->queue)) {
		c->queue = f->next;
		frame_free(f);
	}
	body_free(c);
	if (c->read)
		event_free(c->read);
	if (c->write)
		event_free(c->write);
	close(c->fd);
	free(c);
}

void conn_drop(struct peer *p, const char *why)
{
	static struct km_log_limit limit;
	struct conn *c = p->conn;
	uint32_t held;
	if (!c)
		return;
	p->conn = NULL;
	if (p->alive && mesh_log_allow(&limit, &held))
		km_warn("connection to gateway lost", km_ks("gateway", p->name), km_ks("why", why),
			km_ki("held_back", held));
	else
		km_debug("no connection to gateway", km_ks("gateway", p->name), km_ks("why", why));
	conn_free(c);
	mesh_peer_down(p);
}

/* ---- writing ---- */

static bool flush(struct conn *c)
{
	struct frame *f;
	while ((f = c->queue)) {
		ssize_t n = send(c->fd, f->bytes + f->done, f->n - f->done, MSG_NOSIGNAL);
		if (n < 0)
			return (errno == EAGAIN || errno == EINTR) && !event_add(c->write, NULL);
		f->done += (size_t)n;
		c->queued -= (size_t)n;
		if (f->done < f->n)
			continue;
		c->queue = f->next;
		frame_free(f);
	}
	return true;
}

static int enqueue(struct conn *c, const struct mesh_msg *m)
{
	struct frame *f = calloc(1, sizeof(*f));
	int rc = f ? mesh_encode(m, &f->bytes, &f->n) : KM_ENOMEM;
	if (!rc && c->queued + f->n > MESH_QUEUE_MAX)
		rc = KM_EFULL;
	if (rc) {
		if (f)
			frame_free(f);
		return rc;
	}
	c->queued += f->n;
	if (c->queue)
		c->last->next = f;
	else
		c->queue = f;
	c->last = f;
	c->sent_ms = km_now_ms();
	km_metric_add(c->peer->m->sent, 1);
	return event_add(c->write, NULL) ? KM_ENOMEM : 0;
}

int conn_send(struct peer *p, const struct mesh_msg *m)
{
	return p->alive ? enqueue(p->conn, m) : KM_ECLOSED;
}

static void say_hello(struct conn *c)
{
	struct mesh_msg m = {.type = MESH_HELLO, .version = MESH_VERSION};
	memcpy(m.gateway, c->peer->m->id, sizeof(m.gateway));
	if (enqueue(c, &m))
		conn_drop(c->peer, "no memory");
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	int error = 0;
	socklen_t len = sizeof(error);
	(void)what;
	if (!c->open) {
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) || error) {
			conn_drop(c->peer, strerror(error ? error : errno));
			return;
		}
		c->open = true;
		if (event_add(c->read, NULL))
			conn_drop(c->peer, "no memory");
		else
			say_hello(c);
		return;
	}
	if (!flush(c))
		conn_drop(c->peer, strerror(errno));
}

/* ---- reading ---- */

/* The first thing that a peer says; false: not what it should be. */
static bool hello(struct peer *p, const struct mesh_msg *m)
{
	if (m->type != MESH_HELLO || memcmp(m->gateway, p->id, sizeof(p->id)))
		return false;
	p->alive = true;
	mesh_peer_up(p);
	return true;
}

/* A body is whole. False: the connection is over (why), or gone already (why NULL). */
static bool body_read(struct conn *c, const char **why)
{
	struct peer *p = c->peer;
	struct mesh_msg m;
	int rc = mesh_decode(&m, c->body, c->want);
	*why = "malformed message";
	if (rc == KM_ENOTFOUND && p->alive)
		return true;
	if (rc)
		return false;
	km_metric_add(p->m->received, 1);
	if (!p->alive) {
		*why = "not the gateway that has this address";
		return hello(p, &m);
	}
	mesh_said(p, &m);
	*why = NULL;
	return p->conn == c;
}

/* 1: a step was made, 0: nothing more for now, -1: over (why), or gone (why NULL). */
static int step(struct conn *c, const char **why)
{
	uint8_t *to = c->body ? c->body : c->head;
	size_t want = c->body ? c->want : MESH_HEAD;
	ssize_t n = recv(c->fd, to + c->have, want - c->have, 0);
	*why = n ? strerror(errno) : "closed by it";
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	c->heard_ms = km_now_ms();
	c->have += (size_t)n;
	if (c->have < want)
		return 1;
	if (!c->body) {
		*why = "malformed message";
		if (mesh_decode_head(c->head, &c->want))
			return -1;
		*why = "no memory";
		c->have = 0;
		c->body = malloc(c->want + 1);
		return c->body ? 1 : -1;
	}
	if (!body_read(c, why))
		return -1;
	body_free(c);
	return 1;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	const char *why = NULL;
	int rc = 1;
	(void)fd, (void)what;
	for (int i = 0; i < 2 * FRAMES_AT_ONCE && rc > 0; i++)
		rc = step(c, &why);
	if (rc < 0 && why)
		conn_drop(c->peer, why);
}

/* ---- the beginning ---- */

/* Takes fd over. NULL: no memory. */
static struct conn *conn_new(struct peer *p, int fd, int64_t now_ms)
{
	struct conn *c = calloc(1, sizeof(*c));
	int one = 1;
	if (!c) {
		close(fd);
		return NULL;
	}
	c->fd = fd;
	c->peer = p;
	c->heard_ms = c->sent_ms = now_ms;
	/* Without it, it is only slower. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->read = event_new(p->m->o.base, fd, EV_READ | EV_PERSIST, on_readable, c);
	c->write = event_new(p->m->o.base, fd, EV_WRITE, on_writable, c);
	if (!c->read || !c->write || event_add(c->write, NULL)) {
		conn_free(c);
		return NULL;
	}
	p->conn = c;
	return c;
}

void conn_accept(struct peer *p, int fd, int64_t now_ms)
{
	struct conn *c;
	conn_drop(p, "it has connected anew");
	if (!(c = conn_new(p, fd, now_ms)))
		return;
	c->open = true;
	if (event_add(c->read, NULL))
		conn_drop(p, "no memory");
	else
		say_hello(c);
}

/* From our own address, by which the peer knows us. */
static int connect_from(int fd, const struct km_addr *from, const struct km_addr *to)
{
	struct sockaddr_storage ss;
	int one = 1;
	(void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	socklen_t len = km_addr_to_sa(&ss, from, 0);
	if (bind(fd, (struct sockaddr *)&ss, len))
		return -1;
	len = km_addr_to_sa(&ss, to, MESH_PORT);
	return connect(fd, (struct sockaddr *)&ss, len) && errno != EINPROGRESS ? -1 : 0;
}

void conn_dial(struct peer *p, int64_t now_ms)
{
	struct km_errtext err = {""};
	int fd;
	if (km_privnet_sockets(p->m->net, p->addr.family, SOCK_STREAM, 0, &fd, 1, &err)) {
		km_debug("no socket for the mesh", km_ks("why", err.text));
		mesh_peer_down(p);
		return;
	}
	if (connect_from(fd, &p->m->self, &p->addr)) {
		km_debug("gateway not dialled", km_ks("gateway", p->name),
			 km_ks("why", strerror(errno)));
		close(fd);
		mesh_peer_down(p);
		return;
	}
	if (!conn_new(p, fd, now_ms))
		mesh_peer_down(p);
}

void conn_look(struct peer *p, int64_t now_ms)
{
	struct mesh_msg ping = {.type = MESH_PING};
	struct conn *c = p->conn;
	if (!c)
		return;
	if (now_ms - c->heard_ms >= p->m->o.dead_after_ms)
		conn_drop(p, p->alive ? "silent" : "no answer");
	else if (p->alive && now_ms - c->sent_ms >= p->m->o.dead_after_ms / PINGS)
		(void)enqueue(c, &ping); /* no room: then there is enough to be heard */
}
