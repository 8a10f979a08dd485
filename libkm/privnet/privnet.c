/* SPDX-License-Identifier: MIT */
#include "libkm/privnet/privnet.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/privnet/start.h"
#include "libkm/privnet/wire.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define START_MS 25000 /* a warden's start: its own bounds are shorter */
#define LINGER_MS 60000

struct km_privnet {
	int fd; /* -1: KM_WG_NONE */
	uint32_t seq;
	struct km_wire_open settings;
	struct km_wire_hello hello;
};

/* One call: what goes with the request and what comes with the reply. */
struct call {
	struct km_wire_request req;
	int list_fd; /* sent with the request; -1: none */
	struct km_wire_reply reply;
	int fds[KM_PRIVNET_SOCKETS_MAX];
	size_t n_fds;
};

static void call_init(struct call *c, uint16_t op)
{
	memset(&c->req, 0, sizeof(c->req));
	c->req.head.op = op;
	c->list_fd = -1;
	c->n_fds = 0;
}

static void call_drop(struct call *c)
{
	if (c->list_fd >= 0)
		close(c->list_fd);
	while (c->n_fds)
		close(c->fds[--c->n_fds]);
}

static bool reply_fits(const struct km_wire_head *h, uint16_t op, size_t len)
{
	return len >= sizeof(*h) && h->magic == KM_WIRE_MAGIC && h->op == op &&
	       len == km_wire_reply_len(op, h->err);
}

static int transport_error(int rc, struct km_errtext *err)
{
	switch (rc) {
	case KM_EAGAIN:
		return km_errtext_set(err, KM_ETIMEOUT, "the warden does not answer");
	case KM_ECLOSED:
		return km_errtext_set(err, KM_ECLOSED, "the warden is gone");
	case KM_EFULL:
		return km_errtext_set(err, KM_EFULL,
				      "no room for another open file (RLIMIT_NOFILE)");
	default:
		return km_errtext_set(err, rc, "no answer from the warden: %s", strerror(errno));
	}
}

/* Waits for the reply to this request; late replies to calls that timed out are thrown away. */
static int receive(struct km_privnet *p, struct call *c, struct km_errtext *err)
{
	struct km_wire_reply *r = &c->reply;
	size_t len;
	int rc;

	for (;;) {
		rc = km_wire_recv(p->fd, r, sizeof(*r), &len, c->fds, &c->n_fds, 0);
		if (rc)
			return transport_error(rc, err);
		if (len >= sizeof(r->head) && r->head.seq == p->seq)
			break;
		while (c->n_fds)
			close(c->fds[--c->n_fds]);
	}
	if (!reply_fits(&r->head, c->req.head.op, len))
		return km_errtext_set(
		    err, KM_EPROTO,
		    "the warden's answer is not understood: it is of another version");
	if (!r->head.err)
		return 0;
	r->u.error.text[sizeof(r->u.error.text) - 1] = 0;
	return km_errtext_set(err, r->head.err, "%s", r->u.error.text);
}

static int call(struct km_privnet *p, struct call *c, struct km_errtext *err)
{
	struct km_wire_head *h = &c->req.head;
	int rc;

	h->magic = KM_WIRE_MAGIC;
	h->version = KM_WIRE_VERSION;
	h->seq = ++p->seq;
	rc = km_wire_send(p->fd, &c->req, km_wire_request_len(h->op), &c->list_fd,
			  c->list_fd >= 0 ? 1 : 0, 0);
	/* Who has gone may have left an answer that says why. */
	return rc && rc != KM_ECLOSED ? transport_error(rc, err) : receive(p, c, err);
}

static int call_list(struct km_privnet *p, uint16_t op, const void *items, size_t n, size_t size,
		     struct km_errtext *err)
{
	struct call c;
	int rc;

	call_init(&c, op);
	c.req.head.count = (uint32_t)n;
	rc = km_wire_list_make(items, n * size, &c.list_fd);
	if (rc)
		km_errtext_set(err, rc, "no memory file for the warden: %s", strerror(errno));
	else
		rc = call(p, &c, err);
	call_drop(&c);
	return rc;
}

/* ---- opening and closing ---- */

static int fill_settings(struct km_wire_open *s, const struct km_privnet_opts *o,
			 struct km_errtext *err)
{
	struct stat st;

