/* SPDX-License-Identifier: MIT */
/* The link thread of the server. libwebsockets runs on a libuv loop of ours: on one of its own it
 * would take over SIGINT and SIGTERM for the whole process. We also accept ourselves and hand over
 * the sockets, so that the bounds hold before a byte is read. */
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
#define CLOSE_MS 2000  /* for what was sent to go out, and the close frame */
#define STOP_MS 1000   /* the same when all are closed */
#define REST_MS 100    /* without accepting when there is no descriptor */
#define ACCEPTS 64     /* per turn */
#define REPLIES_MAX 32 /* invalid messages in a row */
#define MANY_FILES 262144

/* --- events --- */

static struct km_server_event *event_make(struct km_conn *conn, enum km_server_event_kind kind)
{
	struct km_server_event *e = km_xcalloc(1, sizeof(*e));

	e->kind = kind;
	e->conn = conn;
	e->q.bytes = sizeof(*e);
	atomic_fetch_add(&conn->refs, 1);
	return e;
}

static void stop_reading_when_behind(struct km_conn *conn)
{
	if (conn->rx_stopped || !km_outbox_behind(&conn->s->out))
		return;
	conn->rx_stopped = true;
	conn->s->n_rx_stopped++;
	lws_rx_flow_control(conn->wsi, 0);
}

static void read_again(struct km_link_server *s)
{
	struct km_conn *conn;

	if (!s->n_rx_stopped)
		return;
	DL_FOREACH (s->all, conn) {
		if (!conn->rx_stopped)
			continue;
		conn->rx_stopped = false;
		s->n_rx_stopped--;
		if (!conn->dead)
			lws_rx_flow_control(conn->wsi, 1);
	}
}

static void tell_closed(struct km_conn *conn)
{
	if (!conn->opened || conn->closed_told)
		return;
	conn->closed_told = true;
	struct km_server_event *e = event_make(conn, SERVER_CLOSED);
	e->why = km_xstrdup(conn->why[0] ? conn->why : "the connection was lost");
	km_outbox_post(&conn->s->out, &e->q);
}

/* --- the end of a connection --- */

static void start_ticking(struct km_link_server *s);

static void leave_unauthenticated(struct km_conn *conn)
{
	struct km_link_server *s = conn->s;

	if (!conn->unauthenticated)
		return;
	conn->unauthenticated = false;
	s->n_unauthenticated--;
	DL_DELETE2(s->unauthenticated, conn, u_prev, u_next);
}

static void set_why(struct km_conn *conn, const char *why)
{
	if (!conn->why[0])
		snprintf(conn->why, sizeof(conn->why), "%s", why);
}

static void begin_close(struct km_conn *conn, unsigned status, const char *why)
{
	struct km_link_server *s = conn->s;

	if (conn->close_status)
		return;
	set_why(conn, why);
	conn->close_status = status;
	conn->deadline_ms = km_now_ms() + (s->stopping ? STOP_MS : CLOSE_MS);
	leave_unauthenticated(conn);
	DL_APPEND2(s->closing, conn, c_prev, c_next);
	start_ticking(s);
}

/* From within a callback of this connection: returns what the callback must return. */
static int refuse(struct km_conn *conn, unsigned status, const char *why)
{
	begin_close(conn, status, why);
	conn->close_sent = true;
	km_lws_close_reason(conn->wsi, status, why);
	return -1;
}

/* At the loop's next turn, and without regard for what waits (LWS_TO_KILL_SYNC would wait for what
 * libwebsockets has in its own buffer). */
