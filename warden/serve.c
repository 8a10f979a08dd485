/* SPDX-License-Identifier: MIT */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "warden/warden.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#define LOCK_MS 3000

struct warden_conn {
	int fd;
	bool opened; /* has said OPEN with settings that fit */
	struct warden_conn *prev, *next;
};

/* One request on its way. */
struct request {
	struct km_wire_request msg;
	int list_fd; /* came with it; -1: none */
	struct km_wire_reply reply;
	int fds[KM_PRIVNET_SOCKETS_MAX]; /* go with the reply */
	size_t n_fds;
	struct km_errtext err;
};

static struct km_log_limit refused_limit;

static void refused(const char *why, int64_t value)
{
	uint32_t held;

	if (km_log_allow(&refused_limit, km_now_ms(), 10, 60000, &held))
		km_warn("client refused", km_ks("why", why), km_ki("value", value),
			km_ki("held_back", held));
}

/* ---- the socket ---- */

/* Whether somebody accepts connections there. */
static bool served(const struct sockaddr_un *sun)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool yes;

	if (fd < 0)
		return true;
	yes = !connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) ||
	      (errno != ECONNREFUSED && errno != ENOENT);
	close(fd);
	return yes;
}

static int bind_private(int fd, const struct sockaddr_un *sun)
{
	mode_t old = umask(0177);
	int rc = bind(fd, (const struct sockaddr *)sun, sizeof(*sun));

	umask(old);
	return rc;
}

/* One warden at a time may make and remove the socket, or two that start at once would each take
 * the other's for one left behind. The lock ends with the process, however that ends; one that is
 * ending needs a moment. */
static int lock_folder(struct warden *w, const struct sockaddr_un *sun, struct km_errtext *err)
{
	int64_t until = km_now_ms() + LOCK_MS;

	w->lock_fd = open(w->settings.runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->lock_fd < 0)
		return km_errtext_set(err, KM_EIO, "%s: %s", w->settings.runtime_dir,
				      strerror(errno));
	while (flock(w->lock_fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return km_errtext_set(err, KM_EIO, "%s cannot be locked: %s",
					      w->settings.runtime_dir, strerror(errno));
		if (served(sun) || km_now_ms() >= until)
			return km_errtext_set(err, KM_EEXIST, "another warden serves %s",
					      w->socket_path);
		poll(NULL, 0, 20);
	}
	return 0;
}

int warden_listen(struct warden *w, struct km_errtext *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;
	int rc;

	if (km_mkdirs(w->settings.runtime_dir, 0700))
		return km_errtext_set(err, KM_EIO, "%s cannot be made: %s", w->settings.runtime_dir,
				      strerror(errno));
	snprintf(w->socket_path, sizeof(w->socket_path), "%.1000s/%s", w->settings.runtime_dir,
		 KM_WIRE_SOCKET);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.107s", w->socket_path);
	rc = lock_folder(w, &sun, err);
	if (rc)
		return rc;
	w->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (w->listen_fd < 0)
		return km_errtext_set(err, KM_EIO, "no socket: %s", strerror(errno));
	rc = bind_private(w->listen_fd, &sun);
	if (rc && errno == EADDRINUSE) {
		if (served(&sun))
			return km_errtext_set(err, KM_EEXIST, "another warden serves %s",
					      w->socket_path);
		unlink(w->socket_path); /* left by one that was killed */
		rc = bind_private(w->listen_fd, &sun);
	}
	if (rc || listen(w->listen_fd, 64) || stat(w->socket_path, &st))
		return km_errtext_set(err, KM_EIO, "%s: %s", w->socket_path, strerror(errno));
	w->socket_dev = st.st_dev;
	w->socket_ino = st.st_ino;
	return 0;
}

void warden_unlisten(struct warden *w)
{
	struct stat st;

	if (w->listen_fd < 0)
		return;
	if (w->socket_ino && !stat(w->socket_path, &st) && st.st_ino == w->socket_ino &&
	    st.st_dev == w->socket_dev)
		unlink(w->socket_path);
	close(w->listen_fd);
	w->listen_fd = -1;
}

/* ---- connections ---- */

static int add_conn(struct warden *w, int fd, bool opened)
{
	struct warden_conn *c = km_xcalloc(1, sizeof(*c));
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

	if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		free(c);
		return KM_EIO;
	}
	c->fd = fd;
	c->opened = opened;
	DL_APPEND(w->conns, c);
	w->n_conns++;
	return 0;
}

static void conn_drop(struct warden *w, struct warden_conn *c)
{
	DL_DELETE(w->conns, c);
	close(c->fd);
	free(c);
	if (!--w->n_conns)
		w->alone_since_ms = km_now_ms();
}

int warden_adopt(struct warden *w, int fd)
{
	return add_conn(w, fd, true);
}

static bool peer_allowed(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return false;
	if (cred.uid == geteuid() || cred.uid == 0)
		return true;
	refused("another user", cred.uid);
	return false;
}