	memset(s, 0, sizeof(*s));
	if (!o->runtime_dir || !o->state_dir || o->runtime_dir[0] != '/' ||
	    o->state_dir[0] != '/' ||
	    strlen(o->runtime_dir) >= sizeof(s->runtime_dir) - sizeof("/" KM_WIRE_SOCKET) ||
	    strlen(o->state_dir) >= sizeof(s->state_dir) - 32)
		return km_errtext_set(err, KM_EINVAL,
				      "runtime_dir and state_dir must be absolute paths");
	if (stat("/proc/self/ns/net", &st))
		return km_errtext_set(err, KM_EIO, "/proc/self/ns/net: %s", strerror(errno));
	s->mode = (uint8_t)o->wireguard;
	s->host_network = o->host_network;
	s->port = o->listen_port;
	s->linger_ms = o->linger_ms > 0 ? o->linger_ms : LINGER_MS;
	s->host_netns = st.st_ino;
	s->log_level = km_log_on(KM_LOG_DEBUG)  ? KM_LOG_DEBUG
		       : km_log_on(KM_LOG_INFO) ? KM_LOG_INFO
		       : km_log_on(KM_LOG_WARN) ? KM_LOG_WARN
						: KM_LOG_ERROR;
	s->log_format = (uint8_t)o->log_format;
	strcpy(s->runtime_dir, o->runtime_dir);
	strcpy(s->state_dir, o->state_dir);
	return 0;
}

/* The first call on a connection: settings there, key and backend back. */
static int say_open(struct km_privnet *p, const char *program, struct km_errtext *err)
{
	struct call c;
	int rc;

	call_init(&c, KM_WIRE_OPEN);
	c.reply.head.count = 0;
	c.req.u.open = p->settings;
	rc = call(p, &c, err);
	if (!rc) {
		p->hello = c.reply.u.hello;
		p->hello.backend[sizeof(p->hello.backend) - 1] = 0;
		p->hello.why[sizeof(p->hello.why) - 1] = 0;
	} else if (rc == KM_EIO && program && c.reply.head.count) {
		km_errtext_set(err, rc, "%s cannot be executed: %s", program,
			       strerror((int)c.reply.head.count));
	}
	call_drop(&c);
	return rc;
}

static void socket_path(const struct km_privnet *p, char out[static KM_WIRE_PATH_MAX])
{
	snprintf(out, KM_WIRE_PATH_MAX, "%.1000s/%s", p->settings.runtime_dir, KM_WIRE_SOCKET);
}

static void say_stop(struct km_privnet *p)
{
	struct km_wire_head h = {KM_WIRE_MAGIC, KM_WIRE_VERSION, KM_WIRE_STOP, ++p->seq, 0, 0, 0};

	if (!km_wire_send(p->fd, &h, sizeof(h), NULL, 0, 0))
		km_start_wait_end(p->fd, p->hello.pid);
}

/* How long an answer may take: one whose socket is young may still be starting (it is served when
 * the device is up), and is not to be taken for one that hangs. */
static int patience_ms(const char *path)
{
	struct stat st;
	int64_t left;

	if (stat(path, &st))
		return KM_PRIVNET_TIMEOUT_MS;
	left = (int64_t)st.st_mtim.tv_sec * 1000 + START_MS - km_wall_ms();
	return left > START_MS || left < KM_PRIVNET_TIMEOUT_MS ? KM_PRIVNET_TIMEOUT_MS : (int)left;
}

/* KM_ENOTFOUND: there is none that could be used; one with other settings has been ended. */
static int attach(struct km_privnet *p, struct km_errtext *err)
{
	char path[KM_WIRE_PATH_MAX];
	int rc;

	socket_path(p, path);
	rc = km_start_connect(path, &p->fd, err);
	if (rc)
		return rc;
	if (km_start_timeout(p->fd, patience_ms(path)))
		rc = km_errtext_set(err, KM_EIO, "%s", strerror(errno));
	if (!rc)
		rc = say_open(p, NULL, err);
	if (!rc && km_start_timeout(p->fd, KM_PRIVNET_TIMEOUT_MS))
		rc = km_errtext_set(err, KM_EIO, "%s", strerror(errno));
	if (!rc)
		return 0;
	if (rc == KM_EEXIST || rc == KM_EPROTO) {
		say_stop(p);
		rc = KM_ENOTFOUND;
	} else if (rc == KM_ETIMEOUT) {
		km_start_kill(p->fd, 0);
		rc = KM_ENOTFOUND;
	} else if (rc == KM_ECLOSED) {
		rc = KM_ENOTFOUND; /* it ended just now */
	}
	close(p->fd);
	p->fd = -1;
	return rc;
}

