/* SPDX-License-Identifier: MIT */
/* What the two halves of the client share: client.c runs on the caller's main loop, client_lws.c on
 * the link thread. Every attempt has a number (gen), which commands and events carry, so that what
 * belongs to an earlier connection is dropped wherever it is met. */
#ifndef KM_LINK_CLIENT_PRIV_H
#define KM_LINK_CLIENT_PRIV_H

#include "libkm/link/client.h"
#include "libkm/link/lws.h"
#include "libkm/link/pin.h"
#include "libkm/link/queue.h"
#include "libkm/link/resolve.h"
#include "libkm/link/url.h"
#include <openssl/ssl.h>
#include <pthread.h>

enum km_client_cmd_kind { CLIENT_SEND, CLIENT_RECONNECT, CLIENT_SETTLED, CLIENT_STOP };
struct km_client_cmd {
	struct km_qitem q;
	enum km_client_cmd_kind kind;
	uint64_t gen;
	struct km_frame *frame;
	char why[192];
};

enum km_client_event_kind { CLIENT_OPEN, CLIENT_MESSAGE, CLIENT_CLOSED };
struct km_client_event {
	struct km_qitem q;
	enum km_client_event_kind kind;
	uint64_t gen;
	const char *url; /* of the client's table */
	char type[KM_LINK_TYPE_MAX + 1];
	json_t *data;
	char *why;
	int64_t wait_ms;
};

enum km_client_state { ST_WAITING, ST_RESOLVING, ST_TRYING, ST_OPEN };

struct km_link_client {
	/* set at start */
	struct km_link_url *urls;
	size_t n_urls;
	char path[64];
	uint8_t pin[KM_PIN_LEN];
	int64_t min_ms, max_ms;
	SSL_CTX *tls;
	struct lws_context *ctx;

	/* main loop */
	struct event *ev;
	struct km_link_client_cbs cbs;
	void *arg;
	uint64_t open_gen; /* 0: down */
	pthread_t thread;

	/* shared */
	struct km_cmdq cmds;
	struct km_outbox out;
	_Atomic size_t unsent; /* messages from km_link_client_send to the socket */
	_Atomic bool resolved;

	/* link thread */
	enum km_client_state state;
	uint64_t gen;    /* of the attempt or connection, or of the next one */
	size_t url;      /* index of the current URL */
	unsigned failed; /* attempts since it was settled */
	struct km_resolve *resolve;
	struct km_addr addrs[KM_RESOLVE_MAX];
	size_t n_addrs, next_addr;
	struct lws *wsi; /* of the address being tried, or the connection */
	bool try_over;   /* that one failed; looked at outside of libwebsockets */
	bool stopping, stopped;
	unsigned close_status; /* 0: not closing */
	bool close_sent;       /* libwebsockets has the close frame */
	struct km_errtext why;
	struct km_tx tx;
	struct km_buf rx;
	bool rx_binary, rx_stopped;
	struct km_joiner join;
	lws_sorted_usec_list_t timer; /* the next attempt, the end of a try, or of closing */
};

void km_client_event_free(struct km_qitem *q);
void km_client_cmd_free(struct km_qitem *q);

/* Makes the context, not yet the thread. KM_EIO, KM_ENOMEM. */
int km_client_thread_prepare(struct km_link_client *c, struct km_errtext *err)
    __attribute__((warn_unused_result));
void *km_client_thread(void *arg);

#endif
