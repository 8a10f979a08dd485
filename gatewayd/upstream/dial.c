/* SPDX-License-Identifier: MIT */
/* Opening a connection: socket, PROXY header, and TLS with the target behind it. */
#include "gatewayd/upstream/back.h"
#include "gatewayd/upstream/internal.h"
#include "gatewayd/upstream/tls.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define UNACKNOWLEDGED_MS 20000

/* ---- sockets ---- */

static void spares_close(struct spares *s)
{
	while (s->n)
		close(s->fds[--s->n]);
}

void dial_spares_close(struct pool *p)
{
	spares_close(&p->v4);
	spares_close(&p->v6);
}

static int socket_take(struct pool *p, int family, int *fd)
{
	struct spares *s = family == AF_INET ? &p->v4 : &p->v6;
	struct km_errtext err;
	uint32_t held;
	if (!p->net)
		return KM_ECLOSED;
	if (!s->n) {
		int rc = km_privnet_sockets(p->net, family, SOCK_STREAM, 0, s->fds,
					    KM_PRIVNET_SOCKETS_MAX, &err);
		if (rc) {
			if (km_log_allow(&p->log, km_now_ms(), 3, 10000, &held))
				km_error("no sockets from the private network",
					 km_ks("why", err.text), km_ki("held", held));
			return rc;
		}
		s->n = KM_PRIVNET_SOCKETS_MAX;
	}
	*fd = s->fds[--s->n];
	return 0;
}

/* An agent that is gone without a word is noticed: at once when it owes an acknowledgement, by
 * probes when an upgraded connection is silent. */
static void options_set(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, UNACKNOWLEDGED_MS / 1000},
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(options); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
				 sizeof(options[i].value));
}

/* ---- opening ---- */

static void header_make(struct up *u, const struct route *r, const struct pool_client *client)
{
	struct km_proxy2 h = {.has_tunnel = true, .has_target = true};
	memcpy(h.tunnel, r->tunnel, sizeof(h.tunnel));
	memcpy(h.target, r->target, sizeof(h.target));
	if (client) {
		h.proxied = h.has_addrs = true;
		h.src = client->src;
		h.dst = client->dst;
		h.src_port = client->src_port;
		h.dst_port = client->dst_port;
	}
	u->header_len = km_proxy2_write(u->header, &h);
}

int dial(struct pool *p, const struct route *r, const struct pool_client *client,
	 void (*woken)(struct io *io), struct up **out)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &r->agent, UP_AGENT_PORT);
	int fd = -1, rc;
	struct up *u = calloc(1, sizeof(*u));
	if (!u)
		return KM_ENOMEM;
	u->back = &back_h1;
	io_none(&u->io);
	u->pool = p;
	u->serial = r->serial;
	u->agent = r->agent;
	u->idle_ms = INT64_MAX;
	if (r->rules && !client)
		u->rules = route_rules_ref(r->rules);
	km_buf_init(&u->in, p->o.buf_max);
	km_buf_init(&u->out, p->o.buf_max);
	header_make(u, r, client);
	if ((rc = socket_take(p, r->agent.family, &fd)))
		goto out;
	options_set(fd);
	if (connect(fd, (struct sockaddr *)&ss, len) && errno != EINPROGRESS) {
		rc = KM_EIO;
		goto out;
	}
	if (io_open(&u->io, p->o.loop, fd, NULL, woken)) {
		rc = KM_ENOMEM;
		goto out;
	}
	km_metric_add(p->opened, 1);
	*out = u;
	return 0;
out:;
	int e = errno;
	if (fd >= 0)
		close(fd);
	pool_up_free(p, u, true);
	errno = e;
	return rc;
}

/* ---- going on ---- */

static int failed(struct km_errtext *why, int error)
{
	return km_errtext_set(why, KM_EIO, "%s", strerror(error));
}

static bool wants_tls(const struct up *u)
{
	return u->rules && u->rules->proto == ROUTE_PROTO_HTTPS;
}

static int tls_begin(struct up *u, int64_t now, struct km_errtext *why)
{
	const struct up_tls_want want = {.verify = u->rules->tls_verify,
					 .name = u->rules->tls_name,
					 .is_addr = u->rules->tls_name_is_addr,
					 .store = u->rules->tls_store,
					 .serial = u->serial,
					 .h2 = u->offers_h2};
	SSL *ssl = up_tls_connect(u->pool->o.tls, &want, now);
	if (ssl && !io_secure(&u->io, ssl))
		return 0;
	SSL_free(ssl);
	return km_errtext_set(why, KM_ENOMEM, "no memory for TLS");
}

/* The agent has accepted: it gets the header, which always fits into a new socket, together with
 * what follows it. */
static int tcp_check(struct up *u, int64_t now, struct km_errtext *why)
{
	int error = 0;
	socklen_t len = sizeof(error);
	if (!u->io.can_write)
		return 0;
	if (getsockopt(io_fd(&u->io), SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	if (error == ECONNREFUSED)
		pool_refused(u->pool, u, now);
	if (error)
		return failed(why, error);
	ssize_t n = send(io_fd(&u->io), u->header, u->header_len, MSG_NOSIGNAL | MSG_MORE);
	if (n != (ssize_t)u->header_len)
		return failed(why, n < 0 ? errno : EAGAIN);
	u->tcp = true;
	u->connected = !wants_tls(u);
	return u->connected ? 0 : tls_begin(u, now, why);
}

static int tls_check(struct up *u, struct km_errtext *why)
{
	int error;
	if (!u->io.can_read && !u->io.can_write)
		return 0;
	if (io_handshake(&u->io, &error) == 1) {
		u->connected = true;
		return 0;
	}
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return 0;
	up_tls_count(up_tls_why(u->io.ssl, why));
	u->io.broken = true; /* no close_notify */
	return KM_EPROTO;
}

int dial_check(struct up *u, int64_t now, struct km_errtext *why)
{
	int rc = 0;
	if (u->connected)
		return 0;
	if (!u->tcp)
		rc = tcp_check(u, now, why);
	if (!rc && u->tcp && !u->connected)
		rc = tls_check(u, why);
	return rc;
}