static int start(struct km_privnet *p, const char *given, struct km_errtext *err)
{
	char program[KM_WIRE_PATH_MAX];
	int rc = km_start_find(given, program, err);

	if (!rc)
		rc = km_start_spawn(program, &p->fd, err);
	if (!rc && km_start_timeout(p->fd, START_MS))
		rc = km_errtext_set(err, KM_EIO, "%s", strerror(errno));
	if (!rc)
		rc = say_open(p, program, err);
	if (rc == KM_ECLOSED)
		km_errtext_set(err, rc, "the warden ended at its start; its log says why");
	if (!rc && km_start_timeout(p->fd, KM_PRIVNET_TIMEOUT_MS))
		rc = km_errtext_set(err, KM_EIO, "%s", strerror(errno));
	return rc;
}

int km_privnet_open(struct km_privnet **out, const struct km_privnet_opts *opts, bool *reused,
		    struct km_errtext *err)
{
	struct km_privnet *p = km_xcalloc(1, sizeof(*p));
	bool found = false;
	int rc;

	*out = NULL;
	p->fd = -1;
	if (opts->wireguard == KM_WG_NONE) {
		strcpy(p->hello.backend, "none");
		strcpy(p->hello.why, "asked for by wireguard = none");
		rc = 0;
		goto out;
	}
	rc = fill_settings(&p->settings, opts, err);
	if (rc)
		goto out;
	rc = attach(p, err);
	found = !rc;
	if (rc == KM_ENOTFOUND)
		rc = start(p, opts->warden, err);
out:
	if (reused)
		*reused = found;
	if (!rc) {
		*out = p;
		p = NULL;
	}
	km_privnet_close(p, false);
	return rc;
}

int km_privnet_attach(struct km_privnet **out, const struct km_privnet *of, struct km_errtext *err)
{
	struct km_privnet *p = km_xcalloc(1, sizeof(*p));
	char path[KM_WIRE_PATH_MAX];
	int rc = 0;

	*out = NULL;
	p->settings = of->settings;
	p->hello = of->hello;
	p->fd = -1;
	if (of->fd >= 0) {
		socket_path(of, path);
		rc = km_start_connect(path, &p->fd, err);
		if (!rc)
			rc = say_open(p, NULL, err);
	}
	if (!rc) {
		*out = p;
		p = NULL;
	}
	km_privnet_close(p, false);
	return rc;
}

void km_privnet_close(struct km_privnet *p, bool stop)
{
	if (!p)
		return;
	if (p->fd >= 0) {
		if (stop)
			say_stop(p);
		close(p->fd);
	}
	free(p);
}

int km_privnet_fd(const struct km_privnet *p)
{
	return p->fd;
}

const uint8_t *km_privnet_public_key(const struct km_privnet *p)
{
	return p->hello.public_key;
}

const char *km_privnet_backend(const struct km_privnet *p)
{
	return p->hello.backend;
}

const char *km_privnet_backend_why(const struct km_privnet *p)
{
	return p->hello.why;
}

/* ---- addresses and routes ---- */

static int send_prefixes(struct km_privnet *p, uint16_t op, const struct km_prefix *list, size_t n,
			 size_t max, struct km_errtext *err)
{
	struct km_wire_prefix *w;
	int rc;

	if (p->fd < 0)
		return 0;
	if (n > max)
		return km_errtext_set(err, KM_ETOOBIG, "%zu prefixes, at most %zu", n, max);
	w = km_xcalloc(n ? n : 1, sizeof(*w));
	for (size_t i = 0; i < n; i++)
		km_wire_put_prefix(&w[i], &list[i]);
	rc = call_list(p, op, w, n, sizeof(*w), err);
	free(w);
	return rc;
}

