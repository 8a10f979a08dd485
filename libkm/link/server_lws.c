/* SPDX-License-Identifier: MIT */
/* The link thread of the server. libwebsockets runs on a libuv loop of ours: on one of its own it
 * would take over SIGINT and SIGTERM for the whole process. We also accept ourselves and hand over
 * the sockets, so that the bounds hold before a byte is read. */
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/link/server_priv.h"
#include <dlfcn.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <utlist.h>

#define TICK_MS 100
#define REST_MS 100 /* without accepting when there is no descriptor */
#define ACCEPTS 64  /* per turn */
#define MANY_FILES 262144

/* --- certificates --- */

static int install(SSL_CTX *ctx, const struct km_server_tls *t)
{
	return SSL_CTX_use_cert_and_key(ctx, t->cert, t->key, t->chain, 1) == 1 ? 0 : -1;
}

int km_server_tls_context(struct km_link_server *s, SSL_CTX *ctx)
{
	s->tls = ctx;
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return install(ctx, s->first);
}

/* --- accepting --- */

static void log_refused(struct km_link_server *s, const struct km_addr *peer, const char *why)
{
	char text[KM_ADDR_STRLEN];
	uint32_t held = 0;

	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_link_refused_total", "",
				"Connections that a bound of the link's server refused"),
		      1);
	if (km_log_allow(&s->refused, km_now_ms(), 5, 10000, &held))
		km_warn("link connection refused", km_ks("why", why),
			km_ks("peer", peer ? km_addr_str(peer, text) : NULL),
			km_ki("held_back", held));
}

/* Whether they count as one: an IPv6 host has a /64 to choose its address from. */
static bool same_source(const struct km_addr *a, const struct km_addr *b)
{
	return a->family == b->family && !memcmp(a->ip, b->ip, a->family == AF_INET ? 4 : 8);
}

/* The list is bounded by max_unauthenticated, and short. */
static bool source_full(const struct km_link_server *s, const struct km_addr *peer)
{
	const struct km_conn *conn;
	size_t n = 0;

	DL_FOREACH2(s->unauthenticated, conn, u_next)
	{
		n += same_source(&conn->peer, peer);
	}
	return n >= s->max_unauthenticated_per_address;
}

static void adopt(struct km_link_server *s, int fd, const struct sockaddr *sa)
{
	struct km_conn *conn = NULL;
	struct km_addr peer;

	if (km_addr_from_sa(&peer, NULL, sa)) {
		close(fd);
		return;
	}
	if (s->n_all >= s->max_connections)
		log_refused(s, &peer, "max_connections reached");
	else if (s->n_unauthenticated >= s->max_unauthenticated)
		log_refused(s, &peer, "too many that have not authenticated");
	else if (source_full(s, &peer))
		log_refused(s, &peer, "too many from its address that have not authenticated");
	else
		conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return;
	}
	conn->peer = peer;
	conn->refs = 1;
	conn->s = s;
	conn->id = s->next_id++;
	conn->unauthenticated = true;
	conn->deadline_ms = km_now_ms() + s->auth_timeout_ms;
	DL_APPEND(s->all, conn);
	DL_APPEND2(s->unauthenticated, conn, u_prev, u_next);
	s->n_all++;
	s->n_unauthenticated++;
	km_server_tick(s);

	lws_adopt_desc_t info = {
	    .vh = lws_get_vhost_by_name(s->ctx, "default"),
	    .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP | LWS_ADOPT_ALLOW_SSL,
	    .fd.sockfd = fd,
	    .opaque = conn,
	};
	s->wsi_made = false;
	/* It closes fd itself; once there was a wsi its end is told by WSI_DESTROY. */
	struct lws *wsi = lws_adopt_descriptor_vhost_via_info(&info);
	if (wsi)
		conn->wsi = wsi;
	else if (!s->wsi_made)
		km_conn_gone(conn);
}

static void on_rested(uv_timer_t *t);

static void on_accept(uv_poll_t *p, int status, int events)
{
	struct km_link_server *s = p->data;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);
		int fd = accept4(s->listen_fd, (struct sockaddr *)&ss, &len,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			adopt(s, fd, (struct sockaddr *)&ss);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN) {
			log_refused(s, NULL, strerror(errno));
			uv_poll_stop(&s->accept);
			uv_timer_start(&s->rest, on_rested, REST_MS, 0);
		}
		return;
	}
}

static void on_rested(uv_timer_t *t)
{
	struct km_link_server *s = t->data;

	if (!s->stopping)
		uv_poll_start(&s->accept, UV_READABLE, on_accept);
}

