/* SPDX-License-Identifier: MIT */
/* The link thread of the client, which holds the libwebsockets context. */
#include "libkm/base/util.h"
#include "libkm/link/client_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY_SECONDS 10 /* per address, from connect to open */
#define CLOSE_MS 1000  /* for the close frame to go out and be answered */

static struct km_client_event *event_make(struct km_link_client *c, enum km_client_event_kind kind)
{
	struct km_client_event *e = km_xcalloc(1, sizeof(*e));

	e->kind = kind;
	e->gen = c->gen;
	e->url = c->urls[c->url].text;
	e->q.bytes = sizeof(*e);
	return e;
}

/* --- reading --- */

static void set_timer(struct km_link_client *c, int64_t ms);

static void fail(struct km_link_client *c, const char *why)
{
	if (!c->why.text[0])
		km_errtext_set(&c->why, 0, "%s", why);
}

static int refuse(struct km_link_client *c, unsigned status, const char *why)
{
	fail(c, why);
	c->close_status = status;
	c->close_sent = true;
	km_lws_close_reason(c->wsi, status, why);
	set_timer(c, CLOSE_MS);
	return -1;
}

static void stop_reading_when_behind(struct km_link_client *c)
{
	if (!c->rx_stopped && km_outbox_behind(&c->out)) {
		c->rx_stopped = true;
		lws_rx_flow_control(c->wsi, 0);
	}
}

static int on_whole_text(struct km_link_client *c)
{
	struct km_envelope env;
	struct km_errtext err;
	size_t bytes = c->rx.len + c->join.text.len;
	int r;

	if (c->rx_binary)
		return refuse(c, LWS_CLOSE_STATUS_UNACCEPTABLE_OPCODE,
			      "control sent a binary message");
	r = km_envelope_parse(&env, km_buf_head(&c->rx), c->rx.len, &err);
	km_buf_clear(&c->rx);
	if (c->rx.cap > 65536)
		km_buf_free(&c->rx);
	if (r == 0)
		r = km_joiner_feed(&c->join, &env, &err);
	if (r < 0)
		return refuse(c, LWS_CLOSE_STATUS_POLICY_VIOLATION, err.text);
	if (r == 1) {
		struct km_client_event *e = event_make(c, CLIENT_MESSAGE);
		memcpy(e->type, env.type, sizeof(e->type));
		e->data = env.data;
		e->q.bytes += bytes;
		km_outbox_post(&c->out, &e->q);
		stop_reading_when_behind(c);
	}
	return 0;
}

static int on_receive(struct km_link_client *c, struct lws *wsi, const void *in, size_t len)
{
	if (c->close_status)
		return 0;
	if (lws_is_first_fragment(wsi)) {
		km_buf_clear(&c->rx);
		c->rx_binary = lws_frame_is_binary(wsi);
	}
	if (c->rx.len + len + lws_remaining_packet_payload(wsi) > KM_LINK_TO_CLIENT_MAX ||
	    km_buf_add(&c->rx, in, len))
		return refuse(c, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE,
			      "control sent a message of more than 1 MiB");
	return lws_is_final_fragment(wsi) ? on_whole_text(c) : 0;
}

/* --- writing --- */

static void frame_done(struct km_link_client *c, struct km_frame *f)
{
	atomic_fetch_sub(&c->unsent, 1);
	free(f);
}

static void drop_unsent(struct km_link_client *c)
{
	for (struct km_frame *f; (f = c->tx.head);) {
		c->tx.head = f->next;
		frame_done(c, f);
	}
}

static int on_writable(struct km_link_client *c, struct lws *wsi)
{
	bool failed = false;

	if (c->close_sent)
		return 0;
	/* A close waits for the frame that is half out, but not for those behind it. */
	if (c->close_status && !(c->tx.head && c->tx.head->sent)) {
		c->close_sent = true;
		km_lws_close_reason(wsi, c->close_status, c->why.text);
		return -1;
	}
	struct km_frame *f = km_tx_write(&c->tx, wsi, &failed);
	if (f)
		frame_done(c, f);
	if (c->close_status)
		lws_callback_on_writable(wsi);
	return failed ? -1 : 0;
}