int km_privnet_addresses(struct km_privnet *p, const struct km_prefix *a, size_t n,
			 struct km_errtext *err)
{
	return send_prefixes(p, KM_WIRE_ADDRESSES, a, n, KM_WIRE_ADDRESSES_MAX, err);
}

int km_privnet_routes(struct km_privnet *p, const struct km_prefix *r, size_t n,
		      struct km_errtext *err)
{
	return send_prefixes(p, KM_WIRE_ROUTES, r, n, KM_WIRE_ROUTES_MAX, err);
}

/* ---- peers ---- */

static int send_peer(struct km_privnet *p, uint16_t op, const struct km_wg_peer *peer,
		     struct km_errtext *err)
{
	struct call c;
	int rc;

	if (p->fd < 0)
		return 0;
	call_init(&c, op);
	if (km_wire_put_peer(&c.req.u.peer, peer))
		return km_errtext_set(
		    err, KM_EINVAL,
		    "a peer has an endpoint that is no IP address, or more than %d "
		    "allowed IPs",
		    KM_WG_MAX_ALLOWED);
	rc = call(p, &c, err);
	call_drop(&c);
	return rc;
}

int km_privnet_peer_set(struct km_privnet *p, const struct km_wg_peer *peer, struct km_errtext *err)
{
	return send_peer(p, KM_WIRE_PEER_SET, peer, err);
}

int km_privnet_peer_kick(struct km_privnet *p, const struct km_wg_peer *peer,
			 struct km_errtext *err)
{
	return send_peer(p, KM_WIRE_PEER_KICK, peer, err);
}

int km_privnet_peer_remove(struct km_privnet *p, const uint8_t key[static KM_WG_KEY_LEN],
			   struct km_errtext *err)
{
	struct call c;
	int rc;

	if (p->fd < 0)
		return 0;
	call_init(&c, KM_WIRE_PEER_REMOVE);
	memcpy(c.req.u.key, key, KM_WG_KEY_LEN);
	rc = call(p, &c, err);
	call_drop(&c);
	return rc;
}

int km_privnet_key_next(struct km_privnet *p, uint8_t pub[static KM_WG_KEY_LEN],
			struct km_errtext *err)
{
	struct call c;
	int rc;

	if (p->fd < 0)
		return km_errtext_set(err, KM_EUNSUPPORTED, "there is no WireGuard device");
	call_init(&c, KM_WIRE_KEY_NEXT);
	rc = call(p, &c, err);
	if (!rc)
		memcpy(pub, c.reply.u.hello.public_key, KM_WG_KEY_LEN);
	call_drop(&c);
	return rc;
}

int km_privnet_key_switch(struct km_privnet *p, const uint8_t pub[static KM_WG_KEY_LEN],
			  struct km_errtext *err)
{
	struct call c;
	int rc;

	if (p->fd < 0)
		return km_errtext_set(err, KM_EUNSUPPORTED, "there is no WireGuard device");
	call_init(&c, KM_WIRE_KEY_SWITCH);
	memcpy(c.req.u.key, pub, KM_WG_KEY_LEN);
	rc = call(p, &c, err);
	if (!rc)
		memcpy(p->hello.public_key, pub, KM_WG_KEY_LEN);
	call_drop(&c);
	return rc;
}

int km_privnet_peers_keep(struct km_privnet *p, const uint8_t (*keys)[KM_WG_KEY_LEN], size_t n,
			  struct km_errtext *err)
{
	if (p->fd < 0)
		return 0;
	if (n > KM_WIRE_PEERS_MAX)
		return km_errtext_set(err, KM_ETOOBIG, "%zu peers, at most %d", n,
				      KM_WIRE_PEERS_MAX);
	return call_list(p, KM_WIRE_PEERS_KEEP, keys, n, KM_WG_KEY_LEN, err);
}

/* The list that came with a reply to KM_WIRE_PEERS. */
static int read_peers(const struct call *c, struct km_wg_peer_status **out, size_t *n)
{
	size_t count = c->reply.head.count;
	struct km_wire_status *w = NULL;
	void *raw = NULL;
	int rc;

	if (c->n_fds != 1 || count > KM_WIRE_PEERS_MAX)
		return KM_EPROTO;
	rc = km_wire_list_read(c->fds[0], count * sizeof(*w), &raw);
	w = raw;
	if (rc || !count)
		return rc;
	*out = km_xcalloc(count, sizeof(**out));
	for (size_t i = 0; !rc && i < count; i++)
		rc = km_wire_get_status(&(*out)[i], &w[i]);
	free(raw);
	if (rc) {
		free(*out);
		*out = NULL;
		return KM_EPROTO;
	}
	*n = count;
	return 0;
}