/* --- time --- */

static void on_tick(uv_timer_t *t)
{
	struct km_link_server *s = t->data;
	struct km_conn *conn, *tmp;
	int64_t now = km_now_ms();

	while ((conn = s->unauthenticated) && conn->deadline_ms <= now)
		km_conn_close_soon(conn, LWS_CLOSE_STATUS_POLICY_VIOLATION,
				   "not authenticated in time");
	DL_FOREACH_SAFE2(s->closing, conn, tmp, c_next)
	{
		if (conn->deadline_ms > now)
			continue;
		conn->deadline_ms = INT64_MAX;
		km_conn_kill_soon(conn);
	}
	if (s->stopping && (!s->all || now >= s->stop_ms)) {
		s->stopping_done = true;
		uv_stop(&s->loop);
	} else if (!s->stopping && !s->unauthenticated && !s->closing) {
		s->ticking = false;
		uv_timer_stop(&s->tick);
	}
}

void km_server_tick(struct km_link_server *s)
{
	if (s->ticking)
		return;
	s->ticking = true;
	uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
}

/* --- commands --- */

static void stop(struct km_link_server *s)
{
	struct km_conn *conn, *tmp;

	s->stopping = true;
	s->stop_ms = km_now_ms() + KM_SERVER_STOP_MS + TICK_MS;
	uv_poll_stop(&s->accept);
	DL_FOREACH_SAFE (s->all, conn, tmp)
		km_conn_close_soon(conn, LWS_CLOSE_STATUS_GOINGAWAY, "control is stopping");
	s->ticking = true;
	uv_timer_start(&s->tick, on_tick, 0, TICK_MS / 10);
}

static void queue_frames(struct km_conn *conn, struct km_server_cmd *cmd)
{
	struct km_frame *last = cmd->frames;

	while (last->next)
		last = last->next;
	last->credit = cmd->q.bytes;
	if (!conn->wsi || conn->dead || conn->close_status) {
		km_conn_credit(conn, last->credit);
		return; /* cmd still owns them */
	}
	km_tx_add(&conn->tx, cmd->frames);
	cmd->frames = NULL;
	lws_callback_on_writable(conn->wsi);
}

static void run_command(struct km_link_server *s, struct km_server_cmd *cmd)
{
	struct km_conn *conn = cmd->conn;

	switch (cmd->kind) {
	case SERVER_SEND:
		queue_frames(conn, cmd);
		break;
	case SERVER_AUTHENTICATED:
		km_conn_authenticated(conn);
		break;
	case SERVER_CLOSE:
		if (conn->wsi && !conn->dead)
			km_conn_close_soon(conn, LWS_CLOSE_STATUS_POLICY_VIOLATION, cmd->why);
		break;
	case SERVER_CERTIFICATE:
		if (install(s->tls, cmd->tls))
			km_error("the link's new certificate does not fit and was not taken");
		break;
	case SERVER_STOP:
		if (!s->stopping)
			stop(s);
		break;
	}
}

static void on_wake(uv_async_t *a)
{
	struct km_link_server *s = a->data;
	struct km_qitem *next;

	for (struct km_qitem *q = km_cmdq_steal(&s->cmds); q; q = next) {
		next = q->next;
		run_command(s, (struct km_server_cmd *)q);
		km_server_cmd_free(q);
	}
	km_server_close_drained(s);
	if (km_outbox_flush(&s->out))
		km_server_read_again(s);
	/* Its timers are looked at after its own events only. */
	lws_cancel_service(s->ctx);
}

/* --- the thread --- */

static void find_pipe(uv_handle_t *h, void *arg)
{
	struct km_link_server *s = arg;
	uv_os_fd_t fd;

	if (h->type == UV_POLL && uv_fileno(h, &fd) == 0)
		s->pipe_fd = fd;
}