void warden_accept(struct warden *w)
{
	int fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (w->n_conns >= WARDEN_CONNS_MAX)
		refused("too many connections", (int64_t)w->n_conns);
	else if (peer_allowed(fd) && !add_conn(w, fd, false))
		return;
	close(fd);
}

void warden_serve_close(struct warden *w)
{
	struct warden_conn *c, *tmp;

	if (w->lock_fd >= 0)
		close(w->lock_fd); /* before daemons hear of our end */
	w->lock_fd = -1;
	DL_FOREACH_SAFE (w->conns, c, tmp)
		conn_drop(w, c);
}

/* ---- requests ---- */

bool warden_same_settings(const struct km_wire_open *a, const struct km_wire_open *b)
{
	return a->mode == b->mode && a->host_network == b->host_network && a->port == b->port &&
	       a->host_netns == b->host_netns && !strcmp(a->state_dir, b->state_dir);
}

static int do_open(struct warden *w, struct warden_conn *c, struct request *r)
{
	struct km_wire_open *o = &r->msg.u.open;

	o->runtime_dir[sizeof(o->runtime_dir) - 1] = 0;
	o->state_dir[sizeof(o->state_dir) - 1] = 0;
	if (!warden_same_settings(&w->settings, o))
		return km_errtext_set(&r->err, KM_EEXIST, "the warden runs with other settings");
	if (o->linger_ms > 0)
		w->settings.linger_ms = o->linger_ms;
	c->opened = true;
	r->reply.u.hello = w->hello;
	return 0;
}

/* The list that came with a request: count items of this size, at most max. */
static int take_list(struct request *r, size_t size, size_t max, void **out)
{
	size_t n = r->msg.head.count;
	int rc;

	if (n > max)
		return km_errtext_set(&r->err, KM_ETOOBIG, "%zu items, at most %zu", n, max);
	rc = r->list_fd < 0 ? KM_EPROTO : km_wire_list_read(r->list_fd, n * size, out);
	return rc ? km_errtext_set(&r->err, rc, "the list cannot be read: %s", km_strerror(rc)) : 0;
}

static int take_prefixes(struct request *r, size_t max, struct km_prefix **out)
{
	struct km_wire_prefix *w = NULL;
	void *raw = NULL;
	int rc = take_list(r, sizeof(*w), max, &raw);

	*out = NULL;
	if (rc)
		return rc;
	w = raw;
	*out = km_xcalloc(r->msg.head.count ? r->msg.head.count : 1, sizeof(**out));
	for (uint32_t i = 0; !rc && i < r->msg.head.count; i++)
		rc = km_wire_get_prefix(&(*out)[i], &w[i]);
	free(raw);
	if (!rc)
		return 0;
	free(*out);
	*out = NULL;
	return km_errtext_set(&r->err, rc, "a prefix in the list is malformed");
}

static int do_addresses(struct warden *w, struct request *r)
{
	struct km_prefix *list;
	int rc = take_prefixes(r, KM_WIRE_ADDRESSES_MAX, &list);

	if (!rc)
		rc = warden_addresses(w, list, r->msg.head.count, &r->err);
	free(list);
	return rc;
}

static int do_routes(struct warden *w, struct request *r)
{
	struct km_prefix *list;
	int rc = take_prefixes(r, KM_WIRE_ROUTES_MAX, &list);

	return rc ? rc : warden_routes(w, list, r->msg.head.count, &r->err);
}

/* After a change of peers: narrow paths have come or gone with it. */
static int paths_after(struct warden *w, bool narrow, struct request *r)
{
	return narrow || w->n_paths ? warden_paths(w, &r->err) : 0;
}

static int do_peer(struct warden *w, struct request *r)
{
	struct km_wg_peer p;
	int rc = km_wire_get_peer(&p, &r->msg.u.peer);

	if (rc)
		return km_errtext_set(&r->err, rc, "the peer is malformed");
	if (r->msg.head.op == KM_WIRE_PEER_KICK)
		rc = warden_peer_kick(w, &p, &r->err);
	else if ((rc = km_wg_peer_set(w->dev, &p)))
		warden_device_error(w, rc, "peer not set", &r->err);
	return rc ? rc : paths_after(w, p.mtu != 0, r);
}

static int do_peer_remove(struct warden *w, struct request *r)
{
	int rc = km_wg_peer_remove(w->dev, r->msg.u.key);

	return rc ? warden_device_error(w, rc, "peer not removed", &r->err)
		  : paths_after(w, false, r);
}

static int do_peers_keep(struct warden *w, struct request *r)
{
	void *keys = NULL;
	int rc = take_list(r, KM_WG_KEY_LEN, KM_WIRE_PEERS_MAX, &keys);

	if (!rc)
		rc = warden_peers_keep(w, keys, r->msg.head.count, &r->err);
	free(keys);
	return rc ? rc : paths_after(w, false, r);
}