/* --- attempts, in the order in which things happen --- */

static void on_timer(lws_sorted_usec_list_t *sul);

static void set_timer(struct km_link_client *c, int64_t ms)
{
	lws_sul_schedule(c->ctx, 0, &c->timer, on_timer, (lws_usec_t)ms * 1000);
}

static void clear_timer(struct km_link_client *c)
{
	lws_sul_cancel(&c->timer);
}

/* The attempt or the connection is over: reports it and waits for the next. */
static void attempt_over(struct km_link_client *c)
{
	struct km_client_event *e = event_make(c, CLIENT_CLOSED);
	int64_t most = c->min_ms;

	for (unsigned i = 0; i < c->failed && most < c->max_ms; i++)
		most *= 2;
	if (most > c->max_ms)
		most = c->max_ms;
	if (c->failed < 64)
		c->failed++;
	int64_t wait_ms = e->wait_ms = 1 + km_random_below((uint32_t)most);
	e->why = km_xstrdup(c->why.text[0] ? c->why.text : "the connection was lost");
	e->q.bytes += sizeof(c->why);
	km_outbox_post(&c->out, &e->q);

	c->wsi = NULL;
	c->try_over = false;
	c->close_status = 0;
	c->close_sent = false;
	c->rx_stopped = false;
	c->why.text[0] = '\0';
	drop_unsent(c);
	km_buf_free(&c->rx);
	km_joiner_clear(&c->join);
	km_resolve_free(c->resolve);
	c->resolve = NULL;
	c->gen++;
	c->url = (c->url + 1) % c->n_urls;
	c->state = ST_WAITING;
	if (c->stopping)
		c->stopped = true;
	else
		set_timer(c, wait_ms);
}

static void try_next_address(struct km_link_client *c)
{
	const struct km_link_url *u = &c->urls[c->url];
	char ip[KM_ADDR_STRLEN], host[272];

	c->state = ST_TRYING;
	while (!c->wsi && c->next_addr < c->n_addrs) {
		const struct km_addr *a = &c->addrs[c->next_addr++];

		/* SNI names hosts only (RFC 6066 section 3), and it is made from host. */
		snprintf(host, sizeof(host), "%s:%u", u->hp.is_addr ? "control" : u->hp.host,
			 u->hp.port);
		struct lws_client_connect_info i = {
		    .context = c->ctx,
		    .address = km_addr_str(a, ip),
		    .port = u->hp.port,
		    .ssl_connection =
			LCCSCF_HTTP_NO_FOLLOW_REDIRECT |
			(u->tls ? LCCSCF_USE_SSL | LCCSCF_SKIP_SERVER_CERT_HOSTNAME_CHECK : 0),
		    .path = c->path,
		    .host = host,
		    .alpn = "http/1.1",
		    .ietf_version_or_minus_one = -1,
		    .local_protocol_name = "kakuremichi",
		    .retry_and_idle_policy = &km_lws_retry,
		    .pwsi = &c->wsi,
		};
		c->try_over = false;
		c->why.text[0] = '\0'; /* the last address tells why */
		if (!lws_client_connect_via_info(&i)) {
			c->wsi = NULL;
			if (!c->why.text[0])
				km_errtext_set(&c->why, 0, "cannot connect to %s port %u", ip,
					       u->hp.port);
		}
	}
	if (c->wsi)
		set_timer(c, TRY_SECONDS * 1000);
	else
		attempt_over(c);
}

static void on_resolved(void *arg)
{
	struct km_link_client *c = arg;

	atomic_store(&c->resolved, true);
	lws_cancel_service(c->ctx);
}