static void kill_soon(struct km_conn *conn)
{
	if (!conn->wsi || conn->dead)
		return;
	lws_set_timeout(conn->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
	lws_cancel_service(conn->s->ctx);
}

/* From outside its callbacks: after what waits has gone out. */
static void close_soon(struct km_conn *conn, unsigned status, const char *why)
{
	begin_close(conn, status, why);
	if (!conn->opened)
		kill_soon(conn);
	else if (conn->wsi && !conn->dead)
		lws_callback_on_writable(conn->wsi);
}

/* Sends the close frame. The writable callback cannot do it by returning -1: Debian's libwebsockets
 * is built with _DEBUG, in which it then closes twice on libuv, the second time without ado. */
static void close_drained(struct km_link_server *s)
{
	struct km_conn *conn, *tmp;

	DL_FOREACH_SAFE2(s->closing, conn, tmp, c_next)
	{
		if (!conn->drained || conn->dead)
			continue;
		conn->drained = false;
		conn->close_sent = true;
		km_lws_close_reason(conn->wsi, conn->close_status, conn->why);
		lws_set_timeout(conn->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
	}
}

/* The last that libwebsockets says of a connection. */
static void on_gone(struct km_conn *conn)
{
	struct km_link_server *s = conn->s;

	tell_closed(conn);
	leave_unauthenticated(conn);
	if (conn->close_status)
		DL_DELETE2(s->closing, conn, c_prev, c_next);
	if (conn->rx_stopped)
		s->n_rx_stopped--;
	DL_DELETE(s->all, conn);
	s->n_all--;
	conn->wsi = NULL;
	km_conn_unref(conn);
}

/* --- writing --- */

static void frame_out(struct km_conn *conn, size_t bytes)
{
	if (!bytes)
		return;
	if (bytes > KM_SERVER_BACKLOG_MAX)
		atomic_store(&conn->huge, false);
	else
		atomic_fetch_sub(&conn->queued, bytes);
}

static int on_writable(struct km_conn *conn)
{
	bool failed = false;

	if (conn->close_sent)
		return 0;
	if (conn->close_status && !conn->tx.head) {
		conn->drained = true;
		uv_async_send(&conn->s->wake);
		return 0;
	}
	/* Before the write: the answer to it may be with the main loop when it returns. */
	if (conn->tx.head && conn->tx.head->len - conn->tx.head->sent <= KM_FRAGMENT) {
		frame_out(conn, conn->tx.head->credit);
		conn->tx.head->credit = 0;
	}
	free(km_tx_write(&conn->tx, conn->wsi, &failed));
	if (conn->close_status)
		lws_callback_on_writable(conn->wsi);
	return failed ? -1 : 0;
}

/* --- reading --- */

static int reply_invalid(struct km_conn *conn, const char *why)
{
	struct km_link_server *s = conn->s;
	struct km_frame *f = NULL;
	char peer[KM_ADDR_STRLEN];
	uint32_t held = 0;
	size_t total;

	if (km_log_allow(&s->invalid, km_now_ms(), 20, 1000, &held))
		km_info("invalid message on the link", km_ki("connection", conn->id),
			km_ks("type", conn->type), km_ks("peer", km_addr_str(&conn->peer, peer)),
			km_ks("error", why), km_ki("held_back", held));
	if (++conn->replies > REPLIES_MAX)
		return refuse(conn, LWS_CLOSE_STATUS_POLICY_VIOLATION, "too many invalid messages");
	json_t *data = json_pack("{s:s, s:s}", "code", "INVALID_MESSAGE", "message", why);
	if (data && km_envelope_format(&f, &total, "error", data, KM_LINK_TO_CLIENT_MAX) == 0) {
		km_tx_add(&conn->tx, f);
		lws_callback_on_writable(conn->wsi);
	}
	json_decref(data);
	return 0;
}

static int on_whole_text(struct km_conn *conn)
{
	struct km_envelope env;
	struct km_errtext err;
	size_t bytes = conn->rx.len;
	int r = KM_EPROTO;

	if (conn->rx_binary)
		km_errtext_set(&err, r, "a binary message; only text is understood");
	else
		r = km_envelope_parse(&env, km_buf_head(&conn->rx), conn->rx.len, &err);
	km_buf_free(&conn->rx);
	if (r == 0 && env.part) {
		json_decref(env.data);
		r = km_errtext_set(&err, KM_EPROTO, "part: only control sends messages in parts");
	}
	if (r)
		return reply_invalid(conn, err.text);
	conn->replies = 0;
	struct km_server_event *e = event_make(conn, SERVER_MESSAGE);
	memcpy(e->type, env.type, sizeof(e->type));
	e->data = env.data;
	e->q.bytes += bytes;
	km_outbox_post(&conn->s->out, &e->q);
	stop_reading_when_behind(conn);
	return 0;
}

static int on_receive(struct km_conn *conn, const void *in, size_t len)
{
	struct lws *wsi = conn->wsi;

	if (conn->close_status)
		return 0;
	if (lws_is_first_fragment(wsi)) {
		km_buf_clear(&conn->rx);
		conn->rx_binary = lws_frame_is_binary(wsi);
	}
	if (conn->rx.len + len + lws_remaining_packet_payload(wsi) > KM_LINK_TO_CONTROL_MAX ||
	    km_buf_add(&conn->rx, in, len))
		return refuse(conn, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE,
			      "a message of more than 64 KiB");
	return lws_is_final_fragment(wsi) ? on_whole_text(conn) : 0;
}

/* --- the upgrade --- */

/* lws_return_http_status would say HTTP/1.0 here, which not every client takes for HTTP. */
static int answer(struct lws *wsi, unsigned status, const char *phrase, const char *text)
{
	char buf[LWS_PRE + 512];
	int n = snprintf(buf + LWS_PRE, sizeof(buf) - LWS_PRE,
			 "HTTP/1.1 %u %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
			 "Connection: close\r\n\r\n%s\n",
			 status, phrase, strlen(text) + 1, text);

	lws_write(wsi, (unsigned char *)buf + LWS_PRE, (size_t)n, LWS_WRITE_HTTP);
	return -1;
}

static int on_plain_http(struct lws *wsi)
{
	char path[8] = "";

	if (lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) > 0 &&
	    strcmp(path, "/ws") == 0)
		return answer(wsi, 400, "Bad Request", "A WebSocket is expected here.");
	return answer(wsi, 404, "Not Found", "Not Found");
}

static int on_upgrade(struct km_conn *conn, struct lws *wsi)
{
	char path[8] = "", arg[64], up[16] = "";
	const char *type;

	if (lws_hdr_copy(wsi, up, sizeof(up), WSI_TOKEN_UPGRADE) <= 0 ||
	    strcasecmp(up, "websocket"))
		return -1;
	if (lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) <= 0 ||
	    strcmp(path, "/ws") != 0)
		return answer(wsi, 404, "Not Found", "Not Found");
	type = lws_get_urlarg_by_name(wsi, "type=", arg, sizeof(arg));
	if (!type || (strcmp(type, "agent") != 0 && strcmp(type, "gateway") != 0))
		return answer(wsi, 400, "Bad Request", "type must be agent or gateway.");
	snprintf(conn->type, sizeof(conn->type), "%s", type);
	return 0;
}