static int make_context(struct km_link_server *s, struct km_errtext *err)
{
	void *loops[1] = {&s->loop};
	struct rlimit rl = {0};
	struct lws_context_creation_info info = {
	    .port = CONTEXT_PORT_NO_LISTEN_SERVER,
	    .protocols = km_server_protocols,
	    .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_DISABLE_OS_CA_CERTS,
	    .gid = (gid_t)-1,
	    .uid = (uid_t)-1,
	    .user = s,
	    .alpn = "http/1.1",
	    .foreign_loops = loops,
	    .max_http_header_pool =
		(unsigned short)(s->max_unauthenticated < 4096 ? s->max_unauthenticated + 8 : 4096),
	    .timeout_secs = (unsigned)((s->auth_timeout_ms + 999) / 1000),
	    .retry_and_idle_policy = &km_lws_retry,
	};

	if (s->first) {
		info.options |=
		    LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_CREATE_VHOST_SSL_CTX;
		/* Not used; one that it makes itself is lost when there are several contexts. */
		s->client_tls = SSL_CTX_new(TLS_client_method());
		info.provided_client_ssl_ctx = s->client_tls;
	}
	/* Its tables have an entry for each descriptor that the process may open. */
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur > MANY_FILES)
		info.fd_limit_per_thread = (unsigned)(s->max_connections + 64);
	/* Kept for good: libwebsockets unloads its plugin while code of it still runs. */
	if (!dlopen(LWS_INSTALL_LIBDIR "/libwebsockets-evlib_uv.so", RTLD_NOW | RTLD_NODELETE))
		return km_errtext_set(err, KM_EIO,
				      "the libuv plugin of libwebsockets is missing "
				      "(package libwebsockets-evlib-uv): %s",
				      dlerror());
	s->ctx = km_lws_create(&info);
	if (!s->ctx)
		return km_errtext_set(err, KM_EIO, "libwebsockets cannot start");
	return 0;
}

int km_server_thread_prepare(struct km_link_server *s, struct km_errtext *err)
{
	int r;

	if (uv_loop_init(&s->loop))
		return km_errtext_set(err, KM_EIO, "cannot make the link's event loop");
	s->loop.data = s; /* it is there */
	r = make_context(s, err);
	if (r)
		return r;
	uv_walk(&s->loop, find_pipe, s);
	uv_async_init(&s->loop, &s->wake, on_wake);
	uv_timer_init(&s->loop, &s->tick);
	uv_timer_init(&s->loop, &s->rest);
	uv_poll_init_socket(&s->loop, &s->accept, s->listen_fd);
	s->own_handles = true;
	s->wake.data = s->tick.data = s->rest.data = s->accept.data = s;
	uv_poll_start(&s->accept, UV_READABLE, on_accept);
	return 0;
}

static void no_more(uv_handle_t *h)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

/* Runs the loop until done() or for two seconds at most. */
static void run_until(struct km_link_server *s, bool (*done)(struct km_link_server *s))
{
	for (int i = 0; i < 2000 && !done(s); i++)
		if (uv_run(&s->loop, UV_RUN_NOWAIT) && i > 10)
			usleep(1000);
}

static bool all_gone(struct km_link_server *s)
{
	return !s->all;
}

static bool loop_empty(struct km_link_server *s)
{
	return !uv_loop_alive(&s->loop);
}

/* On a loop of ours libwebsockets is destroyed in two calls, between which the loop runs until its
 * handles are closed. It closes its event pipe twice, though, and by the second time the number may
 * belong to a file of another thread: so this thread, which ends here, first takes a descriptor
 * table of its own, and the pipe of the process is closed after it. */
static void tear_down(struct km_link_server *s)
{
	struct km_conn *conn, *tmp;

	if (s->own_handles) {
		no_more((uv_handle_t *)&s->wake);
		no_more((uv_handle_t *)&s->tick);
		no_more((uv_handle_t *)&s->rest);
		no_more((uv_handle_t *)&s->accept);
	}
	DL_FOREACH_SAFE (s->all, conn, tmp)
		km_conn_kill_soon(conn);
	run_until(s, all_gone);
	if (!s->ctx)
		return;
	if (unshare(CLONE_FILES)) {
		km_debug("the link's event pipe is closed twice", km_ks("why", strerror(errno)));
		s->pipe_fd = -1;
	}
	km_lws_destroy(s->ctx);
	run_until(s, loop_empty);
}

void *km_server_thread(void *arg)
{
	struct km_link_server *s = arg;

	while (!s->stopping_done)
		uv_run(&s->loop, UV_RUN_DEFAULT);
	tear_down(s);
	s->torn_down = true;
	return NULL;
}

static void *only_tear_down(void *arg)
{
	tear_down(arg);
	return NULL;
}

void km_server_thread_dispose(struct km_link_server *s)
{
	pthread_t thread;

	if (!s->loop.data)
		return;
	if (!s->torn_down && pthread_create(&thread, NULL, only_tear_down, s) == 0)
		pthread_join(thread, NULL);
	if (s->pipe_fd >= 0)
		close(s->pipe_fd);
	km_lws_destroy(s->ctx);
	SSL_CTX_free(s->client_tls);
	uv_loop_close(&s->loop);
}
