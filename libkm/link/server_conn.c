/* SPDX-License-Identifier: MIT */
/* One connection of the server on the link thread: upgrade, reading, writing, its end. */
#include "libkm/base/util.h"
#include "libkm/link/server_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define CLOSE_MS 2000  /* for what was sent to go out, and the close frame */
#define REPLIES_MAX 32 /* invalid messages in a row */

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

void km_server_read_again(struct km_link_server *s)
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

void km_conn_authenticated(struct km_conn *conn)
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
	conn->deadline_ms = km_now_ms() + (s->stopping ? KM_SERVER_STOP_MS : CLOSE_MS);
	km_conn_authenticated(conn);
	DL_APPEND2(s->closing, conn, c_prev, c_next);
	km_server_tick(s);
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
void km_conn_kill_soon(struct km_conn *conn)
{
	if (!conn->wsi || conn->dead)
		return;
	lws_set_timeout(conn->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
	lws_cancel_service(conn->s->ctx);
}

/* From outside its callbacks: after what waits has gone out. */
void km_conn_close_soon(struct km_conn *conn, unsigned status, const char *why)
{
	begin_close(conn, status, why);
	if (!conn->opened)
		km_conn_kill_soon(conn);
	else if (conn->wsi && !conn->dead)
		lws_callback_on_writable(conn->wsi);
}

/* Sends the close frame. The writable callback cannot do it by returning -1: Debian's libwebsockets
 * is built with _DEBUG, in which it then closes twice on libuv, the second time without ado. */
void km_server_close_drained(struct km_link_server *s)
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
void km_conn_gone(struct km_conn *conn)
{
	struct km_link_server *s = conn->s;

	tell_closed(conn);
	km_conn_authenticated(conn);
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

void km_conn_credit(struct km_conn *conn, size_t bytes)
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
		km_conn_credit(conn, conn->tx.head->credit);
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
	struct km_envelope env = {0};
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

/* --- what libwebsockets calls --- */

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
		  size_t len)
{
	struct km_link_server *s = lws_context_user(lws_get_context(wsi));
	struct km_conn *conn;

	/* These come with a wsi that stands for none. */
	switch (reason) {
	case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
		return km_server_tls_context(s, user);
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
		km_conn_gone(conn);
		return 0;
	default:
		return 0;
	}
}

const struct lws_protocols km_server_protocols[] = {
    {.name = "kakuremichi", .callback = on_lws, .rx_buffer_size = 4096},
    {0},
};