static int on_established(struct km_conn *conn)
{
	if (conn->close_status || !conn->type[0])
		return -1;
	conn->opened = true;
	km_buf_init(&conn->rx, KM_LINK_TO_CONTROL_MAX);
	km_outbox_post(&conn->s->out, &event_make(conn, SERVER_OPEN)->q);
	stop_reading_when_behind(conn);
	return 0;
}

static void on_peer_close(struct km_conn *conn, const void *in, size_t len)
{
	char text[128], why[160];

	km_lws_close_text(text, sizeof(text), in, len);
	snprintf(why, sizeof(why), "closed by the client: %s", text);
	set_why(conn, why);
}

static int install(SSL_CTX *ctx, const struct km_server_tls *t)
{
	return SSL_CTX_use_cert_and_key(ctx, t->cert, t->key, t->chain, 1) == 1 ? 0 : -1;
}

static int on_tls_context(struct km_link_server *s, SSL_CTX *ctx)
{
	s->tls = ctx;
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return install(ctx, s->first);
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
		  size_t len)
{
	struct km_link_server *s = lws_context_user(lws_get_context(wsi));
	struct km_conn *conn;

	/* These come with a wsi that stands for none. */
	switch (reason) {
	case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
		return on_tls_context(s, user);
	case LWS_CALLBACK_WSI_CREATE:
		s->wsi_made = true;
		return 0;
	case LWS_CALLBACK_SERVER_NEW_CLIENT_INSTANTIATED:
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
	case LWS_CALLBACK_HTTP:
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_RECEIVE:
	case LWS_CALLBACK_SERVER_WRITEABLE:
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
	case LWS_CALLBACK_CLOSED:
	case LWS_CALLBACK_WSI_DESTROY:
		conn = lws_get_opaque_user_data(wsi);
		break;
	default:
		return 0;
	}
	if (!conn)
		return reason == LWS_CALLBACK_WSI_DESTROY ? 0 : -1;
	conn->wsi = wsi;
	switch (reason) {
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		return on_upgrade(conn, wsi);
	case LWS_CALLBACK_HTTP:
		return on_plain_http(wsi);
	case LWS_CALLBACK_ESTABLISHED:
		return on_established(conn);
	case LWS_CALLBACK_RECEIVE:
		return on_receive(conn, in, len);
	case LWS_CALLBACK_SERVER_WRITEABLE:
		return conn->opened ? on_writable(conn) : 0;
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		on_peer_close(conn, in, len);
		return 0;
	case LWS_CALLBACK_CLOSED:
		conn->dead = true;
		tell_closed(conn);
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		lws_set_opaque_user_data(wsi, NULL);
		on_gone(conn);
		return 0;
	default:
		return 0;
	}
}