static void start_attempt(struct km_link_client *c)
{
	const struct km_link_url *u = &c->urls[c->url];
	int r;

	clear_timer(c);
	c->next_addr = c->n_addrs = 0;
	if (u->hp.is_addr) {
		c->addrs[0] = u->hp.addr;
		c->n_addrs = 1;
		try_next_address(c);
		return;
	}
	c->state = ST_RESOLVING;
	atomic_store(&c->resolved, false);
	r = km_resolve_start(&c->resolve, u->hp.host, on_resolved, c);
	if (r) {
		km_errtext_set(&c->why, r, "cannot resolve %s: %s", u->hp.host, km_strerror(r));
		attempt_over(c);
	}
}

static void take_resolved(struct km_link_client *c)
{
	if (c->state != ST_RESOLVING || !atomic_load(&c->resolved))
		return;
	c->n_addrs = km_resolve_result(c->resolve, c->addrs, &c->why);
	km_resolve_free(c->resolve);
	c->resolve = NULL;
	try_next_address(c);
}

static int on_verify(X509_STORE_CTX *vc, void *arg)
{
	struct km_link_client *c = arg;
	int r = km_pin_verify(c->pin, X509_STORE_CTX_get0_cert(vc),
			      X509_STORE_CTX_get0_untrusted(vc), &c->why);

	X509_STORE_CTX_set_error(vc, r == 0 ? X509_V_OK : X509_V_ERR_CERT_UNTRUSTED);
	return r == 0;
}

static int on_open(struct km_link_client *c)
{
	clear_timer(c);
	c->state = ST_OPEN;
	c->why.text[0] = '\0';
	km_buf_init(&c->rx, KM_LINK_TO_CLIENT_MAX);
	km_outbox_post(&c->out, &event_make(c, CLIENT_OPEN)->q);
	stop_reading_when_behind(c);
	return 0;
}

static void on_try_failed(struct km_link_client *c, struct lws *wsi, const char *in, size_t len)
{
	const struct km_link_url *u = &c->urls[c->url];
	unsigned http = lws_http_client_http_response(wsi);
	char ip[KM_ADDR_STRLEN];

	c->try_over = true;
	if (!c->next_addr)
		return;
	km_addr_str(&c->addrs[c->next_addr - 1], ip);
	if (c->why.text[0])
		return; /* the certificate check has said it better */
	if (http && http != 101)
		km_errtext_set(&c->why, 0, "%s port %u answered with HTTP status %u", ip,
			       u->hp.port, http);
	else
		km_errtext_set(&c->why, 0, "cannot connect to %s port %u: %.*s", ip, u->hp.port,
			       (int)(in ? len : 0), in ? in : "");
}

/* Asks libwebsockets to send a close frame; the timer ends it when that does not happen. */
static void close_link(struct km_link_client *c, unsigned status, const char *why)
{
	if (c->close_status)
		return;
	c->close_status = status;
	fail(c, why);
	lws_callback_on_writable(c->wsi);
	set_timer(c, CLOSE_MS);
}

/* Lets go of what there is; libwebsockets ends it at its next turn. */
static void kill_now(struct km_link_client *c)
{
	if (c->wsi)
		lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
	c->try_over = true;
}

static void on_timer(lws_sorted_usec_list_t *sul)
{
	struct km_link_client *c = lws_container_of(sul, struct km_link_client, timer);

	switch (c->state) {
	case ST_WAITING:
		start_attempt(c);
		break;
	case ST_RESOLVING:
		break;
	case ST_TRYING:
		fail(c, "no answer within 10 s");
		kill_now(c);
		break;
	case ST_OPEN:
		kill_now(c);
		break;
	}
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
		  size_t len)
{
	struct km_link_client *c = lws_context_user(lws_get_context(wsi));
	char text[160];

	(void)user;
	switch (reason) {
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		if (wsi == c->wsi)
			on_try_failed(c, wsi, in, len);
		break;
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		return wsi == c->wsi ? on_open(c) : -1;
	case LWS_CALLBACK_CLIENT_RECEIVE:
		return wsi == c->wsi ? on_receive(c, wsi, in, len) : -1;
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		return wsi == c->wsi && c->state == ST_OPEN ? on_writable(c, wsi) : 0;
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		if (wsi == c->wsi && !c->why.text[0]) {
			km_lws_close_text(text, sizeof(text), in, len);
			km_errtext_set(&c->why, 0, "closed by control: %s", text);
		}
		break;
	case LWS_CALLBACK_CLIENT_CLOSED:
		if (wsi == c->wsi)
			c->try_over = true;
		break;
	default:
		break;
	}
	return 0;
}