static int do_peers(struct warden *w, struct request *r)
{
	struct km_wg_peer_status *list = NULL;
	struct km_wire_status *out;
	size_t n = 0;
	int rc = warden_peers(w, &list, &n, &r->err);

	if (!rc && n > KM_WIRE_PEERS_MAX)
		rc = km_errtext_set(&r->err, KM_ETOOBIG, "%zu peers, more than can be told", n);
	if (rc) {
		free(list);
		return rc;
	}
	out = km_xcalloc(n ? n : 1, sizeof(*out));
	for (size_t i = 0; i < n; i++)
		km_wire_put_status(&out[i], &list[i]);
	rc = km_wire_list_make(out, n * sizeof(*out), &r->fds[0]);
	if (rc)
		km_errtext_set(&r->err, rc, "no memory file: %s", strerror(errno));
	else
		r->n_fds = 1;
	r->reply.head.count = (uint32_t)n;
	r->reply.head.mended = w->mended;
	w->mended = 0;
	free(out);
	free(list);
	return rc;
}

static int do_sockets(struct warden *w, struct request *r)
{
	int rc = w->inside_fd < 0 ? warden_sockets(&r->msg, r->fds, &r->n_fds, &r->err)
				  : warden_inside_sockets(w, &r->msg, r->fds, &r->n_fds, &r->err);

	r->reply.head.count = r->msg.head.op == KM_WIRE_SOCKETS ? (uint32_t)r->n_fds : 0;
	return rc;
}

static int act(struct warden *w, struct warden_conn *c, struct request *r)
{
	switch (r->msg.head.op) {
	case KM_WIRE_OPEN:
		return do_open(w, c, r);
	case KM_WIRE_ADDRESSES:
		return do_addresses(w, r);
	case KM_WIRE_ROUTES:
		return do_routes(w, r);
	case KM_WIRE_PEER_SET:
	case KM_WIRE_PEER_KICK:
		return do_peer(w, r);
	case KM_WIRE_PEER_REMOVE:
		return do_peer_remove(w, r);
	case KM_WIRE_PEERS_KEEP:
		return do_peers_keep(w, r);
	case KM_WIRE_PEERS:
		return do_peers(w, r);
	case KM_WIRE_KEY_NEXT:
		return warden_key_next(w, r->reply.u.hello.public_key, &r->err);
	case KM_WIRE_KEY_SWITCH:
		return warden_key_switch(w, r->msg.u.key, &r->err);
	case KM_WIRE_SOCKETS:
	case KM_WIRE_LISTEN:
		return do_sockets(w, r);
	default:
		return KM_EINVAL;
	}
}

/* Why a message cannot be served, or NULL. */
static const char *unfit(const struct warden_conn *c, const struct km_wire_head *h, size_t len)
{
	if (len < sizeof(*h) || h->magic != KM_WIRE_MAGIC)
		return "not our protocol";
	if (h->op == KM_WIRE_STOP)
		return NULL; /* the same in every version */
	if (h->version != KM_WIRE_VERSION || len != km_wire_request_len(h->op))
		return "a message of another version, or of a wrong length";
	if (!c->opened && h->op != KM_WIRE_OPEN)
		return "a request before the settings";
	return NULL;
}

/* false: the connection cannot go on. */
static bool answer(struct warden *w, struct warden_conn *c, struct request *r)
{
	struct km_wire_head *h = &r->reply.head;
	int rc;

	memset(&r->reply, 0, sizeof(r->reply));
	*h = r->msg.head;
	h->count = 0;
	r->err.text[0] = 0;
	h->err = act(w, c, r);
	if (h->err) {
		h->count = 0;
		r->reply.u.error = r->err;
		while (r->n_fds)
			close(r->fds[--r->n_fds]);
	}
	rc = km_wire_send(c->fd, &r->reply, km_wire_reply_len(h->op, h->err), r->fds, r->n_fds,
			  MSG_DONTWAIT);
	while (r->n_fds)
		close(r->fds[--r->n_fds]);
	if (rc && rc != KM_ECLOSED)
		km_warn("reply not sent", km_ki("op", h->op), km_ke(rc));
	return !rc;
}

void warden_serve(struct warden *w, struct warden_conn *c)
{
	struct request r;
	size_t len, n_fds;
	int fds[KM_PRIVNET_SOCKETS_MAX];
	const char *why;
	bool go_on = false;
	int rc;

	memset(&r.msg, 0, sizeof(r.msg));
	r.n_fds = 0;
	rc = km_wire_recv(c->fd, &r.msg, sizeof(r.msg), &len, fds, &n_fds, MSG_DONTWAIT);
	if (rc == KM_EAGAIN)
		return;
	if (rc && rc != KM_ECLOSED)
		refused(km_strerror(rc), rc);
	if (!rc) {
		r.list_fd = n_fds ? fds[0] : -1;
		why = unfit(c, &r.msg.head, len);
		if (why)
			refused(why, (int64_t)len);
		else if (r.msg.head.op == KM_WIRE_STOP)
			go_on = w->stop = true;
		else
			go_on = answer(w, c, &r);
	}
	while (n_fds)
		close(fds[--n_fds]);
	if (!go_on)
		conn_drop(w, c);
}