static const struct lws_protocols protocols[] = {
    {.name = "kakuremichi", .callback = on_lws, .rx_buffer_size = 4096},
    {0},
};

/* --- accepting --- */

static void log_refused(struct km_link_server *s, const char *why)
{
	uint32_t held = 0;

	if (km_log_allow(&s->refused, km_now_ms(), 5, 10000, &held))
		km_warn("link connection refused", km_ks("why", why), km_ki("held_back", held));
}

static void adopt(struct km_link_server *s, int fd, const struct sockaddr *sa)
{
	struct km_conn *conn = NULL;

	if (s->n_all >= s->max_connections)
		log_refused(s, "max_connections reached");
	else if (s->n_unauthenticated >= s->max_unauthenticated)
		log_refused(s, "too many that have not authenticated");
	else
		conn = calloc(1, sizeof(*conn));
	if (!conn || km_addr_from_sa(&conn->peer, NULL, sa)) {
		free(conn);
		close(fd);
		return;
	}
	conn->refs = 1;
	conn->s = s;
	conn->id = s->next_id++;
	conn->unauthenticated = true;
	conn->deadline_ms = km_now_ms() + s->auth_timeout_ms;
	DL_APPEND(s->all, conn);
	DL_APPEND2(s->unauthenticated, conn, u_prev, u_next);
	s->n_all++;
	s->n_unauthenticated++;
	start_ticking(s);

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
		on_gone(conn);
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
			log_refused(s, strerror(errno));
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
		close_soon(conn, LWS_CLOSE_STATUS_POLICY_VIOLATION, "not authenticated in time");
	DL_FOREACH_SAFE2(s->closing, conn, tmp, c_next)
	{
		if (conn->deadline_ms > now)
			continue;
		conn->deadline_ms = INT64_MAX;
		kill_soon(conn);
	}
	if (s->stopping && (!s->all || now >= s->stop_ms)) {
		s->stopping_done = true;
		uv_stop(&s->loop);
	} else if (!s->stopping && !s->unauthenticated && !s->closing) {
		s->ticking = false;
		uv_timer_stop(&s->tick);
	}
}

static void start_ticking(struct km_link_server *s)
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
	s->stop_ms = km_now_ms() + STOP_MS + TICK_MS;
	uv_poll_stop(&s->accept);
	DL_FOREACH_SAFE (s->all, conn, tmp)
		close_soon(conn, LWS_CLOSE_STATUS_GOINGAWAY, "control is stopping");
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
		frame_out(conn, last->credit);
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
		leave_unauthenticated(conn);
		break;
	case SERVER_CLOSE:
		if (conn->wsi && !conn->dead)
			close_soon(conn, LWS_CLOSE_STATUS_POLICY_VIOLATION, cmd->why);
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
	close_drained(s);
	if (km_outbox_flush(&s->out))
		read_again(s);
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
	    .protocols = protocols,
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
		kill_soon(conn);
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
