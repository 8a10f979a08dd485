/* SPDX-License-Identifier: MIT */
/* What the two halves of the server share: server.c runs on the caller's main loop, server_lws.c
 * and server_conn.c on the link thread. A connection is counted by both and freed by the last. */
#ifndef KM_LINK_SERVER_PRIV_H
#define KM_LINK_SERVER_PRIV_H

#include "libkm/base/buf.h"
#include "libkm/base/log.h"
#include "libkm/link/lws.h"
#include "libkm/link/queue.h"
#include "libkm/link/server.h"
#include <pthread.h>
#include <uthash.h>
#include <uv.h>

#define KM_SERVER_STOP_MS 1000 /* for close frames to go out and be answered at the end */
#define KM_SERVER_BACKLOG_MAX                                                                      \
	(16u << 20) /* bytes of ordinary messages that wait for one client                         \
		     */

struct km_conn {
	_Atomic unsigned refs;
	_Atomic size_t queued; /* bytes that wait, without those of the huge message */
	_Atomic bool huge;     /* one message over KM_SERVER_BACKLOG_MAX waits */

	/* link thread, but read by the main loop once it got the open event */
	uint64_t id;
	char type[16];
	struct km_addr peer;

	/* link thread */
	struct km_link_server *s;
	struct lws *wsi;
	struct km_conn *prev, *next;     /* all */
	struct km_conn *u_prev, *u_next; /* not authenticated, oldest first */
	struct km_conn *c_prev, *c_next; /* closing, oldest first */
	bool unauthenticated, opened, closed_told, drained, close_sent, dead;
	int64_t deadline_ms;   /* to authenticate, or to be closed */
	unsigned close_status; /* 0: not closing */
	char why[192];
	struct km_tx tx;
	struct km_buf rx;
	bool rx_binary, rx_stopped;
	unsigned replies; /* error messages of our own since the last good message */

	/* main loop */
	UT_hash_handle hh;
	bool closing;
};
void km_conn_unref(struct km_conn *conn);

enum km_server_cmd_kind {
	SERVER_SEND,
	SERVER_AUTHENTICATED,
	SERVER_CLOSE,
	SERVER_CERTIFICATE,
	SERVER_STOP
};
struct km_server_cmd {
	struct km_qitem q;
	enum km_server_cmd_kind kind;
	struct km_conn *conn; /* a reference */
	struct km_frame *frames;
	struct km_server_tls *tls;
	char why[192];
};
void km_server_cmd_free(struct km_qitem *q);

enum km_server_event_kind { SERVER_OPEN, SERVER_MESSAGE, SERVER_CLOSED };
struct km_server_event {
	struct km_qitem q;
	enum km_server_event_kind kind;
	struct km_conn *conn; /* a reference */
	char type[KM_LINK_TYPE_MAX + 1];
	json_t *data;
	char *why;
};
void km_server_event_free(struct km_qitem *q);

/* A certificate, the rest of its chain and its key, read from PEM. */
struct km_server_tls {
	X509 *cert;
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
};
/* KM_EINVAL with a sentence, KM_ENOMEM. */
int km_server_tls_read(struct km_server_tls **out, const char *cert_pem, const char *key_pem,
		       struct km_errtext *err) __attribute__((warn_unused_result));
void km_server_tls_free(struct km_server_tls *t);

struct km_link_server {
	/* set at start */
	size_t max_connections, max_unauthenticated, max_unauthenticated_per_address;
	int64_t auth_timeout_ms;
	uint16_t port;
	int listen_fd;
	uv_loop_t loop;
	struct lws_context *ctx;
	SSL_CTX *client_tls;
	int pipe_fd; /* of libwebsockets, see server_lws.c */

	/* main loop */
	struct event *ev;
	struct km_link_server_cbs cbs;
	void *arg;
	struct km_conn *by_id;
	pthread_t thread;

	/* shared */
	struct km_cmdq cmds;
	struct km_outbox out;
	uv_async_t wake;

	/* link thread */
	SSL_CTX *tls;                /* of the vhost */
	struct km_server_tls *first; /* for the vhost's making */
	uv_poll_t accept;
	uv_timer_t tick, rest;
	bool own_handles, ticking, stopping, stopping_done, torn_down;
	int64_t stop_ms;
	uint64_t next_id;
	struct km_conn *all, *unauthenticated, *closing;
	size_t n_all, n_unauthenticated, n_rx_stopped;
	bool wsi_made;
	struct km_log_limit refused, invalid;
};

/* server_conn.c, all on the link thread. */
extern const struct lws_protocols km_server_protocols[];
/* Closes after what waits has gone out, within a time limit; not from its own callbacks. */
void km_conn_close_soon(struct km_conn *conn, unsigned status, const char *why);
/* Ends it at the loop's next turn, without regard for what waits. */
void km_conn_kill_soon(struct km_conn *conn);
/* Its time limit and bound no longer apply. */
void km_conn_authenticated(struct km_conn *conn);
/* Gives back what a message of so many bytes has taken (0: nothing). */
void km_conn_credit(struct km_conn *conn, size_t bytes);
/* The last that is heard of a connection. */
void km_conn_gone(struct km_conn *conn);
/* The close frames of those whose queue is empty; reading again after the main loop was behind. */
void km_server_close_drained(struct km_link_server *s);
void km_server_read_again(struct km_link_server *s);

/* server_lws.c */
/* Time limits are looked at from now on. */
void km_server_tick(struct km_link_server *s);
/* The vhost's SSL_CTX is there. 0, or -1 when it does not take the certificate. */
int km_server_tls_context(struct km_link_server *s, SSL_CTX *ctx);
/* Makes loop and context, not yet the thread. KM_EIO, KM_ENOMEM. */
int km_server_thread_prepare(struct km_link_server *s, struct km_errtext *err)
    __attribute__((warn_unused_result));
void *km_server_thread(void *arg);
/* After the thread has ended, or when it was never made. */
void km_server_thread_dispose(struct km_link_server *s);

#endif