static void count_mended(uint32_t n)
{
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_wireguard_peers_mended_total", "",
				"Peers of the WireGuard device that something else than this "
				"daemon had changed, put right."),
		      n);
}

int km_privnet_peers(struct km_privnet *p, struct km_wg_peer_status **out, size_t *n,
		     struct km_errtext *err)
{
	struct call c;
	int rc;

	*out = NULL;
	*n = 0;
	if (p->fd < 0)
		return 0;
	call_init(&c, KM_WIRE_PEERS);
	rc = call(p, &c, err);
	if (!rc) {
		count_mended(c.reply.head.mended);
		rc = read_peers(&c, out, n);
		if (rc)
			km_errtext_set(err, rc, "the warden's list of peers cannot be read: %s",
				       km_strerror(rc));
	}
	call_drop(&c);
	return rc;
}

/* ---- sockets ---- */

static int own_sockets(int family, int type, int protocol, int *fds, size_t n,
		       struct km_errtext *err)
{
	int rc = 0, e;
	size_t i;

	for (i = 0; !rc && i < n; i++)
		rc = km_wire_socket_new(family, type, protocol, &fds[i]);
	if (!rc)
		return 0;
	e = errno;
	while (i-- > 0)
		if (fds[i] >= 0)
			close(fds[i]);
	return km_errtext_set(err, rc, "no socket: %s",
			      rc == KM_EIO ? strerror(e) : km_strerror(rc));
}

int km_privnet_sockets(struct km_privnet *p, int family, int type, int protocol, int *fds, size_t n,
		       struct km_errtext *err)
{
	struct call c;
	int rc;

	if (!n || n > KM_PRIVNET_SOCKETS_MAX)
		return km_errtext_set(err, KM_EINVAL, "%zu sockets, 1 to %d at a time", n,
				      KM_PRIVNET_SOCKETS_MAX);
	if (p->fd < 0)
		return own_sockets(family, type, protocol, fds, n, err);
	call_init(&c, KM_WIRE_SOCKETS);
	c.req.u.socket.family = family;
	c.req.u.socket.type = type;
	c.req.u.socket.protocol = protocol;
	c.req.u.socket.count = (uint32_t)n;
	rc = call(p, &c, err);
	if (!rc && c.n_fds != n)
		rc = km_errtext_set(err, KM_EPROTO, "the warden gave %zu sockets instead of %zu",
				    c.n_fds, n);
	if (!rc) {
		memcpy(fds, c.fds, n * sizeof(*fds));
		c.n_fds = 0; /* they are the caller's now */
	}
	call_drop(&c);
	return rc;
}

static int own_listener(const struct km_addr *addr, uint16_t port, int backlog, int *fd,
			struct km_errtext *err)
{
	char text[KM_ENDPOINT_STRLEN];
	int rc = km_wire_listener_new(addr, port, backlog, fd);

	return rc ? km_errtext_set(err, rc, "listening on %s: %s",
				   km_endpoint_str(addr, port, text), strerror(errno))
		  : 0;
}

int km_privnet_listen(struct km_privnet *p, const struct km_addr *addr, uint16_t port, int backlog,
		      int *fd, struct km_errtext *err)
{
	const struct km_prefix as_prefix = {*addr, 0};
	struct call c;
	int rc;

	*fd = -1;
	if (p->fd < 0)
		return own_listener(addr, port, backlog, fd, err);
	call_init(&c, KM_WIRE_LISTEN);
	c.req.u.socket.count = 1;
	km_wire_put_prefix(&c.req.u.socket.addr, &as_prefix);
	c.req.u.socket.port = port;
	c.req.u.socket.backlog = backlog;
	rc = call(p, &c, err);
	if (!rc && c.n_fds != 1)
		rc = km_errtext_set(err, KM_EPROTO, "the warden gave no listener");
	if (!rc) {
		*fd = c.fds[0];
		c.n_fds = 0;
	}
	call_drop(&c);
	return rc;
}