static const struct lws_protocols protocols[] = {
    {.name = "kakuremichi", .callback = on_lws, .rx_buffer_size = 32768},
    {0},
};

/* --- commands and the loop --- */

static void run_command(struct km_link_client *c, struct km_client_cmd *cmd)
{
	bool live = c->state == ST_OPEN && !c->try_over && !c->close_status;

	switch (cmd->kind) {
	case CLIENT_SEND:
		if (live && cmd->gen == c->gen) {
			km_tx_add(&c->tx, cmd->frame);
			lws_callback_on_writable(c->wsi);
		} else {
			frame_done(c, cmd->frame);
		}
		cmd->frame = NULL;
		break;
	case CLIENT_RECONNECT:
		if (live && cmd->gen == c->gen)
			close_link(c, LWS_CLOSE_STATUS_NORMAL, cmd->why);
		break;
	case CLIENT_SETTLED:
		if (cmd->gen == c->gen)
			c->failed = 0;
		break;
	case CLIENT_STOP:
		c->stopping = true;
		if (live)
			close_link(c, LWS_CLOSE_STATUS_GOINGAWAY, "stopping");
		else if (!c->close_status)
			c->stopped = true;
		break;
	}
}

static void after_service(struct km_link_client *c)
{
	struct km_qitem *next;

	if (c->try_over) {
		c->wsi = NULL;
		c->try_over = false;
		if (c->state == ST_TRYING && !c->stopping && c->next_addr < c->n_addrs) {
			c->why.text[0] = '\0';
			try_next_address(c);
		} else {
			clear_timer(c);
			attempt_over(c);
		}
	}
	take_resolved(c);
	for (struct km_qitem *q = km_cmdq_steal(&c->cmds); q; q = next) {
		next = q->next;
		run_command(c, (struct km_client_cmd *)q);
		km_client_cmd_free(q);
	}
	if (km_outbox_flush(&c->out) && c->rx_stopped) {
		c->rx_stopped = false;
		if (c->wsi && c->state == ST_OPEN)
			lws_rx_flow_control(c->wsi, 1);
	}
}

void *km_client_thread(void *arg)
{
	struct km_link_client *c = arg;

	start_attempt(c);
	while (!c->stopped) {
		after_service(c);
		if (!c->stopped && !c->try_over)
			lws_service(c->ctx, 0);
	}
	return NULL;
}

int km_client_thread_prepare(struct km_link_client *c, struct km_errtext *err)
{
	c->tls = SSL_CTX_new(TLS_client_method());
	if (!c->tls)
		return KM_ENOMEM;
	SSL_CTX_set_min_proto_version(c->tls, TLS1_2_VERSION);
	SSL_CTX_set_session_cache_mode(c->tls, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_cert_verify_callback(c->tls, on_verify, c);

	struct lws_context_creation_info info = {
	    .port = CONTEXT_PORT_NO_LISTEN,
	    .protocols = protocols,
	    .options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_DISABLE_OS_CA_CERTS,
	    .gid = (gid_t)-1,
	    .uid = (uid_t)-1,
	    .user = c,
	    .pt_serv_buf_size = 32768,
	    .fd_limit_per_thread = 8, /* else one entry per descriptor that the process may have */
	    .max_http_header_pool = 4,
	    .timeout_secs = TRY_SECONDS,
	    .connect_timeout_secs = TRY_SECONDS,
	    .provided_client_ssl_ctx = c->tls,
	    .retry_and_idle_policy = &km_lws_retry,
	};
	c->ctx = km_lws_create(&info);
	return c->ctx ? 0 : km_errtext_set(err, KM_EIO, "libwebsockets cannot start");
}
